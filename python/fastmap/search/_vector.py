"""Black-box methods on one flat z, for arrays: CMA-ES, differential evolution, evolution strategies."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np

from fastmap._extras import need
from fastmap.search._engine import Calls, Finished, Flat, Setup

_FREE_STEP = 0.3  # the first standard deviation where there is no box, in z
# cmaes draws again, up to 100 times, until all numbers of a point are in the box, which three standard
# deviations let happen to 0.997^n of the points. Of more numbers than this, those outside go to the end of
# their box at once.
_RESAMPLED = 64
_BOX_STEPS = 6  # and so many of them in a box, as in Optuna


def _steps(setup: Setup) -> Any:
    """The first standard deviation of each number."""
    width = setup.axes.high - setup.axes.low
    return np.where(np.isfinite(width), width / _BOX_STEPS, _FREE_STEP)


class CMA(Flat):
    """CMA-ES of the library cmaes, in units in which the first step is 1 for every number.

    Options: ``sigma`` (times the first step, 1) and those of ``cmaes.CMA`` or ``cmaes.SepCMA``.
    """

    def __init__(self, setup: Setup, separable: bool) -> None:
        super().__init__(setup)
        self.scale, self.centre = _steps(setup), self.axes.start(setup.start)
        if self.centre.size < 2:
            raise ValueError("method: CMA-ES needs at least two numbers")
        cmaes = need("cmaes", "search")
        options = {"sigma": 1.0, **setup.options}
        low, high = ((end - self.centre) / self.scale for end in (self.axes.low, self.axes.high))
        if np.isfinite(low).any() or np.isfinite(high).any():
            options["bounds"] = np.stack([low, high], 1)
            if self.centre.size > _RESAMPLED:
                options.setdefault("n_max_resampling", 0)
        self.optimizer = (cmaes.SepCMA if separable else cmaes.CMA)(
            mean=np.zeros(self.centre.size), seed=setup.seed, **options
        )
        self.told: list[tuple[Any, float]] = []

    def propose(self) -> Any:
        if self.optimizer.should_stop():
            raise Finished("CMA-ES has converged")
        self.asked = self.optimizer.ask()
        return self.centre + self.scale * self.asked

    def learn(self, loss: float) -> None:
        self.told.append((self.asked, loss))
        if len(self.told) < self.optimizer.population_size:
            return
        finite = [value for _, value in self.told if math.isfinite(value)]
        worst = max(finite, default=0.0)  # only ranks count: a failure is as bad as the worst
        self.optimizer.tell([(x, value if math.isfinite(value) else worst) for x, value in self.told])
        self.told = []


class DifferentialEvolution(Flat):
    """SciPy's differential evolution. Options: those of ``scipy.optimize.differential_evolution``."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        optimize, qmc = need("scipy.optimize", "search"), need("scipy.stats.qmc", "search")
        rng = np.random.default_rng(setup.seed)
        size = self.axes.low.size
        # SciPy's own population, 15 per number, would spend most budgets on its first generation.
        population = max(5, min(15 * size, setup.budget // 8))
        first = qmc.LatinHypercube(size, rng=rng).random(population)
        first = self.axes.low + first * (self.axes.high - self.axes.low)
        if setup.start:
            first[0] = self.axes.start(setup.start)
        bounds = optimize.Bounds(self.axes.low, self.axes.high)
        options = {"init": first, "polish": False, "maxiter": sys.maxsize, "rng": rng, **setup.options}

        def run(function: Any) -> str:
            return str(optimize.differential_evolution(function, bounds, **options).message)

        self.calls = Calls(run)

    def propose(self) -> Any:
        return self.calls.ask()

    def learn(self, loss: float) -> None:
        self.calls.tell(loss)

    def close(self) -> None:
        self.calls.close()


class EvolutionStrategy(Flat):
    """Parameter-exploring policy gradients, for 10⁵ numbers and more; memory grows with z alone.

    Symmetric samples z ± σε, the losses replaced by centred ranks, Adam on the mean. `adaptive`: PGPE, in
    which each number has a σ of its own (Sehnke et al., Parameter-exploring policy gradients, Neural Networks
    23, 2010; the step of σ is bounded). Else σ is fixed: the evolution strategy of Salimans et al. (Evolution
    strategies as a scalable alternative to reinforcement learning, arXiv 1703.03864), from which the ranks,
    Adam and drawing the noise again from its seed instead of keeping it are taken.

    Options: ``population`` (pairs count twice), ``sigma`` (times the first step, 1), ``lr`` (of the mean, in
    units of σ, 0.3), ``sigma_lr`` (0.1).
    """

    _BETAS = (0.9, 0.999)

    def __init__(self, setup: Setup, adaptive: bool) -> None:
        super().__init__(setup)
        self.mean = self.axes.start(setup.start)
        size = self.mean.size
        known = {"population": 4 + int(3 * math.log(size)), "sigma": 1.0, "lr": 0.3, "sigma_lr": 0.1}
        if unknown := sorted(set(setup.options) - set(known)):
            raise TypeError(f"options: unknown {unknown[0]!r}; known: {', '.join(known)}")
        options = {**known, **setup.options}
        self.pairs = max(2, math.ceil(options["population"] / 2))
        self.sigma = options["sigma"] * _steps(setup)
        self.lr, self.sigma_lr = options["lr"], options["sigma_lr"] if adaptive else 0.0
        entropy = np.random.SeedSequence(setup.seed).entropy
        self.seed: Any = entropy
        self.generation, self.losses = 0, list[float]()
        self.moments = np.zeros((2, size))

    def _noise(self, pair: int) -> Any:
        return np.random.default_rng([self.seed, self.generation, pair]).standard_normal(self.mean.size)

    def propose(self) -> Any:
        pair, second = divmod(len(self.losses), 2)
        if not second:
            self.noise = self._noise(pair)
        return self.mean + (-self.sigma if second else self.sigma) * self.noise

    def learn(self, loss: float) -> None:
        self.losses.append(loss)
        if len(self.losses) == 2 * self.pairs:
            self._step()
            self.generation, self.losses = self.generation + 1, []

    def _step(self) -> None:
        order = np.argsort(np.argsort(-np.array(self.losses), kind="stable"))
        rank = (order / (len(order) - 1) - 0.5).reshape(self.pairs, 2)  # 0.5: the lowest loss
        slope, spread = np.zeros_like(self.mean), np.zeros_like(self.mean)
        for pair, (plus, minus) in enumerate(rank):
            noise = self._noise(pair)
            slope += (plus - minus) / 2 * noise
            if self.sigma_lr:
                spread += (plus + minus) / 2 * (noise * noise - 1)
        first, second = self._BETAS
        t = self.generation + 1
        self.moments[0] += (1 - first) * (slope - self.moments[0])
        self.moments[1] += (1 - second) * (slope * slope - self.moments[1])
        step = self.moments[0] / (1 - first**t) / (np.sqrt(self.moments[1] / (1 - second**t)) + 1e-12)
        self.mean += self.lr * self.sigma * step
        np.clip(self.mean, self.axes.low, self.axes.high, out=self.mean)
        if self.sigma_lr:
            self.sigma *= np.exp(np.clip(self.sigma_lr * spread / self.pairs, -0.2, 0.2))
