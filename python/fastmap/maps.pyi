# Written by `fastmap maps --stubs`; a test compares this file with the catalog.
from fastmap._map import Map

class Identity(Map):
    def __init__(self) -> None: ...

class Affine(Map):
    shift: float
    scale: float
    def __init__(self, shift: float = 0.0, scale: float = 1.0) -> None: ...

class Log(Map):
    low: float
    def __init__(self, low: float = 0.0) -> None: ...

class OneMinusLog(Map):
    def __init__(self) -> None: ...

class Softplus(Map):
    beta: float
    low: float
    def __init__(self, beta: float = 1.0, low: float = 0.0) -> None: ...

class Interval(Map):
    low: float
    high: float
    def __init__(self, low: float = 0.0, high: float = 1.0) -> None: ...

class Tanh(Map):
    low: float
    high: float
    def __init__(self, low: float = -1.0, high: float = 1.0) -> None: ...

class Asinh(Map):
    scale: float
    def __init__(self, scale: float = 1.0) -> None: ...

class SymLog(Map):
    scale: float
    def __init__(self, scale: float = 1.0) -> None: ...

Logit = Interval
CLASSES: tuple[type[Map], ...]

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
