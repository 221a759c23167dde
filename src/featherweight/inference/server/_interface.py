"""The routes that programs call."""

import itertools
import json
import math
import time
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlsplit

import numpy as np
from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.routing import APIRoute
from PIL import Image

from ..._files import reason
from ...errors import InputError, did_you_mean
from .._form import Form
from ..labelled import folder_names
from ..prepare import Digit, Sheet, as_digit, decode, open_header
from ..reader import Reader
from ..reading import Reading, number
from ._answers import (
    Card,
    Health,
    Kept,
    Offer,
    Prediction,
    Problem,
    describe_digit,
    describe_model,
    describe_stage,
)
from ._body import CONTENT_TYPES, FORM, MAX_BYTES, RAW, file_in, media_type_of, read_body
from ._collect import MAX_PICTURE_BYTES, Collection, FullError, open_png
from ._embed import is_loopback
from ._limits import Room
from ._models import Models

TAGS = [
    {"name": "reading", "description": "Read a picture of a digit or of a number."},
    {"name": "models", "description": "The networks that read, and how well they do."},
    {"name": "collecting", "description": "Keep pictures that were read wrong."},
    {"name": "server", "description": "The state of the server."},
]
TOO_MANY = {503: "There are too many requests, or too many large pictures, at once."}
TOO_SLOW = {408: "The request took over 10 seconds."}
NO_MODEL = {404: "The server offers no model of that name."}
BAD_QUERY = {422: "The query is wrong."}


def _raw(content: bytes, form: Form) -> Digit | None:
    """Return the digit in raw bytes, one for each pixel, or None if there is no ink.

    In colour the bytes are those of a red, a green and a blue plane. Raises InputError for another
    number of bytes.
    """
    n = math.prod(form.shape)
    if len(content) != n:
        each = "one for each pixel" + (" of three planes" if len(form.shape) == 3 else "")
        raise InputError(f"got {len(content):,} bytes, expected {n}, {each}")
    pixels = np.frombuffer(content, np.uint8).reshape(form.shape)
    blank = form.reads_ink and not form.light_on_dark(pixels).any()
    return None if blank else as_digit(pixels, form)


@dataclass(frozen=True)
class _Question:
    """What a request asks for: the reading of a picture by a model, and perhaps more."""

    reader: Reader
    model: str
    maps: bool
    digits: bool
    lines: bool
    evidence: bool

    def read_raw(self, content: bytes) -> bytes:
        """Return the JSON of a `Prediction` for raw bytes; raise InputError if they are none."""
        started = time.perf_counter()
        digit = _raw(content, self.reader.form)
        whole = [] if digit is None else [digit]
        lines = [whole] if whole and (self.digits or self.lines) else []
        return self._read(whole, lines, len(whole), started)

    def read_picture(self, picture: Image.Image) -> bytes:
        """Return the same for a picture of which the header is read."""
        started = time.perf_counter()
        sheet = Sheet(decode(picture), self.reader.form)
        lines = sheet.lines(self.reader.sureness) if self.digits or self.lines else []
        whole = sheet.candidates(self.reader.sureness)
        return self._read(whole, lines, sheet.count(self.reader.sureness), started)

    def _read(
        self, whole: list[Digit], lines: list[list[Digit]], side_by_side: int, started: float
    ) -> bytes:
        prepared = time.perf_counter()
        digits = [[digit] for line in lines for digit in line]
        reading, *each = self.reader.read_candidates([whole, *digits])
        reading = reading.counted(side_by_side)
        stages = (
            self.reader.stages(reading.seen) if self.maps and reading.seen is not None else None
        )
        finished = time.perf_counter()
        values = describe_digit(reading, evidence=self.evidence)
        described = [describe_digit(digit, evidence=self.evidence) for digit in each]
        answer = {
            **values,
            "side_by_side": side_by_side,
            "maps": None if stages is None else [describe_stage(stage) for stage in stages],
            "number": number(each) if self.digits else None,
            "digits": described if self.digits and each else None,
            "lines": self._lines(lines, each, described) if self.lines and each else None,
            "model": self.model,
            "milliseconds": {
                "prepare": round(1000 * (prepared - started), 2),
                "network": round(1000 * (finished - prepared), 2),
            },
        }
        return json.dumps(answer, allow_nan=False, separators=(",", ":")).encode()

    @staticmethod
    def _lines(
        lines: list[list[Digit]], readings: list[Reading], described: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """Return the values of a `Line` for each line, of the readings of all their digits."""
        rest = zip(readings, described, strict=True)
        each = [list(itertools.islice(rest, len(line))) for line in lines]
        return [
            {"number": number([reading for reading, _ in line]), "digits": [d for _, d in line]}
            for line in each
        ]


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
    room, routes = Room(), APIRouter(dependencies=[Depends(_refuse_unknown)])
    _add_reading(routes, models, room)
    _add_models(routes, models, collects=collection is not None)
    _add_collecting(routes, models, room, collection)

    @routes.get("/healthz", tags=["server"], responses=_document(BAD_QUERY))
    def healthz() -> Health:
        """Return ok if the server is up."""
        return Health(status="ok")

    app.include_router(routes)


async def _refuse_unknown(request: Request) -> None:
    """Raise HTTPException 422 if the query has a parameter that the route does not know."""
    route = request.scope["route"]
    assert isinstance(route, APIRoute)
    known = [parameter.alias for parameter in route.dependant.query_params]
    for name in request.query_params:
        if name not in known:
            hint = did_you_mean(name, known)
            raise HTTPException(
                422,
                f"{name[:100]!r}: got an unknown parameter, expected {', '.join(known) or 'none'}"
                f"{f'; hint: {hint}' if hint else ''}",
            )
        if len(request.query_params.getlist(name)) > 1:
            raise HTTPException(422, f"{name}: got it several times, expected it once")


def _choice(models: Models, description: str) -> Any:
    """Return the query parameter that chooses a model."""
    return Query(description=description, json_schema_extra={"enum": list(models.names)})


async def _get(models: Models, name: str) -> Reader:
    """Return a model; raise HTTPException 404 if it is not offered."""
    if name not in models.names:
        raise HTTPException(404, f"got model {name!r}, expected one of {', '.join(models.names)}")
    reader = models.loaded(name)
    return await run_sync(models.get, name) if reader is None else reader


def _add_reading(routes: APIRouter, models: Models, room: Room) -> None:
    responses = _document(
        {
            **NO_MODEL,
            **TOO_SLOW,
            413: "The body has over 4 MiB.",
            415: "The content type is not one of those listed.",
            422: "The body is no readable picture, or the query is wrong.",
            **TOO_MANY,
        }
    )

    @routes.post(
        "/predict",
        tags=["reading"],
        response_model=Prediction,  # of the documentation; the answer is made without it, faster
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
        lines: Annotated[
            bool, Query(description="Whether to read each line of writing as a number.")
        ] = False,
        evidence: Annotated[
            bool, Query(description="Whether to return where in the image the evidence lies.")
        ] = False,
        model: Annotated[str, _choice(models, "Name of the model that reads.")] = models.default,
    ) -> Response:
        """Read a picture.

        The body is the picture itself, a form with the picture as a file (multipart/form-data), or
        height x width raw bytes in the form of the training images (application/octet-stream); in
        colour three planes of them, red, green and blue.
        """
        content = await read_body(request, CONTENT_TYPES, MAX_BYTES)
        content_type = request.headers["content-type"]
        reader = await _get(models, model)
        question = _Question(
            reader, model, maps=maps, digits=digits, lines=lines, evidence=evidence
        )
        if (digits or lines) and not reader.form.reads_ink:
            name = "digits" if digits else "lines"
            raise HTTPException(422, f"{name}: {model} reads whole pictures, expected no {name}")
        try:
            if media_type_of(content_type) == RAW:
                # Shorter than the way to a thread and back.
                answer = question.read_raw(content)
            else:
                picture = open_header(file_in(content_type, content))
                async with room.hold(picture) as limiter:
                    answer = await run_sync(question.read_picture, picture, limiter=limiter)
        except InputError as error:
            raise HTTPException(422, str(error)) from error
        return Response(answer, media_type="application/json")


def _add_models(routes: APIRouter, models: Models, *, collects: bool) -> None:
    @routes.get("/models", tags=["models"], responses=_document({**TOO_SLOW, **BAD_QUERY}))
    def offer() -> Offer:
        """List the models, the one that reads if none is asked for, and their accuracy."""
        return Offer(
            default=models.default,
            collects=collects,
            models=[describe_model(name, models.get(name)) for name in models.names],
        )

    @routes.get(
        "/model",
        tags=["models"],
        responses=_document({**NO_MODEL, **TOO_SLOW, **BAD_QUERY}),
    )
    async def card(
        name: Annotated[str, _choice(models, "Name of the model.")] = models.default,
    ) -> Card:
        """Return a model card: recipe, contract, validation result, labels and commit."""
        reader = await _get(models, name)
        kind = reader.form.kind
        return Card(
            labels=reader.labels,
            height=kind.height,
            width=kind.width,
            channels=kind.channels,
            polarity=kind.polarity,
            orientation=kind.orientation,
            reads_ink=reader.form.reads_ink,
            metadata=reader.card,
        )


def _refuse_other_sites(request: Request, collection: Collection) -> None:
    """Raise HTTPException 403 if the page of another site asks to keep a picture.

    A site that has its own name resolve to this machine is another one too, unless pictures are
    taken from anywhere.
    """
    origin, host = request.headers.get("origin"), request.headers.get("host", "")
    foreign = origin is not None and urlsplit(origin).netloc != host
    if foreign or not (collection.from_anywhere or is_loopback(request.url.hostname or "")):
        raise HTTPException(403, "pictures are kept for this server's own page only")


def _add_collecting(
    routes: APIRouter, models: Models, room: Room, collection: Collection | None
) -> None:
    responses = _document(
        {
            403: "The page of another site asks.",
            404: "The server keeps no pictures.",
            **TOO_SLOW,
            413: f"The body has over {MAX_PICTURE_BYTES:,} bytes.",
            415: "The content type is not image/png.",
            422: "The body is no readable PNG file, or the query is wrong.",
            **TOO_MANY,
            507: "There is no room for more pictures.",
        }
    )

    # A page of another site can't send this content type without asking first, and no route allows
    # it.
    @routes.post(
        "/feedback",
        tags=["collecting"],
        status_code=201,
        responses=responses,
        openapi_extra=_document_body(("image/png",)),
    )
    async def feedback(
        request: Request,
        label: Annotated[
            str,
            Query(
                description="What the picture shows: a label, or not-a-digit where the labels are "
                "digits.",
                examples=["7"],
            ),
        ],
    ) -> Kept:
        """Keep a picture that was read wrong, on the disk of whoever runs the server.

        `featherweight evaluate --data FOLDER` measures the accuracy on such pictures.
        """
        if collection is None:
            raise HTTPException(404, "this server keeps no pictures: it runs without --collect")
        _refuse_other_sites(request, collection)
        content = await read_body(request, ("image/png",), MAX_PICTURE_BYTES)

        names = folder_names((await _get(models, models.default)).labels)
        try:
            if label not in names:
                raise InputError(f"label: got {label!r}, expected one of {', '.join(names)}")
            picture = open_png(content)
            async with room.hold(picture) as limiter:
                count = await run_sync(collection.keep, label, picture, limiter=limiter)
            return Kept(label=label, pictures=count)
        except InputError as error:
            raise HTTPException(422, str(error)) from error
        except FullError as error:
            raise HTTPException(507, str(error)) from error
        except OSError as error:
            # Without the path, which is nobody's business.
            why = reason(OSError(error.errno, error.strerror))
            raise HTTPException(507, f"the picture can't be written: {why}") from error
