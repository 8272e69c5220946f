"""Writes docs/evidence.md and its picture from the records of real runs; with --run, makes the records first.

    python docs/evidence.py                          # the page and the picture, from the records
    python docs/evidence.py --run                    # the records that are missing; stop, and go on later
    python docs/evidence.py --run --fresh rnn        # this one anew
    python docs/evidence.py --run --fresh --quiet    # all anew; nothing else runs there, so times count

A record is a JSON file with every run. The page leaves out what has no record.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
MARGIN = 0.01  # a ratio that differs by less matters to nobody
USUAL, OWN, SPECIALIST = "usual way", "framework's own", "specialist"
COLOURS = {"helps": "#009E73", "tie": "#777777", "hurts": "#D55E00", "-": "#777777"}

Record = dict[str, Any]


@dataclass(frozen=True)
class Effect:
    """fastmap's loss over another arm's, with the 95 % interval of paired runs."""

    ours: str
    other: str
    role: str  # of the other arm
    losses: tuple[float, float]  # fastmap's and the other's
    ratio: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """The one rule."""
        if math.isnan(self.low):
            return "-"
        if self.high < 1 - MARGIN:
            return "helps"
        return "hurts" if self.low > 1 + MARGIN else "tie"


@dataclass(frozen=True)
class Topic:
    """A section of the page."""

    title: str
    what: str
    effects: Sequence[Effect]
    notes: Sequence[str]  # costs and failures, by arm
    steps: Sequence[str]  # whose records it comes from


# --- from records to effects -----------------------------------------------------------------------------


def of_difference(
    ours: str, other: str, role: str, losses: tuple[float, float], change: Sequence[float | None]
) -> Effect:
    """A difference and its interval, relative to the other arm's loss: it holds 0 where the ratio holds 1."""
    ratios = [math.nan if value is None else 1 + value / losses[1] for value in change]
    return Effect(ours, other, role, losses, *ratios)


def training(name: str, title: str, what: str, pairs: Sequence[tuple[str, str, str]]) -> Callable[..., Topic]:
    """An example of docs/training.md: (fastmap's arm, other arm, its role) for each effect."""

    def topic(records: Path, quiet: bool) -> Topic:
        record = json.loads((records / RUNS[name].record).read_text())
        loss = {row["arm"]: row["loss"] for row in record["arms"]}
        effects = []
        for ours, other, role in pairs:
            (c,) = (c for c in record["comparisons"] if (c["arm"], c["other"]) == (ours, other))
            losses, change = (loss[ours], loss[other]), (c["value"], c["low"], c["high"])
            if record["log_loss"]:
                effects.append(Effect(ours, other, role, losses, *change))
            else:
                effects.append(of_difference(ours, other, role, losses, change))
        rows = [row for row in record["arms"] if "lr" in row]
        notes = [
            f"{len(record['rates'])} learning rates, {record['seeds']} seeds, {record['steps']} steps. "
            "Decades of learning rates that work / failed runs: "
            + "; ".join(f"{r['arm']} {r['decades']:.2g} / {r['failed']} of {r['runs']}" for r in rows)
            + "."
        ]
        if quiet:
            notes.append(
                "Milliseconds of a whole training step / peak MiB: " + "; ".join(map(_costs, rows)) + "."
            )
        return Topic(title, what, effects, notes, [name])

    return topic


def _costs(row: Record) -> str:
    peak = "-" if row["peak_mib"] is None else f"{row['peak_mib']:.1f}"
    return f"{row['arm']} {row['step_ms']:.2f} / {peak}"


def tables(records: Path, quiet: bool) -> Topic:
    """TPE on the tables of trainings."""
    record = json.loads((records / RUNS["hyperparameters"].record).read_text())
    roles = {"linear": USUAL, "Optuna's log": OWN, "hand-made": OWN}
    effects = [
        of_difference(
            f"fastmap ({c['task']})",
            c["arm"],
            roles[c["arm"]],
            (c["losses"]["fastmap"], c["losses"]["other"]),
            (c["mean"], c["low"], c["high"]),
        )
        for c in record["comparisons"]
    ]
    note = (
        f"{record['trials']} evaluations in every arm, {record['seeds']} seeds; the loss is the best "
        "validation log-loss that the search found in the table, mean over the seeds."
    )
    return Topic(
        "Hyperparameters near 1 and across decades",
        "TPE on two dense tables of our own trainings, of a small network on scikit-learn's "
        "digits by Adam over (lr, beta1, beta2) and of one on its breast-cancer data by SGD over "
        "(lr, momentum, decay of the averaged weights). *linear*: plain boxes. *Optuna's log*: "
        "`log=True` for lr. *hand-made*: `log=True` for lr and for one minus the others. fastmap:"
        " `Log` and `OneMinusLog`, the same scales as hand-made: parity is expected. What the map"
        " adds to a careful user's own code is that nobody has to write it.",
        effects,
        [note],
        ["hyperparameters"],
    )


RECIPE_ROLES = {"raw": USUAL, "tuner's own": OWN, "torch's own": OWN}
RECIPE_PARTS = ("hyperparameters", "weights")


def recipe(name: str, title: str, what: str) -> Callable[..., Topic]:
    """``fastmap tune NAME``: hyperparameters by TPE and weights by Adam."""

    def topic(records: Path, quiet: bool) -> Topic:
        record = json.loads((records / RUNS[name].record).read_text())
        effects = list(_recipe_effects(record, lambda part: part in RECIPE_PARTS))
        notes = list(_recipe_notes(record, lambda part: part in RECIPE_PARTS, quiet))
        return Topic(title, what, effects, notes, [name])

    return topic


def black_box(records: Path, quiet: bool) -> Topic:
    """Weights without gradients: the further parts of the recipes' records."""
    effects: list[Effect] = []
    notes: list[str] = []
    steps = []
    for name in RECIPES:
        path = records / RUNS[name].record
        if path.exists():
            record = json.loads(path.read_text())
            own = [
                replace(e, ours=f"{name}, {e.ours}")
                for e in _recipe_effects(record, lambda part: part not in RECIPE_PARTS)
            ]
            effects += own
            notes += _recipe_notes(record, lambda part: part not in RECIPE_PARTS, quiet) if own else []
            steps += [name] if own else []
    if not effects:
        raise FileNotFoundError("no record has such a part")
    what = (
        "The weights of the recipes' models by methods without gradients. *raw*: one linear box for all"
        " weights. *tuner's own*: a box per tensor in units of its deviation, positive weights on a log"
        " scale. fastmap: the same boxes through the map."
    )
    return Topic("Weights without gradients: CMA-ES and evolution", what, effects, notes, steps)


def _recipe_effects(record: Record, wanted: Callable[[str], bool]) -> Iterator[Effect]:
    """Of each comparison: fastmap's arm ("fastmap" unless it says "ours") minus `arm` in test loss."""
    for c in record["comparisons"]:
        if wanted(part := c["part"]):
            ours = c.get("ours", "fastmap")
            losses = _mean_loss(record, part, ours), _mean_loss(record, part, c["arm"])
            role = RECIPE_ROLES.get(c["arm"], USUAL)
            yield of_difference(f"{ours} ({part})", c["arm"], role, losses, (c["mean"], c["low"], c["high"]))


def _recipe_notes(record: Record, wanted: Callable[[str], bool], quiet: bool) -> Iterator[str]:
    yield (
        f"{record['budget']['seeds']} splits; the loss is the {record.get('unit', 'log-loss')} of the test "
        "part, which no search has seen."
    )
    for part in dict.fromkeys(c["part"] for c in record["comparisons"]):
        if wanted(part):
            costs = []
            for arm in dict.fromkeys(run["arm"] for run in record["runs"] if run["part"] == part):
                runs = [r for r in record["runs"] if (r["part"], r["arm"]) == (part, arm)]
                numbers = [sum(run[key] for run in runs) for key in ("evaluations", "failures", "seconds")]
                seconds = f" / {numbers[2]:.1f} s" if quiet else ""
                costs.append(f"{arm} {numbers[0]} / {numbers[1]}{seconds}")
            what = "evaluations / failed / wall time" if quiet else "evaluations / failed"
            yield f"{part.capitalize()}, {what}: {'; '.join(costs)}."


def _mean_loss(record: Record, part: str, arm: str) -> float:
    losses = [r["test_log_loss"] for r in record["runs"] if (r["part"], r["arm"]) == (part, arm)]
    return float(sum(losses) / len(losses))


# --- what there is ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """A record, and the command that makes it in a folder."""

    record: str  # its path below docs/
    command: Sequence[str]  # FOLDER stands for the folder
    makes: str  # the name of the record there


def _example(name: str) -> Step:
    command = [sys.executable, str(DOCS / "examples" / f"{name}.py"), "--out", "FOLDER"]
    return Step(f"examples/{name}.json", command, f"{name}.json")


def _recipe(name: str) -> Step:
    command = [sys.executable, "-m", "fastmap", "tune", name, "--out", "FOLDER"]
    return Step(f"evidence/{name}.json", command, "result.json")


EXAMPLES = ("diagonal_rnn", "quantised_cnn", "variational", "sparse_regression", "image_fit")
RECIPES = ("cancer", "cnn", "rnn", "transformer")
RUNS = {
    **{name: _example(name) for name in EXAMPLES},
    "hyperparameters": Step(
        "evidence/hyperparameters.json",
        [
            sys.executable,
            str(DOCS / "evidence" / "hyperparameters.py"),
            "--out",
            "FOLDER/hyperparameters.json",
        ],
        "hyperparameters.json",
    ),
    **{name: _recipe(name) for name in RECIPES},
}

TOPICS = (
    training(
        "diagonal_rnn",
        "Decays of a diagonal RNN",
        "A diagonal linear RNN learns the filter that makes pink noise. Its decays lie in (0, 1),"
        " the useful ones near 1. Loss: relative squared error on new signals.",
        [
            ("fastmap Interval(0, 1)", "raw + clamp_", USUAL),
            ("fastmap Interval(0, 1)", "raw + clamp_, decays at lr/10", USUAL),
            ("fastmap Interval(0, 1)", "parametrize, sigmoid", OWN),
            ("fastmap Interval(0, 1)", "parametrize, exp(-exp)", OWN),
        ],
    ),
    training(
        "quantised_cnn",
        "Quantisation scales that start ten times too small",
        "LSQ on a small CNN with 3-bit weights and activations. Loss: cross-entropy on test images.",
        [
            ("fastmap Log()", "raw + clamp_", USUAL),
            ("fastmap Log(), scales at 10 lr", "raw + clamp_", USUAL),
            ("fastmap Log(), scales at 10 lr", "parametrize, exp, scales at 10 lr", OWN),
        ],
    ),
    training(
        "variational",
        "Variational scales",
        "Bayesian logistic regression whose scales start far too small and far too large. Loss: "
        "the negative ELBO of the worse start, in nats.",
        [
            ("fastmap: Softplus()", "raw + clamp_", USUAL),
            ("fastmap: Log()", "raw + clamp_", USUAL),
            ("fastmap: Softplus()", "parametrize: softplus", OWN),
            ("fastmap: Log()", "parametrize: exp", OWN),
        ],
    ),
    training(
        "sparse_regression",
        "Sparse regression",
        "20 of 1000 weights matter, 200 observations. Mirror descent in `Asinh(1e-8)`. u² - v² is the"
        " same flow at a quarter of the learning rate; the coarse grid decides between the two. Loss:"
        " test error relative to predicting zero.",
        [
            ("fastmap: MirrorDescent, Asinh(1e-8)", "gradient descent", USUAL),
            ("fastmap: MirrorDescent, Asinh(1e-8)", "Adam", USUAL),
            ("fastmap: MirrorDescent, Asinh(1e-8)", "gradient + soft threshold", USUAL),
            ("fastmap: MirrorDescent, Asinh(1e-8)", "parametrize: u² - v²", OWN),
            ("fastmap: MirrorDescent, Asinh(1e-8)", "lasso, cross-validated", SPECIALIST),
        ],
    ),
    training(
        "image_fit",
        "Image fit",
        "A photograph as a sum of Gaussians with positive scales and bounded opacities. Loss: "
        "mean squared error.",
        [
            ("fastmap", "raw + clamp_", USUAL),
            ("fastmap", "exp and sigmoid", OWN),
            ("fastmap, visible rows", "raw + clamp_", USUAL),
        ],
    ),
    tables,
    black_box,
    recipe(
        "cancer",
        "Recipe: a network on the breast-cancer data",
        "`fastmap tune cancer`. Hyperparameters: lr, weight decay, momentum, dropout by TPE, raw "
        "boxes and Optuna's `log=True` against fastmap. Weights: Adam on `SymLog` of the weights "
        "against Adam on the weights, and the same map as torch's parametrization.",
    ),
    recipe(
        "cnn",
        "Recipe: a CNN on the digits",
        "`fastmap tune cnn`, as above; positive gains behind the convolutions have `Log`, the raw"
        " arm clamps them.",
    ),
    recipe(
        "rnn",
        "Recipe: a recurrent network on 1-D signals",
        "`fastmap tune rnn`: MNIST-1D, states that decay. Hyperparameters: as above, and the "
        "longest decay that the states start with. Weights: only the decays are mapped, by "
        "`Interval(0, 1)`; the raw arm clamps them.",
    ),
    recipe(
        "transformer",
        "Recipe: a Transformer on characters",
        "`fastmap tune transformer`: the text of Python's help topics. Hyperparameters: as above,"
        " and beta2. Weights: Adam on `SymLog` of the weights. Loss: bits per character.",
    ),
)


def topics(records: Path = DOCS) -> list[Topic]:
    """All that have their records."""
    log = run_log(records)
    found = []
    for make in TOPICS:
        try:
            topic = make(records, False)
        except FileNotFoundError:
            continue
        quiet = all(log.get(step, {}).get("quiet", False) for step in topic.steps)
        found.append(make(records, quiet))
    return found


def without_record(records: Path = DOCS) -> list[str]:
    """The steps that have not been run."""
    return [name for name, step in RUNS.items() if not (records / step.record).exists()]


# --- the page --------------------------------------------------------------------------------------------

HEAD = """\
# Where a map helps and where it does not

Written by `python docs/evidence.py` from the records of real runs (`docs/examples/*.json`,
`docs/evidence/*.json`); a test compares. `python docs/evidence.py --run --fresh` makes the records anew, in
steps that can be stopped and gone on with.

**What is compared.** Every task has the usual way (raw parameters with `clamp_` after the step, a linear
search box), the framework's own way (a parametrization, the tuner's log scale) and fastmap, at equal
budget. Every arm has its learning rate tuned, or is a search of as many evaluations. Seeds and splits are
the same in all arms.

**The effect** is fastmap's loss divided by the other's: below 1 fastmap is ahead. Intervals are 95 %,
paired over seeds or splits: a bootstrap that tunes anew in every resample (training examples,
[docs/training.md](training.md)), or a t interval of the difference, for splits that share samples the
corrected one of Nadeau and Bengio (2003). A difference is divided by the other arm's loss, so a wide
interval may reach below 0.

**The verdict** follows one rule. *helps*: the whole interval lies below {below:g}. *hurts*: above
{above:g}. *tie*: all else, so no difference is shown; the interval says how large one could still be. Of
{count} intervals one in twenty misses the truth by chance, and with few seeds they are rough.

**Against the framework's own way with the same map, a tie is the expected result**: it is the same
mathematics. What the map does shows against the usual way. What no map can do has [a page of its
own](limits.md).

![Effects and intervals](evidence/effects.png)

## In short

Verdicts, in the order of the tables below.

"""


def page(found: Sequence[Topic], missing: Sequence[str] = ()) -> str:
    """The text of docs/evidence.md; `missing` are the steps without a record."""
    count = sum(len(topic.effects) for topic in found)
    roles = (USUAL, OWN, SPECIALIST)
    lines = [HEAD.format(below=1 - MARGIN, above=1 + MARGIN, count=count)[:-1]]
    lines += _table(
        ("task", *(f"against the {role}" for role in roles)),
        [
            (
                f"[{topic.title}](#{_anchor(topic.title)})",
                *(", ".join(e.verdict for e in topic.effects if e.role == role) for role in roles),
            )
            for topic in found
        ],
    )
    if missing:
        names = ", ".join(missing)
        lines += ["", *_wrapped(f"No record yet: {names}. `python docs/evidence.py --run` makes it.")]
    for topic in found:
        lines += ["", f"## {topic.title}", "", *_wrapped(topic.what), ""]
        lines += _table(
            ("fastmap", "against", "which is the", "losses", "ratio", "95 % interval", "verdict"),
            [
                (
                    e.ours,
                    e.other,
                    e.role,
                    f"{e.losses[0]:.3g} / {e.losses[1]:.3g}",
                    f"{e.ratio:.3g}",
                    "-" if math.isnan(e.low) else f"{e.low:.3g} to {e.high:.3g}",
                    f"**{e.verdict}**" if e.verdict in ("helps", "hurts") else e.verdict,
                )
                for e in topic.effects
            ],
        )
        lines.append("")
        for note in topic.notes:
            lines += _wrapped(f"- {note}", indent="  ")
        lines += ["", f"    python docs/evidence.py --run --fresh {' '.join(topic.steps)}"]
    return "\n".join(lines) + "\n"


def _anchor(title: str) -> str:
    """As GitHub makes it."""
    return "".join(c for c in title.lower().replace(" ", "-") if c.isalnum() or c == "-")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]


def _wrapped(text: str, indent: str = "") -> list[str]:
    import textwrap

    return textwrap.wrap(text, 118, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def draw(found: Sequence[Topic]) -> Any:
    """One line per effect, ratios on a log axis, coloured by verdict."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    rows: list[Topic | Effect] = []
    for topic in found:
        rows += [topic, *topic.effects]
    figure = Figure(figsize=(10, 1.4 + 0.235 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    left, right = 0.008, 6.0
    for y, effect in enumerate(rows):
        if isinstance(effect, Topic):
            axes.axhline(y - 0.55, color="#dddddd", linewidth=0.7)
            continue
        colour = COLOURS[effect.verdict]
        axes.plot([min(max(effect.ratio, left), right)], [y], "o", color=colour, markersize=5)
        if not math.isnan(effect.low):
            ends = [min(max(end, left), right) for end in (effect.low, effect.high)]
            axes.plot(ends, [y, y], color=colour, linewidth=2)
            for end, edge, marker in ((effect.low, left, "<"), (effect.high, right, ">")):
                if (end < edge) if marker == "<" else (end > edge):
                    axes.plot([edge], [y], marker, color=colour, markersize=5)  # it goes on
    axes.axvspan(1 - MARGIN, 1 + MARGIN, color="#bbbbbb", alpha=0.6, linewidth=0)
    axes.set_xscale("log")
    axes.set_xlim(left * 0.9, right * 1.1)
    ticks = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    labels = [row.title if isinstance(row, Topic) else f"{row.ours}  against  {row.other}" for row in rows]
    axes.set_yticks(range(len(rows)), labels, fontsize=8.5)
    for label, row in zip(axes.get_yticklabels(), rows, strict=True):
        if isinstance(row, Topic):
            label.set_fontweight("bold")
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(axis="x", alpha=0.25)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_xlabel("fastmap's loss / the other's, with 95 % interval (left of 1: fastmap is ahead)")
    handles = [
        Line2D([], [], color=COLOURS[verdict], marker="o", linewidth=2, label=verdict)
        for verdict in ("helps", "tie", "hurts")
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, frameon=False)
    return figure


# --- the records -----------------------------------------------------------------------------------------


def run_log(records: Path) -> dict[str, Record]:
    """How each record was made: seconds, and whether nothing else ran."""
    path = records / "evidence" / "runs.json"
    return json.loads(path.read_text()) if path.exists() else {}


def run(names: Sequence[str], records: Path = DOCS, *, fresh: bool = False, quiet: bool = False) -> None:
    """Make the records that are missing, one after the other; with `fresh`, remove them first."""
    if fresh:
        for name in names:
            (records / RUNS[name].record).unlink(missing_ok=True)
    missing = [name for name in without_record(records) if name in names]
    for number, name in enumerate(missing, 1):
        step = RUNS[name]
        print(f"[{number}/{len(missing)}] {name}", flush=True)
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([part.replace("FOLDER", folder) for part in step.command], check=True)
            target = records / step.record
            target.parent.mkdir(parents=True, exist_ok=True)
            if step.record.startswith("examples/"):
                for picture in Path(folder).glob("*.png"):
                    target.with_name(picture.name).write_bytes(picture.read_bytes())
            target.write_text((Path(folder) / step.makes).read_text())
        log = run_log(records) | {name: {"seconds": round(time.perf_counter() - start), "quiet": quiet}}
        (records / "evidence" / "runs.json").write_text(json.dumps(log, indent=1) + "\n")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(RUNS)} (all)")
    parser.add_argument("--run", action="store_true", help="make the records that are missing")
    parser.add_argument("--fresh", action="store_true", help="with --run: make all of the names anew")
    parser.add_argument("--quiet", action="store_true", help="nothing else runs here: times count")
    args = parser.parse_args(argv)
    for name in args.names:
        if name not in RUNS:
            parser.error(f"{name!r} is none of {', '.join(RUNS)}")
    if not args.run and (args.names or args.fresh or args.quiet):
        parser.error("names, --fresh and --quiet go with --run")
    if args.run:
        run(args.names or list(RUNS), fresh=args.fresh, quiet=args.quiet)
    found = topics()
    (DOCS / "evidence.md").write_text(page(found, without_record()))
    draw(found).savefig(DOCS / "evidence" / "effects.png", dpi=130)
    verdicts = [effect.verdict for topic in found for effect in topic.effects]
    print(", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in ("helps", "tie", "hurts")))


if __name__ == "__main__":
    main()
