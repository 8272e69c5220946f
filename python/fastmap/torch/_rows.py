"""Rows of parameters that come and go: theta, z, moments and step counts together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from fastmap import _native, _shards
from fastmap.torch import _cuda_step


def own_counts(p: Tensor, state: dict[str, Any]) -> None:
    """From here on every row of a parameter counts its own steps."""
    if state["step"].ndim == 0:
        state["step"] = state["step"].repeat(len(p))


def _refuse_own_counts(chosen: Iterable[tuple[Tensor, dict[str, Any], str]]) -> None:
    for p, _, name in chosen:
        if _cuda_step.on_cuda(p):
            raise NotImplementedError(f"{name}: {_cuda_step.NO_ROWS}")


class RowSurgery:
    """Of `MappedOptimizer`: what changes the rows, along the first axis, of its parameters.

    As in Gaussian splatting. A parameter stays the same object, so the model needs no change; its gradient is
    dropped. Change rows between a step and the next forward pass, and not under DistributedDataParallel: it
    keeps buffers of the old size.
    """

    param_groups: list[dict[str, Any]]
    state: Any
    _versions: dict[Tensor, int]
    _name: Callable[..., str]
    _to_z: Callable[..., Tensor]
    _synced_z: Callable[..., Tensor]

    @torch.no_grad()
    def select(self, rows: Tensor, params: Iterable[Tensor] | None = None) -> None:
        """Keep these rows: prune, reorder, or repeat some with their moments, which `reset` can take away.

        Parameters
        ----------
        rows : tensor
            bool of shape (N,), or integer indices, which may repeat.
        params : iterable of tensors, optional
            The parameters, all of N rows. Default: all.

        Raises
        ------
        ValueError
            Rows or parameters that do not fit. Nothing has been changed.
        """
        chosen = self._chosen(params)
        index = self._index(rows, chosen)
        for p, _, _ in chosen:
            state = self.state[p]
            for key, value in state.items():
                if value.ndim:
                    state[key] = value.index_select(0, index)
            self._replace(p, p.index_select(0, index))

    @torch.no_grad()
    def append(self, rows: Mapping[Tensor, Tensor]) -> None:
        """Add rows at the end: their z is f(theta), their moments and step counts are 0.

        Parameters
        ----------
        rows : dict
            theta of shape (M, ...) by parameter of shape (N, ...).

        Raises
        ------
        ValueError
            Rows that do not fit. Nothing has been changed.
        DomainError
            theta outside the domain of its map. Nothing has been changed.
        """
        chosen = self._chosen(rows)
        _refuse_own_counts(chosen)
        added = []
        for p, group, name in chosen:
            theta = rows[p].detach()
            if theta.dtype is not p.dtype or theta.ndim != p.ndim or theta.shape[1:] != p.shape[1:]:
                raise ValueError(
                    f"rows: expected {p.dtype} of shape (M, {', '.join(map(str, p.shape[1:]))}) for {name}, "
                    f"got {theta.dtype} of shape {tuple(theta.shape)}"
                )
            added.append((theta, self._to_z(theta, group, name)))
        for (p, _, _), (theta, z) in zip(chosen, added, strict=True):
            state = self.state[p]
            own_counts(p, state)
            for key, value in state.items():
                fresh = z if key == "z" else value.new_zeros((len(theta), *value.shape[1:]))
                state[key] = torch.cat([value, fresh])
            self._replace(p, torch.cat([p, theta]))

    @torch.no_grad()
    def reset(self, rows: Tensor | None = None, params: Iterable[Tensor] | None = None) -> None:
        """Start rows anew from theta: z is f(theta), as after `resync`; moments and step counts are 0.

        Parameters
        ----------
        rows : tensor, optional
            As for `select`. Default: all.
        params : iterable of tensors, optional
            The parameters. Default: all.

        Raises
        ------
        ValueError
            Rows or parameters that do not fit. Nothing has been changed.
        DomainError
            theta outside the domain of its map. Nothing has been changed.
        """
        chosen = self._chosen(params, whole=rows is None)
        index = None if rows is None else self._index(rows, chosen)
        if rows is not None:
            _refuse_own_counts(chosen)
        fresh = [self._synced_z(p, group, name, index) for p, group, name in chosen]
        for (p, _, _), z in zip(chosen, fresh, strict=True):
            state = self.state[p]
            if index is not None:
                own_counts(p, state)
            for key, value in state.items():
                value[... if index is None else index] = z if key == "z" else 0
            self._versions[p] = _shards.version(p)

    def _chosen(
        self, params: Iterable[Tensor] | None, whole: bool = False
    ) -> list[tuple[Tensor, dict[str, Any], str]]:
        """Parameters, with group and name, that have rows; `whole`: or need none."""
        known = {
            p: (group, self._name(group, index))
            for group in self.param_groups
            for index, p in enumerate(group["params"])
        }
        chosen = []
        for p in known if params is None else params:
            if p not in known:
                raise ValueError("params: has a tensor that is no parameter of this optimizer")
            group, name = known[p]
            m = group["map"]
            if _shards.is_sharded(p):
                raise ValueError(f"{name}: is sharded, and its rows belong to several processes")
            if not whole and p.ndim == 0:
                raise ValueError(f"{name}: has no rows")
            if not whole and m.shape and _native.row_strides(m, tuple(p.shape), name)[0]:
                raise ValueError(
                    f"{name}: its map {m!r} has parameters per row, which would not fit any more"
                )
            chosen.append((p, group, name))
        return chosen

    @staticmethod
    def _index(rows: Tensor, chosen: list[tuple[Tensor, dict[str, Any], str]]) -> Tensor:
        """The indices that rows mean, checked against all parameters."""
        if rows.dtype is torch.bool:
            for p, _, name in chosen:
                if rows.shape != p.shape[:1]:
                    raise ValueError(f"rows: of shape {tuple(rows.shape)} for {name} of {len(p)} rows")
            return rows.nonzero().flatten()
        if rows.ndim != 1 or rows.is_floating_point() or rows.is_complex():
            raise ValueError(f"rows: expected bool or indices, got {rows.dtype} of shape {tuple(rows.shape)}")
        for p, _, name in chosen:
            if bool(((rows < 0) | (rows >= len(p))).any()):
                raise ValueError(f"rows: an index is not in [0, {len(p)}), the rows of {name}")
        return rows.long()

    def _replace(self, p: Tensor, theta: Tensor) -> None:
        """The parameter stays the same object, and has other rows."""
        p.grad = None
        p.data = theta
        self._versions[p] = _shards.version(p)
