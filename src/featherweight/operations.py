"""Recognise a head, a batch norm and dropout in recorded operations, also when written by hand.

    head(node, 64, 10)          # ({"gap"}, "mean over (64, 10, 5, 5)"): the output for 64 images
    normalises_batch(node)

trace.py records the operations as `Node`s. Nothing here depends on the names of modules.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

# Operations that rearrange, scale or squash their input. They are no layers: the layer before them
# counts as the last one.
TRANSPARENT = {
    "view",
    "_unsafe_view",
    "reshape",
    "_reshape_alias",
    "squeeze",
    "squeeze_",
    "unsqueeze",
    "unsqueeze_",
    "clone",
    "contiguous",
    "_to_copy",
    "t",
    "transpose",
    "permute",
    "alias",
    "detach",
    "expand",
    "select",
    "slice",
    "unbind",
    "split",
    "split_with_sizes",
    "_log_softmax",
    "_softmax",
    "log",
    "logsumexp",
    "mul",
    "mul_",
    "div",
    "div_",
    "neg",
}
# Operations that sum or join several inputs, each of which is followed.
JOINS = {"add", "add_", "sub", "sub_", "rsub", "cat", "copy_"}
# Operations that make a tensor larger by copying or joining.
COPIES = {"stack", "cat", "repeat", "expand", "constant_pad_nd", "index", "index_select"} | {
    f"upsample_{kind}" for kind in ("nearest1d", "nearest2d", "bilinear2d", "linear1d")
}
# Operations that choose some positions of a map, or give some far more weight.
CHOICES = {"exp", "topk", "sort", "kthvalue", "gather", "take", "masked_select", "unique"}
POOLS = {
    "mean",
    "sum",
    "avg_pool1d",
    "avg_pool2d",
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "_adaptive_avg_pool2d",
}
# The part of a batch norm's divisor that its eps may be, on average: else it only scales.
MAX_EPS_PART = 0.8
PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "linear"}


@dataclass(eq=False)
class Node:
    """One operation of a forward pass."""

    op: str
    "Name of the operation; `stored` for a tensor that existed before the pass, `input` for images."
    parents: list["Node"]
    "The operations that computed its tensor arguments."
    shapes: list[tuple[int, ...]]
    "Shapes of its tensor arguments."
    shape: tuple[int, ...]
    "Shape of its first result."
    from_images: bool
    "Whether its result depends on the images."
    detail: dict[str, Any]
    "More about it: training, eps_part, factors, spreads, kernel, dims, dropped (see `zeroed`)."
    drawn: bool = False
    "Whether its result depends on random numbers and not on the images."
    random: bool = False
    "Whether it draws random numbers itself."


def head(last: Node, n: int, classes: int) -> tuple[set[str], str]:
    """Return the heads of an output (n, classes), "linear", "gap" or "other", and the evidence.

    Reshaping, scaling, bias and softmax after them are skipped. A sum has several.
    """
    ends: list[tuple[str, str]] = []
    seen: set[tuple[Node, bool]] = set()
    todo = [(last, False)]
    while todo:
        node, logged = todo.pop()
        if (node, logged) not in seen:
            seen.add((node, logged))
            # A logarithm and a softmax belong together; either alone is a layer.
            alone = node.op == "_softmax" and not logged
            logged = node.op == "log" or (logged and node.op != "_softmax")
            before = [] if alone else _before(node, n, classes)
            todo += [(each, logged) for each in before]
            if not before:
                what = ("other", f"log of {node.op}") if logged else _layer(node, n * classes)
                ends.append(what)
    found = Counter(ends)
    return (
        {kind for kind, _ in found},
        " + ".join(
            f"{count} times {how}" if count > 1 else how for (_, how), count in found.items()
        ),
    )


class Source(Protocol):
    """What gave a tensor."""

    @property
    def from_images(self) -> bool:
        """Whether it depends on the images."""

    @property
    def drawn(self) -> bool:
        """Whether it depends on random numbers and not on the images."""


def zeroed(
    op: str,
    tensors: Sequence[tuple[str, Tensor]],
    sources: Sequence[Source],
    named: Mapping[str, Any],
) -> tuple[int, int] | None:
    """Return how many activations an operation zeroes by a random mask, and the mask's size.

    Args:
        op: Name of the operation.
        tensors: Its tensor arguments, each with its name.
        sources: What gave them.
        named: All of its arguments by name.

    Returns None for any other operation.
    """
    if len(tensors) != len(sources) or not any(source.from_images for source in sources):
        return None
    for (argument, mask), source in zip(tensors, sources, strict=True):
        if not source.drawn:
            continue
        if op in ("mul", "mul_"):
            zeros = mask == 0
            if op == "mul_" and argument == "self":  # the mask is the product by now
                zeros &= tensors[1][1] != 0
        elif op == "where" and argument == "condition":
            kept = any(
                each.from_images and bool(x.any())  # else it is zero times the activations
                for (side, x), each in zip(tensors, sources, strict=True)
                if side == "self"
            )
            zeros = ~mask if kept else mask
        elif (
            op in ("masked_fill", "masked_fill_")
            and not bool(torch.as_tensor(named["value"]).any())
        ) or (
            op in ("index_put", "index_put_")
            and argument == "indices"
            and not bool(named["values"].any())
        ):
            zeros = mask
        else:
            continue
        return int(zeros.sum()), zeros.numel()
    return None


def copies(node: Node) -> float:
    """Return how many copies of each activation a dropout gets."""
    source = next((parent for parent, _ in _image_sides(node)), node)
    while source.op in TRANSPARENT or source.op in COPIES:
        before = [parent for parent, _ in _image_sides(source)]
        if len(set(before)) != 1:
            break
        source = before[0]
    return math.prod(node.shape) / max(1, math.prod(source.shape))


def unpacked(nodes: list[Node]) -> int:
    """Return how many numbers operations take out of stored ones, beyond those that are stored."""
    stored: dict[Any, int] = {}
    seen: set[Node] = set()
    todo = list(nodes)
    while todo:
        node = todo.pop()
        if node not in seen:
            seen.add(node)
            todo += node.parents
            if node.op == "stored":
                stored[node.detail["key"]] = math.prod(node.shape)
    taken = sum(math.prod(node.shape) for node in nodes)
    return max(0, taken - sum(stored.values())) if stored else 0


def _statistics(node: Node) -> set[Node]:
    """Return the means and variances over a batch from which a tensor is computed.

    The set is empty if the tensor depends on the images in any other way.
    """
    found: set[Node] = set()
    seen: set[Node] = set()
    todo = [node]
    while todo:
        node = todo.pop()
        if node in seen:
            continue
        seen.add(node)
        # Over the images (dimension 0), but not over every dimension: one is that of the channels.
        if (
            0 in node.detail.get("dims", ())
            and len(node.detail["dims"]) < len(node.shapes[0]) > 1
            and node.shapes[0][0] > 1
        ):
            found.add(node)
        elif before := [parent for parent in node.parents if parent.from_images]:
            todo += before
        else:
            return set()
    return found


def _bare(node: Node) -> Node:
    """Return the operation whose result is only rearranged or scaled to give the node's."""
    while node.op in TRANSPARENT:
        sides = [parent for parent in node.parents if parent.from_images]
        if len(sides) != 1:
            break
        node = sides[0]
    return node


def normalises_batch(node: Node) -> bool:
    """Return whether an operation is a batch norm in training mode.

    Either torch's, or (x - mean) / deviation as a quotient or product, where mean and deviation are
    those of x over the batch.
    """
    if "batch_norm" in node.op:
        # torch computes instance norm as a batch norm of one image with many channels.
        several = bool(node.shapes and node.shapes[0][0] > 1)
        divides = bool(node.detail.get("eps_part", torch.zeros(())) <= MAX_EPS_PART)
        return bool(node.detail["training"]) and several and divides
    sides = [parent for parent in node.parents if parent.from_images]
    if node.op not in ("div", "div_", "mul", "mul_") or len(sides) != 2:
        return False
    for numerator, scale in (sides, sides[::-1]) if node.op.startswith("mul") else (sides,):
        centred = _bare(numerator)
        if centred.op not in ("sub", "sub_") or len(centred.parents) != 2:
            continue
        x = _bare(centred.parents[0])
        means = {_bare(statistic.parents[0]) for statistic in _statistics(centred.parents[1])}
        spreads = set()
        for statistic in _statistics(scale):
            of = statistic.parents[0]
            if statistic.op.startswith(("var", "std")):
                spreads.add(_bare(of))
            elif of.op in ("pow", "mul"):  # a mean of squares
                spreads.add(_bare(of.parents[0]))
        if x in means and spreads & {x, centred}:
            return True
    return False


def _image_sides(node: Node) -> list[tuple[Node, tuple[int, ...]]]:
    """Return the arguments of an operation that depend on the images, and their shapes."""
    pairs = zip(node.parents, node.shapes, strict=True)
    return [(parent, shape) for parent, shape in pairs if parent.from_images]


def _copied(node: Node, n_outputs: int) -> list[Node]:
    """Return the tensors of `n_outputs` elements of which a pool averages nothing but copies."""
    found: list[Node] = []
    seen: set[Node] = set()
    todo = [parent for parent, _ in _image_sides(node)]
    while todo:
        node = todo.pop()
        if node in seen:
            continue
        seen.add(node)
        if math.prod(node.shape) <= n_outputs:
            found.append(node)
        elif node.op in TRANSPARENT or node.op in COPIES:
            todo += [parent for parent, _ in _image_sides(node)]
        else:
            return []
    return found


def _before(node: Node, n: int, classes: int) -> list[Node]:
    """Return the inputs to follow from `node` in an output (n, classes); none from a layer."""
    sides = _image_sides(node)
    if node.op in POOLS and (copied := _copied(node, n * classes)):
        return copied
    if node.op in JOINS:
        # Adding the same number to all classes of an image, (n, 1) to (n, classes), leaves the
        # softmax unchanged.
        alike = (n, *[1] * (len(node.shape) - 1)) if math.prod(node.shape) == n * classes else None
        return [parent for parent, shape in sides if shape != alike or node.op in ("cat", "copy_")]
    same_size = bool(node.shapes) and math.prod(node.shapes[0]) == math.prod(node.shape)
    scales = "batch_norm" in node.op and not node.detail["training"]  # each class by itself
    moves = same_size and (node.op in POOLS or node.op in ("as_strided", "as_strided_"))
    passes = node.op in TRANSPARENT or scales or moves
    return [parent for parent, _ in sides] if passes and len(sides) == 1 else []


def _chooses(node: Node) -> bool:
    """Return whether an operation gives positions of a map weights that depend on the map."""
    sizes = [math.prod(shape) for _, shape in _image_sides(node)]
    return node.op in CHOICES or (
        node.op in ("mul", "mul_") and len(sizes) == 2 == sizes.count(max(sizes))
    )


def _weighs(node: Node, n_sums: int) -> bool:
    """Return whether what is summed are products with stored numbers, more than one for each sum.

    A factor for each channel does not make a mean over positions a linear layer."""
    while node.op in TRANSPARENT | {"mean", "sum"}:
        sides = _image_sides(node)
        if any(n * sides[0][1][0] > n_sums for n in node.detail.get("factors", []) if sides):
            return True
        if len(sides) != 1:
            break
        ((node, _),) = sides
    return False


def _layer(node: Node, n_outputs: int) -> tuple[str, str]:
    """Return which head an operation is, "linear", "gap" or "other", and the evidence.

    `n_outputs` is the number of elements of the output."""
    spreads = node.detail.get("spreads", [])
    if spreads and not any(bool(spread) for spread in spreads):
        # A product with equal numbers is a sum.
        start = next((s for p, s in _image_sides(node)), ())
        if len(start) > 1 and math.prod(start) > n_outputs == math.prod(node.shape):
            return "gap", f"{node.op} of {start} with equal weights"
    elif node.op in PRODUCTS:
        # The two factors, without the bias, which is last or first.
        factors = node.parents[:2] if node.op == "linear" else node.parents[-2:]
        if sorted((factor.from_images, _stored(factor)) for factor in factors) == [
            (False, True),
            (True, False),
        ]:
            return "linear", f"{node.op} with stored weights"
    if node.op == "convolution" and math.prod(node.shape[2:]) == 1:
        positions = node.shapes[0][2:]
        covers = all(k >= n for k, n in zip(node.detail["kernel"], positions, strict=True))
        if covers or math.prod(positions) == 1:
            return "linear", f"convolution over the whole {'x'.join(map(str, positions))} map"
    if node.op in POOLS and node.shapes and node.shapes[0]:
        if any(_weighs(parent, math.prod(node.shape)) for parent, _ in _image_sides(node)):
            return "linear", f"{node.op} of products with stored numbers"
        # All positions of a map become one number per class, and there is more than one position.
        start, end = node.shapes[0], [n for n in node.shape if n > 1]
        is_map = len(start) >= 3 or start[0] == n_outputs == math.prod(node.shape)
        chosen = any(_chooses(_bare(parent)) for parent, _ in _image_sides(node))
        if (
            not chosen
            and is_map
            and len(end) <= 2
            and math.prod(start) // max(1, math.prod(node.shape)) > 1
        ):
            return "gap", f"{node.op} over {start}"
    return "other", f"{node.op} with result {node.shape}"


def _stored(node: Node) -> bool:
    """Return whether an operation's result is computed from stored numbers alone."""
    seen, todo = set(), [node]
    while todo:
        node = todo.pop()
        if node.from_images:
            return False
        if node not in seen:
            seen.add(node)
            todo += node.parents
    return any(node.op == "stored" for node in seen)
