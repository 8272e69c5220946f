"""Scales per tensor under which one learning rate suits every width of a model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from fastmap._map import Map
from fastmap.maps import Affine, Identity
from fastmap.torch._modules import Rule


def mup_rules(
    module: nn.Module, base: nn.Module, *, optimizer: Literal["adam", "sgd"] = "adam"
) -> list[Rule]:
    """Rules for `space` and `fit` that scale each tensor by its width: the maximal-update parametrization.

    A learning rate in z that is right for `base` is then about right for `module`, whatever its width. Tune
    it on the small model, train the large one.

    Parameters
    ----------
    module : torch.nn.Module
        What is trained.
    base : torch.nn.Module
        The same model at the width where the learning rate was tuned, with the same names. Only its shapes
        are read: it may live on the "meta" device.
    optimizer : {"adam", "sgd"}
        What z moves by. "adam" for all that divide a gradient by its size (AdamW, Lion); "sgd" with momentum
        or without.

    Returns
    -------
    list of (name, map)
        `Affine` with theta = scale · z, the identity where the scale is 1, for every parameter.

    Raises
    ------
    ValueError
        Other names or dimensions in `base`; another optimizer.

    Notes
    -----
    With r the factor by which a dimension is larger than in `base`, of Table 3 of Yang and Hu et al., Tensor
    Programs V: Tuning Large Neural Networks via Zero-Shot Hyperparameter Transfer (arXiv 2203.03466):

    ========================  ===================  ================================
    grows with the width      scale for "adam"     scale for "sgd"
    ========================  ===================  ================================
    outputs (input layers,    1                    sqrt(r of outputs)
    biases, norms)
    inputs and outputs        1 / r of inputs      sqrt(r of outputs / r of inputs)
    inputs (output layers)    1 / r of inputs      1 / sqrt(r of inputs)
    ========================  ===================  ================================

    Steps of "adam" in theta are scale · lr, those of "sgd" scale² · lr: these are the learning rates of that
    table, and of the authors' package mup where both dimensions grow by factors of their own. Initial values
    are its other half: `mup_init_` sets what differs from usual ones. A tensor has one scale, which here is
    that of its steps, so that z = theta / scale is not of unit size: that of hidden layers grows as sqrt(r).

    The outputs of a layer are the first axis of its weight and the inputs the second, as torch has them; of
    an embedding it is the other way round. A weight that is input and output layer at once cannot have both
    scales and gets that of the first. Attention in such models divides by the dimension of a head, not by its
    root.

    Examples
    --------
    >>> rules = fastmap.torch.mup_rules(model, base=make(width=64))
    >>> fastmap.torch.mup_init_(model, base=make(width=64))
    >>> fastmap.torch.fit(model, loss, batches, maps=rules, lr=0.01)
    """
    if optimizer not in ("adam", "sgd"):
        raise ValueError(f"optimizer: expected 'adam' or 'sgd', got {optimizer!r}")
    rules: list[Rule] = []
    for name, _, growth in _grown(module, base):
        scale = _adam(growth) if optimizer == "adam" else _sgd(growth)
        m: Map = Identity() if scale == 1 else Affine(scale=scale)
        rules.append((name, m))
    return rules


def mup_init_(module: nn.Module, base: nn.Module) -> None:
    """Divide the weights of output layers by the root of the factor by which their inputs grew, in place.

    Usual initial weights have the variance 1 / inputs; in the maximal-update parametrization those of output
    layers have that of 1 / inputs². Call it once, on fresh weights. Output weights of 0 do as well, and are
    what the authors recommend. See `mup_rules`.

    Parameters
    ----------
    module, base : torch.nn.Module
        As in `mup_rules`.
    """
    with torch.no_grad():
        for _, p, growth in _grown(module, base):
            if growth.inputs != 1 and growth.outputs == 1:
                p.div_(growth.inputs**0.5)


class _Growth(NamedTuple):
    """By which factor the two dimensions of a tensor are larger than at the base width."""

    inputs: float
    outputs: float


def _adam(growth: _Growth) -> float:
    return 1 / growth.inputs


def _sgd(growth: _Growth) -> float:
    return (growth.outputs / growth.inputs) ** 0.5


def _grown(module: nn.Module, base: nn.Module) -> Iterator[tuple[str, Tensor, _Growth]]:
    known = dict(base.named_parameters())
    own = dict(module.named_parameters())
    if set(known) != set(own):
        name = min(set(known) ^ set(own))
        raise ValueError(f"base: {name!r} is a parameter of one of the two models only")
    embeddings = {
        f"{prefix}.{name}" if prefix else name
        for prefix, holder in module.named_modules()
        if isinstance(holder, nn.Embedding | nn.EmbeddingBag)
        for name, _ in holder.named_parameters(recurse=False)
    }
    for name, p in own.items():
        before = known[name]
        if p.ndim != before.ndim or p.shape[2:] != before.shape[2:]:
            raise ValueError(
                f"base: {name!r} has shape {tuple(before.shape)}, which differs from {tuple(p.shape)} in "
                "more than its width"
            )
        ratios = [new / old for new, old in zip(p.shape[:2], before.shape[:2], strict=True)]
        if name in embeddings:
            ratios.reverse()
        outputs, inputs = (*ratios, 1.0, 1.0)[:2]
        yield name, p, _Growth(inputs, outputs)
