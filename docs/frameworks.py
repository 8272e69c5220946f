"""Writes the tables of docs/frameworks.md from what the tests say that they prove; a test compares.

``@pytest.mark.proves("JAX", "maps", gradients="twice")`` puts "twice" into the cell of that framework,
operation and column. The sources of the tests are read, none is imported: a framework that is not installed
changes nothing.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from written import DOCS, with_section

TESTS = DOCS.parent / "tests"
PAGE = DOCS / "frameworks.md"

# In the order of the rows, and of the columns.
FRAMEWORKS = (
    "NumPy",
    "pandas, Polars, Arrow",
    "torch",
    "JAX",
    "TensorFlow",
    "Keras",
    "BoTorch",
    "others by DLPack",
    "CuPy",
)
OPERATIONS = {
    "maps": "`forward`, `inverse`",
    "derivatives": "`jacobian`",
    "pullback": "`pullback`",
    "sums": "`log_abs_det`",
    "rows": "maps of rows",
    "step": "an optimizer's step",
    "layers": "a layer's weights",
}
COLUMNS = ("gradients", "compiled", "memory", "device")
FIRST = ("twice", "once", "CPU")  # in a cell, before what else there is


class Proof(NamedTuple):
    """A claim and the test that fails where it is wrong."""

    framework: str
    operation: str
    column: str
    claim: str
    test: str


def proofs() -> list[Proof]:
    """What the tests prove, in the order of the table."""
    found = [p for path in sorted(TESTS.glob("test_*.py")) for p in _of(path)]
    for p in found:
        if p.framework not in FRAMEWORKS or p.operation not in OPERATIONS or p.column not in COLUMNS:
            raise ValueError(f"{p.test}: docs/frameworks.py has no such row or column: {p[:3]}")
    orders = (FRAMEWORKS, tuple(OPERATIONS), COLUMNS)

    def place(p: Proof) -> tuple[object, ...]:
        row = (order.index(part) for order, part in zip(orders, p[:3], strict=True))
        return *row, p.claim not in FIRST

    return sorted(found, key=place)


def _of(path: Path) -> Iterator[Proof]:
    for node in ast.parse(path.read_text()).body:
        for mark in node.decorator_list if isinstance(node, ast.FunctionDef) else ():
            if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.proves":
                if not node.name.startswith("test_"):
                    raise ValueError(f"{path.name}: {node.name} is no test, and proves nothing")
                framework, operation = map(ast.literal_eval, mark.args)
                for claim in mark.keywords:
                    text = ast.literal_eval(claim.value)
                    yield Proof(framework, operation, str(claim.arg), text, f"{path.name}::{node.name}")


def tables() -> str:
    """What holds where; then the test of each claim."""
    cells: dict[tuple[str, str, str], dict[str, None]] = {}
    rows: dict[tuple[str, str], None] = {}
    operations: dict[tuple[str, str, str], list[str]] = {}
    for p in proofs():
        rows[p[:2]] = None
        cells.setdefault(p[:3], {})[p.claim] = None
        operations.setdefault((p.framework, p.claim, p.test), []).append(OPERATIONS[p.operation])
    lines = [f"| framework | operation | {' | '.join(COLUMNS)} |", "|---" * (2 + len(COLUMNS)) + "|"]
    for framework, operation in rows:
        shown = [", ".join(cells.get((framework, operation, column), ["–"])) for column in COLUMNS]
        lines.append(f"| {framework} | {OPERATIONS[operation]} | {' | '.join(shown)} |")
    lines += ["", "## The test of each cell", "", "| framework | claim | for | test |", "|---|---|---|---|"]
    for (framework, claim, test), names in operations.items():
        lines.append(f"| {framework} | {claim} | {', '.join(names)} | `{test}` |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """The page with the tables anew."""
    return with_section(PAGE, "frameworks.py", tables())


if __name__ == "__main__":
    PAGE.write_text(page())
