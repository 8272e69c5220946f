"""`Custom`: a map from Python callables, checked when it is made."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from fastmap._extras import need
from fastmap._numpy_map import Floats, NumPyMap

Function = Callable[[Any], Any]

_LEVELS = 10  # of Ridders' method: its steps shrink from 1/4 to 1e-6
_RELATIVE = 1e-5  # what derivatives and round trips may be off: a wrong formula is off by far more
_EPS = float(np.finfo(np.float64).eps)


class Custom(NumPyMap):
    """A map from callables of your own.

    Parameters
    ----------
    forward, inverse : callable
        z = forward(theta) and theta = inverse(z): strictly increasing or decreasing, elementwise, from a
        one-dimensional float64 array to one of the same shape. Buffers of other types are handed over as
        float64, block by block, and the results rounded once.
    jacobian : callable, optional
        dz/dtheta at theta, in the same way. Default: differences of `forward` (Ridders' method, 20
        evaluations of it; about ten digits where it is smooth), or autograd where ``tensors=True``.
    domain : tuple of float, optional
        The open interval of theta, possibly infinite.
    codomain : tuple of float, optional
        The open interval of z. Default: from `forward` at the ends of the domain.
    tensors : bool, optional
        The callables take and return torch tensors instead of arrays. Then all derivatives come from
        autograd, the second ones that ``log_abs_det(...).backward()`` needs among them.

    Raises
    ------
    TypeError
        What is not callable.
    ValueError
        On points spread through the domain `forward` is not elementwise, not finite or not strictly
        monotonic, `inverse` does not undo it, or `jacobian` differs from its slope; the error names the first
        such theta. Points are a sample: that the check passes proves nothing about the rest.

    Notes
    -----
    It works wherever a map does, except where the engine needs a formula of its own: in a `Chain`, inverted
    (``.inv``; swap the callables), in the native optimizers (`fastmap.torch.Mapped` takes it), in bfloat16
    and under ``torch.compile``. It has no JSON form, so that searches with it are not stored; it is picklable
    if its callables are. Two are equal if their callables are. Its accuracy is that of the callables: `audit`
    measures it.

    The differences: C. J. F. Ridders, Accurate computation of F'(x) and F'(x)F''(x), Advances in Engineering
    Software 4 (1982).

    Examples
    --------
    >>> cube = fm.Custom(lambda t: t**3, np.cbrt, lambda t: 3 * t**2, domain=(0, np.inf))
    """

    __slots__ = ("functions", "tensors")

    names: ClassVar[tuple[str, ...]] = ("forward", "inverse", "jacobian")
    functions: tuple[Any, Any, Any]  # in the order of `names`; without a jacobian None
    tensors: bool

    def __init__(
        self,
        forward: Function,
        inverse: Function,
        jacobian: Function | None = None,
        domain: tuple[float, float] = (-math.inf, math.inf),
        codomain: tuple[float, float] | None = None,
        tensors: bool = False,
    ) -> None:
        functions = (forward, inverse, jacobian)
        for name, function in zip(self.names, functions, strict=True):
            if not callable(function) and not (name == "jacobian" and function is None):
                raise TypeError(f"{name}: expected a callable, got {type(function).__name__}")
        set_field = object.__setattr__
        set_field(self, "functions", functions)
        set_field(self, "tensors", bool(tensors))
        theta = _interval("domain", domain)
        points = _spread(*theta)
        with np.errstate(all="ignore"):
            if codomain is None:
                first, last = self._call("forward", np.array(theta)).tolist()
            else:
                first, last = _interval("codomain", codomain)
                if not np.less(*self._call("forward", points[[0, -1]])):
                    first, last = last, first
        if math.isnan(first) or math.isnan(last) or first == last:
            raise ValueError(
                f"codomain: forward gives {first:g} and {last:g} at the ends of the domain {theta}, between "
                "which there is nothing; is the domain right? else give the codomain"
            )
        super().__init__(theta, (first, last))
        self._check(points)

    def formula(self, op: str, x: Floats) -> Floats:
        if op == "jacobian" and self.functions[2] is None:
            return self._autograd(x, slope_of_log=False) if self.tensors else self._differences(x)[0]
        if op == "log_abs_det_grad":
            if not self.tensors:
                raise NotImplementedError(
                    "Custom: the derivative of log_abs_det needs second derivatives, of which differences of "
                    "NumPy callables keep too few digits; give torch callables and tensors=True"
                )
            return self._autograd(x, slope_of_log=True)
        return self._call(op, x)

    def _call(self, name: str, x: Floats) -> Floats:
        """One of the callables on an array that it may change, since it is a copy."""
        function = self.functions[self.names.index(name)]
        if self.tensors:
            y = function(need("torch", "torch").from_numpy(x.copy()))
            y = y.detach().numpy() if hasattr(y, "detach") else y
        else:
            y = function(x.copy())
        y = np.asarray(y)
        if y.shape != x.shape or y.dtype.kind != "f":
            raise ValueError(
                f"{name}: must work elementwise, but gave {y.dtype} of shape {y.shape} for float64 of shape "
                f"{x.shape}"
            )
        return y.astype(np.float64)

    def _autograd(self, x: Floats, slope_of_log: bool) -> Floats:
        """dz/dtheta, or the derivative of its logarithm."""
        torch = need("torch", "torch")
        forward, _, jacobian = self.functions
        with torch.enable_grad():
            theta = torch.from_numpy(x.copy()).requires_grad_()
            if not slope_of_log:
                of = forward(theta)
            elif jacobian is not None:
                of = jacobian(theta).abs().log()
            else:
                (slope,) = torch.autograd.grad(forward(theta).sum(), theta, create_graph=True)
                of = slope.abs().log() if slope.requires_grad else None  # a linear map
            if of is None or not of.requires_grad:
                return np.zeros_like(x)
            (result,) = torch.autograd.grad(of.sum(), theta)
        return np.asarray(result.numpy(), np.float64)

    def _differences(self, x: Floats) -> tuple[Floats, Floats]:
        """dz/dtheta by Ridders' method, and an estimate of its error."""
        low, high = self.domain
        step = np.minimum(0.25 * np.maximum(np.abs(x), 1), 0.5 * np.minimum(x - low, high - x))
        best, error = np.full_like(x, np.nan), np.full_like(x, np.inf)
        before: list[Floats] = []
        with np.errstate(all="ignore"):  # far steps may overflow; nearer ones then win
            for _ in range(_LEVELS):
                up, down = x + step, x - step
                row = [(self._call("forward", up) - self._call("forward", down)) / (up - down)]
                for order, coarser in enumerate(before, 1):
                    row.append(row[-1] + (row[-1] - coarser) / (16.0**order - 1))
                    off = np.maximum(np.abs(row[-1] - row[-2]), np.abs(row[-1] - coarser))
                    better = off < error
                    best, error = np.where(better, row[-1], best), np.where(better, off, error)
                before, step = row, step / 4
        return best, error

    def _check(self, points: Floats) -> None:
        """ValueError where the callables are seen not to be a map and its inverse."""
        with np.errstate(all="ignore"):
            z = self._call("forward", points)
            order = np.random.default_rng(0).permutation(points.size)[: points.size // 2]
            alone = self._call("forward", points[order])
            differs = ~(np.isclose(alone, z[order], rtol=1e-9, atol=0) | (alone == z[order]))
        _refuse(np.isnan(z), points, "forward: is NaN")
        _refuse(differs, points[order], "forward: depends on the other elements")
        low, high = self.codomain
        _refuse((z < low) | (z > high), points, f"forward: leaves the codomain {low, high}")
        # Far out float64 may hold no more of a map than its limit.
        kept = (z > low) & (z < high) & np.isfinite(z)
        if np.count_nonzero(kept) < 0.75 * points.size:
            _refuse(~kept, points, "forward: is infinite or at the end of the codomain")
        points, z = points[kept], z[kept]
        steps = np.diff(z)
        flat = ~(steps > 0) if z[-1] > z[0] else ~(steps < 0)
        _refuse(flat, points[1:], "forward: is not strictly monotonic, it turns or stays")
        with np.errstate(all="ignore"):
            slope, error = self._differences(points)
            given = self.formula("jacobian", points)
            back = self._call("inverse", z)
            tolerance = _RELATIVE * np.abs(slope) + 10 * error
            wrong = ~(np.abs(given - slope) <= tolerance)
            _refuse(
                wrong,
                points,
                "jacobian: is {0:.6g} where differences of forward give {1:.6g}, thus wrong",
                given,
                slope,
            )
            if self.functions[2] is None and not self.tensors:
                rough = ~(error <= 1e-4 * np.abs(slope))
                _refuse(rough, points, "jacobian: give it, the differences of forward do not settle")
            rounding = 1000 * _EPS * np.abs(z / slope)
            room = _RELATIVE * np.abs(points) + 1e-12 * np.abs(points).max() + rounding
            _refuse(
                ~(np.abs(back - points) <= room),
                points,
                "inverse: gives {0:.6g} for forward(theta) = {1:.6g}, thus does not undo it",
                back,
                z,
            )

    @property
    def name(self) -> str:
        return "custom"

    def to_json(self) -> dict[str, Any]:
        raise TypeError(
            "Custom: Python callables have no JSON form, so what needs one (saved or stored searches, "
            "checkpoints, torch.compile) cannot take this map; pickle it, or use a map of the catalog"
        )

    def _key(self) -> tuple[Any, ...]:
        return *self.functions, self.domain, self.codomain, self.tensors

    def __repr__(self) -> str:
        forward, inverse, _ = (getattr(f, "__name__", repr(f)) for f in self.functions)
        low, high = self.domain
        return f"Custom({forward}, {inverse}, domain=({low:g}, {high:g}))"


def _interval(name: str, ends: tuple[float, float]) -> tuple[float, float]:
    try:
        low, high = map(float, ends)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected two numbers (low, high), got {ends!r}") from None
    if not low < high:
        raise ValueError(f"{name}: low must be below high, got {ends!r}")
    return low, high


def _spread(low: float, high: float) -> Floats:
    """Ordered points of an open interval: dense at finite ends and around 0, up to 30 where it has no end."""
    if math.isfinite(low) and math.isfinite(high):
        share = np.concatenate([np.geomspace(1e-6, 0.1, 24), np.linspace(0.1, 0.5, 17)])
        points = np.concatenate([low + (high - low) * share, high - (high - low) * share])
    elif math.isfinite(low):
        points = low + np.geomspace(1e-6, 30, 64)
    elif math.isfinite(high):
        points = high - np.geomspace(1e-6, 30, 64)
    else:
        far = np.geomspace(1e-3, 30, 32)
        points = np.concatenate([-far, far])
    points = np.unique(points)
    return points[(points > low) & (points < high)]


def _refuse(wrong: Any, points: Floats, text: str, *values: Floats) -> None:
    """ValueError for the first point that is wrong."""
    if wrong.any():
        at = int(wrong.argmax())
        shown = text.format(*(float(v[at]) for v in values))
        raise ValueError(f"{shown} at theta = {points[at]:.6g}")
