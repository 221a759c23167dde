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
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

FREE = 64  # stored numbers; constants up to this many in all cost nothing
# Operations that move, scale or squash what they get: the layer before them stands "last".
TRANSPARENT = {
    "view", "_unsafe_view", "reshape", "_reshape_alias", "squeeze", "unsqueeze", "clone", "contiguous",
    "_to_copy", "t", "transpose", "permute", "alias", "detach", "expand", "select", "slice", "copy_",
    "_log_softmax", "_softmax", "log", "logsumexp", "add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_",
}


@dataclass(eq=False)
class Node:
    """One operation; `op` is "stored" for a tensor that was there before the pass, "input" for the images."""

    op: str
    parents: list["Node"]
    shapes: list[tuple[int, ...]]
    "Of its tensor arguments."
    shape: tuple[int, ...]
    "Of its first result."
    from_images: bool
    detail: dict[str, Any]


def _numbers(tensor: Tensor) -> int:
    return tensor.numel() * (2 if tensor.is_complex() else 1)


def _storage(tensor: Tensor) -> int:
    # Sparse and other tensors have no storage; they count as a whole.
    return tensor.untyped_storage().data_ptr() if tensor.layout == torch.strided else id(tensor)


class Trace:
    """What forward passes did; several may be watched, and what any of them reads adds up."""

    def __init__(self) -> None:
        self._writer: dict[int, Node] = {}  # storage -> the last operation that wrote it
        self._alive: list[Any] = []  # so that no storage of this pass is freed and its address used again
        self._leaves: dict[Any, tuple[Tensor, dict[Any, int]]] = {}  # storage -> a tensor, its views' sizes
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
        view = (tensor.storage_offset(), tuple(tensor.shape), tuple(tensor.stride())) \
            if tensor.layout == torch.strided else None
        _, views = self._leaves.setdefault(key, (tensor, {}))
        views[view] = _numbers(tensor)
        self._roles.setdefault(key, set()).add(role)
        return Node("stored", [], [], tuple(tensor.shape), False, {})

    def record(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        name = func._schema.name.removeprefix("aten::")
        named = {a.name: v for a, v in zip(func._schema.arguments, args, strict=False)} | kwargs
        training = bool(named.get("training", named.get("train", "with_update" in name)))
        parents, shapes, from_images = [], [], False
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
                from_images |= node.from_images
        results = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        detail: dict[str, Any] = {"training": training}
        if name in ("bernoulli", "bernoulli_"):
            detail["dropped"] = int((results[0] == 0).sum()), results[0].numel()
        elif name == "native_dropout" and training:
            detail["dropped"] = int((~results[1]).sum()), results[1].numel()
        elif name == "convolution":
            detail["kernel"] = tuple(named["weight"].shape[2:])
        elif name.startswith("avg_pool"):
            detail["kernel"] = tuple(named["kernel_size"])
        node = Node(name, parents, shapes, tuple(results[0].shape) if results else (), from_images, detail)
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
                whole = tensor.untyped_storage().nbytes() // tensor.element_size() * (1 + tensor.is_complex())
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
        # Instance norm is a batch norm over one image of many channels: not meant.
        return sum("batch_norm" in node.op and node.detail["training"] and node.shapes[0][0] > 1
                   for node in self.used(output) if node.shapes)

    def dropped(self, output: Tensor) -> tuple[int, int]:
        """Activations zeroed at random, and all that could have been, in what the output rests on."""
        pairs = [node.detail["dropped"] for node in self.used(output) if "dropped" in node.detail]
        return sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)

    def head(self, output: Tensor) -> tuple[str, str]:
        """("linear" | "gap" | "other", how it was seen) of what stands last before log-softmax."""
        node = self._writer.get(_storage(output))
        if node is None or not node.from_images:
            return "other", "the answer does not come from the images by torch operations"
        last = self._behind(node)
        sides = [parent for parent in last.parents if parent.from_images]
        if last.op in ("mm", "addmm", "bmm", "baddbmm", "linear", "mv", "addmv") and len(sides) == 1:
            return "linear", f"{last.op} with stored weights"
        if last.op == "convolution" and math.prod(last.shape[2:]) == 1:
            positions = last.shapes[0][2:]
            covers = all(k >= n for k, n in zip(last.detail["kernel"], positions, strict=True))
            if covers or math.prod(positions) == 1:
                return "linear", f"convolution over the whole {'x'.join(map(str, positions))} map"
        if self._pools(last):
            return "gap", f"{last.op} over {last.shapes[0]}"
        return "other", f"{last.op} with result {last.shape}"

    @staticmethod
    def _pools(node: Node) -> bool:
        if not (node.op in ("mean", "sum", "avg_pool2d", "_adaptive_avg_pool2d", "adaptive_avg_pool2d")
                and node.shapes and len(node.shapes[0]) >= 3):
            return False
        # Every position of every map becomes one number a class, more than one position in each.
        start, end = node.shapes[0], [n for n in node.shape if n > 1]
        return len(end) <= 2 and math.prod(start) // max(1, math.prod(node.shape)) > 1

    def _behind(self, node: Node) -> Node:
        """The operation that an answer comes from, behind reshaping, scaling, bias and softmax."""
        onto_one_position = (node.op in ("mean", "avg_pool2d") and node.shapes
                             and math.prod(node.shapes[0]) == math.prod(node.shape))
        if node.op in TRANSPARENT or onto_one_position:
            behind = {self._behind(parent) for parent in node.parents if parent.from_images}
            if len(behind) == 1:
                return behind.pop()
        return node


class _Watch(TorchDispatchMode):
    trace: Trace

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.trace.record(func, args, kwargs or {}, out)
        return out
