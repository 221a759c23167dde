"""What requests may take together: connections, memory, time; and several server processes."""

import asyncio
import contextlib
import io
import os
import resource
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2 as httpx
import numpy as np
import pytest
from fastapi import HTTPException
from fastapi.testclient import TestClient
from helpers import SHEET, Server, command, encoded, featherweight
from PIL import Image

from featherweight.inference.reader import Reader
from featherweight.inference.server import _connections, _limits, create_app
from featherweight.inference.server._answers import Prediction
from featherweight.inference.server._limits import MAX_DECODED, MAX_WAITING, Room


def post(url, content=None, **kwargs):
    content = encoded(SHEET) if content is None else content
    headers = {"content-type": "image/png"}
    return httpx.post(f"{url}/predict", content=content, headers=headers, timeout=60, **kwargs)


def address(url):
    host, port = url.removeprefix("http://").split(":")
    return host, int(port)


@contextlib.contextmanager
def serving(model, *options, descriptors=None, seconds=None, **kwargs):
    """A server, perhaps with another limit of file descriptors or another deadline for headers."""
    server = Server(model.path, *options, descriptors=descriptors, seconds=seconds, **kwargs)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.stop()
        server.process.stderr.close()


def test_an_answer_has_the_documented_types_and_names(model):
    with TestClient(create_app(Reader(model.path))) as client:
        for content in (encoded(SHEET), encoded(np.full((50, 50), 255, np.uint8))):
            for wanted in (True, False):
                answer = client.post(
                    "/predict",
                    content=content,
                    headers={"content-type": "image/png"},
                    params={"maps": wanted, "digits": wanted, "evidence": wanted},
                )
                # As FastAPI would have made it from the data model.
                expected = Prediction.model_validate_json(answer.content).model_dump(mode="json")
                assert answer.json() == expected


@pytest.mark.slow
def test_headers_that_never_end_are_closed(model):
    """200 connections with half a header, as many as would otherwise be kept for ever."""
    with serving(model, seconds=2) as server, contextlib.ExitStack() as stack:
        half = [
            stack.enter_context(socket.create_connection(address(server.url), timeout=30))
            for _ in range(200)
        ]
        for connection in half:
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\n")
        assert post(server.url).status_code == 200
        begin = time.monotonic()
        for connection in half:
            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(1) == b""
        assert time.monotonic() - begin < 20
        assert post(server.url).status_code == 200


@pytest.mark.slow
def test_headers_without_end_are_refused_before_they_fill_the_memory(model):
    with serving(model) as server, socket.create_connection(address(server.url)) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\n")
        with pytest.raises(ConnectionError):
            connection.sendall((b"X-More: " + b"a" * 50_000 + b"\r\n") * 1000)
        assert post(server.url).status_code == 200


@pytest.mark.slow
def test_a_full_table_of_descriptors_leaves_the_server_answering(model):
    """Three times as many connections as there are descriptors, and hardly a line of log."""
    with serving(model, descriptors=160) as server, contextlib.ExitStack() as stack:
        for _ in range(480):
            stack.enter_context(socket.create_connection(address(server.url), timeout=30))
        for _ in range(5):
            assert post(server.url).status_code == 200
        server.stop()
        lines = server.process.stderr.read().splitlines()
    assert len(lines) == 1, lines
    assert "file descriptors" in lines[0]


def test_the_bound_on_connections_follows_the_limit_of_descriptors(monkeypatch):
    for limit, most in ((1024, 944), (160, 80), (100, 50), (resource.RLIM_INFINITY, 65_456)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, limit=limit: (limit, limit))
        assert _connections.max_connections() == most


def large(mode="RGBA", side=4000):
    file = io.BytesIO()
    picture = Image.new(mode, (side, side), (255, 255, 255, 10)[: len(mode)])
    picture.paste((0, 0, 0, 255)[: len(mode)], (side // 2, side // 4, side // 2 + 200, side // 2))
    picture.save(file, "PNG", compress_level=1)
    return file.getvalue()


def peak(pid):
    """Return the highest resident memory of a process in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1000


@pytest.mark.slow
def test_large_pictures_wait_for_one_another(model):
    """Six at once took 430 MB each; now one after the other is decoded, in a third of that."""
    content = large()
    with serving(model) as server:
        assert post(server.url).status_code == 200
        before = peak(server.process.pid)
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda _: post(server.url, content).status_code, range(6)))
        assert set(answers) <= {200, 408}
        assert answers.count(200) >= 2
        assert peak(server.process.pid) - before < 250


def test_who_finds_no_room_waits_and_too_many_are_refused():
    picture = Image.new("RGBA", (4000, 4000))  # as many samples as there is room for
    assert MAX_DECODED == 4 * 4000 * 4000
    small = Image.new("L", (100, 100))

    async def run():
        room, order, enough = Room(), [], asyncio.Event()

        async def decode(k):
            async with room.hold(picture):
                order.append(k)
                if not k:
                    await enough.wait()

        tasks = [asyncio.create_task(decode(k)) for k in range(MAX_WAITING + 2)]
        await asyncio.sleep(0)
        assert order == [0]
        async with room.hold(small):  # needs no room
            pass
        with pytest.raises(HTTPException) as refused:
            await tasks[-1]
        assert refused.value.status_code == 503
        assert "expected" in refused.value.detail
        tasks[1].cancel()  # its client is gone, or it took too long
        enough.set()
        await asyncio.gather(*tasks[2:-1])
        assert order == [0, *range(2, MAX_WAITING + 1)]
        async with asyncio.timeout(1), room.hold(picture):
            pass

    asyncio.run(run())


def test_one_that_is_cancelled_as_its_turn_comes_gives_its_room_back():
    picture = Image.new("RGBA", (4000, 4000))

    async def run():
        room = Room()
        async with room.hold(picture):
            second = asyncio.create_task(room.hold(picture).__aenter__())
            await asyncio.sleep(0)
        second.cancel()  # after its turn has come, before it goes on
        with pytest.raises(asyncio.CancelledError):
            await second
        async with asyncio.timeout(1), room.hold(picture):
            pass

    asyncio.run(run())


def test_bodies_together_are_bounded(model, monkeypatch):
    content = encoded(SHEET)
    with TestClient(create_app(Reader(model.path))) as client:
        for held, status in ((len(content) - 1, 503), (len(content), 200), (len(content), 200)):
            monkeypatch.setattr(_limits, "MAX_HELD", held)
            answer = client.post("/predict", content=content, headers={"content-type": "image/png"})
            assert answer.status_code == status
            assert "content-security-policy" in answer.headers


def test_answers_leave_at_once():
    """Without TCP_NODELAY the second part of each answer waits 40 ms."""
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(_connections.listen("127.0.0.1", 0))
        stack.enter_context(socket.create_connection(listening.getsockname()))
        accepted = stack.enter_context(listening.accept()[0])
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def children(pid):
    return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def workers(server, n):
    """Return the server processes once there are n; another child of `spawn` tracks resources."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        found = []
        for pid in children(server.process.pid):
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes()
                if b"spawn_main" in words:
                    found.append(pid)
        if len(found) == n:
            return found
        time.sleep(0.1)
    raise AssertionError(found)


def gone(pids):
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_several_processes_answer_and_all_end(model, tmp_path, number):
    with serving(model, "--workers", "2", "--collect", "kept", cwd=tmp_path) as server:
        pids = workers(server, 2)
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda _: post(server.url).status_code, range(64)))
            assert answers == [200] * 64
            kept = list(
                pool.map(
                    lambda _: (
                        httpx.post(
                            f"{server.url}/feedback?label=7",
                            content=encoded(SHEET),
                            headers={"content-type": "image/png"},
                            timeout=60,
                        ).status_code
                    ),
                    range(40),
                )
            )
        assert kept == [201] * 40
        assert len(list((tmp_path / "kept" / "7").glob("*.png"))) == 40
        server.process.send_signal(number)
        assert server.process.wait(timeout=60) in (-number, 130)
        assert gone(pids)
        assert server.process.stderr.read() == ""


@pytest.mark.slow
def test_a_process_that_is_killed_is_told_of_and_replaced(model):
    with serving(model, "--workers", "2") as server:
        first, second = workers(server, 2)
        os.kill(first, signal.SIGKILL)
        end = time.monotonic() + 60
        while first in children(server.process.pid) or len(workers(server, 2)) < 2:
            assert time.monotonic() < end
        assert set(workers(server, 2)) > {second} - {first}
        assert post(server.url).status_code == 200
        assert server.process.stderr.readline() == (
            "a server process was killed by signal 9; another takes its place\n"
        )


@pytest.mark.slow
def test_processes_end_with_the_one_that_watches_them(model):
    with serving(model, "--workers", "2") as server:
        pids = workers(server, 2)
        assert post(server.url).status_code == 200
        server.process.kill()
        server.process.wait(timeout=60)
        assert gone(pids)


def test_a_number_of_processes_that_is_none_is_one_line(model, tmp_path):
    said = featherweight(*command(model.path, 0)[3:], "--workers", "0", cwd=tmp_path)
    assert said.returncode == 2
    assert said.stderr.startswith("error: --workers: got 0, expected at least 1")
