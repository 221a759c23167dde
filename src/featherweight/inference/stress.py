"""Make the stress set: pictures of digits as people draw, photograph and print them.

    images, labels = val.pixels[:, 0].numpy(), val.labels.numpy()
    for category, picture, label in make_stress(images, labels, seed=0, per_category=200):
        digit = prepare(picture)                    # picture (h, w, 3) uint8
    scores = score_stress(reader, make_stress(images, labels, seed=0, per_category=200))

Most categories are made from given MNIST images. Some are made from nothing: digits of the fonts
that Matplotlib ships, so that a seed gives the same set everywhere, digits drawn as strokes that
are distorted at random, and blank paper, in which nothing must be read.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from ..errors import InputError
from ._form import MNIST, Form
from ._planes import border
from ._stress_drawn import (
    STROKES as STROKES,
)
from ._stress_drawn import (
    STYLES,
    Picture,
    coloured_pen,
    european,
    font,
    inverted,
    large,
    off_centre,
    paper_texture,
    slanted,
    small,
    stroke,
    thick,
    thin,
    touching_border,
)
from ._stress_drawn import (
    glyph as glyph,
)
from ._stress_drawn import (
    skeleton as skeleton,
)
from ._stress_paper import (
    blank_paper,
    boxed,
    low_resolution,
    page_edge,
    rough_paper,
    ruled_paper,
    tight_crop,
    uneven_ink,
    written_number,
)
from .prepare import prepare
from .reader import Reader
from .reading import number

FROM_MNIST: tuple[Callable[[NDArray[np.uint8], Generator], Picture], ...] = (
    off_centre,
    small,
    large,
    thick,
    thin,
    slanted,
    inverted,
    paper_texture,
    coloured_pen,
    touching_border,
)
FROM_NOTHING: tuple[Callable[[int, Generator], Picture], ...] = (font, stroke)
# Added later, so that those above stay the same for a seed.
ON_PAPER: tuple[Callable[[NDArray[np.uint8], Generator], Picture], ...] = (
    rough_paper,
    tight_crop,
    low_resolution,
    boxed,
    ruled_paper,
    page_edge,
    uneven_ink,
)
NUMBER, EUROPEAN, BLANK = written_number.__name__, european.__name__, blank_paper.__name__
CATEGORIES = (
    *(make.__name__ for make in (*FROM_MNIST, *FROM_NOTHING, *ON_PAPER)),
    *(NUMBER, EUROPEAN, BLANK),
)
MADE_FROM_NOTHING = {*(make.__name__ for make in FROM_NOTHING), EUROPEAN, BLANK}
LENGTHS = (2, 10)  # least and most digits of a number


def make_stress(
    images: NDArray[np.uint8], labels: NDArray[np.integer], seed: int, per_category: int
) -> Iterator[tuple[str, Picture, str | None]]:
    """Yield (category, picture, label), `per_category` pictures of each of CATEGORIES in turn.

    A label is a digit or a number, or None for blank paper. Each category draws its own images,
    none of them twice; numbers draw each digit from all.

    Args:
        images: MNIST images (n, 28, 28) uint8.
        labels: Their digits (n,).
        seed: Seed of everything random.
        per_category: Number of pictures of each category.

    Raises:
        InputError: There are fewer images than `per_category`.
    """
    if per_category > len(images):
        raise InputError(
            f"per_category: got {per_category}, expected at most the {len(images)} images"
        )
    seeds = {name: [seed, i] for i, name in enumerate(CATEGORIES)}

    def of_images(
        categories: Iterable[Callable[[NDArray[np.uint8], Generator], Picture]],
    ) -> Iterator[tuple[str, Picture, str]]:
        for make in categories:
            rng = np.random.default_rng(seeds[make.__name__])
            for i in rng.choice(len(images), per_category, replace=False):
                yield make.__name__, make(images[i], rng), str(labels[i])

    yield from of_images(FROM_MNIST)
    for draw in FROM_NOTHING:
        rng = np.random.default_rng(seeds[draw.__name__])
        for i in range(per_category):
            yield draw.__name__, draw(i % 10, rng), str(i % 10)
    yield from of_images(ON_PAPER)
    rng = np.random.default_rng(seeds[NUMBER])
    for _ in range(per_category):
        chosen = rng.integers(0, len(images), rng.integers(LENGTHS[0], LENGTHS[1] + 1))
        picture = written_number([images[i] for i in chosen], rng)
        yield NUMBER, picture, "".join(str(labels[i]) for i in chosen)
    rng = np.random.default_rng(seeds[EUROPEAN])
    for i in range(per_category):
        style = i % len(STYLES)
        yield EUROPEAN, european(style, rng), str(STYLES[style][0])
    rng = np.random.default_rng(seeds[BLANK])
    for _ in range(per_category):
        yield BLANK, blank_paper(rng), None


@dataclass(frozen=True)
class Score:
    """Number of a category's pictures that are read right."""

    category: str
    "Name of the category."
    from_mnist: bool
    "Whether its pictures are made from MNIST images."
    n: int
    "Number of pictures."
    prepared: int
    "Pictures read right after `prepare`; blank paper in which nothing is read."
    resized: int | None
    """Pictures read right after `shrink`, which is what most demonstrations do. None of numbers and
    blank paper, for which it says nothing."""


def shrink(picture: Picture, form: Form = MNIST) -> NDArray[np.uint8]:
    """Resize the whole picture to grey levels of the form's size; invert it if its border is light.

    The form is one of ink, and says how the result is turned and inverted again.
    """
    size = form.upright[::-1]
    grey = np.asarray(Image.fromarray(picture).convert("L").resize(size, Image.Resampling.BOX))
    light = 255 - grey if np.median(border(grey)) > 127 else grey
    return form.turn(form.light_on_dark(light))


def check_reader(reader: Reader) -> None:
    """Raise InputError unless a reader reads the digits 0 to 9 in ink."""
    if not reader.form.reads_ink:
        raise InputError(
            f"{reader.card['recipe']}: reads whole pictures, expected a network that reads digits "
            "in ink"
        )
    if reader.labels != [str(digit) for digit in range(10)]:
        raise InputError(
            f"labels: got {' '.join(reader.labels)[:80]}, expected a model that reads 0 to 9"
        )


def score_stress(
    reader: Reader, pictures: Iterable[tuple[str, Picture, str | None]]
) -> list[Score]:
    """Return one score for each category.

    Args:
        reader: A reader of ink whose labels are the digits 0 to 9.
        pictures: Pictures as `make_stress` yields them, one category after the other.

    Raises:
        InputError: The reader reads something else.
    """
    check_reader(reader)
    scores = []
    for category, group in itertools.groupby(pictures, lambda each: each[0]):
        prepared, resized, labels = [], [], []
        for _, picture, label in group:
            labels.append(label)
            if category == NUMBER:
                prepared.append(number(reader.read_number(picture)))
                continue
            image = prepare(picture, reader.form)
            prepared.append(reader.read_prepared([image])[0].label)
            if category != BLANK:
                image = shrink(picture, reader.form)
                resized.append(reader.read_prepared([image])[0].label)
        right = [
            sum(found == label for found, label in zip(each, labels, strict=True)) if each else None
            for each in (prepared, resized)
        ]
        scores.append(
            Score(category, category not in MADE_FROM_NOTHING, len(labels), right[0] or 0, right[1])
        )
    return scores
