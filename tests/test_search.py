"""`Space`, `Param` and `minimize`."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch

import fastmap as fm


def bowl(theta: dict) -> float:
    return (math.log10(theta["lr"]) + 3) ** 2 + 100 * (theta["beta"] - 0.99) ** 2


SPACE = fm.Space(lr=fm.Param(1e-6, 1, map="log"), beta=fm.Param(0.5, 0.99999, map="one_minus_log"))


def test_box_ends_come_back_exactly_and_z_boxes_are_finite() -> None:
    rng = np.random.default_rng(0)
    for low, high in 10.0 ** rng.uniform(-8, 0, (50, 2)):
        low, high = sorted((low, high))
        for m in ("log", "softplus", "identity", "asinh", None, fm.Log(low=-1), fm.Affine(1, -3), "symlog"):
            param = fm.Param(low, high, map=m)
            z_low, z_high = param.z_box
            assert math.isfinite(z_low)
            assert math.isfinite(z_high)
            assert {float(param.from_z(z_low)), float(param.from_z(z_high))} == {low, high}
            theta = param.from_z(np.linspace(z_low, z_high, 100))
            assert ((theta >= low) & (theta <= high)).all()


def test_defaults_without_a_map() -> None:
    assert fm.Param(1e-5, 1).box_map == fm.Log()
    assert fm.Param(0, 1).box_map == fm.Identity()
    assert fm.Param(0.1, 1).box_map == fm.Identity()
    assert fm.Param().gradient_map == fm.Identity()
    assert fm.Param(low=2).gradient_map == fm.Softplus(low=2)
    assert fm.Param(0, 3).gradient_map == fm.Interval(0, 3)
    upper = fm.Param(high=3).gradient_map  # the mirror image of softplus
    assert upper.domain == (-np.inf, 3)
    assert upper.forward(2.0) == -fm.Softplus(low=-3).forward(-2.0)


def test_integers_cover_their_box_evenly() -> None:
    param = fm.Param(1, 4, integer=True)
    low, high = param.z_box
    theta = param.from_z(np.linspace(low, high, 4001))
    values, counts = np.unique(theta, return_counts=True)
    assert values.tolist() == [1, 2, 3, 4]
    assert counts.min() > 0.95 * counts.max()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fm.Param(1, 1), "^high: must be above"),
        (lambda: fm.Param(0, math.inf), "^high: must be finite"),
        (lambda: fm.Param(-1, 1, map="log"), "^low: -1 is outside the domain"),
        (lambda: fm.Param(0, 2, map="logit"), "^high: 2 is outside"),
        (lambda: fm.Param(0, 1, map="logit").z_box, "no finite box"),
        (lambda: fm.Param(low=0).box, "give both"),
        (lambda: fm.Param(0, 1, dtype="int32"), "^dtype"),
        (lambda: fm.Space(), "at least one"),
        (lambda: fm.Space(a=3), "^a: expected a Param"),
        (lambda: fm.minimize(bowl, SPACE, method="magic"), "^method: expected one of"),
        (lambda: fm.minimize(bowl, SPACE, direction="down"), "^direction"),
        (lambda: fm.minimize(bowl, SPACE, budget=0), "^budget"),
        (lambda: fm.minimize(bowl, fm.Space(lr=fm.Param(low=0)), method="tpe"), "^lr: low, high"),
        (lambda: fm.minimize(lambda p: math.nan, SPACE, budget=3), "none of 3"),
    ],
)
def test_bad_arguments_are_named(make: object, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        make()


def test_space_is_data() -> None:
    space = fm.Space(
        {"lr": fm.Param(1e-6, 1, map="log")}, w=fm.Param(shape=(2, 3), map=fm.Asinh(0.5), dtype="float32")
    )
    assert list(space) == ["lr", "w"]
    assert space.size == 7
    assert fm.Space.from_json(json.loads(json.dumps(space.to_json()))) == space
    with pytest.raises(ValueError, match="version"):
        fm.Space.from_json({"version": 99})
    values = {"lr": 0.5, "w": np.arange(6.0).reshape(2, 3)}
    flat = space.ravel(values)
    views = space.unravel(flat)
    np.testing.assert_array_equal(views["w"], values["w"])
    assert np.shares_memory(views["w"], flat)
    with pytest.raises(ValueError, match="values: expected"):
        space.ravel({"lr": 1})
    with pytest.raises(ValueError, match="w: shape"):
        space.ravel({"lr": 1, "w": np.zeros(2)})


@pytest.mark.parametrize("method", ["auto", "tpe", "random"])
def test_tuning(method: str) -> None:
    seen = []
    result = fm.minimize(bowl, SPACE, method=method, budget=40, seed=1, callbacks=[seen.append])
    assert result.history == seen
    assert len(result.history) == 40
    assert result.loss == min(r.loss for r in result.history) == bowl(result.best)
    assert result.loss < 0.5
    assert "black box" in result.reason or method != "auto"
    for record in result.history:
        assert record.theta["lr"] == pytest.approx(math.exp(record.z["lr"]))
    again = fm.minimize(bowl, SPACE, method=method, budget=40, seed=1)
    assert again.history == result.history
    best = result.best_so_far()
    assert best == sorted(best, reverse=True)


def test_maximize_and_init() -> None:
    result = fm.minimize(
        lambda p: -bowl(p), SPACE, direction="maximize", budget=20, seed=0, init={"lr": 1e-3, "beta": 0.99}
    )
    assert result.history[0].theta["lr"] == pytest.approx(1e-3)
    assert result.loss == max(r.loss for r in result.history)


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_log_map_is_the_log_scale_of_optuna(sampler: str) -> None:
    """Nothing is lost by mapping outside: the points are those of Optuna's own log=True."""
    samplers = {"random": optuna.samplers.RandomSampler, "tpe": optuna.samplers.TPESampler}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=samplers[sampler](seed=3))
    study.optimize(lambda t: (math.log10(t.suggest_float("lr", 1e-6, 1, log=True)) + 3) ** 2, n_trials=30)
    theirs = [t.params["lr"] for t in study.trials]
    space = fm.Space(lr=fm.Param(1e-6, 1, map="log"))
    ours = fm.minimize(lambda p: (math.log10(p["lr"]) + 3) ** 2, space, method=sampler, budget=30, seed=3)
    np.testing.assert_allclose([r.theta["lr"] for r in ours.history], theirs, rtol=1e-9)


def test_failures_and_pruning_are_recorded() -> None:
    def objective(theta: dict, trial: fm.Trial) -> float:
        trial.report(1.0, 0)
        assert trial.should_prune() in (True, False)
        if trial.number == 1:
            raise optuna.TrialPruned
        if trial.number == 2:
            raise ZeroDivisionError
        if trial.number == 3:
            return math.inf
        return bowl(theta)

    result = fm.minimize(objective, SPACE, budget=6, seed=0, catch=(ZeroDivisionError,))
    assert [r.state for r in result.history] == ["COMPLETE", "PRUNED", "FAIL", "FAIL", "COMPLETE", "COMPLETE"]
    with pytest.raises(ZeroDivisionError):
        fm.minimize(objective, SPACE, budget=6, seed=0)


def test_gradients_reach_the_minimum_in_theta() -> None:
    space = fm.Space(w=fm.Param(shape=(3,), map="symlog"), s=fm.Param(low=0), p=fm.Param(0, 1))
    target = torch.tensor([-2.0, 0.0, 5.0])

    def loss(theta: dict) -> torch.Tensor:
        return ((theta["w"] - target) ** 2).sum() + (theta["s"] - 0.3) ** 2 + (theta["p"] - 0.9) ** 2

    result = fm.minimize(loss, space, budget=800)
    assert result.method == "adam"
    assert "'w' is an array of 3" in result.reason
    torch.testing.assert_close(result.best["w"], target, atol=1e-2, rtol=0)
    assert result.best["s"] == pytest.approx(0.3, abs=1e-2)
    assert result.best["p"] == pytest.approx(0.9, abs=1e-2)
    start = fm.minimize(loss, space, budget=1, init={"w": target, "s": 0.3, "p": 0.9})
    assert start.loss < 1e-10


def test_gradients_stay_in_the_box_of_a_mapped_parameter() -> None:
    space = fm.Space(w=fm.Param(1e-3, 1, map="log", shape=(4,)))
    result = fm.minimize(lambda p: -p["w"].sum(), space, budget=300, method="adam")
    assert result.best["w"].max() == 1
    assert result.loss == pytest.approx(-4, abs=1e-5)


def test_nan_ends_a_gradient_search_with_the_best_so_far() -> None:
    calls = []

    def loss(theta: dict) -> torch.Tensor:
        calls.append(1)
        return theta["w"].sum() * (float("nan") if len(calls) == 5 else 1)

    result = fm.minimize(loss, fm.Space(w=fm.Param(shape=(2,))), budget=50)
    assert [r.state for r in result.history] == ["COMPLETE"] * 4 + ["FAIL"]
    assert result.loss == result.history[3].loss


def test_interrupt_keeps_what_was_found() -> None:
    def objective(theta: dict, trial: fm.Trial) -> float:
        if trial.number == 5:
            raise KeyboardInterrupt
        return bowl(theta)

    result = fm.minimize(objective, SPACE, budget=50, seed=0)
    assert len(result.history) == 5
    assert "interrupted after 5" in result.reason


def test_results_can_be_kept(tmp_path: Path) -> None:
    result = fm.minimize(bowl, SPACE, budget=10, seed=0)
    frame = result.to_frame()
    assert list(frame.columns) == ["number", "state", "loss", "theta:lr", "theta:beta", "z:lr", "z:beta"]
    assert len(frame) == 10
    result.save(tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "result.json").read_text())
    assert summary["best"] == result.best
    assert fm.Space.from_json(summary["space"]) == SPACE
    with (tmp_path / "run" / "trials.csv").open() as file:
        assert float(next(csv.DictReader(file))["loss"]) == result.history[0].loss
    assert (tmp_path / "run" / "search.png").stat().st_size > 10_000
    vector = fm.minimize(lambda p: (p["w"] ** 2).sum(), fm.Space(w=fm.Param(shape=(2,))), budget=3)
    vector.save(tmp_path / "vector")
    assert "theta:w[1]" in (tmp_path / "vector" / "trials.csv").read_text()


def test_progress_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    fm.minimize(bowl, SPACE, budget=5, seed=0, progress=True)
    assert "5/5" in capsys.readouterr().err


def test_import_loads_no_framework_and_costs_little() -> None:
    code = (
        "import sys, fastmap; "
        "print([m for m in ('torch','tensorflow','jax','optuna','pandas','matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
