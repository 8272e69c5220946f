"""Linear maps of rows: whitened and rotated coordinates, against NumPy and autodiff."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch

import fastmap as fm
import fastmap.torch as ft

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch's own forward mode

RNG = np.random.default_rng(0)
MATRIX = RNG.normal(size=(4, 4))
SHIFT = RNG.normal(size=4)
M = fm.Linear(MATRIX, SHIFT)
Z = RNG.normal(size=(5, 3, 4))


def test_it_is_that_matrix() -> None:
    theta = fm.inverse(Z, M)
    np.testing.assert_allclose(theta, SHIFT + Z @ MATRIX.T, rtol=1e-14)
    np.testing.assert_allclose(fm.forward(theta, M), Z, atol=1e-13)
    np.testing.assert_allclose(
        M.forward(theta[0, 0]), np.linalg.solve(MATRIX, theta[0, 0] - SHIFT), atol=1e-13
    )
    log_det = np.linalg.slogdet(MATRIX)[1]
    np.testing.assert_allclose(fm.inverse_log_abs_det(Z, M, axis=()), np.full((5, 3), log_det), rtol=1e-13)
    assert fm.log_abs_det(theta, M) == pytest.approx(-15 * log_det, rel=1e-13)
    grad = RNG.normal(size=Z.shape)
    np.testing.assert_allclose(fm.pullback(grad, Z, M), grad @ MATRIX, rtol=1e-14)
    assert np.array_equal(M.matrix, MATRIX)
    assert np.array_equal(M.shift, SHIFT)
    assert not M.matrix.flags.writeable
    assert M.z_shape((7, 4)) == M.theta_shape((7, 4)) == (7, 4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtypes_and_out(dtype: Any) -> None:
    z = Z.astype(dtype)
    theta = fm.inverse(z, M)
    assert theta.dtype == dtype
    assert np.array_equal(theta, (SHIFT + z.astype(np.float64) @ MATRIX.T).astype(dtype))
    out = np.empty_like(z)
    assert fm.inverse(z, M, out=out) is out
    assert np.array_equal(out, theta)
    tensor = torch.empty(z.shape, dtype=torch.from_numpy(z).dtype)
    assert fm.inverse(torch.from_numpy(z), M, out=tensor) is tensor
    np.testing.assert_allclose(tensor.numpy(), theta, rtol=1e-6 if dtype == np.float32 else 1e-13)
    with pytest.raises(ValueError, match="out: overlaps"):
        fm.inverse(z, M, out=z)
    with pytest.raises(ValueError, match="out: overlaps"):
        fm.inverse(torch.from_numpy(z), M, out=torch.from_numpy(z))
    with pytest.raises(RuntimeError, match="requires grad"):
        fm.inverse(torch.from_numpy(z).requires_grad_(), M, out=tensor)


def test_torch_follows_to_any_order() -> None:
    z = torch.tensor(Z[0], requires_grad=True)
    for function in (fm.inverse, fm.forward):
        assert torch.autograd.gradcheck(lambda z: function(z, M), (z,), check_forward_ad=True)  # noqa: B023
        assert torch.autograd.gradgradcheck(lambda z: function(z, M).pow(3), (z,))  # noqa: B023
    value, total = fm.inverse_and_log_det(z, M)
    (value.pow(2).sum() + total).backward()
    expected = fm.pullback(2 * value.detach(), z.detach(), M)
    assert torch.allclose(z.grad, expected, rtol=1e-13)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda z: fm.inverse(z, M)))(z.detach())
    assert torch.allclose(jacobian, torch.tensor(MATRIX).expand(3, 4, 4))
    grad = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda g: fm.pullback(g, z.detach(), M), (grad,))


def test_inside_compile() -> None:
    def both(z: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (fm.forward(fm.inverse(z, M) + 1, M), *fm.inverse_and_log_det(z, M))

    z = torch.tensor(Z, requires_grad=True)
    results, expected = torch.compile(both, fullgraph=True, backend="aot_eager")(z), both(z)
    assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))
    grads = [torch.autograd.grad(sum(x.square().sum() for x in found), z)[0] for found in (results, expected)]
    assert torch.allclose(*grads, rtol=1e-13)
    pull = torch.compile(lambda g, z: fm.pullback(g, z, M), fullgraph=True, backend="aot_eager")
    grad = torch.ones(Z.shape, dtype=torch.float64)
    assert torch.equal(pull(grad, z.detach()), fm.pullback(grad, z.detach(), M))


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_rows_that_are_not_finite(kind: str) -> None:
    z = Z[0].copy()
    z[1, 2] = np.inf
    z[2, 0] = np.nan
    given: Any = z if kind == "numpy" else torch.tensor(z)
    for function in (fm.inverse, fm.forward, fm.inverse_log_abs_det):
        with pytest.raises(fm.DomainError, match=r"2 of 3 rows are not finite.*first at index 1") as error:
            function(given, M)
        assert (error.value.count, error.value.index) == (2, (1,))
    value = np.asarray(fm.inverse(given, M, invalid="nan"))
    rows = np.asarray(fm.inverse_log_abs_det(given, M, axis=(), invalid="nan"))
    grad: Any = np.ones_like(z) if kind == "numpy" else torch.ones(3, 4, dtype=torch.float64)
    pulled = np.asarray(fm.pullback(grad, given, M, invalid="nan"))
    for found in (value.sum(-1), rows, pulled.sum(-1)):
        assert np.isnan(found).tolist() == [False, True, True]
    with pytest.raises(fm.DomainError, match="z: 2 of 3 rows"):
        fm.pullback(grad, given, M)


def test_whitened_by_a_covariance() -> None:
    units = np.array([1e-6, 1.0, 1e5, 30.0])
    samples = (RNG.normal(size=(5000, 4)) @ MATRIX.T + [1, 2, 3, 4]) * units
    mean, covariance = samples.mean(0), np.cov(samples, rowvar=False)
    m = fm.whitened(mean, covariance)
    z = fm.forward(samples, m)
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-10)
    np.testing.assert_allclose(np.cov(z, rowvar=False), np.eye(4), atol=1e-10)
    np.testing.assert_allclose(fm.inverse(z, m), samples, rtol=1e-9)
    assert fm.inverse_log_abs_det(z[0], m) == pytest.approx(np.linalg.slogdet(covariance)[1] / 2)
    other = fm.forward(samples / units, fm.whitened(mean / units, covariance / np.outer(units, units)))
    np.testing.assert_allclose(np.abs(other), np.abs(z), atol=1e-8)  # units do not matter; signs are free


def test_whitened_by_a_hessian() -> None:
    hessian = MATRIX @ MATRIX.T + 0.1 * np.eye(4)
    m = fm.whitened(SHIFT, hessian=hessian)
    np.testing.assert_allclose(m.matrix.T @ hessian @ m.matrix, np.eye(4), atol=1e-10)
    z = torch.tensor(Z[0, 0], requires_grad=True)
    theta = fm.inverse(z, m) - torch.tensor(SHIFT)
    (0.5 * theta @ torch.tensor(hessian) @ theta).backward()
    assert torch.allclose(z.grad, z.detach())  # a step of lr 1 is Newton's
    a = fm.whitened(SHIFT, np.linalg.inv(hessian))
    np.testing.assert_allclose(a.matrix @ a.matrix.T, m.matrix @ m.matrix.T, rtol=1e-9)


def test_search_in_whitened_coordinates() -> None:
    """A narrow valley: in its own coordinates it is round."""
    correlated = np.array([[1.0, 0.999], [0.999, 1.0]])
    m = fm.whitened([1.0, 2.0], correlated)
    inverse = np.linalg.inv(correlated)

    def loss(p: dict[str, Any]) -> float:
        d = p["w"] - [1.5, 2.5]
        return float(d @ inverse @ d)

    whitened = fm.Space(w=fm.Param(map=m, shape=2, z_range=(-3, 3)))
    raw = fm.Space(w=fm.Param(-2, 5, shape=2))
    losses = {
        name: np.median([fm.minimize(loss, s, method="tpe", budget=60, seed=seed).loss for seed in range(3)])
        for name, s in (("whitened", whitened), ("raw", raw))
    }
    assert losses["whitened"] < losses["raw"] / 10, losses


def test_any_optimizer_of_torch_moves_z() -> None:
    p = torch.nn.Parameter(torch.zeros(4, dtype=torch.float64))
    m = fm.whitened(np.zeros(4), hessian=MATRIX @ MATRIX.T + 0.01 * np.eye(4))
    hessian = torch.tensor(MATRIX @ MATRIX.T + 0.01 * np.eye(4))
    wanted = torch.tensor(SHIFT)
    optimizer = ft.Mapped(torch.optim.SGD, [p], lr=1.0, map=m)
    optimizer.zero_grad()
    (0.5 * (p - wanted) @ hessian @ (p - wanted)).backward()
    optimizer.step()
    assert torch.allclose(p.detach(), wanted, atol=1e-9)  # Newton's step


def test_maps_are_values() -> None:
    same = fm.Linear(torch.tensor(MATRIX), list(SHIFT))
    assert same == M
    assert hash(same) == hash(M)
    assert fm.Linear(MATRIX) != M
    assert fm.Map.from_json(M.to_json()) == M
    assert pickle.loads(pickle.dumps(M)) == M
    assert repr(M) == "Linear(4 x 4)"
    space = fm.Space(a=fm.Param(map=M, shape=(2, 4)), b=fm.Param(map="log"))
    assert fm.Space.from_json(space.to_json()) == space
    with pytest.raises(TypeError, match="cannot be part of a chain"):
        fm.Chain(M, "log")


def test_rows_of_any_size_are_not_singular() -> None:
    m = fm.Linear(np.diag([1e-150, 1e150]))
    theta = fm.inverse(np.array([3.0, 4.0]), m)
    assert fm.forward(theta, m) == pytest.approx([3, 4], rel=1e-15)
    assert fm.inverse_log_abs_det(np.ones(2), m) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: fm.Linear(np.ones((2, 3))),
            ValueError,
            r"matrix: expected n x n .* shape \(2, 3\)",
        ),
        (lambda: fm.Linear([]), ValueError, "matrix: expected n x n"),
        (lambda: fm.Linear(np.ones((2, 2))), ValueError, "matrix: is singular within rounding"),
        (lambda: fm.Linear([[1, 0], [0, 0]]), ValueError, "matrix: is singular, row 1 is 0"),
        (lambda: fm.Linear([[1, 0], [0, 5e-324]]), ValueError, "matrix: row 1 is too small"),
        (lambda: fm.Linear([[1, np.nan], [0, 1]]), ValueError, "matrix: has numbers that are not finite"),
        (lambda: fm.Linear("a"), TypeError, "matrix: expected numbers, got str"),
        (lambda: fm.Linear(np.eye(2), np.ones(3)), ValueError, r"shift: shape \(3,\) differs from \(2,\)"),
        (
            lambda: fm.inverse(np.ones(3), M),
            ValueError,
            r"z: Linear\(4 x 4\) takes rows of 4, got",
        ),
        (lambda: fm.inverse(np.ones(4, np.float16), M), TypeError, "16 bits"),
        (lambda: fm.inverse(torch.ones(4, dtype=torch.float16), M), TypeError, "float32 and float64, not"),
        (lambda: fm.pullback(np.ones(3), np.ones(4), M), ValueError, "grad_theta: shape"),
        (lambda: fm.inverse(np.ones(4), M, invalid="clip"), ValueError, "no nearest valid row to clip to"),
        (lambda: fm.whitened(SHIFT), ValueError, "covariance, hessian: give one"),
        (lambda: fm.whitened(SHIFT, np.eye(4), hessian=np.eye(4)), ValueError, "give one"),
        (lambda: fm.whitened(SHIFT, np.ones(4)), ValueError, "covariance: expected n x n"),
        (
            lambda: fm.whitened(SHIFT, -np.eye(4)),
            ValueError,
            "not positive definite, entry 0 of",
        ),
        (lambda: fm.whitened(SHIFT, np.ones((4, 4))), ValueError, "correlations have the eigenvalue"),
        (
            lambda: fm.whitened(SHIFT, hessian=np.triu(np.ones((4, 4)))),
            ValueError,
            "is not symmetric",
        ),
        (lambda: fm.whitened(np.ones(3), np.eye(4)), ValueError, "shift: shape"),
    ],
)
def test_what_is_refused(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()
