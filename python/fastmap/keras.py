"""Keras 3: layers whose weights are mapped, and models whose weights are searched in a mapped space.

For the backends tensorflow, torch and jax. Needs the extra ``fastmap[keras]``, and one of them.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from typing import Any, TypeAlias

import numpy as np

from fastmap import _native
from fastmap._extras import need
from fastmap._functional import elementwise, inverse
from fastmap._map import Map, MapLike, resolve
from fastmap._native import Invalid
from fastmap._structured import StructuredMap
from fastmap.search import METHODS, Result, minimize
from fastmap.space import Param, Space

BACKENDS = ("tensorflow", "torch", "jax")
Maps: TypeAlias = MapLike | Mapping[str, MapLike]


def _keras() -> Any:
    """Keras 3; an ImportError says what to install."""
    try:
        module = need("keras", "keras")
    except ImportError as error:
        if find_spec("keras") is None:
            raise
        raise ImportError(
            f"Keras does not find its backend ({error.__cause__}): pip install 'fastmap[tensorflow]', or set "
            f"KERAS_BACKEND to another of {', '.join(BACKENDS)}"
        ) from error
    if int(module.__version__.split(".")[0]) < 3:
        raise ImportError(
            f"Keras {module.__version__} is too old, 3 is needed: pip install -U 'fastmap[keras]'"
        )
    return module


keras = _keras()


@keras.saving.register_keras_serializable(package="fastmap")
class Mapped(keras.layers.Wrapper):  # type: ignore[name-defined, misc, unused-ignore]
    """A layer with weights theta = f⁻¹(z), of which any optimizer moves z.

    The weights of the layer hold z: they are what trains, and what `get_weights` and files have. At each call
    the layer sees theta, which lies in the domain of the map whatever the optimizer does.

    Parameters
    ----------
    layer : keras.Layer
        Any layer, built or not. Weights that it has, or its initializers give, are theta, and become z.
    map : Map, str or mapping of patterns to them
        One map for all of its trainable weights, or by name: ``{"gamma": "softplus"}``. A pattern
        ("*/kernel") stands for the path of a weight, too. The first that fits counts; a weight that none fits
        keeps its meaning.
    invalid : {"raise", "clip"}
        What becomes of first weights outside the domain: see `fastmap.forward`.
    **options
        Those of a layer: ``name``, ``trainable``.

    Raises
    ------
    DomainError
        Names the weight that lies outside the domain of its map. No weight has been written.
    ValueError
        A pattern that fits no trainable weight; a weight with a regularizer or constraint, which Keras would
        apply to z.
    TypeError
        A structured map, or a layer that is mapped already.

    Notes
    -----
    Not a ``keras.constraints.Constraint``: Keras calls that after a step, when it can move theta back into
    the domain but no longer change the space of the step. Weight decay of an optimizer acts on z.

    With the tensorflow backend the map is a ``tf.numpy_function``: Keras does not compile such a model by
    XLA, and `model.export` needs `unwrapped` layers.

    Examples
    --------
    >>> import keras
    >>> import fastmap.keras
    >>> scaled = fastmap.keras.Mapped(keras.layers.LayerNormalization(), {"gamma": "softplus"})
    >>> model = keras.Sequential([keras.Input((4,)), scaled, keras.layers.Dense(1)])
    """

    def __init__(self, layer: Any, map: Maps, *, invalid: Invalid = "raise", **options: Any) -> None:
        if isinstance(layer, Mapped):
            raise TypeError("layer: is mapped already; give its weights a fastmap.Chain instead")
        # No cast of z on its way in: mixed precision is the layer's matter, which gets theta.
        super().__init__(layer, **{**options, "dtype": layer.variable_dtype, "autocast": False})
        self.rules = _rules(map)
        self.invalid = invalid
        self.supports_masking = layer.supports_masking
        self.supports_jit = layer.supports_jit and keras.backend.backend() != "tensorflow"
        self.mapped: tuple[tuple[int, Map], ...] = ()  # places in `layer.weights`
        if layer.built:
            self._take_over()

    def build(self, input_shape: Any = None) -> None:
        """Build the layer, whose weights then become z."""
        if not self.layer.built:
            super().build(input_shape)
            self._take_over()

    def _take_over(self) -> None:
        weights = self.layer.weights
        chosen = _chosen(self.rules, [v for v in weights if v.trainable])
        for v, m in chosen:
            for name in ("regularizer", "constraint"):
                if getattr(v, name) is not None:
                    raise ValueError(
                        f"{v.path}: its {name} would act on z; leave it out, the map keeps bounds"
                    )
            _native.refuse_misfit(m, tuple(v.shape), v.path)
        if any(_awaits_initializer(v) for v, _ in chosen):
            for v, m in chosen:
                v._initializer = self._in_z(v._initializer, v.path, m)
        else:
            starts = [elementwise("forward", v.path, v.value, m, None, self.invalid) for v, m in chosen]
            for (v, _), z in zip(chosen, starts, strict=True):
                v.assign(z)
        places = {id(v): i for i, v in enumerate(weights)}
        self.mapped = tuple((places[id(v)], m) for v, m in chosen)

    def _in_z(self, initializer: Callable[..., Any], path: str, m: Map) -> Callable[..., Any]:
        """The initializer of a weight that gets its value later, in z."""

        def initialize(shape: Any, dtype: Any = None) -> Any:
            theta = initializer(shape, dtype=dtype)
            if getattr(theta, "is_meta", False):
                return theta  # torch asks for a shape only
            return elementwise("forward", path, theta, m, None, self.invalid)

        return initialize

    def _maps(self) -> dict[int, tuple[Any, Map]]:
        weights = self.layer.weights
        return {id(weights[i]): (weights[i], m) for i, m in self.mapped}

    @property
    def theta(self) -> dict[str, Any]:
        """The mapped weights as the layer sees them, by path."""
        return {v.path: inverse(v.value, m, invalid="nan") for v, m in self._maps().values()}

    def unwrapped(self) -> Any:
        """A layer of the same kind with theta as its weights, to be used without fastmap."""
        layer, theta = self.layer, self.theta
        copy = type(layer).from_config(layer.get_config())
        copy.build_from_config(layer.get_build_config())
        copy.set_weights([_numpy(theta.get(v.path, v)) for v in layer.weights])
        return copy

    def call(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """What the layer makes of the inputs, with theta as its weights."""
        layer, maps = self.layer, self._maps()
        # Inside of the scope the layer reads theta. What it writes (moving averages) is done after it.
        values = [
            (v, inverse(v.value, maps[id(v)][1], invalid="nan") if id(v) in maps else v.value)
            for v in layer.variables
        ]
        scope = keras.StatelessScope(values, collect_losses=True)
        before = [scope.get_current_value(v) for v, _ in values]
        with scope:
            outputs = layer(inputs, *args, **kwargs)
        for (v, _), old in zip(values, before, strict=True):
            if (new := scope.get_current_value(v)) is not old:
                v.assign(new)
        for loss in scope.losses:
            self.add_loss(loss * 1)  # Keras would count the same object once more as that of the layer
        return outputs

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        """That of the layer."""
        return self.layer.compute_output_spec(*args, **kwargs)

    def compute_output_shape(self, *args: Any, **kwargs: Any) -> Any:
        """That of the layer."""
        return self.layer.compute_output_shape(*args, **kwargs)

    def compute_mask(self, *args: Any, **kwargs: Any) -> Any:
        """That of the layer."""
        return self.layer.compute_mask(*args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        """Plain data, with the maps as JSON."""
        config: dict[str, Any] = super().get_config()
        return {**config, "map": {pattern: m.to_json() for pattern, m in self.rules}}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """The layer that `get_config` described; its weights are loaded afterwards."""
        maps = {pattern: Map.from_json(data) for pattern, data in config["map"].items()}
        # What the weights are until then need not lie in the domain.
        return super().from_config({**config, "map": maps, "invalid": "clip"}, custom_objects)


def _awaits_initializer(v: Any) -> bool:
    """Whether Keras has yet to give a variable its value: it builds some models inside of a trace."""
    return v._value is None


def _rules(map: Maps) -> tuple[tuple[str, Map], ...]:
    """Patterns and maps."""
    given = map.items() if isinstance(map, Mapping) else [("*", map)]
    rules = tuple((pattern, resolve(m)) for pattern, m in given)
    for pattern, m in rules:
        if isinstance(m, StructuredMap):
            raise TypeError(f"map: {m!r} for {pattern!r} maps whole rows; a weight needs an elementwise one")
    return rules


def _chosen(rules: tuple[tuple[str, Map], ...], variables: Iterable[Any]) -> list[tuple[Any, Map]]:
    """The variables that a rule fits, each with the map of the first one."""
    chosen, unused = [], [pattern for pattern, _ in rules]
    for v in variables:
        fitting = [(p, m) for p, m in rules if any(fnmatch.fnmatchcase(name, p) for name in (v.name, v.path))]
        unused = [p for p in unused if p not in dict(fitting)]
        if fitting:
            chosen.append((v, fitting[0][1]))
    if unused:
        raise ValueError(f"map: {unused[0]!r} fits no trainable weight")
    return chosen


def tune(
    model: Any,
    loss: Any,
    *,
    map: Maps | Space,
    x: Any = None,
    y: Any = None,
    method: str = "auto",
    budget: int | None = None,
    seed: int | None = None,
    **options: Any,
) -> Result:
    """Search the weights of a model in the mapped space; the best ones end in the model.

    Parameters
    ----------
    model : keras.Model
        A ``Sequential`` model or any other, built, or built by `x`. Its trainable weights are where the
        search starts, and are tuned in place.
    loss : str, keras.losses.Loss or callable
        With `x` and `y` a loss of Keras, by name or as an object, or a function of labels and predictions,
        whose mean counts; losses of the layers are added. Without them a function of the model that returns a
        number: any metric, for methods without gradients.
    map : Map, str, mapping of patterns to them, or Space
        One map for all trainable weights, or maps by name as in `Mapped` (the others get the identity). A
        `Space` has the paths of the weights as names, boxes for methods that need them, and may leave weights
        out, which then stay.
    x, y : arrays, optional
        All data of an evaluation, in one batch. The model is called with ``training=False``.
    method : str
        As in `fastmap.minimize`: "lbfgs", "adam" and other methods with gradients (of the backend, by `x` and
        `y`), "cmaes", "sep-cmaes", "pgpe", "es" without, or those of boxes with a Space. "auto" follows
        gradients where there are `x` and `y`.
    budget, seed : int, optional
        As in `fastmap.minimize`.
    **options
        What else it takes: ``lr``, ``patience``, ``direction``, ``callbacks``, ``progress``, ...

    Returns
    -------
    Result
        `best` has theta by the paths of the weights, which the model has as well.

    Raises
    ------
    DomainError
        Names the weight that lies outside the domain of its map.
    ValueError
        A pattern that fits no weight; a space with other names or shapes; a method with gradients without x
        and y; several directions. Whatever is raised, the model has the weights that it began with.

    Examples
    --------
    >>> result = fastmap.keras.tune(model, "mse", map="asinh", x=x, y=y, method="lbfgs", budget=100)
    """
    if not isinstance(options.get("direction", ""), str):
        raise ValueError("direction: a model can hold the weights of one best point; give one direction")
    follows = method == "auto" or (method in METHODS and METHODS[method].gradient)
    if x is None and (y is not None or (follows and method != "auto")):
        raise ValueError("x: missing; labels and methods with gradients need it")
    convert = keras.ops.convert_to_tensor
    data = [None if part is None else keras.tree.map_structure(convert, part) for part in (x, y)]
    if not model.built and x is not None:
        model(keras.tree.map_structure(lambda part: part[:1], data[0]))
    if not model.trainable_variables:
        raise ValueError("model: has no trainable weights; build it, or pass x")
    space, tuned = _searched(map, model.trainable_variables)
    start = {name: _start(_numpy(v), space[name]) for name, v in tuned.items()}
    jac = follows and x is not None
    evaluate = None if x is None else _compiled(list(tuned.values()), _value(model, loss), data, jac)

    def objective(theta: Mapping[str, Any]) -> Any:
        _put(tuned, theta)
        if evaluate is None:
            return float(loss(model))
        found, gradients = evaluate()
        return (found, dict(zip(tuned, gradients, strict=True))) if jac else found

    try:
        result = minimize(
            objective, space, method=method, budget=budget, seed=seed, init=start, jac=jac, **options
        )
    except BaseException:
        _put(tuned, start)
        raise
    _put(tuned, result.best)
    return result


def _searched(map: Maps | Space, variables: list[Any]) -> tuple[Space, dict[str, Any]]:
    """The space, and the variables by the names of its parameters."""
    by_path = {v.path: v for v in variables}
    if len(by_path) < len(variables):
        raise ValueError("model: two of its weights have the same path; give its layers names of their own")
    if isinstance(map, Space):
        for name, param in map.items():
            if name not in by_path:
                raise ValueError(f"map: no trainable weight is called {name!r}; known: {', '.join(by_path)}")
            if param.shape != tuple(by_path[name].shape):
                raise ValueError(f"map: {name} has shape {param.shape}, not {tuple(by_path[name].shape)}")
        return map, {name: by_path[name] for name in map}
    maps = {v.path: m for v, m in _chosen(_rules(map), variables)}
    params = {}
    for path, v in by_path.items():
        m = maps.get(path, resolve("identity"))
        elementwise("forward", path, _numpy(v), m, None, "raise")  # refused by its name
        dtype = "float64" if v.dtype == "float64" else "float32"
        params[path] = Param(map=m, shape=tuple(v.shape), dtype=dtype)
    return Space(params), by_path


def _start(value: Any, param: Param) -> Any:
    """The weights, and where they are roundings of an end of their box, that end."""
    if param.low is None or param.high is None:
        return value
    inside = np.clip(value.astype(np.float64), param.low, param.high)
    return np.where(inside.astype(value.dtype) == value, inside, value)


def _value(model: Any, loss: Any) -> Callable[[Any, Any], Any]:
    """The loss of the model on data, as a tensor of the backend."""
    criterion = keras.losses.get(loss)

    def value(x: Any, y: Any) -> Any:
        found = model(x, training=False)
        one_column = getattr(found, "shape", ())[-1:] == (1,)
        if one_column and y is not None and len(y.shape) == len(found.shape) - 1:
            y = keras.ops.expand_dims(y, -1)  # as `fit` does; else labels and predictions make a square
        return keras.ops.mean(criterion(y, found)) + sum(model.losses)

    return value


def _compiled(
    variables: list[Any], value: Callable[[Any, Any], Any], data: list[Any], gradient: bool
) -> Callable[[], tuple[float, list[Any]]]:
    """The loss at the present weights and its gradient, or no gradient, by the means of the backend."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        tf = need("tensorflow", "tensorflow")

        @tf.function(autograph=False)
        def compute() -> Any:
            if not gradient:
                return value(*data), []
            held = [v.value for v in variables]
            with tf.GradientTape() as tape:
                found = value(*data)
            zero = tf.UnconnectedGradients.ZERO
            slopes = tape.gradient(found, held, unconnected_gradients=zero)
            return found, [tf.convert_to_tensor(slope) for slope in slopes]

    elif backend == "torch":
        torch = need("torch", "torch")

        def compute() -> Any:
            held = [v.value for v in variables]
            with torch.set_grad_enabled(gradient):
                found = value(*data)
            if not gradient:
                return found, []
            return found, torch.autograd.grad(found, held, allow_unused=True, materialize_grads=True)

    elif backend == "jax":
        jax = need("jax", "jax")

        def loss_of(held: list[Any], x: Any, y: Any) -> Any:
            scope = keras.StatelessScope(list(zip(variables, held, strict=True)), collect_losses=True)
            with scope:
                return value(x, y)

        function = jax.jit(jax.value_and_grad(loss_of) if gradient else lambda *given: (loss_of(*given), []))

        def compute() -> Any:
            return function([v.value for v in variables], *data)

    else:
        raise ValueError(f"model: the backend {backend} is not supported; use {', '.join(BACKENDS)}")

    def evaluate() -> tuple[float, list[Any]]:
        found, slopes = compute()
        return float(_numpy(found)), [_numpy(slope) for slope in slopes]

    return evaluate


def _put(variables: Mapping[str, Any], theta: Mapping[str, Any]) -> None:
    for name, v in variables.items():
        v.assign(np.asarray(theta[name]))


def _numpy(value: Any) -> Any:
    return np.array(keras.ops.convert_to_numpy(value))
