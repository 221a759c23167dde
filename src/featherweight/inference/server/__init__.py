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
from python_multipart import FormParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import File, parse_options_header

from ... import __version__
from ...errors import InputError
from ..prepare import MEDIA_TYPES, open_picture
from ..reader import Reader

MOST_BYTES = 4 * 1024 * 1024  # of a request's body
MOST_SECONDS = 10.0  # of a request
STATIC = Path(__file__).parent / "static"
DOCS = (
    Path(fastapi_offline.__file__).parent / "static"
)  # Swagger UI, which FastAPI itself takes from a CDN
RAW, FORM = "application/octet-stream", "multipart/form-data"
KINDS = (*MEDIA_TYPES, RAW, FORM)  # of a body
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
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
    seen: str | None = Field(
        description="base64 of the height x width bytes that the network was given"
    )
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


def _kind(content_type: str) -> str:
    """The media type without its parameters."""
    return content_type.partition(";")[0].strip().lower()


def _file(content_type: str, body: bytes) -> bytes:
    """The first file of a form, as browsers and `curl -F` send one; ValueError where there is none."""
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
            config={"MAX_MEMORY_FILE_SIZE": MOST_BYTES},
        )  # so never a file on the disk
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


def _bytes(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array, np.uint8).tobytes()).decode()


def _map(maps: np.ndarray) -> Map:
    """maps (channels, height, width) float."""
    least, most = maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True)
    pixels = (maps - least) / np.maximum(most - least, 1e-6) * 255
    return Map(
        channels=maps.shape[0], height=maps.shape[1], width=maps.shape[2], pixels=_bytes(pixels)
    )


def _answer(reader: Reader, content_type: str, content: bytes, maps: bool) -> Answer:
    (height, width), kind = reader.shape, _kind(content_type)
    if kind == RAW:
        if len(content) != height * width:
            raise InputError(
                f"got {len(content):,} bytes, expected {height * width}, a byte a pixel"
            )
        pixels = np.frombuffer(content, np.uint8).reshape(height, width)
        reading = reader.read_prepared([pixels if pixels.any() else None])[0]
    else:
        reading = reader.read(
            open_picture(_file(content_type, content) if kind == FORM else content)
        )
    seen = reading.seen
    return Answer(
        **reading.to_dict(),
        seen=None if seen is None else _bytes(seen),
        maps=[_map(each) for each in reader.maps(seen)] if maps and seen is not None else None,
    )


def create_app(reader: Reader) -> FastAPI:
    """The application that reads with `reader`."""
    app = FastAPI(
        title="Featherweight",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        description="Reads pictures of digits. The network and its accuracy: GET /model.",
    )

    @app.middleware("http")
    async def limited(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        try:
            response = await asyncio.wait_for(call_next(request), MOST_SECONDS)
        except TimeoutError:
            response = Response(
                '{"detail": "the request took too long"}', 408, media_type="application/json"
            )
        response.headers.update(HEADERS)
        return response

    @app.exception_handler(RequestValidationError)
    async def wrong_query(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return JSONResponse({"detail": f"{first['loc'][-1]}: {first['msg']}"}, 422)

    problems: dict[int | str, dict[str, Any]] = {
        status: {"model": Problem, "description": why}
        for status, why in (
            (408, "It took over 10 seconds"),
            (413, "The body is over 4 MiB"),
            (415, "The content type is none of those listed"),
            (422, "No readable picture, or a wrong query"),
        )
    }
    file = {"type": "string", "format": "binary"}
    form = {"type": "object", "required": ["file"], "properties": {"file": file}}

    @app.post(
        "/predict",
        responses=problems,
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {kind: {"schema": form if kind == FORM else file} for kind in KINDS},
            }
        },
    )
    async def predict(
        request: Request,
        maps: Annotated[
            bool, Query(description="whether to return the feature maps of every stage")
        ] = False,
    ) -> Answer:
        """Read a picture, by itself or as the file of a form (multipart/form-data), or height x width raw bytes as
        the training images are (application/octet-stream)."""
        content_type = request.headers.get("content-type", "")
        kind = _kind(content_type)
        if kind not in KINDS:
            raise HTTPException(
                415, f"got content type {kind or 'none'!r}, expected {', '.join(KINDS)}"
            )
        content = await _body(request)
        try:
            return await run_in_threadpool(_answer, reader, content_type, content, maps)
        except ValueError as error:
            raise HTTPException(422, str(error)) from error

    @app.get("/model")
    def model() -> Card:
        """Recipe, contract, validation figure, labels, commit."""
        return Card(
            labels=reader.labels,
            height=reader.shape[0],
            width=reader.shape[1],
            metadata=reader.card,
        )

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
