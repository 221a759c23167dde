"""What a confidence means: temperature, thresholds, rejection."""

import pytest
import torch

from featherweight.confidence import sure_from, temperature
from featherweight.evaluate import Evaluation


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
