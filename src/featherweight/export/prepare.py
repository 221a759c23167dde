"""Prepare a grey picture for a network of MNIST in integers, as the exported `prepare.c` does.

    image = prepare_integers(picture)   # (height, width) uint8 -> (28, 28) uint8; None without ink

This is the definition of `digit_prepare` in C, which gives the same images to the bit. It follows
what `inference.prepare` does as far as 2 kB of code allow:

1. The polarity, and the paper's grey level in at most 32x32 blocks, by closing (Serra 1982). In a
   plain drawing the paper has one level.
2. The strength of each pixel, from 0 (paper) to 255, relative to the paper's level.
3. The strength of full ink and the noise of the paper, from a histogram of strengths.
4. Connected components, from run to run. Specks, and what surrounds a digit, are left out.
5. If what is left touches the border or fills the picture, another try opens the strengths by a
   square, which removes lines, as of ruled paper and printed boxes, and the edges of shadows.
6. The box around the digit is scaled to 20 pixels by area averaging, thin strokes are widened, and
   the centre of mass is put in the middle of pixel (14, 14), as in MNIST (LeCun et al. 1998).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..layout import FIT, SIDE

Bytes = NDArray[np.uint8]
Integers = NDArray[np.int64]

MAX_SIDE = 320  # pixels along each side of a picture
BLOCKS = 32  # blocks along its longer side, at most
SMALL = 24  # pixels; shorter pictures have paper of one level
TABLE = 128  # pixels from which a page may lie on a table
TRIES = (0, 4, 8, 12)  # sides of the square that opens the strengths, in 1/320 of the longer side
MIN_CONTRAST = 10  # least strength of ink
NOISE = 6  # the same in multiples of the noise, which is 2/3 of a standard deviation
MAX_PARTS = 30  # components that are known at a time
SPECK = 12  # pixels; of fewer, a component that has ended may be forgotten
MIN_SIDE = 5  # pixels of a digit
STROKE = 32  # sixteenths of an image's pixel: thinner strokes are widened


@dataclass
class Part:
    """A connected component. One of no pixels is free."""

    area: int = 0
    left: int = 0
    right: int = 0
    top: int = 0
    bottom: int = 0

    def unite(self, other: "Part") -> None:
        """Add another component."""
        self.area += other.area
        self.left, self.right = min(self.left, other.left), max(self.right, other.right)
        self.top, self.bottom = min(self.top, other.top), max(self.bottom, other.bottom)


@dataclass
class Choice:
    """The digit's components."""

    box: Part
    "The box around them, and their area."
    clean: bool
    "Whether the box looks like one around a digit in its picture."
    page: bool
    "Whether it looks like a page that lies on a table."


def _filter(levels: Integers, reach: int, sign: int) -> Integers:
    """Return the maximum (sign 1) or minimum (-1) in a square of 2 * reach + 1 blocks."""
    for _ in range(2):  # rows, then columns
        signed = sign * levels
        lines = [signed[max(i - reach, 0) : i + reach + 1].max(0) for i in range(len(signed))]
        levels = sign * np.array(lines).T
    return levels


def _estimate_paper(q: Integers, size: int, plain: bool) -> tuple[Integers, int]:
    """Return the paper's level in each block, and how much speaks against this polarity.

    The level of a block is its upper quartile, before closing removes what is darker.
    """
    height, width = q.shape
    rows, columns = -(-height // size), -(-width // size)
    levels = np.zeros((rows, columns), np.int64)
    for i in range(rows):
        for j in range(columns):
            block = np.sort(q[i * size : (i + 1) * size, j * size : (j + 1) * size], None)
            levels[i, j] = block[len(block) - 1 - len(block) // 4]
    reach = BLOCKS if plain else max(rows, columns) * 11 // 64
    paper = _filter(_filter(levels, reach, 1), reach, -1)
    middle = paper[rows // 4 : rows - rows // 4, columns // 4 : columns - columns // 4]
    uneven = int(np.abs(middle - int(middle.sum()) // middle.size).sum())
    edge = np.ones(paper.shape, bool)
    edge[1:-1, 1:-1] = False
    differs = int((paper - levels)[edge].sum())
    return paper, uneven * 100 // middle.size + differs * 5 // int(edge.sum())


def _interpolate(paper: Integers, size: int, height: int, width: int) -> Integers:
    """Return the paper's level at each pixel (height, width), linear between middles of blocks."""

    def axis(side: int, n: int) -> tuple[Integers, Integers, Integers]:
        at = np.maximum(2 * np.arange(side) + 1 - size, 0)  # in half pixels
        first = at // (2 * size)
        return first, np.minimum(first + 1, n - 1), at % (2 * size)

    (y0, y1, fy), (x0, x1, fx) = axis(height, len(paper)), axis(width, paper.shape[1])
    whole = 2 * size
    above = paper[y0][:, x0] * (whole - fx) + paper[y0][:, x1] * fx
    below = paper[y1][:, x0] * (whole - fx) + paper[y1][:, x1] * fx
    fy = fy[:, None]
    return (above * (whole - fy) + below * fy) // (whole * whole)


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
    return np.max(squares, 0)


def _measure_levels(strength: Integers, plain: bool) -> tuple[int, int, int] | None:
    """Return the paper's rest, full ink beyond that, and the noise; None without ink."""
    counts = np.bincount(strength.ravel(), minlength=256).tolist()
    few = strength.size // 16384 + 1
    top, n = 255, counts[255]
    while n < few:
        top -= 1
        n += counts[top]
    rest = noise = 0
    if not plain:
        # Rough paper is darker than its lightest grain: half of it by `rest`. From there to the
        # upper quartile it is 2/3 of the noise's standard deviation.
        weak = sum(counts[: top // 2 + 1])
        n = counts[0]
        while 2 * n < weak:
            rest += 1
            n += counts[rest]
        while 4 * n < 3 * weak:
            noise += 1
            n += counts[rest + noise]
    least = rest + max(NOISE * noise, MIN_CONTRAST)
    if top <= least:
        return None
    n = mass = 0
    for level in range(max(top // 2, least), 256):
        n += counts[level]
        mass += counts[level] * (level - rest)
    peak = mass // n
    # A few dark spots do not make all else pale: half of the ink, by mass, is above `typical`.
    first = max(rest + peak * 5 // 32, least)
    total = sum(counts[level] * (level - rest) for level in range(first, 256))
    typical, mass = first, counts[first] * (first - rest)
    while 2 * mass < total:
        typical += 1
        mass += counts[typical] * (typical - rest)
    return rest, min(peak, (typical - rest) * 3 // 2), noise


def _find_parts(inked: NDArray[np.bool_]) -> list[Part]:
    """Return the 8-connected components of a mask (height, width).

    Where there are too many at a time, those that come last are no ink.
    """
    height, width = inked.shape
    parts = [Part() for _ in range(MAX_PARTS)]
    above = [0] * (width + 2)  # 1 + the component of each pixel of the row above, with a margin
    for y in range(height):
        now = [0] * (width + 2)
        change = np.flatnonzero(np.diff(np.pad(inked[y].astype(np.int8), 1)))
        for first, end in zip(change[::2].tolist(), change[1::2].tolist(), strict=True):
            label = 0
            for x in range(first, end + 2):
                other = above[x]
                if not label:
                    label = other
                elif other and other != label:
                    parts[label - 1].unite(parts[other - 1])
                    parts[other - 1].area = 0
                    above = [label if each == other else each for each in above]
                    now = [label if each == other else each for each in now]
            run = Part(end - first, first, end - 1, y, y)
            if label:
                parts[label - 1].unite(run)
            else:
                for i, part in enumerate(parts):
                    if not part.area or (part.area < SPECK and part.bottom < y - 1):
                        label, parts[i] = i + 1, run
                        break
            now[first + 1 : end + 1] = [label] * (end - first)
        above = now
    return [part for part in parts if part.area]


def _choose(parts: list[Part], height: int, width: int) -> Choice | None:
    """Return which components are the digit; None without any."""

    def sides(part: Part) -> int:
        """Return how many sides of the picture a component touches; 2 if it surrounds the rest."""
        high, wide = part.bottom - part.top + 1, part.right - part.left + 1
        if 5 * high >= 4 * height and 5 * wide >= 4 * width and 5 * part.area < high * wide:
            return 2
        return (
            (part.left == 0)
            + (part.top == 0)
            + (part.right == width - 1)
            + (part.bottom == height - 1)
        )

    # Beside a digit inside the picture, what touches the border is none; beside one that touches
    # a side, what touches two is none.
    most = 4
    for part in parts:
        high, wide = part.bottom - part.top + 1, part.right - part.left + 1
        if 8 * part.area >= high * wide:
            if sides(part) == 0 and 5 * high >= height:
                most = 0
            elif sides(part) < 2 and 8 * high >= height:
                most = min(most, 1)
    kept = [part for part in parts if sides(part) <= most]
    if not kept:
        return None
    heaviest = max(part.area for part in kept)
    box = Part(0, MAX_SIDE, 0, MAX_SIDE, 0)
    for part in kept:
        if 32 * part.area >= heaviest:
            box.unite(part)
    high, wide = box.bottom - box.top + 1, box.right - box.left + 1
    inside = box.left > 0 and box.top > 0 and box.right < width - 1 and box.bottom < height - 1
    fills = 5 * high >= 4 * height and 5 * wide >= 4 * width
    clean = inside and not fills and 6 * max(high, wide) >= max(height, width)
    page = inside and min(height, width) >= TABLE and 5 * box.area >= 2 * height * width
    return Choice(box, clean, page)


def _place(ink: Integers) -> Bytes | None:
    """Return the image (28, 28) of ink (h, w) from 0 to 255; None if it is too small to be read."""
    solid = ink >= 128
    ys, xs = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
    if not len(ys):
        return None
    side = int(max(ys[-1] - ys[0], xs[-1] - xs[0])) + 1
    if side < MIN_SIDE:
        return None
    # Half of the changes between ink and paper, along rows and columns. Their number gives the
    # outline (Cauchy and Crofton), and twice the area over the outline the strokes' mean width.
    changes = int((solid & ~np.pad(solid, ((1, 0), (0, 0)))[:-1]).sum())
    changes += int((solid & ~np.pad(solid, ((0, 0), (1, 0)))[:, :-1]).sum())
    stroke = int(solid.sum()) * 410 // (changes * side)  # in sixteenths of an image's pixel
    # Half of the square that a pixel averages, in 1/40 of a picture's pixel. It is a pixel of the
    # picture at least, which interpolates linearly where the digit is enlarged.
    span, gain = side, 16
    if stroke < STROKE:
        wider = min(STROKE - stroke, 16)
        side += side * wider // 320
        span = side + side * wider // 16
        gain = max(16, 16 * (16 + wider) // max(stroke, 4))
    span = max(span, FIT)
    weights = ink >> 3  # so that the sums fit 32 bits
    total = int(weights.sum())

    def cover(sums: Integers) -> Integers:
        """Return how much of each row or column every row or column of the image covers."""
        at = np.arange(len(sums))
        moment = int((sums * (2 * at + 1)).sum())
        middle = moment // total * FIT + moment % total * FIT // total
        start = middle + (2 * np.arange(SIDE)[:, None] - SIDE) * side - span
        both = np.minimum(start + 2 * span, 2 * FIT * (at + 1)) - np.maximum(start, 2 * FIT * at)
        return np.maximum(both, 0)  # (28, n)

    covered = cover(weights.sum(1)) @ ink @ cover(weights.sum(0)).T
    image = np.minimum(covered // (4 * span * span) * gain // 16, 255)
    most = int(image.max())
    return (image * 255 // most).astype(np.uint8) if most else None


def prepare_integers(picture: Bytes) -> Bytes | None:
    """Return a picture of one digit as an image (28, 28) uint8 as MNIST has it, light ink on black.

    Ink may be darker or lighter than the paper. None: there is no ink, or none that could be read.

    Args:
        picture: Grey levels (height, width) uint8, at most 320 pixels along each side.

    Raises:
        InputError: The picture has another type or shape.
    """
    if picture.dtype != np.uint8 or picture.ndim != 2 or not 0 < picture.size:
        raise InputError(f"picture: got {picture.dtype} {picture.shape}, expected uint8 (h, w)")
    if max(picture.shape) > MAX_SIDE:
        raise InputError(
            f"picture: got {picture.shape} pixels, expected at most {MAX_SIDE} along each side"
        )
    (height, width), longer = picture.shape, max(picture.shape)
    size = -(-longer // BLOCKS)
    counts = np.bincount(picture.ravel(), minlength=256)
    plain = longer < SMALL or 5 * int(counts.max()) >= 2 * picture.size
    levels = [picture.astype(np.int64), 255 - picture.astype(np.int64)]
    papers = [_estimate_paper(q, size, plain) for q in levels]
    light = papers[1][1] < papers[0][1]  # whether the ink is lighter than the paper
    best: tuple[Choice, Integers] | None = None
    for turn in range(2):
        (paper, _), q = papers[light ^ turn], levels[light ^ turn]
        behind = _interpolate(paper, size, height, width)
        raw = np.maximum(behind - q, 0) * 255 // np.maximum(behind, 255 - behind)
        again = False
        for step in TRIES:
            opening = longer * step // 320
            strength = _open(raw, opening)
            found = _measure_levels(strength, plain)
            if found is None:
                continue
            rest, peak, noise = found
            low = max(peak // 10, 4 * noise)
            if 2 * low >= peak:
                continue
            strength = np.maximum(strength - rest, 0)
            least = max(peak * (7 if opening else 5) // 16, low)
            choice = _choose(_find_parts(strength > least), height, width)
            if choice is None:
                continue
            if choice.page and not plain and not turn:
                again, best = True, None  # the page was taken for ink
                break
            if best is None or choice.clean:
                best = choice, np.minimum(np.maximum(strength - low, 0) * 255 // (peak - 2 * low), 255)
            if choice.clean or plain:
                break
        if not again:
            break
    if best is None:
        return None
    choice, ink = best
    box = choice.box
    return _place(
        ink[max(box.top - 1, 0) : box.bottom + 2, max(box.left - 1, 0) : box.right + 2]
    )
