"""Receptive field of a chain of layers, and how much of it stacked dilations really touch.

Araujo, Norris, Sim: Computing Receptive Fields of Convolutional Neural Networks (Distill, 2019), eq. 2:
field = 1 + sum over layers of dilation * (kernel - 1) * product of the earlier strides.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """One layer along one axis: a convolution's or a pooling's."""

    kernel: int
    stride: int = 1
    dilation: int = 1


def receptive_fields(windows: Iterable[Window]) -> list[int]:
    """The field after each layer, in input pixels along one axis."""
    field, jump, fields = 1, 1, []
    for window in windows:
        field += window.dilation * (window.kernel - 1) * jump
        jump *= window.stride
        fields.append(field)
    return fields


def touched(windows: Iterable[Window]) -> set[int]:
    """Offsets of the input positions, along one axis, that the last layer's position 0 depends on."""
    positions = {0}
    for window in reversed(list(windows)):
        positions = {p * window.stride + tap * window.dilation for p in positions for tap in range(window.kernel)}
    return positions


def coverage(windows: Iterable[Window]) -> tuple[int, int]:
    """(positions touched, positions in the field) of a square field; fewer touched is gridding."""
    layers = list(windows)
    return len(touched(layers)) ** 2, receptive_fields(layers)[-1] ** 2
