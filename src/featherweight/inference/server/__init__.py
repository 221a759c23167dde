"""Serve a web page that reads drawn digits, and the HTTP interface behind it.

    app = create_app(Reader("model.onnx"))      # an ASGI application; `featherweight serve` runs it

The page, its script and the documentation of the interface all come from this server; nothing is
loaded from another host. A request may have 4 MiB and take 10 seconds, including its upload.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import fastapi_offline
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles

from ... import __version__
from ..reader import Reader
from ._body import MAX_BYTES as MAX_BYTES
from ._collect import Collection
from ._collect import can_write as can_write
from ._embed import BelowPath, check_root_path, frame_ancestors
from ._embed import is_loopback as is_loopback
from ._interface import TAGS, add_interface
from ._limits import Limits
from ._models import Models

STATIC = Path(__file__).parent / "static"
# Swagger UI, which FastAPI itself loads from a CDN.
DOCS = Path(fastapi_offline.__file__).parent / "static"
POLICY = (
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self' blob: data:",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
)
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


async def _refuse_query(_: Request, error: Exception) -> JSONResponse:
    """Describe a wrong query in one line."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return JSONResponse({"detail": f"{first['loc'][-1]}: {first['msg']}"}, 422)


def _add_pages(app: FastAPI) -> None:
    """Add the routes that browsers show."""

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(STATIC / "index.html")

    @app.api_route("/docs", methods=["GET", "HEAD"], include_in_schema=False)
    def docs() -> FileResponse:
        return FileResponse(STATIC / "docs.html")

    app.mount("/docs/assets", StaticFiles(directory=DOCS), name="docs")
    app.mount("/static", StaticFiles(directory=STATIC), name="static")


def create_app(
    models: Reader | Mapping[str, Reader | Callable[[], Reader]],
    *,
    collect: Path | None = None,
    collect_from_anywhere: bool = True,
    root_path: str = "",
    embed: Sequence[str] = (),
) -> FastAPI:
    """Return an ASGI application that reads pictures.

    Args:
        models: A reader, whose name is its recipe's; or a reader, or a function that loads one, for
            each name. The first is the default.
        collect: Folder for pictures that were read wrong. None keeps none.
        collect_from_anywhere: Whether to keep pictures of a page that another machine shows too.
        root_path: Path at which a proxy shows the server, such as /digits.
        embed: Origins whose pages may show the server's in a frame, such as https://example.org;
            self is the server's own.

    Raises:
        InputError: `root_path` or one of `embed` is none.
    """
    check_root_path(root_path)
    offered = Models({models.card["recipe"]: models} if isinstance(models, Reader) else models)
    app = FastAPI(
        title="Featherweight",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_tags=TAGS,
        description="Reads pictures of digits.\n\n    curl -F file=@photo.jpg URL/predict\n\n"
        "GET /models lists the networks and their accuracy.",
    )
    policy = "; ".join((*POLICY, f"frame-ancestors {frame_ancestors(embed)}"))
    app.add_middleware(Limits, headers={"Content-Security-Policy": policy, **HEADERS})
    app.add_exception_handler(RequestValidationError, _refuse_query)
    collection = None if collect is None else Collection(collect, collect_from_anywhere)
    add_interface(app, offered, collection)
    _add_pages(app)
    if root_path:
        app.add_middleware(BelowPath, root_path=root_path)
    return app
