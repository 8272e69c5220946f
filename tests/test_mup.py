"""Scales by width: the table they come from, and that a learning rate carries over."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fastmap as fm
import fastmap.torch as ft

GRIDS = {"Adam": range(-12, -1, 2), "SGD": range(-8, 1, 2)}  # learning rates by their exponents: factors of 4
STEPS = 25
WIDTHS = (32, 128, 512)


def mlp(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(8, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1, bias=False)
    )


class Language(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.words = nn.Embedding(11, width)
        self.norm = nn.LayerNorm(width)
        self.wave = nn.Conv1d(width, 2 * width, 3)
        self.head = nn.Linear(2 * width, 11)
        self.temperature = nn.Parameter(torch.tensor(1.0))


def scales(rules: Any) -> dict[str, float]:
    return {name: 1.0 if m == fm.Identity() else m.scale for name, m in rules}


def test_the_table() -> None:
    r = 4  # by which the width grows
    adam, sgd = (scales(ft.mup_rules(Language(64), Language(16), optimizer=o)) for o in ("adam", "sgd"))
    root = math.sqrt(r)
    expected = {
        "temperature": (1, 1),
        "words.weight": (1, root),  # an input layer: its inputs are the 11 words
        "norm.weight": (1, root),
        "norm.bias": (1, root),
        "wave.weight": (1 / r, 1),
        "wave.bias": (1, root),
        "head.weight": (1 / r, 1 / root),
        "head.bias": (1, 1),
    }
    assert {name: (adam[name], sgd[name]) for name in adam} == expected
    wider = nn.Linear(64, 32), nn.Linear(16, 16)  # inputs by 4, outputs by 2
    assert scales(ft.mup_rules(*wider, optimizer="sgd"))["weight"] == math.sqrt(2 / 4)
    with torch.device("meta"):
        assert ft.mup_rules(Language(64), Language(16)) == ft.mup_rules(Language(64), Language(16))
    assert set(scales(ft.mup_rules(Language(16), Language(16))).values()) == {1.0}


def test_they_are_rules_of_a_space() -> None:
    model = Language(64)
    space = ft.space(model, ft.mup_rules(model, Language(16)))
    assert list(space) == [name for name, _ in model.named_parameters()]
    assert space["wave.weight"].map == fm.Affine(scale=0.25)
    z = fm.forward({name: param.init for name, param in space.items()}, space)
    assert np.array_equal(z["wave.weight"], 4 * space["wave.weight"].init)


def test_initial_values_of_output_layers() -> None:
    model, before = Language(64), {}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    ft.mup_init_(model, Language(16))
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name] / 2 if name == "head.weight" else before[name]), name


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ft.mup_rules(mlp(8), Language(8)), "base: .* is a parameter of one of the two models only"),
        (lambda: ft.mup_rules(nn.Conv1d(8, 8, 3), nn.Conv1d(4, 4, 5)), "base: 'weight' has shape .* in more"),
        (lambda: ft.mup_rules(mlp(8), mlp(4), optimizer="magic"), "optimizer: expected 'adam' or 'sgd'"),  # type: ignore[arg-type]
    ],
)
def test_what_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(128, 8, generator=generator)
    y = torch.sin(2 * x[:, :1]) + x[:, 1:2] * x[:, 2:3]
    return x, (y - y.mean()) / y.std()


def trained(width: int, lr: float, seed: int, method: str, mapped: bool) -> float:
    """The loss after a few steps."""
    x, y = data()
    torch.manual_seed(seed)
    model, base = mlp(width), mlp(WIDTHS[0])
    maps: dict[str, Any] = {}
    if mapped:
        ft.mup_init_(model, base)
        maps = dict(ft.mup_rules(model, base, optimizer="adam" if method == "Adam" else "sgd"))
    groups = [{"params": [p], "map": maps.get(name)} for name, p in model.named_parameters()]
    optimizer = getattr(ft, method)(groups, lr=lr)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        if not torch.isfinite(loss):
            return math.inf
        loss.backward()
        optimizer.step()
    return float((model(x) - y).square().mean().detach())


def best(width: int, method: str, mapped: bool) -> int:
    """The place of the best learning rate in the grid."""
    rates = [2.0**exponent for exponent in GRIDS[method]]
    losses = [[trained(width, lr, seed, method, mapped) for seed in range(2)] for lr in rates]
    return int(np.argmin(np.mean(losses, axis=1)))


@pytest.mark.parametrize("method", ["Adam", "SGD"])
def test_one_learning_rate_for_every_width(method: str) -> None:
    """Sixteen times as wide: the best one moves by a factor of 4 at most, without scales by more."""
    mapped = [best(width, method, True) for width in WIDTHS]
    raw = best(WIDTHS[-1], method, False)
    assert max(mapped) - min(mapped) <= 1, mapped
    assert mapped[0] - raw >= (2 if method == "Adam" else 1), (mapped, raw)


def test_the_base_model_is_as_it_was() -> None:
    for method in GRIDS:
        assert trained(WIDTHS[0], 0.01, 0, method, True) == trained(WIDTHS[0], 0.01, 0, method, False)
