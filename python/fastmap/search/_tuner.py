"""Optuna: samplers and pruners on z, and studies as storage."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fastmap import optuna as studies
from fastmap._extras import need
from fastmap.search._axes import plain
from fastmap.search._engine import Outcome, Point, Setup
from fastmap.search._pickles import check_state
from fastmap.search._result import Record, arrays
from fastmap.search._workers import ERROR, counts, retried, retry
from fastmap.space import Space

SPACE = "fastmap:space"  # study attributes: the JSON of what was searched,
GIVEN = "fastmap:given"  # of the space that was asked for, where map="auto" has chosen others of its maps,
CHOICES = "fastmap:choices"  # and of what it concluded
_SUCCESSOR = "fastmap:successor"  # study attribute: the study that took the trials over
_GRACE = 120  # seconds without heartbeat until a trial in a database is taken for lost


class Tuner:
    """A sampler of Optuna, which asks a study.

    Parameters
    ----------
    setup : Setup
        With a study.
    sampler : str
        The class in ``optuna.samplers``; it takes the options.
    pruner : str, optional
        The class in ``optuna.pruners``; without one, the study's.
    seeded : bool
        Whether a sequence goes on under one seed (quasi-random ones do). Else a study that has trials
        already gets another seed, or it would draw the same points again.
    **fixed
        More options of the sampler.
    """

    def __init__(
        self, setup: Setup, sampler: str, pruner: str | None = None, seeded: bool = False, **fixed: Any
    ) -> None:
        optuna = need("optuna", "search")
        self.axes, self.study = setup.axes, setup.study
        self.boxes = studies.distributions(self.axes.space)
        self.names = {name: studies.element_names(name, axis.param) for name, axis in self.axes.items()}
        trials = self.study.get_trials(deepcopy=False)
        if sampler == "CmaEsSampler":
            check_state(trials)
        done = sum(t.state.is_finished() for t in trials)
        seed = setup.seed
        if seed is not None and done and not seeded:
            seed = int(np.random.SeedSequence([seed, done]).generate_state(1)[0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self.study.sampler = getattr(optuna.samplers, sampler)(seed=seed, **{**fixed, **setup.options})
        if pruner is not None:
            self.study.pruner = getattr(optuna.pruners, pruner)()

    def ask(self) -> Point:
        trial = self.study.ask(self.boxes)
        params = trial.params
        z = {
            name: np.array([params[element] for element in names]).reshape(self.axes[name].param.z_shape)
            for name, names in self.names.items()
        }
        theta = self.axes.theta(z)
        trial.set_user_attr(studies.THETA, _json(theta))
        return Point(theta, z, trial)

    def tell(self, point: Point, outcome: Outcome) -> None:
        done: dict[str, Any] = {"values": list(outcome.losses)}
        if outcome.state != "COMPLETE":
            done = {"state": need("optuna", "search").trial.TrialState[outcome.state]}
        # A trial may be over already: another process took this one for lost.
        self.study.tell(point.handle, skip_if_finished=True, **done)

    def close(self) -> None:
        return None


def new_study(directions: Sequence[str]) -> Any:
    """A study in memory."""
    optuna = need("optuna", "search")
    with quiet(optuna):
        return optuna.create_study(directions=list(directions))


def open_study(
    storage: Any,
    name: str,
    space: Space,
    directions: Sequence[str],
    resume: bool | str,
    grace: int | None = None,
    given: Space | None = None,
) -> tuple[Any, Any, str]:
    """The study of that name, made where there is none; its storage; a note on trials that were taken over.

    Parameters
    ----------
    storage : str, Path or optuna.storages.BaseStorage
        A file (Optuna's journal) or the URL of a database.
    name : str
        Of the study.
    space : Space
        What will be searched.
    directions : sequence of str
        One per objective.
    resume : bool or "remap"
        Whether trials that are there go on; "remap" also takes over those of another space: theta stays,
        z is computed anew, and the study with the new trials succeeds the old one, which is left as it was.
    grace : int, optional
        Seconds without heartbeat until a trial in a database is taken for lost.
    given : Space, optional
        What was asked for, where ``map="auto"`` chooses: the maps that it has chosen for this very space, or
        none, are not another space.

    Raises
    ------
    ValueError
        Trials that are there and not asked for, other directions, another space.
    """
    optuna = need("optuna", "search")
    with quiet(optuna):
        backend = _backend(optuna, storage, grace)
        known = set(optuna.get_all_study_names(backend))
        if name not in known:
            return _created(optuna, backend, name, space, directions, bool(resume)), backend, ""
        study = _latest(optuna, backend, name)
        trials = study.get_trials(deepcopy=False)
        if trials and not resume:
            raise ValueError(
                f"storage: {name!r} already has {len(trials)} trials; resume to continue it, "
                "or give the search another name"
            )
        if [d.name.lower() for d in study.directions] != list(directions):
            raise ValueError(f"direction: {name!r} in this storage was searched in another one")
        stored = study.user_attrs.get(SPACE)
        asked = space if given is None else given
        if space.to_json() == stored or asked.to_json() in (stored, given and study.user_attrs.get(GIVEN)):
            return study, backend, ""
        if stored is None and not trials:
            study.set_user_attr(SPACE, space.to_json())
            return study, backend, ""
        if resume != "remap":
            raise ValueError(
                f"storage: {name!r} holds {_difference(stored, space)}; resume='remap' takes its trials over"
            )
        new = carried(study, backend, name, space)
        taken = len(new.get_trials(deepcopy=False))
        return new, backend, f"took over {taken} of {len(trials)} trials as {new.study_name!r}"


def carried(
    study: Any, backend: Any, name: str, space: Space, attributes: Mapping[str, Any] | None = None
) -> Any:
    """A study that goes on with the finished trials of another one, under another space.

    Parameters
    ----------
    study : optuna.study.Study
        Left as it was.
    backend, name
        Optuna's storage and a name as in `open_study`: there the new study succeeds the old one. Without a
        storage it is in memory.
    space : Space
        theta of the trials stays, z is computed anew; those outside the boxes are left out.
    attributes : mapping, optional
        More user attributes of the new study.
    """
    optuna = need("optuna", "search")
    directions = [d.name.lower() for d in study.directions]
    with quiet(optuna):
        if backend is None:
            new = new_study(directions)
            new.set_user_attr(SPACE, space.to_json())
        else:
            known = set(optuna.get_all_study_names(backend))
            number = next(i for i in range(2, len(known) + 3) if f"{name}/{i}" not in known)
            new = _created(optuna, backend, f"{name}/{number}", space, directions)
        for key, value in (attributes or {}).items():
            new.set_user_attr(key, value)
        new.add_trials(list(_remapped(optuna, study.get_trials(deepcopy=False), space)))
        if backend is not None:
            study.set_user_attr(_SUCCESSOR, new.study_name)
    return new


def _latest(optuna: Any, backend: Any, name: str) -> Any:
    """The study of that name, or what succeeds it."""
    study = optuna.load_study(study_name=name, storage=backend)
    seen = [name]
    while (successor := study.user_attrs.get(_SUCCESSOR)) is not None:
        if successor in seen or successor not in optuna.get_all_study_names(backend):
            raise ValueError(
                f"storage: {study.study_name!r} is succeeded by {successor!r}, which leads nowhere"
            )
        seen.append(successor)
        study = optuna.load_study(study_name=successor, storage=backend)
    return study


def _created(
    optuna: Any, backend: Any, name: str, space: Space, directions: Sequence[str], join: bool = False
) -> Any:
    # `join`: another process may just have made it.
    study = optuna.create_study(
        storage=backend, study_name=name, directions=list(directions), load_if_exists=join
    )
    study.set_user_attr(SPACE, space.to_json())
    return study


def stored_space(storage: Any, name: str) -> tuple[Space, list[str]]:
    """The space and the directions of a stored search.

    Raises
    ------
    ValueError
        No such search.
    """
    optuna = need("optuna", "search")
    if isinstance(storage, str | Path) and "://" not in str(storage) and not Path(storage).is_file():
        raise ValueError(f"storage: no file {storage}")
    with quiet(optuna):
        backend = _backend(optuna, storage)
        known = optuna.get_all_study_names(backend)
        if name not in known:
            raise ValueError(f"name: no search {name!r} in this storage; it has {', '.join(known) or 'none'}")
        study = _latest(optuna, backend, name)
    if SPACE not in study.user_attrs or not study.directions:
        raise ValueError(f"name: {name!r} was not made by fastmap")
    return Space.from_json(study.user_attrs[SPACE]), [d.name.lower() for d in study.directions]


def _backend(optuna: Any, storage: Any, grace: int | None = None) -> Any:
    if not isinstance(storage, str | Path):
        if not isinstance(storage, optuna.storages.BaseStorage):
            raise TypeError(f"storage: expected a path, a URL or a storage of Optuna, got {storage!r}")
        return storage
    if "://" in str(storage):
        return _database(optuna, str(storage), _GRACE if grace is None else grace)
    journal = optuna.storages.journal
    try:
        if Path(
            storage
        ).exists():  # a last line that is no JSON may be one that was cut off: Optuna allows it
            with Path(storage).open("rb") as file:
                json.loads(file.readline() or "{}")
        backend = optuna.storages.JournalStorage(journal.JournalFileBackend(str(storage)))
        backend.get_all_studies()  # reads the file
    except (ValueError, KeyError, TypeError, AssertionError) as error:  # no JSON, or other JSON
        raise ValueError(f"storage: {storage} is no journal of Optuna: {error!r}") from error
    return backend


def _database(optuna: Any, url: str, grace: int) -> Any:
    """A database with heartbeat."""
    sqlalchemy = need("sqlalchemy", "search")
    try:
        place = sqlalchemy.make_url(url)
        place.get_dialect()
    except sqlalchemy.exc.ArgumentError as error:
        raise ValueError(f"storage: {error}") from None
    # No pool: a process that evaluates for minutes holds no connection meanwhile, and leaves none open.
    engine: dict[str, Any] = {"poolclass": sqlalchemy.pool.NullPool}
    options: dict[str, Any] = {"heartbeat_interval": max(1, grace // 2), "grace_period": grace}
    if place.drivername in ("postgresql", "postgresql+psycopg"):
        url = place.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
        need("psycopg", "postgresql")
    elif place.get_backend_name() == "sqlite":
        engine["connect_args"] = {"timeout": 60}  # seconds to wait for other writers
        if place.database in (None, "", ":memory:"):
            return optuna.storages.RDBStorage(url)  # it lives in one thread: nobody shares it
    options["engine_kwargs"] = engine
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        options["heartbeat_stale_trial_callback"] = retry(optuna)
        backend = _opened(optuna, sqlalchemy, place, lambda: optuna.storages.RDBStorage(url, **options))
    if place.get_backend_name() == "sqlite":
        # SQLite has no rows to lock: two processes that read before they write would both take one waiting
        # trial, or both queue a lost one again. SQLAlchemy's recipe: hold the lock from the first read on.
        sqlalchemy.event.listen(backend.engine, "connect", _begin_by_hand)
        sqlalchemy.event.listen(backend.engine, "begin", _begin)
    return backend


def _opened(optuna: Any, sqlalchemy: Any, place: Any, connect: Callable[[], Any]) -> Any:
    """A database, at the second try where processes that start together make the same tables."""
    waits = iter((0.1, 0.3, 1.0))
    while True:
        try:
            return connect()
        except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            if (wait := next(waits, None)) is None:
                raise ValueError(f"storage: {place} cannot be opened: {error.args[0]}") from error
            time.sleep(wait)


def _begin_by_hand(connection: Any, record: Any) -> None:
    connection.isolation_level = None


def _begin(connection: Any) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _difference(stored: Any, space: Space) -> str:
    """In which parameter a stored space differs, in words."""
    if stored is None:
        return "trials that fastmap did not make"
    theirs, ours = stored.get("params", {}), space.to_json()["params"]
    for name in dict.fromkeys([*theirs, *ours]):
        if name not in theirs or name not in ours:
            return f"another space: only one of them has {name!r}"
        for key, value in ours[name].items():
            if theirs[name].get(key) != value:
                return f"another space: {key} of {name!r} is {theirs[name].get(key)} there and {value} here"
    return "another space: the order of the parameters differs"


def _remapped(optuna: Any, trials: Sequence[Any], space: Space) -> Iterator[Any]:
    """The finished trials with z under the space; those that lack a parameter or lie outside are left out."""
    boxes = studies.distributions(space)
    for trial in trials:
        theta = studies.params(trial)
        if not trial.state.is_finished() or any(name not in theta for name in space):
            continue
        try:
            z = z_by_element(space, {name: theta[name] for name in space})
        except ValueError:
            continue
        other = [
            name for name in trial.params if name in theta and name not in space and not name.startswith("z:")
        ]
        yield optuna.trial.create_trial(
            state=trial.state,
            values=trial.values if trial.state.name == "COMPLETE" else None,
            params={**z, **{name: trial.params[name] for name in other}},
            distributions={**boxes, **{name: trial.distributions[name] for name in other}},
            user_attrs={**trial.user_attrs, studies.THETA: _json({name: theta[name] for name in space})},
            intermediate_values=trial.intermediate_values,
        )


def z_by_element(space: Space, theta: dict[str, Any]) -> dict[str, float]:
    """z of a point under the names of the tuner; ValueError outside the box."""
    result: dict[str, float] = {}
    for name, value in theta.items():
        z = studies.to_z(name, space[name], value)
        result.update(zip(studies.element_names(name, space[name]), map(float, np.ravel(z)), strict=True))
    return result


def add_record(study: Any, space: Space, record: Record) -> None:
    """Keep an evaluation of a method that is not Optuna's."""
    optuna = need("optuna", "search")
    boxes = studies.distributions(space)
    names = [n for name, param in space.items() for n in studies.element_names(name, param)]
    z = np.concatenate([np.ravel(record.z[name]) for name in space])
    attributes = {studies.THETA: _json(record.theta)}
    if record.error is not None:
        attributes[ERROR] = record.error
    study.add_trial(
        optuna.trial.create_trial(
            state=optuna.trial.TrialState[record.state],
            value=record.loss if record.state == "COMPLETE" else None,
            params=dict(zip(names, map(float, z), strict=True)),
            distributions=boxes,
            user_attrs=attributes,
        )
    )


def stored_records(study: Any, space: Space) -> list[Record]:
    """The finished trials of a study as records.

    Raises
    ------
    ValueError
        A trial without the numbers of the space, as in a damaged storage.
    """
    try:
        return list(_records(study, space))
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
        raise ValueError(f"storage: its trials are damaged: {error!r}") from error


def _records(study: Any, space: Space) -> Iterator[Record]:
    trials = study.get_trials(deepcopy=False)
    lost = retried(trials)
    for trial in trials:
        drawn = studies.THETA in trial.user_attrs  # else its process was killed before
        if not trial.state.is_finished() or not drawn or not counts(trial):
            continue
        theta = arrays(studies.params(trial))
        if missing := sorted(space.keys() - theta.keys()):
            raise KeyError(missing[0])
        z = studies.gather(space, trial.params)
        loss: Any = float("nan")
        if trial.values is not None and trial.state.name == "COMPLETE":
            loss = trial.values[0] if len(trial.values) == 1 else tuple(trial.values)
        elif trial.state.name == "PRUNED" and trial.intermediate_values:
            loss = trial.intermediate_values[trial.last_step]  # what was reported last
        error = trial.user_attrs.get(ERROR)
        if trial.number in lost:
            error = f"lost with its process; queued again as {lost[trial.number]}"
        yield Record(trial.number, theta, z, loss, trial.state.name, error)


def _json(theta: dict[str, Any]) -> Any:
    return json.loads(json.dumps(theta, default=plain))


@contextmanager
def quiet(optuna: Any) -> Iterator[None]:
    """Optuna without its messages."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)
