# Written by `fastmap maps --stubs`; a test compares this file with the catalog.
from numpy.typing import ArrayLike

from fastmap._map import CatalogMap, Value

class Identity(CatalogMap):
    def __init__(self) -> None: ...

class Affine(CatalogMap):
    shift: Value
    scale: Value
    def __init__(self, shift: ArrayLike = 0.0, scale: ArrayLike = 1.0) -> None: ...

class MinMax(CatalogMap):
    low: Value
    high: Value
    def __init__(self, low: ArrayLike = 0.0, high: ArrayLike = 1.0) -> None: ...

class Log(CatalogMap):
    low: Value
    def __init__(self, low: ArrayLike = 0.0) -> None: ...

class Log2(CatalogMap):
    low: Value
    def __init__(self, low: ArrayLike = 0.0) -> None: ...

class Log10(CatalogMap):
    low: Value
    def __init__(self, low: ArrayLike = 0.0) -> None: ...

class Log1p(CatalogMap):
    def __init__(self) -> None: ...

class LogUnit(CatalogMap):
    low: Value
    high: Value
    def __init__(self, low: ArrayLike = 1e-06, high: ArrayLike = 1.0) -> None: ...

class OneMinusLog(CatalogMap):
    def __init__(self) -> None: ...

class LogLinear(CatalogMap):
    def __init__(self) -> None: ...

class Softplus(CatalogMap):
    beta: Value
    low: Value
    def __init__(self, beta: ArrayLike = 1.0, low: ArrayLike = 0.0) -> None: ...

class Squareplus(CatalogMap):
    b: Value
    low: Value
    def __init__(self, b: ArrayLike = 4.0, low: ArrayLike = 0.0) -> None: ...

class Sqrt(CatalogMap):
    def __init__(self) -> None: ...

class Power(CatalogMap):
    exponent: Value
    def __init__(self, exponent: ArrayLike = 0.5) -> None: ...

class SignedPower(CatalogMap):
    exponent: Value
    def __init__(self, exponent: ArrayLike = 0.5) -> None: ...

class BoxCox(CatalogMap):
    lmbda: Value
    def __init__(self, lmbda: ArrayLike = 0.5) -> None: ...

class YeoJohnson(CatalogMap):
    lmbda: Value
    def __init__(self, lmbda: ArrayLike = 0.5) -> None: ...

class Reciprocal(CatalogMap):
    def __init__(self) -> None: ...

class MinuitSqrt(CatalogMap):
    low: Value
    def __init__(self, low: ArrayLike = 0.0) -> None: ...

class Interval(CatalogMap):
    low: Value
    high: Value
    def __init__(self, low: ArrayLike = 0.0, high: ArrayLike = 1.0) -> None: ...

class Tanh(CatalogMap):
    low: Value
    high: Value
    def __init__(self, low: ArrayLike = -1.0, high: ArrayLike = 1.0) -> None: ...

class Probit(CatalogMap):
    low: Value
    high: Value
    def __init__(self, low: ArrayLike = 0.0, high: ArrayLike = 1.0) -> None: ...

class Cloglog(CatalogMap):
    low: Value
    high: Value
    def __init__(self, low: ArrayLike = 0.0, high: ArrayLike = 1.0) -> None: ...

class Loglog(CatalogMap):
    low: Value
    high: Value
    def __init__(self, low: ArrayLike = 0.0, high: ArrayLike = 1.0) -> None: ...

class Cauchy(CatalogMap):
    low: Value
    high: Value
    def __init__(self, low: ArrayLike = 0.0, high: ArrayLike = 1.0) -> None: ...

class Algebraic(CatalogMap):
    low: Value
    high: Value
    def __init__(self, low: ArrayLike = -1.0, high: ArrayLike = 1.0) -> None: ...

class Softsign(CatalogMap):
    low: Value
    high: Value
    def __init__(self, low: ArrayLike = -1.0, high: ArrayLike = 1.0) -> None: ...

class Arcsine(CatalogMap):
    low: Value
    high: Value
    def __init__(self, low: ArrayLike = -1.0, high: ArrayLike = 1.0) -> None: ...

class SoftClip(CatalogMap):
    low: Value
    high: Value
    hinge_softness: Value
    def __init__(
        self, low: ArrayLike = 0.0, high: ArrayLike = 1.0, hinge_softness: ArrayLike = 1.0
    ) -> None: ...

class Asinh(CatalogMap):
    scale: Value
    def __init__(self, scale: ArrayLike = 1.0) -> None: ...

class SymLog(CatalogMap):
    scale: Value
    def __init__(self, scale: ArrayLike = 1.0) -> None: ...

class SinhArcsinh(CatalogMap):
    skewness: Value
    tailweight: Value
    def __init__(self, skewness: ArrayLike = 0.0, tailweight: ArrayLike = 1.0) -> None: ...

class LambertW(CatalogMap):
    tailweight: Value
    def __init__(self, tailweight: ArrayLike = 0.5) -> None: ...

class LeakyReLU(CatalogMap):
    slope: Value
    def __init__(self, slope: ArrayLike = 0.01) -> None: ...

class LeakyTanh(CatalogMap):
    max_val: Value
    def __init__(self, max_val: ArrayLike = 3.0) -> None: ...

class Kumaraswamy(CatalogMap):
    concentration1: Value
    concentration0: Value
    def __init__(self, concentration1: ArrayLike = 1.0, concentration0: ArrayLike = 1.0) -> None: ...

Logit = Interval
CLASSES: tuple[type[CatalogMap], ...]

def stubs() -> str: ...

__all__ = [
    "Affine",
    "Algebraic",
    "Arcsine",
    "Asinh",
    "BoxCox",
    "Cauchy",
    "Cloglog",
    "Identity",
    "Interval",
    "Kumaraswamy",
    "LambertW",
    "LeakyReLU",
    "LeakyTanh",
    "Log",
    "Log10",
    "Log1p",
    "Log2",
    "LogLinear",
    "LogUnit",
    "Logit",
    "Loglog",
    "MinMax",
    "MinuitSqrt",
    "OneMinusLog",
    "Power",
    "Probit",
    "Reciprocal",
    "SignedPower",
    "SinhArcsinh",
    "SoftClip",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Squareplus",
    "SymLog",
    "Tanh",
    "YeoJohnson",
]
