"""The page of evidence says what its records say, and its records follow from their runs."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scripts import load

from fastmap.recipes._run import _one_thread

DOCS = Path(__file__).parents[1] / "docs"


evidence = load("docs/evidence.py")
hyperparameters = load("docs/evidence/hyperparameters.py")
TABLES = json.loads((DOCS / evidence.RUNS["hyperparameters"].record).read_text())


def effect(ratio, low, high):
    return evidence.Effect("fastmap", "raw", evidence.USUAL, (1.0, 1.0), ratio, low, high)


def test_page_is_what_the_records_say():
    found = evidence.topics()
    assert (DOCS / "evidence.md").read_text() == evidence.page(found, evidence.without_record())
    assert (DOCS / "evidence" / "effects.png").read_bytes().startswith(b"\x89PNG")
    steps = {step for topic in found for step in topic.steps}
    assert steps == {name for name, step in evidence.RUNS.items() if (DOCS / step.record).exists()}
    assert steps >= {*evidence.EXAMPLES, "hyperparameters"}


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.5, 0.98, "helps"),
        (0.5, 0.995, "tie"),
        (0.998, 0.999, "tie"),
        (0.5, 2.0, "tie"),
        (1.005, 2.0, "tie"),
        (1.02, 2.0, "hurts"),
        (math.nan, math.nan, "-"),
        (0.0, math.nan, "tie"),  # failures reach the upper end
    ],
)
def test_the_rule(low, high, verdict):
    assert effect(1.0, low, high).verdict == verdict


def test_differences_are_relative_to_the_other_arm():
    e = evidence.of_difference("fastmap", "raw", evidence.USUAL, (3.0, 4.0), (-1.0, -2.0, 0.0))
    assert (e.ratio, e.low, e.high) == (0.75, 0.5, 1.0)
    e = evidence.of_difference("fastmap", "raw", evidence.USUAL, (3.0, 4.0), (-1.0, None, None))
    assert e.verdict == "-"


@pytest.fixture
def records(tmp_path):
    """A folder with the record of one example alone."""
    for name in ("examples", "evidence"):
        (tmp_path / name).mkdir()
    shutil.copy(DOCS / "examples" / "image_fit.json", tmp_path / "examples")
    return tmp_path


def test_what_has_no_record_is_left_out(records):
    found = evidence.topics(records)
    assert [topic.title for topic in found] == ["Image fit"]
    text = evidence.page(found, evidence.without_record(records))
    assert "Recipe" not in text
    assert "No record yet: diagonal_rnn, " in text


def test_times_are_shown_of_a_quiet_machine_alone(records):
    assert "Milliseconds" not in evidence.page(evidence.topics(records))
    log = {"image_fit": {"seconds": 1, "quiet": True}}
    (records / "evidence" / "runs.json").write_text(json.dumps(log))
    assert "Milliseconds" in evidence.page(evidence.topics(records))


def test_further_parts_of_a_recipe_are_a_topic_of_their_own(records):
    runs = [
        {"part": "cma-es", "arm": arm, "seed": seed, "test_log_loss": loss, **dict.fromkeys(COSTS, 1)}
        for arm, losses in (("fastmap", (1.0, 2.0)), ("raw", (2.0, 4.0)))
        for seed, loss in enumerate(losses)
    ]
    change = {"part": "cma-es", "arm": "raw", "mean": -1.5, "low": -2.1, "high": -0.9}
    record = {"budget": {"seeds": 2}, "comparisons": [change], "runs": runs}
    (records / "evidence" / "cancer.json").write_text(json.dumps(record))
    topic = next(t for t in evidence.topics(records) if t.title.startswith("Weights without"))
    (e,) = topic.effects
    assert (e.losses, e.ratio, e.verdict) == ((1.5, 3.0), 0.5, "helps")
    assert topic.steps == ["cancer"]


COSTS = ("evaluations", "failures", "seconds")


def test_run_goes_on_where_it_stopped(tmp_path, monkeypatch):
    def step(name, code):
        return evidence.Step(f"evidence/{name}.json", [sys.executable, "-c", code, "FOLDER"], "made.json")

    write = "import sys; open(sys.argv[1] + '/made.json', 'w').write('{}')"
    monkeypatch.setattr(evidence, "RUNS", {"one": step("one", write), "two": step("two", "1 / 0")})
    with pytest.raises(subprocess.CalledProcessError):
        evidence.run(["one", "two"], tmp_path)
    first, second = (tmp_path / "evidence" / f"{name}.json" for name in ("one", "two"))
    assert first.exists()
    assert not second.exists()
    first.write_text("kept")
    monkeypatch.setitem(evidence.RUNS, "two", step("two", write))
    evidence.run(["one", "two"], tmp_path, quiet=True)
    assert first.read_text() == "kept"
    assert second.read_text() == "{}"
    evidence.run(["one"], tmp_path, fresh=True)
    assert first.read_text() == "{}"
    assert {name: entry["quiet"] for name, entry in evidence.run_log(tmp_path).items()} == {
        "one": False,
        "two": True,
    }


@pytest.mark.parametrize("args", [["nonsense", "--run"], ["rnn"], ["--fresh"], ["--quiet"]])
def test_bad_arguments(args):
    with pytest.raises(SystemExit) as stop:
        evidence.main(args)
    assert stop.value.code == 2


def test_picture_of_what_leaves_the_axis():
    effects = [effect(0.001, -0.5, 0.01), effect(1.0, math.nan, math.nan), effect(9.0, 2.0, 80.0)]
    evidence.draw([evidence.Topic("all", "", effects, [], [])]).canvas.draw()


# --- the tables ------------------------------------------------------------------------------------------


def test_comparisons_follow_from_the_runs():
    assert TABLES["seeds"] >= 20
    assert list(hyperparameters.compare(TABLES["runs"])) == TABLES["comparisons"]
    for task in hyperparameters.TASKS:
        assert TABLES["grids"][task.name] == task.grid
        lowest = np.mean(TABLES["tables"][task.name], axis=0).min()
        for run in (r for r in TABLES["runs"] if r["task"] == task.name):
            assert len(run["losses"]) == TABLES["trials"]
            assert min(run["losses"]) >= lowest - 1e-6
    keys = {(run["task"], run["arm"], run["seed"]) for run in TABLES["runs"]}
    assert len(keys) == len(TABLES["runs"]) == 2 * 4 * TABLES["seeds"]


@pytest.mark.parametrize("task", hyperparameters.TASKS, ids=lambda task: task.name)
def test_a_row_of_the_table_trains_to_the_same(task):
    index = 10
    recorded = np.array(TABLES["tables"][task.name][0][index])
    with _one_thread():  # as the record was made; many would only wait for each other
        again = np.array(hyperparameters.row(task, hyperparameters.RATES[index], split=0))
    assert np.median(np.abs(again - recorded) / recorded) < 0.01  # some points amplify the last digit


@pytest.mark.parametrize("task", hyperparameters.TASKS, ids=lambda task: task.name)
def test_the_objective_reads_the_table(task):
    table = np.array(TABLES["tables"][task.name])
    objective = hyperparameters.objective_of(task, table)
    lr, *others = task.grid
    for i, j in ((0, 0), (7, 40), (20, 120)):
        theta = {lr: task.grid[lr][i], **dict(zip(others, hyperparameters.points(task)[j], strict=True))}
        assert objective(theta) == pytest.approx(table[:, i, j].mean())


def test_arms_search_the_same_box(monkeypatch):
    monkeypatch.setattr(hyperparameters, "TRIALS", 12)
    task = hyperparameters.TASKS[0]
    for arm in hyperparameters.ARMS:
        seen = []

        def objective(theta, seen=seen):
            seen.append(theta)
            return theta["lr"]

        losses = hyperparameters.search(task, objective, arm, seed=0)
        assert losses == [theta["lr"] for theta in seen]
        assert len(seen) == 12
        for name, param in task.space.items():
            values = [theta[name] for theta in seen]
            assert param.low - 1e-12 <= min(values) < max(values) <= param.high + 1e-12
