"""Draw accuracy against size or instructions: the rows of studies beside published results.

Example:
    published = read_published(Path("results/public.csv"), "n_params")
    rows = read_rows(Path("results/records.csv")) + read_rows(Path("results/peers.csv"))
    points = study_points(rows, "n_params", published) + published
    save_picture(frontier_picture(points, "parameters"), Path("frontier.svg"))
"""

import csv
import re
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, Rectangle
from matplotlib.text import Annotation
from matplotlib.ticker import FixedLocator, NullLocator

from ..contract import Contract
from ..errors import InputError
from ..report import BLUE, GREEN, INK, MUTED, bare, literally, log_ticks
from ..tables import Row
from .rows import train_size
from .summary import fraction, size_of, spread

WIDE = (9, 8.2)  # inches: size of the picture
# The picture over instructions is for a phone or a column: its texts are legible at 80 mm.
NARROW, NARROW_KEY = (4.6, 7.4), 54  # inches, and characters in a line of the key
MIN_ERROR = 1e-5  # drawn for an accuracy, or an end of an interval, of 100 % or more
MARKER = 7.0  # points: size of a marker
MIN_ARROW = 11.0  # points: smallest distance of markers that an arrow joins
HOLLOW = "white"  # inside the marker of a published result
GAP = 1.5  # points: smallest distance between a label and anything else
LABEL_SIZE = 9  # points: font size of the labels
# Candidate positions of a label: distance of its nearest edge from the marker, in points, ...
DISTANCES = (7, 9, 11, 13, 16, 19, 22, 26, 30, 40, 55, 75)
# ... and direction. The preferred ones stand first: right, then left.
DIRECTIONS = (
    (1, 0),
    (-1, 0),
    *((x, y) for x in (0, 1, -1, 0.5, -0.5, 0.75, -0.75) for y in (1, -1)),
)
LEADER_DISTANCE = 10  # points: labels farther away than this get a line to their marker
BEAM = 24  # partial placements that the beam search keeps
# Costs of a label's position, in points of distance. A label that touches something is worse than
# any distance; one that leaves the axes is the worst.
TOUCH_COST, OUTSIDE_COST = 1000.0, 10_000.0
AMBIGUITY_COST = 10  # per point by which another marker is too near to the label
CROSSING_COST = 30  # of a line to the marker that crosses something


@dataclass(frozen=True)
class Point:
    """One network in the picture: of this project, published, or published and trained again."""

    name: str
    "Recipe, or source of a published result: the label, but a re-run has none."
    size: int
    "Number of parameters, bytes, or instructions."
    accuracy: float
    "Accuracy as a fraction, on the images that `protocol` names; test images if it names none."
    ours: bool
    "Whether it is a network of this project; False for a published result and its re-run."
    protocol: str
    "How it was measured; points with the same protocol share a symbol and a line of the legend."
    interval: tuple[float, float] | None = None
    "95 % confidence interval of the mean over seeds, as fractions; None for a single run."
    recipe: str = ""
    "Recipe that trains the network of a published result; the re-run that it names, if any."
    rerun: bool = False
    "Whether a study trained the network of a published result."

    @property
    def error(self) -> float:
        """Return the error to draw, above 0."""
        return drawn_error(self.accuracy)


@dataclass(frozen=True)
class Bar:
    """An interval in the picture."""

    size: int
    low: float
    "Error at its lower accuracy."
    high: float
    "Error at its higher accuracy."
    colour: str


def drawn_error(accuracy: float) -> float:
    """Return the error of an accuracy for a logarithmic axis, above 0."""
    return max(1 - accuracy, MIN_ERROR)


def study_points(rows: list[Row], size: str, published: Sequence[Point] = ()) -> list[Point]:
    """Return one point for each recipe whose test images were read: the mean over its seeds.

    `size` is the column with the size: n_params in the table of a study, constants or
    instructions_m0 in that of `featherweight firmware`. Of seeds that differ in it the point has
    the mean. A recipe that one of `published` names is a re-run of it."""
    again = {point.recipe for point in published} - {""}
    own = [row for row in rows if row["recipe"] not in again]
    reruns = [row for row in rows if row["recipe"] in again]
    return _means(own, size, "ours", rerun=False) + _means(
        reruns, size, "the same network, trained here", rerun=True
    )


def instruction_points(rows: list[Row], size: str) -> list[Point]:
    """Return one point for each recipe in the rows of `featherweight firmware` that has `size`.

    `size` is a column of instructions, which is empty where they were not counted. The accuracy is
    that of the code whose instructions were counted: on the test images if they were read, and
    otherwise on the validation images, which the protocol then says."""
    counted = [row for row in rows if row[size]]
    tested = {row["recipe"] for row in counted if row["test_correct"]}
    rest = [row for row in counted if row["recipe"] not in tested]
    return study_points(counted, size) + _means(rest, size, "ours", rerun=False, part="val")


def _means(
    rows: list[Row], size: str, whose: str, rerun: bool, part: Literal["test", "val"] = "test"
) -> list[Point]:
    """Return the points of recipes with one protocol, which begins with `whose` they are."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row[f"{part}_correct"]:
            groups.setdefault(row["recipe"], []).append(row)
    means = {
        recipe: spread([fraction(row, part) for row in group]) for recipe, group in groups.items()
    }
    if not means:
        return []
    usual = Counter(mean.n for mean in means.values()).most_common(1)[0][0]
    others = ", ".join(f"{recipe}: {mean.n}" for recipe, mean in means.items() if mean.n != usual)
    of = f"mean of {usual} seeds" if usual > 1 else "one seed"
    of += f" ({others})" if others else ""
    of += ", its 95 % interval" if any(mean.n > 1 for mean in means.values()) else ""
    images = "test read once" if part == "test" else "validation images"
    protocol = f"{whose}: {of}; last epoch; 50,000 training images; {images}"
    return [
        Point(
            name=recipe,
            size=round(fmean(size_of(row, size) for row in groups[recipe])),
            accuracy=mean.mean,
            ours=not rerun,
            protocol=protocol,
            interval=mean.interval if mean.n > 1 else None,
            rerun=rerun,
        )
        for recipe, mean in means.items()
    ]


def check_one_size(rows: list[Row]) -> None:
    """Raise InputError if the tested runs of a recipe were trained on several numbers of images.

    A mean over them would say nothing."""
    found: dict[str, int] = {}
    for row in rows:
        if row["test_correct"] and (size := train_size(row)) != found.setdefault(
            row["recipe"], size
        ):
            raise InputError(
                f"{row['recipe']}: got runs of {found[row['recipe']]:,} and {size:,} training "
                "images, expected one number of them",
                hint="draw validation accuracy over training images with --by images",
            )


def read_published(file: Path, size: str) -> list[Point]:
    """Return published results from a CSV with the columns accuracy, protocol, source and `size`.

    A column `recipe` may name the recipe that trains the same network in a study. Columns `engine`
    and `model` are the label in place of the source. Rows in which `size` or the accuracy is empty
    are left out, because not every source states both. Raises InputError if a column is missing, or
    a value is no number or outside its range."""
    with file.open(newline="", encoding="utf-8-sig") as lines:
        try:
            points = [
                Point(
                    name=f"{row['engine']} {row['model']}" if "engine" in row else row["source"],
                    size=int(row[size]),
                    accuracy=float(row["accuracy"]),
                    ours=False,
                    protocol=row["protocol"],
                    recipe=row.get("recipe") or "",
                )
                for row in csv.DictReader(lines)
                if row[size] != "" and row["accuracy"] != ""
            ]
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            raise InputError(
                f"{file}: got {error!r}, expected columns {size}, accuracy, protocol and source"
            ) from error
    for point in points:
        named = isinstance(point.name, str) and isinstance(point.protocol, str)
        if not (named and 1 <= point.size <= 10**12 and 0 <= point.accuracy <= 1):
            raise InputError(
                f"{file}: {point.name!r:.60}: got {size} {point.size}, accuracy {point.accuracy}, "
                f"expected a {size} of at least 1 and a fraction"
            )
    return points


def pareto_front(points: list[Point]) -> list[Point]:
    """Return the points more accurate than all points of their size or smaller, smallest first."""
    best: list[Point] = []
    for point in sorted(points, key=lambda point: (point.size, -point.accuracy)):
        if not best or point.accuracy > best[-1].accuracy:
            best.append(point)
    return best


@literally
def frontier_picture(
    points: list[Point],
    by: Literal["parameters", "bytes", "instructions"],
    contract: Contract | None = None,
) -> Figure:
    """Draw accuracy against size or instructions; takes at least one point.

    A published result is hollow. If its network was trained again, an arrow points to that result,
    which is filled. Both axes are logarithmic, the vertical one in the error, so that accuracies
    near 100 % can be told apart. `contract` shades the sizes and accuracies that it allows. A
    contract limits parameters, so pass it only with `by="parameters"`."""
    points = sorted(points, key=lambda point: point.rerun)  # which have no labels
    narrow = by == "instructions"
    figure = Figure(figsize=NARROW if narrow else WIDE)
    figure.set_layout_engine("constrained", w_pad=0.12)  # inches: the last tick label sticks out
    axes = figure.subplots()
    _set_limits(axes, points)
    ours = [point for point in points if point.ours]
    front = [(point.size, point.error) for point in pareto_front(ours)]
    bars = [
        Bar(
            point.size,
            drawn_error(point.interval[0]),
            drawn_error(point.interval[1]),
            _colour(point),
        )
        for point in points
        if point.interval
    ]
    reruns = {point.name: point for point in points if point.rerun}
    pairs = [(point, reruns[point.recipe]) for point in points if point.recipe in reruns]
    _draw_points(axes, points)
    _draw_front(
        axes, front, "with as many instructions or fewer" if narrow else "of that size or smaller"
    )
    _draw_intervals(axes, bars)
    notes = [] if contract is None else _draw_contract(axes, contract)
    bitnet = any(point.name.startswith("BitNetMCU") for point in points)
    write_axes(axes, *_axis_texts(by, bitnet))
    if by == "instructions":
        axes.xaxis.set_major_formatter(lambda count, _: f"{count / 1e6:,g}")
    write_key(figure, sorted(axes.lines, key=_place_in_key), NARROW_KEY if narrow else None)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # the labels are placed for the axes as they are now
    lines = _draw_arrows(axes, pairs)
    centres = axes.transData.transform([(point.size, point.error) for point in points])
    named = [point for point in points if not point.rerun]
    if front:
        lines += pairwise(axes.transData.transform(front))
    place_labels(axes, named, centres, _obstacles(axes, centres, bars, lines, notes))
    return figure


def _colour(point: Point) -> str:
    return BLUE if point.ours else MUTED


def _place_in_key(line: Line2D) -> tuple[bool, bool]:
    """Return what sorts the key: this project's, then what was trained here, then the rest."""
    return line.get_color() != BLUE, line.get_markerfacecolor() == HOLLOW


def _set_limits(axes: Axes, points: list[Point]) -> None:
    errors = [
        drawn_error(accuracy)
        for point in points
        for accuracy in (point.accuracy, *(point.interval or ()))
    ]
    sizes = [point.size for point in points]
    axes.set(
        xscale="log",
        yscale="log",
        xlim=(0.6 * min(sizes), 1.4 * max(sizes)),
        ylim=(1.15 * max(errors), 0.85 * min(errors)),  # the smallest error is at the top
    )


def _draw_points(axes: Axes, points: list[Point]) -> None:
    """Draw the markers, with one symbol per protocol."""
    symbols = iter("osD^vPX*<>ph" * (1 + len(points) // 12))
    for protocol in dict.fromkeys(point.protocol for point in points):
        group = [point for point in points if point.protocol == protocol]
        first = group[0]
        axes.plot(
            [point.size for point in group],
            [point.error for point in group],
            "o" if first.rerun else next(symbols),  # trained as ours were
            ms=MARKER,
            color=_colour(first),
            mfc=_colour(first) if first.ours or first.rerun else HOLLOW,
            zorder=3,
            label=protocol,
        )


def _draw_front(axes: Axes, front: list[tuple[int, float]], size: str) -> None:
    if len(front) > 1:
        axes.plot(
            *zip(*front, strict=True),
            "-",
            color=BLUE,
            lw=1,
            alpha=0.6,
            zorder=2,
            label=f"ours: the best {size}",
        )


def _draw_intervals(axes: Axes, bars: list[Bar]) -> None:
    segments = [[(bar.size, bar.low), (bar.size, bar.high)] for bar in bars]
    colours = [bar.colour for bar in bars]
    axes.add_collection(LineCollection(segments, colors=colours, lw=2, zorder=3), autolim=False)


def _draw_arrows(
    axes: Axes, pairs: list[tuple[Point, Point]]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Draw an arrow from each published result to its re-run; return their ends in pixels.

    Markers that touch need none."""
    unit = axes.figure.dpi / 72
    lines = []
    for claimed, rerun in pairs:
        ends = [(claimed.size, claimed.error), (rerun.size, rerun.error)]
        start, end = axes.transData.transform(ends)
        if np.hypot(*(end - start)) > MIN_ARROW * unit:
            axes.add_patch(
                FancyArrowPatch(
                    *ends,
                    arrowstyle="-|>",
                    color=MUTED,
                    lw=1,
                    mutation_scale=MARKER,
                    shrinkA=MARKER / 2,
                    shrinkB=MARKER / 2,
                    zorder=2,
                )
            )
            lines.append((start, end))
    return lines


def _draw_contract(axes: Axes, contract: Contract) -> list[Annotation]:
    """Shade what the contract allows, if it is in the picture; return the text that says so.

    A contract without limits on parameters and accuracy shades nothing."""
    if contract.max_params is None or contract.min_val_accuracy is None:
        return []
    left, top = axes.get_xlim()[0], axes.get_ylim()[1]
    allowed = drawn_error(contract.min_val_accuracy)
    if allowed <= top:
        return []
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
    return [
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
    ]


def _obstacles(
    axes: Axes,
    centres: np.ndarray,
    bars: list[Bar],
    lines: Sequence[tuple[np.ndarray, np.ndarray]],
    notes: list[Annotation],
) -> np.ndarray:
    """Return what labels must not touch, as boxes (k, 4): left, bottom, right, top in pixels.

    `centres` (n, 2) are the markers' centres, `lines` the ends of lines, both in pixels."""
    unit = axes.figure.dpi / 72  # pixels per point
    half = (MARKER / 2 + GAP) * unit
    obstacles = [np.hstack([centres - half, centres + half])]
    for bar in bars:
        (x, y0), (_, y1) = axes.transData.transform([(bar.size, bar.low), (bar.size, bar.high)])
        obstacles.append(np.array([[x - 2 * unit, y0, x + 2 * unit, y1]]))
    for start, end in lines:
        steps = np.linspace(start, end, 100)  # 100 small boxes along the line
        obstacles.append(np.hstack([steps - unit, steps + unit]))
    # A long text may be some pixels wider at another resolution.
    obstacles += [np.array([note.get_window_extent().padded(4 * unit).extents]) for note in notes]
    return np.concatenate(obstacles)


def _axis_texts(by: str, against_bitnet: bool) -> tuple[str, str, str]:
    """Return the title, the line below it, and the label of the horizontal axis."""
    if by == "bytes":
        others = ", BitNetMCU its weights alone" if against_bitnet else ""
        return (
            "Accuracy over bytes in flash",
            f"ours counts every constant{others}",
            "bytes of constants in flash (log)",
        )
    if by == "instructions":
        return (
            "Accuracy over instructions",
            "one image on a Cortex-M0, counted in QEMU",
            "million instructions (log)",
        )
    return (
        "Accuracy over parameters",
        "on the test images, unless the key says otherwise",
        "parameters (log)",
    )


def write_axes(axes: Axes, title: str, detail: str, size: str) -> None:
    """Write a title, a line below it, and the labels and ticks of both logarithmic axes.

    `size` is the label of the horizontal axis. The vertical one is the error, shown as an accuracy.
    """
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
        # An error as an accuracy in per cent, without trailing zeros after the first decimal.
        lambda error, _: re.sub(r"(\.\d+?)0+$", r"\1", f"{100 * (1 - error):.3f}")
    )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
    bare(axes)


def write_key(figure: Figure, lines: Sequence[Line2D], width: int | None = None) -> None:
    """Write a legend of the lines below the axes, in lines of at most `width` characters."""
    labels = [str(line.get_label()) for line in lines]
    figure.legend(
        handles=lines,
        labels=[textwrap.fill(label, width) for label in labels] if width else labels,
        loc="outside lower left",
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        handlelength=1.6,
        labelspacing=0.45,
    )


def place_labels(
    axes: Axes, points: list[Point], centres: np.ndarray, obstacles: np.ndarray
) -> None:
    """Write every point's name beside its marker, where it touches nothing.

    `centres` (n, 2) are the centres of their markers and then of those without a name, and
    `obstacles` (k, 4) boxes left, bottom, right, top, both in pixels. A beam search places all
    labels together. It minimises the sum of their costs: for touching something, for being nearer
    to another marker, for a line to the marker that crosses something, and for distance. If there
    is no free position, labels touch as little as possible."""
    placer = _Placer(axes, centres, obstacles)
    names = [point.name.partition("/")[0] for point in points]  # a repository's owner
    positions = [placer.positions(i, name) for i, name in enumerate(names)]
    costs = [placer.costs(i, boxes) for i, boxes in enumerate(positions)]
    for i, k in sorted(placer.search(positions, costs).items()):
        point, colour = points[i], BLUE if points[i].ours else INK
        direction, distance = placer.directions[k], placer.distances[k]
        leader = {
            "arrowstyle": "-",
            "color": colour,
            "lw": 0.5,
            "alpha": 0.6,
            "shrinkA": 1,
            "shrinkB": MARKER / 2,
            "relpos": (1 - direction) / 2,
        }
        axes.annotate(
            names[i],
            (point.size, point.error),
            xytext=(positions[i][k, :2] - centres[i]) / placer.unit,
            textcoords="offset points",
            ha="left",
            va="bottom",
            fontsize=LABEL_SIZE,
            color=colour,
            ma="right" if direction[0] < 0 else "left" if direction[0] > 0 else "center",
            arrowprops=leader if distance > LEADER_DISTANCE else None,
        )


class _Placer:
    """Candidate positions of labels, and their costs. All boxes are (..., 4) in pixels."""

    def __init__(self, axes: Axes, centres: np.ndarray, obstacles: np.ndarray) -> None:
        self.axes, self.centres, self.obstacles = axes, centres, obstacles
        self.unit = axes.figure.dpi / 72  # pixels per point
        self.inside = axes.bbox.extents + np.array([1, 1, -1, -1]) * GAP * self.unit
        # A position is a distance and a direction.
        self.distances = np.repeat(DISTANCES, len(DIRECTIONS))  # (positions,) in points
        self.directions = np.tile(DIRECTIONS, (len(DISTANCES), 1))  # (positions, 2)
        lengths = np.hypot(*self.directions.T)
        shifts = self.distances[:, None] * self.unit * self.directions / lengths[:, None]
        self.shifts = shifts  # (positions, 2) in pixels: from the marker to the label's edge

    def positions(self, i: int, name: str) -> np.ndarray:
        """Return the boxes (positions, 4) that label i may take."""
        text = self.axes.text(0, 0, name, fontsize=LABEL_SIZE)
        size = np.array(text.get_window_extent().size)
        text.remove()
        corners = self.centres[i] + self.shifts - size * (1 - self.directions) / 2
        return np.hstack([corners, corners + size])

    def touching(self, boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Return which boxes (n, 4) touch which others (k, 4), as (n, k) booleans."""
        a, b, gap = boxes[:, None], others[None], GAP * self.unit
        apart = (a[..., :2] - gap >= b[..., 2:]) | (a[..., 2:] + gap <= b[..., :2])
        return ~np.asarray(apart.any(-1))

    def costs(self, i: int, boxes: np.ndarray) -> np.ndarray:
        """Return the costs (positions,) of label i before any other label is placed."""
        outside = (boxes[:, :2] < self.inside[:2]).any(1) | (boxes[:, 2:] > self.inside[2:]).any(1)
        # Distances from each box to each marker's centre: (positions, n) in pixels.
        a, b = boxes[:, None], self.centres[None]
        offsets = np.maximum(0, np.maximum(a[..., :2] - b, b - a[..., 2:]))
        gaps = np.hypot(*np.moveaxis(offsets, -1, 0))
        # Its own marker should be nearer than any other by at least a marker's size, in points.
        others = np.delete(gaps, i, 1).min(1, initial=np.inf)
        ambiguity = ((gaps[:, i] - others) / self.unit + MARKER).clip(0)
        crossing = np.zeros(len(boxes), bool)
        for t in np.arange(0.3, 1, 0.1):  # positions along the line to the marker
            spots = self.centres[i] + t * self.shifts
            crossing |= self.touching(np.hstack([spots, spots]), self.obstacles).any(1)
        has_leader = self.distances > LEADER_DISTANCE
        touched = self.touching(boxes, self.obstacles).sum(1)
        return np.asarray(
            OUTSIDE_COST * outside
            + TOUCH_COST * touched
            + AMBIGUITY_COST * ambiguity
            + CROSSING_COST * (crossing & has_leader)
            + self.distances
        )

    def search(self, positions: list[np.ndarray], costs: list[np.ndarray]) -> dict[int, int]:
        """Return a position for each label, by a beam search over all labels."""
        beam: list[tuple[float, dict[int, int]]] = [(0.0, {})]  # cost so far, position by label
        # Labels with the fewest free positions are placed first.
        order = sorted(range(len(costs)), key=lambda i: (costs[i] < TOUCH_COST).sum())
        for i in order:
            extended = []
            for cost, chosen in beam:
                total = cost + costs[i]
                if chosen:
                    placed = np.array([positions[j][k] for j, k in chosen.items()])
                    total = total + TOUCH_COST * self.touching(positions[i], placed).sum(1)
                extended += [
                    (float(total[k]), chosen | {i: int(k)})
                    for k in total.argsort(kind="stable")[:BEAM]
                ]
            beam = sorted(extended, key=lambda state: state[0])[:BEAM]
        return beam[0][1]
