import torch

from featherweight.bench import inference as latency
from featherweight.bench.inference import bench_predict
from featherweight.run import create_run
from featherweight.train import train


def test_engines_read_in_turn(tmp_path, split, tiny_recipe, tiny_contract):
    run = create_run(
        str(tmp_path / "run"), tiny_recipe, tiny_contract, split, 0, torch.device("cpu"), ""
    )
    train(run, split, torch.device("cpu"))
    engines = bench_predict(run, split, {1: 3, 50: 1}, rounds=2, starts=1)
    assert [engine.name for engine in engines] == [
        "PyTorch eager",
        "ONNX Runtime",
        "ONNX Runtime int8",
    ]
    files = [run.path / name for name in ("model.safetensors", "model.onnx", "model-int8.onnx")]
    assert [engine.file_bytes for engine in engines] == [file.stat().st_size for file in files]
    for engine in engines:
        assert list(engine.rates) == [1, 50]
        for rate in engine.rates.values():
            assert 0 < rate.p50 <= rate.p99
            assert rate.times_eager.least <= rate.times_eager.median <= rate.times_eager.most
    assert engines[0].rates[1].times_eager.median == 1
    # A process without PyTorch starts sooner and holds less.
    assert engines[1].cold < engines[0].cold
    assert engines[1].resident_bytes < engines[0].resident_bytes / 1.5


def test_where_memory_is_not_counted_it_is_left_out(monkeypatch):
    seconds, resident = latency._process(["pass"])
    assert seconds > 0
    assert 1e6 < resident < 1e9
    # As on Windows, whose Python has no such module.
    monkeypatch.setattr(
        latency, "_MEASURE", f"import sys\nsys.modules['resource'] = None\n{latency._MEASURE}"
    )
    seconds, resident = latency._process(["pass"])
    assert seconds > 0
    assert resident is None
