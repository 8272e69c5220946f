"""On a real NVIDIA GPU: the bits of the CPU, streams, graphs, autograd. Run: pytest tests/test_gpu.py

Machines without a GPU prove the kernels in `test_cuda.py`. No GPU has run these tests yet.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import test_cuda
import torch

import fastmap as fm
from fastmap import _core

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
    pytest.mark.skipif(
        not fm.info()["cuda"], reason="fastmap._cuda was not built: FASTMAP_CUDA is off by default"
    ),
]
DEVICE = "cuda"
CHAIN = fm.Chain(fm.Affine(-3, 0.5), "softplus", fm.Asinh(2.0).inv)


def same_bits(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return found.cpu().numpy().tobytes() == expected.numpy().tobytes()


def evaluate(op: str, x: torch.Tensor, m: Any) -> torch.Tensor:
    """An operation without sums, by the public functions where there is one."""
    if op.endswith("log_abs_det"):
        return getattr(fm, op)(x, m, axis=(), invalid="nan")
    if op.endswith("grad"):
        from fastmap._functional import elementwise

        return elementwise(op, "x", x, m, None, "nan")
    return getattr(fm, op)(x, m, invalid="nan")


@pytest.mark.parametrize("dtype", test_cuda.DTYPES)
@pytest.mark.parametrize("m", test_cuda.CATALOG, ids=test_cuda.NAMES)
def test_every_map_has_the_bits_of_the_cpu(m: dict[str, Any], dtype: type) -> None:
    for example in m["examples"]:
        params = tuple(example.values())
        map = getattr(fm, m["class_name"])(*params)
        for op in _core.OPS:
            x = torch.from_numpy(test_cuda.inputs(op, m, params, dtype))
            for part in (x, x[1:], x[:7]):
                assert same_bits(evaluate(op, part.to(DEVICE), map), evaluate(op, part, map)), (params, op)


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_buffers_chains_sums_and_gradients(dtype: torch.dtype, offset: int) -> None:
    x = torch.from_numpy(np.random.default_rng(0).normal(0, 5, 3_000_017)).to(dtype)
    x, on_device = x[offset:], x.to(DEVICE)[offset:]
    for m in ("softplus", CHAIN):
        assert same_bits(fm.inverse(on_device, m), fm.inverse(x, m))
        assert same_bits(fm.inverse_log_abs_det(on_device, m), fm.inverse_log_abs_det(x, m))
        assert same_bits(fm.pullback(on_device, on_device, m), fm.pullback(x, x, m))
        own, z = x.clone().requires_grad_(), on_device.clone().requires_grad_()
        fm.inverse(own, m).backward(torch.ones_like(own))
        fm.inverse(z, m).backward(torch.ones_like(z))
        assert own.grad is not None
        assert z.grad is not None
        assert same_bits(z.grad, own.grad)
    theta = fm.inverse(on_device, "softplus", out=on_device)
    assert theta is on_device
    assert same_bits(theta, fm.inverse(x, "softplus"))


def test_calls_run_on_the_current_stream_and_in_graphs() -> None:
    x = torch.linspace(0.1, 5, 1000)
    expected, stream = fm.forward(x, "log"), torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # what follows has to wait for it
        on_device = x.to(DEVICE)
        result = fm.forward(on_device, "log")
    stream.synchronize()
    assert same_bits(result, expected)
    graph, z = torch.cuda.CUDAGraph(), torch.empty_like(on_device)
    with torch.cuda.graph(graph):
        fm.forward(on_device, "log", out=z)
    on_device.mul_(2)
    graph.replay()
    assert same_bits(z, fm.forward(2 * x, "log"))


def test_more_than_2_to_the_31_elements() -> None:
    n = 2**31 + 1000
    if torch.cuda.mem_get_info()[0] < 9 * n:
        pytest.skip("the GPU has less free memory than this takes")
    z = torch.zeros(n, device=DEVICE)
    z[-3:] = 2
    theta = fm.inverse(z, "softplus", out=z)
    assert same_bits(theta[-5:], fm.inverse(torch.tensor([0.0, 0, 2, 2, 2]), "softplus"))


def test_what_is_refused() -> None:
    x = torch.ones(4, device=DEVICE)
    for keywords, kind in (({"invalid": "raise"}, NotImplementedError), ({"out": torch.ones(4)}, ValueError)):
        with pytest.raises(kind):
            fm.forward(x, "log", **keywords)
    assert torch.isnan(fm.forward(-x, "log")).all()
