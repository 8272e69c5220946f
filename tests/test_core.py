"""The native core against mpmath and against itself, driven by the catalog."""

from __future__ import annotations

import os
import subprocess
import sys

import mpmath
import numpy as np
import pytest

from fastmap import _core

CATALOG = _core.catalog()
CASES = [(m, tuple(e.values())) for m in CATALOG for e in m["examples"]]
IDS = [f"{m['class_name']}{p}" for m, p in CASES]
DTYPES = [np.float32, np.float64]
THETA_OPS = ("forward", "jacobian", "log_abs_det", "log_abs_det_grad")
RAISE, NAN, CLIP = 0, 1, 2


def run(op, m, params, x, out=None, g=None, policy=NAN):
    """Apply an op; returns (out, (count, first))."""
    out = np.empty_like(x) if out is None else out
    status = _core.apply(
        _core.OPS[op], m["id"], int(x.dtype == np.float64), params, x.size, x.ctypes.data,
        0 if g is None else g.ctypes.data, out.ctypes.data, policy,
    )  # fmt: skip
    return out, status


def effective(m, params, dtype):
    """Parameters rounded once to the dtype, bounds inwards."""
    result = []
    for p, v in zip(m["params"], params, strict=True):
        r = dtype(v)
        if p["constraint"] == "lower_bound" and float(r) < v:
            r = np.nextafter(r, dtype(np.inf))
        if p["constraint"] == "upper_bound" and float(r) > v:
            r = np.nextafter(r, dtype(-np.inf))
        result.append(float(r))
    return result


def domain(m, params):
    """The open domain of theta."""
    names = {p["name"]: v for p, v in zip(m["params"], params, strict=True)} | {"inf": np.inf}
    low, high = (eval(text, {}, names) for text in m["domain"])
    return float(low), float(high)


def sample(op, m, params, dtype, n, rng):
    """Inputs over the exponent range, and close to the bounds of the domain."""
    big = 60.0 if dtype is np.float32 else 500.0
    x = np.exp2(rng.uniform(-big, 20, n)) * rng.choice([-1, 1], n)
    x[: n // 2] = rng.uniform(-80, 80, n // 2)
    if op in THETA_OPS:
        low, high = domain(m, params)
        if np.isfinite(low) and np.isfinite(high):
            x = low + (high - low) * rng.uniform(0, 1, n)
        elif np.isfinite(low):
            x = low + np.abs(x)
        elif np.isfinite(high):
            x[x > high] = high - np.abs(x[x > high])
        x = x.astype(dtype)
        x = x[(x.astype(float) > low) & (x.astype(float) < high)]
    return np.ascontiguousarray(x, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("m", "params"), CASES, ids=IDS)
@pytest.mark.parametrize("op", list(_core.OPS))
def test_accuracy(op, m, params, dtype):
    rng = np.random.default_rng(1)
    params = effective(m, params, dtype)
    x = sample(op, m, params, dtype, 250, rng)
    got, _ = run(op, m, params, x)
    variable = "t" if op in THETA_OPS else "z"
    largest = max([1.0, *map(abs, params)])
    bound = 2 if op in ("forward", "inverse") else 4
    worst = (0.0, 0.0)
    with mpmath.workprec(2400):
        names = {
            f: getattr(mpmath, f)
            for f in ("log", "log1p", "exp", "expm1", "sqrt", "sign", "sinh", "cosh", "tanh", "asinh")
        }
        names |= {"abs": abs} | {p["name"]: mpmath.mpf(v) for p, v in zip(m["params"], params, strict=True)}
        code = compile(m["formulas"][op], op, "eval")
        tiny = mpmath.mpf(float(np.finfo(dtype).smallest_subnormal))
        digits = np.finfo(dtype).nmant
        for xi, r in zip(x, got, strict=True):
            truth = mpmath.mpf(eval(code, names | {variable: mpmath.mpf(float(xi))}))
            if abs(truth) > float(np.finfo(dtype).max):
                assert np.isinf(r)
                continue
            exponent = int(mpmath.floor(mpmath.log(abs(truth), 2))) if truth else -5000
            ulp = max(mpmath.mpf(2) ** (exponent - digits), tiny)
            slack = mpmath.mpf(2) ** -20 * float(np.spacing(dtype(largest)))
            error = max(abs(mpmath.mpf(float(r)) - truth) - slack, mpmath.mpf(0)) / ulp
            worst = max(worst, (float(error), float(xi)))
    assert worst[0] <= bound, f"{worst[0]:.2f} ULP at {worst[1]!r}"


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
    x = sample(op, m, effective(m, params, dtype), dtype, 4000, np.random.default_rng(3))
    one_by_one = np.concatenate([run(op, m, params, x[i : i + 1])[0] for i in range(x.size)])
    odd = np.concatenate([x, np.full(1, np.nan, dtype)])  # one NaN: every block is redone exactly
    exact = np.concatenate(
        [run(op, m, params, np.r_[x[i : i + 500], odd[-1:]])[0][:-1] for i in range(0, x.size, 500)]
    )
    assert one_by_one.tobytes() == exact.tobytes()


@pytest.mark.parametrize(("m", "params"), CASES, ids=IDS)
def test_length_offset_and_threads_do_not_matter(m, params):
    x = sample("inverse", m, params, np.float32, 400_000, np.random.default_rng(4))
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
    low, high = domain(m, effective(m, params, dtype))
    x = everything(dtype)
    theta, _ = run("inverse", m, params, x)
    theta = theta[~np.isnan(x)]
    assert (theta >= low).all()
    assert (theta <= high).all()
    ends, _ = run("inverse", m, params, np.array([-np.inf, np.inf], dtype))
    assert sorted(ends) == [low, high]


@pytest.mark.parametrize(("m", "params"), CASES, ids=IDS)
def test_invalid_input_is_counted_and_nothing_is_written(m, params):
    x = sample("forward", m, params, np.float64, 100_000, np.random.default_rng(5))
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
    x = sample("forward", m, params, np.float64, 100_000, np.random.default_rng(6))
    terms, _ = run("log_abs_det", m, params, x)
    values, _ = run("forward", m, params, x)
    results = set()
    for threads in (1, 2, 3):
        _core.set_num_threads(threads)
        total, out = np.empty(1), np.empty_like(x)
        _core.log_det(_core.OPS["log_abs_det"], m["id"], 1, params, 1, x.size, x.ctypes.data,
                      total.ctypes.data, _core.OPS["forward"], out.ctypes.data, NAN)  # fmt: skip
        assert out.tobytes() == values.tobytes()
        results.add(total.tobytes())
    assert len(results) == 1
    assert total[0] == pytest.approx(terms.sum(), rel=1e-12, abs=1e-9)


def test_bad_parameters_are_named():
    interval = next(m for m in CATALOG if m["name"] == "interval")
    for bad, name in [((1.0, 1.0), "high"), ((np.nan, 1.0), "low"), ((0.0, np.inf), "high")]:
        with pytest.raises(ValueError, match=name):
            _core.check_params(interval["id"], 1, bad)
    with pytest.raises(ValueError, match="high"):
        _core.check_params(interval["id"], 0, (1.0, 1.0 + 1e-12))  # equal in float32
