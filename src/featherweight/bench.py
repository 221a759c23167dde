"""Measure two or three things in turn in one process, so that a noisy machine troubles them alike.

    rows, ratio = bench_train(("baseline", "feather-20k"), split, device)       # steps
    races = bench_sprint(("sprint", "baseline", "sprint"), split, device)       # whole trainings
    engines = bench_predict(run, split)                                         # reading, with and without PyTorch
"""

import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from .contract import load_contract
from .data import Split
from .evaluate import normalise
from .model import build
from .recipe import Recipe, find_recipe
from .run import Row, Run, create_run
from .train import Trainer, seed_everything, train


@dataclass(frozen=True)
class Speed:
    """One recipe's training step, medians over the rounds."""

    recipe: str
    images_per_second: float
    seconds_per_epoch: float
    gflops: float
    "Billion floating-point operations a second in convolutions, matrix products and their gradients."
    share_of_peak: float
    "Of the rate that large single-precision matrix products reach on the same device and threads."
    share_augmentation: float
    "Of the step's time."


@dataclass(frozen=True)
class Ratio:
    """Of two times that were taken side by side, over the rounds."""

    median: float
    least: float
    most: float


def _timed(device: torch.device, work: Callable[[], Any]) -> float:
    """Seconds that `work` takes, the device's queue included."""
    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    wait()
    start = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - start


def matmul_peak(device: torch.device, side: int = 2048, rounds: int = 7) -> float:
    """Floating-point operations a second in a (side, side) single-precision product, the best round."""
    a, b = torch.randn(side, side, device=device), torch.randn(side, side, device=device)
    torch.mm(a, b)
    return 2 * side**3 / min(_timed(device, lambda: torch.mm(a, b)) for _ in range(rounds))


class _Contestant:
    def __init__(self, recipe: Recipe, split: Split, device: torch.device) -> None:
        self.recipe, self.split = recipe, split
        self.generator = seed_everything(0, -1)
        model = build(recipe.model, recipe.model_args, split.num_classes).to(device)
        self.trainer = Trainer(recipe, model, split.train.to(device), split.mean_std)
        self.batch = math.ceil(len(split.train) / self.trainer.steps_per_epoch)  # images in a first step
        self._steps = self._endless()
        counter = FlopCounterMode(display=False)
        with counter:
            next(self._steps)
        self.flops_per_step = counter.get_total_flops()

    def _endless(self) -> Iterator[Tensor]:
        while True:
            yield from self.trainer.steps(0, self.generator)

    def run(self, n_steps: int) -> None:
        for _ in range(n_steps):
            next(self._steps)

    def augment(self, n_steps: int) -> None:
        pixels = self.trainer.train.pixels[:self.recipe.batch_size].float() / 255
        for _ in range(n_steps):
            self.recipe.augmentation(pixels, self.generator)


def bench_train(names: tuple[str, ...], split: Split, device: torch.device, rounds: int = 7,
                n_steps: int = 15) -> tuple[list[Speed], Ratio]:
    """Each recipe's real training step (augmentation, both passes, optimiser, average), in turn."""
    contestants = [_Contestant(find_recipe(name), split, device) for name in names]
    for contestant in contestants:
        contestant.run(5)  # the first steps choose kernels
    step: dict[str, list[float]] = {name: [] for name in names}
    augment: dict[str, list[float]] = {name: [] for name in names}
    peaks = []
    for _ in range(rounds):
        peaks.append(matmul_peak(device, rounds=3))
        for name, contestant in zip(names, contestants, strict=True):
            step[name].append(_timed(device, lambda c=contestant: c.run(n_steps)) / n_steps)  # type: ignore[misc]
            augment[name].append(
                _timed(device, lambda c=contestant: c.augment(n_steps)) / n_steps)  # type: ignore[misc]
    peak = max(peaks)
    speeds = []
    for name, contestant in zip(names, contestants, strict=True):
        seconds = statistics.median(step[name])
        flops = contestant.flops_per_step / seconds
        speeds.append(Speed(
            name, len(split.train) / (seconds * contestant.trainer.steps_per_epoch),
            seconds * contestant.trainer.steps_per_epoch, flops / 1e9, flops / peak,
            statistics.median(a / s for a, s in zip(augment[name], step[name], strict=True))))
    per_epoch = [
        last * contestants[-1].trainer.steps_per_epoch / (first * contestants[0].trainer.steps_per_epoch)
        for first, last in zip(step[names[0]], step[names[-1]], strict=True)]
    return speeds, Ratio(statistics.median(per_epoch), min(per_epoch), max(per_epoch))


def profile_train(name: str, split: Split, device: torch.device, n_steps: int = 15) -> list[tuple[str, float]]:
    """Where a recipe's training step spends its time: operations and their shares of it, the greatest first."""
    contestant = _Contestant(find_recipe(name), split, device)
    contestant.run(5)
    with torch.profiler.profile() as profiler:
        contestant.run(n_steps)
    times = {event.key: event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total
             for event in profiler.key_averages()}
    total = sum(times.values())
    return sorted(((operation, seconds / total) for operation, seconds in times.items()), key=lambda item: -item[1])


@dataclass(frozen=True)
class Race:
    """One training from its first epoch to its last, an evaluation an epoch and the run folder included."""

    recipe: str
    epochs: int
    seconds: float
    val_correct: int
    val_total: int


def bench_sprint(names: tuple[str, ...], split: Split, device: torch.device, seed: int = 0,
                 on_epoch: Callable[[str, Row], None] = lambda name, row: None) -> list[Race]:
    """Whole trainings, one after the other; name a recipe twice to see how steady the machine is."""
    races = []
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(names):
            recipe = find_recipe(name)
            run = create_run(f"{folder}/{number}", recipe, load_contract(recipe.contract), split, seed, device,
                             "featherweight bench sprint")
            seconds = _timed(device, lambda run=run, name=name: train(  # type: ignore[misc]
                run, split, device, on_epoch=lambda row: on_epoch(name, row)))
            last = run.read_metrics()[-1]
            races.append(Race(name, recipe.epochs, seconds, last["val_correct"], last["val_total"]))
    return races


@dataclass(frozen=True)
class Rate:
    """Reading in batches of one size, on one thread."""

    p50: float
    "Seconds a batch, the median."
    p99: float
    images_per_second: float
    "Median of the rounds."
    times_eager: Ratio
    "Images a second over those of PyTorch eager in the same round."


@dataclass(frozen=True)
class Engine:
    """One way of reading with a run's network."""

    name: str
    file_bytes: int
    rates: dict[int, Rate]
    "By images a batch."
    cold: float
    "Seconds of a process that starts, reads one picture and ends, median."
    cold_most: float
    resident_bytes: int
    "Most memory that such a process held."


_EAGER = """
import sys, numpy, torch
from PIL import Image
from featherweight.evaluate import normalise
from featherweight.run import open_run
run = open_run(sys.argv[1])
pixels = torch.from_numpy(numpy.array(Image.open(sys.argv[2])))[None, None]
with torch.inference_mode():
    print(int(run.load_model()(normalise(pixels, (float(sys.argv[3]), float(sys.argv[4])))).argmax()))
"""
_PREDICT = "from featherweight.app import main; main()"


# A process of its own, with little in it: what it starts would count this one's memory as theirs.
_MEASURE = """
import resource, subprocess, sys, time
start = time.perf_counter()
subprocess.run([sys.executable, "-c", *sys.argv[1:]], stdout=subprocess.DEVNULL, check=True)
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def _process(arguments: list[str]) -> tuple[float, int]:
    """Seconds from start to end of a Python process, and the most bytes that it held."""
    command = [sys.executable, "-c", _MEASURE, *arguments]
    seconds, resident = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    return float(seconds), int(resident) * (1 if sys.platform == "darwin" else 1024)


def bench_predict(run: Run, split: Split, batches: dict[int, int] | None = None, rounds: int = 7,
                  starts: int = 5) -> list[Engine]:
    """PyTorch eager, ONNX Runtime float and int8 on validation images: an engine's calls, then the next one's, round
    by round, one thread each; then whole processes in turn. `batches`: calls a round by images a call.

    Exports the run first where it is not. Raises Unfaithful where that does."""
    from .export import export_onnx  # these two need packages that training does not
    from .reader import Reader

    files = {}
    for name, int8 in (("model.onnx", False), ("model-int8.onnx", True)):
        files[name] = run.path / name
        if not files[name].exists():
            export_onnx(run, split, int8)
    model = run.load_model()
    readers = {name: Reader(path) for name, path in files.items()}
    all_pixels = split.val.pixels[:, 0].numpy()

    def eager(pixels: np.ndarray) -> object:
        with torch.inference_mode():
            return model(normalise(torch.from_numpy(pixels)[:, None], split.mean_std)).softmax(1).numpy()
    calls: dict[str, Callable[[np.ndarray], object]] = {
        "PyTorch eager": eager, "ONNX Runtime": readers["model.onnx"].probabilities,
        "ONNX Runtime int8": readers["model-int8.onnx"].probabilities}
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rates = {batch: _rates(calls, all_pixels, batch, n, rounds)
                 for batch, n in (batches or {1: 200, 1000: 2}).items()}
    finally:
        torch.set_num_threads(n_threads)

    with tempfile.TemporaryDirectory() as folder:
        picture = f"{folder}/digit.png"
        Image.fromarray(all_pixels[0]).save(picture)
        commands = [[_EAGER, str(run.path), picture, *map(str, split.mean_std)],
                    *([_PREDICT, "predict", str(files[name]), picture] for name in files)]
        processes = [[_process(command) for command in commands] for _ in range(starts)]
    sizes = [run.path / "model.safetensors", *files.values()]
    engines = []
    for number, (name, path) in enumerate(zip(calls, sizes, strict=True)):
        seconds, resident = zip(*(each[number] for each in processes), strict=True)
        engines.append(Engine(name, Path(path).stat().st_size, {batch: rate[name] for batch, rate in rates.items()},
                              statistics.median(seconds), max(seconds), max(resident)))
    return engines


def _rates(calls: dict[str, Callable[[np.ndarray], object]], pixels: np.ndarray, batch: int, n_calls: int,
           rounds: int) -> dict[str, Rate]:
    times: dict[str, list[list[float]]] = {name: [] for name in calls}
    for number in range(-1, rounds):  # round -1 warms up
        for name, call in calls.items():
            starts = [(number + 1 + i) * batch % (len(pixels) - batch + 1) for i in range(n_calls)]
            seconds = [_timed(torch.device("cpu"), lambda call=call, i=i: call(pixels[i:i + batch]))  # type: ignore[misc]
                       for i in starts]
            if number >= 0:
                times[name].append(seconds)
    totals = {name: [sum(seconds) for seconds in times[name]] for name in calls}
    first = totals[next(iter(calls))]
    rates = {}
    for name in calls:
        ratios = [a / b for a, b in zip(first, totals[name], strict=True)]
        p50, p99 = np.percentile(np.concatenate(times[name]), (50, 99))
        rates[name] = Rate(float(p50), float(p99), batch * n_calls / statistics.median(totals[name]),
                           Ratio(statistics.median(ratios), min(ratios), max(ratios)))
    return rates
