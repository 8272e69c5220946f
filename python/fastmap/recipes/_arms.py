"""What the recipes share: splits, and the arms that are compared at equal budget.

Every arm sees the same splits, initial weights, shuffles, sampler seeds and number of evaluations. The
search sees the training and validation parts only; the test part is scored once, at each arm's best point.
`_torch.py` and `_keras.py` say how models are built, trained and searched.
"""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

import fastmap as fm
from fastmap._extras import need
from fastmap._map import CatalogMap, named
from fastmap.search._tuner import quiet as _quiet

Theta = dict[str, Any]
Weights = dict[str, Tensor]
Part = tuple[Tensor, Tensor]  # inputs and labels
Tick = Callable[[str], None]

HYPERPARAMETER_ARMS = ("raw", "tuner's own", "fastmap")
WEIGHT_ARMS = ("raw", "torch's own", "fastmap")
EVOLUTION = {"weights, CMA-ES": "sep-cmaes", "weights, evolution": "de"}  # parts without gradients: methods
ARMS = {
    "hyperparameters": HYPERPARAMETER_ARMS,
    "weights": WEIGHT_ARMS,
    **dict.fromkeys(EVOLUTION, HYPERPARAMETER_ARMS),
}
LEARNING_RATES = (0.002, 0.004, 0.008, 0.016, 0.032)
# Then two more around the best of the grid: the good rates of the mapped arms form a narrow valley, and
# a grid alone would compare how well its points happen to hit the valleys.
REFINEMENT = (2**-0.5, 2**0.5)
RATES_PER_ARM = len(LEARNING_RATES) + len(REFINEMENT)
DEFAULTS = {"lr": 1e-3, "weight_decay": 0.0, "momentum": 0.9, "dropout": 0.0}  # torch.optim.Adam's own

# What a recipe tunes unless it says otherwise. momentum averages over at most 1/(1 - 0.99) = 100 steps.
HYPERPARAMETERS = fm.Space(
    lr=fm.Param(1e-5, 1.0, map="log"),
    weight_decay=fm.Param(1e-6, 1.0, map="log"),
    momentum=fm.Param(0.0, 0.99, map="one_minus_log"),
    dropout=fm.Param(0.0, 0.5),
)


@dataclass(frozen=True)
class Recipe:
    """A model, its data, its search space and the default budget."""

    name: str
    title: str
    load: Callable[[int], tuple[Part, Part, Part]]  # of the seed: training, validation and test part
    model: Callable[[Theta], Any]  # of the hyperparameters
    log_loss: Callable[[Any, Any], Any]  # of the output of the model and labels
    predict: Callable[[Any], Any]  # labels from the output
    optimizer: Callable[[Any, Theta], Any]  # of the weights and the hyperparameters
    seeds: int
    trials: int
    epochs: int  # of one hyperparameter evaluation
    batch: int
    steps: int  # of one search of the weights
    evaluations: int = 0  # of one search of the weights without gradients; 0: none
    rows: int | None = None  # how many training rows the search of the weights takes; None: all
    bounded: Mapping[str, CatalogMap] = field(default_factory=dict)  # weights with bounds, and their maps
    map: str = "symlog"  # of the other weights
    space: fm.Space = field(default_factory=lambda: HYPERPARAMETERS)
    defaults: Mapping[str, float] = field(default_factory=lambda: DEFAULTS)
    unit: str = "log-loss"  # of log_loss
    framework: str = "torch"


@dataclass(frozen=True)
class Budget:
    """How much to spend, and how."""

    seed: int
    seeds: int
    trials: int
    epochs: int
    steps: int
    method: str  # "tpe" or "random"
    map: str  # of the signed weights
    evaluations: int = 0


@dataclass(frozen=True)
class Split:
    """Inputs and labels of the three parts; `search_rows` are those of the search of the weights."""

    train: Part
    validation: Part
    test: Part
    rows: int | None

    @property
    def search_rows(self) -> Part:
        inputs, labels = self.train
        return inputs[: self.rows], labels[: self.rows]


@dataclass(frozen=True)
class Run:
    """One arm on one seed."""

    part: str  # "before" or one of ARMS
    arm: str
    seed: int
    validation_log_loss: float
    test_log_loss: float
    test_accuracy: float
    seconds: float = 0.0
    best: Theta = field(default_factory=dict)
    records: list[fm.Record] = field(default_factory=list, repr=False)
    curve: list[float] = field(default_factory=list, repr=False)  # the best loss so far, thinned out

    @property
    def failures(self) -> int:
        """Evaluations without a finite loss."""
        return sum(record.state == "FAIL" for record in self.records)


def split(recipe: Recipe, seed: int) -> Split:
    """The recipe's data, as this seed splits them."""
    return Split(*recipe.load(seed), recipe.rows)


def stratified(inputs: Any, labels: Any, seed: int) -> tuple[Part, Part, Part]:
    """60/20/20 by class, standardised by the mean and deviation of the training part."""
    from sklearn.model_selection import train_test_split

    train_x, rest_x, train_y, rest_y = train_test_split(
        inputs, labels, test_size=0.4, stratify=labels, random_state=seed
    )
    validation_x, test_x, validation_y, test_y = train_test_split(
        rest_x, rest_y, test_size=0.5, stratify=rest_y, random_state=seed
    )
    mean, deviation = train_x.mean(0), train_x.std(0)
    deviation[deviation == 0] = 1.0

    def part(x: Any, y: Any) -> Part:
        scaled = (x - mean) / deviation
        return torch.from_numpy(scaled.astype(np.float32)), torch.from_numpy(y.astype(np.int64))

    return part(train_x, train_y), part(validation_x, validation_y), part(test_x, test_y)


def framework(recipe: Recipe) -> Any:
    """The module with the ways of the framework of a recipe: `_torch` or `_keras`."""
    return importlib.import_module(f"fastmap.recipes._{recipe.framework}")


def initial_model(recipe: Recipe, seed: int, theta: Mapping[str, Any] | None = None) -> Any:
    """The untrained model, of the defaults if theta is None; the same random numbers for all."""
    return framework(recipe).initial_model(recipe, seed, {**recipe.defaults, **(theta or {})})


def train(recipe: Recipe, data: Split, theta: Theta, seed: int, epochs: int) -> Any:
    """The model trained on shuffled batches."""
    return framework(recipe).train(recipe, data, theta, seed, epochs)


def score(recipe: Recipe, model: Any, part: Part) -> tuple[float, float]:
    """(log-loss, accuracy)."""
    log_loss, accuracy = framework(recipe).score(recipe, model, part)
    return log_loss, accuracy


def scored_run(recipe: Recipe, data: Split, model: Any, **fields: Any) -> Run:
    """A `Run` with the scores of this model."""
    validation, _ = score(recipe, model, data.validation)
    log_loss, accuracy = score(recipe, model, data.test)
    return Run(validation_log_loss=validation, test_log_loss=log_loss, test_accuracy=accuracy, **fields)


def before(recipe: Recipe, data: Split, seed: int, epochs: int) -> list[Run]:
    """The untrained model, and the model trained with the framework's defaults for Adam."""
    untrained = scored_run(
        recipe, data, initial_model(recipe, seed), part="before", arm="untrained", seed=seed
    )
    defaults = dict(recipe.defaults)
    start = time.perf_counter()
    model = train(framework(recipe).with_adam(recipe), data, defaults, seed, epochs)
    seconds = time.perf_counter() - start
    default = scored_run(
        recipe,
        data,
        model,
        part="before",
        arm="default",
        seed=seed,
        seconds=seconds,
        best=defaults,
        records=[fm.Record(0, defaults, defaults, score(recipe, model, data.validation)[0], "COMPLETE")],
    )
    return [untrained, default]


# --- hyperparameters: black-box search -------------------------------------------------------------------


def tune_hyperparameters(recipe: Recipe, data: Split, seed: int, budget: Budget, tick: Tick) -> Iterator[Run]:
    """One run per arm; the objective is the validation log-loss."""
    for arm in HYPERPARAMETER_ARMS:
        start = time.perf_counter()

        def objective(theta: Theta, arm: str = arm) -> float:
            tick(f"hyperparameters, {arm}")
            model = train(recipe, data, theta, seed, budget.epochs)
            return score(recipe, model, data.validation)[0]

        if arm == "fastmap":
            result = fm.minimize(
                objective, recipe.space, method=budget.method, budget=budget.trials, seed=seed
            )
            best, records = result.best, result.history
        else:
            best, records = _optuna(objective, recipe.space, arm == "tuner's own", budget, seed)
        seconds = time.perf_counter() - start
        yield scored_run(
            recipe,
            data,
            train(recipe, data, best, seed, budget.epochs),
            part="hyperparameters",
            arm=arm,
            seed=seed,
            seconds=seconds,
            best=best,
            records=records,
        )


def _optuna(
    objective: Callable[[Theta], float], space: fm.Space, own_log: bool, budget: Budget, seed: int
) -> tuple[Theta, list[fm.Record]]:
    """Optuna by itself, in the same box: linear, or with log=True where fastmap takes `Log`."""
    optuna = need("optuna", "search")
    samplers = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
    with _quiet(optuna):
        study = optuna.create_study(sampler=samplers[budget.method](seed=seed))
    logs = [name for name, param in space.items() if own_log and param.map == fm.Log()]
    boxes = {
        name: optuna.distributions.FloatDistribution(*param.box, log=name in logs)
        for name, param in space.items()
    }
    records = []
    for number in range(budget.trials):
        trial = study.ask(boxes)
        theta = dict(trial.params)
        loss = objective(theta)
        state = "COMPLETE" if math.isfinite(loss) else "FAIL"
        study.tell(trial, loss if state == "COMPLETE" else None, optuna.trial.TrialState[state])
        z = {name: math.log(value) if name in logs else value for name, value in theta.items()}
        records.append(fm.Record(number, theta, z, loss, state))
    if not any(record.state == "COMPLETE" for record in records):
        raise ValueError(f"objective: none of {budget.trials} evaluations gave a finite loss")
    return dict(study.best_params), records


# --- weights: gradient search ----------------------------------------------------------------------------


def weights_of(recipe: Recipe, model: Any) -> Weights:
    """The trainable weights of a model by name."""
    weights: Weights = framework(recipe).weights(model)
    return weights


def weight_maps(recipe: Recipe, model: Any, map: str) -> dict[str, CatalogMap]:
    """Their own maps for weights with bounds; else `map`, its scale (if it has one) from the tensor."""
    return {
        name: recipe.bounded[name] if name in recipe.bounded else scaled_map(map, weight)
        for name, weight in weights_of(recipe, model).items()
    }


def scaled_map(map: str, weight: Tensor) -> CatalogMap:
    """The map of that name; its scale, if it has one, is the standard deviation of the tensor."""
    kind = type(named(map))
    if "scale" not in {param["name"] for param in kind.entry["params"]}:
        return kind()
    deviation = float(weight.detach().std(correction=0))
    scale = deviation or float(weight.detach().abs().max()) or 1.0  # one value has no deviation
    return kind(scale=float(f"{scale:.3g}"))


def search_weights(recipe: Recipe, data: Split, seed: int, budget: Budget, tick: Tick) -> Iterator[Run]:
    """One run per arm: full-batch Adam, its learning rate by the validation log-loss."""
    maps, own = weight_maps(recipe, initial_model(recipe, seed), budget.map), framework(recipe)
    for arm in own.DESCENTS:
        start = time.perf_counter()
        best: tuple[float, float, Any] | None = None
        records: list[fm.Record] = []
        for number in range(RATES_PER_ARM):
            lr = _learning_rate(number, records)
            tick(f"weights, {arm}")
            found = own.descend(recipe, seed, arm, maps, data.search_rows, lr, budget.steps)
            validation, _ = score(recipe, found, data.validation)
            state = "COMPLETE" if math.isfinite(validation) else "FAIL"
            records.append(fm.Record(number, {"lr": lr}, {"lr": lr}, validation, state))
            if state == "COMPLETE" and (best is None or validation < best[0]):
                best = validation, lr, found
        seconds = time.perf_counter() - start
        if best is None:
            raise ValueError(f"weights: no learning rate gave a finite loss in the arm {arm!r}")
        yield scored_run(
            recipe,
            data,
            best[2],
            part="weights",
            arm=arm,
            seed=seed,
            seconds=seconds,
            best={"lr": best[1]},
            records=records,
        )


def _learning_rate(number: int, records: list[fm.Record]) -> float:
    """The next one to try: the grid, then the points between its best one and the neighbours."""
    if number < len(LEARNING_RATES):
        return LEARNING_RATES[number]
    grid = [record for record in records[: len(LEARNING_RATES)] if record.state == "COMPLETE"]
    best = min(grid, key=lambda record: record.loss, default=records[0])
    return float(best.theta["lr"]) * REFINEMENT[number - len(LEARNING_RATES)]
