"""Run a study's jobs side by side: one worker trains and audits one run at a time.

Example:
    with LocalProcesses(workers=2, threads=1, device=device) as workers:
        for job, row in run_jobs(jobs, workers): print(row["recipe"], row["verdict"])

`ray_workers.RayTasks` runs the same jobs on a Ray cluster and returns the same rows.
"""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import torch
from filelock import Timeout

from .._locks import hold, lock_beside
from ..audit import Evidence, audit_run
from ..data import Split
from ..errors import NoGraphError
from ..run import Run, RunBusyError, create_run, open_run
from ..tables import Row
from ..train import DivergedError, export_network, train
from .plan import Task
from .rows import Outcome, make_row

OnEpoch = Callable[[dict[str, Any]], None]
"Called with the metrics of each finished epoch."


class StoppedError(Exception):
    """Raised by a job's `on_epoch` callback to stop a run that is not worth finishing."""


@dataclass(frozen=True)
class Job:
    """A run to train. It must be picklable, because it is sent to other processes."""

    task: Task
    folder: Path
    "Run folder."
    on_epoch: OnEpoch | None = None
    "Called in the worker after every epoch."


def run_task(
    task: Task,
    split: Split,
    folder: Path,
    device: torch.device,
    *,
    block: bool,
    on_epoch: OnEpoch | None = None,
) -> Row | None:
    """Train and audit one run and return its row. An interrupted run is resumed.

    If another process is training the run, return None, or with `block` wait until it is done.
    The lock beside the folder is for studies, which make and replace it; the run's own, which is
    always taken second, is for whoever resumes the run by hand. Raises what `create_run`,
    `open_run`, `train` and `audit_run` raise, except divergence."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with hold(lock_beside(folder), -1 if block else 0):
            if folder.exists():
                run = open_run(folder)
            else:
                try:
                    graph = export_network(task.recipe, split, task.seed)
                except NoGraphError:  # its code is trained here, and watched: see `load_plan`
                    graph = None
                run = create_run(
                    str(folder),
                    task.recipe,
                    task.contract,
                    split,
                    task.seed,
                    device,
                    "featherweight study",
                    graph=graph,
                )
            with run.lock(wait=block):
                return _train_and_audit(run, split, device, on_epoch)
    except (Timeout, RunBusyError):
        return None


def _train_and_audit(run: Run, split: Split, device: torch.device, on_epoch: OnEpoch | None) -> Row:
    try:
        if on_epoch is None:
            train(run, split, device)
        else:
            train(run, split, device, on_epoch)
    except DivergedError:
        return make_row(run, Outcome.DIVERGED, None)
    except StoppedError:
        return make_row(run, Outcome.STOPPED, None)
    evidence: Evidence = "watched" if run.needs_code else "graph"
    verdict, _ = audit_run(run, split, device=device, evidence=evidence)
    run.write_json("verdict.json", verdict.to_dict())
    return make_row(run, Outcome.PASS if verdict.passed else Outcome.FAIL, verdict.n_params)


class Workers(Protocol):
    """Something that runs jobs side by side. An exception inside its context stops all jobs."""

    def __enter__(self) -> "Workers": ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    @property
    def slots(self) -> int:
        """Return how many jobs to keep submitted at a time."""

    def submit(self, job: Job, *, block: bool) -> None:
        """Start `run_task` on the job and return at once."""

    def wait(self) -> list[tuple[Job, Row | None]]:
        """Wait for a job and return the finished jobs with the results of `run_task`.

        Raises what a job raised."""


class LocalProcesses:
    """Worker processes on this machine. Each loads the images once."""

    def __init__(self, workers: int, threads: int, device: torch.device) -> None:
        self.slots, self._device = workers, device
        # Forking would copy locks that other threads of this process hold.
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(workers, context, _start_worker, (threads,))
        self._jobs: dict[Future[Row | None], Job] = {}

    def __enter__(self) -> "LocalProcesses":
        """Return the workers."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the processes; after an exception, without waiting for their jobs."""
        self._pool.shutdown(wait=kind is None, cancel_futures=True)
        if kind is not None:
            for process in multiprocessing.active_children():
                process.terminate()

    def submit(self, job: Job, *, block: bool) -> None:
        """Queue the job for the next free process."""
        self._jobs[self._pool.submit(_run_job, job, self._device, block)] = job

    def wait(self) -> list[tuple[Job, Row | None]]:
        """Wait for a job and return the finished jobs with their rows."""
        done, _ = wait(self._jobs, return_when=FIRST_COMPLETED)
        return [(self._jobs.pop(future), future.result()) for future in done]


def _start_worker(threads: int) -> None:
    """Prepare a worker process: set its threads, and end it when the study's process ends."""
    torch.set_num_threads(threads)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)  # the next study resumes the run from its last finished epoch

    threading.Thread(target=end_with_parent, daemon=True).start()


def _run_job(job: Job, device: torch.device, block: bool) -> Row | None:
    split = job.task.load_split()
    return run_task(job.task, split, job.folder, device, block=block, on_epoch=job.on_epoch)


def run_jobs(jobs: Iterable[Job], workers: Workers) -> Iterator[tuple[Job, Row]]:
    """Yield each job with its row, in the order in which they finish.

    The next job is taken from the iterable only when a worker is free for it."""
    remaining, n_running = iter(jobs), 0
    busy: list[Job] = []  # jobs that another study is training
    while True:
        while n_running < workers.slots:
            if (job := next(remaining, None)) is not None:
                workers.submit(job, block=False)
            elif busy:  # nothing else is left to train, so wait for the other study
                workers.submit(busy.pop(0), block=True)
            else:
                break
            n_running += 1
        if not n_running:
            return
        for job, row in workers.wait():
            n_running -= 1
            if row is None:
                busy.append(job)
            else:
                yield job, row
