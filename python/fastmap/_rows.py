"""Maps side by side over one flat buffer, some of whole rows: what a `Space` is as a map."""

from __future__ import annotations

import math
import sys
from typing import Any, NamedTuple

from fastmap import _functional
from fastmap._map import Map, Pieces, Sliced
from fastmap._native import Invalid
from fastmap._structured import Op, StructuredMap, as_rows, is_tensor, output

_POLICIES: tuple[Invalid, ...] = ("raise", "nan", "clip")  # by their native codes


class _Part(NamedTuple):
    map: Map
    theta: slice
    z: slice
    theta_shape: tuple[int, ...]
    z_shape: tuple[int, ...]

    def of(self, is_theta: bool) -> tuple[slice, tuple[int, ...]]:
        return (self.theta, self.theta_shape) if is_theta else (self.z, self.z_shape)


class SlicedRows(Pieces, StructuredMap):
    """`Sliced`, where some slices have structured maps: the buffers of theta and z differ in size.

    The whole buffer is one row of it.
    """

    __slots__ = ("pieces", "rows")

    rows: tuple[_Part, ...]  # where each map has its numbers

    def __init__(self, *pieces: tuple[Map, tuple[int, ...]]) -> None:
        super().__init__()
        rows, first, second = [], 0, 0
        for m, shape in pieces:
            z_shape = m.z_shape(shape) if isinstance(m, StructuredMap) else shape
            theta = slice(first, first := first + math.prod(shape))
            z = slice(second, second := second + math.prod(z_shape))
            rows.append(_Part(m, theta, z, shape, z_shape))
        object.__setattr__(self, "pieces", pieces)
        object.__setattr__(self, "rows", tuple(rows))

    @property
    def name(self) -> str:
        return "sliced"

    def other_shape(self, argument: str, shape: tuple[int, ...], is_theta: bool) -> tuple[int, ...]:
        last = self.rows[-1]
        own, other = last.of(is_theta)[0].stop, last.of(not is_theta)[0].stop
        if tuple(shape) != (own,):
            raise ValueError(f"{argument}: shape {tuple(shape)} differs from ({own},) of the space")
        return (other,)

    def _value_and_rows(self, op: Op, argument: str, x: Any, out: Any, policy: int) -> tuple[Any, Any]:
        is_theta = op == "forward"
        x = x if is_tensor(x) else as_rows(x, argument)
        shape = self.other_shape(argument, tuple(x.shape), is_theta)
        result = None if is_tensor(x) and out is None else _checked(out, x, shape, argument)
        log_op = "log_abs_det" if is_theta else "inverse_log_abs_det"
        values, total = [], 0.0
        for part in self.rows:
            (here, own), (there, other) = part.of(is_theta), part.of(not is_theta)
            into = None if result is None else result[there].reshape(other)
            label = f"{argument}[{here.start}:{here.stop}]"
            value, log_det = _functional._value_and_log_det(
                op, log_op, label, x[here].reshape(own), part.map, into, _POLICIES[policy]
            )
            values.append(value.reshape(-1))
            total = total + log_det
        return _joined(values) if result is None else result if out is None else out, total

    def _pulled(self, grad_theta: Any, z: Any, out: Any, policy: int) -> Any:
        result = None if is_tensor(z) and out is None else _checked(out, z, tuple(z.shape), "z", grad_theta)
        values = []
        for part in self.rows:
            into = None if result is None else result[part.z].reshape(part.z_shape)
            grad, own = grad_theta[part.theta].reshape(part.theta_shape), z[part.z].reshape(part.z_shape)
            value = _functional.pullback(grad, own, part.map, out=into, invalid=_POLICIES[policy])
            values.append(value.reshape(-1))
        return _joined(values) if result is None else result if out is None else out


def side_by_side(*pieces: tuple[Map, tuple[int, ...]]) -> Map:
    """The map of one flat buffer whose slices, theta in these shapes, have these maps."""
    return (SlicedRows if any(isinstance(m, StructuredMap) for m, _ in pieces) else Sliced)(*pieces)


def _checked(out: Any, x: Any, shape: tuple[int, ...], argument: str, *inputs: Any) -> Any:
    """What the slices of the result are written into."""
    if not is_tensor(x):
        return output(out, x, shape, argument, *inputs)
    from fastmap import _structured_torch

    return _structured_torch.checked_output(out, x, shape, argument, *inputs)


def _joined(values: list[Any]) -> Any:
    """The slices of a tensor, as one that autograd follows."""
    return sys.modules["torch"].cat(values)
