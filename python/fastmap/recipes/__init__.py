"""Complete tunings of small models on data that need no download; ``fastmap tune`` runs them."""

from __future__ import annotations

NAMES = ("cancer", "cnn", "rnn", "transformer")
ALIASES = {"digits": "cnn"}
