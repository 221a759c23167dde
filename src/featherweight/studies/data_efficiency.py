"""Draw validation accuracy against the number of training images, for each recipe of a study.

Example:
    curves = accuracy_curves(read_rows(Path("results/data-efficiency.csv")))
    save_picture(images_picture(curves), Path("data-efficiency.svg"))
"""

from collections import Counter
from dataclasses import dataclass

from matplotlib.figure import Figure

from ..report import BLUE, GREEN, MUTED, RED, literally
from ..tables import Row
from .frontier import MARKER, drawn_error, write_axes, write_key
from .summary import Spread, summarise

COLOURS = (BLUE, RED, GREEN, MUTED)  # of recipes, in turn
SYMBOLS = "osD^vPX*"


@dataclass(frozen=True)
class Curve:
    """Validation accuracy of one recipe over numbers of training images."""

    recipe: str
    "Recipe name."
    points: tuple[tuple[int, Spread], ...]
    "Number of training images, and the accuracy over the seeds, in rising order of the numbers."


def accuracy_curves(rows: list[Row]) -> list[Curve]:
    """Return one curve for each recipe that has a run that did not diverge.

    Raises InputError if a row has no counts, recipe or contract that can be read."""
    points: dict[str, list[tuple[int, Spread]]] = {}
    for summary in summarise(rows):
        if summary.val is not None:
            points.setdefault(summary.recipe, []).append((summary.train_size, summary.val))
    return [
        Curve(recipe, tuple(sorted(each, key=lambda point: point[0])))
        for recipe, each in points.items()
    ]


@literally
def images_picture(curves: list[Curve]) -> Figure:
    """Draw the curves, at least one; a bar is the 95 % confidence interval of a mean.

    Both axes are logarithmic, the vertical one in the error, so that accuracies near 100 % can be
    told apart."""
    figure = Figure(figsize=(9, 5.6))
    figure.set_layout_engine("constrained", w_pad=0.12)  # inches: the last tick label sticks out
    axes = figure.subplots()
    errors: list[float] = []
    for i, curve in enumerate(curves):
        sizes = [size for size, _ in curve.points]
        means = [drawn_error(spread.mean) for _, spread in curve.points]
        ends = [
            spread.interval if spread.n > 1 else (spread.mean,) * 2 for _, spread in curve.points
        ]
        lows, highs = ([drawn_error(end[k]) for end in ends] for k in (1, 0))
        errors += lows + highs
        colour = COLOURS[i % len(COLOURS)]
        axes.plot(
            sizes,
            means,
            f"-{SYMBOLS[i % len(SYMBOLS)]}",
            color=colour,
            ms=MARKER,
            lw=1,
            label=f"{curve.recipe}: {_seeds(curve)}",
        )
        axes.vlines(sizes, lows, highs, color=colour, lw=2)
    numbers = [size for curve in curves for size, _ in curve.points]
    axes.set(
        xscale="log",
        yscale="log",
        xlim=(0.8 * min(numbers), 1.25 * max(numbers)),
        ylim=(1.15 * max(errors), 0.85 * min(errors)),  # the smallest error is at the top
    )
    write_axes(
        axes,
        "Accuracy over training images",
        "on the validation images; last epoch",
        "training images (log)",
    )
    write_key(figure, axes.lines)
    return figure


def _seeds(curve: Curve) -> str:
    """Return what a curve's points are means of, as the legend says it."""
    counts = Counter(spread.n for _, spread in curve.points)
    usual = counts.most_common(1)[0][0]
    others = ", ".join(
        f"{size:,} images: {spread.n}" for size, spread in curve.points if spread.n != usual
    )
    if usual == 1 and not others:
        return "one seed"
    plural = "seed" if usual == 1 else "seeds"
    return f"mean of {usual} {plural}{f' ({others})' if others else ''}, its 95 % interval"
