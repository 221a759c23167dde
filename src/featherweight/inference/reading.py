"""The result of reading a picture, and why the network read it so.

Example:
    reading = Reader("model.onnx").read("photo.jpg")
    reading.label, reading.confidence           # "7", 0.998
    reading.evidence.values.sum()               # reading.evidence.difference
"""

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from ._fit import Box
from ._picture import FIRST, SECOND, evidence_picture, large

# Why nothing is read.
NO_INK = "no ink"
NOT_A_DIGIT = "not a digit"
SEVERAL_DIGITS = "several digits"
LEAST_SHOWN = 0.0005  # a probability that shows as 0.1 %; the bars of smaller ones are pale


@dataclass(frozen=True, eq=False)
class Evidence:
    """What each place of the image adds to the most probable class's lead over the second.

    It is exact: the head of the network is a mean over places and a linear layer, which can be
    exchanged, so that each place has logits of its own (class activation mapping, Zhou et al.
    2016).
    """

    first: str
    "Label of the most probable class."
    second: str
    "Label of the second most probable class."
    difference: float
    "The first class's logit less the second's."
    values: np.ndarray
    "Part of the difference that each place adds, (rows, columns) float32. They sum to it."
    extent: Box
    """Sides of that grid (left, top, right, bottom) in pixels of `Reading.seen`. A place lies at
    the centre of the part of the image that it depends on."""
    field: tuple[float, float]
    "Width and height of that part in pixels."

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "first": self.first,
            "second": self.second,
            "difference": self.difference,
            "extent": list(self.extent),
            "field": list(self.field),
            "values": self.values.tolist(),
        }


@dataclass(frozen=True, eq=False)
class Stage:
    """What a stage of the network computes for one image."""

    maps: np.ndarray
    "Feature maps (channels, height, width) float32."
    filters: np.ndarray | None
    "Filters (channels, inputs, height, width) float32, scaled as batch norm does, if known."
    contributions: np.ndarray | None = None
    """Part of `Evidence.difference` that each channel adds, (channels,) float32; the difference of
    the two biases is the rest. Of the last stage only, if the image is read as a digit."""

    def order(self) -> list[int]:
        """Return the channels, those that decide most first.

        Of stages without contributions these are the channels that vary most over the image.
        """
        weight = self.maps.std((1, 2)) if self.contributions is None else abs(self.contributions)
        return [int(channel) for channel in np.argsort(-weight, kind="stable")]


@dataclass(frozen=True, repr=False)
class Reading:
    """The result of reading one picture."""

    label: str | None
    "Label of the most probable class, or None if nothing is read, for which there is a `reason`."
    probabilities: np.ndarray | None
    "Calibrated probabilities (classes,) float32, or None if the picture has no ink."
    seen: np.ndarray | None
    """Image (height, width) uint8 that the network was given, (3, height, width) in colour, or None
    if the picture has no ink."""
    unsure: bool
    """Whether the reading should be checked: nothing is read, the confidence is below the reader's
    `sure_from`, or the preparation of the picture is doubtful."""
    side_by_side: int = 1
    "Number of digits side by side, 0 without ink. `Reader.read_number` reads each of them."
    labels: tuple[str, ...] = ()
    "Labels of all classes, in the order of the probabilities."
    box: Box | None = None
    """Sides of the ink (left, top, right, bottom) as fractions of the upright picture. None without
    ink, if the network reads whole pictures, or if the picture is not known."""
    frame: Box | None = None
    "Sides of `seen` likewise, which may lie outside of the picture."
    evidence: Evidence | None = None
    """Why the network says this and not the second most probable label. None where there is no
    label, or if the network's head is not a mean and a linear layer."""
    reason: str | None = None
    """Why nothing is read: NO_INK, NOT_A_DIGIT or SEVERAL_DIGITS. None where there is a label."""
    doubts: tuple[str, ...] = ()
    """What makes the preparation of the picture doubtful, in plain words, such as "lines removed".
    Not empty: the reading is unsure."""

    @property
    def confidence(self) -> float:
        """Return the probability of the most probable class; 0 if the picture has no ink."""
        return 0.0 if self.probabilities is None else float(self.probabilities.max())

    def counted(self, side_by_side: int) -> "Reading":
        """Return the reading of a picture in which so many digits stand side by side."""
        if side_by_side < 2:
            return replace(self, side_by_side=side_by_side)
        return replace(
            self,
            label=None,
            side_by_side=side_by_side,
            unsure=True,
            evidence=None,
            reason=SEVERAL_DIGITS,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return label, reason, confidence, unsure, doubts and probabilities as JSON values."""
        return {
            "label": self.label,
            "reason": self.reason,
            "confidence": self.confidence,
            "unsure": self.unsure,
            "doubts": list(self.doubts),
            "probabilities": None if self.probabilities is None else self.probabilities.tolist(),
        }

    def __repr__(self) -> str:
        """Return one line, such as `7 (99.8 %)`, `no ink` or `several digits (3)`."""
        if self.label is None:
            count = f" ({self.side_by_side})" if self.reason == SEVERAL_DIGITS else ""
            return f"{self.reason or NO_INK}{count}"
        doubt = ", unsure" if self.unsure else ""
        return f"{self.label} ({100 * self.confidence:.1f} %{doubt})"

    def _repr_html_(self) -> str:
        """Return the reading for a notebook: what the network saw, why it says so, and bars.

        The pictures are inline, enlarged without smoothing.
        """
        head = f'<div style="font-size: 120%"><b>{escape(repr(self))}</b></div>'
        if self.seen is None or self.probabilities is None:
            return head
        pictures = _figure(large(self.seen), "what the network saw")
        if self.evidence is not None:
            first, second = escape(self.evidence.first), escape(self.evidence.second)
            pictures += _figure(
                evidence_picture(self.seen, self.evidence),
                f'why: for <b style="color: {FIRST}">{first}</b>, '
                f'for <b style="color: {SECOND}">{second}</b>',
            )
        names = self.labels or tuple(str(k) for k in range(len(self.probabilities)))
        order = self.probabilities.argsort()[::-1]
        # Where nothing is read, no label stands out.
        colours = {} if self.label is None else {int(order[0]): FIRST, int(order[1]): SECOND}
        bars = "".join(
            f'<div style="display: flex; gap: 8px; align-items: center'
            f'{"" if k in colours and p >= LEAST_SHOWN else "; opacity: 0.55"}">'
            f'<span style="width: 3em; text-align: right">{escape(name)}</span>'
            f'<span style="width: 150px; background: #8883"><span style="display: block; '
            f'height: 8px; width: {100 * p:.1f}%; background: {colours.get(k, "#888")}"></span>'
            f"</span><span>{100 * p:.1f} %</span></div>"
            for k, (name, p) in enumerate(zip(names, self.probabilities.tolist(), strict=True))
        )
        return (
            f'{head}<div style="display: flex; flex-wrap: wrap; gap: 16px; align-items: center">'
            f'{pictures}<div style="font-size: 85%; line-height: 1.3">{bars}</div></div>'
        )


def are_digits(labels: Sequence[str]) -> bool:
    """Return whether all labels are digits."""
    return all(len(label) == 1 and label.isdecimal() for label in labels)


def number(digits: Sequence[Reading]) -> str | None:
    """Return the number that digits make, with a ? for each that is not read; None of no digits."""
    return "".join(digit.label or "?" for digit in digits) or None


def _figure(picture: Image.Image, caption: str) -> str:
    """Return an inline picture with a caption, which is HTML."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    words = re.sub("<.*?>", "", caption)
    return (
        f'<figure style="margin: 0"><img alt="{words}" width="{picture.width}" '
        f'height="{picture.height}" style="image-rendering: pixelated" '
        f'src="data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}">'
        f'<figcaption style="font-size: 85%">{caption}</figcaption></figure>'
    )
