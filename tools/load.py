"""Load the server with 200 clients that never pause.

python tools/load.py MODEL [seconds]
"""

import asyncio
import io
import subprocess
import sys
import time

import httpx2 as httpx
import numpy as np
from PIL import Image

CLIENTS = 200
START_SECONDS = 60  # within which the server must answer


def picture() -> bytes:
    """Return a PNG of a sheet of 200x200 pixels with a vertical stroke."""
    sheet = np.full((200, 200), 255, np.uint8)
    sheet[40:160, 90:110] = 0
    file = io.BytesIO()
    Image.fromarray(sheet).save(file, "PNG")
    return file.getvalue()


def start(model: str) -> tuple[subprocess.Popen[str], str]:
    """Start `featherweight serve` on a free port; return the process and its URL when it answers.

    Raises httpx.TransportError if it does not answer in time.
    """
    server = subprocess.Popen(
        [sys.executable, "-m", "featherweight", "serve", "--model", model, "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
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


async def load(url: str, seconds: float) -> np.ndarray:
    """Return the latencies of all responses in seconds.

    Raises httpx.HTTPStatusError if one is not 200.
    """
    content, latencies = picture(), []
    end = time.monotonic() + seconds

    async def client(session: httpx.AsyncClient) -> None:
        while (begin := time.monotonic()) < end:
            answer = await session.post(
                "/predict", content=content, headers={"content-type": "image/png"}
            )
            answer.raise_for_status()
            latencies.append(time.monotonic() - begin)

    limits = httpx.Limits(max_connections=CLIENTS, max_keepalive_connections=CLIENTS)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=60) as session:
        await asyncio.gather(*(client(session) for _ in range(CLIENTS)))
    return np.array(latencies)


def main() -> None:
    """Start the server, load it, and print the rate and the latencies."""
    model, seconds = sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 30.0
    server, url = start(model)
    try:
        found = 1000 * asyncio.run(load(url, seconds))
    finally:
        server.terminate()
        server.wait()
    p50, p99 = np.percentile(found, (50, 99))
    print(
        f"{CLIENTS} clients, {seconds:.0f} s: {len(found):,} responses, no error, "
        f"{len(found) / seconds:,.0f} a second; p50 {p50:.0f} ms, p99 {p99:.0f} ms"
    )


if __name__ == "__main__":
    main()
