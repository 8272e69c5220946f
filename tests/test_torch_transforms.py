"""Second order, forward mode, torch.func, torch.compile and torch.export."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import fastmap as fm

# The forward mode of torch compiles its own decompositions with torch.jit.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")

MAPS = [
    fm.Log(),
    fm.Softplus(beta=2.0),
    fm.Interval(-1, 2),
    fm.Chain("log", fm.Affine(1, 2)),
    fm.Interval(np.zeros(5), np.full(5, 2.0)),
]
each_map = pytest.mark.parametrize("m", MAPS, ids=lambda m: type(m).__name__ + str(m.shape))
OPS = ["forward", "inverse", "jacobian", "inverse_jacobian", "log_abs_det", "inverse_log_abs_det"]
each_op = pytest.mark.parametrize("op", OPS)


def inputs(op, dtype=torch.float64):
    x = torch.linspace(0.2, 0.9, 15, dtype=dtype).reshape(3, 5)
    return x if not op.startswith("inverse") else x - 0.5


@pytest.mark.proves("torch", "maps", gradients="forward mode")
@pytest.mark.proves("torch", "derivatives", gradients="forward mode")
@pytest.mark.proves("torch", "sums", gradients="forward mode")
@each_op
@each_map
def test_gradients_of_both_modes_and_both_orders(m, op):
    x = inputs(op).requires_grad_()

    def function(x):
        return getattr(fm, op)(x, m)

    assert torch.autograd.gradcheck(function, x, check_forward_ad=True, check_batched_grad=True)
    if op in ("forward", "inverse"):
        assert torch.autograd.gradgradcheck(function, x, check_fwd_over_rev=True)


@pytest.mark.proves("torch", "pullback", gradients="forward mode")
@each_map
def test_the_gradients_of_a_pullback(m):
    z, g = inputs("inverse").requires_grad_(), torch.ones(3, 5, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda g, z: fm.pullback(g, z, m), (g, z), check_forward_ad=True)


@pytest.mark.proves("torch", "maps", gradients="`torch.func`")
@pytest.mark.proves("torch", "derivatives", gradients="`torch.func`")
@pytest.mark.proves("torch", "sums", gradients="`torch.func`")
@each_op
@each_map
def test_transforms_of_torch_func(m, op):
    x = inputs(op)

    def function(x):
        return getattr(fm, op)(x, m)

    batched = torch.func.vmap(function)(x)
    expected = torch.stack([function(row) for row in x])
    assert torch.equal(batched, expected)
    by_column = torch.func.vmap(function, in_dims=1) if m.shape == () else None
    if by_column is not None:
        assert torch.equal(by_column(x), torch.stack([function(column) for column in x.T]))
    jacobian = torch.func.jacrev(function)(x[0])
    torch.testing.assert_close(torch.func.jacfwd(function)(x[0]), jacobian)
    torch.testing.assert_close(torch.autograd.functional.jacobian(function, x[0]), jacobian)
    per_row = torch.func.vmap(torch.func.grad(lambda row: function(row).sum()))(x)
    y = x.clone().requires_grad_()
    function(y).sum().backward()
    torch.testing.assert_close(per_row, y.grad)


def test_under_a_transform_a_bad_value_is_nan():
    x = torch.tensor([[1.0, -1.0]])
    assert torch.func.vmap(lambda t: fm.forward(t, "log"))(x).isnan().tolist() == [[False, True]]
    with pytest.raises(fm.DomainError):
        torch.func.vmap(lambda t: fm.forward(t, "log", invalid="raise"))(x)


@pytest.fixture
def fresh_compiler():
    """torch limits how often it compiles one function anew."""
    torch._dynamo.reset()


@pytest.mark.proves("torch", "maps", compiled="`torch.compile`")
@pytest.mark.proves("torch", "derivatives", compiled="`torch.compile`")
@pytest.mark.proves("torch", "sums", compiled="`torch.compile`")
@each_op
@each_map
@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_whole(m, op):
    def function(x):
        return getattr(fm, op)(x * 1.0, m) * 2

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    x, y = inputs(op).requires_grad_(), inputs(op).requires_grad_()
    got, expected = compiled(x), function(y)
    assert torch.equal(got, expected)
    got.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-15, atol=0)


@pytest.mark.proves("torch", "pullback", compiled="`torch.compile`")
@each_map
@pytest.mark.usefixtures("fresh_compiler")
def test_a_compiled_pullback(m):
    z, g = inputs("inverse"), inputs("forward")
    compiled = torch.compile(lambda g, z: fm.pullback(g, z, m) * 2, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(g, z), fm.pullback(g, z, m) * 2)


def test_compiled_by_inductor_with_bad_values():
    compiled = torch.compile(lambda x: fm.forward(x, "log") + 1, fullgraph=True)
    got = compiled(torch.tensor([1.0, -1.0, np.e]))
    torch.testing.assert_close(got, torch.tensor([1.0, torch.nan, 2.0]), equal_nan=True)


@pytest.mark.parametrize("op", ["forward", "inverse"])
def test_the_operators_pass_the_checks_of_torch(op):
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        x = inputs(op, torch.float64).to(dtype).requires_grad_()
        args = (x, op, "x", '{"map": "log"}' if op == "forward" else '{"map": "softplus"}', 1)
        torch.library.opcheck(torch.ops.fastmap.elementwise, args)
        log_op = "log_abs_det" if op == "forward" else "inverse_log_abs_det"
        torch.library.opcheck(torch.ops.fastmap.log_det, (x, log_op, "x", '{"map": "log"}', [1], 1))


@pytest.mark.proves("torch", "maps", compiled="`torch.export`")
def test_export():
    class Scale(torch.nn.Module):
        def forward(self, z):
            return fm.inverse(z, fm.Softplus(low=0.1))

    z = torch.linspace(-3, 3, 7)
    program = torch.export.export(Scale(), (z,))
    assert torch.equal(program.module()(z), fm.inverse(z, fm.Softplus(low=0.1)))
    assert "fastmap.elementwise" in str(program.graph)
