"""The textbook classifier: blocks of convolutions and a pooling, then fully connected layers."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from convbench.models.blocks import GlobalPool, conv_block

INPUT = (1, 1, 28, 28)


class SizedFlatten(nn.Module):
    """(N, C, H, W) -> (N, C H W), for images of the one size the fully connected layers were made for."""

    def __init__(self, image: tuple[int, int], halvings: int) -> None:
        super().__init__()
        self.image, self.shape = image, (image[0] >> halvings, image[1] >> halvings)
        if min(self.shape) < 1:
            raise ValueError(f"images of {image[0]}x{image[1]} cannot be halved {halvings} times; use fewer blocks")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[2:] != self.shape:
            raise ValueError(
                f"this classifier is for images of {self.image[0]}x{self.image[1]}; for other sizes build it with "
                "image=(H, W), or for any size with pooling='global'"
            )
        return x.flatten(1)


def classifier(
    classes: int = 10,
    channels: int = 1,
    image: tuple[int, int] = (28, 28),
    blocks: int = 2,
    convolutions: int = 2,
    width: int = 32,
    hidden: tuple[int, ...] = (128,),
    dropout: float = 0.25,
    pooling: str = "flatten",
    separable: bool = False,
) -> nn.Module:
    """(N, channels, H, W) images -> (N, classes) logits.

    ``blocks`` times: ``convolutions`` 3x3 convolutions, then a 2x2 max pooling; the width doubles from block to
    block. Then ``hidden`` fully connected layers with dropout. pooling 'flatten' keeps the whole last map and needs
    images of the size given; 'global' takes its mean and any size. The first convolution, on the image's
    few channels, is always dense. Raises ValueError for another pooling, or more halvings than the image has.
    """
    if pooling not in ("flatten", "global"):
        raise ValueError(f"pooling={pooling!r}: expected 'flatten' or 'global'")
    layers: list[nn.Module] = []
    c = channels
    for block in range(blocks):
        for number in range(convolutions):
            k = width << block
            layers.append(conv_block(c, k, separable=separable and block + number > 0))
            c = k
        layers.append(nn.MaxPool2d(2))
    flat = GlobalPool() if pooling == "global" else SizedFlatten(image, blocks)
    features = c if pooling == "global" else c * (image[0] >> blocks) * (image[1] >> blocks)
    return nn.Sequential(*layers, flat, *fully_connected_layers(features, hidden, classes, dropout))


def fully_connected_layers(features: int, hidden: tuple[int, ...], classes: int, dropout: float) -> list[nn.Module]:
    """Linear, ReLU and dropout (Srivastava et al., JMLR 2014) for each hidden width, then the logits."""
    layers: list[nn.Module] = []
    for c, k in pairwise((features, *hidden)):
        layers += [nn.Linear(c, k), nn.ReLU(), nn.Dropout(dropout)]
    return [*layers, nn.Linear((features, *hidden)[-1], classes)]
