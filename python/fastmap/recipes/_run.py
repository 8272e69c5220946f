"""``fastmap tune``: one recipe from the data to the table."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import fastmap as fm
from fastmap._extras import need
from fastmap.recipes import _arms, _evolution, _report
from fastmap.recipes._arms import Budget, Recipe, Run, Tick

Print = Callable[[str], None]

HYPERPARAMETER_NOTE = """\
  before: Adam at the framework's defaults, lr 1e-3, the same epochs. raw: linear in the boxes, which the
  sampler never leaves: no clamp is needed. tuner's own: Optuna with log=True for {logs}. fastmap:
  Log for these, {others}. The last two share their log scales: expect parity."""
EVOLUTION_NOTE = """\
  raw: one linear box for all weights. tuner's own: each tensor in units of its standard deviation. fastmap:
  the same through {map}. All three search the same library's z."""


def recipe_named(name: str, framework: str = "torch") -> Recipe:
    """The recipe of that name; ValueError where it has no model of that framework."""
    module = importlib.import_module(f"fastmap.recipes.{name}")
    recipes: list[Recipe] = [module.RECIPE, *getattr(module, "OTHERS", ())]
    for recipe in recipes:
        if recipe.framework == framework:
            return recipe
    able = ", ".join(recipe.framework for recipe in recipes)
    raise ValueError(f"--framework: the recipe {name} has a model for {able}, not for {framework}")


def tune(recipe: Recipe, budget: Budget, *, out: Path | None = None, quiet: bool = False) -> list[Run]:
    """Run a recipe, print the tables, write the files.

    Parameters
    ----------
    recipe : Recipe
        What to tune.
    budget : Budget
        Seeds, evaluations, method and the map of the signed weights.
    out : Path, optional
        Where to write result.json, trials.csv and the pictures.
    quiet : bool
        Only the tables: neither explanations nor a progress bar.

    Returns
    -------
    list of Run
        Every arm on every seed.

    Raises
    ------
    DomainError
        If the weights lie outside the domain of ``budget.map``.
    """
    say: Print = (lambda text: None) if quiet else print
    start = time.perf_counter()
    with _one_thread():
        model = _arms.initial_model(recipe, budget.seed)
        maps = _arms.weight_maps(recipe, model, budget.map)
        say(f"{recipe.title}\n")
        _explain_maps(recipe, model, maps, say)
        with _progress(recipe, budget, quiet) as tick:
            runs = list(_runs(recipe, budget, tick))
    seconds = time.perf_counter() - start
    _print_tables(recipe, budget, runs, say, seconds)
    if out is not None:
        from fastmap.recipes import _files

        json_maps = {name: map.to_json() for name, map in maps.items()}
        for path in _files.save(out, recipe, budget, runs, json_maps, seconds):
            say(f"wrote {path}")
    return runs


def _runs(recipe: Recipe, budget: Budget, tick: Tick) -> Iterator[Run]:
    for seed in range(budget.seed, budget.seed + budget.seeds):
        data = _arms.split(recipe, seed)
        yield from _arms.before(recipe, data, seed, budget.epochs)
        yield from _arms.tune_hyperparameters(recipe, data, seed, budget, tick)
        yield from _arms.search_weights(recipe, data, seed, budget, tick)
        yield from _evolution.search(recipe, data, seed, budget, tick)


def _explain_maps(recipe: Recipe, model: Any, maps: Mapping[str, fm.Map], say: Print) -> None:
    """The textbook's f = log on signed weights, as it fails; then the maps that fit, with their error."""
    weights = _arms.weights_of(recipe, model)
    name = next(name for name in weights if name not in recipe.bounded)
    say(f'The textbook map on the weights: fastmap.forward(model["{name}"], "log")')
    try:
        fm.forward(weights[name], "log")
    except fm.DomainError as error:
        say(f"  DomainError: {error}")
    worst = max(_round_trip(weight, maps[key]) for key, weight in weights.items())
    count = sum(weight.numel() for weight in weights.values())
    say(f"The map taken: {maps[name]!r} (a scale is the standard deviation of its tensor)")
    say(f"  forward and inverse of all {count} weights: largest error {worst:.3g} ULP (float32)\n")


def _round_trip(weight: Tensor, map: fm.Map) -> float:
    """The largest error of forward and inverse, in ULP of the weight."""
    error = (fm.inverse(fm.forward(weight, map), map) - weight).abs().numpy()
    return float((error / np.spacing(weight.abs().numpy())).max())


def _print_tables(recipe: Recipe, budget: Budget, runs: list[Run], say: Print, seconds: float) -> None:
    print(
        f"Hyperparameters: {budget.method}, {budget.trials} evaluations of {budget.epochs} epochs per arm "
        f"and split; test part, mean of {budget.seeds} splits"
    )
    print(_report.table(runs, "hyperparameters", recipe.unit))
    print("\n".join(_report.verdicts(runs, "hyperparameters")))
    say(f"Best of the first split, mapped back: {_best(runs)}")
    say(_hyperparameter_note(recipe))
    print(
        f"\nWeights: Adam, {budget.steps} full-batch steps, {_arms.RATES_PER_ARM} learning rates "
        f"per arm and split; test part, mean of {budget.seeds} splits"
    )
    print(_report.table(runs, "weights", recipe.unit))
    print("\n".join(_report.verdicts(runs, "weights")))
    print(_report.working_rates_line(runs, recipe.unit))
    say(_arms.framework(recipe).NOTE.format(map=budget.map))
    if recipe.bounded:
        text = ", ".join(f"{name}: {map!r}" for name, map in recipe.bounded.items())
        say(f"  Weights with bounds have maps of their own ({text}); raw clamps them.")
    if recipe.rows:
        say(f"  This part trains on {recipe.rows} rows of the training part.")
    for part, method in _arms.EVOLUTION.items() if budget.evaluations else ():
        print(
            f"\nWeights without gradients: {method}, {budget.evaluations} evaluations, "
            f"{len(_evolution.WIDTHS)} widths of the box per arm and split; test part, mean of "
            f"{budget.seeds} splits"
        )
        print(_report.table(runs, part))
        print("\n".join(_report.verdicts(runs, part)))
    if budget.evaluations:
        say(EVOLUTION_NOTE.format(map=budget.map))
    print(f"\n{seconds:.0f} s in all")


def _hyperparameter_note(recipe: Recipe) -> str:
    logs = [name for name, param in recipe.space.items() if param.map == fm.Log()]
    others = [
        f"{param.map!r} for {name}"
        for name, param in recipe.space.items()
        if param.map is not None and name not in logs
    ]
    return HYPERPARAMETER_NOTE.format(logs=" and ".join(logs), others=", ".join(others))


def _best(runs: list[Run]) -> str:
    best = _report.select(runs, "hyperparameters", "fastmap")[0].best
    return ", ".join(f"{name} = {value:.4g}" for name, value in best.items())


@contextmanager
def _one_thread() -> Iterator[None]:
    """Small models train fastest with one thread, and their numbers do not depend on the machine's load."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _progress(recipe: Recipe, budget: Budget, quiet: bool) -> Iterator[Tick]:
    per_seed = len(_arms.HYPERPARAMETER_ARMS) * budget.trials
    per_seed += len(_arms.framework(recipe).DESCENTS) * _arms.RATES_PER_ARM
    if budget.evaluations:
        per_seed += sum(len(_arms.ARMS[part]) for part in _arms.EVOLUTION) * len(_evolution.WIDTHS)
    tqdm = need("tqdm", "search").tqdm
    with tqdm(total=budget.seeds * per_seed, file=sys.stderr, unit="eval", disable=quiet) as bar:

        def tick(label: str) -> None:
            bar.set_description(f"{recipe.name}: {label}", refresh=False)
            bar.update()

        yield tick
