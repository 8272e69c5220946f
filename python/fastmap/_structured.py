"""Structured maps, f: R^n -> R^m on every row of a buffer: the classes of their catalog, and their functions.

`fastmap.forward` and the other functions come here for such a map. The last axis of z, and the last axis of
theta, or two where it is a matrix, are a row; the axes in front of them are a batch.
"""

from __future__ import annotations

import math
import sys
from typing import Any, ClassVar, Literal, NoReturn

import numpy as np

from fastmap import _core, _native
from fastmap._errors import DomainError
from fastmap._map import Map, named, register
from fastmap._native import Axis, FloatArray

Op = Literal["forward", "inverse"]
_FORWARD, _INVERSE, _PULLBACK = 0, 1, 2  # native codes: a pullback is 2 more than its direction
_VALUE_OF: dict[str, Op] = {
    "forward": "forward",
    "log_abs_det": "forward",
}  # the others belong to the inverse


class StructuredMap(Map):
    """A map of whole rows, whose entries depend on each other; one subclass per entry of the native catalog.

    Such maps have `forward`, `inverse`, log-determinants and `pullback`, no elementwise `jacobian`, and no
    parameters. They cannot be part of a `Chain`. float32 and float64.
    """

    __slots__ = ()

    noun: ClassVar[str] = "a structured map, which maps whole rows,"
    entry: ClassVar[dict[str, Any]]  # the map's row of the native catalog

    def __init__(self) -> None:
        set_field = object.__setattr__
        set_field(self, "steps", ())
        set_field(self, "shape", ())
        set_field(self, "program", None)

    @property
    def name(self) -> str:
        """The name by which functions accept this map."""
        return str(self.entry["name"])

    def z_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of z for a theta of this shape.

        Raises
        ------
        ValueError
            theta of this shape has no rows for the map.
        """
        return shapes(self, "theta", shape, is_theta=True)[1]

    def theta_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of theta for a z of this shape; errors as in `z_shape`."""
        return shapes(self, "z", shape, is_theta=False)[1]

    @property
    def inv(self) -> Map:
        """Not there: call `inverse`."""
        raise TypeError(f"map: {self!r} has no inverse as a map; call inverse with it")

    def _ends(self, which: str) -> tuple[Any, Any]:
        raise TypeError(f"{which}: {self!r} maps whole rows, which have no interval each")

    def _key(self) -> tuple[Any, ...]:
        return ()

    def to_json(self) -> dict[str, Any]:
        return {"map": self.name}

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def _build_classes() -> dict[str, type[StructuredMap]]:
    classes = {}
    for entry in _core.structured_catalog():
        doc = (
            f"{entry['doc']}\n\n"
            f"{entry['forward']}; {entry['inverse']} (t is theta). theta: rows that are\n"
            f"{entry['rows']}. The log-determinant refers to {entry['measure']}."
        )
        own = {"__slots__": (), "__module__": "fastmap", "__doc__": doc, "entry": entry}
        classes[entry["class_name"]] = type(entry["class_name"], (StructuredMap,), own)
        register(classes[entry["class_name"]]())
    return classes


CLASSES = _build_classes()


def elementwise(op: str, argument: str, x: Any, map: StructuredMap, out: Any, policy: int) -> Any:
    """An elementwise function of the package, on rows."""
    if op.endswith("jacobian"):
        raise TypeError(f"{op}: {map!r} maps whole rows and has no derivative per element; use pullback")
    value: Op = _VALUE_OF.get(op, "inverse")
    result, log_det = value_and_rows(value, argument, x, map, out, policy)
    return result if op == value else log_det


def log_det(op: str, argument: str, x: Any, map: StructuredMap, axis: Axis, policy: int) -> Any:
    """Sums of the log-determinants over axes of the batch; () is one per row."""
    return summed(value_and_rows(_VALUE_OF.get(op, "inverse"), argument, x, map, None, policy)[1], axis)


def value_and_log_det(
    op: Op, log_op: str, argument: str, x: Any, map: StructuredMap, out: Any, policy: int
) -> tuple[Any, Any]:
    """The values, and the sum of all log-determinants."""
    value, rows = value_and_rows(op, argument, x, map, out, policy)
    return value, summed(rows, None)


def value_and_rows(
    op: Op, argument: str, x: Any, map: StructuredMap, out: Any, policy: int
) -> tuple[Any, Any]:
    """The values, and the log-determinant of every row in float64."""
    _refuse_clip(map, policy)
    if _is_tensor(x):
        from fastmap import _structured_torch

        return _structured_torch.value_and_rows(op, argument, x, map, out, policy)
    array = _array(x, argument)
    n, shape = shapes(map, argument, array.shape, is_theta=op == "forward")
    result = output(out, array, shape, argument)
    rows = np.empty(batch(map, array.shape, op == "forward"))
    run(map, op, n, argument, policy, x=array, out=result, log_det=rows)
    return result if out is None else out, rows[()] if rows.ndim == 0 else rows


def pullback(grad_theta: Any, z: Any, map: StructuredMap, out: Any, policy: int) -> Any:
    """dL/dz from dL/dtheta, at z."""
    _refuse_clip(map, policy)
    if _is_tensor(z):
        from fastmap import _structured_torch

        return _structured_torch.pullback(grad_theta, z, map, out, policy)
    array, grad = _array(z, "z"), _array(grad_theta, "grad_theta")
    n, shape = shapes(map, "z", array.shape, is_theta=False)
    check_gradient(grad, array, shape)
    result = output(out, array, array.shape, "z", grad)
    run(map, "inverse", n, "z", policy, pullback=True, x=array, grad=grad, out=result)
    return result if out is None else out


def summed(rows: Any, axis: Axis) -> Any:
    """Numbers per row, summed over axes as log-determinants of elements are."""
    if axis == ():
        return rows
    from fastmap import _functional

    return _functional._log_det("inverse", "rows", rows, named("identity"), axis, "nan")


def run(
    map: StructuredMap,
    op: str,
    n: int,
    argument: str,
    policy: int,
    *,
    x: FloatArray,
    out: FloatArray | None = None,
    direction: FloatArray | None = None,
    grad: FloatArray | None = None,
    grad_log_det: FloatArray | None = None,
    log_det: FloatArray | None = None,
    pullback: bool = False,
) -> None:
    """One native call. `direction`: the derivative along it instead. DomainError unless NaN is wanted."""
    code = (_FORWARD if op == "forward" else _INVERSE) + (_PULLBACK if pullback else 0)
    is_theta = op == "forward"
    event = map.entry["theta_axes"] if is_theta else 1
    in_front = x.ndim - event
    buffers = [
        None if a is None else (_native.pointer(a), a.strides[:in_front], a.strides[in_front:])
        for a in (x, direction, grad, out)
    ]
    count, first = _core.run_structured(
        map.entry["id"],
        code,
        direction is not None,
        int(x.dtype == np.float64),
        x.shape[:in_front],
        n,
        buffers,
        0 if grad_log_det is None else _native.pointer(grad_log_det),
        0 if log_det is None else _native.pointer(log_det),
    )
    if count and policy == _native.policy_code("raise"):
        raise _refusal(map, argument, x, count, first, event, is_theta)


def _refusal(
    map: StructuredMap, argument: str, x: FloatArray, count: int, first: int, event: int, is_theta: bool
) -> DomainError:
    lengths = x.shape[: x.ndim - event]
    index = tuple(int(i) for i in np.unravel_index(first, lengths)) if lengths else ()
    tolerance = 1e-5 if x.dtype == np.float32 else 1e-6
    wrong = f"not {map.entry['rows']} (tolerance {tolerance:g})" if is_theta else "not finite"
    at = f", first at index {index[0] if len(index) == 1 else index}" if index else ""
    row = np.array2string(x[index], precision=6, threshold=8, edgeitems=2, separator=", ")
    verb = "is" if count == 1 else "are"
    message = (
        f"{argument}: {count} of {math.prod(lengths)} rows {verb} {wrong}, as {map!r} needs them{at}: "
        f"{' '.join(row.split())}"
    )
    return DomainError(message, argument, count, index)


def shapes(
    map: StructuredMap, argument: str, shape: tuple[int, ...], is_theta: bool
) -> tuple[int, tuple[int, ...]]:
    """n, and the shape of the other side."""
    number, event, least = map.entry["id"], map.entry["theta_axes"], map.entry["least"]

    def refuse(wanted: str) -> NoReturn:
        raise ValueError(f"{argument}: {map!r} takes {wanted} on the last axes, got shape {tuple(shape)}")

    if is_theta:
        sizes = set(shape[len(shape) - event :]) if len(shape) >= event else set()
        if len(sizes) != 1 or (n := sizes.pop()) < least:
            refuse(
                f"rows of at least {least}"
                if event == 1
                else f"square matrices of at least {least} x {least}"
            )
        return n, (*shape[:-event], _core.structured_z_size(number, n))
    k = shape[-1] if shape else 0
    for n in (k, k + 1, math.isqrt(2 * k), math.isqrt(2 * k) + 1):
        if k and n >= least and _core.structured_z_size(number, n) == k:
            return n, (*shape[:-1], *[n] * event)
    known = [_core.structured_z_size(number, n) for n in range(least, least + 4)]
    return refuse(f"rows of {', '.join(str(size) for size in known)}, ... numbers")


def batch(map: StructuredMap, shape: tuple[int, ...], is_theta: bool) -> tuple[int, ...]:
    return shape[: len(shape) - (map.entry["theta_axes"] if is_theta else 1)]


def _array(x: object, argument: str) -> FloatArray:
    if (jax := sys.modules.get("jax")) is not None and isinstance(x, jax.Array):
        raise TypeError(
            f"{argument}: structured maps take NumPy arrays and torch tensors; pass np.asarray of a JAX array"
        )
    return as_rows(_native.as_array(x, argument), argument)


def as_rows(array: FloatArray, argument: str) -> FloatArray:
    """The array, if it is of a dtype that rows have."""
    if array.dtype not in (np.float32, np.float64):
        raise TypeError(f"{argument}: structured maps take float32 and float64, not 16 bits")
    return array


def output(
    out: object, like: FloatArray, shape: tuple[int, ...], argument: str, *inputs: FloatArray
) -> FloatArray:
    if out is None:
        return np.empty(shape, like.dtype)
    result = _native.as_output(out, np.broadcast_to(like.dtype.type(0), shape), f"the result for {argument}")
    for given in (like, *inputs):
        if np.may_share_memory(result, given):
            raise ValueError(f"out: overlaps {argument} or a gradient; rows are not mapped in place")
    return result


def check_gradient(grad: Any, z: Any, shape: tuple[int, ...]) -> None:
    """Refuse a gradient of theta that does not fit z."""
    if grad.dtype != z.dtype:
        raise TypeError(f"grad_theta: dtype {grad.dtype} differs from {z.dtype} of z")
    if tuple(grad.shape) != shape:
        raise ValueError(f"grad_theta: shape {tuple(grad.shape)} differs from {shape} of theta")


def _refuse_clip(map: StructuredMap, policy: int) -> None:
    if policy == _native.policy_code("clip"):
        raise ValueError(f"invalid: {map!r} has no nearest valid row to clip to; use 'raise' or 'nan'")


def _is_tensor(x: object) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)
