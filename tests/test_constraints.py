"""From a constraint to its map."""

from __future__ import annotations

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
