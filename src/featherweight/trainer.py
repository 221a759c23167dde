"""A network in training, and one step of it.

trainer = Trainer(recipe, model, split.train, split.mean_std)
losses = list(trainer.steps(0, torch.Generator().manual_seed(1)))     # each image once
result = trainer.evaluate(trainer.evaluated_network(), split.val, split.num_classes)
"""

import contextlib
import copy
import math
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .augment import Draws, augment, draw, resized
from .build import forward
from .data import Images, normalise, synthetic_images
from .device import cpu_threads, seed_ghost
from .distil import distillation_loss
from .distributed import SINGLE_PROCESS, GhostBatches, Group
from .errors import InputError
from .evaluate import EVAL_BATCH_SIZE, Evaluation, evaluate, log_probabilities
from .muon import Muon
from .quantise import quantise, quantised
from .recipe import SYNTHETIC_EDITION, Recipe
from .synthetic import NO_DIGIT, SEED, SIDE
from .weights import load_weights, tensors

# Training images, and images per batch, from which the batch-norm statistics of a quantised network
# are re-estimated. Both decide the bits of its weights file.
N_STATISTICS_IMAGES = 5000
STATISTICS_BATCH_SIZE = 500


class Trainer:
    """A network in training: its weights, their EMA, the optimisers, and the steps of an epoch.

    Args:
        recipe: The hyper-parameters.
        model: The network, on the device of `train`.
        train: The training images.
        mean_std: Mean and standard deviation to normalise the images with, of pixels in [0, 1].
        group: The processes that train together.
        teacher: The network that the recipe names as its teacher, on the same device.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: nn.Module,
        train: Images,
        mean_std: tuple[float, float],
        group: Group = SINGLE_PROCESS,
        teacher: nn.Module | None = None,
    ) -> None:
        self.recipe, self.model, self.teacher = recipe, model, teacher
        self.train = add_synthetic(train, recipe)
        self.mean_std, self.group = mean_std, group
        if train.pixels.device.type == "mps":
            # Batch norm's gradient fails there in channels-last memory (pytorch#188371).
            model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self.ema = copy.deepcopy(model) if recipe.ema else model  # without EMA the model itself
        self.optimizers = optimizers(recipe, model)
        self.lr = recipe.lr
        self.ghosts: GhostBatches | None = None  # without them a step is one forward pass
        if recipe.n_ghosts > 1 or group.size > 1:
            self.ghosts = GhostBatches(model, recipe.n_ghosts, group)
        self._scores: Tensor | None = None  # log-probabilities (n, classes) of an evaluation
        # Tensors stay the same objects throughout training, so they are listed once.
        pairs = list(
            zip(_parameters_and_buffers(self.ema), _parameters_and_buffers(model), strict=True)
        )
        floats = [pair for pair in pairs if pair[0].is_floating_point()]
        self.float_pairs = [mean for mean, _ in floats], [value for _, value in floats]
        self.integer_pairs = [pair for pair in pairs if not pair[0].is_floating_point()]
        self.steps_per_epoch = math.ceil(len(self.train) / recipe.batch_size)

    def steps(self, epoch: int, generator: torch.Generator) -> Iterator[Tensor]:
        """Train for one epoch, each image once, and yield the mean loss of every batch.

        The losses are tensors on the device. `generator` draws the
        order of the images and their augmentation, and its seed seeds the ghost batches.
        """
        self.model.train()
        order = torch.randperm(len(self.train), generator=generator).to(self.train.labels.device)
        for i, batch in enumerate(order.tensor_split(self.steps_per_epoch)):
            yield self.step(epoch * self.steps_per_epoch + i, batch, generator)

    def step(self, step: int, batch: Tensor, generator: torch.Generator) -> Tensor:
        """Train on one batch, indices (b,) of training images, and return its mean loss."""
        recipe, n_steps = self.recipe, self.recipe.epochs * self.steps_per_epoch
        self.lr = recipe.lr_at(step, n_steps)
        self.set_lr(self.lr)
        # The draws of the whole batch, so that they don't depend on who computes which part.
        draws = draw(recipe.augmentation, len(batch), generator)
        size = self.size_at(step)
        quantising = recipe.weight_bits and step >= recipe.quantise_from * n_steps
        with quantised(self.model, recipe.weight_bits) if quantising else contextlib.nullcontext():
            if self.ghosts is None:
                self.model.zero_grad()
                loss = self.backward(batch, draws, size)
            else:
                seed = generator.initial_seed() + step % self.steps_per_epoch * recipe.n_ghosts
                loss = self.sum_ghosts(self.ghosts, batch, draws, size, seed)
        self.optimise()
        self.update_ema(step)
        return loss

    def size_at(self, step: int) -> float:
        """Return the scale of the images in a step."""
        n_steps = self.recipe.epochs * self.steps_per_epoch
        return self.recipe.resize if step < self.recipe.resize_until * n_steps else 1.0

    def set_lr(self, lr: float | Tensor) -> None:
        """Set the recipe's learning rate, in a CUDA graph as a tensor of no dimension."""
        for optimizer, factor in self.optimizers.values():
            for parameters in optimizer.param_groups:
                parameters["lr"] = lr * factor

    def optimise(self) -> None:
        """Take a step of every optimiser, with the gradients that are in place."""
        for optimizer, _ in self.optimizers.values():
            _add_missing_momentum(optimizer)
            optimizer.step()

    def backward(
        self, indices: Tensor, draws: Draws, size: float = 1.0, weight: float = 1.0
    ) -> Tensor:
        """Add the gradients of training images, indices (b,), and return their loss, both weighted.

        `size` is the scale of the images.
        """
        images = self.train.pixels[indices].float() / 255  # (b, c, h, w) in [0, 1]
        images = augment(images, self.recipe.augmentation, draws, self.mean_std[0])
        if size < 1:
            images = resized(images, size)  # (b, c, smaller h, smaller w)
        images = normalise(images * 255, self.mean_std)
        outputs = forward(self.model, images)  # (b, classes)
        # A network may return logits or log-probabilities: cross-entropy is the same for both.
        if self.teacher is None:
            targets = self.train.labels[indices]
            if self.recipe.synthetic:
                targets = probabilities(targets, outputs.shape[1])
            loss = F.cross_entropy(outputs, targets, label_smoothing=self.recipe.label_smoothing)
        else:
            loss = distillation_loss(outputs, self.teacher(images), self.recipe.temperature)
        loss = loss * weight
        loss.backward()
        return loss.detach()

    def sum_ghosts(
        self, ghosts: GhostBatches, batch: Tensor, draws: Draws, size: float, seed: int
    ) -> Tensor:
        """Compute this process's ghost batches; return the loss of the whole batch.

        The draws inside the network are seeded with `seed` and the number of the ghost batch.

        Gradients and batch-norm statistics are then the whole batch's, in every process.
        """
        parts = batch.tensor_split(self.recipe.n_ghosts)
        weights = [len(part) / len(batch) for part in parts]
        ends = list(accumulate(len(part) for part in parts))
        ghosts.begin()
        for number in self.group.share(len(parts)):
            part, end = parts[number], ends[number]
            seed_ghost(seed + number, batch.device)
            ghosts.restore()
            own = draws.of(slice(end - len(part), end))
            ghosts.put(number, self.backward(part, own, size, weights[number]))
        return ghosts.sum(weights)

    @torch.no_grad()
    def update_ema(self, step: int) -> None:
        """Move the EMA one step towards the weights and batch-norm buffers."""
        if self.ema is self.model:
            return
        torch._foreach_lerp_(*self.float_pairs, self.ema_weight(step))
        for mean, count in self.integer_pairs:
            mean.copy_(count)

    def ema_weight(self, step: int) -> float:
        """Return the weight that the EMA gives to the values after a step."""
        # A smaller decay in the first steps, so that the initial weights are soon forgotten.
        return 1 - min(self.recipe.ema, (1 + step) / (10 + step))

    @torch.no_grad()
    def evaluated_network(self) -> nn.Module:
        """Return the network to evaluate: the EMA, or the model if the recipe has none.

        For a quantised recipe, return a copy with quantised weights and batch-norm statistics
        re-estimated on training images: the EMA's statistics belong to other quantised weights.
        """
        if not self.recipe.weight_bits:
            return self.ema
        network = copy.deepcopy(self.ema).train()
        quantise(network, self.recipe.weight_bits)
        for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
            norm.reset_running_stats()
            norm.momentum = None  # the mean over all batches
        for batch in self.train.pixels[:N_STATISTICS_IMAGES].split(STATISTICS_BATCH_SIZE):
            network(normalise(batch, self.mean_std))
        return network

    def evaluate(self, network: nn.Module, images: Images, num_classes: int) -> Evaluation:
        """Evaluate a network on every image, in every process of the group.

        With ghost batches each process computes some of the batches of an evaluation, on one
        thread, as it does in training; without them this process uses all of its threads.
        """
        if self.ghosts is None:
            return evaluate(network, images, self.mean_std)
        if self._scores is None:
            n_bytes = torch.float32.itemsize * len(images) * num_classes
            memory = self.group.memory(n_bytes, images.pixels.device)
            self._scores = memory.view(torch.float32).view(len(images), num_classes)
        slots = self._scores.split(EVAL_BATCH_SIZE)
        batches = images.pixels.split(EVAL_BATCH_SIZE)
        with cpu_threads(1):
            for number in self.group.share(len(batches)):
                slots[number].copy_(log_probabilities(network, batches[number], self.mean_std))
        self.group.meet(slots)
        return Evaluation.of(self._scores, images.labels)

    def state(self) -> dict[str, Any]:
        """Return what is needed to resume: model, EMA (both of floats) and optimisers."""
        return {
            "model": tensors(self.model),
            "ema": tensors(self.ema),
            "optimizers": {
                name: optimizer.state_dict() for name, (optimizer, _) in self.optimizers.items()
            },
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Load what `state` returned.

        Early runs have no key `ema`: they keep the EMA as `unrounded` if the recipe is quantised,
        with the evaluated network as `averaged`, and else as `averaged`.
        """
        load_weights(self.model, state["model"])
        old_key = "unrounded" if "unrounded" in state else "averaged"
        load_weights(self.ema, state["ema" if "ema" in state else old_key])
        for name, (optimizer, _) in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])


def add_synthetic(train: Images, recipe: Recipe) -> Images:
    """Return training images with the recipe's synthetic ones behind them, on the same device.

    They are the same in every run. Raises InputError if the others are not like MNIST's, or if the
    recipe is of an earlier edition of the synthetic images.
    """
    if not recipe.synthetic:
        return train
    if recipe.synthetic_edition != SYNTHETIC_EDITION:
        raise InputError(
            f"synthetic_edition: got {recipe.synthetic_edition}, expected {SYNTHETIC_EDITION}: the "
            "synthetic images of earlier editions can no longer be drawn",
            hint="train with the Featherweight that the run was made with, or train anew",
        )
    shape = tuple(train.pixels.shape[1:])
    if shape != (1, SIDE, SIDE) or train.labels.max() > 9:
        raise InputError(
            f"synthetic: got images {shape} of {int(train.labels.max()) + 1} classes to add to, "
            f"expected digits, (1, {SIDE}, {SIDE})",
            hint="use a recipe without synthetic images, such as feather-20k",
        )
    n = recipe.n_synthetic(len(train))
    made = synthetic_images(n, SEED).to(train.pixels.device)
    return Images(torch.cat([train.pixels, made.pixels]), torch.cat([train.labels, made.labels]))


def probabilities(labels: Tensor, num_classes: int) -> Tensor:
    """Return what the network is to say of labels (n,): probabilities (n, num_classes).

    No class is more probable than another where there is no digit, so that the largest probability
    tells the two apart (outlier exposure, Hendrycks et al. 2019).
    """
    known = F.one_hot(labels.clamp(min=0), num_classes).float()
    return torch.where((labels == NO_DIGIT)[:, None], 1 / num_classes, known)


def optimizers(
    recipe: Recipe, model: nn.Module, stacked: bool = False
) -> dict[str, tuple[torch.optim.Optimizer, float]]:
    """Return the optimisers by name, each with its learning rate as a multiple of the recipe's.

    With `stacked`, the first dimension of every parameter numbers networks that train side by side.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise InputError("the model has no trainable parameter, expected at least one")
    weights = [p for p in parameters if p.ndim - stacked == 4] if recipe.muon else []
    if not recipe.muon_depthwise:
        # By shape: a network may be graphs without modules. The first layer sees the image's one
        # channel, but mixes its pixels.
        weights = [p for i, p in enumerate(weights) if i == 0 or p.shape[1 + stacked] > 1]
    muon = {id(p) for p in weights}
    rest = [p for p in parameters if id(p) not in muon]
    found: dict[str, tuple[torch.optim.Optimizer, float]] = {}
    if weights:
        found["muon"] = Muon(weights, recipe.lr, recipe.momentum, stacked), recipe.muon
    if rest:
        # Biases and batch-norm parameters, of one dimension, don't decay.
        matrices = [p for p in rest if p.ndim - stacked > 1]
        vectors = [p for p in rest if p.ndim - stacked <= 1]
        groups = [
            {"params": matrices, "weight_decay": recipe.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        lr, beta = recipe.lr, recipe.momentum
        if recipe.optimiser == "adam":
            found["adam"] = torch.optim.Adam(groups, lr, betas=(beta, 0.999), fused=True), 1.0
        else:
            sgd = torch.optim.SGD(groups, lr, beta, nesterov=recipe.nesterov, fused=True)
            found["sgd"] = sgd, 1.0
    return found


def _add_missing_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Give parameters whose first gradient comes late a momentum of zero.

    Fused SGD needs a momentum buffer for all parameters or for none.
    """
    if optimizer.state and "momentum" in optimizer.defaults:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if (
                    group["momentum"]
                    and group.get("fused")
                    and parameter.grad is not None
                    and not optimizer.state[parameter]
                ):
                    optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def _parameters_and_buffers(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()
