"""`fastmap tune` end to end with small budgets, and the rest of the command line."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys

import pytest

import fastmap as fm
from fastmap import cli, maps
from fastmap.recipes import NAMES

SMALL = ["--seeds", "2", "--trials", "3", "--epochs", "1", "--steps", "3", "--evaluations", "20", "--quiet"]
PICTURES = (
    "loss_by_trial.png",
    "loss_over_theta_and_z.png",
    "weights_by_learning_rate.png",
    "weights_without_gradients.png",
)
ARMS = {
    "before": {"untrained", "default"},
    "hyperparameters": {"raw", "tuner's own", "fastmap"},
    "weights": {"raw", "torch's own", "fastmap"},
    "weights, CMA-ES": {"raw", "tuner's own", "fastmap"},
    "weights, evolution": {"raw", "tuner's own", "fastmap"},
}


def tune(*args, out=None):
    return cli.run(["tune", *args, *SMALL, *([] if out is None else ["--out", str(out)])])


@pytest.fixture(scope="module", params=NAMES)
def tuned(request, tmp_path_factory):
    out = tmp_path_factory.mktemp(request.param) / "new"
    assert tune(request.param, "--seed", "3", out=out) == 0
    return out, json.loads((out / "result.json").read_text())


def test_tune_writes_what_it_promises(tuned):
    out, result = tuned
    assert {path.name for path in out.iterdir()} == {"result.json", "trials.csv", *PICTURES}
    for picture in PICTURES:
        assert (out / picture).read_bytes().startswith(b"\x89PNG")
    assert result["budget"]["seed"] == 3
    assert set(result["versions"]) == {"fastmap", "numpy", "torch", "optuna", "scikit-learn"}
    assert fm.Space.from_json(result["space"])["lr"].map == fm.Log()
    for part, arms in ARMS.items():
        assert {run["arm"] for run in result["runs"] if run["part"] == part} == arms
    assert {run["seed"] for run in result["runs"]} == {3, 4}
    assert len(result["comparisons"]) == 8
    for comparison in result["comparisons"]:
        assert comparison["low"] <= comparison["mean"] <= comparison["high"]


def test_arms_spend_the_same(tuned):
    _, result = tuned
    for part in ARMS.keys() - {"before"}:
        assert len({run["evaluations"] for run in result["runs"] if run["part"] == part}) == 1
    assert {run["evaluations"] for run in result["runs"] if run["part"] == "hyperparameters"} == {3}
    curves = [
        run["curve"] for run in result["runs"] if run["part"] in ("weights, CMA-ES", "weights, evolution")
    ]
    assert len(curves) == 2 * 2 * 3
    for curve in curves:
        assert len(curve) == 20
        assert curve == sorted(curve, reverse=True)
    # Every search begins with the initial weights, inside a box that may be narrower than they are.
    assert max(curve[0] for curve in curves) < 1.2 * min(curve[0] for curve in curves)


def test_best_is_the_best_trial_and_trials_hold_both_spaces(tuned):
    out, result = tuned
    with (out / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    for run in result["runs"]:
        if run["part"] == "before":
            continue
        own = [
            r for r in rows if (r["part"], r["arm"], r["seed"]) == (run["part"], run["arm"], str(run["seed"]))
        ]
        assert len(own) == run["evaluations"]
        best = min((r for r in own if r["state"] == "COMPLETE"), key=lambda r: float(r["loss"]))
        assert float(best["loss"]) == run["validation_log_loss"]
        assert {name: float(best[f"theta:{name}"]) for name in run["best"]} == run["best"]
        if (run["part"], run["arm"]) == ("hyperparameters", "fastmap"):
            assert float(best["z:lr"]) == pytest.approx(math.log(float(best["theta:lr"])))
            assert float(best["z:momentum"]) == pytest.approx(-math.log1p(-float(best["theta:momentum"])))


def test_first_evaluations_agree_where_the_scales_agree(tuned):
    """Same sampler seed, same boxes: the first point of both log arms is one point in lr."""
    out, _ = tuned
    with (out / "trials.csv").open() as file:
        first = {
            r["arm"]: float(r["theta:lr"])
            for r in csv.DictReader(file)
            if r["part"] == "hyperparameters" and r["seed"] == "3" and r["number"] == "0"
        }
    assert first["fastmap"] == pytest.approx(first["tuner's own"], rel=1e-12)
    assert first["raw"] != pytest.approx(first["fastmap"])


def test_torch_and_fastmap_descend_alike(tuned):
    _, result = tuned
    weights = [run for run in result["runs"] if run["part"] == "weights"]
    for seed in (3, 4):
        losses = {run["arm"]: run["test_log_loss"] for run in weights if run["seed"] == seed}
        assert losses["fastmap"] == pytest.approx(losses["torch's own"], rel=1e-3)


def test_same_seed_gives_the_same_numbers(tuned, capsys):
    from fastmap.recipes._arms import Budget
    from fastmap.recipes._run import recipe_named, tune

    out, result = tuned
    again = tune(recipe_named(result["recipe"]), Budget(**result["budget"]), quiet=True)
    assert capsys.readouterr().err == ""
    names = ("part", "arm", "seed", "validation_log_loss", "test_log_loss", "test_accuracy", "best")
    for old, new in zip(result["runs"], again, strict=True):
        assert {name: old[name] for name in names} == {name: getattr(new, name) for name in names}
    with (out / "trials.csv").open() as file:
        old_losses = [row["loss"] for row in csv.DictReader(file)]
    assert old_losses == [str(record.loss) for run in again for record in run.records]


def test_textbook_mistake_is_shown_and_tables_are_printed(capsys):
    assert (
        cli.run(
            ["tune", "--seeds", "1", "--trials", "1", "--epochs", "1", "--steps", "1", "--evaluations", "2"]
        )
        == 0
    )
    out, err = capsys.readouterr()
    assert "DomainError: theta: " in out
    assert "outside the domain (0, inf) of Log(low=0.0)" in out
    assert "SymLog(scale=" in out
    assert out.count("before  default") == 4
    assert "no verdict from one seed" in out
    assert "eval" in err


def test_random_and_another_map(capsys):
    assert tune("--method", "random", "--map", "asinh") == 0
    out, err = capsys.readouterr()
    assert "Hyperparameters: random" in out
    assert err == ""


def test_map_that_does_not_fit_the_weights(capsys):
    assert tune("--map", "log") == 2
    _, err = capsys.readouterr()
    assert err.startswith("fastmap tune: error: DomainError: theta: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "args",
    [
        ["nonsense"],
        ["tune", "iris"],
        ["tune", "--trials", "0"],
        ["tune", "--seeds", "x"],
        ["tune", "--seed", "-1"],
        ["tune", "--method", "magic"],
        ["tune", "--method", "cmaes"],
        ["tune", "--storage", "x"],
        ["tune", "missing.py:f"],
        ["tune", "missing.module:f"],
        ["tune", "os:missing"],
        ["tune", "os:getcwd", "--epochs", "3"],
        ["tune", "os:getcwd"],
        ["tune", "os:getcwd", "--space", "missing.toml"],
        ["plot"],
        ["plot", "missing.journal"],
        ["plot", "tests"],
        ["plot", "missing", "--kind", "magic"],
        ["tune", "--map", "nonsense"],
        ["maps", "--json", "--stubs"],
        ["info", "--nonsense"],
    ],
)
def test_bad_arguments_give_one_line_and_2(args, capsys):
    try:
        status = cli.run(args)
    except SystemExit as stop:
        status = stop.code
    out, err = capsys.readouterr()
    assert status == 2
    assert out == ""
    assert err.count("\n") == 1
    assert "error: " in err


def test_out_that_is_a_file(tmp_path, capsys):
    path = tmp_path / "file"
    path.write_text("")
    assert tune(out=path) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_maps(capsys):
    assert cli.run(["maps"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(fm.catalog())
    for entry, line in zip(fm.catalog(), lines[2:], strict=True):
        assert line.startswith(entry["name"])
        assert entry["formulas"]["forward"] in line
    assert cli.run(["maps", "--stubs"]) == 0
    assert capsys.readouterr().out == maps.stubs()
    assert cli.run(["maps", "--json"]) == 0
    assert [e["name"] for e in json.loads(capsys.readouterr().out)] == [e["name"] for e in fm.catalog()]


def test_info(capsys):
    assert cli.run(["info"]) == 0
    assert fm.__version__ in capsys.readouterr().out
    assert cli.run(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["version"] == fm.__version__


def test_main_exits():
    with pytest.raises(SystemExit) as stop:
        cli.main(["info"])
    assert stop.value.code == 0


def test_light_commands_import_numpy_alone():
    heavy = "torch optuna sklearn matplotlib pandas tqdm rich scipy"
    code = (
        "import sys; from fastmap import cli; cli.run(['maps']); cli.run(['info']);"
        f"sys.exit(' '.join(sorted(set({heavy!r}.split()) & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == "\n" or done.stderr == ""


def test_missing_extras_name_the_command(monkeypatch, capsys):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert cli.run(["tune"]) == 2
    err = capsys.readouterr().err
    assert "pip install 'fastmap[demo]'" in err
    assert err.count("\n") == 1


SCRIPT = """
import fastmap as fm
from helper import TARGET  # beside the script

space = fm.Space(x=fm.Param(1e-6, 1, map="log"))

def objective(theta):
    return (theta["x"] - TARGET) ** 2

def pair(theta):
    return theta["x"], -theta["x"]
"""


@pytest.fixture
def script(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "helper", raising=False)
    (tmp_path / "helper.py").write_text("TARGET = 1e-3\n")
    (tmp_path / "my_script.py").write_text(SCRIPT)
    (tmp_path / "space.json").write_text(
        json.dumps({"version": 1, "params": {"x": {"low": 1e-6, "high": 0.5, "map": "log"}}})
    )
    return tmp_path


def test_tune_a_function_and_resume(script, capsys):
    command = ["tune", "my_script.py:objective", "--trials", "8", "--storage", "s.journal", "--seed", "1"]
    assert cli.run([*command, "--space", "space.json", "--out", "out", "--method", "random"]) == 0
    out, err = capsys.readouterr()
    assert "random: asked for" in out
    assert "8 evaluations, 0 failed" in out
    assert "8/8" in err
    assert fm.Result.load("out").best["x"] <= 0.5
    assert cli.run([*command, "--space", "space.json"]) == 2
    assert "already has 8 trials; resume to continue" in capsys.readouterr().err
    assert cli.run([*command, "--resume", "--quiet"]) == 2  # the script's own space is another one
    assert "high of 'x' is 0.5 there and 1.0 here" in capsys.readouterr().err
    assert cli.run([*command, "--remap", "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert "16 evaluations" in out
    assert err == ""
    for source, kind in (("s.journal", "history"), ("out", "overview"), ("s.journal", "importance")):
        assert cli.run(["plot", source, "--kind", kind, "--out", "x.png"]) == 0
        assert (script / "x.png").read_bytes().startswith(b"\x89PNG")
    assert cli.run(["plot", "s.journal", "--params", "y"]) == 2


def test_an_error_of_the_function_is_shown(script, capsys):
    (script / "bad.py").write_text(SCRIPT + "\ndef bad(theta):\n    return theta['y']\n")
    with pytest.raises(KeyError):
        cli.run(["tune", "bad.py:bad", "--quiet"])
    assert "return theta['y']" in capsys.readouterr().err


def test_tune_several_objectives(script, capsys):
    command = ["tune", "my_script.py:pair", "--trials", "5", "--quiet"]
    assert cli.run([*command, "--direction", "minimize", "--direction", "minimize"]) == 0
    assert capsys.readouterr().out.count("loss = (") == 5
    assert cli.run([*command, "--direction", "minimize"]) == 2
    assert "objective: expected a number, got tuple" in capsys.readouterr().err


def test_spaces_of_the_weights_differ_by_map_alone():
    import torch

    from fastmap.recipes import _arms, _evolution
    from fastmap.recipes._run import recipe_named

    recipe = recipe_named("cnn")
    model = _arms.initial_model(recipe, 0)
    start = {name: weight.detach() for name, weight in model.named_parameters()}
    maps = _arms.weight_maps(recipe, model, "symlog")
    raw, own, ours = (_evolution.weight_space(arm, start, maps, 3.0) for arm in _arms.ARMS["weights, CMA-ES"])
    assert {name: param.box for name, param in own.items()} == {n: p.box for n, p in ours.items()}
    assert all(param.box_map == maps[name] for name, param in ours.items())
    assert all(param.box_map == fm.Identity() for param in raw.values())
    gain = "1.gain"
    assert own[gain].box_map == ours[gain].box_map == fm.Log()
    assert own[gain].box == pytest.approx((0.25, 4.0))
    assert len({p.box for n, p in raw.items() if "gain" not in n}) == 1
    signed = torch.cat([w.ravel() for n, w in start.items() if "gain" not in n])
    assert raw["0.weight"].box[1] == pytest.approx(3 * float(signed.std()))
    assert own["0.weight"].box[1] == pytest.approx(3 * float(start["0.weight"].std(correction=0)))
