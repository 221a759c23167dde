"""The plans in results/peers: other people's networks, and the published figures they belong to."""

import csv
import re
import tomllib

import pytest

from featherweight.build import build, count_parameters
from featherweight.recipe import find_recipe
from featherweight.studies.plan import PLAN_KEYS, override_recipe
from featherweight.studies.rows import read_rows
from featherweight.studies.summary import summarise


def published(root):
    with (root / "results/public.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_each_plan_trains_the_network_that_its_published_row_counts(request, monkeypatch):
    root = request.config.rootpath
    monkeypatch.chdir(root)  # the plans name the class by a path from there
    claims = {row["recipe"]: int(row["n_params"]) for row in published(root) if row["recipe"]}
    plans = sorted((root / "results/peers").glob("*.toml"))
    assert sorted(claims) == [plan.stem for plan in plans]
    for path in plans:
        plan = tomllib.loads(path.read_text())
        assert plan["test"] is True
        assert plan["seeds"] == 10
        assert plan.keys() <= set(PLAN_KEYS)
        (preset,), (override,) = plan["recipes"], plan["overrides"]
        recipe = override_recipe(find_recipe(preset), override, path.name)
        assert recipe.name == path.stem
        network = build(recipe.model, recipe.model_args, 10)
        assert count_parameters(network) == claims[recipe.name], path.name


def test_the_page_of_results_has_the_published_rows(request):
    root = request.config.rootpath
    page = (root / "docs/results.md").read_text()
    for row in published(root):
        epochs = int(row["epochs"])
        line = (
            f"| {int(row['n_params']):,} | {100 * float(row['accuracy']):.2f} % | {epochs:,} | "
            f"{row['protocol']} | {row['source']} |"
        )
        assert line in page
    table = page.split("## Published results")[1].split("\n## ")[0]
    assert len(re.findall(r"^\| [\d,]+ \|", table, re.M)) == len(published(root))


def test_the_page_of_results_has_what_the_same_networks_reach_here(request):
    root = request.config.rootpath
    table = (root / "docs/results.md").read_text().split("## Published networks, trained here")[1]
    rows = {row["recipe"]: row for row in published(root) if row["recipe"]}
    trained = {each.recipe: each for each in summarise(read_rows(root / "results/peers.csv"))}
    for name, row in rows.items():
        val, test = trained[name].val, trained[name].test
        assert (trained[name].runs, val.n, test.n) == (10, 10, 10)
        low, high = (100 * end for end in test.interval)
        claimed = f"{100 * float(row['accuracy']):.2f} %"
        found = f"{100 * val.mean:.2f} %; **{100 * test.mean:.2f} %** ({low:.2f} to {high:.2f})"
        assert re.search(rf"^\| `{name}` \|.*\| {claimed} \| {re.escape(found)} \|$", table, re.M)


def test_an_unknown_operation_is_named(request, monkeypatch):
    monkeypatch.chdir(request.config.rootpath)
    with pytest.raises(ValueError, match="unknown operation 'tanh'"):
        build("results/peers/network.py:Network", {"layers": ["conv 8, tanh"]}, 10)
