"""What every method is to the loop: an engine that proposes points and is told their losses."""

from __future__ import annotations

import math
import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from fastmap.search._axes import Axes


class Finished(Exception):
    """No further point: the method has converged, or cannot go on. The message says why."""


@dataclass(frozen=True)
class Setup:
    """What an engine is made from."""

    axes: Axes
    signs: tuple[int, ...]  # +1 to minimise, -1 to maximise, one per objective
    seed: int | None
    lr: float
    budget: int
    options: dict[str, Any]  # keywords of what the method stands on
    start: dict[str, Any]  # theta by name where it is known: the best so far, else `init`
    warm: bool  # whether `start` has been evaluated
    jac: bool
    study: Any = None


@dataclass(frozen=True)
class Point:
    """What is to be evaluated, and what the engine remembers of it."""

    theta: dict[str, Any]  # what the objective gets
    z: dict[str, Any]
    handle: Any = None


@dataclass(frozen=True)
class Outcome:
    """How an evaluation ended: the losses, the state and what the objective returned."""

    losses: tuple[float, ...]
    state: str
    raw: Any = field(default=None, repr=False)


class Engine(Protocol):
    """A method at work."""

    def ask(self) -> Point:
        """The next point; `Finished` where there is none."""

    def tell(self, point: Point, outcome: Outcome) -> None:
        """What came of it."""

    def close(self) -> None:
        """Release what is held."""


class Flat(ABC):
    """An engine on one flat z and one loss to minimise; infinite where the evaluation failed."""

    def __init__(self, setup: Setup) -> None:
        self.axes, self.sign = setup.axes, setup.signs[0]

    def ask(self) -> Point:
        z = self.axes.split(np.clip(self.propose(), self.axes.low, self.axes.high))
        return Point(self.axes.theta(z), z)

    def tell(self, point: Point, outcome: Outcome) -> None:
        self.learn(self.sign * outcome.losses[0] if outcome.state == "COMPLETE" else math.inf)

    @abstractmethod
    def propose(self) -> Any:
        """A flat z."""

    @abstractmethod
    def learn(self, loss: float) -> None:
        """The loss of the last proposal."""

    def close(self) -> None:
        return None


class _Stopped(BaseException):
    """Ends the thread of a `Calls`."""


class Calls:
    """A minimiser that calls its function, turned inside out: it runs in a thread and waits for the answers.

    Parameters
    ----------
    run : callable
        Takes the function and calls it until it is done; its return value is the message at the end.
    """

    def __init__(self, run: Callable[[Callable[[Any], Any]], str]) -> None:
        self._asked: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._run = run
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._over: BaseException | None = None

    def _work(self) -> None:
        try:
            self._asked.put(Finished(self._run(self._call)))
        except _Stopped:
            return
        except BaseException as error:  # raised again by `ask`, in the caller's thread
            self._asked.put(error)

    def _call(self, x: Any) -> Any:
        self._asked.put(np.array(x))
        answer = self._answers.get()
        if answer is None:
            raise _Stopped
        return answer

    def ask(self) -> Any:
        """The next argument."""
        if self._over is None:
            if not self._thread.ident:
                self._thread.start()
            x = self._asked.get()
            if not isinstance(x, BaseException):
                return x
            self._over = x
        raise self._over

    def tell(self, answer: Any) -> None:
        """The value there."""
        self._answers.put(answer)

    def close(self) -> None:
        """End the thread."""
        if self._thread.is_alive():
            self._answers.put(None)
            self._thread.join(timeout=5)
