"""Measure reading: PyTorch eager, ONNX Runtime float and int8, in turn in one process; then whole processes.

for engine in bench_predict(run, split): print(engine.name, engine.rates[1].p50, engine.cold)
"""

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..data import Split
from ..evaluate import normalise
from ..export.onnx import export_onnx
from ..inference.reader import Reader
from ..run import Run
from .training import Ratio, timed


@dataclass(frozen=True)
class Rate:
    """Reading in batches of one size, on one thread."""

    p50: float
    "Seconds a batch, the median."
    p99: float
    images_per_second: float
    "Median of the rounds."
    times_eager: Ratio
    "Images a second over those of PyTorch eager in the same round."


@dataclass(frozen=True)
class Engine:
    """One way of reading with a run's network."""

    name: str
    file_bytes: int
    rates: dict[int, Rate]
    "By images a batch."
    cold: float
    "Seconds of a process that starts, reads one picture and ends, median."
    cold_most: float
    resident_bytes: int | None
    "Most memory that such a process held; None on Windows, which does not count it."


_EAGER = """
import sys, numpy, torch
from PIL import Image
from featherweight.evaluate import normalise
from featherweight.run import open_run
run = open_run(sys.argv[1])
pixels = torch.from_numpy(numpy.array(Image.open(sys.argv[2])))[None, None]
with torch.inference_mode():
    print(int(run.load_model()(normalise(pixels, (float(sys.argv[3]), float(sys.argv[4])))).argmax()))
"""
_PREDICT = "from featherweight.cli import main; main()"


# A process of its own, with little in it: what it starts would count this one's memory as theirs.
_MEASURE = """
import subprocess, sys, time
try:
    import resource
except ImportError:  # Windows has none
    resource = None
start = time.perf_counter()
subprocess.run([sys.executable, "-c", *sys.argv[1:]], stdout=subprocess.DEVNULL, check=True)
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss if resource else "")
"""


def _process(arguments: list[str]) -> tuple[float, int | None]:
    """Seconds from start to end of a Python process, and the most bytes that it held if the system counts them."""
    command = [sys.executable, "-c", _MEASURE, *arguments]
    seconds, *resident = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True
    ).stdout.split()
    unit = 1 if sys.platform == "darwin" else 1024
    return float(seconds), int(resident[0]) * unit if resident else None


def bench_predict(
    run: Run, split: Split, batches: dict[int, int] | None = None, rounds: int = 7, starts: int = 5
) -> list[Engine]:
    """PyTorch eager, ONNX Runtime float and int8 on validation images: an engine's calls, then the next one's, round
    by round, one thread each; then whole processes in turn. `batches`: calls a round by images a call.

    Exports the run first where it is not. Raises UnfaithfulError where that does."""
    files = {}
    for name, int8 in (("model.onnx", False), ("model-int8.onnx", True)):
        files[name] = run.path / name
        if not files[name].exists():
            export_onnx(run, split, int8)
    model = run.load_model()
    readers = {name: Reader(path) for name, path in files.items()}
    all_pixels = split.val.pixels[:, 0].numpy()

    def eager(pixels: np.ndarray) -> object:
        with torch.inference_mode():
            return (
                model(normalise(torch.from_numpy(pixels)[:, None], split.mean_std))
                .softmax(1)
                .numpy()
            )

    calls: dict[str, Callable[[np.ndarray], object]] = {
        "PyTorch eager": eager,
        "ONNX Runtime": readers["model.onnx"].probabilities,
        "ONNX Runtime int8": readers["model-int8.onnx"].probabilities,
    }
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rates = {
            batch: _rates(calls, all_pixels, batch, n, rounds)
            for batch, n in (batches or {1: 200, 1000: 2}).items()
        }
    finally:
        torch.set_num_threads(n_threads)

    with tempfile.TemporaryDirectory() as folder:
        picture = f"{folder}/digit.png"
        Image.fromarray(all_pixels[0]).save(picture)
        commands = [
            [_EAGER, str(run.path), picture, *map(str, split.mean_std)],
            *([_PREDICT, "predict", str(files[name]), picture] for name in files),
        ]
        processes = [[_process(command) for command in commands] for _ in range(starts)]
    sizes = [run.path / "model.safetensors", *files.values()]
    engines = []
    for number, (name, path) in enumerate(zip(calls, sizes, strict=True)):
        seconds, resident = zip(*(each[number] for each in processes), strict=True)
        engines.append(
            Engine(
                name,
                Path(path).stat().st_size,
                {batch: rate[name] for batch, rate in rates.items()},
                statistics.median(seconds),
                max(seconds),
                None if None in resident else max(resident),
            )
        )
    return engines


def _rates(
    calls: dict[str, Callable[[np.ndarray], object]],
    pixels: np.ndarray,
    batch: int,
    n_calls: int,
    rounds: int,
) -> dict[str, Rate]:
    times: dict[str, list[list[float]]] = {name: [] for name in calls}
    for number in range(-1, rounds):  # round -1 warms up
        for name, call in calls.items():
            starts = [(number + 1 + i) * batch % (len(pixels) - batch + 1) for i in range(n_calls)]
            seconds = [
                timed(torch.device("cpu"), partial(call, pixels[i : i + batch])) for i in starts
            ]
            if number >= 0:
                times[name].append(seconds)
    totals = {name: [sum(seconds) for seconds in times[name]] for name in calls}
    first = totals[next(iter(calls))]
    rates = {}
    for name in calls:
        ratios = [a / b for a, b in zip(first, totals[name], strict=True)]
        p50, p99 = np.percentile(np.concatenate(times[name]), (50, 99))
        rates[name] = Rate(
            float(p50),
            float(p99),
            batch * n_calls / statistics.median(totals[name]),
            Ratio(statistics.median(ratios), min(ratios), max(ratios)),
        )
    return rates
