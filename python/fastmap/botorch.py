"""BoTorch: maps as an input transform; a model sees z, users and acquisition functions have theta.

Needs the extra ``fastmap[botorch]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastmap._extras import need
from fastmap._functional import elementwise
from fastmap._map import Map, MapLike, resolve

need("botorch", "botorch")
from botorch.models.transforms import input as inputs  # noqa: E402


class InputTransform(inputs.ReversibleInputTransform):
    """z = f(theta) for the inputs of a model; chain `Normalize` after it, since models want a unit cube.

    Parameters
    ----------
    map : Map, str or sequence of them
        One map for all inputs (its parameters may be arrays, one number per input), or one per input;
        "identity" leaves one as it is.
    transform_on_train, transform_on_eval, transform_on_fantasize, reverse : bool
        As in BoTorch. With `reverse` inputs are z, and the model sees theta.

    Raises
    ------
    TypeError
        A map of whole rows, or a Space: give each input the map of its own.

    Notes
    -----
    Differentiable twice, as acquisition functions need it. Inputs outside the domain are a `DomainError`.

    Examples
    --------
    >>> from botorch.models.transforms.input import ChainedInputTransform, Normalize
    >>> from fastmap.botorch import InputTransform
    >>> ChainedInputTransform(map=InputTransform(["log", "identity"]), unit=Normalize(d=2)) # doctest: +SKIP
    """

    def __init__(
        self,
        map: MapLike | Sequence[MapLike],
        *,
        transform_on_train: bool = True,
        transform_on_eval: bool = True,
        transform_on_fantasize: bool = True,
        reverse: bool = False,
    ) -> None:
        super().__init__()
        self.one_for_all = isinstance(map, str) or not isinstance(map, Sequence)
        given: Any = [map] if self.one_for_all else map
        self.maps: list[Map] = [resolve(m) for m in given]
        for m in self.maps:
            if m.program is None:
                raise TypeError(
                    f"map: {m.noun} is not one of single numbers; give each input the map of its own"
                )
        self.transform_on_train = transform_on_train
        self.transform_on_eval = transform_on_eval
        self.transform_on_fantasize = transform_on_fantasize
        self.reverse = reverse

    def _transform(self, X: Tensor) -> Tensor:
        return self._mapped("forward", X)

    def _untransform(self, X: Tensor) -> Tensor:
        return self._mapped("inverse", X)

    def _mapped(self, op: str, X: Tensor) -> Tensor:
        if self.one_for_all:
            return elementwise(op, "X", X, self.maps[0], None, None)
        if X.shape[-1] != len(self.maps):
            raise ValueError(f"X: {X.shape[-1]} inputs for {len(self.maps)} maps")
        columns = [elementwise(op, f"X[..., {j}]", X[..., j], m, None, None) for j, m in enumerate(self.maps)]
        return torch.stack(columns, dim=-1)

    def equals(self, other: inputs.InputTransform) -> bool:
        """Whether another transform does the same."""
        return bool(
            super().equals(other) and self.maps == other.maps and self.one_for_all == other.one_for_all
        )
