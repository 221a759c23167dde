"""What `bench gpu` prints, and that it needs a CUDA GPU."""

import dataclasses

import pytest
import torch

from featherweight.bench import gpu
from featherweight.cli import bench
from featherweight.errors import InputError

CPU = torch.device("cpu")


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda"])
def test_bench_gpu_needs_a_cuda_gpu(device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="CUDA GPU"):
        bench.cmd_bench("gpu", device=device)


def _printed(capsys):
    return " ".join(capsys.readouterr().out.split())


def test_bench_gpu_prints_the_card(capsys, monkeypatch):
    card = gpu.Card("Card X", "2.11", "13.0", "91200", {"float32": 49.6, "tf32": 401.2})
    monkeypatch.setattr(gpu, "find_card", lambda device: card)
    bench._gpu_card(CPU)
    assert _printed(capsys) == (
        "Card X, torch 2.11, CUDA 13.0, cuDNN 91200; TFLOP/s of a matrix product: "
        "float32 50, tf32 401"
    )


def test_bench_gpu_prints_each_row_of_sprint(capsys, monkeypatch):
    rows = []

    def train_by_graphs(recipe, split, device, seeds, arithmetic, channels_last):
        rows.append((recipe.name, recipe.ghost_batch, arithmetic, channels_last))
        return gpu.Trained([1.0, 2.0], [9940, 9950], 10_000, 3.0)

    monkeypatch.setattr(gpu, "train_by_graphs", train_by_graphs)
    eager = gpu.Trained([5.0], [9941], 10_000, 6.0)
    monkeypatch.setattr(gpu, "train_eagerly", lambda recipe, split, device: eager)
    monkeypatch.setattr(gpu, "train_cold", lambda device, arithmetic: (12.0, 9942))
    bench._gpu_sprint(None, CPU, range(2))
    assert rows == [("sprint", 0, *row) for row in bench.GPU_ROWS]
    printed = _printed(capsys)
    assert (
        "sprint, kernel by kernel, float32: 5.000 s to 99.410 %, 1 seeds: 9941; warm-up 6.0 s"
        in printed
    )
    assert (
        "sprint, CUDA graphs, bf16, channels-last: 1.500 s (1.000 to 2.000) to 99.450 %, 2 seeds: "
        "9940 9950; warm-up 3.0 s" in printed
    )
    assert "from the start of a process to its end: 12.0 s, 9,942 right" in printed


def test_bench_gpu_says_whether_all_verdicts_agree(capsys, monkeypatch):
    found = gpu.Agreement("net", True, 9940, 10_000, 2e-6, [])
    monkeypatch.setattr(gpu, "agreement", lambda name, *_: dataclasses.replace(found, name=name))
    assert bench._gpu_agreement(None, CPU)
    assert (
        "sprint: pass, 9,940 of 10,000; CPU and GPU: the same verdict and counts, "
        "probabilities within 2e-06" in _printed(capsys)
    )
    differs = dataclasses.replace(found, differences=["predictions: 1 of 10,000 differ"])
    monkeypatch.setattr(gpu, "agreement", lambda name, *_: differs)
    assert not bench._gpu_agreement(None, CPU)
    assert "CPU and GPU: predictions: 1 of 10,000 differ," in _printed(capsys)


def test_bench_gpu_prints_the_rows_of_the_cpu_beside_stacked_replicas(
    capsys, monkeypatch, tmp_path
):
    trained = gpu.Trained([40.0], [9963, 9965], 10_000, 9.0)
    epochs = []

    def train_stacked(recipe, split, device, seeds, arithmetic):
        epochs.append((recipe.epochs, arithmetic))
        return trained

    monkeypatch.setattr(gpu, "train_stacked", train_stacked)
    bench._gpu_stacked(None, CPU, range(2))
    assert epochs == [(19, "float32")]
    printed = _printed(capsys)
    assert "feather-20k, 19 epochs, all seeds at once, float32: 40.000 s to 99.640 %" in printed
    assert "on CPUs, 19 epochs: 9963 9965" in printed
    monkeypatch.setattr(bench, "RECORDS", tmp_path / "none.csv")
    bench._gpu_stacked(None, CPU, range(2), epochs=1)
    printed = _printed(capsys)
    assert "feather-20k, 1 epochs" in printed
    assert "on CPUs" not in printed
