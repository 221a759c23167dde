"""The forward passes of which an audit or a training needs a network's graphs.

audit_passes((1, 28, 28))       # training and evaluation mode
"""

from collections.abc import Sequence
from dataclasses import dataclass

# Images of a pass that looks at the structure of a network: enough for even a weak dropout to zero
# some activations.
N_PROBE = 64


@dataclass(frozen=True)
class Pass:
    """A forward pass to keep as a graph."""

    training: bool
    "The mode."
    shape: tuple[int, ...] = (1, 28, 28)
    "Shape of one image."
    sizes: tuple[int, ...] = ()
    "Numbers of images, for a graph of each where one graph can't serve any number."


def audit_passes(shape: Sequence[int]) -> list[Pass]:
    """Return the passes of which an audit needs the graphs.

    `shape` is that of an image, (channels, height, width)."""
    return [Pass(True, tuple(shape), (N_PROBE,)), Pass(False, tuple(shape))]
