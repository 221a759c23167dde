"""Export a finished run as C99 for a microcontroller: integers only, no heap, no library.

    firmware = export_c(run, split, bits=8)     # RUN/c-int8/: src/digit.h, src/digit.c, main.c ...
    firmware.flash, firmware.ram                # bytes

The code returns exactly the scores of `integer.IntegerNetwork`; `firmware.py` compiles, measures
and compares it. The folder is a library for Arduino and PlatformIO, a CMake project and a user
module of MicroPython, each of which finds its own files at the places they have here.
"""

import re
import shutil
from collections.abc import Iterable, Mapping
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
from ..evaluate import percent
from ..image_kind import ImageKind
from ..layout import SIDE
from ..run import Run
from .integer import Conversion, IntegerNetwork, Layer, convert_run
from .packing import Packing, Parts, pack_network, split_bits
from .prepare import CODE, MAX_SIDE, RAM, STACK, prepare_source

TEMPLATES = Path(__file__).parent / "templates"
# Files of the folder that do not depend on its images; templates have the same names. Arduino and
# PlatformIO compile what is in src, and main.c has to stay out of that.
SOURCES = (
    "src/digit.h",
    "src/digit.c",
    "main.c",
    "Makefile",
    "CMakeLists.txt",
    "library.properties",
    "library.json",
    "examples/ReadDigit/ReadDigit.ino",
    "micropython.mk",
    "micropython.cmake",
    "micropython/moddigit.c",
)
C_KINDS = {"conv": "CONVOLUTION", "depthwise": "DEPTHWISE", "pool": "MAX_POOL"}
LOOKS = {
    "light on dark": "light ink (255) on black (0)",
    "dark on light": "dark ink (0) on white (255)",
    "natural": "black (0) to white (255)",
}
EXAMPLES = 10  # validation images that the folder holds, with the expected output
LAYER_BYTES, STATE_BYTES = 12, 14  # sizes of Layer and State in digit.c; its compiler checks STATE
# Outputs in a row whose sums are kept on the stack. Where there is little RAM, 190 bytes of stack
# are worth 6 % more instructions.
BATCH, SMALL_BATCH, SMALL_RAM = 14, 4, 2000
MAX_UNROLLED = 8  # steps of a loop that is written out
EXPORT_HEADER = "/* Made by featherweight"  # how digit.c begins
# NumPy's types of the tables in digit.c, little-endian. Weights are packed, several to a byte.
TABLE_TYPES = {
    "weights": "u1",
    "multipliers": "<i2",
    "biases": "<i2",
    "head": "i1",
    "head_biases": "<i4",
}


@dataclass(frozen=True, kw_only=True)
class Firmware(Conversion):
    """A C folder that was written, and its results on the validation images."""

    path: Path
    "The folder."
    flash: int
    "Bytes of all constants: the weights and every other table."
    ram: int
    "Bytes of the static buffer."


def _format_numbers(values: Iterable[int], width: int = 100) -> str:
    """Return numbers separated by commas, as many on each line as fit."""
    lines, line = [], " " * 3
    for value in values:
        if len(line) + len(word := f" {value},") > width:
            lines.append(line)
            line = " " * 3
        line += word
    return "\n".join([*lines, line]).rstrip(",")


def _unrolled(network: IntegerNetwork, packing: Packing) -> dict[str, str]:
    """Return the definitions in digit.c of loops that are written out, by their template's names.

    Those are the weights in a row of the first layer's filter, and the words of a depthwise
    layer's filter if all such layers are alike. A definition is empty where a loop stays.
    """
    first, first_steps, depthwise_steps = network.layers[0], "", ""
    if first.kind == "conv" and first.kernel <= MAX_UNROLLED and packing.parts[0].split == 1:
        steps = " ".join(f"STEP({i})" for i in range(first.kernel))
        first_steps = f"#define FIRST_RUN {first.kernel}\n#define FIRST_STEPS {steps}"
    shapes = {
        (layer.kernel, packing.depthwise_run(layer), parts.group in (0, layer.kernel))
        for layer, parts in zip(network.layers, packing.parts, strict=True)
        if layer.kind == "depthwise"
    }
    if len(shapes) == 1:
        ((kernel, run, fits),) = shapes
        if fits and kernel * run <= MAX_UNROLLED**2:
            lines = [
                " ".join(
                    [f"DEPTHWISE_ROW({y})", *(f"DEPTHWISE_STEP({y * run + i})" for i in range(run))]
                )
                for y in range(kernel)
            ]
            depthwise_steps = "#define DEPTHWISE_STEPS \\\n    " + " \\\n    ".join(lines)
    return {"first_steps": first_steps, "depthwise_steps": depthwise_steps}


def _format_layer(layer: Layer, parts: Parts) -> str:
    """Return the initialiser of a Layer in digit.c."""
    numbers = (
        layer.kernel,
        layer.stride,
        layer.padding,
        layer.pool,
        layer.outputs,
        layer.shift,
        layer.fraction + 16 * (parts.split - 1),
        layer.out_shift,
        layer.zero_point,
        layer.out_multiplier,
    )
    kind = C_KINDS[layer.kind] + (" | REPEAT" if layer.repeat else "")
    kind += f" | GROUP * {parts.group}" if parts.group else ""
    return f"    {{{kind}, {', '.join(map(str, numbers))}}}"


def constants(network: IntegerNetwork) -> dict[str, bytes]:
    """Return the tables of digit.c except `layers`, in the types of TABLE_TYPES."""
    weighted = [layer for layer in network.layers if layer.kind != "pool"]
    tables = {
        "multipliers": torch.cat([layer.multipliers for layer in weighted]),
        "biases": torch.cat([layer.biases for layer in weighted]),
        "head": network.head,
        "head_biases": network.head_biases,
    }
    return {"weights": pack_network(network).weights} | {
        name: values.numpy().astype(TABLE_TYPES[name]).tobytes() for name, values in tables.items()
    }


def scratch(network: IntegerNetwork) -> dict[str, int]:
    """Return the sizes of the scratch buffer in digit.c.

    The keys are `filter` (words of the largest filters that are computed together), `rows` (bytes
    of all ring buffers) and `ram` (bytes of the whole buffer).
    """
    packing, (height, width), channels = pack_network(network), network.shape, 1
    filters, rows, read, before = [0], 0, 0, ""
    for layer in network.layers:
        # Behind a depthwise layer, a layer that needs one row reads it in place.
        if (before, layer.window) != ("depthwise", 1):
            rows += layer.window * (width + 2 * layer.padding) * channels
        before = layer.kind
        height, width = layer.output_side(height), layer.output_side(width)
        filters.append(packing.filter_words(layer, channels))
        channels = layer.outputs
        if layer.kind == "depthwise" and packing.lanes == 2 and width % 2:
            # The last output's neighbour, which is outside, is computed too.
            read = max(read, rows + layer.stride * channels)
    rows = max(rows, read) if packing.lanes == 2 else rows + 3  # four inputs are read at once
    looks = 1  # the byte that counts them
    states = -(-STATE_BYTES * len(network.layers) // 4) * 4  # filters begin at a multiple of 4
    ram = 4 * channels + states + 4 * max(filters) + rows + looks
    return {"filter": max(filters), "rows": rows, "ram": -(-ram // 4) * 4}


def flash(network: IntegerNetwork) -> int:
    """Return the bytes of all tables of digit.c."""
    return sum(map(len, constants(network).values())) + LAYER_BYTES * len(network.layers)


def source(
    network: IntegerNetwork,
    title: str,
    looks: str = LOOKS["light on dark"],
    prepared: bool = False,
) -> dict[str, str]:
    """Return the source files by their paths in the folder.

    Args:
        network: The network.
        title: Put into the comment of digit.h.
        looks: What an image looks like, such as `light ink (255) on black (0)`.
        prepared: Whether prepare.h and prepare.c, for images as MNIST has them, are added.
    """
    tables, sizes = constants(network), scratch(network)
    figures = (
        f"{flash(network):,} bytes of constants, {sizes['ram']:,} of RAM, {describe_macs(network)} "
        "multiply-accumulates for one image."
    )
    packing, split = pack_network(network), split_bits(network)
    pairs = list(zip(network.layers, packing.parts, strict=True))
    values: dict[str, object] = {
        "version": version("featherweight"),
        "release": _release(),
        "title": title,
        "looks": looks,
        "figures": figures,
        **sizes,
        "flash": flash(network),
        "height": network.shape[0],
        "width": network.shape[1],
        "pixels": network.shape[0] * network.shape[1],
        "classes": len(network.head),
        "logit": round(network.scores_per_logit),
        "layers": len(network.layers),
        "features": network.head.shape[1],
        "bits": network.bits,
        "hardswish": int(network.hardswish),
        "pools": int(any(layer.kind == "pool" for layer in network.layers)),
        "parts": max(layer.window * parts.split for layer, parts in pairs),
        "lanes": packing.lanes,
        "batch": BATCH if sizes["ram"] > SMALL_RAM else SMALL_BATCH,
        **_unrolled(network, packing),
        "wide": int(split is None),
        "split": split or 0,
        "first_shift": network.image_shifts[0],
        "shifts": len(network.image_shifts),
        "max_looks": network.max_looks,
        "margin": network.margin,
        "border": network.layers[0].pad_value,
        "prepares": int(prepared),
        "max_side": MAX_SIDE,
        **_list_sources(prepared),
        "layer_rows": ",\n".join(_format_layer(*pair) for pair in pairs),
    } | {
        name: _format_numbers(np.frombuffer(table, TABLE_TYPES[name]).tolist())
        for name, table in tables.items()
    }
    files = {path: _fill_template(Path(path).name, values) for path in SOURCES}
    if prepared:
        files |= {f"src/{name}": text for name, text in prepare_source().items()}
    return files


def _list_sources(prepared: bool) -> dict[str, str]:
    """Return the lists of sources and objects in the build systems' files, by template name."""
    names = ("digit", "prepare") if prepared else ("digit",)
    return {
        "headers": ",".join(f"{name}.h" for name in names),
        "objects": " ".join(f"{name}.o" for name in names),
        "cmake_sources": " ".join(f"src/{name}.c" for name in names),
        "micropython_sources": "".join(
            f"\n  ${{CMAKE_CURRENT_LIST_DIR}}/src/{name}.c" for name in names
        ),
        "micropython_make_sources": " ".join(f"$(USERMOD_DIR)/src/{name}.c" for name in names),
    }


def is_prepared(kind: ImageKind) -> bool:
    """Return whether prepare.c makes images of this kind: size, polarity and direction of MNIST."""
    looks = kind.polarity, kind.orientation
    return kind.shape == (1, SIDE, SIDE) and looks == ("light on dark", "upright")


def describe_macs(network: IntegerNetwork) -> str:
    """Return in words how many multiply-accumulates an image takes."""
    if network.max_looks == 1:
        return f"{network.macs:,}"
    return f"{network.first_macs:,} or, in doubt, {network.macs:,}"


def _release() -> str:
    """Return this package's version as three numbers, which is all that Arduino accepts."""
    found = re.match(r"\d+\.\d+\.\d+", version("featherweight"))
    return found[0] if found else "0.0.0"


def _fill_template(name: str, values: Mapping[str, object]) -> str:
    return Template((TEMPLATES / name).read_text(encoding="utf-8")).substitute(values)


def describe_looks(looks: Tensor) -> str:
    """Return a sentence about the numbers of looks (n,) at validation images."""
    again = int((looks > 1).sum())
    if int(looks.max()) == 1:
        return "One look at every image."
    return (
        f"One look, or {int(looks.max())} where the two largest scores are close: at {again:,} of "
        f"{len(looks):,} validation images."
    )


def expected_output(scores: Tensor) -> str:
    """Return what the program prints for scores (n, classes)."""
    return "".join(f"{int(row.argmax())} {' '.join(map(str, row.tolist()))}\n" for row in scores)


def _is_export(folder: Path) -> bool:
    """Return whether a folder was exported, be it by an early version, which had no folder src."""
    for name in ("src/digit.c", "digit.c"):
        try:
            if (folder / name).read_text(encoding="utf-8").startswith(EXPORT_HEADER):
                return True
        except (OSError, UnicodeDecodeError):
            continue
    return False


def _write_folder(path: Path, files: dict[str, bytes]) -> None:
    """Write all files or none. Replace a folder of an earlier export; refuse any other folder."""
    if path.exists() and not _is_export(path):
        raise InputError(f"{path}: exists and is no earlier export, expected no such folder")
    temporary = new_folder(path.parent, f".{path.name}.")
    try:
        for name, content in files.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            (temporary / name).write_bytes(content)
        if path.exists():  # a folder cannot be renamed over one that has files
            path.rename(temporary / "before")
        temporary.rename(path)
        shutil.rmtree(path / "before", ignore_errors=True)
    except BaseException:
        if (temporary / "before").exists():
            (temporary / "before").rename(path)
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def export_c(run: Run, split: Split, bits: int) -> Firmware:
    """Write RUN/c-int8, c-int4 or c-int2: the C code as a package, a README and example images.

    Args:
        run: A finished run of a Feather network.
        split: The run's data set.
        bits: Bits of each weight: 2, 4 or 8.

    Raises:
        InputError: The run is not finished, its network is no Feather or does not fit the integers
            of the C code, or the folder exists and is no earlier export.
    """
    converted = convert_run(run, split, bits)
    network, scores = converted.network, converted.scores
    firmware = Firmware(
        **vars(converted),
        path=run.export_path(f"c-int{bits}"),
        flash=flash(network),
        ram=scratch(network)["ram"],
    )
    title = f"{run.recipe.name}, seed {run.seed}"
    looks = LOOKS[split.kind.polarity]
    if split.kind.orientation == "transposed":
        looks += ", rows and columns exchanged"
    prepared = is_prepared(split.kind)
    files = source(network, title, looks, prepared)
    height, width = network.shape
    values: dict[str, object] = {
        "title": title,
        "looks": looks,
        "pixels": height * width,
        "height": height,
        "width": width,
        "classes": len(network.head),
        "bits": bits,
        "flash": f"{firmware.flash:,}",
        "ram": f"{firmware.ram:,}",
        "macs": describe_macs(network),
        "n_looks": describe_looks(converted.looks),
        "logit": round(network.scores_per_logit),
        "correct": percent(firmware.correct, len(scores)),
        "float_correct": percent(firmware.float_correct, len(scores)),
        "examples": EXAMPLES,
        "max_side": MAX_SIDE,
        "code": f"{CODE:,}",
        "prepare_ram": f"{RAM:,}",
        "prepare_stack": STACK,
    }
    values["prepare"] = _fill_template("prepare.md", values) if prepared else ""
    files["README.md"] = _fill_template("README.md", values)
    files["examples/ReadDigit/example.h"] = _fill_template(
        "example.h",
        {
            "looks": looks,
            "image": _format_numbers(split.val.pixels[0].flatten().tolist()),
            "scores": _format_numbers(scores[0].tolist()),
        },
    )
    files["example.txt"] = expected_output(scores[:EXAMPLES])
    contents = {name: text.encode() for name, text in files.items()}
    contents["example.raw"] = split.val.pixels[:EXAMPLES].numpy().tobytes()
    _write_folder(firmware.path, contents)
    return firmware
