"""Test accuracy over the size of a network: our studies beside published results, in one picture.

marks = study_marks(read_table(Path("results/records.csv")), "n_params")
marks += read_marks(Path("results/public.csv"), "n_params")
save_picture(frontier_picture(marks, "parameters"), Path("frontier.svg"))
"""

import csv
import re
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, NullLocator

from ..contract import Contract
from ..errors import InputError
from ..report import BLUE, GREEN, INK, MUTED, bare, log_ticks
from .study import Row, spread

LEAST_ERROR = 1e-5  # what is drawn for an accuracy, or an end of an interval, of 100 % or more
MARKER, GAP = (
    7.0,
    1.5,
)  # points: a marker's side, and the least distance between a label and anything else
# Where a label may stand: the distance of its nearest edge from the marker's centre, in points, and the direction.
DISTANCES = (7, 9, 11, 13, 16, 19, 22, 26, 30, 40, 55, 75)
DIRECTIONS = (
    (1, 0),
    (-1, 0),
    *((x, y) for x in (0, 1, -1, 0.5, -0.5, 0.75, -0.75) for y in (1, -1)),
)
NEAR = 16  # points from which on a line leads from a label to its mark
TOUCHING, BEAM = (
    1000.0,
    24,
)  # cost of a label that touches something, in points of distance; states of the search


@dataclass(frozen=True)
class Mark:
    """One point of the picture; accuracies are fractions."""

    name: str
    size: int
    "Parameters, or bytes."
    accuracy: float
    ours: bool
    "Whether it was measured here; False for a published result."
    protocol: str
    "How it was measured; marks of one protocol share a symbol and a line of the key."
    interval: tuple[float, float] | None = None
    "95 % interval of the mean over seeds; None for a single figure."


def study_marks(rows: list[Row], size: str) -> list[Mark]:
    """One mark for each recipe whose test images were read: the mean over its seeds. `size` is the rows' column."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row["test_correct"]:
            groups.setdefault(row["recipe"], []).append(row)
    means = {
        recipe: spread([int(row["test_correct"]) / int(row["test_total"]) for row in group])
        for recipe, group in groups.items()
    }
    if not means:
        return []
    usual = Counter(mean.n for mean in means.values()).most_common(1)[0][0]
    others = ", ".join(f"{recipe}: {mean.n}" for recipe, mean in means.items() if mean.n != usual)
    seeds = f"{usual} {'seed' if usual == 1 else 'seeds'}" + (f" ({others})" if others else "")
    protocol = f"ours: mean of {seeds}, its 95 % interval; last epoch; 50,000 training images; test read once"
    return [
        Mark(
            recipe,
            int(groups[recipe][0][size]),
            mean.mean,
            True,
            protocol,
            mean.interval if mean.n > 1 else None,
        )
        for recipe, mean in means.items()
    ]


def read_marks(file: Path, size: str) -> list[Mark]:
    """Published results, from a CSV with the columns accuracy, protocol, source and `size`. Raises ValueError
    where one of them is missing or is no number."""
    with file.open(newline="", encoding="utf-8") as lines:
        try:
            return [
                Mark(row["source"], int(row[size]), float(row["accuracy"]), False, row["protocol"])
                for row in csv.DictReader(lines)
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{file}: got {error!r}, expected columns {size}, accuracy, protocol and source"
            ) from error


def _error(accuracy: float) -> float:
    return max(1 - accuracy, LEAST_ERROR)


def undominated(marks: list[Mark]) -> list[Mark]:
    """The marks that are more accurate than every mark of at most their size, the smallest first."""
    best: list[Mark] = []
    for mark in sorted(marks, key=lambda mark: (mark.size, -mark.accuracy)):
        if not best or mark.accuracy > best[-1].accuracy:
            best.append(mark)
    return best


def frontier_picture(
    marks: list[Mark], by: Literal["parameters", "bytes"], contract: Contract | None = None
) -> Figure:
    """Accuracy over size, both on logarithmic axes: the error's logarithm, so that the top has room.

    Takes at least one mark. `contract` shades the sizes and accuracies that it allows; it limits parameters, so it
    goes with those alone."""
    figure = Figure(figsize=(9, 7.2))
    figure.set_layout_engine("constrained", w_pad=0.12)  # inches: the last tick label sticks out
    axes = figure.subplots()
    ours = [mark for mark in marks if mark.ours]
    errors = [_error(a) for mark in marks for a in (mark.accuracy, *(mark.interval or ()))]
    sizes = [mark.size for mark in marks]
    left, right, bottom, top = (
        0.6 * min(sizes),
        1.4 * max(sizes),
        1.15 * max(errors),
        0.85 * min(errors),
    )
    axes.set(xscale="log", yscale="log", xlim=(left, right), ylim=(bottom, top))
    line = [(mark.size, _error(mark.accuracy)) for mark in undominated(ours)]
    symbols = iter("osD^vPX*<>ph" * (1 + len(marks) // 12))
    for protocol in dict.fromkeys(mark.protocol for mark in marks):
        group = [mark for mark in marks if mark.protocol == protocol]
        colour = BLUE if group[0].ours else MUTED
        axes.plot(
            [mark.size for mark in group],
            [_error(mark.accuracy) for mark in group],
            next(symbols),
            ms=MARKER,
            color=colour,
            mfc=colour if group[0].ours else "white",
            zorder=3,
            label=protocol,
        )
    if len(line) > 1:
        axes.plot(
            *zip(*line, strict=True),
            "-",
            color=BLUE,
            lw=1,
            alpha=0.6,
            zorder=2,
            label="ours: the best of that size or smaller",
        )
    bars = [
        (mark.size, _error(mark.interval[0]), _error(mark.interval[1]))
        for mark in ours
        if mark.interval
    ]
    axes.add_collection(
        LineCollection(
            [[(size, low), (size, high)] for size, low, high in bars], color=BLUE, lw=2, zorder=3
        ),
        autolim=False,
    )
    reserved = []
    if contract is not None and (allowed := _error(contract.min_val_accuracy)) > top:
        axes.add_patch(
            Rectangle(
                (left, allowed),
                contract.max_params - left,
                top - allowed,
                color=GREEN,
                alpha=0.08,
                lw=0,
                zorder=0,
            )
        )
        reserved.append(
            axes.annotate(
                f"{contract.name}: fewer than {contract.max_params:,} parameters, "
                f"{100 * contract.min_val_accuracy:.1f} % or more",
                (0, 1),
                xytext=(7, -7),
                xycoords="axes fraction",
                textcoords="offset points",
                va="top",
                fontsize=9,
                color=GREEN,
            )
        )
    _write_axes(axes, by, any(mark.name.startswith("BitNetMCU") for mark in marks))
    figure.legend(
        handles=sorted(axes.lines, key=lambda line: line.get_color() != BLUE),
        loc="outside lower left",
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        handlelength=1.6,
        labelspacing=0.45,
    )
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # the labels are placed for the axes as they stand now

    points = axes.transData.transform([(mark.size, _error(mark.accuracy)) for mark in marks])
    unit = figure.dpi / 72
    half = (MARKER / 2 + GAP) * unit
    obstacles = [np.hstack([points - half, points + half])]
    for size, low, high in bars:
        (x, y0), (_, y1) = axes.transData.transform([(size, low), (size, high)])
        obstacles.append(np.array([[x - 2 * unit, y0, x + 2 * unit, y1]]))
    if len(line) > 1:
        corners = axes.transData.transform(line)
        steps = np.concatenate([np.linspace(a, b, 100) for a, b in pairwise(corners)])
        obstacles.append(np.hstack([steps - unit, steps + unit]))
    obstacles += [np.array([text.get_window_extent().extents]) for text in reserved]
    place_labels(axes, marks, points, np.concatenate(obstacles))
    return figure


def _write_axes(axes: Axes, by: str, against_bitnet: bool) -> None:
    """Titles, axis labels and ticks."""
    if by == "bytes":
        title, size = "Accuracy over bytes in flash", "bytes of constants in flash (log)"
        detail = "ours counts every constant" + (
            ", BitNetMCU its weights alone" if against_bitnet else ""
        )
    else:
        title, size = "Accuracy over parameters", "parameters (log)"
        detail = "on the test images, unless the key says otherwise"
    axes.set_title(title, loc="left", fontsize=13, color=INK, pad=24)
    axes.annotate(
        detail,
        (0, 1),
        xytext=(0, 8),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=10,
        color=MUTED,
    )
    axes.set(xlabel=size, ylabel="accuracy, % (logarithmic in the error)")
    axes.xaxis.set_major_locator(FixedLocator(log_ticks(*axes.get_xlim(), ((1, 2, 5), (1,)))))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_locator(FixedLocator(log_ticks(*axes.get_ylim()[::-1])))
    axes.yaxis.set_major_formatter(
        lambda wrong, _: re.sub(r"(\.\d+?)0+$", r"\1", f"{100 * (1 - wrong):.3f}")
    )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
    bare(axes)


def place_labels(axes: Axes, marks: list[Mark], points: np.ndarray, obstacles: np.ndarray) -> None:
    """Write every mark's name near to it, where it touches nothing and can't be taken for another mark's.

    `points` (n, 2) are the marks and `obstacles` (k, 4) boxes left, bottom, right, top, in pixels. The place of all
    labels together is found by a beam search that minimises a sum of costs: touching, being mistakable, a line to
    the mark that crosses something, and distance. So where no place is free, as little as possible is touched."""
    unit = axes.figure.dpi / 72
    inside = axes.bbox.extents + np.array([1, 1, -1, -1]) * GAP * unit
    away = np.repeat(DISTANCES, len(DIRECTIONS))  # (places,) in points
    ways = np.tile(DIRECTIONS, (len(DISTANCES), 1))  # (places, 2)
    shifts = away[:, None] * unit * ways / np.hypot(*ways.T)[:, None]  # (places, 2) in pixels

    def boxes(i: int) -> np.ndarray:
        """Where label i may stand, (places, 4)."""
        text = axes.text(0, 0, names[i], fontsize=9)
        size = np.array(text.get_window_extent().size)
        text.remove()
        corners = points[i] + shifts - size * (1 - ways) / 2
        return np.hstack([corners, corners + size])

    def touched(boxes: np.ndarray, against: np.ndarray) -> np.ndarray:
        """(n, 4), (k, 4) -> (n, k): which of two boxes touch."""
        a, b = boxes[:, None], against[None]
        apart = (a[..., :2] - GAP * unit >= b[..., 2:]) | (a[..., 2:] + GAP * unit <= b[..., :2])
        return ~np.asarray(apart.any(-1))

    def costs(i: int, boxes: np.ndarray) -> np.ndarray:
        """Of the places of label i before any other label stands, (places,)."""
        outside = (boxes[:, :2] < inside[:2]).any(1) | (boxes[:, 2:] > inside[2:]).any(1)
        a, b = boxes[:, None], points[None]
        gaps = np.hypot(
            *np.moveaxis(np.maximum(0, np.maximum(a[..., :2] - b, b - a[..., 2:])), -1, 0)
        )
        # How much nearer its own mark would have to be, in points, to be clearly the nearest.
        mistakable = (gaps[:, i] - np.delete(gaps, i, 1).min(1, initial=np.inf)) / unit + MARKER
        crossed = np.zeros(len(boxes), bool)
        for t in np.arange(0.3, 1, 0.1):  # along the line to the mark
            spots = points[i] + t * shifts
            crossed |= touched(np.hstack([spots, spots]), obstacles).any(1)
        bad = 10 * outside + touched(boxes, obstacles).sum(1)
        return np.asarray(
            TOUCHING * bad + 10 * mistakable.clip(0) + 30 * (crossed & (away > NEAR)) + away
        )

    # A long name of a repository stands on two lines.
    names = [mark.name.replace("/", "/\n") if len(mark.name) > 24 else mark.name for mark in marks]
    places = [boxes(i) for i in range(len(marks))]
    alone = [costs(i, places[i]) for i in range(len(marks))]
    beam: list[tuple[float, dict[int, int]]] = [(0.0, {})]
    for i in sorted(
        range(len(marks)), key=lambda i: (alone[i] < TOUCHING).sum()
    ):  # the most constrained first
        grown = []
        for total, chosen in beam:
            found = total + alone[i]
            if chosen:
                standing = np.array([places[j][k] for j, k in chosen.items()])
                found = found + TOUCHING * touched(places[i], standing).sum(1)
            grown += [
                (float(found[k]), chosen | {i: int(k)}) for k in found.argsort(kind="stable")[:BEAM]
            ]
        beam = sorted(grown, key=lambda state: state[0])[:BEAM]
    for i, k in sorted(beam[0][1].items()):
        mark, colour = marks[i], BLUE if marks[i].ours else INK
        line = {
            "arrowstyle": "-",
            "color": colour,
            "lw": 0.5,
            "alpha": 0.6,
            "shrinkA": 1,
            "shrinkB": MARKER / 2,
            "relpos": (1 - ways[k]) / 2,
        }
        axes.annotate(
            names[i],
            (mark.size, _error(mark.accuracy)),
            xytext=(places[i][k, :2] - points[i]) / unit,
            textcoords="offset points",
            ha="left",
            va="bottom",
            fontsize=9,
            color=colour,
            ma="right" if ways[k, 0] < 0 else "left" if ways[k, 0] > 0 else "center",
            arrowprops=line if away[k] > NEAR else None,
        )
