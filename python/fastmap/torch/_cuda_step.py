"""Steps of mapped optimizers on CUDA tensors: every check, then launches on the current stream.

Nothing is allocated, copied or waited for: what a step depends on besides its buffers lies on the device.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastmap import _core, _native, _shards, _torch_cuda
from fastmap._map import Map
from fastmap._torch_cuda import Constants, Dim, Step

_CODES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
# As csrc/engine/cuda.hpp has them: how many tensors a launch takes, and its parameters.
_COUNTED, _MOVED, _TILE_BYTES, _SCALARS_BYTES, _SQUARES_BYTES = 244, 47, 4096, 96, 2048
_SUM_LANES = 32  # of a block of a sum
_COUNTS = struct.Struct("<2d8d2?6x4QdQi5I")
_COUNTED_TENSOR = struct.Struct("<2Q")
_STEP = struct.Struct("<2d6I")
_MOVED_TENSOR = struct.Struct("<8Q3iI")
_STEP_BYTES = _STEP.size + _MOVED * _MOVED_TENSOR.size
_DUAL = _core.GRADIENTS["dual"]

NO_ROWS = "rows that count their own steps have no step on CUDA yet; keep such parameters on the CPU"

Row = tuple[Any, ...]  # as MappedOptimizer._rows has them


def on_cuda(x: object) -> bool:
    """Whether x lies on a GPU."""
    return isinstance(x, Tensor) and x.is_cuda


def native_step(
    program: Any, strides: Sequence[int], p: Tensor, name: str
) -> tuple[int, Constants, list[Dim]]:
    """The number of the elementary map that a program is, its constants for p, and how these vary.

    strides: how far rows of constants are apart along the dimensions of p; none where all share one.
    """
    code = _CODES[p.dtype]
    dims: list[Dim] = []
    steps: Sequence[Step]
    if strides:
        steps = _torch_cuda.steps_of_arrays(program, code, p.device)
        if not steps:
            raise NotImplementedError(
                f"{name}: infinite bounds make different maps of its elements, which have no step on CUDA; "
                "keep it on the CPU, or in parts with a map each"
            )
        dims = _torch_cuda.row_dims(strides, p.shape, _torch_cuda.memory_order(p), f"{name}: its map")
    else:
        steps = program.steps(code)
    if len(steps) == 1 and not steps[0][1]:
        return steps[0][0], steps[0][2], dims
    raise NotImplementedError(
        f"{name}: its map has no step on CUDA tensors yet, which takes single maps of the catalog; use "
        "fastmap.torch.Mapped, which wraps an optimizer of torch"
    )


def refuse(p: Tensor, m: Map, lr: Any, name: str) -> None:
    """What cannot be a parameter on a GPU, with its map and its learning rate."""
    if _shards.is_sharded(p):
        raise NotImplementedError(
            f"{name}: sharded parameters have no step on CUDA yet; shard them on the CPU"
        )
    native_step(m.program, _native.row_strides(m, tuple(p.shape), name) if m.shape else (), p, name)
    if on_cuda(lr):
        if lr.numel() != 1 or lr.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"lr: expected one float32 or float64, got {lr.dtype} of shape {tuple(lr.shape)}"
            )
        if lr.device != p.device:
            raise ValueError(f"lr: device {lr.device} differs from {p.device} of {name}")


class _Launch(NamedTuple):
    """One kernel for some tensors of a group, or for one whose constants are a table."""

    device: int
    group: int
    dtype: int
    map: int
    args: Constants
    n: int
    tensors: bytes
    dims: list[Dim]

    def call(self, plain: Any, by_rows: Any, stream: int, tensors: bytes, *more: Any) -> None:
        """One of two functions of fastmap._cuda, for constants of all elements or for a table of them."""
        given = self.device, stream, self.map, self.dtype, tensors.ljust(_STEP_BYTES, b"\0"), *more
        if isinstance(self.args, bytes):
            plain(*given, self.args)
        else:
            by_rows(*given, self.args.data_ptr(), self.dims)


class Clipping(NamedTuple):
    """How a step limits gradients by the sum of their squares, a float64 on the device."""

    squares: Tensor
    max_norm: float  # infinite: does not scale
    skips: bool  # where it is not finite


class CudaStepper:
    """The steps of one optimizer, as `_core.Stepper` has them for CPU tensors."""

    def __init__(self) -> None:
        self._signature: list[Any] = []
        self._counts: list[_Launch] = []
        self._moves: list[_Launch] = []
        self._scalars: list[Tensor] = []  # the last one of a device is in use, others by graphs perhaps
        self._lanes: list[Tensor] = []  # the same
        self._blocks = 0  # of sums of squares
        self._skipped: dict[torch.device, Tensor] = {}

    @property
    def skipped(self) -> int:
        """How many steps were skipped for gradients that are not finite; waits for them."""
        return sum(int(count) for count in self._skipped.values())

    def prepare(
        self, rows: Sequence[Row], check: Callable[[int], object], name: Callable[[int], str]
    ) -> None:
        """Every check of the buffers, by `check` and here, if they are others than last time."""
        signature = [_signature(row) for row in rows]
        if signature == self._signature:
            return
        for i, row in enumerate(rows):
            check(i)
            _refuse_row(row, name(i))
        _refuse_overlaps(rows, name)
        self._plan(rows, name)
        self._signature = signature

    def _plan(self, rows: Sequence[Row], name: Callable[[int], str]) -> None:
        counted, moved, moved_alone = [], [], []
        place: dict[torch.device, int] = {}
        for device in {row[3].device for row in rows}:
            n = sum(row[3].device == device for row in rows)
            place[device] = _room(self._scalars, n * _SCALARS_BYTES, torch.uint8, device).data_ptr()
        self._blocks = 0
        for i, (program, strides, group, theta, grad, z, first, second, step, _) in enumerate(rows):
            native, args, dims = native_step(program, strides, theta, name(i))
            dtype = int(theta.dtype is torch.float64)
            where, scalars = theta.get_device(), place[theta.device]
            place[theta.device] += _SCALARS_BYTES
            counted.append(((where, group, dtype, 0, b""), (step.data_ptr(), scalars)))
            z = theta if z is None else z
            buffers = [0 if x is None else x.data_ptr() for x in (theta, grad, z, first, second)]
            codes = (_CODES[(z if x is None else x).dtype] for x in (theta, grad, first))
            key, n = (where, group, dtype, native, args), theta.numel()
            tensor = *buffers, scalars, n, *codes, self._blocks
            self._blocks += -(-n // (_SQUARES_BYTES // (8 if dtype else 4)))
            if n and isinstance(args, bytes):
                moved.append((key, tensor))
            elif n:
                moved_alone.append(_Launch._make((*key, 1, _moved_tensors([tensor], dtype), dims)))
        self._counts = [
            _Launch._make((*key, len(part), b"".join(_COUNTED_TENSOR.pack(*t) for t in part), []))
            for key, part in _parts(counted, _COUNTED)
        ]
        self._moves = [
            _Launch._make((*key, len(part), _moved_tensors(part, key[2]), []))
            for key, part in _parts(moved, _MOVED)
        ] + moved_alone

    def sum_of_squares(self, groups: Sequence[Row], of_z: bool) -> Tensor:
        """Of the gradients in theta or in z, on the one device where all parameters are. The CPU's bits.

        Where constants of maps vary or parameters lie in another order, blocks are others than on the CPU.
        """
        device = self._scalars[-1].device
        if not self._blocks:
            return torch.zeros((), dtype=torch.float64, device=device)
        sizes = _SUM_LANES * self._blocks, self._blocks, 1
        room = _room(self._lanes, sum(sizes), torch.float64, device)
        lanes, partial, total = room[: sum(sizes)].split(sizes)
        native, stream = _torch_cuda.module(), torch._C._cuda_getCurrentRawStream(self._counts[0].device)
        for s in self._moves:
            rule, gradient, low, high, decay, decoupled, *_ = groups[s.group]
            head = _STEP.pack(low, high, rule, gradient if of_z else _DUAL, decay, decoupled, s.n, 0)
            s.call(native.squares, native.square_rows, stream, head + s.tensors, lanes.data_ptr())
        _torch_cuda.fold(lanes, partial, total, self._blocks)
        return total[0]

    def step(
        self,
        groups: Sequence[Row],
        rates: Sequence[Any],
        grad_scale: Any,
        found_inf: Any,
        clipping: Clipping | None = None,
    ) -> None:
        """Count and move. groups: as `_core.Stepper` takes them; rates: the learning rates."""
        native = _torch_cuda.module()
        streams = {c.device: torch._C._cuda_getCurrentRawStream(c.device) for c in self._counts}
        scales = {d: (_on_device(grad_scale, d), _on_device(found_inf, d)) for d in streams}
        squares, most, counter, skips = self._limits(clipping)
        for c in self._counts:
            rule, _, _, _, decay, decoupled, weight_decay, maximize, lr, b1, b2, eps, dampening, nesterov = (
                groups[c.group]
            )
            rate = rates[c.group]
            at, code = (rate.data_ptr(), _CODES[rate.dtype]) if on_cuda(rate) else (0, 0)
            scale, found = (0 if x is None else x.data_ptr() for x in scales[c.device])
            head = _COUNTS.pack(
                lr, weight_decay, 0, b1, b2, eps, dampening, 1, 1, 1, False, nesterov, at, scale, found,
                squares, most, counter, code, rule, decay == 1 and decoupled, maximize, c.n, skips,
            )  # fmt: skip
            counter = 0  # one launch counts
            tensors = c.tensors.ljust(_COUNTED * _COUNTED_TENSOR.size, b"\0")
            native.count_steps(c.device, streams[c.device], c.dtype, head + tensors)
        for s in self._moves:
            rule, gradient, low, high, decay, decoupled, *_ = groups[s.group]
            head = _STEP.pack(low, high, rule, gradient, decay, decoupled, s.n, 0)
            s.call(native.step, native.step_rows, streams[s.device], head + s.tensors)

    def _limits(self, clipping: Clipping | None) -> tuple[int, float, int, bool]:
        """What kernels know of it: addresses of the sum and of the count of skipped steps, and the limits."""
        if clipping is None:
            return 0, math.inf, 0, False
        device = clipping.squares.device
        if clipping.skips and device not in self._skipped:
            self._skipped[device] = torch.zeros((), dtype=torch.int64, device=device)
        counter = self._skipped[device].data_ptr() if clipping.skips else 0
        return clipping.squares.data_ptr(), clipping.max_norm, counter, clipping.skips


def _room(kept: list[Tensor], n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """At least n numbers; what was too short stays, as graphs may write there."""
    for x in reversed(kept):
        if x.device == device and x.numel() >= n:
            return x
    kept.append(torch.zeros(n, dtype=dtype, device=device))
    return kept[-1]


def _signature(row: Row) -> tuple[Any, ...]:
    """What `prepare` depends on."""
    buffers = tuple(
        (type(x), x.data_ptr(), x.dtype, x.shape, x.stride(), x.device)
        for x in row[3:9]
        if isinstance(x, Tensor) and x.layout is torch.strided
    )
    return (row[0], row[2], row[4].is_neg(), row[9], *buffers)


def _parts(given: list[tuple[Any, Any]], most: int) -> Iterator[tuple[Any, list[Any]]]:
    """By key, in parts of at most so many."""
    for key, group in groupby(sorted(given, key=lambda pair: pair[0]), key=lambda pair: pair[0]):
        tensors = [t for _, t in group]
        for start in range(0, len(tensors), most):
            yield key, tensors[start : start + most]


def _moved_tensors(part: list[Any], dtype: int) -> bytes:
    end, packed, tile = 0, b"", _TILE_BYTES // (8 if dtype else 4)
    for *addresses, n, theta, gradient, moment, block in part:
        end += -(-n // tile)
        packed += _MOVED_TENSOR.pack(*addresses, n, end, theta, gradient, moment, block)
    return packed


def _on_device(x: Any, device: int) -> Tensor | None:
    """A number of GradScaler, which has it on the device already."""
    if x is None or (isinstance(x, Tensor) and x.dtype is torch.float32 and x.get_device() == device):
        return x
    return torch.as_tensor(x, dtype=torch.float32, device=torch.device("cuda", device))


def _refuse_row(row: Row, name: str) -> None:
    """What kernels cannot take, of buffers that are in order otherwise."""
    theta, grad, z, *moments, step = row[3:9]
    if step.ndim or row[9] is not None:
        raise NotImplementedError(f"{name}: {NO_ROWS}")
    if any(n > 1 and a != b for n, a, b in zip(theta.shape, grad.stride(), theta.stride(), strict=True)):
        raise ValueError(
            f"{name}: gradient of strides {grad.stride()} for {theta.stride()}; on CUDA they must be those "
            "of the parameter"
        )
    if step.dtype is not torch.float32:
        raise TypeError(f"{name}: its state 'step' has dtype {step.dtype}, expected torch.float32")
    for x, what in (
        (grad, "gradient"),
        (z, "state 'z'"),
        *((m, "moment") for m in moments),
        (step, "state 'step'"),
    ):
        if x is not None and x.device != theta.device:
            raise ValueError(f"{name}: its {what} is on {x.device}, the parameter on {theta.device}")
        if x is not None and x.data_ptr() % x.element_size():
            raise ValueError(f"{name}: its {what} does not lie at a multiple of its element size")


def _refuse_overlaps(rows: Sequence[Row], name: Callable[[int], str]) -> None:
    spans = []
    for i, row in enumerate(rows):
        for k, x in enumerate(row[3:9]):
            if x is not None and x.numel():
                spans.append((x.data_ptr(), x.data_ptr() + x.numel() * x.element_size(), i, k == 1))
    written = read = 0  # up to where memory is, so far
    for begin, end, i, is_input in sorted(spans):
        if begin < written or (not is_input and begin < read):
            raise ValueError(
                f"{name(i)}: its memory overlaps that of its gradient, its state or another parameter"
            )
        written, read = (written, max(read, end)) if is_input else (max(written, end), read)
