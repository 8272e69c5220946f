"""Any map in any Optuna study: a sampler sees plain z in a finite box, the objective gets theta.

Needs the extra ``fastmap[search]``. Nothing here depends on the sampler, the pruner or the storage, and no
private part of Optuna is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from fastmap._errors import DomainError
from fastmap._extras import need
from fastmap._functional import forward
from fastmap._map import Map, MapLike, resolve
from fastmap.maps import Identity, Log
from fastmap.space import Param, Space

THETA = "fastmap:theta"  # the user attribute of a trial that holds its theta by name
_PREFIX = "z:"  # of the names under which z is suggested


def suggest_float(trial: Any, name: str, low: float, high: float, *, map: MapLike | None = None) -> float:
    """theta in [low, high], searched on the scale of a map.

    Parameters
    ----------
    trial : optuna.trial.Trial
        Of any study. (`fastmap.Trial` has this function as a method.)
    name : str
        The name of the parameter. `Log` and `Identity` are scales that Optuna has: they pass through under
        this very name, so that a study that Optuna began goes on. Other maps suggest z, uniform in a finite
        box, under the name ``"z:" + name``; theta is kept in the trial's user attribute ``"fastmap:theta"``,
        one dict for all parameters. `params` reads it back.
    low, high : float
        The box. Its ends come back exactly.
    map : Map or str, optional
        From theta to z. Default: as in `fastmap.Param`.

    Returns
    -------
    float
        theta.

    Raises
    ------
    ValueError
        ``low >= high``; a box outside the domain of the map, or whose z is infinite; a name that this trial
        has already used with another box or map.
    """
    param = _param(name, float(low), float(high), None if map is None else resolve(map))
    if param.box_map in (Identity(), Log()):
        if _PREFIX + name in trial.distributions:
            raise ValueError(f"name: {name!r} has been suggested in this trial with another map")
        return float(trial.suggest_float(name, *param.box, log=param.box_map == Log()))
    z_low, z_high = param.z_box
    former = trial.distributions.get(_PREFIX + name)
    if name in trial.distributions or (former is not None and (former.low, former.high) != (z_low, z_high)):
        raise ValueError(f"name: {name!r} has been suggested in this trial with another box or map")
    theta = float(param.from_z(trial.suggest_float(_PREFIX + name, z_low, z_high)))
    if former is None:
        trial.set_user_attr(THETA, {**trial.user_attrs.get(THETA, {}), name: theta})
    return theta


@lru_cache(maxsize=1024)
def _param(name: str, low: float, high: float, map: Map | None) -> Param:
    param = Param(low, high, map=map)
    if param.box_map.shape:
        raise ValueError(f"map: {name!r} is a number, so the parameters of its map must be numbers")
    param.z_box  # noqa: B018 (refused here, before the trial is asked)
    return param


def params(trial: Any) -> dict[str, Any]:
    """theta by name of a trial: mapped parameters and Optuna's own, categorical ones too.

    Parameters
    ----------
    trial : optuna.trial.Trial or optuna.trial.FrozenTrial
        Of a study that used `suggest_float`, or of a stored `fastmap.Search`.

    Returns
    -------
    dict
        Without the z of mapped parameters, which are in ``trial.params``.
    """
    mapped = trial.user_attrs.get(THETA, {})
    own = {name: value for name, value in trial.params.items() if not _is_z(name, mapped)}
    return {**own, **mapped}


def best_params(study: Any) -> dict[str, Any]:
    """`params` of the best trial of a study with one objective."""
    return params(study.best_trial)


def enqueue(study: Any, theta: Mapping[str, Any], space: Space) -> None:
    """Let the next trial of a study evaluate a known point.

    Parameters
    ----------
    study : optuna.study.Study
        Whose objective calls `suggest_float`.
    theta : mapping
        Values by name, of all parameters or of some: the sampler draws the others. Names that `space` lacks
        are taken as Optuna's own (categorical ones, integers).
    space : Space
        Boxes and maps of the parameters that are searched through a map.

    Raises
    ------
    ValueError
        A value outside its box.
    """
    fixed: dict[str, Any] = {}
    for name, value in theta.items():
        param = space.get(name)
        if param is None or (param.box_map in (Identity(), Log()) and not param.integer):
            fixed[name] = value
        else:
            fixed[_PREFIX + name] = float(to_z(name, param, value))
    study.enqueue_trial(fixed)


def to_z(name: str, param: Param, theta: Any) -> Any:
    """z of a point in the box of a parameter, inside `Param.z_box`.

    Raises
    ------
    ValueError
        A wrong shape, or a value outside the box; rows that are none of the map's.
    """
    try:
        value = np.asarray(theta, np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: expected numbers, got {theta!r}") from None
    if value.shape != param.shape:
        raise ValueError(f"{name}: shape {value.shape} differs from {param.shape}")
    if param.has_rows:
        return _z_of_rows(name, param, value)
    low, high = param.box
    if not np.all((low <= value) & (value <= high)):
        raise ValueError(f"{name}: {theta} is outside the box [{low:g}, {high:g}]")
    return np.clip(forward(value, param.box_map), *param.z_box)


def _z_of_rows(name: str, param: Param, theta: Any) -> Any:
    try:
        z = forward(theta, param.box_map)
    except DomainError as error:
        raise ValueError(f"{name}: {error}") from None
    low, high = param.z_box
    room = 1e-6 * (high - low)  # as far as rows may be off their constraint
    if not np.all((low - room <= z) & (z <= high + room)):
        raise ValueError(f"{name}: {theta.tolist()} is outside the box: z is not in [{low:g}, {high:g}]")
    return np.clip(z, low, high)


def element_names(name: str, param: Param) -> list[str]:
    """The names under which the z of a parameter are suggested, in C order."""
    if not param.shape:
        return [_PREFIX + name]
    return [f"{_PREFIX}{name}[{','.join(map(str, index))}]" for index in np.ndindex(param.z_shape)]


def distributions(space: Space) -> dict[str, Any]:
    """The uniform box of z that a tuner searches, by name; every number of a space is one of them.

    Raises
    ------
    ValueError
        A box that is missing or whose z is infinite; two parameters whose numbers have the same name.
    """
    optuna = need("optuna", "search")
    return {name: optuna.distributions.FloatDistribution(*box) for name, box in z_boxes(space).items()}


def z_boxes(space: Space) -> dict[str, tuple[float, float]]:
    """The ends of z for every number of a space, by the names of the tuner; errors as in `distributions`."""
    result: dict[str, tuple[float, float]] = {}
    for name, param in space.items():
        low, high = named_box(name, param)
        for element, a, b in zip(element_names(name, param), low, high, strict=True):
            if element in result:
                raise ValueError(
                    f"{name}: another parameter already has the name {element[len(_PREFIX) :]!r}"
                )
            result[element] = float(a), float(b)
    return result


def gather(space: Space, values: Mapping[str, float]) -> dict[str, Any]:
    """z by name of a point, from its numbers by the names of the tuner."""
    z: dict[str, Any] = {}
    for name, param in space.items():
        numbers = np.array([values[element] for element in element_names(name, param)])
        z[name] = numbers.reshape(param.z_shape) if param.shape else float(numbers[0])
    return z


def named_box(name: str, param: Param) -> tuple[Any, Any]:
    """The ends of the box of z for each number of a parameter; errors name the parameter."""
    try:
        low, high = param.z_box
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return np.broadcast_to(low, param.z_shape).flat, np.broadcast_to(high, param.z_shape).flat


def _is_z(name: str, mapped: Mapping[str, Any]) -> bool:
    """Whether a trial's parameter is the z, or one number of the z, of a mapped one."""
    if not name.startswith(_PREFIX):
        return False
    stem = name[len(_PREFIX) :]
    return stem in mapped or (stem.endswith("]") and stem[: stem.rfind("[")] in mapped)
