"""Read digits with an exported file: ONNX Runtime alone, no PyTorch.

reader = Reader("runs/feather-20k-s0-1/model.onnx")
reading = reader.read(open_picture("seven.jpg"))
reading.label, reading.probabilities, reading.seen, reading.unsure      # "7", (10,), (28, 28), False
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image

from ..errors import InputError
from .prepare import prepare_and_count

BATCH = 1000  # images a call at most, so that memory stays bounded


@dataclass(frozen=True)
class Reading:
    """What one picture is read as."""

    label: str | None
    "None where there is no ink; then there are no probabilities either."
    probabilities: np.ndarray | None
    "(classes,) float32, calibrated."
    seen: np.ndarray | None
    "(height, width) uint8, the image that the network was given."
    unsure: bool
    """Whether the confidence is below the one from which at most 1 in 1,000 validation images was read wrong, or
    several digits stand side by side."""
    side_by_side: int = 1
    "Digits beside each other in the picture: of a number, `split_number` has each."

    @property
    def confidence(self) -> float:
        return 0.0 if self.probabilities is None else float(self.probabilities.max())

    def to_dict(self) -> dict[str, Any]:
        """JSON values: label, confidence, unsure, probabilities."""
        return {
            "label": self.label,
            "confidence": self.confidence,
            "unsure": self.unsure,
            "probabilities": None if self.probabilities is None else self.probabilities.tolist(),
        }


class Reader:
    """An exported file, ready to read. Raises ValueError for a file that is none, OSError where it can't be read."""

    def __init__(self, path: str | Path, threads: int = 1) -> None:
        content = Path(path).read_bytes()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads  # one image is too little work for two
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's errors share no class but this
            raise InputError(
                f"{path}: not an exported file, expected a model.onnx as "
                "`featherweight export RUN --format onnx` writes"
            ) from error
        self.card: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        if self.card.get("format") != "featherweight 1":
            raise InputError(
                f"{path}: got an ONNX file of another maker, expected one by featherweight export"
            )
        self.labels = self.card["labels"].split()
        self.sure_from = float(self.card["sure_from"])
        self._temperature = float(self.card["temperature"])
        self._stages = [
            out.name for out in self._session.get_outputs() if out.name.startswith("maps_")
        ]
        self.shape: tuple[int, int] = tuple(self._session.get_inputs()[0].shape[1:])

    def probabilities(self, pixels: np.ndarray) -> np.ndarray:
        """pixels (n, height, width) uint8, as the training images -> calibrated probabilities (n, classes)."""
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[1:] != self.shape:
            raise InputError(
                f"images: got {pixels.dtype} {pixels.shape}, expected uint8 (n, {self.shape[0]}, "
                f"{self.shape[1]})"
            )
        if not len(pixels):
            return np.zeros((0, len(self.labels)), np.float32)
        parts = [
            self._session.run(["log_probabilities"], {"pixels": pixels[i : i + BATCH]})[0]
            for i in range(0, len(pixels), BATCH)
        ]
        # The greatest log-probability is at least -log(classes): its power needs no scaling first.
        odds = np.exp((np.concatenate(parts) if len(parts) > 1 else parts[0]) / self._temperature)
        return np.asarray(odds / odds.sum(1, keepdims=True), np.float32)

    def read(self, picture: Image.Image | np.ndarray) -> Reading:
        """A picture of one digit: of any size, colour and polarity; a (28, 28) MNIST image as it is."""
        return self.read_many([picture])[0]

    def read_many(self, pictures: Sequence[Image.Image | np.ndarray]) -> list[Reading]:
        """A reading a picture, in their order."""
        prepared = [prepare_and_count(picture) for picture in pictures]
        readings = self.read_prepared([image for image, _ in prepared])
        return [
            replace(reading, side_by_side=count, unsure=reading.unsure or count > 1)
            for reading, (_, count) in zip(readings, prepared, strict=True)
        ]

    def read_prepared(self, images: Sequence[np.ndarray | None]) -> list[Reading]:
        """Images (height, width) uint8 as `prepare` and `split_number` give them; None where there was no ink."""
        found = iter(
            self.probabilities(
                np.array([image for image in images if image is not None], np.uint8).reshape(
                    -1, *self.shape
                )
            )
        )
        readings = []
        for image in images:
            if image is None:
                readings.append(Reading(None, None, None, True))
            else:
                row = next(found)
                unsure = bool(row.max() < self.sure_from)
                readings.append(Reading(self.labels[int(row.argmax())], row, image, unsure))
        return readings

    def maps(self, seen: np.ndarray) -> list[np.ndarray]:
        """What each stage makes of one image (height, width) uint8: (channels, h, w) float32 a stage."""
        # A dense network has the image at several offsets from its first maximum on: the first is shown.
        return [maps[0] for maps in self._session.run(self._stages, {"pixels": seen[None]})]
