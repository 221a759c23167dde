"""The pictures of a run, and all of them with its model card.

report(run, result, split, verdict.to_dict())    # curves, confusion, mistakes, verdict and README.md in the run
save_picture(verdict_picture(verdict.to_dict(), "feather-20k, seed 0"), Path("verdict.svg"))
"""

import io
import math
import textwrap
from pathlib import Path
from typing import Any

import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.textpath import TextPath
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from .card import card
from .data import Split
from .errors import InputError
from .evaluate import Evaluation, percent
from .run import Run, write_atomic

MAX_MISTAKES = 400  # images in one picture; of more only the most confident mistakes are drawn
DARKEST = 0.1  # the share of a class misread as one other class that has the confusion matrix's darkest colour
INK, MUTED, FAINT = "#222222", "#666666", "#dddddd"
BLUE, GREEN, RED, GREY = "#1f5fa8", "#1a7f37", "#c0392b", "#888888"


def save_picture(figure: Figure, path: Path) -> Path:
    """Write a figure as .svg or .png; the same figure gives the same bytes. Raises ValueError for another suffix."""
    if path.suffix not in (".svg", ".png"):
        raise InputError(f"{path}: expected a name that ends in .svg or .png")
    buffer = io.BytesIO()
    undated = {"Date": None} if path.suffix == ".svg" else None
    with rc_context({"svg.hashsalt": "featherweight"}):
        figure.savefig(buffer, format=path.suffix[1:], dpi=150, metadata=undated)
    write_atomic(path, buffer.getvalue())
    return path


def bare(axes: Axes) -> None:
    """Axes with a faint grid and without the upper and the right border."""
    axes.grid(color=FAINT, lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(which="both", color=GREY, labelcolor=INK)


def log_ticks(
    low: float,
    high: float,
    series: tuple[tuple[float, ...], ...] = ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 5), (1,)),
    most: int = 12,
) -> list[float]:
    """Round numbers between two positive ends: of the first series, each within a decade, with at most `most`."""
    ticks: list[float] = []
    for steps in series:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [
            tick for k in decades for step in steps if low <= (tick := float(f"{step}e{k}")) <= high
        ]
        if len(ticks) <= most:
            break
    return ticks


def _log_axis(axes: Axes, values: list[float], most: int) -> None:
    """A logarithmic y axis around the positive values, from one to three at least, so that it has ticks."""
    positive = [value for value in values if value > 0] or [1.0]
    low, high = min(positive), max(positive)
    widen = max(1.15, math.sqrt(3 * low / high))
    axes.set(yscale="log", ylim=(low / widen, high * widen))
    axes.yaxis.set_major_locator(FixedLocator(log_ticks(low / widen, high * widen, most=most)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:,g}")


def _inches(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure and invisible axes over all of it, measured in inches from the upper left corner."""
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    return figure, axes


def curves(run: Run) -> Figure:
    """Loss, validation mistakes and learning rate over epochs."""
    rows = run.read_metrics()
    epochs, total = [row["epoch"] for row in rows], rows[-1]["val_total"]
    figure = Figure(figsize=(8, 7.5), layout="constrained")
    loss, wrong, rate = figure.subplots(3, 1, sharex=True, height_ratios=[3, 3, 1.2])
    loss.plot(
        epochs,
        [row["train_loss"] for row in rows],
        "o-",
        color=GREY,
        ms=3.5,
        label="training (augmented)",
    )
    loss.plot(
        epochs, [row["val_loss"] for row in rows], "o-", color=BLUE, ms=3.5, label="validation"
    )
    loss.set_ylabel("loss, nats")
    _log_axis(loss, [row[key] for row in rows for key in ("train_loss", "val_loss")], most=8)

    errors = [total - row["val_correct"] for row in rows]
    allowed = (1 - run.contract.min_val_accuracy) * total
    wrong.plot(
        epochs,
        errors,
        "o-",
        color=BLUE,
        ms=3.5,
        label=f"last epoch: {percent(total - errors[-1], total)}",
    )
    wrong.axhline(
        allowed,
        color=RED,
        ls="--",
        lw=1,
        label=f"{run.contract.name} asks for {100 * run.contract.min_val_accuracy:.2f} %",
    )
    wrong.set(ylabel=f"wrong of {total:,}")
    if min(*errors, allowed) > 0:
        _log_axis(wrong, [*errors, allowed], most=9)
    else:
        high = max(*errors, allowed, 1)
        wrong.set_ylim(-0.04 * high, 1.08 * high)
        wrong.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    # The same ticks left and right: a round number of mistakes is a round percentage too.
    correct = wrong.twinx()
    correct.set(yscale=wrong.get_yscale(), ylim=wrong.get_ylim(), ylabel="correct, %")
    correct.yaxis.set_major_locator(
        FixedLocator([tick for tick in wrong.get_yticks() if tick == round(tick)])
    )
    correct.yaxis.set_minor_locator(NullLocator())
    correct.yaxis.set_major_formatter(lambda mistakes, _: f"{100 * (1 - mistakes / total):.2f}")
    wrong.yaxis.set_major_locator(correct.yaxis.get_major_locator())
    wrong.yaxis.set_major_formatter("{x:,.0f}")
    correct.spines[:].set_visible(False)
    correct.tick_params(color=GREY, labelcolor=INK)

    rate.plot(epochs, [row["lr"] for row in rows], "o-", color=GREY, ms=3.5)
    rate.set(
        ylabel="learning rate",
        xlabel="epoch",
        ylim=(0, None),
        xlim=(epochs[0] - 0.5, epochs[-1] + 0.5),
    )
    rate.xaxis.set_major_locator(MaxNLocator(20, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    for axes in (loss, wrong, rate):
        bare(axes)
    for axes in (loss, wrong):  # the key stands above: it can't lie on a curve there
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


def confusion(result: Evaluation, title: str) -> Figure:
    """Counts: a row for each true class, a column for each prediction. `title` names the run and the split.

    A mistake's colour is its share of the true class: a handful of a thousand images is pale in any picture."""
    counts = result.confusion
    classes = len(counts)
    figure = Figure(figsize=(0.8 + 0.35 * classes, 1.15 + 0.35 * classes), layout="constrained")
    axes = figure.subplots()
    shares = counts.double() / counts.sum(1, keepdim=True).clamp(min=1)
    shares.fill_diagonal_(0)
    shown = shares.masked_fill(shares == 0, math.nan)  # a cell without mistakes stays white
    axes.imshow(shown.numpy(), cmap="YlOrBr", norm=PowerNorm(0.6, 0, DARKEST, clip=True))
    for true in range(classes):
        axes.add_patch(Rectangle((true - 0.5, true - 0.5), 1, 1, color="#e8eff7", lw=0))
        for read in range(classes):
            if count := int(counts[true, read]):
                colour = (
                    BLUE if true == read else "white" if shares[true, read] > 0.4 * DARKEST else INK
                )
                axes.text(
                    read, true, f"{count:,}", ha="center", va="center", fontsize=6.5, color=colour
                )
    axes.set_xlabel("predicted", fontsize=8, color=INK)
    axes.set_ylabel("true class", fontsize=8, color=INK)
    axes.set(xticks=range(classes), yticks=range(classes))
    axes.set_xticks([x - 0.5 for x in range(1, classes)], minor=True)
    axes.set_yticks([y - 0.5 for y in range(1, classes)], minor=True)
    axes.grid(which="minor", color=FAINT, lw=0.6)
    axes.tick_params(which="both", length=0, labelsize=8, labelcolor=INK)
    axes.spines[:].set_color(FAINT)
    low, high = result.interval
    figure.suptitle(
        f"{title}\n{percent(result.correct, result.total)}\n"
        f"95 % interval {100 * low:.2f} to {100 * high:.2f}",
        color=INK,
        fontsize=9,
    )
    return figure


def mistakes(result: Evaluation, pixels: torch.Tensor, title: str) -> Figure:
    """Every misread image, the most confident mistake first; `pixels` (n, 1, height, width) uint8.

    `title` names the run and the split."""
    wrong = result.mistakes
    drawn = wrong[:MAX_MISTAKES].tolist()
    columns = min(10, max(7, len(drawn)))
    rows = math.ceil(len(drawn) / columns)
    side, caption, gap, head, margin = 1.0, 0.3, 0.08, 0.85, 0.12  # inches
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
        f"The {MAX_MISTAKES} most confident mistakes"
        if len(drawn) < len(wrong)
        else "Every mistake"
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
        image = pixels[index, 0].cpu().numpy()
        axes.imshow(
            image,
            cmap="gray_r",
            vmin=0,
            vmax=255,
            extent=(x, x + side, y + side, y),
            aspect="auto",
            interpolation="nearest",
        )
        axes.add_patch(Rectangle((x, y), side, side, fill=False, ec=FAINT, lw=0.6))
        probabilities, guesses = result.probabilities[index].topk(2)
        first, second = (
            f"{guess}: {100 * p:.0f} %"
            for guess, p in zip(guesses.tolist(), probabilities.tolist(), strict=True)
        )
        axes.text(
            x,
            y + side + 0.03,
            f"no. {index:,}, true {int(result.labels[index])}",
            va="top",
            fontsize=7,
            color=INK,
        )
        axes.text(x, y + side + 0.16, f"{first}, {second}", va="top", fontsize=7, color=MUTED)
    axes.set(
        xlim=(0, figure.get_figwidth()), ylim=(figure.get_figheight(), 0)
    )  # imshow has moved them
    return figure


def _wrap(text: str, inches: float) -> list[str]:
    """The lines of a text in 10 points, each at most so wide."""
    for width in range(max(1, len(text)), 0, -1):
        lines = textwrap.wrap(text, width) or [""]
        if all(
            TextPath((0, 0), line, size=10).get_extents().x1 <= 72 * inches
            for line in lines
            if line
        ):
            break
    return lines


def verdict_picture(verdict: dict[str, Any], title: str = "") -> Figure:
    """A verdict, as `Verdict.to_dict()` gives it: PASS or FAIL, and what each clause required and found.

    `title` names what was judged. A clause whose `passed` is None was not judged."""
    clauses = verdict["clauses"]
    margin, head, width, leading = 0.3, 1.5, 9.0, 0.19  # inches
    columns = {
        "clause": (margin, 1.1),
        "required": (1.45, 3.45),
        "found": (5.05, 3.3),
    }  # where, and how wide
    cells = [
        [_wrap(clause[name], wide) for name, (_, wide) in columns.items()] for clause in clauses
    ]
    heights = [0.18 + leading * max(map(len, row)) for row in cells]
    figure, axes = _inches(width, head + sum(heights) + margin)
    word, colour = ("PASS", GREEN) if verdict["passed"] else ("FAIL", RED)
    axes.text(margin, 0.62, word, fontsize=44, weight="bold", va="center_baseline", color=colour)
    judged = [clause["passed"] for clause in clauses if clause["passed"] is not None]
    summary = f"{sum(judged)} of {len(judged)} clauses hold"
    if len(judged) < len(clauses):
        summary += f", {len(clauses) - len(judged)} not judged"
    axes.text(
        2.4,
        0.48,
        f"{title}{': ' if title else ''}contract {verdict['contract']}",
        fontsize=13,
        va="center",
        color=INK,
    )
    axes.text(2.4, 0.78, summary, fontsize=11, va="center", color=MUTED)
    for name, (x, _) in columns.items():
        axes.text(x, head - 0.12, name, fontsize=9, color=MUTED)
    y = head
    for clause, row, height in zip(clauses, cells, heights, strict=True):
        axes.plot((margin, width - margin), (y, y), color=FAINT, lw=0.8)
        sign, tint = {True: ("✓", GREEN), False: ("✗", RED), None: ("\N{EN DASH}", GREY)}[
            clause["passed"]
        ]
        for (x, _), lines in zip(columns.values(), row, strict=True):
            for i, line in enumerate(
                lines
            ):  # one by one: their baselines are then the same in all columns
                axes.text(x, y + 0.23 + leading * i, line, fontsize=10, color=INK)
        axes.text(width - margin, y + 0.24, sign, fontsize=14, ha="right", color=tint)
        y += height
    return figure


def report(run: Run, result: Evaluation, split: Split, verdict: dict[str, Any]) -> list[Path]:
    """Write the pictures and the card into the run folder; `result` is the audit's, over `split.val`."""
    name = f"{run.recipe.name}, seed {run.seed}"
    title = f"{name}, validation"
    pictures = {
        "curves.png": curves(run),
        "confusion.png": confusion(result, title),
        "mistakes.png": mistakes(result, split.val.pixels, title),
        "verdict.svg": verdict_picture(verdict, name),
    }
    written = [save_picture(figure, run.path / file) for file, figure in pictures.items()]
    write_atomic(run.path / "README.md", card(run, result, split, verdict).encode())
    return [*written, run.path / "README.md"]
