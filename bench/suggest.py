"""How often `suggest_from` is right, and how often it harms:
``python bench/suggest.py --out bench/suggest.json``.

Every kind of map in the catalog generates cases. A case has a box of theta, a bowl q = ((z - c)/w)² in the
generating z, c drawn from its middle 60 %, and 60 trials; in turn

- its loss is q (quadratic), its root (absolute), exp(5 q) (exponential) or 4 q / (1 + 4 q) (plateau);
- its trials are drawn evenly in the generating z, in theta, or in the z of another map.

The noise is normal with 5 % of the loss's standard deviation; with the exponential it multiplies: 5 % of the
standard deviation of the loss's logarithm.

A map's score is R² of a quadratic in its z against q, free of noise, on a grid even in the generating z,
whose own score is 1: no monotone shape of the loss changes it, as none changes what a search by ranks does.
An answer is near above 0.9, and harms below 0.9 of identity's score.

Whether 60 trials can tell two maps apart says an oracle that knows the shape and the noise and has to choose
between the true loss and the best bowl of that shape in the other z: they are apart if it errs in 1 % of the
cases at most. It is not the criterion of `suggest_from`, which knows neither shape nor noise. Cases count
where identity and the generating map are apart; an answer is right if it is near, or not apart from the
generating map: maps that 60 trials cannot tell apart count as one. Where identity itself is near, every
cautious answer is right: that share has a column of its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastmap as fm
from fastmap._trials import _columns
from fastmap.maps import CLASSES

Floats = NDArray[np.float64]
TRIALS, NOISE = 60, 0.05
NEAR, HARM = 0.9, 0.9
# Squared distance, in standard deviations of the noise, of two losses that the best test between them
# confuses in 1 % of the cases: the normal distribution function of -sqrt(D)/2 is 0.01.
APART = (2 * 2.326) ** 2

SHAPES: dict[str, Callable[[Floats], Floats]] = {
    "quadratic": lambda q: q,
    "absolute": np.sqrt,
    "exponential": lambda q: 5 * q,  # the logarithm of the loss, in which its noise is even
    "plateau": lambda q: 4 * q / (1 + 4 * q),
}
SHARES = ("cases", "apart", "right", "near", "identity near", "harmful", "another map than identity")
DESIGNS = ("own z", "theta", "other z")


def window(m: fm.Map) -> tuple[float, float]:
    """Where z of the trials lies: six units to both sides, or nearly all of a bounded codomain."""
    low, high = m.codomain
    if np.isfinite(low) and np.isfinite(high):
        return low + 0.01 * (high - low), high - 0.01 * (high - low)
    reach = 6.0
    while not inside(m, ends := (max(-reach, low + 0.05), min(reach, high - 0.05))):
        reach /= 2
    return ends


def inside(m: fm.Map, ends: tuple[float, float]) -> bool:
    """Whether theta stays off the bounds, where z would be lost."""
    first, last = m.domain
    theta = fm.inverse(np.array(ends), m)
    return bool(((theta > first) & (theta < last)).all())


def r2(z: Floats, y: Floats) -> float:
    """Of a quadratic in z."""
    design = np.concatenate([np.ones((z.size, 1)), _columns(z[None])[0]], axis=1)
    residual = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    return 1 - float(residual @ residual / np.square(y - y.mean()).sum())


def score(m: fm.Map, grid: Floats, y: Floats) -> float:
    z = fm.forward(grid, m, invalid="nan")
    return r2(z, y) if np.isfinite(z).all() and np.ptp(z) > 0 else -np.inf


class Case:
    """Trials from a generating map, and what the answer is worth."""

    def __init__(
        self, m: fm.Map, rng: np.random.Generator, shape: str, design: str, noise: float = NOISE
    ) -> None:
        self.shape, self.design = shape, design
        low, high = window(m)
        center = rng.uniform(low + 0.2 * (high - low), high - 0.2 * (high - low))
        width = (high - low) / 2
        ends = sorted(float(fm.inverse(z, m)) for z in (low, high))
        self.box = ends[0], ends[1]
        if design == "own z":
            theta = fm.inverse(rng.uniform(low, high, TRIALS), m)
        else:
            drawn = another(m, self.box, rng) if design == "other z" else fm.Identity()
            theta = fm.inverse(rng.uniform(*sorted(fm.forward(np.array(ends), drawn)), TRIALS), drawn)
        self.theta = np.clip(theta, *self.box)
        truth = SHAPES[shape](((fm.forward(self.theta, m) - center) / width) ** 2)
        sigma = noise * truth.std()
        loss = truth + sigma * rng.standard_normal(TRIALS)
        self.loss = np.exp(loss) if shape == "exponential" else loss
        self.truth, self.sigma = truth, sigma
        self.apart = self.separable(fm.Identity())
        self.grid = fm.inverse(np.linspace(low, high, 401)[1:-1], m)
        self.bowl = ((fm.forward(self.grid, m) - center) / width) ** 2
        self.identity = score(fm.Identity(), self.grid, self.bowl)
        self.answer: fm.Map = fm.Identity()

    def separable(self, m: fm.Map) -> bool:
        """Whether the oracle can tell another map from the generating one."""
        z = fm.forward(self.theta, m)
        return distance(z, self.truth, self.shape) >= APART * self.sigma**2

    def ask(self) -> Case:
        answers = fm.suggest_from((self.theta, self.loss), boxes={"theta": self.box})
        self.answer = answers["theta"].map
        self.suggested = score(self.answer, self.grid, self.bowl)
        return self

    @property
    def near(self) -> bool:
        return self.suggested >= NEAR

    @property
    def right(self) -> bool:
        """Near, or a map that the trials cannot tell from the generating one."""
        return self.near or not self.separable(self.answer)

    @property
    def harmful(self) -> bool:
        return self.suggested < HARM * self.identity


def another(m: fm.Map, box: tuple[float, float], rng: np.random.Generator) -> fm.Map:
    """A map of another kind that holds the box."""
    kinds = [
        k
        for k in families().values()
        if k not in (m, fm.Identity())
        and k.domain[0] < box[0]
        and box[1] < k.domain[1]
        and np.isfinite(fm.forward(np.array(box), k)).all()
        and inside(k, tuple(sorted(map(float, fm.forward(np.array(box), k)))))
    ]
    return kinds[rng.integers(len(kinds))] if kinds else fm.Identity()


def distance(theta: Floats, truth: Floats, shape: str) -> float:
    """The squared distance of the losses from the best of that shape whose bowl is one in theta."""
    x = (theta - theta.mean()) / np.ptp(theta)
    if shape in ("quadratic", "exponential"):
        designs = np.stack([np.ones_like(x), x, x * x], axis=1)[None]
    else:
        centers = np.quantile(x, np.linspace(0, 1, 121))
        centers = np.concatenate(
            [centers, centers[0] - np.geomspace(0.01, 3, 20), centers[-1] + np.geomspace(0.01, 3, 20)]
        )
        widths = np.geomspace(1e-3, 3, 60) if shape == "plateau" else np.ones(1)
        q = ((x - centers[:, None, None]) / widths[:, None]) ** 2
        y = (np.sqrt(q) if shape == "absolute" else q / (1 + q)).reshape(-1, x.size)
        y = y[y.std(axis=1) > 1e-9]
        designs = np.stack([np.ones_like(y), y], axis=2)
    basis, _ = np.linalg.qr(designs)
    fitted = basis @ (basis.transpose(0, 2, 1) @ truth)[..., None]
    return float(np.square(truth - fitted[..., 0]).sum(axis=1).min())


# Losses that no map makes a bowl, on a box of 0.01 to 0.99 in theta.
OTHERS: dict[str, Callable[[Floats], Floats]] = {
    "waves": lambda u: np.sin(12 * u) + u,
    "cusp": lambda u: np.abs(u - 0.4) ** 0.5,
    "step": lambda u: (u > 0.6).astype(float),
    "monotone": lambda u: -u,
    "two basins": lambda u: -np.exp(-50 * (u - 0.3) ** 2) - 0.7 * np.exp(-100 * (u - 0.8) ** 2),
    "noise": np.zeros_like,
}

_FAMILIES: dict[str, fm.Map] = {}


def families() -> dict[str, fm.Map]:
    """The generating maps: every kind with its default parameters, affine images of earlier ones left out."""
    if _FAMILIES:
        return _FAMILIES
    found = _FAMILIES
    for cls in CLASSES:
        m = cls()
        z = np.linspace(*window(m), 101)
        theta = fm.inverse(z, m)
        if all(r2_linear(fm.forward(theta, other, invalid="nan"), z) < 1 - 1e-9 for other in found.values()):
            found[repr(m)] = m
    return found


def r2_linear(a: Floats, b: Floats) -> float:
    """The squared correlation; 0 where it is not defined."""
    if not np.isfinite(a).all() or not np.ptp(a) > 0:
        return 0.0
    return float(np.corrcoef(a / np.ptp(a), b)[0, 1] ** 2)


def cases(m: fm.Map, count: int, seed: Sequence[int]) -> list[Case]:
    """Shapes and designs in turn."""
    rng = np.random.default_rng(seed)
    kinds = [(shape, design) for design in DESIGNS for shape in SHAPES]
    return [Case(m, rng, *kinds[k % len(kinds)]) for k in range(count)]


def percent(values: Iterable[bool]) -> float:
    found = list(values)
    return round(100 * sum(found) / len(found), 1) if found else float("nan")


def summary(asked: Sequence[Case]) -> dict[str, Any]:
    """Shares in percent; those of what is near or right are of the cases that can be told apart."""
    apart = [c for c in asked if c.apart]
    return {
        "cases": len(asked),
        "apart": len(apart),
        "right": percent(c.right for c in apart),
        "near": percent(c.near for c in apart),
        "identity near": percent(c.identity >= NEAR for c in apart),
        "harmful": percent(c.harmful for c in asked),
        "another map than identity": percent(c.answer != fm.Identity() for c in asked),
    }


def family(task: tuple[int, int, int]) -> tuple[dict[str, Any], list[Case]]:
    i, count, seed = task
    name, m = list(families().items())[i]
    asked = [c.ask() for c in cases(m, count, [seed, i])]
    most = Counter(type(c.answer).__name__ for c in asked).most_common(2)
    return {"map": name, **summary(asked), "answered most": dict(most)}, asked


def mixed(task: tuple[int, int]) -> Case:
    """Any family, shape and design, with noise of 5, 20 or 50 %."""
    k, seed = task
    rng = np.random.default_rng([seed, 2000, k])
    m = list(families().values())[k % len(families())]
    shape, design = (str(rng.choice(list(kinds))) for kinds in (SHAPES, DESIGNS))
    return Case(m, rng, shape, design, float(rng.choice((0.05, 0.2, 0.5)))).ask()


def harm(task: tuple[str, int, int]) -> tuple[bool, bool]:
    """Whether another map than identity is suggested where no map helps, and whether it harms."""
    name, k, seed = task
    kind = OTHERS[name]
    rng = np.random.default_rng([seed, 1000, list(OTHERS).index(name), k])
    theta = rng.uniform(0.01, 0.99, TRIALS)
    y = kind(theta)
    noise = NOISE * y.std() if np.ptp(y) else 1.0
    answer = fm.suggest_from((theta, y + noise * rng.standard_normal(TRIALS)))["theta"].map
    grid = np.linspace(0.01, 0.99, 401)
    truth = kind(grid)
    other = answer != fm.Identity()
    if not np.ptp(truth):
        return other, False  # nothing to lose
    return other, score(answer, grid, truth) < HARM * score(fm.Identity(), grid, truth)


def shown(name: str, row: dict[str, Any]) -> None:
    print(f"{name[:34]:34}" + "".join(f" {row[key]:>9}" for key in SHARES), flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cases", type=int, default=200, help="per family (200)")
    parser.add_argument("--harm", type=int, default=500, help="cases for each rate of harm (500)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    found: dict[str, Any] = {"seed": args.seed, "trials": TRIALS, "noise": NOISE}
    print(
        f"{'':34}"
        + "".join(f" {k:>9}" for k in ["cases", "apart", "right", "near", "identity", "harmful", "another"])
    )

    def keep() -> None:
        if args.out:
            args.out.write_text(json.dumps(found, indent=1) + "\n")

    with multiprocessing.get_context("spawn").Pool(args.jobs) as pool:
        answered = pool.map(mixed, [(k, args.seed) for k in range(args.harm)], chunksize=10)
        found["mixed"] = summary(answered)
        shown("all families, noise 5, 20, 50 %", found["mixed"])
        keep()
        found["no bowl"] = {}
        for name in OTHERS:
            count = args.harm // (2 * len(OTHERS))
            counts = pool.map(harm, [(name, k, args.seed) for k in range(count)], chunksize=10)
            other, harmful = (percent(column) for column in zip(*counts, strict=True))
            found["no bowl"][name] = {
                "cases": count,
                "harmful": harmful,
                "another map than identity": other,
            }
            print(f"{name:34} {count:9} {'':39} {harmful:9} {other:9}", flush=True)
        rows, asked = [], []
        tasks = [(i, args.cases, args.seed) for i in range(len(families()))]
        for row, done in pool.imap(family, tasks):
            rows.append(row)
            asked += done
            shown(row["map"], row)
    found["families"] = rows
    found["shapes"] = {s: summary([c for c in asked if c.shape == s]) for s in SHAPES}
    found["designs"] = {d: summary([c for c in asked if c.design == d]) for d in DESIGNS}
    found["all"] = summary(asked)
    for name, row in {**found["shapes"], **found["designs"], "all": found["all"]}.items():
        shown(name, row)
    below = [row["map"] for row in rows if row["apart"] and row["right"] < 100 * NEAR]
    print(f"families with fewer than 90 % right: {', '.join(below) or 'none'}")
    keep()


if __name__ == "__main__":
    main()
