import io

import pytest
import torch
from PIL import Image

from featherweight.data import Images, Split
from featherweight.evaluate import Evaluation
from featherweight.report import MOST_MISTAKES, log_ticks, mistakes, report
from featherweight.run import create_run

VERDICT = {"contract": "tiny", "passed": False, "clauses": [
    {"clause": "parameters", "required": "fewer than 9", "found": "7", "how": "counted", "passed": True},
    {"clause": "head", "required": "linear layer", "found": "something else", "how": "seen", "passed": False}]}


def result(n, n_wrong):
    labels = torch.arange(n) % 10
    read = torch.where(torch.arange(n) < n_wrong, (labels + 1) % 10, labels)
    return Evaluation(0.1, torch.full((n, 10), 0.01).scatter(1, read[:, None], 0.91), labels)


@pytest.mark.parametrize("n_wrong", [0, 1, 7, 100])
def test_pictures_and_card(tmp_path, split, tiny_recipe, tiny_contract, n_wrong):
    run = create_run(str(tmp_path / "run"), tiny_recipe, tiny_contract, split, 0, torch.device("cpu"), "")
    run.write_metrics([{"epoch": e, "seconds": 1.5, "lr": 0.1, "train_loss": 1 / e, "val_loss": 0.5 / e,
                        "val_correct": 100 - n_wrong, "val_total": 100} for e in (1, 2)])
    before = {path.name for path in run.path.iterdir()}
    written = report(run, result(100, n_wrong), split, VERDICT)
    assert {path.name for path in written} == {path.name for path in run.path.iterdir()} - before
    for path in written[:3]:
        image = Image.open(io.BytesIO(path.read_bytes()))
        image.load()
        assert min(image.size) > 300 or path.name == "mistakes.png"
    card = (run.path / "README.md").read_text()
    assert f"({n_wrong} wrong of 100)" in card
    assert "| head | linear layer | something else | seen | **FAIL** |" in card
    assert "| parameters | fewer than 9 | 7 | counted | pass |" in card


def test_every_mistake_is_drawn_up_to_a_page():
    pixels = torch.zeros(3000, 1, 28, 28, dtype=torch.uint8)
    few = mistakes(result(3000, 23), pixels)
    assert sum(bool(axes.get_images()) for axes in few.axes) == 23
    assert "true 0, read 1\n91 %, no. 0" in [axes.get_title() for axes in few.axes]
    many = mistakes(result(3000, 1000), pixels)
    assert sum(bool(axes.get_images()) for axes in many.axes) == MOST_MISTAKES
    assert "most confident" in many.get_suptitle()


def test_the_split_says_what_the_card_names(tmp_path, split, tiny_recipe, tiny_contract):
    embedded = Split(None, split.train, Images(split.val.pixels, split.val.labels), 10)
    run = create_run(str(tmp_path / "run"), tiny_recipe, tiny_contract, embedded, 0, torch.device("cpu"), "")
    run.write_metrics([{"epoch": 1, "seconds": 1, "lr": 0.1, "train_loss": 1, "val_loss": 1,
                        "val_correct": 50, "val_total": 100}])
    report(run, result(100, 50), embedded, VERDICT)
    assert "MNIST (embedded), 500 images trained on, 100 to validate" in (run.path / "README.md").read_text()


@pytest.mark.parametrize(("low", "high", "expected"), [
    (0.003, 0.013, [0.003, 0.004, 0.005, 0.006, 0.008, 0.01]), (700, 41_000, [1000, 2000, 5000, 10_000, 20_000]),
    (1, 10_000_000, [10.0**k for k in range(8)]), (0.9, 1.2, [1])])
def test_ticks_are_round_and_not_too_many(low, high, expected):
    assert log_ticks(low, high, most=9) == pytest.approx(expected)
