"""Maps whose formulas NumPy evaluates, block by block in float64: `Custom`, `Table` and `Circular`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fastmap._map import Map, named

Floats = NDArray[np.float64]
_BLOCK = 1 << 16  # elements evaluated at a time: temporaries stay small
_RAISE, _NAN, _CLIP = range(3)  # the native codes of the policies


class NumPyMap(Map):
    """A map that NumPy evaluates. It is elementwise, like every map; the engine's programs cannot contain it.

    Formulas see float64; results in other dtypes are rounded once.
    """

    __slots__ = ("theta_ends", "z_ends")

    noun: ClassVar[str] = "a map that NumPy evaluates (Custom, Table, Circular)"
    folded: ClassVar[bool] = False  # inverse takes every finite z: the map is not one-to-one
    closed: ClassVar[bool] = False  # whether the ends belong to the domain
    theta_ends: tuple[float, float]  # the domain
    z_ends: tuple[float, float]  # z at both

    def __init__(self, theta_ends: tuple[float, float], z_ends: tuple[float, float]) -> None:
        set_field = object.__setattr__
        set_field(self, "steps", ())
        set_field(self, "shape", ())
        set_field(self, "program", None)
        set_field(self, "theta_ends", theta_ends)
        set_field(self, "z_ends", z_ends)

    @abstractmethod
    def formula(self, op: str, x: Floats) -> Floats:
        """ "forward", "inverse", "jacobian" or "log_abs_det_grad" of an array of its own."""

    @property
    def increasing(self) -> bool:
        return self.z_ends[0] < self.z_ends[1]

    def _ends(self, which: str) -> tuple[float, float]:
        return self.theta_ends if which == "domain" else (min(self.z_ends), max(self.z_ends))

    def _evaluate(self, op: str, x: Floats) -> Floats:
        """Any operation of the engine, from the four formulas."""
        with np.errstate(all="ignore"):
            if not op.startswith("inverse"):
                if op != "log_abs_det":
                    return self.formula(op, x)
                return _log(self.formula("jacobian", x))
            theta = np.clip(self.formula("inverse", x), *self.domain)
            if op == "inverse":
                return theta
            slope = self.formula("jacobian", theta)
            if op == "inverse_jacobian":
                return 1 / slope
            if op == "inverse_log_abs_det":
                return -_log(slope)
            return -self.formula("log_abs_det_grad", theta) / slope

    def invalid(self, op: str, x: NDArray[Any], policy: int) -> tuple[int, int]:
        """How many elements a call must refuse, and the first of them in C order."""
        count, first, start = 0, -1, 0
        if policy == _NAN:
            return count, first
        for (block,) in _blocks([x], order="C"):
            folds = self.folded and op.startswith("inverse")  # then there is nothing to clip to
            bad = np.isnan(block) if policy == _CLIP and not folds else self._outside(op, block)
            if bad.any():
                first = first if count else start + int(bad.argmax())
                count += int(np.count_nonzero(bad))
            start += block.size
        return count, first

    def _outside(self, op: str, x: Floats) -> NDArray[np.bool_]:
        backwards = op.startswith("inverse")
        if backwards and self.folded:
            return np.asarray(~np.isfinite(x))
        low, high = self.codomain if backwards else self.domain
        inside = (x >= low) & (x <= high) if backwards or self.closed else (x > low) & (x < high)
        return np.asarray(~inside)

    def apply(
        self, op: str, x: NDArray[Any], grad: NDArray[Any] | None, out: NDArray[Any], policy: int
    ) -> None:
        """out = op(x), times grad; what `invalid` counts has been refused."""
        inputs = [x] if grad is None else [x, grad]
        for block, *grads, result in _blocks([*inputs, out], writes=True):
            values = self._values(op, block, x.dtype, policy)
            result[...] = values * grads[0] if grads else values

    def _values(self, op: str, x: Floats, dtype: np.dtype[Any], policy: int) -> Floats:
        backwards = op.startswith("inverse")
        ends = self.codomain if backwards else self.domain
        if policy == _CLIP:
            x = np.clip(x, *(ends if backwards else _rounded_inwards(ends, dtype, closed=self.closed)))
        bad = self._outside(op, x)
        values = self._evaluate(op, np.where(bad, _between(*ends), x))
        values[bad] = np.nan
        if op == "inverse":
            low, high = self.domain
            at_low, at_high = (low, high) if self.increasing else (high, low)
            if not self.folded:
                values = np.where(x == ends[0], at_low, np.where(x == ends[1], at_high, values))
            values = np.clip(values, *_rounded_inwards((low, high), dtype, closed=True))
        elif op == "forward":
            at_low, at_high = self.z_ends
            values = np.where(x == ends[0], at_low, np.where(x == ends[1], at_high, values))
        return values

    def sums(self, op: str, x: NDArray[Any], rows: int, policy: int) -> Floats:
        """Sums of op over consecutive elements of x in C order, as many for each of `rows`."""
        sums, start = np.zeros(rows), 0
        length = x.size // rows if rows else 0
        for (block,) in _blocks([x], order="C"):
            values = self._values(op, block, x.dtype, policy)
            first, last = start // length, (start + block.size - 1) // length
            cuts = np.maximum(np.arange(first, last + 1) * length - start, 0)
            sums[first : last + 1] += np.add.reduceat(values, cuts)
            start += block.size
        return sums


def _blocks(arrays: Sequence[NDArray[Any]], order: Any = "K", writes: bool = False) -> Iterator[Any]:
    """The arrays in blocks of float64, the last one to be written to."""
    if not arrays[0].size:
        return
    flags: Any = [["readonly"]] * len(arrays)
    if writes:
        flags[-1] = ["writeonly"]
    iterator = np.nditer(
        list(arrays),
        flags=["external_loop", "buffered"],
        op_flags=flags,
        op_dtypes=np.dtype(np.float64),
        order=order,
        casting="same_kind",
        buffersize=_BLOCK,
    )
    with iterator, np.errstate(over="ignore"):  # a result that its dtype cannot hold is infinite
        for block in iterator:
            parts = block if isinstance(block, tuple) else (block,)
            for start in range(0, len(parts[0]), _BLOCK):  # without a buffer all of an array is one block
                yield [part[start : start + _BLOCK] for part in parts]


def _log(slope: Floats) -> Floats:
    """log|slope| by the engine: its bits are the same everywhere."""
    return np.asarray(named("log").forward(np.abs(slope), invalid="nan"))


def _between(low: float, high: float) -> float:
    """A number inside an interval."""
    if np.isfinite(low) and np.isfinite(high):
        return low / 2 + high / 2
    return low + 1 if np.isfinite(low) else high - 1 if np.isfinite(high) else 0.0


def _rounded_inwards(ends: tuple[float, float], dtype: np.dtype[Any], *, closed: bool) -> tuple[float, float]:
    """The first and the last number of a dtype in an interval; of open ones the last finite."""
    result = []
    for end, inwards in zip(ends, (np.inf, -np.inf), strict=True):
        with np.errstate(over="ignore"):
            near = np.asarray(end).astype(dtype)
        past = (float(near) - end) * inwards < 0 if np.isfinite(near) else float(near) != end
        if past or (not closed and float(near) == end):
            near = np.nextafter(near, dtype.type(inwards))
        result.append(float(near))
    return result[0], result[1]
