"""Find the network in a student's file, and export it. This runs in the confined process.

A `.py` file is imported. Of a notebook, and of a file that can't be imported or trains when it is,
only what defines something runs: see definitions.py.
"""

import inspect
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from ..build import construct
from ..capture import WATCHING, capture
from ..device import seed_everything
from ..errors import InputError
from ..locate import load_file
from ..passes import Pass
from ..source import functions, global_names
from .definitions import definitions

# What a network's class is called, where several are no part of another.
USUAL = {"net", "model", "network", "cnn", "convnet", "classifier", "mnistnet", "cnnmodel", "mynet"}
MAX_SKIPPED = 200  # statements that a report tells of
NOT_DEFINED = re.compile(r"name '(\w+)' is not defined")


def networks(module: ModuleType, folder: Path) -> list[type[nn.Module]]:
    """Return the network classes that a module defines, in order.

    If there are none, those that it imports from other files of the folder."""
    found = {
        each: None
        for each in vars(module).values()
        if inspect.isclass(each) and issubclass(each, nn.Module)
    }
    own = [each for each in found if each.__module__ == module.__name__]
    if own:
        return own

    def beside(each: type) -> bool:
        file = getattr(sys.modules.get(each.__module__), "__file__", None)
        return file is not None and Path(file).is_relative_to(folder)

    return [each for each in found if beside(each)]


def choose(
    classes: Sequence[type[nn.Module]], file: str, forced: str | None
) -> tuple[type[nn.Module], str]:
    """Return the class that is the network, and how it was chosen.

    Raises InputError where there is none, or none of the forced name."""
    names = ", ".join(each.__name__ for each in classes)
    if forced is not None:
        for each in classes:
            if each.__name__ == forced:
                return each, "as it was named"
        raise InputError(
            f"{file}: got no class {forced}, only {names or 'none'}, expected it",
            hint=f"call the network {forced}",
        )
    if not classes:
        raise InputError(
            f"{file}: got no network in it, expected a class of torch.nn.Module",
            hint="write the network as class Net(torch.nn.Module), at the top of a cell or file",
        )
    takes = [each for each in classes if _takes_images(each)] or list(classes)
    if len(classes) == 1:
        return classes[0], "the only network"
    parts = {name for each in classes for name in _uses(each)}
    whole = [each for each in takes if each.__name__ not in parts] or takes
    if len(whole) == 1:
        return whole[0], f"the only one of {len(classes)} that is no part of another"
    usual = [each for each in whole if each.__name__.casefold() in USUAL]
    if len(usual) == 1:
        return usual[0], f"by its name, of {len(whole)} networks"
    return whole[-1], f"the last of {len(whole)} networks"


def _takes_images(network: type[nn.Module]) -> bool:
    """Return whether `forward` takes one argument, as a network does and a loss does not."""
    if network.forward is nn.Module.forward:  # it has none
        return False
    try:
        taken = list(inspect.signature(network.forward).parameters.values())[1:]
    except (TypeError, ValueError):
        return True
    needed = [
        each
        for each in taken
        if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]
    return len(needed) <= 1 and bool(taken)


def _uses(network: type[nn.Module]) -> Iterator[str]:
    """Yield the names of other classes that a class inherits from or uses."""
    for base in network.__mro__[1:]:
        yield base.__name__
    for function in functions(network):
        for name in global_names(function.__code__):
            if name != network.__name__:
                yield name


def export(request: dict[str, Any], imported: Callable[[], None]) -> bytes:
    """Return the graphs of the network of a request, with a header; of all networks if it says so.

    `imported` is called when the file has been read, before a network is built. Raises InputError
    where there is no network, or it can't be built or exported.
    """
    tempfile.tempdir = None  # the confined process has another one
    file = Path(request["file"])
    passes = [
        Pass(each["training"], tuple(each["shape"]), tuple(each["sizes"]))
        for each in request["passes"]
    ]
    # From its root a file may import what lies above itself, as in `python src/main.py`.
    root = Path(request["folder"])
    os.chdir(file.parent)  # where a notebook runs, and nothing of the teacher's lies
    sys.path += [str(each) for each in file.parents if each.is_relative_to(root)]
    skipped: dict[str, str] = {}
    if request["definitions"]:
        module, skipped = definitions(file, root)
    else:
        module = load_file(file)
    imported()
    classes = networks(module, root)
    about, graphs = [], []
    if request["all"]:
        wanted = [(each, "") for each in classes]
    else:
        try:
            wanted = [choose(classes, file.name, request["network"])]
        except InputError as error:
            raise _explain_none(error, skipped) from error
    for network, chosen in wanted:
        title = f"{file.name}:{network.__name__}"
        seed_everything(request["seed"], -1)
        try:
            model = construct(network, title, {}, request["num_classes"], passes[0].shape)
            graph = capture(model, passes, title).to_bytes()
        except InputError as error:
            if request["all"]:
                continue
            names = [each.__name__ for each in classes]
            raise _explain(error, skipped, names, passes[0].shape) from error
        about.append({"class": network.__name__, "chosen": chosen, "length": len(graph)})
        graphs.append(graph)
    header = json.dumps({"networks": about, "skipped": dict(list(skipped.items())[:MAX_SKIPPED])})
    return len(header.encode()).to_bytes(4, "little") + header.encode() + b"".join(graphs)


def _explain_none(error: InputError, skipped: dict[str, str]) -> InputError:
    """Return an error that there is no network with why one that is written there is missing."""
    broken = [
        f"{name}: {why}" for name, why in skipped.items() if ", cell " in name or name[0] in "%*"
    ]
    why = skipped.get("forward") or next(iter(broken), None)  # of a class, a cell or an import
    if why is None:
        return error
    source = _missing(why, skipped)
    return InputError(
        f"{error.message}; {why}{f'; {source}' if source else ''}",
        hint="correct it, or do without it",
    )


def _missing(text: str, skipped: dict[str, str]) -> str | None:
    """Return why the name that an error says is not defined is missing, None if that's unknown."""
    name = NOT_DEFINED.search(text)
    if name is None:
        return None
    # It may come from an import of everything, or from another file that was to run.
    many = (f"{each}: {why}" for each, why in skipped.items() if each.startswith(("*", "%")))
    return skipped.get(name[1]) or next(many, None)


def _explain(
    error: InputError, skipped: dict[str, str], classes: list[str], shape: tuple[int, ...]
) -> InputError:
    """Return an error with what the student should do."""
    # A class is graded by graphs alone.
    hint = re.sub(rf"(; or )?judge it by {WATCHING}$", "", error.hint or "")
    if (source := _missing(error.message, skipped)) is not None:
        beside = source.startswith(("*", "%"))  # it may come from another file
        way = "hand in what is missing" if beside else "define inside the class what it needs"
        hint = f"{source}; {way}"
    elif 'the required "forward" function' in error.message:
        hint = "write its method forward(self, x)"
    elif "required positional argument" in error.message:
        hint = "give every argument of __init__ a default, and let forward take images alone"
    elif re.search(r"channels|mat1 and mat2|size of tensor|invalid for input", error.message):
        hint = f"write it for images of shape (n, {', '.join(map(str, shape))})"
    if len(classes) > 1:
        hint = "; ".join(filter(None, [hint, f"its classes are {', '.join(classes)}"]))
    return InputError(error.message, hint=hint or None)
