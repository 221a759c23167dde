"""Measure how long work takes alone, and beside other busy programs.

for load in bench_load(n_busy=2): print(load.work, load.how, load.alone, load.busy)
"""

import contextlib
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from ..audit import audit_run
from ..contract import load_contract
from ..data import Images, load_split
from ..device import cpu_threads
from ..evaluate import evaluate
from ..recipe import find_recipe
from ..run import create_run
from ..train import train
from .training import Contestant, timed

Variables = dict[str, str | None]  # of the environment; None: not set
SPINNING: Variables = {
    "GOMP_SPINCOUNT": None,
    "KMP_BLOCKTIME": None,
}  # idle threads wait as OpenMP's default is
Way = tuple[
    str, int, Variables
]  # what it is called, threads (0: as many as PyTorch takes), environment
ONE: Way = ("1 thread", 1, {})
SLEEP: Way = ("all cores", 0, {})
SPIN: Way = ("all cores, idle threads spin", 0, SPINNING)
WORK: dict[str, tuple[Way, ...]] = {
    "epoch of sprint": (ONE, SLEEP, SPIN),
    "epoch of feather-20k": (ONE, SLEEP, SPIN),
    "evaluation": (ONE, SLEEP, SPIN),
    "audit": (SLEEP, SPIN),
    "export": (SLEEP, SPIN),
}
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Load:
    """One piece of work, in seconds."""

    work: str
    how: str
    "Threads, and how idle ones wait."
    alone: float
    busy: float
    "Beside the busy processes."


@contextlib.contextmanager
def _environment(variables: Variables) -> Iterator[None]:
    """Change the environment of the processes that are started inside the context."""
    before = dict(os.environ)
    os.environ.update({name: value for name, value in variables.items() if value is not None})
    for name in (name for name, value in variables.items() if value is None):
        os.environ.pop(name, None)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _busy(go: Any) -> None:
    """Multiply matrices on one thread whenever `go`, an event, is set."""
    torch.set_num_threads(1)
    matrix = torch.randn(512, 512)
    while True:
        go.wait()
        torch.mm(matrix, matrix)


def _epoch(recipe: str, seconds: float) -> Callable[[], float]:
    contestant = Contestant(find_recipe(recipe), load_split(None, 50_000, 10_000), CPU)

    def steps() -> float:
        start, n_steps = time.perf_counter(), 0
        while n_steps < 3 or time.perf_counter() - start < seconds:
            contestant.run(1)
            n_steps += 1
        return (time.perf_counter() - start) / n_steps * contestant.trainer.steps_per_epoch

    return steps


def _judged(work: str, n_images: int, folder: str) -> Callable[[], float]:
    split = load_split(None, 50_000, 10_000)
    split = replace(
        split,
        train=Images(split.train.pixels[:1000], split.train.labels[:1000]),
        val=Images(split.val.pixels[:n_images], split.val.labels[:n_images]),
    )
    recipe = replace(find_recipe("feather-20k"), epochs=1)
    run = create_run(f"{folder}/run", recipe, load_contract(recipe.contract), split, 0, CPU, "", 1)
    train(run, split, CPU)
    if work == "evaluation":
        return partial(timed, CPU, partial(evaluate, run.load_model(), split.val, split.mean_std))
    if work == "audit":
        return partial(timed, CPU, partial(audit_run, run, split))
    from ..export.onnx import export_onnx

    return partial(timed, CPU, partial(export_onnx, run, split, False))


_prepared: dict[str, Callable[[], float]] = {}  # of this process: the work that it repeats


def _measure(work: str, threads: int, n_images: int, seconds: float, folder: str) -> float:
    """Seconds of a piece of work in this process."""
    with cpu_threads(threads or torch.get_num_threads()):
        if work not in _prepared:
            _prepared[work] = (
                _epoch(work.removeprefix("epoch of "), seconds)
                if work.startswith("epoch of ")
                else _judged(work, n_images, folder)
            )
            _prepared[work]()  # the first time chooses kernels
        return _prepared[work]()


def bench_load(
    n_busy: int,
    works: tuple[str, ...] = tuple(WORK),
    n_images: int = 2000,
    seconds: float = 5.0,
    on_load: Callable[[Load], None] | None = None,
) -> list[Load]:
    """Each piece of work in a process of its own, alone and then beside `n_busy` processes that multiply matrices.

    Evaluation, audit and export are those of `n_images` validation images; training steps are run for `seconds`."""
    context = multiprocessing.get_context(
        "spawn"
    )  # a process reads OpenMP's variables when it loads it
    go = context.Event()
    others = [context.Process(target=_busy, args=(go,), daemon=True) for _ in range(n_busy)]
    found = []
    try:
        for process in others:
            process.start()
        for work, (how, threads, variables) in [
            (name, way) for name in works for way in WORK[name]
        ]:
            with (
                tempfile.TemporaryDirectory() as folder,
                _environment(variables),
                ProcessPoolExecutor(1, context) as pool,
            ):
                arguments = work, threads, n_images, seconds, folder
                alone = pool.submit(_measure, *arguments).result()
                go.set()
                busy = pool.submit(_measure, *arguments).result()
                go.clear()
            found.append(Load(work, how, alone, busy))
            if on_load is not None:
                on_load(found[-1])
    finally:
        for process in others:
            process.kill()
    return found
