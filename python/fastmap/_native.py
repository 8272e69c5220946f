"""NumPy arrays to and from the native engine: layout, overlap, errors.

Every check that can refuse a call is made here, before the engine writes anything.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastmap import _core
from fastmap._errors import DomainError
from fastmap._map import Map

FloatArray: TypeAlias = NDArray[Any]
Invalid: TypeAlias = Literal["raise", "nan", "clip"]
Axis: TypeAlias = int | tuple[int, ...] | None

# NumPy has no bfloat16: views of such memory, which torch tensors give, are of this dtype of opaque 2 bytes.
BFLOAT16 = np.dtype("V2")
_DTYPES = {np.dtype(np.float32): 0, np.dtype(np.float64): 1, BFLOAT16: 2, np.dtype(np.float16): 3}
LARGE = 4 << 20  # bytes from which huge pages pay
_POLICIES = {"raise": 0, "nan": 1, "clip": 2}


def policy_code(invalid: Invalid | None) -> int:
    """The native code of a policy; None means "raise"."""
    try:
        return _POLICIES["raise" if invalid is None else invalid]
    except (KeyError, TypeError):
        raise ValueError(f"invalid: expected 'raise', 'nan' or 'clip', got {invalid!r}") from None


def as_array(x: object, argument: str) -> FloatArray:
    """An array of a float type: such arrays as they are, numbers and integers as float64."""
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"{argument}: masked arrays are not supported, the mask would be lost")
    array = x.view(np.ndarray) if isinstance(x, np.ndarray) else np.asarray(x)
    if array.dtype in _DTYPES and array.dtype != BFLOAT16:
        return array
    if array.dtype.kind in "iu":
        return array.astype(np.float64)
    raise TypeError(f"{argument}: dtype {array.dtype} is not supported; use float16, float32 or float64")


def as_output(out: object, like: FloatArray, argument: str) -> FloatArray:
    """`out` if the result for `like` can be written into it; a new array for None."""
    if out is None:
        fresh = np.empty_like(like, subok=False)
        if fresh.nbytes >= LARGE:
            _core.advise_huge_pages(_pointer(fresh), fresh.nbytes)
        return fresh
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out: expected a NumPy array as {argument} is one, got {type(out).__name__}")
    if out.dtype != like.dtype:
        raise TypeError(f"out: dtype {out.dtype} differs from {like.dtype} of {argument}")
    if out.shape != like.shape:
        raise ValueError(f"out: shape {out.shape} differs from {like.shape} of {argument}")
    if not out.flags.writeable:
        raise ValueError("out: the array is read-only")
    if not _is_dense(out):
        raise ValueError("out: the array is not contiguous")
    return out.view(np.ndarray)


def apply(
    op: str,
    map: Map,
    x: FloatArray,
    out: FloatArray,
    *,
    argument: str,
    policy: int = 0,
    grad: FloatArray | None = None,
    grad_argument: str = "grad",
) -> None:
    """out = op(x), times `grad` where given; `out` is dense and has the shape and dtype of x."""
    code, number = _core.OPS[op], map.entry["id"]
    if grad is None and _core.apply_arrays(code, number, map.values, policy, x, out):
        return
    _refuse_partial_overlap(x, out, argument)
    if grad is not None:
        _refuse_partial_overlap(grad, out, grad_argument)
    if not _same_layout(x, out):
        if grad is not None and _same_memory(grad, out):
            raise ValueError(f"out: {grad_argument} can only be overwritten if {argument} has its layout")
        np.copyto(out, x)  # no temporary: the result replaces it in place
        x = out
    if grad is not None and not _same_layout(grad, out):
        copy = np.empty_like(out)  # the product is rounded once, so it is made in one call
        np.copyto(copy, grad)
        grad = copy
    grad_pointer = 0 if grad is None else _pointer(grad)
    count, first = _core.apply(
        code,
        number,
        _DTYPES[x.dtype],
        map.values,
        x.size,
        _pointer(x),
        grad_pointer,
        _pointer(out),
        policy,
    )
    if count:
        raise _domain_error(map, x, count, _logical_index(x, first), argument, op)


def log_det(
    op: str,
    map: Map,
    x: FloatArray,
    axis: Axis,
    *,
    argument: str,
    value_op: str = "forward",
    out: FloatArray | None = None,
) -> FloatArray:
    """Sums of op(x) over `axis`, in float64; where `out` is given, also out = value_op(x).

    The sums go over the logical C order in fixed blocks, so that their bits depend on the values alone.
    """
    axes = normalized_axes(axis, x.ndim)
    kept = [i for i in range(x.ndim) if i not in axes]
    if out is not None:
        _refuse_partial_overlap(x, out, argument)
        if not (x.flags.c_contiguous and out.flags.c_contiguous):
            sums = log_det(op, map, x, axis, argument=argument)
            apply(value_op, map, x, out, argument=argument)
            return sums
    rows = x if not kept or kept + list(axes) == list(range(x.ndim)) else x.transpose(*kept, *axes)
    rows = np.ascontiguousarray(rows)
    sums = np.empty([x.shape[i] for i in kept], np.float64)
    count, first = _core.log_det(
        _core.OPS[op],
        map.entry["id"],
        _DTYPES[x.dtype],
        map.values,
        sums.size,
        rows.size // sums.size if sums.size else 0,
        _pointer(rows),
        _pointer(sums),
        _core.OPS[value_op],
        0 if out is None else _pointer(out),
        0,
    )
    if count:
        moved = np.unravel_index(first, rows.shape) if rows.ndim else ()
        order = kept + list(axes) if kept else list(range(x.ndim))
        index = tuple(int(i) for _, i in sorted(zip(order, moved, strict=True)))
        raise _domain_error(map, x, count, index, argument, op)
    return sums


def normalized_axes(axis: Axis, ndim: int) -> tuple[int, ...]:
    if axis is None:
        return tuple(range(ndim))
    axes = (axis,) if isinstance(axis, int) else tuple(axis)
    for i in axes:
        if not -ndim <= i < ndim:
            raise ValueError(f"axis: {i} is out of bounds for {ndim} dimensions")
    result = tuple(sorted(i % ndim for i in axes))
    if len(set(result)) != len(result):
        raise ValueError(f"axis: {axis} names an axis twice")
    return result


def _pointer(a: FloatArray) -> int:
    return int(a.__array_interface__["data"][0])


def _is_dense(a: FloatArray) -> bool:
    """Whether the elements fill one stretch of memory, in any order of the axes."""
    if not a.flags.aligned:
        return False
    if a.flags.forc:
        return True
    expected = a.itemsize
    for stride, length in sorted(zip(a.strides, a.shape, strict=True)):
        if length != 1 and stride != expected:
            return False
        expected *= length
    return True


def _same_layout(a: FloatArray, b: FloatArray) -> bool:
    """Whether walking both memories from their first bytes meets the same elements (b is dense)."""
    return a.flags.aligned and (a.strides == b.strides or (a.flags.c_contiguous and b.flags.c_contiguous))


def _same_memory(a: FloatArray, b: FloatArray) -> bool:
    return a.strides == b.strides and _pointer(a) == _pointer(b)


def _refuse_partial_overlap(x: FloatArray, out: FloatArray, argument: str) -> None:
    if np.may_share_memory(x, out) and not _same_memory(x, out):
        raise ValueError(f"out: overlaps {argument} without being the same elements")


def _logical_index(x: FloatArray, offset: int) -> tuple[int, ...]:
    """The index of the element at `offset` in the memory of a dense array."""
    index = [0] * x.ndim
    for axis in sorted(range(x.ndim), key=lambda i: (x.strides[i], -i), reverse=True):
        if x.shape[axis] > 1:
            index[axis], offset = divmod(offset, x.strides[axis] // x.itemsize)
    return tuple(index)


def _shown(value: Any) -> str:
    if value.dtype == BFLOAT16:  # the upper half of a float32
        value = np.frombuffer(b"\0\0" + value.tobytes(), np.float32)[0]
    return str(value)


def _domain_error(
    map: Map, x: FloatArray, count: int, index: tuple[int, ...], argument: str, op: str
) -> DomainError:
    low, high = map.domain
    allowed = "NaN" if op.startswith("inverse") else f"outside the domain ({low:g}, {high:g})"
    where = index[0] if len(index) == 1 else index
    at = f", first at index {where}" if index else ""
    verb = "is" if count == 1 else "are"
    return DomainError(
        f"{argument}: {count} of {x.size} values {verb} {allowed} of {map!r}{at} (value {_shown(x[index])})",
        argument,
        count,
        index,
    )
