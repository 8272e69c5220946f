"""Every method of the registry: what it finds, that it repeats itself, and what it refuses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import optuna
import pytest
import torch

import fastmap as fm
from fastmap.search import METHODS, Finished

SPACE = fm.Space(lr=fm.Param(1e-6, 1, map="log"), beta=fm.Param(0.5, 0.99999, map="one_minus_log"))
BLACK_BOX = [name for name, method in METHODS.items() if not method.gradient]
GRADIENT = [name for name, method in METHODS.items() if method.gradient and not method.mixed]
SIGNED = fm.Space(w=fm.Param(map=fm.Asinh(0.5), shape=(3, 4)), s=fm.Param(low=0))


def bowl(theta: dict) -> float:
    return (math.log10(theta["lr"]) + 3) ** 2 + (math.log10(1 - theta["beta"]) + 2) ** 2


def torch_bowl(theta: dict) -> Any:
    return (torch.log10(theta["lr"]) + 3) ** 2 + (torch.log10(1 - theta["beta"]) + 2) ** 2


def given_bowl(theta: dict) -> Any:
    a, b = math.log10(theta["lr"]) + 3, math.log10(1 - theta["beta"]) + 2
    slope = {"lr": 2 * a / theta["lr"] / math.log(10), "beta": -2 * b / (1 - theta["beta"]) / math.log(10)}
    return a * a + b * b, slope


@pytest.mark.filterwarnings("ignore:.*greenlet.*")
@pytest.mark.parametrize("method", BLACK_BOX)
def test_black_box_methods(method: str) -> None:
    budget = 15 if method == "gp" else 60
    result = fm.minimize(bowl, SPACE, method=method, budget=budget, seed=4)
    assert len(result.history) == budget
    assert result.loss == bowl(result.best) == min(r.loss for r in result.history)
    assert result.loss < 1
    assert len({r.theta["lr"] for r in result.history}) > budget / 3
    for record in result.history:
        for name, param in SPACE.items():
            assert param.box[0] <= record.theta[name] <= param.box[1]
            assert record.z[name] == pytest.approx(fm.forward(record.theta[name], param.map))
    again = fm.minimize(bowl, SPACE, method=method, budget=budget, seed=4)
    assert again.history == result.history
    other = fm.minimize(bowl, SPACE, method=method, budget=8, seed=5)
    assert other.history != result.history[:8]
    up = fm.minimize(lambda t: -bowl(t), SPACE, direction="maximize", method=method, budget=8, seed=5)
    assert [r.theta for r in up.history] == [r.theta for r in other.history]


@pytest.mark.parametrize("method", GRADIENT)
def test_gradient_methods(method: str) -> None:
    lr = {"gd": 0.3, "adadelta": 30.0, "adagrad": 1.0, "radam": 0.2}.get(method, 0.1)
    start = {"lr": 1e-2, "beta": 0.9}
    result = fm.minimize(torch_bowl, SPACE, method=method, budget=200, lr=lr, init=start)
    assert result.loss < 0.02
    assert result.loss < result.history[0].loss / 10
    assert result.history[0].theta["lr"] == pytest.approx(1e-2)
    given = fm.minimize(given_bowl, SPACE, method=method, budget=200, lr=lr, init=start, jac=True)
    assert given.loss < 0.02
    assert given.history[1].theta["lr"] == pytest.approx(result.history[1].theta["lr"], rel=1e-3)
    up = fm.minimize(
        lambda t: -torch_bowl(t), SPACE, method=method, budget=5, lr=lr, init=start, direction="maximize"
    )
    assert [r.theta for r in up.history] == [r.theta for r in result.history[:5]]


def test_the_history_holds_the_point_before_the_step() -> None:
    space = fm.Space(a=fm.Param(map="asinh"))
    result = fm.minimize(lambda t: (t["a"] - 2) ** 2, space, method="adam", budget=5, init={"a": 1.0})
    for record in result.history:
        assert record.theta["a"] == pytest.approx(math.sinh(record.z["a"]), rel=1e-6)
        assert record.loss == pytest.approx((record.theta["a"] - 2) ** 2, rel=1e-5)


@pytest.mark.parametrize("method", ["cmaes", "sep-cmaes", "pgpe", "es"])
def test_arrays_without_a_box(method: str) -> None:
    target = np.linspace(-2, 2, 12).reshape(3, 4)

    def loss(theta: dict) -> float:
        assert theta["w"].shape == (3, 4)
        assert theta["s"] >= 0
        return float(((theta["w"] - target) ** 2).sum() + (theta["s"] - 0.1) ** 2)

    start = {"w": np.ones((3, 4)), "s": 1.0}
    result = fm.minimize(loss, SIGNED, method=method, budget=1500, seed=0, init=start)
    assert result.history[0].loss == pytest.approx(loss(start))
    assert result.loss < result.history[0].loss / 20
    again = fm.minimize(loss, SIGNED, method=method, budget=1500, seed=0, init=start)
    assert [r.loss for r in again.history] == [r.loss for r in result.history]


def test_evolution_strategy_with_very_many_numbers() -> None:
    n = 200_000
    space = fm.Space(w=fm.Param(map="asinh", shape=n), a=fm.Param(1e-3, 1, map="log"))
    result = fm.minimize(lambda t: float((t["w"] ** 2).mean()) + t["a"], space, jac=False, budget=60, seed=0)
    assert result.method == "pgpe"
    assert result.best["w"].shape == (n,)
    assert set(result.history[0].theta["w"]) == {"size", "sampled", "mean", "min", "max"}
    assert result.history[0].theta["w"]["size"] == n
    assert isinstance(result.history[0].theta["a"], float)


def test_pareto_front(tmp_path: Any) -> None:
    space = fm.Space(x=fm.Param(1e-4, 1, map="log"))
    directions = ["minimize", "maximize"]
    result = fm.minimize(lambda t: (t["x"], -((t["x"] - 0.01) ** 2)), space, direction=directions, seed=0)
    assert result.method == "tpe"
    assert "2 objectives" in result.reason
    assert fm.minimize(lambda t: (t["x"], 1), space, direction=directions, budget=200).method == "nsga2"
    assert len(result.best) == len(result.loss) == len(result.front) > 3
    losses = np.array([r.loss for r in result.history]) * [1, -1]
    for record in result.front:
        mine = np.array(record.loss) * [1, -1]
        assert not ((losses <= mine).all(1) & (losses < mine).any(1)).any()
        assert record.theta["x"] <= 0.0101
    result.save(tmp_path)
    again = fm.Result.load(tmp_path)
    assert again.best == result.best
    assert again.loss == result.loss
    assert again.history == result.history
    assert result.map_error["x"].size == len(result.best)


def test_failures_do_not_stop_methods_on_arrays() -> None:
    for method in ("sep-cmaes", "de", "pgpe"):
        calls = []

        def loss(theta: dict, calls: list = calls) -> float:
            calls.append(1)
            return (math.nan, math.inf, bowl(theta), bowl(theta))[len(calls) % 4]

        result = fm.minimize(loss, SPACE, method=method, budget=80, seed=0)
        assert sum(r.state == "FAIL" for r in result.history) == 40
        assert result.loss < 2


def test_line_searches_step_back_from_a_failure() -> None:
    space = fm.Space(x=fm.Param(map="identity"))

    def loss(theta: dict) -> Any:
        return torch.log(theta["x"]) ** 2 + 0 * theta["x"]  # NaN below 0

    result = fm.minimize(loss, space, method="lbfgs", init={"x": 30.0}, budget=100)
    assert result.best["x"] == pytest.approx(1, abs=1e-3)
    with pytest.raises(ValueError, match="none of 1"):
        fm.minimize(loss, space, method="lbfgs", init={"x": -1.0}, budget=100)


def test_hyperband_prunes() -> None:
    def loss(theta: dict, trial: fm.Trial) -> float:
        value = math.nan
        for step in range(20):
            value = bowl(theta) + 1 / (step + 1)
            trial.report(value, step)
            if trial.should_prune():
                break
        return value

    for method in ("hyperband", "asha"):
        result = fm.minimize(loss, SPACE, method=method, budget=40, seed=0)
        pruned = [r for r in result.history if r.state == "PRUNED"]
        assert len(pruned) > 5
        assert all(math.isfinite(r.loss) for r in pruned)
        assert result.loss == min(r.loss for r in result.history if r.state == "COMPLETE")


def test_categorical_and_conditional_parameters() -> None:
    def loss(theta: dict, trial: fm.Trial) -> float:
        if trial.suggest_categorical("kind", ["a", "b"]) == "a":
            return bowl(theta) + trial.suggest_float("eps", 1e-3, 0.9, map="one_minus_log")
        return bowl(theta) + trial.suggest_int("n", 1, 5)

    result = fm.minimize(loss, SPACE, budget=30, seed=0)
    assert {tuple(r.theta) for r in result.history} == {
        ("lr", "beta", "kind", "eps"),
        ("lr", "beta", "kind", "n"),
    }
    assert set(result.best) >= {"lr", "beta", "kind"}
    assert "theta:kind" in result.to_frame()
    with pytest.raises(TypeError, match="'kind' can be suggested by Optuna's methods only"):
        fm.minimize(loss, SPACE, method="de", budget=3)
    with pytest.raises(ValueError, match="'lr' is a parameter of the space"):
        fm.minimize(lambda t, trial: trial.suggest_float("lr", 0, 1), SPACE, budget=3)


def test_mixed_spaces_search_scalars_outside_and_arrays_inside() -> None:
    outer = fm.Space(ridge=fm.Param(1e-6, 1e2, map="log"))
    inner = fm.Space(w=fm.Param(map="identity", shape=3))
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    y = x @ torch.tensor([1.0, -2.0, 0.5])

    def fitted(theta: dict) -> fm.Result:
        def loss(p: dict) -> Any:
            return ((x @ p["w"] - y) ** 2).mean() + theta["ridge"] * (p["w"] ** 2).sum()

        return fm.minimize(loss, inner, method="lbfgs", budget=50)

    def loss(theta: dict) -> float:
        return float(((x @ fitted(theta).best["w"].float() - y) ** 2).mean())

    assert fm.minimize(loss, outer, budget=15, seed=0).best["ridge"] < 1e-2


MIXED = fm.Space(
    w=fm.Param(map="asinh", shape=3),
    rate=fm.Param(1e-4, 1e2, map="log"),
    n=fm.Param(1, 6, integer=True),
    s=fm.Param(low=0),
)
TARGET = torch.tensor([1.0, -2.0, 0.5])


def mixed_loss(theta: dict) -> Any:
    """Least at w = TARGET, s = 0.5, rate = 0.1, n = 4; it has no gradient in rate and n."""
    assert type(theta["rate"]) is float
    assert type(theta["n"]) is int
    return (
        ((theta["w"] - TARGET) ** 2).sum()
        + (theta["s"] - 0.5) ** 2
        + (math.log10(theta["rate"]) + 1) ** 2
        + (theta["n"] - 4) ** 2
    )


@pytest.mark.parametrize(
    "options", [{}, {"inner": "lbfgs", "steps": 12}, {"inner": "adam", "steps": 25, "betas": (0.8, 0.99)}]
)
def test_mixed_spaces_are_searched_outside_and_inside(options: dict, tmp_path: Any) -> None:
    result = fm.minimize(mixed_loss, MIXED, budget=600, seed=0, lr=0.2, options=options)
    assert result.method == "mixed"
    assert "'rate' is a scalar with a box and a map of its own: TPE outside" in result.reason
    assert "'w' is an array: Adam inside" in result.reason
    assert result.loss < 0.5
    assert result.best["n"] == 4
    torch.testing.assert_close(result.best["w"], TARGET, atol=0.2, rtol=0)
    assert result.loss == pytest.approx(float(mixed_loss(result.best)), rel=1e-5)
    assert len(result.history) == 600
    steps = options.get("steps", 40)
    choices = [(r.theta["rate"], r.theta["n"]) for r in result.history]
    if "inner" not in options or options["inner"] == "adam":
        assert len(set(choices)) == math.ceil(600 / steps)
        starts = result.history[::steps]
        assert len(set(choices[:steps])) == 1
        assert all(torch.equal(r.theta["w"], starts[0].theta["w"]) for r in starts)  # the same start for each
    else:
        assert len(set(choices)) >= 600 / steps  # L-BFGS may converge earlier
    assert list(result.best) == list(MIXED)
    again = fm.minimize(mixed_loss, MIXED, budget=600, seed=0, lr=0.2, options=options)
    assert [r.loss for r in again.history] == [r.loss for r in result.history]
    assert set(result.map_error) == set(MIXED)
    result.save(tmp_path)
    assert fm.Result.load(tmp_path).best["n"] == 4


def test_mixed_tells_the_tuner_the_best_of_each_choice(monkeypatch: Any) -> None:
    from fastmap.search._tuner import Tuner

    told: list[tuple[str, float]] = []
    tell = Tuner.tell

    def spy(self: Any, point: Any, outcome: Any) -> None:
        told.append((outcome.state, outcome.losses[0]))
        tell(self, point, outcome)

    monkeypatch.setattr(Tuner, "tell", spy)
    up = fm.minimize(
        lambda t: -mixed_loss(t), MIXED, budget=60, seed=0, options={"steps": 20}, direction="maximize"
    )
    losses = [r.loss for r in up.history]
    assert told == [("COMPLETE", max(losses[i : i + 20])) for i in (0, 20, 40)]

    def failing(theta: dict) -> Any:
        return mixed_loss(theta) * (math.nan if theta["n"] != 4 else 1)

    told.clear()
    result = fm.minimize(failing, MIXED, budget=200, seed=0, options={"steps": 20})
    assert result.best["n"] == 4
    assert {state for state, _ in told} == {"COMPLETE", "FAIL"}
    failures = sum(r.state == "FAIL" for r in result.history)
    assert failures == sum(state == "FAIL" for state, _ in told) > 2  # a choice that fails is left at once


def test_mixed_with_given_gradients_and_a_start() -> None:
    space = fm.Space(n=fm.Param(1, 6, integer=True), w=fm.Param(shape=2))

    def loss(theta: dict) -> Any:
        d = theta["w"] - theta["n"]
        return float(d @ d) + (theta["n"] - 3) ** 2, {"w": 2 * d, "n": 0.0}

    start = {"n": 5, "w": np.array([4.0, 4.0])}
    result = fm.minimize(loss, space, jac=True, budget=400, seed=0, lr=0.2, init=start)
    assert result.method == "mixed"
    assert "'n' is an integer" in result.reason
    assert result.history[0].theta["n"] == 5
    np.testing.assert_array_equal(result.history[0].theta["w"], [4, 4])
    assert result.best["n"] == 3
    assert result.loss < 1e-2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"space": SPACE}, "method: mixed needs a scalar to search outside"),
        ({"space": SIGNED}, "method: mixed needs a scalar to search outside"),
        ({"options": {"inner": "gd"}}, "options: inner is one of adam, lbfgs, not 'gd'"),
        ({"options": {"steps": 0}}, "options: steps must be an integer of at least 1, got 0"),
        ({"init": {"rate": 1e3}}, "rate: 1000.0 is outside the box"),
        ({"init": {"w": np.zeros(2)}}, "init: w has shape"),
        ({"direction": ["minimize", "minimize"]}, "method: mixed takes one objective"),
    ],
)
def test_mixed_refuses_before_the_first_evaluation(arguments: dict, message: str) -> None:
    def objective(theta: dict) -> Any:
        pytest.fail("evaluated")

    with pytest.raises(ValueError, match=message):
        fm.minimize(objective, **{"space": MIXED, "method": "mixed", **arguments})


@pytest.mark.parametrize(
    ("arguments", "method", "reason"),
    [
        ({}, "tpe", "scalars"),
        ({"budget": 2000}, "cmaes", "2000 evaluations of 2 numbers"),
        ({"jac": True}, "lbfgs", "given"),
        ({"jac": True, "noisy": True}, "adam", "given"),
        ({"space": SIGNED}, "adam", "'w' is an array of 12"),
        ({"space": SIGNED, "noisy": False}, "lbfgs", "no noise"),
        ({"space": MIXED}, "mixed", "TPE outside"),
        ({"space": MIXED, "jac": True}, "mixed", "TPE outside"),
        ({"space": fm.Space(w=fm.Param(shape=2), p=fm.Param(0, 1))}, "adam", "array of 2"),
        (
            {"space": fm.Space(w=fm.Param(shape=2), a=fm.Param(1e-3, 1, map="log")), "jac": True},
            "lbfgs",
            "given",
        ),
        ({"space": SIGNED, "jac": False}, "cmaes", "no box"),
        ({"space": fm.Space(w=fm.Param(shape=5000)), "jac": False}, "sep-cmaes", "5000"),
        ({"space": fm.Space(w=fm.Param(shape=200_000)), "jac": False}, "pgpe", "200000"),
        ({"space": fm.Space(w=fm.Param(0, 1, shape=5)), "convex": True}, "lbfgsb", "convex"),
        ({"space": fm.Space(n=fm.Param(1, 9, integer=True)), "budget": 2000}, "tpe", "scalars"),
        ({"direction": ["minimize", "maximize"], "budget": 500}, "nsga2", "Pareto"),
    ],
)
def test_auto_says_which_and_why(arguments: dict, method: str, reason: str) -> None:
    search = fm.Search(**{"space": SPACE, **arguments})
    assert search.method == method
    assert reason in search.reason


def test_ask_and_tell() -> None:
    with fm.Search(SPACE, method="de", seed=0) as search:
        search.enqueue(lr=1e-3, beta=0.99)
        first = search.ask()
        assert first.theta["lr"] == pytest.approx(1e-3, rel=1e-14)
        record = search.tell(first, bowl(first.theta))
        assert record.state == "COMPLETE"
        assert search.loss == record.loss < 1e-20
        with pytest.raises(ValueError, match="has been told"):
            search.tell(first, 1.0)
        second = search.ask()
        assert search.tell(second, state="FAIL", error="why").error == "why"
        assert search.result().best == first.theta
    gradient = fm.Search(fm.Space(x=fm.Param()), method="adam")
    for _ in range(3):
        trial = gradient.ask()
        gradient.tell(trial, (trial.theta["x"] - 1) ** 2)
    assert [r.loss for r in gradient.history] == sorted((r.loss for r in gradient.history), reverse=True)


def test_methods_that_converge_say_so() -> None:
    def run(search: fm.Search) -> None:
        for _ in range(100):
            trial = search.ask()
            search.tell(trial, (trial.theta["x"] - 1) ** 2)

    with fm.Search(fm.Space(x=fm.Param()), method="lbfgs") as search, pytest.raises(Finished):
        run(search)
    result = fm.minimize(lambda t: (t["x"] - 1) ** 2, fm.Space(x=fm.Param()), method="lbfgs")
    assert "CONVERGENCE" in result.reason
    assert len(result.history) < 20


def test_stopping() -> None:
    short = fm.minimize(bowl, SPACE, seed=0, patience=5)
    assert "5 evaluations without" in short.reason
    best = short.best_so_far()
    assert len(set(best[-6:])) == 1
    target = fm.minimize(bowl, SPACE, seed=0, target=0.5)
    assert target.loss <= 0.5
    assert all(r.loss > 0.5 for r in target.history[:-1])
    stopped = fm.minimize(bowl, SPACE, seed=0, callbacks=[lambda r: r.number == 3])
    assert len(stopped.history) == 4
    assert "callback" in stopped.reason
    assert "stopped after 0 s" in fm.minimize(bowl, SPACE, timeout=0.0).reason


SAME_NAMES = fm.Space({"w[0]": fm.Param(0, 1), "w": fm.Param(0, 1, shape=2)})
INTEGER = fm.Space(n=fm.Param(1, 5, integer=True))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda f: fm.minimize(3, SPACE), TypeError, "objective: expected a function"),
        (lambda f: fm.minimize(lambda: 1, SPACE), TypeError, "objective: it must take theta"),
        (lambda f: fm.minimize(lambda a, b, c: 1, SPACE), TypeError, "objective: it must take theta"),
        (lambda f: fm.minimize(f, {"lr": 1}), TypeError, "space: expected a Space"),
        (lambda f: fm.minimize(f, SPACE, init={"x": 1}), ValueError, "init: no parameter is called 'x'"),
        (lambda f: fm.minimize(f, SPACE, enqueue=[{"x": 1}]), ValueError, "enqueue: no parameter is called"),
        (lambda f: fm.minimize(f, SPACE, init={"lr": 2}), ValueError, r"lr: 2 is outside the box"),
        (lambda f: fm.minimize(f, SPACE, init={"lr": [1, 2]}), ValueError, "lr: shape (2,) differs"),
        (lambda f: fm.minimize(f, SPACE, init={"lr": "x"}), ValueError, "lr: expected numbers"),
        (lambda f: fm.minimize(f, SPACE, method="magic"), ValueError, "method: expected one of auto"),
        (lambda f: fm.minimize(f, SPACE, direction=[]), ValueError, "direction"),
        (lambda f: fm.minimize(f, SPACE, direction=["up"]), ValueError, "direction"),
        (
            lambda f: fm.minimize(f, SPACE, direction=["minimize"] * 2, method="de"),
            ValueError,
            "method: de takes one objective",
        ),
        (lambda f: fm.minimize(f, SPACE, method="tpe", jac=True), ValueError, "jac: tpe takes no gradients"),
        (
            lambda f: fm.minimize(f, SIGNED, method="tpe"),
            ValueError,
            "w: low, high: this method searches a box",
        ),
        (lambda f: fm.minimize(f, fm.Space(p=fm.Param(0, 1, map="logit"))), ValueError, "p: low, high"),
        (lambda f: fm.minimize(f, fm.Space(p=fm.Param(0.1, 1)), method="cmaes"), ValueError, "two numbers"),
        (lambda f: fm.minimize(f, INTEGER, method="adam"), ValueError, "n: an integer"),
        (lambda f: fm.minimize(f, SPACE, options={"nonsense": 1}), TypeError, "nonsense"),
        (lambda f: fm.minimize(f, SPACE, method="es", options={"x": 1}), TypeError, "options: unknown 'x'"),
        (lambda f: fm.minimize(f, SPACE, patience=0), ValueError, "patience"),
        (lambda f: fm.minimize(f, SPACE, resume=True), ValueError, "resume: there is nothing"),
        (lambda f: fm.minimize(f, SPACE, resume="x", storage="y"), ValueError, "resume: expected"),
        (lambda f: fm.minimize(f, SPACE, storage=3), TypeError, "storage: expected a path"),
        (
            lambda f: fm.minimize(f, SIGNED, method="adam", storage="x.journal"),
            ValueError,
            "storage: it holds up to 1000 numbers with boxes of z",
        ),
        (
            lambda f: fm.minimize(
                f, fm.Space({"w[0]": fm.Param(0, 1), "w": fm.Param(0, 1, shape=2)}), jac=False
            ),
            ValueError,
            "w: another parameter already has the name 'w[0]'",
        ),
    ],
)
def test_bad_input_is_refused_before_the_first_trial(
    call: Any, error: type[Exception], message: str, tmp_path: Any, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    calls = []

    def objective(theta: dict) -> float:
        calls.append(1)
        return 1.0

    with pytest.raises(error) as caught:
        call(objective)
    assert message in str(caught.value)
    assert calls == []


@pytest.mark.parametrize(
    ("value", "method", "message"),
    [
        (None, "tpe", "expected a number, got NoneType"),
        ("3", "tpe", "expected a number, got str"),
        (np.ones(3), "tpe", "expected a number, got ndarray of shape (3,)"),
        (torch.ones(2), "tpe", "expected a number, got Tensor of shape (2,)"),
        (1.0, "adam", "torch scalar that depends on theta"),
        (torch.tensor(1.0), "lbfgs", "torch scalar that depends on theta"),
    ],
)
def test_an_objective_that_returns_no_loss(value: Any, method: str, message: str) -> None:
    calls = []

    def objective(theta: dict) -> Any:
        calls.append(1)
        return value

    with pytest.raises(TypeError) as caught:
        fm.minimize(objective, SPACE, method=method, catch=(Exception,))
    assert message in str(caught.value)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (1.0, "returns (loss"),
        ((1.0, {"lr": 1.0}), "dict of gradients"),
        ((1.0, {"lr": 1, "beta": [1]}), "beta"),
    ],
)
def test_gradients_of_the_wrong_shape(value: Any, message: str) -> None:
    for method in ("adam", "lbfgs"):
        with pytest.raises(TypeError) as caught:
            fm.minimize(lambda t: value, SPACE, method=method, jac=True)
        assert message in str(caught.value)


def test_several_objectives_need_several_numbers() -> None:
    for value in (1.0, (1.0,), (1, 2, 3), "ab"):
        with pytest.raises(TypeError, match="objective: expected 2 numbers"):
            fm.minimize(lambda t, value=value: value, SPACE, direction=["minimize"] * 2, budget=2)


@pytest.mark.parametrize(
    ("method", "module", "extra"),
    [
        ("tpe", "optuna", "search"),
        ("cmaes", "cmaes", "search"),
        ("de", "scipy", "search"),
        ("adam", "torch", "torch"),
    ],
)
def test_a_missing_extra_names_the_command(monkeypatch: Any, method: str, module: str, extra: str) -> None:
    import importlib

    real = importlib.import_module

    def without(name: str, *args: Any) -> Any:
        if name == module or name.startswith(module + "."):
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(ImportError, match=rf"{module} is needed for this: pip install 'fastmap\[{extra}\]'"):
        fm.minimize(bowl, SPACE, method=method)


def test_results_say_what_the_map_costs() -> None:
    result = fm.minimize(bowl, SPACE, budget=10, seed=0)
    assert result.best_params == result.best
    assert result.best_value == result.loss
    assert set(result.map_error) == {"lr", "beta"}
    assert result.map_error["lr"].round_trip_ulp["max"] < 40  # log10(1e-6) costs digits
    assert result.map_error["lr"].map == fm.Log()
    vector = fm.minimize(lambda t: (t["w"] ** 2).sum(), SIGNED, method="adam", budget=3)
    assert vector.map_error["w"].map == fm.Asinh(0.5)
    assert vector.map_error["w"].dtype == "float32"


def test_results_load(tmp_path: Any) -> None:
    big = fm.Space(w=fm.Param(map="asinh", shape=3000), a=fm.Param(low=0))
    for space, size in ((SIGNED, 12), (big, 3000)):
        result = fm.minimize(lambda t: (t["w"] ** 2).sum(), space, method="adam", budget=3)
        result.save(tmp_path / str(size))
        again = fm.Result.load(tmp_path / str(size))
        np.testing.assert_array_equal(again.best["w"], result.best["w"].numpy())
        assert again.best["w"].size == size
        assert again.loss == result.loss
        assert again.space == space
        assert again.map_error["w"].map == result.map_error["w"].map
        assert len(again.history) == 3
    with pytest.raises(ValueError, match=r"result.json: no result"):
        fm.Result.load(tmp_path)


def test_one_attribute_per_trial() -> None:
    search = fm.Search(SPACE, method="random", seed=0)
    trial = search.ask()
    study = search._study
    assert isinstance(study, optuna.Study)
    assert study.trials[0].user_attrs == {"fastmap:theta": trial.theta}


def test_a_vector_costs_its_map_and_no_copies() -> None:
    """Nothing of full size is made beside theta, z, their gradients and the moments."""
    import tracemalloc

    n = 2_000_000
    space = fm.Space(w=fm.Param(map="asinh", shape=n), a=fm.Param(low=0))
    start = {"w": torch.ones(n), "a": 1.0}

    def loss(theta: dict) -> Any:
        return (theta["w"] ** 2).mean() + theta["a"]

    fm.minimize(loss, fm.Space(w=fm.Param(shape=3), a=fm.Param(low=0)), method="gd", budget=3)  # imports
    tracemalloc.start()
    result = fm.minimize(loss, space, method="gd", budget=3, init=start)
    peak = tracemalloc.get_traced_memory()[1]  # of NumPy and Python; torch has its own allocator
    tracemalloc.stop()
    assert peak < n  # less than one byte per element
    assert result.best["w"].shape == (n,)
    assert set(result.history[0].theta["w"]) == {"size", "sampled", "mean", "min", "max"}


def test_searching_theta_itself() -> None:
    space = fm.Space(x=fm.Param(0.1, 5, map="log", shape=2))
    result = fm.minimize(lambda t: ((t["x"] - 7) ** 2).sum(), space, method="lbfgsb")
    np.testing.assert_array_equal(result.best["x"], [5, 5])
    assert result.map_error["x"].map == fm.Identity()
    np.testing.assert_array_equal(result.history[-1].z["x"], result.history[-1].theta["x"])
