"""What each of PyTorch's operations does to the receptive field of its arguments.

    follow(Call("relu", {}, [("self", images, start(images.shape))], [images], pointwise=True))

The means and variances of group, layer and instance norms are left out, as is usual; an operation
that is not known is taken to see all that its arguments see.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from .fields import Axis, Field, Part, concatenate, contract, join, plain, tidy

# A kernel's column or row whose weights are this small beside its largest is not counted.
MIN_TAP = 1e-6

# Operations that leave the elements in their order.
RESHAPES = {"view", "_unsafe_view", "reshape", "_reshape_alias", "view_as", "reshape_as"} | {
    *("flatten", "unflatten", "squeeze", "unsqueeze", "ravel"),
    *("contiguous", "clone", "detach", "alias", "to", "_to_copy", "type_as", "lift_fresh"),
    *("detach_copy", "float", "double", "half"),
}
ORDERS = {"permute", "transpose", "t", "movedim", "moveaxis", "swapaxes", "swapdims", "numpy_T"} | {
    *("mT", "mH", "adjoint", "matrix_H"),
}
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
SAMPLERS = {"grid_sampler", "grid_sampler_2d", "grid_sampler_3d"}
# By the number of an interpolation (bilinear, nearest, bicubic): neighbours that a sample reads.
SAMPLERS_READ = {0: 1, 1: 0, 2: 3}
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
MOVES = {"unfold", "im2col", "pixel_shuffle", "pixel_unshuffle", "roll", "flip", "index"} | {
    *("index_select", "getitem", "diagonal", "as_strided"),
}


def dims_of(named: Mapping[str, Any], rank: int) -> list[int]:
    """Return the dimensions that an operation names; all of them if it names none."""
    value = next((named[key] for key in ("dim", "dims", "axis") if key in named), None)
    if value is None or value == []:
        return list(range(rank))
    given = [value] if isinstance(value, int) else value
    return [dim % max(1, rank) for dim in given]


@dataclass(frozen=True)
class Call:
    """An operation with its arguments and results."""

    name: str
    "Its name without overload, such as `conv2d`."
    named: Mapping[str, Any]
    "All of its arguments by name, with tensors."
    operands: Sequence[tuple[str, Tensor, Field]]
    "Its tensor arguments that depend on the images: name, value and field."
    results: Sequence[Tensor]
    "Its results."
    pointwise: bool = False
    "Whether it takes element by element."

    def axes(self, side: int) -> list[Axis]:
        """Return one axis of each operand's field."""
        return [field[side] for _, _, field in self.operands]


def follow(call: Call) -> list[Field]:
    """Return the fields of an operation's results."""
    return [
        Field(*(_follow_axis(call, side, number) for side in range(3)))
        for number in range(len(call.results))
    ]


def _follow_axis(call: Call, side: int, number: int) -> Axis:
    """Return one axis of the field of a result."""
    name, named, result, axes = call.name, call.named, call.results[number], call.axes(side)
    (argument, x, _), axis, shape = call.operands[0], axes[0], tuple(result.shape)
    if name in FACTORS:
        return _product(call, side, shape)
    if name == "einsum":
        return _einsum(call, side, shape)
    if name in CONVOLUTIONS and argument == "input" and len(axes) == 1:
        return _slide(name, axis, named, x, result)
    if name in MAX_POOLS | AVERAGE_POOLS:
        return _slide(name, axis, named, x, result)
    if name in ADAPTIVE_POOLS:
        return _adapt(axis, x, result, int(name[-2]))
    if name.startswith("upsample_"):
        return _resize(name, axis, x, result)
    if name in SAMPLERS and argument == "input" and len(axes) == 1:
        return _sample(axis, x, result, SAMPLERS_READ[named["interpolation_mode"]])
    if name in NORMS:
        return axis if shape == tuple(x.shape) else axis.lose(shape)
    if name in ("cat", "concat", "concatenate"):
        dim = named.get("dim", 0) % len(shape)
        among_images = any(field.images.reach([dim]) for _, _, field in call.operands)
        return concatenate(axes, dim, shape, among_images)
    if name == "stack":
        dim = named.get("dim", 0) % len(shape)
        grown = [replace(each, parts=(*each.parts[:dim], (), *each.parts[dim:])) for each in axes]
        return concatenate(grown, dim, shape, False)
    if len(axes) == 1 and name in RESHAPES | ORDERS | CUTS | COPIES | PADS | MOVES:
        return _move(call, axis, number)
    if call.pointwise or name in ("copy", "dropout", "feature_dropout", "alpha_dropout"):
        return join(axes, shape)
    if len(axes) == 1:
        return _reduced(named, x, axis, shape)
    if side == 2 and len(shape) == x.ndim:  # as far as one can tell, images stay apart
        pairs = zip(axis.parts, shape, x.shape, strict=True)
        return replace(axis, parts=tidy([part if n == m else plain(n) for part, n, m in pairs]))
    return max((each.lose(shape) for each in axes), key=lambda each: each.extent)


def _reduced(named: Mapping[str, Any], x: Tensor, axis: Axis, shape: tuple[int, ...]) -> Axis:
    """Follow a reduction, or anything else that takes one value."""
    dims = dims_of(named, x.ndim)
    named_dims = any(named.get(key) not in (None, []) for key in ("dim", "dims", "axis"))
    if named_dims and len(shape) in (x.ndim, x.ndim - len(dims)):
        return axis.reduce(dims, shape)
    return axis if shape == tuple(x.shape) else axis.lose(shape)


def _einsum(call: Call, side: int, shape: tuple[int, ...]) -> Axis:
    sides, arrow, places = call.named["equation"].replace(" ", "").partition("->")
    if "." in sides or not arrow:
        return max((axis.lose(shape) for axis in call.axes(side)), key=lambda axis: axis.extent)
    operands = [
        (field[side], names)
        for tensor, names in zip(call.named["tensors"], sides.split(","), strict=True)
        for _, x, field in call.operands
        if x is tensor
    ]
    return contract(operands, places, shape)


def _product(call: Call, side: int, shape: tuple[int, ...]) -> Axis:
    """Follow a product of matrices: dimensions before the last two are counted from the end."""
    factors, named, axes = FACTORS[call.name], call.named, []
    for key, x, field in call.operands:
        if key in factors:
            last = factors[key] if x.ndim > 1 else "k"
            axes.append((field[side], [*range(-x.ndim, -len(last)), *last]))
    if not axes:  # the summand of a product
        return join(call.axes(side), shape)
    first, *_, final = factors
    rank = max(len(shape), named[first].ndim, named[final].ndim)
    if call.name == "linear":
        ends = ["n"]
    elif call.name == "mv":
        ends = ["m"]
    else:
        ends = [letter for letter, key in (("m", first), ("n", final)) if named[key].ndim > 1]
    front = range(-rank, len(shape) - len(ends) - rank)
    return contract(axes, [*front, *ends], shape)


def _move(call: Call, axis: Axis, number: int) -> Axis:
    """Follow an operation that only takes elements elsewhere."""
    name, named, x, shape = (
        call.name,
        call.named,
        call.operands[0][1],
        tuple(call.results[number].shape),
    )
    if name in RESHAPES:
        return axis.reshape(shape)
    if name in ORDERS:
        return axis.order(_order(name, named, x.ndim))
    if name in CUTS:
        return _take(call, axis, number)
    if name in COPIES:
        sizes = (1,) * (len(shape) - x.ndim) + tuple(x.shape)
        before = axis.broadcast(len(shape)).parts
        pairs = zip(shape, sizes, before, strict=True)
        return replace(axis, parts=tidy([(*plain(n // m), *part) for n, m, part in pairs]))
    if name in PADS:
        pads = named["pad"] if "pad" in named else named["padding"]
        for i in range(len(pads) // 2):
            dim = x.ndim - 1 - i
            axis = axis.cut(dim, -int(pads[2 * i]), 1, shape[dim])
        return axis
    if name == "unfold":
        dim = named["dimension"] % x.ndim
        jump = _jump(axis, dim)
        parts: list[Part] = [*axis.parts, ((named["size"], jump),)]
        parts[dim] = ((shape[dim], jump * named["step"]),)
        return replace(axis, parts=tidy(parts))
    if name == "im2col":
        return _columns(named, x, axis)
    if name in ("pixel_shuffle", "pixel_unshuffle"):
        return _shuffle(name, named, x, axis, shape)
    if name in ("roll", "flip"):
        shifts = named.get("shifts", [0])
        for dim, shift in zip(dims_of(named, x.ndim), shifts * x.ndim, strict=False):
            axis = replace(axis, start=axis.start - shift * _jump(axis, dim))
        return axis
    if name in ("index_select", "index") and len(shape) == x.ndim:
        for dim in range(x.ndim):
            if shape[dim] != x.shape[dim]:
                axis = axis.cut(dim, 0, 1, shape[dim])
        return axis
    return axis.lose(shape)


def _jump(axis: Axis, dim: int) -> float:
    """Return by how many pixels a dimension moves, 0 where it is not as simple."""
    return axis.parts[dim][0][1] if len(axis.parts[dim]) == 1 else 0.0


def _order(name: str, named: Mapping[str, Any], rank: int) -> list[int]:
    """Return which dimension comes to each place."""
    order = list(range(rank))
    if name == "permute":
        return [dim % rank for dim in named["dims"]]
    if name in ("t", "numpy_T"):
        return order[::-1]
    if name in ("mT", "mH", "adjoint", "matrix_H"):
        return [*order[:-2], order[-1], order[-2]]
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


def _take(call: Call, axis: Axis, number: int) -> Axis:
    """Follow an operation that takes a part of a dimension."""
    name, named, x = call.name, call.named, call.operands[0][1]
    dim = named.get("dim", 0) % x.ndim
    if name in ("select", "unbind"):
        index = number if name == "unbind" else named["index"] % x.shape[dim]
        taken = axis.cut(dim, index, 1, 1)
        return replace(taken, parts=(*taken.parts[:dim], *taken.parts[dim + 1 :]))
    sizes, step = [result.shape[dim] for result in call.results], 1
    if name == "slice":
        begin, step = named.get("start") or 0, named.get("step", 1)
        begin = max(0, begin + x.shape[dim]) if begin < 0 else min(begin, x.shape[dim])
    elif name == "narrow":
        begin = named["start"] if isinstance(named["start"], int) else 0
    else:
        begin = sum(sizes[:number])
    return axis.cut(dim, begin, step, sizes[number])


def _columns(named: Mapping[str, Any], x: Tensor, axis: Axis) -> Axis:
    """Follow an unfold to columns: (n, c, h, w) -> (n, c * kernel, positions)."""
    windows, places, begin = [], [], axis.start
    for i, dim in enumerate((x.ndim - 2, x.ndim - 1)):
        size, dilation, pad, stride = (
            each(named[key], i, 2) for key in ("kernel_size", "dilation", "padding", "stride")
        )
        jump = _jump(axis, dim)
        windows.append((size, jump * dilation))
        n = (x.shape[dim] + 2 * pad - dilation * (size - 1) - 1) // stride + 1
        places.append((n, jump * stride))
        begin -= pad * jump
    *front, channels = axis.parts[:-2]
    return Axis(axis.extent, begin, tidy([*front, (*channels, *windows), tuple(places)]))


def _shuffle(
    name: str, named: Mapping[str, Any], x: Tensor, axis: Axis, shape: tuple[int, ...]
) -> Axis:
    """Follow a pixel shuffle, or its inverse."""
    n, channels, height, width = x.shape
    if name == "pixel_unshuffle":
        r = named["downscale_factor"]
        split = axis.reshape((n, channels, height // r, r, width // r, r))
        order = (0, 1, 3, 5, 2, 4)
        return split.order(order).reshape(shape)
    r = named["upscale_factor"]
    # Channels of one place become neighbours, each of which depends on as much.
    reach, parts = axis.reach([1]), [axis.parts[0], plain(shape[1])]
    parts += [((shape[dim], _jump(axis, dim) / r),) for dim in (2, 3)]
    return Axis(axis.extent + reach, axis.start + reach / 2, tidy(parts))


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
            axis = axis.window(dim, result.shape[dim], (0, span), 1 / stride, span / 2 - shift, 1)
        else:
            found = (0, kernel - 1)
            if isinstance(weight, Tensor):
                sizes = x.shape[dim], result.shape[dim]
                found = taps(weight, 2 + i, stride, pad, dilation, sizes)
            axis = axis.window(dim, result.shape[dim], found, stride, pad, dilation)
    if isinstance(weight, Tensor):
        channels, size = first - 1, result.shape[first - 1]
        if named.get("groups", 1) != x.shape[channels] or transposed:
            axis = axis.reduce([channels], result.shape)
        elif x.shape[channels] != size:  # of each channel, several
            parts = list(axis.parts)
            parts[channels] = (*parts[channels], (size // x.shape[channels], 0.0))
            axis = replace(axis, parts=tidy(parts))
    return axis


def _adapt(axis: Axis, x: Tensor, result: Tensor, count: int) -> Axis:
    """Follow an adaptive pool."""
    for dim in range(result.ndim - count, result.ndim):
        before, after = x.shape[dim], result.shape[dim]
        size = max(
            -(-(i + 1) * before // after) - i * before // after for i in range(max(1, after))
        )
        axis = axis.window(dim, after, (0, size - 1), before / after, 0, 1)
    return axis


def _resize(name: str, axis: Axis, x: Tensor, result: Tensor) -> Axis:
    """Follow an upsampling."""
    reads = 3 if "cubic" in name else 0 if "nearest" in name else 1  # neighbours
    dims = [dim for dim in range(2, result.ndim) if x.shape[dim] != result.shape[dim]]
    return _sample(axis, x, result, reads, dims)


def _sample(
    axis: Axis, x: Tensor, result: Tensor, reads: int, dims: Sequence[int] | None = None
) -> Axis:
    """Follow an interpolation between a pixel and `reads` neighbours along each dimension.

    That the samples of a grid may lie closer, farther apart or turned is not counted."""
    for dim in range(2, result.ndim) if dims is None else dims:
        scale = result.shape[dim] / x.shape[dim]
        pad = reads / 2 + (1 - 1 / scale) / 2
        axis = axis.window(dim, result.shape[dim], (0, reads), 1 / scale, pad, 1)
    return axis
