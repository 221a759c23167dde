"""Rows of results/c99.csv: sizes and counts of compiled programs; the command `firmware`."""

import shutil

import pytest
import torch
from helpers import integer_feather

from featherweight.cli import app
from featherweight.data import load_split, load_test
from featherweight.export import firmware, integer
from featherweight.export.c import export_c
from featherweight.export.firmware import (
    CHIPS,
    FIRMWARE_COLUMNS,
    SOURCE,
    make_row,
    measure,
    read_c,
    read_on_chip,
)
from featherweight.run import create_run
from featherweight.tables import read_table, write_table
from featherweight.train import train

pytestmark = pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_recipe, tiny_contract, digits):
    split = load_split(str(digits), 500, 100)
    run = create_run(
        str(tmp_path_factory.mktemp("firmware") / "run"),
        tiny_recipe,
        tiny_contract,
        split,
        0,
        torch.device("cpu"),
        "",
    )
    train(run, split, torch.device("cpu"))
    return run, split


def test_a_row_tells_what_the_program_reads(finished):
    run, split = finished
    made = export_c(run, split, 8)
    row = make_row(made, run, split, test=True, on_chip=0)
    assert tuple(row) == FIRMWARE_COLUMNS
    assert (row["recipe"], row["seed"], row["bits"]) == ("tiny", "0", "8")
    test = load_test(split)
    assert row["equal"] == row["images"] == str(len(split.val) + len(test))
    assert int(row["val_correct"]) == made.correct
    right = (made.network.scores(test.pixels).argmax(1) == test.labels).sum()
    assert int(row["test_correct"]) == right
    assert int(row["constants"]) == made.flash
    assert row["code_m0"] == row["equal_m0"] == row["images_on_chip"] == ""
    assert make_row(made, run, split, test=False, on_chip=0)["test_correct"] == ""


@pytest.mark.skipif(
    not all(
        shutil.which(tool) for chip in CHIPS.values() for tool in (chip.compiler, chip.emulator)
    ),
    reason="no compilers for chips or QEMU",
)
def test_a_row_tells_of_the_chips(finished):
    run, split = finished
    row = make_row(export_c(run, split, 8), run, split, test=False, on_chip=3)
    for chip in CHIPS:
        assert row[f"equal_{chip}"] == row["images_on_chip"] == "3"
        assert 100 < int(row[f"stack_{chip}"]) < 600
    assert 500 < int(row["code_m4"]) < 5000
    assert int(row["instructions_m4"]) < int(row["instructions_m0"])


@pytest.mark.skipif(
    not all(
        shutil.which(tool) for chip in CHIPS.values() for tool in (chip.compiler, chip.emulator)
    ),
    reason="no compilers for chips or QEMU",
)
def test_instructions_are_the_mean_of_images_in_doubt_and_others(finished, monkeypatch):
    run, split = finished
    network = integer_feather(split, "separable head", 4, split.val.pixels)
    monkeypatch.setattr(integer, "integer_network", lambda *_: network)
    made = export_c(run, split, 4)
    again = made.looks == 4
    row = make_row(made, run, split, test=False, on_chip=1)
    # The first image, and the first of the other kind.
    assert row["images_on_chip"] == row["equal_m0"] == row["equal_rv32"] == "2"
    assert row["doubtful"] == str(int(again.sum()))
    pixels = split.val.pixels[[int((~again).nonzero()[0]), int(again.nonzero()[0])]]
    once, all_looks = read_on_chip(made.path, pixels, CHIPS["m0"]).instructions.tolist()
    share = float(again.double().mean())
    assert all_looks > 3.5 * once
    assert int(row["instructions_m0"]) == round(once * (1 - share) + all_looks * share)
    assert int(row["most_instructions_m0"]) == round(all_looks)


def featherweight(*words):
    return app(
        [*map(str, words)], exit_on_error=False, print_error=False, result_action="return_value"
    )


def test_the_command_adds_a_row_a_run_and_none_twice(finished, digits, tmp_path, capsys):
    run, _ = finished
    table = tmp_path / "c99.csv"
    words = ("firmware", run.path, "--data", digits, "--results", table)
    assert featherweight(*words) == 0
    assert "100 of 100 images equal to the bit" in capsys.readouterr().err
    first = table.read_text()
    assert featherweight(*words) == 0
    assert table.read_text() == first
    assert featherweight(*words, "--bits", 4) == 0
    assert table.read_text().startswith(first)
    assert [row["bits"] for row in read_table(table, columns=FIRMWARE_COLUMNS)] == ["8", "4"]
    with pytest.raises(ValueError, match="--on-chip: got 201, expected 0 to 200"):
        featherweight(*words, "--on-chip", 201)
    with pytest.raises(
        ValueError, match=r"c99\.csv: got columns recipe, .*expected recipe, seed, n_params"
    ):
        featherweight("frontier", table, "--out", tmp_path / "a.svg")
    with pytest.raises(ValueError, match="no row with a test count"):
        featherweight("frontier", table, "--by", "bytes", "--out", tmp_path / "a.svg")


@pytest.mark.parametrize("wrong", ["equal", "equal_m0", "equal_m4", "equal_rv32"])
def test_a_score_that_differs_anywhere_is_an_exit_code(
    finished, digits, tmp_path, monkeypatch, wrong
):
    run, _ = finished
    table = tmp_path / "c99.csv"
    words = ("firmware", run.path, "--data", digits, "--results", table)
    row = dict.fromkeys(FIRMWARE_COLUMNS, "7")
    monkeypatch.setattr(firmware, "make_row", lambda *_, **__: row | {wrong: "6"})
    assert featherweight(*words) == 1


def test_a_row_that_another_process_adds_meanwhile_is_kept(finished, digits, tmp_path, monkeypatch):
    run, _ = finished
    table = tmp_path / "c99.csv"
    row = dict.fromkeys(FIRMWARE_COLUMNS, "7")

    def make(*_, **__):
        write_table(table, [row | {"recipe": "another"}], FIRMWARE_COLUMNS)
        return row

    monkeypatch.setattr(firmware, "make_row", make)
    assert featherweight("firmware", run.path, "--data", digits, "--results", table) == 0
    assert [each["recipe"] for each in read_table(table, FIRMWARE_COLUMNS)] == ["another", "7"]


def test_bits_are_for_c_alone(finished, digits, capsys):
    run, _ = finished
    assert featherweight("export", run.path, "--format", "c", "--data", digits, "--bits", 2) == 0
    said = capsys.readouterr()
    assert said.out.strip() == str(run.path / "c-int2")
    assert "integers: " in said.err
    with pytest.raises(ValueError, match="--bits with --format onnx: expected it"):
        featherweight("export", run.path, "--format", "onnx", "--bits", 2)


def test_a_program_that_computes_otherwise_is_counted(finished):
    run, split = finished
    made = export_c(run, split, 8)
    file = made.path / SOURCE
    file.write_text(file.read_text().replace("= head_biases[k];", "= head_biases[k] + (k == 3);"))
    row = make_row(made, run, split, test=False, on_chip=0)
    assert (row["equal"], row["images"]) == ("0", "100")


def test_tools_that_fail_or_are_not_there_are_named(finished):
    run, split = finished
    folder = export_c(run, split, 8).path
    with pytest.raises(ValueError, match="no-such-gcc: does not run"):
        measure(folder, "no-such-gcc")
    (folder / SOURCE).write_text("int digit_read(;")
    with pytest.raises(ValueError, match=r"cc failed: .*digit.c"):
        read_c(folder, split.val.pixels)


def test_the_section_sizes_are_the_objects(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / SOURCE).write_text(
        "const char table[100] = {1}; static int buffer[50]; int *f(void) { return buffer; }"
    )
    sizes = measure(tmp_path, "cc")
    assert (sizes.constants, sizes.ram) == (100, 200)
    assert 0 < sizes.code < 50
