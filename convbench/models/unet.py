"""U-Net: Ronneberger, Fischer, Brox, MICCAI 2015, with padding and batch normalisation as Buda et al. have it.

Buda, Saha, Mazurowski, Computers in Biology and Medicine 109, 2019 (arXiv 1906.03720): the defaults here are its sizes.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from convbench.models.blocks import conv_block

INPUT = (1, 3, 256, 256)


class UNet(nn.Module):
    """An encoder that halves the map ``depth`` times, and a decoder of 2x2 stride-2 transposed convolutions."""

    def __init__(self, classes: int, channels: int, width: int, depth: int, separable: bool) -> None:
        super().__init__()
        self.depth = depth
        widths = [width << level for level in range(depth + 1)]
        sources = [channels, *widths]
        self.down = nn.ModuleList(_pair(c, k, separable and c != channels) for c, k in zip(sources, widths))  # noqa: B905
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * k, k, 2, 2) for k in widths[:-1])
        self.merge = nn.ModuleList(_pair(2 * k, k, separable) for k in widths[:-1])
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, channels, H, W) -> (N, classes, H, W) logits; H and W are multiples of 2^depth."""
        step = 1 << self.depth
        if x.shape[2] % step or x.shape[3] % step:
            raise ValueError(f"images of {x.shape[2]}x{x.shape[3]}: height and width must be multiples of {step}")
        skipped = []
        for level, block in enumerate(self.down):
            x = block(self.pool(x) if level else x)
            skipped.append(x)
        for up, merge, skip in _upwards(self.up, self.merge, skipped[:-1]):
            x = merge(torch.cat((up(x), skip), 1))
        return self.head(x)


def _upwards(*levels: Iterable) -> Iterable[tuple]:
    """From the coarsest level to the finest."""
    return reversed(list(zip(*levels, strict=True)))


def _pair(c: int, k: int, separable: bool) -> nn.Sequential:
    """Two 3x3 convolutions; the first of the network, on the image's few channels, is always dense."""
    return nn.Sequential(conv_block(c, k, separable=separable), conv_block(k, k, separable=separable))


def unet(classes: int = 1, channels: int = 3, width: int = 32, depth: int = 4, separable: bool = False) -> nn.Module:
    """(N, channels, H, W) images, sides multiples of 2^depth -> (N, classes, H, W) logits."""
    return UNet(classes, channels, width, depth, separable)
