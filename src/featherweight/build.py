"""Build and check a network: one of this project, or one that a user brings.

    model = build("my_net.py:Net", {}, num_classes=10)
    check_model(model, images, num_classes=10)          # images (n, c, 28, 28), normalised

A user's code may raise any exception, end the process, or keep state between forward passes. Here
an exception or exit becomes an InputError of one line, and a check leaves the network unchanged.
"""

import contextlib
import inspect
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from .device import seed_everything
from .errors import InputError
from .locate import describe, find_class, reason

N_TRIAL_IMAGES = 4  # random images, of a forward pass that only shows whether it works


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters that a module declares, counting shared ones once.

    The audit does not trust this number: it counts what a forward pass reads.
    """
    return sum(parameter.numel() for parameter in model.parameters())


def build(
    path: str,
    arguments: Mapping[str, Any],
    num_classes: int,
    shape: Sequence[int] = (1, 28, 28),
    seed: int | None = None,
) -> nn.Module:
    """Return the network at `path`, with lazy layers initialised.

    Args:
        path: MODULE:CLASS, FILE.py:CLASS or FILE.py.
        arguments: Keyword arguments of the constructor.
        num_classes: Number of classes.
        shape: Shape of one image, (channels, height, width).
        seed: Seed of the initial weights, whatever seed the file sets when it is imported. None:
            the random generators are left as they are.

    If the constructor has parameters `num_classes` or `in_channels` that `arguments` do not set,
    they get the number of classes and of channels where they have no default, or where the network
    does not fit the images and the classes with its defaults.

    Raises InputError if the class can't be found or the network can't be built.
    """
    constructor = find_class(path)
    if seed is not None:
        seed_everything(seed, -1)
    return construct(constructor, path, arguments, num_classes, shape)


def construct(
    constructor: type[nn.Module],
    path: str,
    arguments: Mapping[str, Any],
    num_classes: int,
    shape: Sequence[int],
) -> nn.Module:
    """Return a network of a class, as `build` does; `path` is what messages call it."""
    given, parameters = dict(arguments), inspect.signature(constructor).parameters
    images = torch.randn(N_TRIAL_IMAGES, *shape, generator=torch.Generator().manual_seed(0))
    others = {}  # what the data has, where the defaults are other numbers
    for name, value in (("num_classes", num_classes), ("in_channels", shape[0])):
        if name in parameters and name not in given:
            if parameters[name].default is inspect.Parameter.empty:
                given[name] = value
            elif parameters[name].default != value:
                others[name] = value
    # `in_channels` may also be the channels of the first layer, so it is left alone if it can be.
    for name, value in others.items():
        with _same_random_numbers():
            if _fits(constructor, path, given, images, num_classes):
                break
        given[name] = value
    return _in_fast_memory(_make(constructor, path, given, images), images)


def _make(
    constructor: type[nn.Module], path: str, given: Mapping[str, Any], images: Tensor
) -> nn.Module:
    """Return a network of a class, complete."""
    try:
        model = constructor(**given)
    except (Exception, SystemExit) as error:  # a user's constructor may raise anything
        raise InputError(
            f"model {path!r}: can't be built with {given or 'no arguments'}: {reason(error)}"
        ) from error
    if not isinstance(model, nn.Module):
        raise InputError(
            f"model {path!r}: got {model!r} from its constructor, expected a torch.nn.Module"
        )
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_meta:
            raise InputError(
                f"model {path!r}: got {name} on the meta device, which keeps no values",
                hint="make the network's layers on the CPU, without device='meta'",
            )
    try:
        _complete(model, images)
    except ValueError as error:
        raise InputError(f"model {path!r}: can't initialise its lazy layers: {error}") from error
    return model


def _fits(
    constructor: type[nn.Module],
    path: str,
    given: Mapping[str, Any],
    images: Tensor,
    num_classes: int,
) -> bool:
    """Return whether a network with these arguments gives outputs (n, num_classes)."""
    try:
        model = _make(constructor, path, given, images).eval()
        with torch.no_grad():
            out = forward(model, images.clone())
    except InputError:
        return False
    return isinstance(out, Tensor) and out.shape == (len(images), num_classes)


@contextlib.contextmanager
def _same_random_numbers() -> Iterator[None]:
    """Restore the states of the random generators of torch, NumPy and Python after the context."""
    states, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(states)
            np.random.set_state(numpy_state)


def forward(model: nn.Module, images: Tensor) -> Any:
    """Return the network's output. Raises InputError if it raises or ends the process.

    The network may write over the images."""
    try:
        return model(images)
    except (Exception, SystemExit) as error:
        raise InputError(
            f"model {describe(model)} fails on images {tuple(images.shape)}: {reason(error)}"
        ) from error


@contextlib.contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Restore weights, statistics, gradients, mode and attributes after the context.

    The network itself is used and not a copy, so it need not support copying, and it can't pass off
    another network as its copy.
    """
    modules = [(module, dict(vars(module))) for module in model.modules()]
    # Assigning a parameter, a buffer or a layer changes these dictionaries in place.
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
                # Only strided tensors can be compared, and only others are written unnecessarily.
                if tensor.layout != torch.strided or not torch.equal(tensor, value):
                    tensor.copy_(value)
                if tensor.is_leaf:
                    tensor.grad = gradient


def _complete(model: nn.Module, images: Tensor) -> None:
    """Initialise what a first forward pass creates: lazy layers, and layers assigned in `forward`.

    Raises InputError if the pass fails or leaves a lazy parameter.
    """

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
                contextlib.suppress(ValueError),
            ):
                forward(model, images.clone())  # check_model reports a network that fails
                grown = [name for name, _ in model.named_parameters()] != names
            if grown:
                forward(model, images.clone())
    model.train(mode)


def _in_fast_memory(model: nn.Module, images: Tensor) -> nn.Module:
    """Return the network in channels-last memory if it computes the same there, else contiguous.

    On CPUs the convolutions of small networks, above all their gradients, are faster in
    channels-last memory. But a network may depend on the memory format: `x.view(-1, 400)` after a
    convolution raises in channels-last memory.
    """
    plain, plain_trains = _try(model, images)
    with contextlib.suppress(RuntimeError):  # a parameter may have five dimensions
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
    """Return whether outputs (n, classes) are equal up to float rounding on half of the images.

    After a sign function, rounding may change a few images completely; reading memory in the wrong
    order changes all of them.
    """
    if one.shape != other.shape:
        return False
    same = (
        torch.isclose(one, other, rtol=1e-3, atol=1e-4, equal_nan=True).reshape(len(one), -1).all(1)
    )
    return 2 * int(same.sum()) >= len(same)


def _try(model: nn.Module, images: Tensor) -> tuple[Tensor | None, bool]:
    """Return the output in evaluation mode, and whether training mode gives gradients.

    The output is None if it is not a tensor (n, ...).
    """
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
    """Check that the network returns finite logits or log-probabilities (n, num_classes).

    Args:
        model: The network, left unchanged.
        images: Normalised images, shape (n, channels, height, width).
        num_classes: Number of classes.
        modes: Modes to check: True is training mode, False evaluation mode.

    Raises InputError if the network fails or returns anything else.
    """
    expected, name = (len(images), num_classes), describe(model)
    with unchanged(model), torch.no_grad():
        for mode in modes:
            _ = model.train() if mode else model.eval()
            out = forward(model, images.clone())
            if not isinstance(out, Tensor) or tuple(out.shape) != expected:
                got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
                raise InputError(
                    f"model {name} returns {got} for images {tuple(images.shape)}, "
                    f"expected {expected}"
                )
            if not out.isfinite().all():
                raise InputError(f"model {name} returns NaN or infinity, expected finite logits")
            if (out >= 0).all() and torch.allclose(
                out.sum(1), torch.ones(len(out), device=out.device)
            ):
                raise InputError(
                    f"model {name} returns probabilities, expected logits or log-probabilities",
                    hint="remove the last softmax",
                )
