"""The C code against the Python reference, with every installed compiler and two sanitizers."""

import shutil
import subprocess

import numpy as np
import pytest
import torch
from helpers import random_feather
from hypothesis import given
from hypothesis import strategies as st

from featherweight.data import load_split
from featherweight.export.c import (
    constants,
    expected_output,
    export_c,
    flash,
    scratch,
    source,
)
from featherweight.export.firmware import ARM_COMPILER, CHIPS, Sizes, measure, read_c, read_on_chip
from featherweight.export.integer import integer_network
from featherweight.export.packing import pack, pack_network, split_bits
from featherweight.run import create_run, open_run
from featherweight.train import train

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler"),
]
CPU = torch.device("cpu")
WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-Wpedantic", "-Werror")
COMPILERS = [name for name in ("gcc", "clang") if shutil.which(name)]
NETWORKS = {
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


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    from helpers import write_mnist

    return load_split(str(write_mnist(tmp_path_factory.mktemp("digits"))), 500, 100)


@pytest.fixture(scope="module")
def extremes(split):
    """(n, 1, 28, 28): digits, noise, all black, all white, a checkerboard."""
    noise = torch.randint(
        0, 256, (5, 1, 28, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    board = (np.indices((28, 28)).sum(0) % 2 * 255).astype(np.uint8)[None, None]
    return torch.cat(
        [
            split.val.pixels[:10],
            noise,
            torch.zeros(1, 1, 28, 28, dtype=torch.uint8),
            torch.full((1, 1, 28, 28), 255, dtype=torch.uint8),
            torch.from_numpy(board),
        ]
    )


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


CHANGES = {
    "parts": with_extreme_weights,
    "primes": with_extreme_weights,
    "products": with_wide_products,
}
EXTREME_NETWORKS = [
    ("parts", 4),
    ("parts", 2),
    ("primes", 4),
    ("primes", 2),
    ("products", 8),
    ("products", 4),
]


@pytest.fixture(scope="module")
def written(tmp_path_factory, split):
    """Return a function that writes the folder of a network and returns it with the reference."""
    made = {}

    def write(name, bits):
        if (name, bits) not in made:
            network = integer_network(random_feather(split, **NETWORKS[name]), split, bits)
            if name in CHANGES:
                CHANGES[name](network)
            folder = tmp_path_factory.mktemp(f"{name}-{bits}")
            for file, text in source(network, name).items():
                (folder / file).write_text(text)
            made[name, bits] = folder, network
        return made[name, bits]

    return write


@given(st.sampled_from([2, 4, 8]), st.data())
def test_packed_integers_come_back(bits, data):
    values = data.draw(st.lists(st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1), max_size=20))
    packed = pack(torch.tensor(values, dtype=torch.int64), bits)
    assert len(packed) == -(-len(values) * bits // 8)
    whole = int.from_bytes(packed, "little")
    for i, value in enumerate(values):
        field = whole >> (bits * i) & (2**bits - 1)
        assert field - (field >> (bits - 1) << bits) == value


def test_the_networks_take_every_path_of_the_program(written):
    """Two sums in a word and one, rows in parts, and products of 64 bits."""
    made = {key: written(*key)[1] for key in [*EXTREME_NETWORKS, ("dense", 4), ("dense", 8)]}
    packings = {key: pack_network(network) for key, network in made.items()}
    splits = {key: split_bits(network) for key, network in made.items()}
    assert packings["dense", 4].lanes == 2
    assert packings["dense", 8].lanes == 1
    assert all(parts.split == 1 for parts in packings["dense", 4].parts)
    assert max(parts.split for parts in packings["parts", 4].parts) > 1
    assert packings["primes", 4].lanes == 1
    assert splits["products", 4] is splits["products", 8] is None
    assert all(split is not None for key, split in splits.items() if key[0] != "products")


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_program_gives_the_definitions_scores(written, extremes, name, bits):
    folder, network = written(name, bits)
    assert torch.equal(read_c(folder, extremes), network.scores(extremes))


@pytest.mark.parametrize(
    ("name", "bits"),
    [(name, 4) for name in NETWORKS] + [("hardswish", 8), ("dense", 2), *EXTREME_NETWORKS],
)
@pytest.mark.parametrize("compiler", COMPILERS)
def test_no_compiler_nor_sanitizer_has_a_word_to_say(
    written, extremes, tmp_path, compiler, name, bits
):
    folder, network = written(name, bits)
    files = [str(folder / "digit.c"), str(folder / "main.c")]
    subprocess.run(
        [
            compiler,
            "-std=c99",
            "-O1",
            *WARNINGS,
            "-fsanitize=undefined,address",
            "-fno-sanitize-recover",
            *files,
            "-o",
            str(tmp_path / "digit"),
        ],
        check=True,
    )
    done = subprocess.run(
        [tmp_path / "digit"], input=extremes.numpy().tobytes(), capture_output=True, check=True
    )
    assert not done.stderr
    assert done.stdout.decode() == expected_output(network.scores(extremes))
    cpp = {"gcc": "g++", "clang": "clang++"}[compiler]
    subprocess.run(
        [cpp, "-x", "c++", "-std=c++11", *WARNINGS, *files, "-o", str(tmp_path / "cpp")], check=True
    )
    again = subprocess.run(
        [tmp_path / "cpp"], input=extremes.numpy().tobytes(), capture_output=True, check=True
    )
    assert again.stdout == done.stdout


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_object_is_as_small_as_promised(written, name, bits):
    folder, network = written(name, bits)
    sizes = measure(folder, "cc")
    assert sizes.ram == scratch(network)["ram"]
    assert (
        0 <= sizes.constants - flash(network) <= 6 * 31
    )  # tables begin at multiples of 32 bytes there
    if shutil.which(ARM_COMPILER):
        for chip in CHIPS.values():
            sizes = measure(folder, ARM_COMPILER, *chip.flags)
            assert isinstance(sizes, Sizes)
            assert sizes.ram == scratch(network)["ram"]
            assert 0 <= sizes.constants - flash(network) <= 3 * 6


def test_it_needs_nothing_but_stdint(written, tmp_path):
    folder, _ = written("dense", 4)
    # The second is the compiler's own, and only for processors that add two products at once.
    assert [
        line for line in (folder / "digit.c").read_text().splitlines() if "#include" in line
    ] == ['#include "digit.h"', "#include <arm_acle.h>"]
    subprocess.run(
        ["cc", "-std=c99", "-O0", "-c", folder / "digit.c", "-o", tmp_path / "digit.o"], check=True
    )
    needs = subprocess.run(
        ["nm", "-u", tmp_path / "digit.o"], capture_output=True, text=True, check=True
    ).stdout
    assert {line.split()[-1] for line in needs.splitlines()} <= {
        "__stack_chk_fail",
        "_GLOBAL_OFFSET_TABLE_",
    }


@pytest.mark.skipif(
    not (shutil.which(ARM_COMPILER) and shutil.which("qemu-system-arm")),
    reason="no ARM compiler or QEMU",
)
@pytest.mark.parametrize("chip", CHIPS)
def test_a_cortex_m_gives_the_same(written, extremes, chip):
    for name, bits in (("dense", 4), ("relu", 8)):
        folder, network = written(name, bits)
        scores, instructions = read_on_chip(folder, extremes, CHIPS[chip])
        assert torch.equal(scores, network.scores(extremes))
        assert 2 * network.macs < instructions < 200 * network.macs


def test_images_that_end_too_early_are_an_error(written, tmp_path):
    folder, network = written("relu", 8)
    subprocess.run(["make", "-s", "-C", folder, "digit"], check=True)
    done = subprocess.run(
        [folder / "digit"], input=bytes(784 + 100), capture_output=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == b"error: got an image of 100 bytes, expected 784\n"
    assert done.stdout.decode() == expected_output(
        network.scores(torch.zeros(1, 1, 28, 28, dtype=torch.uint8))
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory, split, tiny_recipe, tiny_contract):
    run = create_run(
        str(tmp_path_factory.mktemp("export") / "run"),
        tiny_recipe,
        tiny_contract,
        split,
        0,
        CPU,
        "",
    )
    train(run, split, CPU)
    return run


def test_a_folder_is_all_one_needs(run, split):
    firmware = export_c(run, split, 8)
    assert firmware.path == run.path / "c-int8"
    assert {path.name for path in firmware.path.iterdir()} == {
        "digit.h",
        "digit.c",
        "main.c",
        "Makefile",
        "README.md",
        "prepare.h",
        "prepare.c",
        "example.raw",
        "example.txt",
    }
    assert firmware.correct >= firmware.float_correct - 2
    assert f"({100 - firmware.correct} wrong of 100)" in (firmware.path / "README.md").read_text()
    assert firmware.flash == sum(map(len, constants(firmware.network).values())) + 12 * 2
    done = subprocess.run(
        ["make", "-s", "-C", firmware.path, "check"], capture_output=True, check=True
    )
    assert not done.stderr
    (firmware.path / "example.txt").write_text("3 0 0\n")
    assert (
        subprocess.run(
            ["make", "-s", "-C", firmware.path, "check"], capture_output=True, check=False
        ).returncode
        != 0
    )


def test_an_earlier_export_is_replaced_and_nothing_else(run, split, tmp_path):
    shutil.copytree(run.path, tmp_path / "run", ignore=shutil.ignore_patterns("c-int*"))
    copy = open_run(tmp_path / "run")
    first = export_c(copy, split, 4)
    before = {path.name: path.read_bytes() for path in first.path.iterdir()}
    (first.path / "digit.o").write_bytes(b"old")
    export_c(copy, split, 4)
    assert {path.name: path.read_bytes() for path in first.path.iterdir()} == before
    (copy.path / "c-int8").mkdir()
    (copy.path / "c-int8" / "digit.c").write_text("int mine;")
    with pytest.raises(ValueError, match="exists and is no earlier export"):
        export_c(copy, split, 8)
    assert (copy.path / "c-int8" / "digit.c").read_text() == "int mine;"
    assert not [path for path in copy.path.iterdir() if path.name.startswith(".")]


def test_a_failure_leaves_the_earlier_export(run, split, tmp_path, monkeypatch):
    shutil.copytree(run.path, tmp_path / "run", ignore=shutil.ignore_patterns("c-int*"))
    copy = open_run(tmp_path / "run")
    first = export_c(copy, split, 8)
    before = {path.name: path.read_bytes() for path in first.path.iterdir()}
    honest = type(first.path).write_bytes

    def full(path, content):
        if path.name == "main.c":
            raise OSError("disk full")
        return honest(path, content)

    monkeypatch.setattr(type(first.path), "write_bytes", full)
    with pytest.raises(OSError, match="disk full"):
        export_c(copy, split, 8)
    assert {path.name: path.read_bytes() for path in first.path.iterdir()} == before
    assert not [path for path in copy.path.iterdir() if path.name.startswith(".")]
