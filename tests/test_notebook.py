"""The notebook runs, and what is stored in it shows what it says."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import pytest
from scripts import load

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def notebook() -> ModuleType:
    return load("docs/notebook.py")


def medians(run: Any) -> list[float]:
    text = "".join(str(o.get("text", "")) for cell in run.cells for o in cell.get("outputs", ()))
    return [float(number) for number in re.findall(r"median of the best log10 loss (\S+)", text)]


def check(run: Any) -> None:
    no_map, log_alone, both = medians(run)
    assert both < log_alone < no_map


def test_the_notebook_runs_and_the_map_helps_in_it(notebook: ModuleType) -> None:
    run = notebook.executed()
    check(run)
    assert len(notebook.pictures(run)) == 1


def test_the_stored_outputs_are_those_of_a_run(notebook: ModuleType) -> None:
    stored = nbformat.read(DOCS / "idea.ipynb", as_version=4)
    nbformat.validate(stored)
    check(stored)
    (picture,) = notebook.pictures(stored)
    assert picture == (DOCS / "pictures" / "surface.png").read_bytes(), "run: python docs/notebook.py"
