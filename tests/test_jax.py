"""The public functions on JAX arrays: NumPy's bits under every transformation, and every refusal."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from everywhere import CHAIN, COLUMNS, DEFAULTS, MAPS, SPACE, every_function, inside
from jax.test_util import check_grads

import fastmap as fm
from fastmap import _functional, _jax, _native

ROWS = fm.Log(low=[[0.0], [-1], [-2], [-3]])
GRID = fm.Chain(fm.Affine(0, [[1.0], [2], [3], [4]]), fm.Interval(-9, np.arange(1.0, 13).reshape(4, 3)))
each_default = pytest.mark.parametrize("m", [*DEFAULTS, CHAIN], ids=repr)


@pytest.fixture(autouse=True)
def wide() -> Iterator[None]:
    """float64 arrays are float64."""
    with jax.enable_x64(True):
        yield


def same(result: Any, expected: Any) -> None:
    """An array of JAX with the bits of one of NumPy; sums are float32 where JAX has no float64."""
    assert isinstance(result, jax.Array)
    assert result.dtype == expected.dtype
    np.testing.assert_array_equal(np.asarray(result), expected)


@pytest.mark.proves("JAX", "pullback", compiled="`jit`", device="CPU")
@pytest.mark.proves("JAX", "maps", compiled="`jit`", device="CPU")
@pytest.mark.proves("JAX", "derivatives", compiled="`jit`", device="CPU")
@pytest.mark.proves("JAX", "sums", compiled="`jit`", device="CPU")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("m", [*MAPS, CHAIN, CHAIN.inv, COLUMNS, ROWS, GRID], ids=repr)
def test_same_bits_as_numpy(m: fm.Map, dtype: type) -> None:
    theta = inside(m, dtype=dtype)
    z = fm.forward(theta, m)
    expected = every_function(theta, z, m)
    given = jnp.asarray(theta), jnp.asarray(z)
    jax.tree.map(same, every_function(*given, m), expected)
    jax.tree.map(same, jax.jit(lambda t, z: every_function(t, z, m))(*given), expected)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_sixteen_bits_are_the_float32_result_rounded_once(dtype: Any) -> None:
    theta = jnp.asarray(inside(fm.Softplus(), 1000), dtype)
    expected = fm.forward(theta.astype(np.float32), "softplus").astype(dtype)
    for function in (fm.forward, jax.jit(fm.forward, static_argnums=1)):
        same(function(theta, "softplus"), np.asarray(expected))
    total = fm.log_abs_det(theta, "softplus")
    assert total.dtype == np.float64
    same(jax.jit(lambda t: fm.log_abs_det(t, "softplus"))(theta), np.asarray(total))


def test_without_float64_sums_are_rounded_to_float32() -> None:
    with jax.enable_x64(False):
        theta = jnp.linspace(0.1, 1, 10_000)
        expected = np.float32(fm.log_abs_det(np.asarray(theta), "log"))
        same(fm.log_abs_det(theta, "log"), expected)
        same(jax.jit(lambda t: fm.log_abs_det(t, "log"))(theta), expected)
        assert fm.forward(jnp.arange(1, 4), "log").dtype == np.float32
    assert fm.forward(jnp.arange(1, 4), "log").dtype == np.float64


def test_a_space_over_a_flat_buffer_and_by_name() -> None:
    theta = np.array([0.1, 0.2, 0.7, 0.9, 3.0, -1.0, 0.0, 5.0])
    z = fm.forward(theta, SPACE)
    expected = every_function(theta, z, SPACE)
    jax.tree.map(same, every_function(jnp.asarray(theta), jnp.asarray(z), SPACE), expected)
    jitted = jax.jit(lambda t, z: every_function(t, z, SPACE))
    jax.tree.map(same, jitted(jnp.asarray(theta), jnp.asarray(z)), expected)
    batch = jnp.asarray(np.stack([theta, theta[::-1] / 9 + 0.3]), np.float32)
    for i, row in enumerate(jax.vmap(lambda t: fm.forward(t, SPACE))(batch)):
        same(row, fm.forward(np.asarray(batch[i]), SPACE))
    for i, row in enumerate(jax.vmap(lambda t: fm.log_abs_det(t, SPACE))(batch)):
        assert row == fm.log_abs_det(np.asarray(batch[i]), SPACE)
    named = SPACE.unravel(jnp.asarray(theta))
    for result in (fm.forward(named, SPACE), jax.jit(lambda t: fm.forward(t, SPACE))(named)):
        jax.tree.map(same, result, SPACE.unravel(z))
    with pytest.raises(ValueError, match=r"^theta: shape \(7,\) differs from \(8,\) of the space"):
        jax.jit(lambda t: fm.forward(t, SPACE))(jnp.ones(7))


def test_a_tree_of_parameters_is_trained() -> None:
    space = fm.Space({"cell": {"decay": fm.Param(0, 1, shape=3), "scale": fm.Param(low=0)}, "w": fm.Param()})

    @jax.jit
    @jax.value_and_grad
    def loss(z: dict[str, jax.Array]) -> jax.Array:
        theta = space.tree(fm.inverse(z, space))
        cell = theta["cell"]
        return jnp.sum((cell["decay"] - 0.99) ** 2) + (cell["scale"] - 2) ** 2 + (theta["w"] + 1) ** 2

    z = fm.forward({"cell.decay": jnp.full(3, 0.5), "cell.scale": jnp.ones(()), "w": jnp.zeros(())}, space)
    first, _ = loss(z)
    for _ in range(200):
        z = jax.tree.map(lambda p, g: p - 0.2 * g, z, loss(z)[1])
    assert loss(z)[0] < first / 100


@pytest.mark.proves("JAX", "maps", gradients="twice")
@pytest.mark.proves("JAX", "sums", gradients="once")
@each_default
def test_derivatives_are_those_of_the_map(m: fm.Map) -> None:
    theta = inside(m, 6)
    z = fm.forward(theta, m)
    slope, inverse_slope = fm.jacobian(theta, m), fm.inverse_jacobian(z, m)
    bend = _functional.elementwise("log_abs_det_grad", "theta", theta, m, None, "nan")
    inverse_bend = _functional.elementwise("inverse_log_abs_det_grad", "z", z, m, None, "nan")

    def forward(t: Any) -> Any:
        return fm.forward(t, m).sum()

    def inverse(z: Any) -> Any:
        return fm.inverse(z, m).sum()

    @jax.jit
    def first(t: Any, z: Any) -> Any:
        _, moved = jax.jvp(lambda t: fm.forward_and_log_det(t, m), (t,), (2 * jnp.ones(6),))
        total = jax.grad(lambda t: 3 * fm.forward_and_log_det(t, m)[1])(t)
        terms = jax.grad(lambda z: fm.inverse_log_abs_det(z, m, axis=()).sum())(z)
        return jax.grad(forward)(t), jax.grad(inverse)(z), moved[0], total, terms

    @jax.jit
    def second(t: Any, z: Any) -> Any:
        again = jax.grad(lambda t: jax.grad(forward)(t).sum())(t)
        return again, jax.hessian(inverse)(z), jax.jvp(jax.grad(forward), (t,), (jnp.ones(6),))[1]

    given = jnp.asarray(theta), jnp.asarray(z)
    jax.tree.map(same, first(*given), (slope, inverse_slope, 2 * slope, 3 * bend, inverse_bend))
    expected = slope * bend, np.diag(inverse_slope * inverse_bend), slope * bend
    for result, value in zip(second(*given), expected, strict=True):
        np.testing.assert_allclose(result, value, rtol=1e-15)


def test_eager_derivatives() -> None:
    t = jnp.array([0.5, 2.0])
    same(jax.grad(lambda t: fm.forward(t, "log").sum())(t), np.array([2, 0.5]))
    same(jax.grad(lambda t: fm.log_abs_det(t, "log"))(t), np.array([-2, -0.5]))


@pytest.mark.proves("JAX", "pullback", gradients="once")
@pytest.mark.proves("JAX", "maps", gradients="forward mode")
@pytest.mark.proves("JAX", "derivatives", gradients="once")
def test_derivatives_against_finite_differences() -> None:
    t, z, g = jnp.linspace(0.3, 2, 6).reshape(2, 3), jnp.linspace(-2, 2, 6), jnp.linspace(1, 2, 6)
    check_grads(jax.jit(lambda t: fm.forward(t, CHAIN)), (t,), order=2)
    check_grads(jax.jit(lambda g, z: fm.pullback(g, z, "softplus")), (g, z), order=1)
    check_grads(jax.jit(lambda t: fm.jacobian(t, "softplus")), (t,), order=1)
    with pytest.raises(NotImplementedError, match="twice"):
        jax.hessian(lambda t: fm.log_abs_det(t, "log"))(z)


def test_gradients_keep_the_dtype() -> None:
    with jax.numpy_dtype_promotion("strict"):
        for dtype in (jnp.bfloat16, np.float32):
            for function in (
                lambda x: fm.inverse(x, "softplus").sum(),
                lambda x: fm.log_abs_det(x, "log"),
                lambda x: fm.pullback(x, x, "log").sum(),
            ):
                assert jax.eval_shape(jax.grad(function), jnp.ones(3, dtype)).dtype == dtype


@pytest.mark.proves("JAX", "pullback", compiled="`vmap`")
@pytest.mark.proves("JAX", "maps", compiled="`vmap`")
@pytest.mark.proves("JAX", "derivatives", compiled="`vmap`")
@pytest.mark.proves("JAX", "sums", compiled="`vmap`")
def test_vmap_is_the_loop() -> None:
    x = jnp.asarray(inside(fm.Log(), (2, 3, 5)))
    by_row = jax.vmap(lambda x: fm.forward(x, COLUMNS), in_axes=2, out_axes=1)(x / 5)
    for i in range(5):
        same(by_row[:, i], fm.forward(np.asarray(x / 5)[..., i], COLUMNS))
    sums = jax.jit(jax.vmap(jax.vmap(lambda x: fm.log_abs_det(x, "log")), in_axes=2))(x)
    same(sums, fm.log_abs_det(np.ascontiguousarray(np.moveaxis(np.asarray(x), 2, 0)), "log", axis=-1))
    columns = jax.vmap(lambda x: fm.forward_and_log_det(x, "log"), out_axes=(1, 0))(x)
    same(columns[0], np.moveaxis(fm.forward(np.asarray(x), "log"), 0, 1))
    moved = x.transpose(2, 0, 1) / 5
    middle = jax.vmap(lambda x: fm.log_abs_det(x, COLUMNS, axis=0), in_axes=1)(moved)
    same(middle, fm.log_abs_det(np.asarray(moved), COLUMNS, axis=0))
    grads = jax.vmap(fm.pullback, in_axes=(None, 0, None))(x[0], x, "log")
    same(grads, fm.pullback(np.broadcast_to(x[0], x.shape), np.asarray(x), "log"))
    same(jax.vmap(lambda x: fm.jacobian(x, "log"))(x), fm.jacobian(np.asarray(x), "log"))
    per_example = jax.vmap(jax.grad(lambda x: fm.log_abs_det(x, "softplus")))(x[0])
    same(per_example, np.asarray(jax.grad(lambda x: fm.log_abs_det(x, "softplus"))(x[0])))


@pytest.mark.proves("JAX", "maps", compiled="`scan`, `checkpoint`")
def test_control_flow_rematerialisation_and_donation() -> None:
    x = jnp.linspace(0.1, 1, 8)
    expected = np.asarray(x)
    for _ in range(5):
        expected = fm.forward(expected, "log1p")
    body = jax.checkpoint(lambda x: fm.forward(x, "log1p"))
    same(jax.jit(lambda x: jax.lax.scan(lambda x, _: (body(x), None), x, length=5)[0])(x), expected)
    same(jax.lax.fori_loop(0, 5, lambda _, x: body(x), x), expected)
    slope = jax.jit(jax.grad(lambda x: jax.lax.scan(lambda x, _: (body(x), None), x, length=5)[0].sum()))(x)
    assert np.isfinite(slope).all()
    donated = jnp.array(x)
    same(jax.jit(lambda x: fm.forward(x, "log"), donate_argnums=0)(donated), fm.forward(np.asarray(x), "log"))
    assert donated.is_deleted()


def test_shapes_without_elements_or_axes() -> None:
    for shape in ((), (0,), (0, 3), (1, 1)):
        theta = np.ones(shape, np.float32)
        for function in (fm.forward, fm.log_abs_det):
            expected = np.asarray(function(theta, "log"))
            same(function(jnp.asarray(theta), "log"), expected)
            same(jax.jit(function, static_argnums=1)(jnp.asarray(theta), "log"), expected)
    sums = jax.jit(lambda t: fm.log_abs_det(t, "log", axis=1))(jnp.ones((3, 0)))
    same(sums, np.zeros(3))


def test_policies() -> None:
    theta = jnp.array([1.0, -1.0, 0.0, np.nan])
    with pytest.raises(fm.DomainError, match=r"^theta: 3 of 4") as caught:
        fm.forward(theta, "log")
    assert caught.value.index == (1,)
    expected = fm.forward(np.asarray(theta), "log", invalid="nan")
    same(fm.forward(theta, "log", invalid="nan"), expected)
    same(jax.jit(lambda t: fm.forward(t, "log"))(theta), expected)
    same(jax.vmap(lambda t: fm.forward(t, "log"))(theta), expected)
    assert np.isnan(jax.jit(lambda t: fm.log_abs_det(t, "log"))(theta))
    clipped = fm.forward(np.asarray(theta[:3]), "log", invalid="clip")
    same(jax.jit(lambda t: fm.forward(t, "log", invalid="clip"))(theta[:3]), clipped)
    for policy, count in (("raise", 3), ("clip", 1)):
        for function in (fm.forward, fm.log_abs_det):
            with pytest.raises(jax.errors.JaxRuntimeError, match=rf"theta: {count} of 4 values"):
                jax.jit(lambda t, f=function, p=policy: f(t, "log", invalid=p))(theta).block_until_ready()
    with pytest.raises(fm.DomainError, match=r"^theta\['b'\]: 1 of 1"):
        fm.forward({**SPACE.unravel(jnp.full(8, 0.5)), "b": -jnp.ones(())}, SPACE)


def refusals() -> dict[str, tuple[type[Exception], str, Any]]:
    """Name -> (error, what its message starts with, a call on an array of ones)."""
    return {
        "out": (TypeError, "out: JAX arrays cannot", lambda x: fm.forward(x, "log", out=x)),
        "pair out": (TypeError, "out: JAX arrays", lambda x: fm.inverse_and_log_det(x, "log", out=x)),
        "numpy out": (TypeError, "out: JAX", lambda x: fm.pullback(x, x, "log", out=np.ones(3))),
        "complex": (TypeError, "theta: dtype complex128", lambda x: fm.forward(x * 1j, "log")),
        "bool": (TypeError, "z: dtype bool", lambda x: fm.inverse(x > 0, "log")),
        "float8": (TypeError, "z: dtype float8", lambda x: fm.inverse(x.astype(jnp.float8_e4m3fn), "log")),
        "map shape": (ValueError, "map: parameters of shape", lambda x: fm.forward(x[:2], COLUMNS)),
        "grad kind": (TypeError, "grad_theta: expected a JAX", lambda x: fm.pullback(np.ones(3), x, "log")),
        "grad dtype": (
            TypeError,
            "grad_theta: dtype float32",
            lambda x: fm.pullback(x.astype(np.float32), x, "log"),
        ),
        "grad shape": (ValueError, "grad_theta: shape", lambda x: fm.pullback(x[:2], x, "log")),
        "axis": (ValueError, "axis: 1 is out of", lambda x: fm.log_abs_det(x, "log", axis=1)),
        "policy": (ValueError, "invalid: expected", lambda x: fm.forward(x, "log", invalid="no")),
    }


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("name", refusals())
def test_refusal_names_the_argument(name: str, traced: bool) -> None:
    error, message, call = refusals()[name]
    with pytest.raises(error, match=f"^{message}"):
        (jax.jit(call) if traced else call)(jnp.ones(3))


def test_traced_parameters_are_refused() -> None:
    with pytest.raises(TypeError, match=r"^Interval: high must be a real number"):
        jax.jit(lambda x: fm.forward(x, fm.Interval(0, x.max() + 1)))(jnp.ones(3))


@pytest.mark.proves("JAX", "maps", memory="its own")
def test_eager_calls_copy_nothing() -> None:
    for dtype in (np.float32, jnp.bfloat16):
        x = jnp.ones(1000, dtype)
        array = _jax._memory(x, "x")
        assert array.ctypes.data == x.unsafe_buffer_pointer()
        result = _native.aligned(array)
        wrapped = _jax._wrapped(result.view(dtype), x)
        assert wrapped.unsafe_buffer_pointer() == result.ctypes.data
        assert not fm.forward(x, "log").committed
        assert fm.forward(jax.device_put(x, jax.devices()[0]), "log").committed


@pytest.mark.proves("JAX", "maps", memory="XLA's own under `jit`")
@pytest.mark.proves("JAX", "pullback", memory="XLA's own under `jit`")
@pytest.mark.proves("JAX", "sums", memory="XLA's own under `jit`")
def test_compiled_calls_copy_nothing() -> None:
    x = jnp.linspace(0.1, 0.9, 1 << 12)

    def all_three(x: jax.Array) -> Any:
        return fm.forward(x, "log"), fm.pullback(x, x, "log"), fm.log_abs_det(x, "log")

    compiled = jax.jit(all_three).lower(x).compile()
    assert " copy(" not in compiled.as_text()
    assert compiled.memory_analysis().temp_size_in_bytes < x.nbytes  # nor any other buffer beside the results


def test_the_program_carries_the_map() -> None:
    """No address, no number given by this process: XLA may keep it on disk for another one."""
    x = jnp.ones(3)
    texts = {
        jax.jit(lambda x: fm.forward(x, fm.Chain(fm.Log(), fm.Interval(-9, [1, 2, 3])))).lower(x).as_text()
        for _ in range(2)
    }
    assert len(texts) == 1
    assert f"fastmap_{fm.__version__}" in texts.pop()


def test_a_call_that_is_not_ours_is_an_error() -> None:
    x, fit = jnp.ones(3), {"params": np.array([0.0]), "argument": "x"}
    log = next(i for i, entry in enumerate(fm.catalog()) if entry["name"] == "log")
    good = np.array([0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, log, 0])

    def call(out: Any = x, **attributes: Any) -> Any:
        return jax.ffi.ffi_call(_jax._TARGETS["apply"], jax.ShapeDtypeStruct(out.shape, out.dtype))(
            x, **attributes
        )

    same(call(program=good, **fit), np.zeros(3))
    programs: list[Any] = [good[:cut] for cut in range(len(good))]
    programs += [np.where(np.arange(len(good)) == 11, n, good) for n in (-1, 10_000)]
    programs += [good.astype(np.int32), good.astype(float), "text", 3]
    wrong = [{"program": program, **fit} for program in programs]
    wrong += [
        {"program": good, **fit, "params": params} for params in (np.zeros(0), np.zeros(1, np.float32), 1)
    ]
    wrong += [{"program": good, "params": fit["params"]}, {"program": good, **fit, "argument": 1}]
    for attributes in wrong:
        with pytest.raises(jax.errors.JaxRuntimeError, match="malformed call"):
            call(**attributes).block_until_ready()
    with pytest.raises(jax.errors.JaxRuntimeError, match="malformed call: shape or dtype"):
        call(jnp.ones(4), program=good, **fit).block_until_ready()


def test_the_interface_is_that_of_jaxlib(tmp_path: Path) -> None:
    pairs = {
        "Extension": ("Extension_Base", ["struct_size", "type", "next"], None),
        "Version": ("Api_Version", ["struct_size", "major:major_version", "minor:minor_version"], None),
        "Metadata": ("Metadata", ["struct_size", "version:api_version", "traits"], None),
        "MetadataExtension": ("Metadata_Extension", ["base:extension_base", "metadata"], None),
        "Buffer": ("Buffer", ["struct_size", "dtype", "data", "rank", "dims"], None),
        "Buffers": ("Args", ["struct_size", "size", "types", "buffers:args"], "Rets"),
        "Span": ("ByteSpan", ["data:ptr", "size:len"], None),
        "Array": ("Array", ["dtype", "size", "data"], None),
        "Attributes": ("Attrs", ["struct_size", "size", "types", "names", "values:attrs"], None),
        "ErrorArgs": ("Error_Create_Args", ["struct_size", "message", "code:errc"], None),
        "Api": ("Api", ["struct_size", "version:api_version", "create_error:XLA_FFI_Error_Create"], None),
        "Frame": (
            "CallFrame",
            ["struct_size", "extensions:extension_start", "api", "args", "results:rets", "attributes:attrs"],
            None,
        ),
    }
    lines = []
    for ours, (theirs, fields, twin) in pairs.items():
        for field in fields:
            mine, _, given = field.partition(":")
            name = f"XLA_FFI_{theirs}, {given or mine}"
            lines.append(f"static_assert(offsetof({ours}, {mine}) == offsetof({name}));")
        if twin:
            lines.append(f"static_assert(sizeof(XLA_FFI_{theirs}) == sizeof(XLA_FFI_{twin}));")
    for ours in ("Buffer", "Buffers", "Span", "Array", "Attributes", "Version", "Extension", "ErrorArgs"):
        lines.append(f"static_assert(sizeof({ours}) == sizeof(XLA_FFI_{pairs[ours][0]}));")
    for ours, theirs in {
        "kF16": "DataType_F16",
        "kF32": "DataType_F32",
        "kF64": "DataType_F64",
        "kBF16": "DataType_BF16",
        "kS64": "DataType_S64",
        "kArray": "AttrType_ARRAY",
        "kString": "AttrType_STRING",
        "kMetadata": "Extension_Metadata",
        "kInvalidArgument": "Error_Code_INVALID_ARGUMENT",
        "kMajor": "API_MAJOR",
    }.items():
        lines.append(f"static_assert(int({ours}) == int(XLA_FFI_{theirs}));")
    source = tmp_path / "layout.cpp"
    includes = '#include "xla/ffi/api/c_api.h"\n#include "bind/xla.hpp"\nusing namespace fastmap::xla;\n'
    source.write_text(includes + "\n".join(lines) + "\n")
    root = Path(__file__).parent.parent
    compiler = os.environ.get("CXX") or shutil.which("c++") or "g++"
    command = [compiler, "-std=c++17", "-fsyntax-only", f"-I{root / 'csrc'}", f"-I{jax.ffi.include_dir()}"]
    done = subprocess.run([*command, str(source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.proves("JAX", "maps", device="several, by `shard_map`")
@pytest.mark.proves("JAX", "sums", device="several, by `shard_map`")
def test_many_devices_and_many_threads() -> None:
    """No deadlock between XLA's threads and the engine's; parts of an array stay where they are."""
    script = Path(__file__).with_name("jax_devices.py")
    env = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4", "FASTMAP_NUM_THREADS": "4"}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        env=env,
        capture_output=True,
        text=True,
        timeout=300,  # of a machine that has other things to do; a deadlock lasts longer
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["threads", "shards", "refusal"]
