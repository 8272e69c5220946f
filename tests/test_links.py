"""Links between the pages of the repository lead somewhere; the pages that list things have all of them."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripts import load

import fastmap as fm
import fastmap.torch
from fastmap.maps import CLASSES

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.glob("*.md")), *sorted((ROOT / "bench").glob("*.md"))]


def links(page: Path) -> Iterator[str]:
    """The relative links of a page, code aside."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"`[^`\n]*`", "code", text)
    return (link for link in re.findall(r"\]\(([^)\s]+)\)", text) if ":" not in link)


def anchors(page: Path) -> set[str]:
    """The anchors of its headings, as GitHub and MkDocs make them."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        found.add(re.sub(r"[^\w\- ]", "", plain).strip().replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.is_file(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


def test_the_site_has_every_page() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text()
    for page in DOCS.glob("*.md"):
        assert re.search(rf": {page.name}$", navigation, re.MULTILINE), page.name


def test_the_reference_has_every_public_name() -> None:
    page = (DOCS / "api.md").read_text()
    entries = set(re.findall(r"^::: fastmap\.(.+)$", page, re.MULTILINE))
    of_maps = {cls.__name__ for cls in CLASSES} | {"Logit", *fm.structured.__all__}
    missing = set(fm.__all__) - of_maps - entries
    assert all(f"`fm.{name}" in page for name in missing - {"__version__"}), missing
    assert {f"torch.{name}" for name in fm.torch.__all__} <= entries
    for entry in entries:
        owner, _, name = entry.rpartition(".")
        if owner in ("keras", "botorch") and importlib.util.find_spec(owner) is None:
            continue  # an environment of its own has it
        thing = getattr(importlib.import_module(f"fastmap.{owner}".rstrip(".")), name)
        assert thing.__doc__, entry
        for member, value in vars(thing).items() if isinstance(thing, type) else ():
            if not member.startswith("_") and (callable(value) or isinstance(value, property)):
                assert inspect.getdoc(getattr(thing, member)), f"{entry}.{member}"


def test_every_map_is_in_one_picture() -> None:
    families = load("docs/pictures.py").families()
    drawn = [type(m).__name__ for maps in families.values() for m in maps]
    assert sorted(drawn) == sorted(cls.__name__ for cls in CLASSES)
    for name, maps in families.items():
        text = (DOCS / "pictures" / f"{name}.svg").read_text()
        assert all(repr(m) in text for m in maps), f"run: python docs/pictures.py ({name})"


def test_pictures_show_the_maps(tmp_path: Path) -> None:
    module = load("docs/pictures.py")
    name, maps = next((n, maps) for n, maps in module.families().items() if fm.Log() in maps)
    there, back, slope, error = module.draw(name, maps).axes
    row = maps.index(fm.Log())
    for axes, function in ((there, "log"), (back, "exp"), (slope, "exp")):
        x, y = axes.lines[row].get_data()
        assert y == pytest.approx(getattr(module.np, function)(x), rel=1e-12)
    assert len(error.patches) == 2 * len(maps)
    assert all(0 < bar.get_width() < 2 for bar in error.patches)


@pytest.mark.parametrize("script", ["docs/numerics.py", "docs/frameworks.py"])
def test_tables_that_scripts_write_are_current(script: str) -> None:
    load("docs/written.py")  # for the other one
    module = load(script)
    assert module.PAGE.read_text() == module.page(), f"run: python {script}"
