"""`fastmap.sklearn`: what scikit-learn asks of a transformer, and what a map promises."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

import fastmap as fm
from fastmap.sklearn import MapTransformer

RNG = np.random.default_rng(0)
MIXED = np.stack([np.exp(RNG.normal(0, 3, 200)), RNG.normal(size=200), RNG.uniform(0.01, 0.99, 200)], 1)


@parametrize_with_checks([MapTransformer(), MapTransformer(fm.SymLog(0.5))])
def test_scikit_learn_accepts_it(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "given",
    [
        "auto",
        ["log", "asinh", fm.Interval(0, 1)],
        fm.Interval([0, -9, 0], [np.inf, 9, 1]),
        "symlog",
        ["symlog"] * 3,
    ],
)
def test_there_and_back(given: Any, dtype: type) -> None:
    X = MIXED.astype(dtype)
    transformer = MapTransformer(given).fit(X)
    Z = transformer.transform(X)
    maps = transformer.maps_ if len(transformer.maps_) == 3 else transformer.maps_ * 3
    if not isinstance(given, fm.Interval):
        for j, m in enumerate(maps):
            np.testing.assert_array_equal(Z[:, j], fm.forward(np.ascontiguousarray(X[:, j]), m))
    back = transformer.inverse_transform(Z)
    assert Z.dtype == back.dtype == dtype
    np.testing.assert_allclose(back, X, rtol=1e-4 if dtype is np.float32 else 1e-12)


def test_auto_is_what_suggest_says() -> None:
    transformer = MapTransformer().fit(MIXED)
    assert transformer.maps_ == [fm.suggest(samples=column).map for column in MIXED.T]
    assert transformer.maps_[0] != fm.Identity()
    assert all(s.reason for s in transformer.suggestions_)


def test_values_outside_the_domain() -> None:
    bad = MIXED.copy()
    bad[7, 0] = -1
    given = ["log", "asinh", "interval"]
    for call in (MapTransformer(given).fit, MapTransformer(given).fit(MIXED).transform):
        with pytest.raises(fm.DomainError, match=r"^X\[:, 0\]: 1 of 200 .* index 7"):
            call(bad)
    assert np.isnan(MapTransformer(given, invalid="nan").fit(bad).transform(bad)[7, 0])
    assert np.isfinite(MapTransformer(given, invalid="clip").fit(MIXED).transform(bad)).all()
    with pytest.raises(ValueError, match=r"^map: 2 maps for 3 features"):
        MapTransformer(["log", "log"]).fit(MIXED)
    with pytest.raises(ValueError, match="no map is called"):
        MapTransformer("nothing").fit(MIXED)


def test_in_a_pipeline_with_names() -> None:
    frame = pd.DataFrame(MIXED, columns=["lr", "w", "p"])
    transformer = MapTransformer().set_output(transform="pandas")
    assert list(transformer.fit_transform(frame).columns) == ["lr", "w", "p"]
    target = np.log(MIXED[:, 0])
    mapped = make_pipeline(MapTransformer(), LinearRegression()).fit(frame, target)
    assert mapped.score(frame, target) > 0.9 > LinearRegression().fit(frame, target).score(frame, target)
    copy = pickle.loads(pickle.dumps(clone(mapped).fit(frame, target)))
    np.testing.assert_array_equal(copy.predict(frame), mapped.predict(frame))
