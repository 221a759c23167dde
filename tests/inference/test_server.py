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
import pytest
import schemathesis
from fastapi.testclient import TestClient
from helpers import SHEET, Server, bomb, command, encoded
from hypothesis import HealthCheck, given, settings
from PIL import Image
from schemathesis.specs.openapi.checks import positive_data_acceptance

from featherweight.inference import server as serve
from featherweight.inference.prepare import FORMATS, MEDIA_TYPES
from featherweight.inference.reader import Reader
from featherweight.inference.server import MAX_BYTES, create_app


@pytest.fixture(scope="module")
def app(model):
    return create_app(Reader(model.path))


@pytest.fixture
def client(app):
    with TestClient(app) as client:
        yield client


def post(client, content, kind="image/png", **params):
    return client.post("/predict", content=content, headers={"content-type": kind}, params=params)


@pytest.mark.parametrize("kind", MEDIA_TYPES)
def test_pictures_are_read_as_the_reader_reads_them(client, model, kind):
    content = encoded(SHEET, kind.partition("/")[2].upper())
    answer = post(client, content, kind, maps=True)
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
    alone = post(client, content, maps=True).json()
    for name in ("file", "picture"):
        answer = client.post(
            "/predict", files={name: ("photo.jpg", content)}, data={"a": "b"}, params={"maps": 1}
        )
        assert answer.status_code == 200
        assert answer.json() == alone


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


def test_the_page_offers_every_format_that_a_browser_shows(client):
    accepted = re.search('accept="(.*?)"', client.get("/").text)[1].split(",")
    assert accepted == [media_type for media_type in MEDIA_TYPES if media_type != "image/tiff"]


def test_several_digits_are_unsure(client):
    assert post(client, encoded(np.concatenate([SHEET] * 3, 1))).json()["unsure"]


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
        answer = post(client, content, kind, maps=True).json()
        assert (answer["label"], answer["probabilities"], answer["seen"], answer["maps"]) == (
            None,
            None,
            None,
            None,
        )


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


def test_a_request_that_takes_too_long_is_ended(client, monkeypatch):
    monkeypatch.setattr(serve, "MAX_SECONDS", 0.2)
    monkeypatch.setattr(
        serve, "open_picture", lambda content: time.sleep(1) or Image.fromarray(SHEET)
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


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/predict"), ("GET", "/model"), ("GET", "/healthz")]
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
