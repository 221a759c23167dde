"""Worker processes that share a step: the same bits for any number, and how a group ends."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers import ENVIRONMENT, make_contract

import featherweight
from featherweight.recipe import Augmentation, find_recipe
from featherweight.run import create_run, open_run
from featherweight.train import DivergedError, train
from featherweight.workers import choose_workers, start_workers

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")
EVERYTHING = Augmentation(
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
# Draws random numbers of three kinds, mixes the images of a batch, assigns a running mean, counts,
# keeps a constant that is not finite, and uses one layer for some ghost batches alone.
STRANGER = """
import random
import numpy as np, torch
from torch import nn
class Stranger(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.head, self.seldom = nn.Linear(784, num_classes), nn.Linear(784, num_classes)
        self.register_buffer("mean", torch.zeros(784, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
    def forward(self, x):
        x = x.flatten(1)
        if self.training:
            self.count += 1
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
            x = x + 0.1 * torch.randn_like(x) + 0.1 * random.random() + 0.1 * np.random.rand()
            x = x + 0.1 * x.mean(0)
        out = self.head(x - self.mean.float()) + self.mask.exp().sum()
        if not self.training or (torch.rand(()) < 0.3 and self.count > 1):
            out = out + self.seldom(x)
        return out
"""


@pytest.fixture
def make(tmp_path, split, tiny_recipe, tiny_contract):
    """Make a run of three ghost batches in a step, and two epochs unless it is said."""

    def make(name, **changes):
        changes = {"epochs": 2, "ghost_batch": 9} | changes
        contract = make_contract(consistent_epochs=2)
        recipe = dataclasses.replace(tiny_recipe, **changes)
        return create_run(str(tmp_path / name), recipe, contract, split, 0, CPU, "")

    return make


def train_with(n, run, split, **callbacks):
    with start_workers(run, split, n) as group:
        train(run, split, CPU, group=group, **callbacks)


def result(run):
    """Weights of every file and the figures of every epoch."""
    weights = {path.name: path.read_bytes() for path in run.path.glob("*.safetensors")}
    rows = [{key: row[key] for key in row if key != "seconds"} for row in run.read_metrics()]
    return weights, rows


@pytest.mark.parametrize(
    ("changes", "numbers"),
    [
        (
            {
                "augmentation": EVERYTHING,
                "muon": 0.2,
                "weight_decay": 1e-3,
                "label_smoothing": 0.1,
                "resize": 0.8,
                "resize_until": 0.6,
            },
            (2, 3),
        ),
        ({"weight_bits": 4, "ema": 0.0, "ghost_batch": 13}, (2,)),
        ({"model": "stranger", "model_args": {}, "lr": 0.01, "ema": 0.0}, (2, 3)),
    ],
)
def test_every_number_of_workers_has_the_same_bits(
    make, split, tmp_path, monkeypatch, changes, numbers
):
    monkeypatch.chdir(tmp_path)
    if changes.get("model") == "stranger":
        (tmp_path / "stranger.py").write_text(STRANGER)
        changes = changes | {"model": "stranger.py:Stranger"}
    alone = make("alone", **changes)
    train_with(1, alone, split)
    weights, rows = result(alone)
    assert sorted(weights) == ["epoch-1.safetensors", "model.safetensors"]
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    for n in numbers:
        run = make(f"by-{n}", **changes)
        train_with(n, run, split)
        assert result(run) == (weights, rows)
        assert open_run(run.path).environment["workers"] == [n]


def test_the_number_of_threads_changes_nothing(make, split):
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            run = make(f"threads-{threads}")
            train(run, split, CPU)
        finally:
            torch.set_num_threads(1)
        assert run.environment["threads"] == 1
        results.append(result(run))
    assert results[0] == results[1]


def test_a_resumed_run_may_change_the_number(make, split):
    whole, stopped = make("whole", epochs=3), make("stopped", epochs=3)
    train_with(1, whole, split)
    for n, stop_at in ((2, (2, 7)), (3, (3, 1))):

        def stop(epoch, step, n_steps, loss, stop_at=stop_at):
            if (epoch, step) >= stop_at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train_with(n, open_run(stopped.path), split, on_batch=stop)
    train_with(1, open_run(stopped.path), split)
    assert result(stopped) == result(whole)
    assert open_run(stopped.path).environment["workers"] == [2, 3, 1]


def test_a_killed_worker_ends_the_training_which_can_be_resumed(make, split):
    whole, killed = make("whole"), make("killed")
    train_with(1, whole, split)

    def kill(epoch, step, n_steps, loss):
        if epoch == 2:
            os.kill(group.processes[0].pid, signal.SIGKILL)

    hint = rf"hint: featherweight train --resume {killed.path}$"
    with (
        pytest.raises(ChildProcessError, match=f"worker 2 of 3 was ended by SIGKILL.*{hint}"),
        start_workers(killed, split, 3) as group,
    ):
        train(killed, split, CPU, on_batch=kill, group=group)
    assert all(process.poll() is not None for process in group.processes)
    train_with(2, open_run(killed.path), split)
    assert result(killed) == result(whole)


FAILING = """
import os
from pathlib import Path
from torch import nn
class WrongError(Exception):
    def __init__(self, one, two):
        super().__init__(one + two)
class Failing(nn.Sequential):
    def __init__(self, how):
        super().__init__(nn.Flatten(), nn.Linear(784, 10))
        self.how = how
    def forward(self, x):
        out = super().forward(x)
        if self.training and os.getpid() != int(Path("main").read_text()):
            if self.how == "forward":
                raise KeyError("a letter")
            if self.how == "backward":
                out.register_hook(lambda gradient: 1 / 0)
            if self.how == "exit":
                os._exit(3)
            if self.how == "file":
                out.register_hook(self.read)
            if self.how == "pickle":
                out.register_hook(self.fail)
        return out
    def read(self, gradient):
        raise EOFError("a file ends early")
    def fail(self, gradient):
        raise WrongError("a message ", "of two parts")
"""


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        ("forward", ValueError, "model failing.py:Failing fails on images .*a letter"),
        ("backward", ZeroDivisionError, "division by zero"),
        ("pickle", RuntimeError, "a message of two parts"),
        ("file", EOFError, "a file ends early"),
        ("exit", ChildProcessError, "worker 2 of 2 was ended with exit code 3; hint: "),
    ],
)
def test_what_a_worker_raises_is_the_main_processs_error(
    make, split, tmp_path, monkeypatch, how, kind, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "main").write_text(str(os.getpid()))
    (tmp_path / "failing.py").write_text(FAILING)
    run = make("run", model="failing.py:Failing", model_args={"how": how})
    with pytest.raises(kind, match=message) as caught:
        train_with(2, run, split)
    if how != "exit":
        (note,) = caught.value.__notes__
        assert note.startswith("in worker 2 of 2:\nTraceback")


def test_a_diverged_training_is_one_in_every_process(make, split):
    run = make("run", lr=1e30)
    with pytest.raises(DivergedError, match="epoch 1"):
        train_with(2, run, split)


# Trains with two workers; writes the number of the second process to a file.
SCRIPT = """
import sys, torch
from pathlib import Path
from featherweight.run import open_run
from featherweight.train import train
from featherweight.workers import start_workers
run = open_run(sys.argv[1])
split = run.load_split()
Path("began").touch()
with start_workers(run, split, 2) as group:
    Path("worker").write_text(str(group.processes[0].pid))
    train(run, split, torch.device("cpu"), group=group, on_batch=lambda *_: Path("step").touch())
"""


def started(run, folder, after):
    """Start SCRIPT in a session of its own, and wait until it has written the file `after`."""
    source = str(Path(featherweight.__file__).parents[1])
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(run.path)],
        cwd=folder,
        env=ENVIRONMENT | {"PYTHONPATH": source},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not (folder / after).exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    return process


def assert_gone(pid):
    """Wait until a process has ended. It is no child of this one, so it leaves no trace."""
    for _ in range(3000):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.01)
    raise AssertionError(f"process {pid} lives on")


@pytest.mark.parametrize("after", ["began", "worker", "step"])
def test_an_interrupt_ends_everything_at_any_moment(make, tmp_path, after):
    process = started(make("run", epochs=500), tmp_path, after)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, said = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert said.count("Traceback") == 1
    assert said.rstrip().endswith("KeyboardInterrupt")
    if (tmp_path / "worker").exists():
        assert_gone(int((tmp_path / "worker").read_text()))


@pytest.mark.parametrize("after", ["worker", "step"])
def test_no_worker_outlives_a_killed_main_process(make, tmp_path, after):
    process = started(make("run", epochs=500), tmp_path, after)
    process.kill()
    _, said = process.communicate(timeout=60)
    assert said == ""
    assert_gone(int((tmp_path / "worker").read_text()))


def test_workers_wait_asleep(make, tmp_path):
    """While the main process is stopped, the other takes no CPU time."""
    process = started(make("run", epochs=500), tmp_path, "step")
    pid = int((tmp_path / "worker").read_text())
    try:
        process.send_signal(signal.SIGSTOP)
        time.sleep(1)  # it comes to the next meeting

        def used():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            return int(fields[11]) + int(fields[12])  # ticks of user and system time

        before = used()
        time.sleep(1)
        assert used() == before
    finally:
        process.kill()
        process.communicate()


def test_the_default_is_a_worker_for_each_core_and_ghost_batch(tiny_recipe, monkeypatch):
    monkeypatch.setattr("featherweight.workers.cores", lambda: 4)
    three = dataclasses.replace(tiny_recipe, ghost_batch=9)
    seven = dataclasses.replace(tiny_recipe, ghost_batch=4)
    assert [choose_workers(None, recipe, CPU) for recipe in (tiny_recipe, three, seven)] == [
        1,
        3,
        4,
    ]
    assert choose_workers(7, seven, CPU) == 7
    assert choose_workers(None, seven, torch.device("cuda")) == 1
    for n, recipe, device, message in (
        (0, three, "cpu", "got 0, expected 1 to 3: 3 ghost batches in a step of tiny"),
        (4, three, "cpu", "got 4, expected 1 to 3"),
        (2, tiny_recipe, "cpu", "got 2, expected 1: tiny does not split a step"),
        (2, three, "cuda", "got 2, expected 1: .*the device is cuda"),
    ):
        with pytest.raises(ValueError, match=message):
            choose_workers(n, recipe, torch.device(device))


def test_the_api_trains_with_workers_a_class_of_a_script(digits, tiny_contract, tmp_path):
    """A script without `if __name__ == "__main__"`, whose network is defined in it."""
    (tmp_path / "small.toml").write_text(tiny_contract.to_toml())
    (tmp_path / "script.py").write_text(f"""
import dataclasses, sys
from torch import nn
import featherweight as fw

class Own(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 8, 5, 2), nn.BatchNorm2d(8), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))

recipe = dataclasses.replace(fw.find_recipe("sprint"), batch_size=50, ghost_batch=25)
for workers in (1, 2):
    fw.train(recipe, model=Own, contract="small.toml", data={str(digits)!r}, epochs=1,
             workers=workers, out=f"run-{{workers}}")
""")
    source = str(Path(featherweight.__file__).parents[1])
    process = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env=ENVIRONMENT | {"PYTHONPATH": source},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    one, two = ((tmp_path / f"run-{n}" / "model.safetensors").read_bytes() for n in (1, 2))
    assert one == two
    environment = json.loads((tmp_path / "run-2" / "environment.json").read_text())
    assert (environment["workers"], environment["threads"]) == ([2], 1)


def test_threads_and_ghost_batches_exclude_each_other(tiny_recipe, digits, tiny_contract, tmp_path):
    recipe = dataclasses.replace(tiny_recipe, ghost_batch=9)
    with pytest.raises(ValueError, match="threads: got 2, expected 1, as tiny has ghost batches"):
        featherweight.train(
            recipe, contract=tiny_contract, data=str(digits), threads=2, out=str(tmp_path / "run")
        )
    assert not (tmp_path / "run").exists()


def test_the_presets_that_are_not_split_keep_one_worker():
    assert choose_workers(None, find_recipe("baseline"), CPU) == 1
