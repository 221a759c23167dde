"""Measure two recipes in turn in one process, so that a noisy machine troubles both alike.

rows, ratio = bench_train(("baseline", "feather-20k"), split, device)       # steps
races = bench_sprint(("sprint", "baseline", "sprint"), split, device)       # whole trainings
"""

import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ..augment import augment
from ..build import build
from ..contract import load_contract
from ..data import Split
from ..device import seed_everything
from ..recipe import Recipe, find_recipe
from ..run import Row, create_run
from ..train import Trainer, train


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


def timed(device: torch.device, work: Callable[[], Any]) -> float:
    """Seconds that `work` takes, the device's queue included."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        elif device.type == "mps":
            torch.mps.synchronize()

    wait()
    start = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - start


def matmul_peak(device: torch.device, side: int = 2048, rounds: int = 7) -> float:
    """Floating-point operations a second in a (side, side) single-precision product, the best round."""
    a, b = torch.randn(side, side, device=device), torch.randn(side, side, device=device)
    torch.mm(a, b)
    return 2 * side**3 / min(timed(device, lambda: torch.mm(a, b)) for _ in range(rounds))


class Contestant:
    """A recipe whose training steps are run a few at a time."""

    def __init__(self, recipe: Recipe, split: Split, device: torch.device) -> None:
        self.recipe, self.split = recipe, split
        self.generator = seed_everything(0, -1)
        model = build(recipe.model, recipe.model_args, split.num_classes, split.shape).to(device)
        self.trainer = Trainer(recipe, model, split.train.to(device), split.mean_std)
        self.batch = math.ceil(
            len(split.train) / self.trainer.steps_per_epoch
        )  # images in a first step
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
        pixels = self.trainer.train.pixels[: self.recipe.batch_size].float() / 255
        for _ in range(n_steps):
            augment(pixels, self.recipe.augmentation, self.generator)


def bench_train(
    names: tuple[str, ...], split: Split, device: torch.device, rounds: int = 7, n_steps: int = 15
) -> tuple[list[Speed], Ratio]:
    """Each recipe's real training step (augmentation, both passes, optimiser, average), in turn."""
    contestants = [Contestant(find_recipe(name), split, device) for name in names]
    for contestant in contestants:
        contestant.run(5)  # the first steps choose kernels
    step: dict[str, list[float]] = {name: [] for name in names}
    augment: dict[str, list[float]] = {name: [] for name in names}
    peaks = []
    for _ in range(rounds):
        peaks.append(matmul_peak(device, rounds=3))
        for name, contestant in zip(names, contestants, strict=True):
            step[name].append(timed(device, partial(contestant.run, n_steps)) / n_steps)
            augment[name].append(timed(device, partial(contestant.augment, n_steps)) / n_steps)
    peak = max(peaks)
    speeds = []
    for name, contestant in zip(names, contestants, strict=True):
        seconds = statistics.median(step[name])
        flops = contestant.flops_per_step / seconds
        speeds.append(
            Speed(
                name,
                len(split.train) / (seconds * contestant.trainer.steps_per_epoch),
                seconds * contestant.trainer.steps_per_epoch,
                flops / 1e9,
                flops / peak,
                statistics.median(a / s for a, s in zip(augment[name], step[name], strict=True)),
            )
        )
    per_epoch = [
        last
        * contestants[-1].trainer.steps_per_epoch
        / (first * contestants[0].trainer.steps_per_epoch)
        for first, last in zip(step[names[0]], step[names[-1]], strict=True)
    ]
    return speeds, Ratio(statistics.median(per_epoch), min(per_epoch), max(per_epoch))


def profile_train(
    name: str, split: Split, device: torch.device, n_steps: int = 15
) -> list[tuple[str, float]]:
    """Where a recipe's training step spends its time: operations and their shares of it, the greatest first."""
    contestant = Contestant(find_recipe(name), split, device)
    contestant.run(5)
    with torch.profiler.profile() as profiler:
        contestant.run(n_steps)
    times = {
        event.key: event.self_device_time_total
        if device.type == "cuda"
        else event.self_cpu_time_total
        for event in profiler.key_averages()
    }
    total = sum(times.values())
    return sorted(
        ((operation, seconds / total) for operation, seconds in times.items()),
        key=lambda item: -item[1],
    )


@dataclass(frozen=True)
class Race:
    """One training from its first epoch to its last, an evaluation an epoch and the run folder included."""

    recipe: str
    epochs: int
    seconds: float
    val_correct: int
    val_total: int


def bench_sprint(
    names: tuple[str, ...],
    split: Split,
    device: torch.device,
    seed: int = 0,
    on_epoch: Callable[[str, Row], None] = lambda name, row: None,
) -> list[Race]:
    """Whole trainings, one after the other; name a recipe twice to see how steady the machine is."""
    races = []
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(names):
            recipe = find_recipe(name)
            run = create_run(
                f"{folder}/{number}",
                recipe,
                load_contract(recipe.contract),
                split,
                seed,
                device,
                "featherweight bench sprint",
            )
            seconds = timed(
                device, partial(train, run, split, device, on_epoch=partial(on_epoch, name))
            )
            last = run.read_metrics()[-1]
            races.append(Race(name, recipe.epochs, seconds, last["val_correct"], last["val_total"]))
    return races
