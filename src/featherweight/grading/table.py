"""The table of a class: one row for each submission, and a report beside it.

answer = to_answer(graded)                # plain values, from the process that has judged
write_grades(Path("grades.csv"), rows)
for row in read_grades(Path("grades.csv")): row["points"], row["same as"]
"""

import csv
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .._files import visible, write_atomic
from ..errors import InputError
from ..tables import Row, make_cells, read_table, write_table
from .markdown import CLAUSE, MAX_MESSAGE, Graded, number

FRONT = (
    *("name", "file", "class", "chosen"),
    *("verdict", "points", "max points", "points not judged"),
)
BACK = (
    *("parameters", "accuracy", "evidence", "same as", "problem", "report"),
    *("graph", "weights", "hash"),
)
MAX_STEM = 120  # bytes of the name of a submission's files, before what tells two apart
MAX_CELL = 2 * MAX_MESSAGE  # characters of a cell; csv reads no more than 131,072
MAX_SAME = 5  # names of those who handed in the same that a row has
# A picture of a report, in a line of its own.
PICTURE_LINK = re.compile(r"^!\[[^]]*\]\(([^)]*)\)\n*", re.MULTILINE)
SAME = {"weights": "the same weights", "graph": "the same network"}


@dataclass(frozen=True)
class Answer:
    """What is known of a submission, in plain values that go from process to process."""

    cells: dict[str, Any]
    "The cells of its row, but for those that need the other rows."
    report: str
    pictures: dict[str, bytes]
    verdict: dict[str, Any] | None
    "Its verdict, as `Verdict.to_dict` returns it."
    advice: str = ""
    "Why it, or a part of it, could not be judged."
    bug: str = ""
    "The traceback, where this package has failed."
    again: bool = False
    "Whether it is to be judged again the next time, because what failed was not its own."
    folders: dict[str, bytes] = field(default_factory=dict)
    "Packed run folders, from another machine."


def to_answer(graded: Graded) -> Answer:
    """Return a submission's row, report and pictures."""
    verdict, result = graded.verdict, graded.result
    points, most = graded.points
    cells: dict[str, Any] = {
        "name": graded.submission.name,
        "file": graded.submission.shown_file,
        "class": graded.network,
        "chosen": "; ".join(filter(None, [graded.chosen, graded.submission.chosen])),
        "verdict": graded.word,
        "points": number(points),
        "max points": number(most),
        "points not judged": number(graded.points_not_judged),
        "parameters": None if verdict is None else verdict.n_params,
        "accuracy": None if result is None else f"{result.accuracy:.4f}",
        "evidence": graded.evidence,
        "problem": graded.advice,
        "graph": graded.graph,
        "weights": graded.weights,
    }
    cells |= {f"{CLAUSE}{name}": result for name, result in graded.clauses.items()}
    cells = {key: _cell(value) for key, value in cells.items()}
    values = None if verdict is None else verdict.to_dict()
    return Answer(cells, graded.report, graded.pictures, values, graded.advice)


def _cell(value: Any) -> str:
    """Return the text of a cell: one line, short enough for every program that reads CSV."""
    text = "" if value is None else str(value)[:MAX_CELL]
    return " ".join(visible(text.encode(errors="backslashreplace").decode()).split())


def read_grades(table: Path) -> list[Row]:
    """Return the rows of a table; none if it does not exist.

    Raises InputError where it is another table."""
    if not table.exists():
        return []
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            columns = tuple(next(csv.reader(file), ()))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{table}: not a CSV file in UTF-8: {error}") from error
    middle = columns[len(FRONT) : -len(BACK)]
    if columns != (*FRONT, *middle, *BACK) or not all(c.startswith(CLAUSE) for c in middle):
        raise InputError(
            f"{table}: got columns {', '.join(columns)[:200] or 'none'}, expected those of a table "
            "of grades",
            hint="give another file with --out",
        )
    return read_table(table, columns)


def write_grades(table: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Replace the table as a whole; a row without one of the clauses has an empty cell there."""
    kept = list(rows)
    clauses: list[str] = []
    for row in sorted(kept, key=len, reverse=True):
        clauses += [key for key in row if key.startswith(CLAUSE) and key not in clauses]
    columns = (*FRONT, *clauses, *BACK)
    write_table(table, [make_cells(row, columns) for row in kept], columns)


def mark_copies(rows: Sequence[Row], exempt: set[str]) -> list[str]:
    """Fill the column `same as` of all rows; return the digests that several rows share.

    Networks whose digest is in `exempt`, such as those that were handed out, are no copies.
    """
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in rows:
        for kind in SAME:
            if row[kind] and row[kind] not in exempt:
                groups[kind, row[kind]].append(row["name"])
    for row in rows:
        said: list[str] = []
        for kind, words in SAME.items():
            names = groups[kind, row[kind]]
            others = [name for name in names if name != row["name"]]
            # The same weights are of the same network, which need not be said.
            if others and not said:
                more = [f"{len(others) - MAX_SAME} others"] if len(others) > MAX_SAME else []
                shown = ", ".join([*others[:MAX_SAME], *more])
                said.append(f"{words} as {shown}; {len(names)} students")
        row["same as"] = "; ".join(said)
    return [digest for (_, digest), names in groups.items() if len(names) > 1]


def file_names(names: Iterable[str], others: Iterable[str] = ()) -> dict[str, str]:
    """Return a name for the files of each submission: plain, and no two alike in any case.

    `others` are names of files that are there and stay."""
    found: dict[str, str] = {}
    taken = {name.casefold() for name in others}
    for name in names:
        short = re.sub(r"[^\w.-]+", "-", name).encode()[:MAX_STEM].decode(errors="ignore")
        plain = short.strip("-.") or "unnamed"
        choice, n = plain, 2
        while choice.casefold() in taken:
            choice, n = f"{plain}-{n}", n + 1
        taken.add(choice.casefold())
        found[name] = choice
    return found


def write_report(answer: Answer, folder: Path, stem: str) -> Path:
    """Write the report of a submission, its pictures and its verdict; return the report's path."""
    text = answer.report
    for name, content in answer.pictures.items():
        write_atomic(folder / f"{stem}-{name}", content)
        text = text.replace(f"]({name})", f"]({stem}-{name})")
    write_atomic(folder / f"{stem}.json", json.dumps(answer.verdict).encode())
    path = folder / f"{stem}.md"
    write_atomic(path, text.encode(errors="backslashreplace"))
    return path


def has_report(table: Path, row: Row) -> bool:
    """Return whether the report of a row, its pictures and its verdict are all there."""
    path = table.parent / row["report"]
    if not (path.is_file() and path.with_suffix(".json").is_file()):
        return False
    text = path.read_text(encoding="utf-8", errors="replace")  # a teacher may have edited it
    return all((path.parent / name).is_file() for name in PICTURE_LINK.findall(text))


def read_report(table: Path, row: Row) -> tuple[dict[str, Any] | None, str]:
    """Return the verdict of a row, None if there is none, and its report without pictures."""
    path = table.parent / row["report"]
    text = PICTURE_LINK.sub("", path.read_text(encoding="utf-8", errors="replace"))
    return json.loads(path.with_suffix(".json").read_bytes()), text
