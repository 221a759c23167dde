"""The pictures of a run."""

import dataclasses
import io
import itertools
from xml.etree import ElementTree

import pytest
import torch
from helpers import VERDICT, result
from matplotlib.text import Text
from PIL import Image

from featherweight.evaluate import Evaluation
from featherweight.image_kind import ImageKind
from featherweight.report import (
    GREEN,
    GREY,
    MAX_MISTAKES,
    RED,
    confusion,
    curves,
    log_ticks,
    mistakes,
    report,
    save_picture,
    verdict_picture,
)
from featherweight.run import Run, create_run

pytestmark = pytest.mark.slow


@pytest.fixture
def make_run(tmp_path, split, tiny_recipe, tiny_contract):
    def make(wrong, total=100):
        """Make a run whose epochs have these numbers of mistakes."""
        run = create_run(
            str(tmp_path / "run"), tiny_recipe, tiny_contract, split, 0, torch.device("cpu"), ""
        )
        run.write_metrics(
            [
                {
                    "epoch": e,
                    "seconds": 1.5,
                    "lr": 0.1,
                    "train_loss": 1 / e,
                    "val_loss": 0.5 / e,
                    "val_correct": total - n,
                    "val_total": total,
                }
                for e, n in enumerate(wrong, 1)
            ]
        )
        return run

    return make


@pytest.mark.parametrize("n_wrong", [0, 1, 7, 100])
def test_every_picture_is_written_and_can_be_read(make_run, split, n_wrong):
    run = make_run([n_wrong, n_wrong])
    before = {path.name for path in run.path.iterdir()}
    written = report(run, result(100, n_wrong), split, VERDICT)
    assert (
        {path.name for path in written}
        == {path.name for path in run.path.iterdir()} - before
        == {"curves.png", "confusion.png", "mistakes.png", "verdict.svg", "README.md"}
    )
    for path in written[:3]:
        image = Image.open(io.BytesIO(path.read_bytes()))
        image.load()
        assert min(image.size) > 300 or path.name == "mistakes.png"
    first = [path.read_bytes() for path in written]
    again = save_picture(
        mistakes(result(100, n_wrong), split.val.pixels, "tiny, seed 0, validation", split.kind),
        run.path / "again.png",
    )
    assert again.read_bytes() == first[2]
    assert [
        path.read_bytes() for path in report(run, result(100, n_wrong), split, VERDICT)
    ] == first
    with pytest.raises(ValueError, match=r"\.svg or \.png"):
        save_picture(curves(run), run.path / "a.pdf")


def ticks(axis, ends):
    """Return the visible ticks of an axis, and their labels."""
    seen = [tick for tick in axis.get_majorticklocs() if min(ends) <= tick <= max(ends)]
    return seen, [axis.get_major_formatter()(tick) for tick in seen]


def test_curves_show_the_log(make_run):
    figure = curves(make_run([400, 60, 38], 10_000))
    loss, wrong, rate, correct = figure.axes
    assert [line.get_ydata().tolist() for line in loss.lines] == [
        [1, 1 / 2, 1 / 3],
        [1 / 2, 1 / 4, 1 / 6],
    ]
    assert wrong.lines[0].get_ydata().tolist() == [400, 60, 38]
    assert list(wrong.lines[1].get_ydata()) == [5000, 5000]  # the contract asks for a half
    assert rate.lines[0].get_ydata().tolist() == [0.1] * 3
    assert figure.get_suptitle() == "tiny, seed 0: training and validation"
    assert [text.get_text() for text in wrong.get_legend().texts] == [
        "last epoch: 99.62 % (38 wrong of 10,000)",
        "tiny asks for 50.00 %",
    ]
    places, written = ticks(wrong.yaxis, wrong.get_ylim())
    assert places == [50, 100, 200, 500, 1000, 2000, 5000]
    assert written[3:5] == ["500", "1,000"]
    assert ticks(correct.yaxis, correct.get_ylim()) == (
        places,
        ["99.50", "99.00", "98.00", "95.00", "90.00", "80.00", "50.00"],
    )


@pytest.mark.parametrize("wrong", [[150], [50], [0], [3, 1, 0], [5000], list(range(400, 20, -20))])
def test_curves_have_ticks_and_a_key_beside_them_always(make_run, wrong):
    figure = curves(make_run(wrong, 10_000))
    figure.draw_without_rendering()
    assert ticks(figure.axes[2].xaxis, figure.axes[2].get_xlim())[0] == list(
        range(1, len(wrong) + 1)
    )
    for axes in figure.axes:
        places, written = ticks(axes.yaxis, axes.get_ylim())
        assert 2 <= len(places) <= 12
        assert len(set(written)) == len(places)
        assert not len(axes.yaxis.get_minorticklocs()) or axes is figure.axes[2]
    for axes in figure.axes[:2]:
        key = axes.get_legend().get_window_extent()
        assert key.y0 >= axes.get_window_extent().y1
        assert figure.bbox.containsx(key.x0)
        assert figure.bbox.containsx(key.x1)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.003, 0.013, [0.003, 0.004, 0.005, 0.006, 0.008, 0.01]),
        (700, 41_000, [1000, 2000, 5000, 10_000, 20_000]),
        (1, 10_000_000, [10.0**k for k in range(8)]),
        (0.9, 1.2, [1]),
    ],
)
def test_ticks_are_round_and_not_too_many(low, high, expected):
    assert log_ticks(low, high, max_ticks=9) == pytest.approx(expected)


def brightness(colour):
    return sum(part * share for part, share in zip(colour[:3], (0.299, 0.587, 0.114), strict=True))


def test_a_confusion_matrix_of_many_classes_is_no_larger_than_one_of_80():
    probabilities = torch.eye(256)
    figure = confusion(Evaluation(0.1, probabilities, torch.arange(256)), "many")
    width, height = figure.get_size_inches()
    assert max(width, height) < 32
    sizes = {text.get_fontsize() for text in figure.findobj(Text) if text.get_text() == "1"}
    assert min(sizes) == pytest.approx(6.5 * 80 / 256)


def test_confusion_counts_and_is_pale_for_a_handful():
    counted = result(10_000, 38)
    figure = confusion(counted, "tiny, seed 0, validation")
    assert figure.get_suptitle().splitlines()[:2] == [
        "tiny, seed 0, validation",
        "99.62 % (38 wrong of 10,000)",
    ]
    assert max(figure.get_size_inches()) < 5
    axes = figure.axes[0]
    written = {tuple(map(int, text.get_position())): text.get_text() for text in axes.texts}
    assert written[0, 0] == "996"
    assert written[1, 0] == "4"  # predicted 1, true 0
    assert len(written) == 20
    image = axes.images[0]
    one, handful, many = (
        brightness(image.cmap(image.norm(share))) for share in (0.001, 0.006, 0.2)
    )
    assert one > 0.95
    assert handful > 0.85
    assert many < 0.4
    figure.draw_without_rendering()
    side = axes.get_window_extent().width / 10
    assert all(Text.get_window_extent(text).width < side for text in axes.texts)


def captions(figure):
    """Return the captions below images, row by row."""
    return [text.get_text() for text in figure.axes[0].texts if text.get_fontsize() == 7]


def test_every_mistake_is_drawn_up_to_a_page():
    pixels = torch.zeros(3000, 1, 28, 28, dtype=torch.uint8)
    few = mistakes(result(3000, 23), pixels, "tiny, seed 0, validation")
    assert len(few.axes[0].images) == 23
    assert captions(few)[:2] == ["no. 0, true 0", "1: 91 %, 0: 1 %"] or captions(few)[1].startswith(
        "1: 91 %, "
    )
    title, how = few.axes[0].texts[:2]
    assert title.get_text() == "tiny, seed 0, validation: 99.23 % (23 wrong of 3,000)"
    assert how.get_text().startswith("Every mistake, ordered by confidence.")
    many = mistakes(result(3000, 1000), pixels, "tiny")
    assert len(many.axes[0].images) == MAX_MISTAKES
    assert (
        many.axes[0].texts[1].get_text().startswith(f"The {MAX_MISTAKES} most confident mistakes")
    )
    assert [text.get_text() for text in mistakes(result(9, 0), pixels, "tiny").axes[0].texts][
        1
    ] == "no mistakes"


def test_the_most_confident_mistake_is_first_with_its_second_guess():
    probabilities = torch.tensor([[0.5, 0.4, 0.1], [0.04, 0.9, 0.06], [0.1, 0.2, 0.7]])
    figure = mistakes(
        Evaluation(0.1, probabilities, torch.tensor([1, 0, 2])),
        torch.arange(3, dtype=torch.uint8).reshape(3, 1, 1, 1).expand(3, 1, 28, 28),
        "tiny",
    )
    assert captions(figure) == [
        "no. 1, true 0",
        "1: 90 %, 2: 6 %",
        "no. 0, true 1",
        "0: 50 %, 1: 40 %",
    ]
    assert [int(image.get_array()[0, 0]) for image in figure.axes[0].images] == [1, 0]


NAMES = ("airplane", "automobile", "a name that is too long", "deer\nwith a line end", "x", "y")


@pytest.mark.parametrize(
    ("channels", "polarity", "orientation", "expected"),
    [
        (1, "light on dark", "upright", ("gray_r", (0, 1))),
        (1, "dark on light", "upright", ("gray", (0, 1))),
        (1, "natural", "transposed", ("gray", (1, 0))),
        (3, "natural", "upright", (None, (0, 1, 2))),
    ],
)
def test_images_are_drawn_as_what_they_are(channels, polarity, orientation, expected):
    kind = ImageKind(channels, 20, 24, polarity, orientation, NAMES)
    pixels = torch.arange(3 * channels * 480).reshape(3, channels, 20, 24) % 251
    figure = mistakes(result(3, 1, 6), pixels.byte(), "tiny", kind)
    (drawn,) = figure.axes[0].images
    cmap, order = expected
    array = pixels[0].permute(1, 2, 0).squeeze(2).numpy().astype("uint8")
    assert (drawn.get_array() == array.transpose(order)).all()
    assert cmap is None or drawn.get_cmap().name == cmap
    assert captions(figure)[:3] == ["no. 0", "true airplane", "automobile: 91 %"]


def test_long_names_of_classes_are_shortened():
    counted = result(60, 12, 6)
    figure = confusion(counted, "tiny", NAMES)
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["airplane", "automobile", "a name that...", "deer with a...", "x", "y"]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == names
    kind = ImageKind(1, 28, 28, "natural", "upright", NAMES)
    figure = mistakes(counted, torch.zeros(60, 1, 28, 28, dtype=torch.uint8), "tiny", kind)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts if text.get_fontsize() == 7]
    assert max(box.width for box in boxes) < 1.08 * figure.dpi
    assert not any(one.overlaps(other) for one, other in itertools.pairwise(boxes))


def test_captions_keep_to_their_image():
    wide = result(60_000, 60, classes=47)
    wide = Evaluation(
        wide.loss, wide.probabilities.flip(0), wide.labels.flip(0)
    )  # the last ones, of five digits
    figure = mistakes(wide, torch.zeros(60_000, 1, 28, 28, dtype=torch.uint8), "tiny")
    figure.draw_without_rendering()
    assert all(
        text.get_window_extent().width < 1.08 * figure.dpi
        for text in figure.axes[0].texts
        if text.get_fontsize() == 7
    )


def verdict_texts(figure):
    return {text.get_text(): text for text in figure.axes[0].texts}


def test_a_verdict_says_largest_whether_it_passed():
    figure = verdict_picture(VERDICT, "tiny, seed 0")
    texts = verdict_texts(figure)
    assert max(texts.values(), key=lambda text: text.get_fontsize()).get_text() == "FAIL"
    assert texts["FAIL"].get_color() == RED
    assert "1 of 2 clauses hold, 1 not judged" in texts
    assert "tiny, seed 0: contract tiny" in texts
    signs = [text for text in figure.axes[0].texts if text.get_text() in {"✓", "✗", "\N{EN DASH}"}]
    assert [(text.get_text(), text.get_color()) for text in signs] == [
        ("✓", GREEN),
        ("✗", RED),
        ("\N{EN DASH}", GREY),
    ]
    rows = {
        clause["clause"]: texts[clause["clause"]].get_position()[1] for clause in VERDICT["clauses"]
    }
    assert [text.get_position()[1] for text in signs] == pytest.approx(
        list(rows.values()), abs=0.02
    )
    passed = verdict_texts(verdict_picture(VERDICT | {"passed": True}))
    assert passed["PASS"].get_color() == GREEN
    assert "contract tiny" in passed


def test_a_missed_bonus_is_grey_and_points_are_added_up():
    bonus = VERDICT["clauses"][1] | {"bonus": True, "points": 0, "max_points": 2}
    worth = VERDICT["clauses"][0] | {"points": 3, "max_points": 3}
    figure = verdict_picture({"contract": "tiny", "passed": True, "clauses": [worth, bonus]})
    signs = [text for text in figure.axes[0].texts if text.get_text() in {"✓", "✗"}]
    assert [text.get_color() for text in signs] == [GREEN, GREY]
    assert "1 of 1 clauses hold, points 3 of 3" in verdict_texts(figure)


def test_a_curve_without_a_required_accuracy_has_no_limit(make_run):
    run = make_run([7, 5])
    without = dataclasses.replace(run.contract, clauses=run.contract.clauses[:1])
    config = run.config | {"contract": without.to_dict()}
    figure = curves(Run(run.path, config))
    labels = [line.get_label() for line in figure.axes[1].lines]
    assert [label for label in labels if "asks for" in str(label)] == []
    assert "last epoch" in labels[0]


def test_a_long_verdict_is_wrapped_and_touches_nothing():
    clause = {
        "clause": "consistent accuracy",
        "required": "at least 99.40 % in each of the last 3 epochs",
        "found": "; ".join(f"epoch {e}: 99.52 % (48 wrong of 10,000)" for e in (13, 14, 15)),
        "how": "seen",
        "passed": False,
    }
    figure = verdict_picture(
        {
            "contract": "a-contract-of-some-length",
            "passed": False,
            "clauses": [*VERDICT["clauses"], clause, clause | {"found": "W" * 70, "required": ""}],
        },
        "tiny, seed 0",
    )
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    for i, box in enumerate(boxes):
        assert figure.bbox.containsx(box.x0)
        assert figure.bbox.containsx(box.x1)
        assert figure.bbox.containsy(box.y0)
        assert not any(box.overlaps(other) for other in boxes[:i])
    said = " ".join(text.get_text() for text in figure.axes[0].texts)
    for part in clause["found"].split():
        assert part in said


def test_names_are_drawn_as_they_are(tmp_path):
    name = r"$\nonsense{$ <script>alert(1)</script> --> [red]"
    verdict = {**VERDICT, "contract": name}
    path = save_picture(verdict_picture(verdict, name), tmp_path / "verdict.svg")
    tags = [element.tag for element in ElementTree.parse(path).iter()]
    assert not [tag for tag in tags if "script" in str(tag)]
    assert any(name in text.get_text() for text in verdict_picture(verdict).findobj(Text))
