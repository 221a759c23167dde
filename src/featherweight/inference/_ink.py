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

from ._components import Components, Labels, Mask, Window, grow, label, window
from ._surroundings import edges, is_beside_page, rules

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
    narrow_span: float = 0.07
    """The same where there are shades that this square keeps as ink: strokes narrower than a
    seventh of the picture remain."""
    uneven_light: float = 10.0
    """Grey levels that speak against a paper, above which light that falls off across it is tried:
    the paper's standard deviation and its distance from the border."""
    light_cost: float = 0.3
    """What speaks against light that falls off, relative to its standard deviation."""
    min_contrast: float = 0.04
    """Least strength of ink. It is 10 grey levels on white paper; less is paper texture."""
    noise_deviations: float = 4.0
    """Least strength of ink in standard deviations of the noise. Normal noise exceeds 4 in about 8
    pixels of 512 x 512."""
    uneven: float = 1.5
    """Most strength of full ink, relative to the strength that half of the ink exceeds. With an
    even pen the two are alike."""
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
    shadow_strength: float = 0.5
    """Mean strength, relative to the strongest component inside the picture, below which a
    component at the border is what is left of a shadow. A stroke that is cut off by the border has
    the strength of the others."""
    deep_strength: float = 0.6
    """Strength, relative to full ink, that at least one pixel of a stroke has. The pixels of a
    stain or of a shadow's rest are all weaker."""
    min_rest: float = 0.08
    """Least longer side of the largest component without what surrounds the writing, relative to
    the longer side with it. What is left of a digit that was taken for surroundings is shorter."""
    min_mass: float = 0.03
    """Least summed strength of a component, relative to the heaviest. Smaller ones are dust; the
    loose bar of a 5 is heavier."""
    doubtful_mass: float = 0.1
    """The same for a component that is too pale to be a stroke, above which leaving it out is
    doubtful."""
    doubtful_low: float = 0.35
    """Start of a soft edge, relative to full ink, above which noise makes the ink doubtful."""
    min_side: float = 0.025
    """Least longer side of the ink, relative to the picture's longer side, and twice the least of
    its largest component."""
    min_side_pixels: int = 5
    """The same in pixels, for small pictures. Smaller ink has no shape that could be read."""
    min_edge: float = 0.15
    """Least difference over 3 pixels, relative to full ink, somewhere in the picture. A shade
    changes more slowly than any stroke, even a blurred one."""
    min_shaded_side: int = 64
    """Shorter side in pixels from which shades are looked for. In smaller pictures strokes have no
    sharp edges either."""
    shade_softness: float = 0.28
    """Strength a hundredth of the picture outside of a component, relative to that inside, above
    which it is a shade. Out of focus, strokes reach 0.25."""
    wide_share: float = 0.2
    """Share of a component's pixels that lie a hundredth of the picture inside of it, above which
    it is wide."""
    shade_rise: float = 0.6
    """Difference of strength from that depth to as far outside, relative to the component's mean,
    below which a wide component is a shade. Out of focus, strokes rise by 0.7."""
    tip_softness: float = 0.55
    """The same before what is wide was taken for paper, which leaves the tip of a shade."""
    step_contrast: float = 2.5
    """Difference of grey levels between a component and what is around it, in standard deviations
    of what is around it, below which it is the edge of a shadow or a fold."""
    beside_contrast: float = 0.3
    """Difference of grey levels between a component and the darker side of what is around it,
    relative to the largest possible one, from which it is ink for all that."""
    fold_contrast: float = 5.0
    """The same for a component that goes from border to border."""
    min_signal: float = 5.0
    """Least ratio of full ink to the root mean square of what is outside the ink. In pure noise the
    outside is nearly as strong as the supposed ink."""
    small: float = 0.06
    """Longer side of the largest component, relative to the picture's, below which the components
    may be the grain of rough paper."""
    min_signal_small: float = 10.0
    """The same ratio for such components. Of many grains some are much darker than the others."""
    min_height: float = 0.6
    """Least height of a digit of a number, relative to the tallest. A loose stroke is shorter."""
    min_digit_mass: float = 0.1
    """Least ink of a digit of a number, relative to the heaviest. A loose stroke has less."""
    min_number: float = 0.03
    """Least height of the tallest digit of a number, relative to the picture's longer side. Dots
    that cover a whole sheet are shorter."""
    min_number_pixels: int = 8
    """The same in pixels, for small pictures."""


# What makes a preparation doubtful.
AT_BORDER = "touches the border"
DROPPED = "parts dropped"
EDGE = "page edge removed"
LINES = "lines removed"
PALE = "low contrast"
SHADE = "shade removed"
THRESHOLDS = Thresholds()
PAPER_GRID = 64  # cells along the longer side; paper is smooth, and morphology is slow
MAX_ROUNDS = 6  # of removing surroundings; each may show others behind them
SMOOTHING = (3, 7)  # sides of the squares of pixels that are averaged where noise hides the ink
MIN_SMOOTHED = 25  # squares along the shorter side of a picture that is smoothed
MAX_SHADES = 7  # components; if more are shades, and most of them, it is the grain of paper
SHADE_MARGIN = 12  # of the longer side: how far a shade that is removed may reach
SURFACE_STEPS = 4  # of weighted least squares
GRAIN_GRID = 16  # cells along the longer side; differences between them are shades, not grain
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
    paper = estimate_paper(pixels)
    plain = paper.size == len(paper)  # a drawing has no shades
    difference = _difference(pixels, paper)
    gone = np.zeros(pixels.shape[1:], bool)
    found = _find(difference, gone)
    for side in SMOOTHING:
        if found is None and min(gone.shape) >= MIN_SMOOTHED * side:
            difference = np.stack([box_blur(plane, side) for plane in _difference(pixels, paper)])
            found = _find(difference, gone)
    at_first: Floats | None = None
    doubts: set[str] = set()
    for _ in range(MAX_ROUNDS):
        if found is None:
            return None
        shades = np.zeros(1, bool) if plain else _shades(found, at_first, pixels.mean(0))
        if shades.any():
            if shades.sum() > max(MAX_SHADES, len(shades) / 2):
                return None  # the grain of paper
            doubts.add(SHADE)
            if at_first is None:
                # Strokes are narrower than what a shade covers: what is wider is paper.
                at_first, difference = found.strength, difference - _smooth_part(difference)
            else:
                gone |= np.take(shades, grow(found.strokes, max(gone.shape) // SHADE_MARGIN))
            found = _find(difference, gone)
            continue
        others, why = _surroundings(found)
        if not others.any():
            break
        within = _find(difference, gone | others)
        if within is None or _side(within) < THRESHOLDS.min_rest * _side(found):
            if is_beside_page(Components.of(found.strokes)):
                return None
            break
        gone, found = gone | others, within
        doubts |= why
    else:
        return None
    scaled = (found.strength / found.peak - found.low) / (1 - 2 * found.low)
    ink = np.clip(scaled, 0, 1) * (found.components > 0)
    doubts |= _doubts(found)
    return Ink(ink, found.components, tuple(sorted(doubts)))


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
    dropped: bool
    "Whether a component that is as heavy as a stroke is none, because it is pale."


def _find(difference: Floats, gone: Mask) -> _Found | None:
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
    return _Found(strength, peak, low, strokes, near, dropped)


def _shades(found: _Found, at_first: Floats | None, grey: Floats) -> Mask:
    """Return which components (n + 1,) are shades or edges of shadows.

    A stroke has a sharp edge, and the same paper on all sides. `grey` are the grey levels of the
    picture (height, width), `at_first` is the strength before what is wide was taken for paper.
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
    around = np.where(ring > 0, 0, grow(ring, 2))
    light = mean(grey, around)
    contrast = np.abs(light - mean(grey, strokes))
    spread = np.sqrt(np.maximum(mean(grey**2, around) - light**2, 0))
    # Of wide components the middle is compared too: a shade rises slowly there.
    outside = strokes == 0
    inner = np.where(grow(outside, near - 1), 0, strokes)
    depth = np.where(grow(outside, near), inner, 0)
    area, held = (np.bincount(each.ravel(), minlength=n) for each in (strokes, inner))
    rise = mean(strength, depth) - mean(strength, beyond)
    soft |= (held > limits.wide_share * area) & (rise < limits.shade_rise * mean(strength, strokes))
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


def _smooth_part(difference: Floats) -> Floats:
    """Return what of a difference (3, height, width) from the paper is wider than strokes."""
    height, width = difference.shape[1:]
    rows, columns = _grid(height, width)
    cells = _resize(difference, rows, columns)
    span = 2 * int(THRESHOLDS.narrow_span * max(rows, columns)) + 1
    # Ink may be darker or lighter than the paper in each channel.
    darker = cells.sum((1, 2), keepdims=True) < 0
    return _resize(np.where(darker, closing(cells, span), opening(cells, span)), height, width)


def _doubts(found: _Found) -> set[str]:
    """Return what makes strokes doubtful, in plain words."""
    doubts = {DROPPED} if found.dropped else set()
    if found.low > THRESHOLDS.doubtful_low:
        doubts.add(PALE)
    sides = Components.of(found.strokes).at_sides[:, 1:].any(1).sum()
    # A picture that is cut to its digit touches it on all sides.
    if 0 < sides < 4 and min(found.strokes.shape) >= THRESHOLDS.min_shaded_side:
        doubts.add(AT_BORDER)
    return doubts


def _surroundings(found: _Found) -> tuple[Mask, set[str]]:
    """Return the pixels (height, width) of surroundings, and in words what they are."""
    why = set()
    mask = found.strokes > 0
    parts = Components.of(found.strokes)
    gone = parts.select(edges(parts))
    if gone.any():
        why.add(EDGE)
        gone = grow(gone, 2 + max(mask.shape) // 100)  # soft edges
    lines = rules(mask & ~gone)
    if lines.any():
        why.add(LINES)
    return gone | lines, why


def _side(found: _Found) -> int:
    """Return the longer side of the largest component in pixels."""
    parts = Components.of(found.strokes)
    return int(max(parts.heights.max(), parts.widths.max()))


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
    rows, columns = _grid(height, width)
    cells = _resize(pixels, rows, columns)  # (3, h, w) -> (3, rows, columns)
    paper, cost = _paper(cells)
    if cost > THRESHOLDS.uneven_light and min(height, width) >= THRESHOLDS.min_shaded_side:
        light = _surface(cells)
        flat, rest = _paper(cells - light)
        if rest + THRESHOLDS.light_cost * light.std((1, 2)).mean() < cost:
            paper = flat + light
    return _resize(paper, height, width)


def _paper(cells: Floats) -> tuple[Floats, float]:
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
    values = planes.reshape(len(planes), -1)
    fits = []
    for value in values:
        weights = np.ones_like(value)
        for _ in range(SURFACE_STEPS):
            weighted = basis * weights
            # Few rows or columns leave the surface undetermined: of all, the flattest.
            fit = np.linalg.pinv(weighted @ basis.T, 1e-6, hermitian=True) @ (weighted @ value)
            weights = 1 / np.maximum(np.abs(value - fit @ basis), 1)
        fits.append(fit @ basis)
    return np.reshape(np.array(fits, np.float32), planes.shape)


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
    if 2 * np.count_nonzero(weak) >= weak.size - 1:  # else it is a drawing: no need to sort
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
        grain = grain - _resize(_resize(grain, rows, columns), *near.shape)
    outside = np.sqrt((grain**2).mean())
    texture = largest < limits.small * max(near.shape)
    return bool(peak < (limits.min_signal_small if texture else limits.min_signal) * outside)


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


def pad(ink: Floats, rows: tuple[int, int], columns: tuple[int, int]) -> Floats:
    """Add rows (above, below) and columns (left, right) of paper; `np.pad` is much slower."""
    height, width = ink.shape
    padded = np.zeros((height + sum(rows), width + sum(columns)), np.float32)
    padded[rows[0] : rows[0] + height, columns[0] : columns[0] + width] = ink
    return padded


def box_blur(ink: Floats, side: int) -> Floats:
    """Return the mean over a square of `side` pixels around each pixel."""
    for axis in (0, 1):
        pads = [(side, side) if a == axis else (0, 0) for a in (0, 1)]
        total = np.cumsum(pad(ink, *pads), axis, np.float32)
        first, n = side // 2, ink.shape[axis]
        low, high = slice(first, first + n), slice(first + side, first + side + n)
        totals = total[high] - total[low] if axis == 0 else total[:, high] - total[:, low]
        ink = totals / np.float32(side)
    return ink
