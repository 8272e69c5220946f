"""What a fuzzer hands to the public functions: files of strangers, damaged ones, arrays in any memory.

Only a ValueError (a DomainError is one) or a TypeError may come back, and nothing else may be written.
``python tests/fuzz_binding.py [seconds] [targets...]`` runs it: guided by coverage where atheris is there,
else by chance; then a finding prints the line that plays it back. ``tests/test_fuzz.py`` plays a bit of it.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

try:
    import atheris
except ImportError:
    atheris = None
with (
    atheris.instrument_imports(["fastmap"])
    if atheris and __name__ == "__main__"
    else contextlib.nullcontext()
):
    import fastmap as fm
    from fastmap import _core

EXPECTED = (ValueError, TypeError)


class Input(Protocol):
    """Atheris' FuzzedDataProvider, as far as it is used."""

    def ConsumeIntInRange(self, low: int, high: int) -> int: ...


class Dice:
    """The same by chance."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def ConsumeIntInRange(self, low: int, high: int) -> int:
        return self._random.randint(low, high)


def pick(source: Input, choices: Any) -> Any:
    return choices[source.ConsumeIntInRange(0, len(choices) - 1)]


# --- Documents: valid ones, then damaged ----------------------------------------------------------


def deep(depth: int) -> dict[str, Any]:
    data: dict[str, Any] = {"map": "log"}
    for _ in range(depth):
        data = {"map": "inverse", "of": data}
    return data


ODD: list[Any] = [
    None, True, -1, 0, 2, 1.5, -0.0, 1e308, 5e-324, 2**63, 10**400, math.nan, math.inf, -math.inf,
    "", "log", "chain", "nan", "0", "float64", "object", [], [[]], [1, [2]], [0.5, 2.0], [None], [2**63],
    [-1], ["x"], [{}], {}, {"map": "log"}, {"a": {}}, deep(3),
]  # fmt: skip


@cache
def maps() -> list[dict[str, Any]]:
    """The JSON form of a map of every kind."""
    log, half = fm.Log(), fm.Interval([0.0, -math.inf], [1.0, 2.0])
    several = [
        fm.Chain(log, fm.Asinh(2.0)), fm.Chain(half, "symlog").inv, log.inv, fm.Table([0, 1, 3], [0, 1, 2]),
        fm.Linear([[2.0, 1.0], [0.0, 1.0]]), fm.Simplex(), fm.Circular(0.0, 2.0),
        fm.Space(a=fm.Param(0, 1, shape=2), b=fm.Param(map=fm.Simplex(), shape=3)).flat_map,
    ]  # fmt: skip
    catalog = [getattr(fm, m["class_name"])(**example) for m in _core.catalog() for example in m["examples"]]
    return [json.loads(json.dumps(m.to_json())) for m in [*several, *catalog]]


def places(data: Any) -> list[tuple[Any, Any]]:
    """(container, key) of everything in a document."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    found: list[tuple[Any, Any]] = []
    for key, value in list(items):
        found += [(data, key), *places(value)]
    return found


def damaged(source: Input, data: Any) -> Any:
    """A copy with a few entries changed, missing or swapped."""
    box = [copy.deepcopy(data)]
    for _ in range(source.ConsumeIntInRange(0, 3)):
        container, key = pick(source, places(box))
        way = source.ConsumeIntInRange(0, 4)
        if way == 0 and container is not box:
            del container[key]
        elif way == 1 and isinstance(container, dict):
            container[pick(source, ["map", "low", "x", "shape", "", "maps", "of"])] = container[key]
        elif way == 2:
            container[key] = copy.deepcopy(pick(source, [c[k] for c, k in places(box)]))
        elif way == 3:
            container[key] = copy.deepcopy(pick(source, maps()))
        else:
            container[key] = copy.deepcopy(pick(source, ODD))
    return box[0]


def scratched(source: Input, text: bytes) -> bytes:
    """A file with bytes that are lost, changed or there twice."""
    for _ in range(source.ConsumeIntInRange(0, 4)):
        at, n = source.ConsumeIntInRange(0, len(text)), source.ConsumeIntInRange(0, 40)
        middle = pick(source, [b"", bytes([source.ConsumeIntInRange(0, 255)]), text[at : at + n] * 2])
        text = text[:at] + middle + text[at + n :]
    return text


def expected(call: Callable[[], Any]) -> Any:
    """What the call returns; None where it refuses."""
    try:
        return call()
    except EXPECTED:
        return None


def fuzz_map(source: Input) -> None:
    data = damaged(source, pick(source, maps()))
    m = expected(lambda: fm.Map.from_json(data))
    if m is None:
        return
    text = json.dumps(m.to_json())
    assert json.dumps(fm.Map.from_json(json.loads(text)).to_json()) == text, m
    x = np.array([[0.25, 0.75], [0.5, 0.5]])
    expected(lambda: fm.forward(x, m, invalid=pick(source, ["raise", "nan", "clip"])))


@cache
def spaces() -> list[dict[str, Any]]:
    named = fm.Space(
        lr=fm.Param(1e-6, 1.0, map="log"),
        layers=fm.Param(1, 8, integer=True),
        w=fm.Param(shape=(2, 3), map=fm.Asinh(), dtype="float32"),
        p=fm.Param(shape=3, map=fm.Simplex(), z_range=(-3, 3)),
    )
    each = [{"low": 0.25, "high": 0.5, "map": m} for m in maps()]
    return [named.to_json(), *({"version": 1, "params": {"a": row}} for row in each)]


def fuzz_space(source: Input) -> None:
    data = damaged(source, pick(source, spaces()))
    if not isinstance(data, dict):
        return
    space = expected(lambda: fm.Space.from_json(data))
    if space is not None:
        again = fm.Space.from_json(json.loads(json.dumps(space.to_json())))
        assert again.to_json() == space.to_json(), space


TOML = b"""version = 1
[params.lr]
low = 1e-6
high = 1.0
map = "log"
[params.w]
shape = [2, 3]
map.map = "asinh"
map.scale = 2
"""


def fuzz_file(source: Input) -> None:
    """`Space.load`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / pick(source, ["a.json", "a.toml"])
        text = TOML if path.suffix == ".toml" else json.dumps(pick(source, spaces())).encode()
        path.write_bytes(b"[" * 100_000 if source.ConsumeIntInRange(0, 99) == 99 else scratched(source, text))
        expected(lambda: fm.Space.load(path))


@cache
def result() -> dict[str, bytes]:
    """The files of a result, one array of it large."""
    space = fm.Space(w=fm.Param(-1.0, 1.0, shape=2000), lr=fm.Param(1e-3, 1.0))
    found = fm.minimize(
        lambda p: float((p["w"] ** 2).sum()), space, method="random", budget=2, jac=False, seed=0
    )
    with tempfile.TemporaryDirectory() as folder:
        found.save(folder)
        return {p.name: p.read_bytes() for p in Path(folder).iterdir() if p.suffix in (".json", ".npz")}


def fuzz_result(source: Input) -> None:
    files = dict(result())
    if source.ConsumeIntInRange(0, 1):
        files["result.json"] = json.dumps(damaged(source, json.loads(files["result.json"]))).encode()
    else:
        name = pick(source, sorted(files))
        files[name] = scratched(source, files[name])
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        expected(lambda: fm.Result.load(folder))


@cache
def storage() -> bytes:
    space = fm.Space(lr=fm.Param(1e-3, 1.0), n=fm.Param(1, 5, integer=True))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal"
        fm.minimize(lambda p: p["lr"], space, method="random", budget=3, storage=path, seed=0)
        return path.read_bytes()


def fuzz_storage(source: Input) -> None:
    lines = storage().splitlines()
    if source.ConsumeIntInRange(0, 1):
        at = source.ConsumeIntInRange(0, len(lines) - 1)
        lines[at] = json.dumps(damaged(source, json.loads(lines[at]))).encode()
    text = b"\n".join(lines) + b"\n"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal"
        path.write_bytes(scratched(source, text))
        search = expected(lambda: fm.search.load(path))
        if search is not None:
            expected(search.result)


# --- Arrays ---------------------------------------------------------------------------------------

DTYPES = ["f4", "f8", "f2", "i4", "u1", "?", "c8", ">f4", "O", "V2", "U3", "M8[s]", "f4,f8"]
SHAPES = [(), (0,), (1,), (3,), (2, 3), (1, 3), (4, 1, 2), (2, 0, 3), (300,), (40, 60), (5000,), (1,) * 20]
CALLS = [
    "forward",
    "inverse",
    "jacobian",
    "inverse_jacobian",
    "log_abs_det",
    "forward_and_log_det",
    "pullback",
]


def array(source: Input, memory: np.ndarray) -> np.ndarray:
    """Some view of the memory: any dtype, shape, strides, alignment."""
    dtype = np.dtype(DTYPES[max(0, source.ConsumeIntInRange(-24, len(DTYPES) - 1))])
    if dtype == "f4":
        dtype = np.dtype(pick(source, ["f4", "f8", "f2"]))
    shape = pick(source, SHAPES)
    n = math.prod(shape)
    if dtype.hasobject:
        return np.full(shape, 0.5, object)
    step, start = pick(source, [1, 1, 1, 2, 3]), pick(source, [0, 0, 0, 1, 4, 8, 64])
    room = (memory.size - start) // dtype.itemsize // step
    if n > room:
        shape, n = (room,), room
    flat = memory[start : start + step * n * dtype.itemsize].view(dtype)[::step]
    a = flat.reshape(shape, order=pick(source, "CCF"))
    if a.ndim and source.ConsumeIntInRange(0, 3) == 0:
        a = pick(source, [a[::-1], a[..., ::-1], a.T, np.broadcast_to(a[:1], a.shape)])
    if source.ConsumeIntInRange(0, 15) == 0:
        a = a.view()
        a.flags.writeable = False
    return a


def fuzz_arrays(source: Input) -> None:
    memory = np.tile(np.array([0.25, 0.5, 0.75], "f8"), 7000).view(np.uint8)
    if source.ConsumeIntInRange(0, 1):
        memory[:] = np.tile(np.array([0.25, 0.5], "f4").view(np.uint8), memory.size // 8)
    if source.ConsumeIntInRange(0, 3) == 0:
        for _ in range(20):
            memory[source.ConsumeIntInRange(0, memory.size - 1)] = source.ConsumeIntInRange(0, 255)
    x = array(source, memory)
    other = memory if source.ConsumeIntInRange(0, 1) else memory.copy()
    out = pick(source, [None, x, np.empty_like(x), array(source, other), "out"])
    given: Any = pick(source, maps())
    m = expected(lambda: fm.Map.from_json(given))
    call = pick(source, CALLS)
    before, x_before = memory.copy(), x.copy()
    arguments = (
        {"out": out} if call != "log_abs_det" else {"axis": pick(source, [None, 0, -1, (), (0, 1), 5, "a"])}
    )
    if call in ("forward", "inverse", "pullback") and source.ConsumeIntInRange(0, 1):
        arguments["invalid"] = pick(source, ["raise", "nan", "clip", "x", 1])
    first = (x, array(source, memory)) if call == "pullback" else (x,)
    try:
        returned = getattr(fm, call)(*first, m, **arguments)
    except fm.DomainError:
        if out is None or np.shares_memory(out, memory):
            return
    except EXPECTED:
        assert np.array_equal(memory, before), "refused after a write"
        return
    else:
        check(call, returned, x, x_before, m, arguments)
    if isinstance(out, np.ndarray) and not np.may_share_memory(out, memory):
        assert np.array_equal(memory, before), "memory of others was written"


def check(
    call: str, returned: Any, x: np.ndarray, before: np.ndarray, m: Any, arguments: dict[str, Any]
) -> None:
    """The bits of plain memory."""
    if call not in ("forward", "inverse") or x.dtype.kind != "f" or isinstance(m, fm.Linear):
        return
    policy = {k: v for k, v in arguments.items() if k == "invalid"}
    plain = getattr(fm, call)(
        np.ascontiguousarray(before.astype(before.dtype.newbyteorder("="))), m, **policy
    )
    assert np.array_equal(np.ascontiguousarray(returned).reshape(plain.shape), plain, equal_nan=True), (
        call,
        m,
    )


# --- States of optimizers -------------------------------------------------------------------------


@cache
def state(kind: str, steps: int) -> tuple[Any, dict[str, Any]]:
    import torch

    import fastmap.torch as ft

    def make() -> Any:
        torch.manual_seed(0)
        params = [torch.nn.Parameter(torch.rand(2, 3) + 0.1), torch.nn.Parameter(torch.rand(4) + 0.1)]
        groups = [{"params": params[:1], "map": "log"}, {"params": params[1:]}]
        return getattr(ft, kind)(groups, lr=0.1)

    optimizer = make()
    for _ in range(steps):
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = torch.ones_like(p)
        optimizer.step()
    return make, optimizer.state_dict()


ODD_TENSORS: list[Callable[[Any], Any]] = [
    lambda t: -t,
    lambda t: t.double(),
    lambda t: t.bfloat16(),
    lambda t: t.new_zeros(t.shape).int(),
    lambda t: t.new_full(t.shape, math.nan),
    lambda t: t.reshape(-1),
    lambda t: t.reshape(-1)[:0],
    lambda t: t.new_ones(()).expand(t.shape),
    lambda t: t.to_sparse(),
]


def fuzz_state(source: Input) -> None:
    import torch

    make, saved = state(pick(source, ["Adam", "SGD", "Lion"]), pick(source, [0, 2]))
    data = copy.deepcopy(saved)
    for _ in range(source.ConsumeIntInRange(1, 3)):
        found = places(data)
        if not found:
            return
        container, key = pick(source, found)
        value = container[key]
        if isinstance(value, torch.Tensor) and source.ConsumeIntInRange(0, 1):
            container[key] = pick(source, ODD_TENSORS)(value)
        elif source.ConsumeIntInRange(0, 2) == 0:
            del container[key]
        else:
            container[key] = copy.deepcopy(pick(source, [*ODD, torch.tensor(1.0), torch.zeros(0)]))
    optimizer = make()
    if expected(lambda: (optimizer.load_state_dict(data, resync=bool(source.ConsumeIntInRange(0, 1))), True)):
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = torch.ones_like(p)
        expected(lambda: (optimizer.step(), True))


TARGETS: dict[str, Callable[[Input], None]] = {
    "map": fuzz_map, "space": fuzz_space, "file": fuzz_file, "result": fuzz_result, "storage": fuzz_storage,
    "arrays": fuzz_arrays, "state": fuzz_state,
}  # fmt: skip


def play(name: str, seed: int) -> None:
    """One case by chance."""
    TARGETS[name](Dice(seed))


def by_chance(seconds: float, names: list[str]) -> None:
    end, seed = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        for name in names:
            try:
                play(name, seed)
            except Exception:
                print(f"fuzz_binding.play({name!r}, {seed})", flush=True)
                raise
        seed += 1
    print(f"{seed} cases each of {', '.join(names)}: nothing found")


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 30.0
    names = sys.argv[2:] or list(TARGETS)
    if atheris is None:
        print("atheris is not installed: by chance, not guided by coverage")
        return by_chance(seconds, names)

    def one_input(data: bytes) -> None:
        source = atheris.FuzzedDataProvider(data)
        TARGETS[pick(source, names)](source)

    seed = os.environ.get("FUZZ_SEED", "0")  # another number than 0: the same inputs each time
    options = [f"-seed={seed}", f"-max_total_time={int(seconds)}", "-rss_limit_mb=4096"]
    options += ["-max_len=400", "-len_control=0"]
    atheris.Setup([sys.argv[0], *options], one_input)
    return atheris.Fuzz()


if __name__ == "__main__":
    main()
