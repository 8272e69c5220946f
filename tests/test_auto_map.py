"""``map="auto"``: maps that a search chooses from its own trials."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

import fastmap as fm
from fastmap import search as searches

# A positive box of a decade or more starts with a logarithm; the loss wants lr as it is.
SPACE = fm.Space(
    lr=fm.Param(0.01, 0.9),
    width=fm.Param(1, 64, integer=True),
    beta=fm.Param(0.5, 0.99, map="identity"),
)


def bowl(theta: dict) -> float:
    assert isinstance(theta["width"], int)
    return 8 * (theta["lr"] - 0.45) ** 2 + math.log(theta["width"] / 4) ** 2 / 4 + (theta["beta"] - 0.8) ** 2


def tuned(budget: int = 24, **more: Any) -> fm.Result:
    return fm.minimize(bowl, SPACE, method="random", budget=budget, seed=0, map="auto", **more)


@pytest.fixture(scope="module")
def found() -> fm.Result:
    return tuned()


def test_maps_are_chosen_and_trials_carried_over(found: fm.Result) -> None:
    asked = [(0, "lr"), (0, "width"), (21, "lr"), (21, "width")]
    assert [(c.evaluations, c.name) for c in found.choices] == asked
    assert [c.map for c in found.choices] == [fm.Log(), fm.Log(), fm.Identity(), fm.Log()]
    assert found.space["lr"].map == fm.Identity()
    assert found.choices[0].reason == "A prior: from 0.01 to 0.9 is a decade or more."
    assert found.choices[2].reason.startswith("Of 21 losses")
    assert "maps: lr by Log(low=0.0) from the start" in found.reason
    assert "lr by Identity() after 21 evaluations" in found.reason
    assert found.space["beta"] == SPACE["beta"]
    assert [r.number for r in found.history] == list(range(24))
    for record in found.history:  # also the earlier ones
        assert record.z["lr"] == record.theta["lr"]
        assert record.z["width"] == pytest.approx(math.log(record.theta["width"]), abs=0.7)  # rounded
        assert record.loss == bowl(record.theta)
    assert found.loss == min(r.loss for r in found.history) == bowl(found.best)
    # What came before the choice is what comes without it.
    scaled = fm.Space(
        {n: fm.Param(p.low, p.high, map=p.map or "log", integer=p.integer) for n, p in SPACE.items()}
    )
    plain = fm.minimize(bowl, scaled, method="random", budget=24, seed=0)
    assert [r.theta for r in plain.history[:21]] == [r.theta for r in found.history[:21]]
    assert [r.theta for r in plain.history[21:]] != [r.theta for r in found.history[21:]]
    assert plain.choices == ()
    assert "maps" not in plain.reason


def test_the_same_seed_gives_the_same_search_in_memory_and_in_a_storage(
    found: fm.Result, tmp_path: Path
) -> None:
    stored = tuned(storage=tmp_path / "s.journal")
    assert stored.history == found.history
    assert stored.choices == found.choices
    assert stored.reason == found.reason


def test_a_stored_search_goes_on_under_its_maps(tmp_path: Path) -> None:
    path = tmp_path / "s.journal"
    first = tuned(storage=path)
    with pytest.raises(ValueError, match="another space: map of 'lr'"):
        fm.minimize(bowl, SPACE, storage=path, resume=True)
    second = tuned(budget=3, storage=path, resume=True)
    assert second.history[:24] == first.history
    assert second.space == first.space
    assert second.choices == first.choices  # 27 evaluations: not yet twice 21
    third = tuned(budget=16, storage=path, resume=True)
    assert {c.evaluations for c in third.choices} == {0, 21, 42}
    assert len(third.history) == 43
    kept = searches.load(path)
    assert kept.space == third.space
    assert kept.history == third.history
    # A search that never chose maps may begin to.
    fm.minimize(bowl, SPACE, storage=path, name="plain", method="random", budget=21, seed=0)
    adopted = tuned(budget=1, storage=path, name="plain", resume=True)
    assert [(c.evaluations, c.name) for c in adopted.choices] == [(21, "lr"), (21, "width")]
    assert adopted.history[:21] == searches.load(path, "plain").history[:21]


def test_every_state_of_a_trial_is_carried_over() -> None:
    def loss(theta: dict, trial: fm.Trial) -> float:
        if trial.number == 2:
            raise ZeroDivisionError("why")
        if trial.number == 3:
            return math.nan
        trial.suggest_categorical("kind", ["a", "b"])
        if trial.number == 4:
            trial.report(7.0, 0)
            raise optuna.TrialPruned
        return bowl(theta)

    result = fm.minimize(loss, SPACE, method="tpe", budget=27, seed=0, map="auto", catch=(ZeroDivisionError,))
    assert [c.evaluations for c in result.choices] == [0, 0, 21, 21]
    assert [r.state for r in result.history[:6]] == ["COMPLETE"] * 2 + ["FAIL"] * 2 + ["PRUNED", "COMPLETE"]
    assert result.history[2].error == "ZeroDivisionError: why"
    assert result.history[4].loss == 7.0
    assert {r.theta["kind"] for r in result.history[5:]} == {"a", "b"}
    assert len(result.history) == 27


def test_open_trials_and_waiting_points_put_the_choice_off() -> None:
    search = fm.Search(SPACE, method="random", seed=0, map="auto")
    for _ in range(20):
        trial = search.ask()
        search.tell(trial, bowl(trial.theta))
    one, two = search.ask(), search.ask()
    search.tell(one, bowl(one.theta))
    search.enqueue(lr=0.5, width=3, beta=0.6)
    assert search.ask().theta["lr"] == pytest.approx(0.5)  # two is open
    search.tell(two, bowl(two.theta))
    assert {c.evaluations for c in search.choices} == {0}
    search = fm.Search(SPACE, method="random", seed=0, map="auto")
    for _ in range(21):
        trial = search.ask()
        search.tell(trial, bowl(trial.theta))
    search.enqueue(lr=0.5, width=3, beta=0.6)
    trial = search.ask()
    assert trial.theta == pytest.approx({"lr": 0.5, "width": 3, "beta": 0.6})
    assert {c.evaluations for c in search.choices} == {0}
    search.tell(trial, bowl(trial.theta))
    search.ask()
    assert search.choices[-1].evaluations == 22
    assert search.space["lr"].map == fm.Identity()


def test_a_scale_that_fits_is_kept() -> None:
    """Also one that is not identity: only a clearly better map replaces the one in use."""
    space = fm.Space(lr=fm.Param(1e-5, 1), x=fm.Param(-1, 1))
    noise = np.random.default_rng(0)

    def loss(theta: dict) -> float:
        return (math.log10(theta["lr"]) + 3) ** 2 + theta["x"] ** 2 + 0.1 * noise.normal()

    result = fm.minimize(loss, space, method="random", budget=41, seed=1, map="auto")
    assert {c.evaluations for c in result.choices} == {20, 40}
    assert {c.map for c in result.choices if c.name == "lr"} == {fm.Log()}
    assert {c.map for c in result.choices if c.name == "x"} == {fm.Identity()}
    assert result.choices[0].reason.startswith("Log(low=0.0), because no map")
    assert result.space == space
    assert result.reason.endswith("maps: kept")
    pure = fm.minimize(lambda t: noise.normal(), space, method="random", budget=21, seed=1, map="auto")
    assert pure.space == space


def test_too_few_evaluations_say_so() -> None:
    small = fm.Space(x=fm.Param(-1, 1), y=fm.Param(1, 9))
    result = fm.minimize(lambda t: t["x"] ** 2, small, method="random", budget=5, seed=0, map="auto")
    assert result.choices == ()
    assert "kept, since there were too few evaluations" in result.reason


def test_what_cannot_choose_refuses(tmp_path: Path) -> None:
    for method in ("cmaes", "ga", "de", "sep-cmaes", "adam", "lbfgs"):
        space = fm.Space(a=fm.Param(0, 1), b=fm.Param(0, 1))
        with pytest.raises(ValueError, match=rf"^map: 'auto' needs .* random, .*tpe.*; {method} starts anew"):
            fm.minimize(bowl, space, method=method, map="auto", storage=None)
    with pytest.raises(ValueError, match=r"^map: .*several objectives"):
        fm.minimize(bowl, SPACE, direction=["minimize"] * 2, method="tpe", map="auto")
    with pytest.raises(ValueError, match=r"^map: expected 'auto'"):
        fm.minimize(bowl, SPACE, map="log")  # type: ignore[arg-type]


def test_choices_are_saved(found: fm.Result, tmp_path: Path) -> None:
    found.save(tmp_path)
    kept = fm.Result.load(tmp_path)
    assert kept.choices == found.choices
    assert kept.space == found.space
    found.plot("contour", ["lr", "width"])


def test_the_map_in_use_has_to_be_beaten(found: fm.Result) -> None:
    rng = np.random.default_rng(0)
    x = 10 ** rng.uniform(-3, 0, 40)
    y = (np.log10(x) + 1.5) ** 2 + 0.1 * rng.normal(size=40)
    odd = fm.Power(0.01)  # nearly a logarithm
    kept = fm.suggest_from((x, y), current={"theta": odd})["theta"]
    assert kept.map == odd
    assert kept.reason.startswith("Power(exponent=0.01), because no map")
    assert fm.suggest_from((x, y), current={"theta": "reciprocal"})["theta"].map != fm.Reciprocal()
    few = fm.suggest_from((x[:5], y[:5]), current={"theta": "log"})["theta"]
    assert few.map == fm.Log()
    assert few.reason.startswith("Log(low=0.0), because 5 complete trials are too few")
    # A Result knows its maps, its boxes too.
    assert fm.suggest_from(found)["width"].map == fm.Log()
    for candidate in fm.suggest_from(found)["width"].candidates:
        assert candidate.map.domain[0] < 0.5
