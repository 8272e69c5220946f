"""Eager calls on TensorFlow tensors beside ``tf.math``, and what a call costs: ``python bench/tf_calls.py``.

Every pair is checked against each other first. Then all take turns; medians count.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import numpy as np

import fastmap as fm
from calls import arguments, medians, row, table
from fastmap.bench.report import headline, machine

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import tensorflow as tf

Function = Callable[[Any], Any]

# name, fastmap's function, what TensorFlow's users write, the range of the values
PAIRS: list[tuple[str, Function, Function, tuple[float, float]]] = [
    ("copy", lambda x: fm.forward(x, "identity"), lambda x: x * 1.5, (-4, 4)),  # an elementwise pass, no map
    ("log", lambda x: fm.forward(x, "log"), lambda x: tf.math.log(x), (1e-6, 10)),
    ("exp", lambda x: fm.inverse(x, "log"), lambda x: tf.math.exp(x), (-10, 10)),
    ("softplus", lambda x: fm.inverse(x, "softplus"), lambda x: tf.math.softplus(x), (-10, 10)),
    (
        "logit",
        lambda x: fm.forward(x, "interval"),
        lambda x: tf.math.log(x) - tf.math.log1p(-x),
        (1e-4, 1 - 1e-4),
    ),
    ("sigmoid", lambda x: fm.inverse(x, "interval"), lambda x: tf.math.sigmoid(x), (-10, 10)),
    ("asinh", lambda x: fm.forward(x, "asinh"), lambda x: tf.math.asinh(x), (-100, 100)),
]


def gradient(function: Function) -> Function:
    """The gradient of its sum."""

    def run(x: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = function(x)
        return tape.gradient(value, x)

    return run


def maps(elements: int, rounds: int) -> list[dict[str, Any]]:
    rows = []
    slopes = [(f"gradient of {n}", gradient(f), gradient(g), r) for n, f, g, r in PAIRS if n == "softplus"]
    for name, ours, theirs, (low, high) in [*PAIRS, *slopes]:
        x = tf.constant(np.random.default_rng(0).uniform(low, high, elements), tf.float32)
        if name != "copy":
            np.testing.assert_allclose(ours(x), theirs(x), rtol=1e-3, atol=1e-5)
        times = medians({"ours": lambda f=ours, x=x: f(x), "theirs": lambda f=theirs, x=x: f(x)}, rounds)
        rows.append(row(name, times))
    return rows


def overhead(rounds: int) -> dict[str, float]:
    """Seconds of a call on ten numbers: `tf.math.log` and fastmap, eager, with a tape, in a graph."""
    x = tf.ones(10)
    ours, theirs = (lambda x: fm.forward(x, "log")), (lambda x: tf.math.log(x))
    calls: dict[str, Callable[[], Any]] = {}
    for name, function in (("tf.math.log", theirs), ("fastmap", ours)):
        graph, slope = tf.function(function, autograph=False), gradient(function)
        calls[name] = lambda f=function: f(x)
        calls[f"{name}, gradient"] = lambda f=slope: f(x)
        calls[f"{name}, tf.function"] = lambda f=graph: f(x)
    for call in calls.values():
        medians({"": call}, 10)  # traced, and warm
    return {name: medians({name: call}, 200 * rounds)[name] for name, call in calls.items()}


def main() -> None:
    options = arguments(__doc__)
    print(headline(machine()), f"TensorFlow {tf.__version__}", sep="\n")
    rows = maps(options.elements, options.rounds)
    print(table(rows, "TensorFlow", options.elements), "\n")
    calls = overhead(options.rounds)
    print("one call, us:", {k: round(v * 1e6, 2) for k, v in calls.items()})
    if options.out:
        record = {"machine": machine(), "elements": options.elements, "maps": rows, "overhead_seconds": calls}
        options.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
