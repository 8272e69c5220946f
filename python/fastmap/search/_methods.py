"""The methods, one line each, and the choice among them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastmap._extras import need
from fastmap.search._axes import is_outer
from fastmap.search._engine import Engine, Setup
from fastmap.search._gradient import LBFGS, Torch
from fastmap.search._mixed import Mixed
from fastmap.search._tuner import Tuner
from fastmap.search._vector import CMA, DifferentialEvolution, EvolutionStrategy
from fastmap.space import Space

_LARGEST_FOR_OPTUNA = 64  # numbers; Optuna's CMA-ES stores its matrix in the study at every generation
_LARGEST_FOR_CMA = 2000
_LARGEST_FOR_SEPARABLE = 100_000


@dataclass(frozen=True)
class Method:
    """A method and what it needs.

    Attributes
    ----------
    engine : callable
        Makes the engine from a `Setup`.
    modules : tuple of str
        What must be installed, beside NumPy.
    box : bool
        It needs a finite box of z.
    gradient : bool
        It needs gradients.
    several : bool
        It takes several objectives.
    study : bool
        It asks a study of Optuna.
    plain : bool
        It searches theta itself, whatever the maps.
    carries : bool
        It learns from all trials of its study, or from none: it can go on under other maps. (Others keep a
        state in z that another map makes void.)
    mixed : bool
        It searches scalars outside and the rest by gradients.
    """

    engine: Callable[[Setup], Engine]
    modules: tuple[str, ...]
    box: bool = False
    gradient: bool = False
    several: bool = False
    study: bool = False
    plain: bool = False
    carries: bool = False
    mixed: bool = False


_tuner = partial(Method, box=True, study=True, several=True)
_single = partial(Method, box=True, study=True)
_descent = partial(Method, modules=("torch",), gradient=True)


def _optuna(sampler: str, **fixed: Any) -> Callable[[Setup], Engine]:
    return lambda setup: Tuner(setup, sampler, **fixed)


def _genetic(setup: Setup) -> Engine:
    # Optuna's own population, 50, is drawn at random: it would spend small budgets on it.
    return Tuner(setup, "NSGAIISampler", population_size=max(8, min(50, setup.budget // 8)))


def _torch(name: str) -> Callable[[Setup], Engine]:
    return lambda setup: Torch(setup, name)


_QUIET = {"warn_independent_sampling": False}
_QMC = {"scramble": True, "seeded": True, "warn_asynchronous_seeding": False, **_QUIET}

METHODS: dict[str, Method] = {
    "random": _tuner(_optuna("RandomSampler"), ("optuna",), carries=True),
    "sobol": _tuner(_optuna("QMCSampler", **_QMC), ("optuna", "scipy"), carries=True),
    "tpe": _tuner(_optuna("TPESampler"), ("optuna",), carries=True),
    "gp": _tuner(_optuna("GPSampler"), ("optuna", "scipy", "torch"), carries=True),
    "nsga2": _tuner(_genetic, ("optuna",)),
    "ga": _single(_genetic, ("optuna",)),
    "hyperband": _single(_optuna("TPESampler", pruner="HyperbandPruner"), ("optuna",), carries=True),
    "asha": _single(_optuna("TPESampler", pruner="SuccessiveHalvingPruner"), ("optuna",), carries=True),
    "cmaes": _single(_optuna("CmaEsSampler", **_QUIET), ("optuna", "cmaes")),
    "sep-cmaes": Method(lambda setup: CMA(setup, separable=True), ("cmaes",)),
    "de": Method(DifferentialEvolution, ("scipy",), box=True),
    "pgpe": Method(lambda setup: EvolutionStrategy(setup, adaptive=True), ()),
    "es": Method(lambda setup: EvolutionStrategy(setup, adaptive=False), ()),
    "lbfgs": Method(LBFGS, ("scipy",), gradient=True),
    "lbfgsb": Method(LBFGS, ("scipy",), gradient=True, plain=True),
    "mixed": Method(Mixed, ("optuna", "torch"), gradient=True, mixed=True),
    "gd": _descent(_torch("SGD")),
    "adam": _descent(_torch("Adam")),
    "adamw": _descent(_torch("AdamW")),
    "nadam": _descent(_torch("NAdam")),
    "radam": _descent(_torch("RAdam")),
    "adamax": _descent(_torch("Adamax")),
    "rmsprop": _descent(_torch("RMSprop")),
    "adagrad": _descent(_torch("Adagrad")),
    "adadelta": _descent(_torch("Adadelta")),
    "rprop": _descent(_torch("Rprop")),
}
_CMA_ON_ARRAYS = Method(lambda setup: CMA(setup, separable=False), ("cmaes",))

_EXTRAS = {"torch": "torch"}  # of modules; "search" has the others


def method_named(name: str, space: Space) -> Method:
    """The method of that name for a space, with what it needs installed.

    Raises
    ------
    ValueError
        No method of that name.
    ImportError
        Something is not installed; the error names the command.
    """
    if name not in METHODS:
        raise ValueError(f"method: expected one of {', '.join(['auto', *METHODS])}; got {name!r}")
    method = METHODS[name]
    if method.mixed and len({is_outer(param) for param in space.values()}) < 2:
        raise ValueError(
            "method: mixed needs a scalar to search outside (an integer, or a box with a map of its own) and "
            "a parameter to search by gradients inside"
        )
    if name == "cmaes":
        if space.z_size < 2:
            raise ValueError("method: CMA-ES needs at least two numbers")
        if space.z_size > _LARGEST_FOR_OPTUNA or not all(param.has_box for param in space.values()):
            method = _CMA_ON_ARRAYS
    for module in method.modules:
        need(module, _EXTRAS.get(module, "search"))
    return method


def choose(
    space: Space, objectives: int, budget: int | None, jac: bool | None, noisy: bool | None, convex: bool
) -> tuple[str, str]:
    """The method that "auto" stands for, and why."""
    if objectives > 1:
        if (budget or 100) < 200:
            return "tpe", f"{objectives} objectives, and {budget or 100} evaluations are few generations"
        return "nsga2", f"{objectives} objectives: the Pareto front by a genetic algorithm"
    arrays = [name for name, param in space.items() if param.shape]
    outer = [name for name, param in space.items() if is_outer(param)]
    if arrays and outer and (jac is None or (jac and any(space[name].integer for name in outer))):
        kind = "an integer" if space[outer[0]].integer else "a scalar with a box and a map of its own"
        return "mixed", f"{outer[0]!r} is {kind}: TPE outside; {arrays[0]!r} is an array: Adam inside"
    if jac or (jac is None and arrays):
        why = "they are given" if jac else f"{arrays[0]!r} is an array of {space[arrays[0]].size}"
        ends = all(param.map is None for param in space.values())
        if convex and ends:
            return "lbfgsb", f"gradients, since {why}; convex with simple bounds: a map could only bend it"
        if not noisy and (jac or noisy is False) and space.z_size <= _LARGEST_FOR_SEPARABLE:
            return "lbfgs", f"gradients, since {why}, and no noise in them"
        return "adam", f"gradients, since {why}"
    boxed = all(param.has_box for param in space.values())
    if space.z_size > _LARGEST_FOR_SEPARABLE:
        return "pgpe", f"black box, and {space.z_size} numbers are too many for a model of them"
    if space.z_size > _LARGEST_FOR_CMA:
        return "sep-cmaes", f"black box, and {space.z_size} numbers are too many for a full covariance"
    integers = any(param.integer for param in space.values())
    if space.z_size > 1 and not integers and (not boxed or space.z_size > 30 or (budget or 0) >= 1000):
        why = f"{budget} evaluations of {space.z_size} numbers"
        if not boxed:
            why = "some parameters have no box"
        elif space.z_size > 30:
            why = f"{space.z_size} numbers"
        return "cmaes", f"black box, and {why}: a covariance can be learnt"
    return "tpe", "black box, and few numbers" if arrays else "black box, since all parameters are scalars"
