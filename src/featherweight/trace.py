"""Watch one forward pass: what it reads, what it does, and what the answer rests on.

    trace = Trace()
    with torch.no_grad(), trace.watch(images):
        output = model(images)
    trace.stored_numbers(), trace.head(output)

Every operation passes through torch's dispatcher, so nothing depends on module names: a weight counts
wherever it hides, and a layer that is built but never called is not there.
"""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .operations import Node, head, normalises_batch, zeroed

FREE = 64  # stored numbers; constants up to this many in all cost nothing
# Operations that take the shape of a tensor, not its values; the second set overwrites it.
SHAPED = {
    "empty_like",
    "zeros_like",
    "ones_like",
    "full_like",
    "rand_like",
    "randn_like",
    "randint_like",
    "new_empty",
    "new_zeros",
    "new_ones",
    "new_full",
    "new_empty_strided",
    "bernoulli.p",
}
FILLS = {
    "zero_",
    "fill_.Scalar",
    "uniform_",
    "normal_",
    "random_",
    "random_.from",
    "random_.to",
    "bernoulli_.float",
}


def _numbers(tensor: Tensor) -> int:
    return tensor.numel() * (2 if tensor.is_complex() else 1)


def _storage(tensor: Tensor) -> int:
    # Sparse and other tensors have no storage; they count as a whole.
    return tensor.untyped_storage().data_ptr() if tensor.layout == torch.strided else id(tensor)


class Trace:
    """What forward passes did; several may be watched, and what any of them reads adds up."""

    def __init__(self) -> None:
        self._writer: dict[int, Node] = {}  # storage -> the last operation that wrote it
        self._alive: list[
            Any
        ] = []  # so that no storage of this pass is freed and its address used again
        self._leaves: dict[
            Any, tuple[Tensor, dict[Any, int]]
        ] = {}  # storage -> a tensor, its views' sizes
        self._roles: dict[Any, set[str]] = {}  # storage -> the operations that read it
        self._scalars: set[float] = set()  # Python numbers handed to operations

    @contextlib.contextmanager
    def watch(self, images: Tensor) -> Iterator[None]:
        """Watch a pass over `images`; the graph is that of the last pass, the reads those of all."""
        self._writer, self._alive = {}, [images]
        self._writer[_storage(images)] = Node("input", [], [], tuple(images.shape), True, {})
        mode = _Watch()  # type: ignore[no-untyped-call]  # torch types no constructor
        mode.trace = self
        with mode:
            yield

    def leaf(self, tensor: Tensor, role: str) -> Node:
        """Note that a tensor which no operation of this pass made is read."""
        # torch.tensor(list) makes a new tensor each pass: its content is what tells that it is the same.
        key: Any = _storage(tensor)
        if role == "lift_fresh":
            key = ("fresh", tuple(tensor.shape), tensor.numpy(force=True).tobytes())
        view = (
            (tensor.storage_offset(), tuple(tensor.shape), tuple(tensor.stride()))
            if tensor.layout == torch.strided
            else None
        )
        _, views = self._leaves.setdefault(key, (tensor, {}))
        views[view] = _numbers(tensor)
        self._roles.setdefault(key, set()).add(role)
        return Node("stored", [], [], tuple(tensor.shape), False, {})

    def record(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        name = func._schema.name.removeprefix("aten::")
        named = {a.name: v for a, v in zip(func._schema.arguments, args, strict=False)} | kwargs
        training = bool(named.get("training", named.get("train", "with_update" in name)))
        results = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        parents: list[Node] = []
        shapes, tensors = [], []
        for argument, value in named.items():
            for tensor in tree_leaves(value):
                if isinstance(tensor, float):
                    self._scalars.add(tensor)
                if not isinstance(tensor, Tensor) or not tensor.numel():
                    continue
                node = self._writer.get(_storage(tensor))
                if node is None:
                    statistic = argument in ("running_mean", "running_var") and "batch_norm" in name
                    node = self.leaf(tensor, f"statistic of {training}" if statistic else name)
                parents.append(node)
                shapes.append(tuple(tensor.shape))
                tensors.append((argument, tensor))
        names = {name, f"{name}.{func._schema.overload_name}"}
        if names & SHAPED or (names & FILLS and _fills(results[0])):
            parents, shapes = [], []
        from_images = any(node.from_images for node in parents)
        random = torch.Tag.nondeterministic_seeded in func.tags
        drawn = not from_images and (random or any(node.drawn for node in parents))
        detail: dict[str, Any] = {"training": training}
        if name == "native_dropout" and training:
            detail["dropped"] = int((~results[1]).sum()), results[1].numel()
        elif dropped := zeroed(name, tensors, parents, named):
            detail["dropped"] = dropped
        elif name == "convolution":
            detail["kernel"] = tuple(named["weight"].shape[2:])
        elif name in ("mean", "sum", "var", "std", "var_mean", "std_mean"):
            dims = named.get("dim")
            detail["dims"] = {
                d % tensors[0][1].ndim for d in ([dims] if isinstance(dims, int) else dims or ())
            }
        node = Node(
            name,
            parents,
            shapes,
            tuple(results[0].shape) if results else (),
            from_images,
            detail,
            drawn,
        )
        for tensor in results:
            self._alive.append(tensor)
            if name == "lift_fresh":  # torch.tensor(list): stored, and counted by its content
                self._writer[_storage(tensor)] = parents[0] if parents else node
            # A view or an in-place operation of a stored tensor leaves it stored.
            elif from_images or _storage(tensor) not in self._leaves:
                self._writer[_storage(tensor)] = node

    def stored_numbers(self) -> int:
        """Every stored number that was read, once: batch-norm statistics and a few constants aside."""
        total, constants = 0, 0
        for key, (tensor, views) in self._leaves.items():
            roles = self._roles[key]
            if "statistic of True" in roles and all(role.startswith("statistic") for role in roles):
                continue  # updated by a batch norm in training, and read by nothing else
            if roles == {"add_"} and not tensor.is_floating_point():
                continue  # batch norm's count of batches: counted up, and read by nothing else
            whole = math.inf
            if tensor.layout == torch.strided:
                whole = (
                    tensor.untyped_storage().nbytes()
                    // tensor.element_size()
                    * (1 + tensor.is_complex())
                )
            numbers = int(min(sum(views.values()), whole))
            if isinstance(tensor, torch.nn.Parameter) or tensor.requires_grad or numbers > FREE:
                total += numbers
            else:
                constants += numbers
        # In all, not each: else any weights could be cut into constants.
        return total + sum(n for n in (constants, len(self._scalars)) if n > FREE)

    def used(self, output: Tensor) -> set[Node]:
        """The operations that an output rests on."""
        last = self._writer.get(_storage(output))
        seen: set[Node] = set()
        todo = [last] if last else []
        while todo:
            node = todo.pop()
            if node not in seen:
                seen.add(node)
                todo += node.parents
        return seen

    def batch_norms(self, output: Tensor) -> int:
        """How many batch norms, in training mode, the output rests on."""
        return sum(normalises_batch(node) for node in self.used(output))

    def dropped(self, output: Tensor) -> tuple[int, int]:
        """Activations zeroed at random, and all that could have been, in what the output rests on."""
        pairs = [node.detail["dropped"] for node in self.used(output) if "dropped" in node.detail]
        return sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)

    def head(self, output: Tensor) -> tuple[set[str], str]:
        """Which of "linear", "gap" and "other" stand last before log-softmax, and how that was seen; several where
        an output (n, classes) is a sum of several."""
        last = self._writer.get(_storage(output))
        if last is None or not last.from_images:
            return {"other"}, "the output does not come from the images by torch operations"
        return head(last, *output.shape)


def _fills(tensor: Tensor) -> bool:
    """Whether a tensor is all of its memory, so that writing it leaves nothing of what was there."""
    return (
        tensor.layout == torch.strided
        and tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes()
    )


class _Watch(TorchDispatchMode):
    trace: Trace

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.trace.record(func, args, kwargs or {}, out)
        return out
