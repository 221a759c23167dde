import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
from PIL import Image
from test_app import featherweight

from featherweight.reader import Reader


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
    code = "import sys, featherweight.reader; assert 'torch' not in sys.modules"
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
    for name, message in (("text", "not an ONNX file"), ("other", "another maker")):
        with pytest.raises(ValueError, match=message):
            Reader(tmp_path / f"{name}.onnx")


def test_predict_reads_files_folders_globs_and_standard_input(model, pictures):
    listed = featherweight("predict", model.path, "bar.png", "*.png", ".", "--json", cwd=pictures)
    assert listed.returncode == 0, listed.stderr
    rows = json.loads(listed.stdout)
    assert [row["file"] for row in rows] == ["bar.png", *["bar.png", "block.png", "empty.png", "wide.png"] * 2]
    assert rows[0] == rows[1]
    assert rows[3]["label"] is None
    assert sum(rows[0]["probabilities"]) == pytest.approx(1, abs=1e-5)
    with (pictures / "bar.png").open("rb") as file:
        piped = featherweight("predict", model.path.parent, "-", "--csv", cwd=pictures, stdin=file)
    assert piped.stdout.splitlines() == ["file,label,confidence,unsure",
                                         f"-,{rows[0]['label']},{rows[0]['confidence']},{rows[0]['unsure']}"]


def test_predict_reads_numbers(model, pictures, tmp_path):
    pair = np.concatenate([np.asarray(Image.open(pictures / f"{name}.png")) for name in ("bar", "block")], 1)
    Image.fromarray(pair).save(tmp_path / "pair.png")
    row, = json.loads(featherweight("predict", model.path, "pair.png", "--number", "--json", cwd=tmp_path).stdout)
    assert row["label"] == "".join(digit["label"] for digit in row["digits"])
    assert len(row["digits"]) == 2


def test_a_bad_file_is_named_and_the_others_are_read(model, pictures, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"\x89PNG")
    result = featherweight("predict", model.path, "bad.png", pictures / "bar.png", "gone.png", cwd=tmp_path)
    assert result.returncode == 2
    assert "bad.png" in result.stderr
    assert "gone.png" in result.stderr
    assert "2 of 3" in result.stderr
    assert "bar.png" in result.stdout


@pytest.mark.parametrize(("words", "message"), [
    (["nowhere.onnx", "bar.png"], "nowhere.onnx"), ([".", "bar.png"], "featherweight export"),
    (["bar.png", "bar.png"], "not an ONNX file")])
def test_predict_without_a_model_is_one_line(words, message, pictures):
    result = featherweight("predict", *words, cwd=pictures)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 2
    assert message in result.stderr
