"""The functions of the package: resolve the map and the kind of array, then one native call."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np

from fastmap import _columns, _core, _cuda_arrays, _native, _structured
from fastmap._map import Map, MapLike, resolve
from fastmap._native import Axis, Invalid
from fastmap._structured import StructuredMap

Array: TypeAlias = Any  # an array of NumPy or JAX, a tensor or a number; results are of the same kind


def forward(theta: Array, map: MapLike, *, out: Array | None = None, invalid: Invalid | None = None) -> Array:
    """Parameters to search space, elementwise: z = f(theta).

    Parameters
    ----------
    theta : array, tensor or number
        float16, bfloat16, float32, float64, any shape; numbers, lists and integers count as float64. 16-bit
        types give the float32 result, rounded once. Columns of pandas, Polars and Arrow keep their kind,
        index and names, missing values count as NaN; other arrays that speak DLPack give NumPy arrays, on a
        GPU arrays of their library.
    map : Map, str or Space
        The map f, the name of one with default parameters, or a `Space` over one flat buffer: each slice by
        its own map, in one native call. With a space theta may also be a dict of buffers by name; then the
        result, and `out`, are such dicts. A structured map takes whole rows; z then has another shape.
    out : array or tensor, optional
        Receives z: same kind, shape and dtype, contiguous; may be `theta` itself. Not for arrays of JAX and
        TensorFlow, which nothing can write into.
    invalid : {"raise", "nan", "clip"}, optional
        What to do with theta outside the open domain, infinite or NaN. "raise" (default): DomainError,
        theta is untouched (also in place), the content of `out` is undefined. "nan": NaN instead, and
        the infinite limit on the edge of the domain. "clip": the nearest theta with a finite z; NaN
        still raises. Compiled or transformed calls (``torch.compile``, ``jax.jit``, ``vmap``,
        ``tf.function``) default to "nan".

    Returns
    -------
    array, tensor or number
        z, of the kind of `theta`. Differentiable, twice, when `theta` is an array of JAX, a tensor of
        TensorFlow or one of torch that requires grad: a third derivative is refused by NotImplementedError,
        since maps define two.

    Raises
    ------
    DomainError
        Names the argument, how many values are invalid and the first of them.
    TypeError, ValueError
        Unsupported dtype, shape, overlap, or `out` not writeable. Nothing has been written.
    """
    return elementwise("forward", "theta", theta, map, out, invalid)


def inverse(z: Array, map: MapLike, *, out: Array | None = None, invalid: Invalid | None = None) -> Array:
    """Search space to parameters, elementwise: theta = f⁻¹(z).

    theta lies in the closed domain of the map for every z; infinite z give the bounds themselves. Refused are
    NaN and, for a map that does not reach every number, z outside its closed codomain; "clip" takes the
    nearest z in it. Parameters, returns and errors are as in `forward`.
    """
    return elementwise("inverse", "z", z, map, out, invalid)


def jacobian(
    theta: Array, map: MapLike, *, out: Array | None = None, invalid: Invalid | None = None
) -> Array:
    """dz/dtheta at theta, elementwise: the diagonal of the Jacobian of f. Arguments as in `forward`."""
    return elementwise("jacobian", "theta", theta, map, out, invalid)


def inverse_jacobian(
    z: Array, map: MapLike, *, out: Array | None = None, invalid: Invalid | None = None
) -> Array:
    """dtheta/dz at z, elementwise: the diagonal of the Jacobian of f⁻¹. Arguments as in `inverse`."""
    return elementwise("inverse_jacobian", "z", z, map, out, invalid)


def log_abs_det(theta: Array, map: MapLike, *, axis: Axis = None, invalid: Invalid | None = None) -> Array:
    """Sum of log|dz/dtheta| over `axis`.

    Parameters
    ----------
    theta : array, tensor or number
        As in `forward`.
    map : Map or str
        The map f.
    axis : int, tuple of int or None, optional
        The axes to sum over: None for all, () for no sum (elementwise).
    invalid : {"raise", "nan", "clip"}, optional
        As in `forward`; a NaN makes its sum NaN.

    Returns
    -------
    scalar, array or tensor
        Sums in float64, in a fixed order over the logical C order of theta: their bits do not depend on
        threads or memory layout. With ``axis=()`` elementwise, in
        the dtype of theta. Differentiable when `theta` is a tensor that requires grad. Sums of a DTensor go
        over all its processes, within rounding; what one of them refuses is a DomainError in all.
    """
    return _log_det("log_abs_det", "theta", theta, map, axis, invalid)


def inverse_log_abs_det(
    z: Array, map: MapLike, *, axis: Axis = None, invalid: Invalid | None = None
) -> Array:
    """Sum of log|dtheta/dz| over `axis`, at z. See `log_abs_det`."""
    return _log_det("inverse_log_abs_det", "z", z, map, axis, invalid)


def forward_and_log_det(
    theta: Array, map: MapLike, *, out: Array | None = None, invalid: Invalid | None = None
) -> tuple[Array, Array]:
    """`forward` and the sum of `log_abs_det` over all elements, in one pass."""
    return _value_and_log_det("forward", "log_abs_det", "theta", theta, map, out, invalid)


def inverse_and_log_det(
    z: Array, map: MapLike, *, out: Array | None = None, invalid: Invalid | None = None
) -> tuple[Array, Array]:
    """`inverse` and the sum of `inverse_log_abs_det` over all elements, in one pass."""
    return _value_and_log_det("inverse", "inverse_log_abs_det", "z", z, map, out, invalid)


def pullback(
    grad_theta: Array, z: Array, map: MapLike, *, out: Array | None = None, invalid: Invalid | None = None
) -> Array:
    """The gradient in search space: dL/dz = dL/dtheta · dtheta/dz at z, in one pass.

    Parameters
    ----------
    grad_theta : array or tensor
        dL/dtheta, of the kind, shape and dtype of z.
    z : array or tensor
        Where theta = f⁻¹(z).
    map : Map or str
        The map f.
    out : array or tensor, optional
        Receives dL/dz; may be `grad_theta` or `z` itself.
    invalid : {"raise", "nan", "clip"}, optional
        What to do with a z that is NaN, as in `forward`.
    """
    m, policy, part, z = _prepared(map, z, invalid)
    if part is not None:
        return part.pullback(_held(grad_theta), z, m, out, policy)
    x, grad = _native.as_array(z, "z"), _native.as_array(grad_theta, "grad_theta")
    if grad.dtype != x.dtype:
        raise TypeError(f"grad_theta: dtype {grad.dtype} differs from {x.dtype} of z")
    if grad.shape != x.shape:
        raise ValueError(f"grad_theta: shape {grad.shape} differs from {x.shape} of z")
    result = _native.as_output(out, x, "z")
    _native.apply(
        "inverse_jacobian",
        m,
        x,
        result,
        argument="z",
        policy=policy,
        grad=grad,
        grad_argument="grad_theta",
    )
    return _returned(result, z, out)


# Inside of ``tf.function`` TensorFlow rewrites the functions that it comes across, but for its own.
for _function in (
    forward,
    inverse,
    jacobian,
    inverse_jacobian,
    log_abs_det,
    inverse_log_abs_det,
    forward_and_log_det,
    inverse_and_log_det,
    pullback,
):
    _function.__dict__["autograph_info__"] = None  # by which it knows them


def elementwise(
    op: str, argument: str, x: Array, map: MapLike, out: Array | None, invalid: Invalid | None
) -> Array:
    """An elementwise operation by its name, with any policy."""
    m, policy, part, x = _prepared(map, x, invalid)
    if part is not None:
        return part.elementwise(op, argument, x, m, out, policy)
    into = out
    if out is None and type(x) is np.ndarray and x.dtype.kind == "f" and x.flags.c_contiguous:
        into = _native.as_output(None, x, argument)
    if into is not None and _core.apply_arrays(_core.OPS[op], m.program, policy, x, into):
        return into  # plain arrays, nothing to refuse: by far the most frequent call
    if isinstance(x, Mapping):
        return _by_name(op, argument, x, map, out, invalid)
    array = _native.as_array(x, argument)
    result = _native.as_output(into, array, argument)
    _native.apply(op, m, array, result, argument=argument, policy=policy)
    return _returned(result, x, out)


def _by_name(
    op: str,
    argument: str,
    x: Mapping[str, Array],
    space: Any,
    out: Mapping[str, Array] | None,
    invalid: Invalid | None,
) -> dict[str, Array]:
    """Buffers by name, in one native call; rows and what autograd, JAX or TensorFlow follow get one each."""
    maps: dict[str, Map] | None = getattr(space, "maps", None)
    if not isinstance(maps, dict):
        raise TypeError(f"{argument}: buffers by name need a Space as map, got {type(space).__name__}")
    for name, given in ((argument, x), ("out", out)):
        if given is not None and set(given) != set(maps):
            raise ValueError(f"{name}: expected the names {sorted(maps)} of the space, got {sorted(given)}")
    rows, tensors, results = [], [], {}
    for name, value in x.items():
        value = _held(value)
        label, given = f"{argument}[{name!r}]", None if out is None else out[name]
        framework = _framework_of(value)
        if isinstance(maps[name], StructuredMap):
            results[name] = elementwise(op, label, value, maps[name], given, invalid)
        elif framework is None:
            array = _native.as_array(value, label)
            result = _native.as_output(given, array, label)
            results[name] = _returned(result, value, given)
            rows.append((label, maps[name], array, None, result))
        elif framework.tracked(value):
            policy = _policy(invalid, value, framework)
            results[name] = framework.elementwise(op, label, value, maps[name], given, policy)
        else:
            result = results[name] = framework.output(given, value, label)
            memory = framework.memory(value, label), None, framework.memory(result, "out")
            rows.append((label, maps[name], *memory))
            tensors.append((framework, result))
    _native.apply_all(op, rows, policy=_native.policy_code(invalid))
    for framework, result in tensors:
        framework.written(result)
    return results


def _log_det(op: str, argument: str, x: Array, map: MapLike, axis: Axis, invalid: Invalid | None) -> Array:
    if axis == ():
        return elementwise(op, argument, x, map, None, invalid)
    m, policy, part, x = _prepared(map, x, invalid)
    if part is not None:
        return part.log_det(op, argument, x, m, axis, policy)
    array = _native.as_array(x, argument)
    return _native.log_det(op, m, array, axis, argument=argument, policy=policy)[()]


def _value_and_log_det(
    op: str,
    log_op: str,
    argument: str,
    x: Array,
    map: MapLike,
    out: Array | None,
    invalid: Invalid | None,
) -> tuple[Array, Array]:
    m, policy, part, x = _prepared(map, x, invalid)
    if part is not None:
        return part.value_and_log_det(op, log_op, argument, x, m, out, policy)
    array = _native.as_array(x, argument)
    result = _native.as_output(out, array, argument)
    total = _native.log_det(log_op, m, array, None, argument=argument, policy=policy, value_op=op, out=result)
    return _returned(result, x, out), total[()]


def _returned(result: Array, x: Array, out: Array | None) -> Array:
    """`out` itself; else the result as x is: a scalar, a column, an array of its kind of bfloat16."""
    if out is not None:
        return out
    if result.dtype == _native.BFLOAT16:
        result = result.view(x.dtype)
    if isinstance(x, np.ndarray):
        return result
    return _columns.like(x, result) if result.ndim else result[()]


def _prepared(map: MapLike, x: Array, invalid: Invalid | None) -> tuple[Map, int, ModuleType | None, Array]:
    """The map, the code of the policy, the part of the package that does it unless it is NumPy's, and x."""
    if type(x) is not np.ndarray:
        x = _held(x)
    m, framework = resolve(map), _framework_of(x)
    rows = isinstance(m, StructuredMap) and not isinstance(x, Mapping)
    return m, _policy(invalid, x, framework), _structured if rows else framework, x


def _policy(invalid: Invalid | None, x: Array, framework: ModuleType | None) -> int:
    """The code of a policy; None means "raise", and "nan" where a call runs later than it is made."""
    if invalid is None and framework is not None and framework.is_transformed(x):
        return _native.policy_code("nan")
    return _native.policy_code(invalid)


def _held(x: Array) -> Array:
    """x; of a variable of Keras the tensor that its backend holds."""
    if (keras := sys.modules.get("keras")) is None:
        return x
    if isinstance(x, keras.KerasTensor):
        raise TypeError(
            f"KerasTensor {x.name!r} has no values: call fastmap in a layer, or in keras.layers.Lambda"
        )
    return x.value if isinstance(x, keras.Variable) else x


def _framework_of(x: Array) -> ModuleType | None:
    """The part of the package for the framework that x is an array of; none is ever imported for it."""
    if type(x) is np.ndarray:
        return None
    if (torch := sys.modules.get("torch")) is not None and isinstance(x, torch.Tensor):
        if (part := sys.modules.get("fastmap._torch")) is None:  # an import would take 1 us of each call
            from fastmap import _torch as part
        return part
    if (jax := sys.modules.get("jax")) is not None and isinstance(x, jax.Array):
        from fastmap import _jax

        return _jax
    if (tf := sys.modules.get("tensorflow")) is not None and isinstance(
        x, (tf.Tensor, tf.Variable, tf.RaggedTensor, tf.SparseTensor, tf.IndexedSlices)
    ):
        from fastmap import _tensorflow

        return _tensorflow
    if _cuda_arrays.is_there(x):
        return _cuda_arrays
    return None
