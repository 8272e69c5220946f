"""Fit an image by 2-D Gaussians: per-attribute maps, steps of the visible rows only, pruning and splitting.

The model of 3-D Gaussian splatting (Kerbl et al. 2023) in the plane: Gaussians with position, scale, angle,
opacity and colour, added up. Scales are positive, opacities and colours lie in [0, 1]. A step renders one
tile; Gaussians that do not reach it are not visible. Twice, transparent Gaussians make room for copies of
those whose positions had the largest gradients.

Arms: the raw attributes with `clamp_` after the step; exp and sigmoid of unconstrained leaves, as the paper
does it; fastmap on all rows, which is the same mathematics; fastmap on the visible rows only, each with its
own count of steps.
"""

from __future__ import annotations

import sys
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from arms import Arm, Experiment, Training, main
from sklearn.datasets import load_sample_image
from torch import Tensor

import fastmap.torch as ft

N = 120
HEIGHT, WIDTH, TILE = 48, 72, 24
STEPS = 240
CHANGES = (80, 160)  # the steps after which Gaussians are pruned and copied
MAPS = {"scale": "log", "opacity": "interval", "colour": "interval"}
# The same in torch: to the unconstrained leaf and back.
LEAVES = {
    "scale": (torch.log, torch.exp),
    "opacity": (torch.logit, torch.sigmoid),
    "colour": (torch.logit, torch.sigmoid),
}
# Learning rates beside that of the angle. A raw attribute has to move by what a step of z would move it.
SPEED = {"position": 0.03}
RAW_SPEED = {"position": 0.03, "scale": 0.03, "opacity": 0.25, "colour": 0.25}


@cache
def target() -> Tensor:
    """The photograph of a flower that comes with scikit-learn, shrunk; (HEIGHT, WIDTH, 3) in [0, 1]."""
    image = torch.from_numpy(load_sample_image("flower.jpg").copy()).permute(2, 0, 1)[None] / 255.0
    small = torch.nn.functional.interpolate(image, (HEIGHT, WIDTH), mode="area")
    return small[0].permute(1, 2, 0).contiguous()


@cache
def pixels() -> Tensor:
    """Where the pixels lie, in units of the width; (HEIGHT, WIDTH, 2)."""
    rows, columns = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    return (torch.stack([columns, rows], -1) + 0.5) / WIDTH


def start_values(seed: int) -> dict[str, Tensor]:
    """The attributes before the first step."""
    generator = torch.Generator().manual_seed(seed)
    position = torch.rand(N, 2, generator=generator) * torch.tensor([1.0, HEIGHT / WIDTH])
    at = (position * WIDTH).long()
    return {
        "position": position,
        "scale": torch.full((N, 2), 0.03),
        "angle": torch.zeros(N, 1),
        "opacity": torch.full((N, 1), 0.5),
        "colour": target()[at[:, 1].clamp(max=HEIGHT - 1), at[:, 0].clamp(max=WIDTH - 1)] * 0.9 + 0.05,
    }


def render(a: dict[str, Tensor], where: Tensor) -> Tensor:
    """The sum of all Gaussians at some pixels, (..., 3)."""
    d = where.reshape(-1, 1, 2) - a["position"]
    cos, sin = a["angle"].cos()[:, 0], a["angle"].sin()[:, 0]
    along = (d[..., 0] * cos + d[..., 1] * sin) / a["scale"][:, 0]
    across = (d[..., 1] * cos - d[..., 0] * sin) / a["scale"][:, 1]
    weight = torch.exp(-0.5 * (along**2 + across**2))
    return (weight @ (a["opacity"] * a["colour"])).reshape(*where.shape[:-1], 3)


class ByTorch:
    """torch's Adam, on the raw attributes with `clamp_`, or on leaves of exp and sigmoid."""

    def __init__(self, lr: float, seed: int, raw: bool) -> None:
        self.raw = raw
        self.leaves: dict[str, Tensor] = {}
        groups = []
        for name, theta in start_values(seed).items():
            leaf = LEAVES[name][0](theta) if name in LEAVES and not raw else theta
            self.leaves[name] = torch.nn.Parameter(leaf)
            speed = (RAW_SPEED if raw else SPEED).get(name, 1.0)
            groups.append({"params": [self.leaves[name]], "lr": lr * speed})
        self.optimizer: torch.optim.Optimizer = torch.optim.Adam(groups)

    def attributes(self) -> dict[str, Tensor]:
        if self.raw:
            return dict(self.leaves)
        return {n: LEAVES[n][1](leaf) if n in LEAVES else leaf for n, leaf in self.leaves.items()}

    @torch.no_grad()
    def step(self, visible: Tensor) -> None:
        self.optimizer.step()
        if self.raw:
            self.leaves["scale"].clamp_(min=1e-3)
            self.leaves["opacity"].clamp_(0, 1)
            self.leaves["colour"].clamp_(0, 1)

    @torch.no_grad()
    def change(self, keep: Tensor, copies: Tensor) -> None:
        for group, (name, old) in zip(self.optimizer.param_groups, list(self.leaves.items()), strict=True):
            new = torch.nn.Parameter(torch.cat([old[keep], old[copies]]))
            state = self.optimizer.state.pop(old)
            for key in ("exp_avg", "exp_avg_sq"):
                state[key] = torch.cat([state[key][keep], torch.zeros_like(state[key][copies])])
            self.optimizer.state[new] = state
            group["params"], self.leaves[name] = [new], new


class ByFastmap:
    """fastmap's Adam: the attributes are the parameters."""

    def __init__(self, lr: float, seed: int, masked: bool) -> None:
        self.masked = masked
        self.leaves: dict[str, Tensor] = {n: torch.nn.Parameter(t) for n, t in start_values(seed).items()}
        groups = [
            {"params": [p], "map": MAPS.get(name), "lr": lr * SPEED.get(name, 1.0)}
            for name, p in self.leaves.items()
        ]
        self.optimizer = ft.Adam(groups)

    def attributes(self) -> dict[str, Tensor]:
        return dict(self.leaves)

    def step(self, visible: Tensor) -> None:
        self.optimizer.step(mask=visible if self.masked else None)

    def change(self, keep: Tensor, copies: Tensor) -> None:
        kept = keep.nonzero().flatten()
        self.optimizer.select(torch.cat([kept, copies]))
        self.optimizer.reset(torch.arange(len(kept), len(kept) + len(copies)))


def training(way: ByTorch | ByFastmap, seed: int) -> Training:
    """Steps on one tile each, and now and then other Gaussians."""
    generator = torch.Generator().manual_seed(1000 + seed)
    moved = torch.zeros(N)
    count = 0

    def step() -> Tensor:
        nonlocal moved, count
        top = int(torch.randint(HEIGHT - TILE + 1, (), generator=generator))
        left = int(torch.randint(WIDTH - TILE + 1, (), generator=generator))
        tile = (slice(top, top + TILE), slice(left, left + TILE))
        attributes = way.attributes()
        with torch.no_grad():
            low, high = pixels()[tile][0, 0], pixels()[tile][-1, -1]
            reach = 3 * attributes["scale"].amax(1, keepdim=True)
            at = attributes["position"]
            visible = ((at > low - reach) & (at < high + reach)).all(1)
        seen = {name: a[visible] for name, a in attributes.items()}
        loss = (render(seen, pixels()[tile]) - target()[tile]).square().mean()
        way.optimizer.zero_grad()
        loss.backward()
        moved += way.leaves["position"].grad.norm(dim=1)  # type: ignore[union-attr]
        way.step(visible)
        count += 1
        if count in CHANGES:
            keep = attributes["opacity"].detach()[:, 0] > 0.05
            order = torch.where(keep, moved, -1).argsort(descending=True)
            way.change(keep, order[: int((~keep).sum())])
            moved = torch.zeros(N)
        return loss.detach()

    def result() -> dict[str, Any]:
        with torch.no_grad():
            loss = (render(way.attributes(), pixels()) - target()).square().mean()
        return {"loss": float(loss), "psnr": float(-10 * loss.log10())}

    return step, result


def start(arm: str, lr: float, seed: int) -> Training:
    """A run of an arm by its name."""
    return training(make(arm, lr, seed), seed)


def make(arm: str, lr: float, seed: int) -> ByTorch | ByFastmap:
    if arm.startswith("fastmap"):
        return ByFastmap(lr, seed, masked="visible" in arm)
    return ByTorch(lr, seed, raw="raw" in arm)


NAMES = ("raw + clamp_", "exp and sigmoid", "fastmap", "fastmap, visible rows")
EXPERIMENT = Experiment(
    arms=[Arm(name, partial(start, name)) for name in NAMES],
    rates=[float(f"{10 ** (k / 2):.2g}") for k in range(-6, 1)],
    steps=STEPS,
    seeds=5,
    label="mean squared error of the image",
)


def draw_images(record: dict[str, Any], path: Path) -> None:
    """The photograph, and what the first seed of each arm made of it at the arm's best learning rate."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 2.1), layout="constrained")
    axes = figure.subplots(1, len(NAMES) + 1)
    axes[0].imshow(target().numpy())
    axes[0].set_title("photograph", fontsize=11)
    for ax, row in zip(axes[1:], record["arms"], strict=True):
        way = make(row["arm"], row["lr"], seed=0)
        step, result = training(way, seed=0)
        for _ in range(record["steps"]):
            step()
        with torch.no_grad():
            ax.imshow(render(way.attributes(), pixels()).clamp(0, 1).numpy())
        ax.set_title(f"{row['arm']}\n{result()['psnr']:.1f} dB", fontsize=11)
    for ax in axes:
        ax.set_axis_off()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    record, out = main(EXPERIMENT, __file__, sys.argv[1:])
    draw_images(record, out / "image_fit_images.png")
