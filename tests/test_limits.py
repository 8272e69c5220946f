"""What a map cannot do: a one-to-one continuous map keeps every local minimum."""

from __future__ import annotations

import numpy as np
import pytest

import fastmap as fm

LOW, HIGH, WAVES = 0.05, 0.95, 7
MAPS = [fm.Map.from_json({"map": entry["name"]}) for entry in fm.catalog()]


def wavy(theta):
    """Seven minima of different depth in the open interval, none at its ends."""
    share = (theta - LOW) / (HIGH - LOW)
    return np.cos(2 * np.pi * WAVES * share) + share


def minima(values):
    """Of a dense grid, at points that all direct neighbours exceed; the border has none."""
    inside = np.ones(values.shape, dtype=bool)
    for axis in range(values.ndim):
        for shift in (1, -1):
            inside &= values < np.roll(values, shift, axis)
        ends = np.moveaxis(inside, axis, 0)
        ends[0] = ends[-1] = False
    return np.argwhere(inside)


def grid_in_z(m, points):
    """theta of points that are even in z, in the order of z."""
    first, last = np.sort(fm.forward(np.array([LOW, HIGH]), m))
    return fm.inverse(np.linspace(first, last, points), m)


@pytest.mark.parametrize("m", MAPS, ids=lambda m: type(m).__name__)
def test_same_minima_in_z(m):
    even = np.linspace(LOW, HIGH, 20_001)
    expected = even[minima(wavy(even))[:, 0]]
    assert len(expected) == WAVES
    theta = grid_in_z(m, 20_001)
    found = np.sort(theta[minima(wavy(theta))[:, 0]])
    assert len(found) == WAVES
    np.testing.assert_allclose(found, expected, atol=2 * np.abs(np.diff(theta)).max() + 1e-4)


@pytest.mark.parametrize("pair", [("log", "one_minus_log"), ("interval", "asinh"), ("reciprocal", "probit")])
def test_same_minima_in_two_dimensions(pair):
    def loss(x, y):
        return wavy(x[:, None]) + wavy(y[None, :]) + 0.5 * x[:, None] * y[None, :]

    even = np.linspace(LOW, HIGH, 1001)
    count = len(minima(loss(even, even)))
    assert count == WAVES**2
    x, y = (grid_in_z(fm.Map.from_json({"map": name}), 1001) for name in pair)
    assert len(minima(loss(x, y))) == count


def test_a_map_that_is_not_one_to_one_is_caught():
    """theta = z² meets every theta twice: the count is twice as large."""
    z = np.linspace(-(HIGH**0.5), HIGH**0.5, 20_001)
    outside = z**2 < LOW
    values = np.where(outside, wavy(np.array(LOW)), wavy(z**2))
    assert len(minima(values)) == 2 * WAVES
