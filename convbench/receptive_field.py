"""Receptive field and gridding coverage of a stack of windowed layers, exactly.

Araujo, Norris, Sim, "Computing Receptive Fields of Convolutional Neural Networks", Distill 2019:
RF = 1 + sum over layers of dilation (kernel - 1) x product of the strides of earlier layers.

Dilated layers may leave positions inside the field untouched (gridding: Wang et al., "Understanding
Convolution for Semantic Segmentation", WACV 2018). fields() counts the touched ones directly: the
published rule on maximal distances does not catch dilations (2, 2, 2).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from convbench.errors import InputError
from convbench.spec import ConvSpec, Pair, pair

FARTHEST = 2**62  # positions of a field: no image has as many, and they stay exact in JSON
WIDEST = 2**16  # along one axis: which ones a wider field touches is not counted


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
    found = cumulative(windows)
    return found[-1] if found else (1, 1)


def cumulative(windows: Iterable[Window]) -> list[Pair]:
    """The receptive field after each window of the sequence (after its last repetition).

    Raises InputError for one beyond every image.
    """
    field, jump, found = [1, 1], [1, 1], []
    for window in windows:
        for axis in (0, 1):
            reach, stride = window.dilation[axis] * (window.kernel[axis] - 1), window.stride[axis]
            # count layers of stride s reach 1 + s + s^2 + ... times as far as one
            repeats = window.count if stride == 1 else (stride**window.count - 1) // (stride - 1)
            field[axis] += reach * jump[axis] * repeats
            jump[axis] *= stride**window.count
        if prod(field) > FARTHEST:
            raise InputError(f"a receptive field of more than {FARTHEST:.0e} positions; check kernels and strides")
        found.append((field[0], field[1]))
    return found


def fields(windows: Sequence[Window]) -> list[Field]:
    """The receptive field after each window of the sequence, and what of it is touched, None beyond WIDEST."""
    touched, jump, found = [1, 1], [1, 1], []
    for window, size in zip(windows, cumulative(windows), strict=True):
        known = max(size) <= WIDEST
        for axis in (0, 1) if known else ():
            taps, stride, dilation = window.kernel[axis], window.stride[axis], window.dilation[axis]
            for _ in range(window.count if max(taps, stride) > 1 else 0):
                touched[axis] = through(touched[axis], taps, dilation * jump[axis])
                jump[axis] *= stride
        found.append(Field(size, touched[0].bit_count() * touched[1].bit_count() if known else None))
    return found


def through(touched: int, taps: int, apart: int) -> int:
    """Positions touched along one axis, as bits, before a window whose taps lie so far apart."""
    found = 0
    for tap in range(taps):
        found |= touched << tap * apart
    return found
