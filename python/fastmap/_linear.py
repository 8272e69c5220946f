"""Linear maps of rows: whitened, rotated, or any other matrix that has an inverse."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastmap._native import FloatArray, policy_code
from fastmap._structured import Op, StructuredMap, as_rows, is_tensor, output, refusal

_EPS = float(np.finfo(np.float64).eps)


class Linear(StructuredMap):
    """theta = shift + matrix z, for every row of n numbers.

    Parameters
    ----------
    matrix : array_like of shape (n, n)
        With an inverse: an orthogonal one rotates, one whose square is a covariance whitens (`whitened`).
    shift : array_like of shape (n,), optional
        theta at z = 0; default 0.

    Raises
    ------
    ValueError
        A matrix that is not square, not finite or, within rounding, singular; a shift that does not fit.

    Notes
    -----
    Computed by NumPy's and torch's own products in float64 and rounded once: unlike those of other maps, the
    last bits depend on their libraries. The inverse is computed when the map is made. All of R^n is both
    domain and range, and the log-determinant is a constant.

    Examples
    --------
    >>> turned = fm.Linear([[0.6, -0.8], [0.8, 0.6]])
    """

    __slots__ = ("_inverse", "_log_det", "_matrix", "origin")

    origin: FloatArray
    _matrix: FloatArray
    _inverse: FloatArray
    _log_det: float  # log|dtheta/dz|

    def __init__(self, matrix: ArrayLike, shift: ArrayLike | None = None) -> None:
        super().__init__()
        a = _numbers("matrix", matrix)
        if a.ndim != 2 or a.shape[0] != a.shape[1] or not a.size:
            raise ValueError(f"matrix: expected n x n numbers, got shape {a.shape}")
        origin = np.zeros(len(a)) if shift is None else _numbers("shift", shift)
        if origin.shape != a.shape[:1]:
            raise ValueError(f"shift: shape {origin.shape} differs from {a.shape[:1]} of a row")
        # Rows of one size first: entries of theta may have units of any size, which make no matrix singular.
        size = np.abs(a).max(axis=1)
        if not size.all():
            raise ValueError(f"matrix: is singular, row {int(size.argmin())} is 0")
        even = a / size[:, None]
        if not np.linalg.cond(even) * len(a) * _EPS < 1:
            raise ValueError("matrix: is singular within rounding, so that theta does not give z")
        with np.errstate(over="ignore"):
            inverse = np.linalg.inv(even) / size
        if not np.isfinite(inverse).all():
            raise ValueError(f"matrix: row {int(size.argmin())} is too small, its inverse overflows")
        set_field = object.__setattr__
        set_field(self, "_matrix", a)
        set_field(self, "origin", origin)
        set_field(self, "_inverse", inverse)
        set_field(self, "_log_det", float(np.linalg.slogdet(even)[1] + np.log(size).sum()))

    @property
    def matrix(self) -> FloatArray:
        """dtheta/dz, read-only."""
        return _read_only(self._matrix)

    @property
    def shift(self) -> FloatArray:
        """theta at z = 0, read-only."""
        return _read_only(self.origin)

    @property
    def name(self) -> str:
        return "linear"

    def factor(self, op: Op) -> FloatArray:
        """The derivative of an operation, n x n."""
        return self._inverse if op == "forward" else self._matrix

    def log_det(self, op: Op) -> float:
        """The log-determinant of `factor`."""
        return -self._log_det if op == "forward" else self._log_det

    def other_shape(self, argument: str, shape: tuple[int, ...], is_theta: bool) -> tuple[int, ...]:
        if not shape or shape[-1] != len(self.origin):
            raise ValueError(
                f"{argument}: {self!r} takes rows of {len(self.origin)}, got shape {tuple(shape)}"
            )
        return shape

    def _value_and_rows(self, op: Op, argument: str, x: Any, out: Any, policy: int) -> tuple[Any, Any]:
        if is_tensor(x):
            from fastmap import _structured_torch

            return _structured_torch.value_and_rows(op, argument, x, self, out, policy)
        array = as_rows(x, argument)
        result = output(out, array, self.other_shape(argument, array.shape, op == "forward"), argument)
        wide, wrong = self._finite(op, argument, array, policy)
        with np.errstate(over="ignore", invalid="ignore"):  # finite numbers may have infinite sums
            if op == "forward":
                result[...] = (wide - self.origin) @ self._inverse.T
            else:
                result[...] = wide @ self._matrix.T + self.origin
        result[wrong] = np.nan
        rows = np.where(wrong, np.nan, self.log_det(op))
        return result if out is None else out, rows[()] if rows.ndim == 0 else rows

    def _pulled(self, grad_theta: Any, z: Any, out: Any, policy: int) -> Any:
        if is_tensor(z):
            from fastmap import _structured_torch

            return _structured_torch.pullback(grad_theta, z, self, out, policy)
        result = output(out, z, z.shape, "z", grad_theta)
        _, wrong = self._finite("inverse", "z", z, policy)
        with np.errstate(over="ignore", invalid="ignore"):
            result[...] = grad_theta.astype(np.float64) @ self._matrix
        result[wrong] = np.nan
        return result if out is None else out

    def _finite(self, op: Op, argument: str, x: FloatArray, policy: int) -> tuple[FloatArray, FloatArray]:
        """x in float64, and which rows are not finite; DomainError unless they become NaN."""
        wrong = np.asarray(~np.isfinite(x).all(axis=-1))
        if policy == policy_code("raise") and wrong.any():
            count, first = int(np.count_nonzero(wrong)), int(wrong.argmax())
            raise refusal(self, argument, x, count, first, op == "forward", "not finite")
        return x.astype(np.float64), wrong

    def _key(self) -> tuple[Any, ...]:
        return self._matrix, self.origin

    def to_json(self) -> dict[str, Any]:
        return {"map": "linear", "matrix": self._matrix.tolist(), "shift": self.origin.tolist()}

    def __repr__(self) -> str:
        n = len(self.origin)
        return f"Linear({n} x {n})"


def whitened(
    mean: ArrayLike, covariance: ArrayLike | None = None, *, hessian: ArrayLike | None = None
) -> Linear:
    """The linear map to coordinates without correlation and of unit scale.

    Parameters
    ----------
    mean : array_like of shape (n,)
        theta at z = 0.
    covariance : array_like of shape (n, n), optional
        Of theta, as samples or a posterior have it: z then has the covariance 1.
    hessian : array_like of shape (n, n), optional
        In place of the covariance its inverse, the second derivatives of a loss at its minimum: those by z
        are 1, and a step of gradient descent with ``lr=1`` is Newton's.

    Returns
    -------
    Linear
        theta = mean + D V S z, where the covariance is D C D with the correlations C = V S² V'. z lie along
        the principal axes of the correlations, those of small eigenvalues first.

    Raises
    ------
    ValueError
        Not one of the two; a matrix that is not symmetric positive definite.

    Notes
    -----
    By correlations rather than covariances it does not depend on the units of theta: "PCA-cor" of Kessy,
    Lewin and Strimmer, Optimal Whitening and Decorrelation, The American Statistician 72 (2018).
    """
    if (covariance is None) == (hessian is None):
        raise ValueError("covariance, hessian: give one of them")
    argument, given = ("covariance", covariance) if hessian is None else ("hessian", hessian)
    c = _numbers(argument, given)
    if c.ndim != 2 or c.shape[0] != c.shape[1] or not c.size:
        raise ValueError(f"{argument}: expected n x n numbers, got shape {c.shape}")
    d = np.diagonal(c)
    indefinite = f"{argument}: is not positive definite"
    if not (d > 0).all():
        raise ValueError(
            f"{indefinite}, entry {int((d <= 0).argmax())} of its diagonal is {d[d <= 0][0]:.3g}"
        )
    d = np.sqrt(d)
    correlations = c / np.outer(d, d)
    if not np.allclose(correlations, correlations.T, rtol=0, atol=1e-8):
        raise ValueError(f"{argument}: is not symmetric")
    values, vectors = np.linalg.eigh((correlations + correlations.T) / 2)
    if not values[0] > len(c) * _EPS * values[-1]:
        raise ValueError(
            f"{indefinite}: its correlations have the eigenvalue {values[0]:.3g}; add to its diagonal"
        )
    if hessian is not None:  # the inverse of D C D is (1/D) V S^-2 V' (1/D)
        d, values = 1 / d, 1 / values
    return Linear(d[:, None] * vectors * np.sqrt(values), mean)


def _numbers(argument: str, given: Any) -> FloatArray:
    try:
        array = np.array(given.detach().cpu().numpy() if hasattr(given, "detach") else given, np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{argument}: expected numbers, got {type(given).__name__}") from None
    if not np.isfinite(array).all():
        raise ValueError(f"{argument}: has numbers that are not finite")
    return array


def _read_only(array: FloatArray) -> FloatArray:
    view = array.view()
    view.setflags(write=False)
    return view
