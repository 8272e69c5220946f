"""Evaluations to a fixed regret: the fitting map against the linear box, on objectives with a known optimum.

``python bench/search.py --out bench/search.json`` runs everything and prints the table. Counts of evaluations
do not depend on the machine; the overhead per trial, which does, is printed last.

An objective is a quadratic or a Rosenbrock function of u in [0, 1]^n, where u is the position of theta on a
scale: that of Log on [1e-6, 1], of the logit on [1e-4, 1 - 1e-4], of 1 - log on [0, 0.9999], or the linear
one (unwarped: the map has nothing to give there). Arms are paired: same seed, same optimum, same budget, for
gradient descent the same starting point. A run that misses the regret counts as the budget. Gradient descent
searches with the learning rate that is best for the arm on seeds of their own, out of one grid.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch

import fastmap as fm

BOXES: dict[str, tuple[float, float, Any]] = {
    "log": (1e-6, 1.0, fm.Log()),
    "logit": (1e-4, 1 - 1e-4, fm.Logit()),
    "one_minus_log": (0.0, 0.9999, fm.OneMinusLog()),
    "unwarped": (0.0, 1.0, fm.Identity()),
}
# On unwarped objectives the "fitting" arm has a map that a user might try in vain.
VAIN = fm.Asinh(0.3)
FUNCTIONS = ("quadratic", "rosenbrock")
BUDGET = {"tpe": 150, "cmaes": 400, "gd": 400}
REGRET = {"tpe": 0.02, "cmaes": 1e-3, "gd": 1e-3}  # per dimension
RATES = tuple(10.0**e for e in range(-7, 3))  # then half a decade to both sides of the best
SEEDS = 20


def objective(function: str, scale: str, n: int, seed: int) -> Callable[[Any, Any], Any]:
    """loss(theta, module) >= 0 of an array of n, with minimum 0; the optimum is drawn by the seed."""
    low, high, m = BOXES[scale]
    z_low, z_high = (float(fm.forward(end, m)) for end in (low, high))
    optimum = np.random.default_rng([seed, n]).uniform(0.2, 0.8, n)
    weights = 10.0 ** np.linspace(0, 1, n)
    to_z: Callable[[Any, Any], Any] = {
        "log": lambda t, xp: xp.log(t),
        "logit": lambda t, xp: xp.log(t / (1 - t)),
        "one_minus_log": lambda t, xp: -xp.log(1 - t),
        "unwarped": lambda t, xp: t,
    }[scale]

    def loss(theta: Any, xp: Any) -> Any:
        d = (to_z(theta, xp) - z_low) / (z_high - z_low) - xp.asarray(optimum)
        if function == "quadratic":
            return (xp.asarray(weights) * d * d).sum()
        v = 1 + 2 * d  # the valley of Rosenbrock's function, its minimum at the optimum
        return ((1 - v[:-1]) ** 2 + 5 * (v[1:] - v[:-1] ** 2) ** 2).sum()

    return loss


def searched_map(scale: str, mapped: bool) -> Any:
    if not mapped:
        return "identity"
    return VAIN if scale == "unwarped" else BOXES[scale][2]


def evaluations(method: str, function: str, scale: str, n: int, mapped: bool, seed: int, lr: float) -> int:
    """How many evaluations until the regret is reached; the budget where it is not."""
    loss, budget, target = objective(function, scale, n, seed), BUDGET[method], REGRET[method] * n
    (low, high, true_map), m = BOXES[scale], searched_map(scale, mapped)
    if method != "gd":
        result = fm.minimize(
            lambda t: float(loss(np.array(list(t.values())), np)),
            fm.Space({f"p{i}": fm.Param(low, high, map=m) for i in range(n)}),
            method=method,
            budget=budget,
            seed=seed,
            target=target,
        )
    else:
        u = np.random.default_rng([seed, n, 1]).uniform(0.1, 0.9, n)  # the start, even on the true scale
        z_low, z_high = (float(fm.forward(end, true_map)) for end in (low, high))
        try:
            result = fm.minimize(
                lambda t: loss(t["p"], torch),
                fm.Space(p=fm.Param(low, high, map=m, shape=n, dtype="float64")),
                method="gd",
                lr=lr,
                budget=budget,
                init={"p": fm.inverse(z_low + (z_high - z_low) * u, true_map)},
                target=target,
            )
        except ValueError:  # no finite loss
            return budget
    return len(result.history) if result.loss <= target else budget


def best_rate(function: str, scale: str, n: int, mapped: bool) -> float:
    """The learning rate with the fewest evaluations over three seeds that are not those of the table."""

    best, fewest = math.nan, 3 * BUDGET["gd"] + 1

    def attempt(lr: float) -> None:
        nonlocal best, fewest
        cost = 0
        for seed in (100, 101, 102):
            cost += evaluations("gd", function, scale, n, mapped, seed, lr)
            if cost >= fewest:
                return
        best, fewest = lr, cost

    for lr in sorted(RATES, key=lambda lr: abs(math.log10(lr))):
        attempt(lr)
    for lr in (best / 10**0.5, best * 10**0.5):
        attempt(lr)
    return best


def interval(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """A 95 % bootstrap interval of the ratio of medians, over paired seeds."""
    rng = np.random.default_rng(0)
    rows = rng.integers(len(ours), size=(4000, len(ours)))
    ratios = np.median(ours[rows], 1) / np.median(theirs[rows], 1)
    return float(np.quantile(ratios, 0.025)), float(np.quantile(ratios, 0.975))


def compare(method: str, function: str, scale: str, n: int, seeds: int) -> dict[str, Any]:
    counts, rates = {}, {}
    for mapped in (True, False):
        rates[mapped] = best_rate(function, scale, n, mapped) if method == "gd" else math.nan
        counts[mapped] = np.array(
            [evaluations(method, function, scale, n, mapped, s, rates[mapped]) for s in range(seeds)]
        )
    low, high = interval(counts[True], counts[False])
    return {
        "method": method,
        "function": function,
        "scale": scale,
        "dimensions": n,
        "map": float(np.median(counts[True])),
        "linear": float(np.median(counts[False])),
        "ratio": float(np.median(counts[True]) / np.median(counts[False])),
        "low": low,
        "high": high,
        "misses_map": int((counts[True] >= BUDGET[method]).sum()),
        "misses_linear": int((counts[False] >= BUDGET[method]).sum()),
        "lr_map": rates[True],
        "lr_linear": rates[False],
        "seeds": seeds,
        "budget": BUDGET[method],
        "regret": REGRET[method] * n,
    }


def overhead(trials: int = 300) -> dict[str, float]:
    """Milliseconds per trial of a random search of five parameters: bare Optuna, and fastmap above it."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    log = fm.Space({f"p{i}": fm.Param(1e-6, 1, map="log") for i in range(5)})

    def bare() -> None:
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        boxes = {f"p{i}": optuna.distributions.FloatDistribution(1e-6, 1, log=True) for i in range(5)}
        for _ in range(trials):
            trial = study.ask(boxes)
            study.tell(trial, sum(trial.params.values()))

    def ours() -> None:
        fm.minimize(lambda t: sum(t.values()), log, method="random", budget=trials, seed=0)

    times: dict[str, list[float]] = {"optuna": [], "fastmap": []}
    for _ in range(5):
        for name, run in (("optuna", bare), ("fastmap", ours)):
            start = time.perf_counter()
            run()
            times[name].append(1e3 * (time.perf_counter() - start) / trials)
    return {name: min(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--dimensions", type=int, nargs="*", default=[2, 5, 10])
    parser.add_argument("--method", nargs="*", choices=list(BUDGET), default=list(BUDGET))
    parser.add_argument("--function", nargs="*", choices=FUNCTIONS, default=list(FUNCTIONS))
    parser.add_argument("--scale", nargs="*", choices=list(BOXES), default=list(BOXES))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    print(
        "method  function    scale          n  map  linear  ratio [95 %]          misses map/linear",
        flush=True,
    )
    for method in args.method:
        for function in args.function:
            for scale in args.scale:
                for n in args.dimensions:
                    row = compare(method, function, scale, n, args.seeds)
                    rows.append(row)
                    print(
                        f"{method:7} {function:11} {scale:14} {n:2} {row['map']:5.0f} {row['linear']:5.0f}   "
                        f"{row['ratio']:.2f} [{row['low']:.2f}, {row['high']:.2f}]   "
                        f"{row['misses_map']}/{row['misses_linear']} of {args.seeds}",
                        flush=True,
                    )
                    if args.out:
                        args.out.write_text(json.dumps(rows, indent=1) + "\n")
    cost = overhead()
    print(f"per trial: Optuna {cost['optuna']:.2f} ms, fastmap {cost['fastmap']:.2f} ms")


if __name__ == "__main__":
    main()
