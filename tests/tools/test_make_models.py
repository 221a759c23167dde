"""The seeds of the pretrained networks: the median by validation, and the best of `reader`."""

import make_models
import pytest

from featherweight.pretrained import pretrained
from featherweight.studies.rows import STUDY_COLUMNS, sign_row
from featherweight.tables import read_table, write_table


@pytest.fixture(scope="module")
def tasks():
    return make_models.shipped_tasks()


@pytest.mark.parametrize("name", pretrained())
def test_what_ships_is_what_the_tables_choose(name, tasks):
    task, right, chosen = make_models.choose_seed(name, tasks[name])
    shipped = pretrained()[name]
    assert task.seed == shipped.seed
    assert shipped.chosen.startswith(chosen)
    # On another processor a seed gives other bits, and the card says so.
    assert (f"that row has {right:,}" in shipped.chosen) == (right != shipped.validation_correct)
    assert chosen.startswith("best") == (name == "reader")


def test_the_loss_decides_where_every_row_has_it(tmp_path, tasks, monkeypatch):
    rows = read_table(make_models.default_table("sprint-first"), STUDY_COLUMNS)
    for row in rows:
        row["val_loss"] = f"0.{row['seed']}"
    write_table(tmp_path / "sprint-first.csv", list(map(sign_row, rows)), STUDY_COLUMNS)
    monkeypatch.setattr(make_models, "default_table", lambda plan: tmp_path / f"{plan}.csv")
    task, _, chosen = make_models.choose_seed("sprint", tasks["sprint"])
    assert (task.seed, chosen) == (5, "median of 10 seeds by validation loss")


def test_a_recipe_without_rows_is_named(tmp_path, tasks, monkeypatch):
    monkeypatch.setattr(make_models, "default_table", lambda plan: tmp_path / f"{plan}.csv")
    with pytest.raises(SystemExit, match="sprint: not all of its seeds"):
        make_models.choose_seed("sprint", tasks["sprint"])


def test_seeds_that_are_not_all_trained_choose_nothing(tmp_path, tasks, monkeypatch):
    rows = read_table(make_models.default_table("records-first"), STUDY_COLUMNS)
    write_table(tmp_path / "records-first.csv", rows, STUDY_COLUMNS)
    newer = read_table(make_models.default_table("records"), STUDY_COLUMNS)
    few = [row for row in newer if not (row["recipe"] == "feather-4k" and row["seed"] == "9")]
    write_table(tmp_path / "records.csv", few, STUDY_COLUMNS)
    monkeypatch.setattr(make_models, "default_table", lambda plan: tmp_path / f"{plan}.csv")
    new, _, _ = make_models.choose_seed("feather-8k", tasks["feather-8k"])
    old, _, _ = make_models.choose_seed("feather-4k", tasks["feather-4k"])
    assert ("views" in new.recipe.model_args, "views" in old.recipe.model_args) == (True, False)
