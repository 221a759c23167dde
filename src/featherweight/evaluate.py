"""Evaluate a network: counts, interval, confusion matrix, calibration.

Example:
    result = evaluate(model, split.val, split.mean_std)
    result.correct, result.total, result.interval       # 9956, 10000, (0.9941, 0.9967)
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ._html import html_table, html_text
from .build import forward
from .counts import percent as percent
from .counts import wilson as wilson
from .data import Images
from .data import normalise as normalise

# Images in a batch. Batch size changes the order of float sums, so every evaluation uses this one
# and the counts of two evaluations agree.
EVAL_BATCH_SIZE = 500
N_CALIBRATION_BINS = 15  # as in Guo et al. 2017


@dataclass(frozen=True, repr=False)
class Evaluation:
    """A network's predictions on labelled images, and the metrics computed from them."""

    loss: float
    "Mean negative log-likelihood in nats."
    probabilities: Tensor
    "Softmax outputs, shape (n, classes), on the CPU."
    labels: Tensor
    "True classes, shape (n,), on the CPU."

    @staticmethod
    def of(log_probabilities: Tensor, labels: Tensor) -> "Evaluation":
        """Return the evaluation of log-probabilities (n, classes), on the labels' device."""
        loss = F.nll_loss(log_probabilities, labels).item()
        return Evaluation(loss, log_probabilities.exp().cpu(), labels.cpu())

    @property
    def predicted(self) -> Tensor:
        """Predicted classes, shape (n,)."""
        return self.probabilities.argmax(1)

    @property
    def correct(self) -> int:
        """Number of images classified correctly."""
        return int((self.predicted == self.labels).sum())

    @property
    def total(self) -> int:
        """Number of images."""
        return len(self.labels)

    @property
    def accuracy(self) -> float:
        """Fraction of images classified correctly."""
        return self.correct / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the accuracy."""
        return wilson(self.correct, self.total)

    @property
    def confusion(self) -> Tensor:
        """Confusion matrix of counts, shape (classes, classes): [true class, predicted class]."""
        classes = self.probabilities.shape[1]
        return torch.bincount(self.labels * classes + self.predicted, minlength=classes**2).reshape(
            classes, classes
        )

    @property
    def mistakes(self) -> Tensor:
        """Indices of the misclassified images, the most confident mistake first."""
        wrong = (self.predicted != self.labels).nonzero()[:, 0]
        return wrong[self.probabilities[wrong].amax(1).argsort(descending=True, stable=True)]

    @property
    def calibration_error(self) -> float:
        """Expected calibration error over 15 equal bins of confidence (Guo et al. 2017)."""
        n_bins = N_CALIBRATION_BINS
        confidence = self.probabilities.amax(1).double()
        hit = (self.predicted == self.labels).double()
        bins = (confidence * n_bins).ceil().long().clamp(1, n_bins) - 1
        gaps = torch.zeros(n_bins, dtype=torch.float64).index_add_(0, bins, hit - confidence)
        return float(gaps.abs().sum()) / self.total

    def _per_class(self) -> list[dict[str, Any]]:
        confusion = self.confusion
        rows = []
        for label in range(len(confusion)):
            correct, total = int(confusion[label, label]), int(confusion[label].sum())
            predicted = int(confusion[:, label].sum())
            rows.append(
                {
                    "class": label,
                    "total": total,
                    "correct": correct,
                    "precision": correct / predicted if predicted else None,
                    "recall": correct / total if total else None,
                }
            )
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; `per_class` has counts, precision and recall of each class."""
        return {
            "loss": self.loss,
            "correct": self.correct,
            "total": self.total,
            "accuracy": self.accuracy,
            "interval": list(self.interval),
            "calibration_error": self.calibration_error,
            "per_class": self._per_class(),
            "confusion": self.confusion.tolist(),
        }

    def __repr__(self) -> str:
        """Return one line, such as `99.62 % (38 wrong of 10,000), loss 0.0147`."""
        return f"{percent(self.correct, self.total)}, loss {self.loss:.4f}"

    def _repr_html_(self) -> str:
        """Return what a notebook shows: accuracy, interval, and a table of the classes."""

        def shown(fraction: float | None) -> str:
            return "-" if fraction is None else f"{100 * fraction:.2f} %"

        low, high = self.interval
        headline = html_text(percent(self.correct, self.total), bold=True)
        rest = html_text(
            f", 95 % interval {100 * low:.2f} to {100 * high:.2f} %, loss {self.loss:.4f}"
        )
        return f"<p>{headline}{rest}</p>\n" + html_table(
            ["class", "images", "correct", "precision", "recall"],
            [
                (
                    row["class"],
                    f"{row['total']:,}",
                    f"{row['correct']:,}",
                    shown(row["precision"]),
                    shown(row["recall"]),
                )
                for row in self._per_class()
            ],
        )


def evaluate(model: nn.Module, images: Images, mean_std: tuple[float, float]) -> Evaluation:
    """Evaluate `model` on every image, in evaluation mode, and restore its mode afterwards.

    The model and the images must be on the same device. `mean_std` are the mean and standard
    deviation of pixels in [0, 1] that the images are normalised with. Raises InputError if the
    model fails on a batch.
    """
    scores = [
        log_probabilities(model, batch, mean_std) for batch in images.pixels.split(EVAL_BATCH_SIZE)
    ]
    return Evaluation.of(torch.cat(scores), images.labels)


@torch.no_grad()
def log_probabilities(model: nn.Module, pixels: Tensor, mean_std: tuple[float, float]) -> Tensor:
    """Return the log-probabilities (n, classes) of a batch, pixels (n, channels, height, width).

    Like `evaluate`, which see."""
    mode = model.training
    model.eval()
    # log_softmax leaves log-probabilities as they are, so networks may return either.
    scores = F.log_softmax(forward(model, normalise(pixels, mean_std)).float(), 1)
    model.train(mode)
    return scores
