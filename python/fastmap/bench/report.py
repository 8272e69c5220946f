"""What a run of the suite says: a table, a page, two pictures."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fastmap import _info
from fastmap._extras import need
from fastmap.bench.peers import COMPILED, EAGER, PYTHON, optional

Row = dict[str, Any]  # see suite.row

TABLE_HEAD = (
    f"{'map':14}{'direction':10}{'dtype':9}{'elements':>10}{'thr':>4}{'ns/elem':>9}{'GB/s':>7}{'worst':>7}"
    f"{'of copy':>9}{'x eager':>9}  {'(who)':20}{'x compiled':>11}  {'(who)':14}{'x python':>9}"
)


def fastest(r: Row, peers: Iterable[str]) -> tuple[str, float] | None:
    """The fastest of some peers, and how many times longer it takes than fastmap."""
    times = {name: r["median"][name] for name in peers if name in r["median"]}
    if not times:
        return None
    name = min(times, key=times.__getitem__)
    return name, times[name] / r["median"]["fastmap"]


def of_copy(r: Row) -> float:
    """The part of the rate of a streaming copy that fastmap reaches."""
    return float(r["median"]["streaming copy"] / r["median"]["fastmap"])


def table_row(r: Row) -> str:
    """One line of the table."""
    ours, worst = r["median"]["fastmap"], r["worst"]["fastmap"]
    columns = []
    for peers, width in ((EAGER, 20), (COMPILED, 14)):
        best = fastest(r, peers)
        columns.append("-" if best is None else f"{best[1]:.2f}")
        columns.append(f"{'' if best is None else best[0]:{width}}")
    python = fastest(r, PYTHON)
    return (
        f"{r['map']:14}{r['direction']:10}{r['dtype']:9}{r['elements']:10}{r['threads']:4}"
        f"{ours / r['elements'] * 1e9:9.3f}{r['bytes'] / ours / 1e9:7.1f}{worst / ours:7.2f}{of_copy(r):9.2f}"
        f"{columns[0]:>9}  {columns[1]}{columns[2]:>11}  {columns[3]}"
        f"{'-' if python is None else f'{python[1]:.0f}':>9}"
    )


def table(rows: Iterable[Row]) -> str:
    """One line per case."""
    return "\n".join([TABLE_HEAD, *map(table_row, rows)])


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    libraries = ("numpy", "torch", "numexpr", "jax")
    versions = {n: getattr(optional(n), "__version__", None) for n in libraries}
    return {
        "cpu": name,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "libraries": {n: v for n, v in versions.items() if v},
        **{key: value for key, value in _info.info().items() if key in ("version", "isa", "threads")},
    }


def headline(m: dict[str, Any]) -> str:
    """The machine in one line."""
    libraries = ", ".join(f"{name} {version}" for name, version in m["libraries"].items())
    return (
        f"fastmap {m['version']} ({m['isa']}, {m['threads']} threads) on {m['cpu']}, {m['cores']} cores; "
        f"Python {m['python']}, {libraries}. Medians of interleaved rounds; x: how many times longer the "
        "fastest peer takes."
    )


def geometric_mean(values: Sequence[float]) -> float:
    """Of positive numbers."""
    return math.exp(sum(map(math.log, values)) / len(values))


def _large(rows: Sequence[Row], dtype: str) -> list[Row]:
    """The rows with the largest size and most threads."""
    kept = [r for r in rows if r["dtype"] == dtype and not r.get("sweep")]
    size = max((r["elements"] for r in kept), default=0)
    most = max((r["threads"] for r in kept), default=0)
    return [r for r in kept if r["elements"] == size and r["threads"] == most]


def summary(rows: Sequence[Row]) -> str:
    """Geometric means over maps and directions at the largest size, and where a peer is faster."""
    lines = []
    for dtype in dict.fromkeys(r["dtype"] for r in rows):
        large = _large(rows, dtype)
        for label, peers in (("eager", EAGER), ("compiled", COMPILED), ("of all", EAGER + COMPILED)):
            ratios = [best[1] for r in large if (best := fastest(r, peers)) is not None]
            if ratios and (label != "of all" or fastest(large[0], COMPILED)):
                lines.append(
                    f"{dtype}, {large[0]['elements']} elements: geometric mean {geometric_mean(ratios):.2f} "
                    f"times the fastest peer ({label}), least {min(ratios):.2f}"
                )
    slower = [
        f"{r['map']} {r['direction']} {r['dtype']} {r['elements']} ({r['threads']} threads): "
        f"{best[1]:.2f} of {best[0]}, {of_copy(r):.2f} of a streaming copy"
        for r in rows
        if not r.get("sweep") and (best := fastest(r, EAGER + COMPILED)) is not None and best[1] < 1
    ]
    lines.append(f"A peer was faster in {len(slower)} of {sum(not r.get('sweep') for r in rows)} cases.")
    return "\n".join([*lines, *(f"  {text}" for text in slower)])


def write_rows(folder: Path, m: dict[str, Any], rows: Sequence[Row]) -> None:
    """results.json, whole at any time."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / "results.json.part"
    part.write_text(json.dumps({"machine": m, "rows": rows}, indent=1) + "\n")
    part.replace(folder / "results.json")


def write(folder: Path, m: dict[str, Any], rows: Sequence[Row], command: str, seconds: float) -> None:
    """RESULTS.md, results.json, roofline.png, ratios.png."""
    write_rows(folder, m, rows)
    sections = [
        "# Benchmark results",
        f"Written by `{command}` in {seconds / 60:.0f} minutes.",
        headline(m),
        "`of copy`: the rate of fastmap over that of a streaming copy of the buffer, the limit of memory. "
        "`worst`: the slowest round over the median. Eager peers: NumPy and torch with the output given, "
        "torch allocating, torch.distributions; compiled: numexpr and torch.compile with the output given, "
        "jax.jit.",
        f"```\n{summary(rows)}\n```",
        "![ratios](ratios.png)",
        "![roofline](roofline.png)",
        f"```\n{table(r for r in rows if not r.get('sweep'))}\n```",
    ]
    if any(r.get("sweep") for r in rows):
        sections += ["Sizes from 10² to 10⁹ bytes:", f"```\n{table(r for r in rows if r.get('sweep'))}\n```"]
    (folder / "RESULTS.md").write_text("\n\n".join(sections) + "\n")
    ratios_picture(rows).savefig(folder / "ratios.png", dpi=110)
    roofline_picture(rows).savefig(folder / "roofline.png", dpi=110)


def check_pictures() -> None:
    """Before an hour of measuring: ImportError where nothing can draw."""
    need("matplotlib.figure", "viz")


def ratios_picture(rows: Sequence[Row]) -> Any:
    """Per map and direction, how many times longer the fastest eager and compiled peers take."""
    large = _large(rows, "float32") or _large(rows, rows[0]["dtype"])
    size = (9, 0.42 * len(large) + 1.6)
    figure = need("matplotlib.figure", "viz").Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    for offset, (label, peers, color) in enumerate((("eager", EAGER, "C0"), ("compiled", COMPILED, "C1"))):
        for y, r in enumerate(reversed(large)):
            if (best := fastest(r, peers)) is None:
                continue
            at = y + 0.2 - 0.4 * offset
            axes.barh(at, best[1], 0.38, color=color, label=label if y == 0 else None)
            axes.annotate(f" {best[1]:.1f} {best[0]}", (best[1], at), va="center", fontsize=7)
    axes.axvline(1, color="k", lw=1)
    axes.set_yticks(range(len(large)), [f"{r['map']} {r['direction']}" for r in reversed(large)])
    axes.set_ylim(-0.7, len(large) - 0.3)
    axes.set_xscale("log")
    axes.set_xlim(right=axes.get_xlim()[1] * 2.2)
    axes.set_xlabel("time of the fastest peer / time of fastmap")
    axes.set_title(f"{large[0]['dtype']}, {large[0]['elements']} elements, {large[0]['threads']} threads")
    axes.legend(loc="upper right")
    return figure


def roofline_picture(rows: Sequence[Row]) -> Any:
    """Rates over buffer sizes, under the rate of a streaming copy."""
    swept = [r for r in rows if r.get("sweep")]
    if not swept:
        swept = [r for r in rows if r["direction"] == "forward" and r["dtype"] == rows[0]["dtype"]]
        swept = [r for r in swept if r["threads"] == max(s["threads"] for s in swept)]
    figure = need("matplotlib.figure", "viz").Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.add_subplot()
    by_size: dict[int, list[float]] = {}
    for r in swept:
        limit = min(r["median"]["streaming copy"], r["median"].get("memcpy", math.inf))
        by_size.setdefault(r["bytes"] // 2, []).append(r["elements"] / limit / 1e9)
    sizes = sorted(by_size)
    axes.plot(sizes, [max(by_size[s]) for s in sizes], "k--", label="copy (memcpy or streaming)")
    for name in dict.fromkeys(r["map"] for r in swept):
        own = [r for r in swept if r["map"] == name]
        line = sorted((r["bytes"] // 2, r["elements"] / r["median"]["fastmap"] / 1e9) for r in own)
        axes.plot(*zip(*line, strict=True), ".-", label=f"{name} forward")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("bytes of the buffer")
    axes.set_ylabel("10⁹ elements per second")
    axes.set_title(f"{swept[0]['dtype']}, {swept[0]['threads']} threads")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure
