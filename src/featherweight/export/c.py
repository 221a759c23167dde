"""A finished run as C99 for a microcontroller: integers alone, no heap, no library.

    firmware = export_c(run, split, bits=8)     # RUN/c-int8/: digit.h, digit.c, main.c, Makefile, README.md ...
    firmware.flash, firmware.ram                # bytes

The code computes what `integer.Integers` defines, to the bit; `firmware.py` compiles, measures and compares.
"""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from string import Template

import numpy as np
import torch
from torch import Tensor

from .._files import new_folder
from ..data import Split
from ..errors import InputError
from ..evaluate import evaluate, percent
from ..run import Run
from .integer import Integers, Layer, integer_network

TEMPLATES = Path(__file__).parent / "templates"
KINDS = {"conv": "CONVOLUTION", "depthwise": "DEPTHWISE", "pool": "MAXIMUM"}
EXAMPLES = 10  # validation images in the folder, with what is to come out
STATE = 14  # bytes of a State in digit.c, whose compiler checks the sum
MARK = "/* Made by featherweight"


@dataclass(frozen=True)
class Firmware:
    """A written folder, and how its arithmetic reads the validation images."""

    path: Path
    network: Integers
    float_correct: int
    "Validation images that the run's own network reads right."
    correct: int
    "And the integers."
    scores: Tensor
    "(n, classes), of the validation images by the integers."
    flash: int
    "Bytes of constants: weights and everything beside them."
    ram: int


def pack(values: Tensor, bits: int) -> bytes:
    """Signed integers, each in so many bits (2, 4 or 8), the first in the lowest; zeros fill the last byte."""
    per_byte = 8 // bits
    fields = np.asarray(values.flatten().numpy(), np.int64) & (2**bits - 1)
    fields = np.pad(fields, (0, -len(fields) % per_byte)).reshape(-1, per_byte)
    return bytes((fields << (bits * np.arange(per_byte))).sum(1).astype(np.uint8))


def _lines(values: Iterable[int], width: int = 110) -> str:
    """Numbers with commas, as many a line as fit."""
    lines, line = [], " " * 3
    for value in values:
        if len(line) + len(word := f" {value},") > width:
            lines.append(line)
            line = " " * 3
        line += word
    return "\n".join([*lines, line]).rstrip(",")


def _row(layer: Layer) -> str:
    numbers = (
        layer.kernel,
        layer.stride,
        layer.padding,
        layer.maximum,
        layer.outputs,
        layer.shift,
        layer.fraction,
        layer.out_shift,
        layer.zero,
        layer.out_multiplier,
    )
    kind = KINDS[layer.kind] + (" | REPEAT" if layer.repeat else "")
    return f"    {{{kind}, {', '.join(map(str, numbers))}}}"


def constants(network: Integers) -> dict[str, bytes]:
    """The tables of the C code, little-endian, without the layers' own."""
    own = [layer for layer in network.layers if layer.kind != "pool"]
    # A repeated block has the weights of the block before: all its layers' are left out.
    stored = [
        layer
        for i, layer in enumerate(own)
        if not (layer.repeat or (i and own[i - 1].repeat and own[i - 1].kind == "depthwise"))
    ]
    weights = torch.cat([layer.weights.permute(0, 2, 3, 1).flatten() for layer in stored])
    return {
        "weights": pack(weights, network.bits),
        "multipliers": torch.cat([layer.multipliers for layer in own])
        .numpy()
        .astype("<i2")
        .tobytes(),
        "biases": torch.cat([layer.biases for layer in own]).numpy().astype("<i2").tobytes(),
        "head": network.head.numpy().astype("i1").tobytes(),
        "head_biases": network.head_biases.numpy().astype("<i4").tobytes(),
    }


def scratch(network: Integers) -> dict[str, int]:
    """Of the scratch buffer in digit.c: filter (weights), window (rows), rows (bytes), and all of it in ram."""
    (height, width), channels = network.shape, 1
    filters, windows, rows, before = [], [], 0, ""
    for layer in network.layers:
        windows.append(layer.window)
        if (before, layer.window) != (
            "depthwise",
            1,
        ):  # else it is written over that layer's own rows
            rows += layer.window * (width + 2 * layer.padding) * channels
        before = layer.kind
        filters.append(layer.kernel**2 * (channels if layer.kind == "conv" else 1))
        height, width, channels = layer.side(height), layer.side(width), layer.outputs
    ram = 4 * channels + STATE * len(network.layers) + max(filters) + rows
    return {"filter": max(filters), "window": max(windows), "rows": rows, "ram": -(-ram // 4) * 4}


def flash(network: Integers) -> int:
    """Bytes of all constants: every table of digit.c."""
    return sum(map(len, constants(network).values())) + 12 * len(network.layers)


def source(network: Integers, title: str) -> dict[str, str]:
    """The files of the folder, by name; `title` is a few words on what it is."""
    tables, sizes = constants(network), scratch(network)
    kinds = {
        "weights": "u1",
        "multipliers": "<i2",
        "biases": "<i2",
        "head": "i1",
        "head_biases": "<i4",
    }
    figures = (
        f"{flash(network):,} bytes of constants, {sizes['ram']:,} of RAM, {network.macs:,} "
        "multiply-accumulates an image."
    )
    values: dict[str, object] = {
        "version": version("featherweight"),
        "title": title,
        "figures": figures,
        **sizes,
        "height": network.shape[0],
        "width": network.shape[1],
        "classes": len(network.head),
        "logit": round(network.logit),
        "layers": len(network.layers),
        "features": network.head.shape[1],
        "bits": network.bits,
        "hardswish": int(network.hardswish),
        "first_move": network.moves[0],
        "moves": len(network.moves),
        "border": network.layers[0].pad,
        "layer_rows": ",\n".join(map(_row, network.layers)),
    } | {name: _lines(np.frombuffer(table, kinds[name]).tolist()) for name, table in tables.items()}
    return {
        name: Template((TEMPLATES / name).read_text(encoding="utf-8")).substitute(values)
        for name in ("digit.h", "digit.c", "main.c", "Makefile")
    }


def expected_output(scores: Tensor) -> str:
    """What the program prints for scores (n, classes)."""
    return "".join(f"{int(row.argmax())} {' '.join(map(str, row.tolist()))}\n" for row in scores)


def _write_folder(path: Path, files: dict[str, bytes]) -> None:
    """All files or none; a folder of an earlier export is replaced, anything else refused."""
    if path.exists():
        try:
            ours = (path / "digit.c").read_text(encoding="utf-8").startswith(MARK)
        except (OSError, UnicodeDecodeError):
            ours = False
        if not ours:
            raise InputError(f"{path}: exists and is no earlier export, expected it free")
    temporary = new_folder(path.parent, f".{path.name}.")
    try:
        for name, content in files.items():
            (temporary / name).write_bytes(content)
        if path.exists():  # a folder can't be renamed over a full one
            path.rename(temporary / "before")
        temporary.rename(path)
        shutil.rmtree(path / "before", ignore_errors=True)
    except BaseException:
        if (temporary / "before").exists():
            (temporary / "before").rename(path)
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def export_c(run: Run, split: Split, bits: int) -> Firmware:
    """Write RUN/c-int8 (or 4, 2): digit.h, digit.c, main.c, a Makefile, a README and example images.

    Raises ValueError for a run that is not finished, a network that is no Feather, and a folder of others."""
    model = run.load_model()
    network = integer_network(model, split, bits)
    expected = evaluate(model, split.val, split.mean_std)
    scores = network.scores(split.val.pixels)
    correct = int((scores.argmax(1) == split.val.labels).sum())
    firmware = Firmware(
        run.path / f"c-int{bits}",
        network,
        expected.correct,
        correct,
        scores,
        flash(network),
        scratch(network)["ram"],
    )
    title = f"{run.recipe.name}, seed {run.seed}"
    files = source(network, title)
    height, width = network.shape
    files["README.md"] = Template((TEMPLATES / "README.md").read_text(encoding="utf-8")).substitute(
        title=title,
        pixels=height * width,
        height=height,
        width=width,
        classes=len(network.head),
        bits=bits,
        flash=f"{firmware.flash:,}",
        ram=f"{firmware.ram:,}",
        macs=f"{network.macs:,}",
        logit=round(network.logit),
        correct=percent(correct, len(scores)),
        float_correct=percent(expected.correct, expected.total),
        examples=EXAMPLES,
    )
    files["example.txt"] = expected_output(scores[:EXAMPLES])
    contents = {name: text.encode() for name, text in files.items()}
    _write_folder(
        firmware.path, contents | {"example.raw": split.val.pixels[:EXAMPLES].numpy().tobytes()}
    )
    return firmware
