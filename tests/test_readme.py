"""Every Python example of the README and of these pages runs (Ray: test_ray.py)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
PAGES = ("search.md", "machines.md", "structured.md", "jax.md", "arrays.md")
EXAMPLES = [
    code
    for text in [TEXT, *((ROOT / "docs" / name).read_text() for name in PAGES)]
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    if "from ray" not in code
]


@pytest.mark.parametrize("code", EXAMPLES, ids=range(len(EXAMPLES)))
def test_example(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {"__name__": "example"})


def test_the_readme_names_every_map() -> None:
    from fastmap.maps import CLASSES

    table = TEXT[TEXT.index("| for | maps |") :]
    for cls in CLASSES:
        assert re.search(rf"`{cls.__name__}[`(]", table), cls.__name__
