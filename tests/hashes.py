"""The bits of every map: ``python tests/hashes.py`` writes `hashes.json`, which a test compares.

Bits are promised to be the same on every instruction set and machine, and stable within a minor release:
where they are meant to change, the new file and a line in the changelog go together.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import engine
import numpy as np

from fastmap import _core

PATH = Path(__file__).with_name("hashes.json")
DTYPES = {"float32": np.float32, "float64": np.float64, "bfloat16": np.uint16, "float16": np.uint16}


def inputs(dtype: str) -> np.ndarray:
    """All 16-bit numbers; else bit patterns spread over the whole range, and the ordinary range."""
    if dtype.endswith("16"):
        return np.arange(2**16, dtype=np.uint16)
    kind = DTYPES[dtype]
    ordinary = np.linspace(-40, 40, 2**14).astype(kind)
    if dtype == "float32":
        patterns = np.arange(2**15, dtype=np.uint32) * np.uint32(0x9E3779B1)
    else:
        patterns = np.arange(2**15, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return np.concatenate([patterns.view(kind), ordinary])


def hashes(entry: dict[str, Any]) -> dict[str, dict[str, str]]:
    """By op and dtype, over all published parameter sets that the dtype can hold."""
    result: dict[str, dict[str, str]] = {}
    for op in _core.OPS:
        result[op] = {}
        for code, dtype in enumerate(DTYPES):
            digest = hashlib.sha256()
            for example in entry["examples"]:
                try:
                    out, _ = engine.run(op, entry, tuple(example.values()), inputs(dtype), dtype=code)
                except ValueError:  # bounds that are one number in this dtype
                    continue
                digest.update(out.tobytes())
            result[op][dtype] = digest.hexdigest()[:16]
    return result


if __name__ == "__main__":
    text = json.dumps({entry["name"]: hashes(entry) for entry in _core.catalog()}, indent=1)
    PATH.write_text(text + "\n")
