"""The form of the images that a network takes, which decides how a picture is prepared for it.

    form = Reader("model.onnx").form
    form.reads_ink, form.shape          # True, (28, 28)

An exported file says of what kind its training images are, and where their ink lies. A file
without this was trained on MNIST, or on images of its size and kind.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..image_kind import ImageKind
from ..layout import MNIST_LAYOUT, SIDE, Layout, centre, default_layout
from ._planes import border

Bytes = NDArray[np.uint8]

MAX_KIND = 200_000  # characters: 256 names of 100, each of which JSON may write as six


@dataclass(frozen=True)
class Form:
    """The form of the images that a network takes."""

    kind: ImageKind
    "Size, colour, polarity, orientation and classes of the images."
    layout: Layout
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

    def lies_in(self, image: Bytes) -> bool:
        """Return whether the ink of an image (height, width), light on dark, lies as it should."""
        level = self.layout.level
        if image.max() < self.layout.full or np.median(border(image)) > level:
            return False
        ink = np.where(image > level, image, 0)
        lines = [np.flatnonzero(ink.any(1 - axis)) for axis in (0, 1)]
        if not len(lines[0]):
            return False
        longer = max(int(np.ptp(each)) for each in lines) + 1
        off = [
            abs(ink.sum(1 - axis) @ (np.arange(side) + 0.5) / ink.sum() - centre(side))
            for axis, side in enumerate(image.shape)
        ]
        fine = self.layout.shortest <= longer <= self.layout.longest
        return bool(fine and max(off) <= self.layout.off_centre)

    def turn(self, image: Bytes) -> Bytes:
        """Return an upright image (..., height, width) as the network takes it, or back."""
        return np.ascontiguousarray(image.swapaxes(-1, -2)) if self.transposed else image


MNIST = Form(
    ImageKind(1, SIDE, SIDE, "light on dark", "upright", tuple(map(str, range(10)))), MNIST_LAYOUT
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
    try:
        layout = (
            Layout.from_text(card["layout"])
            if "layout" in card
            else default_layout(kind.height, kind.width)
        )
    except InputError as error:
        raise InputError(f"{path}: layout: {error}") from error
    form = Form(kind, layout)
    if form.shape != shape:
        raise InputError(f"{path}: kind: got images {form.shape}, the network takes {shape}")
    return form
