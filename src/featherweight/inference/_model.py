"""Open an exported file, and check all that another program could have written into it.

    model = open_model(Path("model.onnx"), threads=1)
    log_probabilities, maps = model.run(["log_probabilities", "maps_6"], pixels)

A file that is opened reads two images first, so that what it cannot do is found before it is asked.
It may take MAX_MEMORY bytes to run, of all networks in the process together, and refers to no other
file.
"""

import math
import os
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime

from .._format import EXPORT_FORMAT
from ..errors import InputError
from ..image_kind import MAX_CLASSES, MAX_SIDE, ImageKind
from ..layout import default_layout
from ._form import MAX_KIND, Form, load_form

MAX_FILE_BYTES = 256 * 1024**2
MAX_MEMORY = 4 * 1024**3  # bytes; ten times what 1,000 images take in the largest built-in network
MAX_TEXT = 10_000  # characters of one entry of the metadata
MAX_LABEL = 40  # characters
SECONDS = 10  # that the first two images may take; others take milliseconds
# Calibration of a network by its own validation images lies in [1/20, 20].
TEMPERATURES = (0.01, 100.0)
COUNTS = ("parameters", "validation_correct", "validation_total")


@dataclass(frozen=True, eq=False)
class Model:
    """An exported file that has read two images."""

    path: Path
    "The file."
    size: int
    "Its size in bytes."
    session: onnxruntime.InferenceSession
    "What runs it."
    card: dict[str, str]
    "Its metadata."
    labels: list[str]
    "Labels of the classes."
    temperature: float
    "What log-probabilities are divided by."
    sure_from: float
    "Confidence from which on a reading counts as sure."
    digit_from: float
    "Confidence below which an image shows no digit; 0 where the network rejects none."
    form: Form
    "The form of the images that it takes."
    first: dict[str, np.ndarray]
    "Its outputs for two images, by name."

    def run(self, names: Sequence[str] | None, pixels: np.ndarray) -> list[np.ndarray]:
        """Return the outputs of these names, or all, for images (n, *form.shape) uint8.

        Raises InputError if the network fails, or has no log-probabilities (n, classes).
        """
        outputs = _run(self.path, self.session, names, pixels)
        known = dict(zip(names or self.first, outputs, strict=True))
        _check_outputs(self.path, known, len(pixels), len(self.labels))
        return outputs


@cache
def _bound_memory() -> None:
    """Register the allocator that all sessions of this process share, and its bound."""
    memory = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    # Strategy 1 reserves what is asked for, not the next power of two.
    config = onnxruntime.OrtArenaCfg({"max_mem": MAX_MEMORY, "arena_extend_strategy": 1})
    onnxruntime.create_and_register_allocator(memory, config)


def open_model(path: Path, threads: int) -> Model:
    """Open an exported file.

    Raises:
        InputError: `featherweight export` did not write it, or it is damaged.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise InputError(f"{path}: got over {MAX_FILE_BYTES:,} bytes, expected an exported file")
    _bound_memory()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # fatal errors only; others are raised
    options.add_session_config_entry("session.use_env_allocators", "1")
    # An exported file holds its weights. Nothing lies in this folder, so no other file is read.
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", os.devnull
    )
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        card: dict[str, str] = dict(session.get_modelmeta().custom_metadata_map)
    except Exception as error:  # ONNX Runtime's exceptions have no other common base class
        raise InputError(
            f"{path}: not an exported file, expected a model.onnx as "
            "`featherweight export RUN --format onnx` writes"
        ) from error
    if card.get("format") != EXPORT_FORMAT:
        raise InputError(
            f"{path}: got an ONNX file from another program, expected one that "
            "`featherweight export` wrote"
        )
    _check_card(path, card)
    shape = _shape(path, session)
    names = [output.name for output in session.get_outputs()]
    # A blank image and one with ink.
    pixels = np.stack([np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8)])
    first = dict(zip(names, _run(path, session, None, pixels, SECONDS), strict=True))
    form = load_form(path, card, shape)
    if form is None:
        labels = _labels(path, card.get("labels", ""))
        form = _undeclared(path, shape, labels)
    labels = list(form.kind.classes)
    _check_outputs(path, first, len(pixels), len(labels))
    _check_stages(path, first)
    return Model(
        path,
        len(content),
        session,
        card,
        labels,
        number(path, card, "temperature", *TEMPERATURES),
        number(path, card, "sure_from", 0, 1),
        number(path, {"digit_from": "0"} | card, "digit_from", 0, 1),
        form,
        first,
    )


def number(path: Path, card: dict[str, str], key: str, least: float, most: float) -> float:
    """Return a number of the metadata. Raises InputError if it is none from `least` to `most`."""
    text = card.get(key, "")
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not least <= value <= most:
        raise InputError(
            f"{path}: {key}: got {text[:MAX_LABEL]!r}, expected a number from {least:g} to {most:g}"
        )
    return value


def _check_card(path: Path, card: dict[str, str]) -> None:
    """Raise InputError unless every entry is a line of text, and counts are whole numbers."""
    for key, text in card.items():
        most = MAX_KIND if key == "kind" else MAX_TEXT
        if not (key + text).isprintable() or len(key + text) > most:
            raise InputError(
                f"{path}: metadata {key[:MAX_LABEL]!r}: got {text[:MAX_LABEL]!r}, expected one "
                f"printable line of at most {most:,} characters"
            )
    for key in COUNTS:
        if not re.fullmatch("[0-9]{1,12}", card.get(key, "")):
            raise InputError(
                f"{path}: {key}: got {card.get(key, '')[:MAX_LABEL]!r}, expected a whole number"
            )
    if not card.get("recipe"):
        raise InputError(f"{path}: got no recipe in the metadata, expected its name")


def _labels(path: Path, text: str) -> list[str]:
    labels = text.split()
    if (
        not 2 <= len(labels) <= MAX_CLASSES
        or len(set(labels)) < len(labels)
        or max(map(len, labels)) > MAX_LABEL
    ):
        raise InputError(
            f"{path}: labels: got {text[:MAX_LABEL]!r}, expected 2 to {MAX_CLASSES} different "
            f"labels of at most {MAX_LABEL} characters"
        )
    return labels


def _undeclared(path: Path, shape: tuple[int, ...], labels: list[str]) -> Form:
    """Return the form of the images where the file says nothing of them: like MNIST's."""
    if len(shape) != 2:
        raise InputError(f"{path}: got colour images and no kind in the metadata, expected it")
    kind = ImageKind(1, *shape, "light on dark", "upright", tuple(labels))
    return Form(kind, default_layout(*shape))


def _shape(path: Path, session: onnxruntime.InferenceSession) -> tuple[int, ...]:
    """Return (height, width) of the images that a network takes, or (3, height, width)."""
    inputs = [(each.name, each.type, each.shape) for each in session.get_inputs()]
    match inputs:
        case [("pixels", "tensor(uint8)", [_, int(height), int(width)])] if (
            1 <= min(height, width) <= max(height, width) <= MAX_SIDE
        ):
            return height, width
        case [("pixels", "tensor(uint8)", [_, 3, int(height), int(width)])] if (
            1 <= min(height, width) <= max(height, width) <= MAX_SIDE
        ):
            return 3, height, width
    raise InputError(
        f"{path}: got inputs {str(inputs)[:200]}, expected one, pixels uint8 (n, height, width) "
        f"or (n, 3, height, width) of at most {MAX_SIDE}x{MAX_SIDE}"
    )


def _run(
    path: Path,
    session: onnxruntime.InferenceSession,
    names: Sequence[str] | None,
    pixels: np.ndarray,
    seconds: float | None = None,
) -> list[np.ndarray]:
    """Run a network. Raises InputError if it fails, or takes longer than `seconds`."""
    try:
        if seconds is None:
            return list(session.run(names, {"pixels": pixels}))
        options = onnxruntime.RunOptions()
        # A network may have a loop that never ends.
        timer = threading.Timer(seconds, setattr, (options, "terminate", True))
        timer.daemon = True
        timer.start()
        try:
            return list(session.run(names, {"pixels": pixels}, options))
        finally:
            timer.cancel()
    except Exception as error:  # see open_model
        limits = f"{MAX_MEMORY:,} bytes" + (f" and {seconds} s" if seconds else "")
        raise InputError(
            f"{path}: ONNX Runtime cannot run it on {len(pixels)} images, within {limits}"
        ) from error


def _check_outputs(path: Path, outputs: dict[str, np.ndarray], n: int, classes: int) -> None:
    """Raise InputError unless there are log-probabilities (n, classes) float32.

    The largest of an image is from -log(classes) to 0, but for rounding; it is not NaN.
    """
    found = outputs.get("log_probabilities")
    if found is None or found.dtype != np.float32 or found.shape != (n, classes):
        got = "no" if found is None else f"{found.dtype} {found.shape}"
        raise InputError(
            f"{path}: got {got} log_probabilities for {n} images, expected float32 "
            f"({n}, {classes}), a column for each label"
        )
    largest = found.max(1)
    low, high = largest.min(), largest.max()
    if not (low > -math.log(classes) - 1 and high < 1):  # neither of NaN
        raise InputError(
            f"{path}: got log_probabilities of which the largest is {low} to {high}, expected "
            f"{-math.log(classes):.2f} to 0"
        )


def _check_stages(path: Path, outputs: dict[str, np.ndarray]) -> None:
    """Raise InputError unless what is shown of each stage has the shape of maps or filters."""
    for name, array in outputs.items():
        kind, _, stage = name.partition("_")
        if kind not in ("maps", "filters", "depthwise"):
            continue
        fine = array.dtype == np.float32 and array.ndim == 4 and array.size > 0
        if kind == "depthwise":
            filters = outputs.get(f"filters_{stage}")
            fine = fine and filters is not None and array.shape[:2] == (filters.shape[1], 1)
        if not fine or not np.isfinite(array).all():
            raise InputError(
                f"{path}: {name[:MAX_LABEL]}: got {array.dtype} {array.shape}, expected finite "
                "float32 in four dimensions"
            )
