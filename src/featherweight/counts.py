"""How many of a number of images were read right, as text and with its uncertainty.

Example:
    percent(9943, 10_000)       # "99.43 % (57 wrong of 10,000)"
    wilson(9943, 10_000)        # (0.9926, 0.9956)
"""

import math


def wilson(correct: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """Return the Wilson score interval of a fraction (Wilson 1927), 95 % by default.

    Near an accuracy of 1 it covers better than the normal approximation.
    """
    p, n = correct / total, total
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def percent(correct: int, total: int) -> str:
    """Return an accuracy as text, such as `99.43 % (57 wrong of 10,000)`."""
    return f"{100 * correct / total:.2f} % ({total - correct:,} wrong of {total:,})"
