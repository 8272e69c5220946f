"""The public functions on NumPy arrays: layouts, policies, every refusal before anything is written."""

from __future__ import annotations

import pickle
from itertools import permutations

import numpy as np
import pytest

import fastmap as fm
from fastmap import _functional
from fastmap.maps import CLASSES, stubs

MAPS = [cls(**example) for cls in CLASSES for example in cls.entry["examples"]]
each_map = pytest.mark.parametrize("m", MAPS, ids=repr)
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])
VALUE_FUNCTIONS = [fm.forward, fm.inverse, fm.jacobian, fm.inverse_jacobian]


def inside(m: fm.Map, shape: int | tuple[int, ...], dtype: type = np.float64, seed: int = 0) -> np.ndarray:
    """theta well inside the domain."""
    low, high = m.domain
    low, high = max(low, -4.0), min(high, max(low, -4.0) + 9.0)
    width = high - low
    return np.random.default_rng(seed).uniform(low + 0.01 * width, high - 0.01 * width, shape).astype(dtype)


@pytest.mark.proves("NumPy", "maps", device="CPU")
@each_dtype
@each_map
def test_inverse_undoes_forward(m: fm.Map, dtype: type) -> None:
    theta = inside(m, 1000, dtype)
    z = fm.forward(theta, m)
    assert z.dtype == dtype
    back = fm.inverse(z, m)
    # What one rounding of z, and one of theta, may do; left out is where z saturates.
    step, slope = np.abs(np.spacing(z)), fm.inverse_jacobian(z, m)
    bend = np.abs(_functional.elementwise("inverse_log_abs_det_grad", "z", z, m, None, None))
    usual = step * bend < 1e-2
    assert usual.mean() > 0.2  # where most of a float32 interval is next to a bound
    tolerance = 4 * (step * np.abs(slope) + np.abs(np.spacing(theta)))
    assert (np.abs(back - theta) <= tolerance)[usual].all()
    error = np.abs(fm.jacobian(theta, m) * slope - 1)
    assert (error <= 1e-5 + 4 * step * bend)[usual].all()


@pytest.mark.proves("NumPy", "derivatives", device="CPU")
@each_map
def test_jacobian_is_the_derivative(m: fm.Map) -> None:
    theta = inside(m, 200)
    h = 1e-6 * np.minimum(1, np.abs(m.domain[1] - m.domain[0]))
    slope = (fm.forward(theta + h, m) - fm.forward(theta - h, m)) / (2 * h)
    np.testing.assert_allclose(fm.jacobian(theta, m), slope, rtol=1e-5)
    np.testing.assert_allclose(fm.log_abs_det(theta, m, axis=()), np.log(np.abs(slope)), rtol=1e-4, atol=1e-5)


@each_map
def test_every_layout_gives_the_values_of_the_contiguous_array(m: fm.Map) -> None:
    x = inside(m, (4, 6, 10), np.float32)
    views = [x.transpose(p) for p in permutations(range(3))]
    views += [
        x[::2],
        x[:, ::-1],
        x[..., 3],
        x[1:3, 2:5, ::3],
        np.broadcast_to(x[0], (2, 6, 10)),
        x[:0],
        x[0, 0, 0:1],
    ]
    for view in views:
        plain = np.ascontiguousarray(view)
        for function in (fm.forward, fm.jacobian):
            result = function(view, m)
            assert result.shape == view.shape
            np.testing.assert_array_equal(result, function(plain, m))
        for out in (np.empty(view.shape, np.float32), np.empty(view.shape, np.float32, order="F")):
            assert fm.forward(view, m, out=out) is out
            np.testing.assert_array_equal(out, fm.forward(plain, m))
        for axis in (None, *range(view.ndim), tuple(range(view.ndim))[1:] or None):
            np.testing.assert_array_equal(
                fm.log_abs_det(view, m, axis=axis), fm.log_abs_det(plain, m, axis=axis)
            )
        z, total = fm.forward_and_log_det(view, m)
        np.testing.assert_array_equal(z, fm.forward(plain, m))
        assert total == fm.log_abs_det(plain, m)


@pytest.mark.proves("NumPy", "sums", device="CPU")
@each_map
def test_log_det_sums_over_axes(m: fm.Map) -> None:
    theta = inside(m, (5, 7, 3))
    terms = fm.log_abs_det(theta, m, axis=())
    assert terms.dtype == np.float64
    for axis in (None, 0, -1, (0, 2), (1, 0)):
        np.testing.assert_allclose(
            fm.log_abs_det(theta, m, axis=axis), terms.sum(axis=axis), rtol=1e-12, atol=1e-12
        )
    z = fm.forward(theta, m)
    np.testing.assert_allclose(fm.inverse_log_abs_det(z, m, axis=0), -terms.sum(axis=0), rtol=1e-9, atol=1e-9)
    assert fm.log_abs_det(theta.astype(np.float32), m).dtype == np.float64
    back, total = fm.inverse_and_log_det(z, m)
    np.testing.assert_array_equal(back, fm.inverse(z, m))
    assert total == fm.inverse_log_abs_det(z, m)


@pytest.mark.proves("NumPy", "pullback", device="CPU")
@each_map
def test_pullback_is_a_product(m: fm.Map) -> None:
    z = fm.forward(inside(m, (30, 5)), m)
    grad = np.random.default_rng(1).normal(size=z.shape)
    expected = grad * fm.inverse_jacobian(z, m)
    np.testing.assert_array_equal(fm.pullback(grad, z, m), expected)
    np.testing.assert_array_equal(fm.pullback(np.asfortranarray(grad), z, m), expected)
    for out in (z.copy(), grad.copy()):
        z_in = out if np.array_equal(out, z) else z
        grad_in = out if z_in is z else grad
        np.testing.assert_array_equal(fm.pullback(grad_in, z_in, m, out=out), expected)


@each_map
def test_in_place(m: fm.Map) -> None:
    theta = inside(m, 5000)
    z = fm.forward(theta, m)
    buffer = theta.copy()
    assert fm.forward(buffer, m, out=buffer) is buffer
    np.testing.assert_array_equal(buffer, z)
    buffer = theta.copy()
    result, total = fm.forward_and_log_det(buffer, m, out=buffer)
    assert result is buffer
    np.testing.assert_array_equal(buffer, z)
    assert total == fm.log_abs_det(theta, m)


def test_scalars_lists_and_integers_are_float64() -> None:
    assert fm.forward(1.0, "log") == 0.0
    assert isinstance(fm.forward(1.0, "log"), np.float64)
    assert isinstance(fm.forward(np.float32(1), "log"), np.float32)
    assert fm.forward(np.array(1.0), "log").shape == ()
    assert fm.forward([1, 2], "log").dtype == np.float64
    assert fm.forward(np.arange(1, 4), "log").dtype == np.float64
    assert isinstance(fm.log_abs_det([1.0, 2.0], "log"), np.float64)


@each_map
@each_dtype
def test_out_of_domain_is_refused_with_count_and_first_index(m: fm.Map, dtype: type) -> None:
    low, high = m.domain
    closed = m.entry["closed"]
    for value in [np.nan, np.inf, -np.inf, *({low, high} - {-np.inf, np.inf} if not closed else ())]:
        theta = inside(m, (60, 50), dtype)
        theta[7, 3] = theta[40, 2] = value
        before = theta.copy()
        for out in (None, theta):
            with pytest.raises(fm.DomainError, match=r"^theta: 2 of 3000 values") as caught:
                fm.forward(theta, m, out=out)
            assert (caught.value.argument, caught.value.count, caught.value.index) == ("theta", 2, (7, 3))
            assert theta.tobytes() == before.tobytes()
        with pytest.raises(fm.DomainError, match="theta"):
            fm.log_abs_det(theta, m)
        with pytest.raises(fm.DomainError, match="theta"):
            fm.forward_and_log_det(theta, m, out=theta)
        assert theta.tobytes() == before.tobytes()
        assert pickle.loads(pickle.dumps(caught.value)).index == (7, 3)
        # The index is the logical one whatever the layout.
        with pytest.raises(fm.DomainError) as caught:
            fm.jacobian(theta.T, m)
        assert caught.value.index in {(3, 7), (2, 40)}
        with pytest.raises(fm.DomainError) as caught:
            fm.log_abs_det(theta, m, axis=0)
        assert caught.value.index in {(7, 3), (40, 2)}


@each_dtype
@each_map
def test_clip_looks_at_each_element_alone(m: fm.Map, dtype: type) -> None:
    """And gives finite values to all that a map takes first, also where a valid one overflows."""
    info = np.finfo(dtype)
    for f in (m, m.inv):
        ends = np.array(f.domain, dtype)
        parts = [0.0, -0.0, 0.5, 1, -1, 100, -100, 1e4, -1e4, info.smallest_subnormal, info.max / 2, info.max]
        x = np.array([*ends, *np.nextafter(ends, ends[::-1]), *parts, *np.negative(parts), np.inf, -np.inf])
        x = x.astype(dtype)
        for function in VALUE_FUNCTIONS:
            together = function(x, f, invalid="clip")
            alone = np.concatenate([function(x[i : i + 1], f, invalid="clip") for i in range(len(x))])
            assert together.tobytes() == alone.tobytes(), function
        assert np.isfinite(fm.forward(x, f, invalid="clip")).all()


@each_map
def test_policies(m: fm.Map) -> None:
    low, high = m.domain
    theta = inside(m, 100)
    theta[[3, 5]] = np.nan, np.inf
    z = fm.forward(theta, m, invalid="nan")
    assert np.isnan(z[3])
    keep = np.delete(np.arange(100), [3, 5])
    np.testing.assert_array_equal(z[keep], fm.forward(theta[keep], m))
    with pytest.raises(fm.DomainError, match=r"^theta: 1 of 100 values"):
        fm.forward(theta, m, invalid="clip")
    theta[3] = -np.inf
    assert np.isfinite(fm.forward(theta, m, invalid="clip")).all()
    ends = fm.forward(np.array([low, high]), m, invalid="nan")
    np.testing.assert_allclose(np.sort(ends), m.codomain, rtol=1e-15)
    with pytest.raises(fm.DomainError, match=r"^z: 1 of 2 values is NaN"):
        fm.inverse(np.array([z[0], np.nan]), m)
    for end in {*m.codomain} & {-np.inf, np.inf}:
        assert fm.inverse(end, m) in (low, high)


def refusals() -> dict[str, tuple[type[Exception], str, object]]:
    """Name -> (error, what its message starts with, the call)."""
    x = np.ones((4, 6), np.float32)
    read_only = np.ones((4, 6), np.float32)
    read_only.flags.writeable = False
    buffer = np.ones(30, np.float32)
    big_endian = np.ones(3, ">f4")
    return {
        "long double": (TypeError, "theta: dtype", lambda: fm.forward(x.astype(np.longdouble), "log")),
        "opaque": (TypeError, "theta: dtype |V2", lambda: fm.forward(np.zeros(3, "V2"), "log")),
        "complex": (TypeError, "theta: dtype complex", lambda: fm.forward(x.astype(complex), "log")),
        "bool": (TypeError, "theta: dtype bool", lambda: fm.forward(x > 0, "log")),
        "object": (TypeError, "theta: dtype object", lambda: fm.forward(np.array([None]), "log")),
        "text": (TypeError, "theta: dtype <U1", lambda: fm.forward("a", "log")),
        "byte order": (TypeError, "theta: dtype >f4", lambda: fm.forward(big_endian, "log")),
        "masked": (TypeError, "theta: masked", lambda: fm.forward(np.ma.masked_array(x), "log")),
        "z dtype": (TypeError, "z: dtype complex", lambda: fm.inverse(x.astype("c8"), "log")),
        "out dtype": (TypeError, "out: dtype float64", lambda: fm.forward(x, "log", out=x.astype(float))),
        "out kind": (TypeError, "out: expected a NumPy", lambda: fm.forward(x, "log", out=[0.0])),
        "out shape": (ValueError, "out: shape", lambda: fm.forward(x, "log", out=x[:2].copy())),
        "read-only": (ValueError, "out: the array is read-only", lambda: fm.forward(x, "log", out=read_only)),
        "non-contiguous": (
            ValueError,
            "out: the array is not contiguous",
            lambda: fm.forward(x, "log", out=np.ones((4, 12), np.float32)[:, ::2]),
        ),
        "stride 0": (
            ValueError,
            "out: the array is",
            lambda: fm.forward(x, "log", out=np.broadcast_to(x[:1], x.shape)),
        ),
        "overlap": (
            ValueError,
            "out: overlaps theta",
            lambda: fm.forward(buffer[:20], "log", out=buffer[1:21]),
        ),
        "overlap transposed": (
            ValueError,
            "out: overlaps theta",
            lambda: fm.forward(buffer[:25].reshape(5, 5), "log", out=buffer[:25].reshape(5, 5).T),
        ),
        "grad overlap": (
            ValueError,
            "out: overlaps grad_theta",
            lambda: fm.pullback(buffer[:20], np.zeros(20, np.float32), "log", out=buffer[5:25]),
        ),
        "grad dtype": (TypeError, "grad_theta: dtype", lambda: fm.pullback(x.astype(float), x, "log")),
        "grad shape": (ValueError, "grad_theta: shape", lambda: fm.pullback(x[0], x, "log")),
        "map name": (ValueError, "map: no map is called 'lug'", lambda: fm.forward(x, "lug")),
        "map type": (TypeError, "map: expected a Map", lambda: fm.forward(x, 3)),
        "policy": (ValueError, "invalid: expected", lambda: fm.forward(x, "log", invalid="ignore")),
        "axis": (ValueError, "axis: 2 is out of bounds", lambda: fm.log_abs_det(x, "log", axis=2)),
        "axis twice": (ValueError, "axis: .* twice", lambda: fm.log_abs_det(x, "log", axis=(0, -2))),
    }


@pytest.mark.parametrize("name", refusals())
def test_refusal_names_the_argument(name: str) -> None:
    error, message, call = refusals()[name]
    with pytest.raises(error, match=rf"^({message})"):
        call()


def test_refused_overlap_writes_nothing() -> None:
    buffer = np.arange(1, 31, dtype=np.float32)
    before = buffer.copy()
    with pytest.raises(ValueError, match="overlaps"):
        fm.forward(buffer[:20], "log", out=buffer[1:21])
    np.testing.assert_array_equal(buffer, before)


def test_empty_and_large_counts() -> None:
    empty = np.empty((0, 3))
    assert fm.forward(empty, "log").shape == (0, 3)
    assert fm.log_abs_det(empty, "log") == 0
    np.testing.assert_array_equal(fm.log_abs_det(empty, "log", axis=0), np.zeros(3))


def test_unaligned_input() -> None:
    raw = np.zeros(41, np.uint8)
    x = raw[1:].view(np.float32)
    x[:] = np.arange(1, 11)
    assert not x.flags.aligned
    np.testing.assert_array_equal(fm.forward(x, "log"), fm.forward(x.copy(), "log"))
    with pytest.raises(ValueError, match=r"^out"):
        fm.forward(x.copy(), "log", out=x)


@each_map
def test_maps_are_values(m: fm.Map) -> None:
    same = type(m)(**m.params)
    assert m == same
    assert hash(m) == hash(same)
    assert pickle.loads(pickle.dumps(m)) == m
    assert fm.Map.from_json(m.to_json()) == m
    assert eval(repr(m), vars(fm)) == m
    assert m != 3
    with pytest.raises(AttributeError, match="immutable"):
        m.scale = 2
    theta = inside(m, 10)
    z = m.forward(theta)
    np.testing.assert_array_equal(z, fm.forward(theta, m))
    np.testing.assert_array_equal(m.inverse(z), fm.inverse(z, m))
    np.testing.assert_array_equal(m.jacobian(theta), fm.jacobian(theta, m))
    np.testing.assert_array_equal(m.inverse_jacobian(z), fm.inverse_jacobian(z, m))
    assert m.log_abs_det(theta) == fm.log_abs_det(theta, m)
    assert m.inverse_log_abs_det(z) == fm.inverse_log_abs_det(z, m)
    assert m.forward_and_log_det(theta)[1] == fm.log_abs_det(theta, m)
    assert m.inverse_and_log_det(z)[1] == fm.inverse_log_abs_det(z, m)
    np.testing.assert_array_equal(m.pullback(z, z), fm.pullback(z, z, m))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fm.Interval(1, 1), "high"),
        (lambda: fm.Interval(float("nan"), 1), "low"),
        (lambda: fm.Tanh(0, float("inf")), "high"),
        (lambda: fm.Softplus(beta=0), "beta"),
        (lambda: fm.Softplus(beta=-1), "beta"),
        (lambda: fm.Asinh(0), "scale"),
        (lambda: fm.Affine(0, 0), "scale"),
        (lambda: fm.Log(low=float("inf")), "low"),
    ],
)
def test_bad_parameters_are_named(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_parameters_must_be_numbers() -> None:
    with pytest.raises(TypeError, match="Log"):
        fm.Log(low="a")
    with pytest.raises(TypeError, match="argument"):
        fm.Log(lo=1)
    with pytest.raises(ValueError, match="high"):  # equal once rounded to float32
        fm.forward(np.ones(1, np.float32), fm.Interval(1, 1 + 1e-12))


def test_names_and_aliases() -> None:
    theta = np.array([0.25, 0.5])
    for cls in CLASSES:
        np.testing.assert_array_equal(fm.inverse(theta, cls().name), fm.inverse(theta, cls()))
    assert fm.Logit is fm.Interval
    np.testing.assert_array_equal(fm.forward(theta, "logit"), fm.forward(theta, "interval"))
    assert fm.constrain is fm.inverse
    assert fm.unconstrain is fm.forward


def test_stubs_are_current() -> None:
    from pathlib import Path

    path = Path(__file__).parent.parent / "python" / "fastmap" / "maps.pyi"
    assert path.read_text() == stubs(), "run: fastmap maps --stubs > python/fastmap/maps.pyi"


def test_the_table_of_maps_is_current() -> None:
    from pathlib import Path

    from fastmap.cli import catalog_markdown

    path = Path(__file__).parent.parent / "docs" / "maps.md"
    assert path.read_text() == catalog_markdown() + "\n", "run: fastmap maps --markdown > docs/maps.md"


def test_the_catalog_says_what_is_so() -> None:
    for cls in CLASSES:
        m, entry = cls(), cls.entry
        assert entry["monotone"] in ("exact", "exhaustive", "sampled", "no")
        low, high = m.domain
        for end in {low, high} - {-np.inf, np.inf}:
            refused = np.array([end])
            if entry["closed"]:
                fm.forward(refused, m)
            else:
                with pytest.raises(fm.DomainError):
                    fm.forward(refused, m)
        first, last = m.codomain
        z = fm.forward(np.array([low, high]), m, invalid="nan")
        np.testing.assert_allclose(np.sort(z), [first, last], rtol=1e-15)
        assert m.increasing == (z[0] < z[1])
        for end, beyond in ((first, -1), (last, 1)):
            if np.isfinite(end):
                with pytest.raises(fm.DomainError, match="outside the codomain"):
                    fm.inverse(np.array([end + beyond]), m)
                clipped = fm.inverse(np.array([end + beyond]), m, invalid="clip")
                assert low <= clipped[0] <= high


def test_catalog_and_info() -> None:
    info = fm.info()
    assert {"version", "isa", "isas", "threads", "compiler", "cuda", "frameworks"} <= set(info)
    assert info["frameworks"]["numpy"] == np.__version__
    assert fm.__version__ == info["version"]
    for entry in fm.catalog():
        assert {"name", "class_name", "doc", "params", "domain", "formulas", "ulp", "monotone"} <= set(entry)
        assert entry["ulp"][0] <= 2
        assert entry["ulp"][1] <= 4


def test_threads_setting() -> None:
    before = fm.get_num_threads()
    try:
        fm.set_num_threads(3)
        assert fm.get_num_threads() == 3
        with pytest.raises(ValueError, match="n must be"):
            fm.set_num_threads(0)
    finally:
        fm.set_num_threads(before)
