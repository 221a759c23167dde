"""Make stress pictures that a program draws from MNIST images, in fonts, and as strokes.

picture = off_centre(image, rng)            # image (28, 28) uint8, picture (h, w, 3) uint8
"""

from pathlib import Path

import matplotlib
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

Coverage = NDArray[np.float32]  # (h, w), from 0 (paper) to 1 (ink)
Picture = NDArray[np.uint8]  # (h, w, 3), RGB
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
FONTS = (
    "DejaVuSans[!D]*",
    "DejaVuSerif[!D]*",
    "STIXGeneral*",
    "cmr10*",
    "cmss10*",
    "cmtt10*",
    "cmb10*",
    "cmti10*",
)

# Strokes of each digit as points (x, y) of a unit square, x to the right and y down. A curve passes
# smoothly through the points of a stroke; a corner is where one stroke ends and another begins.
STROKES: dict[int, list[list[tuple[float, float]]]] = {
    0: [[(0.5, 0), (0.16, 0.2), (0.1, 0.6), (0.45, 1), (0.84, 0.75), (0.84, 0.25), (0.5, 0)]],
    1: [[(0.3, 0.22), (0.52, 0)], [(0.52, 0), (0.5, 1)]],
    2: [
        [(0.12, 0.25), (0.35, 0.02), (0.75, 0.05), (0.8, 0.35), (0.45, 0.7), (0.08, 1)],
        [(0.08, 1), (0.92, 0.97)],
    ],
    3: [
        [(0.12, 0.12), (0.45, 0), (0.78, 0.2), (0.4, 0.46)],
        [(0.4, 0.46), (0.84, 0.68), (0.5, 1), (0.1, 0.88)],
    ],
    4: [[(0.5, 0), (0.1, 0.62)], [(0.1, 0.62), (0.92, 0.62)], [(0.7, 0.3), (0.66, 1)]],
    5: [
        [(0.82, 0), (0.25, 0.02)],
        [(0.25, 0.02), (0.18, 0.44)],
        [(0.18, 0.44), (0.55, 0.38), (0.84, 0.68), (0.5, 1), (0.1, 0.9)],
    ],
    6: [[(0.7, 0), (0.3, 0.3), (0.14, 0.7), (0.45, 1), (0.82, 0.78), (0.55, 0.54), (0.18, 0.7)]],
    7: [[(0.1, 0.02), (0.88, 0)], [(0.88, 0), (0.55, 0.5), (0.38, 1)]],
    8: [
        [
            (0.5, 0.46),
            (0.2, 0.24),
            (0.5, 0),
            (0.8, 0.24),
            (0.5, 0.46),
            (0.14, 0.76),
            (0.5, 1),
            (0.86, 0.76),
            (0.5, 0.46),
        ]
    ],
    9: [
        [(0.82, 0.2), (0.5, 0.02), (0.18, 0.26), (0.48, 0.5), (0.82, 0.2)],
        [(0.82, 0.2), (0.78, 0.6), (0.62, 1)],
    ],
}


# Strokes of digits as they are written in Europe, and of an open 4, in the same units.
STYLES: list[tuple[int, list[list[tuple[float, float]]]]] = [
    (1, [[(0.1, 0.4), (0.56, 0)], [(0.56, 0), (0.52, 1)]]),  # with a long flag
    (4, [[(0.3, 0), (0.12, 0.58)], [(0.12, 0.58), (0.9, 0.56)], [(0.68, 0.2), (0.62, 1)]]),
    (7, [[(0.1, 0.02), (0.88, 0)], [(0.88, 0), (0.55, 0.5), (0.4, 1)], [(0.3, 0.5), (0.82, 0.46)]]),
    (
        9,
        [
            [(0.82, 0.2), (0.5, 0.02), (0.18, 0.26), (0.48, 0.5), (0.82, 0.2)],
            [(0.82, 0.2), (0.8, 0.6), (0.6, 0.95), (0.15, 0.92)],  # curled
        ],
    ),
]


def glyph(image: NDArray[np.uint8], side: float) -> Coverage:
    """Return the coverage of a 28x28 image, with crisp edges and a longer side of `side` pixels."""
    rows, columns = np.flatnonzero(image.max(1) > 60), np.flatnonzero(image.max(0) > 60)
    box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    scale = side / max(box[2] - box[0], box[3] - box[1])
    padded = Image.fromarray(np.pad(image, 4)).convert("F")
    around = tuple(edge + offset for edge, offset in zip(box, (3, 3, 5, 5), strict=True))
    size = [round(scale * (around[i + 2] - around[i])) for i in (0, 1)]
    large = np.asarray(
        padded.resize((size[0], size[1]), Image.Resampling.BICUBIC, around), np.float32
    )
    return trim(np.clip((large / 255 - 0.5) * max(1.0, scale / 3) + 0.5, 0, 1))


def trim(coverage: Coverage) -> Coverage:
    """Crop to the ink."""
    rows, columns = np.flatnonzero(coverage.max(1) > 0.1), np.flatnonzero(coverage.max(0) > 0.1)
    return coverage[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def paint(
    coverage: Coverage, paper: NDArray[np.float32] | tuple[int, ...], ink: tuple[int, ...]
) -> Picture:
    """Return ink of one colour on paper of one colour, or of one for each pixel (h, w, 3)."""
    ground = np.asarray(paper, np.float32)
    rgb = ground + (np.asarray(ink, np.float32) - ground) * coverage[..., None]
    return np.clip(rgb + 0.5, 0, 255).astype(np.uint8)


def on_canvas(coverage: Coverage, rng: Generator, margin: int = 10) -> Coverage:
    """Place at random on a canvas of 300 to 500 pixels, at least `margin` from its border."""
    height, width = (int(max(rng.integers(300, 501), side + 2 * margin)) for side in coverage.shape)
    canvas = np.zeros((height, width), np.float32)
    y, x = (
        int(rng.integers(margin, whole - side - margin + 1))
        for whole, side in zip(canvas.shape, coverage.shape, strict=True)
    )
    canvas[y : y + coverage.shape[0], x : x + coverage.shape[1]] = coverage
    return canvas


def middle(coverage: Coverage, side: int = 320) -> Coverage:
    """Place in the middle of a square canvas."""
    around = [(side - length) // 2 for length in coverage.shape]
    return np.pad(
        coverage, [(a, side - a - length) for a, length in zip(around, coverage.shape, strict=True)]
    )


def off_centre(image: NDArray[np.uint8], rng: Generator) -> Picture:
    """Draw a digit of 100 to 200 pixels anywhere on a canvas of 300 to 500."""
    return paint(on_canvas(glyph(image, rng.uniform(100, 200)), rng), WHITE, BLACK)


def small(image: NDArray[np.uint8], rng: Generator) -> Picture:
    """Draw a digit of 24 to 60 pixels anywhere on a canvas of 300 to 500."""
    return paint(on_canvas(glyph(image, rng.uniform(24, 60)), rng), WHITE, BLACK)


def large(image: NDArray[np.uint8], rng: Generator) -> Picture:
    """Draw a digit of 88 to 98 % of the canvas."""
    return paint(middle(glyph(image, rng.uniform(280, 315))), WHITE, BLACK)


def thick(image: NDArray[np.uint8], rng: Generator) -> Picture:
    """Widen the strokes, which are 2 to 3 MNIST pixels wide, by 1 to 2 MNIST pixels."""
    outside = ndimage.distance_transform_edt(np.pad(glyph(image, 200), 60) < 0.5) / 10
    return paint(middle(trim((outside <= rng.uniform(0.5, 1)).astype(np.float32))), WHITE, BLACK)


def skeleton(inked: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Thin strokes to lines of one pixel, connected as before (Zhang and Suen 1984)."""
    inked = np.pad(inked, 1)
    # The eight neighbours (dy, dx), clockwise from above.
    steps = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))
    changed = True
    while changed:
        changed = False
        for first, second in (((0, 2, 4), (2, 4, 6)), ((0, 2, 6), (0, 4, 6))):
            # (8, h, w)
            around = np.stack([np.roll(inked, (-dy, -dx), (0, 1)) for dy, dx in steps])
            count, entered = around.sum(0), (~around & np.roll(around, -1, 0)).sum(0)
            edge = ~around[list(first)].all(0) & ~around[list(second)].all(0)
            gone = inked & (count >= 2) & (count <= 6) & (entered == 1) & edge
            inked, changed = inked & ~gone, changed or bool(gone.any())
    return inked[1:-1, 1:-1]


def thin(image: NDArray[np.uint8], rng: Generator) -> Picture:
    """Replace each stroke by a hairline of 0.2 to 0.6 MNIST pixels (2 to 6 of 200)."""
    outside = ndimage.distance_transform_edt(~skeleton(np.pad(glyph(image, 80) > 0.5, 4)))
    outside = ndimage.zoom(outside, 2.5, order=1, mode="nearest") * 2.5
    return paint(
        middle(trim(np.clip(rng.uniform(1, 3) + 0.5 - outside, 0, 1).astype(np.float32))),
        WHITE,
        BLACK,
    )


def slanted(image: NDArray[np.uint8], rng: Generator) -> Picture:
    """Shear by 10 to 25 degrees to either side."""
    upright = np.pad(glyph(image, 180), ((0, 0), (100, 100)))
    slope = np.tan(np.deg2rad(rng.uniform(10, 25))) * rng.choice((-1, 1))
    matrix = np.array([[1, 0], [slope, 1]])  # output (y, x) -> input (y, x)
    offset = (0, -slope * upright.shape[0] / 2)
    return paint(
        middle(trim(ndimage.affine_transform(upright, matrix, offset, order=1))), WHITE, BLACK
    )


def inverted(image: NDArray[np.uint8], rng: Generator) -> Picture:
    """Draw with chalk of grey level 150 to 255 on a board of 0 to 70."""
    ink, paper = int(rng.integers(150, 256)), int(rng.integers(0, 71))
    return paint(on_canvas(glyph(image, rng.uniform(120, 200)), rng), (paper,) * 3, (ink,) * 3)


def paper_texture(image: NDArray[np.uint8], rng: Generator) -> Picture:
    """Photograph off-white paper with fibres, sensor noise and a shadow.

    The standard deviations are 4 and 6 grey levels; the shadow takes up to half of the light.
    """
    coverage = on_canvas(glyph(image, rng.uniform(100, 200)), rng)
    y, x = (
        np.mgrid[: coverage.shape[0], : coverage.shape[1]] / np.array(coverage.shape)[:, None, None]
        - 0.5
    )
    angle, at, width = rng.uniform(0, 2 * np.pi), rng.uniform(-0.4, 0.4), rng.uniform(0.05, 0.5)
    shadow = 1 / (1 + np.exp((np.cos(angle) * x + np.sin(angle) * y - at) / width * 4))
    light = 1 - rng.uniform(0.2, 0.5) * shadow
    fibres = ndimage.gaussian_filter(rng.normal(size=coverage.shape), (1, 3))
    colour = rng.uniform((215, 210, 190), (255, 250, 240))
    ground = colour + 4 * (fibres / fibres.std())[..., None]
    ink = rng.uniform(20, 90, 3)
    rgb = (ground + (ink - ground) * coverage[..., None]) * light[..., None]
    return np.asarray(np.clip(rgb + rng.normal(0, 6, rgb.shape), 0, 255), np.uint8)


def coloured_pen(image: NDArray[np.uint8], rng: Generator) -> Picture:
    """Draw with a pen of any hue, yellow included, of saturation 0.6 to 1, on white to cream."""
    hue = np.clip(np.abs((rng.uniform(0, 6) + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    ink = rng.uniform(150, 255) * (1 - rng.uniform(0.6, 1) * (1 - hue))
    paper = rng.uniform((240, 235, 210), 255)
    coverage = on_canvas(glyph(image, rng.uniform(100, 200)), rng)
    return paint(coverage, tuple(paper.astype(int)), tuple(ink.astype(int)))


def touching_border(image: NDArray[np.uint8], rng: Generator) -> Picture:
    """Place flush with one or two sides of the picture, which cut off up to 3 % of the digit."""
    coverage = glyph(image, rng.uniform(150, 250))
    cut = int(rng.uniform(0, 0.03) * max(coverage.shape))
    pads = [int(pad) for pad in rng.integers(20, 120, 4)]
    flush = rng.choice(4, rng.integers(1, 3), replace=False)
    for side in flush:
        pads[side] = 0
        coverage = np.rot90(np.rot90(coverage, side)[cut:], -side)
    top, right, bottom, left = pads
    return paint(np.pad(coverage, ((top, bottom), (left, right))), WHITE, BLACK)


def font(label: int, rng: Generator) -> Picture:
    """Print in one of Matplotlib's text fonts, 60 to 200 pixels high, black on white."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    files = sorted(file for pattern in FONTS for file in folder.glob(f"{pattern}.ttf"))
    face = ImageFont.truetype(str(files[rng.integers(len(files))]), int(rng.integers(80, 270)))
    picture = Image.new("L", (400, 400))
    ImageDraw.Draw(picture).text((200, 200), str(label), 255, face, anchor="mm")
    return paint(
        on_canvas(trim(np.asarray(picture, np.float32) / np.float32(255)), rng), WHITE, BLACK
    )


def stroke(label: int, rng: Generator) -> Picture:
    """Draw the strokes of a digit with a pen of 3 to 14 % of the height."""
    return _drawn(STROKES[label], rng)


def european(number: int, rng: Generator) -> Picture:
    """Draw one of STYLES, the one of that number, likewise."""
    return _drawn(STYLES[number][1], rng)


def _drawn(strokes: list[list[tuple[float, float]]], rng: Generator) -> Picture:
    """Draw strokes with a pen of 3 to 14 % of the height.

    Points are moved by 3 % of the height (one standard deviation). The digit is 0.5 to 0.9 times as
    wide as high, and is sheared and rotated by up to 12 degrees.
    """
    turn, shear = np.deg2rad(rng.uniform(-12, 12, 2))
    matrix = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    matrix = matrix @ [[rng.uniform(0.5, 0.9), -np.tan(shear)], [0, 1]]
    # Drawn at four times the final size, for soft edges.
    size, width = 800, int(800 * rng.uniform(0.03, 0.14))
    picture = Image.new("L", (2 * size, 2 * size))
    draw = ImageDraw.Draw(picture)
    # Moved points by their original, so that strokes which share a point still share it.
    moved: dict[tuple[float, float], NDArray[np.float64]] = {}
    for points in strokes:
        for point in points:
            moved.setdefault(
                point, (np.array(point) + rng.normal(0, 0.03, 2) - 0.5) @ matrix.T * size + size
            )
        p = np.array([moved[point] for point in points])
        # A spline by Catmull and Rom (1974), with the end points extrapolated.
        p = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
        t = np.linspace(0, 1, 30)[:, None]
        for a, b, c, d in zip(p, p[1:], p[2:], p[3:], strict=False):
            curve = b + t / 2 * (
                c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a))
            )
            for x, y in curve:
                draw.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), 255)
    return paint(
        on_canvas(trim(np.asarray(picture.reduce(4), np.float32) / np.float32(255)), rng),
        WHITE,
        BLACK,
    )
