"""Data sets as CSV tables with a row for each image, as Kaggle's digit recogniser: train.csv.

The label is in the column `label` or `class`, else in the only one whose name does not end in a
digit, such as `target` among `pixel1`, `pixel2` and so on, else in the first one. The others are
the pixels of a square grey image, row by row, from 0 to 255. A header is optional. Commas,
semicolons or tabs separate the columns.
"""

import math
import re
import warnings
from pathlib import Path

import numpy as np

from .._arrays import MAX_ARRAY_BYTES
from .._files import reason
from ..errors import InputError
from ..image_kind import MAX_SIDE
from ._source import Part, PartName, Source, read_said, said_by_name, visible

LABEL_COLUMNS = ("label", "class")
SEPARATORS = ",;\t"
MAX_LINE = 100_000  # characters: 64x64 pixels of 3 digits take 16,384
_NAME = re.compile(r"(?:(.*)[-_.])?(train|test)(?:ing)?([-_.].*)?\.csv", re.IGNORECASE)


def find_tables(folder: Path) -> dict[str, list[Path]]:
    """Return the tables of a folder that are named as ones of training or of test images."""
    files: dict[str, list[Path]] = {"train": [], "test": []}
    for path in visible(folder):
        if (found := _NAME.fullmatch(path.name)) and path.is_file():
            files[found[2].lower()].append(path)
    return files


def open_table(path: Path) -> Source:
    """Return the data set of a training table, with the test table beside it."""
    found = _NAME.fullmatch(path.name)
    known = said_by_name(found[1] or "" if found else "", path.parent.name)

    def read(part: PartName) -> Part:
        if part == "train":
            return read_table(path)
        tables = find_tables(path.parent) if found else {"train": [], "test": []}
        # The one of the same name, else the only one.
        same = [table for table in tables["test"] if _set_of(table) == _set_of(path)]
        few = same or (tables["test"] if len(tables["train"]) == 1 else [])
        if len(few) != 1:
            got = " and ".join(table.name for table in few) or "no test.csv"
            raise InputError(f"{path}: got {got} beside it, expected one with labels")
        return read_table(few[0])

    return Source(read, read_said(path.parent, known))


def _set_of(path: Path) -> tuple[str, ...]:
    """Return what is before and after `train` or `test` in the name of a table."""
    found = _NAME.fullmatch(path.name.lower())
    return (found[1] or "", found[3] or "") if found else ()


def read_table(path: Path) -> Part:
    """Return the images of a table. Raises InputError if it is none, or has no labels."""
    if (size := path.stat().st_size) > MAX_ARRAY_BYTES:
        raise InputError(f"{path}: got {size:,} bytes, expected at most {MAX_ARRAY_BYTES:,}")
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        line = file.readline(MAX_LINE)
        separator = max(SEPARATORS, key=line.count)
        first = [word.strip(' "\r\n').lower() for word in line.split(separator)]
        has_header = not all(word.isdecimal() for word in first)
        label = _label_column(first) if has_header else 0
        side = math.isqrt(len(first) - 1)
        if math.isqrt(len(first)) ** 2 == len(first) > 1 and not {*LABEL_COLUMNS} & {*first}:
            raise InputError(
                f"{path}: got {len(first):,} columns, all of pixels, expected labels too",
                hint="Kaggle publishes no labels of its test images, so they can't be evaluated",
            )
        if len(first) == 2:
            raise InputError(
                f"{path}: got 2 columns, expected a label and the pixels of an image",
                hint="if the pictures are files, sort them into folders of their classes: "
                "train/CLASS/PICTURE",
            )
        if side**2 != len(first) - 1 or not 1 <= side <= MAX_SIDE:
            one_more = len(first) > 2 and math.isqrt(len(first) - 2) ** 2 == len(first) - 2
            raise InputError(
                f"{path}: got {len(first):,} columns, expected a label and the pixels of a square "
                f"image of at most {MAX_SIDE}x{MAX_SIDE}",
                hint="leave out the column that numbers the rows: pandas to_csv(..., index=False)"
                if one_more
                else None,
            )
        if not has_header:
            file.seek(0)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about a table without rows, which is refused
                values = np.loadtxt(file, np.uint8, delimiter=separator, quotechar='"', ndmin=2)
        except ValueError as error:
            raise InputError(
                f"{path}: {reason(error)} (below the header); expected rows of "
                f"{len(first):,} whole numbers from 0 to 255"
            ) from error
    if values.shape[1:] != (len(first),) or not len(values):
        raise InputError(f"{path}: got no row of {len(first):,} numbers, expected one an image")
    if not has_header and len(values) > 1 and (values[:, 0] == values[0, 0]).all():
        raise InputError(
            f"{path}: got {values[0, 0]} in the first column of every row, expected labels there",
            hint="if they are in another column, give the table a header that calls it label",
        )
    pixels = np.delete(values, label, 1).reshape(-1, side, side)
    return Part(pixels, values[:, label].astype(np.int64), str(path))


def _label_column(names: list[str]) -> int:
    """Return the column of the labels in a header."""
    for name in LABEL_COLUMNS:
        if name in names:
            return names.index(name)
    words = [i for i, name in enumerate(names) if name and not name[-1].isdecimal()]
    return words[0] if len(words) == 1 else 0
