"""What every format gives: labelled images as arrays, and what is said about them."""

import re
import string
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from ..errors import InputError
from ..image_kind import ORIENTATIONS, POLARITIES, check_classes, check_one_of

PartName = Literal["train", "val", "test"]
SAID_FILE = "data.toml"
MAX_SAID_BYTES = 1_000_000


class Part(NamedTuple):
    """Labelled images as they are read, with labels as the files have them."""

    images: np.ndarray
    "Shape (n, height, width), (n, height, width, channels) or (n, channels, height, width)."
    labels: np.ndarray
    "Shape (n,) or (n, 1)."
    where: str
    "Where they are from, for messages."


@dataclass(frozen=True)
class Said:
    """What a data set, or its name, says about its images; what is empty is not said.

    Raises InputError if a value is not valid.
    """

    classes: tuple[str, ...] = ()
    "Name of each class."
    polarity: str = ""
    "As in `ImageKind`."
    orientation: str = ""
    "As in `ImageKind`."
    first_label: int = 0
    "The label of the first class."
    by_name: bool = False
    "Whether the name of the files says it, and labels that do not fit overrule it."

    def __post_init__(self) -> None:
        if self.classes:
            check_classes(self.classes)
            object.__setattr__(self, "classes", tuple(self.classes))
        if self.polarity:
            check_one_of("polarity", self.polarity, POLARITIES)
        if self.orientation:
            check_one_of("orientation", self.orientation, ORIENTATIONS)
        check_one_of("first_label", self.first_label, (0, 1))


_DIGITS, _UPPER, _LOWER = string.digits, string.ascii_uppercase, string.ascii_lowercase
# Classes of EMNIST's sets (Cohen et al. 2017). Where upper and lower case are alike they are one
# class, which the capital names.
EMNIST_CLASSES = {
    "letters": _UPPER,
    "digits": _DIGITS,
    "mnist": _DIGITS,
    "byclass": _DIGITS + _UPPER + _LOWER,
    "bymerge": _DIGITS + _UPPER + "abdefghnqrt",
    "balanced": _DIGITS + _UPPER + "abdefghnqrt",
}
# Classes of sets that names of files and folders tell, in lower case without - and _.
NAMED_CLASSES = {
    "fashionmnist": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    "kmnist": ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
}


def said_by_name(name: str, *folders: str) -> Said | None:
    """Return what the name of a set, or else the names of its folders, say about its images."""
    if found := re.fullmatch(rf"emnist[-_.]({'|'.join(EMNIST_CLASSES)})", name.lower()):
        first = int(found[1] == "letters")  # whose labels are 1 to 26
        classes = tuple(EMNIST_CLASSES[found[1]])
        return Said(classes, "light on dark", "transposed", first, by_name=True)
    for each in (name, *folders):
        if known := NAMED_CLASSES.get(re.sub("[-_]", "", each.lower())):
            return Said(known, by_name=True)
    return None


SAID_KEYS = tuple(field.name for field in fields(Said) if field.name != "by_name")


@dataclass(frozen=True)
class Source:
    """A data set that was found, of which nothing is read yet."""

    read: Callable[[PartName], Part]
    "Reads a part. Raises InputError if it is missing or damaged, OSError if it can't be read."
    said: Said = Said()
    "What is said about its images."
    has_val: bool = False
    "Whether it has validation images of its own; if not, some of the training images validate."
    by_class: bool = False
    "Whether the last images of each class validate then, and not the last ones of all."


def make_said(values: dict[str, Any], where: str) -> Said:
    """Return what a data set says of itself. Raises InputError if a key or a value is wrong."""
    for key in values:
        if key not in SAID_KEYS:
            raise InputError(f"{where}: unknown key {key!r:.80}, expected {', '.join(SAID_KEYS)}")
    try:
        return Said(**values)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def parse_said(content: bytes, where: str) -> Said:
    """Return what the content of a data.toml says. Raises InputError if it is not valid."""
    if len(content) > MAX_SAID_BYTES:
        raise InputError(f"{where}: got over {MAX_SAID_BYTES:,} bytes, expected fewer")
    try:
        values = tomllib.loads(content.decode("utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{where}: not a TOML file: {error}") from error
    return make_said(values, where)


def read_said(folder: Path, by_name: Said | None = None) -> Said:
    """Return what the data.toml of a folder says; without it, what the files' name says.

    Polarity and orientation that it leaves out are those that the name says."""
    file, by_name = folder / SAID_FILE, by_name or Said()
    if not file.is_file():
        return by_name
    with file.open("rb") as opened:
        said = parse_said(opened.read(MAX_SAID_BYTES + 1), str(file))
    return replace(
        said,
        polarity=said.polarity or by_name.polarity,
        orientation=said.orientation or by_name.orientation,
    )


def visible(folder: Path) -> list[Path]:
    """Return what is in a folder, in name order.

    Left out are names with a dot first, such as the `._train.csv` that macOS puts beside each file
    of an archive, and its folder __MACOSX of such files."""
    return sorted(p for p in folder.iterdir() if not p.name.startswith((".", "__MACOSX")))


def listed(names: Iterable[str], most: int = 8) -> str:
    """Return names for a message, shortened if there are many."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if names[most:] else "")
