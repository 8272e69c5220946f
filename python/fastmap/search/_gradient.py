"""Gradient methods on z: the optimizers of torch, and SciPy's L-BFGS-B."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from fastmap import _functional
from fastmap._extras import need
from fastmap.search._axes import Axes, Axis, python
from fastmap.search._engine import Calls, Finished, Outcome, Point, Setup


def gradient_in_theta(raw: Any, axes: Axes) -> dict[str, Any]:
    """The gradients by name of an objective that returns (loss, gradients)."""
    gradients = raw[1]
    if not isinstance(gradients, Mapping) or set(gradients) != set(axes):
        raise TypeError(f"objective: with jac=True it returns (loss, dict of gradients of {', '.join(axes)})")
    for name, value in gradients.items():
        if np.shape(value) != axes[name].param.shape:
            raise TypeError(f"objective: the gradient of {name} has shape {np.shape(value)}")
    return dict(gradients)


def tensors(axes: Axes, z: Mapping[str, Any]) -> dict[str, Any]:
    """theta = f⁻¹(z) inside the graph; boxed parameters stay in their box."""
    theta = {name: _functional.inverse(z[name], axis.map) for name, axis in axes.items()}
    for name, axis in axes.items():
        if axis.boxed and not axis.param.has_rows:
            theta[name] = _pinned(theta[name], *axis.param.box)
    return theta


def _pinned(theta: Any, low: float, high: float) -> Any:
    """theta moved into the box, which rounding may leave by an ULP; the gradient passes as it is."""
    inside = theta.detach().clamp(low, high)
    return theta + (inside - theta.detach())


def _checked(loss: Any) -> Any:
    if not getattr(loss, "requires_grad", False):
        raise TypeError(
            "objective: a gradient method needs a torch scalar that depends on theta, or jac=True"
        )
    return loss


class Torch:
    """An optimizer of ``torch.optim`` on z. Options: its own."""

    def __init__(self, setup: Setup, name: str) -> None:
        torch = need("torch", "torch")
        self.axes, self.jac = setup.axes, setup.jac
        self.z = {name: _leaf(torch, axis, setup.start) for name, axis in self.axes.items()}
        options = {"lr": setup.lr, "maximize": setup.signs[0] < 0, **setup.options}
        self.optimizer = getattr(torch.optim, name)(list(self.z.values()), **options)
        self.over: str | None = None

    def ask(self) -> Point:
        if self.over is not None:
            raise Finished(self.over)
        self.optimizer.zero_grad()
        z = {name: value.detach() for name, value in self.z.items()}
        if self.jac:
            values = {name: value.numpy() for name, value in z.items()}
            theta = {name: np.asarray(axis.theta(values[name])) for name, axis in self.axes.items()}
            return Point({name: python(value) for name, value in theta.items()}, z)
        return Point(tensors(self.axes, self.z), z)

    def tell(self, point: Point, outcome: Outcome) -> None:
        if outcome.state != "COMPLETE":
            self.over = "no gradient to follow from an evaluation that failed"
            return
        if self.jac:
            for name, gradient in gradient_in_theta(outcome.raw, self.axes).items():
                z = self.z[name]
                like = np.asarray(gradient, z.detach().numpy().dtype)
                pulled = _functional.pullback(like, z.detach().numpy(), self.axes[name].map)
                z.grad = need("torch", "torch").as_tensor(pulled)
        else:
            _checked(outcome.raw).backward()
        self.optimizer.step()
        for name, part in self.axes.items():
            if part.boxed:
                self.z[name].data.clamp_(*part.param.z_box)

    def close(self) -> None:
        return None


def _leaf(torch: Any, axis: Axis, start: Mapping[str, Any]) -> Any:
    """The z tensor to start from: f(init), else the middle of the box, else 0."""
    name, param = axis.name, axis.param
    init = start.get(name, param.init)
    dtype = _dtype(torch, axis, init)
    if init is None:
        middle = np.add(*param.z_box) / 2 if axis.boxed else 0.0
        return torch.tensor(np.broadcast_to(middle, param.z_shape).copy(), dtype=dtype).requires_grad_()
    theta = torch.as_tensor(init)
    if tuple(theta.shape) != param.shape:
        raise ValueError(f"init: {name} has shape {tuple(theta.shape)}, not {param.shape}")
    if param.has_rows:
        z = torch.as_tensor(axis.z(theta.detach().cpu().double().numpy()))
        return z.to(dtype).requires_grad_()
    if axis.boxed and bool(((theta < param.box[0]) | (theta > param.box[1])).any()):
        raise ValueError(f"init: {name} is outside the box [{param.box[0]:g}, {param.box[1]:g}]")
    return _functional.forward(theta.detach().to(dtype).clone(), axis.map).requires_grad_()


def _dtype(torch: Any, axis: Axis, init: Any) -> Any:
    """The dtype in which an objective gets theta: the parameter's own, that of `init`, torch's default."""
    if axis.param.dtype is not None:
        return getattr(torch, axis.param.dtype.name)
    if init is None:
        return torch.get_default_dtype()
    theta = torch.as_tensor(init)
    return theta.dtype if theta.is_floating_point() and theta.ndim else torch.get_default_dtype()


class LBFGS:
    """SciPy's L-BFGS-B on a flat float64 z; torch objectives get theta as other gradient methods give it.

    Options: those of its ``options``.

    An evaluation that fails counts as a very high loss, from which the line search steps back.
    """

    def __init__(self, setup: Setup) -> None:
        optimize = need("scipy.optimize", "search")
        self.axes, self.jac, self.sign = setup.axes, setup.jac, setup.signs[0]
        start = self.axes.start(setup.start)
        if not self.jac:
            torch = need("torch", "torch")
            self.dtypes = {
                name: _dtype(torch, axis, setup.start.get(name, axis.param.init))
                for name, axis in self.axes.items()
            }
        bounds = optimize.Bounds(self.axes.low, self.axes.high)
        options = {"maxiter": sys.maxsize >> 32, "maxfun": sys.maxsize >> 32, **setup.options}
        self.worst: float | None = None
        self.over: str | None = None

        def run(function: Any) -> str:
            found = optimize.minimize(
                function, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options
            )
            return f"L-BFGS: {found.message}"

        self.calls = Calls(run)

    def ask(self) -> Point:
        if self.over is not None:
            raise Finished(self.over)
        flat = np.clip(self.calls.ask(), self.axes.low, self.axes.high)
        z = self.axes.split(flat)
        if self.jac:
            return Point(self.axes.theta(z), z)
        torch = need("torch", "torch")
        leaves = {name: torch.from_numpy(value.copy()).requires_grad_() for name, value in z.items()}
        theta = tensors(self.axes, leaves)
        return Point({name: value.to(self.dtypes[name]) for name, value in theta.items()}, z, leaves)

    def tell(self, point: Point, outcome: Outcome) -> None:
        size = self.axes.low.size
        if outcome.state != "COMPLETE":
            if self.worst is None:
                self.over = "no gradient to follow from an evaluation that failed"
                return
            self.calls.tell((self.worst + 1e3 * (1 + abs(self.worst)), np.zeros(size)))
            return
        if self.jac:
            given = gradient_in_theta(outcome.raw, self.axes)
            pulled = {
                name: _functional.pullback(np.asarray(given[name], np.float64), point.z[name], axis.map)
                for name, axis in self.axes.items()
            }
        else:
            _checked(outcome.raw).backward()
            pulled = {
                name: np.zeros(tuple(leaf.shape)) if leaf.grad is None else leaf.grad.numpy()
                for name, leaf in zip(self.axes, point.handle.values(), strict=True)
            }
        gradient = np.concatenate([np.ravel(pulled[name]) for name in self.axes])
        loss = self.sign * outcome.losses[0]
        self.worst = loss if self.worst is None else max(self.worst, loss)
        self.calls.tell((loss, self.sign * gradient))

    def close(self) -> None:
        self.calls.close()
