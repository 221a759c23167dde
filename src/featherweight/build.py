"""Any network, built and checked: the project's own, or one that somebody brings.

    model = build("my_net.py:Net", {}, num_classes=10)
    check_model(model, images, num_classes=10)          # images (n, 1, 28, 28), normalised

Code of others may raise anything, end the process, and keep what it likes between its passes: here all that
becomes a ValueError in one line, and a check leaves a network as it was.
"""

import contextlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from .errors import InputError
from .locate import describe, find_class, reason

TRIAL = 4  # images of a pass that finds out what a network can take


def count_parameters(model: nn.Module) -> int:
    """The numbers that a module declares as parameters, shared ones once. The audit counts what a forward pass
    reads instead."""
    return sum(parameter.numel() for parameter in model.parameters())


def build(
    path: str, arguments: Mapping[str, Any], num_classes: int, shape: Sequence[int] = (1, 28, 28)
) -> nn.Module:
    """The network MODULE:CLASS, FILE.py:CLASS or FILE.py, for images of `shape` (1, height, width).

    Its constructor is called with `arguments`, and with `num_classes` if it takes that. Its lazy layers are made.
    Raises ValueError where it can't be found or built.
    """
    constructor = find_class(path)
    given = dict(arguments)
    if "num_classes" in inspect.signature(constructor).parameters:
        given["num_classes"] = num_classes
    try:
        model = constructor(**given)
    except (Exception, SystemExit) as error:  # somebody else's constructor may raise anything
        raise InputError(
            f"model {path!r}: can't be built with {given or 'no arguments'}: {reason(error)}"
        ) from error
    if not isinstance(model, nn.Module):
        raise InputError(
            f"model {path!r}: its constructor gives {model!r}, expected a torch.nn.Module"
        )
    images = torch.randn(TRIAL, *shape, generator=torch.Generator().manual_seed(0))
    try:
        _complete(model, images)
    except ValueError as error:
        raise InputError(f"model {path!r}: its lazy layers can't be made: {error}") from error
    return _in_fast_memory(model, images)


def forward(model: nn.Module, images: Tensor) -> Any:
    """What the network returns; ValueError where it raises or ends the process.

    It may write over the images."""
    try:
        return model(images)
    except (Exception, SystemExit) as error:
        raise InputError(
            f"model {describe(model)} fails on images {tuple(images.shape)}: {reason(error)}"
        ) from error


@contextlib.contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Undo afterwards what passes and steps change: weights, statistics, gradients, mode, attributes.

    Not a copy of the network: one that can't be copied is as good, and one that gives copies of something else
    deceives nobody."""
    modules = [(module, dict(vars(module))) for module in model.modules()]
    # Tables of names are changed in place where a module assigns a parameter, a buffer or a layer.
    tables = [
        (vars(module)[name], dict(vars(module)[name]))
        for module, _ in modules
        for name in ("_parameters", "_buffers", "_modules")
        if isinstance(vars(module).get(name), dict)
    ]
    tensors = {
        id(tensor): tensor
        for tensor in (
            *model.parameters(),
            *model.buffers(),
            *(
                value
                for _, attributes in modules
                for value in attributes.values()
                if isinstance(value, Tensor)
            ),
        )
    }
    values = [
        (tensor, tensor.detach().clone(), tensor.grad if tensor.is_leaf else None)
        for tensor in tensors.values()
    ]
    try:
        yield
    finally:
        for module, attributes in modules:
            for name in vars(module).keys() - attributes.keys():
                del vars(module)[name]
            vars(module).update(attributes)
        for table, entries in tables:
            table.clear()
            table.update(entries)
        with torch.no_grad():
            for tensor, value, gradient in values:
                if not torch.equal(tensor, value):
                    tensor.copy_(value)
                if tensor.is_leaf:
                    tensor.grad = gradient


def _complete(model: nn.Module, images: Tensor) -> None:
    """Make what a network makes in its first pass: torch's lazy layers, and layers that a forward pass assigns.
    Raises ValueError where a pass fails on them, or leaves some unmade."""

    def lazy() -> list[str]:
        return [
            name
            for name, value in (*model.named_parameters(), *model.named_buffers())
            if is_lazy(value)
        ]

    mode, names = model.training, [name for name, _ in model.named_parameters()]
    model.eval()
    with torch.no_grad():
        if lazy():
            forward(model, images.clone())
            if unmade := lazy():
                raise InputError(f"{unmade[0]} is still lazy after a forward pass")
        else:
            grown = False
            with (
                unchanged(model),
                torch.random.fork_rng(devices=[]),
                contextlib.suppress(InputError),
            ):
                forward(model, images.clone())  # a network that fails is refused by check_model
                grown = [name for name, _ in model.named_parameters()] != names
            if grown:
                forward(model, images.clone())
    model.train(mode)


def _in_fast_memory(model: nn.Module, images: Tensor) -> nn.Module:
    """The network in channels-last memory where it computes the same there, else in contiguous memory.

    On CPUs the convolutions of small networks, above all their gradients, are faster in channels-last memory. But
    a network may depend on memory, as x.view(-1, 400) behind a convolution does, which then raises."""
    plain, plain_trains = _try(model, images)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    fast, fast_trains = _try(model, images)
    if (
        plain is not None
        and fast is not None
        and fast_trains >= plain_trains
        and _alike(plain, fast)
    ):
        return model
    return model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload, no-any-return]


def _alike(one: Tensor, other: Tensor) -> bool:
    """Whether outputs (n, classes) are the same but for rounding. Half of the images decide: behind a sign function
    rounding changes some, and whatever mistakes the memory changes all."""
    if one.shape != other.shape:
        return False
    same = torch.isclose(one, other, rtol=1e-3, atol=1e-4, equal_nan=True).flatten(1).all(1)
    return 2 * int(same.sum()) >= len(same)


def _try(model: nn.Module, images: Tensor) -> tuple[Tensor | None, bool]:
    """What the network returns in evaluation mode, None where that is no tensor (n, ...), and whether a gradient can
    be taken in training mode."""
    out, trains = None, False
    with (
        unchanged(model),
        torch.random.fork_rng(devices=[]),
        contextlib.suppress(Exception, SystemExit),
    ):
        torch.manual_seed(0)
        model.eval()
        with torch.no_grad():
            result = model(images.clone())
        if isinstance(result, Tensor) and result.ndim and len(result) == len(images):
            out = result.clone()
        model.train()
        with torch.enable_grad():
            model(images.clone()).sum().backward()
        trains = True
    return out, trains


def check_model(
    model: nn.Module, images: Tensor, num_classes: int, modes: Sequence[bool] = (True, False)
) -> None:
    """One pass on normalised images (n, 1, height, width) in each mode, True being training; ValueError unless the
    output is usable: finite logits or log-probabilities (n, num_classes)."""
    expected, name = (len(images), num_classes), describe(model)
    with unchanged(model), torch.no_grad():
        for mode in modes:
            model.train(mode)
            out = forward(model, images.clone())
            if not isinstance(out, Tensor) or tuple(out.shape) != expected:
                got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
                raise InputError(
                    f"model {name} returns {got} for images {tuple(images.shape)}, expected {expected}"
                )
            if not out.isfinite().all():
                raise InputError(f"model {name} returns NaN or infinity, expected finite logits")
            if (out >= 0).all() and torch.allclose(
                out.sum(1), torch.ones(len(out), device=out.device)
            ):
                raise InputError(
                    f"model {name} returns probabilities, expected logits or log-probabilities; "
                    "hint: remove the last softmax"
                )
