"""Judge submissions on a Ray cluster (Moritz et al. 2018), with the rows of local processes.

    with RayGraders("auto", settings, cpus=None) as graders:     # a running cluster
        rows = grade(find_submissions("submissions/"), settings, Path("grades.csv"), graders)

A node gets the files of each submission, and sends back what was found. Every node needs
featherweight, and the data set at the same path unless it is MNIST. A submission whose node is lost
is judged again on another one.
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from .._ray import connected, pack, unpack
from ..errors import InputError
from .grader import Grader, HandedOut, Task
from .markdown import unjudged
from .settings import Settings
from .submissions import Submission
from .table import Answer, to_answer

MAX_RETRIES = 3  # of a submission whose node or process was lost
OUTSIDE = "outside"  # folder of files that are not below what was handed in


def bundle(submission: Submission) -> dict[str, bytes]:
    """Return the content of a submission's files, by their paths below its folder."""
    return {_inside(path, submission): path.read_bytes() for path in submission.files()}


def _inside(path: Path, submission: Submission) -> str:
    base = submission.root if submission.root.is_dir() else submission.root.parent
    within = path.is_relative_to(base)
    return os.path.relpath(path, base) if within else f"{OUTSIDE}/{path.name}"


def unbundle(submission: Submission, files: dict[str, bytes], folder: Path) -> Submission:
    """Write the files of a bundle to a folder, and return the submission with its paths there."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def moved(path: Path | None) -> Path | None:
        return None if path is None else folder / _inside(path, submission)

    root = folder if submission.root.is_dir() else folder / submission.root.name
    return replace(
        submission, root=root, file=moved(submission.file), weights=moved(submission.weights)
    )


class _Node:
    """An actor with a process that judges; ours and not Ray's own, which has several threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._grader, self._ready = settings, Grader(settings), False

    def _ask(self, task: Task | HandedOut) -> Any:
        if not self._ready:
            self._grader.receive()
            self._ready = True
        self._grader.send(task)
        try:
            return self._grader.receive()
        except ChildProcessError:
            self._grader, self._ready = Grader(self._settings), False
            raise

    def digests(self, name: str | None, content: bytes) -> list[str]:
        """Return the digests of the networks in a file, or with None of this package's."""
        with tempfile.TemporaryDirectory() as folder:
            file = None if name is None else Path(folder) / name
            if file is not None:
                file.write_bytes(content)
            found: list[str] = self._ask(HandedOut(file))
        return found

    def judge(
        self, submission: Submission, files: dict[str, bytes], run: bytes | None, work: str
    ) -> Answer:
        """Judge a submission, and return its run folder with the answer."""
        with tempfile.TemporaryDirectory() as folder:
            there = unbundle(submission, files, Path(folder) / "submission")
            trained = Path(folder) / work
            if run is not None:
                unpack(run, trained)
            answer: Answer = self._ask(Task(there, trained))
            if not trained.exists():
                return answer
            return replace(answer, folders={work: pack(trained)})


class RayGraders:
    """Actors on a Ray cluster, one for each CPU.

    `address` is that of a running cluster, "auto" for the one that this machine belongs to, or
    "local" to start one with `cpus` CPUs."""

    def __init__(self, address: str, settings: Settings, cpus: int | None) -> None:
        data = None if settings.data is None else str(Path(settings.data).absolute())
        self._settings = replace(settings, data=data)
        self._address, self._cpus = address, cpus
        self._actors: list[Any] = []
        self._stack = ExitStack()

    def __enter__(self) -> "RayGraders":
        """Connect to the cluster, or start it."""
        self._stack.enter_context(connected(self._address, self._cpus))
        return self

    def __exit__(self, *error: object) -> None:
        """End the actors, and disconnect."""
        for actor in self._actors:
            ray.kill(actor)
        self._stack.close()

    def _start(self, n: int) -> list[Any]:
        most = max(1, int(ray.cluster_resources().get("CPU", 1)))
        node = ray.remote(_Node).options(num_cpus=1, max_restarts=-1, max_task_retries=MAX_RETRIES)
        while len(self._actors) < min(n, most):
            self._actors.append(node.remote(self._settings))
        return self._actors[: min(n, most)]

    def digests(self, files: Sequence[Path | None]) -> set[str]:
        """Return the digests of the networks in files."""
        found: set[str] = set()
        for file in files:
            (actor,) = self._start(1)
            name, content = (None, b"") if file is None else (file.name, file.read_bytes())
            found |= set(self._get(actor.digests.remote(name, content)))
        return found

    def answers(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, Answer]]:
        """Yield each task with its answer, as they are finished."""
        remaining = iter(tasks)
        busy: dict[Any, tuple[Any, Task]] = {}

        def give(actor: Any) -> None:
            if (task := next(remaining, None)) is not None:
                run = pack(task.work) if task.work.exists() else None
                files = bundle(task.submission)
                ref = actor.judge.remote(task.submission, files, run, task.work.name)
                busy[ref] = actor, task

        for actor in self._start(len(tasks)):
            give(actor)
        while busy:
            done, _ = ray.wait(list(busy), num_returns=1)
            actor, task = busy.pop(done[0])
            try:
                answer = self._get(done[0])
                for content in answer.folders.values():
                    unpack(content, task.work)
            except ChildProcessError as error:
                problem = InputError(str(error), hint="run the same command again")
                answer = to_answer(unjudged(task.submission, self._settings.contract, problem))
                answer = replace(answer, again=True)
            give(actor)
            yield task, answer

    def _get(self, ref: Any) -> Any:
        """Return a result. Raises what the actor raised, and ChildProcessError if it is lost."""
        try:
            return ray.get(ref)
        except RayTaskError as error:
            raise error.cause from error
        except RayError as error:
            raise ChildProcessError(f"its node was lost: {str(error).splitlines()[0]}") from error
