"""The command that judges a class: grade."""

import json
import os
from collections import Counter
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from .._files import write_atomic
from ..contract import load_contract
from ..errors import InputError
from ..grading.markdown import CLAUSE, FAIL, NOT_JUDGED, PASS, points_text
from ..recipe import find_recipe
from .base import (
    BROKEN,
    BUG,
    DEFAULT_CONTRACT,
    DONE,
    INTERRUPTED,
    app,
    cores,
    literal,
    progress_bar,
    stderr,
    stdout,
)

if TYPE_CHECKING:
    from ..grading.grade import Graders
    from ..grading.settings import Settings
    from ..grading.table import Answer
    from ..tables import Row

MEANING = "PASS: every clause that could be judged holds, with all or a part of its points."
STYLES = {"PASS": "green", "FAIL": "bold red", "NOT JUDGED": "yellow"}


@app.command(name="grade")
def cmd_grade(
    submissions: str,
    /,
    *,
    contract: str = DEFAULT_CONTRACT,
    out: str = "grades.csv",
    data: str | None = None,
    class_: str | None = None,
    weights: str | None = None,
    mean: float | None = None,
    std: float | None = None,
    train: str | None = None,
    handout: str | None = None,
    workers: int | None = None,
    ray: str | None = None,
    badge: str | None = None,
    summary: str | None = None,
    gradescope: str | None = None,
) -> int:
    """Judge the submissions of a class, into one table and a report for each.

    Each submission is a run folder, or a .py or .ipynb file with a network and perhaps its weights.
    Its code runs in a process of its own, with limits; of a notebook, only imports, classes,
    functions and constants run. The same command continues one that was interrupted, and judges
    again what has changed.

    Parameters
    ----------
    submissions
        A folder with a folder or file for each student; a CSV file with the columns name and path,
        and perhaps class, weights, mean and std; or one file, FILE.py, FILE.py:CLASS or FILE.ipynb,
        or one run folder. With an option for one submission a folder is that of one student.
    contract
        A contract's name or a TOML file.
    out
        The table, a CSV file. The reports go into a folder beside it, such as grades-reports.
    data
        Where the data set is, as for `train`. Default: MNIST.
    class_
        Name of the network's class, in every file. Default: the only class that is no part of
        another, else one with a usual name such as Net, else the last.
    weights
        Weights of the one submission: .pth, .pt or .safetensors.
    mean
        With --std: the mean by which images in [0, 1] were normalised where the weights were
        trained. Default: that of the training images.
    std
        With --mean: the standard deviation likewise.
    train
        Train a network without weights by this recipe, one of `featherweight recipes`, and judge
        its accuracy. Its run folder is kept beside the report.
    handout
        A .py or .ipynb file with networks that students were given: to hand one in is no copy.
    workers
        Submissions that are judged at a time. Default: the number of cores.
    ray
        Judge on a Ray cluster: an address, auto for the cluster that this machine belongs to, or
        local to start one here.
    badge
        Write a badge of the one submission, an SVG file.
    summary
        Add the report of the one submission to this Markdown file, such as $GITHUB_STEP_SUMMARY.
    gradescope
        Write the points of the one submission as Gradescope's results.json.
    """
    from ..grading.grade import grade, report_folder
    from ..grading.settings import Settings
    from ..grading.submissions import find_submissions

    if os.name != "posix":
        raise InputError("grade: got a system that can't fork processes, expected Linux or macOS")
    held = load_contract(contract)
    if train is not None:
        find_recipe(train)
    if workers is not None and workers < 1:
        raise InputError(f"--workers: got {workers}, expected 1 or more")
    if ray not in (None, "local") and workers is not None:
        raise InputError(
            "--workers with --ray ADDRESS: not used, because a cluster judges as many as fit"
        )
    if (mean is None) != (std is None) or (std is not None and not 0 < std < float("inf")):
        raise InputError(
            f"--mean {mean}, --std {std}: expected both, the second above 0",
            hint="--mean 0.1307 --std 0.3081 are those of all 60,000 MNIST images",
        )
    for option, file in (("--data", data), ("--handout", handout)):
        if file is not None and not Path(file).exists():
            raise InputError(f"{option} {file}: no such file or folder")
    mean_std = None if mean is None or std is None else (mean, std)
    settings = Settings(held, data, train, mean_std)
    for_one = {"--weights": weights, "--badge": badge, "--summary": summary}
    for_one["--gradescope"] = gradescope
    given = [key for key, value in for_one.items() if value is not None]
    found = find_submissions(submissions, class_, single=bool(given))
    if given and len(found) > 1:
        raise InputError(f"{given[0]} with {len(found)} submissions: expected one submission")
    if weights is not None:
        found = [replace(found[0], weights=Path(weights))]
    table = Path(out)
    for root in [Path(submissions), *(each.root for each in found)]:
        if root.is_dir() and table.absolute().resolve().is_relative_to(root.resolve()):
            raise InputError(
                f"--out {out}: got a table inside {root}, which is judged, expected one elsewhere",
                hint=f"--out {root.resolve().with_name(table.name)}",
            )
    bugs: list[str] = []
    with progress_bar("submissions") as progress:
        bar = progress.add_task("", total=len(found))

        def on_answer(row: "Row", answer: "Answer | None") -> None:
            stderr.print(_describe(row) + ("" if answer else " (as before)"), markup=False)
            progress.advance(bar)
            if answer is not None and answer.bug:
                bugs.append(answer.bug)

        try:
            with _make_graders(settings, workers or cores(), ray) as graders:
                handed_out = None if handout is None else Path(handout)
                rows = grade(found, settings, table, graders, handed_out, on_answer)
        except KeyboardInterrupt:
            stderr.print(
                f"interrupted; rows that were not reached stay in {table} as they were; run "
                "the same command again to continue",
                markup=False,
            )
            return INTERRUPTED
    _print_rows(rows)
    if badge or summary or gradescope:
        _write_one(rows[0], table, badge, summary, gradescope)
    stderr.print(f"see {table} and the reports in {report_folder(table)}", markup=False)
    if bugs:
        stderr.print(bugs[0], markup=False)
        return BUG
    return DONE if all(row["verdict"] == PASS for row in rows) else BROKEN


def _make_graders(
    settings: "Settings", workers: int, ray: str | None
) -> "AbstractContextManager[Graders]":
    if ray is None:
        from ..grading.grade import LocalGraders

        return LocalGraders(settings, workers)
    from ..grading.ray_graders import RayGraders

    return RayGraders(ray, settings, workers)


def _describe(row: "Row") -> str:
    """Return a row as one line."""
    if row["verdict"] == NOT_JUDGED:
        return f"{row['name']}: {NOT_JUDGED}: {row['problem']}"
    parts = [row["verdict"], _points(row), f"{_parameters(row)} parameters", _accuracy(row)]
    fails = f"fails: {_failed(row)}" if _failed(row) else ""
    return "; ".join(
        filter(None, [f"{row['name']}: {', '.join(filter(None, parts))}", fails, row["problem"]])
    )


def _failed(row: "Row") -> str:
    """Return the names of the clauses that fail."""
    cells = (
        (key.removeprefix(CLAUSE), cell) for key, cell in row.items() if key.startswith(CLAUSE)
    )
    return ", ".join(name for name, cell in cells if cell.startswith(FAIL))


def _points(row: "Row") -> str:
    return points_text(row["points"], row["max points"], row["points not judged"])


def _parameters(row: "Row") -> str:
    return f"{int(row['parameters']):,}" if row["parameters"] else ""


def _accuracy(row: "Row") -> str:
    return f"{100 * float(row['accuracy']):.2f} %" if row["accuracy"] else ""


def _print_rows(rows: "list[Row]") -> None:
    """Print a line for each submission, then what is to be said of some of them."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for title in ("name", "verdict", "points", "not judged", "parameters", "accuracy"):
        table.add_column(title, overflow="fold")
    for row in rows:
        points = f"{row['points']}/{row['max points']}"
        missing = f"{row['points not judged']} points" * (row["points not judged"] != "0")
        cells = map(literal, (points, missing, _parameters(row), _accuracy(row)))
        verdict = Text(row["verdict"], style=STYLES[row["verdict"]])
        table.add_row(literal(row["name"]), verdict, *cells)
    stdout.print(table)
    for title, said in (
        ("Clauses that fail", {row["name"]: _failed(row) for row in rows}),
        ("Not judged, or only in part", {row["name"]: row["problem"] for row in rows}),
        ("Handed in more than once", {row["name"]: row["same as"] for row in rows}),
    ):
        if any(said.values()):
            stdout.print(f"\n[bold]{title}[/]")
        for name, text in said.items():
            if text:
                stdout.print(f"- {name}: {text}", markup=False)
    counts = Counter(row["verdict"] for row in rows)
    total = ", ".join(f"{counts[word]} {word}" for word in STYLES if counts[word])
    stdout.print(f"\n{total}. {MEANING if counts[PASS] else ''}".rstrip(), markup=False)


def _write_one(
    row: "Row", table: Path, badge: str | None, summary: str | None, gradescope: str | None
) -> None:
    """Write what the places show where a submission is handed in."""
    from ..badge import verdict_badge
    from ..grading.gradescope import to_gradescope
    from ..grading.table import read_report

    verdict, report = read_report(table, row)
    if badge is not None:
        accuracy = float(row["accuracy"]) if row["accuracy"] else None
        write_atomic(Path(badge), verdict_badge(verdict, accuracy, _points(row)).encode())
    if summary is not None:
        with Path(summary).open("a", encoding="utf-8") as file:
            file.write(report)
    if gradescope is not None:
        content = json.dumps(to_gradescope(row, verdict, report), indent=2) + "\n"
        write_atomic(Path(gradescope), content.encode())
