"""What the training examples share: run all arms over learning rates and seeds, measure, compare, draw.

An example gives an `Experiment` and calls `main`. Runs go to one process per core, one thread each.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from tqdm import tqdm

import fastmap as fm
from fastmap.recipes._report import text_table

COLOURS = ("#D55E00", "#E69F00", "#0072B2", "#56B4E9", "#CC79A7", "#999999")
OURS = ("#009E73", "#004D38")  # of arms whose name begins with fastmap
RESAMPLES = 2000

Training: TypeAlias = tuple[Callable[[], Any], Callable[[], dict[str, Any]]]


@dataclass(frozen=True)
class Arm:
    """One way to train. Those of fastmap have names that begin with fastmap.

    `start(lr, seed)` gives `(step, result)`: `step()` is one whole training step (batch, forward, backward,
    optimizer, bounds) and returns its loss; `result()`, called once after the last step, returns a dict with
    "loss" and whatever else is worth a record, "failed" too. A function of a module: it goes to other
    processes. Without `has_rate` (a solver, say) only `result` is called, once per seed, with lr = nan.
    """

    name: str
    start: Callable[[float, int], Training]
    has_rate: bool = True


@dataclass(frozen=True)
class Experiment:
    """The arms of an example and their budget."""

    arms: Sequence[Arm]
    rates: Sequence[float]  # learning rates, a geometric grid
    steps: int
    seeds: int = 8
    failed_above: float = math.inf  # a run whose final loss is above this has failed, as one with NaN has
    log_loss: bool = True  # compare losses by ratio and draw them on a log scale; else by difference
    within: float = 1.1  # a learning rate works if its median is within this ratio (difference) of the best
    label: str = "final loss"

    def quick(self) -> Experiment:
        """A few steps, for a test."""
        ends = (self.rates[0], self.rates[len(self.rates) // 2], self.rates[-1])
        return replace(self, rates=ends, seeds=2, steps=max(2, self.steps // 50))


def main(experiment: Experiment, file: str, argv: Sequence[str] | None = None) -> tuple[dict[str, Any], Path]:
    """Run an example from the command line; its record, as in the JSON file, and its output folder.

    Writes `<name>.json` and `<name>.png` to ``--out`` and prints the tables.
    """
    parser = argparse.ArgumentParser(prog=Path(file).name)
    parser.add_argument("--seeds", type=int, default=experiment.seeds, help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="default: this folder")
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it runs")
    parser.add_argument("--memory", type=int, metavar="ARM", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.seeds < 1:
        parser.error("--seeds: must be at least 1")
    _one_thread()
    experiment = replace(experiment, seeds=args.seeds)
    if args.quick:
        experiment = experiment.quick()
    if args.memory is not None:
        print(_peak(experiment, experiment.arms[args.memory]))
        raise SystemExit
    args.out.mkdir(parents=True, exist_ok=True)
    memory = _memory(experiment, file)
    runs = _all_runs(experiment, 0 if args.quick else os.cpu_count() or 1)
    summary = summarise(experiment, runs)
    times = _step_times(experiment, summary, rounds=3 if args.quick else 100)
    for row, peak, seconds in zip(summary, memory, times, strict=True):
        row |= {"step_ms": seconds and 1e3 * seconds, "peak_mib": peak}
    record = {
        "example": Path(file).stem,
        "versions": {
            "fastmap": fm.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "steps": experiment.steps,
        "seeds": experiment.seeds,
        "rates": list(experiment.rates),
        "within": experiment.within,
        "failed_above": experiment.failed_above if math.isfinite(experiment.failed_above) else None,
        "arms": summary,
        "comparisons": compare(experiment, runs),
        "runs": runs,
    }
    print(tables(experiment, record))
    path = args.out / Path(file).stem
    path.with_suffix(".json").write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
    draw(experiment, runs).savefig(path.with_suffix(".png"), dpi=130)
    return record, args.out


def _one_thread() -> None:
    torch.set_num_threads(1)
    fm.set_num_threads(1)


def run(experiment: Experiment, arm: Arm, rate: float, seed: int) -> dict[str, Any]:
    """Train once; a run that meets NaN or infinity stops there."""
    step, result = arm.start(rate, seed)
    record: dict[str, Any] = {}
    for _ in range(experiment.steps if arm.has_rate else 0):
        if not math.isfinite(torch.as_tensor(step()).item()):
            break
    else:
        record = result()
    loss = float(record.get("loss", math.nan))
    failed = bool(record.get("failed", False)) or not loss <= experiment.failed_above or math.isinf(loss)
    own = {"arm": arm.name, "lr": rate if arm.has_rate else None, "seed": seed, "failed": failed}
    return {**record, **own, "loss": loss if math.isfinite(loss) else None}


def _all_runs(experiment: Experiment, workers: int) -> list[dict[str, Any]]:
    tasks = [
        (experiment, arm, rate, seed)
        for seed in range(experiment.seeds)
        for arm in experiment.arms
        for rate in (experiment.rates if arm.has_rate else [math.nan])
    ]
    if not workers:
        return [run(*task) for task in tqdm(tasks, unit="run")]
    # A fork of a process that has used torch's threads may hang, so the workers start anew.
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_one_thread) as pool:
        futures = [pool.submit(run, *task) for task in tasks]
        for _ in tqdm(as_completed(futures), total=len(futures), unit="run"):
            pass
    return [future.result() for future in futures]


def _losses(experiment: Experiment, runs: Sequence[dict[str, Any]], arm: str) -> np.ndarray:
    """Final losses, one row per learning rate, one column per seed; infinite where a run failed."""
    rates = list(experiment.rates)
    result = np.full((len(rates), experiment.seeds), np.inf)
    for r in runs:
        if r["arm"] == arm and not r["failed"]:
            result[slice(None) if r["lr"] is None else rates.index(r["lr"]), r["seed"]] = r["loss"]
    return result


def summarise(experiment: Experiment, runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of every arm: its best learning rate by median loss, quartiles there, which rates work, failures."""
    medians = {arm.name: np.median(_losses(experiment, runs, arm.name), axis=1) for arm in experiment.arms}
    best = min(m.min() for arm in experiment.arms if arm.has_rate and (m := medians[arm.name]) is not None)
    limit = best * experiment.within if experiment.log_loss else best + experiment.within
    spacing = np.diff(np.log10(experiment.rates)).mean() if len(experiment.rates) > 1 else 0.0
    summary = []
    for arm in experiment.arms:
        m = medians[arm.name]
        at = int(m.argmin())
        quartiles = np.quantile(_losses(experiment, runs, arm.name)[at], [0.25, 0.5, 0.75], method="nearest")
        own = [r["failed"] for r in runs if r["arm"] == arm.name]
        works = [rate for rate, loss in zip(experiment.rates, m, strict=True) if loss <= limit]
        summary.append(
            {
                "arm": arm.name,
                "lr": experiment.rates[at] if arm.has_rate else None,
                "loss": _finite(m[at]),
                "quartiles": [_finite(quartiles[0]), _finite(quartiles[2])],
                "works": works if arm.has_rate else None,
                "decades": float(spacing * len(works)) if arm.has_rate else None,
                "failed": sum(own),
                "runs": len(own),
            }
        )
    return summary


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def compare(experiment: Experiment, runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """fastmap against every other arm, each with its learning rate tuned: ratio or difference of medians.

    The 95 % interval is a paired bootstrap over seeds that chooses the learning rates anew in every resample.
    """
    rng = np.random.default_rng(0)
    resamples = rng.integers(experiment.seeds, size=(RESAMPLES, experiment.seeds))

    def tuned(arm: Arm) -> np.ndarray:
        losses = _losses(experiment, runs, arm.name)
        best = np.median(losses[:, resamples], axis=-1).min(axis=0)
        return np.append(best, np.median(losses, axis=1).min())  # the last one is of the runs themselves

    result = []
    for ours in (a for a in experiment.arms if a.name.startswith("fastmap")):
        for other in (a for a in experiment.arms if not a.name.startswith("fastmap")):
            a, b = tuned(ours), tuned(other)
            with np.errstate(all="ignore"):
                change = a / b if experiment.log_loss else a - b
            interval = np.quantile(change[:-1], [0.025, 0.975], method="nearest")
            names = {"arm": ours.name, "other": other.name}
            result.append(
                names
                | dict(zip(("value", "low", "high"), map(_finite, (change[-1], *interval)), strict=True))
            )
    return result


def _step_times(experiment: Experiment, summary: Sequence[dict[str, Any]], rounds: int) -> list[float | None]:
    """Median seconds of a whole training step at the best learning rates; the arms take turns."""
    steps = [
        arm.start(row["lr"], 0)[0] if arm.has_rate else None
        for arm, row in zip(experiment.arms, summary, strict=True)
    ]
    seconds: list[list[float]] = [[] for _ in steps]
    for number in range(-3, rounds):  # three to warm up
        for step, own in zip(steps, seconds, strict=True):
            if step is not None:
                start = time.perf_counter()
                step()
                own += [time.perf_counter() - start] if number >= 0 else []
    return [float(np.median(own)) if own else None for own in seconds]


def _memory(experiment: Experiment, file: str) -> list[float | None]:
    """Peak memory of every arm in MiB above the imports, each in a process of its own."""
    if not os.path.exists("/proc/self/clear_refs"):
        return [None] * len(experiment.arms)
    command = [sys.executable, file, "--memory"]
    children = [
        subprocess.Popen([*command, str(i)], stdout=subprocess.PIPE, text=True) if arm.has_rate else None
        for i, arm in enumerate(experiment.arms)
    ]
    return [child and float(child.communicate()[0]) for child in children]


def _peak(experiment: Experiment, arm: Arm) -> float:
    """Peak memory of a few steps. ru_maxrss would not do: a child begins with its parent's."""

    def status(key: str) -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return float(next(line.split()[1] for line in lines if line.startswith(key))) / 1024

    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = status("VmRSS")
    step, _ = arm.start(experiment.rates[len(experiment.rates) // 2], 0)
    for _ in range(5):
        step()
    return status("VmHWM") - before


def tables(experiment: Experiment, record: dict[str, Any]) -> str:
    """The summary and the comparisons as text."""

    def text(value: float | None, form: str = ".4g") -> str:
        return "-" if value is None else format(value, form)

    rows = []
    for a in record["arms"]:
        works = a["works"] and f"{a['works'][0]:.2g} to {a['works'][-1]:.2g}"
        numbers = (text(a["lr"], ".2g"), text(a["loss"]), " to ".join(map(text, a["quartiles"])))
        costs = (text(a["step_ms"], ".3f"), text(a["peak_mib"], ".1f"))
        failures = f"{a['failed']}/{a['runs']}"
        rows.append((a["arm"], *numbers, works or "-", text(a["decades"], ".2f"), failures, *costs))
    measure, equal = ("ratio", 1) if experiment.log_loss else ("difference", 0)
    kind = "a factor" if experiment.log_loss else "a difference"
    changes = [
        (f"{c['arm']} against {c['other']}", text(c["value"]), f"[{text(c['low'])}, {text(c['high'])}]")
        for c in record["comparisons"]
    ]
    head = (
        "arm",
        "best lr",
        experiment.label,
        "quartiles",
        "lr that work",
        "decades",
        "failed",
        "step ms",
        "peak MiB",
    )
    return "\n".join(
        [
            text_table(head, rows),
            f"lr that work: median within {kind} {experiment.within:g} of the best of all arms\n",
            text_table(
                (f"tuned, {measure} of medians ({equal}: no difference)", measure, "95 % interval"), changes
            ),
        ]
    )


def draw(experiment: Experiment, runs: Sequence[dict[str, Any]]) -> Any:
    """Final loss over learning rate, median and quartiles of the seeds; below, where runs failed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 5), layout="constrained")
    arms = [arm for arm in experiment.arms if arm.has_rate]
    rows = 0.3 * len(arms)
    top, strip = figure.subplots(2, 1, sharex=True, height_ratios=[5 - rows, rows])
    ours, others = iter(OURS), iter(COLOURS)
    with np.errstate(invalid="ignore"):
        for row, arm in enumerate(experiment.arms):
            colour = next(ours if arm.name.startswith("fastmap") else others)
            losses = _losses(experiment, runs, arm.name)
            low, middle, high = np.quantile(losses, [0.25, 0.5, 0.75], axis=1, method="nearest")
            if not arm.has_rate:
                top.axhline(middle[0], color=colour, linestyle="--", label=arm.name)
                continue
            top.plot(experiment.rates, middle, "o-", color=colour, label=arm.name, lw=2, ms=4)
            top.fill_between(
                experiment.rates, low, np.where(np.isinf(high), middle, high), color=colour, alpha=0.2
            )
            share = np.isinf(losses).mean(axis=1)
            strip.scatter(experiment.rates, np.full(share.shape, row), marker="x", s=60 * share, color=colour)
    names = [arm.name for arm in arms]
    strip.set(xlabel="learning rate", xscale="log", yticks=range(len(names)), ylim=(len(names) - 0.5, -0.5))
    strip.set_yticklabels(["failed runs" if i == len(names) // 2 else "" for i in range(len(names))])
    strip.tick_params(axis="y", length=0)
    top.set_ylabel(experiment.label, fontsize=13)
    if experiment.log_loss:
        top.set_yscale("log")
    top.grid(alpha=0.3)
    top.legend(fontsize=11)
    strip.xaxis.label.set_size(13)
    for axes in (top, strip):
        axes.tick_params(labelsize=11)
        axes.spines[["top", "right"]].set_visible(False)
    return figure
