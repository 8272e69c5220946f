"""Ray Tune on z: a local Ray with two processes."""

from __future__ import annotations

import math
import os
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastmap as fm

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray's own
    pytest.importorskip("ray.tune", reason="Ray is not installed: pip install 'fastmap[ray]'")
    import ray
    from ray import cloudpickle, tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.basic_variant import BasicVariantGenerator
    from ray.tune.search.optuna import OptunaSearch

import fastmap.ray as fr

SPACE = fm.Space(
    lr=fm.Param(1e-6, 1, map="log"),
    w=fm.Param(-1, 1, map="asinh", shape=2),
    n=fm.Param(1, 4, integer=True),
)


@pytest.fixture(scope="module")
def local() -> Iterator[None]:
    """Two worker processes. Ray opens sockets in its folder: the name must be short."""
    folder = tempfile.mkdtemp(prefix="ray")
    before = dict(os.environ)
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # processes of Ray cannot import a test
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            object_store_memory=10**8,
            _temp_dir=folder,
        )
    yield
    ray.shutdown()
    os.environ.clear()
    os.environ.update(before)
    shutil.rmtree(folder)


def fit(function: Any, path: Path, num_samples: int, **options: Any) -> Any:
    others = {"kind": tune.choice(["a", "b"])}
    return tune.Tuner(
        fr.trainable(function, SPACE),
        param_space=fr.param_space(SPACE, **others),
        tune_config=tune.TuneConfig(
            metric="loss", mode="min", num_samples=num_samples, reuse_actors=True, **options
        ),
        run_config=tune.RunConfig(storage_path=str(path), verbose=0),
    ).fit()


def distance(theta: dict) -> float:
    assert 1e-6 <= theta["lr"] <= 1
    assert theta["w"].shape == (2,)
    assert np.all(abs(theta["w"]) <= 1)
    assert isinstance(theta["n"], int)
    assert theta["kind"] in ("a", "b")
    return (math.log10(theta["lr"]) + 3) ** 2 + float((theta["w"] ** 2).sum()) + theta["n"]


def test_asha_and_results_in_theta(local: None, tmp_path: Path) -> None:
    def train(theta: dict) -> None:
        for step in range(1, 9):
            if theta["n"] == 4 and (step == 3 or theta["kind"] == "a"):  # before its first report, or after
                raise RuntimeError("four")
            tune.report({"loss": distance(theta) + 1 / step, "lr": theta["lr"]})

    search = BasicVariantGenerator(random_state=1)
    grid = fit(train, tmp_path, 8, scheduler=ASHAScheduler(max_t=8, grace_period=2), search_alg=search)
    result = fr.result(grid, SPACE, "loss", "min")
    assert len(result.history) == 8
    for record, trial in zip(result.history, grid, strict=True):
        if trial.error:
            assert record.state == "FAIL"
            assert "four" in str(record.error)
            assert record.theta.get("n", 4) == 4
            continue
        assert set(record.theta) == {"lr", "w", "n", "kind"}
        steps = trial.metrics["training_iteration"]
        assert record.theta["lr"] == trial.metrics["lr"]  # what the trainable saw
        assert record.loss == distance(record.theta) + 1 / steps
        assert record.z["lr"] == pytest.approx(math.log(record.theta["lr"]))
    steps = [trial.metrics["training_iteration"] for trial in grid if not trial.error]
    assert min(steps) < max(steps) == 8  # some were stopped
    best = grid.get_best_result("loss", "min")
    assert result.loss == best.metrics["loss"]
    assert fr.params(best.config, SPACE)["lr"] == result.best["lr"]
    assert set(result.map_error) == set(SPACE)
    result.save(tmp_path / "kept")
    assert fm.Result.load(tmp_path / "kept").loss == result.loss
    assert 0 < result.seconds < 600


def test_optunas_searcher_and_known_points(local: None, tmp_path: Path) -> None:
    def loss(theta: dict) -> dict:
        return {"loss": distance(theta)}

    known = {"lr": 1e-3, "w": [0.0, 0.0], "n": 1, "kind": "a"}
    search = OptunaSearch(metric="loss", mode="min", seed=0, points_to_evaluate=[fr.to_config(known, SPACE)])
    result = fr.result(fit(loss, tmp_path, 4, search_alg=search), SPACE, "loss", "min")
    assert len(result.history) == 4
    assert result.loss == pytest.approx(1.0)
    assert result.best["lr"] == pytest.approx(1e-3, rel=1e-12)
    assert result.best["kind"] == "a"
    assert len({record.theta["lr"] for record in result.history}) == 4


def test_the_example_of_the_docs(local: None, tmp_path: Path) -> None:
    text = (Path(__file__).parents[1] / "docs" / "machines.md").read_text()
    (code,) = [code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "from ray" in code]
    scope: dict[str, Any] = {"__name__": "example"}
    exec(compile(code.replace("/shared/ray", str(tmp_path)), "machines.md", "exec"), scope)
    assert len(scope["result"].history) == 4
    assert set(scope["result"].best) == {"lr", "beta", "batch"}


def test_the_ends_of_the_box_come_back() -> None:
    ends = fr.param_space(SPACE)
    assert list(ends) == ["z:lr", "z:w[0]", "z:w[1]", "z:n"]
    for side, lr, w, n in (("lower", 1e-6, -1, 1), ("upper", 1, 1, 4)):
        theta = fr.params({name: getattr(domain, side) for name, domain in ends.items()}, SPACE)
        assert theta["lr"] == lr
        assert list(theta["w"]) == [w, w]
        assert theta["n"] == n


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^w: low, high"):
        fr.param_space(fm.Space(w=fm.Param(0, 1, map="logit")))
    with pytest.raises(ValueError, match=r"^others: 'lr' is a parameter"):
        fr.param_space(SPACE, lr=tune.uniform(0, 1))
    with pytest.raises(TypeError, match=r"fastmap\.ray\.params\(config, space\)"):
        fr.trainable(tune.Trainable, SPACE)
    with pytest.raises(ValueError, match=r"lr: 2\.0 is outside the box"):
        fr.to_config({"lr": 2.0}, SPACE)
    with pytest.raises(ValueError, match=r"^mode"):
        fr.result([], SPACE, "loss", "minimize")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="none of 0 trials reported a finite 'loss'"):
        fr.result([], SPACE, "loss", "min")
