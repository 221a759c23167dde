import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
from helpers import featherweight
from PIL import Image

from featherweight.inference.reader import Reader


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Three drawings and an empty sheet, as files."""
    folder = tmp_path_factory.mktemp("pictures")
    for name, (left, right) in {"bar": (90, 110), "block": (60, 140), "wide": (20, 180)}.items():
        sheet = np.full((200, 200), 255, np.uint8)
        sheet[40:160, left:right] = 20
        Image.fromarray(sheet).save(folder / f"{name}.png")
    Image.new("L", (200, 200), 255).save(folder / "empty.png")
    return folder


def test_it_imports_no_torch():
    code = "import sys, featherweight.inference.reader; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_probabilities_are_pytorchs_at_the_temperature(model, split):
    reader = Reader(model.path)
    pixels = split.val.pixels[:, 0].numpy()
    found = reader.probabilities(pixels)
    np.testing.assert_allclose(found, model.result.probabilities, atol=1e-4)
    assert reader.probabilities(pixels[:0]).shape == (0, 10)
    for wrong in (pixels[0], pixels.astype(np.float32), pixels[:, :20]):
        with pytest.raises(ValueError, match="expected uint8"):
            reader.probabilities(wrong)


def test_readings_keep_their_order_and_blank_ones_have_no_digit(model, pictures):
    reader = Reader(model.path)
    sheets = [Image.open(pictures / f"{name}.png") for name in ("bar", "empty", "wide")]
    bar, empty, wide = reader.read_many(sheets)
    assert (empty.label, empty.probabilities, empty.seen, empty.unsure) == (None, None, None, True)
    assert bar.to_dict() == reader.read(sheets[0]).to_dict()
    assert wide.to_dict() == reader.read(sheets[2]).to_dict()
    assert bar.label == reader.labels[int(bar.probabilities.argmax())]
    assert bar.unsure == (bar.confidence < reader.sure_from)
    assert [maps.shape for maps in reader.maps(bar.seen)] == [(8, 14, 14), (8, 12, 12)]


def test_other_files_are_refused(model, tmp_path):
    (tmp_path / "text.onnx").write_text("no model")
    other = onnx.load(model.path)
    del other.metadata_props[:]
    onnx.save(other, tmp_path / "other.onnx")
    for name, message in (
        ("text", "not an exported file, expected a model.onnx"),
        ("other", "another maker"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            Reader(tmp_path / f"{name}.onnx")
        assert "ONNXRuntime" not in str(caught.value)


def pair(pictures, *names):
    """Drawings beside each other."""
    return np.concatenate([np.asarray(Image.open(pictures / f"{name}.png")) for name in names], 1)


def test_several_digits_side_by_side_are_unsure(model, pictures):
    reader = Reader(model.path)
    one, many = reader.read_many([pair(pictures, "bar"), pair(pictures, "bar", "block", "wide")])
    assert (one.side_by_side, many.side_by_side) == (1, 3)
    assert many.unsure
    assert one.unsure == (one.confidence < reader.sure_from)
    assert reader.read(np.full((50, 50), 255, np.uint8)).side_by_side == 0


def test_predict_reads_files_folders_globs_and_standard_input(model, pictures):
    listed = featherweight("predict", model.path, "bar.png", "*.png", ".", "--json", cwd=pictures)
    assert listed.returncode == 0, listed.stderr
    rows = json.loads(listed.stdout)
    assert [row["file"] for row in rows] == [
        "bar.png",
        *["bar.png", "block.png", "empty.png", "wide.png"] * 2,
    ]
    assert rows[0] == rows[1]
    assert rows[3]["label"] is None
    assert sum(rows[0]["probabilities"]) == pytest.approx(1, abs=1e-5)
    with (pictures / "bar.png").open("rb") as file:
        piped = featherweight("predict", model.path.parent, "-", "--csv", cwd=pictures, stdin=file)
    assert piped.stdout.splitlines() == [
        "file,label,confidence,unsure",
        f"-,{rows[0]['label']},{rows[0]['confidence']},{rows[0]['unsure']}",
    ]


def test_predict_reads_numbers(model, pictures, tmp_path):
    Image.fromarray(pair(pictures, "bar", "block")).save(tmp_path / "pair.png")
    number = featherweight("predict", model.path, "pair.png", "--number", "--json", cwd=tmp_path)
    (row,) = json.loads(number.stdout)
    assert row["label"] == "".join(digit["label"] for digit in row["digits"])
    assert len(row["digits"]) == 2
    assert number.stderr == ""
    for words, said in (
        (["pair.png"], "pair.png: 2 digits side by side"),
        (["pair.png", pictures / "bar.png"], "pair.png: 2 digits side by side"),
        (["pair.png", "pair.png"], "2 pictures: several digits side by side"),
    ):
        digit = featherweight("predict", model.path, *words, "--json", cwd=tmp_path)
        assert digit.returncode == 0
        assert digit.stderr == f"{said}; hint: --number reads them\n"
        assert json.loads(digit.stdout)[0]["unsure"]


def test_a_bad_file_is_named_and_the_others_are_read(model, pictures, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"\x89PNG")
    result = featherweight(
        "predict",
        model.path,
        "bad.png",
        pictures / "bar.png",
        "gone.png",
        tmp_path / "*.xyz",
        cwd=tmp_path,
    )
    assert result.returncode == 2
    assert result.stderr.splitlines() == [
        "error: bad.png: got no readable image, expected one of PNG, JPEG, WEBP, BMP, GIF, TIFF",
        "error: gone.png: no such file",
        f"error: {tmp_path / '*.xyz'}: no such file",
        "error: 3 of 4 could not be read",
    ]
    assert "bar.png" in result.stdout


@pytest.mark.parametrize(
    ("form", "printed"),
    [
        ([], ""),
        (["--json"], "[]\n"),
        (["--csv"], "file,label,confidence,unsure\n"),
        (["--number"], ""),
    ],
)
def test_one_file_that_is_not_there_is_one_line(form, printed, model, tmp_path):
    result = featherweight("predict", model.path, "missing.jpg", *form, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (2, "error: missing.jpg: no such file\n")
    assert result.stdout == printed


def test_pictures_of_every_format_are_found_in_a_folder_and_names_are_kept(
    model, pictures, tmp_path
):
    drawing, names = (
        Image.open(pictures / "bar.png"),
        ["a.BMP", "b [red].png", "c :smile:.gif", "d.tif", "e.webp"],
    )
    for name in names:
        drawing.save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not read")
    rows = json.loads(featherweight("predict", model.path, ".", "--json", cwd=tmp_path).stdout)
    assert [row["file"] for row in rows] == names
    assert len({row["label"] for row in rows}) == 1
    shown = featherweight("predict", model.path, ".", cwd=tmp_path).stdout
    assert all(f" {name} " in shown for name in names)
    (tmp_path / "empty").mkdir()
    none = featherweight("predict", model.path, "empty", cwd=tmp_path)
    assert none.returncode == 2
    assert none.stderr.startswith(
        "error: empty: got no picture, expected names that end in .bmp, .gif, "
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.onnx", "bar.png"], "nowhere.onnx: no such file"),
        (
            ["run", "bar.png"],
            "run: got no model.onnx in it\nhint: featherweight export run --format onnx",
        ),
        (["void", "bar.png"], "void: got neither a run folder nor an exported file"),
        (
            ["bar.png", "run"],
            "bar.png is a picture: the model comes first\nhint: featherweight predict MODEL bar.png",
        ),
        (["gone.JPG", "run"], "gone.JPG is a picture: the model comes first"),
        (["photo", "run"], "photo is a picture: the model comes first"),
        (["photos", "run"], "photos is a folder of pictures: the model comes first"),
        (
            ["run/config.json", "bar.png"],
            "run/config.json: not an exported file, expected a model.onnx as "
            "`featherweight export RUN --format onnx` writes",
        ),
    ],
)
def test_predict_without_a_model_is_one_line(words, message, pictures, tmp_path):
    for folder in ("run", "void", "photos"):
        (tmp_path / folder).mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    for name in ("bar.png", "photo", "photos/1.png"):
        (tmp_path / name).write_bytes((pictures / "bar.png").read_bytes())
    result = featherweight("predict", *words, cwd=tmp_path)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 2
    assert f"error: {message}" in result.stderr
    assert result.stdout == ""
