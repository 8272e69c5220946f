"""Arrays of other libraries: columns of data frames, ml_dtypes, memory maps, whatever speaks DLPack."""

from __future__ import annotations

import array
import sys
from pathlib import Path
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
import pandas as pd
import polars
import pyarrow as arrow
import pytest
from foreign import Foreign

import fastmap as fm

VALUES = np.array([1e-3, 0.1, 2.0])
LOGS = fm.forward(VALUES, "log")


@pytest.mark.proves("pandas, Polars, Arrow", "maps", device="CPU")
def test_pandas_keeps_index_and_names() -> None:
    index = pd.Index([3, 1, 2], name="run")
    series = pd.Series(VALUES, index=index, name="lr")
    pd.testing.assert_series_equal(fm.forward(series, "log"), pd.Series(LOGS, index=index, name="lr"))
    pd.testing.assert_series_equal(fm.inverse(fm.forward(series, "log"), "log"), series, rtol=1e-15)
    z, total = fm.forward_and_log_det(series, "log")
    pd.testing.assert_series_equal(z, pd.Series(LOGS, index=index, name="lr"))
    assert total == fm.log_abs_det(VALUES, "log")
    pd.testing.assert_series_equal(
        fm.pullback(series, z, "log"), pd.Series(fm.pullback(VALUES, LOGS, "log"), index=index, name="lr")
    )
    frame = pd.DataFrame({"a": VALUES, "b": VALUES / 3}, index=index)
    expected = pd.DataFrame(fm.forward(frame.to_numpy(), "log"), index=index, columns=["a", "b"])
    pd.testing.assert_frame_equal(fm.forward(frame, "log"), expected)
    by_name = fm.forward(
        {"a": series, "b": 0.5}, fm.Space(a=fm.Param(shape=3, map="log"), b=fm.Param(map="log"))
    )
    pd.testing.assert_series_equal(by_name["a"], pd.Series(LOGS, index=index, name="lr"))
    assert fm.forward(pd.Series([1, 2]), "log").dtype == np.float64
    assert fm.forward(series.astype("float32"), "log").dtype == np.float32
    assert fm.forward(frame["a"].iloc[:0], "log").empty


def test_pandas_is_not_copied() -> None:
    series = pd.Series(VALUES)
    result = fm.forward(series, "log")
    assert np.shares_memory(np.asarray(series), series.to_numpy())
    out = np.empty(3)
    assert fm.forward(series, "log", out=out) is out
    np.testing.assert_array_equal(result, out)


def test_missing_values_are_nan() -> None:
    for column in (
        pd.Series([1.0, None], dtype="Float64"),
        polars.Series([1.0, None]),
        arrow.array([1.0, None]),
    ):
        with pytest.raises(fm.DomainError, match=r"^theta: 1 of 2 .* index 1"):
            fm.forward(column, "log")
        result = fm.forward(column, "log", invalid="nan")
        assert type(result) is type(column)
        np.testing.assert_array_equal(np.asarray(result), [0, np.nan])


@pytest.mark.proves("pandas, Polars, Arrow", "maps", device="CPU")
def test_polars_and_arrow() -> None:
    series = fm.forward(polars.Series("lr", VALUES), "log")
    assert isinstance(series, polars.Series)
    assert series.name == "lr"
    np.testing.assert_array_equal(series.to_numpy(), LOGS)
    frame = fm.forward(polars.DataFrame({"a": VALUES, "b": VALUES}), "log")
    assert frame.columns == ["a", "b"]
    np.testing.assert_array_equal(frame["b"].to_numpy(), LOGS)
    for column in (arrow.array(VALUES), arrow.chunked_array([VALUES[:1], VALUES[1:]])):
        result = fm.forward(column, "log")
        assert isinstance(result, arrow.Array)
        np.testing.assert_array_equal(result.to_numpy(), LOGS)
    assert fm.forward(arrow.array(VALUES.astype(np.float32)), "log").type == arrow.float32()


@pytest.mark.proves("others by DLPack", "maps", device="CPU")
def test_any_array_by_dlpack() -> None:
    np.testing.assert_array_equal(fm.forward(Foreign(VALUES), "log"), LOGS)
    np.testing.assert_array_equal(fm.forward(Foreign(np.arange(1, 4)), "log"), np.log(np.arange(1, 4)))
    with pytest.raises(TypeError, match=r"^theta: Foreign cannot be seen .* on the CPU"):
        fm.forward(Foreign(None), "log")


class OnGPU(Foreign):
    """What CuPy's arrays offer: an address that the CPU cannot read, and no way to NumPy unasked."""

    __cuda_array_interface__: ClassVar = {
        "shape": (3,),
        "typestr": "<f8",
        "data": (4096, False),
        "version": 3,
    }

    def __array__(self, *args: Any, **options: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 0)


def test_without_torch_an_array_on_a_gpu_is_refused_with_its_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    there = OnGPU(None)
    for call, name in (
        (lambda: fm.forward(there, "log"), "theta"),
        (lambda: fm.inverse(there, "log"), "z"),
        (lambda: fm.log_abs_det(there, "log"), "theta"),
        (lambda: fm.pullback(there, there, "log"), "z"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr("torch.cuda.is_available", lambda: False)
            with pytest.raises(
                RuntimeError, match=rf"^{name}: OnGPU lies on a GPU.* torch for CUDA, or pass"
            ):
                call()
            patch.setitem(sys.modules, "torch", None)
            with pytest.raises(
                RuntimeError, match=rf"^{name}: OnGPU lies on a GPU.* torch; install it, or pass"
            ):
                call()
    with pytest.raises(TypeError, match=r"^grad_theta: OnGPU lies on a GPU.* pass a CPU copy"):
        fm.pullback(there, VALUES, "log")


def test_buffers_and_lists() -> None:
    np.testing.assert_array_equal(fm.forward(memoryview(VALUES), "log"), LOGS)
    assert fm.forward(array.array("f", [1, 2]), "log").dtype == np.float32
    np.testing.assert_array_equal(fm.forward(list(VALUES), "log"), LOGS)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
def test_sixteen_bits(dtype: Any) -> None:
    theta = np.linspace(0.1, 3, 24).reshape(4, 6).astype(dtype)
    expected = fm.forward(theta.astype(np.float32), "softplus").astype(dtype)
    for view in (theta, theta.T, theta[::-1, ::2], theta[0, 0]):
        result = fm.forward(view, "softplus")
        assert result.dtype == dtype
        np.testing.assert_array_equal(result, fm.forward(view.astype(np.float32), "softplus").astype(dtype))
    out = np.empty_like(theta)
    assert fm.forward(theta, "softplus", out=out) is out
    np.testing.assert_array_equal(out, expected)
    assert fm.forward(theta, "softplus", out=theta) is theta
    np.testing.assert_array_equal(theta, expected)
    positive = np.ones((4, 6), dtype)
    assert fm.pullback(out, out, "softplus").dtype == dtype
    assert fm.forward_and_log_det(positive, "softplus")[0].dtype == dtype
    assert fm.log_abs_det(positive, "softplus").dtype == np.float64
    with pytest.raises(fm.DomainError, match=r"value -1\.0\)"):
        fm.forward(np.array([1, -1], dtype), "log")
    with pytest.raises(TypeError, match=r"^out: dtype"):
        fm.forward(theta, "softplus", out=np.empty(theta.shape, np.float32))


def test_memory_mapped_files(tmp_path: Path) -> None:
    path = tmp_path / "theta.f64"
    np.tile(VALUES, 10_000).tofile(path)
    writeable = np.memmap(path, np.float64, "r+")
    assert fm.forward(writeable, "log", out=writeable) is writeable
    writeable.flush()
    read_only = np.memmap(path, np.float64, "r")
    np.testing.assert_array_equal(read_only, np.tile(LOGS, 10_000))
    assert type(fm.inverse(read_only, "log")) is np.ndarray
    with pytest.raises(ValueError, match=r"^out: the array is read-only"):
        fm.inverse(read_only, "log", out=read_only)


@pytest.mark.parametrize(
    ("x", "fix"),
    [
        (np.ma.masked_array(VALUES, [0, 1, 0]), r"filled\(\)"),
        (np.zeros(2, [("a", "f8"), ("b", "f8")]), "fields one by one"),
        (np.array([1.0, None]), "use float16, float32 or float64"),
        (pd.Series(["a", 1.0], dtype=object), "use float16, float32 or float64"),
        (np.array(["2020-01-01"], "M8[s]"), "use float16, float32 or float64"),
        (VALUES.astype(">f8"), "use float16, float32 or float64"),
    ],
)
def test_the_rest_is_refused_with_its_fix(x: Any, fix: str) -> None:
    with pytest.raises(TypeError, match=rf"^theta: .*{fix}"):
        fm.forward(x, "log")
