"""Networks as static graphs: no Python of the network's author runs in them.

    network = capture(Net(), [Pass(training=True), Pass(training=False)])  # a torch.nn.Module
    network.eval()(images)                    # what the graph of the evaluation mode computes
    network = load_exported(network.to_bytes())

`torch.export` follows one forward pass in training mode and one in evaluation mode. What comes out
is a list of PyTorch's operations on stored tensors, numbers and the images, for any number of
images. It holds no code, so a file of it can be read from anybody, and what it does not contain
does not exist: no branch, no second network, no number in a Python object.
"""

import json
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from .errors import InputError
from .locate import reason

FORMAT = "featherweight-graph-1"
MAX_OPERATIONS = 50_000  # of a graph
CONSTANT = "exported_constant_"  # begins the names of tensors that are numbers in the code
# Operations of PyTorch that read or write more than tensors.
REFUSED = {"aten.from_file.default", "aten.from_file.out"}
# Python's functions of numbers, such as the number of images.
_SCALAR_FUNCTIONS: dict[str, Callable[..., Any]] = {
    f"operator.{name}": getattr(operator, name)
    for name in (
        *("add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "pow", "getitem"),
        *("eq", "ne", "lt", "le", "gt", "ge", "and_", "or_", "not_"),
    )
} | {
    f"torch.{name}": getattr(torch, name)
    for name in ("sym_max", "sym_min", "sym_float", "sym_int", "sym_not", "sym_ite")
}


def _enter_grad(enabled: bool) -> bool:
    """Switch gradients on or off, and return what they were."""
    before = torch.is_grad_enabled()
    torch.set_grad_enabled(enabled)
    return before


def _exit_grad(before: bool) -> None:
    torch.set_grad_enabled(before)


FUNCTIONS = _SCALAR_FUNCTIONS | {
    "enter_grad": _enter_grad,
    "exit_grad": _exit_grad,
    "enter_autocast": torch.amp.autocast_mode._enter_autocast,
    "exit_autocast": torch.amp.autocast_mode._exit_autocast,
}
# Functions whose arguments are no numbers to compute with.
CONTEXTS = {"operator.getitem", "enter_grad", "exit_grad", "enter_autocast", "exit_autocast"}
# Operations of which the size of the result is a number like others.
REPEATS = {"expand", "repeat", "as_strided", "repeat_interleave", "constant_pad_nd", "tile"}
# Whole numbers that say which pixels an operation takes.
PLACES = {"index", "indices", "start", "end", "length", "shifts", "pad", "value"}
# Kinds of arguments that are no number, by the class of the value.
NAMED = {
    "dtype": torch.dtype,
    "memory_format": torch.memory_format,
    "layout": torch.layout,
}


@dataclass(frozen=True)
class Operation:
    """One operation of a graph."""

    target: str
    "Its name, such as `aten.conv2d.default`."
    args: list[Any]
    "Its arguments: numbers, texts, and dictionaries of one key that stand for anything else."
    kwargs: dict[str, Any]
    "Its arguments by name."


@dataclass(frozen=True, eq=False)
class Graph:
    """The operations of a forward pass in one mode, first to last."""

    training: bool
    "The mode."
    shape: tuple[int, ...]
    "Shape of one image, (channels, height, width)."
    n_images: int | None
    "Number of images in a batch. None: any number."
    operations: tuple[Operation, ...]
    "An argument {'value': i} is the result of operation i."
    output: Any
    "The argument that is the output (n, classes)."
    _functions: dict[torch.device, Callable[..., Tensor]] = field(default_factory=dict)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Graph":
        return self  # it does not change

    def function(self, device: torch.device) -> Callable[..., Tensor]:
        """Return the graph as a function of the images and a dictionary of tensors by name."""
        if device not in self._functions:
            self._functions[device] = _function(self, device)
        return self._functions[device]

    def n_literals(self) -> int:
        """Return how many numbers stand in the graph itself, where they could act as weights.

        These are factors, summands, places, sizes of what is made or repeated, and all numbers of
        what is computed from no image. Strides, dimensions and the like are structure. A number
        that an operation repeats on the result of the same operation is counted once."""
        total = 0
        seen: list[tuple[Any, ...]] = []
        from_images: list[bool] = []
        for each in self.operations:
            inputs = list(_leaves([each.args, list(each.kwargs.values())]))
            before = [i["value"] for i in inputs if isinstance(i, dict) and "value" in i]
            operation = each.target.removeprefix("aten.").partition(".")[0]
            made = operation.startswith("new_") or operation.endswith("_like")
            from_images.append(
                not made and ({"images": True} in inputs or any(from_images[i] for i in before))
            )
            structure = from_images[-1] and operation not in REPEATS
            numbers = _numbers(each, structure)
            seen.append((each.target, *numbers))
            if not any(seen[i] == seen[-1] for i in before):
                total += len(numbers)
        return total

    def to_json(self) -> dict[str, Any]:
        """Return JSON values that `from_json` reads back."""
        return {
            "training": self.training,
            "shape": list(self.shape),
            "n_images": self.n_images,
            "operations": [[each.target, each.args, each.kwargs] for each in self.operations],
            "output": self.output,
        }

    @staticmethod
    def from_json(values: dict[str, Any]) -> "Graph":
        """Return the graph of `to_json`. Raises InputError for an operation that is refused."""
        operations = tuple(Operation(*each) for each in values["operations"])
        if len(operations) > MAX_OPERATIONS:
            raise InputError(
                f"got {len(operations):,} operations, expected at most {MAX_OPERATIONS:,}"
            )
        for each in operations:
            find_function(each.target)
        shape, n_images = tuple(values["shape"]), values["n_images"]
        return Graph(bool(values["training"]), shape, n_images, operations, values["output"])


def _leaves(argument: Any) -> Iterator[Any]:
    if isinstance(argument, list):
        for each in argument:
            yield from _leaves(each)
    else:
        yield argument


def _numbers(operation: Operation, structure: bool) -> list[Any]:
    """Return the numbers in an operation's arguments, with `structure` without those of structure.

    A complex number is two."""
    function = find_function(operation.target)
    if isinstance(function, torch._ops.OpOverload):
        schema = function._schema.arguments
        given = operation.kwargs
        named = [
            *zip(schema, operation.args, strict=False),
            *((each, given[each.name]) for each in schema if each.name in given),
        ]
        values = [
            value
            for about, value in named
            if not structure or "int" not in str(about.type).lower() or about.name in PLACES
        ]
    else:  # of numbers, such as the number of images
        values = [] if operation.target in CONTEXTS else list(operation.args)
    found: list[Any] = []
    for leaf in _leaves(values):
        if isinstance(leaf, dict) and "complex" in leaf:
            found += leaf["complex"]
        elif isinstance(leaf, (int, float)) and not isinstance(leaf, bool):
            found.append(leaf)
    return found


class Exported(nn.Module):
    """A network as graphs. Its parameters and buffers have the names that they had in the module.

    Args:
        title: The file and class of the module, for messages.
        graphs: Its graphs.
        declared: Elements of all parameters of the module, in use or not.
        faithful: Whether the graph of training mode gives the module's gradients. It does not where
            the module has a gradient of its own, a torch.autograd.Function.
    """

    confined: bool | None = None
    "Whether the module's code ran without a network and without writing; None: in this process."

    def __init__(
        self, title: str, graphs: Sequence[Graph], declared: int, faithful: bool = False
    ) -> None:
        super().__init__()
        self.title, self.graphs, self.declared = title, tuple(graphs), declared
        self.faithful = faithful

    def forward(self, images: Tensor) -> Tensor:
        """Return the output (n, classes) for images (n, channels, height, width)."""
        graph = self.find_graph(self.training, tuple(images.shape))
        # A file's graph may leave gradients switched off.
        with torch.set_grad_enabled(torch.is_grad_enabled()):
            output: Tensor = graph.function(images.device)(images, dict(self.stored()))
        return output

    @property
    def takes_any_number(self) -> bool:
        """Whether every graph takes any number of images."""
        return all(graph.n_images is None for graph in self.graphs)

    def find_graph(self, training: bool, shape: tuple[int, ...]) -> Graph:
        """Return the graph of a mode for images of a shape (n, channels, height, width).

        Raises InputError if there is none."""
        of_mode = [graph for graph in self.graphs if graph.training == training]
        for graph in of_mode:
            if graph.shape == shape[1:] and graph.n_images in (None, shape[0]):
                return graph
        kept = " or ".join(str((graph.n_images or "n", *graph.shape)) for graph in of_mode)
        mode = "training" if training else "evaluation"
        raise InputError(
            f"model {self.title}: got images {shape} in {mode} mode, expected {kept}",
            hint="write it for any number of images",
        )

    def n_literals(self) -> int:
        """Return the numbers that stand in the graph of a mode, of the mode with the most."""
        return max((graph.n_literals() for graph in self.graphs), default=0)

    def stored(self) -> Iterator[tuple[str, Tensor]]:
        """Yield all parameters, buffers and constants with their names, tied ones several times."""
        yield from self.named_parameters(remove_duplicate=False)
        yield from self.named_buffers(remove_duplicate=False)

    def to_bytes(self) -> bytes:
        """Return the network as the content of a safetensors file."""
        kept: dict[int, tuple[str, Tensor]] = {}
        tensors = {}
        for name, stored in self.stored():
            tensor = stored.detach().cpu()
            memory = tensor.untyped_storage()
            if memory.data_ptr() not in kept:
                kept[memory.data_ptr()] = str(len(kept)), _as_bytes(memory)
            own, _ = kept[memory.data_ptr()]
            parent, _, leaf = name.rpartition(".")
            tensors[name] = {
                "memory": own,
                "dtype": str(tensor.dtype).removeprefix("torch."),
                "shape": list(tensor.shape),
                "stride": list(tensor.stride()),
                "offset": tensor.storage_offset(),
                "parameter": isinstance(stored, nn.Parameter),
                "gradient": stored.requires_grad,
                "saved": leaf not in self.get_submodule(parent)._non_persistent_buffers_set,
            }
        content = {
            "title": self.title,
            "declared": self.declared,
            "faithful": self.faithful,
            "graphs": [graph.to_json() for graph in self.graphs],
            "tensors": tensors,
        }
        # One key: safetensors writes several in any order.
        return safetensors.torch.save(dict(kept.values()), {FORMAT: json.dumps(content)})


def _as_bytes(memory: torch.UntypedStorage) -> Tensor:
    view: Tensor = torch.empty(0, dtype=torch.uint8).set_(memory, 0, (memory.nbytes(),), (1,))
    return view.clone()


def load_exported(content: bytes) -> Exported:
    """Return the network of `Exported.to_bytes`. No code of the file runs.

    Raises InputError where the content is anything else."""
    try:
        length = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + length])["__metadata__"]
        if FORMAT not in metadata:
            raise InputError(f"got the keys {', '.join(metadata)!r:.100}, expected {FORMAT}")
        values = json.loads(metadata[FORMAT])
        graphs = [Graph.from_json(each) for each in values["graphs"]]
        network = Exported(
            str(values["title"]), graphs, int(values["declared"]), bool(values["faithful"])
        )
        # A copy is aligned for every dtype.
        memory = {name: part.clone() for name, part in safetensors.torch.load(content).items()}
        made: dict[str, Tensor] = {}
        for name, about in values["tensors"].items():
            key = json.dumps(about, sort_keys=True)  # a tied tensor is one object
            if key not in made:
                made[key] = _tensor(memory[about["memory"]], about)
            register(network, name, made[key], bool(about["saved"]))
        for graph in graphs:
            graph.function(torch.device("cpu"))
    except InputError:
        raise
    except (
        *(AttributeError, IndexError, KeyError, OverflowError, RuntimeError, TypeError),
        *(ValueError, RecursionError, SyntaxError, MemoryError, safetensors.SafetensorError),
    ) as error:
        raise InputError(f"got a damaged graph ({reason(error)}), expected a whole one") from error
    return network


def _tensor(memory: Tensor, about: dict[str, Any]) -> Tensor:
    """Return the view of memory, shape (bytes,), that a file describes."""
    dtype = getattr(torch, about["dtype"])
    tensor = memory.view(dtype).as_strided(about["shape"], about["stride"], about["offset"])
    if about["parameter"]:
        return nn.Parameter(tensor, requires_grad=bool(about["gradient"]))
    return tensor.requires_grad_(bool(about["gradient"]))


def register(network: nn.Module, name: str, tensor: Tensor, saved: bool) -> None:
    """Add a tensor to a network under a name such as `body.0.weight`.

    `saved` says whether it is part of the network's weights files."""
    *path, leaf = name.split(".")
    module = network
    for part in path:
        if part not in module._modules:
            module.add_module(part, nn.Module())
        module = module.get_submodule(part)
    if isinstance(tensor, nn.Parameter):
        module.register_parameter(leaf, tensor)
    else:
        module.register_buffer(leaf, tensor, persistent=saved)


def find_function(name: str) -> Callable[..., Any]:
    """Return the function of an operation.

    Raises InputError if it is none of PyTorch's own, or one that an audit does not run."""
    if name in FUNCTIONS:
        own: Callable[..., Any] = FUNCTIONS[name]
        return own
    space, _, rest = name.partition(".")
    operation, _, overload = rest.partition(".")
    found: Any = None
    if space == "aten" and name not in REFUSED:
        found = getattr(getattr(torch.ops.aten, operation, None), overload, None)
    if not isinstance(found, torch._ops.OpOverload) or not _is_of_tensors(found):
        raise InputError(
            f"got the operation {name}, expected PyTorch's own",
            hint="write it with PyTorch's functions of tensors",
        )
    function: Callable[..., Any] = found
    return function


def _is_of_tensors(function: torch._ops.OpOverload) -> bool:
    """Return whether an operation takes or gives tensors, and so is seen by a dispatch mode."""
    schema = function._schema
    kinds = [str(each.type) for each in (*schema.arguments, *schema.returns)]
    has_kernel = torch._C._dispatch_has_kernel(
        schema.name + ("." + schema.overload_name).rstrip(".")
    )
    return has_kernel and any("Tensor" in kind for kind in kinds)


def _function(graph: Graph, device: torch.device) -> Callable[..., Tensor]:
    """Return a graph as a function (images, tensors by name)."""
    # The functions of `torch.fx` write the code, in which only numbered names occur.
    made = torch.fx.Graph()
    images, stored = made.placeholder("images"), made.placeholder("stored")
    tensors: dict[str, torch.fx.Node] = {}
    values: list[torch.fx.Node] = []

    def argument(value: Any) -> Any:
        if isinstance(value, list):
            return [argument(each) for each in value]
        if not isinstance(value, dict):
            return value
        ((kind, content),) = value.items()
        if kind == "value":
            if type(content) is not int or not 0 <= content < len(values):
                raise InputError(f"got the value {content!r} of a graph before there is one")
            return values[content]
        if kind == "images":
            return images
        if kind == "tensor":
            if content not in tensors:
                with made.inserting_after(stored):
                    tensors[content] = made.call_function(operator.getitem, (stored, content))
            return tensors[content]
        if kind == "device":  # the graph's only device is the one that it runs on
            return device
        if kind in NAMED and isinstance(found := getattr(torch, content), NAMED[kind]):
            return found
        if kind == "complex" and [type(each) for each in content] == [float, float]:
            return complex(*content)
        raise InputError(f"got an argument {kind!r} in a graph, expected one that is known")

    for each in graph.operations:
        function = find_function(each.target)
        # `torch.fx` writes these names into code.
        known: set[str] = set()
        if isinstance(function, torch._ops.OpOverload):
            known = {about.name for about in function._schema.arguments}
        if unknown := each.kwargs.keys() - known:
            raise InputError(
                f"got the argument {min(unknown)!r} of {each.target}, expected its own"
            )
        kwargs = {name: argument(value) for name, value in each.kwargs.items()}
        values.append(made.call_function(function, tuple(argument(each.args)), kwargs))
    made.output(argument(graph.output))
    return torch.fx.GraphModule(nn.Module(), made).forward
