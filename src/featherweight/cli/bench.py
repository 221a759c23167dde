"""The command that measures speed: bench."""

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from rich.table import Table

from ..errors import InputError
from .base import BROKEN, DONE, app, cores, load_mnist, stderr, stdout

if TYPE_CHECKING:
    from ..bench.contention import Load

BANDWIDTH = 125e6  # bytes per second of the simulated cluster's network: 1 Gbit/s
SIMULATED_NODES = (1, 10, 100)
MAX_OPERATIONS = 12  # of the profile, that are printed
WORKERS = (1, 2)


@app.command(name="bench", usage="Usage: featherweight bench [OPTIONS] WHAT [RUN]")
def cmd_bench(
    what: Literal["train", "sprint", "predict", "study", "load"],
    run: str | None = None,
    /,
    *,
    device: str = "auto",
) -> int:
    """Measure the speed of training, reading and studies on this machine.

    - `train`: the training steps of `baseline` and `feather-20k`, a profile of the latter, and its
      steps in two ghost batches by one worker and by two, in three minutes.
    - `sprint`: whole trainings of `sprint`, `baseline` and `sprint` again, in ten minutes or more.
    - `predict`: reading with the network of RUN in PyTorch and from its exported files, in one
      minute.
    - `study`: eight short runs on local processes and on Ray, and a simulated cluster.
    - `load`: training, evaluation, audit and export alone and beside busy processes, in five
      minutes.

    Parameters
    ----------
    what
        What to measure.
    run
        Folder of a finished run, for predict.
    device
        Device for train and sprint: cpu, cuda, mps (Apple GPU), or auto. The others use the CPU.
    """
    if (what == "predict") != (run is not None):
        raise InputError(f"RUN: got {run or 'none'}, expected a run folder with predict alone")
    if run is not None:
        return _bench_predict(run)
    if what == "study":
        return _bench_study()
    if what == "load":
        return _bench_load()
    if what == "sprint":
        return _bench_sprint(device)
    return _bench_train(device)


def _bench_train(device: str) -> int:
    from ..bench.training import bench_train, bench_workers, profile_train
    from ..device import pick_device
    from ..recipe import find_recipe

    split, where = load_mnist(), pick_device(device)
    speeds, ratio = bench_train(("baseline", "feather-20k"), split, where)
    first, last = speeds[0].recipe, speeds[-1].recipe
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
    stdout.print(table)
    stdout.print(
        f"epoch of {last} / epoch of {first}: "
        f"{ratio.median:.3f} (rounds {ratio.minimum:.3f} to {ratio.maximum:.3f})"
    )
    profile = Table("operation", f"share of {last}'s step")
    for operation, share in profile_train(last, split, where)[:MAX_OPERATIONS]:
        profile.add_row(operation, f"{100 * share:.1f} %")
    stdout.print(profile)
    if where.type == "cpu":
        recipe = find_recipe(last)
        recipe = replace(recipe, ghost_batch=recipe.batch_size // max(WORKERS))
        times, ratio = bench_workers(recipe, split, WORKERS)
        workers = Table("workers", f"s/epoch of {last} in ghost batches of {recipe.ghost_batch}")
        for n, seconds in zip(WORKERS, times, strict=True):
            workers.add_row(str(n), f"{seconds:.2f}")
        stdout.print(workers)
        stdout.print(
            f"epoch of {WORKERS[-1]} workers / epoch of {WORKERS[0]}: "
            f"{ratio.median:.3f} (rounds {ratio.minimum:.3f} to {ratio.maximum:.3f})"
        )
    return DONE


def _bench_sprint(device: str) -> int:
    from ..bench.training import bench_sprint
    from ..device import pick_device
    from ..evaluate import percent

    races = bench_sprint(
        ("sprint", "baseline", "sprint"),
        load_mnist(),
        pick_device(device),
        on_epoch=lambda name, epoch: stderr.print(
            f"{name} epoch {epoch['epoch']}: {epoch['seconds']:.1f} s"
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
    stdout.print(table)
    return DONE


def _bench_predict(run: str) -> int:
    from ..bench.inference import bench_predict
    from ..export.onnx import UnfaithfulError
    from ..run import open_run

    opened = open_run(run)
    try:
        engines = bench_predict(opened, opened.load_split())
    except UnfaithfulError as error:
        stderr.print(f"error: {error}", markup=False)
        return BROKEN
    rates = Table(
        "on one thread",
        "images a call",
        "p50 ms",
        "p99 ms",
        "images/s",
        "of eager's images/s (rounds)",
    )
    for batch in engines[0].rates:
        for engine in engines:
            rate = engine.rates[batch]
            speedup = rate.speedup
            rates.add_row(
                engine.name,
                f"{batch:,}",
                f"{1000 * rate.p50:.3f}",
                f"{1000 * rate.p99:.3f}",
                f"{rate.images_per_second:,.0f}",
                f"{speedup.median:.2f} ({speedup.minimum:.2f} to {speedup.maximum:.2f})",
            )
    stdout.print(rates)
    processes = Table(
        "process that reads one picture", "file bytes", "seconds (maximum)", "memory MB"
    )
    for engine in engines:
        memory = engine.resident_bytes
        processes.add_row(
            engine.name,
            f"{engine.file_bytes:,}",
            f"{engine.cold:.2f} ({engine.cold_maximum:.2f})",
            "" if memory is None else f"{memory / 1e6:.0f}",
        )
    stdout.print(processes)
    if engines[0].resident_bytes is None:
        stderr.print("no memory figures: this system does not report the memory of a process")
    return DONE


def _bench_load() -> int:
    from ..bench.contention import bench_load

    n_busy = cores()
    table = Table("work", "threads", "idle machine s", f"beside {n_busy} busy s", "ratio")

    def on_load(load: "Load") -> None:
        table.add_row(
            load.work,
            load.threading,
            f"{load.idle:.2f}",
            f"{load.busy:.2f}",
            f"{load.busy / load.idle:.1f}",
        )

    bench_load(n_busy, on_load=on_load)
    stdout.print(table)
    return DONE


def _bench_study() -> int:
    from ..bench.cluster import measure, simulate

    table = Table(
        "workers",
        "runs",
        "local s",
        "rows/h",
        "Ray s",
        "rows/h",
        "Ray/local",
        "overhead s per run",
    )
    for workers in (1, 2):
        measured = measure("sprint", epochs=1, runs=8, workers=workers)
        table.add_row(
            str(workers),
            str(measured.runs),
            f"{measured.local_seconds:.1f}",
            f"{3600 * measured.runs / measured.local_seconds:,.0f}",
            f"{measured.ray_seconds:.1f}",
            f"{3600 * measured.runs / measured.ray_seconds:,.0f}",
            f"{measured.ratio:.3f}",
            f"{measured.overhead:.2f}",
        )
    stdout.print(table)
    stdout.print(
        f"per run: {measured.slot_seconds:.2f} s of a slot, "
        f"{measured.driver_seconds:.3f} s of the driver, "
        f"{measured.folder_bytes / 1000:,.0f} kB sent back; "
        f"per node: {measured.images_bytes / 1e6:.1f} MB of images"
    )
    for nodes in SIMULATED_NODES:
        rate = simulate(measured, 100 * nodes * measured.workers, nodes, BANDWIDTH)
        stdout.print(
            f"simulated, {nodes} nodes with {measured.workers} slots, "
            f"{BANDWIDTH / 1e6:.0f} MB/s: {rate:,.0f} rows/h"
        )
    return DONE
