"""Draw figures, scribbles, stains, lines and textures: no digits, and no letters."""

from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from PIL import Image

from ._digits import Pixels
from ._printed import fit
from ._strokes import SIDE, Floats, curve, draw, transform


def _walk(n: int, rng: Generator) -> Floats:
    """Return a smooth random curve of n turns."""
    steps = rng.normal(0, 1, (n, 2)).cumsum(0) * 0.4 + rng.normal(0, 1, (n, 2))
    return curve(steps.astype(np.float32))


def _scribble(rng: Generator, held_out: bool) -> Pixels:
    return draw([_walk(int(rng.integers(9, 22)), rng)], rng, float(rng.uniform(0.6, 1.4)))


def _zigzag(rng: Generator, held_out: bool) -> Pixels:
    n = int(rng.integers(6, 14))
    x, y = np.linspace(0, rng.uniform(6, 20), n), 20.0 * (np.arange(n) % 2)
    points = np.stack([x, y + rng.normal(0, 2, n)], 1).astype(np.float32)
    points = points[:, ::-1] if rng.random() < 0.3 else points
    return draw(
        [points if rng.random() < 0.5 else curve(points)], rng, float(rng.uniform(0.6, 1.3))
    )


def _spiral(rng: Generator, held_out: bool) -> Pixels:
    angle = np.linspace(0, rng.uniform(2.5, 5) * 2 * np.pi, 60) * rng.choice([-1, 1])
    reach = np.linspace(0.1, 1, 60)
    points = np.stack([reach * np.cos(angle), reach * np.sin(angle)], 1)
    return draw([points.astype(np.float32)], rng, float(rng.uniform(0.6, 1.1)))


def _tangle(rng: Generator, held_out: bool) -> Pixels:
    """Return several strokes that have nothing to do with one another."""
    strokes = [
        _walk(int(rng.integers(2, 5)), rng) + rng.normal(0, 2, 2).astype(np.float32)
        for _ in range(int(rng.integers(3, 7)))
    ]
    return draw(strokes, rng, float(rng.uniform(0.6, 1.5)))


def _points(n: int, rng: Generator) -> Floats:
    return rng.uniform(0, 20, (n, 2)).astype(np.float32)


def _doodle(rng: Generator, held_out: bool) -> Pixels:
    """Return a smooth line through a few points: fewer than 5 are too often a digit."""
    points = _points(int(rng.integers(5, 9)), rng)
    if rng.random() < 0.4:
        points = np.concatenate([points, points[:1]])
    return draw([curve(points)], rng, float(rng.uniform(0.6, 1.6)))


def _polyline(rng: Generator, held_out: bool) -> Pixels:
    """Return straight lines that join a few points."""
    return draw([_points(int(rng.integers(5, 10)), rng)], rng, float(rng.uniform(0.6, 1.6)))


def _wave(rng: Generator, held_out: bool) -> Pixels:
    """Return a smooth line whose coordinates are sums of waves."""
    t = np.linspace(0, rng.uniform(0.6, 1), 60)[:, None, None]
    waves = np.arange(1, 5)
    phase, height = rng.uniform(0, 1, (2, 4)), rng.normal(0, 1, (2, 4)) / waves
    points = (height * np.sin(2 * np.pi * (waves * t + phase))).sum(2)
    points = 20 * (points - points.min(0)) / np.ptp(points, 0)
    return draw([points.astype(np.float32)], rng, float(rng.uniform(0.6, 1.6)))


def _closed(corners: Floats, rng: Generator) -> Pixels:
    """Return a closed line, of a pen that is thin enough for corners (n, 2) to be seen."""
    strokes = transform([np.concatenate([corners, corners[:1]])], rng, lean=0.5)
    return draw(strokes, rng, float(rng.uniform(0.6, 1.4)))


def _polygon(rng: Generator, held_out: bool) -> Pixels:
    """Return 3 to 6 sides. A hand's octagon may be a 0, and so may an upright box."""
    n = int(rng.integers(3, 7))
    if n == 4 and rng.random() < 0.6:
        corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1)]) * (20 * rng.uniform(0.8, 1.6), 20)
    else:
        angle = 2 * np.pi * ((np.arange(n) + rng.normal(0, 0.06, n)) / n + rng.random())
        reach = 10 * rng.uniform(0.85, 1, n)
        corners = np.stack([reach * np.cos(angle), reach * np.sin(angle)], 1)
    return _closed((corners + rng.normal(0, 0.3, (n, 2))).astype(np.float32), rng)


def _star(rng: Generator, held_out: bool) -> Pixels:
    """Return a star of 4 to 7 points, drawn around, or of 5 in one stroke."""
    n = int(rng.integers(4, 8))
    if rng.random() < 0.4:
        angle, reach = 4 * np.pi * np.arange(5) / 5, np.ones(5)
    else:
        angle = np.pi * np.arange(2 * n) / n
        reach = np.where(np.arange(2 * n) % 2, rng.uniform(0.35, 0.6), 1)
    angle = angle + rng.uniform(0, 2 * np.pi)
    corners = 10 * np.stack([reach * np.cos(angle), reach * np.sin(angle)], 1)
    return _closed((corners + rng.normal(0, 0.4, corners.shape)).astype(np.float32), rng)


def _blob(rng: Generator, held_out: bool) -> Pixels:
    """Return a speck or a stain, that is not as slim and upright as a 1."""
    angle = np.linspace(0, 2 * np.pi, 9)[:-1]
    reach = rng.uniform(0.6, 1, 8)
    wide = rng.uniform(0.7, 2)
    rim = np.stack([wide * reach * np.cos(angle), reach * np.sin(angle)], 1).astype(np.float32)
    filled = [curve(np.concatenate([rim, rim[:1]])) * scale for scale in (1, 0.7, 0.4, 0.1)]
    return draw(filled, rng, float(rng.uniform(2.5, 4)))


def _edge(rng: Generator, held_out: bool) -> Pixels:
    """Return the corner or the edge of a page or a table: thick, straight and far apart."""
    side = rng.uniform(8, 20)
    strokes = [np.array([(0, 0), (20, rng.normal(0, 1))], np.float32)]
    where = rng.uniform(0, 20)
    strokes.append(np.array([(where, 0), (where + rng.normal(0, 1), side)], np.float32))
    if rng.random() < 0.5:
        strokes.append(np.array([(0, side), (20, side)], np.float32))
    angle = rng.integers(4) * np.pi / 2 + rng.normal(0, 0.1)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]], np.float32)
    return draw([stroke @ turn for stroke in strokes], rng, float(rng.uniform(0.6, 3)), 0.5)


def _texture(rng: Generator, held_out: bool) -> Pixels:
    """Return paper, cloth or noise, in the whole image or where ink would be."""
    cells = int(rng.integers(3, 29))
    noise = Image.fromarray(rng.random((cells, cells)).astype(np.float32))
    image = np.asarray(noise.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    image = (image - image.min()) / max(float(np.ptp(image)), 1e-6)
    form = rng.random()
    if form < 0.35:
        image = (image > rng.uniform(0.35, 0.75)).astype(np.float32)
    elif form < 0.6:
        image = np.clip((image - rng.uniform(0.2, 0.6)) * 4, 0, 1)
    if rng.random() < 0.7:
        grey = Image.fromarray((255 * image).astype(np.uint8))
        if grey.getbbox() is not None:
            return fit(grey)
    return np.asarray(255 * image, np.uint8)


def _stripes(rng: Generator, held_out: bool) -> Pixels:
    """Return ruled or squared paper, or a shade."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    angle = rng.normal(0, 0.2) + rng.integers(2) * np.pi / 2
    along = x * np.cos(angle) + y * np.sin(angle)
    across = y * np.cos(angle) - x * np.sin(angle)
    waves = rng.uniform(0.2, 7)
    image = 0.5 + 0.5 * np.cos(2 * np.pi * (waves * along + rng.random()))
    if rng.random() < 0.4:
        image = np.maximum(image, 0.5 + 0.5 * np.cos(2 * np.pi * (waves * across + rng.random())))
    image = np.clip((image - rng.uniform(0, 0.8)) * rng.uniform(1, 6), 0, 1)
    return np.asarray(255 * image / max(float(image.max()), 1e-6), np.uint8)


# How often each kind is drawn, and how.
FIGURES: dict[str, tuple[float, Callable[[Generator, bool], Pixels]]] = {
    "scribble": (3, _scribble),
    "doodle": (2, _doodle),
    "wave": (2, _wave),
    "polyline": (2, _polyline),
    "zigzag": (1, _zigzag),
    "spiral": (1, _spiral),
    "tangle": (2, _tangle),
    "polygon": (4, _polygon),
    "star": (1, _star),
    "speck": (1, _blob),
    "edge": (1, _edge),
    "texture": (2, _texture),
    "stripes": (1, _stripes),
}
