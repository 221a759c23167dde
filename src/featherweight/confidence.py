"""What a confidence means: its calibration, from where on a reading is sure, and what is no digit.

    found = find_confidence(log_probabilities, split.val.labels)
    found.temperature, found.sure_from

The confidence is the largest calibrated probability. All three numbers are chosen on validation
images; those of no digit are synthetic, of seeds that training does not see. What is told of them
is measured on others, of seeds, fonts and kinds that neither training nor the choice sees.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.stats import rankdata
from torch import Tensor

from .data import Images
from .evaluate import Evaluation
from .synthetic import HELD_OUT_KINDS, NO_DIGIT, Synthetic, make_synthetic

# A reading is sure from the lowest confidence above which at most this fraction of the validation
# images is read wrong,
MAX_ERROR_WHEN_SURE = 0.001
# and at most this fraction of the images that show no digit is read.
MAX_OTHERS_SURE = 0.01
# An image shows no digit below the highest confidence that rejects at most this fraction of the
# digits that are read right.
MAX_REJECTED = 0.001
# Synthetic images that thresholds are chosen on, and as many that rejection is measured on.
N_VALIDATION, CHOICE_SEED, HELD_OUT_SEED = 5000, 1, 2


@lru_cache(maxsize=1)
def _validation(n: int) -> tuple[Synthetic, Synthetic]:
    return make_synthetic(n, CHOICE_SEED), make_synthetic(n, HELD_OUT_SEED, held_out=True)


def validation_images() -> Images:
    """Return the synthetic images that validate, with the label NO_DIGIT for those of no digit.

    Thresholds are chosen on the first half, and measured on the second."""
    chosen, held_out = _validation(N_VALIDATION)
    pixels = np.concatenate([chosen.pixels, held_out.pixels])[:, None]
    labels = np.concatenate([chosen.labels, held_out.labels])
    return Images(torch.from_numpy(pixels), torch.from_numpy(labels))


@dataclass(frozen=True)
class Rejection:
    """How well the confidence tells digits from other images, on held-out images."""

    digit_from: float
    "Confidence below which an image shows no digit."
    auroc: float
    """Area under the receiver operating characteristic: the probability that a digit, of MNIST or
    synthetic, has a higher confidence than an image of no digit."""
    digits_right: int
    "Synthetic digits that are read right, were none rejected."
    digits: int
    "Synthetic digits."
    others_sure: int
    "Images of no digit for which a digit is read and sure."
    others_rejected: int
    "Images of no digit that are rejected."
    others: int
    "Images of no digit."
    unseen_sure: int
    "Of images of no digit whose kind training never draws: for which a digit is read and sure."
    unseen: int
    "Images of no digit whose kind training never draws."
    right_rejected: int
    "Digits of MNIST that are rejected, and would be read right."
    right: int
    "Digits of MNIST that are read right, were none rejected."


@dataclass(frozen=True)
class Confidence:
    """What a network's confidence means."""

    temperature: float
    "What log-probabilities are divided by, with four digits."
    sure_from: float
    "Confidence from which on a reading is sure."
    calibrated: Evaluation
    "The evaluation of the validation images, at the temperature."
    rejection: Rejection | None
    "Of a network that was trained to be unsure of what is no digit."


def evaluation(log_probabilities: Tensor, labels: Tensor) -> Evaluation:
    """Return the evaluation of logits or log-probabilities (n, classes)."""
    return Evaluation.of(log_probabilities.log_softmax(1), labels)


def temperature(log_probabilities: Tensor, labels: Tensor) -> float:
    """Return the temperature that minimises the loss (temperature scaling, Guo et al. 2017).

    Args:
        log_probabilities: Log-probabilities (n, classes), which are divided by the temperature.
        labels: Classes (n,).
    """

    def loss(log_t: float) -> float:
        return evaluation(log_probabilities / np.exp(log_t), labels).loss

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))


def sure_from(result: Evaluation) -> float:
    """Return the lowest confidence from which on at most 1 in 1,000 images is read wrong.

    Returns 1 if there is no such confidence.
    """
    confidence, order = result.probabilities.amax(1).sort(descending=True)
    wrong = (result.predicted != result.labels)[order].cumsum(0)
    fine = (wrong <= MAX_ERROR_WHEN_SURE * torch.arange(1, result.total + 1)).nonzero()[:, 0]
    return float(confidence[fine[-1]]) if len(fine) else 1.0


def auroc(digits: Tensor, others: Tensor) -> float:
    """Return the probability that a number of `digits` (n,) is above one of `others` (m,).

    Equal numbers count half (Mann and Whitney 1947)."""
    n, m = len(digits), len(others)
    ranks = rankdata(torch.cat([digits, others]).numpy())
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))


def find_confidence(
    log_probabilities: Tensor, labels: Tensor, synthetic: Tensor | None = None
) -> Confidence:
    """Return what the confidence of a network means.

    Args:
        log_probabilities: Of the validation images, (n, classes).
        labels: Their classes, (n,).
        synthetic: Log-probabilities of `validation_images()`, of a network that was trained on
            synthetic images.
    """
    divisor = float(f"{temperature(log_probabilities, labels):.4g}")  # exactly as it is written
    real = evaluation(log_probabilities / divisor, labels)
    sure = sure_from(real)
    if synthetic is None:
        return Confidence(divisor, sure, real, None)
    chosen, held_out = _validation(N_VALIDATION)
    probabilities = (synthetic / divisor).softmax(1)
    confidence, predicted = probabilities[:N_VALIDATION].max(1)
    labels_made = torch.from_numpy(chosen.labels)
    others = confidence[labels_made == NO_DIGIT]
    # Rounded upwards, because files hold four decimals.
    sure = max(sure, _above(float(others.double().quantile(1 - MAX_OTHERS_SURE))))
    right = real.probabilities.amax(1)[real.predicted == labels]
    right_made = confidence[predicted == labels_made]
    digit = min(float(each.double().quantile(MAX_REJECTED)) for each in (right, right_made))
    digit = int(digit * 1e4) / 1e4
    confidence, predicted = probabilities[N_VALIDATION:].max(1)
    labels_made = torch.from_numpy(held_out.labels)
    others = confidence[labels_made == NO_DIGIT]
    unseen = confidence[torch.from_numpy(np.isin(held_out.kinds, HELD_OUT_KINDS))]
    digits = torch.cat([real.probabilities.amax(1), confidence[labels_made != NO_DIGIT]])
    return Confidence(
        divisor,
        sure,
        real,
        Rejection(
            digit_from=digit,
            auroc=auroc(digits, others),
            digits_right=int((predicted == labels_made).sum()),
            digits=int((labels_made != NO_DIGIT).sum()),
            others_sure=int((others >= sure).sum()),
            others_rejected=int((others < digit).sum()),
            others=len(others),
            unseen_sure=int((unseen >= sure).sum()),
            unseen=len(unseen),
            right_rejected=int((right < digit).sum()),
            right=len(right),
        ),
    )


def _above(confidence: float) -> float:
    return min(1.0, int(confidence * 1e4 + 1) / 1e4)
