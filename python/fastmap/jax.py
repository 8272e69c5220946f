"""JAX: optimizers that move mapped parameters, and maps as transforms of distributions.

The functions of the package take JAX arrays as they are, under every transformation; this module is for optax
and NumPyro. Needs the extra ``fastmap[jax]``.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from fastmap import _core
from fastmap._errors import one_of
from fastmap._extras import need
from fastmap._functional import forward, inverse, inverse_log_abs_det, pullback
from fastmap._map import Map, MapLike, resolve

jax = need("jax", "jax")
jnp = jax.numpy

from fastmap import _jax  # noqa: E402  (imports jax)

_making = threading.Lock()  # of classes whose bases come from optional libraries: one class each

# One map for all, or a tree of maps in the form of the parameters.
MapTree = MapLike | Mapping[str, Any] | list[Any] | tuple[Any, ...]


class MappedState(NamedTuple):
    """The state of `mapped`."""

    z: Any  # the parameters in search space: what the optimizer moves
    inner: Any  # the state of the optimizer


def mapped(inner: Any, map: MapTree) -> Any:
    """An optax optimizer that moves z = f(theta), while the model keeps theta.

    Each update pulls the gradient back, dL/dz = dL/dtheta · dtheta/dz, lets `inner` move z, and returns what
    leads from theta to f⁻¹(z). It is a composition: a native pass for `pullback`, one for `inverse`, and
    those of the optimizer between them. `adam`, `adamw`, `sgd` and `lion` do all of it in one.

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
        return each(lambda m, p, z: _difference(m, p, inverse(z, m)), params, z), MappedState(z, moved)

    return optax.GradientTransformationExtraArgs(init, update)


class StepState(NamedTuple):
    """The state of `adam`, `adamw`, `sgd` and `lion`."""

    count: Any  # how many steps were taken, int32
    z: Any  # the parameters in search space: what moves; float32, or float64 beside float64 parameters
    moments: tuple[Any, ...]  # trees like z


# Each of the following writes its keywords out: `optax.inject_hyperparams` reads them from the signature.


def adam(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    *,
    map: MapTree,
    gradient: str = "chain",
    clamp: tuple[float, float] = (0.0, np.inf),
    maximize: bool = False,
) -> Any:
    """Adam on z = f(theta), the whole step in one native pass: ``fastmap.torch.Adam`` for JAX, to the bit.

    Parameters
    ----------
    learning_rate : float, array or schedule
        In units of z. An array, also a traced one, or what a schedule (a function of the step count) gives is
        an operand of the program: another value compiles nothing.
    b1, b2, eps : float or array
        As in optax; arrays are operands, too. Without ``jax_enable_x64`` they are rounded to float32.
    map : Map, str, Space or tree of them
        As in `mapped`; a map evaluated by NumPy has no native step.
    gradient : {"chain", "dual", "clamped"}
        How the gradient in theta becomes one in z: times dtheta/dz; as it is (mirror descent); or times
        dtheta/dz held inside `clamp`.
    clamp : (float, float)
        The least and the largest derivative of "clamped".
    maximize : bool
        Ascend instead.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        With a third function beside `init` and `update`: ``step(params, state, grads)`` gives the new params
        and state. Under ``jax.jit`` with both donated it writes in place and copies nothing, if they go in
        and come out in one order, by which JAX pairs them; `update` has to keep theta and to return a
        difference, which costs another pass. Both take ``learning_rate=``.

    Raises
    ------
    DomainError
        `init`, where it is not traced: theta outside the domain.
    TypeError
        A map without a native step, or parameters that are not float32, float64, bfloat16 or float16.
    ValueError
        A number that makes no sense, gradients of another shape, or `update` without params.

    Notes
    -----
    It is the last one of an ``optax.chain``: clipping goes before it. z in the state is what counts, and
    whoever sets theta by hand calls `init` again. Where z does not move, `step` leaves theta its bits.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> import fastmap.jax
    >>> optimizer = fastmap.jax.adam(0.1, map="softplus")
    >>> params = jnp.ones(3)
    >>> state = optimizer.init(params)
    >>> step = jax.jit(optimizer.step, donate_argnums=(0, 1))
    >>> params, state = step(params, state, jnp.ones(3))
    """
    numbers = {"b1": b1, "b2": b2, "eps": eps}
    return _fused("adam", 2, learning_rate, numbers, map, gradient, clamp, maximize)


def adamw(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    weight_decay: Any = 1e-4,
    *,
    map: MapTree,
    decay_space: str = "theta",
    gradient: str = "chain",
    clamp: tuple[float, float] = (0.0, np.inf),
    maximize: bool = False,
) -> Any:
    """`adam` with decoupled weight decay.

    Parameters
    ----------
    learning_rate, b1, b2, eps, map, gradient, clamp, maximize
        Those of `adam`.
    weight_decay : float or array
        As in optax.
    decay_space : {"theta", "z", "none"}
        What it shrinks: the parameter, or z (which a `Log` would draw to theta = 1).

    Returns
    -------
    optax.GradientTransformationExtraArgs
        As `adam`.
    """
    numbers = {"b1": b1, "b2": b2, "eps": eps, "weight_decay": weight_decay}
    return _fused("adam", 2, learning_rate, numbers, map, gradient, clamp, maximize, decay_space)


def sgd(
    learning_rate: Any,
    momentum: Any = None,
    nesterov: bool = False,
    *,
    map: MapTree,
    gradient: str = "chain",
    clamp: tuple[float, float] = (0.0, np.inf),
    maximize: bool = False,
) -> Any:
    """Gradient descent on z = f(theta) in one native pass.

    Parameters
    ----------
    learning_rate, map, gradient, clamp, maximize
        Those of `adam`. ``gradient="dual"`` is mirror descent; with `Log`, the exponentiated gradient.
    momentum : float or array, optional
        As in optax.
    nesterov : bool
        Nesterov's variant, which needs a momentum.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        As `adam`.
    """
    if nesterov and momentum is None:
        raise ValueError("nesterov: needs a momentum")
    kept = 0 if momentum is None else 1
    numbers = {} if momentum is None else {"momentum": momentum}
    return _fused("sgd", kept, learning_rate, numbers, map, gradient, clamp, maximize, nesterov=nesterov)


def lion(
    learning_rate: Any,
    b1: Any = 0.9,
    b2: Any = 0.99,
    weight_decay: Any = 1e-3,
    *,
    map: MapTree,
    decay_space: str = "theta",
    gradient: str = "chain",
    clamp: tuple[float, float] = (0.0, np.inf),
    maximize: bool = False,
) -> Any:
    """Lion on z = f(theta) in one native pass.

    Parameters
    ----------
    learning_rate, b1, b2, weight_decay
        As in optax.
    map, decay_space, gradient, clamp, maximize
        Those of `adamw`.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        As `adam`.
    """
    numbers = {"b1": b1, "b2": b2, "weight_decay": weight_decay}
    return _fused("lion", 1, learning_rate, numbers, map, gradient, clamp, maximize, decay_space)


def _fused(
    rule: str,
    n_moments: int,
    learning_rate: Any,
    numbers: dict[str, Any],
    map: MapTree,
    gradient: str,
    clamp: tuple[float, float],
    maximize: bool,
    decay_space: str = "none",
    nesterov: bool = False,
) -> Any:
    optax = need("optax", "jax")
    decay = _core.DECAYS[one_of("decay_space", decay_space, _core.DECAYS)]
    how = _core.GRADIENTS[one_of("gradient", gradient, _core.GRADIENTS)]
    kind = [_core.RULES[rule], how, decay, True, bool(maximize), bool(nesterov)]
    if not 0 <= clamp[0] <= clamp[1]:
        raise ValueError(f"clamp: expected 0 <= low <= high, got {clamp}")
    for name, value in numbers.items():
        _check_number(name, value, 1 if name in ("b1", "b2", "momentum") else np.inf)
    beta1 = numbers.get("b1", numbers.get("momentum", 0.0))
    fixed = (beta1, numbers.get("b2", 0.0), numbers.get("eps", 0.0), 0.0)
    weight_decay = numbers.get("weight_decay", 0.0)
    if isinstance(weight_decay, int | float) and weight_decay == 0:
        kind[2] = 0
    if not callable(learning_rate):
        _check_number("learning_rate", learning_rate)

    def init(params: Any) -> StepState:
        z = jax.tree.map(_to_z, _maps_like(map, params), params, is_leaf=_is_map)
        moments = tuple(jax.tree.map(jnp.zeros_like, z) for _ in range(n_moments))
        return StepState(jnp.zeros((), np.int32), z, moments)

    def move(keep_theta: bool, grads: Any, state: StepState, params: Any, rate: Any) -> Any:
        if params is None:
            raise ValueError("params: a mapped optimizer needs them; call update(grads, state, params)")
        rate = learning_rate if rate is None else rate
        rate = rate(state.count) if callable(rate) else rate
        _check_number("learning_rate", rate)
        operands = [*clamp, weight_decay, rate, *fixed]
        tree = jax.tree.structure(params)
        beside = (_maps_like(map, params), params, grads, state.z, *state.moments)
        rows = zip(*(tree.flatten_up_to(t) for t in beside), strict=True)
        moved = [_step(kind, operands, state.count, keep_theta, *row) for row in rows]
        theta, z, *moments = (tree.unflatten([row[i] for row in moved]) for i in range(2 + n_moments))
        return theta, StepState(optax.safe_increment(state.count), z, tuple(moments))

    def step(params: Any, state: StepState, grads: Any, *, learning_rate: Any = None) -> Any:
        return move(False, grads, state, params, learning_rate)

    def update(
        grads: Any, state: StepState, params: Any = None, *, learning_rate: Any = None, **_: Any
    ) -> Any:
        theta, state = move(True, grads, state, params, learning_rate)
        return jax.tree.map(_difference, _maps_like(map, params), params, theta, is_leaf=_is_map), state

    with _making:
        optimizer = _optimizer_class()
    return optimizer(init, update, step)


def _step(
    kind: list[int],
    numbers: list[Any],
    count: Any,
    keep_theta: bool,
    m: Map,
    theta: Any,
    g: Any,
    z: Any,
    *moments: Any,
) -> tuple[Any, ...]:
    """theta, z and the moments of one parameter after a step."""
    if jnp.shape(g) != theta.shape or z.shape != theta.shape:
        raise ValueError(
            f"grads: shapes {jnp.shape(g)} of a gradient and {z.shape} of its state differ from "
            f"{theta.shape} of the parameter"
        )
    buffers = (theta, jnp.asarray(g, theta.dtype), z, *moments)
    return _jax.step(m, kind, numbers, buffers, count, keep_theta=keep_theta)


@functools.cache
def _optimizer_class() -> Any:
    optax = need("optax", "jax")

    class MappedOptimizer(optax.GradientTransformationExtraArgs):  # type: ignore[name-defined, misc, unused-ignore]
        """A transformation of optax that can also give the new parameters."""

        def __new__(cls, init: Any, update: Any, step: Any) -> Any:
            made = super().__new__(cls, init, update)
            made.step = step
            return made

    return MappedOptimizer


def _check_number(name: str, value: Any, end: float = np.inf) -> None:
    """Refuse what makes no sense, as far as it is known; an array is an operand."""
    if isinstance(value, int | float) and not 0 <= value < end:
        raise ValueError(f"{name}: must lie in [0, {end}), got {value}")


def _to_z(m: Map, theta: Any) -> Any:
    if m.program is None:
        raise TypeError(
            f"map: {m.noun} has no native step; use fastmap.jax.mapped with an optimizer of optax"
        )
    if theta.dtype not in _jax.FLOATS:
        raise TypeError(
            f"params: dtype {theta.dtype} is not supported; use float32, float64, bfloat16 or float16"
        )
    return forward(theta.astype(np.promote_types(theta.dtype, np.float32)), m)


def _is_map(node: Any) -> bool:
    return isinstance(node, str | Map) or hasattr(node, "flat_map")


def _maps_like(map: Any, params: Any) -> Any:
    """A map for each parameter, in their structure."""
    if hasattr(map, "tree"):  # a Space, whose names are those of the parameters
        map = map.tree(map.maps)
    if _is_map(map):
        return jax.tree.map(lambda _: resolve(map), params)
    return jax.tree.map(resolve, map, is_leaf=_is_map)


def _difference(m: Map, theta: Any, new: Any) -> Any:
    """What leads from theta to the new one without leaving the domain."""
    low, high = (jnp.asarray(end, theta.dtype) for end in m.domain)
    step = new - theta
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
    with _making:
        transform = _transform_class()
    return transform(resolve(map))


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
