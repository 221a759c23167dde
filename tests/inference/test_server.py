"""The HTTP interface: what it returns, what it refuses, and that no request stops it."""

import base64
import contextlib
import io
import re
import resource
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2 as httpx
import numpy as np
import onnxruntime
import pytest
import schemathesis
from fastapi.testclient import TestClient
from helpers import SHEET, Server, bomb, command, encoded, split_number, write_network
from hypothesis import HealthCheck, given, settings
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from schemathesis.specs.openapi.checks import positive_data_acceptance

from featherweight._pictures import FORMATS, MEDIA_TYPES
from featherweight.data import load_split
from featherweight.errors import InputError
from featherweight.image_kind import ImageKind
from featherweight.inference.labelled import NO_DIGIT, score_folder
from featherweight.inference.reader import Reader
from featherweight.inference.reading import number
from featherweight.inference.server import (
    MAX_BYTES,
    _collect,
    _interface,
    _limits,
    create_app,
    is_loopback,
)


@pytest.fixture(scope="module")
def app(model, tmp_path_factory):
    return create_app(Reader(model.path), collect=tmp_path_factory.mktemp("kept") / "digits")


@pytest.fixture
def client(app):
    with TestClient(app) as client:
        yield client


def post(client, content, kind="image/png", **params):
    return client.post("/predict", content=content, headers={"content-type": kind}, params=params)


@pytest.mark.parametrize("kind", FORMATS)
def test_pictures_are_read_as_the_reader_reads_them(client, model, kind):
    content = encoded(SHEET, kind)
    answer = post(client, content, FORMATS[kind][0], maps=True)
    assert answer.status_code == 200
    body = answer.json()
    reading = Reader(model.path).read(Image.open(io.BytesIO(content)))
    assert body["label"] == reading.label
    assert body["probabilities"] == pytest.approx(reading.probabilities.tolist(), abs=1e-5)
    assert base64.b64decode(body["seen"]) == reading.seen.tobytes()
    assert [
        (m["channels"], m["height"], m["width"], len(base64.b64decode(m["pixels"])))
        for m in body["maps"]
    ] == [(8, 14, 14, 8 * 14 * 14), (8, 12, 12, 8 * 12 * 12)]


def test_a_form_is_read_as_its_file(client):
    content = encoded(SHEET)
    alone = without_times(post(client, content, maps=True))
    for name in ("file", "picture"):
        answer = client.post(
            "/predict", files={name: ("photo.jpg", content)}, data={"a": "b"}, params={"maps": 1}
        )
        assert answer.status_code == 200
        assert without_times(answer) == alone


def without_times(answer):
    """Return the body, and check the times, which differ."""
    body = answer.json()
    times = body.pop("milliseconds")
    assert times.keys() == {"prepare", "network"}
    assert all(time > 0 for time in times.values())
    return body


def form(*parts, boundary="b"):
    return (
        b"".join(
            f"--{boundary}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode()
            + content
            + b"\r\n"
            for head, content in parts
        )
        + f"--{boundary}--\r\n".encode()
    )


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (
            form(("name=file", encoded(SHEET))),
            "multipart/form-data; boundary=b",
            422,
        ),  # a field, no file
        (form(('name=a; filename="a"', b"no picture")), "multipart/form-data; boundary=b", 422),
        (
            form(('name=a; filename="a"', b""), ('name=b; filename="b"', b"")),
            "multipart/form-data; boundary=b",
            422,
        ),
        (form(*[("name=f", b"")] * 10_000), "multipart/form-data; boundary=b", 422),
        (form(), "multipart/form-data; boundary=b", 422),
        (b"", "multipart/form-data; boundary=b", 422),
        (form(('name=a; filename="a"', encoded(SHEET))), "multipart/form-data", 422),
        (form(('name=a; filename="a"', encoded(SHEET))), "multipart/form-data; boundary=c", 422),
        (form(('filename="a"', encoded(SHEET))), "multipart/form-data; boundary=b", 422),
        (
            form(('name=a; filename="a"', encoded(SHEET)))[:-20],
            "multipart/form-data; boundary=b",
            422,
        ),
        (form(('name=a; filename="a"', bytes(MAX_BYTES))), "multipart/form-data; boundary=b", 413),
    ],
)
def test_a_form_without_one_readable_file_is_refused_in_a_line(client, content, kind, status):
    answer = post(client, content, kind)
    assert answer.status_code == status, answer.text
    assert "expected" in answer.json()["detail"]
    assert "\n" not in answer.json()["detail"]


def test_a_picture_of_the_largest_size_fits_in_a_form(client):
    noise = np.random.default_rng(0).integers(0, 256, (1300, 1000, 3), dtype=np.uint8)
    content = encoded(noise, "BMP")
    assert (
        MAX_BYTES - 400_000 < len(content) < MAX_BYTES
    )  # over the part of it that is kept in memory
    assert client.post("/predict", files={"file": content}).status_code == 200


def test_the_page_opens_every_picture_that_a_browser_shows(client):
    # It sends what it shows as PNG.
    assert set(re.findall('accept="(.*?)"', client.get("/").text)) == {"image/*"}


def test_several_digits_are_unsure_and_read_one_by_one(client, model):
    sheet = np.concatenate([SHEET] * 3, 1)
    plain = post(client, encoded(sheet)).json()
    assert plain["unsure"]
    assert plain["side_by_side"] == 3
    assert (plain["label"], plain["reason"]) == (None, "several digits")
    assert (plain["number"], plain["digits"], plain["evidence"]) == (None, None, None)
    body = post(client, encoded(sheet), digits=True).json()
    readings = Reader(model.path).read_prepared(split_number(sheet))
    assert body["number"] == "".join(reading.label for reading in readings)
    for i, (digit, reading) in enumerate(zip(body["digits"], readings, strict=True)):
        assert digit["label"] == reading.label
        assert base64.b64decode(digit["seen"]) == reading.seen.tobytes()
        # The strokes are at columns 90 to 110 and rows 40 to 160 of each 200 x 200 pixels.
        box = [(200 * i + 90) / 600, 0.2, (200 * i + 110) / 600, 0.8]
        assert digit["box"] == pytest.approx(box, abs=0.004)
    one = post(client, encoded(SHEET), digits=True).json()
    assert one["number"] == one["label"]
    assert [digit["box"] for digit in one["digits"]] == [one["box"]]


def test_lines_of_writing_are_read_as_the_reader_reads_them(client, model):
    line = np.concatenate([SHEET] * 3, 1)
    page = np.concatenate([line, np.where(np.arange(600) < 400, line, 255)], 0)
    page = page.astype(np.uint8)
    body = post(client, encoded(page), lines=True).json()
    expected = Reader(model.path).read_lines(page)
    assert [len(each["digits"]) for each in body["lines"]] == [3, 2]
    assert [each["number"] for each in body["lines"]] == [number(each) for each in expected]
    for found, readings in zip(body["lines"], expected, strict=True):
        assert [each["box"] for each in found["digits"]] == [list(each.box) for each in readings]
    assert (body["number"], body["digits"]) == (None, None)
    both = post(client, encoded(page), lines=True, digits=True).json()
    assert both["lines"] == body["lines"]
    assert both["digits"] == [digit for each in body["lines"] for digit in each["digits"]]
    assert both["number"] == "".join(each["number"] for each in body["lines"])
    raw = post(client, body["seen"].encode()[:784], "application/octet-stream", lines=True).json()
    assert [len(each["digits"]) for each in raw["lines"]] == [1]
    assert post(client, encoded(page)).json()["lines"] is None


def test_the_evidence_sums_to_the_difference_of_the_log_probabilities(client, model, split):
    reader = Reader(model.path)
    temperature = float(reader.card["temperature"])
    for pixels in split.val.pixels[:100, 0].numpy():
        body = post(client, pixels.tobytes(), "application/octet-stream", evidence=True).json()
        why, p = body["evidence"], dict(zip(reader.labels, body["probabilities"], strict=True))
        best = sorted(p, key=p.get, reverse=True)
        assert [why["first"], why["second"]] == best[:2]
        # Probabilities are those of the logits divided by the temperature.
        expected = temperature * np.log(p[best[0]] / p[best[1]])
        assert np.sum(why["values"]) == pytest.approx(expected, abs=1e-4)
        assert why["difference"] == pytest.approx(expected, abs=1e-4)
        assert np.shape(why["values"]) == (12, 12)


@pytest.mark.slow
def test_the_evidence_of_real_digits_sums_too(real_model):
    reader = Reader(real_model)
    images = load_split(None, 50_000, 10_000).val.pixels[:300, 0].numpy()
    session = onnxruntime.InferenceSession(str(real_model))
    expected = np.sort(session.run(["log_probabilities"], {"pixels": images})[0], 1)
    with TestClient(create_app(reader)) as client:
        for image, row in zip(images, expected, strict=True):
            why = post(client, encoded(image), evidence=True).json()["evidence"]
            assert np.sum(why["values"]) == pytest.approx(row[-1] - row[-2], abs=1e-4)


def test_maps_have_one_range_a_stage_and_the_channels_that_decide_first(client, model):
    reader = Reader(model.path)
    body = post(client, encoded(SHEET), maps=True, evidence=True).json()
    seen = np.frombuffer(base64.b64decode(body["seen"]), np.uint8).reshape(28, 28)
    for shown, stage in zip(body["maps"], reader.stages(seen), strict=True):
        maps, pixels = stage.maps, np.frombuffer(base64.b64decode(shown["pixels"]), np.uint8)
        low, high = shown["low"], shown["high"]
        assert (low, high) == pytest.approx((maps.min(), maps.max()))
        assert (pixels.min(), pixels.max()) == (0, 255)
        back = low + pixels.reshape(maps.shape) * (high - low) / 255
        np.testing.assert_allclose(back, maps, atol=(high - low) / 255 / 2 * 1.01)
        filters = shown["filters"]
        shape = shown["channels"], filters["inputs"], filters["height"], filters["width"]
        found = np.frombuffer(base64.b64decode(filters["values"]), "<f4").reshape(shape)
        np.testing.assert_array_equal(found, stage.filters)
        assert sorted(shown["order"]) == list(range(shown["channels"]))
    first, last = body["maps"]
    assert first["contributions"] is None
    spread = reader.stages(seen)[0].maps.std((1, 2))[first["order"]]
    assert (np.diff(spread) <= 0).all()
    parts = np.array(last["contributions"])
    assert (np.diff(abs(parts[last["order"]])) <= 0).all()
    bias = stored_bias(model.path)
    one, two = int(body["evidence"]["first"]), int(body["evidence"]["second"])
    total = parts.sum() + bias[one] - bias[two]
    assert total == pytest.approx(body["evidence"]["difference"], abs=1e-4)


@pytest.fixture
def serving(tmp_path):
    """A client of a server whose network takes images of a kind."""

    def serve(kind, **arguments):
        reader = Reader(write_network(tmp_path / "m.onnx", kind))
        return TestClient(create_app(reader, **arguments))

    return serve


def test_a_network_without_feature_maps_has_none(serving):
    with serving(ImageKind(1, 28, 28, "light on dark", "upright", tuple("0123456789"))) as client:
        answer = post(client, encoded(SHEET), maps=True, evidence=True, digits=True)
    assert answer.status_code == 200
    body = answer.json()
    assert (body["maps"], body["evidence"], len(body["digits"])) == ([], None, 1)


def test_a_network_of_colour_images_is_served(serving):
    kind = ImageKind(3, 32, 24, "natural", "upright", ("a cat", "dog"))
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (32, 24, 3), dtype=np.uint8)
    with serving(kind) as client:
        body = post(client, encoded(image), maps=True).json()
        planes = image.transpose(2, 0, 1).tobytes()
        assert base64.b64decode(body["seen"]) == planes
        assert body["label"] in ("a cat", "dog")
        assert (body["box"], body["frame"], body["side_by_side"]) == (None, [0, 0, 1, 1], 1)
        raw = post(client, planes, "application/octet-stream").json()
        assert raw["probabilities"] == body["probabilities"]
        blank = post(client, bytes(len(planes)), "application/octet-stream").json()
        assert blank["label"] is not None  # a black picture is a picture
        card = client.get("/model").json()
        assert card["labels"] == ["a cat", "dog"]
        assert [card[key] for key in ("channels", "height", "width", "reads_ink")] == [
            *(3, 32, 24, False)
        ]
        for content, message in (
            (planes[1:], "expected 2304, one for each pixel of three planes"),
        ):
            refused = post(client, content, "application/octet-stream")
            assert (refused.status_code, message in refused.json()["detail"]) == (422, True)
        for name in ("digits", "lines"):
            refused = post(client, encoded(image), **{name: True})
            assert refused.status_code == 422
            assert "reads whole pictures" in refused.json()["detail"]


def test_paper_without_ink_is_blank_in_either_polarity(serving):
    with serving(ImageKind(1, 28, 28, "dark on light", "upright", ("a", "b"))) as client:
        for byte, label in ((255, True), (0, False)):
            answer = post(client, bytes([byte]) * 784, "application/octet-stream").json()
            assert (answer["label"] is None) == label


def test_a_class_that_is_no_folders_name_is_not_kept(serving, tmp_path):
    names = ("../out", "in")
    kind = ImageKind(1, 28, 28, "light on dark", "upright", names)
    with serving(kind, collect=tmp_path / "kept" / "here") as client:
        # No label is a digit, so that none is not a digit.
        for label, status in zip((*names, NO_DIGIT), (422, 201, 422), strict=True):
            answer = client.post(
                "/feedback",
                content=encoded(SHEET),
                headers={"content-type": "image/png"},
                params={"label": label},
            )
            assert answer.status_code == status
    assert [path.name for path in (tmp_path / "kept").rglob("*") if path.is_dir()] == ["here", "in"]


def stored_bias(path):
    session = onnxruntime.InferenceSession(str(path))
    return session.run(["bias"], {"pixels": np.zeros((1, 28, 28), np.uint8)})[0]


def test_a_model_is_loaded_when_it_is_asked_for_and_then_kept(model):
    loaded = []

    def load():
        loaded.append(1)
        return Reader(model.path)

    with TestClient(create_app({"one": Reader(model.path), "two": load})) as client:
        assert post(client, encoded(SHEET)).json()["model"] == "one"
        assert client.get("/model").json()["metadata"] == model.metadata
        assert not loaded
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: post(client, encoded(SHEET), model="two"), range(8)))
        assert {answer.json()["model"] for answer in answers} == {"two"}
        offer = client.get("/models").json()
        assert len(loaded) == 1
        for answer in (
            post(client, encoded(SHEET), model="three"),
            client.get("/model", params={"name": "../two"}),
        ):
            assert answer.status_code == 404
            assert answer.json()["detail"].endswith("expected one of one, two")
    card = {
        "parameters": int(model.metadata["parameters"]),
        "bytes": model.path.stat().st_size,
        "validation_correct": int(model.metadata["validation_correct"]),
        "validation_total": 100,
        "labels": [str(k) for k in range(10)],
    }
    assert offer == {
        "default": "one",
        "collects": False,
        "models": [{"name": name, **card} for name in ("one", "two")],
    }


@pytest.fixture
def collecting(model, tmp_path):
    with TestClient(create_app(Reader(model.path), collect=tmp_path / "deep" / "kept")) as client:
        yield client, tmp_path / "deep" / "kept"


def keep(client, label="7", content=None, kind="image/png"):
    content = encoded(SHEET) if content is None else content
    return client.post(
        "/feedback", params={"label": label}, content=content, headers={"content-type": kind}
    )


def test_mistakes_are_kept_as_pictures_in_folders_of_their_labels(collecting):
    client, folder = collecting
    assert client.get("/models").json()["collects"]
    assert not folder.exists()
    commented = PngInfo()
    commented.add_text("Comment", "who drew it")
    file = io.BytesIO()
    Image.fromarray(SHEET).save(file, "PNG", pnginfo=commented)
    answer = keep(client, "7", file.getvalue())
    assert answer.status_code == 201
    assert answer.json() == {"label": "7", "pictures": 1}
    (kept,) = folder.rglob("*.*")
    assert re.fullmatch(r"7/\d{8}-\d{6}-[0-9a-f]{16}\.png", kept.relative_to(folder).as_posix())
    assert np.array_equal(np.asarray(Image.open(kept)), SHEET)
    assert b"who drew it" not in kept.read_bytes()
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda i: keep(client, str(i % 10)).json(), range(40)))
    assert sorted(answer["pictures"] for answer in answers) == list(range(2, 42))
    assert len(list(folder.glob("[0-9]/*.png"))) == len(list(folder.glob("*/*"))) == 41


def test_what_is_no_digit_has_a_folder_that_is_counted_by_itself(collecting, model):
    client, folder = collecting
    assert keep(client, NO_DIGIT).status_code == 201
    assert len(list((folder / NO_DIGIT).glob("*.png"))) == 1
    assert score_folder(Reader(model.path), folder).not_digits == 1


@pytest.mark.parametrize(
    ("label", "content", "kind", "status"),
    [
        ("10", None, "image/png", 422),
        ("", None, "image/png", 422),
        ("..", None, "image/png", 422),
        ("../7", None, "image/png", 422),
        ("7/../../7", None, "image/png", 422),
        ("/7", None, "image/png", 422),
        ("7\0", None, "image/png", 422),
        ("7", b"", "image/png", 422),
        ("7", b"\x89PNG\r\n\x1a\n", "image/png", 422),
        ("7", bomb(), "image/png", 422),
        ("7", encoded(SHEET, "JPEG"), "image/png", 422),
        ("7", encoded(SHEET, "GIF"), "image/gif", 415),
        ("7", None, "text/plain", 415),
        ("7", None, "multipart/form-data; boundary=b", 415),
        ("7", bytes(_collect.MAX_PICTURE_BYTES + 1), "image/png", 413),
    ],
)
def test_what_is_no_picture_or_no_label_is_not_kept(
    collecting, tmp_path, label, content, kind, status
):
    client, _ = collecting
    answer = keep(client, label, content, kind)
    assert answer.status_code == status, answer.text
    assert "expected" in answer.json()["detail"]
    assert "\n" not in answer.json()["detail"]
    assert str(tmp_path) not in answer.text
    assert list(tmp_path.iterdir()) == []


def test_a_full_collection_and_a_full_disk_are_one_line(collecting, tmp_path, monkeypatch):
    client, folder = collecting
    monkeypatch.setattr(_collect, "MAX_PICTURES", 2)
    assert [keep(client).status_code for _ in range(3)] == [201, 201, 507]
    assert keep(client).json() == {"detail": "got 2 pictures already, expected fewer"}
    assert len(list(folder.rglob("*.png"))) == 2
    monkeypatch.setattr(_collect, "MAX_PICTURES", 10)

    def fail(path, content):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(_collect, "write_atomic", fail)
    answer = keep(client)
    assert answer.status_code == 507
    assert answer.json() == {"detail": "the picture can't be written: no space left on device"}


def test_pictures_are_kept_only_where_that_is_asked_for(model):
    with TestClient(create_app(Reader(model.path))) as client:
        assert keep(client).status_code == 404
        assert not client.get("/models").json()["collects"]
    assert [host for host in ("localhost", "127.0.0.1", "127.8.0.1", "::1") if is_loopback(host)]
    for host in ("0.0.0.0", "::", "192.168.1.1", "example.org", ""):
        assert not is_loopback(host)


def test_another_page_can_not_post_without_being_asked(collecting):
    client, _ = collecting
    asked = client.options(
        "/feedback",
        headers={
            "Origin": "https://example.org",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type",
        },
    )
    assert asked.status_code == 405
    assert not [name for name in asked.headers if name.startswith("access-control")]


@pytest.mark.parametrize("below", ["", "/digits"])
def test_it_is_served_below_a_path_that_a_proxy_may_remove(model, below):
    app = create_app(Reader(model.path), root_path="/digits")
    with TestClient(app, follow_redirects=False) as client:
        for path in ("/", "/docs", "/static/page.js", "/docs/assets/swagger-ui.css", "/models"):
            assert client.get(below + path).status_code == 200
        assert client.get(f"{below}/openapi.json").json()["servers"] == [{"url": "/digits"}]
        answer = client.post(
            f"{below}/predict", content=encoded(SHEET), headers={"content-type": "image/png"}
        )
        assert answer.status_code == 200
        assert client.get("/digits").headers["location"] == "/digits/"
        assert client.get(f"{below}/nothing").status_code == 404


def test_pages_that_may_show_it_are_named(model):
    reader = Reader(model.path)
    for embed, ancestors in (
        ([], "frame-ancestors 'none'"),
        (["self"], "frame-ancestors 'self'"),
        (
            ["https://example.org", "http://localhost:8888"],
            "frame-ancestors https://example.org http://localhost:8888",
        ),
    ):
        with TestClient(create_app(reader, embed=embed)) as client:
            policy = client.get("/").headers["content-security-policy"]
        assert policy.split("; ")[-1] == ancestors
        assert policy.startswith("default-src 'none'; script-src 'self'; ")
    for origin in (
        *("example.org", "https://", "ftp://example.org", "https://example.org/path", "*"),
        *("https://a b", "https://a;script-src *", "https://a\nb", "'self'", "", "https://a,b"),
    ):
        with pytest.raises(InputError, match="--allow-embedding: got"):
            create_app(reader, embed=[origin])
    for path in ("digits", "/", "/digits/", "//digits", "/a b", "/a?b", "https://a", "/a\n"):
        with pytest.raises(InputError, match="--root-path: got"):
            create_app(reader, root_path=path)


def test_the_document_has_tags_and_examples(client):
    document = client.get("/openapi.json").json()
    tags = {tag["name"] for tag in document["tags"]}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert set(operation["tags"]) <= tags
            assert operation["description"], path
    fields = document["components"]["schemas"]["Prediction"]["properties"]
    assert all("description" in field or "$ref" in field for field in fields.values())
    assert fields["label"]["examples"] == ["7"]
    choice = next(
        parameter
        for parameter in document["paths"]["/predict"]["post"]["parameters"]
        if parameter["name"] == "model"
    )
    assert choice["schema"]["enum"] == ["tiny"]


def test_raw_pixels_are_read_as_they_are(client, model, split):
    pixels = split.val.pixels[0, 0].numpy()
    answer = post(client, pixels.tobytes(), "application/octet-stream").json()
    expected = Reader(model.path).probabilities(pixels[None])[0]
    assert answer["probabilities"] == pytest.approx(expected.tolist(), abs=1e-5)
    assert post(client, bytes(783), "application/octet-stream").status_code == 422


def test_an_empty_sheet_has_no_digit(client):
    for content, kind in (
        (encoded(np.full((50, 50), 255, np.uint8)), "image/png"),
        (bytes(784), "application/octet-stream"),
    ):
        asked = {"maps": True, "digits": True, "lines": True, "evidence": True}
        answer = post(client, content, kind, **asked).json()
        for name in (
            *("label", "probabilities", "seen", "maps", "box", "frame", "evidence", "number"),
            *("digits", "lines"),
        ):
            assert answer[name] is None
        assert answer["side_by_side"] == 0
        assert answer["unsure"]


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"", "image/png", 422),
        (b"no picture", "image/png", 422),
        (bomb(), "image/png", 422),
        (b"x", "text/plain", 415),
        (b"x", "", 415),
        (bytes(MAX_BYTES + 1), "image/png", 413),
        (encoded(SHEET)[:-30], "image/jpeg", 422),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_line(client, content, kind, status):
    answer = post(client, content, kind)
    assert answer.status_code == status
    assert "expected" in answer.json()["detail"]
    assert "\n" not in answer.json()["detail"]


def test_a_wrong_query_is_refused(client):
    assert post(client, encoded(SHEET), maps="perhaps").status_code == 422
    known = "maps, digits, lines, evidence, model"
    for query, message in (
        ("foo=1", f"'foo': got an unknown parameter, expected {known}"),
        (
            "digit=true",
            f"'digit': got an unknown parameter, expected {known}; hint: did you mean digits?",
        ),
        ("maps=1&maps=0", "maps: got it several times, expected it once"),
    ):
        answer = client.post(
            f"/predict?{query}", content=encoded(SHEET), headers={"content-type": "image/png"}
        )
        assert (answer.status_code, answer.json()) == (422, {"detail": message})
    for path in ("/model", "/models", "/healthz"):
        answer = client.get(f"{path}?foo=1")
        assert answer.status_code == 422
        assert answer.json()["detail"].startswith("'foo': got an unknown parameter, expected ")
    assert client.get("/?foo=1").status_code == 200  # a page, whose address others may lengthen


def test_a_form_with_two_files_is_refused(client):
    files = [("a", ("a.png", encoded(SHEET))), ("b", ("b.png", encoded(SHEET)))]
    answer = client.post("/predict", files=files)
    assert answer.status_code == 422
    assert answer.json() == {"detail": "got a form with 2 files, expected one"}


def test_a_request_that_takes_too_long_is_ended(client, monkeypatch):
    monkeypatch.setattr(_limits, "MAX_SECONDS", 0.2)
    monkeypatch.setattr(
        _interface, "decode", lambda picture: time.sleep(1) or Image.fromarray(SHEET)
    )
    assert post(client, encoded(SHEET)).status_code == 408


def test_card_health_and_pages(client, model):
    assert client.get("/model").json()["metadata"] == model.metadata
    assert client.get("/healthz").json() == {"status": "ok"}
    for path in (
        "/",
        "/docs",
        "/static/page.js",
        "/static/page.css",
        "/docs/assets/swagger-ui.css",
    ):
        answer = client.get(path)
        assert answer.status_code == 200
        assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert client.get("/static/../__init__.py").status_code == 404


def test_the_pages_name_no_outside_resource(client):
    for path in ("/", "/docs", "/static/page.js", "/static/page.css", "/static/docs.js"):
        assert "//" not in client.get(path).text.replace("http://www.w3.org/2000/svg", "").replace(
            "// ", ""
        )


def malformed(random):
    """Return bytes that are no picture, or nearly one."""
    kind = random.choice(list(FORMATS))
    content = bytearray(encoded(random.integers(0, 256, (30, 30), dtype=np.uint8), kind))
    how = random.integers(5)
    if how == 0:
        return bytes(content[: random.integers(len(content) // 2)])
    if how == 1:  # begins as another format
        return encoded(SHEET, "BMP")[:60] + bytes(content)
    if how == 2:
        return random.bytes(int(random.integers(3000)))
    if how == 3:
        return bomb(int(random.integers(4_100, 60_000)))
    content[:20] = random.bytes(20)
    return bytes(content)


def test_a_thousand_malformed_bodies_are_refused_and_memory_stays(client):
    random = np.random.default_rng(0)
    most = 0
    for i in range(1000):
        answer = post(client, malformed(random), random.choice(MEDIA_TYPES))
        assert 400 <= answer.status_code < 500
        if i == 100:
            most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - most < 50_000  # kB
    assert post(client, encoded(SHEET)).status_code == 200


def test_malformed_pictures_are_not_kept(collecting):
    client, folder = collecting
    random = np.random.default_rng(1)
    for _ in range(200):
        assert keep(client, "7", malformed(random)).status_code == 422
    assert not folder.exists()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/predict"),
        ("GET", "/model"),
        ("GET", "/models"),
        ("POST", "/feedback"),
        ("GET", "/healthz"),
    ],
)
def test_it_keeps_to_its_openapi_document(app, method, path):
    operation = schemathesis.openapi.from_asgi("/openapi.json", app)[path][method]

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(operation.as_strategy())
    def check(case):
        # A schema cannot say "the bytes of a picture": what it allows may be refused with 422.
        case.call_and_validate(excluded_checks=[positive_data_acceptance])

    check()


@pytest.fixture
def server(model):
    server = Server(model.path)
    yield server
    if server.process.poll() is None:
        server.stop()
    server.process.stderr.close()


def test_many_at_once_are_all_answered(server):
    content = encoded(SHEET)
    with (
        httpx.Client(
            base_url=server.url, limits=httpx.Limits(max_connections=64), timeout=60
        ) as client,
        ThreadPoolExecutor(64) as pool,
    ):
        answers = list(pool.map(lambda _: post(client, content).status_code, range(300)))
    assert answers == [200] * 300


def test_what_was_taken_is_finished_when_it_is_told_to_end(server):
    content = encoded(np.pad(SHEET, 600, constant_values=255))
    host, port = server.url.removeprefix("http://").split(":")
    head = (
        f"POST /predict HTTP/1.1\r\nHost: {host}\r\nContent-Type: image/png\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    ).encode()
    with contextlib.ExitStack() as stack:
        taken = [
            stack.enter_context(socket.create_connection((host, int(port)), timeout=60))
            for _ in range(20)
        ]
        for connection in taken:
            connection.sendall(head + content[:1000])
        time.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        with pytest.raises(ConnectionError):  # it accepts no more connections
            stack.enter_context(socket.create_connection((host, int(port)), timeout=60))
        for connection in taken:
            connection.sendall(content[1000:])
        answers = [connection.makefile("rb").read() for connection in taken]
    assert all(answer.startswith(b"HTTP/1.1 200") and b'"label"' in answer for answer in answers)
    assert server.process.wait(timeout=60) in (
        0,
        -signal.SIGTERM,
    )  # uvicorn ends by the signal that it was sent


def test_a_port_in_use_is_one_line(server, model):
    port = server.url.rpartition(":")[2]
    again = subprocess.run(command(model.path, port), capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert again.stderr.splitlines() == [
        f"error: port {port} of 127.0.0.1 is taken",
        f"hint: featherweight serve --model {model.path} --port 0",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--host", "nowhere.invalid"], "error: port 8000 of nowhere.invalid: "),
        (["--port", "70000"], "error: --port: got 70000"),
    ],
)
def test_an_address_that_is_none_is_one_line(words, message, model):
    said = subprocess.run(
        [*command(model.path, 8000)[:-2], *words], capture_output=True, text=True, check=False
    )
    assert said.returncode == 2
    assert said.stderr.startswith(message)
    assert len(said.stderr.splitlines()) == 2
    assert "Errno" not in said.stderr
