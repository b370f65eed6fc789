"""Receptive field and gridding coverage of a stack of windowed layers, exactly.

Araujo, Norris, Sim, "Computing Receptive Fields of Convolutional Neural Networks", Distill 2019:
RF = 1 + sum over layers of dilation (kernel - 1) x product of the strides of earlier layers.

Dilated layers may leave positions inside the field untouched (gridding: Wang et al., "Understanding
Convolution for Semantic Segmentation", WACV 2018). coverage() counts the touched ones directly: the
published rule on maximal distances does not catch dilations (2, 2, 2).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from convbench.spec import ConvSpec, Pair, pair


class Field(NamedTuple):
    """A receptive field (height, width), and how many of its positions are read; None where that is not known."""

    size: Pair
    touched: int | None

    @property
    def coverage(self) -> float | None:
        """Share of the field's positions that are read; below 1 there are gaps (gridding)."""
        return None if self.touched is None else self.touched / prod(self.size)


def largest(fields: Iterable[Field | None]) -> Field | None:
    """Of the uses of one shape the one that reads farthest; None where none is known."""
    return max(filter(None, fields), key=lambda field: field.size, default=None)


@dataclass(frozen=True, slots=True)
class Window:
    """What a convolution or pooling layer reads per output, per axis (height, width).

    ``count`` layers of the same window follow each other.
    """

    kernel: Pair
    stride: Pair = (1, 1)
    dilation: Pair = (1, 1)
    count: int = 1

    @classmethod
    def create(cls, kernel: int | Pair, stride: int | Pair = 1, dilation: int | Pair = 1, count: int = 1) -> Window:
        """Scalars stand for square values."""
        return cls(pair(kernel, "kernel"), pair(stride, "stride"), pair(dilation, "dilation"), count)

    @classmethod
    def of(cls, spec: ConvSpec, count: int = 1) -> Window:
        """The window of a convolution or separable pair. A transposed convolution has none (ValueError)."""
        if spec.is_transposed:
            raise ValueError("a transposed convolution's outputs do not all read the same window")
        return cls((spec.r, spec.s), spec.stride, spec.dilation, count)


def receptive_field(windows: Iterable[Window]) -> Pair:
    """Input positions (height, width) between the first and the last that one output depends on."""
    fields = cumulative(windows)
    return fields[-1] if fields else (1, 1)


def cumulative(windows: Iterable[Window]) -> list[Pair]:
    """The receptive field after each window of the sequence (after its last repetition)."""
    field, jump, fields = [1, 1], [1, 1], []
    for window in windows:
        for axis in (0, 1):
            reach, stride = window.dilation[axis] * (window.kernel[axis] - 1), window.stride[axis]
            # count layers of stride s reach 1 + s + s^2 + ... times as far as one
            repeats = window.count if stride == 1 else (stride**window.count - 1) // (stride - 1)
            field[axis] += reach * jump[axis] * repeats
            jump[axis] *= stride**window.count
        fields.append((field[0], field[1]))
    return fields


def coverage(windows: Sequence[Window]) -> tuple[int, int]:
    """(positions touched, positions in the receptive field) of one output, in two dimensions."""
    touched = prod(len(_touched(windows, axis)) for axis in (0, 1))
    return touched, prod(receptive_field(windows))


def _touched(windows: Sequence[Window], axis: int) -> set[int]:
    """Input positions that output 0 depends on along one axis, walking back from the output."""
    positions = {0}
    for window in reversed(windows):
        kernel, stride, dilation = window.kernel[axis], window.stride[axis], window.dilation[axis]
        for _ in range(window.count):
            positions = {p * stride + tap * dilation for p in positions for tap in range(kernel)}
    return positions
