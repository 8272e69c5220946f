"""A character model on the text of Python's own help topics (`pydoc_data`), in bits per character.

Paragraphs that topics share count once, so that no paragraph is both trained on and tested on. The text is
that of the running Python: its versions differ a little.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fastmap as fm
from fastmap.recipes._arms import DEFAULTS, HYPERPARAMETERS, Part, Recipe, Theta
from fastmap.recipes.cnn import predict

CONTEXT, WIDTH, HEADS = 32, 32, 4
WINDOWS = (640, 200, 200)  # of the three parts
NEWLINE = "\n\n"


@lru_cache
def paragraphs() -> list[str]:
    """All paragraphs of the topics, each once, however it is indented."""
    from pydoc_data.topics import topics

    found: dict[str, str] = {}
    for topic in topics.values():
        for paragraph in re.split(r"\n{2,}", topic.strip("\n")):
            found.setdefault(" ".join(paragraph.split()), paragraph)
    return list(found.values())


@lru_cache
def alphabet() -> str:
    """The characters of the text."""
    return "".join(sorted(set(NEWLINE.join(paragraphs()))))


def load(seed: int) -> tuple[Part, Part, Part]:
    """60/20/20 of the paragraphs, cut into windows of characters; the labels are the next characters."""
    order = np.random.default_rng(seed).permutation(len(paragraphs()))
    first, second = int(0.6 * len(order)), int(0.8 * len(order))
    number = {character: i for i, character in enumerate(alphabet())}

    def part(rows: Any, windows: int) -> Part:
        text = NEWLINE.join(paragraphs()[row] for row in rows)[: windows * CONTEXT + 1]
        codes = torch.tensor([number[character] for character in text])
        return codes[:-1].view(-1, CONTEXT), codes[1:].view(-1, CONTEXT)

    train, validation, test = map(part, np.split(order, [first, second]), WINDOWS)
    return train, validation, test


class Embedding(nn.Module):
    """A vector per character plus one per position."""

    def __init__(self) -> None:
        super().__init__()
        self.character = nn.Embedding(len(alphabet()), WIDTH)
        self.position = nn.Parameter(0.02 * torch.randn(CONTEXT, WIDTH))

    def forward(self, codes: Tensor) -> Tensor:
        return self.character(codes) + self.position


class Attention(nn.Module):
    """Each character looks back at those before it."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.look(x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.out(seen.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention, then a network per character; both are added to what comes in."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.LayerNorm(WIDTH, bias=False), Attention(), nn.Dropout(dropout))
        self.network = nn.Sequential(
            nn.LayerNorm(WIDTH, bias=False),
            nn.Linear(WIDTH, 4 * WIDTH),
            nn.GELU(),
            nn.Linear(4 * WIDTH, WIDTH),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        return x + self.network(x)


def model(theta: Theta) -> nn.Module:
    """One block: embedding-attention-network-linear."""
    return nn.Sequential(
        Embedding(),
        Block(theta["dropout"]),
        nn.LayerNorm(WIDTH, bias=False),
        nn.Linear(WIDTH, len(alphabet())),
    )


def log_loss(output: Tensor, labels: Tensor) -> Tensor:
    """Bits per character."""
    return F.cross_entropy(output.flatten(0, -2), labels.flatten()) / np.log(2)


def optimizer(parameters: Any, theta: Theta) -> torch.optim.Optimizer:
    """AdamW; its first beta is the momentum."""
    betas = theta["momentum"], theta["beta2"]
    return torch.optim.AdamW(
        parameters, lr=theta["lr"], betas=betas, weight_decay=theta["weight_decay"], fused=True
    )


RECIPE = Recipe(
    name="transformer",
    title="Python's help topics, a Transformer of one block on characters, AdamW",
    load=load,
    model=model,
    log_loss=log_loss,
    predict=predict,
    optimizer=optimizer,
    seeds=4,
    trials=16,
    epochs=3,
    batch=32,
    steps=30,
    rows=64,
    space=fm.Space({**HYPERPARAMETERS, "beta2": fm.Param(0.5, 0.9999, map="one_minus_log")}),
    defaults={**DEFAULTS, "beta2": 0.999},
    unit="bits/character",
)
