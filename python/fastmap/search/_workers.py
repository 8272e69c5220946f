"""Processes that share the storage of a search: one total for all, and again what a killed one had begun.

Optuna's databases keep the last sign of life of every running trial, its heartbeat. A journal knows only when
a trial began. Both know in which order trials began, which is what makes the total exact.
"""

from __future__ import annotations

import datetime
import threading
import time
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from fastmap._extras import need

ERROR = "fastmap:error"  # the user attribute of a trial that says why it failed
_BEYOND = "beyond the total: other processes had begun the last evaluations"
_RETRIES = 3  # then a point that takes its process down is given up
_POLL = 0.5  # seconds


class Workers:
    """What this process does for and knows of the others.

    Parameters
    ----------
    study : optuna.study.Study
        Of a storage.
    backend : optuna.storages.BaseStorage
        That storage.
    total : int, optional
        How many evaluations all processes do together.
    grace : int, optional
        Seconds, for storages without heartbeat.
    """

    def __init__(self, study: Any, backend: Any, total: int | None, grace: int | None) -> None:
        self.study, self.backend, self.total, self.grace = study, backend, total, grace
        self._id = backend.get_study_id_from_name(study.study_name)
        self.interval: int | None = getattr(backend, "get_heartbeat_interval", lambda: None)()
        self._pulse = None if self.interval is None else _Pulse(backend, self.interval)
        self._seen: set[int] = set()

    def _trial_id(self, number: int) -> int:
        return int(self.backend.get_trial_id_from_study_id_trial_number(self._id, number))

    def begin(self, number: int) -> None:
        """Give signs of life for a trial."""
        if self._pulse is not None:
            self._pulse.add(self._trial_id(number))

    def end(self, number: int) -> None:
        """Give no more of them."""
        if self._pulse is not None:
            self._pulse.remove(self._trial_id(number))

    def close(self) -> None:
        """End the thread."""
        if self._pulse is not None:
            self._pulse.close()

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Around the ask of a study whose signs of life come from here and not from ``Study.optimize``."""
        if self._pulse is None:
            yield
            return
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Heartbeat of storage", UserWarning)
            yield

    def _recover(self, mine: Collection[int]) -> None:
        """Fail the trials of lost processes and queue their points again."""
        optuna = need("optuna", "search")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            if self.interval is not None:
                optuna.storages.fail_stale_trials(self.study)
            elif self.grace is not None:
                limit = datetime.datetime.now() - datetime.timedelta(seconds=self.grace)
                self._fail_old(optuna, limit, mine)

    def _fail_old(self, optuna: Any, limit: datetime.datetime, mine: Collection[int]) -> None:
        running = (optuna.trial.TrialState.RUNNING,)
        for trial in self.study.get_trials(states=running):  # copies, since Optuna's callback changes them
            if trial.datetime_start < limit and trial.number not in mine:
                # Of several processes that try, the storage lets one: only that one queues the point again.
                with suppress(optuna.exceptions.UpdateFinishedTrialError):
                    failed = optuna.trial.TrialState.FAIL
                    self.backend.set_trial_state_values(self._trial_id(trial.number), state=failed)
                    retry(optuna)(self.study, trial)

    def wait_for_turn(self, mine: Collection[int], timeout: float | None) -> str | None:
        """Return when an evaluation is left to do; or, when none is, why the search is over.

        While the last ones run elsewhere it waits: should their process be killed, they are left to do again.

        Parameters
        ----------
        mine : collection of int
            The trials that this process has begun.
        timeout : float, optional
            Seconds to wait for other processes.
        """
        start, looked_twice = time.monotonic(), False
        while True:
            self._recover(mine)
            if self.total is None:
                return None
            trials = self.study.get_trials(deepcopy=False)
            if len(_begun(trials)) < self.total:
                return None
            others = [t.number for t in trials if t.state.name == "RUNNING" and t.number not in mine]
            if not others:
                if looked_twice or all(t.state.name != "FAIL" for t in trials):
                    return f"the total of {self.total} evaluations"
                looked_twice = True  # another process may be about to queue the point of a trial it failed
                time.sleep(4 * _POLL)
                continue
            waited = timeout is not None and time.monotonic() - start >= timeout
            if waited or (self.interval is None and self.grace is None):
                return f"the total of {self.total} evaluations; still running elsewhere: {len(others)}"
            if self.interval is not None:
                for number in set(others) - self._seen:
                    # A process that was killed before its first sign of life would never be missed.
                    self.backend.record_heartbeat(self._trial_id(number))
                self._seen.update(others)
            time.sleep(_POLL)

    def is_beyond(self, number: int) -> bool:
        """Whether a trial that has just begun is one too many, since others began at the same time."""
        if self.total is None:
            return False
        return len([n for n in _begun(self.study.get_trials(deepcopy=False)) if n < number]) >= self.total

    def give_back(self, trial: Any) -> None:
        """End a trial that is one too many."""
        trial.set_user_attr(ERROR, _BEYOND)
        self.study.tell(trial, state=need("optuna", "search").trial.TrialState.FAIL)


def retry(optuna: Any) -> Any:
    """What queues a lost point again, as Optuna does it: the same z, under a new number."""
    return optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=_RETRIES)


def retried(trials: Sequence[Any]) -> dict[int, int]:
    """Trials that were lost, and under which number their points were queued again."""
    # Optuna's callback writes this attribute: all former numbers of a point. The first trial with one wins.
    return {old: t.number for t in reversed(trials) for old in t.system_attrs.get("retry_history", ())}


def counts(trial: Any) -> bool:
    """Whether a trial has to do with the search: it is not one that was given back."""
    return bool(trial.user_attrs.get(ERROR) != _BEYOND)


def _begun(trials: Sequence[Any]) -> list[int]:
    """The numbers of the evaluations that are done or on their way."""
    lost = retried(trials)
    return [t.number for t in trials if t.state.name != "WAITING" and t.number not in lost and counts(t)]


class _Pulse:
    """A thread that gives signs of life for some trials."""

    def __init__(self, backend: Any, interval: int) -> None:
        self._backend, self._interval = backend, interval
        self._trials: set[int] = set()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, trial: int) -> None:
        self._backend.record_heartbeat(trial)
        with self._lock:
            self._trials.add(trial)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, daemon=True, name="fastmap heartbeat")
            self._thread.start()

    def remove(self, trial: int) -> None:
        with self._lock:
            self._trials.discard(trial)

    def _work(self) -> None:
        while not self._over.wait(self._interval):
            with self._lock:
                trials = list(self._trials)
            for trial in trials:
                with suppress(Exception):  # a database that is away for a moment is no reason to end
                    self._backend.record_heartbeat(trial)
            self._backend.remove_session()

    def close(self) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()
