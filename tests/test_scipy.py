"""`fastmap.scipy.minimize`: SciPy's own, one map further."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import optimize

import fastmap as fm
import fastmap.scipy as fs

TARGET = np.array([1e-4, 0.5, 30.0])


def loss(theta: np.ndarray, shift: float = 0.0) -> float:
    return float(np.sum((np.log(theta / TARGET) - shift) ** 2))


def gradient(theta: np.ndarray, shift: float = 0.0) -> np.ndarray:
    return 2 * (np.log(theta / TARGET) - shift) / theta


@pytest.mark.parametrize("method", [None, "L-BFGS-B", "CG", "Newton-CG", "trust-constr", "SLSQP", "TNC"])
@pytest.mark.parametrize("form", ["separate", "both"])
def test_the_gradient_passes_the_map(method: str | None, form: str) -> None:
    both = form == "both"
    fun: Any = (lambda *a: (loss(*a), gradient(*a))) if both else loss
    result = fs.minimize(fun, np.ones(3), (1.0,), method, True if both else gradient, map="log")
    assert result.success, result.message
    np.testing.assert_allclose(result.x, TARGET * np.e, rtol=1e-4)
    np.testing.assert_array_equal(result.x, fm.inverse(result.z, "log"))
    assert result.nfev < 30  # a quadratic in z: a wrong slope takes long


def test_it_is_scipy_on_z() -> None:
    theirs = optimize.minimize(lambda z: loss(np.exp(z)), np.zeros(3), method="BFGS")
    ours = fs.minimize(loss, np.ones(3), method="BFGS", map="log")
    assert (ours.nit, ours.nfev) == (theirs.nit, theirs.nfev)
    np.testing.assert_allclose(ours.z, theirs.x, atol=1e-6)
    simplex = fs.minimize(
        loss, TARGET * 2, method="Nelder-Mead", map="log", tol=1e-8, options={"maxiter": 900}
    )
    np.testing.assert_allclose(simplex.x, TARGET, rtol=1e-4)


def test_every_evaluation_is_inside() -> None:
    def strict(theta: np.ndarray) -> float:
        assert ((theta > 0) & (theta < 1)).all()
        return float(np.sum((theta - [0.2, 0.99]) ** 2))

    result = fs.minimize(strict, [0.5, 0.5], map=fm.Interval(0, 1))
    np.testing.assert_allclose(result.x, [0.2, 0.99], atol=1e-3)


def test_a_space_by_name() -> None:
    space = fm.Space(rate=fm.Param(map="log"), w=fm.Param(shape=(2, 2)), p=fm.Param(0, 1))
    best = {"rate": 1e-3, "w": np.array([[1.0, -2], [3, 4]]), "p": 0.25}

    def fun(theta: dict[str, Any]) -> tuple[float, dict[str, Any]]:
        parts = {"rate": np.log(theta["rate"] / 1e-3), "w": theta["w"] - best["w"], "p": theta["p"] - 0.25}
        slopes = {name: 2 * part for name, part in parts.items()} | {
            "rate": 2 * parts["rate"] / theta["rate"]
        }
        return float(sum(np.sum(part**2) for part in parts.values())), slopes

    start = {"rate": 1.0, "w": np.zeros((2, 2)), "p": 0.5}
    seen: list[Any] = []
    result = fs.minimize(fun, start, jac=True, map=space, callback=seen.append, tol=1e-10)
    for name, value in best.items():
        np.testing.assert_allclose(result.x[name], value, rtol=1e-4)
    assert seen[-1].keys() == best.keys()
    flat = fs.minimize(lambda t: fun(space.unravel(t))[0], space.ravel(start), map=space)
    np.testing.assert_allclose(flat.x, space.ravel(best), atol=1e-3)


@pytest.mark.parametrize("method", ["BFGS", "trust-constr", "SLSQP", "Nelder-Mead"])
def test_callbacks_receive_theta(method: str) -> None:
    points: list[np.ndarray] = []
    results: list[Any] = []
    fs.minimize(loss, np.ones(3), method=method, map="log", callback=lambda x, *rest: points.append(x))
    assert all((x > 0).all() for x in points)
    assert points
    if method != "SLSQP":  # SciPy passes it no results

        def keep(intermediate_result: Any) -> None:
            results.append(intermediate_result)

        fs.minimize(loss, np.ones(3), method=method, map="log", callback=keep)
        np.testing.assert_array_equal(results[-1].x, fm.inverse(results[-1].z, "log"))


def test_refusals() -> None:
    with pytest.raises(fm.DomainError, match=r"^x0: 1 of 2"):
        fs.minimize(loss, [1.0, -1.0], map="log")
    with pytest.raises(TypeError, match=r"^bounds: let the map"):
        fs.minimize(loss, np.ones(3), map="log", bounds=[(0, 1)] * 3)
    with pytest.raises(TypeError, match=r"^hess: is not passed"):
        fs.minimize(loss, np.ones(3), map="log", hess=gradient)
    with pytest.raises(TypeError, match=r"^constraints: is not"):
        fs.minimize(loss, np.ones(3), map="log", constraints=({"type": "eq", "fun": loss},))
    with pytest.raises(TypeError, match=r"^x0: a dict needs a Space"):
        fs.minimize(loss, {"a": 1.0}, map="log")
