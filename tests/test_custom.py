"""`Custom`: maps from Python callables, through every function of the package."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

import fastmap as fm
import fastmap.torch

INF = np.inf


def log_of_shifted(t):
    return np.log(t - 2)


def shifted_exp(z):
    return 2 + np.exp(z)


def one_over_shifted(t):
    return 1 / (t - 2)


SHIFTED = fm.Custom(log_of_shifted, shifted_exp, one_over_shifted, domain=(2, INF))
ASINH = fm.Custom(torch.asinh, torch.sinh, tensors=True)
# Each beside the map of the catalog that it copies.
TWINS = [
    pytest.param(SHIFTED, fm.Log(2), id="log"),
    pytest.param(fm.Custom(log_of_shifted, shifted_exp, domain=(2, INF)), fm.Log(2), id="log by differences"),
    pytest.param(ASINH, fm.Asinh(), id="asinh by autograd"),
    pytest.param(
        fm.Custom(torch.asinh, torch.sinh, lambda t: (1 + t * t).rsqrt(), tensors=True),
        fm.Asinh(),
        id="asinh",
    ),
    pytest.param(fm.Custom(np.arctanh, np.tanh, domain=(-1, 1)), fm.Tanh(-1, 1), id="tanh"),
    pytest.param(fm.Custom(np.reciprocal, np.reciprocal, domain=(0, INF)), fm.Reciprocal(), id="falling"),
    pytest.param(fm.Custom(np.tanh, np.arctanh), fm.Tanh(-1, 1).inv, id="bounded z"),
]  # fmt: skip
OPS = ("forward", "jacobian", "log_abs_det", "inverse", "inverse_jacobian", "inverse_log_abs_det")


def inside(m, shape=(3, 5), dtype=np.float64):
    """theta inside the domain of a map."""
    z = np.random.default_rng(1).uniform(-0.9, 0.9, shape)
    if m.codomain[0] == 0:
        z = np.exp(z)
    return m.inverse(z).astype(dtype), z.astype(dtype)


@pytest.mark.parametrize(("m", "twin"), TWINS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("op", OPS)
def test_it_does_what_the_map_of_the_catalog_does(m, twin, dtype, op):
    theta, z = inside(twin, dtype=dtype)
    x = z if op.startswith("inverse") else theta
    options = {"axis": ()} if op.endswith("det") else {}
    got, expected = (getattr(fm, op)(x, f, **options) for f in (m, twin))
    assert got.dtype == dtype
    np.testing.assert_allclose(got, expected, rtol=max(1e-9, 4 * np.finfo(dtype).eps), atol=1e-9)
    out = np.empty_like(x)
    if op in ("forward", "inverse"):
        assert getattr(fm, op)(x, m, out=out) is out
        assert np.array_equal(out, got)
        again = x.copy()
        assert np.array_equal(getattr(fm, op)(again, m, out=again), got)  # in place


@pytest.mark.parametrize(("m", "twin"), TWINS)
def test_it_has_the_ends_and_the_direction_of_the_map_of_the_catalog(m, twin):
    assert (m.domain, m.codomain, m.increasing) == (twin.domain, twin.codomain, twin.increasing)
    low, high = m.codomain
    expected = m.domain if m.increasing else m.domain[::-1]
    assert tuple(fm.inverse(np.array([low, high]), m)) == expected
    assert np.array_equal(
        fm.forward(np.array(m.domain), m, invalid="nan"), [low, high][:: 1 if m.increasing else -1]
    )


def test_sums_go_over_any_axes_of_any_layout():
    theta = inside(SHIFTED, (4, 70_000, 2))[0].transpose(2, 0, 1)
    each = fm.log_abs_det(theta, SHIFTED, axis=())
    for axis in (None, 0, 1, (0, 2), (0, 1)):
        got = fm.log_abs_det(theta, SHIFTED, axis=axis)
        np.testing.assert_allclose(got, each.sum(axis), rtol=1e-12, atol=1e-9)
    z, total = fm.forward_and_log_det(theta, SHIFTED)
    assert np.array_equal(z, fm.forward(theta, SHIFTED))
    assert total == fm.log_abs_det(theta, SHIFTED)
    assert fm.log_abs_det(np.empty((3, 0)), SHIFTED, axis=1).tolist() == [0, 0, 0]


def test_pullback_and_audit():
    theta, z = inside(SHIFTED)
    grad = np.random.default_rng(2).normal(size=z.shape)
    np.testing.assert_allclose(fm.pullback(grad, z, SHIFTED), grad * np.exp(z), rtol=1e-12)
    report = fm.audit(theta, SHIFTED)
    assert report.saturated.count == report.out_of_domain.count == 0
    assert report.round_trip_ulp["max"] < 50
    assert fm.audit(np.array([1.0, 3.0]), SHIFTED).out_of_domain.first == (0,)


@pytest.mark.parametrize("bad", [2.0, 1.5, np.nan, INF, -INF])
def test_what_is_outside_the_domain_is_refused_before_anything_is_written(bad):
    theta = np.full((2, 70_000), 3.0)
    theta[1, 5] = bad
    kept, out = theta.copy(), np.full_like(theta, 7.0)
    for destination in (out, theta):
        with pytest.raises(fm.DomainError, match=r"theta: 1 of 140000 values .* index \(1, 5\)") as caught:
            fm.forward(theta, SHIFTED, out=destination)
        assert (caught.value.count, caught.value.index) == (1, (1, 5))
    assert np.array_equal(theta, kept, equal_nan=True)
    assert (out == 7).all()
    for call in (fm.jacobian, fm.log_abs_det):
        with pytest.raises(fm.DomainError):
            call(theta, SHIFTED)


def test_policies():
    theta = np.array([np.nan, -INF, 1.0, 2.0, 3.0, INF])
    assert np.array_equal(
        fm.forward(theta, SHIFTED, invalid="nan"), [np.nan, np.nan, np.nan, -INF, 0, INF], equal_nan=True
    )
    clipped = fm.forward(theta[1:], SHIFTED, invalid="clip")
    assert np.array_equal(clipped, np.log([np.spacing(2.0)] * 3 + [1, np.finfo(float).max]))
    with pytest.raises(fm.DomainError):
        fm.forward(theta, SHIFTED, invalid="clip")
    low32 = fm.forward(np.float32([2]), SHIFTED, invalid="clip")
    assert low32 == np.float32(np.log(np.spacing(np.float32(2)).astype(float)))
    with pytest.raises(fm.DomainError, match="codomain"):
        fm.inverse(np.array([0.5, 1.5]), fm.Custom(np.tanh, np.arctanh))


def test_theta_never_leaves_the_domain_in_any_dtype():
    m = fm.Custom(lambda t: np.log(t / (0.1 - t)), lambda z: 0.1 / (1 + np.exp(-z)), domain=(0, 0.1))
    for dtype in (np.float16, np.float32, np.float64):
        theta = fm.inverse(np.linspace(-40, 40, 1001).astype(dtype), m)
        assert (theta.astype(float) <= 0.1).all()
        assert (theta >= 0).all()


def test_callables_cannot_change_a_buffer():
    def harmful(t):
        t[...] = t + 1
        return t

    theta = np.linspace(0, 1, 5)
    kept = theta.copy()
    fm.forward(theta, fm.Custom(harmful, lambda z: z - 1))
    assert np.array_equal(theta, kept)


def test_torch_follows_it_once_and_tensors_twice():
    t = torch.linspace(-2, 2, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: fm.forward(x, ASINH), t)
    assert torch.autograd.gradgradcheck(lambda x: fm.forward(x, ASINH), t)
    assert torch.autograd.gradcheck(lambda x: fm.log_abs_det(x, ASINH), t)
    assert torch.autograd.gradcheck(lambda x: fm.inverse(x, SHIFTED), t)
    with pytest.raises(NotImplementedError, match=r"second derivatives.*tensors=True"):
        fm.log_abs_det((t + 5).detach().requires_grad_(), SHIFTED).backward()
    single = fm.forward(t.detach().float(), ASINH)
    assert single.dtype is torch.float32
    assert torch.equal(single, torch.asinh(t.detach().float().double()).float())
    with pytest.raises(TypeError, match="bfloat16 is not supported"):
        fm.forward(t.detach().bfloat16(), ASINH)


def test_a_linear_map_of_tensors_has_no_second_derivative():
    m = fm.Custom(lambda t: 3 * t, lambda z: z / 3, tensors=True)
    t = torch.ones(3, dtype=torch.float64, requires_grad=True)
    fm.log_abs_det(t, m).backward()
    assert torch.equal(t.grad, torch.zeros(3, dtype=torch.float64))


NO_MAPS = {
    r"inverse: gives nan .* at theta = 1e-06": ((np.log, np.sqrt), (0, INF)),
    r"jacobian: is 0\.2996\d+ where differences of forward give 0\.2967\d+.* at theta = 3\.37": (
        (np.log, np.exp, lambda t: np.where(t > 3, 1.01, 1) / t),
        (0, INF),
    ),
    r"is not strictly monotonic": ((lambda t: t + np.sin(3 * t), np.copy), (-9, 9)),
    r"is not strictly monotonic.* at theta = 1\.": (
        (lambda t: np.minimum(t, 1) + np.maximum(t - 9, 0), np.copy),
        (-INF, INF),
    ),
    r"depends on the other elements": ((lambda t: t - t.mean(), np.copy), (0, 1)),
    r"codomain: forward gives nan and inf .* is the domain right": ((np.log, np.exp), (-INF, INF)),
    r"codomain: forward gives inf and inf": ((np.square, np.sqrt), (-INF, INF)),
    r"leaves the codomain .* at theta = 1e-06": ((np.log, np.exp, None), (0, INF), (0, 5)),
    r"forward: must work elementwise, .* shape \(1,\)": ((lambda t: t[:1], np.copy), (0, 1)),
    r"inverse: must work elementwise": ((np.copy, lambda z: 1.0), (0, 1)),
    r"forward: is NaN at theta = 1\.": (
        (lambda t: np.where(t > 1, np.nan, t), np.copy, None),
        (-INF, INF),
        (-INF, INF),
    ),
    r"domain: low must be below high": ((np.copy, np.copy), (1, 1)),
}


@pytest.mark.parametrize("text", NO_MAPS)
def test_what_is_no_map_is_refused_where_it_fails(text):
    functions, *ends = NO_MAPS[text]
    functions = functions + (None,) * (3 - len(functions))
    with pytest.raises(ValueError, match=text):
        fm.Custom(*functions, *ends)


def test_arguments_of_a_wrong_type_are_refused():
    with pytest.raises(TypeError, match="inverse: expected a callable, got str"):
        fm.Custom(np.log, "exp")
    with pytest.raises(TypeError, match="domain: expected two numbers"):
        fm.Custom(np.log, np.exp, domain=3)


def test_what_needs_a_formula_of_the_engine_says_so():
    with pytest.raises(TypeError, match="Custom: Python callables have no JSON form"):
        SHIFTED.to_json()
    with pytest.raises(TypeError, match=r"a map that NumPy evaluates .* cannot be part of a chain"):
        fm.Chain("log", SHIFTED)
    with pytest.raises(TypeError, match="no inverse as a map; call inverse with it"):
        SHIFTED.inv  # noqa: B018
    with pytest.raises(TypeError, match=r"Custom has no native step; use fastmap\.torch\.Mapped"):
        fastmap.torch.Adam([torch.nn.Parameter(torch.ones(2))], map=ASINH)


def test_equal_where_the_callables_are_the_same_and_picklable_where_they_are():
    again = pickle.loads(pickle.dumps(SHIFTED))
    assert again == SHIFTED
    assert hash(again) == hash(SHIFTED)
    assert fm.Custom(log_of_shifted, shifted_exp, domain=(2, INF)) != SHIFTED
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(fm.Custom(lambda t: t, lambda z: z))


def test_a_space_with_one_beside_maps_of_the_engine():
    space = fm.Space(
        a=fm.Param(map="log", shape=2), b=fm.Param(map=SHIFTED, shape=(2, 2)), c=fm.Param(shape=1)
    )
    twin = fm.Space(
        a=fm.Param(map="log", shape=2), b=fm.Param(map=fm.Log(2), shape=(2, 2)), c=fm.Param(shape=1)
    )
    theta = np.array([0.5, 3, 2.5, 3, 4, 5, -1])
    for call in (fm.forward, fm.log_abs_det):
        np.testing.assert_allclose(call(theta, space), call(theta, twin), rtol=1e-14)
    z, total = fm.forward_and_log_det(theta, space)
    assert (z == fm.forward(theta, space)).all()
    assert total == fm.log_abs_det(theta, space)
    assert fm.audit(theta, space).out_of_domain.count == 0
    theta[4] = 1
    for call in (fm.forward, fm.log_abs_det):
        with pytest.raises(fm.DomainError) as caught:
            call(theta, space)
        assert caught.value.index == (4,)
    by_name = {"a": theta[:2], "b": np.full((2, 2), 3.0), "c": theta[:1]}
    assert (fm.forward(by_name, space)["b"] == 0).all()


def test_a_search_by_it(tmp_path):
    space = fm.Space(rate=fm.Param(2.001, 100, map=SHIFTED), x=fm.Param(0, 1))
    for method in ("random", "tpe", "cmaes"):
        result = fm.minimize(
            lambda p: (np.log(p["rate"] - 2) - 1) ** 2 + p["x"], space, method=method, budget=20, seed=0
        )
        assert 2.001 <= result.best["rate"] <= 100
        with pytest.raises(TypeError, match="no JSON form"):
            result.save(tmp_path / "result")
    with pytest.raises(TypeError, match="no JSON form"):
        fm.minimize(lambda p: p["x"], space, method="tpe", budget=2, storage=str(tmp_path / "s.log"))


def test_gradients_through_it():
    space = fm.Space(w=fm.Param(map=SHIFTED, shape=3, init=np.full(3, 3.0)))
    result = fm.minimize(lambda p: ((p["w"] - 4) ** 2).sum(), space, method="adam", lr=0.1, budget=300)
    np.testing.assert_allclose(result.best["w"], 4, atol=1e-2)
    p = torch.nn.Parameter(torch.full((3,), 3.0))
    optimizer = fastmap.torch.Mapped(torch.optim.Adam, [p], map=SHIFTED, lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        ((p - 4) ** 2).sum().backward()
        optimizer.step()
    np.testing.assert_allclose(p.detach(), 4, atol=1e-2)
