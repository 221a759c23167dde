"""A process that judges one submission after the other, each in a process of its own.

    with Grader(settings) as grader:
        grader.receive()                                  # READY
        grader.send(Task(submission, Path("run")))
        answer = grader.receive()

The process imports PyTorch, forks the server that exports networks (forks.py), and then loads the
images. For each submission it has the network exported in a confined process, and forks another
one with limits that judges its graph: what a graph does there, for example fill the memory, ends
that one alone.
"""

import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from .._confine import limit
from .._markdown import block
from ..apart import MAX_BYTES, MAX_LINE
from ..errors import InputError
from .markdown import unjudged
from .settings import Settings
from .submissions import Submission
from .table import Answer, to_answer

JUDGE_SECONDS = 900  # of CPU time that judging may take, without a training
TRAIN_SECONDS = 7 * 24 * 3600
READY = "ready"
# One thread: a process with several can't be forked safely. A GPU has threads too.
ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    "CUDA_VISIBLE_DEVICES": "",
}


@dataclass(frozen=True)
class Task:
    """A submission to judge."""

    submission: Submission
    work: Path
    "The folder of its run, if it is trained."


@dataclass(frozen=True)
class HandedOut:
    """A file whose networks' digests are asked for; None stands for this package's networks."""

    file: Path | None


class Grader:
    """The process, from outside."""

    def __init__(self, settings: Settings) -> None:
        here, there = socket.socketpair()
        code = f"import sys; sys.path[:] = {sys.path!r}; "
        code += "from featherweight.grading.grader import work; work()"
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", code, str(there.fileno())],
            env=os.environ | ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=(there.fileno(),),
            start_new_session=True,  # Ctrl-C is the main process's
        )
        there.close()
        self.connection = Connection(here.detach())
        self.connection.send(settings)

    def __enter__(self) -> "Grader":
        """Return the process."""
        return self

    def __exit__(self, *error: object) -> None:
        """End the process, and with it all that it has started."""
        self.process.kill()
        self.process.wait()
        self.connection.close()

    def send(self, task: Task | HandedOut) -> None:
        """Give it something to do."""
        self.connection.send(task)

    def receive(self) -> Any:
        """Return the answer to a task; at first READY.

        Raises the exception of the process, and ChildProcessError if it was ended."""
        try:
            answer = self.connection.recv()
        except (EOFError, ConnectionError) as error:
            code = self.process.wait()
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            raise ChildProcessError(f"the process that judges was ended by {how}") from error
        if isinstance(answer, BaseException):
            raise answer
        return answer


def work() -> None:
    """Judge what is asked for, in the process."""
    connection = Connection(int(sys.argv[1]))
    settings = connection.recv()
    try:
        judge_one = _prepare(settings)
    except BaseException as error:
        connection.send(error if isinstance(error, InputError) else RuntimeError(_trace()))
        return
    connection.send(READY)
    while True:
        try:
            task = connection.recv()
        except (EOFError, ConnectionError):
            return
        connection.send(judge_one(task, connection))


def _trace() -> str:
    return traceback.format_exc()


def _prepare(settings: Settings) -> Callable[[Any, Connection], Any]:
    """Import and load what every submission needs; return the function that judges one."""
    import torch

    from ..capture import capture
    from ..passes import audit_passes
    from ..splits import contract_split, split_faults
    from . import exports, judge
    from .forks import fork, start_forks

    torch.set_num_threads(1)
    # The first export imports and builds what all others use.
    warm = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.Dropout(0.1), torch.nn.Flatten()
    )
    capture(warm, audit_passes((1, 8, 8)))
    forks = start_forks()
    split = contract_split(settings.data, settings.contract)
    # These are kept, so that no child computes them again.
    _ = split.sha256, split.mean_std, split_faults(split, settings.contract)

    def judge_one(task: Any, connection: Connection) -> Any:
        if isinstance(task, HandedOut):
            try:
                if task.file is None:
                    return exports.built_in(split)
                return exports.handed_out(task.file, split, forks)
            except InputError as error:
                return error
        submission = task.submission
        try:
            found = exports.export(submission, split, settings, forks)
        except RuntimeError as error:  # in the confined process, where anything may be changed
            return _failed(submission, settings, str(error))
        reader, writer = os.pipe()
        trained = settings.train is not None and submission.weights is None
        seconds = TRAIN_SECONDS if trained else JUDGE_SECONDS
        child = fork()
        if child == 0:
            limit(seconds, MAX_BYTES)
            try:
                graded = judge.judge(submission, found, split, settings, task.work)
                content = to_answer(graded)
            except Exception:
                content = _bug(submission, settings, _trace())
            with open(writer, "wb") as file:
                pickle.dump(content, file)
            os._exit(0)
        os.close(writer)
        answer = _wait(child, reader, connection, submission, settings, seconds)
        return replace(answer, again=found.late) if found.problem is not None else answer

    return judge_one


def _wait(
    child: int,
    reader: int,
    connection: Connection,
    submission: Submission,
    settings: Settings,
    seconds: int,
) -> Answer:
    """Return the answer of a process that judges; end with it if the main process has ended."""
    content = b""
    with open(reader, "rb", buffering=0) as file:
        while True:
            ready, _, _ = select.select([file.fileno(), connection.fileno()], [], [])
            if (
                connection.fileno() in ready
            ):  # nothing is sent meanwhile, so the main process has ended
                os._exit(1)
            piece = os.read(file.fileno(), 2**20)
            if not piece:
                break
            content += piece
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == 0:
        answer: Answer = pickle.loads(content)
        return answer
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    why = f"judging its graph was ended by {how}: it takes more than {seconds} s of CPU time or "
    error = InputError(f"{why}{MAX_BYTES // 2**30} GiB of memory", hint="make the network smaller")
    return to_answer(unjudged(submission, settings.contract, error))


def _last(trace: str) -> str:
    """Return the last line of a traceback, which a student's code may have written."""
    return next(iter(trace.strip().splitlines()[-1:]), "without a reason")[:MAX_LINE]


def _failed(submission: Submission, settings: Settings, trace: str) -> Answer:
    """Return what is said where exporting fails in a way that a network's own code does not."""
    error = InputError(
        f"exporting it failed: {_last(trace)}",
        hint="leave PyTorch and Python as they are; if it does, report a bug of Featherweight",
    )
    answer = to_answer(unjudged(submission, settings.contract, error))
    return replace(answer, report=answer.report + block(trace))


def _bug(submission: Submission, settings: Settings, trace: str) -> Answer:
    """Return what is said where this package has failed, so that the others are judged."""
    error = InputError(
        f"Featherweight failed: {_last(trace)}",
        hint="nothing: this is a bug of Featherweight, which the report of this submission shows",
    )
    answer = to_answer(unjudged(submission, settings.contract, error))
    return replace(answer, report=answer.report + block(trace), bug=trace)
