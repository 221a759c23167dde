"""Read digits with an exported file. This uses ONNX Runtime; PyTorch is not needed.

Example:
    reader = Reader()                           # feather-20k, which comes with the package
    reader = Reader("runs/feather-20k-s0-1")    # another name, a run folder, or an exported file
    reading = reader.read("photo.jpg")
    reading.label, reading.confidence           # "7", 0.998
"""

import base64
import io
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime
from PIL import Image

from .._format import EXPORT_FORMAT
from ..errors import InputError
from ..pretrained import DEFAULT_MODEL, find_pretrained, pretrained
from .prepare import PictureSource, prepare_and_count

MAX_BATCH = 1000  # images in one call of ONNX Runtime; it bounds the memory for activations
ENLARGED = 4  # screen pixels of a network's pixel in a notebook


class RunFolder(Protocol):
    """Any object that has the path of a run folder, such as `featherweight.run.Run`."""

    @property
    def path(self) -> Path:
        """Return the run folder."""


@dataclass(frozen=True, repr=False)
class Reading:
    """The result of reading one picture."""

    label: str | None
    "Label of the most probable class, or None if the picture has no ink."
    probabilities: np.ndarray | None
    "Calibrated probabilities (classes,) float32, or None if the picture has no ink."
    seen: np.ndarray | None
    "Image (height, width) uint8 that the network was given, or None if the picture has no ink."
    unsure: bool
    """Whether the reading should be checked: the confidence is below the reader's `sure_from`,
    there is no ink, or several digits stand side by side."""
    side_by_side: int = 1
    "Number of digits side by side in the picture. `split_number` returns each digit of a number."
    labels: tuple[str, ...] = ()
    "Labels of all classes, in the order of the probabilities."

    @property
    def confidence(self) -> float:
        """Return the probability of `label`; 0 if the picture has no ink."""
        return 0.0 if self.probabilities is None else float(self.probabilities.max())

    def to_dict(self) -> dict[str, Any]:
        """Return label, confidence, unsure and probabilities as JSON values."""
        return {
            "label": self.label,
            "confidence": self.confidence,
            "unsure": self.unsure,
            "probabilities": None if self.probabilities is None else self.probabilities.tolist(),
        }

    def __repr__(self) -> str:
        """Return one line, such as `7 (99.8 %)`."""
        if self.label is None:
            return "no digit found"
        doubt = ", unsure" if self.unsure else ""
        if self.side_by_side > 1:
            doubt += f", {self.side_by_side} digits side by side"
        return f"{self.label} ({100 * self.confidence:.1f} %{doubt})"

    def _repr_html_(self) -> str:
        """Return the reading for a notebook: what the network saw, and bars of the probabilities.

        The image is inline, enlarged without smoothing.
        """
        head = f"<div><b>{escape(repr(self))}</b></div>"
        if self.seen is None or self.probabilities is None:
            return head
        height, width = self.seen.shape
        large = Image.fromarray(self.seen).resize(
            (ENLARGED * width, ENLARGED * height), Image.Resampling.NEAREST
        )
        file = io.BytesIO()
        large.save(file, "PNG")
        image = (
            f'<img alt="What the network saw" width="{large.width}" height="{large.height}" '
            'style="image-rendering: pixelated" '
            f'src="data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}">'
        )
        names = self.labels or tuple(str(k) for k in range(len(self.probabilities)))
        bars = "".join(
            f'<div style="display: flex; gap: 8px; align-items: center">'
            f'<span style="width: 3em; text-align: right">{escape(name)}</span>'
            f'<span style="width: 150px"><span style="display: block; height: 8px; '
            f'width: {100 * p:.1f}%; background: #1f5fa8"></span></span>'
            f"<span>{100 * p:.1f} %</span></div>"
            for name, p in zip(names, self.probabilities.tolist(), strict=True)
        )
        return (
            f'{head}<div style="display: flex; gap: 16px; align-items: center">{image}'
            f'<div style="font-size: 85%; line-height: 1.3">{bars}</div></div>'
        )


def find_model(model: str | Path | RunFolder) -> Path:
    """Return the exported file that `model` names.

    It is the name of a pretrained network, a file, a run folder, or an object with one. A
    pretrained network comes before a file or folder of its name; write ./NAME for these.

    Raises:
        InputError: There is no such file, or a folder holds no model.onnx.
    """
    if isinstance(model, str) and (shipped := find_pretrained(model)) is not None:
        return shipped / "model.onnx"
    path = Path(model if isinstance(model, (str, Path)) else model.path)
    if not path.exists():
        raise InputError(
            f"model {str(path)!r}: neither pretrained ({', '.join(pretrained())}) nor a run folder "
            "nor an exported file",
            hint="featherweight models",
        )
    if not path.is_dir():
        return path
    if (path / "model.onnx").is_file():
        return path / "model.onnx"
    if (path / "config.json").is_file():
        raise InputError(
            f"{path}: got no model.onnx in it",
            hint=f"featherweight export {shlex.quote(str(path))} --format onnx",
        )
    raise InputError(f"{path}: got neither a run folder nor an exported file, expected one of them")


class Reader:
    """A reader of pictures that runs an exported file.

    Args:
        model: The name of a pretrained network, an exported file, a run folder that holds
            model.onnx, or an object whose `path` is such a folder, as a `Run` is.
        threads: Number of threads for one batch. One image is too little work for two.

    Raises:
        InputError: The file was not written by `featherweight export`, or the folder holds none.
        OSError: The file cannot be read.
    """

    def __init__(self, model: str | Path | RunFolder = DEFAULT_MODEL, threads: int = 1) -> None:
        path = find_model(model)
        content = path.read_bytes()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors only
        try:
            self._session = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's exceptions have no other common base class
            raise InputError(
                f"{path}: not an exported file, expected a model.onnx as "
                "`featherweight export RUN --format onnx` writes"
            ) from error
        self.card: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        if self.card.get("format") != EXPORT_FORMAT:
            raise InputError(
                f"{path}: got an ONNX file from another program, expected one that "
                "`featherweight export` wrote"
            )
        self.labels = self.card["labels"].split()
        self.sure_from = float(self.card["sure_from"])
        self._temperature = float(self.card["temperature"])
        self._stages = [
            out.name for out in self._session.get_outputs() if out.name.startswith("maps_")
        ]
        self.shape: tuple[int, int] = tuple(self._session.get_inputs()[0].shape[1:])

    def probabilities(self, pixels: np.ndarray) -> np.ndarray:
        """Return calibrated probabilities (n, classes) float32.

        Args:
            pixels: Images (n, height, width) uint8 in the form of the training images: light ink
                on black.

        Raises:
            InputError: The array has another shape or type.
        """
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[1:] != self.shape:
            raise InputError(
                f"images: got {pixels.dtype} {pixels.shape}, expected uint8 (n, {self.shape[0]}, "
                f"{self.shape[1]})"
            )
        if not len(pixels):
            return np.zeros((0, len(self.labels)), np.float32)
        parts = [
            self._session.run(["log_probabilities"], {"pixels": pixels[i : i + MAX_BATCH]})[0]
            for i in range(0, len(pixels), MAX_BATCH)
        ]
        # Temperature scaling (Guo et al. 2017). The largest log-probability of an image is at
        # least -log(classes), so that its exponential does not underflow.
        odds = np.exp((np.concatenate(parts) if len(parts) > 1 else parts[0]) / self._temperature)
        return np.asarray(odds / odds.sum(1, keepdims=True), np.float32)

    def read(self, picture: PictureSource) -> Reading:
        """Read a picture of one digit.

        Args:
            picture: The path of a file, its bytes, a Pillow image, or an array (height, width) or
                (height, width, 3 or 4) of uint8. It may have any size and colours, and ink darker
                or lighter than the paper. An image in MNIST's form is read unchanged.

        Raises:
            InputError: It is no readable picture.
            OSError: The file cannot be read.
        """
        return self.read_many([picture])[0]

    def read_many(self, pictures: Sequence[PictureSource]) -> list[Reading]:
        """Read several pictures, each as `read` does; return one reading for each, in order."""
        prepared = [prepare_and_count(picture) for picture in pictures]
        readings = self.read_prepared([image for image, _ in prepared])
        return [
            replace(reading, side_by_side=count, unsure=reading.unsure or count > 1)
            for reading, (_, count) in zip(readings, prepared, strict=True)
        ]

    def read_prepared(self, images: Sequence[np.ndarray | None]) -> list[Reading]:
        """Read images (height, width) uint8 as `prepare` and `split_number` return them.

        None stands for a picture without ink.
        """
        inked = [image for image in images if image is not None]
        rows = iter(self.probabilities(np.array(inked, np.uint8).reshape(-1, *self.shape)))
        names = tuple(self.labels)
        readings = []
        for image in images:
            if image is None:
                readings.append(Reading(None, None, None, unsure=True, labels=names))
            else:
                row = next(rows)
                unsure = bool(row.max() < self.sure_from)
                label = self.labels[int(row.argmax())]
                readings.append(Reading(label, row, image, unsure=unsure, labels=names))
        return readings

    def maps(self, seen: np.ndarray) -> list[np.ndarray]:
        """Return the feature maps (channels, h, w) float32 of each stage for one image.

        Args:
            seen: The image (height, width) uint8, as in `Reading.seen`.
        """
        # In dense evaluation the first max-pool turns one image into several, one for each offset
        # of its grid. Their maps are in the batch dimension: return those of the first offset.
        return [maps[0] for maps in self._session.run(self._stages, {"pixels": seen[None]})]
