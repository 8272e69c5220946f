"""What the training examples share: run all arms over learning rates and seeds, measure, compare, draw.

An example gives an `Experiment` and calls `main`. Every run has one thread; there is one process per core.
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
from collections.abc import Callable, Iterator, Sequence
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
OURS = ("#009E73", "#004D38")  # of fastmap's arms

Training: TypeAlias = tuple[Callable[[], Any], Callable[[], dict[str, Any]]]


@dataclass(frozen=True)
class Arm:
    """One way to train. Those of fastmap have names that begin with fastmap.

    `start(lr, seed)` gives `(step, result)`: `step()` is one whole training step (batch, forward, backward,
    optimizer, bounds) and returns its loss; `result()`, called once after the last step, returns a dict with
    "loss" and whatever else is worth a record, "failed" too. A function of a module, or a partial of one: it
    goes to other processes. Without `has_rate` (a solver, say) only `result` is called, once per seed.
    """

    name: str
    start: Callable[[float, int], Training]
    has_rate: bool = True

    @property
    def ours(self) -> bool:
        return self.name.startswith("fastmap")


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


def main(experiment: Experiment, file: str, argv: Sequence[str] | None = None) -> tuple[dict[str, Any], Path]:
    """Run an example from the command line; its record, as in the JSON file, and its output folder.

    Writes `<name>.json` and `<name>.png` there and prints the tables.
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
        rates, steps = experiment.rates, max(2, experiment.steps // 50)
        experiment = replace(
            experiment, rates=[rates[0], rates[len(rates) // 2], rates[-1]], seeds=2, steps=steps
        )
    if args.memory is not None:
        print(_peak(experiment, experiment.arms[args.memory]))
        raise SystemExit
    args.out.mkdir(parents=True, exist_ok=True)
    memory = _memory(experiment, file, measured=1 if args.quick else len(experiment.arms))
    runs = list(_all_runs(experiment, 0 if args.quick else os.cpu_count() or 1))
    summary = [_summary(experiment, arm, runs) for arm in experiment.arms]
    times = _step_times(experiment, summary, rounds=3 if args.quick else 200)
    for row, peak, milliseconds in zip(summary, memory, times, strict=True):
        row |= {"step_ms": milliseconds, "peak_mib": peak}
    record = {
        "versions": {
            "fastmap": fm.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        **{name: getattr(experiment, name) for name in ("steps", "seeds", "rates", "log_loss", "within")},
        "failed_above": _finite(experiment.failed_above),
        "arms": summary,
        "comparisons": _comparisons(experiment, runs),
        "runs": runs,
    }
    print(tables(experiment, record))
    path = args.out / Path(file).stem
    text = json.dumps(record, indent=1, allow_nan=False)
    path.with_suffix(".json").write_text(text + "\n")
    draw(experiment, runs).savefig(path.with_suffix(".png"), dpi=130)
    return record, args.out


def _one_thread() -> None:
    torch.set_num_threads(1)
    fm.set_num_threads(1)


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def run(experiment: Experiment, arm: Arm, rate: float, seed: int) -> dict[str, Any]:
    """Train once; a run that meets NaN or infinity stops there."""
    step, result = arm.start(rate, seed)
    record: dict[str, Any] = {}
    for _ in range(experiment.steps if arm.has_rate else 0):
        if not math.isfinite(torch.as_tensor(step()).item()):
            break
    else:
        record = result()
    loss = _finite(record.get("loss", math.nan))
    failed = record.get("failed", False) or loss is None or loss > experiment.failed_above
    own = {"arm": arm.name, "lr": rate if arm.has_rate else None, "seed": seed, "failed": bool(failed)}
    return {**own, **record, "loss": loss, "failed": bool(failed)}


def _all_runs(experiment: Experiment, workers: int) -> Iterator[dict[str, Any]]:
    tasks = [
        (experiment, arm, rate, seed)
        for seed in range(experiment.seeds)
        for arm in experiment.arms
        for rate in (experiment.rates if arm.has_rate else [math.nan])
    ]
    if not workers:
        yield from (run(*task) for task in tqdm(tasks, unit="run"))
        return
    # A fork of a process that has used torch's threads may hang, so the workers start anew.
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_one_thread) as pool:
        futures = [pool.submit(run, *task) for task in tasks]
        for _ in tqdm(as_completed(futures), total=len(futures), unit="run"):
            pass
        yield from (future.result() for future in futures)


def _losses(experiment: Experiment, runs: Sequence[dict[str, Any]], arm: Arm) -> Any:
    """Final losses, one row per learning rate, one column per seed; infinite where a run failed."""
    result = np.full((len(experiment.rates), experiment.seeds), np.inf)
    for r in runs:
        if r["arm"] == arm.name and not r["failed"]:
            result[list(experiment.rates).index(r["lr"]) if arm.has_rate else slice(None), r["seed"]] = r[
                "loss"
            ]
    return result


def _quartiles(losses: Any) -> Any:
    return np.quantile(
        losses, [0.25, 0.5, 0.75], axis=-1, method="inverted_cdf"
    )  # infinities stay as they are


def _summary(experiment: Experiment, arm: Arm, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The best learning rate by median loss, quartiles there, which rates work, how many runs failed."""
    best = min(_quartiles(_losses(experiment, runs, a))[1].min() for a in experiment.arms if a.has_rate)
    limit = best * experiment.within if experiment.log_loss else best + experiment.within
    quartiles = _quartiles(_losses(experiment, runs, arm))
    at = int(quartiles[1].argmin())
    works = [rate for rate, loss in zip(experiment.rates, quartiles[1], strict=True) if loss <= limit]
    own = [r["failed"] for r in runs if r["arm"] == arm.name]
    result: dict[str, Any] = {
        "arm": arm.name,
        "loss": _finite(quartiles[1, at]),
        "quartiles": [*map(_finite, quartiles[::2, at])],
    }
    if arm.has_rate:
        spacing = np.diff(np.log10(experiment.rates)).mean()
        result |= {"lr": experiment.rates[at], "works": works, "decades": float(spacing * len(works))}
    return {**result, "failed": sum(own), "runs": len(own)}


def _comparisons(experiment: Experiment, runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """fastmap against every other arm, learning rates tuned: ratio or difference of their median losses.

    The 95 % interval is a paired bootstrap over seeds that chooses the learning rates anew in every resample.
    """
    resamples = np.random.default_rng(0).integers(experiment.seeds, size=(2000, experiment.seeds))
    resamples[0] = range(experiment.seeds)  # the runs themselves

    def tuned(arm: Arm) -> Any:
        return _quartiles(_losses(experiment, runs, arm)[:, resamples])[1].min(axis=0)

    result = []
    for ours in (arm for arm in experiment.arms if arm.ours):
        for other in (arm for arm in experiment.arms if not arm.ours):
            with np.errstate(all="ignore"):
                a, b = tuned(ours), tuned(other)
                change = a / b if experiment.log_loss else a - b
            low, high = np.quantile(change[1:], [0.025, 0.975], method="inverted_cdf")
            numbers = {"value": _finite(change[0]), "low": _finite(low), "high": _finite(high)}
            result.append({"arm": ours.name, "other": other.name, **numbers})
    return result


def _step_times(experiment: Experiment, summary: Sequence[dict[str, Any]], rounds: int) -> list[float | None]:
    """Median milliseconds of a whole training step at the best learning rates; the arms take turns."""
    trained = [(arm, row) for arm, row in zip(experiment.arms, summary, strict=True) if arm.has_rate]
    steps = {arm.name: arm.start(row["lr"], 0)[0] for arm, row in trained}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    return [1e3 * float(np.median(seconds[a.name])) if a.has_rate else None for a in experiment.arms]


def _memory(experiment: Experiment, file: str, measured: int) -> list[float | None]:
    """Peak memory of the first arms in MiB above the imports, each in a process of its own."""
    chosen = [arm.has_rate and i < measured for i, arm in enumerate(experiment.arms)]
    if not os.path.exists("/proc/self/clear_refs"):  # as off Linux
        return [None] * len(chosen)
    command = [sys.executable, file, "--memory"]
    return [
        float(subprocess.run([*command, str(i)], stdout=subprocess.PIPE, check=True).stdout) if c else None
        for i, c in enumerate(chosen)
    ]


def _peak(experiment: Experiment, arm: Arm) -> float:
    """Peak memory of a few steps. ru_maxrss would not do: that of a child begins with its parent's."""

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

    def text(value: float | None, form: str = ".3g") -> str:
        return "-" if value is None else format(value, form)

    rows = [
        (
            a["arm"],
            *(text(a.get("lr"), ".2g"), text(a["loss"]), " to ".join(map(text, a["quartiles"]))),
            " to ".join(format(a["works"][i], ".2g") for i in (0, -1)) if a.get("works") else "-",
            *(text(a.get("decades"), ".2f"), f"{a['failed']}/{a['runs']}"),
            *(text(a["step_ms"]), text(a["peak_mib"])),
        )
        for a in record["arms"]
    ]
    changes = [
        (f"{c['arm']} against {c['other']}", text(c["value"]), f"{text(c['low'])} to {text(c['high'])}")
        for c in record["comparisons"]
    ]
    measure = "ratio" if experiment.log_loss else "difference"
    head = ("arm", "best lr", "loss", "quartiles", "lr that work", "decades", "failed", "step ms", "peak MiB")
    return "\n".join(
        [
            text_table(head, rows),
            f"loss: {experiment.label}",
            f"lr that work: median within a {measure} of {experiment.within:g} of the best of all arms\n",
            text_table(("learning rate tuned, medians", measure, "95 % interval"), changes),
        ]
    )


def draw(experiment: Experiment, runs: Sequence[dict[str, Any]]) -> Any:
    """Final loss over learning rate, median and quartiles of the seeds; below, where runs failed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5.5), layout="constrained")
    top, strip = figure.subplots(2, 1, sharex=True, height_ratios=[40, 1 + len(experiment.arms)])
    ours, others = iter(OURS), iter(COLOURS)
    for row, arm in enumerate(experiment.arms):
        colour, losses = next(ours if arm.ours else others), _losses(experiment, runs, arm)
        low, middle, high = _quartiles(losses)
        if not arm.has_rate:
            top.axhline(middle[0], color=colour, linestyle="--", label=arm.name)
            continue
        # Dashes above lines, so that arms that coincide are both seen.
        style: dict[str, Any] = {"ls": "-", "zorder": 2} if arm.ours else {"ls": (0, (4, 2)), "zorder": 3}
        top.plot(experiment.rates, middle, marker="o", color=colour, label=arm.name, lw=2, ms=4, **style)
        top.fill_between(
            experiment.rates, low, np.where(np.isinf(high), middle, high), color=colour, alpha=0.15
        )
        share = np.isinf(losses).mean(axis=1)
        strip.scatter(experiment.rates, np.full(share.shape, -row), marker="x", s=50 * share, color=colour)
    top.set(ylabel=experiment.label, yscale="log" if experiment.log_loss else "linear")
    strip.set(ylabel="failed", yticks=[], ylim=(0.5 - len(experiment.arms), 0.5))
    strip.set(xlabel="learning rate", xscale="log")
    top.grid(alpha=0.3)
    figure.legend(loc="outside upper center", ncols=2, fontsize=11, frameon=False)
    for axes in (top, strip):
        axes.tick_params(labelsize=11)
        axes.spines[["top", "right"]].set_visible(False)
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set_size(12)
    return figure
