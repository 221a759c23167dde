"""Count what a network reads right, with an honest interval.

result = evaluate(model, split.val, split.mean_std)
result.correct, result.total, result.interval       # 9956, 10000, (0.9941, 0.9967)
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .build import forward
from .data import Images

BATCH = 500  # images; the same wherever a network is evaluated, so that the counts agree


def normalise(pixels: Tensor, mean_std: tuple[float, float]) -> Tensor:
    """uint8 or float in [0, 255] -> zero mean and unit deviation over the training images."""
    mean, std = mean_std
    return (pixels.float() - 255 * mean) / (255 * std)


def wilson(correct: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % score interval of a fraction (Wilson 1927), better than the normal one near 1."""
    p, n = correct / total, total
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def percent(correct: int, total: int) -> str:
    """`99.43 % (57 wrong of 10,000)`."""
    return f"{100 * correct / total:.2f} % ({total - correct:,} wrong of {total:,})"


@dataclass(frozen=True)
class Evaluation:
    """`probabilities` (n, classes) and `labels` (n,) on the CPU, and what follows from them."""

    loss: float
    "Mean negative log-likelihood in nats."
    probabilities: Tensor
    labels: Tensor

    @property
    def predicted(self) -> Tensor:
        return self.probabilities.argmax(1)

    @property
    def correct(self) -> int:
        return int((self.predicted == self.labels).sum())

    @property
    def total(self) -> int:
        return len(self.labels)

    @property
    def accuracy(self) -> float:
        return self.correct / self.total

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.correct, self.total)

    @property
    def confusion(self) -> Tensor:
        """(classes, classes) counts: row the true class, column the predicted one."""
        classes = self.probabilities.shape[1]
        return torch.bincount(self.labels * classes + self.predicted, minlength=classes**2).reshape(
            classes, classes
        )

    @property
    def mistakes(self) -> Tensor:
        """Indices of the images read wrong, the most confident mistake first."""
        wrong = (self.predicted != self.labels).nonzero()[:, 0]
        return wrong[self.probabilities[wrong].amax(1).argsort(descending=True, stable=True)]

    @property
    def calibration_error(self) -> float:
        """Expected calibration error over 15 equal bins of confidence (Guo et al. 2017)."""
        confidence = self.probabilities.amax(1).double()
        hit = (self.predicted == self.labels).double()
        bins = (confidence * 15).ceil().long().clamp(1, 15) - 1
        gaps = torch.zeros(15, dtype=torch.float64).index_add_(0, bins, hit - confidence)
        return float(gaps.abs().sum()) / self.total

    def to_dict(self) -> dict[str, Any]:
        """JSON values; `per_class` has a row a class: total, correct, precision, recall."""
        confusion = self.confusion
        per_class = []
        for label in range(len(confusion)):
            correct, total = int(confusion[label, label]), int(confusion[label].sum())
            named = int(confusion[:, label].sum())
            per_class.append(
                {
                    "class": label,
                    "total": total,
                    "correct": correct,
                    "precision": correct / named if named else None,
                    "recall": correct / total if total else None,
                }
            )
        return {
            "loss": self.loss,
            "correct": self.correct,
            "total": self.total,
            "accuracy": self.accuracy,
            "interval": list(self.interval),
            "calibration_error": self.calibration_error,
            "per_class": per_class,
            "confusion": confusion.tolist(),
        }


@torch.no_grad()
def evaluate(model: nn.Module, images: Images, mean_std: tuple[float, float]) -> Evaluation:
    """Every image once, in evaluation mode, whatever device both are on. The mode is put back.

    Raises ValueError where the network fails on a batch."""
    mode = model.training
    model.eval()
    # log_softmax leaves log-probabilities as they are, so networks may return either.
    log_probabilities = torch.cat(
        [
            F.log_softmax(forward(model, normalise(batch, mean_std)).float(), 1)
            for batch in images.pixels.split(BATCH)
        ]
    )
    model.train(mode)
    loss = F.nll_loss(log_probabilities, images.labels).item()
    return Evaluation(loss, log_probabilities.exp().cpu(), images.labels.cpu())
