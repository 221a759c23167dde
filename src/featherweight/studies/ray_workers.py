"""A study's jobs as tasks of a Ray cluster (Moritz et al. 2018); the rows are those of local processes.

    with RayTasks("auto", Path("runs"), threads=1, device="cpu", cpus=None) as workers: ...     # a running cluster
    rows = run_study(plan, table, Path("runs"), device, RayTasks("local", Path("runs"), 1, "cpu", cpus=2))

The images go to each node once, through the object store. A task that sees the driver's folder of runs works in it,
so what a lost node leaves is gone on with from its last epoch; one that doesn't works in a folder of its own and
sends that back whole, so what is lost starts anew. Each node needs featherweight, and the modules of own networks.
"""

import contextlib
import io
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import ray
import torch
from filelock import FileLock
from ray.exceptions import RayError, RayTaskError

from .._files import new_folder
from .._ray import connected
from ..data import Split
from ..device import pick_device
from ..run import Row as Epoch
from .plan import Task
from .study import Job, Row, run_task

RETRIES = 10  # of a job whose node or process was lost; then the study stops


def pack(folder: Path) -> bytes:
    """A run's folder as one tar file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(folder, ".")
    return buffer.getvalue()


def _as_here(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo:
    """What is safe to unpack, with the permissions that the umask leaves."""
    member = tarfile.data_filter(member, folder)
    member.mode = None  # type: ignore[assignment]  # it is then left as the file is made
    return member


def unpack(content: bytes, folder: Path) -> None:
    """Write a packed folder whole, in the place of an unfinished one if there is one."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = new_folder(folder.parent, ".new-")
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            archive.extractall(temporary / "run", filter=_as_here)
        with FileLock(f"{folder}.lock"):
            if folder.exists():
                folder.rename(temporary / "old")
            (temporary / "run").rename(folder)
    finally:
        shutil.rmtree(temporary)


def _run_there(
    task: Task,
    split: Split,
    folder: Path,
    packed: bytes | None,
    mark: Path,
    here: Path,
    threads: int,
    device: str,
    block: bool,
    on_epoch: Callable[[Epoch], None],
) -> tuple[Row | None, bytes | None]:
    """On a node: the job's row, and its folder packed where the driver can't see it."""
    torch.set_num_threads(threads)
    with contextlib.chdir(
        here if here.is_dir() else Path.cwd()
    ):  # own networks are looked for there
        if mark.exists():
            return run_task(task, split, folder, pick_device(device), block, on_epoch), None
        with tempfile.TemporaryDirectory() as name:
            own = Path(name) / folder.name
            if packed is not None:
                unpack(packed, own)
            row = run_task(task, split, own, pick_device(device), block, on_epoch)
            return row, pack(own)


class RayTasks:
    """The jobs of one study on one cluster. Each states `threads` CPUs, and a GPU where `device` is cuda, or auto
    and the cluster has one; `cpus` is the size of a local cluster. Raises OSError where a job is lost for good."""

    def __init__(
        self, address: str, runs: Path, threads: int, device: str, cpus: int | None
    ) -> None:
        self._address, self._runs, self._threads, self._cpus = (
            address,
            runs.absolute(),
            threads,
            cpus,
        )
        self._device = device
        self._jobs: dict[ray.ObjectRef[Any], Job] = {}
        self._splits: dict[tuple[str | None, int, int], ray.ObjectRef[Any]] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "RayTasks":
        self._stack.enter_context(connected(self._address, self._cpus))
        # A file that only those who share the driver's storage see.
        self._runs.mkdir(parents=True, exist_ok=True)
        mark = tempfile.NamedTemporaryFile(dir=self._runs, prefix=".driver-")
        self._mark = Path(self._stack.enter_context(mark).name)
        self._gpus = int(
            self._device == "cuda"
            or (self._device == "auto" and ray.cluster_resources().get("GPU", 0) >= 1)
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for ref in self._jobs:
            ray.cancel(ref, force=True)
        self._jobs.clear()
        self._splits.clear()
        self._stack.close()

    @property
    def slots(self) -> int:
        """As many as the cluster has room for now, and one that waits: for the next free place, or a new node."""
        resources = ray.cluster_resources()
        places = resources.get("GPU", 0) if self._gpus else resources.get("CPU", 0) / self._threads
        return int(places) + 1

    def submit(self, job: Job, block: bool) -> None:
        task = job.task
        source = task.data, task.contract.train_size, task.contract.val_size
        if source not in self._splits:
            split = task.load_split()
            _ = split.sha256, split.mean_std  # kept with it, so that no task computes them again
            self._splits[source] = ray.put(split)
        work = ray.remote(_run_there).options(
            num_cpus=self._threads, num_gpus=self._gpus, max_retries=RETRIES, name=job.folder.name
        )
        ref = work.remote(
            task,
            self._splits[source],
            job.folder.absolute(),
            pack(job.folder) if job.folder.exists() else None,
            self._mark,
            Path.cwd(),
            self._threads,
            "cuda" if self._gpus else "cpu",
            block,
            job.on_epoch,
        )
        self._jobs[ref] = job

    def wait(self) -> list[tuple[Job, Row | None]]:
        done, _ = ray.wait(list(self._jobs), num_returns=1)
        job = self._jobs.pop(done[0])
        try:
            row, packed = ray.get(done[0])
        except RayTaskError as error:
            raise error.cause from error
        except RayError as error:
            raise OSError(f"{job.folder.name}: lost: {str(error).splitlines()[0]}") from error
        if packed is not None:
            unpack(packed, job.folder)
        return [(job, row)]
