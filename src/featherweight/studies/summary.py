"""Summarise the rows of a study: mean, standard deviation and interval over the seeds.

Example:
    for summary in summarise(rows): print(summary.recipe, summary.val.mean, summary.val.interval)
"""

import math
import statistics
from dataclasses import dataclass

from scipy import stats

from ..tables import Row
from .rows import Outcome


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


@dataclass(frozen=True)
class Summary:
    """Summary of all runs of one recipe."""

    recipe: str
    "Recipe name."
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
    """Return one summary per recipe, in the order of their first rows."""

    def accuracies(part: str, group: list[Row]) -> Spread | None:
        fractions = [
            int(row[f"{part}_correct"]) / int(row[f"{part}_total"])
            for row in group
            if row[f"{part}_correct"]
        ]
        return spread(fractions) if fractions else None

    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["recipe"], []).append(row)
    return [
        Summary(
            recipe=recipe,
            n_params=group[0]["n_params"],
            runs=len(group),
            diverged=sum(row["verdict"] == Outcome.DIVERGED for row in group),
            passed=sum(row["verdict"] == Outcome.PASS for row in group),
            val=accuracies("val", group),
            test=accuracies("test", group),
            seconds=statistics.fmean(float(row["seconds"]) for row in group),
        )
        for recipe, group in groups.items()
    ]
