"""Many images on two local Ray nodes: each is read once, whichever process is killed."""

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers import make_digits, write_network
from PIL import Image

from featherweight.errors import InputError
from featherweight.export.onnx import export_onnx
from featherweight.image_kind import ImageKind
from featherweight.inference import ray_predict
from featherweight.inference.ray_predict import ReadTotals, list_parts, read_all, read_part
from featherweight.inference.reader import Reader
from featherweight.run import create_run
from featherweight.train import train

pytestmark = pytest.mark.ray

CPU = torch.device("cpu")
PICTURES = {".png"}


@pytest.fixture(scope="module")
def model(tmp_path_factory, tiny_recipe, tiny_contract, digits):
    """Return the path of an exported network, trained for two epochs on made digits."""
    from featherweight.data import load_split

    split = load_split(str(digits), 500, 100)
    run = create_run(
        str(tmp_path_factory.mktemp("many") / "run"),
        dataclasses.replace(tiny_recipe, epochs=2),
        tiny_contract,
        split,
        0,
        CPU,
        "",
    )
    train(run, split, CPU)
    return str(export_onnx(run, split, int8=False).path)


def write_png(path, image):
    Image.fromarray(image).resize((100, 100)).save(path)


@pytest.fixture
def mixed(tmp_path, monkeypatch):
    """Return a source and its images.

    The source has 7 pictures, one of which is damaged, 25 images in an .npz and 9 in Parquet.
    """
    monkeypatch.setattr(ray_predict, "PICTURES_PER_PART", 3)
    monkeypatch.setattr(ray_predict, "ARRAY_ROWS_PER_PART", 10)
    source = tmp_path / "source"
    (source / "scans").mkdir(parents=True)
    images, _ = make_digits(40, 5)
    for i in range(6):
        write_png(source / "scans" / f"{i}.png", images[i])
    (source / "scans" / "6.png").write_text("no picture")
    (source / "notes.txt").write_text("not read")
    np.savez_compressed(source / "some.npz", images=images[:25])
    column = pa.array([image.flatten().tolist() for image in images[25:34]], pa.list_(pa.uint8()))
    pq.write_table(pa.table({"image": column}), source / "some.parquet", row_group_size=4)
    return source, images


def rows_of(out, form="parquet"):
    rows = []
    for path in sorted(out.glob(f"part-*.{form}")):
        if form == "csv":
            with path.open(newline="") as file:
                rows += list(csv.DictReader(file))
        else:
            rows += pq.read_table(path).to_pylist()
    return rows


def test_it_imports_no_torch():
    code = "import sys, featherweight.inference.ray_predict; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_parts_hold_every_image_once(mixed):
    source, _ = mixed
    parts = list_parts(source, PICTURES)
    assert [(part.files, part.start, part.stop, part.group) for part in parts] == [
        (("scans/0.png", "scans/1.png", "scans/2.png"), 0, 3, 0),
        (("scans/3.png", "scans/4.png", "scans/5.png"), 0, 3, 0),
        (("scans/6.png",), 0, 1, 0),
        (("some.npz",), 0, 10, 0),
        (("some.npz",), 10, 20, 0),
        (("some.npz",), 20, 25, 0),
        (("some.parquet",), 0, 4, 0),
        (("some.parquet",), 4, 8, 1),
        (("some.parquet",), 8, 9, 2),
    ]
    assert [part.number for part in parts] == list(range(9))
    assert list_parts(source, PICTURES) == parts
    assert len(list_parts(source / "some.npz", PICTURES)) == 3


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.npz",
            {"pixels": np.zeros((2, 28, 28), np.uint8)},
            "pixels.npy, expected an array images",
        ),
        ("a.npz", {"images": np.zeros((2, 28, 28))}, "float64"),
        ("a.npz", {"images": np.zeros((2, 28), np.uint8)}, r"\(2, 28\)"),
        ("a.npz", {"images": np.asfortranarray(np.zeros((2, 28, 28), np.uint8))}, "expected uint8"),
        ("a.npz", b"nonsense", "damaged"),
        ("a.parquet", b"nonsense", "damaged"),
        ("a.txt", b"nonsense", "no images"),
    ],
)
def test_a_source_of_no_images_is_refused(tmp_path, model, name, content, message):
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    else:
        np.savez(tmp_path / name, **content)
    with pytest.raises(ValueError, match=message):
        read_all(model, str(tmp_path), tmp_path / "out", "parquet", PICTURES, "auto", 2)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2**40, 28, 28), "claims 1,099,511,627,776 images of 28x28 pixels"),
        ((2**40, 0, 0), "got images of 0 x 0 pixels"),
        ((1, 10**6, 10**6), "got images of 1,000,000 x 1,000,000 pixels"),
        ((-3, 28, 28), "expected one of numbers"),
    ],
)
def test_a_header_that_claims_too_much_is_refused(tmp_path, shape, message):
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".encode()
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        header = b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text
        archive.writestr("images.npy", header + bytes(784))
    with pytest.raises(InputError, match=message):
        list_parts(tmp_path, PICTURES)


@pytest.mark.parametrize("kind", ["lists", "nested", "fixed", "bytes", "struct"])
def test_parquet_of_each_kind_is_read_as_its_images(kind, tmp_path, model):
    images, _ = make_digits(5, 3)
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    encoded = [(tmp_path / f"{i}.png").read_bytes() for i in range(5)]
    column = {
        "lists": lambda: pa.array(
            [image.flatten().tolist() for image in images], pa.list_(pa.uint8())
        ),
        "nested": lambda: pa.array(images.tolist(), pa.list_(pa.list_(pa.int64()))),
        "fixed": lambda: pa.FixedSizeListArray.from_arrays(pa.array(images.reshape(-1)), 784),
        "bytes": lambda: pa.array(encoded, pa.binary()),
        "struct": lambda: pa.array([{"bytes": each, "path": None} for each in encoded]),
    }[kind]()
    pq.write_table(pa.table({"label": [0] * 5, "image": column}), tmp_path / "some.parquet")
    reader = Reader(model)
    rows = read_part(
        reader, list_parts(tmp_path / "some.parquet", PICTURES)[0], tmp_path / "some.parquet"
    )
    expected = (
        reader.read_many(list(images))
        if kind in ("bytes", "struct")
        else reader.read_prepared(list(images))
    )
    assert [row[:4] for row in rows] == [
        ("some.parquet", i, reading.label, reading.confidence) for i, reading in enumerate(expected)
    ]


def test_colour_images_are_read_from_every_source(tmp_path):
    kind = ImageKind(3, 20, 24, "natural", "upright", ("a cat", "dog"))
    reader = Reader(write_network(tmp_path / "m.onnx", kind))
    images = np.random.default_rng(0).integers(0, 256, (5, 20, 24, 3), dtype=np.uint8)
    planes = images.transpose(0, 3, 1, 2)
    source = tmp_path / "source"
    source.mkdir()
    Image.fromarray(images[0]).save(source / "a.png")
    np.savez(source / "b.npz", images=images)
    np.savez(source / "c.npz", images=np.repeat(images, 3, 1))  # larger: cropped and resized
    column = pa.array([image.flatten().tolist() for image in planes], pa.list_(pa.uint8()))
    pq.write_table(pa.table({"image": column}), source / "d.parquet")
    rows = [row for part in list_parts(source, PICTURES) for row in read_part(reader, part, source)]
    assert [row.file for row in rows] == [
        "a.png",
        *["b.npz"] * 5,
        *["c.npz"] * 5,
        *["d.parquet"] * 5,
    ]
    assert {row.error for row in rows} == {""}
    expected = reader.probabilities(np.ascontiguousarray(planes)).max(1)
    found = [row.confidence for row in rows]
    assert found[:6] == pytest.approx([expected[0], *expected], abs=1e-6)
    assert found[11:] == pytest.approx(expected.tolist(), abs=1e-6)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([[1, 2, 3]]), "3 numbers for 1 images"),
        (pa.array([["a"]]), "string"),
        (pa.array([[300] * 784]), "0 to 255"),
    ],
)
def test_parquet_of_other_things_is_refused(column, message, tmp_path, model):
    pq.write_table(pa.table({"image": column}), tmp_path / "some.parquet")
    with pytest.raises(ValueError, match=message):
        read_part(Reader(model), list_parts(tmp_path, PICTURES)[0], tmp_path)
    pq.write_table(pa.table({"other": column}), tmp_path / "some.parquet")
    with pytest.raises(ValueError, match="other, expected one named image"):
        read_part(Reader(model), list_parts(tmp_path, PICTURES)[0], tmp_path)


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_all_images_are_read_once_and_as_the_reader_does(form, mixed, model, cluster, tmp_path):
    source, images = mixed
    out, told = tmp_path / "out", []
    totals = read_all(
        model, str(source), out, form, PICTURES, "auto", 2, lambda *counts: told.append(counts)
    )
    rows = rows_of(out, form)
    assert (totals.images, totals.before, totals.bad) == (41, 0, 1)
    assert told[0] == (0, 41)
    assert told[-1] == (41, 41)
    assert [(row["file"], int(row["index"])) for row in rows] == [
        *((f"scans/{i}.png", 0) for i in range(7)),
        *(("some.npz", i) for i in range(25)),
        *(("some.parquet", i) for i in range(9)),
    ]
    assert "no readable image" in rows[6]["error"]
    expected = Reader(model).read_prepared(list(images[:34]))
    assert [row["label"] for row in rows[7:]] == [reading.label for reading in expected]
    assert [float(row["confidence"]) for row in rows[7:]] == pytest.approx(
        [each.confidence for each in expected]
    )

    times = {path: path.stat().st_mtime_ns for path in out.glob("part-*")}
    assert len(times) == 9
    assert read_all(model, str(source), out, form, PICTURES, "auto", 2) == ReadTotals(0, 41, 0, 0)
    lost = out / f"part-000004.{form}"
    content = lost.read_bytes()
    lost.unlink()
    assert read_all(model, str(source), out, form, PICTURES, "auto", 2).images == 10
    assert lost.read_bytes() == content
    assert all(path.stat().st_mtime_ns == time for path, time in times.items() if path != lost)


def test_a_number_is_unsure_and_why_a_file_is_not_read_has_no_number(tmp_path, model):
    digit = np.full((100, 100), 255, np.uint8)
    digit[20:80, 45:55] = 0
    Image.fromarray(np.concatenate([digit] * 3, 1)).save(tmp_path / "0.png")
    Image.fromarray(digit).save(tmp_path / "1.png")
    (tmp_path / "2.png").mkdir()
    reader, part = Reader(model), list_parts(tmp_path, PICTURES)[0]
    part = dataclasses.replace(part, files=("0.png", "1.png", "2.png", "3.png"), stop=4)
    rows = read_part(reader, part, tmp_path)
    assert [row[4] for row in rows] == [True, reader.read(digit).unsure, True, True]
    assert [row[5] for row in rows[2:]] == [
        f"{tmp_path / '2.png'}: is a directory",
        f"{tmp_path / '3.png'}: no such file",
    ]


def test_a_folder_of_other_readings_is_refused_and_kept(mixed, model, cluster, tmp_path):
    source, images = mixed
    out = tmp_path / "out"
    read_all(model, str(source / "some.npz"), out, "parquet", PICTURES, "auto", 2)
    before = {path: path.read_bytes() for path in out.iterdir()}
    same = f"{source / 'some.npz'}/"  # the slash makes no difference
    assert read_all(model, same, out, "parquet", PICTURES, "auto", 2) == ReadTotals(0, 25, 0, 0)
    with pytest.raises(ValueError, match="other images"):
        read_all(model, str(source / "some.npz"), out, "csv", PICTURES, "auto", 2)
    np.savez_compressed(source / "some.npz", images=images[:24])
    with pytest.raises(ValueError, match="other images"):
        read_all(model, str(source / "some.npz"), out, "parquet", PICTURES, "auto", 2)
    with pytest.raises(ValueError, match="other files"):
        read_all(model, str(source / "some.npz"), source, "parquet", PICTURES, "auto", 2)
    assert before == {path: path.read_bytes() for path in out.iterdir()}


def test_an_array_that_is_cut_short_stops_it(mixed, model, cluster, tmp_path):
    source, _ = mixed
    table = pa.table({"image": pa.array([[1, 2, 3]])})
    pq.write_table(table, source / "wrong.parquet")
    with pytest.raises(ValueError, match=r"wrong\.parquet: image: got 3 numbers"):
        read_all(model, str(source), tmp_path / "out", "parquet", PICTURES, "auto", 2)


def test_a_reading_that_is_killed_and_then_interrupted_reads_none_twice(model, cluster, tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    images, _ = make_digits(200, 5)
    for i in range(300):
        np.savez(source / f"{i:03}.npz", images=images)
    command = [
        sys.executable,
        "-m",
        "featherweight",
        "predict",
        source,
        "--model",
        model,
        "--out",
        out,
        "--ray",
        cluster.address,
    ]
    environment = os.environ | {"NO_COLOR": "1", "COLUMNS": "160"}
    before = {}
    for how in (signal.SIGKILL, signal.SIGINT):
        process = subprocess.Popen(
            [*map(str, command)], stderr=subprocess.PIPE, text=True, env=environment
        )
        end = time.monotonic() + 90
        while len(list(out.glob("part-*"))) <= len(before):
            assert time.monotonic() < end
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(how)
        _, said = process.communicate(timeout=60)
        time.sleep(0.5)
        assert before == {path: path.stat().st_mtime_ns for path in before}
        before = {path: path.stat().st_mtime_ns for path in out.glob("part-*")}
        assert 0 < len(before) < 300
    assert process.returncode == 130, said
    assert "run the same command again to continue" in said
    again = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, check=False, env=environment
    )
    assert again.returncode == 0, again.stderr
    assert (
        f"{200 * (300 - len(before)):,} images read, {200 * len(before):,} read before"
        in again.stderr
    )
    assert before == {path: path.stat().st_mtime_ns for path in before}
    rows = rows_of(out)
    assert len(rows) == 60_000
    assert len({(row["file"], row["index"]) for row in rows}) == 60_000
    # A process that was killed may leave the file that it was writing, named with a dot.
    others = (path.name for path in out.iterdir() if not path.name.startswith(("part-", ".part-")))
    assert set(others) <= {
        "_parts.json",
        "_lock",
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "x"], "--out without --ray"),
        (["--ray"], "--out FOLDER"),
        (["other", "--ray", "--out", "x"], "one source"),
        (["--out", "x", "--number", "--ray"], "--number"),
        (["--out", "x", "--ray", "nowhere"], "nowhere"),
    ],
)
def test_wrong_words_are_one_line(words, message, model, mixed, tmp_path):
    command = [
        sys.executable,
        "-m",
        "featherweight",
        "predict",
        str(mixed[0]),
        "--model",
        model,
        *words,
    ]
    said = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"NO_COLOR": "1"},
    )
    assert said.returncode == 2
    assert message in said.stderr
    assert len(said.stderr.splitlines()) == 2


def test_the_manifest_says_what_was_read(mixed, model, cluster, tmp_path):
    source, _ = mixed
    read_all(model, str(source / "some.npz"), tmp_path / "out", "csv", PICTURES, "auto", 2)
    known = json.loads((tmp_path / "out" / "_parts.json").read_text())
    assert known["images"] == 25
    assert known["format"] == "csv"
    assert Path(known["source"]) == source / "some.npz"
