"""The CUDA kernels without a GPU: their PTX by nvcc, and its interpreter, `ptx.cpp`.

``python tests/ptx.py`` writes `cuda_registers.json`: how many registers ptxas gives to every kernel.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import json
import os
import re
import shutil
import subprocess
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from test_binary import cmake_variable

from fastmap import _core

HERE = Path(__file__).parent
CSRC = HERE.parent / "csrc"
REGISTERS = HERE / "cuda_registers.json"
THREADS = 256  # of a block
OPS = list(_core.OPS)
DTYPES = {"f": np.float32, "d": np.float64}
SUMS, RULES = "sums", "rules"
# Of a map and a dtype; "rows": with arrays of parameters.
KERNELS = [*OPS, "rows", "step", "step rows", "squares", "squares rows"]
ASSEMBLED = "sm_90"  # what the registers are counted for

Operand = tuple[int, np.ndarray, bool]  # address on the device, memory, whether it may be written


class _Window(ctypes.Structure):
    _fields_ = (
        ("address", ctypes.c_uint64),
        ("bytes", ctypes.c_uint64),
        ("data", ctypes.c_void_p),
        ("writable", ctypes.c_uint64),
    )


class _Launch(ctypes.Structure):
    _fields_ = (
        ("grid", ctypes.c_uint64),
        ("first_block", ctypes.c_uint64),
        ("blocks", ctypes.c_uint64),
        ("threads", ctypes.c_uint64),
        ("params", ctypes.c_char_p),
        ("params_bytes", ctypes.c_uint64),
        ("windows", ctypes.POINTER(_Window)),
        ("n_windows", ctypes.c_uint64),
    )


class Accesses(NamedTuple):
    """To global memory: of 16 bytes, and of less."""

    wide: int
    narrow: int


@functools.cache
def folder() -> Path:
    """For what is compiled here; gone when the process ends."""
    path = tempfile.mkdtemp(prefix="fastmap-ptx-")
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return Path(path)


@functools.cache
def interpreter() -> ctypes.CDLL:
    path = folder() / "ptx.so"
    subprocess.run(
        [os.environ.get("CXX", "c++"), "-std=c++17", "-O2", "-ffp-contract=off", "-Wall", "-Wextra",
         "-Werror", "-shared", "-fPIC", HERE / "ptx.cpp", "-o", path],
        check=True,
    )  # fmt: skip
    library = ctypes.CDLL(str(path))
    library.ptx_load.restype = ctypes.c_void_p
    library.ptx_names.restype = ctypes.c_char_p
    library.ptx_run.restype = ctypes.c_bool
    library.ptx_params_bytes.restype = ctypes.c_uint64
    return library


class Module:
    """The kernels of a PTX text. RuntimeError for what the interpreter does not know."""

    def __init__(self, text: str) -> None:
        error = ctypes.create_string_buffer(1000)
        handle = interpreter().ptx_load(text.encode(), error, ctypes.c_size_t(len(error)))
        if not handle:
            raise RuntimeError(error.value.decode())
        self._handle = ctypes.c_void_p(handle)
        weakref.finalize(self, interpreter().ptx_free, self._handle)
        self.names = interpreter().ptx_names(self._handle).decode().split()

    def kernel(self, op: str, dtype: type) -> str:
        """The name of one of `KERNELS`."""
        letter = {t: letter for letter, t in DTYPES.items()}[dtype]
        (name,) = (n for n in self.names if described(n)[1:] == (op, letter))
        return name

    def params_bytes(self, name: str) -> int:
        """Of the parameters that a kernel takes."""
        return int(interpreter().ptx_params_bytes(self._handle, name.encode()))

    def run(
        self,
        name: str,
        grid: int,
        params: bytes,
        memory: Sequence[Operand],
        *,
        threads: int = THREADS,
        blocks: range | None = None,
    ) -> Accesses:
        """Run a kernel, of its grid those blocks; parameters beyond what it takes are left out."""
        windows = (_Window * len(memory))(*(
            _Window(address, array.nbytes, array.ctypes.data, writable) for address, array, writable in memory
        ))  # fmt: skip
        blocks = range(grid) if blocks is None else blocks
        taken = params[: self.params_bytes(name)]
        launch = _Launch(grid, blocks.start, len(blocks), threads, taken, len(taken), windows, len(memory))
        wide, narrow, error = ctypes.c_uint64(), ctypes.c_uint64(), ctypes.create_string_buffer(1000)
        if not interpreter().ptx_run(
            self._handle, name.encode(), ctypes.byref(launch), ctypes.byref(wide), ctypes.byref(narrow),
            error, ctypes.c_size_t(len(error)),
        ):  # fmt: skip
            raise RuntimeError(error.value.decode())
        return Accesses(wide.value, narrow.value)


def described(name: str) -> tuple[str, str, str]:
    """Map, which of `KERNELS` and letter of the dtype, from the mangled name of a kernel."""
    found = re.search(
        r"((?:step_|squares_)?(?:row_)?)kernelINS\d*_\d+([A-Za-z]\w*?)E(?:LNS_2OpE(\d)E)?([fd])E",
        name,
    )
    assert found, name
    of_many = found[1].replace("row_", "rows_").replace("_", " ").strip()
    kind = of_many or OPS[int(found[3])]
    return found[2], kind, found[4]


def compile_kernels(name: str) -> str:
    """The PTX of the kernels of a map, of sums or of rules, with the flags of CMakeLists.txt."""
    path = folder() / f"{name}.ptx"
    source, definitions = "engine/cuda_rules.cu" if name == RULES else "engine/cuda_sum.cu", ["-DFM_ISA=cuda"]
    if name not in (SUMS, RULES):
        source = "engine/cuda.cu"
        definitions += [f"-DFM_MAP={name}", f'-DFM_MAP_HEADER="maps/{name}.hpp"']
    done = subprocess.run(
        ["nvcc", *cmake_variable("FASTMAP_CUDA_FLAGS"), f"-arch={cmake_variable('FASTMAP_CUDA_PTX')[0]}",
         "-Werror", "all-warnings", f"-I{CSRC}", *definitions, "-ptx", CSRC / source, "-o", path],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return path.read_text()


@functools.cache
def ptx_of_all() -> dict[str, str]:
    """By map, and those of sums and rules."""
    names = [*(m["class_name"] for m in _core.catalog()), SUMS, RULES]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return dict(zip(names, pool.map(compile_kernels, names), strict=True))


@functools.cache
def module_of(name: str) -> Module:
    return Module(ptx_of_all()[name])


def mutants(name: str, kernel: str) -> Iterator[tuple[str, Module]]:
    """Each arithmetic instruction of a kernel replaced by another one, one at a time; and which it was."""
    text = ptx_of_all()[name]
    start = text.index(f".entry {kernel}(")
    end = text.index("\n}", start) + 2
    head, body = text[: text.index(".entry")], text[start:end]
    other = {"add": "sub", "sub": "add", "mul": "div", "div": "mul", "fma": "fma"}
    for found in re.finditer(r"\b(add|sub|mul|div|fma)\.rn\.f\d\d[^;]*", body):
        instruction = found[0].replace(found[1], other[found[1]], 1)
        if found[1] == "fma":  # a b + c with the last two exchanged
            opcode, operands = instruction.split(None, 1)
            d, a, b, c = operands.split(", ")
            instruction = f"{opcode} {d}, {a}, {c}, {b}"
        yield found[0], Module(head + body[: found.start()] + instruction + body[found.end() :])


class Assembled(NamedTuple):
    """What ptxas says of a kernel."""

    registers: int
    stack: int
    spilled: int


def assemble(name: str, text: str, architecture: str = ASSEMBLED) -> dict[str, Assembled]:
    """ptxas on a PTX text, by operation and dtype or the name of the kernel."""
    path = folder() / f"{name}.{architecture}.ptx"
    path.write_text(text)
    report = subprocess.run(
        ["ptxas", f"-arch={architecture}", "-v", path, "-o", path.with_suffix(".cubin")],
        capture_output=True, text=True, check=True,
    ).stderr  # fmt: skip
    found = re.findall(
        r"Compiling entry function '(\S+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes "
        r"spill loads.*?Used (\d+) registers",
        report,
        re.DOTALL,
    )
    result = {}
    for kernel, stack, stores, loads, registers in found:
        if name in (SUMS, RULES):
            key = "_".join(re.findall(r"\d(lanes|fold|pairs|counts)(?:I(f|d)E)?", kernel)[0]).rstrip("_")
        else:
            _, op, letter = described(kernel)
            key = f"{op} {np.dtype(DTYPES[letter])}"
        result[key] = Assembled(int(registers), int(stack), int(stores) + int(loads))
    return result


@functools.cache
def ptxas_version() -> str:
    text = subprocess.run(["ptxas", "--version"], capture_output=True, text=True, check=True).stdout
    return re.findall(r"V([\d.]+)", text)[0]


def register_table() -> dict[str, Any]:
    names, texts = zip(*ptx_of_all().items(), strict=True)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        kernels = [
            {key: assembled.registers for key, assembled in found.items()}
            for found in pool.map(assemble, names, texts)
        ]
    return {
        "ptxas": ptxas_version(),
        "architecture": ASSEMBLED,
        "registers": dict(zip(names, kernels, strict=True)),
    }


if __name__ == "__main__":
    REGISTERS.write_text(json.dumps(register_table(), indent=1) + "\n")
