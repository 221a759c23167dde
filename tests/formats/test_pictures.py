"""Pictures in folders of their classes, and in archives of such folders."""

import io
import os
import zipfile

import numpy as np
import pytest
from helpers import bomb
from PIL import Image

from featherweight.errors import InputError
from featherweight.formats import open_source

SIDES = (6, 8)  # height and width


def pixels(seed, colour=False):
    shape = (*SIDES, 3) if colour else SIDES
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def encode(image, kind="PNG", **options):
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(
        file, kind, **options
    )
    return file.getvalue()


def put(root, files):
    """Write files, content by name, into a folder, or a .zip file if it is named so."""
    if root.suffix.lower() == ".zip":
        with zipfile.ZipFile(root, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return root
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def grey(*names):
    return {name: encode(pixels(i)) for i, name in enumerate(names)}


TWO = grey("train/a/1.png", "train/b/1.png", "train/a/2.png", "test/b/1.png")


@pytest.mark.parametrize("root", ["set", "set.zip", "SET.ZIP"])
@pytest.mark.parametrize("top", ["", "cifar/", 'it\'s a "set"/'])
def test_pictures_by_class(tmp_path, root, top):
    hidden = {f"{top}train/a/.DS_Store": b"1", f"{top}train/.cache/1.png": b"1"}
    hidden |= {f"{top}train/b/Thumbs.db": b"1", f"{top}train/Thumbs.db": b"1"}
    hidden |= {f"{top}train/a/notes.txt": b"1", f"__MACOSX/{top}train/a/._1.png": b"1"}
    files = {f"{top}{name}": content for name, content in TWO.items()}
    source = open_source(put(tmp_path / root, files | hidden))
    assert source.said.classes == ("a", "b")
    assert source.by_class
    assert not source.has_val
    part = source.read("train")
    # The first of each class, then the second.
    assert part.labels.tolist() == [0, 1, 0]
    assert np.array_equal(part.images, [pixels(0), pixels(1), pixels(2)])
    assert source.read("test").labels.tolist() == [1]
    with pytest.raises(InputError, match="got no val/CLASS/PICTURE"):
        source.read("val")


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "val", "test"),
        ("Training", "valid", "testing"),
        ("TRAIN", "validation", "Test"),
        ("trainingSet", "val_images", "test-data"),
    ],
)
def test_names_of_the_parts(tmp_path, train, val, test):
    names = [f"{part}/{label}/1.png" for part in (train, val, test) for label in "ab"]
    source = open_source(put(tmp_path / "set", grey(*names)))
    assert source.has_val
    for part in ("train", "val", "test"):
        assert source.read(part).labels.tolist() == [0, 1]


@pytest.mark.parametrize("root", ["set", "set.zip"])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("train/c/1.HEIC", r"train/c/1\.HEIC: got a picture of a format that is not read.*convert"),
        ("test/b/2.avif", r"test/b/2\.avif: got a picture of a format that is not read"),
        ("train/c/1.txt", r"no picture of class 'c' in train, but train/c/1\.txt"),
    ],
)
def test_no_class_is_passed_over(tmp_path, root, name, message):
    with pytest.raises(InputError, match=message):
        open_source(put(tmp_path / root, TWO | {name: b"1"}))


def test_a_class_without_pictures_is_told(tmp_path):
    root = put(tmp_path, TWO)
    (root / "train/c").mkdir()
    with pytest.raises(InputError, match="no picture of class 'c' in train, but no file"):
        open_source(root)
    put(root, grey("train/c/more/1.png"))
    with pytest.raises(InputError, match="no picture of class 'c' in train, but no file"):
        open_source(root)


@pytest.mark.parametrize("root", ["set", "set.zip"])
@pytest.mark.parametrize("top", ["trainingSet/trainingSet", "training_data/train"])
def test_a_part_in_a_folder_named_as_a_part_is_no_class(tmp_path, root, top):
    names = [f"{top}/{label}/1.png" for label in "ab"]
    folders = {} if root == "set" else {f"{name}/": b"" for name in (top, f"{top}/a", f"{top}/b")}
    files = {**folders, f"{top}/notes.txt": b"1", **grey(*names)}
    source = open_source(put(tmp_path / root, files))
    assert source.said.classes == ("a", "b")
    assert source.read("train").labels.tolist() == [0, 1]


def test_classes_named_by_numbers_are_in_their_order(tmp_path):
    names = [f"train/{label}/1.png" for label in range(12)]
    assert open_source(put(tmp_path, grey(*names))).said.classes == tuple(map(str, range(12)))
    (tmp_path / "data.toml").write_text(f"classes = {list('abcdefghijkl')}")
    assert open_source(tmp_path).said.classes == tuple("abcdefghijkl")


def test_an_archive_may_say_what_it_is(tmp_path):
    path = put(tmp_path / "a.zip", TWO)
    (tmp_path / "data.toml").write_text('polarity = "dark on light"')
    assert open_source(path).said.polarity == "dark on light"
    path = put(tmp_path / "a.zip", TWO | {"data.toml": b'polarity = "natural"'})
    said = open_source(path).said
    assert (said.polarity, said.classes) == ("natural", ("a", "b"))
    put(path, TWO | {"data.toml": b'polarity = "none"'})
    with pytest.raises(InputError, match=r"a\.zip \(data\.toml\): polarity"):
        open_source(path)


def read(tmp_path, *contents):
    """Return the training images of a folder with these files, in turn of two classes."""
    files = {f"train/{'ab'[i % 2]}/{i}.png": content for i, content in enumerate(contents)}
    return open_source(put(tmp_path / "set", files)).read("train").images


def test_modes_of_grey(tmp_path):
    image = pixels(0)
    deep = image.astype(np.uint16) * 257
    images = read(
        tmp_path,
        encode(image),
        encode(deep),
        encode(deep, "TIFF"),
        encode(Image.fromarray(image).convert("P")),
        encode(Image.fromarray(image).convert("LA")),
        encode(image, "BMP"),
        encode(image, "PPM"),
    )
    assert images.shape == (7, *SIDES)
    assert all(np.array_equal(each, image) for each in images)
    bits = read(tmp_path, encode(Image.fromarray(image > 127)), encode(image))
    assert np.array_equal(bits[0], np.where(image > 127, 255, 0))


def test_modes_of_colour(tmp_path):
    image = pixels(0, colour=True)
    few = Image.fromarray(image // 128 * 255)
    images = read(
        tmp_path,
        encode(image),
        encode(Image.fromarray(image).convert("RGBA")),
        encode(image, "WEBP", lossless=True),
        encode(few.convert("P", palette=Image.Palette.ADAPTIVE, colors=8)),
        encode(few.convert("CMYK"), "TIFF"),
        encode(pixels(1)),
    )
    assert images.shape == (6, *SIDES, 3)
    assert all(np.array_equal(each, image) for each in images[:3])
    assert all(np.array_equal(each, few) for each in images[3:5])
    assert np.array_equal(images[5], np.repeat(pixels(1)[..., None], 3, 2))  # grey among colour


def test_a_picture_is_turned_as_its_camera_says(tmp_path):
    image = Image.fromarray(pixels(0))
    exif = image.getexif()
    exif[0x0112] = 3  # upside down
    turned = read(tmp_path, encode(image, exif=exif), encode(image))
    assert np.array_equal(turned[0], turned[1][::-1, ::-1])


def animated():
    frames = [Image.fromarray(pixels(seed)) for seed in (0, 1)]
    return encode(frames[0], "GIF", save_all=True, append_images=frames[1:])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (encode(np.zeros((8, 6), np.uint8)), "got 6x8 pixels, expected 8x6, as .*/1.png"),
        (encode(np.zeros((65, 8), np.uint8)), "got 8x65 pixels, expected at most 64x64"),
        (bomb(), "400000000 pixels.*expected at most 64x64"),
        (animated(), "several frames"),
        (encode(np.zeros((*SIDES, 4), np.uint8)), "transparent pixels"),
        (encode(Image.new("F", SIDES[::-1]), "TIFF"), "floats"),
        (encode(Image.fromarray(np.full(SIDES, 70_000, np.int32)), "TIFF"), "70000"),
        (b"", "got no readable image, expected one of PNG"),
        (b"nonsense", "got no readable image, expected one of PNG"),
        (encode(pixels(0))[:-30], r"got no readable image \("),
        (encode(pixels(0))[:40], "got no readable image, expected one of PNG"),
        (bytes(5_000_000), "over 4,000,000 bytes"),
    ],
)
@pytest.mark.parametrize("root", ["set", "set.zip"])
def test_a_wrong_picture_is_named_in_one_line(tmp_path, content, message, root):
    source = open_source(put(tmp_path / root, TWO | {"train/b/odd one.png": content}))
    with pytest.raises(InputError, match=rf"train/b/odd one\.png.*{message}") as caught:
        source.read("train")
    assert str(tmp_path / root) in caught.value.message
    assert "\n" not in str(caught.value)


def test_files_that_can_not_be_read_are_named(tmp_path):
    folder = put(tmp_path / "set", TWO)
    odd = folder / "train" / "b" / "2.png"
    odd.mkdir()
    with pytest.raises((InputError, OSError), match=r"train/b/2\.png"):
        open_source(folder).read("train")
    odd.rmdir()
    odd.symlink_to(odd)
    with pytest.raises(OSError, match=r"train/b/2\.png"):
        open_source(folder).read("train")
    odd.unlink()
    os.mkfifo(odd)
    with pytest.raises(InputError, match=r"train/b/2\.png: not a file"):
        open_source(folder).read("train")


def test_links_that_lead_back_are_no_classes(tmp_path):
    folder = put(tmp_path / "set", TWO)
    (folder / "train" / "c").symlink_to(folder / "train" / "c")
    (folder / "train" / "d").symlink_to(folder)
    assert open_source(folder).said.classes == ("a", "b")


@pytest.mark.parametrize("root", ["set", "set.zip"])
def test_folders_in_another_order_are_refused_with_the_way_on(tmp_path, root):
    two = grey(*(f"{label}/{i}.png" for label in "ab" for i in range(2)))
    path = put(tmp_path / root, two)
    with pytest.raises(InputError, match=r"folders a, b with pictures|but a/0\.png") as told:
        open_source(path)
    assert "train" in told.value.hint


def test_a_part_alone_and_pictures_without_classes_are_refused_with_the_way_on(tmp_path):
    path = put(tmp_path / "set", TWO)
    with pytest.raises(InputError, match="one part of a data set, with the classes a, b") as told:
        open_source(path / "train")
    assert told.value.hint == f"name the folder above: --data {path}"
    # Kaggle's CIFAR-10: pictures by number, and a table of their labels.
    kaggle = put(tmp_path / "kaggle", grey("train/1.png", "train/2.png", "test/1.png"))
    (kaggle / "trainLabels.csv").write_text("id,label\n1,frog\n")
    with pytest.raises(InputError, match=r"train/1\.png: a picture in no folder of its class"):
        open_source(kaggle)


@pytest.mark.parametrize("root", ["set", "set.zip"])
def test_wrong_classes_are_refused(tmp_path, root):
    for files, message in (
        (grey("train/a/1.png"), "classes: got"),
        (grey(*(f"train/{i}/1.png" for i in range(257))), "2 to 256"),
        (TWO | grey("test/c/1.png"), "got class 'c' in test, expected one of .* train: a, b"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            open_source(put(tmp_path / root, files)).read("train")
        assert str(tmp_path / root) in caught.value.message
        if root == "set":
            os.rename(tmp_path / root, tmp_path / f"old-{len(message)}")


def test_an_archive_of_something_else_is_refused(tmp_path):
    for files, message in (
        ({"gzip/emnist-letters-train-images-idx3-ubyte.gz": b"1"}, "but gzip/emnist-letters"),
        ({}, "but no file"),
        ({"a/train/c/1.png": b"", "b/train/c/1.png": b""}, "several data sets in it, in 'a/'"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            open_source(put(tmp_path / "a.zip", files))
        assert "unpack it" in caught.value.hint


def test_an_archive_made_to_do_harm_is_refused_in_one_line(tmp_path):
    path = tmp_path / "a.zip"
    whole = put(path, TWO).read_bytes()
    for content in (whole[:-100], b"", b"PK"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"a\.zip: damaged \.zip file"):
            open_source(path)
    encrypted = bytearray(whole)
    encrypted[encrypted.find(b"PK\x01\x02") + 8] |= 1
    spoilt = bytearray(whole)
    spoilt[60] ^= 255
    for content, message in ((encrypted, "encrypted"), (spoilt, r"a\.zip")):
        path.write_bytes(content)
        with pytest.raises(InputError, match=message):
            open_source(path).read("train")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        for name, content in TWO.items():
            archive.writestr(name, content)
    with pytest.raises(InputError, match="compression method 14"):
        open_source(path).read("train")
    put(path, TWO)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("train/a/1.png", b"")
    with pytest.raises(InputError, match="a file twice"):
        open_source(path)
