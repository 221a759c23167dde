"""Measure training on a CUDA GPU: CUDA graphs, stacked replicas, and agreement with the CPU.

Example:
    recipe = find_recipe("sprint")
    trained = train_by_graphs(recipe, split, device, seeds=range(10), arithmetic="tf32")
    trained.seconds, trained.correct                  # of each seed, without the warm-up
    train_stacked(find_recipe("feather-20k"), split, device, seeds=range(10))   # all at once
    agreement("feather-20k", split, device).differences     # [] if CPU and GPU judge alike

A step of a small network is some hundred kernels of a few microseconds, which Python starts too
slowly. A CUDA graph holds them all, so that one call starts a whole step. Everything that changes
from step to step (order, draws, learning rate) is sent once an epoch and lies at fixed addresses.

Every function works on the CPU too, where steps are computed without graphs: tests compare them
with `Trainer`.
"""

import contextlib
import copy
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..audit import audit_weights
from ..augment import Draws, draw
from ..build import build
from ..data import Images, Split
from ..device import seed_everything
from ..errors import InputError
from ..evaluate import Evaluation, evaluate
from ..model import Feather
from ..pretrained import pretrained
from ..recipe import Recipe
from ..run import open_run
from ..trainer import Trainer, optimizers
from .training import matmul_peak, timed

# float32: IEEE arithmetic. tf32: products and convolutions of float32 numbers round their factors
# to 11 bits. bf16: the forward pass under autocast, the weights stay float32.
Arithmetic = Literal["float32", "tf32", "bf16"]
ARITHMETICS: tuple[Arithmetic, ...] = ("float32", "tf32", "bf16")
N_WARM_UP = 3  # steps before a capture: they choose kernels and create the optimisers' state
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


class _Convolutions(nn.Module):
    """Convolutions side by side: (n, replicas * c, h, w) -> (n, replicas * width, h', w')."""

    def __init__(self, layers: Sequence[nn.Conv2d]) -> None:
        super().__init__()
        self.weight = _stacked([layer.weight for layer in layers])  # (replicas, width, c, k, k)
        one = layers[0]
        self._options = one.stride, one.padding, one.dilation, len(layers) * one.groups

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight.flatten(0, 1), None, *self._options)  # type: ignore[arg-type]


class _BatchNorms(nn.Module):
    """Batch norms side by side, each of its own channels of (n, replicas * c, h, w)."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, layers: Sequence[nn.BatchNorm2d]) -> None:
        super().__init__()
        self.weight = _stacked([layer.weight for layer in layers])  # (replicas, c)
        self.bias = _stacked([layer.bias for layer in layers])
        for name, _ in layers[0].named_buffers():
            self.register_buffer(name, torch.stack([getattr(layer, name) for layer in layers]))
        self._momentum, self._eps = layers[0].momentum, layers[0].eps

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.num_batches_tracked.add_(1)
        mean, variance, weight, bias = (
            values.flatten()
            for values in (self.running_mean, self.running_var, self.weight, self.bias)
        )
        return F.batch_norm(
            x, mean, variance, weight, bias, self.training, self._momentum or 0.0, self._eps
        )


class _Linears(nn.Module):
    """Linear layers side by side: (n, replicas * c) -> (n, replicas * width)."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.weight = _stacked([layer.weight for layer in layers])  # (replicas, width, c)
        self.bias = _stacked([layer.bias for layer in layers])

    def forward(self, x: Tensor) -> Tensor:
        each = x.unflatten(1, (len(self.weight), -1)).transpose(0, 1)  # (replicas, n, c)
        out = torch.baddbmm(self.bias[:, None], each, self.weight.mT)  # (replicas, n, width)
        return out.transpose(0, 1).flatten(1)


def _stacked(values: Sequence[Tensor]) -> nn.Parameter:
    return nn.Parameter(torch.stack([value.detach() for value in values]).contiguous())


_SIDE_BY_SIDE: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: _Convolutions,
    nn.BatchNorm2d: _BatchNorms,
    nn.Linear: _Linears,
}


class Replicas(nn.Module):
    """Feather networks of one kind that compute side by side, each on its own images.

    Maps images (replicas * n, 1, height, width), those of the first replica first, to outputs
    (replicas * n, classes). Convolutions are grouped, so that a layer of all networks is one
    operation. Parameters and buffers have the names of the network's, and one more dimension in
    front.

    Args:
        models: The networks, on one device.

    Raises InputError for networks of another class.
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        if type(models[0]) is not Feather:
            raise InputError(f"got {type(models[0]).__name__} side by side, expected Feather")
        self.n = len(models)
        self.all = copy.deepcopy(models[0])
        self._one = [copy.deepcopy(models[0])]  # in a list: its weights are not this module's
        for name, layer in list(self.all.named_modules()):
            if kind := _SIDE_BY_SIDE.get(type(layer)):
                layers = kind([model.get_submodule(name) for model in models])
                parent, _, last = name.rpartition(".")
                setattr(self.all.get_submodule(parent), last, layers)

    def forward(self, images: Tensor) -> Tensor:
        """Return outputs (replicas * n, classes)."""
        # A replica's images are its channel: (n, replicas, height, width).
        side_by_side = images.unflatten(0, (self.n, -1))[:, :, 0].transpose(0, 1)
        outputs: Tensor = self.all(side_by_side.contiguous())  # (n, replicas * classes)
        each: Tensor = outputs.unflatten(1, (self.n, -1)).transpose(0, 1)
        return each.flatten(0, 1)

    def unstack(self) -> Iterator[nn.Module]:
        """Yield a copy of each network."""
        state = self.all.state_dict()
        for number in range(self.n):
            model = copy.deepcopy(self._one[0])
            model.load_state_dict({name: tensor[number] for name, tensor in state.items()})
            yield model


class Feed:
    """What the steps of an epoch need, on the device, at addresses that stay the same.

    `at`, shape (1,), is the number of the next step, which the steps themselves count up.

    Args:
        recipe: The hyper-parameters.
        n_images: Number of training images.
        n_replicas: Number of networks that train side by side, each in its own order.
        device: Where they train.
    """

    def __init__(
        self, recipe: Recipe, n_images: int, n_replicas: int, device: torch.device
    ) -> None:
        self._strengths, self._n_images = recipe.augmentation, n_images
        n_steps = math.ceil(n_images / recipe.batch_size)
        self.lengths = [len(part) for part in torch.arange(n_images).tensor_split(n_steps)]
        shape, largest = (n_steps, n_replicas), self.lengths[0]
        self._orders = torch.zeros(*shape, largest, dtype=torch.int64)
        self._uniform = torch.zeros(*shape, 8, largest)  # as in `Draws`
        self._schedule = torch.zeros(n_steps, 2)  # learning rate, weight of the EMA
        self.at = torch.zeros(1, dtype=torch.int64, device=device)
        self.orders = self._orders.to(device, copy=True)
        self.uniform = self._uniform.to(device, copy=True)
        self.schedule = self._schedule.to(device, copy=True)

    def draw(self, epoch: int, seeds: Sequence[int], schedule: list[tuple[float, float]]) -> None:
        """Draw an epoch of each seed on the CPU, as `Trainer` does; the device may be busy."""
        for replica, seed in enumerate(seeds):
            generator = seed_everything(seed, epoch)
            order = torch.randperm(self._n_images, generator=generator)
            for step, batch in enumerate(order.tensor_split(len(self.lengths))):
                draws = draw(self._strengths, len(batch), generator)
                self._orders[step, replica, : len(batch)] = batch
                self._uniform[step, replica, :, : len(batch)] = draws.uniform
        self._schedule.copy_(torch.tensor(schedule))

    def send(self) -> None:
        """Wait for the device, send what was drawn, and start with the first step."""
        self.orders.copy_(self._orders)
        self.uniform.copy_(self._uniform)
        self.schedule.copy_(self._schedule)
        self.at.zero_()

    def next(self, length: int) -> tuple[Tensor, Draws, Tensor, Tensor]:
        """Return the next step's images (replicas * length,), draws, learning rate, EMA weight."""
        order = self.orders.index_select(0, self.at)[0, :, :length]
        uniform = self.uniform.index_select(0, self.at)[0, :, :, :length]
        lr, ema_weight = self.schedule.index_select(0, self.at)[0].unbind()
        self.at += 1
        return order.flatten(), Draws(uniform.transpose(0, 1).flatten(1)), lr, ema_weight


class GraphTrainer(Trainer):
    """A trainer whose steps are CUDA graphs; on the CPU the same steps are computed directly.

    Args:
        recipe: The hyper-parameters.
        model: The network, or `Replicas` of it, on the device of `train`.
        train: The training images.
        mean_std: Mean and standard deviation to normalise the images with, of pixels in [0, 1].
        bf16: Whether to compute forward passes under autocast.

    Raises InputError for a recipe with ghost batches, quantised weights or elastic deformation.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: nn.Module,
        train: Images,
        mean_std: tuple[float, float],
        bf16: bool = False,
    ) -> None:
        if recipe.n_ghosts > 1 or recipe.weight_bits or recipe.augmentation.elastic:
            raise InputError(
                f"{recipe.name}: got ghost batches, quantised weights or elastic deformation, "
                "expected a recipe without, for CUDA graphs"
            )
        super().__init__(recipe, model, train, mean_std)
        self.n_replicas = 1
        if isinstance(model, Replicas):
            self.n_replicas = model.n
            self.optimizers = optimizers(recipe, model, stacked=True)
        self.bf16, self.device = bf16, train.labels.device
        self.feed = Feed(recipe, len(train), self.n_replicas, self.device)
        n_steps = recipe.epochs * self.steps_per_epoch
        self._kinds = [
            (self.feed.lengths[step % self.steps_per_epoch], self.size_at(step))
            for step in range(n_steps)
        ]
        # By batch length and image size: the steps, each of which returns its loss.
        self._steps: dict[tuple[int, float], Callable[[], Tensor]] = {
            kind: partial(self.compute, *kind) for kind in self._kinds
        }

    def compute(self, length: int, size: float) -> Tensor:
        """Train on the feed's next batch and return its loss, summed over the replicas.

        Queues work on the device, but waits for nothing and reads nothing from the CPU."""
        batch, draws, lr, ema_weight = self.feed.next(length)
        self.set_lr(lr)
        self.model.zero_grad()
        # A graph can't hold autocast's cache.
        autocast = partial(torch.autocast, self.device.type, torch.bfloat16, cache_enabled=False)
        with autocast() if self.bf16 else contextlib.nullcontext():
            # The mean over all images, times the replicas, is the sum of the replicas' means.
            loss = self.backward(batch, draws, size, self.n_replicas)
        self.optimise()
        self._move_ema(ema_weight)
        return loss

    @torch.no_grad()
    def _move_ema(self, weight: Tensor) -> None:
        if self.ema is self.model:
            return
        means, values = self.float_pairs
        steps = torch._foreach_sub(values, means)
        torch._foreach_mul_(steps, weight)
        torch._foreach_add_(means, steps)
        if self.integer_pairs:
            counts = [mean for mean, _ in self.integer_pairs]
            torch._foreach_copy_(counts, [value for _, value in self.integer_pairs])

    def capture(self) -> None:
        """Capture a graph of every kind of step. This trains a little: call `reset` afterwards."""
        if self.device.type != "cuda":
            return
        self.model.train()
        self._draw(0, range(self.n_replicas))
        for kind in self._steps:
            self.feed.send()
            self._steps[kind] = captured(partial(self.compute, *kind))

    @torch.no_grad()
    def reset(self, model: nn.Module) -> None:
        """Copy the initial weights of another network like this one, and forget all momenta."""
        values = [*model.parameters(), *model.buffers()]
        for own in (self.model, self.ema):
            for place, value in zip([*own.parameters(), *own.buffers()], values, strict=True):
                place.copy_(value)
        for optimizer, _ in self.optimizers.values():
            for state in optimizer.state.values():
                for tensor in state.values():
                    tensor.zero_()

    def _draw(self, epoch: int, seeds: Sequence[int]) -> None:
        n_steps = self.recipe.epochs * self.steps_per_epoch
        first = epoch * self.steps_per_epoch
        schedule = [
            (self.recipe.lr_at(step, n_steps), self.ema_weight(step))
            for step in range(first, first + self.steps_per_epoch)
        ]
        self.feed.draw(epoch, seeds, schedule)

    def train_all(self, seeds: Sequence[int]) -> None:
        """Train for all epochs, with the order and the draws of one seed for each replica."""
        self.model.train()
        for epoch in range(self.recipe.epochs):
            self._draw(epoch, seeds)
            self.feed.send()
            first = epoch * self.steps_per_epoch
            for kind in self._kinds[first : first + self.steps_per_epoch]:
                self._steps[kind]()


def captured(work: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Return a function that does `work` by a CUDA graph and returns the same tensor each time."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(N_WARM_UP):
            work()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = work()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay


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
from featherweight.data import load_split
from featherweight.device import pick_device
from featherweight.recipe import find_recipe
recipe = replace(find_recipe("sprint"), ghost_batch=0)
contract = load_contract(recipe.contract)
split = load_split(None, contract.train_size, contract.val_size)
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
