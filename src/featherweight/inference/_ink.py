"""Find the ink in a picture: which pixels belong to strokes, and how strongly.

    ink = find_ink(pixels)          # pixels (3, height, width) float32 from 0 to 255
    ink.strength, ink.components    # (height, width) each

Ink is whatever differs from the paper, darker or lighter. `estimate_paper` gives the colour of the
paper behind every pixel and the table around a page, `find_strokes` the strokes. What is no
writing is then removed, and the strokes are found again without it: `rules` and `boxes` find ruled
lines and printed boxes, `find_shades` shades and the edges of shadows, and `edges` what is left of
a table.
"""

from dataclasses import dataclass

import numpy as np

from ._components import Components, Labels, Mask, grow, label, window
from ._paper import difference_from, estimate_paper, smooth_part
from ._planes import Floats, box_blur
from ._shades import find_shades
from ._strokes import Strokes, find_strokes
from ._surroundings import boxes, edges, is_beside_page, rules
from ._thresholds import THRESHOLDS

# What makes a preparation doubtful.
AT_BORDER = "touches the border"
BOX = "perhaps an empty box"
DROPPED = "parts dropped"
EDGE = "page edge removed"
LINES = "lines removed"
PALE = "low contrast"
SHADE = "shade removed"
MAX_ROUNDS = 8  # of removing surroundings; each may show others behind them
SMOOTHING = (3, 7)  # sides of the squares of pixels that are averaged where noise hides the ink
MIN_SMOOTHED = 25  # squares along the shorter side of a picture that is smoothed
MAX_SHADES = 7  # components; if more are shades, and most of them, it is the grain of paper
SHADE_MARGIN = 12  # of the longer side: how far a shade that is removed may reach


@dataclass(frozen=True, eq=False)
class Ink:
    """The ink of a picture."""

    strength: Floats
    "How strong the ink of each pixel is (height, width), from 0 (paper) to 1."
    components: Labels
    "Number of the component that each pixel belongs to (height, width), 0 outside."
    doubts: tuple[str, ...]
    "What makes the preparation doubtful, in plain words."
    beside: tuple[tuple[str, Mask], ...]
    """What makes it doubtful for ink in some places (height, width): beside lines that were removed
    and beside the page's edge."""
    found: Strokes
    "The strokes."
    gone: Mask
    "What was removed (height, width)."

    def doubts_of(self, digit: Mask) -> tuple[str, ...]:
        """Return what makes the preparation of a digit's ink (height, width) doubtful."""
        near = [doubt for doubt, mask in self.beside if (mask & digit).any()]
        return tuple(sorted({*self.doubts, *near}))

    def find_rest(self) -> Labels:
        """Return the components (height, width) that are left out because they are pale or light.

        They may differ from the paper in the other direction than the ink. What was removed, and
        what is at the border, is none of them.
        """
        found = self.found
        # Noise exceeds the start of a soft edge here and there, and forms components.
        level = THRESHOLDS.min_low + 2 * (found.low - THRESHOLDS.min_low)
        rest = np.abs(found.strength) > level * found.peak
        inside = window(rest)
        numbers = np.zeros(rest.shape, np.intp)
        numbers[inside] = label(rest[inside])
        parts = Components.of(numbers)
        left_out = np.asarray(~parts.at_sides.any(0))
        left_out[numbers[(found.components > 0) | grow(self.gone, 3)]] = False
        left_out[0] = False
        return np.take(np.where(left_out, np.cumsum(left_out), 0), numbers)


def find_ink(pixels: Floats) -> Ink | None:
    """Find the ink in a picture (3, height, width) of values from 0 to 255.

    Returns None if the picture has no ink.
    """
    paper, table = estimate_paper(pixels)
    plain = paper.size == len(paper)  # a drawing has no shades
    difference = difference_from(pixels, paper)
    gone = np.zeros(pixels.shape[1:], bool) if table is None else table
    found = find_strokes(difference, gone)
    for side in SMOOTHING:
        if found is None and min(gone.shape) >= MIN_SMOOTHED * side:
            difference = np.stack(
                [box_blur(plane, side) for plane in difference_from(pixels, paper)]
            )
            found = find_strokes(difference, gone)
    at_first: Floats | None = None
    doubts: set[str] = set()
    removed = [] if table is None else [(EDGE, table)]
    for _ in range(MAX_ROUNDS):
        if found is None:
            return None
        parts = Components.of(found.strokes)
        boxed, perhaps = boxes(parts)
        lines = rules(parts)
        if boxed.any():
            lines |= grow(parts.select(boxed), 2)
        within = _without(found, difference, gone, lines)
        if within is None and boxed[1:].all():
            return None  # nothing but empty boxes
        if within is not None:
            gone, found = gone | lines, within
            removed.append((LINES, lines))
            continue
        shades = np.zeros(1, bool) if plain else find_shades(found, at_first, pixels.mean(0), gone)
        if shades.any():
            if shades.sum() > max(MAX_SHADES, len(shades) / 2):
                return None  # the grain of paper
            doubts.add(SHADE)
            if at_first is None:
                # Strokes are narrower than what a shade covers: what is wider is paper.
                at_first, difference = found.strength, difference - smooth_part(difference)
            else:
                gone |= np.take(shades, grow(found.strokes, max(gone.shape) // SHADE_MARGIN))
            found = find_strokes(difference, gone)
            continue
        table = parts.select(edges(parts))
        if table.any():
            table = grow(table, 2 + max(gone.shape) // 100)  # with soft edges
        within = _without(found, difference, gone, table)
        if within is None:
            if table.any() and is_beside_page(parts):
                return None
            break
        gone, found = gone | table, within
        removed.append((EDGE, table))
    else:
        return None
    scaled = (found.strength / found.peak - found.low) / (1 - 2 * found.low)
    ink = np.clip(scaled, 0, 1) * (found.components > 0)
    doubts |= _doubts(found) | ({BOX} if perhaps else set())
    reach = 1 + _stroke_width(found.strokes > 0) // 2 if removed else 0
    beside = tuple((doubt, grow(mask, reach)) for doubt, mask in removed)
    return Ink(ink, found.components, tuple(sorted(doubts)), beside, found, gone)


def _stroke_width(strokes: Mask) -> int:
    """Return the mean width of strokes in pixels: an edge lies on either side of them."""
    edge = strokes & grow(~strokes)
    return round(2 * np.count_nonzero(strokes) / np.count_nonzero(edge))


def _doubts(found: Strokes) -> set[str]:
    """Return what makes strokes doubtful, in plain words."""
    doubts = {DROPPED} if found.dropped else set()
    if found.low > THRESHOLDS.doubtful_low:
        doubts.add(PALE)
    sides = Components.of(found.strokes).at_sides[:, 1:].any(1).sum()
    # A picture that is cut to its digit touches it on all sides.
    if 0 < sides < 4 and min(found.strokes.shape) >= THRESHOLDS.min_shaded_side:
        doubts.add(AT_BORDER)
    return doubts


def _without(found: Strokes, difference: Floats, gone: Mask, surroundings: Mask) -> Strokes | None:
    """Find strokes without their surroundings (height, width); None if there are only these."""
    if not surroundings.any():
        return None
    within = find_strokes(difference, gone | surroundings)
    if within is None or _side(within) < THRESHOLDS.min_rest * _side(found):
        return None
    return within


def _side(found: Strokes) -> int:
    """Return the longer side of the largest component in pixels."""
    parts = Components.of(found.strokes)
    return int(max(parts.heights.max(), parts.widths.max()))
