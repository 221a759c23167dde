"""Batched augmentation: one draw per image, a few tensor operations per batch, on their device.

    strengths = Augmentation(rotation=10, shift=1)
    draws = draw(strengths, len(images), torch.Generator().manual_seed(1))
    # images (n, channels, height, width), floats in [0, 1]
    images = augment(images, strengths, draws)

Random numbers are drawn on the CPU whatever the device, so that a seed gives the same draws
everywhere.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .errors import InputError
from .recipe import Augmentation


def affine(
    images: Tensor,
    angle: Tensor,
    shift: Tensor,
    scale: Tensor,
    shear: Tensor,
    bend: Tensor | None = None,
) -> Tensor:
    """Shear, scale and rotate images about their centre, then shift them.

    Pixels are interpolated bilinearly; what comes from outside an image is black.

    Args:
        images: Shape (n, c, height, width).
        angle: Rotation counter-clockwise in degrees, shape (n,).
        shift: Shift to the right and down in pixels, shape (n, 2).
        scale: Scale factor, shape (n,).
        shear: Shear along x in degrees, shape (n,).
        bend: Further displacement of each sampling point (elastic deformation), in the coordinates
            of `grid_sample`, shape (n, height, width, 2).
    """
    height, width = images.shape[-2:]
    radians = torch.deg2rad(angle)
    cos, sin, tan = radians.cos(), radians.sin(), torch.deg2rad(shear).tan()
    # Each output pixel samples an input pixel (both measured from the centre), so this is the
    # inverse of shift * rotate * scale * shear. With y pointing down, rotate is
    # [[cos, sin], [-sin, cos]] and shear is [[1, -tan], [0, 1]].
    a, b = (cos + tan * sin) / scale, (-sin + tan * cos) / scale
    c, d = sin / scale, cos / scale
    # Pixels from the centre: x (1, 1, width), y (1, height, 1).
    x = torch.arange(width, device=images.device)[None, None] - (width - 1) / 2
    y = torch.arange(height, device=images.device)[None, :, None] - (height - 1) / 2
    a, b, c, d, dx, dy = (v[:, None, None] for v in (a, b, c, d, shift[:, 0], shift[:, 1]))
    x, y = x - dx, y - dy
    # grid_sample measures in half sides: (n, height, width, 2), from -1 to 1. In memory all x come
    # first, because numbers that alternate take longer to write.
    planes = images.new_empty(len(images), 2, height, width)
    planes[:, 0] = (a * x + b * y).mul_(2 / width)
    planes[:, 1] = (c * x + d * y).mul_(2 / height)
    grid = planes.permute(0, 2, 3, 1)
    if bend is not None:
        grid += bend
    return F.grid_sample(images, grid, align_corners=False)


def gaussian_blur(images: Tensor, sigma: Tensor, kernel_size: int) -> Tensor:
    """Blur image i with a Gaussian of standard deviation sigma[i] pixels, reflecting borders."""
    radius = kernel_size // 2
    offsets = torch.arange(-radius, radius + 1, device=images.device)
    kernel = torch.exp(-(offsets**2) / (2 * sigma[:, None] ** 2))
    kernel = (kernel / kernel.sum(1, keepdim=True))[:, :, None, None, None]  # (n, k, 1, 1, 1)
    height, width = images.shape[-2:]
    x = _reflected(images, radius, "blur_kernel")
    # The Gaussian is separable: along the rows, then along the columns.
    x = torch.stack([kernel[:, k] * x[..., k : k + width] for k in range(kernel_size)]).sum(0)
    return torch.stack([kernel[:, k] * x[..., k : k + height, :] for k in range(kernel_size)]).sum(
        0
    )


def _reflected(images: Tensor, padding: int, change: str) -> Tensor:
    """Pad images by reflection. Raises InputError if they are too small for it."""
    height, width = images.shape[-2:]
    if padding >= min(height, width):
        raise InputError(
            f"{change}: got images of {height}x{width} pixels and a padding of {padding}, expected "
            "larger images or a recipe without it"
        )
    return F.pad(images, (padding,) * 4, mode="reflect")


def jitter(images: Tensor, brightness: Tensor, contrast: Tensor) -> Tensor:
    """Multiply image i by brightness[i], then its contrast about its mean by contrast[i].

    Results are clipped to [0, 1] after either step.
    """
    x = (images * brightness[:, None, None, None]).clamp(0, 1)
    mean = x.mean((1, 2, 3), keepdim=True)
    return ((x - mean) * contrast[:, None, None, None] + mean).clamp(0, 1)


@dataclass(frozen=True)
class Draws:
    """The random numbers of some images."""

    uniform: Tensor
    "In [0, 1), shape (8, n): blur, rotation, two for the shift, scale, shear, brightness, and one "
    "that contrast and thickness share."
    points: Tensor | None = None
    "In [0, 1), shape (n, 2, 5, 5): the displacements of a grid, if there is elastic deformation."
    crop: Tensor | None = None
    "In [0, 1), shape (n, 2): row and column of a crop, if images are cropped."
    flip: Tensor | None = None
    "In [0, 1), shape (n,): below the probability, an image is flipped; if there are flips."
    cutout: Tensor | None = None
    "In [0, 1), shape (n, 2): row and column of the centre of a cutout, if there is one."

    def of(self, part: slice) -> "Draws":
        """Return the draws of a part of the images."""
        others = (self.points, self.crop, self.flip, self.cutout)
        return Draws(self.uniform[:, part], *(t if t is None else t[part] for t in others))


def draw(strengths: Augmentation, n: int, generator: torch.Generator) -> Draws:
    """Draw the random numbers of n images with a generator on the CPU."""

    def rand(used: float, *shape: int) -> Tensor | None:
        return torch.rand((n, *shape), generator=generator) if used else None

    # A change that is not used draws nothing, so that recipes that came before it keep their bits.
    return Draws(
        torch.rand((8, n), generator=generator),
        points=rand(strengths.elastic, 2, 5, 5),
        crop=rand(strengths.crop, 2),
        flip=rand(strengths.flip),
        cutout=rand(strengths.cutout, 2),
    )


def cropped(images: Tensor, padding: int, places: Tensor) -> Tensor:
    """Pad images (n, c, height, width) by reflection, and cut one of the same size from each.

    `places`, in [0, 1) and of shape (n, 2), say at which row and column of the padding.
    """
    height, width = images.shape[-2:]
    padded = _reflected(images, padding, "crop")
    first = (places * (2 * padding + 1)).long()  # (n, 2)
    rows = first[:, 0, None] + torch.arange(height, device=images.device)  # (n, height)
    columns = first[:, 1, None] + torch.arange(width, device=images.device)  # (n, width)
    which = torch.arange(len(images), device=images.device)
    # Indexed dimensions come first: (n, height, width, c).
    cut = padded[which[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return cut.permute(0, 3, 1, 2)


def cut_out(images: Tensor, side: int, places: Tensor, fill: float) -> Tensor:
    """Fill a square of each of the images (n, c, height, width); part of it may be outside.

    `places`, in [0, 1) and of shape (n, 2), say where in the image its centre is.
    """

    def covered(place: Tensor, length: int) -> Tensor:
        first = (place * length).long() - side // 2  # (n,)
        from_first = torch.arange(length, device=images.device) - first[:, None]
        return (from_first >= 0) & (from_first < side)  # (n, length)

    height, width = images.shape[-2:]
    rows, columns = covered(places[:, 0], height), covered(places[:, 1], width)
    return images.masked_fill((rows[:, :, None] & columns[:, None])[:, None], fill)


def augment(images: Tensor, strengths: Augmentation, draws: Draws, mean: float = 0.0) -> Tensor:
    """Return randomly changed images, each with its own draw.

    Args:
        images: Shape (n, channels, height, width), floats in [0, 1].
        strengths: How strongly images are changed.
        draws: The random numbers of these images.
        mean: Mean of the training pixels, in [0, 1], with which cutout fills.
    """
    uniform = draws.uniform.to(images.device)
    signed = 2 * uniform - 1  # in [-1, 1)
    if strengths.blur_kernel:
        least, most = strengths.blur_sigma
        images = gaussian_blur(images, least + (most - least) * uniform[0], strengths.blur_kernel)
    if strengths.thickness:
        t = (strengths.thickness * signed[7])[:, None, None, None]
        thick, thin = F.max_pool2d(images, 3, 1, 1), -F.max_pool2d(-images, 3, 1, 1)
        images = images + t.clamp(min=0) * (thick - images) + (-t).clamp(min=0) * (thin - images)
    bend = None
    if draws.points is not None:
        height, width = images.shape[-2:]
        # Displacements of a 5x5 grid, (n, 2, 5, 5), in half sides.
        points = 2 * draws.points.to(images.device) - 1
        half_sides = torch.tensor([2 / width, 2 / height], device=images.device)
        points *= half_sides[:, None, None] * strengths.elastic
        bend = F.interpolate(points, (height, width), mode="bicubic", align_corners=True)
        bend = bend.permute(0, 2, 3, 1)  # (n, height, width, 2)
    if (
        strengths.rotation
        or strengths.shift
        or strengths.scale
        or strengths.shear
        or strengths.elastic
    ):
        images = affine(
            images,
            strengths.rotation * signed[1],
            strengths.shift * signed[2:4].T,
            1 + strengths.scale * signed[4],
            strengths.shear * signed[5],
            bend,
        )
    if strengths.brightness or strengths.contrast:
        images = jitter(
            images, 1 + strengths.brightness * signed[6], 1 + strengths.contrast * signed[7]
        )
    if draws.crop is not None:
        images = cropped(images, strengths.crop, draws.crop.to(images.device))
    if draws.flip is not None:
        flipped = (draws.flip.to(images.device) < strengths.flip)[:, None, None, None]
        images = torch.where(flipped, images.flip(3), images)
    if draws.cutout is not None:
        images = cut_out(images, strengths.cutout, draws.cutout.to(images.device), mean)
    return images


def resized(images: Tensor, factor: float) -> Tensor:
    """Return images (n, c, height, width) with their sides scaled by `factor`.

    Sides are rounded to whole pixels; interpolation is bilinear with antialiasing.
    """
    size = [max(1, round(factor * side)) for side in images.shape[-2:]]
    return F.interpolate(images, size, mode="bilinear", antialias=True)
