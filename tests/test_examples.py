"""The training examples run, and what they committed says what its runs say."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
from scripts import load

DOCS = Path(__file__).parents[1] / "docs"
EXAMPLES = sorted(
    p for p in (DOCS / "examples").glob("*.py") if re.search(r"^(from|import) arms\b", p.read_text(), re.M)
)
arms = load("docs/examples/arms.py")


def experiment_of(record, **changes):
    """The experiment of a record, without its training."""
    names = ("rates", "steps", "seeds", "log_loss", "within")
    own = [arms.Arm(row["arm"], start=None, has_rate="lr" in row) for row in record["arms"]]
    return arms.Experiment(own, **{name: record[name] for name in names}, **changes)


def check(record):
    """A record holds every run, and its summary and comparisons follow from them."""
    experiment = experiment_of(record)
    ours = [arm for arm in experiment.arms if arm.ours]
    assert 0 < len(ours) < len(experiment.arms)
    expected = {
        (arm.name, rate, seed)
        for arm in experiment.arms
        for rate in (record["rates"] if arm.has_rate else [None])
        for seed in range(record["seeds"])
    }
    assert {(r["arm"], r["lr"], r["seed"]) for r in record["runs"]} == expected
    assert len(record["runs"]) == len(expected)
    for r in record["runs"]:
        assert r["failed"] or math.isfinite(r["loss"])
    for arm, row in zip(experiment.arms, record["arms"], strict=True):
        costs = {name: row.pop(name) for name in ("step_ms", "peak_mib")}
        assert row == arms._summary(experiment, arm, record["runs"])
        assert (costs["step_ms"] is not None and costs["step_ms"] > 0) == arm.has_rate
    assert record["comparisons"] == arms._comparisons(experiment, record["runs"])


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(path, tmp_path):
    command = [sys.executable, "-W", "error", str(path), "--quick", "--out", str(tmp_path / "new")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "fastmap" in done.stdout
    check(json.loads((tmp_path / "new" / f"{path.stem}.json").read_text()))
    assert (tmp_path / "new" / f"{path.stem}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_committed_record(path):
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["seeds"] >= 5
    check(record)
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert f"(examples/{path.stem}.png)" in (DOCS / "training.md").read_text()


def toy(losses, **options):
    """An experiment and runs of given losses: by arm, one row per learning rate, one column per seed."""
    rates = [0.01, 0.1, 1.0]
    seeds = len(next(iter(losses.values()))[0])
    experiment = arms.Experiment([arms.Arm(name, None) for name in losses], rates, 1, seeds, **options)
    runs = [
        {"arm": name, "lr": rate, "seed": seed, "loss": loss, "failed": not math.isfinite(loss)}
        for name, rows in losses.items()
        for rate, row in zip(rates, rows, strict=True)
        for seed, loss in enumerate(row)
    ]
    return experiment, runs


BAD = math.nan
LOSSES = {"raw": [[4, 4, 4], [2, 2, 3], [BAD, BAD, 1]], "fastmap": [[9, 8, 9], [1, 1, 1.05], [1, 2, 1]]}


def test_summary_counts_failures_as_the_worst():
    experiment, runs = toy(LOSSES, within=1.5)
    raw, ours = (arms._summary(experiment, arm, runs) for arm in experiment.arms)
    assert (raw["lr"], raw["loss"], raw["works"], raw["failed"], raw["runs"]) == (0.1, 2, [], 2, 9)
    assert (ours["lr"], ours["works"], ours["failed"]) == (0.1, [0.1, 1.0], 0)
    assert ours["decades"] == pytest.approx(2.0)


def test_comparison_is_paired_and_keeps_failures():
    experiment, runs = toy(LOSSES)
    (change,) = arms._comparisons(experiment, runs)
    assert change["value"] == 0.5
    assert change["low"] <= 0.5 <= change["high"]
    experiment, runs = toy({"raw": LOSSES["raw"], "fastmap": LOSSES["raw"]}, log_loss=False)
    (change,) = arms._comparisons(experiment, runs)
    assert (change["value"], change["low"], change["high"]) == (0, 0, 0)
    nothing = [[BAD] * 3] * 3
    experiment, runs = toy({"raw": LOSSES["raw"], "fastmap": nothing})
    (change,) = arms._comparisons(experiment, runs)
    assert change["value"] is None


@pytest.mark.parametrize(
    ("losses", "final", "failed"),
    [([1, 1], 0.5, False), ([1, math.nan], 0.5, True), ([1, math.inf], 0.5, True), ([1, 1], 7.0, True)],
)
def test_run_fails_where_it_should(losses, final, failed):
    left = list(losses)
    arm = arms.Arm("raw", lambda lr, seed: (lambda: left.pop(0), lambda: {"loss": final, "note": 3}))
    experiment = arms.Experiment([arm], [0.1], steps=2, failed_above=5.0)
    record = arms.run(experiment, arm, 0.1, 0)
    assert record["failed"] is failed
    assert left == []
    json.dumps(record, allow_nan=False)


def test_picture_of_failures_and_of_a_solver():
    experiment, runs = toy(LOSSES)
    solver = arms.Arm("solver", None, has_rate=False)
    runs += [{"arm": "solver", "lr": None, "seed": s, "loss": 1.5, "failed": False} for s in range(3)]
    experiment = arms.Experiment([*experiment.arms, solver], experiment.rates, 1, 3)
    arms.draw(experiment, runs).canvas.draw()
    assert "lr" not in arms._summary(experiment, solver, runs)
