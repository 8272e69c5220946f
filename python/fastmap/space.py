"""`Param` and `Space`: named parameters, their boxes and maps, as flat search space."""

from __future__ import annotations

import dataclasses
import json
import math
import operator
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fastmap import _native
from fastmap._extras import need
from fastmap._functional import Array, forward, inverse
from fastmap._map import Map, MapLike, resolve
from fastmap._rows import side_by_side
from fastmap._structured import StructuredMap
from fastmap.constraints import default_map
from fastmap.maps import Identity, Log

_JSON_VERSION = 1
_WIDE = 1000  # high/low from which a positive box without a map is searched on a log scale


@dataclass(frozen=True, init=False)
class Param:
    """One named parameter: a search box, a map, a shape.

    Parameters
    ----------
    low, high : float, optional
        The search box of theta. Black-box methods need both; without a map, gradient methods take them
        as constraints.
    map : Map or str, optional
        From theta to the space that is searched. Default: linear in the box for black-box methods, log
        when ``low > 0`` and ``high / low >= 1000``; for gradient methods the map that fits the bounds
        (none: identity, low: softplus, both: interval).
    shape : tuple of int, optional
        Of an array-valued parameter; () is a scalar.
    dtype : dtype, optional
        Of theta, float32 or float64.
    integer : bool, optional
        theta is rounded to integers; the box ends are as likely as the rest.
    init : number or array, optional
        Where gradient methods start.
    z_range : (float, float), optional
        With a structured map, whose rows have no box of single entries, the box of every number of z; methods
        that search a box need it. ``(-5, 5)`` suits most rows that are bounded, (-3, 3) what is whitened.

    Raises
    ------
    ValueError
        ``low >= high``, bounds that are not finite, not whole for integers, or outside the domain of the map;
        a negative shape, one without rows for a structured map, or a box of theta for one.
    TypeError
        A dtype other than float32 and float64; a shape of anything but whole numbers.
    """

    low: float | None
    high: float | None
    map: Map | None
    shape: tuple[int, ...]
    dtype: np.dtype[Any] | None
    integer: bool
    init: Any
    z_range: tuple[float, float] | None

    def __init__(
        self,
        low: float | None = None,
        high: float | None = None,
        *,
        map: MapLike | None = None,
        shape: int | tuple[int, ...] = (),
        dtype: Any = None,
        integer: bool = False,
        init: Any = None,
        z_range: tuple[float, float] | None = None,
    ) -> None:
        for name, bound in (("low", low), ("high", high)):
            if bound is not None and not math.isfinite(bound):
                raise ValueError(f"{name}: must be finite, got {bound}")
            if integer and bound is not None and bound != math.floor(bound):
                raise ValueError(f"{name}: {bound} is not an integer")
        if low is not None and high is not None and not low < high:
            raise ValueError(f"high: must be above low = {low}, got {high}")
        set_field = object.__setattr__
        set_field(self, "low", None if low is None else float(low))
        set_field(self, "high", None if high is None else float(high))
        set_field(self, "map", None if map is None else resolve(map))
        set_field(self, "shape", _lengths(shape))
        set_field(self, "dtype", None if dtype is None else np.dtype(dtype))
        set_field(self, "integer", integer)
        set_field(self, "init", init)
        set_field(self, "z_range", None if z_range is None else _interval(z_range))
        if self.dtype is not None and self.dtype not in (np.float32, np.float64):
            raise TypeError(f"dtype: {self.dtype} is not supported; use float32 or float64")
        if self.has_rows:
            self._check_rows()
        elif self.z_range is not None:
            raise ValueError("z_range: is for structured maps; low and high bound theta of others")
        elif self.map is not None:
            if np.broadcast_shapes(self.map.shape, self.shape) != self.shape:
                raise ValueError(f"map: {self.map!r} does not broadcast to shape {self.shape}")
            first, last = self.map.domain
            for name, bound in (("low", low), ("high", high)):
                if bound is not None and not np.all((first <= bound) & (bound <= last)):
                    raise ValueError(f"{name}: {bound} is outside the domain {first, last} of {self.map!r}")

    def _check_rows(self) -> None:
        assert isinstance(self.map, StructuredMap)
        if self.low is not None or self.high is not None:
            raise ValueError(
                f"low, high: entries of a row of {self.map!r} have no box of their own; "
                "z_range=(low, high) bounds every number of z"
            )
        if self.integer:
            raise ValueError(f"integer: {self.map!r} has no rows of integers")
        self.map.other_shape("shape", self.shape, is_theta=True)

    @property
    def has_rows(self) -> bool:
        """Whether its map is a structured one: it maps whole rows, and z may differ from theta in shape."""
        return isinstance(self.map, StructuredMap)

    @property
    def size(self) -> int:
        """How many numbers the parameter holds."""
        return math.prod(self.shape)

    @cached_property
    def z_shape(self) -> tuple[int, ...]:
        """The shape of z."""
        return self.map.z_shape(self.shape) if isinstance(self.map, StructuredMap) else self.shape

    @property
    def z_size(self) -> int:
        """How many numbers are searched."""
        return math.prod(self.z_shape)

    @property
    def has_box(self) -> bool:
        """Whether black-box methods that search a box can."""
        return self.z_range is not None or (self.low is not None and self.high is not None)

    @property
    def box_map(self) -> Map:
        """The map by which black-box methods search."""
        if self.map is not None:
            return self.map
        low, high = self.box
        return Log() if low > 0 and high / low >= _WIDE else Identity()

    @property
    def gradient_map(self) -> Map:
        """The map by which gradient methods search."""
        if self.map is not None:
            return self.map
        if self.low is not None and self.high is not None:
            return default_map("interval", self.low, self.high)
        if self.low is not None:
            return default_map("greater_than", self.low)
        if self.high is not None:
            return default_map("less_than", self.high)
        return default_map("real")

    @property
    def box(self) -> tuple[float, float]:
        """(low, high); ValueError if one is missing."""
        if self.low is None or self.high is None:
            raise ValueError("low, high: this method searches a box, give both")
        return self.low, self.high

    @property
    def edges(self) -> tuple[float, float]:
        """The box, widened by half a step for integers."""
        low, high = self.box
        return (low - 0.5, high + 0.5) if self.integer else (low, high)

    @cached_property
    def z_box(self) -> tuple[Any, Any]:
        """The box in search space, widened by half a step for integers. Always finite.

        Numbers; arrays of `shape` where the parameters of the map are arrays.
        """
        if self.has_rows:
            if self.z_range is None:
                raise ValueError(
                    f"z_range: this method searches a box, and {self.map!r} gives none to z; give one, "
                    "(-5, 5) for instance, or take cmaes, sep-cmaes, pgpe, es or a gradient method"
                )
            return self.z_range
        low, high = self.edges
        m = self.box_map
        first, last = m.domain
        inside = (
            (first <= low) & (high <= last) if getattr(m, "closed", False) else (first < low) & (high < last)
        )
        if not np.all(inside):
            raise ValueError(
                f"low, high: [{low:g}, {high:g}] has no finite box under {m!r}, "
                f"whose open domain is {first, last}"
            )
        shape = self.shape if m.shape else ()
        a, b = (forward(np.full(shape, end), m) for end in (low, high))
        if np.any(a == b) or not np.all(np.isfinite(a) & np.isfinite(b)):
            raise ValueError(f"low, high: [{low:g}, {high:g}] has no width under {m!r}, or no finite one")
        return (np.minimum(a, b), np.maximum(a, b)) if shape else (float(min(a, b)), float(max(a, b)))

    @cached_property
    def _ends(self) -> tuple[Any, Any]:
        """theta at the lower and at the upper end of `z_box`."""
        low, high = self.box
        like = np.full(self.shape if self.box_map.shape else (), low)
        falls = forward(like, self.box_map) == self.z_box[1]
        return np.where(falls, high, low), np.where(falls, low, high)

    def from_z(self, z: Array) -> Array:
        """theta for z in `z_box`; the ends of a box of theta come back exactly."""
        if isinstance(self.map, StructuredMap):
            theta = inverse(np.clip(np.asarray(z, np.float64), *self.z_box), self.map)
            return theta if self.dtype is None else theta.astype(self.dtype)
        low, high = self.box
        z_low, z_high = self.z_box
        z = np.asarray(z, np.float64)
        if not z.ndim and not self.box_map.shape and not self.integer:  # a tuner asks number by number
            at_low, at_high = self._ends
            if z <= z_low or z >= z_high:
                return self._rounded(at_low if z <= z_low else at_high)
            theta = inverse(z, self.box_map)
            return self._rounded(np.asarray(min(max(theta, low), high)))
        theta = inverse(np.clip(z, z_low, z_high), self.box_map)
        if self.integer:
            return np.clip(np.rint(theta), low, high)
        at_low, at_high = self._ends
        theta = np.where(z <= z_low, at_low, np.where(z >= z_high, at_high, theta))
        return self._rounded(np.clip(theta, low, high))

    def _rounded(self, theta: Array) -> Array:
        """theta in `dtype`, its bounds rounded inwards."""
        if self.dtype is None or self.dtype == np.float64:
            return theta
        low, high = (np.asarray(end, self.dtype) for end in self.box)
        low = low if low >= self.box[0] else np.nextafter(low, high)
        high = high if high <= self.box[1] else np.nextafter(high, low)
        return np.clip(np.asarray(theta, self.dtype), low, high)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Param:
        """The parameter that `to_json` described; absent entries have their defaults, a map may be a name.

        Raises
        ------
        ValueError
            An entry that no parameter has, or one that `Param` refuses.
        """
        known = [f.name for f in dataclasses.fields(Param)]
        if unknown := sorted(set(data) - set(known)):
            raise ValueError(f"{unknown[0]}: a parameter has no such entry; known: {', '.join(known)}")
        row = dict(data)
        if isinstance(row.get("map"), Mapping):
            row["map"] = Map.from_json(row["map"])
        if isinstance(row.get("shape"), list):
            row["shape"] = tuple(row["shape"])
        return Param(row.pop("low", None), row.pop("high", None), **row)

    def to_json(self) -> dict[str, Any]:
        """Plain data; `init` is not part of it."""
        data = {
            "low": self.low,
            "high": self.high,
            "map": None if self.map is None else self.map.to_json(),
            "shape": list(self.shape),
            "dtype": None if self.dtype is None else self.dtype.name,
            "integer": self.integer,
        }
        return data if self.z_range is None else {**data, "z_range": list(self.z_range)}


class Space(Mapping[str, Param]):
    """Named parameters, in order.

    ``Space(lr=Param(1e-6, 1, map="log"), w=Param(shape=(10, 3)))`` or ``Space({"lr": ...})``.

    Parameters
    ----------
    params : mapping, sequence or dataclass, optional
        Parameters by name. What is nested gets names with dots ("optimizer.lr", "layers.0.scale"). The fields
        of a dataclass, the class or an instance, that are no `Param` are constants: they are no part of the
        space, and `tree` puts them back.
    **named : Param
        More parameters.

    Raises
    ------
    ValueError
        No parameter, or one name twice.
    TypeError
        A value that is no `Param`.
    """

    def __init__(self, params: Any = None, /, **named: Param) -> None:
        self._tree = {} if params is None else params
        self._params: dict[str, Param] = {}
        for name, param in [*_leaves(self._tree, ""), *named.items()]:
            if not isinstance(param, Param):
                raise TypeError(f"{name}: expected a Param, got {type(param).__name__}")
            if name in self._params:
                raise ValueError(f"params: {name!r} is there twice")
            self._params[name] = param
        if not self._params:
            raise ValueError("params: a space needs at least one Param")

    def __getitem__(self, name: str) -> Param:
        return self._params[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._params)

    def __len__(self) -> int:
        return len(self._params)

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={param!r}" for name, param in self.items())
        return f"Space({inside})"

    @property
    def size(self) -> int:
        """How many numbers the space holds."""
        return sum(param.size for param in self.values())

    @property
    def z_size(self) -> int:
        """How many numbers are searched: other than `size` where there are structured maps."""
        return sum(param.z_size for param in self.values())

    def slices(self) -> dict[str, slice]:
        """Where each parameter lies in a flat buffer of theta."""
        return _slices({name: param.size for name, param in self.items()})

    @cached_property
    def maps(self) -> dict[str, Map]:
        """The map of each parameter by which gradient methods search.

        Raises
        ------
        TypeError
            An integer parameter: it has no real map.
        """
        for name, param in self.items():
            if param.integer:
                raise TypeError(f"map: {name} is an integer, which has no elementwise real map")
        return {name: param.gradient_map for name, param in self.items()}

    @cached_property
    def flat_map(self) -> Map:
        """`maps` side by side, as a map of one flat buffer; functions take the space itself for it."""
        return side_by_side(*((m, self[name].shape) for name, m in self.maps.items()))

    def ravel(self, values: Mapping[str, Any]) -> _native.FloatArray:
        """One flat float64 buffer of the values by name."""
        self._check_names(values)
        flat = np.empty(self.size)
        for name, part in self.slices().items():
            value = np.asarray(values[name], np.float64)
            if value.shape != self[name].shape:
                raise ValueError(f"{name}: shape {value.shape} differs from {self[name].shape}")
            flat[part] = value.ravel()
        return flat

    def unravel(self, flat: Array) -> dict[str, Array]:
        """Views of a flat buffer of theta, by name."""
        return _views(flat, {name: param.shape for name, param in self.items()})

    def unravel_z(self, flat: Array) -> dict[str, Array]:
        """Views of a flat buffer of z, by name."""
        return _views(flat, {name: param.z_shape for name, param in self.items()})

    def to_json(self) -> dict[str, Any]:
        """Plain data that `Space.from_json` reads back."""
        return {
            "version": _JSON_VERSION,
            "params": {name: param.to_json() for name, param in self.items()},
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Space:
        """The space that `to_json` described.

        Raises
        ------
        ValueError
            Data that describes no space; the error names the parameter.
        """
        if not isinstance(data, Mapping):
            raise ValueError(f"space: expected a table of version and params, got {data!r}")
        if data.get("version") != _JSON_VERSION:
            raise ValueError(f"version: expected {_JSON_VERSION}, got {data.get('version')!r}")
        if unknown := sorted(set(data) - {"version", "params"}):
            raise ValueError(f"{unknown[0]}: a space has no such entry; known: version, params")
        params = {}
        rows = data.get("params", {})
        if not isinstance(rows, Mapping):
            raise ValueError(f"params: expected a table of parameters by name, got {rows!r}")
        for name, row in rows.items():
            if not isinstance(row, Mapping):
                raise ValueError(f"{name}: expected a table of low, high, map, ...; got {row!r}")
            try:
                params[name] = Param.from_json(row)
            except (ValueError, TypeError, OverflowError) as error:
                raise ValueError(f"{name}: {error}") from error
        return Space(params)

    @staticmethod
    def load(path: str | Path) -> Space:
        """The space in a file: the data of `to_json` as JSON, or as TOML where the name ends with .toml.

        Raises
        ------
        ValueError
            A file that is no such thing; the error names the file.
        """
        path = Path(path)
        try:
            text = path.read_text()
            if path.suffix != ".toml":
                return Space.from_json(json.loads(text))
            reader = "tomllib" if sys.version_info >= (3, 11) else "tomli"
            return Space.from_json(need(reader, "search").loads(text))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        except RecursionError:
            raise ValueError(f"{path}: it is nested too deeply") from None

    def save(self, path: str | Path) -> None:
        """Write the JSON file that `load` reads."""
        Path(path).write_text(json.dumps(self.to_json(), indent=1) + "\n")

    def tree(self, values: Mapping[str, Any]) -> Any:
        """Values by name, in the shape of what the space was made from: nested dicts, lists, a dataclass."""
        rest = dict(values)
        tree = _planted(self._tree, "", rest)
        return {**tree, **rest} if isinstance(tree, dict) else tree

    def _check_names(self, values: Mapping[str, Any]) -> None:
        if set(values) != set(self):
            raise ValueError(f"values: expected {sorted(self)}, got {sorted(values)}")


def _slices(sizes: Mapping[str, int]) -> dict[str, slice]:
    result, start = {}, 0
    for name, size in sizes.items():
        result[name] = slice(start, start := start + size)
    return result


def _views(flat: Array, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
    parts = _slices({name: math.prod(shape) for name, shape in shapes.items()})
    size = list(parts.values())[-1].stop
    if tuple(flat.shape) != (size,):
        raise ValueError(f"flat: shape {tuple(flat.shape)} differs from ({size},)")
    return {name: flat[part].reshape(shapes[name]) for name, part in parts.items()}


def _lengths(shape: Any) -> tuple[int, ...]:
    """The shape of an array."""
    try:
        lengths = tuple(map(operator.index, (shape,) if isinstance(shape, int) else shape))
    except TypeError:
        raise TypeError(f"shape: expected whole numbers, got {shape!r}") from None
    if lengths and min(lengths) < 0:
        raise ValueError(f"shape: must not be negative, got {shape!r}")
    return lengths


def _interval(given: Any) -> tuple[float, float]:
    """A finite interval; ValueError if it is none."""
    try:
        low, high = map(float, given)
    except (TypeError, ValueError):
        raise ValueError(f"z_range: expected two numbers, got {given!r}") from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"z_range: must be finite, low below high; got {(low, high)}")
    return low, high


def _children(tree: Any) -> list[tuple[str, Any]]:
    """What a node of a tree holds, by name; TypeError if it is none."""
    if isinstance(tree, Mapping):
        return list(tree.items())
    if isinstance(tree, list | tuple):
        return [(str(i), value) for i, value in enumerate(tree)]
    held = tree.__dict__ if not isinstance(tree, type) else {}
    return [(f.name, held.get(f.name, f.default)) for f in dataclasses.fields(tree)]


def _is_node(tree: Any) -> bool:
    if isinstance(tree, Param):
        return False
    return isinstance(tree, Mapping | list | tuple) or dataclasses.is_dataclass(tree)


def _leaves(tree: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if not _is_node(tree):
        raise TypeError(f"params: expected a mapping or a dataclass of Param, got {type(tree).__name__}")
    for key, value in _children(tree):
        if not isinstance(key, str):
            raise TypeError(f"params: names are strings, got {key!r}")
        if _is_node(value):
            yield from _leaves(value, f"{prefix}{key}.")
        elif isinstance(value, Param) or not dataclasses.is_dataclass(tree):
            yield prefix + key, value


def _planted(tree: Any, prefix: str, values: dict[str, Any]) -> Any:
    """The tree with the values at its leaves, which are taken out of `values`."""
    parts = {
        key: _planted(value, f"{prefix}{key}.", values)
        if _is_node(value)
        else (values.pop(prefix + key) if isinstance(value, Param) else value)
        for key, value in _children(tree)
    }
    if isinstance(tree, Mapping):
        return parts
    if isinstance(tree, list | tuple):
        return type(tree)(parts.values())
    fields = {key: value for key, value in parts.items() if value is not dataclasses.MISSING}
    return tree(**fields) if isinstance(tree, type) else dataclasses.replace(tree, **fields)


def with_maps(space: Space, maps: Mapping[str, Map]) -> Space:
    """The space with other maps of some of its parameters."""
    return Space({n: dataclasses.replace(p, map=maps[n]) if n in maps else p for n, p in space.items()})
