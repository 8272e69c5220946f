"""The coordinates of a search: which map and which box each parameter has under a method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from fastmap import _functional
from fastmap import optuna as studies
from fastmap._map import Map
from fastmap.maps import Identity
from fastmap.space import Param, Space

LARGEST_RECORD = 1000  # numbers; of larger arrays the history keeps a summary


@dataclass(frozen=True)
class Axis:
    """One parameter as a method searches it. `boxed`: z stays in a box whose ends are those of theta."""

    name: str
    param: Param
    map: Map
    boxed: bool

    def theta(self, z: Any) -> Any:
        """theta for an array of z."""
        return self.param.from_z(z) if self.boxed else _functional.inverse(z, self.map)

    def z(self, theta: Any) -> Any:
        """z for theta; ValueError names the parameter."""
        if self.boxed:
            return studies.to_z(self.name, self.param, theta)
        value = np.asarray(theta, np.float64)
        if value.shape != self.param.shape:
            raise ValueError(f"{self.name}: shape {value.shape} differs from {self.param.shape}")
        return _functional.forward(value, self.map)


class Axes(dict[str, Axis]):
    """The axes of a space by name, and its flat z.

    Parameters
    ----------
    space : Space
        What is searched.
    box : bool
        The method needs a finite box of z.
    gradient : bool
        The method follows gradients: a box without a map is then a constraint with its unconstraining map.
    plain : bool
        theta itself is searched, whatever the maps.
    mixed : bool
        The method follows gradients, but not in the parameters of `is_outer`.

    Raises
    ------
    ValueError
        A box that is missing, or infinite in z; two numbers of one name; an integer without a box, or for
        gradients.
    """

    def __init__(
        self, space: Space, *, box: bool, gradient: bool, plain: bool = False, mixed: bool = False
    ) -> None:
        super().__init__()
        self.space = space
        for name, param in space.items():
            if plain:
                if param.has_rows:
                    raise ValueError(
                        f"{name}: lbfgsb searches theta itself, whose entries {param.map!r} ties together; "
                        "take lbfgs"
                    )
                param = Param(param.low, param.high, map=Identity(), shape=param.shape, dtype=param.dtype)
            outer = mixed and is_outer(param)
            if space[name].integer and ((gradient and not outer) or not param.has_box):
                raise ValueError(f"{name}: an integer needs low and high, and a method without gradients")
            boxed = box or outer or (param.has_box and (param.map is not None or not gradient))
            if boxed:
                studies.named_box(name, param)
            self[name] = Axis(name, param, param.box_map if boxed else param.gradient_map, boxed)

    @property
    def boxed(self) -> bool:
        """Whether every z has a finite box."""
        return all(axis.boxed for axis in self.values())

    @cached_property
    def low(self) -> Any:
        """The lower ends of the flat z; infinite without a box."""
        return self._ends(0, -np.inf)

    @cached_property
    def high(self) -> Any:
        """The upper ends."""
        return self._ends(1, np.inf)

    def _ends(self, which: int, without: float) -> Any:
        ends = (axis.param.z_box[which] if axis.boxed else without for axis in self.values())
        shapes = (axis.param.z_shape for axis in self.values())
        return np.concatenate(
            [np.broadcast_to(end, shape).ravel() for end, shape in zip(ends, shapes, strict=True)]
        )

    def split(self, z: Any) -> dict[str, Any]:
        """Views of a flat z, by name."""
        return self.space.unravel_z(z)

    def theta(self, z: Mapping[str, Any]) -> dict[str, Any]:
        """theta by name for z by name."""
        return {name: python(axis.theta(z[name]), axis.param) for name, axis in self.items()}

    def z(self, theta: Mapping[str, Any]) -> dict[str, Any]:
        """z by name for theta by name, of all parameters or some."""
        check_names("init", theta, self.space)
        return {name: self[name].z(value) for name, value in theta.items()}

    def start(self, theta: Mapping[str, Any]) -> Any:
        """A flat z: f(theta) where given, else f(init) of the parameter, the middle of its box, or 0."""
        with np.errstate(invalid="ignore"):
            middle = np.where(np.isfinite(self.low + self.high), (self.low + self.high) / 2, 0.0)
        parts = self.split(np.clip(middle, self.low, self.high))
        inits = {name: axis.param.init for name, axis in self.items() if axis.param.init is not None}
        for name, value in self.z({**inits, **theta}).items():
            parts[name][...] = value
        return np.concatenate([np.ravel(parts[name]) for name in self])


def is_outer(param: Param) -> bool:
    """Whether "mixed" searches a parameter outside: an integer, or a scalar with a box and a map of its own.

    A box without a map is a constraint, which gradients respect.
    """
    return not param.shape and param.has_box and (param.integer or param.map is not None)


def check_names(argument: str, theta: Mapping[str, Any], space: Space) -> None:
    """ValueError where `theta` has a name that the space lacks."""
    if unknown := [name for name in theta if name not in space]:
        raise ValueError(f"{argument}: no parameter is called {unknown[0]!r}; known: {', '.join(space)}")


def python(value: Any, param: Param | None = None) -> Any:
    """Scalars as Python numbers, arrays as they are."""
    if value.ndim:
        return value
    return int(value) if param is not None and param.integer else float(value)


def recorded(value: Any) -> Any:
    """What the history keeps: small values whole, of large arrays a summary of evenly spaced elements."""
    if isinstance(value, float | int | str):
        return value
    size = int(np.prod(np.shape(value)))
    if size <= LARGEST_RECORD:
        return value.clone() if hasattr(value, "clone") else value
    sample = value.reshape(-1)[:: size // LARGEST_RECORD + 1]
    return {
        "size": size,
        "sampled": len(sample),
        "mean": float(sample.mean()),
        "min": float(sample.min()),
        "max": float(sample.max()),
    }


def plain(value: Any) -> Any:
    """Arrays, tensors and NumPy numbers as JSON has them."""
    return value.tolist()
