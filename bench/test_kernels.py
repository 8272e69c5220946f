"""Every map and direction against its peers, by pytest-benchmark: ``pytest bench``.

``pytest bench -k "log and 1000000"`` selects; ``--benchmark-json`` keeps the numbers. `fastmap bench` prints
the ratios of the same cases.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from fastmap.bench.peers import LARGEST_FOR_PYTHON, PYTHON, Compiled
from fastmap.bench.suite import DIRECTIONS, DTYPES, FULL, make_case
from fastmap.maps import CLASSES

COMPILED = Compiled(wanted=True)
CASES = [
    (cls, direction, dtype, size, peer)
    for cls in CLASSES
    for direction in DIRECTIONS
    for dtype in DTYPES
    for size in (1000, *FULL.sizes)
    for peer in make_case(cls(), direction, 8, dtype, COMPILED).runs
    if peer not in PYTHON or size <= LARGEST_FOR_PYTHON
]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # in the branch of a peer's formula that is not taken
@pytest.mark.parametrize(("cls", "direction", "dtype", "size", "peer"), CASES)
def test_map(
    benchmark: BenchmarkFixture, cls: type, direction: str, dtype: str, size: int, peer: str
) -> None:
    case = make_case(cls(), direction, size, dtype, COMPILED)
    wanted = {name: run for name, run in case.runs.items() if name in ("fastmap", peer)}
    replace(case, runs=wanted).check()
    benchmark.group = case.id
    benchmark(case.runs[peer])
