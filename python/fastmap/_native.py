"""NumPy arrays to and from the native engine: layout, overlap, errors.

Every check that can refuse a call is made here, before the engine writes anything.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastmap import _core
from fastmap._errors import DomainError
from fastmap._map import Index, Map, Sliced
from fastmap._numpy_map import NumPyMap

FloatArray: TypeAlias = NDArray[Any]
Invalid: TypeAlias = Literal["raise", "nan", "clip"]
Axis: TypeAlias = int | tuple[int, ...] | None

# NumPy has no bfloat16: memory of such numbers, from torch, JAX or ml_dtypes, is seen as opaque 2 bytes.
BFLOAT16 = np.dtype("V2")
_DTYPES = {np.dtype(np.float32): 0, np.dtype(np.float64): 1, BFLOAT16: 2, np.dtype(np.float16): 3}
LARGE = 4 << 20  # bytes from which huge pages pay
_ALIGNMENT = 64  # bytes, from which XLA and TensorFlow take memory without a copy
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
        raise TypeError(f"{argument}: masked arrays are not supported, the mask would be lost; use filled()")
    given = x if isinstance(x, np.ndarray) else _imported(x, argument)
    array = _seen(given)
    if array.dtype in _DTYPES and given.dtype != BFLOAT16:
        return array
    if array.dtype.kind in "iu":
        return array.astype(np.float64)
    fix = "pass its fields one by one" if array.dtype.names else "use float16, float32 or float64"
    raise TypeError(f"{argument}: dtype {array.dtype} is not supported; {fix}")


def _seen(array: FloatArray) -> FloatArray:
    """The array as the engine sees it: no subclass, bfloat16 of ml_dtypes as opaque 2 bytes."""
    plain = array.view(np.ndarray)
    is_bfloat16 = plain.dtype.kind == "V" and plain.dtype.name == "bfloat16"
    return plain.view(BFLOAT16) if is_bfloat16 else plain


def _imported(x: object, argument: str) -> FloatArray:
    """A NumPy array of what is none; without a copy where its library allows that."""
    _refuse_gpu(x, argument)
    if not hasattr(x, "__dlpack__") or hasattr(x, "__array__"):
        try:
            return np.asarray(x)
        except NotImplementedError as error:  # of TensorFlow
            raise TypeError(
                f"{argument}: {type(x).__name__} has no values before its graph runs; call this outside of "
                "tf.function"
            ) from error
    try:
        return np.from_dlpack(x)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise TypeError(
            f"{argument}: {type(x).__name__} cannot be seen as a NumPy array ({error}); pass a dense array "
            "of floating-point numbers on the CPU"
        ) from error


def _refuse_gpu(x: object, argument: str) -> None:
    """Arrays on a GPU in a call of the CPU: NumPy would fail or make an array of one object."""
    if hasattr(x, "__cuda_array_interface__"):
        raise TypeError(
            f"{argument}: {type(x).__name__} lies on a GPU, which this call does not; pass a CPU copy"
        )


def as_output(out: object, like: FloatArray, argument: str) -> FloatArray:
    """`out` if the result for `like` can be written into it; a new array for None."""
    if out is None:
        fresh = np.empty_like(like, subok=False)
        if fresh.nbytes >= LARGE:
            _core.advise_huge_pages(pointer(fresh), fresh.nbytes)
        return fresh
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out: expected a NumPy array as {argument} is one, got {type(out).__name__}")
    out = _seen(out)
    if out.dtype != like.dtype:
        raise TypeError(f"out: dtype {out.dtype} differs from {like.dtype} of {argument}")
    if out.shape != like.shape:
        raise ValueError(f"out: shape {out.shape} differs from {like.shape} of {argument}")
    if not out.flags.writeable:
        raise ValueError("out: the array is read-only")
    if not _is_dense(out):
        raise ValueError("out: the array is not contiguous")
    return out


def aligned(like: FloatArray) -> FloatArray:
    """Memory for a result, in C order, which JAX and TensorFlow can take over as it is."""
    raw = np.empty(like.nbytes + _ALIGNMENT, np.uint8)
    if like.nbytes >= LARGE:
        _core.advise_huge_pages(pointer(raw), raw.nbytes)
    start = -pointer(raw) % _ALIGNMENT
    return raw[start : start + like.nbytes].view(like.dtype).reshape(like.shape)


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
    if grad is None and _core.apply_arrays(_core.OPS[op], map.program, policy, x, out):
        return
    apply_all(op, [(argument, map, x, grad, out)], policy=policy, grad_argument=grad_argument)


def apply_all(
    op: str,
    rows: Sequence[tuple[str, Map, FloatArray, FloatArray | None, FloatArray]],
    *,
    policy: int = 0,
    grad_argument: str = "grad",
) -> None:
    """`apply` for many buffers in one native call: rows of (argument, map, x, grad, out)."""
    segments, parts, evaluated = [], [], []
    for name, map, x, grad, out in rows:
        _refuse_partial_overlap(x, out, name)
        if grad is not None:
            _refuse_partial_overlap(grad, out, grad_argument)
        for m, index, shape in _parts(map, x, name):
            part = view(x, index, shape)
            part_grad = None if grad is None else view(grad, index, shape)
            part_out = view(out, index, shape)
            if isinstance(m, NumPyMap):
                _refuse_invalid(m, part, op, policy, name, index)
                evaluated.append((m, part, part_grad, part_out))
                continue
            segments.append(_segment(m, name, part, part_grad, part_out))
            parts.append((m, part, name, index))
    if len(rows) > 1:
        _refuse_overlap_between(rows)
    number, count, first = _core.apply(_core.OPS[op], segments, policy)
    if count:
        m, part, name, index = parts[number]
        raise _domain_error(m, part, count, first, name, op, index)
    for numpy_map, part, part_grad, part_out in evaluated:
        numpy_map.apply(op, part, part_grad, part_out, policy)


def log_det(
    op: str,
    map: Map,
    x: FloatArray,
    axis: Axis,
    *,
    argument: str,
    policy: int = 0,
    value_op: str = "forward",
    out: FloatArray | None = None,
) -> FloatArray:
    """Sums of op(x) over `axis`, in float64; where `out` is given, also out = value_op(x).

    The sums go over the logical C order in fixed blocks, so that their bits depend on the values alone. Over
    the slices of a space they are added one after the other.
    """
    axes = normalized_axes(axis, x.ndim)
    if out is not None:
        _refuse_partial_overlap(x, out, argument)
    parts, kept = _parts(map, x, argument), [i for i in range(x.ndim) if i not in axes]
    order = None if isinstance(map, Sliced) else [*kept, *axes]  # what is summed comes last
    shape_of_sums = [len(parts)] if order is None else [x.shape[i] for i in kept]
    rows = math.prod(shape_of_sums) // len(parts)
    sums = np.empty((len(parts), rows))
    native, segments = [], []
    for number, (m, index, shape) in enumerate(parts):
        part = view(x, index, shape)
        part_out = None if out is None else view(out, index, shape)
        if isinstance(m, NumPyMap):
            _refuse_invalid(m, part, op, policy, argument, index)
            sums[number] = m.sums(op, part if order is None else part.transpose(order), rows, policy)
        else:
            segments.append(_segment(m, argument, part, None, part_out, order))
            native.append(number)
    found = sums if len(native) == len(parts) else np.empty((len(native), rows))
    number, count, first = _core.log_det(
        _core.OPS[op], segments, rows, pointer(found), _core.OPS[value_op], policy
    )
    if count:
        m, index, shape = parts[native[number]]
        if order:
            moved = np.unravel_index(first, [x.shape[i] for i in order])
            where = [int(i) for _, i in sorted(zip(order, moved, strict=True))]
            first = int(np.ravel_multi_index(where, x.shape))
        raise _domain_error(m, view(x, index, shape), count, first, argument, op, index)
    if found is not sums:
        sums[native] = found
        for m, index, shape in parts:
            if isinstance(m, NumPyMap) and out is not None:
                m.apply(value_op, view(x, index, shape), None, view(out, index, shape), policy)
    return sums.reshape(shape_of_sums) if order is not None else np.array(sum(sums.ravel().tolist()))


def _refuse_invalid(m: NumPyMap, part: FloatArray, op: str, policy: int, argument: str, index: Index) -> None:
    """Everything for which the native engine refuses a buffer, for a map that it does not run."""
    if part.dtype == BFLOAT16:
        raise TypeError(f"{argument}: bfloat16 is not supported by {m.noun}; use float32")
    count, first = m.invalid(op, part, policy)
    if count:
        raise _domain_error(m, part, count, first, argument, op, index)


def _parts(map: Map, x: FloatArray, argument: str) -> list[tuple[Map, Index, tuple[int, ...] | None]]:
    """The parts of a map that fit the buffer."""
    refuse_misfit(map, x.shape, argument)
    return map.parts()


def refuse_misfit(map: Map, shape: tuple[int, ...], argument: str) -> None:
    """A map must fit the shape of a buffer."""
    if isinstance(map, Sliced):
        if shape != map.shape:
            raise ValueError(f"{argument}: shape {shape} differs from {map.shape} of the space")
    else:
        row_strides(map, shape, argument)


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


def pointer(a: FloatArray) -> int:
    """Where the memory of an array begins."""
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


def _same_memory(a: FloatArray, b: FloatArray) -> bool:
    return a.strides == b.strides and pointer(a) == pointer(b)


def _span(a: FloatArray) -> tuple[int, int]:
    """The first byte of the elements, and the one after the last."""
    if not a.size:
        return 0, 0
    reach = [(n - 1) * stride for n, stride in zip(a.shape, a.strides, strict=True)]
    start = pointer(a) + sum(r for r in reach if r < 0)
    return start, pointer(a) + sum(r for r in reach if r > 0) + a.itemsize


def _refuse_overlap_between(rows: Sequence[tuple[str, Map, FloatArray, Any, FloatArray]]) -> None:
    """No output may lie in the memory of another row."""
    spans = []
    for name, _, x, _, out in rows:
        spans.append((*_span(out), name, True))
        if not _same_memory(x, out):
            spans.append((*_span(x), name, False))
    spans.sort()
    ends = {True: (0, ""), False: (0, "")}  # of the outputs and inputs so far, what reaches farthest
    for start, stop, name, is_out in spans:
        for other_is_out, (end, other) in ends.items():
            if start < min(end, stop) and (is_out or other_is_out):
                raise ValueError(f"out: the buffers of {other} and {name} overlap")
        ends[is_out] = max(ends[is_out], (stop, name))


def _refuse_partial_overlap(x: FloatArray, out: FloatArray, argument: str) -> None:
    if np.may_share_memory(x, out) and not _same_memory(x, out):
        raise ValueError(f"out: overlaps {argument} without being the same elements")


def view(a: FloatArray, index: Index, shape: tuple[int, ...] | None) -> FloatArray:
    """Elements of a buffer, in the shape that their map expects."""
    part = a[index]
    if shape is not None:
        part = part.view()
        part.shape = shape  # never copies: raises where it would have to
    return part


def _segment(
    map: Map,
    argument: str,
    x: FloatArray,
    grad: FloatArray | None,
    out: FloatArray | None,
    order: Sequence[int] | None = None,
) -> tuple[Any, ...]:
    """One buffer for the engine; `order` is that of its axes."""
    axes = range(x.ndim) if order is None else order
    rows = row_strides(map, x.shape, argument)
    buffers: list[Any] = []
    for a in (x, grad, out):
        buffers += (0, ()) if a is None else (pointer(a), tuple(a.strides[i] for i in axes))
    return (
        map.program,
        _DTYPES[x.dtype],
        tuple(x.shape[i] for i in axes),
        tuple(rows[i] for i in axes),
        *buffers,
    )


def row_strides(map: Map, shape: tuple[int, ...], argument: str) -> list[int]:
    """How far the parameters of a map are apart along the axes of a buffer."""
    rows = [0] * len(shape)
    if not (params := map.shape):
        return rows
    try:
        fits = np.broadcast_shapes(params, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"map: parameters of shape {params} do not broadcast to {shape} of {argument}")
    stride = 1
    for axis in range(1, len(params) + 1):
        if params[-axis] > 1:
            rows[-axis] = stride
            stride *= params[-axis]
    return rows


def _shown(value: Any) -> str:
    if value.dtype == BFLOAT16:  # the upper half of a float32
        value = np.frombuffer(b"\0\0" + value.tobytes(), np.float32)[0]
    return str(value)


def _domain_error(
    map: Map, x: FloatArray, count: int, first: int, argument: str, op: str, part: Index = ...
) -> DomainError:
    """What is wrong with x; `first` counts in its C order, `part` is its place in a flat buffer."""
    index = tuple(int(i) for i in np.unravel_index(first, x.shape)) if x.ndim else ()
    value = x[index]
    if isinstance(part, slice):
        index = (first + int(part.start),)
    backwards = op.startswith("inverse")
    low, high = map.codomain if backwards else map.domain
    if backwards and np.all(np.isinf(low) & np.isinf(high)):
        refused = "not finite" if getattr(map, "folded", False) else "NaN"
    else:
        numbers = isinstance(low, float) and isinstance(high, float)
        refused = "NaN or outside the codomain" if backwards else "outside the domain"
        refused += f" ({low:g}, {high:g})" if numbers else ""
    where = index[0] if len(index) == 1 else index
    at = f", first at index {where}" if index else ""
    verb = "is" if count == 1 else "are"
    return DomainError(
        f"{argument}: {count} of {x.size} values {verb} {refused} of {map!r}{at} (value {_shown(value)})",
        argument,
        count,
        index,
    )
