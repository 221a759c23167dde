"""Digests by which the same network, or the same weights, are known again under other names.

graph_digest(capture(model, audit_passes((1, 28, 28))))    # whatever its layers are called
weights_digest(read_weights("model.pth"))
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..exported import CONSTANT, Exported

LENGTH = 16  # hexadecimal digits of a digest
MIN_NUMBERS = 2  # of a tensor that counts: a counter of batches says nothing


def graph_digest(network: Exported) -> str:
    """Return a digest of what a network computes: operations, shapes and constants, no names."""
    stored = dict(network.stored())
    seen: dict[int, int] = {}

    def plain(argument: Any) -> Any:
        if isinstance(argument, list):
            return [plain(each) for each in argument]
        if not (isinstance(argument, dict) and "tensor" in argument):
            return argument
        tensor = stored[argument["tensor"]]
        number = seen.setdefault(id(tensor), len(seen))
        about = [number, list(tensor.shape), str(tensor.dtype), isinstance(tensor, nn.Parameter)]
        # A tensor in the code is part of it; weights and statistics are not.
        constant = argument["tensor"].startswith(CONSTANT)
        return [*about, _tensor_digest(tensor)] if constant else about

    graphs = []
    for graph in sorted(network.graphs, key=lambda graph: graph.training):
        operations = [
            [each.target, plain(each.args), sorted((k, plain(v)) for k, v in each.kwargs.items())]
            for each in graph.operations
        ]
        graphs.append([graph.training, list(graph.shape), operations, plain(graph.output)])
    return hashlib.sha256(json.dumps(graphs).encode()).hexdigest()[:LENGTH]


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """Return a digest of the numbers of a state dict, whatever its tensors are called."""
    digests = sorted(
        _tensor_digest(tensor) for tensor in weights.values() if tensor.numel() >= MIN_NUMBERS
    )
    return hashlib.sha256("".join(digests).encode()).hexdigest()[:LENGTH] if digests else ""


def _tensor_digest(tensor: Tensor) -> str:
    plain, about = tensor.detach().cpu(), f"{tensor.dtype} {tuple(tensor.shape)} "
    memory = plain.untyped_storage()
    if plain.numel() * plain.element_size() > memory.nbytes():  # the same numbers many times over
        about += f"{plain.stride()} {plain.storage_offset()} "
        plain = torch.empty(0, dtype=torch.uint8).set_(memory, 0, (memory.nbytes(),), (1,))
    plain = plain.contiguous()
    content = (
        plain.view(torch.uint8).numpy().tobytes() if plain.ndim else str(plain.item()).encode()
    )
    return hashlib.sha256(about.encode() + content).hexdigest()
