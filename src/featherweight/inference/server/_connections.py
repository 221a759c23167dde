"""Serve an application on a socket: how many connections there are, and how long each may take.

Example:
    listening = listen("127.0.0.1", 8000)
    serve(create_app(Reader()), listening)          # until SIGINT or SIGTERM

uvicorn itself waits for ever for headers that do not end, and accepts connections until no file
descriptor is left.
"""

import asyncio
import logging
import socket

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

BACKLOG = 2048  # connections that wait while the server is busy
ACCEPTED = 16  # of these at a time, so that their number is known before there are too many
HEADER_SECONDS = 10.0  # until the headers of a request are complete
ANSWER_SECONDS = 60.0  # from then on until the answer is sent
MAX_HEADERS = 64 * 1024  # bytes
RESERVED = 64 + ACCEPTED  # file descriptors that are not connections
SHUTDOWN_SECONDS = 15  # for requests that are being answered when the server is stopped
WARNING_SECONDS = 60.0  # between two warnings
logger = logging.getLogger("uvicorn.error")


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address. Raises OSError if it cannot be had."""
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]  # IPv4 or IPv6
    listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
    # Accepted sockets inherit it. Otherwise the body of an answer waits 40 ms for the client to
    # acknowledge its headers.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def serve(app: ASGIApp, listening: socket.socket) -> None:
    """Serve an application on a socket until SIGINT or SIGTERM, which is then raised again."""
    config = uvicorn.Config(
        app,
        http=_Connection,
        ws="none",
        lifespan="off",
        backlog=ACCEPTED,
        log_level="error",  # a wrong request is the client's business, and would fill the log
        access_log=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    _Server(config).run(sockets=[listening])


def max_connections() -> int:
    """Return how many connections the limit of file descriptors allows."""
    try:
        import resource
    except ImportError:  # Windows, where the limit is that of `select`
        return 512 - RESERVED
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = 65_536 if limit == resource.RLIM_INFINITY else min(limit, 65_536)
    return max(limit - RESERVED, limit // 2)


class _Table(ServerState):
    """The connections, of which there are at most as many as there are file descriptors for."""

    def __init__(self) -> None:
        super().__init__()
        self._most = max_connections()
        self._warned = -WARNING_SECONDS

    def of_ours(self) -> "list[_Connection]":
        """Return all connections."""
        return [each for each in self.connections if isinstance(each, _Connection)]

    def make_room(self, new: "_Connection") -> None:
        """Close the connection that has been idle longest, if a new one is one too many."""
        if len(self.connections) <= self._most:
            return
        idle = [each for each in self.of_ours() if not each.busy]
        oldest = min(idle, key=lambda each: each.since, default=new)
        oldest.transport.abort()
        self.connections.discard(oldest)
        if new.since - self._warned >= WARNING_SECONDS:
            self._warned = new.since
            logger.error(
                "%d connections: there are file descriptors for no more, so the oldest are closed",
                self._most,
            )


class _Connection(HttpToolsProtocol):
    """A connection that knows since when it has been in its state."""

    since = 0.0
    "When it was made, or the last headers were complete, or the last answer was sent."
    n_bytes = 0
    "Bytes of headers that are not complete."

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.since = self.loop.time()
        if isinstance(self.server_state, _Table):
            self.server_state.make_room(self)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.n_bytes = 0 if self.busy else self.n_bytes + len(data)
        if self.n_bytes > MAX_HEADERS:
            self.transport.abort()

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self.since = self.loop.time()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self.since = self.loop.time()

    @property
    def busy(self) -> bool:
        """Whether a request is being received or answered, of which the headers are complete."""
        return self.cycle is not None and not self.cycle.response_complete


class _Server(uvicorn.Server):
    """A server that ends connections which take too long, or are too many."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.server_state = self.table = _Table()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for each in sockets or []:
            each.listen(BACKLOG)  # asyncio has set it to the number that is accepted at a time

    async def on_tick(self, counter: int) -> bool:
        # Ten times a second.
        now = asyncio.get_running_loop().time()
        for each in self.table.of_ours():
            if now - each.since > (ANSWER_SECONDS if each.busy else HEADER_SECONDS):
                each.transport.abort()
        return await super().on_tick(counter)
