"""Weights of a network: a file of somebody's, and what goes into the network from it.

    weights = read_weights("model.pth")     # or .pt, .safetensors
    load_weights(model, weights)

No file is read in a way that could run code.
"""

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from .errors import InputError
from .locate import reason

NESTED = (
    "state_dict",
    "model_state_dict",
    "model",
)  # keys that checkpoints keep a state dict under


def read_weights(file: str | Path) -> dict[str, Tensor]:
    """The tensors of a state dict that torch.save or safetensors wrote, by name; also from inside a checkpoint.

    Raises ValueError for a file that holds none, or that needs code to be read: a pickled module, TorchScript."""
    path = Path(file)
    if not path.is_file():
        raise InputError(
            f"weights {file}: got no such file, expected a state dict in .pth, .pt or .safetensors"
        )
    values: Any
    try:
        if path.suffix == ".safetensors":
            values = safetensors.torch.load(path.read_bytes())
        else:
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore"
                )  # torch's, of TorchScript files, which are refused below
                values = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch raises many kinds
        foreign = re.search(r"GLOBAL (\S+)|(TorchScript)", str(error))
        if foreign is None:
            raise InputError(
                f"weights {file}: damaged, or no file of weights, expected a state dict in .pth, .pt "
                "or .safetensors"
            ) from error
        raise InputError(
            f"weights {file}: got a pickled {foreign[1] or foreign[2]}, which could run code, expected "
            "a state dict; hint: save it with torch.save(model.state_dict(), 'model.pth')"
        ) from error
    for key in NESTED:
        if isinstance(values, Mapping) and isinstance(values.get(key), Mapping):
            values = values[key]
            break
    tensors = (
        {str(key): value for key, value in values.items() if isinstance(value, Tensor)}
        if isinstance(values, Mapping)
        else {}
    )
    if not tensors:
        raise InputError(
            f"weights {file}: got {_kind(values)}, expected a state dict; "
            "hint: save it with torch.save(model.state_dict(), 'model.pth')"
        )
    return tensors


def _kind(values: Any) -> str:
    return (
        f"a dict of {', '.join(map(repr, list(values)[:5]))}"
        if isinstance(values, Mapping) and values
        else type(values).__name__
    )


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a network's state dict. Its extra state, which may be anything, belongs to its code."""
    return {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Put weights into a network, every one into its place, without the prefixes that DataParallel and
    torch.compile give to names. ValueError names the first one that is missing, too many, or of another shape."""
    own = model.state_dict()
    state = {_plain(name, own): value for name, value in weights.items()}
    places = {
        value.data_ptr(): state[name]
        for name, value in own.items()
        if name in state and isinstance(value, Tensor)
    }
    for name, value in own.items():
        if name in state:
            continue
        if not isinstance(value, Tensor):
            state[name] = value  # of the code
        elif value.numel() and value.data_ptr() in places:
            state[name] = places[value.data_ptr()]  # tied to another one: saved once
    problems = [f"no tensor {name}, which the network has" for name in own if name not in state]
    problems += [
        f"a tensor {name}, which the network does not have" for name in state if name not in own
    ]
    problems += [
        f"{name} {tuple(state[name].shape)}, expected {tuple(value.shape)}"
        for name, value in own.items()
        if isinstance(value, Tensor) and name in state and state[name].shape != value.shape
    ]
    try:
        model.load_state_dict(
            state
        )  # before judging: hooks of a network may take other names and shapes
    except Exception as error:
        raise InputError(f"got {problems[0]}" if problems else reason(error)) from error


def _plain(name: str, own: Mapping[str, Any]) -> str:
    """A name as the network has it, without the prefixes of its wrappers."""
    if name not in own:
        name = name.replace("_orig_mod.", "")
    while name not in own and name.startswith("module."):
        name = name.removeprefix("module.")
    return name
