"""Turn any photo, scan, screenshot or drawing into an image as a network's training images are.

    image = prepare("photo.jpg")            # (28, 28) uint8, white ink on black; None if no ink
    Sheet("1905.png").number()              # from left to right, each with its place in the picture
    prepare("cat.jpg", reader.form)         # as the images that a network was trained on

This uses NumPy and Pillow only. Ink is whatever differs from the paper, darker or lighter; `_ink`
finds it. A network that was trained on photographs gets the whole picture, cropped and resized.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import IO

import numpy as np
from PIL import ExifTags, Image, ImageOps

from .. import _pictures
from .._pictures import open_image, readable
from ..errors import InputError
from ..layout import MNIST_LAYOUT
from ._components import Labels
from ._fit import Box, extent, fit
from ._form import MNIST, Bytes, Form
from ._ink import DROPPED, Ink, find_ink
from ._planes import Floats
from ._split import Split, split
from ._thresholds import THRESHOLDS

MAX_PIXELS = 16_000_000  # of a picture as it is decoded; larger ones are refused before
JPEG_SCALES = (2, 4)  # parts of its size at which a JPEG file of more pixels is decoded
MAX_JPEG_PIXELS = 178_000_000  # Pillow opens no picture of more
MAX_FILE_BYTES = 64 * 1024 * 1024
# Pillow's modes that `_planes` reads; pictures of other modes are converted first, to RGB except
# for those whose colours are multiplied by their opacity.
MODES = {
    *("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"),
    *("I", "F", "I;16", "I;16L", "I;16B"),
}
UNMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}
BITS = (8, 10, 12, 14, 16)  # of grey levels
STRIP = 1_000_000  # pixels that are converted from one mode to another at a time
WHITE = (255, 255, 255)
MAX_SIDE = 512  # pixels; larger pictures are reduced to it, since strokes stay wide enough there

PictureSource = str | Path | bytes | bytearray | memoryview | IO[bytes] | Bytes | Image.Image
"A picture: the path of a file, its bytes, a file that is open, an array, or a Pillow image."


def open_picture(source: bytes | str | Path | IO[bytes]) -> Image.Image:
    """Open a picture from a file or from its bytes, and turn it upright as its EXIF data says.

    Only the first of several frames is read.

    Raises:
        InputError: It is none of FORMATS, is damaged, or has more than MAX_PIXELS pixels.
        OSError: The file cannot be read.
    """
    name = "picture"
    if isinstance(source, bytes):
        content = source
    elif not isinstance(source, (str, Path)):
        content = source.read(MAX_FILE_BYTES + 1)
        if not isinstance(content, bytes):
            raise InputError(f"{name}: got a file of text, expected one that is open as bytes")
    else:
        name = str(source)
        with Path(source).open("rb") as file:  # which need not end, as /dev/zero does not
            content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise InputError(f"{name}: got over {MAX_FILE_BYTES:,} bytes, expected at most that many")
    return decode(open_header(content, name), name)


def open_header(content: bytes, name: str = "picture") -> Image.Image:
    """Return a picture of which the header is read, and nothing decoded yet.

    Raises:
        InputError: It is none of FORMATS, is damaged, or has more than MAX_PIXELS pixels.
    """
    picture = open_image(content, name, f"{MAX_PIXELS:,} pixels")
    with readable(name):
        width, height = picture.size
        # A large photograph is decoded at a fraction of its size, which the format allows.
        for scale in JPEG_SCALES:
            if picture.width * picture.height > MAX_PIXELS:
                picture.draft(None, (width // scale, height // scale))
    if picture.width * picture.height > MAX_PIXELS:
        raise InputError(
            f"{name}: got {width:,} x {height:,} pixels, expected at most {MAX_PIXELS:,}, or "
            f"{MAX_JPEG_PIXELS:,} of a JPEG"
        )
    return picture


def decode(picture: Image.Image, name: str = "picture") -> Image.Image:
    """Decode a picture that `open_header` has opened, and turn it upright.

    Raises:
        InputError: It is damaged.
    """
    upright = _pictures.decode(picture, name)
    with readable(name):
        return _in_a_mode(upright)


def _in_a_mode(picture: Image.Image) -> Image.Image:
    """Return a picture in one of MODES."""
    if picture.mode in MODES:
        return picture
    return picture.convert(UNMULTIPLIED.get(picture.mode, "RGB"))


def prepare(picture: PictureSource, form: Form = MNIST) -> Bytes | None:
    """Return what a picture shows as a network takes it, or None if ink is looked for in vain.

    For MNIST the result is (28, 28) uint8, 255 for ink and 0 for paper. The longer side of the
    digit is 20 pixels, its centre of mass is at pixel (14, 14) (LeCun et al. 1998), and its strokes
    are at least about 2 pixels wide. For other images of ink the size, the longer side, the
    polarity and the orientation are those of the form. Where the form has no ink, the middle of
    the picture is resized, and transparent pixels become white.

    An image that is already in the form passes unchanged, or inverted if its polarity is the other
    one: of the form's size, its ink as long and as far from the centre as in the training images.
    All of MNIST's first 60,000 images meet this.

    Args:
        picture: The path of a file, its bytes, a file that is open as bytes, a Pillow image of any
            mode, or an array (height, width) or (height, width, 3 or 4) of uint8.
        form: The form of the network's images, as `Reader.form` has it.

    Raises:
        InputError: The file is no readable picture, it has no pixels, the array has another shape
            or type, or it is something else.
        OSError: The file cannot be read.
    """
    return Sheet(picture, form).image()


@dataclass(frozen=True, eq=False)
class Digit:
    """What a network is given for a picture or a part of it: mostly a digit, and its place."""

    image: Bytes
    "The image (height, width) or (3, height, width) uint8 as the network takes it."
    box: Box | None = None
    "Sides of the ink. None where no ink was looked for, or the picture is not known."
    frame: Box | None = None
    "Sides of the image as a whole, which may lie outside of the picture, likewise."
    doubts: tuple[str, ...] = ()
    """What makes the preparation doubtful, in plain words: "lines removed", "page edge removed",
    "shade removed", "parts dropped", "low contrast", "perhaps an empty box", "touches the
    border"."""


Judge = Callable[[Sequence[Digit]], Sequence[float]]
"How sure a network is of each of several digits, from 0 to 1."


class Sheet:
    """The ink of one picture: all of it as one digit, or as the digits of a number.

    Args:
        picture: As in `prepare`, which says what is raised too.
        form: The form of the network's images.
    """

    def __init__(self, picture: PictureSource, form: Form = MNIST) -> None:
        self.form = form
        self._picture = _upright(picture)
        self._splits: dict[bool, Split] = {}  # with a judge and without
        self._in_form = _in_form(self._picture, form) if form.reads_ink else None

    @cached_property
    def _ink(self) -> Ink | None:
        return find_ink(_planes(self._picture))

    @cached_property
    def _rest(self) -> Labels:
        assert self._ink is not None
        return self._ink.find_rest()

    def _split(self, judge: Judge | None) -> Split:
        """Return where the digits are."""
        with_judge = judge is not None
        if with_judge not in self._splits:
            self._splits[with_judge] = self._find_split(judge)
        return self._splits[with_judge]

    def _find_split(self, judge: Judge | None) -> Split:
        assert self._ink is not None
        components, ink, rest = self._ink.components, self._ink.strength, self._rest
        if judge is None:
            return split(components, rest, ink)
        return split(
            components, rest, ink, lambda masks: judge([self._place(ink * m) for m in masks])
        )

    def image(self) -> Bytes | None:
        """Return the image of `whole`, without looking for what makes it doubtful."""
        if not self.form.reads_ink or self._in_form is not None:
            digit = self.whole()
            return None if digit is None else digit.image
        return None if self._ink is None else self._place(self._ink.strength).image

    def whole(self) -> Digit | None:
        """Return all of the ink as one digit, or None if there is no ink."""
        candidates = self.candidates()
        return candidates[0] if candidates else None

    def candidates(self, judge: Judge | None = None) -> list[Digit]:
        """Return what the picture may be, one digit or two; none if there is no ink.

        An image of the size and look of transposed training images may be one of them, or upright
        as every other picture is. Only the network can tell. `lines` says what a judge is.
        """
        if not self.form.reads_ink:
            return [self._resize()]
        if self._in_form is not None:
            as_it_is = as_digit(self._in_form, self.form)
            turned = replace(as_it_is, image=self.form.turn(self._in_form))
            both = [as_it_is, turned] if self.form.transposed else [as_it_is]
            return [digit for digit in both if digit.image.shape == self.form.shape]
        if self._ink is None:
            return []
        digit = self._place(self._ink.strength)
        several = self._ink.components.max() > 1 or self._rest.max() > 0
        return [_doubtful(digit) if several and self._split(judge).dropped else digit]

    def lines(self, judge: Judge | None = None) -> list[list[Digit]]:
        """Return the digits of each line of writing, from top to bottom; none without ink.

        A digit is a connected component with the fragments above and below it. Full stops,
        underlines and specks are left out.

        Args:
            judge: How sure a network is of each of several digits, from 0 to 1. With it, digits
                that touch are cut where the pieces are surest, and a loose stroke is joined to a
                digit if that makes it surer. Without it, digits that touch are returned as one.

        Raises:
            InputError: The network reads whole pictures.
        """
        if not self.form.reads_ink:
            raise InputError(
                "the network reads whole pictures, expected one that reads ink to split a number"
            )
        if self._in_form is not None:
            return [self.candidates()[:1]]
        if self._ink is None:
            return []
        ink = self._ink.strength
        found = self._split(judge)
        lines = [[self._place(ink * mask) for mask in line] for line in found.lines]
        return [list(map(_doubtful, line)) for line in lines] if found.dropped else lines

    def number(self, judge: Judge | None = None) -> list[Digit]:
        """Return the digits of a number from left to right, line by line, as `lines` does."""
        return [digit for line in self.lines(judge) for digit in line]

    def count(self, judge: Judge | None = None) -> int:
        """Return the number of digits that stand side by side; 0 without ink.

        Loose strokes and noise are not counted. A count above 1 means a number. Where the network
        reads whole pictures it is 1. `lines` says what a judge is.
        """
        if self._in_form is not None or not self.form.reads_ink:
            return 1
        if self._ink is None:
            return 0
        if self._ink.components.max() == 1:
            return 1
        ink, limits = self._ink.strength, THRESHOLDS
        masks = [mask for line in self._split(judge).lines for mask in line]
        heights = np.array([np.ptp(np.flatnonzero(mask.any(1))) + 1 for mask in masks])
        masses = np.array([ink[mask].sum() for mask in masks])
        if heights.max() < max(limits.min_number_pixels, limits.min_number * max(ink.shape)):
            return 1
        tall = heights >= limits.min_height * heights.max()
        heavy = masses >= limits.min_digit_mass * masses.max()
        # The tallest may be a thin stroke, and the heaviest a flat one: they are one digit.
        return max(1, int((tall & heavy).sum()))

    def _place(self, ink: Floats) -> Digit:
        """Fit the ink (h, w) of one digit, and give its place as fractions of the picture."""
        image, (left, top, right, bottom) = fit(ink, self.form)
        rows, columns = extent(ink)
        # Pixels of the ink are `_reduction` pixels of the picture; the last ones may be fewer.
        x, y = (_reduction(self._picture) / side for side in self._picture.size)
        box = columns[0] * x, rows[0] * y, (columns[-1] + 1) * x, (rows[-1] + 1) * y
        frame = left * x, top * y, right * x, bottom * y
        seen = self.form.turn(self.form.light_on_dark(image))
        assert self._ink is not None
        sides = _floats(min(side, 1.0) for side in box)
        return Digit(seen, sides, _floats(frame), self._ink.doubts_of(ink > 0))

    def _resize(self) -> Digit:
        """Return the middle of the picture, in the proportions of the form, resized to it."""
        (height, width), colour = self.form.upright, self.form.kind.channels > 1
        small = Image.fromarray(_reduced(self._picture, _conversion(self._picture, WHITE)))
        small = small.convert("RGB" if colour else "L")
        scale = min(small.width / width, small.height / height)
        x, y = (small.width - scale * width) / 2, (small.height - scale * height) / 2
        cut = x, y, small.width - x, small.height - y
        image = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC, cut))
        # (height, width, 3) -> (3, height, width)
        planes = self.form.turn(np.moveaxis(image, 2, 0) if colour else image)
        frame = (
            *(x / small.width, y / small.height),
            *(1 - x / small.width, 1 - y / small.height),
        )
        return Digit(np.ascontiguousarray(planes), None, frame)


def as_digit(image: Bytes, form: Form = MNIST) -> Digit:
    """Return an image in the form of the training images, with ink, as a picture of its own."""
    if not form.reads_ink:
        return Digit(image, None, (0.0, 0.0, 1.0, 1.0))
    height, width = image.shape
    rows, columns = extent(np.float32(1 / 255) * form.light_on_dark(image))
    box = columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height
    return Digit(image, _floats(box), (0.0, 0.0, 1.0, 1.0))


def _doubtful(digit: Digit) -> Digit:
    """Return a digit beside which something was left out that may change the value."""
    return replace(digit, doubts=tuple(sorted({*digit.doubts, DROPPED})))


def _floats(sides: Iterable[float]) -> Box:
    left, top, right, bottom = map(float, sides)
    return left, top, right, bottom


def _upright(picture: PictureSource) -> Image.Image:
    """Return a picture as a Pillow image, turned as its EXIF data says."""
    if isinstance(picture, (bytearray, memoryview)):
        picture = bytes(picture)
    if isinstance(picture, (str, Path, bytes)):
        return open_picture(picture)
    if isinstance(picture, np.ndarray):
        if (
            picture.dtype != np.uint8
            or not picture.size
            or not (picture.ndim == 2 or (picture.ndim == 3 and picture.shape[2] in (3, 4)))
        ):
            raise InputError(
                f"picture: got {picture.dtype} {picture.shape}, "
                "expected uint8 (height, width) or (height, width, 3 or 4)"
            )
        return Image.fromarray(np.ascontiguousarray(picture))
    if not isinstance(picture, Image.Image):
        if hasattr(picture, "read"):
            return open_picture(picture)
        raise InputError(
            f"picture: got {type(picture).__name__}, expected the path of a file, its bytes, an "
            "open file, an array, or a Pillow image"
        )
    if 0 in picture.size:
        raise InputError(
            f"picture: got {picture.width} x {picture.height} pixels, expected at least one"
        )
    with readable("picture"):
        picture.load()  # of a file it may be no more than the header as yet
        turned = picture.getexif().get(ExifTags.Base.Orientation, 1) != 1
        return _in_a_mode(ImageOps.exif_transpose(picture) if turned else picture)  # without a copy


def _in_form(picture: Image.Image, form: Form) -> Bytes | None:
    """Return the image, in the polarity of the form, if it already looks like one of its images."""
    height, width = form.upright
    if picture.size not in ((width, height), form.shape[::-1]) or not _is_plain(picture, form):
        return None
    pixels = np.asarray(picture.convert("RGB"))
    if (pixels != pixels[..., :1]).any():  # coloured
        return None
    image = form.light_on_dark(np.ascontiguousarray(pixels[..., 0]))
    for each in (image, 255 - image):
        if form.lies_in(each):
            return form.light_on_dark(each)
    return None


def _is_plain(picture: Image.Image, form: Form) -> bool:
    """Return whether the pixels of a picture are grey levels or colours as they stand."""
    if picture.mode in ("L", "RGB"):
        return True
    # Browsers write a channel of transparency into every picture.
    return form.layout is not MNIST_LAYOUT and picture.mode in ("RGBA", "LA") and _opaque(picture)


def _planes(picture: Image.Image) -> Floats:
    """Return (3, height, width) from 0 to 255, reduced to a longer side of at most MAX_SIDE.

    Transparent pixels get the colour of the paper.
    """
    planes = _reduced(picture, _conversion(picture)).astype(np.float32)
    if planes.ndim == 2:
        return np.stack([planes] * 3)
    return np.ascontiguousarray(np.moveaxis(planes, 2, 0))


def _reduced(picture: Image.Image, to_grey_or_rgb: Callable[[Image.Image], Image.Image]) -> Bytes:
    """Return (height, width) or (height, width, 3), the longer side at most MAX_SIDE."""
    n = _reduction(picture)
    # Strip by strip: of a large picture, copies in other modes would take ten times its memory.
    parts = [np.asarray(to_grey_or_rgb(strip).reduce(n)) for strip in _strips(picture, n)]
    return np.concatenate(parts) if len(parts) > 1 else parts[0]


def _strips(picture: Image.Image, n: int = 1) -> Iterator[Image.Image]:
    """Yield a picture from top to bottom in strips of about STRIP pixels, each a multiple of n."""
    width, height = picture.size
    rows = max(STRIP // width // n, 1) * n
    if rows >= height:
        yield picture
        return
    for top in range(0, height, rows):
        yield picture.crop((0, top, width, min(top + rows, height)))


def _conversion(
    picture: Image.Image, ground: tuple[int, int, int] | None = None
) -> Callable[[Image.Image], Image.Image]:
    """Return the function that turns a strip of a picture into one of mode L or RGB.

    Transparent pixels get the colour of the ground. None: that of the picture's own paper.
    """
    if picture.mode.startswith(("I", "F")):  # grey with 16 bits or more, or floating point
        return _grey_conversion(picture)
    if picture.has_transparency_data and not _opaque(picture):
        paper = ground or _paper(picture)

        def on_paper(strip: Image.Image) -> Image.Image:
            below = Image.new("RGBA", strip.size, (*paper, 255))
            return Image.alpha_composite(below, strip.convert("RGBA")).convert("RGB")

        return on_paper
    return lambda strip: strip if strip.mode in ("L", "RGB") else strip.convert("RGB")


def _grey_conversion(picture: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """Return the conversion of a grey picture with 16 bits or more, or of floating point."""

    def greys(strip: Image.Image) -> Floats:
        return np.nan_to_num(np.asarray(strip, np.float32))

    most = max(greys(strip).max() for strip in _strips(picture))
    # No header says which value is white: take the smallest usual range that holds them all.
    whites = [2**bits - 1 for bits in ((1, *BITS) if picture.mode == "F" else BITS)]
    white = next((each for each in whites if each >= most), most)
    return lambda strip: Image.fromarray(
        np.clip(greys(strip) * np.float32(255 / white), 0, 255).astype(np.uint8)
    )


def _opaque(picture: Image.Image) -> bool:
    """Return whether a picture has a channel of transparency and no pixel that is transparent."""
    if picture.mode not in ("RGBA", "LA"):
        return False
    return not any(picture.getchannel("A").histogram()[:255])


def _paper(picture: Image.Image) -> tuple[int, int, int]:
    """Return the colour of the paper of a picture with transparent pixels.

    A picture that is mostly opaque is a sheet with a hole or with a corner cut off: its median. One
    that is mostly transparent is a drawing, put on the paper that it contrasts with.
    """
    counts = np.zeros((3, 256), np.int64)  # of the opaque pixels: how many have each value
    for strip in _strips(picture):
        rgba = strip.convert("RGBA")
        solid = rgba.getchannel("A").point([0] * 128 + [255] * 128)
        counts += np.reshape(rgba.histogram(solid), (4, 256))[:3]
    n_solid = int(counts[0].sum())
    if n_solid > 0.5 * picture.width * picture.height:
        # The median of an even number of values is the mean of the two in the middle.
        upto = counts.cumsum(1)
        middle = np.array([(upto <= rank).sum(1) for rank in ((n_solid - 1) // 2, n_solid // 2)])
        red, green, blue = (int(value) // 2 for value in middle.sum(0))  # (2, 3) -> (3,)
        return red, green, blue
    light = (counts @ np.arange(256)).sum() > 127 * 3 * n_solid
    return (0, 0, 0) if light else (255, 255, 255)


def _reduction(picture: Image.Image) -> int:
    """Return how many pixels of a picture, along each axis, become one."""
    return -(-max(picture.size) // MAX_SIDE)
