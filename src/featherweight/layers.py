"""The layers of a network, from its graph: shapes, receptive fields, parameters and operations.

    table = layer_table(load_exported(content))
    print(table.to_text(80))
    dilated(table), strided(table), depthwise_separable(table)

A layer is an operation on the way from the images to the output, whatever module it belongs to, if
any. Reshaping, scaling by a number and the like are no layers, nor is what has no effect.
"""

import re
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from ._layers import NORMS as NORM_KINDS
from ._layers import Layer as Layer
from ._layers import LayerTable as LayerTable
from ._layers import depthwise_separable as depthwise_separable
from ._layers import dilated as dilated
from ._layers import dropouts as dropouts
from ._layers import max_pools as max_pools
from ._layers import normalisations as normalisations
from ._layers import strided as strided
from ._layers import without_dropout as without_dropout
from .errors import InputError
from .exported import CONSTANT, Exported, Graph
from .fields import Field, start, write_into
from .flow import Operand, Step, copies, leaves, on_the_way, without_effect
from .follow import (
    ADAPTIVE_POOLS,
    AVERAGE_POOLS,
    CONVOLUTIONS,
    COPIES,
    CUTS,
    FACTORS,
    MAX_POOLS,
    MOVES,
    NORMS,
    ORDERS,
    PADS,
    RESHAPES,
    Call,
    convolution_options,
    dims_of,
    follow,
    taps,
)
from .locate import reason
from .norms import find_norms, norm_kind
from .operations import zeroed
from .passes import N_PROBE
from .views import APPLICATIONS, find_views

N_IMAGES = 4  # of the pass that is followed
# Stored tensors with fewer numbers are constants, unless they are parameters; as in trace.py.
MAX_CONSTANTS = 64
ACTIVATIONS = {
    *("relu", "relu6", "leaky_relu", "prelu", "rrelu", "elu", "selu", "celu", "gelu", "silu"),
    *("mish", "hardswish", "hardsigmoid", "hardtanh", "sigmoid", "tanh", "softplus", "softmax"),
    *("log_softmax", "_softmax", "_log_softmax", "log_sigmoid", "glu", "threshold", "clamp"),
    *("clamp_min", "clamp_max", "softshrink", "hardshrink", "logsigmoid", "sign", "sin", "cos"),
}
DROPOUTS = {"dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"} | {
    "native_dropout"
}
# Operations that take the largest or smallest, or put numbers in the order of their size.
EXTREMES = {"amax", "amin", "max", "min", "argmax", "sort", "topk", "kthvalue", "median"} | {
    *("nanmedian", "quantile", "aminmax", "argmin", "argsort", "msort", "cummax", "cummin"),
    *("fractional_max_pool2d", "mode"),
}
# Operations that take one of several elements.
CHOICES = {"maximum", "minimum", "fmax", "fmin", "max", "min", "where"}
AVERAGES = {"mean", "sum", "nanmean", "nansum"}
PRODUCTS = {*FACTORS, "einsum"} - {"scaled_dot_product_attention"}
# Operations that always are a layer.
LAYERS = CONVOLUTIONS | MAX_POOLS | AVERAGE_POOLS | ADAPTIVE_POOLS | NORMS | DROPOUTS | PRODUCTS
JOINS = {"add", "sub", "rsub", "subtract"}
# Operations that only move or scale numbers.
SILENT = RESHAPES | ORDERS | CUTS | COPIES | PADS | MOVES | {"getitem", "copy", "output"}
# Last parts of a parameter's name that don't tell it from others of its module.
LEAF = re.compile(r"(weight|bias|in_proj_weight|in_proj_bias|running_(mean|var))(_[a-z].*)?")
LABELS = {"scaled_dot_product_attention": "attention"}  # of operations


def layer_table(
    network: Exported,
    training: bool = False,
    trained: bool = False,
    images: Tensor | None = None,
) -> LayerTable:
    """Return the layers of a network's graph.

    Left out is what does not lead to the output, and what has no effect on it.

    Args:
        network: The network as graphs; it stays unchanged.
        training: Follow the graph of training mode instead of evaluation mode.
        trained: Whether its weights are trained: then a weight of zero stays zero.
        images: Normalised images, shape (n, channels, height, width), of which a few are followed.
            None: noise.

    Raises InputError if it has no graph of the mode, or fails on the images.
    """
    graph = _find_graph(network, training)
    steps, dead = _run(network, graph, trained, images)
    return _Rows(network, graph, steps, dead).table()


def _find_graph(network: Exported, training: bool) -> Graph:
    for graph in network.graphs:
        if graph.training == training:
            return graph
    mode = "training" if training else "evaluation"
    raise InputError(f"model {network.title}: got no graph of {mode} mode, expected one")


def _run(
    network: Exported, graph: Graph, trained: bool, images: Tensor | None
) -> tuple[list[Step], set[Step]]:
    """Run a graph on a few images, and return its steps and those without an effect."""
    if images is None:
        images = _noise(graph.shape)
    sizes = [graph.n_images] if graph.n_images else [N_IMAGES, N_PROBE]
    for n_images in sizes:
        some = images[torch.arange(n_images) % len(images)]
        with torch.random.fork_rng(devices=[]):
            try:
                return without_effect(graph, lambda: copies(network, trained), some)
            except InputError as error:
                raise InputError(f"model {network.title}: {error.message}") from error
            except (RuntimeError, IndexError, ValueError) as error:
                if n_images == sizes[-1]:  # some graphs hold from a number of images on
                    raise InputError(
                        f"model {network.title}: fails on images {tuple(some.shape)}: "
                        f"{reason(error)}"
                    ) from error
    raise AssertionError("no number of images")


def _noise(shape: Sequence[int]) -> Tensor:
    """Return images of noise, from pale to strong, with the range of normalised digits."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(N_PROBE, *shape, generator=generator)
    contrast = torch.linspace(0.25, 1, N_PROBE)[torch.randperm(N_PROBE, generator=generator)]
    images: Tensor = 3.2 * noise * contrast.view(-1, 1, 1, 1) - 0.4
    return images


class _Fields:
    """The fields of the steps' results, and of their arguments that depend on the images."""

    def __init__(self, steps: list[Step], dead: set[Step]) -> None:
        self.results: dict[Step, list[Field]] = {}
        # Norms that are written by hand: their kinds, and the steps inside of them.
        self.norms: dict[Step, str] = {}
        self.inner: set[Step] = set()
        # Those of the steps inside that multiply by stored numbers, by the norm's last step.
        self.factors: dict[Step, tuple[Step, ...]] = {}
        by_hand = find_norms(steps)
        self.inputs: dict[Step, list[tuple[str, Tensor, Field]]] = {}
        for step in steps:
            inputs = [
                (operand.argument, operand.tensor, field)
                for operand in step.operands
                if (field := self._of(operand)) is not None
            ]
            if step in dead or not inputs:
                continue
            self.inputs[step] = inputs
            norm = by_hand.get(step)
            before = None if norm is None else self._of(norm.x)
            if norm is not None and before is not None and (kind := norm_kind(norm, before)):
                self.norms[step] = kind
                self.inner |= norm.inner
                self.factors[step] = norm.factors
                self.results[step] = [before]  # statistics are not counted, as of PyTorch's own
                continue
            if step.op == "getitem":
                self.results[step] = [next(field for _, x, field in inputs if x is step.result)]
            elif step.results:
                call = Call(step.op, step.named, inputs, step.results, step.pointwise)
                self.results[step] = follow(call)

    def _of(self, operand: Operand) -> Field | None:
        """Return the field of an argument, None if it does not depend on the images."""
        shape, field = operand.tensor.shape, self._of_result(operand.step, operand.tensor)
        if operand.writer is not None and operand.writer in self.results:
            (written,) = operand.writer.results[:1]
            part = self.results[operand.writer][0]
            return write_into(field, shape, part, written.shape)
        return field

    def _of_result(self, step: Step, tensor: Tensor) -> Field | None:
        if step.op == "images":
            return start(tensor.shape)
        if step not in self.results:
            return None
        which = next((i for i, result in enumerate(step.results) if result is tensor), 0)
        return self.results[step][which]


class _Rows:
    """Makes the rows of a table of a graph's steps."""

    def __init__(self, network: Exported, graph: Graph, steps: list[Step], dead: set[Step]) -> None:
        self.graph, self.dead = graph, dead
        found, used = _Fields(steps, dead), on_the_way(steps)
        self.fields, self.inputs = found.results, found.inputs
        self.norms, self.inner = found.norms, found.inner
        self.factors = found.factors
        self.steps = [step for step in steps if step in used and step in self.fields]
        self.stored = dict(network.stored())
        self.n_images = next((len(s.result) for s in used if s.op == "images"), 1)
        self.views = find_views(
            self.steps,
            self.inputs,
            {step: self._weights(step) for step in self.steps if step.op in APPLICATIONS},
            self.n_images,
            graph.shape,
        )
        self.layers: list[Layer] = []
        # The rows whose results a step passes on.
        self.sources: dict[Step, tuple[int, ...]] = {}
        # Tensors that a row has counted, by identity: tied ones have several names.
        self.counted: set[int] = set()

    def table(self) -> LayerTable:
        """Return the table."""
        in_norms = {factor for factors in self.factors.values() for factor in factors}
        for step in self.steps:
            before, names = self._before(step), self._parameters(step)
            for factor in self.factors.get(step, ()):
                names |= self._parameters(factor)
            kind = self._kind(step)
            if step not in in_norms and kind is None and any(names.values()):
                if self._belongs(step, before):
                    if step.op == "mul":  # a norm by hand, which had no name of its own
                        named = replace(self.layers[before[0]], name=_name(step, names))
                        self.layers[before[0]] = named
                    self._count(before[0], names)
                else:
                    kind = "other"
            if kind is None:
                self.sources[step] = before
                continue
            self.layers.append(self._layer(step, kind, names, before))
            self._count(len(self.layers) - 1, names)
            self.sources[step] = (len(self.layers) - 1,)
        hidden = sum(step.op in LAYERS for step in self.dead)
        return LayerTable(tuple(self.layers), self.graph.shape, self.graph.training, hidden)

    def _belongs(self, step: Step, before: tuple[int, ...]) -> bool:
        """Return whether a step is the bias of the layer before it, or the factor of a norm."""
        if len(before) != 1 or before[0] < 0 or not _is_bias(step):
            return False
        layer = self.layers[before[0]]
        factor = step.op == "mul" and layer.kind in NORM_KINDS and not layer.parameters
        return step.op in JOINS or factor

    def _before(self, step: Step) -> tuple[int, ...]:
        """Return the rows that lead to a step; -1: the images."""
        found: list[int] = []
        for parent in step.parents:
            found += (-1,) if parent.op == "images" else self.sources.get(parent, ())
        return tuple(dict.fromkeys(found))

    def _parameters(self, step: Step) -> dict[str, int]:
        """Return the stored tensors that a step uses, with the numbers of each that count."""
        statistics = {
            each.step.name
            for each in step.operands
            if step.op in NORMS and each.argument in ("running_mean", "running_var")
        }
        found = {}
        for leaf in leaves(step):
            size = leaf.result.numel() * (2 if leaf.result.is_complex() else 1)
            constant = not isinstance(self.stored[leaf.name], nn.Parameter)
            if leaf.name in statistics or (constant and size <= MAX_CONSTANTS):
                size = 0
            found[leaf.name] = size
        return found

    def _weights(self, step: Step) -> list[int]:
        """Return the stored tensors that a step uses and that count, by identity."""
        return [id(self.stored[name]) for name, size in self._parameters(step).items() if size]

    def _count(self, row: int, names: dict[str, int]) -> None:
        """Add the numbers that no row has counted to a row, or note that it shares them."""
        new = sum(size for name, size in names.items() if id(self.stored[name]) not in self.counted)
        shared = any(size and id(self.stored[name]) in self.counted for name, size in names.items())
        self.counted |= {id(self.stored[name]) for name, size in names.items() if size}
        layer = self.layers[row]
        self.layers[row] = replace(
            layer, parameters=layer.parameters + new, shared=layer.shared or shared
        )

    def _kind(self, step: Step) -> str | None:
        """Return what kind of layer a step is, None if it is none."""
        op, images = step.op, self.inputs[step]
        if step in self.inner:
            return None
        if step in self.norms:
            return self.norms[step]
        simple = (
            (CONVOLUTIONS, "conv"),
            ({"batch_norm", "native_batch_norm", "cudnn_batch_norm"}, "batch norm"),
            ({"layer_norm", "native_layer_norm"}, "layer norm"),
            ({"instance_norm"}, "instance norm"),
            (DROPOUTS, "dropout"),
            (ACTIVATIONS, "activation"),
        )
        for names, kind in simple:
            if op in names:
                return kind
        if op == "group_norm":
            groups = step.named["num_groups"]
            single = {1: "layer norm", step.results[0].shape[1]: "instance norm"}
            return single.get(groups, "group norm")
        if op in MAX_POOLS or (op in ADAPTIVE_POOLS and "max" in op):
            return "max pool"
        if op in AVERAGE_POOLS or op in ADAPTIVE_POOLS or op in AVERAGES:
            # A mean of one number each, such as over the only offset of a pooling grid.
            alone = op in AVERAGES and images[0][1].numel() == step.result.numel()
            if op in AVERAGES and self._weighs(step):
                return "linear"
            return None if alone else self._average(step)
        if (op in EXTREMES and len(images) == 1) or step.named.get("reduce") in ("amax", "amin"):
            return self._extreme(step)
        if op == "einsum" and len(step.operands) == 1:
            return self._average(step)
        if op in PRODUCTS:
            return "linear" if len(images) == 1 else "other"
        if op in ("cat", "stack", "concat"):
            return "concat" if len(images) > 1 else None
        if (dropped := _dropped(step)) is not None and dropped[0]:
            return "dropout"
        if len(images) > 1 and step.pointwise:
            if op in CHOICES:
                return "max pool" if self._is_shifted(step) else "other"
            return "add" if op in JOINS else "other"
        return None if step.pointwise or op in SILENT else "other"

    def _average(self, step: Step) -> str:
        """Return which kind of average a step is: over all positions, over some, or over others."""
        ((_, _, before), *_), after = self.inputs[step], self.fields[step][0]
        if not before.moves or after.reach() >= before.reach():
            return "other"
        return (
            "average pool"
            if after.moves and 2 * after.reach() >= before.reach()
            else "global average pool"
        )

    def _weighs(self, step: Step) -> bool:
        """Return whether a sum is of products with stored numbers: a linear layer by hand.

        A factor for each of its results, such as for each channel, makes it none."""
        source = step.operands[0].step
        while source.op in (SILENT | AVERAGES) - {"copy"} and len(source.operands) == 1:
            source = source.operands[0].step
        return source.op in ("mul", "div") and any(
            each.tensor.numel() * self.n_images > step.result.numel()
            and bool((each.tensor != each.tensor.flatten()[0]).any())
            for each in source.operands
            if not each.from_images and not each.step.random
        )

    def _extreme(self, step: Step) -> str:
        """Return whether the largest of several positions is taken, or of something else."""
        ((_, x, field), *_) = self.inputs[step]
        return "max pool" if field.reach(dims_of(step.named, x.ndim)) else "other"

    def _is_shifted(self, step: Step) -> bool:
        """Return whether operands of a step are maps at different places."""
        places = {
            (field.height.start, field.width.start)
            for _, _, field in self.inputs[step]
            if field.moves
        }
        return len(places) > 1

    def _layer(
        self, step: Step, kind: str, names: dict[str, int], before: tuple[int, ...]
    ) -> Layer:
        result, field = step.results[0], self.fields[step][0]
        kernel: tuple[int, ...] = ()
        stride, dilation, reach, groups, channels = kernel, kernel, kernel, 1, 0
        x = self.inputs[step][0][1]
        if step.op in CONVOLUTIONS | MAX_POOLS | AVERAGE_POOLS:
            options = convolution_options(step.op, step.named)
            kernel, stride, dilation = (options[k] for k in ("kernel", "stride", "dilation"))
            reach = kernel
        if kind == "conv":
            weight, groups = step.named["weight"], step.named.get("groups", 1)
            first = result.ndim - len(kernel)
            channels = x.shape[first - 1]
            if "transpose" not in step.op:
                reach = tuple(
                    high - low + 1
                    for low, high in (
                        taps(
                            weight,
                            2 + i,
                            stride[i],
                            options["padding"][i],
                            dilation[i],
                            (x.shape[first + i], result.shape[first + i]),
                        )
                        for i in range(len(kernel))
                    )
                )
        elif kind == "linear":
            channels = x.shape[-1]
        return Layer(
            kind if step in self.norms and not any(names.values()) else _name(step, names),
            kind,
            field.shape_of_one(result.shape),
            kernel,
            stride,
            dilation,
            groups,
            field.extent,
            field.jump if field.moves else None,
            0,
            self._macs(step) // self.n_images,
            operation=_label(step.op),
            p=_rate(step) if kind == "dropout" else None,
            inputs=before,
            reach=reach,
            channels=channels,
            views=self.views.get(step, 1),
        )

    def _macs(self, step: Step) -> int:
        if step.op == "sum":  # of a product, as matrix products are written by hand
            product = step.operands[0].step
            factors = [each for each in product.operands if each.tensor.ndim]
            if product.op == "mul" and len(factors) == 2:
                return step.operands[0].tensor.numel()
        return step.macs


def _dropped(step: Step) -> tuple[int, int] | None:
    """Return how many activations a step zeroes by a random mask, and the mask's size, if any."""
    if not step.operands:
        return None
    in_place = step.result is step.operands[0].tensor
    tensors = [(each.argument, each.tensor) for each in step.operands]
    return zeroed(step.op + in_place * "_", tensors, step.operands, step.named)


def _rate(dropout: Step) -> float:
    """Return the probability that a dropout states, or the fraction that its mask zeroes."""
    if "p" in dropout.named:
        return float(dropout.named["p"])
    dropped = _dropped(dropout)
    assert dropped is not None  # else it is no dropout
    return dropped[0] / dropped[1]


def _is_bias(step: Step) -> bool:
    """Return whether what a step adds is one number a channel."""
    added = [each.tensor for each in step.operands if not each.from_images]
    return all(sum(side > 1 for side in x.shape) <= 1 for x in added)


def _label(op: str) -> str:
    """Return how an operation is called in a table."""
    return LABELS.get(op, op.lstrip("_")) if not op.startswith("upsample") else "upsample"


def _name(step: Step, names: dict[str, int]) -> str:
    """Return the module whose parameters a step uses, or the parameter, or its operation."""
    if not any(names[name] or not name.startswith(CONSTANT) for name in names):
        return _label(step.op)
    name = max(names, key=lambda each: names[each] > 0)  # the first that counts
    name = name.partition(".parametrizations.")[0] if ".parametrizations." in name else name
    parent, _, leaf = name.rpartition(".")
    return parent if parent and LEAF.fullmatch(leaf) else name
