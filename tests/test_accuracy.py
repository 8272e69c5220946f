"""Every map within its stated bound, by an oracle that is itself checked against mpmath."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import oracle
import pytest

import fastmap

CASES = [(entry, params) for entry, params, _ in oracle.cases()]
each_case = pytest.mark.parametrize(
    ("entry", "params"), CASES, ids=[f"{e['class_name']}{p}" for e, p in CASES]
)
each_dtype = pytest.mark.parametrize("dtype", oracle.DTYPES)
COMPOSITIONS = ("soft_clip", "sinh_arcsinh", "lambert_w", "leaky_relu", "leaky_tanh", "kumaraswamy")
TABLE = Path(__file__).with_name("accuracy.json")
WALKS = Path(__file__).with_name("walks.json")


@each_dtype
@each_case
def test_oracle_agrees_with_mpmath(entry: oracle.Entry, params: oracle.Params, dtype: type) -> None:
    p = oracle.effective(entry, params, dtype)
    for op in oracle._core.OPS:
        x = oracle.sample(op, entry, p, dtype, 2000)
        x = np.ascontiguousarray(x[:: max(1, x.size // 20)])
        got = oracle.apply(op, entry, p, x)
        found = oracle.errors(op, entry, p, x, got)
        exact = [oracle.exact_error(op, entry, p, a, b) for a, b in zip(x, got, strict=True)]
        np.testing.assert_allclose(found, exact, atol=2**-6, err_msg=op)


@each_dtype
@each_case
def test_errors_are_within_the_stated_bounds(entry: oracle.Entry, params: oracle.Params, dtype: type) -> None:
    for op in oracle._core.OPS:
        row = oracle.measure(entry, params, op, dtype, 50_000)
        assert row["worst_ulp"] <= row["bound"], row


ABSOLUTE = ("sinh_arcsinh", "kumaraswamy")  # whose log-derivatives are so next to roots that parameters move


@each_dtype
@each_case
def test_errors_next_to_roots(entry: oracle.Entry, params: oracle.Params, dtype: type) -> None:
    """Where results change their sign, wherever parameters put that."""
    p = oracle.effective(entry, params, dtype)
    for op in oracle._core.OPS:
        x = oracle.around_roots(op, entry, p, dtype)
        if not x.size:
            continue
        got = oracle.apply(op, entry, p, x)
        ulp = oracle.errors(op, entry, p, x, got)
        wrong = ulp > oracle.bound(entry, op)
        if entry["name"] in ABSOLUTE and "log" in op:
            wrong &= ulp * np.spacing(np.abs(got)) > 2.0**-20 * np.spacing(dtype(1))
        assert not wrong.any(), (op, x[wrong][:3], ulp[wrong][:3])


def random_params(entry: oracle.Entry, rng: np.random.Generator) -> oracle.Params:
    """Any parameters that a user may give."""
    values: list[float] = []
    for p in entry["params"]:
        size = float(np.exp2(rng.uniform(-10, 10)))
        sign = float(rng.choice([-1.0, 1.0]))
        values.append(
            {
                "finite": sign * float(np.exp2(rng.uniform(-6, 6))),
                "nonzero": sign * size,
                "lower_bound": sign * size,
                "positive": float(np.exp2(rng.uniform(-3, 3))),
                "positive_lower_bound": size,
                "upper_bound": (values[-1] if values else 0.0) + size,
            }[p["constraint"]]
        )
    return tuple(values)


@each_dtype
@pytest.mark.parametrize("entry", oracle.CATALOG, ids=[e["name"] for e in oracle.CATALOG])
def test_errors_with_parameters_that_nobody_published(entry: oracle.Entry, dtype: type) -> None:
    rng = np.random.default_rng(entry["id"])
    for _ in range(20 if entry["params"] else 1):
        params = random_params(entry, rng)
        for op in oracle._core.OPS:
            row = oracle.measure(entry, params, op, dtype, 2000)
            if row["worst_ulp"] > row["bound"]:  # the formula may cancel in 113 bits, in 2400 it does not
                p, x = oracle.effective(entry, params, dtype), np.array([float.fromhex(row["at"])], dtype)
                row["worst_ulp"] = oracle.exact_error(op, entry, p, x[0], oracle.apply(op, entry, p, x)[0])
            assert row["worst_ulp"] <= row["bound"], row


@each_dtype
@pytest.mark.parametrize("scale", [1e-20, 1e20, "least"])
@pytest.mark.parametrize("name", ["asinh", "symlog"])
def test_scales_whose_squares_leave_the_format(name: str, scale: float | str, dtype: type) -> None:
    entry = next(e for e in oracle.CATALOG if e["name"] == name)
    if scale == "least":  # theta / scale leaves it, too, for theta of moderate size
        scale = 1e3 * float(np.finfo(dtype).tiny)
    for op in oracle._core.OPS:
        row = oracle.measure(entry, (scale,), op, dtype, 20_000)
        assert row["worst_ulp"] <= row["bound"], row


BETWEEN = [e for e in oracle.CATALOG if any(p["constraint"] == "upper_bound" for p in e["params"])]
LIMITS = {np.float32: (2.0**120, 2.0**-80), np.float64: (2.0**1000, 2.0**-800)}  # bounds, and width
each_between = pytest.mark.parametrize("entry", BETWEEN, ids=[e["name"] for e in BETWEEN])


def with_bounds(entry: oracle.Entry, pairs: list[tuple[float, float]]) -> list[oracle.Params]:
    """The default parameters with other bounds, as far as the map takes them; lengths keep their share."""
    rest = tuple(entry["examples"][0].values())[2:]
    positive = entry["params"][0]["constraint"] == "positive_lower_bound"
    return [(a, b, *(r * (b - a) for r in rest)) for a, b in pairs if a > 0 or not positive]


@each_dtype
@each_between
def test_intervals_of_extreme_width_and_place(entry: oracle.Entry, dtype: type) -> None:
    far, near = LIMITS[dtype]
    eps = float(np.finfo(dtype).eps)
    pairs = [
        (-far, far),
        (0, far),
        (-far, 0),
        (-1, far),
        (0.9 * far, far),
        (near, far),
        (0, near),
        (-near, near),
    ]
    pairs += [
        (near, 2 * near),
        (1, 1 + eps),
        (1, 1 + 4 * eps),
        (-1 - 6 * eps, -1),
        (1000, 1000 * (1 + 2 * eps)),
    ]
    for params in with_bounds(entry, pairs):
        for op in oracle._core.OPS:
            p = oracle.effective(entry, params, dtype)
            x = oracle.sample(op, entry, p, dtype, 2000)
            got = oracle.apply(op, entry, p, x)
            found = oracle.errors(op, entry, p, x, got)
            for i in np.flatnonzero(found > oracle.bound(entry, op))[:20]:  # in 113 bits, in 2400 it need not
                error = oracle.exact_error(op, entry, p, x[i], got[i])
                assert error <= oracle.bound(entry, op), (op, params, x[i], got[i])


@each_dtype
@each_between
def test_intervals_beyond_the_format_are_refused_before_any_write(entry: oracle.Entry, dtype: type) -> None:
    far, near = LIMITS[dtype]
    largest, subnormal = float(np.finfo(dtype).max), float(np.finfo(dtype).smallest_subnormal)
    pairs = [(-largest, largest), (1.0, 2 * far), (-2 * far, 0), (0.5 * largest, largest)]
    pairs += [(0, near / 2), (near / 8, near / 4), (subnormal, 3 * subnormal), (-subnormal, subnormal)]
    theta, out = np.zeros(3, dtype), np.full(3, 7, dtype)
    for params in with_bounds(entry, pairs):
        with pytest.raises(ValueError, match=r"high .* in this dtype"):
            getattr(fastmap, entry["class_name"])(*params).forward(theta, out=out)
        assert (out == 7).all()


DEFAULTS = [(entry, params) for entry, params, default in oracle.cases() if default]
each_default = pytest.mark.parametrize(("entry", "params"), DEFAULTS, ids=[e["name"] for e, _ in DEFAULTS])
each_value = pytest.mark.parametrize("op", oracle.VALUE_OPS)


@each_value
@each_default
def test_float32_in_order(entry: oracle.Entry, params: oracle.Params, op: str) -> None:
    """A coarse walk through all floats; `python tests/oracle.py --monotone` takes every one of them."""
    row = oracle.measure_all(entry, params, op, step=50_021)
    assert row["worst_ulp"] <= row["bound"]
    assert row["wrong_way"] == 0


@each_value
@each_default
def test_neighbours_never_go_the_wrong_way(entry: oracle.Entry, params: oracle.Params, op: str) -> None:
    """All floats next to zero, to roots and in the bends, where rounding errors are larger than steps."""
    low, high = oracle.input_range(op, entry, params)
    direction = np.sign(oracle.apply("forward", entry, params, np.array([0.25, 0.75])) @ [-1, 1])
    for centre in (-20, -5, -1, -0.5, -0.1, -1e-3, -1e-6, 1e-6, 1e-3, 0.1, 0.5, 0.9, 1, 2, 5, 20, 1e3):
        order = oracle._ordered(np.array([centre], np.float32)) + np.arange(-(2**17), 2**17)
        x = oracle._from_ordered(order, np.float32)
        x = np.ascontiguousarray(x[(x > low) & (x < high)])
        got = oracle.apply(op, entry, params, x).astype(np.float64)
        finite = got[np.isfinite(got)]
        assert (np.diff(finite) * direction >= 0).all(), centre


def test_a_step_back_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    entry, params = next((e, p) for e, p in CASES if e["name"] == "log")
    apply, step = oracle.apply, 501
    places = np.array([oracle._PART, oracle._PART + 500, 2 * oracle._PART - 1])  # 0 is no input
    back, lost, last = oracle._from_ordered(places * step, np.float32)

    def wrong(op: str, entry: oracle.Entry, params: oracle.Params, x: np.ndarray) -> np.ndarray:
        got = apply(op, entry, params, x)
        got[(x == back) | (x == last)] -= 1
        got[x == lost] = np.nan
        return got

    assert oracle.measure_all(entry, params, "forward", step=step)["wrong_way"] == 0
    monkeypatch.setattr(oracle, "apply", wrong)
    row = oracle.measure_all(entry, params, "forward", step=step)
    assert row["wrong_way"] == 4  # a NaN is two
    assert row["wrong_at"] == float(back).hex()
    assert row["worst_ulp"] == np.inf
    assert row["at"] == float(lost).hex()


@each_case
def test_the_filter_hides_no_error(entry: oracle.Entry, params: oracle.Params) -> None:
    p = oracle.effective(entry, params, np.float32)
    for op in oracle._core.OPS:
        x = oracle.sample(op, entry, p, np.float32, 20_000)
        got = oracle.apply(op, entry, p, x)
        wrong = np.random.default_rng(0).integers(0, x.size, 100)
        got[wrong] = np.nextafter(got[wrong], np.float32(0))
        exact = oracle.errors(op, entry, p, x, got)
        upper = oracle.errors(op, entry, p, x, got, known=np.inf)
        assert (upper >= exact - 2**-20).all(), op
        if op in oracle.VALUE_OPS and (entry, params) in DEFAULTS:  # those that are walked: it is of use
            assert np.mean(upper < exact + 0.01) > 0.9, op
        large, known = exact > 0.6, oracle.errors(op, entry, p, x, got, known=0.6)
        np.testing.assert_array_equal(known[large], exact[large], err_msg=op)


@each_dtype
def test_an_error_of_two_units_is_seen(dtype: type) -> None:
    entry, params = next((e, p) for e, p in CASES if e["name"] == "log")
    x = oracle.sample("forward", entry, params, dtype, 20_000)
    got = oracle.apply("forward", entry, params, x)
    got[777] = np.nextafter(np.nextafter(np.nextafter(got[777], dtype(np.inf)), dtype(np.inf)), dtype(np.inf))
    found = oracle.errors("forward", entry, params, x, got)
    assert found.argmax() == 777
    assert 2 < found[777] < 4
    for wrong in (np.nan, np.inf, -got[777]):
        got[777] = wrong
        assert oracle.errors("forward", entry, params, x, got)[777] > 1e3


def test_committed_table_is_complete_and_within_bounds() -> None:
    """`python tests/oracle.py --samples 10000000 --out tests/accuracy.json` writes it."""
    rows = json.loads(TABLE.read_text())
    have = {(r["map"], tuple(r["params"]), r["op"], r["dtype"]) for r in rows}
    want = {
        (e["name"], p, op, np.dtype(d).name)
        for e, p in CASES
        for op in oracle._core.OPS
        for d in oracle.DTYPES
    }
    assert have == want
    for row in rows:
        entry = next(e for e in oracle.CATALOG if e["name"] == row["map"])
        assert row["worst_ulp"] <= row["bound"] == oracle.bound(entry, row["op"])
    for entry, params, default in oracle.cases():
        for op in oracle.VALUE_OPS if default else ():
            rows_of = [
                r for r in rows if r["map"] == entry["name"] and r["params"] == list(params) and r["op"] == op
            ]
            # Compositions of many functions take ten times as long in 113 bits.
            least = 10**6 if entry["name"] in COMPOSITIONS else 10**7
            assert all(r["samples"] >= least for r in rows_of)


def test_the_catalog_says_what_the_walks_found() -> None:
    """`python tests/oracle.py --all-floats --out tests/walks.json` walks and keeps the rows."""
    rows = json.loads(WALKS.read_text())
    for entry, params in DEFAULTS:
        own = {r["op"]: r for r in rows if r["map"] == entry["name"]}
        for op, row in own.items():
            low, high = oracle.input_range(op, entry, oracle.effective(entry, params, np.float32))
            largest = float(np.finfo(np.float32).max)
            first, last = oracle._ordered(np.clip([low, high], -largest, largest).astype(np.float32))
            assert tuple(row["params"]) == params
            assert last - first - 1 <= row["samples"] <= last - first + 1
            assert row["worst_ulp"] <= row["bound"] == oracle.bound(entry, op)
        if any(row["wrong_way"] for row in own.values()):
            assert entry["monotone"] == "no"
        elif set(own) == set(oracle.VALUE_OPS):
            assert entry["monotone"] in ("exhaustive", "exact")
