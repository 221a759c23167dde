"""The command `serve`: what it offers, what it keeps, where it may be shown, what it refuses."""

import contextlib
import socket

import httpx2 as httpx
import pytest
import uvicorn
from helpers import SHEET, Server, command, encoded, featherweight

from featherweight.cli.serve import _offer, cmd_serve
from featherweight.inference.reader import Reader
from featherweight.pretrained import DEFAULT_MODEL, pretrained


@contextlib.contextmanager
def serving(*words, **kwargs):
    server = Server(*words, **kwargs)
    try:
        yield server.url
    finally:
        server.stop()
        server.process.stderr.close()


def keep(url, **headers):
    headers = {"content-type": "image/png"} | headers
    return httpx.post(f"{url}/feedback?label=7", content=encoded(SHEET), headers=headers)


def test_the_pretrained_networks_are_offered_beside_the_one_asked_for(model, tmp_path):
    names = set(pretrained())
    offered = _offer(DEFAULT_MODEL)
    assert next(iter(offered)) == DEFAULT_MODEL
    assert set(offered) == names
    offered = _offer(str(model.path))
    assert next(iter(offered)) == "tiny"
    assert set(offered) == {"tiny", *names}
    assert [isinstance(each, Reader) for each in offered.values()] == [True] + [False] * len(names)
    assert offered["sprint"]().card["recipe"] == "sprint"
    # A file of a pretrained network's recipe has its file's name.
    (tmp_path / "mine.onnx").write_bytes(
        (pretrained()["sprint"].folder / "model.onnx").read_bytes()
    )
    assert set(_offer(str(tmp_path / "mine.onnx"))) == {"mine.onnx", *names}


def test_an_answer_does_not_wait_until_its_headers_are_acknowledged(model, monkeypatch):
    options = []
    monkeypatch.setattr(
        uvicorn.Server,
        "run",
        lambda _, sockets: options.extend(
            each.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for each in sockets
        ),
    )
    cmd_serve(model=str(model.path), port=0)
    assert len(options) == 1
    assert options[0] != 0


@pytest.mark.slow
def test_pictures_are_kept_where_only_this_machine_can_post_them(model, tmp_path):
    with serving(model.path, cwd=tmp_path) as url:
        assert httpx.get(f"{url}/models").json()["collects"]
        assert keep(url, origin=url).status_code == 201
        # The page of another site, and one whose name was made to resolve to this machine.
        assert keep(url, origin="http://evil.example").status_code == 403
        evil = {"host": "evil.example", "origin": "http://evil.example"}
        assert keep(url, **evil).status_code == 403
        assert httpx.head(url).status_code == 200
    assert len(list((tmp_path / "my-digits" / "7").iterdir())) == 1
    with serving(model.path, "--host", "0.0.0.0", cwd=tmp_path) as url:
        assert url.startswith("http://127.0.0.1:")  # which a browser opens, as 0.0.0.0 is not
        assert keep(url).status_code == 404
    with serving(model.path, "--host", "0.0.0.0", "--collect", "kept", cwd=tmp_path) as url:
        other = {"host": "a-machine.example", "origin": "http://a-machine.example"}
        assert keep(url, **other).status_code == 201
    assert len(list((tmp_path / "kept" / "7").iterdir())) == 1
    found = featherweight("evaluate", model.path, "--data", "kept", "--json", cwd=tmp_path)
    assert found.returncode == 0
    assert '"total": 1' in found.stdout


@pytest.mark.slow
def test_it_is_embedded_and_below_a_path_where_asked(model, tmp_path):
    words = ("--root-path", "/digits", "--allow-embedding", "self")
    words += ("--allow-embedding", "https://example.org")
    with serving(model.path, *words, cwd=tmp_path) as url:
        answer = httpx.get(f"{url}/digits/")
        policy = answer.headers["content-security-policy"]
        assert policy.endswith("frame-ancestors 'self' https://example.org")
        assert httpx.get(f"{url}/healthz").json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--root-path", "digits"], "--root-path: got 'digits', expected one such as /digits"),
        (
            ["--allow-embedding", "example.org"],
            "--allow-embedding: got 'example.org', expected one such as ",
        ),
        (["--allow-embedding", "https://a; script-src *"], "--allow-embedding: got "),
        (["--collect", ""], "--collect '': expected a folder"),
        (["--collect", "file"], "--collect 'file': expected a folder"),
        (["--collect", "file/below"], "--collect 'file/below': expected a folder"),
    ],
)
def test_what_is_no_path_no_origin_and_no_folder_is_one_line(words, message, model, tmp_path):
    (tmp_path / "file").write_text("")
    said = featherweight(*command(model.path, 0)[3:], *words, cwd=tmp_path)
    assert said.returncode == 2
    assert said.stderr.startswith(f"error: {message}")
    assert len(said.stderr.splitlines()) == 2


@pytest.mark.slow
def test_it_listens_on_ipv6(model, tmp_path):
    with serving(model.path, "--host", "::1", cwd=tmp_path) as url:
        assert url.startswith("http://[::1]:")
        assert httpx.get(f"{url}/healthz").json() == {"status": "ok"}
