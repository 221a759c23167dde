"""What recorded operations amount to: a head, a batch norm, a dropout, whether torch's own or written by hand.

    head(node, 64, 10)          # ({"gap"}, "mean over (64, 10, 5, 5)"), of the last operation on 64 images
    normalises_batch(node)

Nothing here goes by the names of modules; trace.py records the operations, as `Node`s.
"""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Operations that move, scale or squash what they get: the layer before them stands "last".
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
# Operations whose result is as linear in several arguments as each of them is: every one is followed.
JOINS = {"add", "add_", "sub", "sub_", "rsub", "cat", "copy_"}
POOLS = {
    "mean",
    "sum",
    "avg_pool1d",
    "avg_pool2d",
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "_adaptive_avg_pool2d",
}
PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "linear"}


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
    drawn: bool = False
    "Random numbers, or computed from them, and not from the images."


def head(last: Node, n: int, classes: int) -> tuple[set[str], str]:
    """Which of "linear", "gap" and "other" the last operation, whose output is (n, classes), comes from, behind
    reshaping, scaling, bias and softmax, and how that was seen; several where it is a sum of several."""
    ends: list[Node] = []
    seen: set[Node] = set()
    todo = [last]
    while todo:
        node = todo.pop()
        if node not in seen:
            seen.add(node)
            before = _before(node, n, classes)
            todo += before
            ends += [] if before else [node]
    found = Counter(map(_layer, ends))
    return (
        {kind for kind, _ in found},
        " + ".join(
            f"{count} times {how}" if count > 1 else how for (_, how), count in found.items()
        ),
    )


def zeroed(
    op: str, tensors: list[tuple[str, Tensor]], nodes: list[Node], named: dict[str, Any]
) -> tuple[int, int] | None:
    """Of a random mask by which an operation sets some of the images' activations to zero: how many it zeroes, and
    its size. None for another operation."""
    if len(tensors) != len(nodes) or not any(node.from_images for node in nodes):
        return None
    for (argument, mask), node in zip(tensors, nodes, strict=True):
        if not node.drawn:
            continue
        if op in ("mul", "mul_"):
            zeros = mask == 0
            if op == "mul_" and argument == "self":  # the mask is the product by now
                zeros &= tensors[1][1] != 0
        elif op == "where" and argument == "condition":
            kept = next(
                node.from_images
                for (side, _), node in zip(tensors, nodes, strict=True)
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


def _statistics(node: Node) -> set[Node]:
    """The means and variances over a batch that a tensor is computed from; none if it rests on the images by
    another way too."""
    found: set[Node] = set()
    seen: set[Node] = set()
    todo = [node]
    while todo:
        node = todo.pop()
        if node in seen:
            continue
        seen.add(node)
        # Over the images, the first dimension, but not over the channels, whichever dimension they are.
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
    """The operation whose result one only moves or scales."""
    while node.op in TRANSPARENT:
        sides = [parent for parent in node.parents if parent.from_images]
        if len(sides) != 1:
            break
        node = sides[0]
    return node


def normalises_batch(node: Node) -> bool:
    """Whether an operation is a batch norm in training mode: torch's, or the quotient or product of
    (x - mean) / deviation, both those of x over the batch."""
    if "batch_norm" in node.op:
        # Instance norm is a batch norm over one image of many channels: not meant.
        return bool(node.detail["training"] and node.shapes and node.shapes[0][0] > 1)
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


def _before(node: Node, n: int, classes: int) -> list[Node]:
    """The operations whose results one passes on, as part of an output (n, classes): none where it stands last."""
    sides = [
        (parent, shape)
        for parent, shape in zip(node.parents, node.shapes, strict=True)
        if parent.from_images
    ]
    if node.op in JOINS:
        # What is added to all classes of an image alike, (n, 1) to (n, classes), changes no softmax.
        alike = (n, *[1] * (len(node.shape) - 1)) if math.prod(node.shape) == n * classes else None
        return [parent for parent, shape in sides if shape != alike or node.op in ("cat", "copy_")]
    same_size = bool(node.shapes) and math.prod(node.shapes[0]) == math.prod(node.shape)
    scales = "batch_norm" in node.op and not node.detail["training"]  # each class by itself
    moves = same_size and (node.op in POOLS or node.op in ("as_strided", "as_strided_"))
    passes = node.op in TRANSPARENT or scales or moves
    return [parent for parent, _ in sides] if passes and len(sides) == 1 else []


def _layer(node: Node) -> tuple[str, str]:
    """What an operation is as a head, "linear", "gap" or "other", and how that was seen."""
    if node.op in PRODUCTS:
        factors = (
            node.parents[:2] if node.op == "linear" else node.parents[-2:]
        )  # the bias is apart
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
    if node.op in POOLS and node.shapes and len(node.shapes[0]) >= 3:
        # Every position of every map becomes one number a class, more than one position in each.
        start, end = node.shapes[0], [n for n in node.shape if n > 1]
        if len(end) <= 2 and math.prod(start) // max(1, math.prod(node.shape)) > 1:
            return "gap", f"{node.op} over {start}"
    return "other", f"{node.op} with result {node.shape}"


def _stored(node: Node) -> bool:
    """Whether an operation's result is computed from stored numbers alone."""
    seen, todo = set(), [node]
    while todo:
        node = todo.pop()
        if node.from_images:
            return False
        if node not in seen:
            seen.add(node)
            todo += node.parents
    return any(node.op == "stored" for node in seen)
