"""Train a network. `train` is the loop, from top to bottom; `Trainer.step` is one step of it.

    run = create_run(None, recipe, contract, split, seed=0, device=device, command="")
    train(run, split, device, on_epoch=print)

All randomness of an epoch (order, augmentation, dropout) is seeded by (seed, epoch) alone, and that
of a ghost batch by its place in the epoch. So an interrupted run resumes after its last finished
epoch and ends with the same bits, and any number of processes may share the ghost batches.
"""

import copy
import math
import time
from collections.abc import Callable, Sequence

import torch
from torch import nn

from .apart import capture_apart
from .augment import resized
from .build import build, check_model, unchanged
from .data import Images, Split
from .device import cpu_threads, keep_freed_memory, seed_everything
from .distil import load_teacher, teacher_title
from .distributed import SINGLE_PROCESS, Group
from .errors import InputError
from .evaluate import EVAL_BATCH_SIZE
from .exported import Exported
from .locate import describe, reason
from .model import Block
from .passes import N_PROBE, Pass
from .recipe import Recipe
from .run import Row, Run
from .trainer import Trainer
from .weights import tensors

N_FEW = 8  # images of a pass that shows whether a network takes them
NO_RESIZING = "use a recipe that does not resize images, such as feather-20k"
LOSS_INTERVAL = 10  # steps between two readings of the loss, each of which waits for the device


class DivergedError(Exception):
    """The loss became infinite or NaN; the log keeps the finished epochs."""


def train(
    run: Run,
    split: Split,
    device: torch.device,
    on_epoch: Callable[[Row], None] | None = None,
    on_batch: Callable[[int, int, int, float], None] | None = None,
    group: Group = SINGLE_PROCESS,
    keep_states: bool = False,
) -> None:
    """Train the run's recipe to its last epoch, resuming after the last finished one.

    In distributed training every process calls this with its own `group`; only rank 0 touches the
    run folder and calls `on_epoch`. A ghost batch is computed by one CPU thread. Without ghost
    batches, steps use the number of threads in the run's environment.json, so that a resumed run
    has the same bits.

    Args:
        run: The run folder, new or interrupted.
        split: The images, on the CPU.
        device: Where to train.
        on_epoch: Called after each epoch with its row of metrics.jsonl.
        on_batch: Called every ten steps with (epoch, step, steps per epoch, loss).
        group: The processes that train together.
        keep_states: Keep the state after each epoch, for audits that train an epoch again.

    Raises DivergedError if the loss is not finite, InputError if the network can't be built or
    used, and OSError if a file can't be written.
    """
    recipe, val = run.recipe, split.val.to(device)
    trainer, rows = start(run, split, device, group)
    steps_per_epoch = trainer.steps_per_epoch
    threads = run.environment["threads"] if trainer.ghosts is None else 1
    evaluated: nn.Module | None = None

    for epoch in range(len(rows), recipe.epochs):
        # Train.
        started = time.perf_counter()
        generator = seed_everything(run.seed, epoch)
        total_loss = torch.zeros((), device=device)
        with cpu_threads(threads):
            for step, loss in enumerate(trainer.steps(epoch, generator), 1):
                total_loss += loss
                if step % LOSS_INTERVAL == 0 or step == steps_per_epoch:
                    if not math.isfinite(value := loss.item()):
                        raise DivergedError(
                            f"the loss became {value} in epoch {epoch + 1}, by step {step}"
                        )
                    if on_batch is not None:
                        on_batch(epoch + 1, step, steps_per_epoch, value)
            seconds = time.perf_counter() - started
            evaluated = trainer.evaluated_network()

        # Evaluate, all processes together.
        result = trainer.evaluate(evaluated, val, split.num_classes)
        if not group.is_main:
            continue
        train_loss = total_loss.item() / steps_per_epoch
        if not (math.isfinite(train_loss) and math.isfinite(result.loss)):
            raise DivergedError(
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

        # Save. An audit evaluates each of the last epochs again, if the contract names several.
        if recipe.epochs - run.contract.consistent_epochs <= epoch < recipe.epochs - 1:
            run.save_weights(tensors(evaluated), f"epoch-{epoch + 1}.safetensors")
        state = {"evaluated": tensors(evaluated), "epoch": epoch + 1, "rows": rows}
        run.save_epoch(trainer.state() | state, rows, keep_states)
        if on_epoch is not None:
            on_epoch(rows[-1])

    if group.is_main and not run.complete:
        if evaluated is None:  # the run was interrupted between its last epoch and this line
            with cpu_threads(threads):
                evaluated = trainer.evaluated_network()
        run.save_weights(tensors(evaluated))


def start(
    run: Run, split: Split, device: torch.device, group: Group = SINGLE_PROCESS
) -> tuple["Trainer", list[Row]]:
    """Return a run's network, ready for its next epoch in every process, and its rows so far."""
    recipe = run.recipe
    keep_freed_memory()
    seed_everything(run.seed, -1)
    model = run.build_model()
    if group.is_main:
        run.forget_environment()
        check_recipe(recipe, split, model)
    teacher = load_teacher(recipe.teacher, split).to(device) if recipe.teacher else None
    if teacher is not None and group.is_main:
        run.record_teacher(teacher_title(recipe.teacher))
    trainer = Trainer(
        recipe, model.to(device), split.train.to(device), split.mean_std, group, teacher
    )
    rows: list[Row] = []
    if group.is_main:
        run.record_workers(group.size)
        if state := run.load_resume():
            trainer.load_state(state)
            rows = state["rows"]
            run.write_metrics(rows)
        if len(rows) < recipe.epochs:
            run.record_place(device, len(rows))
    if group.size > 1:  # the others go on from where the main process is
        state, rows = group.broadcast((trainer.state(), rows))
        if not group.is_main:
            trainer.load_state(state)
    return trainer, rows


def export_network(
    recipe: Recipe, split: Split, seed: int, path: str | None = None
) -> Exported | None:
    """Return the recipe's network as graphs, with the initial weights of a seed.

    Its code runs in a process of its own. None for this package's networks, whose code is trusted.

    Args:
        recipe: How it is trained, which says what graphs are needed.
        split: The images.
        seed: Seed of the training.
        path: Where its class is now. None: where the recipe says.

    Raises NoGraphError if the network can't be exported, InputError if it can't be built.
    """
    path = path or recipe.model
    if path.startswith("featherweight.model:"):
        return None
    passes = training_passes(recipe, len(split.train), split.shape)
    try:
        graph = capture_apart(path, recipe.model_args, split.num_classes, passes, seed)
    except InputError as error:
        smaller = ", ".join(map(str, passes[-1].shape))
        if passes[-1].shape == passes[0].shape or f"(n, {smaller})" not in error.message:
            raise
        raise type(error)(
            f"{error.message}: {recipe.name} resizes the images of its first steps",
            hint=NO_RESIZING,
        ) from error
    # Quantised training needs the module's layers.
    graph.faithful = graph.faithful and not recipe.weight_bits
    return graph


def first_network(recipe: Recipe, split: Split, seed: int, graph: Exported | None) -> nn.Module:
    """Return the network that a training starts with, given what `export_network` has returned.

    It is the graph, if that has the module's gradients. Else the module is built in this process.
    """
    if graph is not None and graph.faithful:
        return graph
    return build(recipe.model, recipe.model_args, split.num_classes, split.shape, seed)


def batch_sizes(recipe: Recipe, n_train: int) -> tuple[int, int]:
    """Return the smallest and the largest number of images that the network is trained on at once.

    The training images are dealt out evenly, and a batch's images to its ghost batches."""
    n_images = recipe.n_images(n_train)
    steps = math.ceil(n_images / recipe.batch_size)
    return (
        n_images // steps // recipe.n_ghosts,
        math.ceil(math.ceil(n_images / steps) / recipe.n_ghosts),
    )


def training_passes(recipe: Recipe, n_train: int, shape: Sequence[int]) -> list[Pass]:
    """Return the passes of which a training, its evaluation and its audit need the graphs.

    `shape` is that of an image, (channels, height, width)."""
    shapes = [tuple(shape)]
    if recipe.resize_until:
        smaller = resized(torch.zeros(1, *shape), recipe.resize)
        shapes.append(tuple(smaller.shape[1:]))
    sizes = tuple(sorted({N_PROBE, *batch_sizes(recipe, n_train)}))
    return [Pass(False, shapes[0]), *(Pass(True, each, sizes) for each in shapes)]


def check_recipe(recipe: Recipe, split: Split, model: nn.Module) -> None:
    """Check that the network can be trained and evaluated as the recipe says.

    Tries images and batches of every size that occurs, and one step of the optimiser. The network
    stays unchanged. Raises InputError if anything fails.
    """
    train, val = split.train, split.val
    n_ghosts, (smallest, largest) = recipe.n_ghosts, batch_sizes(recipe, len(train))
    sized = isinstance(model, Exported) and not model.takes_any_number
    tried = split.normalise(train.pixels[: largest if sized else N_FEW])
    check_model(model, tried, split.num_classes)
    if recipe.resize_until:
        try:
            smaller = resized(tried, recipe.resize)
            check_model(model, smaller, split.num_classes, (True,))
        except InputError as error:
            raise InputError(
                f"{error.message} (the images of {recipe.name}'s first steps are smaller)",
                hint=NO_RESIZING,
            ) from error
    if recipe.weight_bits and not any(isinstance(module, Block) for module in model.modules()):
        raise InputError(
            f"weight_bits: got {recipe.weight_bits} for {recipe.model}, expected a Feather, or 0"
        )
    for name, parameter in model.named_parameters():
        if parameter.is_complex():
            raise InputError(
                f"model {describe(model)}: got a complex parameter, {name}, expected real ones",
                hint="keep torch.view_as_real of it, and use torch.view_as_complex in forward",
            )
        if 0 in parameter.stride() and parameter.numel() > 1:  # the fused SGD writes past its end
            raise InputError(
                f"model {describe(model)}: got a parameter whose elements share memory, {name}, "
                "expected one with memory of its own",
                hint="expand it in forward, not in the constructor",
            )
    if not smallest:
        raise InputError(
            f"ghost_batch: got {recipe.ghost_batch} for {len(train)} training images, expected at "
            f"least one image in each of {n_ghosts} ghost batches"
        )
    # The last batch of an evaluation may have one image, of which x.squeeze() removes the batch
    # dimension too.
    for training, sizes in (
        (True, {smallest, largest}),
        (False, {min(EVAL_BATCH_SIZE, len(val)), len(val) % EVAL_BATCH_SIZE or EVAL_BATCH_SIZE}),
    ):
        for size in sizes:
            pixels = train.pixels[:size] if training else val.pixels[:size]
            check_model(model, split.normalise(pixels), split.num_classes, (training,))
    if recipe.ema:
        try:
            copy.deepcopy(model)
        except Exception as error:
            raise InputError(
                f"model {describe(model)} can't be copied, for the EMA of {recipe.name}: "
                f"{reason(error)}",
                hint="use a recipe without EMA, such as baseline",
            ) from error
    teacher = load_teacher(recipe.teacher, split) if recipe.teacher else None
    few = Images(train.pixels[: recipe.batch_size], train.labels[: recipe.batch_size])
    with unchanged(model):
        try:
            trainer = Trainer(recipe, model, few, split.mean_std, teacher=teacher)
            next(trainer.steps(0, torch.Generator().manual_seed(0)))
        except InputError:
            raise
        except Exception as error:
            # The network may have no gradient, or one that the optimiser does not take.
            hint = None
            if "does not require grad" in (why := reason(error)):
                hint = "let the loss reach parameters: no torch.no_grad, detach or item on the way"
            elif "sparse" in why:
                hint = "leave out sparse=True"
            elif recipe.n_ghosts > 1:
                hint = "a recipe without ghost batches, such as baseline, shares no buffers"
            raise InputError(
                f"model {describe(model)} can't be trained: {why}", hint=hint
            ) from error
