"""float16 and bfloat16: the float32 result, rounded once, for all 65 536 inputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import fastmap as fm
from fastmap.maps import CLASSES

MAPS = [cls(**example) for cls in CLASSES for example in cls.entry["examples"]]
each_map = pytest.mark.parametrize("m", MAPS, ids=repr)
each_type = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
EVERY = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)


def representable(m: fm.Map, dtype: torch.dtype) -> fm.Map:
    """The map with bounds that the 16-bit type holds, so that both dtypes see the same parameters."""
    return type(m)(*torch.tensor(m.values).to(dtype).double().tolist())


def bits(x: torch.Tensor) -> np.ndarray:
    return x.view(torch.int16).numpy()


@each_type
@each_map
def test_every_input(m: fm.Map, dtype: torch.dtype) -> None:
    x = EVERY.view(dtype)
    if m.values[:2] == (1000.0, 1001.0) and dtype is torch.bfloat16:  # one number there
        with pytest.raises(ValueError, match="high must be above low"):
            fm.inverse(x, m)
        return
    try:
        m = representable(m, dtype)
    except ValueError:  # a positive parameter that is 0 there
        assert min(torch.tensor(m.values).to(dtype)) == 0
        return
    for function, invalid in (("forward", {"invalid": "nan"}), ("inverse", {"invalid": "nan"})):
        got = getattr(fm, function)(x, m, **invalid)
        expected = getattr(fm, function)(x.float(), m, **invalid).to(dtype)
        assert got.dtype == dtype
        assert torch.equal(torch.isnan(got), torch.isnan(expected))
        numbers = ~torch.isnan(expected)
        np.testing.assert_array_equal(bits(got[numbers]), bits(expected[numbers]))
    first, last = m.codomain
    z = x[torch.isfinite(x) & (x.double() > first) & (x.double() < last)]
    theta = fm.inverse(z, m)
    low, high = m.domain
    assert ((theta.double() >= low) & (theta.double() <= high)).all()
    np.testing.assert_array_equal(
        bits(fm.inverse_jacobian(z, m)), bits(fm.inverse_jacobian(z.float(), m).to(dtype))
    )
    grad = z.flip(0).contiguous()
    product = (fm.pullback(grad.float(), z.float(), m)).to(dtype)
    got = fm.pullback(grad, z, m)
    numbers = ~torch.isnan(product)
    np.testing.assert_array_equal(bits(got[numbers]), bits(product[numbers]))


@each_type
def test_every_nan_is_the_quiet_one(dtype: torch.dtype) -> None:
    x = EVERY.view(dtype)
    nans = fm.forward(x, "log", invalid="nan")
    nans = nans[torch.isnan(nans)]
    assert len(set(bits(nans).tolist())) == 1


def test_numpy_float16_is_the_same() -> None:
    x = np.linspace(0.1, 5, 1000, dtype=np.float16).reshape(10, 100)
    expected = np.log(x.astype(np.float64)).astype(np.float16)
    for view in (x, x.T, x[::3, ::7]):
        np.testing.assert_array_equal(fm.forward(view, "log"), fm.forward(np.ascontiguousarray(view), "log"))
    assert fm.forward(x, "log").dtype == np.float16
    np.testing.assert_allclose(fm.forward(x, "log"), expected, rtol=1e-3)
    assert fm.log_abs_det(x, "log").dtype == np.float64
    np.testing.assert_allclose(fm.log_abs_det(x, "log"), -np.log(x.astype(float)).sum(), rtol=1e-6)
    buffer = x.copy()
    fm.forward(buffer, "log", out=buffer)
    np.testing.assert_array_equal(buffer, fm.forward(x, "log"))
    z, total = fm.forward_and_log_det(x, "log")
    np.testing.assert_array_equal(z, buffer)
    assert total == fm.log_abs_det(x, "log")


def test_bounds_round_inwards_to_the_storage_type() -> None:
    """theta stays in the interval that was asked for, although its ends are not float16 numbers."""
    m = fm.Interval(0.1, 0.7)
    theta = fm.inverse(np.linspace(-20, 20, 4001, dtype=np.float16), m)
    assert theta.min() >= 0.1
    assert theta.max() <= 0.7
    assert (
        fm.inverse(torch.tensor([-100.0, 100.0]).bfloat16(), m)
        .double()
        .sub(torch.tensor([0.1, 0.7]))
        .abs()
        .max()
        < 4e-3
    )


@each_type
def test_long_buffers_stream_and_gradients_flow(dtype: torch.dtype) -> None:
    x = (torch.rand(20_000_003) + 0.1).to(dtype)
    z = fm.forward(x, "log")
    part = fm.forward(x[-1000:].clone(), "log")
    assert torch.equal(z[-1000:], part)
    assert torch.equal(fm.forward(x[1:], "log"), z[1:])
    leaf = torch.tensor([0.5, 2.0], dtype=dtype, requires_grad=True)
    fm.forward(leaf, "log").sum().backward()
    assert leaf.grad is not None
    assert leaf.grad.tolist() == [2.0, 0.5]
    with pytest.raises(fm.DomainError, match=r"first at index 1 \(value -2.0\)"):
        fm.forward(torch.tensor([1.0, -2.0], dtype=dtype), "log")
