"""Who reaches a server's pages: below a path of another server, in frames of other pages."""

import ipaddress
import re
from collections.abc import Sequence

from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from ...errors import InputError

ORIGIN = re.compile(r"https?://[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?")
ROOT_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)*")


def is_loopback(host: str) -> bool:
    """Return whether an address to listen on is reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # another name
        return False


def frame_ancestors(origins: Sequence[str]) -> str:
    """Return the value of the directive frame-ancestors for the origins that may show the pages.

    Raises InputError for what is no origin: SCHEME://HOST, perhaps with :PORT, or self.
    """
    for origin in origins:
        if origin != "self" and not ORIGIN.fullmatch(origin):
            raise InputError(
                f"--allow-embedding: got {origin!r}, expected one such as https://example.org, "
                "http://localhost:8888 or self"
            )
    return " ".join("'self'" if each == "self" else each for each in origins) or "'none'"


class BelowPath:
    """A middleware for a server that a proxy shows below a path, which it may remove or not.

    Args:
        app: The application.
        root_path: The path, such as /digits.
    """

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self.app, self.root_path = app, root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path, root = scope["path"], self.root_path
        if path == root:  # the page's relative URLs would otherwise begin one level too high
            await RedirectResponse(f"{root}/")(scope, receive, send)
            return
        whole = path if path.startswith(f"{root}/") else root + path
        await self.app({**scope, "root_path": root, "path": whole}, receive, send)


def check_root_path(path: str) -> None:
    """Raise InputError for what is no path of a proxy, such as /digits, and not empty either."""
    if not ROOT_PATH.fullmatch(path):
        raise InputError(
            f"--root-path: got {path!r}, expected one such as /digits, without a slash at its end"
        )
