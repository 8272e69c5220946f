"""Every map and direction against its peers, by pytest-benchmark: ``pytest bench``.

``pytest bench -k "log and 1000000"`` selects; ``--benchmark-json`` keeps the numbers. `fastmap bench` prints
the ratios of the same cases.
"""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from fastmap.bench import DIRECTIONS, SIZES, cases, peers
from fastmap.maps import CLASSES


@pytest.mark.parametrize(("size", "peer"), [(size, peer) for size in SIZES for peer in peers(size)])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", [cls().name for cls in CLASSES])
def test_map(benchmark: BenchmarkFixture, name: str, direction: str, size: int, peer: str) -> None:
    case = next(c for c in cases([size], maps=[name]) if c.direction == direction)
    case.check()
    benchmark.group = case.id
    benchmark.extra_info["bytes"] = 2 * case.x.nbytes
    benchmark(case.runs[peer])
