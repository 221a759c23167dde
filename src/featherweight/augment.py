"""Batched augmentation: one draw per image, a few tensor operations per batch, on their device.

    strengths = Augmentation(rotation=10, shift=1)
    draws = draw(strengths, len(images), torch.Generator().manual_seed(1))
    # images (n, 1, height, width), floats in [0, 1]
    images = augment(images, strengths, draws)

Random numbers are drawn on the CPU whatever the device, so that a seed gives the same draws
everywhere.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

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
    x = F.pad(images, (radius,) * 4, mode="reflect")
    # The Gaussian is separable: along the rows, then along the columns.
    x = torch.stack([kernel[:, k] * x[..., k : k + width] for k in range(kernel_size)]).sum(0)
    return torch.stack([kernel[:, k] * x[..., k : k + height, :] for k in range(kernel_size)]).sum(
        0
    )


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

    def of(self, part: slice) -> "Draws":
        """Return the draws of a part of the images."""
        points = None if self.points is None else self.points[part]
        return Draws(self.uniform[:, part], points)


def draw(strengths: Augmentation, n: int, generator: torch.Generator) -> Draws:
    """Draw the random numbers of n images with a generator on the CPU."""
    uniform = torch.rand((8, n), generator=generator)
    points = torch.rand((n, 2, 5, 5), generator=generator) if strengths.elastic else None
    return Draws(uniform, points)


def augment(images: Tensor, strengths: Augmentation, draws: Draws) -> Tensor:
    """Return randomly changed images, each with its own draw.

    Args:
        images: Shape (n, 1, height, width), floats in [0, 1].
        strengths: How strongly images are changed.
        draws: The random numbers of these images.
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
    return images


def resized(images: Tensor, factor: float) -> Tensor:
    """Return images (n, c, height, width) with their sides scaled by `factor`.

    Sides are rounded to whole pixels; interpolation is bilinear with antialiasing.
    """
    size = [max(1, round(factor * side)) for side in images.shape[-2:]]
    return F.interpolate(images, size, mode="bilinear", antialias=True)
