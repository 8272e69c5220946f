"""`fastmap.jax`: optax optimizers in mapped space, the fused steps, maps as transforms of NumPyro."""

from __future__ import annotations

import pickle
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
import torch
from numpyro.distributions import constraints
from numpyro.infer.util import log_density, potential_energy

import fastmap as fm
import fastmap.jax as fj
import fastmap.torch as ft
from fastmap import _jax


def train(optimizer: Any, params: Any, loss: Any, steps: int) -> tuple[Any, Any]:
    @jax.jit
    def step(params: Any, state: Any) -> Any:
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(steps):
        params, state = step(params, state)
    return params, state


@pytest.mark.parametrize("inner", [optax.adam(0.1), optax.sgd(0.05, momentum=0.9), optax.adamw(0.1)])
def test_it_is_the_optimizer_on_z(inner: Any) -> None:
    m = fm.Softplus(low=0.1)
    theta = jnp.linspace(0.2, 3, 50)

    def loss(theta: jax.Array) -> jax.Array:
        return jnp.sum((theta - 1) ** 2)

    params, state = train(fj.mapped(inner, m), theta, loss, 20)
    z, _ = train(inner, fm.forward(theta, m), lambda z: loss(fm.inverse(z, m)), 20)
    np.testing.assert_allclose(state.z, z, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(params, fm.inverse(state.z, m), rtol=1e-6)


def test_each_parameter_has_its_map() -> None:
    params = {"cell": {"decay": jnp.full(3, 0.5), "scale": jnp.ones(())}, "w": jnp.zeros(2)}
    tree = {"cell": {"decay": fm.Interval(0, 1), "scale": "log"}, "w": "identity"}
    space = fm.Space(
        {"cell": {"decay": fm.Param(0, 1, shape=3), "scale": fm.Param(map="log")}, "w": fm.Param(shape=2)}
    )

    def loss(p: Any) -> jax.Array:
        return sum(jnp.sum((leaf - 0.9) ** 2) for leaf in jax.tree.leaves(p))

    by_tree, _ = train(fj.mapped(optax.adam(0.1), tree), params, loss, 60)
    by_space, _ = train(fj.mapped(optax.adam(0.1), space), params, loss, 60)
    jax.tree.map(np.testing.assert_array_equal, by_tree, by_space)
    assert loss(by_tree) < loss(params) / 20


@pytest.mark.parametrize("m", [fm.Interval(0.1, 1000), fm.Log(0.1), fm.mirror(fm.Log(0.1))], ids=repr)
def test_parameters_stay_in_bounds(m: fm.Map) -> None:
    """Also where theta jumps from far away to a bound, so that the difference is rounded."""
    low, high = m.domain
    rng = np.random.default_rng(0)
    optimizer = fj.mapped(optax.sgd(1.0), m)
    size = 100_000
    far = (rng.uniform(100, 999, size) if high > 0 else -rng.uniform(100, 999, size)).astype(np.float32)
    state = optimizer.init(jnp.asarray(far))
    way = 30 * rng.uniform(0, 1, size) * (1 if high > 0 else -1)  # that z goes
    grads = jnp.asarray(way / np.abs(fm.inverse_jacobian(state.z, m)), np.float32)
    updates, state = optimizer.update(grads, state, jnp.asarray(far))
    theta = np.asarray(optax.apply_updates(jnp.asarray(far), updates))
    exact = np.asarray(fm.inverse(state.z, m))
    assert (np.abs(exact) < 1).mean() > 0.1
    assert (theta >= np.float32(low)).all()
    assert (theta <= np.float32(high)).all()
    assert (np.abs(theta - exact) <= np.spacing(np.maximum(np.abs(far), np.abs(exact)))).all()


def test_a_learning_rate_that_changes_compiles_nothing() -> None:
    optimizer = fj.mapped(optax.inject_hyperparams(optax.adam)(learning_rate=0.1), "log")
    traces = []

    @jax.jit
    def step(params: jax.Array, state: Any) -> Any:
        traces.append(1)
        updates, state = optimizer.update(params, state, params)
        return optax.apply_updates(params, updates), state

    params = jnp.ones(3)
    state = optimizer.init(params)
    for rate in (0.1, 0.2, 0.3):
        state.inner.hyperparams["learning_rate"] = jnp.asarray(rate)
        params, state = step(params, state)
    assert len(traces) == 1
    np.testing.assert_allclose(np.log(params), -0.6, rtol=0.3)


def test_what_is_refused() -> None:
    optimizer = fj.mapped(optax.adam(0.1), "log")
    with pytest.raises(fm.DomainError, match="theta: 1 of 2"):
        optimizer.init(jnp.array([1.0, -1]))
    state = optimizer.init(jnp.ones(2))
    with pytest.raises(ValueError, match=r"^params: a mapped"):
        optimizer.update(jnp.ones(2), state)


# A fused step, and the same one of fastmap.torch.
COLUMNS = fm.Interval(0, np.arange(1.0, 4))  # parameters by column: another path of the engine
FUSED = {
    "adam": (lambda m: fj.adam(0.01, map=m), lambda p, m: ft.Adam(p, 0.01, map=m)),
    "adamw": (
        lambda m: fj.adamw(0.02, 0.8, 0.95, 1e-6, 0.1, map=m),
        lambda p, m: ft.AdamW(p, 0.02, (0.8, 0.95), 1e-6, 0.1, map=m),
    ),
    "adamw in z": (
        lambda m: fj.adamw(0.02, weight_decay=0.1, decay_space="z", map=m),
        lambda p, m: ft.AdamW(p, 0.02, weight_decay=0.1, decay_space="z", map=m),
    ),
    "sgd": (lambda m: fj.sgd(0.1, map=m), lambda p, m: ft.SGD(p, 0.1, map=m)),
    "nesterov": (
        lambda m: fj.sgd(0.1, 0.9, nesterov=True, map=m, maximize=True),
        lambda p, m: ft.SGD(p, 0.1, 0.9, nesterov=True, map=m, maximize=True),
    ),
    "mirror": (lambda m: fj.sgd(0.1, map=m, gradient="dual"), lambda p, m: ft.MirrorDescent(p, 0.1, map=m)),
    "clamped": (
        lambda m: fj.adam(0.1, map=m, gradient="clamped", clamp=(0.1, 0.2)),
        lambda p, m: ft.Adam(p, 0.1, map=m, gradient="clamped", clamp=(0.1, 0.2)),
    ),
    "lion": (
        lambda m: fj.lion(0.01, weight_decay=0.1, map=m),
        lambda p, m: ft.Lion(p, 0.01, weight_decay=0.1, map=m),
    ),
}


def as_numpy(x: Any) -> Any:
    """In float64: the widening is exact."""
    return x.detach().double().numpy() if isinstance(x, torch.Tensor) else np.asarray(x).astype(np.float64)


@pytest.mark.proves("JAX", "step", compiled="`jit`", device="CPU")
@pytest.mark.parametrize("donated", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("m", [fm.Softplus(), fm.Chain("log", fm.Affine(1, -2)), COLUMNS], ids=repr)
@pytest.mark.parametrize("rule", FUSED)
def test_a_fused_step_has_the_bits_of_torch(rule: str, m: fm.Map, dtype: str, donated: bool) -> None:
    ours, theirs = FUSED[rule]
    rng = np.random.default_rng(0)
    start, slopes = rng.uniform(0.1, 0.9, (1000, 3)), rng.normal(size=(4, 1000, 3))
    with jax.enable_x64(True):
        parameter = torch.nn.Parameter(torch.tensor(start).to(getattr(torch, dtype)))
        params = jnp.asarray(start).astype(dtype)
        optimizer, reference = ours(m), theirs([parameter], m)
        state = optimizer.init(params)
        step = jax.jit(optimizer.step, donate_argnums=(0, 1) if donated else ())
        saved = reference.state[parameter]
        names = ["z", *(name for name in reference._moments if name in saved)]
        for slope in slopes:
            parameter.grad = torch.tensor(slope).to(parameter.dtype)
            reference.step()
            before = params, state
            kept = jax.tree.map(np.array, before)
            params, state = step(params, state, jnp.asarray(slope).astype(dtype))
            np.testing.assert_array_equal(as_numpy(params), as_numpy(parameter))
            for name, value in zip(names, (state.z, *state.moments), strict=True):
                np.testing.assert_array_equal(as_numpy(value), as_numpy(saved[name]))
            assert before[0].is_deleted() == donated
            if not donated:
                jax.tree.map(np.testing.assert_array_equal, before, kept)
        assert int(state.count) == int(saved["step"]) == 4


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (fj.adam, optax.adam),
        (lambda r, map: fj.adamw(r, weight_decay=0.1, decay_space="z", map=map), optax.adamw),
        (lambda r, map: fj.sgd(r, 0.9, map=map), lambda r: optax.sgd(r, 0.9)),
        (lambda r, map: fj.lion(r, map=map, decay_space="z"), optax.lion),
    ],
    ids=["adam", "adamw", "sgd", "lion"],
)
def test_a_fused_optimizer_is_that_of_optax_on_z(ours: Any, theirs: Any) -> None:
    options = {"weight_decay": 0.1} if theirs is optax.adamw else {}
    params = {"a": jnp.linspace(0.2, 3, 50), "b": (jnp.full((), 2.0), jnp.zeros((0,)))}
    maps = {"a": fm.Softplus(), "b": ("log", "identity")}

    def loss(p: Any) -> jax.Array:
        return sum(jnp.sum((leaf - 0.7) ** 2) for leaf in jax.tree.leaves(p))

    clip = optax.clip_by_global_norm(1.0)
    fused, (_, state) = train(optax.chain(clip, ours(0.05, map=maps)), params, loss, 20)
    plain = optax.chain(clip, fj.mapped(theirs(0.05, **options), maps))
    composed, (_, expected) = train(plain, params, loss, 20)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), fused, composed)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), state.z, expected.z)
    assert loss(fused) < loss(params)


def test_numbers_that_change_compile_nothing() -> None:
    optimizer = fj.adam(optax.exponential_decay(0.1, 1, 0.5), map="log")
    injected = optax.inject_hyperparams(fj.adam, static_args="map")(0.1, map="log")
    traces = []

    @jax.jit
    def step(p: jax.Array, state: Any, inner: Any, rate: jax.Array) -> Any:
        traces.append(1)
        scheduled = optimizer.step(p, state, p)
        given = optimizer.step(p, state, p, learning_rate=rate)
        updates, inner = injected.update(p, inner, p)
        return scheduled, given, optax.apply_updates(p, updates), inner

    p = jnp.linspace(0.5, 2, 100)
    state, inner = optimizer.init(p), injected.init(p)
    for count in range(3):
        rate = np.float32(0.1 * 0.5**count)
        inner.hyperparams["learning_rate"] = jnp.asarray(rate)
        expected, _ = fj.adam(float(rate), map="log").step(p, state, p)
        scheduled, given, theta, inner = step(p, state, inner, rate)
        jax.tree.map(np.testing.assert_array_equal, scheduled, given)
        np.testing.assert_array_equal(given[0], expected)
        np.testing.assert_allclose(theta, expected, rtol=1e-5)  # b1 and b2 were float32
        p, state = scheduled
    assert len(traces) == 1


@pytest.mark.proves("JAX", "step", memory="in place where donated")
def test_a_donated_step_writes_in_place() -> None:
    optimizer = fj.adam(0.1, map="softplus")
    params = jnp.ones(1 << 16)
    grads, state = params + 1, optimizer.init(params)
    step = jax.jit(optimizer.step, donate_argnums=(0, 1))
    params, state = step(params, state, grads)  # z came from NumPy, whose memory nobody may donate
    addresses = [x.unsafe_buffer_pointer() for x in (params, state.z, *state.moments)]
    params, state = step(params, state, grads)
    assert [x.unsafe_buffer_pointer() for x in (params, state.z, *state.moments)] == addresses
    assert " copy(f32[65536]" not in step.lower(params, state, grads).compile().as_text()


def test_a_gradient_that_is_the_parameter() -> None:
    optimizer = fj.adam(0.1, map="softplus")
    params = jnp.linspace(0.1, 3, 10_000)
    state = optimizer.init(params)
    expected = optimizer.step(params, state, params + 0)
    step = jax.jit(lambda p, state: optimizer.step(p, state, p), donate_argnums=(0, 1))
    jax.tree.map(np.testing.assert_array_equal, step(params, state), expected)


@pytest.mark.proves("JAX", "step", compiled="`vmap`")
def test_a_batch_of_steps() -> None:
    params, rates = jnp.linspace(0.1, 3, 60).reshape(3, 20), jnp.array([0.1, 0.2, 0.3])
    optimizer = fj.adam(0.1, map="softplus")
    states = jax.vmap(optimizer.init)(params)
    theta, _ = jax.vmap(lambda p, s, r: optimizer.step(p, s, p, learning_rate=r))(params, states, rates)
    for i in range(3):
        alone, _ = optimizer.step(params[i], optimizer.init(params[i]), params[i], learning_rate=rates[i])
        np.testing.assert_array_equal(theta[i], alone)


def test_what_a_fused_step_refuses() -> None:
    optimizer = fj.adam(0.1, map="log")
    state = optimizer.init(jnp.ones(2))
    with pytest.raises(fm.DomainError, match="theta: 1 of 2"):
        optimizer.init(jnp.array([1.0, -1]))
    with pytest.raises(ValueError, match=r"^params: a mapped"):
        optimizer.update(jnp.ones(2), state)
    with pytest.raises(ValueError, match=r"^grads: shapes \(3,\) of a gradient"):
        optimizer.step(jnp.ones(2), state, jnp.ones(3))
    with pytest.raises(ValueError, match=r"^learning_rate: must lie in \[0, inf\), got -1"):
        optimizer.step(jnp.ones(2), state, jnp.ones(2), learning_rate=-1)
    with pytest.raises(TypeError, match=r"^params: dtype int32"):
        optimizer.init(jnp.ones(2, int))
    with pytest.raises(TypeError, match=r"^map: .*use fastmap.jax.mapped"):
        fj.adam(0.1, map=fm.Circular(0, 1)).init(jnp.ones(2))
    for name, value in {
        "b1": 1.0,
        "learning_rate": np.nan,
        "gradient": "free",
        "decay_space": "x",
        "clamp": (2.0, 1.0),
        "weight_decay": -1.0,
    }.items():
        with pytest.raises(ValueError, match=f"^{name}: "):
            fj.adamw(**{"learning_rate": 0.1, "map": "log", name: value})
    with pytest.raises(ValueError, match=r"^nesterov: needs a momentum"):
        fj.sgd(0.1, nesterov=True, map="log")


def test_a_step_that_is_not_ours_is_an_error() -> None:
    x, count = jnp.ones(3), jnp.zeros((), np.int32)
    identity = next(i for i, entry in enumerate(fm.catalog()) if entry["name"] == "identity")
    good: dict[str, Any] = {
        "program": np.array([0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, identity, 0]),
        "params": np.zeros(0),
        "argument": "theta",
        "rule": np.array([1, 0, 0, 1, 0, 0]),
        "numbers": np.array([0, 1, 0, 0.1, 0.9, 0.99, 0, 0]),
    }

    def call(*operands: Any, results: int = 4, **attributes: Any) -> Any:
        shapes = [jax.ShapeDtypeStruct((3,), np.float32)] * results
        return jax.ffi.ffi_call(_jax._TARGETS["step"], shapes)(*operands, **attributes)

    right = (x, x, x, count, x, x)
    np.testing.assert_allclose(call(*right, **good)[0], 0.9)
    wrong: list[tuple[Any, Any]] = [(right[:n], {}) for n in range(1, 6)]
    wrong += [((*right[:i], jnp.ones(4), *right[i + 1 :]), {}) for i in range(6)]
    wrong += [((*right[:i], jnp.ones(3, np.float16), *right[i + 1 :]), {}) for i in range(6)]
    wrong += [((*right[:3], count - 1, x, x), {}), ((*right, jnp.ones(7)), {})]
    wrong += [(right, {"rule": good["rule"] + 3 * (np.arange(6) == i)}) for i in range(6)]
    wrong += [(right, {"rule": good["rule"][:5]}), (right, {"numbers": good["numbers"][:7]})]
    wrong += [(right, {"results": n}) for n in (1, 2, 3, 5)]
    for operands, attributes in wrong:
        with pytest.raises((jax.errors.JaxRuntimeError, ValueError), match="malformed call"):
            jax.block_until_ready(call(*operands, **{**good, **attributes}))


MAPS = [fm.Log(), fm.Interval(-1, 3), fm.Asinh(), fm.Reciprocal(), fm.Chain("log", fm.Affine(1, -2))]


@pytest.mark.parametrize("m", MAPS, ids=repr)
def test_a_transform_of_numpyro(m: fm.Map) -> None:
    t = fj.bijector(m)
    z = jnp.linspace(0.3, 0.9, 5)
    theta = t(z)
    np.testing.assert_array_equal(theta, fm.inverse(z, m))
    np.testing.assert_allclose(t.inv(theta), z, rtol=1e-4)
    assert t.codomain(theta).all()
    assert t.domain(z).all()
    slope = jax.vmap(jax.grad(t))(z)
    np.testing.assert_allclose(
        t.log_abs_det_jacobian(z, theta), jnp.log(jnp.abs(slope)), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_array_equal(jnp.sign(slope), t.sign)
    assert t == fj.bijector(m) != fj.bijector(fm.Softplus())
    assert jax.tree.leaves(t) == []
    np.testing.assert_array_equal(jax.jit(lambda t, z: t(z))(t, z), theta)
    assert pickle.loads(pickle.dumps(m)) == t.map


def test_a_distribution_and_a_model() -> None:
    ours = dist.TransformedDistribution(dist.Normal(0, 1), fj.bijector("log"))
    x = jnp.array([0.1, 1.0, 3.0])
    np.testing.assert_allclose(ours.log_prob(x), dist.LogNormal(0, 1).log_prob(x), rtol=1e-5)
    assert isinstance(ours.support, type(constraints.positive) | constraints.greater_than)
    assert (ours.sample(jax.random.key(0), (100,)) > 0).all()

    def model() -> None:
        numpyro.sample("scale", ours)

    def theirs() -> None:
        numpyro.sample("scale", dist.LogNormal(0, 1))

    density, _ = log_density(model, (), {}, {"scale": x[1]})
    np.testing.assert_allclose(density, ours.log_prob(x[1]), rtol=1e-6)
    slopes = [  # what NUTS follows
        jax.grad(lambda z, m=m: potential_energy(m, (), {}, {"scale": z}))(0.3) for m in (model, theirs)
    ]
    np.testing.assert_allclose(slopes[0], slopes[1], rtol=1e-5)
