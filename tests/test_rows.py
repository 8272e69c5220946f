"""Optimizer steps of some rows only, and rows that come and go."""

import itertools

import pytest
import torch

import fastmap as fm
import fastmap.torch as ft

N = 37
COLUMNS = fm.Interval(low=[0, -1, 0], high=[1, 4, float("inf")])
OPTIMIZERS = {
    "adam": lambda params, **k: ft.Adam(params, lr=0.1, **k),
    "adamw": lambda params, **k: ft.AdamW(params, lr=0.1, decay_space="z", **k),
    "momentum": lambda params, **k: ft.SGD(params, lr=0.1, momentum=0.9, dampening=0.5, **k),
    "lion": lambda params, **k: ft.Lion(params, lr=0.1, **k),
}
bits = {torch.float32: torch.int32, torch.float64: torch.int64, torch.bfloat16: torch.int16}


def parameter(shape, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.Parameter(torch.empty(shape, dtype=dtype).uniform_(0.2, 0.8, generator=generator))


def same(a, b):
    return a.shape == b.shape and torch.equal(a.view(bits[a.dtype]), b.view(bits[b.dtype]))


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    ("m", "shape"),
    [("identity", (N,)), ("log", (N, 5)), (COLUMNS, (N, 3)), (fm.Chain("log", "asinh"), (N, 2, 3)),
     ("softplus", (N, 300))],
    ids=["identity", "log", "columns", "chain", "wide"],
)  # fmt: skip
def test_a_row_moves_as_if_it_were_alone(make, dtype, m, shape):
    p = parameter(shape, dtype)
    alone = [torch.nn.Parameter(row.detach().clone()[None]) for row in p]
    together = make([p], map=m)
    each = [make([row], map=m) for row in alone]
    generator = torch.Generator().manual_seed(1)
    for share in (0.5, 0.0, 1.0, 0.3, 0.1, 0.5):
        mask = torch.rand(N, generator=generator) < share
        p.grad = torch.randn(shape, generator=generator).to(dtype)
        together.step(mask=mask)
        for row, optimizer, seen, gradient in zip(alone, each, mask, p.grad, strict=True):
            row.grad = gradient[None].clone()
            if seen:
                optimizer.step()
    assert same(p.detach(), torch.cat([row.detach() for row in alone]))
    states = [optimizer.state[row] for row, optimizer in zip(alone, each, strict=True)]
    for key, value in together.state[p].items():
        expected = torch.stack([s[key] for s in states])
        assert same(value, expected if key == "step" else expected[:, 0]), key


def test_all_rows_take_the_bits_of_a_plain_step_for_any_number_of_threads():
    results = []
    threads = fm.get_num_threads()
    for masked, n in itertools.product((False, True), (1, 2)):
        fm.set_num_threads(n)
        p = parameter((70_000, 3))
        optimizer = ft.Adam([p], lr=0.1, map=fm.Interval(0, 1))
        for seed in range(3):
            p.grad = parameter(p.shape, seed=seed).detach() - 0.5
            optimizer.step(mask=torch.ones(len(p), dtype=torch.bool) if masked else None)
        results.append(p.detach())
    fm.set_num_threads(threads)
    assert all(same(r, results[0]) for r in results)


def test_hidden_rows_are_neither_read_nor_written():
    p = parameter((N, 4))
    optimizer = ft.Adam([p], lr=0.1, map="log", max_norm=1.0, nonfinite="raise")
    p.grad = torch.full((N, 4), float("nan"))
    p.grad[3] = 100.0
    mask = torch.zeros(N, dtype=torch.bool)
    mask[3] = True
    before = p.detach().clone()
    optimizer.step(mask=mask)  # neither the norm nor the check sees the NaN
    state = optimizer.state[p]
    assert same(p.detach()[~mask], before[~mask])
    assert not same(p.detach()[mask], before[mask])
    assert torch.count_nonzero(state["exp_avg"][~mask]) == 0
    assert state["step"].tolist() == mask.int().tolist()
    mask[5] = True
    after = p.detach().clone()
    with pytest.raises(FloatingPointError, match=r"4 gradients .* \(5, 0\)"):
        optimizer.step(mask=mask)
    assert same(p.detach(), after)
    assert state["step"][3] == 1


def test_masks_by_parameter():
    a, b, c = parameter((N, 2)), parameter((5,)), parameter(())
    optimizer = ft.Adam([a, b, c], lr=0.1)
    for p in (a, b, c):
        p.grad = torch.ones_like(p)
    mask = torch.arange(N) < 2
    optimizer.step(mask={a: mask})
    assert optimizer.state[a]["step"].sum() == 2
    assert optimizer.state[b]["step"] == optimizer.state[c]["step"] == 1
    optimizer.step()  # all rows, each with the correction of its own count
    assert optimizer.state[a]["step"].tolist() == [2, 2] + [1] * (N - 2)


def test_masks_that_do_not_fit_change_nothing():
    p, q = parameter((N, 2)), parameter((5,))
    optimizer = ft.Adam({"p": p, "q": q}.items(), lr=0.1, map="log")
    p.grad, q.grad = torch.ones_like(p), torch.ones_like(q)
    before = p.detach().clone()
    good = torch.ones(N, dtype=torch.bool)
    for mask, message in (
        (good, r"shape \(5,\) on the CPU for q"),
        ({p: good.float()}, "float32"),
        ({p: good[:, None]}, r"shape \(37,\)"),
        ({p: good[:-1]}, r"shape \(36,\)"),
        ({torch.ones(3): good}, "no parameter"),
    ):
        with pytest.raises(ValueError, match=message):
            optimizer.step(mask=mask)
    assert same(p.detach(), before)


def test_counts_of_rows_go_through_a_checkpoint(tmp_path):
    p = parameter((N, 2))
    optimizer = ft.Adam([p], lr=0.1, map="log")
    p.grad = torch.ones_like(p)
    optimizer.step(mask=torch.arange(N) % 2 == 0)
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    q = torch.nn.Parameter(p.detach().clone())
    other = ft.Adam([q], lr=0.1, map="log")
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for each, optim in ((p, optimizer), (q, other)):
        each.grad = torch.ones_like(each)
        optim.step()
    assert same(p.detach(), q.detach())
    assert other.state[q]["step"].tolist() == optimizer.state[p]["step"].tolist()


def scene():
    """Three attributes of N objects, one of them in a memory order of its own."""
    torch.manual_seed(0)
    scale = torch.nn.Parameter(torch.rand(3, N).t() + 0.5)
    position, opacity = torch.nn.Parameter(torch.randn(N, 2)), parameter((N, 1))
    groups = [
        {"params": [scale], "map": "log"},
        {"params": [position]},
        {"params": [opacity], "map": fm.Interval(0, 1)},
    ]
    return (scale, position, opacity), ft.Adam(groups, lr=0.05)


def train(params, optimizer, steps=3, **options):
    for _ in range(steps):
        optimizer.zero_grad()
        sum(((p - 0.3) ** 2).sum() for p in params).backward()
        optimizer.step(**options)


@pytest.mark.parametrize("masked", [False, True])
def test_selected_rows_go_on_as_if_the_others_had_never_been(masked):
    params, optimizer = scene()
    whole, unpruned = scene()
    mask = torch.arange(N) % 3 == 0 if masked else None
    for each, optim in ((params, optimizer), (whole, unpruned)):
        train(each, optim, mask=mask)
    keep = torch.arange(N) % 2 == 1
    optimizer.select(keep)
    assert all(len(p) == keep.sum() and p.grad is None for p in params)
    train(params, optimizer)
    train(whole, unpruned)
    for p, full in zip(params, whole, strict=True):
        assert same(p.detach(), full.detach()[keep])
        for key, value in optimizer.state[p].items():
            other = unpruned.state[full][key]
            assert same(value, other[keep] if other.ndim else other)


def test_rows_repeat_and_reorder_by_index():
    params, optimizer = scene()
    train(params, optimizer)
    old = [p.detach().clone() for p in params]
    moments = [optimizer.state[p]["exp_avg"].clone() for p in params]
    index = torch.tensor([3, 3, 0])
    optimizer.select(index)
    for p, before, moment in zip(params, old, moments, strict=True):
        assert same(p.detach(), before[index])
        assert same(optimizer.state[p]["exp_avg"], moment[index])
    train(params, optimizer)


def test_appended_rows_start_from_nothing():
    params, optimizer = scene()
    train(params, optimizer)
    fresh = [torch.full((2, *p.shape[1:]), 0.6) for p in params]
    optimizer.append(dict(zip(params, fresh, strict=True)))
    new = [torch.nn.Parameter(t.clone()) for t in fresh]
    groups = [{"params": [p], "map": g["map"]} for p, g in zip(new, optimizer.param_groups, strict=True)]
    alone = ft.Adam(groups, lr=0.05)
    train(params, optimizer)
    train(new, alone)
    for p, q in zip(params, new, strict=True):
        assert len(p) == N + 2
        assert same(p.detach()[N:], q.detach())
        assert optimizer.state[p]["step"].tolist() == [6.0] * N + [3.0] * 2


def test_reset_starts_rows_anew():
    params, optimizer = scene()
    train(params, optimizer)
    opacity = params[2]
    with torch.no_grad():
        opacity.clamp_(max=0.01)
    optimizer.reset(params=[opacity])
    fresh = torch.nn.Parameter(opacity.detach().clone())
    alone = ft.Adam([fresh], lr=0.05, map=fm.Interval(0, 1))
    for p, optim in ((opacity, optimizer), (fresh, alone)):
        train([p], optim, steps=2)
    assert same(opacity.detach(), fresh.detach())
    optimizer.reset(torch.tensor([1, 4]), [opacity])
    state = optimizer.state[opacity]
    assert state["step"][[1, 4]].sum() == 0
    assert state["step"].sum() == 2 * (N - 2)
    assert torch.count_nonzero(state["exp_avg"][[1, 4]]) == 0


def test_copies_of_rows_on_a_bound_can_start_anew():
    p = torch.nn.Parameter(torch.tensor([[0.5], [0.9]]))
    optimizer = ft.Adam([p], lr=50.0, map=fm.Interval(0, 1))
    p.grad = torch.tensor([[0.1], [-0.1]])
    optimizer.step()
    assert p.detach().flatten().tolist() == [p[0].item(), 1.0]  # rounds to the bound; z is finite
    z = optimizer.state[p]["z"].clone()
    optimizer.select(torch.tensor([1, 1]))
    optimizer.reset(torch.tensor([1]))
    assert same(optimizer.state[p]["z"], z[[1, 1]])
    assert optimizer.state[p]["step"].tolist() == [1.0, 0.0]


def test_surgery_that_does_not_fit_changes_nothing():
    (scale, position, opacity), optimizer = scene()
    train((scale, position, opacity), optimizer)
    before = {p: {k: v.clone() for k, v in optimizer.state[p].items()} for p in (scale, position, opacity)}
    cases = [
        (
            lambda: optimizer.select(torch.ones(N - 1, dtype=torch.bool)),
            ValueError,
            r"rows: of shape \(36,\)",
        ),
        (lambda: optimizer.select(torch.tensor([0, N])), ValueError, r"not in \[0, 37\)"),
        (lambda: optimizer.select(torch.tensor([-1])), ValueError, "not in"),
        (lambda: optimizer.select(torch.tensor([0.5])), ValueError, "float32"),
        (lambda: optimizer.select(torch.tensor([0]), [torch.ones(3)]), ValueError, "no parameter"),
        (lambda: optimizer.append({scale: torch.ones(2, 4)}), ValueError, r"\(M, 3\)"),
        (lambda: optimizer.append({scale: torch.ones(2, 3).double()}), ValueError, "float64"),
        (
            lambda: optimizer.append({position: torch.ones(1, 2), scale: -torch.ones(1, 3)}),
            fm.DomainError,
            "domain",
        ),
    ]
    for call, error, message in cases:
        with pytest.raises(error, match=message):
            call()
    with torch.no_grad():
        scale[0, 0] = -1.0
    with pytest.raises(fm.DomainError):
        optimizer.reset()
    for p, state in before.items():
        assert all(same(optimizer.state[p][key], value) for key, value in state.items())
    bounds = parameter((4, 2))
    rows = ft.Adam([bounds], map=fm.Interval(low=[[0.0]] * 4, high=1.0))
    with pytest.raises(ValueError, match="parameters per row"):
        rows.select(torch.tensor([0]))
