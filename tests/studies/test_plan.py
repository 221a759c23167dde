"""Plans: recipes x overrides x seeds from TOML, and what is refused."""

import json

import pytest
import torch

from featherweight.data import load_split
from featherweight.errors import InputError
from featherweight.recipe import SYNTHETIC_EDITION, find_recipe
from featherweight.run import open_run
from featherweight.studies.plan import PLANS, Task, default_table, find_plan, load_plan, to_plan
from featherweight.studies.workers import run_task


def test_a_plan_is_recipes_by_overrides_by_seeds(plan_file, digits):
    plan = load_plan(plan_file, str(digits))
    assert [(t.recipe.name, t.recipe.epochs, t.seed) for t in plan.tasks] == [
        ("one", 1, 0),
        ("one", 1, 1),
        ("two", 2, 0),
        ("two", 2, 1),
    ]
    base = find_recipe("feather-20k")
    assert plan.tasks[2].recipe.augmentation.rotation == 3
    assert plan.tasks[2].recipe.augmentation.shift == base.augmentation.shift
    assert plan.test


def test_an_override_with_another_model_starts_with_no_arguments(plan_file, digits):
    text = plan_file.read_text()
    plan_file.write_text(text.replace("epochs = 2", "epochs = 2\nmodel_args.dropout = 0.5"))
    merged = load_plan(plan_file, str(digits)).tasks[2].recipe.model_args
    assert merged == find_recipe("feather-20k").model_args | {"dropout": 0.5}
    plan_file.write_text(
        text.replace(
            "epochs = 2",
            'epochs = 2\nmodel = "featherweight.model:Feather"\nmodel_args.dropout = 0.5',
        )
    )
    assert load_plan(plan_file, str(digits)).tasks[2].recipe.model_args == {"dropout": 0.5}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("recipes = [", "recipe = ["), "unknown key 'recipe'"),
        (('"feather-20k"', '"nope"'), "'nope': unknown"),
        (("seeds = 2", "seeds = -1"), "seeds: got -1"),
        (("seeds = 2", "seeds = [0.5]"), "seeds"),
        (("test = true", "test = 1"), "test: got 1"),
        (("epochs = 2", "epoch = 2"), "override 2: unknown key 'epoch'"),
        (("epochs = 2", "epochs = 'x'"), "epochs"),
        (("rotation = 3", "rotation = 'x'"), "override 2"),
        (("rotation = 3", "spin = 3"), "spin"),
        (('"two"', '"one"'), "name"),
        (("augmentation.rotation = 3", "augmentation = 3"), "augmentation"),
        (("recipes", "= recipes"), "not a TOML"),
        (("augmentation.rotation = 3", 'model_args.layers = ["conv x"]'), "conv x"),
    ],
)
def test_a_wrong_plan_says_what_is_wrong(plan_file, digits, change, message):
    text = plan_file.read_text()
    assert change[0] in text
    plan_file.write_text(text.replace(*change))
    with pytest.raises(ValueError, match=message):
        load_plan(plan_file, str(digits))


def test_a_plan_trains_on_several_numbers_of_images(plan_file, digits, tiny_contract):
    text = plan_file.read_text()
    plan_file.write_text(f"train_size = [200, 500, 200]\n{text}")
    few = load_plan(plan_file, str(digits)).tasks
    plan_file.write_text(text)
    usual = load_plan(plan_file, str(digits)).tasks
    n = len(usual)
    assert list(few[n:]) == list(usual)  # the contract's own number, and its own contract
    assert {task.contract.name for task in few[:n]} == {f"{tiny_contract.name}-200"}
    assert [(each.recipe, each.seed) for each in few[:n]] == [(e.recipe, e.seed) for e in usual]
    split = few[0].load_split()
    assert len(split.train) == 200
    assert few[0].data_sha256 == split.sha256
    val = usual[0].load_split().val
    assert split.val.pixels.equal(val.pixels)
    for wrong in ("500", "[]", "[0]", "[1.5]", '["many"]', "[true]"):
        plan_file.write_text(f"train_size = {wrong}\n{text}")
        with pytest.raises(InputError, match=r"train_size: got .*expected a list of numbers"):
            load_plan(plan_file, str(digits))


def test_an_override_that_adds_synthetic_images_adds_todays(plan_file, digits):
    plan_file.write_text(plan_file.read_text().replace("epochs = 2", "epochs = 2\nsynthetic = 0.5"))
    recipe = load_plan(plan_file, str(digits)).tasks[2].recipe
    assert (recipe.synthetic, recipe.synthetic_edition) == (0.5, SYNTHETIC_EDITION)


def test_an_override_may_be_of_one_recipe_alone(plan_file, digits):
    text = plan_file.read_text()
    two = text.replace('["feather-20k"]', '["feather-20k", "feather-4k"]')
    plan_file.write_text(two.replace('name = "one"', 'recipe = "feather-20k"\nname = "one"'))
    with pytest.raises(InputError, match="two recipes have the same name"):  # "two" is of both
        load_plan(plan_file, str(digits))
    mine = two.replace("[[overrides]]", '[[overrides]]\nrecipe = "feather-20k"')
    plan_file.write_text(mine)
    found = {task.recipe.name: task.recipe for task in load_plan(plan_file, str(digits)).tasks}
    assert list(found) == ["one", "two", "feather-4k"]
    assert found["feather-4k"] == find_recipe("feather-4k")
    plan_file.write_text(text.replace('name = "two"', 'name = "two"\nrecipe = "feather-4k"'))
    with pytest.raises(InputError, match="override 2: recipe: got 'feather-4k', expected one of"):
        load_plan(plan_file, str(digits))


def test_an_override_without_a_name_keeps_the_name_of_the_recipe(plan_file, digits):
    plan_file.write_text(plan_file.read_text().replace('name = "two"', ""))
    assert load_plan(plan_file, str(digits)).tasks[2].recipe.name == "feather-20k"


def test_the_key_of_a_task_names_its_images_and_needs_no_reading(plan_file, digits, monkeypatch):
    task = load_plan(plan_file, str(digits)).tasks[0]
    assert task.data_sha256 == load_split(str(digits), 500, 100).sha256
    monkeypatch.setattr(Task, "load_split", lambda self: pytest.fail("the images are read"))
    assert task.key == ("0", task.data_sha256, task.config)


def test_a_plan_of_a_recipe_is_read_as_that_recipe(plan_file, digits, tiny_contract):
    for task in load_plan(plan_file, str(digits)).tasks[::2]:
        text = to_plan(task.recipe, "baseline", str(plan_file.parent / "tiny.toml"))
        plan_file.with_name("again.toml").write_text(text)
        again = load_plan(plan_file.with_name("again.toml"), str(digits)).tasks
        assert [each.recipe for each in again] == [task.recipe] * 10
        assert again[0].contract == tiny_contract


def test_built_in_plans_are_found_by_name_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert {"baseline", "records", "int4"} <= set(PLANS)
    plan = load_plan("baseline")
    assert [(task.recipe.name, task.seed) for task in plan.tasks] == [
        ("baseline", seed) for seed in range(3)
    ]
    for name in ("nope", "results/records.toml", "."):
        with pytest.raises(
            ValueError, match=r"neither built in \(baseline, .*records, .*sprint\) nor a file"
        ):
            find_plan(name)


def test_a_table_is_beside_its_plan_or_where_the_results_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(default_table("plans/mine.toml")) == "plans/mine.csv"
    assert str(default_table("records")) == "records.csv"
    (tmp_path / "results").mkdir()
    assert str(default_table("records")) == "results/records.csv"


def test_a_plan_with_a_byte_order_mark_is_read(plan_file, digits):
    text = plan_file.read_text()
    plan_file.write_text(f"# Pläne: ä\n{text}", encoding="utf-8-sig")
    assert len(load_plan(plan_file, str(digits)).tasks) == 4


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "/tmp/x",
        "a/b",
        "a\\b",
        "nul\0x",
        "x" * 300,
        "\u00e9" * 51,
        ".",
        "..",
        ".hidden",
        "",
        " ",
        "two\nlines",
        "\x1b[31mred",
        "\u202ereversed",
    ],
)
def test_a_name_that_leaves_the_folder_of_runs_is_refused(plan_file, digits, name):
    plan_file.write_text(plan_file.read_text().replace('"two"', json.dumps(name)))
    with pytest.raises(InputError, match="override 2: name: got ") as caught:
        load_plan(plan_file, str(digits))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["[red]x[", "=1+1", "<b>", "a|b", "gr\u00f6\u00dfer 2.5", "$x$"])
def test_a_folder_is_in_the_folder_of_runs_whatever_its_name(plan_file, digits, tmp_path, name):
    plan_file.write_text(plan_file.read_text().replace('"two"', json.dumps(name)))
    (folder,) = {t.folder(tmp_path).parent for t in load_plan(plan_file, str(digits)).tasks}
    assert folder == tmp_path


def test_a_network_without_a_graph_is_watched_and_the_plan_says_so(
    plan_file, digits, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "counts_ink.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Linear):\n"
        "    def __init__(self): super().__init__(784, 10)\n"
        "    def forward(self, x): return super().forward(x.flatten(1)) * float(x.min() < 9)\n"
    )
    text = plan_file.read_text()
    plan_file.write_text(text.replace('name = "one"', 'name = "one"\nmodel = "counts_ink:Net"'))
    plan = load_plan(plan_file, str(digits))
    (note,) = plan.notes
    assert note.startswith("one: model counts_ink.py:Net: has no graph in ")
    assert note.endswith("the audit watches it")
    task = plan.tasks[0]
    row = run_task(task, task.load_split(), tmp_path / "run", torch.device("cpu"), block=True)
    assert row is not None
    verdict = open_run(tmp_path / "run").verdict
    assert verdict is not None
    assert verdict.method == "watched"


def test_a_network_that_ends_the_process_is_not_trained(plan_file, digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "leaves_early.py").write_text("import sys\nsys.exit(0)\n")
    text = plan_file.read_text()
    plan_file.write_text(text.replace('name = "one"', 'name = "one"\nmodel = "leaves_early:Net"'))
    with pytest.raises(InputError, match=r"'leaves_early:Net': .*ends the process, exit\(0\)"):
        load_plan(plan_file, str(digits))
