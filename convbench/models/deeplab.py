"""A small DeepLab: dilated residual stages, a dilated context module, ASPP, bilinear up-sampling.

Chen et al., Rethinking Atrous Convolution, arXiv 1706.05587, section 3 (dilated stages, ASPP with image pooling); the
context module's dilations 1, 2, 5 are those of Wang et al., WACV 2018, which leave no gaps.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from convbench.models.blocks import conv_block, normalised
from convbench.models.resnet import stage

INPUT = (1, 3, 128, 128)


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: 1x1, a dilated 3x3 a rate, and the image's mean, joined by a 1x1."""

    def __init__(self, c: int, k: int, rates: tuple[int, ...], separable: bool) -> None:
        super().__init__()
        self.branches = nn.ModuleList([conv_block(c, k, 1)])
        self.branches.extend(conv_block(c, k, dilation=rate, separable=separable) for rate in rates)
        self.image = nn.Sequential(nn.Conv2d(c, k, 1), nn.ReLU())  # of one pixel, normalisation has no statistics
        self.join = nn.Sequential(*normalised(nn.Conv2d(k * (len(rates) + 2), k, 1, bias=False), k))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, c, H, W) -> (N, k, H, W)."""
        mean = self.image(x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[2:])
        return self.join(torch.cat([*(branch(x) for branch in self.branches), mean], 1))


class DeepLab(nn.Module):
    """Encoder of output stride 8, context, ASPP, classifier, up-sampling to the image's size."""

    def __init__(self, classes: int, channels: int, width: int, rates: tuple[int, ...], separable: bool) -> None:
        super().__init__()
        wide = 4 * width
        self.encoder = nn.Sequential(
            conv_block(channels, width, stride=2),
            stage(width, width, 1, stride=2, separable=separable),
            stage(width, 2 * width, 1, stride=2, separable=separable),
            stage(2 * width, wide, 1, dilation=2, separable=separable),
        )
        self.context = nn.Sequential(*(conv_block(wide, wide, dilation=d, separable=separable) for d in (1, 2, 5)))
        self.aspp = ASPP(wide, 2 * width, rates, separable)
        self.head = nn.Conv2d(2 * width, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, channels, H, W) -> (N, classes, H, W) logits."""
        y = self.head(self.aspp(self.context(self.encoder(x))))
        return F.interpolate(y, x.shape[2:], mode="bilinear", align_corners=False)


def deeplab(
    classes: int = 21,
    channels: int = 3,
    width: int = 32,
    rates: tuple[int, ...] = (2, 4, 6),
    separable: bool = False,
) -> nn.Module:
    """(N, channels, H, W) images of any size -> (N, classes, H, W) logits. ``rates`` are ASPP's dilations."""
    return DeepLab(classes, channels, width, rates, separable)
