"""Weights without gradients: separable CMA-ES and differential evolution, in three arms at equal budget.

The arms differ in nothing but the space. raw: one linear box for all weights, which samples are clipped to.
The tuner's own: the box of each tensor in units of its standard deviation, positive weights on a log scale,
as those who write such methods advise (Hansen, The CMA evolution strategy: a tutorial, arXiv 1604.00772).
fastmap: the same boxes through the map. Every arm tries the same widths of the box, which are its first step
too, and keeps the weights with the lowest validation log-loss.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import fastmap as fm
from fastmap._map import CatalogMap
from fastmap.recipes._arms import (
    ARMS,
    EVOLUTION,
    Budget,
    Recipe,
    Run,
    Split,
    Tick,
    Weights,
    framework,
    initial_model,
    score,
    scored_run,
    weight_maps,
    weights_of,
)

WIDTHS = (3.0, 10.0)  # half of a box, in standard deviations
_POINTS = 40  # of a curve
_MARGIN = 1e-3  # of a weight between two bounds, as a part of their distance


def search(recipe: Recipe, data: Split, seed: int, budget: Budget, tick: Tick) -> Iterator[Run]:
    """One run per method and arm; the objective is the log-loss of the training rows."""
    if not budget.evaluations:
        return
    model, own = initial_model(recipe, seed), framework(recipe)
    start, maps = weights_of(recipe, model), weight_maps(recipe, model, budget.map)
    for part, method in EVOLUTION.items():
        for arm in ARMS[part]:
            began = time.perf_counter()
            best: tuple[float, float, Any, list[float]] | None = None
            records: list[fm.Record] = []
            for number, width in enumerate(WIDTHS):
                tick(f"{part}, {arm}")
                space = weight_space(arm, start, maps, width)
                inside = {
                    name: start[name].double().clamp(*param.box).numpy() for name, param in space.items()
                }
                result = own.search(recipe, seed, space, inside, data.search_rows, method, budget.evaluations)
                found = own.loaded(recipe, seed, result.best)
                validation, _ = score(recipe, found, data.validation)
                records.append(fm.Record(number, {"width": width}, {"width": width}, validation, "COMPLETE"))
                if best is None or validation < best[0]:
                    curve = result.best_so_far()
                    best = validation, width, found, curve[:: max(1, len(curve) // _POINTS)]
            assert best is not None
            yield scored_run(
                recipe,
                data,
                best[2],
                part=part,
                arm=arm,
                seed=seed,
                seconds=time.perf_counter() - began,
                best={"width": best[1]},
                records=records,
                curve=best[3],
            )


def weight_space(arm: str, start: Weights, maps: dict[str, CatalogMap], width: float) -> fm.Space:
    """The space of one arm."""
    unbounded = [
        weight.ravel() for name, weight in start.items() if maps[name].domain == (-math.inf, math.inf)
    ]
    everywhere = float(torch.cat(unbounded).std())

    def param(weight: Tensor, map: CatalogMap) -> fm.Param:
        shape = tuple(weight.shape)
        low, high = map.domain
        if math.isfinite(high):
            margin = _MARGIN * (high - low)
            return fm.Param(
                low + margin, high - margin, map=map if arm == "fastmap" else "identity", shape=shape
            )
        if math.isfinite(low):
            box = float(weight.min()) / (1 + width), float(weight.max()) * (1 + width)
            return fm.Param(*box, map="identity" if arm == "raw" else map, shape=shape)
        # A bias of one number has no deviation, and could not leave a box made from its value.
        own = max(float(weight.std(correction=0)), everywhere)
        half = width * (everywhere if arm == "raw" else own)
        return fm.Param(-half, half, map=map if arm == "fastmap" else "identity", shape=shape)

    return fm.Space({name: param(weight, maps[name]) for name, weight in start.items()})
