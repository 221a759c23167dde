"""Find the strokes in what differs from the paper.

    found = find_strokes(difference, gone)  # difference (3, height, width), gone (height, width)
    found.strength, found.strokes           # None if there are none

1. `_ink_strength`: how far each pixel lies from the paper in the direction of the ink's colour.
2. `_levels`: the noise, the strength of full ink, and the threshold between paper and ink.
3. `_drop_shadows`: which connected components are strokes.
4. `_is_blank`: reject pictures whose components are dust, a shade without an edge, or noise.
"""

from dataclasses import dataclass

import numpy as np

from ._components import Components, Labels, Mask, Window, grow, label, window
from ._planes import Floats, border, resize
from ._thresholds import THRESHOLDS

GRAIN_GRID = 16  # cells along the longer side; differences between them are shades, not grain
PEAK_POWER = 6  # weights the mean so that strong ink decides it, but no single pixel


@dataclass(frozen=True, eq=False)
class Strokes:
    """Strokes in a picture."""

    strength: Floats
    "How far each pixel lies from the paper (height, width)."
    peak: float
    "The strength of full ink."
    low: float
    "Where a soft edge begins, relative to full ink."
    strokes: Labels
    "Components that are strokes (height, width)."
    components: Labels
    "The same with their soft edges."
    dropped: bool
    "Whether a component that is as heavy as a stroke is none, because it is pale."


def find_strokes(difference: Floats, gone: Mask) -> Strokes | None:
    """Find the strokes by the difference (3, height, width) from the paper.

    Pixels (height, width) that are `gone` are no ink, and say nothing about the paper.
    """
    kept = np.where(gone, np.float32(0), difference) if gone.any() else difference
    strength = _ink_strength(kept)
    levels = _levels(strength, gone)
    if levels is None:
        return None
    peak, low, paper = levels
    strength = strength - np.float32(paper)
    strong = strength > max(THRESHOLDS.component, low) * peak
    inside = window(strong)  # most of a drawing is paper: what follows is done where ink is
    strokes = np.zeros(strong.shape, np.intp)
    strokes[inside] = label(strong[inside])
    strokes[inside], dropped = _drop_shadows(strength, strokes, inside, peak)
    near = np.zeros(strong.shape, np.intp)
    near[inside] = grow(strokes[inside])
    if _is_blank(strength, strokes[inside], near, inside, peak):
        return None
    return Strokes(strength, peak, low, strokes, near, dropped)


def _ink_strength(difference: Floats) -> Floats:
    """Return how far each pixel lies from the paper in the direction of the ink (height, width).

    Ink is taken to have one colour. Projecting on its direction keeps the noise unbiased and the
    soft edges of strokes linear.
    """
    direction = (difference * (difference**2).sum(0)).sum((1, 2))  # (3,), strong pixels decide
    direction = direction / max(float(np.linalg.norm(direction)), 1e-9)
    return np.tensordot(direction, difference, 1)


def _levels(strength: Floats, gone: Mask) -> tuple[float, float, float] | None:
    """Return the strength of full ink, where relative to it a soft edge begins, and the paper's.

    Returns None if there is no ink or the noise hides it.
    """
    inked = strength[strength > THRESHOLDS.min_contrast]
    if not len(inked):
        return None
    # The median absolute deviation times 1.4826 estimates a normal standard deviation. It is that
    # of the paper alone: in a tight crop ink covers more than half, and would count as noise.
    weak = strength[(strength < THRESHOLDS.max_low * _strongest(inked)) & ~gone]
    noise = paper = 0.0
    # Where most of it is exactly paper it is a drawing: no need to sort.
    if weak.size and 2 * np.count_nonzero(weak) >= weak.size - 1:
        # Rough paper is darker than its estimate, which is its lightest grain.
        paper = max(float(np.median(weak)), 0.0)
        noise = 1.4826 * float(np.median(np.abs(weak - paper)))
        strength = strength - np.float32(paper)
    least = max(THRESHOLDS.noise_deviations * noise, THRESHOLDS.min_contrast)
    inked = strength[strength > least]
    if not len(inked):
        return None
    # A few dark spots, where a brush rested, do not make the rest of the strokes pale.
    peak = _strongest(inked)
    least = max(least, THRESHOLDS.min_typical * peak)
    peak = min(peak, THRESHOLDS.uneven * _typical(strength, least))
    low = max(THRESHOLDS.min_low, THRESHOLDS.low_deviations * noise / peak)
    return None if low > THRESHOLDS.max_low else (peak, low, paper)


def _strongest(inked: Floats) -> float:
    """Return the strength of full ink: a mean that strong pixels decide, but no single one."""
    return float((inked ** (PEAK_POWER + 1)).sum() / (inked**PEAK_POWER).sum())


def _typical(strength: Floats, least: float) -> float:
    """Return the strength above `least` that half of the ink along the middle of strokes exceeds.

    The middle is where neither neighbour in the row, or neither in the column, is stronger.
    """
    strength = strength[window(strength > least)]
    padded = np.pad(strength, 1, constant_values=-1)
    rows, columns = padded[1:-1], padded[:, 1:-1]
    ridge = (strength >= rows[:, :-2]) & (strength >= rows[:, 2:])
    ridge |= (strength >= columns[:-2]) & (strength >= columns[2:])
    inked = np.sort(strength[ridge & (strength > least)])
    if not len(inked):
        return float("inf")
    mass = np.cumsum(inked)
    return float(inked[np.searchsorted(mass, 0.5 * mass[-1])])


def _drop_shadows(
    strength: Floats, components: Labels, inside: Window, peak: float
) -> tuple[Labels, bool]:
    """Keep the components that are strokes, and number them from 1; all others become 0.

    The arrays (height, width) are those of the whole picture; the result is of the window. Returns
    too whether one of the others is heavy.
    """
    limits = THRESHOLDS
    at_border = np.bincount(border(components))
    n_pixels, strength, components = components.size, strength[inside], components[inside]
    area = np.bincount(components.ravel())  # per component: (number of components + 1,)
    mass = np.bincount(components.ravel(), strength.ravel())
    at_border = np.pad(at_border, (0, len(mass) - len(at_border)))
    mean = mass / np.maximum(area, 1)
    inner = (at_border == 0) & (mass > limits.inner_mass * n_pixels * peak)
    strongest = mean[inner].max(initial=0)
    shadow = (at_border > 0) & (mean < limits.shadow_strength * strongest)
    deep_pixels = components[strength > limits.deep_strength * peak]
    stain = np.bincount(deep_pixels, minlength=len(mass)) == 0
    mass[0] = 0  # the paper
    pale = mass[stain | shadow].max(initial=0)
    mass[stain | shadow] = 0
    kept = mass > limits.min_mass * mass.max()
    dropped = bool(pale > limits.doubtful_mass * mass.max())
    return np.take(np.where(kept, np.cumsum(kept), 0), components), dropped


def _is_blank(strength: Floats, strokes: Labels, near: Labels, inside: Window, peak: float) -> bool:
    """Return whether the components are dust, a shade without an edge, or noise.

    `strokes` are the components in the window; `near` is of the whole picture.
    """
    limits = THRESHOLDS
    parts = Components.of(strokes)
    if len(parts.area) == 1:
        return True
    rows = parts.bottom[1:].max() - parts.top[1:].min()
    columns = parts.right[1:].max() - parts.left[1:].min()
    largest = max(parts.heights.max(), parts.widths.max())
    least = max(limits.min_side_pixels, limits.min_side * max(near.shape))
    if max(rows, columns) < least or largest < max(limits.min_side_pixels, least / 2):
        return True
    # Nearly always the strokes themselves are steep enough, and the rest need not be looked at.
    if all(_steepest(part) < THRESHOLDS.min_edge * peak for part in (strength[inside], strength)):
        return True
    grain = np.where(near > 0, np.float32(0), strength)[None]
    if min(near.shape) >= limits.min_shaded_side:  # smooth shades are no grain
        rows, columns = (max(1, side * GRAIN_GRID // max(near.shape)) for side in near.shape)
        grain = grain - resize(resize(grain, rows, columns), *near.shape)
    outside = np.sqrt((grain**2).mean())
    texture = largest < limits.small * max(near.shape)
    return bool(peak < (limits.min_signal_small if texture else limits.min_signal) * outside)


def _steepest(strength: Floats) -> float:
    """Return the largest difference over 3 pixels, along the rows or the columns."""
    return max(
        float(np.abs(strength[3:] - strength[:-3]).max(initial=0)),
        float(np.abs(strength[:, 3:] - strength[:, :-3]).max(initial=0)),
    )
