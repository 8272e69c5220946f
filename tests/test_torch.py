"""The public functions on torch tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import fastmap as fm
from fastmap.maps import CLASSES

MAPS = [cls(**example) for cls in CLASSES for example in cls.entry["examples"]]
each_map = pytest.mark.parametrize("m", MAPS, ids=repr)


def inside(m: fm.Map, shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """theta well inside the domain."""
    low, high = m.domain
    low, high = max(low, -4.0), min(high, max(low, -4.0) + 5.0)
    generator = torch.Generator().manual_seed(0)
    unit = torch.rand(shape, dtype=torch.float64, generator=generator)
    return (low + (high - low) * (0.05 + 0.9 * unit)).to(dtype)


def moderate(m: fm.Map, shape: tuple[int, ...]) -> torch.Tensor:
    """theta well inside the domain, with a moderate z if it has one: finite differences mean something."""
    reached = m.forward(inside(m, (1000,)))
    low, high = float(reached.min()), float(reached.max())
    if low < 2 and high > -2:
        low, high = max(low, -2.0), min(high, 2.0)
    unit = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return m.inverse(low + (high - low) * unit)


@pytest.mark.proves("torch", "pullback", device="CPU")
@pytest.mark.proves("torch", "maps", device="CPU")
@pytest.mark.proves("torch", "derivatives", device="CPU")
@pytest.mark.proves("torch", "sums", device="CPU")
@each_map
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_same_bits_as_numpy(m: fm.Map, dtype: torch.dtype) -> None:
    theta = inside(m, (7, 5), dtype)
    for function in (fm.forward, fm.jacobian, fm.log_abs_det):
        result = function(theta, m)
        assert isinstance(result, torch.Tensor)
        np.testing.assert_array_equal(result.numpy(), function(theta.numpy(), m))
    z = fm.forward(theta, m)
    for function in (fm.inverse, fm.inverse_jacobian, fm.inverse_log_abs_det):
        np.testing.assert_array_equal(function(z, m).numpy(), function(z.numpy(), m))
    np.testing.assert_array_equal(fm.pullback(theta, z, m).numpy(), fm.pullback(theta.numpy(), z.numpy(), m))
    for value, total in (fm.forward_and_log_det(theta, m), fm.inverse_and_log_det(z, m)):
        assert value.dtype == dtype
        assert total.dtype == torch.float64
    assert fm.log_abs_det(theta, m, axis=0).shape == (5,)
    assert fm.forward(theta.T, m).stride() == theta.T.stride()
    np.testing.assert_array_equal(fm.forward(theta[::2, 1:], m).numpy(), z[::2, 1:].numpy())


@pytest.mark.proves("torch", "pullback", gradients="once")
@pytest.mark.proves("torch", "maps", gradients="twice")
@pytest.mark.proves("torch", "derivatives", gradients="once")
@pytest.mark.proves("torch", "sums", gradients="once")
@each_map
def test_gradients_to_second_order(m: fm.Map) -> None:
    theta = moderate(m, (3, 2)).requires_grad_()
    z = fm.forward(theta.detach(), m).requires_grad_()
    for function, x in ((fm.forward, theta), (fm.inverse, z)):
        assert torch.autograd.gradcheck(lambda t, f=function: f(t, m), (x,))
        assert torch.autograd.gradgradcheck(lambda t, f=function: f(t, m), (x,))
    for function, x in (
        (fm.jacobian, theta),
        (fm.inverse_jacobian, z),
        (fm.log_abs_det, theta),
        (fm.inverse_log_abs_det, z),
        (lambda t, m: fm.log_abs_det(t, m, axis=1), theta),
        (lambda t, m: fm.log_abs_det(t, m, axis=()), theta),
        (fm.forward_and_log_det, theta),
        (fm.inverse_and_log_det, z),
        (lambda t, m: fm.pullback(t * t, t, m), z),
    ):
        assert torch.autograd.gradcheck(lambda t, f=function: f(t, m), (x,))


def test_third_derivatives_say_that_they_are_not_there() -> None:
    theta = torch.tensor([0.5, 2.0], requires_grad=True)
    (first,) = torch.autograd.grad(fm.log_abs_det(theta, "log"), theta, create_graph=True)
    with pytest.raises(NotImplementedError, match="differentiable twice"):
        torch.autograd.grad(first.sum(), theta)


def test_first_order_gradient_is_the_fused_pullback() -> None:
    z = torch.randn(1000, requires_grad=True)
    grad = torch.randn(1000)
    fm.inverse(z, "softplus").backward(grad)
    assert z.grad is not None
    assert torch.equal(z.grad, fm.pullback(grad, z.detach(), "softplus"))


def test_out_bumps_the_version_so_that_autograd_notices() -> None:
    theta = torch.rand(5) + 0.1
    saved = theta.clone().requires_grad_()
    product = saved * theta
    fm.forward(theta, "log", out=theta)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()


def test_domain_errors_and_policies() -> None:
    theta = torch.tensor([[1.0, -1.0], [2.0, float("nan")]])
    before = theta.clone()
    with pytest.raises(fm.DomainError, match="theta: 2 of 4") as caught:
        fm.forward(theta, "log", out=theta)
    assert caught.value.index == (0, 1)
    assert torch.equal(theta[0], before[0])
    assert torch.isnan(fm.forward(theta, "log", invalid="nan")).tolist() == [[False, True], [False, True]]
    with pytest.raises(fm.DomainError):
        fm.forward(theta.requires_grad_(), "log")


def refusals() -> dict[str, tuple[type[Exception], str, object]]:
    """Name -> (error, what its message starts with, the call)."""
    x = torch.ones(4, 6)
    tracked = torch.ones(4, 6, requires_grad=True)
    base = torch.ones(30)
    with torch.inference_mode():
        inference = torch.ones(4, 6)
    wide = torch.ones(4, 12)[:, ::2]
    return {
        "float8": (
            TypeError,
            "theta: dtype torch.float8",
            lambda: fm.forward(x.to(torch.float8_e5m2), "log"),
        ),
        "int": (TypeError, "theta: dtype torch.int64", lambda: fm.forward(x.long(), "log")),
        "complex": (TypeError, "theta: dtype torch.complex64", lambda: fm.forward(x + 0j, "log")),
        "device": (ValueError, "theta: device meta", lambda: fm.forward(x.to("meta"), "log")),
        "sparse": (TypeError, "theta: layout", lambda: fm.forward(x.to_sparse(), "log")),
        "negative bit": (
            TypeError,
            "theta: has the negative bit",
            lambda: fm.forward(torch.conj(torch.ones(3) * 1j).imag, "log"),
        ),
        "out kind": (TypeError, "out: expected a torch tensor", lambda: fm.forward(x, "log", out=x.numpy())),
        "out dtype": (TypeError, "out: dtype", lambda: fm.forward(x, "log", out=x.double())),
        "out shape": (ValueError, "out: shape", lambda: fm.forward(x, "log", out=x[:2].clone())),
        "out device": (ValueError, "out: device", lambda: fm.forward(x, "log", out=x.to("meta"))),
        "expanded": (ValueError, "out: ", lambda: fm.forward(x, "log", out=torch.ones(1, 6).expand(4, 6))),
        "strided": (ValueError, "out: the array is not contiguous", lambda: fm.forward(x, "log", out=wide)),
        "overlap": (ValueError, "out: overlaps theta", lambda: fm.forward(base[:20], "log", out=base[1:21])),
        "tracked": (RuntimeError, "out: cannot be used", lambda: fm.forward(tracked, "log", out=x)),
        "tracked out": (RuntimeError, "out: requires grad", lambda: fm.forward(x, "log", out=tracked)),
        "inference out": (
            RuntimeError,
            "out: is an inference tensor",
            lambda: fm.forward(x, "log", out=inference),
        ),
        "grad kind": (TypeError, "grad_theta: expected a torch", lambda: fm.pullback(x.numpy(), x, "log")),
        "grad dtype": (TypeError, "grad_theta: dtype", lambda: fm.pullback(x.double(), x, "log")),
        "grad shape": (ValueError, "grad_theta: shape", lambda: fm.pullback(x[0], x, "log")),
    }


@pytest.mark.parametrize("name", refusals())
def test_refusal_names_the_argument(name: str) -> None:
    error, message, call = refusals()[name]
    with pytest.raises(error, match=rf"^{message}"):
        call()


def test_writing_under_no_grad_and_parameters() -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    with torch.no_grad():
        fm.forward(parameter.detach(), "log", out=parameter.data)
    assert parameter.tolist() == [0.0, 0.0, 0.0]
    assert fm.inverse(parameter, "log").grad_fn is not None


def test_functorch_grad() -> None:
    theta = torch.tensor([0.5, 2.0], dtype=torch.float64)
    slope = torch.func.grad(lambda t: fm.forward(t, "log").sum())(theta)
    torch.testing.assert_close(slope, 1 / theta)


# Dynamo looks at .grad of what comes back after a graph break.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_compiled_function_falls_back_to_eager() -> None:
    @torch.compile(backend="eager")
    def loss(z: torch.Tensor) -> torch.Tensor:
        return (fm.inverse(z, "softplus") ** 2).sum()

    z = torch.randn(10, requires_grad=True)
    expected = (torch.nn.functional.softplus(z) ** 2).sum()
    torch.testing.assert_close(loss(z), expected)


@each_map
def test_policies_of_the_other_operations(m: fm.Map) -> None:
    theta = np.sort(moderate(m, (50,)).numpy())
    z = m.forward(theta)
    for x, prefix in ((theta, ""), (z, "inverse_")):
        bad = x.copy()
        bad[[3, 5]] = np.nan
        keep = np.delete(np.arange(50), [3, 5])
        for op in (f"{prefix}jacobian", f"{prefix}log_abs_det"):
            axis = {"axis": ()} if op.endswith("det") else {}
            function = getattr(fm, op)
            for kind in (np.asarray, torch.from_numpy):
                with pytest.raises(fm.DomainError, match=f"^{'z' if prefix else 'theta'}: 2 of 50"):
                    function(kind(bad), m, **axis)
                got = np.asarray(function(kind(bad), m, invalid="nan", **axis))
                assert np.isnan(got[[3, 5]]).all()
                np.testing.assert_array_equal(got[keep], function(x[keep], m, **axis))
        direction = "inverse" if prefix else "forward"
        for kind in (np.asarray, torch.from_numpy):
            values, total = getattr(fm, f"{direction}_and_log_det")(kind(bad), m, invalid="nan")
            assert np.isnan(float(total))
            assert np.isnan(np.asarray(values)[[3, 5]]).all()
            assert np.isnan(float(getattr(fm, f"{prefix}log_abs_det")(kind(bad), m, invalid="nan")))
    bad = z.copy()
    bad[7] = np.nan
    for kind in (np.asarray, torch.from_numpy):
        assert np.isnan(np.asarray(fm.pullback(kind(theta), kind(bad), m, invalid="nan"))).sum() == 1
    ends = np.array([-np.inf, np.inf])
    clipped = fm.log_abs_det(ends, m, axis=(), invalid="clip")
    assert np.isfinite(fm.forward(ends, m, invalid="clip")).all()
    # A bound that belongs to the domain may have an infinite slope.
    assert np.isfinite(clipped).all() or (m.entry["closed"] and not np.isnan(clipped).any())


def unaligned(x: torch.Tensor) -> torch.Tensor:
    """The same tensor at an odd address, as in a file whose header has an odd length."""
    raw = bytearray(x.nbytes + 1)
    result = torch.frombuffer(raw, dtype=x.dtype, count=x.numel(), offset=1).reshape(x.shape)
    assert result.data_ptr() % x.element_size()
    return result.copy_(x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("n", [1, 3, 1000, 5 << 21])
def test_tensors_at_odd_addresses(dtype: torch.dtype, n: int) -> None:
    import fastmap.torch as ft

    theta = inside(fm.Log(), (n,), dtype)
    z = fm.forward(theta, "log")
    x, out = unaligned(theta), unaligned(torch.zeros_like(theta))
    assert torch.equal(fm.forward(x, "log"), z)
    assert torch.equal(fm.forward(x, "log", out=out), z)
    assert torch.equal(fm.forward(x, "log", out=x), z)
    if n > 1000:
        return
    params = [torch.nn.Parameter(theta.clone()), torch.nn.Parameter(unaligned(theta))]
    optimizer = ft.Adam(params, 0.1, map="log")
    for _ in range(2):
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.step()
    assert torch.equal(*params)
