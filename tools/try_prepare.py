"""Compare the preparation in integers with that of `predict` on the stress set's single digits.

    python tools/try_prepare.py --model feather-20k --per-category 100 --seed 0

It makes the pictures of `featherweight stress` from validation images, turns them grey, reduces
them to at most 320 pixels along each side, and prepares each with `prepare` and with
`prepare_integers`. It prints how many of both a network reads right.
"""

import argparse
import itertools

import numpy as np
from PIL import Image

from featherweight.cli.base import load_mnist
from featherweight.export.prepare import MAX_SIDE, Bytes, prepare_integers
from featherweight.inference._stress_drawn import Picture
from featherweight.inference.prepare import prepare
from featherweight.inference.reader import Reader
from featherweight.inference.stress import BLANK, NUMBER, check_reader, make_stress


def grey(picture: Picture) -> Bytes:
    """Return the grey levels of a picture (height, width, 3), at most 320 along each side."""
    image = Image.fromarray(picture).convert("L")
    scale = max(image.size) / MAX_SIDE
    if scale > 1:
        width, height = (max(1, round(side / scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BOX)
    return np.asarray(image)


def main() -> None:
    """Make the pictures, read them, and print the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="feather-20k")
    parser.add_argument("--per-category", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    reader = Reader(given.model)
    check_reader(reader)
    val = load_mnist().val
    made = make_stress(val.pixels[:, 0].numpy(), val.labels.numpy(), given.seed, given.per_category)
    total = np.zeros(3, int)
    print(f"{'category':18} pictures, right after prepare, after prepare_integers")
    for category, group in itertools.groupby(made, lambda each: each[0]):
        if category == NUMBER:
            continue
        pictures = [(grey(picture), label) for _, picture, label in group]
        counts = [len(pictures)]
        for how in (prepare, prepare_integers):
            readings = reader.read_prepared([how(picture) for picture, _ in pictures])
            # Without the threshold of "not a digit", which the C code does not have.
            labels = [
                None if each.probabilities is None else reader.labels[each.probabilities.argmax()]
                for each in readings
            ]
            counts.append(sum(a == b for a, (_, b) in zip(labels, pictures, strict=True)))
        print(f"{category:18} {counts[0]:5} {counts[1]:5} {counts[2]:5}", flush=True)
        if category != BLANK:
            total += counts
    n, *right = total.tolist()
    percents = ", ".join(f"{100 * each / n:.2f} %" for each in right)
    print(f"single digits: {n:,} pictures, right {right[0]:,} and {right[1]:,}: {percents}")


if __name__ == "__main__":
    main()
