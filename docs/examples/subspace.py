"""How few numbers train a network: a CNN on the digits data, searched in random subspaces of its weights.

theta = theta_0 + P z has m numbers z for the n weights of the network. Li et al., "Measuring the Intrinsic
Dimension of Objective Landscapes" (2018), call the smallest m that reaches 90 % of the accuracy of ordinary
training the intrinsic dimension. Here Adam searches z by gradients, and CMA-ES by values of the loss alone;
the same two on all weights are what to compare with (a separable CMA-ES, since a full covariance of all
weights is too large).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

import fastmap as fm
from fastmap.recipes import cnn
from fastmap.recipes._report import text_table

SIZES = (5, 10, 20, 50, 100, 200, 500)
BLACK_BOX_SIZES = (5, 10, 20, 50, 100)
STEPS, BATCH, RATE = 600, 64, 0.03  # of Adam
EVALUATIONS, IMAGES = 1500, 600  # of CMA-ES; each is the loss on the first 600 training images
PART = 0.9  # of the accuracy of ordinary training, which defines the intrinsic dimension


class Problem:
    """The network of one seed, its data, and its loss and accuracy as functions of one vector of weights."""

    def __init__(self, seed: int) -> None:
        images, labels = load_digits(return_X_y=True)
        order = np.random.default_rng(seed).permutation(len(images))
        x = torch.tensor(images[order].reshape(-1, 1, 8, 8) / 16, dtype=torch.float32)
        y = torch.tensor(labels[order])
        self.x, self.y, self.x_test, self.y_test = x[:1200], y[:1200], x[1200:], y[1200:]
        torch.manual_seed(seed)
        self.model = cnn.model({"dropout": 0.0})
        self.start = parameters_to_vector(self.model.parameters()).detach()
        self.names = [name for name, _ in self.model.named_parameters()]
        self.shapes = [p.shape for p in self.model.parameters()]

    def output(self, theta: Tensor, x: Tensor) -> Tensor:
        parts = theta.split([shape.numel() for shape in self.shapes])
        weights = {n: p.view(s) for n, p, s in zip(self.names, parts, self.shapes, strict=True)}
        return torch.func.functional_call(self.model, weights, (x,))

    def loss(self, theta: Tensor, chosen: Tensor | slice = slice(None)) -> Tensor:
        return nn.functional.cross_entropy(self.output(theta, self.x[chosen]), self.y[chosen])

    @torch.no_grad()
    def accuracy(self, theta: Tensor) -> float:
        return float((self.output(theta, self.x_test).argmax(1) == self.y_test).double().mean())


def by_adam(problem: Problem, directions: fm.Subspace | None, steps: int, seed: int) -> Tensor:
    """The weights after training z, or all weights."""
    z = (torch.zeros(directions.m) if directions else problem.start.clone()).requires_grad_()
    optimizer = torch.optim.Adam([z], RATE if directions else RATE / 10)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        chosen = torch.randint(len(problem.x), (BATCH,), generator=order)
        optimizer.zero_grad()
        problem.loss(directions.inverse(z) if directions else z, chosen).backward()
        optimizer.step()
        decay.step()
    return (directions.inverse(z) if directions else z).detach()


def by_cmaes(problem: Problem, directions: fm.Subspace | None, evaluations: int, seed: int) -> Tensor:
    """The best weights that a black-box search of z, or of all weights, has found."""

    def weights(z: Any) -> Tensor:
        step = torch.as_tensor(np.asarray(z, np.float32))
        return directions.inverse(step) if directions else problem.start + step

    @torch.no_grad()
    def loss(p: dict[str, Any]) -> float:
        return float(problem.loss(weights(p["z"]), slice(IMAGES)))

    size = directions.m if directions else len(problem.start)
    space = fm.Space(z=fm.Param(shape=size, init=np.zeros(size)))
    options = {} if directions else {"sigma": 0.1}  # many numbers, a smaller first step of each
    method = "cmaes" if directions else "sep-cmaes"
    result = fm.minimize(loss, space, method=method, budget=evaluations, seed=seed, options=options)
    return weights(result.best["z"])


def run(search: Any, m: int | None, effort: int, seed: int) -> dict[str, Any]:
    """One search; m is None for all weights."""
    torch.set_num_threads(1)
    fm.set_num_threads(1)
    problem = Problem(seed)
    n = len(problem.start)
    directions = fm.Subspace(n, m, seed, start=problem.start) if m else None
    theta = search(problem, directions, effort, seed)
    return {
        "search": "adam" if search is by_adam else "cmaes",
        "m": m,
        "n": n,
        "seed": seed,
        "accuracy": problem.accuracy(theta),
    }


def of(record: dict[str, Any], search: str, m: int | None) -> list[float]:
    return [r["accuracy"] for r in record["runs"] if r["search"] == search and r["m"] == m]


def intrinsic_dimension(record: dict[str, Any], search: str) -> int | None:
    """The smallest m whose median accuracy is `PART` of that of Adam on all weights."""
    wanted = PART * float(np.median(of(record, "adam", None)))
    sizes = sorted({r["m"] for r in record["runs"] if r["search"] == search and r["m"]})
    return next((m for m in sizes if np.median(of(record, search, m)) >= wanted), None)


def table(record: dict[str, Any]) -> str:
    rows = []
    for search, m in dict.fromkeys((r["search"], r["m"]) for r in record["runs"]):
        found = of(record, search, m)
        n = record["runs"][0]["n"]
        name = f"fastmap: {search}, m = {m}" if m else f"{search}, all {n} weights"
        spread = f"{min(found):.3f} to {max(found):.3f}"
        rows.append((name, f"{np.median(found):.3f}", spread))
    return text_table(("search", "test accuracy", "seeds"), rows)


def draw(record: dict[str, Any]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    names = {"adam": "Adam on z", "cmaes": "CMA-ES on z (values only)"}
    for search, colour in (("adam", "#009E73"), ("cmaes", "#0072B2")):
        sizes = sorted({r["m"] for r in record["runs"] if r["search"] == search and r["m"]})
        for m in sizes:
            found = of(record, search, m)
            axes.plot([m] * len(found), found, ".", color=colour, alpha=0.4)
        axes.plot(sizes, [np.median(of(record, search, m)) for m in sizes], color=colour, label=names[search])
        kind = "Adam" if search == "adam" else "separable CMA-ES"
        label = f"{kind} on all {record['runs'][0]['n']} weights"
        axes.axhline(np.median(of(record, search, None)), color=colour, ls="--", label=label)
    wanted = PART * float(np.median(of(record, "adam", None)))
    axes.axhline(wanted, color="#999999", ls=":", label=f"{PART:.0%} of ordinary training")
    axes.set(xscale="log", xlabel="m, numbers searched", ylabel="test accuracy", ylim=(0, 1.02))
    axes.set_xticks(SIZES, [str(m) for m in SIZES])
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    axes.set_title("Digits CNN in random subspaces of its weights", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Write `subspace.json` and `subspace.png`, print the table; the record."""
    parser = argparse.ArgumentParser(prog=Path(__file__).name)
    parser.add_argument("--seeds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="default: this folder")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes; default: one per core")
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it runs")
    args = parser.parse_args(argv)
    steps, evaluations = (5, 20) if args.quick else (STEPS, EVALUATIONS)
    seeds = range(1 if args.quick else args.seeds)
    tasks = [
        (search, m, effort, seed)
        for search, sizes, effort in ((by_cmaes, BLACK_BOX_SIZES, evaluations), (by_adam, SIZES, steps))
        for m in (*sizes, None)
        for seed in seeds
    ]
    if args.quick:
        runs = [run(*task) for task in tasks]
    else:  # a fork of a process that has used torch's threads may hang, so the workers start anew
        with ProcessPoolExecutor(args.jobs, get_context("spawn")) as pool:
            runs = list(pool.map(run, *zip(*tasks, strict=True)))
    record = {
        "versions": {
            "fastmap": fm.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "steps": steps,
        "evaluations": evaluations,
        "seeds": len(seeds),
        "runs": runs,
    }
    record["intrinsic_dimension"] = {s: intrinsic_dimension(record, s) for s in ("adam", "cmaes")}
    print(table(record))
    print(f"intrinsic dimension at {PART:.0%}: {record['intrinsic_dimension']}")
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / Path(__file__).stem
    path.with_suffix(".json").write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
    draw(record).savefig(path.with_suffix(".png"), dpi=130)
    return record


if __name__ == "__main__":
    main()
