"""Optimizers on CUDA tensors without a GPU: the PTX of every step, interpreted, gives the bits of the CPU."""

from __future__ import annotations

import itertools
import re
from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import numpy as np
import ptx
import pytest
import test_cuda
import torch
from test_cuda import ALL_DTYPES, CATALOG, NAMES, Interpreted, needs_nvcc, raw

import fastmap as fm
import fastmap.torch as ft
from fastmap import _core, _torch_cuda
from fastmap._map import resolve
from fastmap.torch import _cuda_step

NONE, OF_Z, OF_THETA = range(3)  # what decays
CHAIN, DUAL, CLAMPED = range(3)  # gradients
SGD, ADAM, LION = (_core.RULES[name] for name in ("sgd", "adam", "lion"))


def group(
    rule: int,
    gradient: int = CHAIN,
    decay: int = NONE,
    decoupled: bool = False,
    *,
    maximize: bool = False,
    lr: float = 0.1,
    momentum: float = 0.9,
    nesterov: bool = False,
) -> tuple[Any, ...]:
    """As `_core.Stepper` takes it."""
    rate = 0.03 if decay else 0.0
    return (
        rule,
        gradient,
        0.01,
        5.0,
        decay,
        decoupled,
        rate,
        maximize,
        lr,
        momentum,
        0.99,
        1e-8,
        0.25,
        nesterov,
    )


GROUPS = [
    group(ADAM),
    group(ADAM, decay=OF_THETA, decoupled=True),
    group(ADAM, CLAMPED, OF_Z),
    group(LION, decay=OF_Z, decoupled=True, maximize=True),
    group(LION, DUAL, OF_THETA, decoupled=True),
    group(SGD, DUAL, OF_THETA),
    group(SGD, CLAMPED, OF_THETA, decoupled=True, nesterov=True),
    group(SGD, lr=0.0),
]


@pytest.fixture(autouse=True)
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda device: 0, raising=False)
    monkeypatch.setattr(_torch_cuda, "module", Interpreted)


def wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype is torch.float64 else torch.float32


def one_nan(x: torch.Tensor) -> np.ndarray:
    """The bits. On the CPU a NaN of z and of moments keeps the payload that it came with."""
    return raw(torch.where(torch.isnan(x), torch.full_like(x, torch.nan), x))


def buffers(
    m: dict[str, Any],
    n: int,
    dtypes: tuple[torch.dtype, torch.dtype, torch.dtype],
    seed: int,
    params: tuple[float, ...] | None = None,
) -> list[torch.Tensor]:
    """theta, gradient, z and moments: ordinary numbers and special ones, also z outside the codomain."""
    rng, (stored, of_gradient, of_moments) = np.random.default_rng(seed), dtypes
    kind = np.float64 if stored is torch.float64 else np.float32
    params = tuple(m["examples"][0].values()) if params is None else params
    z = np.resize(rng.permutation(test_cuda.inputs("inverse", m, params, kind)), n)
    gradient, first = (
        rng.permutation(np.concatenate([test_cuda.special(kind), rng.normal(0, scale, 200).astype(kind)]))
        for scale in (1, 0.1)
    )
    gradient, first = np.resize(gradient, n), np.resize(first, n)
    z[::3] = rng.normal(0, 2, z[::3].size)
    gradient[::2] = rng.normal(0, 1, gradient[::2].size)
    first[::2] = 0
    second = np.square(rng.normal(0, 1, n)).astype(kind)
    theta = fm.inverse(torch.from_numpy(z), getattr(fm, m["class_name"])(*params), invalid="nan")
    made = [theta, *(torch.from_numpy(x) for x in (gradient, z, first, second))]
    return [
        x.to(d)
        for x, d in zip(made, (stored, of_gradient, wide(stored), of_moments, of_moments), strict=True)
    ]


def compare(rows: list[Any], copies: list[Any], groups: list[Any], factor: float | None = None) -> None:
    """A step of the CPU on rows, and of the interpreted kernels on their copies."""
    names = ("theta", "gradient", "z", "first", "second", "step")
    host, device = _core.Stepper(), _cuda_step.CudaStepper()
    assert host.prepare(rows, groups) == -1
    device.prepare(copies, lambda i: None, str)
    host.step(1.0 if factor is None else 1 / factor)
    scale = None if factor is None else torch.tensor(factor)
    device.step(groups, [g[8] for g in groups], scale, None)
    for i, (row, copy) in enumerate(zip(rows, copies, strict=True)):
        for name, x, y in zip(names, row[3:9], copy[3:9], strict=True):
            if x is not None:
                wrong = np.flatnonzero(one_nan(x) != one_nan(y))
                shown = [(x.flatten()[j].item(), y.flatten()[j].item()) for j in wrong[:4]]
                assert not wrong.size, (i, name, groups[row[2]], wrong.size, wrong[:4], shown)


def clone(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(x.clone() if isinstance(x, torch.Tensor) else x for x in row)


@needs_nvcc
@pytest.mark.parametrize("stored", ALL_DTYPES)
@pytest.mark.parametrize("m", CATALOG, ids=NAMES)
def test_steps_give_the_bits_of_the_cpu(m: dict[str, Any], stored: torch.dtype) -> None:
    """Every map and dtype; for each of them the rules and modes, on other numbers and at other counts."""
    program = resolve(getattr(fm, m["class_name"])(*m["examples"][0].values())).program
    half = stored in (torch.bfloat16, torch.float16)
    rows = []
    for k in range(len(GROUPS)):
        moments = torch.bfloat16 if half and k % 2 else wide(stored)
        of_gradient = torch.float32 if half and k % 3 == 0 else stored
        n = 1500 if k == 0 else 150 + k
        b = buffers(m, n, (stored, of_gradient, moments), k)
        kept = 0 if k == 7 else 1 if GROUPS[k][0] != ADAM else 2  # moments
        state = [*b[3 : 3 + kept], None, None][:2]
        rows.append((program, (), k, *b[:3], *state, torch.tensor(float(k % 3 * 7)), None))
    compare(rows, [clone(row) for row in rows], GROUPS, 8.0)


each_with_parameters = pytest.mark.parametrize(
    "m", [m for m in CATALOG if m["examples"][0]], ids=lambda m: m["class_name"]
)


def one_below_the_other(m: dict[str, Any], examples: list[tuple[float, ...]]) -> tuple[Any, tuple[int, ...]]:
    """The program of a map whose rows have one of the examples each, and how far its constants are apart."""
    columns = (np.array(column)[:, None] for column in zip(*examples, strict=True))
    return getattr(fm, m["class_name"])(*columns).program, (int(len(examples) > 1), 0)


@needs_nvcc
@pytest.mark.parametrize("stored", ALL_DTYPES)
@each_with_parameters
def test_steps_with_arrays_of_parameters(m: dict[str, Any], stored: torch.dtype) -> None:
    """Every map, its published parameters one below the other, in C order and in the other one."""
    examples = test_cuda.published(m, stored)
    program, strides = one_below_the_other(m, examples)
    rows = []
    for k in range(len(GROUPS)):
        each = (buffers(m, 40, (stored, stored, wide(stored)), k, params) for params in examples)
        b = [torch.stack(x) for x in zip(*each, strict=True)]
        if k % 2:
            b = [x.t().contiguous().t() for x in b]
        kept = 0 if k == 7 else 1 if GROUPS[k][0] != ADAM else 2  # moments
        state = [*b[3 : 3 + kept], None, None][:2]
        rows.append((program, strides, k, *b[:3], *state, torch.tensor(float(k % 3 * 7)), None))
    compare(rows, [clone(row) for row in rows], GROUPS, 8.0)


@needs_nvcc
@pytest.mark.parametrize("stored", [torch.float32, torch.float64])
def test_without_a_map_theta_is_its_own_z(stored: torch.dtype) -> None:
    m = CATALOG[NAMES.index("Identity")]
    program = resolve(fm.Identity()).program
    rows = []
    for k, g in enumerate(GROUPS):
        theta, gradient, _, *moments = buffers(m, 150 + k, (stored,) * 3, k)
        kept = 0 if k == 7 else 1 if g[0] != ADAM else 2
        state = [*moments[:kept], None, None][:2]
        rows.append((program, (), k, theta, gradient, None, *state, torch.tensor(3.0), None))
    compare(rows, [clone(row) for row in rows], GROUPS)


@needs_nvcc
@pytest.mark.parametrize("stored", [torch.float32, torch.float64, torch.float16])
def test_many_tensors_of_one_launch(stored: torch.dtype) -> None:
    """More than a launch takes; lengths around a tile, alignments, empty ones, grids that go around."""
    m = CATALOG[NAMES.index("Softplus")]
    program = resolve(fm.Softplus(*m["examples"][0].values())).program
    tile = test_cuda.tile(np.float64 if stored is torch.float64 else np.float32)
    lengths = [0, 1, tile - 1, tile, tile + 1, 3 * tile, 2 * tile + 5, *range(2, 50)]
    rows = []
    for k, n in enumerate(lengths):
        b = buffers(m, n + 4, (stored, stored, wide(stored)), k)
        b = [x[k % 3 : k % 3 + n] if k >= 2 * i else x[:n] for i, x in enumerate(b)]
        rows.append((program, (), k % 2, *b, torch.tensor(float(k)), None))
    copies = [clone(row) for row in rows]
    for k, copy in enumerate(copies):  # clones lie at the start of memory of their own
        for i in range(3, 8):
            moved = torch.empty(len(copy[i]) + 4, dtype=copy[i].dtype)[(k + i) % 4 :][: len(copy[i])]
            copies[k] = (*copies[k][:i], moved.copy_(copy[i]), *copies[k][i + 1 :])
    compare(rows, copies, [group(ADAM), group(ADAM, decay=OF_THETA, decoupled=True)])


def rows_of_squares(
    m: dict[str, Any], stored: torch.dtype, params: tuple[float, ...], reach: float = 4
) -> list[Any]:
    """Parameters around blocks of sums, without what would make each sum NaN."""
    program = getattr(fm, m["class_name"])(*params).program
    half, block = stored in (torch.bfloat16, torch.float16), 256 if stored is torch.float64 else 512
    low, high = getattr(fm, m["class_name"])(*params).codomain
    ends = max(low + 0.1, -reach), min(high - 0.1, reach)  # at an end, and far out, slopes may be infinite
    rows = []
    for k, n in enumerate((0, 1, block, 2 * block + 1, 5 * block - 3)):
        of_gradient = torch.float32 if half and k % 2 else stored
        b = buffers(m, n + 4, (stored, of_gradient, wide(stored)), k, params)
        b[1].clamp_(-3, 3).nan_to_num_()
        b[2] = torch.linspace(*ends, n + 4, dtype=wide(stored))
        b = [x[:n] for x in b]  # empty ones have memory, too
        state = b[:4] if k % 3 == 2 else b  # Lion has one moment
        rows.append((program, (), k % 3, *state, *[None] * (5 - len(state)), torch.tensor(3.0), None))
    return rows


def sums_of_squares(rows: list[Any]) -> list[tuple[float, float]]:
    """On the CPU and by the kernels: of the gradients in theta, and in z."""
    groups = [group(ADAM), group(ADAM, CLAMPED), group(LION, DUAL)]
    host, device = _core.Stepper(), _cuda_step.CudaStepper()
    assert host.prepare(rows, groups) == -1
    device.prepare(rows, lambda i: None, str)
    every = range(len(rows))
    return [
        (host.sum_of_squares(of_z, every), float(device.sum_of_squares(groups, of_z)))
        for of_z in (False, True)
    ]


@needs_nvcc
@pytest.mark.parametrize("stored", ALL_DTYPES)
@pytest.mark.parametrize("m", CATALOG, ids=NAMES)
def test_sums_of_squares_have_the_bits_of_the_cpu(m: dict[str, Any], stored: torch.dtype) -> None:
    for expected, found in sums_of_squares(rows_of_squares(m, stored, tuple(m["examples"][0].values()))):
        assert 0 < expected < np.inf
        assert found == expected


@needs_nvcc
@pytest.mark.parametrize("stored", ALL_DTYPES)
@each_with_parameters
def test_sums_of_squares_with_arrays_of_parameters(m: dict[str, Any], stored: torch.dtype) -> None:
    """Here blocks are others than on the CPU."""
    examples = test_cuda.published(m, stored)
    program, strides = one_below_the_other(m, examples)
    each = [rows_of_squares(m, stored, tuple(params), 1) for params in examples]
    rows = []
    for k, of_examples in enumerate(zip(*each, strict=True)):
        buffers_of = zip(*(row[3:8] for row in of_examples), strict=True)
        b = [None if x[0] is None else torch.stack(x) for x in buffers_of]
        rows.append((program, strides, k % 3, *b, torch.tensor(3.0), None))
    for expected, found in sums_of_squares(rows):
        assert found == pytest.approx(expected, rel=1e-12)


@needs_nvcc
def test_a_wrong_step_is_noticed() -> None:
    """Each arithmetic instruction of a rule and of a map replaced by another one, one at a time."""
    m = CATALOG[NAMES.index("Affine")]
    program = resolve(fm.Affine(*m["examples"][1].values())).program
    rows = []
    for k, g in enumerate(GROUPS):
        b = buffers(m, 60, (torch.float32,) * 3, k)
        state = (b[3:] if g[0] == ADAM else [b[3], None]) if k < 7 else [None, None]
        rows.append((program, (), k, *b[:3], *state, torch.tensor(3.0), None))
    mutants, survived = 0, []
    for instruction, mutant in ptx.mutants("Affine", ptx.module_of("Affine").kernel("step", np.float32)):
        mutants += 1
        with pytest.MonkeyPatch.context() as patch:
            modules = {"Affine": mutant, ptx.RULES: ptx.module_of(ptx.RULES)}
            patch.setattr(ptx, "module_of", modules.__getitem__)
            try:
                compare([clone(row) for row in rows], [clone(row) for row in rows], GROUPS)
            except AssertionError:
                continue
        survived.append(instruction)
    # What survives is for 16-bit buffers and for buffers that are aligned.
    assert mutants - len(survived) > 15, (mutants, survived)


# --- The optimizers ------------------------------------------------------------------------------

OPTIMIZERS: dict[str, Any] = {
    "Adam": lambda p, **k: ft.Adam(p, 0.05, **k),
    "AdamW": lambda p, **k: ft.AdamW(p, 0.05, **k),
    "AdamW of z": lambda p, **k: ft.AdamW(p, 0.05, decay_space="z", **k),
    "SGD": lambda p, **k: ft.SGD(p, 0.05, **k),
    "momentum": lambda p, **k: ft.SGD(p, 0.05, momentum=0.9, nesterov=True, weight_decay=0.1, **k),
    "MirrorDescent": lambda p, **k: ft.MirrorDescent(p, 0.05, **k),
    "Lion": lambda p, **k: ft.Lion(p, 0.05, weight_decay=0.1, **k),
    "clamped": lambda p, **k: ft.Adam(p, 0.05, gradient="clamped", clamp=(0.1, 2.0), maximize=True, **k),
}


def parameters(dtype: torch.dtype = torch.float32) -> list[torch.nn.Parameter]:
    rng = np.random.default_rng(5)
    return [
        torch.nn.Parameter(torch.from_numpy(rng.uniform(0.1, 0.9, n)).to(dtype)) for n in ((3, 7), 40, ())
    ]


def claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors in memory claim to lie on a GPU."""
    monkeypatch.setattr(_cuda_step, "on_cuda", lambda x: isinstance(x, torch.Tensor))


def train(optimizer: Any, params: list[torch.nn.Parameter], steps: int = 3) -> None:
    for step in range(steps):
        for i, p in enumerate(params):
            if step != 1 or i != 1:  # counts differ from then on
                wave = torch.sin(torch.arange(p.numel()).reshape(p.shape) * (0.7 * step + 1.0))
                p.grad = torch.empty_like(p).copy_(wave)
            else:
                p.grad = None
        optimizer.step()


def same_state(a: Any, b: Any, seen: Any = raw) -> None:
    """Of two optimizers, in all bits, or as far as `seen` shows them."""
    for p, q in itertools.zip_longest(*(o.param_groups[0]["params"] for o in (a, b))):
        np.testing.assert_array_equal(seen(p.detach()), seen(q.detach()))
        assert a.state[p].keys() == b.state[q].keys()
        for key, value in a.state[p].items():
            np.testing.assert_array_equal(seen(value), seen(b.state[q][key]), err_msg=key)


@pytest.mark.proves("torch", "step", device="CUDA (its PTX, interpreted)")
@needs_nvcc
@pytest.mark.parametrize("dtype", ALL_DTYPES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_give_the_bits_of_the_cpu(
    name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = parameters(dtype), parameters(dtype)
    expected = OPTIMIZERS[name](theirs, map="interval")
    train(expected, theirs)
    claimed(monkeypatch)
    optimizer = OPTIMIZERS[name](ours, map="interval", capturable=True)
    train(optimizer, ours)
    same_state(optimizer, expected)


@needs_nvcc
@pytest.mark.parametrize("dtype", ALL_DTYPES)
@pytest.mark.parametrize("name", ["AdamW", "momentum", "MirrorDescent", "Lion", "clamped"])
def test_bounds_of_each_element(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tails, tiles, dimensions in any order, beside a parameter whose bounds are numbers."""
    rng = np.random.default_rng(9)

    def made() -> tuple[list[torch.nn.Parameter], list[dict[str, Any]]]:
        low = np.arange(5 * 300).reshape(5, 1, 300) / 1e4 - 1
        maps: list[Any] = [fm.Interval(low, 1.5), fm.Interval(low[:, :, :1], 2.0), "interval"]
        shapes, orders = ((5, 4, 300), (5, 2, 3), (40,)), ((2, 0, 1), (1, 2, 0), (0,))
        params = []
        for shape, order in zip(shapes, orders, strict=True):
            theta = torch.from_numpy(rng.uniform(0.1, 0.9, shape)).to(dtype)
            back = [order.index(d) for d in range(len(order))]
            params.append(torch.nn.Parameter(theta.permute(order).contiguous().permute(back)))
        return params, [{"params": [p], "map": m} for p, m in zip(params, maps, strict=True)]

    theirs, their_groups = made()
    rng = np.random.default_rng(9)
    ours, groups = made()
    expected = OPTIMIZERS[name](their_groups)
    train(expected, theirs)
    claimed(monkeypatch)
    optimizer = OPTIMIZERS[name](groups)
    train(optimizer, ours)
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(raw(p), raw(q))
        for key, value in optimizer.state[p].items():
            np.testing.assert_array_equal(raw(value), raw(expected.state[q][key]), err_msg=key)


@needs_nvcc
def test_what_lies_on_the_device_is_read_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A learning rate, the scale of gradients, and whether they are finite."""
    ours, theirs = parameters(), parameters()
    expected = ft.Adam(theirs, 0.05, map="log")
    optimizer = ft.Adam(ours, torch.tensor(0.05), map="log")
    for step, (lr, scale, found) in enumerate(
        [(0.1, 4.0, 0.0), (0.2, 8.0, 1.0), (0.3, 2.0, 0.0), (0.0, 2.0, 0.0)]
    ):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.full_like(p, step + 0.5)
            q.grad = p.grad.clone()
        for o in (optimizer, expected):
            o.grad_scale, o.found_inf = torch.tensor(scale), torch.tensor(found)
        optimizer.param_groups[0]["lr"].fill_(lr)
        expected.param_groups[0]["lr"] = float(torch.tensor(lr))
        expected.step()
        with monkeypatch.context() as patch:
            claimed(patch)
            patch.setattr(torch.Tensor, "__float__", lambda x: pytest.fail("was read"))
            optimizer.step()
    assert optimizer.state[ours[0]]["step"] == 3
    same_state(optimizer, expected)


@needs_nvcc
def test_a_state_is_that_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Saved there and loaded here, and the way back; pickled; edited between two steps."""
    ours, theirs = parameters(), parameters()
    expected = ft.AdamW(theirs, 0.05, map="log")
    train(expected, theirs)
    with monkeypatch.context() as patch:
        claimed(patch)
        optimizer = ft.AdamW(ours, 0.05, map="log")
        train(optimizer, ours, 1)
        for p, q in zip(ours, theirs, strict=True):
            p.data.copy_(q)
        optimizer.load_state_dict(deepcopy(expected.state_dict()))
        ours, optimizer = deepcopy((ours, optimizer))
        with torch.no_grad():
            ours[0].mul_(2)
        train(optimizer, ours, 2)
    with torch.no_grad():
        theirs[0].mul_(2)
    train(expected, theirs, 2)
    same_state(optimizer, expected)


@needs_nvcc
@pytest.mark.parametrize("nonfinite", ["ignore", "skip", "raise"])
@pytest.mark.parametrize(
    ("max_norm", "norm_space"), [(None, "theta"), (0.5, "theta"), (0.5, "z"), (1e9, "z")]
)
def test_gradients_are_limited(
    max_norm: float | None, norm_space: str, nonfinite: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on the CPU: by their norm; where some are not finite, or GradScaler found so."""
    options: dict[str, Any] = {"max_norm": max_norm, "norm_space": norm_space, "nonfinite": nonfinite}
    ours, theirs = parameters(), parameters()
    expected = ft.Adam(theirs, 0.05, map="log", **options)
    with monkeypatch.context() as patch:
        claimed(patch)
        optimizer = ft.Adam(ours, torch.tensor(0.05), map="log", **options)
    for step, (worst, scale, found) in enumerate(
        [(1.0, 4.0, 0.0), (np.inf, 8.0, 0.0), (np.nan, 8.0, 1.0), (2.0, 2.0, 1.0), (-3.0, 2.0, 0.0)]
    ):
        refused = []
        for o, params in ((expected, theirs), (optimizer, ours)):
            for p in params:
                p.grad = torch.full_like(p, step + 0.5)
            params[1].grad[3] = worst
            o.grad_scale, o.found_inf = torch.tensor(scale), torch.tensor(found)
            with monkeypatch.context() as patch:
                if o is optimizer:
                    claimed(patch)
                    if nonfinite != "raise":
                        patch.setattr(torch.Tensor, "__float__", lambda x: pytest.fail("was read"))
                try:
                    o.step()
                except FloatingPointError as error:
                    refused.append(str(error))
        assert len(refused) == (2 if nonfinite == "raise" and step == 1 else 0)
        assert len(set(refused)) <= 1
        assert optimizer.skipped == expected.skipped == (nonfinite == "skip" and step > 0)
        same_state(optimizer, expected, one_nan)
    assert deepcopy(optimizer).skipped == optimizer.skipped


def test_a_norm_is_that_of_one_device() -> None:
    optimizer = ft.Adam(parameters(), 0.1, max_norm=1.0)
    with pytest.raises(NotImplementedError, match=r"^x: is on meta, and others on cpu"):
        optimizer._refuse_device(torch.empty(3, device="meta"), optimizer.param_groups[0], "x")


def test_what_steps_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is launched."""
    sizes = SimpleNamespace(args_bytes=lambda dtype: [256] * len(NAMES))  # and nothing that launches
    monkeypatch.setattr(_torch_cuda, "module", lambda: sizes)
    claimed(monkeypatch)
    p = parameters()[0]
    made: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (NotImplementedError, "params[0]: its map has no step", {"map": fm.Chain("log", "asinh")}),
        (NotImplementedError, "params[0]: its map has no step", {"map": fm.Log().inv}),
        (
            NotImplementedError,
            "params[0]: infinite bounds make different maps",
            {"map": fm.Interval(0, [1.0, np.inf, *[2] * 5])},
        ),
        (ValueError, "map: parameters of shape (6,)", {"map": fm.Asinh([1.0] * 6)}),
        (NotImplementedError, "params[0]: its map has no step", {"map": fm.Interval(-np.inf, 2.0)}),
        (ValueError, "lr: expected one float32", {"lr": torch.ones(2)}),
        (ValueError, "lr: expected one float32", {"lr": torch.tensor(1)}),
        (fm.DomainError, "params[0]: 21 values are outside the domain", {"map": fm.Log(low=1.0)}),
    ]
    for kind, message, options in made:
        with pytest.raises(kind, match=f"^{re.escape(message)}"):
            ft.Adam([p], **{"lr": 0.1, **options})

    def step(change: Any, mask: Any = None) -> None:
        params = parameters()[:2]
        optimizer = ft.Adam(params, 0.1, map="log")
        for q in params:
            q.grad = torch.ones_like(q)
        change(optimizer, params[0], optimizer.state[params[0]])
        optimizer.step(mask=mask)

    def other_strides(o: Any, p: Any, state: Any) -> None:
        p.grad = torch.ones(7, 3).t()

    def overlap(o: Any, p: Any, state: Any) -> None:
        p.grad = state["z"]

    def other_dtype(o: Any, p: Any, state: Any) -> None:
        state["exp_avg"] = state["exp_avg"].half()

    def own_counts(o: Any, p: Any, state: Any) -> None:
        state["step"] = torch.zeros(3)

    changed: list[tuple[type[Exception], str, Any]] = [
        (ValueError, "params[0]: gradient of strides", other_strides),
        (ValueError, "params[0]: its memory overlaps", overlap),
        (TypeError, "params[0]: its state 'exp_avg' has dtype", other_dtype),
        (NotImplementedError, "params[0]: rows that count their own", own_counts),
    ]
    for kind, message, change in changed:
        with pytest.raises(kind, match=f"^{re.escape(message)}"):
            step(change)
    with pytest.raises(NotImplementedError, match=r"^mask: params\[0\] is on"):
        step(lambda *_: None, torch.ones(3, dtype=torch.bool))
    optimizer = ft.Adam([p], 0.1, map="log")
    for call in (lambda: optimizer.append({p: torch.ones(1, 7)}), lambda: optimizer.reset(torch.tensor([1]))):
        with pytest.raises(NotImplementedError, match=r"^params\[0\]: rows that count their own"):
            call()


def test_a_graph_needs_parameters_on_a_gpu() -> None:
    with pytest.raises(ValueError, match=r"^capturable: "):
        ft.Adam(parameters(), 0.1, capturable=True)
