"""What `bench` prints of the measurements, and that `bench gpu` needs a CUDA GPU."""

import contextlib
import dataclasses

import pytest
import torch
from helpers import MNIST_RECIPES

from featherweight.bench import contention, gpu, peer, training
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
    assert "on CPUs, in ghost batches, 19 epochs: 9968 9965" in printed
    monkeypatch.setattr(bench, "RECORDS", tmp_path / "none.csv")
    bench._gpu_stacked(None, CPU, range(2), epochs=1)
    printed = _printed(capsys)
    assert "feather-20k, 1 epochs" in printed
    assert "on CPUs" not in printed


def test_bench_train_compares_workers_with_the_step_before_and_beside_busy_processes(
    split, capsys, monkeypatch
):
    asked = []

    class Event:
        def set(self):
            asked.append("busy")

        def clear(self):
            asked.append("alone")

    def bench_teams(teams, split, beside):
        asked.extend((team.recipe.batch_size, team.recipe.n_ghosts, team.workers) for team in teams)
        beside(True)
        beside(False)
        return [[8.0, 8.0], [10.0, 20.0], [5.0, 12.0]], [15.0, 24.0]

    monkeypatch.setattr(training, "bench_teams", bench_teams)
    monkeypatch.setattr(contention, "busy_processes", lambda n: contextlib.nullcontext(Event()))
    bench._bench_workers("feather-20k", split)
    assert asked == [(64, 1, 1), (128, 2, 1), (128, 2, 2), "busy", "alone"]
    printed = _printed(capsys)
    assert "2 workers / 1 worker: 0.550 (rounds 0.500 to 0.600)" in printed
    assert "2 workers / not divided: 1.062 (rounds 0.625 to 1.500)" in printed
    assert "beside busy processes / alone: 2.500 (rounds 2.000 to 3.000)" in printed


def test_bench_workers_prints_an_epoch_of_every_recipe(split, capsys, monkeypatch):
    asked = []

    def bench_teams(teams, split, rounds):
        asked.append([(team.recipe.name, team.workers) for team in teams])
        return [[10.0], [6.0]], []

    monkeypatch.setattr(training, "bench_teams", bench_teams)
    monkeypatch.setattr(bench.stdout, "width", 160)
    bench._bench_recipes(split)
    names = [recipe.name for recipe in MNIST_RECIPES if recipe.name != "baseline"]
    assert asked == [[(name, 1), (name, 2)] for name in names]
    printed = _printed(capsys)
    assert "sprint, small images │ 16,302" in printed
    assert printed.count("0.600 (rounds 0.600 to 0.600)") == len(names)


def test_bench_sprint_prints_parts_of_the_baselines_time(split, capsys, monkeypatch):
    races = [
        training.Race("sprint", 4, "2 workers", 5.0, 99, 100),
        training.Race("baseline", 19, "2 threads", 100.0, 98, 100),
    ]

    def bench_sprint(names, split, device, on_epoch):
        on_epoch("sprint", {"epoch": 1, "seconds": 1.25})
        return races

    def bench_peer(epochs, workers, on_epoch):
        on_epoch({"epoch": 2, "seconds": 7.5})
        return peer.Peer(epochs, 200.0, 97)

    monkeypatch.setattr(training, "bench_sprint", bench_sprint)
    monkeypatch.setattr(peer, "bench_peer", bench_peer)
    monkeypatch.setattr(bench, "load_mnist", lambda: split)
    monkeypatch.setattr(bench.stdout, "width", 160)
    bench._bench_sprint("cpu", peer=False)
    assert "plain loop" not in _printed(capsys)
    bench._bench_sprint("cpu", peer=True)
    out, err = capsys.readouterr()
    assert "sprint epoch 1: 1.2 s" in err
    out = " ".join(out.split())
    assert "sprint │ 4 │ 2 workers │ 5.0 │ 99.00 % (1 wrong of 100) │ 1/20.0" in out
    assert "200.0 │ 97.00 % (3 wrong of 100) │ 1/0.5" in out


def test_peer_belongs_to_sprint_on_the_cpu():
    with pytest.raises(InputError, match="--peer with --device cuda"):
        bench.cmd_bench("sprint", peer=True, device="cuda")
    with pytest.raises(InputError, match="--peer with train"):
        bench.cmd_bench("train", peer=True)
