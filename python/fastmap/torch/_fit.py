"""`fit`: a torch model trained on batches in a mapped space, with the best theta in the model at the end."""

from __future__ import annotations

import copy
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from fastmap._errors import one_of
from fastmap._extras import need
from fastmap._map import Map, MapLike, resolve
from fastmap.maps import Identity
from fastmap.search import Record, Result
from fastmap.search._axes import LARGEST_RECORD
from fastmap.space import Param, Space
from fastmap.torch import _modules
from fastmap.torch._optim import SGD, Adam, AdamW, Lion

_METHODS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": Adam,
    "adamw": AdamW,
    "gd": SGD,
    "lion": Lion,
}


def fit(
    model: nn.Module,
    loss: Callable[[nn.Module, Any], Tensor],
    data: Iterable[Any],
    *,
    maps: Iterable[tuple[Any, MapLike | None]] | Mapping[str, MapLike] = (),
    epochs: int = 10,
    method: str = "adam",
    lr: float = 1e-3,
    options: Mapping[str, Any] | None = None,
    validate: Callable[[nn.Module], float] | None = None,
    direction: str = "minimize",
    patience: int | None = None,
    timeout: float | None = None,
    callbacks: Sequence[Callable[[Record], Any]] = (),
    progress: bool = False,
) -> Result:
    """Train a model on batches in the mapped space; the best theta of all epochs ends in the model.

    Parameters
    ----------
    model : torch.nn.Module
        Trained in place; theta stays its parameters, in bounds after every step.
    loss : callable
        Takes the model and one batch; returns the loss, a scalar tensor.
    data : iterable
        Of batches, walked once per epoch: a ``DataLoader``, a list. It shuffles by torch's own seed.
    maps : iterable of rules, or mapping of patterns to maps
        Which parameters have which map, as in `fastmap.torch.space`: ``{"*.gain": "log"}``, or
        ``[(nn.LayerNorm, "softplus")]``. The first rule that fits counts; the others have none.
    epochs : int
        How often the data are walked.
    method : {"adam", "adamw", "gd", "lion"}
        The optimizer, in one native pass per step.
    lr : float
        Its step size, in z.
    options : dict, optional
        More keywords of `fastmap.torch.Adam`, `AdamW`, `SGD` or `Lion`.
    validate : callable, optional
        Scores the model after an epoch, in evaluation mode and without gradients. Default: the mean training
        loss of the epoch, which is that of weights on the move.
    direction : {"minimize", "maximize"}
        Of the score.
    patience : int, optional
        Stop after so many epochs without a better score.
    timeout : float, optional
        Seconds after which no new epoch starts.
    callbacks : sequence of callables, optional
        Each is called with the `Record` of every epoch; one that returns True ends the training.
    progress : bool
        Show a progress bar on stderr.

    Returns
    -------
    Result
        One record per epoch; `best` has theta by name, which is in the model as well, and the buffers of the
        module (running means) are those of that epoch.

    Raises
    ------
    ValueError
        Bad arguments; a rule that fits no parameter; no epoch with a finite score (the model is then as
        it was).
    DomainError
        Parameters outside the domain of their map. Nothing has been written.
    TypeError
        A loss that is no scalar tensor with a gradient.

    Notes
    -----
    Ctrl-C ends the training and keeps the best epoch. So does a loss that is not finite; it counts as
    FAIL.
    """
    one_of("direction", direction, ("minimize", "maximize"))
    one_of("method", method, _METHODS)
    for name, value in (("epochs", epochs), ("patience", patience)):
        if value is not None and value < 1:
            raise ValueError(f"{name}: must be at least 1, got {value}")
    if iter(data) is data:
        raise ValueError("data: an iterator ends after one epoch; give a list or a DataLoader")
    chosen = _maps(model, maps)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    groups = [{"params": [p], "map": chosen.get(name, Identity())} for name, p in parameters.items()]
    optimizer = _METHODS[method](groups, lr=lr, **(options or {}))
    first = copy.deepcopy(model.state_dict())
    best: tuple[float, int, dict[str, Any]] | None = None
    sign = 1 if direction == "minimize" else -1
    history: list[Record] = []
    reason = "asked for"
    start = time.perf_counter()
    with _bar(epochs, progress) as shown:
        try:
            for epoch in range(epochs):
                score, error = _epoch(model, loss, data, optimizer, validate)
                record = _record(epoch, parameters, chosen, score, error)
                history.append(record)
                if error is None and (best is None or sign * score < sign * best[0]):
                    best = score, epoch, copy.deepcopy(model.state_dict())
                shown(best)
                if any([callback(record) is True for callback in callbacks]):  # noqa: C419 (all are called)
                    reason += "; stopped by a callback"
                    break
                if error is not None:
                    reason += f"; stopped in epoch {epoch}: {error}"
                    break
                if patience is not None and best is not None and epoch - best[1] >= patience:
                    reason += f"; stopped after {patience} epochs without a better score"
                    break
                if timeout is not None and time.perf_counter() - start > timeout:
                    reason += f"; stopped after {timeout:g} s"
                    break
        except KeyboardInterrupt:
            if best is None:
                raise
            reason += f"; interrupted after {len(history)} epochs"
        finally:
            model.load_state_dict(first if best is None else best[2])
    if best is None:
        raise ValueError(f"loss: no epoch gave a finite score ({history[-1].error}); the model is as it was")
    space = Space(
        {
            name: Param(map=chosen.get(name, Identity()), shape=tuple(p.shape))
            for name, p in parameters.items()
        }
    )
    theta = {name: p.detach().clone() for name, p in parameters.items()}
    seconds = time.perf_counter() - start
    result_direction: Any = direction
    return Result(theta, best[0], history, method, reason, space, result_direction, seconds, True)


def _maps(model: nn.Module, maps: Any) -> dict[str, Map]:
    rules = list(maps.items()) if isinstance(maps, Mapping) else list(maps)
    for rule in rules:  # one that fits nothing is a mistake in the pattern
        try:
            _modules.space(model, [rule])
        except ValueError:
            raise ValueError(f"maps: {rule[0]!r} fits no parameter of the model") from None
    if not rules:
        return {}
    space = _modules.space(model, rules)
    return {name: resolve(param.gradient_map) for name, param in space.items()}


def _epoch(
    model: nn.Module,
    loss: Callable[[nn.Module, Any], Tensor],
    data: Iterable[Any],
    optimizer: torch.optim.Optimizer,
    validate: Callable[[nn.Module], float] | None,
) -> tuple[float, str | None]:
    """The score after one walk over the data, or NaN and what went wrong."""
    model.train()
    total, count = 0.0, 0
    for batch in data:
        optimizer.zero_grad()
        value = loss(model, batch)
        if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
            raise TypeError("loss: expected a scalar tensor that depends on the parameters")
        if not math.isfinite(float(value.detach())):
            return math.nan, f"the loss of batch {count} is {float(value.detach())}"
        value.backward()
        optimizer.step()
        total, count = total + float(value.detach()), count + 1
    if not count:
        raise ValueError("data: no batches")
    score = total / count
    if validate is not None:
        model.eval()
        with torch.no_grad():
            score = float(validate(model))
        model.train()
    return score, None if math.isfinite(score) else f"the score is {score}"


def _record(
    epoch: int, parameters: Mapping[str, Tensor], maps: Mapping[str, Map], score: float, error: str | None
) -> Record:
    """theta and z are kept for models of up to 1000 numbers."""
    theta: dict[str, Any] = {}
    if sum(p.numel() for p in parameters.values()) <= LARGEST_RECORD:
        theta = {name: p.detach().clone() for name, p in parameters.items()}
    z = {name: maps[name].forward(v, invalid="nan") if name in maps else v for name, v in theta.items()}
    return Record(epoch, theta, z, score, "COMPLETE" if error is None else "FAIL", error)


@contextmanager
def _bar(epochs: int, progress: bool) -> Iterator[Callable[[Any], None]]:
    with (
        need("tqdm", "search").tqdm(total=epochs, file=sys.stderr, unit="epoch")
        if progress
        else nullcontext() as bar
    ):

        def shown(best: Any) -> None:
            if bar is not None:
                if best is not None:
                    bar.set_postfix(best=f"{best[0]:.4g}", epoch=best[1], refresh=False)
                bar.update()

        yield shown
