"""A sheet to draw digits on, in a notebook; each stroke is read as it ends.

    drawing = draw()                # a widget: show it as a cell's last line
    drawing.reading                 # the reading of what is drawn now

It needs the extra `notebook`, and no PyTorch.
"""

import base64
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from ..errors import InputError
from ..pretrained import DEFAULT_MODEL
from .reader import Reader, RunFolder
from .reading import Reading

PNG = "data:image/png;base64,"


class Drawing(anywidget.AnyWidget):
    """A sheet to draw on, with the reading of what is drawn beside it."""

    _esm = Path(__file__).with_name("draw.js").read_text(encoding="utf-8")
    picture = traitlets.Unicode().tag(sync=True)
    "The drawing as a data URL of a PNG, set when a stroke ends. Empty for an empty sheet."
    shown = traitlets.Unicode().tag(sync=True)
    "The reading as HTML."

    def __init__(self, reader: Reader, **traits: Any) -> None:
        if not reader.form.reads_ink:
            raise InputError(
                f"{reader.card['recipe']}: reads whole pictures, expected a network that reads ink",
                hint='Reader(model).read("photo.jpg")',
            )
        self.reader = reader
        self.reading: Reading | None = None
        super().__init__(**traits)

    def __repr__(self) -> str:
        """Return one line, such as `drawing: 7 (99.8 %)`."""
        return f"drawing: {'empty' if self.reading is None else repr(self.reading)}"

    @traitlets.observe("picture")
    def _read(self, change: dict[str, Any]) -> None:
        """Read the picture that the page has sent, and send the reading."""
        sent = change["new"].removeprefix(PNG)
        self.reading = self.reader.read(base64.b64decode(sent)) if sent else None
        self.shown = self.reading._repr_html_() if self.reading is not None else ""


def draw(model: str | Path | RunFolder = DEFAULT_MODEL) -> Drawing:
    """Return a widget to draw digits on: a mouse, a pen or a finger draws, each stroke is read.

    `.reading` is the reading of what is drawn now, None for an empty sheet.
    `.observe(function, "shown")` calls a function after each.

    Parameters
    ----------
    model
        The network that reads, as for `Reader`.

    Raises
    ------
    InputError
        Where there is no such network, or it reads photographs and not ink.
    """
    return Drawing(Reader(model))
