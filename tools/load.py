"""Load `featherweight serve` with clients that never pause, and print what it answers.

python tools/load.py feather-20k
python tools/load.py feather-20k --workers 2 --requests 100000      # and its memory over these

The clients run in this process, on the same cores as the server; each line says what share of the
processor time was theirs. Linux only: the server's time and memory are read from /proc.
"""

import argparse
import asyncio
import io
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx2 as httpx
import numpy as np
from PIL import Image

START_SECONDS = 60  # within which the server must answer
TICKS = os.sysconf("SC_CLK_TCK")  # of /proc, a second
PAGE = os.sysconf("SC_PAGE_SIZE")


def picture() -> bytes:
    """Return a PNG of a drawing of 280x280 pixels: a seven with soft edges."""
    sheet = np.full((70, 70), 255, np.uint8)
    sheet[14:20, 18:52] = 0
    for y in range(20, 58):
        x = 46 - (y - 20) * 2 // 3
        sheet[y, x : x + 6] = 0
    file = io.BytesIO()
    Image.fromarray(sheet).resize((280, 280), Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()


def pixels() -> bytes:
    """Return the raw bytes of an image of 28x28 pixels: the same seven."""
    small = Image.open(io.BytesIO(picture())).resize((28, 28), Image.Resampling.BOX)
    return (255 - np.asarray(small)).tobytes()


def request(content: bytes, kind: str) -> bytes:
    """Return a whole HTTP request."""
    head = f"POST /predict HTTP/1.1\r\nHost: load\r\nContent-Type: {kind}\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


def start(model: str, workers: int = 1) -> tuple[subprocess.Popen[str], str]:
    """Start `featherweight serve` on a free port; return the process and its URL when it answers.

    Raises httpx.TransportError if it does not answer in time.
    """
    words = ["serve", "--model", model, "--port", "0", "--workers", str(workers)]
    server = subprocess.Popen(
        [sys.executable, "-m", "featherweight", *words], stderr=subprocess.PIPE, text=True
    )
    assert server.stderr is not None
    url = server.stderr.readline().split()[0]
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            httpx.get(f"{url}/healthz")
            return server, url
        except httpx.TransportError:
            if time.monotonic() > end:
                server.kill()
                raise
            time.sleep(0.05)


@dataclass
class Load:
    """What some clients ask for until a time or a number of answers, and how long each took."""

    request: bytes
    until: float
    n: int = 10**9
    latencies: list[float] = field(default_factory=list)

    @property
    def over(self) -> bool:
        """Whether no more is asked for."""
        return time.perf_counter() >= self.until or len(self.latencies) >= self.n


class Client(asyncio.Protocol):
    """A client that sends a request again when it has the whole answer to the last one."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._send()

    def _send(self) -> None:
        self.answer, self.missing = b"", 0
        self.sent = time.perf_counter()
        self.transport.write(self.load.request)

    def data_received(self, data: bytes) -> None:
        """Read an answer, perhaps in parts, and send the next request."""
        if not self.missing:
            self.answer += data
            head = self.answer.find(b"\r\n\r\n")
            if head < 0:
                return
            if not self.answer.startswith(b"HTTP/1.1 200"):
                self.done.set_exception(RuntimeError(self.answer.decode()))
                self.transport.close()
                return
            at = self.answer.index(b"content-length: ") + 16
            length = int(self.answer[at : self.answer.index(b"\r", at)])
            self.missing = head + 4 + length - len(self.answer)
        else:
            self.missing -= len(data)
        if not self.missing:
            self.load.latencies.append(time.perf_counter() - self.sent)
            if self.load.over:
                self.transport.close()
                self.done.set_result(None)
            else:
                self._send()

    def connection_lost(self, error: Exception | None) -> None:
        """Fail unless all has been answered."""
        if not self.done.done():
            self.done.set_exception(error or ConnectionError("the server has closed a connection"))


async def run(url: str, load: Load, clients: int) -> None:
    """Ask from a number of clients at once.

    Raises RuntimeError if an answer is not 200, and ConnectionError if a connection is closed.
    """
    host, port = url.removeprefix("http://").split(":")
    loop = asyncio.get_running_loop()
    made = await asyncio.gather(
        *(loop.create_connection(lambda: Client(load), host, int(port)) for _ in range(clients))
    )
    await asyncio.gather(*(client.done for _, client in made))


def processes(pid: int) -> list[int]:
    """Return a process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process and its children."""
    ticks = 0
    for each in processes(pid):
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS


def memory(pid: int) -> float:
    """Return the resident memory of a process and its children in MB (10^6 bytes)."""
    pages = (int(Path(f"/proc/{each}/statm").read_text().split()[1]) for each in processes(pid))
    return sum(pages) * PAGE / 1e6


def measure(name: str, pid: int, url: str, content: bytes, clients: int, seconds: float) -> None:
    """Print the rate and the latencies of some clients."""
    asyncio.run(run(url, Load(content, time.perf_counter() + min(1.0, seconds)), clients))
    load = Load(content, time.perf_counter() + seconds)
    server, own, begin = cpu_seconds(pid), time.process_time(), time.perf_counter()
    asyncio.run(run(url, load, clients))
    wall = time.perf_counter() - begin
    server, own = cpu_seconds(pid) - server, time.process_time() - own
    p50, p99 = 1000 * np.percentile(load.latencies, (50, 99))
    n = len(load.latencies)
    print(
        f"{name}, {clients} clients: {n / wall:,.0f} answers a second; p50 {p50:.1f} ms, "
        f"p99 {p99:.0f} ms; an answer took {1000 * server / n:.2f} ms of the server's processor "
        f"time and {1000 * own / n:.2f} of the clients' ({100 * own / (own + server):.0f} %)",
        flush=True,
    )


def soak(pid: int, url: str, content: bytes, n: int) -> None:
    """Print the server's memory after a tenth of a number of answers, and after all of them."""
    found = []
    for part in (n // 10, n - n // 10):
        asyncio.run(run(url, Load(content, float("inf"), part), 64))
        found.append(memory(pid))
    print(f"memory: {found[0]:.1f} MB after {n // 10:,} answers, {found[1]:.1f} MB after {n:,}")


def main() -> None:
    """Start the server, load it, and print the rates, the latencies and the memory."""
    words = argparse.ArgumentParser()
    words.add_argument("model")
    words.add_argument("--seconds", type=float, default=10.0, help="for each line")
    words.add_argument("--workers", type=int, default=1, help="server processes")
    words.add_argument("--requests", type=int, default=0, help="over which memory is measured")
    words.add_argument("--clients", type=int, default=200, help="of the last line")
    given = words.parse_args()
    raw, png = request(pixels(), "application/octet-stream"), request(picture(), "image/png")
    server, url = start(given.model, given.workers)
    try:
        for name, content, clients in (
            ("raw 28x28", raw, 1),
            ("raw 28x28", raw, 64),
            ("PNG 280x280", png, 1),
            ("PNG 280x280", png, 64),
            ("PNG 280x280", png, given.clients),
        ):
            measure(name, server.pid, url, content, clients, given.seconds)
        if given.requests:
            soak(server.pid, url, raw, given.requests)
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
