"""The table of a study: one row per run, with everything that is needed to repeat the run.

Example:
    row = make_row(run, Outcome.PASS, verdict.n_params)
    add_row(Path("results/records.csv"), row)
    rows = read_rows(Path("results/records.csv"))
"""

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path

import torch

from .._locks import hold
from ..contract import Contract
from ..data import load_test
from ..errors import InputError
from ..evaluate import evaluate
from ..recipe import Recipe
from ..run import Run, open_run
from ..tables import Row, make_cells, read_table, write_table
from .plan import Task, run_config

STUDY_COLUMNS = (
    "recipe",
    "seed",
    "n_params",
    "epochs",
    "val_correct",
    "val_loss",
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
    "digest",
)
FROM_ENVIRONMENT = (
    "threads",
    "torch",
    "commit",
    "featherweight",
    "python",
    "numpy",
    "cpu",
    "device",
)


class Outcome(StrEnum):
    """How a run ended; the values of the column `verdict`."""

    PASS = "PASS"
    "The run met its contract."
    FAIL = "FAIL"
    "The run finished and broke its contract."
    DIVERGED = "DIVERGED"
    "The loss became infinite or NaN."
    STOPPED = "STOPPED"
    "A search stopped the run early."


def make_row(run: Run, outcome: Outcome, n_params: int | None) -> Row:
    """Return the row of a run, from its folder, its outcome and its audited parameter count."""
    metrics = run.read_metrics()
    counts = [str(epoch["val_correct"]) for epoch in metrics]
    values: dict[str, object] = {
        "recipe": run.recipe.name,
        "seed": run.seed,
        "n_params": n_params,
        "epochs": run.recipe.epochs,
        "val_correct": None if outcome is Outcome.DIVERGED else counts[-1],
        "val_loss": None if outcome is Outcome.DIVERGED else f"{metrics[-1]['val_loss']:.5f}",
        "val_total": metrics[-1]["val_total"] if metrics else None,
        "last_epochs_val_correct": " ".join(counts[-3:]),
        "seconds": round(sum(epoch["seconds"] for epoch in metrics), 1),
        "contract": run.contract.name,
        "verdict": outcome,
        "data_sha256": run.config["data"]["sha256"],
        "config": run_config(run.recipe, run.contract),
    }
    for key in FROM_ENVIRONMENT:  # all of them, where a run was resumed in another place
        found = list(dict.fromkeys(place[key] for place in run.places))
        values[key] = found[0] if len(found) == 1 else "; ".join(map(str, filter(None, found)))
    return sign_row(make_cells(values, STUDY_COLUMNS))


def row_digest(row: Row) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of a row's other cells.

    They are hashed as a JSON list in UTF-8, in the order of the columns."""
    cells = [row[column] for column in STUDY_COLUMNS if column != "digest"]
    return hashlib.sha256(json.dumps(cells, ensure_ascii=False).encode()).hexdigest()[:16]


def sign_row(row: Row) -> Row:
    """Return the row with its digest."""
    return row | {"digest": row_digest(row)}


def read_rows(table: Path, *, must_exist: bool = False) -> list[Row]:
    """Return the rows of a study's table; see `tables.read_table`.

    Raises InputError, too, if a row was changed after it was written."""
    rows = read_table(table, STUDY_COLUMNS, must_exist=must_exist)
    for number, row in enumerate(rows, 2):
        if row["digest"] != (expected := row_digest(row)):
            raise InputError(
                f"{table}: row {number} ({row['recipe']}, seed {row['seed']}): got digest "
                f"{row['digest'] or 'of no digit'}, expected {expected}: the row was edited",
                hint="restore it, or remove the row to have the run read or trained again",
            )
    return rows


def row_key(row: Row) -> tuple[str, str, str]:
    """Return the key that identifies the row's run, equal to the `key` of its task.

    A row that was judged by a built-in contract which asked for more than today's counts for that.
    Raises InputError if the column `config` does not hold a recipe and a contract."""
    # Parsed and written again: a row that is older than a field gets the field's default.
    recipe, contract = _read_config(row)
    return row["seed"], row["data_sha256"], run_config(recipe, contract.current())


def train_size(row: Row) -> int:
    """Return the number of training images of the row's run.

    Raises InputError if the column `config` does not hold a recipe and a contract."""
    return _read_config(row)[1].train_size


def _read_config(row: Row) -> tuple[Recipe, Contract]:
    try:
        config = json.loads(row["config"])
        return Recipe.from_dict(config["recipe"]), Contract.from_dict(config["contract"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"row of recipe {row['recipe']}, seed {row['seed']}: config: {error}"
        ) from error


@contextlib.contextmanager
def lock_table(table: Path) -> Iterator[None]:
    """Hold the table's lock; other studies wait."""
    table.parent.mkdir(parents=True, exist_ok=True)
    with hold(f"{table}.lock"):
        yield


def add_row(table: Path, row: Row) -> None:
    """Add a run's row to the table, unless the table has a row of this run."""
    # The whole file is rewritten: a table has a few hundred rows, and an interrupted append could
    # leave half a row.
    with lock_table(table):
        rows = read_rows(table)
        if row_key(row) not in {row_key(each) for each in rows}:
            write_table(table, [*rows, row], STUDY_COLUMNS)


def read_test(tasks: Iterable[Task], table: Path, runs: Path, device: torch.device) -> list[Row]:
    """Evaluate the tasks' runs on the test images, write the counts to the table, return the rows.

    Runs that diverged or already have a test count are skipped. Raises InputError if a run's
    folder no longer exists."""
    with lock_table(table):
        rows = read_rows(table)
        wanted = {task.key: task for task in tasks}
        for row in rows:
            task = wanted.get(row_key(row))
            if task is None or row["test_correct"] or not row["val_correct"]:
                continue
            folder = task.folder(runs)
            if not folder.exists():
                raise InputError(
                    f"{folder}: the run folder is gone, so the run cannot be tested",
                    hint=f"remove its row from {table} to train it again",
                )
            run = open_run(folder)
            split = run.load_split(task.data)
            images = load_test(split).to(device)
            result = evaluate(run.load_model().to(device), images, split.mean_std)
            row |= {"test_correct": str(result.correct), "test_total": str(result.total)}
            row["digest"] = row_digest(row)
        write_table(table, rows, STUDY_COLUMNS)
    return [row for row in rows if row_key(row) in wanted]
