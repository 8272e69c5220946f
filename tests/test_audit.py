"""`audit`: counts, errors and advice."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import fastmap as fm


def test_counts_and_first_indices() -> None:
    theta = np.linspace(0.1, 2, 600_000).reshape(1000, 600)
    theta[3, 5] = np.nan
    theta[700, 1] = np.inf
    theta[900, 2] = -1
    theta[901, 2] = 0
    theta[2, 0] = 1e-310
    report = fm.audit(theta, "log")
    assert (report.not_finite.count, report.not_finite.first) == (2, (3, 5))
    assert (report.out_of_domain.count, report.out_of_domain.first) == (2, (900, 2))
    assert (report.subnormal.count, report.subnormal.first) == (1, (2, 0))
    assert "Repair" in report.recommendation
    assert "first at (900, 2)" in str(report)


def test_round_trip_and_distortion_are_those_of_the_map() -> None:
    theta = np.exp(np.random.default_rng(0).normal(size=5000) * 3).astype(np.float32)
    report = fm.audit(theta, "log")
    back = fm.inverse(fm.forward(theta, "log"), "log")
    ulp = np.abs(back.astype(float) - theta) / np.spacing(theta)
    assert report.round_trip_ulp["max"] == ulp.max()
    assert report.round_trip_ulp["50%"] == pytest.approx(np.median(ulp))
    assert report.distortion["max"] == pytest.approx((1 / theta.astype(float)).max(), rel=1e-6)
    assert report.distortion["50%"] == pytest.approx(np.median(1 / theta.astype(float)), rel=1e-6)
    assert report.recommendation == "The map is safe here."
    assert fm.audit(torch.from_numpy(theta), "log") == report
    assert fm.audit(theta.reshape(50, 100).T, "log").round_trip_ulp == report.round_trip_ulp


def test_values_next_to_a_bound_are_not_saturated() -> None:
    """Two-sided formulas bring back what other libraries lose there."""
    one_below = np.array([0.5, 1 - 2**-24, 1e-38], np.float32)
    assert fm.audit(one_below, "logit").saturated.count == 0
    assert fm.audit(np.array([1000 + 2.0**-14], np.float32), fm.Interval(1000, 1001)).saturated.count == 0


def test_saturation_is_counted() -> None:
    """One step above the lower bound, z is so coarse that some values fall onto the bound."""
    bound = np.float32(-(2.0**100))
    theta = np.array([np.nextafter(bound, np.float32(0)), 0.5], np.float32)
    report = fm.audit(theta, fm.Interval(-(2.0**100), 2.0**100))
    back = fm.inverse(
        fm.forward(theta, fm.Interval(-(2.0**100), 2.0**100)), fm.Interval(-(2.0**100), 2.0**100)
    )
    assert report.saturated.count == int((np.abs(back) == 2.0**100).sum())


def test_advice() -> None:
    signed = np.array([-1.0, 2.0])
    assert "SymLog or Asinh" in fm.audit(signed, "log").recommendation
    assert "close to linear" in fm.audit(np.linspace(1, 1.1, 100), "log").recommendation
    assert "domain holds" in fm.audit(np.array([2.0]), "logit").recommendation
    empty = fm.audit(np.empty(0), "log")
    assert empty.size == 0
    assert np.isnan(empty.distortion["max"])
    assert str(empty)


def test_arrays_of_parameters_chains_and_spaces() -> None:
    """The report on parts with maps of their own is that of the parts together."""
    theta = np.random.default_rng(0).uniform(0.1, 0.9, (1200, 500))
    theta[1100, 3] = -2
    bounds = np.array([[1.0], [2.0]]).repeat(600, 0)
    report = fm.audit(theta, fm.Interval(high=bounds))
    parts = [fm.audit(theta[:600], "interval"), fm.audit(theta[600:], fm.Interval(0, 2))]
    assert report.out_of_domain == type(report.out_of_domain)(1, (1100, 3))
    assert report.round_trip_ulp["max"] == max(p.round_trip_ulp["max"] for p in parts)
    assert report.distortion["min"] == min(p.distortion["min"] for p in parts)
    assert fm.audit(theta[:, :3], fm.Interval(high=[1.0, 2, 3])).out_of_domain.count == 0
    space = fm.Space(a=fm.Param(0, 1, shape=(2, 3)), b=fm.Param(map=fm.Chain("log", "asinh"), shape=4))
    flat = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 7, 1, 2, 3, -4])
    report = fm.audit(flat, space)
    assert (report.out_of_domain.count, report.out_of_domain.first) == (2, (5,))
    assert report.round_trip_ulp["max"] <= 4
    assert fm.audit(np.array([-1.0, 2, 3]), fm.Log().inv).out_of_domain.count == 0
