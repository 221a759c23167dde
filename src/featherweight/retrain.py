"""Train a run again, and compare it with what its folder holds, bit for bit.

    clause = retrain(run, split)                 # all epochs
    clause = retrain_epochs(run, split, k=3)     # three epochs, from the states that the run keeps

Whatever a folder says about its training can be written by hand, its weights included. That they
come out of its recipe, seed and images is only shown by training again.
"""

import random
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .data import Images, Split
from .device import pick_device
from .errors import InputError
from .evaluate import evaluate
from .exported import Exported
from .progress import OnBatch, OnEpoch
from .run import GRAPH, Row, Run, create_run
from .train import export_network, train
from .verdict import Clause
from .workers import choose_workers, start_workers

# What must be the same for the same bits, as environment.json names it.
SAME = ("torch", "cpu", "gpu", "device", "threads", "teacher")
# Images that show whether initial weights are trained ones, and the accuracy from which they are.
N_START, MAX_START = 1000, 0.5
Report = tuple[OnEpoch | None, OnBatch | None]


class _DoneError(Exception):
    """The epoch that is compared is trained."""


def retrain(
    run: Run, split: Split, workers: int | None = None, report: Report = (None, None)
) -> Clause:
    """Train a run again from its recipe, seed and images, and compare every epoch and the weights.

    Args:
        run: A finished run.
        split: Its images.
        workers: Processes that train, as for a training; every number gives the same bits.
        report: Functions that are called after an epoch and a batch, as those of `train`.

    Returns the clause of a verdict. Raises InputError if the network can't be made again.
    """
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        graph = _export_again(run, split)
        again = _train_again(run, split, graph, Path(folder), None, 0, workers, report)
        faults = _graph_faults(run, again) + _start_faults(again, split)
        rows, others = run.read_metrics(), again.read_metrics()
        for row, other in zip(rows, others, strict=False):
            if _but_seconds(row) != _but_seconds(other):
                faults.append(
                    f"epoch {other['epoch']}: log {row.get('val_correct')} right, "
                    f"trained again {other['val_correct']}"
                )
                break
        if len(rows) != len(others):
            faults.append(f"the log has {len(rows)} epochs, the recipe {len(others)}")
        if run.read_weights() != again.read_weights():
            faults.append("other weights")
        faults += _environment_faults(run.places, again) if faults else []
    seconds = time.perf_counter() - started
    return Clause(
        "retrained",
        "the same bits",
        "; ".join(faults) or f"the same in all {run.recipe.epochs} epochs",
        f"trained again from recipe, seed and images in {seconds:.0f} s; log and weights compared",
        not faults,
    )


def retrain_epochs(
    run: Run, split: Split, k: int, workers: int | None = None, report: Report = (None, None)
) -> Clause:
    """Train k epochs of a run again, each from the state before it, and compare the state after it.

    The epochs are drawn at random each time. The first one starts from the seed, the others from
    states that `train --keep-states` has kept.

    Args:
        run: A finished run.
        split: Its images.
        k: Number of epochs, at most as many as the run has.
        workers: Processes that train, as for a training.
        report: Functions that are called after an epoch and a batch, as those of `train`.

    Returns the clause of a verdict. Raises InputError if the run keeps no states.
    """
    if not 1 <= k <= run.recipe.epochs:
        raise InputError(f"retrain epochs: got {k}, expected 1 to {run.recipe.epochs}")
    epochs = sorted(random.SystemRandom().sample(range(1, run.recipe.epochs + 1), k))
    last = run.load_state(run.recipe.epochs)
    assert last is not None  # there is at least one epoch
    faults = [] if _same(last["rows"], run.read_metrics()) else ["the log is not the state's"]
    started = time.perf_counter()
    graph = _export_again(run, split)
    for epoch in epochs:
        if faults:
            break
        before, after = run.load_state(epoch - 1), run.load_state(epoch)
        with tempfile.TemporaryDirectory() as folder:
            again = _train_again(run, split, graph, Path(folder), before, epoch, workers, report)
            faults += _graph_faults(run, again) + _start_faults(again, split)
            if not _same(again.load_resume(), after):
                faults.append(f"epoch {epoch}: another state")
            faults += _environment_faults([_place_of(run, epoch)], again) if faults else []
    seconds = time.perf_counter() - started
    which = ", ".join(map(str, epochs))
    return Clause(
        f"retrained-epochs {k}",
        "the same bits",
        "; ".join(faults) or f"the same in epoch {which}",
        f"epoch {which} of {run.recipe.epochs} trained again from the state before in "
        f"{seconds:.0f} s",
        not faults,
    )


def _export_again(run: Run, split: Split) -> Exported | None:
    """Return the graph that the run's source gives now, None for this package's networks."""
    graph = export_network(run.recipe, split, run.seed, run.model_path)
    if graph is not None and not graph.faithful:
        raise InputError(
            f"{run.path}: has a gradient of its own, which its graph does not have; expected a "
            "network that is trained as a graph",
            hint="train it again by hand, with --seed, and compare model.safetensors",
        )
    return graph


def _train_again(
    run: Run,
    split: Split,
    graph: Exported | None,
    folder: Path,
    before: Mapping[str, Any] | None,
    until: int,
    workers: int | None,
    report: Report,
) -> Run:
    """Train a run again in another folder, from a state until after an epoch (0: the last)."""
    place = _place_of(run, max(1, until))
    device = pick_device(str(place["device"]))
    again = create_run(
        str(folder / "again"),
        run.recipe,
        run.contract,
        split,
        run.seed,
        device,
        "featherweight audit --retrain",
        int(place["threads"]),
        graph=graph,
    )
    if before is not None:
        again.save_resume(dict(before))
    on_epoch, on_batch = report

    def after_epoch(row: Row) -> None:
        if on_epoch is not None:
            on_epoch(row)
        if row["epoch"] == until:
            raise _DoneError

    n = choose_workers(workers, run.recipe, device)
    try:
        with start_workers(again, split, n) as group:
            train(again, split, device, after_epoch, on_batch, group)
    except _DoneError:
        pass
    return again


def _place_of(run: Run, epoch: int) -> dict[str, Any]:
    """Return where an epoch of a run, 1 to n, was trained: one of `Run.places`."""
    return next(place for place in reversed(run.places) if place["epoch"] < epoch)


def _graph_faults(run: Run, again: Run) -> list[str]:
    """Compare the graph of the folder with the one that its source gives now."""
    # A run that was trained without a graph is compared by its weights alone.
    same = not run.has_graph or (again.has_graph and run.read(GRAPH) == again.read(GRAPH))
    return [] if same else [f"another network, or other initial weights, than {run.recipe.model}"]


def _start_faults(again: Run, split: Split) -> list[str]:
    """Say if the initial weights know the digits already: then the constructor has learned them."""
    part = Images(split.val.pixels[:N_START], split.val.labels[:N_START])
    result = evaluate(again.build_model().eval(), part, split.mean_std)
    if result.accuracy < MAX_START:
        return []
    return [f"the initial weights, before any training, are right for {result}"]


def _environment_faults(places: list[dict[str, Any]], again: Run) -> list[str]:
    """Say what differs here from the places of a run, where other bits may come from."""
    faults = []
    for key in SAME:
        here = again.environment.get(key)
        there = dict.fromkeys(str(place.get(key)) for place in places)
        if list(there) != [str(here)]:
            faults.append(f"{key} here {here}, there {', then '.join(there)}")
    return faults


def _but_seconds(row: Row) -> Row:
    return {key: value for key, value in row.items() if key != "seconds"}


def _same(one: object, other: object) -> bool:
    """Return whether two training states are equal to the bit, but for the time that they took."""
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return (
            isinstance(one, Tensor)
            and isinstance(other, Tensor)
            and one.dtype == other.dtype
            and torch.equal(one, other)
        )
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        one, other = _but_seconds(dict(one)), _but_seconds(dict(other))
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    return one == other
