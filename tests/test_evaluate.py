"""Counts, intervals and calibration against closed forms and scipy."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from torch import nn

from featherweight.data import Images
from featherweight.evaluate import Evaluation, evaluate, percent, wilson


@given(st.integers(1, 20_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_scipys(counts):
    correct, total = counts
    expected = binomtest(correct, total).proportion_ci(0.95, "wilson")
    assert wilson(correct, total) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_sixty_errors_of_ten_thousand():
    assert [round(100 * x, 2) for x in wilson(9940, 10_000)] == [99.23, 99.53]
    assert percent(9943, 10_000) == "99.43 % (57 wrong of 10,000)"


RESULT = Evaluation(
    0.0,
    torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.7, 0.1], [0.6, 0.3, 0.1], [0.0, 0.95, 0.05]]),
    torch.tensor([0, 1, 1, 2]),
)


def test_counts_by_hand():
    assert (RESULT.correct, RESULT.total, RESULT.accuracy) == (2, 4, 0.5)
    assert RESULT.confusion.tolist() == [[1, 0, 0], [1, 1, 0], [0, 1, 0]]
    assert RESULT.mistakes.tolist() == [3, 2]  # the more confident first
    # Each confidence is alone in its bin: 0.9 and 0.7 correct, 0.6 and 0.95 wrong.
    assert math.isclose(RESULT.calibration_error, (0.1 + 0.3 + 0.6 + 0.95) / 4, rel_tol=1e-6)
    rows = RESULT.to_dict()["per_class"]
    assert [(r["recall"], r["precision"]) for r in rows] == [(1, 0.5), (0.5, 0.5), (0, None)]


def test_it_shows_itself_in_one_line_and_as_a_table():
    assert repr(RESULT) == "50.00 % (2 wrong of 4), loss 0.0000"
    html = RESULT._repr_html_()
    low, high = RESULT.interval
    assert f"95 % interval {100 * low:.2f} to {100 * high:.2f} %" in html
    assert html.count("<tr>") == 4  # a heading and three classes
    assert html.count(">-<") == 1  # the precision of a class that is never predicted


def test_calibration_counts_hits_and_misses_of_a_bin_together():
    # All in one bin, three of four correct: calibrated.
    confident = torch.tensor([0.75, 0.25]).repeat(4, 1)
    assert Evaluation(0.0, confident, torch.tensor([0, 0, 0, 1])).calibration_error == 0
    assert Evaluation(
        0.0, confident, torch.tensor([0, 1, 1, 1])
    ).calibration_error == pytest.approx(0.5)


class Fixed(nn.Module):
    def __init__(self, log):
        super().__init__()
        self.log = log

    def forward(self, x):
        logits = x.flatten(1)[:, :10] * 3
        return logits.log_softmax(1) if self.log else logits


@pytest.mark.parametrize("training", [True, False])
def test_logits_and_log_probabilities_are_the_same(training):
    images = Images(
        torch.randint(0, 256, (2300, 1, 5, 5), dtype=torch.uint8), torch.randint(0, 10, (2300,))
    )
    results = []
    for log in (False, True):
        model = Fixed(log).train(training)
        results.append(evaluate(model, images, (0.5, 0.3)))
        assert model.training is training
    assert results[0].total == 2300
    assert results[0].loss == pytest.approx(results[1].loss, abs=1e-5)
    torch.testing.assert_close(results[0].probabilities.sum(1), torch.ones(2300))
    assert torch.equal(results[0].predicted, results[1].predicted)
    pixels = (images.pixels.float() / 255 - 0.5) / 0.3
    logits = pixels.flatten(1)[:, :10] * 3
    assert results[0].loss == pytest.approx(
        nn.functional.cross_entropy(logits, images.labels).item(), rel=1e-5
    )


@pytest.mark.parametrize("ending", [SystemExit(0), RuntimeError("no luck")])
def test_a_network_that_fails_on_a_batch_is_named(ending, split):
    class Fails(torch.nn.Linear):
        def forward(self, x):
            raise ending

    message = r"Fails fails on images \(100, 1, 28, 28\): .*(no luck|ends the process)"
    with pytest.raises(ValueError, match=message):
        evaluate(Fails(1, 1), split.val, split.mean_std)
