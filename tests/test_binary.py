"""Gates on the machine code: symbols, vector width, and no vector code outside of the kernels.

The kernels are compiled here with the flags that CMakeLists.txt gives them, one object per map and
ISA, because the installed module is one stripped file in which they cannot be told apart.
"""

from __future__ import annotations

import functools
import os
import platform
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from fastmap import _core

ROOT = Path(__file__).parents[1]
CXX = os.environ.get("CXX", "c++")
X86 = platform.machine() in ("x86_64", "AMD64")
WIDTHS = {"avx2": ("%ymm", 32), "avx512": ("%zmm", 64)}  # register, bytes
# What CMake adds by itself: the Release build, position independence, hidden visibility, C++17.
CMAKE_FLAGS = ("-O3", "-DNDEBUG", "-std=gnu++17", "-fPIC", "-fvisibility=hidden")

# The compiler and its binutils built the package: without them the tests fail, they are not skipped.
pytestmark = pytest.mark.skipif(platform.system() != "Linux", reason="nm and objdump read ELF files here")
needs_x86 = pytest.mark.skipif(not X86, reason="AVX2 and AVX-512 objects exist on x86-64 only")


def tool(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@functools.cache
def compiler_is_gcc() -> bool:
    return bool(shutil.which(CXX)) and "Free Software" in tool(CXX, "--version")


def cmake_arguments(path: Path) -> list[list[str]]:
    """The arguments of every command in a CMake file."""
    text = re.sub(r"#.*", "", path.read_text())
    return [arguments.split() for arguments in re.findall(r"\w+\(([^()]*)\)", text)]


@functools.cache
def cmake_variable(name: str) -> tuple[str, ...]:
    """What set(name ...) and list(APPEND name ...) give it; what is appended is meant for GCC."""
    values: list[str] = []
    registries = (ROOT / f"csrc/{kind}/registry.cmake" for kind in ("maps", "structured"))
    for path in (ROOT / "CMakeLists.txt", *registries):
        for arguments in cmake_arguments(path):
            if arguments[:1] == [name]:
                values = arguments[1:]
            elif arguments[:2] == ["APPEND", name] and compiler_is_gcc():
                values += arguments[2:]
    return tuple(values)


MAPS = cmake_variable("FASTMAP_MAPS")
STRUCTURED = cmake_variable("FASTMAP_STRUCTURED")
ISAS = ("baseline", *WIDTHS) if X86 else tuple(_core.info()["isas"])


@dataclass(frozen=True)
class Object:
    path: Path
    isa: str
    table: str  # the one symbol that it exports

    @functools.cached_property
    def functions(self) -> dict[str, list[str]]:
        """Instructions by demangled function."""
        return disassemble(self.path)

    @property
    def loops(self) -> str:
        """What GCC's vectoriser says, by function."""
        return self.path.with_suffix(".vect").read_text()

    @property
    def of_rows(self) -> bool:
        """Whether it is of a structured map: loops over the entries of a row around loops over rows."""
        return "structured" in self.table


def disassemble(path: Path) -> dict[str, list[str]]:
    functions: dict[str, list[str]] = {}
    name = ""
    for line in tool("objdump", "-dwC", "--no-show-raw-insn", path).splitlines():
        if header := re.match(r"[0-9a-f]+ <(.+)>:$", line):
            name = header[1]
            functions[name] = []
        elif instruction := re.match(r"\s*[0-9a-f]+:\s+(.+)", line):
            functions[name].append(instruction[1])
    return functions


def compile_kernels(folder: Path, isa: str, map_name: str | None) -> Object:
    """One map's kernels, or without a map what the engine itself needs."""
    path = folder / f"{map_name or 'engine'}_{isa}.o"
    source, table, definitions = "csrc/engine/support.cpp", f"fastmap_engine_{isa}", []
    if map_name:
        folder_of, source, table = "maps", "csrc/engine/cpu.cpp", f"fastmap_map_{map_name}_{isa}"
        if map_name in STRUCTURED:
            folder_of, source = "structured", "csrc/structured/kernels.cpp"
            table = f"fastmap_structured_{map_name}_{isa}"
        definitions = [f"-DFM_MAP={map_name}", f'-DFM_MAP_HEADER="{folder_of}/{map_name}.hpp"']
    report = f"-fdump-tree-vect-optimized-missed={path.with_suffix('.vect')}"
    flags = (*cmake_variable("FASTMAP_KERNEL_FLAGS"), *cmake_variable(f"FASTMAP_FLAGS_{isa}"))
    tool(
        CXX, *CMAKE_FLAGS, *flags, *([report] if compiler_is_gcc() else []), f"-I{ROOT / 'csrc'}",
        f"-DFM_ISA={isa}", *definitions, "-c", ROOT / source, "-o", path,
    )  # fmt: skip
    return Object(path, isa, table)


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> list[Object]:
    folder = tmp_path_factory.mktemp("objects")
    # The baseline is one more compilation of the same text: two maps of each kind show its symbols.
    every, some = (*MAPS, *STRUCTURED), (*MAPS[-2:], *STRUCTURED[-2:])
    wanted = [(isa, name) for isa in ISAS for name in (None, *(some if isa == "baseline" else every))]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(lambda w: compile_kernels(folder, *w), wanted))


def test_flags_were_found() -> None:
    assert "-ffp-contract=off" in cmake_variable("FASTMAP_KERNEL_FLAGS")
    assert set(MAPS) == {m["class_name"] for m in _core.catalog()}
    assert set(STRUCTURED) == {m["class_name"] for m in _core.structured_catalog()}
    if X86:
        assert all(cmake_variable(f"FASTMAP_FLAGS_{isa}") for isa in WIDTHS)


def test_a_kernel_object_exports_its_table_only(objects: list[Object]) -> None:
    """The linker keeps one of several weak functions of a name, whatever ISA it was compiled for.

    So a kernel object may have weak functions (template instances) in its ISA's own namespace only.
    """
    wrong = []
    for o in objects:
        symbols = [line.split() for line in tool("nm", "-P", o.path).splitlines()]
        exported = [name for name, kind, *_ in symbols if kind in "TDBRSGC"]
        own = re.compile(rf"_ZZ?NK?7fastmap{len(o.isa)}{o.isa}")
        shared = [name for name, kind, *_ in symbols if kind in "WV" and not own.match(name)]
        undefined = {name for name, kind, *_ in symbols if kind in "Uwv"}
        allowed = {"fma", "fmaf"} if o.isa == "baseline" else set()
        if "engine" in o.table:
            allowed |= {"memcpy"}
        if exported != [o.table]:
            wrong.append(f"{o.path.stem} exports {exported}")
        if shared:
            wrong.append(f"{o.path.stem} shares {shared}")
        if undefined - allowed:
            wrong.append(f"{o.path.stem} needs {sorted(undefined - allowed)}")
    assert not wrong, "\n".join(wrong)


def on_host(function: str) -> bool:
    """Runs once per call, for the parameters, not per element."""
    return bool(re.search(r"\bhost\b|\bprepare\b", function))


@needs_x86
def test_kernels_are_packed_and_call_nothing(objects: list[Object]) -> None:
    wrong = []
    for o in objects:
        if o.isa not in WIDTHS:
            continue
        register, _ = WIDTHS[o.isa]
        kernels = {f: body for f, body in o.functions.items() if not on_host(f)}
        # Kernels of rows are few and long: they may call each other, and nothing else (see the symbols).
        calls = [] if o.of_rows else [f for f, b in kernels.items() if any(i.startswith("call") for i in b)]
        packed = re.compile(rf"\S+p[sd] .*{register}")
        if calls:
            wrong.append(f"{o.path.stem}: calls in {calls}")
        if not any(packed.match(i) for body in kernels.values() for i in body):
            wrong.append(f"{o.path.stem}: no packed instruction on {register}")
    assert not wrong, "\n".join(wrong)


@functools.cache
def source_line(file: str, number: int) -> str:
    return Path(file).read_text().splitlines()[number - 1]


def over_chunks(report_line: str) -> bool:
    """A loop that fetches and stores chunk by chunk; the loop over the elements of one is inside it."""
    file, number = report_line.split(":")[:2]
    return "+= kLanes" in source_line(file, int(number))


def narrow_loops(report: str, width: int) -> list[str]:
    """Functions with a loop over elements that stays scalar, or below the ISA's width."""
    found = []
    name, previous = "", 0
    for line in report.splitlines():
        if header := re.match(r";; Function (.+) \(\S+, funcdef_no", line):
            name, previous = header[1], 0
        elif on_host(name):
            continue
        elif "missed: couldn't vectorize loop" in line:
            if not over_chunks(line):
                found.append(f"{name}: scalar")
        elif match := re.search(r"loop vectorized using (\d+) byte vectors", line):
            # Full width, or the remainder of a loop, in narrower vectors than what came before it.
            if width != int(match[1]) >= previous:
                found.append(f"{name}: {match[1]} bytes")
            previous = int(match[1])
    return found


@needs_x86
@pytest.mark.parametrize("isa", WIDTHS)
def test_every_loop_is_vectorised(objects: list[Object], isa: str) -> None:
    if not compiler_is_gcc():
        pytest.skip(f"the report of vectorised loops is GCC's, and {CXX} has no such report")
    maps = [o for o in objects if o.isa == isa and "engine" not in o.table]
    assert all("loop vectorized" in o.loops for o in maps), "the report is empty"
    loops = [loop for o in maps for loop in narrow_loops(over_lanes(o), WIDTHS[isa][1])]
    # Second derivatives of structured maps alone: a number and its derivative alternate in memory there.
    wrong = [loop for loop in loops if "Dual<" not in loop]
    assert not wrong, "\n".join(wrong)


def over_lanes(o: Object) -> str:
    """The report on the loops over lanes; those of structured maps all go through `rows::each`."""
    if not o.of_rows:
        return o.loops
    lines = o.loops.splitlines()
    return "\n".join(line for line in lines if line.startswith(";; Function") or "rows.hpp:" in line)


@needs_x86
def test_dispatcher_runs_on_every_cpu(tmp_path: Path) -> None:
    """It runs before the ISA is known, so it may hold no VEX or EVEX instruction: all start with v."""
    maps = " ".join(f"X({name}, arg)" for name in MAPS)
    isas = " ".join(f"X({isa})" for isa in ISAS)
    (tmp_path / "fastmap_registry.hpp").write_text(
        f"#define FASTMAP_FOR_MAPS(X, arg) {maps}\n#define FASTMAP_FOR_ISAS(X) {isas}\n"
    )
    options = [a[2:] for a in cmake_arguments(ROOT / "CMakeLists.txt") if a[:2] == ["_core", "PRIVATE"]]
    flags = [o for group in options for o in group if re.match(r"-[mfOW]", o)]
    path = tmp_path / "dispatch.o"
    tool(CXX, *CMAKE_FLAGS, *flags, f"-I{ROOT / 'csrc'}", f"-I{tmp_path}", "-c",
         ROOT / "csrc/engine/dispatch.cpp", "-o", path)  # fmt: skip
    functions = disassemble(path)
    assert functions
    vector = [f"{f}: {i}" for f, body in functions.items() for i in body if re.match(r"v|.*%[yz]mm", i)]
    assert not vector, "\n".join(vector[:10])


def test_installed_module_exports_its_entry_point_only() -> None:
    symbols = [line.split() for line in tool("nm", "-DP", "--defined-only", _core.__file__).splitlines()]
    strong = [name for name, kind, *_ in symbols if kind in "TDBRSGC"]
    assert strong == ["PyInit__core"]


def test_installed_module_needs_the_language_runtime_only() -> None:
    needed = re.findall(r"NEEDED.*\[(.+)\]", tool("readelf", "-dW", _core.__file__))
    allowed = r"(libstdc\+\+|libc\+\+|libm|libgcc_s|libc|libpthread|ld-linux.*|libc\.musl.*)\.so.*"
    assert [lib for lib in needed if not re.fullmatch(allowed, lib)] == []


@needs_x86
def test_installed_module_holds_every_isa() -> None:
    code = tool("objdump", "-dw", "--no-show-raw-insn", _core.__file__)
    assert [register for register, _ in WIDTHS.values() if register not in code] == []
