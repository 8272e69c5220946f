"""`fastmap.torch.fit`: batches, epochs, and the best theta in the model."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

import fastmap as fm
import fastmap.torch as ft


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 1)
        self.norm = nn.BatchNorm1d(3, affine=False)
        self.scale = nn.Parameter(torch.tensor([5.0]))

    def forward(self, x: Any) -> Any:
        return self.scale * self.linear(self.norm(x))


def problem() -> tuple[Net, list, Any]:
    torch.manual_seed(0)
    x = torch.randn(64, 3)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]]) + 0.1 * torch.randn(64, 1)
    return Net(), list(zip(x.split(8), y.split(8), strict=True)), (x, y)


def loss(model: nn.Module, batch: Any) -> Any:
    x, y = batch
    return ((model(x) - y) ** 2).mean()


@pytest.mark.parametrize("method", ["adam", "adamw", "gd", "lion"])
def test_the_best_epoch_is_in_the_model(method: str) -> None:
    model, data, everything = problem()
    lr = {"gd": 3e-3, "lion": 3e-3}.get(method, 0.03)
    scores = []

    def validate(net: nn.Module) -> float:
        assert not net.training
        assert not torch.is_grad_enabled()
        scores.append(float(loss(net, everything)))
        return scores[-1] if len(scores) != 12 else scores[-1] + 100  # a bad one in between

    result = ft.fit(
        model, loss, data, maps={"scale": "log"}, epochs=20, method=method, lr=lr, validate=validate
    )
    assert len(result.history) == len(scores) == 20
    assert result.loss == min(r.loss for r in result.history) < scores[0] / 2
    model.eval()
    assert float(loss(model, everything).detach()) == pytest.approx(result.loss, rel=1e-5)
    for name, p in model.named_parameters():
        assert torch.equal(p, result.best[name])
    assert result.best["scale"] > 0
    assert result.space["scale"].map == fm.Log()
    assert result.map_error["scale"].saturated.count == 0
    assert result.history[3].z["scale"] == pytest.approx(math.log(result.history[3].theta["scale"]))


def test_it_repeats_itself_and_stops() -> None:
    first, second = (ft.fit(*_arguments(), epochs=5, lr=0.03) for _ in range(2))
    assert [r.loss for r in first.history] == [r.loss for r in second.history]
    still = ft.fit(*_arguments(), epochs=50, lr=0.0, patience=3, validate=lambda m: 1.0)
    assert len(still.history) == 4
    assert "3 epochs without" in still.reason
    assert len(ft.fit(*_arguments(), epochs=50, callbacks=[lambda r: r.number == 1]).history) == 2
    assert len(ft.fit(*_arguments(), epochs=50, timeout=0.0).history) == 1


def _arguments() -> Any:
    model, data, _ = problem()
    return model, loss, data


def test_failures_leave_the_best_or_the_first(capsys: Any) -> None:
    model, data, _ = problem()
    calls = []

    def breaks(net: nn.Module, batch: Any) -> Any:
        calls.append(1)
        return loss(net, batch) * (math.nan if len(calls) == 20 else 1)

    result = ft.fit(model, breaks, data, epochs=9, lr=0.03, progress=True)
    assert [r.state for r in result.history] == ["COMPLETE", "COMPLETE", "FAIL"]
    assert "the loss of batch 3 is nan" in result.reason
    assert "3/9" in capsys.readouterr().err
    model, data, _ = problem()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="no epoch gave a finite score"):
        ft.fit(model, lambda m, b: loss(m, b) * math.nan, data)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    def interrupted(record: fm.Record) -> None:
        if record.number == 2:
            raise KeyboardInterrupt

    kept = ft.fit(model, loss, data, epochs=9, lr=0.03, callbacks=[interrupted])
    assert "interrupted after 3 epochs" in kept.reason


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"maps": {"nothing*": "log"}}, ValueError, "maps: 'nothing*' fits no parameter"),
        ({"maps": {"linear.weight": "log"}}, fm.DomainError, "outside the domain"),
        ({"method": "magic"}, ValueError, "method: expected one of adam"),
        ({"epochs": 0}, ValueError, "epochs"),
        ({"direction": "up"}, ValueError, "direction"),
        ({"data": iter([])}, ValueError, "data: an iterator"),
        ({"data": []}, ValueError, "data: no batches"),
        ({"loss": lambda m, b: 1.0}, TypeError, "loss: expected a scalar tensor"),
        ({"loss": lambda m, b: torch.ones(2)}, TypeError, "loss: expected a scalar tensor"),
        ({"options": {"nonsense": 1}}, TypeError, "nonsense"),
    ],
)
def test_bad_arguments(change: dict, error: type[Exception], message: str) -> None:
    model, data, _ = problem()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    arguments = {"loss": loss, "data": data, **change}
    with pytest.raises(error) as caught:
        ft.fit(model, arguments.pop("loss"), arguments.pop("data"), **arguments)
    assert message in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
