"""What one request, and all of them together, may take of the server: time and memory.

A request may take MAX_SECONDS until its answer begins. The bodies that are held at any moment may
have MAX_HELD bytes, and the large pictures that are decoded at once MAX_DECODED samples: the memory
of the server stays bounded whatever is sent, and further requests wait or are refused with 503.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from anyio import CapacityLimiter
from fastapi import HTTPException
from fastapi.responses import JSONResponse
from PIL import Image
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_SECONDS = 10.0  # for a request
MAX_HELD = 256 * 1024 * 1024  # bytes of all bodies
# Samples (pixels times channels) of the pictures that are decoded at once; each takes 1 to 3 bytes.
# It is one picture of the largest size with transparency.
MAX_DECODED = 64_000_000
LARGE = 4_000_000  # samples of a picture above which it is counted
MAX_WAITING = 16  # large pictures that wait for room
THREADS = 2  # that decode: Python runs one at a time, and more would only be in its way
BUSY = "the server is busy; expected fewer requests at once"


class Limits:
    """A middleware that ends a request after MAX_SECONDS and adds headers to every response.

    Args:
        app: The application.
        headers: Names and values.
    """

    def __init__(self, app: ASGIApp, headers: Mapping[str, str]) -> None:
        self.app = app
        self.headers = [(name.lower().encode(), text.encode()) for name, text in headers.items()]
        self.held = 0  # bytes of all bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        held = 0

        async def receive_counted() -> Message:
            nonlocal held
            message = await receive()
            n_bytes = len(message.get("body", b""))
            held += n_bytes
            self.held += n_bytes
            if self.held > MAX_HELD:
                raise HTTPException(503, BUSY)
            return message

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                deadline.reschedule(None)  # how fast it is sent depends on the client
                message["headers"] = [*message.get("headers", ()), *self.headers]
            await send(message)

        try:
            async with asyncio.timeout(MAX_SECONDS) as deadline:
                await self.app(scope, receive_counted, send_with_headers)
        except TimeoutError:
            if not deadline.expired():
                raise
            late = JSONResponse({"detail": "the request took too long"}, 408)
            late.raw_headers.extend(self.headers)
            await late(scope, receive, send)
        finally:
            self.held -= held


class Room:
    """Threads that decode pictures, and room for large ones: first come, first served."""

    def __init__(self) -> None:
        self._used = 0
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()
        # Large pictures have threads of their own, so that small ones need not wait for them.
        self._small, self._large = CapacityLimiter(THREADS), CapacityLimiter(THREADS)

    @asynccontextmanager
    async def hold(self, picture: Image.Image) -> AsyncIterator[CapacityLimiter]:
        """Wait for room to decode a picture, and return the threads that may do it.

        Raises HTTPException 503 if it is large and MAX_WAITING wait already.
        """
        # What has one channel takes as much: some files are decoded as if they had more.
        n_samples = picture.width * picture.height * max(3, len(picture.getbands()))
        if n_samples <= LARGE:
            yield self._small
            return
        if self._waiting or self._used + n_samples > MAX_DECODED:
            await self._wait(n_samples)
        else:
            self._used += n_samples
        try:
            yield self._large
        finally:
            self._free(n_samples)

    async def _wait(self, n_samples: int) -> None:
        if len(self._waiting) >= MAX_WAITING:
            raise HTTPException(503, BUSY)
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((turn, n_samples))
        try:
            await turn
        except asyncio.CancelledError:  # the request took too long, or its client is gone
            if (turn, n_samples) in self._waiting:
                self._waiting.remove((turn, n_samples))
            else:
                self._free(n_samples)
            raise

    def _free(self, n_samples: int) -> None:
        self._used -= n_samples
        while self._waiting and self._used + self._waiting[0][1] <= MAX_DECODED:
            turn, wanted = self._waiting.popleft()
            self._used += wanted
            turn.set_result(None)
