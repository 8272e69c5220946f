"""Where code could come from text: each place is known, and SECURITY.md says why it is harmless."""

from __future__ import annotations

import ast
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastmap as fm

PACKAGE = Path(fm.__file__).parent
ROOT = Path(__file__).parents[1]
BUILTINS = {"eval", "exec", "compile", "__import__"}
METHODS = {"load_module", "loads", "exec_module"}
MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml", "ctypes", "runpy"}
KNOWN = {
    ("_map.py", "eval"): 1,
    ("bench/peers.py", "eval"): 2,
    ("bench/peers.py", "compile"): 1,
    ("_tensorflow.py", "import ctypes"): 1,  # the memory of a tensor that fastmap has made
    ("recipes/_torch.py", "eval"): 2,
    ("cli.py", "exec_module"): 1,  # the script that the user names
    ("search/_pickles.py", "import pickle"): 1,
    ("space.py", "loads"): 1,  # TOML
}


def places() -> Counter[tuple[str, str]]:
    """Calls that run text or bytes (JSON aside), and imports of modules that do."""
    found: Counter[tuple[str, str]] = Counter()
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).as_posix()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                f = node.func
                if isinstance(f, ast.Name) and f.id in BUILTINS:
                    found[name, f.id] += 1
                elif isinstance(f, ast.Attribute):
                    text = ast.unparse(f)
                    if f.attr in METHODS and text != "json.loads":
                        found[name, f.attr] += 1
                    assert text != "torch.load", name
                assert not any(k.arg == "allow_pickle" for k in node.keywords), f"{name}: allow_pickle"
            elif isinstance(node, ast.Import | ast.ImportFrom):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else [str(node.module)]
                for module in MODULES & {n.partition(".")[0] for n in names}:
                    found[name, f"import {module}"] += 1
    return found


def test_every_place_that_could_run_text_is_known() -> None:
    assert places() == Counter(KNOWN)


def nested(depth: int) -> dict[str, Any]:
    data: dict[str, Any] = {"map": "log"}
    for _ in range(depth):
        data = {"map": "inverse", "of": data}
    return data


@pytest.mark.parametrize(
    "data",
    [
        {"map": "__import__('os').getcwd()"},
        {"map": "log", "low": "__import__('os').getcwd()"},
        {"map": "log", "lower": 0},
        {"map": "custom", "forward": "print"},
        {"map": "chain", "maps": [{"map": "eval"}]},
        {"map": ["log"]},
        {"low": 0},
        {"map": "chain"},
        {"map": "log", "low": 10**400},
        nested(5000),
    ],
    ids=lambda data: "nested" if "of" in data else f"{data!r:.60}",
)
def test_maps_of_strangers_are_data(data: dict) -> None:
    with pytest.raises((ValueError, TypeError)):
        fm.Map.from_json(data)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        '{"version": 1, "params": []}',
        '{"version": 1, "params": {"a": {"low": 1%s}}}' % ("0" * 400),
        '{"version": 1, "params": {"a": {"map": {"map": "chain"}}}}',
        "[" * 100_000,
    ],
    ids=lambda text: text[:60],
)
def test_spaces_of_strangers_are_data(tmp_path: Path, text: str) -> None:
    (tmp_path / "space.json").write_text(text)
    with pytest.raises(ValueError, match=r"space\.json: "):
        fm.Space.load(tmp_path / "space.json")


def test_results_of_strangers_are_data(tmp_path: Path) -> None:
    class Runs:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "was here"),)

    space = fm.Space(w=fm.Param(-1.0, 1.0, shape=2000))
    result = fm.minimize(lambda p: float((p["w"] ** 2).sum()), space, method="random", budget=1, jac=False)
    result.save(tmp_path / "kept")
    assert fm.Result.load(tmp_path / "kept").best["w"].shape == (2000,)
    np.savez(tmp_path / "kept" / "best.npz", **{"0:w": np.array([Runs()], object)})
    with pytest.raises(ValueError, match="no result of a search"):
        fm.Result.load(tmp_path / "kept")
    (tmp_path / "kept" / "best.npz").write_bytes(b"PK\3\4 and no more")
    with pytest.raises(ValueError, match="no result of a search"):
        fm.Result.load(tmp_path / "kept")
    assert not (tmp_path / "was here").exists()


def test_workflows_pin_what_they_use() -> None:
    text = "".join(path.read_text() for path in (ROOT / ".github" / "workflows").glob("*.yml"))
    used = re.findall(r"uses: (\S+)", text)
    assert used
    assert all(re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", action) for action in used), used
    assert "pull_request_target" not in text
