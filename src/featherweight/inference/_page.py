"""Find the page in a photograph that shows the table around it.

    table = find_table(cells)       # cells (3, h, w) from 0 to 255; (h, w), or None

A page has straight sides and something written on it. Light ink on a dark ground has neither.
"""

import numpy as np

from ._components import Components, Mask, grow, label
from ._planes import Floats

MIN_STEP = 25  # grey levels between the table and the page
MIN_PAGE = 0.2  # area of the page, relative to the picture's
MIN_FILL = 0.88  # of the page, relative to the smallest rectangle around it; of an ellipse 0.79
MAX_TILT = 15  # degrees of that rectangle
MIN_COVER = 0.85  # fraction of a side of the picture that a table covers
MIN_DARK = 0.7  # of the table; the rest may be light, as the grain of wood
MIN_WRITING = 5  # cells; the longer side of something written


def find_table(cells: Floats) -> Mask | None:
    """Return which cells (h, w) show a dark table around a page; None if there is no such table.

    Args:
        cells: A picture (3, h, w) from 0 to 255, reduced so that strokes are a few cells wide.
    """
    grey = cells.mean(0)
    threshold = _threshold(grey)
    if threshold is None:
        return None
    light = label(grey > threshold)
    page = light == np.bincount(light[light > 0]).argmax()
    rest = Components.of(label(~page))
    outer = np.asarray(rest.at_sides.any(0))
    table = rest.select(outer)
    sides = (table[0], table[-1], table[:, 0], table[:, -1])
    if max(side.mean() for side in sides) < MIN_COVER or (~table).mean() < MIN_PAGE:
        return None
    if (light[table] == 0).mean() < MIN_DARK:
        return None  # paper outside of a frame
    if _fill(~table) < MIN_FILL:
        return None
    # Pale ink is nearer to the page than to the table.
    edge = grow(table)
    second = _threshold(grey[~edge])
    dark = ~page if second is None else ~page | (grey <= second)
    parts = Components.of(label(dark & ~table))
    written = ~parts.at_sides.any(0) & (np.maximum(parts.heights, parts.widths) >= MIN_WRITING)
    written[parts.numbers[edge]] = False
    # In a thick 0 that is light the hole is wider than the stroke around it.
    writing = parts.select(written)
    if not writing.any() or (grow(writing, _depth(writing)) & table).any():
        return None
    return table


def _threshold(grey: Floats) -> float | None:
    """Return the grey level that separates two classes best (Otsu 1979); None if they are alike."""
    counts = np.bincount(grey.clip(0, 255).astype(np.intp).ravel(), minlength=256)
    below, total = counts.cumsum(), (counts * np.arange(256)).cumsum()
    above = below[-1] - below
    with np.errstate(invalid="ignore", divide="ignore"):
        low, high = total / below, (total[-1] - total) / above
        between = below * above * (high - low) ** 2
    best = int(np.nan_to_num(between).argmax())
    step = high[best] - low[best]
    return None if not step >= MIN_STEP else float((low[best] + high[best]) / 2)


def _fill(page: Mask) -> float:
    """Return the share that a page covers of the smallest rectangle around it, which may tilt."""
    y, x = np.nonzero(page)
    angles = np.deg2rad(np.arange(-MAX_TILT, MAX_TILT + 1, 3))[:, None]
    across, down = np.cos(angles) * x + np.sin(angles) * y, np.cos(angles) * y - np.sin(angles) * x
    areas = (np.ptp(across, 1) + 1) * (np.ptp(down, 1) + 1)
    return float(len(y) / areas.min())


def _depth(writing: Mask) -> int:
    """Return half the width of the widest stroke in cells."""
    depth, rest = 0, writing
    while rest.any():
        rest = ~grow(~rest)
        depth += 1
    return depth
