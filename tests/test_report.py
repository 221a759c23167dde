import io

import pytest
import torch
from PIL import Image

from featherweight.data import Images, Split
from featherweight.evaluate import Evaluation
from featherweight.report import MOST_MISTAKES, Mark, frontier, mistakes, read_marks, report, save_picture
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


MARKS = [Mark("a (10 seeds)", 900, 0.988, (0.9871, 0.9889), "ours"),
         Mark("b", 19_000, 0.996, (0.9958, 0.9962), "ours"),
         Mark("somebody", 700, 0.99, None, "best of 700 runs"), Mark("c", 18_000, 0.9929, None, "honest")]


def test_the_frontier_draws_every_mark_at_its_place():
    figure = frontier(MARKS, "bytes")
    axes, key = figure.axes[0], figure.legends[0]
    assert axes.get_xlabel() == "bytes"
    drawn = {point for line in axes.lines if line.get_marker() != "None"
             for point in zip(*line.get_data(), strict=True)}
    assert drawn == {(mark.size, 1 - mark.accuracy) for mark in MARKS}
    bars = [line.get_data() for line in axes.lines if line.get_marker() == "None"]
    assert [([900, 900], pytest.approx([0.0129, 0.0111])), ([19_000, 19_000], pytest.approx([0.0042, 0.0038]))] == [
        (list(x), list(y)) for x, y in bars]
    assert {text.get_text() for text in axes.texts} == {mark.name for mark in MARKS}
    assert {text.get_text() for text in key.texts} == {"ours", "best of 700 runs", "honest"}


@pytest.mark.parametrize("name", ["a.svg", "a.png"])
def test_a_picture_is_the_same_bytes_each_time(tmp_path, name):
    save_picture(frontier(MARKS, "parameters"), tmp_path / name)
    first = (tmp_path / name).read_bytes()
    save_picture(frontier(MARKS, "parameters"), tmp_path / name)
    assert (tmp_path / name).read_bytes() == first
    with pytest.raises(ValueError, match=r"\.svg or \.png"):
        save_picture(frontier(MARKS, "parameters"), tmp_path / "a.pdf")


def test_marks_of_others_are_read_or_refused(tmp_path, request):
    marks = read_marks(request.config.rootpath / "results" / "public.csv", "n_params")
    assert any(mark.size == 697 and mark.accuracy == 0.9903 and "700" in mark.protocol for mark in marks)
    for content in ("a,b\n1,2\n", "n_params,accuracy,epochs,protocol,source\nmany,0.9,1,x,y\n"):
        (tmp_path / "public.csv").write_text(content)
        with pytest.raises(ValueError, match=r"public\.csv"):
            read_marks(tmp_path / "public.csv", "n_params")
