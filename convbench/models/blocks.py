"""What the models are built of: convolution, normalisation, activation; dense or depthwise-separable by a switch."""

from __future__ import annotations

import torch
from torch import nn


def normalised(convolution: nn.Module, channels: int) -> list[nn.Module]:
    """A convolution without bias, batch normalisation (Ioffe and Szegedy, ICML 2015), ReLU."""
    return [convolution, nn.BatchNorm2d(channels), nn.ReLU()]


def conv_block(
    c: int, k: int, kernel: int = 3, stride: int = 1, dilation: int = 1, separable: bool = False
) -> nn.Sequential:
    """Convolution c -> k channels that keeps the size at stride 1, normalised.

    separable: depthwise kernel x kernel, then pointwise, each normalised (Howard et al., MobileNets,
    arXiv 1704.04861, section 3.1), in place of one dense convolution; of a 1x1 there is nothing to separate.
    """
    padding = dilation * (kernel - 1) // 2
    if not separable or kernel == 1:
        dense = nn.Conv2d(c, k, kernel, stride, padding, dilation, bias=False)
        return nn.Sequential(*normalised(dense, k))
    depthwise = nn.Conv2d(c, c, kernel, stride, padding, dilation, groups=c, bias=False)
    pointwise = nn.Conv2d(c, k, 1, bias=False)
    return nn.Sequential(*normalised(depthwise, c), *normalised(pointwise, k))


def scaled(channels: int, width: float) -> int:
    """Channels times a width multiplier, rounded, at least 1."""
    return max(1, round(channels * width))


class GlobalPool(nn.Module):
    """Mean over the map: (N, C, H, W) -> (N, C), for images of any size."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))
