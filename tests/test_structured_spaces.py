"""Parameters of a space whose maps are structured: theta and z differ in size, everywhere in a search."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fastmap as fm
import fastmap.scipy
from fastmap import _structured

MAPS = [cls() for cls in _structured.CLASSES.values()]
every_map = pytest.mark.parametrize("m", MAPS, ids=lambda m: m.name)
WANTED = np.array([0.6, 0.3, 0.1])
SIMPLEX = fm.Param(map="simplex", shape=3)
IN_A_BOX = fm.Param(map="simplex", shape=3, z_range=(-5, 5))


def mixed_space(m: fm.StructuredMap) -> fm.Space:
    row = (3,) if m.theta_axes == 1 else (3, 3)
    return fm.Space(
        scale=fm.Param(map="log"), rows=fm.Param(map=m, shape=(2, *row)), free=fm.Param(shape=(2, 2))
    )


def flat_z(space: fm.Space) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).normal(size=space.z_size)


@every_map
def test_one_buffer_is_its_parameters(m: fm.StructuredMap) -> None:
    space = mixed_space(m)
    z = flat_z(space)
    parts = space.unravel_z(z)
    assert {name: part.shape for name, part in parts.items()} == {n: p.z_shape for n, p in space.items()}
    theta = fm.inverse(z, space)
    assert theta.shape == (space.size,)
    for name, value in space.unravel(theta).items():
        assert np.array_equal(value, fm.inverse(parts[name], space[name].gradient_map)), name
    by_name = fm.inverse(parts, space)
    assert all(np.array_equal(by_name[n], v) for n, v in space.unravel(theta).items())
    assert np.array_equal(space.ravel(by_name), theta)
    back = fm.forward(theta, space)
    assert np.array_equal(
        back, np.concatenate([fm.forward(by_name[n], space.maps[n]).ravel() for n in space])
    )
    np.testing.assert_allclose(back, z, atol=1e-9)
    for function, x in ((fm.inverse_log_abs_det, z), (fm.log_abs_det, theta)):
        values = space.unravel_z(x) if x is z else space.unravel(x)
        total = sum(float(function(values[n], space.maps[n])) for n in space)
        assert float(function(x, space)) == pytest.approx(total, rel=1e-15)
    value, total = fm.inverse_and_log_det(z, space)
    assert np.array_equal(value, theta)
    assert total == fm.inverse_log_abs_det(z, space, axis=())  # the whole buffer is one row
    grad = np.random.default_rng(1).normal(size=space.size)
    pulled = space.unravel_z(fm.pullback(grad, z, space))
    for name, g in space.unravel(grad).items():
        assert np.array_equal(pulled[name], fm.pullback(g, parts[name], space.maps[name])), name


@every_map
def test_autograd_through_one_buffer(m: fm.StructuredMap) -> None:
    space = mixed_space(m)
    z = torch.tensor(flat_z(space), requires_grad=True)
    assert torch.equal(fm.inverse(z.detach(), space), torch.tensor(fm.inverse(z.detach().numpy(), space)))
    assert torch.autograd.gradcheck(lambda z: (fm.inverse(z, space), fm.inverse_log_abs_det(z, space)), (z,))
    theta = fm.inverse(z, space)
    grad = torch.randn_like(theta)
    (expected,) = torch.autograd.grad(theta, z, grad)
    assert torch.equal(fm.pullback(grad, z.detach(), space), expected)
    assert torch.equal(torch.func.vmap(lambda z: fm.inverse(z, space))(z.detach()[None])[0], theta.detach())


def test_one_buffer_inside_compile() -> None:
    space = mixed_space(fm.Simplex())
    z = torch.tensor(flat_z(space), requires_grad=True)

    def both(z: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return fm.forward(fm.inverse(z, space), space), *fm.inverse_and_log_det(z, space)

    expected = both(z)  # which makes the map of the space, as a graph cannot
    results = torch.compile(both, fullgraph=True, backend="aot_eager")(z)
    assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))
    grads = [torch.autograd.grad(sum(x.square().sum() for x in found), z)[0] for found in (results, expected)]
    assert torch.allclose(*grads, rtol=1e-13)


def test_out_of_one_buffer() -> None:
    space = mixed_space(fm.Simplex())
    z = flat_z(space)
    theta = fm.inverse(z, space)
    out = np.empty(space.size)
    assert fm.inverse(z, space, out=out) is out
    assert np.array_equal(out, theta)
    tensor = torch.empty(space.size, dtype=torch.float64)
    version = tensor._version
    assert fm.inverse(torch.tensor(z), space, out=tensor) is tensor
    assert np.array_equal(tensor.numpy(), theta)
    assert tensor._version > version
    grad = np.ones(space.size)
    out = np.empty(space.z_size)
    assert fm.pullback(grad, z, space, out=out) is out
    assert np.array_equal(out, fm.pullback(grad, z, space))
    with pytest.raises(ValueError, match="out: shape"):
        fm.inverse(z, space, out=np.empty(space.z_size))
    with pytest.raises(RuntimeError, match="out: cannot be used while"):
        fm.inverse(torch.tensor(z, requires_grad=True), space, out=tensor)
    buffer = np.zeros(space.size + 1)
    with pytest.raises(ValueError, match="out: overlaps"):
        fm.inverse(buffer[: space.z_size], space, out=buffer[1:])


def test_what_is_wrong_with_one_buffer_is_named() -> None:
    space = mixed_space(fm.Simplex())
    with pytest.raises(ValueError, match=r"theta: shape \(9,\) differs from \(11,\) of the space"):
        fm.forward(np.ones(space.z_size), space)
    with pytest.raises(ValueError, match=r"z: shape \(11,\) differs from \(9,\) of the space"):
        fm.inverse(np.ones(space.size), space)
    theta = fm.inverse(flat_z(space), space)
    theta[2] += 0.1
    with pytest.raises(fm.DomainError, match=r"theta\[1:7\]: 1 of 2 rows is not positive") as error:
        fm.forward(theta, space)
    assert error.value.index == (0,)
    z = fm.forward(theta, space, invalid="nan")
    assert np.isnan(z).tolist() == [False, True, True] + 6 * [False]
    with pytest.raises(ValueError, match="no nearest valid row to clip to"):
        fm.forward(theta, space, invalid="clip")
    with pytest.raises(TypeError, match="no derivative per element"):
        fm.jacobian(theta, space)
    with pytest.raises(TypeError, match="16 bits"):
        fm.forward(theta.astype(np.float16), space)
    with pytest.raises(ValueError, match=r"flat: shape \(11,\) differs from \(9,\)"):
        space.unravel_z(theta)


@every_map
def test_json(m: fm.StructuredMap, tmp_path: Path) -> None:
    space = mixed_space(m)
    assert fm.Space.from_json(space.to_json()) == space
    flat = space.flat_map
    assert fm.Map.from_json(flat.to_json()) == flat
    assert pickle.loads(pickle.dumps(flat)) == flat
    toml = tmp_path / "space.toml"
    toml.write_text(
        f"version = 1\n[params.rows]\nmap = '{m.name}'\nshape = {list(space['rows'].shape)}\n"
        "z_range = [-5, 5]\n"
    )
    assert fm.Space.load(toml)["rows"] == fm.Param(map=m, shape=space["rows"].shape, z_range=(-5, 5))
    assert "z_range" not in space["rows"].to_json()  # storages of before it was there stay valid


def distance(p: dict[str, Any]) -> Any:
    return ((p["mix"] - (torch.tensor(WANTED) if hasattr(p["mix"], "detach") else WANTED)) ** 2).sum()


@pytest.mark.parametrize(
    ("method", "budget", "within"),
    [
        ("cmaes", 300, 1e-4),
        ("sep-cmaes", 300, 1e-3),
        ("pgpe", 400, 0.05),
        ("es", 400, 0.1),
        ("lbfgs", 50, 1e-4),
        ("adam", 400, 1e-4),
    ],
)
@pytest.mark.parametrize("param", [SIMPLEX, IN_A_BOX], ids=["free", "box"])
def test_methods_that_need_no_box(method: str, budget: int, within: float, param: fm.Param) -> None:
    found = fm.minimize(distance, fm.Space(mix=param), method=method, budget=budget, seed=0)
    best = np.asarray(torch.as_tensor(found.best["mix"]).detach())
    assert best.shape == (3,)
    assert np.abs(best - WANTED).max() < within
    assert best.sum() == pytest.approx(1, abs=1e-6)
    assert found.history[0].z["mix"].shape == (2,)


@pytest.mark.parametrize("method", ["random", "sobol", "tpe", "gp", "cmaes", "ga", "hyperband", "asha", "de"])
def test_methods_that_search_a_box(method: str) -> None:
    found = fm.minimize(
        distance, fm.Space(mix=IN_A_BOX, other=fm.Param(0, 1)), method=method, budget=30, seed=0
    )
    for record in found.history:
        assert record.theta["mix"].sum() == pytest.approx(1, abs=1e-12)
        assert record.z["mix"].shape == (2,)
        assert (np.abs(record.z["mix"]) <= 5).all()
        assert np.array_equal(fm.inverse(record.z["mix"], "simplex"), record.theta["mix"])
    if method != "cmaes":
        with pytest.raises(ValueError, match=r"mix: z_range: this method searches a box.*take cmaes"):
            fm.minimize(distance, fm.Space(mix=SIMPLEX), method=method, budget=3)


@pytest.mark.parametrize("method", ["lbfgs", "adam"])
def test_gradients_of_your_own(method: str) -> None:
    def with_gradient(p: dict[str, Any]) -> Any:
        return float(distance(p)), {"mix": 2 * (p["mix"] - WANTED)}

    found = fm.minimize(with_gradient, fm.Space(mix=SIMPLEX), method=method, jac=True, budget=400)
    assert np.abs(np.asarray(found.best["mix"]) - WANTED).max() < 1e-3
    with pytest.raises(TypeError, match=r"the gradient of mix has shape \(2,\)"):
        fm.minimize(
            lambda p: (0.0, {"mix": np.zeros(2)}), fm.Space(mix=SIMPLEX), method=method, jac=True, budget=3
        )


def test_mixed_and_auto() -> None:
    space = fm.Space(mix=SIMPLEX, width=fm.Param(1, 4, integer=True))

    def loss(p: dict[str, Any]) -> Any:
        return distance(p) + 0.1 * (p["width"] - 2) ** 2

    found = fm.minimize(loss, space, method="mixed", budget=200, seed=0, lr=0.2)
    assert found.best["width"] == 2
    assert np.abs(found.best["mix"].detach().numpy() - WANTED).max() < 0.05
    assert fm.Search(fm.Space(mix=SIMPLEX), jac=False).method == "cmaes"
    assert fm.Search(fm.Space(mix=SIMPLEX)).method == "adam"
    assert fm.Search(fm.Space(mix=IN_A_BOX), jac=False, budget=50).method == "tpe"


def test_a_matrix_by_its_own_factor() -> None:
    wanted = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
    space = fm.Space(c=fm.Param(map="positive_definite", shape=(2, 2), dtype="float64"))
    found = fm.minimize(lambda p: (p["c"] - wanted).square().sum(), space, method="lbfgs", budget=60)
    assert torch.allclose(found.best["c"].detach(), wanted, atol=1e-5)


def test_where_a_search_starts() -> None:
    start = np.array([0.2, 0.2, 0.6])
    for param in (SIMPLEX, IN_A_BOX):
        for method in ("adam", "lbfgs", "cmaes"):
            for init in ({"init": {"mix": start}}, {}):
                own = param if init else fm.Param(map=param.map, shape=3, z_range=param.z_range, init=start)
                first = fm.minimize(distance, fm.Space(mix=own), method=method, budget=1, seed=0, **init)
                if method == "cmaes" and not init:  # samples around it
                    continue
                assert np.allclose(first.history[0].theta["mix"], start, atol=1e-6), (method, init)
    unlikely = np.array([1 - 2e-9, 1e-9, 1e-9])
    for method in ("adam", "cmaes", "tpe"):
        with pytest.raises(ValueError, match="not positive and sum to 1"):
            fm.minimize(
                distance, fm.Space(mix=IN_A_BOX), method=method, init={"mix": [0.5, 0.5, 0.5]}, budget=3
            )
        with pytest.raises(ValueError, match=r"outside the box: z is not in \[-5, 5\]"):
            fm.minimize(
                distance,
                fm.Space(mix=IN_A_BOX),
                method=method,
                init={"mix": unlikely},
                budget=3,
            )


def test_storage(tmp_path: Path) -> None:
    space = fm.Space(mix=IN_A_BOX, lr=fm.Param(1e-3, 1, map="log"))
    first = fm.minimize(distance, space, method="tpe", budget=8, seed=0, storage=tmp_path / "journal")
    loaded = fm.search.load(tmp_path / "journal")
    assert loaded.space == space
    assert len(loaded.history) == 8
    for kept, record in zip(loaded.history, first.history, strict=True):
        assert np.array_equal(kept.theta["mix"], record.theta["mix"])
        assert np.array_equal(kept.z["mix"], record.z["mix"])
    more = fm.minimize(
        distance, space, method="tpe", budget=4, seed=0, storage=tmp_path / "journal", resume=True,
        enqueue=[{"mix": WANTED}],
    )  # fmt: skip
    assert len(more.history) == 12
    assert more.loss < 1e-25
    wider = fm.Space(mix=fm.Param(map="simplex", shape=3, z_range=(-9, 9)), lr=space["lr"])
    with pytest.raises(ValueError, match="z_range of 'mix' is"):
        fm.Search(wider, method="tpe", storage=tmp_path / "journal", resume=True)
    taken = fm.Search(wider, method="tpe", storage=tmp_path / "journal", resume="remap")
    assert len(taken.history) == 12
    for method in ("cmaes", "adam"):
        with pytest.raises(ValueError, match="storage: it holds up to 1000 numbers with boxes of z"):
            fm.Search(fm.Space(mix=SIMPLEX), method=method, storage=tmp_path / "other")
    again = fm.minimize(distance, fm.Space(mix=IN_A_BOX), method="adam", budget=5, storage=tmp_path / "third")
    assert len(fm.search.load(tmp_path / "third").history) == len(again.history) == 5


def test_results(tmp_path: Path) -> None:
    found = fm.minimize(distance, fm.Space(mix=IN_A_BOX, a=fm.Param(0, 1)), method="random", budget=4, seed=0)
    frame = found.to_frame()
    for column in ("theta:mix[0]", "theta:mix[2]", "z:mix[0]", "z:mix[1]"):
        assert column in frame
    assert "z:mix[2]" not in frame
    assert set(found.map_error) == {"a"}
    found.save(tmp_path)
    kept = fm.Result.load(tmp_path)
    assert kept.space == found.space
    assert np.array_equal(kept.best["mix"], found.best["mix"])
    assert np.array_equal(kept.history[3].z["mix"], found.history[3].z["mix"])


def test_scipy() -> None:
    space = fm.Space(mix=SIMPLEX, a=fm.Param(map="log"))
    found = fastmap.scipy.minimize(
        lambda p: float(((p["mix"] - WANTED) ** 2).sum() + (p["a"] - 2) ** 2),
        {"mix": np.full(3, 1 / 3), "a": 1.0},
        map=space,
    )
    assert np.abs(found.x["mix"] - WANTED).max() < 1e-3
    assert found.z.shape == (3,)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: fm.Param(0, 1, map="simplex", shape=3),
            r"low, high: entries of a row of Simplex\(\)",
        ),
        (lambda: fm.Param(map="simplex", shape=3, integer=True), "integer: .* no rows of integers"),
        (lambda: fm.Param(map="simplex"), r"shape: Simplex\(\) takes rows of at least 2"),
        (lambda: fm.Param(map="positive_definite", shape=(2, 3)), "shape: .* takes square matrices"),
        (lambda: fm.Param(map="log", z_range=(0, 1)), "z_range: is for structured maps"),
        (lambda: fm.Param(z_range=(0, 1)), "z_range: is for structured maps"),
        (lambda: fm.Param(map="simplex", shape=3, z_range=(1, 0)), "z_range: must be finite, low below high"),
        (lambda: fm.Param(map="simplex", shape=3, z_range=(0, np.inf)), "z_range: must be finite"),
        (lambda: fm.Param(map="simplex", shape=3, z_range=5), "z_range: expected two numbers"),
        (
            lambda: fm.Search(fm.Space(a=SIMPLEX), method="lbfgsb"),
            "a: lbfgsb searches theta itself, .*take lbfgs",
        ),
    ],
)
def test_what_makes_no_parameter(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
