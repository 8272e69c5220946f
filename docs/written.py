"""What scripts write into pages: a section between comments, which a test compares with what they find."""

from __future__ import annotations

from pathlib import Path

DOCS = Path(__file__).parent
END = "<!-- end -->\n"


def with_section(page: Path, script: str, text: str) -> str:
    """The page with the section of a script anew."""
    start = f"<!-- written by docs/{script} -->\n"
    before, _, rest = page.read_text().partition(start)
    return before + start + text + END + rest.partition(END)[2]
