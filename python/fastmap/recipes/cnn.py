"""A small CNN on the digits data: 1797 images of 8x8, 10 classes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import fastmap as fm
from fastmap.recipes._arms import Part, Recipe, Theta, stratified


class Gain(nn.Module):
    """One positive factor per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * x


def load(seed: int) -> tuple[Part, Part, Part]:
    """Images and labels."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return stratified(images.reshape(-1, 1, 8, 8), labels, seed)


def model(theta: Theta) -> nn.Module:
    """conv-relu-pool-conv-relu-fc, with a positive gain after each convolution."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 3),
        Gain(6),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 12, 3, padding=1),
        Gain(12),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(theta["dropout"]),
        nn.Linear(12 * 3 * 3, 10),
    )


def predict(output: Tensor) -> Tensor:
    """Labels."""
    return output.argmax(-1)


def optimizer(parameters: Any, theta: Theta) -> torch.optim.Optimizer:
    """SGD with momentum."""
    return torch.optim.SGD(
        parameters, lr=theta["lr"], momentum=theta["momentum"], weight_decay=theta["weight_decay"]
    )


RECIPE = Recipe(
    name="cnn",
    title="digits 8x8 (scikit-learn), CNN conv-relu-pool-conv-relu-fc, SGD with momentum",
    load=load,
    model=model,
    log_loss=nn.functional.cross_entropy,
    predict=predict,
    optimizer=optimizer,
    bounded={"1.gain": fm.Log(), "5.gain": fm.Log()},
    seeds=5,
    trials=16,
    epochs=4,
    batch=64,
    steps=40,
    evaluations=400,
    rows=200,
)
