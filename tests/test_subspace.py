"""Random subspaces: what P is, that its transpose is its transpose, and what is refused."""

from __future__ import annotations

import itertools
import json
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fastmap as fm

EXAMPLE = Path(__file__).parents[1] / "docs" / "examples" / "subspace.py"


def matrix(s: fm.Subspace) -> np.ndarray[Any, Any]:
    return np.stack([s.inverse(row) for row in np.eye(s.m)], axis=1)


@pytest.mark.parametrize(("m", "nonzeros", "found"), [(20, 4, 4), (7, 3, 3), (2, 4, 2), (1, 1, 1)])
def test_rows_have_their_entries_in_parts_of_the_columns(m: int, nonzeros: int, found: int) -> None:
    s = fm.Subspace(5000, m, seed=3, nonzeros=nonzeros, scale=2.0)
    p = matrix(s)
    size = 2 * np.sqrt(m / (5000 * found))
    assert np.allclose(np.abs(p[p != 0]), size, rtol=1e-15)
    ends = [m * k // found for k in range(found + 1)]
    for a, b in itertools.pairwise(ends):
        assert ((p[:, a:b] != 0).sum(1) == 1).all()
    # Binomial counts: six standard deviations.
    counts = (p != 0).sum(0)
    for a, b in itertools.pairwise(ends):
        expected = 5000 / (b - a)
        assert np.abs(counts[a:b] - expected).max() <= 6 * np.sqrt(expected)
    assert np.abs((p > 0).sum(0) - counts / 2).max() <= 3 * np.sqrt(counts.max())


def test_lengths_and_angles_are_kept() -> None:
    p = matrix(fm.Subspace(200_000, 50, seed=1))
    assert np.abs(p.T @ p - np.eye(50)).max() < 0.1


def test_seeds_differ_and_rows_do_too() -> None:
    a, b = (matrix(fm.Subspace(4000, 40, seed)) for seed in (0, 1))
    assert 0.05 < (a != 0)[(b != 0)].mean() < 0.15  # 4 entries of 40
    assert len(np.unique(a, axis=0)) > 3900


def test_values_on_record() -> None:
    theta = fm.Subspace(10, 4, seed=7, scale=np.sqrt(10)).inverse(np.array([1.0, 2, 4, 8]))
    assert theta.tolist() == RECORD


RECORD = [-5.0, -7.0, 7.0, -5.0, 9.0, 3.0, 7.0, -13.0, 9.0, -11.0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pullback_is_the_transpose(dtype: Any) -> None:
    s = fm.Subspace(3000, 13, seed=5, start=np.arange(3000, dtype=dtype))
    g = np.random.default_rng(0).normal(size=3000).astype(dtype)
    p = matrix(fm.Subspace(3000, 13, seed=5))
    pulled = s.pullback(g)
    assert pulled.dtype == dtype
    np.testing.assert_allclose(pulled, p.T @ g.astype(np.float64), rtol=20 * np.finfo(dtype).eps, atol=1e-13)
    z = np.random.default_rng(1).normal(size=13)
    theta = s.inverse(z)
    assert theta.dtype == dtype
    np.testing.assert_allclose(theta, np.arange(3000) + p @ z, rtol=4 * np.finfo(dtype).eps)
    out = np.empty_like(theta)
    assert s.inverse(z, out=out) is out
    assert np.array_equal(out, theta)


def test_tensors_and_their_gradients() -> None:
    start = torch.randn(60)
    s = fm.Subspace(60, 5, seed=2, start=start)
    z = torch.randn(5, dtype=torch.float64, requires_grad=True)
    theta = s.inverse(z)
    assert theta.dtype == torch.float32
    theta.sum().backward()
    assert z.grad is not None
    assert torch.allclose(z.grad, s.pullback(torch.ones(60)).double())
    linear = fm.Subspace(60, 5, seed=2)
    assert torch.autograd.gradcheck(linear.inverse, (z,))
    assert torch.autograd.gradgradcheck(lambda z: linear.inverse(z).sin(), (z,))
    assert torch.autograd.gradcheck(
        linear.pullback, (torch.randn(60, dtype=torch.float64, requires_grad=True),)
    )
    out = torch.empty(60)
    assert s.inverse(z.detach(), out=out) is out
    assert torch.equal(out, theta)
    with pytest.raises(RuntimeError, match="out: cannot be used"):
        s.inverse(z, out=out)


@pytest.fixture
def threads() -> Iterator[None]:
    before = fm.get_num_threads()
    yield
    fm.set_num_threads(before)


def test_the_same_bits_for_any_number_of_threads(threads: None) -> None:
    s = fm.Subspace(1_000_003, 100, seed=4)
    z, g = np.random.default_rng(0).normal(size=100), np.random.default_rng(1).normal(size=1_000_003)
    found = set()
    for n in (1, 2, 3):
        fm.set_num_threads(n)
        found.add((s.inverse(z).tobytes(), s.pullback(g).tobytes()))
    assert len(found) == 1


def test_search_by_a_few_numbers() -> None:
    target = np.random.default_rng(0).normal(size=1000)
    s = fm.Subspace(
        1000, 3, seed=0, start=target - fm.Subspace(1000, 3, seed=0).inverse(np.array([1.0, -2, 0.5]))
    )
    space = fm.Space(z=fm.Param(-5, 5, shape=3))
    result = fm.minimize(
        lambda p: float(((s.inverse(p["z"]) - target) ** 2).sum()), space, method="cmaes", budget=300, seed=0
    )
    assert result.loss < 0.01
    assert np.allclose(result.best["z"], [1, -2, 0.5], atol=0.2)


def test_what_is_refused() -> None:
    for n, m in ((10, 10), (10, 11)):
        with pytest.raises(ValueError, match="m: must be less than n = 10"):
            fm.Subspace(n, m)
    for arguments in ((1, 1), (10, 0), (10, 2, -1), (10, 2, 2**64)):
        with pytest.raises(ValueError, match="must be in"):
            fm.Subspace(*arguments)
    with pytest.raises(TypeError, match="m: expected an integer"):
        fm.Subspace(10, 2.5)  # type: ignore[arg-type]
    for nonzeros in (0, 5):
        with pytest.raises(ValueError, match="nonzeros: must be in"):
            fm.Subspace(10, 2, nonzeros=nonzeros)
    for scale in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match="scale: must be positive"):
            fm.Subspace(10, 2, scale=scale)
    start = np.zeros(10)
    start[[3, 5]] = np.nan, np.inf
    with pytest.raises(fm.DomainError, match="start: 2 of 10 values are not finite, first at index 3"):
        fm.Subspace(10, 2, start=start)
    with pytest.raises(ValueError, match=r"start: shape \(9,\) differs"):
        fm.Subspace(10, 2, start=np.zeros(9))
    with pytest.raises(ValueError, match="start: the array is not contiguous"):
        fm.Subspace(10, 2, start=np.zeros(20)[::2])
    s = fm.Subspace(10, 2, start=np.zeros(10))
    with pytest.raises(fm.DomainError, match="z: 1 of 2 values is not finite, first at index 1"):
        s.inverse(np.array([0, np.inf]))
    with pytest.raises(fm.DomainError, match="grad_theta: 1 of 10"):
        s.pullback(np.array([0.0] * 9 + [np.nan]))
    with pytest.raises(ValueError, match="z: shape"):
        s.inverse(np.zeros(3))
    with pytest.raises(TypeError, match="float16"):
        s.inverse(np.zeros(2, np.float16))
    with pytest.raises(ValueError, match="out: overlaps start"):
        s.inverse(np.zeros(2), out=s.start)
    with pytest.raises(TypeError, match="out: dtype"):
        s.inverse(np.zeros(2), out=np.zeros(10, np.float32))


def test_infinite_sums_of_finite_numbers_are_no_reason_to_refuse() -> None:
    s = fm.Subspace(4, 2, start=np.full(4, 1.7e308))
    assert np.array_equal(s.inverse(np.zeros(2)), s.start)


def test_the_example_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", str(EXAMPLE), "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "subspace.json").read_text())
    assert {r["m"] for r in record["runs"]} == {5, 10, 20, 50, 100, 200, 500, None}
    assert (tmp_path / "subspace.png").read_bytes().startswith(b"\x89PNG")


def test_the_example_says_what_its_runs_say() -> None:
    record = json.loads(EXAMPLE.with_suffix(".json").read_text())
    for search, found in record["intrinsic_dimension"].items():
        median = {
            m: np.median([r["accuracy"] for r in record["runs"] if (r["search"], r["m"]) == (search, m)])
            for m in (5, 10, 20, 50, 100, 200, 500)
            if any((r["search"], r["m"]) == (search, m) for r in record["runs"])
        }
        whole = np.median([r["accuracy"] for r in record["runs"] if (r["search"], r["m"]) == ("adam", None)])
        assert found == next((m for m, accuracy in median.items() if accuracy >= 0.9 * whole), None)


def test_subspaces_travel() -> None:
    s = pickle.loads(pickle.dumps(fm.Subspace(100, 5, seed=9, start=np.arange(100.0))))
    assert np.array_equal(
        s.inverse(np.ones(5)), fm.Subspace(100, 5, seed=9, start=np.arange(100.0)).inverse(np.ones(5))
    )
    assert repr(s) == "Subspace(100, 5, 9)"
