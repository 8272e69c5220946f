"""Recipes with Keras models, on any of its backends: how they are built, trained, scored and searched."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

import fastmap as fm
from fastmap._map import CatalogMap
from fastmap.keras import keras, tune
from fastmap.recipes import _arms
from fastmap.recipes._arms import Part, Recipe, Split, Theta, Weights

NOTE = """\
  raw: Adam of Keras on the weights. fastmap: fastmap.keras.tune over {map} of the weights, by Adam. On
  ordinary weights an elementwise map is close to the identity and Adam absorbs most of it: expect no help,
  or harm."""
_BACKEND = keras.backend.backend()
VERSIONS = {"keras": keras.__version__, _BACKEND: importlib.import_module(_BACKEND).__version__}


def initial_model(recipe: Recipe, seed: int, theta: Theta) -> Any:
    """The untrained model; the same random numbers for all."""
    keras.utils.set_random_seed(seed)
    return recipe.model(theta)


def train(recipe: Recipe, data: Split, theta: Theta, seed: int, epochs: int) -> Any:
    """`compile` and `fit`."""
    model = _arms.initial_model(recipe, seed, theta)
    inputs, labels = _arrays(data.train)
    # Small models train faster than XLA compiles them.
    model.compile(recipe.optimizer(model.trainable_variables, theta), _loss(recipe), jit_compile=False)
    model.fit(inputs, labels, recipe.batch, epochs, verbose=0)
    return model


def score(recipe: Recipe, model: Any, part: Part) -> tuple[float, float]:
    """(log-loss, accuracy)."""
    inputs, labels = _arrays(part)
    output = model(inputs, training=False)
    hits = recipe.predict(keras.ops.convert_to_numpy(output)) == labels
    log_loss = keras.ops.convert_to_numpy(recipe.log_loss(output, labels))
    return float(log_loss), float(np.mean(hits))


def with_adam(recipe: Recipe) -> Recipe:
    """The recipe with Keras's defaults for Adam."""
    return replace(recipe, optimizer=lambda variables, theta: keras.optimizers.Adam(theta["lr"]))


def weights(model: Any) -> Weights:
    """The trainable weights by path."""
    return {v.path: torch.tensor(keras.ops.convert_to_numpy(v)) for v in model.trainable_variables}


def loaded(recipe: Recipe, seed: int, theta: Mapping[str, Any]) -> Any:
    """The model with these weights."""
    model = _arms.initial_model(recipe, seed)
    for v in model.trainable_variables:
        v.assign(np.asarray(theta[v.path]))
    return model


def search(
    recipe: Recipe, seed: int, space: fm.Space, start: dict[str, Any], rows: Part, method: str, budget: int
) -> fm.Result:
    """The weights with the lowest log-loss of these rows, without gradients."""
    x, y = _arrays(rows)
    model = loaded(recipe, seed, start)
    return tune(model, _loss(recipe), map=space, x=x, y=y, method=method, budget=budget, seed=seed)


def _descend_fastmap(
    recipe: Recipe, model: Any, maps: dict[str, CatalogMap], rows: Part, lr: float, steps: int
) -> None:
    """The five steps, in one call."""
    x, y = _arrays(rows)
    tune(model, _loss(recipe), map=maps, x=x, y=y, method="adam", budget=steps, lr=lr)


def _descend_raw(
    recipe: Recipe, model: Any, maps: dict[str, CatalogMap], rows: Part, lr: float, steps: int
) -> None:
    """Adam on theta; the weights with the lowest training loss on the way."""
    x, y = _arrays(rows)
    model.compile(keras.optimizers.Adam(lr), _loss(recipe), jit_compile=False)
    lowest, best = math.inf, model.get_weights()
    for _ in range(steps):
        here = model.get_weights()
        model.reset_metrics()
        value = float(model.train_on_batch(x, y))  # at `here`, before the step
        if not math.isfinite(value):
            break
        if value < lowest:
            lowest, best = value, here
    model.set_weights(best)


DESCENTS = {"raw": _descend_raw, "fastmap": _descend_fastmap}


def descend(
    recipe: Recipe, seed: int, arm: str, maps: dict[str, CatalogMap], rows: Part, lr: float, steps: int
) -> Any:
    """The model with the lowest log-loss of these rows that an arm found by full-batch Adam."""
    model = _arms.initial_model(recipe, seed)
    DESCENTS[arm](recipe, model, maps, rows, lr, steps)
    return model


def _loss(recipe: Recipe) -> Callable[[Any, Any], Any]:
    """The log-loss, with the arguments as Keras has them."""
    return lambda labels, output: recipe.log_loss(output, labels)


def _arrays(part: Part) -> tuple[Any, Any]:
    inputs, labels = part
    return inputs.numpy(), labels.numpy()
