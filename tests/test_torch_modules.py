"""Maps as parametrizations, transforms and constraints, spaces of modules, and foreign optimizers."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import constraints

import fastmap as fm
import fastmap.torch as ft


def test_a_parametrization_trains_assigns_and_is_saved():
    module = nn.Linear(3, 2)
    with torch.no_grad():
        module.weight.abs_().add_(0.1)
    before = module.weight.detach().clone()
    nn.utils.parametrize.register_parametrization(module, "weight", ft.parametrization("log"))
    torch.testing.assert_close(module.weight, before)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert (module.weight > 0).all()
    module.weight = torch.full((2, 3), 0.25)
    torch.testing.assert_close(module.weight, torch.full((2, 3), 0.25))
    with pytest.raises(fm.DomainError):
        module.weight = torch.full((2, 3), -0.25)
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    buffer.seek(0)
    other = nn.Linear(3, 2)
    with torch.no_grad():
        other.weight.abs_().add_(0.1)
    nn.utils.parametrize.register_parametrization(other, "weight", ft.parametrization("log"))
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(other.weight, module.weight)


TRANSFORMS = [
    fm.Log(2.0),
    fm.Interval(-1, 3),
    fm.Softplus(beta=2),
    fm.Affine(1, -2),
    fm.Asinh(),
    fm.mirror("log"),
]
each_transform = pytest.mark.parametrize("m", TRANSFORMS, ids=repr)


@each_transform
def test_a_transform_passes_the_checks_of_torch(m):
    """The checks of test/distributions/test_transforms.py: inverse, Jacobian, sign, domains, cache."""
    t = ft.as_transform(m)
    z = torch.linspace(-2, 2, 9, dtype=torch.float64, requires_grad=True)
    theta = t(z)
    assert t.domain.check(z).all()
    assert t.codomain.check(theta).all()
    torch.testing.assert_close(t.inv(theta), z)
    assert t.inv.inv is t
    (slope,) = torch.autograd.grad(theta.sum(), z)
    torch.testing.assert_close(t.log_abs_det_jacobian(z, theta), slope.abs().log())
    assert (slope.sign() == t.sign).all()
    cached = t.with_cache()
    assert cached.inv(cached(z)) is z
    assert t == ft.as_transform(m)
    assert t != ft.as_transform("asinh" if m != fm.Asinh() else "log")
    assert t.forward_shape((3, 2)) == (3, 2)


def test_a_transformed_distribution():
    normal = torch.distributions.Normal(torch.tensor(0.3, dtype=torch.float64), 1.2)
    ours = torch.distributions.TransformedDistribution(normal, [ft.as_transform("log")])
    theirs = torch.distributions.LogNormal(torch.tensor(0.3, dtype=torch.float64), 1.2)
    x = torch.tensor([0.1, 1.0, 5.0], dtype=torch.float64)
    torch.testing.assert_close(ours.log_prob(x), theirs.log_prob(x))


@pytest.mark.parametrize(
    ("constraint", "m"),
    [
        (constraints.real, fm.Identity()),
        (constraints.positive, fm.Softplus()),
        (constraints.nonnegative, fm.Softplus()),
        (constraints.greater_than(2.0), fm.Softplus(low=2.0)),
        (constraints.less_than(2.0), fm.mirror(fm.Softplus(low=-2.0))),
        (constraints.unit_interval, fm.Interval(0, 1)),
        (constraints.interval(-1.0, 2.0), fm.Interval(-1, 2)),
        (constraints.half_open_interval(-1.0, 2.0), fm.Interval(-1, 2)),
        (constraints.independent(constraints.positive, 1), fm.Softplus()),
    ],
)
def test_constraints_of_torch(constraint, m):
    assert ft.from_constraint(constraint) == m
    low, high = m.domain
    inside = torch.tensor(0.5 if low < 0.5 < high else (low + 1 if np.isfinite(low) else high - 1))
    assert ft.to_constraint(m).check(inside)


@pytest.mark.parametrize("constraint", [constraints.simplex, constraints.boolean, constraints.corr_cholesky])
def test_constraints_without_an_elementwise_map(constraint):
    with pytest.raises(ValueError, match="no elementwise map"):
        ft.from_constraint(constraint)


def test_registration_is_on_request():
    from torch.distributions.constraint_registry import biject_to, transform_to

    kept = [dict(registry._registry) for registry in (biject_to, transform_to)]
    try:
        ft.register_transforms()
        assert biject_to(constraints.positive) == ft.as_transform(fm.Softplus())
        assert transform_to(constraints.interval(0.0, 2.0)) == ft.as_transform(fm.Interval(0, 2))
    finally:
        for registry, old in zip((biject_to, transform_to), kept, strict=True):
            registry._registry.clear()
            registry._registry.update(old)
    assert isinstance(biject_to(constraints.positive), torch.distributions.ComposeTransform)


def test_the_space_of_a_module():
    module = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    space = ft.space(module, [("2.bias", "asinh"), ("1.weight", "log"), (nn.Linear, None)])
    assert list(space) == ["0.weight", "0.bias", "1.weight", "2.weight", "2.bias"]
    assert space.maps["1.weight"] == fm.Log()
    assert space.maps["0.weight"] == fm.Identity()
    theta = {name: p.detach() for name, p in module.named_parameters() if name in space}
    z = fm.forward(theta, space)
    torch.testing.assert_close(z["2.bias"], module[2].bias.detach().asinh())
    with torch.no_grad():
        module[2].bias.fill_(-1)
    by_constraint = ft.space(module, [(constraints.positive, None)])
    assert list(by_constraint) == ["1.weight"]
    with pytest.raises(ValueError, match="rules: none"):
        ft.space(module, [("nothing", "log")])


def test_any_optimizer_in_a_mapped_space():
    p, q = (torch.nn.Parameter(torch.tensor([0.2, 0.9, 3.0], dtype=torch.float64)) for _ in range(2))
    foreign = ft.Mapped(torch.optim.Adam, [p], map="log", lr=0.1)
    fused = ft.Adam([q], 0.1, map="log")
    scheduler = torch.optim.lr_scheduler.ExponentialLR(foreign, 0.9)
    for step in range(5):
        for x in (p, q):
            x.grad = torch.cos(torch.arange(3.0, dtype=torch.float64) + step)
        fused.param_groups[0]["lr"] = foreign.param_groups[0]["lr"]
        foreign.step()
        fused.step()
        scheduler.step()
    torch.testing.assert_close(p, q)
    other = torch.nn.Parameter(p.detach().clone())
    restored = ft.Mapped(torch.optim.Adam, [other], map="log", lr=0.5)
    buffer = io.BytesIO()
    torch.save(foreign.state_dict(), buffer)
    buffer.seek(0)
    restored.load_state_dict(torch.load(buffer, weights_only=True))
    for x, optimizer in ((p, foreign), (other, restored)):
        x.grad = torch.ones(3, dtype=torch.float64)
        optimizer.step()
    assert torch.equal(p, other)
    with pytest.raises(ValueError, match="other maps"):
        ft.Mapped(torch.optim.Adam, [other], map="softplus").load_state_dict(foreign.state_dict())


def test_lbfgs_in_a_mapped_space():
    p = torch.nn.Parameter(torch.tensor([0.2, 5.0], dtype=torch.float64))
    optimizer = ft.Mapped(torch.optim.LBFGS, [p], map="log", lr=1.0, max_iter=30)
    target = torch.tensor([3e-4, 70.0], dtype=torch.float64)

    def closure():
        optimizer.zero_grad()
        loss = (p.log() - target.log()).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    torch.testing.assert_close(p.detach(), target, rtol=1e-6, atol=0)


def test_a_foreign_optimizer_outside_the_domain():
    with pytest.raises(fm.DomainError):
        ft.Mapped(torch.optim.SGD, [torch.nn.Parameter(torch.tensor([-1.0]))], map="log", lr=0.1)
