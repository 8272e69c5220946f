"""Dense(10, relu) -> Dense(1, sigmoid) on the breast-cancer data: 569 samples, 30 features, 2 classes."""

from __future__ import annotations

from dataclasses import replace
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


def keras_model(theta: Theta) -> Any:
    """The same model as a Keras ``Sequential``, with names that do not depend on how many there are."""
    from fastmap.keras import keras

    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((30,)),
            layers.Dense(10, "relu", name="hidden"),
            layers.Dropout(theta["dropout"]),
            layers.Dense(1, name="output"),
        ],
        name="cancer",
    )


def keras_log_loss(output: Any, labels: Any) -> Any:
    """Binary cross-entropy, of tensors of Keras's backend."""
    from fastmap.keras import keras

    labels = keras.ops.reshape(labels, (-1, 1))
    return keras.ops.mean(keras.losses.binary_crossentropy(labels, output, from_logits=True))


def keras_predict(output: Any) -> Any:
    """Labels, as a NumPy array."""
    return (output[:, 0] > 0).astype(int)


def keras_optimizer(variables: Any, theta: Theta) -> Any:
    """AdamW; its first beta is the momentum."""
    from fastmap.keras import keras

    return keras.optimizers.AdamW(theta["lr"], theta["weight_decay"], theta["momentum"])


OTHERS = (
    replace(
        RECIPE,
        framework="keras",
        title="breast cancer (scikit-learn), Keras: Dense(10, relu) -> Dense(1, sigmoid), AdamW",
        model=keras_model,
        log_loss=keras_log_loss,
        predict=keras_predict,
        optimizer=keras_optimizer,
        seeds=3,  # Keras traces every model that it trains anew
        trials=10,
    ),
)
