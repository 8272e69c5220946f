"""The cases, the clock and the command."""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fastmap import _functional, _info
from fastmap._map import CatalogMap
from fastmap.bench import report
from fastmap.bench.peers import COMPILED, EAGER, LIMITS, PYTHON, Compiled, Run, optional, runs
from fastmap.maps import CLASSES

DIRECTIONS = ("forward", "inverse")
DTYPES = ("float32", "float64", "bfloat16")
SWEPT = ("log", "softplus", "interval", "tanh", "asinh", "symlog")
SWEEP_BYTES = tuple(round(10 ** (e / 2)) for e in range(4, 19))  # 10² to 10⁹
_CHECKED = 10**6  # elements of a large buffer
_DISTINCT = 2**20  # values of a buffer; they repeat
_HOPELESS = 3  # times the fastest of its kind: the comparison does not need such a peer a second time
# How far a peer may be from fastmap: its own error, not ours (torch's float32 logit is off by 5e-4 near 1/2).
_TOLERANCE = {"float32": (2e-4, 2e-5), "float64": (1e-9, 1e-11), "bfloat16": (3e-2, 2e-2)}


@dataclass(frozen=True)
class Plan:
    """What one run of the suite measures."""

    sizes: tuple[int, ...]
    dtypes: tuple[str, ...]
    compiled: bool
    sweep: bool
    one_thread: bool  # also with one thread, at the largest size, the maps of the sweep
    seconds: float  # per case


QUICK = Plan((10**4, 10**6, 2**24), ("float32",), False, False, False, 0.25)
FULL = Plan((10**4, 10**6, 2**26), DTYPES, True, True, True, 0.5)


@dataclass(frozen=True)
class Case:
    """One map with default parameters, one direction, one buffer, and who computes it how."""

    map: CatalogMap
    direction: str
    dtype: str
    x: Any
    out: Any
    runs: dict[str, Run]

    @property
    def elements(self) -> int:
        """Of the buffer."""
        return int(np.prod(self.x.shape))

    @property
    def id(self) -> str:
        """A readable name."""
        return f"{self.map.name}-{self.direction}-{self.dtype}-{self.elements}"

    @np.errstate(all="ignore")  # in the branch of a peer's formula that is not taken
    def check(self) -> None:
        """Every peer gives the result of fastmap, to the accuracy of its formula (large: a sample)."""
        part = slice(None, None, max(1, self.elements // _CHECKED))
        expected = _as_float(getattr(_functional, self.direction)(self.x, self.map)[part])
        rtol, atol = _TOLERANCE[self.dtype]
        for name, run in self.runs.items():
            if name in LIMITS:
                continue
            self.out[:] = np.nan
            result = run()
            got = self.out if name == "fastmap" or result is None else result
            np.testing.assert_allclose(
                _as_float(got[part]), expected, rtol=rtol, atol=atol, err_msg=f"{self.id} by {name}"
            )


def _as_float(x: Any) -> Any:
    return x.double().numpy() if hasattr(x, "double") else np.asarray(x)


def cases(
    sizes: Sequence[int], dtype: str, maps: Sequence[str] | None = None, compiled: Compiled | None = None
) -> Iterator[Case]:
    """Every map and direction at every size; `maps` selects by name."""
    for cls in CLASSES:
        m = cls()
        if maps and m.name not in maps:
            continue
        for size in sizes:
            for direction in DIRECTIONS:
                yield make_case(m, direction, size, dtype, compiled or Compiled(False))


def make_case(m: CatalogMap, direction: str, size: int, dtype: str, compiled: Compiled) -> Case:
    """theta is uniform in the domain, or in [-3, 4] of it."""
    low, high = max(m.domain[0], -3.0), min(m.domain[1], 4.0)
    margin = 0.01 * (high - low)
    x: Any = np.random.default_rng(0).uniform(low + margin, high - margin, min(size, _DISTINCT))
    x = np.resize(x.astype("float64" if dtype == "float64" else "float32"), size)
    if dtype == "bfloat16":
        torch = optional("torch")
        x = torch.from_numpy(x).to(torch.bfloat16)
    if direction == "inverse":
        x = _functional.forward(x, m)
    out = x * 0  # its pages exist before anyone is timed
    return Case(m, direction, dtype, x, out, dict(runs(m, direction, x, out, compiled)))


@np.errstate(all="ignore")
def measure(case: Case, seconds: float) -> dict[str, list[float]]:
    """Seconds per call of each peer, in rounds: all see the same machine. `check` has warmed them up."""
    times: dict[str, list[float]] = {}
    loops = {}
    for name, run in case.runs.items():  # how many calls make 2 ms, and who is worth a second one
        start = time.perf_counter()
        run()
        times[name] = [time.perf_counter() - start]
        loops[name] = max(1, int(2e-3 / times[name][0]))
    close = [name for name in case.runs if not _hopeless(name, times)]
    times.update({name: [] for name in close})
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["fastmap"]) < 3:
        for name in close:
            run = case.runs[name]
            start = time.perf_counter()
            for _ in range(loops[name]):
                run()
            times[name].append((time.perf_counter() - start) / loops[name])
    return times


def _hopeless(name: str, times: Mapping[str, Sequence[float]]) -> bool:
    """Plain Python, or far slower than another of its kind (eager, compiled)."""
    return name in PYTHON or any(
        name in kind and times[name][0] > _HOPELESS * min(times[n][0] for n in kind if n in times)
        for kind in (EAGER, COMPILED)
    )


@contextmanager
def threads(n: int) -> Iterator[None]:
    """fastmap and its peers on n threads; JAX takes what it finds."""
    before = _info.get_num_threads()
    setters = [_info.set_num_threads]
    if (torch := optional("torch")) is not None:
        setters.append(torch.set_num_threads)
    if (numexpr := optional("numexpr")) is not None:
        setters.append(numexpr.set_num_threads)
    for set_threads in setters:
        set_threads(n)
    try:
        yield
    finally:
        for set_threads in setters:
            set_threads(before)


def run_plan(plan: Plan, maps: Sequence[str] | None) -> Iterator[dict[str, Any]]:
    """One row per case; see `row`."""
    compiled = Compiled(plan.compiled)
    everyone = _info.get_num_threads()
    for dtype in plan.dtypes:
        for case in cases(plan.sizes, dtype, maps, compiled):
            case.check()
            counts = [everyone]
            largest = case.elements == max(plan.sizes) and dtype == "float32"
            if plan.one_thread and largest and everyone > 1 and case.map.name in SWEPT:
                counts.append(1)
            for n in counts:
                with threads(n):
                    times = measure(case, plan.seconds)
                yield row(case, n, times)
    if plan.sweep:
        for m in (cls() for cls in CLASSES if cls().name in SWEPT and (not maps or cls().name in maps)):
            for size in SWEEP_BYTES:
                case = make_case(m, "forward", max(1, size // 4), "float32", Compiled(False))
                kept = {name: case.runs[name] for name in ("fastmap", *LIMITS, "numpy")}
                case.runs.clear()
                case.runs.update(kept)
                yield {**row(case, everyone, measure(case, plan.seconds / 4)), "sweep": True}


def row(case: Case, n_threads: int, times: dict[str, list[float]]) -> dict[str, Any]:
    """Median and worst seconds per call of each peer."""
    return {
        "map": case.map.name,
        "direction": case.direction,
        "dtype": case.dtype,
        "elements": case.elements,
        "bytes": 2 * case.elements * {"float32": 4, "float64": 8, "bfloat16": 2}[case.dtype],
        "threads": n_threads,
        "median": {name: statistics.median(values) for name, values in times.items()},
        "worst": {name: max(values) for name, values in times.items()},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every map and direction against its peers, in one run; every answer is checked first."""
    parser = argparse.ArgumentParser(prog="fastmap bench", description=main.__doc__)
    parser.add_argument(
        "--full",
        action="store_true",
        help="also float64, bfloat16, compiled peers, one thread, the sweep of sizes: most of an hour",
    )
    parser.add_argument("--sizes", help="elements, comma separated")
    parser.add_argument("--dtype", action="append", choices=DTYPES, help="may be given several times")
    parser.add_argument("--map", action="append", help="only this map; may be given several times")
    parser.add_argument("--compiled", action="store_true", help="also numexpr, torch.compile and JAX")
    parser.add_argument("--out", metavar="DIR", help="write RESULTS.md, results.json and two pictures there")
    options = parser.parse_args(arguments)
    plan = FULL if options.full else QUICK
    try:
        sizes = tuple(map(int, options.sizes.split(","))) if options.sizes else plan.sizes
    except ValueError:
        parser.error(f"--sizes: expected integers, got {options.sizes!r}")
    known = [cls().name for cls in CLASSES]
    for name in options.map or ():
        if name not in known:
            parser.error(f"--map: expected one of {', '.join(known)}; got {name!r}")
    if options.out:
        report.check_pictures()
    have_torch = optional("torch") is not None
    plan = replace(
        plan,
        sizes=sizes,
        dtypes=tuple(d for d in options.dtype or plan.dtypes if have_torch or d != "bfloat16"),
        compiled=have_torch and (plan.compiled or options.compiled),
        sweep=plan.sweep and not options.sizes,
    )
    start = time.perf_counter()
    machine = report.machine()
    print(report.headline(machine))
    print(report.TABLE_HEAD)
    folder = Path(options.out) if options.out else None
    rows: list[dict[str, Any]] = []
    for r in run_plan(plan, options.map):
        rows.append(r)
        print(report.table_row(r), flush=True)
        if folder:  # what was measured so far, should it be interrupted
            report.write_rows(folder, machine, rows)
    print(report.summary(rows))
    if folder:
        command = " ".join(["fastmap bench", *(sys.argv[2:] if arguments is None else arguments)])
        report.write(folder, machine, rows, command, time.perf_counter() - start)
        print(f"written: {folder}{os.sep}RESULTS.md, results.json, roofline.png, ratios.png")
    return 0
