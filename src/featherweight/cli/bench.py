"""The command that measures speed: bench."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.table import Table

from ..errors import InputError
from .base import BROKEN, DONE, app, cores, load_mnist, stderr, stdout

if TYPE_CHECKING:
    import torch

    from ..bench.contention import Load
    from ..bench.gpu import Arithmetic, Trained
    from ..bench.training import Ratio
    from ..data import Split

BANDWIDTH = 125e6  # bytes per second of the simulated cluster's network: 1 Gbit/s
SIMULATED_NODES = (1, 10, 100)
MAX_OPERATIONS = 12  # of the profile, that are printed
GPU_SEEDS = range(10)
# The rows of CUDA graphs: arithmetic, and whether memory is channels-last.
GPU_ROWS: tuple[tuple["Arithmetic", bool], ...] = (
    ("float32", False),
    ("tf32", False),
    ("bf16", True),
)
# The CPU's rows of the recipe as it was before ghost batches, in a checkout.
RECORDS = Path("results/records.csv")


@app.command(name="bench", usage="Usage: featherweight bench [OPTIONS] WHAT [RUN]")
def cmd_bench(
    what: Literal["train", "workers", "sprint", "predict", "audit", "study", "load", "gpu"],
    run: str | None = None,
    /,
    *,
    device: str = "auto",
    peer: bool = False,
) -> int:
    """Measure the speed of training, reading and studies on this machine.

    - `train`: the training steps of `baseline` and `feather-20k` on one thread, a profile of the
      latter, and its epoch by one worker and by two, alone and beside busy processes, in a minute.
    - `workers`: the first epoch of all recipes with ghost batches by one worker and by two, in a
      minute.
    - `sprint`: whole trainings of `sprint`, `baseline` and `sprint` again, in six minutes.
    - `predict`: reading with the network of RUN in PyTorch and from its exported files, in one
      minute.
    - `audit`: an audit of the network RUN, MODULE:CLASS or FILE.py (default: feather-20k), by its
      graph and by watching it, and training steps of three recipes with the graph and with the
      module, in two minutes.
    - `study`: eight short runs on local processes and on Ray, and a simulated cluster.
    - `load`: training, evaluation, audit and export alone and beside busy processes, in five
      minutes.
    - `gpu`: on a CUDA GPU, ten trainings of `sprint` by CUDA graphs in three number formats, ten of
      `feather-20k` at once, and whether the pretrained networks get the CPU's verdicts, in two
      minutes.

    Parameters
    ----------
    what
        What to measure.
    run
        Folder of a finished run, for predict; for audit a run, a pretrained network, or a network.
    device
        Device for train and sprint: cpu, cuda, mps (Apple GPU), or auto. `gpu` uses CUDA, the
        others the CPU.
    peer
        With sprint, train the baseline network once more as courses teach it, by a plain PyTorch
        loop and a DataLoader. It takes eight minutes more.
    """
    if peer and what != "sprint":
        raise InputError(f"--peer with {what}: expected with sprint alone")
    if peer and device not in ("auto", "cpu"):
        raise InputError(f"--peer with --device {device}: expected cpu, where the plain loop runs")
    if run is not None and what not in ("predict", "audit"):
        raise InputError(f"RUN: got {run}, expected a run folder with predict or audit alone")
    if what == "predict" and run is None:
        raise InputError("RUN: got none, expected a run folder with predict")
    if what == "predict" and run is not None:
        return _bench_predict(run)
    if what == "audit":
        return _bench_audit(run or "feather-20k")
    if what == "study":
        return _bench_study()
    if what == "load":
        return _bench_load()
    if what == "workers":
        return _bench_recipes(load_mnist())
    if what == "sprint":
        return _bench_sprint("cpu" if peer else device, peer)
    if what == "gpu":
        return _bench_gpu(device)
    return _bench_train(device)


def _bench_train(device: str) -> int:
    from ..bench.training import bench_train, profile_train
    from ..device import cpu_threads, pick_device

    split, where = load_mnist(), pick_device(device)
    with cpu_threads(1):
        speeds, ratio = bench_train(("baseline", "feather-20k"), split, where)
        profile = profile_train("feather-20k", split, where)
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
    stdout.print(f"epoch of {last} / epoch of {first}: {_shown(ratio)}")
    operations = Table("operation", f"share of {last}'s step")
    for operation, share in profile[:MAX_OPERATIONS]:
        operations.add_row(operation, f"{100 * share:.1f} %")
    stdout.print(operations)
    if where.type == "cpu":
        _bench_workers(last, split)
    return DONE


def _bench_workers(name: str, split: "Split") -> None:
    import statistics

    from ..bench.contention import busy_processes
    from ..bench.training import Team, bench_teams, ratio_of
    from ..recipe import find_recipe

    recipe = find_recipe(name)
    # As the recipe was before it had ghost batches.
    before = replace(recipe, batch_size=64, ghost_batch=0, lr=0.1, ema=0.995)
    teams = [Team(before, 1), Team(recipe, 1), Team(recipe, 2)]
    n_busy = cores()
    with busy_processes(n_busy) as active:
        (undivided, one, two), busy = bench_teams(
            teams, split, lambda on: active.set() if on else active.clear()
        )
    table = Table(f"epoch of {name}", "seconds")
    for label, times in (
        (f"a step of {before.batch_size} images, not divided, 1 worker", undivided),
        (f"ghost batches of {recipe.ghost_batch}, 1 worker", one),
        (f"ghost batches of {recipe.ghost_batch}, 2 workers", two),
        (f"the same beside {n_busy} busy processes", busy),
    ):
        table.add_row(label, f"{statistics.median(times):.2f}")
    stdout.print(table)
    stdout.print(f"2 workers / 1 worker: {_shown(ratio_of(two, one))}")
    stdout.print(f"2 workers / not divided: {_shown(ratio_of(two, undivided))}")
    stdout.print(f"2 workers, beside busy processes / alone: {_shown(ratio_of(busy, two))}")


def _bench_recipes(split: "Split") -> int:
    """Print the time of an epoch of every recipe that workers can share."""
    import statistics

    from ..bench.training import Team, bench_teams, ratio_of
    from ..build import build
    from ..contract import load_contract
    from ..recipe import RECIPES

    table = Table("recipe", "parameters", "1 worker s/epoch", "2 workers s/epoch", "ratio (rounds)")
    for recipe in RECIPES:
        if recipe.n_ghosts > 1 and load_contract(recipe.contract).data == "mnist":
            (one, two), _ = bench_teams([Team(recipe, 1), Team(recipe, 2)], split, rounds=5)
            model = build(recipe.model, recipe.model_args, split.num_classes, split.shape)
            table.add_row(
                recipe.name + (", small images" if recipe.resize_until else ""),
                f"{sum(parameter.numel() for parameter in model.parameters()):,}",
                f"{statistics.median(one):.2f}",
                f"{statistics.median(two):.2f}",
                _shown(ratio_of(two, one)),
            )
    stdout.print(table)
    return DONE


def _bench_audit(target: str) -> int:
    from ..bench.auditing import bench_audits, bench_graph_steps

    audits = bench_audits(target)
    stdout.print(f"audit of {target} by its graph / by watching it: {_shown(audits)}", markup=False)
    split, alike = load_mnist(), True
    for recipe in ("feather-20k", "sprint", "baseline"):
        steps, same = bench_graph_steps(recipe, split)
        alike = alike and same
        found = "the same bits" if same else "OTHER BITS"
        stdout.print(f"training step of {recipe}, graph / module: {_shown(steps)}, {found}")
    return DONE if alike else BROKEN


def _shown(ratio: "Ratio") -> str:
    return f"{ratio.median:.3f} (rounds {ratio.minimum:.3f} to {ratio.maximum:.3f})"


def _bench_sprint(device: str, peer: bool) -> int:
    from ..bench.peer import bench_peer
    from ..bench.training import bench_sprint
    from ..device import pick_device
    from ..evaluate import percent

    def on_epoch(name: str, epoch: dict[str, Any]) -> None:
        stderr.print(f"{name} epoch {epoch['epoch']}: {epoch['seconds']:.1f} s")

    split = load_mnist()
    races = bench_sprint(
        ("sprint", "baseline", "sprint"), split, pick_device(device), on_epoch=on_epoch
    )
    baseline = next(race for race in races if race.recipe == "baseline")
    rows = [
        (race.recipe, race.epochs, race.cores, race.seconds, race.val_correct) for race in races
    ]
    if peer:
        plain = bench_peer(baseline.epochs, cores(), partial(on_epoch, "plain loop, by its"))
        how = f"PyTorch's default, {cores()} loaders"
        rows.append(("plain loop", plain.epochs, how, plain.seconds, plain.val_correct))
    table = Table("training", "epochs", "cores", "seconds", "validation", "of the baseline's time")
    for name, epochs, how, seconds, correct in rows:
        table.add_row(
            name,
            str(epochs),
            how,
            f"{seconds:.1f}",
            percent(correct, len(split.val)),
            f"1/{baseline.seconds / seconds:.1f}",
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
    import statistics

    seconds, correct = trained.seconds, trained.correct
    spread = f" ({min(seconds):.3f} to {max(seconds):.3f})" if len(seconds) > 1 else ""
    accuracy = 100 * statistics.mean(correct) / trained.total
    return (
        f"{how}: {statistics.mean(seconds):.3f} s{spread} to {accuracy:.3f} %, "
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
    from ..bench.gpu import train_stacked, without_ghosts
    from ..recipe import find_recipe
    from ..studies.rows import read_rows

    recipe = without_ghosts(find_recipe("feather-20k"))
    recipe = replace(recipe, epochs=epochs or recipe.epochs)
    trained = train_stacked(recipe, split, where, seeds, "float32")
    how = f"feather-20k, {recipe.epochs} epochs, all seeds at once, float32"
    stdout.print(_trained(how, trained))
    counts = [
        row["val_correct"]
        for row in read_rows(RECORDS)
        if row["recipe"] == recipe.name and int(row["seed"]) in seeds
    ]
    if counts:
        stdout.print(
            f"on CPUs, in ghost batches, {find_recipe(recipe.name).epochs} epochs: "
            f"{' '.join(counts)}"
        )


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
