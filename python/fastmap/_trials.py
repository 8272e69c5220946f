"""`suggest_from`: which map suits each parameter, from earlier trials."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from fastmap._candidates import Candidate, Floats, ranked
from fastmap._functional import forward_and_log_det
from fastmap._map import Map
from fastmap._suggest import FEWEST, TIE, Suggestion, chosen, identity, plainest, too_poor
from fastmap.maps import Identity, YeoJohnson
from fastmap.optuna import params

Direction = Literal["minimize", "maximize"]

_PER_COEFFICIENT = 3  # trials that each coefficient of the model needs
_LOO_GAIN = 6.0  # n log of the ratio of errors, from which a map is better than identity
_LEAST_R2 = 0.1  # of a model that says something about the loss
_SWEEPS = 2  # over the parameters of trials, each with the others' maps fixed
# Yeo-Johnson's lambda for the loss (as it is, log1p, reciprocal), and the quantile that is its unit.
_WARPS = ((1.0, 0.5), (0.0, 0.5), (0.0, 0.1), (-1.0, 0.5))


def suggest_from(
    trials: Any,
    *,
    direction: Direction = "minimize",
    boxes: Mapping[str, tuple[float, float]] | None = None,
) -> dict[str, Suggestion]:
    """Which map suits each parameter, from earlier trials.

    Parameters
    ----------
    trials : pair, Optuna study, Result or sequence of Record
        ``(theta, loss)``, where loss has shape (n,) and theta is an array of shape (n,) (called "theta"), one
        of shape (n, d) (columns "0", "1", ...), or a dict of arrays of shape (n,); or an Optuna study of one
        objective, of which complete trials and numeric parameters count; or the result of `minimize`.
    direction : {"minimize", "maximize"}
        Of the loss; a study brings its own.
    boxes : mapping, optional
        The search box (low, high) by name, on which maps must be finite. Default: a study's, else the range
        of theta.

    Returns
    -------
    dict
        A `Suggestion` by name. Trials whose loss is not finite are left out.

    Raises
    ------
    TypeError, ValueError
        trials of another form, of different lengths, or with several objectives.

    Notes
    -----
    The loss is modelled as a quadratic in each z, added over the parameters. Scores are R² by leave-one-out
    residuals (PRESS; Allen, 1974), which ask whether the model predicts a trial that it has not seen, for
    every map of the catalog with the others' maps fixed, in two sweeps. The loss is taken as it is, through
    log1p or as a reciprocal, by the likelihood of the model with its Jacobian (Box and Cox, 1964): a loss
    that explodes at one end is no scale of theta. Hence R² is 1 - exp(-2/n gain of log-likelihood over the
    mean). A map is suggested where n log of the ratio of squared errors to identity is 6 or more and where
    the model explains over 10 % of the loss; within 2 of the best, the one with fewer fitted parameters and
    earlier in the catalog.

    Maps that the trials cannot tell apart count as one: look at `margin`. A quadratic in z is a model of one
    basin; many basins give identity or a map that helps little.
    """
    if direction not in ("minimize", "maximize"):
        raise ValueError(f"direction: {direction!r} is neither minimize nor maximize")
    theta, loss, found_boxes, direction = _read(trials, direction)
    boxes = {**found_boxes, **(boxes or {})}
    kept = np.isfinite(loss)
    lost = int((~kept).sum())
    loss = loss[kept] if direction == "minimize" else -loss[kept]
    theta = {name: values[kept] for name, values in theta.items()}
    note = f" ({lost} without a finite loss)" if lost else ""
    if loss.size < FEWEST:
        why = f"{loss.size} complete trials{note} are too few: {FEWEST} are needed"
    elif np.ptp(loss) == 0:
        why = "all losses are the same"
    else:
        return _from_trials(theta, loss, boxes)
    return {name: identity(why) for name in theta}


def _from_trials(
    theta: dict[str, Floats], loss: Floats, boxes: Mapping[str, tuple[float, float]]
) -> dict[str, Suggestion]:
    result: dict[str, Suggestion] = {}
    usable: dict[str, Floats] = {}
    for name, x in theta.items():
        if not np.isfinite(x).all():
            result[name] = identity(f"{np.isfinite(x).sum()} of {loss.size} trials have it")
        elif why := too_poor(x, "values"):
            result[name] = identity(why)
        else:
            usable[name] = x
    needed = _PER_COEFFICIENT * (1 + 2 * len(usable))
    if loss.size < needed:
        why = f"{loss.size} trials are too few for {len(usable)} parameters: {needed} are needed"
        return {name: result.get(name) or identity(why) for name in theta}
    answers = _sweep(usable, _Losses(loss), boxes)
    return {name: result.get(name) or answers[name] for name in theta}


class _Losses:
    """The losses as they are, through log1p and as reciprocals, to be predicted by linear models."""

    def __init__(self, loss: Floats) -> None:
        above = loss - loss.min()
        units = [float(np.quantile(above, q)) or float(above.max()) for _, q in _WARPS]
        powers = np.array([power for power, _ in _WARPS])
        warps = [
            forward_and_log_det(above / unit, YeoJohnson(power))
            for unit, power in zip(units, powers, strict=True)
        ]
        y = np.stack([y for y, _ in warps], axis=1)
        spread = y.std(axis=0)
        self.y = (y - y.mean(axis=0)) / spread
        n = loss.size
        # Densities of the losses themselves, so that the warps compare; one parameter for a warp.
        slopes = np.array([float(log_det) for _, log_det in warps]) - n * np.log(spread * units)
        self.offset = np.exp((2 * (powers != 1) - 2 * slopes) / n)
        self.null = self.error(np.ones((1, n, 1)))[0]

    def error(self, design: Floats) -> Floats:
        """Mean squared leave-one-out residuals, for designs of shape (k, n, p), by the best warp of each."""
        q, _ = np.linalg.qr(design)
        residual = self.y - q @ (q.transpose(0, 2, 1) @ self.y)
        leverage = np.square(q).sum(axis=2, keepdims=True)
        errors = np.square(residual / np.maximum(1 - leverage, 1e-6)).mean(axis=1)
        return np.asarray((errors * self.offset).min(axis=1))


def _sweep(
    theta: dict[str, Floats], losses: _Losses, boxes: Mapping[str, tuple[float, float]]
) -> dict[str, Suggestion]:
    columns = {name: _columns(x[None])[0] for name, x in theta.items()}
    answers: dict[str, Suggestion] = {}
    for _ in range(min(_SWEEPS, len(theta))):
        for name, x in theta.items():
            others = [np.ones((x.size, 1)), *(c for other, c in columns.items() if other != name)]
            rest = np.concatenate(others, axis=1)

            def score(m: Map, z: Floats, rest: Floats = rest) -> Floats:
                design = [np.broadcast_to(rest, (len(z), *rest.shape)), _columns(z)]
                return np.asarray(1 - losses.error(np.concatenate(design, axis=2)) / losses.null)

            found = ranked(x, score, box=boxes.get(name, ()))
            answers[name] = _judged([c for c, _ in found], x.size)
            columns[name] = _columns(next(z for c, z in found if c.map == answers[name].map)[None])[0]
    return answers


def _columns(z: Floats) -> Floats:
    """z and z², z standardised by row: from shape (k, n) to (k, n, 2)."""
    z = z / np.ptp(z, axis=1)[:, None]  # squares stay finite
    z = (z - z.mean(axis=1, keepdims=True)) / z.std(axis=1, keepdims=True)
    return np.stack([z, z * z], axis=2)


def _judged(table: list[Candidate], n: int) -> Suggestion:
    def behind(c: Candidate) -> float:
        """n log of the ratio of squared errors to the best."""
        return n * math.log(max(1 - c.score, 1e-12) / max(1 - table[0].score, 1e-12))

    same = next(c for c in table if c.map == Identity())
    criterion = "score: R² of a quadratic in z, leave-one-out"
    if table[0].score < _LEAST_R2:
        why = f"no map explains the loss by this parameter: R² at most {table[0].score:.2g}"
        return chosen(table, same, criterion, f"Identity, because {why}.")
    if behind(same) < _LOO_GAIN:
        why = (
            f"no map predicts the {n} losses clearly better: R² {table[0].score:.3g}, {same.score:.3g} as is"
        )
        return chosen(table, same, criterion, f"Identity, because {why}.")
    best = plainest([c for c in table if behind(c) < TIE])
    reason = (
        f"Of {n} losses, a quadratic in z predicts most under {best.map!r}: R² {best.score:.3g} "
        f"against {same.score:.3g} for identity."
    )
    return chosen(table, best, criterion, reason)


def _read(
    trials: Any, direction: Direction
) -> tuple[dict[str, Floats], Floats, dict[str, tuple[float, float]], Direction]:
    """Columns of theta (NaN where a trial lacks it), losses, boxes and direction of any form of trials."""
    if hasattr(trials, "directions") and hasattr(trials, "trials"):
        if len(trials.directions) != 1:
            raise ValueError("trials: the study has several objectives; one is needed")
        complete = [t for t in trials.trials if t.state.name == "COMPLETE"]
        rows = [(params(t), float(t.value)) for t in complete]
        boxes = {
            name: (float(d.low), float(d.high))
            for t in trials.trials
            for name, d in t.distributions.items()
            if hasattr(d, "low")
        }
        return (*_table(rows), boxes, trials.direction.name.lower())
    history = getattr(trials, "history", trials)
    if isinstance(history, Sequence) and all(hasattr(r, "theta") and hasattr(r, "loss") for r in history):
        direction = getattr(trials, "direction", direction)
        rows = [(r.theta, float(r.loss)) for r in history if r.state == "COMPLETE"]
        return (*_table(rows), {}, direction)
    try:
        given, losses = trials
    except (TypeError, ValueError):
        raise TypeError("trials: expected (theta, loss), an Optuna study or a Result") from None
    loss = _numbers(losses, "loss")
    if isinstance(given, Mapping):
        theta = {str(name): _numbers(x, f"theta[{name!r}]") for name, x in given.items()}
    else:
        array = _numbers(given, "theta")
        theta = {str(i): x for i, x in enumerate(array.T)} if array.ndim == 2 else {"theta": array}
    for name, x in theta.items():
        if loss.ndim != 1 or x.shape != loss.shape:
            raise ValueError(f"trials: {name} has shape {x.shape}, loss {loss.shape}; expected (n,) both")
    return theta, loss, {}, direction


def _numbers(values: Any, name: str) -> Floats:
    try:
        array = np.asarray(values)
        if array.size and array.dtype.kind not in "iuf":
            raise TypeError
        return array.astype(np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"trials: {name} must be an array of real numbers") from None


def _table(rows: Sequence[tuple[Mapping[str, Any], float]]) -> tuple[dict[str, Floats], Floats]:
    """One column per numeric scalar."""
    names = dict.fromkeys(name for values, _ in rows for name in values)
    columns = {name: [values.get(name, math.nan) for values, _ in rows] for name in names}
    numeric = {
        name: np.array(column, np.float64)
        for name, column in columns.items()
        if all(np.ndim(v) == 0 and isinstance(v, int | float | np.number) for v in column)
        and not any(isinstance(v, bool) for v in column)
    }
    return numeric, np.array([loss for _, loss in rows], np.float64)
