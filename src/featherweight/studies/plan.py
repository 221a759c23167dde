"""What a study makes: a plan of recipes, overrides and seeds, built in or read from a TOML file.

plan = load_plan("records")                 # built in: plans/records.toml
plan = load_plan("my-plan.toml")
plan.tasks[0].recipe, plan.tasks[0].seed, plan.tasks[0].folder(Path("runs"))
"""

import hashlib
import json
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..build import build
from ..contract import Contract, load_contract
from ..data import Split, load_split
from ..errors import InputError
from ..recipe import Recipe, find_recipe
from ..train import check_recipe


def run_config(recipe: Recipe, contract: Contract) -> str:
    """Recipe and contract as one line of JSON; with the seed and the images' hash it names a run."""
    return json.dumps({"recipe": recipe.to_dict(), "contract": contract.to_dict()}, sort_keys=True)


PLANS = {
    path.stem: path for path in sorted((Path(__file__).parent / "plans").glob("*.toml"))
}  # built in, by name


def find_plan(name_or_file: str) -> Path:
    """The file of a built-in plan by name, or of one's own; ValueError lists the names."""
    path = PLANS.get(name_or_file, Path(name_or_file))
    if not path.is_file():
        raise InputError(f"plan {name_or_file!r}: neither built in ({', '.join(PLANS)}) nor a file")
    return path


def default_table(name_or_file: str) -> Path:
    """The CSV of a plan: beside its file; of a built-in one in the folder `results` if there is one, else here."""
    if name_or_file in PLANS:
        return Path("results" if Path("results").is_dir() else ".") / f"{name_or_file}.csv"
    return Path(name_or_file).with_suffix(".csv")


@dataclass(frozen=True)
class Task:
    """One run to be made: everything that decides its result but machine, threads and versions."""

    recipe: Recipe
    contract: Contract
    seed: int
    data: str | None
    "Source of the images; None: the embedded MNIST."

    @property
    def config(self) -> str:
        return run_config(self.recipe, self.contract)

    def load_split(self) -> Split:
        return load_split(self.data, self.contract.train_size, self.contract.val_size)

    @property
    def key(self) -> tuple[str, str, str]:
        return str(self.seed), self.load_split().sha256, self.config

    def folder(self, runs: Path) -> Path:
        digest = hashlib.sha256("\n".join(self.key).encode()).hexdigest()[:10]
        return runs / f"{self.recipe.name}-s{self.seed}-{digest}"


@dataclass(frozen=True)
class Search:
    """What is tried, beside a task's own recipe: see search.py."""

    trials: int
    "Candidates that are trained, those that are given up included."
    space: dict[str, Any]
    "Fields of the recipe, tables nested as in it, with what each may be."
    preset: str
    "The recipe that the plan names."
    contract: str | None
    "As the plan names it; None: the recipe's own."


@dataclass(frozen=True)
class Plan:
    """Recipes x overrides x seeds, in the order in which they are run."""

    tasks: tuple[Task, ...]
    test: bool
    "Whether the test images are read, once every seed of a recipe is finished."
    search: Search | None = None
    "Its candidates are then what is run, each a change of the only task."


def _names(values: dict[str, Any], allowed: Iterable[str], where: str) -> None:
    for key in values:
        if key not in allowed:
            raise InputError(f"{where}: unknown key {key!r}, expected {', '.join(allowed)}")


def _load_search(plan: dict[str, Any], tasks: list[Task], test: bool, where: str) -> Search:
    values = plan["search"]
    if not isinstance(values, dict):
        raise InputError(f"{where}: got {values!r}, expected a table")
    _names(values, ("trials", "space"), where)
    trials, space = values.get("trials", 50), values.get("space")
    if type(trials) is not int or trials < 1:
        raise InputError(f"{where}: trials: got {trials!r}, expected a whole number of at least 1")
    if not (isinstance(space, dict) and space):
        raise InputError(f"{where}: space: got {space!r}, expected a table of recipe fields")
    if len(tasks) != 1 or test:
        raise InputError(
            f"{where}: got {len(tasks)} runs, test = {str(test).lower()}; expected one recipe, one "
            "seed, and no test images, since a search chooses"
        )
    return Search(trials, space, plan["recipes"][0], plan.get("contract"))


def changed(recipe: Recipe, values: dict[str, Any], where: str) -> Recipe:
    """The recipe with other values. Tables are merged key by key; a model that is named has its own arguments."""
    known = recipe.to_dict()
    _names(values, known, where)
    if "model" in values:
        known["model_args"] = {}
    for key, value in values.items():
        if isinstance(known[key], dict) != isinstance(value, dict):
            raise InputError(
                f"{where}: {key}: got {value!r}, expected a value such as {known[key]!r}"
            )
    merged = {
        key: known[key] | value if isinstance(value, dict) else value
        for key, value in values.items()
    }
    try:
        return Recipe.from_dict(known | {"name": recipe.name} | merged)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {error}") from error


def load_plan(path: str | Path, data: str | None = None) -> Plan:
    """Read a plan and try each of its networks on a few images; ValueError says what is wrong in it.

        recipes = ["feather-20k", "baseline"]
        seeds = 10                  # 0 to 9; or a list
        test = true                 # when a recipe's last seed is finished, read the test images for all (false)
        contract = "era-v3-s6"      # or a file; else each recipe's own

        [[overrides]]               # none: each recipe as it is
        name = "feather-20k-lr-0.2"
        lr = 0.2
        augmentation.rotation = 5

    and, for one recipe and one seed, [search], as search.py has it.
    """
    path = find_plan(str(path))
    try:
        values = tomllib.loads(
            path.read_text(encoding="utf-8-sig")
        )  # editors put a mark before UTF-8
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a TOML file: {error}") from error
    _names(values, ("recipes", "seeds", "test", "contract", "overrides", "search"), str(path))
    recipes, seeds = values.get("recipes"), values.get("seeds", 1)
    test, overrides = values.get("test", False), values.get("overrides", [{}])
    if not (
        isinstance(recipes, list) and recipes and all(isinstance(name, str) for name in recipes)
    ):
        raise InputError(
            f"{path}: recipes: got {recipes!r}, expected a list of names such as ['feather-20k']"
        )
    if type(seeds) is int and seeds > 0:
        seeds = list(range(seeds))
    if not (
        isinstance(seeds, list) and seeds and all(type(seed) is int and seed >= 0 for seed in seeds)
    ):
        raise InputError(
            f"{path}: seeds: got {seeds!r}, expected a number of seeds or a list of them, from 0 up"
        )
    if not isinstance(test, bool):
        raise InputError(f"{path}: test: got {test!r}, expected true or false")
    if not (
        isinstance(overrides, list)
        and overrides
        and all(isinstance(each, dict) for each in overrides)
    ):
        raise InputError(f"{path}: overrides: got {overrides!r}, expected [[overrides]] tables")

    tasks: list[Task] = []
    for name in recipes:
        for number, override in enumerate(overrides, 1):
            recipe = changed(find_recipe(name), override, f"{path}: override {number}")
            contract = load_contract(values.get("contract") or recipe.contract)
            tasks += [Task(recipe, contract, seed, data) for seed in dict.fromkeys(seeds)]
    if len({task.config for task in tasks}) != len({task.recipe.name for task in tasks}):
        raise InputError(
            f"{path}: two different recipes of one name; give each override a name of its own"
        )
    for task in tasks:
        if task.seed == seeds[0]:
            split = task.load_split()
            model = build(task.recipe.model, task.recipe.model_args, split.num_classes, split.shape)
            check_recipe(task.recipe, split, model)
    search = _load_search(values, tasks, test, f"{path}: search") if "search" in values else None
    return Plan(tuple(tasks), test, search)


def to_plan(recipe: Recipe, preset: str, contract: str | None) -> str:
    """A plan of ten seeds of the recipe, as what it changes of a preset."""
    lines = [f"recipes = {json.dumps([preset])}", "seeds = 10"]
    lines += [] if contract is None else [f"contract = {json.dumps(contract)}"]
    lines += ["[[overrides]]"]
    before = find_recipe(preset).to_dict()
    for key, value in recipe.to_dict().items():
        if not isinstance(value, dict):
            lines += [f"{key} = {json.dumps(value)}"] if value != before[key] else []
            continue
        # A model that is named has its own arguments, all of them.
        old = {} if key == "model_args" and recipe.model != before["model"] else before[key]
        lines += [
            f"{key}.{name} = {json.dumps(each)}"
            for name, each in value.items()
            if each != old.get(name)
        ]
    return "\n".join(lines) + "\n"
