"""The maps that a suggestion chooses from: the catalog, with parameters that fit the values at hand."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastmap._functional import forward
from fastmap._map import CatalogMap, Map
from fastmap.constraints import mirror
from fastmap.maps import CLASSES

Floats: TypeAlias = NDArray[np.float64]
Values: TypeAlias = dict[str, list[float]]  # what is tried for each parameter of a map

_GRID = 9  # values of a fitted parameter, in a first and in a finer second pass
_SAME = 1e-9  # one less the correlation from which maps count as affine images of each other
_BOUNDS = ("low", "high")
# The power of the unit of theta in a parameter; those that are no bounds and not here are plain numbers.
_UNITS = {"scale": 1.0, "hinge_softness": 1.0, "beta": -1.0, "b": 2.0}


@dataclass(frozen=True)
class Candidate:
    """A map, its score (larger is better; the criterion says what it counts), its fitted parameters."""

    map: Map
    score: float
    fitted: int = 0


@dataclass(frozen=True, eq=False)
class Fit:
    """A map with parameters, how many of them were fitted, and z of the values at hand."""

    map: Map
    fitted: int
    z: Floats


Scorer: TypeAlias = Callable[[Sequence[Fit]], "Sequence[float] | Floats"]


def ranked(
    theta: Floats, score: Scorer, *, bounds: Mapping[str, float] | None = None, box: Sequence[float] = ()
) -> list[tuple[Candidate, Fit]]:
    """The best map of each kind in the catalog, best kind first.

    Parameters
    ----------
    theta : array of float64, shape (n,)
        Finite and not constant.
    score : callable
        From fits to one number each; NaN drops a fit. It must not change when z goes through an affine map:
        kinds that are affine images of an earlier one (`Log2` of `Log`) are left out.
    bounds : mapping, optional
        Parameters called "low" and "high", where not those of the catalog.
    box : sequence of float
        More values that have to lie in the open domain: the ends of a search box.

    Returns
    -------
    list of (Candidate, Fit)
        Identity is always among them.
    """
    needed = np.concatenate([theta, np.asarray(box, np.float64)])
    seen = np.empty((0, theta.size))
    found: list[tuple[Candidate, Fit]] = []
    for cls in CLASSES:
        for image in (False, True) if needed.max() < 0 else (False,):
            values = _grids(cls, theta, bounds or {})
            fits = [*_fits(cls, values, theta, needed, seen, image)]
            winner = _best(fits, score)
            free = [name for name, tried in values.items() if len(tried) > 1]
            if winner is not None and len(free) == 1:
                finer = {**values, free[0]: _between(values[free[0]], winner[1].map, free[0])}
                more = [*_fits(cls, finer, theta, needed, seen, image)]
                winner = _best([winner[1], *more], score)
                fits += more
            if winner is not None:
                found.append(winner)
                seen = np.vstack([seen, *(_standard(fit.z) for fit in fits)])
    return sorted(found, key=lambda pair: -pair[0].score)


def _grids(cls: type[CatalogMap], theta: Floats, bounds: Mapping[str, float]) -> Values:
    """What is tried for each parameter of a kind of map."""
    params = cls.entry["params"]
    examples = [{p["name"]: p["default"] for p in params}, *cls.entry["examples"]]
    shapes = [p["name"] for p in params if p["name"] not in _BOUNDS]
    values: Values = {}
    for param in params:
        name = param["name"]
        published = [float(example[name]) for example in examples]
        if name in _BOUNDS:
            values[name] = [bounds.get(name, float(param["default"]))]
        elif name in _UNITS:
            # From values that see theta as linear to values that see it as steep as the data allow.
            sizes = np.abs(theta - bounds.get("low", 0.0))
            sizes = np.quantile(sizes[sizes > 0], (0.05, 1.0))
            values[name] = [*(np.geomspace(sizes[0], sizes[1], _GRID) ** _UNITS[name])]
        elif len(shapes) > 1:
            values[name] = sorted(set(published))
        elif min(published) > 0:
            values[name] = [*np.geomspace(min(published), max(published), _GRID)]
        else:
            values[name] = [*np.linspace(min(published), max(published), 2 * _GRID - 1)]
    return values


def _between(tried: list[float], m: Map, name: str) -> list[float]:
    """Values on both sides of the best one, up to its neighbours."""
    inner = m.maps[1] if hasattr(m, "maps") else m
    assert isinstance(inner, CatalogMap)
    ordered = sorted(tried)
    i = int(np.argmin(np.abs(np.array(ordered) - inner.params[name])))
    ends = ordered[max(i - 1, 0)], ordered[min(i + 1, len(ordered) - 1)]
    space = np.geomspace if ordered[0] > 0 else np.linspace
    return [*space(*ends, _GRID)]


def _fits(
    cls: type[CatalogMap], values: Values, theta: Floats, needed: Floats, seen: Floats, image: bool
) -> Iterator[Fit]:
    fitted = sum(len(tried) > 1 for tried in values.values())
    for chosen in itertools.product(*values.values()):
        try:
            m: Map = cls(**dict(zip(values, map(float, chosen), strict=True)))
        except ValueError:
            continue  # not a valid parameter: a power of zero
        if image:
            m = mirror(m)
        low, high = m.domain
        if not ((needed > low) & (needed < high)).all():
            continue
        z = forward(needed, m, invalid="nan")
        if not np.isfinite(z).all() or not np.ptp(z[: theta.size]) > 0:
            continue
        z = z[: theta.size]
        if not (np.abs(seen @ _standard(z)) > 1 - _SAME).any():
            yield Fit(m, fitted, z)


def _best(fits: Sequence[Fit], score: Scorer) -> tuple[Candidate, Fit] | None:
    if not fits:
        return None
    scores = np.asarray(score(fits), np.float64)
    if np.isnan(scores).all():
        return None
    i = int(np.nanargmax(scores))
    return Candidate(fits[i].map, float(scores[i]), fits[i].fitted), fits[i]


def _standard(z: Floats) -> Any:
    """z with mean 0 and length 1: products of such are correlations."""
    z = (z - z.mean()) / np.ptp(z)
    return z / np.linalg.norm(z)
