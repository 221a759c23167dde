"""One training on several processes, which share the ghost batches of every step.

    torchrun --standalone --nproc-per-node 2 -m featherweight train   # gloo on CPUs, nccl on GPUs

A recipe splits a batch into ghost batches (Hoffer et al. 2017), each with its own batch-norm
statistics and random numbers. A process computes some of them from start to end, and the processes
meet once in a step: each then has the gradients of all ghost batches, sums them in the same order
and takes the same optimiser step. So the result does not depend on the number of processes.
Processes of one machine that share memory are in `workers.py`; those that torchrun starts are here.

Any other operation in a network that draws random numbers or mixes images sees one ghost batch,
with random numbers that are seeded for it alone.
"""

import atexit
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .errors import InputError

T = TypeVar("T")
# How long a process waits for the others, for example while the main one writes its files.
TIMEOUT = timedelta(minutes=30)
ALIGNMENT = 64  # bytes, a cache line


@dataclass(frozen=True)
class Group:
    """The processes that train together, and this process's rank among them. Here it is alone."""

    rank: int = 0
    "Number of this process, from 0."
    size: int = 1
    "Number of processes."

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, the process that writes files and prints."""
        return self.rank == 0

    @property
    def command(self) -> list[str]:
        """Words of the command line that start such a group."""
        return []

    def share(self, n: int) -> range:
        """Return which of n pieces of work are this process's."""
        return range(self.rank, n, self.size)

    def broadcast(self, value: T) -> T:
        """Return the main process's value in every process."""
        return value

    def memory(self, n_bytes: int, device: torch.device) -> Tensor:
        """Return zeros, shape (n_bytes,), dtype uint8, for `meet`."""
        return torch.zeros(n_bytes, dtype=torch.uint8, device=device)

    def meet(self, slots: Sequence[Tensor]) -> None:
        """Wait until every process has filled its `share` of the slots, parts of `memory`.

        Afterwards every process can read all of them."""


SINGLE_PROCESS = Group()


class TorchGroup(Group):
    """Processes that torchrun started, perhaps on several machines."""

    @property
    def command(self) -> list[str]:
        """Words of the command line that start such a group."""
        local = os.environ["LOCAL_WORLD_SIZE"]
        nodes = self.size // int(local)
        return ["torchrun", f"--nnodes={nodes}", f"--nproc-per-node={local}", "-m"]

    def broadcast(self, value: T) -> T:
        """Return the main process's value in every process."""
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def meet(self, slots: Sequence[Tensor]) -> None:
        """Send this process's slots to all others, and receive theirs."""
        pending = [
            dist.broadcast(slot, number % self.size, async_op=True)
            for number, slot in enumerate(slots)
        ]
        for work in pending:
            assert work is not None  # this process is a member
            work.wait()


def join(device: torch.device) -> tuple[Group, torch.device]:
    """Join the processes that torchrun started; without torchrun the group is this process.

    Returns the group and this process's device.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or os.environ["WORLD_SIZE"] == "1":
        return SINGLE_PROCESS, device
    if device.type == "mps":  # gloo can't send tensors on mps
        device = torch.device("cpu")
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    atexit.register(dist.destroy_process_group)
    return TorchGroup(dist.get_rank(), dist.get_world_size()), device


class _Layout:
    """Places for tensors in one piece of memory; those of a type lie side by side."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors, self._offsets = list(tensors), [0] * len(tensors)
        self._parts: dict[torch.dtype, slice] = {}
        self.n_bytes = 0
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            start = self.n_bytes
            for i, tensor in enumerate(tensors):
                if tensor.dtype == dtype:
                    self._offsets[i] = self.n_bytes
                    self.n_bytes += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
            self._parts[dtype] = slice(start, self.n_bytes)

    def places(self, memory: Tensor) -> list[Tensor]:
        """Return views of the memory, each of the type, shape and order of its tensor."""
        return [
            memory[offset : offset + tensor.nbytes]
            .view(tensor.dtype)
            .as_strided(tensor.shape, torch.empty_like(tensor).stride())
            for tensor, offset in zip(self._tensors, self._offsets, strict=True)
        ]

    def parts(self, memory: Tensor) -> list[Tensor]:
        """Return a view of the memory for each type, all of its tensors in one."""
        return [memory[part].view(dtype) for dtype, part in self._parts.items()]


class _Slot:
    """What one ghost batch leaves, or what they add up to, in a piece of memory."""

    def __init__(self, memory: Tensor, gradients: _Layout, buffers: _Layout) -> None:
        first, rest = memory[: gradients.n_bytes], memory[gradients.n_bytes :]
        self.gradients, self.gradient_parts = gradients.places(first), gradients.parts(first)
        *self.buffers, self.found, self.loss = buffers.places(rest)
        self.buffer_parts = buffers.parts(rest)


def refuse_idle_processes(n_ghosts: int, group: Group) -> None:
    """Raise InputError if there are fewer ghost batches in a step than processes."""
    if n_ghosts < group.size:
        raise InputError(
            f"got {group.size} processes for {n_ghosts} ghost "
            f"{'batch' if n_ghosts == 1 else 'batches'} in a step, expected at most one each",
            hint="start fewer, or use a recipe with smaller ghost batches",
        )


class GhostBatches:
    """The gradients, buffers and loss of each ghost batch of a step, and what they add up to.

    Every ghost batch starts from the same buffers, such as batch-norm statistics. Afterwards a
    buffer of floats is the mean over the ghost batches, weighted by their images; other types keep
    the first one's values. Attributes of a network that are neither parameters nor buffers are not
    exchanged.

        ghosts.begin()
        for number in group.share(n_ghosts):
            ghosts.restore()
            ghosts.put(number, loss)           # after loss.backward()
        loss = ghosts.sum(weights)             # the gradients of the whole batch are in place

    Args:
        model: The network.
        n_ghosts: Number of ghost batches in a step.
        group: The processes that share them.

    Raises InputError if there are fewer ghost batches than processes.
    """

    def __init__(self, model: nn.Module, n_ghosts: int, group: Group) -> None:
        refuse_idle_processes(n_ghosts, group)
        self._group, self._parameters = group, list(model.parameters())
        # By their places, because a network may assign a new tensor in its forward pass.
        self._places = [
            (module._buffers, name)
            for module in model.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]
        self._unset = [
            (module._buffers, name, f"{path}.{name}".lstrip("."))
            for path, module in model.named_modules()
            for name, buffer in module._buffers.items()
            if buffer is None
        ]
        device = self._parameters[0].device
        found = torch.zeros(len(self._parameters), dtype=torch.bool, device=device)
        gradients = _Layout(self._parameters)
        buffers = _Layout([*self._buffers(), found, torch.zeros((), device=device)])
        size = gradients.n_bytes + buffers.n_bytes
        # Two sets that take turns: a process that is one step ahead of another must not write over
        # what that one still adds up.
        memory = group.memory(2 * n_ghosts * size, device).view(2, n_ghosts, size)
        self._sets = [
            (list(rows), [_Slot(row, gradients, buffers) for row in rows]) for rows in memory
        ]
        total = torch.zeros(size, dtype=torch.uint8, device=device)
        self._total = _Slot(total, gradients, buffers)
        self._before: list[Tensor] = []

    def _buffers(self) -> list[Tensor]:
        buffers = [table[name] for table, name in self._places]
        return [buffer for buffer in buffers if buffer is not None]

    def begin(self) -> None:
        """Begin a step: keep the buffers."""
        self._sets.reverse()
        self._before = [buffer.detach().clone() for buffer in self._buffers()]

    @torch.no_grad()
    def restore(self) -> None:
        """Begin a ghost batch: without gradients, and with the buffers that the step began with."""
        for parameter in self._parameters:
            parameter.grad = None
        if self._before:
            torch._foreach_copy_(self._buffers(), self._before)

    @torch.no_grad()
    def put(self, number: int, loss: Tensor) -> None:
        """Keep the gradients, buffers and loss, of no dimension, of ghost batch `number`.

        Raises InputError if a buffer that was None before the training is a tensor now."""
        for table, name, path in self._unset:
            if table[name] is not None:
                raise InputError(
                    f"buffer {path}: got None before the training and a tensor in it, expected a "
                    "tensor from the start, which ghost batches share",
                    hint="use a recipe without ghost batches, such as baseline",
                )
        slot = self._sets[0][1][number]
        places, values = [*slot.buffers, slot.loss], [*self._buffers(), loss]
        for place, parameter in zip(slot.gradients, self._parameters, strict=True):
            if parameter.grad is None:
                place.zero_()
            else:
                places.append(place)
                values.append(parameter.grad)
        torch._foreach_copy_(places, values)
        found = [parameter.grad is not None for parameter in self._parameters]
        slot.found.copy_(torch.tensor(found))

    @torch.no_grad()
    def sum(self, weights: Sequence[float]) -> Tensor:
        """End a step: meet, set the gradients and buffers of the whole batch, return its loss.

        `weights` are the ghost batches' shares of the images.
        """
        rows, slots = self._sets[0]
        self._group.meet(rows)
        (first, *others), total = slots, self._total
        for i, part in enumerate(total.gradient_parts):
            part.copy_(first.gradient_parts[i])
            for slot in others:
                part += slot.gradient_parts[i]
        for i, part in enumerate(total.buffer_parts):
            start = first.buffer_parts[i]
            part.copy_(start)
            if part.is_floating_point():
                for slot, weight in zip(others, weights[1:], strict=True):
                    # Equal values stay what they are, infinite ones too.
                    other = slot.buffer_parts[i]
                    part.add_((other - start).masked_fill_(other == start, 0), alpha=weight)
        if self._before:
            torch._foreach_copy_(self._buffers(), total.buffers)
        found = torch.stack([slot.found for slot in slots]).any(0).tolist()
        for parameter, gradient, has in zip(self._parameters, total.gradients, found, strict=True):
            parameter.grad = gradient if has else None
        return torch.stack([slot.loss for slot in slots]).sum()
