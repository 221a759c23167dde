"""The networks that come with the package: run folders of most recipes, with their ONNX files.

Example:
    find_pretrained("feather-4k")    # .../inference/pretrained/feather-4k
    find_pretrained("runs/my-run")   # None

A name stands for its network wherever a run or an exported file is expected; write ./NAME for a
folder of that name. `tools/make_models.py` builds the folders.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "inference" / "pretrained"
DEFAULT_MODEL = "reader"


@dataclass(frozen=True)
class Pretrained:
    """A network that comes with the package."""

    name: str
    "The recipe's name, which is the network's too."
    folder: Path
    "Its run folder, with model.onnx."
    parameters: int
    "Number of parameters, as the audit counts them."
    macs: int
    "Multiply-accumulates for one image, over all views."
    views: int
    "How often it looks at an image, as the audit counts it."
    validation_correct: int
    "Validation images that model.onnx reads right."
    validation_total: int
    "Number of validation images."
    test_correct: int
    "Test images that model.onnx reads right. The network was not chosen by it."
    test_total: int
    "Number of test images."
    seed: int
    "Seed of the run."
    chosen: str
    "How the seed was chosen."

    @property
    def file_bytes(self) -> int:
        """Return the size of model.onnx."""
        return (self.folder / "model.onnx").stat().st_size


@cache
def pretrained() -> dict[str, Pretrained]:
    """Return the networks by name, most accurate in validation first."""
    found = []
    for file in FOLDER.glob("*/evaluation.json"):
        values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        found.append(Pretrained(name=file.parent.name, folder=file.parent, **values))
    found.sort(key=lambda model: (-model.validation_correct, model.name))
    return {model.name: model for model in found}


def find_pretrained(name: str) -> Path | None:
    """Return the run folder of a network that comes with the package, None for any other name."""
    model = pretrained().get(name)
    return None if model is None else model.folder
