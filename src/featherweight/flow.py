"""Run a graph on a few images, and keep what each operation takes and gives.

    steps = run_graph(graph, {}, images)
    used = on_the_way(steps)            # what leads from the images to the output

Memory that an operation writes in place belongs to that operation from then on, as in trace.py.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from .errors import InputError
from .exported import NAMED, Exported, Graph, find_function


class Operand(NamedTuple):
    """A tensor argument of an operation."""

    argument: str
    "The name of the argument that it is, or is part of."
    tensor: Tensor
    "Its value."
    step: "Step"
    "What gave it."
    writer: "Step | None"
    "What has last written into its memory since."

    @property
    def from_images(self) -> bool:
        """Whether it depends on the images."""
        return self.step.from_images or (self.writer is not None and self.writer.from_images)

    @property
    def drawn(self) -> bool:
        """Whether it depends on random numbers and not on the images."""
        random = self.step.random or (self.writer is not None and self.writer.random)
        return random and not self.from_images


@dataclass(eq=False)
class Step:
    """An operation of a graph that ran, a stored tensor, or the images."""

    op: str
    "Its name without overload and underscore, such as `conv2d`; `stored` or `images`."
    named: dict[str, Any]
    "Its arguments by name, with tensors."
    operands: list[Operand]
    "Its tensor arguments."
    result: Any
    "What it gave: a tensor, several, or a number."
    name: str = ""
    "Of a stored tensor."
    pointwise: bool = False
    "Whether it takes element by element."
    from_images: bool = False
    "Whether its result depends on the images."
    random: bool = False
    "Whether its result depends on random numbers and not on the images."
    macs: int = 0
    "Multiply-accumulates for all images."

    @property
    def results(self) -> list[Tensor]:
        """The tensors of its result."""
        return [each for each in tree_leaves(self.result) if isinstance(each, Tensor)]

    @property
    def parents(self) -> list["Step"]:
        """What gave its arguments."""
        given = [each.step for each in self.operands]
        return given + [each.writer for each in self.operands if each.writer is not None]


# Deviation of the noise in place of an untrained network's parameters that are about zero.
NOISE, SMALL = 0.1, 1e-4
# A step has an effect where the output changes by more than this part of its deviation.
MIN_EFFECT = 1e-4
# A step whose gradient lets the output change by this part of its change is not tried.
MIN_GRADIENT = 1e-2
MAX_TRIALS = 500  # each a pass over the graph
# Operations whose result has a shape from its argument, and no values.
_SHAPES = ("_like", "new_")
# Operations whose result has the shape or the type of their argument `other`, and no values of it.
_AS = {"view_as", "reshape_as", "expand_as", "type_as"}


_find = functools.cache(find_function)


class _Count(TorchDispatchMode):
    """Counts the multiply-accumulates of matrix products and convolutions."""

    macs = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        if name in _MACS:
            self.macs += _MACS[name](args, out)
        return out


def _of_convolution(args: Any, out: Tensor) -> int:
    x, weight, transposed = args[0], args[1], args[6]
    each = weight[0].numel() if weight.numel() else 0
    return int((x if transposed else out).numel() * each)


def _of_attention(args: Any, out: Any) -> int:
    query, key, value = args[:3]
    scores = math.prod(query.shape[:-1]) * key.shape[-2]
    return int(scores * (query.shape[-1] + value.shape[-1]))


def _of_sampling(args: Any, out: Tensor) -> int:
    samples = {0: 2, 1: 0, 2: 4}[args[2]]  # along each dimension; the nearest is only copied
    return int(out.numel() * samples ** (out.ndim - 2))


_MACS: Mapping[str, Any] = {
    "convolution": _of_convolution,
    "mm": lambda args, out: args[0].numel() * args[1].shape[-1],
    "bmm": lambda args, out: args[0].numel() * args[1].shape[-1],
    "addmm": lambda args, out: args[1].numel() * args[2].shape[-1],
    "baddbmm": lambda args, out: args[1].numel() * args[2].shape[-1],
    "linear": lambda args, out: out.numel() * args[0].shape[-1],
    "mv": lambda args, out: args[0].numel(),
    "dot": lambda args, out: args[0].numel(),
    "_scaled_dot_product_flash_attention_for_cpu": _of_attention,
    "grid_sampler_2d": _of_sampling,
    "grid_sampler_3d": _of_sampling,
    "upsample_linear1d": lambda args, out: 2 * out.numel(),
    "upsample_bilinear2d": lambda args, out: 4 * out.numel(),
    "upsample_trilinear3d": lambda args, out: 8 * out.numel(),
    "upsample_bicubic2d": lambda args, out: 16 * out.numel(),
}


def run_graph(
    graph: Graph,
    tensors: Mapping[str, Tensor],
    images: Tensor,
    instead: Mapping[int, Any] | None = None,
) -> list[Step]:
    """Run a graph, and return its operations, the output's last.

    Args:
        graph: The graph.
        tensors: Its stored tensors by name, which it may change.
        images: Images (n, channels, height, width), which it may change.
        instead: Results to use in place of those of some operations, by number.
    """
    runner = _Runner(tensors, images)
    with runner.count:
        for number, operation in enumerate(graph.operations):
            function = _find(operation.target)
            runner.call(operation.target, function, operation.args, operation.kwargs)
            if instead and number in instead:
                runner.replace(instead[number])
    runner.steps.append(runner.output(graph.output))
    return runner.steps


class _Runner:
    """Runs operations one by one."""

    def __init__(self, tensors: Mapping[str, Tensor], images: Tensor) -> None:
        self.count = _Count()  # type: ignore[no-untyped-call]  # torch types no constructor
        self.tensors, self.steps = tensors, []  # type: Mapping[str, Tensor], list[Step]
        self._stored: dict[str, Step] = {}
        self._images = Step("images", {}, [], images, from_images=True)
        # The last operation that wrote in place into each memory, and when.
        self._written: dict[int, tuple[int, Step | None]] = {}

    def _argument(self, value: Any, found: list[tuple[Tensor, Step, int]]) -> Any:
        """Return an argument's value, and note its tensors with what gave them, and when."""
        if isinstance(value, list):
            return [self._argument(each, found) for each in value]
        if not isinstance(value, dict):
            return value
        ((kind, content),) = value.items()
        if kind == "value":
            step, when = self.steps[content], content
        elif kind == "images":
            step, when = self._images, -1
        elif kind == "tensor":
            if content not in self._stored:
                tensor = self.tensors[content]
                self._stored[content] = Step("stored", {}, [], tensor, name=content)
            step, when = self._stored[content], -1
        elif kind == "device":
            return self._images.result.device
        elif kind in NAMED:
            return getattr(torch, content)
        else:
            return complex(*content)
        found += [(tensor, step, when) for tensor in step.results]
        return step.result

    def _operands(self, named: Mapping[str, Any]) -> tuple[dict[str, Any], list[Operand]]:
        values, operands = {}, []
        for key, value in named.items():
            found: list[tuple[Tensor, Step, int]] = []
            values[key] = self._argument(value, found)
            for tensor, step, when in found:
                since, writer = self._written.get(_memory(tensor), (-1, None))
                operands.append(Operand(key, tensor, step, writer if since > when else None))
        return values, operands

    def call(self, target: str, function: Any, args: list[Any], kwargs: dict[str, Any]) -> None:
        """Run an operation, and add it to the steps."""
        overload = isinstance(function, torch._ops.OpOverload)
        schema = function._schema.arguments if overload else ()
        keys = [about.name for about in schema] or [str(i) for i in range(len(args))]
        named = dict(zip(keys, args, strict=False)) | kwargs
        values, operands = self._operands(named)
        if target.removeprefix("aten.").partition(".")[0] in _AS:
            operands = [each for each in operands if each.argument != "other"]
        before = self.count.macs
        given = [values[key] for key, _ in zip(keys, args, strict=False)]
        result = function(*given, **{key: values[key] for key in kwargs})
        op = target.removeprefix("aten.").removeprefix("operator.").partition(".")[0]
        op = op.rstrip("_") if not op.startswith("__") else op
        step = Step(
            op,
            values | {about.name: about.default_value for about in schema
                      if about.name not in values and about.has_default_value()},
            operands,
            result,
            pointwise=overload and torch.Tag.pointwise in function.tags,
            macs=self.count.macs - before,
        )  # fmt: skip
        shaped = op.endswith(_SHAPES[0]) or op.startswith(_SHAPES[1])
        parents = [] if shaped else step.parents
        step.from_images = any(parent.from_images for parent in parents)
        draws = overload and torch.Tag.nondeterministic_seeded in function.tags
        step.random = not step.from_images and (draws or any(p.random for p in parents))
        if shaped:
            step.operands = []
        self.steps.append(step)
        if overload and function._schema.is_mutable:
            for about in schema:
                if about.alias_info is not None and about.alias_info.is_write:
                    for tensor in tree_leaves(values.get(about.name)):
                        if isinstance(tensor, Tensor):
                            self._written[_memory(tensor)] = len(self.steps) - 1, step

    def replace(self, result: Any) -> None:
        """Replace the result of the last step, in memory where it has written there."""
        step = self.steps[-1]
        if any(writer is step for _, writer in self._written.values()):
            for before, after in zip(step.results, tree_leaves(result), strict=False):
                before.copy_(after)
        else:  # a copy: later operations may write into it
            step.result = tree_map(_copy, result)

    def output(self, value: Any) -> Step:
        """Return a last step that takes the graph's output."""
        values, operands = self._operands({"self": value})
        step = Step("output", values, operands, values["self"])
        step.from_images = any(parent.from_images for parent in step.parents)
        return step


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr() if tensor.layout == torch.strided else id(tensor)


def on_the_way(steps: Sequence[Step]) -> set[Step]:
    """Return the steps that the last one depends on."""
    found: set[Step] = set()
    todo = [steps[-1]]
    while todo:
        step = todo.pop()
        if step not in found:
            found.add(step)
            todo += step.parents
    return found


def leaves(step: Step) -> Iterator[Step]:
    """Yield the stored tensors that a step's arguments are computed from, without the images."""
    seen: set[Step] = set()
    todo = [parent for parent in reversed(step.parents) if not parent.from_images]
    while todo:
        each = todo.pop()
        if each not in seen:
            seen.add(each)
            if each.op == "stored":
                yield each
            todo += reversed(each.parents)


def without_effect(
    graph: Graph, tensors: Callable[[], Mapping[str, Tensor]], images: Tensor, seed: int = 0
) -> tuple[list[Step], set[Step]]:
    """Run a graph, and find the steps whose results hardly change the output.

    Such are a branch that is multiplied by zero, and a layer whose weights are all zero.

    Args:
        graph: The graph.
        tensors: Gives its stored tensors by name, each time as new copies.
        images: Images (n, channels, height, width); a step's effect is the change of the output
            when it gets what it would give for the images in another order.
        seed: Of the random numbers in each pass.

    Returns the steps as `run_graph` does, and those without an effect among them. Raises
    InputError where so many steps may have none that to try each would take too long.
    """

    def run(batch: Tensor, instead: Mapping[int, Any] | None = None) -> list[Step]:
        torch.manual_seed(seed)
        return run_graph(graph, tensors(), batch.clone(), instead)

    with torch.no_grad():
        others = run(images.flip(0))
    with torch.enable_grad():
        steps = run(images.clone().requires_grad_())
    output = steps[-1].result
    used = on_the_way(steps)
    tried = [i for i, step in enumerate(steps[:-1]) if step in used and step.from_images]
    effects = _effects(steps, others, tried)
    before = output.detach()
    least = MIN_GRADIENT * float((before - others[-1].result).abs().sum())
    scale = float(before.std().clamp_min(1e-12))
    dead: set[Step] = set()
    doubtful = [i for i in tried if effects[i] < least and steps[i].results]
    if len(doubtful) > MAX_TRIALS:
        raise InputError(
            f"got {len(doubtful):,} operations whose gradients show no effect on the output, "
            f"expected at most {MAX_TRIALS}"
        )
    for i in doubtful:
        with torch.no_grad():  # a gradient does not show what a step function or argmax does
            changed = run(images, {i: others[i].result})[-1].result
        if float((changed - before).square().mean().sqrt()) <= MIN_EFFECT * scale:
            dead.add(steps[i])
    return steps, dead


def _effects(steps: Sequence[Step], others: Sequence[Step], numbers: Sequence[int]) -> list[float]:
    """Return about how much the output changes if steps get their results of the other images."""
    effects = [0.0] * len(steps)
    output = steps[-1].result
    owners = [
        (i, x, y)
        for i in numbers
        for x, y in zip(steps[i].results, others[i].results, strict=True)
        if x.requires_grad
    ]
    if not output.requires_grad or not owners:
        return effects
    signs = torch.linspace(-1, 1, output.numel()).sign().view(output.shape)
    with contextlib.suppress(RuntimeError):  # what was written in place may have no gradient
        gradients = torch.autograd.grad(
            (output * signs).sum(), [x for _, x, _ in owners], allow_unused=True
        )
        for (i, x, y), gradient in zip(owners, gradients, strict=True):
            if gradient is not None:
                effects[i] += float((gradient * (x.detach() - y)).abs().sum())
    return effects


def copies(network: Exported, trained: bool) -> dict[str, Tensor]:
    """Return copies of a network's stored tensors by name.

    Unless it is trained, parameters that start at zero get some noise: training changes them."""
    made: dict[int, Tensor] = {}
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name, tensor in network.stored():
        if id(tensor) not in made:
            copy = tensor.detach().to("cpu", copy=True)
            if not trained and tensor.requires_grad:
                noise = torch.randn(copy.shape, generator=generator).to(copy)
                copy = torch.where(copy.abs() < SMALL, NOISE * noise, copy)
            made[id(tensor)] = copy
        found[name] = made[id(tensor)]
    return found
