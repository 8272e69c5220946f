"""What the benchmarks of single calls share."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fastmap.recipes._report import text_table


def medians(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Seconds per call; the calls take turns, and each returns when its result is there."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def arguments(description: str | None) -> argparse.Namespace:
    """elements, rounds, out."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--elements", type=int, default=2**24)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the numbers as JSON")
    return parser.parse_args()


def row(name: str, times: dict[str, float]) -> dict[str, Any]:
    """Of two calls, "ours" and "theirs"."""
    seconds = {f"{who}_seconds": value for who, value in times.items()}
    return {"name": name, **seconds, "ratio": times["theirs"] / times["ours"]}


def table(rows: Sequence[dict[str, Any]], framework: str, elements: int) -> str:
    """Nanoseconds per element and ratios."""
    scale = 1e9 / elements
    texts = [
        (
            r["name"],
            *(f"{r[who] * scale:.3f}" for who in ("ours_seconds", "theirs_seconds")),
            f"{r['ratio']:.2f}",
        )
        for r in rows
    ]
    return text_table(("function", "ns/element", framework, "ratio"), texts)
