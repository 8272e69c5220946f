"""`suggest_from`: which map suits each parameter, from earlier trials."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from fastmap._candidates import Candidate, Floats, ranked
from fastmap._functional import forward, forward_and_log_det
from fastmap._map import Map, MapLike, resolve
from fastmap._suggest import FEWEST, Suggestion, called, chosen, identity, plainest, too_poor
from fastmap.maps import Identity, Log, YeoJohnson
from fastmap.optuna import params

Direction = Literal["minimize", "maximize"]
Boxes: TypeAlias = Mapping[str, tuple[float, float]]

_PER_COEFFICIENT = 3  # trials that each coefficient of the model needs
_LOO_GAIN = 8.0  # n log of the ratio of errors, from which a map is better than identity
_LOO_LEAVE = 20.0  # and than a map in use: that led the search to its trials, and a change has a price
_LOO_TIE = 6.0  # and within which maps count as equal
_EMPTY = 0.6  # of the box of z that may lie between two neighbouring trials, or between one and an end
_LEAST_R2 = 0.1  # of a model that says something about the loss
_SWEEPS = 2  # over the parameters of trials, each with the others' maps fixed
# Yeo-Johnson's lambda for the loss (as it is, log1p, reciprocal), and the quantile that is its unit.
_WARPS = ((1.0, 0.5), (0.0, 0.5), (0.0, 0.1), (-1.0, 0.5))
_LEAST_SPARE = 1e-6  # one less the leverage
_CENTERS, _NARROWEST = 13, 0.06  # of bowls that are tried, in units of the range of z
_REFINED = 3  # maps of a kind, for which more of them are tried


def suggest_from(
    trials: Any,
    *,
    direction: Direction = "minimize",
    boxes: Mapping[str, tuple[float, float]] | None = None,
    current: Mapping[str, MapLike] | None = None,
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
        The search box (low, high) by name, on which maps must be finite. Default: that of a study or a
        Result, else the range of theta.
    current : mapping, optional
        The maps in use, by name, which only a clearly better one replaces. Default: those of a study (its
        ``log=True``) or a Result, else identity.

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
    The loss is modelled as a bowl in one z at a time, a parabola of each other one added. Bowls are a
    parabola, a V, exp(-d²) and 1/(1 + d²), so that neither a kink nor a plateau of the loss looks like a
    scale of theta; and the loss is taken as it is, through logarithms or as a reciprocal, by the likelihood
    of the model with its Jacobian (Box and Cox, 1964), so that a loss that explodes at one end does not
    either. Scores are R² by leave-one-out residuals (PRESS; Allen, 1974), which ask whether the model
    predicts a trial that it has not seen: 1 - exp(-2/n gain of log-likelihood over the mean), for every map
    of the catalog with the others' maps fixed, in up to two sweeps. A map is no candidate if it leaves over
    60 % of its box of z without a trial in one piece. A map is suggested where n log of the ratio of squared
    errors to identity is 8 or more, to a map in use 20, and where the model explains over 10 % of the loss;
    within 6 of the best, the one with fewer fitted parameters and earlier in the catalog.

    Maps that the trials cannot tell apart count as one: look at `margin`. It is a model of one basin; many
    basins give identity or a map that helps little.
    """
    if direction not in ("minimize", "maximize"):
        raise ValueError(f"direction: {direction!r} is neither minimize nor maximize")
    theta, loss, found, direction = _read(trials, direction)
    boxes = {**{name: scale.box for name, scale in found.items()}, **(boxes or {})}
    maps = {name: scale.map for name, scale in found.items()}
    maps.update({name: resolve(m) for name, m in (current or {}).items()})
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
        return _from_trials(theta, loss, boxes, maps)
    return {name: identity(why, maps.get(name)) for name in theta}


def needed(parameters: int) -> int:
    """How many trials it takes to say something about so many parameters."""
    return max(FEWEST, _PER_COEFFICIENT * (1 + 2 * parameters))


def _from_trials(
    theta: dict[str, Floats], loss: Floats, boxes: Boxes, current: Mapping[str, Map]
) -> dict[str, Suggestion]:
    result: dict[str, Suggestion] = {}
    usable: dict[str, Floats] = {}
    for name, x in theta.items():
        if not np.isfinite(x).all():
            result[name] = identity(
                f"{np.isfinite(x).sum()} of {loss.size} trials have it", current.get(name)
            )
        elif why := too_poor(x, "values"):
            result[name] = identity(why, current.get(name))
        else:
            usable[name] = x
    if loss.size < needed(len(usable)):
        why = f"{loss.size} trials are too few for {len(usable)} parameters: {needed(len(usable))} are needed"
        return {name: result.get(name) or identity(why, current.get(name)) for name in theta}
    answers = _sweep(usable, _Losses(loss), boxes, current)
    return {name: result.get(name) or answers[name] for name in theta}


class _Shape(NamedTuple):
    """A bowl as a function of the distance from its centre, in widths."""

    form: Callable[[Floats], Floats]
    widths: int = 1  # how many are tried


# Beside the parabola, whose centre and width need no trying: a V, and two wells in a plateau.
_SHAPES = (
    _Shape(np.abs),
    _Shape(lambda d: np.exp(-d * d), 4),
    _Shape(lambda d: 1 / (1 + d * d), 4),
)


class _Losses:
    """The losses through several warps, to be predicted by linear models."""

    def __init__(self, loss: Floats) -> None:
        above = loss - loss.min()
        warps = [(power, float(np.quantile(above, q)) or float(above.max())) for power, q in _WARPS]
        if loss.min() > 0:
            warps.append((0.0, float(loss.min())))  # the logarithm itself
        units = np.array([unit for _, unit in warps])
        powers = np.array([power for power, _ in warps])
        warped = [forward_and_log_det(above / unit, YeoJohnson(power)) for power, unit in warps]
        y = np.stack([y for y, _ in warped])
        spread = y.std(axis=1)
        n = loss.size
        # Densities of the losses themselves, so that the warps compare; one parameter for a warp.
        slopes = np.array([float(log_det) for _, log_det in warped]) - n * np.log(spread * units)
        self.y = (y - y.mean(axis=1, keepdims=True)) / spread[:, None]
        self.y *= np.exp(((powers != 1) - slopes) / n)[:, None]
        self.null = float(np.square(self.y / (1 - 1 / n)).mean(axis=1).min())


class _Residuals:
    """The losses less what some columns, of shape (n, p), the constant among them, predict of them."""

    def __init__(self, losses: _Losses, rest: Floats) -> None:
        self.basis, _ = np.linalg.qr(rest)
        self.y = self._off(losses.y)
        self.spare = 1 - np.square(self.basis).sum(axis=1)

    def _off(self, rows: Floats) -> Floats:
        return np.asarray(rows - (rows @ self.basis) @ self.basis.T)

    def of_columns(self, columns: Floats) -> Floats:
        """Mean squared leave-one-out residuals with more columns, of shape (k, n, p), by the best warp."""
        q, _ = np.linalg.qr(np.swapaxes(self._off(np.swapaxes(columns, 1, 2)), 1, 2))
        residual = self.y - (self.y @ q) @ np.swapaxes(q, 1, 2)
        spare = np.maximum(self.spare - np.square(q).sum(axis=2), _LEAST_SPARE)
        return np.asarray(np.square(residual / spare[:, None]).mean(axis=2).min(axis=1))

    def of_one(self, columns: Floats) -> Floats:
        """The same with one column each, of shape (k, m, n): by products, since there are many."""
        q = self._off(columns)
        q /= np.maximum(np.sqrt(np.square(q).sum(axis=2, keepdims=True)), 1e-9)
        spare = self.spare - q * q
        weight = 1 / np.square(np.maximum(spare, _LEAST_SPARE))
        weighted = weight * q
        slope = q @ self.y.T
        squares = weight @ np.square(self.y).T - 2 * slope * (weighted @ self.y.T)
        squares += np.square(slope) * (weighted * q).sum(axis=2, keepdims=True)
        errors = squares.min(axis=2) / self.y.shape[1]
        return np.asarray(np.where(spare.min(axis=2) < 1e-3, np.inf, errors))  # a spike at one trial

    def of_bowls(self, z: Floats) -> Floats:
        """The smallest error of a bowl in z, for z of shape (k, n)."""
        u = (z - z.min(axis=1, keepdims=True)) / np.ptp(z, axis=1)[:, None]
        found = [self.of_columns(_columns(z)), *(self._of_shape(u, shape) for shape in _SHAPES)]
        return np.asarray(np.min(found, axis=0))

    def _of_shape(self, u: Floats, shape: _Shape) -> Floats:
        """The smallest over centres and widths of one shape: on a grid, then twice around the best."""
        wide = shape.widths > 1
        step, ratio = 1 / (_CENTERS - 1), _NARROWEST ** (-1 / max(shape.widths - 1, 1))
        grid = np.meshgrid(np.linspace(0, 1, _CENTERS), np.geomspace(1, _NARROWEST, shape.widths))
        center, width = (np.tile(part.ravel(), (len(u), 1)) for part in grid)
        result = np.full(len(u), np.inf)
        rows = np.arange(len(u))
        for _ in range(3):
            d = (u[rows, None] - center[..., None]) / width[..., None]
            errors = self.of_one(shape.form(d)) * np.exp(2 * (1 + wide) / u.shape[1])  # AIC for what is tried
            best = errors.argmin(axis=1)[:, None]
            errors, center, width = (np.take_along_axis(a, best, 1) for a in (errors, center, width))
            result[rows] = np.minimum(result[rows], errors[:, 0])
            kept = np.argsort(errors[:, 0])[:_REFINED]
            rows = rows[kept]
            nearby = np.linspace(-0.75, 0.75, 7) * step, ratio ** np.array([0, 0.5, -0.5][: 3 if wide else 1])
            shift, factor = (part.ravel() for part in np.meshgrid(*nearby))
            center, width = center[kept] + shift, width[kept] * factor
            step, ratio = step / 4, ratio**0.5
        return result


def _sweep(
    theta: dict[str, Floats], losses: _Losses, boxes: Boxes, current: Mapping[str, Map]
) -> dict[str, Suggestion]:
    maps = {name: current.get(name, Identity()) for name in theta}
    columns = {name: _columns(forward(x[None], maps[name]))[0] for name, x in theta.items()}
    answers: dict[str, Suggestion] = {}
    before = maps
    for _ in range(min(_SWEEPS, len(theta))):
        for name, x in theta.items():
            others = [np.ones((x.size, 1)), *(c for other, c in columns.items() if other != name)]
            residuals = _Residuals(losses, np.concatenate(others, axis=1))
            box = boxes.get(name, (x.min(), x.max()))

            def score(m: Map, z: Floats, residuals: _Residuals = residuals, box: Any = box) -> Floats:
                scores = 1 - residuals.of_bowls(z) / losses.null
                return scores if m == Identity() else np.where(_gap(m, z, box) > _EMPTY, np.nan, scores)

            found = ranked(x, score, box=box)
            table = [c for c, _ in found]
            if maps[name] not in [c.map for c in table]:
                error = residuals.of_bowls(forward(x[None], maps[name]))[0]
                table.append(Candidate(maps[name], float(1 - error / losses.null)))
                table.sort(key=lambda c: -c.score)
            answers[name] = _judged(table, x.size, maps[name], _LOO_LEAVE if name in current else _LOO_GAIN)
            columns[name] = _columns(forward(x[None], answers[name].map))[0]
        if before == (before := {name: answer.map for name, answer in answers.items()}):
            break
    return answers


def _gap(m: Map, z: Floats, box: tuple[float, float]) -> Floats:
    """The widest part of the box of z without a trial: there a model of them is a guess."""
    ends = np.sort(forward(np.tile(box, (len(z), 1)), m), axis=1)
    inside = np.sort(np.clip(z, ends[:, :1], ends[:, 1:]), axis=1)
    gaps = np.diff(np.concatenate([ends[:, :1], inside, ends[:, 1:]], axis=1), axis=1)
    return np.asarray(gaps.max(axis=1) / np.ptp(ends, axis=1))


def _columns(z: Floats) -> Floats:
    """z and z², z standardised by row: from shape (k, n) to (k, n, 2)."""
    z = z / np.ptp(z, axis=1)[:, None]  # squares stay finite
    z = (z - z.mean(axis=1, keepdims=True)) / z.std(axis=1, keepdims=True)
    return np.stack([z, z * z], axis=2)


def _judged(table: list[Candidate], n: int, current: Map, gain: float) -> Suggestion:
    def behind(c: Candidate) -> float:
        """n log of the ratio of squared errors to the best."""
        return n * math.log(max(1 - c.score, 1e-12) / max(1 - table[0].score, 1e-12))

    same = next(c for c in table if c.map == current)
    criterion = "score: R² of a bowl in z, leave-one-out"
    if table[0].score < _LEAST_R2:
        why = f"no map explains the loss by this parameter: R² at most {table[0].score:.2g}"
        return chosen(table, same, criterion, f"{called(current)}, because {why}.")
    if behind(same) < gain:
        why = (
            f"no map predicts the {n} losses clearly better: R² {table[0].score:.3g}, {same.score:.3g} as is"
        )
        return chosen(table, same, criterion, f"{called(current)}, because {why}.")
    best = plainest([c for c in table if behind(c) < _LOO_TIE])
    reason = (
        f"Of {n} losses, a bowl in z predicts most under {best.map!r}: R² {best.score:.3g} "
        f"against {same.score:.3g} for {'identity' if current == Identity() else repr(current)}."
    )
    return chosen(table, best, criterion, reason)


class _Scale(NamedTuple):
    """How a parameter has been searched."""

    box: tuple[float, float]
    map: Map


def _read(
    trials: Any, direction: Direction
) -> tuple[dict[str, Floats], Floats, dict[str, _Scale], Direction]:
    """Columns of theta (NaN where a trial lacks it), losses, scales and direction of any form of trials."""
    if hasattr(trials, "directions") and hasattr(trials, "trials"):
        if len(trials.directions) != 1:
            raise ValueError("trials: the study has several objectives; one is needed")
        complete = [t for t in trials.trials if t.state.name == "COMPLETE"]
        rows = [(params(t), float(t.value)) for t in complete]
        scales = {
            name: _Scale((float(d.low), float(d.high)), Log() if d.log else Identity())
            for t in trials.trials
            for name, d in t.distributions.items()
            if hasattr(d, "low")
        }
        return (*_table(rows), scales, trials.direction.name.lower())
    history = getattr(trials, "history", trials)
    if isinstance(history, Sequence) and all(hasattr(r, "theta") and hasattr(r, "loss") for r in history):
        direction = getattr(trials, "direction", direction)
        rows = [(r.theta, float(r.loss)) for r in history if r.state == "COMPLETE"]
        scales = {
            name: _Scale(param.edges, param.box_map)
            for name, param in getattr(trials, "space", {}).items()
            if param.shape == () and param.low is not None and param.high is not None
        }
        return (*_table(rows), scales, direction)
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
