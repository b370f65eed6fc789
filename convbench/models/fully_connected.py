"""A network without convolution, beside the classifier: what local connection and weight sharing save."""

from __future__ import annotations

from torch import nn

from convbench.models.classifier import fully_connected_layers

INPUT = (1, 1, 28, 28)
CONVOLVES = False  # no implementation of convolution makes a difference to it


def fully_connected(
    classes: int = 10,
    channels: int = 1,
    image: tuple[int, int] = (28, 28),
    hidden: tuple[int, ...] = (512, 256),
    dropout: float = 0.25,
) -> nn.Module:
    """(N, channels, H, W) images of that one size -> (N, classes) logits, every pixel connected to every unit."""
    features = channels * image[0] * image[1]
    return nn.Sequential(nn.Flatten(), *fully_connected_layers(features, hidden, classes, dropout))
