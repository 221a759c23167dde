"""Find the ink in a picture: which pixels belong to strokes, and how strongly.

    ink = find_ink(pixels)          # pixels (3, height, width) float32 from 0 to 255
    ink.strength, ink.components    # (height, width) each

Ink is whatever differs from the paper, darker or lighter. The steps are:

1. `estimate_paper`: the colour of the paper behind every pixel, shadows included.
2. `_ink_strength`: how far each pixel lies from the paper in the direction of the ink's colour.
3. `_levels`: the noise, the strength of full ink, and the threshold between paper and ink.
4. `_drop_shadows_and_frames`: which connected components are strokes.
5. `_is_blank`: reject pictures whose components are dust, a shade without an edge, or noise.

Everything uses NumPy and Pillow. SciPy has the same morphology and labelling, but it is not a
dependency of reading.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ._components import Components, Labels, Window, grow, label, window
from ._surroundings import edges, rules

Floats = NDArray[np.float32]
T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of the preparation of pictures.

    All were chosen on stress pictures made from validation images. Strengths are fractions of the
    way from the paper to the farther end of the range (black on light paper), or of full ink.
    """

    plain_difference: float = 1.5
    """Largest difference of a pixel from the border's median colour, in grey levels of 255, that
    counts as equal. A drawing made by a program has one paper colour; rounding moves it by one."""
    plain_fraction: float = 0.4
    """Fraction of such pixels above which the paper has one colour. A photograph has noise, and
    fewer of its pixels agree; a large digit covers up to about half of a drawing."""
    stroke_span: float = 0.17
    """Half the side of the square of opening and closing, relative to the longer side. Strokes
    narrower than a third of the picture are removed from the paper; shadows, which are wider, are
    not."""
    min_contrast: float = 0.04
    """Least strength of ink. It is 10 grey levels on white paper; less is paper texture."""
    noise_deviations: float = 4.0
    """Least strength of ink in standard deviations of the noise. Normal noise exceeds 4 in about 8
    pixels of 512 x 512."""
    uneven: float = 1.5
    """Most strength of full ink, relative to the strength that half of the ink exceeds. With an even
    pen the two are alike."""
    min_typical: float = 0.15
    """Least strength, relative to the strongest ink, of what that half is taken of."""
    min_low: float = 0.1
    """Least strength, relative to full ink, at which a soft edge begins. Scanned edges fade out
    below it."""
    low_deviations: float = 3.0
    """The same in standard deviations of the noise, for noisy pictures."""
    max_low: float = 0.5
    """Start of a soft edge above which the picture is noise: half of full ink would then be
    indistinguishable from paper."""
    component: float = 0.3
    """Least strength of a connected component's pixels, relative to full ink. At this level strokes
    hold together and the halos of neighbouring digits do not touch."""
    inner_mass: float = 0.0005
    """Least summed strength, relative to the picture's pixels at full ink, of a component that
    others are compared with. It keeps specks from deciding what a shadow is."""
    shadow_strength: float = 0.75
    """Mean strength, relative to the strongest component inside the picture, below which a
    component at the border is what is left of a shadow. A stroke that is cut off by the border has
    the strength of the others."""
    deep_strength: float = 0.6
    """Strength, relative to full ink, that at least one pixel of a stroke has. The pixels of a
    stain or of a shadow's rest are all weaker."""
    min_rest: float = 0.08
    """Least longer side of the ink without what surrounds it, relative to the longer side with it.
    What is left of a digit that was taken for surroundings is shorter."""
    min_mass: float = 0.03
    """Least summed strength of a component, relative to the heaviest. Smaller ones are dust; the
    loose bar of a 5 is heavier."""
    min_side: float = 0.025
    """Least longer side of the ink, relative to the picture's longer side."""
    min_side_pixels: int = 5
    """The same in pixels, for small pictures. Smaller ink has no shape that could be read."""
    min_edge: float = 0.15
    """Least difference over 3 pixels, relative to full ink, somewhere in the picture. A shade
    changes more slowly than any stroke, even a blurred one."""
    min_signal: float = 5.0
    """Least ratio of full ink to the root mean square of what is outside the ink. In pure noise the
    outside is nearly as strong as the supposed ink."""
    min_height: float = 0.6
    """Least height of a digit of a number, relative to the tallest. A loose stroke is shorter."""
    min_digit_mass: float = 0.1
    """Least ink of a digit of a number, relative to the heaviest. A loose stroke has less."""
    overlap: float = 0.5
    """Horizontal overlap of two components, relative to the narrower, above which they belong to
    one digit: fragments stand above or below each other, digits beside each other."""
    min_number: float = 0.03
    """Least height of the tallest digit of a number, relative to the picture's longer side. Dots
    that cover a whole sheet are shorter."""
    min_number_pixels: int = 8
    """The same in pixels, for small pictures."""


THRESHOLDS = Thresholds()
PAPER_GRID = 64  # cells along the longer side; paper is smooth, and morphology is slow
MAX_ROUNDS = 3  # of removing surroundings; each may show others behind them
PEAK_POWER = 6  # weights the mean so that strong ink decides it, but no single pixel


@dataclass(frozen=True, eq=False)
class Ink:
    """The ink of a picture."""

    strength: Floats
    "How strong the ink of each pixel is (height, width), from 0 (paper) to 1."
    components: Labels
    "Number of the component that each pixel belongs to (height, width), 0 outside."
    doubts: tuple[str, ...] = ()
    "What makes the preparation doubtful, in plain words."


def find_ink(pixels: Floats) -> Ink | None:
    """Find the ink in a picture (3, height, width) of values from 0 to 255.

    Returns None if the picture has no ink.
    """
    difference = _difference(pixels, estimate_paper(pixels))
    found = _find(difference)
    doubts: list[str] = []
    for _ in range(MAX_ROUNDS):
        if found is None:
            return None
        gone, why = _surroundings(found)
        if not gone.any():
            break
        rest = np.where(gone, 0, difference)
        within = _find(rest)
        if within is None or _side(within) < THRESHOLDS.min_rest * _side(found):
            break
        difference, found = rest, within
        doubts += [each for each in why if each not in doubts]
    if found is None:
        return None
    scaled = (found.strength / found.peak - found.low) / (1 - 2 * found.low)
    ink = np.clip(scaled, 0, 1) * (found.components > 0)
    return Ink(ink, found.components, tuple(doubts))


@dataclass(frozen=True, eq=False)
class _Found:
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


def _find(difference: Floats) -> _Found | None:
    """Find the strokes by the difference (3, height, width) from the paper."""
    strength = _ink_strength(difference)
    levels = _levels(strength)
    if levels is None:
        return None
    peak, low = levels
    strong = strength > max(THRESHOLDS.component, low) * peak
    inside = window(strong)  # most of a drawing is paper: what follows is done where ink is
    strokes = np.zeros(strong.shape, np.intp)
    strokes[inside] = label(strong[inside])
    strokes[inside] = _drop_shadows(strength, strokes, inside, peak)
    near = np.zeros(strong.shape, np.intp)
    near[inside] = grow(strokes[inside])
    if _is_blank(strength, strokes[inside], near, inside, peak):
        return None
    return _Found(strength, peak, low, strokes, near)


def _surroundings(found: _Found) -> tuple[NDArray[np.bool_], list[str]]:
    """Return the pixels (height, width) of surroundings, and in words what they are."""
    why = []
    mask = found.strokes > 0
    parts = Components.of(found.strokes)
    gone = parts.select(edges(parts))
    if gone.any():
        why.append("page edge removed")
        for _ in range(2 + max(mask.shape) // 100):  # soft edges
            gone = grow(gone)
    lines = rules(mask & ~gone)
    if lines.any():
        why.append("lines removed")
    return gone | lines, why


def _side(found: _Found) -> int:
    """Return the longer side of the ink in pixels."""
    return max(int(np.ptp(np.flatnonzero(found.strokes.any(axis)))) + 1 for axis in (0, 1))


def estimate_paper(pixels: Floats) -> Floats:
    """Estimate the colour of the paper behind every pixel.

    Returns (3, 1, 1) if the paper has one colour, as in a drawing made by a program; otherwise
    (3, height, width). Then, in each channel, opening or closing by a square (Serra 1982) removes
    the strokes and keeps shadows with their edges. Of the two estimates, the one is kept that is
    more uniform and closer to the border's colour.
    """
    plain = np.median(border(pixels), 1).astype(np.float32)[:, None, None]
    difference, most = pixels - plain, THRESHOLDS.plain_difference
    same = ((difference < most) & (difference > -most)).all(0)
    if same.mean() > THRESHOLDS.plain_fraction:
        return plain
    height, width = pixels.shape[1:]
    rows, columns = (
        round(n * min(1, PAPER_GRID / max(height, width))) or 1 for n in (height, width)
    )
    cells = _resize(pixels, rows, columns)  # (3, h, w) -> (3, rows, columns)
    span = 2 * int(THRESHOLDS.stroke_span * max(rows, columns)) + 1
    papers = [closing(cells, span), opening(cells, span)]
    # A table or a frame may cover a part of the border, or all of it: two cells within count too.
    rings = [slice(n, -n or None) for n in (0, 2) if 32 * n <= min(height, width)]
    costs = [
        paper.std((1, 2))
        + np.min([np.median(np.abs(border((paper - cells)[:, r, r])), 1) for r in rings], 0)
        for paper in papers
    ]
    # Each channel chooses for itself: a yellow pen on white paper shows in the blue channel only.
    return _resize(np.where((costs[0] < costs[1])[:, None, None], *papers), height, width)


def _difference(pixels: Floats, paper: Floats) -> Floats:
    """Return the difference of each pixel from the paper, relative to the largest possible one.

    Because it is relative, a shadow, which dims ink and paper alike, does not change it.
    """
    brightness = paper.mean(0)
    difference = pixels - paper
    difference /= np.maximum(brightness, 255 - brightness)
    return difference


def _ink_strength(difference: Floats) -> Floats:
    """Return how far each pixel lies from the paper in the direction of the ink (height, width).

    Ink is taken to have one colour. Projecting on its direction keeps the noise unbiased and the
    soft edges of strokes linear.
    """
    direction = (difference * (difference**2).sum(0)).sum((1, 2))  # (3,), strong pixels decide
    direction = direction / max(float(np.linalg.norm(direction)), 1e-9)
    return np.tensordot(direction, difference, 1)


def _levels(strength: Floats) -> tuple[float, float] | None:
    """Return the strength of full ink and, relative to it, where a soft edge begins.

    Returns None if there is no ink or the noise hides it.
    """
    inked = strength[strength > THRESHOLDS.min_contrast]
    if not len(inked):
        return None
    # The median absolute deviation times 1.4826 estimates a normal standard deviation. It is that
    # of the paper alone: in a tight crop ink covers more than half, and would count as noise.
    weak = np.abs(strength[strength < THRESHOLDS.max_low * _strongest(inked)])
    clean = 2 * np.count_nonzero(weak) < weak.size - 1  # as in drawings; then no need to sort
    noise = 0.0 if clean else 1.4826 * float(np.median(weak))
    least = max(THRESHOLDS.noise_deviations * noise, THRESHOLDS.min_contrast)
    inked = strength[strength > least]
    if not len(inked):
        return None
    # A few dark spots, where a brush rested, do not make the rest of the strokes pale.
    peak = _strongest(inked)
    least = max(least, THRESHOLDS.min_typical * peak)
    peak = min(peak, THRESHOLDS.uneven * _typical(strength, least))
    low = max(THRESHOLDS.min_low, THRESHOLDS.low_deviations * noise / peak)
    return None if low > THRESHOLDS.max_low else (peak, low)


def _strongest(inked: Floats) -> float:
    """Return the strength of full ink: a mean that strong pixels decide, but no single one."""
    return float((inked ** (PEAK_POWER + 1)).sum() / (inked**PEAK_POWER).sum())


def _typical(strength: Floats, least: float) -> float:
    """Return the strength above `least` that half of the ink along the middle of strokes exceeds.

    The middle is where neither neighbour in the row, or neither in the column, is stronger.
    """
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
) -> Labels:
    """Keep the components that are strokes, and number them from 1; all others become 0.

    The arrays (height, width) are those of the whole picture; the result is of the window.
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
    mass[stain | shadow] = 0
    mass[0] = 0  # the paper
    kept = mass > limits.min_mass * mass.max()
    return np.take(np.where(kept, np.cumsum(kept), 0), components)


def _is_blank(strength: Floats, strokes: Labels, near: Labels, inside: Window, peak: float) -> bool:
    """Return whether the components are dust, a shade without an edge, or noise.

    `strokes` are the components in the window; `near` is of the whole picture.
    """
    rows, columns = np.flatnonzero(strokes.any(1)), np.flatnonzero(strokes.any(0))
    if not len(rows):
        return True
    longer = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    if longer < max(THRESHOLDS.min_side_pixels, THRESHOLDS.min_side * max(near.shape)):
        return True
    # Nearly always the strokes themselves are steep enough, and the rest need not be looked at.
    if all(_steepest(part) < THRESHOLDS.min_edge * peak for part in (strength[inside], strength)):
        return True
    outside = np.sqrt((strength[near == 0] ** 2).sum() / near.size)
    return bool(peak < THRESHOLDS.min_signal * outside)


def _steepest(strength: Floats) -> float:
    """Return the largest difference over 3 pixels, along the rows or the columns."""
    return max(
        float(np.abs(strength[3:] - strength[:-3]).max(initial=0)),
        float(np.abs(strength[:, 3:] - strength[:, :-3]).max(initial=0)),
    )


def opening(planes: Floats, span: int) -> Floats:
    """Remove what is lighter than its surroundings and narrower than `span` pixels."""
    return dilation(erosion(planes, span), span)


def closing(planes: Floats, span: int) -> Floats:
    """Remove what is darker than its surroundings and narrower than `span` pixels."""
    return erosion(dilation(planes, span), span)


def erosion(planes: Floats, span: int) -> Floats:
    """Return the minimum in a square of `span` pixels around each pixel; planes (n, h, w)."""
    return -dilation(-planes, span)


def dilation(planes: Floats, span: int) -> Floats:
    """Return the maximum in a square of `span` pixels around each pixel; planes (n, h, w).

    Pixels beyond the border are mirrored. The square is separable: rows first, then columns.
    """
    for axis in (1, 2):
        pads = [(span // 2, span // 2) if a == axis else (0, 0) for a in range(3)]
        padded = np.pad(planes, pads, "symmetric")
        planes = np.lib.stride_tricks.sliding_window_view(padded, span, axis).max(-1)
    return planes


def border(planes: NDArray[T]) -> NDArray[T]:
    """Return the pixels along the four sides, (..., h, w) -> (..., n)."""
    return np.concatenate(
        [planes[..., 0, :], planes[..., -1, :], planes[..., 0], planes[..., -1]], -1
    )


def _resize(planes: Floats, height: int, width: int) -> Floats:
    """Resize (n, h, w) -> (n, height, width): down by cell means, up by linear interpolation."""
    how = Image.Resampling.BOX if height <= planes.shape[1] else Image.Resampling.BILINEAR
    return np.stack(
        [np.asarray(Image.fromarray(plane).resize((width, height), how)) for plane in planes]
    )
