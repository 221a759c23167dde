"""Measure training on a CUDA GPU: CUDA graphs, stacked replicas, and agreement with the CPU.

Example:
    recipe = find_recipe("sprint")
    trained = train_by_graphs(recipe, split, device, seeds=range(10), arithmetic="tf32")
    trained.seconds, trained.correct                  # of each seed, without the warm-up
    train_stacked(find_recipe("feather-20k"), split, device, seeds=range(10))   # all at once
    agreement("feather-20k", split, device).differences     # [] if CPU and GPU judge alike

Every function works on the CPU too, where steps are computed without graphs: tests compare them
with `Trainer`.
"""

import contextlib
import copy
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import nn

from ..audit import audit_weights
from ..build import build
from ..data import Split
from ..device import seed_everything
from ..evaluate import Evaluation, evaluate
from ..pretrained import pretrained
from ..recipe import Recipe
from ..run import open_run
from ..trainer import Trainer
from .graphs import GraphTrainer
from .replicas import Replicas
from .training import matmul_peak, timed

# float32: IEEE arithmetic. tf32: products and convolutions of float32 numbers round their factors
# to 11 bits. bf16: the forward pass under autocast, the weights stay float32.
Arithmetic = Literal["float32", "tf32", "bf16"]
ARITHMETICS: tuple[Arithmetic, ...] = ("float32", "tf32", "bf16")
MAX_DIFFERENCE = 1e-4  # of a probability between CPU and GPU


@contextlib.contextmanager
def arithmetic_of(name: Arithmetic) -> Iterator[None]:
    """Use the arithmetic inside the context, with the fastest kernels that cuDNN finds.

    `Trainer.backward` needs `autocast` besides, for bf16."""
    before = (
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.allow_tf32,
        torch.backends.cudnn.benchmark,
    )

    def use(matmul: bool, convolution: bool, fastest: bool) -> None:
        torch.backends.cuda.matmul.allow_tf32 = matmul
        torch.backends.cudnn.allow_tf32 = convolution
        torch.backends.cudnn.benchmark = fastest

    use(name != "float32", name != "float32", True)
    try:
        yield
    finally:
        use(*before)


def synchronize(device: torch.device) -> None:
    """Wait for everything that is queued on a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(frozen=True)
class Card:
    """A GPU and the speed of its matrix products."""

    name: str
    "Name of the GPU."
    torch: str
    "Version of PyTorch."
    cuda: str
    "Version of CUDA that PyTorch was built with."
    cudnn: str
    "Version of cuDNN."
    teraflops: dict[str, float]
    "Trillion operations per second of a large float32 product, by arithmetic."


def find_card(device: torch.device, side: int = 8192) -> Card:
    """Return the GPU, and the speed of (side, side) products. Needs CUDA."""
    peaks = {}
    for name in ("float32", "tf32"):
        with arithmetic_of(name):
            peaks[name] = matmul_peak(device, side) / 1e12
    return Card(
        torch.cuda.get_device_name(device),
        torch.__version__,
        str(torch.version.cuda),
        str(torch.backends.cudnn.version()),
        peaks,
    )


def initial(recipe: Recipe, split: Split, seed: int) -> nn.Module:
    """Return the network of a seed with its initial weights, on the CPU, as `train` starts it."""
    seed_everything(seed, -1)
    return build(recipe.model, recipe.model_args, split.num_classes, split.shape)


@dataclass(frozen=True)
class Trained:
    """Whole trainings, each with the evaluation of its last weights."""

    seconds: list[float]
    "Seconds of each training, or of all together; capturing and initial weights are not counted."
    correct: list[int]
    "Validation images that each seed's network reads right."
    total: int
    "Number of validation images."
    warm_up: float
    "Seconds of the warm-up and the capture of graphs before the first training."


def train_eagerly(recipe: Recipe, split: Split, device: torch.device, seed: int = 0) -> Trained:
    """Train in float32 by `Trainer`, whose steps Python starts kernel by kernel.

    The warm-up is a whole training too."""
    train, val = split.train.to(device), split.val.to(device)
    results = []

    def work(trainer: Trainer) -> None:
        for epoch in range(recipe.epochs):
            for _ in trainer.steps(epoch, seed_everything(seed, epoch)):
                pass
        results.append(evaluate(trainer.evaluated_network(), val, split.mean_std))

    with arithmetic_of("float32"):
        seconds = []
        for _ in range(2):
            model = initial(recipe, split, seed).to(device)
            trainer = Trainer(recipe, model, train, split.mean_std)
            seconds.append(timed(device, partial(work, trainer)))
    return Trained([seconds[1]], [results[1].correct], results[1].total, seconds[0])


def train_by_graphs(
    recipe: Recipe,
    split: Split,
    device: torch.device,
    seeds: Sequence[int],
    arithmetic: Arithmetic = "float32",
    channels_last: bool = False,
) -> Trained:
    """Train one seed after the other by the same CUDA graphs.

    The clock of a seed starts when its initial weights are in place, and stops after the evaluation
    of its last weights.
    """
    train, val = split.train.to(device), split.val.to(device)
    memory = torch.channels_last if channels_last else torch.contiguous_format
    with arithmetic_of(arithmetic):
        started = time.perf_counter()
        model = initial(recipe, split, 0).to(device)
        model.to(memory_format=memory)  # type: ignore[call-overload]
        trainer = GraphTrainer(recipe, model, train, split.mean_std, arithmetic == "bf16")
        trainer.capture()
        evaluate(trainer.ema, val, split.mean_std)
        synchronize(device)
        warm_up = time.perf_counter() - started
        seconds, results = [], []

        def work(seed: int) -> None:
            trainer.train_all([seed])
            results.append(evaluate(trainer.ema, val, split.mean_std))

        for seed in seeds:
            trainer.reset(initial(recipe, split, seed))
            seconds.append(timed(device, partial(work, seed)))
    return Trained(seconds, [result.correct for result in results], results[0].total, warm_up)


def train_stacked(
    recipe: Recipe,
    split: Split,
    device: torch.device,
    seeds: Sequence[int],
    arithmetic: Arithmetic = "float32",
) -> Trained:
    """Train every seed at once, as stacked replicas in one CUDA graph.

    The clock starts when the initial weights are in place, and stops after all evaluations.
    """
    train, val = split.train.to(device), split.val.to(device)
    with arithmetic_of(arithmetic):
        started = time.perf_counter()
        models = Replicas([initial(recipe, split, seed).to(device) for seed in seeds])
        model = copy.deepcopy(models)
        trainer = GraphTrainer(recipe, model, train, split.mean_std, arithmetic == "bf16")
        trainer.capture()
        evaluate(next(models.unstack()), val, split.mean_std)
        trainer.reset(models)
        synchronize(device)
        warm_up = time.perf_counter() - started
        results: list[Evaluation] = []

        def work() -> None:
            trainer.train_all(seeds)
            assert isinstance(trainer.ema, Replicas)
            for network in trainer.ema.unstack():
                results.append(evaluate(network, val, split.mean_std))

        seconds = timed(device, work)
    return Trained([seconds], [result.correct for result in results], results[0].total, warm_up)


# A program for `python -c`: one training from the start of a process.
_COLD = """
import torch
from dataclasses import replace
from featherweight.bench.gpu import train_by_graphs
from featherweight.contract import load_contract
from featherweight.device import pick_device
from featherweight.recipe import find_recipe
from featherweight.splits import contract_split
recipe = replace(find_recipe("sprint"), ghost_batch=0)
contract = load_contract(recipe.contract)
split = contract_split(None, contract)
print(train_by_graphs(recipe, split, pick_device("{device}"), [0], "{arithmetic}").correct[0])
"""


def train_cold(device: torch.device, arithmetic: Arithmetic) -> tuple[float, int]:
    """Train `sprint` by CUDA graphs in a new process.

    Returns the seconds from the start of the process to its end, and the number of validation
    images that its network reads right.
    """
    program = _COLD.format(device=device, arithmetic=arithmetic)
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, stdout=subprocess.PIPE, text=True
    )
    return time.perf_counter() - started, int(done.stdout)


@dataclass(frozen=True)
class Agreement:
    """What a GPU and the CPU find about one network that comes with the package."""

    name: str
    "Name of the network."
    passed: bool
    "The verdict on the CPU, of the clauses that weights alone can show."
    correct: int
    "Validation images that it reads right on the CPU."
    total: int
    "Number of validation images."
    max_difference: float
    "Largest difference of a probability."
    differences: list[str]
    "What differs: clauses, counts of the confusion matrix, or a probability by more than 1e-4."


def agreement(name: str, split: Split, device: torch.device, everything: bool = True) -> Agreement:
    """Audit and evaluate a network that comes with the package on the CPU and on a device.

    Both are computed in float32 without TF32. The audit watches every validation image, or without
    `everything` 64 of them.
    """
    run = open_run(pretrained()[name].folder)
    verdicts, results = [], []
    with arithmetic_of("float32"):
        for where in (torch.device("cpu"), device):
            verdict, result = audit_weights(
                run.load_model().to(where), split, run.contract, split.mean_std, everything
            )
            verdicts.append(verdict)
            results.append(result)
    ours, theirs = verdicts
    # Dropout draws other numbers on another device, so its count of activations differs.
    differences = [
        f"{one.clause}: {one.found}, on {device.type} {other.found}"
        for one, other in zip(ours.clauses, theirs.clauses, strict=True)
        if one.passed != other.passed or (one.found != other.found and one.clause != "dropout")
    ]
    here, there = results
    moved = int((here.predicted != there.predicted).sum())
    if not torch.equal(here.confusion, there.confusion):
        differences.append(f"predictions: {moved} of {here.total:,} differ")
    difference = float((here.probabilities - there.probabilities).abs().max())
    if difference > MAX_DIFFERENCE:
        differences.append(f"probabilities: differ by {difference:.2g}")
    return Agreement(name, ours.passed, here.correct, here.total, difference, differences)


def without_ghosts(recipe: Recipe) -> Recipe:
    """Return the recipe with whole batches: a GPU computes one at once."""
    return replace(recipe, ghost_batch=0)
