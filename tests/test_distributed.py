"""Training on two processes, started by torchrun, compared with one process; ghost batches."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from featherweight.api import start_run
from featherweight.distributed import SINGLE_PROCESS, GhostBatches, Group

pytestmark = pytest.mark.slow

TORCHRUN = [
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--nproc-per-node",
    "2",
    "command.py",
    "train",
]
# The command line, with three ghost batches in each batch of 256 images.
SCRIPT = """
import dataclasses
from featherweight import recipe
recipe.RECIPES = (dataclasses.replace(recipe.find_recipe("sprint"), ghost_batch=86),)
from featherweight.cli import main
main()
"""
# A network with batch norm and dropout, in place too. It logs the number of images that each
# process trains on, 83 or 84; the checks before training have other numbers.
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
        if self.training and torch.is_grad_enabled() and len(x) in (83, 84):
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
    (folder / "command.py").write_text(SCRIPT)
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
        "--evidence",
        "watched",  # its Python runs, and writes what it sees
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "160"}
    subprocess.run(
        [sys.executable, "command.py", "train", *options, "--workers", "1", "--out", "one"],
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


def test_two_processes_have_the_bits_of_one(trained):
    folder, _ = trained
    one, two = _metrics(folder / "one"), _metrics(folder / "two")
    assert len(one) == len(two) == 3
    for rows in (one, two):
        for row in rows:
            del row["seconds"]
    assert one == two
    assert one[0]["train_loss"] > one[-1]["train_loss"]
    weights = [(folder / name / "model.safetensors").read_bytes() for name in ("one", "two")]
    assert weights[0] == weights[1]


def test_each_process_has_its_ghost_batches(trained):
    folder, _ = trained
    seen = [
        list(map(int, (folder / f"seen-{name}").read_text().split()))
        for name in ("1-0", "2-0", "2-1")
    ]
    steps = 3 * 2  # epochs of two batches of 250 images
    assert seen == [[84, 83, 83] * steps, [84, 83] * steps, [83] * steps]


def test_the_first_process_alone_writes_and_prints(trained):
    folder, said = trained
    run = folder / "two"
    assert (run / "verdict.json").is_file()
    assert [
        path.name
        for path in folder.iterdir()
        if path.is_dir() and path.name not in ("one", "__pycache__")
    ] == ["two"]
    assert said.stderr.count("3 epochs") == 1, said.stderr
    assert said.stdout.count("verdict: ") == 1, said.stderr
    assert json.loads((run / "environment.json").read_text())["command"].startswith(
        "torchrun --nnodes=1 --nproc-per-node=2 -m featherweight train"
    )


def test_more_processes_than_ghost_batches_are_refused():
    with pytest.raises(ValueError, match="got 3 processes for 2 ghost batches in a step"):
        GhostBatches(nn.Linear(2, 2), 2, Group(0, 3))


def test_more_processes_than_ghost_batches_leave_no_run_folder(
    tiny_recipe, tiny_contract, digits, tmp_path
):
    with pytest.raises(ValueError, match="got 2 processes for 1 ghost batch in a step"):
        start_run(
            tiny_recipe,
            contract=tiny_contract,
            data=str(digits),
            device=torch.device("cpu"),
            out=str(tmp_path / "run"),
            command="",
            group=Group(0, 2),
        )
    assert not (tmp_path / "run").exists()


class Late(nn.Module):
    """A buffer that the first forward pass makes."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.linear.register_buffer("mean", None)

    def forward(self, x):
        self.linear.mean = x.detach().mean(0)
        return self.linear(x)


def test_a_buffer_that_is_none_at_first_is_refused():
    model = Late()
    ghosts = GhostBatches(model, 2, SINGLE_PROCESS)
    ghosts.begin()
    ghosts.restore()
    loss = model(torch.ones(3, 2)).sum()
    loss.backward()
    with pytest.raises(ValueError, match=r"buffer linear\.mean: got None before.*baseline"):
        ghosts.put(0, loss)


class Net(nn.Module):
    """Batch norm, a layer that some inputs do not use, and buffers of several kinds."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)
        ).to(memory_format=torch.channels_last)
        self.seldom = nn.Linear(3, 3)
        self.register_buffer("mask", torch.tensor([float("inf"), 0.1]))
        self.register_buffer("steps", torch.ones(2, dtype=torch.float16))

    def forward(self, x):
        if x.sum() > 0:
            self.steps = self.steps + 1
        out = self.layers(x)
        return self.seldom(out) if x.sum() > 0 else out


def test_ghost_batches_add_up_as_by_hand():
    """Against gradients of the weighted sum of losses, and statistics of each part by itself."""
    torch.manual_seed(0)
    model = Net()
    parts = [torch.rand(4, 1, 8, 8), -torch.rand(4, 1, 8, 8), -torch.rand(2, 1, 8, 8)]
    weights = [0.4, 0.4, 0.2]
    copies = [copy.deepcopy(model) for _ in parts]
    losses = [twin(part).square().mean() for twin, part in zip(copies, parts, strict=True)]
    for loss in losses:
        loss.backward()
    ghosts = GhostBatches(model, 3, SINGLE_PROCESS)
    for _ in range(
        2
    ):  # the second step starts from other buffers, and leaves no trace of the first
        begun = copy.deepcopy(model.state_dict())
        ghosts.begin()
        for number in (2, 0, 1):  # in any order
            ghosts.restore()
            loss = weights[number] * model(parts[number]).square().mean()
            loss.backward()
            ghosts.put(number, loss)
        total = ghosts.sum(weights)
    torch.testing.assert_close(
        total, sum(w * loss.detach() for w, loss in zip(weights, losses, strict=True))
    )
    for name, parameter in model.named_parameters():
        gradients = [dict(twin.named_parameters())[name].grad for twin in copies]
        terms = [w * g for w, g in zip(weights, gradients, strict=True) if g is not None]
        torch.testing.assert_close(parameter.grad, sum(terms))
    after, norm = model.state_dict(), copies[0].layers[1]
    for name in ("running_mean", "running_var"):
        # 0.9 of the old statistics and 0.1 of the part's: those of a first step tell the part's.
        own = [
            (getattr(twin.layers[1], name) - 0.9 * float(name == "running_var")) for twin in copies
        ]
        expected = 0.9 * begun[f"layers.1.{name}"] + sum(
            w * value for w, value in zip(weights, own, strict=True)
        )
        torch.testing.assert_close(after[f"layers.1.{name}"], expected)
    assert norm.num_batches_tracked == 1
    assert after["layers.1.num_batches_tracked"] == 2
    assert torch.equal(after["mask"], torch.tensor([float("inf"), 0.1]))
    # The first part alone adds 1, and has 0.4 of the images: 1 + 2 * 0.4.
    torch.testing.assert_close(
        after["steps"], torch.full((2,), 1.8, dtype=torch.float16), atol=2e-3, rtol=0
    )


def test_a_layer_that_no_ghost_batch_uses_has_no_gradient():
    model = Net()
    ghosts = GhostBatches(model, 2, SINGLE_PROCESS)
    ghosts.begin()
    for number in range(2):
        ghosts.restore()
        loss = model(-torch.rand(3, 1, 8, 8)).sum()
        loss.backward()
        ghosts.put(number, loss)
    ghosts.sum([0.5, 0.5])
    assert model.seldom.weight.grad is None
    assert model.layers[0].weight.grad is not None
