"""Sparse linear regression with fewer observations than features: what the geometry of an optimizer does.

Many weights fit the data; the path of the optimizer decides among them. Gradient descent goes to the least
Euclidean norm. Mirror descent with asinh(theta/scale), the hypentropy of Ghai, Hazan and Singer,
"Exponentiated Gradient Meets Gradient Descent" (2020), goes towards the least l1 norm as the scale shrinks.
Gradient descent on u² - v² (Woodworth et al., "Kernel and Rich Regimes in Overparametrized Models", 2020)
follows the same flow with twice the parameters. Soft thresholding (ISTA) and lasso have a penalty instead.

All arms hold out the same observations, which choose the iteration where training stops, and ISTA's penalty.
Lasso sees all of them and chooses its penalty by cross-validation.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import arms
import numpy as np
import torch
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LassoCV
from sklearn.preprocessing import PolynomialFeatures
from torch import Tensor, nn
from torch.nn.utils import parametrize

import fastmap as fm
import fastmap.torch as ft
from fastmap.recipes._report import text_table

FEATURES, NONZERO, TRAINING, HELD_OUT, NOISE = 1000, 20, 150, 50, 0.5
SCALE = 1e-8  # of asinh, far below any weight
PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0)  # among which ISTA's is chosen
STEPS = 500


@dataclass(frozen=True)
class Data:
    """A regression problem; the test set has no noise where the truth is known."""

    truth: Tensor | None
    x: Tensor
    y: Tensor
    x_held_out: Tensor
    y_held_out: Tensor
    x_test: Tensor
    y_test: Tensor


def synthetic(seed: int) -> Data:
    """Normal features, a few of which have weights between 0.5 and 2 of either sign."""
    g = torch.Generator().manual_seed(seed)
    truth = torch.zeros(FEATURES)
    chosen = torch.randperm(FEATURES, generator=g)[:NONZERO]
    signs = 2.0 * torch.randint(2, (NONZERO,), generator=g) - 1
    truth[chosen] = signs * (0.5 + 1.5 * torch.rand(NONZERO, generator=g))
    x = torch.randn(TRAINING + HELD_OUT + 1000, FEATURES, generator=g)
    y = x @ truth
    y[: TRAINING + HELD_OUT] += NOISE * torch.randn(TRAINING + HELD_OUT, generator=g)
    return Data(truth, *_split(x, y))


def diabetes(seed: int) -> Data:
    """scikit-learn's diabetes data with all monomials to degree 3: 285 features, 150 + 50 observations."""
    x, y = load_diabetes(return_X_y=True)
    x = PolynomialFeatures(3, include_bias=False).fit_transform(x / x.std(0))
    order = np.random.default_rng(seed).permutation(len(x))
    x, y = x[order], y[order]
    seen = slice(TRAINING + HELD_OUT)
    x = (x - x[seen].mean(0)) / x[seen].std(0)
    y = (y - y[seen].mean()) / y[seen].std()
    return Data(None, *_split(torch.tensor(x).float(), torch.tensor(y).float()))


def _split(x: Tensor, y: Tensor) -> list[Tensor]:
    sizes = [TRAINING, HELD_OUT, len(x) - TRAINING - HELD_OUT]
    return [part for pair in zip(x.split(sizes), y.split(sizes), strict=True) for part in pair]


class Model(nn.Module):
    """y = x theta, for several penalties at once where there is one."""

    def __init__(self, candidates: int, features: int) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(candidates, features))

    def forward(self, x: Tensor) -> Tensor:
        return self.theta @ x.T


class DifferenceOfSquares(nn.Module):
    """theta = u² - v². Gradient flow keeps u v = scale/2, and so follows asinh(theta/scale)."""

    def forward(self, u: Tensor, v: Tensor) -> Tensor:
        return u.square() - v.square()

    def right_inverse(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        root = (theta.square() + SCALE**2).sqrt()
        return ((root + theta) / 2).sqrt(), ((root - theta) / 2).sqrt()


class Fit:
    """A training run that keeps the weights with the least error on the held-out observations."""

    def __init__(self, arm: str | fm.Map, lr: float, data: Data) -> None:
        self.data, self.lr = data, lr
        self.penalties = torch.tensor(PENALTIES)[:, None] if arm == "ista" else None
        self.model = Model(len(PENALTIES) if arm == "ista" else 1, data.x.shape[1])
        if arm == "squares":
            parametrize.register_parametrization(self.model, "theta", DifferenceOfSquares())
        parameters = list(self.model.parameters())
        if isinstance(arm, fm.Map):
            self.optimizer: Any = ft.MirrorDescent(parameters, lr, map=arm)
        else:
            self.optimizer = {"adam": torch.optim.Adam}.get(arm, torch.optim.SGD)(parameters, lr)
        self.steps = 0
        self.held_out = float("inf")
        self.theta = self.model.theta.detach()[0].clone()

    def step(self) -> Tensor:
        data, model = self.data, self.model
        loss = 0.5 * (model(data.x) - data.y).square().mean(-1).sum()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            if self.penalties is not None:
                size = (model.theta.abs() - self.lr * self.penalties).clamp_(min=0)
                model.theta.copy_(size.copysign(model.theta))
            errors = (model(data.x_held_out) - data.y_held_out).square().mean(-1)
            self.steps += 1
            if (best := float(errors.min())) < self.held_out:
                self.held_out, self.theta = best, model.theta[errors.argmin()].clone()
        return loss.detach()


def report(theta: Tensor, data: Data) -> dict[str, Any]:
    """Error relative to that of predicting zero, and how much of the true support was found."""
    loss = (data.x_test @ theta - data.y_test).square().mean() / data.y_test.square().mean()
    result: dict[str, Any] = {"loss": float(loss), "above_0.1": int((theta.abs() > 0.1).sum())}
    if data.truth is not None:
        largest = theta.abs().topk(NONZERO).indices
        result["support"] = int((data.truth[largest] != 0).sum())
    return result


def start(arm: str | fm.Map, lr: float, seed: int) -> arms.Training:
    """An arm on the synthetic problem, then as many steps on the diabetes data."""
    fit = Fit(arm, lr, synthetic(seed))

    def result() -> dict[str, Any]:
        other = Fit(arm, lr, diabetes(seed))
        for _ in range(fit.steps):
            if not other.step().isfinite():
                break
        own = {"held_out": fit.held_out, **report(fit.theta, fit.data)}
        return own | {"diabetes": {"held_out": other.held_out, **report(other.theta, other.data)}}

    return fit.step, result


def lasso(lr: float, seed: int) -> arms.Training:
    """scikit-learn's lasso, its penalty by 5-fold cross-validation over all observations."""

    def solve(data: Data) -> dict[str, Any]:
        x, y = torch.cat([data.x, data.x_held_out]), torch.cat([data.y, data.y_held_out])
        solver = LassoCV(eps=1e-2, cv=5, fit_intercept=False, max_iter=10_000)  # penalties over two decades
        solver.fit(x.double().numpy(), y.double().numpy())
        return report(torch.tensor(solver.coef_).float(), data)

    return lambda: None, lambda: {**solve(synthetic(seed)), "diabetes": solve(diabetes(seed))}


def chosen_on_held_out(record: dict[str, Any]) -> str:
    """Test errors where the held-out error, not the test error, has chosen every seed's learning rate."""
    rows = []
    for name in dict.fromkeys(r["arm"] for r in record["runs"]):
        row = [name]
        for problem in ("synthetic", "diabetes"):
            best: dict[int, dict[str, Any]] = {}  # by seed
            for r in record["runs"]:
                if r["arm"] == name and "diabetes" in r:  # which a run that diverged has not
                    fit = r if problem == "synthetic" else r["diabetes"]
                    best[r["seed"]] = min(best.get(r["seed"], fit), fit, key=lambda f: f.get("held_out", 0.0))
            losses = [fit["loss"] for fit in best.values()]
            row.append(f"{np.median(losses):.3g} ({min(losses):.3g} to {max(losses):.3g})" if best else "-")
            for key in ("support", "above_0.1") if problem == "synthetic" else ("above_0.1",):
                row.append(f"{np.median([fit[key] for fit in best.values()]):.0f}" if best else "-")
        rows.append(tuple(row))
    head = ("synthetic error", f"true of {NONZERO}", "> 0.1", "diabetes error", "> 0.1")
    return text_table(("chosen on held-out data", *head), rows)


EXPERIMENT = arms.Experiment(
    arms=[
        arms.Arm("fastmap: MirrorDescent, Asinh(1e-8)", partial(start, fm.Asinh(SCALE))),
        arms.Arm("fastmap: MirrorDescent, Asinh(1)", partial(start, fm.Asinh(1.0))),
        arms.Arm("gradient descent", partial(start, "descent")),
        arms.Arm("Adam", partial(start, "adam")),
        arms.Arm("gradient + soft threshold", partial(start, "ista")),
        arms.Arm("parametrize: u² - v²", partial(start, "squares")),
        arms.Arm("lasso, cross-validated", lasso, has_rate=False),
    ],
    rates=[0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0],
    steps=STEPS,
    seeds=5,
    failed_above=1.0,
    within=1.25,
    label="test error, relative to predicting zero",
)

if __name__ == "__main__":
    print(chosen_on_held_out(arms.main(EXPERIMENT, __file__)[0]))
