"""Sharded tensors: torch's DTensor, of which every process holds a part.

Maps are elementwise, so that all work is done on the parts; only sums cross processes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastmap._errors import DomainError
from fastmap._map import Map

PLAIN = (Tensor, torch.nn.Parameter)
Axes: TypeAlias = tuple[
    Any, tuple[int, ...]
]  # a mesh of processes, and those of its axes that share a tensor


def is_sharded(x: Any) -> bool:
    """Whether x is a DTensor; without an import, since there is none before its module is imported."""
    if type(x) in PLAIN:
        return False
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(x, module.DTensor)


def part(x: Tensor, argument: str) -> Tensor:
    """What this process holds of x: the same memory."""
    if not is_sharded(x):
        return x
    if any(placement.is_partial() for placement in x.placements):
        raise ValueError(f"{argument}: its sum over the processes is pending; call redistribute() on it")
    with torch.no_grad():
        local: Any = x.to_local()
    return local.wait() if hasattr(local, "wait") else local  # of a collective under way


def part_beside(y: Any, x: Tensor, argument: str, like: str, *, move: bool = False) -> Any:
    """What this process holds of y, which lies as x does; else it is refused, or moved there."""
    if not is_sharded(y):
        raise TypeError(f"{argument}: expected a DTensor as {like} is one, got {type(y).__name__}")
    if y.device_mesh != x.device_mesh:
        raise ValueError(f"{argument}: lies on {y.device_mesh}, {like} on {x.device_mesh}")
    if y.shape == x.shape and y.placements != x.placements:
        if not move:
            raise ValueError(f"{argument}: has the placements {y.placements}, {like} has {x.placements}")
        y = y.redistribute(placements=x.placements)
    return part(y, argument)


def joined(local: Tensor, x: Tensor) -> Tensor:
    """The tensor that lies as x does and of which this process holds `local`."""
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        local, x.device_mesh, x.placements, run_check=False, shape=x.shape, stride=x.stride()
    )


def map_of_part(map: Map, x: Tensor) -> Map:
    """The map of what this process holds of x: its arrays of parameters are cut as x is."""
    if not map.shape or not is_sharded(x):
        return map
    if map.program is None:
        raise TypeError("map: a Space maps one flat buffer, not a sharded one")
    from torch.distributed.tensor import Replicate, distribute_tensor

    def cut(values: NDArray[np.float64]) -> NDArray[np.float64]:
        whole = torch.tensor(values.reshape((1,) * (x.ndim - values.ndim) + values.shape))
        placements = [
            p if (dim := getattr(p, "dim", None)) is not None and whole.shape[dim] > 1 else Replicate()
            for p in x.placements
        ]
        return np.asarray(
            distribute_tensor(whole, x.device_mesh, placements, src_data_rank=None).to_local().cpu()
        )

    return map.with_arrays(cut)


def version(x: Tensor) -> Any:
    """What changes when x is edited, through the part in this process too."""
    if type(x) in PLAIN or not is_sharded(x):
        return x._version
    return x._version, part(x, "x")._version


def shared_axes(x: Tensor) -> Axes | None:
    """Over which processes the sum of a function of the elements is to be taken."""
    if not is_sharded(x):
        return None
    return x.device_mesh, tuple(i for i, p in enumerate(x.placements) if not p.is_replicate())


def reduced(value: float, axes: Axes | None, op: str = "sum") -> float:
    """The sum (or maximum) of the values of the processes."""
    if axes is None:
        return value
    import torch.distributed as dist

    mesh, numbers = axes
    total = torch.tensor(value, dtype=torch.float64, device=mesh.device_type)
    for number in numbers:
        dist.all_reduce(
            total, dist.ReduceOp.MAX if op == "max" else dist.ReduceOp.SUM, mesh.get_group(number)
        )
    return float(total)


def summed(sums: Tensor, x: Tensor, axes: Sequence[int]) -> Tensor:
    """Sums over axes of x, of which this process has those of its part."""
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

    here: list[Any] = []
    for placement in x.placements:
        dim = getattr(placement, "dim", None)
        if dim is None or dim in axes:
            here.append(Replicate() if dim is None else Partial())
        elif placement.is_shard():
            here.append(Shard(dim - sum(axis < dim for axis in axes)))
        else:
            raise ValueError(f"axis: must contain {dim}, along which the shards alternate")
    kept = torch.empty([n for axis, n in enumerate(x.shape) if axis not in axes], device="meta")
    result = DTensor.from_local(
        sums, x.device_mesh, here, run_check=False, shape=kept.shape, stride=kept.stride()
    )
    return result.redistribute(placements=[Replicate() if p.is_partial() else p for p in here])


@contextmanager
def naming_the_process(x: Tensor) -> Iterator[None]:
    """Values outside a domain are counted in the part of this process: say so."""
    try:
        yield
    except DomainError as error:
        text = f"{error}, in the part of process {x.device_mesh.get_rank()}"
        raise DomainError(text, error.argument, error.count, error.index) from None
