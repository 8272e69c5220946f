"""Recipes with torch models: how they are built, trained, scored and searched."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrize

import fastmap as fm
from fastmap._map import CatalogMap
from fastmap.recipes import _arms
from fastmap.recipes._arms import Part, Recipe, Split, Theta, Weights

NOTE = """\
  raw: Adam on the weights. torch's own: the same maps, as parametrizations of torch operations. fastmap:
  minimize over {map} of the weights. On ordinary weights an elementwise map is close to the identity and
  Adam absorbs most of it: expect no help, or harm."""
VERSIONS = {"torch": torch.__version__}
_INSIDE = 1e-6  # how far from its bounds the raw arm holds a bounded weight


def initial_model(recipe: Recipe, seed: int, theta: Theta) -> nn.Module:
    """The untrained model; the same random numbers for all."""
    torch.manual_seed(seed)
    return recipe.model(theta)


def train(recipe: Recipe, data: Split, theta: Theta, seed: int, epochs: int) -> nn.Module:
    """The usual loop over shuffled batches."""
    model = _arms.initial_model(recipe, seed, theta)
    optimizer = recipe.optimizer(model.parameters(), theta)
    inputs, labels = data.train
    for _ in range(epochs):
        for rows in torch.randperm(len(inputs)).split(recipe.batch):
            optimizer.zero_grad()
            recipe.log_loss(model(inputs[rows]), labels[rows]).backward()
            optimizer.step()
    return model.eval()


@torch.no_grad()
def score(recipe: Recipe, model: nn.Module, part: Part) -> tuple[float, float]:
    """(log-loss, accuracy)."""
    inputs, labels = part
    output = model.eval()(inputs)
    hits = recipe.predict(output) == labels
    return float(recipe.log_loss(output, labels)), float(hits.double().mean())


def with_adam(recipe: Recipe) -> Recipe:
    """The recipe with torch's defaults for Adam."""
    return replace(recipe, optimizer=lambda parameters, theta: torch.optim.Adam(parameters, lr=theta["lr"]))


def weights(model: nn.Module) -> Weights:
    """The trainable weights by name."""
    return {name: weight.detach() for name, weight in model.named_parameters()}


def loaded(recipe: Recipe, seed: int, theta: Mapping[str, Any]) -> nn.Module:
    """The model with these weights."""
    model = _arms.initial_model(recipe, seed)
    model.load_state_dict({name: torch.as_tensor(value).float() for name, value in theta.items()})
    return model


def search(
    recipe: Recipe, seed: int, space: fm.Space, start: dict[str, Any], rows: Part, method: str, budget: int
) -> fm.Result:
    """The weights with the lowest log-loss of these rows, without gradients."""
    model = _arms.initial_model(recipe, seed)
    inputs, labels = rows

    @torch.no_grad()
    def loss(theta: dict[str, Any]) -> float:
        found = {name: torch.from_numpy(value).float() for name, value in theta.items()}
        return float(recipe.log_loss(functional_call(model, found, (inputs,)), labels))

    return fm.minimize(loss, space, method=method, budget=budget, seed=seed, init=start, jac=False)


@dataclass(frozen=True)
class _Descent:
    """One search of the weights at one learning rate."""

    recipe: Recipe
    model: nn.Module
    maps: dict[str, CatalogMap]
    inputs: Tensor
    loss: Callable[[Tensor], Tensor]  # of the model's output
    lr: float
    steps: int


def _descend_fastmap(search: _Descent) -> Weights:
    """The five steps: maps, z = f(theta), J(z), Adam on z, and the best theta back."""
    start = weights(search.model)
    space = fm.Space(
        {
            name: fm.Param(shape=tuple(w.shape), map=search.maps[name], dtype="float32")
            for name, w in start.items()
        }
    )
    result = fm.minimize(
        lambda theta: search.loss(functional_call(search.model, theta, (search.inputs,))),
        space,
        method="adam",
        budget=search.steps,
        lr=search.lr,
        init=start,
    )
    return result.best


def _descend_raw(search: _Descent) -> Weights:
    """Adam on theta; weights with bounds are clamped after each step."""
    parameters = dict(search.model.named_parameters())

    def clamp() -> None:
        for name, map in search.recipe.bounded.items():
            low, high = map.domain
            parameters[name].data.clamp_(low + _INSIDE, high - _INSIDE)

    def theta() -> Weights:
        return {name: weight.detach().clone() for name, weight in search.model.named_parameters()}

    return _adam(search, clamp, theta)


def _descend_torch(search: _Descent) -> Weights:
    """torch's own way: the same formulas as parametrizations made of torch operations."""
    owners = {
        name: (search.model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2])
        for name in search.maps
    }
    for name, (owner, attribute) in owners.items():
        parametrize.register_parametrization(owner, attribute, _TorchMap(search.maps[name]))

    def theta() -> Weights:
        # Cloned: of the identity the parametrization returns z itself, which the next step changes.
        return {name: getattr(o, attribute).detach().clone() for name, (o, attribute) in owners.items()}

    return _adam(search, lambda: None, theta)


class _TorchMap(nn.Module):
    """The catalog's formulas of a map, evaluated by torch."""

    def __init__(self, map: CatalogMap) -> None:
        super().__init__()
        self.formulas = map.entry["formulas"]
        self.names = {**vars(torch), **map.params}

    def forward(self, z: Tensor) -> Any:
        return eval(self.formulas["inverse"], self.names, {"z": z})

    def right_inverse(self, theta: Tensor) -> Any:
        return eval(self.formulas["forward"], self.names, {"t": theta})


def _adam(
    search: _Descent,
    after_step: Callable[[], None],
    theta: Callable[[], Weights],
) -> Weights:
    """The loop of `fm.minimize` without a map: the weights with the lowest training loss on the way."""
    optimizer = torch.optim.Adam(search.model.parameters(), lr=search.lr)
    lowest, best = math.inf, theta()
    for _ in range(search.steps):
        optimizer.zero_grad()
        value = search.loss(search.model(search.inputs))
        if not math.isfinite(float(value.detach())):
            break
        if float(value.detach()) < lowest:
            lowest, best = float(value.detach()), theta()
        value.backward()
        optimizer.step()
        after_step()
    return best


DESCENTS = {"raw": _descend_raw, "torch's own": _descend_torch, "fastmap": _descend_fastmap}


def descend(
    recipe: Recipe, seed: int, arm: str, maps: dict[str, CatalogMap], rows: Part, lr: float, steps: int
) -> nn.Module:
    """The model with the lowest log-loss of these rows that an arm found by full-batch Adam."""
    inputs, labels = rows
    model = _arms.initial_model(recipe, seed)

    def loss(output: Tensor) -> Tensor:
        return recipe.log_loss(output, labels)

    found = DESCENTS[arm](_Descent(recipe, model, maps, inputs, loss, lr, steps))
    result = _arms.initial_model(recipe, seed)
    result.load_state_dict(found)
    return result
