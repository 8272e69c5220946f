"""Which map goes with a constraint on theta, unless told otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from fastmap._map import Chain, Map, MapLike, resolve
from fastmap._structured import CLASSES
from fastmap.maps import Affine, Identity, Interval, OneMinusLog, Power, Softplus

Factory: TypeAlias = Callable[..., MapLike]  # from the bounds of the constraint to a map


def mirror(map: MapLike) -> Chain:
    """The mirror image of a map: z = -f(-theta), which turns a lower bound into an upper one.

    It increases where f does, and negating is exact: it keeps the accuracy of f.

    Examples
    --------
    >>> below_five = fm.mirror(fm.Softplus(low=-5))
    """
    negation = Affine(scale=-1)
    return Chain(negation, resolve(map), negation)


def weibull(scale: Any = 1.0, shape: Any = 1.0) -> Chain:
    """The distribution function of Weibull: z = 1 - exp(-(theta / scale)^shape), from (0, inf) onto (0, 1).

    With shape 1 it is that of the exponential distribution, with shape 2 and scale ``sqrt(2) * s`` that of
    Rayleigh's with scale s. A chain of `Affine`, `Power` and `OneMinusLog` backwards has all digits in both
    tails of theta; dividing by scale is rounded, of which the power makes shape / 2 ULP.

    Parameters
    ----------
    scale, shape : float or array_like
        Positive.

    Raises
    ------
    ValueError
        A parameter that is not positive and finite.

    Examples
    --------
    >>> exponential, rayleigh = fm.weibull(scale=3), fm.weibull(scale=2**0.5, shape=2)
    """
    for name, value in (("scale", scale), ("shape", shape)):
        if not np.all((np.asarray(value) > 0) & np.isfinite(value)):
            raise ValueError(f"{name}: must be positive and finite, got {value}")
    return Chain(Affine(scale=scale), Power(shape), OneMinusLog().inv)


_factories: dict[str, Factory] = {
    "real": Identity,
    "positive": Softplus,
    "nonnegative": Softplus,
    "greater_than": lambda low: Softplus(low=low),
    "less_than": lambda high: mirror(Softplus(low=-high)),
    "interval": Interval,
    "unit_interval": Interval,
    **{cls().name: cls for cls in CLASSES.values()},  # of rows: "simplex", "ordered", ...
}


def default_map(constraint: str, *bounds: float) -> Map:
    """The map to an unbounded space that goes with a constraint.

    Parameters
    ----------
    constraint : str
        "real", "positive", "nonnegative", "greater_than" (one bound: low), "less_than" (high), "interval"
        (low, high) or "unit_interval"; of whole rows the names of the structured maps: "simplex", "ordered",
        "unit_vector", "positive_definite" and so on.
    *bounds : float
        As the constraint needs them.

    Returns
    -------
    Map
        `Softplus` for one bound, `Interval` for two, `Identity` for none, unless `set_default_map` said
        otherwise. A `Param` without a map of its own takes it for gradient methods.

    Raises
    ------
    ValueError
        An unknown constraint.
    TypeError
        Not the bounds that it needs.
    """
    return resolve(_factory(constraint)(*bounds))


def set_default_map(constraint: str, factory: Factory) -> Factory:
    """Let another map go with a constraint, everywhere in this process.

    Parameters
    ----------
    constraint : str
        One of those of `default_map`.
    factory : callable
        From the bounds of the constraint to a map: ``fm.Log`` for "positive", for instance.

    Returns
    -------
    callable
        The former one, to put it back.
    """
    former = _factory(constraint)
    _factories[constraint] = factory
    return former


def _factory(constraint: str) -> Factory:
    try:
        return _factories[constraint]
    except KeyError:
        raise ValueError(f"constraint: {constraint!r} is none of {', '.join(_factories)}") from None
