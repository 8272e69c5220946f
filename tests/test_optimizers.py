"""Mapped optimizers against torch's own, and everything that a step must refuse or leave alone."""

from __future__ import annotations

import copy
import io
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import fastmap as fm
import fastmap.torch as ft

MAPS = {
    "identity": None,
    "log": "log",
    "softplus": fm.Softplus(beta=2.0, low=0.01),
    "interval": fm.Interval(0.0, 1.0),
    "chain": fm.Chain("log", fm.Affine(1.0, 2.0)),
    "array": fm.Interval(np.zeros((7, 1)), np.linspace(1.0, 2.0, 143)),
    "mirror": fm.mirror(fm.Softplus(low=-1.0)),
}
# Ours and the same rule of torch on z.
RULES = {
    "sgd": (lambda p, **k: ft.SGD(p, 0.005, **k), lambda p: torch.optim.SGD(p, 0.005)),
    "momentum": (
        lambda p, **k: ft.SGD(p, 0.005, momentum=0.9, dampening=0.3, **k),
        lambda p: torch.optim.SGD(p, 0.005, momentum=0.9, dampening=0.3),
    ),
    "nesterov": (
        lambda p, **k: ft.SGD(p, 0.005, momentum=0.9, nesterov=True, **k),
        lambda p: torch.optim.SGD(p, 0.005, momentum=0.9, nesterov=True),
    ),
    "ascent": (
        lambda p, **k: ft.SGD(p, 0.005, maximize=True, **k),
        lambda p: torch.optim.SGD(p, 0.005, maximize=True),
    ),
    "adam": (lambda p, **k: ft.Adam(p, 0.01, **k), lambda p: torch.optim.Adam(p, 0.01)),
    "adam with L2 of z": (
        lambda p, **k: ft.Adam(p, 0.01, weight_decay=0.1, decay_space="z", **k),
        lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.1),
    ),
    "adamw on z": (
        lambda p, **k: ft.AdamW(p, 0.01, weight_decay=0.1, decay_space="z", **k),
        lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.1),
    ),
}
each_map = pytest.mark.parametrize("name", MAPS)
each_rule = pytest.mark.parametrize("rule", RULES)


def start(dtype=torch.float32, shape=(7, 143)):
    generator = torch.Generator().manual_seed(3)
    return (torch.rand(shape, generator=generator, dtype=torch.float64) * 0.8 + 0.1).to(dtype)


def gradient(step, theta):
    return torch.sin(torch.arange(theta.numel()).reshape(theta.shape) * (0.1 * step + 1.0)).to(theta.dtype)


def trained(optimizer, p, steps=20):
    for step in range(steps):
        p.grad = gradient(step, p)
        optimizer.step()
    return p.detach().clone()


def by_autograd(make, m, theta, steps=20):
    """The same training, as one writes it with torch alone: z is the parameter."""
    z = fm.forward(theta, m).requires_grad_()
    optimizer = make([z])
    for step in range(steps):
        optimizer.zero_grad()
        fm.inverse(z, m).backward(gradient(step, theta))
        optimizer.step()
    return fm.inverse(z.detach(), m)


@pytest.mark.proves("torch", "step", device="CPU")
@each_rule
@each_map
def test_a_step_is_the_step_of_torch_on_z(rule, name):
    ours, theirs = RULES[rule]
    m = MAPS[name] or "identity"
    p = torch.nn.Parameter(start(torch.float64))
    got = trained(ours([p], map=MAPS[name]), p)
    expected = by_autograd(theirs, m, start(torch.float64))
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


@each_map
def test_trajectories_are_as_good_as_those_of_torch(name):
    """Against float64: at most 1.2 times the error of the same mathematics in torch float32.

    By quantiles: where a gradient is nearly zero, Adam makes a whole step of a rounding error, in either one.
    """
    m = MAPS[name] or "identity"
    make = RULES["adam"][1]
    p = torch.nn.Parameter(start())
    got = trained(ft.Adam([p], 0.01, map=m), p, 1000).double()
    truth = by_autograd(make, m, start().double(), 1000)
    theirs = by_autograd(make, m, start(), 1000).double()
    for share in (0.5, 0.9, 0.99):
        error, torch_error = ((x - truth).abs().quantile(share) for x in (got, theirs))
        assert error <= 1.2 * torch_error, share


def test_decoupled_decay_of_theta_is_that_of_torch_for_the_identity():
    p, q = torch.nn.Parameter(start(torch.float64)), torch.nn.Parameter(start(torch.float64))
    got = trained(ft.AdamW([p], 0.01, weight_decay=0.1), p)
    torch.testing.assert_close(got, trained(torch.optim.AdamW([q], 0.01, weight_decay=0.1), q))
    # With the logarithm, z falls by lr · weight_decay.
    p = torch.nn.Parameter(start(torch.float64))
    optimizer = ft.AdamW([p], 0.01, weight_decay=0.1, map="log")
    p.grad = torch.zeros_like(p)
    optimizer.step()
    torch.testing.assert_close(p.detach(), start(torch.float64) * np.exp(-0.001))


def test_coupled_decay_of_theta_is_added_to_its_gradient():
    p, q = (torch.nn.Parameter(start(torch.float64)) for _ in range(2))
    one, other = ft.Adam([p], 0.01, weight_decay=0.1, map="log"), ft.Adam([q], 0.01, map="log")
    for step in range(5):
        p.grad = gradient(step, p)
        q.grad = gradient(step, q) + 0.1 * q.detach()
        one.step()
        other.step()
    torch.testing.assert_close(p, q)


def test_lion_follows_the_signs():
    p = torch.nn.Parameter(start(torch.float64))
    optimizer = ft.Lion([p], 0.01, (0.9, 0.99), map="log")
    z, m = p.detach().log(), torch.zeros_like(p)
    for step in range(10):
        p.grad = gradient(step, p)
        g = p.grad * z.exp()
        z = z - 0.01 * torch.sign(0.9 * m + 0.1 * g)
        m = 0.99 * m + 0.01 * g
        optimizer.step()
    torch.testing.assert_close(p.detach(), z.exp())


def test_mirror_descent_with_log_is_the_exponentiated_gradient():
    p = torch.nn.Parameter(start(torch.float64))
    optimizer = ft.MirrorDescent([p], 0.1, map="log")
    p.grad = gradient(1, p)
    optimizer.step()
    torch.testing.assert_close(p.detach(), start(torch.float64) * torch.exp(-0.1 * gradient(1, p)))


def test_a_clamped_derivative():
    p = torch.nn.Parameter(torch.tensor([1e-6, 1.0, 100.0], dtype=torch.float64))
    optimizer = ft.SGD([p], 0.1, map="log", gradient="clamped", clamp=(1e-3, 10.0))
    p.grad = torch.ones(3, dtype=torch.float64)
    optimizer.step()
    expected = torch.tensor([1e-6, 1.0, 100.0], dtype=torch.float64).log() - 0.1 * torch.tensor(
        [1e-3, 1.0, 10.0]
    )
    torch.testing.assert_close(p.detach().log(), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("grad_dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_every_pair_of_dtypes_computes_in_the_same_precision(dtype, grad_dtype):
    p = torch.nn.Parameter(start(dtype))
    optimizer = ft.Adam([p], 0.01, map="log")
    q = torch.nn.Parameter(start(dtype).to(optimizer.state[p]["z"].dtype))
    reference = ft.Adam([q], 0.01, map="log")
    if grad_dtype is not dtype and torch.float64 in (dtype, grad_dtype):
        p.grad_dtype = None
        p.grad = gradient(0, p).to(grad_dtype)
        with pytest.raises(TypeError, match=r"params\[0\]: gradient of dtype"):
            optimizer.step()
        return
    for step in range(3):
        p.grad_dtype = None
        p.grad = gradient(step, p).to(grad_dtype)
        q.grad = p.grad.to(q.dtype)
        optimizer.step()
        reference.step()
    assert torch.equal(optimizer.state[p]["z"], reference.state[q]["z"])
    assert torch.equal(p.detach(), q.detach().to(dtype))


def test_moments_in_bfloat16():
    p, q = torch.nn.Parameter(start()), torch.nn.Parameter(start())
    optimizer = ft.Adam([p], 0.01, map="log", moments_dtype=torch.bfloat16)
    got, exact = trained(optimizer, p), trained(ft.Adam([q], 0.01, map="log"), q)
    assert optimizer.state[p]["exp_avg"].dtype is torch.bfloat16
    torch.testing.assert_close(got, exact, rtol=0.01, atol=0.01)


@each_map
def test_the_bits_do_not_depend_on_threads_or_on_the_path(name):
    results = set()
    threads = fm.get_num_threads()
    try:
        for n in (1, 2, 3):
            fm.set_num_threads(n)
            p = torch.nn.Parameter(start(shape=(7, 143 * 100)) if name != "array" else start())
            results.add(trained(ft.Adam([p], 0.01, map=MAPS[name]), p, 5).numpy().tobytes())
    finally:
        fm.set_num_threads(threads)
    assert len(results) == 1
    # A gradient of another dtype goes step by step through L1 instead of through one loop.
    p, q = torch.nn.Parameter(start()), torch.nn.Parameter(start())
    one, other = ft.Adam([p], 0.01, map=MAPS[name]), ft.Adam([q], 0.01, map=MAPS[name])
    for step in range(5):
        p.grad = gradient(step, p).bfloat16().float()
        q.grad_dtype = None
        q.grad = gradient(step, q).bfloat16()
        one.step()
        other.step()
    assert torch.equal(p, q)
    assert torch.equal(one.state[p]["exp_avg_sq"], other.state[q]["exp_avg_sq"])


@each_rule
@each_map
def test_a_learning_rate_of_zero_leaves_theta_and_z_to_the_bit(rule, name):
    p = torch.nn.Parameter(start())
    optimizer = RULES[rule][0]([p], map=MAPS[name])
    trained(optimizer, p, 3)
    theta, z = p.detach().clone(), optimizer.state[p].get("z", p).detach().clone()
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    trained(optimizer, p, 2)
    assert torch.equal(p.detach().view(torch.int32), theta.view(torch.int32))
    assert torch.equal(optimizer.state[p].get("z", p).detach().view(torch.int32), z.view(torch.int32))


@each_rule
@pytest.mark.parametrize("decay_space", ["theta", "z"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("layout", ["dense", "transposed", "rows"])
def test_without_a_map_theta_is_its_own_z(rule, decay_space, dtype, layout):
    """As a map that changes nothing, to the sign of a zero; z has no buffer but where theta is rounded."""
    params, optimizers = [], []
    for m in (None, fm.Affine(0.0, 1.0)):
        theta = start(dtype).T if layout == "transposed" else start(dtype)
        theta[1, :5] = -0.0
        params.append(torch.nn.Parameter(theta))
        options = {} if "decay" in rule or "z" in rule else {"decay_space": decay_space}
        optimizers.append(RULES[rule][0](params[-1:], map=m, **options))
    assert [("z" in o.state[p]) for o, p in zip(optimizers, params, strict=True)] == [
        dtype is torch.bfloat16,
        True,
    ]
    mask = torch.arange(7) % 3 == 0 if layout == "rows" else None
    for step in range(5):
        for p, optimizer in zip(params, optimizers, strict=True):
            p.grad = gradient(step, p)
            p.grad[1, :7] = 0
            optimizer.param_groups[0]["weight_decay"] = 0.05 * step
            optimizer.step(mask=mask)
        assert torch.equal(*params)
    assert optimizers[0].state[params[0]]["step"].equal(optimizers[1].state[params[1]]["step"])


def test_an_optimizer_without_maps_loads_what_was_saved_with_a_z():
    p, q = torch.nn.Parameter(start()), torch.nn.Parameter(start())
    one = ft.Adam([p], 0.01)
    trained(one, p, 3)
    saved = copy.deepcopy(one.state_dict())
    saved["state"][0]["z"] = p.detach().clone()  # as it once was kept
    q.data.copy_(p.detach())
    other = ft.Adam([q], 0.01)
    other.load_state_dict(saved)
    assert "z" not in other.state[q]
    assert torch.equal(trained(one, p, 2), trained(other, q, 2))


def test_elements_whose_z_does_not_move_keep_theta():
    """f⁻¹(f(theta)) may be a neighbour of theta: without a gradient there is no reason to go there."""
    p = torch.nn.Parameter(start(shape=(1000,)))
    before = p.detach().clone()
    optimizer = ft.Adam([p], 0.01, map="softplus")
    p.grad = torch.zeros_like(p)
    p.grad[::2] = 1
    optimizer.step()
    assert torch.equal(p.detach()[1::2], before[1::2])
    assert (p.detach()[::2] < before[::2]).all()


def test_channels_last_and_strided_gradients():
    theta = start(shape=(4, 3, 5, 6))
    p = torch.nn.Parameter(theta.clone().to(memory_format=torch.channels_last))
    q = torch.nn.Parameter(theta.clone())
    one, other = ft.Adam([p], 0.01, map="log"), ft.Adam([q], 0.01, map="log")
    for step in range(3):
        p.grad = gradient(step, q)  # in C order
        q.grad = gradient(step, q)
        one.step()
        other.step()
    assert p.stride() != q.stride()
    assert torch.equal(p, q)


def test_groups_with_maps_of_their_own_and_a_late_group():
    scale, weight = torch.nn.Parameter(start()), torch.nn.Parameter(start() - 0.5)
    late = torch.nn.Parameter(start())
    optimizer = ft.Adam([{"params": [scale], "map": "log", "lr": 0.1}, {"params": [weight]}], 0.01)
    trained(optimizer, scale, 2)
    optimizer.add_param_group({"params": [late], "map": fm.Interval(0, 1)})
    for p in (scale, weight, late):
        p.grad = gradient(0, p)
    optimizer.step()
    assert [int(optimizer.state[p]["step"]) for p in (scale, weight, late)] == [3, 1, 1]
    single = torch.nn.Parameter(start())
    expected = trained(ft.Adam([single], 0.01, map=fm.Interval(0, 1)), single, 1)
    assert torch.equal(late, expected)


def test_a_refused_group_leaves_nothing_behind():
    p, bad = torch.nn.Parameter(start()), torch.nn.Parameter(start() - 0.5)
    optimizer = ft.Adam([p], map="log")
    with pytest.raises(fm.DomainError, match=r"params\[0\]: \d+ of 1001 values are outside the domain"):
        optimizer.add_param_group({"params": [bad]})
    assert len(optimizer.param_groups) == 1
    assert set(optimizer.state) == {p}


def test_the_name_of_a_parameter_outside_its_domain():
    module = torch.nn.Linear(3, 2)
    with pytest.raises(fm.DomainError, match=r"^weight: ") as caught:
        ft.Adam(module.named_parameters(), map="log")
    assert caught.value.argument == "weight"


@pytest.mark.parametrize("space", ["theta", "z"])
def test_gradients_are_clipped_by_their_norm(space):
    p, q = torch.nn.Parameter(start(torch.float64)), torch.nn.Parameter(start(torch.float64) + 1)
    optimizer = ft.SGD([p, q], 0.1, map="log", max_norm=0.5, norm_space=space)
    z = [x.detach().log() for x in (p, q)]
    p.grad, q.grad = gradient(0, p), gradient(1, q)
    of_z = [p.grad * p.detach(), q.grad * q.detach()]
    measured = of_z if space == "z" else [p.grad, q.grad]
    norm = torch.sqrt(sum(g.square().sum() for g in measured))
    optimizer.step()
    for x, before, g in zip((p, q), z, of_z, strict=True):
        torch.testing.assert_close(x.detach(), torch.exp(before - 0.1 * g * (0.5 / (norm + 1e-6))))


def test_gradients_that_are_not_finite():
    for policy in ("ignore", "skip", "raise"):
        p, q = torch.nn.Parameter(start()), torch.nn.Parameter(start())
        optimizer = ft.Adam({"p": p, "q": q}.items(), 0.01, map="log", nonfinite=policy)
        p.grad, q.grad = gradient(0, p), gradient(1, q)
        q.grad[2, 3] = torch.nan
        before = [copy.deepcopy(optimizer.state[x]) for x in (p, q)]
        if policy == "raise":
            with pytest.raises(
                FloatingPointError, match=r"q: 1 gradients are not finite, first at index \(2, 3\)"
            ):
                optimizer.step()
        else:
            optimizer.step()
        if policy == "ignore":
            assert int(p.isnan().sum()) == 0
            assert int(q.isnan().sum()) == 1
            continue
        assert optimizer.skipped == (policy == "skip")
        assert torch.equal(p, start())
        for x, state in zip((p, q), before, strict=True):
            assert all(torch.equal(optimizer.state[x][key], value) for key, value in state.items())


def test_the_contract_of_grad_scaler():
    p, q = torch.nn.Parameter(start()), torch.nn.Parameter(start())
    optimizer, reference = ft.Adam([p], 0.01, map="log"), ft.Adam([q], 0.01, map="log")
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for step in range(3):
        scaler.scale((p * gradient(step, p)).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        q.grad = gradient(step, q)
        reference.step()
    torch.testing.assert_close(p, q)
    before = {key: value.clone() for key, value in optimizer.state[p].items()}
    scaler.scale((p * torch.inf).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert all(torch.equal(optimizer.state[p][key], value) for key, value in before.items())


def test_schedulers_closures_and_accumulation():
    p = torch.nn.Parameter(start())
    optimizer = ft.Adam([p], 0.1, map="log")
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)

    def closure():
        optimizer.zero_grad()
        for _ in range(2):  # accumulates
            loss = (p.log() - 1).square().sum()
            (loss / 2).backward()
        return loss.detach()

    losses = []
    for _ in range(10):
        losses.append(float(optimizer.step(closure)))
        scheduler.step()
    assert losses[-1] < losses[0]
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.5**10)


def test_autograd_notices_a_step():
    p = torch.nn.Parameter(start())
    optimizer = ft.Adam([p], 0.1, map="log")
    loss = p.square().sum()
    p.grad = gradient(0, p)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_an_edit_of_theta_is_found():
    p = torch.nn.Parameter(start())
    optimizer = ft.Adam([p], 0.01, map="log")
    trained(optimizer, p, 2)
    z = optimizer.state[p]["z"].clone()
    with torch.no_grad():
        p[0] = 0.5
    p.grad = torch.zeros_like(p)
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step()
    assert torch.equal(optimizer.state[p]["z"][1:], z[1:])
    torch.testing.assert_close(optimizer.state[p]["z"][0], torch.full((143,), 0.5).log())
    with torch.no_grad():
        p[1, 4] = -1
    with pytest.raises(fm.DomainError, match=r"params\[0\]: 1 edited values .* first at index \(1, 4\)"):
        optimizer.step()
    optimizer.on_edit = "raise"
    with pytest.raises(RuntimeError, match="edited since the last step"):
        optimizer.step()


def test_a_saturated_theta_survives_a_resync():
    p = torch.nn.Parameter(torch.full((5,), 0.5))
    optimizer = ft.SGD([p], 100.0, map=fm.Interval(0, 1))
    p.grad = torch.full((5,), -4.0)
    optimizer.step()
    assert (p == 1).all()  # z is finite, theta rounds to the bound
    z = optimizer.state[p]["z"].clone()
    optimizer.resync()
    assert torch.equal(optimizer.state[p]["z"], z)


def roundtrip(optimizer, p, restored):
    buffer = io.BytesIO()
    torch.save({"model": p.detach(), "optimizer": optimizer.state_dict()}, buffer)
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=True)
    with torch.no_grad():
        restored.copy_(saved["model"])
    return saved["optimizer"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["log", "chain", "array", "identity"])
def test_a_checkpoint_goes_on_to_the_bit(name, dtype):
    p, q = torch.nn.Parameter(start(dtype)), torch.nn.Parameter(start(dtype))
    one = ft.Adam([p], 0.01, map=MAPS[name])
    trained(one, p, 5)
    other = ft.Adam([q], 0.5, map=MAPS[name])
    other.load_state_dict(roundtrip(one, p, q))
    assert other.param_groups[0]["lr"] == 0.01
    if name != "identity" or dtype is not torch.float32:
        assert other.state[q]["z"].dtype is torch.float32
        assert torch.equal(other.state[q]["z"], one.state[p]["z"])
    assert torch.equal(trained(one, p, 5), trained(other, q, 5))


def test_a_checkpoint_of_a_saturated_parameter_loads():
    p, q = (torch.nn.Parameter(torch.full((5,), 0.5)) for _ in range(2))
    one, other = (ft.SGD([x], 100.0, map=fm.Interval(0, 1)) for x in (p, q))
    p.grad = torch.full((5,), -4.0)
    one.step()
    assert (p == 1).all()
    other.load_state_dict(roundtrip(one, p, q))
    assert torch.equal(other.state[q]["z"], one.state[p]["z"])


def test_a_checkpoint_with_another_map_is_refused():
    p, q = torch.nn.Parameter(start()), torch.nn.Parameter(start())
    one, other = ft.Adam([p], map="log"), ft.Adam([q], map="softplus")
    trained(one, p, 2)
    saved = roundtrip(one, p, q)
    before = copy.deepcopy(other.state[q])
    with pytest.raises(ValueError, match=r"group 0 was saved with the map .*log.*softplus.*resync=True"):
        other.load_state_dict(saved)
    assert all(torch.equal(other.state[q][key], value) for key, value in before.items())
    other.load_state_dict(saved, resync=True)
    torch.testing.assert_close(other.state[q]["z"], fm.forward(q.detach(), "softplus"))
    assert float(other.state[q]["step"]) == 0


def test_the_state_of_torchs_own_adam_is_taken_over():
    p, q = torch.nn.Parameter(start(torch.float64)), torch.nn.Parameter(start(torch.float64))
    theirs = torch.optim.Adam([p], 0.01)
    trained(theirs, p, 5)
    with torch.no_grad():
        q.copy_(p)
    ours = ft.Adam([q], 0.5, map="log")
    ours.load_state_dict(theirs.state_dict())
    state, given = ours.state[q], theirs.state[p]
    assert int(state["step"]) == 5
    torch.testing.assert_close(state["exp_avg"], given["exp_avg"] * q.detach())
    torch.testing.assert_close(state["exp_avg_sq"], given["exp_avg_sq"] * q.detach() ** 2)
    identity = ft.Adam([q], 0.5)
    identity.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(trained(identity, q, 3), trained(theirs, p, 3))


def test_copies_and_pickles_work_on():
    p = torch.nn.Parameter(start())
    optimizer = ft.Adam([p], 0.01, map="log", max_norm=1.0)
    trained(optimizer, p, 2)
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        (q,) = other.param_groups[0]["params"]
        assert other.max_norm == 1.0
        twin = copy.deepcopy(optimizer)
        (r,) = twin.param_groups[0]["params"]
        assert torch.equal(trained(other, q, 2), trained(twin, r, 2))


def test_empty_and_unused_parameters():
    empty, unused = torch.nn.Parameter(torch.empty(0, 3)), torch.nn.Parameter(start())
    optimizer = ft.Adam([empty, unused], map="log")
    empty.grad = torch.empty(0, 3)
    optimizer.step()
    assert int(optimizer.state[empty]["step"]) == 1
    assert int(optimizer.state[unused]["step"]) == 0


def test_memory_that_is_shared_or_not_dense_is_refused():
    storage = torch.ones(10)
    p, q = torch.nn.Parameter(storage[:6]), torch.nn.Parameter(storage[4:])
    optimizer = ft.Adam([p, q], map="log")
    p.grad, q.grad = torch.ones(6), torch.ones(6)
    with pytest.raises(ValueError, match=r"params\[1\]: its memory overlaps"):
        optimizer.step()
    one = torch.nn.Parameter(torch.ones(6))
    optimizer = ft.Adam([one], map="log")
    one.grad = one.detach()
    with pytest.raises(ValueError, match=r"params\[0\]: its memory overlaps"):
        optimizer.step()
    wide = torch.nn.Parameter(torch.ones(4, 6)[:, ::2])
    with pytest.raises(ValueError, match=r"params\[0\]: .*not dense"):
        ft.Adam([wide], map="log")
    assert torch.equal(storage, torch.ones(10))


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"lr": -1.0}, ValueError, "lr"),
        ({"betas": (1.0, 0.9)}, ValueError, "betas"),
        ({"eps": -1e-8}, ValueError, "eps"),
        ({"weight_decay": -0.1}, ValueError, "weight_decay"),
        ({"map": "cube"}, ValueError, "map"),
        ({"map": fm.Space(a=fm.Param(0, 1))}, TypeError, "Space"),
        ({"map": fm.Interval(np.zeros(5), np.ones(5))}, ValueError, "broadcast"),
        ({"gradient": "natural"}, ValueError, "gradient"),
        ({"clamp": (2.0, 1.0)}, ValueError, "clamp"),
        ({"decay_space": "log"}, ValueError, "decay_space"),
        ({"max_norm": 0.0}, ValueError, "max_norm"),
        ({"nonfinite": "stop"}, ValueError, "nonfinite"),
        ({"amsgrad": True}, ValueError, "amsgrad: must be False"),
        ({"capturable": True}, ValueError, "capturable: must be False"),
        ({"differentiable": True}, ValueError, "differentiable: must be False"),
        ({"foreach": True, "fused": None}, None, ""),
    ],
)
def test_options_are_checked(options, error, text):
    p = torch.nn.Parameter(start())
    if error is None:
        ft.Adam([p], **options)
        return
    with pytest.raises(error, match=text):
        ft.Adam([p], **options)


def test_learning_rates_of_theta_and_z():
    theta = torch.tensor([0.5, 2.0, 8.0], dtype=torch.float64)
    assert ft.convert_lr(0.01, theta, "log") == pytest.approx(0.005)
    assert ft.convert_lr(0.005, theta, "log", to="theta") == pytest.approx(0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_element_does_not_depend_on_its_neighbours(dtype):
    """z beyond the codomain of a map, beside a NaN and beside ordinary numbers."""
    m = fm.BoxCox(0.3)
    z = torch.linspace(-6, 3, 60)

    def stepped(gradients, part):
        p = torch.nn.Parameter(torch.ones(60, dtype=dtype)[part])
        optimizer = ft.SGD([p], 1.0, map=m)
        optimizer.state[p]["z"].copy_(z[part])
        p.grad = gradients[part].to(dtype)
        optimizer.step()
        return p.detach()

    ordinary = torch.linspace(-2, 2, 60)
    spoilt = ordinary.clone()
    spoilt[40] = torch.nan
    alone = torch.cat([stepped(ordinary, slice(i, i + 1)) for i in range(60)])
    assert torch.equal(stepped(ordinary, slice(None)), alone)
    together = stepped(spoilt, slice(None))
    assert torch.isnan(together[40])
    others = torch.arange(60) != 40
    assert torch.equal(together[others], alone[others])


def test_optimizers_of_many_threads_at_once() -> None:
    """A step lets other Python threads run; each has an optimizer of its own."""

    def train(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        p = torch.nn.Parameter(torch.rand(7, 143, generator=generator) * 0.9 + 0.05)
        names = list(MAPS)
        optimizer = ft.Adam([p], 0.01, map=MAPS[names[seed % len(names)]])
        for _ in range(50):
            p.grad = torch.randn(p.shape, generator=generator)
            optimizer.step()
        return p.detach()

    expected = [train(seed) for seed in range(32)]
    with ThreadPoolExecutor(16) as pool:
        for result, value in zip(pool.map(train, range(32)), expected, strict=True):
            assert torch.equal(result, value)


def test_one_optimizer_of_many_threads() -> None:
    """Each of their steps is a whole one: together they are as many steps of one thread."""

    def optimizer() -> tuple[list[torch.nn.Parameter], ft.Adam]:
        generator = torch.Generator().manual_seed(0)
        params = [
            torch.nn.Parameter(torch.rand(n, generator=generator) * 0.9 + 0.05) for n in (10_000, 7, 99)
        ]
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator)
        return params, ft.Adam(params, 0.01, map="interval", max_norm=1.0)

    alone, one = optimizer()
    for _ in range(400):
        one.step()
    shared, other = optimizer()
    with ThreadPoolExecutor(8) as pool:
        done = [pool.submit(other.step) for _ in range(400)]
        for step in done:
            step.result()
    for p, q in zip(alone, shared, strict=True):
        assert other.state[q]["step"] == 400
        assert torch.equal(p, q)
        assert torch.equal(one.state[p]["z"], other.state[q]["z"])


def test_a_gradient_that_is_nan_leaves_its_neighbours_alone():
    """One z has left the codomain of exp: theta is its limit, whatever the others of its block are."""
    for bad in (1.0, torch.nan):
        p = torch.nn.Parameter(torch.zeros(3))
        optimizer = ft.SGD([p], 1.0, map=fm.Log().inv)
        p.grad = torch.tensor([10.0, bad, 0.5])
        optimizer.step()
        assert p[0] == -torch.inf
        assert torch.isnan(p[1]) == (bad != bad)
        assert p[2] == fm.inverse(torch.tensor(0.5), fm.Log().inv)
