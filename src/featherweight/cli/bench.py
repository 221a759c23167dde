"""The command that measures speed: bench."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Literal

from rich.table import Table

from ..errors import InputError
from .base import BROKEN, DONE, app, cores, load_mnist, stderr, stdout

if TYPE_CHECKING:
    import torch

    from ..bench.contention import Load
    from ..bench.gpu import Arithmetic, Trained
    from ..data import Split

BANDWIDTH = 125e6  # bytes per second of the simulated cluster's network: 1 Gbit/s
SIMULATED_NODES = (1, 10, 100)
MAX_OPERATIONS = 12  # of the profile, that are printed
WORKERS = (1, 2)
GPU_SEEDS = range(10)
# The rows of CUDA graphs: arithmetic, and whether memory is channels-last.
GPU_ROWS: tuple[tuple["Arithmetic", bool], ...] = (
    ("float32", False),
    ("tf32", False),
    ("tf32", True),
    ("bf16", False),
    ("bf16", True),
)
RECORDS = Path("results/records.csv")  # the CPU's rows of the same recipe, in a checkout


@app.command(name="bench", usage="Usage: featherweight bench [OPTIONS] WHAT [RUN]")
def cmd_bench(
    what: Literal["train", "sprint", "predict", "study", "load", "gpu"],
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
    - `gpu`: on a CUDA GPU, ten trainings of `sprint` by CUDA graphs in several arithmetics, ten of
      `feather-20k` at once, and whether the pretrained networks get the CPU's verdicts, in five
      minutes.

    Parameters
    ----------
    what
        What to measure.
    run
        Folder of a finished run, for predict.
    device
        Device for train and sprint: cpu, cuda, mps (Apple GPU), or auto. `gpu` uses CUDA, the
        others the CPU.
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
    if what == "gpu":
        return _bench_gpu(device)
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


def _bench_gpu(device: str) -> int:
    from ..device import pick_device

    where = pick_device(device)
    if where.type != "cuda":
        raise InputError(f"device {device!r}: got {where.type} for bench gpu, expected a CUDA GPU")
    split = load_mnist()
    # Each prints what it has at once: a failure later must not lose it.
    _gpu_card(where)
    _gpu_sprint(split, where, GPU_SEEDS)
    agree = _gpu_agreement(split, where)
    _gpu_stacked(split, where, GPU_SEEDS)
    return DONE if agree else BROKEN


def _gpu_card(where: "torch.device") -> None:
    """Measure and print the GPU."""
    from ..bench.gpu import find_card

    card = find_card(where)
    peaks = ", ".join(f"{name} {peak:.0f}" for name, peak in card.teraflops.items())
    stdout.print(
        f"{card.name}, torch {card.torch}, CUDA {card.cuda}, cuDNN {card.cudnn}; "
        f"TFLOP/s of a matrix product: {peaks}"
    )


def _trained(how: str, trained: "Trained") -> str:
    """Return one line about whole trainings."""
    seconds, correct = trained.seconds, trained.correct
    spread = f" ({min(seconds):.3f} to {max(seconds):.3f})" if len(seconds) > 1 else ""
    return (
        f"{how}: {mean(seconds):.3f} s{spread} to {100 * mean(correct) / trained.total:.3f} %, "
        f"{len(correct)} seeds: {' '.join(map(str, correct))}; warm-up {trained.warm_up:.1f} s"
    )


def _gpu_sprint(split: "Split", where: "torch.device", seeds: Sequence[int]) -> None:
    """Train sprint step by step, by CUDA graphs in every row of `GPU_ROWS`, and cold."""
    from ..bench.gpu import train_by_graphs, train_cold, train_eagerly, without_ghosts
    from ..recipe import find_recipe

    recipe = without_ghosts(find_recipe("sprint"))
    stdout.print(_trained("sprint, kernel by kernel, float32", train_eagerly(recipe, split, where)))
    for arithmetic, channels_last in GPU_ROWS:
        trained = train_by_graphs(recipe, split, where, seeds, arithmetic, channels_last)
        memory = "channels-last" if channels_last else "contiguous"
        stdout.print(_trained(f"sprint, CUDA graphs, {arithmetic}, {memory}", trained))
    seconds, correct = train_cold(where, "tf32")
    stdout.print(
        f"sprint, CUDA graphs, tf32, contiguous, from the start of a process to its end: "
        f"{seconds:.1f} s, {correct:,} right"
    )


def _gpu_agreement(split: "Split", where: "torch.device", everything: bool = True) -> bool:
    """Print whether CPU and GPU judge each pretrained network alike; return whether all do."""
    from ..bench.gpu import agreement
    from ..pretrained import pretrained

    agree = True
    for name in pretrained():
        found = agreement(name, split, where, everything)
        agree = agree and not found.differences
        stdout.print(
            f"{name}: {'pass' if found.passed else 'fail'}, {found.correct:,} of {found.total:,}; "
            f"CPU and GPU: {'; '.join(found.differences) or 'the same verdict and counts'}, "
            f"probabilities within {found.max_difference:.1g}"
        )
    return agree


def _gpu_stacked(
    split: "Split", where: "torch.device", seeds: Sequence[int], epochs: int | None = None
) -> None:
    """Train every seed of feather-20k at once, for all epochs or some, and print the CPU's rows."""
    from ..bench.gpu import train_stacked
    from ..recipe import find_recipe
    from ..studies.rows import read_rows

    recipe = find_recipe("feather-20k")
    recipe = replace(recipe, epochs=epochs or recipe.epochs)
    for arithmetic in ("float32", "tf32"):
        trained = train_stacked(recipe, split, where, seeds, arithmetic)
        how = f"feather-20k, {recipe.epochs} epochs, all seeds at once, {arithmetic}"
        stdout.print(_trained(how, trained))
    counts = [
        row["val_correct"]
        for row in read_rows(RECORDS)
        if row["recipe"] == recipe.name and int(row["seed"]) in seeds
    ]
    if counts:
        stdout.print(f"on CPUs, {find_recipe(recipe.name).epochs} epochs: {' '.join(counts)}")


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
