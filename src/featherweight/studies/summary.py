"""Summarise the rows of a study: mean, standard deviation and interval over the seeds.

Example:
    for summary in summarise(rows): print(summary.recipe, summary.val.mean, summary.val.interval)
"""

import math
import statistics
from dataclasses import dataclass

from scipy import stats

from ..errors import InputError
from ..tables import Row
from .rows import Outcome, train_size


@dataclass(frozen=True)
class Spread:
    """Statistics of the accuracies of several seeds, as fractions."""

    n: int
    "Number of seeds."
    mean: float
    "Mean accuracy."
    sd: float
    "Sample standard deviation, with n - 1 degrees of freedom; NaN for one seed."
    minimum: float
    "Lowest accuracy."
    interval: tuple[float, float]
    "95 % confidence interval of the mean (Student's t); NaN for one seed."


def spread(values: list[float]) -> Spread:
    """Return the statistics of at least one value.

    The interval is Student's t interval (Student 1908)."""
    n, mean = len(values), statistics.fmean(values)
    if n == 1:
        return Spread(1, mean, math.nan, mean, (math.nan, math.nan))
    sd = statistics.stdev(values)
    half = float(stats.t.ppf(0.975, n - 1)) * sd / math.sqrt(n)
    return Spread(n, mean, sd, min(values), (mean - half, mean + half))


def fraction(row: Row, part: str) -> float:
    """Return the accuracy that a row of a table says of `part`, which is val or test.

    Raises InputError if its counts are none."""
    return _number(row, f"{part}_correct", 0, total := _number(row, f"{part}_total", 1)) / total


def _number(row: Row, column: str, least: float, most: float = 1e12) -> float:
    """Return a number of a row. Raises InputError if it is none from `least` to `most`."""
    try:
        value = float(row[column])
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        raise InputError(
            f"row of recipe {row['recipe']!r:.60}: {column}: got {row[column]!r:.60}, expected a "
            f"number from {least:g} to {most:g}"
        )
    return value


def size_of(row: Row, column: str) -> int:
    """Return a size that a row says, at least 1. Raises InputError if it is none."""
    return int(_number(row, column, 1))


@dataclass(frozen=True)
class Summary:
    """Summary of all runs of one recipe on one number of training images."""

    recipe: str
    "Recipe name."
    train_size: int
    "Number of training images."
    n_params: str
    "Number of parameters; empty if the first run diverged."
    runs: int
    "Number of runs."
    diverged: int
    "Number of runs that diverged."
    passed: int
    "Number of runs that met their contract."
    val: Spread | None
    "Validation accuracy; None if every run diverged."
    test: Spread | None
    "Test accuracy; None if the test images were not read."
    seconds: float
    "Mean training time in seconds."


def summarise(rows: list[Row]) -> list[Summary]:
    """Return one summary per recipe and number of training images, in the order of first rows."""

    def accuracies(part: str, group: list[Row]) -> Spread | None:
        fractions = [fraction(row, part) for row in group if row[f"{part}_correct"]]
        return spread(fractions) if fractions else None

    groups: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["recipe"], train_size(row)), []).append(row)
    return [
        Summary(
            recipe=recipe,
            train_size=n_train,
            n_params=group[0]["n_params"],
            runs=len(group),
            diverged=sum(row["verdict"] == Outcome.DIVERGED for row in group),
            passed=sum(row["verdict"] == Outcome.PASS for row in group),
            val=accuracies("val", group),
            test=accuracies("test", group),
            seconds=statistics.fmean(_number(row, "seconds", 0) for row in group),
        )
        for (recipe, n_train), group in groups.items()
    ]
