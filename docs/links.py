"""A hook of MkDocs: links work on the site as they do in the repository.

Pages link to files by their place in the repository, also outside docs/ (../tests/accuracy.json). On the site
docs/ is the root, and what a page links to is there under its path in the repository: bench/RESULTS.md is a
page too.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(?<=\]\()([^)#\s:]+)(?=[)#])")


def on_files(files: Files, config: Any) -> Files:
    """Add what pages link to, and what those link to."""
    pages = [file for file in files if file.is_documentation_page()]
    while pages:
        page = pages.pop()
        for _, target in _links(page, page.content_string):
            file = files.get_file_from_path(_on_site(target))
            if file is None:
                file = File(target, str(ROOT), config.site_dir, config.use_directory_urls)
                files.append(file)
                if file.is_documentation_page():
                    pages.append(file)
            file.inclusion = InclusionLevel.INCLUDED
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Point the links of a page to where the files are on the site."""
    here = posixpath.dirname(page.file.src_uri)
    moved = {link: posixpath.relpath(_on_site(to), here or ".") for link, to in _links(page.file, markdown)}
    return LINK.sub(lambda found: moved.get(found[0], found[0]), markdown)


def _links(file: File, text: str) -> Iterator[tuple[str, str]]:
    """The relative links of a page to files that exist, and their paths in the repository."""
    place = Path(str(file.abs_src_path)).relative_to(ROOT).parent.as_posix()
    for link in LINK.findall(text):
        target = posixpath.normpath(posixpath.join(place, link))
        if (ROOT / target).is_file():
            yield link, target


def _on_site(path: str) -> str:
    """Where a file of the repository is on the site; the README's part there is the start page."""
    return "index.md" if path == "README.md" else path.removeprefix("docs/")
