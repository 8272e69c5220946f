"""`fastmap.configspace`: the numbers of a ConfigurationSpace, there and back."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

import fastmap as fm
from fastmap.configspace import configuration, space

cs = pytest.importorskip("ConfigSpace", reason="not installed: pip install 'fastmap[configspace]'")


def mixed() -> cs.ConfigurationSpace:
    result = cs.ConfigurationSpace(seed=0)
    result.add(
        cs.Float("lr", (1e-5, 0.1), log=True, default=1e-3),
        cs.Float("momentum", (0.0, 0.99)),
        cs.Integer("width", (4, 1024), log=True, default=32),
        cs.Integer("layers", (1, 5), default=2),
        cs.Categorical("optimizer", ["sgd", "adam"]),
        cs.Constant("seed", 3),
    )
    result.add(cs.EqualsCondition(result["momentum"], result["optimizer"], "sgd"))
    return result


def test_numbers_become_parameters() -> None:
    found = space(mixed())
    assert set(found) == {"lr", "momentum", "width", "layers"}
    assert found["lr"] == fm.Param(1e-5, 0.1, map="log", init=1e-3)
    assert found["momentum"] == fm.Param(0, 0.99, map="identity", init=0.495)
    assert found["width"] == fm.Param(4, 1024, map="log", integer=True, init=32)
    assert found["layers"] == fm.Param(1, 5, map="identity", integer=True, init=2)


def test_the_scale_is_that_of_configspace() -> None:
    """The unit cube of ConfigSpace is the box of z; integers on a log scale aside, whose ends differ."""
    config_space = mixed()
    for name, param in space(config_space).items():
        if name == "width":
            continue
        low, high = param.z_box
        for unit in (0.01, 0.3, 0.5, 0.99):
            theta = param.from_z(low + unit * (high - low))
            expected = config_space[name].to_value(unit)
            assert float(theta) == pytest.approx(expected, rel=1e-9), (name, unit)


def test_values_go_back() -> None:
    config_space = mixed()
    theta = {"lr": np.float64(0.02), "momentum": np.asarray(0.5), "width": np.float64(8), "layers": 3.0}
    given = configuration(config_space, theta, optimizer="sgd")
    assert dict(given) == {
        "lr": 0.02, "momentum": 0.5, "width": 8, "layers": 3, "optimizer": "sgd", "seed": 3,
    }  # fmt: skip
    assert type(given["width"]) is int
    given.check_valid_configuration()
    assert "momentum" not in configuration(config_space, theta, optimizer="adam")
    assert configuration(config_space, {})["lr"] == 1e-3


def test_a_search_ends_in_a_configuration() -> None:
    config_space = mixed()
    searched = space(config_space)

    def loss(theta: dict[str, float]) -> float:
        configuration(config_space, theta).check_valid_configuration()
        return abs(np.log(theta["lr"] / 0.01)) + abs(theta["layers"] - 3)

    result = fm.minimize(loss, searched, method="random", budget=60, seed=0)
    best = configuration(config_space, result.best)
    best.check_valid_configuration()
    assert result.loss < 1
    for end in (0.0, 1.0):  # the ends of the box are legal
        corner = {name: p.from_z(p.z_box[int(end)]) for name, p in searched.items()}
        configuration(config_space, corner).check_valid_configuration()


def test_what_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config_space = cs.ConfigurationSpace()
    config_space.add(cs.Categorical("kind", ["a", "b"]))
    with pytest.raises(ValueError, match="no uniform float or integer"):
        space(config_space)
    config_space.add(cs.Float("x", (0, 1), distribution=cs.Normal(0.5, 0.1)))
    with pytest.raises(TypeError, match=r"^x: NormalFloatHyperparameter has a distribution.*uniform"):
        space(config_space)
    with pytest.raises(ValueError, match=r"^theta: the configuration space has no hyperparameter 'y'"):
        configuration(config_space, {"y": 1.0})
    monkeypatch.setitem(sys.modules, "ConfigSpace.hyperparameters", None)
    with pytest.raises(ImportError, match=r"pip install 'fastmap\[configspace\]'"):
        space(config_space)


def test_the_example_of_the_docs() -> None:
    page = (Path(__file__).parents[1] / "docs/search.md").read_text()
    (code,) = (c for c in re.findall(r"```python\n(.*?)```", page, re.S) if "import ConfigSpace" in c)
    exec(compile(code, "search.md", "exec"), {"__name__": "example"})
