"""ConfigSpace: its numeric hyperparameters as a `Space`, and configurations from theta.

Needs the extra ``fastmap[configspace]``. What is no number (categorical, ordinal, constants), conditions
and forbidden clauses stay with ConfigSpace.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastmap._extras import need
from fastmap._map import Map
from fastmap.maps import Identity, Log
from fastmap.space import Param, Space


def space(config_space: Any) -> Space:
    """The uniform hyperparameters of a ConfigurationSpace, in its order.

    Parameters
    ----------
    config_space : ConfigSpace.ConfigurationSpace
        Floats and integers become parameters with their bounds as box, ``log=True`` the map `Log`, and no
        scale `Identity`. Defaults are where gradient methods start.

    Returns
    -------
    Space
        Under the names that they have there.

    Raises
    ------
    TypeError
        A hyperparameter with a normal or beta distribution, which a box does not have.
    ValueError
        No uniform hyperparameter.
    """
    kinds = need("ConfigSpace.hyperparameters", "configspace")
    params: dict[str, Param] = {}
    for name, hp in config_space.items():
        if not isinstance(hp, kinds.NumericalHyperparameter):
            continue
        if not isinstance(hp, kinds.UniformFloatHyperparameter | kinds.UniformIntegerHyperparameter):
            raise TypeError(
                f"{name}: {type(hp).__name__} has a distribution, which a Space does not keep; "
                "use a uniform hyperparameter"
            )
        m: Map = Log() if hp.log else Identity()
        integer = isinstance(hp, kinds.UniformIntegerHyperparameter)
        params[name] = Param(hp.lower, hp.upper, map=m, integer=integer, init=hp.default_value)
    if not params:
        raise ValueError("config_space: has no uniform float or integer hyperparameter")
    return Space(params)


def configuration(config_space: Any, theta: Mapping[str, Any], **others: Any) -> Any:
    """The Configuration with these values.

    Parameters
    ----------
    config_space : ConfigSpace.ConfigurationSpace
        Of which `space` was made.
    theta : mapping
        Values by name: what an objective of `fastmap.minimize` receives, or ``result.best``.
    **others
        Of other hyperparameters; those that are missing have their defaults.

    Returns
    -------
    ConfigSpace.Configuration
        Without the hyperparameters whose conditions do not hold.

    Raises
    ------
    ValueError
        A name that the space lacks, or a value that ConfigSpace refuses.
    """
    util = need("ConfigSpace.util", "configspace")
    values = {name: hp.default_value for name, hp in config_space.items()}
    for name, value in {**theta, **others}.items():
        if name not in values:
            raise ValueError(f"theta: the configuration space has no hyperparameter {name!r}")
        default = values[name]
        values[name] = type(default)(value) if isinstance(default, int | float) else value
    return util.deactivate_inactive_hyperparameters(values, config_space)
