"""Nothing is copied: the native module is given the addresses of what the caller holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import polars
import pyarrow as arrow
import pytest
import torch
from foreign import Foreign

import fastmap as fm
import fastmap.torch as ft
from fastmap import _core

Seen = list[set[int]]  # of each native call, the addresses that it was given


def address(x: Any) -> int:
    return int(x.data_ptr() if isinstance(x, torch.Tensor) else x.__array_interface__["data"][0])


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Watches the calls of the native module."""
    calls: Seen = []
    plain, general, sums = _core.apply_arrays, _core.apply, _core.log_det

    def apply_arrays(op: int, program: Any, policy: int, x: Any, out: Any) -> bool:
        done = plain(op, program, policy, x, out)
        if done:
            calls.append({address(x), address(out)})
        return done

    def apply(op: int, segments: Any, policy: int) -> Any:
        calls.append({p for s in segments for p in s[4::2] if p})
        return general(op, segments, policy)

    def log_det(op: int, segments: Any, rows: int, sums_at: int, *rest: Any) -> Any:
        calls.append({p for s in segments for p in s[4::2] if p})
        return sums(op, segments, rows, sums_at, *rest)

    for watched in (apply_arrays, apply, log_det):
        monkeypatch.setattr(_core, watched.__name__, watched)
    return calls


def read_only(x: np.ndarray) -> np.ndarray:
    x.flags.writeable = False
    return x


ARRAYS: dict[str, Callable[[], Any]] = {
    "plain": lambda: np.full((8, 6), 0.5, np.float32),
    "float64": lambda: np.full((8, 6), 0.5),
    "strided": lambda: np.full((8, 6), 0.5)[1::2, ::-3],
    "Fortran": lambda: np.full((8, 6), 0.5, order="F"),
    "read-only": lambda: read_only(np.full((8, 6), 0.5)),
    "tensor": lambda: torch.full((8, 6), 0.5),
    "bfloat16": lambda: torch.full((8, 6), 0.5, dtype=torch.bfloat16),
    "strided tensor": lambda: torch.full((8, 6), 0.5)[1::2, 1::2],
    "parameter": lambda: torch.nn.Parameter(torch.full((8, 6), 0.5)),
}


@pytest.mark.proves("NumPy", "maps", memory="its own, read and written")
@pytest.mark.proves("NumPy", "derivatives", memory="its own, read and written")
@pytest.mark.proves("NumPy", "pullback", memory="its own, read and written")
@pytest.mark.proves("NumPy", "sums", memory="its own, read and written")
@pytest.mark.proves("torch", "maps", memory="its own, read and written")
@pytest.mark.proves("torch", "derivatives", memory="its own, read and written")
@pytest.mark.proves("torch", "pullback", memory="its own, read and written")
@pytest.mark.proves("torch", "sums", memory="its own, read and written")
@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_are_read_and_written_where_they_lie(kind: str, seen: Seen) -> None:
    x = ARRAYS[kind]()
    for function in (fm.forward, fm.inverse, fm.jacobian, fm.inverse_jacobian):
        result = function(x, "log")
        assert seen.pop() == {address(x), address(result)}
    held = x.detach() if isinstance(x, torch.Tensor) else x
    gradient = held + 1
    result = fm.pullback(gradient, held, "log")
    assert seen.pop() == {address(gradient), address(x), address(result)}
    fm.log_abs_det(x, "log")
    assert seen.pop() == {address(x)}
    z, _ = fm.forward_and_log_det(held, "log")
    assert seen.pop() == {address(x), address(z)}
    out = gradient
    assert fm.forward(held, "log", out=out) is out
    assert fm.forward(out, "identity", out=out) is out
    assert seen == [{address(x), address(out)}, {address(out)}]


@pytest.mark.proves("torch", "maps", memory="saved for backward as it is")
def test_autograd_saves_the_tensor_itself_and_pulls_back_in_one_pass(seen: Seen) -> None:
    z, gradient = torch.full((1000,), 0.5, requires_grad=True), torch.full((1000,), 2.0)
    theta = fm.inverse(z, "softplus")
    assert seen.pop() == {address(z), address(theta)}
    theta.backward(gradient)
    assert seen == [{address(gradient), address(z), address(z.grad)}]


@pytest.mark.proves("torch", "step", memory="in place")
@pytest.mark.parametrize("make", [ft.Adam, ft.AdamW, ft.SGD, ft.Lion], ids=lambda make: make.__name__)
def test_a_step_moves_everything_where_it_lies(make: Any) -> None:
    p = torch.nn.Parameter(torch.full((1000,), 0.5))
    optimizer = make([p], 0.1, map="softplus")
    p.grad = torch.ones(1000)
    held = [p, p.grad, *(x for x in optimizer.state[p].values() if x.ndim)]
    before, values = [address(x) for x in held], [x.detach().clone() for x in held]
    optimizer.step()
    held = [p, p.grad, *(x for x in optimizer.state[p].values() if x.ndim)]
    assert [address(x) for x in held] == before
    assert [torch.equal(x, y) for x, y in zip(held, values, strict=True)] == [
        x is p.grad for x in held
    ]  # all but the gradient moved


@pytest.mark.proves("pandas, Polars, Arrow", "maps", memory="its own where it is one array without gaps")
@pytest.mark.proves("others by DLPack", "maps", memory="its own, read")
@pytest.mark.parametrize("kind", [pd.Series, polars.Series, arrow.array, Foreign], ids=lambda k: k.__name__)
def test_columns_are_read_where_they_lie(kind: Any, seen: Seen) -> None:
    column = kind(np.linspace(0.1, 1, 1000))
    values = column.values if kind is Foreign else np.asarray(column)
    again = column.values if kind is Foreign else np.asarray(column)
    assert address(values) == address(again)  # the column's own, not a copy made for us
    result = fm.forward(column, "log")
    (addresses,) = seen
    assert address(values) in addresses
    if kind is not Foreign:  # and the result is given on without a copy
        assert address(np.asarray(result)) in addresses
