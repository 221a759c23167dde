"""Commands that measure: bench, firmware, stress."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from rich.progress import track
from rich.table import Table

from ..errors import InputError
from .base import BROKEN, DONE, app, cores, model_file, out, print_json, talk


@app.command(usage="Usage: featherweight bench [OPTIONS] WHAT [RUN]")
def bench(
    what: Literal["train", "sprint", "load", "study", "predict"],
    run: str | None = None,
    /,
    *,
    device: str = "auto",
) -> int:
    """Measure, in turn in one process: training against the baseline's, or reading with and without PyTorch.

    Parameters
    ----------
    what
        train: the training steps of the baseline and the default recipe, and where the latter's time goes, a
        minute or two; sprint: the whole trainings of the baseline and of `sprint`, before and after it, ten
        minutes or more; load: training, evaluation, audit and export alone and beside as many busy processes as
        there are cores, five minutes; study: eight short runs on local processes and on Ray, and what a cluster
        would do; predict: reading with RUN's network, in PyTorch and from its exported files, a minute.
    run
        a finished run's folder, for predict.
    device
        cpu, cuda, mps (Apple's GPU), or auto; predict measures the CPU.
    """
    if (what == "predict") != (run is not None):
        raise InputError(f"RUN: got {run or 'none'}, expected a run folder with predict alone")
    if run is not None:
        return _bench_predict(run)
    if what == "study":
        return _bench_study()
    if what == "load":
        return _bench_load()
    from ..bench.training import bench_sprint, bench_train, profile_train
    from ..data import load_split
    from ..device import pick_device
    from ..evaluate import percent

    split, where = load_split(None, 50_000, 10_000), pick_device(device)
    if what == "sprint":
        races = bench_sprint(
            ("sprint", "baseline", "sprint"),
            split,
            where,
            on_epoch=lambda name, row: talk.print(
                f"{name} epoch {row['epoch']}: {row['seconds']:.1f} s"
            ),
        )
        table = Table("recipe", "epochs", "seconds", "validation", "of the baseline's time")
        baseline = next(race for race in races if race.recipe == "baseline")
        for race in races:
            table.add_row(
                race.recipe,
                str(race.epochs),
                f"{race.seconds:.1f}",
                percent(race.val_correct, race.val_total),
                "" if race is baseline else f"1/{baseline.seconds / race.seconds:.1f}",
            )
        out.print(table)
        return DONE
    speeds, ratio = bench_train(("baseline", "feather-20k"), split, where)
    table = Table("recipe", "images/s", "s/epoch", "GFLOP/s", "of matmul peak", "augmentation")
    for speed in speeds:
        table.add_row(
            speed.recipe,
            f"{speed.images_per_second:,.0f}",
            f"{speed.seconds_per_epoch:.2f}",
            f"{speed.gflops:.1f}",
            f"{100 * speed.share_of_peak:.0f} %",
            f"{100 * speed.share_augmentation:.1f} % of the step",
        )
    out.print(table)
    out.print(
        f"epoch of {speeds[-1].recipe} / epoch of {speeds[0].recipe}: "
        f"{ratio.median:.3f} (rounds {ratio.least:.3f} to {ratio.most:.3f})"
    )
    profile = Table("operation", f"of {speeds[-1].recipe}'s step")
    for operation, share in profile_train(speeds[-1].recipe, split, where)[:12]:
        profile.add_row(operation, f"{100 * share:.1f} %")
    out.print(profile)
    return DONE


def _bench_predict(run: str) -> int:
    from ..bench.inference import bench_predict
    from ..export.onnx import UnfaithfulError
    from ..run import open_run

    opened = open_run(run)
    try:
        engines = bench_predict(opened, opened.load_split())
    except UnfaithfulError as error:
        talk.print(f"error: {error}", markup=False)
        return BROKEN
    rates = Table(
        "on one thread", "images a call", "p50 ms", "p99 ms", "images/s", "of eager's rate (rounds)"
    )
    for batch in engines[0].rates:
        for engine in engines:
            rate = engine.rates[batch]
            times = rate.times_eager
            rates.add_row(
                engine.name,
                f"{batch:,}",
                f"{1000 * rate.p50:.3f}",
                f"{1000 * rate.p99:.3f}",
                f"{rate.images_per_second:,.0f}",
                f"{times.median:.2f} ({times.least:.2f} to {times.most:.2f})",
            )
    out.print(rates)
    whole = Table("one picture, a process", "file bytes", "seconds (most)", "memory MB")
    for engine in engines:
        whole.add_row(
            engine.name,
            f"{engine.file_bytes:,}",
            f"{engine.cold:.2f} ({engine.cold_most:.2f})",
            "" if engine.resident_bytes is None else f"{engine.resident_bytes / 1e6:.0f}",
        )
    out.print(whole)
    if engines[0].resident_bytes is None:
        talk.print("no memory: this system does not count the most that a process held")
    return DONE


def _bench_load() -> int:
    from ..bench.contention import bench_load

    table = Table("work", "threads", "alone s", f"beside {cores()} busy s", "times")
    bench_load(
        cores(),
        on_load=lambda load: table.add_row(
            load.work,
            load.how,
            f"{load.alone:.2f}",
            f"{load.busy:.2f}",
            f"{load.busy / load.alone:.1f}",
        ),
    )
    out.print(table)
    return DONE


def _bench_study() -> int:
    from ..bench.cluster import measure, simulate

    table = Table(
        "workers", "runs", "local s", "rows/h", "Ray s", "rows/h", "Ray/local", "overhead s a run"
    )
    for workers in (1, 2):
        found = measure("sprint", epochs=1, runs=8, workers=workers)
        table.add_row(
            str(workers),
            str(found.runs),
            f"{found.local_seconds:.1f}",
            f"{3600 * found.runs / found.local_seconds:,.0f}",
            f"{found.ray_seconds:.1f}",
            f"{3600 * found.runs / found.ray_seconds:,.0f}",
            f"{found.ratio:.3f}",
            f"{found.overhead:.2f}",
        )
    out.print(table)
    out.print(
        f"a run: {found.place_seconds:.2f} s of a place, {found.driver_seconds:.3f} s of the driver, "
        f"{found.folder_bytes / 1000:,.0f} kB back; images: {found.images_bytes / 1e6:.1f} MB a node"
    )
    for nodes in (1, 10, 100):
        rate = simulate(found, 100 * nodes * found.workers, nodes, 125e6)
        out.print(
            f"simulated, {nodes} nodes of {found.workers} places, 125 MB/s: {rate:,.0f} rows/h"
        )
    return DONE


@app.command
def firmware(
    runs: list[str],
    /,
    *,
    bits: Literal[2, 4, 8] | None = None,
    test: bool = False,
    on_chip: int = 0,
    results: str = "c99.csv",
    data: str | None = None,
) -> int:
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
    from ..export.c import export_c
    from ..export.firmware import FIRMWARE_COLUMNS, make_row
    from ..run import open_run
    from ..studies.study import read_table, write_table

    if not 0 <= on_chip <= 200:
        raise InputError(f"--on-chip: got {on_chip}, expected 0 to 200")
    table = Path(results)
    rows = read_table(table, columns=FIRMWARE_COLUMNS)
    for run in map(open_run, runs):
        width = bits or run.recipe.weight_bits or 8
        key = run.recipe.name, str(run.seed), str(width)
        if key in {(row["recipe"], row["seed"], row["bits"]) for row in rows}:
            continue
        split = run.load_split(data)
        row = make_row(export_c(run, split, width), run, split, test=test, on_chip=on_chip)
        rows.append(row)
        write_table(table, rows, FIRMWARE_COLUMNS)
        talk.print(
            f"{row['recipe']} seed {row['seed']}, {row['bits']} bits: {int(row['constants']):,} bytes, "
            f"RAM {int(row['ram']):,}, val {row['val_correct']} of {row['val_total']}, test "
            f"{row['test_correct'] or 'not read'}, {row['equal']} of {row['images']} to the bit"
        )
    talk.print(f"see {table}")
    same = (("equal", "images"), ("equal_m0", "images_on_chip"), ("equal_m4", "images_on_chip"))
    return DONE if all(row[found] == row[read] for row in rows for found, read in same) else BROKEN


@app.command
def stress(
    model: str,
    /,
    *,
    split: Literal["val", "test"] = "val",
    per_category: int = 200,
    seed: int = 0,
    save: str | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Read digits as people draw, print and photograph them, made at random from MNIST and from nothing.

    Parameters
    ----------
    model
        an ONNX file that `featherweight export` wrote, or the run folder that holds one.
    split
        the images that the pictures are made from: val, or test, on which nothing may be chosen.
    per_category
        pictures a category; there are twelve.
    seed
        of all that is random.
    save
        a new folder that the pictures are written to, as CATEGORY/NUMBER-LABEL.png.
    json
        print the counts as JSON.
    """
    import itertools
    from dataclasses import asdict

    from PIL import Image

    from ..data import load_split, load_test
    from ..evaluate import percent
    from ..inference.reader import Reader
    from ..inference.stress import FROM_MNIST, FROM_NOTHING, make_stress, score_stress

    if per_category < 1 or seed < 0:
        raise InputError(
            f"--per-category and --seed: got {per_category} and {seed}, expected from 1 and from 0 up"
        )
    reader, images = Reader(model_file(model)), load_split(None, 50_000, 10_000)
    part = images.val if split == "val" else load_test(images)
    pictures = list(
        track(
            make_stress(part.pixels[:, 0].numpy(), part.labels.numpy(), seed, per_category),
            "",
            total=per_category * len((*FROM_MNIST, *FROM_NOTHING)),
            console=talk,
            transient=True,
            disable=not talk.is_terminal,
        )
    )
    if save is not None:
        folder = Path(save)
        folder.mkdir(parents=True)
        for category, group in itertools.groupby(pictures, lambda each: each[0]):
            (folder / category).mkdir()
            for i, (_, picture, label) in enumerate(group):
                Image.fromarray(picture).save(folder / category / f"{i}-{label}.png")
        talk.print(f"see {save}", markup=False)
    scores = score_stress(reader, pictures)
    if json:
        print_json([asdict(score) for score in scores])
        return DONE
    table = Table("category", "made from", "prepared", "only resized")
    for score in scores:
        table.add_row(
            score.category.replace("_", " "),
            split if score.from_mnist else "nothing",
            percent(score.prepared, score.n),
            percent(score.resized, score.n),
        )
    made = [score for score in scores if score.from_mnist]
    n = sum(score.n for score in made)
    table.add_row(
        f"all from {split}",
        "",
        *(
            percent(sum(getattr(score, how) for score in made), n)
            for how in ("prepared", "resized")
        ),
    )
    out.print(table)
    return DONE
