"""Evidence of a network whose head is a mean over places and a linear layer.

    head = EvidenceHead.load(open_model(path, threads=1))     # None for any other network
    head.explain(maps, log_probabilities)                       # an Evidence for each image

`featherweight.export` finds such heads and stores what is read here.
"""

import math
import re
from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from ._model import Model
from .reading import Evidence


@dataclass(frozen=True, eq=False)
class EvidenceHead:
    """The head of a network, and where the places of its last maps lie in the image."""

    maps: str
    "The output (offsets * n, channels, h, w) that the head takes the mean of."
    weight: np.ndarray
    "Weights (classes, channels) of the linear layer."
    bias: np.ndarray
    "Its bias (classes,)."
    labels: list[str]
    "Labels of the classes."
    pools: tuple[int, ...]
    "Sides of the max-pools that stack every offset of their grids along the batch, first to last."
    extent: tuple[float, float, float, float]
    "See `Evidence.extent`."
    field: tuple[float, float]
    "See `Evidence.field`."

    @classmethod
    def load(cls, model: Model) -> "EvidenceHead | None":
        """Return the head that an exported file stores, or None if it has none.

        Raises InputError if what it stores is damaged, or does not belong together.
        """
        card, first = model.card, model.first
        if "evidence_maps" not in card:
            return None
        left, top, right, bottom = _numbers(model, "evidence_extent", 4)
        width, height = _numbers(model, "evidence_field", 2)
        pools = tuple(map(int, _numbers(model, "evidence_pools", None)))
        name = card["evidence_maps"]
        maps, weight, bias = (first.get(each) for each in (name, "head", "bias"))
        offsets = math.prod(pools) ** 2
        if (
            not name.startswith("maps_")
            or maps is None
            or weight is None
            or bias is None
            or len(maps) != offsets * len(first["log_probabilities"])
            or weight.shape != (len(model.labels), maps.shape[1])
            or bias.shape != (len(model.labels),)
            or not (left < right and top < bottom and width > 0 and height > 0)
        ):
            raise InputError(
                f"{model.path}: got an evidence head that does not fit the network, expected one "
                "as `featherweight export` writes"
            )
        return cls(
            name, weight, bias, model.labels, pools, (left, top, right, bottom), (width, height)
        )

    def explain(self, maps: np.ndarray, log_probabilities: np.ndarray) -> list[Evidence]:
        """Return the evidence for each image.

        Args:
            maps: The last maps (offsets * n, channels, h, w).
            log_probabilities: Log-probabilities (n, classes).
        """
        n = len(log_probabilities)
        first, second = _best_two(log_probabilities)
        weight, bias = (
            self.weight[first] - self.weight[second],
            self.bias[first] - self.bias[second],
        )
        channels, height, width = maps.shape[1:]
        # (offsets, n, 1, channels) @ (offsets, n, channels, h * w) -> (offsets, n, h, w)
        values = weight[:, None] @ maps.reshape(-1, n, channels, height * width)
        values = values.reshape(-1, n, height, width)
        places = values.size // n
        grids = self._interleave((values + bias[:, None, None]) / places)
        if not np.isfinite(grids).all():
            raise InputError(f"{self.maps}: got evidence that is NaN or infinite")
        rows = np.arange(n)
        differences = log_probabilities[rows, first] - log_probabilities[rows, second]
        return [
            Evidence(
                self.labels[first[i]],
                self.labels[second[i]],
                float(differences[i]),
                grids[i],
                self.extent,
                self.field,
            )
            for i in range(n)
        ]

    def contributions(self, maps: np.ndarray, log_probabilities: np.ndarray) -> np.ndarray:
        """Return what each channel adds to the first class's lead over the second, (channels,).

        Args:
            maps: The last maps (offsets, channels, h, w) of one image.
            log_probabilities: Its log-probabilities (1, classes).
        """
        (first,), (second,) = _best_two(log_probabilities)
        weight = self.weight[first] - self.weight[second]
        return np.asarray(weight * maps.mean((0, 2, 3)), np.float32)

    def _interleave(self, values: np.ndarray) -> np.ndarray:
        """Join the grids of every offset (offsets, n, h, w) into one finer grid (n, rows, columns).

        The last pool's offsets are the outermost part of the first axis, rows before columns.
        """
        n, height, width = values.shape[1:]
        sides = self.pools[::-1]
        values = values.reshape(*(s for side in sides for s in (side, side)), n, height, width)
        k = 2 * len(sides)
        values = values.transpose(k, k + 1, *range(0, k, 2), k + 2, *range(1, k, 2))
        finer = math.prod(sides)
        return np.asarray(values.reshape(n, height * finer, width * finer), np.float32)


def _numbers(model: Model, key: str, n: int | None) -> list[float]:
    """Return `n` numbers of the metadata, or any number of whole ones from 1 on for None."""
    text = model.card.get(key, "")
    pattern = r"-?\d{1,4}(\.\d{1,9})?" if n is not None else r"[1-9]\d?"
    words = text.split()
    if (n is not None and len(words) != n) or not all(re.fullmatch(pattern, w) for w in words):
        raise InputError(
            f"{model.path}: {key}: got {text[:40]!r}, expected {n or 'whole'} numbers in pixels"
        )
    return [float(word) for word in words]


def _best_two(log_probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the most and the second most probable classes, each (n,)."""
    order = np.argsort(-log_probabilities, 1, kind="stable")
    return order[:, 0], order[:, 1]
