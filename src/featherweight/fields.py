"""The receptive field of every value of a graph, followed from operation to operation.

    fields = follow("conv2d", named, {"input": start(images.shape)}, [result])

A value has a `Field`: along the height and along the width of the image, how many pixels one of its
elements depends on, and along which of its dimensions that window moves, by how many pixels a step.
So a receptive field survives a reshape to patches or to tokens, a permutation to channels last, and
space-to-depth. It is the theoretical one: it grows beyond the image's border with the padding, and
the means and variances of group, layer and instance norms are left out, as is usual.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from torch import Tensor

# A kernel's column or row whose weights are this small beside its largest is not counted.
MIN_TAP = 1e-6

Part = tuple[tuple[int, float], ...]  # of a dimension: (size, jump in pixels), outer ones first


@dataclass(frozen=True)
class Axis:
    """The receptive field of a value's elements along one side of the image."""

    extent: float
    "Pixels from the first to the last that an element depends on."
    start: float
    "Middle of the first element's pixels."
    parts: tuple[Part, ...]
    "How each dimension moves the pixels; a jump of 0 does not."

    @property
    def moves(self) -> bool:
        """Whether elements differ in the pixels that they depend on."""
        return any(jump for part in self.parts for _, jump in part)

    def reach(self, dims: Iterable[int]) -> float:
        """Return how many pixels the elements along some dimensions are apart, at most."""
        return sum(_reach(self.parts[dim]) for dim in dims)


class Field(NamedTuple):
    """The receptive field of a value: along the height, along the width, and over the images."""

    height: Axis
    width: Axis
    images: Axis

    @property
    def extent(self) -> tuple[int, int]:
        """Height and width in pixels that one element depends on."""
        return math.ceil(self.height.extent), math.ceil(self.width.extent)

    @property
    def jump(self) -> tuple[float, float]:
        """Pixels between neighbours of the map, 0 where there are none."""
        down, right = (
            max(
                (
                    abs(jump)
                    for part, images in zip(axis.parts, self.images.parts, strict=True)
                    if not _reach(images)
                    for _, jump in part
                ),
                default=0.0,
            )
            for axis in self[:2]
        )
        return down, right

    @property
    def moves(self) -> bool:
        """Whether elements of one image differ in the pixels that they depend on."""
        return any(self.jump)

    def reach(self, dims: Iterable[int] | None = None) -> float:
        """Return how many pixels the elements along some or all dimensions are apart."""
        dims = range(len(self.height.parts)) if dims is None else list(dims)
        return self.height.reach(dims) + self.width.reach(dims)

    def shape_of_one(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return a value's shape for one image."""
        sizes = []
        for size, part in zip(shape, self.images.parts, strict=True):
            n_images = math.prod(count for count, jump in part if jump)
            if n_images == 1 or size > n_images:
                sizes.append(size // n_images)
        return tuple(sizes)


def start(shape: Sequence[int]) -> Field:
    """Return the field of the images, shape (n, channels, height, width)."""
    axes = []
    for moving in (2, 3, 0):
        parts: list[Part] = [((size, float(dim == moving)),) for dim, size in enumerate(shape)]
        axes.append(Axis(1, 0, _tidy(parts)))
    return Field(*axes)


def _reach(part: Part) -> float:
    return sum((size - 1) * abs(jump) for size, jump in part)


def _size(part: Part) -> int:
    return math.prod(size for size, _ in part)


def _tidy(parts: Sequence[Part]) -> tuple[Part, ...]:
    """Drop what has one element, and merge what moves as one."""
    tidied = []
    for part in parts:
        found: list[tuple[int, float]] = []
        for size, jump in part:
            if size == 1:
                continue
            if found and math.isclose(found[-1][1], size * jump, abs_tol=1e-9):
                found[-1] = (found[-1][0] * size, jump)
            else:
                found.append((size, jump))
        tidied.append(tuple(found))
    return tuple(tidied)


def _plain(size: int) -> Part:
    return ((size, 0.0),)


def _reshape(axis: Axis, shape: Sequence[int]) -> Axis:
    """Split and merge dimensions, in the order of memory."""
    left = [factor for part in axis.parts for factor in part if factor[0] > 1]
    parts: list[Part] = []
    for size in shape:
        part: list[tuple[int, float]] = []
        while size > 1:
            if not left:
                return _lose(axis, shape)
            length, jump = left.pop(0)
            if size % length == 0:
                part.append((length, jump))
                size //= length
            elif length % size == 0:
                inner = length // size
                part.append((size, jump * inner))
                left.insert(0, (inner, jump))
                size = 1
            else:
                return _lose(axis, shape)
        parts.append(tuple(part))
    return _lose(axis, shape) if left else replace(axis, parts=_tidy(parts))


def _lose(axis: Axis, shape: Sequence[int]) -> Axis:
    """Return the field of elements that depend on all that the value depends on."""
    reach = axis.reach(range(len(axis.parts)))
    return Axis(
        axis.extent + reach, axis.start + reach / 2, _tidy([_plain(size) for size in shape])
    )


def _reduce(axis: Axis, dims: Sequence[int], shape: Sequence[int]) -> Axis:
    """Join all elements along some dimensions, which may stay with any size."""
    reach = axis.reach(dims)
    parts: list[Part] = [part for dim, part in enumerate(axis.parts) if dim not in dims]
    if len(shape) == len(axis.parts):
        parts = [_plain(shape[dim]) if dim in dims else part for dim, part in enumerate(axis.parts)]
    return Axis(axis.extent + reach, axis.start + reach / 2, _tidy(parts))


def _window(
    axis: Axis, dim: int, size: int, taps: tuple[int, int], stride: float, pad: float, dilation: int
) -> Axis:
    """Slide a window along a dimension; `taps` are the first and last that count."""
    part, (low, high) = axis.parts[dim], taps
    if len(part) == 1:
        jump = part[0][1]
        axis = replace(
            axis,
            extent=axis.extent + (high - low) * dilation * abs(jump),
            start=axis.start + ((low + high) / 2 * dilation - pad) * jump,
        )
        new: Part = ((size, jump * stride),)
    else:  # what a window over tokens sees depends on their order
        reach = _reach(part)
        axis = replace(axis, extent=axis.extent + (reach if high > low else 0))
        new = ((size, reach / max(1, size - 1)),)
    return replace(axis, parts=_tidy([*axis.parts[:dim], new, *axis.parts[dim + 1 :]]))


def _broadcast(axis: Axis, rank: int) -> Axis:
    return replace(axis, parts=((),) * (rank - len(axis.parts)) + axis.parts)


def _join(axes: Sequence[Axis], shape: Sequence[int]) -> Axis:
    """Combine elements of several values at the same position, with broadcasting."""
    axes = [_broadcast(axis, len(shape)) for axis in axes]
    placed = [axis for axis in axes if axis.moves]
    extent = max(axis.extent for axis in axes)
    first = (placed or axes)[0]
    begin = first.start
    if placed and all(axis.parts == first.parts for axis in placed):
        low = min(axis.start - axis.extent / 2 for axis in placed)
        high = max(axis.start + axis.extent / 2 for axis in placed)
        extent, begin = max(extent, high - low), (low + high) / 2
    parts = []
    for dim, size in enumerate(shape):
        part = max((axis.parts[dim] for axis in axes), key=_reach)
        parts.append(part if _reach(part) else _plain(size))
    return Axis(extent, begin, _tidy(parts))


def _contract(
    axes: Sequence[tuple[Axis, Sequence[Any]]], labels: Sequence[Any], shape: Sequence[int]
) -> Axis:
    """Multiply and sum, as an einsum whose operands and result have dimensions with labels."""
    moved = []
    for axis, names in axes:
        gone = [dim for dim, name in enumerate(names) if name not in labels]
        reach = axis.reach(gone)
        part = {name: axis.parts[dim] for dim, name in enumerate(names)}
        moved.append(
            Axis(
                axis.extent + reach,
                axis.start + reach / 2,
                tuple(part.get(name, ()) for name in labels),
            )
        )
    return _join(moved, shape)


def taps(
    weight: Tensor, dim: int, stride: int, pad: int, dilation: int, sizes: tuple[int, int]
) -> tuple[int, int]:
    """Return the first and the last place of a kernel that can change a convolution's output.

    Left out are places at its border whose weights are all zero, and places that see padding alone.

    Args:
        weight: The kernel, shape (outputs, inputs, ...).
        dim: Its dimension.
        stride, pad, dilation: Of the convolution in this direction.
        sizes: Input and output size of the map in this direction.
    """
    others = [each for each in range(weight.ndim) if each != dim]
    size = weight.detach().abs().amax(others)
    counts = (size > MIN_TAP * size.max()).tolist()
    before, after = sizes
    places = [
        i
        for i in range(len(counts))
        if counts[i]
        and (after - 1) * stride + i * dilation - pad >= 0
        and i * dilation - pad < before
    ]
    return (places[0], places[-1]) if places else (0, 0)


def each(value: Any, dim: int, count: int) -> int:
    """Return an option such as a stride in one of `count` directions."""
    if isinstance(value, int):
        return value
    return int(value[dim] if len(value) == count else value[0])


def convolution_options(name: str, named: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return kernel, stride, padding and dilation of a convolution or pool, one a direction."""
    weight = named.get("weight")
    if isinstance(weight, Tensor):
        kernel = tuple(weight.shape[2:])
    else:
        size = named["kernel_size"]
        count = next((int(c) for c in name if c.isdigit()), 2)
        kernel = tuple(each(size, dim, count) for dim in range(count))
    count = len(kernel)

    def option(key: str, default: Any) -> tuple[int, ...]:
        value = named.get(key)
        value = default if value is None or value == [] else value
        return tuple(each(value, dim, count) for dim in range(count))

    dilation = option("dilation", 1)
    padding = named.get("padding", 0)
    if isinstance(padding, str):
        full = [step * (size - 1) // 2 for step, size in zip(dilation, kernel, strict=True)]
        pads = tuple(full) if padding == "same" else (0,) * count
    else:
        pads = option("padding", 0)
    stride = option("stride", 1 if isinstance(weight, Tensor) else kernel)
    return {"kernel": kernel, "stride": stride, "padding": pads, "dilation": dilation}


def _slide(name: str, axis: Axis, named: Mapping[str, Any], x: Tensor, result: Tensor) -> Axis:
    """Follow a convolution or a pool."""
    options = convolution_options(name, named)
    weight, count = named.get("weight"), len(options["kernel"])
    first = result.ndim - count  # the first dimension of the map
    transposed = "transpose" in name or named.get("transposed") is True
    for i in range(count):
        kernel, stride, pad, dilation = (
            options[key][i] for key in ("kernel", "stride", "padding", "dilation")
        )
        dim = first + i
        if transposed:
            whole = dilation * (kernel - 1) + 1
            span = -(-whole // stride) - 1  # inputs that meet in an output
            shift = (pad - (whole - 1) / 2) / stride
            axis = _window(axis, dim, result.shape[dim], (0, span), 1 / stride, span / 2 - shift, 1)
        else:
            found = (0, kernel - 1)
            if isinstance(weight, Tensor):
                sizes = x.shape[dim], result.shape[dim]
                found = taps(weight, 2 + i, stride, pad, dilation, sizes)
            axis = _window(axis, dim, result.shape[dim], found, stride, pad, dilation)
    if isinstance(weight, Tensor):
        channels, size = first - 1, result.shape[first - 1]
        if named.get("groups", 1) != x.shape[channels] or transposed:
            axis = _reduce(axis, [channels], result.shape)
        elif x.shape[channels] != size:  # of each channel, several
            parts = list(axis.parts)
            parts[channels] = (*parts[channels], (size // x.shape[channels], 0.0))
            axis = replace(axis, parts=_tidy(parts))
    return axis


def _adapt(axis: Axis, x: Tensor, result: Tensor, count: int) -> Axis:
    """Follow an adaptive pool."""
    for dim in range(result.ndim - count, result.ndim):
        before, after = x.shape[dim], result.shape[dim]
        size = max(
            -(-(i + 1) * before // after) - i * before // after for i in range(max(1, after))
        )
        axis = _window(axis, dim, after, (0, size - 1), before / after, 0, 1)
    return axis


def _resize(name: str, axis: Axis, x: Tensor, result: Tensor) -> Axis:
    """Follow an upsampling."""
    reads = 3 if "cubic" in name else 0 if "nearest" in name else 1  # neighbours
    for dim in range(2, result.ndim):
        before, after = x.shape[dim], result.shape[dim]
        if before != after:
            scale = after / before
            pad = reads / 2 + (1 - 1 / scale) / 2
            axis = _window(axis, dim, after, (0, reads), 1 / scale, pad, 1)
    return axis


def _cut(axis: Axis, dim: int, begin: int, step: int, size: int) -> Axis:
    """Take some elements along a dimension."""
    part = axis.parts[dim]
    if len(part) == 1:
        jump = part[0][1]
        new: Part = ((size, jump * step),)
        axis = replace(axis, start=axis.start + begin * jump)
    elif size == _size(part):
        new = part
    else:
        new = ((size, _reach(part) / max(1, size - 1)),)
    return replace(axis, parts=_tidy([*axis.parts[:dim], new, *axis.parts[dim + 1 :]]))


def _concatenate(axes: Sequence[Axis], dim: int, shape: Sequence[int]) -> Axis:
    """Join values along a dimension."""
    starts = [axis.start for axis in axes]
    longest = max(axes, key=lambda axis: (axis.moves, axis.extent))
    apart = (max(starts) - min(starts)) / max(1, len(axes) - 1) if longest.moves else 0.0
    part = longest.parts[dim]
    if len(part) == 1 and part[0][1]:  # one beside the other
        new: Part = ((shape[dim], part[0][1]),)
    elif apart and shape[dim] % len(axes) == 0:  # shifted copies
        new = ((len(axes), apart), *(part or _plain(shape[dim] // len(axes))))
    else:
        new = _plain(shape[dim])
    parts = tuple(
        max((axis.parts[each] for axis in axes), key=_reach) for each in range(len(longest.parts))
    )
    extent = max(axis.extent for axis in axes)
    begin = min(starts) if longest.moves else longest.start
    return Axis(extent, begin, _tidy([*parts[:dim], new, *parts[dim + 1 :]]))


# Operations that leave the elements in their order.
RESHAPES = {"view", "_unsafe_view", "reshape", "_reshape_alias", "view_as", "reshape_as"} | {
    *("flatten", "unflatten", "squeeze", "unsqueeze", "ravel"),
    *("contiguous", "clone", "detach", "alias", "to", "_to_copy", "type_as", "lift_fresh"),
    *("detach_copy", "float", "double", "half"),
}
ORDERS = {"permute", "transpose", "t", "movedim", "moveaxis", "swapaxes", "swapdims", "numpy_T"}
CUTS = {"select", "slice", "narrow", "split", "split_with_sizes", "chunk", "tensor_split", "unbind"}
COPIES = {"expand", "expand_as", "repeat", "tile", "broadcast_to"}
PADS = {"pad", "constant_pad_nd"} | {
    f"{kind}_pad{n}d" for kind in ("reflection", "replication") for n in (1, 2, 3)
}
CONVOLUTIONS = {"convolution", "_convolution"} | {
    f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3)
}
MAX_POOLS = {f"max_pool{n}d" for n in (1, 2, 3)} | {f"max_pool{n}d_with_indices" for n in (1, 2, 3)}
AVERAGE_POOLS = {f"avg_pool{n}d" for n in (1, 2, 3)}
ADAPTIVE_POOLS = {
    f"{under}adaptive_{kind}_pool{n}d"
    for under in ("", "_")
    for kind in ("max", "avg")
    for n in (1, 2, 3)
}
FACTORS = {  # of a product, with the labels of their last dimensions
    "linear": {"input": "k", "weight": "nk"},
    "matmul": {"self": "mk", "other": "kn"},
    "mm": {"self": "mk", "mat2": "kn"},
    "bmm": {"self": "mk", "mat2": "kn"},
    "addmm": {"mat1": "mk", "mat2": "kn"},
    "baddbmm": {"batch1": "mk", "batch2": "kn"},
    "mv": {"self": "mk", "vec": "k"},
    "scaled_dot_product_attention": {"query": "mk", "key": "sk", "value": "sn"},
}
NORMS = {"batch_norm", "group_norm", "layer_norm", "instance_norm", "rms_norm"} | {
    *("native_batch_norm", "native_group_norm", "native_layer_norm", "cudnn_batch_norm"),
    *("_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "_fused_rms_norm"),
}


def dims_of(named: Mapping[str, Any], rank: int) -> list[int]:
    """Return the dimensions that an operation names; all of them if it names none."""
    value = next((named[key] for key in ("dim", "dims", "axis") if key in named), None)
    if value is None or value == []:
        return list(range(rank))
    given = [value] if isinstance(value, int) else value
    return [dim % max(1, rank) for dim in given]


def follow(
    name: str,
    named: Mapping[str, Any],
    fields: Mapping[str, Sequence[tuple[Tensor, Field]]],
    results: Sequence[Tensor],
    pointwise: bool = False,
) -> list[Field]:
    """Return the fields of an operation's results.

    Args:
        name: Its name, such as `conv2d`.
        named: All of its arguments by name.
        fields: The tensor arguments that depend on the images, by name, with their fields.
        results: Its results.
        pointwise: Whether it takes element by element.
    """
    found = []
    for number, result in enumerate(results):
        axes = [
            _follow_axis(name, named, fields, result, number, results, side, pointwise)
            for side in range(3)
        ]
        found.append(Field(*axes))
    return found


def _follow_axis(
    name: str,
    named: Mapping[str, Any],
    fields: Mapping[str, Sequence[tuple[Tensor, Field]]],
    result: Tensor,
    number: int,
    results: Sequence[Tensor],
    side: int,
    pointwise: bool,
) -> Axis:
    operands = [(x, field[side]) for pairs in fields.values() for x, field in pairs]
    x, axis = operands[0]
    shape = tuple(result.shape)
    if name in FACTORS or name == "einsum":
        return _product(name, named, fields, result, side)
    if name in CONVOLUTIONS and "weight" not in fields:
        return _slide(name, axis, named, x, result)
    if name in MAX_POOLS or name in AVERAGE_POOLS:
        return _slide(name, axis, named, x, result)
    if name in ADAPTIVE_POOLS:
        return _adapt(axis, x, result, int(name[-2]))
    if name.startswith("upsample_"):
        return _resize(name, axis, x, result)
    if name in NORMS:
        return replace(axis, parts=axis.parts) if shape == tuple(x.shape) else _lose(axis, shape)
    if name in ("cat", "concat", "concatenate"):
        return _concatenate([a for _, a in operands], named.get("dim", 0) % len(shape), shape)
    if name == "stack":
        dim = named.get("dim", 0) % len(shape)
        grown = [replace(a, parts=(*a.parts[:dim], (), *a.parts[dim:])) for _, a in operands]
        return _concatenate(grown, dim, shape)
    if len(operands) == 1 and name in RESHAPES | ORDERS | CUTS | COPIES | PADS | MOVES:
        return _move(name, named, x, axis, result, number, results)
    if pointwise or name in ("copy", "dropout", "feature_dropout", "alpha_dropout"):
        return _join([a for _, a in operands], shape)
    if len(operands) == 1:
        return _reduced(named, x, axis, shape)
    wide = [_lose(a, shape) for _, a in operands]
    return max(wide, key=lambda each: each.extent)


def _reduced(named: Mapping[str, Any], x: Tensor, axis: Axis, shape: tuple[int, ...]) -> Axis:
    """Follow a reduction, or anything else that takes one value."""
    dims = dims_of(named, x.ndim)
    named_dims = any(named.get(key) not in (None, []) for key in ("dim", "dims", "axis"))
    kept = x.ndim - len(dims)
    if named_dims and len(shape) in (x.ndim, kept):
        return _reduce(axis, dims, shape)
    if shape == tuple(x.shape):
        return axis
    return _lose(axis, shape)


def _product(
    name: str,
    named: Mapping[str, Any],
    fields: Mapping[str, Sequence[tuple[Tensor, Field]]],
    result: Tensor,
    side: int,
) -> Axis:
    """Follow a product of matrices."""
    shape = tuple(result.shape)
    if name == "einsum":
        equation = named["equation"].replace(" ", "")
        sides, arrow, places = equation.partition("->")
        if "." in equation or not arrow:
            wide = [_lose(f[side], shape) for pairs in fields.values() for _, f in pairs]
            return max(wide, key=lambda axis: axis.extent)
        names = sides.split(",")
        operands = [
            (f[side], names[i])
            for i, tensor in enumerate(named["tensors"])
            for pairs in fields.values()
            for x, f in pairs
            if x is tensor
        ]
        return _contract(operands, places, shape)
    factors, axes = FACTORS[name], []
    sizes = [named[key].ndim for key in factors if isinstance(named.get(key), Tensor)]
    rank = max(len(shape), *sizes)
    for key, last in factors.items():
        for x, field in fields.get(key, ()):
            label = last if x.ndim > 1 else "k"
            front = [i - x.ndim for i in range(x.ndim - len(label))]
            axes.append((field[side], [*front, *label]))
    if not axes:  # the summand of a product
        pairs = next(iter(fields.values()))
        return _join([f[side] for _, f in pairs], shape)
    labels: list[Any]
    if name == "linear":
        labels = [*[i - len(shape) for i in range(len(shape) - 1)], "n"]
    else:
        ends = [
            letter
            for letter, key in (("m", next(iter(factors))), ("n", list(factors)[-1]))
            if named[key].ndim > 1 or name == "mv"
        ]
        ends = ["m"] if name == "mv" else ends
        labels = [*[i - rank for i in range(len(shape) - len(ends))], *ends]
    return _contract(axes, labels, shape)


MOVES = {"unfold", "im2col", "pixel_shuffle", "pixel_unshuffle", "roll", "flip", "index"} | {
    *("index_select", "getitem", "diagonal", "as_strided"),
}


def _move(
    name: str,
    named: Mapping[str, Any],
    x: Tensor,
    axis: Axis,
    result: Tensor,
    number: int,
    results: Sequence[Tensor],
) -> Axis:
    """Follow an operation that only takes elements elsewhere."""
    shape = tuple(result.shape)
    if name in RESHAPES:
        return _reshape(axis, shape)
    if name in ORDERS:
        return replace(axis, parts=tuple(axis.parts[dim] for dim in _order(name, named, x.ndim)))
    if name in CUTS:
        return _take(name, named, x, axis, number, results)
    if name in COPIES:
        rank, before = len(shape), _broadcast(axis, len(shape)).parts
        sizes = (1,) * (rank - x.ndim) + tuple(x.shape)
        parts: list[Part] = [
            (*(((shape[dim] // sizes[dim]), 0.0),), *before[dim]) for dim in range(rank)
        ]
        return replace(axis, parts=_tidy(parts))
    if name in PADS:
        pads = named["pad"] if "pad" in named else named["padding"]
        for i in range(len(pads) // 2):
            dim = x.ndim - 1 - i
            axis = _cut(axis, dim, -int(pads[2 * i]), 1, shape[dim])
        return axis
    if name == "unfold":
        dim = named["dimension"] % x.ndim
        jump = axis.parts[dim][0][1] if len(axis.parts[dim]) == 1 else 0.0
        parts = [*axis.parts, ((named["size"], jump),)]
        parts[dim] = ((shape[dim], jump * named["step"]),)
        return replace(axis, parts=_tidy(parts))
    if name == "im2col":
        return _columns(named, x, axis, shape)
    if name in ("pixel_shuffle", "pixel_unshuffle"):
        return _shuffle(name, named, x, axis, shape)
    if name in ("roll", "flip"):
        shifts = named.get("shifts", [0])
        for dim, shift in zip(dims_of(named, x.ndim), shifts * x.ndim, strict=False):
            if len(axis.parts[dim]) == 1:
                axis = replace(axis, start=axis.start - shift * axis.parts[dim][0][1])
        return axis
    if name in ("index_select", "index") and len(shape) == x.ndim:
        for dim in range(x.ndim):
            if shape[dim] != x.shape[dim]:
                axis = _cut(axis, dim, 0, 1, shape[dim])
        return axis
    return _lose(axis, shape)


def _order(name: str, named: Mapping[str, Any], rank: int) -> list[int]:
    """Return which dimension comes to each place."""
    order = list(range(rank))
    if name == "permute":
        return [dim % rank for dim in named["dims"]]
    if name in ("t", "numpy_T"):
        return order[::-1]
    if name in ("movedim", "moveaxis"):
        source, target = named["source"], named["destination"]
        sources = [dim % rank for dim in ([source] if isinstance(source, int) else source)]
        targets = [dim % rank for dim in ([target] if isinstance(target, int) else target)]
        order = [dim for dim in order if dim not in sources]
        for place, dim in sorted(zip(targets, sources, strict=True)):
            order.insert(place, dim)
        return order
    pair = [value for key, value in named.items() if key.startswith(("dim", "axis"))]
    one, other = (dim % rank for dim in pair)
    order[one], order[other] = order[other], order[one]
    return order


def _take(
    name: str,
    named: Mapping[str, Any],
    x: Tensor,
    axis: Axis,
    number: int,
    results: Sequence[Tensor],
) -> Axis:
    """Follow an operation that takes a part of a dimension."""
    dim = named.get("dim", 0) % x.ndim
    if name in ("select", "unbind"):
        index = number if name == "unbind" else named["index"] % x.shape[dim]
        cut = _cut(axis, dim, index, 1, 1)
        return replace(cut, parts=(*cut.parts[:dim], *cut.parts[dim + 1 :]))
    size, step = results[number].shape[dim], 1
    if name == "slice":
        begin, step = named.get("start") or 0, named.get("step", 1)
        begin = max(0, begin + x.shape[dim]) if begin < 0 else min(begin, x.shape[dim])
    elif name == "narrow":
        begin = named["start"] if isinstance(named["start"], int) else 0
    else:
        begin = sum(results[i].shape[dim] for i in range(number))
    return _cut(axis, dim, begin, step, size)


def _columns(named: Mapping[str, Any], x: Tensor, axis: Axis, shape: tuple[int, ...]) -> Axis:
    """Follow an unfold to columns: (n, c, h, w) -> (n, c * kernel, positions)."""
    windows: list[tuple[int, float]] = []
    places: list[tuple[int, float]] = []
    begin = axis.start
    for i, dim in enumerate((x.ndim - 2, x.ndim - 1)):
        size, dilation, pad, stride = (
            each(named[key], i, 2) for key in ("kernel_size", "dilation", "padding", "stride")
        )
        jump = axis.parts[dim][0][1] if len(axis.parts[dim]) == 1 else 0.0
        windows.append((size, jump * dilation))
        n = (x.shape[dim] + 2 * pad - dilation * (size - 1) - 1) // stride + 1
        places.append((n, jump * stride))
        begin -= pad * jump
    channels = axis.parts[1] if x.ndim == 4 else axis.parts[0]
    parts: list[Part] = [(*channels, *windows), tuple(places)]
    front = list(axis.parts[:1]) if x.ndim == 4 else []
    return Axis(axis.extent, begin, _tidy([*front, *parts]))


def _shuffle(
    name: str, named: Mapping[str, Any], x: Tensor, axis: Axis, shape: tuple[int, ...]
) -> Axis:
    """Follow a pixel shuffle, or its inverse."""
    n, channels, height, width = x.shape
    if name == "pixel_unshuffle":
        r = named["downscale_factor"]
        split = _reshape(axis, (n, channels, height // r, r, width // r, r))
        order = (0, 1, 3, 5, 2, 4)
        return _reshape(replace(split, parts=tuple(split.parts[dim] for dim in order)), shape)
    r = named["upscale_factor"]
    # Channels of one place become neighbours, each of which depends on as much.
    reach, parts = axis.reach([1]), [axis.parts[0], _plain(shape[1])]
    for dim in (2, 3):
        jump = axis.parts[dim][0][1] / r if len(axis.parts[dim]) == 1 else 0.0
        parts.append(((shape[dim], jump),))
    return Axis(axis.extent + reach, axis.start + reach / 2, _tidy(parts))
