"""Judge all submissions of a class side by side, into one table and a report for each.

    with LocalGraders(settings, workers=2) as graders:
        rows = grade(find_submissions("submissions/"), settings, Path("grades.csv"), graders)

The table is written whole, each second and at the end, however that comes. The same call continues
one that was stopped: a row is kept if its submission, the contract and all else that decides it are
the same as before, and its report is there. A row that is to be replaced stays until it is.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import Protocol

from filelock import Timeout

from .._locks import hold
from ..errors import InputError
from ..tables import Row
from .grader import Grader, HandedOut, Task
from .markdown import unjudged
from .settings import Settings
from .submissions import Submission
from .table import (
    Answer,
    file_names,
    has_report,
    mark_copies,
    read_grades,
    to_answer,
    write_grades,
    write_report,
)

WRITE_SECONDS = 1.0  # between two times that the table is written
OnAnswer = Callable[[Row, Answer | None], None]
"Called with each row, and with what was found if it was not in the table already."


class Graders(Protocol):
    """Something that judges submissions side by side."""

    def digests(self, files: Sequence[Path | None]) -> set[str]:
        """Return the digests of the networks in files; None stands for this package's own."""

    def answers(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, Answer]]:
        """Yield each task with its answer, as they are finished."""


class LocalGraders:
    """Processes on this machine."""

    def __init__(self, settings: Settings, workers: int) -> None:
        self._settings, self._workers = settings, workers
        self._started: list[Grader] = []
        self._stack = ExitStack()

    def __enter__(self) -> "LocalGraders":
        """Return the processes, of which the first start when they are needed."""
        return self

    def __exit__(self, *error: object) -> None:
        """End the processes."""
        self._stack.close()

    def _start(self, n: int) -> list[Grader]:
        """Return n processes that are ready; they get ready at the same time."""
        new = [Grader(self._settings) for _ in range(n - len(self._started))]
        for each in new:
            self._stack.enter_context(each)
        for each in new:
            each.receive()
        self._started += new
        return self._started[:n]

    def digests(self, files: Sequence[Path | None]) -> set[str]:
        """Return the digests of the networks in files."""
        found: set[str] = set()
        for file in files:
            (grader,) = self._start(1)
            grader.send(HandedOut(file))
            found |= set(grader.receive())
        return found

    def answers(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, Answer]]:
        """Yield each task with its answer, as they are finished."""
        remaining = iter(tasks)
        busy: dict[object, tuple[Grader, Task]] = {}

        def give(grader: Grader) -> None:
            if (task := next(remaining, None)) is not None:
                grader.send(task)
                busy[grader.connection] = grader, task

        for grader in self._start(min(self._workers, len(tasks))):
            give(grader)
        while busy:
            for connection in wait([grader.connection for grader, _ in busy.values()]):
                grader, task = busy.pop(connection)
                try:
                    answer = grader.receive()
                except ChildProcessError as error:
                    answer = self._lost(task, error)
                    self._started.remove(grader)
                    grader = self._start(len(self._started) + 1)[-1]
                give(grader)
                yield task, answer

    def _lost(self, task: Task, error: ChildProcessError) -> Answer:
        problem = InputError(
            f"{error}, perhaps for want of memory", hint="run the same command again"
        )
        answer = to_answer(unjudged(task.submission, self._settings.contract, problem))
        return replace(answer, again=True)


def report_folder(table: Path) -> Path:
    """Return the folder of the reports, beside the table."""
    return table.with_name(f"{table.stem}-reports")


def grade(
    submissions: Sequence[Submission],
    settings: Settings,
    table: Path,
    graders: Graders,
    handout: Path | None = None,
    on_answer: OnAnswer | None = None,
) -> list[Row]:
    """Judge the submissions that the table lacks, and return the rows of all, in order.

    Args:
        submissions: What was handed in.
        settings: How they are judged.
        table: The CSV file. Rows of others that are in it already stay in it, after these.
        graders: What judges them.
        handout: A file with networks that students were given, which are no copies.
        on_answer: Called with each row, those already in the table first.

    Raises InputError if the table is another one, or another process writes it.
    """
    folder = report_folder(table)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with hold(f"{table}.lock", seconds=0):
            return _grade(submissions, settings, table, folder, graders, handout, on_answer)
    except Timeout as error:
        raise InputError(
            f"{table}: another process writes this table, expected one at a time",
            hint="wait until it has finished, or give another file with --out",
        ) from error


def _grade(
    submissions: Sequence[Submission],
    settings: Settings,
    table: Path,
    folder: Path,
    graders: Graders,
    handout: Path | None,
    on_answer: OnAnswer | None,
) -> list[Row]:
    how = settings.digest()
    digests = {
        each.name: hashlib.sha256((how + each.digest()).encode()).hexdigest()[:32]
        for each in submissions
    }
    before = {row["name"]: row for row in read_grades(table)}
    rows = {name: row for name, row in before.items() if name in digests}
    others = [row for name, row in before.items() if name not in digests]
    # A report that is there keeps its name: another one's would be written over it.
    stems = {name: Path(row["report"]).stem for name, row in before.items() if row["report"]}
    fresh = [each.name for each in submissions if each.name not in stems]
    stems |= file_names(fresh, stems.values())
    missing = []

    def ordered_rows() -> list[Row]:
        return [rows[each.name] for each in submissions if each.name in rows] + others

    for each in submissions:
        row = rows.get(each.name)
        if row is not None and row["hash"] == digests[each.name] and has_report(table, row):
            if on_answer is not None:
                on_answer(row, None)
        else:
            missing.append(Task(each, folder / f"{stems[each.name]}-run-{digests[each.name][:8]}"))
    # One that was stopped at its end has no copies yet.
    copies_said = any(row["same as"] for row in before.values())
    if not missing and handout is None and (copies_said or not mark_copies(ordered_rows(), set())):
        return [rows[each.name] for each in submissions]
    exempt = set() if handout is None else graders.digests([handout])

    def write() -> None:
        """Write the table without copies: which of them are meant is known at the end."""
        ordered = ordered_rows()
        for row in ordered:
            row["same as"] = ""
        write_grades(table, ordered)

    written = time.monotonic()
    try:
        for task, answer in graders.answers(missing):
            name = task.submission.name
            path = write_report(answer, folder, stems[name])
            row = {key: "" if value is None else str(value) for key, value in answer.cells.items()}
            row |= {"report": f"{folder.name}/{path.name}", "hash": digests[name], "same as": ""}
            if answer.bug or answer.again:
                row["hash"] = ""  # judged again the next time
            rows[name] = row
            if time.monotonic() - written > WRITE_SECONDS:
                write()
                written = time.monotonic()
            if on_answer is not None:
                on_answer(row, answer)
    finally:  # after an interrupt too
        write()
    if mark_copies(ordered_rows(), exempt):
        exempt |= graders.digests([None])
        mark_copies(ordered_rows(), exempt)
    write_grades(table, ordered_rows())
    return [rows[each.name] for each in submissions]
