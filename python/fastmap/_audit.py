"""`audit`: what a map costs on one very buffer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastmap import _functional, _native
from fastmap._functional import Array
from fastmap._map import Chain, Map, MapLike, Sliced, resolve
from fastmap._structured import StructuredMap
from fastmap.maps import CLASSES

QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)
_BLOCK = 1 << 18  # elements worked on at a time: temporaries stay small
_SAMPLE = 1 << 20  # quantiles of larger buffers come from evenly spaced elements


@dataclass(frozen=True)
class Found:
    """How many elements have a property, and the index of the first (None: no element)."""

    count: int
    first: tuple[int, ...] | None


@dataclass(frozen=True)
class Audit:
    """The error report of `audit`.

    Attributes
    ----------
    map : Map
        What was audited.
    size : int
        Elements of the buffer; ``dtype`` is theirs.
    not_finite, out_of_domain, subnormal, saturated : Found
        theta that are infinite or NaN; finite but not in the open domain; subnormal; and those in the domain
        that come back as a bound of it, or whose dtheta/dz vanishes: the search cannot move them.
    round_trip_ulp, round_trip_absolute : dict of float
        f⁻¹(f(theta)) against theta, over the elements in the domain: quantiles 0.5 and 0.95 and the
        maximum, in ULP of theta and in its unit.
    distortion : dict of float
        Quantiles of |dz/dtheta| over the elements in the domain: how far apart equal steps of theta lie in z.
    recommendation : str
        What to do, in plain words.
    """

    map: Map
    size: int
    dtype: str
    not_finite: Found
    out_of_domain: Found
    subnormal: Found
    saturated: Found
    round_trip_ulp: dict[str, float]
    round_trip_absolute: dict[str, float]
    distortion: dict[str, float]
    recommendation: str

    def __str__(self) -> str:
        lines = [f"{self.map!r} on {self.size} {self.dtype} values"]
        for label, found in (
            ("not finite", self.not_finite),
            ("out of domain", self.out_of_domain),
            ("subnormal", self.subnormal),
            ("saturated", self.saturated),
        ):
            where = "" if found.first is None else f", first at {_index(found.first)}"
            lines.append(f"  {label:14}{found.count}{where}")
        for label, values in (
            ("round trip", self.round_trip_ulp),
            ("", self.round_trip_absolute),
            ("|dz/dtheta|", self.distortion),
        ):
            unit = " (ULP)" if values is self.round_trip_ulp else ""
            shown = "  ".join(f"{name} {value:.3g}" for name, value in values.items())
            lines.append(f"  {label:14}{shown}{unit}")
        return "\n".join([*lines, f"  {self.recommendation}"])


def audit(theta: Array, map: MapLike) -> Audit:
    """Report the error, saturation and distortion of a map on this very buffer.

    Parameters
    ----------
    theta : array, tensor or number
        float32 or float64; nothing is written and no temporary of its size is made (where the parameters of
        the map are arrays, blocks have at least one row of the first axis). Values outside the domain are
        counted, not refused.
    map : Map, str or Space
        The map f.

    Returns
    -------
    Audit
        Prints as a short table.
    """
    m = resolve(map)
    if isinstance(m, StructuredMap):
        raise TypeError(f"map: {m!r} maps whole rows; audit measures elementwise maps")
    if hasattr(theta, "detach"):
        theta = theta.detach().numpy()
    x = _native.as_array(theta, "theta")
    counts = {name: _Counter(x.shape) for name in ("not_finite", "out_of_domain", "subnormal", "saturated")}
    stride = max(1, math.ceil(x.size / _SAMPLE))
    ulps, absolutes, slopes = [], [], []
    worst_ulp = worst_absolute = 0.0
    steepest, flattest = 0.0, math.inf
    for part, block, start in _blocks(m, x):
        low, high = part.domain
        finite = np.isfinite(block)
        inside = finite & (block > low) & (block < high)
        counts["not_finite"].add(~finite, start)
        counts["out_of_domain"].add(finite & ~inside, start)
        tiny = np.finfo(block.dtype).smallest_normal
        counts["subnormal"].add((block != 0) & (np.abs(block) < tiny), start)
        z = _functional.elementwise("forward", "theta", block, part, None, "nan")
        back = _functional.elementwise("inverse", "z", z, part, None, "nan")
        back_slope = _functional.elementwise("inverse_jacobian", "z", z, part, None, "nan")
        stuck = (back == low) | (back == high) | (back_slope == 0)
        counts["saturated"].add(inside & stuck, start)
        kept = block[inside]
        if not kept.size:
            continue
        slope = _functional.elementwise("jacobian", "theta", block, part, None, "nan")
        slope = np.abs(slope[inside]).astype(np.float64)
        absolute = np.abs(back[inside].astype(np.float64) - kept)
        ulp = absolute / np.spacing(np.abs(kept))
        worst_ulp, worst_absolute = max(worst_ulp, ulp.max()), max(worst_absolute, absolute.max())
        steepest, flattest = max(steepest, slope.max()), min(flattest, slope.min())
        ulps.append(ulp[::stride])
        absolutes.append(absolute[::stride])
        slopes.append(slope[::stride])
    found = {name: counter.found() for name, counter in counts.items()}
    errors = [_quantiles(values, (0.5, 0.95)) for values in (ulps, absolutes)]
    errors[0]["max"], errors[1]["max"] = float(worst_ulp), float(worst_absolute)
    spread = {"min": float(flattest), **_quantiles(slopes, (0.05, 0.5, 0.95)), "max": float(steepest)}
    if not slopes:
        spread = dict.fromkeys(spread, math.nan)
    return Audit(
        map=m,
        size=x.size,
        dtype=x.dtype.name,
        **found,
        round_trip_ulp=errors[0],
        round_trip_absolute=errors[1],
        distortion=spread,
        recommendation=_recommendation(m, x, found, spread),
    )


def _blocks(m: Map, x: Any, start: int = 0) -> Iterator[tuple[Map, Any, int]]:
    """x in contiguous blocks with their maps and where they start in its C order."""
    if isinstance(m, Sliced):
        for part, index, shape in m.parts():
            offset = index.start if isinstance(index, slice) else 0
            yield from _blocks(part, _native.view(x, index, shape), start + offset)
    elif not m.shape:
        flat = x.reshape(-1)  # a view where the layout allows one
        for i in range(0, flat.size, _BLOCK):
            yield m, np.ascontiguousarray(flat[i : i + _BLOCK]), start + i
    else:
        _native.row_strides(m, x.shape, "theta")
        row = x.size // max(1, len(x))
        step = max(1, _BLOCK // max(1, row))
        for i in range(0, len(x), step):
            rows = slice(i, i + step)
            yield _of_rows(m, x.ndim, rows), np.ascontiguousarray(x[rows]), start + i * row


def _of_rows(m: Map, ndim: int, rows: slice) -> Map:
    """The map of x[rows] for buffers x of `ndim` dimensions."""
    maps: list[Map] = []
    for number, inverted, values in m.steps:
        here = (v[rows] if isinstance(v, np.ndarray) and v.ndim == ndim and len(v) > 1 else v for v in values)
        link = CLASSES[number](*here)
        maps.append(link.inv if inverted else link)
    return Chain(*maps)


class _Counter:
    """Counts elements by block; remembers the first."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape, self.count, self.first = shape, 0, -1

    def add(self, mask: Any, start: int) -> None:
        here = int(np.count_nonzero(mask))
        if here and not self.count:
            self.first = start + int(mask.argmax())
        self.count += here

    def found(self) -> Found:
        if not self.count:
            return Found(0, None)
        return Found(self.count, tuple(int(i) for i in np.unravel_index(self.first, self.shape)))


def _quantiles(parts: list[Any], levels: tuple[float, ...]) -> dict[str, float]:
    names = [f"{level:.0%}" for level in levels]
    if not parts:
        return dict.fromkeys(names, math.nan)
    values = np.quantile(np.concatenate(parts), levels)
    return {name: float(value) for name, value in zip(names, values, strict=True)}


def _recommendation(m: Map, x: Any, found: dict[str, Found], spread: dict[str, float]) -> str:
    if found["not_finite"].count:
        return "Repair the values that are not finite first: no map takes them."
    if found["out_of_domain"].count:
        signed = bool(np.all(np.asarray(m.domain[0]) >= 0)) and bool((x < 0).any())
        hint = "SymLog or Asinh take signed values" if signed else "take a map whose domain holds the values"
        return f"This map is not defined for {found['out_of_domain'].count} values: {hint}."
    if found["saturated"].count:
        share = found["saturated"].count / max(x.size, 1)
        return (
            f"{share:.2%} of the values sit on a bound after the round trip and hardly move in z: "
            "keep z as the master copy, or use float64."
        )
    if spread["95%"] < 1.5 * spread["5%"]:
        return "The map is close to linear here: expect little from it."
    return "The map is safe here."


def _index(index: tuple[int, ...]) -> str:
    return str(index[0]) if len(index) == 1 else str(index)
