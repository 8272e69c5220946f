"""Mapped optimizers and sums on several processes of this machine, which talk by gloo."""

from __future__ import annotations

import copy
import datetime
import multiprocessing

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing as mp
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

import fastmap as fm
import fastmap.torch as ft

RULES = {
    "adam": lambda p, **k: ft.Adam(p, 0.05, **k),
    "adamw": lambda p, **k: ft.AdamW(p, 0.05, weight_decay=0.1, **k),
    "momentum": lambda p, **k: ft.SGD(p, 0.05, momentum=0.9, **k),
    "sgd": lambda p, **k: ft.SGD(p, 0.05, **k),
    "lion": lambda p, **k: ft.Lion(p, 0.01, **k),
}


@pytest.fixture
def processes(tmp_path):
    """Runs a function of this module in processes of one group; what fails in one fails here."""
    # One server imports torch and is forked for every process: to import it anew takes most of the time.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    multiprocessing.set_forkserver_preload(["torch.distributed.fsdp", "torch.distributed.checkpoint"])
    runs = []

    def run(work, *args, world=2):
        runs.append(work)
        store = str(tmp_path / f"store{len(runs)}")
        mp.start_processes(_process, (world, store, work, args), nprocs=world, start_method=method)

    return run


def _process(rank, world, store, work, args):
    torch.set_num_threads(1)
    fm.set_num_threads(1)
    minute = datetime.timedelta(seconds=60)  # a process that waits in vain is an error, not a hang
    dist.init_process_group("gloo", f"file://{store}", rank=rank, world_size=world, timeout=minute)
    try:
        work(*args)
    finally:
        dist.destroy_process_group()


def start(shape, dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    return (torch.rand(shape, generator=generator, dtype=torch.float64) * 0.8 + 0.1).to(dtype)


def gradient(step, theta):
    return torch.sin(torch.arange(theta.numel()).reshape(theta.shape) * (0.1 * step + 1.0)).to(theta.dtype)


def bits(t):
    if isinstance(t, DTensor):
        t = t.full_tensor()
    return t.detach().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()


def buffers(optimizer):
    """The bits of all parameters and of their state."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return [(bits(p), {k: bits(v) for k, v in optimizer.state[p].items()}) for p in parameters]


def same_everywhere(value):
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return all(other == values[0] for other in values)


class Gates(torch.nn.Module):
    """Decays in (0, 1), positive scales, free weights; fewer rows of one than there are processes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.weight = torch.nn.Linear(3, 5)
        self.decay = torch.nn.Parameter(torch.linspace(0.2, 0.9, 5))
        self.scale = torch.nn.Parameter(torch.full((1, 5), 2.0))

    def forward(self, x):
        return (torch.tanh(self.weight(x)) * self.decay / self.scale).square().mean()

    def groups(self):
        return [
            {"params": [self.decay], "map": fm.Interval(np.zeros(5), np.linspace(1.0, 2.0, 5))},
            {"params": [self.scale], "map": "log"},
            {"params": list(self.weight.parameters()), "map": "asinh"},
        ]


def data(step, rank):
    return torch.randn(8, 3, generator=torch.Generator().manual_seed(100 * step + rank))


def replicated_training(rule):
    model, single = Gates(), Gates()
    parallel = torch.nn.parallel.DistributedDataParallel(model)
    options = {"max_norm": 0.05, "nonfinite": "raise", "on_edit": "raise"}
    optimizer, reference = (RULES[rule](m.groups(), **options) for m in (model, single))
    for step in range(4):
        optimizer.zero_grad()
        parallel(data(step, dist.get_rank())).backward()
        for p, q in zip(model.parameters(), single.parameters(), strict=True):
            q.grad = p.grad.clone()
        optimizer.step()
        reference.step()
    assert buffers(optimizer) == buffers(reference)
    assert same_everywhere(buffers(optimizer))
    assert bits(model.decay) != bits(Gates().decay)


@pytest.mark.parametrize("rule", ["adam", "momentum"])
def test_replicas_of_ddp_stay_the_same_to_the_bit(processes, rule):
    processes(replicated_training, rule)


def laid_out(full, mesh, placements):
    return distribute_tensor(full.clone(), mesh, placements, src_data_rank=None)


LAYOUTS = {  # the shape of the mesh, and what its axes do
    "rows": ((2,), [Shard(0)]),
    "columns": ((2,), [Shard(1)]),
    "replicas": ((2,), [Replicate()]),
    "replicas of shards": ((2, 1), [Replicate(), Shard(0)]),
    "shards of replicas": ((2, 1), [Shard(0), Replicate()]),
}
FULL = [  # shape, dtype, map; one row on two processes leaves one of them empty
    ((5, 3), torch.float32, None),
    ((5, 3), torch.float32, "log"),
    ((5, 3), torch.bfloat16, "softplus"),
    ((5, 3), torch.float64, fm.Interval(np.zeros((5, 1)), np.linspace(1.0, 2.0, 3))),
    ((5, 3), torch.float32, fm.Interval(np.zeros((5, 3)), np.linspace(1.0, 2.0, 15).reshape(5, 3))),
    ((5, 3), torch.float32, fm.Chain(fm.Affine(0, np.linspace(1.0, 2.0, 15).reshape(5, 3)), "log")),
    ((1, 3), torch.float32, fm.Softplus(low=[[-1.0, 0.0, 0.05]])),
    ((5, 1), torch.float32, fm.mirror(fm.Softplus(low=-1.0))),
    ((0, 3), torch.float32, "log"),
]


def sharded_steps(rule):
    for shape, placements in LAYOUTS.values():
        mesh = init_device_mesh("cpu", shape)
        full = [start(s, dtype) for s, dtype, _ in FULL]
        ours = [torch.nn.Parameter(laid_out(t, mesh, placements)) for t in full]
        whole = [torch.nn.Parameter(t.clone()) for t in full]
        optimizer, reference = (
            RULES[rule](
                [{"params": [p], "map": m} for p, (_, _, m) in zip(ps, FULL, strict=True)], on_edit="raise"
            )
            for ps in (ours, whole)
        )
        for step in range(5):
            for p, q in zip(ours, whole, strict=True):
                q.grad = gradient(step, q)
                p.grad = laid_out(q.grad, mesh, placements)
            optimizer.step()
            reference.step()
        for p in ours:
            for key, value in optimizer.state[p].items():
                assert key == "step" or value.placements == p.placements
        assert buffers(optimizer) == buffers(reference)
        assert all(bits(p) != bits(t) for p, t in zip(ours, full, strict=True) if t.numel())


@pytest.mark.proves("torch", "step", device="DTensors")
@pytest.mark.parametrize("rule", RULES)
def test_a_sharded_step_has_the_bits_of_one_process(processes, rule):
    processes(sharded_steps, rule)


def sharded(model):
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    fully_shard(model.weight, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def fully_sharded_training(rule):
    model, single = sharded(Gates()), Gates()
    optimizer, reference = (RULES[rule](m.groups(), on_edit="raise") for m in (model, single))
    for step in range(4):
        optimizer.zero_grad()
        model(data(step, dist.get_rank())).backward()
        for p, q in zip(model.parameters(), single.parameters(), strict=True):
            q.grad = p.grad.full_tensor()
        optimizer.step()
        reference.step()
    assert buffers(optimizer) == buffers(reference)
    assert (model.decay.full_tensor() < torch.linspace(1.0, 2.0, 5)).all()
    assert bits(model.decay) != bits(Gates().decay)


@pytest.mark.parametrize("rule", ["adamw", "lion"])
def test_fully_sharded_training_has_the_bits_of_one_process(processes, rule):
    processes(fully_sharded_training, rule)


def mixed_parameters(dtype=torch.float64):
    """Sharded, replicated and plain ones, and the same in one piece."""
    mesh = init_device_mesh("cpu", (2,))
    full = [start(s, dtype) for s in ((5, 3), (4, 7), (6,), (1, 2))]
    ours = [
        laid_out(full[0], mesh, [Shard(0)]),
        laid_out(full[1], mesh, [Replicate()]),
        full[2].clone(),
        laid_out(full[3], mesh, [Shard(0)]),
    ]
    ours, whole = ([torch.nn.Parameter(t) for t in ts] for ts in (ours, full))
    for step, (p, q) in enumerate(zip(ours, whole, strict=True)):
        q.grad = gradient(step, q)
        p.grad = laid_out(q.grad, mesh, p.placements) if isinstance(p, DTensor) else q.grad.clone()
    return ours, whole


def clipped(space):
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        ours, whole = mixed_parameters(dtype)
        one, other = (ft.SGD(ps, 1.0, map="log", max_norm=0.3, norm_space=space) for ps in (ours, whole))
        before = [q.detach().clone() for q in whole]
        one.step()
        other.step()
        for p, q, old in zip(ours, whole, before, strict=True):
            got = p.full_tensor() if isinstance(p, DTensor) else p
            torch.testing.assert_close(got, q, rtol=tolerance, atol=0)
            moved = got.detach().log() - old.log()
            expected = q.detach().log() - old.log()
            torch.testing.assert_close(moved, expected, rtol=max(tolerance, 1e-11) * 10, atol=tolerance)
        assert same_everywhere([bits(p) for p in ours])


@pytest.mark.parametrize("space", ["theta", "z"])
def test_norms_of_sharded_gradients_are_summed_once(processes, space):
    processes(clipped, space)


def refused_gradients(policy):
    ours, _ = mixed_parameters()
    optimizer = ft.Adam(zip(("a", "b", "c", "d"), ours, strict=True), map="log", nonfinite=policy)
    if dist.get_rank() == 0:  # the second row of a part of three
        ours[0].grad.to_local()[1, 2] = torch.nan
    before = buffers(optimizer)
    if policy == "skip":
        optimizer.step()
        assert optimizer.skipped == 1
    else:
        own = r"a: 1 gradients are not finite, first at index \(1, 2\)"
        with pytest.raises(
            FloatingPointError, match=own if dist.get_rank() == 0 else "gradients of another process"
        ):
            optimizer.step()
    assert buffers(optimizer) == before
    if dist.get_rank() == 0:
        ours[0].grad.to_local()[1, 2] = 0.0
    optimizer.step()
    assert buffers(optimizer) != before


@pytest.mark.parametrize("policy", ["skip", "raise"])
def test_a_gradient_that_is_not_finite_in_one_process_stops_all(processes, policy):
    processes(refused_gradients, policy)


def scaled_gradients():
    ours, whole = mixed_parameters(torch.float32)
    one, other = (ft.Adam(ps, map="log") for ps in (ours, whole))
    before = buffers(one)
    one.found_inf = torch.tensor(float(dist.get_rank()))
    one.step()
    assert buffers(one) == before
    one.found_inf, one.grad_scale = torch.tensor(0.0), torch.tensor(4.0)
    for p in ours:
        p.grad.mul_(4)
    one.step()
    other.step()
    assert buffers(one) == buffers(other)

    model = sharded(Gates())
    optimizer = ft.Adam(model.groups())
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for step, factor in enumerate((1.0, torch.inf if dist.get_rank() else 1.0)):
        before = buffers(optimizer)
        optimizer.zero_grad()
        scaler.scale(model(data(step, dist.get_rank())) * factor).backward()
        scaler.step(optimizer)
        scaler.update()
        assert (buffers(optimizer) == before) == bool(step)
    assert scaler.get_scale() == 512


def test_what_grad_scaler_found_in_one_process_stops_all(processes):
    processes(scaled_gradients)


def sums_and_derivatives():
    full = start((5, 3), torch.float64)
    bounds = fm.Interval(np.zeros((5, 1)), np.linspace(1.0, 2.0, 15).reshape(5, 3))
    for shape, placements in LAYOUTS.values():
        mesh = init_device_mesh("cpu", shape)
        for m in (fm.Log(), bounds, fm.Chain("log", fm.Affine(0, [1.0, 2.0, 3.0])), bounds.inv):
            x = laid_out(full, mesh, placements)
            for f in (fm.forward, fm.inverse, fm.jacobian, fm.inverse_jacobian):
                if m is not bounds.inv:
                    assert bits(f(x, m)) == bits(f(full, m))
                    assert f(x, m).placements == x.placements
            for axis in (None, (), 0, 1, (0, 1)):
                for f in (fm.log_abs_det, fm.inverse_log_abs_det):
                    got = f(x, m, axis=axis)
                    torch.testing.assert_close(
                        got.full_tensor(), f(full, m, axis=axis), rtol=1e-12, atol=1e-12
                    )
            if not any(p.is_shard() for p in placements):
                continue
        x, y = laid_out(full, mesh, placements).requires_grad_(), full.clone().requires_grad_()
        for t in (x, y):
            z = fm.forward(t, bounds)
            (g,) = torch.autograd.grad((z * z).sum(), t, create_graph=True)
            (g * g).sum().backward()
            (fm.log_abs_det(t, bounds) + fm.log_abs_det(t, bounds, axis=0).square().sum()).backward()
        torch.testing.assert_close(x.grad.full_tensor(), y.grad, rtol=1e-12, atol=1e-12)
        value, total = fm.forward_and_log_det(laid_out(full, mesh, placements), bounds)
        assert bits(value) == bits(fm.forward(full, bounds))
        assert float(total.full_tensor()) == pytest.approx(float(fm.log_abs_det(full, bounds)), rel=1e-12)
        out = torch.zeros_like(value)
        assert fm.pullback(laid_out(full, mesh, placements), value, bounds, out=out) is out
        assert bits(out) == bits(fm.pullback(full, fm.forward(full, bounds), bounds))


@pytest.mark.proves("torch", "sums", device="DTensors")
def test_sums_over_shards_and_their_derivatives(processes):
    processes(sums_and_derivatives)


def outside_the_domain():
    mesh, last = init_device_mesh("cpu", (2,)), dist.get_rank() == 1
    full = start((5, 3))
    full[4, 1] = -1
    x = laid_out(full, mesh, [Shard(0)])
    with pytest.raises(
        fm.DomainError, match="in the part of process 1" if last else "in another process"
    ) as e:
        fm.log_abs_det(x, "log")
    assert (e.value.count, e.value.index) == ((1, (1, 1)) if last else (0, ()))
    if last:
        with pytest.raises(
            fm.DomainError, match=r"^theta: 1 of 6 .* index \(1, 1\).* in the part of process 1"
        ):
            fm.forward(x, "log")
        with pytest.raises(fm.DomainError, match=r"^scale: 1 of 6 values .*in the part of process 1"):
            ft.Adam([("scale", torch.nn.Parameter(x))], map="log")
    else:
        fm.forward(x, "log")
    assert bits(x) == bits(full)
    assert fm.forward(x, "log", invalid="nan").full_tensor().isnan().sum() == 1


def test_values_outside_the_domain_are_an_error_where_they_are(processes):
    processes(outside_the_domain)


def refused_layouts():
    mesh = init_device_mesh("cpu", (2,))
    full = start((4, 3))
    p = torch.nn.Parameter(laid_out(full, mesh, [Shard(0)]))
    optimizer = ft.Adam([("w", p)], map="log")
    before = buffers(optimizer)
    z = fm.forward(p.detach(), "log")
    kept = optimizer.state[p]["z"]
    for change, error, text in [
        ({"z": kept.to_local()}, TypeError, "w: state: expected a DTensor"),
        ({"z": laid_out(full, mesh, [Shard(1)])}, ValueError, "w: state: has the placements"),
        ({"exp_avg": laid_out(full[:2], mesh, [Shard(0)])}, ValueError, "w: its state 'exp_avg' has another"),
    ]:
        old = dict(optimizer.state[p])
        optimizer.state[p].update(change)
        p.grad = laid_out(gradient(0, full), mesh, [Shard(0)])
        with pytest.raises(error, match=text):
            optimizer.step()
        optimizer.state[p].update(old)
        assert buffers(optimizer) == before
    with pytest.raises(TypeError, match="out: expected a DTensor as theta is one"):
        fm.forward(p.detach(), "log", out=torch.empty(2, 3))
    with pytest.raises(ValueError, match="out: has the placements"):
        fm.forward(p.detach(), "log", out=laid_out(full, mesh, [Shard(1)]))
    with pytest.raises(TypeError, match="grad_theta: expected a DTensor as z is one"):
        fm.pullback(torch.ones(4, 3), z, "log")
    with pytest.raises(ValueError, match="theta: its sum over the processes is pending"):
        fm.forward(DTensor.from_local(full, mesh, [Partial()]), "log")
    with pytest.raises(ValueError, match="do not broadcast"):
        fm.forward(p.detach(), fm.Softplus(low=[0.0, 0.0]))
    with pytest.raises(TypeError, match="map: a Space"):
        fm.forward(laid_out(start((4,)), mesh, [Shard(0)]), fm.Space(a=fm.Param(0, 1, shape=4)))
    with pytest.raises(TypeError, match=r"use torch\.distributed\.checkpoint\.state_dict"):
        optimizer.load_state_dict(ft.Adam([torch.nn.Parameter(full)], map="log").state_dict())
    assert buffers(optimizer) == before
    # A pending sum is no error as a gradient: torch's own optimizers take it too.
    p.grad = None
    p.grad = DTensor.from_local(gradient(0, full) / 2, mesh, [Partial()])
    q = torch.nn.Parameter(full.clone())
    q.grad = gradient(0, full)
    other = ft.Adam([q], map="log")
    optimizer.step()
    other.step()
    assert buffers(optimizer) == buffers(other)


def test_layouts_that_differ_are_refused(processes):
    processes(refused_layouts)


def edits():
    mesh = init_device_mesh("cpu", (2,))
    bounds = fm.Interval(0.0, np.linspace(1.0, 2.0, 12).reshape(4, 3))
    p = torch.nn.Parameter(laid_out(start((4, 3)), mesh, [Shard(0)]))
    optimizer = ft.Adam([p], map=bounds)
    for edit in (lambda: p.clamp_(0.3, 0.5), lambda: p.to_local().fill_(0.6)):
        with torch.no_grad():
            edit()
        p.grad = laid_out(torch.zeros(4, 3), mesh, [Shard(0)])
        optimizer.on_edit = "raise"
        with pytest.raises(RuntimeError, match="was edited"):
            optimizer.step()
        optimizer.on_edit = "resync"
        optimizer.step()
        expected = fm.forward(p.full_tensor().detach(), bounds)
        torch.testing.assert_close(optimizer.state[p]["z"].full_tensor(), expected)
    loss = p.square().sum()
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_edits_of_a_shard_are_found(processes):
    processes(edits)


def steps(model, optimizer, n, first=0):
    for step in range(first, first + n):
        optimizer.zero_grad()
        model(data(step, 0)).backward()  # the same data everywhere: world sizes are to agree
        optimizer.step()


def save(path):
    model = sharded(Gates()) if dist.get_world_size() > 1 else Gates()
    optimizer = ft.Adam(model.groups(), 0.05)
    steps(model, optimizer, 3)
    before = buffers(optimizer)
    state = {"model": get_model_state_dict(model), "optimizer": get_optimizer_state_dict(model, optimizer)}
    dcp.save(state, checkpoint_id=path)
    assert buffers(optimizer) == before
    if dist.get_rank() == 0:
        torch.save(before, f"{path}.bits")
    dist.barrier()


def load(path, whole):
    model = Gates() if whole else sharded(Gates())
    with torch.no_grad():
        model.decay.mul_(0.9)
    optimizer = ft.Adam(model.groups(), 0.5)
    steps(model, optimizer, 1)
    state = {"model": get_model_state_dict(model), "optimizer": get_optimizer_state_dict(model, optimizer)}
    dcp.load(state, checkpoint_id=path)
    set_model_state_dict(model, state["model"])
    set_optimizer_state_dict(model, optimizer, state["optimizer"])
    assert buffers(optimizer) == torch.load(f"{path}.bits", weights_only=True)
    assert [group["lr"] for group in optimizer.param_groups] == [0.05] * 3
    assert optimizer.param_groups[0]["map"] == Gates().groups()[0]["map"]
    twin = Gates()
    reference = ft.Adam(twin.groups(), 0.05)
    steps(twin, reference, 5)
    optimizer.on_edit = "raise" if whole else "resync"
    steps(model, optimizer, 2, first=3)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        got = p.full_tensor() if isinstance(p, DTensor) else p
        torch.testing.assert_close(got, q, rtol=1e-5, atol=1e-6)  # gradients are averaged over processes


@pytest.mark.parametrize(
    ("saved_by", "loaded_by", "whole"), [(2, 2, False), (2, 1, True), (2, 1, False), (1, 2, False)]
)
def test_a_distributed_checkpoint_goes_on(processes, tmp_path, saved_by, loaded_by, whole):
    processes(save, str(tmp_path / "checkpoint"), world=saved_by)
    processes(load, str(tmp_path / "checkpoint"), whole, world=loaded_by)


def full_state_dicts():
    options = StateDictOptions(full_state_dict=True)
    model = sharded(Gates())
    optimizer = ft.Adam(model.groups(), 0.05)
    steps(model, optimizer, 3)
    weights = copy.deepcopy(get_model_state_dict(model, options=options))
    state = copy.deepcopy(get_optimizer_state_dict(model, optimizer, options=options))
    other = sharded(Gates())
    fresh = ft.Adam(other.groups(), 0.5)
    set_model_state_dict(other, dict(weights), options=options)  # which it changes
    set_optimizer_state_dict(other, fresh, copy.deepcopy(state), options=options)
    assert buffers(fresh) == buffers(optimizer)
    if dist.get_rank() == 0:  # it is that of one process
        single = Gates()
        single.load_state_dict(weights)
        alone = ft.Adam(single.groups(), 0.5)
        set_optimizer_state_dict(single, alone, state)
        whole = buffers(alone)
    expected = buffers(optimizer)
    assert dist.get_rank() != 0 or whole == expected


def test_a_full_state_dict_goes_to_shards_and_back(processes):
    processes(full_state_dicts)


def mapped_optimizer_of_torch():
    mesh = init_device_mesh("cpu", (2,))
    full = start((5, 3))
    bounds = fm.Interval(0.0, np.linspace(1.0, 2.0, 15).reshape(5, 3))
    p, q = torch.nn.Parameter(laid_out(full, mesh, [Shard(0)])), torch.nn.Parameter(full.clone())
    one, other = (ft.Mapped(torch.optim.RMSprop, [x], map=bounds) for x in (p, q))
    for step in range(3):
        q.grad = gradient(step, q)
        p.grad = laid_out(q.grad, mesh, [Shard(0)])
        one.step()
        other.step()
    assert bits(p) == bits(q)


def test_other_optimizers_move_shards_too(processes):
    processes(mapped_optimizer_of_torch)
