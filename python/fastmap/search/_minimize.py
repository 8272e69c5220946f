"""`minimize`: the loop over a `Search`."""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any, Literal

from fastmap._extras import need
from fastmap.search._engine import Finished
from fastmap.search._result import Direction, Record, Result
from fastmap.search._search import Search, Trial
from fastmap.space import Space

Objective = Callable[..., Any]


def minimize(
    objective: Objective,
    space: Space,
    *,
    direction: Direction | Sequence[Direction] = "minimize",
    method: str = "auto",
    budget: int | None = None,
    seed: int | None = None,
    timeout: float | None = None,
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
    enqueue: Sequence[Mapping[str, Any]] = (),
    patience: int | None = None,
    target: float | None = None,
    catch: tuple[type[Exception], ...] = (),
    callbacks: Sequence[Callable[[Record], Any]] = (),
    progress: bool = False,
) -> Result:
    """Search the mapped space for the parameters with the best objective.

    Parameters
    ----------
    objective : callable
        Takes a dict of theta by name, and a `Trial` when it takes two arguments; returns the loss, or one
        number per direction. For gradient methods theta are torch tensors and the loss is a scalar tensor
        that depends on them (see `jac` for gradients of your own).
    space : Space
        Names, boxes, maps and shapes.
    direction : {"minimize", "maximize"} or list of them
        "maximize" for a metric. A list for several objectives: then `Result` holds the Pareto front.
    method : str
        In the boxes of z: "random", "sobol", "tpe", "gp", "cmaes", "nsga2", "ga", "hyperband" and "asha" (TPE
        with pruning), "de" (differential evolution). With boxes or without: "cmaes", "sep-cmaes", "pgpe",
        "es" (for 10⁵ numbers and more). By gradients on z: "lbfgs", "adam", "adamw", "gd" and other
        optimizers of torch; "lbfgsb" is L-BFGS-B on theta itself. "mixed": integers, and scalars with a
        box and a map, by TPE, and the rest by gradients for each choice. "auto" chooses by gradients,
        dimension, budget, noise, convexity and the number of objectives; `Result.reason` says which and why.
    budget : int, optional
        Evaluations of this call; default `total`, else 100 for black-box methods, 1000 for gradients.
    seed : int, optional
        Of the method; the same seed gives the same points, bit for bit. Gradient methods draw nothing.
    timeout : float, optional
        Seconds after which no new evaluation starts.
    lr : float
        Step size of gradient methods, in z.
    init : dict, optional
        theta to start from, by name (gradient), or to evaluate first (black-box).
    options : dict, optional
        Keywords of what the method stands on: Optuna's sampler, ``torch.optim``, SciPy or cmaes.
    jac : bool, optional
        True: the objective returns (loss, gradients by name), NumPy arrays of d loss / d theta. False: it has
        no gradient, so that "auto" takes arrays for a black box.
    noisy, convex : bool, optional
        Hints for "auto": two evaluations of one point differ; the loss is convex in theta.
    map : "auto", optional
        Choose maps from the trials, for the scalar parameters without a map of their own. A positive box with
        high/low >= 10 starts with a logarithm. After 20 complete trials (or as many as `suggest_from` needs
        for so many parameters) and at every doubling, `suggest_from` is asked about them. Where another map
        predicts the losses clearly better than the one in use, the search goes on under it, with all earlier
        trials: theta stays, z is computed anew. Not while trials are open or known points wait.
        `Result.choices` says what was concluded when and why, `Result.space` has the maps. For "random",
        "sobol", "tpe", "gp", "hyperband" and "asha", with one objective and in one process; gradient methods,
        CMA-ES and the like would have to start anew, and refuse.
    storage, name, resume
        Where trials are kept, under which name, and whether to go on with those that are there: see `Search`.
    total, grace
        For several processes on one storage: how many evaluations they do together, and after how many
        seconds a trial is taken for lost with its process. See `Search`.
    enqueue : sequence of dict
        Known good points, evaluated first.
    patience : int, optional
        Stop after so many evaluations without a better loss.
    target : float, optional
        Stop at this loss.
    catch : tuple of exception types, optional
        An evaluation that raises one of these counts as FAIL; any other exception ends the search.
    callbacks : sequence of callables, optional
        Each is called with every `Record`; one that returns True ends the search.
    progress : bool
        Show a progress bar on stderr, with the best loss and its theta.

    Returns
    -------
    Result

    Raises
    ------
    ValueError
        Bad arguments; a box whose z is infinite, for box methods; a storage with another space; no evaluation
        that completed.
    TypeError
        An objective that takes no dict of theta, or returns no number.
    ImportError
        Something is not installed; the error names the command that installs it.

    Notes
    -----
    Ctrl-C ends the search and keeps what has finished.
    """
    call = _with_trial(objective)
    if patience is not None and patience < 1:
        raise ValueError(f"patience: must be at least 1, got {patience}")
    if not isinstance(direction, str) and len(direction) > 1 and (patience, target) != (None, None):
        raise ValueError("patience, target: with several objectives there is no best loss")
    search = Search(
        space,
        direction=direction,
        method=method,
        budget=budget,
        seed=seed,
        lr=lr,
        init=init,
        options=options,
        jac=jac,
        noisy=noisy,
        convex=convex,
        map=map,
        storage=storage,
        name=name,
        resume=resume,
        total=total,
        grace=grace,
    )
    for point in enqueue:
        search.enqueue(point)
    reason = search.reason
    before = len(search.history)
    start = time.perf_counter()
    trial: Trial | None = None
    without_gain = 0
    with search, _bar(search, progress) as shown:
        try:
            # A total is reached by all processes together, of which this one may have been the only one.
            for _ in count() if total is not None and budget is None else range(search.budget):
                best = search.loss
                left = None if timeout is None else timeout - (time.perf_counter() - start)
                trial = search.ask(timeout=left)
                record = _evaluate(search, trial, call, catch)
                trial = None
                shown(record)
                if any([callback(record) is True for callback in callbacks]):  # noqa: C419 (all are called)
                    reason += "; stopped by a callback"
                    break
                without_gain = without_gain + 1 if search.loss == best else 0
                if patience is not None and without_gain >= patience:
                    reason += f"; stopped after {patience} evaluations without a better loss"
                    break
                if target is not None and _reached(search, target):
                    reason += f"; stopped at the target {target:g}"
                    break
                if timeout is not None and time.perf_counter() - start > timeout:
                    reason += f"; stopped after {timeout:g} s"
                    break
        except Finished as finished:
            reason += f"; {finished}"
        except KeyboardInterrupt:
            if trial is not None:
                search.abandon(trial)
            if not search.best:
                raise
            reason += f"; interrupted after {len(search.history) - before} evaluations"
    return search.result(reason)


def _evaluate(
    search: Search,
    trial: Trial,
    call: Callable[[dict[str, Any], Trial], Any],
    catch: tuple[type[Exception], ...],
) -> Record:
    try:
        value = call(dict(trial.theta), trial)
    except _pruned():
        trial.pruned = True
        return search.tell(trial, state="PRUNED")
    except catch as error:
        return search.tell(trial, state="FAIL", error=f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        raise
    except BaseException:
        search.abandon(trial)
        raise
    try:
        return search.tell(trial, value)
    except TypeError:  # no number
        search.abandon(trial)
        raise


def _pruned() -> tuple[type[BaseException], ...]:
    optuna = sys.modules.get("optuna")
    return () if optuna is None else (optuna.TrialPruned,)


def _reached(search: Search, target: float) -> bool:
    if search.best is None:
        return False
    minimizing = search.directions[0] == "minimize"
    return bool(search.loss <= target if minimizing else search.loss >= target)


def _with_trial(objective: Objective) -> Callable[[dict[str, Any], Trial], Any]:
    """The objective as a function of two arguments; TypeError if it takes neither one nor two."""
    if not callable(objective):
        raise TypeError(f"objective: expected a function of theta, got {type(objective).__name__}")
    try:
        signature = inspect.signature(objective)
    except (TypeError, ValueError):  # a builtin
        return lambda theta, trial: objective(theta)
    takes = [
        p
        for p in signature.parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty
    ]
    if len(takes) == 2:
        return objective
    try:
        signature.bind({})
    except TypeError as error:
        raise TypeError(f"objective: it must take theta, or theta and a trial: {error}") from None
    return lambda theta, trial: objective(theta)


@contextmanager
def _bar(search: Search, progress: bool) -> Iterator[Callable[[Record], None]]:
    if not progress:
        yield lambda record: None
        return
    tqdm = need("tqdm", "search").tqdm
    with tqdm(total=search.budget, file=sys.stderr, unit="eval") as bar:

        def shown(record: Record) -> None:
            if len(search.directions) > 1:
                bar.set_postfix(front=len(search.best), refresh=False)
            elif search.best is not None:
                theta = {n: f"{v:.4g}" for n, v in search.best.items() if isinstance(v, int | float)}
                bar.set_postfix(best=f"{search.loss:.4g}", **dict(list(theta.items())[:4]), refresh=False)
            # With a total the bar is that of all processes.
            bar.update(1 if search.total is None else min(len(search.history), search.total) - bar.n)

        yield shown
