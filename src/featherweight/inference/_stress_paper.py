"""Make stress pictures as people write and photograph: on paper, in boxes, beside the page.

    picture = boxed(image, rng)                 # image (28, 28) uint8, picture (h, w, 3) uint8
    picture = written_number([image], rng)      # several images side by side

`stress` has the categories that a program draws, and puts both together.
"""

from collections.abc import Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from ._stress_drawn import Coverage, Picture, glyph, on_canvas, paint

Light = NDArray[np.float32]  # (h, w), grey levels


def _photographed(
    coverage: Coverage, paper: Light, rng: Generator, ink: tuple[float, float] = (0.15, 0.6)
) -> Picture:
    """Return ink on paper with sensor noise; ink reflects a part of the paper's light."""
    grey = paper * (1 - coverage * (1 - rng.uniform(*ink))) + rng.normal(0, 3, paper.shape)
    tint = rng.uniform(0.94, 1, 3)
    return np.asarray(np.clip(grey[..., None] * tint, 0, 255), np.uint8)


def _page(shape: tuple[int, ...], rng: Generator) -> Light:
    """Return paper whose light falls off to one side."""
    y, x = np.mgrid[: shape[0], : shape[1]] / max(shape)
    angle = rng.uniform(0, 2 * np.pi)
    falling = (np.cos(angle) * x + np.sin(angle) * y + 1) / 2
    return np.asarray(rng.uniform(150, 245) * (1 - rng.uniform(0, 0.4) * falling), np.float32)


def _grain(paper: Light, rng: Generator, most: float) -> Light:
    """Return paper with fibres and flecks of three sizes."""
    for size in (1, 2.5, 6):
        grain = ndimage.gaussian_filter(rng.normal(size=paper.shape), size)
        paper = paper + rng.uniform(1, most) * grain / grain.std()
    return paper.astype(np.float32)


def rough_paper(image: NDArray[np.uint8], rng: Generator) -> Picture:
    """Photograph a digit on paper whose grain has a standard deviation of up to 9 grey levels."""
    coverage = on_canvas(glyph(image, rng.uniform(100, 200)), rng)
    return _photographed(coverage, _grain(_page(coverage.shape, rng), rng, 5), rng)


def tight_crop(image: NDArray[np.uint8], rng: Generator) -> Picture:
    """Cut a photograph to the digit, with 0 to 3 pixels of paper around it."""
    coverage = np.pad(glyph(image, rng.uniform(40, 160)), rng.integers(0, 4, (2, 2)))
    return _photographed(coverage, _page(coverage.shape, rng), rng)


def low_resolution(image: NDArray[np.uint8], rng: Generator) -> Picture:
    """Reduce a digit, cut to its ink, to 8x8 or 16x16 pixels, dark on light or light on dark."""
    side = int(rng.choice((8, 16)))
    large = Image.fromarray(glyph(image, 20 * side))
    coverage = np.asarray(large.resize((side, side), Image.Resampling.BOX), np.float32)
    light, dark = (255, 255, 255), (0, 0, 0)
    return paint(coverage, light, dark) if rng.random() < 0.5 else paint(coverage, dark, light)


def _line(coverage: Coverage, at: float, slope: float, width: float, strength: float) -> None:
    """Draw a line from left to right, `at` pixels down at the left."""
    y, x = np.mgrid[: coverage.shape[0], : coverage.shape[1]]
    away = np.abs(y + 0.5 - at - slope * x)
    np.maximum(coverage, strength * np.clip(width / 2 + 0.5 - away, 0, 1), out=coverage)


def boxed(image: NDArray[np.uint8], rng: Generator) -> Picture:
    """Scan a digit in a printed box, whose lines may go on to the border of the picture.

    In every fourth picture the digit reaches over a line.
    """
    side = int(rng.integers(90, 300))
    digit = glyph(image, rng.uniform(0.4, 0.7) * side)
    coverage = np.zeros((side, side), np.float32)
    free = [side - length for length in digit.shape]
    over = int(rng.integers(4)) == 0
    top, left = (int(n * (0.9 if over else rng.uniform(0.35, 0.65))) for n in free)
    coverage[top : top + digit.shape[0], left : left + digit.shape[1]] = digit * rng.uniform(0.5, 1)
    lines = np.zeros_like(coverage)
    width, slope = max(1.0, rng.uniform(0.01, 0.025) * side), rng.uniform(-0.01, 0.01)
    first, last = rng.uniform(0.04, 0.09) * side, rng.uniform(0.91, 0.96) * side
    for turned, tilt in ((lines, slope), (lines.T, -slope)):
        for at in (first, last):
            _line(turned, at, tilt, width, 1.0)
    if rng.random() < 0.5:  # the box ends at its corners
        inside = slice(int(first - 0.02 * side), int(last + 0.02 * side))
        whole, lines = lines, np.zeros_like(lines)
        lines[inside, inside] = whole[inside, inside]
    paper = np.full(coverage.shape, rng.uniform(225, 255), np.float32)
    return _photographed(np.maximum(coverage, lines), paper, rng, (0.05, 0.3))


def ruled_paper(image: NDArray[np.uint8], rng: Generator) -> Picture:
    """Photograph a digit on ruled or squared paper, whose lines are paler than the ink."""
    coverage = on_canvas(glyph(image, rng.uniform(100, 200)), rng)
    lines = np.zeros_like(coverage)
    apart, slope = rng.uniform(35, 90), rng.uniform(-0.03, 0.03)
    width, strength = rng.uniform(1, 2.5), rng.uniform(0.25, 0.7)
    for turned, tilt in ((lines, slope), *([(lines.T, -slope)] if rng.random() < 0.5 else [])):
        for at in np.arange(rng.uniform(0, apart), len(turned) + 20, apart):
            _line(turned, float(at), tilt, width, strength)
    return _photographed(np.maximum(coverage, lines), _page(coverage.shape, rng), rng, (0.1, 0.35))


def _table(paper: Light, rng: Generator) -> Light:
    """Return a page with a dark table along one of its sides, which may be aslant."""
    turn = int(rng.integers(4))
    page = np.rot90(paper, turn)
    y, x = np.mgrid[: page.shape[0], : page.shape[1]]
    beside = y < rng.uniform(0.04, 0.2) * len(page) + rng.uniform(-0.06, 0.06) * x
    soft = ndimage.gaussian_filter(beside.astype(np.float32), rng.uniform(0.5, 2))
    both = page * (1 - soft) + rng.uniform(10, 80) * soft
    return np.asarray(np.rot90(both, -turn), np.float32)


def _tables(paper: Light, rng: Generator) -> Light:
    """Return a page with a dark table on one to four of its sides, the page aslant by 8 degrees."""
    height, width = paper.shape
    y, x = np.mgrid[:height, :width]
    angle = np.deg2rad(rng.uniform(-8, 8))
    down = (np.cos(angle) * (y - height / 2) - np.sin(angle) * (x - width / 2)) / height + 0.5
    across = (np.sin(angle) * (y - height / 2) + np.cos(angle) * (x - width / 2)) / width + 0.5
    sides = rng.permutation([down, 1 - down, across, 1 - across])[: rng.integers(1, 5)]
    beside = np.any([side < rng.uniform(0.04, 0.18) for side in sides], 0)
    soft = ndimage.gaussian_filter(beside.astype(np.float32), rng.uniform(0.5, 2))
    wood = ndimage.gaussian_filter(rng.normal(size=paper.shape), (2, 25))
    table = rng.uniform(10, 90) * (1 + rng.uniform(0, 0.25) * wood / wood.std())
    return np.asarray(paper * (1 - soft) + table * soft, np.float32)


def page_edge(image: NDArray[np.uint8], rng: Generator) -> Picture:
    """Photograph a page on a table, which shows on one to four sides, a digit in the middle."""
    digit = glyph(image, rng.uniform(70, 130))
    height, width = (int(rng.uniform(3, 4) * max(digit.shape)) for _ in range(2))
    coverage = np.zeros((height, width), np.float32)
    top, left = (
        int(rng.uniform(0.35, 0.65) * (whole - side))
        for whole, side in zip(coverage.shape, digit.shape, strict=True)
    )
    coverage[top : top + digit.shape[0], left : left + digit.shape[1]] = digit
    return _photographed(coverage, _tables(_page(coverage.shape, rng), rng), rng)


def uneven_ink(image: NDArray[np.uint8], rng: Generator) -> Picture:
    """Draw with a brush that leaves a fifth to all of its ink, and most where it rested."""
    coverage = on_canvas(glyph(image, rng.uniform(100, 200)), rng)
    field = Image.fromarray(rng.uniform(0.22, 0.6, (4, 4)).astype(np.float32))
    pressure = np.array(field.resize(coverage.shape[::-1], Image.Resampling.BICUBIC))
    rows, columns = np.nonzero(coverage > 0.9)
    y, x = np.mgrid[: coverage.shape[0], : coverage.shape[1]]
    for i in rng.integers(0, len(rows), 2):
        away = (y - rows[i]) ** 2 + (x - columns[i]) ** 2
        pressure = np.maximum(pressure, np.exp(-away / rng.uniform(40, 150)))
    return paint(coverage * pressure.clip(0, 1), (255, 255, 255), (0, 0, 0))


def written_number(images: Sequence[NDArray[np.uint8]], rng: Generator) -> Picture:
    """Write digits side by side on a line that rises or falls by up to 5 degrees.

    A third of the numbers is underlined, a third ends in a full stop, and of a third two digits
    touch.
    """
    height = rng.uniform(60, 110)
    underlined, stop, touching = rng.random(3) < 1 / 3
    digits = [glyph(image, height * rng.uniform(0.85, 1.1)) for image in images]
    gaps = rng.uniform(0.12, 0.4, len(digits)) * height
    if touching:
        gaps[int(rng.integers(len(digits) - 1))] = -0.06 * height
    margin = int(height)
    wide = int(sum(digit.shape[1] for digit in digits) + np.maximum(gaps, 0).sum()) + 3 * margin
    slope = np.tan(np.deg2rad(rng.uniform(-5, 5)))
    coverage = np.zeros((int(3 * height + abs(slope) * wide), wide), np.float32)
    base = coverage.shape[0] / 2 + height / 2 - slope * wide / 2
    left = float(margin)
    for digit, gap in zip(digits, gaps, strict=True):
        top = int(base + slope * left + rng.uniform(-0.05, 0.05) * height - digit.shape[0])
        place = coverage[top : top + digit.shape[0], int(left) : int(left) + digit.shape[1]]
        np.maximum(place, digit, out=place)
        left += digit.shape[1] + gap
    y, x = np.mgrid[: coverage.shape[0], : coverage.shape[1]]
    if underlined:
        line = np.zeros_like(coverage)
        _line(line, base + 0.25 * height, slope, 0.06 * height, 1.0)
        coverage = np.maximum(coverage, np.where((x > margin) & (x < left), line, 0))
    if stop:
        away = np.hypot(x - left, y - base - slope * left + 0.04 * height)
        coverage = np.maximum(coverage, np.clip(0.06 * height + 0.5 - away, 0, 1))
    return _photographed(coverage.astype(np.float32), _page(coverage.shape, rng), rng, (0.1, 0.4))


def blank_paper(rng: Generator) -> Picture:
    """Photograph an empty page: rough, in a soft shadow, or with the table beside it."""
    paper = _page(tuple(int(n) for n in rng.integers(150, 501, 2)), rng)
    y, x = np.mgrid[: paper.shape[0], : paper.shape[1]] / max(paper.shape)
    kind = int(rng.integers(4))
    if kind == 0:
        paper = _grain(paper, rng, 4)
    elif kind == 1:  # light from above a corner
        paper = paper * (1 - rng.uniform(0.2, 0.6) * ((x - 0.4) ** 2 + (y - 0.4) ** 2))
    elif kind == 2:  # the shadow of a hand
        away = np.cos(0.5) * x + np.sin(0.5) * y - rng.uniform(0.3, 0.7)
        paper = paper * (1 - rng.uniform(0.1, 0.5) / (1 + np.exp(-away / rng.uniform(0.05, 0.15))))
    else:
        paper = _table(paper, rng)
    nothing = np.zeros_like(paper, np.float32)
    return _photographed(nothing, paper.astype(np.float32), rng)
