"""Structured maps, f: R^n -> R^m on every row of a buffer: what they share, and their native catalog.

`fastmap.forward` and the other functions come here for such a map. The last axis of z, and the last axis of
theta, or two where it is a matrix, are a row; the axes in front of them are a batch.
"""

from __future__ import annotations

import math
import sys
from abc import abstractmethod
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
    """A map of whole rows, whose entries depend on each other.

    Such maps have `forward`, `inverse`, log-determinants and `pullback`, and no elementwise `jacobian`. They
    cannot be part of a `Chain`. float32 and float64.
    """

    __slots__ = ()

    noun: ClassVar[str] = "a structured map, which maps whole rows,"
    theta_axes: ClassVar[int] = 1  # of a row of theta: 2 for matrices

    def __init__(self) -> None:
        set_field = object.__setattr__
        set_field(self, "steps", ())
        set_field(self, "shape", ())
        set_field(self, "program", None)

    @abstractmethod
    def other_shape(self, argument: str, shape: tuple[int, ...], is_theta: bool) -> tuple[int, ...]:
        """The shape of z for that of theta, or the other way round; ValueError names the argument."""

    @abstractmethod
    def _value_and_rows(self, op: Op, argument: str, x: Any, out: Any, policy: int) -> tuple[Any, Any]:
        """The values, and the log-determinant of every row in float64."""

    @abstractmethod
    def _pulled(self, grad_theta: Any, z: Any, out: Any, policy: int) -> Any:
        """dL/dz from dL/dtheta, at z; their shapes fit."""

    def z_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of z for a theta of this shape.

        Raises
        ------
        ValueError
            theta of this shape has no rows for the map.
        """
        return self.other_shape("theta", shape, is_theta=True)

    def theta_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of theta for a z of this shape; errors as in `z_shape`."""
        return self.other_shape("z", shape, is_theta=False)

    def batch(self, shape: tuple[int, ...], is_theta: bool) -> tuple[int, ...]:
        """The axes in front of the rows."""
        return shape[: len(shape) - (self.theta_axes if is_theta else 1)]

    @property
    def inv(self) -> Map:
        """Not there: call `inverse`."""
        raise TypeError(f"map: {self!r} has no inverse as a map; call inverse with it")

    def _ends(self, which: str) -> tuple[Any, Any]:
        raise TypeError(f"{which}: {self!r} maps whole rows, which have no interval each")


class CatalogRows(StructuredMap):
    """A structured map of the native catalog, without parameters; one subclass per entry."""

    __slots__ = ()

    entry: ClassVar[dict[str, Any]]  # the map's row of the native catalog

    @property
    def name(self) -> str:
        """The name by which functions accept this map."""
        return str(self.entry["name"])

    def other_shape(self, argument: str, shape: tuple[int, ...], is_theta: bool) -> tuple[int, ...]:
        return shapes(self, argument, shape, is_theta)[1]

    def _value_and_rows(self, op: Op, argument: str, x: Any, out: Any, policy: int) -> tuple[Any, Any]:
        if is_tensor(x):
            from fastmap import _structured_torch

            return _structured_torch.value_and_rows(op, argument, x, self, out, policy)
        array = as_rows(x, argument)
        n, shape = shapes(self, argument, array.shape, is_theta=op == "forward")
        result = output(out, array, shape, argument)
        rows = np.empty(self.batch(array.shape, op == "forward"))
        run(self, op, n, argument, policy, x=array, out=result, log_det=rows)
        return result if out is None else out, rows[()] if rows.ndim == 0 else rows

    def _pulled(self, grad_theta: Any, z: Any, out: Any, policy: int) -> Any:
        if is_tensor(z):
            from fastmap import _structured_torch

            return _structured_torch.pullback(grad_theta, z, self, out, policy)
        n, _ = shapes(self, "z", z.shape, is_theta=False)
        result = output(out, z, z.shape, "z", grad_theta)
        run(self, "inverse", n, "z", policy, pullback=True, x=z, grad=grad_theta, out=result)
        return result if out is None else out

    def _key(self) -> tuple[Any, ...]:
        return ()

    def to_json(self) -> dict[str, Any]:
        return {"map": self.name}

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def _build_classes() -> dict[str, type[CatalogRows]]:
    classes: dict[str, type[CatalogRows]] = {}
    for entry in _core.structured_catalog():
        doc = (
            f"{entry['doc']}\n\n"
            f"{entry['forward']}; {entry['inverse']} (t is theta). theta: rows that are\n"
            f"{entry['rows']}. The log-determinant refers to {entry['measure']}."
        )
        own = {"__slots__": (), "__module__": "fastmap", "__doc__": doc, "entry": entry}
        own["theta_axes"] = entry["theta_axes"]
        classes[entry["class_name"]] = type(entry["class_name"], (CatalogRows,), own)
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
    return map._value_and_rows(op, argument, x, out, policy)


def pullback(grad_theta: Any, z: Any, map: StructuredMap, out: Any, policy: int) -> Any:
    """dL/dz from dL/dtheta, at z."""
    _refuse_clip(map, policy)
    if not is_tensor(z):
        z, grad_theta = as_rows(z, "z"), as_rows(grad_theta, "grad_theta")
    elif not is_tensor(grad_theta):
        kind = type(grad_theta).__name__
        raise TypeError(f"grad_theta: expected a torch tensor as z is one, got {kind}")
    elif sys.modules["torch"].compiler.is_compiling():  # the operators check shapes
        return map._pulled(grad_theta, z, out, policy)
    shape = map.other_shape("z", tuple(z.shape), is_theta=False)
    if grad_theta.dtype != z.dtype:
        raise TypeError(f"grad_theta: dtype {grad_theta.dtype} differs from {z.dtype} of z")
    if tuple(grad_theta.shape) != shape:
        raise ValueError(f"grad_theta: shape {tuple(grad_theta.shape)} differs from {shape} of theta")
    return map._pulled(grad_theta, z, out, policy)


def summed(rows: Any, axis: Axis) -> Any:
    """Numbers per row, summed over axes as log-determinants of elements are."""
    if axis == ():
        return rows
    from fastmap import _functional

    return _functional._log_det("inverse", "rows", rows, named("identity"), axis, "nan")


def run(
    map: CatalogRows,
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
    event = map.theta_axes if is_theta else 1
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
        tolerance = 1e-5 if x.dtype == np.float32 else 1e-6
        wrong = f"not {map.entry['rows']} (tolerance {tolerance:g})" if is_theta else "not finite"
        raise refusal(map, argument, x, count, first, is_theta, wrong)


def refusal(
    map: StructuredMap, argument: str, x: FloatArray, count: int, first: int, is_theta: bool, wrong: str
) -> DomainError:
    """The error for rows that are wrong, `first` of them in C order."""
    lengths = map.batch(x.shape, is_theta)
    index = tuple(int(i) for i in np.unravel_index(first, lengths)) if lengths else ()
    at = f", first at index {index[0] if len(index) == 1 else index}" if index else ""
    row = np.array2string(x[index], precision=6, threshold=8, edgeitems=2, separator=", ")
    verb = "is" if count == 1 else "are"
    message = (
        f"{argument}: {count} of {math.prod(lengths)} rows {verb} {wrong}, as {map!r} needs them{at}: "
        f"{' '.join(row.split())}"
    )
    return DomainError(message, argument, count, index)


def shapes(
    map: CatalogRows, argument: str, shape: tuple[int, ...], is_theta: bool
) -> tuple[int, tuple[int, ...]]:
    """n, and the shape of the other side."""
    number, event, least = map.entry["id"], map.theta_axes, map.entry["least"]

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


def as_rows(x: object, argument: str) -> FloatArray:
    """A NumPy array of a dtype that rows have."""
    jax, tf = sys.modules.get("jax"), sys.modules.get("tensorflow")
    if (jax is not None and isinstance(x, jax.Array)) or (
        tf is not None and isinstance(x, tf.Tensor | tf.Variable)
    ):
        raise TypeError(
            f"{argument}: structured maps take NumPy arrays and torch tensors, which they know how to "
            f"differentiate; pass np.asarray of this {type(x).__name__}"
        )
    return wide_enough(_native.as_array(x, argument), argument)


def wide_enough(array: FloatArray, argument: str) -> FloatArray:
    """The array, if it is of a dtype that rows have."""
    if array.dtype not in (np.float32, np.float64):
        raise TypeError(f"{argument}: structured maps take float32 and float64, not 16 bits")
    return array


def output(
    out: object, like: FloatArray, shape: tuple[int, ...], argument: str, *inputs: FloatArray
) -> FloatArray:
    """`out`, if rows can be written into it; a new array for None."""
    if out is None:
        return np.empty(shape, like.dtype)
    result = _native.as_output(out, np.broadcast_to(like.dtype.type(0), shape), f"the result for {argument}")
    for given in (like, *inputs):
        if np.may_share_memory(result, given):
            raise ValueError(f"out: overlaps {argument} or a gradient; rows are not mapped in place")
    return result


def _refuse_clip(map: StructuredMap, policy: int) -> None:
    if policy == _native.policy_code("clip"):
        raise ValueError(f"invalid: {map!r} has no nearest valid row to clip to; use 'raise' or 'nan'")


def is_tensor(x: object) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)
