"""Complete tunings of small torch models on data that scikit-learn ships; ``fastmap tune`` runs them."""

from __future__ import annotations

NAMES = ("cancer", "digits")
