"""The networks: the assignment's own, and the Feather family; and how a stranger's is brought in.

    model = build("featherweight.model:Feather", {"widths": [16, 18, 20, 20, 22, 24]}, num_classes=10)
    log_probabilities = torch.log_softmax(model(images), 1)     # images (n, 1, 28, 28), normalised
"""

import importlib
import inspect
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class BaselineNet(nn.Module):
    """The assignment's network, 18,746 parameters: images (n, 1, 28, 28) -> log-probabilities (n, 10)."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 3), nn.ReLU(), nn.BatchNorm2d(16), nn.Dropout(0.01),  # (n, 16, 26, 26)
            nn.Conv2d(16, 32, 3), nn.ReLU(), nn.BatchNorm2d(32),  # (n, 32, 24, 24)
            nn.MaxPool2d(2), nn.Dropout(0.01),  # (n, 32, 12, 12)
            nn.Conv2d(32, 32, 3), nn.ReLU(), nn.BatchNorm2d(32),  # (n, 32, 10, 10)
            nn.MaxPool2d(2), nn.Dropout(0.0),  # (n, 32, 5, 5)
            nn.Conv2d(32, 16, 1),  # (n, 16, 5, 5)
            nn.Flatten(), nn.Linear(16 * 5 * 5, num_classes), nn.LogSoftmax(1),
        )

    def forward(self, images: Tensor) -> Tensor:
        log_probabilities: Tensor = self.layers(images)
        return log_probabilities


class Feather(nn.Module):
    """A 2x2 space-to-depth stem, 3x3 convolutions, global average pooling, a linear layer.

    images (n, 1, height, width) -> logits (n, num_classes). The first convolution is padded, the others
    are valid, so that every later one costs less and sees the digit, not a border: 28x28 pixels become
    14x14, then 12x12 down to 4x4 for six widths. An odd side is padded by one pixel.
    """

    def __init__(self, widths: Sequence[int] = (16, 18, 20, 20, 22, 24), dropout: float = 0.02,
                 num_classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 4
        for stage, width in enumerate(widths):
            # No bias: the batch norm that follows has one.
            layers += [nn.Conv2d(channels, width, 3, padding=1 if stage == 0 else 0, bias=False),
                       nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            channels = width
        self.features = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        if height % 2 or width % 2:
            images = F.pad(images, (0, width % 2, 0, height % 2))
        x = F.pixel_unshuffle(images, 2)  # (n, 4, height / 2, width / 2)
        x = self.features(x).mean((2, 3))  # (n, channels)
        logits: Tensor = self.head(self.dropout(x))
        return logits


def count_parameters(model: nn.Module) -> int:
    """What the module declares, shared ones once. The audit counts what a forward pass reads instead."""
    return sum(parameter.numel() for parameter in model.parameters())


def build(path: str, arguments: Mapping[str, Any], num_classes: int) -> nn.Module:
    """The network `MODULE:CLASS`, its constructor called with `arguments`, and with `num_classes` if it
    takes that. Modules are looked for in the working directory too. Raises ValueError if it can't be had."""
    module_name, _, class_name = path.partition(":")
    if not module_name or not class_name:
        raise ValueError(f"model {path!r}: got no MODULE:CLASS, expected one such as my_net:Net")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        constructor = getattr(importlib.import_module(module_name), class_name)
    except Exception as error:  # a stranger's module may raise anything while it is imported
        raise ValueError(f"model {path!r}: does not import: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(here)
    if not (inspect.isclass(constructor) and issubclass(constructor, nn.Module)):
        raise ValueError(f"model {path!r}: got {constructor!r}, expected a torch.nn.Module class")
    given = dict(arguments)
    if "num_classes" in inspect.signature(constructor).parameters:
        given["num_classes"] = num_classes
    try:
        model = constructor(**given)
    except Exception as error:
        raise ValueError(f"model {path!r}: can't be built with {given or 'no arguments'}: "
                         f"{type(error).__name__}: {error}") from error
    assert isinstance(model, nn.Module)
    return model


def check_model(model: nn.Module, images: Tensor, num_classes: int) -> None:
    """One pass in each mode on a few normalised images; ValueError unless the answer is usable:
    finite logits or log-probabilities (n, num_classes)."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for mode in (True, False):
        model.train(mode)
        try:
            with torch.no_grad():
                out = model(images)
        except Exception as error:  # a stranger's forward may raise anything
            raise ValueError(f"the model fails on images {tuple(images.shape)}: "
                             f"{type(error).__name__}: {str(error).splitlines()[0]}") from error
        expected = (len(images), num_classes)
        if not isinstance(out, Tensor) or tuple(out.shape) != expected:
            got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise ValueError(f"the model returns {got} for images {tuple(images.shape)}, expected {expected}")
        if not out.isfinite().all():
            raise ValueError("the model returns NaN or infinity before any training, expected finite logits")
        if (out >= 0).all() and torch.allclose(out.sum(1), torch.ones(len(out), device=out.device)):
            raise ValueError("the model returns probabilities, expected logits or log-probabilities; "
                             "remove the last softmax")
    model.load_state_dict(before)  # the pass in training mode moved the batch-norm statistics
