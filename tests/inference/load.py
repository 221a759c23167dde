"""Load the server with 200 clients that never pause.

python tests/inference/load.py MODEL.onnx [seconds]
"""

import asyncio
import sys
import time
from pathlib import Path

import httpx2 as httpx
import numpy as np
from helpers import SHEET, Server, encoded

CLIENTS = 200


async def load(url, seconds):
    """Return the latencies of all responses in seconds; raise if one is not 200."""
    content, latencies = encoded(SHEET), []
    end = time.monotonic() + seconds

    async def client(session):
        while (start := time.monotonic()) < end:
            answer = await session.post(
                "/predict", content=content, headers={"content-type": "image/png"}
            )
            answer.raise_for_status()
            latencies.append(time.monotonic() - start)

    limits = httpx.Limits(max_connections=CLIENTS, max_keepalive_connections=CLIENTS)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=60) as session:
        await asyncio.gather(*(client(session) for _ in range(CLIENTS)))
    return np.array(latencies)


def main():
    model, seconds = Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 30.0
    server = Server(model)
    try:
        found = 1000 * asyncio.run(load(server.url, seconds))
    finally:
        server.stop()
    p50, p99 = np.percentile(found, (50, 99))
    print(
        f"{CLIENTS} clients, {seconds:.0f} s: {len(found):,} responses, no error, "
        f"{len(found) / seconds:,.0f} a second; p50 {p50:.0f} ms, p99 {p99:.0f} ms"
    )


if __name__ == "__main__":
    main()
