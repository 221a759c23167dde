"""Evidence of a network whose head is a mean over places and a linear layer.

    head = EvidenceHead.load(session, reader.card, labels, (28, 28))   # None for any other network
    head.explain(maps, log_probabilities)                       # an Evidence for each image

`featherweight.export` finds such heads and stores what is read here.
"""

import math
from dataclasses import dataclass

import numpy as np
import onnxruntime

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
    def load(
        cls,
        session: onnxruntime.InferenceSession,
        card: dict[str, str],
        labels: list[str],
        shape: tuple[int, int],
    ) -> "EvidenceHead | None":
        """Return the head that an exported file stores, or None if it has none."""
        if "evidence_maps" not in card:
            return None
        weight, bias = session.run(["head", "bias"], {"pixels": np.zeros((1, *shape), np.uint8)})
        left, top, right, bottom = map(float, card["evidence_extent"].split())
        width, height = map(float, card["evidence_field"].split())
        return cls(
            card["evidence_maps"],
            weight,
            bias,
            labels,
            tuple(map(int, card["evidence_pools"].split())),
            (left, top, right, bottom),
            (width, height),
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


def _best_two(log_probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the most and the second most probable classes, each (n,)."""
    order = np.argsort(-log_probabilities, 1, kind="stable")
    return order[:, 0], order[:, 1]
