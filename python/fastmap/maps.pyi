# Written by `fastmap maps --stubs`; a test compares this file with the catalog.
from numpy.typing import ArrayLike

from fastmap._map import CatalogMap, Value

class Identity(CatalogMap):
    def __init__(self) -> None: ...

class Affine(CatalogMap):
    shift: Value
    scale: Value
    def __init__(self, shift: ArrayLike = 0.0, scale: ArrayLike = 1.0) -> None: ...

class Log(CatalogMap):
    low: Value
    def __init__(self, low: ArrayLike = 0.0) -> None: ...

class OneMinusLog(CatalogMap):
    def __init__(self) -> None: ...

class Softplus(CatalogMap):
    beta: Value
    low: Value
    def __init__(self, beta: ArrayLike = 1.0, low: ArrayLike = 0.0) -> None: ...

class Interval(CatalogMap):
    low: Value
    high: Value
    def __init__(self, low: ArrayLike = 0.0, high: ArrayLike = 1.0) -> None: ...

class Tanh(CatalogMap):
    low: Value
    high: Value
    def __init__(self, low: ArrayLike = -1.0, high: ArrayLike = 1.0) -> None: ...

class Asinh(CatalogMap):
    scale: Value
    def __init__(self, scale: ArrayLike = 1.0) -> None: ...

class SymLog(CatalogMap):
    scale: Value
    def __init__(self, scale: ArrayLike = 1.0) -> None: ...

Logit = Interval
CLASSES: tuple[type[CatalogMap], ...]

def stubs() -> str: ...

__all__ = [
    "Affine",
    "Asinh",
    "Identity",
    "Interval",
    "Log",
    "Logit",
    "OneMinusLog",
    "Softplus",
    "SymLog",
    "Tanh",
]
