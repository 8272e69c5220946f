"""The native core inside a process: fork, floating-point mode, threads, environment."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import engine
import numpy as np
import pytest

from fastmap import _core

CATALOG = _core.catalog()
CASES = [(m, tuple(e.values())) for m in CATALOG for e in m["examples"]]
IDS = [f"{m['class_name']}{p}" for m, p in CASES]
MANY = 200_000  # elements: enough for more than one thread in either dtype

Map = dict[str, Any]


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = _core.get_num_threads()
    _core.set_num_threads(2)
    yield
    _core.set_num_threads(before)


def run(op: str, m: Map, params: tuple[float, ...], x: np.ndarray) -> bytes:
    return engine.run(op, m, params, x)[0].tobytes()


def log_det(m: Map, params: tuple[float, ...], x: np.ndarray) -> bytes:
    return engine.log_det(m, params, x, op="inverse_log_abs_det", value_op="inverse").tobytes()


def numbers(dtype: type) -> np.ndarray:
    """Ordinary numbers, and as many subnormals and numbers whose results are subnormal."""
    rng = np.random.default_rng(1)
    low, high = (-160, -120) if dtype is np.float32 else (-1080, -1015)
    ordinary = rng.uniform(-4, 4, MANY // 4)
    tiny = np.exp2(rng.uniform(low, high, MANY // 4)) * rng.choice([-1, 1], MANY // 4)
    tiny_exponential = rng.uniform(0.69 * low, 0.69 * high, MANY // 4)
    x = np.concatenate([ordinary, tiny, tiny_exponential, -tiny_exponential]).astype(dtype)
    rng.shuffle(x)
    return x


def python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a process of its own, where FASTMAP_* and OMP_NUM_THREADS are as given."""
    names = ("FASTMAP_ISA", "FASTMAP_NUM_THREADS", "OMP_NUM_THREADS")
    inherited = {k: v for k, v in os.environ.items() if k not in names}
    inherited["PYTHONPATH"] = os.path.dirname(__file__)
    return subprocess.run(
        [sys.executable, "-c", code], env=inherited | env, capture_output=True, text=True, timeout=120
    )


# --- Processes and threads -----------------------------------------------------------------------

FORK = """
import os, numpy as np, test_native as t
x = t.numbers(np.float32)
def all_maps():
    return [t.run("inverse", m, p, x) for m, p in t.CASES]
t._core.set_num_threads(2)
before = all_maps()
child = os.fork()
if child == 0:
    os._exit(0 if all_maps() == before else 3)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0, status
assert all_maps() == before
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_fork_after_use() -> None:
    done = python(FORK)
    assert done.returncode == 0, done.stderr


TORCH = """
import os, threading, time, torch, fastmap as fm
x = torch.rand(1_000_000) + 0.1
fm.set_num_threads(1)
expected = fm.forward(x, "log")
fm.set_num_threads(2)
torch.set_num_threads(2)
if FIRST: torch.log(x)

def tasks():
    return len(os.listdir("/proc/self/task"))

def wait_for(count):  # a thread that was joined is still there for a moment
    end = time.monotonic() + 10
    while tasks() != count:
        assert time.monotonic() < end, (tasks(), count)

def check():
    assert bytes(fm.forward(x, "log").numpy()) == bytes(expected.numpy())

def in_a_child():
    child = os.fork()
    if child == 0:  # torch would wait for ever here
        check()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/task")
def test_torch_lends_its_threads() -> None:
    """To the main thread, not to others, and not where it allows itself fewer."""
    code = (
        TORCH.replace("FIRST", "True")
        + """
before = tasks()
for _ in range(5):
    check()
assert tasks() == before
torch.set_num_threads(1)
check()
assert tasks() == before + 1
torch.set_num_threads(2)
other = threading.Thread(target=check)
other.start()
other.join()
wait_for(before + 1)
in_a_child()
check()
"""
    )
    done = python(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.parametrize("torch_first", [True, False])
def test_fork_after_torch_alone_used_its_threads(torch_first: bool) -> None:
    done = python(TORCH.replace("FIRST", str(torch_first)) + "in_a_child()\nin_a_child()\ncheck()")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_concurrent_calls_give_the_same_bits(dtype: type) -> None:
    x = numbers(dtype)
    expected = [run("inverse", m, params, x) for m, params in CASES]
    work = [(i, threads) for threads in (1, 2, 3) for i in range(len(CASES))]

    def call(item: tuple[int, int]) -> bool:
        i, threads = item
        _core.set_num_threads(threads)  # process-wide: changes under the other calls, too
        return run("inverse", *CASES[i], x) == expected[i]

    with ThreadPoolExecutor(8) as pool:
        wrong = [IDS[i] for (i, _), same in zip(work, pool.map(call, work), strict=True) if not same]
    assert not wrong


def test_calls_of_many_threads_that_share_their_maps() -> None:
    """On a Python without a GIL it also says whether the modules left it off."""
    script = os.path.join(os.path.dirname(__file__), "free_threads.py")
    done = python(f"import runpy; runpy.run_path({script!r}, run_name='__main__')", FASTMAP_NUM_THREADS="3")
    assert done.returncode == 0, done.stderr
    assert "rounds of" in done.stdout


# --- Floating-point mode -------------------------------------------------------------------------

ONE, THREE, SUBNORMAL = 1.0, 3.0, 5e-310


def probe() -> tuple[float, float]:
    """Shows the mode of this thread: the first is 0 if flushing, the second depends on rounding."""
    return SUBNORMAL * ONE, ONE / THREE


@contextlib.contextmanager
def environment(change: Callable[[ctypes.CDLL, ctypes.Array[ctypes.c_uint32]], None]) -> Iterator[None]:
    """C's floating-point environment (fenv.h), changed for the calling thread."""
    libm = ctypes.CDLL("libm.so.6")
    saved, changed = (ctypes.c_uint32 * 8)(), (ctypes.c_uint32 * 8)()
    assert libm.fegetenv(saved) == libm.fegetenv(changed) == 0
    try:
        change(libm, changed)
        yield
    finally:
        libm.fesetenv(saved)


def flush(libm: ctypes.CDLL, env: ctypes.Array[ctypes.c_uint32]) -> None:
    """Subnormals count as zero, as operands and as results."""
    if platform.machine() == "aarch64":
        env[0] |= 1 << 24  # FPCR.FZ
    else:
        env[7] |= 0x8040  # MXCSR.FTZ, MXCSR.DAZ
    libm.fesetenv(env)


def upward(libm: ctypes.CDLL, _env: ctypes.Array[ctypes.c_uint32]) -> None:
    libm.fesetround(0x400000 if platform.machine() == "aarch64" else 0x800)


@contextlib.contextmanager
def torch_flush() -> Iterator[None]:
    import torch

    before = probe()[0] == 0
    assert torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


MODES = {
    "flush": lambda: environment(flush),
    "upward": lambda: environment(upward),
    "torch": torch_flush,
}


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or platform.machine() not in ("x86_64", "aarch64"),
    reason="knows the layout of fenv_t for glibc on x86-64 and aarch64 only",
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("mode", MODES)
def test_floating_point_mode_of_the_caller_changes_nothing(mode: str, dtype: type) -> None:
    x = numbers(dtype)

    def everything() -> dict[str, bytes]:
        results = {}
        for name, (m, params) in zip(IDS, CASES, strict=True):
            results |= {f"{name} {op}": run(op, m, params, x) for op in _core.OPS}
            results[f"{name} sum"] = log_det(m, params, x[np.abs(x) < 1])
        return results

    expected, before = everything(), probe()
    with MODES[mode]():
        inside = probe()
        results = everything()
        afterwards = probe()
    assert inside != before, "the mode was not set"
    assert afterwards == inside, "the caller's mode was lost"
    assert probe() == before
    wrong = [name for name, bits in results.items() if bits != expected[name]]
    assert not wrong


# --- Environment variables -----------------------------------------------------------------------

REPORT = "from fastmap import _core; print(_core.info()['isa'], _core.get_num_threads())"


def test_unknown_isa_is_an_error_that_names_the_available_ones() -> None:
    done = python(REPORT, FASTMAP_ISA="mmx")
    assert done.returncode != 0
    message = done.stderr.splitlines()[-1]
    assert "FASTMAP_ISA=mmx" in message
    assert [isa for isa in _core.info()["isas"] if isa not in message] == []


@pytest.mark.parametrize("isa", _core.info()["isas"])
def test_isa_can_be_chosen(isa: str) -> None:
    assert python(REPORT, FASTMAP_ISA=isa).stdout.split()[0] == isa


@pytest.mark.parametrize(
    ("env", "threads"),
    [
        ({"FASTMAP_NUM_THREADS": "3"}, 3),
        ({"OMP_NUM_THREADS": "5"}, 5),
        ({"FASTMAP_NUM_THREADS": "3", "OMP_NUM_THREADS": "5"}, 3),
    ],
)
def test_number_of_threads_from_the_environment(env: dict[str, str], threads: int) -> None:
    assert int(python(REPORT, **env).stdout.split()[1]) == threads
    # What the program says wins over the environment.
    assert python("from fastmap import _core; _core.set_num_threads(7); "
                  "print(_core.get_num_threads())", **env).stdout.split() == ["7"]  # fmt: skip


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no thread affinity here")
def test_number_of_threads_follows_the_affinity() -> None:
    pin = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); "
    assert int(python(pin + REPORT).stdout.split()[1]) == 1


def test_number_of_threads_must_be_positive() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        _core.set_num_threads(0)


MEMORY = """
import re, sys
import numpy as np
import fastmap as fm

def status(key):
    return int(re.search(key + r":\\s+(\\d+) kB", open("/proc/self/status").read()).group(1)) << 10

n = 3 << 22
x = np.random.default_rng(0).uniform(0.1, 0.9, (n // 3, 3)).astype(np.float32)
chain = fm.Chain("log", "asinh", fm.Affine(1, 2))
columns = fm.Interval(0, [1.0, 2.0, np.inf])
space = fm.Space(a=fm.Param(0, 1, shape=(n // 6, 3)), b=fm.Param(map="asinh", shape=(n // 6, 3)))
many = fm.Asinh(np.linspace(1, 2, n // 3).reshape(-1, 1))
turned = np.asfortranarray(x)
out = np.ones_like(x)
calls = {
    "out": (lambda: fm.forward(x, "log", out=out), 0),
    "fresh": (lambda: fm.forward(x, "log"), x.nbytes),
    "in place": (lambda: fm.forward(out, fm.Affine(1, 2), out=out), 0),
    "chain": (lambda: fm.forward(x, chain, out=out), 0),
    "columns": (lambda: fm.forward(x, columns, out=out), 0),
    "rows": (lambda: fm.forward(x, many, out=out), 0),
    "other order": (lambda: fm.forward(turned, "log", out=out), 0),
    "sum": (lambda: fm.log_abs_det(turned, chain, axis=None), 0),
    "sums": (lambda: fm.log_abs_det(turned, chain, axis=0), 0),
    "value and sum": (lambda: fm.forward_and_log_det(turned, "log", out=out), 0),
    "pullback": (lambda: fm.pullback(turned, x, "asinh", out=out), 0),
    "space": (lambda: fm.forward(x.reshape(-1), space, out=out.reshape(-1)), 0),
}
for name, (call, allowed) in calls.items():
    call()
    open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
    before = status("VmRSS")
    call()
    print(name, (status("VmHWM") - before - allowed) / 2**20, sep="\\t")
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="the peak is read from Linux's /proc")
def test_peak_memory_is_the_output() -> None:
    run = python(MEMORY, FASTMAP_NUM_THREADS="2")
    assert run.returncode == 0, run.stderr
    peaks = dict(line.split("\t") for line in run.stdout.splitlines())
    assert len(peaks) == 12
    assert {name: peak for name, peak in peaks.items() if float(peak) > 8} == {}
