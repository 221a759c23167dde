"""The layers of a network as a table, and what it says about them. Without PyTorch.

Example:
    table = LayerTable.from_json(json.loads(text))      # layer_table of layers.py makes one
    print(table)                        # as torchsummary does; a notebook shows it as HTML
    table.to_markdown(), table.to_json(), table.receptive_field, dilated(table)
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from ._files import visible
from ._html import html_table, html_text, markdown_text
from .errors import InputError

KINDS = (
    *("conv", "linear", "batch norm", "group norm", "layer norm", "instance norm", "dropout"),
    *("max pool", "average pool", "global average pool", "activation", "add", "concat", "other"),
)
NORMS = ("batch norm", "group norm", "layer norm", "instance norm")
# What may stand between the two convolutions of a depthwise separable one.
BETWEEN = {*NORMS, "activation", "dropout"}
COLUMNS = ("layer", "type", "output", "RF", "jump", "params", "MACs")
SHORT = {"global average pool": "global avg pool"}
MIN_NAME = 8  # columns of a name that is shortened


@dataclass(frozen=True)
class Layer:
    """A layer on the way from the images to the output."""

    name: str
    "The module of its parameters, such as `features.0`; else its operation, such as `relu`."
    kind: str
    "One of `KINDS`."
    shape: tuple[int, ...]
    "Shape of its output for one image, such as (channels, height, width)."
    kernel: tuple[int, ...]
    "Height and width of its windows in pixels of its input; empty without windows."
    stride: tuple[int, ...]
    "Its stride in either direction; empty without windows."
    dilation: tuple[int, ...]
    "Its dilation in either direction; empty without windows."
    groups: int
    "Groups of a convolution's channels; 1 for other layers."
    receptive_field: tuple[int, int]
    "Height and width in pixels of what one of its outputs depends on, padding included."
    jump: tuple[float, float] | None
    "Pixels between neighbours of its map. None: it has no positions, and depends on all pixels."
    parameters: int
    "Stored numbers that it is the first to use, without a batch norm's statistics."
    macs: int
    "Multiply-accumulates for one image."
    shared: bool = False
    "Whether it uses parameters of a layer above it."
    operation: str = ""
    "Its operation, such as `conv2d`."
    p: float | None = None
    "Of dropout: the probability to zero an activation."
    inputs: tuple[int, ...] = ()
    "Numbers of the layers whose outputs it takes; -1: the images."
    reach: tuple[int, ...] = ()
    "The part of its kernel that can change its output: without borders of zeros or of padding."
    channels: int = 0
    "Input channels of a convolution or linear layer; 0 for other layers."
    views: int = 1
    "How often its weights are applied to one image side by side, whatever the layer that does so."


@dataclass(frozen=True, repr=False)
class LayerTable:
    """All layers on the way from the images to the output, in the order in which they run."""

    layers: tuple[Layer, ...]
    "One for each layer, a shared one each time it runs."
    image: tuple[int, ...]
    "Shape of one image, (channels, height, width)."
    training: bool = False
    "Whether these are the layers of training mode, not of evaluation mode."
    hidden: int = field(default=0)
    "Layers that are left out: they lead to the output, without an effect on it."

    @property
    def parameters(self) -> int:
        """Stored numbers that the layers use, each counted once."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of convolutions, linear layers and attention for one image."""
        return sum(layer.macs for layer in self.layers)

    @property
    def views(self) -> int:
        """How often an image is looked at: the most that the same weights run side by side."""
        return max((layer.views for layer in self.layers), default=1)

    @property
    def receptive_field(self) -> tuple[int, int]:
        """Largest receptive field (height, width) of a layer whose output has positions.

        That is in pixels, before the global pooling, the flatten or the linear layer that sees the
        whole image; (1, 1) where no layer has positions."""
        found = [layer.receptive_field for layer in self.layers if layer.jump is not None]
        return max((h for h, _ in found), default=1), max((w for _, w in found), default=1)

    @property
    def summary(self) -> str:
        """The totals in words."""
        count = f"{self.hidden} layer{'' if self.hidden == 1 else 's'}"
        hidden = f"; {count} without an effect left out" if self.hidden else ""
        looks = f", looked at {self.views} times" if self.views > 1 else ""
        return (
            f"{self.parameters:,} parameters; {self.macs:,} multiply-accumulates for one image of "
            f"{_size(self.image)}{looks}; receptive field {_size(self.receptive_field)} before the "
            f"head{hidden}"
        )

    def rows(self) -> list[tuple[str, ...]]:
        """Return the cells of each layer, under `COLUMNS`."""
        return [_cells(layer) for layer in self.layers]

    def to_text(self, width: int | None = None) -> str:
        """Return the table as plain text, as torchsummary prints one.

        Args:
            width: Columns that it may take; names are shortened for it. None: any number.
        """
        rows = [COLUMNS, *self.rows()]
        widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
        if width is not None:
            spare = width - sum(widths) - 2 * (len(widths) - 1)
            widths[0] = max(MIN_NAME, widths[0] + min(0, spare))
        lines = []
        for row in rows:
            name = row[0] if len(row[0]) <= widths[0] else "…" + row[0][1 - widths[0] :]
            texts = [name.ljust(widths[0]), row[1].ljust(widths[1])]
            texts += [cell.rjust(size) for cell, size in zip(row[2:], widths[2:], strict=True)]
            lines.append("  ".join(texts).rstrip())
        rule = "-" * max(map(len, lines))
        ends = self.summary.split("; ")
        return visible("\n".join([lines[0], rule, *lines[1:], rule, *ends]))

    __str__ = __repr__ = to_text

    def to_markdown(self) -> str:
        """Return the table in Markdown, with the totals under it."""
        lines = ["| " + " | ".join(COLUMNS) + " |", "|---|---|" + "---:|" * (len(COLUMNS) - 2)]
        for row in self.rows():
            lines.append("| " + " | ".join(markdown_text(visible(cell)) for cell in row) + " |")
        return "\n".join([*lines, "", f"{self.summary}."])

    def _repr_html_(self) -> str:
        """Return the table that a notebook shows."""
        return html_table(COLUMNS, self.rows()) + f"\n<p>{html_text(self.summary)}</p>"

    def to_json(self) -> dict[str, Any]:
        """Return JSON values, which `from_json` reads back."""
        return {
            "image": list(self.image),
            "training": self.training,
            "parameters": self.parameters,
            "macs": self.macs,
            "views": self.views,
            "receptive_field": list(self.receptive_field),
            "hidden": self.hidden,
            "layers": [asdict(layer) for layer in self.layers],
        }

    @staticmethod
    def from_json(values: dict[str, Any]) -> "LayerTable":
        """Return the table of `to_json`. Raises InputError for anything else."""
        try:
            layers = [_read_layer(each) for each in values["layers"]]
            table = LayerTable(
                tuple(layers),
                tuple(values["image"]),
                bool(values["training"]),
                int(values["hidden"]),
            )
            table.to_text()
        except (
            AttributeError,
            KeyError,
            TypeError,
            ValueError,
            IndexError,
            OverflowError,
        ) as error:
            raise InputError(f"layers: got {error!r}, expected a table of layers") from error
        return table


def _read_layer(values: dict[str, Any]) -> Layer:
    read: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
    }
    return Layer(**read)


def _size(sides: tuple[int, ...] | tuple[float, ...]) -> str:
    return "x".join(f"{side:.3g}" if isinstance(side, float) else str(side) for side in sides)


def _both(values: tuple[int, ...] | tuple[float, ...]) -> str:
    """Return one number where both directions have the same, else both."""
    return _size(values[:1]) if len(set(values)) == 1 else _size(values)


def _cells(layer: Layer) -> tuple[str, ...]:
    words = [SHORT.get(layer.kind, layer.kind)]
    if layer.kind == "other":
        words = [layer.operation]
    elif "transpose" in layer.operation:
        words = ["transposed conv"]
    if layer.kernel:
        words.append(_size(layer.kernel))
    for letter, values in (("s", layer.stride), ("d", layer.dilation)):
        if any(value != 1 for value in values):
            words.append(f"{letter}{_both(values)}")
    if layer.groups > 1:
        words.append(f"g{layer.groups}")
    if layer.p is not None:
        words.append(f"{layer.p:.3g}")
    shared = layer.shared and not layer.parameters
    return (
        layer.name,
        " ".join(words),
        _size(layer.shape) or "1",
        "all" if layer.jump is None else _both(layer.receptive_field),
        "" if layer.jump is None else _both(layer.jump),
        "shared" if shared else f"{layer.parameters:,}" if layer.parameters else "",
        f"{layer.macs:,}" if layer.macs else "",
    )


def dilated(table: LayerTable) -> int:
    """Return the number of convolutions with a dilation, and more than one place in its direction.

    A kernel of one pixel, or whose other places are zeros or see padding alone, is not dilated."""
    return sum(
        layer.kind == "conv"
        and any(d > 1 and r > 1 for d, r in zip(layer.dilation, layer.reach, strict=True))
        for layer in table.layers
    )


def strided(table: LayerTable) -> int:
    """Return the number of convolutions with a stride above 1; transposed ones are not counted."""
    return sum(
        layer.kind == "conv"
        and "transpose" not in layer.operation
        and any(stride > 1 for stride in layer.stride)
        for layer in table.layers
    )


def depthwise_separable(table: LayerTable) -> int:
    """Return the number of depthwise convolutions that a 1x1 convolution follows.

    A depthwise convolution has as many groups as input channels, which are more than one, and a
    kernel of more than one pixel. Only normalisation, activation and dropout may stand between."""
    return sum(
        layer.kind == "conv"
        and layer.groups == layer.channels > 1
        and any(r > 1 for r in layer.reach)
        and any(_is_pointwise(table, other, number) for other in table.layers)
        for number, layer in enumerate(table.layers)
    )


def _is_pointwise(table: LayerTable, layer: Layer, source: int) -> bool:
    """Return whether a layer is a 1x1 convolution of what a layer gives."""
    if layer.kind == "linear":
        if layer.jump is None:
            return False
    elif layer.kind != "conv" or layer.groups != 1 or any(r > 1 for r in layer.kernel):
        return False
    inputs = layer.inputs
    while len(inputs) == 1 and inputs[0] >= 0 and inputs[0] != source:
        if table.layers[inputs[0]].kind not in BETWEEN:
            return False
        inputs = table.layers[inputs[0]].inputs
    return inputs == (source,)


def ends(table: LayerTable) -> tuple[set[str], set[str]]:
    """Return the kinds of the layers that make maps to values without positions.

    First those of all such layers, then of the ones from which the output comes: squeeze and
    excitation has one that only weighs a map."""
    found = {
        number
        for number, layer in enumerate(table.layers)
        if layer.jump is None
        and any(i < 0 or table.layers[i].jump is not None for i in layer.inputs)
    }
    last: set[int] = set()
    seen: set[int] = set()
    todo = [len(table.layers) - 1] if table.layers else []
    while todo:
        number = todo.pop()
        if number in seen or number < 0:
            continue
        seen.add(number)
        if number in found:
            last.add(number)
        elif table.layers[number].jump is None:
            todo += table.layers[number].inputs
    kinds = [layer.kind for layer in table.layers]
    return {kinds[number] for number in found}, {kinds[number] for number in last}


def max_pools(table: LayerTable) -> list[Layer]:
    """Return the layers that take the largest of several positions, however they are written."""
    return [layer for layer in table.layers if layer.kind == "max pool"]


def normalisations(table: LayerTable) -> set[str]:
    """Return the kinds of normalisation: batch norm, group norm, layer norm, instance norm."""
    return {layer.kind for layer in table.layers if layer.kind in NORMS}


def dropouts(table: LayerTable) -> list[float]:
    """Return the probability of each dropout that zeroes anything, of a table of training mode."""
    return [layer.p for layer in table.layers if layer.kind == "dropout" and layer.p]


def without_dropout(table: LayerTable, least: float = 0.0) -> list[Layer]:
    """Return the convolutions whose output reaches another convolution, or the output, undropped.

    Between are only other layers than convolutions, of a table of training mode. A dropout of a
    smaller rate than `least`, or of 0, is none."""
    bare: set[int] = set()
    # The layers that a convolution's output reaches on some path without a dropout.
    reached: dict[int, set[int]] = {-1: set()}
    for number, layer in enumerate(table.layers):
        before: set[int] = set().union(*(reached[i] for i in layer.inputs))
        if layer.kind == "conv":
            bare |= before
            before = {number}
        elif layer.kind == "dropout" and layer.p and layer.p >= least:
            before = set()
        reached[number] = before
    if table.layers:
        bare |= reached[len(table.layers) - 1]
    return [table.layers[number] for number in sorted(bare)]
