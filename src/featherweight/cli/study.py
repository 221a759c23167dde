"""Commands over many runs and recipes: study, frontier, recipes, contracts."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from ..contract import CONTRACTS, load_contract
from ..errors import InputError
from .base import BROKEN, DONE, INTERRUPTED, app, cores, out, print_json, talk

if TYPE_CHECKING:
    from ..studies.plan import Search
    from ..studies.search import Found
    from ..studies.study import Summary


@app.command
def study(
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
    """Train every run of a plan, recipes x overrides x seeds, and add a row a run to one CSV.

    A plan with a [search] table looks for a better recipe instead, and prints a plan of it. A study that was stopped
    goes on where it was when it is started again.

    Parameters
    ----------
    plan
        a TOML file, or a built-in plan by name, such as `records`.
    results
        the CSV (the plan's name with .csv; of a built-in plan in the folder results, if there is one).
    runs
        where the run folders are kept.
    data
        a directory of MNIST-format files or an .npz, instead of the embedded MNIST.
    workers
        processes at a time (as many as cores by `threads`).
    threads
        of each process.
    device
        cpu, cuda, mps (Apple's GPU), or auto.
    ray
        run on a Ray cluster: its address, auto for the one that this machine is in, or local to start one here.
    """
    from ..device import pick_device
    from ..studies.plan import default_table, load_plan
    from ..studies.study import LocalProcesses, Workers, run_study, summarise

    for name, value in (("workers", workers), ("threads", threads)):
        if value is not None and value < 1:
            raise InputError(f"--{name}: got {value}, expected 1 or more")
    if ray is not None and device not in ("auto", "cpu", "cuda"):
        raise InputError(f"--device: got {device!r} with --ray, expected auto, cpu or cuda")
    if ray not in (None, "local") and workers is not None:
        raise InputError("--workers with --ray ADDRESS: as many run as the cluster has room for")
    workers = workers or max(1, cores() // threads)
    # With Ray the driver only reads test images; the workers have a device of their own.
    where = pick_device(device if ray is None else "auto")
    wanted = load_plan(plan, data)
    table = Path(results) if results is not None else default_table(plan)
    engine: Workers
    if ray is None:
        engine = LocalProcesses(workers, threads, where)
    else:
        from ..studies.ray_workers import RayTasks

        engine = RayTasks(ray, Path(runs), threads, device, workers * threads)
    columns = (
        TextColumn("{task.completed} of {task.total} runs"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=talk, disable=not talk.is_terminal) as progress:
        bar = progress.add_task(
            "", total=wanted.search.trials if wanted.search else len(wanted.tasks)
        )

        def on_row(row: dict[str, str]) -> None:
            val = (
                f"val {row['val_correct']} of {row['val_total']}"
                if row["val_correct"]
                else "no accuracy"
            )
            talk.print(
                f"{row['recipe']} seed {row['seed']}: {val}, {row['verdict']}, {row['seconds']} s"
            )
            progress.advance(bar)

        try:
            if wanted.search is not None:
                from ..studies.search import run_search

                found = run_search(wanted, table, Path(runs), engine, on_row)
                rows = found.rows
            else:
                rows = run_study(wanted, table, Path(runs), where, engine, on_row)
        except KeyboardInterrupt:
            talk.print("interrupted; the same command goes on")
            return INTERRUPTED
    if wanted.search is not None:
        return _print_found(found, wanted.search, table)
    _print_summaries(summarise(rows))
    talk.print(f"see {table}", markup=False)
    return DONE if all(row["verdict"] == "PASS" for row in rows) else BROKEN


def _print_found(found: "Found", search: "Search", table: Path) -> int:
    from ..studies.plan import to_plan

    untrained = "; ".join(f"{n} {reason}" for reason, n in sorted(found.untrained.items()))
    talk.print(
        f"{len(found.rows)} candidates trained, {found.given_up} given up, {sum(found.untrained.values())} "
        f"never trained{f' ({untrained})' if untrained else ''}; see {table}",
        markup=False,
    )
    if found.best is None:
        return BROKEN
    for row in found.rows[:5]:
        talk.print(
            f"{row['recipe']}: {row['n_params']} parameters, val {row['val_correct']} of {row['val_total']}, "
            f"{row['verdict']}"
        )
    out.print(
        to_plan(found.best, search.preset, search.contract), end="", markup=False, soft_wrap=True
    )
    return DONE if found.rows[0]["verdict"] == "PASS" else BROKEN


def _print_summaries(summaries: "list[Summary]") -> None:
    table = Table(
        "recipe",
        "params",
        "pass",
        "on",
        "n",
        "mean %",
        "s.d.",
        "least",
        "95 % of mean",
        "s",
        box=None,
        padding=(0, 2, 0, 0),
        pad_edge=False,
    )  # fits in 80 columns
    for summary in summaries:
        first = (summary.recipe, summary.n_params, f"{summary.passed}/{summary.runs}")
        for part, found in (("val", summary.val), ("test", summary.test)):
            if found is not None:
                low, high = (100 * end for end in found.interval)
                spread = (
                    ("-", f"{100 * found.least:.2f}", "-")
                    if found.n == 1
                    else (
                        f"{100 * found.sd:.3f}",
                        f"{100 * found.least:.2f}",
                        f"{low:.2f} to {high:.2f}",
                    )
                )
                table.add_row(
                    *first,
                    part,
                    str(found.n),
                    f"{100 * found.mean:.3f}",
                    *spread,
                    f"{summary.seconds:.0f}" if part == "val" else "",
                )
                first = ("", "", "")
        if summary.val is None:
            table.add_row(*first, "-", "0")
    out.print(table)


@app.command
def frontier(
    tables: list[str],
    /,
    *,
    by: Literal["parameters", "bytes"] = "parameters",
    public: str | None = None,
    out: str = "frontier.svg",
) -> int:
    """Draw the test accuracy of studies over the size of their networks, beside published results.

    Parameters
    ----------
    tables
        CSVs of `study`, or by bytes of `firmware`; recipes whose test images were not read are left out.
    by
        parameters, with the limits of era-v3-s6 where runs were held to it; or bytes: of all constants in C.
    public
        a CSV of published results: n_params or bytes, accuracy, protocol, source.
    out
        the picture, .svg or .png.
    """
    from ..contract import load_contract
    from ..export.firmware import FIRMWARE_COLUMNS as FIRMWARE
    from ..report import save_picture
    from ..studies.frontier import frontier_picture, read_marks, study_marks
    from ..studies.study import COLUMNS, read_table

    columns, size = (FIRMWARE, "constants") if by == "bytes" else (COLUMNS, "n_params")
    rows = [
        row for table in tables for row in read_table(Path(table), must_exist=True, columns=columns)
    ]
    marks = study_marks(rows, size)
    if not marks:
        raise InputError(
            f"{', '.join(tables)}: no row with a test count; hint: test = true in the plan, or --test"
        )
    marks += read_marks(Path(public), "bytes" if by == "bytes" else size) if public else []
    contract = load_contract("era-v3-s6")
    judged = any(
        row.get("contract") == contract.name for row in rows
    )  # no row of bytes is, nor of other data
    save_picture(frontier_picture(marks, by, contract if judged else None), Path(out))
    talk.print(f"see {out}")
    return DONE


@app.command(usage="Usage: featherweight recipes [OPTIONS] [NAME]")
def recipes(name: str | None = None, /, *, json: bool = False) -> int:
    """List the recipes.

    Parameters
    ----------
    name
        A recipe to print as JSON, with every hyper-parameter.
    json
        Print all of them as JSON.
    """
    from ..recipe import RECIPES, find_recipe

    if name is not None:
        print_json(find_recipe(name).to_dict())
        return DONE
    if json:
        print_json([recipe.to_dict() for recipe in RECIPES])
        return DONE
    table = Table("recipe", "network", "epochs", "batch", "lr", "weights", "contract")
    for recipe in RECIPES:
        weights = f"{recipe.weight_bits} bits" if recipe.weight_bits else "float"
        table.add_row(
            recipe.name,
            recipe.model.rpartition(":")[2],
            str(recipe.epochs),
            str(recipe.batch_size),
            str(recipe.lr),
            weights,
            recipe.contract,
        )
    out.print(table)
    return DONE


@app.command(usage="Usage: featherweight contracts [NAME]")
def contracts(name: str | None = None, /) -> int:
    """List the built-in contracts.

    Parameters
    ----------
    name
        A contract to print as TOML: change a copy, and pass it as `--contract FILE`.
    """
    if name is not None:
        out.write(load_contract(name).to_toml())
        return DONE
    table = Table("contract", "parameters", "epochs", "accuracy", "in the last")
    for each in CONTRACTS:
        last = f"{each.consistent_epochs} epochs" if each.consistent_epochs > 1 else "epoch"
        table.add_row(
            each.name,
            f"below {each.max_params:,}",
            f"below {each.max_epochs}",
            f"from {100 * each.min_val_accuracy:.2f} %",
            last,
        )
    out.print(table)
    return DONE
