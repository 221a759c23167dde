"""Read the weights of a network from a file, and load them into a network.

    weights = read_weights("model.pth")     # or .pt, .safetensors
    load_weights(model, weights)

No file is read in a way that could run code.
"""

import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from .errors import InputError
from .locate import reason

# Keys under which checkpoints keep a state dict.
NESTED_KEYS = ("state_dict", "model_state_dict", "model")
MAX_PACKED = 16 * 1024**2  # bytes by which a file may grow as it is unpacked
SAVE_HINT = "save it with torch.save(model.state_dict(), 'model.pth')"


def read_weights(file: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a state dict, by name, also from inside a checkpoint.

    The file was written by torch.save or safetensors. Raises InputError if it holds no state dict,
    or reading it would run code (a pickled module, TorchScript).
    """
    path = Path(file)
    if not path.is_file():
        raise InputError(
            f"weights {file}: got {'a folder' if path.is_dir() else 'no such file'}, expected a "
            "state dict in .pth, .pt or .safetensors"
        )
    values: Any
    try:
        if path.suffix.casefold() == ".safetensors":
            values = safetensors.torch.load(path.read_bytes())
        else:
            refuse_packed(path)
            with warnings.catch_warnings():
                # torch warns about TorchScript files, which are refused below.
                warnings.simplefilter("ignore")
                values = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, InputError):
        raise
    except Exception as error:  # torch raises many kinds
        needs_code = re.search(r"GLOBAL (\S+)|(TorchScript)", str(error))
        if needs_code is None:
            raise InputError(
                f"weights {file}: got a damaged file, or none of weights, expected a state dict in "
                ".pth, .pt or .safetensors"
            ) from error
        raise InputError(
            f"weights {file}: got a pickled {needs_code[1] or needs_code[2]}, "
            "which could run code, expected a state dict",
            hint=SAVE_HINT,
        ) from error
    for key in NESTED_KEYS:
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
            f"weights {file}: got {_kind(values)}, expected a state dict", hint=SAVE_HINT
        )
    for name, value in tensors.items():
        if value.layout != torch.strided or value.device.type != "cpu" or value.is_complex():
            raise InputError(
                f"weights {file}: {name[:80]!r}: got {value.layout}, {value.dtype} on "
                f"{value.device}, expected an array of real numbers"
            )
    return tensors


def refuse_packed(path: Path) -> None:
    """Raise InputError if a file of torch.save unpacks to much more than its size.

    torch packs nothing but the code of TorchScript. A file that was packed to do harm may unpack to
    a thousand times its size, and torch reads all of it."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(record.file_size for record in archive.infolist())
    if unpacked > path.stat().st_size + MAX_PACKED:
        raise InputError(
            f"{path}: got {path.stat().st_size:,} bytes that unpack to {unpacked:,}, expected a "
            "file as torch.save writes it"
        )


def _kind(values: Any) -> str:
    return (
        f"a dict of {', '.join(map(repr, list(values)[:5]))}"
        if isinstance(values, Mapping) and values
        else type(values).__name__
    )


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a network's state dict, without extra state of other types."""
    return {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load weights into a network, all of them and nothing else.

    Prefixes that DataParallel and torch.compile add to names are removed. Raises InputError naming
    the first tensor that is missing, unexpected, or of another shape.
    """
    expected = model.state_dict()
    state = {_without_prefix(name, expected): value for name, value in weights.items()}
    # Given tensors by the address of the network's own tensor of that name.
    given = {
        value.data_ptr(): state[name]
        for name, value in expected.items()
        if name in state and isinstance(value, Tensor)
    }
    for name, value in expected.items():
        if name in state:
            continue
        if not isinstance(value, Tensor):
            state[name] = value  # extra state, which comes with the code
        elif value.numel() and value.data_ptr() in given:
            state[name] = given[value.data_ptr()]  # a tied tensor, which is saved once
    problems = [
        f"no tensor {name}, which the network has" for name in expected if name not in state
    ]
    problems += [
        f"a tensor {name}, which the network does not have"
        for name in state
        if name not in expected
    ]
    problems += [
        f"{name} {tuple(state[name].shape)}, expected {tuple(value.shape)}"
        for name, value in expected.items()
        if isinstance(value, Tensor) and name in state and state[name].shape != value.shape
    ]
    try:
        # Try before reporting problems: a network's hooks may accept other names and shapes.
        model.load_state_dict(state)
    except Exception as error:
        raise InputError(f"got {problems[0]}" if problems else reason(error)) from error


def _without_prefix(name: str, expected: Mapping[str, Any]) -> str:
    """Return the network's own name of a tensor, without the prefixes of wrappers."""
    if name not in expected:
        name = name.replace("_orig_mod.", "")
    while name not in expected and name.startswith("module."):
        name = name.removeprefix("module.")
    return name
