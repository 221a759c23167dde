"""Serve a web page that reads drawn digits, and the HTTP interface behind it.

    app = create_app(Reader("model.onnx"))      # an ASGI application; `featherweight serve` runs it

The page, its script and the documentation of the interface all come from this server; nothing is
loaded from another host. A request may have 4 MiB and take 10 seconds, including its upload.
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
from python_multipart import FormParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import File, parse_options_header

from ... import __version__
from ...errors import InputError
from ..prepare import MEDIA_TYPES, open_picture
from ..reader import Reader

MAX_BYTES = 4 * 1024 * 1024  # of a request's body
MAX_SECONDS = 10.0  # for a request
STATIC = Path(__file__).parent / "static"
# Swagger UI, which FastAPI itself loads from a CDN.
DOCS = Path(fastapi_offline.__file__).parent / "static"
RAW, FORM = "application/octet-stream", "multipart/form-data"
CONTENT_TYPES = (*MEDIA_TYPES, RAW, FORM)  # of a body
HEADERS = {
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self' blob: data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class FeatureMaps(BaseModel):
    """Feature maps of one stage, each channel scaled to 0 to 255."""

    channels: int
    height: int
    width: int
    pixels: str = Field(description="Base64 of channels x height x width bytes.")


class Prediction(BaseModel):
    """Reading of one picture."""

    label: str | None = Field(
        description="Label of the most probable class; null if the picture has no ink."
    )
    confidence: float = Field(ge=0, le=1, description="Probability of the label.")
    unsure: bool = Field(description="Whether the reading should be checked.")
    probabilities: list[float] | None = Field(
        description="Calibrated probabilities, in the order of the model's labels."
    )
    seen: str | None = Field(
        description="Base64 of the height x width bytes that the network was given."
    )
    maps: list[FeatureMaps] | None = Field(
        description="Feature maps of every stage, if the query asked for them."
    )


class Card(BaseModel):
    """Model card of the exported file."""

    labels: list[str] = Field(description="Labels of the classes.")
    height: int = Field(description="Height of the network's input in pixels.")
    width: int = Field(description="Width of the network's input in pixels.")
    metadata: dict[str, str] = Field(
        description="Recipe, contract, validation result, calibration and commit."
    )


class Health(BaseModel):
    """State of the server."""

    status: str


class Problem(BaseModel):
    """Reason why a request was refused."""

    detail: str


async def _read_body(request: Request) -> bytes:
    """Return the body; raise HTTPException 413 as soon as it exceeds MAX_BYTES."""
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > MAX_BYTES:
            raise HTTPException(413, f"got over {MAX_BYTES:,} bytes, expected at most that many")
    return bytes(content)


def _media_type(content_type: str) -> str:
    """Return the media type of a Content-Type header, without parameters."""
    return content_type.partition(";")[0].strip().lower()


def _form_file(content_type: str, body: bytes) -> bytes:
    """Return the first file of a form, as browsers and `curl -F` send it.

    Raises InputError if there is none.
    """
    files: list[bytes] = []

    def on_file(file: File) -> None:
        file.file_object.seek(0)
        files.append(file.file_object.read())

    _, options = parse_options_header(content_type)
    try:
        parser = FormParser(
            FORM,
            None,
            on_file,
            boundary=options.get(b"boundary"),
            config={"MAX_MEMORY_FILE_SIZE": MAX_BYTES},  # nothing is written to the disk
        )
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise InputError(
            f"got a form that can't be read ({error}), expected one with a file"
        ) from error
    if not files:
        raise InputError(
            "got a form without a file, expected one as `curl -F file=@photo.jpg` sends it"
        )
    return files[0]


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array, np.uint8).tobytes()).decode()


def _scale_maps(maps: np.ndarray) -> FeatureMaps:
    """Scale each of the maps (channels, height, width) to 0 to 255."""
    low, high = maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True)
    pixels = (maps - low) / np.maximum(high - low, 1e-6) * 255
    channels, height, width = maps.shape
    return FeatureMaps(channels=channels, height=height, width=width, pixels=_base64(pixels))


def _predict(reader: Reader, content_type: str, content: bytes, *, maps: bool) -> Prediction:
    """Read the picture in a request's body; raise InputError if there is none."""
    (height, width), media_type = reader.shape, _media_type(content_type)
    if media_type == RAW:
        if len(content) != height * width:
            raise InputError(
                f"got {len(content):,} bytes, expected {height * width}, one for each pixel"
            )
        pixels = np.frombuffer(content, np.uint8).reshape(height, width)
        reading = reader.read_prepared([pixels if pixels.any() else None])[0]
    else:
        file = _form_file(content_type, content) if media_type == FORM else content
        reading = reader.read(open_picture(file))
    seen = reading.seen
    return Prediction(
        **reading.to_dict(),
        seen=None if seen is None else _base64(seen),
        maps=[_scale_maps(each) for each in reader.maps(seen)]
        if maps and seen is not None
        else None,
    )


async def _limit(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """End a request after MAX_SECONDS, and add the security headers to every response."""
    try:
        response = await asyncio.wait_for(call_next(request), MAX_SECONDS)
    except TimeoutError:
        detail = '{"detail": "the request took too long"}'
        response = Response(detail, 408, media_type="application/json")
    response.headers.update(HEADERS)
    return response


async def _refuse_query(_: Request, error: Exception) -> JSONResponse:
    """Describe a wrong query in one line."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return JSONResponse({"detail": f"{first['loc'][-1]}: {first['msg']}"}, 422)


def _document_predict() -> dict[str, Any]:
    """Return what the OpenAPI document says of POST /predict beyond its signature."""
    problems = {
        408: "The request took over 10 seconds.",
        413: "The body has over 4 MiB.",
        415: "The content type is not one of those listed.",
        422: "The body is no readable picture, or the query is wrong.",
    }
    file = {"type": "string", "format": "binary"}
    form = {"type": "object", "required": ["file"], "properties": {"file": file}}
    content = {kind: {"schema": form if kind == FORM else file} for kind in CONTENT_TYPES}
    return {
        "responses": {
            status: {"model": Problem, "description": why} for status, why in problems.items()
        },
        "openapi_extra": {"requestBody": {"required": True, "content": content}},
    }


def _add_interface(app: FastAPI, reader: Reader) -> None:
    """Add the routes that programs call."""

    @app.post("/predict", **_document_predict())
    async def predict(
        request: Request,
        maps: Annotated[
            bool, Query(description="Whether to return the feature maps of every stage.")
        ] = False,
    ) -> Prediction:
        """Read a picture.

        The body is the picture itself, a form with the picture as a file (multipart/form-data), or
        height x width raw bytes in the form of the training images (application/octet-stream).
        """
        content_type = request.headers.get("content-type", "")
        media_type = _media_type(content_type)
        if media_type not in CONTENT_TYPES:
            raise HTTPException(
                415,
                f"got content type {media_type or 'none'!r}, expected {', '.join(CONTENT_TYPES)}",
            )
        content = await _read_body(request)
        try:
            return await run_in_threadpool(_predict, reader, content_type, content, maps=maps)
        except InputError as error:
            raise HTTPException(422, str(error)) from error

    @app.get("/model")
    def model() -> Card:
        """Return the model card: recipe, contract, validation result, labels and commit."""
        height, width = reader.shape
        return Card(labels=reader.labels, height=height, width=width, metadata=reader.card)

    @app.get("/healthz")
    def healthz() -> Health:
        """Return ok if the server is up."""
        return Health(status="ok")


def _add_pages(app: FastAPI) -> None:
    """Add the routes that browsers show."""

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(STATIC / "index.html")

    @app.get("/docs", include_in_schema=False)
    def docs() -> FileResponse:
        return FileResponse(STATIC / "docs.html")

    app.mount("/docs/assets", StaticFiles(directory=DOCS), name="docs")
    app.mount("/static", StaticFiles(directory=STATIC), name="static")


def create_app(reader: Reader) -> FastAPI:
    """Return an ASGI application that reads pictures with `reader`."""
    app = FastAPI(
        title="Featherweight",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        description="Reads pictures of digits. GET /model describes the network and its accuracy.",
    )
    app.middleware("http")(_limit)
    app.add_exception_handler(RequestValidationError, _refuse_query)
    _add_interface(app, reader)
    _add_pages(app)
    return app
