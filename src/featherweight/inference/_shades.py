"""Tell shades and the edges of shadows from strokes.

find_shades(found, None, grey, gone)    # which components (n + 1,) are shades
"""

import numpy as np
from numpy.typing import NDArray

from ._components import Components, Labels, Mask, grow, window
from ._planes import Floats
from ._strokes import Strokes
from ._thresholds import THRESHOLDS


def find_shades(found: Strokes, at_first: Floats | None, grey: Floats, gone: Mask) -> Mask:
    """Return which components (n + 1,) are shades or edges of shadows.

    A stroke has a sharp edge, and the same paper on all sides. `grey` are the grey levels of the
    picture (height, width), `at_first` is the strength before what is wide was taken for paper,
    and pixels that are `gone` are no paper.
    """
    strokes, strength = found.strokes, found.strength
    n, limits = int(strokes.max()) + 1, THRESHOLDS
    if min(strokes.shape) < limits.min_shaded_side:
        return np.zeros(n, bool)
    near = max(2, round(max(strokes.shape) / 100))
    inside = window(strokes > 0)
    reach = 2 * near + 2
    inside = (
        slice(max(inside[0].start - reach, 0), inside[0].stop + reach),
        slice(max(inside[1].start - reach, 0), inside[1].stop + reach),
    )
    strokes, strength, grey = strokes[inside], strength[inside], grey[inside]

    def mean(of: Floats, where: Labels) -> NDArray[np.float64]:
        """Return the mean over the pixels of each number."""
        flat = where.ravel()
        count = np.bincount(flat, minlength=n)
        return np.bincount(flat, of.ravel(), minlength=n) / np.maximum(count, 1)

    outer = grow(strokes, near - 1)
    ring = grow(outer)
    beyond = np.where(outer > 0, 0, ring)
    soft = mean(strength, beyond) > limits.shade_softness * mean(strength, strokes)
    around = np.where((ring > 0) | gone[inside], 0, grow(ring, 2))
    light = mean(grey, around)
    contrast = np.abs(light - mean(grey, strokes))
    spread = np.sqrt(np.maximum(mean(grey**2, around) - light**2, 0))
    # Of wide components the middle is compared too: a shade rises slowly there.
    outside = strokes == 0
    inner = np.where(grow(outside, near - 1), 0, strokes)
    depth = np.where(grow(outside, near), inner, 0)
    area, held = (np.bincount(each.ravel(), minlength=n) for each in (strokes, inner))
    rise = mean(strength, depth) - mean(strength, beyond)
    # Hardly a shade is as dark as ink, so that dark strokes may be far out of focus.
    full = mean(strength, strokes)
    least_rise = np.where(full > limits.dark, limits.dark_rise, limits.shade_rise)
    soft |= (held > limits.wide_share * area) & (rise < least_rise * full)
    if at_first is not None:
        whole = at_first[inside]
        soft |= mean(whole, beyond) > limits.tip_softness * mean(whole, strokes)
    # A fold goes through the picture; a stroke hardly ever does.
    through = (Components.of(found.strokes).at_sides > 0).sum(0) >= 2
    least = np.where(through, limits.fold_contrast, limits.step_contrast)
    # Ink that crosses a shadow's edge is darker than both sides.
    beside = contrast - spread < limits.beside_contrast * np.maximum(light, 255 - light)
    chosen = soft | ((contrast < least * spread) & beside)
    chosen[0] = False
    return chosen
