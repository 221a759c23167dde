"""Commands over many runs: study, frontier, bench, recipes, contracts."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from ..contract import CONTRACTS
from .base import BROKEN, DONE, INTERRUPTED, app, cores, out, print_json, talk

if TYPE_CHECKING:
    from ..plan import Search
    from ..search import Found
    from ..study import Summary


@app.command
def study(plan: str, *, results: str | None = None, runs: str = "runs", data: str | None = None,
          workers: int | None = None, threads: int = 1, device: str = "auto", ray: str | None = None) -> int:
    """Train every run of a plan, recipes x overrides x seeds, and add a row a run to one CSV.

    A plan with a [search] table looks for a better recipe instead, and prints a plan of it. A study that was stopped
    goes on where it was when it is started again.

    Parameters
    ----------
    plan
        a TOML file; `results/records.toml` is one.
    results
        the CSV (the plan's name with .csv).
    runs
        where the run folders are kept.
    data
        a directory of MNIST-format files or an .npz, instead of the embedded MNIST.
    workers
        processes at a time (as many as cores by `threads`).
    threads
        of each process.
    device
        cpu, cuda, or auto.
    ray
        run on a Ray cluster: its address, auto for the one that this machine is in, or local to start one here.
    """
    from ..plan import load_plan
    from ..study import LocalProcesses, Workers, run_study, summarise
    from ..train import pick_device

    for name, value in (("workers", workers), ("threads", threads)):
        if value is not None and value < 1:
            raise ValueError(f"--{name}: got {value}, expected 1 or more")
    if ray is not None and device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"--device: got {device!r} with --ray, expected auto, cpu or cuda")
    if ray not in (None, "local") and workers is not None:
        raise ValueError("--workers with --ray ADDRESS: as many run as the cluster has room for")
    workers = workers or max(1, cores() // threads)
    # With Ray the driver only reads test images; the workers have a device of their own.
    where = pick_device(device if ray is None else "auto")
    wanted = load_plan(plan, data)
    table = Path(results) if results is not None else Path(plan).with_suffix(".csv")
    engine: Workers
    if ray is None:
        engine = LocalProcesses(workers, threads, where)
    else:
        from ..remote import RayTasks

        engine = RayTasks(ray, Path(runs), threads, device, workers * threads)
    columns = (TextColumn("{task.completed} of {task.total} runs"), BarColumn(), TimeElapsedColumn(),
               TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, console=talk, disable=not talk.is_terminal) as progress:
        bar = progress.add_task("", total=wanted.search.trials if wanted.search else len(wanted.tasks))

        def on_row(row: dict[str, str]) -> None:
            val = f"val {row['val_correct']} of {row['val_total']}" if row["val_correct"] else "no accuracy"
            talk.print(f"{row['recipe']} seed {row['seed']}: {val}, {row['verdict']}, {row['seconds']} s")
            progress.advance(bar)

        try:
            if wanted.search is not None:
                from ..search import run_search

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
    talk.print(f"see {table}")
    return DONE if all(row["verdict"] == "PASS" for row in rows) else BROKEN


def _print_found(found: "Found", search: "Search", table: Path) -> int:
    from ..plan import to_plan

    untrained = "; ".join(f"{n} {reason}" for reason, n in sorted(found.untrained.items()))
    talk.print(f"{len(found.rows)} candidates trained, {found.given_up} given up, {sum(found.untrained.values())} "
               f"never trained{f' ({untrained})' if untrained else ''}; see {table}")
    if found.best is None:
        return BROKEN
    for row in found.rows[:5]:
        talk.print(f"{row['recipe']}: {row['n_params']} parameters, val {row['val_correct']} of {row['val_total']}, "
                   f"{row['verdict']}")
    out.print(to_plan(found.best, search.preset, search.contract), end="", markup=False, soft_wrap=True)
    return DONE if found.rows[0]["verdict"] == "PASS" else BROKEN


def _print_summaries(summaries: "list[Summary]") -> None:
    table = Table("recipe", "params", "pass", "on", "n", "mean %", "s.d.", "least", "95 % of mean", "s",
                  box=None, padding=(0, 2, 0, 0), pad_edge=False)  # fits in 80 columns
    for summary in summaries:
        first = (summary.recipe, summary.n_params, f"{summary.passed}/{summary.runs}")
        for part, found in (("val", summary.val), ("test", summary.test)):
            if found is not None:
                low, high = (100 * end for end in found.interval)
                spread = ("-", f"{100 * found.least:.2f}", "-") if found.n == 1 else (
                    f"{100 * found.sd:.3f}", f"{100 * found.least:.2f}", f"{low:.2f} to {high:.2f}")
                table.add_row(*first, part, str(found.n), f"{100 * found.mean:.3f}", *spread,
                              f"{summary.seconds:.0f}" if part == "val" else "")
                first = ("", "", "")
        if summary.val is None:
            table.add_row(*first, "-", "0")
    out.print(table)


@app.command
def frontier(tables: list[str], *, by: Literal["parameters", "bytes"] = "parameters", public: str | None = None,
             out: str = "frontier.svg") -> int:
    """Draw the test accuracy of studies over their size, beside the marks of others.

    Parameters
    ----------
    tables
        CSVs of `study`, or by bytes of `firmware`; recipes whose test images were not read are left out.
    by
        parameters, or bytes: of all constants in C.
    public
        a CSV of figures of others: n_params or bytes, accuracy, protocol, source.
    out
        the picture, .svg or .png.
    """
    from ..firmware import COLUMNS as FIRMWARE
    from ..report import Mark, frontier, read_marks, save_picture
    from ..study import COLUMNS, read_table, spread

    columns, size = (FIRMWARE, "constants") if by == "bytes" else (COLUMNS, "n_params")
    groups: dict[str, list[dict[str, str]]] = {}
    for row in (row for table in tables for row in read_table(Path(table), must_exist=True, columns=columns)):
        if row["test_correct"]:
            groups.setdefault(row["recipe"], []).append(row)
    if not groups:
        raise ValueError(f"{', '.join(tables)}: no row with a test count; hint: test = true in the plan, or --test")
    protocol = "ours: mean of the seeds and its 95 % interval, last epoch, 50,000 training images, test read once"
    marks = []
    for recipe, group in groups.items():
        test = spread([int(row["test_correct"]) / int(row["test_total"]) for row in group])
        marks.append(Mark(f"{recipe} ({test.n} seeds)", int(group[0][size]), test.mean, test.interval, protocol))
    marks += read_marks(Path(public), "bytes" if by == "bytes" else size) if public else []
    save_picture(frontier(marks, by), Path(out))
    talk.print(f"see {out}")
    return DONE


@app.command
def firmware(runs: list[str], *, bits: Literal[2, 4, 8] | None = None, test: bool = False, on_chip: int = 0,
             results: str = "c99.csv", data: str | None = None) -> int:
    """Export finished runs as C, compile it, measure it, and read every image with it; a row a run in one CSV.

    Parameters
    ----------
    runs
        run folders; one that the CSV has already, with as many bits, is passed over.
    bits
        of a weight (what each run was trained for, else 8).
    test
        read the test images too, on which nothing may be chosen.
    on_chip
        how many validation images to read on a Cortex-M0 and M4 in QEMU too, 200 at most (0).
    results
        the CSV.
    data
        where the runs' data set is now.
    """
    from ..c99 import export_c
    from ..firmware import COLUMNS, make_row
    from ..run import open_run
    from ..study import read_table, write_table

    if not 0 <= on_chip <= 200:
        raise ValueError(f"--on-chip: got {on_chip}, expected 0 to 200")
    table = Path(results)
    rows = read_table(table, columns=COLUMNS)
    for run in map(open_run, runs):
        width = bits or run.recipe.weight_bits or 8
        key = run.recipe.name, str(run.seed), str(width)
        if key in {(row["recipe"], row["seed"], row["bits"]) for row in rows}:
            continue
        split = run.load_split(data)
        row = make_row(export_c(run, split, width), run, split, test, on_chip)
        rows.append(row)
        write_table(table, rows, COLUMNS)
        talk.print(f"{row['recipe']} seed {row['seed']}, {row['bits']} bits: {int(row['constants']):,} bytes, "
                   f"RAM {int(row['ram']):,}, val {row['val_correct']} of {row['val_total']}, test "
                   f"{row['test_correct'] or 'not read'}, {row['equal']} of {row['images']} to the bit")
    talk.print(f"see {table}")
    same = (("equal", "images"), ("equal_m0", "images_on_chip"), ("equal_m4", "images_on_chip"))
    return DONE if all(row[found] == row[read] for row in rows for found, read in same) else BROKEN


@app.command
def bench(what: Literal["train", "sprint", "study", "predict"], run: str | None = None, *,
          device: str = "auto") -> int:
    """Measure, in turn in one process: training against the baseline's, or reading with and without PyTorch.

    Parameters
    ----------
    what
        train: the training steps of the baseline and the default recipe, and where the latter's time goes, a
        minute or two; sprint: the whole trainings of the baseline and of `sprint`, before and after it, ten
        minutes or more; study: eight short runs on local processes and on Ray, and what a cluster would do; predict:
        reading with RUN's network, in PyTorch and from its exported files, a minute.
    run
        a finished run's folder, for predict.
    device
        cpu, cuda, or auto; predict measures the CPU.
    """
    if (what == "predict") != (run is not None):
        raise ValueError(f"RUN: got {run or 'none'}, expected a run folder with predict alone")
    if run is not None:
        return _bench_predict(run)
    if what == "study":
        return _bench_study()
    from ..bench import bench_sprint, bench_train, profile_train
    from ..data import load_split
    from ..evaluate import percent
    from ..train import pick_device

    split, where = load_split(None, 50_000, 10_000), pick_device(device)
    if what == "sprint":
        races = bench_sprint(
            ("sprint", "baseline", "sprint"), split, where,
            on_epoch=lambda name, row: talk.print(f"{name} epoch {row['epoch']}: {row['seconds']:.1f} s"))
        table = Table("recipe", "epochs", "seconds", "validation", "of the baseline's time")
        baseline = next(race for race in races if race.recipe == "baseline")
        for race in races:
            table.add_row(race.recipe, str(race.epochs), f"{race.seconds:.1f}",
                          percent(race.val_correct, race.val_total),
                          "" if race is baseline else f"1/{baseline.seconds / race.seconds:.1f}")
        out.print(table)
        return DONE
    speeds, ratio = bench_train(("baseline", "feather-20k"), split, where)
    table = Table("recipe", "images/s", "s/epoch", "GFLOP/s", "of matmul peak", "augmentation")
    for speed in speeds:
        table.add_row(speed.recipe, f"{speed.images_per_second:,.0f}", f"{speed.seconds_per_epoch:.2f}",
                      f"{speed.gflops:.1f}", f"{100 * speed.share_of_peak:.0f} %",
                      f"{100 * speed.share_augmentation:.1f} % of the step")
    out.print(table)
    out.print(f"epoch of {speeds[-1].recipe} / epoch of {speeds[0].recipe}: "
              f"{ratio.median:.3f} (rounds {ratio.least:.3f} to {ratio.most:.3f})")
    profile = Table("operation", f"of {speeds[-1].recipe}'s step")
    for operation, share in profile_train(speeds[-1].recipe, split, where)[:12]:
        profile.add_row(operation, f"{100 * share:.1f} %")
    out.print(profile)
    return DONE


def _bench_predict(run: str) -> int:
    from ..bench import bench_predict
    from ..export import Unfaithful
    from ..run import open_run

    opened = open_run(run)
    try:
        engines = bench_predict(opened, opened.load_split())
    except Unfaithful as error:
        talk.print(f"error: {error}", markup=False)
        return BROKEN
    rates = Table("on one thread", "images a call", "p50 ms", "p99 ms", "images/s", "of eager's rate (rounds)")
    for batch in engines[0].rates:
        for engine in engines:
            rate = engine.rates[batch]
            times = rate.times_eager
            rates.add_row(engine.name, f"{batch:,}", f"{1000 * rate.p50:.3f}", f"{1000 * rate.p99:.3f}",
                          f"{rate.images_per_second:,.0f}",
                          f"{times.median:.2f} ({times.least:.2f} to {times.most:.2f})")
    out.print(rates)
    whole = Table("one picture, a process", "file bytes", "seconds (most)", "memory MB")
    for engine in engines:
        whole.add_row(engine.name, f"{engine.file_bytes:,}", f"{engine.cold:.2f} ({engine.cold_most:.2f})",
                      f"{engine.resident_bytes / 1e6:.0f}")
    out.print(whole)
    return DONE


def _bench_study() -> int:
    from ..scale import measure, simulate

    table = Table("workers", "runs", "local s", "rows/h", "Ray s", "rows/h", "Ray/local", "overhead s a run")
    for workers in (1, 2):
        found = measure("sprint", epochs=1, runs=8, workers=workers)
        table.add_row(str(workers), str(found.runs), f"{found.local_seconds:.1f}",
                      f"{3600 * found.runs / found.local_seconds:,.0f}", f"{found.ray_seconds:.1f}",
                      f"{3600 * found.runs / found.ray_seconds:,.0f}", f"{found.ratio:.3f}", f"{found.overhead:.2f}")
    out.print(table)
    out.print(f"a run: {found.place_seconds:.2f} s of a place, {found.driver_seconds:.3f} s of the driver, "
              f"{found.folder_bytes / 1000:,.0f} kB back; images: {found.images_bytes / 1e6:.1f} MB a node")
    for nodes in (1, 10, 100):
        rate = simulate(found, 100 * nodes * found.workers, nodes, 125e6)
        out.print(f"simulated, {nodes} nodes of {found.workers} places, 125 MB/s: {rate:,.0f} rows/h")
    return DONE


@app.command
def recipes() -> int:
    """The recipes, as JSON."""
    from ..recipe import RECIPES

    print_json([recipe.to_dict() for recipe in RECIPES])
    return DONE


@app.command
def contracts() -> int:
    """The built-in contracts, as TOML files to copy from."""
    out.print("\n".join(contract.to_toml() for contract in CONTRACTS), end="", markup=False, soft_wrap=True)
    return DONE
