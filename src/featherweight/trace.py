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

from .operations import PRODUCTS, Node, copies, head, normalises_batch, unpacked, zeroed

# Constants, such as the eps of a batch norm, are free up to this many numbers in total.
MAX_FREE_CONSTANTS = 64
# A batch norm's statistics are free where each step changes them by at least this fraction: else
# they are no statistics of the images, and could be anything.
MIN_MOMENTUM = 1e-3
# Copies of each activation that a dropout may get: the mean of many is hardly changed.
MAX_COPIES = 16
# Operations that take several small numbers out of one large one.
UNPACKS = {
    "view.dtype",
    "bitwise_and",
    "bitwise_or",
    "bitwise_xor",
    "bitwise_right_shift",
    "bitwise_left_shift",
    "__and__",
    "__or__",
    "__xor__",
    "__rshift__",
    "__lshift__",
    "remainder",
    "fmod",
    "floor",
    "floor_divide",
    "div.Tensor_mode",
    "div.Scalar_mode",
    "trunc",
    "frac",
    "round",
    "frexp",
}
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
# Operations that give memory as it is, and those whose result is the same memory.
EMPTY = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}
VIEWS = {
    "view",
    "select",
    "slice",
    "as_strided",
    "transpose",
    "permute",
    "squeeze",
    "unsqueeze",
} | {"expand", "t", "alias", "detach", "split", "unbind", "diagonal", "unfold"}
# An operation that writes the memory that it is given, without a name that says so.
WRITERS = {"rrelu_with_noise"}
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
    argument: str
    "The argument that it is."
    statistic: bool = False
    "Whether it is the running mean or variance of a batch norm."
    updated: bool = False
    "Whether that batch norm is in training mode, and its momentum is not too small."


def _numbers(tensor: Tensor) -> int:
    return tensor.numel() * (2 if tensor.is_complex() else 1)


def _size(tensor: Tensor, views: dict[Any, int]) -> int:
    """Return how many numbers of a stored tensor were read, given the size of each view of it."""
    if tensor.layout != torch.strided:
        return sum(views.values())
    whole = tensor.untyped_storage().nbytes() // tensor.element_size() * (1 + tensor.is_complex())
    return min(sum(views.values()), whole)


def _storage(tensor: Tensor) -> int:
    # Sparse and other such tensors have no storage: each counts as a whole.
    return tensor.untyped_storage().data_ptr() if tensor.layout == torch.strided else id(tensor)


def _content(tensor: Tensor) -> bytes:
    """Return the numbers of a tensor."""
    return tensor.numpy(force=True).tobytes()


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
        # Operations of this pass that unpack stored numbers, and the largest number of numbers that
        # a pass has got so beyond those that are stored.
        self._unpacking: list[Node] = []
        self._unpacked = 0

    @contextlib.contextmanager
    def watch(self, images: Tensor) -> Iterator[None]:
        """Record the operations inside the context, a forward pass over `images`."""
        self._writer, self._alive = {}, [images]
        self._writer[_storage(images)] = Node(
            "input", [], [], tuple(images.shape), from_images=True, detail={}
        )
        mode = _Watch()  # type: ignore[no-untyped-call]  # torch types no constructor
        mode.trace = self
        self._unpacking = []
        with mode:
            yield
        self._unpacked = max(self._unpacked, unpacked(self._unpacking))

    def leaf(self, tensor: Tensor, role: _Role) -> Node:
        """Record that a stored tensor is read: one that no operation of this pass has written."""
        # torch.tensor(list) creates a new tensor in each pass, which is recognised by its content.
        key: Any = _storage(tensor)
        if role.op == "lift_fresh":
            key = ("fresh", tuple(tensor.shape), _content(tensor))
        view = (
            (tensor.storage_offset(), tuple(tensor.shape), tuple(tensor.stride()))
            if tensor.layout == torch.strided
            else None
        )
        _, views = self._leaves.setdefault(key, (tensor, {}))
        views[view] = _numbers(tensor)
        self._roles.setdefault(key, set()).add(role)
        return Node("stored", [], [], tuple(tensor.shape), from_images=False, detail={"key": key})

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
        defaults = {a.name: a.default_value for a in func._schema.arguments} | named
        random = (
            torch.Tag.nondeterministic_seeded in func.tags
            and defaults.get("training", defaults.get("train", True)) is not False
            and defaults.get("dropout_p", True) != 0
        )
        node = Node(
            name,
            parents,
            shapes,
            tuple(results[0].shape) if results else (),
            from_images,
            _detail(name, named, training, tensors, parents, results),
            drawn=not from_images and (random or any(node.drawn for node in parents)),
            random=random,
        )
        if _unpacks(names, tensors, results) and not from_images and not node.drawn:
            self._unpacking.append(node)
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
                    updated = statistic and training and _momentum(named) >= MIN_MOMENTUM
                    node = self.leaf(tensor, _Role(name, argument, statistic, updated))
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

    def stored_numbers(self, literals: int | None = None) -> int:
        """Return how many stored numbers were read, each counted once.

        Batch-norm statistics are free, and so are constants and numbers in the code up to
        `MAX_FREE_CONSTANTS` each. Numbers that are packed in larger ones count one by one.

        Args:
            literals: Numbers in the code, where they are known. None: the different ones that
                operations were given.
        """
        total, constants = 0, 0
        for key, (tensor, views) in self._leaves.items():
            roles = self._roles[key]
            if any(role.updated for role in roles) and all(role.statistic for role in roles):
                continue  # updated by a batch norm in training, and read by nothing else
            if roles == {_Role("add_", "self")} and not tensor.is_floating_point():
                continue  # the number of batches that a batch norm has seen, and nothing else
            numbers = _size(tensor, views)
            if (
                isinstance(tensor, torch.nn.Parameter)
                or tensor.requires_grad
                or numbers > MAX_FREE_CONSTANTS
            ):
                total += numbers
            else:
                constants += numbers
        # The limit is on their total: else weights could be stored as many small constants.
        written = len(self._scalars) if literals is None else literals
        return (
            total + sum(n for n in (constants, written) if n > MAX_FREE_CONSTANTS) + self._unpacked
        )

    def trainable_numbers(self) -> int:
        """Return how many numbers of stored tensors with a gradient were read, each once."""
        leaves = self._leaves.values()
        return sum(_size(tensor, views) for tensor, views in leaves if tensor.requires_grad)

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

    def batch_norms(self, output: Tensor) -> set[Node]:
        """Return the batch norms in training mode that the output depends on."""
        return {node for node in self.used(output) if normalises_batch(node)}

    def dropouts(self, output: Tensor, least: float) -> dict[Node, tuple[int, int]]:
        """Return the dropouts that the output depends on, with how many activations each zeroed.

        Each has the number of zeroed activations, and of those that it could have zeroed. `least`
        is the smallest fraction that counts."""
        pairs = {
            node: node.detail["dropped"] for node in self.used(output) if "dropped" in node.detail
        }
        return {
            node: (zeros, possible)
            for node, (zeros, possible) in pairs.items()
            if zeros >= least * possible > 0 and copies(node) <= MAX_COPIES
        }

    def rates(self, dropouts: dict[Node, tuple[int, int]]) -> tuple[tuple[float, float], ...]:
        """Return the rate of each of these dropouts, and its uncertainty.

        The uncertainty is 0 where a random operation states the rate, and the activations that were
        zeroed agree with it; else it is 4 standard deviations of their fraction."""
        found = []
        for node, (zeros, possible) in dropouts.items():
            fraction = zeros / possible
            uncertainty = 4 * math.sqrt(max(fraction * (1 - fraction), 1 / possible) / possible)
            stated = _stated_rate(node)
            if stated is not None and abs(stated - fraction) <= uncertainty:
                found.append((stated, 0.0))
            else:
                found.append((fraction, uncertainty))
        return tuple(found)

    def random(self, output: Tensor) -> set[str]:
        """Return the names of the operations that the output depends on by chance.

        They draw random numbers, or are memory that nothing has written before it is read."""
        used = self.used(output)
        unwritten = {
            parent.op
            for node in used
            for parent in node.parents
            if parent.op in EMPTY and node.op not in VIEWS | WRITERS and not node.op.endswith("_")
        }
        return unwritten | {node.op for node in used if node.random}

    def bypassed(self, output: Tensor, layers: set[Node]) -> bool:
        """Return whether the output depends on the images in a way that avoids all of these."""
        last = self._writer.get(_storage(output))
        seen, todo = set(layers), [last] if last else []
        while todo:
            node = todo.pop()
            if node.op == "input":
                return True
            if node not in seen:
                seen.add(node)
                todo += node.parents
        return False

    def head(self, output: Tensor) -> tuple[set[str], str]:
        """Return the heads before log-softmax, "linear", "gap" or "other", and the evidence.

        An output (n, classes) that is a sum has several.
        """
        last = self._writer.get(_storage(output))
        if last is None or not last.from_images:
            return {"other"}, "no torch operations lead from the images to the output"
        return head(last, *output.shape)


def _stated_rate(node: Node) -> float | None:
    """Return the rate of a dropout if its mask comes from one operation that states it."""
    if "rate" in node.detail:
        return float(node.detail["rate"])
    rates: set[float] = set()
    seen: set[Node] = set()
    todo = [parent for parent in node.parents if parent.drawn]
    while todo:
        drawn = todo.pop()
        if drawn not in seen:
            seen.add(drawn)
            todo += [parent for parent in drawn.parents if parent.drawn]
            if drawn.random:
                rates.add(float(drawn.detail.get("rate", math.nan)))
    return rates.pop() if len(rates) == 1 else None


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
    if "batch_norm" in name and training and len(results) > 2:
        # The third result is 1 / sqrt(variance + eps) of each channel.
        eps = float(named.get("eps", named.get("epsilon", 0.0)))
        detail["eps_part"] = results[2].square().mean() * eps
    if name == "bernoulli_" and isinstance(keep := named.get("p", 0.5), float):
        detail["rate"] = 1 - keep
    if name == "native_dropout" and training:
        detail["dropped"] = int((~results[1]).sum()), results[1].numel()
        detail["rate"] = named["p"]
    elif dropped := zeroed(name, tensors, parents, named):
        detail["dropped"] = dropped
    elif name in ("mul", "mul_", "div", "div_"):
        # The most stored numbers that are a factor, unless all of them are equal.
        factors = [
            tensor
            for (_, tensor), node in zip(tensors, parents, strict=False)
            if not node.from_images and not node.drawn and tensor.numel() > 1
        ]
        detail["factors"] = [t.numel() for t in factors if bool((t != t.flatten()[0]).any())]
    elif name in PRODUCTS:
        constants = [
            tensor
            for (_, tensor), node in zip(tensors, parents, strict=False)
            if not node.from_images and tensor.numel() > 1
        ]
        detail["spreads"] = [(t - t.flatten()[0]).abs().amax() for t in constants]
    elif name == "convolution":
        detail["kernel"] = tuple(named["weight"].shape[2:])
    elif name in ("mean", "sum", "var", "std", "var_mean", "std_mean"):
        dims = named.get("dim")
        detail["dims"] = {
            d % tensors[0][1].ndim for d in ([dims] if isinstance(dims, int) else dims or ())
        }
    return detail


def _unpacks(names: set[str], tensors: list[tuple[str, Tensor]], results: list[Tensor]) -> bool:
    """Return whether an operation takes small numbers out of large ones."""
    if names & UNPACKS:
        return True
    # A smaller integer keeps the last bits.
    return (
        "_to_copy" in names
        and not results[0].is_floating_point()
        and tensors[0][1].element_size() > results[0].element_size()
    )


def _momentum(named: dict[str, Any]) -> float:
    return float(named.get("momentum", named.get("exponential_average_factor", 1.0)))


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
