"""A badge in SVG, as repositories show them: `featherweight | PASS 99.51 %, 7.7k`.

    svg = badge("PASS 99.51 %, 7.7k", passed=True)
    svg = verdict_badge(verdict.to_dict(), accuracy=0.9951)

Nothing is loaded for it: the picture names common fonts and says how wide each text is.
"""

from typing import Any
from xml.sax.saxutils import escape, quoteattr

from ._files import visible
from ._html import GREEN, GREY, RED

LABEL = "featherweight"
LEFT = "#444444"  # behind the label
HEIGHT, SIZE, MARGIN, ROUND = 20, 11, 6, 3  # pixels
# Widths of characters in Verdana's, which the fonts of a badge are about as wide as, in hundredths
# of their size; the others are as wide as a digit.
WIDTHS = {
    **dict.fromkeys("ijl'|", 28),
    **dict.fromkeys(" .,:;!", 37),
    **dict.fromkeys("frt()[]-/", 45),
    **dict.fromkeys("mwMW", 96),
    **dict.fromkeys("%", 108),
    **dict.fromkeys("ABCDGHKNOQRUVXYZ", 73),
}
DIGIT = 63
MAX_TEXT = 60  # characters


def badge(text: str, passed: bool | None) -> str:
    """Return a badge as SVG.

    Args:
        text: What it says, in one line.
        passed: Green if so, red if not; None: grey.
    """
    line = " ".join(visible(text).split())[:MAX_TEXT]
    colour = {True: GREEN, False: RED, None: GREY}[passed]
    left, right = _width(LABEL) + 2 * MARGIN, _width(line) + 2 * MARGIN
    whole, title = left + right, quoteattr(f"{LABEL}: {line}")
    texts = "".join(
        f'<text x="{x:g}" y="14" textLength="{_width(shown)}">{escape(shown)}</text>'
        for x, shown in ((left / 2, LABEL), (left + right / 2, line))
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{whole}" height="{HEIGHT}" role="img" '
        f"aria-label={title}>"
        f"<title>{escape(f'{LABEL}: {line}')}</title>"
        # Round corners without a clip path, whose id would clash where a page has several badges.
        f'<rect width="{whole}" height="{HEIGHT}" rx="{ROUND}" fill="{colour}"/>'
        f'<path d="M{left} 0v{HEIGHT}H{ROUND}a{ROUND} {ROUND} 0 0 1-{ROUND}-{ROUND}V{ROUND}'
        f'a{ROUND} {ROUND} 0 0 1 {ROUND}-{ROUND}z" fill="{LEFT}"/>'
        f'<g fill="#fff" text-anchor="middle" font-size="{SIZE}" '
        f'font-family="Verdana, DejaVu Sans, Geneva, sans-serif">{texts}</g></svg>\n'
    )


def verdict_badge(
    verdict: dict[str, Any] | None,
    accuracy: float | None = None,
    points: str = "",
) -> str:
    """Return the badge of a verdict.

    Args:
        verdict: As `Verdict.to_dict` returns it. None: what was handed in can't be judged.
        accuracy: Its accuracy, a fraction, where there are weights.
        points: Its points, where it is graded, such as `4 of 6 points`.
    """
    if verdict is None:
        return badge("NOT JUDGED", None)
    passed = bool(verdict["passed"])
    parts = [points] if points else []
    parts += [f"{100 * accuracy:.2f} %"] if accuracy is not None else []
    parts += [_short(verdict["n_params"])] if verdict.get("n_params") else []
    return badge(f"{'PASS' if passed else 'FAIL'} {', '.join(parts)}", passed)


def _short(n: int) -> str:
    """Return a number of parameters such as 978, 7.7k or 1.2M."""
    for unit, name in ((1_000_000, "M"), (1_000, "k")):
        if n >= unit:
            return f"{n / unit:.1f}{name}"
    return str(n)


def _width(text: str) -> int:
    """Return about how wide a text is, in pixels."""
    return round(sum(WIDTHS.get(character, DIGIT) for character in text) * SIZE / 100)
