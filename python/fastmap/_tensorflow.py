"""TensorFlow tensors: checks, derivatives, then the native calls on NumPy views of their memory.

Eager tensors are read where they lie. Their results come by DLPack, or are written into a new tensor where
they are large; nothing is copied. In a graph, inside of ``tf.function``, a call is a ``tf.numpy_function``:
TensorFlow keeps no stable interface for native operations.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from fastmap import _native
from fastmap._derivatives import DERIVATIVE, chain_rule
from fastmap._map import Map
from fastmap._native import BFLOAT16, Axis, FloatArray

OLDEST = (2, 18)  # the first on NumPy 2
_DTYPES = (tf.float32, tf.float64, tf.bfloat16, tf.float16)


def refuse_old(version: str) -> None:
    """ImportError for a TensorFlow that is too old."""
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise ImportError(
            f"TensorFlow {version} is too old, {oldest} is needed: pip install -U 'fastmap[tensorflow]'"
        )


refuse_old(tf.__version__)

try:  # A derivative costs a call of `tf.custom_gradient`, ten times the map of a few numbers.
    from tensorflow.python.eager.record import could_possibly_record as _recording
except ImportError:  # it is no part of the public interface

    def _recording() -> bool:
        """Whether a tape or an accumulator may follow what is computed."""
        return True


def elementwise(op: str, argument: str, x: Any, map: Map, out: Any, policy: int) -> Any:
    """op(x), differentiable twice."""
    x = _checked(x, argument, map, out)
    if not is_transformed(x) and not _recording():
        return _apply(op, argument, map, policy, x)

    def compute(array: FloatArray) -> FloatArray:
        result = _native.aligned(array)
        _native.apply(op, map, array, result, argument=argument, policy=policy)
        return result

    def value(x: Any) -> Any:
        if is_transformed(x):
            return _deferred(compute, x, argument, x.dtype, x.shape)
        return _apply(op, argument, map, policy, x)

    @tf.custom_gradient  # type: ignore[untyped-decorator, unused-ignore]
    def differentiable(x: Any) -> Any:
        def gradient(grad: Any) -> Any:
            if op in DERIVATIVE and not is_transformed(x) and not _recording():
                return _apply(DERIVATIVE[op], argument, map, policy, x, grad, "the gradient")
            return chain_rule(grad, op, lambda name: elementwise(name, argument, x, map, None, policy))

        return value(x), gradient

    return differentiable(x)


def log_det(op: str, argument: str, x: Any, map: Map, axis: Axis, policy: int) -> Any:
    """Sums of op(x) over axis, in float64."""
    x = _checked(x, argument, map)
    if x.shape.rank is None:
        raise ValueError(f"{argument}: how many axes it has is not known here; use tf.ensure_shape")
    axes = _native.normalized_axes(axis, x.shape.rank)
    kept = [n for i, n in enumerate(x.shape) if i not in axes]

    def compute(array: FloatArray) -> FloatArray:
        return _owned(_native.log_det(op, map, array, axes, argument=argument, policy=policy))

    def value(x: Any) -> Any:
        if is_transformed(x):
            return _deferred(compute, x, argument, tf.float64, kept)
        return _taken(compute(_memory(x, argument)))

    if not is_transformed(x) and not _recording():
        return value(x)

    @tf.custom_gradient  # type: ignore[untyped-decorator, unused-ignore]
    def differentiable(x: Any) -> Any:
        def gradient(grad: Any) -> Any:
            grad = tf.cast(grad, x.dtype)
            for i in axes:
                grad = tf.expand_dims(grad, i)
            return chain_rule(grad, op, lambda name: elementwise(name, argument, x, map, None, policy))

        return value(x), gradient

    return differentiable(x)


def value_and_log_det(
    op: str, log_op: str, argument: str, x: Any, map: Map, out: Any, policy: int
) -> tuple[Any, Any]:
    """op(x) and the sum of log_op(x)."""
    x = _checked(x, argument, map, out)
    if is_transformed(x) or _recording():
        # Two nodes: each has its own derivative, and a graph is built anyway.
        value = elementwise(op, argument, x, map, None, policy)
        return value, log_det(log_op, argument, x, map, None, policy)
    array = _memory(x, argument)
    tensor, result = _output(x, array)
    total = _native.log_det(
        log_op, map, array, None, argument=argument, policy=policy, value_op=op, out=result
    )
    return _taken(result) if tensor is None else tensor, _taken(_owned(total))


def pullback(grad_theta: Any, z: Any, map: Map, out: Any, policy: int) -> Any:
    """grad_theta times inverse_jacobian(z)."""
    if not isinstance(grad_theta, tf.Tensor | tf.Variable):
        kind = type(grad_theta).__name__
        raise TypeError(f"grad_theta: expected a TensorFlow tensor as z is one, got {kind}")
    z, grad = _checked(z, "z", map, out), _dense(grad_theta, "grad_theta")
    if grad.dtype != z.dtype:
        raise TypeError(f"grad_theta: dtype {grad.dtype.name} differs from {z.dtype.name} of z")
    if not grad.shape.is_compatible_with(z.shape):
        raise ValueError(f"grad_theta: shape {grad.shape} differs from {z.shape} of z")
    if is_transformed(z) or is_transformed(grad) or _recording():
        return grad * elementwise("inverse_jacobian", "z", z, map, None, policy)
    return _apply("inverse_jacobian", "z", map, policy, z, grad, "grad_theta")


def is_transformed(x: Any) -> bool:
    """Whether a call runs later than it is made: in a graph."""
    return not tf.executing_eagerly() or not hasattr(x, "numpy")


def tracked(x: Any) -> bool:
    """Whether a call needs more than memory: a tensor of TensorFlow always has a call of its own."""
    return True


def _checked(x: Any, argument: str, map: Map, out: Any = None) -> Any:
    """A dense tensor, and in a graph one that fits the map, as far as its shape is known there."""
    if out is not None:
        fix = "assign the result" if isinstance(out, tf.Variable) else "use the result"
        raise TypeError(f"out: tensors of TensorFlow cannot be written into; {fix}")
    x = _dense(x, argument)
    if is_transformed(x) and x.shape.is_fully_defined():
        _native.refuse_misfit(map, tuple(x.shape), argument)
    return x


def _dense(x: Any, argument: str) -> Any:
    """A tensor of a float type; the value of a variable."""
    if isinstance(x, tf.Variable):
        x = tf.convert_to_tensor(x)  # no copy; a tape notices
    elif not isinstance(x, tf.Tensor):
        raise TypeError(f"{argument}: {type(x).__name__} is not supported; pass its values, or make it dense")
    if x.dtype not in _DTYPES:
        raise TypeError(
            f"{argument}: dtype {x.dtype.name} is not supported; use tf.cast to float32, float64, bfloat16 "
            "or float16"
        )
    return x


def _apply(
    op: str, argument: str, map: Map, policy: int, x: Any, grad: Any = None, grad_argument: str = "grad"
) -> Any:
    """op(x), times `grad` where given: one native pass, of which no tape knows."""
    array = _memory(x, argument)
    tensor, result = _output(x, array)
    _native.apply(
        op,
        map,
        array,
        result,
        argument=argument,
        policy=policy,
        grad=None if grad is None else _memory(grad, grad_argument),
        grad_argument=grad_argument,
    )
    return _taken(result) if tensor is None else tensor


def _deferred(
    compute: Callable[[FloatArray], FloatArray], x: Any, argument: str, dtype: Any, shape: Any
) -> Any:
    """What `compute` makes of the memory of x when the graph runs."""

    def run(array: Any) -> Any:
        result = compute(_native.as_array(array, argument))
        return result.view(array.dtype) if result.dtype == BFLOAT16 else result

    # Not stateful: it may be left out where nobody needs it, `GradientTape.jacobian` vectorises around it.
    result = tf.numpy_function(run, [x], dtype, stateful=False)
    result.set_shape(shape)
    return result


def _memory(x: Any, argument: str) -> FloatArray:
    """A NumPy view of the memory of an eager tensor, read-only."""
    device = x.backing_device.rpartition("device:")[2]
    if not device.startswith("CPU"):
        raise ValueError(f"{argument}: device {device} is not supported; copy it under tf.device('CPU')")
    if x.dtype == tf.bfloat16:  # for which Python has no buffers
        return np.asarray(memoryview(tf.bitcast(x, tf.uint16))).view(BFLOAT16)
    return np.asarray(memoryview(x))


def _output(x: Any, array: FloatArray) -> tuple[Any, FloatArray]:
    """Memory for a result like x, and the tensor that has it: None where one has to take it over.

    TensorFlow keeps the memory of large tensors and gives it out again; new pages of the system cost several
    times a map. An operation of its own costs as much as the map of some ten thousand numbers.
    """
    if array.nbytes < _native.LARGE:
        return None, _native.aligned(array)
    with tf.device("CPU"):
        tensor = tf.raw_ops.Empty(shape=array.shape, dtype=x.dtype, init=False)
    seen = _memory(tensor, "out")  # read-only, as a tensor is; nobody has seen this one yet
    memory: Any = (ctypes.c_char * seen.nbytes).from_address(_native.pointer(seen))
    return tensor, np.frombuffer(memory, seen.dtype).reshape(seen.shape)


def _taken(result: FloatArray) -> Any:
    """A tensor that takes over the memory of `_native.aligned`."""
    if result.dtype == BFLOAT16:  # which NumPy cannot give to DLPack
        return tf.bitcast(_taken(result.view(np.uint16)), tf.bfloat16)
    if not result.size:
        return tf.zeros(result.shape, result.dtype)  # there is nothing to take over
    return tf.experimental.dlpack.from_dlpack(result.__dlpack__())


def _owned(sums: FloatArray) -> FloatArray:
    """Sums in memory that TensorFlow may take over: its loads rely on the alignment."""
    result = _native.aligned(sums)
    result[...] = sums
    return result
