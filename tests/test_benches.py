"""The benchmarks of the search do what they say, on small cases."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import optuna
import pytest
from scripts import load

import fastmap as fm


class Grid:
    """A table of two parameters in place of those that a package brings."""

    best = 100.0
    grid = {"rate": np.geomspace(1e-3, 1, 10), "depth": np.array([1.0, 2, 3])}  # noqa: RUF012
    integer = ("depth",)
    boxes = {"rate": (1e-3, 1.0), "depth": (1.0, 3.0)}  # noqa: RUF012

    def __init__(self, name: str) -> None:
        assert name == "grid"

    def accuracy(self, theta: dict[str, Any]) -> float:
        assert theta["depth"] in (1, 2, 3)
        return 100 - (math.log10(theta["rate"]) + 2) ** 2 - theta["depth"]


def test_tables_compare_three_arms(monkeypatch: pytest.MonkeyPatch) -> None:
    hpo = load("bench/hpo.py")
    monkeypatch.setattr(hpo, "Table", Grid)
    level = optuna.logging.get_verbosity()
    row = hpo.compare("grid", seeds=2, budget=22)
    optuna.logging.set_verbosity(level)
    assert set(row["accuracy"]) == set(hpo.ARMS)
    assert all(len(values) == 2 and max(values) < 99.01 for values in row["accuracy"].values())
    means = {arm: np.mean(row["accuracy"][arm]) for arm in hpo.ARMS}
    assert means[row["optuna's best scale"]] == max(means["optuna log"], means["optuna linear"])
    assert sum(row["maps at the end"]["rate"].values()) == 2
    json.dumps(row)


def test_the_interval_is_that_of_paired_differences() -> None:
    hpo = load("bench/hpo.py")
    rows = [
        {
            "accuracy": {
                "fastmap auto": [9.0 + i, 8.0],
                "optuna log": [8.5 + i, 7.5],
                "optuna linear": [0.0, 0.0],
            }
        }
        for i in range(4)
    ]
    assert hpo.interval(rows, lambda row: "optuna log") == {"mean": 0.5, "low": 0.5, "high": 0.5}
    rows[0]["accuracy"]["optuna log"] = [19.0, 18.0]
    found = hpo.interval(rows, lambda row: "optuna log")
    assert found["mean"] == pytest.approx((3 * 0.5 - 10) / 4)
    assert found["low"] < found["mean"] < found["high"]


def test_a_point_is_looked_up_at_the_nearest_node() -> None:
    hpo = load("bench/hpo.py")
    table = object.__new__(hpo.Table)
    table.grid = {"rate": np.array([0.01, 0.1, 1.0]), "depth": np.array([1.0, 2, 3])}
    table.rows = {f"{i}{j}": {"val_acc": [i / 10, i / 10 + 0.2 * j]} for i in range(3) for j in range(3)}
    assert table.accuracy({"rate": 0.03, "depth": 1}) == pytest.approx(0)  # below the middle of the decade
    assert table.accuracy({"rate": 0.033, "depth": 3}) == pytest.approx(100 * (0.1 + 0.5) / 2)


def test_shares_are_of_the_cases_that_can_be_told_apart() -> None:
    suggest = load("bench/suggest.py")

    class Asked:
        def __init__(self, apart: bool, near: bool, harmful: bool) -> None:
            self.apart, self.near, self.right, self.harmful = apart, near, near, harmful
            self.identity, self.answer = 0.5, fm.Log() if near else fm.Identity()

    cases = [Asked(True, True, False), Asked(True, False, True), Asked(False, False, False)]
    row = suggest.summary(cases)
    assert (row["cases"], row["apart"], row["right"], row["harmful"]) == (3, 2, 50.0, 33.3)
    assert row["another map than identity"] == 33.3
    assert math.isnan(suggest.summary([])["right"])
