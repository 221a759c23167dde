"""Read a folder of pictures that are sorted by what they show, and count what is read right.

    is_labelled(Path("my-digits"))                          # my-digits/7/photo.jpg and so on
    score = score_folder(Reader(), Path("my-digits"))
    score.correct, score.total, score.interval              # 57, 60, (0.863, 0.983)

`featherweight serve` keeps pictures in such a folder. Where the labels are digits, pictures of no
digit may be in a folder of their own, not-a-digit. They are counted by themselves.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .._files import reason
from .._pictures import SUFFIXES, is_named_as_picture
from ..counts import percent, wilson
from ..errors import InputError
from .reader import Reader
from .reading import are_digits

NO_DIGIT = "not-a-digit"  # the name of the folder of pictures that show no digit


@dataclass(frozen=True, eq=False, repr=False)
class FolderScore:
    """What a reader said of the pictures in a folder."""

    labels: tuple[str, ...]
    "Labels of the classes."
    confusion: np.ndarray
    """Numbers of pictures (classes, classes + 1): [true class, class that was read]. The last
    column counts the pictures in which no digit was found."""
    unsure: int
    "Number of pictures whose reading should be checked."
    wrong_though_sure: int
    "Number of pictures read wrong whose reading should not need a check."
    not_digits: int
    """Number of pictures in the folder of pictures that show no digit. All figures but the next two
    leave them out."""
    not_digits_read: int
    "How many of them are read as a digit."
    not_digits_sure: int
    "How many of these should not need a check."
    unreadable: tuple[str, ...]
    "What was wrong with each file that is no picture. They are not counted."

    @property
    def correct(self) -> int:
        """Number of pictures read right."""
        return int(np.trace(self.confusion))

    @property
    def total(self) -> int:
        """Number of pictures that were read."""
        return int(self.confusion.sum())

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the accuracy."""
        return wilson(self.correct, self.total)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values. The accuracy is None if no picture could be read."""
        return {
            "correct": self.correct,
            "total": self.total,
            "accuracy": self.correct / self.total if self.total else None,
            "interval": list(self.interval) if self.total else None,
            "no_ink": int(self.confusion[:, -1].sum()),
            "unsure": self.unsure,
            "wrong_though_sure": self.wrong_though_sure,
            "not_digits": self.not_digits,
            "not_digits_read": self.not_digits_read,
            "not_digits_sure": self.not_digits_sure,
            "unreadable": len(self.unreadable),
            "labels": list(self.labels),
            "confusion": self.confusion.tolist(),
        }

    def __repr__(self) -> str:
        """Return one line, such as `95.00 % (3 wrong of 60)`."""
        return percent(self.correct, self.total) if self.total else "no picture could be read"


def folder_names(labels: Sequence[str]) -> list[str]:
    """Return the names of the folders that pictures of these labels are sorted into."""
    return [*labels, NO_DIGIT] if are_digits(labels) else list(labels)


def is_labelled(folder: Path) -> bool:
    """Return whether a folder holds pictures in folders of their labels."""
    return folder.is_dir() and any(_is_named_as_picture(path) for path in folder.glob("*/*"))


def score_folder(
    reader: Reader, folder: Path, on_error: Callable[[str], None] | None = None
) -> FolderScore:
    """Read every picture FOLDER/LABEL/NAME, and count what is read right.

    Where the labels are digits, pictures FOLDER/not-a-digit/NAME should not be read.

    Args:
        reader: The reader.
        folder: The folder.
        on_error: Called with what is wrong with a file that is no picture, when it is found.

    Raises:
        InputError: There is no picture, or a folder with pictures is not named after a label.
    """
    pictures = [path for path in sorted(folder.glob("*/*")) if _is_named_as_picture(path)]
    if not pictures:
        raise InputError(
            f"{folder}: got no picture in it, expected LABEL/NAME with names that end in "
            f"{', '.join(sorted(SUFFIXES))}"
        )
    number = {label: k for k, label in enumerate(reader.labels)}
    names = folder_names(reader.labels)
    for path in pictures:
        if path.parent.name not in names:
            raise InputError(f"{path.parent}: not a label, expected one of {', '.join(names)}")
    confusion = np.zeros((len(number), len(number) + 1), np.int64)
    unsure, wrong_though_sure, others, unreadable = 0, 0, [], []
    for path in pictures:
        try:
            reading = reader.read(path)
        except (InputError, OSError) as error:
            unreadable.append(reason(error))
            if on_error is not None:
                on_error(unreadable[-1])
            continue
        if path.parent.name not in number:
            others.append(reading)
            continue
        read = len(number) if reading.label is None else number[reading.label]
        confusion[number[path.parent.name], read] += 1
        unsure += reading.unsure
        wrong_though_sure += not reading.unsure and reading.label != path.parent.name
    return FolderScore(
        labels=tuple(reader.labels),
        confusion=confusion,
        unsure=unsure,
        wrong_though_sure=wrong_though_sure,
        not_digits=len(others),
        not_digits_read=sum(reading.label is not None for reading in others),
        not_digits_sure=sum(not reading.unsure for reading in others),
        unreadable=tuple(unreadable),
    )


def _is_named_as_picture(path: Path) -> bool:
    """Return whether a path is named as a picture, and neither it nor its folder is hidden."""
    return is_named_as_picture(path.name) and not path.parent.name.startswith(".")
