"""One training on several processes, each with its part of every batch; the loss is that of one process.

    torchrun --standalone --nproc-per-node 2 -m featherweight train          # gloo on CPUs, nccl on GPUs

The batches are those of one process. What a network computes of the whole batch in training, it computes of the
whole batch here: batch norm sums its statistics over all processes, dropout is drawn for the whole batch and each
takes its part (on GPUs from another stream of draws than one process's). Other operations that look across a batch
or draw, in a network of one's own, see their own part alone.
"""

import atexit
import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from .errors import InputError

T = TypeVar("T")
PATIENCE = timedelta(
    minutes=30
)  # of a process that waits for the others, as while the first one evaluates


class _Sum(torch.autograd.Function):
    """The sum over all processes, whose gradient is the sum of their gradients."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _sum(gradient)


def _sum(tensor: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(tensor)  # type: ignore[no-untyped-call]
    return total


def _batch_norm(
    total: int,
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """F.batch_norm of a part (n, c, ...) of a batch of `total`, by the whole batch's mean and variance."""
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    others = [dim for dim in range(x.ndim) if dim != 1]
    shape = [-1 if dim == 1 else 1 for dim in range(x.ndim)]
    n = total * x[0, 0].numel()  # numbers a channel, in the whole batch
    mean = _sum(x.sum(others)) / n
    centred = x - mean.view(shape)
    var = _sum((centred * centred).sum(others)) / n
    with torch.no_grad():
        if running_mean is not None:
            running_mean.lerp_(mean, momentum)
        if running_var is not None:
            running_var.lerp_(var * n / (n - 1), momentum)
    out = centred * (var + eps).rsqrt().view(shape)
    if weight is not None:
        out = out * weight.view(shape)
    return out if bias is None else out + bias.view(shape)


def _dropout(
    total: int, part: slice, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """F.dropout of the part (n, ...) of a batch of `total`, by draws for all of it."""
    if not training or p == 0:
        return x
    whole = x.new_empty((total, *x.shape[1:]))
    if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
        whole = whole.contiguous(memory_format=torch.channels_last)  # draws go by memory
    kept = F.dropout(torch.ones_like(whole), p)[part]
    return x.mul_(kept) if inplace else x * kept


class _WholeBatch(TorchFunctionMode):
    """In its context batch norm and dropout, of whatever network, are those of the whole batch."""

    def __init__(self, total: int, part: slice) -> None:
        super().__init__()
        self._total, self._part = total, part

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is F.batch_norm:
            return _batch_norm(self._total, *args, **kwargs or {})
        if func is F.dropout:
            return _dropout(self._total, self._part, *args, **kwargs or {})
        return func(*args, **kwargs or {})


@dataclass(frozen=True)
class Group:
    """The processes that train together, and which of them this one is; one alone by itself."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the one that evaluates, writes and prints."""
        return self.rank == 0

    @property
    def command(self) -> list[str]:
        """What starts such a group of this many processes."""
        return (
            []
            if self.size == 1
            else [
                "torchrun",
                f"--nnodes={self.size // int(os.environ['LOCAL_WORLD_SIZE'])}",
                f"--nproc-per-node={os.environ['LOCAL_WORLD_SIZE']}",
                "-m",
            ]
        )

    def part(self, total: int) -> slice:
        """This process's images of a batch: the parts of all differ by one image at most. ValueError for none."""
        if total < self.size:
            raise InputError(
                f"got {self.size} processes for a batch of {total} images, expected at least one image "
                "for each"
            )
        return slice(self.rank * total // self.size, (self.rank + 1) * total // self.size)

    def whole_batch(self, total: int, part: slice) -> contextlib.AbstractContextManager[Any]:
        """Context of a forward pass on the part."""
        return _WholeBatch(total, part) if self.size > 1 else contextlib.nullcontext()

    def add_up(self, loss: Tensor, parameters: Iterable[Tensor]) -> Tensor:
        """The loss of all parts; the parameters' gradients become those of it."""
        if self.size == 1:
            return loss
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([loss.view(1), *(gradient.flatten() for gradient in gradients)])
        dist.all_reduce(flat)
        total: Tensor
        total, *sums = flat.split([1, *(gradient.numel() for gradient in gradients)])
        for gradient, summed in zip(gradients, sums, strict=True):
            gradient.copy_(summed.view(gradient.shape))
        return total[0]

    def share(self, value: T) -> T:
        """The first process's value, in all of them."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]


ALONE = Group()


def join(device: torch.device) -> tuple[Group, torch.device]:
    """The group of processes that torchrun has started together, or this one alone; and this one's device."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or os.environ["WORLD_SIZE"] == "1":
        return ALONE, device
    if device.type == "mps":  # gloo has no sums there
        device = torch.device("cpu")
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    atexit.register(dist.destroy_process_group)
    return Group(dist.get_rank(), dist.get_world_size()), device
