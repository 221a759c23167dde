"""Run a study's jobs as tasks of a Ray cluster (Moritz et al. 2018), with the rows of local runs.

    runs = Path("runs")
    workers = RayTasks("auto", runs, threads=1, device="cpu", cpus=None)   # a running cluster
    workers = RayTasks("local", runs, threads=1, device="cpu", cpus=2)     # one started here
    rows = run_study(plan, table, runs, device, workers)

The images are sent to each node once, through Ray's object store. If a node sees the driver's
folder of runs on shared storage, the task works there, and a run whose node is lost resumes from
its last epoch. Otherwise the task works in a temporary folder and sends it back when the run is
done, and a run whose node is lost starts again. Every node needs featherweight and the modules of
your own networks.
"""

import contextlib
import io
import shutil
import tarfile
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError

from .._files import new_folder
from .._locks import hold
from .._ray import connected
from ..data import Split
from ..device import pick_device
from ..tables import Row
from .workers import Job, run_task

MAX_RETRIES = 10  # of a job whose node or process was lost, before the study stops


def pack(folder: Path) -> bytes:
    """Return a run folder as one tar file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(folder, ".")
    return buffer.getvalue()


def _safe_member(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo:
    """Refuse members that are unsafe to unpack, and leave permissions to the umask."""
    member = tarfile.data_filter(member, folder)
    member.mode = None  # type: ignore[assignment]  # the file keeps the mode it is created with
    return member


def unpack(content: bytes, folder: Path) -> None:
    """Write a packed run folder to `folder`, replacing an unfinished one.

    The folder appears complete or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = new_folder(folder.parent, ".new-")
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            archive.extractall(temporary / "run", filter=_safe_member)
        with hold(f"{folder}.lock"):
            if folder.exists():
                folder.rename(temporary / "old")
            (temporary / "run").rename(folder)
    finally:
        shutil.rmtree(temporary)


def _run_on_node(
    job: Job,
    split: Split,
    packed: bytes | None,
    driver_file: Path,
    driver_directory: Path,
    threads: int,
    device: str,
    block: bool,
) -> tuple[Row | None, bytes | None]:
    """Run a job on a node of the cluster.

    `packed` is the run folder if it exists, `driver_file` a file in the driver's folder of runs.
    Returns the row, and the packed run folder unless the driver sees it on shared storage."""
    torch.set_num_threads(threads)
    # Your own networks are imported from the driver's working directory, where it exists.
    with contextlib.chdir(driver_directory if driver_directory.is_dir() else Path.cwd()):
        where = pick_device(device)

        def run(folder: Path) -> Row | None:
            return run_task(job.task, split, folder, where, block=block, on_epoch=job.on_epoch)

        if driver_file.exists():  # the storage is shared
            return run(job.folder), None
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / job.folder.name
            if packed is not None:
                unpack(packed, folder)
            row = run(folder)
            return row, pack(folder)


class RayTasks:
    """The jobs of one study on one Ray cluster.

    `address` is that of a running cluster, "auto" for the one that this machine belongs to, or
    "local" to start one with `cpus` CPUs. Each job reserves `threads` CPUs, and a GPU if `device`
    is "cuda", or "auto" and the cluster has one. Raises OSError if a job is lost for good."""

    def __init__(
        self, address: str, runs: Path, threads: int, device: str, cpus: int | None
    ) -> None:
        self._address, self._cpus = address, cpus
        self._runs, self._threads, self._device = runs.absolute(), threads, device
        self._jobs: dict[ray.ObjectRef[Any], Job] = {}
        self._splits: dict[tuple[str | None, int, int], ray.ObjectRef[Any]] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "RayTasks":
        """Connect to the cluster, or start it."""
        self._stack.enter_context(connected(self._address, self._cpus))
        # Only nodes that share the driver's storage see this file.
        self._runs.mkdir(parents=True, exist_ok=True)
        driver_file = tempfile.NamedTemporaryFile(dir=self._runs, prefix=".driver-")
        self._driver_file = Path(self._stack.enter_context(driver_file).name)
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
        """Cancel the remaining jobs and disconnect."""
        for ref in self._jobs:
            ray.cancel(ref, force=True)
        self._jobs.clear()
        self._splits.clear()
        self._stack.close()

    @property
    def slots(self) -> int:
        """Return how many jobs fit on the cluster now, plus one that waits for a free slot."""
        resources = ray.cluster_resources()
        fitting = resources.get("GPU", 0) if self._gpus else resources.get("CPU", 0) / self._threads
        return int(fitting) + 1

    def submit(self, job: Job, *, block: bool) -> None:
        """Start the job on the next free slot of the cluster."""
        task = job.task
        source = task.data, task.contract.train_size, task.contract.val_size
        if source not in self._splits:
            split = task.load_split()
            _ = split.sha256, split.mean_std  # cached, so that no task computes them again
            self._splits[source] = ray.put(split)
        remote = ray.remote(_run_on_node).options(
            num_cpus=self._threads,
            num_gpus=self._gpus,
            max_retries=MAX_RETRIES,
            name=job.folder.name,
        )
        ref = remote.remote(
            Job(task, job.folder.absolute(), job.on_epoch),
            self._splits[source],
            pack(job.folder) if job.folder.exists() else None,
            self._driver_file,
            Path.cwd(),
            self._threads,
            "cuda" if self._gpus else "cpu",
            block,
        )
        self._jobs[ref] = job

    def wait(self) -> list[tuple[Job, Row | None]]:
        """Wait for a job and return it with its row. Raises what the job raised."""
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
