"""Structured maps of torch tensors: autograd to second order over native calls on the tensors' memory.

F(x) gives the values and the log-determinants of rows; P(x, g) is its pullback of gradients g. The derivative
of P by x along u is that of P's own formulas along u, since second derivatives are symmetric, and by g it is
the derivative of F along u: tangents of both are all that a second derivative needs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastmap import _native, _structured
from fastmap._derivatives import NO_THIRD
from fastmap._structured import Op, StructuredMap
from fastmap._torch import memory, refuse_out, refuse_output, tracked, written


def value_and_rows(
    op: Op, argument: str, x: Tensor, map: StructuredMap, out: Tensor | None, policy: int
) -> tuple[Tensor, Tensor]:
    """f(x) or its inverse, and the log-determinant of every row."""
    _structured.shapes(map, argument, tuple(x.shape), is_theta=op == "forward")
    if tracked(x):
        refuse_out(out, argument)
        return _Values.apply(x, map, op, argument, policy)
    return _values(x, map, op, argument, policy, out)


def pullback(grad_theta: Any, z: Tensor, map: StructuredMap, out: Tensor | None, policy: int) -> Tensor:
    """dL/dz from dL/dtheta, at z."""
    if not isinstance(grad_theta, Tensor):
        kind = type(grad_theta).__name__
        raise TypeError(f"grad_theta: expected a torch tensor as z is one, got {kind}")
    _, shape = _structured.shapes(map, "z", tuple(z.shape), is_theta=False)
    _structured.check_gradient(grad_theta, z, shape)
    if tracked(z) or tracked(grad_theta):
        refuse_out(out, "z")
        return _Pullback.apply(z, grad_theta, _no_rows(z, map, "inverse"), map, "inverse", "z", policy)
    return _pulled(z, grad_theta, None, map, "inverse", "z", policy, out)


class _Values(torch.autograd.Function):
    """F: the values and the log-determinants of rows."""

    @staticmethod
    def forward(x: Tensor, map: StructuredMap, op: Op, argument: str, policy: int) -> tuple[Tensor, Tensor]:
        return _values(x, map, op, argument, policy)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        x, *ctx.rest = inputs
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (x,) = ctx.saved_tensors
        return _Pullback.apply(x, *grads, *ctx.rest), None, None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        (x,) = ctx.saved_tensors
        return _Tangent.apply(x, tangents[0], *ctx.rest)

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, *rest: Any) -> Any:
        return _Values.apply(x.movedim(in_dims[0], 0), *rest), (0, 0)


class _Pullback(torch.autograd.Function):
    """P: gradients of the values and of the log-determinants, pulled back."""

    @staticmethod
    def forward(x: Tensor, grad: Tensor, grad_rows: Tensor, *rest: Any) -> Tensor:
        return _pulled(x, grad, grad_rows, *rest)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.rest = inputs[3:]
        ctx.save_for_backward(*inputs[:3])
        ctx.save_for_forward(*inputs[:3])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, grad, grad_rows = ctx.saved_tensors
        along = grads[0]
        by_x = _PullbackTangent.apply(x, along, grad, grad_rows, *ctx.rest)
        return by_x, *_Tangent.apply(x, along, *ctx.rest), None, None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        x, grad, grad_rows = ctx.saved_tensors
        along, *moved = tangents
        result = torch.zeros_like(x)
        if along is not None:
            result = result + _PullbackTangent.apply(x, along, grad, grad_rows, *ctx.rest)
        by_grad, by_rows = (
            torch.zeros_like(g) if t is None else t for t, g in zip(moved[:2], (grad, grad_rows), strict=True)
        )
        return result + _Pullback.apply(x, by_grad, by_rows, *ctx.rest)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> Any:
        return _Pullback.apply(*_batched(info, in_dims, inputs, 3), *inputs[3:]), 0


class _Last(torch.autograd.Function):
    """A derivative that has none of its own."""

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise NotImplementedError(NO_THIRD)


class _Tangent(_Last):
    """The derivative of F along a direction."""

    @staticmethod
    def forward(x: Tensor, along: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        return _values(x, *rest, along=along)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> Any:
        return _Tangent.apply(*_batched(info, in_dims, inputs, 2), *inputs[2:]), (0, 0)


class _PullbackTangent(_Last):
    """The derivative of P by x along a direction."""

    @staticmethod
    def forward(x: Tensor, along: Tensor, grad: Tensor, grad_rows: Tensor, *rest: Any) -> Tensor:
        return _pulled(x, grad, grad_rows, *rest, along=along)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> Any:
        return _PullbackTangent.apply(*_batched(info, in_dims, inputs, 4), *inputs[4:]), 0


def _batched(info: Any, in_dims: Any, inputs: Any, count: int) -> list[Tensor]:
    """The first inputs with the mapped axis in front, repeated where they have none."""
    return [
        x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
        for x, dim in zip(inputs[:count], in_dims, strict=False)
    ]


def _values(
    x: Tensor,
    map: StructuredMap,
    op: Op,
    argument: str,
    policy: int,
    out: Tensor | None = None,
    *,
    along: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    n, shape = _structured.shapes(map, argument, tuple(x.shape), is_theta=op == "forward")
    array = _rows_of(x, argument)
    direction = None if along is None else _rows_of(along, "tangent")
    result = torch.empty(shape, dtype=x.dtype) if out is None else out
    into = _into(result, x, shape, argument) if out is not None else memory(result, "out")
    rows = _no_rows(x, map, op)
    _structured.run(
        map, op, n, argument, policy, x=array, direction=direction, out=into, log_det=memory(rows, "rows")
    )
    if out is not None:
        written(out)
    return result, rows


def _pulled(
    x: Tensor,
    grad: Tensor,
    grad_rows: Tensor | None,
    map: StructuredMap,
    op: Op,
    argument: str,
    policy: int,
    out: Tensor | None = None,
    *,
    along: Tensor | None = None,
) -> Tensor:
    n, _ = _structured.shapes(map, argument, tuple(x.shape), is_theta=op == "forward")
    array, g = _rows_of(x, argument), _rows_of(grad, "grad")
    direction = None if along is None else _rows_of(along, "tangent")
    result = torch.empty(x.shape, dtype=x.dtype) if out is None else out
    into = _into(result, x, tuple(x.shape), argument, g) if out is not None else memory(result, "out")
    by_row = None if grad_rows is None else memory(grad_rows.to(torch.float64).contiguous(), "grad")
    _structured.run(
        map, op, n, argument, policy, pullback=True,
        x=array, direction=direction, grad=g, grad_log_det=by_row, out=into,
    )  # fmt: skip
    if out is not None:
        written(out)
    return result


def _no_rows(x: Tensor, map: StructuredMap, op: Op) -> Tensor:
    """Zeros, one for every row."""
    return torch.zeros(_structured.batch(map, tuple(x.shape), op == "forward"), dtype=torch.float64)


def _rows_of(x: Tensor, argument: str) -> _native.FloatArray:
    return _structured.as_rows(memory(x, argument), argument)


def _into(
    out: Any, like: Tensor, shape: tuple[int, ...], argument: str, *inputs: _native.FloatArray
) -> _native.FloatArray:
    if not isinstance(out, Tensor):
        kind = type(out).__name__
        raise TypeError(f"out: expected a torch tensor as {argument} is one, got {kind}")
    refuse_output(out)
    return _structured.output(memory(out, "out"), memory(like, argument), shape, argument, *inputs)
