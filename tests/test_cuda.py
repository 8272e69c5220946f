"""CUDA without a GPU: the PTX of every kernel, run by an interpreter, gives the bits of the CPU engine."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import json
import math
import re
import shutil
import struct
import sys
from typing import Any

import engine
import numpy as np
import oracle
import ptx
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import fastmap as fm
from fastmap import _core, _native, _torch, _torch_cuda
from fastmap._map import resolve
from fastmap.torch import _cuda_step

CATALOG = _core.catalog()
NAMES = [m["class_name"] for m in CATALOG]
DTYPES = [np.float32, np.float64]
needs_nvcc = pytest.mark.skipif(
    not shutil.which("nvcc"), reason="the CUDA toolkit is optional, and nvcc is not on PATH"
)
Map = dict[str, Any]

# Where buffers lie on the device that there is not.
X, OUT, FACTOR, ADDEND = 0x7F00_0000_0000, 0x7F40_0000_0000, 0x7F80_0000_0000, 0x7FC0_0000_0000


def bits(x: np.ndarray) -> np.ndarray:
    return x.view(np.uint32 if x.itemsize == 4 else np.uint64)


def tile(dtype: type) -> int:
    """Elements that a block takes at a time."""
    return ptx.THREADS * 16 // np.dtype(dtype).itemsize


def constants(m: Map, params: tuple[float, ...], dtype: type) -> bytes:
    ((number, inverted, args),) = engine.program(m, params).steps(DTYPES.index(dtype))
    assert (number, inverted) == (m["id"], False)
    return args


def parameters(
    args: bytes, n: int, x: int, out: int, factor: int = 0, addend: int = 0, storage: int = 0
) -> bytes:
    """As a kernel takes them: addresses and what is there, how many elements, the constants of the map."""
    return struct.pack("<QQQQQQQQQ", *(v for a in (x, factor, addend, out) for v in (a, storage)), n) + args


def launch(
    module: ptx.Module,
    op: str,
    args: bytes,
    x: np.ndarray,
    *,
    grid: int = 1,
    x_offset: int = 0,
    out_offset: int = 0,
    in_place: bool = False,
    factor: np.ndarray | None = None,
    addend: np.ndarray | None = None,
) -> tuple[np.ndarray, ptx.Accesses]:
    """op(x) factor + addend on buffers that begin so many elements after an address of 256-byte alignment."""
    x_address = X + x_offset * x.itemsize
    out_address = x_address if in_place else OUT + out_offset * x.itemsize
    out = x.copy() if in_place else np.full_like(x, 77)
    memory = [(out_address, out, True)] if in_place else [(x_address, x, False), (out_address, out, True)]
    others = []
    for address, array in ((FACTOR, factor), (ADDEND, addend)):
        others.append(0 if array is None else address)
        if array is not None:
            memory.append((address, array, False))
    params = parameters(args, x.size, x_address, out_address, *others, storage=int(x.itemsize == 8))
    return out, module.run(module.kernel(op, x.dtype.type), grid, params, memory)


def compare(results: np.ndarray, expected: np.ndarray, x: np.ndarray, what: str) -> None:
    wrong = np.flatnonzero(bits(results) != bits(expected))
    shown = [(x[i], results[i], expected[i]) for i in wrong[:5]]
    assert not wrong.size, f"{what}: {wrong.size} of {x.size} differ, (x, kernel, CPU): {shown}"


# --- Bits ----------------------------------------------------------------------------------------


def special(dtype: type) -> np.ndarray:
    """Both signs of zero, subnormals, ordinary, huge, infinities and NaNs of several payloads."""
    kind = np.finfo(dtype)
    one = [0, kind.smallest_subnormal, kind.smallest_normal - kind.smallest_subnormal, kind.smallest_normal,
           kind.eps, 0.5, 1, 2, 60, 88, 89, 104, 709, 746, kind.max / 2, kind.max, np.inf]  # fmt: skip
    numbers = np.array([*one, *(-v for v in one)], dtype)
    quiet, mantissa = bits(np.array([np.nan], dtype))[0], kind.nmant
    sign = quiet.dtype.type(1 << (8 * numbers.itemsize - 1))
    signalling = quiet - quiet.dtype.type(1 << (mantissa - 1)) + quiet.dtype.type(1)
    nans = np.array([quiet, quiet | sign, quiet + quiet.dtype.type(5), signalling, signalling | sign])
    return np.concatenate([numbers, nans.view(dtype)])


def inputs(op: str, m: Map, params: tuple[float, ...], dtype: type, samples: int = 1200) -> np.ndarray:
    """Special values, next to ends and roots, by the strata of the oracle, and any bit patterns, mixed."""
    p = oracle.effective(m, params, dtype)
    marks = [*oracle.domain(m, p), *oracle.domain(m, p, "codomain")]
    for way in ("forward", "inverse"):
        marks += engine.run(way, m, params, np.array([0, 1, -1], np.float64))[0].tolist()
    with np.errstate(over="ignore"):
        next_to = oracle._shifted(np.repeat(np.array(marks, dtype), 5), np.tile(np.arange(-2, 3), len(marks)))
    rng = np.random.default_rng([m["id"], ptx.OPS.index(op)])
    unsigned = bits(np.zeros(1, dtype)).dtype
    anything = rng.integers(0, np.iinfo(unsigned).max, 250, dtype=unsigned, endpoint=True).view(dtype)
    usual = rng.uniform(-20, 20, 250).astype(dtype)
    sampled = oracle.sample(op, m, p, dtype, samples, 7)
    x = np.concatenate([special(dtype), next_to, anything, usual, sampled])
    return rng.permutation(x)


@needs_nvcc
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("m", CATALOG, ids=NAMES)
def test_kernels_give_the_bits_of_the_cpu(m: Map, dtype: type) -> None:
    module = ptx.module_of(m["class_name"])
    assert len(module.names) == len(ptx.KERNELS) * len(DTYPES)
    for example in m["examples"]:
        params = tuple(example.values())
        args = constants(m, params, dtype)
        for op in ptx.OPS:
            x = inputs(op, m, params, dtype)
            assert x.size > tile(dtype), "the grid of one block has to go around"
            expected, _ = engine.run(op, m, params, x)
            results, accesses = launch(module, op, args, x)
            compare(results, expected, x, f"{m['class_name']}{params} {op}")
            rest = x.size % tile(dtype)
            assert accesses == (2 * (x.size - rest) * x.itemsize // 16, 2 * rest)


@needs_nvcc
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["Identity", "Softplus"])
def test_length_alignment_grid_and_place_do_not_matter(name: str, dtype: type) -> None:
    m = CATALOG[NAMES.index(name)]
    module, args = ptx.module_of(name), constants(m, tuple(m["examples"][0].values()), dtype)
    t = tile(dtype)
    whole = np.concatenate([special(dtype), np.linspace(-50, 50, 4 * t).astype(dtype)])
    expected, _ = engine.run("inverse", m, tuple(m["examples"][0].values()), whole)
    cases = [(n, grid, 0, 0, False) for n in (0, 1, t - 1, t, t + 1, 4 * t + 3) for grid in (1, 2, 3, 9)]
    cases += [(n, 2, i, j, False) for n in (5, 2 * t + 5) for i in range(4) for j in range(4)]
    cases += [(2 * t + 1, 2, i, i, True) for i in range(4)]
    pack = 16 // np.dtype(dtype).itemsize
    for n, grid, x_offset, out_offset, in_place in cases:
        x = whole[:n]
        results, accesses = launch(
            module, "inverse", args, x, grid=grid, x_offset=x_offset, out_offset=out_offset, in_place=in_place
        )
        compare(results, expected[:n], x, f"{n} elements, grid {grid}, offsets {x_offset}, {out_offset}")
        aligned = x_offset % pack == 0 and (in_place or out_offset % pack == 0)
        wide = n // t * t if aligned else 0
        assert accesses == (2 * wide // pack, 2 * (n - wide))


@needs_nvcc
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_factor_and_addend(name: str, dtype: type) -> None:
    """The pullback, and what chains are made of: op(x) factor + addend, each rounded, with the one NaN."""
    m = CATALOG[NAMES.index(name)]
    params = tuple(m["examples"][0].values())
    args, op = constants(m, params, dtype), "inverse_jacobian"
    x = inputs(op, m, params, dtype)
    rng = np.random.default_rng(8)
    factor, addend = (
        rng.permutation(np.resize(inputs(o, m, params, dtype), x.size)) for o in ("forward", op)
    )
    module = ptx.module_of(name)
    pulled, _ = engine.run(op, m, params, x, g=factor)
    compare(launch(module, op, args, x, factor=factor)[0], pulled, x, "factor")
    terms, _ = engine.run(op, m, params, x)
    with np.errstate(all="ignore"):
        for given, expected in ((None, terms + addend), (factor, pulled + addend)):
            expected[np.isnan(expected)] = np.nan
            compare(launch(module, op, args, x, factor=given, addend=addend)[0], expected, x, "addend")


@needs_nvcc
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [0, 1])
def test_more_elements_than_32_bits_count(dtype: type, offset: int) -> None:
    """One block of a grid that goes around three times, on what it touches of huge buffers."""
    m = CATALOG[NAMES.index("Log")]
    module, args = ptx.module_of("Log"), constants(m, (0.0,), dtype)
    t, grid, block = tile(dtype), 2**23 + 7, 2**23 + 3
    n = (2 * grid + block) * t + t // 2 + 1  # the last tile is not full
    x = np.exp(np.linspace(-50, 50, 3 * t)).astype(dtype)[: 2 * t + t // 2 + 1]
    assert n > 2**33
    out, item = np.full_like(x, 77), x.itemsize
    memory = []
    for k in range(3):
        first = (k * grid + block) * t + offset
        part = slice(k * t, min((k + 1) * t, x.size))
        memory += [(X + first * item, x[part], False), (OUT + first * item, out[part], True)]
    params = parameters(args, n, X + offset * item, OUT + offset * item, storage=int(item == 8))
    module.run(module.kernel("forward", dtype), grid, params, memory, blocks=range(block, block + 1))
    compare(out, engine.run("forward", m, (0.0,), x)[0], x, f"{n} elements")


@needs_nvcc
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_wrong_kernel_is_noticed(dtype: type) -> None:
    """Each arithmetic instruction of a kernel replaced by another one, one at a time."""
    m = CATALOG[NAMES.index("Log")]
    args, x = constants(m, (0.0,), dtype), inputs("forward", m, (0.0,), dtype)
    expected, _ = engine.run("forward", m, (0.0,), x)
    mutants = list(ptx.mutants("Log", ptx.module_of("Log").kernel("forward", dtype)))
    survived = [
        instruction
        for instruction, mutant in mutants
        if launch(mutant, "forward", args, x)[0].tobytes() == expected.tobytes()
    ]
    # What survives is for other bounds, for a factor, an addend and 16-bit buffers, or an exact product.
    assert len(mutants) - len(survived) > 40, survived


# --- Gates ---------------------------------------------------------------------------------------


@needs_nvcc
@pytest.mark.parametrize("name", [*NAMES, ptx.SUMS, ptx.RULES])
def test_arithmetic_of_the_ptx_is_that_of_ieee_754(name: str) -> None:
    """ptxas may contract a mul and an add only where they say no rounding."""
    text = ptx.ptx_of_all()[name]
    assert not re.findall(r"\b\w+(?:\.\w+)*\.(?:approx|full|ftz|sat|rz|rm|rp)\b\S*", text)
    arithmetic = re.findall(r"\b(?:add|sub|mul|mad|fma|div|rcp|sqrt|rsqrt)(?:\.\w+)*\.f(?:16|32|64)\b", text)
    assert arithmetic
    assert [i for i in arithmetic if ".rn." not in i] == []
    assert not re.findall(
        r"^\s*(?:call|bar|atom|red|shfl|vote)\b.*|\.func\b.*|\.local\b.*", text, re.MULTILINE
    )


@needs_nvcc
@pytest.mark.parametrize("name", NAMES)
def test_every_kernel_has_accesses_of_16_bytes(name: str) -> None:
    for body in ptx.ptx_of_all()[name].split(".entry ")[1:]:
        _, op, letter = ptx.described(body.split("(")[0])
        kind = {"f": r"v4\.[fu]32", "d": r"v2\.[fu]64"}[letter]
        # x, factor and addend. Of squares a thread adds up every 32nd element: neighbours read neighbours.
        loads, stores = {"step": (5, 4), "squares": (0, 0)}.get(op.split()[0], (3, 1))
        assert len(re.findall(rf"ld\.global\.{kind}", body)) == loads
        assert len(re.findall(rf"st\.global\.{kind}", body)) == stores


SAMPLE = ["Identity", "Log", "Softplus", "Probit", "SoftClip", "SinhArcsinh", ptx.SUMS, ptx.RULES]


@needs_nvcc
@pytest.mark.parametrize("name", SAMPLE)
def test_registers_are_those_on_record(name: str) -> None:
    """Nothing spilled. ``python tests/ptx.py`` renews the record, which belongs to one version of ptxas."""
    found = ptx.assemble(name, ptx.ptx_of_all()[name])
    assert len(found) == ptx.ptx_of_all()[name].count(".entry ")
    oldest = ptx.assemble(name, ptx.ptx_of_all()[name], "sm_75")
    for assembled in (found, oldest):
        assert {key: a for key, a in assembled.items() if a.stack or a.spilled} == {}
    record = json.loads(ptx.REGISTERS.read_text())
    assert set(record["registers"]) == {*NAMES, ptx.SUMS, ptx.RULES}
    if record["ptxas"] == ptx.ptxas_version():
        assert {key: a.registers for key, a in found.items()} == record["registers"][name]


# --- The interpreter -----------------------------------------------------------------------------

KERNEL = """.version 9.0
.target sm_75
.address_size 64
.visible .entry kernel(
  .param .u64 kernel_param_0
)
.maxntid 32
{{
  .reg .pred %p<8>; .reg .b16 %h<8>; .reg .b32 %r<8>; .reg .f32 %f<8>; .reg .b64 %rd<8>; .reg .f64 %d<8>;
  ld.param.u64 %rd0, [kernel_param_0];
  mov.u32 %r0, %tid.x; mul.wide.u32 %rd1, %r0, 64; add.s64 %rd2, %rd0, %rd1;
{body}
  ret;
}}
"""


def run_ptx(body: str, memory: np.ndarray, threads: int = 1, address: int = X) -> None:
    """A body that finds the address of 64 bytes of its own in %rd2."""
    module = ptx.Module(KERNEL.format(body=body))
    module.run("kernel", 1, struct.pack("<Q", address), [(address, memory, True)], threads=threads)


def operation(opcode: str, operands: list[np.ndarray], result: type) -> np.ndarray:
    """An instruction on arrays of operands."""
    register = {"f4": "%f", "f8": "%d", "u4": "%r", "i4": "%r", "u8": "%rd", "i8": "%rd"}
    memory = np.zeros((operands[0].size, 8), np.uint64)
    lines, names = [], []
    for k, column in enumerate(operands):
        raw = memory.view(np.uint8).reshape(-1, 64)
        raw[:, 8 * k : 8 * k + column.itemsize] = column.view(np.uint8).reshape(column.size, -1)
        names.append(f"{register[column.dtype.str[1:]]}{3 + k}")
        lines.append(f"ld.global.b{8 * column.itemsize} {names[-1]}, [%rd2+{8 * k}];")
    into = np.dtype(result)
    to = register[into.str[1:]] + "7"
    lines += [f"{opcode} {to}, {', '.join(names)};", f"st.global.b{8 * into.itemsize} [%rd2+56], {to};"]
    for start in range(0, len(memory), 32):
        part = memory[start : start + 32]
        run_ptx("\n".join(lines), part, threads=len(part))
    return memory.view(np.uint8).reshape(-1, 64)[:, 56 : 56 + into.itemsize].copy().view(into).reshape(-1)


def exact_fma(a: float, b: float, c: float, dtype: type) -> float:
    """By integers of any size: a b + c rounded once, for finite operands."""
    from fractions import Fraction

    exact = Fraction(a) * Fraction(b) + Fraction(c)
    if exact == 0:
        return a * b + c  # only its sign is open
    kind = np.finfo(dtype)
    exponent = max(
        abs(exact.numerator).bit_length() - exact.denominator.bit_length() - kind.nmant - 1,
        kind.minexp - kind.nmant,
    )
    while True:
        unit = Fraction(2) ** exponent
        units = round(exact / unit)  # to nearest, ties to even
        if abs(units) <= 2 ** (kind.nmant + 1):
            break
        exponent += 1
    if units == 0:
        return math.copysign(0.0, exact)
    value = units * unit
    return (
        float(value) if abs(value) <= Fraction(float(kind.max)) else float(np.copysign(np.inf, float(units)))
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_interpreted_arithmetic(dtype: type) -> None:
    kind, rng = f"f{8 * np.dtype(dtype).itemsize}", np.random.default_rng(3)
    base = special(dtype)
    a, b = (v.ravel() for v in np.meshgrid(base, base))
    unsigned = bits(base).dtype
    random = rng.integers(0, np.iinfo(unsigned).max, (2, 500), dtype=unsigned, endpoint=True).view(dtype)
    a, b = np.concatenate([a, random[0]]), np.concatenate([b, random[1]])
    with np.errstate(all="ignore"):
        expected: dict[str, np.ndarray] = {"add": a + b, "sub": a - b, "mul": a * b, "div": a / b}
        for name, values in expected.items():
            np.testing.assert_array_equal(bits_of_numbers(operation(f"{name}.rn.{kind}", [a, b], dtype)),
                                          bits_of_numbers(values), err_msg=name)  # fmt: skip
        for name, values in {"sqrt.rn": np.sqrt(a), "rcp.rn": dtype(1) / a, "neg": -a, "abs": abs(a)}.items():
            np.testing.assert_array_equal(bits_of_numbers(operation(f"{name}.{kind}", [a], dtype)),
                                          bits_of_numbers(values), err_msg=name)  # fmt: skip
    unordered = np.isnan(a) | np.isnan(b)
    for name, pick in {"min": np.fmin, "max": np.fmax}.items():  # NumPy does not tell the zeros apart
        plain = (a != 0) | (b != 0)
        np.testing.assert_array_equal(
            bits_of_numbers(operation(f"{name}.{kind}", [a[plain], b[plain]], dtype)),
            bits_of_numbers(pick(a, b)[plain]),
            err_msg=name,
        )
    zeros = np.array([[0.0, -0.0], [-0.0, 0.0]], dtype)
    assert np.signbit(operation(f"min.{kind}", list(zeros), dtype)).all()
    assert not np.signbit(operation(f"max.{kind}", list(zeros), dtype)).any()
    compared = {"eq": a == b, "ne": ~unordered & (a != b), "lt": a < b, "le": a <= b, "gt": a > b,
                "ge": a >= b, "num": ~unordered, "nan": unordered}  # fmt: skip
    compared |= {f"{name}u": compared[name] | unordered for name in ("eq", "ne", "lt", "le", "gt", "ge")}
    for name, values in compared.items():
        chosen = f"setp.{name}.{kind} %p1, {{}}, {{}}; selp.u32 %r7, 1, 0, %p1"
        np.testing.assert_array_equal(predicate(chosen, a, b), values, err_msg=name)


def predicate(body: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    letter, size = ("f", 4) if a.itemsize == 4 else ("d", 8)
    memory = np.zeros((a.size, 64), np.uint8)
    memory[:, :size], memory[:, 8 : 8 + size] = (v.view(np.uint8).reshape(-1, size) for v in (a, b))
    text = f"""ld.global.f{8 * size} %{letter}1, [%rd2]; ld.global.f{8 * size} %{letter}2, [%rd2+8];
      {body.format(f"%{letter}1", f"%{letter}2")}; st.global.u32 [%rd2+16], %r7;"""
    for start in range(0, len(memory), 32):
        part = memory[start : start + 32]
        run_ptx(text, part, threads=len(part))
    return memory[:, 16].astype(bool)


def bits_of_numbers(x: np.ndarray) -> np.ndarray:
    """The bits, of any NaN those of one."""
    return bits(np.where(np.isnan(x), x.dtype.type(np.nan), x))


@pytest.mark.parametrize("dtype", DTYPES)
def test_interpreted_fma_rounds_once(dtype: type) -> None:
    rng = np.random.default_rng(4)
    a, b = (rng.standard_normal(400).astype(dtype) for _ in range(2))
    c = -(a * b)  # what is left is the rounding error of the product
    c[::3] = rng.standard_normal(134).astype(dtype)
    tiny = dtype(np.finfo(dtype).smallest_normal)
    a[::7] *= tiny
    c[::7] *= tiny
    expected = [exact_fma(float(u), float(v), float(w), dtype) for u, v, w in zip(a, b, c, strict=True)]
    results = operation(f"fma.rn.f{8 * a.itemsize}", [a, b, c], dtype)
    np.testing.assert_array_equal(bits(results), bits(np.array(expected, dtype)))


def test_interpreted_integers() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.integers(0, 2**32, (2, 300), dtype=np.uint64).astype(np.uint32)
    shift = rng.integers(0, 40, 300).astype(np.uint32)
    wide, wide_b = rng.integers(0, 2**64 - 1, (2, 300), dtype=np.uint64)
    wide_shift = rng.integers(0, 70, 300).astype(np.uint32)

    def shifted(x: np.ndarray, by: np.ndarray, left: bool) -> list[int]:
        width = 8 * x.itemsize
        return [
            (int(v) << int(s)) % 2**width if left else int(v) >> int(s) for v, s in zip(x, by, strict=True)
        ]

    signed, signed_b = a.view(np.int32), b.view(np.int32)
    cases: list[tuple[str, list[np.ndarray], Any]] = [
        ("add.s32", [a, b], a + b), ("sub.s32", [a, b], a - b), ("mul.lo.s32", [a, b], a * b),
        ("add.s64", [wide, wide_b], wide + wide_b), ("sub.s64", [wide, wide_b], wide - wide_b),
        ("mul.wide.u32", [a, b], a.astype(np.uint64) * b),
        ("mul.wide.s32", [signed, signed_b], signed.astype(np.int64) * signed_b),
        ("and.b32", [a, b], a & b), ("or.b64", [wide, wide_b], wide | wide_b), ("xor.b32", [a, b], a ^ b),
        ("not.b32", [a], ~a), ("shl.b32", [a, shift], shifted(a, shift, True)),
        ("shr.u32", [a, shift], shifted(a, shift, False)),
        ("shl.b64", [wide, wide_shift], shifted(wide, wide_shift, True)),
        ("shr.u64", [wide, wide_shift], shifted(wide, wide_shift, False)),
        ("shr.s32", [signed, shift], [int(v) >> int(s) for v, s in zip(signed, shift, strict=True)]),
        ("cvt.u64.u32", [a], a), ("cvt.u32.u64", [wide], wide & 0xFFFFFFFF),
        ("cvt.s64.s32", [signed], signed),
    ]  # fmt: skip
    for opcode, operands, expected in cases:
        is_wide = "64" in opcode.split(".")[1] or "wide" in opcode or opcode.endswith("b64")
        kind = np.int64 if ".s32" in opcode and is_wide else np.int32 if opcode == "shr.s32" else None
        result = kind or (np.uint64 if is_wide else np.uint32)
        np.testing.assert_array_equal(
            operation(opcode, operands, result), np.asarray(expected, result), err_msg=opcode
        )


def test_interpreted_insertion_of_bits() -> None:
    memory = np.array([0xABCDEF, 0x1111_2222_3333_4444, 0, 0, 0, 0, 0, 0], np.uint64)
    run_ptx(
        """
        ld.global.u64 %rd3, [%rd2]; ld.global.u64 %rd4, [%rd2+8];
        bfi.b64 %rd5, %rd3, %rd4, 40, 12; st.global.u64 [%rd2+16], %rd5;
        bfi.b64 %rd5, %rd3, %rd4, 56, 30; st.global.u64 [%rd2+24], %rd5;
        bfi.b64 %rd5, %rd3, %rd4, 4, 0; st.global.u64 [%rd2+32], %rd5;
        """,
        memory,
    )
    assert [hex(v) for v in memory[2:5]] == [
        hex(0x111D_EF22_3333_4444), hex(0xEF11_2222_3333_4444), hex(0x1111_2222_3333_4444)
    ]  # fmt: skip


def test_interpreted_vectors_branches_and_predicates() -> None:
    memory = np.arange(64, dtype=np.float32).reshape(4, 16)
    run_ptx(
        """
        ld.global.v4.f32 {%f1, %f2, %f3, %f4}, [%rd2+16];
        mov.u32 %r1, 3; mov.f32 %f5, 0f3F800000;
$L__loop:
        fma.rn.f32 %f5, %f5, %f1, %f2; add.s32 %r1, %r1, -1; setp.ne.s32 %p1, %r1, 0;
        @%p1 bra $L__loop;
        @!%p1 mov.f32 %f4, 0f40000000;
        st.global.v4.f32 [%rd2], {%f5, %f4, %f3, %f1};
        mov.b64 %rd3, {%r0, %r1}; mov.b64 {%r2, %r3}, %rd3; st.global.u32 [%rd2+32], %r2;
        """,
        memory,
        threads=4,
    )
    for t, row in enumerate(memory):
        x, y = 16 * t + 4.0, 16 * t + 5.0
        assert row[:4].tolist() == [np.float32(((x + y) * x + y) * x + y), 2, 16 * t + 6, x]
        assert row.view(np.uint32)[8] == t


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("bar.sync 0;", "bar.sync is not known"),
        ("add.rz.f32 %f1, %f1, %f1;", "add.rz.f32 is not known"),
        ("ex2.approx.f32 %f1, %f1;", "not known"),
        ("ld.global.nc.f32 %f1, [%rd2];", "not known"),
        (".local .b8 depot[16];", "not known"),
        ("call foo;", "not known"),
        ("bra $L__nowhere;", "label"),
        ("mov.u32 %r9, 1;", "register %r9"),
        ("add.s32 %r1, %r2;", "operands"),
        ("ld.param.u64 %rd1, [kernel_param_0+8];", "beyond its parameters"),
        ("ld.global.v2.f32 {%f1, %f2}, [%rd2+4];", "not aligned"),
        ("ld.global.f64 %d1, [%rd2+64];", "reads outside"),
        ("st.global.f64 [%rd2+-8], %d1;", "writes outside"),
        ("$L__loop: bra $L__loop;", "does not end"),
    ],
)
def test_what_the_interpreter_does_not_know_is_an_error(body: str, message: str) -> None:
    with pytest.raises(RuntimeError, match=re.escape(message)):
        run_ptx(body, np.zeros(8, np.uint64))


def test_what_ptx_leaves_open_differs_each_time() -> None:
    """NaNs that an instruction makes, and registers that nothing has set."""
    memory = np.zeros((8, 8), np.uint64)
    make = "mov.f64 %d1, 0dFFF0000000000000; sub.rn.f64 %d1, %d1, %d1; st.global.f64 [%rd2], %d1;"
    run_ptx(make, memory, threads=8)
    assert np.isnan(memory[:, 0].copy().view(np.float64)).all()
    assert np.unique(memory[:, 0]).size == 8
    run_ptx("st.global.f64 [%rd2], %d1; st.global.f64 [%rd2+8], %d2;", memory)
    assert np.unique(memory[0, :2]).size == 2


# --- The module ----------------------------------------------------------------------------------


def window(address: int, size: int, writable: bool = False) -> ptx.Operand:
    """Memory of this process."""
    return address, np.frombuffer((ctypes.c_char * size).from_address(address), np.uint8), writable


@functools.cache
def args_bytes(dtype: int) -> list[int]:
    """Of the constants of each map: what a kernel takes beside its buffers."""
    modules = (ptx.module_of(name) for name in NAMES)
    return [m.params_bytes(m.kernel("forward", DTYPES[dtype])) - 72 for m in modules]


def rows_of(args: int, dims: list[tuple[int, int]], op: int) -> bytes:
    """A CudaRows."""
    lengths, strides = zip(*dims, *[(0, 0)] * (6 - len(dims)), strict=True)
    return struct.pack("<QII12Q", args, op, len(dims), *lengths, *strides)


class Interpreted:
    """`fastmap._cuda` with the interpreter for a GPU, and the memory of this process for its memory."""

    def launch(
        self, device: int, stream: int, number: int, op: int, args: bytes, n: int, *operands: tuple[int, int]
    ) -> None:
        kind = np.float64 if operands[0][1] == 1 else np.float32
        out, windows = operands[3][0], dict(operands)
        memory = [
            (
                a,
                np.frombuffer((ctypes.c_char * (n * (4, 8, 2, 2)[storage])).from_address(a), np.uint8),
                a == out,
            )
            for a, storage in windows.items()
            if a
        ]
        module = ptx.module_of(NAMES[number])
        params = struct.pack("<QQQQQQQQQ", *(v for operand in operands for v in operand), n) + args
        module.run(module.kernel(ptx.OPS[op], kind), 2, params, memory)

    def launch_rows(
        self, device: int, stream: int, number: int, op: int, args: int, dims: list[tuple[int, int]], n: int,
        *operands: tuple[int, int],
    ) -> None:  # fmt: skip
        kind = np.float64 if operands[0][1] == 1 else np.float32
        memory = [self._constants(number, int(operands[0][1] == 1), args, dims)]
        for a, storage in dict(operands).items():
            memory += [window(a, n * (4, 8, 2, 2)[storage], a == operands[3][0])] if a else []
        params = struct.pack("<9Q", *(v for operand in operands for v in operand), n)
        module = ptx.module_of(NAMES[number])
        module.run(module.kernel("rows", kind), 2, params + rows_of(args, dims, op), memory)

    def _constants(self, map: int, dtype: int, args: int, dims: list[tuple[int, int]]) -> ptx.Operand:
        """A table, as far as a buffer of these dimensions may look."""
        rows = 1 + sum((length - 1) * stride for length, stride in dims)
        return window(args, rows * self.args_bytes(dtype)[map])

    def args_bytes(self, dtype: int) -> list[int]:
        return args_bytes(dtype)

    def count_steps(self, device: int, stream: int, dtype: int, counts: bytes) -> None:
        *_, at, scale, found, squares, _, skipped, code, _, _, _, count, _ = _cuda_step._COUNTS.unpack_from(
            counts
        )
        given = ((at, 8 if code else 4), (scale, 4), (found, 4), (squares, 8), (skipped, 8))
        memory = [window(a, size, a == skipped) for a, size in given if a]
        for i in range(count):
            steps, scalars = _cuda_step._COUNTED_TENSOR.unpack_from(counts, _cuda_step._COUNTS.size + 16 * i)
            memory += [window(steps, 4, True), window(scalars, 96, True)]
        module = ptx.module_of(ptx.RULES)
        (kernel,) = (k for k in module.names if f"6countsI{'fd'[dtype]}E" in k)
        module.run(kernel, -(-count // ptx.THREADS), counts, memory)

    def step_rows(
        self, device: int, stream: int, map: int, dtype: int, tensors: bytes, args: int,
        dims: list[tuple[int, int]],
    ) -> None:  # fmt: skip
        assert _cuda_step._STEP.unpack_from(tensors)[6] == 1
        constants = self._constants(map, dtype, args, dims)
        self.step(device, stream, map, dtype, tensors, rows_of(args, dims, 0), "step rows", constants)

    def step(
        self, device: int, stream: int, map: int, dtype: int, tensors: bytes, args: bytes,
        kernel: str = "step", *more: ptx.Operand,
    ) -> None:  # fmt: skip
        count, memory = _cuda_step._STEP.unpack_from(tensors)[6], list[ptx.Operand]()
        for i in range(count):
            *buffers, scalars, n, _, theta, gradient, moment, _ = _cuda_step._MOVED_TENSOR.unpack_from(
                tensors, _cuda_step._STEP.size + 80 * i
            )
            for k, (a, code) in enumerate(
                zip(buffers, (theta, gradient, dtype, moment, moment), strict=True)
            ):
                memory += [window(a, n * (4, 8, 2, 2)[code], k != 1)] if a else []
            memory.append(window(scalars, 96))
        module = ptx.module_of(NAMES[map])
        module.run(module.kernel(kernel, DTYPES[dtype]), 2, tensors + args, [*memory, *more])

    def squares(
        self, device: int, stream: int, map: int, dtype: int, tensors: bytes, lanes: int, args: bytes,
        kernel: str = "squares", *more: ptx.Operand,
    ) -> None:  # fmt: skip
        count, memory = _cuda_step._STEP.unpack_from(tensors)[6], list[ptx.Operand]()
        block = 512 if dtype == 0 else 256
        for i in range(count):
            _, g, z, *_, n, _, _, code, _, first = _cuda_step._MOVED_TENSOR.unpack_from(
                tensors, _cuda_step._STEP.size + 80 * i
            )
            memory += [window(g, n * (4, 8, 2, 2)[code]), window(z, n * (4, 8)[dtype])]
            memory.append(window(lanes + first * 256, -(-n // block) * 256, True))
        module = ptx.module_of(NAMES[map])
        params = tensors + struct.pack("<Q", lanes) + args
        module.run(module.kernel(kernel, DTYPES[dtype]), 2, params, [*memory, *more])

    def square_rows(
        self, device: int, stream: int, map: int, dtype: int, tensors: bytes, lanes: int, args: int,
        dims: list[tuple[int, int]],
    ) -> None:  # fmt: skip
        constants = self._constants(map, dtype, args, dims)
        self.squares(
            device, stream, map, dtype, tensors, lanes, rows_of(args, dims, 0), "squares rows", constants
        )

    def sum_lanes(self, device: int, stream: int, dtype: int, x: int, lanes: int, rows: int, n: int) -> None:
        item, blocks = np.dtype(DTYPES[dtype]).itemsize, rows * -(-n // 4096)
        self._sum(f"5lanesI{'fd'[dtype]}E", (x, lanes, rows, n), rows * n * item, blocks * 32 * 8)

    def sum_fold(self, device: int, stream: int, lanes: int, out: int, blocks: int) -> None:
        self._sum("4foldE", (lanes, out, blocks), blocks * 32 * 8, blocks * 8)

    def sum_pairs(self, device: int, stream: int, source: int, out: int, rows: int, n: int) -> None:
        self._sum("5pairsE", (source, out, rows, n), rows * n * 8, rows * ((n + 1) // 2) * 8)

    def _sum(self, name: str, params: tuple[int, ...], bytes_in: int, bytes_out: int) -> None:
        module = ptx.module_of(ptx.SUMS)
        (kernel,) = (k for k in module.names if name in k)
        memory = [
            (a, np.frombuffer((ctypes.c_char * size).from_address(a), np.uint8), writable)
            for a, size, writable in ((params[0], bytes_in, False), (params[1], bytes_out, True))
        ]
        module.run(kernel, 3, struct.pack(f"<{len(params)}Q", *params), memory)


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors in memory take the way of those on a GPU."""
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda device: 0, raising=False)
    monkeypatch.setattr(_torch_cuda, "module", Interpreted)


MAPS: dict[str, Any] = {
    "one": fm.Softplus(2.0, 1.0),
    "inverse": fm.Asinh(2.0).inv,
    "chain": fm.Chain(fm.Affine(-3, 0.5), "softplus", fm.Interval(-1, 200).inv, fm.Interval(-2, 300)),
    "two": fm.Chain("log", "asinh"),
    "one bound": fm.Interval(-math.inf, 2.0),
    "space": fm.Space(a=fm.Param(map="asinh", shape=200), b=fm.Param(map="tanh", shape=150)),
}


ALL_DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def raw(x: torch.Tensor) -> np.ndarray:
    """The bits; NumPy has no bfloat16."""
    kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
    return x.detach().view(kind).numpy()


@pytest.mark.proves("torch", "pullback", device="CUDA (its PTX, interpreted)")
@pytest.mark.proves("torch", "maps", device="CUDA (its PTX, interpreted)")
@pytest.mark.proves("torch", "derivatives", device="CUDA (its PTX, interpreted)")
@needs_nvcc
@pytest.mark.parametrize("dtype", ALL_DTYPES)
@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("op", ptx.OPS)
@pytest.mark.usefixtures("interpreted")
def test_calls_give_the_bits_of_the_cpu(op: str, name: str, dtype: torch.dtype) -> None:
    """Chains, inverses, infinite bounds and spaces, with and without a factor, into any of the buffers."""
    m = resolve(MAPS[name])
    x = torch.from_numpy(np.random.default_rng(1).uniform(-1, 3, 350)).to(dtype)
    x[:4] = torch.tensor([math.nan, math.inf, -math.inf, 0])
    grad = x.flip(0).contiguous()
    nan = _native.policy_code("nan")
    for g in (None, grad):
        expected = raw(_torch._apply(op, "x", x, m, None, nan, g))
        for where in ("fresh", "x", "grad"):
            own, own_g = x.clone(), None if g is None else g.clone()
            out = {"fresh": None, "x": own, "grad": own_g}[where]
            result = _torch_cuda.apply(op, "x", own, m, out, nan, own_g)
            assert out is None or result is out
            assert (raw(result) == expected).all(), (op, where, x[torch.from_numpy(raw(result) != expected)])


def published(m: Map, dtype: torch.dtype) -> list[tuple[float, ...]]:
    """Parameters, as far as they are some in a dtype: 1000 and 1001 are one number in bfloat16."""
    kept = []
    for example in m["examples"]:
        with contextlib.suppress(ValueError):
            engine.program(m, tuple(example.values())).steps(ALL_DTYPES.index(dtype))
            kept.append(tuple(example.values()))
    return kept


@needs_nvcc
@pytest.mark.parametrize("dtype", ALL_DTYPES)
@pytest.mark.parametrize("m", [m for m in CATALOG if m["examples"][0]], ids=lambda m: m["class_name"])
@pytest.mark.usefixtures("interpreted")
def test_arrays_of_parameters_give_the_bits_of_the_cpu(m: Map, dtype: torch.dtype) -> None:
    kind = np.float64 if dtype is torch.float64 else np.float32
    examples, nan = published(m, dtype), _native.policy_code("nan")
    columns = (np.array(column)[:, None] for column in zip(*examples, strict=True))
    map = getattr(fm, m["class_name"])(*columns)
    for op in ptx.OPS:
        numbers = [inputs(op, m, params, kind, 120)[:130] for params in examples]
        x = torch.from_numpy(np.stack([numbers, numbers[::-1]])).to(dtype)
        assert x.shape == (2, len(examples), 130)
        grad = x.flip(2).contiguous()
        for g in (None, grad):
            expected, result = (f(op, "x", x, map, None, nan, g) for f in (_torch._apply, _torch_cuda.apply))
            wrong = raw(result) != raw(expected)
            assert not wrong.any(), (op, x[torch.from_numpy(wrong)][:5], result[torch.from_numpy(wrong)][:5])


@needs_nvcc
@pytest.mark.parametrize("dtype", ALL_DTYPES)
@pytest.mark.usefixtures("interpreted")
def test_arrays_broadcast_and_any_order_of_dimensions(dtype: torch.dtype) -> None:
    """Chains and spaces of arrays, alone and among numbers; tails; dimensions in any order in memory."""
    rng, nan = np.random.default_rng(4), _native.policy_code("nan")

    def scales(*shape: int) -> Any:
        return rng.uniform(0.5, 4, shape)

    space = fm.Space(
        a=fm.Param(map=fm.Asinh(scales(3, 1)), shape=(3, 7)), b=fm.Param(map="tanh", shape=9),
        c=fm.Param(map=fm.Softplus(scales(40)), shape=40),
    )  # fmt: skip
    cases: list[tuple[Any, tuple[int, ...]]] = [
        (fm.Asinh(scales(1)), (5,)), (fm.Asinh(scales(1100)), (1100,)), (fm.Asinh(scales(13)), (90, 13)),
        (fm.Asinh(scales(3, 1, 5)), (4, 3, 2, 5)), (fm.Asinh(scales(2, 3, 1, 1)), (2, 3, 4, 5)),
        (fm.Chain(fm.Asinh(scales(5)), "softplus", fm.Interval(-1, 20 + scales(3, 1)).inv), (2, 3, 5)),
        (fm.Interval(-math.inf, scales(5)), (3, 5)), (space, (70,)), ("softplus", (2, 3, 4, 5)),
        (fm.Asinh(scales(3, 1)), (0, 3, 4)),
    ]  # fmt: skip
    for given, shape in cases:
        m = resolve(given)
        x = torch.from_numpy(rng.uniform(-1, 1, shape)).to(dtype)
        orders = [x]
        if x.ndim > 1:
            orders.append(torch.empty_like(x.mT.contiguous()).mT.copy_(x))
        if x.ndim == 4:
            orders.append(torch.empty_like(x, memory_format=torch.channels_last).copy_(x))
        for own in orders:
            grad = torch.empty_like(own).copy_(x.flip(0))
            for op in ptx.OPS:
                expected = raw(_torch._apply(op, "x", x, m, None, nan, x.flip(0).contiguous()))
                result = _torch_cuda.apply(op, "x", own, m, None, nan, grad)
                assert result.stride() == own.stride() or not own.numel()
                assert (raw(result) == expected).all(), (given, op, own.stride())
            axes = tuple(range(own.ndim))[-1:]
            sums = [f("log_abs_det", "x", own, m, axes, nan) for f in (_torch._log_det, _torch_cuda.log_det)]
            assert (raw(sums[0]) == raw(sums[1])).all()


def outcome(apply: Any, op: str, x: torch.Tensor, m: Any, policy: int) -> Any:
    """The bits of the results, or the text of an error."""
    try:
        return raw(apply(op, "x", x, m, None, policy)).tolist()
    except fm.DomainError as error:
        return str(error)


@needs_nvcc
@pytest.mark.parametrize("dtype", ALL_DTYPES)
@pytest.mark.usefixtures("interpreted")
def test_policies_are_those_of_the_cpu(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """With their messages: at each end of a domain and a codomain, in chains, arrays and spaces."""
    codes = {name: _native.policy_code(name) for name in ("raise", "nan", "clip")}
    maps = [
        "log", fm.Sqrt(), fm.Interval(-1.0, 0.7), fm.BoxCox(0.3), fm.Log().inv, "identity", MAPS["chain"],
        MAPS["two"],
        fm.Asinh([1.0, 2.0, 3.0]), fm.Log([0.1, -0.2, 0.3]),
        fm.Space(a=fm.Param(map="log", shape=2), b=fm.Param(map="tanh")),
    ]  # fmt: skip
    values = [0.0, -0.0, -1.0, 0.7, -4.0, 1e30, -1e30, math.inf, -math.inf, math.nan, 0.3, 0.5]
    refused = 0
    pairs = zip(values, values[5:] + values[:5], strict=True)
    for given, (x1, x2), op in itertools.product(maps, pairs, ("forward", "inverse_jacobian")):
        m, x = resolve(given), torch.tensor([0.5, x1, x2]).to(dtype)
        for policy in ("raise", "clip"):
            if policy == "clip" and given in (MAPS["chain"], MAPS["two"]):
                continue
            found = [outcome(f, op, x, m, codes[policy]) for f in (_torch._apply, _torch_cuda.apply)]
            refused += isinstance(found[0], str)
            assert found[0] == found[1], (given, op, policy, x)
    assert refused > 100
    with monkeypatch.context() as patch:
        patch.setattr(_torch_cuda, "_is_capturing", lambda device: True)
        for policy in ("raise", "clip"):
            with pytest.raises(RuntimeError, match=r"^invalid: 'raise' and 'clip' wait for the GPU"):
                _torch_cuda.apply("forward", "x", torch.ones(3), resolve("log"), None, codes[policy])
    x = torch.tensor([0.5, -1.0, 2.0], dtype=dtype)
    with pytest.raises(fm.DomainError, match=r"^x: 1 of 3 values is outside"):
        _torch_cuda.log_det("log_abs_det", "x", x, resolve("log"), (0,), codes["raise"])
    assert torch.isfinite(_torch_cuda.log_det("log_abs_det", "x", x, resolve("log"), (0,), codes["clip"]))
    with pytest.raises(fm.DomainError):
        _torch_cuda.apply("forward", "x", x, resolve("log"), x, codes["raise"])
    assert x.tolist() == [0.5, -1.0, 2.0]


@pytest.mark.usefixtures("interpreted")
def test_tables_are_copied_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(Interpreted, "launch_rows", lambda self, *given: calls.append(given[4]))
    monkeypatch.setattr(Interpreted, "args_bytes", lambda self, dtype: [256] * len(NAMES))
    m, nan = resolve(fm.Asinh([1.0, 2.0])), _native.policy_code("nan")
    with monkeypatch.context() as patch:
        patch.setattr(_torch_cuda, "_is_capturing", lambda device: True)
        with pytest.raises(RuntimeError, match=r"^map: the first call with arrays .* call it once before"):
            _torch_cuda.apply("forward", "x", torch.ones(3, 2), m, None, nan)
    for _ in range(2):
        _torch_cuda.apply("forward", "x", torch.ones(3, 2), m, None, nan)
    assert calls[0] == calls[1]
    _torch_cuda.apply("forward", "x", torch.ones(3, 2).double(), m, None, nan)
    assert calls[2] != calls[1]


def test_operators_of_compiled_code_take_cuda_tensors() -> None:
    for name in ("fastmap::elementwise", "fastmap::log_det"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(name, "CUDA")


@needs_nvcc
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["Identity", "Log", "Interval"])
@pytest.mark.usefixtures("interpreted")
def test_every_16_bit_number(name: str, dtype: torch.dtype) -> None:
    x = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(dtype)
    m, nan = resolve(getattr(fm, name)()), _native.policy_code("nan")
    for part in (x, x[1:100], x[4:]):  # of other alignment, with tails
        for op in ("forward", "inverse"):
            expected = _torch._apply(op, "x", part, m, None, nan)
            assert (raw(_torch_cuda.apply(op, "x", part, m, None, nan)) == raw(expected)).all()


@pytest.mark.proves("torch", "sums", device="CUDA (its PTX, interpreted)")
@needs_nvcc
@pytest.mark.parametrize("dtype", ALL_DTYPES)
@pytest.mark.usefixtures("interpreted")
def test_sums_have_the_bits_of_the_cpu(dtype: torch.dtype) -> None:
    """The fixed tree: whole blocks, parts of them, several levels of pairs, rows, spaces."""
    nan, rng = _native.policy_code("nan"), np.random.default_rng(2)
    affine = resolve(fm.Affine(1, 3.7))
    cases: list[tuple[Any, tuple[int, ...], tuple[int, ...]]] = [
        ("log", (n,), (0,)) for n in (0, 1, 31, 33, 4095, 4096, 4097, 3 * 4096 + 5, 7 * 4096)
    ] + [
        ("log", (3, 5000), (1,)), ("log", (2, 3, 41), (1, 2)), ("log", (4, 2), ()), ("log", (3, 0), (1,)),
        ("log", (5000, 3), (0,)), ("log", (7, 3, 650), (0, 2)), ("log", (2, 50, 90), (1,)),
        (fm.Chain("log", "asinh"), (9000,), (0,)), (MAPS["space"], (350,), (0,)), (affine, (5000,), (0,)),
    ]  # fmt: skip
    for given, shape, axes in cases:
        x = torch.from_numpy(rng.lognormal(0, 3, shape)).to(dtype)
        m = resolve(given)
        expected = _torch._log_det("log_abs_det", "x", x, m, axes, nan)
        results = _torch_cuda.log_det("log_abs_det", "x", x, m, axes, nan)
        assert results.shape == expected.shape
        assert (raw(results) == raw(expected)).all(), (given, shape)
    x = torch.tensor([2.0, math.nan, 0.0, 1.0], dtype=dtype)
    found = _torch_cuda.log_det("log_abs_det", "x", x.reshape(2, 2), resolve("log"), (1,), nan)
    assert bits(found.numpy())[0] == 0x7FF8000000000000
    assert found[1] == math.inf


@pytest.mark.usefixtures("interpreted")
def test_what_calls_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Interpreted, "args_bytes", lambda self, dtype: [256] * len(NAMES))
    x, nan = torch.ones(8), _native.policy_code("nan")
    log = resolve("log")

    def apply(x: Any = x, m: Any = log, out: Any = None, policy: int = nan, grad: Any = None) -> None:
        _torch_cuda.apply("inverse_jacobian", "z", x, m, out, policy, grad, "grad_theta")

    cases: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (TypeError, "z: dtype torch.int64", {"x": x.long()}),
        (ValueError, "z: CUDA tensors must be dense", {"x": torch.ones(8, 2)[:, 0]}),
        (ValueError, "z: CUDA tensors must be dense", {"x": torch.ones(1, 2).expand(4, 2)}),
        (ValueError, "out: strides", {"x": torch.ones(2, 4), "out": torch.ones(4, 2).t()}),
        (ValueError, "grad_theta: strides", {"x": torch.ones(4, 2).t(), "grad": torch.ones(2, 4)}),
        (TypeError, "z: layout", {"x": x.to_sparse()}),
        (
            NotImplementedError,
            "is several maps, and CUDA tensors have no 'clip' of what one passes on; use 'raise'",
            {"m": resolve(fm.Chain("log", "asinh")), "policy": _native.policy_code("clip")},
        ),
        (TypeError, "out: expected a torch tensor", {"out": x.numpy()}),
        (TypeError, "out: dtype", {"out": x.double()}),
        (ValueError, "out: shape", {"out": torch.ones(9)}),
        (ValueError, "out: device", {"out": torch.ones(8, device="meta")}),
        (ValueError, "out: CUDA tensors must be dense", {"out": torch.ones(8, 2)[:, 0]}),
        (RuntimeError, "out: requires grad", {"out": torch.ones(8, requires_grad=True)}),
        (ValueError, "out: overlaps z", {"x": torch.ones(9)[:8], "out": None}),
        (ValueError, "grad_theta: shape", {"grad": torch.ones(9)}),
        (NotImplementedError, "infinite bounds", {"m": fm.Interval(0, [1.0, math.inf] * 4)}),
        (
            NotImplementedError,
            "more than 6 dimensions",
            {
                "x": torch.ones([2] * 8),
                "m": fm.Asinh(np.ones([2, 1] * 4) + np.arange(2).reshape(2, *[1] * 7)),
            },
        ),
        (NotImplementedError, "NumPy evaluates it", {"m": fm.Table([0, 1, 2], [0, 1, 3])}),
        (ValueError, "map: parameters of shape", {"m": fm.Asinh([1.0, 2.0, 3.0])}),
    ]
    both = torch.ones(9)
    for kind, message, given in cases:
        if "overlaps" in message:
            given = {"x": both[:8], "out": both[1:]}
        with pytest.raises(kind, match=f"(?s)^.*{re.escape(message)}"):
            apply(**given)


def test_cuda_tensors_take_this_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors that claim to be on a GPU; out may be x, so that its sum is taken first."""
    calls: list[tuple[str, int]] = []

    def record(op: str, argument: str, x: torch.Tensor, map: Any, last: Any, policy: int, *_: Any) -> Any:
        calls.append((op, policy))
        return x

    monkeypatch.setattr(_torch_cuda, "apply", record)
    monkeypatch.setattr(_torch_cuda, "log_det", record)
    with FakeTensorMode():
        x = torch.empty(3, device="cuda")
        fm.forward(x, "log")
        fm.pullback(x, x, "log")
        fm.log_abs_det(x, "log", invalid="clip")
        fm.inverse_and_log_det(x, "log", out=x)
    nan, clip = _native.policy_code("nan"), _native.policy_code("clip")
    assert calls == [
        ("forward", nan), ("inverse_jacobian", nan), ("log_abs_det", clip), ("inverse_log_abs_det", nan),
        ("inverse", nan),
    ]  # fmt: skip


def test_without_the_module_a_call_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastmap._cuda", None)
    monkeypatch.delattr("fastmap._cuda", raising=False)
    with pytest.raises(RuntimeError, match="FASTMAP_CUDA=ON"):
        _torch_cuda.apply("forward", "theta", torch.ones(3), resolve("log"), None, _native.policy_code("nan"))


def test_without_a_gpu_a_call_says_what_is_missing() -> None:
    if not fm.info()["cuda"]:
        pytest.skip("fastmap._cuda was not built: FASTMAP_CUDA is off by default")
    from fastmap import _cuda

    try:
        count = _cuda.device_count()
    except RuntimeError as error:
        count, message = 0, str(error)
        assert re.search("driver|nvidia-smi", message)
    if count:
        pytest.skip("there is a GPU")
    (_, _, args) = resolve("log").program.steps(0)[0]
    x, none, out = (X, 0), (0, 0), (OUT, 0)
    with pytest.raises(RuntimeError, match=r"^CUDA: .*(driver|nvidia-smi)"):
        _cuda.launch(0, 0, NAMES.index("Log"), 0, args, 5, x, none, none, out)
    with pytest.raises(RuntimeError, match=r"^CUDA: "):
        _cuda.sum_fold(0, 0, X, OUT, 1)
    counts = bytes(_cuda_step._COUNTS.size + _cuda_step._COUNTED * _cuda_step._COUNTED_TENSOR.size)
    tensors = bytearray(_cuda_step._STEP_BYTES)
    tensors[32] = tensors[40 + 56] = 1  # one tensor, of one tile
    with pytest.raises(RuntimeError, match=r"^CUDA: "):
        _cuda.count_steps(0, 0, 0, counts)
    with pytest.raises(RuntimeError, match=r"^CUDA: "):
        _cuda.step(0, 0, 0, 0, bytes(tensors), args)
    with pytest.raises(RuntimeError, match=r"^CUDA: "):
        _cuda.squares(0, 0, 0, 0, bytes(tensors), OUT, args)
    with pytest.raises(RuntimeError, match=r"^CUDA: "):
        _cuda.square_rows(0, 0, 0, 0, bytes(tensors), OUT, X, [(5, 1)])
    for given in (
        (0, 0, bytes(9), args),
        (0, 0, bytes(len(tensors)), args),
        (len(NAMES), 0, bytes(tensors), args),
    ):
        with pytest.raises(ValueError, match=r"tensors|no such"):
            _cuda.step(0, 0, *given)
    with pytest.raises(ValueError, match="counts"):
        _cuda.count_steps(0, 0, 0, b"")
    for wrong in (
        (len(NAMES), 0, args, 5, x, none, none, out),
        (0, len(ptx.OPS), args, 5, x, none, none, out),
        (0, 0, b"", 5, x, none, none, out),
        (0, 0, args, 5, (X, 4), none, none, out),
        (0, 0, args, 5, x, none, none, (OUT, 1)),
    ):
        with pytest.raises(ValueError, match=r"no such|args|float64"):
            _cuda.launch(0, 0, *wrong)
