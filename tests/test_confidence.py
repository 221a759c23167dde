"""What a confidence means: temperature, thresholds, rejection."""

import pytest
import torch

from featherweight import confidence
from featherweight.confidence import (
    MAX_OTHERS_SURE,
    MAX_REJECTED,
    auroc,
    find_confidence,
    sure_from,
    temperature,
    validation_images,
)
from featherweight.evaluate import Evaluation
from featherweight.synthetic import HELD_OUT_KINDS, NO_DIGIT, make_synthetic


def test_the_temperature_undoes_a_scale():
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(20_000, 10, generator=generator)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    assert temperature(3 * logits, labels) == pytest.approx(3, rel=0.03)


def test_sure_from_is_the_least_confidence_with_one_in_a_thousand_wrong():
    confidence = torch.linspace(0.99, 0.5, 3000)
    probabilities = torch.stack([confidence, 1 - confidence], 1)
    labels = torch.zeros(3000, dtype=torch.int64)
    labels[[999, 1500, 1600]] = 1
    # 1 of the first 1,000 may be wrong and 2 of 2,000. The third error would need 3,000 images, but
    # is the 1,601st.
    result = Evaluation(0.0, probabilities, labels)
    kept = probabilities[:, 0] >= sure_from(result)
    assert int((labels[kept] == 1).sum()) <= int(kept.sum()) / 1000
    more = probabilities[:, 0] >= sure_from(result) - 1e-3
    assert int((labels[more] == 1).sum()) > int(more.sum()) / 1000 or int(kept.sum()) == 3000
    labels[:] = 1
    assert sure_from(Evaluation(0.0, probabilities, labels)) == 1


def test_auroc_is_the_share_of_pairs_in_order_and_ties_count_half():
    digits, others = torch.tensor([0.9, 0.5, 0.7]), torch.tensor([0.1, 0.5, 0.8])
    pairs = [(a > b) + 0.5 * (a == b) for a in digits.tolist() for b in others.tolist()]
    assert auroc(digits, others) == pytest.approx(sum(pairs) / 9)


def test_thresholds_keep_what_they_promise_on_validation_images(monkeypatch):
    monkeypatch.setattr(confidence, "N_VALIDATION", 400)
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(4000, 10, generator=generator)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    made = validation_images().labels
    synthetic = torch.randn(800, 10, generator=generator)
    digits = made != NO_DIGIT
    synthetic[digits] += 9 * torch.eye(10)[made[digits]]
    plain, found = find_confidence(logits, labels), find_confidence(logits, labels, synthetic)
    assert plain.rejection is None
    assert found.sure_from >= plain.sure_from
    told = found.rejection
    largest, predicted = (synthetic / found.temperature).softmax(1).max(1)
    # The first half chooses,
    chosen = largest[:400][~digits[:400]]
    assert int((chosen >= found.sure_from).sum()) <= MAX_OTHERS_SURE * len(chosen) + 1
    assert 0 < told.right_rejected <= MAX_REJECTED * told.right + 1
    # and the second is told of.
    none, right = largest[400:][~digits[400:]], predicted[400:] == made[400:]
    assert (told.digits, told.others) == (int(digits[400:].sum()), len(none))
    assert 0 < told.others_rejected == int((none < told.digit_from).sum()) < told.others
    assert told.others_sure == int((none >= found.sure_from).sum())
    assert told.digits_right == int(right.sum())
    kinds = make_synthetic(400, 2, held_out=True).kinds.tolist()
    unseen = largest[400:][torch.tensor([kind in HELD_OUT_KINDS for kind in kinds])]
    assert 0 < told.unseen == len(unseen) < told.others
    assert told.unseen_sure == int((unseen >= found.sure_from).sum())
    assert 0.5 < told.auroc < 1


def test_thresholds_do_not_depend_on_the_images_that_they_are_measured_on(monkeypatch):
    monkeypatch.setattr(confidence, "N_VALIDATION", 100)
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(1000, 10, generator=generator)
    synthetic = torch.randn(200, 10, generator=generator)
    labels = logits.argmax(1)
    one = find_confidence(logits, labels, synthetic)
    synthetic[100:] *= 5
    other = find_confidence(logits, labels, synthetic)
    assert one.sure_from == other.sure_from
    assert one.rejection.digit_from == other.rejection.digit_from
    assert one.rejection.others_sure < other.rejection.others_sure
