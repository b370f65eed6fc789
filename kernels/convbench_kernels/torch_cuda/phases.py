"""Which taps reach which output pixels, for the implicit GEMM: forward, and data gradient phase by phase.

Along one axis, out[t*step + at] takes taps first, first + skip, ... (count of them); tap number a of these reads
source[t*stride + offset + a*shift]. A gradient at stride s has up to s phases `at`; a tap r reaches output i of the
gradient from dy[(i + padding - r*dilation) / s], where that divides, so a phase's taps are skip = s / gcd(s, dilation)
apart and what they read is dilation / gcd(s, dilation) apart, backwards. (numba_cpu/geometry.py has the same for CPUs.)
"""

from __future__ import annotations

from math import gcd
from typing import NamedTuple

from convbench.plugin import ConvSpec


class Phase(NamedTuple):
    """One axis of one phase; size: outputs of it."""

    first: int
    count: int
    offset: int
    at: int
    size: int


def axis_phases(spec: ConvSpec, axis: int, gradient: bool) -> tuple[list[Phase], int, int]:
    """(phases, skip, shift) of one axis of a conv2d."""
    stride, padding, dilation = spec.stride[axis], spec.padding[axis], spec.dilation[axis]
    taps = (spec.r, spec.s)[axis]
    if not gradient:
        return [Phase(0, taps, -padding, 0, (spec.p, spec.q)[axis])], 1, dilation
    outputs, common = (spec.h, spec.w)[axis], gcd(stride, dilation)
    skip = stride // common
    phases = []
    for at in range(min(stride, outputs)):
        own = [r for r in range(taps) if (at + padding - r * dilation) % stride == 0]
        first = own[0] if own else 0
        offset = (at + padding - first * dilation) // stride
        phases.append(Phase(first, len(own), offset, at, -(-(outputs - at) // stride)))
    return phases, skip, -(dilation // common)


def phases_of(spec: ConvSpec, gradient: bool) -> tuple[list[tuple[Phase, Phase]], tuple[int, int], tuple[int, int]]:
    """(vertical, horizontal) of every phase; then skip and shift, each vertical and horizontal."""
    (vertical, skip_h, shift_h), (horizontal, skip_w, shift_w) = (axis_phases(spec, a, gradient) for a in (0, 1))
    return [(h, w) for h in vertical for w in horizontal], (skip_h, skip_w), (shift_h, shift_w)
