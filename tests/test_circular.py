"""Numbers that come round again: against exact rational arithmetic, and through every part of the package."""

from __future__ import annotations

import math
import pickle
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

import fastmap as fm
import fastmap.torch as ft

ENDS = [(-math.pi, math.pi), (0.0, 1.0), (0.0, 360.0), (-0.5, 0.5), (10.0, 10.7), (-3.0, -1.1), (-1e-3, 1e5)]
ends = pytest.mark.parametrize(("low", "high"), ENDS)


def samples(low: float, high: float) -> Any:
    rng = np.random.default_rng(0)
    turns = (high - low) * np.concatenate([np.arange(-40, 41), rng.integers(-(2**50), 2**50, 500)])
    near = (turns[:, None] + [low, high, 0, low / 2]).ravel()
    near = np.concatenate([near, np.nextafter(near, np.inf), np.nextafter(near, -np.inf)])
    anywhere = rng.normal(size=20_000) * 10.0 ** rng.uniform(-20, 20, 20_000)
    far = rng.choice([-1, 1], 200) * 10.0 ** rng.uniform(20, 308, 200)
    return np.concatenate([near, anywhere, far, [0.0, -0.0, 5e-324, 1.7e308]])


def exact(z: float, low: float, high: float) -> Fraction:
    """theta where the period is high - low in float64."""
    turn = Fraction(high - low)
    return Fraction(low) + (Fraction(z) - Fraction(low)) % turn


@ends
def test_within_the_stated_bound(low: float, high: float) -> None:
    z = samples(low, high)
    theta = fm.inverse(z, fm.Circular(low, high))
    assert ((low <= theta) & (theta < high)).all()
    turn, bound = Fraction(high - low), Fraction(np.spacing(max(abs(low), abs(high))))
    for one, found in zip(z.tolist(), theta.tolist(), strict=True):
        off = abs(Fraction(found) - exact(one, low, high))
        off = min(off, turn - off)  # just below high is just above low
        assert off <= (0 if low == -high else bound), (one, found)


@ends
def test_on_one_turn_it_is_the_identity(low: float, high: float) -> None:
    m = fm.Circular(low, high)
    theta = np.linspace(low, high, 1001)
    theta[-1] = high
    z = fm.forward(theta, m)
    assert np.array_equal(z, theta)
    assert np.array_equal(fm.inverse(z, m)[:-1], theta[:-1])
    assert fm.inverse(high, m) == low  # one turn further
    assert np.array_equal(fm.jacobian(theta, m), np.ones(1001))
    assert np.array_equal(fm.inverse_jacobian(99 * theta, m), np.ones(1001))
    assert fm.log_abs_det(theta, m) == fm.inverse_log_abs_det(theta, m) == 0
    assert m.domain == (low, high)
    assert m.codomain == (-math.inf, math.inf)
    assert m.increasing


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@ends
def test_narrow_dtypes_stay_inside(low: float, high: float, dtype: Any) -> None:
    m = fm.Circular(low, high)
    if float(np.finfo(dtype).max) < high or float(dtype(low)) == float(dtype(high)):
        return
    z = np.linspace(-5, 5, 4001).astype(dtype)
    theta = fm.inverse(z, m)
    assert theta.dtype == dtype
    assert ((low <= theta.astype(np.float64)) & (theta.astype(np.float64) <= high)).all()
    assert np.array_equal(fm.forward(theta, m), theta)


def test_what_is_refused() -> None:
    m = fm.Circular()
    with pytest.raises(fm.DomainError, match=r"theta: 1 of 3 values is outside the domain.*index 2"):
        fm.forward(np.array([0, math.pi, 3.2]), m)
    for bad in (np.inf, -np.inf, np.nan):
        with pytest.raises(fm.DomainError, match="z: 1 of 2 values is not finite of Circular"):
            fm.inverse(np.array([0, bad]), m)
        with pytest.raises(fm.DomainError, match="not finite"):
            fm.inverse(np.array([0, bad]), m, invalid="clip")
        assert np.isnan(fm.inverse(np.array([0, bad]), m, invalid="nan")).tolist() == [False, True]
    assert fm.forward(np.array([math.pi, 9, -9]), m, invalid="clip").tolist() == [math.pi, math.pi, -math.pi]
    for low, high in ((1, 1), (2, 1), (0, math.inf), (math.nan, 1), (-1.7e308, 1.7e308)):
        with pytest.raises(ValueError, match="low, high: expected finite ends"):
            fm.Circular(low, high)
    with pytest.raises(TypeError, match="cannot be part of a chain"):
        fm.Chain(m, "log")
    with pytest.raises(TypeError, match=r"use fastmap\.torch\.Mapped"):
        ft.Adam([torch.nn.Parameter(torch.zeros(2))], lr=0.1, map=m)


def test_maps_are_values() -> None:
    m = fm.Circular(0, 24)
    assert fm.Map.from_json(m.to_json()) == m == pickle.loads(pickle.dumps(m))
    assert fm.inverse(7.0, "circular") == fm.inverse(7.0, fm.Circular())
    assert fm.Map.from_json({"map": "circular"}) == fm.Circular()
    assert repr(m) == "Circular(low=0.0, high=24.0)"
    assert not ft.as_transform(m).bijective
    assert ft.as_transform("asinh").bijective


def test_torch() -> None:
    m = fm.Circular()
    z = torch.linspace(-20, 20, 101, dtype=torch.float64, requires_grad=True)
    theta = fm.inverse(z, m)
    theta.sum().backward()
    assert torch.equal(z.grad, torch.ones_like(z))
    assert np.array_equal(theta.detach().numpy(), fm.inverse(z.detach().numpy(), m))
    angle = torch.nn.Parameter(torch.tensor([3.0]))
    optimizer = ft.Mapped(torch.optim.SGD, [angle], lr=0.2, map=m)
    for _ in range(100):  # the nearest way to -3 leads over pi
        optimizer.zero_grad()
        (1 - torch.cos(angle + 3)).sum().backward()
        optimizer.step()
    assert angle.item() == pytest.approx(-3, abs=1e-3)


@pytest.mark.parametrize("method", ["lbfgs", "adam", "cmaes"])
def test_a_search_goes_round(method: str) -> None:
    """From 3 to -3 over pi, where a wall would stop it."""

    def loss(p: dict[str, Any]) -> Any:
        both = p["a"] + 3, p["b"]
        return sum((1 - (torch.cos(x) if torch.is_tensor(x) else math.cos(x))) for x in both)

    space = fm.Space(a=fm.Param(map="circular", init=3.0), b=fm.Param(map="circular", init=0.5))
    found = fm.minimize(loss, space, method=method, budget=200, seed=0, init={"a": 3.0, "b": 0.5})
    assert float(found.best["a"]) == pytest.approx(-3, abs=0.02)
    z = [float(record.z["a"]) for record in found.history]
    assert max(z) > math.pi  # it went beyond the end


def test_a_box_of_the_whole_circle() -> None:
    space = fm.Space(a=fm.Param(-math.pi, math.pi, map="circular"))
    assert space["a"].z_box == (-math.pi, math.pi)
    found = fm.minimize(lambda p: (p["a"] - 1) ** 2, space, method="random", budget=20, seed=0)
    assert all(-math.pi <= r.theta["a"] <= math.pi for r in found.history)
