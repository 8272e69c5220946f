"""An optimizer's step in the mapped space beside what torch users write: ``python bench/steps.py``.

Every way is checked against the same mathematics in float64 first. Then all take turns; medians count.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

import fastmap as fm
import fastmap.torch as ft
from fastmap.bench.report import headline, machine
from fastmap.recipes._report import text_table

LR, BETA1, BETA2, EPS = 1e-3, 0.9, 0.999, 1e-8
Step = Callable[[], Any]

# theta = f⁻¹(z) as torch has it, and dtheta/dz by theta or z, into `out`.
INVERSE: dict[str, Callable[..., Tensor]] = {
    "log": torch.exp,
    "softplus": functional.softplus,
    "interval": torch.sigmoid,
}


def _slope(name: str, z: Tensor, theta: Tensor, out: Tensor) -> Tensor:
    if name == "log":
        return theta
    if name == "softplus":
        return torch.sigmoid(z, out=out)
    torch.sub(1, theta, out=out)
    return out.mul_(theta)


def _theta(name: str, z: Tensor, out: Tensor) -> None:
    if name == "softplus":
        torch.ops.aten.softplus.out(z, out=out)
    else:
        INVERSE[name](z, out=out)


def by_hand(name: str, theta: Tensor, g: Tensor) -> Step:
    """The pulled-back gradient, Adam and the map without autograd, every output given."""
    z = fm.forward(theta.double(), name).to(theta.dtype)
    m, v, buffer = torch.zeros_like(z), torch.zeros_like(z), torch.zeros_like(z)
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        torch.mul(g, _slope(name, z, theta, buffer), out=buffer)
        m.lerp_(buffer, 1 - BETA1)
        v.mul_(BETA2).addcmul_(buffer, buffer, value=1 - BETA2)
        torch.sqrt(v, out=buffer)
        buffer.div_(math.sqrt(1 - BETA2**count)).add_(EPS)
        z.addcdiv_(m, buffer, value=-LR / (1 - BETA1**count))
        _theta(name, z, theta)

    return step


def by_compiler(name: str, theta: Tensor, g: Tensor) -> Step:
    """The same as one function for torch.compile, in place."""
    z = fm.forward(theta.double(), name).to(theta.dtype)
    m, v = torch.zeros_like(z), torch.zeros_like(z)
    count = torch.zeros(())

    def update(g: Tensor, z: Tensor, m: Tensor, v: Tensor, theta: Tensor, count: Tensor) -> None:
        if name == "log":
            slope = theta
        elif name == "softplus":
            slope = torch.sigmoid(z)
        else:
            slope = theta * (1 - theta)
        d = g * slope
        m.lerp_(d, 1 - BETA1)
        v.mul_(BETA2).add_(d * d * (1 - BETA2))
        z.sub_(LR / (1 - BETA1**count) * m / (v.sqrt() / (1 - BETA2**count).sqrt() + EPS))
        theta.copy_(INVERSE[name](z))

    compiled = torch.compile(update)

    def step() -> None:
        count.add_(1)
        compiled(g, z, m, v, theta, count)

    return step


def by_autograd(name: str, theta: Tensor, g: Tensor) -> Step:
    """A leaf z, theta = f⁻¹(z) in the graph, torch's fused Adam; theta for the next forward pass included."""
    z = torch.nn.Parameter(fm.forward(theta.double(), name).to(theta.dtype))
    optimizer = torch.optim.Adam([z], LR, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        result = INVERSE[name](z)
        result.backward(g)
        optimizer.step()
        theta.copy_(result.detach())

    return step


def by_torch(theta: Tensor, g: Tensor, low: float | None = None) -> Step:
    """torch's fused Adam on theta itself; `low`: and `clamp_`."""
    p = torch.nn.Parameter(theta)
    p.grad = g
    optimizer = torch.optim.Adam([p], LR, fused=True)

    def step() -> None:
        optimizer.step()
        if low is not None:
            with torch.no_grad():
                p.clamp_(min=low)

    return step


def by_fastmap(name: str, theta: Tensor, g: Tensor) -> Step:
    p = torch.nn.Parameter(theta)
    p.grad = g
    return ft.Adam([p], LR, map=name).step


def reference(name: str, theta: Tensor, gradients: Sequence[Tensor]) -> Tensor:
    """theta after a step for every gradient, in float64."""
    z = fm.forward(theta.double(), name)
    m, v = torch.zeros_like(z), torch.zeros_like(z)
    for count, g in enumerate(gradients, start=1):
        d = g.double() * fm.inverse_jacobian(z, name)
        m.lerp_(d, 1 - BETA1)
        v.mul_(BETA2).addcmul_(d, d, value=1 - BETA2)
        z -= LR / (1 - BETA1**count) * m / (v.sqrt() / math.sqrt(1 - BETA2**count) + EPS)
    return fm.inverse(z, name)


def start(n: int) -> tuple[Tensor, Tensor]:
    """theta in (0.1, 0.9), in the domain of every map here, and a gradient."""
    generator = torch.Generator().manual_seed(0)
    theta = torch.rand(n, generator=generator) * 0.8 + 0.1
    return theta, torch.randn(n, generator=generator) * 0.01


MAPPED = {
    "fastmap": by_fastmap,
    "torch, autograd + fused Adam": by_autograd,
    "torch by hand, outputs given": by_hand,
    "torch.compile of that": by_compiler,
}


def one_buffer(n: int, rounds: int) -> list[dict[str, Any]]:
    """Every map and way, on one parameter of n elements."""
    steps: dict[tuple[str, str], Step] = {}
    for name in INVERSE:
        for way, make in MAPPED.items():
            theta, g = start(1000)
            step = make(name, theta, g)
            for _ in range(3):
                step()
            if "autograd" in way:  # its theta is that of the last forward pass
                step()
            expected = reference(name, start(1000)[0], [g] * 3)
            np.testing.assert_allclose(theta, expected, rtol=1e-5, err_msg=f"{name} by {way}")
            steps[name, way] = make(name, *start(n))
    steps["none", "fastmap"] = by_fastmap("identity", *start(n))
    steps["none", "torch, fused Adam"] = by_torch(*start(n))
    steps["none", "torch, fused Adam and clamp_"] = by_torch(*start(n), low=1e-3)
    return report(steps, rounds, n, ("none", "torch, fused Adam"))


def many_tensors(count: int, n: int, rounds: int) -> list[dict[str, Any]]:
    """A model of many small parameters."""

    def parameters() -> list[torch.nn.Parameter]:
        result = [torch.nn.Parameter(start(n)[0]) for _ in range(count)]
        for p in result:
            p.grad = start(n)[1]
        return result

    mapped, plain, fused, leaves = (parameters() for _ in range(4))
    thetas = [p.detach().clone() for p in leaves]
    gradients = [p.grad for p in leaves]
    with torch.no_grad():
        for z in leaves:
            z.log_()
    on_z = torch.optim.Adam(leaves, LR, foreach=True)

    @torch.no_grad()
    def foreach() -> None:
        for z, g in zip(leaves, torch._foreach_mul(gradients, thetas), strict=True):
            z.grad = g
        on_z.step()
        torch._foreach_copy_(thetas, torch._foreach_exp([z.detach() for z in leaves]))

    steps = {
        ("log", "fastmap"): ft.Adam(mapped, LR, map="log").step,
        ("log", "torch, foreach Adam and foreach maps"): foreach,
        ("none", "torch, foreach Adam"): torch.optim.Adam(plain, LR, foreach=True).step,
        ("none", "torch, fused Adam"): torch.optim.Adam(fused, LR, fused=True).step,
    }
    return report(steps, rounds, count * n, ("log", "torch, foreach Adam and foreach maps"))


def report(
    steps: dict[tuple[str, str], Step], rounds: int, elements: int, unit: tuple[str, str]
) -> list[dict[str, Any]]:
    """Medians of interleaved rounds, and how many times that of `unit` they are."""
    times: dict[tuple[str, str], list[float]] = {key: [] for key in steps}
    for number in range(-2, rounds):
        for key, step in steps.items():
            begin = time.perf_counter()
            step()
            seconds = time.perf_counter() - begin
            if number >= 0:
                times[key].append(seconds)
    median = {key: statistics.median(values) for key, values in times.items()}
    rows = []
    for (name, way), seconds in median.items():
        ours = median.get((name, "fastmap"))
        rows.append(
            {
                "map": name,
                "way": way,
                "ns_per_element": 1e9 * seconds / elements,
                "of_unit": seconds / median[unit],
                "of_fastmap": ours and seconds / ours,
            }
        )
    head = ("map", "way", "ns/element", f"of {unit[1]} ({unit[0]})", "of fastmap")
    texts = []
    for r in rows:
        numbers = (r["ns_per_element"], r["of_unit"], r["of_fastmap"])
        texts.append((r["map"], r["way"], *("-" if x is None else f"{x:.3f}" for x in numbers)))
    print(text_table(head, texts), "\n")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--elements", type=int, default=2**24)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the numbers as JSON")
    options = parser.parse_args()
    torch.set_num_threads(fm.get_num_threads())
    print(headline(machine()))
    rows = one_buffer(options.elements, options.rounds)
    many = many_tensors(1000, 1000, options.rounds)
    if options.out:
        record = {"machine": machine(), "elements": options.elements, "one": rows, "many": many}
        options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
