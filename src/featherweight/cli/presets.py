"""The commands that list what is built in: recipes, contracts."""

from rich.table import Table

from ..contract import CONTRACTS, load_contract
from ..recipe import RECIPES, find_recipe
from .base import DONE, app, print_json, stdout


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
    table = Table("contract", "parameters", "epochs", "accuracy", "in the last")
    for contract in CONTRACTS:
        last = f"{contract.consistent_epochs} epochs" if contract.consistent_epochs > 1 else "epoch"
        table.add_row(
            contract.name,
            f"below {contract.max_params:,}",
            f"below {contract.max_epochs}",
            f"from {100 * contract.min_val_accuracy:.2f} %",
            last,
        )
    stdout.print(table)
    return DONE
