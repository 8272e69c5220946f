"""`Map`, the class behind every entry of the catalog, and the lookup of maps by name."""

from __future__ import annotations

import inspect
import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import EllipsisType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastmap import _core

if TYPE_CHECKING:
    from fastmap._functional import Array
    from fastmap._native import Axis, Invalid

Value: TypeAlias = float | NDArray[np.float64]  # of a parameter; arrays are read-only
Step: TypeAlias = tuple[int, bool, tuple[Value, ...]]  # row of the catalog, inverted, parameters
Index: TypeAlias = slice | EllipsisType

# What the texts of the ends of domains are made of, parameters aside.
_END_NAMES = {"inf": math.inf, "pi": math.pi, "where": np.where, "__builtins__": {}}


class Map:
    """A one-to-one, increasing or decreasing elementwise map from parameters to search space.

    Maps are immutable, hashable, comparable and picklable, and have a JSON form. Their parameters are
    numbers, or arrays that broadcast to the buffers they are used on.

    Methods mirror the functions of the package: ``m.forward(theta)`` is ``fastmap.forward(theta, m)``.
    `forward` goes from parameters to search space (other libraries often call that direction inverse).
    """

    # Abstract without ABCMeta, whose isinstance is eight times slower: every call makes one. mypy checks it.

    __slots__ = ("_hash", "program", "shape", "steps")

    _hash: int
    steps: tuple[Step, ...]  # the elementary maps that theta passes, in order
    shape: tuple[int, ...]  # what the parameters broadcast to; () if all are numbers
    program: _core.Program | None  # what the engine runs; None: one per part, or NumPy evaluates the map
    noun: ClassVar[str] = "a map"

    def __init__(self, steps: Iterable[Step]) -> None:
        set_field = object.__setattr__
        set_field(self, "steps", tuple(steps))
        try:
            shape = np.broadcast_shapes(*(np.shape(v) for _, _, values in self.steps for v in values))
        except ValueError as error:
            raise ValueError(f"{type(self).__name__}: the parameters do not broadcast: {error}") from None
        rows = [
            (number, inverted, [np.broadcast_to(np.asarray(v, np.float64), shape) for v in values])
            for number, inverted, values in self.steps
        ]
        set_field(self, "shape", shape)
        set_field(self, "program", _core.Program(shape, rows))

    def parts(self) -> list[tuple[Map, Index, tuple[int, ...] | None]]:
        """The maps of a buffer, each with its elements and the shape they are given (None: theirs)."""
        return [(self, ..., None)]

    @property
    def name(self) -> str:
        """The name of the kind of map."""
        return type(self).__name__.lower()

    @property
    def domain(self) -> tuple[Any, Any]:
        """The open interval of valid theta: numbers, or arrays where the parameters are."""
        return self._ends("domain")

    @property
    def codomain(self) -> tuple[Any, Any]:
        """The open interval of z that theta in the domain can reach."""
        return self._ends("codomain")

    @property
    def increasing(self) -> Any:
        """Whether z grows with theta: a bool, or an array of them where the parameters are arrays."""
        from fastmap import _functional

        low, high = (
            _functional.forward(np.broadcast_to(np.asarray(end, np.float64), self.shape), self, invalid="nan")
            for end in self.domain
        )
        return bool(low < high) if self.shape == () else low < high

    @abstractmethod
    def _ends(self, which: str) -> tuple[Any, Any]:
        """The ends of the "domain" or "codomain"."""

    @abstractmethod
    def _key(self) -> tuple[Any, ...]:
        """The arguments that make this map: what makes it equal to another of its type."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Plain data that `Map.from_json` reads back."""

    @property
    def inv(self) -> Map:
        """The inverse as a map of its own: its `forward` is this map's `inverse`."""
        return Inverse(self)

    def with_arrays(self, change: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Map:
        """The same map with its arrays of parameters changed: cut to a part of the buffers, for instance."""

        def changed(value: Any) -> Any:
            if isinstance(value, Map):
                return value.with_arrays(change)
            return change(value) if isinstance(value, np.ndarray) else value

        return type(self)(*map(changed, self._key()))

    def forward(self, theta: Array, *, out: Array | None = None, invalid: Invalid | None = None) -> Array:
        """See `fastmap.forward`."""
        from fastmap import _functional

        return _functional.forward(theta, self, out=out, invalid=invalid)

    def inverse(self, z: Array, *, out: Array | None = None, invalid: Invalid | None = None) -> Array:
        """See `fastmap.inverse`."""
        from fastmap import _functional

        return _functional.inverse(z, self, out=out, invalid=invalid)

    def jacobian(self, theta: Array, *, out: Array | None = None, invalid: Invalid | None = None) -> Array:
        """See `fastmap.jacobian`."""
        from fastmap import _functional

        return _functional.jacobian(theta, self, out=out, invalid=invalid)

    def inverse_jacobian(
        self, z: Array, *, out: Array | None = None, invalid: Invalid | None = None
    ) -> Array:
        """See `fastmap.inverse_jacobian`."""
        from fastmap import _functional

        return _functional.inverse_jacobian(z, self, out=out, invalid=invalid)

    def log_abs_det(self, theta: Array, *, axis: Axis = None, invalid: Invalid | None = None) -> Array:
        """See `fastmap.log_abs_det`."""
        from fastmap import _functional

        return _functional.log_abs_det(theta, self, axis=axis, invalid=invalid)

    def inverse_log_abs_det(self, z: Array, *, axis: Axis = None, invalid: Invalid | None = None) -> Array:
        """See `fastmap.inverse_log_abs_det`."""
        from fastmap import _functional

        return _functional.inverse_log_abs_det(z, self, axis=axis, invalid=invalid)

    def forward_and_log_det(
        self, theta: Array, *, out: Array | None = None, invalid: Invalid | None = None
    ) -> tuple[Array, Array]:
        """See `fastmap.forward_and_log_det`."""
        from fastmap import _functional

        return _functional.forward_and_log_det(theta, self, out=out, invalid=invalid)

    def inverse_and_log_det(
        self, z: Array, *, out: Array | None = None, invalid: Invalid | None = None
    ) -> tuple[Array, Array]:
        """See `fastmap.inverse_and_log_det`."""
        from fastmap import _functional

        return _functional.inverse_and_log_det(z, self, out=out, invalid=invalid)

    def pullback(
        self, grad_theta: Array, z: Array, *, out: Array | None = None, invalid: Invalid | None = None
    ) -> Array:
        """See `fastmap.pullback`."""
        from fastmap import _functional

        return _functional.pullback(grad_theta, z, self, out=out, invalid=invalid)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Map:
        """The map that `to_json` described.

        Raises
        ------
        ValueError, TypeError
            Data that describes no map, or one with parameters that it cannot have.
        """
        try:
            return Map._from_json(data)
        except KeyError as error:
            raise ValueError(f"map: the entry {error} is missing") from error
        except OverflowError as error:
            raise ValueError(f"map: {error}") from error
        except RecursionError:
            raise ValueError("map: it is nested too deeply") from None

    @staticmethod
    def _from_json(data: Mapping[str, Any]) -> Map:
        rest = dict(data)
        name = rest.pop("map")
        if name == "chain":
            return Chain(*(Map._from_json(m) for m in rest["maps"]))
        if name == "inverse":
            return Inverse(Map._from_json(rest["of"]))
        if name == "sliced":
            from fastmap._rows import side_by_side

            return side_by_side(*((Map._from_json(m), tuple(shape)) for m, shape in rest["pieces"]))
        if name == "table":
            from fastmap._table import Table

            return Table(**rest)
        if name == "linear":
            from fastmap._linear import Linear

            return Linear(**rest)
        params = {key: np.array(value, np.float64) for key, value in rest.items()}
        return type(resolve(name))(**params)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return False
        mine, theirs = self._key(), other._key()
        return len(mine) == len(theirs) and all(
            np.array_equal(a, b) if isinstance(a, np.ndarray) or isinstance(b, np.ndarray) else a == b
            for a, b in zip(mine, theirs, strict=True)
        )

    def __hash__(self) -> int:
        if not hasattr(self, "_hash"):  # arrays may be large: only those who ask pay
            parts = (v.tobytes() if isinstance(v, np.ndarray) else v for v in self._key())
            object.__setattr__(self, "_hash", hash((type(self), *parts)))
        return self._hash

    def __reduce__(self) -> tuple[type[Map], tuple[Any, ...]]:
        return type(self), self._key()


class CatalogMap(Map):
    """A map of the native catalog; one subclass per entry, whose parameters are attributes."""

    __slots__ = ("values",)

    entry: ClassVar[dict[str, Any]]  # the map's row of the native catalog
    values: tuple[Value, ...]  # the parameters in the catalog's order

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        bound = inspect.signature(type(self)).bind(*args, **kwargs)
        bound.apply_defaults()
        values = tuple(self._value(name, v) for name, v in bound.arguments.items())
        object.__setattr__(self, "values", values)
        super().__init__([(self.entry["id"], False, values)])

    @classmethod
    def _value(cls, name: str, value: Any) -> Value:
        if getattr(value, "requires_grad", False):
            raise TypeError(f"{cls.__name__}: {name} requires grad, which a map does not pass on; detach it")
        try:
            array = np.array(value, np.float64) + 0.0  # a copy, and no negative zero
            if isinstance(value, str | bytes):
                raise TypeError
        except (TypeError, ValueError, NotImplementedError):  # the last: a tensor in a graph of TensorFlow
            raise TypeError(f"{cls.__name__}: {name} must be a real number or an array of them") from None
        if array.ndim == 0:
            return float(array)
        array.setflags(write=False)
        return array

    @property
    def name(self) -> str:
        """The name by which functions accept this map with default parameters."""
        return str(self.entry["name"])

    @property
    def params(self) -> dict[str, Value]:
        """The parameters by name."""
        return {p["name"]: v for p, v in zip(self.entry["params"], self.values, strict=True)}

    def _ends(self, which: str) -> tuple[Any, Any]:
        names = {name: np.asarray(v) for name, v in self.params.items()}
        with np.errstate(divide="ignore", invalid="ignore"):  # in the branch not taken
            low, high = (
                np.asarray(eval(text, dict(_END_NAMES), names), np.float64) for text in self.entry[which]
            )
        return (float(low), float(high)) if self.shape == () else (low, high)

    def to_json(self) -> dict[str, Any]:
        return {"map": self.name, **{name: _plain(v) for name, v in self.params.items()}}

    def __getattr__(self, name: str) -> Value:
        for param, value in zip(type(self).entry["params"], self.values, strict=True):
            if param["name"] == name:
                return value
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _key(self) -> tuple[Any, ...]:
        return self.values

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={_shown(value)}" for name, value in self.params.items())
        return f"{type(self).__name__}({inside})"


class Chain(Map):
    """Maps one after the other, in one pass over memory: theta passes the first map first.

    Parameters
    ----------
    *maps : Map or str
        ``Chain(a, b)`` is z = b(a(theta)). Its domain is where a(theta) lies in the domain of b.

    Notes
    -----
    Values between the maps are rounded to the dtype in which kernels compute (float32 for 16-bit buffers), so
    that the ULP bounds of the maps do not add up to a bound of the chain: `audit` measures it.
    """

    __slots__ = ("maps",)

    maps: tuple[Map, ...]

    def __init__(self, *maps: MapLike) -> None:
        if not maps:
            raise TypeError("maps: a chain needs at least one map")
        flat: list[Map] = []
        for m in map(resolve, maps):
            if m.program is None:
                raise TypeError(f"maps: {m.noun} cannot be part of a chain; call one after the other")
            flat += m.maps if isinstance(m, Chain) else (m,)
        object.__setattr__(self, "maps", tuple(flat))
        super().__init__(step for m in flat for step in m.steps)
        low, high = self.domain
        if np.any(low >= high):
            raise ValueError(f"maps: no theta passes all of {self!r}")

    def _ends(self, which: str) -> tuple[Any, Any]:
        if which == "codomain":
            return _limits("forward", self, *self.domain)
        low, high = self.maps[-1].domain
        for before in reversed(self.maps[:-1]):
            first, last = before.codomain
            # Inside the codomain of `before`, whose inverse then answers inside its domain.
            low, high = _limits("inverse", before, np.clip(low, first, last), np.clip(high, first, last))
        return low, high

    def to_json(self) -> dict[str, Any]:
        return {"map": "chain", "maps": [m.to_json() for m in self.maps]}

    def _key(self) -> tuple[Any, ...]:
        return self.maps

    def __repr__(self) -> str:
        return f"Chain({', '.join(map(repr, self.maps))})"


class Inverse(Map):
    """The inverse of a map as a map of its own; also written ``m.inv``.

    Parameters
    ----------
    map : Map or str
        Its `inverse` becomes `forward`. ``Log().inv`` takes any theta to z = exp(theta).
    """

    __slots__ = ("of",)

    of: Map

    def __init__(self, map: MapLike) -> None:
        object.__setattr__(self, "of", resolve(map))
        if self.of.program is None:
            raise TypeError(f"map: {self.of.noun} has no inverse as a map; call inverse with it")
        super().__init__((n, not inverted, values) for n, inverted, values in reversed(self.of.steps))

    @property
    def inv(self) -> Map:
        return self.of

    def _ends(self, which: str) -> tuple[Any, Any]:
        return self.of.domain if which == "codomain" else self.of.codomain

    def to_json(self) -> dict[str, Any]:
        return {"map": "inverse", "of": self.of.to_json()}

    def _key(self) -> tuple[Any, ...]:
        return (self.of,)

    def __repr__(self) -> str:
        return f"{self.of!r}.inv"


class Pieces:
    """What maps of a flat buffer are: maps in the order of the slices, with the shapes of theta."""

    __slots__ = ()
    pieces: tuple[tuple[Map, tuple[int, ...]], ...]

    def _key(self) -> tuple[Any, ...]:
        return self.pieces

    def to_json(self) -> dict[str, Any]:
        return {"map": "sliced", "pieces": [[m.to_json(), list(shape)] for m, shape in self.pieces]}

    def __repr__(self) -> str:
        return f"Sliced({', '.join(map(repr, self.pieces))})"


class Sliced(Pieces, Map):
    """A flat buffer whose slices have maps of their own: what a `Space` is as a map."""

    __slots__ = ("pieces",)

    noun = "a space"

    def __init__(self, *pieces: tuple[Map, tuple[int, ...]]) -> None:
        set_field = object.__setattr__
        set_field(self, "pieces", pieces)
        set_field(self, "steps", ())
        set_field(self, "shape", (sum(math.prod(shape) for _, shape in pieces),))
        set_field(self, "program", None)

    def parts(self) -> list[tuple[Map, Index, tuple[int, ...] | None]]:
        result: list[tuple[Map, Index, tuple[int, ...] | None]] = []
        start = 0
        for m, shape in self.pieces:
            result.append((m, slice(start, start := start + math.prod(shape)), shape))
        return result

    def _ends(self, which: str) -> tuple[Any, Any]:
        ends = [
            np.concatenate([np.broadcast_to(getattr(m, which)[i], shape).ravel() for m, shape in self.pieces])
            for i in (0, 1)
        ]
        return ends[0], ends[1]


def _limits(op: str, m: Map, low: Any, high: Any) -> tuple[Any, Any]:
    """The images of the ends of an interval, in order; open ends give their limits."""
    from fastmap import _functional

    shape = np.broadcast_shapes(np.shape(low), np.shape(high), m.shape)
    function = getattr(_functional, op)
    a, b = (
        function(np.broadcast_to(np.asarray(end, np.float64), shape), m, invalid="nan") for end in (low, high)
    )
    return (float(min(a, b)), float(max(a, b))) if shape == () else (np.minimum(a, b), np.maximum(a, b))


def _plain(value: Value) -> Any:
    """A parameter as JSON has it, which knows no infinity."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return [_plain(v) for v in (value.tolist() if isinstance(value, np.ndarray) else value)]


def _shown(value: Value) -> str:
    if isinstance(value, float):
        return repr(value)
    with np.printoptions(threshold=8, edgeitems=2):
        return np.array2string(value, separator=", ")


class Mapped(Protocol):
    """What has a map of its own for a flat buffer: a `Space`."""

    @property
    def flat_map(self) -> Map: ...


MapLike: TypeAlias = Map | Mapped | str

_by_name: dict[str, CatalogMap] = {}  # every name that functions accept, with default parameters


def build_classes() -> Iterator[type[CatalogMap]]:
    """One class per catalog entry, named and documented by it."""
    for entry in _core.catalog():
        parameters = [
            inspect.Parameter(p["name"], inspect.Parameter.POSITIONAL_OR_KEYWORD, default=p["default"])
            for p in entry["params"]
        ]
        cls = type(
            entry["class_name"],
            (CatalogMap,),
            {
                "__slots__": (),
                "__module__": "fastmap.maps",
                "__doc__": _docstring(entry),
                "__signature__": inspect.Signature(parameters),
                "entry": entry,
            },
        )
        _by_name[entry["name"]] = cls()
        yield cls


def interval_text(entry: dict[str, Any], which: str) -> str:
    """The "domain" or "codomain" of a catalog entry, with brackets where its ends belong to it."""
    low, high = entry[which]
    closed = entry["closed"]
    left = "[" if closed and low != "-inf" else "("
    right = "]" if closed and high != "inf" else ")"
    return f"{left}{low}, {high}{right}"


def _docstring(entry: dict[str, Any]) -> str:
    formulas, ulp = entry["formulas"], entry["ulp"]
    return (
        f"{entry['doc']}\n\n"
        f"z = {formulas['forward']}, theta = {formulas['inverse']} (t is theta);\n"
        f"from {interval_text(entry, 'domain')} onto {interval_text(entry, 'codomain')}, "
        f"within {ulp[0]:g} ULP, derivatives {ulp[1]:g}."
    )


def add_alias(alias: str, name: str) -> None:
    """Let functions accept `alias` for the map called `name`."""
    _by_name[alias] = _by_name[name]


_others: dict[str, Map] = {}  # the names of maps that are no elementwise ones


def register(map: Map) -> None:
    """Let functions accept a map of another catalog by its name."""
    _others[map.name] = map


def named(name: str) -> CatalogMap:
    """The map of that name with default parameters."""
    try:
        return _by_name[name]
    except KeyError:
        known = ", ".join(sorted([*_by_name, *_others]))
        raise ValueError(f"map: no map is called {name!r}; known: {known}") from None


def resolve(map: MapLike) -> Map:
    """The map itself, the one of that name, or what a `Space` is as a map of a flat buffer."""
    if isinstance(map, Map):
        return map
    if isinstance(map, str):
        return _others.get(map) or named(map)
    if isinstance(flat := getattr(map, "flat_map", None), Map):
        return flat
    raise TypeError(f"map: expected a Map, the name of one or a Space, got {type(map).__name__}")
