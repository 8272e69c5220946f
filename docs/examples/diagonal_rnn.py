"""A diagonal linear RNN learns the filter that turns white noise into pink (1/f) noise.

Pink noise remembers on every scale: the impulse response of its filter falls as k^-1/2 (Kasdin, "Discrete
simulation of colored noise and stochastic processes and 1/f^alpha power law noise generation", 1995). No
finite sum of exponentials equals it; a good one has decays that spread evenly in log(1 - decay), some very
close to 1, as in LRU (Orvieto et al. 2023), S4D and other diagonal state-space models. It needs no download,
and the RNN over a whole signal is one convolution. The usual tests of a long memory (copying, adding) would
not do: their best decay is 1 itself, which a clamp reaches exactly.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any

import arms
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import fastmap as fm
import fastmap.torch as ft

LENGTH, STATES, SIGNALS, BATCH, STEPS = 2048, 16, 64, 8, 400
BLOCK = 64  # of powers: decay^(64 i + j) is one small product of two short tables


@lru_cache
def pink() -> Tensor:
    """The impulse response: h_0 = 1, h_k = h_(k-1) (k - 1/2) / k."""
    k = torch.arange(1, LENGTH, dtype=torch.float64)
    return torch.cat([torch.ones(1), ((k - 0.5) / k).cumprod(0).float()])


def filtered(u: Tensor, response: Tensor) -> Tensor:
    """The causal convolution of signals with an impulse response."""
    n = 2 * u.shape[-1]
    return torch.fft.irfft(torch.fft.rfft(u, n) * torch.fft.rfft(response, n), n)[..., : u.shape[-1]]


@lru_cache
def signals(seed: int) -> tuple[Tensor, Tensor]:
    """White signals and the pink ones that their filter makes of them."""
    u = torch.randn(SIGNALS, LENGTH, generator=torch.Generator().manual_seed(seed))
    return u, filtered(u, pink())


class DiagonalRNN(nn.Module):
    """x_t = decay x_(t-1) + scale u_t and y_t = sum of gain x_t + skip u_t, for a scalar signal u."""

    scale: Tensor

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        decay = 0.8 + 0.19 * torch.rand(STATES, generator=generator)
        self.decay = nn.Parameter(decay)
        self.gain = nn.Parameter(torch.randn(STATES, generator=generator) / STATES**0.5)
        self.skip = nn.Parameter(torch.zeros(1))
        self.register_buffer("scale", (1 - decay**2).sqrt())  # states start with unit variance, as in LRU

    def forward(self, u: Tensor) -> Tensor:
        decay = self.decay[:, None]
        blocks = decay ** torch.arange(0, u.shape[-1], BLOCK)
        inside = decay ** torch.arange(BLOCK)
        response = blocks.T @ (inside * (self.gain * self.scale)[:, None])
        return filtered(u, response.flatten()) + self.skip * u


class Sigmoid(nn.Module):
    """decay = sigmoid(z)."""

    def forward(self, z: Tensor) -> Tensor:
        return z.sigmoid()

    def right_inverse(self, decay: Tensor) -> Tensor:
        return decay.logit()


class ExpExp(nn.Module):
    """decay = exp(-exp(z)), the stable exponential of LRU."""

    def forward(self, z: Tensor) -> Tensor:
        return torch.exp(-torch.exp(z))

    def right_inverse(self, decay: Tensor) -> Tensor:
        return (-decay.log()).log()


def clamped(lr: float, seed: int, decay_rate: float) -> arms.Training:
    """The decays as they are, held in [0, 1] after each step; their learning rate is lr times decay_rate."""
    model = DiagonalRNN(torch.Generator().manual_seed(seed))
    groups = [{"params": [model.decay], "lr": lr * decay_rate}, {"params": [model.gain, model.skip]}]
    return training(model, torch.optim.Adam(groups, lr), seed, clamp=True)


def parametrized(lr: float, seed: int, parametrization: type[nn.Module]) -> arms.Training:
    """The decays by torch.nn.utils.parametrize."""
    model = DiagonalRNN(torch.Generator().manual_seed(seed))
    parametrize.register_parametrization(model, "decay", parametrization())
    return training(model, torch.optim.Adam(model.parameters(), lr), seed)


def mapped(lr: float, seed: int, map: fm.Map) -> arms.Training:
    """The decays mapped by the optimizer; the model is as it was."""
    model = DiagonalRNN(torch.Generator().manual_seed(seed))
    groups = [{"params": [model.decay], "map": map}, {"params": [model.gain, model.skip]}]
    return training(model, ft.Adam(groups, lr), seed)


def training(
    model: DiagonalRNN, optimizer: torch.optim.Optimizer, seed: int, clamp: bool = False
) -> arms.Training:
    """The loop that all arms share: Adam, a cosine schedule, random batches."""
    generator = torch.Generator().manual_seed(seed)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    u, y = signals(seed)

    def step() -> Tensor:
        batch = torch.randint(SIGNALS, (BATCH,), generator=generator)
        loss = (model(u[batch]) - y[batch]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if clamp:
            with torch.no_grad():
                model.decay.clamp_(0, 1)
        return loss

    @torch.no_grad()
    def result() -> dict[str, Any]:
        u, y = signals(seed + 1_000_000)  # never trained on
        error = (model(u) - y).square().mean() / y.square().mean()
        return {"loss": float(error), "decays": sorted(model.decay.tolist())}

    return step, result


EXPERIMENT = arms.Experiment(
    arms=[
        arms.Arm("raw + clamp_", partial(clamped, decay_rate=1)),
        arms.Arm("raw + clamp_, decays at lr/10", partial(clamped, decay_rate=0.1)),
        arms.Arm("parametrize, sigmoid", partial(parametrized, parametrization=Sigmoid)),
        arms.Arm("parametrize, exp(-exp)", partial(parametrized, parametrization=ExpExp)),
        arms.Arm("fastmap Interval(0, 1)", partial(mapped, map=fm.Interval(0, 1))),
        arms.Arm("fastmap OneMinusLog()", partial(mapped, map=fm.OneMinusLog())),
    ],
    rates=[float(f"{rate:.2g}") for rate in np.geomspace(1e-3, 1, 10)],
    steps=STEPS,
    seeds=7,
    failed_above=1.0,  # worse than no model
    within=2.0,
    label="relative squared error on new signals",
)

if __name__ == "__main__":
    arms.main(EXPERIMENT, __file__)
