"""What several tests share: made digits, small runs, processes of commands and of the server."""

import gzip
import io
import json
import math
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from dataclasses import replace
from pathlib import Path

import httpx2 as httpx
import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from featherweight._format import EXPORT_FORMAT
from featherweight.build import build
from featherweight.contract import Contract, load_contract
from featherweight.evaluate import Evaluation, normalise
from featherweight.export.integer import integer_network
from featherweight.export.onnx import export_onnx
from featherweight.inference.prepare import Sheet
from featherweight.recipe import RECIPES
from featherweight.run import create_run
from featherweight.train import train

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
# The same with a network that trains and is judged in a fraction of the time.
SMALL_PLAN = PLAN.replace(
    "batch_size = 50\n",
    'batch_size = 50\nmodel_args.layers = ["conv 8 m2", "conv 8"]\nmodel_args.views = []\n',
)
# The recipes for 28x28 grey pixels and ten classes.
MNIST_RECIPES = [each for each in RECIPES if load_contract(each.contract).data == "mnist"]
# What C code is compiled with.
COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)]
WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-Wpedantic", "-Werror")
# Layers of every kind, for networks in integers.
FEATHERS = {
    "hardswish": {
        "layers": ["conv 8 k5 s2 p2", "sep 8 p1 m2", "conv 8 p1 x2", "sep 8 p1 x2", "pool"]
    },
    "dense": {"layers": ["conv 8", "conv 8 m2", "conv 12 p1", "sep 16", "sep 9"], "dense": True},
    "relu": {
        "layers": ["conv 5 k4 p3", "sep 7 k2 m3", "pool", "conv 8 k1 s2"],
        "activation": "relu",
    },
    "wide": {"layers": ["sep 8 m2", "conv 255 s4", "sep 3"]},
    "separable head": {"layers": ["conv 8 m2", "sep 9"], "head": "sep", "dense": True},
    "parts": {"layers": ["conv 8 k5 m2", "conv 24 p1", "sep 8", "sep 70 k5", "conv 8 k1"]},
    "primes": {"layers": ["conv 83 k5 m2", "conv 8 k1", "sep 12"]},
    "products": {"layers": ["conv 8 m2", "sep 12"]},
}
LAYERS = ["conv 8 k5 s2 p2", "sep 8 p1 m2", "conv 8 p1 x2", "sep 8 p1 x2", "pool"]
VERDICT = {
    "contract": "tiny",
    "passed": False,
    "clauses": [
        {
            "clause": "parameters",
            "required": "fewer than 9",
            "found": "7",
            "how": "counted",
            "passed": True,
        },
        {
            "clause": "head",
            "required": "linear layer",
            "found": "something else",
            "how": "seen",
            "passed": False,
        },
        {
            "clause": "accuracy",
            "required": "at least 99.40 %",
            "found": "-",
            "how": "not trained",
            "passed": None,
        },
    ],
}
# The contract of most tests, which digits from `make_digits` meet.
TINY = {
    "name": "tiny",
    "max_params": 20_000,
    "max_epochs": 20,
    "min_val_accuracy": 0.5,
    "consistent_epochs": 1,
    "train_size": 500,
    "val_size": 100,
    "batch_norm": True,
    "dropout": True,
    "heads": ["linear", "gap"],
}
SHEET = np.full((200, 200), 255, np.uint8)
SHEET[40:160, 90:110] = 0
# As in an activated environment: the command line is found by its name.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
COMMAND = [sys.executable, "-c", "from featherweight.cli import main; main()"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "160"}


def make_contract(**changes):
    """The contract of most tests, with other values under the keys of older files."""
    return Contract.from_dict(TINY | changes)


def write_idx(path, array):
    """An array of uint8 as an IDX file, gzipped where the name says so."""
    content = (
        bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
    )
    path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)


def make_digits(n, seed, side=28):
    """images (n, side, side) and labels (n,): a coarse random pattern a class, noise, a shift."""
    glyphs = np.random.default_rng(7).random((10, 5, 5)) > 0.5
    random = np.random.default_rng(seed)
    labels = np.arange(n, dtype=np.uint8) % 10
    images = random.integers(0, 60, (n, side, side), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        y, x = random.integers(2, side - 22, 2)
        image[y : y + 20, x : x + 20] += (glyphs[label].repeat(4, 0).repeat(4, 1) * 180).astype(
            np.uint8
        )
    return images, labels


def write_mnist(folder, n_train=600, n_test=90, suffix=".gz"):
    folder.mkdir(exist_ok=True)
    for stem, n, seed in (("train", n_train, 0), ("t10k", n_test, 1)):
        images, labels = make_digits(n, seed)
        write_idx(folder / f"{stem}-images-idx3-ubyte{suffix}", images)
        write_idx(folder / f"{stem}-labels-idx1-ubyte{suffix}", labels)
    return folder


def train_and_export(folder, recipe, contract, split):
    run = create_run(str(folder / "run"), recipe, contract, split, 0, torch.device("cpu"), "")
    train(run, split, torch.device("cpu"))
    return export_onnx(run, split, int8=False)


def write_network(path, kind, layout=None, weight=None):
    """An exported file of a linear layer for images of a kind; without `weight` it is random."""
    grey = kind.channels == 1
    shape = [kind.height, kind.width] if grey else [3, kind.height, kind.width]
    n, classes = math.prod(shape), len(kind.classes)
    if weight is None:
        weight = np.random.default_rng(0).normal(0, 0.001, (n, classes))
    stored = {"weight": np.asarray(weight, np.float32), "flat": np.array([-1, n])}
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("Reshape", ["floats", "flat"], ["rows"]),
            helper.make_node("MatMul", ["rows", "weight"], ["logits"]),
            helper.make_node("LogSoftmax", ["logits"], ["log_probabilities"], axis=1),
        ],
        "graph",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", *shape])],
        [helper.make_tensor_value_info("log_probabilities", TensorProto.FLOAT, ["n", classes])],
        [numpy_helper.from_array(array, name) for name, array in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    card = {
        "format": EXPORT_FORMAT,
        "recipe": "made",
        "labels": " ".join(map(str, range(classes))),
        "kind": json.dumps(kind.to_dict()),
        "temperature": "1",
        "sure_from": "0.5",
        "parameters": str(n * classes),
        "validation_correct": "9",
        "validation_total": "10",
    }
    if layout is not None:
        card["layout"] = layout.to_text()
    for key, value in card.items():
        model.metadata_props.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())
    return path


def bomb(side=20_000):
    """A PNG of `side` x `side` whose file is small."""

    def chunk(kind, content):
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10_000)))
    )


@torch.no_grad()
def random_feather(split, layers=LAYERS, **arguments):
    """A network whose batch norms have seen images, and have slopes of all kinds, some falling."""
    torch.manual_seed(0)
    model = build("featherweight.model:Feather", {"layers": layers} | arguments, 10)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.uniform_(0.5, 1.5).mul_(
                torch.where(torch.rand(module.num_features) < 0.2, -1, 1)
            )
            module.bias.uniform_(-1, 1)
            module.momentum = None
    model.train()(normalise(split.train.pixels, split.mean_std))
    return model.eval()


def with_extreme_weights(network):
    """All weights as large as their bits allow, or as small: the sums that overflow first.

    Rows of a filter are then taken apart in parts; those of the layer whose rows are 17 weights
    long, a prime, do not fit two to a word at all.
    """
    for layer in network.layers:
        if layer.kind != "pool":
            low, high = -(2 ** (network.bits - 1)), 2 ** (network.bits - 1) - 1
            sign = torch.randn(layer.weights.shape, generator=torch.Generator().manual_seed(1))
            layer.weights = torch.where(sign < 0.4, low, high)
            layer.weights[0] = low
            layer.weights[-1] = high
    network.check()


def with_wide_products(network):
    """A depthwise layer whose second multiplier leaves its products in 32 bits no room."""
    _, depthwise, _ = network.layers
    depthwise.out_multiplier, depthwise.out_shift = (
        depthwise.out_multiplier >> 8,
        depthwise.out_shift - 8,
    )
    network.check()


# What is done to these networks once they are in integers.
FEATHER_CHANGES = {
    "parts": with_extreme_weights,
    "primes": with_extreme_weights,
    "products": with_wide_products,
}


def integer_feather(split, name, bits, images):
    """A network of FEATHERS in integers. Dense evaluation looks again at half of the images."""
    network = integer_network(random_feather(split, **FEATHERS[name]), split, bits)
    if name in FEATHER_CHANGES:
        FEATHER_CHANGES[name](network)
    if network.max_looks > 1:
        best, second = replace(network, margin=0).scores(images).topk(2).values.T
        network.margin = int((best - second).median())
        looks = network.read(images)[1]
        assert looks.unique().tolist() == [1, network.max_looks]
    return network


def result(n, n_wrong, classes=10):
    labels = torch.arange(n) % classes
    read = torch.where(torch.arange(n) < n_wrong, (labels + 1) % classes, labels)
    return Evaluation(0.1, torch.full((n, classes), 0.01).scatter(1, read[:, None], 0.91), labels)


def split_number(picture):
    """The digits of a number, images (28, 28), from left to right."""
    return [digit.image for digit in Sheet(picture).number()]


def encoded(array, kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind)
    return file.getvalue()


def command(path, port):
    return [
        sys.executable,
        "-c",
        "from featherweight.cli import main; main()",
        "serve",
        "--model",
        str(path),
        "--port",
        str(port),
    ]


class Server:
    """`featherweight serve` as a process, on a port of its own.

    Perhaps with another limit of file descriptors, or with other seconds for headers.
    """

    def __init__(self, path, *options, cwd=None, descriptors=None, seconds=None):
        words = [*command(path, 0), *options]
        if seconds is not None:
            words[2] = (
                "from featherweight.inference.server import _connections\n"
                f"_connections.HEADER_SECONDS = {seconds}\n{words[2]}"
            )
        if descriptors is not None:
            words = ["bash", "-c", f'ulimit -n {descriptors}; exec "$@"', "bash", *words]
        self.process = subprocess.Popen(
            words,
            env=os.environ | {"NO_COLOR": "1"},
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd,
        )
        self.url = self.process.stderr.readline().split()[0]
        end = time.monotonic() + 60
        while True:
            try:
                httpx.get(f"{self.url}/healthz")
                return
            except httpx.TransportError:
                assert time.monotonic() < end
                time.sleep(0.05)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


def featherweight(*words, cwd, **kwargs):
    return subprocess.run(
        [*COMMAND, *map(str, words)],
        cwd=cwd,
        env=ENVIRONMENT,
        text=True,
        capture_output=True,
        timeout=300,
        check=False,
        **kwargs,
    )
