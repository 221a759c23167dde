"""The picture of accuracy against size: its labels, points, line and input files."""

import dataclasses
import functools
import math
from itertools import pairwise

import numpy as np
import pytest
from helpers import featherweight
from matplotlib.patches import FancyArrowPatch, Rectangle
from matplotlib.text import Text

from featherweight.cli.study import cmd_frontier
from featherweight.contract import load_contract
from featherweight.errors import InputError
from featherweight.export.firmware import FIRMWARE_COLUMNS as FIRMWARE
from featherweight.recipe import find_recipe
from featherweight.report import save_picture
from featherweight.studies.data_efficiency import accuracy_curves, images_picture
from featherweight.studies.frontier import (
    Point,
    frontier_picture,
    instruction_points,
    pareto_front,
    read_published,
    study_points,
)
from featherweight.studies.plan import run_config
from featherweight.studies.rows import STUDY_COLUMNS, read_rows, sign_row
from featherweight.studies.summary import spread
from featherweight.tables import make_cells, read_table, write_table

POINTS = [
    Point("a", 900, 0.988, True, "ours", (0.9871, 0.9889)),
    Point("b", 19_000, 0.996, True, "ours", (0.9958, 0.9962)),
    Point("worse", 19_500, 0.99, True, "one seed"),
    Point("somebody", 700, 0.99, False, "best of 700 runs"),
    Point("c", 18_000, 0.9929, False, "honest"),
]


def made_rows(recipe, n_params, accuracies):
    """Return rows of a recipe, a seed each, with what the picture needs of them."""
    return [
        {
            "recipe": recipe,
            "n_params": str(n_params),
            "test_correct": str(round(10_000 * accuracy)),
            "test_total": "10000",
        }
        for accuracy in accuracies
    ]


@functools.cache
def real(root, by):
    """Return the points of the committed tables, with made re-runs of what others published, and
    their picture."""
    results = root / "results"
    if by == "bytes":
        points = study_points(read_table(results / "c99.csv", FIRMWARE), "constants")
        points += read_published(results / "public-bytes.csv", "bytes")
    elif by == "instructions":
        points = instruction_points(read_table(results / "c99.csv", FIRMWARE), "instructions_m0")
        points += read_published(results / "peers-mcu.csv", "instructions_m0")
    else:
        tables = ("quick", "sprint", "records", "baseline")
        rows = [row for name in tables for row in read_rows(results / f"{name}.csv")]
        published = read_published(results / "public.csv", "n_params")
        for point in published:
            if point.recipe:
                seeds = [point.accuracy - 0.0007 - 0.0001 * seed for seed in range(10)]
                rows += made_rows(point.recipe, point.size, seeds)
        points = study_points(rows, "n_params", published) + published
    return points, frontier_picture(
        points, by, load_contract("era-v3-s6") if by == "parameters" else None
    )


def labels_of(axes, points):
    """Return each point's label as a box (left, bottom, right, top) in pixels, and its text."""
    annotations = [text for text in axes.texts if text.xycoords == "data"]
    points = [point for point in points if not point.rerun]
    found = [
        (
            text,
            next(
                point
                for point in points
                if text.xy == (point.size, pytest.approx(1 - point.accuracy))
            ),
        )
        for text in annotations
    ]
    assert sorted(point.name for _, point in found) == sorted(point.name for point in points)
    for text, point in found:
        assert text.get_text() == point.name.split("/")[0]
    return [Text.get_window_extent(text).extents for text, _ in found], [
        point for _, point in found
    ]


def gap(box, other):
    """Return the distance in pixels between two boxes; 0 if they touch."""
    return math.hypot(*np.maximum(0, np.maximum(box[:2] - other[2:], other[:2] - box[2:])))


@pytest.mark.parametrize("dpi", [72, 100, 150])
@pytest.mark.parametrize("by", ["parameters", "bytes", "instructions"])
def test_labels_touch_nothing_and_are_nearest_to_their_own_point_or_joined_to_it(request, by, dpi):
    points, figure = real(request.config.rootpath, by)
    figure.set_dpi(dpi)
    figure.draw_without_rendering()
    axes = figure.axes[0]
    boxes, owners = labels_of(axes, points)
    labels = [text for text in axes.texts if text.xycoords == "data"]
    whole = axes.get_window_extent().extents
    half = 3.5 * dpi / 72
    centres = axes.transData.transform([(point.size, 1 - point.accuracy) for point in owners])
    markers = np.hstack([centres - half, centres + half])
    others = [
        np.hstack([part.min(0), part.max(0)])
        for bar in axes.collections[0].get_segments()
        for part in [axes.transData.transform(bar)]
    ]
    others += [
        patch.get_window_extent().extents
        for patch in axes.patches
        if isinstance(patch, FancyArrowPatch)
    ]
    line = next(line for line in axes.lines if line.get_linestyle() == "-")
    corners = axes.transData.transform(line.get_xydata())
    others += [
        np.hstack([spot, spot]) for a, b in pairwise(corners) for spot in np.linspace(a, b, 500)
    ]
    others += [
        Text.get_window_extent(text).extents for text in axes.texts if text.xycoords != "data"
    ]
    for i, box in enumerate(boxes):
        assert (box[:2] > whole[:2]).all(), owners[i]
        assert (box[2:] < whole[2:]).all(), owners[i]
        assert all(
            gap(box, other) > 0 for other in [*boxes[:i], *boxes[i + 1 :], *markers, *others]
        ), owners[i]
        # Where markers crowd, one cannot be nearest to all; then a line leads to its marker.
        nearest = min(range(len(boxes)), key=lambda j: gap(box, markers[j]))
        assert nearest == i or labels[i].arrow_patch is not None, owners[i]
    for text in (*figure.legends[0].texts, axes.title, axes.xaxis.label, axes.yaxis.label):
        assert figure.bbox.padded(1).containsx(text.get_window_extent().x1)
        assert figure.bbox.padded(1).containsy(text.get_window_extent().y0)


@pytest.mark.parametrize("seed", [0, 10, 14])
def test_labels_of_many_points_do_not_touch(seed):
    random = np.random.default_rng(seed)
    points = [
        Point(
            "owner/name"[: int(random.integers(3, 11))] + str(i),
            int(10 ** random.uniform(2.8, 4.5)),
            float(1 - 10 ** random.uniform(-2.5, -1.9)),
            i < 10,
            "ours" if i < 10 else "theirs",
        )
        for i in range(20)
    ]
    figure = frontier_picture(points, "parameters")
    figure.draw_without_rendering()
    axes = figure.axes[0]
    boxes, owners = labels_of(axes, points)
    centres = axes.transData.transform([(point.size, 1 - point.accuracy) for point in owners])
    half = 3.5 * figure.dpi / 72
    markers = np.hstack([centres - half, centres + half])
    for i, box in enumerate(boxes):
        assert all(gap(box, other) > 0 for other in [*boxes[:i], *markers]), owners[i]
        assert min(range(len(boxes)), key=lambda j: gap(box, markers[j])) == i, owners[i]


def test_texts_of_the_pictures(request):
    _, figure = real(request.config.rootpath, "parameters")
    axes = figure.axes[0]
    assert [tick for tick in axes.get_xticks() if tick >= 500] == [
        500,
        1000,
        2000,
        5000,
        10_000,
        20_000,
        50_000,
    ]
    assert len(axes.get_xticks(minor=True)) == 0
    assert axes.xaxis.get_major_formatter()(20_000) == "20,000"
    assert [axes.yaxis.get_major_formatter()(1 - a) for a in (0.97, 0.985, 0.996, 0.9995)] == [
        "97.0",
        "98.5",
        "99.6",
        "99.95",
    ]
    assert "logarithmic in the error" in axes.get_ylabel()
    key = [text.get_text() for text in figure.legends[0].texts]
    assert key[0].startswith("ours: mean of 10 seeds (quick: 20, baseline: 3)")
    assert not any("seed" in text.get_text() for text in axes.texts)
    band = next(patch for patch in axes.patches if isinstance(patch, Rectangle))
    assert band.get_x() + band.get_width() == 20_000
    assert band.get_y() == pytest.approx(0.006)
    assert band.get_y() + band.get_height() == axes.get_ylim()[1] < 0.006

    _, figure = real(request.config.rootpath, "bytes")
    axes = figure.axes[0]
    assert axes.get_xlabel() == "bytes of constants in flash (log)"
    assert "ours counts every constant, BitNetMCU its weights alone" in [
        text.get_text() for text in axes.texts
    ]
    assert not any(isinstance(patch, Rectangle) for patch in axes.patches)


def test_the_picture_over_instructions_is_legible_at_80_mm(request):
    points, figure = real(request.config.rootpath, "instructions")
    axes = figure.axes[0]
    scale = 80 / 25.4 / figure.get_figwidth()
    texts = [*axes.texts, *figure.legends[0].texts, *axes.get_xticklabels()]
    assert min(text.get_fontsize() for text in texts) * scale > 6  # points
    assert axes.get_xlabel() == "million instructions (log)"
    assert axes.xaxis.get_major_formatter()(500_000) == "0.5"
    drawn = {
        line.get_label(): (line.get_markerfacecolor() == "white", len(line.get_xdata()))
        for line in axes.lines
        if line.get_marker() != "None"
    }
    assert drawn == {
        "ours: mean of 5 seeds (int4-1kb: 10, int4-tiny: 10), its 95 % interval; last epoch; "
        "50,000 training images; test read once": (False, 5),
        "ours: mean of 5 seeds, its 95 % interval; last epoch; 50,000 training images; validation "
        "images": (False, 1),
        "test images of 16x16, resized on the host, which is not counted; configurations compared "
        "on test images; one run each": (True, 5),
        "test images; the engine's example model": (True, 4),
    }
    assert sum(point.ours for point in points) == 6
    key = [text.get_text().replace("\n", " ") for text in figure.legends[0].texts]
    assert {*drawn, "ours: the best with as many instructions or fewer"} == set(key)


def test_accuracy_over_instructions_is_that_of_the_code_that_was_counted():
    def row(recipe, count, val, test):
        values = {"recipe": recipe, "instructions_m0": count, "val_correct": val, "val_total": 100}
        return make_cells(values | {"test_correct": test, "test_total": 100}, FIRMWARE)

    tested, validated = instruction_points(
        [
            row("tested", 30, 80, 90),
            row("tested", 10, 80, 94),
            row("tested", 14, 80, 92),
            row("tested", 1, 80, None),  # neither its accuracy nor its instructions
            row("tested", None, 80, 99),
            row("validated", 7, 81, None),
            row("uncounted", None, 82, 91),
        ],
        "instructions_m0",
    )
    assert (tested.name, tested.size, tested.accuracy) == ("tested", 18, pytest.approx(0.92))
    assert tested.protocol.startswith("ours: mean of 3 seeds, its 95 % interval")
    assert tested.protocol.endswith("test read once")
    assert (validated.name, validated.size, validated.accuracy) == ("validated", 7, 0.81)
    assert validated.protocol.startswith("ours: one seed; ")
    assert validated.protocol.endswith("validation images")
    assert validated.ours
    assert validated.interval is None


def test_tables_without_instructions_are_refused(tmp_path):
    row = {"recipe": "a", "val_correct": 1, "val_total": 2, "test_correct": 1, "test_total": 2}
    write_table(tmp_path / "a.csv", [make_cells(row, FIRMWARE)], FIRMWARE)
    with pytest.raises(InputError, match=r"a\.csv: no row with instructions on a Cortex-M0") as got:
        cmd_frontier([str(tmp_path / "a.csv")], by="instructions")
    assert "--on-chip" in str(got.value.hint)


def test_a_contract_without_a_limit_on_both_axes_shades_nothing():
    figure = frontier_picture(POINTS, "parameters", load_contract("era-s10"))
    assert not any(isinstance(patch, Rectangle) for patch in figure.axes[0].patches)


def test_every_point_is_drawn_at_its_size_and_error():
    figure = frontier_picture(POINTS, "bytes")
    axes, key = figure.axes[0], figure.legends[0]
    drawn = {
        position: line.get_color()
        for line in axes.lines
        if line.get_marker() != "None"
        for position in zip(*line.get_data(), strict=True)
    }
    assert set(drawn) == {(point.size, 1 - point.accuracy) for point in POINTS}
    for point in POINTS:  # ours and published points differ in colour, with or without an interval
        assert (drawn[point.size, 1 - point.accuracy] == drawn[900, 1 - 0.988]) == point.ours
        label = next(text for text in axes.texts if text.get_text() == point.name)
        assert (label.get_color() == drawn[900, 1 - 0.988]) == point.ours
    bars = [bar.tolist() for bar in axes.collections[0].get_segments()]
    assert bars == [
        [[900, pytest.approx(0.0129)], [900, pytest.approx(0.0111)]],
        [[19_000, pytest.approx(0.0042)], [19_000, pytest.approx(0.0038)]],
    ]
    line = next(line for line in axes.lines if line.get_linestyle() == "-")
    assert line.get_xydata().tolist() == [[900, 1 - 0.988], [19_000, 1 - 0.996]]
    assert [text.get_text() for text in key.texts] == [
        "ours",
        "one seed",
        "ours: the best of that size or smaller",
        "best of 700 runs",
        "honest",
    ]


def test_an_arrow_leads_from_a_published_result_to_its_rerun():
    published = [
        Point("owner/name", 700, 0.99, False, "best of 700 runs", recipe="owner-700"),
        Point("near/name", 18_000, 0.9929, False, "honest", recipe="near-18000"),
        Point("other/name", 9_000, 0.99, False, "honest", recipe="never-trained"),
    ]
    rows = made_rows("feather", 900, [0.988, 0.9884])
    rows += made_rows("owner-700", 700, [0.975, 0.977])
    rows += made_rows("near-18000", 18_000, [0.9929, 0.9929])
    points = study_points(rows, "n_params", published) + published
    by_name = {point.name: point for point in points}
    assert [name for name, point in by_name.items() if point.ours] == ["feather"]
    assert [name for name, point in by_name.items() if point.rerun] == ["owner-700", "near-18000"]
    assert by_name["owner-700"].accuracy == pytest.approx(0.976)
    figure = frontier_picture(points, "parameters")
    figure.draw_without_rendering()
    axes = figure.axes[0]
    (arrow,) = [patch for patch in axes.patches if isinstance(patch, FancyArrowPatch)]
    ends = axes.transData.inverted().transform(arrow.get_window_extent())  # markers touch at 18,000
    assert ends[:, 0].mean() == pytest.approx(700, rel=0.05)
    assert sorted(ends[:, 1]) == pytest.approx([0.01, 0.024], rel=0.1)
    assert {text.get_text() for text in axes.texts} >= {"owner", "near", "other", "feather"}
    assert not {text.get_text() for text in axes.texts} & {"owner-700", "near-18000"}
    filled = {
        line.get_label(): line.get_markerfacecolor() == line.get_color()
        for line in axes.lines
        if line.get_marker() != "None"
    }
    again = by_name["owner-700"].protocol
    assert again.startswith("the same network, trained here: mean of 2 seeds")
    assert filled == {by_name["feather"].protocol: True, again: True} | {
        point.protocol: False for point in published
    }
    assert [text.get_text() for text in figure.legends[0].texts][1] == again


def test_the_pareto_front_leaves_out_what_is_worse_and_larger():
    names = [
        point.name
        for point in pareto_front([*POINTS, Point("same size", 900, 0.991, True, "ours")])
    ]
    assert names == ["somebody", "same size", "c", "b"]


@pytest.mark.parametrize(
    ("accuracy", "interval"), [(1.0, None), (0.999, (0.99, 1.01)), (0.1, None)]
)
def test_any_accuracy_can_be_drawn(accuracy, interval, tmp_path):
    point = Point("only", 5, accuracy, True, "ours", interval)
    save_picture(
        frontier_picture([point], "parameters", load_contract("era-v3-s6")), tmp_path / "a.png"
    )


def test_a_study_becomes_one_point_per_recipe():
    def row(recipe, correct, n_params="9"):
        return {
            "recipe": recipe,
            "test_correct": correct,
            "test_total": "100",
            "n_params": n_params,
        }

    assert study_points([row("a", "")], "n_params") == []
    one, two = study_points(
        [row("a", "90"), row("b", "80", "7"), row("a", "92"), row("c", "")], "n_params"
    )
    assert (one.name, one.size, one.accuracy, one.ours) == ("a", 9, pytest.approx(0.91), True)
    assert one.interval is not None
    assert (two.name, two.size, two.accuracy, two.interval) == ("b", 7, 0.8, None)
    assert one.protocol == two.protocol
    assert one.protocol.startswith("ours: mean of 2 seeds (b: 1)")


@pytest.mark.parametrize("name", ["a.svg", "a.png"])
def test_a_picture_is_the_same_bytes_each_time(tmp_path, name, request):
    first, again = (
        save_picture(real.__wrapped__(request.config.rootpath, "bytes")[1], tmp_path / f"{i}{name}")
        for i in (1, 2)
    )
    assert first.read_bytes() == again.read_bytes()


def test_published_results_are_read_or_refused(tmp_path, request):
    points = read_published(request.config.rootpath / "results" / "public.csv", "n_params")
    assert any(
        point.size == 697 and point.accuracy == 0.9903 and "700" in point.protocol
        for point in points
    )
    assert not any(point.ours for point in points)
    for content in ("a,b\n1,2\n", "n_params,accuracy,epochs,protocol,source\nmany,0.9,1,x,y\n"):
        (tmp_path / "public.csv").write_text(content)
        with pytest.raises(ValueError, match=r"public\.csv"):
            read_published(tmp_path / "public.csv", "n_params")


@pytest.mark.parametrize(
    "change",
    [{"test_correct": "x"}, {"test_total": "0"}, {"test_correct": "101"}, {"n_params": "-1"},
     {"n_params": ""}, {"test_correct": "nan"}],
)  # fmt: skip
def test_rows_with_damaged_numbers_are_refused(change):
    row = {"recipe": "[red]", "test_correct": "99", "test_total": "100", "n_params": "5"} | change
    with pytest.raises(InputError, match="row of recipe"):
        study_points([row], "n_params")


@pytest.mark.parametrize("row", ["0,0.9,p,s", "-5,0.9,p,s", "5,nan,p,s", "5,1.5,p,s", "5,0.9"])
def test_published_results_out_of_range_are_refused(tmp_path, row):
    (tmp_path / "a.csv").write_text(f"n_params,accuracy,protocol,source\n{row}\n")
    with pytest.raises(InputError, match=r"a\.csv: "):
        read_published(tmp_path / "a.csv", "n_params")


def test_published_results_without_a_size_or_an_accuracy_are_left_out(tmp_path):
    (tmp_path / "a.csv").write_text(
        "engine,model,instructions_m0,accuracy,protocol,source\n"
        "E,one,5,0.9,p,s\nE,two,,0.9,p,s\nE,three,5,,p,s\n"
    )
    (point,) = read_published(tmp_path / "a.csv", "instructions_m0")
    assert (point.name, point.size, point.accuracy, point.protocol) == ("E one", 5, 0.9, "p")
    with pytest.raises(InputError, match=r"a\.csv: got KeyError\('bytes'\)"):
        read_published(tmp_path / "a.csv", "bytes")


def test_names_of_points_are_drawn_as_they_are(tmp_path):
    point = Point(r"$\x{$ <script>", 5, 0.9, True, r"$\y{$", None)
    save_picture(frontier_picture([point], "parameters"), tmp_path / "a.svg")
    assert "<script" not in (tmp_path / "a.svg").read_text()


def trained(recipe, seed, size, correct):
    """Return a row of a study whose plan has `train_size`."""
    contract = dataclasses.replace(load_contract("era-v3-s6"), name="few", train_size=size)
    cells = dict.fromkeys(STUDY_COLUMNS, "") | {
        "recipe": recipe,
        "seed": str(seed),
        "n_params": "5",
        "verdict": "FAIL" if correct else "DIVERGED",
        "val_correct": correct,
        "val_total": "100",
        "test_correct": "50",
        "test_total": "100",
        "seconds": "1",
        "config": run_config(find_recipe(recipe), contract),
    }
    return sign_row(cells)


FEW = [
    trained("feather-20k", 0, 1000, "95"),
    trained("feather-20k", 0, 500, "90"),
    trained("feather-20k", 1, 500, "92"),
    trained("baseline", 0, 500, "80"),
    trained("baseline", 0, 1000, ""),
]


def test_accuracy_is_drawn_over_training_images():
    curves = accuracy_curves(FEW)
    assert [(curve.recipe, [size for size, _ in curve.points]) for curve in curves] == [
        ("feather-20k", [500, 1000]),
        ("baseline", [500]),
    ]
    figure = images_picture(curves)
    axes = figure.axes[0]
    drawn = [line.get_xydata().tolist() for line in axes.lines]
    assert drawn == [
        [[500, pytest.approx(0.09)], [1000, pytest.approx(0.05)]],
        [[500, pytest.approx(0.2)]],
    ]
    bar = axes.collections[0].get_segments()[0]
    low, high = spread([0.9, 0.92]).interval
    assert bar.tolist() == [
        [500, pytest.approx(max(1 - high, 1e-5))],
        [500, pytest.approx(1 - low)],
    ]
    assert [text.get_text() for text in figure.legends[0].texts] == [
        "feather-20k: mean of 2 seeds (1,000 images: 1), its 95 % interval",
        "baseline: one seed",
    ]
    assert axes.get_xlabel() == "training images (log)"


def test_a_mean_over_several_numbers_of_training_images_is_refused(tmp_path):
    write_table(tmp_path / "few.csv", FEW, STUDY_COLUMNS)
    done = featherweight("frontier", "few.csv", cwd=tmp_path)
    assert done.returncode == 2
    assert "feather-20k: got runs of 1,000 and 500 training images, expected one" in done.stderr
    assert "--by images" in done.stderr
    assert featherweight("frontier", "few.csv", "--by", "images", cwd=tmp_path).returncode == 0
    assert (tmp_path / "frontier.svg").exists()
    done = featherweight(
        *("frontier", "few.csv", "--by", "images", "--public", "p.csv"), cwd=tmp_path
    )
    assert done.returncode == 2
    assert "public: got 'p.csv' with --by images, expected none" in done.stderr
