"""Find what surrounds the writing in a picture: the table beside the page, ruled lines, boxes.

    gone = edges(parts)         # components that are a table, a binding or a frame, (n + 1,)
    gone = rules(parts)         # pixels of ruled lines and of printed boxes, (height, width)
    gone, doubtful = boxes(parts)           # components that are empty boxes, (n + 1,)

A ruled line is removed column by column, and only where nothing crosses it, so that strokes over
it stay whole. Music scores lose their staff lines so (Dalitz et al. 2008).
"""

import itertools
from dataclasses import dataclass, replace

import numpy as np

from ._components import Components, Labels, Mask, grow, label

# Fraction of a side of the picture that a table, a page's edge or a frame covers.
WHOLE_SIDE = 0.85
CORNER = 0.2  # fraction of both sides at a corner that a table beside a turned page covers
MIN_FILL = 0.4  # fraction of its box that a table beside a turned page covers
MIN_SIDE = 32  # pixels; in smaller pictures a line is as thick as a stroke
MAX_THICKNESS = 0.045  # of a line, as a fraction of the picture's side
MIN_COVER = 0.88  # fraction of a line that is inked, where it is dashed or worn
REACH = 0.2  # of a line, from each border, as a fraction of the side: at most what it ends before
MAX_SLOPE = 0.2  # of a line, 11 degrees
MIN_BOX = 16  # pixels; the shorter side of a box
MIN_ROUNDED = 0.6  # fraction of each side of a box with rounded corners that is inked
MIN_INSIDE = 0.6  # of a box that its sides enclose; of a 0 with thick strokes less
THIN_INSIDE = 0.9  # the same from which its sides are as thin as printed lines
MIN_RECTANGLE = 0.9  # fraction of the box around it that such an inside fills; of an ellipse 0.79
MIN_BOX_HEIGHT = 0.8  # of the inside, relative to the box's: an 8 has two halves
MIN_CONTENT = 0.2  # height of what stands between lines, as a fraction of the picture's


def edges(parts: Components) -> Mask:
    """Return which components (n + 1,) may be the surroundings of a page.

    They cover a whole side of the picture or both sides at a corner, or go along a side from end
    to end, beside everything else. A digit that fills its picture may do so too: they are
    surroundings only if there is ink without them.
    """
    height, width = parts.numbers.shape
    cover = parts.at_sides / np.array([[width], [width], [height], [height]])
    top, bottom, left, right = cover
    level, upright = np.maximum(top, bottom), np.maximum(left, right)
    corner = np.minimum(level, upright) >= CORNER
    solid = parts.area >= MIN_FILL * parts.heights * parts.widths
    wedge = solid & (np.minimum(level, upright) > 0) & (np.maximum(level, upright) >= 0.5)
    chosen = (cover.max(0) >= WHOLE_SIDE) | corner | wedge
    for first, last, low, high, side in (
        (top, bottom, parts.left, parts.right, width),
        (left, right, parts.top, parts.bottom, height),
    ):
        through = (first > 0) & (last > 0)
        others = ~through & ~chosen
        others[0] = False
        if others.any():
            beside = (high <= low[others].min()) | (low >= high[others].max())
            chosen |= through & beside & (high - low < side / 3)
    chosen[0] = False
    return np.asarray(chosen)


def is_beside_page(parts: Components) -> bool:
    """Return whether all there is in a picture is a table along one side of blank paper.

    It covers one side and ends at both of that side's neighbours. A digit that fills its picture
    reaches the fourth side too.
    """
    height, width = parts.numbers.shape
    at_sides = parts.at_sides[:, 1:].sum(1)
    whole = at_sides >= WHOLE_SIDE * np.array([width, width, height, height])
    return bool(min(height, width) >= 2 * MIN_SIDE and whole.any() and (at_sides > 0).sum() == 3)


def boxes(parts: Components) -> tuple[Mask, bool]:
    """Return which components (n + 1,) are printed boxes, and whether another may be one.

    What a box encloses, or each of several boxes side by side, is nearly a rectangle and most of
    it: the lines are thin. A 0 that is drawn as a box has thicker lines, and then is only doubtful.
    """
    chosen, doubtful = np.zeros(len(parts.area), bool), False
    for each in np.flatnonzero(np.minimum(parts.heights, parts.widths) >= MIN_BOX):
        height, width = parts.heights[each], parts.widths[each]
        if parts.at_sides[:, each].all():
            continue  # a frame around the picture
        if parts.area[each] > (1 - MIN_INSIDE) * height * width:
            continue
        place = (
            slice(parts.top[each], parts.bottom[each]),
            slice(parts.left[each], parts.right[each]),
        )
        if not _rectangle(parts.numbers[place] == each, MIN_ROUNDED):
            continue
        # Lines of one pixel let 8-connected components through at a corner: they are grown by one.
        holes = Components.of(label(~grow(parts.numbers[place] == each)))
        inside = ~holes.at_sides.any(0) & (holes.heights + 2 >= MIN_BOX_HEIGHT * height)
        inside[0] = False
        fill = holes.area / np.maximum(holes.heights * holes.widths, 1)
        if inside.any() and fill[inside].min() >= MIN_RECTANGLE:
            areas = (holes.heights + 2) * (holes.widths + 2)
            enclosed = areas[inside].sum() / (height * width)
            chosen[each] = enclosed >= THIN_INSIDE
            doubtful |= bool(not chosen[each] and enclosed >= MIN_INSIDE)
    return chosen, doubtful


def rules(parts: Components) -> Mask:
    """Return the pixels (height, width) of ruled lines and of printed boxes.

    A ruled line goes from border to border of the picture, or has another beside it that goes
    nearly as far. A box has four such lines, from border to border of itself. A square 0 has them
    too: they are a box only if there is ink without them.
    """
    mask = parts.numbers > 0
    gone = _lines(mask)
    rest = mask
    if gone.any():
        rest = mask & ~gone
        parts = Components.of(label(rest))
    for each in np.flatnonzero(np.minimum(parts.heights, parts.widths) >= MIN_SIDE):
        place = (
            slice(parts.top[each], parts.bottom[each]),
            slice(parts.left[each], parts.right[each]),
        )
        if _rectangle(parts.numbers[place] == each):
            gone[place] |= _lines(rest[place])
    return gone


def _rectangle(component: Mask, cover: float = MIN_COVER) -> bool:
    """Return whether a component, cropped, has a line along each of its four sides."""
    height, width = component.shape
    for turned, across in ((component, height), (component.T, width)):
        near = max(2, round(0.08 * across))
        if turned[:near].any(0).mean() < cover or turned[-near:].any(0).mean() < cover:
            return False
    return True


@dataclass(frozen=True, eq=False)
class _Line:
    """A thin straight line from left to right."""

    whole: bool
    "Whether it goes from border to border."
    pixels: Mask
    "Its pixels (height, width) with their soft edges, but for those that a stroke crosses."
    band: Mask
    "The pixels along which it runs, (height, width)."


def _lines(mask: Mask) -> Mask:
    """Return the pixels (height, width) of lines that go through most of a picture."""
    if min(mask.shape) < MIN_SIDE:
        return np.zeros_like(mask)
    level = _across(mask)
    upright = [replace(line, pixels=line.pixels.T, band=line.band.T) for line in _across(mask.T)]
    # Two lines beside each other are ruled, and then those that cross them are the sides of a box.
    # One that ends before the border may be the bar of a 7, an upright one the stem of a 1.
    ruled = len(level) > 1 and _apart(mask, level)
    sides = ruled or sum(line.whole for line in level) > 1
    taken = [
        [line for line in level if line.whole or ruled],
        [line for line in upright if line.whole or sides],
    ]
    gone, bands = np.zeros_like(mask), []
    for lines in taken:
        bands.append(np.zeros_like(mask))
        for line in lines:
            gone |= line.pixels
            bands[-1] |= line.band
    # Where two lines cross, each is taken for a stroke that crosses the other.
    gone |= bands[0] & bands[1]
    for upper, lower in itertools.pairwise(sorted(taken[0], key=_row)):
        first, last = round(_row(upper)), round(_row(lower))
        if last - first >= MIN_SIDE:  # a row of boxes, side by side
            posts = [line for line in _across(mask[first:last].T) if line.whole]
            posts = [line for line in posts if _ends(mask, line, first, last)]
            if len(posts) > 1:  # one may be a 1 that is as high as the line
                for line in posts:
                    gone[first:last] |= line.pixels.T
    return gone


def _ends(mask: Mask, line: _Line, first: int, last: int) -> bool:
    """Return whether an upright line in some rows of a mask ends there, unlike a stroke."""
    beyond = max(3, len(mask) // 50)
    above, below = (np.flatnonzero(line.band[:, at]) for at in (0, -1))
    return not (
        mask[max(first - 2 * beyond, 0) : max(first - beyond, 0), above].any()
        or mask[last + beyond : last + 2 * beyond, below].any()
    )


def _row(line: _Line) -> float:
    """Return the mean row of a line from left to right."""
    return float(np.nonzero(line.band)[0].mean())


def _apart(mask: Mask, lines: list[_Line]) -> bool:
    """Return whether what is left without lines touches at most one of them, unlike a Z."""
    gone = np.logical_or.reduce([line.pixels for line in lines])
    parts = Components.of(label(mask & ~gone))
    inside = (parts.at_sides.sum(0) == 0) & (parts.heights >= MIN_CONTENT * len(mask))
    inside[0] = False
    rest = grow(parts.select(inside))
    touched = sum(bool((rest & line.band).any()) for line in lines)
    return touched <= 1


def _across(mask: Mask) -> list[_Line]:
    """Return the lines from left to right."""
    height, width = mask.shape
    reach = round(REACH * width)
    thickest = max(3, MAX_THICKNESS * max(height, width))
    # Where a line is crossed, as by the side of a box, the next column shows it.
    near = [(at, middle) for at in (reach, 2 * reach // 3) for middle in _thin(mask, at, thickest)]
    far = [
        (width - 1 - at, middle)
        for at in (reach, 2 * reach // 3)
        for middle in _thin(mask, width - 1 - at, thickest)
    ]
    runs: tuple[Labels, Labels] | None = None
    columns = np.arange(width)
    slack = 1 + round(0.01 * width)
    lines: list[_Line] = []
    for (left, start), (right, stop) in itertools.product(near, far):
        if any(line.band[round(start), left] and line.band[round(stop), right] for line in lines):
            continue
        slope = (stop - start) / (right - left)
        if abs(slope) > MAX_SLOPE:
            continue
        middle = np.rint(start + slope * (columns - left)).astype(np.intp)
        hit = np.full(width, -1)
        for step in sorted(range(-slack, slack + 1), key=abs, reverse=True):
            at = middle + step
            inked = (at >= 0) & (at < height) & mask[np.clip(at, 0, height - 1), columns]
            hit[inked] = at[inked]  # the nearest comes last
        covered = hit >= 0
        if covered[reach : width - reach].mean() < MIN_COVER:
            continue
        runs = runs or _vertical_runs(mask)
        ids, lengths = runs
        found = np.flatnonzero(covered)
        run = ids[hit[found], found]
        thickness = float(np.median(lengths[run]))
        if thickness > thickest:
            continue
        thin = np.zeros(len(lengths), bool)
        thin[run[lengths[run] <= 1.5 * thickness + 1]] = True
        pixels = thin[ids]
        for _ in range(1 + int(thickness / 4)):  # soft edges
            pixels[1:] |= pixels[:-1]
            pixels[:-1] |= pixels[1:]
        band = np.zeros_like(mask)
        around = int(np.ceil(thickness / 2)) + 1
        for step in range(-around, around + 1):
            band[np.clip(middle + step, 0, height - 1), columns] = True
        margin = max(1, round(0.01 * width))
        whole = covered[:margin].any() and covered[-margin:].any()
        lines.append(_Line(bool(whole and covered.mean() >= MIN_COVER), pixels, band))
    return lines


def _thin(mask: Mask, column: int, thickest: float) -> list[float]:
    """Return the middle rows of what is thin in three columns of a mask, as a line is."""
    inked = np.asarray(mask[:, column - 1 : column + 2].any(1))
    change = np.flatnonzero(np.diff(np.pad(inked, 1).astype(np.int8)))
    first, last = change[::2], change[1::2] - 1
    thin = last - first < thickest + 3  # a line that rises covers more rows
    return [float(middle) for middle in ((first + last) / 2)[thin]]


def _vertical_runs(mask: Mask) -> tuple[Labels, Labels]:
    """Return the number of each pixel's vertical run (h, w), 0 outside, and the runs' lengths."""
    padded = np.pad(mask.T, ((0, 0), (1, 0)))
    flat = padded.ravel()
    ids = np.cumsum(flat & ~np.roll(flat, 1), dtype=np.intp) * flat
    return ids.reshape(padded.shape)[:, 1:].T, np.bincount(ids)
