"""Pictures of a search."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastmap._extras import need

if TYPE_CHECKING:
    from fastmap.search import Result


def plot_result(result: Result, kind: str = "overview", params: Any = None) -> Any:
    """Loss by evaluation on top; below, one column per scalar: loss over theta and over z."""
    Figure = need("matplotlib.figure", "viz").Figure
    done = [r for r in result.history if r.state == "COMPLETE"]
    loss = np.array([r.loss for r in done])
    scalars = [n for n, p in result.space.items() if not p.shape and done[0].theta][:6]
    columns = max(1, len(scalars))
    figure = Figure(figsize=(max(7.0, 3.2 * columns), 9 if scalars else 4), layout="constrained")
    grid = figure.add_gridspec(3 if scalars else 1, columns)
    top = figure.add_subplot(grid[0, :])
    top.plot([r.number for r in done], loss, ".", color="0.6", label="evaluation")
    top.step(range(len(result.history)), result.best_so_far(), where="post", color="C3", label="best")
    top.set(xlabel="evaluation", ylabel="loss", title=f"{result.method}: {result.reason}")
    if loss.min() > 0 and loss.max() > 30 * loss.min():
        top.set_yscale("log")
    top.legend()
    order = [r.number for r in done]
    for column, name in enumerate(scalars):
        for row, space in ((1, "theta"), (2, "z")):
            axes = figure.add_subplot(grid[row, column], sharey=top)
            values = [getattr(r, space)[name] for r in done]
            axes.scatter(values, loss, c=order, s=14, cmap="viridis")
            axes.set_xlabel(f"{name} ({'θ' if space == 'theta' else 'z'})")
            if column == 0:
                axes.set_ylabel("loss")
    return figure
