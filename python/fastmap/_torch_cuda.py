"""CUDA tensors: every check, then launches of the kernels of ``fastmap._cuda`` on the current stream.

Nothing waits for the GPU, unless "raise" or "clip" is asked for: values outside a domain become NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from fastmap import _core, _native, _torch
from fastmap._map import Map, Sliced, resolve
from fastmap._shards import PLAIN
from fastmap._torch import refuse_output, written

_DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
_HALF = len(_core.OPS) // 2  # from an operation to the one in the other direction
_SUM_BLOCK = 4096  # kSumBlock of csrc/engine/abi.hpp

_MOST_DIMS = 6  # kCudaDims of csrc/engine/cuda.hpp

Constants: TypeAlias = bytes | Tensor  # of one call, or a table on the device
Dim = tuple[
    int, int
]  # of a buffer whose constants are a table: length, and rows from one element to the next
Step = tuple[int, bool, Constants]  # as Program.steps and Program.constants have them
_kept: WeakKeyDictionary[Any, dict[tuple[Any, ...], list[Any]]] = WeakKeyDictionary()  # by program
_ON_CPU = "use a CPU tensor"


class Launch(NamedTuple):
    """out = op(x) factor + addend, by the names of buffers."""

    map: int
    op: int
    args: Constants
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
    _refuse(x, argument, map)
    if isinstance(out, Tensor):
        refuse_output(out)
    result = torch.empty_like(x, requires_grad=False) if out is None else out
    order = memory_order(x)
    for other, name in ((result, "out"), (grad, grad_argument)):
        if other is not None and other is not x:
            _refuse_misfit(other, name, x, argument, order)
            _refuse_partial_overlap(other, name, x, argument)
    if grad is not None and result is not grad:
        _refuse_partial_overlap(result, "out", grad, grad_argument)
    _run(op, _admitted(op, argument, x, map, policy), map, result, grad)
    written(result)
    return result


def _run(op: str, x: Tensor, map: Map, result: Tensor, grad: Tensor | None = None) -> None:
    """The launches of all parts of a map, once every part is known to have some."""
    order, parts = memory_order(x), []
    for m, index, shape in map.parts() if x.numel() else ():
        buffers = {"x": x.permute(order).view(-1)[index], "out": result.permute(order).view(-1)[index]}
        if grad is not None:
            buffers["factor"] = grad.permute(order).view(-1)[index]
        dims = _dims(m, tuple(x.shape), order) if shape is None else _dims(m, shape, range(len(shape)))
        parts.append((_plan(m, op, x, grad is not None), dims, buffers))
    module()
    for launches, dims, buffers in parts:
        part = buffers["x"]
        for step in launches:
            if step.out not in buffers:
                buffers[step.out] = torch.empty_like(part, dtype=_wide(part), requires_grad=False)
            _launch(step, dims, buffers)


def _dims(m: Map, shape: tuple[int, ...], order: Sequence[int]) -> list[Dim]:
    return row_dims(_native.row_strides(m, shape, "x"), shape, order, f"map: {m!r}") if m.shape else []


def _launch(step: Launch, dims: list[Dim], buffers: dict[str, Tensor]) -> None:
    x, native = buffers["x"], module()
    given = [None if name is None else buffers[name] for name in step[3:]]
    operands = [(0, 0) if t is None else (t.data_ptr(), _DTYPES[t.dtype]) for t in given]
    where = x.get_device(), torch._C._cuda_getCurrentRawStream(x.get_device()), step.map, step.op
    if isinstance(step.args, bytes):
        native.launch(*where, step.args, x.numel(), *operands)
    else:
        native.launch_rows(*where, step.args.data_ptr(), dims, x.numel(), *operands)


def memory_order(x: Tensor) -> tuple[int, ...]:
    """The dimensions in the order in which they lie in memory."""
    if x.is_contiguous():
        return tuple(range(x.ndim))
    return tuple(sorted(range(x.ndim), key=lambda d: -x.stride(d)))


def row_dims(rows: Sequence[int], shape: Sequence[int], order: Sequence[int], what: str) -> list[Dim]:
    """Of dimensions, from the last one in memory on: lengths, and how many rows a step leads on."""
    dims: list[Dim] = []
    for d in reversed(order):
        if shape[d] == 1:
            continue
        if dims and rows[d] == dims[-1][0] * dims[-1][1]:  # one with the dimension before it
            dims[-1] = (shape[d] * dims[-1][0], dims[-1][1])
        else:
            dims.append((shape[d], rows[d]))
    if len(dims) > _MOST_DIMS:
        raise NotImplementedError(f"{what} varies along more than {_MOST_DIMS} dimensions; {_ON_CPU}")
    return dims


def _wide(x: Tensor) -> torch.dtype:
    """What kernels compute in."""
    return torch.float64 if x.dtype is torch.float64 else torch.float32


def log_det(op: str, argument: str, x: Tensor, map: Map, axes: tuple[int, ...], policy: int) -> Tensor:
    """Sums of op(x) over axes, in float64, in the order of the CPU; the terms take memory."""
    _refuse(x, argument, map)
    x = _admitted(op, argument, x, map, policy)
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
    fold(lanes, partial, sums, blocks)
    return sums


def fold(lanes: Tensor, partial: Tensor, sums: Tensor, blocks: int) -> None:
    """Sums of rows of blocks, which have 32 lanes each, in the order of the CPU; all in float64.

    The lanes are lost, and `partial` is room for one number per block.
    """
    native, rows = module(), sums.numel()
    where = lanes.get_device(), torch._C._cuda_getCurrentRawStream(lanes.get_device())
    into, free = (sums if blocks == 1 else partial), lanes
    native.sum_fold(*where, lanes.data_ptr(), into.data_ptr(), rows * blocks)
    while blocks > 1:
        source, into, free = into, (sums if blocks == 2 else free), into
        native.sum_pairs(*where, source.data_ptr(), into.data_ptr(), rows, blocks)
        blocks = (blocks + 1) // 2


def _plan(m: Map, op: str, x: Tensor, has_factor: bool) -> list[Launch]:
    dtype, identity = _DTYPES[x.dtype], resolve("identity").program
    assert identity is not None
    return plan(op, _steps(m, dtype, x.device), identity.steps(dtype)[0], has_factor, dtype > 1)


def _steps(m: Map, dtype: int, device: torch.device) -> Sequence[Step]:
    """The maps in a row."""
    if m.program is None:
        raise NotImplementedError(f"map: {m!r} does not run on CUDA tensors: NumPy evaluates it; {_ON_CPU}")
    if not m.shape:
        return m.program.steps(dtype)
    if not (steps := steps_of_arrays(m.program, dtype, device)):
        raise NotImplementedError(
            f"map: {m!r} does not run on CUDA tensors: infinite bounds make different maps of its elements; "
            f"give each kind its slice of a Space, or {_ON_CPU}"
        )
    return steps


def steps_of_arrays(program: Any, dtype: int, device: torch.device) -> list[Step]:
    """The maps in a row, with tables on the device; none where elements have different ones."""

    def make() -> list[Step]:
        steps = program.constants(dtype, module().args_bytes(int(dtype == 1)))
        return [
            (number, inverted, _table(table, np.uint8, device)) for number, inverted, table in steps or ()
        ]

    return _kept_for(program, (dtype, device), make)


def _kept_for(program: Any, key: tuple[Any, ...], make: Callable[[], list[Any]]) -> list[Any]:
    """What was made of a program for a device, as long as the program lives."""
    kept = _kept.setdefault(program, {})
    if key not in kept:
        if _is_capturing(key[1]):
            raise RuntimeError(
                "map: the first call with arrays of parameters copies them to the GPU, which a graph cannot; "
                "call it once before"
            )
        kept[key] = make()
    return kept[key]


def _table(table: bytes, dtype: Any, device: torch.device) -> Tensor:
    return torch.from_numpy(np.frombuffer(table, dtype).copy()).to(device)


def refuse_capture(device: torch.device, what: str, instead: str) -> None:
    """Refuse to wait while a graph is captured."""
    if _is_capturing(device):
        raise RuntimeError(f"{what} for the GPU, which a graph cannot; use {instead}")


def _is_capturing(device: torch.device) -> bool:
    return device.type == "cuda" and bool(torch.cuda.is_current_stream_capturing())


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


def _refuse(x: Tensor, argument: str, map: Map) -> None:
    """Refuse a tensor or a map that kernels cannot take."""
    _refuse_unknown(x, argument)
    _native.refuse_misfit(map, tuple(x.shape), argument)


def _admitted(op: str, argument: str, x: Tensor, map: Map, policy: int) -> Tensor:
    """x as a policy lets it in. It waits for the GPU; an error is that of the CPU, which gets a copy then."""
    if policy == _native.policy_code("nan"):
        return x
    refuse_capture(x.device, "invalid: 'raise' and 'clip' wait", "'nan'")
    forward, clips = _core.OPS[op] < _HALF, policy == _native.policy_code("clip")
    result = torch.empty_like(x, requires_grad=False) if clips else x
    refused = []
    for m, index, shape in map.parts() if x.numel() else ():
        part, into = (t if shape is None else t[index].view(shape) for t in (x, result))
        ranges = _ranges(m, forward, clips, part)
        if not clips:
            refused.append(_is_refused(forward, part, m, ranges))
            continue
        if len(ranges) > 1:
            raise NotImplementedError(
                f"invalid: {m!r} is several maps, and CUDA tensors have no 'clip' of what one passes on; "
                f"use 'raise', or {_ON_CPU}"
            )
        (low, high), value = ranges[0], part.to(_wide(x))
        into.copy_(torch.where(value < low, low, torch.where(value > high, high, value)))
        refused.append(part.isnan())
    if any(bool(bad.any()) for bad in refused):
        _torch._apply(op, argument, x.cpu(), map, None, policy)
        raise AssertionError("the CPU accepts what the GPU does not")
    return result


def _ranges(m: Map, forward: bool, clips: bool, x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The least and the greatest number that each map on the way accepts or clips to: like its parameters."""
    steps = _steps(m, _DTYPES[x.dtype], x.device)  # refuses maps without any
    program = m.program

    def make() -> list[tuple[Tensor, Tensor]]:
        assert program is not None
        tables = program.ranges(_DTYPES[x.dtype], forward, clips) or ()
        ends = (_table(t, np.float64, x.device).view(*m.shape, 2).to(_wide(x)) for _, _, t in tables)
        return [(both[..., 0], both[..., 1]) for both in ends]

    ranges = _kept_for(m.program, (x.dtype, x.device, forward, clips), make)
    assert len(ranges) == len(steps)
    return ranges if forward else ranges[::-1]


def _is_refused(forward: bool, x: Tensor, m: Map, ranges: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Where a map on the way does not accept its value."""
    value = x.to(_wide(x))
    bad = torch.zeros(x.shape, dtype=torch.bool, device=x.device)
    steps = _steps(m, _DTYPES[x.dtype], x.device)
    for k, (low, high) in enumerate(ranges):
        bad |= ~((value >= low) & (value <= high))
        if k + 1 < len(ranges):
            number, inverted, args = steps[k if forward else -1 - k]
            into = torch.empty_like(value)
            step = Launch(number, _HALF * (inverted == forward), args, "x", None, None, "out")
            _launch(step, _dims(m, tuple(x.shape), memory_order(x)), {"x": value, "out": into})
            value = into
    return bad


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
    if not x.is_contiguous() and not x.permute(memory_order(x)).is_contiguous():
        raise ValueError(f"{argument}: CUDA tensors must be dense; call contiguous() first")


def _refuse_misfit(other: Any, name: str, x: Tensor, argument: str, order: tuple[int, ...]) -> None:
    """`other` must be a tensor like x, on its device, with its dimensions in the same order in memory."""
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
    if not other.permute(order).is_contiguous():
        raise ValueError(
            f"{name}: strides {other.stride()} are in another order than {x.stride()} of {argument}"
        )


def _refuse_partial_overlap(a: Tensor, name: str, b: Tensor, argument: str) -> None:
    first, second = a.data_ptr(), b.data_ptr()
    if first != second and first < second + b.nbytes and second < first + a.nbytes:
        raise ValueError(f"{name}: overlaps {argument} without being the same elements")
