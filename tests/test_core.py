"""The native core against itself: paths, instruction sets, threads, lengths, policies, by the catalog."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import engine
import hashes
import numpy as np
import oracle
import pytest
from engine import CLIP, RAISE, run
from oracle import domain, effective

from fastmap import _core

CATALOG = _core.catalog()
CASES = [(m, tuple(e.values())) for m in CATALOG for e in m["examples"]]
IDS = [f"{m['class_name']}{p}" for m, p in CASES]
DTYPES = [np.float32, np.float64]


def sample(op, m, params, dtype, n, seed):
    return oracle.sample(op, m, oracle.effective(m, params, dtype), dtype, n, seed)


def everything(dtype):
    """Random bit patterns: all exponents, NaN, infinities, subnormals."""
    rng = np.random.default_rng(2)
    bits = np.uint32 if dtype is np.float32 else np.uint64
    x = rng.integers(0, np.iinfo(bits).max, 20000, dtype=bits, endpoint=True).view(dtype)
    near = rng.uniform(-100, 100, 20000).astype(dtype)
    return np.concatenate([x, near, np.array([0.0, -0.0, np.inf, -np.inf, np.nan], dtype)])


def digest():
    """Every bit of every op on `everything`, as text."""
    import hashlib

    lines = []
    for m, params in CASES:
        for dtype in DTYPES:
            for op in _core.OPS:
                out, _ = run(op, m, params, everything(dtype))
                short, _ = run(op, m, params, everything(dtype)[20000:40000])
                h = hashlib.sha256(out.tobytes() + short.tobytes()).hexdigest()
                lines.append(f"{m['name']}{params} {np.dtype(dtype)} {op} {h}")
        for code in (2, 3):  # bfloat16, float16: every number
            x, out = np.arange(2**16, dtype=np.uint16), np.empty(2**16, np.uint16)
            try:
                run("inverse", m, params, x, out, dtype=code)
            except ValueError:  # bounds that are one number in this type
                continue
            lines.append(f"{m['name']}{params} {code} {hashlib.sha256(out.tobytes()).hexdigest()}")
    return "\n".join(lines)


def test_same_bits_on_every_isa():
    results = {}
    for isa in _core.info()["isas"]:
        done = subprocess.run(
            [sys.executable, "-c", "import test_core; print(test_core.digest())"],
            env=os.environ | {"FASTMAP_ISA": isa, "PYTHONPATH": os.path.dirname(__file__)},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        results[isa] = done.stdout.splitlines()
    first = next(iter(results))
    for isa, lines in results.items():
        different = [a for a, b in zip(lines, results[first], strict=True) if a != b]
        assert not different, f"{isa} differs from {first}: {different[:5]}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "params"), CASES, ids=IDS)
@pytest.mark.parametrize("op", list(_core.OPS))
def test_fast_and_exact_path_give_the_same_bits(op, m, params, dtype):
    x = sample(op, m, params, dtype, 4000, 3)
    one_by_one = np.concatenate([run(op, m, params, x[i : i + 1])[0] for i in range(x.size)])
    odd = np.concatenate([x, np.full(1, np.nan, dtype)])  # one NaN: every block is redone exactly
    exact = np.concatenate(
        [run(op, m, params, np.r_[x[i : i + 500], odd[-1:]])[0][:-1] for i in range(0, x.size, 500)]
    )
    assert one_by_one.tobytes() == exact.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "params"), CASES, ids=IDS)
@pytest.mark.parametrize("op", list(_core.OPS))
def test_blocks_of_like_numbers_give_the_bits_of_the_exact_path(op, m, params, dtype):
    """Sorted: whole blocks take the fast path up to the ends of its range. A NaN in each prevents it."""
    x = np.sort(sample(op, m, params, dtype, 50_000, 5))
    marked = np.insert(x, np.arange(0, x.size, 100), np.nan)
    exact = run(op, m, params, marked)[0][~np.isnan(marked)]
    assert run(op, m, params, x)[0].tobytes() == exact.tobytes()


@pytest.mark.parametrize(("m", "params"), CASES, ids=IDS)
def test_length_offset_and_threads_do_not_matter(m, params):
    x = sample("inverse", m, params, np.float32, 400_000, 4)
    _core.set_num_threads(1)
    whole, _ = run("inverse", m, params, x)
    for threads in (2, 3, 5):
        _core.set_num_threads(threads)
        assert run("inverse", m, params, x)[0].tobytes() == whole.tobytes()
    for n in range(68):
        for offset in range(16):
            part = x[offset : offset + n]
            assert run("inverse", m, params, part)[0].tobytes() == whole[offset : offset + n].tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "params"), CASES, ids=IDS)
def test_inverse_stays_in_the_closed_domain(m, params, dtype):
    p = effective(m, params, dtype)
    low, high = domain(m, p)
    first, last = domain(m, p, "codomain")
    x = everything(dtype)
    theta, _ = run("inverse", m, params, x)
    inside = (first < x) & (x < last)
    assert (theta[inside] >= low).all()
    assert (theta[inside] <= high).all()
    assert np.isnan(theta[(x < first) | (x > last) | np.isnan(x)]).all()
    for end in {first, last} & {-np.inf, np.inf}:
        assert run("inverse", m, params, np.array([end], dtype))[0] in (low, high)
    if m["closed"]:  # the ends themselves, as far as the dtype has them
        ends = np.array([end for end in (first, last) if end.is_integer()], dtype)
        assert np.isin(run("inverse", m, params, ends)[0], (low, high)).all()


@pytest.mark.parametrize(("m", "params"), CASES, ids=IDS)
def test_invalid_input_is_counted_and_nothing_is_written(m, params):
    x = sample("forward", m, params, np.float64, 100_000, 5)
    x[[77, 5000, x.size - 1]] = np.nan
    before = x.copy()
    _, status = run("forward", m, params, x, out=x, policy=RAISE)
    assert status == (3, 77)
    assert x.tobytes() == before.tobytes()
    assert run("forward", m, params, x, policy=CLIP)[1] == (3, 77)
    out, status = run("forward", m, params, x)
    assert status == (0, 0)
    assert set(out[np.isnan(out)].view(np.uint64).tolist()) == {0x7FF8000000000000}


@pytest.mark.parametrize(("m", "params"), CASES, ids=IDS)
def test_sums_match_and_do_not_depend_on_threads(m, params):
    x = sample("forward", m, params, np.float64, 100_000, 6)
    terms, _ = run("log_abs_det", m, params, x)
    values, _ = run("forward", m, params, x)
    results = set()
    for threads in (1, 2, 3):
        _core.set_num_threads(threads)
        out = np.empty_like(x)
        total = engine.log_det(m, params, x, out)
        assert out.tobytes() == values.tobytes()
        results.add(total.tobytes())
    assert len(results) == 1
    assert total[0] == pytest.approx(terms.sum(), rel=1e-12, abs=1e-9)


def test_bad_parameters_are_named():
    interval = next(m for m in CATALOG if m["name"] == "interval")
    for bad, name in [((1.0, 1.0), "high"), ((np.nan, 1.0), "low"), ((0.0, -np.inf), "high")]:
        with pytest.raises(ValueError, match=name):
            engine.program(interval, bad)
    with pytest.raises(ValueError, match="high"):  # equal in float32
        run("forward", interval, (1.0, 1.0 + 1e-12), np.ones(3, np.float32))


@pytest.mark.parametrize("m", CATALOG, ids=lambda m: m["name"])
def test_bits_are_those_on_record(m):
    """A change of bits is a change of behaviour: run tests/hashes.py and say so in the changelog."""
    assert hashes.hashes(m) == json.loads(hashes.PATH.read_text())[m["name"]]
