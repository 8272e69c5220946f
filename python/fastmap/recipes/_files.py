"""What ``fastmap tune --out`` writes: result.json, trials.csv and pictures."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

import fastmap as fm
from fastmap._extras import need
from fastmap.recipes._arms import (
    ARMS,
    EVOLUTION,
    HYPERPARAMETER_ARMS,
    LEARNING_RATES,
    REFINEMENT,
    Budget,
    Recipe,
    Run,
    framework,
)
from fastmap.recipes._report import arms, comparisons, select, working_rates
from fastmap.search._result import flat as _flat

_COLORS = {"raw": "C7", "tuner's own": "C0", "torch's own": "C0", "fastmap": "C3"}
_STYLES = {"raw": ":", "tuner's own": "--", "torch's own": "--", "fastmap": "-"}


def save(
    directory: Path, recipe: Recipe, budget: Budget, runs: Sequence[Run], maps: dict[str, Any], seconds: float
) -> list[Path]:
    """Write everything; the paths of the files."""
    directory.mkdir(parents=True, exist_ok=True)
    figures = {
        "loss_by_trial.png": _loss_by_trial(recipe, runs),
        "loss_over_theta_and_z.png": _loss_over_parameters(recipe, runs),
        "weights_by_learning_rate.png": _loss_by_rate(recipe, runs),
    }
    if budget.evaluations:
        figures["weights_without_gradients.png"] = _loss_by_evaluation(recipe, budget, runs)
    paths = [directory / "result.json", directory / "trials.csv", *(directory / name for name in figures)]
    summary = _summary(recipe, budget, runs, maps, seconds)
    paths[0].write_text(json.dumps(_finite(summary), indent=1, allow_nan=False) + "\n")
    _write_trials(paths[1], runs)
    for path, figure in zip(paths[2:], figures.values(), strict=True):
        figure.savefig(path, dpi=120)
    return paths


def _summary(
    recipe: Recipe, budget: Budget, runs: Sequence[Run], maps: dict[str, Any], seconds: float
) -> dict[str, Any]:
    rows = []
    for run in runs:
        row = {key: value for key, value in vars(run).items() if key != "records"}
        rows.append({**row, "evaluations": len(run.records), "failures": run.failures})
    versions = {name: metadata.version(name) for name in ("numpy", "optuna", "scikit-learn")}
    return {
        "recipe": recipe.name,
        "title": recipe.title,
        "unit": recipe.unit,
        "budget": asdict(budget),
        "space": recipe.space.to_json(),
        "weight_maps": maps,
        "learning_rate_grid": LEARNING_RATES,
        "learning_rate_refinement": REFINEMENT,
        "learning_rates_that_work": working_rates(runs),
        "runs": rows,
        "comparisons": [{**asdict(c), "verdict": c.verdict} for c in comparisons(runs)],
        "seconds": seconds,
        "versions": {"fastmap": fm.__version__, **versions, **framework(recipe).VERSIONS},
        "isa": fm.info()["isa"],
    }


def _finite(value: Any) -> Any:
    """Infinite and NaN numbers as null, which JSON has."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_trials(path: Path, runs: Sequence[Run]) -> None:
    rows = [
        {"part": run.part, "arm": run.arm, "seed": run.seed, **_flat(record)}
        for run in runs
        for record in run.records
    ]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)


def _figure(width: float, height: float) -> Any:
    return need("matplotlib.figure", "viz").Figure(figsize=(width, height), layout="constrained")


def _loss_by_trial(recipe: Recipe, runs: Sequence[Run]) -> Any:
    """The best validation loss so far, per arm: each seed thin, their mean thick."""
    figure = _figure(7.5, 4.5)
    axes = figure.add_subplot()
    for arm in HYPERPARAMETER_ARMS:
        curves = [_best_so_far(run) for run in select(runs, "hyperparameters", arm)]
        numbers = range(1, len(curves[0]) + 1)
        for curve in curves:
            axes.step(numbers, curve, where="post", color=_COLORS[arm], alpha=0.25, linewidth=0.8)
        mean = [sum(values) / len(values) for values in zip(*curves, strict=True)]
        axes.step(numbers, mean, _STYLES[arm], where="post", color=_COLORS[arm], linewidth=2, label=arm)
    axes.set_yscale("log")
    axes.set(
        xlabel="evaluations",
        ylabel=f"best validation {recipe.unit} so far",
        title=f"{recipe.name}: hyperparameters (thick: mean of {len(curves)} splits)",
    )
    axes.xaxis.get_major_locator().set_params(integer=True)
    _plain_log_ticks(axes)
    axes.legend()
    return figure


def _best_so_far(run: Run) -> list[float]:
    best, curve = math.nan, []
    for record in run.records:
        if record.state == "COMPLETE":
            best = record.loss if math.isnan(best) else min(best, record.loss)
        curve.append(best)
    return curve


def _loss_over_parameters(recipe: Recipe, runs: Sequence[Run]) -> Any:
    """Validation loss over theta (top) and z (bottom), every evaluation of the fastmap arm."""
    from matplotlib.ticker import MaxNLocator

    records = [
        record
        for run in select(runs, "hyperparameters", "fastmap")
        for record in run.records
        if record.state == "COMPLETE"
    ]
    figure = _figure(3.0 * len(recipe.space), 5.5)
    grid = figure.subplots(2, len(recipe.space), sharey=True)
    for column, (name, param) in enumerate(recipe.space.items()):
        for row, symbol in enumerate(("theta", "z")):
            axes = grid[row, column]
            values = [getattr(record, symbol)[name] for record in records]
            order = [record.number for record in records]
            dots = axes.scatter(values, [r.loss for r in records], c=order, s=8, cmap="viridis")
            axes.set_xlabel(f"z = {param.box_map.name}(θ)" if row else "θ")
            axes.set_title("" if row else name)
            axes.locator_params(axis="x", nbins=5)
            axes.set_yscale("log")
            if not column:
                axes.set_ylabel(f"validation {recipe.unit}")
            _plain_log_ticks(axes)
    figure.colorbar(dots, ax=grid, label="evaluation", pad=0.01, ticks=MaxNLocator(integer=True))
    figure.suptitle(f"{recipe.name}: the same evaluations of the fastmap arm over θ and over z")
    return figure


def _loss_by_rate(recipe: Recipe, runs: Sequence[Run]) -> Any:
    """Validation loss over the grid of learning rates, per arm of the weights part."""
    from matplotlib.ticker import NullLocator

    figure = _figure(7.5, 4.5)
    axes = figure.add_subplot()
    for arm in arms(runs, "weights"):
        chosen = select(runs, "weights", arm)
        curves = [[record.loss for record in run.records[: len(LEARNING_RATES)]] for run in chosen]
        for curve in curves:
            axes.plot(LEARNING_RATES, curve, color=_COLORS[arm], alpha=0.25, linewidth=0.8)
        mean = [sum(losses) / len(losses) for losses in zip(*curves, strict=True)]
        width = 4 if arm == "torch's own" else 2
        axes.plot(LEARNING_RATES, mean, _STYLES[arm], color=_COLORS[arm], linewidth=width, label=arm)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(LEARNING_RATES, [f"{rate:g}" for rate in LEARNING_RATES])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set(
        xlabel="learning rate of Adam (raw: in θ, others: in z)",
        ylabel=f"validation {recipe.unit}",
        title=f"{recipe.name}: weights (thick: mean of {len(chosen)} splits)",
    )
    _plain_log_ticks(axes)
    axes.legend()
    return figure


def _loss_by_evaluation(recipe: Recipe, budget: Budget, runs: Sequence[Run]) -> Any:
    """The lowest training loss so far of the searches without gradients, per method and arm."""
    figure = _figure(10.0, 4.5)
    for axes, part in zip(figure.subplots(1, len(EVOLUTION), sharey=True), EVOLUTION, strict=True):
        for arm in ARMS[part]:
            curves = [run.curve for run in select(runs, part, arm)]
            numbers = np.linspace(1, budget.evaluations, len(curves[0]))
            for curve in curves:
                axes.plot(numbers, curve, color=_COLORS[arm], alpha=0.25, linewidth=0.8)
            mean = np.mean(curves, axis=0)
            axes.plot(numbers, mean, _STYLES[arm], color=_COLORS[arm], linewidth=2, label=arm)
        axes.set_yscale("log")
        axes.set(xlabel="evaluations", title=EVOLUTION[part])
        _plain_log_ticks(axes)
        axes.legend()
    figure.axes[0].set_ylabel("lowest training log-loss so far")
    figure.suptitle(
        f"{recipe.name}: weights without gradients, each arm at its best width of the box "
        f"(thick: mean of {len(curves)} splits)"
    )
    return figure


def _plain_log_ticks(axes: Any) -> None:
    """0.05 rather than 5 × 10⁻² on the vertical axis."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
