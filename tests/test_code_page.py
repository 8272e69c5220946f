"""docs/code.md: "Add a map", followed literally on a copy of the tree; the figures that the page states."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "code.md").read_text()
NOT_SOURCE = (".git", ".venv", "build", "dist", "*.so", "__pycache__", ".*_cache")


def test_a_map_is_added_as_the_page_says(tmp_path: Path) -> None:
    section = PAGE.split("\n## Add a map\n")[1].split("\n## ")[0]
    tree, venv = tmp_path / "fastmap", tmp_path / "venv"
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(*NOT_SOURCE))
    header = re.search(r"```cpp\n(// (csrc/maps/\w+\.hpp)\n.*?)```", section, re.DOTALL)
    assert header
    (tree / header[2]).write_text(header[1])

    # An environment of its own, which sees what is installed in this one.
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    (site,) = venv.glob("lib/python*/site-packages")
    here = dict.fromkeys([sysconfig.get_path("purelib"), *(p for p in sys.path if "site-packages" in p)])
    (site / "outside.pth").write_text("\n".join(here))
    code = re.sub(r"```.*?```", "", section, flags=re.DOTALL)
    commands = "\n".join(line[4:] for line in code.splitlines() if line.startswith("    "))
    done = subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", commands],
        cwd=tree,
        env={**os.environ, "PATH": f"{venv / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "## Surprisal()" in done.stdout  # in the catalog and the page of maps
    assert re.search(r"^[1-9]\d* passed", done.stdout, re.MULTILINE)  # its tests
    assert re.search(r"^.*surprisal.*float32", done.stdout, re.MULTILINE | re.IGNORECASE)  # its benchmark


def length(function: ast.FunctionDef) -> int:
    """Lines without the docstring."""
    lines = int(function.end_lineno or 0) - function.lineno + 1
    first = function.body[0]
    return lines - (int(first.end_lineno or 0) - first.lineno + 1 if ast.get_docstring(function) else 0)


def test_long_functions_are_those_that_the_page_names() -> None:
    long = {
        node.name
        for path in (ROOT / "python" / "fastmap").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and length(node) > 60
    }
    assert long == {"__init__", "minimize", "fit", "_parser"}
