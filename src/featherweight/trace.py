"""Record forward passes: which numbers they read, and which operations the output depends on.

    trace = Trace()
    with torch.no_grad(), trace.watch(images):
        output = model(images)
    trace.stored_numbers(), trace.head(output)

Every operation passes through torch's dispatcher, so nothing depends on the names of modules: a
weight counts wherever it is stored, and a layer that is built but never called does not.
"""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .operations import Node, head, normalises_batch, zeroed

# Constants, such as the eps of a batch norm, are free up to this many numbers in total.
MAX_FREE_CONSTANTS = 64
# Operations that read the shape of a tensor, not its values.
SHAPE_ONLY_OPS = {
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
# Operations that overwrite a tensor without reading it.
FILL_OPS = {
    "zero_",
    "fill_.Scalar",
    "uniform_",
    "normal_",
    "random_",
    "random_.from",
    "random_.to",
    "bernoulli_.float",
}


@dataclass(frozen=True)
class _Role:
    """A use of a stored tensor."""

    op: str
    "The operation that reads it."
    statistic: bool = False
    "Whether it is the running mean or variance of a batch norm."
    training: bool = False
    "Whether that batch norm is in training mode."


def _numbers(tensor: Tensor) -> int:
    return tensor.numel() * (2 if tensor.is_complex() else 1)


def _storage(tensor: Tensor) -> int:
    # Sparse and other such tensors have no storage: each counts as a whole.
    return tensor.untyped_storage().data_ptr() if tensor.layout == torch.strided else id(tensor)


class Trace:
    """A record of forward passes.

    The numbers read add up over all passes; the graph of operations is that of the last pass.
    """

    def __init__(self) -> None:
        # The last operation that wrote each storage.
        self._writer: dict[int, Node] = {}
        # Keeps the tensors of this pass alive, so that no address is used again for another one.
        self._alive: list[Any] = []
        # For each stored tensor (key: its storage) the tensor, and the size of each view of it.
        self._leaves: dict[Any, tuple[Tensor, dict[Any, int]]] = {}
        # How each stored tensor is used.
        self._roles: dict[Any, set[_Role]] = {}
        # Python numbers that are arguments of operations.
        self._scalars: set[float] = set()

    @contextlib.contextmanager
    def watch(self, images: Tensor) -> Iterator[None]:
        """Record the operations inside the context, a forward pass over `images`."""
        self._writer, self._alive = {}, [images]
        self._writer[_storage(images)] = Node(
            "input", [], [], tuple(images.shape), from_images=True, detail={}
        )
        mode = _Watch()  # type: ignore[no-untyped-call]  # torch types no constructor
        mode.trace = self
        with mode:
            yield

    def leaf(self, tensor: Tensor, role: _Role) -> Node:
        """Record that a stored tensor is read: one that no operation of this pass has written."""
        # torch.tensor(list) creates a new tensor in each pass, which is recognised by its content.
        key: Any = _storage(tensor)
        if role.op == "lift_fresh":
            key = ("fresh", tuple(tensor.shape), tensor.numpy(force=True).tobytes())
        view = (
            (tensor.storage_offset(), tuple(tensor.shape), tuple(tensor.stride()))
            if tensor.layout == torch.strided
            else None
        )
        _, views = self._leaves.setdefault(key, (tensor, {}))
        views[view] = _numbers(tensor)
        self._roles.setdefault(key, set()).add(role)
        return Node("stored", [], [], tuple(tensor.shape), from_images=False, detail={})

    def record(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """Record one operation, with its arguments and its result."""
        name = func._schema.name.removeprefix("aten::")
        named = {a.name: v for a, v in zip(func._schema.arguments, args, strict=False)} | kwargs
        training = bool(named.get("training", named.get("train", "with_update" in name)))
        results = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        tensors, parents = self._inputs(name, named, training)
        shapes = [tuple(tensor.shape) for _, tensor in tensors]
        names = {name, f"{name}.{func._schema.overload_name}"}
        if names & SHAPE_ONLY_OPS or (names & FILL_OPS and _owns_all_memory(results[0])):
            parents, shapes = [], []
        from_images = any(node.from_images for node in parents)
        random = torch.Tag.nondeterministic_seeded in func.tags
        node = Node(
            name,
            parents,
            shapes,
            tuple(results[0].shape) if results else (),
            from_images,
            _detail(name, named, training, tensors, parents, results),
            drawn=not from_images and (random or any(node.drawn for node in parents)),
        )
        self._note_results(node, results)

    def _inputs(
        self, name: str, named: dict[str, Any], training: bool
    ) -> tuple[list[tuple[str, Tensor]], list[Node]]:
        """Return an operation's tensor arguments by name, and the node that wrote each of them."""
        tensors: list[tuple[str, Tensor]] = []
        parents: list[Node] = []
        for argument, value in named.items():
            for tensor in tree_leaves(value):
                if isinstance(tensor, float):
                    self._scalars.add(tensor)
                if not isinstance(tensor, Tensor) or not tensor.numel():
                    continue
                node = self._writer.get(_storage(tensor))
                if node is None:
                    statistic = argument in ("running_mean", "running_var") and "batch_norm" in name
                    node = self.leaf(tensor, _Role(name, statistic, statistic and training))
                parents.append(node)
                tensors.append((argument, tensor))
        return tensors, parents

    def _note_results(self, node: Node, results: list[Tensor]) -> None:
        """Record that an operation wrote its results."""
        for tensor in results:
            self._alive.append(tensor)
            if node.op == "lift_fresh":  # torch.tensor(list): a stored tensor
                self._writer[_storage(tensor)] = node.parents[0] if node.parents else node
            # A view of a stored tensor, or an in-place operation on it, leaves it stored.
            elif node.from_images or _storage(tensor) not in self._leaves:
                self._writer[_storage(tensor)] = node

    def stored_numbers(self) -> int:
        """Return how many stored numbers were read, each counted once.

        Batch-norm statistics are free, and so are constants up to `MAX_FREE_CONSTANTS` in total.
        """
        total, constants = 0, 0
        for key, (tensor, views) in self._leaves.items():
            roles = self._roles[key]
            if any(role.training for role in roles) and all(role.statistic for role in roles):
                continue  # updated by a batch norm in training, and read by nothing else
            if roles == {_Role("add_")} and not tensor.is_floating_point():
                continue  # the number of batches that a batch norm has seen, and nothing else
            whole = math.inf
            if tensor.layout == torch.strided:
                whole = (
                    tensor.untyped_storage().nbytes()
                    // tensor.element_size()
                    * (1 + tensor.is_complex())
                )
            numbers = int(min(sum(views.values()), whole))
            if (
                isinstance(tensor, torch.nn.Parameter)
                or tensor.requires_grad
                or numbers > MAX_FREE_CONSTANTS
            ):
                total += numbers
            else:
                constants += numbers
        # The limit is on their total: else weights could be stored as many small constants.
        return total + sum(n for n in (constants, len(self._scalars)) if n > MAX_FREE_CONSTANTS)

    def used(self, output: Tensor) -> set[Node]:
        """Return the operations that an output depends on."""
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
        """Return how many batch norms in training mode the output depends on."""
        return sum(normalises_batch(node) for node in self.used(output))

    def dropped(self, output: Tensor) -> tuple[int, int]:
        """Return how many activations dropout zeroed, and how many it could have zeroed.

        Only dropout that the output depends on is counted.
        """
        pairs = [node.detail["dropped"] for node in self.used(output) if "dropped" in node.detail]
        return sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)

    def head(self, output: Tensor) -> tuple[set[str], str]:
        """Return the heads before log-softmax, "linear", "gap" or "other", and the evidence.

        An output (n, classes) that is a sum has several.
        """
        last = self._writer.get(_storage(output))
        if last is None or not last.from_images:
            return {"other"}, "no torch operations lead from the images to the output"
        return head(last, *output.shape)


def _detail(
    name: str,
    named: dict[str, Any],
    training: bool,
    tensors: list[tuple[str, Tensor]],
    parents: list[Node],
    results: list[Tensor],
) -> dict[str, Any]:
    """Return what else operations.py needs to know about an operation."""
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
    return detail


def _owns_all_memory(tensor: Tensor) -> bool:
    """Return whether a tensor is all of its storage, so that filling it overwrites everything."""
    return (
        tensor.layout == torch.strided
        and tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes()
    )


class _Watch(TorchDispatchMode):
    """Record every operation inside the context in `trace`."""

    trace: Trace

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.trace.record(func, args, kwargs or {}, out)
        return out
