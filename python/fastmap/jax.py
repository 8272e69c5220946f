"""JAX: optimizers that move mapped parameters, and maps as transforms of distributions.

The functions of the package take JAX arrays as they are, under every transformation; this module is for optax
and NumPyro. Needs the extra ``fastmap[jax]``.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from fastmap._extras import need
from fastmap._functional import forward, inverse, inverse_log_abs_det, pullback
from fastmap._map import Map, MapLike, resolve

jax = need("jax", "jax")
jnp = jax.numpy


class MappedState(NamedTuple):
    """The state of `mapped`."""

    z: Any  # the parameters in search space: what the optimizer moves
    inner: Any  # the state of the optimizer


def mapped(inner: Any, map: MapLike | Mapping[str, Any] | list[Any] | tuple[Any, ...]) -> Any:
    """An optax optimizer that moves z = f(theta), while the model keeps theta.

    Each update pulls the gradient back, dL/dz = dL/dtheta · dtheta/dz, lets `inner` move z, and returns what
    leads from theta to f⁻¹(z). It is a composition: a native pass for `pullback`, one for `inverse`, and
    those of the optimizer between them. (The optimizers of ``fastmap.torch`` do all of it in one.)

    Parameters
    ----------
    inner : optax.GradientTransformation
        Any optimizer; its learning rate, decay and clipping act on z. A rate that changes is its matter, too
        (``optax.inject_hyperparams``): nothing here makes JAX compile anew.
    map : Map, str, Space or tree of them
        One map for all parameters; a `Space`, or a tree with the structure of the parameters, gives each its
        own.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        `init` refuses, where it is not traced, theta outside the domain (`DomainError`). `update` needs the
        parameters and passes other arguments on to `inner`.

    Notes
    -----
    z in the state is what counts. ``optax.apply_updates`` adds the update to theta, which gives f⁻¹(z) within
    a rounding of the larger of the old and the new theta; such errors do not add up, and float32 and float64
    parameters stay in the closed domain. Whoever sets theta by hand calls `init` again.

    Examples
    --------
    >>> import jax.numpy as jnp, optax
    >>> import fastmap as fm, fastmap.jax
    >>> optimizer = fastmap.jax.mapped(optax.adam(0.1), {"scale": fm.Softplus(), "w": "identity"})
    >>> params = {"scale": jnp.ones(3), "w": jnp.zeros(3)}
    >>> state = optimizer.init(params)
    >>> updates, state = optimizer.update({"scale": -params["scale"], "w": params["w"]}, state, params)
    >>> params = optax.apply_updates(params, updates)
    """
    optax = need("optax", "jax")
    inner = optax.with_extra_args_support(inner)

    def each(function: Any, params: Any, *rest: Any) -> Any:
        return jax.tree.map(function, _maps_like(map, params), params, *rest, is_leaf=_is_map)

    def init(params: Any) -> MappedState:
        z = each(lambda m, p: forward(p, m), params)
        return MappedState(z, inner.init(z))

    def update(grads: Any, state: MappedState, params: Any = None, **extra: Any) -> tuple[Any, MappedState]:
        if params is None:
            raise ValueError("params: a mapped optimizer needs them; call update(grads, state, params)")
        slopes = each(lambda m, p, g, z: pullback(g, z, m), params, grads, state.z)
        moves, moved = inner.update(slopes, state.inner, state.z, **extra)
        z = optax.apply_updates(state.z, moves)
        return each(_step, params, z), MappedState(z, moved)

    return optax.GradientTransformationExtraArgs(init, update)


def _is_map(node: Any) -> bool:
    return isinstance(node, str | Map) or hasattr(node, "flat_map")


def _maps_like(map: Any, params: Any) -> Any:
    """A map for each parameter, in their structure."""
    if hasattr(map, "tree"):  # a Space, whose names are those of the parameters
        map = map.tree(map.maps)
    if _is_map(map):
        return jax.tree.map(lambda _: resolve(map), params)
    return jax.tree.map(resolve, map, is_leaf=_is_map)


def _step(m: Map, theta: Any, z: Any) -> Any:
    """What leads from theta to f⁻¹(z) without leaving the domain."""
    low, high = (jnp.asarray(end, theta.dtype) for end in m.domain)
    step = inverse(z, m) - theta
    if theta.dtype.itemsize < 4:  # `nextafter` knows float32 and float64
        return step
    # The step is rounded, so that the sum may pass a bound; one float less then ends inside.
    step = jnp.where(theta + step < low, jnp.nextafter(step, jnp.full_like(step, jnp.inf)), step)
    return jnp.where(theta + step > high, jnp.nextafter(step, jnp.full_like(step, -jnp.inf)), step)


def bijector(map: MapLike) -> Any:
    """A map as a transform of NumPyro, for ``TransformedDistribution`` and ``biject_to``.

    Parameters
    ----------
    map : Map or str
        NumPyro calls our `inverse` forward: the transform takes z to theta, and its `inv` theta to z.

    Returns
    -------
    numpyro.distributions.transforms.Transform
        Elementwise; equal to that of an equal map.
    """
    return _transform_class()(resolve(map))


@functools.cache
def _transform_class() -> Any:
    distributions = need("numpyro.distributions", "jax")
    constraints = distributions.constraints

    def between(low: Any, high: Any) -> Any:
        infinite = np.isinf(low).all(), np.isinf(high).all()
        if all(infinite):
            return constraints.real
        if infinite[1]:
            return constraints.greater_than(low)
        return constraints.less_than(high) if infinite[0] else constraints.open_interval(low, high)

    class MapTransform(distributions.transforms.Transform):  # type: ignore[name-defined, misc, unused-ignore]
        """A map as a transform. Its call is our `inverse`: from z to theta."""

        def __init__(self, map: Map) -> None:
            self.map = map

        @property
        def domain(self) -> Any:
            return between(*self.map.codomain)

        @property
        def codomain(self) -> Any:
            return between(*self.map.domain)

        @property
        def sign(self) -> Any:
            return np.where(self.map.increasing, 1, -1)

        def __call__(self, x: Any) -> Any:
            return inverse(x, self.map)

        def _inverse(self, y: Any) -> Any:
            return forward(y, self.map)

        def log_abs_det_jacobian(self, x: Any, y: Any, intermediates: Any = None) -> Any:
            return inverse_log_abs_det(x, self.map, axis=())

        def tree_flatten(self) -> Any:
            return (), ((), {"map": self.map})

        def eq(self, other: object, static: bool = False) -> bool:
            return isinstance(other, MapTransform) and other.map == self.map

        def __hash__(self) -> int:
            return hash(self.map)

        def __repr__(self) -> str:
            return f"bijector({self.map!r})"

    return MapTransform
