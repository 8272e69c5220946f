"""Tables, paired intervals and verdicts, from runs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fastmap._extras import need
from fastmap.recipes._arms import ARMS, LEARNING_RATES, Run

TEST_OVER_TRAIN = 0.2 / 0.8  # of the splits, for the interval; the search saw training and validation parts
WORKS = 0.1  # a learning rate works if its validation log-loss is within this of the best of all arms


@dataclass(frozen=True)
class Comparison:
    """fastmap minus another arm in test log-loss: the mean and its 95 % interval."""

    part: str
    arm: str
    mean: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """What the interval says of the map."""
        if math.isnan(self.low):
            return "no verdict from one seed"
        if self.high < 0:
            return "the map helped"
        if self.low > 0:
            return "the map made it worse"
        return "the map did not help (the interval contains 0)"


def text_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Aligned columns: the first to the left, the others to the right."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]

    def text(line: Sequence[str]) -> str:
        cells = [
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([text(lines[0]), rule, *map(text, lines[1:])])


def select(runs: Iterable[Run], part: str, arm: str) -> list[Run]:
    """The runs of one arm, in the order of the seeds."""
    return [run for run in runs if (run.part, run.arm) == (part, arm)]


def arms(runs: Sequence[Run], part: str) -> list[str]:
    """The arms of a part that were run; no framework need have all."""
    return [arm for arm in ARMS[part] if select(runs, part, arm)]


def compare(runs: Sequence[Run], part: str, arm: str) -> Comparison:
    """fastmap against an arm, over splits that share samples."""
    ours, theirs = select(runs, part, "fastmap"), select(runs, part, arm)
    differences = [a.test_log_loss - b.test_log_loss for a, b in zip(ours, theirs, strict=True)]
    return Comparison(part, arm, *paired_interval(differences, TEST_OVER_TRAIN))


def paired_interval(differences: Sequence[float], test_over_train: float = 0.0) -> tuple[float, float, float]:
    """Mean of paired differences and its 95 % t interval, NaN for one pair.

    Random splits share samples, so the plain interval is too narrow for them: its variance s²/n becomes
    s² (1/n + test/train) (Nadeau and Bengio, 2003). With independent pairs, test_over_train is 0.
    """
    mean, n = statistics.fmean(differences), len(differences)
    if n < 2:
        return mean, math.nan, math.nan
    quantile = float(need("scipy.stats", "demo").t.ppf(0.975, n - 1))
    half = quantile * statistics.stdev(differences) * math.sqrt(1 / n + test_over_train)
    return mean, mean - half, mean + half


def comparisons(runs: Sequence[Run]) -> list[Comparison]:
    """fastmap against the two other arms of every part that was run."""
    return [compare(runs, part, arm) for part in ARMS for arm in arms(runs, part) if arm != "fastmap"]


def table(runs: Sequence[Run], part: str, unit: str = "log-loss") -> str:
    """before -> after on the test part, means over the seeds."""
    rows = []
    stages = (("before", "before", ("untrained", "default")), ("after", part, arms(runs, part)))
    for stage, stage_part, names in stages:
        for arm in names:
            chosen = select(runs, stage_part, arm)
            difference = ""
            if stage == "after" and arm != "fastmap":
                c = compare(runs, part, arm)
                difference = f"{c.mean:+.4f} [{c.low:+.4f}, {c.high:+.4f}]"
            rows.append(
                [
                    f"{stage:6}  {arm}",
                    f"{statistics.fmean(run.test_accuracy for run in chosen):.4f}",
                    f"{statistics.fmean(run.test_log_loss for run in chosen):.4f}",
                    difference,
                    str(sum(len(run.records) for run in chosen)),
                    str(sum(run.failures for run in chosen)),
                    f"{sum(run.seconds for run in chosen):.1f}",
                ]
            )
    header = ["", "accuracy", unit, "fastmap minus this [95 %]", "evaluations", "failed", "seconds"]
    return text_table(header, rows)


def verdicts(runs: Sequence[Run], part: str) -> list[str]:
    """One sentence per comparison."""
    return [
        f"Against {arm}: here {compare(runs, part, arm).verdict}."
        for arm in arms(runs, part)
        if arm != "fastmap"
    ]


def working_rates(runs: Sequence[Run]) -> dict[str, float]:
    """Per arm of the weights part: how many learning rates of the grid work, mean over the seeds."""
    best: dict[int, float] = {}
    for run in runs:
        if run.part == "weights":
            best[run.seed] = min(best.get(run.seed, math.inf), run.validation_log_loss)
    return {
        arm: statistics.fmean(
            sum(record.loss <= best[run.seed] + WORKS for record in run.records[: len(LEARNING_RATES)])
            for run in select(runs, "weights", arm)
        )
        for arm in arms(runs, "weights")
    }


def working_rates_line(runs: Sequence[Run], unit: str = "log-loss") -> str:
    """`working_rates` as a sentence."""
    counts = ", ".join(f"{arm} {count:.1f}" for arm, count in working_rates(runs).items())
    return (
        f"Learning rates that work, of the {len(LEARNING_RATES)} in the grid (validation {unit} within "
        f"{WORKS:g} of the best of all arms): {counts}."
    )
