"""Chains, inverses, parameters as arrays, spaces over buffers and strided memory: the same bits as one map on
one plain buffer at a time."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from itertools import product

import numpy as np
import oracle
import pytest
import torch

import fastmap as fm
from fastmap.maps import CLASSES

ARRAY_OPS = ("forward", "jacobian", "inverse", "inverse_jacobian")
LOG_OPS = ("log_abs_det", "inverse_log_abs_det")
DTYPES = (np.float32, np.float64)
EXAMPLES = {cls: [tuple(e.values()) for e in cls.entry["examples"]] for cls in CLASSES}
WITH_PARAMS = [cls for cls in CLASSES if cls.entry["params"]]


def sample(op: str, m: fm.Map, n: int, dtype: type = np.float64, seed: int = 3) -> np.ndarray:
    """Ordinary theta or z for an op of a catalog map."""
    params = oracle.effective(m.entry, m.values, dtype)
    direction = "inverse" if op.startswith("inverse") else "forward"
    return np.resize(oracle.sample(direction, m.entry, params, dtype, 2 * n + 100, seed), n)


def apply(op: str, x: np.ndarray, m: object) -> np.ndarray:
    if op in LOG_OPS:
        return getattr(fm, op)(x, m, axis=())
    policy = {"invalid": "nan"} if op in ("forward", "inverse") else {}
    return getattr(fm, op)(x, m, **policy)


def chains() -> list[fm.Chain]:
    """Every pair of catalog maps that some theta passes."""
    result = []
    for a, b in product(CLASSES, CLASSES):
        try:
            result.append(fm.Chain(a(), b()))
        except ValueError:  # the codomain of a and the domain of b are apart
            continue
    return result


CHAINS = [
    *chains(),
    fm.Chain("log", fm.Affine(1, 2), fm.Tanh(-30, 30)),
    fm.Chain(fm.Log().inv, "log", "asinh"),
]


def inside(c: fm.Chain, n: int, dtype: type) -> np.ndarray:
    """theta that passes a chain well inside its domain."""
    low, high = (np.clip(end, -6.0, 6.0) for end in c.domain)
    margin = 0.05 * (high - low)
    return np.random.default_rng(5).uniform(low + margin, high - margin, n).astype(dtype)


def in_a_row(maps: Sequence[fm.Map], x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The value, derivative and log-derivative of maps one after the other, by a call each."""
    first = maps[0]
    z, slope, logs = first.forward(x), first.jacobian(x), first.log_abs_det(x, axis=())
    for m in maps[1:]:
        slope, logs = slope * m.jacobian(z), logs + m.log_abs_det(z, axis=())
        z = m.forward(z)
    return z, slope, logs


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("c", CHAINS, ids=repr)
def test_a_chain_is_its_maps_in_a_row(c: fm.Chain, dtype: type) -> None:
    x = inside(c, 5000, dtype)
    z, slope, logs = in_a_row(c.maps, x)
    assert c.forward(x).tobytes() == z.tobytes()
    assert c.jacobian(x).tobytes() == slope.tobytes()
    assert c.log_abs_det(x, axis=()).tobytes() == logs.tobytes()
    back, slope, logs = in_a_row([m.inv for m in reversed(c.maps)], z)
    assert c.inverse(z).tobytes() == back.tobytes()
    assert c.inverse_jacobian(z).tobytes() == slope.tobytes()
    assert c.inverse_log_abs_det(z, axis=()).tobytes() == logs.tobytes()
    assert c.pullback(x, z).tobytes() == (slope * x).tobytes()
    assert c.inv.forward(z).tobytes() == back.tobytes()
    values, total = c.forward_and_log_det(x)
    assert values.tobytes() == z.tobytes()
    assert total == c.log_abs_det(x)
    x *= 1  # writeable, apart from `x` above
    assert c.forward(x, out=x).tobytes() == z.tobytes()


@pytest.mark.parametrize("c", CHAINS, ids=repr)
def test_chains_are_differentiable_twice(c: fm.Chain) -> None:
    theta = torch.from_numpy(inside(c, 7, np.float64)).requires_grad_()
    z = c.forward(theta).detach().requires_grad_()
    for x, op in [(theta, "forward"), (theta, "log_abs_det"), (z, "inverse"), (z, "inverse_log_abs_det")]:
        assert torch.autograd.gradcheck(lambda v, op=op: getattr(c, op)(v), x, atol=1e-4, rtol=1e-4)
    assert torch.autograd.gradgradcheck(c.forward, theta, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("cls", CLASSES)
def test_inverse_maps_swap_directions(cls: type[fm.Map]) -> None:
    m = cls()
    theta, z = sample("forward", m, 3000), sample("inverse", m, 3000)
    for op in ARRAY_OPS + LOG_OPS:
        other = op.removeprefix("inverse_") if op.startswith("inverse_") else f"inverse_{op}"
        other = {"forward": "inverse", "inverse": "forward"}.get(op, other)
        x = z if op.startswith("inverse") else theta
        assert apply(op, x, m).tobytes() == apply(other, x, m.inv).tobytes()
    assert m.inv.inv == m
    assert (m.inv.domain, m.inv.codomain) == (m.codomain, m.domain)
    with pytest.raises(fm.DomainError, match=r"theta: 2 of 4 values are outside .* at index 1"):
        m.inv.forward(np.array([0.5, np.inf, 1, np.nan]))
    clipped = m.inv.forward(np.array([-np.inf, np.inf]), invalid="clip")
    assert np.isfinite(clipped).all()


def test_a_chain_refuses_what_leaves_the_domain_of_a_later_map() -> None:
    c = fm.Chain("asinh", "log")
    x = np.array([1.0, -1, 0, 2, np.nan])
    for out in (None, x):
        with pytest.raises(
            fm.DomainError, match=r"3 of 5 values are outside the domain \(0, inf\) .* index 1"
        ):
            fm.forward(x, c, out=out)
    np.testing.assert_array_equal(np.isnan(fm.forward(x, c, invalid="nan")), [0, 1, 0, 0, 1])
    assert fm.forward(x, c, invalid="nan")[2] == -np.inf
    with pytest.raises(fm.DomainError, match="1 of 5"):  # NaN is not clipped
        fm.forward(x, c, invalid="clip")
    clipped = fm.forward(x[:4], c, invalid="clip")
    assert np.isfinite(clipped).all()
    assert clipped[1] == clipped[2] < -700
    # Backwards a limit is fine, what no theta reaches is not.
    unit = fm.Chain("interval", fm.Interval(-1, 1).inv)
    assert unit.inverse(np.array([-1.0, 1.0])).tolist() == [0, 1]
    with pytest.raises(fm.DomainError, match="z: 1 of 2 values is NaN or outside the codomain"):
        unit.inverse(np.array([0.0, 1.5]))


def test_chains_that_nothing_passes_or_that_are_empty() -> None:
    with pytest.raises(ValueError, match="no theta passes"):
        fm.Chain(fm.Interval(0, 1).inv, fm.Log(2))
    with pytest.raises(TypeError, match="at least one"):
        fm.Chain()
    assert fm.Chain("log", fm.Chain("asinh", "symlog")) == fm.Chain("log", "asinh", "symlog")
    assert fm.Chain("log").domain == (0, np.inf)


def stacked(cls: type[fm.Map], shape: tuple[int, ...]) -> tuple[fm.Map, np.ndarray]:
    """A map whose parameters are arrays of a shape, and which example each element has."""
    which = np.random.default_rng(1).integers(0, len(EXAMPLES[cls]), shape)
    values = np.array(EXAMPLES[cls])[which]
    return cls(*np.moveaxis(values, -1, 0)), which


SHAPES = [
    ((7, 5, 11), (11,)),
    ((7, 5, 11), (5, 1)),
    ((7, 5, 11), (7, 1, 11)),
    ((600, 3), (3,)),
    ((3, 600), (3, 1)),
    ((40, 50), (40, 50)),
    ((1500,), (1500,)),
    ((), ()),
    ((2, 3), (1, 1)),
    ((700, 2, 3), (2, 1)),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "params"), SHAPES)
@pytest.mark.parametrize("cls", WITH_PARAMS)
def test_parameters_as_arrays(
    cls: type, shape: tuple[int, ...], params: tuple[int, ...], dtype: type
) -> None:
    m, which = stacked(cls, params)
    which = np.broadcast_to(which, shape)
    layouts = (
        lambda a: a,
        np.asfortranarray,
        lambda a: np.repeat(a[..., None], 2, -1)[..., 0],
        lambda a: a[::-1],
    )
    for op in ARRAY_OPS + LOG_OPS:
        x, expected = np.empty(shape, dtype), np.empty(shape, dtype)
        for number, example in enumerate(EXAMPLES[cls]):
            one, here = cls(*example), which == number
            x[here] = sample(op, one, np.count_nonzero(here), dtype)
            expected[here] = apply(op, x[here], one)
        for layout in layouts if shape else layouts[:2]:
            if layout is layouts[3] and params and params[0] != 1 and len(params) == len(shape):
                continue  # turned over, the elements would meet other parameters
            got = apply(op, layout(x), m)
            assert got.tobytes() == np.ascontiguousarray(layout(expected)).tobytes() or np.array_equal(
                got.view(), layout(expected), equal_nan=True
            )
        if op in LOG_OPS and shape:
            for axis in (None, 0, -1):
                total = getattr(fm, op)(x, m, axis=axis)
                with np.errstate(over="ignore", invalid="ignore"):
                    sums = expected.sum(axis, dtype=np.float64)
                np.testing.assert_allclose(total, sums, rtol=1e-5, atol=1e-5)
                assert total.tobytes() == getattr(fm, op)(np.asfortranarray(x), m, axis=axis).tobytes()


def test_parameters_do_not_broadcast() -> None:
    m = fm.Affine(scale=np.array([1.0, 2, 3]))
    for shape in [(3, 2), (1,), (), (4,)]:
        with pytest.raises(
            ValueError, match=r"map: parameters of shape \(3,\) do not broadcast to .* of theta"
        ):
            fm.forward(np.ones(shape), m)
    with pytest.raises(ValueError, match="Affine: the parameters do not broadcast"):
        fm.Affine(np.ones(2), np.ones(3))
    with pytest.raises(ValueError, match=r"interval: high must be above low .* at index \(1, 0\)"):
        fm.Interval(np.zeros((2, 1)), np.array([[1.0], [-1.0]]))
    with pytest.raises(ValueError, match=r"log: low overflows float32.* at index \(1\)"):
        fm.forward(np.ones(2, np.float32), fm.Log(np.array([0, 1e300])))
    with pytest.raises(TypeError, match="scale requires grad"):
        fm.Affine(scale=torch.ones(3, requires_grad=True))
    with pytest.raises(TypeError, match="scale must be a real number"):
        fm.Affine(scale="2")


@pytest.mark.parametrize("n", [3000, 1_000_003])
def test_many_rows_of_parameters_and_threads(n: int) -> None:
    """More rows than are kept prepared."""
    rng = np.random.default_rng(2)
    low = rng.choice([-np.inf, -1.0, 0.0, 2.0], n)
    high = rng.choice([np.inf, 3.0, 7.0], n)
    theta = rng.uniform(2.1, 2.9, n).astype(np.float32)
    m = fm.Interval(low, high)
    results = set()
    for threads in (1, 2, 3):
        fm.set_num_threads(threads)
        results.add(m.forward(theta).tobytes())
    fm.set_num_threads(2)
    assert len(results) == 1
    np.testing.assert_allclose(m.inverse(m.forward(theta)), theta, rtol=2e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_infinite_bounds_leave_the_map_of_the_other_bound(dtype: type) -> None:
    inf = np.inf
    x = np.random.default_rng(3).uniform(1.5, 4, 1000).astype(dtype)
    z = np.linspace(-20, 20, 1000).astype(dtype)
    for op in ARRAY_OPS + LOG_OPS:
        v = z if op.startswith("inverse") else x
        upper = fm.Chain(fm.Affine(0, -1), fm.Log(-5), fm.Affine(0, -1))
        for m, same in [
            (fm.Interval(1, inf), fm.Log(1)),
            (fm.Interval(-inf, inf), fm.Identity()),
            (fm.Interval(-inf, 5), upper),
        ]:
            assert apply(op, v, m).tobytes() == apply(op, v, same).tobytes()
            assert apply(op, v, fm.Chain(m)).tobytes() == apply(op, v, same).tobytes()
        mixed = fm.Interval([1, -inf, -inf, 1], [inf, inf, 5, 5])
        columns = apply(op, np.repeat(v[:, None], 4, 1), mixed)
        for number, m in enumerate([fm.Log(1), fm.Identity(), upper, fm.Interval(1, 5)]):
            assert columns[:, number].tobytes() == apply(op, v, m).tobytes()
    upper_only = fm.Interval(-inf, 5)
    assert (np.diff(upper_only.forward(np.sort(x))) >= 0).all()  # the increasing form
    np.testing.assert_allclose(upper_only.forward(x), -np.log(5 - x), rtol=1e-5, atol=1e-6)
    assert upper_only.inverse(np.array([-inf, inf], dtype)).tolist() == [-inf, 5]
    assert fm.Interval(1, inf).domain == (1, inf)
    for bad in [(inf, inf), (-inf, -inf), (np.nan, 1)]:
        with pytest.raises(ValueError, match="interval: "):
            fm.Interval(*bad)
    with pytest.raises(ValueError, match="tanh: high must be finite"):
        fm.Tanh(0, inf)


def test_maps_with_arrays_are_values() -> None:
    source = np.array([1.0, -0.0, 3.0])
    a, b = fm.Log(source), fm.Log(source.copy())
    source[0] = 7
    assert a == b
    assert hash(a) == hash(b) == hash(fm.Log([1.0, 0.0, 3.0]))
    assert a != fm.Log([1.0, 0.0, 4.0])
    assert a != fm.Log(1.0)
    assert not a.low.flags.writeable
    assert repr(a) == "Log(low=[1., 0., 3.])"
    for m in (
        a,
        a.inv,
        fm.Chain(a, "asinh"),
        fm.Interval([-np.inf, 0], np.inf),
        fm.Chain("log", fm.Log().inv),
    ):
        assert pickle.loads(pickle.dumps(m)) == m
        text = json.dumps(m.to_json(), allow_nan=False)
        assert fm.Map.from_json(json.loads(text)) == m
        assert hash(fm.Map.from_json(json.loads(text))) == hash(m)


def space() -> fm.Space:
    return fm.Space(
        rate=fm.Param(low=0),
        box=fm.Param(-1, 2, shape=(2, 3)),
        w=fm.Param(shape=(4,), map=fm.Asinh([1, 2, 3, 4.0])),
        b=fm.Param(high=3, shape=2),
        free=fm.Param(shape=5),
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_space_maps_a_flat_buffer(dtype: type) -> None:
    s = space()
    flat = np.random.default_rng(4).uniform(0.1, 1.9, s.size).astype(dtype)
    views = s.unravel(flat)
    for op in ARRAY_OPS + LOG_OPS:
        whole = s.unravel(apply(op, flat, s))
        for name, m in s.maps.items():
            assert whole[name].tobytes() == apply(op, views[name], m).tobytes()
    spread = np.repeat(flat, 2)[::2]
    assert fm.forward(spread, s).tobytes() == fm.forward(flat, s).tobytes()
    total = sum(float(fm.log_abs_det(views[name], m)) for name, m in s.maps.items())
    assert float(fm.log_abs_det(flat, s)) == pytest.approx(total, rel=1e-12)
    z, log_det = fm.forward_and_log_det(flat, s)
    assert log_det == fm.log_abs_det(flat, s)
    assert fm.pullback(flat, z, s).tobytes() == (fm.inverse_jacobian(z, s) * flat).tobytes()
    before = flat.copy()
    np.testing.assert_allclose(fm.inverse(fm.forward(flat, s, out=flat), s), before, rtol=1e-5)
    leaf = torch.from_numpy(before.astype(np.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: fm.forward(t, s), leaf)
    assert torch.autograd.gradcheck(lambda t: fm.log_abs_det(t, s), leaf)


def test_a_space_refuses_before_it_writes() -> None:
    s = space()
    flat = np.full(s.size, 0.5)
    flat[12] = 4  # b, above its bound
    before = flat.tobytes()
    with pytest.raises(
        fm.DomainError, match=r"theta: 1 of 2 values is outside .* first at index 12 \(value 4.0\)"
    ):
        fm.forward(flat, s, out=flat)
    assert flat.tobytes() == before
    with pytest.raises(ValueError, match=r"theta: shape \(3,\) differs from \(18,\) of the space"):
        fm.forward(np.ones(3), s)
    with pytest.raises(TypeError, match="layers is an integer"):
        fm.forward(np.ones(2), fm.Space(lr=fm.Param(0, 1), layers=fm.Param(1, 4, integer=True)))
    for compose in (fm.Chain, fm.Inverse):
        with pytest.raises(TypeError, match="map"):
            compose(s)


def test_a_space_maps_buffers_by_name() -> None:
    s = space()
    theta = s.unravel(np.random.default_rng(4).uniform(0.1, 1.9, s.size))
    tensors = {name: torch.tensor(v) for name, v in theta.items()}
    tensors["w"].requires_grad_()
    z, tz = fm.forward(theta, s), fm.forward(tensors, s)
    for name, m in s.maps.items():
        assert np.asarray(z[name]).tobytes() == np.asarray(m.forward(theta[name])).tobytes()
        assert tz[name].detach().numpy().tobytes() == np.asarray(z[name]).tobytes()
    tz["w"].sum().backward()
    assert tensors["w"].grad is not None
    mixed = {**theta, "box": tensors["box"].float()}
    assert fm.forward(mixed, s)["box"].dtype is torch.float32
    out = {name: np.empty_like(v) for name, v in theta.items()}
    assert fm.forward(theta, s, out=out)["box"] is out["box"]
    with pytest.raises(fm.DomainError, match=r"theta\['b'\]: 1 of 2 values is outside .* index 1"):
        fm.forward({**theta, "b": np.array([0.0, 9])}, s)
    with pytest.raises(ValueError, match="theta: expected the names"):
        fm.forward({"w": theta["w"]}, s)
    shared = np.zeros(6)
    for bad in ({"w": shared[:4], "free": shared[1:]}, {"w": theta["free"][1:]}):
        before = theta["free"].tobytes()
        with pytest.raises(ValueError, match=r"out: the buffers of theta\['(w|free)'\] and .* overlap"):
            fm.forward(theta, s, out={**out, **bad})
        assert theta["free"].tobytes() == before
    assert fm.forward(theta, s, out={**out, "w": theta["w"]})["w"] is theta["w"]
    with pytest.raises(TypeError, match="need a Space"):
        fm.forward(theta, "log")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_chains_arrays_and_clip(dtype: torch.dtype) -> None:
    c = fm.Chain("log", fm.Affine(scale=[2.0, 4.0]), "asinh")
    x = (torch.rand(500, 2) + 0.1).to(dtype)
    assert torch.equal(c.forward(x), c.forward(x.float()).to(dtype))
    assert torch.equal(c.forward(x.T.contiguous().T), c.forward(x))
    assert torch.equal(c.jacobian(x), c.jacobian(x.float()).to(dtype))
    tiny = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps  # the least subnormal
    clipped = fm.forward(torch.tensor([-1.0], dtype=dtype), "log", invalid="clip")
    assert torch.equal(clipped, fm.forward(torch.tensor([tiny], dtype=dtype), "log"))


@pytest.mark.parametrize(("shape", "params"), [((3_000_000, 3), (3,)), ((3, 3_000_000), (3, 1))])
def test_large_buffers_with_arrays_are_streamed_right(
    shape: tuple[int, ...], params: tuple[int, ...]
) -> None:
    x = np.random.default_rng(0).uniform(0.5, 2, shape).astype(np.float32)
    low = np.array([0.0, -1.0, 0.25])
    z = fm.forward(x, fm.Log(low.reshape(params)))
    for number, v in enumerate(low):
        column = x[:, number] if params == (3,) else x[number]
        got = z[:, number] if params == (3,) else z[number]
        assert fm.forward(column, fm.Log(v)).tobytes() == got.tobytes()
    assert fm.forward(x.T, "log").tobytes("F") == np.ascontiguousarray(fm.forward(x, "log")).tobytes()


def test_more_than_2_to_the_31_elements() -> None:
    n = 2**31 + 5
    x = torch.zeros(n, dtype=torch.bfloat16)  # 4 GiB
    x[-1] = 3
    m = fm.Affine(1, 2)
    fm.forward(x, m, out=x)
    assert x[[0, 2**31 - 1, 2**31, n - 2]].tolist() == [-0.5] * 4
    assert x[-1] == 1
    x[-2] = float("nan")
    with pytest.raises(fm.DomainError, match=f"1 of {n} values is NaN .* first at index {n - 2}"):
        fm.inverse(x, m, out=x)
    assert x[0] == -0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_streamed_chains_at_every_offset(dtype: torch.dtype) -> None:
    """The first block ends on a cache line of the output: no block may be longer than what steps work in."""
    n = (40 << 20) // dtype.itemsize + 3
    c = fm.Chain("log", "asinh", "symlog")
    x = (torch.rand(n, generator=torch.Generator().manual_seed(0)) + 0.1).to(dtype)
    expected = torch.cat([c.forward(part) for part in x.split(100_000)])  # never streamed
    buffer = torch.empty(n + 64 // dtype.itemsize, dtype=dtype)
    for offset in range(64 // dtype.itemsize):
        out = buffer[offset : offset + n]
        assert torch.equal(fm.forward(x, c, out=out), expected)


def test_a_space_in_place_is_read_whole_before_it_is_written() -> None:
    s = fm.Space(a=fm.Param(low=0, shape=5), b=fm.Param(0, 1, shape=3))
    flat = np.array([1.0, 2, 3, 4, 5, 0.5, 7, 0.5])
    before = flat.tobytes()
    for call in (fm.forward, fm.forward_and_log_det):
        with pytest.raises(fm.DomainError, match=r"1 of 3 values is outside .* first at index 6"):
            call(flat, s, out=flat)
        assert flat.tobytes() == before
    with pytest.raises(fm.DomainError, match=r"first at index 6"):
        fm.log_abs_det(flat, s)


def test_a_space_as_a_map_is_a_value() -> None:
    m = space().flat_map
    assert m == space().flat_map
    assert hash(m) == hash(space().flat_map)
    assert pickle.loads(pickle.dumps(m)) == m
    assert fm.Map.from_json(json.loads(json.dumps(m.to_json(), allow_nan=False))) == m
    with pytest.raises(TypeError, match="need a Space"):
        fm.forward({"log": np.ones(2)}, fm.Chain("log", "asinh"))
    with pytest.raises(ValueError, match="do not broadcast"):
        fm.audit(1.0, fm.Log([0.5]))
