"""Requirements of the layers of a network's graph."""

import math
from typing import ClassVar

from .._layers import LayerTable, depthwise_separable, dilated, max_pools, strided
from ..facts import Facts
from ._kind import (
    WHOLE,
    Allowed,
    Finding,
    Kind,
    Limits,
    holds,
    layers_of,
    one_of,
    whole,
    words,
)


class Forbid(Kind):
    """What the network must not have."""

    name = "forbid"
    keys: ClassVar = {"layer": one_of(("max-pool", "linear", "stride", "pretrained"))}
    exactly_one: ClassVar = (("layer",),)

    def title(self, limits: Limits) -> str:
        """Return what must not be."""
        return f"no {limits['layer']}"

    def required(self, limits: Limits) -> str:
        """Return what must not be, in words."""
        return {
            "max-pool": "no max-pool layer",
            "linear": "no fully connected layer, except as a convolution",
            "stride": "no layer that skips positions",
            "pretrained": "trained weights start from numbers that the seed draws",
        }[limits["layer"]]

    def needs(self, limits: Limits) -> tuple[str, ...]:
        """Weights are seen in builds, layers in the table."""
        return ("builds",) if limits["layer"] == "pretrained" else ("layers",)

    def judge(self, limits: Limits, facts: Facts) -> Finding:
        """Count such layers, or weights that don't depend on the seed."""
        if limits["layer"] == "pretrained":
            builds = facts.builds
            assert builds is not None
            found = (
                f"{len(builds.alike)} of {builds.tensors} trained tensors start from fixed numbers"
            )
            if builds.alike:
                found += f": {', '.join(builds.alike[:3])}"
            if builds.unpaired:
                found += f"; of other names or shapes: {', '.join(builds.unpaired[:3])}"
            if builds.fixed:
                found += (
                    f"; never trained: {', '.join(builds.fixed[:3])}, {builds.n_fixed:,} of "
                    f"{builds.total:,} numbers"
                )
            how = (
                "the class built with two seeds: weights that are trained must differ, else they "
                "were loaded, written down, or drawn after a seed of the code's own; up to 64 "
                "numbers, one number throughout and simple patterns may be the same, and so may "
                "what is never trained, such as fixed filters, if it is at most half of all "
                "numbers or made of at most 64 different ones"
            )
            held = not builds.alike and not builds.unpaired and not builds.mostly_fixed
            return Finding(found, how, held)
        table = layers_of(facts)
        names = {
            "max-pool": [layer.name for layer in max_pools(table)],
            # A linear layer at every position is a 1x1 convolution.
            "linear": [
                layer.name
                for layer in table.layers
                if layer.kind == "linear" and layer.jump is None
            ],
            "stride": [
                layer.name
                for layer in table.layers
                if layer.jump is not None and max(layer.jump) > _jump(table, layer.inputs)
            ],
        }[limits["layer"]]
        layers = "1 layer" if len(names) == 1 else f"{len(names)} layers"
        found = f"{layers}: {', '.join(names[:3])}" if names else "none"
        return Finding(found, "layers of the graph", not names)

    def allows(self, limits: Limits) -> dict[str, Allowed]:
        """There are none."""
        return {f"layers with a {limits['layer']}": (0, 0)}


class Require(Kind):
    """How many layers of a sort the network must have."""

    name = "require"
    facts: ClassVar = ("layers",)
    keys: ClassVar = {
        "layer": one_of(("dilated", "depthwise separable", "stride")),
        "at_least": WHOLE,
    }

    exactly_one: ClassVar = (("layer",), ("at_least",))

    def title(self, limits: Limits) -> str:
        """Return the sort of layers."""
        return str(limits["layer"])

    def required(self, limits: Limits) -> str:
        """Return number and sort."""
        return f"{words(limits)}"

    def judge(self, limits: Limits, facts: Facts) -> Finding:
        """Count such layers."""
        table = layers_of(facts)
        count, which = {
            "dilated": (dilated, "with a dilation above 1"),
            "depthwise separable": (
                depthwise_separable,
                "with a group for each channel, each before a 1x1 convolution",
            ),
            "stride": (strided, "with a stride above 1"),
        }[limits["layer"]]
        number, how = count(table), f"convolutions of the graph {which}"
        return Finding(str(number), how, number >= limits["at_least"])

    def allows(self, limits: Limits) -> dict[str, Allowed]:
        """There are so many."""
        return {f"layers with a {limits['layer']}": (limits["at_least"], math.inf)}


class ReceptiveField(Kind):
    """How many pixels along a side an output sees."""

    name = "receptive field"
    facts: ClassVar = ("layers",)
    keys: ClassVar = {"more_than": WHOLE, "at_least": WHOLE}
    exactly_one: ClassVar = (("more_than", "at_least"),)

    def required(self, limits: Limits) -> str:
        """Return the limit."""
        return f"{words(limits)} pixels"

    def judge(self, limits: Limits, facts: Facts) -> Finding:
        """Compare the receptive field before the head."""
        height, width = layers_of(facts).receptive_field
        return Finding(
            f"{height}x{width}",
            "kernels, strides and dilations of the graph's layers before the head",
            holds(limits, min(height, width)),
        )


class Macs(Kind):
    """Multiply-accumulates for an image."""

    name = "macs"
    facts: ClassVar = ("layers",)
    keys: ClassVar = {"at_most": WHOLE, "fewer_than": whole(2)}
    exactly_one: ClassVar = (("at_most", "fewer_than"),)

    def required(self, limits: Limits) -> str:
        """Return the limit."""
        return words(limits)

    def judge(self, limits: Limits, facts: Facts) -> Finding:
        """Compare the sum over all layers."""
        macs = layers_of(facts).macs
        how = "multiply-accumulates of the graph's layers for an image"
        return Finding(f"{macs:,}", how, holds(limits, macs))


class Views(Kind):
    """How often an image is looked at."""

    name = "views"
    facts: ClassVar = ("layers",)
    keys: ClassVar = {"at_most": WHOLE}
    exactly_one: ClassVar = (("at_most",),)

    def required(self, limits: Limits) -> str:
        """Return the limit."""
        return words(limits)

    def judge(self, limits: Limits, facts: Facts) -> Finding:
        """Compare the most that a layer's weights are applied side by side."""
        table = layers_of(facts)
        most = next((layer.name for layer in table.layers if layer.views == table.views), "")
        where = f", by {most}" if table.views > 1 else ""
        how = "times that the graph applies the same weights side by side to an image"
        return Finding(f"{table.views:,}{where}", how, holds(limits, table.views))


def _jump(table: LayerTable, inputs: tuple[int, ...]) -> float:
    """Return the largest jump of some layers' maps, 1 of the images."""
    jumps = [table.layers[i].jump for i in inputs if i >= 0]
    return max((max(jump) for jump in jumps if jump is not None), default=1.0)
