"""`fastmap.optuna`: any map in any study."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

import fastmap as fm
import fastmap.optuna as fo

optuna.logging.set_verbosity(optuna.logging.WARNING)
SAMPLERS = {
    "random": optuna.samplers.RandomSampler,
    "tpe": optuna.samplers.TPESampler,
    "cmaes": optuna.samplers.CmaEsSampler,
}
# The same function of theta as Log, by other routes than Optuna's own log scale.
ROUTES = {"chain": fm.Chain("log"), "log2": fm.Log2(), "shifted": fm.Chain("log", fm.Affine(1.0, 1.0))}


def rosen(a: float, b: float) -> float:
    a, b = math.log10(a) + 3, math.log10(b) + 1
    return (1 - a) ** 2 + 5 * (b - a * a) ** 2


def values(sampler: str, suggest: Any, n: int = 40) -> np.ndarray:
    study = optuna.create_study(sampler=SAMPLERS[sampler](seed=7))

    def objective(trial: Any) -> float:
        return rosen(suggest(trial, "a"), suggest(trial, "b"))

    study.optimize(objective, n)
    return np.array([[fo.params(t)[k] for k in "ab"] for t in study.trials])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_log_map_gives_the_points_of_optunas_log_scale(sampler: str) -> None:
    theirs = values(sampler, lambda t, n: t.suggest_float(n, 1e-6, 1.0, log=True))
    assert len(np.unique(theirs)) == theirs.size
    through = values(sampler, lambda t, n: fo.suggest_float(t, n, 1e-6, 1.0, map="log"))
    np.testing.assert_array_equal(through, theirs)
    mapped = values(sampler, lambda t, n: fo.suggest_float(t, n, 1e-6, 1.0, map=ROUTES["chain"]))
    np.testing.assert_allclose(mapped, theirs, rtol=1e-12)


@pytest.mark.parametrize("route", ROUTES)
def test_units_of_z_do_not_matter(route: str) -> None:
    theirs = values("random", lambda t, n: t.suggest_float(n, 1e-6, 1.0, log=True))
    mapped = values("random", lambda t, n: fo.suggest_float(t, n, 1e-6, 1.0, map=ROUTES[route]))
    np.testing.assert_allclose(mapped, theirs, rtol=1e-12)


def test_names_and_attributes() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trial = study.ask()
    lr = fo.suggest_float(trial, "lr", 1e-6, 1, map="log")
    beta = fo.suggest_float(trial, "beta", 0.5, 0.9999, map="one_minus_log")
    rate = fo.suggest_float(trial, "rate", -3, 3, map=fm.Asinh(0.1))
    drop = fo.suggest_float(trial, "drop", 0, 0.5)
    kind = trial.suggest_categorical("kind", ["a", "b"])
    assert set(trial.params) == {"lr", "z:beta", "z:rate", "drop", "kind"}
    assert trial.params["z:beta"] == pytest.approx(-math.log1p(-beta))
    assert trial.user_attrs == {fo.THETA: {"beta": beta, "rate": rate}}
    assert fo.suggest_float(trial, "beta", 0.5, 0.9999, map="one_minus_log") == beta
    study.tell(trial, 1.0)
    expected = {"lr": lr, "beta": beta, "rate": rate, "drop": drop, "kind": kind}
    assert fo.params(trial) == fo.params(study.trials[0]) == fo.best_params(study) == expected


@pytest.mark.parametrize("m", ["logit", "softplus", fm.Asinh(1e-3), fm.Affine(1, -3), "one_minus_log"])
def test_ends_of_the_box_come_back_exactly(m: Any) -> None:
    low, high = 0.1, 0.7
    box = fm.Param(low, high, map=m).z_box
    for z, ends in ((box[0], {low, high}), (box[1], {low, high})):
        trial = optuna.trial.FixedTrial({"z:p": z})
        assert fo.suggest_float(trial, "p", low, high, map=m) in ends


def test_conditional_spaces_are_defined_by_running(tmp_path: Path) -> None:
    def objective(trial: Any) -> float:
        if trial.suggest_categorical("kind", ["sgd", "adam"]) == "sgd":
            return abs(fo.suggest_float(trial, "momentum", 0.1, 0.999, map="one_minus_log") - 0.95)
        first = fo.suggest_float(trial, "beta1", 0.5, 0.99, map="one_minus_log")
        return abs(first - 0.9) + fo.suggest_float(trial, "eps", 1e-10, 1e-2, map="log")

    path = tmp_path / "study.journal"

    def storage() -> Any:
        backend = optuna.storages.journal.JournalFileBackend(str(path))
        return optuna.storages.JournalStorage(backend)

    optuna.create_study(storage=storage(), study_name="theirs").optimize(objective, 15)
    study = optuna.load_study(storage=storage(), study_name="theirs")
    study.optimize(objective, 15)
    kinds = set()
    for trial in optuna.load_study(storage=storage(), study_name="theirs").trials:
        theta = fo.params(trial)
        kinds.add(theta["kind"])
        assert set(theta) == {"kind", *(["momentum"] if theta["kind"] == "sgd" else ["beta1", "eps"])}
    assert kinds == {"sgd", "adam"}


def test_a_study_that_optuna_began_goes_on_under_its_name() -> None:
    storage = optuna.storages.InMemoryStorage()
    began = optuna.create_study(storage=storage, study_name="lr", sampler=SAMPLERS["tpe"](seed=0))
    began.optimize(lambda t: rosen(t.suggest_float("a", 1e-6, 1, log=True), 0.1), 12)
    study = optuna.load_study(storage=storage, study_name="lr", sampler=SAMPLERS["tpe"](seed=1))
    study.optimize(lambda t: rosen(fo.suggest_float(t, "a", 1e-6, 1, map=fm.Log()), 0.1), 12)
    assert {tuple(t.params) for t in study.trials} == {("a",)}
    assert len({repr(t.distributions) for t in study.trials}) == 1


def test_enqueued_points_are_evaluated() -> None:
    space = fm.Space(lr=fm.Param(1e-6, 1, map="log"), beta=fm.Param(0.1, 0.999, map="one_minus_log"))
    study = optuna.create_study()
    fo.enqueue(study, {"lr": 3e-4, "beta": 0.999, "kind": "b"}, space)

    def objective(trial: Any) -> float:
        trial.suggest_categorical("kind", ["a", "b"])
        return sum(fo.suggest_float(trial, n, *p.box, map=p.map) for n, p in space.items())

    study.optimize(objective, 1)
    assert fo.params(study.trials[0]) == {"lr": 3e-4, "beta": 0.999, "kind": "b"}
    with pytest.raises(ValueError, match=r"^beta: 2 is outside the box \[0.1, 0.999\]"):
        fo.enqueue(study, {"beta": 2}, space)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, 1), "^high: must be above"),
        ((1, 0), "^high: must be above"),
        ((-1, 1, "log"), "^low: -1.0 is outside the domain"),
        ((0, 1, "logit"), "no finite box"),
        ((0, 1, "magic"), "no map is called"),
        ((0.1, 1, fm.Asinh(np.ones(3))), "^map"),
        ((1.0, math.nextafter(1, 2), fm.Log(low=-1e3)), "has no width"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_suggested(arguments: tuple, message: str) -> None:
    trial = optuna.create_study().ask()
    low, high, *m = arguments
    with pytest.raises(ValueError, match=message):
        fo.suggest_float(trial, "p", low, high, map=m[0] if m else None)
    assert trial.params == {}
    assert trial.user_attrs == {}


def test_one_name_has_one_map_in_a_trial() -> None:
    trial = optuna.create_study().ask()
    fo.suggest_float(trial, "a", 0.1, 0.9, map="logit")
    with pytest.raises(ValueError, match=r"^name: 'a' has been suggested"):
        fo.suggest_float(trial, "a", 0.2, 0.9, map="logit")
    with pytest.raises(ValueError, match=r"^name: 'a' has been suggested"):
        fo.suggest_float(trial, "a", 0.1, 0.9)
    fo.suggest_float(trial, "b", 0.1, 0.9)
    with pytest.raises(ValueError, match=r"^name: 'b' has been suggested"):
        fo.suggest_float(trial, "b", 0.1, 0.9, map="logit")
