"""Mean-field variational inference for a Bayesian logistic regression, with reparametrised gradients.

The guide is a normal distribution per weight; its scales are positive. Each arm keeps them so in its own way,
and trains two guides side by side: the scales of one start far too small, those of the other at the prior's
scale, far too large. The loss of a run is the negative ELBO of the worse one, since nobody knows the right
scale beforehand. The method: Kucukelbir et al., "Automatic Differentiation Variational Inference" (2017).
"""

from __future__ import annotations

import math
from functools import lru_cache, partial
from typing import Any

import arms
import numpy as np
import torch
from sklearn.datasets import load_breast_cancer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

import fastmap as fm
import fastmap.torch as ft
from fastmap.recipes._report import text_table

PRIOR = 10.0  # standard deviation of the weights, features standardised
STARTS = (1e-3, PRIOR)  # of the scales
SAMPLES, STEPS = 4, 600
FLOOR = 1e-6  # of the scales, where they are clamped


@lru_cache
def data() -> tuple[Tensor, Tensor]:
    """Standardised features with a constant, and labels: 569 × 31 and 569."""
    x, y = load_breast_cancer(return_X_y=True)
    x = (x - x.mean(0)) / x.std(0)
    return torch.tensor(np.c_[x, np.ones(len(x))]).float(), torch.tensor(y).float()


class Guide(nn.Module):
    """A normal distribution per weight, one guide per start."""

    def __init__(self, starts: tuple[float, ...]) -> None:
        super().__init__()
        weights = data()[0].shape[1]
        self.loc = nn.Parameter(torch.zeros(len(starts), weights))
        self.scale = nn.Parameter(torch.tensor(starts)[:, None].repeat(1, weights))


def divergence(loc: Tensor, scale: Tensor) -> Tensor:
    """KL(guide || prior) in nats."""
    kl = 0.5 * ((loc / PRIOR).square() + (scale / PRIOR).square() - 1) - (scale / PRIOR).log()
    return kl.sum(-1)


def sampled(guide: Guide, generator: torch.Generator) -> Tensor:
    """Negative ELBO from samples of the weights, one per guide."""
    x, y = data()
    loc, scale = guide.loc, guide.scale
    noise = torch.randn(SAMPLES, 1, loc.shape[-1], generator=generator)
    logits = (loc + scale * noise) @ x.T
    return (F.softplus(logits) - y * logits).sum(-1).mean(0) + divergence(loc, scale)


@lru_cache
def quadrature() -> tuple[Tensor, Tensor]:
    """Nodes and weights for the mean over a standard normal variable."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(100)
    return torch.tensor(nodes), torch.tensor(weights / math.sqrt(2 * math.pi))


def exact(loc: Tensor, scale: Tensor) -> Tensor:
    """Negative ELBO in float64 without samples: logits are normal, so the mean of each is one integral."""
    x, y = (a.double() for a in data())
    nodes, weights = quadrature()
    mean, deviation = loc @ x.T, (scale.square() @ x.square().T).sqrt()
    softplus = F.softplus(mean[..., None] + deviation[..., None] * nodes) @ weights
    return (softplus - y * mean).sum(-1) + divergence(loc, scale)


@lru_cache
def optimum() -> float:
    """The least negative ELBO of all such guides, by L-BFGS on the exact one."""
    weights = data()[0].shape[1]
    loc, z = (torch.zeros(1, weights, dtype=torch.float64, requires_grad=True) for _ in range(2))
    optimizer = torch.optim.LBFGS([loc, z], max_iter=1000, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = exact(loc, fm.inverse(z, "log")).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return float(closure().detach())


class Softplus(nn.Module):
    """scale = log(1 + exp(rho))."""

    def forward(self, rho: Tensor) -> Tensor:
        return F.softplus(rho)

    def right_inverse(self, scale: Tensor) -> Tensor:
        return scale + (-torch.expm1(-scale)).log()


class Exp(nn.Module):
    """scale = exp(log scale)."""

    def forward(self, log_scale: Tensor) -> Tensor:
        return log_scale.exp()

    def right_inverse(self, scale: Tensor) -> Tensor:
        return scale.log()


def start(arm: fm.Map | type[nn.Module] | None, lr: float, seed: int) -> arms.Training:
    """A map of fastmap, a parametrization, or None for raw scales with `clamp_`."""
    generator = torch.Generator().manual_seed(seed)
    guide = Guide(STARTS)
    if isinstance(arm, fm.Map):
        groups = [{"params": [guide.loc]}, {"params": [guide.scale], "map": arm}]
        optimizer: Any = ft.Adam(groups, lr)
    else:
        if arm is not None:
            parametrize.register_parametrization(guide, "scale", arm())
        optimizer = torch.optim.Adam(guide.parameters(), lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = sampled(guide, generator).sum()  # no element of one guide depends on the other
        loss.backward()
        optimizer.step()
        schedule.step()
        if arm is None:
            with torch.no_grad():
                guide.scale.clamp_(min=FLOOR)
        return loss.detach()

    @torch.no_grad()
    def result() -> dict[str, Any]:
        losses = exact(guide.loc.double(), guide.scale.double()).tolist()
        return {"loss": max(losses), "by_start": losses}

    return step, result


def reference(lr: float, seed: int) -> arms.Training:
    """What a guide can reach."""
    return lambda: None, lambda: {"loss": optimum()}


def entropy() -> float:
    """Negative log-likelihood of a model that ignores the features, in nats."""
    share = data()[1].mean()
    return float(F.binary_cross_entropy(share.expand(len(data()[1])), data()[1], reduction="sum"))


def by_start(record: dict[str, Any]) -> str:
    """Each start by itself: median at its best learning rate, and failures over all of them."""
    rows = []
    for name in dict.fromkeys(r["arm"] for r in record["runs"] if r["lr"] is not None):
        own = [r for r in record["runs"] if r["arm"] == name]
        row = [name]
        for i in range(len(STARTS)):
            losses = {
                rate: [r["by_start"][i] if "by_start" in r else math.inf for r in own if r["lr"] == rate]
                for rate in record["rates"]
            }
            medians = {rate: float(np.median(v)) for rate, v in losses.items()}
            best = min(medians, key=medians.__getitem__)
            failed = sum(not v <= record["failed_above"] for values in losses.values() for v in values)
            row += [f"{medians[best]:.1f} at {best:g}", f"{failed}/{len(own)}"]
        rows.append(tuple(row))
    head = [text for s in STARTS for text in (f"from {s:g}", "failed")]
    return text_table(("negative ELBO by start of the scales", *head), rows)


EXPERIMENT = arms.Experiment(
    arms=[
        arms.Arm("raw + clamp_", partial(start, None)),
        arms.Arm("fastmap: Softplus()", partial(start, fm.Softplus())),
        arms.Arm("fastmap: Log()", partial(start, fm.Log())),
        arms.Arm("parametrize: softplus", partial(start, Softplus)),
        arms.Arm("parametrize: exp", partial(start, Exp)),
        arms.Arm("optimum (L-BFGS)", reference, has_rate=False),
    ],
    rates=[0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0],
    steps=STEPS,
    seeds=5,
    failed_above=entropy(),
    log_loss=False,
    within=2.0,
    label="negative ELBO of the worse start (nats)",
)

if __name__ == "__main__":
    print(by_start(arms.main(EXPERIMENT, __file__)[0]))
