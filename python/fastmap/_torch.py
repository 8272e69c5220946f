"""Torch tensors: checks, autograd, then the same native calls on NumPy views of their memory.

Inside `torch.compile` the entries below are graph breaks: the compiler cannot see through native calls.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastmap import _core, _native
from fastmap._map import Map
from fastmap._native import Axis

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_KINDS = (Tensor, torch.nn.Parameter)  # other subclasses hide what their memory means

# d op / dx as an op, where there is one; the second derivatives of the map are
# f'' = f' (log |f'|)', which `_times_derivative` writes as a product.
_DERIVATIVE = {
    "forward": "jacobian",
    "inverse": "inverse_jacobian",
    "log_abs_det": "log_abs_det_grad",
    "inverse_log_abs_det": "inverse_log_abs_det_grad",
}
_LOG_DERIVATIVE = {
    "jacobian": "log_abs_det_grad",
    "inverse_jacobian": "inverse_log_abs_det_grad",
}


@torch.compiler.disable
def elementwise(op: str, argument: str, x: Tensor, map: Map, out: Tensor | None, policy: int) -> Tensor:
    """op(x), differentiable where x requires grad."""
    if tracked(x):
        _refuse_out(out, argument)
        return _Elementwise.apply(x, op, argument, map, policy)
    return _apply(op, argument, x, map, out, policy)


@torch.compiler.disable
def log_det(op: str, argument: str, x: Tensor, map: Map, axis: Axis, policy: int) -> Tensor:
    """Sums of op(x) over axis, in float64."""
    if tracked(x):
        return _LogDet.apply(x, op, argument, map, axis, policy)
    return _log_det(op, argument, x, map, axis, policy)


@torch.compiler.disable
def value_and_log_det(
    op: str, log_op: str, argument: str, x: Tensor, map: Map, out: Tensor | None, policy: int
) -> tuple[Tensor, Tensor]:
    """op(x) and the sum of log_op(x)."""
    if tracked(x):
        _refuse_out(out, argument)
        # Two nodes: each has its own derivative, and a graph is built anyway.
        value = elementwise(op, argument, x, map, None, policy)
        return value, log_det(log_op, argument, x, map, None, policy)
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


@torch.compiler.disable
def pullback(grad_theta: Any, z: Tensor, map: Map, out: Tensor | None, policy: int) -> Tensor:
    """grad_theta times inverse_jacobian(z)."""
    if not isinstance(grad_theta, Tensor):
        kind = type(grad_theta).__name__
        raise TypeError(f"grad_theta: expected a torch tensor as z is one, got {kind}")
    if grad_theta.dtype != z.dtype:
        raise TypeError(f"grad_theta: dtype {grad_theta.dtype} differs from {z.dtype} of z")
    if grad_theta.shape != z.shape:
        raise ValueError(f"grad_theta: shape {tuple(grad_theta.shape)} differs from {tuple(z.shape)} of z")
    if tracked(z) or tracked(grad_theta):
        _refuse_out(out, "z")
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

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (x,) = ctx.saved_tensors
        grad = _times_derivative(grads[0], ctx.op, ctx.argument, x, ctx.map, ctx.policy)
        return grad, None, None, None, None


class _LogDet(torch.autograd.Function):
    """A sum of log derivatives."""

    @staticmethod
    def forward(x: Tensor, op: str, argument: str, map: Map, axis: Axis, policy: int) -> Tensor:
        return _log_det(op, argument, x, map, axis, policy)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, ctx.op, ctx.argument, ctx.map, axis, ctx.policy = inputs
        ctx.axes = _native.normalized_axes(axis, x.ndim)
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (x,) = ctx.saved_tensors
        grad = grads[0].to(x.dtype)
        for axis in ctx.axes:
            grad = grad.unsqueeze(axis)
        derivative = elementwise(_DERIVATIVE[ctx.op], ctx.argument, x, ctx.map, None, ctx.policy)
        return grad * derivative, None, None, None, None, None


def _times_derivative(grad: Tensor, op: str, argument: str, x: Tensor, map: Map, policy: int) -> Tensor:
    """grad · d op(x)/dx; one fused pass unless the result must be differentiable itself."""
    if op in _LOG_DERIVATIVE:
        factor = elementwise(_LOG_DERIVATIVE[op], argument, x, map, None, policy)
        return grad * elementwise(op, argument, x, map, None, policy) * factor
    if op not in _DERIVATIVE:
        raise NotImplementedError("third derivatives of a map are not available: it is differentiable twice")
    derivative = _DERIVATIVE[op]
    if torch.is_grad_enabled():  # create_graph=True
        return grad * elementwise(derivative, argument, x, map, None, policy)
    return _apply(derivative, argument, x, map, None, policy, grad)


def tracked(x: Tensor) -> bool:
    return x.requires_grad and torch.is_grad_enabled()


def _refuse_out(out: Tensor | None, argument: str) -> None:
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
    usual = grad is None and _usual(x, out)
    if usual and _core.apply_arrays(_core.OPS[op], map.program, policy, x, out):
        written(out)
        return out
    array, result = memory(x, argument), output(out, x, argument)
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


def _log_det(op: str, argument: str, x: Tensor, map: Map, axis: Axis, policy: int) -> Tensor:
    sums = _native.log_det(op, map, memory(x, argument), axis, argument=argument, policy=policy)
    return torch.from_numpy(sums)


def _usual(x: Tensor, out: Any) -> bool:
    """Whether the native call may borrow both; it checks device, dtype, shape, layout and overlap itself."""
    return (
        type(out) is Tensor
        and type(x) in _KINDS
        and not (out.requires_grad or x.is_neg() or out.is_neg() or out.is_inference())
    )


def memory(x: Tensor, argument: str) -> _native.FloatArray:
    """A NumPy view of the tensor's memory."""
    if type(x) not in _KINDS:
        raise TypeError(f"{argument}: tensor subclass {type(x).__name__} is not supported")
    if x.device.type != "cpu":
        raise ValueError(f"{argument}: device {x.device} is not supported; use a CPU tensor")
    if x.dtype not in _DTYPES:
        raise TypeError(f"{argument}: dtype {x.dtype} is not supported; use a floating-point tensor")
    if x.layout is not torch.strided:
        raise TypeError(f"{argument}: layout {x.layout} is not supported; use a dense tensor")
    if x.is_neg():
        raise TypeError(f"{argument}: has the negative bit set; call resolve_neg() first")
    if x.dtype is torch.bfloat16:
        return x.detach().view(torch.int16).numpy().view(_native.BFLOAT16)
    return x.detach().numpy()


def output(out: Any, like: Tensor, argument: str) -> Tensor:
    if out is None:
        fresh = torch.empty_like(like, requires_grad=False)
        if fresh.nbytes >= _native.LARGE:
            _core.advise_huge_pages(fresh.data_ptr(), fresh.nbytes)
        return fresh
    if not isinstance(out, Tensor):
        kind = type(out).__name__
        raise TypeError(f"out: expected a torch tensor as {argument} is one, got {kind}")
    if out.requires_grad:
        raise RuntimeError("out: requires grad; write into out.detach() or under no_grad")
    if torch.is_inference(out) and not torch.is_inference_mode_enabled():
        raise RuntimeError("out: is an inference tensor")
    _native.as_output(memory(out, "out"), memory(like, argument), argument)
    return out


def written(result: Tensor) -> None:
    """Tell autograd of the native write, so that a saved tensor that changed is noticed."""
    if not result.is_inference():
        torch.autograd.graph.increment_version(result)
