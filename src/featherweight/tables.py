"""Tables in CSV files that are always complete: replaced as a whole, never half written.

Example:
    rows = read_table(Path("results/records.csv"), columns)
    write_table(Path("results/records.csv"), [*rows, row], columns)

A text that a spreadsheet would run as a formula gets a `'` before it, which reading takes away
again: a cell that begins with one of FORMULA and is no number. Numbers stay as they are.
"""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from ._files import write_atomic
from .errors import InputError

Row = dict[str, str]
# What a spreadsheet takes for the start of a formula, and what marks a text that begins so.
FORMULA, QUOTE = "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20", "'"
NUMBER = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?|[+-]?(inf|nan)")


def make_cells(values: dict[str, object], columns: tuple[str, ...]) -> Row:
    """Return one row with the given columns. A missing value or None becomes an empty cell."""
    return {column: "" if values.get(column) is None else str(values[column]) for column in columns}


def escape_cell(value: object) -> str:
    """Return the text of a cell, which no spreadsheet takes for a formula; None is empty."""
    text = "" if value is None else str(value)
    # A sign alone, such as the name of standard input, is no formula.
    begins_so = len(text) > 1 and text.startswith((*FORMULA, QUOTE)) and not NUMBER.fullmatch(text)
    return QUOTE + text if begins_so else text


def unescape_cell(text: str) -> str:
    """Return the text that `escape_cell` was given."""
    begins_so = text.startswith(tuple(QUOTE + first for first in (*FORMULA, QUOTE)))
    return text[1:] if begins_so else text


def format_table(rows: Iterable[Sequence[object]], columns: Sequence[str]) -> str:
    """Return a header and rows as CSV."""
    return "".join(map(_line, [columns, *rows]))


def _line(values: Sequence[object]) -> str:
    line = io.StringIO()
    # With \r\n at the end of a line: before Python 3.13 a \r in a cell is not quoted otherwise.
    csv.writer(line, lineterminator="\r\n").writerow(map(escape_cell, values))
    return line.getvalue().removesuffix("\r\n") + "\n"


def read_table(path: Path, columns: tuple[str, ...], *, must_exist: bool = False) -> list[Row]:
    """Return the rows of a CSV file; an empty list if it does not exist, unless `must_exist`.

    Raises InputError if the file is not CSV in UTF-8 or has other columns, and OSError if it
    cannot be read."""
    if not must_exist and not path.exists():
        return []
    try:
        # Spreadsheet programs write a byte order mark at the start of UTF-8.
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows, found = list(reader), tuple(reader.fieldnames or ())
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a CSV file in UTF-8: {error}") from error
    if found != columns:
        raise InputError(
            f"{path}: got columns {', '.join(found) or 'none'}, expected {', '.join(columns)}"
        )
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():  # the row is longer or shorter than the header
            raise InputError(f"{path}: row {number}: expected {len(columns)} values")
    return [{column: unescape_cell(text) for column, text in row.items()} for row in rows]


def write_table(path: Path, rows: list[Row], columns: tuple[str, ...]) -> None:
    """Replace the file with a header and the rows; a reader sees the old or the new file.

    Raises ValueError if a row has other columns."""
    for row in rows:
        if set(row) != set(columns):
            raise ValueError(f"got a row of {', '.join(row)}, expected {', '.join(columns)}")
    cells = ([row[column] for column in columns] for row in rows)
    write_atomic(path, format_table(cells, columns).encode())
