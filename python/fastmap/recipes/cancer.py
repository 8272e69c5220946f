"""Dense(10, relu) -> Dense(1, sigmoid) on the breast-cancer data: 569 samples, 30 features, 2 classes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastmap.recipes._arms import Part, Recipe, Theta, stratified


def load(seed: int) -> tuple[Part, Part, Part]:
    """Features and labels."""
    from sklearn.datasets import load_breast_cancer

    features, labels = load_breast_cancer(return_X_y=True)
    return stratified(features, labels, seed)


def model(theta: Theta) -> nn.Module:
    """The model of the textbook example; its sigmoid is part of the loss."""
    return nn.Sequential(nn.Linear(30, 10), nn.ReLU(), nn.Dropout(theta["dropout"]), nn.Linear(10, 1))


def log_loss(output: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy."""
    return nn.functional.binary_cross_entropy_with_logits(output[:, 0], labels.to(output.dtype))


def predict(output: Tensor) -> Tensor:
    """Labels."""
    return (output[:, 0] > 0).long()


def optimizer(parameters: Any, theta: Theta) -> torch.optim.Optimizer:
    """AdamW; its first beta is the momentum."""
    return torch.optim.AdamW(
        parameters,
        lr=theta["lr"],
        betas=(theta["momentum"], 0.999),
        weight_decay=theta["weight_decay"],
        fused=True,
    )


RECIPE = Recipe(
    name="cancer",
    title="breast cancer (scikit-learn), Dense(10, relu) -> Dense(1, sigmoid), AdamW",
    load=load,
    model=model,
    log_loss=log_loss,
    predict=predict,
    optimizer=optimizer,
    seeds=6,
    trials=25,
    epochs=8,
    batch=32,
    steps=100,
    evaluations=400,
)
