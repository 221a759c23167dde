"""Data-parallel training: several processes, each with a shard of every batch.

    torchrun --standalone --nproc-per-node 2 -m featherweight train   # gloo on CPUs, nccl on GPUs

The batches and the loss are those of one process, up to float rounding. Batch norm and dropout work
on the whole batch: batch norm sums its statistics over all processes, and dropout is drawn for the
whole batch, of which each process takes its shard (on GPUs with other random numbers than one
process's). Any other operation in your network that draws random numbers or mixes images sees only
its process's shard.
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
# How long a process waits for the others, for example while the main one evaluates.
TIMEOUT = timedelta(minutes=30)


class _Sum(torch.autograd.Function):
    """Sum over all processes; its gradient is the sum of their gradients."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        """Return the sum of `tensor` over all processes."""
        total = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Return the sum of `gradient` over all processes."""
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
    """Compute F.batch_norm of a shard (n, c, ...) with the whole batch's mean and variance.

    `total` is the number of images in the whole batch.
    """
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    others = [dim for dim in range(x.ndim) if dim != 1]
    shape = [-1 if dim == 1 else 1 for dim in range(x.ndim)]  # (c,) -> (1, c, 1, ...)
    n = total * x[0, 0].numel()  # numbers per channel in the whole batch
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
    total: int,
    shard: slice,
    x: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
) -> Tensor:
    """Compute F.dropout of a shard (n, ...) with random numbers drawn for the whole batch."""
    if not training or p == 0:
        return x
    whole = x.new_empty((total, *x.shape[1:]))
    if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last):
        # Random numbers are drawn in the order of memory.
        whole = whole.contiguous(memory_format=torch.channels_last)
    kept = F.dropout(torch.ones_like(whole), p)[shard]
    return x.mul_(kept) if inplace else x * kept


class _WholeBatch(TorchFunctionMode):
    """Make batch norm and dropout of any network work on the whole batch, inside the context."""

    def __init__(self, total: int, shard: slice) -> None:
        super().__init__()
        self._total, self._shard = total, shard

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
            return _dropout(self._total, self._shard, *args, **kwargs or {})
        return func(*args, **kwargs or {})


@dataclass(frozen=True)
class Group:
    """The processes that train together, and this process's rank among them."""

    rank: int = 0
    "Number of this process, from 0."
    size: int = 1
    "Number of processes."

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, the process that evaluates, writes files and prints."""
        return self.rank == 0

    @property
    def command(self) -> list[str]:
        """Words of the command line that start such a group; empty for one process."""
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

    def shard(self, total: int) -> slice:
        """Return this process's share of a batch of `total` images.

        Shares differ by at most one image. Raises InputError if there are fewer images than
        processes.
        """
        if total < self.size:
            raise InputError(
                f"got {self.size} processes for a batch of {total} images, "
                "expected at least one image per process"
            )
        return slice(self.rank * total // self.size, (self.rank + 1) * total // self.size)

    def whole_batch(self, total: int, shard: slice) -> contextlib.AbstractContextManager[Any]:
        """Return a context in which a forward pass on the shard sees the whole batch.

        Inside it, batch norm uses the statistics of all `total` images, and dropout their draws.
        """
        return _WholeBatch(total, shard) if self.size > 1 else contextlib.nullcontext()

    def all_reduce(self, loss: Tensor, parameters: Iterable[Tensor]) -> Tensor:
        """Return the sum of all processes' losses, and sum the parameters' gradients in place."""
        if self.size == 1:
            return loss
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        # One message: the loss, then every gradient.
        flat = torch.cat([loss.view(1), *(gradient.flatten() for gradient in gradients)])
        dist.all_reduce(flat)
        total: Tensor
        total, *sums = flat.split([1, *(gradient.numel() for gradient in gradients)])
        for gradient, summed in zip(gradients, sums, strict=True):
            gradient.copy_(summed.view(gradient.shape))
        return total[0]

    def broadcast(self, value: T) -> T:
        """Return the main process's value in every process."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]


SINGLE_PROCESS = Group()


def join(device: torch.device) -> tuple[Group, torch.device]:
    """Join the processes that torchrun started; without torchrun the group is this process.

    Returns the group and this process's device.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or os.environ["WORLD_SIZE"] == "1":
        return SINGLE_PROCESS, device
    if device.type == "mps":  # gloo can't sum tensors on mps
        device = torch.device("cpu")
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    atexit.register(dist.destroy_process_group)
    return Group(dist.get_rank(), dist.get_world_size()), device
