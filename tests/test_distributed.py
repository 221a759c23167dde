"""Training on two processes, started by torchrun, compared with one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from featherweight.augment import augment
from featherweight.distributed import SINGLE_PROCESS, Group
from featherweight.recipe import Augmentation

pytestmark = pytest.mark.slow

TORCHRUN = [
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--nproc-per-node",
    "2",
    "-m",
    "featherweight",
    "train",
]
# A network with batch norm and dropout, in place too. It logs the number of images that each
# process trains on: batches of 250 or halves of them. Checks before training have 4 or 256 images.
NET = """
import os, torch
from torch import nn
class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 8, 5, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.1),
            nn.Conv2d(8, 8, 3), nn.Dropout(0.1, inplace=True), nn.ReLU(),
            nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(8 * 16, 16),
            nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, num_classes))
    def forward(self, x):
        if self.training and torch.is_grad_enabled() and len(x) not in (4, 256):
            size, rank = os.environ.get("WORLD_SIZE", 1), os.environ.get("RANK", 0)
            with open(f"seen-{size}-{rank}", "a") as file:
                print(len(x), file=file)
        return self.layers(x)
"""


def _metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, digits, tiny_contract):
    """Train on one process and on two; return the folder of both and the output of the latter."""
    folder = tmp_path_factory.mktemp("parallel")
    (folder / "small.toml").write_text(tiny_contract.to_toml())
    (folder / "my_net.py").write_text(NET)
    options = [
        "--contract",
        "small.toml",
        "--data",
        str(digits),
        "--model",
        "my_net:Net",
        "--epochs",
        "3",
        "--recipe",
        "sprint",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "160"}
    subprocess.run(
        [sys.executable, "-m", "featherweight", "train", *options, "--out", "one"],
        cwd=folder,
        env=environment,
        capture_output=True,
        check=False,
    )
    said = subprocess.run(
        [*TORCHRUN, *options, "--out", "two"],
        cwd=folder,
        env=environment,
        text=True,
        capture_output=True,
        check=False,
    )
    return folder, said


def test_two_processes_have_the_losses_of_one(trained):
    folder, _ = trained
    one, two = _metrics(folder / "one"), _metrics(folder / "two")
    assert len(one) == len(two) == 3
    for a, b in zip(one, two, strict=True):
        assert b["train_loss"] == pytest.approx(a["train_loss"], rel=1e-4)
        assert b["val_loss"] == pytest.approx(a["val_loss"], rel=1e-3)
        assert abs(b["val_correct"] - a["val_correct"]) <= 1
    assert one[0]["train_loss"] > one[-1]["train_loss"]


def test_each_process_has_half_of_every_batch(trained):
    folder, _ = trained
    one, first, second = (
        list(map(int, (folder / f"seen-{name}").read_text().split()))
        for name in ("1-0", "2-0", "2-1")
    )
    assert [a + b for a, b in zip(first, second, strict=True)] == one
    assert sum(one) == 3 * 500
    assert max(abs(a - b) for a, b in zip(first, second, strict=True)) <= 1


def test_the_first_process_alone_writes_and_prints(trained):
    folder, said = trained
    run = folder / "two"
    assert (run / "verdict.json").is_file()
    assert [
        path.name
        for path in folder.iterdir()
        if path.is_dir() and path.name not in ("one", "__pycache__")
    ] == ["two"]
    assert said.stderr.count("3 epochs") == 1
    assert said.stdout.count("verdict: ") == 1
    assert json.loads((run / "environment.json").read_text())["command"].startswith(
        "torchrun --nnodes=1 --nproc-per-node=2 -m featherweight train"
    )


def test_shards_are_the_batch_each_image_once():
    for size in (1, 2, 3, 7):
        for total in (7, 8, 127, 128):
            parts = [range(total)[Group(rank, size).shard(total)] for rank in range(size)]
            assert [i for part in parts for i in part] == list(range(total))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1
    with pytest.raises(ValueError, match="8 processes"):
        Group(0, 8).shard(7)


def test_a_shard_is_augmented_as_in_its_batch(split):
    augmentation = Augmentation(
        rotation=9,
        shift=1,
        scale=0.1,
        shear=5,
        elastic=1,
        thickness=0.3,
        blur_kernel=3,
        brightness=0.2,
        contrast=0.2,
    )
    images = split.train.pixels[:9].float() / 255
    whole = augment(images, augmentation, torch.Generator().manual_seed(1))
    for part in (slice(0, 4), slice(4, 9)):
        mine = augment(images[part], augmentation, torch.Generator().manual_seed(1), 9, part)
        torch.testing.assert_close(mine, whole[part])


@pytest.mark.parametrize(
    "layer",
    [
        nn.Dropout(0.3),
        nn.BatchNorm2d(4),
        nn.BatchNorm2d(4, affine=False),
        nn.BatchNorm2d(4, momentum=None),
        nn.BatchNorm2d(4, track_running_stats=False),
    ],
)
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_the_whole_batch_by_one_is_torchs(layer, memory, monkeypatch):
    """In a group of one, the replaced operations must equal torch's, gradients too."""
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: None)
    x = torch.randn(6, 4, 5, 5, generator=torch.Generator().manual_seed(1)).contiguous(
        memory_format=memory
    )
    results = []
    for group in (SINGLE_PROCESS, Group(0, 2)):
        layer.load_state_dict(
            {
                key: torch.zeros_like(value)
                if "mean" in key or "num" in key
                else torch.ones_like(value)
                for key, value in layer.state_dict().items()
            }
        )
        leaf = x.clone().requires_grad_()
        torch.manual_seed(5)
        with group.whole_batch(6, slice(0, 6)):
            out = layer(leaf)
        F.mse_loss(out, x.sin()).backward()
        results.append((out, leaf.grad, *layer.state_dict().values()))
    for ours, torchs in zip(*results, strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-4, atol=1e-6)
