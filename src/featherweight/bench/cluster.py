"""What a study gains from more workers and more machines: measured here, computed for a cluster.

measured = measure("sprint", epochs=1, runs=8, workers=2)
simulate(measured, runs=10_000, nodes=100, bandwidth=125e6)         # rows an hour
"""

import dataclasses
import heapq
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from .._ray import connected
from ..contract import load_contract
from ..recipe import find_recipe
from ..studies.plan import Plan, Task
from ..studies.ray_workers import RayTasks, pack
from ..studies.study import Job, LocalProcesses, Row, Workers, run_study


@dataclass(frozen=True)
class Measured:
    """The same runs on local processes and then on Ray, which had been started; as many at a time, a thread each."""

    workers: int
    runs: int
    local_seconds: float
    ray_seconds: float
    train_seconds: tuple[float, ...]
    "Of each run on Ray, its epochs alone."
    driver_seconds: float
    "That the driver was busy with a run, so that no other could be given out; a mean."
    images_bytes: int
    "Sent to each node once."
    folder_bytes: int
    "Sent back for each run where storage is not shared."

    @property
    def ratio(self) -> float:
        return self.ray_seconds / self.local_seconds

    @property
    def overhead(self) -> float:
        """Seconds that a run takes longer on Ray."""
        return (self.ray_seconds - self.local_seconds) * self.workers / self.runs

    @property
    def place_seconds(self) -> float:
        """That a run has its place on Ray, all that is beside its epochs included; a mean."""
        return self.ray_seconds * self.workers / self.runs


class _Watched(RayTasks):
    """Ray's tasks, and how long the driver waited for them."""

    waited = 0.0

    def wait(self) -> list[tuple[Job, Row | None]]:
        start = time.perf_counter()
        done = super().wait()
        self.waited += time.perf_counter() - start
        return done


def measure(recipe: str, epochs: int, runs: int, workers: int) -> Measured:
    """Train seeds 0 to `runs` - 1 of a preset's first epochs on the embedded MNIST, `workers` at a time."""
    preset = find_recipe(recipe)
    short = dataclasses.replace(preset, epochs=epochs)
    tasks = tuple(Task(short, load_contract(preset.contract), seed, None) for seed in range(runs))
    split, device = tasks[0].load_split(), torch.device("cpu")

    def timed(engine: Workers, folder: Path) -> tuple[float, list[Row]]:
        start = time.perf_counter()
        rows = run_study(
            Plan(tasks, test=False), folder / "rows.csv", folder / "runs", device, engine
        )
        return time.perf_counter() - start, rows

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        local, _ = timed(LocalProcesses(workers, 1, device), folder / "local")
        with connected("local", workers):
            watched = _Watched("local", folder / "ray" / "runs", 1, "cpu", workers)
            remote, rows = timed(watched, folder / "ray")
        size = len(pack(tasks[0].folder(folder / "ray" / "runs")))
    return Measured(
        workers,
        runs,
        local,
        remote,
        tuple(float(row["seconds"]) for row in rows),
        (remote - watched.waited) / runs,
        sum(part.pixels.nbytes + part.labels.nbytes for part in (split.train, split.val)),
        size,
    )


def simulate(measured: Measured, runs: int, nodes: int, bandwidth: float) -> float:
    """Rows an hour of a study of `runs` on that many nodes, each with as many places as were measured.

    The driver's machine sends at `bandwidth` bytes a second, to one node after the other, and takes rows one after
    the other; a place gets its next run when its row has been taken. With many runs this comes near to the least of
    places / (place_seconds + driver_seconds + folder_bytes / bandwidth) and 1 / driver_seconds, a second.
    """
    factor = measured.place_seconds / statistics.fmean(measured.train_seconds)
    times = [
        factor * seconds + measured.folder_bytes / bandwidth for seconds in measured.train_seconds
    ]
    # When each place next needs the driver: at first, when its node has the images.
    asks = [
        (1 + node) * measured.images_bytes / bandwidth
        for node in range(nodes)
        for _ in range(measured.workers)
    ]
    driver = 0.0
    for number in range(runs + len(asks)):
        driver = max(driver, heapq.heappop(asks)) + measured.driver_seconds
        if number < runs:
            heapq.heappush(asks, driver + times[number % len(times)])
    return 3600 * runs / driver
