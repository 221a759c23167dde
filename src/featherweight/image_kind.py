"""What a data set's images are like, which whoever reads pictures for its networks must know.

    kind = ImageKind(1, 28, 28, "light on dark", "upright", tuple("0123456789"))
    assert ImageKind.from_dict(kind.to_dict()) == kind

Imports no torch, so that inference can use it.
"""

from dataclasses import asdict, dataclass
from typing import Any

from .errors import InputError

POLARITIES = ("light on dark", "dark on light", "natural")
ORIENTATIONS = ("upright", "transposed")
CHANNELS = (1, 3)
MAX_SIDE = 64  # pixels, of an image that is accepted
MAX_CLASSES = 256  # as a label is from 0 to 255
MAX_CLASS_NAME = 100  # characters


@dataclass(frozen=True)
class ImageKind:
    """Size, colour, polarity, orientation and classes of a data set's images.

    Raises InputError if a value is of the wrong type or outside its range.
    """

    channels: int
    "Number of colour channels: 1 (grey) or 3 (red, green, blue)."
    height: int
    "Height in pixels."
    width: int
    "Width in pixels."
    polarity: str
    "light on dark or dark on light, as ink on paper; natural where there is no such background."
    orientation: str
    "upright, or transposed: rows and columns are exchanged, as in EMNIST's files."
    classes: tuple[str, ...]
    "Name of each class, in the order of the labels."

    def __post_init__(self) -> None:
        check_classes(self.classes)
        object.__setattr__(self, "classes", tuple(self.classes))  # JSON has no tuples
        for name, allowed in (
            ("channels", CHANNELS),
            ("polarity", POLARITIES),
            ("orientation", ORIENTATIONS),
        ):
            check_one_of(name, getattr(self, name), allowed)
        sides = self.height, self.width
        if not all(type(side) is int and 1 <= side <= MAX_SIDE for side in sides):
            raise InputError(f"height and width: got {sides!r:.80}, expected 1 to {MAX_SIDE}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one image, (channels, height, width)."""
        return self.channels, self.height, self.width

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values that `from_dict` reads back."""
        return asdict(self) | {"classes": list(self.classes)}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "ImageKind":
        """Return the kind with these values. Raises InputError if one is missing or wrong."""
        try:
            return ImageKind(**values)
        except TypeError as error:  # other keys, or no dictionary
            raise InputError(
                f"kind of images: {error}; expected channels, height, width, polarity, "
                "orientation, classes"
            ) from error


def check_one_of(name: str, value: object, allowed: tuple[Any, ...]) -> None:
    """Raise InputError unless a value is one of the allowed ones."""
    if type(value) is not type(allowed[0]) or value not in allowed:
        raise InputError(f"{name}: got {value!r:.80}, expected {' or '.join(map(str, allowed))}")


def check_classes(classes: object) -> None:
    """Raise InputError unless these are names of classes: 2 to MAX_CLASSES different texts."""
    if (
        not isinstance(classes, (list, tuple))
        or not 2 <= len(classes) <= MAX_CLASSES
        or not all(isinstance(name, str) and 0 < len(name) <= MAX_CLASS_NAME for name in classes)
        # A folder's name may be no text, which then can be printed nowhere.
        or any("\ud800" <= letter <= "\udfff" for name in classes for letter in name)
        or len(set(classes)) < len(classes)
    ):
        raise InputError(
            f"classes: got {classes!r:.80}, expected 2 to {MAX_CLASSES} different names of at most "
            f"{MAX_CLASS_NAME} characters"
        )
