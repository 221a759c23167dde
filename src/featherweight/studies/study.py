"""Many runs from one plan, a row each in one CSV; on local processes, or on what else can run them (cluster.py).

    plan = load_plan("records")
    rows = run_study(plan, Path("results/records.csv"), Path("runs"), device, LocalProcesses(2, 1, device))
    for summary in summarise(rows): print(summary.recipe, summary.mean_val)

A run's folder has a name made of all that decides its result, so a study that was killed finds what it had:
finished rows are kept, finished folders become rows, an unfinished run goes on from its last epoch. Locks keep
two studies apart: one on the table while a row is added, one on each run while it is trained.
"""

import contextlib
import csv
import io
import json
import math
import multiprocessing
import os
import statistics
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol

import torch
from filelock import FileLock, Timeout
from scipy import stats

from ..audit import audit_run
from ..contract import Contract
from ..data import Split, load_test
from ..errors import InputError
from ..evaluate import evaluate
from ..recipe import Recipe
from ..run import Row as Epoch
from ..run import Run, create_run, open_run, write_atomic
from ..train import DivergedError, train
from .plan import Plan, Task, run_config

Row = dict[str, str]
COLUMNS = (
    "recipe",
    "seed",
    "n_params",
    "epochs",
    "val_correct",
    "test_correct",
    "val_total",
    "test_total",
    "last_epochs_val_correct",
    "seconds",
    "threads",
    "torch",
    "commit",
    "contract",
    "verdict",
    "featherweight",
    "python",
    "numpy",
    "cpu",
    "device",
    "data_sha256",
    "config",
)


class Stopped(Exception):
    """Raised by a job's `on_epoch`: the run is not worth its other epochs."""


def make_row(run: Run, verdict: str, n_params: int | None) -> Row:
    """A run's folder as a row; `verdict` is PASS, FAIL, DIVERGED or STOPPED."""
    environment = run.environment
    metrics = run.read_metrics()
    counts = [str(row["val_correct"]) for row in metrics]
    values = {
        "recipe": run.recipe.name,
        "seed": run.seed,
        "n_params": n_params,
        "epochs": run.recipe.epochs,
        "val_correct": counts[-1] if verdict != "DIVERGED" else None,
        "val_total": metrics[-1]["val_total"] if metrics else None,
        "last_epochs_val_correct": " ".join(counts[-3:]),
        "seconds": round(sum(row["seconds"] for row in metrics), 1),
        "contract": run.contract.name,
        "verdict": verdict,
        "data_sha256": run.config["data"]["sha256"],
        "config": run_config(run.recipe, run.contract),
    } | {
        key: environment[key]
        for key in (
            "threads",
            "torch",
            "commit",
            "featherweight",
            "python",
            "numpy",
            "cpu",
            "device",
        )
    }
    return {
        column: "" if (value := values.get(column)) is None else str(value) for column in COLUMNS
    }


def run_task(
    task: Task,
    split: Split,
    folder: Path,
    device: torch.device,
    block: bool,
    on_epoch: Callable[[Epoch], None] = lambda row: None,
) -> Row | None:
    """Train one run to its end, from where it was, and audit it. None where another process is at it,
    unless `block`: then wait for that."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(f"{folder}.lock", timeout=-1 if block else 0):
            run = (
                open_run(folder)
                if folder.exists()
                else create_run(
                    str(folder),
                    task.recipe,
                    task.contract,
                    split,
                    task.seed,
                    device,
                    "featherweight study",
                )
            )
            try:
                train(run, split, device, on_epoch)
            except (DivergedError, Stopped) as error:
                return make_row(run, type(error).__name__.removesuffix("Error").upper(), None)
            verdict, _ = audit_run(run, split, device=device)
            run.write_json("verdict.json", verdict.to_dict())
            return make_row(run, "PASS" if verdict.passed else "FAIL", verdict.n_params)
    except Timeout:
        return None


@contextlib.contextmanager
def _locked(table: Path) -> Iterator[None]:
    table.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{table}.lock"):
        yield


def read_table(
    table: Path, must_exist: bool = False, columns: tuple[str, ...] = COLUMNS
) -> list[Row]:
    """The rows of a study's CSV, none where it does not exist yet. ValueError where it has other columns."""
    if not must_exist and not table.exists():
        return []
    try:
        with table.open(
            newline="", encoding="utf-8-sig"
        ) as file:  # spreadsheets put a mark before UTF-8
            reader = csv.DictReader(file)
            rows, found = list(reader), tuple(reader.fieldnames or ())
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{table}: not a CSV file in UTF-8: {error}") from error
    if found != columns:
        raise InputError(
            f"{table}: got columns {', '.join(found) or 'none'}, expected {', '.join(columns)}"
        )
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise InputError(
                f"{table}: row {number}: got another number of values than {len(columns)}"
            )
    return rows


def write_table(table: Path, rows: list[Row], columns: tuple[str, ...] = COLUMNS) -> None:
    """A header and the rows; the old file or the new one, never a part."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(table, text.getvalue().encode())


def row_key(row: Row) -> tuple[str, str, str]:
    """What its task's `key` is. ValueError where `config` is not a run's."""
    try:
        config = json.loads(row["config"])
        # Read and written anew: a row from before a field was added means its default.
        recipe, contract = (
            Recipe.from_dict(config["recipe"]),
            Contract.from_dict(config["contract"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"a study's row of {row['recipe']} seed {row['seed']}: config: {error}"
        ) from error
    return row["seed"], row["data_sha256"], run_config(recipe, contract)


def add_row(table: Path, row: Row) -> None:
    """Add the row of a run that the table does not have yet."""
    # Whole and renamed rather than appended: a table is a few hundred rows, and never ends in half of one.
    with _locked(table):
        rows = read_table(table)
        if row_key(row) not in {row_key(each) for each in rows}:
            write_table(table, [*rows, row])


def read_test(tasks: Iterable[Task], table: Path, runs: Path, device: torch.device) -> list[Row]:
    """Fill in the test count of those of the runs that have none yet; returns their rows.

    Raises ValueError for a run whose folder is gone."""
    with _locked(table):
        rows = read_table(table)
        wanted = {task.key: task for task in tasks}
        for row in rows:
            task = wanted.get(row_key(row))
            if task is None or row["test_correct"] or not row["val_correct"]:
                continue
            folder = task.folder(runs)
            if not folder.exists():
                raise InputError(
                    f"{folder}: gone, so its test images can't be read; "
                    f"remove its row from {table} to train it again"
                )
            run = open_run(folder)
            split = run.load_split(task.data)
            images = load_test(split).to(device)
            result = evaluate(run.load_model().to(device), images, split.mean_std)
            row |= {"test_correct": str(result.correct), "test_total": str(result.total)}
        write_table(table, rows)
    return [row for row in rows if row_key(row) in wanted]


def tell_nobody(row: Epoch) -> None:
    """For a job of which no epoch is told; a lambda can't be sent to another process."""


@dataclass(frozen=True)
class Job:
    """A run to be made, where, and who is told of its epochs; it is sent to other processes."""

    task: Task
    folder: Path
    on_epoch: Callable[[Epoch], None] = tell_nobody


class Workers(Protocol):
    """What runs jobs side by side. Leaving its context by an error stops what is running."""

    def __enter__(self) -> "Workers": ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    @property
    def slots(self) -> int:
        """Jobs that it should have at a time."""

    def submit(self, job: Job, block: bool) -> None:
        """Start `run_task` on the job, soon."""

    def wait(self) -> list[tuple[Job, Row | None]]:
        """Jobs that are done, at least one of those submitted, and what `run_task` returned; or its error."""


def _start_worker(threads: int) -> None:
    """In a worker process: its threads, and an end when its study is killed."""
    torch.set_num_threads(threads)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)  # its run goes on from its last finished epoch

    threading.Thread(target=follow, daemon=True).start()


def _run_here(job: Job, device: torch.device, block: bool) -> Row | None:
    return run_task(job.task, job.task.load_split(), job.folder, device, block, job.on_epoch)


class LocalProcesses:
    """Processes of this machine; each reads the images once."""

    def __init__(self, workers: int, threads: int, device: torch.device) -> None:
        self.slots, self._device = workers, device
        context = multiprocessing.get_context("spawn")  # a fork would copy the threads' locks
        self._pool = ProcessPoolExecutor(workers, context, _start_worker, (threads,))
        self._jobs: dict[Future[Row | None], Job] = {}

    def __enter__(self) -> "LocalProcesses":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(wait=kind is None, cancel_futures=True)
        if kind is not None:
            for process in multiprocessing.active_children():
                process.terminate()

    def submit(self, job: Job, block: bool) -> None:
        self._jobs[self._pool.submit(_run_here, job, self._device, block)] = job

    def wait(self) -> list[tuple[Job, Row | None]]:
        done, _ = wait(self._jobs, return_when=FIRST_COMPLETED)
        return [(self._jobs.pop(future), future.result()) for future in done]


def run_jobs(jobs: Iterable[Job], workers: Workers) -> Iterator[tuple[Job, Row]]:
    """Each job with its row, as they finish. A job is taken from the iterable only when there is room for it."""
    waiting, running = iter(jobs), 0
    busy: list[Job] = []
    while True:
        while running < workers.slots:
            if (job := next(waiting, None)) is not None:
                workers.submit(job, block=False)
            elif busy:  # another study is at it: wait for that one last
                workers.submit(busy.pop(0), block=True)
            else:
                break
            running += 1
        if not running:
            return
        for job, row in workers.wait():
            running -= 1
            if row is None:
                busy.append(job)
            else:
                yield job, row


def run_study(
    plan: Plan,
    table: Path,
    runs: Path,
    device: torch.device,
    workers: Workers,
    on_row: Callable[[Row], None] = lambda row: None,
) -> list[Row]:
    """Make every row of the plan that the table does not have; returns the plan's rows, in its order.

    `on_row` is told each row, those that were there first. Raises ValueError where the table or a folder can't be
    used, and whatever a run raises; the runs beside it then go on from their last epoch next time.
    """
    with _locked(table):
        rows = {row_key(row): row for row in read_table(table)}

    def finish(recipe: Recipe) -> None:
        seeds = [task for task in plan.tasks if task.recipe == recipe]
        if plan.test and all(task.key in rows for task in seeds):
            rows.update((row_key(row), row) for row in read_test(seeds, table, runs, device))

    for row in [rows[task.key] for task in plan.tasks if task.key in rows]:
        on_row(row)
    for recipe in {task.recipe.name: task.recipe for task in plan.tasks}.values():
        finish(recipe)  # one that had all its rows already
    todo = [Job(task, task.folder(runs)) for task in plan.tasks if task.key not in rows]
    if todo:
        with workers:
            for job, row in run_jobs(todo, workers):
                add_row(table, row)
                rows[job.task.key] = row
                on_row(row)
                finish(job.task.recipe)
    return [rows[task.key] for task in plan.tasks]


@dataclass(frozen=True)
class Spread:
    """Accuracies of several seeds, in fractions."""

    n: int
    mean: float
    sd: float
    "With n - 1; not a number for one seed, nor is the interval."
    least: float
    interval: tuple[float, float]
    "95 % interval of the mean (Student 1908)."


def spread(values: list[float]) -> Spread:
    """Of at least one value."""
    n, mean = len(values), statistics.fmean(values)
    if n == 1:
        return Spread(1, mean, math.nan, mean, (math.nan, math.nan))
    sd = statistics.stdev(values)
    half = float(stats.t.ppf(0.975, n - 1)) * sd / math.sqrt(n)
    return Spread(n, mean, sd, min(values), (mean - half, mean + half))


@dataclass(frozen=True)
class Summary:
    """The rows of one recipe."""

    recipe: str
    n_params: str
    runs: int
    diverged: int
    passed: int
    "Runs that met their contract."
    val: Spread | None
    "None where every run diverged."
    test: Spread | None
    "None where the test images were not read."
    seconds: float
    "Mean wall time of a training."


def summarise(rows: list[Row]) -> list[Summary]:
    """A summary a recipe, in the order of their first rows."""

    def fractions(part: str, group: list[Row]) -> Spread | None:
        found = [
            int(row[f"{part}_correct"]) / int(row[f"{part}_total"])
            for row in group
            if row[f"{part}_correct"]
        ]
        return spread(found) if found else None

    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["recipe"], []).append(row)
    return [
        Summary(
            recipe,
            group[0]["n_params"],
            len(group),
            sum(row["verdict"] == "DIVERGED" for row in group),
            sum(row["verdict"] == "PASS" for row in group),
            fractions("val", group),
            fractions("test", group),
            statistics.fmean(float(row["seconds"]) for row in group),
        )
        for recipe, group in groups.items()
    ]
