"""MobileNetV1: Howard et al., MobileNets, arXiv 1704.04861, Table 1."""

from __future__ import annotations

from torch import nn

from convbench.models.blocks import GlobalPool, conv_block, scaled

INPUT = (1, 3, 224, 224)
# (channels, stride) of the thirteen separable layers after the first, dense one
LAYERS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))


def mobilenet_v1(
    classes: int = 1000, channels: int = 3, width: float = 1.0, separable: bool = True, dropout: float = 0.0
) -> nn.Module:
    """(N, channels, H, W) images of any size -> (N, classes) logits.

    ``width`` is the paper's alpha; separable=False puts dense 3x3 convolutions in the pairs' place (its Table 4).
    """
    c = scaled(32, width)
    blocks = [conv_block(channels, c, stride=2)]
    for size, stride in LAYERS:
        k = scaled(size, width)
        blocks.append(conv_block(c, k, stride=stride, separable=separable))
        c = k
    return nn.Sequential(*blocks, GlobalPool(), nn.Dropout(dropout), nn.Linear(c, classes))
