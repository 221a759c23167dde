"""The routes that programs call."""

import time
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.concurrency import run_in_threadpool

from ..._files import reason
from ...errors import InputError
from ..prepare import Digit, Sheet, as_digit, open_picture
from ..reader import Reader
from ._answers import (
    Card,
    DigitReading,
    Health,
    Kept,
    Milliseconds,
    Offer,
    Prediction,
    Problem,
    describe_digit,
    describe_model,
    describe_stage,
)
from ._body import CONTENT_TYPES, FORM, MAX_BYTES, RAW, file_in, media_type_of, read_body
from ._collect import MAX_PICTURE_BYTES, Collection, FullError
from ._models import Models

TAGS = [
    {"name": "reading", "description": "Read a picture of a digit or of a number."},
    {"name": "models", "description": "The networks that read, and how well they do."},
    {"name": "collecting", "description": "Keep pictures that were read wrong."},
    {"name": "server", "description": "The state of the server."},
]
TOO_SLOW = {408: "The request took over 10 seconds."}
NO_MODEL = {404: "The server offers no model of that name."}


class _Picture:
    """The picture in a request's body: one of MNIST's form as raw bytes, or a file.

    Raises InputError if it is none.
    """

    def __init__(self, content_type: str, content: bytes, shape: tuple[int, int]) -> None:
        self.sheet: Sheet | None = None
        self.raw: Digit | None = None
        if media_type_of(content_type) != RAW:
            self.sheet = Sheet(open_picture(file_in(content_type, content)))
            self.whole, self.side_by_side = self.sheet.whole(), self.sheet.count()
            return
        height, width = shape
        if len(content) != height * width:
            raise InputError(
                f"got {len(content):,} bytes, expected {height * width}, one for each pixel"
            )
        pixels = np.frombuffer(content, np.uint8).reshape(height, width)
        self.whole = as_digit(pixels) if pixels.any() else None
        self.side_by_side = int(pixels.any())

    def number(self) -> list[Digit]:
        """Return the digits of the number, from left to right."""
        if self.sheet is not None:
            return self.sheet.number()
        return [] if self.whole is None else [self.whole]


def _predict(
    reader: Reader,
    name: str,
    content_type: str,
    content: bytes,
    *,
    maps: bool,
    digits: bool,
    evidence: bool,
) -> Prediction:
    """Read the picture in a request's body; raise InputError if there is none."""
    started = time.perf_counter()
    picture = _Picture(content_type, content, reader.shape)
    number = picture.number() if digits else []
    prepared = time.perf_counter()
    reading, *each = reader.read_digits([picture.whole, *number])
    stages = reader.stages(reading.seen) if maps and reading.seen is not None else None
    finished = time.perf_counter()
    values = describe_digit(reading, evidence=evidence)
    values["unsure"] |= picture.side_by_side > 1
    return Prediction(
        **values,
        side_by_side=picture.side_by_side,
        maps=None if stages is None else [describe_stage(stage) for stage in stages],
        number="".join(digit.label or "" for digit in each) or None,
        digits=[DigitReading(**describe_digit(digit, evidence=evidence)) for digit in each] or None,
        model=name,
        milliseconds=Milliseconds(
            prepare=round(1000 * (prepared - started), 2),
            network=round(1000 * (finished - prepared), 2),
        ),
    )


def _document(problems: dict[int, str]) -> dict[int | str, dict[str, Any]]:
    """Return what the OpenAPI document says of answers that refuse a request."""
    return {status: {"model": Problem, "description": why} for status, why in problems.items()}


def _document_body(kinds: tuple[str, ...]) -> dict[str, Any]:
    """Return what the OpenAPI document says of a body that is a file, perhaps in a form."""
    file = {"type": "string", "format": "binary"}
    form = {"type": "object", "required": ["file"], "properties": {"file": file}}
    content = {kind: {"schema": form if kind == FORM else file} for kind in kinds}
    return {"requestBody": {"required": True, "content": content}}


def add_interface(app: FastAPI, models: Models, collection: Collection | None) -> None:
    """Add the routes that programs call."""
    _add_reading(app, models)
    _add_models(app, models, collects=collection is not None)
    _add_collecting(app, models, collection)

    @app.get("/healthz", tags=["server"])
    def healthz() -> Health:
        """Return ok if the server is up."""
        return Health(status="ok")


def _choice(models: Models, description: str) -> Any:
    """Return the query parameter that chooses a model."""
    return Query(description=description, json_schema_extra={"enum": list(models.names)})


def _get(models: Models, name: str) -> Reader:
    """Return a model; raise HTTPException 404 if it is not offered."""
    if name not in models.names:
        raise HTTPException(404, f"got model {name!r}, expected one of {', '.join(models.names)}")
    return models.get(name)


def _add_reading(app: FastAPI, models: Models) -> None:
    responses = _document(
        {
            **NO_MODEL,
            **TOO_SLOW,
            413: "The body has over 4 MiB.",
            415: "The content type is not one of those listed.",
            422: "The body is no readable picture, or the query is wrong.",
        }
    )

    @app.post(
        "/predict",
        tags=["reading"],
        responses=responses,
        openapi_extra=_document_body(CONTENT_TYPES),
    )
    async def predict(
        request: Request,
        maps: Annotated[
            bool, Query(description="Whether to return the feature maps of every stage.")
        ] = False,
        digits: Annotated[
            bool, Query(description="Whether to read each digit of a number by itself too.")
        ] = False,
        evidence: Annotated[
            bool, Query(description="Whether to return where in the image the evidence lies.")
        ] = False,
        model: Annotated[str, _choice(models, "Name of the model that reads.")] = models.default,
    ) -> Prediction:
        """Read a picture.

        The body is the picture itself, a form with the picture as a file (multipart/form-data), or
        height x width raw bytes in the form of the training images (application/octet-stream).
        """
        content = await read_body(request, CONTENT_TYPES, MAX_BYTES)
        content_type = request.headers["content-type"]

        def read() -> Prediction:
            wanted = {"maps": maps, "digits": digits, "evidence": evidence}
            return _predict(_get(models, model), model, content_type, content, **wanted)

        try:
            return await run_in_threadpool(read)
        except InputError as error:
            raise HTTPException(422, str(error)) from error


def _add_models(app: FastAPI, models: Models, *, collects: bool) -> None:
    @app.get("/models", tags=["models"], responses=_document(TOO_SLOW))
    def offer() -> Offer:
        """List the models, the one that reads if none is asked for, and their accuracy."""
        return Offer(
            default=models.default,
            collects=collects,
            models=[describe_model(name, models.get(name)) for name in models.names],
        )

    @app.get(
        "/model",
        tags=["models"],
        responses=_document({**NO_MODEL, **TOO_SLOW, 422: "The query is wrong."}),
    )
    def card(
        name: Annotated[str, _choice(models, "Name of the model.")] = models.default,
    ) -> Card:
        """Return a model card: recipe, contract, validation result, labels and commit."""
        reader = _get(models, name)
        height, width = reader.shape
        return Card(labels=reader.labels, height=height, width=width, metadata=reader.card)


def _add_collecting(app: FastAPI, models: Models, collection: Collection | None) -> None:
    responses = _document(
        {
            404: "The server keeps no pictures.",
            **TOO_SLOW,
            413: f"The body has over {MAX_PICTURE_BYTES:,} bytes.",
            415: "The content type is not image/png.",
            422: "The body is no readable PNG file, or there is no such label.",
            507: "There is no room for more pictures.",
        }
    )

    # A page of another site can't send this content type without asking first, and no route allows
    # it.
    @app.post(
        "/feedback",
        tags=["collecting"],
        status_code=201,
        responses=responses,
        openapi_extra=_document_body(("image/png",)),
    )
    async def feedback(
        request: Request,
        label: Annotated[str, Query(description="What the picture shows.", examples=["7"])],
    ) -> Kept:
        """Keep a picture that was read wrong, on the disk of whoever runs the server.

        `featherweight evaluate --data FOLDER` measures the accuracy on such pictures.
        """
        if collection is None:
            raise HTTPException(404, "this server keeps no pictures: it runs without --collect")
        content = await read_body(request, ("image/png",), MAX_PICTURE_BYTES)

        def keep() -> int:
            labels = models.get(models.default).labels
            if label not in labels:
                raise InputError(f"label: got {label!r}, expected one of {', '.join(labels)}")
            return collection.keep(label, content)

        try:
            return Kept(label=label, pictures=await run_in_threadpool(keep))
        except InputError as error:
            raise HTTPException(422, str(error)) from error
        except FullError as error:
            raise HTTPException(507, str(error)) from error
        except OSError as error:
            # Without the path, which is nobody's business.
            why = reason(OSError(error.errno, error.strerror))
            raise HTTPException(507, f"the picture can't be written: {why}") from error
