"""Fixtures: made digits in the MNIST format, small networks that were trained on them."""

import dataclasses
import importlib
import os
import sys
import warnings
from unittest import mock

import pytest
import torch
from filelock import FileLock
from helpers import PLAN, make_contract, train_and_export, write_mnist

from featherweight import apart
from featherweight.build import build
from featherweight.capture import capture
from featherweight.data import load_split
from featherweight.device import seed_everything
from featherweight.exported import load_exported
from featherweight.recipe import Recipe, find_recipe


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _captured_here(request, monkeypatch):
    """Export networks in this process, except where a test is marked `apart`.

    A process apart imports PyTorch anew, which takes seconds."""
    if request.node.get_closest_marker("apart"):
        return

    def capture_here(path, arguments, num_classes, passes, seed=0):
        seed_everything(seed, -1)
        model = build(path, arguments, num_classes, passes[0].shape)
        return load_exported(capture(model, passes).to_bytes())

    for name in ("audit", "fresh", "train"):
        module = importlib.import_module(f"featherweight.{name}")  # not the function of that name
        monkeypatch.setattr(module, "capture_apart", capture_here)
    monkeypatch.setattr(apart, "begin_capture", lambda *arguments: None)


@pytest.fixture(autouse=True)
def _environment_kept():
    """Let a variable that a network's code sets last for one test alone.

    One of tests/networks/cheats.py sets a variable so long that no program starts after it."""
    with mock.patch.dict(os.environ):
        yield


@pytest.fixture(autouse=True)
def _main_returns(monkeypatch):
    """Let the command line's `main` raise SystemExit, though a network's code has run here."""
    monkeypatch.setattr("featherweight.cli.base.end", sys.exit)


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    return write_mnist(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="session")
def tiny_contract():
    return make_contract()


@pytest.fixture(scope="session")
def tiny_recipe():
    return Recipe(
        "tiny",
        "featherweight.model:Feather",
        {"layers": ["conv 8 k6 s2 p2", "conv 8"], "dropout": 0.05},
        epochs=4,
        lr=0.2,
        batch_size=25,
        nesterov=True,
        ema=0.8,
    )


@pytest.fixture
def split(digits):
    return load_split(str(digits), 500, 100)


@pytest.fixture(scope="session")
def model(tmp_path_factory, tiny_recipe, tiny_contract, digits):
    """An exported network that was trained for an epoch on made digits."""
    return train_and_export(
        tmp_path_factory.mktemp("made"),
        dataclasses.replace(tiny_recipe, epochs=1),
        tiny_contract,
        load_split(str(digits), 500, 100),
    )


@pytest.fixture(scope="session")
def real_model(tmp_path_factory, tiny_contract):
    """The exported file of two epochs on MNIST, trained once for all test processes."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    model = folder / "real" / "run" / "model.onnx"
    with FileLock(folder / "real.lock"):
        if not model.exists():
            recipe = dataclasses.replace(find_recipe("sprint"), epochs=2, resize_until=0.0)
            (folder / "real").mkdir()
            train_and_export(
                folder / "real", recipe, tiny_contract, load_split(None, 50_000, 10_000)
            )
    return model


@pytest.fixture
def plan_file(tmp_path, tiny_contract):
    (tmp_path / "tiny.toml").write_text(tiny_contract.to_toml())
    file = tmp_path / "plan.toml"
    file.write_text(PLAN.format(contract=tmp_path / "tiny.toml", test="true"))
    return file


@pytest.fixture(scope="session")
def cluster():
    """A Ray cluster of two nodes on this machine, a CPU each, and this process in it."""
    import ray
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own
        nodes = Cluster(
            initialize_head=True,
            head_node_args=node
            | {"include_dashboard": False, "_system_config": {"worker_niceness": 0}},
        )
        nodes.second = nodes.add_node(**node)
        ray.init(address=nodes.address, log_to_driver=False, logging_level="error")
    nodes.wait_for_nodes()
    yield nodes
    ray.shutdown()
    nodes.shutdown()
