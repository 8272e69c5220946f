"""A small CNN learns the scales of its quantisers (LSQ), which start ten times too small.

Learned step size quantisation (Esser et al., "Learned Step Size Quantization", ICLR 2020): a tensor x becomes
s round(clamp(x / s, low, high)), gradients pass the rounding as if it were not there, and the scale s > 0 is
learned with the weights. Here weights and activations have 3 bits and one scale per tensor; the network was
trained without quantisation first. Scales that start well need little learning, so they start at a tenth of
what LSQ would take. Ten times too large is tried too: all rounds to zero, and so do the gradients.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import arms
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

import fastmap as fm
import fastmap.torch as ft
from fastmap.recipes._report import text_table

BITS, BATCH, STEPS = 3, 64, 150
SMALLEST = 1e-6  # where the clamp holds a scale


@lru_cache
def digits(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """scikit-learn's digits, 8 x 8 pixels in [0, 1]: x and y to train on, x and y to test on."""
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(seed))
    x = torch.tensor(data.data / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)[order]
    y = torch.tensor(data.target)[order]
    return x[:1200], y[:1200], x[1200:], y[1200:]


class Quantiser(nn.Module):
    """x to s round(clamp(x / s, low, high)), with the straight-through gradient of LSQ."""

    def __init__(self, low: int, high: int) -> None:
        super().__init__()
        self.low, self.high = low, high
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.scale
        share = (x[0].numel() * self.high) ** -0.5  # LSQ's gradient scale; Adam divides most of it out again
        scale = scale * share + (scale - scale * share).detach()
        levels = (x / scale).clamp(self.low, self.high)
        return (levels + (levels.round() - levels).detach()) * scale

    @torch.no_grad()
    def begin(self, x: Tensor, factor: float) -> None:
        """The scale that LSQ would start with, times a factor."""
        self.scale.fill_(2 * x.abs().mean() / self.high**0.5 * factor)


class CNN(nn.Module):
    """Two convolutions and a linear layer; as it is built, without quantisation."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 16, 3, 2), nn.Linear(144, 10)]
        )
        self.weights = nn.ModuleList(Quantiser(-(2 ** (BITS - 1)), 2 ** (BITS - 1) - 1) for _ in self.layers)
        self.inputs = nn.ModuleList(
            Quantiser(0, 2**BITS - 1) for _ in self.layers[1:]
        )  # pixels stay as they are
        self.quantised = False

    def forward(self, x: Tensor, seen: list[Tensor] | None = None) -> Tensor:
        for i, layer in enumerate(self.layers):
            weight = layer.weight
            if i:
                x = x.relu()
                if seen is not None:
                    seen.append(x)
            if self.quantised:
                weight = self.weights[i](weight)
                x = self.inputs[i - 1](x) if i else x
            if isinstance(layer, nn.Linear):
                x = F.linear(x.flatten(1), weight, layer.bias)
            else:
                x = F.conv2d(x, weight, layer.bias, layer.stride, layer.padding)
        return x

    def quantisers(self) -> list[Quantiser]:
        return [*self.weights, *self.inputs]


@lru_cache
def trained(seed: int) -> dict[str, Tensor]:
    """The weights of the network that is to be quantised."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = CNN()
    optimizer = torch.optim.Adam(model.layers.parameters(), 3e-3)
    step = training(model, optimizer, seed)[0]
    for _ in range(STEPS):
        step()
    return model.state_dict()


def quantised(seed: int, start: float) -> CNN:
    """That network with quantisers whose scales are the usual ones times `start`."""
    model = CNN()
    model.load_state_dict(trained(seed))
    seen: list[Tensor] = []
    with torch.no_grad():
        model(digits(seed)[0][:256], seen)
    for quantiser, x in zip(model.quantisers(), [layer.weight for layer in model.layers] + seen, strict=True):
        quantiser.begin(x, start)
    model.quantised = True
    return model


def clamped(lr: float, seed: int, scale_rate: float, start: float = 0.1) -> arms.Training:
    """The scales as they are, held above a small number; their learning rate is lr times scale_rate."""
    model = quantised(seed, start)
    scales = [q.scale for q in model.quantisers()]
    groups = [{"params": scales, "lr": lr * scale_rate}, {"params": model.layers.parameters()}]
    return training(model, torch.optim.Adam(groups, lr), seed, clamp=scales)


class Exp(nn.Module):
    """scale = exp(z)."""

    def forward(self, z: Tensor) -> Tensor:
        return z.exp()

    def right_inverse(self, scale: Tensor) -> Tensor:
        return scale.log()


class Softplus(nn.Module):
    """scale = log(1 + exp(z))."""

    def forward(self, z: Tensor) -> Tensor:
        return F.softplus(z)

    def right_inverse(self, scale: Tensor) -> Tensor:
        return scale + (-(-scale).expm1()).log()


def parametrized(
    lr: float, seed: int, parametrization: type[nn.Module], scale_rate: float = 1, start: float = 0.1
) -> arms.Training:
    """The scales by torch.nn.utils.parametrize."""
    model = quantised(seed, start)
    for quantiser in model.quantisers():
        parametrize.register_parametrization(quantiser, "scale", parametrization())
    scales = [q.parametrizations.scale.original for q in model.quantisers()]
    groups = [{"params": scales, "lr": lr * scale_rate}, {"params": model.layers.parameters()}]
    return training(model, torch.optim.Adam(groups, lr), seed)


def mapped(lr: float, seed: int, map: fm.Map, scale_rate: float = 1, start: float = 0.1) -> arms.Training:
    """The scales mapped by the optimizer; the model is as it was."""
    model = quantised(seed, start)
    scales = [q.scale for q in model.quantisers()]
    groups = [{"params": scales, "map": map, "lr": lr * scale_rate}, {"params": model.layers.parameters()}]
    return training(model, ft.Adam(groups, lr), seed)


def training(
    model: CNN, optimizer: torch.optim.Optimizer, seed: int, clamp: list[Tensor] | None = None
) -> arms.Training:
    """The loop that all arms share: Adam, a cosine schedule, random batches."""
    generator = torch.Generator().manual_seed(seed)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    x, y, x_test, y_test = digits(seed)

    def step() -> Tensor:
        batch = torch.randint(len(x), (BATCH,), generator=generator)
        loss = F.cross_entropy(model(x[batch]), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            for scale in clamp or ():
                scale.clamp_(min=SMALLEST)
        return loss

    @torch.no_grad()
    def result() -> dict[str, Any]:
        logits = model(x_test)
        accuracy = (logits.argmax(1) == y_test).float().mean()
        scales = [float(q.scale) for q in model.quantisers()]
        return {"loss": float(F.cross_entropy(logits, y_test)), "accuracy": float(accuracy), "scales": scales}

    return step, result


EXPERIMENT = arms.Experiment(
    arms=[
        arms.Arm("raw + clamp_", partial(clamped, scale_rate=1)),
        arms.Arm("raw + clamp_, scales at lr/10", partial(clamped, scale_rate=0.1)),
        arms.Arm("parametrize, softplus", partial(parametrized, parametrization=Softplus)),
        arms.Arm("parametrize, exp", partial(parametrized, parametrization=Exp)),
        arms.Arm(
            "parametrize, exp, scales at 10 lr", partial(parametrized, parametrization=Exp, scale_rate=10)
        ),
        arms.Arm("fastmap Log()", partial(mapped, map=fm.Log())),
        arms.Arm("fastmap Log(), scales at 10 lr", partial(mapped, map=fm.Log(), scale_rate=10)),
    ],
    rates=[float(f"{rate:.2g}") for rate in np.geomspace(1e-4, 1e-1, 7)],
    steps=STEPS,
    seeds=5,
    failed_above=float(np.log(10)),  # worse than a guess
    within=1.5,
    label="test cross-entropy",
)


def accuracy(record: dict[str, Any]) -> str:
    """Accuracy at the best learning rates; and with scales that start ten times too large."""
    rows = []
    for row in record["arms"]:
        at_best = [r for r in record["runs"] if (r["arm"], r["lr"]) == (row["arm"], row["lr"])]
        large = [r for r in record["ten_times_too_large"] if r["arm"] == row["arm"]]
        medians = [float(np.median([r.get("accuracy", 0.0) for r in own])) for own in (at_best, large)]
        rows.append((row["arm"], *(f"{100 * median:.1f} %" for median in medians)))
    return text_table(("median test accuracy", "ten times too small", "ten times too large"), rows)


def main() -> None:
    """Run the experiment, then the best learning rates again with scales that are too large."""
    record, out = arms.main(EXPERIMENT, __file__)
    experiment = replace(EXPERIMENT, steps=record["steps"])
    record["ten_times_too_large"] = [
        arms.run(experiment, replace(arm, start=partial(arm.start, start=10.0)), row["lr"], seed)
        for arm, row in zip(experiment.arms, record["arms"], strict=True)
        for seed in range(min(3, record["seeds"]))
    ]
    (out / "quantised_cnn.json").write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
    print("\n" + accuracy(record))


if __name__ == "__main__":
    main()
