"""Many runs from one plan, on local processes, a row each in one CSV.

    plan = load_plan("results/records.toml")
    rows = run_study(plan, Path("results/records.csv"), Path("runs"), device=device, workers=2, threads=1)
    for summary in summarise(rows): print(summary.recipe, summary.mean_val)

A run's folder has a name made of all that decides its result, so a study that was killed finds what it had:
finished rows are kept, finished folders become rows, an unfinished run goes on from its last epoch. Locks keep
two studies apart: one on the table while a row is added, one on each run while it is trained.
"""

import contextlib
import csv
import hashlib
import io
import json
import math
import multiprocessing
import os
import statistics
import threading
import tomllib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from scipy import stats

from .audit import audit_run
from .contract import Contract, load_contract
from .data import Split, load_split, load_test
from .evaluate import evaluate
from .model import build
from .recipe import Recipe, find_recipe
from .run import Run, create_run, open_run, write_atomic
from .train import Diverged, check_recipe, train

Row = dict[str, str]
COLUMNS = (
    "recipe", "seed", "n_params", "epochs", "val_correct", "test_correct", "val_total", "test_total",
    "last_epochs_val_correct", "seconds", "threads", "torch", "commit", "contract", "verdict", "featherweight",
    "python", "numpy", "cpu", "device", "data_sha256", "config",
)


def _config(recipe: Recipe, contract: Contract) -> str:
    return json.dumps({"recipe": recipe.to_dict(), "contract": contract.to_dict()}, sort_keys=True)


@dataclass(frozen=True)
class Task:
    """One run to be made: everything that decides its result but machine, threads and versions."""

    recipe: Recipe
    contract: Contract
    seed: int
    data: str | None
    "Source of the images; None: the embedded MNIST."

    @property
    def config(self) -> str:
        """Recipe and contract as one line of JSON; with the seed and the images' hash it names a run."""
        return _config(self.recipe, self.contract)

    def load_split(self) -> Split:
        return load_split(self.data, self.contract.train_size, self.contract.val_size)

    @property
    def key(self) -> tuple[str, str, str]:
        return str(self.seed), self.load_split().sha256, self.config

    def folder(self, runs: Path) -> Path:
        digest = hashlib.sha256("\n".join(self.key).encode()).hexdigest()[:10]
        return runs / f"{self.recipe.name}-s{self.seed}-{digest}"


@dataclass(frozen=True)
class Plan:
    """Recipes x overrides x seeds, in the order in which they are run."""

    tasks: tuple[Task, ...]
    test: bool
    "Whether the test images are read, once every seed of a recipe is finished."


def _names(values: dict[str, Any], allowed: Iterable[str], where: str) -> None:
    for key in values:
        if key not in allowed:
            raise ValueError(f"{where}: unknown key {key!r}, expected {', '.join(allowed)}")


def _override(recipe: Recipe, values: dict[str, Any], where: str) -> Recipe:
    """The recipe with other values. Tables are merged key by key; a model that is named has its own arguments."""
    known = recipe.to_dict()
    _names(values, known, where)
    if "model" in values:
        known["model_args"] = {}
    for key, value in values.items():
        if isinstance(known[key], dict) != isinstance(value, dict):
            raise ValueError(f"{where}: {key}: got {value!r}, expected a value such as {known[key]!r}")
    merged = {key: known[key] | value if isinstance(value, dict) else value for key, value in values.items()}
    try:
        return Recipe.from_dict(known | {"name": recipe.name} | merged)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error


def load_plan(path: str | Path, data: str | None = None) -> Plan:
    """Read a plan and try each of its networks on a few images; ValueError says what is wrong in it.

        recipes = ["feather-20k", "baseline"]
        seeds = 10                  # 0 to 9; or a list
        test = true                 # when a recipe's last seed is finished, read the test images for all (false)
        contract = "era-v3-s6"      # or a file; else each recipe's own

        [[overrides]]               # none: each recipe as it is
        name = "feather-20k-lr-0.2"
        lr = 0.2
        augmentation.rotation = 5
    """
    try:
        values = tomllib.loads(Path(path).read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a TOML file: {error}") from error
    _names(values, ("recipes", "seeds", "test", "contract", "overrides"), str(path))
    recipes, seeds = values.get("recipes"), values.get("seeds", 1)
    test, overrides = values.get("test", False), values.get("overrides", [{}])
    if not (isinstance(recipes, list) and recipes and all(isinstance(name, str) for name in recipes)):
        raise ValueError(f"{path}: recipes: got {recipes!r}, expected a list of names such as ['feather-20k']")
    if type(seeds) is int and seeds > 0:
        seeds = list(range(seeds))
    if not (isinstance(seeds, list) and seeds and all(type(seed) is int and seed >= 0 for seed in seeds)):
        raise ValueError(f"{path}: seeds: got {seeds!r}, expected a number of seeds or a list of them, from 0 up")
    if not isinstance(test, bool):
        raise ValueError(f"{path}: test: got {test!r}, expected true or false")
    if not (isinstance(overrides, list) and overrides and all(isinstance(each, dict) for each in overrides)):
        raise ValueError(f"{path}: overrides: got {overrides!r}, expected [[overrides]] tables")

    tasks: list[Task] = []
    for name in recipes:
        for number, override in enumerate(overrides, 1):
            recipe = _override(find_recipe(name), override, f"{path}: override {number}")
            contract = load_contract(values.get("contract") or recipe.contract)
            tasks += [Task(recipe, contract, seed, data) for seed in dict.fromkeys(seeds)]
    if len({task.config for task in tasks}) != len({task.recipe.name for task in tasks}):
        raise ValueError(f"{path}: two different recipes of one name; give each override a name of its own")
    for task in tasks:
        if task.seed == seeds[0]:
            split = task.load_split()
            model = build(task.recipe.model, task.recipe.model_args, split.num_classes)
            check_recipe(task.recipe, split, model)
    return Plan(tuple(tasks), test)


def make_row(run: Run, task: Task, verdict: str, n_params: int | None) -> Row:
    """A finished run's folder as a row; `verdict` is PASS, FAIL or DIVERGED."""
    environment = json.loads((run.path / "environment.json").read_text())
    metrics = run.read_metrics()
    counts = [str(row["val_correct"]) for row in metrics]
    values = {
        "recipe": run.recipe.name, "seed": run.seed, "n_params": n_params, "epochs": run.recipe.epochs,
        "val_correct": counts[-1] if verdict != "DIVERGED" else None,
        "val_total": metrics[-1]["val_total"] if metrics else None,
        "last_epochs_val_correct": " ".join(counts[-3:]),
        "seconds": round(sum(row["seconds"] for row in metrics), 1), "contract": run.contract.name,
        "verdict": verdict, "data_sha256": task.load_split().sha256, "config": task.config,
    } | {key: environment[key] for key in (
        "threads", "torch", "commit", "featherweight", "python", "numpy", "cpu", "device")}
    return {column: "" if (value := values.get(column)) is None else str(value) for column in COLUMNS}


def run_task(task: Task, runs: Path, device: torch.device, block: bool) -> Row | None:
    """Train one run to its end, from where it was, and audit it. None where another process is at it,
    unless `block`: then wait for that."""
    folder, split = task.folder(runs), task.load_split()
    runs.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(f"{folder}.lock", timeout=-1 if block else 0):
            run = open_run(folder) if folder.exists() else create_run(
                str(folder), task.recipe, task.contract, split, task.seed, device, "featherweight study")
            try:
                train(run, split, device)
            except Diverged:
                return make_row(run, task, "DIVERGED", None)
            verdict, _ = audit_run(run, split, device=device)
            run.write_json("verdict.json", verdict.to_dict())
            return make_row(run, task, "PASS" if verdict.passed else "FAIL", verdict.n_params)
    except Timeout:
        return None


@contextlib.contextmanager
def _locked(table: Path) -> Iterator[None]:
    table.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{table}.lock"):
        yield


def read_table(table: Path, must_exist: bool = False, columns: tuple[str, ...] = COLUMNS) -> list[Row]:
    """The rows of a study's CSV, none where it does not exist yet. ValueError where it has other columns."""
    if not must_exist and not table.exists():
        return []
    with table.open(newline="") as file:
        reader = csv.DictReader(file)
        rows, found = list(reader), tuple(reader.fieldnames or ())
    if found != columns:
        raise ValueError(f"{table}: got columns {', '.join(found) or 'none'}, expected {', '.join(columns)}")
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise ValueError(f"{table}: row {number}: got another number of values than {len(columns)}")
    return rows


def write_table(table: Path, rows: list[Row], columns: tuple[str, ...] = COLUMNS) -> None:
    """A header and the rows; the old file or the new one, never a part."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(table, text.getvalue().encode())


def _key(row: Row) -> tuple[str, str, str]:
    try:
        config = json.loads(row["config"])
        # Read and written anew: a row from before a field was added means its default.
        recipe, contract = Recipe.from_dict(config["recipe"]), Contract.from_dict(config["contract"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"a study's row of {row['recipe']} seed {row['seed']}: config: {error}") from error
    return row["seed"], row["data_sha256"], _config(recipe, contract)


def _add(table: Path, row: Row) -> None:
    # Whole and renamed rather than appended: a table is a few hundred rows, and never ends in half of one.
    with _locked(table):
        rows = read_table(table)
        if _key(row) not in {_key(each) for each in rows}:
            write_table(table, [*rows, row])


def read_test(tasks: Iterable[Task], table: Path, runs: Path, device: torch.device) -> list[Row]:
    """Fill in the test count of those of the runs that have none yet; returns their rows.

    Raises ValueError for a run whose folder is gone."""
    with _locked(table):
        rows = read_table(table)
        wanted = {task.key: task for task in tasks}
        for row in rows:
            task = wanted.get(_key(row))
            if task is None or row["test_correct"] or not row["val_correct"]:
                continue
            folder = task.folder(runs)
            if not folder.exists():
                raise ValueError(f"{folder}: gone, so its test images can't be read; "
                                 f"remove its row from {table} to train it again")
            run = open_run(folder)
            split = run.load_split(task.data)
            images = load_test(split).to(device)
            result = evaluate(run.load_model().to(device), images, split.mean_std)
            row |= {"test_correct": str(result.correct), "test_total": str(result.total)}
        write_table(table, rows)
    return [row for row in rows if _key(row) in wanted]


def _start_worker(threads: int) -> None:
    """In a worker process: its threads, and an end when its study is killed."""
    torch.set_num_threads(threads)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)  # its run goes on from its last finished epoch
    threading.Thread(target=follow, daemon=True).start()


def run_study(plan: Plan, table: Path, runs: Path, device: torch.device, workers: int, threads: int,
              on_row: Callable[[Row], None] = lambda row: None) -> list[Row]:
    """Make every row of the plan that the table does not have; returns the plan's rows, in its order.

    `on_row` is told each row, those that were there first. Raises ValueError where the table or a folder can't be
    used, and whatever a run raises; the runs beside it then go on from their last epoch next time.
    """
    with _locked(table):
        rows = {_key(row): row for row in read_table(table)}
    todo = []
    for task in plan.tasks:
        if task.key in rows:
            on_row(rows[task.key])
        else:
            todo.append(task)

    def save(task: Task, row: Row) -> None:
        _add(table, row)
        rows[task.key] = row
        on_row(row)
        finish(task.recipe)

    def finish(recipe: Recipe) -> None:
        seeds = [task for task in plan.tasks if task.recipe == recipe]
        if plan.test and all(task.key in rows for task in seeds):
            rows.update((_key(row), row) for row in read_test(seeds, table, runs, device))

    for recipe in {task.recipe.name: task.recipe for task in plan.tasks}.values():
        finish(recipe)  # one that had all its rows already
    context = multiprocessing.get_context("spawn")  # a fork would copy the threads' locks
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(ProcessPoolExecutor(
            min(workers, max(1, len(todo))), context, _start_worker, (threads,)))
        futures: dict[Future[Row | None], Task] = {
            pool.submit(run_task, task, runs, device, False): task for task in todo}
        busy = []
        try:
            while futures:
                done, _ = wait(futures, return_when=FIRST_COMPLETED)
                for future in done:
                    task = futures.pop(future)
                    if (row := future.result()) is not None:
                        save(task, row)
                    elif task not in busy:  # another study is at it: wait for that one last
                        busy.append(task)
                        futures[pool.submit(run_task, task, runs, device, True)] = task
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise
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
        found = [int(row[f"{part}_correct"]) / int(row[f"{part}_total"]) for row in group if row[f"{part}_correct"]]
        return spread(found) if found else None

    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["recipe"], []).append(row)
    return [Summary(recipe, group[0]["n_params"], len(group), sum(row["verdict"] == "DIVERGED" for row in group),
                    sum(row["verdict"] == "PASS" for row in group), fractions("val", group),
                    fractions("test", group), statistics.fmean(float(row["seconds"]) for row in group))
            for recipe, group in groups.items()]
