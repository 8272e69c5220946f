"""The truth about every map, in bulk: catalog formulas in extended precision, errors in ULP.

``python tests/oracle.py --samples 10000000 --out tests/accuracy.json`` measures every map
and writes the table.

The formulas are compiled as C++ in the 64-bit mantissa of ``long double`` for float32 and the 113 bits of
``__float128`` for float64; `tests/test_accuracy.py` checks that oracle itself against mpmath at 2400 bits. It
shares nothing with the kernels but the text of the definition.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import hashlib
import itertools
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import engine
import mpmath
import numpy as np

import fastmap
from fastmap import _core

Entry = dict[str, Any]
Params = tuple[float, ...]

CATALOG: list[Entry] = _core.catalog()
DTYPES = (np.float32, np.float64)
VALUE_OPS = ("forward", "inverse")
THETA_OPS = ("forward", "jacobian", "log_abs_det", "log_abs_det_grad")
LARGEST = 1000.0  # exp does not overflow in the oracle up to here, with parameters up to 8

SOURCE = r"""
#include <cmath>
#include <cstdint>
#include <cstring>
#include <quadmath.h>
#define FUNCTIONS(Q, s) \
  inline Q log(Q x) { return ::log##s(x); } inline Q log1p(Q x) { return ::log1p##s(x); } \
  inline Q exp(Q x) { return ::exp##s(x); } inline Q expm1(Q x) { return ::expm1##s(x); } \
  inline Q sqrt(Q x) { return ::sqrt##s(x); } inline Q abs(Q x) { return ::fabs##s(x); } \
  inline Q sinh(Q x) { return ::sinh##s(x); } inline Q cosh(Q x) { return ::cosh##s(x); } \
  inline Q tanh(Q x) { return ::tanh##s(x); } inline Q asinh(Q x) { return ::asinh##s(x); } \
  inline Q sin(Q x) { return ::sin##s(x); } inline Q cos(Q x) { return ::cos##s(x); } \
  inline Q tan(Q x) { return ::tan##s(x); } inline Q asin(Q x) { return ::asin##s(x); } \
  inline Q atan(Q x) { return ::atan##s(x); } \
  inline Q erf(Q x) { return ::erf##s(x); } inline Q erfc(Q x) { return ::erfc##s(x); } \
  inline Q frexp(Q x, int* e) { return ::frexp##s(x, e); } \
  inline Q ldexp(Q x, int e) { return ::ldexp##s(x, e); } \
  inline Q sign(Q x) { Q r = (x > 0) - (x < 0); return r; } \
  inline Q where(bool c, Q yes, Q no) { return c ? yes : no; }
namespace oracle {
FUNCTIONS(double, )
FUNCTIONS(long double, l)
FUNCTIONS(__float128, q)

template <class Q> const Q pi = M_PIq;

// log(1 + e^x) and log(e^x - 1) where e^x overflows.
template <class Q> Q log1pexp(Q x) { return where(x < 0, log1p(exp(x)), x + log1p(exp(-x))); }
template <class Q> Q logexpm1(Q x) { return where(x < 1, log(expm1(x)), x + log1p(-exp(-x))); }

template <class Q> Q ndtr(Q x) { return erfc(-x * sqrt(Q(0.5))) / 2; }

// W(x) for x >= 0, w e^w = x: from 20% off seven Newton steps on w + log w = log x.
template <class Q> Q lambertw(Q x) {
  if (x < Q(1e-12)) return x * (1 - x * (1 - Q(1.5) * x * (1 - Q(16) / 9 * x)));
  const Q l = log(x);
  Q w = x < 3 ? x / (1 + x) * Q(1.2) : l;
  for (int i = 0; i < 7; ++i) w = w / (1 + w) * (1 + (l - log(w)));
  return w;
}

// ndtri(p / (p + q)): the approximation 26.2.22 of Abramowitz and Stegun, then Halley steps.
template <class Q> Q probit(Q p, Q q) {
  const Q tail = (p < q ? p : q) / (p + q), off_centre = abs(p - q) / (p + q);
  const Q t = sqrt(-2 * log(tail));
  Q x = -(t - (Q(2.30753) + Q(0.27061) * t) / (1 + Q(0.99229) * t + Q(0.04481) * t * t));
  for (int i = 0; i < 4; ++i) {
    const Q e = x > -0.5 ? (erf(x * sqrt(Q(0.5))) + off_centre) / 2 : ndtr(x) - tail;
    const Q u = e * sqrt(2 * pi<Q>) * exp(x * x / 2);
    x -= u / (1 + x * u / 2);
  }
  return p < q ? x : -x;
}

@FORMULAS@
template <class Q> Q truth(int id, const double* p, Q t) {
  switch (id) {
@CASES@
  }
  return Q(0) / Q(0);
}

// |got - truth| in units of the last place of the truth, less `slack` (absolute).
template <class Q> double error(Q truth, double got, int digits, int min_exponent, Q largest, Q slack) {
  if (truth != truth || got != got) return truth != truth && got != got ? 0 : INFINITY;
  const Q size = abs(truth);
  if (size > ldexp(largest, 200)) return std::isinf(got) && (got > 0) == (truth > 0) ? 0 : INFINITY;
  int exponent = min_exponent + digits;
  if (size > 0) frexp(size, &exponent);
  exponent = exponent - digits < min_exponent ? min_exponent : exponent - digits;
  const Q overflow = largest + ldexp(Q(0.5), min_exponent == -149 ? 104 : 971);  // infinite from here
  Q difference;
  if (std::isinf(got))
    difference = (got > 0) != (truth > 0) ? Q(INFINITY) : size >= overflow ? Q(0) : overflow - size;
  else
    difference = abs(Q(got) - (size > overflow ? (truth > 0 ? overflow : -overflow) : truth));
  difference -= slack;
  return difference > 0 ? double(difference / ldexp(Q(1), exponent)) : 0;
}
}  // namespace oracle

@FILTER@
extern "C" void errors32(int id, const double* p, double slack, long n, const float* x, const float* got,
                         double* out, double known) {
  if (known > 0) oracle::upper_bounds(id, p, slack, n, x, got, out);
  for (long i = 0; i < n; ++i) {
    if (known > 0 && out[i] < known) continue;
    out[i] = oracle::error<long double>(oracle::truth<long double>(id, p, x[i]), got[i], 24, -149,
                                        0x1.fffffep127L, slack);
  }
}
extern "C" void errors64(int id, const double* p, double slack, long n, const double* x, const double* got,
                         double* out, double) {
  for (long i = 0; i < n; ++i)
    out[i] = oracle::error<__float128>(oracle::truth<__float128>(id, p, x[i]), got[i], 53, -1074,
                                       __float128(0x1.fffffffffffffp1023), slack);
}
"""

# Almost every error is small, and double is enough to say so: numbers that carry a bound of their own error,
# four at a time by glibc's libmvec, where there is one.
FILTER = r"""
#if defined(__AVX2__) && defined(__GLIBC__) && __GLIBC_PREREQ(2, 35)
namespace oracle {
#define INLINE __attribute__((always_inline)) inline
using Four = double __attribute__((vector_size(32)));
using Bits = long __attribute__((vector_size(32)));
#define VECTOR(f) \
  extern "C" __attribute__((const)) Four _ZGVdN4v_##f(Four); \
  INLINE Four f(Four x) { return _ZGVdN4v_##f(x); }
VECTOR(log) VECTOR(log1p) VECTOR(exp) VECTOR(expm1) VECTOR(sinh) VECTOR(cosh) VECTOR(tanh) VECTOR(asinh)
VECTOR(sin) VECTOR(cos) VECTOR(tan) VECTOR(asin) VECTOR(atan) VECTOR(erf) VECTOR(erfc)
INLINE Four sqrt(Four x) { return Four{::sqrt(x[0]), ::sqrt(x[1]), ::sqrt(x[2]), ::sqrt(x[3])}; }
INLINE Four all(double x) { return Four{x, x, x, x}; }

// The true value is within v +- e, or beyond 2^700 and of the sign of v where v is infinite and e 0. Every
// operation adds what the errors of its arguments do to its result, by the mean value theorem, and its own:
// `eps` is twice the 4 ULP of libmvec, so that roundings of e do not matter, `tiny` what underflow takes.
// Where no bound is known, e is infinite or NaN, and nothing is concluded from it.
struct Filter {
  Four v, e;
  INLINE Filter(double v) : v(all(v)), e(all(0)) {}
  INLINE Filter(Four v, Four e) : v(v), e(e) {}
};
constexpr double eps = 0x1p-49, tiny = 0x1p-390, none = INFINITY;
template <> const Filter pi<Filter>{all(M_PI), all(0x1p-52)};

INLINE Four where(Bits c, Four yes, Four no) { return c ? yes : no; }
INLINE Four where(Bits c, double yes, Four no) { return c ? all(yes) : no; }
INLINE Four where(Bits c, Four yes, double no) { return c ? yes : all(no); }
INLINE Four where(Bits c, double yes, double no) { return c ? all(yes) : all(no); }
INLINE Four clamp(Four x, double low, double high) { return where(x < low, low, where(x > high, high, x)); }
INLINE Four magnitude(Four x) { return where(x < 0, -x, x); }
INLINE Four size(Four x) { return clamp(magnitude(x), 0, 0x1p810); }  // for bounds: infinity times 0 is 0
INLINE Four positive(Four x) { return where(x > 0, x, 0); }
INLINE Four up_to(Four e, double limit) { return where(e < limit, e, none); }
INLINE Filter rounded(Four v, Four e) {
  const Four s = size(v);
  const Bits beyond = (s > 0x1p800) & (e < 0x1p400);
  return {where(beyond, v * 0x1p1000, v), where(s < 0x1p400, e + (eps * s + tiny), where(beyond, 0, none))};
}
INLINE Filter not_beyond(Filter x) { return {x.v, where(size(x.v) < 0x1p400, x.e, none)}; }

INLINE Filter operator-(Filter a) { return {-a.v, a.e}; }
INLINE Filter operator+(Filter a, Filter b) { return rounded(a.v + b.v, a.e + b.e); }
INLINE Filter operator-(Filter a, Filter b) { return rounded(a.v - b.v, a.e + b.e); }
INLINE Filter operator*(Filter a, Filter b) {
  const Four r = a.v * b.v, e = size(a.v) * b.e + size(b.v) * a.e + a.e * b.e;
  const Bits sure = (size(a.v) - a.e >= 0.5) & (size(b.v) - b.e >= 0.5);
  return rounded(r, where(size(r) > 0x1p400, where(sure, 0, none), e));
}
INLINE Filter operator/(Filter a, Filter b) {
  const Four r = a.v / b.v, e = (a.e + size(r) * b.e) / positive(size(b.v) - b.e);
  return rounded(r, where(size(r) > 0x1p400, none, e));
}
struct Condition {
  Bits holds;
  Four doubt;  // 0: certain
};
INLINE Condition decided(Bits holds, Filter a, Filter b) {
  const Four e = a.e + b.e;
  return {holds, where((size(a.v - b.v) > 2 * e) | (e == 0), 0, none)};
}
INLINE Condition operator<(Filter a, Filter b) { return decided(a.v < b.v, a, b); }
INLINE Condition operator>(Filter a, Filter b) { return decided(a.v > b.v, a, b); }
INLINE Condition operator==(Filter a, Filter b) { return decided(a.v == b.v, a, b); }
INLINE Filter where(Condition c, Filter yes, Filter no) {
  return {where(c.holds, yes.v, no.v), where(c.holds, yes.e, no.e) + c.doubt};
}
INLINE Filter abs(Filter x) { return {magnitude(x.v), x.e}; }
INLINE Filter sign(Filter x) {
  return {where(x.v > 0, 1, where(x.v < 0, -1, all(0))), where((size(x.v) > x.e) | (x.e == 0), 0, none)};
}
INLINE Filter sqrt(Filter y) {
  const Filter x = not_beyond(y);
  const Four r = sqrt(x.v);
  return rounded(r, where(x.e == 0, 0, x.e / r));
}
// Arguments are clamped where the result is below `tiny` or beyond: libmvec is slow outside its usual range.
INLINE Filter exp(Filter x) {
  const Four r = exp(clamp(x.v, -300, 600)), e = r * 1.5 * up_to(x.e, 0.5);
  return rounded(r, where((x.v + x.e < -290) | (x.v - x.e > 560), 0, e));
}
INLINE Filter expm1(Filter x) {
  const Four r = expm1(clamp(x.v, -300, 600)), e = (size(r) + 1) * 1.5 * up_to(x.e, 0.5);
  return rounded(r, where((x.v + x.e < -290) | (x.v - x.e > 560), 0, e));
}
INLINE Filter sinh(Filter x) {
  const Four r = sinh(clamp(x.v, -600, 600)), e = (size(r) + 1) * 1.5 * up_to(x.e, 0.5);
  return rounded(r, where(size(x.v) - x.e > 560, 0, e));
}
INLINE Filter cosh(Filter x) {
  const Four r = cosh(clamp(x.v, -600, 600)), e = r * 1.5 * up_to(x.e, 0.5);
  return rounded(r, where(size(x.v) - x.e > 560, 0, e));
}
INLINE Filter tanh(Filter x) {
  return rounded(tanh(clamp(x.v, -300, 300)), where(size(x.v) - x.e > 290, 0, x.e));
}
INLINE Filter log(Filter y) {
  const Filter x = not_beyond(y);
  return rounded(log(x.v), x.e / positive(x.v - x.e));
}
INLINE Filter log1p(Filter y) {
  const Filter x = not_beyond(y);
  return rounded(log1p(x.v), 1.01 * x.e / positive(1 + x.v - 1.01 * x.e));
}
INLINE Filter asinh(Filter y) {  // the slope is below 1 and below 1/|x|
  const Filter x = not_beyond(y);
  return rounded(asinh(x.v), x.e / clamp(size(x.v) - x.e, 1, none));
}
INLINE Filter sin(Filter x) { return rounded(sin(x.v), x.e); }
INLINE Filter cos(Filter x) { return rounded(cos(x.v), x.e); }
INLINE Filter tan(Filter x) {  // tan(x + d) - tan x = tan d (1 + tan^2 x) / (1 - tan x tan d)
  const Four r = tan(x.v), d = 1.1 * up_to(x.e, 0.1);
  return rounded(r, d * (1 + r * r) / positive(1 - size(r) * d));
}
INLINE Filter asin(Filter x) {
  const Four u = size(x.v) + x.e;
  return rounded(asin(x.v), where(x.e == 0, 0, x.e / sqrt(positive((1 - u) * (1 + u)))));
}
INLINE Filter atan(Filter x) {
  const Four least = clamp(size(x.v) - x.e, 1, 0x1p400);
  return rounded(atan(x.v), x.e / (least * least));
}
INLINE Filter erf(Filter x) {
  return rounded(erf(clamp(x.v, -30, 30)), where(size(x.v) - x.e > 20, 0, 1.13 * x.e));
}
INLINE Filter erfc(Filter x) {  // for x > 0 the slope is below (2 x + 1.5) erfc x
  const Four r = erfc(clamp(x.v, -30, 30)), steep = 2 * positive(x.v) + 1.5;
  const Four e = where(x.v > 0, 1.5 * steep * r, 1.13) * up_to(x.e * steep, 0.1);
  return rounded(r, where(size(x.v) - x.e > 20, 0, e));
}
// Any x will do, if the residual says how far it is from the root.
template <> INLINE Filter probit(Filter p, Filter q) {
  const Filter tail = where(p < q, p, q) / (p + q), off_centre = abs(p - q) / (p + q);
  const Filter root_half = sqrt(Filter(0.5));
  const Four t = sqrt(-2 * log(tail.v));
  Four x = -(t - (2.30753 + 0.27061 * t) / (1 + 0.99229 * t + 0.04481 * t * t)), left = all(0);
  for (int i = 0; i < 3; ++i) {  // the last time to know what is left
    const Filter y = Filter(x, all(0)) * root_half;
    const Filter near = (erf(y) + off_centre) / 2, far = erfc(-y) / 2 - tail;
    const Four e = where(x > -0.5, near.v, far.v), doubt = where(x > -0.5, near.e, far.e);
    const Four inverse_slope = 2.5066282746310002 * exp(x * x / 2), u = e * inverse_slope;
    left = 1.1 * (size(e) + doubt) * inverse_slope;
    if (i < 2) x -= u / (1 + x * u / 2);
  }
  return {where(p.v < q.v, x, -x), up_to(left * (1 + size(x)), 0.01) / (1 + size(x))};
}

template <> INLINE Filter lambertw(Filter x) { return {x.v, all(none)}; }  // nothing is known

// An upper bound of four errors in ULP.
INLINE Four upper_bounds(Filter truth, Four got, double slack) {
  const Four v = truth.v, e = truth.e, least = positive(size(v) - e);
  const Four power = Four(Bits(least) & 0x7ff0000000000000);
  const Four ulp = where(power > 0x1p-126, power * 0x1p-23, 0x1p-149);
  const Four error = positive((size(got - v) + e - slack) * (1 + eps)) / ulp;
  const Bits inside = (size(v) + e <= 0x1.fffffep127) & (magnitude(got) < none);
  const Bits overflow = (magnitude(got) == none) & (v * got > 0) & (least > 0x1p128);
  return where(inside, error, where(overflow, 0, none));
}
template <class F>
void upper_bounds(F formula, const double* p, double slack, long n, const float* x, const float* got,
                  double* out) {
  for (long i = 0; i < n; i += 4) {
    Four a = all(1), b = all(1);
    const long m = n - i < 4 ? n - i : 4;
    for (long k = 0; k < m; ++k) a[k] = x[i + k], b[k] = got[i + k];
    const Four upper = upper_bounds(formula(p, Filter(a, all(0))), b, slack);
    for (long k = 0; k < m; ++k) out[i + k] = upper[k];
  }
}
void upper_bounds(int id, const double* p, double slack, long n, const float* x, const float* got,
                  double* out) {
#define LOOP(f) upper_bounds([](const double* p, Filter t) { return f(p, t); }, p, slack, n, x, got, out)
  switch (id) {
@LOOPS@
  }
}
}  // namespace oracle
#else
namespace oracle {
void upper_bounds(int, const double*, double, long n, const float*, const float*, double* out) {
  for (long i = 0; i < n; ++i) out[i] = INFINITY;
}
}  // namespace oracle
#endif
"""


@functools.cache
def library() -> ctypes.CDLL:
    """The compiled oracle, kept between runs under a name that its text decides."""
    formulas, cases, loops = [], [], []
    for entry in CATALOG:
        for op in _core.OPS:
            names = "".join(
                f"const Q {p['name']} = p[{i}]; (void){p['name']}; " for i, p in enumerate(entry["params"])
            )
            formula = re.sub(
                r"(?<![\w.])(\d+)(?![\w.])", r"Q(\1)", entry["formulas"][op]
            )  # 1/2 is no integer
            for pair in ("log1p(exp(", "log(expm1("):
                inside = r"((?:[^()]|\([^()]*\))*)"
                name = pair.replace("(", "")
                formula = re.sub(re.escape(pair) + inside + r"\)\)", rf"{name}(\1)", formula)
            number = formula_id(entry, op)
            formulas.append(
                f"template <class Q> __attribute__((always_inline)) inline Q formula_{number}"
                "(const double* p, Q t) { const Q z = t, pi = oracle::pi<Q>; (void)z; (void)p; (void)pi; "
                f"{names}return Q({formula}); }}"
            )
            cases.append(f"    case {number}: return formula_{number}<Q>(p, t);")
            loops.append(f"    case {number}: return LOOP(formula_{number}<Filter>);")
    source = SOURCE.replace("@FILTER@", FILTER)
    for mark, lines in (("@FORMULAS@", formulas), ("@CASES@", cases), ("@LOOPS@", loops)):
        source = source.replace(mark, "\n".join(lines))
    digest = hashlib.sha256(source.encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"fastmap-oracle-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    path = folder / f"{digest}.so"
    if not path.exists():
        text, built = folder / f"{digest}-{os.getpid()}.cpp", folder / f"{digest}-{os.getpid()}.so"
        text.write_text(source)
        command = [
            "g++",
            "-std=gnu++17",
            *("-O2", "-march=native", "-ffp-contract=off", "-fno-math-errno"),
            "-shared",
            "-fPIC",
            str(text),
            "-o",
            str(built),
            *("-lquadmath", "-lmvec", "-lm"),
        ]
        subprocess.run(command, check=True)
        built.rename(path)
    return ctypes.CDLL(str(path))


def formula_id(entry: Entry, op: str) -> int:
    """The number of a formula in the compiled oracle."""
    return int(entry["id"]) * len(_core.OPS) + _core.OPS[op]


def effective(entry: Entry, params: Params, dtype: type) -> Params:
    """Parameters as the kernels use them: rounded once to the dtype, bounds inwards."""
    result = []
    for p, v in zip(entry["params"], params, strict=True):
        r = dtype(v)
        if p["constraint"].endswith("lower_bound") and float(r) < v:
            r = np.nextafter(r, dtype(np.inf))
        if p["constraint"] == "upper_bound" and float(r) > v:
            r = np.nextafter(r, dtype(-np.inf))
        result.append(float(r))
    return tuple(result)


def domain(entry: Entry, params: Params, which: str = "domain") -> tuple[float, float]:
    """The open domain of theta, or the "codomain"."""
    cls = getattr(fastmap, entry["class_name"])
    low, high = getattr(cls(*params), which)
    return low, high


def input_range(op: str, entry: Entry, params: Params) -> tuple[float, float]:
    """Where the input of an op may lie."""
    return domain(entry, params, "domain" if op in THETA_OPS else "codomain")


def slack(entry: Entry, op: str, params: Params, dtype: type) -> float:
    """What a root that depends on a bound may add: 2⁻²⁰ ULP of the largest bound.

    Of d/dtheta log|dz/dtheta|, which is of the size of 1 / (high - low): of that.
    """
    bounds = [v for p, v in zip(entry["params"], params, strict=True) if p["constraint"].endswith("_bound")]
    if op == "log_abs_det_grad":
        largest = 1 / (bounds[1] - bounds[0]) if len(bounds) == 2 else 0.0
    elif op in VALUE_OPS or op.endswith("log_abs_det"):
        largest = max(map(abs, bounds), default=0.0)
    else:
        return 0.0  # the others have no such roots
    return 2.0**-20 * float(np.spacing(dtype(largest))) if largest else 0.0


def apply(op: str, entry: Entry, params: Params, x: np.ndarray) -> np.ndarray:
    """The kernel's result."""
    return engine.run(op, entry, params, x)[0]


def errors(
    op: str, entry: Entry, params: Params, x: np.ndarray, got: np.ndarray, known: float = 0.0
) -> np.ndarray:
    """The error of each result in ULP; of float32 errors below `known` only an upper bound."""
    function = library().errors32 if x.dtype == np.float32 else library().errors64
    x, got = np.ascontiguousarray(x), np.ascontiguousarray(got)
    p, out = np.array([*params, 0.0]), np.empty(x.size)
    allowed = slack(entry, op, params, x.dtype.type)

    def part(start: int) -> None:
        n = min(_PART, x.size - start)
        function(
            formula_id(entry, op), ctypes.c_void_p(p.ctypes.data), ctypes.c_double(allowed), ctypes.c_long(n),
            *(ctypes.c_void_p(a.ctypes.data + start * a.itemsize) for a in (x, got, out)),
            ctypes.c_double(known),
        )  # fmt: skip

    if x.size <= _PART:
        part(0)
    else:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(part, range(0, x.size, _PART)))
    # Where exp overflows in the oracle, mpmath decides, on a part of the samples.
    infinite = np.flatnonzero(np.isinf(out))
    beyond = infinite[(np.abs(x[infinite]) > LARGEST) & np.isfinite(got[infinite])]
    out[beyond] = 0
    for i in beyond[:: max(1, beyond.size // 20)]:
        out[i] = exact_error(op, entry, params, x[i], got[i])
    return out


def exact_error(op: str, entry: Entry, params: Params, x: np.floating, got: np.floating) -> float:
    """The error of one result in ULP, by mpmath at 2400 bits."""
    functions = (
        "log", "log1p", "exp", "expm1", "sqrt", "sign", "sinh", "cosh", "tanh", "asinh",
        "sin", "cos", "tan", "asin", "atan",
    )  # fmt: skip
    with mpmath.workprec(2400):
        names = {name: getattr(mpmath, name) for name in functions}
        names |= {"abs": abs, "where": lambda condition, yes, no: yes if condition else no}
        names |= {"pi": mpmath.pi, "ndtr": _ndtr, "probit": _probit, "exp": _exp}
        names["lambertw"] = lambda x: mpmath.lambertw(x).real
        names["expm1"] = lambda x: mpmath.expm1(x) if abs(x) < 1e3 else _exp(x) - 1
        names |= {p["name"]: mpmath.mpf(v) for p, v in zip(entry["params"], params, strict=True)}
        names["t" if op in THETA_OPS else "z"] = mpmath.mpf(float(x))
        truth = mpmath.mpf(eval(entry["formulas"][op], names))
        info = np.finfo(x.dtype)
        largest = mpmath.mpf(float(info.max))
        overflow = largest + mpmath.mpf(2) ** (int(info.maxexp) - info.nmant - 2)
        truth = max(min(truth, 4 * overflow), -4 * overflow)
        if np.isinf(got):
            right_sign = (truth > 0) == (got > 0)
            difference = max(overflow - abs(truth), mpmath.mpf(0)) if right_sign else mpmath.inf
        else:
            difference = abs(mpmath.mpf(float(got)) - max(min(truth, overflow), -overflow))
        exponent = int(mpmath.floor(mpmath.log(abs(truth), 2))) if truth else -99999
        ulp = mpmath.mpf(2) ** max(exponent - info.nmant, int(info.minexp) - info.nmant)
        return float(max(difference - slack(entry, op, params, x.dtype.type), mpmath.mpf(0)) / ulp)


def _exp(x: mpmath.mpf) -> mpmath.mpf:
    """e^x; where x is itself a power beyond every format, its limit: mpmath would write out all digits."""
    if abs(x) < mpmath.ldexp(1, 2200):
        return mpmath.exp(x)
    return mpmath.inf if x > 0 else mpmath.mpf(0)


def _ndtr(x: mpmath.mpf) -> mpmath.mpf:
    """The normal distribution's share below x, or its limit where it is beyond every format."""
    if abs(x) < 1000:
        return mpmath.ncdf(x)
    return mpmath.mpf(1 if x > 0 else 0)


def _probit(p: mpmath.mpf, q: mpmath.mpf) -> mpmath.mpf:
    """ndtri(p / (p + q))."""
    off_centre = (p - q) / (p + q)
    if abs(off_centre) < 0.5:
        return mpmath.sqrt(2) * mpmath.erfinv(off_centre)
    tail = min(p, q) / (p + q)
    x = -mpmath.sqrt(-2 * mpmath.log(tail))
    while True:  # Newton's method on log ndtr, which is concave
        slope = mpmath.npdf(x) / mpmath.ncdf(x)
        step = mpmath.log(mpmath.ncdf(x) / tail) / slope
        x -= step
        if abs(step) < mpmath.ldexp(1, -mpmath.mp.prec // 2 - 10):
            return x if p < q else -x


_PART = 1 << 16
RIGHT = 0.501  # of errors up to here, those of one rounding, a walk finds only a bound


def sample(op: str, entry: Entry, params: Params, dtype: type, n: int, seed: int = 0) -> np.ndarray:
    """Stratified inputs: all exponents, the ordinary range, next to bounds, next to roots and 1."""
    rng = np.random.default_rng([seed, entry["id"], _core.OPS[op]])
    ordinary = 100.0 if dtype is np.float32 else 800.0
    low, high = input_range(op, entry, params)
    wide = (low, high) if math.isfinite(low) and math.isfinite(high) else _around(low, high, ordinary)
    other_way = "inverse" if op in THETA_OPS else "forward"
    marks = [v for v in (0.0, *_roots(entry, params, other_way)) if low < v < high]
    ends = [v for v in (low, high) if math.isfinite(v)]
    with np.errstate(over="ignore"):  # what is too large for the dtype is left out
        return _strata(n // 4, low, high, wide, ends, marks, dtype, rng)


def _strata(
    quarter: int,
    low: float,
    high: float,
    wide: tuple[float, float],
    ends: list[float],
    marks: list[float],
    dtype: type,
    rng: np.random.Generator,
) -> np.ndarray:
    parts = [_bit_patterns(low, high, dtype, quarter, rng), rng.uniform(*wide, quarter)]
    for points in (ends or marks, marks or ends):
        centres = rng.choice(points or [0.0], quarter)
        distance = np.exp2(rng.uniform(-60 if dtype is np.float64 else -30, 3, quarter))
        scale = np.where(centres == 0, 1.0, np.abs(centres))
        near = (centres + scale * distance * rng.choice([-1.0, 1.0], quarter)).astype(dtype)
        steps = rng.integers(-40, 41, quarter)  # and the very next floats
        nearest = _shifted(centres.astype(dtype), steps)
        parts.append(np.where(rng.random(quarter) < 0.25, nearest, near))
    x = np.concatenate([p.astype(dtype) for p in parts])
    return np.ascontiguousarray(x[(x > low) & (x < high)])


def _around(low: float, high: float, reach: float) -> tuple[float, float]:
    if math.isfinite(low):
        return low, low + reach
    if math.isfinite(high):
        return high - reach, high
    return -reach, reach


def _roots(entry: Entry, params: Params, op: str) -> list[float]:
    """Where the other space is 0 or 1: roots of the map, and often of its log-derivative."""
    found = apply(op, entry, params, np.array([0.0, 1.0, -1.0]))
    return [float(v) for v in found if math.isfinite(v)]


def around_roots(op: str, entry: Entry, params: Params, dtype: type, reach: int = 300) -> np.ndarray:
    """The floats around each input where a result changes its sign, roots that parameters move among them."""
    x = np.unique(sample(op, entry, params, dtype, 4000))
    sign = np.sign(apply(op, entry, params, x))
    before = np.flatnonzero(sign[:-1] * sign[1:] < 0)  # NaN is none
    first, last, sign = _ordered(x[before]), _ordered(x[before + 1]), sign[before]
    while (last - first > 1).any():
        middle = first + (last - first) // 2
        same = np.sign(apply(op, entry, params, _from_ordered(middle, dtype))) == sign
        first, last = np.where(same, middle, first), np.where(same, last, middle)
    around = _from_ordered((first[:, None] + np.arange(-reach, reach + 1)).ravel(), dtype)
    low, high = input_range(op, entry, params)
    return np.ascontiguousarray(around[(around > low) & (around < high)])


def _ordered(x: np.ndarray) -> np.ndarray:
    """Floats as integers in the same order."""
    bits = x.view(np.int32 if x.dtype == np.float32 else np.int64).astype(np.int64)
    sign = np.int64(-(2 ** (31 if x.dtype == np.float32 else 63)))
    return np.where(bits < 0, sign - bits, bits)


def _from_ordered(i: np.ndarray, dtype: type) -> np.ndarray:
    sign = np.int64(-(2 ** (31 if dtype is np.float32 else 63)))
    bits = np.where(i < 0, sign - i, i)
    return bits.astype(np.int32 if dtype is np.float32 else np.int64).view(dtype)


def _bit_patterns(low: float, high: float, dtype: type, n: int, rng: np.random.Generator) -> np.ndarray:
    largest = np.finfo(dtype).max
    ends = np.clip([low, high], -float(largest), float(largest)).astype(dtype)
    first, last = _ordered(ends)
    return _from_ordered(rng.integers(first, last, n, endpoint=True), dtype)


def _shifted(x: np.ndarray, steps: np.ndarray) -> np.ndarray:
    return _from_ordered(_ordered(x) + steps, x.dtype.type)


def bound(entry: Entry, op: str) -> float:
    """The stated bound in ULP."""
    return float(entry["ulp"][0 if op in VALUE_OPS else 1])


def cases(maps: list[str] | None = None) -> Iterator[tuple[Entry, Params, bool]]:
    """Every map with every published parameter set; the flag marks the defaults."""
    for entry in CATALOG:
        if maps and entry["name"] not in maps:
            continue
        for number, example in enumerate(entry["examples"]):
            yield entry, tuple(example.values()), number == 0


def measure(entry: Entry, params: Params, op: str, dtype: type, n: int) -> dict[str, Any]:
    """The worst error of one op, and where."""
    p = effective(entry, params, dtype)
    worst, where, done = -1.0, 0.0, 0
    for seed in itertools.count():
        if done >= n:
            break
        x = sample(op, entry, p, dtype, min(n, 1 << 20), seed)
        found = errors(op, entry, p, x, apply(op, entry, p, x))
        at = int(found.argmax())
        done += x.size
        if found[at] > worst:
            worst, where = float(found[at]), float(x[at])
    return {
        "map": entry["name"],
        "params": list(params),
        "op": op,
        "dtype": np.dtype(dtype).name,
        "samples": done,
        "worst_ulp": round(worst, 3),
        "at": where.hex(),
        "bound": bound(entry, op),
    }


def measure_all(
    entry: Entry, params: Params, op: str, step: int = 1, errors_too: bool = True
) -> dict[str, Any]:
    """Every float32 in the domain, in order: the worst error, and how often a neighbour goes the wrong way.

    A result goes the wrong way if it is on the wrong side of the result before it, or NaN. `step` takes every
    step-th float only, for a quick look.
    """
    p = effective(entry, params, np.float32)
    low, high = input_range(op, entry, p)
    largest = float(np.finfo(np.float32).max)
    first, last = (int(i) for i in _ordered(np.clip([low, high], -largest, largest).astype(np.float32)))
    before, after = apply("forward", entry, p, np.array([0.25, 0.75]))
    follows = np.greater_equal if after > before else np.less_equal
    worst, where, done, wrong_way, wrong_at = -1.0, 0.0, 0, 0, None

    def part(start: int) -> tuple[int, np.ndarray, float, float]:
        """How many inputs, those that go the wrong way, the worst error and where."""
        order = np.arange(max(start - step, first), min(start + step * _PART, last + 1), step)
        x = _from_ordered(order, np.float32)
        new = int(start > first)  # the one before links this part to the last
        if not low < x[0] or not x[-1] < high:
            inside = (x > low) & (x < high)
            new = int(new and inside[0])
            x = np.ascontiguousarray(x[inside])
        if x.size == new:
            return 0, x[:0], -1.0, 0.0
        got = apply(op, entry, p, x)
        wrong = x[1:][~follows(got[1:], got[:-1])]
        if not errors_too:
            return x.size - new, wrong, -1.0, 0.0
        found = errors(op, entry, p, x, got, known=max(worst, RIGHT))
        at = int(found.argmax())
        return x.size - new, wrong, float(found[at]), float(x[at])

    start_time = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        for n, wrong, error, at in pool.map(part, range(first, last + 1, step * _PART)):
            if error > worst:
                worst, where = error, at
            done += n
            wrong_way += wrong.size
            if wrong.size and wrong_at is None:
                wrong_at = float(wrong[0]).hex()
    row = {"map": entry["name"], "params": list(params), "op": op, "dtype": "float32", "samples": done}
    if errors_too:
        row |= {"worst_ulp": round(worst, 3), "at": where.hex(), "bound": bound(entry, op)}
    row |= {"wrong_way": wrong_way, "wrong_at": wrong_at}
    return row | {"seconds": round(time.perf_counter() - start_time)}


def write(rows: list[dict[str, Any]], path: Path) -> None:
    """Put rows into a table in the catalog's order, in place of those of the same cases."""
    table = json.loads(path.read_text()) if path.exists() else []
    found = {_case(row): row for row in [*table, *rows]}
    order = {
        _case({"map": e["name"], "params": p, "op": op, "dtype": np.dtype(d).name}): None
        for e, p, _ in cases()
        for d in DTYPES
        for op in _core.OPS
    }
    lines = [" " + json.dumps(found[case]) for case in order if case in found]
    path.write_text("[\n" + ",\n".join(lines) + "\n]\n")


def _case(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["map"], tuple(row["params"]), row["op"], row["dtype"]


def main() -> int:
    """Measure, print, write; the exit status says whether every bound holds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=100_000, help="of values at default parameters")
    parser.add_argument(
        "--others", type=float, default=0.1, help="share of it for derivatives and other sets"
    )
    parser.add_argument("--map", action="append", help="only this map")
    parser.add_argument("--all-floats", action="store_true", help="every float32, default parameters, values")
    parser.add_argument(
        "--monotone", action="store_true", help="the same walk, but only the order of neighbours"
    )
    parser.add_argument("--out", type=Path, help="put the rows into this table, as JSON")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    start = time.perf_counter()
    if options.all_floats or options.monotone:
        for entry, params, default in cases(options.map):
            for op in VALUE_OPS if default else ():
                rows.append(measure_all(entry, params, op, errors_too=not options.monotone))
                print(rows[-1], flush=True)
                if options.out:
                    write(rows, options.out)
        return int(any(row["wrong_way"] or row.get("worst_ulp", 0) > row.get("bound", 0) for row in rows))
    print(f"{'map':14}{'parameters':18}{'op':26}{'dtype':9}{'samples':>10}{'ULP':>8}{'bound':>6}  at")
    for entry, params, default in cases(options.map):
        for dtype in DTYPES:
            for op in _core.OPS:
                headline = default and op in VALUE_OPS
                samples = options.samples if headline else int(options.samples * options.others)
                row = measure(entry, params, op, dtype, samples)
                rows.append(row)
                mark = "" if row["worst_ulp"] <= row["bound"] else "  ABOVE THE BOUND"
                print(f"{row['map']:14}{params!s:18}{op:26}{row['dtype']:9}{row['samples']:10}"
                      f"{row['worst_ulp']:8.3f}{row['bound']:6g}  {row['at']}{mark}", flush=True)  # fmt: skip
    if options.out:
        write(rows, options.out)
    bad = sum(row["worst_ulp"] > row["bound"] for row in rows)
    print(f"{len(rows)} cases, {bad} above their bound, {time.perf_counter() - start:.0f} s")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
