"""Split ink into the digits of numbers, line by line.

    split(components, rest, ink, sureness).lines    # of each line its digits, masks (height, width)

Connected components are joined or left out by where they stand: fragments above each other are one
digit, full stops and underlines are none. Some choices remain: whether a loose bar belongs to the
5, and where two digits that touch are cut. Of these the one is taken with the highest `sureness`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ._components import Components, Labels, Mask
from ._planes import Floats

Sureness = Callable[[Sequence[Mask]], Sequence[float]]
"How sure a network is of each of several digits, masks (height, width), from 0 to 1."

TALL = 0.4  # height of a digit, relative to the others' median; a stop or a bar is less
CONSIDERED = 0.25  # height of what that median is taken of, relative to the tallest,
NARROW = 1.2  # and most width, relative to the height
FLAT = 1.4  # width of a bar or an underline, relative to its height
LONG = 1.3  # width of an underline, relative to the height of a digit
STRAIGHT = 0.12  # standard deviation of its pixels from a straight line, likewise
LOW = 0.5  # most height of such, relative to that of a digit
OVERLAP = 0.5  # of columns, relative to the narrower, of fragments that stand above each other
GAP = 0.15  # between such fragments, relative to the height of both together
LOOSE = 0.6  # distance of a bar from its digit, relative to the digit's height
SAME_LINE = 0.3  # vertical overlap of neighbours on a line, relative to the lower of the two
BASE = 0.3  # of a digit's height, from its bottom: an underline is not above it
CLOSE = 0.15  # distance of the halves of a digit, relative to its height
JOINED = 0.95  # least probability of the digit that they make, more than that of one of them
WIDE = 0.95  # width from which two digits may touch, relative to the height
TOO_WIDE = 1.15  # the same from which one digit needs no doubt to be cut
VERY_WIDE = 1.4  # the same from which it is cut in any case
LEAD = 0.05  # of the whole's probability over the pieces', up to which it is cut
SURE = 0.9  # least probability of the pieces, and most of a whole that is not too wide
CUTS = 5  # places that are tried
CUT_ROWS = 48  # rows of the reduced picture in which cuts are found
SPECK = 0.08  # longer side of a point, relative to the height of a digit; less is dust
BELOW = 0.3  # how far a comma hangs below a digit, likewise
NEXT = 1.2  # distance of a sign from the digit that follows, likewise
SMALL = 0.12  # height of a smaller line of writing, likewise,
MIN_SMALL = 6  # and in pixels
MIN_PIECE = 0.15  # width and ink of a piece, relative to the whole


@dataclass(frozen=True, eq=False)
class _Part:
    """One or more components."""

    members: tuple[int, ...]
    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        return max(self.right - self.left, 1)

    @property
    def height(self) -> int:
        return max(self.bottom - self.top, 1)

    @property
    def centre(self) -> float:
        return (self.top + self.bottom) / 2

    def join(self, other: "_Part") -> "_Part":
        return _Part(
            self.members + other.members,
            min(self.left, other.left),
            min(self.top, other.top),
            max(self.right, other.right),
            max(self.bottom, other.bottom),
        )

    def columns_shared(self, other: "_Part") -> float:
        """Return the columns that both cover, relative to the narrower."""
        shared = min(self.right, other.right) - max(self.left, other.left)
        return shared / min(self.width, other.width)

    def rows_shared(self, other: "_Part") -> float:
        """Return the rows that both cover, relative to the lower of the two."""
        shared = min(self.bottom, other.bottom) - max(self.top, other.top)
        return shared / min(self.height, other.height)


@dataclass(frozen=True)
class Split:
    """The digits of a picture."""

    lines: list[list[Mask]]
    "Of each line, from top to bottom, its digits from left to right, masks (height, width)."
    dropped: bool
    """Whether something was left out that may change the value: a minus or a point before a digit,
    or a pale digit. A full stop after the number and an underline do not."""


def split(components: Labels, rest: Labels, ink: Floats, sureness: Sureness | None = None) -> Split:
    """Return the digits of the ink (height, width) of a picture, line by line.

    `rest` are components that are too pale or light to be read.
    """
    digits, loose = _sort(Components.of(components))
    choices: list[list[_Part]] = []  # of each digit, what it may be
    parts = _assign(digits, loose)
    for digit, bars in parts:
        choices.append([digit])
        for bar in bars:
            choices[-1].append(digit.join(bar))

    def mask(part: _Part) -> Mask:
        return np.isin(components, part.members)

    chosen = [options[-1] for options in choices]
    if sureness is not None:
        several = [options for options in choices if len(options) > 1]
        if several:
            sure = iter(sureness([mask(each) for options in several for each in options]))
            best = {id(options): max(options, key=lambda _: next(sure)) for options in several}
            chosen = [best.get(id(options), options[0]) for options in choices]
    kept = {member for part in chosen for member in part.members}
    left_out = [part for part in loose if not kept.intersection(part.members)]
    left_out += _parts(Components.of(rest))
    lines = [
        [
            piece
            for part in _join_halves(line, mask, sureness)
            for piece in _cut(mask(part), ink, sureness)
        ]
        for line in _lines(chosen)
    ]
    return Split(lines, _changes_value(left_out, chosen))


def _parts(components: Components) -> list[_Part]:
    """Return each component, without the pixel around it."""
    return [
        _Part(
            (k,),
            *(int(side[k]) + 1 for side in (components.left, components.top)),
            *(int(side[k]) - 1 for side in (components.right, components.bottom)),
        )
        for k in range(1, len(components.area))
    ]


def _changes_value(left_out: list[_Part], digits: list[_Part]) -> bool:
    """Return whether what is left out may change the value of the digits."""
    height = float(np.median([digit.height for digit in digits]))
    small = []
    for part in left_out:
        if part.height >= TALL * height and part.width <= NARROW * part.height:
            return True  # a digit
        if max(part.width, part.height) < SPECK * height or part.width > LONG * height:
            continue
        if any(_is_before(part, digit) for digit in digits) and not any(
            part.columns_shared(digit) > OVERLAP for digit in digits
        ):
            return True  # a sign or a point
        if not _is_flat(part, height) and part.height >= max(SMALL * height, MIN_SMALL):
            small.append(part)
    # Several beside each other are a line of smaller writing.
    return any(
        one is not other and one.rows_shared(other) > OVERLAP for one in small for other in small
    )


def _is_before(part: _Part, digit: _Part) -> bool:
    """Return whether a part is on the same line as a digit and to the left of it."""
    away = digit.left - (part.left + part.right) / 2
    on_line = digit.top <= part.centre <= digit.bottom + BELOW * digit.height
    return 0 < away <= NEXT * digit.height and on_line


def _sort(components: Components) -> tuple[list[_Part], list[_Part]]:
    """Return the components that are digits, fragments joined, and the others."""
    parts = _parts(components)
    height = _typical_height(parts)
    lines = [part for part in parts if _is_line(components, part, height)]
    parts = _join_fragments([part for part in parts if part not in lines], height)
    height = _typical_height(parts) if parts else height
    digits = [part for part in parts if part.height >= TALL * height and not _is_flat(part, height)]
    if not digits:
        return parts or lines, []
    return digits, lines + [part for part in parts if part not in digits]


def _typical_height(parts: list[_Part]) -> float:
    """Return the median height of what may be digits."""
    tallest = max(part.height for part in parts)
    heights = [
        part.height
        for part in parts
        if part.height >= CONSIDERED * tallest and part.width <= NARROW * part.height
    ]
    return float(np.median(heights or [tallest]))


def _is_flat(part: _Part, height: float) -> bool:
    """Return whether a part is a bar, beside digits of the given height."""
    return part.width > FLAT * part.height and part.height < LOW * height


def _is_line(components: Components, part: _Part, height: float) -> bool:
    """Return whether a part is a straight line, such as an underline that rises or falls."""
    if part.width < LONG * height:
        return False
    y, x = np.nonzero(np.isin(components.numbers, part.members))
    slope, at = np.polyfit(x, y, 1)
    return bool(np.std(y - slope * x - at) < STRAIGHT * height)


def _join_fragments(parts: list[_Part], height: float) -> list[_Part]:
    """Join parts that stand above each other with hardly a gap: a digit whose strokes are broken.

    Underlines are no fragments.
    """
    parts = sorted(parts, key=lambda part: -part.height)
    joined: list[_Part] = []
    for part in parts:
        for i, other in enumerate(joined):
            upper, lower = (other, part) if other.top < part.top else (part, other)
            both = other.join(part)
            gap = lower.top - upper.bottom
            inside = part.columns_shared(other) > OVERLAP
            if not inside or gap > GAP * both.height:
                continue
            if _is_flat(part, height) and part.bottom > other.bottom - BASE * other.height:
                continue
            beside = min(part.height, other.height) > 0.6 * both.height
            if beside and part.columns_shared(other) < 0.9:
                continue  # two slanted digits
            joined[i] = both
            break
        else:
            joined.append(part)
    return joined


def _assign(digits: list[_Part], loose: list[_Part]) -> list[tuple[_Part, list[_Part]]]:
    """Return each digit with the loose parts that may belong to it, such as the bar of a 5."""
    bars: list[list[_Part]] = [[] for _ in digits]
    for part in loose:
        away = [
            max(digit.left - part.right, part.left - digit.right, 0)
            + max(digit.top - part.bottom, part.top - digit.bottom, 0)
            for digit in digits
        ]
        nearest = int(np.argmin(away))
        digit = digits[nearest]
        near = away[nearest] <= LOOSE * digit.height
        above_base = part.bottom < digit.bottom - BASE * digit.height
        big_enough = max(part.width, part.height) > 0.12 * digit.height
        if near and above_base and big_enough:
            bars[nearest].append(part)
    return list(zip(digits, bars, strict=True))


def _lines(digits: Iterable[_Part]) -> list[list[_Part]]:
    """Return digits line by line, from top to bottom, each from left to right.

    A line may rise or fall: each digit continues the line whose last digit is beside it.
    """
    lines: list[list[_Part]] = []
    for digit in sorted(digits, key=lambda part: part.left):
        shared = [line[-1].rows_shared(digit) for line in lines]
        if shared and max(shared) > SAME_LINE:
            lines[int(np.argmax(shared))].append(digit)
        else:
            lines.append([digit])
    return sorted(lines, key=lambda line: float(np.mean([part.centre for part in line])))


def _join_halves(
    line: list[_Part], mask: Callable[[_Part], Mask], sureness: Sureness | None
) -> list[_Part]:
    """Join neighbours of which one is unsure and that are sure together, as halves of a 4."""
    joined: list[_Part] = []
    for part in line:
        if joined:
            before, both = joined[-1], joined[-1].join(part)
            close = part.left - before.right <= CLOSE * both.height
            if close and both.width <= NARROW * both.height:
                if sureness is None:
                    together = before.columns_shared(part) > OVERLAP
                else:
                    sure = sureness([mask(each) for each in (before, part, both)])
                    together = min(sure[:2]) < JOINED < sure[2]
                if together:
                    joined[-1] = both
                    continue
        joined.append(part)
    return joined


def _cut(digit: Mask, ink: Floats, sureness: Sureness | None) -> list[Mask]:
    """Return the digits of a mask (height, width) in which several may touch."""
    rows, columns = np.flatnonzero(digit.any(1)), np.flatnonzero(digit.any(0))
    height, width = int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1
    if sureness is None or width < WIDE * height or min(width, height) < 8:
        return [digit]
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    pairs = []
    inside = np.where(digit, ink, 0)[box]
    for left in _cuts(inside):
        if all(_is_piece(inside * half, float(inside.sum())) for half in (left, ~left)):
            one, other = np.zeros_like(digit), np.zeros_like(digit)
            one[box], other[box] = digit[box] & left, digit[box] & ~left
            pairs.append((one, other))
    if not pairs:
        return [digit]
    sure = sureness([digit, *(piece for pair in pairs for piece in pair)])
    if width < TOO_WIDE * height and sure[0] > SURE:
        return [digit]
    surest = [min(sure[1 + 2 * i], sure[2 + 2 * i]) for i in range(len(pairs))]
    best = int(np.argmax(surest))
    if width < VERY_WIDE * height and surest[best] < max(sure[0] - LEAD, SURE):
        return [digit]
    return [piece for half in pairs[best] for piece in _cut(half, ink, sureness)]


def _is_piece(ink: Floats, whole: float) -> bool:
    """Return whether ink (height, width) cut off a whole has the height and ink of a digit."""
    rows = np.flatnonzero((ink > 0.5).any(1))
    high = len(rows) > 0 and np.ptp(rows) + 1 >= TALL * len(ink)
    return bool(high and ink.sum() >= MIN_PIECE * whole)


def _cuts(ink: Floats) -> list[Mask]:
    """Return what lies to the left of each of several cuts through ink, masks (height, width).

    A cut goes from top to bottom where there is least ink, one column aside in a row at most
    (dynamic programming, as in seam carving by Avidan and Shamir 2007).
    """
    height, width = ink.shape
    n = max(1, -(-height // CUT_ROWS))
    padded = np.pad(ink, ((0, -height % n), (0, -width % n)))
    small = padded.reshape(padded.shape[0] // n, n, padded.shape[1] // n, n).mean((1, 3))
    columns = small.shape[1]
    margin = max(1, round(MIN_PIECE * columns))
    masks: list[Mask] = []
    taken: list[float] = []
    places = np.linspace(margin, columns - 1 - margin, 2 * CUTS + 1)
    seams = [_seam(small, place) for place in places]
    for _, seam in sorted(seams, key=lambda each: each[0]):
        middle = float(seam.mean())
        if any(abs(middle - other) < 0.06 * columns for other in taken):
            continue
        taken.append(middle)
        at = np.repeat(seam * n + n / 2, n)[:height]
        masks.append(np.arange(width) < at[:, None])
        if len(masks) == CUTS:
            break
    return masks


def _seam(ink: Floats, place: float) -> tuple[float, "np.ndarray"]:
    """Return the cost of the best cut near a column, and its column in each row."""
    rows, columns = ink.shape
    at = np.arange(columns)
    away = 0.5 * np.abs(at - place) / columns
    total = ink[0] + away
    steps = np.zeros((rows, columns), np.intp)
    for row in range(1, rows):
        padded = np.pad(total, 1, constant_values=np.inf)
        three = np.stack([padded[1:-1], padded[:-2] + 0.02, padded[2:] + 0.02])
        which = three.argmin(0)
        steps[row] = np.array([0, -1, 1])[which]
        total = three[which, at] + ink[row] + away
    column = int(total.argmin())
    cost, seam = float(total[column]), np.zeros(rows, np.intp)
    for row in range(rows - 1, -1, -1):
        seam[row] = column
        column += steps[row, column]
    return cost, seam
