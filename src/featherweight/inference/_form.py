"""The form of the images that a network takes, which decides how a picture is prepared for it.

    form = Reader("model.onnx").form
    form.reads_ink, form.shape          # True, (28, 28)

An exported file says of what kind its training images are, and where their ink lies. A file
without this was trained on MNIST, or on images of its size and kind.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..image_kind import ImageKind
from ._ink import border

Bytes = NDArray[np.uint8]

SIDE, FIT = 28, 20  # pixels: an MNIST image, and the box that holds a digit (LeCun et al. 1998)
CENTRE = 14.5 / SIDE  # where the centre of mass lies: the middle of pixel 14 of 28
MAX_KIND = 200_000  # characters: 256 names of 100, each of which JSON may write as six


@dataclass(frozen=True)
class Ink:
    """Where the ink lies in the images of a data set, as light ink on a dark ground."""

    level: float
    "Grey level above which a pixel is ink."
    full: float
    "Grey level that the strongest pixel of each image reaches."
    longer: float
    "Longer side of the ink in pixels, the median of the images."
    shortest: float
    "Its minimum over the images."
    longest: float
    "Its maximum over the images."
    off_centre: float
    """Largest distance of an image's centre of mass from CENTRE, in pixels, downwards or to the
    side."""

    def fits(self, image: Bytes) -> bool:
        """Return whether an image (height, width), light on dark, looks like those of the set."""
        if image.max() < self.full or np.median(border(image)) > self.level:
            return False
        ink = np.where(image > self.level, image, 0)
        lines = [np.flatnonzero(ink.any(1 - axis)) for axis in (0, 1)]
        if not len(lines[0]):
            return False
        longer = max(int(np.ptp(each)) for each in lines) + 1
        total = ink.sum()
        off = [
            abs(ink.sum(1 - axis) @ np.arange(side) / total + 0.5 - CENTRE * side)
            for axis, side in enumerate(image.shape)
        ]
        return bool(self.shortest <= longer <= self.longest and max(off) <= self.off_centre)


# All of MNIST's first 60,000 images fit.
MNIST_INK = Ink(level=0, full=200, longer=FIT, shortest=FIT - 2, longest=FIT, off_centre=0.5)


def default_ink(height: int, width: int) -> Ink:
    """Return where the ink of images of this size lies if nothing was measured."""
    if (height, width) == (SIDE, SIDE):
        return MNIST_INK
    # A digit fills as much of an image as in MNIST, and whatever has this size may be one.
    most = max(height, width)
    return Ink(127, 128, FIT / SIDE * min(height, width), 1, most, most)


@dataclass(frozen=True)
class Form:
    """The form of the images that a network takes."""

    kind: ImageKind
    "Size, colour, polarity, orientation and classes of the images."
    ink: Ink
    "Where the ink lies. It means nothing where the images show no ink on a ground."

    @property
    def reads_ink(self) -> bool:
        """Return whether the images show ink on a ground, so that a picture's ink is looked for."""
        return self.kind.channels == 1 and self.kind.polarity != "natural"

    @property
    def transposed(self) -> bool:
        """Return whether rows and columns of the images are exchanged."""
        return self.kind.orientation == "transposed"

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of an image: (height, width), or (3, height, width) in colour."""
        return self.kind.shape if self.kind.channels > 1 else self.kind.shape[1:]

    @property
    def upright(self) -> tuple[int, int]:
        """Return the height and width of an upright picture that has the size of the images."""
        _, height, width = self.kind.shape
        return (width, height) if self.transposed else (height, width)

    def light_on_dark(self, image: Bytes) -> Bytes:
        """Return an image (height, width) of ink as light on dark, or one that is so as it was.

        The function is its own inverse.
        """
        return 255 - image if self.kind.polarity == "dark on light" else image

    def turn(self, image: Bytes) -> Bytes:
        """Return an upright image (..., height, width) as the network takes it, or back."""
        return np.ascontiguousarray(image.swapaxes(-1, -2)) if self.transposed else image


MNIST = Form(
    ImageKind(1, SIDE, SIDE, "light on dark", "upright", tuple(map(str, range(10)))), MNIST_INK
)


def load_form(path: Path, card: dict[str, str], shape: tuple[int, ...]) -> Form | None:
    """Return the form that an exported file says, or None if it says none.

    Args:
        path: The file.
        card: Its metadata.
        shape: Shape of an image that the network takes.

    Raises:
        InputError: What it says is damaged, or does not fit the network.
    """
    if "kind" not in card:
        return None
    try:
        kind = ImageKind.from_dict(json.loads(card["kind"]))
    except (InputError, ValueError, RecursionError) as error:
        why = error.message if isinstance(error, InputError) else "no JSON"
        raise InputError(f"{path}: kind: {why}") from error
    if not all(map(str.isprintable, kind.classes)):
        raise InputError(f"{path}: kind: got a class name that is no printable line, expected one")
    form = Form(kind, _ink(path, card, kind))
    if form.shape != shape:
        raise InputError(f"{path}: kind: got images {form.shape}, the network takes {shape}")
    return form


def _ink(path: Path, card: dict[str, str], kind: ImageKind) -> Ink:
    """Return where the ink of the training images lies; raise InputError for damaged numbers."""
    _, height, width = kind.shape
    if "ink" not in card:
        return default_ink(height, width)
    words = card["ink"].split()
    if len(words) == 6 and all(re.fullmatch(r"\d{1,3}(\.\d{1,6})?", word) for word in words):
        ink = Ink(*map(float, words))
        if ink.level < 255 and 1 <= ink.longer <= max(height, width):
            return ink
    raise InputError(
        f"{path}: ink: got {card['ink'][:40]!r}, expected six numbers as `featherweight export` "
        "writes"
    )
