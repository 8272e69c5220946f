"""The engine without the layers above it, for tests that choose pointers, dtypes and policies themselves."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastmap import _core

RAISE, NAN, CLIP = 0, 1, 2
FLOAT32, FLOAT64 = 0, 1


def program(entry: dict[str, Any], params: tuple[float, ...]) -> _core.Program:
    """The map of a catalog entry."""
    return _core.Program((), [(entry["id"], False, [np.array(v, np.float64) for v in params])])


def segment(
    entry: dict[str, Any],
    params: tuple[float, ...],
    x: np.ndarray,
    out: np.ndarray | None = None,
    g: np.ndarray | None = None,
    dtype: int | None = None,
) -> tuple[Any, ...]:
    """One C-contiguous buffer."""
    code = int(x.dtype == np.float64) if dtype is None else dtype
    buffers = [(0 if a is None else a.ctypes.data, (x.itemsize,)) for a in (x, g, out)]
    return (program(entry, params), code, (x.size,), (0,), *sum(buffers, ()))


def run(
    op: str,
    entry: dict[str, Any],
    params: tuple[float, ...],
    x: np.ndarray,
    out: np.ndarray | None = None,
    g: np.ndarray | None = None,
    policy: int = NAN,
    dtype: int | None = None,
) -> tuple[np.ndarray, tuple[int, int]]:
    """Apply an op; returns out and (count, first) of the refused values."""
    out = np.empty_like(x) if out is None else out
    _, *status = _core.apply(_core.OPS[op], [segment(entry, params, x, out, g, dtype)], policy)
    return out, (status[0], status[1])


def log_det(
    entry: dict[str, Any],
    params: tuple[float, ...],
    x: np.ndarray,
    out: np.ndarray | None = None,
    op: str = "log_abs_det",
    value_op: str = "forward",
) -> np.ndarray:
    """The sum over all elements."""
    total = np.empty(1)
    _core.log_det(
        _core.OPS[op],
        [segment(entry, params, x, out)],
        1,
        total.ctypes.data,
        _core.OPS[value_op],
        NAN,
    )
    return total
