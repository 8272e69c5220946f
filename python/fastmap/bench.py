"""fastmap against its peers, in one run: ``fastmap bench``; the cases also drive ``bench/``.

A peer is the same mapping written for NumPy, torch or plain Python. Where a library has the mapping as one
function with ``out=`` that is the peer; else the catalog's formula is evaluated with its functions.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from fastmap import _functional, _info
from fastmap._map import CatalogMap
from fastmap.maps import CLASSES

DIRECTIONS = ("forward", "inverse")
SIZES = (10**3, 10**4, 10**5, 10**6, 10**7)
_LARGEST_FOR_PYTHON = 10**6
_SECONDS_PER_CASE = 0.25

# Mappings that a library has as one function; each takes out=. Keyed by map and direction.
_NUMPY_FUNCTIONS: dict[tuple[str, str], str] = {
    ("log", "forward"): "log",
    ("log", "inverse"): "exp",
    ("tanh", "forward"): "arctanh",
    ("tanh", "inverse"): "tanh",
    ("asinh", "forward"): "arcsinh",
    ("asinh", "inverse"): "sinh",
}
_TORCH_FUNCTIONS: dict[tuple[str, str], str] = {
    ("log", "forward"): "log",
    ("log", "inverse"): "exp",
    ("interval", "forward"): "logit",
    ("interval", "inverse"): "sigmoid",
    ("tanh", "forward"): "atanh",
    ("tanh", "inverse"): "tanh",
    ("asinh", "forward"): "asinh",
    ("asinh", "inverse"): "sinh",
}


@dataclass(frozen=True)
class Case:
    """One map with default parameters, one direction, one buffer, and who computes it how."""

    map: CatalogMap
    direction: str
    x: np.ndarray[Any, Any]
    out: np.ndarray[Any, Any]
    runs: dict[str, Callable[[], Any]]

    @property
    def id(self) -> str:
        """A readable name."""
        return f"{self.map.name}-{self.direction}-{self.x.dtype}-{self.x.size}"

    def check(self) -> None:
        """Every peer gives the result of fastmap, to the accuracy of its formula."""
        expected = getattr(_functional, self.direction)(self.x, self.map)
        for name, run in self.runs.items():
            self.out.fill(np.nan)
            result = run()
            got = self.out if name == "fastmap" or result is None else np.asarray(result)
            np.testing.assert_allclose(got, expected, rtol=2e-4, atol=1e-5, err_msg=name)


def cases(
    sizes: Sequence[int] = SIZES, dtype: str = "float32", maps: Sequence[str] | None = None
) -> Iterator[Case]:
    """Every map and direction at every size; `maps` selects by name."""
    for cls in CLASSES:
        m = cls()
        if maps and m.name not in maps:
            continue
        for size in sizes:
            theta = _theta(m, size, dtype)
            for direction in DIRECTIONS:
                x = theta if direction == "forward" else _functional.forward(theta, m)
                out = np.ones_like(x)  # its pages exist before anyone is timed
                yield Case(m, direction, x, out, dict(_runs(m, direction, x, out)))


def peers(size: int) -> tuple[str, ...]:
    """Who computes a case of this size; plain Python leaves the largest out, which would take minutes."""
    everyone = ("fastmap", "numpy", "torch")
    return (*everyone, "python") if size <= _LARGEST_FOR_PYTHON else everyone


def _theta(m: CatalogMap, size: int, dtype: str) -> np.ndarray[Any, Any]:
    low, high = m.domain
    low, high = max(low, -3.0), min(high, 4.0)
    margin = 0.01 * (high - low)
    rng = np.random.default_rng(0)
    return rng.uniform(low + margin, high - margin, size).astype(dtype)


def _runs(
    m: CatalogMap, direction: str, x: np.ndarray[Any, Any], out: np.ndarray[Any, Any]
) -> Iterator[tuple[str, Callable[[], Any]]]:
    ours = getattr(_functional, direction)
    yield "fastmap", lambda: ours(x, m, out=out)
    key = (m.name, direction)
    if key in _NUMPY_FUNCTIONS:
        ufunc = getattr(np, _NUMPY_FUNCTIONS[key])
        yield "numpy", lambda: ufunc(x, out=out)
    else:
        by_numpy = _formula(m, direction, np)
        yield "numpy", lambda: by_numpy(x)
    torch = _optional("torch")
    if torch is not None:
        tx, tout = torch.from_numpy(x), torch.from_numpy(out)
        if key in _TORCH_FUNCTIONS:
            function = getattr(torch, _TORCH_FUNCTIONS[key])
            yield "torch", lambda: function(tx, out=tout)
        elif key == ("softplus", "inverse"):
            yield "torch", lambda: torch.nn.functional.softplus(tx)
        else:
            by_torch = _formula(m, direction, torch)
            yield "torch", lambda: by_torch(tx)
    if "python" in peers(x.size):
        numbers = x.tolist()
        by_python = _formula(m, direction, math)
        yield "python", lambda: [by_python(t) for t in numbers]


def _formula(m: CatalogMap, direction: str, library: ModuleType) -> Callable[[Any], Any]:
    """The catalog's formula as a function of one variable, in the functions of `library`."""
    names = ("log", "log1p", "exp", "expm1", "sqrt", "abs", "sign", "sinh", "cosh", "tanh")
    scope: dict[str, Any] = {name: getattr(library, name, None) for name in names}
    scope["asinh"] = getattr(library, "asinh", None) or getattr(library, "arcsinh", None)
    scope["abs"] = scope["abs"] or abs
    scope["sign"] = scope["sign"] or (lambda v: math.copysign(1.0, v))
    variable = "t" if direction == "forward" else "z"
    text = m.entry["formulas"][direction]
    if text == variable:  # the identity: a copy
        text = f"{variable} * 1"
    scope |= m.params
    return eval(f"lambda {variable}: {text}", scope)  # type: ignore[no-any-return]


def _optional(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def measure(case: Case, seconds: float = _SECONDS_PER_CASE) -> dict[str, float]:
    """Median seconds per call of each peer; the peers take turns, so that all see the same machine."""
    times: dict[str, list[float]] = {name: [] for name in case.runs}
    loops = {}
    for name, run in case.runs.items():  # warm-up, and how many calls make 2 ms
        run()
        start = time.perf_counter()
        run()
        loops[name] = max(1, int(2e-3 / (time.perf_counter() - start)))
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or min(map(len, times.values())) < 3:
        for name, run in case.runs.items():
            if name == "python" and len(times[name]) >= 3:
                continue
            start = time.perf_counter()
            for _ in range(loops[name]):
                run()
            times[name].append((time.perf_counter() - start) / loops[name])
    return {name: statistics.median(values) for name, values in times.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print one row per case: time and rate of fastmap, and how many times faster than each peer."""
    parser = argparse.ArgumentParser(prog="fastmap bench", description=main.__doc__)
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="elements, comma separated")
    parser.add_argument("--dtype", default="float32", choices=("float32", "float64"))
    parser.add_argument("--map", action="append", help="only this map; may be given several times")
    parser.add_argument("--json", metavar="FILE", help="also write the rows there")
    options = parser.parse_args(arguments)
    try:
        sizes = [int(size) for size in options.sizes.split(",")]
    except ValueError:
        parser.error(f"--sizes: expected integers, got {options.sizes!r}")
    known = [cls().name for cls in CLASSES]
    for name in options.map or ():
        if name not in known:
            parser.error(f"--map: expected one of {', '.join(known)}; got {name!r}")
    info = _info.info()
    print(f"fastmap {info['version']}, {info['isa']}, {info['threads']} threads, {options.dtype}; "
          "output given where the peer can take it; medians")  # fmt: skip
    print(f"{'map':14}{'direction':10}{'elements':>10}{'ns/elem':>9}{'GB/s':>7}"
          f"{'x numpy':>9}{'x torch':>9}{'x python':>10}")  # fmt: skip
    rows = []
    for case in cases(sizes, options.dtype, options.map):
        case.check()
        medians = measure(case)
        ours = medians["fastmap"]
        ratios = {name: t / ours for name, t in medians.items() if name != "fastmap"}
        row = {
            "map": case.map.name,
            "direction": case.direction,
            "dtype": options.dtype,
            "elements": case.x.size,
            "ns_per_element": ours / case.x.size * 1e9,
            "gb_per_s": 2 * case.x.nbytes / ours / 1e9,
            **{f"times_{name}": ratio for name, ratio in ratios.items()},
        }
        rows.append(row)
        columns = "".join(
            f"{ratios[name]:{width}.{1 if ratios[name] < 100 else 0}f}"
            if name in ratios
            else f"{'-':>{width}}"
            for name, width in (("numpy", 9), ("torch", 9), ("python", 10))
        )
        print(f"{row['map']:14}{row['direction']:10}{case.x.size:10}{row['ns_per_element']:9.2f}"
              f"{row['gb_per_s']:7.1f}{columns}", flush=True)  # fmt: skip
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"info": info, "rows": rows}, file, indent=1)
    return 0
