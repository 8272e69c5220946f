"""`Table`: a monotonic map through given points, or fitted to the quantiles of data."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fastmap._map import named
from fastmap._numpy_map import Floats, NumPyMap


class Table(NumPyMap):
    """A smooth monotonic map through knots: a rational-quadratic spline, linear beyond the ends.

    Parameters
    ----------
    x : array_like
        Knots of theta, at least two, strictly increasing.
    y : array_like
        z at the knots, strictly increasing or decreasing.
    slopes : array_like, optional
        dz/dtheta at the knots, of the sign of the direction. Default: from the neighbouring secants (their
        weighted harmonic mean; at the ends extrapolated), which keeps the map close to the polygon.

    Raises
    ------
    ValueError
        Knots that are not finite, too few, not in order or twice there; slopes of the wrong sign. The error
        names the argument and the first index.

    Notes
    -----
    Domain and codomain are all numbers: beyond the knots the map goes on with the slopes at the ends. It is
    once differentiable everywhere, and log|dz/dtheta| is continuous. NumPy evaluates it by correctly rounded
    operations and `Log` alone, so that its bits are the same everywhere; it is far slower than a map of the
    catalog. It has a JSON form, but no native step (`fastmap.torch.Mapped` takes it), no bfloat16 and no
    place in a `Chain`. Its accuracy is audited, not promised.

    Rational-quadratic interpolation: Gregory and Delbourgo, Piecewise rational quadratic interpolation to
    monotonic data, IMA Journal of Numerical Analysis 2 (1982). Its stable inverse, and it as a bijection:
    Durkan, Bekasov, Murray and Papamakarios, Neural spline flows, NeurIPS 2019.

    Examples
    --------
    >>> by_rank = fm.Table.from_samples(rates)  # equal steps of z: equally many samples
    >>> fm.Param(1e-5, 1e-1, map=fm.Table([1e-5, 1e-3, 1e-1], [0, 3, 4]))
    """

    __slots__ = ("slopes", "x", "y")

    x: Floats
    y: Floats
    slopes: Floats

    def __init__(self, x: ArrayLike, y: ArrayLike, slopes: ArrayLike | None = None) -> None:
        arrays = {"x": _knots("x", x), "y": _knots("y", y)}
        if (n := arrays["x"].size) < 2:
            raise ValueError(f"x: a table needs at least two knots, got {n}")
        if arrays["y"].size != n:
            raise ValueError(f"y: has {arrays['y'].size} knots, x has {n}")
        sign = 1.0 if arrays["y"][-1] > arrays["y"][0] else -1.0
        for name, direction in (("x", 1.0), ("y", sign)):
            _first(np.diff(arrays[name], prepend=-direction * np.inf) * direction > 0, name, _ORDER[name])
        with np.errstate(over="ignore"):
            secants = np.diff(arrays["y"]) / np.diff(arrays["x"])
        _first(
            np.isfinite(secants) & (secants != 0), "y", "the slope of the table after this knot is no number"
        )
        d = _slopes(np.diff(arrays["x"]), secants) if slopes is None else _knots("slopes", slopes)
        if d.size != n:
            raise ValueError(f"slopes: has {d.size} knots, x has {n}")
        _first(np.isfinite(d) & (d * sign > 0), "slopes", "must have the sign in which y goes, and not be 0")
        for name, array in {**arrays, "slopes": d}.items():
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        super().__init__((-np.inf, np.inf), (-sign * np.inf, sign * np.inf))

    @staticmethod
    def from_samples(
        samples: ArrayLike, knots: int = 16, *, target: Literal["uniform", "normal"] = "uniform"
    ) -> Table:
        """The table that takes data to a uniform or normal distribution: their quantiles become its knots.

        Parameters
        ----------
        samples : array_like
            Data, of any shape; at least two different values.
        knots : int, optional
            How many quantiles are kept, evenly spaced in z. Of equal ones one remains.
        target : {"uniform", "normal"}, optional
            z is the share of samples below theta, or the standard normal quantile of it.

        Raises
        ------
        ValueError
            Samples that are not finite (the error names the first index) or all equal, fewer than two knots,
            another target.
        """
        if target not in ("uniform", "normal"):
            raise ValueError(f"target: expected 'uniform' or 'normal', got {target!r}")
        if knots < 2:
            raise ValueError(f"knots: a table needs at least two, got {knots}")
        data = _knots("samples", np.ravel(np.asarray(samples, np.float64)))
        if not data.size or data.min() == data.max():
            raise ValueError("samples: a table needs at least two different values")
        scale = named("probit" if target == "normal" else "identity")
        # Hazen's quantiles: the k-th of n has the share (k - 1/2)/n below it.
        first, last = np.asarray(scale.forward(np.array([0.5, data.size - 0.5]) / data.size))
        z = np.linspace(first, last, knots)
        shares = np.clip(np.asarray(scale.inverse(z)), 0, 1)
        theta, place = np.unique(np.quantile(data, shares, method="hazen"), return_inverse=True)
        return Table(theta, np.bincount(place, z) / np.bincount(place))

    def formula(self, op: str, x: Floats) -> Floats:
        if op == "inverse":
            return self._back(x, self._bins(x, self.y))
        bins = self._bins(x, self.x)
        nearest = np.where(x < self.x[0], self.x[0], self.x[-1])
        tail = (x < self.x[0]) | (x > self.x[-1])
        at = np.where(tail, nearest, x)
        xi = (at - bins.x) / bins.width
        rest = 1 - xi
        both = xi * rest
        bend = bins.d0 + bins.d1 - 2 * bins.secant
        bottom = bins.secant + bend * both
        if op == "forward":
            y = bins.y + bins.height * (xi * (bins.secant * xi + bins.d0 * rest) / bottom)
            slope = np.where(x < self.x[0], self.slopes[0], self.slopes[-1])
            end = np.where(x < self.x[0], self.y[0], self.y[-1])
            return np.where(tail, end + slope * (x - nearest), y)
        top = bins.d1 * xi * xi + 2 * bins.secant * both + bins.d0 * rest * rest
        if op == "jacobian":
            ratio = bins.secant / bottom
            slope = np.where(x < self.x[0], self.slopes[0], self.slopes[-1])
            return np.where(tail, slope, ratio * ratio * top)
        d_top = 2 * (bins.d1 * xi + bins.secant * (rest - xi) - bins.d0 * rest)
        grad = (d_top / top - 2 * bend * (rest - xi) / bottom) / bins.width
        return np.where(tail, 0.0, grad)

    def _back(self, z: Floats, bins: _Bins) -> Floats:
        rising = self.y[-1] > self.y[0]
        before = z < self.y[0] if rising else z > self.y[0]
        after = z > self.y[-1] if rising else z < self.y[-1]
        up = np.where(before | after, 0.0, z - bins.y)
        bend = bins.d0 + bins.d1 - 2 * bins.secant
        a = bins.height * (bins.secant - bins.d0) + up * bend
        b = bins.height * bins.d0 - up * bend
        c = -bins.secant * up
        xi = np.clip(2 * c / (-b - np.sqrt(np.maximum(b * b - 4 * a * c, 0))), 0, 1)
        theta = bins.x + bins.width * xi
        for tail, end in ((before, 0), (after, -1)):
            theta = np.where(tail, self.x[end] + (z - self.y[end]) / self.slopes[end], theta)
        return theta

    def _bins(self, values: Floats, knots: Floats) -> _Bins:
        """The bin of each value."""
        inner = knots[1:-1]
        i = (
            np.searchsorted(inner, values, "right")
            if knots[-1] > knots[0]
            else np.searchsorted(-inner, -values)
        )
        width, height = np.diff(self.x), np.diff(self.y)
        of_bins = (self.x[:-1], self.y[:-1], width, height, height / width, self.slopes[:-1], self.slopes[1:])
        return _Bins(*(column[i] for column in of_bins))

    @property
    def name(self) -> str:
        return "table"

    def to_json(self) -> dict[str, Any]:
        return {"map": "table", "x": self.x.tolist(), "y": self.y.tolist(), "slopes": self.slopes.tolist()}

    def _key(self) -> tuple[Any, ...]:
        return self.x, self.y, self.slopes

    def __repr__(self) -> str:
        first, last = (f"({self.x[i]:g}, {self.y[i]:g})" for i in (0, -1))
        return f"Table({self.x.size} knots from {first} to {last})"


class _Bins(NamedTuple):
    """Constants of the bins in which elements lie."""

    x: Floats
    y: Floats
    width: Floats
    height: Floats
    secant: Floats
    d0: Floats
    d1: Floats


_ORDER = {
    "x": "must be above the knot before it",
    "y": "must go on in the direction from the first to the last knot",
}


def _knots(name: str, values: ArrayLike) -> Floats:
    try:
        array = np.array(values, np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected numbers, got {type(values).__name__}") from None
    if array.ndim != 1:
        raise ValueError(f"{name}: expected one dimension, got shape {array.shape}")
    _first(np.isfinite(array), name, "must be finite", array)
    return array


def _first(right: Any, name: str, text: str, values: Any = None) -> None:
    """ValueError for the first index that is not right."""
    if not right.all():
        i = int(right.argmin())
        value = "" if values is None else f", got {values[i]}"
        raise ValueError(f"{name}: {text}{value}, first at index {i}")


def _slopes(width: Floats, secants: Floats) -> Floats:
    """Slopes at the knots: harmonic means of the neighbouring secants, the nearer one with more weight."""
    before, after = secants[:-1], secants[1:]
    w = width[:-1] / (width[:-1] + width[1:])
    inner = before * after / ((1 - w) * after + w * before)
    if not inner.size:
        return np.repeat(secants, 2)
    return np.concatenate(
        [[secants[0] / inner[0] * secants[0]], inner, [secants[-1] / inner[-1] * secants[-1]]]
    )
