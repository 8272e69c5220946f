"""Runs docs/idea.ipynb, keeps its outputs in it, and writes its picture to docs/pictures/surface.png."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).with_name("idea.ipynb")


def executed() -> Any:
    """The notebook with the outputs of a new run; an error in a cell is an error here."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name="python3", record_timing=False).execute()
    for cell in notebook.cells:  # warnings name places of this machine
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return notebook


def pictures(notebook: Any) -> list[bytes]:
    """The PNG outputs, in order."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return [base64.b64decode(o.data["image/png"]) for o in outputs if "image/png" in o.get("data", {})]


def main() -> None:
    """Renew the notebook and its picture."""
    notebook = executed()
    nbformat.write(notebook, NOTEBOOK)
    (picture,) = pictures(notebook)
    (NOTEBOOK.parent / "pictures" / "surface.png").write_bytes(picture)


if __name__ == "__main__":
    main()
