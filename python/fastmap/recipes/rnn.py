"""A recurrent network whose states decay, on MNIST-1D: 40 samples of a noisy signal, 10 classes.

MNIST-1D (Greydanus and Kobak, "Scaling Down Deep Learning with MNIST-1D", ICML 2024) is made by a
generator, which the package mnist1d has. The recurrence is linear and diagonal, x_t = decay x_(t-1) + u_t
with decays in (0, 1), as in LRU (Orvieto et al., "Resurrecting Recurrent Neural Networks for Long
Sequences", ICML 2023) without the rotation.
"""

from __future__ import annotations

import random
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fastmap as fm
from fastmap._extras import need
from fastmap.recipes._arms import DEFAULTS, HYPERPARAMETERS, Part, Recipe, Theta, stratified
from fastmap.recipes.cnn import predict

SAMPLES, STATES = 2000, 16


@lru_cache
def signals() -> tuple[Any, Any]:
    """Inputs (samples, 1, 40) and labels, the same in every call."""
    data = need("mnist1d.data", "demo")
    arguments = data.get_dataset_args()
    arguments.num_samples = SAMPLES
    states = random.getstate(), np.random.get_state()  # noqa: NPY002, the generator seeds them
    try:
        made = data.make_dataset(arguments)
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
    x, y = (np.concatenate([made[name], made[f"{name}_test"]]) for name in ("x", "y"))
    return x[:, None], y


def load(seed: int) -> tuple[Part, Part, Part]:
    """Signals and labels."""
    return stratified(*signals(), seed)


class Decaying(nn.Module):
    """x_t = decay x_(t-1) + scale (weight u_t), one decay per state."""

    scale: Tensor

    def __init__(self, channels: int, longest: float) -> None:
        super().__init__()
        self.weight = nn.Conv1d(channels, STATES, 1, bias=False)
        decay = 1 - torch.logspace(0, 1, STATES, base=2 * (1 - longest)) / 2  # from 1/2 to the longest
        self.decay = nn.Parameter(decay)
        # States start with unit variance.
        self.register_buffer("scale", (1 - decay**2).sqrt()[:, None], persistent=False)

    def forward(self, u: Tensor) -> Tensor:
        steps = torch.arange(u.shape[-1])
        lag = (steps - steps[:, None]).clamp(min=0)  # from each sample to each later one
        response = (self.decay[:, None, None] ** lag).triu()
        return torch.einsum("nst, stl -> nsl", self.scale * self.weight(u), response)


class Last(nn.Module):
    """What is left after the last sample."""

    def forward(self, x: Tensor) -> Tensor:
        return x[..., -1]


def model(theta: Theta) -> nn.Module:
    """Two layers of decaying states, a rectifier after each; the last sample's states are classified."""
    return nn.Sequential(
        Decaying(1, theta["decay"]),
        nn.Conv1d(STATES, STATES, 1),
        nn.ReLU(),
        Decaying(STATES, theta["decay"]),
        nn.Conv1d(STATES, STATES, 1),
        nn.ReLU(),
        Last(),
        nn.Dropout(theta["dropout"]),
        nn.Linear(STATES, 10),
    )


def optimizer(parameters: Any, theta: Theta) -> torch.optim.Optimizer:
    """AdamW; its first beta is the momentum."""
    betas = theta["momentum"], 0.999
    return torch.optim.AdamW(
        parameters, lr=theta["lr"], betas=betas, weight_decay=theta["weight_decay"], fused=True
    )


RECIPE = Recipe(
    name="rnn",
    title="MNIST-1D (mnist1d), two layers of decaying states, AdamW",
    load=load,
    model=model,
    log_loss=F.cross_entropy,
    predict=predict,
    optimizer=optimizer,
    seeds=4,
    trials=16,
    epochs=6,
    batch=64,
    steps=60,
    rows=200,
    bounded={"0.decay": fm.Interval(0, 1), "3.decay": fm.Interval(0, 1)},
    map="identity",
    space=fm.Space({**HYPERPARAMETERS, "decay": fm.Param(0.6, 0.999, map="one_minus_log")}),
    defaults={**DEFAULTS, "decay": 0.9},
)
