"""JAX arrays: checks, derivatives, then the native calls.

Arrays with values go to the engine as NumPy views of their memory, so that what is refused is a `DomainError`
at once. What is traced becomes a call that XLA makes when it runs, through its foreign function interface
(``csrc/bind/xla.hpp``); the program then carries the map itself, so that another process may load and run it.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fastmap import _core, _native
from fastmap._derivatives import chain_rule
from fastmap._info import __version__
from fastmap._map import Map, Sliced
from fastmap._native import Axis

FLOATS = {np.dtype(t) for t in (np.float32, np.float64, np.float16, jnp.bfloat16)}

# A program that XLA has kept on disk knows maps by their number: another catalog is another function.
_CATALOG = zlib.crc32(" ".join(entry["name"] for entry in _core.catalog()).encode())
_TARGETS = {name: f"fastmap_{__version__}_{_CATALOG:08x}_{name}" for name in _core.XLA_HANDLERS}
for _name, _handler in _core.XLA_HANDLERS.items():
    jax.ffi.register_ffi_target(_TARGETS[_name], _handler, platform="cpu")


def elementwise(op: str, argument: str, x: jax.Array, map: Map, out: Any, policy: int) -> jax.Array:
    """op(x), differentiable twice."""
    x = _checked(x, argument, out)
    if is_transformed(x):
        _native.refuse_misfit(map, x.shape, argument)
        return _elementwise(op, argument, map, policy, x)
    array = _memory(x, argument)
    result = _native.aligned(array)
    _native.apply(op, map, array, result, argument=argument, policy=policy)
    return _wrapped(result.view(x.dtype), x)


def log_det(op: str, argument: str, x: jax.Array, map: Map, axis: Axis, policy: int) -> jax.Array:
    """Sums of op(x) over axis, in float64 as far as JAX has it."""
    x = _checked(x, argument)
    if is_transformed(x):
        _native.refuse_misfit(map, x.shape, argument)
        return _log_det(op, None, argument, map, _native.normalized_axes(axis, x.ndim), policy, x)[0]
    sums = _native.log_det(op, map, _memory(x, argument), axis, argument=argument, policy=policy)
    return _wrapped(sums.astype(_sum_dtype()), x)


def value_and_log_det(
    op: str, log_op: str, argument: str, x: jax.Array, map: Map, out: Any, policy: int
) -> tuple[jax.Array, jax.Array]:
    """op(x) and the sum of log_op(x), in one pass."""
    x = _checked(x, argument, out)
    if is_transformed(x):
        _native.refuse_misfit(map, x.shape, argument)
        sums, values = _log_det(log_op, op, argument, map, tuple(range(x.ndim)), policy, x)
        return values, sums
    array = _memory(x, argument)
    result = _native.aligned(array)
    total = _native.log_det(
        log_op, map, array, None, argument=argument, policy=policy, value_op=op, out=result
    )
    return _wrapped(result.view(x.dtype), x), _wrapped(total.astype(_sum_dtype()), x)


def pullback(grad_theta: Any, z: jax.Array, map: Map, out: Any, policy: int) -> jax.Array:
    """grad_theta times inverse_jacobian(z)."""
    if not isinstance(grad_theta, jax.Array):
        raise TypeError(f"grad_theta: expected a JAX array as z is one, got {type(grad_theta).__name__}")
    z, grad = _checked(z, "z", out), _checked(grad_theta, "grad_theta")
    if grad.dtype != z.dtype:
        raise TypeError(f"grad_theta: dtype {grad.dtype} differs from {z.dtype} of z")
    if grad.shape != z.shape:
        raise ValueError(f"grad_theta: shape {grad.shape} differs from {z.shape} of z")
    if is_transformed(z) or is_transformed(grad):
        _native.refuse_misfit(map, z.shape, "z")
        return _pullback(map, policy, grad, z)
    array, result = _memory(z, "z"), _native.aligned(_memory(z, "z"))
    _native.apply(
        "inverse_jacobian",
        map,
        array,
        result,
        argument="z",
        policy=policy,
        grad=_memory(grad, "grad_theta"),
        grad_argument="grad_theta",
    )
    return _wrapped(result.view(z.dtype), z)


def is_transformed(x: jax.Array) -> bool:
    """Whether a call runs later or in another form than it is made: under jit, grad, vmap, ..."""
    return isinstance(x, jax.core.Tracer)


def tracked(x: jax.Array) -> bool:
    """Whether a call needs more than memory: an array of JAX always belongs to a call of its own."""
    return True


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2, 3))
def _elementwise(op: str, argument: str, map: Map, policy: int, x: jax.Array) -> jax.Array:
    (result,) = _call("apply", map, (x,), (x,), argument, [_core.OPS[op], 0, policy])
    return result


@_elementwise.defjvp
def _elementwise_jvp(op: str, argument: str, map: Map, policy: int, primals: Any, tangents: Any) -> Any:
    (x,), (dx,) = primals, tangents

    def evaluate(name: str) -> jax.Array:
        return _elementwise(name, argument, map, policy, x)

    return evaluate(op), chain_rule(dx, op, evaluate)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _pullback(map: Map, policy: int, grad: jax.Array, z: jax.Array) -> jax.Array:
    (result,) = _call("apply", map, (z, grad), (z,), "z", [_core.OPS["inverse_jacobian"], 0, policy])
    return result


@_pullback.defjvp
def _pullback_jvp(map: Map, policy: int, primals: Any, tangents: Any) -> Any:
    (grad, z), (dgrad, dz) = primals, tangents

    def evaluate(name: str) -> jax.Array:
        return _elementwise(name, "z", map, policy, z)

    moved = dgrad * evaluate("inverse_jacobian") + grad * chain_rule(dz, "inverse_jacobian", evaluate)
    return _pullback(map, policy, grad, z), moved


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2, 3, 4, 5))
def _log_det(
    op: str, value_op: str | None, argument: str, map: Map, axes: tuple[int, ...], policy: int, x: jax.Array
) -> tuple[jax.Array, ...]:
    """The sums, and where `value_op` is given the values."""
    kept = [axis for axis in range(x.ndim) if axis not in axes]
    order = [axis - x.ndim for axis in (*kept, *axes)]
    sums = jax.eval_shape(lambda x: jnp.sum(x, axes, dtype=_sum_dtype()), x)
    numbers = [_core.OPS[op], _core.OPS[value_op or "forward"], policy]
    results = (sums,) if value_op is None else (sums, x)
    return _call("log_det", map, (x,), results, argument, numbers, order, len(axes))


@_log_det.defjvp
def _log_det_jvp(
    op: str,
    value_op: str | None,
    argument: str,
    map: Map,
    axes: tuple[int, ...],
    policy: int,
    primals: Any,
    tangents: Any,
) -> Any:
    (x,), (dx,) = primals, tangents

    def evaluate(name: str) -> jax.Array:
        return _elementwise(name, argument, map, policy, x)

    results = _log_det(op, value_op, argument, map, axes, policy, x)
    moved = [jnp.sum(chain_rule(dx, op, evaluate), axes, dtype=results[0].dtype)]
    if value_op is not None:
        moved.append(chain_rule(dx, value_op, evaluate))
    return results, tuple(moved)


def step(
    map: Map,
    rule: Sequence[int],
    numbers: Sequence[Any],
    buffers: tuple[jax.Array, ...],
    count: jax.Array,
    *,
    keep_theta: bool,
) -> tuple[jax.Array, ...]:
    """The new theta, z and moments of one parameter.

    buffers: theta, gradient, z, moments. rule and numbers are those of ``csrc/bind/xla.hpp``; of the numbers,
    those that are arrays become an operand, so that another value is no other program. z and the moments are
    given up, and so is theta unless it is kept: where the caller has donated them nothing is copied.
    """
    theta, gradient, z, *moments = buffers
    fixed = [isinstance(n, int | float) for n in numbers]
    operands = [theta, gradient, z, count, *moments]
    if not all(fixed):
        wide = _sum_dtype()
        operands.append(jnp.stack([jnp.asarray(n, wide) for n in numbers]))
    changing = {0: 0, 2: 1, **{4 + i: 2 + i for i in range(len(moments))}}
    if keep_theta:
        del changing[0]
    return _call(
        "step",
        map,
        tuple(operands),
        (theta, z, *moments),
        "theta",
        [0, 0, 0],
        aliases=changing,
        rule=np.array(rule, np.int64),
        numbers=np.array([n if f else np.nan for n, f in zip(numbers, fixed, strict=True)], np.float64),
    )


def _call(
    handler: str,
    map: Map,
    operands: tuple[jax.Array, ...],
    results: tuple[Any, ...],
    argument: str,
    op_numbers: list[int],
    order: Sequence[int] = (),
    summed: int = 0,
    aliases: dict[int, int] | None = None,
    **more: np.ndarray[Any, Any],
) -> tuple[jax.Array, ...]:
    """A call of a native handler, whose attributes ``csrc/bind/xla.hpp`` describes."""
    sliced, parts = isinstance(map, Sliced), map.parts()
    for m, *_ in parts:
        if m.program is None:
            raise TypeError(f"map: {m.noun} cannot be traced by JAX; call it outside of jit and grad")
    order = order or [-1] * sliced  # slices lie along the last axis
    program = [*op_numbers, summed, len(order), *order, sliced, len(parts)]
    params = [np.zeros(0)]
    for m, index, slice_shape in parts:
        start = index.start if isinstance(index, slice) else 0
        shape = slice_shape or ()
        program += [start, len(shape), *shape, len(m.shape), *m.shape, len(m.steps)]
        for number, inverted, values in m.steps:
            program += [number, inverted]
            params += [np.broadcast_to(np.asarray(v, np.float64), m.shape).ravel() for v in values]
    call = jax.ffi.ffi_call(
        _TARGETS[handler],
        [jax.eval_shape(lambda r: r, r) for r in results],
        vmap_method="broadcast_all" if aliases is None else "sequential",  # a step has scalars, too
        input_output_aliases=aliases,
    )
    return tuple(
        call(
            *operands,
            program=np.array(program, np.int64),
            params=np.concatenate(params),
            argument=argument,
            **more,
        )
    )


def _sum_dtype() -> Any:
    """float64, or float32 where JAX is not told to have it."""
    return jax.dtypes.canonicalize_dtype(np.float64)


def _checked(x: jax.Array, argument: str, out: Any = None) -> jax.Array:
    """The array, integers as JAX's default float type."""
    if out is not None:
        raise TypeError("out: JAX arrays cannot be written into; use the result")
    if x.dtype in FLOATS:
        return x
    if jnp.issubdtype(x.dtype, jnp.integer):
        return x.astype(_sum_dtype())
    raise TypeError(
        f"{argument}: dtype {x.dtype} is not supported; use float32, float64, bfloat16 or float16"
    )


def _memory(x: jax.Array, argument: str) -> _native.FloatArray:
    """A NumPy view of the memory of an array that has values; waits for them."""
    devices = x.devices()
    if len(devices) > 1:
        raise ValueError(
            f"{argument}: lies on {len(devices)} devices; call it under jax.jit or, to keep its parts where "
            "they are, under jax.shard_map"
        )
    if (platform := next(iter(devices)).platform) != "cpu":
        raise ValueError(
            f"{argument}: device {platform} is not supported; use jax.device_put to a CPU device"
        )
    return _native.as_array(np.asarray(x), argument)


def _wrapped(result: _native.FloatArray, x: jax.Array) -> jax.Array:
    """The result as an array of JAX where x is, and as free to move as x is."""
    wrapped: jax.Array = jax.device_put(result, x.sharding if x.committed else None)
    return wrapped
