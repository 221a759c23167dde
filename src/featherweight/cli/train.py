"""Commands that make and judge a run: train, audit, evaluate, report."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.markup import escape
from rich.table import Table

from .._files import reason
from ..errors import InputError
from ..pretrained import DEFAULT_MODEL
from .base import (
    BROKEN,
    DONE,
    INTERRUPTED,
    USAGE,
    app,
    cores,
    literal,
    networks_apart,
    print_json,
    program,
    stderr,
    stdout,
    way_on,
)

if TYPE_CHECKING:
    from ..evaluate import Evaluation
    from ..verdict import Verdict

MNIST_CLASSES, MNIST_SHAPE = 10, (1, 28, 28)
WIDE = 110  # columns from which on a verdict's table says how each clause was found


def _print_verdict(verdict: "Verdict", why: bool = False, layers: bool = False) -> None:
    """Print a table, the clauses that fail last, and the verdict under it.

    How each clause was found stands in a column where there is room, or under it with `why`. With
    `layers` the layer table stands above it."""
    if layers and verdict.layers is not None:
        stdout.print(f"{verdict.layers.to_text(stdout.width)}\n", markup=False, soft_wrap=True)
    marks = {
        "pass": "[green]pass[/]",
        "FAIL": "[bold red]FAIL[/]",
        "missed": "missed",
        "not judged": "[yellow]-[/]",
    }
    points = ["points"] if verdict.weighted else []
    wide = stdout.width >= WIDE and not why
    table = Table(
        title=f"contract {escape(verdict.contract)}", title_justify="left", show_lines=why
    )
    for column in ("clause", "required", "found", *(["how"] if wide else []), *points, "verdict"):
        table.add_column(column, overflow="fold")
    for clause in sorted(verdict.clauses, key=lambda clause: clause.failed):
        found = f"{clause.found}\n({clause.how})" if why else clause.found
        cells = (clause.clause, clause.required, found, *([clause.how] if wide else []))
        score = [clause.score] if points else []
        table.add_row(*map(escape, cells), *score, marks[clause.result])
    stdout.print(table)
    some = (
        f"{len(verdict.judged)} of {len(verdict.clauses)} clauses judged"
        if verdict.not_judged
        else ""
    )
    some = f"structure alone: {some}" if verdict.scope == "structure" else some
    if points:
        some = f"{some}, {verdict.points_text}" if some else verdict.points_text
    stdout.print(f"contract {verdict.contract_text}", markup=False)
    stdout.print(f"layers: {verdict.layers_text}", markup=False)
    stdout.print(f"evidence: {verdict.basis}", markup=False)
    stdout.print(
        f"verdict: [bold]{'PASS' if verdict.passed else 'FAIL'}[/]{f' ({some})' if some else ''}"
    )


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
    workers: int | None = None,
    out: str | None = None,
    resume: str | None = None,
    evidence: Literal["graph", "watched"] = "graph",
    keep_states: bool = False,
) -> int:
    """Train a network under a contract, then audit and report it.

    Parameters
    ----------
    recipe
        How to train: one of `featherweight recipes`. Default: quick, or feather-20k with --model.
    model
        Train your own network, MODULE:CLASS or FILE.py:CLASS, instead of the recipe's.
    contract
        What must hold: one of `featherweight contracts`, or a TOML file. Default: the recipe's.
    data
        Where the data set is: a folder of IDX files, of CIFAR's binary version or of pictures by
        class, a .zip of pictures, an .npz file or a CSV table. Default: MNIST.
    seed
        Seed of the initial weights and of every random draw. Default: 0.
    epochs
        Number of epochs. Default: the recipe's.
    device
        cpu, cuda, mps, or auto, which takes the first GPU there is.
    threads
        CPU threads of a step of a recipe without ghost batches, such as baseline (default: one).
        More make a step shorter on an idle machine, and longer beside other busy programs. Another
        number gives other bits.
    workers
        Processes on this machine that share the ghost batches of a step. Default: as many as there
        are CPU cores and ghost batches, which are two in most recipes. Every number gives the same
        bits.
    out
        The run folder, which must not exist yet. Default: runs/NAME-sSEED-N.
    resume
        Finish the interrupted run in this folder; the result is bit-identical, also with another
        number of workers.
    evidence
        graph: your own network is exported once, in a process apart, and its graph is trained and
        judged. watched: its code runs in this process, for a network that can't be exported; the
        verdict says so.
    keep_states
        Keep the state after each epoch, for `audit --retrain-epochs`.
    """
    from ..contract import load_contract
    from ..recipe import DEFAULT_RECIPE, find_recipe

    # What can be found wrong without PyTorch, which takes seconds to load, is found first.
    if resume is None:
        load_contract(contract or find_recipe(recipe or DEFAULT_RECIPE).contract)
    if threads is not None and not 1 <= threads <= cores():
        raise InputError(f"threads: got {threads}, expected 1 to {cores()}, the cores available")
    from ..api import finish_run, judge, load_run, refuse_with_resume, start_run
    from ..device import pick_device
    from ..distributed import join
    from ..progress import show
    from ..train import DivergedError

    group, where = join(pick_device(device))
    if group.size > 1 and workers is not None:
        raise InputError("workers with torchrun: expected one of them")
    stderr.quiet = not group.is_main
    if resume is not None:
        refuse_with_resume(
            {
                "--recipe": recipe,
                "--model": model,
                "--contract": contract,
                "--seed": seed,
                "--epochs": epochs,
                "--threads": threads,
                "--out": out,
            }
        )
        opened = load_run(resume) if group.is_main else None
    else:
        with networks_apart():
            opened = start_run(
                recipe,
                model=model,
                contract=contract,
                data=data,
                seed=seed or 0,
                epochs=epochs,
                device=where,
                threads=threads or 1,
                workers=workers,
                out=out,
                command=shlex.join([*group.command, "featherweight", *sys.argv[1:]]),
                group=group,
                evidence=evidence,
            )
    run = group.broadcast(opened)
    assert run is not None  # the main process has opened it
    graph = run.load_graph() if group.is_main else None
    if graph is not None and not graph.faithful:
        stderr.print(
            "note: the network's graph can't be trained, for example because it has a gradient of "
            "its own; its code is trained, in this process, and its graph is judged"
        )
    resumed = f"{program()} train --resume {shlex.quote(str(run.path))}"
    try:
        with networks_apart():
            finish_run(
                run,
                where,
                data,
                lambda n_images: show(run, n_images, stderr),
                group,
                workers=workers,
                keep_states=keep_states,
            )
            if not group.is_main:
                return DONE
            stderr.print("auditing the weights on all validation images, drawing the pictures")
            verdict = judge(run, data, where)
    except DivergedError as error:
        stderr.print(
            f"error: diverged: {error}\nhint: the log is kept in {run.path / 'metrics.jsonl'}; "
            "lower the recipe's learning rate",
            markup=False,
        )
        return BROKEN
    except ChildProcessError as error:  # it says how to resume
        stderr.print(f"error: {error}", markup=False)
        return BROKEN
    except OSError as error:  # a full disk, above all; what was saved is whole
        raise InputError(
            reason(error),
            hint=f"{way_on(error) or 'mend that'}; then go on with: {resumed}",
        ) from error
    except KeyboardInterrupt:
        stderr.print(f"\ninterrupted; resume with: {resumed}", markup=False)
        return INTERRUPTED
    _print_verdict(verdict)
    stderr.print(
        f"see {run.path / 'README.md'}\n"
        f"next: {program()} export {shlex.quote(str(run.path))} --format onnx, "
        "a file that predict and serve read",
        markup=False,
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
    evidence: Literal["graph", "watched"] = "graph",
    retrain: bool = False,
    retrain_epochs: int | None = None,
    workers: int | None = None,
    quick: bool = False,
    why: bool = False,
    layers: bool = False,
    json: bool = False,
) -> int:
    """Judge a run, or a network and perhaps its weights, against a contract.

    A network's code runs in a process of its own, with limits, to be exported; its graph is judged.

    Parameters
    ----------
    target
        A run folder, or a network: MODULE:CLASS, FILE.py:CLASS, or FILE.py that defines one.
    weights
        The network's state dict, trained elsewhere: .pth, .pt or .safetensors. Every clause is
        judged but those that need a run.
    contract
        A contract's name or a TOML file. Default: the run's own; for a network, era-v3-s6.
    data
        Where the run's data set is now; for a network, where a data set is, as for `train`.
    mean
        With --weights and --std: the mean by which images in [0, 1] were normalised in training.
        Default: that of the training images.
    std
        With --weights and --mean: the standard deviation likewise.
    evidence
        graph: judge the exported graph. watched: for a network that can't be exported, run its code
        in this process and watch it, which only code that you trust should do. The verdict says so.
    retrain
        Train the run again from its recipe, seed and images, and compare to the bit: the only
        evidence that this training made the weights.
    retrain_epochs
        Train so many epochs again instead, drawn at random, each from the state before it, which
        `train --keep-states` keeps.
    workers
        Processes that train again. Default: as for `train`.
    quick
        With --evidence watched: look for hidden weights in 64 images instead of all of validation.
    why
        Print under each clause how it was found.
    layers
        Print the layers of the network's graph, with shapes, receptive fields, parameters and
        multiply-accumulates.
    json
        Print the verdict as JSON, with the layers.
    """
    from ..apart import begin_capture, is_network
    from ..passes import audit_passes

    if evidence == "graph" and data is None and is_network(target):
        # Two processes import PyTorch at the same time, instead of one after the other.
        begin_capture(target, {}, MNIST_CLASSES, audit_passes(MNIST_SHAPE))
    from ..api import audit as audit_target

    with networks_apart():
        verdict = audit_target(
            target,
            contract=contract,
            data=data,
            weights=weights,
            mean=mean,
            std=std,
            evidence=evidence,
            quick=quick,
            retrain=retrain,
            retrain_epochs=retrain_epochs,
            workers=workers,
        )
    failed = {clause.clause for clause in verdict.failed}
    if weights is not None and mean is None and "accuracy" in failed:
        stderr.print(
            "hint: the images were normalised by the training images' mean and standard deviation; "
            "if the weights were trained with others, give --mean and --std"
        )
    if json:
        print_json(verdict.to_dict())
    else:
        _print_verdict(verdict, why, layers)
    return DONE if verdict.passed else BROKEN


@app.command
def evaluate(
    model: str = DEFAULT_MODEL,
    /,
    *,
    split: Literal["val", "test"] | None = None,
    data: str | None = None,
    device: str = "auto",
    json: bool = False,
) -> int:
    """Print loss, accuracy with its interval, calibration, each class and the confusion matrix.

    For a folder of pictures it prints accuracy and confusion, as `predict` reads them.

    Parameters
    ----------
    model
        A run folder, or a pretrained network; for pictures an exported file too.
    split
        val (the default) or test. Nothing may be decided by the test images.
    data
        Where the run's data set is now; or a folder of your own pictures, each in a folder of its
        label, as `featherweight serve` collects them.
    device
        cpu, cuda, mps, or auto, which takes the first GPU there is.
    json
        Print the figures as JSON.
    """
    from ..inference.labelled import is_labelled

    if data is not None and is_labelled(Path(data)):
        if split is not None:
            raise InputError("--split with a folder of pictures: expected one of them")
        return _evaluate_pictures(model, data, json)
    from ..api import load_run
    from ..device import pick_device

    where, split = pick_device(device), split or "val"
    run = load_run(model)
    with networks_apart():
        result = run.evaluate(split, data=data, device=str(where))
    if json:
        print_json({"split": split, **result.to_dict()})
    else:
        _print_evaluation(split, result, run.classes)
    return DONE


def _evaluate_pictures(model: str, folder: str, json: bool) -> int:
    """Print what is read right in a folder of pictures; files that are none are named."""
    from ..inference.labelled import score_folder
    from ..inference.reader import Reader

    score = score_folder(
        Reader(model), Path(folder), lambda why: stderr.print(f"error: {why}", markup=False)
    )
    values = score.to_dict()
    if json:
        print_json({"data": folder, **values})
    elif score.total:
        low, high = score.interval
        stdout.print(
            f"{folder}: {score}, 95 % interval {100 * low:.2f} to {100 * high:.2f} (Wilson)",
            markup=False,
        )
        stdout.print(
            f"{score.unsure:,} unsure, {score.wrong_though_sure:,} of the others read wrong, "
            f"{values['no_ink']:,} without a digit"
        )
        _print_confusion(list(score.labels), values["confusion"], [*score.labels, "none"])
    if score.not_digits and not json:
        stdout.print(
            f"{score.not_digits:,} of no digit: {score.not_digits_read:,} read as one, "
            f"{score.not_digits_sure:,} of them sure"
        )
    if n_failed := len(score.unreadable):
        n = score.total + score.not_digits + n_failed
        stderr.print(f"error: {n_failed:,} of {n:,} could not be read")
    return USAGE if score.unreadable else DONE


def _print_evaluation(split: str, result: "Evaluation", classes: tuple[str, ...]) -> None:
    from ..evaluate import percent

    low, high = result.interval
    stdout.print(
        f"{split}: {percent(result.correct, result.total)}, "
        f"95 % interval {100 * low:.2f} to {100 * high:.2f} (Wilson)"
    )
    stdout.print(
        f"loss {result.loss:.4f} nats, "
        f"expected calibration error {100 * result.calibration_error:.2f} %"
    )
    values = result.to_dict()
    table = Table("class", "images", "right", "recall %", "precision %")
    for row in values["per_class"]:
        table.add_row(
            literal(classes[row["class"]]),
            str(row["total"]),
            str(row["correct"]),
            *(
                "-" if row[key] is None else f"{100 * row[key]:.2f}"
                for key in ("recall", "precision")
            ),
        )
    stdout.print(table)
    _print_confusion(list(classes), values["confusion"], list(classes))


def _print_confusion(true: list[str], confusion: list[list[int]], read: list[str]) -> None:
    table = Table("true \\ read", *map(escape, read), title="confusion matrix")
    for label, counts in zip(true, confusion, strict=True):
        table.add_row(escape(label), *(str(n) if n else "." for n in counts))
    stdout.print(table)


@app.command
def report(run: str, /, *, data: str | None = None, device: str = "auto") -> int:
    """Audit a run again, print its layers, and write its verdict, pictures and model card.

    Parameters
    ----------
    run
        A run folder.
    data
        Where the run's data set is now.
    device
        cpu, cuda, mps, or auto, which takes the first GPU there is.
    """
    from ..api import judge, load_run
    from ..device import pick_device

    where, opened = pick_device(device), load_run(run)
    with networks_apart():
        verdict = judge(opened, data, where)
    if verdict.layers is not None:
        stderr.print(f"{verdict.layers.to_text(stderr.width)}\n", markup=False, soft_wrap=True)
    for name in (
        "verdict.json",
        "README.md",
        "curves.png",
        "confusion.png",
        "mistakes.png",
        "verdict.svg",
    ):
        stdout.print(str(opened.path / name), soft_wrap=True, markup=False)
    return DONE if verdict.passed else BROKEN
