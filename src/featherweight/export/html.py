"""Export a finished run as one HTML file that reads digits: no server, no network connection.

    page = export_html(run, split, bits=8)      # RUN/digit-int8.html
    page.path, page.size

The file holds the weights and a program in JavaScript, which returns exactly the scores of
`integer.IntegerNetwork`. Its content security policy lets it run that program and nothing else, and
send nothing anywhere.
"""

import base64
import hashlib
import html
import json
import re
import zlib
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from string import Template
from typing import Any

import torch
from torch import Tensor

from .._files import write_atomic
from ..confidence import Confidence, find_confidence, validation_images
from ..data import Split
from ..errors import InputError
from ..image_kind import ImageKind
from ..layout import SIDE
from ..run import Run
from .integer import Conversion, IntegerNetwork, convert_run
from .packing import pack

TEMPLATES = Path(__file__).parent / "templates"
SCRIPTS = ("network.js", "prepare.js", "page.js")
NAMED = 10  # classes that an empty sheet names
# The page may run its two scripts and use its style, by their digests. Nothing may be sent or
# fetched; the icon is data in its head.
POLICY = (
    "default-src 'none'; script-src '{loader}' '{script}'; style-src '{style}'; img-src data:; "
    "base-uri 'none'; form-action 'none'"
)


@dataclass(frozen=True, kw_only=True)
class Page(Conversion):
    """An HTML file that was written, and its results on the validation images."""

    path: Path
    "The file."
    size: int
    "Bytes of the file."


def _base64(values: Tensor, dtype: str) -> str:
    return base64.b64encode(values.numpy().astype(dtype).tobytes()).decode()


def model_values(network: IntegerNetwork) -> dict[str, Any]:
    """Return a network as JSON values, from which network.js makes its function.

    A row of `layers` has: 1 for a depthwise convolution, or for a pool, which is one with a single
    weight of 1, else 0; kernel, stride, padding, the integer that pads, pool, outputs; the index of
    its first weight, and that of its first multiplier and bias; shift and fraction in (2), and
    multiplier, shift and zero point in (4). Weights are (outputs, height, width, inputs).
    """
    rows: list[list[int]] = []
    places: dict[bytes, int] = {}  # of the weights of each filter bank, which a repeat shares
    weights: list[Tensor] = []
    n_weights = n_outputs = 0
    for layer in network.layers:
        flat = layer.weights.permute(0, 2, 3, 1).flatten()
        place = places.setdefault(flat.numpy().tobytes(), n_weights)
        if place == n_weights:
            weights.append(flat)
            n_weights += len(flat)
        rows.append(
            [
                int(layer.kind != "conv"),
                *(layer.kernel, layer.stride, layer.padding, layer.pad_value),
                *(layer.pool, layer.outputs, place, n_outputs),
                *(layer.shift, layer.fraction, layer.out_multiplier, layer.out_shift),
                layer.zero_point,
            ]
        )
        if layer.kind == "pool":
            rows[-1][-3:] = 1, 0, 0  # in (4), the integer as it is
        n_outputs += len(layer.multipliers)
    return {
        "side": network.shape[0],
        "hardswish": network.hardswish,
        "shifts": list(network.image_shifts),
        "margin": network.margin,
        "bits": network.bits,
        "layers": rows,
        "headBiases": network.head_biases.tolist(),
        "weights": base64.b64encode(pack(torch.cat(weights), network.bits)).decode(),
        "multipliers": _base64(torch.cat([layer.multipliers for layer in network.layers]), "<i2"),
        "biases": _base64(torch.cat([layer.biases for layer in network.layers]), "<i2"),
        "head": _base64(network.head, "i1"),
    }


def shrink(source: str) -> str:
    """Return JavaScript, CSS or HTML without indentation, empty lines, and lines that are comments.

    No string may span lines.
    """
    source = re.sub(r"^\s*/\*.*?\*/$", "", source, flags=re.MULTILINE | re.DOTALL)
    lines = map(str.strip, source.splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("//"))


def program() -> str:
    """Return the program of the page, which is the same for every network."""
    return shrink("\n".join(map(_template, SCRIPTS)))


def _template(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """Return the digest by which a content security policy allows a style or a script."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def source(
    network: IntegerNetwork, kind: ImageKind, confidence: Confidence, title: str, facts: str
) -> str:
    """Return the page.

    Args:
        network: The network.
        kind: Polarity, orientation and classes of its images.
        confidence: What its confidence means, where a score of `scores_per_logit` is a logit of 1.
        title: What the network is called.
        facts: A sentence about it for the foot of the page.
    """
    classes, rejection = kind.classes, confidence.rejection
    model = model_values(network) | {
        "labels": classes,
        "isInverted": kind.polarity == "dark on light",
        "isTransposed": kind.orientation == "transposed",
        "scoreUnit": network.scores_per_logit * confidence.temperature,
        "sureFrom": confidence.sure_from,
        "digitFrom": rejection.digit_from if rejection else 0,
    }
    reads_digits = all(re.fullmatch(r"\d", name) for name in classes)
    named = ", ".join(classes[:NAMED])
    named += f" and {len(classes) - NAMED} more" if len(classes) > NAMED else ""
    style, loader, script = shrink(_template("page.css")), shrink(_template("loader.js")), program()
    values = {
        "title": title,
        "version": version("featherweight"),
        "invitation": "Draw a digit" if reads_digits else "Draw a sign",
        "nothing": f"{'One' if reads_digits else f'One of {named}'}, large and in the middle. Or "
        "open a picture.",
        "facts": facts,
        "side": str(SIDE),
    }
    return Template(shrink(_template("page.html"))).substitute(
        {name: html.escape(value) for name, value in values.items()},
        policy=POLICY.format(loader=_digest(loader), script=_digest(script), style=_digest(style)),
        style=style,
        loader=loader,
        # Packed, since it would be most of a page with a small network.
        program=base64.b64encode(zlib.compress(script.encode(), 9)).decode(),
        # The text of a script element ends at the first "</script".
        model=json.dumps(model, separators=(",", ":")).replace("<", "\\u003c"),
    )


def _check_images(kind: ImageKind) -> None:
    """Raise InputError unless a page can prepare pictures as images of this kind."""
    if (kind.height, kind.width) != (SIDE, SIDE) or kind.polarity == "natural":
        looks = "photographs" if kind.polarity == "natural" else "ink"
        raise InputError(
            f"the network takes images of {kind.height}x{kind.width} pixels that show {looks}, "
            f"expected {SIDE}x{SIDE} pixels that show ink, for a page to prepare pictures",
            hint="featherweight export RUN --format onnx, then featherweight serve --model FILE",
        )


def export_html(run: Run, split: Split, bits: int) -> Page:
    """Write RUN/digit-int8.html, digit-int4.html or digit-int2.html: one file that reads digits.

    Args:
        run: A finished run of a Feather network.
        split: The run's data set, images of ink of 28 x 28 pixels.
        bits: Bits of each weight: 2, 4 or 8.

    Raises:
        InputError: The run is not finished, or its network is no Feather, does not fit the integers
            of the page, or takes other images.
    """
    _check_images(split.kind)
    converted = convert_run(run, split, bits)
    network = converted.network
    logits = converted.scores.double() / network.scores_per_logit
    synthetic = None
    if run.recipe.synthetic:
        synthetic = network.scores(validation_images().pixels).double() / network.scores_per_logit
    confidence = find_confidence(logits, split.val.labels, synthetic)
    facts = (
        f"{run.recipe.name}: {converted.n_params:,} parameters as {bits}-bit integers, "
        f"{100 * converted.correct / len(logits):.2f} % right on {len(logits):,} images it never "
        "saw."
    )
    page = source(network, split.kind, confidence, run.recipe.name, facts).encode()
    path = run.export_path(f"digit-int{bits}.html")
    write_atomic(path, page)
    return Page(**vars(converted), path=path, size=len(page))
