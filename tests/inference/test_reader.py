"""The reader: what it reads, what its readings show, and the command `predict`."""

import base64
import dataclasses
import io
import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from helpers import SHEET, encoded, featherweight, split_number, train_and_export
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from featherweight._pictures import FORMATS
from featherweight.cli.base import stdout
from featherweight.cli.predict import _print_readings, _sources
from featherweight.data import load_split
from featherweight.errors import InputError
from featherweight.inference._picture import FIRST, SECOND, evidence_picture, spread
from featherweight.inference.reader import Reader, Reading
from featherweight.inference.reading import number


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Return a folder of three drawings and an empty sheet."""
    folder = tmp_path_factory.mktemp("pictures")
    for name, (left, right) in {"bar": (90, 110), "block": (60, 140), "wide": (20, 180)}.items():
        sheet = np.full((200, 200), 255, np.uint8)
        sheet[40:160, left:right] = 20
        Image.fromarray(sheet).save(folder / f"{name}.png")
    Image.new("L", (200, 200), 255).save(folder / "empty.png")
    return folder


@pytest.mark.parametrize("module", ["prepare", "reader", "stress", "server"])
def test_no_module_imports_torch(module):
    code = f"import sys, featherweight.inference.{module}; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("module", ["inference.reader", "export.onnx", "inference.server"])
def test_onnx_runtime_reports_nothing_and_leaves_no_identifier(module, model, tmp_path):
    code = (
        f"import featherweight.{module}, onnxruntime, os, sys\n"
        "onnxruntime.InferenceSession(sys.argv[1])\n"
        "print(os.environ['ORT_DISABLE_TELEMETRY'])"
    )
    # Nothing that would make ONNX Runtime silent by itself, as it is in tests and CI.
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    environment |= {key: os.environ[key] for key in ("PYTHONPATH",) if key in os.environ}
    done = subprocess.run(
        [sys.executable, "-c", code, model.path],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "1\n"
    assert not [path for path in tmp_path.rglob("*") if "onnx" in path.name.lower()]


def test_who_wants_onnx_runtimes_reports_may_have_them():
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import featherweight, os; print(os.environ['ORT_DISABLE_TELEMETRY'])",
        ],
        env=os.environ | {"ORT_DISABLE_TELEMETRY": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "0\n"


@pytest.mark.slow
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
        ("other", "from another program"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            Reader(tmp_path / f"{name}.onnx")
        assert "ONNXRuntime" not in str(caught.value)


def test_a_picture_may_be_a_path_bytes_an_array_or_an_image(model, pictures):
    reader, path = Reader(model.path), pictures / "bar.png"
    image = Image.open(path)
    sources = [path, str(path), path.read_bytes(), np.asarray(image), image]
    readings = reader.read_many(sources)
    assert readings[0].label is not None
    for source, reading in zip(sources, readings, strict=True):
        assert reading.to_dict() == readings[0].to_dict() == reader.read(source).to_dict()
        assert np.array_equal(reading.seen, readings[0].seen)
    assert np.array_equal(split_number(path)[0], readings[0].seen)
    with pytest.raises(FileNotFoundError):
        reader.read(pictures / "gone.png")


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_whatever_is_given_is_read_or_refused(model, pictures, data):
    """Nothing but an InputError comes out of what is no picture, and nothing is changed by it."""
    reader, content = Reader(model.path), encoded(SHEET, data.draw(st.sampled_from(list(FORMATS))))
    part = content[: data.draw(st.integers(0, len(content)))]
    modes = st.sampled_from(["1", "L", "P", "LA", "La", "RGB", "RGBa", "CMYK", "HSV", "I;16", "F"])
    sides = st.integers(0, 3)
    given = data.draw(
        st.sampled_from([bytes, bytearray, memoryview, io.BytesIO, "lazy", "made", "other"])
    )
    if given == "lazy":  # only its header is read
        try:
            picture = Image.open(io.BytesIO(part))
        except (OSError, UserWarning):  # Pillow warns of a header that is cut off
            return
        if data.draw(st.booleans()):
            picture.close()
    elif given == "made":
        picture = Image.new(data.draw(modes), (data.draw(sides), data.draw(sides)))
    elif given == "other":
        other = (None, [], [SHEET], {}, 7, 1.5, object(), io.StringIO("x"), np.array(None))
        picture = data.draw(st.sampled_from(other))
    else:
        picture = given(part)
    try:
        reading = reader.read(picture)
    except InputError as error:
        said = error.message
    else:
        said = f"{reading!r}, expected"
    assert "expected" in said
    assert "\n" not in said


def test_bytes_and_open_files_are_read_as_paths_are(model, pictures):
    reader, path = Reader(model.path), pictures / "bar.png"
    expected, content = reader.read(path).to_dict(), path.read_bytes()
    with path.open("rb") as file:
        for source in (bytearray(content), memoryview(content), io.BytesIO(content), file):
            assert reader.read(source).to_dict() == expected
    opened = Image.open(io.BytesIO(content)).convert("LA").convert("La")
    assert reader.read(opened).to_dict() == expected
    for wrong, message in (
        (None, "picture: got NoneType, expected the path of a file"),
        ([path], "picture: got list, expected the path of a file"),
        (Image.new("RGB", (0, 5)), "picture: got 0 x 5 pixels, expected at least one"),
        (Image.open(io.BytesIO(content[:-40])), "truncated"),
    ):
        with pytest.raises(InputError, match=message):
            reader.read(wrong)


def test_a_model_may_be_a_file_a_run_folder_or_a_run(model, pictures, tmp_path):
    expected = Reader(model.path).read(pictures / "bar.png").to_dict()
    folder = model.path.parent
    for source in (str(model.path), folder, str(folder), SimpleNamespace(path=folder)):
        assert Reader(source).read(pictures / "bar.png").to_dict() == expected
    (tmp_path / "my run").mkdir()
    (tmp_path / "my run" / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"got no model\.onnx in it") as caught:
        Reader(tmp_path / "my run")
    assert caught.value.hint == f"featherweight export '{tmp_path / 'my run'}' --format onnx"
    with pytest.raises(InputError, match="neither a run folder nor an exported file"):
        Reader(tmp_path)


@pytest.fixture(scope="module")
def dense(tmp_path_factory, tiny_recipe, tiny_contract, digits):
    """Return an exported network with dense evaluation over two max-pools, and its run."""
    layers = ["conv 8 k5 m2", "sep 8 m2", "conv 8 p1"]
    recipe = dataclasses.replace(
        tiny_recipe, model_args={"layers": layers, "dense": True}, epochs=1
    )
    split = load_split(str(digits), 500, 100)
    return train_and_export(tmp_path_factory.mktemp("dense"), recipe, tiny_contract, split)


@pytest.mark.parametrize("network", ["model", "dense"])
def test_evidence_sums_to_the_difference_of_the_log_probabilities(network, split, request):
    exported = request.getfixturevalue(network)
    reader = Reader(exported.path)
    session = onnxruntime.InferenceSession(str(exported.path))
    pixels = np.concatenate([split.val.pixels[:, 0], split.train.pixels[:300, 0]])
    log_probabilities = session.run(["log_probabilities"], {"pixels": pixels})[0]
    readings = reader.read_prepared(list(pixels))
    for row, reading in zip(log_probabilities, readings, strict=True):
        best, second = np.argsort(-row)[:2]
        why = reading.evidence
        assert (why.first, why.second) == (str(best), str(second))
        assert why.first == reading.label
        assert why.difference == pytest.approx(row[best] - row[second], abs=1e-4)
        assert why.values.sum() == pytest.approx(why.difference, abs=1e-4)
        assert why.values.dtype == np.float32
    for i in range(0, 400, 40):  # one by one, as a batch
        alone = reader.read_prepared([pixels[i]])[0].evidence
        np.testing.assert_allclose(alone.values, readings[i].evidence.values, atol=1e-4)


@pytest.mark.slow
def test_evidence_sums_for_pictures_of_real_digits(real_model):
    reader = Reader(real_model)
    session = onnxruntime.InferenceSession(str(real_model))
    images = load_split(None, 50_000, 10_000).val.pixels[:500, 0].numpy()
    expected = session.run(["log_probabilities"], {"pixels": images})[0]
    for image, row in zip(images, expected, strict=True):
        why = reader.read(image).evidence
        first, second = np.argsort(-row)[:2]
        assert (why.first, why.second) == (str(first), str(second))
        assert why.values.sum() == pytest.approx(row[first] - row[second], abs=1e-4)


def test_evidence_of_a_picture_is_that_of_what_the_network_saw(model, pictures):
    reader = Reader(model.path)
    reading = reader.read(pictures / "bar.png")
    seen = reader.read_prepared([reading.seen])[0]
    np.testing.assert_array_equal(reading.evidence.values, seen.evidence.values)
    assert reading.evidence.values.shape == (12, 12)
    assert reading.evidence.extent == (2, 2, 26, 26)
    assert reading.evidence.field == (10, 10)
    values = json.loads(json.dumps(reading.evidence.to_dict()))["values"]
    np.testing.assert_allclose(values, reading.evidence.values, rtol=1e-6)


def test_evidence_lies_where_the_change_is(dense, split):
    """The grid of dense evaluation is in order: a change moves the evidence of nearby places."""
    reader = Reader(dense.path)
    left, top, right, bottom = reader.read_prepared([split.val.pixels[0, 0].numpy()])[
        0
    ].evidence.extent
    for row, column in ((9, 17), (18, 10)):
        total = 0
        for image in split.val.pixels[:40, 0].numpy():
            changed = image.copy()
            changed[row - 2 : row + 3, column - 2 : column + 3] = 255
            before, after = (each.evidence for each in reader.read_prepared([image, changed]))
            if (before.first, before.second) == (after.first, after.second):
                total = total + abs(after.values - before.values)
        rows, columns = total.shape
        y = top + (np.arange(rows) + 0.5) * (bottom - top) / rows
        x = left + (np.arange(columns) + 0.5) * (right - left) / columns
        centre = (total.sum(1) @ y / total.sum(), total.sum(0) @ x / total.sum())
        middle = (top + bottom) / 2, (left + right) / 2
        # Fields are wide, so that the centre of the change is only drawn towards the pixel.
        for found, at, mid in zip(centre, (row + 0.5, column + 0.5), middle, strict=True):
            assert (found - mid) * (at - mid) > 0
            assert abs(found - mid) > 0.1 * abs(at - mid)


def test_networks_with_another_head_have_no_evidence(tmp_path, split, tiny_recipe, tiny_contract):
    recipe = dataclasses.replace(
        tiny_recipe, model="featherweight.model:BaselineNet", model_args={}, epochs=1, lr=0.02
    )
    exported = train_and_export(tmp_path, recipe, tiny_contract, split)
    reader = Reader(exported.path)
    image = split.val.pixels[0, 0].numpy()
    assert reader.read_prepared([image])[0].evidence is None
    stages = reader.stages(image)
    assert [stage.filters.shape for stage in stages] == [
        *((16, 1, 3, 3), (32, 16, 3, 3), (32, 32, 3, 3), (16, 32, 1, 1))
    ]
    assert all(stage.contributions is None for stage in stages)


@pytest.mark.parametrize("network", ["model", "dense"])
def test_channels_and_bias_sum_to_the_difference(network, split, request):
    reader = Reader(request.getfixturevalue(network).path)
    session = onnxruntime.InferenceSession(str(request.getfixturevalue(network).path))
    for image in split.val.pixels[:50, 0].numpy():
        why = reader.read_prepared([image])[0].evidence
        bias = session.run(["bias"], {"pixels": image[None]})[0]
        *others, last = reader.stages(image)
        rest = bias[int(why.first)] - bias[int(why.second)]
        assert last.contributions.sum() + rest == pytest.approx(why.difference, abs=1e-4)
        assert all(stage.contributions is None for stage in others)
        assert (np.diff(abs(last.contributions[last.order()])) <= 0).all()


def test_separable_filters_are_shown_as_the_product_of_both(dense, split):
    reader = Reader(dense.path)
    stage = reader.stages(split.val.pixels[0, 0].numpy())[1]
    session = onnxruntime.InferenceSession(str(dense.path))
    narrow, deep = session.run(
        ["filters_2", "depthwise_2"], {"pixels": split.val.pixels[:1, 0].numpy()}
    )
    assert (narrow.shape, deep.shape) == ((8, 8, 1, 1), (8, 1, 3, 3))
    for channel in range(8):
        for i in range(8):
            np.testing.assert_allclose(
                stage.filters[channel, i], narrow[channel, i] * deep[i, 0], rtol=1e-6
            )


def test_places_in_the_picture_are_in_the_reading(model, pictures):
    reader = Reader(model.path)
    bar, empty = reader.read_many([pictures / "bar.png", pictures / "empty.png"])
    assert bar.box == pytest.approx((0.45, 0.2, 0.55, 0.8))
    assert bar.frame[3] - bar.frame[1] == pytest.approx(0.6 * 28 / 20, abs=0.01)
    assert (empty.box, empty.frame, empty.evidence, empty.side_by_side) == (None, None, None, 0)
    (prepared,) = reader.read_prepared([bar.seen])
    assert (prepared.box, prepared.frame) == (None, None)


def test_a_number_is_read_digit_by_digit(model, pictures):
    reader = Reader(model.path)
    picture = pair(pictures, "bar", "block", "wide")
    readings = reader.read_number(picture)
    expected = reader.read_prepared(split_number(picture))
    assert [each.to_dict() for each in readings] == [each.to_dict() for each in expected]
    lefts = [reading.box[0] for reading in readings]
    assert lefts == pytest.approx([90 / 600, 260 / 600, 420 / 600])
    (one,) = reader.read_number(pictures / "bar.png")
    assert one.to_dict() == reader.read(pictures / "bar.png").to_dict()
    assert reader.read_number(pictures / "empty.png") == []


def test_a_reading_is_shown_in_one_line():
    image, p = np.zeros((28, 28), np.uint8), np.array([0.002, 0.998], np.float32)
    assert repr(Reading("7", p, image, unsure=False)) == "7 (99.8 %)"
    assert repr(Reading("7", p, image, unsure=True)) == "7 (99.8 %, unsure)"
    assert repr(Reading("7", p, image, unsure=False).counted(3)) == "several digits (3)"
    assert repr(Reading(None, p, image, unsure=True, reason="not a digit")) == "not a digit"
    assert repr(Reading(None, None, None, unsure=True)) == "no ink"


def test_a_notebook_shows_what_the_network_saw_and_all_probabilities():
    image = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
    p = np.array([0.25, 0.75], np.float32)
    html = Reading("<7>", p, image, unsure=False, labels=("a&b", "<7>"))._repr_html_()
    png = base64.b64decode(re.search('data:image/png;base64,([^"]*)', html)[1])
    shown = np.asarray(Image.open(io.BytesIO(png)))
    scale = len(shown) // 28
    assert scale > 1
    assert np.array_equal(shown, image.repeat(scale, 0).repeat(scale, 1))
    assert [float(width) for width in re.findall(r"width: ([\d.]+)%", html)] == [25, 75]
    assert "a&amp;b" in html
    assert "&lt;7&gt; (75.0 %)" in html
    assert "<7>" not in html
    assert "no ink" in Reading(None, None, None, unsure=True)._repr_html_()
    assert html.count("<img") == 1  # there is no evidence


def test_a_notebook_shows_the_evidence_in_the_two_answers_colours(model):
    sheet = Image.new("L", (60, 90), "white")
    ImageDraw.Draw(sheet).line([(30, 10), (30, 80)], fill="black", width=8)
    reading = Reader(model.path).read(sheet)
    html = reading._repr_html_()
    assert html.count("<img") == 2
    evidence = reading.evidence
    assert f'<b style="color: {FIRST}">{evidence.first}</b>' in html
    assert f'<b style="color: {SECOND}">{evidence.second}</b>' in html
    pixels = spread(evidence, *reading.seen.shape)
    assert pixels.sum() == pytest.approx(evidence.difference, rel=1e-4)
    picture = np.asarray(evidence_picture(reading.seen, evidence), int)
    scale = len(picture) // 28
    ink = reading.seen.repeat(scale, 0).repeat(scale, 1)
    assert (picture[ink == 255] == 255).all()  # the ink stays white
    y, x = np.unravel_index(abs(pixels * (reading.seen == 0)).argmax(), pixels.shape)
    red, _, blue = picture[scale * y + scale // 2, scale * x + scale // 2]
    assert (red > blue) == (pixels[y, x] > 0)


def pair(pictures, *names):
    """Return drawings beside each other."""
    return np.concatenate([np.asarray(Image.open(pictures / f"{name}.png")) for name in names], 1)


def test_what_is_not_read_has_a_reason(model, pictures):
    reader = Reader(model.path)
    one, many = reader.read_many([pair(pictures, "bar"), pair(pictures, "bar", "block", "wide")])
    assert (one.side_by_side, many.side_by_side) == (1, 3)
    assert (many.label, many.reason, many.unsure) == (None, "several digits", True)
    assert (one.label, one.reason) == (reader.labels[int(one.probabilities.argmax())], None)
    assert one.unsure == (one.confidence < reader.sure_from)
    blank = reader.read(np.full((50, 50), 255, np.uint8))
    assert (blank.label, blank.reason, blank.side_by_side) == (None, "no ink", 0)


def test_a_network_rejects_what_is_below_the_confidence_of_its_file(model, pictures, tmp_path):
    confidences = [
        each.confidence
        for each in Reader(model.path).read_number(pair(pictures, "bar", "block", "wide"))
    ]
    graph = onnx.load(model.path)
    graph.metadata_props.add(key="digit_from", value=str(sorted(confidences)[1]))
    onnx.save(graph, tmp_path / "rejects.onnx")
    readings = Reader(tmp_path / "rejects.onnx").read_number(pair(pictures, "bar", "block", "wide"))
    lowest = int(np.argmin(confidences))
    for i, (reading, before) in enumerate(zip(readings, confidences, strict=True)):
        assert reading.confidence == before
        assert (reading.label is None) == (i == lowest)
        assert reading.reason == ("not a digit" if i == lowest else None)
    assert readings[lowest].unsure
    assert readings[lowest].to_dict()["reason"] == "not a digit"
    rejecting = Reader(tmp_path / "rejects.onnx")
    for i, reading in enumerate(readings):
        shown, last = reading._repr_html_(), rejecting.stages(reading.seen)[-1]
        is_digit = i != lowest
        # Why it is rather this digit than that means nothing of what is none.
        assert (reading.evidence is not None) == (last.contributions is not None) == is_digit
        assert (FIRST in shown) == is_digit
    read = number(readings)
    assert read[lowest] == "?"
    assert read.replace("?", "").isdecimal()
    assert number([]) is None


def test_predict_reads_files_folders_globs_and_standard_input(model, pictures):
    listed = featherweight(
        "predict", "--model", model.path, "bar.png", "*.png", ".", "--json", cwd=pictures
    )
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
        piped = featherweight(
            "predict", "--model", model.path.parent, "-", "--csv", cwd=pictures, stdin=file
        )
    assert piped.stdout.splitlines() == [
        "file,label,confidence,unsure,reason,doubts",
        f"-,{rows[0]['label']},{rows[0]['confidence']},{rows[0]['unsure']},,",
    ]


def test_predict_reads_numbers(model, pictures, tmp_path):
    Image.fromarray(pair(pictures, "bar", "block")).save(tmp_path / "pair.png")
    number = featherweight(
        "predict", "--model", model.path, "pair.png", "--number", "--json", cwd=tmp_path
    )
    (row,) = json.loads(number.stdout)
    assert (row["reason"], row["doubts"]) == (None, [])
    assert row["label"] == "".join(digit["label"] for digit in row["digits"])
    assert len(row["digits"]) == 2
    assert number.stderr == ""
    for words, said in (
        (["pair.png"], "pair.png: 2 digits side by side"),
        (["pair.png", pictures / "bar.png"], "pair.png: 2 digits side by side"),
        (["pair.png", "pair.png"], "2 pictures: several digits side by side"),
    ):
        digit = featherweight("predict", "--model", model.path, *words, "--json", cwd=tmp_path)
        assert digit.returncode == 0
        assert digit.stderr == f"{said}; hint: --number reads them\n"
        assert json.loads(digit.stdout)[0]["unsure"]


def test_predict_reads_lines(model, pictures, tmp_path):
    line = pair(pictures, "bar", "block")
    Image.fromarray(np.concatenate([line, line], 0)).save(tmp_path / "page.png")
    words = ("predict", "--model", model.path, "page.png", "--lines")
    rows = json.loads(featherweight(*words, "--json", cwd=tmp_path).stdout)
    assert [row["line"] for row in rows] == [1, 2]
    assert [len(row["digits"]) for row in rows] == [2, 2]
    tops = [digit["box"][1] for row in rows for digit in row["digits"]]
    assert max(tops[:2]) < 0.5 < min(tops[2:])
    lines = featherweight(*words, "--csv", cwd=tmp_path).stdout.splitlines()
    assert lines[0] == "file,line,label,confidence,unsure,reason,doubts"
    assert [each.split(",")[1] for each in lines[1:]] == ["1", "2"]
    one = featherweight(*words[:-1], "--number", "--json", cwd=tmp_path)
    (row,) = json.loads(one.stdout)
    assert len(row["digits"]) == 4
    hint = "hint: --lines reads each line as a number\n"
    assert one.stderr == f"page.png: 2 lines of writing, read as one number; {hint}"
    twice = featherweight(*words[:-1], "page.png", "--number", "--json", cwd=tmp_path)
    said = "2 pictures: several lines of writing, read as one number"
    assert twice.stderr == f"{said}; {hint}"
    both = featherweight(*words, "--number", cwd=tmp_path)
    assert both.returncode == 2
    assert both.stderr.startswith("error: --number with --lines: expected one of them\n")


def test_predict_says_why_it_is_unsure(pictures, tmp_path):
    """By the reader that comes with the package, which rejects what is no digit."""
    box = np.full((300, 300), 255, np.uint8)
    box[40:260, 40:260] = 0
    box[45:255, 45:255] = 255
    box[51:249, 145:155] = 0  # a 1 in a printed box, near its lines
    for name, sheet in {"box": box, "boxes": np.concatenate([box, box], 1)}.items():
        Image.fromarray(sheet).save(tmp_path / f"{name}.png")
    drawing = Image.new("L", (300, 300), 255)
    ImageDraw.Draw(drawing).line(
        [(50, 250), (70, 50), (150, 180), (230, 50), (250, 250)], fill=0, width=14
    )
    drawing.save(tmp_path / "m.png")
    words = ("predict", "box.png", "m.png", pictures / "empty.png")
    shown = featherweight(*words, cwd=tmp_path).stdout
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines()]
    box, m, empty = [row for row in cells if row]
    assert (box[1], box[3]) == ("1", "lines removed")
    assert m[1:] == ["not a digit", "", ""]
    assert empty[1:] == ["no ink", "", ""]
    lines = featherweight(*words, "--csv", cwd=tmp_path).stdout.splitlines()
    ends = [line.split(",")[-3:] for line in lines[1:]]
    assert ends == [
        ["True", "", "lines removed"],
        ["True", "not a digit", ""],
        ["True", "no ink", ""],
    ]
    number = featherweight("predict", "boxes.png", "--number", "--json", cwd=tmp_path)
    (row,) = json.loads(number.stdout)
    assert (row["label"], row["unsure"], row["doubts"]) == ("11", True, ["lines removed"])
    weak = {
        "file": "a",
        "label": "7",
        "confidence": 0.5,
        "doubts": ["low contrast", "lines removed"],
    }
    with stdout.capture() as told:
        _print_readings([weak], "digit", 0.9)
    assert "low confidence, low contrast, lines removed" in told.get()


def test_a_bad_file_is_named_and_the_others_are_read(model, pictures, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"\x89PNG")
    result = featherweight(
        "predict",
        "--model",
        model.path,
        "bad.png",
        pictures / "bar.png",
        "gone.png",
        tmp_path / "*.xyz",
        cwd=tmp_path,
    )
    assert result.returncode == 2
    assert result.stderr.splitlines() == [
        f"error: bad.png: got no readable image, expected one of {', '.join(FORMATS)}",
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
        (["--csv"], "file,label,confidence,unsure,reason,doubts\n"),
        (["--number"], ""),
    ],
)
def test_one_file_that_is_not_there_is_one_line(form, printed, model, tmp_path):
    result = featherweight("predict", "--model", model.path, "missing.jpg", *form, cwd=tmp_path)
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
    rows = json.loads(
        featherweight("predict", "--model", model.path, ".", "--json", cwd=tmp_path).stdout
    )
    assert [row["file"] for row in rows] == names
    assert len({row["label"] for row in rows}) == 1
    shown = featherweight("predict", "--model", model.path, ".", cwd=tmp_path).stdout
    assert all(f" {name} " in shown for name in names)
    (tmp_path / "empty").mkdir()
    none = featherweight("predict", "--model", model.path, "empty", cwd=tmp_path)
    assert none.returncode == 2
    assert none.stderr.startswith(
        "error: empty: got no picture, expected names that end in .bmp, .gif, "
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["bar.png", "--model", "nowhere"],
            "model 'nowhere': neither pretrained (",
        ),
        (
            ["bar.png", "--model", "run"],
            "run: got no model.onnx in it\nhint: featherweight export run --format onnx",
        ),
        (
            ["bar.png", "--model", "void"],
            "void: got neither a run folder nor an exported file",
        ),
        (
            ["run", "bar.png"],
            "run is a network, expected pictures\nhint: featherweight predict bar.png --model run",
        ),
        (["bar.png", "old.onnx"], "old.onnx is a network, expected pictures"),
        (["feather-4k"], "feather-4k is a network, expected pictures"),
        (["bar.png", "--model", "bar.png"], "bar.png: not an exported file"),
        (
            ["bar.png", "--model", "run/config.json"],
            "run/config.json: not an exported file, expected a model.onnx as "
            "`featherweight export RUN --format onnx` writes",
        ),
    ],
)
def test_predict_without_a_model_is_one_line(words, message, pictures, tmp_path):
    for folder in ("run", "void"):
        (tmp_path / folder).mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    (tmp_path / "bar.png").write_bytes((pictures / "bar.png").read_bytes())
    result = featherweight("predict", *words, cwd=tmp_path)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 2
    assert f"error: {message}" in result.stderr
    assert result.stdout == ""


def test_hidden_files_of_a_folder_are_passed_over(tmp_path):
    # What macOS and notebooks leave behind.
    for name in ("a.png", "b/C.PGM", "._a.png", ".cache/d.png", "b/.old/e.png", "b/Thumbs.db"):
        (tmp_path / ".home" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / ".home" / name).write_bytes(b"")
    folder = tmp_path / ".home"  # hidden itself, but named
    assert list(_sources([str(folder)])) == [str(folder / "a.png"), str(folder / "b" / "C.PGM")]
