"""Maps inside ``jax.jit`` beside JAX's own functions, and what a call costs: ``python bench/jax_calls.py``.

Every pair is checked against each other first. Then all take turns; medians count.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fastmap as fm
import fastmap.jax as fj
from calls import arguments, medians, row, table
from fastmap.bench.report import headline, machine

Function = Callable[[Any], Any]
done = jax.block_until_ready

# name, fastmap's function, what JAX users write, the range of the values
PAIRS: list[tuple[str, Function, Function, tuple[float, float]]] = [
    ("copy", lambda x: fm.forward(x, "identity"), lambda x: x * 1.5, (-4, 4)),  # an elementwise pass, no map
    ("log", lambda x: fm.forward(x, "log"), jnp.log, (1e-6, 10)),
    ("exp", lambda x: fm.inverse(x, "log"), jnp.exp, (-10, 10)),
    ("softplus", lambda x: fm.inverse(x, "softplus"), jax.nn.softplus, (-10, 10)),
    ("logit", lambda x: fm.forward(x, "interval"), jax.scipy.special.logit, (1e-4, 1 - 1e-4)),
    ("sigmoid", lambda x: fm.inverse(x, "interval"), jax.nn.sigmoid, (-10, 10)),
    ("asinh", lambda x: fm.forward(x, "asinh"), jnp.arcsinh, (-100, 100)),
    (
        "grad softplus",
        jax.grad(lambda x: fm.inverse(x, "softplus").sum()),
        jax.grad(lambda x: jax.nn.softplus(x).sum()),
        (-10, 10),
    ),
]


def maps(elements: int, rounds: int) -> list[dict[str, Any]]:
    rows = []
    for name, ours, theirs, (low, high) in PAIRS:
        x = jnp.asarray(np.random.default_rng(0).uniform(low, high, elements), np.float32)
        a, b = jax.jit(ours), jax.jit(theirs)
        if name != "copy":
            np.testing.assert_allclose(a(x), b(x), rtol=1e-4, atol=1e-6)
        times = medians({"ours": lambda a=a, x=x: done(a(x)), "theirs": lambda b=b, x=x: done(b(x))}, rounds)
        rows.append(row(name, times))
    return rows


def adam(elements: int, rounds: int) -> dict[str, float]:
    """A step of Adam with softplus; what changes is donated, so that nobody copies.

    "optax": the map in the loss, as JAX users have it; "mapped": `fastmap.jax.mapped`; "update" and "step":
    the two functions of `fastmap.jax.adam`.
    """
    g = jnp.asarray(np.random.default_rng(0).normal(size=elements), np.float32)
    inner = optax.adam(1e-3)
    composed, fused = fj.mapped(inner, "softplus"), fj.adam(1e-3, map="softplus")

    def plain(g: Any, theta: Any, state: Any) -> Any:
        z, moments = state
        _, pull = jax.vjp(jax.nn.softplus, z)
        updates, moments = inner.update(pull(g)[0], moments)
        z = optax.apply_updates(z, updates)
        return jax.nn.softplus(z), (z, moments)

    def updated(optimizer: Any, g: Any, theta: Any, state: Any) -> Any:
        updates, state = optimizer.update(g, state, theta)
        return optax.apply_updates(theta, updates), state

    steps = {
        "optax": plain,
        "mapped": functools.partial(updated, composed),
        "update": functools.partial(updated, fused),
        "step": lambda g, theta, state: fused.step(theta, state, g),
    }
    calls = {}
    for name, step in steps.items():
        theta = jnp.ones(elements, np.float32)
        z = fm.forward(theta, "softplus")
        optimizer = composed if name == "mapped" else fused
        state = (z, inner.init(z)) if name == "optax" else optimizer.init(theta)
        calls[name] = Step(jax.jit(step, donate_argnums=(1, 2)), g, theta, state)
    first = {name: np.asarray(call()) for name, call in calls.items()}
    for theta in first.values():
        np.testing.assert_allclose(theta, first["optax"], rtol=1e-5)
    return medians(calls, rounds)


class Step:
    """A call that goes on from where the last one ended."""

    def __init__(self, step: Any, g: Any, theta: Any, state: Any) -> None:
        self.step, self.g, self.now = step, g, (theta, state)

    def __call__(self) -> Any:
        self.now = done(self.step(self.g, *self.now))
        return self.now[0]


def overhead(rounds: int) -> dict[str, float]:
    """Seconds of a call on eight numbers, compiled: nothing, `jnp.log`, fastmap; steps of Adam."""
    x = jnp.ones(8)
    optimizer, plain = fj.adam(1e-3, map="softplus"), optax.adam(1e-3)
    state, inner = optimizer.init(x), plain.init(x)
    step, update = jax.jit(optimizer.step), jax.jit(plain.update)
    calls = {
        "negative": jax.jit(lambda x: -x),
        "jnp.log": jax.jit(jnp.log),
        "fastmap": jax.jit(lambda x: fm.forward(x, "log")),
        "optax's Adam": lambda x: update(x, inner),
        "fastmap's Adam": lambda x: step(x, state, x),
    }
    return medians({name: lambda f=f: done(f(x)) for name, f in calls.items()}, 1000 * rounds)


def main() -> None:
    options = arguments(__doc__)
    print(headline(machine()))
    rows = maps(options.elements, options.rounds)
    print(table(rows, "JAX", options.elements), "\n")
    steps, calls = adam(options.elements, options.rounds), overhead(options.rounds)
    print("Adam step, ns/element:", {k: round(v * 1e9 / options.elements, 3) for k, v in steps.items()})
    print("one call, us:", {k: round(v * 1e6, 2) for k, v in calls.items()})
    if options.out:
        record = {"machine": machine(), "elements": options.elements, "maps": rows}
        record |= {"adam_seconds": steps, "overhead_seconds": calls}
        options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
