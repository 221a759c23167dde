"""Train every run of a plan and collect one row per run in a CSV file.

    plan = load_plan("records")
    workers = LocalProcesses(workers=2, threads=1, device=device)
    rows = run_study(plan, Path("results/records.csv"), Path("runs"), device, workers)
    for summary in summarise(rows): print(summary.recipe, summary.val)

A run folder is named after everything that decides the run's result, so a study that was killed
can continue: finished rows are kept, finished run folders become rows, and an unfinished run
resumes from its last epoch. Locks let several studies share a table: one on the table while a row
is added, and one on each run while it is trained.
"""

from collections.abc import Callable
from pathlib import Path

import torch

from ..recipe import Recipe
from ..tables import Row
from .plan import Plan
from .rows import add_row, lock_table, read_rows, read_test, row_key
from .workers import Job, Workers, run_jobs


def run_study(
    plan: Plan,
    table: Path,
    runs: Path,
    device: torch.device,
    workers: Workers,
    on_row: Callable[[Row], None] | None = None,
) -> list[Row]:
    """Train the runs of the plan that the table lacks and return the plan's rows, in its order.

    `runs` is the folder of the run folders. `device` is used to read the test images. `on_row` is
    called with every row, those already in the table first. Raises InputError if the table or a
    run folder cannot be used, and whatever a run raises; the next study then resumes the other
    runs from their last epoch.
    """
    with lock_table(table):
        rows = {row_key(row): row for row in read_rows(table)}

    def test_if_complete(recipe: Recipe) -> None:
        """Read the test images once all seeds of a recipe are trained, if the plan says so."""
        tasks = [task for task in plan.tasks if task.recipe == recipe]
        if plan.test and all(task.key in rows for task in tasks):
            rows.update((row_key(row), row) for row in read_test(tasks, table, runs, device))

    def report(row: Row) -> None:
        if on_row is not None:
            on_row(row)

    for task in plan.tasks:
        if task.key in rows:
            report(rows[task.key])
    for recipe in plan.recipes:
        test_if_complete(recipe)
    missing = [Job(task, task.folder(runs)) for task in plan.tasks if task.key not in rows]
    if missing:
        with workers:
            for job, row in run_jobs(missing, workers):
                add_row(table, row)
                rows[job.task.key] = row
                report(row)
                test_if_complete(job.task.recipe)
    return [rows[task.key] for task in plan.tasks]
