"""Residual network of basic blocks: He et al., Deep Residual Learning, CVPR 2016, Table 1 (ResNet-18 by default)."""

from __future__ import annotations

import torch
from torch import nn

from convbench.models.blocks import GlobalPool, conv_block, normalised, scaled

INPUT = (1, 3, 224, 224)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 projection where stride or channels change."""

    def __init__(self, c: int, k: int, stride: int = 1, dilation: int = 1, separable: bool = False) -> None:
        super().__init__()
        first = conv_block(c, k, stride=stride, dilation=dilation, separable=separable)
        second = conv_block(k, k, dilation=dilation, separable=separable)
        self.branch = nn.Sequential(first, second[:-1])  # the last ReLU comes after the sum
        projection = normalised(nn.Conv2d(c, k, 1, stride, bias=False), k)[:-1]
        self.shortcut = nn.Sequential(*projection) if stride > 1 or c != k else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, c, H, W) -> (N, k, H/stride, W/stride)."""
        return torch.relu(self.branch(x) + self.shortcut(x))


def stage(c: int, k: int, blocks: int, stride: int = 1, dilation: int = 1, separable: bool = False) -> nn.Sequential:
    """``blocks`` basic blocks, the first of them with the stride."""
    first = BasicBlock(c, k, stride, dilation, separable)
    return nn.Sequential(first, *(BasicBlock(k, k, 1, dilation, separable) for _ in range(blocks - 1)))


def resnet(
    classes: int = 1000,
    channels: int = 3,
    width: float = 1.0,
    blocks: tuple[int, ...] = (2, 2, 2, 2),
    separable: bool = False,
    small_images: bool = False,
) -> nn.Module:
    """(N, channels, H, W) images of any size -> (N, classes) logits.

    ``blocks``: basic blocks per stage, (2, 2, 2, 2) is ResNet-18 and (3, 4, 6, 3) ResNet-34; stages double
    the channels from 64 x width and halve the map. small_images: a 3x3 stride-1 stem without pooling, as the
    paper's CIFAR networks have, in place of 7x7 stride 2 and max pooling.
    """
    c = scaled(64, width)
    stem: list[nn.Module] = [conv_block(channels, c, 3)]
    if not small_images:
        stem = [conv_block(channels, c, 7, stride=2), nn.MaxPool2d(3, 2, 1)]
    stages = []
    for number, count in enumerate(blocks):
        k = scaled(64 << number, width)
        stages.append(stage(c, k, count, stride=2 if number else 1, separable=separable))
        c = k
    return nn.Sequential(*stem, *stages, GlobalPool(), nn.Linear(c, classes))
