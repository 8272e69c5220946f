"""`Space` from trees, dataclasses and files."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastmap as fm

LR = fm.Param(1e-6, 1, map="log")


@dataclass
class Optimizer:
    lr: Any = LR
    steps: int = 10


@dataclass
class Config:
    optimizer: Optimizer = field(default_factory=Optimizer)
    width: Any = fm.Param(1, 8, integer=True)  # noqa: RUF009
    name: str = "net"


def test_nested_parameters_have_names_with_dots() -> None:
    space = fm.Space({"a": {"lr": LR, "b": [LR, fm.Param(0, 1)]}}, c=fm.Param(0, 2))
    assert list(space) == ["a.lr", "a.b.0", "a.b.1", "c"]
    values = {name: i for i, name in enumerate(space)}
    assert space.tree(values) == {"a": {"lr": 0, "b": [1, 2]}, "c": 3}


def test_dataclasses_come_back_as_such() -> None:
    space = fm.Space(Config())
    assert list(space) == ["optimizer.lr", "width"]
    config = space.tree({"optimizer.lr": 0.1, "width": 3})
    assert config == Config(Optimizer(0.1, 10), 3, "net")
    assert list(fm.Space(Optimizer)) == ["lr"]
    assert fm.Space(Optimizer).tree({"lr": 0.5}) == Optimizer(0.5, 10)


def test_files(tmp_path: Path) -> None:
    space = fm.Space(
        lr=LR, w=fm.Param(-1, 1, map=fm.Asinh(0.5), shape=(2, 3)), n=fm.Param(1, 8, integer=True)
    )
    space.save(tmp_path / "space.json")
    assert fm.Space.load(tmp_path / "space.json") == space
    toml = tmp_path / "space.toml"
    toml.write_text(
        "version = 1\n[params.lr]\nlow = 1e-6\nhigh = 1\nmap = 'log'\n"
        "[params.w]\nlow = -1\nhigh = 1\nshape = [2, 3]\nmap = {map = 'asinh', scale = 0.5}\n"
        "[params.n]\nlow = 1\nhigh = 8\ninteger = true\n"
    )
    assert fm.Space.load(toml) == space


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"version": 1, "params": {"a": {"lo": 1}}}, "a: lo: a parameter has no such entry; known: low"),
        ({"version": 1, "params": {"a": {"low": 1, "high": 0}}}, "a: high: must be above"),
        ({"version": 1, "params": {"a": {"map": "magic"}}}, "a: map: no map is called"),
        ({"version": 1, "params": {"a": 3}}, "a: expected a table"),
        ({"version": 1, "params": {}}, "at least one"),
        ({"version": 1, "param": {}}, "param: a space has no such entry"),
        ({"version": 2, "params": {}}, "version: expected 1, got 2"),
        ([], "expected a table of version and params"),
        ({"version": 1, "params": {"a": {"shape": [1.5]}}}, "a: shape: expected whole numbers"),
        ({"version": 1, "params": {"a": {"shape": [2, -1]}}}, "a: shape: must not be negative"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, data: Any, message: str) -> None:
    path = tmp_path / "space.json"
    path.write_text(json.dumps(data))
    with pytest.raises(ValueError, match="^" + str(path)) as caught:
        fm.Space.load(path)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: fm.Space({"a": LR}, a=LR), ValueError, "params: 'a' is there twice"),
        (lambda: fm.Space({"a": {"b": LR}, "a.b": LR}), ValueError, "params: 'a.b' is there twice"),
        (lambda: fm.Space({"a": {"b": 3}}), TypeError, "a.b: expected a Param, got int"),
        (lambda: fm.Space({1: LR}), TypeError, "names are strings"),
        (lambda: fm.Space(3), TypeError, "expected a mapping or a dataclass"),
        (lambda: fm.Space(LR), TypeError, "expected a mapping or a dataclass"),
        (lambda: fm.Param(0.5, 3, integer=True), ValueError, "low: 0.5 is not an integer"),
    ],
)
def test_bad_spaces(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        make()
    assert message in str(caught.value)


def test_float32_stays_in_its_box() -> None:
    param = fm.Param(0.1, 0.7, map="log", dtype="float32")  # both round outwards
    low, high = param.z_box
    theta = param.from_z(np.linspace(low, high, 9))
    assert theta.dtype == np.float32
    assert theta.min() >= 0.1
    assert theta.max() <= 0.7
    assert theta[-1] == np.nextafter(np.float32(0.7), np.float32(0)) or theta[-1] == np.float32(0.7)
