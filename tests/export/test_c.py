"""The C code against the Python reference, with every installed compiler and two sanitizers."""

import dataclasses
import shutil
import subprocess

import numpy as np
import pytest
import torch
from helpers import COMPILERS, FEATHERS, WARNINGS, integer_feather, random_feather
from hypothesis import assume, given
from hypothesis import strategies as st

from featherweight.data import load_split
from featherweight.export.c import (
    constants,
    describe_looks,
    expected_output,
    export_c,
    flash,
    is_prepared,
    scratch,
    source,
)
from featherweight.export.firmware import CHIPS, SOURCE, Sizes, measure, read_c, read_on_chip
from featherweight.export.integer import (
    AccumulatorOverflowError,
    IntegerNetwork,
    Layer,
    integer_network,
)
from featherweight.export.packing import find_parts, pack, pack_network, split_bits
from featherweight.recipe import find_recipe
from featherweight.run import create_run, open_run
from featherweight.train import train

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler"),
]
CPU = torch.device("cpu")
STACK = 600  # bytes, which the README of an exported folder promises


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


EXTREME_NETWORKS = [("parts", 4), ("primes", 4), ("products", 8), ("products", 4)]
# One network for each path of the program: sanitizers take long to compile.
SANITISED = [
    ("hardswish", 4),
    ("dense", 8),
    ("relu", 2),
    ("wide", 4),
    ("parts", 4),
    ("primes", 2),
    ("products", 8),
]


@pytest.fixture(scope="module")
def written(tmp_path_factory, split, extremes):
    """Return a function that writes the folder of a network and returns it with the reference."""
    made = {}

    def write(name, bits):
        if (name, bits) not in made:
            network = integer_feather(split, name, bits, extremes)
            folder = tmp_path_factory.mktemp(f"{name}-{bits}")
            for file, text in source(network, name).items():
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
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
    assert None not in (splits["dense", 4], splits["dense", 8], splits["parts", 4])


def conv_layer(weights):
    """A convolution of weights (outputs, inputs, kernel, kernel)."""
    return Layer(
        kind="conv",
        repeat=False,
        kernel=weights.shape[2],
        stride=1,
        padding=0,
        pool=1,
        weights=weights,
        pad_value=0,
    )


@given(st.integers(1, 3), st.integers(1, 40), st.floats(0, 1), st.integers(0, 2**20))
def test_no_image_makes_sums_that_share_a_word_overflow(kernel, inputs, positive, seed):
    """For the worst image of each group of parts: 255 where weights are positive, or negative."""
    generator = torch.Generator().manual_seed(seed)
    shape = (5, inputs, kernel, kernel)
    sign = torch.rand(shape, generator=generator) < positive
    magnitude = torch.randint(0, 8, shape, generator=generator)
    weights = torch.where(sign, magnitude, -magnitude - 1)
    parts = find_parts(conv_layer(weights))
    assume(parts is not None)  # rows of a prime length, too large to fit whole
    run = kernel * inputs
    assert run % parts.split == 0
    flat = weights.permute(0, 2, 3, 1).reshape(5, -1)
    for group in flat.split(run // parts.split * parts.group, 1):
        assert 255 * group.clamp(min=0).sum(1).max() <= 2**15 - 1
        assert 255 * group.clamp(max=0).sum(1).min() >= -(2**15)


def test_more_bytes_of_weights_than_indices_reach_are_refused():
    """50,960 weights are 81,536 with the zeros that fill the last block."""
    layer = conv_layer(torch.zeros(5, 13, 28, 28, dtype=torch.int64))
    network = IntegerNetwork((28, 28), True, range(1), 8, [layer])
    with pytest.raises(AccumulatorOverflowError, match="weights: got 81,536 bytes in blocks of 4"):
        pack_network(network)


@pytest.mark.parametrize(
    ("name", "bits"),
    [(name, bits) for name in FEATHERS for bits in (8, 4, 2) if (name, bits) not in SANITISED],
)
def test_the_program_gives_the_definitions_scores(written, extremes, name, bits):
    folder, network = written(name, bits)
    assert torch.equal(read_c(folder, extremes), network.scores(extremes))


@pytest.mark.parametrize(("name", "bits"), SANITISED)
@pytest.mark.parametrize("compiler", COMPILERS)
def test_no_compiler_nor_sanitizer_has_a_word_to_say(
    written, extremes, tmp_path, compiler, name, bits
):
    folder, network = written(name, bits)
    files = [f"-I{folder / 'src'}", str(folder / SOURCE), str(folder / "main.c")]
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
@pytest.mark.parametrize("name", ["hardswish", "dense", "relu"])
def test_the_object_is_as_small_as_promised(written, name, bits):
    folder, network = written(name, bits)
    sizes = measure(folder, "cc")
    assert sizes.ram == scratch(network)["ram"]
    assert (
        0 <= sizes.constants - flash(network) <= 6 * 31
    )  # tables begin at multiples of 32 bytes there
    for chip in CHIPS.values():
        if shutil.which(chip.compiler):
            sizes = measure(folder, chip.compiler, *chip.flags)
            assert isinstance(sizes, Sizes)
            assert sizes.ram == scratch(network)["ram"]
            assert 0 <= sizes.constants - flash(network) <= 3 * 6


def test_it_needs_nothing_but_stdint(written, tmp_path):
    folder, _ = written("dense", 4)
    # The second is the compiler's own, and only for processors that add two products at once.
    assert [line for line in (folder / SOURCE).read_text().splitlines() if "#include" in line] == [
        '#include "digit.h"',
        "#include <arm_acle.h>",
    ]
    subprocess.run(
        ["cc", "-std=c99", "-O0", "-c", folder / SOURCE, "-o", tmp_path / "digit.o"], check=True
    )
    needs = subprocess.run(
        ["nm", "-u", tmp_path / "digit.o"], capture_output=True, text=True, check=True
    ).stdout
    assert {line.split()[-1] for line in needs.splitlines()} <= {
        "__stack_chk_fail",
        "_GLOBAL_OFFSET_TABLE_",
    }


@pytest.mark.skipif(
    not all(
        shutil.which(tool) for chip in CHIPS.values() for tool in (chip.compiler, chip.emulator)
    ),
    reason="no compilers for chips or QEMU",
)
@pytest.mark.parametrize("chip", CHIPS)
def test_a_chip_gives_the_same(written, extremes, chip):
    for name, bits in (("dense", 4), ("relu", 8)):
        folder, network = written(name, bits)
        found = read_on_chip(folder, extremes, CHIPS[chip])
        scores, looks = network.read(extremes)
        assert torch.equal(found.scores, scores)
        assert torch.equal(found.looks, looks)
        macs = torch.where(looks == 1, network.first_macs, network.macs)
        assert (macs < found.instructions).all()
        assert (found.instructions < 100 * macs).all()
        assert 200 < found.stack < STACK


@pytest.mark.skipif(
    not all(shutil.which(tool) for tool in (CHIPS["m0"].compiler, CHIPS["m0"].emulator)),
    reason="no compiler for the chip or QEMU",
)
@pytest.mark.parametrize(
    ("recipe", "most_bytes", "most_ram", "most_instructions"),
    [
        ("int4-8kb", 8000, 8000, 7_500_000),
        ("int4-4kb", 4000, 5000, 3_600_000),
        ("int4-fast", 5000, 4000, 2_000_000),
        ("int4-1kb", 1000, 1900, 1_500_000),
        ("int4-tiny", 500, 1320, 700_000),
    ],
)
def test_one_look_of_a_recipe_stays_within_its_limits(
    split, tmp_path, recipe, most_bytes, most_ram, most_instructions
):
    model = random_feather(split, **find_recipe(recipe).model_args)
    network = integer_network(model, split, 4)
    network.margin = 0
    for file, text in source(network, recipe).items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    found = read_on_chip(tmp_path, split.val.pixels[:1], CHIPS["m0"])
    assert flash(network) <= most_bytes
    assert scratch(network)["ram"] + found.stack <= most_ram
    assert found.instructions.max() <= most_instructions


def test_the_looks_are_told_in_words():
    assert describe_looks(torch.ones(3)) == "One look at every image."
    assert describe_looks(torch.tensor([1, 4, 1] * 1000)) == (
        "One look, or 4 where the two largest scores are close: at 1,000 of 3,000 validation "
        "images."
    )


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


def files_of(folder):
    """Return the content of every file in a folder by its path there."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, True),
        ({"classes": ("no", "yes")}, True),
        ({"height": 20}, False),
        ({"channels": 3}, False),
        ({"polarity": "dark on light"}, False),
        ({"orientation": "transposed"}, False),
    ],
)
def test_pictures_are_prepared_for_images_as_mnist_has_them(split, change, expected):
    assert is_prepared(dataclasses.replace(split.kind, **change)) == expected
    network = integer_network(random_feather(split), split, 8)
    files = source(network, "made", prepared=expected)
    assert ({"src/prepare.h", "src/prepare.c"} < set(files)) == expected
    built = ("Makefile", "CMakeLists.txt", "library.properties", "micropython.mk")
    for name in (*built, "micropython.cmake"):
        assert ("prepare" in files[name]) == expected, name
    assert f"#define PREPARES {int(expected)}" in files["micropython/moddigit.c"]


def test_a_folder_is_all_one_needs(run, split):
    firmware = export_c(run, split, 8)
    assert firmware.path == run.path / "c-int8"
    assert set(files_of(firmware.path)) == {
        "src/digit.h",
        "src/digit.c",
        "main.c",
        "Makefile",
        "CMakeLists.txt",
        "library.properties",
        "library.json",
        "examples/ReadDigit/ReadDigit.ino",
        "examples/ReadDigit/example.h",
        "micropython.mk",
        "micropython.cmake",
        "micropython/moddigit.c",
        "README.md",
        "src/prepare.h",
        "src/prepare.c",
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
    before = files_of(first.path)
    (first.path / "digit.o").write_bytes(b"old")
    export_c(copy, split, 4)
    assert files_of(first.path) == before
    (copy.path / "c-int8").mkdir()
    (copy.path / "c-int8" / "digit.c").write_text("int mine;")
    with pytest.raises(ValueError, match="exists and is no earlier export"):
        export_c(copy, split, 8)
    assert (copy.path / "c-int8" / "digit.c").read_text() == "int mine;"
    # Early versions wrote digit.c beside main.c.
    (copy.path / "c-int8" / "digit.c").write_text("/* Made by featherweight 0.1.0; do not edit.")
    assert "digit.c" not in files_of(export_c(copy, split, 8).path)
    assert not [path for path in copy.path.iterdir() if path.name.startswith(".")]


def test_a_failure_leaves_the_earlier_export(run, split, tmp_path, monkeypatch):
    shutil.copytree(run.path, tmp_path / "run", ignore=shutil.ignore_patterns("c-int*"))
    copy = open_run(tmp_path / "run")
    first = export_c(copy, split, 8)
    before = files_of(first.path)
    honest = type(first.path).write_bytes

    def full(path, content):
        if path.name == "main.c":
            raise OSError("disk full")
        return honest(path, content)

    monkeypatch.setattr(type(first.path), "write_bytes", full)
    with pytest.raises(OSError, match="disk full"):
        export_c(copy, split, 8)
    assert files_of(first.path) == before
    assert not [path for path in copy.path.iterdir() if path.name.startswith(".")]
