"""Prepare a grey picture for a network of MNIST in integers, as the exported `prepare.c` does.

    image = prepare_integers(grey)       # (height, width) uint8 -> (28, 28) uint8; None without ink

This is the definition of `digit_prepare` in C, which gives the same images to the bit. It follows
what `inference.prepare` does as far as 2 kB of code allow:

1. The paper's grey level in 32x32 blocks, by closing (Serra 1982), for ink that is darker than the
   paper and for ink that is lighter. The polarity is the one with the more even paper.
2. The strength of each pixel, from 0 (paper) to 255, relative to the paper's level.
3. From a histogram of the strengths, the paper's roughness and noise, and the strength of full ink.
4. Connected components. Specks are left out, and what touches the border beside a digit inside.
5. If what is left touches the border or fills the picture, the strengths are opened by a square
   and looked at again. This removes lines, as of ruled paper and boxes, and edges of shadows. If
   all that is found is a page on a table, or nothing, the other polarity is tried.
6. The box around the digit is scaled to 20 pixels by averaging 8x8 samples a pixel, and the centre
   of mass is put in the middle of pixel (14, 14), as in MNIST (LeCun et al. 1998). The samples of
   thin strokes are farther apart, which widens them.

Divisions are of non-negative integers, except in step 6, where they round towards 0.
"""

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from string import Template

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..layout import FIT, SIDE

Bytes = NDArray[np.uint8]
Integers = NDArray[np.int64]

MAX_SIDE = 320  # pixels along each side of a picture
BLOCKS = 32  # blocks along each side; prepare.c has shifts for it
SAMPLES = 4  # along each side of a block: their mean is its level
SMALL = 24  # pixels; the noise of smaller pictures is not measured, most of them may be soft edges
TRIES = (0, 1, 2, 3, 0)  # sides of the square that opens strengths, in 1/80 of the longer side
MIN_STRENGTH = 10  # of ink; 10 grey levels on white paper
NOISE = 6  # the same in multiples of the noise, which is 2/3 of its standard deviation
MAX_PARTS = 31  # components that are known at a time
SPECK = 12  # pixels; of fewer, a component that has ended may be forgotten
PAGE = 2  # fifths of the picture: what is larger and inside is a page on a table
MIN_SIDE = 5  # pixels of a digit
STROKE = 36  # sixteenths of an image's pixel: thinner strokes are widened
# Bytes that the compiled prepare.c takes on a Cortex-M0, at most.
CODE, RAM, STACK = 2048, 2800, 300


@dataclass
class Part:
    """A connected component. One of no pixels is free."""

    area: int = 0
    x: int = 0
    y: int = 0
    edges: int = 0
    left: int = 0
    top: int = 0
    right: int = 0
    bottom: int = 0

    def unite(self, other: "Part") -> None:
        """Add another component.

        `x`, `y` and `edges` are sums over the pixels, of columns, rows and left and upper edges.
        """
        self.area += other.area
        self.x += other.x
        self.y += other.y
        self.edges += other.edges
        self.left, self.right = min(self.left, other.left), max(self.right, other.right)
        self.top, self.bottom = min(self.top, other.top), max(self.bottom, other.bottom)


@dataclass(frozen=True)
class Levels:
    """What a histogram of strengths says."""

    rest: int
    "The strength of rough paper, which is darker than its lightest grain."
    low: int
    "Where a soft edge begins, beyond the rest."
    full: int
    "Full ink, beyond `rest` and twice `low`."


def _filter(levels: Integers, reach: int, axis: int, sign: int) -> Integers:
    """Return the maximum (sign 1) or minimum (-1) of blocks at most `reach` away along an axis."""
    lines = np.moveaxis(sign * levels, axis, 0)
    found = [lines[max(i - reach, 0) : i + reach + 1].max(0) for i in range(BLOCKS)]
    return sign * np.moveaxis(np.array(found), 0, axis)


def _estimate_paper(q: Integers) -> tuple[Integers, int]:
    """Return the paper's level in each block (32, 32), and how much speaks against the polarity.

    That is how much the level changes from block to block, and how much darker the first row is.
    """
    height, width = q.shape
    at = np.arange(SAMPLES * BLOCKS)
    samples = q[at * height // len(at)][:, at * width // len(at)]
    levels = samples.reshape(BLOCKS, SAMPLES, BLOCKS, SAMPLES).sum((1, 3)) // SAMPLES**2
    paper = levels
    for sign in (1, -1):  # what is narrower than about a third of the longer side is no paper
        for axis, side in ((1, width), (0, height)):
            paper = _filter(paper, max(q.shape) * 5 // side, axis, sign)
    changes = int(np.abs(np.diff(paper.ravel())).sum())
    return paper, 4 * changes + int((paper - levels)[0].sum())


def _open(strength: Integers, side: int) -> Integers:
    """Keep pixels that are a corner of a square, `side` pixels apart, of which all four are ink."""
    height, width = strength.shape
    padded = np.pad(strength, side)
    steps = (0, side, 2 * side)
    at = [[padded[y : y + height, x : x + width] for x in steps] for y in steps]
    squares = [
        np.min([at[y][x], at[y + 1][x], at[y][x + 1], at[y + 1][x + 1]], 0)
        for y in (0, 1)
        for x in (0, 1)
    ]
    opened: Integers = np.max(squares, 0)
    return opened


def _quantile(counts: list[int], rank: int) -> int:
    """Return the level of the pixel of a rank, from 0, if pixels were sorted by their level."""
    level = 0
    while rank >= counts[level]:
        rank -= counts[level]
        level += 1
    return level


def _measure_levels(strength: Integers, plain: bool) -> Levels | None:
    """Return the levels of a picture's strengths; None without ink."""
    counts = np.bincount(strength.ravel(), minlength=256).tolist()
    n, rest, least = strength.size, 0, MIN_STRENGTH
    if not plain:
        # The paper is what has less than half of the strength of the strongest pixels.
        top = _quantile(counts, n - (n >> 14) - 1)
        weak = sum(counts[: (top >> 1) + 1])
        rest = _quantile(counts, weak >> 1)
        least = max(NOISE * (_quantile(counts, weak * 3 >> 2) - rest), least)
    mass = square = 0
    for level in range(least + 1, 256 - rest):
        product = counts[level + rest] * level >> 3  # so that the sums fit 32 bits
        mass += product
        square += product * level
    peak = square // (mass + 1)  # a mean that strong pixels decide
    low = max(peak >> 3, least)
    return Levels(rest, low, peak - 2 * low) if peak > 2 * low else None


def _find_parts(inked: NDArray[np.bool_]) -> list[Part]:
    """Return the 8-connected components of a mask (height, width).

    Where there are too many at a time, the pixels of those that come last are no ink.
    """
    height, width = inked.shape
    parts = [Part() for _ in range(MAX_PARTS + 1)]  # the first one is not used
    above = [0] * (width + 2)  # of each pixel the number of its component, with a margin
    for y in range(height):
        now = [0] * (width + 2)
        for x in np.flatnonzero(inked[y]).tolist():
            label = 0
            for row, at in ((now, x), (above, x), (above, x + 1), (above, x + 2)):
                other = row[at]
                label = label or other
                if other not in (0, label):
                    parts[label].unite(parts[other])
                    parts[other].area = 0
                    above[:] = [label if each == other else each for each in above]
                    now[:] = [label if each == other else each for each in now]
            edges = (not now[x]) + (not above[x + 1])
            pixel = Part(1, x, y, edges, x, y, x, y)
            if label:
                parts[label].unite(pixel)
            for i in range(MAX_PARTS, 0, -1):
                if label:
                    break
                part = parts[i]
                if not part.area or (part.area < SPECK and part.bottom < y - 1):
                    label, parts[i] = i, pixel
            now[x + 1] = label
        above = now
    return [part for part in parts if part.area]


def _choose(parts: list[Part], height: int, width: int) -> tuple[Part, bool]:
    """Return the digit's components as one, and whether they are inside of the picture."""

    def sides(part: Part) -> tuple[int, int]:
        return part.bottom - part.top + 1, part.right - part.left + 1

    def inside(part: Part) -> bool:
        """Return whether a component neither touches the border nor goes around the picture."""
        high, wide = sides(part)
        away = min(part.left, part.top, width - 1 - part.right, height - 1 - part.bottom) > 0
        return away and (5 * high < 4 * height or 5 * wide < 4 * width)

    # A digit inside the picture is a fifth as high as that, and denser than crossing lines.
    for part in parts:
        high, wide = sides(part)
        if 5 * high >= height and 8 * part.area >= high * wide and inside(part):
            parts = [part for part in parts if inside(part)]
            break
    heaviest = max(part.area for part in parts)
    digit = Part(0, 0, 0, 0, MAX_SIDE, MAX_SIDE, -MAX_SIDE, -MAX_SIDE)
    for part in parts:
        if part.area > heaviest >> 5:
            digit.unite(part)
    return digit, inside(digit)


def _place(ink: Integers, digit: Part) -> Bytes | None:
    """Return the image (28, 28) of the ink in a digit's box; None if it is too small to be read.

    The ink (height, width) is from 0 to 255.
    """
    side = max(digit.right - digit.left, digit.bottom - digit.top) + 1
    if side < MIN_SIDE:
        return None

    # The mean width of the strokes is twice the area over the outline's length, which is the number
    # of edges, times pi / 4 (Cauchy and Crofton). Here it is in sixteenths of an image's pixel.
    stroke = digit.area * 410 // (digit.edges * side)
    wider = (STROKE - min(stroke, STROKE)) // 2
    spread = side * (16 + wider) // 8  # between two samples, in 1/320 of a picture's pixel

    def lines(total: int, first: int, last: int) -> Integers:
        """Return the row or column + 1 of the box for each sample, 0 for those outside."""
        start = total * FIT // digit.area * 16 + 160 - 224 * side - spread * 7 // 2
        at = np.arange(8 * SIDE)
        place = start + at // 8 * 16 * side + at % 8 * spread
        at = np.where(place < 0, -(-place // 320), place // 320)
        return np.where((at < first) | (at > last), 0, at - first + 1)

    y, x = lines(digit.y, digit.top, digit.bottom), lines(digit.x, digit.left, digit.right)
    box = np.pad(ink[digit.top : digit.bottom + 1, digit.left : digit.right + 1], ((1, 0), (1, 0)))
    image = box[y][:, x].reshape(SIDE, 8, SIDE, 8).sum((1, 3)) // 64
    strongest = int(image.max())
    if strongest < 3:
        return None
    full = strongest * (32 - wider) // 32  # widened strokes are paler
    placed: Bytes = np.minimum(image * 255 // full, 255).astype(np.uint8)
    return placed


def prepare_source() -> dict[str, str]:
    """Return prepare.h and prepare.c by name."""
    values = {
        "version": version("featherweight"),
        "max_side": MAX_SIDE,
        "blocks": BLOCKS,
        "small": SMALL,
        "min_strength": MIN_STRENGTH,
        "noise": NOISE,
        "max_parts": MAX_PARTS,
        "speck": SPECK,
        "min_side": MIN_SIDE,
        "stroke": STROKE,
        "page": PAGE,
        "ram": f"{RAM:,}",
    }
    templates = Path(__file__).parent / "templates"
    return {
        name: Template((templates / name).read_text(encoding="utf-8")).substitute(values)
        for name in ("prepare.h", "prepare.c")
    }


def prepare_integers(picture: Bytes) -> Bytes | None:
    """Return a picture of one digit as an image (28, 28) uint8 as MNIST has it, light ink on black.

    Ink may be darker or lighter than the paper. None: there is no ink, or none that could be read.

    Args:
        picture: Grey levels (height, width) uint8, at most 320 pixels along each side.

    Raises:
        InputError: The picture has another type or shape.
    """
    if picture.dtype != np.uint8 or picture.ndim != 2 or not picture.size:
        raise InputError(
            f"picture: got {picture.dtype} {picture.shape}, expected uint8 (height, width)"
        )
    (height, width), longer = picture.shape, max(picture.shape)
    if longer > MAX_SIDE:
        raise InputError(
            f"picture: got {width} x {height} pixels, expected at most {MAX_SIDE} along each side"
        )
    dark = picture.astype(np.int64)
    papers = [(*_estimate_paper(q), q) for q in (dark, 255 - dark)]
    light = papers[1][1] < papers[0][1]  # whether the ink is lighter than the paper
    rows, columns = (np.arange(side) * BLOCKS // side for side in (height, width))
    for turn in range(3):  # the other polarity is the second to be tried
        paper, _, q = papers[light ^ (turn == 1)]
        behind = paper[rows][:, columns]
        raw = np.maximum(behind - q, 0) * 255 // np.maximum(behind, 255 - behind)
        # A drawing made by a program has no noise, and nothing around the digit.
        plain = longer < SMALL or 5 * np.count_nonzero(raw) < 2 * raw.size
        for i, step in enumerate(TRIES):
            strength = _open(raw, longer * step // 80)
            levels = _measure_levels(strength, plain)
            if levels is None:
                continue
            rest, low, full = levels.rest, levels.low, levels.full
            beyond = strength - rest
            digit, inside = _choose(_find_parts(beyond > low + (full >> 2)), height, width)
            # A page on a table is inside too, and much of the picture.
            page = inside and 5 * digit.area >= PAGE * height * width
            if turn == 2 or (not page and (inside or plain or i == len(TRIES) - 1)):
                ink = np.minimum(np.maximum(beyond - low, 0) * 255 // full, 255)
                return _place(ink, digit)
    return None
