"""The classes of structured maps, from their native catalog; `structured.pyi` has them for type checkers."""

from __future__ import annotations

from fastmap._structured import CLASSES

globals().update(CLASSES)

__all__ = sorted(CLASSES)  # noqa: PLE0605 (a list)
