"""How submissions are judged, all alike."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..contract import Contract
from ..recipe import Recipe, find_recipe

FORMAT = 2  # of what a digest stands for: another one has every submission judged again


@dataclass(frozen=True)
class Settings:
    """How every submission is judged."""

    contract: Contract
    "What must hold."
    data: str | None = None
    "The images, as `data.load_split` takes them."
    train: str | None = None
    "Name of the recipe that trains a network without weights. None: its structure is judged."
    mean_std: tuple[float, float] | None = None
    "How the images were normalised where the weights were trained. None: see `audit_weights`."

    @property
    def recipe(self) -> Recipe | None:
        """Return the recipe of a training."""
        return None if self.train is None else find_recipe(self.train)

    def digest(self) -> str:
        """Return the SHA-256 of all that decides a verdict but the submission."""
        recipe = self.recipe
        values = [
            *(FORMAT, __version__, self.contract.to_dict(), _stamp(self.data), self.mean_std),
            recipe and recipe.to_dict(),
        ]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _stamp(data: str | None) -> list[Any]:
    """Return names, sizes and times of the files of a data set, which may be too many to read."""
    if data is None:
        return ["mnist"]
    path = Path(data)
    files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    return [
        [os.path.relpath(each, path), each.stat().st_size, each.stat().st_mtime_ns]
        for each in files
        if each.exists()
    ]
