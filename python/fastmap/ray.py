"""Any map in Ray Tune: searchers and schedulers see plain z in a finite box, the trainable gets theta.

Needs the extra ``fastmap[ray]``. Nothing here depends on the searcher or the scheduler; those that change a
configuration by factors, as population based training does, would do it to z.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

from fastmap import optuna as studies
from fastmap._extras import need
from fastmap.search._axes import Axes
from fastmap.search._result import Record, Result, front
from fastmap.search._tuner import z_by_element
from fastmap.space import Space


def param_space(space: Space, /, **others: Any) -> dict[str, Any]:
    """What ``ray.tune.Tuner`` takes as its ``param_space``.

    Parameters
    ----------
    space : Space
        Boxes and maps. Every number of it is a ``ray.tune.uniform`` on z, under the name ``"z:" + name``.
    **others
        Domains of Ray and constants, which the trainable gets as they are: categorical ones for one.

    Raises
    ------
    ValueError
        A box that is missing or whose z is infinite; one name twice.
    """
    tune = need("ray.tune", "ray")
    if twice := [name for name in others if name in space]:
        raise ValueError(f"others: {twice[0]!r} is a parameter of the space")
    return {**{name: tune.uniform(*box) for name, box in studies.z_boxes(space).items()}, **others}


def trainable(function: Callable[[dict[str, Any]], Any], space: Space) -> Callable[[dict[str, Any]], Any]:
    """A trainable of theta as one that Ray calls with z.

    Parameters
    ----------
    function : callable
        Takes a dict of theta by name (and of the others of `param_space`); reports by ``ray.tune.report``, or
        returns a dict of metrics. ``tune.with_resources`` goes around the result.
    space : Space
        As in `param_space`.

    Raises
    ------
    TypeError
        A class: its ``setup`` calls `params` on the config that it gets.
    """
    if isinstance(function, type) or not callable(function):
        raise TypeError(
            "function: expected a function of theta; a class calls fastmap.ray.params(config, space) in setup"
        )

    @functools.wraps(function)
    def of_z(config: dict[str, Any]) -> Any:
        return function(params(config, space))

    return of_z


def params(config: Mapping[str, Any], space: Space) -> dict[str, Any]:
    """theta by name of a config of z: that of a trainable, or of a ``ray.tune.Result``."""
    z = studies.gather(space, config)
    numbers = studies.z_boxes(space)
    others = {name: value for name, value in config.items() if name not in numbers}
    return {**Axes(space, box=True, gradient=False).theta(z), **others}


def to_config(theta: Mapping[str, Any], space: Space) -> dict[str, Any]:
    """The config of a known point, for the ``points_to_evaluate`` of a searcher.

    Parameters
    ----------
    theta : mapping
        Values by name; names that `space` lacks stay as they are.
    space : Space
        As in `param_space`.

    Raises
    ------
    ValueError
        A value outside its box.
    """
    others = {name: value for name, value in theta.items() if name not in space}
    return {**z_by_element(space, {name: theta[name] for name in space if name in theta}), **others}


def result(grid: Any, space: Space, metric: str, mode: Literal["min", "max"]) -> Result:
    """What Ray found, in theta.

    Parameters
    ----------
    grid : ray.tune.ResultGrid
        From ``Tuner.fit``.
    space : Space
        As in `param_space`.
    metric, mode : str
        As in ``tune.TuneConfig``. The last reported value of a trial counts, also of one that a scheduler
        stopped, as in ``grid.get_best_result``.

    Returns
    -------
    Result
        Of a trial that failed before its first report Ray may keep no config: then its record has no theta.

    Raises
    ------
    ValueError
        A mode other than "min" and "max"; no trial that reported a finite value.
    """
    if mode not in ("min", "max"):
        raise ValueError(f"mode: expected 'min' or 'max', got {mode!r}")
    history = []
    for number, trial in enumerate(grid):
        metrics = trial.metrics or {}
        loss = float(metrics.get(metric, math.nan))
        error = None if trial.error is None else str(trial.error)
        if error is None and not math.isfinite(loss):
            error = f"{metric} is {loss}"
        theta: dict[str, Any] = {}
        z: dict[str, Any] = {}
        if config := metrics.get("config"):
            theta, z = params(config, space), studies.gather(space, config)
        history.append(Record(number, theta, z, loss, "COMPLETE" if error is None else "FAIL", error))
    direction: Literal["minimize", "maximize"] = "minimize" if mode == "min" else "maximize"
    best = front(history, direction)
    if not best:
        raise ValueError(f"metric: none of {len(history)} trials reported a finite {metric!r}")
    return Result(
        best[0].theta,
        best[0].loss,
        history,
        "ray",
        "the searcher and the scheduler of Ray Tune",
        space,
        direction,
        _seconds([trial.metrics for trial in grid if "time_total_s" in (trial.metrics or {})]),
    )


def _seconds(reports: list[Mapping[str, Any]]) -> float:
    """From the start of the first trial to the last report."""
    ends = [report["timestamp"] for report in reports]
    starts = [report["timestamp"] - report["time_total_s"] for report in reports]
    return float(max(ends) - min(starts)) if reports else math.nan
