"""Arrays of other libraries on a GPU, without one: whose memory, which stream, and what comes back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from foreign import Foreign, ForeignByInterface

import fastmap as fm
from fastmap import _cuda_arrays


class OnGPU(Foreign):
    """In the memory of a tensor, which it claims to lie on a GPU."""

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0


def from_dlpack(tensor: torch.Tensor) -> OnGPU:
    return OnGPU(tensor)


@pytest.fixture(autouse=True)
def streams(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Those that were asked for; there is no GPU to look for them."""
    used = []

    @contextmanager
    def stream_of(x: Any, argument: str) -> Iterator[None]:
        used.append(x)
        yield

    monkeypatch.setattr(_cuda_arrays, "_stream_of", stream_of)
    monkeypatch.setattr(torch, "from_dlpack", lambda x: x.values)
    return used


@pytest.mark.proves(
    "CuPy", "maps", device="CUDA, by torch (memory of the CPU in its place)", memory="its own"
)
def test_results_are_of_the_library_of_the_input(streams: list[Any]) -> None:
    x = torch.linspace(0.1, 5, 50)
    given = OnGPU(x)
    z = fm.forward(given, "log")
    assert isinstance(z, OnGPU)
    assert torch.equal(z.values, fm.forward(x, "log"))
    into = OnGPU(torch.empty(50))
    assert fm.inverse(z, "log", out=into) is into
    assert torch.equal(into.values, fm.inverse(z.values, "log"))
    value, total = fm.forward_and_log_det(given, "log", out=given)
    assert value is given
    assert torch.equal(given.values, z.values)
    expected = torch.linspace(0.1, 5, 50)
    assert torch.equal(total.values, fm.log_abs_det(expected, "log"))
    pulled = fm.pullback(OnGPU(expected), z, "log")
    assert torch.equal(pulled.values, fm.pullback(expected, z.values, "log"))
    assert streams == [given, z, given, given, z]


def test_the_default_is_that_of_a_gpu() -> None:
    x = OnGPU(torch.tensor([1.0, -1.0]))
    assert torch.isnan(fm.forward(x, "log").values).tolist() == [False, True]
    with pytest.raises(fm.DomainError, match="1 of 2 values is outside"):
        fm.forward(x, "log", invalid="raise")


def test_what_is_refused() -> None:
    x = OnGPU(torch.ones(3))
    for wrong in (np.ones(3, np.float32), torch.ones(3)):
        with pytest.raises(TypeError, match=r"^out: expected an array of the same library"):
            fm.forward(x, "log", out=wrong)
        with pytest.raises(TypeError, match=r"^grad_theta: expected an array"):
            fm.pullback(wrong, x, "log")


def test_what_is_there() -> None:
    assert _cuda_arrays.is_there(OnGPU(torch.ones(1)))
    assert _cuda_arrays.is_there(ForeignByInterface(None))
    assert not any(map(_cuda_arrays.is_there, (1.0, [1.0], np.ones(1), np.float32(1), "log", {"a": 1})))
