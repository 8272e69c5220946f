"""`Circular`: angles and other numbers that come round again."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from fastmap._map import register
from fastmap._numpy_map import Floats, NumPyMap


class Circular(NumPyMap):
    """Periodic numbers: z is theta on [low, high], and any other z is as many turns away.

    A search that crosses one end comes back at the other; there is no wall between two neighbouring angles.

    Parameters
    ----------
    low, high : float, optional
        One turn; default -pi to pi.

    Raises
    ------
    ValueError
        ``low >= high``, or an end that is not finite.

    Notes
    -----
    It is folded: z and z + high - low give the same theta, so that it is not one-to-one, and
    forward(inverse(z)) is z less whole turns. forward takes both ends, inverse gives [low, high). All
    derivatives are those of the identity.

    The period is high - low in float64. What is left after whole turns is exact for every finite z, by a loop
    over the digits of z (``fmod``), which a kernel without branches cannot have: therefore NumPy evaluates
    it. With low = -high inverse is exact, else within one ULP of the larger bound, before it is rounded to
    the dtype. No native step, no bfloat16 and no place in a `Chain`, as for `Table`.

    Examples
    --------
    >>> fm.inverse(7.0, fm.Circular())  # 7 - 2 pi
    0.7168146928204138
    >>> fm.Space(angle=fm.Param(map="circular"), hour=fm.Param(map=fm.Circular(0, 24)))
    """

    __slots__ = ("high", "low")

    folded: ClassVar[bool] = True
    closed: ClassVar[bool] = True
    low: float
    high: float

    def __init__(self, low: float = -math.pi, high: float = math.pi) -> None:
        low, high = float(low), float(high)
        if not (low < high and math.isfinite(high - low)):
            raise ValueError(f"low, high: expected finite ends of one turn in order, got {(low, high)}")
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)
        super().__init__((low, high), (low, high))

    def formula(self, op: str, x: Floats) -> Floats:
        if op == "forward":
            return x
        if op != "inverse":
            return np.full_like(x, op == "jacobian")
        turn = self.high - self.low
        rest = np.fmod(x, turn)  # exact
        theta = rest + np.ceil((self.low - rest) / turn) * turn
        # Where rounding led across an end.
        theta = np.where(theta < self.low, theta + turn, theta)
        theta = np.where(theta >= self.high, np.maximum(theta - turn, self.low), theta)
        return np.where((x >= self.low) & (x < self.high), x, theta)

    def _ends(self, which: str) -> tuple[float, float]:
        return self.theta_ends if which == "domain" else (-math.inf, math.inf)

    @property
    def name(self) -> str:
        return "circular"

    def to_json(self) -> dict[str, Any]:
        return {"map": "circular", "low": self.low, "high": self.high}

    def _key(self) -> tuple[Any, ...]:
        return self.low, self.high

    def __repr__(self) -> str:
        return f"Circular(low={self.low!r}, high={self.high!r})"


register(Circular())
