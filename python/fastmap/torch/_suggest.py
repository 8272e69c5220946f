"""`suggest` for the tensors of a model: from gradients and Hessian diagonals."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from fastmap._candidates import Candidate, ranked
from fastmap._functional import log_abs_det
from fastmap._map import Map
from fastmap._suggest import TIE, Suggestion, chosen, identity, plainest
from fastmap.maps import Identity

_FEWEST = 30  # elements with a positive second derivative
_AIC = 10.0  # Burnham and Anderson (2002): no support for the other model; there are two dozen of them
_GAIN = 2.0  # by which the condition proxy has to fall
_SAMPLE = 1 << 12  # elements by which maps and their parameters are chosen; all elements then judge them
_BLOCK = 1 << 18
_CONCAVE = 0.05  # share of elements whose second derivative may turn negative in z


def suggest(
    model: nn.Module,
    loss: Any,
    *,
    diagonal: Literal["hutchinson", "exact"] = "hutchinson",
    probes: int = 32,
    seed: int = 0,
) -> dict[str, Suggestion]:
    """Which map suits each parameter tensor of a model, by its gradient and Hessian diagonal where it is.

    Parameters
    ----------
    model : torch.nn.Module
        Parameters that require no grad are left out. Neither values nor ``.grad`` change.
    loss : callable or Tensor
        Without arguments, the scalar loss on a fixed batch; or that scalar with its graph.
    diagonal : {"hutchinson", "exact"}
        The estimate: the mean of v * (H v) over random signs v (Bekas, Kokiopoulou and Saad, 2007, after
        Hutchinson, 1990), all tensors at once, whose noise comes from the off-diagonal entries; or exactly,
        one product with the Hessian per element: for small models only.
    probes : int
        How many v.
    seed : int
        Of the v; torch's own generator is not touched.

    Returns
    -------
    dict
        A `Suggestion` by name. Identity, and why, for a tensor without gradient, without curvature or whose
        elements are too few or the same.

    Raises
    ------
    TypeError
        loss is no scalar.
    ValueError
        The loss is not finite, diagonal or probes is not as above.

    Notes
    -----
    In z = g(theta) the second derivative is (L'' - L' g''/g')/g'². A good map makes it the same for all
    elements: a score is the share by which the variance of its logarithm falls. If L'' ~ abs(theta)^-p, that
    is the regression of log L'' on log abs theta, whose best power is 1 - p/2: logarithm for p = 2, square
    root for 1. Maps and parameters are chosen on up to 4,096 elements without the gradient's term, then
    judged on all elements with it, in blocks. A map is suggested if its Akaike criterion gains over 10, if
    the condition proxy exp(4 standard deviations) halves, and if at most 5 % of the convex elements turn
    concave.

    Elements of one tensor are compared with each other: what differs for other reasons than theta looks like
    noise. A diagonal scale is no news to Adam, and no elementwise map turns axes.
    """
    if diagonal not in ("hutchinson", "exact"):
        raise ValueError(f"diagonal: {diagonal!r} is neither hutchinson nor exact")
    if probes < 1:
        raise ValueError(f"probes: must be at least 1, got {probes}")
    params = {name: p for name, p in model.named_parameters() if p.requires_grad}
    result = {
        name: identity("it requires no grad") for name, p in model.named_parameters() if name not in params
    }
    with torch.enable_grad():
        value = loss() if callable(loss) else loss
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise TypeError("loss: expected a scalar tensor, or a callable that returns one")
        if not torch.isfinite(value).all():
            raise ValueError(f"loss: {value.item()} is not finite")
        if not params or not value.requires_grad:
            return {**result, **{name: identity("the loss has no gradient") for name in params}}
        tensors = list(params.values())
        grads = torch.autograd.grad(value.sum(), tensors, create_graph=True, allow_unused=True)
        used = {name: (p, g) for (name, p), g in zip(params.items(), grads, strict=True) if g is not None}
        diagonals = _exact(used) if diagonal == "exact" else _hutchinson(used, probes, seed)
    for name, p in params.items():
        if name not in used:
            result[name] = identity("the loss does not depend on it")
        else:
            result[name] = _judged(p.detach(), used[name][1].detach(), diagonals[name])
    return {name: result[name] for name, _ in model.named_parameters()}


Used = dict[str, tuple[Tensor, Tensor]]  # parameter and gradient with graph, by name


def _products(used: Used, vectors: list[Tensor]) -> list[Tensor]:
    """H v, zero where the gradient does not depend on the parameter."""
    pairs = [(g, v) for (_, g), v in zip(used.values(), vectors, strict=True) if g.requires_grad]
    params = [p for p, _ in used.values()]
    if not pairs:
        return [torch.zeros_like(p) for p in params]
    outputs, weights = zip(*pairs, strict=True)
    found = torch.autograd.grad(outputs, params, weights, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(p) if h is None else h for p, h in zip(params, found, strict=True)]


def _hutchinson(used: Used, probes: int, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sums = [torch.zeros_like(p) for p, _ in used.values()]
    for _ in range(probes):
        signs = [torch.randint(0, 2, s.shape, generator=generator).to(s) * 2 - 1 for s in sums]
        for total, v, h in zip(sums, signs, _products(used, signs), strict=True):
            total.addcmul_(v, h, value=1 / probes)
    return dict(zip(used, sums, strict=True))


def _exact(used: Used) -> dict[str, Tensor]:
    result: dict[str, Tensor] = {}
    for name, (p, g) in used.items():
        diagonal = torch.zeros_like(p)
        for i in range(p.numel() if g.requires_grad else 0):
            row = torch.autograd.grad(g.reshape(-1)[i], p, retain_graph=True, allow_unused=True)[0]
            if row is not None:
                diagonal.view(-1)[i] = row.reshape(-1)[i]
        result[name] = diagonal
    return result


def _blocks(*tensors: Tensor) -> Iterator[list[Any]]:
    """float64 arrays of a block of elements each."""
    flat = [t.reshape(-1) for t in tensors]
    for i in range(0, flat[0].numel(), _BLOCK):
        yield [t[i : i + _BLOCK].to("cpu", torch.float64).numpy() for t in flat]


def _judged(theta: Tensor, gradient: Tensor, curvature: Tensor) -> Suggestion:
    positive = (curvature > 0) & torch.isfinite(theta) & torch.isfinite(gradient) & torch.isfinite(curvature)
    count = int(positive.sum())
    if count < _FEWEST:
        return identity(f"{count} elements have a positive second derivative, {_FEWEST} are needed")
    where = positive.reshape(-1).nonzero().squeeze(1)[:: math.ceil(count / _SAMPLE)]
    x, h = (t.reshape(-1)[where].to("cpu", torch.float64).numpy() for t in (theta, curvature))
    if np.unique(x).size < _FEWEST:
        return identity(f"fewer than {_FEWEST} of its elements differ")
    log_h = np.log(h)
    spread = log_h.var()
    if not spread > 1e-6:
        return identity("its second derivatives are all the same")

    def score(m: Map, z: Any) -> Any:
        slopes = log_abs_det(np.broadcast_to(x, z.shape), m, axis=())
        return 1 - (log_h - 2 * slopes).var(axis=1) / spread

    # Box ends: no element may lie outside the map.
    low, high = theta.min().item(), theta.max().item()
    table = [c for c, _ in ranked(x, score, box=(low, high))]
    criterion = "score: share of the variance of log second derivatives that the map removes"
    same = next(c for c in table if c.map == Identity())

    def aic(c: Candidate) -> float:
        return x.size * math.log(max(1 - c.score, 1e-12)) + 2 * c.fitted

    ordered = sorted(table, key=aic)
    best = plainest([c for c in ordered if aic(c) < aic(ordered[0]) + TIE])
    why = "no map evens out its second derivatives clearly"
    if -aic(best) > _AIC:
        before, after, concave = _curvature(best.map, theta, gradient, curvature)
        gain = math.exp(min(4 * (before - after), 700.0))
        if concave > _CONCAVE:
            why = f"{best.map!r} turns {concave:.0%} of the convex elements concave"
        elif gain < _GAIN:
            why = f"{best.map!r} improves the spread of second derivatives by a factor {gain:.2g} only"
        else:
            ends = (
                "" if best.map.domain == (-math.inf, math.inf) else f" It keeps theta in {best.map.domain}."
            )
            reason = (
                f"{best.map!r} evens out second derivatives: the standard deviation of their logarithms is "
                f"{after:.3g} instead of {before:.3g}. Plain gradient steps gain by it, Adam hardly.{ends}"
            )
            return chosen(table, best, criterion, reason)
    return chosen(table, same, criterion, f"Identity, because {why}.")


def _curvature(m: Map, theta: Tensor, gradient: Tensor, curvature: Tensor) -> tuple[float, float, float]:
    """Standard deviations of log L'' in theta and in z, and the share of convex elements concave in z."""
    sums = np.zeros((2, 3))
    convex = concave = 0
    for x, g, h in _blocks(theta, gradient, curvature):
        kept = (h > 0) & np.isfinite(x) & np.isfinite(g)
        x, g, h = x[kept], g[kept], h[kept]
        leaf = torch.from_numpy(x).requires_grad_()
        with torch.enable_grad():
            log_slope = log_abs_det(leaf, m, axis=())
            bend = torch.autograd.grad(log_slope.sum(), leaf, allow_unused=True)[0]
        h_z = h if bend is None else h - g * bend.numpy()
        good = h_z > 0
        convex, concave = convex + x.size, concave + int((~good).sum())
        logs = np.log(h[good]), np.log(h_z[good]) - 2 * log_slope.detach().numpy()[good]
        sums += [(v.size, v.sum(), np.square(v).sum()) for v in logs]
    n, total, squares = sums.T
    with np.errstate(invalid="ignore", divide="ignore"):
        before, after = np.sqrt(np.maximum(squares / n - (total / n) ** 2, 0))
    return float(before), float(after), concave / max(convex, 1)
