"""`Table`: a spline through knots, and through the quantiles of data."""

from __future__ import annotations

import json
import pickle

import mpmath
import numpy as np
import pytest
import torch

import fastmap as fm
import fastmap.torch

X = np.array([-2.0, -0.5, 0.25, 1.0, 4.0])
Y = np.array([-7.0, -1.0, -0.5, 0.0, 2.0])
D = np.array([3.0, 2.0, 0.5, 0.7, 2.0])
RISING, FALLING = fm.Table(X, Y, D), fm.Table(X, -Y, -D)
TABLES = [RISING, FALLING, fm.Table(X, Y), fm.Table([0, 1], [5, 3]), fm.Table(X * 1e-9, Y * 1e9)]
OPS = ("forward", "jacobian", "log_abs_det", "inverse", "inverse_jacobian", "inverse_log_abs_det")


def everywhere(m, n=400):
    width = m.x[-1] - m.x[0]
    return np.unique(np.concatenate([np.linspace(m.x[0] - width, m.x[-1] + width, n), m.x]))


def truth(m, x):
    """z and dz/dtheta of Durkan's formula, in 200 bits."""
    with mpmath.workprec(200):
        knots, values, slopes = ([mpmath.mpf(v) for v in a] for a in (m.x, m.y, m.slopes))
        t = mpmath.mpf(x)
        for end in (0, -1):
            if (t < knots[0]) if end == 0 else (t >= knots[-1]):
                return values[end] + slopes[end] * (t - knots[end]), slopes[end]
        k = max(i for i, knot in enumerate(knots) if knot <= t)
        w, h = knots[k + 1] - knots[k], values[k + 1] - values[k]
        d0, d1, s, xi = slopes[k], slopes[k + 1], h / w, (t - knots[k]) / w
        bottom = s + (d1 + d0 - 2 * s) * xi * (1 - xi)
        slope = s**2 * (d1 * xi**2 + 2 * s * xi * (1 - xi) + d0 * (1 - xi) ** 2) / bottom**2
        return values[k] + h * (s * xi**2 + d0 * xi * (1 - xi)) / bottom, slope


@pytest.mark.parametrize("m", TABLES)
def test_values_and_slopes_are_those_of_the_formula(m):
    theta = everywhere(m)
    z, slope = fm.forward(theta, m), fm.jacobian(theta, m)
    for i, t in enumerate(theta):
        true_z, true_slope = truth(m, t)
        near = max(
            abs(float(true_z)), *np.abs(m.y)
        )  # a difference from a knot cannot be better than the knot
        assert abs(z[i] - float(true_z)) <= 2 * np.spacing(near)
        assert abs(slope[i] / float(true_slope) - 1) < 2e-15
    np.testing.assert_allclose(
        fm.log_abs_det(theta, m, axis=()), np.log(np.abs(slope)), rtol=1e-14, atol=1e-15
    )


@pytest.mark.parametrize("m", TABLES)
def test_there_and_back(m):
    theta = everywhere(m)
    z = fm.forward(theta, m)
    back = fm.inverse(z, m)
    size = np.maximum(np.abs(theta), np.abs(m.x).max())
    room = 4 * np.spacing(size) + 4 * np.spacing(np.maximum(np.abs(z), np.abs(m.y).max())) * np.abs(
        1 / fm.jacobian(theta, m)
    )
    assert (np.abs(back - theta) <= room).all()
    assert np.array_equal(fm.inverse(m.y, m), m.x)
    assert np.array_equal(fm.forward(m.x, m), m.y)
    np.testing.assert_allclose(fm.inverse_jacobian(z, m) * fm.jacobian(theta, m), 1, rtol=1e-8)
    ends = fm.inverse(np.array([-np.inf, np.inf]), m)
    assert ends.tolist() == ([-np.inf, np.inf] if m.increasing else [np.inf, -np.inf])
    assert (np.diff(z) * (1 if m.increasing else -1) > 0).all()


def test_torch_differentiates_it_twice():
    t = torch.linspace(-2.9, 5, 23, dtype=torch.float64, requires_grad=True)
    for m in (RISING, FALLING):
        for f in (fm.forward, fm.log_abs_det, fm.inverse):
            assert torch.autograd.gradcheck(lambda x, f=f, m=m: f(x, m), t)
        assert torch.autograd.gradgradcheck(lambda x, m=m: fm.forward(x, m), t)
    p = torch.nn.Parameter(torch.ones(2))
    with pytest.raises(TypeError, match="Table has no native step"):
        fastmap.torch.SGD([p], lr=1, map=RISING)
    fastmap.torch.Mapped(torch.optim.SGD, [p], map=RISING, lr=1).state_dict()


def test_equal_spacing_gives_back_a_straight_line():
    m = fm.Table(np.arange(5.0), 3 * np.arange(5.0) + 1)
    theta = np.linspace(-3, 8, 101)
    np.testing.assert_allclose(fm.forward(theta, m), 3 * theta + 1, rtol=1e-14, atol=1e-14)


def test_default_slopes_follow_a_smooth_map():
    worst = []
    for n in (9, 17, 33):
        x = np.linspace(0, 2, n)
        theta = np.linspace(0, 2, 1001)
        worst.append(np.abs(fm.forward(theta, fm.Table(x, np.exp(x))) - np.exp(theta)).max())
    assert worst[2] < worst[1] / 3.5 < worst[0] / 12


@pytest.mark.parametrize("target", ["uniform", "normal"])
def test_samples_become_uniform_or_normal(target):
    rng = np.random.default_rng(0)
    samples = rng.lognormal(size=(200, 50))
    m = fm.Table.from_samples(samples, 32, target=target)
    z = np.sort(fm.forward(samples, m).ravel())
    shares = (np.arange(z.size) + 0.5) / z.size
    got = z if target == "uniform" else fm.inverse(z, "probit")
    assert np.abs(got - shares).max() < 0.01
    assert m.x.size == 32


def test_ties_become_one_knot():
    m = fm.Table.from_samples([0] * 50 + [1, 2, 3, 4], 12)
    assert m.x[0] == 0
    assert (np.diff(m.x) > 0).all()
    assert fm.forward(0.0, m) == pytest.approx(0.5, abs=0.1)  # in the middle of its share


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (([0, 1, 1, 2], [0, 1, 2, 3]), "x: must be above the knot before it, first at index 2"),
        (([0, 2, 1], [0, 1, 2]), "x: must be above the knot before it, first at index 2"),
        (([0, 1, 2], [0, 2, 1]), "y: must go on .*, first at index 2"),
        (([0, 1, 2], [2, 3, 1]), "y: must go on .*, first at index 1"),
        (([0, 1, 2], [1, 1, 1]), "y: must go on .*, first at index 1"),
        (([0, 1, np.nan], [0, 1, 2]), "x: must be finite, got nan, first at index 2"),
        (([0, 1], [0, np.inf]), "y: must be finite, got inf, first at index 1"),
        (([0], [0]), "x: a table needs at least two knots, got 1"),
        (([0, 1], [0, 1, 2]), "y: has 3 knots, x has 2"),
        (([[0, 1]], [0, 1]), r"x: expected one dimension, got shape \(1, 2\)"),
        (([0, 1], [0, 1], [1, 0]), "slopes: must have the sign .*, first at index 1"),
        (([0, 1], [1, 0], [-1, 1]), "slopes: must have the sign .*, first at index 1"),
        (([0, 1], [0, 1], [1]), "slopes: has 1 knots"),
        (([0, 5e-324], [0, 1]), "y: the slope .*, first at index 0"),
    ],
)
def test_bad_tables_are_refused_with_the_index(arguments, text):
    with pytest.raises(ValueError, match=text):
        fm.Table(*arguments)


def test_bad_samples_are_refused():
    with pytest.raises(ValueError, match="samples: must be finite, got inf, first at index 3"):
        fm.Table.from_samples([[0, 1], [2, np.inf]])
    for samples in ([], [3.0], [2, 2, 2]):
        with pytest.raises(ValueError, match="samples: a table needs at least two different values"):
            fm.Table.from_samples(samples)
    with pytest.raises(ValueError, match="knots"):
        fm.Table.from_samples([0, 1], 1)
    with pytest.raises(ValueError, match="target"):
        fm.Table.from_samples([0, 1], target="gauss")


def test_it_is_plain_data():
    for m in TABLES:
        for again in (fm.Map.from_json(json.loads(json.dumps(m.to_json()))), pickle.loads(pickle.dumps(m))):
            assert again == m
            assert hash(again) == hash(m)
    assert RISING != FALLING
    with pytest.raises(ValueError, match="read-only"):
        RISING.x[0] = 5
    theta = torch.linspace(-3, 5, 9)
    got = torch.ops.fastmap.elementwise(theta, "forward", "theta", json.dumps(RISING.to_json()), 0)
    assert torch.equal(got, fm.forward(theta, RISING))  # what compiled code calls


def test_a_search_by_it(tmp_path):
    rates = np.random.default_rng(0).lognormal(-6, 1, 300)
    m = fm.Table.from_samples(rates, target="normal")
    space = fm.Space(rate=fm.Param(1e-5, 0.1, map=m))
    result = fm.minimize(lambda p: (np.log(p["rate"]) + 6) ** 2, space, method="tpe", budget=20, seed=0,
                         storage=str(tmp_path / "search.log"))  # fmt: skip
    assert 1e-5 <= result.best["rate"] <= 0.1
    assert fm.Space.from_json(space.to_json())["rate"].map == m
