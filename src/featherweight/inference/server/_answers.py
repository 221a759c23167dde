"""What the interface answers, as data models that its documentation is made of."""

import base64
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, Field

from ..reader import Reader, Reading
from ..reading import Stage

Sides = tuple[float, float, float, float]


class Filters(BaseModel):
    """Filters of one stage."""

    inputs: int = Field(description="Number of channels of the stage before.", examples=[1])
    height: int = Field(examples=[3])
    width: int = Field(examples=[3])
    values: str = Field(
        description="Base64 of channels x inputs x height x width little-endian float32."
    )


class FeatureMaps(BaseModel):
    """Feature maps of one stage, all of its channels scaled to 0 to 255 by one range."""

    channels: int = Field(examples=[32])
    height: int = Field(examples=[4])
    width: int = Field(examples=[4])
    low: float = Field(description="Value of byte 0.", examples=[-0.375])
    high: float = Field(description="Value of byte 255.", examples=[4.2])
    pixels: str = Field(description="Base64 of channels x height x width bytes.")
    order: list[int] = Field(
        description="The channels, those that decided most first; without contributions, those "
        "that vary most over the image."
    )
    contributions: list[float] | None = Field(
        description="What each channel adds to the evidence's difference; the rest of it is the "
        "difference of two biases. Null except for the last stage, and if there is no label."
    )
    filters: Filters | None = Field(description="Null if they are not known.")


class Evidence(BaseModel):
    """What each place of the image adds to the first label's lead over the second. It is exact."""

    first: str = Field(description="The most probable label.", examples=["7"])
    second: str = Field(description="The second most probable label.", examples=["1"])
    difference: float = Field(
        description="Logit of the first label less that of the second.", examples=[5.1]
    )
    extent: Sides = Field(
        description="Sides of the grid (left, top, right, bottom) in pixels of what the network "
        "saw. A place lies at the centre of the part of the image that it depends on.",
        examples=[(9.5, 9.5, 17.5, 17.5)],
    )
    field: tuple[float, float] = Field(
        description="Width and height of that part in pixels.", examples=[(22, 22)]
    )
    values: list[list[float]] = Field(
        description="A row of numbers for each row of places. They sum to the difference."
    )


class DigitReading(BaseModel):
    """Reading of one digit."""

    label: str | None = Field(
        description="The most probable label; null if nothing is read.", examples=["7"]
    )
    reason: Literal["no ink", "not a digit", "several digits"] | None = Field(
        description="Why nothing is read; null where there is a label.", examples=[None]
    )
    confidence: float = Field(
        ge=0, le=1, description="Probability of the most probable label.", examples=[0.998]
    )
    unsure: bool = Field(description="Whether the reading should be checked.", examples=[False])
    doubts: list[str] = Field(
        description="What makes the preparation of the picture doubtful.",
        examples=[["lines removed"]],
    )
    probabilities: list[float] | None = Field(
        description="Calibrated probabilities, in the order of the model's labels."
    )
    seen: str | None = Field(
        description="Base64 of the height x width bytes that the network was given; in colour of "
        "three planes, red, green and blue."
    )
    box: Sides | None = Field(
        description="Sides of the ink (left, top, right, bottom) as fractions of the upright "
        "picture.",
        examples=[(0.25, 0.1, 0.75, 0.9)],
    )
    frame: Sides | None = Field(
        description="Sides of what the network saw, likewise; they may lie outside of the picture.",
        examples=[(0.0, -0.05, 1.0, 1.05)],
    )
    evidence: Evidence | None = Field(
        description="Why this label and not the second, if the query asked for it. Null if there "
        "is no label, or if the network's head is not a mean and a linear layer."
    )


class Milliseconds(BaseModel):
    """Time that an answer took, without the transfer."""

    prepare: float = Field(description="To decode the picture and find its ink.", examples=[2.1])
    network: float = Field(description="To run the network.", examples=[0.4])


class Line(BaseModel):
    """Reading of a line of writing."""

    number: str = Field(description="The number that its digits make.", examples=["1905"])
    digits: list[DigitReading] = Field(description="Its digits from left to right.")


class Prediction(DigitReading):
    """Reading of one picture."""

    side_by_side: int = Field(
        description="Number of digits that stand side by side; 0 without ink.", examples=[1]
    )
    maps: list[FeatureMaps] | None = Field(
        description="Feature maps of every stage, if the query asked for them."
    )
    number: str | None = Field(
        description="The number that the digits make, if the query asked for them.",
        examples=["1905"],
    )
    digits: list[DigitReading] | None = Field(
        description="The digits of the number, line by line from left to right, if the query asked "
        "for them."
    )
    lines: list[Line] | None = Field(
        description="The lines of writing from top to bottom, if the query asked for them; null "
        "without ink."
    )
    model: str = Field(description="Name of the model that read.", examples=["feather-20k"])
    milliseconds: Milliseconds


class Model(BaseModel):
    """A model that the server offers."""

    name: str = Field(examples=["feather-20k"])
    parameters: int = Field(examples=[19650])
    bytes: int = Field(description="Size of its file.", examples=[84439])
    validation_correct: int = Field(description="Validation images read right.", examples=[9962])
    validation_total: int = Field(examples=[10000])
    labels: list[str] = Field(examples=[[str(digit) for digit in range(10)]])


class Offer(BaseModel):
    """The models of the server."""

    default: str = Field(
        description="Name of the model that reads if none is asked for.", examples=["feather-20k"]
    )
    collects: bool = Field(description="Whether the server keeps pictures that were read wrong.")
    models: list[Model]


class Card(BaseModel):
    """Model card of an exported file."""

    labels: list[str] = Field(description="Labels of the classes.")
    height: int = Field(description="Height of the network's input in pixels.", examples=[28])
    width: int = Field(description="Width of the network's input in pixels.", examples=[28])
    channels: int = Field(description="1 for grey images, 3 for colour.", examples=[1])
    polarity: str = Field(
        description="light on dark or dark on light, as ink on paper, or natural.",
        examples=["light on dark"],
    )
    orientation: str = Field(
        description="upright, or transposed: rows and columns of the network's input are "
        "exchanged.",
        examples=["upright"],
    )
    reads_ink: bool = Field(
        description="Whether the network reads ink, such as a digit; if not, it reads whole "
        "pictures."
    )
    metadata: dict[str, str] = Field(
        description="Recipe, contract, validation result, calibration and commit."
    )


class Kept(BaseModel):
    """A picture that was kept."""

    label: str = Field(examples=["7"])
    pictures: int = Field(description="Number of pictures kept so far.", examples=[12])


class Health(BaseModel):
    """State of the server."""

    status: str = Field(examples=["ok"])


class Problem(BaseModel):
    """Reason why a request was refused."""

    detail: str = Field(
        examples=[
            "picture: got no readable image, expected one of PNG, JPEG, WEBP, BMP, GIF, TIFF, PPM"
        ]
    )


def describe_digit(reading: Reading, *, evidence: bool) -> dict[str, Any]:
    """Return the values of a `DigitReading`."""
    why = reading.evidence if evidence else None
    return {
        **reading.to_dict(),
        "seen": None if reading.seen is None else _base64(reading.seen, "u1"),
        "box": reading.box,
        "frame": reading.frame,
        "evidence": None if why is None else why.to_dict(),
    }


def describe_stage(stage: Stage) -> dict[str, Any]:
    """Return the values of `FeatureMaps`: the maps of a stage scaled to 0 to 255 by one range."""
    low, high = float(stage.maps.min()), float(stage.maps.max())
    pixels = np.rint((stage.maps - low) * (255 / max(high - low, 1e-6)))
    channels, height, width = stage.maps.shape
    filters = stage.filters
    return {
        "channels": channels,
        "height": height,
        "width": width,
        "low": low,
        "high": high,
        "pixels": _base64(pixels, "u1"),
        "order": stage.order(),
        "contributions": None if stage.contributions is None else stage.contributions.tolist(),
        "filters": None
        if filters is None
        else {
            "inputs": filters.shape[1],
            "height": filters.shape[2],
            "width": filters.shape[3],
            "values": _base64(filters, "<f4"),
        },
    }


def describe_model(name: str, reader: Reader) -> Model:
    """Return what a list of models says of one."""
    return Model(
        name=name,
        parameters=int(reader.card["parameters"]),
        bytes=reader.size,
        validation_correct=int(reader.card["validation_correct"]),
        validation_total=int(reader.card["validation_total"]),
        labels=reader.labels,
    )


def _base64(array: np.ndarray, dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(array, dtype).tobytes()).decode()
