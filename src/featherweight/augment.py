"""Batched augmentation: one draw per image, a few tensor operations a batch, on the images' device.

    generator = torch.Generator().manual_seed(1)
    images = augment(images, Augmentation(rotation=10, shift=1), generator)     # (n, 1, height, width) in [0, 1]

The draws are made on the CPU whatever the device, so that a seed means the same everywhere.
"""

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
    """Rotate about the centre, scale and shear, then move; bilinear, black outside.

    images (n, c, height, width); angle (n,) degrees, counter-clockwise as seen; shift (n, 2) pixels, right
    and down; scale (n,) factor; shear (n,) degrees along x.
    """
    height, width = images.shape[-2:]
    radians = torch.deg2rad(angle)
    cos, sin, tan = radians.cos(), radians.sin(), torch.deg2rad(shear).tan()
    # Output pixel -> input pixel (both from the centre): the inverse of shift * rotate * scale * shear.
    # rotate is [[cos, sin], [-sin, cos]] with y pointing down; shear is [[1, -tan], [0, 1]].
    a, b = (cos + tan * sin) / scale, (-sin + tan * cos) / scale
    c, d = sin / scale, cos / scale
    # Pixels from the centre: x (1, 1, width), y (1, height, 1).
    x = torch.arange(width, device=images.device)[None, None] - (width - 1) / 2
    y = torch.arange(height, device=images.device)[None, :, None] - (height - 1) / 2
    a, b, c, d, dx, dy = (v[:, None, None] for v in (a, b, c, d, shift[:, 0], shift[:, 1]))
    x, y = x - dx, y - dy
    # grid_sample measures in half sides. (n, height, width, 2)
    grid = torch.stack([(a * x + b * y) * (2 / width), (c * x + d * y) * (2 / height)], 3)
    if bend is not None:
        grid += bend
    return F.grid_sample(images, grid, align_corners=False)


def gaussian_blur(images: Tensor, sigma: Tensor, kernel_size: int) -> Tensor:
    """Blur image i with standard deviation sigma[i] (pixels); mirrored at the border."""
    radius = kernel_size // 2
    offsets = torch.arange(-radius, radius + 1, device=images.device)
    kernel = torch.exp(-(offsets**2) / (2 * sigma[:, None] ** 2))
    kernel = (kernel / kernel.sum(1, keepdim=True))[:, :, None, None, None]  # (n, k, 1, 1, 1)
    height, width = images.shape[-2:]
    x = F.pad(images, (radius,) * 4, mode="reflect")
    # Separable: along the rows, then along the columns.
    x = torch.stack([kernel[:, k] * x[..., k : k + width] for k in range(kernel_size)]).sum(0)
    return torch.stack([kernel[:, k] * x[..., k : k + height, :] for k in range(kernel_size)]).sum(
        0
    )


def jitter(images: Tensor, brightness: Tensor, contrast: Tensor) -> Tensor:
    """Multiply image i by brightness[i], then its distance from its own mean by contrast[i]; clipped."""
    x = (images * brightness[:, None, None, None]).clamp(0, 1)
    mean = x.mean((1, 2, 3), keepdim=True)
    return ((x - mean) * contrast[:, None, None, None] + mean).clamp(0, 1)


def augment(
    images: Tensor,
    strengths: Augmentation,
    generator: torch.Generator,
    total: int | None = None,
    part: slice = slice(None),
) -> Tensor:
    """images (n, 1, height, width) float in [0, 1] -> the same, each with a draw of its own.

    Where the images are `part` of a batch of `total`, their draws are those that they have in the batch."""
    total = len(images) if total is None else total
    draws = torch.rand((8, total), generator=generator)[:, part].to(images.device)
    signed = 2 * draws - 1  # in [-1, 1)
    if strengths.blur_kernel:
        least, most = strengths.blur_sigma
        images = gaussian_blur(images, least + (most - least) * draws[0], strengths.blur_kernel)
    if strengths.thickness:
        t = (strengths.thickness * signed[7])[:, None, None, None]
        thick, thin = F.max_pool2d(images, 3, 1, 1), -F.max_pool2d(-images, 3, 1, 1)
        images = images + t.clamp(min=0) * (thick - images) + (-t).clamp(min=0) * (thin - images)
    bend = None
    if strengths.elastic:
        height, width = images.shape[-2:]
        points = 2 * torch.rand((total, 2, 5, 5), generator=generator)[part] - 1
        points *= torch.tensor([2 / width, 2 / height])[:, None, None] * strengths.elastic
        bend = F.interpolate(
            points.to(images.device), (height, width), mode="bicubic", align_corners=True
        )
        bend = bend.permute(0, 2, 3, 1)
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
