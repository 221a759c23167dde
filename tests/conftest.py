"""Made digits: ten glyphs with noise, in the MNIST format, that a small network learns in seconds."""

import dataclasses
import gzip
import os
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock

from featherweight.contract import Contract
from featherweight.data import load_split
from featherweight.export.onnx import export_onnx
from featherweight.recipe import Recipe, find_recipe
from featherweight.run import create_run
from featherweight.train import train

# As in an activated environment: the command line is found by its name.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
PLAN = """
recipes = ["feather-20k"]
seeds = 2
contract = "{contract}"
test = {test}
[[overrides]]
name = "one"
epochs = 1
batch_size = 50
[[overrides]]
name = "two"
epochs = 2
batch_size = 50
augmentation.rotation = 3
"""


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


def write_idx(path, array):
    """An array of uint8 as an IDX file, gzipped where the name says so."""
    content = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
    path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)


def make_digits(n, seed, side=28):
    """images (n, side, side) and labels (n,): a coarse random pattern a class, noise, a shift."""
    glyphs = np.random.default_rng(7).random((10, 5, 5)) > 0.5
    random = np.random.default_rng(seed)
    labels = np.arange(n, dtype=np.uint8) % 10
    images = random.integers(0, 60, (n, side, side), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        y, x = random.integers(2, side - 22, 2)
        image[y:y + 20, x:x + 20] += (glyphs[label].repeat(4, 0).repeat(4, 1) * 180).astype(np.uint8)
    return images, labels


def write_mnist(folder, n_train=600, n_test=100, suffix=".gz"):
    folder.mkdir(exist_ok=True)
    for stem, n, seed in (("train", n_train, 0), ("t10k", n_test, 1)):
        images, labels = make_digits(n, seed)
        write_idx(folder / f"{stem}-images-idx3-ubyte{suffix}", images)
        write_idx(folder / f"{stem}-labels-idx1-ubyte{suffix}", labels)
    return folder


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    return write_mnist(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="session")
def tiny_contract():
    return Contract("tiny", 20_000, 20, 0.5, 1, 500, 100, True, True, ("linear", "gap"))


@pytest.fixture(scope="session")
def tiny_recipe():
    return Recipe("tiny", "featherweight.model:Feather", {"layers": ["conv 8 k6 s2 p2", "conv 8"], "dropout": 0.05},
                  epochs=4, lr=0.2, batch_size=25, nesterov=True, ema=0.8)


@pytest.fixture
def split(digits):
    return load_split(str(digits), 500, 100)


def train_and_export(folder, recipe, contract, split):
    run = create_run(str(folder / "run"), recipe, contract, split, 0, torch.device("cpu"), "")
    train(run, split, torch.device("cpu"))
    return export_onnx(run, split, int8=False)


@pytest.fixture(scope="session")
def model(tmp_path_factory, tiny_recipe, tiny_contract, digits):
    """An exported network that was trained for an epoch on made digits."""
    return train_and_export(tmp_path_factory.mktemp("made"), dataclasses.replace(tiny_recipe, epochs=1),
                            tiny_contract, load_split(str(digits), 500, 100))


@pytest.fixture(scope="session")
def real_model(tmp_path_factory, tiny_contract):
    """The path of an exported network that was trained for two epochs on MNIST, once for all test processes."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    model = folder / "real" / "run" / "model.onnx"
    with FileLock(folder / "real.lock"):
        if not model.exists():
            recipe = dataclasses.replace(find_recipe("sprint"), epochs=2, resize_until=0.0)
            (folder / "real").mkdir()
            train_and_export(folder / "real", recipe, tiny_contract, load_split(None, 50_000, 10_000))
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
        nodes = Cluster(initialize_head=True, head_node_args=node | {
            "include_dashboard": False, "_system_config": {"worker_niceness": 0}})
        nodes.second = nodes.add_node(**node)
        ray.init(address=nodes.address, log_to_driver=False, logging_level="error")
    nodes.wait_for_nodes()
    yield nodes
    ray.shutdown()
    nodes.shutdown()
