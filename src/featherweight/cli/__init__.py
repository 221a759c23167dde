"""The command line, the only package that prints. Data goes to stdout, messages to stderr.

    featherweight train
    featherweight evaluate runs/feather-20k-s0-1 --split test

PyTorch takes seconds to load, so a command imports the modules that need it when it runs.
"""

from cyclopts import Group

from . import (  # noqa: F401  # adds the commands
    bench,
    export,
    grade,
    predict,
    presets,
    serve,
    study,
    train,
)
from .base import app, main

__all__ = ["app", "main"]

# The groups of `featherweight --help`, and the order of the commands in each.
COMMAND_GROUPS = {
    "Train and judge": ("train", "audit", "evaluate", "report", "grade"),
    "Export and read": ("export", "firmware", "predict", "serve", "stress"),
    "Compare": ("study", "frontier", "bench"),
    "Presets": ("models", "recipes", "contracts"),
    "Options": ("--help", "--version", "--install-completion"),
}
for _group_number, (_title, _commands) in enumerate(COMMAND_GROUPS.items()):
    _group = Group(_title, sort_key=_group_number)
    for _number, _name in enumerate(_commands):
        app[_name].group = _group
        app[_name].sort_key = _number
