"""Who else computes a map, and how: each library at its best, and as one writes it without thinking.

A library that has the mapping as one function is called by it; else the catalog's formula is evaluated with
its functions. Peers that can write into a given output do so.
"""

from __future__ import annotations

import importlib
import math
import re
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np

from fastmap import _functional
from fastmap._map import CatalogMap

Array = np.ndarray[Any, Any]
Run = Callable[[], Any]  # gives the result, or None where it is in the output
Key = tuple[str, str]  # map and direction

EAGER = ("numpy", "torch", "torch out", "torch.distributions")
COMPILED = ("numexpr", "torch.compile", "jax.jit")
PYTHON = ("loop", "comprehension")
LIMITS = ("streaming copy", "memcpy")
LARGEST_FOR_PYTHON = 10**6


def _steps(*names: str) -> Callable[[Any, Any, Any], None]:
    """Functions of one argument in a row, in place."""

    def run(library: Any, x: Any, out: Any) -> None:
        for name in names:
            getattr(library, name)(x, out=out)
            x = out

    return run


def _signed(name: str) -> Callable[[Any, Any, Any], None]:
    """sign(x) · function(|x|)."""

    def run(library: Any, x: Any, out: Any) -> None:
        _steps("absolute", name)(library, x, out)
        library.copysign(out, x, out=out)

    return run


def _logit(library: Any, x: Any, out: Any) -> None:
    library.negative(x, out=out)
    library.add(out, 1, out=out)
    library.divide(x, out, out=out)
    library.log(out, out=out)


def _sigmoid(library: Any, x: Any, out: Any) -> None:
    _steps("negative", "exp")(library, x, out)
    library.add(out, 1, out=out)
    library.reciprocal(out, out=out)


# With the output given, in the functions that NumPy and torch both have.
_IN_PLACE: dict[Key, Callable[[Any, Any, Any], None]] = {
    ("identity", "forward"): lambda lib, x, out: lib.add(x, 0.0, out=out),
    ("identity", "inverse"): lambda lib, x, out: lib.add(x, 0.0, out=out),
    ("affine", "forward"): lambda lib, x, out: lib.divide(x, 1.0, out=out),
    ("affine", "inverse"): lambda lib, x, out: lib.multiply(x, 1.0, out=out),
    ("log", "forward"): _steps("log"),
    ("log", "inverse"): _steps("exp"),
    ("one_minus_log", "forward"): _steps("negative", "log1p", "negative"),
    ("one_minus_log", "inverse"): _steps("negative", "expm1", "negative"),
    ("softplus", "forward"): _steps("expm1", "log"),
    ("softplus", "inverse"): _steps("exp", "log1p"),
    ("interval", "forward"): _logit,
    ("interval", "inverse"): _sigmoid,
    ("tanh", "forward"): _steps("arctanh"),
    ("tanh", "inverse"): _steps("tanh"),
    ("asinh", "forward"): _steps("arcsinh"),
    ("asinh", "inverse"): _steps("sinh"),
    ("symlog", "forward"): _signed("log1p"),
    ("symlog", "inverse"): _signed("expm1"),
}

# What torch has as one function.
_TORCH: dict[Key, str] = {
    ("log", "forward"): "log",
    ("log", "inverse"): "exp",
    ("interval", "forward"): "logit",
    ("interval", "inverse"): "sigmoid",
    ("softplus", "inverse"): "nn.functional.softplus",
    ("tanh", "forward"): "atanh",
    ("tanh", "inverse"): "tanh",
    ("asinh", "forward"): "asinh",
    ("asinh", "inverse"): "sinh",
}

# Their forward is fastmap's inverse.
_TRANSFORMS: dict[str, str] = {
    "log": "ExpTransform",
    "interval": "SigmoidTransform",
    "softplus": "SoftplusTransform",
    "tanh": "TanhTransform",
}


def runs(m: CatalogMap, direction: str, x: Any, out: Any, compiled: Compiled) -> Iterator[tuple[str, Run]]:
    """Every peer for one map, direction and buffer; x and out are NumPy arrays, or tensors of bfloat16."""
    ours = getattr(_functional, direction)
    yield "fastmap", lambda: ours(x, m, out=out)
    identity = _functional.forward
    # The bytes, whatever they mean: 16-bit types would be widened and narrowed on the way.
    bytes_x, bytes_out = (
        a if isinstance(a, np.ndarray) else a.view(optional("torch").int16).numpy().view("f4")
        for a in (x, out)
    )
    yield "streaming copy", lambda: identity(bytes_x, "identity", out=bytes_out, invalid="nan")
    yield "memcpy", lambda: np.copyto(bytes_out, bytes_x)
    if isinstance(x, np.ndarray):
        yield from _numpy_runs(m, direction, x, out, compiled)
    if (torch := optional("torch")) is not None:
        yield from _torch_runs(torch, m, direction, torch.as_tensor(x), torch.as_tensor(out))
        yield from compiled.runs(m, direction, torch.as_tensor(x), torch.as_tensor(out))


def _torch_runs(torch: Any, m: CatalogMap, direction: str, x: Any, out: Any) -> Iterator[tuple[str, Run]]:
    key = (m.name, direction)
    natural = _natural(torch, m, direction)
    yield "torch", lambda: natural(x)
    if key in _TORCH and "." not in _TORCH[key]:
        function = getattr(torch, _TORCH[key])
        yield "torch out", lambda: function(x, out=out)
    elif key in _IN_PLACE:
        in_place = _IN_PLACE[key]
        yield "torch out", lambda: in_place(torch, x, out)
    if m.name in _TRANSFORMS:
        transform = getattr(torch.distributions.transforms, _TRANSFORMS[m.name])()
        transform = transform if direction == "inverse" else transform.inv
        yield "torch.distributions", lambda: transform(x)


def _numpy_runs(
    m: CatalogMap, direction: str, x: Array, out: Array, compiled: Compiled
) -> Iterator[tuple[str, Run]]:
    if (m.name, direction) in _IN_PLACE:
        in_place = _IN_PLACE[m.name, direction]
        yield "numpy", lambda: in_place(np, x, out)
    else:
        by_numpy = formula(m, direction, np)
        yield "numpy", lambda: by_numpy(x)
    if compiled.wanted and (numexpr := optional("numexpr")) is not None:
        text = _numexpr_text(m, direction)
        names = {"x": x, **{k: x.dtype.type(v) for k, v in m.params.items()}}
        yield "numexpr", lambda: numexpr.evaluate(text, names, out=out, casting="same_kind")
    if x.size <= LARGEST_FOR_PYTHON:
        numbers = x.tolist()
        by_python = formula(m, direction, math)

        def loop() -> list[float]:
            result = []
            for t in numbers:
                result.append(by_python(t))  # the loop is what is measured
            return result

        yield "loop", loop
        yield "comprehension", lambda: [by_python(t) for t in numbers]


def _natural(torch: Any, m: CatalogMap, direction: str) -> Callable[[Any], Any]:
    """The mapping as a torch user writes it."""
    name = _TORCH.get((m.name, direction))
    if name is None:
        return formula(m, direction, torch)
    function = torch
    for part in name.split("."):
        function = getattr(function, part)
    return function  # type: ignore[no-any-return]


class Compiled:
    """The compiled peers. Compilation takes seconds, so a function is compiled once for all sizes."""

    def __init__(self, wanted: bool) -> None:
        self.wanted = wanted
        self._functions: dict[tuple[str, ...], Any] = {}

    def runs(self, m: CatalogMap, direction: str, x: Any, out: Any) -> Iterator[tuple[str, Run]]:
        """torch.compile with the output given, and JAX, which cannot take one."""
        if not self.wanted:
            return
        torch, jax = optional("torch"), optional("jax")
        function = self._once("torch", m, direction, x.dtype, lambda: self._by_torch(torch, m, direction))
        yield "torch.compile", lambda: function(x, out)
        if jax is not None and x.dtype is not torch.bfloat16:
            jax.config.update("jax_enable_x64", True)
            by_jax = self._once(
                "jax", m, direction, x.dtype, lambda: jax.jit(formula(m, direction, jax.numpy))
            )
            jx = jax.numpy.asarray(x.numpy())
            yield "jax.jit", lambda: np.asarray(by_jax(jx).block_until_ready())

    def _once(self, library: str, m: CatalogMap, direction: str, dtype: Any, make: Callable[[], Any]) -> Any:
        key = (library, m.name, direction, str(dtype))
        if key not in self._functions:
            self._functions[key] = make()
        return self._functions[key]

    @staticmethod
    def _by_torch(torch: Any, m: CatalogMap, direction: str) -> Any:
        natural = _natural(torch, m, direction)

        def into(x: Any, out: Any) -> None:
            out.copy_(natural(x))

        warnings.filterwarnings("ignore", category=DeprecationWarning, module="torch")
        # All functions share one code object; past the limit, torch would run the rest without compiling.
        torch._dynamo.config.recompile_limit = 1000
        return torch.compile(into, dynamic=True)


def formula(m: CatalogMap, direction: str, library: ModuleType) -> Callable[[Any], Any]:
    """The catalog's formula as a function of one variable, in the functions of `library`."""
    names = ("log", "log1p", "exp", "expm1", "sqrt", "abs", "sign", "sinh", "cosh", "tanh")
    scope: dict[str, Any] = {name: getattr(library, name, None) for name in names}
    scope["asinh"] = getattr(library, "asinh", None) or getattr(library, "arcsinh", None)
    scope["abs"] = scope["abs"] or abs
    scope["sign"] = scope["sign"] or (lambda v: math.copysign(1.0, v))
    variable = "t" if direction == "forward" else "z"
    text = m.entry["formulas"][direction]
    if text == variable:  # the identity: a copy
        text = f"{variable} * 1"
    scope |= m.params
    return eval(f"lambda {variable}: {text}", scope)  # type: ignore[no-any-return]


def _numexpr_text(m: CatalogMap, direction: str) -> str:
    """The catalog's formula in the words of numexpr, of the variable x."""
    variable = "t" if direction == "forward" else "z"
    text = re.sub(rf"\b{variable}\b", "x", m.entry["formulas"][direction])
    return text.replace("asinh", "arcsinh").replace("sign(x)", "where(x < 0, -1, 1)")


def optional(name: str) -> Any:
    """The module, or None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
