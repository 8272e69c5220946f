"""Hyperparameters near 1 and across decades: TPE on dense tables of trainings, four arms, paired by seed.

Two tables of validation log-losses, one training per point and split: a small network on scikit-learn's
digits by Adam over (lr, beta1, beta2), and one on its breast-cancer data by SGD over (lr, momentum, decay of
the averaged weights). A search reads the table, interpolated linearly between its points on the scales on
which they are spaced; it costs nothing then, so that there can be many seeds. The search boxes:

- linear: all as they are;
- Optuna's log: lr by log=True, the others as they are;
- hand-made: lr and one minus each of the others by log=True, as a careful user writes it;
- fastmap: Log for lr, OneMinusLog for the others.

The last two are the same scales, so parity between them is what to expect.

    python docs/evidence/hyperparameters.py --out FILE    # goes on where it was stopped
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from scipy.interpolate import RegularGridInterpolator
from sklearn.datasets import load_breast_cancer, load_digits
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

import fastmap as fm
from fastmap.recipes import _arms
from fastmap.recipes._report import paired_interval

RATES = [float(f"{rate:.3g}") for rate in np.logspace(-5, 0, 21)]
ARMS = ("linear", "Optuna's log", "hand-made", "fastmap")
SPLITS, STEPS, BATCH, HIDDEN = 2, 150, 32, 16
TRIALS, SEEDS = 30, 30


def near_one(largest: float, points: int = 11) -> list[float]:
    """From 0.5 to the largest, evenly in log(1 - x)."""
    return [1 - float(f"{rest:.3g}") for rest in np.geomspace(0.5, 1 - largest, points)]


@dataclass(frozen=True)
class Task:
    """Data, and an update rule with two numbers near 1 beside its learning rate."""

    name: str
    load: Callable[..., Any]
    averaged: bool  # SGD with averaged weights, else Adam
    grid: dict[str, list[float]]

    @property
    def space(self) -> fm.Space:
        """The box of the table."""
        lr, *others = self.grid.items()
        return fm.Space(
            {
                lr[0]: fm.Param(lr[1][0], lr[1][-1], map="log"),
                **{name: fm.Param(points[0], points[-1], map="one_minus_log") for name, points in others},
            }
        )


TASKS = (
    Task(
        "digits, Adam",
        load_digits,
        False,
        {"lr": RATES, "beta1": near_one(0.999), "beta2": near_one(0.9999)},
    ),
    Task(
        "breast cancer, SGD with averaged weights",
        load_breast_cancer,
        True,
        {"lr": RATES, "momentum": near_one(0.999), "average": near_one(0.999)},
    ),
)


# --- the tables ------------------------------------------------------------------------------------------


def row(task: Task, rate: float, split: int) -> list[float]:
    """Validation log-losses of all trainings at one learning rate, the last number varying fastest.

    They are trained at once, one model per point, all from the same weights on the same batches. A loss that
    is above that of a guess, or NaN, counts as that of a guess.
    """
    x, y, x_validation, y_validation = data(task, split)
    classes = int(y.max()) + 1
    first, second = (torch.tensor(numbers)[:, None, None] for numbers in zip(*points(task), strict=True))
    generator = torch.Generator().manual_seed(split)
    sizes = x.shape[1], HIDDEN, classes
    weights = [
        torch.randn(a + 1, b, generator=generator)
        .div(a**0.5)
        .repeat(len(first), 1, 1)  # the last row is the bias
        for a, b in pairwise(sizes)
    ]
    state = [(torch.zeros_like(w), w.clone() if task.averaged else torch.zeros_like(w)) for w in weights]
    for step in range(1, STEPS + 1):
        batch = torch.randint(len(x), (BATCH,), generator=generator)
        for w in weights:
            w.requires_grad_()
        losses = log_losses(weights, x[batch], y[batch])
        gradients = torch.autograd.grad(losses.sum(), weights)
        with torch.no_grad():
            weights = [w.detach() for w in weights]
            for w, g, (m, v) in zip(weights, gradients, state, strict=True):
                if task.averaged:
                    m.mul_(first).add_(g)
                    w.sub_(m, alpha=rate)
                    v.mul_(second).add_((1 - second) * w)
                else:
                    m.mul_(first).add_((1 - first) * g)
                    v.mul_(second).add_((1 - second) * g.square())
                    corrected = (v / (1 - second**step)).sqrt() + 1e-8
                    w.sub_(m / (1 - first**step) / corrected, alpha=rate)
    if task.averaged:
        weights = [average for _, average in state]
    found = log_losses(weights, x_validation, y_validation).nan_to_num(math.inf).clamp(max=math.log(classes))
    return [float(f"{loss:.5g}") for loss in found.tolist()]


def log_losses(weights: Sequence[Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Of each model."""
    first, second = weights
    hidden = torch.relu(x @ first[:, :-1] + first[:, -1:])
    output = torch.baddbmm(second[:, -1:], hidden, second[:, :-1])
    return F.cross_entropy(output.transpose(1, 2), y.expand(len(first), -1), reduction="none").mean(1)


def points(task: Task) -> list[tuple[float, float]]:
    """The two numbers near 1, of each training at one learning rate."""
    _, first, second = task.grid.values()
    return list(product(first, second))


def data(task: Task, split: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A third of the standardised rows to validate on."""
    x, y = task.load(return_X_y=True)
    order = np.random.default_rng(split).permutation(len(x))
    x, y = x[order], torch.tensor(y[order])
    train = len(x) * 2 // 3
    deviation = x[:train].std(0)
    x = torch.tensor((x - x[:train].mean(0)) / np.where(deviation > 0, deviation, 1)).float()
    return x[:train], y[:train], x[train:], y[train:]


# --- the searches ----------------------------------------------------------------------------------------


def objective_of(
    task: Task, rows: Sequence[Sequence[Sequence[float]]]
) -> Callable[[dict[str, float]], float]:
    """The table of a task, mean over its splits, between its points."""
    grid = list(task.grid.values())
    losses = np.mean(rows, axis=0).reshape([len(axis) for axis in grid])
    axes = [np.log(grid[0]), *(-np.log1p(-np.array(axis)) for axis in grid[1:])]
    table = RegularGridInterpolator(axes, losses)

    def objective(theta: dict[str, float]) -> float:
        lr, *others = (theta[name] for name in task.grid)
        at = [math.log(lr), *(-math.log1p(-x) for x in others)]
        inside = [
            min(max(z, axis[0]), axis[-1]) for z, axis in zip(at, axes, strict=True)
        ]  # but for rounding
        return float(table(inside)[0])

    return objective


def search(task: Task, objective: Callable[[dict[str, float]], float], arm: str, seed: int) -> list[float]:
    """The losses of one search, in order."""
    space = task.space
    if arm == "fastmap":
        result = fm.minimize(objective, space, method="tpe", budget=TRIALS, seed=seed)
        return [record.loss for record in result.history]
    budget = _arms.Budget(seed, 1, TRIALS, 1, 1, "tpe", "identity")
    if arm == "hand-made":
        rest = {name: param for name, param in space.items() if name != "lr"}
        turned = {name: fm.Param(1 - param.high, 1 - param.low, map="log") for name, param in rest.items()}

        def of_turned(theta: dict[str, float]) -> float:
            return objective({"lr": theta["lr"], **{name: 1 - theta[name] for name in rest}})

        _, records = _arms._optuna(of_turned, fm.Space({"lr": space["lr"], **turned}), True, budget, seed)
    else:
        _, records = _arms._optuna(objective, space, arm == "Optuna's log", budget, seed)
    return [record.loss for record in records]


def compare(runs: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """fastmap minus each other arm in the best loss of the search: mean, 95 % interval, means of both."""
    for task in dict.fromkeys(run["task"] for run in runs):
        best = {arm: [min(r["losses"]) for r in runs if (r["task"], r["arm"]) == (task, arm)] for arm in ARMS}
        for arm in ARMS[:-1]:
            differences = [a - b for a, b in zip(best["fastmap"], best[arm], strict=True)]
            mean, low, high = paired_interval(differences)
            means = {"fastmap": float(np.mean(best["fastmap"])), "other": float(np.mean(best[arm]))}
            yield {"task": task, "arm": arm, "mean": mean, "low": low, "high": high, "losses": means}


# --- the record ------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="default: %(default)s")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    tables = make_tables(args.out.with_suffix(".part.json"))
    runs = []
    with tqdm(total=len(TASKS) * len(ARMS) * args.seeds, desc="searches") as bar:
        for task in TASKS:
            objective = objective_of(task, tables[task.name])
            for seed, arm in product(range(args.seeds), ARMS):
                losses = search(task, objective, arm, seed)
                runs.append(
                    {
                        "task": task.name,
                        "arm": arm,
                        "seed": seed,
                        "losses": [float(f"{x:.6g}") for x in losses],
                    }
                )
                bar.update()
    comparisons = list(compare(runs))
    record = {
        "versions": {"fastmap": fm.__version__, "optuna": optuna.__version__, "torch": torch.__version__},
        "trials": TRIALS,
        "seeds": args.seeds,
        "grids": {task.name: task.grid for task in TASKS},
        "tables": tables,
        "comparisons": comparisons,
        "runs": runs,
    }
    args.out.write_text(one_line_lists(json.dumps(record, indent=1)) + "\n")
    args.out.with_suffix(".part.json").unlink()
    for c in comparisons:
        print(f"{c['task']}, fastmap minus {c['arm']}: {c['mean']:+.4f} [{c['low']:+.4f}, {c['high']:+.4f}]")


def make_tables(part: Path) -> dict[str, list[list[list[float]]]]:
    """By task, split and learning rate; what is done is kept in a file."""
    done = json.loads(part.read_text()) if part.exists() else {}
    keys = [(task, split, i) for task in TASKS for split in range(SPLITS) for i in range(len(RATES))]
    for task, split, i in tqdm(keys, desc="trainings, rows of the tables"):
        key = f"{task.name}/{split}/{i}"
        if key not in done:
            done[key] = row(task, RATES[i], split)
            part.write_text(json.dumps(done))
    return {
        task.name: [[done[f"{task.name}/{s}/{i}"] for i in range(len(RATES))] for s in range(SPLITS)]
        for task in TASKS
    }


def one_line_lists(text: str) -> str:
    """JSON with each innermost list on one line."""
    import re

    return re.sub(r"\[[^\[\]{}]*\]", lambda match: re.sub(r"\s+", " ", match[0]), text)


if __name__ == "__main__":
    main()
