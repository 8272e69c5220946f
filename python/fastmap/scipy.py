"""SciPy: ``scipy.optimize.minimize`` in the space of a map.

Needs the extra ``fastmap[scipy]``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fastmap._extras import need
from fastmap._functional import Array, elementwise, inverse, pullback
from fastmap._map import MapLike


def minimize(
    fun: Callable[..., Any],
    x0: Array | Mapping[str, Array],
    args: tuple[Any, ...] = (),
    method: str | Callable[..., Any] | None = None,
    jac: Any = None,
    *,
    map: MapLike,
    callback: Callable[..., Any] | None = None,
    **options: Any,
) -> Any:
    """`scipy.optimize.minimize` over z, with `fun` and its gradient in theta.

    theta = f⁻¹(z) lies in the domain of the map at every evaluation, so that methods without bounds can be
    used on bounded parameters. Steps, tolerances and finite differences are those in z.

    Parameters
    ----------
    fun : callable
        ``fun(theta, *args) -> float``; with ``jac=True`` it returns (loss, gradient in theta).
    x0 : array_like of shape (n,), or dict
        Where theta starts, inside the open domain. With a `Space` as map also a dict of its parameters: then
        `fun`, `jac` and `callback` receive such dicts, and gradients are such dicts.
    args : tuple, optional
        More arguments of `fun` and `jac`.
    method : str or callable, optional
        As SciPy's.
    jac : callable, bool or str, optional
        ``jac(theta, *args)``, the gradient in theta; else as SciPy's.
    map : Map, str or Space
        From theta to z.
    callback : callable, optional
        As SciPy's, with theta; a result in its place has `z` as well.
    **options
        What else `scipy.optimize.minimize` takes: ``tol``, ``options``.

    Returns
    -------
    scipy.optimize.OptimizeResult
        `x` is theta and `z` the point that was found; `jac`, `hess` and `hess_inv` are those in z.

    Raises
    ------
    DomainError
        x0 outside the domain.
    TypeError
        Second derivatives, bounds or constraints: the map does not pass them on; bounds are a map's to keep.
    """
    optimize = need("scipy.optimize", "scipy")
    for name in ("hess", "hessp", "constraints"):
        if options.get(name) is not None and not (name == "hess" and isinstance(options[name], str)):
            raise TypeError(f"{name}: is not passed through a map; use a method that does without")
    if options.get("bounds") is not None:
        raise TypeError("bounds: let the map keep them, for instance fm.Interval(low, high)")
    space: Any = map
    named = isinstance(x0, Mapping)
    if named and not hasattr(map, "unravel"):
        raise TypeError("x0: a dict needs a Space as map")

    def theta_of(z: Array) -> Any:
        theta = inverse(z, map)
        return space.unravel(theta) if named else theta

    def in_z(gradient: Any, z: Array) -> Array:
        flat = space.ravel(gradient) if named else np.asarray(gradient, np.float64)
        return pullback(flat, z, map)

    def objective(z: Array, *args: Any) -> Any:
        result = fun(theta_of(z), *args)
        return (result[0], in_z(result[1], z)) if jac is True else result

    def gradient(z: Array, *args: Any) -> Array:
        return in_z(jac(theta_of(z), *args), z)

    def shown(result: Any) -> Any:
        return optimize.OptimizeResult({**result, "x": theta_of(result.x), "z": result.x})

    if callback is not None:
        options["callback"] = _in_theta(callback, theta_of, shown)
    start = np.atleast_1d(np.asarray(space.ravel(x0) if named else x0, np.float64))
    z0 = elementwise("forward", "x0", start, map, None, "raise")
    slope = gradient if callable(jac) else jac
    return shown(optimize.minimize(objective, z0, args, method, slope, **options))


def _in_theta(
    callback: Callable[..., Any], theta_of: Callable[[Array], Any], shown: Callable[[Any], Any]
) -> Callable[..., Any]:
    """The callback, in the form by whose parameters SciPy knows what to pass."""
    if set(inspect.signature(callback).parameters) == {"intermediate_result"}:

        def with_result(intermediate_result: Any) -> Any:
            return callback(intermediate_result=shown(intermediate_result))

        return with_result

    def with_point(z: Array, *rest: Any) -> Any:
        return callback(theta_of(z), *rest)

    return with_point
