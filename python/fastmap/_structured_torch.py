"""Structured maps of torch tensors: autograd to second order over native calls on the tensors' memory.

F(x) gives the values and the log-determinants of rows; P(x, g) is its pullback of gradients g. The derivative
of P by x along u is that of P's own formulas along u, since second derivatives are symmetric, and by g it is
the derivative of F along u: tangents of both are all that a second derivative needs.

Inside ``torch.compile``, which cannot see through native calls, F and P are the operators ``fastmap::rows``
and ``fastmap::rows_pullback``.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
from torch import Tensor

from fastmap import _native, _structured
from fastmap._derivatives import NO_THIRD
from fastmap._linear import Linear
from fastmap._structured import CatalogRows, Op, StructuredMap
from fastmap._torch import _library, _map_of, _text, memory, refuse_out, refuse_output, tracked, written

RowMap: TypeAlias = CatalogRows | Linear


def value_and_rows(
    op: Op, argument: str, x: Tensor, map: RowMap, out: Tensor | None, policy: int
) -> tuple[Tensor, Tensor]:
    """f(x) or its inverse, and the log-determinant of every row."""
    if torch.compiler.is_compiling():
        value, rows = torch.ops.fastmap.rows(x, op, argument, _text(map), policy)
        return value if out is None else out.copy_(value), rows
    shape = map.other_shape(argument, tuple(x.shape), op == "forward")
    if tracked(x):
        refuse_out(out, argument)
        return (
            _Values.apply(x, map, op, argument, policy)
            if isinstance(map, CatalogRows)
            else _linear(x, map, op, argument, policy)
        )
    if isinstance(map, CatalogRows):
        return _values(x, map, op, argument, policy, out)
    if out is not None:
        checked_output(out, x, shape, argument)
    value, rows = _linear(x, map, op, argument, policy)
    return value if out is None else out.copy_(value), rows


def pullback(grad_theta: Tensor, z: Tensor, map: RowMap, out: Tensor | None, policy: int) -> Tensor:
    """dL/dz from dL/dtheta, at z."""
    if torch.compiler.is_compiling():
        result = torch.ops.fastmap.rows_pullback(z, grad_theta, None, "inverse", "z", _text(map), policy)
        return result if out is None else out.copy_(result)
    follows = tracked(z) or tracked(grad_theta)
    if follows:
        refuse_out(out, "z")
    if isinstance(map, CatalogRows):
        if follows:
            return _Pullback.apply(z, grad_theta, _no_rows(z, map, "inverse"), map, "inverse", "z", policy)
        return _pulled(z, grad_theta, None, map, "inverse", "z", policy, out)
    if out is not None:
        checked_output(out, z, tuple(z.shape), "z", grad_theta)
    result = _linear_pulled(z, grad_theta, map, "inverse", "z", policy)
    return result if out is None else out.copy_(result)


class _Values(torch.autograd.Function):
    """F: the values and the log-determinants of rows."""

    @staticmethod
    def forward(x: Tensor, map: CatalogRows, op: Op, argument: str, policy: int) -> tuple[Tensor, Tensor]:
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
    map: CatalogRows,
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
    map: CatalogRows,
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
    return torch.zeros(map.batch(tuple(x.shape), op == "forward"), dtype=torch.float64)


def _rows_of(x: Tensor, argument: str) -> _native.FloatArray:
    return _structured.wide_enough(memory(x, argument), argument)


def _into(
    out: Any, like: Tensor, shape: tuple[int, ...], argument: str, *inputs: _native.FloatArray
) -> _native.FloatArray:
    if not isinstance(out, Tensor):
        kind = type(out).__name__
        raise TypeError(f"out: expected a torch tensor as {argument} is one, got {kind}")
    refuse_output(out)
    return _structured.output(memory(out, "out"), memory(like, argument), shape, argument, *inputs)


def checked_output(out: Any, like: Tensor, shape: tuple[int, ...], argument: str, *inputs: Tensor) -> Tensor:
    """`out`, if a result of this shape can be written into it."""
    _into(out, like, shape, argument, *(memory(x, "grad_theta") for x in inputs))
    result: Tensor = out
    return result


def _linear(x: Tensor, map: Linear, op: Op, argument: str, policy: int) -> tuple[Tensor, Tensor]:
    """In torch's own operations, which autograd follows to any order."""
    wide = _finite(x, map, op, argument, policy)
    matrix, shift = torch.from_numpy(map.factor(op)), torch.from_numpy(map.origin)
    value = (wide - shift) @ matrix.mT if op == "forward" else wide @ matrix.mT + shift
    rows = (0 * wide).sum(-1) + map.log_det(op)  # a constant, but NaN where the row is
    return value.to(x.dtype), rows


def _linear_pulled(x: Tensor, grad: Tensor, map: Linear, op: Op, argument: str, policy: int) -> Tensor:
    wide = _finite(x, map, op, argument, policy)
    return (grad.double() @ torch.from_numpy(map.factor(op)) + 0 * wide.sum(-1, keepdim=True)).to(x.dtype)


def _finite(x: Tensor, map: Linear, op: Op, argument: str, policy: int) -> Tensor:
    """x in float64, rows that are not finite refused or NaN."""
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{argument}: structured maps take float32 and float64, not {x.dtype}")
    wrong = ~torch.isfinite(x).all(-1, keepdim=True)
    if policy == _native.policy_code("raise") and bool(wrong.any()):
        where = wrong.reshape(-1).nonzero()
        raise _structured.refusal(
            map, argument, memory(x, argument), len(where), int(where[0]), op == "forward", "not finite"
        )
    return torch.where(wrong, torch.nan, x.double())


# Inside torch.compile. A compiled backward pass is not differentiated again: one derivative is enough.
_library.define("rows(Tensor x, str op, str argument, str map, int policy) -> (Tensor, Tensor)")
_library.define(
    "rows_pullback(Tensor x, Tensor grad, Tensor? grad_rows, str op, str argument, str map, int policy)"
    " -> Tensor"
)


@torch.library.impl(_library, "rows", "CPU")
def _rows_op(x: Tensor, op: Op, argument: str, map: str, policy: int) -> tuple[Tensor, Tensor]:
    evaluate: Any = _values if isinstance(m := _map_of(map), CatalogRows) else _linear
    return evaluate(x, m, op, argument, policy)


@torch.library.impl(_library, "rows_pullback", "CPU")
def _rows_pullback_op(
    x: Tensor, grad: Tensor, grad_rows: Tensor | None, op: Op, argument: str, map: str, policy: int
) -> Tensor:
    m = _map_of(map)
    if isinstance(m, Linear):  # whose log-determinant is a constant
        return _linear_pulled(x, grad, m, op, argument, policy)
    assert isinstance(m, CatalogRows)
    return _pulled(x, grad, grad_rows, m, op, argument, policy)


@torch.library.register_fake("fastmap::rows", lib=_library)
def _rows_fake(x: Tensor, op: Op, argument: str, map: str, policy: int) -> tuple[Tensor, Tensor]:
    m: Any = _map_of(map)
    is_theta = op == "forward"
    in_front = m.batch(tuple(x.shape), is_theta)
    row = tuple(int(n) for n in x.shape[len(in_front) :])  # of a known length, whatever the batch
    shape = m.other_shape(argument, row, is_theta)
    return x.new_empty((*in_front, *shape)), x.new_empty(in_front, dtype=torch.float64)


@torch.library.register_fake("fastmap::rows_pullback", lib=_library)
def _rows_pullback_fake(x: Tensor, *rest: Any) -> Tensor:
    return x.new_empty(x.shape)


def _keep_input(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, *ctx.rest = inputs
    ctx.save_for_backward(x)


def _rows_backward(ctx: Any, grad: Tensor, grad_rows: Tensor) -> Any:
    (x,) = ctx.saved_tensors
    return torch.ops.fastmap.rows_pullback(x, grad, grad_rows, *ctx.rest), None, None, None, None


torch.library.register_autograd("fastmap::rows", _rows_backward, setup_context=_keep_input, lib=_library)
