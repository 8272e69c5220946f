"""CUDA tensors: every check, then launches of the kernels of ``fastmap._cuda`` on the current stream.

Nothing waits for the GPU, so that values outside a domain cannot be refused: they become NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastmap import _core, _native
from fastmap._map import Map, Sliced, resolve
from fastmap._shards import PLAIN
from fastmap._torch import refuse_output, written

_DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
_HALF = len(_core.OPS) // 2  # from an operation to the one in the other direction
_SUM_BLOCK = 4096  # kSumBlock of csrc/engine/abi.hpp

Step = tuple[int, bool, bytes]  # as Program.steps has them


class Launch(NamedTuple):
    """out = op(x) factor + addend, by the names of buffers."""

    map: int
    op: int
    args: bytes
    x: str
    factor: str | None
    addend: str | None
    out: str


def plan(op: str, steps: Sequence[Step], identity: Step, has_factor: bool, is_half: bool) -> list[Launch]:
    """The launches of an operation of the maps in a row.

    They work on the buffers "x", "out" and "factor", where out may be one of the others, and on temporary
    ones. With "value" the value before a map, log-derivatives add up and derivatives multiply; the derivative
    of a sum of log-derivatives is that of each term times the derivative of "value", which is "product".
    16-bit results are rounded once, at the end.
    """
    forward = _core.OPS[op] < _HALF
    value, slope = ("forward", "jacobian") if forward else ("inverse", "inverse_jacobian")
    in_order = list(steps) if forward else list(reversed(steps))

    def launch(
        name: str, step: Step, x: str, out: str, factor: str | None = None, addend: str | None = None
    ) -> Launch:
        number, inverted, args = step
        native = (_core.OPS[name] + _HALF * inverted) % len(_core.OPS)
        return Launch(number, native, args, x, factor, addend, out)

    if len(in_order) == 1:
        return [launch(op, in_order[0], "x", "out", "factor" if has_factor else None)]
    into = "term" if has_factor or is_half else "out"  # the factor may lie in out
    launches: list[Launch] = []
    for k, step in enumerate(in_order):
        first, last = k == 0, k + 1 == len(in_order)
        if op == value:
            launches.append(launch(op, step, "x" if first else into, into))
            continue
        x, before = "x" if first else "value", None if first else into
        onwards = [] if last else [launch(value, step, x, "value")]
        if op == slope:
            term = launch(op, step, x, into, factor=before)
        elif op.endswith("grad"):
            product = None if first else "product"
            term = launch(op, step, x, into, factor=product, addend=before)
            if not last:
                onwards.insert(0, launch(slope, step, x, "product", factor=product))
        else:
            term = launch(op, step, x, into, addend=before)
        # The first term may lie in x, later ones need the value that is replaced.
        launches += [*onwards, term] if first else [term, *onwards]
    if into != "out":
        launches.append(launch("forward", identity, into, "out", "factor" if has_factor else None))
    return launches


def apply(
    op: str,
    argument: str,
    x: Tensor,
    map: Map,
    out: Tensor | None,
    policy: int,
    grad: Tensor | None = None,
    grad_argument: str = "grad",
) -> Tensor:
    """op(x), times `grad` where given. RuntimeError where CUDA, a driver or a GPU is missing."""
    _refuse(x, argument, map, policy)
    if isinstance(out, Tensor):
        refuse_output(out)
    result = torch.empty_like(x, requires_grad=False) if out is None else out
    for other, name in ((result, "out"), (grad, grad_argument)):
        if other is not None and other is not x:
            _refuse_misfit(other, name, x, argument)
            _refuse_partial_overlap(other, name, x, argument)
    if grad is not None and result is not grad:
        _refuse_partial_overlap(result, "out", grad, grad_argument)
    _run(op, x, map, result, grad)
    written(result)
    return result


def _run(op: str, x: Tensor, map: Map, result: Tensor, grad: Tensor | None = None) -> None:
    """The launches of all parts of a map, once every part is known to have some."""
    dtype, parts = _DTYPES[x.dtype], []
    for m, index, _ in map.parts():
        buffers = {"x": x.view(-1)[index], "out": result.view(-1)[index]}
        if grad is not None:
            buffers["factor"] = grad.view(-1)[index]
        parts.append((_plan(m, op, dtype, grad is not None), buffers))
    native = module()
    device = x.get_device()
    stream = torch._C._cuda_getCurrentRawStream(device)
    for launches, buffers in parts:
        part = buffers["x"]
        for step in launches:
            if step.out not in buffers:
                buffers[step.out] = torch.empty_like(part, dtype=_wide(part), requires_grad=False)
            given = [None if name is None else buffers[name] for name in step[3:]]
            operands = ((0, 0) if t is None else (t.data_ptr(), _DTYPES[t.dtype]) for t in given)
            native.launch(device, stream, step.map, step.op, step.args, part.numel(), *operands)


def _wide(x: Tensor) -> torch.dtype:
    """What kernels compute in."""
    return torch.float64 if x.dtype is torch.float64 else torch.float32


def log_det(op: str, argument: str, x: Tensor, map: Map, axes: tuple[int, ...], policy: int) -> Tensor:
    """Sums of op(x) over axes, in float64, in the order of the CPU; the terms take memory."""
    _refuse(x, argument, map, policy)
    kept = [axis for axis in range(x.ndim) if axis not in axes]
    terms = torch.empty_like(x, dtype=_wide(x), requires_grad=False)
    _run(op, x, map, terms)
    if isinstance(map, Sliced):
        total = torch.zeros((), dtype=torch.float64, device=x.device)
        for _, index, _ in map.parts():
            total = total + _sums(terms[index], 1)[0]
        return total
    shape = [x.shape[axis] for axis in kept]
    return _sums(terms.permute(*kept, *axes).contiguous(), math.prod(shape)).reshape(shape)


def _sums(x: Tensor, rows: int) -> Tensor:
    """Of each of the rows."""
    sums = torch.zeros(rows, dtype=torch.float64, device=x.device)
    if not x.numel():
        return sums
    n = x.numel() // rows
    blocks = -(-n // _SUM_BLOCK)
    lanes = torch.empty(32 * rows * blocks, dtype=torch.float64, device=x.device)
    partial = torch.empty(rows * blocks, dtype=torch.float64, device=x.device)
    native = module()
    where = x.get_device(), torch._C._cuda_getCurrentRawStream(x.get_device())
    native.sum_lanes(*where, _DTYPES[x.dtype], x.data_ptr(), lanes.data_ptr(), rows, n)
    into, free = (sums if blocks == 1 else partial), lanes
    native.sum_fold(*where, lanes.data_ptr(), into.data_ptr(), rows * blocks)
    while blocks > 1:
        source, into, free = into, (sums if blocks == 2 else free), into
        native.sum_pairs(*where, source.data_ptr(), into.data_ptr(), rows, blocks)
        blocks = (blocks + 1) // 2
    return sums


def _plan(m: Map, op: str, dtype: int, has_factor: bool) -> list[Launch]:
    if m.program is None or m.shape != ():
        why = "NumPy evaluates it" if m.program is None else "its parameters are arrays"
        raise NotImplementedError(f"map: {m!r} does not run on CUDA tensors yet: {why}; use a CPU tensor")
    identity = resolve("identity").program
    assert identity is not None
    return plan(op, m.program.steps(dtype), identity.steps(dtype)[0], has_factor, dtype > 1)


def module() -> ModuleType:
    """``fastmap._cuda``."""
    try:
        from fastmap import _cuda
    except ImportError as error:
        raise RuntimeError(
            "CUDA tensors need the module fastmap._cuda, which this build of fastmap does not have; build it "
            f"where nvcc is: pip install . --config-settings=cmake.define.FASTMAP_CUDA=ON ({error})"
        ) from error
    return _cuda


def _refuse(x: Tensor, argument: str, map: Map, policy: int) -> None:
    """Refuse a tensor, a map or a policy that kernels cannot take."""
    _refuse_unknown(x, argument)
    _native.refuse_misfit(map, tuple(x.shape), argument)
    if policy != _native.policy_code("nan"):
        raise NotImplementedError(
            "invalid: on CUDA tensors only 'nan', the default there: an error would have to wait for the GPU"
        )


def _refuse_unknown(x: Tensor, argument: str) -> None:
    """Refuse what kernels cannot take."""
    if type(x) not in PLAIN:
        raise TypeError(f"{argument}: tensor subclass {type(x).__name__} is not supported")
    if x.dtype not in _DTYPES:
        raise TypeError(f"{argument}: dtype {x.dtype} is not supported; use a floating-point tensor")
    if x.layout is not torch.strided:
        raise TypeError(f"{argument}: layout {x.layout} is not supported; use a dense tensor")
    if x.is_neg():
        raise TypeError(f"{argument}: has the negative bit set; call resolve_neg() first")
    if not x.is_contiguous():
        raise ValueError(f"{argument}: CUDA tensors must be contiguous; call contiguous() first")


def _refuse_misfit(other: Any, name: str, x: Tensor, argument: str) -> None:
    """`other` must be a tensor like x, on its device."""
    if not isinstance(other, Tensor):
        kind = type(other).__name__
        raise TypeError(f"{name}: expected a torch tensor as {argument} is one, got {kind}")
    if other.device != x.device:
        raise ValueError(f"{name}: device {other.device} differs from {x.device} of {argument}")
    if other.dtype != x.dtype:
        raise TypeError(f"{name}: dtype {other.dtype} differs from {x.dtype} of {argument}")
    if other.shape != x.shape:
        raise ValueError(f"{name}: shape {tuple(other.shape)} differs from {tuple(x.shape)} of {argument}")
    _refuse_unknown(other, name)


def _refuse_partial_overlap(a: Tensor, name: str, b: Tensor, argument: str) -> None:
    first, second = a.data_ptr(), b.data_ptr()
    if first != second and first < second + b.nbytes and second < first + a.nbytes:
        raise ValueError(f"{name}: overlaps {argument} without being the same elements")
