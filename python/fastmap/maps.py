"""The map classes, built from the native catalog; `maps.pyi` holds their signatures for type checkers."""

from __future__ import annotations

from fastmap import _map

CLASSES = tuple(_map.build_classes())
globals().update({cls.__name__: cls for cls in CLASSES})

Logit = globals()["Interval"]
_map.add_alias("logit", "interval")

__all__ = sorted(["Logit", *(cls.__name__ for cls in CLASSES)])  # noqa: PLE0605 (a list)


def stubs() -> str:
    """The text of `maps.pyi`, written by ``fastmap maps --stubs``."""
    lines = [
        "# Written by `fastmap maps --stubs`; a test compares this file with the catalog.",
        "from numpy.typing import ArrayLike",
        "",
        "from fastmap._map import CatalogMap, Value",
        "",
    ]
    for cls in CLASSES:
        params = cls.entry["params"]
        args = "".join(f", {p['name']}: ArrayLike = {p['default']}" for p in params)
        lines.append(f"class {cls.__name__}(CatalogMap):")
        lines += [f"    {p['name']}: Value" for p in params]
        line = f"    def __init__(self{args}) -> None: ..."
        if len(line) > 110:  # as ruff formats it
            line = f"    def __init__(\n        self{args}\n    ) -> None: ..."
        lines += [line, ""]
    lines += [
        "Logit = Interval",
        "CLASSES: tuple[type[CatalogMap], ...]",
        "",
        "def stubs() -> str: ...",
        "",
        "__all__ = [",
        *(f'    "{name}",' for name in __all__),
        "]",
        "",
    ]
    return "\n".join(lines)
