"""The training loop, readable top to bottom.

    run = create_run(None, recipe, contract, split, seed=0, device=device, command="")
    train(run, split, device, on_epoch=print)

Everything random in an epoch (order, augmentation, dropout) comes from (seed, epoch) alone, so a run that
was killed goes on from its last finished epoch to the same bits.
"""

import contextlib
import copy
import math
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .augment import augment
from .build import check_model, forward, unchanged
from .data import Images, Split
from .distributed import ALONE, Group
from .errors import InputError
from .evaluate import BATCH, evaluate, normalise
from .locate import describe, reason
from .model import Block
from .muon import Muon
from .quantise import quantise, quantised
from .recipe import Recipe
from .run import Row, Run
from .weights import load_weights, tensors

STATISTICS = 5000  # training images that a rounded network's batch-norm statistics are taken from


class Diverged(Exception):
    """The loss is no longer finite; the finished epochs stay in the log."""


def pick_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one, else Apple's GPU, else the CPU. ValueError where the device can't be used.

    The same seed gives other bits on another kind of device."""
    usable = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(kind for kind, is_there in usable.items() if is_there))
    kind, _, number = name.partition(":")
    if kind not in usable or (number and not number.isdecimal()):
        raise InputError(f"device {name!r}: expected cpu, cuda, mps or auto")
    if not usable[kind]:
        raise InputError(
            f"device {name!r}: PyTorch finds no {'CUDA' if kind == 'cuda' else 'Apple'} GPU here, "
            "expected cpu or auto"
        )
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {name!r}: {str(error).splitlines()[0]}") from error


@contextlib.contextmanager
def cpu_threads(number: int) -> Iterator[None]:
    """Let PyTorch use this many CPU threads inside the context."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def seed_everything(seed: int, epoch: int) -> torch.Generator:
    """Seed torch, numpy and random for one epoch (-1: the initial weights); returns a CPU generator
    for order and augmentation, apart from the one that a network's dropout draws from."""
    state = int(np.random.SeedSequence([seed, epoch + 1]).generate_state(1, np.uint64)[0])
    torch.manual_seed(state)
    random.seed(state)
    np.random.seed(state % 2**32)
    return torch.Generator().manual_seed(state ^ 1)


def resized(images: Tensor, factor: float) -> Tensor:
    """images (n, c, height, width) with sides of `factor`, rounded to pixels; bilinear with antialiasing."""
    size = [max(1, round(factor * side)) for side in images.shape[-2:]]
    return F.interpolate(images, size, mode="bilinear", antialias=True)


def check_recipe(recipe: Recipe, split: Split, model: nn.Module) -> None:
    """Try what the training will ask of the recipe's network: images and batches of every size, an evaluation, a
    step of the optimiser. ValueError unless it can do all that; the network stays as it was."""
    train, val = split.train, split.val
    images = normalise(train.pixels[:8], split.mean_std)
    check_model(model, images, split.num_classes)
    if recipe.resize_until:
        check_model(model, resized(images, recipe.resize), split.num_classes)
    if recipe.weight_bits and not any(isinstance(module, Block) for module in model.modules()):
        raise InputError(
            f"weight_bits: got {recipe.weight_bits} for {recipe.model}, expected a Feather, or 0"
        )
    for name, parameter in model.named_parameters():
        if parameter.is_complex():
            raise InputError(
                f"model {describe(model)}: got a complex parameter, {name}, expected real ones; "
                "hint: keep torch.view_as_real of it, and use torch.view_as_complex in forward"
            )
    # The last batch of an evaluation may be of one image, on which x.squeeze() takes away more than was meant.
    steps = math.ceil(len(train) / recipe.batch_size)
    for mode, sizes in (
        (True, {len(train) // steps, math.ceil(len(train) / steps)}),
        (False, {min(BATCH, len(val)), len(val) % BATCH or BATCH}),
    ):
        for size in sizes:
            pixels = train.pixels[:size] if mode else val.pixels[:size]
            check_model(model, normalise(pixels, split.mean_std), split.num_classes, (mode,))
    if recipe.ema:
        try:
            copy.deepcopy(model)
        except Exception as error:
            raise InputError(
                f"model {describe(model)} can't be copied, for the moving average of {recipe.name}: "
                f"{reason(error)}; hint: a recipe without ema, such as baseline"
            ) from error
    few = Images(train.pixels[: recipe.batch_size], train.labels[: recipe.batch_size])
    with unchanged(model):
        try:
            next(
                Trainer(recipe, model, few, split.mean_std).steps(
                    0, torch.Generator().manual_seed(0)
                )
            )
        except InputError:
            raise
        except Exception as error:  # no gradient, or one that the optimiser does not take
            raise InputError(
                f"model {describe(model)} can't be trained: {reason(error)}"
            ) from error


class Trainer:
    """A network in training: weights, their average, optimiser, and the steps of an epoch."""

    def __init__(
        self,
        recipe: Recipe,
        model: nn.Module,
        train: Images,
        mean_std: tuple[float, float],
        group: Group = ALONE,
    ) -> None:
        self.recipe, self.model, self.train, self.mean_std, self.group = (
            recipe,
            model,
            train,
            mean_std,
            group,
        )
        if (
            train.pixels.device.type == "mps"
        ):  # where batch norm's gradient fails in channels last (pytorch#188371)
            model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self.averaged = copy.deepcopy(model) if recipe.ema else model
        parameters = [p for p in model.parameters() if p.requires_grad]
        if not parameters:
            raise InputError("the model has no trainable parameter, expected at least one")
        convolutions = [p for p in parameters if p.ndim == 4 and recipe.muon]
        rest = [p for p in parameters if not (p.ndim == 4 and recipe.muon)]
        self.optimizers: dict[
            str, tuple[torch.optim.Optimizer, float]
        ] = {}  # and their rate as a factor of lr
        if convolutions:
            self.optimizers["muon"] = Muon(convolutions, recipe.lr, recipe.momentum), recipe.muon
        if rest:
            self.optimizers["sgd"] = (
                torch.optim.SGD(
                    [
                        {
                            "params": [p for p in rest if p.ndim > 1],
                            "weight_decay": recipe.weight_decay,
                        },
                        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
                    ],
                    lr=recipe.lr,
                    momentum=recipe.momentum,
                    nesterov=recipe.nesterov,
                    fused=True,
                ),
                1.0,
            )
        self.lr = recipe.lr
        # Tensors keep their place while they are trained, so they are listed once.
        pairs = list(zip(_state(self.averaged), _state(model), strict=True))
        floats = [pair for pair in pairs if pair[0].is_floating_point()]
        self._averages = [mean for mean, _ in floats], [value for _, value in floats]
        self._counts = [pair for pair in pairs if not pair[0].is_floating_point()]
        self.steps_per_epoch = math.ceil(len(train) / recipe.batch_size)

    def steps(self, epoch: int, generator: torch.Generator) -> Iterator[Tensor]:
        """One epoch, each image once; yields the mean loss of every batch, still on the device."""
        recipe, device = self.recipe, self.train.pixels.device
        self.model.train()
        order = torch.randperm(len(self.train), generator=generator).to(device)
        n_steps = recipe.epochs * self.steps_per_epoch
        for i, batch in enumerate(order.tensor_split(self.steps_per_epoch)):
            step = epoch * self.steps_per_epoch + i
            self.lr = recipe.lr_at(step, n_steps)
            for optimizer, factor in self.optimizers.values():
                for group in optimizer.param_groups:
                    group["lr"] = self.lr * factor
            part = self.group.part(len(batch))  # all of it for one process
            mine = batch[part]
            images = self.train.pixels[mine].float() / 255  # (b, 1, h, w)
            images = augment(images, recipe.augmentation, generator, len(batch), part)
            if step < recipe.resize_until * n_steps:
                images = resized(images, recipe.resize)
            rounded = recipe.weight_bits and step >= recipe.quantise_from * n_steps
            with quantised(self.model, recipe.weight_bits) if rounded else contextlib.nullcontext():
                # A network may return logits or log-probabilities: cross-entropy is the same for both.
                with self.group.whole_batch(len(batch), part):
                    answers = forward(self.model, normalise(images * 255, self.mean_std))
                loss = F.cross_entropy(
                    answers, self.train.labels[mine], label_smoothing=recipe.label_smoothing
                )
                loss = loss * (len(mine) / len(batch))
                self.model.zero_grad()
                loss.backward()
            loss = self.group.add_up(loss.detach(), self.model.parameters())
            for optimizer, _ in self.optimizers.values():
                _start_late(optimizer)
                optimizer.step()
            self.average(step)
            yield loss

    @torch.no_grad()
    def average(self, step: int) -> None:
        """Move the average one step towards the weights and batch-norm buffers."""
        if self.averaged is self.model:
            return
        # A shorter memory at first, so that the initial weights are soon forgotten.
        decay = min(self.recipe.ema, (1 + step) / (10 + step))
        torch._foreach_lerp_(*self._averages, 1 - decay)
        for mean, count in self._counts:
            mean.copy_(count)

    @torch.no_grad()
    def result(self) -> nn.Module:
        """What the training has come to: the averaged network; where the recipe says so its weights rounded, and
        then its batch-norm statistics taken anew, which were those of other rounded weights."""
        if not self.recipe.weight_bits:
            return self.averaged
        result = copy.deepcopy(self.averaged).train()
        quantise(result, self.recipe.weight_bits)
        for norm in (module for module in result.modules() if isinstance(module, nn.BatchNorm2d)):
            norm.reset_running_stats()
            norm.momentum = None  # the mean over all batches
        for batch in self.train.pixels[:STATISTICS].split(BATCH):
            result(normalise(batch, self.mean_std))
        return result

    def state(self) -> dict[str, Any]:
        return {
            "model": tensors(self.model),
            "averaged": tensors(self.averaged),
            "optimizers": {
                name: optimizer.state_dict() for name, (optimizer, _) in self.optimizers.items()
            },
        }

    def load_state(self, state: dict[str, Any]) -> None:
        load_weights(self.model, state["model"])
        load_weights(self.averaged, state.get("unrounded", state["averaged"]))
        for name, (optimizer, _) in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])


def _start_late(optimizer: torch.optim.Optimizer) -> None:
    """Give parameters that had no gradient until now a momentum of zero, once others have one: fused SGD takes
    a momentum for all or for none."""
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


def _state(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def train(
    run: Run,
    split: Split,
    device: torch.device,
    on_epoch: Callable[[Row], None] = lambda row: None,
    on_batch: Callable[[int, int, int, float], None] = lambda epoch, step, n_steps, loss: None,
    group: Group = ALONE,
) -> None:
    """Train the run's recipe to its last epoch, from its last finished one if it has any.

    Of a group of processes each is called with its own `group`; the first one alone evaluates, reads and writes the
    run's folder, and is told. The steps take as many CPU threads as the run says, so that a resumed run has the same
    bits; the evaluation after each epoch, of a few large batches, takes all that this process may use.

    `on_batch(epoch, step, steps an epoch, loss)` and `on_epoch(row of metrics.jsonl)` are told how it goes.
    Raises Diverged; ValueError where the network can't be built or used; OSError where the disk fails.
    """
    recipe, images, val = run.recipe, split.train.to(device), split.val.to(device)
    threads = group.share(run.environment["threads"] if group.leads else None)
    assert threads is not None  # the leading process has read it
    seed_everything(run.seed, -1)
    model = run.build_model()
    check_recipe(recipe, split, model)
    model.to(device)
    trainer = Trainer(recipe, model, images, split.mean_std, group)
    rows: list[Row] = []
    if state := group.share(run.load_resume() if group.leads else None):
        trainer.load_state(state)
        rows = state["rows"]
        if group.leads:
            run.write_metrics(rows)

    for epoch in range(len(rows), recipe.epochs):
        started = time.perf_counter()
        generator = seed_everything(run.seed, epoch)
        total = torch.zeros((), device=device)
        with cpu_threads(threads):
            for step, loss in enumerate(trainer.steps(epoch, generator), 1):
                total += loss
                if (
                    step % 10 == 0 or step == trainer.steps_per_epoch
                ):  # reading the loss waits for the device
                    if not math.isfinite(value := loss.item()):
                        raise Diverged(
                            f"the loss became {value} in epoch {epoch + 1}, by step {step}"
                        )
                    on_batch(epoch + 1, step, trainer.steps_per_epoch, value)
            seconds = time.perf_counter() - started
            if not group.leads:
                continue
            network = trainer.result()
        result = evaluate(network, val, split.mean_std)
        train_loss = total.item() / trainer.steps_per_epoch
        if not (math.isfinite(train_loss) and math.isfinite(result.loss)):
            raise Diverged(
                f"epoch {epoch + 1} ended with train loss {train_loss} and val loss {result.loss}"
            )
        rows.append(
            {
                "epoch": epoch + 1,
                "seconds": round(seconds, 3),
                "lr": trainer.lr,
                "train_loss": train_loss,
                "val_loss": result.loss,
                "val_correct": result.correct,
                "val_total": result.total,
            }
        )
        # The audit of a contract on several last epochs evaluates each of them anew.
        if recipe.epochs - run.contract.consistent_epochs <= epoch < recipe.epochs - 1:
            run.save_weights(tensors(network), f"epoch-{epoch + 1}.safetensors")
        state = trainer.state() | {"epoch": epoch + 1, "rows": rows}
        if recipe.weight_bits:  # what is evaluated is what an audit compares with
            state |= {"averaged": tensors(network), "unrounded": state["averaged"]}
        run.save_resume(state)
        run.write_metrics(rows)
        on_epoch(rows[-1])
    if group.leads and not run.complete:
        with cpu_threads(threads):
            run.save_weights(tensors(trainer.result()))
