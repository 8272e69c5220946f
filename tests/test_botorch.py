"""`fastmap.botorch`: an input transform by maps, in models of BoTorch."""

from __future__ import annotations

import copy
import pickle
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

import fastmap as fm

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of BoTorch's dependencies
    pytest.importorskip("botorch", reason="not installed: pip install 'fastmap[botorch]'")
    from botorch.acquisition import LogExpectedImprovement
    from botorch.models import SingleTaskGP
    from botorch.models.transforms.input import ChainedInputTransform, Log10, Normalize
    from botorch.optim import optimize_acqf

    from fastmap.botorch import InputTransform

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
X = torch.rand(3, 20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.9 + 0.05
CASES = {
    "one": "interval",
    "each": ["log", fm.Interval(0, 1)],
    "arrays": fm.Interval([0, 0.01], [1, 2]),
    "identity": ["log", "identity"],
}


@pytest.mark.proves("BoTorch", "maps", gradients="twice", device="CPU")
@pytest.mark.parametrize("name", CASES)
def test_it_is_the_map_on_each_input(name: str) -> None:
    given = CASES[name]
    transform = InputTransform(given)
    z = transform(X)
    maps = given if isinstance(given, list) else None
    expected = (
        fm.forward(X, given)
        if maps is None
        else torch.stack([fm.forward(X[..., j], m) for j, m in enumerate(maps)], -1)
    )
    assert torch.equal(z, expected)
    torch.testing.assert_close(transform.untransform(z), X)
    back = InputTransform(given, reverse=True)
    torch.testing.assert_close(back(z), X)
    assert torch.equal(back.untransform(X), z)
    small = X[0, :2].clone().requires_grad_()
    assert torch.autograd.gradcheck(transform, small)
    assert torch.autograd.gradgradcheck(transform, small)


def test_copies_are_equal_and_others_are_not() -> None:
    transform = InputTransform(["log", fm.Interval(0, 1)])
    for again in (copy.deepcopy(transform), pickle.loads(pickle.dumps(transform))):
        assert transform.equals(again)
        assert torch.equal(again(X), transform(X))
    assert not transform.equals(InputTransform(["log", fm.Interval(0, 2)]))
    assert not transform.equals(InputTransform(["log", fm.Interval(0, 1)], reverse=True))
    off = InputTransform("log", transform_on_train=False)
    assert off.train()(X) is X
    assert torch.equal(off.eval()(X), fm.forward(X, "log"))


def test_a_model_is_that_of_botorchs_own_log() -> None:
    """The same model, whether the log of the first input is fastmap's or BoTorch's, but for a factor."""
    x = X[0]
    y = (torch.log(x[:, :1]) - x[:, 1:]).sin()
    query = X[1]
    means = []
    for transform in (InputTransform(["log", "identity"]), Log10(indices=[0])):
        chained = ChainedInputTransform(map=transform, unit=Normalize(d=2))
        model = SingleTaskGP(x, y, input_transform=chained).eval()
        means.append(model.posterior(query).mean)
    torch.testing.assert_close(*means, rtol=1e-6, atol=1e-8)


def test_an_acquisition_function_is_optimized_in_theta() -> None:
    x = torch.logspace(-5, -0.1, 12, dtype=torch.float64)[:, None]
    y = -((torch.log10(x) + 2) ** 2)  # best at 0.01
    chained = ChainedInputTransform(map=InputTransform("log"), unit=Normalize(d=1))
    model = SingleTaskGP(x, y, input_transform=chained)
    torch.manual_seed(0)
    bounds = torch.tensor([[1e-5], [0.8]], dtype=torch.float64)
    acquisition = LogExpectedImprovement(model, best_f=y.max())
    candidate, _ = optimize_acqf(acquisition, bounds, q=1, num_restarts=4, raw_samples=64)
    assert 3e-3 < candidate.item() < 3e-2


def test_what_is_refused() -> None:
    with pytest.raises(TypeError, match="each input the map of its own"):
        InputTransform(fm.Space(a=fm.Param(low=0)))
    with pytest.raises(TypeError, match="each input the map of its own"):
        InputTransform([fm.Simplex(), "log"])
    with pytest.raises(ValueError, match=r"^X: 2 inputs for 3 maps"):
        InputTransform(["log"] * 3)(X)
    with pytest.raises(fm.DomainError, match=r"^X\[\.\.\., 1\]: "):
        InputTransform(["identity", "log"])(-X)
    code = "import sys; sys.modules['botorch'] = None; import fastmap.botorch"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'fastmap[botorch]'" in done.stderr


def test_the_example_of_the_docs() -> None:
    page = (Path(__file__).parents[1] / "docs/search.md").read_text()
    (code,) = (c for c in re.findall(r"```python\n(.*?)```", page, re.S) if "from botorch" in c)
    exec(compile(code, "search.md", "exec"), {"__name__": "example"})
