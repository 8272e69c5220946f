"""The public functions on TensorFlow tensors: NumPy's bits, two derivatives, graphs, and every refusal."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from everywhere import CHAIN, COLUMNS, DEFAULTS, MAPS, SPACE, every_function, inside

import fastmap as fm
from fastmap import _functional

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # TensorFlow's own
    tf = pytest.importorskip(
        "tensorflow", reason="TensorFlow is not installed: pip install 'fastmap[tensorflow]'"
    )

from fastmap import _tensorflow

FLAT = np.array([0.1, 0.2, 0.7, 0.9, 3.0, -1.0, 0.0, 5.0])

# Our operation, and what TensorFlow's users write.
FORMULAS: dict[str, tuple[Any, Any, tuple[float, float]]] = {
    "log": (lambda x: fm.forward(x, "log"), lambda x: tf.math.log(x), (0.1, 9)),
    "exp": (lambda x: fm.inverse(x, "log"), lambda x: tf.math.exp(x), (-3, 3)),
    "softplus": (lambda x: fm.inverse(x, "softplus"), lambda x: tf.math.softplus(x), (-5, 5)),
    "inverse softplus": (
        lambda x: fm.forward(x, "softplus"),
        lambda x: x + tf.math.log(-tf.math.expm1(-x)),
        (0.1, 9),
    ),
    "logit": (
        lambda x: fm.forward(x, "interval"),
        lambda x: tf.math.log(x) - tf.math.log1p(-x),
        (0.05, 0.95),
    ),
    "sigmoid": (lambda x: fm.inverse(x, "interval"), lambda x: tf.math.sigmoid(x), (-5, 5)),
    "asinh": (lambda x: fm.forward(x, "asinh"), lambda x: tf.math.asinh(x), (-9, 9)),
    "sinh": (lambda x: fm.inverse(x, "asinh"), lambda x: tf.math.sinh(x), (-3, 3)),
}


# These are first derivatives already: TensorFlow's formulas have one more, and so have they.
SLOPES: dict[str, tuple[Any, Any, tuple[float, float]]] = {
    "slope of exp": (lambda x: fm.inverse_jacobian(x, "log"), lambda x: tf.math.exp(x), (-3, 3)),
    "slope of logit": (lambda x: fm.jacobian(x, "interval"), lambda x: 1 / (x * (1 - x)), (0.05, 0.95)),
    "pullback": (
        lambda x: fm.pullback(tf.math.sin(x), x, "softplus"),
        lambda x: tf.math.sin(x) * tf.math.sigmoid(x),
        (-5, 5),
    ),
    "log det": (
        lambda x: fm.inverse_log_abs_det(x, "softplus", axis=()),
        lambda x: tf.math.log_sigmoid(x),
        (-5, 5),
    ),
}


def same(result: Any, expected: Any) -> None:
    """A tensor of TensorFlow with the bits of an array of NumPy."""
    assert isinstance(result, tf.Tensor)
    assert result.dtype == expected.dtype
    assert result.shape == expected.shape
    np.testing.assert_array_equal(result.numpy(), expected)


def each(results: Any, expected: Any) -> None:
    tf.nest.map_structure(same, results, expected)


def address(x: Any) -> int:
    """Where the memory of an eager tensor begins."""
    return int(np.asarray(memoryview(x)).__array_interface__["data"][0])


def test_nothing_is_imported_before_the_user_does() -> None:
    code = (
        "import sys, numpy as np, fastmap as fm; fm.forward(np.ones(3), 'log'); fm.info();"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.proves("TensorFlow", "pullback", device="CPU")
@pytest.mark.proves("TensorFlow", "maps", device="CPU")
@pytest.mark.proves("TensorFlow", "derivatives", device="CPU")
@pytest.mark.proves("TensorFlow", "sums", device="CPU")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("m", [*MAPS, CHAIN, CHAIN.inv, COLUMNS], ids=repr)
def test_same_bits_as_numpy(m: fm.Map, dtype: type) -> None:
    theta = inside(m, dtype=dtype)
    z = fm.forward(theta, m)
    expected = every_function(theta, z, m)
    each(every_function(tf.constant(theta), tf.constant(z), m), expected)


@pytest.mark.proves("TensorFlow", "pullback", compiled="`tf.function`")
@pytest.mark.proves("TensorFlow", "maps", compiled="`tf.function`")
@pytest.mark.proves("TensorFlow", "derivatives", compiled="`tf.function`")
@pytest.mark.proves("TensorFlow", "sums", compiled="`tf.function`")
@pytest.mark.parametrize("m", [*DEFAULTS, CHAIN, COLUMNS], ids=repr)
def test_same_bits_in_a_graph_and_under_a_tape(m: fm.Map) -> None:
    theta = inside(m, dtype=np.float32)
    z = fm.forward(theta, m)
    expected = every_function(theta, z, m)

    # One pass gives `pullback`, a product of two operations the same bits.
    @tf.function(autograph=False)
    def graph(theta: Any, z: Any) -> Any:
        results = every_function(theta, z, m)
        for name in ("forward", "pullback", "columns"):
            assert results[name].shape == expected[name].shape  # static
        assert results["pair"][1].shape == ()
        return results

    given = tf.constant(theta), tf.constant(z)
    each(graph(*given), expected)
    with tf.GradientTape() as tape:
        tape.watch(given)
        results = every_function(*given, m)
    each(results, expected)


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_sixteen_bits_are_the_float32_result_rounded_once(name: str) -> None:
    dtype = tf.as_dtype(name)
    theta = tf.cast(inside(fm.Softplus(), 1000), dtype)
    wide = tf.cast(theta, tf.float32).numpy()
    expected = tf.cast(fm.forward(wide, "softplus"), dtype)
    for function in (fm.forward, tf.function(lambda t, m: fm.forward(t, m), autograph=False)):
        result = function(theta, "softplus")
        assert result.dtype == dtype
        assert np.array_equal(result.numpy(), expected.numpy())
    assert fm.log_abs_det(theta, "softplus").numpy() == pytest.approx(fm.log_abs_det(wide, "softplus"))
    with tf.GradientTape() as tape:
        tape.watch(theta)
        total = tf.reduce_sum(fm.forward(theta, "softplus"))
    slope = tape.gradient(total, theta)
    assert slope.dtype == dtype
    rounded = tf.cast(fm.jacobian(wide, "softplus"), dtype)
    assert np.array_equal(slope.numpy(), rounded.numpy())


@pytest.mark.proves("TensorFlow", "pullback", gradients="once")
@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("name", [*FORMULAS, *SLOPES])
def test_derivatives_against_tensorflows_formulas(name: str, graph: bool) -> None:
    ours, theirs, (low, high) = {**FORMULAS, **SLOPES}[name]
    x = tf.constant(np.linspace(low, high, 101).reshape(1, 101))
    g = tf.constant(np.linspace(-2, 2, 101).reshape(1, 101))

    def derivatives(function: Any) -> Any:
        with tf.GradientTape() as outer:
            outer.watch((x, g))
            with tf.GradientTape() as inner:
                inner.watch(x)
                value = function(x)
            slope = inner.gradient(value, x, g)
        again = outer.gradient(slope, (x, g), tf.math.cos(x)) if name in FORMULAS else ()
        return value, slope, again

    run = (lambda f: tf.function(lambda: derivatives(f), autograph=False)()) if graph else derivatives
    for mine, wanted in zip(tf.nest.flatten(run(ours)), tf.nest.flatten(run(theirs)), strict=True):
        np.testing.assert_allclose(mine, wanted, rtol=1e-11, atol=1e-13)


@pytest.mark.proves("TensorFlow", "maps", gradients="twice")
@pytest.mark.proves("TensorFlow", "derivatives", gradients="once")
@pytest.mark.proves("TensorFlow", "sums", gradients="once")
@pytest.mark.parametrize("m", [*DEFAULTS, CHAIN], ids=repr)
def test_derivatives_are_those_of_the_map(m: fm.Map) -> None:
    theta = inside(m, 6)
    z = fm.forward(theta, m)
    slope, inverse_slope = fm.jacobian(theta, m), fm.inverse_jacobian(z, m)
    bend = _functional.elementwise("log_abs_det_grad", "theta", theta, m, None, "nan")
    inverse_bend = _functional.elementwise("inverse_log_abs_det_grad", "z", z, m, None, "nan")
    t, y = tf.constant(theta), tf.constant(z)

    def first(function: Any, x: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = function(x)
        return tape.gradient(value, x)

    same(first(lambda t: fm.forward(t, m), t), slope)
    same(first(lambda y: fm.inverse(y, m), y), inverse_slope)
    same(first(lambda t: 3 * fm.forward_and_log_det(t, m)[1], t), 3 * bend)
    same(first(lambda y: fm.inverse_log_abs_det(y, m, axis=()), y), inverse_bend)
    second = first(lambda t: first(lambda t: fm.forward(t, m), t), t)
    np.testing.assert_allclose(second, slope * bend, rtol=1e-15)
    second = first(lambda y: fm.inverse_jacobian(y, m), y)
    np.testing.assert_allclose(second, inverse_slope * inverse_bend, rtol=1e-15)
    with pytest.raises(NotImplementedError, match="twice"):
        first(lambda t: first(lambda t: fm.log_abs_det(t, m, axis=()), t), t)


def test_sums_over_axes_have_gradients() -> None:
    theta = inside(fm.Log(), (2, 3, 4), np.float32)
    x, weight = tf.constant(theta), tf.constant(np.arange(3.0))
    with tf.GradientTape() as tape:
        tape.watch(x)
        total = tf.reduce_sum(fm.log_abs_det(x, "log", axis=(0, -1)) * weight)
    slope = tape.gradient(total, x)
    assert slope.dtype == tf.float32
    np.testing.assert_allclose(slope, -weight.numpy()[:, None] / theta, rtol=1e-6)


@pytest.mark.proves("TensorFlow", "maps", gradients="forward mode")
def test_jacobians_forward_mode_and_hessians() -> None:
    x = tf.constant([0.5, 2.0, 3.0], tf.float64)
    with tf.autodiff.ForwardAccumulator(x, tf.ones_like(x)) as accumulator:
        z = fm.forward(x, "log")
    np.testing.assert_allclose(accumulator.jvp(z), 1 / x)
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            z = fm.forward(x, "log")
        slope = tape.gradient(z, x)
    np.testing.assert_allclose(outer.jacobian(slope, x), np.diag(-1 / x.numpy() ** 2))
    with tf.GradientTape() as tape:
        tape.watch(x)
        z = fm.forward(x, "log")
    np.testing.assert_allclose(tape.jacobian(z, x), np.diag(1 / x.numpy()))


def test_a_variable_is_its_value() -> None:
    v = tf.Variable([0.5, 2.0])
    same(fm.forward(v, "log"), np.log(np.float32([0.5, 2.0])))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(fm.inverse(v, "softplus")) + tf.reduce_sum(fm.pullback(v, v, "log"))
    expected = 1 / (1 + np.exp(-v.numpy())) + np.exp(v.numpy()) * (1 + v.numpy())
    np.testing.assert_allclose(tape.gradient(loss, v), expected, rtol=1e-5)

    @tf.function(autograph=False)
    def step() -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum((fm.inverse(v, "log") - 3) ** 2)
        v.assign_sub(0.02 * tape.gradient(loss, v))
        return loss

    first = step()
    for _ in range(100):
        last = step()
    assert last < first / 1000
    np.testing.assert_allclose(fm.inverse(v, "log"), 3, rtol=1e-3)


@pytest.mark.proves("TensorFlow", "maps", memory="its own, read and written")
def test_nothing_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    apply = _tensorflow._native.apply

    def watched(op: str, map: Any, x: Any, out: Any, **rest: Any) -> None:
        seen.append((_tensorflow._native.pointer(x), _tensorflow._native.pointer(out)))
        apply(op, map, x, out, **rest)

    monkeypatch.setattr(_tensorflow._native, "apply", watched)
    dtypes = (tf.float32, tf.float64, tf.float16, tf.bfloat16)
    for dtype, size in itertools.product(dtypes, (1000, _tensorflow._native.LARGE)):
        x = tf.ones(size, dtype)
        result = fm.forward(x, "log")
        shown = [tf.bitcast(t, tf.uint16) if dtype is tf.bfloat16 else t for t in (x, result)]
        assert seen.pop() == (address(shown[0]), address(shown[1]))
        assert address(shown[1]) % 64 == 0
    v = tf.Variable(tf.ones(1000))
    fm.forward(v, "log")
    assert seen.pop()[0] == address(v.value())


def test_results_outlive_what_they_came_from() -> None:
    for size in (100_000, 2_000_000):
        results = [fm.forward_and_log_det(tf.fill([size], float(i)), "affine") for i in range(20)]
        for i, (result, total) in enumerate(results):
            assert np.all(result.numpy() == i)
            assert total == 0
    chained = tf.function(lambda t: fm.inverse(fm.forward(t, "asinh") + 1, "asinh"), autograph=False)
    x = np.linspace(-2, 2, 100_001, dtype=np.float32)
    same(chained(tf.constant(x)), fm.inverse(fm.forward(x, "asinh") + 1, "asinh"))


def test_shapes_without_elements_or_axes() -> None:
    for shape in ((), (0,), (0, 3), (1, 1)):
        for dtype in (np.float32, np.float64):
            theta = np.ones(shape, dtype)
            for function in (fm.forward, fm.log_abs_det, fm.forward_and_log_det):
                expected = tf.nest.map_structure(np.asarray, function(theta, "log"))
                each(function(tf.constant(theta), "log"), expected)
                graph = tf.function(lambda t, f=function: f(t, "log"), autograph=False)
                each(graph(tf.constant(theta)), expected)
    same(fm.log_abs_det(tf.ones((3, 0)), "log", axis=1), np.zeros(3))


def test_shapes_that_a_graph_does_not_know() -> None:
    theta = inside(fm.Log(), (4, 3), np.float32)

    @tf.function(input_signature=[tf.TensorSpec([None, 3])], autograph=False)
    def rows(t: Any) -> Any:
        z = fm.forward(t, COLUMNS)
        assert z.shape.as_list() == [None, 3]
        return z, fm.log_abs_det(t, "log", axis=1)

    theta[:, 0] /= 9
    each(rows(tf.constant(theta)), (fm.forward(theta, COLUMNS), fm.log_abs_det(theta, "log", axis=1)))

    @tf.function(input_signature=[tf.TensorSpec(None)], autograph=False)
    def any_rank(t: Any) -> Any:
        with pytest.raises(ValueError, match=r"^theta: how many axes"):
            fm.log_abs_det(t, "log")
        return fm.forward(t, "log")

    same(any_rank(tf.constant(theta)), fm.forward(theta, "log"))


def test_a_space_over_a_flat_buffer_and_by_name() -> None:
    z = fm.forward(FLAT, SPACE)
    expected = every_function(FLAT, z, SPACE)
    given = tf.constant(FLAT), tf.constant(z)
    each(every_function(*given, SPACE), expected)
    graph = tf.function(lambda t, z: every_function(t, z, SPACE), autograph=False)
    each(graph(*given), expected)
    named = {name: tf.constant(value) for name, value in SPACE.unravel(FLAT).items()}
    for function in (lambda t: fm.forward(t, SPACE), tf.function(lambda t: fm.forward(t, SPACE))):
        each(function(named), SPACE.unravel(z))
    with tf.GradientTape() as tape:
        tape.watch(named)
        total = sum(tf.reduce_sum(value) for value in fm.forward(named, SPACE).values())
    each(tape.gradient(total, named), SPACE.unravel(fm.jacobian(FLAT, SPACE)))


def test_maps_of_numpy_work_in_graphs_too() -> None:
    m = fm.Table([0.0, 1.0, 3.0], [0.0, 2.0, 3.0])
    theta = np.linspace(-1, 4, 50)
    expected = fm.forward(theta, m)
    same(fm.forward(tf.constant(theta), m), expected)
    same(tf.function(lambda t: fm.forward(t, m), autograph=False)(tf.constant(theta)), expected)


def test_tensorflow_leaves_our_functions_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    checked, files = _tensorflow._checked, []

    def watched(*args: Any) -> Any:
        frame: Any = sys._getframe(1)
        while frame is not None:
            files.append(frame.f_code.co_filename)
            frame = frame.f_back
        return checked(*args)

    monkeypatch.setattr(_tensorflow, "_checked", watched)

    @tf.function  # with AutoGraph, as users have it
    def graph(x: Any) -> Any:
        if tf.reduce_sum(x) > 0:
            x = fm.forward(x, "log")
        return x

    same(graph(tf.ones(3)), np.zeros(3, np.float32))
    own = [name for name in files if "_autograph_generated" not in name]
    assert own[:2] == [_tensorflow.__file__, _functional.__file__]
    first_generated = next(i for i, name in enumerate(files) if "_autograph_generated" in name)
    assert files.index(_functional.__file__) < first_generated
    assert _functional.__file__ not in files[first_generated:]


def test_policies() -> None:
    theta = np.array([1.0, -1.0, 0.0, np.nan])
    x = tf.constant(theta)
    with pytest.raises(fm.DomainError, match=r"^theta: 3 of 4") as caught:
        fm.forward(x, "log")
    assert caught.value.index == (1,)
    expected = fm.forward(theta, "log", invalid="nan")
    same(fm.forward(x, "log", invalid="nan"), expected)
    same(tf.function(lambda t: fm.forward(t, "log"), autograph=False)(x), expected)
    clipped = fm.forward(theta[:3], "log", invalid="clip")
    same(fm.forward(x[:3], "log", invalid="clip"), clipped)
    for function in (fm.forward, fm.log_abs_det):
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"theta: 3 of 4 values"):
            tf.function(lambda t, f=function: f(t, "log", invalid="raise"), autograph=False)(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        with pytest.raises(fm.DomainError, match=r"^theta: 3 of 4"):
            fm.forward(x, "log")
    named = {name: tf.constant(value) for name, value in SPACE.unravel(FLAT).items()}
    with pytest.raises(fm.DomainError, match=r"^theta\['b'\]: 1 of 1"):
        fm.forward({**named, "b": tf.constant(-1.0, tf.float64)}, SPACE)


def refusals() -> dict[str, tuple[type[Exception], str, Any]]:
    """Name -> (error, what its message starts with, a call on a tensor of ones)."""
    return {
        "out": (TypeError, "out: tensors of TensorFlow", lambda x: fm.forward(x, "log", out=x)),
        "pair out": (TypeError, "out: tensors of", lambda x: fm.inverse_and_log_det(x, "log", out=x)),
        "numpy out": (TypeError, "out: tensors", lambda x: fm.pullback(x, x, "log", out=np.ones(3))),
        "integers": (TypeError, "theta: dtype int32", lambda x: fm.forward(tf.cast(x, tf.int32), "log")),
        "complex": (TypeError, "theta: dtype complex", lambda x: fm.forward(tf.cast(x, tf.complex64), "log")),
        "bool": (TypeError, "z: dtype bool", lambda x: fm.inverse(x > 0, "log")),
        "map shape": (ValueError, "map: parameters of shape", lambda x: fm.forward(x[:2], COLUMNS)),
        "space": (ValueError, r"theta: shape \(3,\) differs", lambda x: fm.forward(x, SPACE)),
        "grad kind": (TypeError, "grad_theta: expected", lambda x: fm.pullback(np.ones(3), x, "log")),
        "grad dtype": (
            TypeError,
            "grad_theta: dtype float32",
            lambda x: fm.pullback(tf.cast(x, tf.float32), x, "log"),
        ),
        "grad shape": (ValueError, "grad_theta: shape", lambda x: fm.pullback(x[:2], x, "log")),
        "axis": (ValueError, "axis: 1 is out of", lambda x: fm.log_abs_det(x, "log", axis=1)),
        "policy": (ValueError, "invalid: expected", lambda x: fm.forward(x, "log", invalid="no")),
        "rows": (TypeError, "theta: structured maps", lambda x: fm.forward(x, fm.Simplex())),
        "ragged": (
            TypeError,
            "theta: RaggedTensor is not",
            lambda x: fm.forward(tf.RaggedTensor.from_row_lengths(x, [1, 2]), "log"),
        ),
        "sparse": (
            TypeError,
            "theta: SparseTensor is not",
            lambda x: fm.forward(tf.sparse.from_dense(x), "log"),
        ),
    }


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("name", refusals())
def test_refusal_names_the_argument(name: str, graph: bool) -> None:
    error, message, call = refusals()[name]
    with pytest.raises(error, match=f"^{message}"):
        (tf.function(call, autograph=False) if graph else call)(tf.ones(3, tf.float64))


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # of NumPy about TensorFlow
def test_what_needs_values_is_refused_in_a_graph() -> None:
    @tf.function(autograph=False)
    def graph(x: Any) -> Any:
        with pytest.raises(TypeError, match=r"^theta: .*outside of tf\.function"):
            fm.audit(x, "log")
        with pytest.raises(TypeError, match=r"^Interval: high must be a real number"):
            fm.forward(x, fm.Interval(0, x[0]))
        return x

    graph(tf.ones(3))
    assert fm.audit(tf.ones(3), "log").size == 3


def test_memory_that_is_not_the_cpus_is_refused() -> None:
    far = SimpleNamespace(backing_device="/job:localhost/replica:0/task:0/device:GPU:1", dtype=tf.float32)
    with pytest.raises(ValueError, match=r"^theta: device GPU:1 is not supported; copy it under tf\.device"):
        _tensorflow._memory(far, "theta")


def test_an_old_tensorflow_is_refused() -> None:
    _tensorflow.refuse_old("2.18.0-rc1")
    with pytest.raises(ImportError, match=r"2\.9\.1 is too old, 2\.18 is needed: pip install -U"):
        _tensorflow.refuse_old("2.9.1")


def test_without_the_private_question_all_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where TensorFlow does not say whether it records, every call has its derivative."""
    monkeypatch.setattr(_tensorflow, "_recording", lambda: True)
    theta = inside(fm.Log(), dtype=np.float32)
    each(
        every_function(tf.constant(theta), tf.constant(np.log(theta)), "log"),
        every_function(theta, np.log(theta), "log"),
    )


@pytest.mark.parametrize(
    "code",
    [
        code
        for code in re.findall(
            r"```python\n(.*?)```", (Path(__file__).parents[1] / "docs/tensorflow.md").read_text(), re.S
        )
        if "keras" not in code  # test_keras.py has the others
    ],
)
def test_the_examples_of_the_docs(code: str) -> None:
    exec(compile(code, "tensorflow.md", "exec"), {"__name__": "example"})
