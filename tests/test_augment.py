"""Augmentation against kornia, and its properties."""

import dataclasses
import warnings

import pytest
import torch

from featherweight.augment import affine, augment, gaussian_blur, jitter
from featherweight.augment import draw as draw_for
from featherweight.errors import InputError
from featherweight.recipe import Augmentation

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import kornia

N = 16


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(3)
    smooth = torch.rand(N, 1, 9, 7, generator=generator)
    return torch.nn.functional.interpolate(smooth, (28, 24), mode="bilinear")


def _augmented(images, strengths, seed):
    draws = draw_for(strengths, len(images), torch.Generator().manual_seed(seed))
    return augment(images, strengths, draws)


def draw(low, high, *shape, seed=0):
    return low + (high - low) * torch.rand(
        shape or (N,), generator=torch.Generator().manual_seed(seed)
    )


def kornia_affine(images, angle, shift, scale, shear):
    """Warp images by shift * rotate * scale * shear with kornia's matrices."""
    height, width = images.shape[-2:]
    centre = torch.tensor([[(width - 1) / 2, (height - 1) / 2]]).expand(N, 2)
    # Kornia rotates clockwise here (it negates the angle), Featherweight counter-clockwise.
    turn = kornia.geometry.transform.get_affine_matrix2d(
        shift, centre, scale[:, None].expand(N, 2), -angle
    )
    zero, one = torch.zeros(N, 2), torch.ones(N, 2)
    lean = kornia.geometry.transform.get_affine_matrix2d(
        zero, centre, one, torch.zeros(N), sx=torch.deg2rad(shear), sy=torch.zeros(N)
    )
    matrix = (turn @ lean)[:, :2]
    return kornia.geometry.transform.warp_affine(
        images, matrix, (height, width), align_corners=True
    )


@pytest.mark.parametrize("part", ["angle", "shift", "scale", "shear", "all"])
def test_affine_is_kornias(images, part):
    on = {name: part in (name, "all") for name in ("angle", "shift", "scale", "shear")}
    arguments = (
        draw(-30, 30, seed=1) * on["angle"],
        draw(-3, 3, N, 2, seed=2) * on["shift"],
        1 + draw(-0.3, 0.3, seed=3) * on["scale"],
        draw(-20, 20, seed=4) * on["shear"],
    )
    expected = kornia_affine(images, *arguments)
    torch.testing.assert_close(affine(images, *arguments), expected, atol=1e-4, rtol=0)


def test_right_down_and_counter_clockwise():
    image = torch.zeros(1, 1, 9, 7)
    image[0, 0, 4, 5] = 1  # right of the centre (4, 3)
    zero, one, still = torch.zeros(1), torch.ones(1), torch.zeros(1, 2)
    for draws, lit in (
        ((zero, torch.tensor([[1.0, 2.0]]), one, zero), (6, 6)),
        ((torch.tensor([90.0]), still, one, zero), (2, 3)),
        ((zero, still, one * 1.5, zero), (4, 6)),
    ):
        assert divmod(affine(image, *draws).argmax().item(), 7) == lit


def test_blur_is_kornias(images):
    sigma = draw(0.1, 2.0)
    both = torch.stack([sigma, sigma], 1)
    expected = kornia.filters.gaussian_blur2d(images, (5, 5), both, border_type="reflect")
    torch.testing.assert_close(gaussian_blur(images, sigma, 5), expected, atol=1e-5, rtol=0)


def test_jitter_is_kornias(images):
    brightness, contrast = draw(0.5, 1.5, seed=1), draw(0.5, 1.5, seed=2)
    expected = kornia.enhance.adjust_brightness_accumulative(images, brightness)
    expected = kornia.enhance.adjust_contrast_with_mean_subtraction(expected, contrast)
    torch.testing.assert_close(jitter(images, brightness, contrast), expected, atol=1e-5, rtol=0)


EVERYTHING = Augmentation(
    rotation=10, shift=2, scale=0.1, shear=5, blur_kernel=5, brightness=0.2, contrast=0.2
)
COLOUR = Augmentation(crop=4, flip=0.5, cutout=8)


@pytest.mark.parametrize(
    "step",
    [
        {"rotation": 20},
        {"shift": 3},
        {"scale": 0.3},
        {"shear": 20},
        {"elastic": 2},
        {"thickness": 0.9},
        {"blur_kernel": 5},
        {"brightness": 0.5},
        {"contrast": 0.5},
    ],
)
def test_every_step_moves_every_image_on_its_own(images, step):
    same = images[:1].expand(N, 1, 28, 24)
    moved = _augmented(same, Augmentation(**step), 1)
    assert len({image.numpy().tobytes() for image in [*moved, images[0]]}) == N + 1


def test_no_augmentation_leaves_images_as_they_are(images):
    assert torch.equal(_augmented(images, Augmentation(), 0), images)
    still = affine(images, torch.zeros(N), torch.zeros(N, 2), torch.ones(N), torch.zeros(N))
    torch.testing.assert_close(still, images, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        jitter(images, torch.ones(N), torch.ones(N)), images, atol=1e-6, rtol=0
    )
    torch.testing.assert_close(gaussian_blur(images, torch.full((N,), 0.01), 5), images)


def test_strokes_get_thicker_or_thinner_between_the_extremes_of_their_neighbours(images):
    moved = _augmented(images, Augmentation(thickness=0.9), 1)
    thick = torch.nn.functional.max_pool2d(images, 3, 1, 1)
    thin = -torch.nn.functional.max_pool2d(-images, 3, 1, 1)
    assert ((thin <= moved + 1e-6) & (moved <= thick + 1e-6)).all()
    grown = (moved >= images - 1e-6).all((1, 2, 3))
    shrunk = (moved <= images + 1e-6).all((1, 2, 3))
    assert (grown | shrunk).all()
    assert grown.any()
    assert shrunk.any()


def test_elastic_moves_points_by_no_more_than_it_says():
    ramp = torch.arange(28.0).expand(64, 1, 28, 28)  # the value of a pixel is its column
    moved = _augmented(ramp, Augmentation(elastic=2), 1)
    away = (moved - ramp)[..., 6:-6, 6:-6]
    assert 1.0 < away.abs().max() <= 2.6  # bicubic overshoots its points a little
    assert away.std((1, 2, 3)).min() > 0.05  # not one shift for the whole image


def test_a_seed_means_one_draw_and_each_image_has_its_own(images):
    same = images[:1].expand(N, 1, 28, 24)
    first, again, other = (_augmented(same, EVERYTHING, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len({image.numpy().tobytes() for image in first}) == N
    assert first.shape == same.shape
    assert first.min() >= 0
    assert first.max() <= 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"rotation": -1},
        {"rotation": 90},
        {"scale": 1.0},
        {"blur_kernel": 4},
        {"blur_sigma": (0, 1)},
        {"blur_sigma": (2, 1)},
        {"blur_kernel": -1},
        {"contrast": 1.5},
        {"brightness": 1.0},
        {"shift": -1},
        {"shear": float("nan")},
        {"flip": 1.1},
        {"crop": 1.5},
        {"cutout": 0.5},
        {"crop": -1},
    ],
)
def test_strengths_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        Augmentation(**wrong)


@pytest.mark.parametrize("strengths", [EVERYTHING, COLOUR])
def test_a_part_of_a_batch_is_augmented_as_in_the_batch(images, strengths):
    draws = draw_for(strengths, N, torch.Generator().manual_seed(1))
    whole = augment(images, strengths, draws)
    for part in (slice(0, 7), slice(7, N)):
        torch.testing.assert_close(
            augment(images[part], strengths, draws.of(part)), whole[part], atol=1e-5, rtol=1e-5
        )


def test_what_is_not_used_draws_nothing():
    plain, colour = (
        draw_for(strengths, N, torch.Generator().manual_seed(1))
        for strengths in (EVERYTHING, dataclasses.replace(EVERYTHING, crop=4, flip=0.5, cutout=8))
    )
    assert torch.equal(plain.uniform, colour.uniform)
    assert plain.crop is plain.flip is plain.cutout is None


def test_a_flip_exchanges_left_and_right_with_its_probability():
    images = torch.rand(2000, 3, 4, 5, generator=torch.Generator().manual_seed(3))
    moved = _augmented(images, Augmentation(flip=0.3), 1)
    flipped = (moved == images.flip(3)).all((1, 2, 3))
    assert torch.equal(moved[~flipped], images[~flipped])
    assert 0.25 < flipped.float().mean() < 0.35
    assert torch.equal(_augmented(images, Augmentation(flip=1), 1), images.flip(3))


def test_a_crop_is_a_piece_of_the_image_padded_by_reflection():
    images = torch.rand(500, 3, 6, 8, generator=torch.Generator().manual_seed(3))
    moved = _augmented(images, Augmentation(crop=2), 1)
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2), mode="reflect")
    pieces = torch.stack([padded[..., i : i + 6, j : j + 8] for i in range(5) for j in range(5)])
    where = (pieces == moved).all(4).all(3).all(2)  # (25, 500)
    assert (where.sum(0) == 1).all()
    assert (where.sum(1) > 0).all()  # every shift occurs


def test_a_cutout_is_a_square_of_the_mean_that_may_be_partly_outside():
    images = 1 + torch.rand(500, 3, 12, 10, generator=torch.Generator().manual_seed(3))
    draws = draw_for(Augmentation(cutout=4), 500, torch.Generator().manual_seed(1))
    moved = augment(images, Augmentation(cutout=4), draws, 0.25)
    filled = moved != images
    assert torch.equal(moved[filled], torch.full((int(filled.sum()),), 0.25))
    assert torch.equal(filled.all(1), filled.any(1))  # all channels alike
    rows, columns = filled[:, 0].any(2).sum(1), filled[:, 0].any(1).sum(1)
    assert torch.equal(filled[:, 0].sum((1, 2)), rows * columns)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (2, 4, 2, 4)
    assert filled[:, 0].any(0).all()  # every pixel may be cut out


def test_channels_are_moved_alike():
    grey = torch.rand(N, 1, 28, 24, generator=torch.Generator().manual_seed(3))
    same = dataclasses.replace(EVERYTHING, elastic=1, thickness=0.5, crop=2, flip=0.5, cutout=5)
    moved = _augmented(grey.expand(N, 3, 28, 24), same, 1)
    assert torch.equal(moved, moved[:, :1].expand(N, 3, 28, 24))
    torch.testing.assert_close(moved[:, :1], _augmented(grey, same, 1), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("strengths", "name"),
    [(Augmentation(crop=24), "crop"), (Augmentation(blur_kernel=49), "blur_kernel")],
)
def test_images_that_are_too_small_for_a_change_are_refused(images, strengths, name):
    with pytest.raises(InputError, match=f"{name}: got images of 28x24 pixels and a padding of 24"):
        _augmented(images, strengths, 0)
    smaller = Augmentation(**{name: getattr(strengths, name) - (2 if "blur" in name else 1)})
    assert _augmented(images, smaller, 0).shape == images.shape
