"""Arrays of other libraries on a GPU, as those of CuPy: by torch, in the same memory and on their stream."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fastmap._map import Map
from fastmap._native import Axis

if TYPE_CHECKING:
    from torch import Tensor

_ON_CUDA = (2, 13)  # kDLCUDA, kDLCUDAManaged


def is_there(x: Any) -> bool:
    """Whether x is an array on a GPU."""
    kind = type(x)
    if hasattr(kind, "__cuda_array_interface__"):
        return True
    return hasattr(kind, "__dlpack_device__") and int(x.__dlpack_device__()[0]) in _ON_CUDA


def is_transformed(x: Any) -> bool:
    """As for torch: on a GPU a call does not wait for its result."""
    return True


def tracked(x: Any) -> bool:
    """No buffer that the engine of the CPU takes."""
    return True


def elementwise(op: str, argument: str, x: Any, map: Map, out: Any, policy: int) -> Any:
    """op(x)."""
    with _stream_of(x, argument):
        from fastmap import _torch

        t, into = _tensor(x, argument), None if out is None else _tensor(out, "out")
        result = _torch.elementwise(op, argument, t, map, into, policy)
        return _like(x, result) if out is None else out


def log_det(op: str, argument: str, x: Any, map: Map, axis: Axis, policy: int) -> Any:
    """Sums of op(x) over axis, in float64."""
    with _stream_of(x, argument):
        from fastmap import _torch

        return _like(x, _torch.log_det(op, argument, _tensor(x, argument), map, axis, policy))


def value_and_log_det(
    op: str, log_op: str, argument: str, x: Any, map: Map, out: Any, policy: int
) -> tuple[Any, Any]:
    """op(x) and the sum of log_op(x)."""
    total = log_det(log_op, argument, x, map, None, policy)  # first: out may be x
    return elementwise(op, argument, x, map, out, policy), total


def pullback(grad_theta: Any, z: Any, map: Map, out: Any, policy: int) -> Any:
    """grad_theta times inverse_jacobian(z)."""
    if not is_there(grad_theta):
        kind = type(grad_theta).__name__
        raise TypeError(f"grad_theta: expected an array on a GPU as z is one, got {kind}")
    with _stream_of(z, "z"):
        from fastmap import _torch

        into = None if out is None else _tensor(out, "out")
        result = _torch.pullback(_tensor(grad_theta, "grad_theta"), _tensor(z, "z"), map, into, policy)
        return _like(z, result) if out is None else out


def _tensor(x: Any, argument: str) -> Tensor:
    """A tensor of the memory of x, which knows nothing of gradients."""
    import torch

    if isinstance(x, torch.Tensor) or not is_there(x):
        kind = type(x).__name__
        raise TypeError(f"{argument}: expected an array of the same library on the GPU, got {kind}")
    if hasattr(type(x), "__dlpack__"):
        return torch.from_dlpack(x)
    return torch.as_tensor(x, device="cuda")  # the interface has no word for another than the current device


@contextmanager
def _stream_of(x: Any, argument: str) -> Iterator[None]:
    """Work goes to the stream that the library of x works on, so that neither has to wait for the other."""
    where = f"{argument}: {type(x).__name__} lies on a GPU"
    try:
        import torch
    except ImportError as error:
        raise RuntimeError(f"{where}, which needs torch; install it, or pass a CPU copy ({error})") from error
    if not torch.cuda.is_available():
        raise RuntimeError(f"{where}, and torch sees none; install torch for CUDA, or pass a CPU copy")
    handle = 0
    if type(x).__module__.partition(".")[0] == "cupy":
        handle = int(sys.modules["cupy"].cuda.get_current_stream().ptr)
    elif hasattr(type(x), "__cuda_array_interface__"):
        handle = int(x.__cuda_array_interface__.get("stream") or 0)
    speaks = hasattr(type(x), "__dlpack_device__")
    with torch.cuda.device(int(x.__dlpack_device__()[1]) if speaks else torch.cuda.current_device()):
        # 0 and 1 are the names of the default stream.
        stream = torch.cuda.default_stream() if handle in (0, 1) else torch.cuda.ExternalStream(handle)
        with torch.cuda.stream(stream):
            yield


def _like(x: Any, result: Tensor) -> Any:
    """The result as an array of the library of x; a tensor where that has no way to take one."""
    library = sys.modules[type(x).__module__.partition(".")[0]]
    take: Callable[[Any], Any] | None = getattr(library, "from_dlpack", None)
    if take is None and library.__name__ == "numba":
        take = sys.modules["numba.cuda"].as_cuda_array
    return result if take is None else take(result)
