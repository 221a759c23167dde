"""Measure recipes in turn in one process, so that a noisy machine affects them alike.

Example:
    speeds, ratio = bench_train(("baseline", "feather-20k"), split, device)     # training steps
    alone, busy = bench_teams([Team(recipe, 1), Team(recipe, 2)], split)        # workers
    races = bench_sprint(("sprint", "baseline", "sprint"), split, device)       # whole trainings
"""

import contextlib
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ..augment import augment, draw
from ..build import build
from ..contract import load_contract
from ..data import Split
from ..device import cpu_threads, seed_everything
from ..recipe import Recipe, find_recipe
from ..run import Run, create_run
from ..train import start, train
from ..trainer import Trainer
from ..workers import choose_workers, start_workers

WARM_UP_STEPS = 5  # the first steps choose kernels and fill caches


@dataclass(frozen=True)
class Speed:
    """Speed of a recipe's training step, medians over the rounds."""

    recipe: str
    "Recipe name."
    images_per_second: float
    "Training images per second."
    seconds_per_epoch: float
    "Seconds per epoch, without the evaluation."
    gflops: float
    "Billion floating-point operations per second in convolutions, matrix products and gradients."
    share_of_peak: float
    "`gflops` as a fraction of what large float32 matrix products reach on the same device."
    share_augmentation: float
    "Fraction of the step's time that augmentation takes."


@dataclass(frozen=True)
class Ratio:
    """Ratio of two times that were measured side by side, over the rounds."""

    median: float
    "Median over the rounds."
    minimum: float
    "Smallest ratio of a round."
    maximum: float
    "Largest ratio of a round."


def ratio_of(numerators: list[float], denominators: list[float]) -> Ratio:
    """Return the ratio of two lists of times with one entry per round."""
    ratios = [a / b for a, b in zip(numerators, denominators, strict=True)]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))


def timed(device: torch.device, work: Callable[[], Any]) -> float:
    """Return the seconds that `work` takes, including what it queues on the device."""

    def synchronize() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        elif device.type == "mps":
            torch.mps.synchronize()

    synchronize()
    start = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - start


def matmul_peak(device: torch.device, side: int = 2048, rounds: int = 7) -> float:
    """Return the floating-point operations per second of a (side, side) float32 matrix product.

    The fastest of the rounds counts. A product takes 2 * side**3 operations."""
    a, b = torch.randn(side, side, device=device), torch.randn(side, side, device=device)
    torch.mm(a, b)
    return 2 * side**3 / min(timed(device, lambda: torch.mm(a, b)) for _ in range(rounds))


class Contestant:
    """A recipe in training, whose steps can be run a few at a time."""

    def __init__(self, recipe: Recipe, split: Split, device: torch.device) -> None:
        self.recipe, self.split = recipe, split
        self.generator = seed_everything(0, -1)
        model = build(recipe.model, recipe.model_args, split.num_classes, split.shape).to(device)
        self.trainer = Trainer(recipe, model, split.train.to(device), split.mean_std)
        # Images in the first step. Batches differ by at most one image; the larger come first.
        self.batch = math.ceil(len(self.trainer.train) / self.trainer.steps_per_epoch)
        self._steps = self._repeat_first_epoch()
        counter = FlopCounterMode(display=False)
        with counter:
            next(self._steps)
        self.flops_per_step = counter.get_total_flops()

    def _repeat_first_epoch(self) -> Iterator[Tensor]:
        while True:
            yield from self.trainer.steps(0, self.generator)

    def run(self, n_steps: int) -> None:
        """Train for some steps."""
        for _ in range(n_steps):
            next(self._steps)

    def augment(self, n_steps: int) -> None:
        """Augment a batch as often as in some steps, without training."""
        pixels = self.trainer.train.pixels[: self.recipe.batch_size].float() / 255
        for _ in range(n_steps):
            draws = draw(self.recipe.augmentation, len(pixels), self.generator)
            augment(pixels, self.recipe.augmentation, draws, self.split.mean_std[0])


def bench_train(
    names: tuple[str, ...], split: Split, device: torch.device, rounds: int = 7, n_steps: int = 15
) -> tuple[list[Speed], Ratio]:
    """Time the training steps of recipes in turn, `n_steps` of each in every round.

    A step is what `train` does: augmentation, forward and backward pass, optimiser and EMA.
    Returns the speed of each recipe, and the time of the last recipe's epoch divided by that of
    the first one's."""
    contestants = [Contestant(find_recipe(name), split, device) for name in names]
    for contestant in contestants:
        contestant.run(WARM_UP_STEPS)
    step_seconds: dict[str, list[float]] = {name: [] for name in names}
    augment_seconds: dict[str, list[float]] = {name: [] for name in names}
    peak = 0.0
    for _ in range(rounds):
        peak = max(peak, matmul_peak(device, rounds=3))
        for name, contestant in zip(names, contestants, strict=True):
            step_seconds[name].append(timed(device, partial(contestant.run, n_steps)) / n_steps)
            augment_seconds[name].append(
                timed(device, partial(contestant.augment, n_steps)) / n_steps
            )
    speeds = []
    epoch_seconds = []
    for name, contestant in zip(names, contestants, strict=True):
        steps_per_epoch = contestant.trainer.steps_per_epoch
        epoch_seconds.append([seconds * steps_per_epoch for seconds in step_seconds[name]])
        seconds = statistics.median(step_seconds[name])
        flops = contestant.flops_per_step / seconds
        speeds.append(
            Speed(
                recipe=name,
                images_per_second=len(contestant.trainer.train) / (seconds * steps_per_epoch),
                seconds_per_epoch=seconds * steps_per_epoch,
                gflops=flops / 1e9,
                share_of_peak=flops / peak,
                share_augmentation=ratio_of(augment_seconds[name], step_seconds[name]).median,
            )
        )
    return speeds, ratio_of(epoch_seconds[-1], epoch_seconds[0])


@dataclass(frozen=True)
class Team:
    """A recipe, and the number of workers that train it together."""

    recipe: Recipe
    "The recipe."
    workers: int
    "Number of worker processes, this one among them."


@contextlib.contextmanager
def _first_epoch(team: Team, split: Split) -> Iterator[Iterator[Tensor]]:
    """Start a team; give the steps of its first epoch, which its workers do together."""
    recipe, cpu = team.recipe, torch.device("cpu")
    with tempfile.TemporaryDirectory() as folder:
        contract, command = load_contract(recipe.contract), "featherweight bench train"
        run = create_run(f"{folder}/run", recipe, contract, split, 0, cpu, command)
        with start_workers(run, split, team.workers) as group:
            trainer, _ = start(run, split, cpu, group)
            yield trainer.steps(0, seed_everything(run.seed, 0))


def bench_teams(
    teams: Sequence[Team],
    split: Split,
    beside: Callable[[bool], object] | None = None,
    rounds: int = 7,
    n_steps: int = 15,
) -> tuple[list[list[float]], list[float]]:
    """Time the training steps of several teams, who take turns, one thread to a worker.

    With `beside`, which is called with True before and False after other work is to run, the last
    team's steps are timed once more beside it in every round.

    Returns the seconds of an epoch of each team in every round, and of the last team beside other
    work. An epoch must have more steps than are timed."""
    alone: list[list[float]] = [[] for _ in teams]
    busy: list[float] = []
    with contextlib.ExitStack() as stack, cpu_threads(1):
        epochs = [stack.enter_context(_first_epoch(team, split)) for team in teams]

        def run(steps: Iterator[Tensor], n: int) -> None:
            for _ in range(n):
                next(steps)

        def seconds(number: int) -> float:
            recipe = teams[number].recipe
            steps_per_epoch = math.ceil(recipe.n_images(len(split.train)) / recipe.batch_size)
            work = partial(run, epochs[number], n_steps)
            return timed(torch.device("cpu"), work) / n_steps * steps_per_epoch

        for steps in epochs:
            run(steps, WARM_UP_STEPS)
        for _ in range(rounds):
            for number, times in enumerate(alone):
                times.append(seconds(number))
            if beside is not None:
                beside(True)
                busy.append(seconds(len(teams) - 1))
                beside(False)
    return alone, busy


def profile_train(
    name: str, split: Split, device: torch.device, n_steps: int = 15
) -> list[tuple[str, float]]:
    """Return the operations of a recipe's training step, with their shares of the time.

    The operation with the largest share stands first."""
    contestant = Contestant(find_recipe(name), split, device)
    contestant.run(WARM_UP_STEPS)
    with torch.profiler.profile() as profiler:
        contestant.run(n_steps)
    times = {
        event.key: event.self_device_time_total
        if device.type == "cuda"
        else event.self_cpu_time_total
        for event in profiler.key_averages()
    }
    total = sum(times.values())
    shares = [(operation, seconds / total) for operation, seconds in times.items()]
    return sorted(shares, key=lambda item: -item[1])


@dataclass(frozen=True)
class Race:
    """A whole training, with the evaluation after every epoch and the writing of the run folder."""

    recipe: str
    "Recipe name."
    epochs: int
    "Number of epochs."
    cores: str
    "How the CPU's cores were used, such as `2 workers`, or the device."
    seconds: float
    "Wall-clock seconds."
    val_correct: int
    "Validation images read correctly after the last epoch."
    val_total: int
    "Number of validation images."


def bench_sprint(
    names: tuple[str, ...],
    split: Split,
    device: torch.device,
    seed: int = 0,
    on_epoch: Callable[[str, dict[str, Any]], None] | None = None,
) -> list[Race]:
    """Time whole trainings, one after the other, each on all cores.

    A recipe with ghost batches is trained by workers, another one by as many threads as PyTorch
    uses by default. Name a recipe twice to see how steady the machine is. `on_epoch` is called with
    the recipe's name and the metrics of every epoch."""
    races = []
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(names):
            recipe = find_recipe(name)
            contract, command = load_contract(recipe.contract), "featherweight bench sprint"
            workers = choose_workers(None, recipe, device)
            threads = 1 if recipe.n_ghosts > 1 else torch.get_num_threads()
            path = f"{folder}/{number}"
            run = create_run(path, recipe, contract, split, seed, device, command, threads)
            told = None if on_epoch is None else partial(on_epoch, name)
            seconds = timed(device, partial(_train_by, workers, run, split, device, told))
            last = run.read_metrics()[-1]
            cores = (
                f"{workers} workers"
                if workers > 1
                else f"{threads} thread{'s' if threads > 1 else ''}"
            )
            races.append(
                Race(
                    name,
                    recipe.epochs,
                    cores if device.type == "cpu" else str(device),
                    seconds,
                    last["val_correct"],
                    last["val_total"],
                )
            )
    return races


def _train_by(
    workers: int,
    run: Run,
    split: Split,
    device: torch.device,
    on_epoch: Callable[[dict[str, Any]], None] | None,
) -> None:
    """Train a run by a number of workers, whose start counts."""
    with start_workers(run, split, workers) as group:
        train(run, split, device, on_epoch=on_epoch, group=group)
