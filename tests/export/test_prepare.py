"""Pictures prepared in integers: the C code against its definition, and what that does."""

import shutil
import struct
import subprocess

import numpy as np
import pytest
import torch
from helpers import COMPILERS, WARNINGS
from PIL import Image

from featherweight.errors import InputError
from featherweight.export.firmware import ARM_COMPILER, CHIPS, measure, read_on_chip
from featherweight.export.prepare import (
    CODE,
    MAX_SIDE,
    RAM,
    STACK,
    prepare_integers,
    prepare_source,
)
from featherweight.inference.prepare import prepare
from featherweight.inference.stress import stroke

PROGRAM = """
#include <stdio.h>

#include "prepare.h"

int main(void)
{
    static uint8_t picture[PREPARE_MAX_SIDE * PREPARE_MAX_SIDE], image[28 * 28];
    uint16_t size[2];

    while (fread(size, 2, 2, stdin) == 2) {
        size_t n = (size_t)size[0] * size[1];

        if (n <= sizeof picture && fread(picture, 1, n, stdin) != n)
            return 2;
        putchar(digit_prepare(picture, size[0], size[1], image));
        fwrite(image, 1, sizeof image, stdout);
    }
    return 0;
}
"""

# Lets the program for chips, which reads images, prepare pictures: scores are the image's pixels.
CHIP_HEADER = """
#include <stdint.h>
#define DIGIT_HEIGHT {height}
#define DIGIT_WIDTH {width}
#define DIGIT_CLASSES (28 * 28)
int digit_read(const uint8_t *image, int32_t *scores);
int digit_looks(void);
"""
CHIP_SOURCE = """
#include "digit.h"
#include "prepare.c"

int digit_read(const uint8_t *image, int32_t *scores)
{
    static uint8_t pixels[DIGIT_CLASSES];
    int i, found = digit_prepare(image, DIGIT_WIDTH, DIGIT_HEIGHT, pixels);

    for (i = 0; i < DIGIT_CLASSES; i++)
        scores[i] = pixels[i];
    return found;
}

int digit_looks(void)
{
    return 1;
}
"""


def digit(label, side, rng):
    """A digit that is drawn as strokes, as grey levels (side, side): black on white."""
    picture = Image.fromarray(stroke(label, rng)).convert("L").resize((side, side))
    return np.asarray(picture)


def pixels(shapes):
    """Pictures with a single pixel of ink."""
    for shape in shapes:
        page = np.zeros(shape, np.uint8)
        page[shape[0] // 2, shape[1] // 2] = 255
        yield page


def pictures():
    """Return pictures of every kind and of sizes from 1x1 to 320x320."""
    rng = np.random.default_rng(0)
    found = [
        np.full((height, width), level, np.uint8)
        for height, width, level in ((1, 1, 0), (1, 1, 255), (320, 320, 0), (9, 320, 255))
    ]
    for height, width, step in ((28, 28, 1), (320, 320, 1), (99, 140, 7)):  # checkerboards
        y, x = np.mgrid[:height, :width] // step
        found.append((255 * ((y + x) % 2)).astype(np.uint8))
    found += [255 - page for page in pixels(((5, 5), (28, 28), (320, 1), (1, 320), (320, 320)))]
    for height, width in ((1, 320), (320, 1), (2, 3), (31, 33), (320, 320)):  # all noise
        found.append(rng.integers(0, 256, (height, width)).astype(np.uint8))
    for _ in range(25):
        height, width = rng.integers(1, 100, 2)
        noise = rng.normal(rng.integers(0, 256), rng.uniform(0, 60), (height, width))
        found.append(np.clip(noise, 0, 255).astype(np.uint8))
        dots = rng.random((height, width)) < rng.uniform(0, 0.2)  # more than are known at a time
        found.append((255 * dots).astype(np.uint8))
    for i in range(60):
        side = int(rng.integers(6, 321))
        ink = 1 - digit(i % 10, side, rng) / 255
        height, width = (int(rng.integers(side // 2 + 1, MAX_SIDE + 1)) for _ in range(2))
        page = np.zeros((height, width))
        top, left = (int(rng.integers(0, n)) - side // 4 for n in (height, width))
        shown = ink[max(-top, 0) : height - top, max(-left, 0) : width - left]
        top, left = max(top, 0), max(left, 0)
        page[top : top + shown.shape[0], left : left + shown.shape[1]] = shown
        y, x = np.mgrid[:height, :width]
        if i % 3 == 0:  # ruled lines, and a table beside the page
            page = np.maximum(page, 0.5 * (y % 40 < 2))
            page[:, : width // 9] = 0.8
        paper = rng.uniform(60, 255) * (1 - 0.4 * (i % 2) * x / width)
        level = paper + page * (rng.uniform(0, 255) - paper)
        level += rng.normal(0, (i % 4) * 3, level.shape)
        found.append(np.clip(level, 0, 255).astype(np.uint8))
    return found


@pytest.fixture(scope="module")
def expected():
    return [(picture, prepare_integers(picture)) for picture in pictures()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepare")
    for name, text in prepare_source().items():
        (folder / name).write_text(text)
    (folder / "main.c").write_text(PROGRAM)
    return folder


def run(program, pictures):
    """Return the image (28, 28) of each picture, or None."""
    given = b"".join(
        struct.pack("=HH", *picture.shape[::-1]) + picture.tobytes() for picture in pictures
    )
    done = subprocess.run([program], input=given, capture_output=True, check=True)
    assert not done.stderr
    rows = np.frombuffer(done.stdout, np.uint8).reshape(-1, 1 + 28 * 28)
    assert set(rows[:, 0]) <= {0, 1}
    return [row[1:].reshape(28, 28) if row[0] else None for row in rows]


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")
@pytest.mark.parametrize("compiler", COMPILERS)
def test_the_program_gives_the_definitions_images(folder, expected, tmp_path, compiler):
    sources = [folder / "prepare.c", folder / "main.c"]
    sanitizers = ("-fsanitize=undefined,address", "-fno-sanitize-recover")
    subprocess.run(
        [compiler, "-std=c99", "-O1", *WARNINGS, *sanitizers, *sources, "-o", tmp_path / "c"],
        check=True,
    )
    found = run(tmp_path / "c", [picture for picture, _ in expected])
    for (picture, image), other in zip(expected, found, strict=True):
        assert (image is None) == (other is None), picture.shape
        assert image is None or np.array_equal(image, other), picture.shape
    assert 40 < sum(image is not None for _, image in expected) < len(expected) - 10
    cpp = {"gcc": "g++", "clang": "clang++"}[compiler]
    subprocess.run(
        [cpp, "-x", "c++", "-std=c++11", *WARNINGS, "-c", *sources[:1]], check=True, cwd=tmp_path
    )


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")
def test_a_size_out_of_range_has_no_image(folder, tmp_path):
    sources = [folder / "prepare.c", folder / "main.c"]
    subprocess.run(["cc", "-std=c99", *sources, "-o", tmp_path / "c"], check=True)
    sizes = (0, 5), (5, 0), (321, 320), (320, 321), (65535, 65535)
    given = b"".join(struct.pack("=HH", *size) for size in sizes)
    done = subprocess.run([tmp_path / "c"], input=given, capture_output=True, check=True)
    assert not np.frombuffer(done.stdout, np.uint8).reshape(-1, 1 + 28 * 28)[:, 0].any()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which(ARM_COMPILER), reason="no ARM compiler")
def test_it_is_as_small_as_promised(folder):
    sizes = measure(folder, ARM_COMPILER, *CHIPS["m0"].flags, source="prepare.c")
    assert sizes.code + sizes.constants <= CODE
    assert sizes.ram <= RAM


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which(ARM_COMPILER), reason="no ARM compiler")
@pytest.mark.skipif(not shutil.which(CHIPS["m0"].emulator), reason="no QEMU")
def test_a_cortex_m0_gives_the_definitions_images(folder, tmp_path):
    height, width = 120, 100
    rng = np.random.default_rng(3)
    found = []
    for label, (ink, paper, noise) in enumerate(((30, 220, 0), (200, 60, 5), (120, 180, 4))):
        page = np.zeros((height, width))
        page[20:90, 10:80] = 1 - digit(label + 2, 70, rng) / 255
        page[::30] = np.maximum(page[::30], 0.6)  # ruled lines, so that all steps are needed
        level = paper + page * (ink - paper) + rng.normal(0, noise, page.shape)
        found.append(np.clip(level, 0, 255).astype(np.uint8))
    source = tmp_path / "src"
    shutil.copytree(folder, source)
    (source / "digit.h").write_text(CHIP_HEADER.format(height=height, width=width))
    (source / "digit.c").write_text(CHIP_SOURCE)
    done = read_on_chip(tmp_path, torch.tensor(np.array(found)), CHIPS["m0"])
    expected = [prepare_integers(picture) for picture in found]
    assert np.array_equal(done.scores.numpy().reshape(-1, 28, 28), expected)
    assert done.stack <= STACK


@pytest.mark.parametrize("ink", [0, 255])
def test_a_drawn_digit_is_prepared_as_in_floating_point(ink):
    """Wherever it is drawn, and however large, its image is that of `prepare`."""
    rng = np.random.default_rng(1)
    for label in range(10):
        side = int(rng.integers(120, 300))
        page = np.full((320, 320), 255, np.uint8)
        top, left = rng.integers(1, 320 - side, 2)
        page[top : top + side, left : left + side] = digit(label, side, rng)
        picture = page if ink == 0 else 255 - page
        image, other = prepare_integers(picture), prepare(picture)
        assert image is not None
        assert image.max() == 255
        assert np.abs(image.astype(int) - other).mean() < 12, label


def test_the_digit_is_centred_and_twenty_pixels_long():
    picture = np.full((200, 300), 230, np.uint8)
    picture[30:130, 40:60] = 20  # a bar
    picture[150:152, 200:202] = 20  # a speck
    image = prepare_integers(picture)
    # Around the middle of pixel (14, 14), so that the pixels at each end are half ink.
    assert np.flatnonzero(image.max(1) == 255).tolist() == list(range(5, 24))
    assert np.flatnonzero(image.max(0) == 255).tolist() == [13, 14, 15]
    assert image[[4, 24], 14].tolist() == image[14, [12, 16]].tolist() == [127, 127]


@pytest.mark.parametrize("shape", [(1, 1), (28, 28), (320, 320)])
def test_a_blank_picture_has_no_ink(shape):
    for level in (0, 100, 255):
        assert prepare_integers(np.full(shape, level, np.uint8)) is None


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((0, 5), np.uint8),
        np.zeros((5, 5)),
        np.zeros((5, 5, 3), np.uint8),
        np.zeros((321, 5), np.uint8),
    ],
    ids=["empty", "floats", "colour", "large"],
)
def test_other_pictures_are_refused(picture):
    with pytest.raises(InputError, match="expected"):
        prepare_integers(picture)
