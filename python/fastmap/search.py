"""The search loop: any method in the mapped space, results in parameters.

fastmap owns the map and writes no sampler: black-box methods ask Optuna for plain z in a finite box,
gradient methods let torch.optim step z. The objective always receives theta.
"""

from __future__ import annotations

import csv
import inspect
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fastmap import _functional
from fastmap._extras import need
from fastmap.space import Param, Space

Direction = Literal["minimize", "maximize"]
Objective = Callable[..., Any]

_TUNERS = ("tpe", "random")
_OPTIMIZERS = {"adam": "Adam", "adamw": "AdamW", "gd": "SGD"}
_DEFAULT_BUDGET = {"tuner": 100, "gradient": 1000}
_LARGEST_RECORD = 1000  # numbers; larger points are kept for the best one only


@dataclass(frozen=True)
class Record:
    """One evaluation: its number, the point in both spaces, the loss, COMPLETE, PRUNED or FAIL.

    `theta` and `z` are empty for spaces of over 1000 numbers; the best point is in `Result.best`.
    """

    number: int
    theta: dict[str, Any]
    z: dict[str, Any]
    loss: float
    state: str


@dataclass(frozen=True)
class Result:
    """What a search found.

    Attributes
    ----------
    best : dict
        theta by name, at the best complete evaluation.
    loss : float
        Its loss (or metric, when maximised).
    history : list of Record
        Every evaluation in order.
    method, reason : str
        How the search was done, and why so.
    space : Space
        What was searched.
    seconds : float
        Wall time of the whole search.
    """

    best: dict[str, Any]
    loss: float
    history: list[Record] = field(repr=False)
    method: str
    reason: str
    space: Space = field(repr=False)
    direction: Direction
    seconds: float

    def best_so_far(self) -> list[float]:
        """The best loss up to each evaluation; NaN before the first complete one."""
        better = min if self.direction == "minimize" else max
        result: list[float] = []
        best = math.nan
        for record in self.history:
            if record.state == "COMPLETE":
                best = record.loss if math.isnan(best) else better(best, record.loss)
            result.append(best)
        return result

    def to_frame(self) -> Any:
        """The history as a pandas DataFrame, one column per parameter and space."""
        pandas = need("pandas", "viz")
        return pandas.DataFrame([_flat(record) for record in self.history])

    def plot(self) -> Any:
        """A matplotlib figure: loss by evaluation, and loss over each scalar in theta and in z."""
        from fastmap._plot import plot_result

        return plot_result(self)

    def save(self, directory: str | Path) -> None:
        """Write result.json, trials.csv and, where matplotlib is installed, search.png."""
        path = Path(directory)
        path.mkdir(parents=True, exist_ok=True)
        summary = {
            "best": self.best,
            "loss": self.loss,
            "method": self.method,
            "reason": self.reason,
            "direction": self.direction,
            "evaluations": len(self.history),
            "seconds": self.seconds,
            "space": self.space.to_json(),
            "history": [asdict(record) for record in self.history],
        }
        text = json.dumps(summary, indent=1, default=_plain)
        (path / "result.json").write_text(text + "\n")
        rows = [_flat(record) for record in self.history]
        with (path / "trials.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        try:
            figure = self.plot()
        except ImportError:
            return
        figure.savefig(path / "search.png", dpi=120)


class Trial:
    """The second argument of an objective that takes two: reports on the way, and may be stopped."""

    def __init__(self, number: int, trial: Any = None) -> None:
        self.number = number
        self._trial = trial

    def report(self, value: float, step: int) -> None:
        """An intermediate value of the objective."""
        if self._trial is not None:
            self._trial.report(float(value), step)

    def should_prune(self) -> bool:
        """Whether this evaluation is not worth finishing; then return the last value."""
        return self._trial is not None and bool(self._trial.should_prune())


def minimize(
    objective: Objective,
    space: Space,
    *,
    direction: Direction = "minimize",
    method: str = "auto",
    budget: int | None = None,
    seed: int | None = None,
    timeout: float | None = None,
    lr: float = 0.05,
    init: dict[str, Any] | None = None,
    catch: tuple[type[Exception], ...] = (),
    callbacks: Sequence[Callable[[Record], None]] = (),
    progress: bool = False,
) -> Result:
    """Search the mapped space for the parameters with the best objective.

    Parameters
    ----------
    objective : callable
        Takes a dict of theta by name, and a `Trial` when it takes two arguments; returns the loss. For
        gradient methods theta are torch tensors and the loss is a scalar tensor that depends on them.
    space : Space
        Names, boxes, maps and shapes.
    direction : {"minimize", "maximize"}
        "maximize" for a metric.
    method : str
        "tpe" and "random" (Optuna, in the boxes of z), "adam", "adamw" and "gd" (torch.optim on z), or
        "auto": gradients where the space holds arrays, else TPE. `Result.reason` says which and why.
    budget : int, optional
        Evaluations; default 100 for black-box methods, 1000 for gradients.
    seed : int, optional
        Of the sampler. Gradient methods draw nothing.
    timeout : float, optional
        Seconds after which no new evaluation starts.
    lr : float
        Step size of gradient methods, in z.
    init : dict, optional
        theta to start from, by name (gradient), or to evaluate first (black-box).
    catch : tuple of exception types, optional
        An evaluation that raises one of these counts as FAIL; any other exception ends the search.
    callbacks : sequence of callables, optional
        Each is called with every `Record`.
    progress : bool
        Show a progress bar on stderr.

    Returns
    -------
    Result

    Raises
    ------
    ValueError
        Bad arguments; a box whose z is infinite, for black-box methods; no evaluation that completed.
    """
    if direction not in ("minimize", "maximize"):
        raise ValueError(f"direction: expected 'minimize' or 'maximize', got {direction!r}")
    method, reason = _choose(method, space)
    kind = "tuner" if method in _TUNERS else "gradient"
    budget = _DEFAULT_BUDGET[kind] if budget is None else budget
    if budget < 1:
        raise ValueError(f"budget: must be at least 1, got {budget}")
    search = _Search(_with_trial(objective), space, method, budget, seed, lr, init, catch)
    best = _Best(direction)
    history: list[Record] = []
    start = time.perf_counter()
    steps = _tune(search, best) if kind == "tuner" else _descend(search, best)
    try:
        for record in _shown(steps, budget, best, progress):
            history.append(record)
            for callback in callbacks:
                callback(record)
            if timeout is not None and time.perf_counter() - start > timeout:
                reason += f"; stopped after {timeout:g} s"
                break
    except KeyboardInterrupt:
        if best.theta is None:
            raise
        reason += f"; interrupted after {len(history)} evaluations"
    if best.theta is None:
        raise ValueError(f"objective: none of {len(history)} evaluations gave a finite loss")
    seconds = time.perf_counter() - start
    return Result(best.theta, best.loss, history, method, reason, space, direction, seconds)


@dataclass(frozen=True)
class _Search:
    """What `minimize` was asked for."""

    objective: Callable[[dict[str, Any], Trial], Any]
    space: Space
    method: str
    budget: int
    seed: int | None
    lr: float
    init: dict[str, Any] | None
    catch: tuple[type[Exception], ...]


class _Best:
    """The best complete evaluation so far."""

    def __init__(self, direction: Direction) -> None:
        self.direction = direction
        self.sign = 1 if direction == "minimize" else -1
        self.loss = math.nan
        self.theta: dict[str, Any] | None = None

    def offer(self, loss: float) -> bool:
        """Whether this loss is the best yet; then the caller stores its theta."""
        if not math.isfinite(loss):
            return False
        if self.theta is not None and self.sign * loss >= self.sign * self.loss:
            return False
        self.loss = loss
        return True


def _choose(method: str, space: Space) -> tuple[str, str]:
    if method in _TUNERS or method in _OPTIMIZERS:
        return method, "asked for"
    if method != "auto":
        known = ", ".join(["auto", *_TUNERS, *_OPTIMIZERS])
        raise ValueError(f"method: expected one of {known}; got {method!r}")
    arrays = [name for name, param in space.items() if param.shape]
    if arrays:
        return "adam", f"gradients, since {arrays[0]!r} is an array of {space[arrays[0]].size}"
    return "tpe", "black box, since all parameters are scalars"


def _tune(search: _Search, best: _Best) -> Iterator[Record]:
    """Optuna on z: one uniform distribution per number of the space."""
    optuna = need("optuna", "search")
    space = search.space
    names = {name: _element_names(name, param) for name, param in space.items()}
    boxes = {
        element: optuna.distributions.FloatDistribution(float(low), float(high))
        for name, param in space.items()
        for element, low, high in zip(names[name], *_named_box(name, param), strict=True)
    }
    samplers = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
    with _quiet(optuna):
        study = optuna.create_study(
            direction=best.direction, sampler=samplers[search.method](seed=search.seed)
        )
    study.set_user_attr("fastmap:space", space.to_json())
    if search.init is not None:
        study.enqueue_trial(_z_by_element(space, names, search.init))
    for number in range(search.budget):
        trial = study.ask(boxes)
        z, theta = {}, {}
        for name, param in space.items():
            values = np.array([trial.params[element] for element in names[name]])
            z[name] = _python(values.reshape(param.shape))
            theta[name] = _python(param.from_z(values.reshape(param.shape)), param)
        loss, state = math.nan, "COMPLETE"
        try:
            loss = float(search.objective(dict(theta), Trial(number, trial)))
            # Optuna would take an infinite loss for a good observation.
            state = "COMPLETE" if math.isfinite(loss) else "FAIL"
        except optuna.TrialPruned:
            state = "PRUNED"
        except search.catch:
            state = "FAIL"
        for name, value in theta.items():
            trial.set_user_attr(f"theta:{name}", json.loads(json.dumps(value, default=_plain)))
        if state == "COMPLETE":
            study.tell(trial, loss)
        else:
            study.tell(trial, state=optuna.trial.TrialState[state])
        if state == "COMPLETE" and best.offer(loss):
            best.theta = theta
        yield Record(number, theta, z, loss, state)


def _descend(search: _Search, best: _Best) -> Iterator[Record]:
    """torch.optim on z; theta = f⁻¹(z) inside the graph."""
    torch = need("torch", "torch")
    space = search.space
    maps = {name: param.gradient_map for name, param in space.items()}
    z = {
        name: _start(torch, name, param, (search.init or {}).get(name, param.init))
        for name, param in space.items()
    }
    boxes = {
        name: param.z_box
        for name, param in space.items()
        if param.map is not None and param.low is not None and param.high is not None
    }
    optimizer = getattr(torch.optim, _OPTIMIZERS[search.method])(
        z.values(), lr=search.lr, maximize=best.direction == "maximize"
    )
    small = space.size <= _LARGEST_RECORD
    for number in range(search.budget):
        optimizer.zero_grad()
        theta = {name: _functional.inverse(z[name], maps[name]) for name in space}
        for name in boxes:
            theta[name] = _pinned(theta[name], *space[name].box)
        state = "COMPLETE"
        try:
            loss = search.objective(dict(theta), Trial(number))
            value = float(loss.detach())
            state = "COMPLETE" if math.isfinite(value) else "FAIL"
        except search.catch:
            value, state = math.nan, "FAIL"
        if best.offer(value):
            best.theta = {name: _python(t.detach().clone(), space[name]) for name, t in theta.items()}
        yield Record(
            number,
            {k: _python(t.detach().clone(), space[k]) for k, t in theta.items()} if small else {},
            {k: _python(t.detach().clone()) for k, t in z.items()} if small else {},
            value,
            state,
        )
        if state == "FAIL":  # no gradient to follow from here
            return
        loss.backward()
        optimizer.step()
        for name, (z_low, z_high) in boxes.items():
            z[name].data.clamp_(z_low, z_high)


def _pinned(theta: Any, low: float, high: float) -> Any:
    """theta moved into the box, which rounding may leave by an ULP; the gradient passes as it is."""
    inside = theta.detach().clamp(low, high)
    return theta + (inside - theta.detach())


def _start(torch: Any, name: str, param: Param, init: Any) -> Any:
    """The z tensor to start from: f(init), else the middle of the box, else 0."""
    dtype = None if param.dtype is None else getattr(torch, param.dtype.name)
    if init is not None:
        theta = torch.as_tensor(init)
        dtype = dtype or (theta.dtype if theta.is_floating_point() else torch.get_default_dtype())
        if tuple(theta.shape) != param.shape:
            raise ValueError(f"init: {name} has shape {tuple(theta.shape)}, not {param.shape}")
        z = _functional.forward(theta.detach().to(dtype).clone(), param.gradient_map)
    else:
        boxed = param.map is not None and param.low is not None and param.high is not None
        middle = np.add(*param.z_box) / 2 if boxed else 0.0
        dtype = dtype or torch.get_default_dtype()
        z = torch.tensor(np.broadcast_to(middle, param.shape).copy(), dtype=dtype)
    return z.requires_grad_()


def _element_names(name: str, param: Param) -> list[str]:
    if not param.shape:
        return [name]
    return [f"{name}[{','.join(map(str, index))}]" for index in np.ndindex(param.shape)]


def _named_box(name: str, param: Param) -> tuple[Any, Any]:
    """The ends of the box for each number of the parameter."""
    try:
        low, high = (np.broadcast_to(end, param.shape).ravel() for end in param.z_box)
        return low, high
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _z_by_element(space: Space, names: dict[str, list[str]], theta: dict[str, Any]) -> dict[str, float]:
    result: dict[str, float] = {}
    for name, value in theta.items():
        z = _functional.forward(np.asarray(value, np.float64).reshape(space[name].shape), space[name].box_map)
        result.update(zip(names[name], map(float, np.ravel(z)), strict=True))
    return result


def _with_trial(objective: Objective) -> Callable[[dict[str, Any], Trial], Any]:
    """The objective as a function of two arguments."""
    try:
        takes = [
            p
            for p in inspect.signature(objective).parameters.values()
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty
        ]
    except (TypeError, ValueError):
        takes = []
    return objective if len(takes) >= 2 else lambda theta, trial: objective(theta)


def _shown(records: Iterator[Record], budget: int, best: _Best, progress: bool) -> Iterator[Record]:
    if not progress:
        yield from records
        return
    tqdm = need("tqdm", "search").tqdm
    with tqdm(total=budget, file=sys.stderr, unit="eval") as bar:
        for record in records:
            bar.set_postfix(best=f"{best.loss:.4g}", refresh=False)
            bar.update()
            yield record


@contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)


def _python(value: Any, param: Param | None = None) -> Any:
    """Scalars as Python numbers, arrays as they are."""
    if value.ndim:
        return value
    return int(value) if param is not None and param.integer else float(value)


def _plain(value: Any) -> Any:
    """Arrays and tensors as lists, for JSON."""
    return value.tolist()


def _flat(record: Record) -> dict[str, Any]:
    row: dict[str, Any] = {"number": record.number, "state": record.state, "loss": record.loss}
    for space, values in (("theta", record.theta), ("z", record.z)):
        for name, value in values.items():
            if np.ndim(value) == 0:
                row[f"{space}:{name}"] = value
                continue
            array = np.asarray(value)
            for index in np.ndindex(array.shape):
                row[f"{space}:{name}[{','.join(map(str, index))}]"] = float(array[index])
    return row
