"""Many threads in every kind of native call at once: ``python tests/free_threads.py [seconds]``.

For a Python without a GIL, where calls really overlap; with one it runs, too. Needs NumPy alone. Every result
must have the bits that one thread gets. Maps are shared, and new in each round, so that their lazy parts are
first asked for by many threads: rows of programs, hashes, boxes of parameters.
"""

from __future__ import annotations

import sys
import sysconfig
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

import fastmap as fm

THREADS = 8
SIZE = 100_000  # elements: enough for the engine's own threads to take part
RNG = np.random.default_rng(0)
UNIT = RNG.uniform(0.05, 0.95, SIZE)
INPUTS = [UNIT, UNIT.astype(np.float32), UNIT.astype(np.float16), UNIT[::3], UNIT[:7].astype(np.float32)]
ROWS = RNG.dirichlet(np.ones(5), 1000)
Call = Callable[[], object]


def calls() -> list[Call]:
    """Calls that share maps which nobody has used yet."""
    columns = fm.Interval(np.zeros(SIZE // 100), np.linspace(1, 2, SIZE // 100))
    maps = [fm.Log(), fm.Softplus(beta=2.0), fm.Chain("log", "asinh"), fm.Interval(0, 1).inv.inv]
    grid, param = UNIT.reshape(100, -1), fm.Param(1e-3, 1.0, map=fm.Log())
    space = fm.Space(a=fm.Param(0, 1, shape=SIZE // 2), b=fm.Param(low=0, shape=SIZE // 2))
    simplex, z = fm.Simplex(), np.zeros(SIZE)
    found: list[Call] = [
        lambda: fm.forward(grid, columns),
        lambda: fm.log_abs_det(grid, columns, axis=0),
        lambda: fm.inverse_and_log_det(z, maps[1]),
        lambda: fm.pullback(UNIT, z, maps[0]),
        lambda: fm.forward(UNIT, space),
        lambda: fm.forward(ROWS, simplex),
        lambda: (hash(columns), columns == fm.Interval(columns.low, columns.high), hash(space.flat_map)),
        lambda: (param.z_box, param.from_z(-3.0), space.maps["a"].domain),
        lambda: _refused(maps[0]),
        lambda: fm.set_num_threads(1 + threading.get_ident() % 3),
    ]
    for m in maps:
        for x in INPUTS:
            found += [lambda m=m, x=x: fm.forward(x, m), lambda m=m, x=x: fm.log_abs_det(x, m)]
    return found


def _refused(m: fm.Map) -> object:
    try:
        return fm.forward(-UNIT, m)
    except fm.DomainError as error:
        return error.count, error.index


def flat(result: object) -> bytes:
    """The bits of a result."""
    if isinstance(result, tuple):
        return b"".join(flat(part) for part in result)
    return result.tobytes() if isinstance(result, np.ndarray) else repr(result).encode()


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 5.0
    expected = [flat(call()) for call in calls()]
    rounds, end = 0, time.monotonic() + seconds
    with ThreadPoolExecutor(THREADS) as pool:
        while rounds == 0 or time.monotonic() < end:
            shared, barrier = calls(), threading.Barrier(THREADS)

            def work(
                start: int, shared: list[Call] = shared, barrier: threading.Barrier = barrier
            ) -> list[int]:
                barrier.wait()
                order = range(start, start + len(shared))  # all begin with the same call, then drift apart
                return [
                    i % len(shared)
                    for i in order
                    if flat(shared[i % len(shared)]()) != expected[i % len(shared)]
                ]

            for wrong in pool.map(work, [rounds] * THREADS):
                assert not wrong, f"calls {wrong} gave other bits than one thread gets"
            rounds += 1
    free = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    if free:
        assert not sys._is_gil_enabled(), "importing fastmap has turned the GIL on"
    print(f"{rounds} rounds of {len(expected)} calls in {THREADS} threads,", "no GIL" if free else "a GIL")


if __name__ == "__main__":
    main()
