"""Measure a study on local processes and on Ray, and simulate it on a cluster.

Example:
    measured = measure("sprint", epochs=1, runs=8, workers=2)
    simulate(measured, runs=10_000, nodes=100, bandwidth=125e6)         # rows per hour
"""

import dataclasses
import heapq
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from .._ray import connected, pack
from ..contract import load_contract
from ..recipe import find_recipe
from ..splits import contract_split
from ..studies.plan import Plan, Task
from ..studies.ray_workers import RayTasks
from ..studies.study import run_study
from ..studies.workers import Job, LocalProcesses, Workers
from ..tables import Row


@dataclass(frozen=True)
class Measured:
    """The same study on local processes and on a Ray cluster, one thread per worker.

    The time to start Ray is not included."""

    workers: int
    "Number of workers."
    runs: int
    "Number of runs."
    local_seconds: float
    "Seconds for the study on local processes."
    ray_seconds: float
    "Seconds for the study on Ray."
    train_seconds: tuple[float, ...]
    "Seconds that the epochs of each run took on Ray."
    driver_seconds: float
    "Mean seconds per run during which the driver could not dispatch another run."
    images_bytes: int
    "Bytes of the images, which are sent to each node once."
    folder_bytes: int
    "Bytes that a run sends back if the storage is not shared."

    @property
    def ratio(self) -> float:
        """Return the time on Ray divided by the time on local processes."""
        return self.ray_seconds / self.local_seconds

    @property
    def overhead(self) -> float:
        """Return how many seconds longer a run takes on Ray."""
        return (self.ray_seconds - self.local_seconds) * self.workers / self.runs

    @property
    def slot_seconds(self) -> float:
        """Return the mean seconds for which a run occupies a slot on Ray, overhead included."""
        return self.ray_seconds * self.workers / self.runs


class _TimedRayTasks(RayTasks):
    """Ray workers that add up how long the driver waited for them."""

    waited_seconds = 0.0

    def wait(self) -> list[tuple[Job, Row | None]]:
        start = time.perf_counter()
        done = super().wait()
        self.waited_seconds += time.perf_counter() - start
        return done


def measure(recipe: str, epochs: int, runs: int, workers: int) -> Measured:
    """Time a study of the first `epochs` of a preset on MNIST.

    It trains seeds 0 to `runs` - 1, first on `workers` local processes, then on Ray."""
    preset = find_recipe(recipe)
    contract = load_contract(preset.contract)
    split = contract_split(None, contract)
    short = dataclasses.replace(preset, epochs=epochs)
    tasks = tuple(Task(short, contract, seed, None, split.sha256) for seed in range(runs))
    device = torch.device("cpu")

    def time_study(engine: Workers, folder: Path) -> tuple[float, list[Row]]:
        plan = Plan(tasks, test=False)
        start = time.perf_counter()
        rows = run_study(plan, folder / "rows.csv", folder / "runs", device, engine)
        return time.perf_counter() - start, rows

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        local_seconds, _ = time_study(LocalProcesses(workers, 1, device), folder / "local")
        with connected("local", workers):
            ray_tasks = _TimedRayTasks("local", folder / "ray" / "runs", 1, "cpu", workers)
            ray_seconds, rows = time_study(ray_tasks, folder / "ray")
        folder_bytes = len(pack(tasks[0].folder(folder / "ray" / "runs")))
    return Measured(
        workers=workers,
        runs=runs,
        local_seconds=local_seconds,
        ray_seconds=ray_seconds,
        train_seconds=tuple(float(row["seconds"]) for row in rows),
        driver_seconds=(ray_seconds - ray_tasks.waited_seconds) / runs,
        images_bytes=sum(
            part.pixels.nbytes + part.labels.nbytes for part in (split.train, split.val)
        ),
        folder_bytes=folder_bytes,
    )


def simulate(measured: Measured, runs: int, nodes: int, bandwidth: float) -> float:
    """Return the rows per hour of a study on `nodes` machines with `measured.workers` slots each.

    The driver sends the images at `bandwidth` bytes per second to one node after the other, and
    processes one finished run at a time; a slot gets its next run when its row was processed. With
    many runs the rate per second approaches the smaller of 1 / driver_seconds and
    slots / (slot_seconds + driver_seconds + folder_bytes / bandwidth).
    """
    factor = measured.slot_seconds / statistics.fmean(measured.train_seconds)
    run_seconds = [
        factor * seconds + measured.folder_bytes / bandwidth for seconds in measured.train_seconds
    ]
    # When each slot next needs the driver, as a heap: at first when its node has the images.
    requests = [
        (1 + node) * measured.images_bytes / bandwidth
        for node in range(nodes)
        for _ in range(measured.workers)
    ]
    now = 0.0  # when the driver is free again
    for number in range(runs + len(requests)):
        now = max(now, heapq.heappop(requests)) + measured.driver_seconds
        if number < runs:
            heapq.heappush(requests, now + run_seconds[number % len(run_seconds)])
    return 3600 * runs / now
