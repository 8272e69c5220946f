"""`fastmap.jax`: optax optimizers in mapped space, maps as transforms of NumPyro."""

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
from numpyro.distributions import constraints
from numpyro.infer.util import log_density, potential_energy

import fastmap as fm
import fastmap.jax as fj


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
