"""What a search found: `Record` and `Result`."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fastmap._audit import Audit, audit
from fastmap._extras import need
from fastmap._map import Map
from fastmap.search._axes import LARGEST_RECORD, plain
from fastmap.space import Space

Direction = Literal["minimize", "maximize"]
Kind = Literal["overview", "history", "parallel", "importance", "contour", "front"]


@dataclass(frozen=True)
class Record:
    """One evaluation: its number, the point in both spaces, the loss, COMPLETE, PRUNED or FAIL.

    With several objectives the loss is a tuple. Of arrays of over 1000 numbers `theta` and `z` hold a summary
    ("size", and "mean", "min", "max" of "sampled" elements); the best point is whole in `Result.best`.
    `error` says why an evaluation failed.
    """

    number: int
    theta: dict[str, Any]
    z: dict[str, Any]
    loss: Any
    state: str
    error: str | None = None


@dataclass(frozen=True)
class Choice:
    """What ``map="auto"`` concluded about a parameter.

    Attributes
    ----------
    evaluations : int
        How many complete ones it is drawn from.
    name : str
        The parameter.
    map : Map
        By which the search went on.
    reason : str
        Why, as in `Suggestion`.
    """

    evaluations: int
    name: str
    map: Map
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` reads back."""
        return {
            "evaluations": self.evaluations,
            "name": self.name,
            "map": self.map.to_json(),
            "reason": self.reason,
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Choice:
        """The choice that `to_json` described."""
        return Choice(**{**data, "map": Map.from_json(data["map"])})


@dataclass(frozen=True)
class Result:
    """What a search found.

    Attributes
    ----------
    best : dict
        theta by name, at the best complete evaluation. With several objectives: a list of such dicts, the
        Pareto front.
    loss : float
        Its loss (or metric, when maximised); a list of tuples with several objectives.
    history : list of Record
        Every evaluation in order.
    method, reason : str
        How the search was done, and why so.
    space : Space
        What was searched.
    direction : str or list of str
        "minimize" or "maximize"; one per objective.
    seconds : float
        Wall time of the whole search.
    gradient : bool
        Whether the maps are those of gradient methods.
    choices : tuple of Choice
        What ``map="auto"`` concluded, in order, also where a parameter kept its map; empty without it.
    """

    best: Any
    loss: Any
    history: list[Record] = field(repr=False)
    method: str
    reason: str
    space: Space = field(repr=False)
    direction: Direction | list[Direction]
    seconds: float
    gradient: bool = False
    choices: tuple[Choice, ...] = field(default=(), repr=False)

    @property
    def best_params(self) -> Any:
        """`best`, under Optuna's name."""
        return self.best

    @property
    def best_value(self) -> Any:
        """`loss`, under Optuna's name."""
        return self.loss

    @property
    def front(self) -> list[Record]:
        """The complete evaluations that no other one dominates: with one objective, the best."""
        return front(self.history, self.direction)

    @cached_property
    def map_error(self) -> dict[str, Audit]:
        """What the map costs at the best point: `fastmap.audit` of each parameter, by name.

        With several objectives over all points of the front. Structured maps, which it does not measure, are
        left out.
        """
        points = self.best if isinstance(self.best, list) else [self.best]
        result = {}
        for name, param in self.space.items():
            if param.has_rows:
                continue
            values = np.asarray([_numpy(point[name]) for point in points])
            if values.dtype.kind != "f":
                values = values.astype(np.float64)
            m = param.gradient_map if self.gradient and not param.integer else param.box_map
            result[name] = audit(values if isinstance(self.best, list) else values[0], m)
        return result

    def best_so_far(self) -> list[float]:
        """The best loss up to each evaluation; NaN before the first complete one."""
        if isinstance(self.direction, list):
            raise ValueError("direction: with several objectives there is no best so far; see front")
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
        return pandas.DataFrame([flat(record) for record in self.history])

    def plot(self, kind: Kind = "overview", params: Sequence[str] | None = None) -> Any:
        """A matplotlib figure.

        Parameters
        ----------
        kind : str
            "overview" (loss by evaluation, over theta and over z), "history", "parallel" (coordinates),
            "importance" (of Optuna), "contour" (pairs of parameters) or "front" (two objectives). Axes are
            labelled in theta, on the scale of the map.
        params : sequence of str, optional
            Which scalar parameters, in that order. Default: all, at most six.

        Returns
        -------
        matplotlib.figure.Figure
        """
        from fastmap._plot import plot_result

        return plot_result(self, kind, params)

    def save(self, directory: str | Path) -> None:
        """Write result.json, trials.csv and, where matplotlib is installed, search.png.

        Best points with arrays of over 1000 numbers are in best.npz instead. `load` reads the directory.
        """
        path = Path(directory)
        path.mkdir(parents=True, exist_ok=True)
        points = self.best if isinstance(self.best, list) else [self.best]
        large = {
            f"{i}:{name}": _numpy(value)
            for i, point in enumerate(points)
            for name, value in point.items()
            if np.size(_numpy(value)) > LARGEST_RECORD
        }
        if large:
            np.savez(path / "best.npz", **large)
        kept = [{n: None if f"{i}:{n}" in large else v for n, v in p.items()} for i, p in enumerate(points)]
        summary = {
            "best": kept if isinstance(self.best, list) else kept[0],
            "loss": self.loss,
            "method": self.method,
            "reason": self.reason,
            "direction": self.direction,
            "evaluations": len(self.history),
            "seconds": self.seconds,
            "gradient": self.gradient,
            "space": self.space.to_json(),
            "choices": [choice.to_json() for choice in self.choices],
            "history": [asdict(record) for record in self.history],
        }
        text = json.dumps(summary, indent=1, default=plain)
        (path / "result.json").write_text(text + "\n")
        rows = [flat(record) for record in self.history]
        with (path / "trials.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
            writer.writeheader()
            writer.writerows(rows)
        try:
            figure = self.plot()
        except ImportError:
            return
        figure.savefig(path / "search.png", dpi=120)

    @staticmethod
    def load(directory: str | Path) -> Result:
        """The result that `save` wrote; arrays and tensors come back as NumPy arrays.

        Raises
        ------
        ValueError
            A directory without such a result; the error names the file.
        """
        path = Path(directory) / "result.json"
        try:
            data = json.loads(path.read_text())
            space = Space.from_json(data["space"])
            single = not isinstance(data["direction"], list)
            points = [data["best"]] if single else data["best"]
            if (Path(directory) / "best.npz").exists():
                # Opened here: NumPy leaves a damaged archive open.
                with (Path(directory) / "best.npz").open("rb") as file, np.load(file) as large:
                    for key, value in large.items():
                        number, _, name = key.partition(":")
                        points[int(number)][name] = value
            points = [arrays(point) for point in points]
            history = [
                Record(
                    **{
                        **row,
                        "theta": arrays(row["theta"]),
                        "z": arrays(row["z"]),
                        "loss": tuple(row["loss"]) if isinstance(row["loss"], list) else row["loss"],
                    }
                )
                for row in data["history"]
            ]
            return Result(
                points[0] if single else points,
                data["loss"] if single else [tuple(loss) for loss in data["loss"]],
                history,
                data["method"],
                data["reason"],
                space,
                data["direction"],
                data["seconds"],
                data.get("gradient", False),
                tuple(map(Choice.from_json, data.get("choices", ()))),
            )
        except Exception as error:  # of any reader: those of damaged archives have errors of their own
            raise ValueError(f"{path}: no result of a search: {error!r}") from error


def front(history: Sequence[Record], direction: str | Sequence[str]) -> list[Record]:
    """The complete records that no other dominates."""
    signs = [1 if d == "minimize" else -1 for d in ([direction] if isinstance(direction, str) else direction)]
    done = [record for record in history if record.state == "COMPLETE"]
    if not done:
        return []
    losses = np.array([np.atleast_1d(record.loss) for record in done]) * signs
    kept = []
    for record, loss in zip(done, losses, strict=True):
        better = (losses <= loss).all(1) & (losses < loss).any(1)
        if not better.any():
            kept.append(record)
    return kept[:1] if isinstance(direction, str) else kept


def arrays(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON's lists as arrays again."""
    return {name: np.asarray(value) if isinstance(value, list) else value for name, value in values.items()}


def flat(record: Record) -> dict[str, Any]:
    """A record as one row of a table."""
    losses = {"loss": record.loss}
    if isinstance(record.loss, tuple):
        losses = {f"loss[{i}]": value for i, value in enumerate(record.loss)}
    row: dict[str, Any] = {"number": record.number, "state": record.state, **losses}
    for space, values in (("theta", record.theta), ("z", record.z)):
        for name, value in values.items():
            if isinstance(value, dict):
                row.update({f"{space}:{name}:{key}": number for key, number in value.items()})
            elif np.ndim(value) == 0:
                row[f"{space}:{name}"] = value
            else:
                array = np.asarray(value)
                for index in np.ndindex(array.shape):
                    row[f"{space}:{name}[{','.join(map(str, index))}]"] = float(array[index])
    return row


def _numpy(value: Any) -> Any:
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
