"""Read pictures with an exported file. This uses ONNX Runtime; PyTorch is not needed.

Example:
    reader = Reader()                           # `reader`, which comes with the package
    reader = Reader("runs/feather-20k-s0-1")    # another name, a run folder, or an exported file
    reading = reader.read("photo.jpg")
    reading.label, reading.confidence           # "7", 0.998
"""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np

from ..errors import InputError
from ..pretrained import DEFAULT_MODEL, find_pretrained, pretrained
from ._evidence import EvidenceHead
from ._model import open_model
from .prepare import Digit, PictureSource, Sheet
from .reading import NO_INK, NOT_A_DIGIT, Stage
from .reading import Reading as Reading

MAX_BATCH = 1000  # images in one call of ONNX Runtime; it bounds the memory for activations


class RunFolder(Protocol):
    """Any object that has the path of a run folder, such as `featherweight.run.Run`."""

    @property
    def path(self) -> Path:
        """Return the run folder."""


def find_model(model: str | Path | RunFolder) -> Path:
    """Return the exported file that `model` names.

    It is the name of a pretrained network, a file, a run folder, or an object with one. A
    pretrained network comes before a file or folder of its name; write ./NAME for these.

    Raises:
        InputError: There is no such file, or a folder holds no model.onnx.
    """
    if isinstance(model, str) and (shipped := find_pretrained(model)) is not None:
        return shipped / "model.onnx"
    named = model if isinstance(model, (str, Path)) else getattr(model, "path", None)
    if not isinstance(named, (str, Path)):
        raise InputError(
            f"model: got {model!r}, expected the name of a pretrained network, a file, or a run"
        )
    path = Path(named)
    if not str(named) or not path.exists():
        raise InputError(
            f"model {str(named)!r}: neither pretrained ({', '.join(pretrained())}) nor a run "
            "folder nor an exported file",
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
        self._model = open_model(find_model(model), threads)
        self.card, self.labels, self.form = (
            self._model.card,
            self._model.labels,
            self._model.form,
        )
        self.shape = self.form.shape  # (height, width), or (3, height, width) in colour
        self.sure_from = self._model.sure_from
        self.digit_from = self._model.digit_from
        self.size = self._model.size  # bytes
        self._stages = [name for name in self._model.first if name.startswith("maps_")]
        self._head = EvidenceHead.load(self._model)

    def probabilities(self, pixels: np.ndarray) -> np.ndarray:
        """Return calibrated probabilities (n, classes) float32.

        Args:
            pixels: Images (n, height, width) uint8, or (n, 3, height, width) in colour, in the form
                of the training images: for MNIST light ink on black.

        Raises:
            InputError: The array has another shape or type.
        """
        self._check(pixels)
        if not len(pixels):
            return np.zeros((0, len(self.labels)), np.float32)
        parts = [
            self._model.run(["log_probabilities"], pixels[i : i + MAX_BATCH])[0]
            for i in range(0, len(pixels), MAX_BATCH)
        ]
        return self._calibrate(np.concatenate(parts) if len(parts) > 1 else parts[0])

    def _check(self, pixels: np.ndarray) -> None:
        if pixels.dtype != np.uint8 or pixels.shape[1:] != self.shape:
            raise InputError(
                f"images: got {pixels.dtype} {pixels.shape}, expected uint8 "
                f"(n, {', '.join(map(str, self.shape))})"
            )

    def _calibrate(self, log_probabilities: np.ndarray) -> np.ndarray:
        """Return calibrated probabilities (n, classes) by temperature scaling (Guo et al. 2017)."""
        # The largest log-probability of an image is at least -log(classes), so that its
        # exponential does not underflow.
        odds = np.exp(log_probabilities / self._model.temperature)
        total = odds.sum(1, keepdims=True)
        if not total.all():
            raise InputError(
                f"{self._model.path}: temperature: got {self._model.temperature}, which leaves no "
                "probabilities; expected a larger one"
            )
        return np.asarray(odds / total, np.float32)

    def read(self, picture: PictureSource) -> Reading:
        """Read a picture of one digit, or of whatever the network was trained on.

        Args:
            picture: The path of a file, its bytes, a file that is open as bytes, a Pillow image, or
                an array (height, width) or (height, width, 3 or 4) of uint8. It may have any size
                and colours, and ink darker or lighter than the paper. An image in the form of the
                training images is read unchanged; `prepare.prepare` says what is done with all
                others.

        Raises:
            InputError: It is no readable picture, or something else.
            OSError: The file cannot be read.
        """
        return self.read_many([picture])[0]

    def read_many(self, pictures: Sequence[PictureSource]) -> list[Reading]:
        """Read several pictures, each as `read` does; return one reading for each, in order."""
        candidates, counts = [], []
        for picture in pictures:  # one by one: a decoded photograph takes 36 MB
            sheet = Sheet(picture, self.form)
            candidates.append(sheet.candidates(self.sureness))
            counts.append(sheet.count(self.sureness))
        return [
            reading.counted(count)
            for reading, count in zip(self.read_candidates(candidates), counts, strict=True)
        ]

    def read_number(self, picture: PictureSource) -> list[Reading]:
        """Read the digits of a number from left to right; the list is empty without ink.

        The digits of several lines of writing follow each other, line by line.

        Args:
            picture: As in `read`, which says what is raised too. InputError is also raised if the
                network reads whole pictures, as of photographs.
        """
        return self.read_digits(Sheet(picture, self.form).number(self.sureness))

    def read_lines(self, picture: PictureSource) -> list[list[Reading]]:
        """Read the digits of each line of writing, from top to bottom, as `read_number` does."""
        lines = Sheet(picture, self.form).lines(self.sureness)
        readings = iter(self.read_digits([digit for line in lines for digit in line]))
        return [[next(readings) for _ in line] for line in lines]

    def sureness(self, digits: Sequence[Digit]) -> list[float]:
        """Return the probability of the most probable class of each digit."""
        images = np.array([digit.image for digit in digits], np.uint8)
        return [float(row.max()) for row in self.probabilities(images)]

    def read_candidates(self, candidates: Sequence[Sequence[Digit]]) -> list[Reading]:
        """Read pictures as `Sheet.candidates` returns them: of each, what the network is surest of.

        No candidates stand for a picture without ink.
        """
        rows = iter(self.read_digits([digit for each in candidates for digit in each]))
        return [
            max((next(rows) for _ in each), key=lambda reading: reading.confidence)
            if each
            else self._blank
            for each in candidates
        ]

    def read_digits(self, digits: Sequence[Digit | None]) -> list[Reading]:
        """Read digits as a `Sheet` returns them. None stands for a picture without ink."""
        readings = self.read_prepared([None if digit is None else digit.image for digit in digits])
        return [
            reading
            if digit is None
            else replace(
                reading,
                box=digit.box,
                frame=digit.frame,
                doubts=digit.doubts,
                unsure=reading.unsure or bool(digit.doubts),
            )
            for reading, digit in zip(readings, digits, strict=True)
        ]

    def read_prepared(self, images: Sequence[np.ndarray | None]) -> list[Reading]:
        """Read images (height, width) or (3, height, width) uint8 as `prepare` returns them.

        None stands for a picture without ink. The readings have no box and no frame, because
        nothing is known of the pictures.
        """
        inked = [image for image in images if image is not None]
        if not inked:
            return [self._blank for _ in images]
        rows = iter(self._read_inked(np.array(inked, np.uint8)))
        return [self._blank if image is None else next(rows) for image in images]

    @property
    def _blank(self) -> Reading:
        """Return the reading of a picture without ink."""
        return Reading(
            *(None, None, None, True),
            side_by_side=0,
            labels=tuple(self.labels),
            reason=NO_INK,
        )

    def _read_inked(self, pixels: np.ndarray) -> list[Reading]:
        """Read images (n, *shape) uint8 that have ink, or need none."""
        self._check(pixels)
        readings: list[Reading] = []
        names = ["log_probabilities", *([self._head.maps] if self._head else [])]
        for i in range(0, len(pixels), MAX_BATCH):
            batch = pixels[i : i + MAX_BATCH]
            log_probabilities, *maps = self._model.run(names, batch)
            rows = self._calibrate(log_probabilities)
            why = (
                self._head.explain(maps[0], log_probabilities) if self._head else [None] * len(rows)
            )
            for seen, row, evidence in zip(batch, rows, why, strict=True):
                label, confidence = self.labels[int(row.argmax())], float(row.max())
                is_digit = confidence >= self.digit_from
                readings.append(
                    Reading(
                        label if is_digit else None,
                        row,
                        seen,
                        unsure=not is_digit or confidence < self.sure_from,
                        labels=tuple(self.labels),
                        evidence=evidence if is_digit else None,
                        reason=None if is_digit else NOT_A_DIGIT,
                    )
                )
        return readings

    def maps(self, seen: np.ndarray) -> list[np.ndarray]:
        """Return the feature maps (channels, h, w) float32 of each stage for one image.

        Args:
            seen: The image as in `Reading.seen`.
        """
        return [stage.maps for stage in self.stages(seen)]

    def stages(self, seen: np.ndarray) -> list[Stage]:
        """Return what each stage of the network computes for one image.

        Args:
            seen: The image as in `Reading.seen`.
        """
        outputs = dict(zip(self._model.first, self._model.run(None, seen[None]), strict=True))
        for name in self._stages:
            if not np.isfinite(outputs[name]).all():
                raise InputError(f"{self._model.path}: {name}: got NaN or infinity in the maps")
        stages = []
        for name in self._stages:
            filters = outputs.get(name.replace("maps", "filters"))
            deep = outputs.get(name.replace("maps", "depthwise"))
            if filters is not None and deep is not None:
                # (channels, inputs, 1, 1) times (1, inputs, h, w): nothing lies between the two
                filters = filters * deep.swapaxes(0, 1)
            # In dense evaluation the first max-pool turns one image into several, one for each
            # offset of its grid. Their maps are in the batch dimension: take the first offset's.
            stages.append(Stage(outputs[name][0], filters))
        is_digit = self._calibrate(outputs["log_probabilities"]).max() >= self.digit_from
        if self._head is not None and is_digit:
            contributions = self._head.contributions(
                outputs[self._head.maps], outputs["log_probabilities"]
            )
            if stages and len(contributions) == len(stages[-1].maps):
                stages[-1] = replace(stages[-1], contributions=contributions)
        return stages
