"""Structured maps against torch.distributions and NumPyro on JAX: milliseconds for a batch of rows.

    python bench/structured.py [--rows 100000] [--size 10] [--rounds 9] [--out bench/structured.json]

The way from search space with its log-determinant in float64: fastmap's is the sum over all rows,
made from one per row, that of the peers one per row. Peers run as their libraries offer it;
NumPyro is compiled by jax.jit and measured if it is installed. The best of the rounds, arms in turn.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fastmap as fm
from fastmap import _core
from fastmap.recipes._report import text_table

TORCH = {
    "stick_breaking": torch.distributions.StickBreakingTransform(),
    "simplex": torch.distributions.StickBreakingTransform(),
    "correlation_cholesky": torch.distributions.CorrCholeskyTransform(),
}
NUMPYRO = {
    "simplex": "StickBreakingTransform",
    "stick_breaking": "StickBreakingTransform",
    "ordered": "OrderedTransform",
    "sum_to_zero": "ZeroSumTransform",
    "cholesky_factor": "LowerCholeskyTransform",
    "correlation_cholesky": "CorrCholeskyTransform",
}


def torch_arm(name: str, z: np.ndarray[Any, Any]) -> Callable[[], Any] | None:
    if name not in TORCH:
        return None
    transform, x = TORCH[name], torch.tensor(z)

    def call() -> Any:
        y = transform(x)
        return y, transform.log_abs_det_jacobian(x, y)

    return call


def numpyro_arm(name: str, z: np.ndarray[Any, Any]) -> Callable[[], Any] | None:
    try:
        import jax
        from numpyro.distributions import transforms
    except ImportError:
        return None
    if name not in NUMPYRO:
        return None
    jax.config.update("jax_enable_x64", True)
    arguments = (1,) if name == "sum_to_zero" else ()
    transform, x = getattr(transforms, NUMPYRO[name])(*arguments), jax.numpy.asarray(z)

    def both(x: Any) -> Any:
        y = transform(x)
        return y, transform.log_abs_det_jacobian(x, y)

    compiled = jax.jit(both)
    return lambda: jax.block_until_ready(compiled(x))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=10, help="entries of a vector; matrices are 4 x 4")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, metavar="FILE")
    args = parser.parse_args()
    torch.set_num_threads(fm.get_num_threads())
    results = []
    for entry in _core.structured_catalog():
        m = fm.Map.from_json({"map": entry["name"]})
        n = args.size if entry["theta_axes"] == 1 else 4
        z = np.random.default_rng(0).normal(size=(args.rows, _core.structured_z_size(entry["id"], n)))

        def own(m: Any = m, z: Any = z) -> Any:
            return fm.inverse_and_log_det(z, m)

        arms = {"fastmap": own, "torch": torch_arm(m.name, z), "numpyro": numpyro_arm(m.name, z)}
        best = {name: float("inf") for name, arm in arms.items() if arm}
        for turn in range(args.rounds + 1):  # the first one warms up
            for name in list(best):
                start = time.perf_counter()
                arms[name]()
                elapsed = time.perf_counter() - start
                best[name] = min(best[name], elapsed) if turn else float("inf")
        results.append({"map": m.name, "n": n, "ms": {k: 1e3 * v for k, v in best.items()}})
    rows = []
    for r in results:
        ms = r["ms"]
        cells = [f"{ms[k]:.2f}" if k in ms else "-" for k in ("fastmap", "torch", "numpyro")]
        peers = [v for k, v in ms.items() if k != "fastmap"]
        rows.append((f"{r['map']} ({r['n']})", *cells, f"{min(peers) / ms['fastmap']:.1f}" if peers else "-"))
    print(f"{args.rows} rows, float64, {fm.get_num_threads()} threads; milliseconds")
    print(text_table(("map", "fastmap", "torch", "numpyro", "best peer / fastmap"), rows))
    record = {
        "rows": args.rows,
        "threads": fm.get_num_threads(),
        "torch": torch.__version__,
        "results": results,
    }
    if args.out:
        args.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
