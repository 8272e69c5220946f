"""`Map`, the class behind every entry of the catalog, and the lookup of maps by name."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from fastmap import _core

if TYPE_CHECKING:
    from fastmap._functional import Array
    from fastmap._native import Axis, Invalid

_FLOAT64 = 1  # the native dtype code


class Map:
    """A one-to-one, increasing or decreasing elementwise map from parameters to search space.

    Subclasses are built from the native catalog, one per map; their parameters are the attributes of
    the instance. Maps are immutable, hashable, comparable and picklable, and have a JSON form.

    Methods mirror the functions of the package: ``m.forward(theta)`` is ``fastmap.forward(theta, m)``.
    `forward` goes from parameters to search space (other libraries often call that direction inverse).
    """

    __slots__ = ("values",)

    entry: ClassVar[dict[str, Any]]  # the map's row of the native catalog
    values: tuple[float, ...]  # the parameters in the catalog's order

    def __init__(self, *args: float, **kwargs: float) -> None:
        bound = inspect.signature(type(self)).bind(*args, **kwargs)
        bound.apply_defaults()
        try:
            values = tuple(float(v) for v in bound.arguments.values())
        except (TypeError, ValueError) as error:
            raise TypeError(f"{type(self).__name__}: parameters must be real numbers") from error
        _core.check_params(self.entry["id"], _FLOAT64, values)
        object.__setattr__(self, "values", values)

    @property
    def name(self) -> str:
        """The name by which functions accept this map with default parameters."""
        return str(self.entry["name"])

    @property
    def params(self) -> dict[str, float]:
        """The parameters by name."""
        return {p["name"]: v for p, v in zip(self.entry["params"], self.values, strict=True)}

    @property
    def domain(self) -> tuple[float, float]:
        """The open interval of valid theta."""
        return self._ends("domain")

    @property
    def codomain(self) -> tuple[float, float]:
        """The open interval of z that theta in the domain can reach."""
        return self._ends("codomain")

    def _ends(self, key: str) -> tuple[float, float]:
        params = self.params
        low, high = (params[text] if text in params else float(text) for text in self.entry[key])
        return low, high

    def forward(self, theta: Array, *, out: Array | None = None, invalid: Invalid | None = None) -> Array:
        """See `fastmap.forward`."""
        from fastmap import _functional

        return _functional.forward(theta, self, out=out, invalid=invalid)

    def inverse(self, z: Array, *, out: Array | None = None, invalid: Invalid | None = None) -> Array:
        """See `fastmap.inverse`."""
        from fastmap import _functional

        return _functional.inverse(z, self, out=out, invalid=invalid)

    def jacobian(self, theta: Array, *, out: Array | None = None) -> Array:
        """See `fastmap.jacobian`."""
        from fastmap import _functional

        return _functional.jacobian(theta, self, out=out)

    def inverse_jacobian(self, z: Array, *, out: Array | None = None) -> Array:
        """See `fastmap.inverse_jacobian`."""
        from fastmap import _functional

        return _functional.inverse_jacobian(z, self, out=out)

    def log_abs_det(self, theta: Array, *, axis: Axis = None) -> Array:
        """See `fastmap.log_abs_det`."""
        from fastmap import _functional

        return _functional.log_abs_det(theta, self, axis=axis)

    def inverse_log_abs_det(self, z: Array, *, axis: Axis = None) -> Array:
        """See `fastmap.inverse_log_abs_det`."""
        from fastmap import _functional

        return _functional.inverse_log_abs_det(z, self, axis=axis)

    def forward_and_log_det(self, theta: Array, *, out: Array | None = None) -> tuple[Array, Array]:
        """See `fastmap.forward_and_log_det`."""
        from fastmap import _functional

        return _functional.forward_and_log_det(theta, self, out=out)

    def inverse_and_log_det(self, z: Array, *, out: Array | None = None) -> tuple[Array, Array]:
        """See `fastmap.inverse_and_log_det`."""
        from fastmap import _functional

        return _functional.inverse_and_log_det(z, self, out=out)

    def pullback(self, grad_theta: Array, z: Array, *, out: Array | None = None) -> Array:
        """See `fastmap.pullback`."""
        from fastmap import _functional

        return _functional.pullback(grad_theta, z, self, out=out)

    def to_json(self) -> dict[str, Any]:
        """Plain data that `Map.from_json` reads back."""
        return {"map": self.name, **self.params}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Map:
        """The map that `to_json` described."""
        params = dict(data)
        name = params.pop("map")
        return type(named(name))(**params)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __getattr__(self, name: str) -> float:
        for param, value in zip(type(self).entry["params"], self.values, strict=True):
            if param["name"] == name:
                return value
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.values == other.values

    def __hash__(self) -> int:
        return hash((type(self), self.values))

    def __reduce__(self) -> tuple[type[Map], tuple[float, ...]]:
        return type(self), self.values

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={value!r}" for name, value in self.params.items())
        return f"{type(self).__name__}({inside})"


MapLike: TypeAlias = Map | str

_by_name: dict[str, Map] = {}  # every name that functions accept, with default parameters


def build_classes() -> Iterator[type[Map]]:
    """One class per catalog entry, named and documented by it."""
    for entry in _core.catalog():
        parameters = [
            inspect.Parameter(p["name"], inspect.Parameter.POSITIONAL_OR_KEYWORD, default=p["default"])
            for p in entry["params"]
        ]
        cls = type(
            entry["class_name"],
            (Map,),
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


def _docstring(entry: dict[str, Any]) -> str:
    formulas, ulp = entry["formulas"], entry["ulp"]
    return (
        f"{entry['doc']}\n\n"
        f"z = {formulas['forward']}, theta = {formulas['inverse']} (t is theta);\n"
        f"domain ({entry['domain'][0]}, {entry['domain'][1]}), within {ulp[0]:g} ULP, "
        f"derivatives {ulp[1]:g}."
    )


def add_alias(alias: str, name: str) -> None:
    """Let functions accept `alias` for the map called `name`."""
    _by_name[alias] = _by_name[name]


def named(name: str) -> Map:
    """The map of that name with default parameters."""
    try:
        return _by_name[name]
    except KeyError:
        known = ", ".join(sorted(_by_name))
        raise ValueError(f"map: no map is called {name!r}; known: {known}") from None


def resolve(map: MapLike) -> Map:
    """The map itself, or the one of that name."""
    if isinstance(map, Map):
        return map
    if isinstance(map, str):
        return named(map)
    raise TypeError(f"map: expected a Map or the name of one, got {type(map).__name__}")
