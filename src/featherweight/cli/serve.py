"""The command that serves a page for drawing digits: serve."""

import errno
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from ..pretrained import DEFAULT_MODEL, pretrained
from .base import DONE, app, stderr

if TYPE_CHECKING:
    import socket

    from fastapi import FastAPI

    from ..inference.reader import Reader


@dataclass(frozen=True)
class _Settings:
    """What a process needs to serve: the options of the command."""

    model: str
    collect: str | None
    collect_from_anywhere: bool
    root_path: str
    embed: tuple[str, ...]

    def app(self) -> "FastAPI":
        """Return the application."""
        from ..inference.server import create_app

        return create_app(
            _offer(self.model),
            collect=None if self.collect is None else Path(self.collect),
            collect_from_anywhere=self.collect_from_anywhere,
            root_path=self.root_path,
            embed=self.embed,
        )

    def serve(self, listening: "socket.socket") -> None:
        """Serve the application on a socket."""
        from ..inference.server._connections import serve

        serve(self.app(), listening)


DEFAULT_COLLECTION = "my-digits"


@app.command(name="serve")
def cmd_serve(
    *,
    model: str = DEFAULT_MODEL,
    host: str = "127.0.0.1",
    port: int = 8000,
    workers: int = 1,
    collect: str | None = None,
    root_path: str | None = None,
    allow_embedding: list[str] | None = None,
) -> int:
    """Serve a page for drawing digits, and the HTTP API behind it.

    Parameters
    ----------
    model
        Network that reads until somebody chooses another on the page: the name of a pretrained one,
        a run folder, or an exported file.
    host
        Address to listen on. With 0.0.0.0, other machines on the network can use the server.
    port
        Port to listen on; 0 picks a free one.
    workers
        Number of server processes. Each uses one core and about 100 MB of memory, so several answer
        more requests on a machine with idle cores.
    collect
        Folder for drawings that somebody corrects on the page, sorted by their true label;
        `evaluate --data` reads it. Default: my-digits if the page is used on this machine alone,
        otherwise none.
    root_path
        Path at which a proxy shows the server, such as /digits.
    allow_embedding
        Origin whose pages may show this one in a frame, such as https://example.org, or self. May
        be given several times.
    """
    from ..inference.server import can_write, is_loopback
    from ..inference.server._connections import listen, serve
    from ..inference.server._workers import run_workers

    if not 0 <= port < 65536:
        raise InputError(f"--port: got {port}, expected 0 to 65535")
    if workers < 1:
        raise InputError(f"--workers: got {workers}, expected at least 1")
    asked = collect is not None
    if collect is not None:
        if not collect or not can_write(Path(collect)):
            raise InputError(f"--collect {collect!r}: expected a folder, or one that can be made")
    elif is_loopback(host) and can_write(Path(DEFAULT_COLLECTION)):
        collect = DEFAULT_COLLECTION
    settings = _Settings(model, collect, asked, root_path or "", tuple(allow_embedding or ()))
    app = settings.app()  # here too, so that the command fails if it can't be made
    try:
        listening = listen(host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise InputError(
                f"port {port} of {host} is taken",
                hint=f"featherweight serve --model {shlex.quote(model)} --port 0",
            ) from error
        words = (error.strerror or str(error)).partition(" (")[0]
        raise InputError(f"port {port} of {host}: {words[:1].lower()}{words[1:]}") from error
    with listening:
        stderr.print(f"{_addresses(listening)} (Ctrl-C ends it)", markup=False)
        if workers == 1:
            serve(app, listening)
        else:
            run_workers(workers, settings.serve, listening, partial(stderr.print, markup=False))
    return DONE


def _addresses(listening: "socket.socket") -> str:
    """Return the addresses of the page, the one for this machine first."""
    import socket

    host, port = listening.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        return f"http://127.0.0.1:{port} here, http://{socket.gethostname()}:{port} in the network"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _offer(model: str) -> "dict[str, Reader | Callable[[], Reader]]":
    """Return the models that a server offers by name: the one asked for, and the pretrained ones.

    Another model is named after its recipe or, where a pretrained one has that name, its file or
    folder."""
    from ..inference.reader import Reader

    reader = Reader(model)  # it is loaded at once, so that the command fails if it can't be
    name = model if model in pretrained() else reader.card["recipe"]
    if name in pretrained() and name != model:
        name = Path(model).resolve().name
    others = {other: partial(Reader, other) for other in pretrained() if other != name}
    return {name: reader, **others}
