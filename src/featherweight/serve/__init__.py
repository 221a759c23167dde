"""A web page on which anyone draws a digit, and the HTTP interface behind it.

    app = create_app(Reader("model.onnx"))      # an ASGI application; `featherweight serve` runs it

Everything comes from this server: the page, its script and the interface's documentation. A request may bring 4 MiB
and take 10 seconds, its arrival included.
"""

import asyncio
import base64
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

import fastapi_offline
import numpy as np
from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field

from .. import __version__
from ..image import open_picture, prepare
from ..reader import Reader

MOST_BYTES = 4 * 1024 * 1024  # of a request's body
MOST_SECONDS = 10.0  # of a request
STATIC = Path(__file__).parent / "static"
DOCS = Path(fastapi_offline.__file__).parent / "static"  # Swagger UI, which FastAPI itself takes from a CDN
PICTURES = ("image/png", "image/jpeg", "image/webp", "image/bmp")
RAW = "application/octet-stream"
HEADERS = {
    "Content-Security-Policy":
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-cache",
}


class Map(BaseModel):
    """What one stage makes of the image, each channel stretched to 0 to 255."""

    channels: int
    height: int
    width: int
    pixels: str = Field(description="base64 of channels x height x width bytes")


class Answer(BaseModel):
    """What a picture is read as."""

    label: str | None = Field(description="null where there is no ink")
    confidence: float = Field(ge=0, le=1)
    unsure: bool
    probabilities: list[float] | None = Field(description="one a label of the model, calibrated")
    seen: str | None = Field(description="base64 of the height x width bytes that the network was given")
    maps: list[Map] | None = Field(description="where they were asked for")


class Card(BaseModel):
    """The model's own account of itself."""

    labels: list[str]
    height: int
    width: int
    metadata: dict[str, str]


class Health(BaseModel):
    status: str


class Problem(BaseModel):
    detail: str


async def _body(request: Request) -> bytes:
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > MOST_BYTES:
            raise HTTPException(413, f"got over {MOST_BYTES:,} bytes, expected at most that")
    return bytes(content)


def _bytes(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array, np.uint8).tobytes()).decode()


def _map(maps: np.ndarray) -> Map:
    """maps (channels, height, width) float."""
    least, most = maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True)
    pixels = (maps - least) / np.maximum(most - least, 1e-6) * 255
    return Map(channels=maps.shape[0], height=maps.shape[1], width=maps.shape[2], pixels=_bytes(pixels))


def _answer(reader: Reader, kind: str, content: bytes, maps: bool) -> Answer:
    height, width = reader.shape
    if kind == RAW:
        if len(content) != height * width:
            raise ValueError(f"got {len(content):,} bytes, expected {height * width}, a byte a pixel")
        pixels = np.frombuffer(content, np.uint8).reshape(height, width)
        image = pixels if pixels.any() else None
    else:
        image = prepare(open_picture(content))
    reading = reader.read_prepared([image])[0]
    return Answer(**reading.to_dict(), seen=None if image is None else _bytes(image),
                  maps=[_map(each) for each in reader.maps(image)] if maps and image is not None else None)


def create_app(reader: Reader) -> FastAPI:
    """The application that reads with `reader`."""
    app = FastAPI(title="Featherweight", version=__version__, docs_url=None, redoc_url=None,
                  description="Reads pictures of digits. The network and its accuracy: GET /model.")

    @app.middleware("http")
    async def limited(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        try:
            response = await asyncio.wait_for(call_next(request), MOST_SECONDS)
        except TimeoutError:
            response = Response('{"detail": "the request took too long"}', 408, media_type="application/json")
        response.headers.update(HEADERS)
        return response

    @app.exception_handler(RequestValidationError)
    async def wrong_query(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return JSONResponse({"detail": f"{first['loc'][-1]}: {first['msg']}"}, 422)

    problems: dict[int | str, dict[str, Any]] = {
        status: {"model": Problem, "description": why} for status, why in (
            (408, "It took over 10 seconds"), (413, "The body is over 4 MiB"),
            (415, "The content type is none of those listed"), (422, "No readable picture, or a wrong query"))}
    schema = {"type": "string", "format": "binary"}

    @app.post("/predict", responses=problems, openapi_extra={"requestBody": {
        "required": True, "content": {kind: {"schema": schema} for kind in (*PICTURES, RAW)}}})
    async def predict(request: Request, maps: Annotated[bool, Query(description="whether to return the feature maps "
                                                                    "of every stage")] = False) -> Answer:
        """Read a picture, or height x width raw bytes as the training images are (application/octet-stream)."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in (*PICTURES, RAW):
            raise HTTPException(415, f"got content type {kind or 'none'!r}, expected {', '.join((*PICTURES, RAW))}")
        content = await _body(request)
        try:
            return await run_in_threadpool(_answer, reader, kind, content, maps)
        except ValueError as error:
            raise HTTPException(422, str(error)) from error

    @app.get("/model")
    def model() -> Card:
        """Recipe, contract, validation figure, labels, commit."""
        return Card(labels=reader.labels, height=reader.shape[0], width=reader.shape[1], metadata=reader.card)

    @app.get("/healthz")
    def healthz() -> Health:
        """Whether the server is up."""
        return Health(status="ok")

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(STATIC / "index.html")

    @app.get("/docs", include_in_schema=False)
    def docs() -> FileResponse:
        return FileResponse(STATIC / "docs.html")

    app.mount("/docs/assets", StaticFiles(directory=DOCS), name="docs")
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    return app
