"""Plans of studies: recipes, overrides and seeds, built in or read from a TOML file.

    plan = load_plan("records")                 # built in: plans/records.toml
    plan = load_plan("my-plan.toml")
    plan.tasks[0].recipe, plan.tasks[0].seed, plan.tasks[0].folder(Path("runs"))

A plan in TOML:

    recipes = ["feather-20k", "baseline"]
    seeds = 10                  # seeds 0 to 9; or a list of seeds
    test = true                 # read the test images when all seeds of a recipe are done (false)
    contract = "era-v3-s6"      # a name or a file (each recipe's own contract)
    train_size = [500, 5000]    # train on the first 500 and 5,000 images (as the contract says)

    [[overrides]]               # without any: each recipe as it is
    name = "feather-20k-lr-0.2"
    recipe = "feather-20k"      # of this recipe alone (of each)
    lr = 0.2
    augmentation.rotation = 5

A plan of one recipe and one seed can have a table [search] instead; see search.py.
"""

import hashlib
import json
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from ..contract import Contract, load_contract
from ..data import Split
from ..errors import InputError, NoGraphError
from ..recipe import LATER_FIELDS, Recipe, find_recipe
from ..splits import contract_split
from ..train import check_recipe, export_network, first_network

# The built-in plans by name.
PLANS = {path.stem: path for path in sorted((Path(__file__).parent / "plans").glob("*.toml"))}
PLAN_KEYS = ("recipes", "seeds", "test", "contract", "train_size", "overrides", "search")
DEFAULT_TRIALS = 50


def run_config(recipe: Recipe, contract: Contract) -> str:
    """Return the recipe and the contract as one line of JSON."""
    return json.dumps({"recipe": recipe.to_dict(), "contract": contract.to_dict()}, sort_keys=True)


def find_plan(name_or_file: str) -> Path:
    """Return the file of a built-in plan, or the path of your own.

    Raises InputError, with the names of the built-in plans, if there is neither."""
    path = PLANS.get(name_or_file, Path(name_or_file))
    if not path.is_file():
        raise InputError(f"plan {name_or_file!r}: neither built in ({', '.join(PLANS)}) nor a file")
    return path


def default_table(name_or_file: str) -> Path:
    """Return the default CSV file of a plan.

    It stands beside the plan's file. The table of a built-in plan stands in the folder `results`
    if there is one, else in the working directory."""
    if name_or_file in PLANS:
        return Path("results" if Path("results").is_dir() else ".") / f"{name_or_file}.csv"
    return Path(name_or_file).with_suffix(".csv")


@dataclass(frozen=True)
class Task:
    """One run to train: all that decides its result except machine, threads and versions."""

    recipe: Recipe
    "How the run is trained."
    contract: Contract
    "What the run is judged by."
    seed: int
    "Seed of the initial weights and of all random draws."
    data: str | None
    "Where the data set is; None is MNIST."
    data_sha256: str
    "SHA-256 of the images and labels, `Split.sha256`."

    @property
    def config(self) -> str:
        """Return the recipe and the contract as one line of JSON."""
        return run_config(self.recipe, self.contract)

    @property
    def key(self) -> tuple[str, str, str]:
        """Return what identifies the run: seed, hash of the data, recipe and contract."""
        return str(self.seed), self.data_sha256, self.config

    def load_split(self) -> Split:
        """Load the images."""
        return contract_split(self.data, self.contract)

    def folder(self, runs: Path) -> Path:
        """Return the path of the run folder inside `runs`; its name has a hash of `key`."""
        digest = hashlib.sha256("\n".join(self.key).encode()).hexdigest()[:10]
        return runs / f"{self.recipe.name}-s{self.seed}-{digest}"


@dataclass(frozen=True)
class Search:
    """A hyper-parameter search around the plan's only task; see search.py."""

    trials: int
    "Number of candidates to train, including those that are stopped early."
    space: dict[str, Any]
    "Search space: fields of the recipe, nested as in the recipe, with their possible values."
    preset: str
    "Name of the recipe in the plan."
    contract: str | None
    "Contract in the plan; None is the recipe's own."


@dataclass(frozen=True)
class Plan:
    """Numbers of training images x recipes x overrides x seeds, in the order of training."""

    tasks: tuple[Task, ...]
    "Runs to train."
    test: bool
    "Whether to read the test images once all seeds of a recipe are trained."
    search: Search | None = None
    "Search for a better recipe; its candidates are then trained instead of the task."
    notes: tuple[str, ...] = ()
    "What to know about its networks, a line each."

    @property
    def recipes(self) -> list[Recipe]:
        """Return the recipes with overrides applied, once each, in the order of the tasks."""
        return list({task.recipe.name: task.recipe for task in self.tasks}.values())


def load_plan(path: str | Path, data: str | None = None) -> Plan:
    """Read a plan, and check each of its networks on a few images.

    `path` is the name of a built-in plan or a TOML file, `data` where a data
    set is, instead of MNIST. Raises InputError if the plan is not valid."""
    path = find_plan(str(path))
    try:
        # Some editors write a byte order mark at the start of UTF-8.
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a TOML file: {error}") from error
    where = str(path)
    _check_keys(values, PLAN_KEYS, where)
    recipes = _read_recipes(values, where)
    seeds = _read_seeds(values, where)
    test = values.get("test", False)
    if not isinstance(test, bool):
        raise InputError(f"{where}: test: got {test!r}, expected true or false")
    tasks: list[Task] = []
    notes: list[str] = []
    # Recipes inside of sizes: runs on the same images are trained one after another, and the images
    # are loaded once.
    for size, recipe in product(_read_train_sizes(values, where), recipes):
        contract = _sized(load_contract(values.get("contract") or recipe.contract), size)
        split = contract_split(data, contract)
        try:
            graph = export_network(recipe, split, seeds[0])
        except NoGraphError as error:
            graph = None
            notes.append(
                f"{recipe.name}: {error.message}; its code is trained in this study's processes, "
                "and the audit watches it"
            )
        check_recipe(recipe, split, first_network(recipe, split, seeds[0], graph))
        tasks += [Task(recipe, contract, seed, data, split.sha256) for seed in seeds]
    search = None
    if "search" in values:
        search = _read_search(values, tasks, where=f"{where}: search")
    return Plan(tuple(tasks), test, search, tuple(dict.fromkeys(notes)))


def _check_keys(values: dict[str, Any], allowed: Iterable[str], where: str) -> None:
    for key in values:
        if key not in allowed:
            raise InputError(f"{where}: unknown key {key!r}, expected {', '.join(allowed)}")


def _read_recipes(values: dict[str, Any], where: str) -> list[Recipe]:
    """Return every recipe of the plan with every override applied."""
    names, overrides = values.get("recipes"), values.get("overrides", [{}])
    if not (isinstance(names, list) and names and all(isinstance(name, str) for name in names)):
        raise InputError(
            f"{where}: recipes: got {names!r}, expected a list of names such as ['feather-20k']"
        )
    if not (
        isinstance(overrides, list)
        and overrides
        and all(isinstance(override, dict) for override in overrides)
    ):
        raise InputError(f"{where}: overrides: got {overrides!r}, expected [[overrides]] tables")
    for number, override in enumerate(overrides, 1):
        if (own := override.get("recipe")) is not None and own not in names:
            raise InputError(
                f"{where}: override {number}: recipe: got {own!r}, expected one of "
                f"{', '.join(names)}"
            )
    recipes: list[Recipe] = []
    for name in names:
        numbered = [
            (number, {key: value for key, value in override.items() if key != "recipe"})
            for number, override in enumerate(overrides, 1)
            if override.get("recipe", name) == name
        ]
        for number, override in numbered or [(0, {})]:
            recipe = override_recipe(find_recipe(name), override, f"{where}: override {number}")
            if recipe not in recipes:
                recipes.append(recipe)
    if len({recipe.name for recipe in recipes}) < len(recipes):
        raise InputError(f"{where}: two recipes have the same name; name each of the overrides")
    return recipes


def _read_seeds(values: dict[str, Any], where: str) -> list[int]:
    """Return the plan's seeds, once each."""
    seeds = values.get("seeds", 1)
    if type(seeds) is int and seeds > 0:
        return list(range(seeds))
    if not (
        isinstance(seeds, list) and seeds and all(type(seed) is int and seed >= 0 for seed in seeds)
    ):
        raise InputError(
            f"{where}: seeds: got {seeds!r}, expected a number of seeds, or a list of whole numbers"
            " of at least 0"
        )
    return list(dict.fromkeys(seeds))


def _read_train_sizes(values: dict[str, Any], where: str) -> list[int | None]:
    """Return the plan's numbers of training images, once each; None is the contract's own."""
    sizes = values.get("train_size", [None])
    if sizes != [None] and not (
        isinstance(sizes, list) and sizes and all(type(size) is int and size > 0 for size in sizes)
    ):
        raise InputError(
            f"{where}: train_size: got {sizes!r}, expected a list of numbers of training images, "
            "such as [500, 5000]"
        )
    return list(dict.fromkeys(sizes))


def _sized(contract: Contract, size: int | None) -> Contract:
    """Return the contract with a number of training images, which is in its name if it is another.

    A built-in contract with another number would not be the built-in one of its name."""
    if size in (None, contract.train_size):
        return contract
    return replace(contract, name=f"{contract.name}-{size}", train_size=size)


def _read_search(values: dict[str, Any], tasks: list[Task], where: str) -> Search:
    table, test = values["search"], values.get("test", False)
    if not isinstance(table, dict):
        raise InputError(f"{where}: got {table!r}, expected a table")
    _check_keys(table, ("trials", "space"), where)
    trials, space = table.get("trials", DEFAULT_TRIALS), table.get("space")
    if type(trials) is not int or trials < 1:
        raise InputError(f"{where}: trials: got {trials!r}, expected a whole number of at least 1")
    if not (isinstance(space, dict) and space):
        raise InputError(f"{where}: space: got {space!r}, expected a table of recipe fields")
    if "train_size" in values:
        raise InputError(
            f"{where}: got train_size beside it, expected none",
            hint="name a contract with that train_size",
        )
    if len(tasks) != 1 or test:
        raise InputError(
            f"{where}: got {len(tasks)} runs, test = {str(test).lower()}; expected one recipe, one "
            "seed and no test images, because a search chooses between candidates"
        )
    return Search(trials, space, values["recipes"][0], values.get("contract"))


def override_recipe(recipe: Recipe, values: dict[str, Any], where: str) -> Recipe:
    """Return the recipe with other values.

    Tables are merged key by key, except that another `model` starts with no arguments. `where`
    begins the messages. Raises InputError if a field is unknown or a value is not valid."""
    known = _values(recipe)
    _check_keys(values, known, where)
    if "model" in values:
        known["model_args"] = {}
    changes = {}
    for key, value in values.items():
        if isinstance(known[key], dict) != isinstance(value, dict):
            raise InputError(
                f"{where}: {key}: got {value!r}, expected a value such as {known[key]!r}"
            )
        changes[key] = known[key] | value if isinstance(value, dict) else value
    try:
        return Recipe.from_dict(known | {"name": recipe.name} | changes)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {error}") from error


def _values(recipe: Recipe) -> dict[str, Any]:
    """Return the JSON values of a recipe with the fields that most recipes leave out."""
    later = {name: getattr(recipe, name) for name in (*LATER_FIELDS, "synthetic_edition")}
    return later | recipe.to_dict()


def to_plan(recipe: Recipe, preset: str, contract: str | None) -> str:
    """Return a plan in TOML that trains ten seeds of the recipe, as an override of a preset."""
    lines = [f"recipes = {json.dumps([preset])}", "seeds = 10"]
    if contract is not None:
        lines.append(f"contract = {json.dumps(contract)}")
    lines.append("[[overrides]]")
    base = _values(find_recipe(preset))
    for key, value in _values(recipe).items():
        if not isinstance(value, dict):
            if value != base[key]:
                lines.append(f"{key} = {json.dumps(value)}")
            continue
        # Another model starts with no arguments, so all of its arguments are written.
        other_model = key == "model_args" and recipe.model != base["model"]
        defaults = {} if other_model else base[key]
        for name, argument in value.items():
            if argument != defaults.get(name):
                lines.append(f"{key}.{name} = {json.dumps(argument)}")
    return "\n".join(lines) + "\n"
