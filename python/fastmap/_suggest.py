"""`suggest`: which map, how sure, and why; identity where the evidence says nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastmap._candidates import Candidate, Floats, ranked
from fastmap._functional import log_abs_det
from fastmap._map import Map
from fastmap.constraints import default_map, mirror
from fastmap.maps import Identity, Interval, Log, OneMinusLog
from fastmap.space import _WIDE

FEWEST = 10  # samples or trials below which nothing is concluded
FEWEST_DISTINCT = 5
_AIC = 4.0  # Burnham and Anderson (2002): models 4 to 7 behind the best have considerably less support
TIE = 2.0  # twice the log-likelihood: within this of the best, the plainest map is taken
_SAMPLE = 1 << 14  # larger samples are thinned evenly


@dataclass(frozen=True, repr=False)
class Suggestion:
    """What `suggest` answers.

    Attributes
    ----------
    map : Map
        With fitted parameters. Identity where the evidence does not carry another map.
    score : float
        Of that map; larger is better. `criterion` says what it counts.
    margin : float
        Its score less that of the runner-up. Near 0 or below: another map does as well (a map with nothing
        fitted is preferred among equals).
    candidates : tuple of Candidate
        The best of each kind of map, with scores, best first; empty where nothing could be compared.
    criterion : str
        What the scores are.
    reason : str
        Why this map, in plain words.
    """

    map: Map
    score: float
    margin: float
    candidates: tuple[Candidate, ...] = field(default=())
    criterion: str = ""
    reason: str = ""

    def __repr__(self) -> str:
        lines = [repr(self.map), f"  {self.reason}"]
        if self.candidates:
            lines.append(f"  {self.criterion}; margin {self.margin:.3g}")
            shown = self.candidates[:5]
            for c in (*shown, *(c for c in self.candidates[5:] if c.map in (self.map, Identity()))):
                lines.append(f"  {'>' if c.map == self.map else ' '} {c.score:10.4g}  {c.map!r}")
            if len(self.candidates) > len(shown):
                lines.append(f"    of {len(self.candidates)} kinds of maps")
        return "\n".join(lines)


def identity(why: str, current: Map | None = None) -> Suggestion:
    """The answer where there is nothing to go by: identity, or the map that is in use."""
    m = current or Identity()
    return Suggestion(m, math.nan, math.nan, reason=f"{called(m)}, because {why}.")


def called(m: Map) -> str:
    """The map as a sentence begins with it."""
    return "Identity" if m == Identity() else repr(m)


def chosen(candidates: Sequence[Candidate], winner: Candidate, criterion: str, reason: str) -> Suggestion:
    """The answer with its table."""
    others = [c.score for c in candidates if c is not winner]
    margin = winner.score - max(others, default=math.nan)  # NaN where nothing else was possible
    return Suggestion(winner.map, winner.score, margin, tuple(candidates), criterion, reason)


def suggest(
    low: float | None = None, high: float | None = None, *, samples: Any = None, gradient: bool = False
) -> Suggestion:
    """Which map suits a parameter, from its range or from samples of good values.

    Parameters
    ----------
    low, high : float, optional
        The box that is searched, in which the map has to be finite; with ``gradient=True`` the bounds that
        theta must keep.
    samples : array_like, optional
        Values of theta that did well, any shape. Those that are not finite are left out; of more than 16,384
        evenly spaced ones are taken.
    gradient : bool
        For a method that follows gradients and knows no box: the map has to remove the bounds.

    Returns
    -------
    Suggestion

    Raises
    ------
    ValueError
        ``low >= high``, a NaN bound, samples outside the bounds.
    TypeError
        samples that are no real numbers.

    Notes
    -----
    *From a range.* A score is the number of decades over which a map spreads the box evenly: log10(high/low)
    for `Log` and its mirror image, log10((1 - low)/(1 - high)) for `OneMinusLog`, for `Interval(0, 1)` twice
    that of its poorer end. Identity scores 3, the factor 1000 from which `Param` takes a logarithm as well
    (CADET-Process takes it from there; Hansen's notes on CMA-ES advise it). A box that holds 0 says nothing
    about the scale inside it: identity. With ``gradient=True`` it is the map of `default_map`.

    *From samples.* The profile log-likelihood of normal z (Box and Cox, 1964),
    -n/2 log var f(theta) + sum log abs dz/dtheta, for every map of the catalog that takes the samples.
    A score is the gain in Akaike's criterion over identity, two per fitted parameter deducted. A map is
    suggested above 4; within 2 of the best, the one with fewer fitted parameters and earlier in the catalog.
    Scales are fitted between the 5 % quantile and the maximum of abs theta.

    Examples
    --------
    >>> fm.suggest(1e-6, 1.0).map
    Log(low=0.0)
    """
    bounds = _checked_bounds(low, high)
    if samples is None:
        return _from_bounds(bounds) if gradient else _from_range(bounds)
    try:
        x = np.asarray(samples)
        if x.dtype.kind not in "iuf":
            raise TypeError
        x = x.astype(np.float64).ravel()
    except (TypeError, ValueError):
        raise TypeError("samples: expected an array of real numbers") from None
    x = x[np.isfinite(x)]
    for name, bound in bounds.items():
        beyond = int((x < bound if name == "low" else x > bound).sum())
        if beyond:
            raise ValueError(f"samples: {beyond} of them lie beyond {name} = {bound:g}")
    x = x[:: max(1, math.ceil(x.size / _SAMPLE))]
    return _from_samples(x, bounds, gradient)


def _checked_bounds(low: float | None, high: float | None) -> dict[str, float]:
    """Those of the two that are given and finite."""
    for name, bound in (("low", low), ("high", high)):
        if bound is not None and math.isnan(bound):
            raise ValueError(f"{name}: must not be NaN")
    if low is not None and high is not None and not low < high:
        raise ValueError(f"high: must be above low = {low}, got {high}")
    pairs = (("low", low), ("high", high))
    return {name: float(bound) for name, bound in pairs if bound is not None and math.isfinite(bound)}


def _from_bounds(bounds: Mapping[str, float]) -> Suggestion:
    low, high = bounds.get("low"), bounds.get("high")
    if low is not None and high is not None:
        m, what = default_map("interval", low, high), f"between {low:g} and {high:g}"
    elif low is not None:
        m, what = default_map("greater_than", low), f"above {low:g}"
    elif high is not None:
        m, what = default_map("less_than", high), f"below {high:g}"
    else:
        return identity("there is no bound to remove; samples or trials would tell more")
    return Suggestion(m, math.nan, math.nan, reason=f"It takes values {what} to all numbers: {m!r}.")


def _from_range(bounds: Mapping[str, float]) -> Suggestion:
    if len(bounds) < 2:
        return identity("a range says something about scale only if both ends are given and finite")
    low, high = bounds["low"], bounds["high"]
    found = [Candidate(Identity(), math.log10(_WIDE))]
    if low > 0:
        found.append(Candidate(Log(), math.log10(high) - math.log10(low)))
    if high < 0:
        found.append(Candidate(mirror(Log()), math.log10(-low) - math.log10(-high)))
    if low >= 0 and high < 1:
        found.append(Candidate(OneMinusLog(), math.log10(1 - low) - math.log10(1 - high)))
    if low > 0 and high < 1:
        ends = math.log10(0.5 / low), math.log10(0.5 / (1 - high))
        found.append(Candidate(Interval(0, 1), 2 * min(ends)))
    # Rounded: 0.9 to 0.9999 are three decades, whatever the last bit says.
    found = [Candidate(c.map, round(c.score, 6)) for c in found]
    best = max(found, key=lambda c: (c.score, c.map != Identity()))
    found.sort(key=lambda c: (-c.score, c is not best))
    if best.map != Identity():
        reason = f"The range covers {best.score:.2g} decades on this scale: {best.map!r}."
    elif low <= 0 <= high and not (low >= 0 and high < 1):
        reason = "Identity, because a range that holds 0 says nothing about the scale inside it."
    else:
        reason = "Identity, because no scale of this range covers three decades."
    return chosen(found, best, "score: decades spread evenly; identity copes with 3", reason)


def _from_samples(x: Floats, bounds: dict[str, float], gradient: bool) -> Suggestion:
    if why := too_poor(x, "samples"):
        return identity(why)
    n = x.size

    def criterion(m: Map, z: Floats) -> Floats:
        slopes = log_abs_det(np.broadcast_to(x, z.shape), m, axis=1)
        size = np.ptp(z, axis=1)  # squares of z over it stay finite
        variance = (z / size[:, None]).var(axis=1)
        return np.asarray(2 * slopes - n * (np.log(variance) + 2 * np.log(size)))

    found = ranked(
        x, criterion, bounds=bounds if gradient else None, box=() if gradient else [*bounds.values()]
    )
    zero = next(c.score for c, _ in found if c.map == Identity())
    table = [Candidate(c.map, c.score - zero - 2 * c.fitted, c.fitted) for c, _ in found]
    table.sort(key=lambda c: -c.score)
    best = plainest([c for c in table if c.score > table[0].score - TIE])
    if best.score > _AIC:
        reason = (
            f"Under {best.map!r} the {n} samples look most normal: Akaike's criterion gains {best.score:.3g}."
        )
    else:
        best = next(c for c in table if c.map == Identity())
        reason = f"Identity, because no map makes the {n} samples look clearly more normal."
    return chosen(table, best, "score: gain in Akaike's criterion over identity", reason)


def plainest(equals: Sequence[Candidate]) -> Candidate:
    """That with the fewest fitted parameters; the earliest in the catalog, whose order starts plainly."""
    return min(equals, key=lambda c: (c.fitted, max(number for number, _, _ in c.map.steps)))


def too_poor(x: Floats, what: str) -> str | None:
    """Why nothing can be learnt from these values."""
    if x.size < FEWEST:
        return f"{x.size} finite {what} are too few: {FEWEST} are needed"
    if np.ptp(x) == 0:
        return f"all {what} are the same"
    if np.unique(x).size < FEWEST_DISTINCT:
        return f"the {what} have fewer than {FEWEST_DISTINCT} distinct values"
    return None
