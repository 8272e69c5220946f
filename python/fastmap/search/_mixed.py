"""Scalars outside by TPE, everything else inside by gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

from fastmap.search._axes import Axes, is_outer
from fastmap.search._engine import Engine, Finished, Outcome, Point, Setup
from fastmap.search._gradient import LBFGS, Torch
from fastmap.search._tuner import Tuner, new_study, z_by_element
from fastmap.space import Space

INNER: dict[str, Callable[[Setup], Engine]] = {"adam": lambda setup: Torch(setup, "Adam"), "lbfgs": LBFGS}
_STEPS = 40  # gradient steps for one choice of the scalars


class Mixed:
    """TPE proposes the scalars of `is_outer`; for each choice, gradients search the rest from the same start.

    The loss of a choice is the best on the way. Options: ``inner`` ("adam" or "lbfgs"), ``steps``
    (evaluations for one choice: 40, or fewer where the budget would allow less than 10 choices), and those of
    the inner method.
    """

    def __init__(self, setup: Setup) -> None:
        space = setup.axes.space
        outer = Space({name: param for name, param in space.items() if is_outer(param)})
        inner = Space({name: param for name, param in space.items() if not is_outer(param)})
        options = dict(setup.options)
        name = options.pop("inner", "adam")
        if name not in INNER:
            raise ValueError(f"options: inner is one of {', '.join(INNER)}, not {name!r}")
        self.steps = options.pop("steps", max(1, min(_STEPS, setup.budget // 10)))
        if not isinstance(self.steps, int) or self.steps < 1:
            raise ValueError(f"options: steps must be an integer of at least 1, got {self.steps!r}")
        directions = ["minimize" if sign > 0 else "maximize" for sign in setup.signs]
        known = {n: value for n, value in setup.start.items() if n in outer}
        study = new_study(directions)
        self.tuner = Tuner(
            replace(setup, axes=Axes(outer, box=True, gradient=False), options={}, study=study), "TPESampler"
        )
        if known:
            study.enqueue_trial(z_by_element(outer, known))
        start = {n: value for n, value in setup.start.items() if n in inner}
        self.inner = replace(setup, axes=Axes(inner, box=False, gradient=True), options=options, start=start)
        self.make, self.sign = INNER[name], setup.signs[0]
        self.order = list(space)
        self.make(self.inner).close()  # its arguments are checked before the first evaluation
        self.engine: Engine | None = None
        self.count, self.best = 0, math.inf  # of the choice at work; the best is signed

    def ask(self) -> Point:
        if self.engine is not None and self.count < self.steps:
            try:
                return self._with_scalars(self.engine.ask())
            except Finished:
                pass
        self._finish()
        self.outer, self.engine = self.tuner.ask(), self.make(self.inner)
        self.count, self.best = 0, math.inf
        return self._with_scalars(self.engine.ask())

    def _with_scalars(self, point: Point) -> Point:
        theta, z = {**self.outer.theta, **point.theta}, {**self.outer.z, **point.z}
        return Point({n: theta[n] for n in self.order}, {n: z[n] for n in self.order}, point)

    def tell(self, point: Point, outcome: Outcome) -> None:
        assert self.engine is not None
        self.count += 1
        if outcome.state == "COMPLETE":
            self.best = min(self.best, self.sign * outcome.losses[0])
            if self.inner.jac and isinstance(outcome.raw[1], Mapping):  # gradients of scalars are not wanted
                gradients = {n: g for n, g in outcome.raw[1].items() if n not in self.outer.theta}
                outcome = replace(outcome, raw=(outcome.raw[0], gradients))
        self.engine.tell(point.handle, outcome)

    def _finish(self) -> None:
        """Close the search inside, and tell the tuner what came of its scalars."""
        if self.engine is None:
            return
        self.engine.close()
        self.engine = None
        state = "COMPLETE" if math.isfinite(self.best) else "FAIL"
        self.tuner.tell(self.outer, Outcome((self.sign * self.best,), state))

    def close(self) -> None:
        self._finish()
