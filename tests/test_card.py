"""The model card."""

import re
import shlex
import shutil
from dataclasses import replace
from html import unescape

import pytest
import torch
import yaml
from helpers import VERDICT, result
from markdown_it import MarkdownIt
from PIL import Image

from featherweight import confidence
from featherweight.card import card
from featherweight.cli import app
from featherweight.data import Images, Split
from featherweight.formats import Said
from featherweight.run import PLACE_KEYS, Run, create_run, open_run


@pytest.fixture
def make_card(tmp_path, tiny_recipe, tiny_contract):
    def make(split, recipe=tiny_recipe, n_wrong=7, environment=None, verdict=VERDICT):
        run = create_run(
            str(tmp_path / "run"), recipe, tiny_contract, split, 0, torch.device("cpu"), ""
        )
        run.write_metrics(
            [
                {
                    "epoch": 1,
                    "seconds": 1.5,
                    "lr": 0.1,
                    "train_loss": 1,
                    "val_loss": 1,
                    "val_correct": 100 - n_wrong,
                    "val_total": 100,
                }
            ]
        )
        known = {
            "gpu": None,
            "cpu": "a chip",
            "threads": 1,
            "torch": "2.9",
            "featherweight": "0.1.0",
            "commit": None,
        }
        run.write_json("environment.json", known | (environment or {}))
        (run.path / "model.onnx").write_bytes(b"x" * 1234)
        return card(run, result(100, n_wrong), split, verdict)

    return make


def header(text):
    return yaml.safe_load(text.split("---\n")[1])


def test_the_verdict_and_the_counts(make_card, split):
    text = make_card(split)
    assert "93.00 % (7 wrong of 100)" in text
    assert "| head | linear layer | something else | seen | **FAIL** |" in text
    assert "| parameters | fewer than 9 | 7 | counted | pass |" in text
    assert "| accuracy | at least 99.40 % | \\- | not trained | not judged |" in text
    assert "| model.onnx | 1,234 |" in text
    assert "model.safetensors |" not in text  # there is none


def test_points_are_stated_where_they_say_more_than_the_clauses(make_card, split):
    parameters, head, accuracy = VERDICT["clauses"]
    clauses = [
        parameters | {"points": 2, "max_points": 2},
        head | {"points": 0, "max_points": 1, "bonus": True},
        accuracy | {"points": None, "max_points": 5},
    ]
    text = make_card(split, verdict=VERDICT | {"passed": True, "clauses": clauses})
    assert "Contract `tiny`: **PASS**, points 2 of 2 judged, 7 in all.\n" in text
    results = [line.split(" | ")[-1] for line in text.splitlines() if "| seen |" in line]
    assert results == ["missed 0/1 |"]
    assert "| pass 2/2 |" in text
    assert "| not judged -/5 |" in text


CONVOLUTION = {
    **{"name": "conv1", "kind": "conv", "shape": [8, 26, 26], "kernel": [3, 3]},
    **{"stride": [1, 1], "dilation": [1, 1], "groups": 1, "receptive_field": [3, 3]},
    **{"jump": [1.0, 1.0], "parameters": 80, "macs": 48672},
}
TABLE = {"image": [1, 28, 28], "training": False, "hidden": 0, "layers": [CONVOLUTION]}


def test_the_layers_are_a_table(make_card, split):
    text = make_card(split, verdict=VERDICT | {"layers": TABLE})
    section = text.split("## Layers\n")[1].split("\n## ")[0]
    assert "| conv1 | conv 3x3 | 8x26x26 | 3 | 1 | 80 | 48,672 |" in section
    assert "80 parameters; 48,672 multiply-accumulates" in section
    assert "It looks at" not in text
    assert "- teacher" not in text


def test_several_looks_at_an_image_are_stated(make_card, split):
    table = TABLE | {"layers": [CONVOLUTION | {"views": 5}]}
    text = make_card(split, verdict=VERDICT | {"layers": table})
    assert "It looks at each image 5 times and averages, with 48,672 multiply-accumulates" in text


def test_a_teacher_is_stated(make_card, split, tiny_recipe):
    text = make_card(split, replace(tiny_recipe, teacher="feather-20k"))
    assert "- teacher: feather-20k, trained on the same images;" in text
    assert "learned instead of labels, at temperature 3\n" in text


def test_without_a_graph_there_is_no_layer_table(make_card, split):
    assert "## Layers\nNot known: the network was watched" in make_card(split)


def test_the_header_is_what_hubs_read(make_card, split, tiny_recipe):
    values = header(make_card(split, replace(tiny_recipe, name='no: "yes" #1')))
    assert values["license"] == "apache-2.0"
    assert values["library_name"] == "featherweight"
    assert "image-classification" in values["tags"]
    assert values["metrics"] == ["accuracy"]
    (model,) = values["model-index"]
    assert model["name"] == 'no: "yes" #1'
    (found,) = model["results"]
    assert found["task"]["type"] == "image-classification"
    assert set(found["dataset"]) == {"type", "name", "split"}
    (metric,) = found["metrics"]
    assert (metric["type"], metric["value"]) == ("accuracy", 0.93)
    assert metric["name"] == (
        "accuracy on the last 100 images of the training file (validation), last epoch's weights"
    )


def test_the_embedded_data_are_named_with_their_licence(make_card, split):
    text = make_card(Split(None, split.train, split.val, 10))
    assert "data: MNIST, 500 training and 100 validation images" in text
    assert "CC BY-SA 3.0" in text
    assert header(text)["datasets"] == ["ylecun/mnist"]


def test_other_data_are_not_called_digits(make_card, split):
    text = make_card(split)
    assert "sorts grey images of 28x28 pixels into\n10 classes.\n" in text
    assert f"data: {split.source.rpartition('/')[2]}, 500 training" in text
    for word in ("MNIST", "mnist", "digits drawn", "CC BY-SA"):
        assert word not in text
    assert "datasets" not in header(text)


def test_what_the_images_are_like_is_said(make_card, split):
    parts = [Images(p.pixels.repeat(1, 3, 1, 1), p.labels) for p in (split.train, split.val)]
    names = tuple(f"class *{i}*" for i in range(10))
    colour = Split("there", *parts, 10, Said(names), "the last of each class, {n} in all")
    text = make_card(colour)
    assert "sorts colour images of 28x28 pixels into\n10 classes: class \\*0\\*, class" in text
    assert "measured on the last of each class, 100 in all (validation)" in text
    assert "The input is one colour image" in text


@pytest.mark.parametrize(
    ("epochs", "threads", "commit", "expected"),
    [
        (
            1,
            1,
            None,
            "training: 1 epoch, 2 s on a chip, 1 thread;\n  torch 2.9, featherweight 0.1.0\n",
        ),
        (
            19,
            2,
            "abc+",
            "training: 19 epochs, 2 s on a chip, 2 threads;\n  torch 2.9, "
            "featherweight 0.1.0, commit abc+\n",
        ),
    ],
)
def test_how_it_was_made_in_good_english(
    make_card, split, tiny_recipe, epochs, threads, commit, expected
):
    assert expected in make_card(
        split,
        replace(tiny_recipe, epochs=epochs),
        environment={"threads": threads, "commit": commit},
    )


def test_a_run_that_went_on_in_another_place_names_both(make_card, split, tiny_recipe):
    place = dict.fromkeys(PLACE_KEYS) | {"torch": "3.0", "gpu": "a GPU", "featherweight": "1"}
    text = make_card(
        split,
        replace(tiny_recipe, epochs=19),
        environment={"device": "cpu", "resumed": [place | {"epoch": 9}]},
    )
    assert (
        "training: 19 epochs, 2 s in all, on a chip, 1 thread;\n  torch 2.9, featherweight 0.1.0;\n"
        "  from epoch 10 on a GPU;\n  torch 3.0, featherweight 1\n"
    ) in text


def test_a_network_that_is_not_the_recipes_own(make_card, split, tiny_recipe):
    text = make_card(
        split, replace(tiny_recipe, name="baseline", model="my_net:Net", model_args={})
    )
    assert "network: `my_net:Net` {}, in place of the recipe's network" in text
    assert "and `my_net` on Python's path" in text
    # Its licence is its author's to say.
    assert header(text)["license"] == "other"
    assert "Apache-2.0" not in text


def test_its_commands_work_in_its_folder(model, split, tmp_path, monkeypatch, capsys):
    folder = shutil.copytree(model.path.parent, tmp_path / "anything")
    run = open_run(folder)
    text = card(run, result(100, 1), split, VERDICT)
    assert "network: `featherweight.model:Feather`" in text
    assert "in place of the recipe's network" not in text
    commands = re.findall(r"^featherweight (.+?)\s+#", text, re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["evaluate", "export", "predict"]
    Image.fromarray(split.val.pixels[0, 0].numpy()).save(folder / "photo.jpg")
    (folder / "model.onnx").unlink()
    monkeypatch.chdir(folder)
    for command in commands:
        assert (
            app(
                shlex.split(command),
                exit_on_error=False,
                print_error=False,
                result_action="return_value",
            )
            == 0
        )
    assert "photo.jpg" in capsys.readouterr().out


HOSTILE = "[red]x[ <script>alert(1)</script> a|b `c` **d** ![e](f) $g$ &lt; _h_"


def test_strangers_texts_are_shown_as_they_are(make_card, split, tiny_recipe):
    clauses = [{**VERDICT["clauses"][0], "found": HOSTILE + "\n# heading", "how": "``two``"}]
    recipe = replace(tiny_recipe, name="".join(HOSTILE.split("/")))
    run = make_card(
        split,
        recipe,
        environment={"cpu": HOSTILE},
        verdict={**VERDICT, "clauses": clauses, "contract": HOSTILE},
    )
    assert header(run)["model-index"][0]["name"] == recipe.name
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(run.split("---\n", 2)[2])
    assert "<script" not in html
    assert "<img" not in html.split("verdict")[0]
    assert "<strong>d</strong>" not in html
    assert "<em>" not in html
    text = unescape(re.sub("<[^>]*>", "", html))
    assert text.count(HOSTILE) == 3  # the clause, the contract and the processor
    assert f"{HOSTILE} # heading" in text
    assert "``two``" in text


def test_a_card_says_what_was_added_to_mnist_and_how_well_it_rejects(
    make_card, split, tiny_recipe, monkeypatch
):
    monkeypatch.setattr(confidence, "N_VALIDATION", 60)
    monkeypatch.setattr(Run, "load_model", Run.build_model)
    text = make_card(split, replace(tiny_recipe, synthetic=0.4))
    assert "and synthetic images and checked" in text
    assert "- synthetic images: 200 in each epoch beside" in text
    assert re.search(r"AUROC of the confidence, .*: \*\*[01]\.\d{4}\*\*", text)
    assert re.search(r"an image is no digit: so are [\d.]+ % of the images of no digit", text)
    assert re.search(r"and [\d.]+ % of the kinds that training never draws \(\d+ of \d+\)", text)
    assert "predicts one of its" not in text
