"""The maps that a suggestion chooses from: the catalog, with parameters that fit the values at hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

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


class Tried(NamedTuple):
    """Parameters of a kind of map, their score and z of the values at hand."""

    score: float
    params: dict[str, float]
    z: Floats


# From a map whose parameters have shape (k, 1), and z of shape (k, n), to k scores; NaN drops one.
Scorer: TypeAlias = Callable[[Map, Floats], Floats]


def ranked(
    theta: Floats, score: Scorer, *, bounds: Mapping[str, float] | None = None, box: Sequence[float] = ()
) -> list[tuple[Candidate, Floats]]:
    """The best map of each kind in the catalog with its z, best kind first.

    Parameters
    ----------
    theta : array of float64, shape (n,)
        Finite and not constant.
    score : callable
        See `Scorer`. Scores must not change when z goes through an affine map: kinds that are affine images
        of an earlier one (`Log2` of `Log`) are left out.
    bounds : mapping, optional
        Parameters called "low" and "high", where not those of the catalog.
    box : sequence of float
        More values that have to lie in the open domain: the ends of a search box.

    Returns
    -------
    list of (Candidate, array)
        Identity is always among them.
    """
    needed = np.concatenate([theta, np.asarray(box, np.float64)])
    seen = np.empty((0, theta.size))
    found: list[tuple[Candidate, Floats]] = []
    for cls in CLASSES:
        for image in (False, True) if needed.max() < 0 else (False,):
            grids = _grids(cls, theta, bounds or {})
            free = [name for name, values in grids.items() if len(values) > 1]
            tried = _tried(cls, grids, theta.size, needed, seen, image, score)
            if tried and len(free) == 1:
                best = max(tried, key=lambda one: one.score)
                finer = {**grids, free[0]: _between(grids[free[0]], best.params[free[0]])}
                tried += _tried(cls, finer, theta.size, needed, seen, image, score)
            if tried:
                best = max(tried, key=lambda one: one.score)
                m: Map = cls(**best.params)
                found.append((Candidate(mirror(m) if image else m, best.score, len(free)), best.z))
                seen = np.vstack([seen, _standard(np.stack([one.z for one in tried]))])
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
            sizes = np.quantile(sizes[sizes > 0], (0.01, 1.0))
            values[name] = _short(np.geomspace(sizes[0], sizes[1], _GRID) ** _UNITS[name])
        elif len(shapes) > 1:
            values[name] = sorted(set(published))
        elif min(published) > 0:
            values[name] = _short(np.geomspace(min(published), max(published), _GRID))
        else:
            values[name] = _short(np.linspace(min(published), max(published), 2 * _GRID - 1))
    return values


def _between(tried: list[float], best: float) -> list[float]:
    """Values on both sides of the best one, up to its neighbours."""
    ordered = sorted(tried)
    i = ordered.index(best)
    ends = ordered[max(i - 1, 0)], ordered[min(i + 1, len(ordered) - 1)]
    space = np.geomspace if ordered[0] > 0 else np.linspace
    return _short(space(*ends, _GRID))


def _short(values: Floats) -> list[float]:
    """Three digits: the data do not know more."""
    return [*dict.fromkeys(float(f"{v:.3g}") for v in values)]


def _tried(
    cls: type[CatalogMap], grids: Values, n: int, needed: Floats, seen: Floats, image: bool, score: Scorer
) -> list[Tried]:
    """The parameters whose maps hold all that is needed and differ from all that was seen, with scores."""
    rows = [dict(zip(grids, chosen, strict=True)) for chosen in itertools.product(*grids.values())]
    try:
        m = _stacked(cls, rows, image)
    except ValueError:  # a power of zero, for instance
        rows = [row for row in rows if _valid(cls, row)]
        if not rows:
            return []
        m = _stacked(cls, rows, image)
    low, high = m.domain
    z = forward(np.tile(needed, (len(rows), 1)), m, invalid="nan")
    good = np.asarray(((needed > low) & (needed < high) & np.isfinite(z)).all(axis=1))
    z = z[:, :n]
    good[good] = np.ptp(z[good], axis=1) > 0
    good[good] = ~(np.abs(_standard(z[good]) @ seen.T) > 1 - _SAME).any(axis=1)
    if not good.any():
        return []
    rows, z = [rows[i] for i in np.flatnonzero(good)], z[good]
    scores = score(_stacked(cls, rows, image), z)
    return [Tried(float(s), *rest) for s, *rest in zip(scores, rows, z, strict=True) if not math.isnan(s)]


def _stacked(cls: type[CatalogMap], rows: list[dict[str, float]], image: bool) -> Map:
    """One map for all the parameters, of shape (k, 1)."""
    m: Map = cls(**{name: np.array([[row[name]] for row in rows]) for name in rows[0]})
    return mirror(m) if image else m


def _valid(cls: type[CatalogMap], row: dict[str, float]) -> bool:
    try:
        cls(**row)
    except ValueError:
        return False
    return True


def _standard(z: Floats) -> Floats:
    """Rows with mean 0 and length 1: products of such are correlations."""
    z = (z - z.mean(axis=1, keepdims=True)) / np.ptp(z, axis=1)[:, None]
    return np.asarray(z / np.linalg.norm(z, axis=1)[:, None])
