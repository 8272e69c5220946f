"""Mutation testing of the headers in `csrc/maps` and `csrc/math`: ``python tests/mutate.py [FILE ...]``.

A mutant is the source with one sign, constant or comparison changed. Its map is compiled again and linked
into a copy of the package, and the tests of that map run on it. A mutant that they pass shows a hole in the
tests, or a change that no result can show. `mutants.json` names those of the second kind, each with its
reason; any other survivor is an error. ``--sample 20 --seed 1`` draws some; ``--which others``
leaves out the recorded bits: what survives then is seen by them alone.

Nothing is built but one object per mutant. The others and the commands are those of the newest build in
`build/`: ``pip install .`` leaves it there; one with ``FASTMAP_ONLY`` will do for its own maps. The mutated
header comes first on the include path.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "csrc"
TABLE = Path(__file__).with_name("mutants.json")
TESTS = ("test_core.py", "test_accuracy.py")
OF_THE_ORACLE = ("test_oracle_agrees_with_mpmath", "test_the_filter_hides_no_error")
RECORD = "test_bits_are_those_on_record"
WHICH = ("all", "record", "others")  # tests of a map: what it has, the recorded bits alone, all but these
TIMEOUT = 600  # seconds; a mutant that never ends is found, too

# Neither code nor to be changed: comments, texts, directives, the metadata of a map, which the oracle reads,
# and what chooses the shape of a loop and no result.
BLANK = re.compile(
    r"// clang-format off.*?// clang-format on|//[^\n]*|/\*.*?\*/|\"(?:\\.|[^\"\\\n])*\"|^#[^\n]*"
    r"|static constexpr int (?:cases|vectors) = \d+;",
    re.S | re.M,
)
SIGN = re.compile(r"(?<= )[+-](?=\s)|(?:(?<=[({!])|(?<=[,=?:*/<>&|] )|(?<=return ))-(?=[\w(.])")
COMPARISON = re.compile(r"(?<= )(?:<=|>=|==|!=|<|>)(?= )")
NUMBER = re.compile(
    r"(?<![\w.])(?:0x[\da-fA-F]+(?:\.[\da-fA-F]*)?(?:p[+-]?\d+)?|\d+(?:\.\d*)?(?:e[+-]?\d+)?)(?:f|u)?(?![\w.])"
)
OTHER = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "=="}


class Mutant(NamedTuple):
    """One change of one header."""

    file: str  # below csrc
    line: int
    above: str  # the line before the one that is changed
    was: str
    now: str  # the line after it
    text: str  # the whole file after it

    def row(self) -> dict[str, str]:
        return {"file": self.file, "above": self.above, "was": self.was, "is": self.now}

    def __str__(self) -> str:
        """With the row for the table, where only the reason is missing."""
        return f"csrc/{self.file}:{self.line}\n{json.dumps({**self.row(), 'reason': ''}, indent=1)},"


def changes(code: str) -> Iterator[tuple[int, int, str]]:
    """Start, end and replacement of every change of a text."""
    for m in SIGN.finditer(code):
        binary = code[m.end()].isspace()
        yield m.start(), m.end(), {"+": "-", "-": "+"}[m[0]] if binary else ""
    for m in COMPARISON.finditer(code):
        yield m.start(), m.end(), OTHER[m[0]]
    for m in NUMBER.finditer(code):
        real = re.search(r"[.pe]", m[0]) and not m[0].endswith("u")
        more = f"* 0x1.004p0{'f' * m[0].endswith('f')}" if real else "+ 1"  # by 0.1 %, integers by 1
        yield m.start(), m.end(), f"({m[0]} {more})"


def code_of(text: str) -> str:
    """The text with blanks for what is not to be changed."""
    return BLANK.sub(lambda m: re.sub(r"[^\n]", " ", m[0]), text)


def mutants(file: str) -> list[Mutant]:
    text = (SOURCE / file).read_text()
    found = []
    for start, end, new in sorted(changes(code_of(text))):
        mutated = text[:start] + new + text[end:]
        first, line = text.rfind("\n", 0, start) + 1, text.count("\n", 0, start)
        was, now = (t[first : t.find("\n", first)].strip() for t in (text, mutated))
        above = text[: max(first - 1, 0)].rpartition("\n")[2].strip()
        found.append(Mutant(file, line + 1, above, was, now, mutated))
    return found


@functools.cache
def headers(file: str) -> frozenset[str]:
    """The headers of maps and elementary functions that a file includes, and itself."""
    included = re.findall(r'#include "((?:maps|math)/\w+\.hpp)"', (SOURCE / file).read_text())
    return frozenset({file}).union(*map(headers, included))


def registry() -> list[str]:
    return re.findall(r"^ {4}(\w+)$", (SOURCE / "maps" / "registry.cmake").read_text(), re.M)


def maps_of(file: str) -> list[str]:
    """The maps that a header is part of, small ones first."""
    maps = [m for m in registry() if file in headers(f"maps/{m}.hpp")]
    return sorted(maps, key=lambda m: sum((SOURCE / h).stat().st_size for h in headers(f"maps/{m}.hpp")))


class Build:
    """The commands of a finished build, for the instruction set that this machine prefers."""

    def __init__(self, folder: Path, isa: str) -> None:
        self.folder = folder
        commands = subprocess.run(
            ["ninja", "-t", "commands"], cwd=folder, capture_output=True, text=True, check=True
        ).stdout.splitlines()
        self.compiles: dict[str, list[str]] = {}
        for line in commands:
            words = shlex.split(line)
            if f"-DFM_ISA={isa}" in words and str(SOURCE / "engine" / "cpu.cpp") in words:
                (name,) = [w.removeprefix("-DFM_MAP=") for w in words if w.startswith("-DFM_MAP=")]
                self.compiles[name] = words
        (self.link,) = [shlex.split(c)[2:] for c in commands if re.search(r"-shared .*-o _core\.", c)]
        self.link = self.link[: self.link.index("&&")]
        self.locks = {name: threading.Lock() for name in self.compiles}
        self.originals: dict[str, bytes] = {}

    def compile(self, name: str, overlay: Path) -> bytes | None:
        """The object of a map, where headers in `overlay` come first; None where it does not compile."""
        words = list(self.compiles[name])
        for flag in ("-MT", "-MF"):
            del words[words.index(flag) : words.index(flag) + 2]
        first = next(i for i, w in enumerate(words) if w.startswith("-D"))
        words[first:first] = ["-I", str(overlay)]
        words[words.index("-o") + 1] = str(overlay / "map.o")
        # Without the optimisation of loops, which takes most of the time: the bits are the same.
        words = ["-O1" if w == "-O3" else w for w in words if w not in ("-MD", "-Wall", "-Wextra")]
        done = subprocess.run(
            words, cwd=self.folder, capture_output=True, env={**os.environ, "CCACHE_DISABLE": "1"}
        )
        return (overlay / "map.o").read_bytes() if done.returncode == 0 else None

    def passes(self, name: str, overlay: Path, which: str) -> bool:
        """Whether these tests of a map pass with the object in `overlay`."""
        own = self.compiles[name][self.compiles[name].index("-o") + 1]
        words = [str(overlay / "map.o") if w == own else w for w in self.link]
        package = overlay / "package" / "fastmap"
        package.mkdir(parents=True)
        for path in (ROOT / "python" / "fastmap").iterdir():
            if path.suffix != ".so":
                (package / path.name).symlink_to(path)
        output = words.index("-o") + 1
        words[output] = str(package / words[output])
        subprocess.run(words, cwd=self.folder, check=True)
        command = [sys.executable, __file__, "--tests-of", name, "--which", which]
        try:
            done = subprocess.run(
                command,
                env={**os.environ, "PYTHONPATH": str(package.parent), "FASTMAP_NUM_THREADS": "2"},
                stdout=subprocess.DEVNULL,
                timeout=TIMEOUT,
            )
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0

    def original(self, name: str) -> bytes:
        """The object as it is, once its bits are found to be those on record."""
        with self.locks[name]:
            if name not in self.originals:
                with tempfile.TemporaryDirectory() as folder:
                    built = self.compile(name, Path(folder))
                    if built is None or not self.passes(name, Path(folder), "record"):
                        raise SystemExit(f"{name} has not the bits on record: is {self.folder} out of date?")
                self.originals[name] = built
        return self.originals[name]

    def judge(self, mutant: Mutant, which: str) -> str:
        """Found by a test, refused by the compiler, or alive."""
        for name in maps_of(mutant.file):
            if name not in self.compiles:
                continue
            original = self.original(name)
            with tempfile.TemporaryDirectory() as folder:
                header = Path(folder) / mutant.file
                header.parent.mkdir()
                header.write_text(mutant.text)
                built = self.compile(name, Path(folder))
                if built is None:
                    return "refused"
                if built != original and not self.passes(name, Path(folder), which):
                    return "found"
        return "alive"


class OneMap:
    """A plugin of pytest: the tests of one map, the quick one first."""

    def __init__(self, name: str, which: str) -> None:
        self.name, self.which = name, which

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        def chosen(item: Any) -> bool:
            params = item.callspec.params if hasattr(item, "callspec") else {}
            entry = params.get("entry") or params.get("m") or {}
            return (
                entry.get("class_name") == self.name
                and item.originalname not in OF_THE_ORACLE
                and self.which in ("all", "record" if item.originalname == RECORD else "others")
            )

        items[:] = sorted(filter(chosen, items), key=lambda item: item.originalname != RECORD)


def run_tests(name: str, which: str) -> int:
    # An editable install would put the build that is not mutated first.
    sys.meta_path[:] = [f for f in sys.meta_path if "Redirecting" not in type(f).__name__]
    import fastmap

    assert fastmap.__file__.startswith(os.environ["PYTHONPATH"]), fastmap.__file__
    paths = [str(Path(__file__).with_name(t)) for t in TESTS]
    return int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *paths], plugins=[OneMap(name, which)]))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "files", nargs="*", metavar="FILE", help="below csrc, as maps/Log.hpp; all by default"
    )
    parser.add_argument("--sample", type=int, help="as many mutants, drawn at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--which", choices=WHICH, default="all", help="tests: record is the recorded bits alone"
    )
    parser.add_argument("--build", type=Path, help="the folder of the build; the newest in build/ by default")
    parser.add_argument("--tests-of", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = arguments()
    if args.tests_of:
        sys.exit(run_tests(args.tests_of, args.which))
    from fastmap import _core

    builds = sorted(ROOT.glob("build/cp*/build.ninja"), key=lambda p: p.stat().st_mtime)
    if not (args.build or builds):
        sys.exit("there is no build in build/: pip install .")
    build = Build((args.build or builds[-1].parent).resolve(), _core.info()["isa"])
    files = args.files or sorted(frozenset().union(*(headers(f"maps/{m}.hpp") for m in registry())))
    todo = [m for file in files for m in mutants(file)]
    if args.sample:
        # By what a mutant says, so that a change elsewhere does not draw others.
        todo.sort(key=lambda m: hashlib.sha256(f"{args.seed} {m.row()}".encode()).digest())
        todo = todo[: args.sample]
    known = [{k: row[k] for k in row if k != "reason"} for row in json.loads(TABLE.read_text())]
    count: Counter[str] = Counter()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        verdicts = pool.map(lambda m: build.judge(m, args.which), todo)
        for mutant, verdict in zip(todo, verdicts, strict=True):
            listed = verdict == "alive" and mutant.row() in known
            count["alive, with a reason" if listed else verdict] += 1
            if verdict == "alive" and not listed:
                print(mutant, flush=True)
    print(", ".join(f"{v} {k}" for k, v in sorted(count.items())))
    sys.exit(1 if count["alive"] and args.which == "all" else 0)


if __name__ == "__main__":
    main()
