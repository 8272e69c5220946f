"""Values and ranges that the tests of other libraries hold their own functions to, run against fastmap.

Where a library's forward is fastmap's inverse, the rows are turned round.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import fastmap as fm

INF = math.inf

# SciPy, special/tests/test_boxcox.py: basic values, lambda 0, underflow of x - 1 and of lambda.
BOX_COX = [
    *((0.0, x, math.log(x)) for x in (0.01, 0.5, 1.0, 2.0, 4.0)),
    *((1.0, x, x - 1) for x in (0.5, 1.0, 2.0, 4.0)),
    *((2.0, x, 0.5 * (x * x - 1)) for x in (0.5, 1.0, 2.0, 4.0)),
    (1e-306, 1 + 1e-15, math.log(1 + 1e-15)),
    (-1.0, 4.0, 0.75),
    (0.5, 4.0, 2.0),
    (155.0, 0.01, -1 / 155),
]


@pytest.mark.parametrize(("lmbda", "x", "y"), BOX_COX)
def test_box_cox_of_scipy(lmbda: float, x: float, y: float) -> None:
    assert fm.forward(x, fm.BoxCox(lmbda)) == pytest.approx(y, rel=1e-14, abs=0)


@pytest.mark.parametrize(
    ("lmbda", "y", "x"), [(0.0, 1.0, math.e), (1.0, 0.5, 1.5), (2.0, 1.5, 2.0), (-1.0, 0.5, 2.0)]
)
def test_inverse_box_cox_of_scipy(lmbda: float, y: float, x: float) -> None:
    assert fm.inverse(y, fm.BoxCox(lmbda)) == pytest.approx(x, rel=1e-14)


def test_box_cox_of_scipy_beyond_its_domain() -> None:
    with pytest.raises(fm.DomainError, match="theta: 1 of 1 values is outside the domain"):
        fm.forward(np.array([-1.0]), fm.BoxCox(0.5))
    assert np.isnan(fm.forward(np.array([-1.0]), fm.BoxCox(0.5), invalid="nan")[0])
    assert fm.forward(100.0, fm.BoxCox(155.0)) == pytest.approx(100.0**150 / 155 * 1e10, rel=1e-13)


# SciPy, special/tests/test_logit.py: ten points from 0 to 1, in float32.
LOGIT = [-INF, *(math.log(k / (9 - k)) for k in range(1, 9)), INF]


def test_logit_of_scipy() -> None:
    x = np.linspace(0, 1, 10, dtype=np.float32)
    got = fm.forward(x, "logit", invalid="nan")
    np.testing.assert_allclose(got, np.array(LOGIT, np.float32), rtol=1e-6)


# SciPy, special/tests/test_ndtr.py, test_ndtri.py: tails, and the centre.
NDTR = [
    (0.0, 0.5),
    (-1.0, 0.15865525393145707),
    (-6.0, 9.865876450376981e-10),
    (-10.0, 7.61985302416052e-24),
    (-30.0, 4.906713927148187e-198),
    (6.0, 0.9999999990134123),
]


@pytest.mark.parametrize(("z", "p"), NDTR)
def test_ndtr_of_scipy(z: float, p: float) -> None:
    assert fm.inverse(z, "probit") == pytest.approx(p, rel=1e-14)
    if p < 0.9:
        assert fm.forward(p, "probit") == pytest.approx(z, rel=1e-13, abs=1e-15)


# torch, test/distributions/test_transforms.py: every transform both ways on N(0, 1), and its log-det.
def transforms() -> list[tuple[str, fm.Map, str, tuple[float, ...]]]:
    return [
        ("exp", fm.Log(), "ExpTransform", ()),
        ("power", fm.Power(0.5), "PowerTransform", (2.0,)),
        ("sigmoid", fm.Interval(), "SigmoidTransform", ()),
        ("tanh", fm.Tanh(), "TanhTransform", ()),
        ("softplus", fm.Softplus(), "SoftplusTransform", ()),
        ("affine", fm.Affine(1.0, 2.0), "AffineTransform", (1.0, 2.0)),
    ]


@pytest.mark.parametrize(
    ("name", "m", "transform", "args"), transforms(), ids=lambda v: v if isinstance(v, str) else ""
)
def test_transforms_of_torch(name: str, m: fm.Map, transform: str, args: tuple[float, ...]) -> None:
    z = torch.randn(1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z = z.abs() if name == "power" else z
    theirs = getattr(torch.distributions.transforms, transform)(*args)
    theta = fm.inverse(z, m)
    torch.testing.assert_close(theta, theirs(z), rtol=1e-13, atol=1e-300)
    torch.testing.assert_close(fm.forward(theta, m), z, rtol=1e-10, atol=1e-12)
    expected = theirs.log_abs_det_jacobian(z, theta)
    expected = torch.as_tensor(expected, dtype=z.dtype).expand(z.shape)
    torch.testing.assert_close(fm.inverse_log_abs_det(z, m, axis=()), expected, rtol=1e-9, atol=1e-12)


# TensorFlow Probability, bijectors/*_test.py: (map, z range) over which a bijector is bijective and finite.
RANGES = [
    (fm.Softplus(), -20, 20),
    (fm.Softplus(beta=1 / 1.5), -20, 20),
    (fm.Interval(), -14, 14),
    (fm.Interval(-2.0, 3.0), -14, 14),
    (fm.Tanh(), -7, 7),
    (fm.Softsign(-1, 1), -20, 20),
    (fm.Asinh(), -20, 20),
    (fm.Probit(), -6, 6),
    (fm.Kumaraswamy(0.5, 2.0), 0.02, 0.98),
    (fm.SinhArcsinh(0.2, 2.0), -10, 10),
    (fm.Log1p(), -5, 8),
    (fm.Power(-1.0), 0.1, 10),
    (fm.BoxCox(0.2), -4.9, 10),
    (fm.Cloglog(), -10, 2),
    (fm.Loglog(), -2, 10),
]


@pytest.mark.parametrize(("m", "low", "high"), RANGES, ids=lambda v: repr(v) if isinstance(v, fm.Map) else "")
def test_bijective_and_finite_like_tfp(m: fm.Map, low: float, high: float) -> None:
    z = np.linspace(low, high, 500)
    theta = fm.inverse(z, m)
    assert np.isfinite(theta).all()
    slope = fm.inverse_jacobian(z, m)
    np.testing.assert_allclose(fm.forward(theta, m), z, rtol=1e-9, atol=1e-6)
    forward_log = fm.log_abs_det(theta, m, axis=())
    backward_log = fm.inverse_log_abs_det(z, m, axis=())
    np.testing.assert_allclose(forward_log, -backward_log, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.log(np.abs(slope)), backward_log, rtol=1e-10, atol=1e-10)
    # Scalar congruency: increasing or decreasing, and the integral of the slope is the change of theta.
    steps = np.diff(theta)
    assert (steps > 0).all() or (steps < 0).all()
    middle = np.sum((slope[1:] + slope[:-1]) / 2 * np.diff(z))
    assert abs(middle) == pytest.approx(abs(theta[-1] - theta[0]), rel=0.02)


# Stan Math, lub_constrain_test.cpp and lb_constrain_test.cpp: bounds with infinities mixed in.
def test_bounds_of_stan() -> None:
    m = fm.Interval(low=[0.0, -INF, -INF, 2.0], high=[1.0, 3.0, INF, INF])
    z = np.array([-1.0, 0.5, 7.0, 1.5])
    expected = [1 / (1 + math.e), 3 - math.exp(-0.5), 7.0, 2 + math.exp(1.5)]
    np.testing.assert_allclose(fm.inverse(z, m), expected, rtol=1e-15)
    assert fm.inverse(-1000.0, fm.Interval(0, 1)) == 0
    for low, high in [(1.0, 1.0), (2.0, 1.0)]:
        with pytest.raises(ValueError, match="high"):
            fm.Interval(low, high)


# PyMC, tests/distributions/test_transform.py: an interval whose upper end is next to zero.
def test_interval_near_its_boundary_as_in_pymc() -> None:
    low, high = -1.0, 1e-7
    theta = np.nextafter(high, low)
    z = fm.forward(theta, fm.Interval(low, high))
    assert z == pytest.approx(52.68, abs=0.01)
    assert low <= fm.inverse(z, fm.Interval(low, high)) <= high


# lmfit and MINUIT: a parameter with bounds, and its derivative.
def test_bounds_of_minuit() -> None:
    z = np.linspace(0.1, 3.0, 7)
    np.testing.assert_allclose(fm.inverse(z, fm.MinuitSqrt(2.0)), 2.0 - 1 + np.sqrt(z * z + 1), rtol=1e-14)
    np.testing.assert_allclose(fm.inverse_jacobian(z, fm.MinuitSqrt(2.0)), z / np.sqrt(z * z + 1), rtol=1e-14)
    z = np.linspace(-1.5, 1.5, 7)
    two_sided = fm.Arcsine(-1.0, 4.0)
    np.testing.assert_allclose(fm.inverse(z, two_sided), -1 + (np.sin(z) + 1) * 5 / 2, rtol=1e-13)
    np.testing.assert_allclose(fm.inverse_jacobian(z, two_sided), np.cos(z) * 5 / 2, rtol=1e-13)


# GPyTorch, test/constraints/test_constraints.py: the value stays below the upper bound however large z is.
@pytest.mark.parametrize(
    "m", [fm.Interval(1.0, 5.0), fm.Tanh(1.0, 5.0), fm.Probit(1.0, 5.0), fm.Softsign(1.0, 5.0)]
)
def test_values_stay_in_their_interval(m: fm.Map) -> None:
    z = np.array([-1e30, -100, -20, 0, 20, 100, 1e30], np.float32)
    theta = fm.inverse(z, m)
    assert ((theta >= 1) & (theta <= 5)).all()
    assert (np.diff(theta) >= 0).all()
