"""`suggest`: right where the evidence is, identity with a reason where it is not."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from scripts import load
from sklearn.datasets import load_digits

import fastmap as fm
import fastmap.torch as ft
from fastmap import cli
from fastmap._candidates import ranked
from fastmap.maps import CLASSES

NAN = math.nan


BENCH = load("bench/suggest.py")
FAMILIES = BENCH.families()


def refused(answer: fm.Suggestion, why: str) -> None:
    assert answer.map == fm.Identity()
    assert answer.reason.startswith("Identity, because ")
    assert why in answer.reason
    assert math.isnan(answer.score)
    assert answer.candidates == ()
    assert why in repr(answer)


# From a range


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (1e-6, 1.0, fm.Log()),
        (1.0, 1000.0, fm.Log()),
        (1.0, 999.0, fm.Identity()),
        (1.0, 2.0, fm.Identity()),
        (-1.0, -1e-6, fm.mirror("log")),
        (0.9, 0.9999, fm.OneMinusLog()),
        (0.5, 0.9999, fm.OneMinusLog()),
        (0.0, 0.99999, fm.OneMinusLog()),
        (1e-6, 1 - 1e-6, fm.Interval(0, 1)),
        (1e-6, 0.9, fm.Log()),
        (0.0, 1.0, fm.Identity()),
        (-5.0, 5.0, fm.Identity()),
        (5e-324, 1.7e308, fm.Log()),
    ],
)
def test_a_range(low, high, expected):
    answer = fm.suggest(low, high)
    assert answer.map == expected
    assert fm.Identity() in [c.map for c in answer.candidates]
    assert answer.score == max(c.score for c in answer.candidates)
    if low > 0 and expected in (fm.Log(), fm.Identity()):  # where `Param` has a rule, it is the same one
        assert fm.Param(low, high).box_map == expected
    fm.Space(p=fm.Param(low, high, map=answer.map))
    assert np.isfinite(fm.Param(low, high, map=answer.map).z_box).all()


@pytest.mark.parametrize(
    "ends", [(None, None), (0.0, None), (None, 1.0), (-math.inf, math.inf), (0, math.inf)]
)
def test_half_a_range_says_nothing(ends):
    refused(fm.suggest(*ends), "both ends")


@pytest.mark.parametrize(
    ("ends", "constraint"),
    [
        ((0.0, None), ("greater_than", 0.0)),
        ((2.0, math.inf), ("greater_than", 2.0)),
        ((None, 3.0), ("less_than", 3.0)),
        ((-1.0, 4.0), ("interval", -1.0, 4.0)),
    ],
)
def test_bounds_are_removed_for_gradients(ends, constraint):
    assert fm.suggest(*ends, gradient=True).map == fm.default_map(*constraint)


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (2.0, 1.0), (NAN, 1.0), (0.0, NAN)])
def test_bad_ranges(low, high):
    with pytest.raises(ValueError, match=r"^(low|high):"):
        fm.suggest(low, high)


# From samples


def test_samples_find_the_scale():
    rng = np.random.default_rng(0)
    normal = rng.normal(size=300)
    assert fm.suggest(samples=normal).map == fm.Identity()
    assert fm.suggest(samples=np.exp(2 * normal)).map == fm.Log()
    assert fm.suggest(samples=-np.exp(2 * normal)).map == fm.mirror("log")
    assert fm.suggest(samples=1 - np.exp(normal - 4)).map == fm.OneMinusLog()
    asinh = fm.suggest(samples=0.01 * np.sinh(2 * normal)).map
    assert type(asinh) in (fm.Asinh, fm.SymLog, fm.SinhArcsinh)
    between = fm.suggest(-1, 4, samples=-1 + 5 / (1 + np.exp(-2 * normal)), gradient=True).map
    assert fm.Interval(-1, 4) == between


def test_normal_samples_rarely_get_a_map_that_bends():
    """AIC at 4 over two dozen kinds: some false alarms, none of which bends the bulk of the samples."""
    other = 0
    for seed in range(60):
        x = np.random.default_rng(seed).normal(size=50)
        answer = fm.suggest(samples=x)
        other += answer.map != fm.Identity()
        z = fm.forward(x, answer.map)
        assert np.corrcoef(z, x)[0, 1] ** 2 > 0.9
    assert other <= 12


def test_samples_of_any_size_type_and_order_give_the_same():
    x = np.exp(2 * np.random.default_rng(1).normal(size=(40, 5)))
    answer = fm.suggest(samples=x)
    assert fm.suggest(samples=x.astype(np.float32)).map == answer.map
    assert fm.suggest(samples=list(np.sort(x.ravel()))).map == answer.map
    assert fm.suggest(samples=np.append(x, [NAN, math.inf])).candidates == answer.candidates
    many = np.exp(2 * np.random.default_rng(2).normal(size=300_000))
    assert np.corrcoef(fm.forward(many, fm.suggest(samples=many).map), np.log(many))[0, 1] > 0.999


@pytest.mark.parametrize(
    ("samples", "why"),
    [
        ([], "0 finite samples are too few"),
        ([1.0] * 9, "9 finite samples are too few"),
        ([NAN] * 50, "0 finite samples are too few"),
        ([3.0] * 50, "all samples are the same"),
        ([1.0, 2.0, 3.0, 4.0] * 20, "fewer than 5 distinct"),
    ],
)
def test_poor_samples(samples, why):
    refused(fm.suggest(samples=samples), why)


def test_bad_samples():
    with pytest.raises(TypeError, match=r"^samples:"):
        fm.suggest(samples=["a"] * 20)
    with pytest.raises(TypeError, match=r"^samples:"):
        fm.suggest(samples=np.ones(20, complex))
    with pytest.raises(ValueError, match="samples: 3 of them lie beyond high = 10"):
        fm.suggest(0, 10, samples=[11, 12, 13, *range(10)])


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e150])
def test_extreme_units(scale):
    x = scale * np.random.default_rng(0).uniform(0.5, 2, 50)
    assert np.isfinite(fm.forward(x, fm.suggest(samples=x).map)).all()
    loss = np.square(x / scale - 1)
    answer = fm.suggest_from((x, loss))["theta"]
    assert np.isfinite(fm.forward(x, answer.map)).all()
    assert np.isfinite(answer.score)


# From trials


def test_trials_find_the_generating_map():
    """Whatever the map and the shape of the loss: two of the four, in turn."""
    cases = []
    for i, m in enumerate(FAMILIES.values()):
        rng = np.random.default_rng(i)
        shapes = list(BENCH.SHAPES)
        cases += [BENCH.Case(m, rng, s, "own z").ask() for s in (shapes[i % 4], shapes[(i + 1) % 4])]
    found = BENCH.summary(cases)
    assert found["apart"] > 40
    assert found["right"] >= 95
    assert found["identity near"] < 30
    assert found["harmful"] <= 2


@pytest.mark.parametrize("shape", BENCH.SHAPES)
def test_no_shape_of_the_loss_feigns_a_map(shape):
    """The truth is identity: no other map is told from it, so none may bend the box."""
    for seed in range(3):
        case = BENCH.Case(fm.Identity(), np.random.default_rng(seed), shape, "theta").ask()
        assert not case.apart
        assert case.near


def test_the_oracle_knows_the_shape():
    rng = np.random.default_rng(0)
    theta = rng.uniform(-3, 3, 60)
    for shape, form in BENCH.SHAPES.items():
        truth = form((theta - 0.7) ** 2)
        scale = float(np.square(truth - truth.mean()).sum())
        assert BENCH.distance(theta, truth, shape) < 2e-3 * scale
        assert BENCH.distance(np.exp(theta), truth, shape) > 2e-2 * scale


def test_a_map_that_leaves_most_of_the_box_empty_is_no_candidate():
    theta = np.random.default_rng(0).uniform(100, 1000, 60)
    loss = (np.log(theta) - 6) ** 2
    assert fm.suggest_from((theta, loss), boxes={"theta": (100, 1000)})["theta"].map == fm.Log()
    answer = fm.suggest_from((theta, loss), boxes={"theta": (1e-3, 1000)})["theta"]  # 12 of 14 e-folds
    assert fm.Log() not in [c.map for c in answer.candidates]


def test_trials_of_identity_or_noise_give_identity():
    rng = np.random.default_rng(3)
    theta = rng.uniform(-1, 1, 60)
    assert (
        fm.suggest_from((theta, (theta - 0.3) ** 2 + 1e-3 * rng.normal(size=60)))["theta"].map
        == fm.Identity()
    )
    others = 0
    for _ in range(30):
        answer = fm.suggest_from((theta, rng.normal(size=60)))["theta"]
        others += answer.map != fm.Identity()
        assert "Identity, because" in answer.reason or answer.map != fm.Identity()
    assert others <= 1


def trials(n=60, noise=0.02):
    rng = np.random.default_rng(5)
    lr, decay, width = 10 ** rng.uniform(-5, 0, n), 1 - 10 ** rng.uniform(-4, -0.5, n), rng.uniform(1, 9, n)
    loss = (np.log10(lr) + 3) ** 2 + (np.log10(1 - decay) + 2) ** 2 + (width - 4) ** 2 / 9
    return {"lr": lr, "decay": decay, "width": width}, loss + noise * rng.normal(size=n)


def test_several_parameters_are_fitted_jointly():
    theta, loss = trials()
    found = {name: s.map for name, s in fm.suggest_from((theta, loss)).items()}
    assert found == {"lr": fm.Log(), "decay": fm.OneMinusLog(), "width": fm.Identity()}
    columns = fm.suggest_from((np.stack([*theta.values()], axis=1), loss))
    assert [s.map for s in columns.values()] == [*found.values()]
    assert list(columns) == ["0", "1", "2"]
    upside_down = fm.suggest_from((theta, -loss), direction="maximize")
    assert {name: s.map for name, s in upside_down.items()} == found


def test_lost_trials_and_exploding_losses_do_not_matter():
    theta, loss = trials()
    expected = {name: s.map for name, s in fm.suggest_from((theta, loss)).items()}
    more = {name: np.append(x, x[:3]) for name, x in theta.items()}
    answers = fm.suggest_from((more, np.append(loss, [NAN, math.inf, -math.inf])))
    assert {name: s.map for name, s in answers.items()} == expected
    exploded = fm.suggest_from((theta, np.exp(4 * loss)))
    for name, m in expected.items():
        z = fm.forward(theta[name], exploded[name].map), fm.forward(theta[name], m)
        assert abs(np.corrcoef(*z)[0, 1]) > 0.95


def test_maps_are_finite_on_the_box():
    theta, loss = trials()
    for box in ((0.0, 1.0), (-1.0, 2.0)):
        for candidate in fm.suggest_from((theta["lr"], loss), boxes={"theta": box})["theta"].candidates:
            low, high = candidate.map.domain
            assert low < box[0]
            assert box[1] < high


@pytest.mark.parametrize(
    ("theta", "loss", "why"),
    [
        (np.arange(9.0), np.arange(9.0), "9 complete trials are too few"),
        ([], [], "0 complete trials"),
        (np.arange(50.0), np.full(50, NAN), "0 complete trials (50 without a finite loss)"),
        (np.arange(50.0), np.ones(50), "all losses are the same"),
        (np.ones(50), np.arange(50.0), "all values are the same"),
        ([1.0, 2.0] * 25, np.arange(50.0), "fewer than 5 distinct"),
    ],
)
def test_poor_trials(theta, loss, why):
    refused(fm.suggest_from((theta, loss))["theta"], why)


def test_too_few_trials_for_so_many_parameters():
    rng = np.random.default_rng(0)
    for answer in fm.suggest_from((rng.normal(size=(20, 5)), rng.normal(size=20))).values():
        refused(answer, "20 trials are too few for 5 parameters: 33")


def test_one_poor_parameter_does_not_spoil_the_others():
    theta, loss = trials()
    theta["fixed"] = np.ones(60)
    theta["sometimes"] = np.where(np.arange(60) < 20, theta["lr"], NAN)
    answers = fm.suggest_from((theta, loss))
    refused(answers["fixed"], "all values are the same")
    refused(answers["sometimes"], "20 of 60 trials have it")
    assert answers["lr"].map == fm.Log()
    assert list(answers) == list(theta)


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (None, TypeError),
        (3, TypeError),
        ((np.ones(20),), TypeError),
        ((np.ones(20), np.ones(19)), ValueError),
        ((np.ones((2, 2, 2)), np.ones(2)), ValueError),
        (({"a": np.ones(20)}, np.ones((20, 1))), ValueError),
        ((["a"] * 20, np.ones(20)), TypeError),
        ((np.ones(20), ["a"] * 20), TypeError),
    ],
)
def test_bad_trials(bad, error):
    with pytest.raises(error, match=r"^trials:"):
        fm.suggest_from(bad)
    with pytest.raises(ValueError, match=r"^direction:"):
        fm.suggest_from((np.ones(20), np.ones(20)), direction="up")


def test_an_optuna_study():
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0), direction="maximize")
    assert fm.suggest_from(study) == {}

    def objective(trial):
        lr = trial.suggest_float("lr", 1e-5, 1, log=True)
        trial.suggest_categorical("kind", ["a", "b"])
        layers = trial.suggest_int("layers", 1, 8)
        if trial.number % 10 == 9:
            raise optuna.TrialPruned
        return -((math.log10(lr) + 3) ** 2) - 0.01 * layers

    study.optimize(objective, n_trials=60)
    answers = fm.suggest_from(study)
    assert set(answers) == {"lr", "layers"}
    assert answers["lr"].map == fm.Log()
    assert answers["layers"].map == fm.Identity()
    with pytest.raises(ValueError, match="several objectives"):
        fm.suggest_from(optuna.create_study(directions=["minimize", "maximize"]))


def test_a_result_of_minimize():
    pytest.importorskip("optuna")
    space = fm.Space(lr=fm.Param(1e-5, 1, map="log"), b=fm.Param(0.0, 1.0))
    result = fm.minimize(
        lambda p: (np.log10(p["lr"]) + 3) ** 2 + p["b"], space, budget=50, seed=0, method="random"
    )
    assert fm.suggest_from(result)["lr"].map == fm.Log()
    assert fm.suggest_from(result.history)["lr"].map == fm.Log()


# Candidates and the answer


def test_every_kind_of_map_is_a_candidate_for_what_it_holds():
    kinds = set()
    for x in (np.linspace(0.01, 0.99, 50), np.linspace(-5, 50, 50)):
        kinds |= {type(c.map) for c, _ in ranked(x, lambda m, z: np.zeros(len(z)))}
    left_out = {cls for cls in CLASSES if cls not in kinds}
    for cls in left_out:  # affine images of another kind
        x = np.linspace(0.01, 0.99, 50)
        z = fm.forward(x, cls())
        others = [
            fm.forward(x, m) for m in FAMILIES.values() if type(m) is not cls and BENCH.score(m, x, x) > -1
        ]
        powers = [fm.forward(x, fm.Power(p)) for p in (0.5, -1.0)]
        assert any(np.corrcoef(z, other)[0, 1] ** 2 > 1 - 1e-9 for other in others + powers), cls


def test_the_answer_is_frozen_and_prints_its_table():
    answer = fm.suggest(1e-6, 1)
    with pytest.raises(FrozenInstanceError):
        answer.map = fm.Identity()
    assert repr(answer).splitlines()[0] == "Log(low=0.0)"
    assert "> " in repr(answer)
    assert "Identity()" in repr(answer)
    assert answer.margin == pytest.approx(3)
    x = np.exp(np.random.default_rng(0).normal(size=100))
    scores = [c.score for c in fm.suggest(samples=x).candidates]
    assert scores == sorted(scores, reverse=True)


# torch


class Model(torch.nn.Module):
    """Curvature theta^-2 in one tensor, none in the others."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.scale = torch.nn.Parameter(10 ** (4 * torch.rand(300, generator=generator) - 3))
        self.weight = torch.nn.Parameter(torch.randn(20, 20, generator=generator))
        self.linear = torch.nn.Parameter(torch.randn(40, generator=generator))
        self.few = torch.nn.Parameter(torch.ones(3))
        self.unused = torch.nn.Parameter(torch.ones(50))
        self.frozen = torch.nn.Parameter(torch.ones(50), requires_grad=False)
        self.same = torch.nn.Parameter(torch.ones(50))
        self.target = self.scale.detach() * 1.01

    def loss(self) -> torch.Tensor:
        fit = (self.scale.log() - self.target.log()).square().sum()
        return (
            fit + self.weight.square().sum() + self.linear.sum() + self.few.sum() + self.same.square().sum()
        )


@pytest.mark.parametrize("diagonal", ["hutchinson", "exact"])
def test_a_model(diagonal):
    model = Model()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    answers = ft.suggest(model, model.loss, diagonal=diagonal)
    assert list(answers) == list(before)
    assert answers["scale"].map == fm.Log()
    assert "(0.0, inf)" in answers["scale"].reason
    refused(answers["weight"], "second derivatives are all the same")
    refused(answers["linear"], "0 elements have a positive second derivative")
    refused(answers["unused"], "does not depend on it")
    refused(answers["frozen"], "requires no grad")
    refused(answers["same"], "elements differ")
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name])
        assert p.grad is None


def test_hutchinson_is_exact_for_a_diagonal_and_near_it_otherwise():
    from fastmap.torch._suggest import _exact, _hutchinson

    generator = torch.Generator().manual_seed(1)
    a = torch.randn(30, 30, generator=generator, dtype=torch.float64)
    a = a @ a.T
    p = torch.nn.Parameter(torch.randn(30, generator=generator, dtype=torch.float64))
    for matrix, tolerance in ((a, 0.25), (torch.diag(a.diagonal()), 1e-12)):
        (g,) = torch.autograd.grad(p @ matrix @ p / 2, p, create_graph=True)
        assert torch.allclose(_exact({"p": (p, g)})["p"], matrix.diagonal())
        estimate = _hutchinson({"p": (p, g)}, 4000 if tolerance > 0.1 else 2, 0)["p"]
        assert ((estimate - matrix.diagonal()).abs() <= tolerance * matrix.diagonal()).all()


def test_ordinary_weights_keep_identity_and_the_generator_its_state():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(10, 32), torch.nn.Tanh(), torch.nn.Linear(32, 3))
    x, y = torch.randn(100, 10), torch.randint(0, 3, (100,))
    state = torch.get_rng_state()
    answers = ft.suggest(net, lambda: torch.nn.functional.cross_entropy(net(x), y))
    assert {s.map for s in answers.values()} == {fm.Identity()}
    assert torch.equal(torch.get_rng_state(), state)


def test_the_scales_of_real_data_want_a_logarithm():
    """Standard deviations of the pixels of digits, from 0.01 to 0.4: the curvature is 2 / scale²."""
    data = torch.tensor(load_digits().data / 16, dtype=torch.float32)
    data = data[:, data.std(0) > 1e-2]
    mean, scale = data.mean(0), torch.nn.Parameter(1.3 * data.std(0))
    model = torch.nn.Module()
    model.scale = scale

    def loss():
        return -torch.distributions.Normal(mean, scale).log_prob(data).mean(0).sum()

    answer = ft.suggest(model, loss)["scale"]
    assert answer.map == fm.Log()
    best = -torch.distributions.Normal(mean, data.std(0)).log_prob(data).mean(0).sum().item()

    def excess(m, lr):
        """What plain gradient descent leaves of the loss after 20 steps."""
        with torch.no_grad():
            scale.copy_(1.3 * data.std(0))
        optimizer = ft.SGD([{"params": [scale], "map": m}], lr=lr)
        for _ in range(20):
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
            with torch.no_grad():
                scale.clamp_(min=1e-3)
        return loss().item() - best

    assert min(excess(answer.map, lr) for lr in (0.1, 0.3)) < 1e-3
    assert min(excess(fm.Identity(), lr) for lr in (1e-5, 1e-4, 1e-3, 1e-2)) > 0.1


def test_a_model_without_gradients_and_bad_losses():
    net = torch.nn.Linear(40, 40)
    for answer in ft.suggest(net, lambda: torch.tensor(1.0)).values():
        refused(answer, "no gradient")
    for p in net.parameters():
        p.requires_grad_(False)
    for answer in ft.suggest(net, lambda: net(torch.ones(40)).sum()).values():
        refused(answer, "requires no grad")
    assert ft.suggest(torch.nn.Tanh(), lambda: torch.tensor(1.0)) == {}
    net.requires_grad_(True)
    with pytest.raises(ValueError, match=r"^loss: nan"):
        ft.suggest(net, lambda: net(torch.ones(40)).sum() * NAN)
    with pytest.raises(TypeError, match=r"^loss:"):
        ft.suggest(net, lambda: net(torch.ones(40)))
    with pytest.raises(TypeError, match=r"^loss:"):
        ft.suggest(net, lambda: 3.0)
    with pytest.raises(ValueError, match=r"^diagonal:"):
        ft.suggest(net, lambda: net(torch.ones(40)).sum(), diagonal="guess")
    with pytest.raises(ValueError, match=r"^probes:"):
        ft.suggest(net, lambda: net(torch.ones(40)).sum(), probes=0)


# The command line


def run(capsys, *argv: str) -> tuple[int, str, str]:
    status = cli.run(["suggest", *argv])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_the_command_line(capsys, tmp_path):
    assert run(capsys, "--low", "1e-6", "--high", "1")[1].startswith("Log(low=0.0)\n")
    assert run(capsys, "--low", "0", "--gradient")[1].startswith("Softplus")
    theta, loss = trials()
    path = tmp_path / "trials.csv"
    rows = zip(*theta.values(), loss, strict=True)
    path.write_text(
        "lr,decay,width,loss\n" + "".join(",".join(map(repr, map(float, r))) + "\n" for r in rows)
    )
    status, out, _ = run(capsys, str(path), "--loss", "loss")
    assert status == 0
    assert "lr: Log(low=0.0)" in out
    assert "decay: OneMinusLog()" in out
    assert run(capsys, str(path), "--column", "lr")[0] == 0
    with path.open("a") as file:
        file.write("broken,,0.5,\n")
    assert "lr: Log(low=0.0)" in run(capsys, str(path), "--loss", "loss", "--column", "lr")[1]


def test_the_command_line_reads_a_study(capsys, tmp_path):
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    url = f"sqlite:///{tmp_path / 'study.db'}"
    study = optuna.create_study(storage=url, study_name="s", sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(lambda t: (math.log10(t.suggest_float("lr", 1e-5, 1, log=True)) + 3) ** 2, n_trials=20)
    assert "lr: Log(low=0.0)" in run(capsys, "--storage", url, "--study", "s")[1]
    assert run(capsys, "--storage", url, "--study", "t")[0] == 2


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "give --low and --high"),
        (["--low", "2", "--high", "1"], "high: must be above low"),
        (["missing.csv"], "missing.csv"),
        (["FILE", "--column", "x"], "no column 'x'"),
        (["FILE"], "name one column"),
        (["FILE", "--storage", "sqlite://"], "exclude"),
        (["--loss", "loss"], "need a FILE"),
    ],
)
def test_the_command_line_refuses(capsys, tmp_path, argv, message):
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,2\n")
    status, out, err = run(capsys, *(str(path) if a == "FILE" else a for a in argv))
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


# The criteria themselves


def test_errors_are_those_of_models_fitted_without_the_trial():
    from fastmap._trials import _columns, _Losses, _Residuals

    rng = np.random.default_rng(0)
    z = rng.normal(size=20)
    loss = z**2 + 0.1 * rng.normal(size=20)
    columns = _columns(z[None])
    design = np.concatenate([np.ones((1, 20, 1)), columns], axis=2)
    residuals = []
    for i in range(20):
        rest = np.arange(20) != i
        beta = np.linalg.lstsq(design[0, rest], loss[rest], rcond=None)[0]
        residuals.append(loss[i] - design[0, i] @ beta)
    expected = np.mean(np.square(residuals))

    def error(y, columns):
        return _Residuals(_Losses(y), np.ones((20, 1))).of_columns(columns)[0]

    assert error(loss, columns) == pytest.approx(expected, rel=1e-9)
    # Densities of the losses themselves: they scale as losses do, through whatever warp.
    for y in (loss, np.exp(5 * loss)):
        assert error(1000 * y, columns) == pytest.approx(1e6 * error(y, columns), rel=1e-6)
    # One column, by products.
    one = _Residuals(_Losses(loss), np.ones((20, 1))).of_one(np.square(z)[None, None])[0, 0]
    assert one == pytest.approx(error(loss, np.square(z)[None, :, None]), rel=1e-9)


def test_a_map_has_to_beat_identity_clearly():
    from fastmap._candidates import Candidate
    from fastmap._trials import _judged

    for gain, expected in ((0.13, fm.Identity()), (0.14, fm.Log())):  # 60 times it is 8 at 0.133
        table = [Candidate(fm.Log(), 1 - 0.4 * math.exp(-gain)), Candidate(fm.Identity(), 0.6)]
        answer = _judged(table, 60, fm.Identity(), 8)
        assert answer.map == expected
        assert answer.margin == pytest.approx(answer.score - min(c.score for c in table)) or answer.margin < 0
    poor = [Candidate(fm.Log(), 0.09), Candidate(fm.Identity(), -0.5)]
    assert "R² at most" in _judged(poor, 60, fm.Identity(), 8).reason


def test_a_map_that_turns_convex_losses_concave_is_refused():
    from fastmap.torch._suggest import _judged

    theta = 10 ** (4 * torch.rand(300, generator=torch.Generator().manual_seed(0)) - 3)
    assert _judged(theta, torch.zeros_like(theta), theta**-2).map == fm.Log()
    answer = _judged(theta, -5 / theta, theta**-2)  # in log theta the second derivative is 1 - 5
    assert answer.map == fm.Identity()
    assert "100% of the convex elements concave" in answer.reason
