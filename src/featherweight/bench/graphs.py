"""Training by CUDA graphs.

Example:
    trainer = GraphTrainer(recipe, model, split.train, split.mean_std)      # on a CUDA device
    trainer.capture()
    trainer.reset(model)                                                    # its initial weights
    trainer.train_all(seeds=[0])

A step of a small network is some hundred kernels of a few microseconds, which Python starts too
slowly. A CUDA graph holds them all, so that one call starts a whole step. Everything that changes
from step to step (order, draws, learning rate) is sent once an epoch and lies at fixed addresses.
"""

import contextlib
import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from ..augment import Draws, draw
from ..data import Images
from ..device import seed_everything
from ..errors import InputError
from ..recipe import Recipe
from ..trainer import Trainer, optimizers
from .replicas import Replicas

N_WARM_UP = 3  # steps before a capture: they choose kernels and create the optimisers' state


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

    Raises InputError for a recipe with ghost batches, quantised weights, a teacher, or changes to
    images that draw more than eight numbers each.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: nn.Module,
        train: Images,
        mean_std: tuple[float, float],
        bf16: bool = False,
    ) -> None:
        changes = recipe.augmentation
        more = changes.elastic or changes.crop or changes.flip or changes.cutout
        if recipe.n_ghosts > 1 or recipe.weight_bits or recipe.teacher or more:
            raise InputError(
                f"{recipe.name}: got ghost batches, quantised weights, a teacher, elastic "
                "deformation, crop, flip or cutout, expected a recipe without, for CUDA graphs"
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
