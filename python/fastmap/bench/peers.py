"""Who else computes a map, and how: each library at its best, and as one writes it without thinking.

A library that has the mapping as one function is called by it; else the catalog's formula is evaluated with
its functions. Peers that can write into a given output do so.
"""

from __future__ import annotations

import ast
import importlib
import math
import operator
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
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


def _power(library: Any, x: Any, out: Any) -> None:
    (library.power if library is np else library.pow)(x, 0.5, out=out)


def _exp10(library: Any, x: Any, out: Any) -> None:
    library.multiply(x, math.log(10), out=out)
    library.exp(out, out=out)


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
    ("log1p", "forward"): _steps("log1p"),
    ("log1p", "inverse"): _steps("expm1"),
    ("log2", "forward"): _steps("log2"),
    ("log2", "inverse"): _steps("exp2"),
    ("log10", "forward"): _steps("log10"),
    ("log10", "inverse"): _exp10,
    ("sqrt", "forward"): _steps("sqrt"),
    ("sqrt", "inverse"): _steps("square"),
    ("reciprocal", "forward"): _steps("reciprocal"),
    ("reciprocal", "inverse"): _steps("reciprocal"),
    ("power", "forward"): _power,
    ("power", "inverse"): _steps("square"),
    ("signed_power", "forward"): _signed("sqrt"),
    ("signed_power", "inverse"): _signed("square"),
    ("arcsine", "forward"): _steps("arcsin"),
    ("arcsine", "inverse"): _steps("sin"),
    ("min_max", "forward"): lambda lib, x, out: lib.multiply(x, 1.0, out=out),
    ("min_max", "inverse"): lambda lib, x, out: lib.multiply(x, 1.0, out=out),
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
    ("probit", "forward"): "special.ndtri",
    ("probit", "inverse"): "special.ndtr",
}

_NOT_IN_BFLOAT16 = {("probit", "forward")}  # of _TORCH, but for torch.compile, which computes it in float32

# Their forward is fastmap's inverse.
_TRANSFORMS: dict[str, str] = {
    "log": "ExpTransform",
    "interval": "SigmoidTransform",
    "softplus": "SoftplusTransform",
    "tanh": "TanhTransform",
    "probit": "CumulativeDistributionTransform",
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
    if natural is not None and not (x.dtype is torch.bfloat16 and key in _NOT_IN_BFLOAT16):
        yield "torch", lambda: natural(x)
        if key in _TORCH and not _TORCH[key].startswith("nn."):
            yield "torch out", lambda: natural(x, out=out)
        elif key in _IN_PLACE:
            in_place = _IN_PLACE[key]
            yield "torch out", lambda: in_place(torch, x, out)
    if m.name in _TRANSFORMS:
        normal = [torch.distributions.Normal(0.0, 1.0)] if m.name == "probit" else []
        transform = getattr(torch.distributions.transforms, _TRANSFORMS[m.name])(*normal)
        transform = transform if direction == "inverse" else transform.inv
        yield "torch.distributions", lambda: transform(x)


def _numpy_runs(
    m: CatalogMap, direction: str, x: Array, out: Array, compiled: Compiled
) -> Iterator[tuple[str, Run]]:
    if (m.name, direction) in _IN_PLACE:
        in_place = _IN_PLACE[m.name, direction]
        yield "numpy", lambda: in_place(np, x, out)
    elif (by_numpy := formula(m, direction, np)) is not None:
        yield "numpy", lambda: by_numpy(x)
    text = _numexpr_text(m, direction)
    if compiled.wanted and text and (numexpr := optional("numexpr")) is not None:
        names = {"x": x, **{k: x.dtype.type(v) for k, v in m.params.items()}}
        yield "numexpr", lambda: numexpr.evaluate(text, names, out=out, casting="same_kind")
    if x.size <= LARGEST_FOR_PYTHON and (by_python := formula(m, direction, math)) is not None:
        numbers = x.tolist()

        def loop() -> list[float]:
            result = []
            for t in numbers:
                result.append(by_python(t))  # the loop is what is measured
            return result

        yield "loop", loop
        yield "comprehension", lambda: [by_python(t) for t in numbers]


def _natural(torch: Any, m: CatalogMap, direction: str) -> Any:
    """The mapping as a torch user writes it; None: torch lacks a function."""
    name = _TORCH.get((m.name, direction))
    return formula(m, direction, torch) if name is None else operator.attrgetter(name)(torch)


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
        if (natural := _natural(torch, m, direction)) is not None:
            function = self._once("torch", m, direction, x.dtype, lambda: self._by_torch(torch, natural))
            yield "torch.compile", lambda: function(x, out)
        if jax is None or x.dtype is torch.bfloat16:
            return
        if formula(m, direction, jax.numpy) is not None:
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
    def _by_torch(torch: Any, natural: Any) -> Any:
        def into(x: Any, out: Any) -> None:
            out.copy_(natural(x))

        warnings.filterwarnings("ignore", category=DeprecationWarning, module="torch")
        # All functions share one code object; past the limit, torch would run the rest without compiling.
        torch._dynamo.config.recompile_limit = 1000
        return torch.compile(into, dynamic=True)


class _Constants(ast.NodeTransformer):
    """What does not depend on the variable as a number, computed once; torch.log takes no number."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        self._known = {**vars(math), **params}

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        match node:
            case ast.Call(func=ast.Name(id="where"), args=[ast.Constant(value=chosen), yes, no]):
                return yes if chosen else no
            case ast.BinOp() | ast.UnaryOp() | ast.Compare() | ast.Call() | ast.Name():
                names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
                if names <= self._known.keys():
                    value = eval(ast.unparse(node), dict(self._known))
                    return node if callable(value) else ast.Constant(value)
        return node


class _Branches(ast.NodeTransformer):
    """where(condition, yes, no) as an expression that evaluates one of the two."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id == "where":
            return ast.IfExp(*node.args)
        return node


def _special(library: ModuleType) -> Any:
    """Where a library has ndtr and ndtri; None if nowhere."""
    name = {"numpy": "scipy", "jax.numpy": "jax.scipy"}.get(library.__name__, library.__name__)
    return optional(f"{name}.special") if name != "math" else None


def formula(m: CatalogMap, direction: str, library: ModuleType) -> Callable[[Any], Any] | None:
    """The catalog's formula as a function of one variable, by the functions of `library`; None: one lacks."""
    hyperbolic = ("sinh", "cosh", "tanh", "asinh")
    trigonometric = ("sin", "cos", "tan", "asin", "atan")
    names = ("log", "log1p", "exp", "expm1", "sqrt", "abs", "sign", "where", *hyperbolic, *trigonometric)
    scope: dict[str, Any] = {
        name: getattr(library, name, None) or getattr(library, name.replace("a", "arc", 1), None)
        for name in names
    }
    scope["abs"] = scope["abs"] or abs
    scope["sign"] = scope["sign"] or (lambda v: math.copysign(1.0, v))
    special = _special(library)
    scope["ndtr"] = getattr(special, "ndtr", None)
    if special is not None:
        scope["probit"] = lambda p, q: special.ndtri(p / (p + q))
    if hasattr(special, "lambertw"):
        scope["lambertw"] = lambda x: special.lambertw(x).real
    variable = "t" if direction == "forward" else "z"
    text = m.entry["formulas"][direction]
    if text == variable:  # the identity: a copy
        text = f"{variable} * 1"
    tree = _Constants(m.params).visit(ast.parse(f"lambda {variable}: {text}", mode="eval"))
    tree = ast.fix_missing_locations(tree)
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call)}  # type: ignore[attr-defined]
    if library is math:
        tree = ast.fix_missing_locations(_Branches().visit(tree))
        called -= {"where"}
    if any(scope.get(name) is None for name in called):
        return None
    return eval(compile(tree, m.name, "eval"), scope)  # type: ignore[no-any-return]


def _numexpr_text(m: CatalogMap, direction: str) -> str:
    """The catalog's formula in the words of numexpr, of the variable x; empty if it lacks one."""
    variable = "t" if direction == "forward" else "z"
    text = re.sub(rf"\b{variable}\b", "x", m.entry["formulas"][direction])
    if any(name in text for name in ("ndtr", "probit", "lambertw")):
        return ""
    text = re.sub(r"\ba(sinh|sin|tan)\b", r"arc\1", text.replace("pi", repr(math.pi)))
    return text.replace("sign(x)", "where(x < 0, -1, 1)")


def optional(name: str) -> Any:
    """The module, or None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
