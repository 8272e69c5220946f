"""Writes the table of docs/numerics.md from tests/accuracy.json; a test compares."""

from __future__ import annotations

import json

from written import DOCS, with_section

PAGE = DOCS / "numerics.md"
VALUES = ("forward", "inverse")


def table() -> str:
    """The worst error of each map over its parameter sets, by dtype, of values and of derivatives."""
    rows = json.loads((DOCS.parent / "tests" / "accuracy.json").read_text())
    worst: dict[str, dict[tuple[str, bool], float]] = {}
    for row in rows:
        cell = row["dtype"], row["op"] in VALUES
        errors = worst.setdefault(row["map"], {})
        errors[cell] = max(errors.get(cell, 0.0), row["worst_ulp"])
    lines = [
        "| map | float32 values | derivatives | float64 values | derivatives |",
        "|---|---|---|---|---|",
    ]
    for name, errors in worst.items():
        cells = [errors[dtype, value] for dtype in ("float32", "float64") for value in (True, False)]
        lines.append(f"| `{name}` | {' | '.join(f'{cell:.2f}' for cell in cells)} |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """The page with the table anew."""
    return with_section(PAGE, "numerics.py", table())


if __name__ == "__main__":
    PAGE.write_text(page())
