"""Evaluations to a fixed regret: the fitting map against the linear box, on objectives with a known optimum.

``python bench/search.py --out bench/search.json`` runs what that file lacks, in two processes, and prints
the table. Counts of evaluations do not depend on the machine or its load. ``--overhead`` measures what a
trial costs beside Optuna, and a step of a long vector beside its map; that wants a quiet machine.

An objective is a quadratic or a Rosenbrock function of u in [0, 1]^n, where u is the position of theta on a
scale: that of Log on [1e-6, 1], of the logit on [1e-4, 1 - 1e-4], of 1 - log on [0, 0.9999], or the linear
one (unwarped: the map has nothing to give there). Arms are paired: same seed, same optimum, same budget, for
gradient descent the same starting point. A run that misses the regret counts as the budget. Gradient descent
searches with the learning rate that is best for the arm on seeds of their own, out of one grid.

`magnification` is how large the linear box shows the neighbourhood of the optimum, compared with the box of
the map: the product over the dimensions of |dtheta/dz| at the optimum, boxes scaled to 1, median over the
seeds. It is the ratio of the shares of both boxes that reach a small regret, whatever searches them.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
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


def optimum_of(n: int, seed: int) -> Any:
    """Its position on the scale of the objective, in [0, 1]."""
    return np.random.default_rng([seed, n]).uniform(0.2, 0.8, n)


def magnification(scale: str, n: int, seed: int) -> float:
    """How much larger the linear box shows a small neighbourhood of the optimum than the map's box does."""
    low, high, m = BOXES[scale]
    z_low, z_high = (float(fm.forward(end, m)) for end in (low, high))
    slope = fm.inverse_jacobian(z_low + (z_high - z_low) * optimum_of(n, seed), m)
    return float(np.prod(slope * (z_high - z_low) / (high - low)))


def objective(function: str, scale: str, n: int, seed: int) -> Callable[[Any, Any], Any]:
    """loss(theta, module) >= 0 of an array of n, with minimum 0; the optimum is drawn by the seed."""
    low, high, m = BOXES[scale]
    z_low, z_high = (float(fm.forward(end, m)) for end in (low, high))
    optimum = optimum_of(n, seed)
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


def evaluations(
    method: str, function: str, scale: str, n: int, mapped: bool, seed: int, lr: float
) -> tuple[int, float]:
    """How many evaluations until the regret is reached, the budget where it is not; and the last loss."""
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
            return budget, math.inf
    return (len(result.history) if result.loss <= target else budget), result.loss


def best_rate(function: str, scale: str, n: int, mapped: bool) -> float:
    """The learning rate with the fewest evaluations over three seeds that are not those of the table.

    Where no rate reaches the regret, the one with the lowest losses.
    """
    best, fewest = math.nan, (math.inf, math.inf)

    def attempt(lr: float) -> None:
        nonlocal best, fewest
        count, loss = 0, 0.0
        for seed in (100, 101, 102):
            more = evaluations("gd", function, scale, n, mapped, seed, lr)
            count, loss = count + more[0], loss + more[1]
            if (count, loss) >= fewest:
                return
        best, fewest = lr, (count, loss)

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
    """One row of the table."""
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    counts, rates = {}, {}
    for mapped in (True, False):
        rates[mapped] = best_rate(function, scale, n, mapped) if method == "gd" else math.nan
        counts[mapped] = np.array(
            [evaluations(method, function, scale, n, mapped, s, rates[mapped])[0] for s in range(seeds)]
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
        "magnification": float(np.median([magnification(scale, n, seed) for seed in range(seeds)])),
        "lr_map": rates[True] if method == "gd" else None,
        "lr_linear": rates[False] if method == "gd" else None,
        "seeds": seeds,
        "budget": BUDGET[method],
        "regret": REGRET[method] * n,
        "counts_map": counts[True].tolist(),
        "counts_linear": counts[False].tolist(),
    }


Key = tuple[str, str, str, int]


def key(row: dict[str, Any]) -> Key:
    return row["method"], row["function"], row["scale"], row["dimensions"]


def is_done(row: dict[str, Any], seeds: int) -> bool:
    """Whether a stored row has every count of a run of today."""
    method = row["method"]
    now = (seeds, BUDGET[method], REGRET[method] * row["dimensions"])
    return (row["seeds"], row["budget"], row["regret"]) == now and len(row.get("counts_map", ())) == seeds


def measured(keys: list[Key], seeds: int, jobs: int) -> Iterator[dict[str, Any]]:
    """The rows, as they are finished."""
    context = multiprocessing.get_context("spawn")  # torch has threads
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        for done in as_completed([pool.submit(compare, *one, seeds) for one in keys]):
            yield done.result()


def text(row: dict[str, Any]) -> str:
    return (
        f"{row['method']:7} {row['function']:11} {row['scale']:14} {row['dimensions']:2} {row['map']:5.0f} "
        f"{row['linear']:5.0f}   {row['ratio']:.2f} [{row['low']:.2f}, {row['high']:.2f}]   "
        f"{row['misses_map']}/{row['misses_linear']} of {row['seeds']}"
    )


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table of docs/search.md."""
    lines = [
        "| method | function | scale of the objective | dimensions | map | linear box | ratio "
        "| misses of 20, map / linear | magnification |",
        "|" + "---|" * 9,
    ]
    for row in rows:
        size = f"{row['magnification']:.2g}" if "magnification" in row else ""
        lines.append(
            f"| {row['method']} | {row['function']} | {row['scale']} | {row['dimensions']} "
            f"| {row['map']:.0f} | {row['linear']:.0f} "
            f"| {row['ratio']:.2f} [{row['low']:.2f}, {row['high']:.2f}] "
            f"| {row['misses_map']} / {row['misses_linear']} | {size} |"
        )
    return "\n".join(lines)


def overhead(trials: int = 300, size: int = 10_000_000) -> None:
    """Print milliseconds per trial beside bare Optuna, and per evaluation of a long vector beside its map."""
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

    optunas, fastmaps = fastest(bare, 5) / trials, fastest(ours, 5) / trials
    print(
        f"per trial: Optuna {optunas:.2f} ms, fastmap {fastmaps:.2f} ms, so {fastmaps - optunas:.2f} ms more"
    )

    # The objective reads nothing, and the gradient is one array: what is left is the map, there and back, and
    # the step of gradient descent.
    space = fm.Space(w=fm.Param(map="asinh", shape=size, dtype="float32"))
    gradient = {"w": np.ones(size, np.float32)}
    start = {"w": np.ones(size, np.float32)}
    z = np.ones(size, np.float32)
    steps = 20

    def search(budget: int) -> None:
        fm.minimize(lambda t: (1.0, gradient), space, method="gd", jac=True, budget=budget, init=start)

    def map_alone() -> None:
        fm.inverse(z, "asinh")
        fm.pullback(gradient["w"], z, "asinh")

    def torch_alone() -> None:
        leaf.grad = torch.from_numpy(gradient["w"])
        optimizer.step()

    leaf = torch.from_numpy(z.copy()).requires_grad_()
    optimizer = torch.optim.SGD([leaf], lr=0.05)
    evaluation = (fastest(lambda: search(steps + 1), 3) - fastest(lambda: search(1), 3)) / steps
    print(
        f"per evaluation of {size} numbers: {evaluation:.1f} ms; the map and its pullback alone "
        f"{fastest(map_alone, 5):.1f} ms, the step of torch alone {fastest(torch_alone, 5):.1f} ms"
    )


def fastest(run: Callable[[], object], repeats: int) -> float:
    """The shortest of several runs, in milliseconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - start))
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--dimensions", type=int, nargs="*", default=[2, 5, 10])
    parser.add_argument("--method", nargs="*", choices=list(BUDGET), default=list(BUDGET))
    parser.add_argument("--function", nargs="*", choices=FUNCTIONS, default=list(FUNCTIONS))
    parser.add_argument("--scale", nargs="*", choices=list(BOXES), default=list(BOXES))
    parser.add_argument("--jobs", type=int, default=2, help="processes (%(default)s)")
    parser.add_argument("--out", type=Path, help="a JSON file; rows that it has are not run again")
    parser.add_argument("--markdown", action="store_true", help="print the table of --out, run nothing")
    parser.add_argument("--overhead", action="store_true", help="milliseconds per trial instead")
    args = parser.parse_args()
    if args.overhead:
        overhead()
        return
    rows: dict[Key, dict[str, Any]] = {}
    if args.out and args.out.exists():
        rows = {key(row): row for row in json.loads(args.out.read_text())}
    if args.markdown:
        print(markdown(list(rows.values())))
        return
    asked = [
        (method, function, scale, n)
        for n in args.dimensions
        for method in args.method
        for function in args.function
        for scale in args.scale
    ]
    print("method  function    scale          n  map  linear  ratio [95 %]          misses map/linear")
    missing = [one for one in asked if one not in rows or not is_done(rows[one], args.seeds)]
    for row in measured(missing, args.seeds, args.jobs):
        rows[key(row)] = row
        print(text(row), flush=True)
        if args.out:
            args.out.write_text(json.dumps([rows[one] for one in sorted(rows)], indent=1) + "\n")


if __name__ == "__main__":
    main()
