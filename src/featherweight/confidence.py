"""What a confidence means: its calibration, from where on a reading is sure, and what is no digit.

    found = find_confidence(log_probabilities, split.val.labels)
    found.temperature, found.sure_from

The confidence is the largest calibrated probability. All three numbers are chosen on validation
images; those of no digit are synthetic, and of seeds, fonts and kinds that training does not see.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.stats import rankdata
from torch import Tensor

from .data import Images, synthetic_images
from .evaluate import Evaluation
from .synthetic import NO_DIGIT

# A reading is sure from the lowest confidence above which at most this fraction of the validation
# images is read wrong,
MAX_ERROR_WHEN_SURE = 0.001
# and at most this fraction of the images that show no digit is read.
MAX_OTHERS_SURE = 0.03
# An image shows no digit below the highest confidence that rejects at most this fraction of the
# digits that are read right.
MAX_REJECTED = 0.001
N_HELD_OUT, HELD_OUT_SEED = 5000, 1


def held_out() -> Images:
    """Return the synthetic images that validate, with the label NO_DIGIT for those of no digit."""
    return synthetic_images(N_HELD_OUT, HELD_OUT_SEED, held_out=True)


@dataclass(frozen=True)
class Rejection:
    """How well the confidence tells digits from other images, on validation images."""

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
        synthetic: Log-probabilities of the images of `held_out`, of a network that was trained on
            synthetic images.
    """
    divisor = float(f"{temperature(log_probabilities, labels):.4g}")  # exactly as it is written
    real = evaluation(log_probabilities / divisor, labels)
    sure = sure_from(real)
    if synthetic is None:
        return Confidence(divisor, sure, real, None)
    made = held_out().labels
    probabilities = (synthetic / divisor).softmax(1)
    confidence, predicted = probabilities.max(1)
    others = confidence[made == NO_DIGIT]
    # Rounded upwards, because files hold four decimals.
    sure = max(sure, _above(float(others.double().quantile(1 - MAX_OTHERS_SURE))))
    right = real.probabilities.amax(1)[real.predicted == labels]
    made_right = confidence[predicted == made]
    digit = min(float(each.double().quantile(MAX_REJECTED)) for each in (right, made_right))
    digit = int(digit * 1e4) / 1e4
    digits = torch.cat([real.probabilities.amax(1), confidence[made != NO_DIGIT]])
    return Confidence(
        divisor,
        sure,
        real,
        Rejection(
            digit_from=digit,
            auroc=auroc(digits, others),
            digits_right=len(made_right),
            digits=int((made != NO_DIGIT).sum()),
            others_sure=int((others >= sure).sum()),
            others_rejected=int((others < digit).sum()),
            others=len(others),
            right_rejected=int((right < digit).sum()),
            right=len(right),
        ),
    )


def _above(confidence: float) -> float:
    return min(1.0, int(confidence * 1e4 + 1) / 1e4)
