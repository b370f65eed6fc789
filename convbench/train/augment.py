"""Random changes of training images, the same for an image and its mask.

All changes of place are one affine map and one resampling: bilinear for images, nearest for masks, whose classes
must not be mixed. What lies outside repeats the border.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch.nn import functional as F

Tensor = torch.Tensor

SHIFT = 0.08  # of the image's size, each way
CROP = 0.12  # a window between this much smaller and as much larger than the image
ROTATE = 0.26  # radians, 15 degrees each way
NOISE = 0.03  # standard deviation; images lie in 0 to 1


def augmented(
    images: Tensor, masks: Tensor | None, kinds: Collection[str], generator: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    """images (N,C,H,W) and masks (N,H,W) or None, each changed at random in the ways named."""
    if set(kinds) - {"noise"}:
        theta = _maps(len(images), kinds, generator, images.shape[2] / images.shape[3])
        grid = F.affine_grid(theta, [len(images), 1, *images.shape[2:]], align_corners=False)
        images = F.grid_sample(images, grid, "bilinear", "border", align_corners=False)
        if masks is not None:
            moved = F.grid_sample(masks[:, None].float(), grid, "nearest", "border", align_corners=False)
            masks = moved[:, 0].to(masks.dtype)
    if "noise" in kinds:
        images = images + NOISE * torch.randn(images.shape, generator=generator)
    return images, masks


def _maps(n: int, kinds: Collection[str], generator: torch.Generator, ratio: float) -> Tensor:
    """(n,2,3) maps from output to input places, in units of half the width and half the height; ratio is H/W.

    A kind that is not asked for draws nothing."""

    def within(limit: float, kind: str) -> Tensor:
        return limit * (2 * torch.rand(n, generator=generator) - 1) if kind in kinds else torch.zeros(n)

    mirror = torch.where(within(1.0, "flip") < 0, -1.0, 1.0)
    angle, scale = within(ROTATE, "rotate"), 1 + within(CROP, "crop")
    cos, sin = scale * angle.cos(), scale * angle.sin()
    x, y = (2 * within(SHIFT, "shift") + (scale - 1) * within(1.0, "crop") for _ in range(2))
    return torch.stack(
        [torch.stack([mirror * cos, -sin * ratio, x], 1), torch.stack([mirror * sin / ratio, cos, y], 1)], 1
    )
