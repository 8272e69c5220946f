"""The command line: ``fastmap tune``, ``plot``, ``suggest``, ``maps``, ``info``, ``bench``."""

from __future__ import annotations

import argparse
import csv
import functools
import importlib
import importlib.util
import json
import math
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import fastmap as fm
from fastmap._extras import need
from fastmap._plot import KINDS
from fastmap.recipes import ALIASES, NAMES
from fastmap.search import METHODS, load

USER_ERROR = 2


class _Parser(argparse.ArgumentParser):
    """Bad arguments end with one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(USER_ERROR, f"{self.prog}: error: {message}\n")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its status: 0, or 2 after a user error.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; default: those of the process.
    """
    sys.exit(run(sys.argv[1:] if argv is None else argv))


def run(argv: Sequence[str]) -> int:
    """Run the command line; its exit status."""
    if argv[:1] == ["bench"]:  # its own options, --help too
        return _bench(argv[1:])
    args = _parser().parse_args(argv)
    if "command" not in args:
        _parser().print_help()
        return 0
    try:
        args.command(args)
    except (ImportError, OSError, TypeError, ValueError) as error:
        kind = "DomainError: " if isinstance(error, fm.DomainError) else ""
        print(f"fastmap {argv[0]}: error: {kind}{error}".splitlines()[0], file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("fastmap: interrupted", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="fastmap", description="Search a parameter space that is easier to search.")
    parser.add_argument("--version", action="version", version=f"fastmap {fm.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    tune = commands.add_parser(
        "tune", help="tune a function of yours, or a torch or Keras model on data that need no download"
    )
    tune.add_argument(
        "target",
        nargs="?",
        default=NAMES[0],
        type=_target,
        metavar="TARGET",
        help=f"script.py:objective, package.module:objective, or a recipe: {', '.join(NAMES)} (%(default)s)",
    )
    tune.add_argument(
        "--seed", type=_at_least(0), metavar="N", help="of the search; of a recipe the first (0)"
    )
    tune.add_argument(
        "--trials", type=_at_least(1), metavar="N", help="evaluations; of a recipe per arm and split"
    )
    tune.add_argument("--method", choices=("auto", *METHODS), default="auto", metavar="NAME", help="auto")
    tune.add_argument("--out", type=Path, metavar="DIR", help="write result.json, trials.csv and pictures")
    tune.add_argument("--quiet", action="store_true", help="only the result: no progress bar")
    own = tune.add_argument_group("for a function of yours")
    own.add_argument(
        "--space", type=Path, metavar="FILE", help="TOML or JSON; default: `space` of the script"
    )
    own.add_argument(
        "--direction", action="append", choices=("minimize", "maximize"), help="one per objective"
    )
    own.add_argument("--storage", metavar="FILE", help="keep trials in this file (Optuna's journal) or URL")
    own.add_argument("--name", metavar="NAME", help="of the search in its storage (fastmap)")
    own.add_argument("--resume", action="store_true", help="go on with the trials in the storage")
    own.add_argument("--remap", action="store_true", help="go on, and take over trials of another space")
    own.add_argument(
        "--total", type=_at_least(1), metavar="N", help="evaluations of all processes on the storage together"
    )
    own.add_argument(
        "--grace", type=_at_least(1), metavar="SECONDS", help="until a silent trial is done again (120)"
    )
    own.add_argument("--timeout", type=float, metavar="SECONDS", help="start no evaluation after that")
    recipe = tune.add_argument_group("for a recipe")
    recipe.add_argument("--seeds", type=_at_least(1), metavar="K", help="how many seeds and splits")
    recipe.add_argument("--epochs", type=_at_least(1), metavar="N", help="of one hyperparameter evaluation")
    recipe.add_argument("--steps", type=_at_least(1), metavar="N", help="gradient steps of one weight search")
    recipe.add_argument(
        "--evaluations", type=_at_least(1), metavar="N", help="of one weight search without gradients"
    )
    recipe.add_argument("--map", metavar="NAME", help="of the signed weights (the recipe's own)")
    recipe.add_argument(
        "--framework", choices=("torch", "keras"), metavar="NAME", help="torch (the default) or keras"
    )
    tune.set_defaults(command=_tune)

    plot = commands.add_parser("plot", help="pictures of a search that was kept")
    plot.add_argument("source", metavar="SOURCE", help="a directory of --out, or a storage")
    plot.add_argument("--kind", choices=KINDS, default="overview", metavar="KIND", help=", ".join(KINDS))
    plot.add_argument("--params", metavar="A,B", help="which parameters")
    plot.add_argument("--name", default="fastmap", metavar="NAME", help="of the search in its storage")
    plot.add_argument("--out", type=Path, default=Path("search.png"), metavar="FILE", help="%(default)s")
    plot.set_defaults(command=_plot)

    suggest = commands.add_parser("suggest", help="which map: from a range, samples, or earlier trials")
    suggest.add_argument("file", nargs="?", type=Path, metavar="FILE", help="CSV with a header")
    suggest.add_argument(
        "--column", action="append", metavar="NAME", help="of the parameter; with --loss, many"
    )
    suggest.add_argument(
        "--loss", metavar="NAME", help="the column of losses: rows are trials, not good values"
    )
    suggest.add_argument("--low", type=float, metavar="X", help="of the search box")
    suggest.add_argument("--high", type=float, metavar="X")
    suggest.add_argument("--gradient", action="store_true", help="the map has to remove the bounds")
    suggest.add_argument("--storage", metavar="URL", help="an Optuna storage instead of a file")
    suggest.add_argument("--study", metavar="NAME", help="in it; needed where it holds several")
    suggest.add_argument("--direction", choices=("minimize", "maximize"), default="minimize")
    suggest.set_defaults(command=_suggest)

    maps = commands.add_parser("maps", help="the catalog of maps")
    shape = maps.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="all of the catalog")
    shape.add_argument("--stubs", action="store_true", help="the text of maps.pyi")
    shape.add_argument("--markdown", action="store_true", help="the text of docs/maps.md")
    maps.set_defaults(command=_maps)

    info = commands.add_parser("info", help="versions, instruction set, threads, frameworks")
    info.add_argument("--json", action="store_true")
    info.set_defaults(command=_info)

    commands.add_parser("bench", help="benchmarks; see fastmap bench --help")
    return parser


def _at_least(low: int) -> Any:
    def integer(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected an integer, got {text!r}") from None
        if value < low:
            raise argparse.ArgumentTypeError(f"must be at least {low}, got {value}")
        return value

    return integer


def _target(text: str) -> str:
    text = ALIASES.get(text, text)
    if text not in NAMES and not all(text.rpartition(":")[::2]):
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(NAMES)}, nor script.py:objective")
    return text


_OWN = (
    "space",
    "direction",
    "storage",
    "name",
    "resume",
    "remap",
    "total",
    "grace",
    "timeout",
)  # options of the two kinds
_RECIPE = ("seeds", "epochs", "steps", "evaluations", "map", "framework")


def _tune(args: argparse.Namespace) -> None:
    recipe = args.target in NAMES
    for option in _OWN if recipe else _RECIPE:
        if getattr(args, option):
            raise ValueError(f"--{option}: it is for {'a function of yours' if recipe else 'recipes'}")
    (_tune_recipe if recipe else _tune_function)(args)


def _tune_function(args: argparse.Namespace) -> None:
    module, objective = _function(args.target)
    space = getattr(module, "space", None) if args.space is None else fm.Space.load(args.space)
    if not isinstance(space, fm.Space):
        raise ValueError(
            f"--space: no file given, and {args.target.rpartition(':')[0]} has no Space called space"
        )
    directions = args.direction or ["minimize"]

    @functools.wraps(objective)
    def shown(*arguments: Any) -> Any:
        try:
            return objective(*arguments)
        except Exception as error:
            if type(error).__name__ != "TrialPruned":
                traceback.print_exc()
            raise

    result = fm.minimize(
        shown,
        space,
        direction=directions if len(directions) > 1 else directions[0],
        method=args.method,
        budget=args.trials,
        seed=args.seed,
        timeout=args.timeout,
        storage=args.storage,
        name=args.name or "fastmap",
        resume="remap" if args.remap else args.resume,
        total=args.total,
        grace=args.grace,
        progress=not args.quiet,
    )
    print(f"{result.method}: {result.reason}")
    print(f"{len(result.history)} evaluations, {sum(r.state == 'FAIL' for r in result.history)} failed")
    for record in result.front if len(directions) > 1 else [None]:
        loss, theta = (result.loss, result.best) if record is None else (record.loss, record.theta)
        print(f"loss = {loss}")
        for name, value in theta.items():
            print(f"  {name} = {value}")
    if args.out is not None:
        result.save(args.out)
        print(f"wrote {args.out}")


def _function(target: str) -> tuple[Any, Any]:
    """The module and the function that a target names."""
    place, _, name = target.rpartition(":")
    if place.endswith(".py"):
        path = Path(place)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        if not path.is_file() or spec is None or spec.loader is None:
            raise ValueError(f"target: no file {path}")
        module = importlib.util.module_from_spec(spec)
        sys.path.insert(0, str(path.resolve().parent))
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
    else:
        sys.path.insert(0, str(Path.cwd()))
        module = importlib.import_module(place)
    if not callable(function := getattr(module, name, None)):
        raise ValueError(f"target: {place} has no function {name!r}")
    return module, function


def _plot(args: argparse.Namespace) -> None:
    path = Path(args.source)
    result = fm.Result.load(path) if path.is_dir() else load(args.source, args.name).result()
    result.plot(args.kind, args.params.split(",") if args.params else None).savefig(args.out, dpi=120)
    print(f"wrote {args.out}")


def _tune_recipe(args: argparse.Namespace) -> None:
    if args.map is not None:
        fm.Map.from_json({"map": args.map})  # refused before the heavy imports
    if args.method not in ("auto", "tpe", "random"):
        raise ValueError(f"--method: recipes take auto, tpe or random, not {args.method}")
    framework = args.framework or "torch"
    _require("torch", "optuna", "sklearn", "tqdm", *(["matplotlib"] if args.out else []))
    if framework == "keras":
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow greets on stderr
        importlib.import_module("fastmap.keras")  # says what is missing
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
    from fastmap.recipes._arms import Budget
    from fastmap.recipes._run import recipe_named, tune

    recipe = recipe_named(args.target, framework)
    budget = Budget(
        seed=args.seed or 0,
        seeds=args.seeds or recipe.seeds,
        trials=args.trials or recipe.trials,
        epochs=args.epochs or recipe.epochs,
        steps=args.steps or recipe.steps,
        method="tpe" if args.method == "auto" else args.method,
        map=args.map or recipe.map,
        evaluations=args.evaluations or recipe.evaluations,
    )
    tune(recipe, budget, out=args.out, quiet=args.quiet)


def _suggest(args: argparse.Namespace) -> None:
    if args.storage is not None:
        if args.file is not None:
            raise ValueError("FILE and --storage exclude each other")
        optuna = need("optuna", "search")
        try:
            study = optuna.load_study(study_name=args.study, storage=args.storage)
        except KeyError:
            raise ValueError(f"--study: {args.storage} has no study {args.study!r}") from None
        answers = fm.suggest_from(study)
    elif args.file is None:
        if args.loss or args.column:
            raise ValueError("--column and --loss need a FILE")
        if args.low is None and args.high is None:
            raise ValueError("give --low and --high, a FILE, or --storage")
        print(fm.suggest(args.low, args.high, gradient=args.gradient))
        return
    else:
        table = _read_csv(args.file)
        names = args.column or [name for name in table if name != args.loss]
        for name in (*names, *([args.loss] if args.loss else [])):
            if name not in table:
                raise ValueError(f"{args.file}: no column {name!r}; it has {', '.join(table)}")
        if args.loss is None:
            if len(names) != 1:
                raise ValueError("--column: name one column of good values, or the losses by --loss")
            samples = table[names[0]]
            print(fm.suggest(args.low, args.high, samples=samples, gradient=args.gradient))
            return
        box = None if args.low is None or args.high is None else (args.low, args.high)
        answers = fm.suggest_from(
            ({name: table[name] for name in names}, table[args.loss]),
            direction=args.direction,
            boxes=None if box is None else dict.fromkeys(names, box),
        )
    if not answers:
        raise ValueError("nothing to suggest for: no complete trial has a numeric parameter")
    for name, answer in answers.items():
        print(f"{name}: {answer}")


def _read_csv(path: Path) -> dict[str, list[float]]:
    """Columns by name; what is no number is NaN."""

    def number(text: str | None) -> float:
        try:
            return float(text or "nan")
        except ValueError:
            return math.nan

    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    return {name: [number(row[name]) for row in rows] for name in reader.fieldnames or ()}


def _require(*modules: str) -> None:
    """One clear error for all that is missing."""
    from importlib.util import find_spec

    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise ImportError(f"{', '.join(missing)} needed for this: pip install 'fastmap[demo]'")


def _maps(args: argparse.Namespace) -> None:
    from fastmap import maps

    if args.stubs:
        print(maps.stubs(), end="")
    elif args.json:
        print(json.dumps(fm.catalog(), indent=1))
    elif args.markdown:
        print(catalog_markdown())
    else:
        print(_catalog_table())


def _signature(entry: dict[str, Any]) -> str:
    params = ", ".join(f"{p['name']}={p['default']:g}" for p in entry["params"])
    return f"{entry['class_name']}({params})"


def _catalog_table() -> str:
    from fastmap._map import interval_text

    rows = [("name", "class", "domain", "codomain", "ULP", "derivatives", "monotone", "z = f(t), t is theta")]
    for entry in fm.catalog():
        rows.append(
            (
                entry["name"],
                _signature(entry),
                interval_text(entry, "domain"),
                interval_text(entry, "codomain"),
                *(f"{ulp:g}" for ulp in entry["ulp"]),
                entry["monotone"],
                entry["formulas"]["forward"],
            )
        )
    return _columns(rows)


def catalog_markdown() -> str:
    """The text of `docs/maps.md`."""
    from fastmap._map import interval_text

    lines = [
        "# The maps",
        "",
        "Written by `fastmap maps --markdown` from the catalog; a test compares. θ is `t` in the formulas.",
        "Bounds are in units in the last place of the true result, for every input in the domain at the",
        "published parameter sets; [tests/accuracy.json](../tests/accuracy.json) has what was measured.",
        "Monotone: how it was checked that neighbouring float32 numbers never go the wrong way;",
        "exhaustive: on all of them at default parameters, both ways.",
        "Both bounds of an interval must lie within ±2¹²⁰ in float32 and ±2¹⁰⁰⁰ in float64, and at least",
        "2⁻⁸⁰ and 2⁻⁸⁰⁰ apart.",
    ]
    for entry in fm.catalog():
        value_ulp, derivative_ulp = entry["ulp"]
        formulas = entry["formulas"]
        lines += [
            "",
            f"## {_signature(entry)}",
            "",
            f"{entry['doc']}",
            "",
            f"`{interval_text(entry, 'domain')}` onto `{interval_text(entry, 'codomain')}`, values within "
            f"{value_ulp:g} ULP, derivatives within {derivative_ulp:g}; monotone: {entry['monotone']}.",
            "",
            *(f"- {label} = `{formulas[op]}`" for op, label in _LABELS.items()),
        ]
    return "\n".join([*lines, *_OUTSIDE])


_OUTSIDE = (
    "",
    "## Maps outside the catalog",
    "",
    "No bound is stated for them unless it says so: `fm.audit` measures what they cost on your data.",
    "",
    "- `Chain(a, b)`, `m.inv`, `mirror(m)`: of maps of the catalog, in one native pass.",
    "- `weibull(scale, shape)`: the distribution function of Weibull, a chain; with shape 1 that of the",
    "  exponential distribution, with shape 2 Rayleigh's.",
    "- `Table(x, y, slopes=None)`: a monotonic rational-quadratic spline through knots, linear beyond them;",
    "  `Table.from_samples(samples)` puts the knots at quantiles of data. NumPy evaluates it, with the same",
    "  bits everywhere; it is no part of chains and native steps.",
    "- `Circular(low=-pi, high=pi)`: periodic numbers; z is θ, and z that are whole turns apart give one θ:",
    "  the map is folded, not one-to-one. As `Table`; every finite z is within one ULP of the larger bound.",
    "- `Custom(forward, inverse, jacobian=None, domain=...)`: Python callables, checked numerically when it",
    "  is made. As `Table`, and it has no JSON form.",
)


_LABELS = {
    "forward": "z",
    "inverse": "θ",
    "jacobian": "dz/dθ",
    "inverse_jacobian": "dθ/dz",
    "log_abs_det": "log abs dz/dθ",
    "inverse_log_abs_det": "log abs dθ/dz",
}


def _columns(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _info(args: argparse.Namespace) -> None:
    info = fm.info()
    if args.json:
        print(json.dumps(info, indent=1))
        return
    for key, value in info.items():
        if isinstance(value, dict):
            text = ", ".join(f"{name} {version}" for name, version in value.items())
        elif isinstance(value, list | tuple):
            text = ", ".join(map(str, value))
        else:
            text = str(value)
        print(f"{key:12}{text}")


def _bench(argv: Sequence[str]) -> int:
    try:
        bench = importlib.import_module("fastmap.bench")
    except ImportError as error:
        print(f"fastmap bench: error: {error}", file=sys.stderr)
        return USER_ERROR
    return int(bench.main(list(argv)) or 0)


if __name__ == "__main__":
    main()
