"""A folder of one's own pictures: what is counted, what is named, and the command `evaluate`."""

import json
import subprocess
import sys

import numpy as np
import pytest
from helpers import featherweight
from PIL import Image
from scipy.stats import binomtest

from featherweight._pictures import FORMATS
from featherweight.errors import InputError
from featherweight.inference.labelled import NO_DIGIT, folder_names, is_labelled, score_folder
from featherweight.inference.reader import Reader


@pytest.fixture
def folder(model, tmp_path):
    """Return a folder of 39 drawings, 25 of them read as they are labelled, and an empty sheet."""
    reader, random = Reader(model.path), np.random.default_rng(0)
    for i in range(39):
        sheet = np.full((100, 100), 255, np.uint8)
        top, left = random.integers(10, 40, 2)
        bottom, right = random.integers(50, 90, 2)
        sheet[top:bottom, left:right] = 0
        label = int(reader.read(sheet).label) + (i >= 25)
        path = tmp_path / "mine" / str(label % 10) / f"{i}.PNG"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sheet).save(path)
    (tmp_path / "mine" / "0").mkdir(exist_ok=True)
    Image.new("L", (50, 50), 255).save(tmp_path / "mine" / "0" / "empty.bmp")
    (tmp_path / "mine" / "0" / "notes.txt").write_text("not read")
    (tmp_path / "mine" / "0" / ".hidden.png").write_text("not read")
    (tmp_path / "mine" / "7.png").write_text("not in a label's folder, not read")
    (tmp_path / "mine" / "empty").mkdir()
    return tmp_path / "mine"


def expected(model, folder):
    """Count by hand: (confusion with a column for no digit, unsure, sure and wrong)."""
    reader, confusion = Reader(model.path), np.zeros((10, 11), int)
    unsure, wrong = 0, 0
    for path in [*folder.glob("[0-9]/*.PNG"), *folder.glob("[0-9]/*.bmp")]:
        reading = reader.read(path)
        read = 10 if reading.label is None else int(reading.label)
        confusion[int(path.parent.name), read] += 1
        unsure += reading.unsure
        wrong += not reading.unsure and read != int(path.parent.name)
    return confusion, unsure, wrong


def test_what_the_reader_says_is_counted(model, folder):
    score = score_folder(Reader(model.path), folder)
    confusion, unsure, wrong = expected(model, folder)
    np.testing.assert_array_equal(score.confusion, confusion)
    assert (score.total, score.unsure, score.unreadable) == (40, unsure, ())
    assert score.wrong_though_sure == wrong
    assert score.correct == 25
    interval = binomtest(25, 40).proportion_ci(0.95, "wilson")
    assert score.interval == pytest.approx((interval.low, interval.high), abs=1e-6)
    assert repr(score) == "62.50 % (15 wrong of 40)"
    assert score.to_dict()["no_ink"] == 1


def test_files_that_are_no_pictures_are_named_and_not_counted(model, folder):
    (folder / "0" / "bad.png").write_bytes(b"\x89PNG")
    told = []
    score = score_folder(Reader(model.path), folder, told.append)
    assert score.total == 40
    assert told == list(score.unreadable)
    (why,) = told
    assert why.startswith(f"{folder / '0' / 'bad.png'}: got no readable image, expected one of PNG")


def test_folders_that_are_none_are_refused(model, folder, tmp_path):
    reader = Reader(model.path)
    (tmp_path / "void").mkdir()
    with pytest.raises(InputError, match="void: got no picture in it, expected LABEL/NAME"):
        score_folder(reader, tmp_path / "void")
    (folder / "cats").mkdir()
    assert score_folder(reader, folder).total == 40  # no picture is in it
    (folder / "cats" / "a.png").write_bytes(b"")
    names = "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, not-a-digit"
    with pytest.raises(InputError, match=f"cats: not a label, expected one of {names}"):
        score_folder(reader, folder)


def test_pictures_of_no_digit_are_counted_by_themselves(model, folder, tmp_path):
    before = score_folder(Reader(model.path), folder).to_dict()
    (folder / NO_DIGIT).mkdir()
    drawing = next(folder.glob("[0-9]/*.PNG"))
    (folder / NO_DIGIT / "read.png").write_bytes(drawing.read_bytes())
    Image.new("L", (50, 50), 255).save(folder / NO_DIGIT / "blank.png")
    reader = Reader(model.path)
    for sure_from, sure in ((0.0, 1), (2.0, 0)):  # this network rejects nothing
        reader.sure_from = sure_from
        score = score_folder(reader, folder)
        assert (score.not_digits, score.not_digits_read, score.not_digits_sure) == (2, 1, sure)
        assert score.confusion.tolist() == before["confusion"]
        assert score.total == before["total"]
    shown = featherweight("evaluate", model.path, "--data", "mine", cwd=tmp_path)
    assert shown.stdout.splitlines()[-1].startswith("2 of no digit: 1 read as one, ")
    assert folder_names(["cat", "dog"]) == ["cat", "dog"]  # where nothing is a digit


def test_a_data_set_is_no_folder_of_pictures(folder, digits, tmp_path):
    assert is_labelled(folder)
    for other in (digits, tmp_path / "nothing", folder / "7.png", folder / "0"):
        assert not is_labelled(other)


def test_evaluate_reads_a_folder_of_pictures(model, folder, tmp_path):
    confusion, unsure, wrong = expected(model, folder)
    for words in ([model.path], [model.path.parent]):
        found = featherweight("evaluate", *words, "--data", "mine", "--json", cwd=tmp_path)
        assert (found.returncode, found.stderr) == (0, "")
        values = json.loads(found.stdout)
        assert (values["data"], values["correct"], values["total"]) == ("mine", 25, 40)
        assert values["confusion"] == confusion.tolist()
        assert values["accuracy"] == 0.625
    shown = featherweight("evaluate", model.path, "--data", "mine", cwd=tmp_path)
    first, second = shown.stdout.splitlines()[:2]
    assert first.startswith("mine: 62.50 % (15 wrong of 40), 95 % interval ")
    assert second == f"{unsure} unsure, {wrong} of the others read wrong, 1 without a digit"
    assert " none " in shown.stdout
    (folder / "0" / "bad.png").write_bytes(b"\x89PNG")
    bad = featherweight("evaluate", model.path, "--data", "mine", cwd=tmp_path)
    assert bad.returncode == 2
    assert bad.stdout == shown.stdout
    assert bad.stderr.splitlines() == [
        f"error: mine/0/bad.png: got no readable image, expected one of {', '.join(FORMATS)}",
        "error: 1 of 41 could not be read",
    ]
    both = featherweight("evaluate", model.path, "--data", "mine", "--split", "val", cwd=tmp_path)
    assert both.returncode == 2
    assert "error: --split with a folder of pictures" in both.stderr


def test_evaluate_reads_pictures_without_pytorch(model, folder):
    words = ["featherweight", "evaluate", str(model.path), "--data", str(folder)]
    code = (
        "import sys; sys.modules['torch'] = None; from featherweight.cli import main\n"
        f"sys.argv = {words}\n"
        "main()"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stderr) == (0, "")
    assert "wrong of 40" in found.stdout


def test_evaluate_still_reads_a_data_set(model, digits, tmp_path):
    found = featherweight("evaluate", model.path.parent, "--data", digits, "--json", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    values = json.loads(found.stdout)
    assert (values["split"], values["total"]) == ("val", 100)
    assert values["correct"] == model.float_result.correct


def test_what_is_sure_and_wrong_is_counted(model, folder):
    reader = Reader(model.path)
    reader.sure_from = 0.0  # every digit is sure, so that all that are wrong are so though sure
    score = score_folder(reader, folder)
    assert score.wrong_though_sure == score.total - score.correct - score.unsure
    assert score.wrong_though_sure > 0
