"""Measure how fast a network reads: PyTorch eager, ONNX Runtime float and ONNX Runtime int8.

Example:
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
from ..export.graph import as_input
from ..export.onnx import export_onnx
from ..inference.reader import Reader
from ..run import Run
from .training import Ratio, ratio_of, timed

CPU = torch.device("cpu")
CALLS_PER_ROUND = {1: 200, 1000: 2}  # by batch size: both read 200 images or more in a round
Call = Callable[[np.ndarray], object]
"Reads pixels (n, height, width) uint8."


@dataclass(frozen=True)
class Rate:
    """Speed of an engine with one batch size, on one thread."""

    p50: float
    "Median seconds per batch."
    p99: float
    "99th percentile of the seconds per batch."
    images_per_second: float
    "Images per second, median over the rounds."
    speedup: Ratio
    "Images per second divided by those of PyTorch eager in the same round."


@dataclass(frozen=True)
class Timing:
    """Times of an engine's calls, (rounds, calls) in seconds."""

    seconds: np.ndarray
    batch: int
    "Images per call."

    @property
    def round_seconds(self) -> list[float]:
        """Return the total seconds of each round."""
        return [float(total) for total in self.seconds.sum(1)]

    def rate(self, eager: "Timing") -> Rate:
        """Return the engine's speed, compared with the times of PyTorch eager."""
        p50, p99 = np.percentile(self.seconds, (50, 99))
        images = self.batch * self.seconds.shape[1]
        return Rate(
            p50=float(p50),
            p99=float(p99),
            images_per_second=images / statistics.median(self.round_seconds),
            speedup=ratio_of(eager.round_seconds, self.round_seconds),
        )


@dataclass(frozen=True)
class Engine:
    """One way to read with a run's network, measured."""

    name: str
    "PyTorch eager, ONNX Runtime or ONNX Runtime int8."
    file_bytes: int
    "Size of its file of weights."
    rates: dict[int, Rate]
    "Speed by batch size."
    cold: float
    "Median seconds of a process that starts, reads one picture and ends."
    cold_maximum: float
    "Most seconds that such a process took."
    resident_bytes: int | None
    "Most memory that such a process held; None on Windows, which does not report it."


# Programs for `python -c`. Each reads one picture in a process of its own.
_EAGER = """
import sys, numpy, torch
from PIL import Image
from featherweight.evaluate import normalise
from featherweight.run import open_run
run = open_run(sys.argv[1])
image = numpy.atleast_3d(numpy.array(Image.open(sys.argv[2])))
pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
with torch.inference_mode():
    images = normalise(pixels, (float(sys.argv[3]), float(sys.argv[4])))
    print(int(run.load_model()(images).argmax()))
"""
_PREDICT = "from featherweight.cli import main; main()"
# Times another program from a small process: a child counts the memory of the process that forked
# it as its own, and this one is large.
_MEASURE = """
import subprocess, sys, time
try:
    import resource
except ImportError:  # on Windows
    resource = None
start = time.perf_counter()
subprocess.run([sys.executable, "-c", *sys.argv[1:]], stdout=subprocess.DEVNULL, check=True)
seconds = time.perf_counter() - start
print(seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss if resource else "")
"""


def _measure_process(arguments: list[str]) -> tuple[float, int | None]:
    """Run `python -c` with the arguments; return its seconds and the most bytes it held.

    The bytes are None if the system does not report them."""
    command = [sys.executable, "-c", _MEASURE, *arguments]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    seconds, *resident = output.split()
    unit = 1 if sys.platform == "darwin" else 1024  # macOS reports bytes, Linux kibibytes
    return float(seconds), int(resident[0]) * unit if resident else None


def bench_predict(
    run: Run,
    split: Split,
    batches: dict[int, int] | None = None,
    rounds: int = 7,
    starts: int = 5,
) -> list[Engine]:
    """Time three engines in turn on validation images, then whole processes in turn.

    In every round each engine makes its calls on one thread; `batches` gives the calls per round
    by batch size. Each kind of process is started `starts` times. Exports the run first where its
    file is missing, and raises what `export_onnx` raises."""
    files = {}
    for name, int8 in (("model.onnx", False), ("model-int8.onnx", True)):
        files[name] = run.path / name
        if not files[name].exists():
            export_onnx(run, split, int8=int8)
    # (n, height, width) uint8, or (n, 3, height, width) in colour
    pixels = as_input(split.val.pixels).numpy()
    calls = {
        "PyTorch eager": _eager_call(run, split),
        "ONNX Runtime": Reader(files["model.onnx"]).probabilities,
        "ONNX Runtime int8": Reader(files["model-int8.onnx"]).probabilities,
    }
    rates: dict[int, dict[str, Rate]] = {}
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for batch, n_calls in (batches or CALLS_PER_ROUND).items():
            timings = _time_calls(calls, pixels, batch, n_calls, rounds)
            eager = timings["PyTorch eager"]
            rates[batch] = {name: timing.rate(eager) for name, timing in timings.items()}
    finally:
        torch.set_num_threads(n_threads)

    with tempfile.TemporaryDirectory() as folder:
        picture = f"{folder}/digit.png"
        first = split.val.pixels[0].permute(1, 2, 0).numpy()
        Image.fromarray(first.squeeze(2) if first.shape[2] == 1 else first).save(picture)
        programs = [
            [_EAGER, str(run.path), picture, *map(str, split.mean_std)],
            *([_PREDICT, "predict", "--model", str(path), picture] for path in files.values()),
        ]
        processes = [[_measure_process(program) for program in programs] for _ in range(starts)]
    engines = []
    weight_files = [run.path / "model.safetensors", *files.values()]
    for number, (name, path) in enumerate(zip(calls, weight_files, strict=True)):
        seconds, resident = zip(*(each[number] for each in processes), strict=True)
        engines.append(
            Engine(
                name=name,
                file_bytes=Path(path).stat().st_size,
                rates={batch: by_name[name] for batch, by_name in rates.items()},
                cold=statistics.median(seconds),
                cold_maximum=max(seconds),
                resident_bytes=None if None in resident else max(resident),
            )
        )
    return engines


def _eager_call(run: Run, split: Split) -> Call:
    model = run.load_model()

    def call(pixels: np.ndarray) -> object:
        images = torch.from_numpy(pixels)
        images = images if images.ndim == 4 else images[:, None]  # (n, channels, height, width)
        with torch.inference_mode():
            return model(normalise(images, split.mean_std)).softmax(1).numpy()

    return call


def _time_calls(
    calls: dict[str, Call], pixels: np.ndarray, batch: int, n_calls: int, rounds: int
) -> dict[str, Timing]:
    """Time each engine's calls, round by round, on successive batches of `pixels`.

    A first round warms up and is not counted."""
    seconds: dict[str, list[list[float]]] = {name: [] for name in calls}
    n_starts = len(pixels) - batch + 1
    for number in range(1 + rounds):
        starts = [(number + i) * batch % n_starts for i in range(n_calls)]
        for name, call in calls.items():
            seconds[name].append([timed(CPU, partial(call, pixels[i : i + batch])) for i in starts])
    return {name: Timing(np.array(times[1:]), batch) for name, times in seconds.items()}
