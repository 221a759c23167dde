"""Where the ink lies in a data set's images, so that a picture can be prepared to look like them.

    layout = measure_layout(pixels)             # (n, height, width) uint8, light ink on dark
    assert Layout.from_text(layout.to_text()) == layout

Imports no torch, so that inference can use it.
"""

import re
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .image_kind import MAX_SIDE

SIDE, FIT = 28, 20  # pixels: an MNIST image, and the box that holds a digit (LeCun et al. 1998)
MIDDLE = 14.5  # where MNIST has the centre of mass: the middle of pixel 14 of 28


@dataclass(frozen=True)
class Layout:
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
    "Largest distance of an image's centre of mass from `centre`, in pixels, along either axis."

    def to_text(self) -> str:
        """Return the numbers as text that `from_text` reads back."""
        return " ".join(f"{value:g}" for value in astuple(self))

    @staticmethod
    def from_text(text: str) -> "Layout":
        """Return the layout with these numbers. Raises InputError if they are none."""
        words = text.split()
        if len(words) == 6 and all(re.fullmatch(r"\d{1,3}(\.\d{1,6})?", word) for word in words):
            layout = Layout(*map(float, words))
            if layout.level < 255 and 1 <= layout.longer <= MAX_SIDE:
                return layout
        raise InputError(f"got {text[:40]!r}, expected six numbers: grey levels and pixels")


# All of MNIST's first 60,000 images lie in it.
MNIST_LAYOUT = Layout(0, 200, FIT, FIT - 2, FIT, 0.5)


def centre(side: float) -> float:
    """Return where the centre of mass lies along a side of this length, as in MNIST."""
    return MIDDLE * side / SIDE


def default_layout(height: int, width: int) -> Layout:
    """Return the layout of images of this size where nothing was measured."""
    if (height, width) == (SIDE, SIDE):
        return MNIST_LAYOUT
    # A digit fills as much of an image as in MNIST, and whatever has this size may be one.
    most = max(height, width)
    return Layout(127, 128, FIT / SIDE * min(height, width), 1, most, most)


def measure_layout(images: NDArray[np.uint8]) -> Layout:
    """Return the layout of images (n, height, width) uint8, light ink on dark.

    A pixel is ink if it is above half of what the strongest pixels of the images have. At least one
    image must have ink.
    """
    strongest = images.max((1, 2))
    level = int(np.median(strongest)) // 2
    inked = images[strongest > level]
    ink = np.where(inked > level, inked, 0)
    lengths, off = [], []
    for axis in (1, 2):
        lines = ink.max(3 - axis) > 0  # (n, rows) or (n, columns)
        side = lines.shape[1]
        lengths.append(side - lines.argmax(1) - lines[:, ::-1].argmax(1))
        mass = ink.sum(3 - axis, dtype=np.float64)  # (n, rows) or (n, columns)
        middle = mass @ (np.arange(side) + 0.5) / mass.sum(1)
        off.append(float(abs(middle - centre(side)).max()))
    longer = np.maximum(*lengths)
    return Layout(
        level,
        int(strongest[strongest > level].min()),
        float(np.median(longer)),
        int(longer.min()),
        int(longer.max()),
        round(max(off) + 0.0006, 3),  # rounded up, so that the farthest image is not left out
    )
