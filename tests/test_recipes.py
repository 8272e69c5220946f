"""The data and models of the recipes."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from fastmap.recipes import ALIASES, NAMES, _arms, rnn, transformer
from fastmap.recipes._run import recipe_named


@pytest.mark.parametrize("name", NAMES)
def test_parts_depend_on_the_seed_alone(name):
    recipe = recipe_named(name)
    first, again, other = (_arms.split(recipe, seed) for seed in (0, 0, 1))
    for part in ("train", "validation", "test"):
        (x, y), (x_again, y_again) = getattr(first, part), getattr(again, part)
        assert len(x) == len(y) > 0
        assert torch.equal(x, x_again)
        assert torch.equal(y, y_again)
    assert not torch.equal(first.train[0][:100], other.train[0][:100])
    assert recipe.rows is None or recipe.rows <= len(first.train[0])
    assert recipe.space.keys() == recipe.defaults.keys()


@pytest.mark.parametrize("name", NAMES)
def test_bounded_weights_exist_and_lie_inside(name):
    recipe = recipe_named(name)
    theta = {key: param.high for key, param in recipe.space.items()}
    weights = dict(_arms.initial_model(recipe, 0, theta).named_parameters())
    for key, map in recipe.bounded.items():
        low, high = map.domain
        assert (weights[key] > low).all()
        assert (weights[key] < high).all()


def test_alias_is_a_recipe():
    assert set(ALIASES.values()) <= set(NAMES)
    assert not set(ALIASES) & set(NAMES)


def test_signals_leave_the_random_state_alone():
    rnn.signals.cache_clear()
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002, the state that the generator uses
    numbers = random.random(), np.random.random()  # noqa: NPY002
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    x, y = rnn.signals()
    assert (random.random(), np.random.random()) == numbers  # noqa: NPY002
    assert x.shape == (rnn.SAMPLES, 1, 40)
    assert sorted(set(y)) == list(range(10))


def test_decaying_states_are_the_recurrence():
    torch.manual_seed(0)
    layer = rnn.Decaying(3, 0.99)
    assert layer.decay[0].item() == 0.5
    assert layer.decay[-1].item() == pytest.approx(0.99)
    signal = torch.randn(2, 3, 7)
    driven = layer.scale * layer.weight(signal)
    state, states = torch.zeros(2, rnn.STATES), []
    for step in range(7):
        state = layer.decay * state + driven[..., step]
        states.append(state)
    torch.testing.assert_close(layer(signal), torch.stack(states, -1))


def test_characters_see_only_those_before():
    model = _arms.initial_model(transformer.RECIPE, 0).eval()
    codes = _arms.split(transformer.RECIPE, 0).train[0][:2].clone()
    before = model(codes)
    codes[:, 20] = (codes[:, 20] + 1) % len(transformer.alphabet())
    after = model(codes)
    assert torch.equal(before[:, :20], after[:, :20])
    assert not torch.equal(before[:, 20:], after[:, 20:])


def test_labels_are_the_next_characters_and_no_paragraph_is_in_two_parts():
    data = _arms.split(transformer.RECIPE, 0)
    texts = []
    for codes, labels in (data.train, data.validation, data.test):
        assert torch.equal(codes.flatten()[1:], labels.flatten()[:-1])
        texts.append("".join(transformer.alphabet()[code] for code in codes.flatten()))
    for one, other in ((0, 1), (0, 2), (1, 2)):
        whole = (" ".join(p.split()) for p in texts[one].split(transformer.NEWLINE)[1:-1])
        assert not set(whole) & {" ".join(p.split()) for p in texts[other].split(transformer.NEWLINE)}


def test_a_uniform_guess_costs_log2_of_the_alphabet():
    labels = torch.zeros(2, transformer.CONTEXT, dtype=torch.long)
    output = torch.zeros(2, transformer.CONTEXT, len(transformer.alphabet()))
    bits = transformer.log_loss(output, labels)
    assert float(bits) == pytest.approx(np.log2(len(transformer.alphabet())))
