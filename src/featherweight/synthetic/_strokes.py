"""Draw pen strokes with a round pen, in the size and place that MNIST gives to its digits.

    strokes = distort("~1,5 4,0 8,1 9,6 5,13 0,20; 0,20 10,20", rng)    # a 2
    image = draw(strokes, rng)          # (28, 28) uint8, light ink on black

MNIST's digits fit a box of 20x20 pixels, and their centre of mass is the image's centre.
"""

from functools import cache

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Strokes = list[Floats]
"Strokes of points (n, 2), x to the right and y down."

SIDE, BOX = 28, 20  # pixels of an image, and of the box that its ink fits
WOBBLE = 0.6  # standard deviation of a point that a hand makes, in twentieths of the height
STEPS = 4  # straight pieces of a curve between two of its points
# Centres of the pixels, (784, 2).
PIXELS: Floats = np.stack(
    [axis.ravel() for axis in np.meshgrid(np.arange(SIDE) + 0.5, np.arange(SIDE) + 0.5)], 1
).astype(np.float32)


@cache
def parse(glyph: str) -> tuple[tuple[Floats, bool], ...]:
    """Return the strokes of a glyph: the points (n, 2) of each, and whether it is a curve."""
    found = []
    for text in glyph.split(";"):
        text = text.strip()
        points = [
            [float(number) for number in point.split(",")] for point in text.strip("~").split()
        ]
        found.append((np.array(points, np.float32), text.startswith("~")))
    return tuple(found)


@cache
def _weights(n: int) -> Floats:
    """Return what each of n points adds to those of a curve through them, (STEPS (n - 1) + 1, n).

    It is the spline of Catmull and Rom (1974), whose ends repeat.
    """
    t = np.arange(STEPS * (n - 1) + 1) / STEPS
    span = np.minimum(t.astype(int), n - 2)
    t = t - span
    parts = (
        -0.5 * t**3 + t**2 - 0.5 * t,
        1.5 * t**3 - 2.5 * t**2 + 1,
        -1.5 * t**3 + 2 * t**2 + 0.5 * t,
        0.5 * t**3 - 0.5 * t**2,
    )
    weights = np.zeros((len(t), n))
    for offset, part in enumerate(parts, -1):
        np.add.at(weights, (np.arange(len(t)), np.clip(span + offset, 0, n - 1)), part)
    return weights.astype(np.float32)


def curve(points: Floats) -> Floats:
    """Return points of a smooth curve through points (n, 2)."""
    return _weights(len(points)) @ points


def distort(glyph: str, rng: Generator, turn: float = 1.0) -> Strokes:
    """Return the strokes of a glyph as a hand writes them: each point and the whole moved.

    `turn` is a factor of the rotation."""
    strokes = []
    ends: dict[tuple[float, ...], Floats] = {}  # where strokes meet, they still do
    for points, curved in parse(glyph):
        moved = points + rng.normal(0, WOBBLE, points.shape).astype(np.float32)
        for place in (0, -1):
            key = tuple(points[place].tolist())
            moved[place] = ends.setdefault(key, moved[place].copy())
        strokes.append(curve(moved) if curved and len(moved) > 2 else moved)
    return transform(strokes, rng, turn)


def transform(strokes: Strokes, rng: Generator, turn: float = 1.0, lean: float = 1.0) -> Strokes:
    """Return strokes that are stretched, slanted and rotated at random.

    `turn` is a factor of the rotation, `lean` of the slant."""
    wide = float(np.exp(rng.normal(0.15, 0.3)))
    slant = lean * float(np.clip(rng.normal(0.1, 0.2), -0.3, 0.6))
    angle = turn * rng.uniform(-0.12, 0.12)
    cos, sin = np.cos(angle), np.sin(angle)
    # Columns are x and y; slant moves what is above to the right.
    matrix = np.array([[wide, 0], [-slant, 1]]) @ np.array([[cos, sin], [-sin, cos]])
    return [stroke @ matrix.astype(np.float32) for stroke in strokes]


def draw(
    strokes: Strokes,
    rng: Generator,
    radius: float | None = None,
    pressure: float = 0.2,
) -> NDArray[np.uint8]:
    """Return strokes as an image (28, 28) uint8, light on black.

    Args:
        strokes: In any unit: they are scaled to MNIST's box.
        rng: Draws the pen.
        radius: Of the pen, in pixels of the image. None: drawn.
        pressure: Largest relative change of the radius along a stroke.
    """
    if radius is None:
        radius = float(rng.uniform(0.75, 1.9))
    points = np.concatenate(strokes)
    low, high = points.min(0), points.max(0)
    scale = (BOX - 2 * radius) / max(float((high - low).max()), 1e-3)
    starts, ends, radii = [], [], []
    for stroke in strokes:
        if len(stroke) == 1:
            stroke = np.repeat(stroke, 2, 0)
        first, last = radius * (1 + pressure * rng.uniform(-1, 1, 2))
        along = np.linspace(first, last, len(stroke), dtype=np.float32)
        starts.append(stroke[:-1])
        ends.append(stroke[1:])
        radii.append(np.stack([along[:-1], along[1:]], 1))
    a, b = np.concatenate(starts) * scale, np.concatenate(ends) * scale
    length = np.hypot(*(b - a).T) + radius  # as much as the piece's ink, about
    middle = (length[:, None] * (a + b) / 2).sum(0) / length.sum()
    # The centre of mass goes to the centre, unless that cuts off ink.
    least, most = low * scale - radius, high * scale + radius
    shift = np.clip(SIDE / 2 - middle, -least, np.maximum(SIDE - most, -least))
    soft = float(rng.uniform(0.8, 2))  # pixels from paper to ink
    ink = coverage(a + shift, b + shift, np.concatenate(radii), soft)
    return np.asarray(np.clip(ink * (255 / ink.max()) + 0.5, 0, 255), np.uint8)


def coverage(a: Floats, b: Floats, radii: Floats, soft: float) -> Floats:
    """Return how much of each pixel is inked, (28, 28) from 0 to 1.

    Args:
        a: Where straight pieces begin, (n, 2) in pixels.
        b: Where they end.
        radii: Of the pen at both ends, (n, 2).
        soft: Width of the edge in pixels.
    """
    a, d = a.astype(np.float32), (b - a).astype(np.float32)
    squared = np.maximum((d**2).sum(1), 1e-6)
    # Of a pixel p: (p - a) d, |p - a|^2, and the place t of the piece that is nearest to it.
    dot = PIXELS @ d.T - (a * d).sum(1)  # (784, n)
    t = np.clip(dot / squared, 0, 1)
    distance = (PIXELS**2).sum(1)[:, None] - 2 * PIXELS @ a.T + (a**2).sum(1)
    distance += t * (t * squared - 2 * dot)
    distance = np.sqrt(np.maximum(distance, 0))
    inside = radii[:, 0] + t * (radii[:, 1] - radii[:, 0]) - distance
    ink = np.clip(inside.max(1) / soft + 0.5, 0, 1)
    return np.asarray(ink.reshape(SIDE, SIDE), np.float32)
