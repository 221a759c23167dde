"""The commands that list what is built in: recipes, contracts, models."""

import statistics
import time
from dataclasses import asdict

from rich.table import Table

from ..contract import CONTRACTS, load_contract
from ..pretrained import DEFAULT_MODEL, Pretrained, pretrained
from ..recipe import RECIPES, find_recipe
from .base import DONE, app, print_json, stderr, stdout

# Kinds of clauses of which the title says all that a table has room for, and shorter words.
PLAIN = ("normalisation", "dropout", "head", "forbid", "require")
SIGNS = {"fewer than": "<", "at most": "<=", "at least": ">=", "more than": ">"}
TIMED_CALLS = 50  # of one image each, for the milliseconds of a network


@app.command(name="recipes", usage="Usage: featherweight recipes [OPTIONS] [NAME]")
def cmd_recipes(name: str | None = None, /, *, json: bool = False) -> int:
    """List the built-in recipes.

    Parameters
    ----------
    name
        Recipe to print as JSON, with all hyper-parameters.
    json
        Print all recipes as JSON.
    """
    if name is not None:
        print_json(find_recipe(name).to_dict())
        return DONE
    if json:
        print_json([recipe.to_dict() for recipe in RECIPES])
        return DONE
    table = Table("recipe", "network", "epochs", "batch", "lr", "weights", "contract")
    for recipe in RECIPES:
        table.add_row(
            recipe.name,
            recipe.model.rpartition(":")[2],
            str(recipe.epochs),
            str(recipe.batch_size),
            str(recipe.lr),
            f"{recipe.weight_bits} bits" if recipe.weight_bits else "float",
            recipe.contract,
        )
    stdout.print(table)
    return DONE


@app.command(name="contracts", usage="Usage: featherweight contracts [NAME]")
def cmd_contracts(name: str | None = None, /) -> int:
    """List the built-in contracts.

    Parameters
    ----------
    name
        Contract to print as TOML. Change a copy and pass it as `--contract FILE`.
    """
    if name is not None:
        stdout.write(load_contract(name).to_toml())
        return DONE
    columns = ("parameters", "epochs", "accuracy")
    table = Table()
    table.add_column("contract", no_wrap=True)
    for column in ("data", *columns, "also"):
        table.add_column(column, overflow="fold")
    for contract in CONTRACTS:
        # The first clause of each of these kinds has a column, the other clauses share one.
        cells, also = dict.fromkeys(columns, ""), []
        for title, words, clause in contract.rows:
            column, required = clause.kind, words
            for word, sign in SIGNS.items():
                required = required.replace(word, sign)
            if column in cells and not cells[column]:
                cells[column] = f"{title.removesuffix(column)}{required}"
            elif clause.limits.get("gap"):
                also.append("global average pooling")
            elif clause.points:
                also.append(title if column in PLAIN else f"{title} {required}")
        table.add_row(contract.name, contract.data, *cells.values(), ", ".join(also))
    stdout.print(table)
    return DONE


@app.command(name="models")
def cmd_models(*, json: bool = False) -> int:
    """List the pretrained networks, which read pictures without any training.

    The figures are those of the file that reads: millions of multiply-accumulates for one image,
    how often it is looked at, accuracy on the 10,000 validation and the 10,000 test images, and the
    median time for one image on one thread of this machine.

    Parameters
    ----------
    json
        Print the list as JSON.
    """
    models = list(pretrained().values())
    timings = [_milliseconds(model) for model in models]
    if json:
        print_json(
            [
                {
                    **asdict(model),
                    "folder": str(model.folder),
                    "bytes": model.file_bytes,
                    "milliseconds": round(milliseconds, 3),
                }
                for model, milliseconds in zip(models, timings, strict=True)
            ]
        )
        return DONE
    table = Table("model", "params", "bytes", "MMACs", "views", "val", "test", "ms here")
    for model, milliseconds in zip(models, timings, strict=True):
        table.add_row(
            model.name,
            f"{model.parameters:,}",
            f"{model.file_bytes:,}",
            f"{model.macs / 1e6:.2f}",
            str(model.views),
            f"{100 * model.validation_correct / model.validation_total:.2f} %",
            f"{100 * model.test_correct / model.test_total:.2f} %",
            f"{milliseconds:.2f}",
        )
    stdout.print(table)
    stderr.print(
        f"predict, serve, stress and export take a name; {DEFAULT_MODEL} reads unless one is given"
    )
    return DONE


def _milliseconds(model: Pretrained) -> float:
    """Return the median time that the network takes for one image, without preparing it."""
    import numpy as np

    from ..inference.reader import Reader

    reader = Reader(model.name)
    image = np.zeros((1, *reader.shape), np.uint8)
    times = []
    for _ in range(TIMED_CALLS):
        start = time.perf_counter()
        reader.probabilities(image)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)
