"""`Search`: ask for a point, tell its loss. `minimize` is a loop over it."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from fastmap import optuna as studies
from fastmap._extras import need
from fastmap._map import MapLike
from fastmap._trials import needed, suggest_from
from fastmap.maps import Identity, Log
from fastmap.search import _tuner
from fastmap.search._axes import LARGEST_RECORD, Axes, check_names, python, recorded
from fastmap.search._engine import Engine, Finished, Outcome, Point, Setup
from fastmap.search._methods import METHODS, choose, method_named
from fastmap.search._result import Choice, Direction, Record, Result, front
from fastmap.search._workers import ERROR, Workers
from fastmap.space import Space, with_maps

State = Literal["COMPLETE", "PRUNED", "FAIL"]
_FIRST_CHOICE = 20  # complete trials from which map="auto" asks; then at every doubling
_TENFOLD = 10  # high/low from which map="auto" starts a positive box on a logarithmic scale
_DEFAULT_BUDGET = {False: 100, True: 1000}  # whether by gradients


class Trial:
    """One evaluation on its way, and the second argument of an objective that takes two.

    Attributes
    ----------
    number : int
        Of the evaluation.
    theta : dict
        The point, by name.
    """

    def __init__(self, number: int, point: Point | None = None, *, engine: bool = False) -> None:
        self.number = number
        self.theta: dict[str, Any] = {} if point is None else dict(point.theta)
        self.pruned = False
        self._point, self._engine, self._told = point, engine, False
        handle = None if point is None else point.handle
        self._trial = handle if hasattr(handle, "should_prune") else None
        self._reported, self._lost = math.nan, False

    def report(self, value: float, step: int) -> None:
        """An intermediate value of the objective. Methods that are not Optuna's do not prune by it."""
        self._reported = float(value)
        if self._trial is not None:
            try:
                self._trial.report(float(value), step)
            except need("optuna", "search").exceptions.UpdateFinishedTrialError:
                self._lost = True  # another process took this one for lost, and does the evaluation

    def should_prune(self) -> bool:
        """Whether this evaluation is not worth finishing; then return the last value: it counts as PRUNED."""
        self.pruned = self._lost or (self._trial is not None and bool(self._trial.should_prune()))
        return self.pruned

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """A choice, by Optuna: for parameters that a space cannot hold, and conditional ones."""
        return self._optunas(name).suggest_categorical(name, choices)

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """An integer, by Optuna."""
        return int(self._optunas(name).suggest_int(name, low, high, step=step, log=log))

    def suggest_float(self, name: str, low: float, high: float, *, map: MapLike | None = None) -> float:
        """`fastmap.optuna.suggest_float`, for conditional parameters."""
        return studies.suggest_float(self._optunas(name), name, low, high, map=map)

    def _optunas(self, name: str) -> Any:
        if self._trial is None:
            raise TypeError(f"name: {name!r} can be suggested by Optuna's methods only")
        if name in self.theta:
            raise ValueError(f"name: {name!r} is a parameter of the space")
        return self._trial


class Search:
    """A search by hand: `ask` for a trial, evaluate its ``theta``, `tell` the loss.

    Parameters
    ----------
    space : Space
        Names, boxes, maps and shapes.
    direction : str or list of str
        "minimize" or "maximize"; a list for several objectives.
    method : str
        As in `minimize`.
    budget : int, optional
        How many evaluations are planned; "auto" and differential evolution heed it.
    seed : int, optional
        Of the method. The same seed gives the same points, bit for bit, when evaluations come one by one.
    lr : float
        Step size of gradient methods, in z.
    init : dict, optional
        theta to start from, by name: evaluated first.
    options : dict, optional
        Keywords of what the method stands on: Optuna's sampler, ``torch.optim``, SciPy or cmaes.
    jac : bool, optional
        True: the objective returns (loss, gradients by name), as NumPy arrays of d loss / d theta. False: it
        has no gradient. None: gradients come from torch where the method wants them.
    noisy : bool, optional
        Whether two evaluations of one point differ, where known; a hint for "auto".
    convex : bool
        The loss is convex in theta, with simple bounds; a hint for "auto".
    map : "auto", optional
        For scalar parameters without a map: begin with logarithms of positive boxes of a decade or more, ask
        `suggest_from` during the search, and go on under the maps that it finds; see `minimize`. `choices`
        says what was concluded.
    storage : str, Path or optuna.storages.BaseStorage, optional
        Where trials are kept as they end: a file (Optuna's journal) or a URL ("sqlite:///file.db"). Default:
        in memory. Several processes may share one; give them different seeds, or none.
    name : str
        Of the search in its storage.
    resume : bool or "remap"
        Go on with the trials that the storage has. "remap": also with those of another space, or of a study
        that fastmap did not make: theta stays and z is computed anew; the old study is left as it was.
    total : int, optional
        How many evaluations all processes on the storage do together, those that it already has included;
        `resume` is implied. Exact: a trial that was lost with its process and is done again counts once.
        For Optuna's methods.
    grace : int, optional
        Seconds after which a running trial is taken for lost with its process: it becomes FAIL, and its
        theta is evaluated again under a new number, at most three times. In a database they count from the
        last sign of life, which a running trial gives every half of them (default 120); in other storages
        from the start of the trial, so they must exceed the longest evaluation (default: never). Give all
        processes the same.

    Raises
    ------
    ValueError
        Bad arguments; a box whose z is infinite for a method that needs one; a storage with another space.
    ImportError
        Something is not installed; the error names the command that installs it.
    """

    def __init__(
        self,
        space: Space,
        *,
        direction: Direction | Sequence[Direction] = "minimize",
        method: str = "auto",
        budget: int | None = None,
        seed: int | None = None,
        lr: float = 0.05,
        init: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        jac: bool | None = None,
        noisy: bool | None = None,
        convex: bool = False,
        map: Literal["auto"] | None = None,
        storage: Any = None,
        name: str = "fastmap",
        resume: bool | Literal["remap"] = False,
        total: int | None = None,
        grace: int | None = None,
    ) -> None:
        if not isinstance(space, Space):
            raise TypeError(f"space: expected a Space, got {type(space).__name__}")
        directions = [direction] if isinstance(direction, str) else list(direction)
        for one in directions:
            if one not in ("minimize", "maximize"):
                raise ValueError(f"direction: expected 'minimize' or 'maximize', got {one!r}")
        if not directions:
            raise ValueError("direction: a list needs at least one")
        if budget is not None and budget < 1:
            raise ValueError(f"budget: must be at least 1, got {budget}")
        if resume not in (False, True, "remap"):
            raise ValueError(f"resume: expected True, False or 'remap', got {resume!r}")
        if map not in (None, "auto"):
            raise ValueError(
                f"map: expected 'auto' or None, got {map!r}; the map of a parameter goes to Param"
            )
        if resume and storage is None:
            raise ValueError("resume: there is nothing to resume without a storage")
        for argument, number in (("total", total), ("grace", grace)):
            if number is not None and (storage is None or number < 1):
                raise ValueError(f"{argument}: expected at least 1, and a storage; got {number} on {storage}")
        if total is not None and resume == "remap":
            raise ValueError("total, resume: take the old trials over in one process first")
        if total is not None and map == "auto":
            raise ValueError("total, map: processes that share a search cannot change its maps")
        self.directions = directions
        self.several = not isinstance(direction, str)
        reason = "asked for"
        if method == "auto":
            method, reason = choose(space, len(directions), budget or total, jac, noisy, convex)
        self.method, self.reason = method, reason
        self._method = method_named(method, space)
        if len(directions) > 1 and not self._method.several:
            raise ValueError(f"method: {method} takes one objective, not {len(directions)}; see nsga2")
        self._choosing = map is not None
        if self._choosing and (len(directions) > 1 or not self._method.carries):
            able = ", ".join(name for name, one in METHODS.items() if one.carries)
            why = (
                "several objectives say nothing about it" if len(directions) > 1 else f"{method} starts anew"
            )
            raise ValueError(f"map: 'auto' needs one objective and one of the methods {able}; {why}")
        if jac and not self._method.gradient:
            raise ValueError(f"jac: {method} takes no gradients")
        self.jac = bool(jac)
        if self._method.gradient and not jac:
            need("torch", "torch")
        if total is not None and not self._method.study:
            raise ValueError(f"total: processes share a study of Optuna's; {method} has none here, tpe has")
        self.budget = (total or _DEFAULT_BUDGET[self._method.gradient]) if budget is None else budget
        self._given = space
        self.choices: list[Choice] = _first_choices(space) if self._choosing else []
        self._searched(self._with_choices())
        init = dict(init or {})
        check_names("init", init, space)
        if not self._method.gradient:
            self.axes.z(init)
        self._seed, self._lr, self._options = seed, lr, dict(options or {})
        self._storage, self._init, self._name = storage, init, name
        self.total, self._grace = total, grace
        self._workers: Workers | None = None
        self.history: list[Record] = []
        self._best: tuple[float, dict[str, Any]] | None = None
        self._started = time.perf_counter()
        self._open: dict[int, Trial] = {}
        self._pending: list[dict[str, Any]] = []
        self._engine: Engine | None = None
        self._study: Any = None
        self._backend: Any = None
        self._open_study(name, resume or total is not None)
        if init and not self._method.gradient:
            self.enqueue(init)
        if self._method.study:
            self._start()  # its arguments are checked before the first trial

    def _open_study(self, name: str, resume: bool | str) -> None:
        if self._storage is None:
            if self._method.study:
                self._study = _tuner.new_study(self.directions)
                with suppress(
                    TypeError
                ):  # a map of Python callables, which only what is stored must not have
                    self._study.set_user_attr(_tuner.SPACE, self.space.to_json())
            return
        kept = (
            self.axes.boxed
            and max(self.space.size, self.space.z_size) <= LARGEST_RECORD
            and not self._method.plain
        )
        if not self._method.study and not kept:
            raise ValueError(
                f"storage: it holds up to {LARGEST_RECORD} numbers with boxes of z, which {self.method} has "
                "not here; Result.save keeps the best point, and init starts from it"
            )
        self._study, self._backend, note = _tuner.open_study(
            self._storage,
            name,
            self.space,
            self.directions,
            resume,
            self._grace,
            self._given if self._choosing else None,
        )
        self.reason += f"; {note}" if note else ""
        if self._method.study:
            self._workers = Workers(self._study, self._backend, self.total, self._grace)
        if self._choosing:
            if (rows := self._study.user_attrs.get(_tuner.CHOICES)) is not None:
                self.choices = [Choice.from_json(row) for row in rows]
            else:
                if self._study.user_attrs[_tuner.SPACE] != self.space.to_json():
                    self.choices = []  # its trials were drawn without a prior
                self._remember_choices()
            self._searched(self._with_choices())
        self._read()

    def _with_choices(self) -> Space:
        return with_maps(self._given, {choice.name: choice.map for choice in self.choices})

    def _remember_choices(self) -> None:
        for key, value in self._attributes().items():
            self._study.set_user_attr(key, value)

    def _attributes(self) -> dict[str, Any]:
        choices = [choice.to_json() for choice in self.choices]
        return {_tuner.GIVEN: self._given.to_json(), _tuner.CHOICES: choices}

    def _read(self) -> None:
        """The history as the storage has it."""
        self.history, self._best = [], None
        for record in _tuner.stored_records(self._study, self.space):
            self._add(record, record.theta)

    def _add(self, record: Record, theta: Mapping[str, Any]) -> bool:
        """Keep a record; whether it is the best so far."""
        self.history.append(record)
        if record.state != "COMPLETE" or len(self.directions) > 1:
            return False
        loss = record.loss
        sign = 1 if self.directions[0] == "minimize" else -1
        if self._best is not None and sign * loss >= sign * self._best[0]:
            return False
        self._best = loss, dict(theta)
        return True

    def _start(self) -> Engine:
        if self._engine is None:
            known = None if self._best is None else {n: self._best[1][n] for n in self.space}
            self._engine = self._method.engine(
                Setup(
                    axes=self.axes,
                    signs=tuple(1 if d == "minimize" else -1 for d in self.directions),
                    seed=self._seed,
                    lr=self._lr,
                    budget=self.budget,
                    options=self._options,
                    start=known or self._init,
                    warm=known is not None,
                    jac=self.jac,
                    study=self._study,
                )
            )
        return self._engine

    def enqueue(self, theta: Mapping[str, Any] | None = None, /, **named: Any) -> None:
        """Let the next trial evaluate a known point.

        Parameters
        ----------
        theta : mapping, optional
            Values by name, of all parameters or some: a tuner draws the others, other methods take the
            middle.
        **named
            More of them.

        Raises
        ------
        ValueError
            An unknown name, a wrong shape, or a value outside the box.
        """
        point = {**(theta or {}), **named}
        check_names("enqueue", point, self.space)
        if self._method.study:
            # Processes that share a total are started with the same arguments.
            known = self.total is not None
            self._study.enqueue_trial(_tuner.z_by_element(self.space, point), skip_if_exists=known)
        elif self._method.gradient:
            if self._engine is not None:
                raise ValueError("enqueue: a gradient method has started; give it init instead")
            self._init = {**self._init, **point}
        else:
            self.axes.z(point)
            self._pending.append(point)

    def _searched(self, space: Space) -> None:
        self.space = space
        self.axes = Axes(
            space,
            box=self._method.box,
            gradient=self._method.gradient,
            plain=self._method.plain,
            mixed=self._method.mixed,
        )

    def _choose_maps(self) -> None:
        """Ask `suggest_from`, and go on in another study where it finds other maps."""
        maps = {name: param.box_map for name, param in self.space.items() if param.shape == ()}
        answers = suggest_from(
            self.history,
            direction=self.directions[0],
            boxes={name: self.space[name].edges for name in maps},
            current=maps,
        )
        count = self._completed
        free = [name for name in maps if self._given[name].map is None and name in answers]
        self.choices += [Choice(count, name, answers[name].map, answers[name].reason) for name in free]
        if all(answers[name].map == maps[name] for name in free):
            self._remember_choices()
            return
        self._searched(self._with_choices())
        self._study = _tuner.carried(self._study, self._backend, self._name, self.space, self._attributes())
        self.close()
        self._engine = None
        if self._backend is not None:
            self._workers = Workers(self._study, self._backend, self.total, self._grace)
        self._read()

    @property
    def _completed(self) -> int:
        return sum(record.state == "COMPLETE" for record in self.history)

    @property
    def _due(self) -> bool:
        """Whether it is time to ask for maps: enough trials, and none that is open or waits."""
        if not self._choosing or self._open:
            return False
        asked = max((choice.evaluations for choice in self.choices), default=0)
        first = max(_FIRST_CHOICE, needed(sum(param.shape == () for param in self.space.values())))
        if self._completed < max(first, 2 * asked):
            return False
        return all(t.state.is_finished() for t in self._study.get_trials(deepcopy=False))

    def ask(self, *, timeout: float | None = None) -> Trial:
        """The next trial.

        Where the last evaluations of `total` run in other processes it waits for them: should one be lost
        with its process, this one does it.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait for other processes. Default: as long as they are alive.

        Raises
        ------
        Finished
            The method has converged, or cannot go on; or the total is reached.
        """
        if self._due:
            self._choose_maps()
        if self._pending:
            z = self.axes.split(self.axes.start(self._pending.pop(0)))
            point, engine = Point(self.axes.theta(z), z), False
        elif self._workers is not None:
            point, engine = self._ask_shared(self._workers, timeout), True
        else:
            point, engine = self._start().ask(), True
        number = getattr(point.handle, "number", None)
        if number is None:
            number = len(self.history) + len(self._open)
        trial = Trial(number, point, engine=engine)
        self._open[number] = trial
        return trial

    def _ask_shared(self, workers: Workers, timeout: float | None) -> Point:
        while True:
            if (over := workers.wait_for_turn(self._open, timeout)) is not None:
                raise Finished(over)
            if self.total is not None:
                self._read()
            with workers.drawing():
                point = self._start().ask()
            workers.begin(point.handle.number)
            if not workers.is_beyond(point.handle.number):
                return point
            workers.end(point.handle.number)
            workers.give_back(point.handle)

    def tell(
        self, trial: Trial, result: Any = None, *, state: State | None = None, error: str | None = None
    ) -> Record:
        """What came of a trial.

        Parameters
        ----------
        trial : Trial
            From `ask`, not yet told.
        result : number, tensor or sequence, optional
            The loss; for gradient methods a torch scalar, or with ``jac`` a pair of loss and gradients; for
            several objectives one number for each. NaN and infinite ones count as FAIL.
        state : {"COMPLETE", "PRUNED", "FAIL"}, optional
            Default: from the result.
        error : str, optional
            Why it failed.

        Returns
        -------
        Record

        Raises
        ------
        TypeError
            A result that is not as many numbers as there are objectives.
        """
        if trial._told or trial._point is None or self._open.get(trial.number) is not trial:
            raise ValueError(f"trial: {trial.number} has been told, or is not of this search")
        point = trial._point
        losses: tuple[float, ...] = (math.nan,) * len(self.directions)
        if result is not None or state in (None, "COMPLETE"):
            losses = _losses(result, len(self.directions), self.jac)
        if state is None:
            state = "PRUNED" if trial.pruned else "COMPLETE"
        if state == "COMPLETE" and not all(map(math.isfinite, losses)):
            state, error = "FAIL", error or f"the loss is {losses[0] if len(losses) == 1 else losses}"
        if trial.pruned and math.isnan(losses[0]):
            losses = (trial._reported,)
        if error is not None and trial._trial is not None:
            with suppress(need("optuna", "search").exceptions.UpdateFinishedTrialError):  # taken for lost
                trial._trial.set_user_attr(ERROR, error)
        theta = {
            name: python(value.detach() if hasattr(value, "detach") else value, self.space[name])
            if hasattr(value, "ndim")
            else value
            for name, value in point.theta.items()
        }
        if trial._trial is not None:
            own = studies.params(trial._trial)
            theta.update({name: own[name] for name in own if name not in theta})
        z = {name: python(value) for name, value in point.z.items()}
        record = Record(
            trial.number,
            {name: recorded(value) for name, value in theta.items()},
            {name: recorded(value) for name, value in z.items()},
            losses if len(losses) > 1 else losses[0],
            state,
            error,
        )
        if trial._engine:
            self._start().tell(point, Outcome(losses, state, result))
        if self._study is not None and not self._method.study:
            _tuner.add_record(self._study, self.space, record)
        self._close(trial)
        self._add(record, theta)
        return record

    def abandon(self, trial: Trial) -> None:
        """Give a trial up that will not be told: a storage keeps it as FAIL, the history does not have it."""
        if trial._trial is not None and not trial._told:
            optuna = need("optuna", "search")
            self._study.tell(trial._trial, state=optuna.trial.TrialState.FAIL, skip_if_finished=True)
        self._close(trial)

    def _close(self, trial: Trial) -> None:
        trial._told = True
        self._open.pop(trial.number, None)
        if self._workers is not None:
            self._workers.end(trial.number)

    @property
    def best(self) -> Any:
        """theta of the best complete trial, or of the Pareto front; None before there is one."""
        if len(self.directions) > 1:
            return [record.theta for record in front(self.history, self.directions)]
        return None if self._best is None else self._best[1]

    @property
    def loss(self) -> Any:
        """The loss of `best`; NaN before there is one."""
        if len(self.directions) > 1:
            return [record.loss for record in front(self.history, self.directions)]
        return math.nan if self._best is None else self._best[0]

    def result(self, reason: str | None = None) -> Result:
        """What has been found so far.

        Raises
        ------
        ValueError
            No trial has completed.
        """
        if self.total is not None:
            self._read()  # what the other processes found
        best = self.best
        if not best:
            raise ValueError(f"objective: none of {len(self.history)} evaluations gave a finite loss")
        space = self.space
        if self._method.plain:
            space = Space({name: axis.param for name, axis in self.axes.items()})
        return Result(
            best,
            self.loss,
            list(self.history),
            self.method,
            (self.reason if reason is None else reason) + self._chosen(),
            space,
            self.directions if len(self.directions) > 1 else self.directions[0],
            time.perf_counter() - self._started,
            self._method.gradient,
            tuple(self.choices),
        )

    def _chosen(self) -> str:
        """The maps that were changed, in words."""
        if not self._choosing:
            return ""
        maps = {name: param.box_map for name, param in self._given.items()}
        changes = []
        for choice in self.choices:
            if choice.map != maps[choice.name]:
                when = f"after {choice.evaluations} evaluations" if choice.evaluations else "from the start"
                changes.append(f"{choice.name} by {choice.map!r} {when}")
                maps[choice.name] = choice.map
        asked = any(choice.evaluations for choice in self.choices)
        kept = "kept" if asked else "kept, since there were too few evaluations to choose"
        return f"; maps: {', '.join(changes) or kept}"

    def close(self) -> None:
        """End what the method keeps running. `with Search(...) as search:` does it."""
        if self._engine is not None:
            self._engine.close()
        if self._workers is not None:
            self._workers.close()

    def __enter__(self) -> Search:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()


def _first_choices(space: Space) -> list[Choice]:
    """A prior until there are trials: who gives the ends of decades thinks in factors."""
    return [
        Choice(0, name, Log(), f"A prior: from {param.low:g} to {param.high:g} is a decade or more.")
        for name, param in space.items()
        if param.shape == () and param.map is None and param.box_map == Identity()
        if param.low is not None and param.high is not None and 0 < _TENFOLD * param.low <= param.high
    ]


def load(storage: str | Path, name: str = "fastmap") -> Search:
    """A stored search, to look at or to continue.

    Parameters
    ----------
    storage : str or Path
        The file or URL that the search was given.
    name : str
        Its name there.

    Returns
    -------
    Search

    Raises
    ------
    ValueError
        No such search.
    """
    space, directions = _tuner.stored_space(storage, name)
    direction: Any = directions if len(directions) > 1 else directions[0]
    return Search(space, direction=direction, method="random", storage=storage, name=name, resume=True)


def _losses(result: Any, count: int, jac: bool) -> tuple[float, ...]:
    """The numbers that an objective returned; TypeError where they are none."""
    if jac:
        if not isinstance(result, tuple) or len(result) != 2:
            raise TypeError("objective: with jac=True it returns (loss, dict of gradients)")
        result = result[0]
    if count == 1:
        return (_number(result),)
    try:
        values = tuple(_number(value) for value in result)
    except TypeError:
        values = ()
    if len(values) != count:
        raise TypeError(f"objective: expected {count} numbers, one per direction, got {_shown(result)}")
    return values


def _number(value: Any) -> float:
    if not isinstance(value, str | bytes):
        try:
            return float(value.detach() if hasattr(value, "detach") else value)
        except (TypeError, ValueError, RuntimeError):
            pass
    raise TypeError(f"objective: expected a number, got {_shown(value)}")


def _shown(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return type(value).__name__ + ("" if shape is None else f" of shape {tuple(shape)}")
