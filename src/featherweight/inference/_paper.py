"""Estimate the paper behind the ink of a picture.

paper, table = estimate_paper(pixels)   # pixels (3, height, width) float32 from 0 to 255
difference = difference_from(pixels, paper)
"""

import numpy as np

from ._components import Mask, grow
from ._page import find_table
from ._planes import Floats, border, closing, opening, resize
from ._thresholds import THRESHOLDS

PAPER_GRID = 64  # cells along the longer side; paper is smooth, and morphology is slow
MAX_TABLE = 128  # grey levels of a table of one colour
SURFACE_STEPS = 4  # of weighted least squares


def estimate_paper(pixels: Floats) -> tuple[Floats, Mask | None]:
    """Estimate the colour of the paper behind every pixel, and find the table around a page.

    The colour is (3, 1, 1) if the paper has one, as in a drawing made by a program; otherwise
    (3, height, width). Then, in each channel, opening or closing by a square (Serra 1982) removes
    the strokes and keeps shadows with their edges. Of the two estimates, the one is kept that is
    more uniform and closer to the border's colour. The table is (height, width), or None.
    """
    plain = np.median(border(pixels), 1).astype(np.float32)[:, None, None]
    difference, most = pixels - plain, THRESHOLDS.plain_difference
    same = ((difference < most) & (difference > -most)).all(0)
    is_plain = same.mean() > THRESHOLDS.plain_fraction
    if is_plain and plain.mean() > MAX_TABLE:
        return plain, None
    height, width = pixels.shape[1:]
    rows, columns = _grid(height, width)
    cells = resize(pixels, rows, columns)  # (3, h, w) -> (3, rows, columns)
    large = min(height, width) >= THRESHOLDS.min_shaded_side
    table = find_table(cells) if large else None
    if table is not None:
        cells = _extend_page(cells, table)
    elif is_plain:
        return plain, None
    paper, cost = _estimate(cells)
    if cost > THRESHOLDS.uneven_light and large:
        light = _surface(cells)
        flat, rest = _estimate(cells - light)
        if rest + THRESHOLDS.light_cost * light.std((1, 2)).mean() < cost:
            paper = flat + light
    if table is not None:
        around = grow(table)  # a cell at the page's edge shows both
        table = around[
            np.ix_(np.arange(height) * rows // height, np.arange(width) * columns // width)
        ]
    return resize(paper, height, width), table


def _extend_page(cells: Floats, table: Mask) -> Floats:
    """Return cells (3, h, w) in which the page goes on where a table (h, w) was."""
    page = np.where(grow(table), np.float32(0), np.maximum(cells, 1))
    return np.stack([grow(channel, max(table.shape)) for channel in page])


def _estimate(cells: Floats) -> tuple[Floats, float]:
    """Return the paper behind cells (3, h, w), and how much speaks against it in grey levels."""
    span = 2 * int(THRESHOLDS.stroke_span * max(cells.shape)) + 1
    papers = [closing(cells, span), opening(cells, span)]
    # A table or a frame may cover a part of the border, or all of it: two cells within count too.
    rings = [slice(n, -n or None) for n in (0, 2) if 10 * n <= min(cells.shape[1:])]
    costs = [
        paper.std((1, 2))
        + np.min([np.median(np.abs(border((paper - cells)[:, r, r])), 1) for r in rings], 0)
        for paper in papers
    ]
    # Each channel chooses for itself: a yellow pen on white paper shows in the blue channel only.
    paper = np.where((costs[0] < costs[1])[:, None, None], *papers)
    return paper, float(np.minimum(*costs).mean())


def _grid(height: int, width: int) -> tuple[int, int]:
    """Return the rows and columns of cells that the paper of a picture is estimated with."""
    scale = min(1, PAPER_GRID / max(height, width))
    return round(height * scale) or 1, round(width * scale) or 1


def _surface(planes: Floats) -> Floats:
    """Return the quadratic surfaces (n, h, w) that planes lie on, but for a minority of pixels.

    Light falls off smoothly across a page. The sum of absolute differences is least, by weighted
    least squares, so that ink and tables do not bend the surface.
    """
    y, x = (np.linspace(-1, 1, side, dtype=np.float32) for side in planes.shape[1:])
    one = np.ones_like
    terms = ((one(y), one(x)), (y, one(x)), (one(y), x), (y, x), (y * y, one(x)), (one(y), x * x))
    basis = np.stack([np.outer(a, b).ravel() for a, b in terms])  # (6, h * w)
    few = np.reshape(np.arange(basis.shape[1]), planes.shape[1:])[::2, ::2].ravel()  # enough
    values, few_of_basis = planes.reshape(len(planes), -1)[:, few], basis[:, few]
    fits = []
    for value in values:
        weights = np.ones_like(value)
        for _ in range(SURFACE_STEPS):
            weighted = few_of_basis * weights
            # Few rows or columns leave the surface undetermined: of all, the flattest.
            fit = np.linalg.pinv(weighted @ few_of_basis.T, 1e-6, hermitian=True) @ (
                weighted @ value
            )
            weights = 1 / np.maximum(np.abs(value - fit @ few_of_basis), 1)
        fits.append(fit @ basis)
    return np.reshape(np.array(fits, np.float32), planes.shape)


def difference_from(pixels: Floats, paper: Floats) -> Floats:
    """Return the difference of each pixel from the paper, relative to the largest possible one.

    Because it is relative, a shadow, which dims ink and paper alike, does not change it.
    """
    brightness = paper.mean(0)
    difference = pixels - paper
    difference /= np.maximum(brightness, 255 - brightness)
    return difference


def smooth_part(difference: Floats) -> Floats:
    """Return what of a difference (3, height, width) from the paper is wider than strokes."""
    height, width = difference.shape[1:]
    rows, columns = _grid(height, width)
    cells = resize(difference, rows, columns)
    span = 2 * int(THRESHOLDS.narrow_span * max(rows, columns)) + 1
    # Ink may be darker or lighter than the paper in each channel.
    darker = cells.sum((1, 2), keepdims=True) < 0
    return resize(np.where(darker, closing(cells, span), opening(cells, span)), height, width)
