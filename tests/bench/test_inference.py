"""Timing of engines: statistics on known times, and one real comparison."""

import itertools

import numpy as np
import pytest
import torch

from featherweight.bench import inference as bench
from featherweight.bench.inference import Timing, bench_predict
from featherweight.run import create_run
from featherweight.train import train

pytestmark = pytest.mark.slow


def test_a_rate_is_computed_from_the_rounds():
    # Two calls of 50 images in each of three rounds: 100 images in 1, 2 and 4 seconds.
    eager = Timing(np.array([[0.5, 0.5], [1.0, 1.0], [1.5, 2.5]]), batch=50)
    faster = Timing(np.array([[0.1, 0.1], [0.25, 0.25], [0.5, 0.5]]), batch=50)
    rate = eager.rate(eager)
    assert rate.p50 == 1.0
    assert rate.p99 == pytest.approx(1.5 + 0.95 * (2.5 - 1.5))  # NumPy interpolates
    assert rate.images_per_second == pytest.approx(100 / 2)
    speedup = faster.rate(eager).speedup
    assert (speedup.median, speedup.minimum, speedup.maximum) == (4, 4, 5)


def test_engines_are_called_in_turn_on_the_same_batches_after_a_warm_up(monkeypatch):
    pixels = np.arange(7, dtype=np.uint8)[:, None, None]
    called = []
    clock = itertools.count(1)

    def timed(device, work):
        work()
        return float(next(clock))

    monkeypatch.setattr(bench, "timed", timed)
    calls = {
        name: lambda batch, name=name: called.append((name, batch.ravel().tolist()))
        for name in ("a", "b")
    }
    timings = bench._time_calls(calls, pixels, batch=3, n_calls=2, rounds=2)
    assert called == [
        (name, batch)
        for round_ in ([[0, 1, 2], [3, 4, 5]], [[3, 4, 5], [1, 2, 3]], [[1, 2, 3], [4, 5, 6]])
        for name in ("a", "b")
        for batch in round_
    ]
    # Calls 1 to 4 are the warm-up.
    assert timings["a"].seconds.tolist() == [[5, 6], [9, 10]]
    assert timings["b"].seconds.tolist() == [[7, 8], [11, 12]]
    assert timings["a"].batch == 3


def test_every_engine_reads_with_the_runs_network(tmp_path, split, tiny_recipe, tiny_contract):
    device = torch.device("cpu")
    run = create_run(str(tmp_path / "run"), tiny_recipe, tiny_contract, split, 0, device, "")
    train(run, split, device)
    n_threads = torch.get_num_threads()
    engines = bench_predict(run, split, {1: 3, 50: 1}, rounds=2, starts=1)
    assert torch.get_num_threads() == n_threads
    assert [engine.name for engine in engines] == [
        "PyTorch eager",
        "ONNX Runtime",
        "ONNX Runtime int8",
    ]
    files = [run.path / name for name in ("model.safetensors", "model.onnx", "model-int8.onnx")]
    assert [engine.file_bytes for engine in engines] == [file.stat().st_size for file in files]
    assert [list(engine.rates) for engine in engines] == [[1, 50]] * 3
    # A process that reads with ONNX Runtime does not load PyTorch, so it holds less memory.
    assert engines[1].resident_bytes < engines[0].resident_bytes / 1.5
    # The eager engine computes what the run's network computes.
    probabilities = bench._eager_call(run, split)(split.val.pixels[:9, 0].numpy())
    mean, std = split.mean_std
    with torch.no_grad():
        logits = run.load_model()((split.val.pixels[:9].float() / 255 - mean) / std)
    torch.testing.assert_close(torch.from_numpy(probabilities), logits.softmax(1))


def test_memory_is_left_out_if_the_system_does_not_report_it(monkeypatch):
    resident = bench._measure_process(["held = bytearray(200_000_000)"])[1]
    assert 200e6 < resident < 300e6
    # On Windows, Python has no such module.
    without = f"import sys\nsys.modules['resource'] = None\n{bench._MEASURE}"
    monkeypatch.setattr(bench, "_MEASURE", without)
    assert bench._measure_process(["pass"])[1] is None
