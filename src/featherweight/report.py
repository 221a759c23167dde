"""The pictures of a run and its model card.

Example:
    report(run, result, split, verdict.to_dict())    # write all of them into the run folder
    save_picture(verdict_picture(verdict.to_dict(), "feather-20k, seed 0"), Path("verdict.svg"))
"""

import io
import math
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.textpath import TextPath
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from ._files import visible, write_atomic
from ._html import GREEN as GREEN
from ._html import GREY as GREY
from ._html import RED as RED
from .card import card
from .contract import Contract
from .data import Split
from .errors import InputError
from .evaluate import Evaluation, percent
from .image_kind import MAX_CLASSES, ImageKind
from .run import Row, Run
from .verdict import Verdict

MAX_NAME_SHOWN = 14  # characters of a class's name
# Side of a cell of the confusion matrix, and most of all cells of a row, in inches.
CELL, MAX_CELLS = 0.35, 28.0
MAX_MISTAKES = 400  # images in one picture: the most confident mistakes if there are more
# Share of a class predicted as one other class that gets the confusion matrix's darkest colour.
DARKEST_SHARE = 0.1
INK, MUTED, FAINT = "#222222", "#666666", "#dddddd"
BLUE = "#1f5fa8"

# Names are drawn as they are: two dollar signs in one would else be read as a formula of TeX.
literally = rc_context({"text.parse_math": False})


def save_picture(figure: Figure, path: Path) -> Path:
    """Write a figure as .svg or .png and return `path`; the same figure gives the same bytes.

    Raises InputError for another suffix.
    """
    if path.suffix not in (".svg", ".png"):
        raise InputError(f"{path}: expected a file name that ends in .svg or .png")
    write_atomic(path, picture(figure, path.suffix))
    return path


def picture(figure: Figure, suffix: str) -> bytes:
    """Return the content of a figure's file, of the suffix .svg or .png."""
    buffer = io.BytesIO()
    undated = {"Date": None} if suffix == ".svg" else None
    with rc_context({"svg.hashsalt": "featherweight"}):
        figure.savefig(buffer, format=suffix[1:], dpi=150, metadata=undated)
    return buffer.getvalue()


def bare(axes: Axes) -> None:
    """Give axes a faint grid, and remove their upper and right borders."""
    axes.grid(color=FAINT, lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(which="both", color=GREY, labelcolor=INK)


def log_ticks(
    low: float,
    high: float,
    series: tuple[tuple[float, ...], ...] = ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 5), (1,)),
    max_ticks: int = 12,
) -> list[float]:
    """Return round numbers between two positive limits, for a logarithmic axis.

    Args:
        low: Lower limit.
        high: Upper limit.
        series: Numbers within a decade to choose from, from dense to sparse.
        max_ticks: The first series with at most this many ticks is used.
    """
    ticks: list[float] = []
    for steps in series:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [
            tick for k in decades for step in steps if low <= (tick := float(f"{step}e{k}")) <= high
        ]
        if len(ticks) <= max_ticks:
            break
    return ticks


def _log_axis(axes: Axes, values: list[float], max_ticks: int) -> None:
    """Set a logarithmic y axis around the positive values.

    Its limits are at least a factor of three apart, so that there are ticks between them.
    """
    positive = [value for value in values if value > 0] or [1.0]
    low, high = min(positive), max(positive)
    widen = max(1.15, math.sqrt(3 * low / high))
    axes.set(yscale="log", ylim=(low / widen, high * widen))
    axes.yaxis.set_major_locator(
        FixedLocator(log_ticks(low / widen, high * widen, max_ticks=max_ticks))
    )
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:,g}")


def _inches(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a figure and invisible axes over all of it, in inches from the upper left corner."""
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    return figure, axes


def _draw_loss(axes: Axes, rows: list[Row]) -> None:
    epochs = [row["epoch"] for row in rows]
    for key, color, label in (
        ("train_loss", GREY, "training (augmented)"),
        ("val_loss", BLUE, "validation"),
    ):
        axes.plot(epochs, [row[key] for row in rows], "o-", color=color, ms=3.5, label=label)
    axes.set_ylabel("loss, nats")
    _log_axis(axes, [row[key] for row in rows for key in ("train_loss", "val_loss")], max_ticks=8)


def _draw_mistakes(axes: Axes, rows: list[Row], contract: Contract) -> None:
    """Draw mistakes over epochs, with the contract's limit, and the accuracy at the right."""
    total = rows[-1]["val_total"]
    errors = [total - row["val_correct"] for row in rows]
    last = percent(total - errors[-1], total)
    epochs = [row["epoch"] for row in rows]
    axes.plot(epochs, errors, "o-", color=BLUE, ms=3.5, label=f"last epoch: {last}")
    axes.set(ylabel=f"wrong of {total:,}")
    drawn: list[float] = list(errors)
    if (required := contract.min_val_accuracy) is not None:
        allowed = (1 - required) * total
        label = f"{contract.name} asks for {100 * required:.2f} %"
        axes.axhline(allowed, color=RED, ls="--", lw=1, label=label)
        drawn.append(allowed)
    if min(drawn) > 0:
        _log_axis(axes, drawn, max_ticks=9)
    else:
        high = max(*drawn, 1)
        axes.set_ylim(-0.04 * high, 1.08 * high)
        axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    # The same ticks left and right: a round number of mistakes is a round percentage too.
    correct = axes.twinx()
    correct.set(yscale=axes.get_yscale(), ylim=axes.get_ylim(), ylabel="correct, %")
    correct.yaxis.set_major_locator(
        FixedLocator([tick for tick in axes.get_yticks() if tick == round(tick)])
    )
    correct.yaxis.set_minor_locator(NullLocator())
    correct.yaxis.set_major_formatter(lambda mistakes, _: f"{100 * (1 - mistakes / total):.2f}")
    axes.yaxis.set_major_locator(correct.yaxis.get_major_locator())
    axes.yaxis.set_major_formatter("{x:,.0f}")
    correct.spines[:].set_visible(False)
    correct.tick_params(color=GREY, labelcolor=INK)


def _draw_learning_rate(axes: Axes, rows: list[Row]) -> None:
    epochs = [row["epoch"] for row in rows]
    axes.plot(epochs, [row["lr"] for row in rows], "o-", color=GREY, ms=3.5)
    axes.set(
        ylabel="learning rate",
        xlabel="epoch",
        ylim=(0, None),
        xlim=(epochs[0] - 0.5, epochs[-1] + 0.5),
    )
    axes.xaxis.set_major_locator(MaxNLocator(20, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))


@literally
def curves(run: Run) -> Figure:
    """Draw loss, validation mistakes and learning rate over epochs."""
    rows = run.read_metrics()
    figure = Figure(figsize=(8, 7.5), layout="constrained")
    loss, wrong, rate = figure.subplots(3, 1, sharex=True, height_ratios=[3, 3, 1.2])
    _draw_loss(loss, rows)
    _draw_mistakes(wrong, rows, run.contract)
    _draw_learning_rate(rate, rows)
    for axes in (loss, wrong, rate):
        bare(axes)
    for axes in (loss, wrong):  # the legend is above the axes, where it can't cover a curve
        axes.legend(
            frameon=False,
            loc="lower right",
            bbox_to_anchor=(1, 1.01),
            ncols=2,
            labelcolor=INK,
            borderaxespad=0,
            fontsize=9,
        )
    figure.align_ylabels()
    figure.suptitle(
        f"{run.recipe.name}, seed {run.seed}: training and validation", x=0.01, ha="left", color=INK
    )
    return figure


@literally
def confusion(result: Evaluation, title: str, classes: Sequence[str] = ()) -> Figure:
    """Draw the confusion matrix: a row per true class, a column per predicted class.

    A mistake's colour is its share of the true class on a fixed scale, so a handful among a
    thousand images is always pale. `title` names the run and the split, `classes`
    are the names of the classes (by default their numbers).
    """
    counts = result.confusion
    names = _shortened(classes or range(len(counts)))
    cell = min(CELL, MAX_CELLS / len(counts))
    scale = cell / CELL  # of letters
    sides = cell * len(counts) + 0.8 + 0.08 * max(0, max(map(len, names)) - 2)  # inches
    figure = Figure(figsize=(sides, sides + 0.35), layout="constrained")
    axes = figure.subplots()
    shares = counts.double() / counts.sum(1, keepdim=True).clamp(min=1)
    shares.fill_diagonal_(0)
    shown = shares.masked_fill(shares == 0, math.nan)  # cells without mistakes stay white
    axes.imshow(shown.numpy(), cmap="YlOrBr", norm=PowerNorm(0.6, 0, DARKEST_SHARE, clip=True))
    for true in range(len(counts)):
        axes.add_patch(Rectangle((true - 0.5, true - 0.5), 1, 1, color="#e8eff7", lw=0))
        for predicted in range(len(counts)):
            if count := int(counts[true, predicted]):
                on_dark = shares[true, predicted] > 0.4 * DARKEST_SHARE
                colour = BLUE if true == predicted else "white" if on_dark else INK
                axes.text(
                    predicted,
                    true,
                    f"{count:,}",
                    ha="center",
                    va="center",
                    fontsize=6.5 * scale,
                    color=colour,
                )
    axes.set_xlabel("predicted", fontsize=8, color=INK)
    axes.set_ylabel("true class", fontsize=8, color=INK)
    axes.set_yticks(range(len(counts)), names)
    axes.set_xticks(range(len(counts)), names, rotation=90 if _are_long(names) else 0)
    axes.set_xticks([x - 0.5 for x in range(1, len(counts))], minor=True)
    axes.set_yticks([y - 0.5 for y in range(1, len(counts))], minor=True)
    axes.grid(which="minor", color=FAINT, lw=0.6)
    axes.tick_params(which="both", length=0, labelsize=8 * scale, labelcolor=INK)
    axes.spines[:].set_color(FAINT)
    low, high = result.interval
    figure.suptitle(
        f"{title}\n{percent(result.correct, result.total)}\n"
        f"95 % interval {100 * low:.2f} to {100 * high:.2f}",
        color=INK,
        fontsize=9,
    )
    return figure


def _draw_mistake(
    axes: Axes,
    result: Evaluation,
    index: int,
    image: np.ndarray,
    names: list[str],
    cmap: str,
    x: float,
    y: float,
    side: float,
) -> None:
    """Draw one image, (height, width) or (height, width, 3), with its caption below.

    It is drawn at (x, y), in inches; `cmap` is the colour map of a grey image."""
    axes.imshow(
        image,
        cmap=cmap,
        vmin=0,
        vmax=255,
        extent=(x, x + side, y + side, y),
        aspect="auto",
        interpolation="nearest",
    )
    axes.add_patch(Rectangle((x, y), side, side, fill=False, ec=FAINT, lw=0.6))
    probabilities, guesses = result.probabilities[index].topk(2)
    first, second = (
        f"{names[guess]}: {100 * p:.0f} %"
        for guess, p in zip(guesses.tolist(), probabilities.tolist(), strict=True)
    )
    number, true = f"no. {index:,}", f"true {names[int(result.labels[index])]}"
    lines = [f"{number}, {true}", f"{first}, {second}"]
    if _are_long(names):
        lines = [number, true, first, second]
    for i, line in enumerate(lines):
        colour = INK if 2 * i < len(lines) else MUTED
        axes.text(x, y + side + 0.03 + 0.13 * i, line, va="top", fontsize=7, color=colour)


def _shortened(names: Iterable[object]) -> list[str]:
    """Return the names of classes, each as one line, shortened if it is long."""
    lines = [" ".join(visible(str(name)).split()) for name in names]
    most = MAX_NAME_SHOWN
    return [line if len(line) <= most else f"{line[: most - 3]}..." for line in lines]


def _are_long(names: list[str]) -> bool:
    """Return whether names of classes take more room than numbers."""
    return max(map(len, names)) > len(str(MAX_CLASSES))


@literally
def mistakes(
    result: Evaluation,
    pixels: torch.Tensor,
    title: str,
    kind: ImageKind | None = None,
    most: int = MAX_MISTAKES,
) -> Figure:
    """Draw every misclassified image, or `most` of them, the most confident mistake first.

    Light ink on dark paper is drawn as dark ink on light paper, and a transposed image upright.

    Args:
        result: The evaluation.
        pixels: The images that were evaluated, shape (n, channels, height, width), uint8.
        title: Name of the run and the split.
        kind: What the images are like. None: upright and light on dark, with numbers as classes.
    """
    names = _shortened(kind.classes if kind else range(result.probabilities.shape[1]))
    cmap = "gray" if kind and kind.polarity != "light on dark" else "gray_r"
    order = (2, 1, 0) if kind and kind.orientation == "transposed" else (1, 2, 0)
    wrong = result.mistakes
    drawn = wrong[:most].tolist()
    columns = min(10, max(7, len(drawn)))
    rows = math.ceil(len(drawn) / columns)
    side, gap, head, margin = 1.0, 0.08, 0.85, 0.12  # inches
    caption = 0.56 if _are_long(names) else 0.3  # four lines, or two
    figure, axes = _inches(
        2 * margin + columns * (side + gap) - gap, head + rows * (side + caption + gap) + margin
    )
    axes.text(
        margin,
        0.16,
        f"{title}: {percent(result.correct, result.total)}",
        va="top",
        fontsize=11,
        color=INK,
    )
    if not drawn:
        axes.text(margin, 0.5, "no mistakes", va="top", fontsize=14, color=GREY)
        return figure
    which = (
        f"The {len(drawn)} most confident mistakes" if len(drawn) < len(wrong) else "Every mistake"
    )
    axes.text(
        margin,
        0.42,
        f"{which}, ordered by confidence. Below each: the image's number and true class,\n"
        "then the first and the second guess with their probabilities.",
        va="top",
        fontsize=8,
        color=MUTED,
        linespacing=1.3,
    )
    for i, index in enumerate(drawn):
        x = margin + i % columns * (side + gap)
        y = head + i // columns * (side + caption + gap)
        image = pixels[index].permute(order).squeeze(2).cpu().numpy()
        _draw_mistake(axes, result, index, image, names, cmap, x, y, side)
    # imshow has changed the limits.
    axes.set(xlim=(0, figure.get_figwidth()), ylim=(figure.get_figheight(), 0))
    return figure


def _wrap(text: str, inches: float) -> list[str]:
    """Break a text in 10 points into lines of at most this width."""
    for width in range(max(1, len(text)), 0, -1):
        lines = textwrap.wrap(text, width) or [""]
        if all(
            TextPath((0, 0), line, size=10).get_extents().x1 <= 72 * inches
            for line in lines
            if line
        ):
            break
    return lines


@literally
def verdict_picture(verdict: dict[str, Any], title: str = "") -> Figure:
    """Draw a verdict: PASS or FAIL, and what each clause required and found.

    Args:
        verdict: As `Verdict.to_dict` returns it; a clause whose `passed` is None was not judged.
        title: Name of what was judged.
    """
    judged = Verdict.from_dict(verdict)
    clauses = judged.clauses
    margin, head, width, leading = 0.3, 1.5, 9.0, 0.19  # inches
    # Left edge and width of each column, in inches.
    columns = {"clause": (margin, 1.1), "required": (1.45, 3.45), "found": (5.05, 3.3)}
    cells = [
        [_wrap(getattr(clause, name), wide) for name, (_, wide) in columns.items()]
        for clause in clauses
    ]
    heights = [0.18 + leading * max(map(len, row)) for row in cells]
    figure, axes = _inches(width, head + sum(heights) + margin)
    word, colour = ("PASS", GREEN) if verdict["passed"] else ("FAIL", RED)
    axes.text(margin, 0.62, word, fontsize=44, weight="bold", va="center_baseline", color=colour)
    axes.text(
        2.4,
        0.48,
        f"{title}{': ' if title else ''}contract {judged.contract}",
        fontsize=13,
        va="center",
        color=INK,
    )
    axes.text(2.4, 0.78, judged.summary, fontsize=11, va="center", color=MUTED)
    for name, (x, _) in columns.items():
        axes.text(x, head - 0.12, name, fontsize=9, color=MUTED)
    y = head
    for clause, row, height in zip(clauses, cells, heights, strict=True):
        axes.plot((margin, width - margin), (y, y), color=FAINT, lw=0.8)
        sign = {True: "✓", False: "✗", None: "\N{EN DASH}"}[clause.passed]
        for (x, _), lines in zip(columns.values(), row, strict=True):
            # Line by line, so that all columns have the same baselines.
            for i, line in enumerate(lines):
                axes.text(x, y + 0.23 + leading * i, line, fontsize=10, color=INK)
        axes.text(width - margin, y + 0.24, sign, fontsize=14, ha="right", color=clause.colour)
        y += height
    return figure


def report(run: Run, result: Evaluation, split: Split, verdict: dict[str, Any]) -> list[Path]:
    """Write the pictures and the model card into the run folder, and return their paths.

    Args:
        run: The finished run.
        result: Its evaluation on `split.val`.
        split: Its images.
        verdict: Its verdict, as `Verdict.to_dict` returns it.
    """
    name = f"{run.recipe.name}, seed {run.seed}"
    title = f"{name}, validation"
    pictures = {
        "curves.png": curves(run),
        "confusion.png": confusion(result, title, split.kind.classes),
        "mistakes.png": mistakes(result, split.val.pixels, title, split.kind),
        "verdict.svg": verdict_picture(verdict, name),
    }
    written = [
        run.write(file, picture(figure, Path(file).suffix)) for file, figure in pictures.items()
    ]
    return [*written, run.write("README.md", card(run, result, split, verdict).encode())]
