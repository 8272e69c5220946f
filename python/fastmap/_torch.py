"""Torch tensors: checks, autograd, then the same native calls on NumPy views of their memory.

Eager calls go straight to the engine. Inside ``torch.compile`` and ``torch.export``, which cannot see through
native calls, they are the operators ``fastmap::elementwise`` and ``fastmap::log_det``.
"""

from __future__ import annotations

import functools
import json
from typing import Any

import torch
from torch import _C, Tensor
from torch.autograd import forward_ad

from fastmap import _core, _native, _shards
from fastmap._derivatives import DERIVATIVE, chain_rule
from fastmap._errors import DomainError
from fastmap._map import Map
from fastmap._native import Axis
from fastmap._shards import PLAIN as _KINDS  # other subclasses hide what their memory means
from fastmap._shards import is_sharded
from fastmap.subspace import Subspace

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def elementwise(op: str, argument: str, x: Tensor, map: Map, out: Tensor | None, policy: int) -> Tensor:
    """op(x), differentiable where x requires grad."""
    if torch.compiler.is_compiling():
        result = torch.ops.fastmap.elementwise(x, op, argument, _text(map), policy)
        return result if out is None else out.copy_(result)
    if tracked(x):
        refuse_out(out, argument)
        return _Elementwise.apply(x, op, argument, map, policy)
    return _apply(op, argument, x, map, out, policy)


def log_det(op: str, argument: str, x: Tensor, map: Map, axis: Axis, policy: int) -> Tensor:
    """Sums of op(x) over axis, in float64."""
    axes = _native.normalized_axes(axis, x.ndim)
    if torch.compiler.is_compiling():
        return torch.ops.fastmap.log_det(x, op, argument, _text(map), axes, policy)
    if tracked(x):
        return _LogDet.apply(x, op, argument, map, axes, policy)
    return _log_det(op, argument, x, map, axes, policy)


def value_and_log_det(
    op: str, log_op: str, argument: str, x: Tensor, map: Map, out: Tensor | None, policy: int
) -> tuple[Tensor, Tensor]:
    """op(x) and the sum of log_op(x)."""
    if torch.compiler.is_compiling() or tracked(x) or is_sharded(x):
        # Two nodes: each has its own derivative, and a graph is built anyway.
        value = elementwise(op, argument, x, map, out, policy)
        return value, log_det(log_op, argument, x, map, None, policy)
    if x.is_cuda:
        total = log_det(log_op, argument, x, map, None, policy)  # first: out may be x
        return elementwise(op, argument, x, map, out, policy), total
    array, result = memory(x, argument), output(out, x, argument)
    total = _native.log_det(
        log_op,
        map,
        array,
        None,
        argument=argument,
        policy=policy,
        value_op=op,
        out=memory(result, "out"),
    )
    written(result)
    return result, torch.from_numpy(total)


def pullback(grad_theta: Any, z: Tensor, map: Map, out: Tensor | None, policy: int) -> Tensor:
    """grad_theta times inverse_jacobian(z)."""
    if not isinstance(grad_theta, Tensor):
        kind = type(grad_theta).__name__
        raise TypeError(f"grad_theta: expected a torch tensor as z is one, got {kind}")
    if grad_theta.dtype != z.dtype:
        raise TypeError(f"grad_theta: dtype {grad_theta.dtype} differs from {z.dtype} of z")
    if grad_theta.shape != z.shape:
        raise ValueError(f"grad_theta: shape {tuple(grad_theta.shape)} differs from {tuple(z.shape)} of z")
    if torch.compiler.is_compiling() or tracked(z) or tracked(grad_theta):
        refuse_out(out, "z")
        return grad_theta * elementwise("inverse_jacobian", "z", z, map, None, policy)
    return _apply("inverse_jacobian", "z", z, map, out, policy, grad_theta, "grad_theta")


class _Elementwise(torch.autograd.Function):
    """An elementwise op; saves its input only."""

    @staticmethod
    def forward(x: Tensor, op: str, argument: str, map: Map, policy: int) -> Tensor:
        return _apply(op, argument, x, map, None, policy)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, ctx.op, ctx.argument, ctx.map, ctx.policy = inputs
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (x,) = ctx.saved_tensors
        grad = _times_derivative(grads[0], ctx.op, ctx.argument, x, ctx.map, ctx.policy)
        return grad, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        (x,) = ctx.saved_tensors
        return _times_derivative(tangents[0], ctx.op, ctx.argument, x, ctx.map, ctx.policy)

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, *rest: Any) -> Any:
        # Parameters that are arrays belong to the last axes, so that one more in front changes nothing.
        return _Elementwise.apply(x.movedim(in_dims[0], 0), *rest), 0


class _LogDet(torch.autograd.Function):
    """A sum of log derivatives."""

    @staticmethod
    def forward(x: Tensor, op: str, argument: str, map: Map, axes: tuple[int, ...], policy: int) -> Tensor:
        return _log_det(op, argument, x, map, axes, policy)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, ctx.op, ctx.argument, ctx.map, ctx.axes, ctx.policy = inputs
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (x,) = ctx.saved_tensors
        grad = _spread(grads[0].to(x.dtype), ctx.axes)
        derivative = elementwise(DERIVATIVE[ctx.op], ctx.argument, x, ctx.map, None, ctx.policy)
        return grad * derivative, None, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        (x,) = ctx.saved_tensors
        derivative = elementwise(DERIVATIVE[ctx.op], ctx.argument, x, ctx.map, None, ctx.policy)
        return (tangents[0] * derivative).sum(ctx.axes, dtype=torch.float64)

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, x: Tensor, op: str, argument: str, map: Map, axes: Any, policy: int
    ) -> Any:
        moved = tuple(axis + 1 for axis in axes)
        return _LogDet.apply(x.movedim(in_dims[0], 0), op, argument, map, moved, policy), 0


def _spread(grad: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The gradient of sums over axes, in a shape that broadcasts to what was summed."""
    for axis in axes:
        grad = grad.unsqueeze(axis)
    return grad


def _times_derivative(grad: Tensor, op: str, argument: str, x: Tensor, map: Map, policy: int) -> Tensor:
    """grad · d op(x)/dx; one fused pass unless the result must be differentiable itself."""
    # A batch of gradients, as ``is_grads_batched=True`` has it, is one tensor to Python only.
    keys = _C._dispatch_keys(grad)
    plain = not (tracked(x) or tracked(grad) or is_sharded(x)) and (
        keys.has(_C.DispatchKey.CPU) or (keys.has(_C.DispatchKey.CUDA) and grad.stride() == x.stride())
    )
    if plain and op in DERIVATIVE and not torch.compiler.is_compiling():
        return _apply(DERIVATIVE[op], argument, x, map, None, policy, grad)
    return chain_rule(grad, op, lambda name: elementwise(name, argument, x, map, None, policy))


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator, unused-ignore]
def _text(map: Map) -> str:
    """A map as an operator takes it."""
    return json.dumps(map.to_json())


@functools.lru_cache(maxsize=256)
def _map_of(text: str) -> Map:
    return Map.from_json(json.loads(text))


_library = torch.library.Library("fastmap", "DEF")
_library.define("elementwise(Tensor x, str op, str argument, str map, int policy) -> Tensor")
_library.define("log_det(Tensor x, str op, str argument, str map, int[] axes, int policy) -> Tensor")


@torch.library.impl(_library, "elementwise", "CUDA")
@torch.library.impl(_library, "elementwise", "CPU")
def _elementwise_op(x: Tensor, op: str, argument: str, map: str, policy: int) -> Tensor:
    return _apply(op, argument, x, _map_of(map), None, policy)


@torch.library.impl(_library, "log_det", "CUDA")
@torch.library.impl(_library, "log_det", "CPU")
def _log_det_op(x: Tensor, op: str, argument: str, map: str, axes: list[int], policy: int) -> Tensor:
    return _log_det(op, argument, x, _map_of(map), tuple(axes), policy)


@torch.library.register_fake("fastmap::elementwise", lib=_library)
def _elementwise_fake(x: Tensor, op: str, argument: str, map: str, policy: int) -> Tensor:
    return torch.empty_like(x)


@torch.library.register_fake("fastmap::log_det", lib=_library)
def _log_det_fake(x: Tensor, op: str, argument: str, map: str, axes: list[int], policy: int) -> Tensor:
    kept = [n for axis, n in enumerate(x.shape) if axis not in axes]
    return x.new_empty(kept, dtype=torch.float64)


def _keep_input(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, *ctx.rest = inputs
    ctx.save_for_backward(x)


def _elementwise_backward(ctx: Any, grad: Tensor) -> Any:
    (x,) = ctx.saved_tensors
    op, *rest = ctx.rest
    evaluate = torch.ops.fastmap.elementwise
    return chain_rule(grad, op, lambda name: evaluate(x, name, *rest)), None, None, None, None


def _log_det_backward(ctx: Any, grad: Tensor) -> Any:
    (x,) = ctx.saved_tensors
    op, argument, map, axes, policy = ctx.rest
    derivative = torch.ops.fastmap.elementwise(x, DERIVATIVE[op], argument, map, policy)
    return _spread(grad.to(x.dtype), axes) * derivative, None, None, None, None, None


torch.library.register_autograd(
    "fastmap::elementwise", _elementwise_backward, setup_context=_keep_input, lib=_library
)
torch.library.register_autograd(
    "fastmap::log_det", _log_det_backward, setup_context=_keep_input, lib=_library
)


def is_transformed(x: Tensor) -> bool:
    """Whether a call runs later or in another form than made: compiled, under ``torch.func``, on a GPU."""
    return torch.compiler.is_compiling() or _C._are_functorch_transforms_active() or x.is_cuda


def tracked(x: Tensor) -> bool:
    """Whether autograd, forward mode or a transform of ``torch.func`` follows x."""
    return (
        (x.requires_grad and torch.is_grad_enabled())
        or _C._are_functorch_transforms_active()
        or (forward_ad._current_level >= 0 and forward_ad.unpack_dual(x).tangent is not None)
    )


def refuse_out(out: Tensor | None, argument: str) -> None:
    if out is not None:
        raise RuntimeError(f"out: cannot be used while {argument} requires grad")


def _apply(
    op: str,
    argument: str,
    x: Tensor,
    map: Map,
    out: Tensor | None,
    policy: int,
    grad: Tensor | None = None,
    grad_argument: str = "grad",
) -> Tensor:
    if is_sharded(x):
        return _apply_to_part(op, argument, x, map, out, policy, grad, grad_argument)
    if x.is_cuda:
        from fastmap import _torch_cuda

        return _torch_cuda.apply(op, argument, x, map, out, policy, grad, grad_argument)
    into = out
    if grad is None and type(x) in _KINDS and not x.is_neg():
        if out is None and x.is_contiguous():
            into = _fresh(x)
        if _usual(into) and _core.apply_arrays(_core.OPS[op], map.program, policy, x, into):
            if into is out:
                written(out)
            return into
    array, result = memory(x, argument), output(into, x, argument)
    _native.apply(
        op,
        map,
        array,
        memory(result, "out"),
        argument=argument,
        policy=policy,
        grad=None if grad is None else memory(grad, grad_argument),
        grad_argument=grad_argument,
    )
    written(result)
    return result


def _apply_to_part(
    op: str,
    argument: str,
    x: Tensor,
    map: Map,
    out: Tensor | None,
    policy: int,
    grad: Tensor | None,
    grad_argument: str,
) -> Tensor:
    """`_apply` on what this process holds."""
    _native.row_strides(map, tuple(x.shape), argument)
    into = None if out is None else _shards.part_beside(out, x, "out", argument)
    g = None if grad is None else _shards.part_beside(grad, x, grad_argument, argument, move=True)
    own, m = _shards.part(x, argument), _shards.map_of_part(map, x)
    with _shards.naming_the_process(x):
        result = _apply(op, argument, own, m, into, policy, g, grad_argument)
    if out is None:
        return _shards.joined(result, x)
    written(out)
    return out


def _log_det(op: str, argument: str, x: Tensor, map: Map, axis: Axis, policy: int) -> Tensor:
    if is_sharded(x):
        return _log_det_of_parts(op, argument, x, map, axis, policy)
    if x.is_cuda:
        from fastmap import _torch_cuda

        return _torch_cuda.log_det(op, argument, x, map, _native.normalized_axes(axis, x.ndim), policy)
    sums = _native.log_det(op, map, memory(x, argument), axis, argument=argument, policy=policy)
    return torch.from_numpy(sums)


def _log_det_of_parts(op: str, argument: str, x: Tensor, map: Map, axis: Axis, policy: int) -> Tensor:
    """`_log_det`, summed over the processes; what one of them refuses is an error in all."""
    _native.row_strides(map, tuple(x.shape), argument)
    axes = _native.normalized_axes(axis, x.ndim)
    own, m = _shards.part(x, argument), _shards.map_of_part(map, x)
    refused = None
    try:
        with _shards.naming_the_process(x):
            sums = _log_det(op, argument, own, m, axes, policy)
    except DomainError as error:  # the others wait for these sums
        kept = [n for i, n in enumerate(own.shape) if i not in axes]
        refused, sums = error, torch.full(kept, torch.nan, dtype=torch.float64)
    result = _shards.summed(sums, x, axes)
    if refused is not None:
        raise refused
    if policy == _native.policy_code("raise") and _shards.part(result, argument).isnan().any():
        raise DomainError(f"{argument}: outside the domain of {map!r} in another process", argument, 0, ())
    return result


def _usual(out: Any) -> bool:
    """Whether the native call may borrow it; it checks device, dtype, shape, layout and overlap itself."""
    return type(out) is Tensor and not (out.requires_grad or out.is_neg() or out.is_inference())


def memory(x: Tensor, argument: str) -> _native.FloatArray:
    """A NumPy view of the tensor's memory."""
    if type(x) not in _KINDS:
        raise TypeError(f"{argument}: tensor subclass {type(x).__name__} is not supported")
    if x.is_nested:
        raise TypeError(f"{argument}: nested tensor is not supported")
    if x.device.type != "cpu":
        raise ValueError(f"{argument}: device {x.device} is not supported; use a CPU tensor")
    if x.dtype not in _DTYPES:
        raise TypeError(f"{argument}: dtype {x.dtype} is not supported; use a floating-point tensor")
    if x.layout is not torch.strided:
        raise TypeError(f"{argument}: layout {x.layout} is not supported; use a dense tensor")
    if x.is_neg():
        raise TypeError(f"{argument}: has the negative bit set; call resolve_neg() first")
    if x._is_zerotensor() or (x.numel() and not x.data_ptr()):
        raise ValueError(f"{argument}: has no memory, or it was freed")
    if x.dtype is torch.bfloat16:
        return x.detach().view(torch.int16).numpy().view(_native.BFLOAT16)
    return x.detach().numpy()


def output(out: Any, like: Tensor, argument: str) -> Tensor:
    if out is None:
        return _fresh(like)
    if not isinstance(out, Tensor):
        kind = type(out).__name__
        raise TypeError(f"out: expected a torch tensor as {argument} is one, got {kind}")
    refuse_output(out)
    _native.as_output(memory(out, "out"), memory(like, argument), argument)
    return out


def _fresh(like: Tensor) -> Tensor:
    """A tensor for the result."""
    fresh = torch.empty_like(like, requires_grad=False)
    if fresh.nbytes >= _native.LARGE:
        _core.advise_huge_pages(fresh.data_ptr(), fresh.nbytes)
    return fresh


def refuse_output(out: Tensor) -> None:
    """Refuse a tensor that autograd does not let anyone write into."""
    if out.requires_grad:
        raise RuntimeError("out: requires grad; write into out.detach() or under no_grad")
    if torch.is_inference(out) and not torch.is_inference_mode_enabled():
        raise RuntimeError("out: is an inference tensor")


def written(result: Tensor) -> None:
    """Tell autograd of the native write, so that a saved tensor that changed is noticed."""
    if not result.is_inference():
        torch.autograd.graph.increment_version(result)


def expanded(subspace: Subspace, z: Tensor, out: Any) -> Tensor:
    """start + P z."""
    if tracked(z):
        refuse_out(out, "z")
        return _Expand.apply(z, subspace, True)
    return _expand(z, subspace, True, out)


def projected(subspace: Subspace, grad_theta: Tensor) -> Tensor:
    """P' grad_theta."""
    return _Project.apply(grad_theta, subspace, grad_theta.dtype)


def _expand(z: Tensor, subspace: Subspace, with_start: bool, out: Any = None, dtype: Any = None) -> Tensor:
    numbers = subspace._numbers(z, subspace.m, "z")
    start = subspace._start if with_start else None
    if out is None:
        return torch.from_numpy(subspace.expand(numbers, start, dtype or numbers.dtype))
    if not isinstance(out, Tensor):
        raise TypeError(f"out: expected a torch tensor as z is one, got {type(out).__name__}")
    refuse_output(out)
    subspace.expand(numbers, start, numbers.dtype, memory(out, "out"))
    written(out)
    return out


class _Expand(torch.autograd.Function):
    """theta = start + P z, or P z alone: linear, so that all derivatives are this and its transpose."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, subspace: Subspace, with_start: bool, dtype: Any = None) -> Tensor:
        ctx.subspace, ctx.dtype = subspace, z.dtype
        return _expand(z, subspace, with_start, None, dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return _Project.apply(grads[0].contiguous(), ctx.subspace, ctx.dtype), None, None, None


class _Project(torch.autograd.Function):
    """grad_z = P' grad_theta."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, subspace: Subspace, dtype: Any) -> Tensor:
        numbers = subspace._numbers(grad, subspace.n, "grad_theta")
        ctx.subspace, ctx.dtype = subspace, numbers.dtype
        return torch.from_numpy(subspace.project(numbers)).to(dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return _Expand.apply(grads[0], ctx.subspace, False, ctx.dtype), None, None
