"""On a real NVIDIA GPU: the bits of the CPU, streams, graphs, autograd, optimizers. Run: pytest -m gpu

Machines without a GPU prove the kernels in `test_cuda.py`. No GPU has run these tests yet.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import test_cuda
import test_cuda_steps
import torch
from foreign import Foreign, ForeignByInterface

import fastmap as fm
import fastmap.torch as ft
from fastmap import _core

pytestmark = [
    pytest.mark.gpu,
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


def test_arrays_orders_of_memory_and_policies() -> None:
    x = torch.rand(3, 70, 50, dtype=torch.float64) + 0.1
    m = fm.Chain(fm.Asinh(torch.rand(70, 1).numpy() + 0.5), "softplus")
    for given in (x, x.transpose(0, 2)):
        for policy in ("raise", "nan"):
            z = fm.forward(given.to(DEVICE), m.inv if given is x else "log", invalid=policy)
            assert same_bits(z, fm.forward(given, m.inv if given is x else "log", invalid=policy))
            assert z.stride() == given.stride()
    y = x - 0.5
    assert same_bits(fm.forward(y.to(DEVICE), "log", invalid="clip"), fm.forward(y, "log", invalid="clip"))


@pytest.mark.parametrize("kind", [Foreign, ForeignByInterface])
def test_arrays_of_other_libraries(kind: Any) -> None:
    x = torch.linspace(0.1, 5, 1000)
    given = kind(x.to(DEVICE))
    z = fm.forward(given, "log")
    assert isinstance(z, Foreign)
    assert same_bits(z.values, fm.forward(x, "log"))
    into = kind(torch.empty(1000, device=DEVICE))
    assert fm.forward(given, "log", out=into) is into
    assert same_bits(into.values, fm.forward(x, "log"))
    assert same_bits(fm.pullback(given, given, "log").values, fm.pullback(x, x, "log"))
    assert same_bits(fm.log_abs_det(given, "log").values, fm.log_abs_det(x, "log"))
    with pytest.raises(TypeError, match="out: expected an array of the same library"):
        fm.forward(given, "log", out=torch.empty(1000, device=DEVICE))


def test_cupy() -> None:
    cupy = pytest.importorskip("cupy")
    x = np.linspace(0.1, 5, 1000, dtype=np.float32)
    with cupy.cuda.Stream():
        z = fm.forward(cupy.asarray(x), "log")
        assert isinstance(z, cupy.ndarray)
        assert z.get().tobytes() == fm.forward(x, "log").tobytes()


def test_compiled_calls() -> None:
    z = torch.linspace(-3, 3, 1000, device=DEVICE, requires_grad=True)
    fm_inverse = torch.compile(lambda z: fm.inverse(z, "softplus"))
    result = fm_inverse(z)
    result.sum().backward()
    assert same_bits(result.detach(), fm.inverse(z.detach().cpu(), "softplus"))
    assert z.grad is not None


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
    with pytest.raises(ValueError, match="device"):
        fm.forward(x, "log", out=torch.ones(4))
    with pytest.raises(fm.DomainError, match="4 of 4 values are outside"):
        fm.forward(-x, "log", invalid="raise")
    with pytest.raises(RuntimeError, match="invalid: "), torch.cuda.graph(torch.cuda.CUDAGraph()):
        fm.forward(x, "log", invalid="raise")
    assert torch.isnan(fm.forward(-x, "log")).all()


# --- Optimizers ----------------------------------------------------------------------------------


def on_device(params: list[torch.nn.Parameter]) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(p.detach().to(DEVICE)) for p in params]


def same_states(optimizer: Any, expected: Any) -> None:
    """theta, z and moments; the steps of the one lie on the GPU."""
    pairs = zip(*(o.param_groups[0]["params"] for o in (optimizer, expected)), strict=True)
    for p, q in pairs:
        assert same_bits(p.detach(), q.detach())
        for key, value in expected.state[q].items():
            assert optimizer.state[p][key].device == p.device
            assert same_bits(optimizer.state[p][key], value), key


def large(dtype: torch.dtype) -> list[torch.nn.Parameter]:
    rng = np.random.default_rng(6)
    return [
        torch.nn.Parameter(torch.from_numpy(rng.uniform(0.1, 0.9, n)).to(dtype))
        for n in (1_000_003, 5, 70_000)
    ]


@pytest.mark.parametrize("dtype", test_cuda.ALL_DTYPES)
@pytest.mark.parametrize("name", test_cuda_steps.OPTIMIZERS)
def test_optimizers_have_the_bits_of_the_cpu(name: str, dtype: torch.dtype) -> None:
    theirs = large(dtype)
    ours = on_device(theirs)
    expected, optimizer = (test_cuda_steps.OPTIMIZERS[name](p, map="interval") for p in (theirs, ours))
    for step in range(3):
        for p, q in zip(ours, theirs, strict=True):
            q.grad = torch.sin(torch.arange(q.numel()) * (0.7 * step + 1)).to(dtype)
            p.grad = q.grad.to(DEVICE)
        expected.step()
        optimizer.step()
    same_states(optimizer, expected)


@pytest.mark.parametrize("m", test_cuda.CATALOG, ids=test_cuda.NAMES)
def test_every_map_has_a_step(m: dict[str, Any]) -> None:
    map = getattr(fm, m["class_name"])(*m["examples"][0].values())
    theirs = [torch.nn.Parameter(fm.inverse(torch.linspace(-0.9, 0.9, 5000), map))]
    ours = on_device(theirs)
    expected, optimizer = (ft.AdamW(p, 0.01, map=map) for p in (theirs, ours))
    for _ in range(3):
        theirs[0].grad = torch.linspace(-1, 1, 5000)
        ours[0].grad = theirs[0].grad.to(DEVICE)
        expected.step()
        optimizer.step()
    same_states(optimizer, expected)


def step_of(optimizer: Any) -> torch.cuda.CUDAGraph:
    """A step as a graph, after one that is taken at once."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        optimizer.step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    return graph


def test_a_step_in_a_graph_follows_what_lies_on_the_device() -> None:
    """Its learning rate, its count, the scale of gradients, and steps that are left out."""
    theirs = test_cuda_steps.parameters()
    ours = on_device(theirs)
    lr, scale, found = (torch.tensor(v, device=DEVICE) for v in (0.05, 4.0, 0.0))
    expected, optimizer = ft.Adam(theirs, 0.05, map="log"), ft.Adam(ours, lr, map="log", capturable=True)
    for o, values in ((expected, (torch.tensor(4.0), torch.tensor(0.0))), (optimizer, (scale, found))):
        o.grad_scale, o.found_inf = values
    for p, q in zip(ours, theirs, strict=True):
        q.grad = torch.full_like(q, 0.5)
        p.grad = q.grad.to(DEVICE)
    graph = step_of(optimizer)
    expected.step()
    for rate, of_scale, skipped in ((0.1, 2.0, 0.0), (0.2, 2.0, 1.0), (0.3, 8.0, 0.0)):
        for x, value in ((lr, rate), (scale, of_scale), (found, skipped)):
            x.fill_(value)
        graph.replay()
        expected.param_groups[0]["lr"] = float(torch.tensor(rate))
        expected.grad_scale, expected.found_inf = torch.tensor(of_scale), torch.tensor(skipped)
        expected.step()
    same_states(optimizer, expected)


@pytest.mark.parametrize("norm_space", ["theta", "z"])
def test_limits_of_gradients_in_a_graph(norm_space: str) -> None:
    """Their norm, and steps that are skipped; `skipped` counts replays."""
    theirs = test_cuda_steps.parameters()
    ours = on_device(theirs)
    options: dict[str, Any] = {"max_norm": 0.5, "norm_space": norm_space, "nonfinite": "skip", "map": "log"}
    expected, optimizer = ft.Adam(theirs, 0.05, **options), ft.Adam(ours, 0.05, **options)
    for p, q in zip(ours, theirs, strict=True):
        p.grad, q.grad = torch.ones_like(p), torch.ones_like(q)
    graph = step_of(optimizer)
    expected.step()
    for value in (3.0, math.inf, 1e-3):
        for p, q in zip(ours, theirs, strict=True):
            assert p.grad is not None
            p.grad.fill_(value)
            q.grad = torch.full_like(q, value)
        graph.replay()
        expected.step()
    assert optimizer.skipped == expected.skipped == 1
    same_states(optimizer, expected)


def test_bounds_of_each_element() -> None:
    theta, low = torch.rand(40, 300), np.linspace(-2, -1, 300)
    found = []
    for device in ("cpu", DEVICE):
        p = torch.nn.Parameter(theta.to(device).t().contiguous().t())
        optimizer = ft.Adam([p], 0.05, map=fm.Interval(low, 1.5))
        for _ in range(3):
            p.grad = torch.empty_like(p).copy_(torch.sin(theta))
            optimizer.step()
        found.append(p.detach())
    assert same_bits(found[1], found[0])


def test_a_step_waits_for_nothing() -> None:
    params = on_device(test_cuda_steps.parameters())
    optimizer = ft.AdamW(params, torch.tensor(0.05, device=DEVICE), map="log")
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    before = torch.cuda.memory_allocated()
    torch.cuda.set_sync_debug_mode("error")
    try:
        optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.cuda.memory_allocated() == before


def test_mixed_precision_and_devices() -> None:
    p, q = torch.nn.Parameter(torch.full((9,), 0.5, device=DEVICE)), torch.nn.Parameter(torch.full((9,), 0.5))
    optimizer, scaler = ft.SGD([p], 0.1, map="log"), torch.amp.GradScaler(DEVICE, init_scale=8.0)
    for bad in (1.0, float("inf"), 1.0):
        optimizer.zero_grad()
        scaler.scale((p * bad).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    assert optimizer.state[p]["step"] == 2
    both = ft.SGD([p.detach().fill_(0.5).requires_grad_(), q], 0.1, map="log")
    for x in both.param_groups[0]["params"]:
        x.grad = torch.ones_like(x)
    both.step()
    assert same_bits(both.param_groups[0]["params"][0].detach(), q.detach())


def test_a_mapped_adam_is_about_as_fast_as_that_of_torch() -> None:
    """At most 1.1 times the fused one, of 32 tensors of 2²² elements."""

    def seconds(make: Any) -> float:
        params = [torch.nn.Parameter(torch.full((1 << 22,), 0.5, device=DEVICE)) for _ in range(32)]
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer = make(params)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        times = []
        for _ in range(20):
            begin.record()
            optimizer.step()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end))
        return float(np.median(times))

    mapped = seconds(lambda p: ft.Adam(p, 1e-3, map="log"))
    assert mapped <= 1.1 * seconds(lambda p: torch.optim.Adam(p, 1e-3, fused=True))
