"""Searches that are kept: resumed, remapped, interrupted, plotted."""

from __future__ import annotations

import json
import math
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from matplotlib.text import Text

import fastmap as fm
import fastmap.optuna as fo
from fastmap import search as searches

SPACE = fm.Space(lr=fm.Param(1e-6, 1, map="log"), beta=fm.Param(0.5, 0.99999, map="one_minus_log"))
OTHER = fm.Space(lr=fm.Param(1e-4, 10, map="log"), beta=fm.Param(0.5, 0.999, map="logit"))


def bowl(theta: dict) -> float:
    return (math.log10(theta["lr"]) + 3) ** 2 + (math.log10(1 - theta["beta"]) + 2) ** 2


@pytest.fixture(params=["journal", "sqlite"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "s.journal") if request.param == "journal" else f"sqlite:///{tmp_path}/s.db"


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("method", ["tpe", "random", "sobol", "cmaes", "ga", "de", "sep-cmaes", "pgpe"])
def test_pause_and_resume(storage: str, method: str) -> None:
    arguments: dict[str, Any] = {"method": method, "seed": 0, "budget": 12, "storage": storage}
    first = fm.minimize(bowl, SPACE, **arguments)
    with pytest.raises(ValueError, match="'fastmap' already has 12 trials"):
        fm.minimize(bowl, SPACE, **arguments)
    second = fm.minimize(bowl, SPACE, resume=True, **arguments)
    assert second.history[:12] == first.history
    assert [r.number for r in second.history] == list(range(24))
    assert second.loss == min(r.loss for r in second.history)
    assert len({r.theta["lr"] for r in second.history}) > 12  # not the same draws again
    kept = searches.load(storage).result()
    assert kept.history == second.history
    assert kept.best == second.best
    assert kept.space == SPACE


def test_vectors_integers_and_states_are_kept(tmp_path: Path) -> None:
    space = fm.Space(w=fm.Param(-1, 1, map="asinh", shape=(2, 2)), n=fm.Param(1, 4, integer=True))

    def loss(theta: dict, trial: fm.Trial) -> float:
        if trial.number == 1:
            raise ZeroDivisionError("why")
        if trial.number == 2:
            return math.inf
        if trial.number == 3:
            raise optuna.TrialPruned
        return float((theta["w"] ** 2).sum()) + theta["n"]

    path = tmp_path / "s.journal"
    for method in ("tpe", "de"):
        result = fm.minimize(
            loss,
            space,
            method=method,
            jac=False,
            budget=6,
            seed=0,
            storage=path,
            name=method,
            catch=(ZeroDivisionError,),
        )
        kept = searches.load(path, method).history
        assert [r.state for r in kept] == ["COMPLETE", "FAIL", "FAIL", "PRUNED", "COMPLETE", "COMPLETE"]
        assert kept[1].error == "ZeroDivisionError: why"
        assert kept[2].error == "the loss is inf"
        for mine, theirs in zip(result.history, kept, strict=True):
            np.testing.assert_array_equal(mine.theta["w"], theirs.theta["w"])
            np.testing.assert_array_equal(mine.z["w"], theirs.z["w"])
            assert mine.theta["n"] == theirs.theta["n"]
            assert isinstance(theirs.theta["n"], int)
    study = optuna.load_study(
        study_name="tpe",
        storage=optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path))),
    )
    assert [t.state.name for t in study.trials][1:3] == ["FAIL", "FAIL"]
    assert set(study.trials[1].user_attrs) == {fo.THETA, "fastmap:error"}
    assert set(study.trials[0].user_attrs) == {fo.THETA}


def test_another_space_is_refused_or_remapped(storage: str) -> None:
    first = fm.minimize(bowl, SPACE, method="random", budget=30, seed=1, storage=storage)
    with pytest.raises(ValueError, match=r"another space: low of 'lr' is 1e-06 there and 0.0001 here"):
        fm.minimize(bowl, OTHER, budget=1, storage=storage, resume=True)
    with pytest.raises(ValueError, match="only one of them has 'extra'"):
        fm.minimize(bowl, fm.Space(SPACE, extra=fm.Param(0, 1)), budget=1, storage=storage, resume=True)
    with pytest.raises(ValueError, match="direction: 'fastmap'"):
        fm.minimize(bowl, SPACE, direction="maximize", budget=1, storage=storage, resume=True)
    second = fm.minimize(bowl, OTHER, budget=3, seed=1, storage=storage, resume="remap")
    inside = [r for r in first.history if r.theta["lr"] >= 1e-4 and r.theta["beta"] <= 0.999]
    assert 3 < len(inside) < 30
    assert [r.loss for r in second.history[:-3]] == [r.loss for r in inside]
    for old, new in zip(inside, second.history, strict=False):
        assert new.theta == old.theta
        assert new.z["lr"] == pytest.approx(math.log(old.theta["lr"]))
        assert new.z["beta"] == pytest.approx(fm.forward(old.theta["beta"], "logit"))
    third = fm.minimize(bowl, OTHER, budget=2, seed=1, storage=storage, resume=True)  # its successor
    assert len(third.history) == len(second.history) + 2
    back = fm.minimize(bowl, SPACE, budget=1, storage=storage, resume="remap")
    again = [r for r in third.history if r.theta["lr"] <= 1]
    assert len(back.history) == len(again) + 1
    assert f"took over {len(again)} of {len(third.history)} trials as 'fastmap/3'" in back.reason
    assert searches.load(storage).space == SPACE


def test_a_study_of_optuna_is_adopted_by_name(storage: str) -> None:
    backend = storage
    if "://" not in storage:
        backend = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(storage))
    study = optuna.create_study(storage=backend, study_name="theirs")

    def objective(trial: Any) -> float:
        trial.suggest_categorical("kind", ["a", "b"])
        lr = trial.suggest_float("lr", 1e-5, 1, log=True)
        return bowl({"lr": lr, "beta": trial.suggest_float("beta", 0.6, 0.99)})

    study.optimize(objective, 8)
    with pytest.raises(ValueError, match="fastmap did not make"):
        fm.minimize(bowl, SPACE, storage=storage, name="theirs", resume=True)
    result = fm.minimize(bowl, SPACE, storage=storage, name="theirs", resume="remap", budget=5, seed=0)
    assert [r.loss for r in result.history[:8]] == [t.value for t in study.trials]
    assert [r.theta["beta"] for r in result.history[:8]] == [t.params["beta"] for t in study.trials]
    assert {r.theta["kind"] for r in result.history[:8]} <= {"a", "b"}
    assert len(study.trials) == 8


def test_known_points_are_evaluated_first() -> None:
    for method in ("tpe", "de", "pgpe"):
        result = fm.minimize(
            bowl, SPACE, method=method, budget=4, seed=0, enqueue=[{"lr": 1e-3, "beta": 0.99}, {"lr": 1e-6}]
        )
        assert result.history[0].theta == pytest.approx({"lr": 1e-3, "beta": 0.99}, rel=1e-14)
        assert result.history[1].theta["lr"] == 1e-6  # the end of the box, exactly


def test_interrupt_and_crash_keep_what_finished(storage: str) -> None:
    def loss(theta: dict, trial: fm.Trial) -> float:
        if trial.number == 4:
            raise KeyboardInterrupt
        if trial.number == 7:
            raise RuntimeError("boom")
        return bowl(theta)

    first = fm.minimize(loss, SPACE, budget=10, seed=0, storage=storage)
    assert len(first.history) == 4
    with pytest.raises(RuntimeError, match="boom"):
        fm.minimize(loss, SPACE, budget=10, seed=0, storage=storage, resume=True)
    kept = searches.load(storage).history
    assert [r.state for r in kept] == ["COMPLETE"] * 4 + ["FAIL"] + ["COMPLETE"] * 2 + ["FAIL"]
    assert set(kept[4].theta) == {"lr", "beta"}


def test_a_killed_process_loses_only_its_trial(tmp_path: Path) -> None:
    path = tmp_path / "s.journal"
    code = (
        "import os, fastmap as fm\n"
        "def f(p, trial):\n"
        "    if trial.number == 3: os._exit(9)\n"
        "    return p['x']\n"
        f"fm.minimize(f, fm.Space(x=fm.Param(0.1, 1)), storage={str(path)!r}, seed=0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    space = fm.Space(x=fm.Param(0.1, 1))
    result = fm.minimize(lambda p: p["x"], space, storage=path, resume=True, budget=2, seed=0)
    assert [r.number for r in result.history] == [0, 1, 2, 4, 5]


def test_processes_share_a_storage(tmp_path: Path) -> None:
    path = tmp_path / "s.journal"
    code = (
        "import sys, fastmap as fm\n"
        "fm.minimize(lambda p: p['x'], fm.Space(x=fm.Param(0.1, 1)), method='random', budget=10, "
        f"storage={str(path)!r}, resume=True, seed=int(sys.argv[1]))"
    )
    fm.minimize(lambda p: p["x"], fm.Space(x=fm.Param(0.1, 1)), budget=1, storage=path)
    runs = [subprocess.Popen([sys.executable, "-c", code, str(seed)]) for seed in (1, 2)]
    assert [run.wait() for run in runs] == [0, 0]
    kept = searches.load(path).history
    assert [r.number for r in kept] == list(range(21))
    assert len({r.theta["x"] for r in kept}) == 21


@pytest.mark.parametrize("text", ["no journal\n", "{}\n", "[1]\n", '{"op_code": 99}\n'])
def test_a_file_that_is_no_journal(tmp_path: Path, text: str) -> None:
    path = tmp_path / "s.journal"
    path.write_text(text)
    with pytest.raises(ValueError, match="no journal of Optuna"):
        fm.minimize(bowl, SPACE, storage=path)
    assert path.read_text() == text


@pytest.mark.parametrize("successor", ["fastmap", "none", ["fastmap"]])
def test_a_search_that_no_other_succeeds(tmp_path: Path, successor: Any) -> None:
    path = str(tmp_path / "s.journal")
    fm.minimize(bowl, SPACE, storage=path, budget=1)
    backend = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(path))
    study = optuna.load_study(study_name="fastmap", storage=backend)
    study.set_user_attr("fastmap:successor", successor)
    with pytest.raises(ValueError, match="which leads nowhere"):
        searches.load(path)


def test_nothing_to_load(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="storage: no file"):
        searches.load(tmp_path / "none.journal")
    fm.minimize(bowl, SPACE, storage=tmp_path / "s.journal", budget=1)
    with pytest.raises(ValueError, match="name: no search 'x' in this storage; it has fastmap"):
        searches.load(tmp_path / "s.journal", "x")


@pytest.mark.parametrize("kind", ["overview", "history", "parallel", "importance", "contour"])
def test_plots_are_labelled_in_theta(kind: Any, tmp_path: Path) -> None:
    result = fm.minimize(bowl, SPACE, budget=25, seed=0)
    figure = result.plot(kind)
    figure.savefig(tmp_path / "x.png")
    texts = {t.get_text() for axes in figure.axes for t in axes.findobj(Text)}
    assert "lr" in texts or "lr (θ)" in texts or kind == "history"
    if kind == "contour":
        axes = figure.axes[0]
        for z, label in zip(axes.get_xticks(), axes.get_xticklabels(), strict=True):
            assert fm.inverse(float(z), "log") == pytest.approx(float(label.get_text()), rel=1e-9)
        for z, label in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True):
            assert fm.inverse(float(z), "one_minus_log") == pytest.approx(float(label.get_text()), rel=1e-9)


def test_plots_that_cannot_be() -> None:
    result = fm.minimize(lambda t: t["x"], fm.Space(x=fm.Param(0, 1)), budget=5, seed=0)
    for kind, message in (("magic", "kind: expected one of"), ("contour", "needs 2"), ("front", "several")):
        with pytest.raises(ValueError, match=message):
            result.plot(kind)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="params: 'y'"):
        result.plot("parallel", ["y"])
    several = fm.minimize(
        lambda t: (t["x"], 1), fm.Space(x=fm.Param(0, 1)), direction=["minimize"] * 2, budget=5
    )
    assert several.plot().axes[0].get_xlabel().startswith("first objective")
    with pytest.raises(ValueError, match="shows one objective"):
        several.plot("contour")


class Runs:
    """Unpickled, it makes a directory."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.place),)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("where", ["a pickle that runs code", "inside an array of objects", "a damaged one"])
def test_a_storage_of_others_runs_no_code(storage: str, tmp_path: Path, where: str) -> None:
    arguments: dict[str, Any] = {"method": "cmaes", "seed": 0, "budget": 12, "storage": storage}
    fm.minimize(bowl, SPACE, **arguments)
    studies = optuna.storages
    file = studies.journal.JournalFileBackend(storage) if "://" not in storage else None
    backend = studies.JournalStorage(file) if file else studies.RDBStorage(storage)
    study = optuna.load_study(study_name="fastmap", storage=backend)
    last = study.trials[-1]
    evil = Runs(tmp_path / "was here")
    state = pickle.dumps(evil if where == "a pickle that runs code" else np.array([evil], object)).hex()
    if where == "a damaged one":
        state = next(v for t in study.trials for k, v in t.system_attrs.items() if "optimizer" in k)[:-20]
    study.add_trial(
        optuna.trial.create_trial(
            value=0.0,
            params=last.params,
            distributions=last.distributions,
            user_attrs=last.user_attrs,
            system_attrs={"cma:generation": 0, "cma:optimizer:0": state},
        )
    )
    with pytest.raises(ValueError, match="state of CMA-ES in trial 12"):
        fm.minimize(bowl, SPACE, resume=True, **arguments)
    assert not evil.place.exists()
    searches.load(storage).result()  # to look at it is no risk
    assert len(fm.minimize(bowl, SPACE, **{**arguments, "method": "tpe"}, resume=True).history) == 25
    assert not evil.place.exists()


@pytest.mark.parametrize("lost", ['"z:lr"', '"lr"'])
def test_a_damaged_journal_is_refused(tmp_path: Path, lost: str) -> None:
    path = tmp_path / "journal"
    fm.minimize(bowl, SPACE, method="random", budget=2, storage=path)
    before, trials = path.read_text().split('"z:lr"', 1)
    path.write_text(before + ('"z:lr"' + trials).replace(lost, '"gone"'))
    with pytest.raises(ValueError, match="storage: its trials are damaged"):
        searches.load(path)


def test_a_number_that_no_float_holds_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    fm.minimize(bowl, SPACE, method="random", budget=2, storage=path)
    records = [json.loads(line) for line in path.read_text().splitlines()]
    drawn = next(r for r in records if r.get("param_name") == "z:lr")
    drawn["param_value_internal"] = 10**400
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    with pytest.raises(ValueError, match="storage: its trials are damaged"):
        searches.load(path)
