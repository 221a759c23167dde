"""The pictures and the model card of a run.

    report(run, result, split, verdict.to_dict())    # curves.png, confusion.png, mistakes.png, README.md
"""

import io
import json
import math
from pathlib import Path
from typing import Any

import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from .data import Split
from .evaluate import Evaluation, percent
from .run import Run, write_atomic

MOST_MISTAKES = 400  # pictures on one page; past that only the most confident are drawn
INK, MUTED, FAINT = "#222222", "#666666", "#dddddd"
BLUE, GREEN, RED, GREY = "#1f5fa8", "#1a7f37", "#c0392b", "#888888"


def save_picture(figure: Figure, path: Path) -> Path:
    """As .svg or .png; the same figure gives the same bytes."""
    if path.suffix not in (".svg", ".png"):
        raise ValueError(f"{path}: expected a name that ends in .svg or .png")
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


def log_ticks(low: float, high: float, series: tuple[tuple[float, ...], ...] = (
        (1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 5), (1,)), most: int = 12) -> list[float]:
    """Round numbers between two positive ends: of the first series, each within a decade, with at most `most`."""
    ticks: list[float] = []
    for steps in series:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [tick for k in decades for step in steps if low <= (tick := float(f"{step}e{k}")) <= high]
        if len(ticks) <= most:
            break
    return ticks


def curves(run: Run) -> Figure:
    """Loss, wrong validation images and learning rate an epoch."""
    rows = run.read_metrics()
    epochs = [row["epoch"] for row in rows]
    figure = Figure(figsize=(8, 7.5), layout="constrained")
    loss, wrong, rate = figure.subplots(3, 1, sharex=True, height_ratios=[3, 3, 1.2])
    loss.plot(epochs, [row["train_loss"] for row in rows], "o-", color=GREY, ms=3.5, label="training (augmented)")
    loss.plot(epochs, [row["val_loss"] for row in rows], "o-", color=BLUE, ms=3.5, label="validation")
    loss.set(yscale="log", ylabel="loss, nats")
    loss.legend(frameon=False)
    errors = [row["val_total"] - row["val_correct"] for row in rows]
    wrong.plot(epochs, errors, "o-", color=BLUE, ms=3.5)
    allowed = (1 - run.contract.min_val_accuracy) * rows[-1]["val_total"]
    wrong.axhline(allowed, color=RED, ls="--", lw=1)
    wrong.annotate(f"{run.contract.name}: {100 * run.contract.min_val_accuracy:.2f} %", (epochs[0], allowed),
                   xytext=(0, 4), textcoords="offset points", color=RED, fontsize=9)
    wrong.annotate(str(errors[-1]), (epochs[-1], errors[-1]), xytext=(8, -3), textcoords="offset points",
                   color=BLUE, fontsize=9)
    wrong.set(ylabel=f"wrong of {rows[-1]['val_total']:,}", yscale="log" if min(errors) > 0 else "linear")
    wrong.yaxis.set_major_formatter("{x:,.0f}")
    wrong.yaxis.set_minor_formatter("")
    rate.plot(epochs, [row["lr"] for row in rows], "o-", color=GREY, ms=3.5)
    rate.set(ylabel="lr at end", xlabel="epoch", ylim=(0, None))
    rate.xaxis.get_major_locator().set_params(integer=True)
    for axes in (loss, wrong, rate):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{run.recipe.name}, seed {run.seed}", color=INK)
    return figure


def confusion(result: Evaluation) -> Figure:
    """Counts: a row a true class, a column a predicted one; mistakes are red, the darker the more."""
    counts = result.confusion
    classes = len(counts)
    figure = Figure(figsize=(2.2 + 0.62 * classes, 2.0 + 0.62 * classes), layout="constrained")
    axes = figure.subplots()
    mistakes = counts.double()
    mistakes.fill_diagonal_(0)
    shown = mistakes.masked_fill(mistakes == 0, math.nan)  # an empty cell stays white
    axes.imshow(shown.numpy(), cmap="Reds", norm=LogNorm(0.5, max(2.0, float(mistakes.max()))))
    for true in range(classes):
        for read in range(classes):
            if count := int(counts[true, read]):
                dark = true != read and count > 0.35 * float(mistakes.max())
                axes.text(read, true, f"{count:,}", ha="center", va="center", fontsize=9,
                          color="white" if dark else BLUE if true == read else INK)
    axes.set(xlabel="read as", ylabel="true class", xticks=range(classes), yticks=range(classes))
    axes.set_xticks([x - 0.5 for x in range(1, classes)], minor=True)
    axes.set_yticks([y - 0.5 for y in range(1, classes)], minor=True)
    axes.grid(which="minor", color="#e5e5e5", lw=0.8)
    axes.tick_params(which="both", length=0)
    low, high = result.interval
    figure.suptitle(f"{percent(result.correct, result.total)}\n95 % interval {100 * low:.2f} to {100 * high:.2f}",
                    color=INK)
    return figure


def mistakes(result: Evaluation, pixels: torch.Tensor) -> Figure:
    """Every image read wrong, the most confident mistake first; `pixels` (n, 1, height, width)."""
    wrong = result.mistakes
    drawn = wrong[:MOST_MISTAKES]
    title = percent(result.correct, result.total)
    if len(drawn) < len(wrong):
        title += f": the {MOST_MISTAKES} most confident mistakes"
    columns = min(10, max(4, len(drawn)))
    rows = max(1, math.ceil(len(drawn) / columns))
    figure = Figure(figsize=(1.15 * columns, 0.7 + 1.5 * rows), layout="constrained")
    figure.suptitle(title, color=INK)
    if not len(drawn):
        figure.text(0.5, 0.4, "no mistakes", ha="center", color=GREY, fontsize=14)
    cells = figure.subplots(rows, columns, squeeze=False).flat
    for i, axes in enumerate(cells):
        axes.axis("off")
        if i < len(drawn):
            index = int(drawn[i])
            read = int(result.predicted[index])
            axes.imshow(pixels[index, 0].cpu().numpy(), cmap="gray_r", vmin=0, vmax=255)
            axes.set_title(f"true {int(result.labels[index])}, read {read}\n"
                           f"{100 * float(result.probabilities[index, read]):.0f} %, no. {index}", fontsize=7)
    return figure


def card(run: Run, result: Evaluation, split: Split, verdict: dict[str, Any]) -> str:
    """The model card, Markdown: what it is, how it was made, what it reads, how to judge it again."""
    environment = json.loads((run.path / "environment.json").read_text())
    rows = run.read_metrics()
    low, high = result.interval
    clauses = "\n".join(f"| {c['clause']} | {c['required']} | {c['found']} | {c['how']} | "
                        f"{'pass' if c['passed'] else '**FAIL**'} |" for c in verdict["clauses"])
    height, width = split.shape[1:]
    data = "MNIST (embedded)" if split.source is None else Path(split.source).name
    where = environment["gpu"] or f"{environment['cpu']}, {environment['threads']} threads"
    return f"""# {run.recipe.name}, seed {run.seed}

Contract `{verdict['contract']}`: **{'PASS' if verdict['passed'] else 'FAIL'}**.
Validation: **{percent(result.correct, result.total)}**,
95 % interval {100 * low:.2f} to {100 * high:.2f} (Wilson),
expected calibration error {100 * result.calibration_error:.2f} %.

| clause | required | found | how | verdict |
|---|---|---|---|---|
{clauses}

Judge it again: `featherweight audit {run.path.name}`.

## Made from
- network: `{run.recipe.model}` {json.dumps(run.recipe.model_args)}
- data: {data}, {len(split.train):,} images trained on, {len(split.val):,} to validate,
  {width}x{height} grey pixels, {split.num_classes} classes;
  normalised by mean {split.mean_std[0]:.4f} and deviation {split.mean_std[1]:.4f}
- training: {run.recipe.epochs} epochs, {sum(row['seconds'] for row in rows):.0f} s on {where};
  torch {environment['torch']}, commit {environment['commit'] or 'unknown'}
- the weights are the last epoch's{' (moving average)' if run.recipe.ema else ''}; the test images were not read

## Use
Input: one grey image, light ink on black, centred as the training images are. It answers with one of its
classes for any image at all, also where there is none to be seen; photographs need preparing first.

![loss and mistakes an epoch](curves.png)
![confusion matrix](confusion.png)
![every mistake](mistakes.png)
"""


def report(run: Run, result: Evaluation, split: Split, verdict: dict[str, Any]) -> list[Path]:
    """Write the pictures and the card into the run folder; `result` is the audit's, over `split.val`."""
    written = [save_picture(curves(run), run.path / "curves.png"),
               save_picture(confusion(result), run.path / "confusion.png"),
               save_picture(mistakes(result, split.val.pixels), run.path / "mistakes.png")]
    write_atomic(run.path / "README.md", card(run, result, split, verdict).encode())
    return [*written, run.path / "README.md"]
