"""What an exported file says of the images that its network was trained on.

    describe_images(split)      # {"labels": ..., "kind": ..., ...}, entries of the metadata

Who prepares pictures for the network needs it: how large they are, whether their ink is light or
dark, and where it lies in an image.
"""

import json
from dataclasses import replace

from ..data import Split
from ..layout import measure_layout

MAX_LABELS = 9_000  # characters
LOOKS = {"light on dark": "light ink on black", "dark on light": "dark ink on white"}


def describe_images(split: Split) -> dict[str, str]:
    """Return the entries of the metadata that say what a split's images are like."""
    kind = replace(split.kind, classes=tuple(map(_printable, split.kind.classes)))
    looks = LOOKS.get(kind.polarity, "as they are" if kind.channels == 1 else "red, green, blue")
    turned = ", rows and columns exchanged" if kind.orientation == "transposed" else ""
    size = "(n, height, width)" if kind.channels == 1 else "(n, 3, height, width)"
    names = " ".join(kind.classes)
    if names.split() != list(kind.classes) or len(names) > MAX_LABELS:
        names = " ".join(map(str, range(len(kind.classes))))
    entries = {
        "labels": names,  # for whoever knows nothing of kinds
        "kind": json.dumps(kind.to_dict()),
        "input": f"pixels {size} uint8, {looks}{turned}, as the training images",
    }
    # Of MNIST itself a reader knows it; where there is no ink, there is nothing to measure.
    if split.source is not None and kind.channels == 1 and kind.polarity in LOOKS:
        pixels = split.train.pixels[:, 0].numpy()
        light = pixels if kind.polarity == "light on dark" else 255 - pixels
        entries["layout"] = measure_layout(light).to_text()
    return entries


def _printable(name: str) -> str:
    """Return the name of a class, which may be that of a folder, as one printable line."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in name
    )
