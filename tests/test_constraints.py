"""From a constraint to its map."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest

import fastmap as fm


@pytest.mark.parametrize(
    ("constraint", "bounds", "domain"),
    [
        ("real", (), (-np.inf, np.inf)),
        ("positive", (), (0, np.inf)),
        ("nonnegative", (), (0, np.inf)),
        ("greater_than", (2.5,), (2.5, np.inf)),
        ("less_than", (-3.0,), (-np.inf, -3)),
        ("interval", (-1.0, 4.0), (-1, 4)),
        ("unit_interval", (), (0, 1)),
    ],
)
def test_every_constraint_has_an_increasing_map_onto_all_numbers(constraint, bounds, domain):
    m = fm.default_map(constraint, *bounds)
    assert m.domain == domain
    assert m.codomain == (-np.inf, np.inf)
    theta = fm.inverse(np.linspace(-5, 5, 11), m)
    assert (np.diff(theta) > 0).all()
    assert (np.array(domain[0]) <= theta).all()
    assert (theta <= domain[1]).all()


def test_a_default_map_can_be_replaced_and_put_back():
    former = fm.set_default_map("greater_than", lambda low: fm.Log(low))
    try:
        assert fm.default_map("greater_than", 1.0) == fm.Log(1.0)
        space = fm.Space(rate=fm.Param(low=1.0))
        assert np.array_equal(fm.forward(np.array([3.0]), space), np.log([2.0]))
    finally:
        fm.set_default_map("greater_than", former)
    assert fm.default_map("greater_than", 1.0) == fm.Softplus(low=1.0)


def test_a_mirror_keeps_the_bits():
    theta = -np.geomspace(1e-6, 1e6, 1000)
    assert np.array_equal(fm.forward(theta, fm.mirror("log")), -fm.forward(-theta, "log"))


def test_unknown_constraints_and_missing_bounds_are_refused():
    with pytest.raises(ValueError, match="constraint: 'nonpositive' is none of real, positive"):
        fm.default_map("nonpositive")
    with pytest.raises(ValueError, match="constraint"):
        fm.set_default_map("nonpositive", fm.Log)
    with pytest.raises(TypeError):
        fm.default_map("less_than")


@pytest.mark.parametrize("scale", [1.0, 3.0, 1e-5])
@pytest.mark.parametrize("shape", [0.5, 1.0, 2.0, 5.0])
def test_weibull_has_its_digits_in_both_tails(scale, shape):
    m = fm.weibull(scale, shape)
    assert (m.domain, m.codomain, m.increasing) == ((0, np.inf), (0, 1), True)
    theta = scale * np.geomspace(1e-12, 3, 60) ** (1 / shape)
    with mpmath.workprec(200):
        u = [(mpmath.mpf(t) / mpmath.mpf(scale)) ** mpmath.mpf(shape) for t in theta]
        z = np.array([float(-mpmath.expm1(-v)) for v in u])
        log_det = np.array(
            [float(mpmath.log(shape / mpmath.mpf(t) * v) - v) for t, v in zip(theta, u, strict=True)]
        )
    assert (np.abs(fm.forward(theta, m) - z) <= (2 + shape / 2) * np.spacing(z)).all()
    np.testing.assert_allclose(fm.inverse(z, m), theta, rtol=1e-14)
    np.testing.assert_allclose(fm.log_abs_det(theta, m, axis=()), log_det, rtol=1e-14, atol=1e-13)


def test_weibull_is_the_exponential_and_rayleighs_distribution():
    theta = np.linspace(0.1, 9, 50)
    np.testing.assert_allclose(fm.forward(theta, fm.weibull(3)), -np.expm1(-theta / 3), rtol=1e-15)
    rayleigh = fm.weibull(2 * np.sqrt(2), 2)
    np.testing.assert_allclose(fm.forward(theta, rayleigh), -np.expm1(-(theta**2) / 8), rtol=1e-15)
    rows = fm.weibull([1.0, 2.0], 2)
    assert fm.forward(np.ones((3, 2)), rows).shape == (3, 2)


@pytest.mark.parametrize("bad", [0, -1, np.inf, np.nan])
@pytest.mark.parametrize("name", ["scale", "shape"])
def test_weibull_refuses_what_is_not_positive(name, bad):
    with pytest.raises(ValueError, match=f"{name}: must be positive and finite"):
        fm.weibull(**{name: bad})
