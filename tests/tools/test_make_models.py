"""The seeds of the pretrained networks: the median by validation, never the luckiest."""

import make_models
import pytest

from featherweight.data import load_split
from featherweight.pretrained import pretrained
from featherweight.recipe import RECIPES, find_recipe
from featherweight.studies.rows import STUDY_COLUMNS
from featherweight.tables import read_table, write_table


@pytest.fixture(scope="module")
def mnist():
    return load_split(None, 50_000, 10_000)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_what_ships_is_what_the_tables_choose(recipe, mnist):
    task, median, chosen = make_models.choose_seed(recipe, mnist)
    shipped = pretrained()[recipe.name]
    assert task.seed == shipped.seed
    assert shipped.chosen.startswith(chosen)
    # On another processor a seed gives other bits, and the card says so.
    assert (f"that row has {median:,}" in shipped.chosen) == (median != shipped.validation_correct)


def test_the_loss_decides_where_every_row_has_it(tmp_path, mnist, monkeypatch):
    table = tmp_path / "records.csv"
    rows = [
        row
        for row in read_table(make_models.default_table("records"), STUDY_COLUMNS)
        if row["recipe"] == "sprint"
    ]
    for row in rows:
        row["val_loss"] = f"0.{row['seed']}"
    write_table(table, rows, STUDY_COLUMNS)
    monkeypatch.setattr(make_models, "default_table", lambda plan: tmp_path / f"{plan}.csv")
    task, _, chosen = make_models.choose_seed(find_recipe("sprint"), mnist)
    assert (task.seed, chosen) == (5, "median of 10 seeds by validation loss")


def test_a_recipe_without_rows_is_named(tmp_path, mnist, monkeypatch):
    monkeypatch.setattr(make_models, "default_table", lambda plan: tmp_path / f"{plan}.csv")
    with pytest.raises(SystemExit, match="sprint: no row of it"):
        make_models.choose_seed(find_recipe("sprint"), mnist)
