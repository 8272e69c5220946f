"""Random subspaces of many weights, for searches that can only move a few numbers."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np

from fastmap import _core, _native
from fastmap._errors import DomainError
from fastmap._native import FloatArray


class Subspace:
    """m random directions through a point among n weights: theta = start + P z.

    P is n x m with a few entries per row, which a hash gives when they are needed: it is never stored. Its
    columns have norm `scale` on average, so that |theta - start| is about `scale` |z|.

    Parameters
    ----------
    n : int
        How many weights there are.
    m : int
        How many numbers are searched, less than n.
    seed : int, optional
        Which directions, 0 to 2**64 - 1; the same for any number of threads and on every processor.
    start : array or tensor of n numbers, optional
        Where z = 0 is, float32 or float64; default 0. Kept, not copied: theta follows if it changes.
    scale : float, optional
        The norm of the columns.
    nonzeros : int, optional
        Entries per row of P, 1 to 4: with one, every weight belongs to one direction.

    Raises
    ------
    ValueError
        ``m >= n`` and what else makes no subspace.
    DomainError
        A `start` that is not finite.

    Notes
    -----
    It is no `Map`: most theta lie in no subspace, so that there is no forward. Li et al., "Measuring the
    Intrinsic Dimension of Objective Landscapes" (2018), train networks in such subspaces; P here is the
    sparse embedding of Nelson and Nguyen, "OSNAP" (2013).

    Examples
    --------
    >>> start = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    >>> directions = fm.Subspace(start.numel(), 100, seed=0, start=start)
    >>> space = fm.Space(z=fm.Param(-5, 5, shape=100))
    >>> def loss(p):
    ...     theta = directions.inverse(torch.as_tensor(p["z"]))
    ...     torch.nn.utils.vector_to_parameters(theta, model.parameters())
    ...     return evaluate(model)
    >>> fm.minimize(loss, space, method="cmaes", budget=2000)
    """

    def __init__(
        self, n: int, m: int, seed: int = 0, *, start: Any = None, scale: float = 1.0, nonzeros: int = 4
    ) -> None:
        for name, value, least, most in (
            ("n", n, 2, 2**48),
            ("m", m, 1, 2**31),
            ("seed", seed, 0, 2**64 - 1),
            ("nonzeros", nonzeros, 1, 4),
        ):
            if isinstance(value, bool) or not isinstance(value, int | np.integer):
                raise TypeError(f"{name}: expected an integer, got {value!r}")
            if not least <= value <= most:
                raise ValueError(f"{name}: must be in [{least}, {most}], got {value}")
        if m >= n:
            raise ValueError(f"m: must be less than n = {n}, got {m}: a subspace has fewer dimensions")
        if not (math.isfinite(scale) and scale > 0):
            raise ValueError(f"scale: must be positive and finite, got {scale}")
        self.n, self.m, self.seed, self.scale = int(n), int(m), int(seed), float(scale)
        self.nonzeros = min(int(nonzeros), self.m)
        self.start = start
        self._start = None if start is None else self._numbers(start, self.n, "start")
        self._spec = (self.n, self.m, self.seed, self.nonzeros, self.scale)

    def inverse(self, z: Any, *, out: Any = None) -> Any:
        """theta = start + P z.

        Parameters
        ----------
        z : array or tensor of m numbers
            float32 or float64.
        out : array or tensor of n numbers, optional
            Receives theta; contiguous, of its dtype. Not `start` itself.

        Returns
        -------
        array or tensor
            theta, in the dtype of `start`, else of z; a tensor where z is one, differentiable.

        Raises
        ------
        DomainError
            z that is not finite.
        """
        if _is_tensor(z):
            from fastmap._torch import expanded

            return expanded(self, z, out)
        numbers = self._numbers(z, self.m, "z")
        theta = self.expand(numbers, self._start, numbers.dtype, out)
        return theta if out is None else out

    def pullback(self, grad_theta: Any) -> Any:
        """dL/dz = P' dL/dtheta, in the dtype of `grad_theta`; sums are float64, in an order that is fixed."""
        if _is_tensor(grad_theta):
            from fastmap._torch import projected

            return projected(self, grad_theta)
        return self.project(self._numbers(grad_theta, self.n, "grad_theta"))

    def expand(self, z: FloatArray, start: FloatArray | None, dtype: Any, out: Any = None) -> FloatArray:
        """`inverse` on NumPy arrays, from another start."""
        dtype = np.dtype(dtype if start is None else start.dtype)
        result = _native.as_output(out, np.broadcast_to(dtype.type(0), (self.n,)), "theta")
        if out is not None and start is not None and np.may_share_memory(result, start):
            raise ValueError("out: overlaps start, which the next call needs")
        numbers = np.ascontiguousarray(z, np.float64)
        origin = 0 if start is None else _native.pointer(start)
        _core.expand(
            self._spec, dtype == np.float64, origin, _native.pointer(numbers), _native.pointer(result)
        )
        return result

    def project(self, grad: FloatArray) -> FloatArray:
        """`pullback` on NumPy arrays."""
        result = np.empty(self.m)
        _core.project(self._spec, grad.dtype == np.float64, _native.pointer(grad), _native.pointer(result))
        return result.astype(grad.dtype, copy=False)

    def _numbers(self, x: Any, size: int, argument: str) -> FloatArray:
        """A contiguous vector of finite float32 or float64."""
        if _is_tensor(x):
            from fastmap._torch import memory

            array = memory(x, argument)
        else:
            array = _native.as_array(x, argument)
        if array.dtype not in (np.float32, np.float64):
            raise TypeError(f"{argument}: dtype {array.dtype} is not supported; use float32 or float64")
        if array.shape != (size,):
            raise ValueError(f"{argument}: shape {array.shape} differs from ({size},)")
        if size == self.n and not (array.flags.c_contiguous and array.flags.aligned):
            raise ValueError(f"{argument}: the array is not contiguous")
        with np.errstate(all="ignore"):
            usual = np.isfinite(array.sum(dtype=np.float64))  # a look at every element would need a mask
        if not usual and len(wrong := np.flatnonzero(~np.isfinite(array))):
            first = int(wrong[0])
            verb = "is" if len(wrong) == 1 else "are"
            raise DomainError(
                f"{argument}: {len(wrong)} of {size} values {verb} not finite, first at index {first} "
                f"(value {array[first]})",
                argument,
                len(wrong),
                (first,),
            )
        return array

    def __repr__(self) -> str:
        return f"Subspace({self.n}, {self.m}, {self.seed})"


def _is_tensor(x: object) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)
