"""How often `suggest_from` is right, and how often it harms: ``python bench/suggest.py``.

Every kind of map in the catalog generates cases: 60 trials even in its z, a loss that is a quadratic in z
plus normal noise of 5 % of the loss's standard deviation, or the exponential of that in every second case. A
map's score is R² of a quadratic in its z against the generating quadratic, free of noise, on a grid even in
the generating z; the generating map has 1. Cases are counted apart where the pairs themselves cannot tell
the generating map from identity (n log of the ratio of leave-one-out errors below 6). Harm is a score over
10 % worse than identity's. Then losses that no map makes quadratic, where any answer but identity is
suspect.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

import fastmap as fm
from fastmap._trials import _columns, _Losses
from fastmap.maps import CLASSES

Floats = NDArray[np.float64]
TRIALS, NOISE = 60, 0.05
NEAR, HARM = 0.9, 0.9


def window(m: fm.Map) -> tuple[float, float]:
    """Where z of the trials lies: six units, or nearly all of a bounded codomain."""
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

    def __init__(self, m: fm.Map, rng: np.random.Generator, noise: float, exponential: bool) -> None:
        low, high = window(m)
        center = rng.uniform(low + 0.2 * (high - low), high - 0.2 * (high - low))
        width = (high - low) / 2

        def quadratic(theta: Floats) -> Floats:
            return ((fm.forward(theta, m) - center) / width) ** 2

        theta = fm.inverse(rng.uniform(low, high, TRIALS), m)
        y = quadratic(theta)
        y = y + noise * y.std() * rng.standard_normal(TRIALS)
        loss = np.exp(8 * y) if exponential else y
        ends = sorted(float(fm.inverse(z, m)) for z in (low, high))
        self.answer = fm.suggest_from((theta, loss), boxes={"theta": (ends[0], ends[1])})["theta"].map
        self.separable = separable(m, theta, loss)
        grid = fm.inverse(np.linspace(low, high, 401)[1:-1], m)
        truth = quadratic(grid)
        self.generating = score(m, grid, truth)
        self.suggested = score(self.answer, grid, truth)
        self.identity = score(fm.Identity(), grid, truth)

    @property
    def near(self) -> bool:
        return self.suggested >= NEAR * self.generating

    @property
    def harmful(self) -> bool:
        return self.suggested < HARM * self.identity


def separable(m: fm.Map, theta: Floats, loss: Floats) -> bool:
    """Whether the pairs themselves prefer the generating map to identity."""
    losses = _Losses(loss)
    z = np.stack([theta, fm.forward(theta, m)])
    design = np.concatenate([np.ones((2, theta.size, 1)), _columns(z)], axis=2)
    same, generating = losses.error(design)
    return bool(theta.size * np.log(same / generating) >= 6)


# Losses that no map makes quadratic, on a box of 0.01 to 0.99 in theta or log theta.
OTHERS: dict[str, Callable[[Floats], Floats]] = {
    "waves": lambda u: np.sin(12 * u) + u,
    "kink": lambda u: np.abs(u - 0.4) ** 0.5,
    "step": lambda u: (u > 0.6).astype(float),
    "monotone": lambda u: -u,
    "plateau": lambda u: -np.exp(-50 * (u - 0.3) ** 2),
}


def families() -> dict[str, fm.Map]:
    """The generating maps: every kind with its default parameters, affine images of earlier ones left out."""
    found: dict[str, fm.Map] = {}
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


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cases", type=int, default=200, help="per family (200)")
    parser.add_argument("--harm", type=int, default=500, help="cases for each rate of harm (500)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    print(f"{TRIALS} trials, seed {args.seed}\n")
    rate_of_harm(args.harm, args.seed)
    print(f"\n{args.cases} cases per family, noise {NOISE:.0%}")
    header = ("generating map", "told apart", "of these near", "all near", "harmful", "answered most")
    print("{:44} {:>10} {:>13} {:>8} {:>7}  {}".format(*header))
    told = near_told = 0
    missed = []
    for i, (name, m) in enumerate(families().items()):
        rng = np.random.default_rng([args.seed, i])
        cases = [Case(m, rng, NOISE, exponential=bool(k % 2)) for k in range(args.cases)]
        apart = [c for c in cases if c.separable]
        near = [c for c in apart if c.near]
        told, near_told = told + len(apart), near_told + len(near)
        if len(near) < NEAR * len(apart):
            missed.append(name)
        most = Counter(type(c.answer).__name__ for c in cases).most_common(2)
        print(
            f"{name[:44]:44} {len(apart):10} {len(near) / max(len(apart), 1):13.1%} "
            f"{np.mean([c.near for c in cases]):8.1%} {np.mean([c.harmful for c in cases]):7.1%}"
            f"  {', '.join(f'{n} {k}' for n, k in most)}",
            flush=True,
        )
    print(f"told apart: {near_told} of {told} near ({near_told / max(told, 1):.1%})")
    print(f"families below {NEAR:.0%}: {', '.join(missed) or 'none'}")


def rate_of_harm(cases: int, seed: int) -> None:
    kinds = list(families().values())
    noises = (0.05, 0.2, 0.5)
    mixed = [
        Case(kinds[k % len(kinds)], np.random.default_rng([seed, 2000, k]), noises[k % 3], bool(k % 2))
        for k in range(cases)
    ]
    rate = np.mean([c.harmful for c in mixed])
    print(f"{cases} cases of all families in turn, noise 5, 20 and 50 %: harmful {rate:.1%}")
    print(f"{cases} cases of losses that no map makes quadratic (R² of the loss, grid even in theta):")
    others = {**OTHERS, "noise": np.zeros_like}
    total = 0
    for i, (name, kind) in enumerate(others.items()):
        rng = np.random.default_rng([seed, 1000, i])
        counts = [harm(kind, rng) for _ in range(i, cases, len(others))]
        total += sum(harmful for _, harmful in counts)
        shares = [np.mean(column) for column in zip(*counts, strict=True)]
        print(f"  {name:10} another map than identity {shares[0]:6.1%}, harmful {shares[1]:6.1%}")
    print(f"  harmful in all {total / cases:.1%}", flush=True)


def harm(kind: Callable[[Floats], Floats], rng: np.random.Generator) -> tuple[bool, bool]:
    """Whether another map than identity was suggested, and whether it harms."""
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


if __name__ == "__main__":
    main()
