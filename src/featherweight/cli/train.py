"""Commands that make and judge a run: train, audit, evaluate, report."""

import dataclasses
import math
import shlex
import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ..contract import load_contract
from ..errors import InputError
from .base import (
    BROKEN,
    DONE,
    INTERRUPTED,
    app,
    cores,
    networks_apart,
    print_json,
    program,
    stderr,
    stdout,
)

if TYPE_CHECKING:
    from ..evaluate import Evaluation
    from ..run import Run
    from ..verdict import Verdict

WIDE = 110  # columns, from which on a verdict's table says how each clause was found


def _print_verdict(verdict: "Verdict", why: bool = False) -> None:
    """A table, the clauses that fail last, and the verdict under it. How each was found stands in a column where
    there is room, or under each clause with `why`."""
    marks = {True: "[green]pass[/]", False: "[bold red]FAIL[/]", None: "[yellow]-[/]"}
    wide = stdout.width >= WIDE and not why
    table = Table(
        title=f"contract {escape(verdict.contract)}", title_justify="left", show_lines=why
    )
    for column in ("clause", "required", "found", *(["how"] if wide else []), "verdict"):
        table.add_column(column, overflow="fold")
    for clause in sorted(verdict.clauses, key=lambda clause: clause.passed is False):
        found = f"{clause.found}\n({clause.how})" if why else clause.found
        cells = (clause.clause, clause.required, found, *([clause.how] if wide else []))
        table.add_row(*map(escape, cells), marks[clause.passed])
    stdout.print(table)
    some = (
        f"{len(verdict.judged)} of {len(verdict.clauses)} clauses judged"
        if verdict.not_judged
        else ""
    )
    some = f"structure alone: {some}" if verdict.scope == "structure" else some
    stdout.print(
        f"verdict: [bold]{'PASS' if verdict.passed else 'FAIL'}[/]{f' ({some})' if some else ''}"
    )


def _judge(run: "Run", data: str | None, device: str) -> "Verdict":
    """Audit a finished run against its contract and write the verdict, the pictures and the card."""
    from ..audit import audit_run
    from ..report import report
    from ..train import pick_device

    split = run.load_split(data)
    with networks_apart():
        verdict, result = audit_run(run, split, device=pick_device(device))
    run.write_json("verdict.json", verdict.to_dict())
    if result is not None:
        report(run, result, split, verdict.to_dict())
    return verdict


@app.command
def train(
    *,
    recipe: str | None = None,
    model: str | None = None,
    contract: str | None = None,
    data: str | None = None,
    seed: int | None = None,
    epochs: int | None = None,
    device: str = "auto",
    threads: int | None = None,
    out: str | None = None,
    resume: str | None = None,
) -> int:
    """Train a network under a contract, then audit and report it.

    Parameters
    ----------
    recipe
        how to train, one of `featherweight recipes` (feather-20k).
    model
        a network of your own, MODULE:CLASS or FILE.py:CLASS, trained by the recipe instead of its own.
    contract
        what must hold, one of `featherweight contracts` or a TOML file (the recipe's own).
    data
        a directory of MNIST-format files or an .npz, instead of the embedded MNIST.
    seed
        of the initial weights and everything drawn (0).
    epochs
        instead of the recipe's.
    device
        cpu, cuda, or auto.
    threads
        CPU threads of a training step (1). On two cores a second one makes an epoch a sixth shorter, but beside
        other busy programs many times longer; another number gives other bits.
    out
        the run's folder, which must not exist yet (runs/NAME-sSEED-N).
    resume
        go on with the run in this folder.
    """
    from ..build import build
    from ..data import load_split
    from ..distributed import join
    from ..recipe import find_recipe
    from ..run import create_run, open_run
    from ..train import Diverged, check_recipe, pick_device, seed_everything
    from ..train import train as train_run

    group, where = join(pick_device(device))
    stderr.quiet = not group.leads
    if resume is not None:
        given = {
            "recipe": recipe,
            "model": model,
            "contract": contract,
            "seed": seed,
            "epochs": epochs,
            "threads": threads,
            "out": out,
        }
        if named := [key for key, value in given.items() if value is not None]:
            raise InputError(
                f"--resume with --{named[0]}: a run keeps its own; "
                f"hint: featherweight train --resume {shlex.quote(resume)}"
            )
        opened = open_run(resume) if group.leads else None
    else:
        chosen = find_recipe(recipe or "feather-20k")
        if model is not None:
            chosen = dataclasses.replace(chosen, model=model, model_args={})
        if epochs is not None and epochs != chosen.epochs:
            name = f"{chosen.name}-{epochs}-epoch{'' if epochs == 1 else 's'}"
            chosen = dataclasses.replace(chosen, name=name, epochs=epochs)
        held = load_contract(contract or chosen.contract)
        split = load_split(data, held.train_size, held.val_size)
        # Before the folder is made, so that a network that can't be used leaves none behind.
        seed = seed or 0
        if seed < 0:
            raise InputError(f"--seed: got {seed}, expected 0 or more")
        if threads is not None and not 1 <= threads <= cores():
            raise InputError(
                f"--threads: got {threads}, expected 1 to {cores()}, the cores that it may use"
            )
        seed_everything(seed, -1)
        with networks_apart():
            network = build(chosen.model, chosen.model_args, split.num_classes, split.shape)
            check_recipe(chosen, split, network)
        if (
            model is not None
        ):  # tables and pictures tell of the network, not of the recipe that it borrows
            chosen = dataclasses.replace(chosen, name=type(network).__name__)
        command = shlex.join([*group.command, "featherweight", *sys.argv[1:]])
        opened = (
            create_run(out, chosen, held, split, seed, where, command, threads or 1)
            if group.leads
            else None
        )
    run = group.share(opened)
    assert run is not None  # the leading process has opened it
    split = run.load_split(data)
    stderr.print(
        f"run {run.path}: {run.recipe.name}, seed {run.seed}, {run.recipe.epochs} epochs, "
        f"{len(split.train):,} images, on {where}"
    )
    stderr.print("epoch  seconds      lr  train loss  val loss  val accuracy")
    # In its description and not in fields of its own, which reset() would forget. 80 columns hold all of it.
    columns = TextColumn("{task.description}"), BarColumn(20), TimeRemainingColumn()
    try:
        with (
            networks_apart(),
            Progress(
                *columns, console=stderr, transient=True, disable=not stderr.is_terminal
            ) as progress,
        ):
            bar = progress.add_task("", total=None)

            def on_batch(epoch: int, step: int, n_steps: int, loss: float) -> None:
                speed = progress.tasks[0].speed  # steps a second; None at first
                rate = f", {speed * len(split.train) / n_steps:,.0f} images/s" if speed else ""
                progress.update(
                    bar,
                    completed=step,
                    total=n_steps,
                    description=f"epoch {epoch} of {run.recipe.epochs}, loss {loss:.4f}{rate}",
                )

            def on_epoch(row: dict[str, Any]) -> None:
                correct, total = row["val_correct"], row["val_total"]
                stderr.print(
                    f"{row['epoch']:5} {row['seconds']:8.2f} {row['lr']:7.4f} {row['train_loss']:11.4f} "
                    f"{row['val_loss']:9.4f}  {100 * correct / total:.2f} % ({correct:,} of {total:,})"
                )
                progress.reset(bar, description="")

            train_run(run, split, where, on_epoch, on_batch, group)
        if not group.leads:
            return DONE
        stderr.print(
            f"judging: {len(split.val):,} validation images are evaluated again, pictures drawn"
        )
        verdict = _judge(run, data, device)
    except Diverged as error:
        stderr.print(
            f"error: diverged: {error}\nhint: the log is kept in {run.path / 'metrics.jsonl'}; "
            "lower the recipe's lr"
        )
        return BROKEN
    except KeyboardInterrupt:
        stderr.print(
            f"\ninterrupted; resume with: {program()} train --resume {shlex.quote(str(run.path))}"
        )
        return INTERRUPTED
    _print_verdict(verdict)
    stderr.print(
        f"see {run.path / 'README.md'}\n"
        f"next: {program()} export {shlex.quote(str(run.path))} --format onnx, which predict and serve read"
    )
    return DONE if verdict.passed else BROKEN


@app.command
def audit(
    target: str,
    /,
    *,
    weights: str | None = None,
    contract: str | None = None,
    data: str | None = None,
    mean: float | None = None,
    std: float | None = None,
    quick: Annotated[bool, Parameter(negative="")] = False,
    why: Annotated[bool, Parameter(negative="")] = False,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Judge a run, or a network by its structure and perhaps its weights, against a contract.

    Parameters
    ----------
    target
        a run folder, or a network: MODULE:CLASS, FILE.py:CLASS, or FILE.py that defines one.
    weights
        the network's state dict, trained elsewhere: .pth, .pt or .safetensors. All is judged but what needs a run.
    contract
        a name or a TOML file (the run's own; of a network, era-v3-s6).
    data
        where the run's data set is now; of a network, a directory of MNIST-format files or an .npz.
    mean
        with --weights and --std: what was subtracted from pixels in [0, 1] in training (the training images' mean).
    std
        with --weights and --mean: what they were then divided by (the training images' standard deviation).
    quick
        watch 64 images instead of all validation images for hidden weights.
    why
        print under each clause how it was found.
    json
        print the verdict as JSON.
    """
    from pathlib import Path

    from ..audit import audit_run
    from ..run import open_run

    if not Path(target).is_dir() and (":" in target or target.endswith(".py")):
        verdict = _judge_network(target, weights, contract, data, mean, std, quick)
    else:
        given = {"weights": weights, "mean": mean, "std": std, "quick": quick or None}
        if named := [key for key, value in given.items() if value is not None]:
            raise InputError(
                f"--{named[0]} with {target}: expected a network, MODULE:CLASS or FILE.py:CLASS: a run "
                "is audited with its own weights, on every image"
            )
        if not Path(target).exists():
            raise InputError(
                f"{target}: not a run folder, and no file, expected a run folder, MODULE:CLASS or "
                "FILE.py:CLASS"
            )
        run = open_run(target)
        held = load_contract(contract) if contract else None
        with networks_apart():
            verdict, _ = audit_run(run, run.load_split(data), held)
    if json:
        print_json(verdict.to_dict())
    else:
        _print_verdict(verdict, why)
    return DONE if verdict.passed else BROKEN


def _judge_network(
    target: str,
    weights: str | None,
    contract: str | None,
    data: str | None,
    mean: float | None,
    std: float | None,
    quick: bool,
) -> "Verdict":
    """Audit a class, with weights that were trained elsewhere if there are any."""
    from ..audit import audit_model, audit_weights
    from ..build import build, check_model
    from ..data import load_split
    from ..evaluate import normalise
    from ..weights import load_weights, read_weights

    if (mean is None) != (std is None) or (mean is not None and weights is None):
        raise InputError(
            f"--mean {mean}, --std {std}, --weights {weights}: expected both of the first, and with "
            "weights, or none; hint: --mean 0.1307 --std 0.3081"
        )
    given = None if mean is None or std is None else (mean, std)
    if given is not None and not (math.isfinite(given[0]) and 0 < given[1] < math.inf):
        raise InputError(f"--mean {mean}, --std {std}: expected finite numbers, the second above 0")
    held = load_contract(contract or "era-v3-s6")
    split = load_split(data, held.train_size, held.val_size)
    trained = None if weights is None else read_weights(weights)
    with networks_apart():
        network = build(target, {}, split.num_classes, split.shape)
        if trained is not None:
            try:
                load_weights(network, trained)
            except ValueError as error:
                raise InputError(f"weights {weights}: not those of {target}: {error}") from error
        images = normalise(split.train.pixels[:8], given or split.mean_std)
        check_model(network, images, split.num_classes)
        if trained is None:
            return audit_model(network, split, held, everything=not quick)
        verdict, result = audit_weights(network, split, held, given, everything=not quick)
    if given is None and result.accuracy < held.min_val_accuracy:
        mean, std = split.mean_std
        stderr.print(
            f"hint: images were normalised with mean {mean:.4f} and std {std:.4f}; if the weights were "
            "trained with others, say --mean and --std"
        )
    return verdict


@app.command
def evaluate(
    run: str,
    /,
    *,
    split: Literal["val", "test"] = "val",
    data: str | None = None,
    device: str = "auto",
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Loss, accuracy with its interval, calibration, a row a class and the confusion matrix.

    Parameters
    ----------
    run
        a run folder.
    split
        val, or test: the official test images, on which nothing may be chosen.
    data
        where the run's data set is now.
    device
        cpu, cuda, or auto.
    json
        print the figures as JSON.
    """
    from ..data import load_test
    from ..evaluate import evaluate as evaluate_images
    from ..run import open_run
    from ..train import pick_device

    where, opened = pick_device(device), open_run(run)
    images = opened.load_split(data)
    part = images.val if split == "val" else load_test(images)
    with networks_apart():
        result = evaluate_images(opened.load_model().to(where), part.to(where), images.mean_std)
    if json:
        print_json({"split": split, **result.to_dict()})
    else:
        _print_evaluation(split, result)
    return DONE


def _print_evaluation(split: str, result: "Evaluation") -> None:
    from ..evaluate import percent

    low, high = result.interval
    stdout.print(
        f"{split}: {percent(result.correct, result.total)}, "
        f"95 % interval {100 * low:.2f} to {100 * high:.2f} (Wilson)"
    )
    stdout.print(
        f"loss {result.loss:.4f} nats, expected calibration error {100 * result.calibration_error:.2f} %"
    )
    values = result.to_dict()
    table = Table("class", "images", "right", "recall %", "precision %")
    for row in values["per_class"]:
        table.add_row(
            str(row["class"]),
            str(row["total"]),
            str(row["correct"]),
            *(
                "-" if row[key] is None else f"{100 * row[key]:.2f}"
                for key in ("recall", "precision")
            ),
        )
    stdout.print(table)
    confusion = Table(
        "true \\ read", *map(str, range(len(values["confusion"]))), title="confusion matrix"
    )
    for label, counts in enumerate(values["confusion"]):
        confusion.add_row(str(label), *(str(n) if n else "." for n in counts))
    stdout.print(confusion)


@app.command
def report(run: str, /, *, data: str | None = None, device: str = "auto") -> int:
    """Audit a run and write its verdict, pictures and model card anew.

    Parameters
    ----------
    run
        a run folder.
    data
        where the run's data set is now.
    device
        cpu, cuda, or auto.
    """
    from ..run import open_run

    opened = open_run(run)
    verdict = _judge(opened, data, device)
    for name in (
        "verdict.json",
        "README.md",
        "curves.png",
        "confusion.png",
        "mistakes.png",
        "verdict.svg",
    ):
        stdout.print(str(opened.path / name), soft_wrap=True)
    return DONE if verdict.passed else BROKEN
