"""Augmentation against kornia, and its properties."""

import warnings

import pytest
import torch

from featherweight.augment import affine, augment, gaussian_blur, jitter
from featherweight.augment import draw as draw_for
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
    ],
)
def test_strengths_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        Augmentation(**wrong)


def test_a_part_of_a_batch_is_augmented_as_in_the_batch(images):
    draws = draw_for(EVERYTHING, N, torch.Generator().manual_seed(1))
    whole = augment(images, EVERYTHING, draws)
    for part in (slice(0, 7), slice(7, N)):
        torch.testing.assert_close(
            augment(images[part], EVERYTHING, draws.of(part)), whole[part], atol=1e-5, rtol=1e-5
        )
