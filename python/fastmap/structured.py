"""The classes of structured maps, built from their native catalog; `structured.pyi` names them for type checkers."""

from __future__ import annotations

from fastmap._structured import CLASSES

globals().update(CLASSES)

__all__ = sorted(CLASSES)  # noqa: PLE0605 (a list)
