"""Measure how long work takes on an idle machine and beside other busy processes.

Example:
    for load in bench_load(n_busy=2): print(load.work, load.threading, load.idle, load.busy)
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
from multiprocessing.synchronize import Event

import torch

from ..audit import audit_run
from ..contract import load_contract
from ..data import Images
from ..device import cpu_threads
from ..evaluate import evaluate
from ..export.onnx import export_onnx
from ..recipe import Recipe, find_recipe
from ..run import create_run
from ..splits import contract_split
from ..train import train
from .training import Contestant, timed

Variables = dict[str, str | None]
"Environment variables; None unsets one."


@dataclass(frozen=True)
class Threading:
    """How many threads a process uses, and what its idle threads do."""

    name: str
    threads: int
    "Number of threads; 0 is PyTorch's default."
    variables: Variables
    "Environment variables of the process."


ONE_THREAD = Threading("1 thread", 1, {})
ALL_CORES = Threading("all cores", 0, {})
# Without these variables, OpenMP's idle threads spin as long as is its default.
SPINNING = Threading(
    "all cores, idle threads spin", 0, {"GOMP_SPINCOUNT": None, "KMP_BLOCKTIME": None}
)
WORKLOADS: dict[str, tuple[Threading, ...]] = {
    # A recipe without ghost batches; `bench train` has one whose workers share them.
    "epoch of baseline": (ONE_THREAD, ALL_CORES, SPINNING),
    "evaluation": (ONE_THREAD, ALL_CORES, SPINNING),
    "audit": (ALL_CORES, SPINNING),
    "export": (ALL_CORES, SPINNING),
}
EPOCH_OF = "epoch of "
JUDGED_RECIPE = "feather-20k"  # whose network is evaluated, audited and exported
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Load:
    """Times of one piece of work."""

    work: str
    "Name of the work, a key of WORKLOADS."
    threading: str
    "Number of threads, and what idle ones do."
    idle: float
    "Seconds on an otherwise idle machine."
    busy: float
    "Seconds beside the busy processes."


@contextlib.contextmanager
def _environment(variables: Variables) -> Iterator[None]:
    """Change the environment of the processes that are started inside the context."""
    before = dict(os.environ)
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _multiply_matrices(active: Event) -> None:
    """Keep one core busy whenever the event is set."""
    torch.set_num_threads(1)
    matrix = torch.randn(512, 512)
    while True:
        active.wait()
        torch.mm(matrix, matrix)


@contextlib.contextmanager
def busy_processes(n: int) -> Iterator[Event]:
    """Start n processes that multiply matrices while the event is set; end them afterwards."""
    context = multiprocessing.get_context("spawn")
    active = context.Event()
    processes = [
        context.Process(target=_multiply_matrices, args=(active,), daemon=True) for _ in range(n)
    ]
    try:
        for process in processes:
            process.start()
        yield active
    finally:
        for process in processes:
            process.kill()


def _prepare_epoch(recipe: Recipe, seconds: float) -> Callable[[], float]:
    """Return a function that times training steps, and returns the seconds of a whole epoch."""
    contract = load_contract(recipe.contract)
    split = contract_split(None, contract)
    contestant = Contestant(recipe, split, CPU)

    def time_epoch() -> float:
        start, n_steps = time.perf_counter(), 0
        while n_steps < 3 or time.perf_counter() - start < seconds:
            contestant.run(1)
            n_steps += 1
        return (time.perf_counter() - start) / n_steps * contestant.trainer.steps_per_epoch

    return time_epoch


def _prepare_judging(work: str, recipe: Recipe, n_images: int, folder: str) -> Callable[[], float]:
    """Train a network for one epoch; return a function that times its evaluation, audit or export.

    1,000 training images are enough, because the accuracy does not matter here."""
    contract = load_contract(recipe.contract)
    split = contract_split(None, contract)
    split = replace(
        split,
        train=Images(split.train.pixels[:1000], split.train.labels[:1000]),
        val=Images(split.val.pixels[:n_images], split.val.labels[:n_images]),
    )
    run = create_run(f"{folder}/run", replace(recipe, epochs=1), contract, split, 0, CPU, "", 1)
    train(run, split, CPU)
    if work == "evaluation":
        return partial(timed, CPU, partial(evaluate, run.load_model(), split.val, split.mean_std))
    if work == "audit":
        return partial(timed, CPU, partial(audit_run, run, split))
    return partial(timed, CPU, partial(export_onnx, run, split, int8=False))


_prepared: dict[str, Callable[[], float]] = {}  # in a worker process: work that is ready to time


def _time_work(work: str, threads: int, n_images: int, seconds: float, folder: str) -> float:
    """Return the seconds that a piece of work takes in this process."""
    with cpu_threads(threads or torch.get_num_threads()):
        if work not in _prepared:
            if work.startswith(EPOCH_OF):
                recipe = find_recipe(work.removeprefix(EPOCH_OF))
                _prepared[work] = _prepare_epoch(recipe, seconds)
            else:
                recipe = find_recipe(JUDGED_RECIPE)
                _prepared[work] = _prepare_judging(work, recipe, n_images, folder)
            _prepared[work]()  # warm up: the first time chooses kernels
        return _prepared[work]()


def bench_load(
    n_busy: int,
    works: tuple[str, ...] = tuple(WORKLOADS),
    n_images: int = 2000,
    seconds: float = 5.0,
    on_load: Callable[[Load], None] | None = None,
) -> list[Load]:
    """Time work on the idle machine, then beside `n_busy` processes that multiply matrices.

    Each workload runs in a process of its own. Evaluation, audit and export use `n_images`
    validation images; training steps are repeated for `seconds`. `on_load` is called with each
    result."""
    # A new process each time, because OpenMP reads its variables only when it is loaded.
    context = multiprocessing.get_context("spawn")
    loads = []
    pairs = [(work, threading) for work in works for threading in WORKLOADS[work]]
    with busy_processes(n_busy) as active:
        for work, threading in pairs:
            with (
                tempfile.TemporaryDirectory() as folder,
                _environment(threading.variables),
                ProcessPoolExecutor(1, context) as pool,
            ):
                arguments = work, threading.threads, n_images, seconds, folder
                idle = pool.submit(_time_work, *arguments).result()
                active.set()
                busy = pool.submit(_time_work, *arguments).result()
                active.clear()
            loads.append(Load(work, threading.name, idle, busy))
            if on_load is not None:
                on_load(loads[-1])
    return loads
