"""Feather networks of one kind that compute side by side, as one network with grouped convolutions.

Example:
    replicas = Replicas([build(recipe.model, recipe.model_args, 10) for seed in range(10)])
    outputs = replicas(images)              # images (10 * n, 1, height, width), replica by replica
    models = list(replicas.unstack())
"""

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import InputError
from ..model import Feather


class _Convolutions(nn.Module):
    """Convolutions side by side: (n, replicas * c, h, w) -> (n, replicas * width, h', w')."""

    def __init__(self, layers: Sequence[nn.Conv2d]) -> None:
        super().__init__()
        self.weight = _stacked([layer.weight for layer in layers])  # (replicas, width, c, k, k)
        one = layers[0]
        self._options = one.stride, one.padding, one.dilation, len(layers) * one.groups

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight.flatten(0, 1), None, *self._options)  # type: ignore[arg-type]


class _BatchNorms(nn.Module):
    """Batch norms side by side, each of its own channels of (n, replicas * c, h, w)."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, layers: Sequence[nn.BatchNorm2d]) -> None:
        super().__init__()
        self.weight = _stacked([layer.weight for layer in layers])  # (replicas, c)
        self.bias = _stacked([layer.bias for layer in layers])
        for name, _ in layers[0].named_buffers():
            self.register_buffer(name, torch.stack([getattr(layer, name) for layer in layers]))
        self._momentum, self._eps = layers[0].momentum, layers[0].eps

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.num_batches_tracked.add_(1)
        mean, variance, weight, bias = (
            values.flatten()
            for values in (self.running_mean, self.running_var, self.weight, self.bias)
        )
        return F.batch_norm(
            x, mean, variance, weight, bias, self.training, self._momentum or 0.0, self._eps
        )


class _Linears(nn.Module):
    """Linear layers side by side: (n, replicas * c) -> (n, replicas * width)."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.weight = _stacked([layer.weight for layer in layers])  # (replicas, width, c)
        self.bias = _stacked([layer.bias for layer in layers])

    def forward(self, x: Tensor) -> Tensor:
        each = x.unflatten(1, (len(self.weight), -1)).transpose(0, 1)  # (replicas, n, c)
        out = torch.baddbmm(self.bias[:, None], each, self.weight.mT)  # (replicas, n, width)
        return out.transpose(0, 1).flatten(1)


def _stacked(values: Sequence[Tensor]) -> nn.Parameter:
    return nn.Parameter(torch.stack([value.detach() for value in values]).contiguous())


_SIDE_BY_SIDE: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: _Convolutions,
    nn.BatchNorm2d: _BatchNorms,
    nn.Linear: _Linears,
}


class Replicas(nn.Module):
    """Feather networks of one kind that compute side by side, each on its own images.

    Maps images (replicas * n, 1, height, width), those of the first replica first, to outputs
    (replicas * n, classes). Convolutions are grouped, so that a layer of all networks is one
    operation. Parameters and buffers have the names of the network's, and one more dimension in
    front.

    Args:
        models: The networks, on one device.

    Raises InputError for networks of another class.
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        if type(models[0]) is not Feather:
            raise InputError(f"got {type(models[0]).__name__} side by side, expected Feather")
        self.n = len(models)
        self.all = copy.deepcopy(models[0])
        self._one = [copy.deepcopy(models[0])]  # in a list: its weights are not this module's
        for name, layer in list(self.all.named_modules()):
            if kind := _SIDE_BY_SIDE.get(type(layer)):
                layers = kind([model.get_submodule(name) for model in models])
                parent, _, last = name.rpartition(".")
                setattr(self.all.get_submodule(parent), last, layers)

    def forward(self, images: Tensor) -> Tensor:
        """Return outputs (replicas * n, classes)."""
        # A replica's images are its channel: (n, replicas, height, width).
        side_by_side = images.unflatten(0, (self.n, -1))[:, :, 0].transpose(0, 1)
        outputs: Tensor = self.all(side_by_side.contiguous())  # (n, replicas * classes)
        each: Tensor = outputs.unflatten(1, (self.n, -1)).transpose(0, 1)
        return each.flatten(0, 1)

    def unstack(self) -> Iterator[nn.Module]:
        """Yield a copy of each network."""
        state = self.all.state_dict()
        for number in range(self.n):
            model = copy.deepcopy(self._one[0])
            model.load_state_dict({name: tensor[number] for name, tensor in state.items()})
            yield model
