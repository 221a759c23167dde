"""The commands that compare many runs: study, frontier."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.table import Table
from rich.text import Text

from .._files import reason
from ..contract import load_contract
from ..errors import InputError
from .base import (
    BROKEN,
    DONE,
    INTERRUPTED,
    app,
    cores,
    literal,
    networks_apart,
    progress_bar,
    stderr,
    stdout,
    way_on,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..studies.plan import Plan, Search
    from ..studies.search import SearchResult
    from ..studies.summary import Summary
    from ..studies.workers import Workers
    from ..tables import Row

MAX_CANDIDATES = 5  # of a search, that are printed
WIDTH = 80  # columns of a terminal in which a table of figures fits


@app.command(name="study")
def cmd_study(
    plan: str,
    /,
    *,
    results: str | None = None,
    runs: str = "runs",
    data: str | None = None,
    workers: int | None = None,
    threads: int = 1,
    device: str = "auto",
    ray: str | None = None,
) -> int:
    """Train all runs of a plan and collect one row per run in a CSV file.

    A plan lists recipes, overrides and seeds. A plan with a `[search]` table searches for a better
    recipe instead, and prints the plan to train it. The same command continues an interrupted
    study.

    Parameters
    ----------
    plan
        TOML file, or name of a built-in plan such as `records`.
    results
        CSV file (the plan's name with .csv; for a built-in plan in the folder results, if there is
        one).
    runs
        Folder for the run folders.
    data
        Where a data set is, instead of MNIST: a folder or file, as for `train`.
    workers
        Number of runs at a time (number of cores divided by `--threads`; on a CUDA GPU at most one
        for each 2 GiB of its free memory).
    threads
        Number of CPU threads per run, for recipes without ghost batches.
    device
        Device to train on: cpu, cuda, mps (Apple GPU), or auto.
    ray
        Run on a Ray cluster: an address, auto for the cluster that this machine belongs to, or
        local to start one here.
    """
    from ..device import pick_device
    from ..studies.plan import default_table, load_plan
    from ..studies.study import run_study
    from ..studies.summary import summarise

    _check_options(workers, threads, device, ray)
    # With Ray, this process only reads the test images; the tasks pick their own device.
    where = pick_device(device if ray is None else "auto")
    with networks_apart():
        opened = load_plan(plan, data)
    for note in opened.notes:
        stderr.print(f"note: {note}", markup=False)
    split = next((task.recipe.name for task in opened.tasks if task.recipe.n_ghosts > 1), None)
    if threads != 1 and split is not None:
        raise InputError(f"threads: got {threads}, expected 1, as {split} has ghost batches")
    table = Path(results) if results is not None else default_table(plan)
    engine = _make_workers(workers, threads, device, ray, runs)
    with progress_bar("runs") as progress:
        total = opened.search.trials if opened.search else len(opened.tasks)
        bar = progress.add_task("", total=total)

        def on_row(row: "Row") -> None:
            stderr.print(_describe(row), markup=False)
            progress.advance(bar)

        try:
            with networks_apart():
                if opened.search is not None:
                    result = _search(opened, table, runs, engine, on_row)
                else:
                    rows = run_study(opened, table, Path(runs), where, engine, on_row)
        except OSError as error:
            hint = way_on(error) or "mend that"
            raise InputError(
                reason(error), hint=f"{hint}; then the same command goes on with the study"
            ) from error
        except KeyboardInterrupt:
            stderr.print("interrupted; run the same command again to continue")
            return INTERRUPTED
    if opened.search is not None:
        return _print_search(result, opened.search, table)
    _print_summaries(summarise(rows))
    stderr.print(f"see {table}", markup=False)
    return DONE if all(row["verdict"] == "PASS" for row in rows) else BROKEN


def _check_options(workers: int | None, threads: int, device: str, ray: str | None) -> None:
    for name, value in (("workers", workers), ("threads", threads)):
        if value is not None and value < 1:
            raise InputError(f"--{name}: got {value}, expected 1 or more")
    if ray is not None and device not in ("auto", "cpu", "cuda"):
        raise InputError(f"--device: got {device!r} with --ray, expected auto, cpu or cuda")
    if ray not in (None, "local") and workers is not None:
        raise InputError(
            "--workers with --ray ADDRESS: not used, because a cluster runs as many as fit"
        )


def _make_workers(
    workers: int | None, threads: int, device: str, ray: str | None, runs: str
) -> "Workers":
    n_cores = max(1, cores() // threads)
    if ray is None:
        from ..device import pick_device, trainings_at_a_time
        from ..studies.workers import LocalProcesses

        where = pick_device(device)
        return LocalProcesses(workers or trainings_at_a_time(where, n_cores), threads, where)
    from ..studies.ray_workers import RayTasks

    return RayTasks(ray, Path(runs), threads, device, (workers or n_cores) * threads)


def _search(
    plan: "Plan", table: Path, runs: str, workers: "Workers", on_row: "Callable[[Row], None]"
) -> "SearchResult":
    from ..studies.search import run_search

    return run_search(plan, table, Path(runs), workers, on_row)


def _describe(row: "Row") -> str:
    """Return a row as one line."""
    correct = row["val_correct"]
    accuracy = f"val {correct} of {row['val_total']}" if correct else "no accuracy"
    run = f"{row['recipe']} seed {row['seed']}, {row['contract']}"
    return f"{run}: {accuracy}, {row['verdict']}, {row['seconds']} s"


def _print_search(result: "SearchResult", search: "Search", table: Path) -> int:
    """Print the best candidates, and a plan that trains ten seeds of the best one."""
    from ..studies.plan import to_plan

    reasons = "; ".join(f"{reason}: {n}" for reason, n in sorted(result.untrained.items()))
    stderr.print(
        f"candidates: {len(result.rows)} trained, {result.stopped} stopped early, "
        f"{sum(result.untrained.values())} not trained{f' ({reasons})' if reasons else ''}; "
        f"see {table}",
        markup=False,
    )
    if result.best is None:
        return BROKEN
    for row in result.rows[:MAX_CANDIDATES]:
        stderr.print(
            f"{row['recipe']}: {row['n_params']} parameters, "
            f"val {row['val_correct']} of {row['val_total']}, {row['verdict']}",
            markup=False,
        )
    plan = to_plan(result.best, search.preset, search.contract)
    stdout.print(plan, end="", markup=False, soft_wrap=True)
    return DONE if result.rows[0]["verdict"] == "PASS" else BROKEN


def _print_summaries(summaries: "list[Summary]") -> None:
    """Print a line per recipe, number of training images and split, within `WIDTH` columns.

    The numbers of images, if there are several, stand in the place of the parameters."""
    by_images = len({summary.train_size for summary in summaries}) > 1
    size = "images" if by_images else "params"
    titles = ("recipe", size, "pass", "on", "n", "mean %", "s.d.", "min", "95 % of mean", "s")
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for title in titles:
        # Where a line is too long, the name is broken before a figure is.
        keep = title != titles[0] and stdout.width >= WIDTH
        table.add_column(title, overflow="fold", no_wrap=keep)
    for summary in summaries:
        n = f"{summary.train_size:,}" if by_images else summary.n_params
        first = (literal(summary.recipe), literal(n), literal(f"{summary.passed}/{summary.runs}"))
        for split, spread in (("val", summary.val), ("test", summary.test)):
            if spread is None:
                continue
            minimum = f"{100 * spread.minimum:.2f}"
            if spread.n == 1:
                figures = ("-", minimum, "-")
            else:
                low, high = (100 * end for end in spread.interval)
                figures = (f"{100 * spread.sd:.3f}", minimum, f"{low:.2f} to {high:.2f}")
            seconds = f"{summary.seconds:.0f}" if split == "val" else ""
            table.add_row(
                *first, split, str(spread.n), f"{100 * spread.mean:.3f}", *figures, seconds
            )
            first = (Text(), Text(), Text())
        if summary.val is None:
            table.add_row(*first, "-", "0")
    stdout.print(table)


@app.command(name="frontier")
def cmd_frontier(
    tables: list[str],
    /,
    *,
    by: Literal["parameters", "bytes", "instructions", "images"] = "parameters",
    public: str | None = None,
    out: str = "frontier.svg",
) -> int:
    """Draw the accuracy of studies against network size, instructions or training images.

    By parameters and bytes it is the test accuracy, beside published results; recipes whose test
    images were not read are left out. A published result is hollow; if one of the tables has its
    network trained again, an arrow points to that. By instructions it is the test accuracy too, or
    the validation accuracy of a recipe whose test images were not read. By images it is the
    validation accuracy.

    Parameters
    ----------
    tables
        CSV files of `study`, or of `firmware` with `--by bytes` and `--by instructions`.
    by
        What is on the horizontal axis. parameters: the number of parameters, with the limits of
        era-v3-s6 if the runs were judged by it. bytes: the bytes of all constants in C.
        instructions: those of one image on a Cortex-M0. images: the number of training images, of a
        study whose plan has `train_size`.
    public
        CSV file of published results, with the columns accuracy, protocol, source, and n_params,
        bytes or instructions_m0; a column recipe may name the recipe that trains the same network
        in a table. Rows without accuracy or size are left out.
    out
        Picture to write, .svg or .png.
    """
    from ..report import save_picture

    files = list(map(Path, tables))
    figure = _images_figure(files, public) if by == "images" else _size_figure(files, by, public)
    save_picture(figure, Path(out))
    stderr.print(f"see {out}", markup=False)
    return DONE


def _images_figure(tables: list[Path], public: str | None) -> "Figure":
    from ..studies.data_efficiency import accuracy_curves, images_picture
    from ..studies.rows import read_rows

    if public is not None:
        raise InputError(
            f"public: got {public!r} with --by images, expected none, because published results "
            "are drawn over sizes alone"
        )
    curves = accuracy_curves([row for table in tables for row in read_rows(table, must_exist=True)])
    if not curves:
        raise InputError(f"{', '.join(map(str, tables))}: no row with a validation count")
    return images_picture(curves)


def _size_figure(
    tables: list[Path], by: Literal["parameters", "bytes", "instructions"], public: str | None
) -> "Figure":
    from ..export.firmware import FIRMWARE_COLUMNS
    from ..studies.frontier import (
        check_one_size,
        frontier_picture,
        instruction_points,
        read_published,
        study_points,
    )
    from ..studies.rows import read_rows
    from ..tables import read_table

    rows: list[Row] = []
    size, published_size = {
        "parameters": ("n_params", "n_params"),
        "bytes": ("constants", "bytes"),
        "instructions": ("instructions_m0", "instructions_m0"),
    }[by]
    for table in tables:
        if by == "parameters":
            rows += read_rows(table, must_exist=True)
        else:
            rows += read_table(table, FIRMWARE_COLUMNS, must_exist=True)
    published = [] if public is None else read_published(Path(public), published_size)
    if by == "parameters":
        check_one_size(rows)
    if by == "instructions":
        points = instruction_points(rows, size)
    else:
        points = study_points(rows, size, published)
    if not points and by == "instructions":
        raise InputError(
            f"{', '.join(map(str, tables))}: no row with instructions on a Cortex-M0",
            hint="pass --on-chip to firmware",
        )
    if not points:
        raise InputError(
            f"{', '.join(map(str, tables))}: no row with a test count",
            hint="set test = true in the plan, or pass --test to firmware",
        )
    points += published
    contract = load_contract("era-v3-s6")
    # Tables of firmware have no such column, and other data sets have other contracts.
    judged = any(row.get("contract") == contract.name for row in rows)
    return frontier_picture(points, by, contract if judged else None)
