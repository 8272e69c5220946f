"""Pictures of a search. Axes are straight in z, the scale of the map, and labelled in theta."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from fastmap._errors import one_of
from fastmap._extras import need
from fastmap._functional import forward, inverse
from fastmap._map import Map

if TYPE_CHECKING:
    from fastmap.search import Record, Result

_MOST = 6  # parameters in one picture


def plot_result(result: Result, kind: str = "overview", params: Sequence[str] | None = None) -> Any:
    """The figure of that kind; see `Result.plot`."""
    one_of("kind", kind, KINDS)
    scalars = [name for name, param in result.space.items() if not param.shape]
    for name in params or ():
        if name not in scalars:
            raise ValueError(f"params: {name!r} is no scalar parameter; known: {', '.join(scalars)}")
    several = isinstance(result.direction, list)
    if several and kind in ("overview", "history"):
        kind = "front"
    if several and kind != "front":
        raise ValueError(f"kind: {kind!r} shows one objective")
    if not several and kind == "front":
        raise ValueError("kind: 'front' needs several objectives")
    done = [record for record in result.history if record.state == "COMPLETE"]
    return KINDS[kind](result, done, list(params or scalars)[:_MOST])


def _overview(result: Result, done: list[Record], names: list[str]) -> Any:
    """Loss by evaluation on top; below, one column per scalar: loss over theta and over z."""
    columns = max(1, len(names))
    figure = _figure(max(7.0, 3.2 * columns), 9 if names else 4)
    grid = figure.add_gridspec(3 if names else 1, columns)
    top = figure.add_subplot(grid[0, :])
    _draw_history(top, result, done)
    for column, name in enumerate(names):
        for row, space in ((1, "theta"), (2, "z")):
            axes = figure.add_subplot(grid[row, column], sharey=top)
            values = [getattr(r, space)[name] for r in done]
            axes.scatter(values, [r.loss for r in done], c=[r.number for r in done], s=14, cmap="viridis")
            axes.set_xlabel(f"{name} ({'θ' if space == 'theta' else 'z'})")
            axes.locator_params(axis="x", nbins=5)
            if column == 0:
                axes.set_ylabel("loss")
    return figure


def _history(result: Result, done: list[Record], names: list[str]) -> Any:
    figure = _figure(7.5, 4.5)
    _draw_history(figure.add_subplot(), result, done)
    return figure


def _draw_history(axes: Any, result: Result, done: list[Record]) -> None:
    loss = np.array([record.loss for record in done])
    axes.plot([record.number for record in done], loss, ".", color="0.6", label="evaluation")
    numbers = [record.number for record in result.history]
    axes.step(numbers, result.best_so_far(), where="post", color="C3", label="best")
    axes.set(xlabel="evaluation", ylabel="loss", title=result.method)
    axes.xaxis.get_major_locator().set_params(integer=True)
    if loss.min() > 0 and loss.max() > 30 * loss.min():
        axes.set_yscale("log")
    axes.legend()


def _parallel(result: Result, done: list[Record], names: list[str]) -> Any:
    """One line per evaluation across the parameters, the best ones on top."""
    _needs(names, 1, "parallel")
    figure = _figure(max(5.0, 2.2 * (len(names) + 1)), 4.5)
    axes = figure.add_subplot()
    color, bar = _colors(result, done)
    ends = {name: _ends(done, name) for name in names}
    sign = 1 if result.direction == "minimize" else -1
    for record in sorted(done, key=lambda r: -sign * r.loss):
        heights = [(record.z[n] - ends[n][0]) / (ends[n][1] - ends[n][0]) for n in names]
        axes.plot(range(len(names)), heights, color=color(record.loss), alpha=0.7, linewidth=1)
    for column, name in enumerate(names):
        axes.axvline(column, color="black", linewidth=0.8)
        low, high = ends[name]
        for z, label in _ticks(_map(result, name), low, high):
            height = (z - low) / (high - low)
            axes.plot([column - 0.015, column + 0.015], [height, height], color="black", linewidth=0.8)
            axes.annotate(
                label,
                (column, height),
                (4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                bbox={"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 0.5},
            )
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks([])
    axes.set_xlim(-0.1, len(names) - 0.6)
    for side in ("top", "right", "bottom", "left"):
        axes.spines[side].set_visible(False)
    figure.colorbar(bar, ax=axes, label="loss")
    return figure


def _importance(result: Result, done: list[Record], names: list[str]) -> Any:
    """Which parameters the loss depends on, by Optuna's default evaluator on z."""
    _needs(names, 1, "importance")
    optuna = need("optuna", "search")
    boxes = {name: optuna.distributions.FloatDistribution(*_ends(done, name)) for name in names}
    from fastmap.search._tuner import new_study

    study = new_study([str(result.direction)])
    for record in done:
        study.add_trial(
            optuna.trial.create_trial(
                value=record.loss,
                params={name: float(record.z[name]) for name in names},
                distributions=boxes,
            )
        )
    weights = optuna.importance.get_param_importances(study)
    figure = _figure(6.5, 1.5 + 0.4 * len(names))
    axes = figure.add_subplot()
    shown = list(reversed(weights.items()))
    bars = axes.barh([name for name, _ in shown], [weight for _, weight in shown], color="C0")
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.set(xlabel="share of the importance (Optuna, in z)", xlim=(0, 1.1 * max(weights.values())))
    return figure


def _contour(result: Result, done: list[Record], names: list[str]) -> Any:
    """Loss over each pair of parameters, interpolated between the evaluations."""
    _needs(names, 2, "contour")
    pairs = list(combinations(names[:4], 2))
    columns = min(3, len(pairs))
    rows = math.ceil(len(pairs) / columns)
    figure = _figure(4.2 * columns + 0.8, 3.8 * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    _, bar = _colors(result, done)
    loss = np.array([record.loss for record in done])
    for axes, (first, second) in zip(grid.flat, pairs, strict=False):
        x, y = (np.array([record.z[name] for record in done]) for name in (first, second))
        if len(set(zip(x, y, strict=True))) > 3 and np.ptp(x) > 0 < np.ptp(y):
            axes.tricontourf(x, y, loss, levels=_levels(bar.norm), cmap=bar.cmap, norm=bar.norm)
        axes.plot(x, y, ".", color="white", markersize=4, markeredgecolor="black", markeredgewidth=0.4)
        best = done[int(np.argmin(loss) if result.direction == "minimize" else np.argmax(loss))]
        axes.plot(best.z[first], best.z[second], "*", color="C3", markersize=12, markeredgecolor="white")
        for axis, name in ((axes.xaxis, first), (axes.yaxis, second)):
            ticks = _ticks(_map(result, name), *_ends(done, name), most=5)
            axis.set_ticks([z for z, _ in ticks], [label for _, label in ticks], fontsize=8)
        axes.set(xlabel=first, ylabel=second)
    for axes in grid.flat[len(pairs) :]:
        axes.set_axis_off()
    figure.colorbar(bar, ax=grid, label="loss")
    return figure


def _front(result: Result, done: list[Record], names: list[str]) -> Any:
    """The first two objectives of every evaluation, the Pareto front in red."""
    figure = _figure(6.0, 4.5)
    axes = figure.add_subplot()
    axes.plot(*np.array([r.loss[:2] for r in done]).T, ".", color="0.6", label="evaluation")
    points = sorted(record.loss[:2] for record in result.front)
    axes.plot(*np.array(points).T, ".-", color="C3", label="Pareto front")
    axes.set(
        xlabel=f"first objective ({result.direction[0]})",
        ylabel=f"second objective ({result.direction[1]})",
        title=result.method,
    )
    axes.legend()
    return figure


KINDS: dict[str, Callable[[Any, list[Any], list[str]], Any]] = {
    "overview": _overview,
    "history": _history,
    "parallel": _parallel,
    "importance": _importance,
    "contour": _contour,
    "front": _front,
}


def _figure(width: float, height: float) -> Any:
    return need("matplotlib.figure", "viz").Figure(figsize=(width, height), layout="constrained")


def _needs(names: list[str], count: int, kind: str) -> None:
    if len(names) < count:
        raise ValueError(f"kind: {kind!r} needs {count} or more scalars, the space has {len(names)}")


def _map(result: Result, name: str) -> Map:
    param = result.space[name]
    return param.gradient_map if result.gradient else param.box_map


def _ends(done: list[Record], name: str) -> tuple[float, float]:
    """The range of z that was evaluated."""
    z = [float(record.z[name]) for record in done]
    low, high = min(z), max(z)
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def _colors(result: Result, done: list[Record]) -> tuple[Callable[[float], Any], Any]:
    """The colour of a loss, and what a colour bar is made from; dark is good."""
    cm, colors = need("matplotlib.cm", "viz"), need("matplotlib.colors", "viz")
    import matplotlib

    loss = np.array([record.loss for record in done])
    low, high = float(loss.min()), float(np.quantile(loss, 0.9))
    high = high if high > low else low + 1.0
    log = low > 0 and high > 30 * low
    norm = (colors.LogNorm if log else colors.Normalize)(low, high)
    cmap = matplotlib.colormaps["viridis" if result.direction == "minimize" else "viridis_r"]
    bar = cm.ScalarMappable(norm, cmap)
    return bar.to_rgba, bar


def _levels(norm: Any) -> Any:
    """Levels of contours, evenly spaced in colour; the ends take what lies beyond."""
    levels = norm.inverse(np.linspace(0, 1, 13))
    return np.concatenate([levels, [max(levels[-1] * 1e6, levels[-1] + 1e300)]])


def _ticks(map: Map, low: float, high: float, most: int = 6) -> list[tuple[float, str]]:
    """z and label of round values of theta, about evenly spaced in z."""
    gap = (high - low) / most
    ticks: list[tuple[float, str]] = []
    for z in np.linspace(low + gap / 2, high - gap / 2, most):
        z, label = _round_tick(map, float(z), 0.35 * gap)
        if low <= z <= high and all(label != other for _, other in ticks):
            ticks.append((z, label))
    return ticks


def _round_tick(map: Map, z: float, tolerance: float) -> tuple[float, str]:
    """The value of theta with the fewest digits whose z is near."""
    theta = float(inverse(z, map))
    for digits in range(1, 17):
        candidate = float(f"{theta:.{digits - 1}e}")
        found = float(forward(np.float64(candidate), map, invalid="nan"))
        if abs(found - z) <= tolerance:
            return found, f"{candidate:.{digits}g}"
    return z, f"{theta:.3g}"
