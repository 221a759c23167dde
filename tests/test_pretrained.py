"""The networks that come with the package are what their cards say, and nothing changes them."""

import json

import pytest
import torch
from helpers import MNIST_RECIPES, featherweight

import featherweight as fw
from featherweight.data import load_split
from featherweight.errors import InputError
from featherweight.evaluate import evaluate
from featherweight.inference.reader import Reader, find_model
from featherweight.pretrained import DEFAULT_MODEL, FOLDER, find_pretrained, pretrained
from featherweight.run import FORMAT

# The network of quick is that of reader, which reads better.
WITHOUT = ("quick",)
NAMES = [recipe.name for recipe in MNIST_RECIPES if recipe.name not in WITHOUT] + ["reader"]


@pytest.fixture(scope="module")
def mnist():
    return load_split(None, 50_000, 10_000)


def test_each_recipe_but_two_has_one_and_the_default_is_among_them():
    assert set(pretrained()) == set(NAMES)
    assert DEFAULT_MODEL in pretrained()
    counts = [model.validation_correct for model in pretrained().values()]
    assert counts == sorted(counts, reverse=True)
    assert find_pretrained("feather-3k") is None


@pytest.mark.parametrize("name", NAMES)
def test_each_file_is_what_its_card_says(name, mnist):
    model = pretrained()[name]
    reader, run = Reader(name), fw.load_run(name)
    val = mnist.val
    read = torch.from_numpy(reader.probabilities(val.pixels[:, 0].numpy())).argmax(1)
    wrong = int((read != val.labels).sum())
    assert (10_000 - wrong, 10_000) == (model.validation_correct, model.validation_total)
    assert reader.card["validation_correct"] == str(model.validation_correct)
    result = evaluate(run.load_model(), val, mnist.mean_std)
    assert torch.equal(result.predicted, read)
    card = (model.folder / "README.md").read_text(encoding="utf-8")
    test_wrong = 10_000 - model.test_correct
    assert f"Validation: **{100 - wrong / 100:.2f} % ({wrong} wrong of 10,000)**" in card
    assert f"**{100 - test_wrong / 100:.2f} % ({test_wrong} wrong of 10,000)**" in card
    assert f"Seed {model.seed} is the {model.chosen}." in card
    assert run.seed == model.seed
    assert (run.recipe.name, run.recipe.model) == (name, fw.find_recipe(name).model)
    assert run.config["format"] == FORMAT
    stated, verdict = run.verdict, fw.audit(name)
    assert f": **{'PASS' if stated.passed else 'FAIL'}**" in card
    assert verdict.n_params == model.parameters
    assert (verdict.layers.macs, verdict.layers.views) == (model.macs, model.views)
    before = {clause.clause: clause.passed for clause in stated.clauses}
    judged = {c.clause: c.passed for c in verdict.clauses if c.passed is not None}
    assert judged.pop("contract")  # a clause that verdicts had not yet when they were stated
    assert judged == {clause: before[clause] for clause in judged}
    # The others need the training's state, and accuracy too where several epochs must reach it.
    others = {"contract", "epochs", "weights", "log"} & set(before)
    assert set(before) - set(judged) - {"accuracy"} == others


def test_all_together_are_small_and_free_of_the_machine_that_made_them():
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert len(files) == 8 * len(NAMES)
    assert sum(path.stat().st_size for path in files) < 1_800_000
    for path in files:
        assert b"/work" not in path.read_bytes()


def test_nothing_changes_them():
    for change in (
        lambda: fw.train(resume="sprint"),
        lambda: fw.load_run("sprint").refuse_pretrained(),
    ):
        with pytest.raises(InputError, match="sprint: a pretrained network, which is not changed"):
            change()


def test_a_name_comes_before_a_folder_of_the_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sprint").mkdir()
    (tmp_path / "sprint" / "model.onnx").write_bytes(b"")
    assert find_model("sprint") == FOLDER / "sprint" / "model.onnx"
    assert find_model("./sprint").resolve() == tmp_path / "sprint" / "model.onnx"


def test_models_lists_them(tmp_path):
    listed = featherweight("models", "--json", cwd=tmp_path)
    rows = json.loads(listed.stdout)
    assert [row["name"] for row in rows] == list(pretrained())
    for row in rows:
        assert row["bytes"] == (FOLDER / row["name"] / "model.onnx").stat().st_size
        assert 0 < row["milliseconds"] < 100
    shown = featherweight("models", cwd=tmp_path)
    assert shown.returncode == 0
    assert all(name in shown.stdout for name in NAMES)


def test_one_is_exported_to_the_working_directory(tmp_path):
    result = featherweight("export", "feather-1k", "--format", "onnx", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "feather-1k-model.onnx\n"
    assert (tmp_path / "feather-1k-model.onnx").is_file()
