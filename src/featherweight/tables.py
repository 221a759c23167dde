"""Tables in CSV files that are always complete: replaced as a whole, never half written.

Example:
    rows = read_table(Path("results/records.csv"), columns)
    write_table(Path("results/records.csv"), [*rows, row], columns)
"""

import csv
import io
from pathlib import Path

from ._files import write_atomic
from .errors import InputError

Row = dict[str, str]


def make_cells(values: dict[str, object], columns: tuple[str, ...]) -> Row:
    """Return one row with the given columns. A missing value or None becomes an empty cell."""
    return {column: "" if values.get(column) is None else str(values[column]) for column in columns}


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
    return rows


def write_table(path: Path, rows: list[Row], columns: tuple[str, ...]) -> None:
    """Replace the file with a header and the rows; a reader sees the old or the new file."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, text.getvalue().encode())
