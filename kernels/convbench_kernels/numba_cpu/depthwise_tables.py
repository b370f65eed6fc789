"""What depthwise kernels walk by: taps, phases of the output, and where padded copies of x lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from convbench.plugin import ConvSpec
from convbench_kernels.numba_cpu.arguments import Addresses, addresses, integers_of
from convbench_kernels.numba_cpu.depthwise_channels import TOGETHER as BLOCK_TOGETHER
from convbench_kernels.numba_cpu.jit import STREAMED
from convbench_kernels.numba_cpu.tiles import ISA, LANES


class Planes(NamedTuple):
    """Sizes of both sides, all integers. Output plane k of an image reads x planes from k * up // down on."""

    images: int
    x_planes: int
    height: int
    width: int
    y_planes: int
    y_plane: int  # elements
    up: int
    down: int
    w_plane: int  # elements of w that belong to one output plane


# Columns of the table of phases: taps[begin:end], output rows and columns, where they go, strides, which loop;
# the padded copy of x: its first row, rows, columns, pitch, zeros before a row, elements of a stride phase, of all.
BEGIN, END, ROWS, COLS, OUT_FIRST, OUT_ROW, OUT_STEP, STRIDE_H, STRIDE_W, METHOD = range(10)
TOP, PADDED_ROWS, WIDTH, PITCH, LEAD, PADDED_PHASE, PADDED = range(10, 17)
# LANES channels at a time (depthwise_channels.py): whether, zero rows and columns, rows, pitch, where they begin, end.
BLOCKED, BLOCK_TOP, BLOCK_LEFT, BLOCK_ROWS, BLOCK_PITCH, BLOCK_AT, BLOCK_SIZE = range(17, 24)
PAIRED = 24  # the next phase is its right neighbour: both are interleaved to whole rows
COLUMNS = 25
PADDED_TAPS, ROLLING, STRIDE2 = range(3)


@dataclass(frozen=True)
class Tables:
    """What a kernel walks by: taps [T, 6] eh, ew, plane of x, offset in the plane's weights, offsets in the padded
    planes and in the padded pixels of a block; phases [F, COLUMNS]; planes."""

    taps: np.ndarray
    phases: np.ndarray
    planes: Planes

    @property
    def work(self) -> int:
        """What is read or written, for threads_for()."""
        p = self.planes
        return STREAMED * p.images * max(p.x_planes * p.height * p.width, p.y_planes * p.y_plane)

    def addresses(self) -> Addresses:
        """Arguments of a kernel."""
        return addresses(self.taps, len(self.taps), self.phases, len(self.phases), integers_of(self.planes))


def _method(spec: ConvSpec) -> int:
    if (spec.r, spec.s) != (3, 3) or spec.dilation != (1, 1):
        return PADDED_TAPS
    return {(1, 1): ROLLING, (2, 2): STRIDE2}.get(spec.stride, PADDED_TAPS)


def _padded(
    taps: list[tuple[int, ...]], output: tuple[int, int], stride: tuple[int, int], source: tuple[int, int]
) -> tuple[list[tuple[int, ...]], tuple[int, ...]]:
    """The taps with their offsets in the padded planes, and the planes' columns of the table of phases."""
    (p, q), (sh, sw), width = output, stride, -(-source[1] // stride[1])
    rows, columns = [t[0] // sh for t in taps] or [0], [t[1] // sw for t in taps] or [0]
    top, lead = min(rows), max(0, -min(columns))
    right = max(0, max(columns))
    count, width = p + max(rows) - top, min(width, q + right)
    pitch = max(width + lead, q + right)
    phase = -(-(lead + count * pitch) // 16) * 16
    size = sh * sw * phase
    placed = [
        (*t, t[2] * size + (t[0] % sh * sw + t[1] % sw) * phase + (t[0] // sh - top) * pitch + lead + t[1] // sw)
        for t in taps
    ]
    return placed, (top, count, width, pitch, lead, phase, size)


def _blocked(
    taps: list[tuple[int, ...]], spec: ConvSpec, output: tuple[int, int], stride: tuple[int, int],
    source: tuple[int, int], pixels: int
) -> tuple[list[tuple[int, ...]], tuple[int, ...]]:  # fmt: skip
    """The same for blocks of LANES channels, and whether they pay: where rows leave vectors half empty."""
    (p, q), (sh, sw), area = output, stride, source[0] * source[1]
    rows, columns = [t[0] for t in taps] or [0], [t[1] for t in taps] or [0]
    top, left = -min(rows), -min(columns)
    count = (p - 1) * sh + max(rows) + top + 1
    pitch = (-(-q // BLOCK_TOGETHER) * BLOCK_TOGETHER - 1) * sw + max(columns) + left + 1
    begin = max(area, pixels) * LANES
    end = begin + (count * pitch + len(taps)) * LANES
    fits = min(area, pixels, spec.c) >= LANES and spec.k == spec.c and 4 * end <= 2 * ISA.cache_block
    pays = 2 * q <= LANES or (spec.r, spec.s) != (3, 3)
    placed = [(*t, ((t[0] + top) * pitch + t[1] + left) * LANES) for t in taps]
    return placed, (int(fits and pays), top, left, count, pitch, begin, end)


def forward_tables(spec: ConvSpec) -> Tables:
    """Of the forward pass, one phase."""
    taps: list[tuple[int, ...]] = [
        (r * spec.dilation[0] - spec.padding[0], s * spec.dilation[1] - spec.padding[1], 0, r * spec.s + s)
        for r in range(spec.r)
        for s in range(spec.s)
    ]
    output, source = (spec.p, spec.q), (spec.h, spec.w)
    taps, padded = _padded(taps, output, spec.stride, source)
    taps, blocked = _blocked(taps, spec, output, spec.stride, source, spec.p * spec.q)
    phase = (0, len(taps), *output, 0, spec.q, 1, *spec.stride, _method(spec), *padded, *blocked, 0)
    planes = Planes(spec.n, spec.c, spec.h, spec.w, spec.k, spec.p * spec.q, 1, spec.k // spec.c, spec.r * spec.s)
    return Tables(np.array(taps, np.int64), np.array([phase], np.int64), planes)


def _hits(axis: int, first: int, spec: ConvSpec) -> list[tuple[int, int]]:
    """(tap, offset in dy) of the taps that reach input rows first, first + stride, ...: h + padding - r*d = p*s."""
    stride, kernel_size = spec.stride[axis], (spec.r, spec.s)[axis]
    starts = [(tap, first + spec.padding[axis] - tap * spec.dilation[axis]) for tap in range(kernel_size)]
    return [(tap, start // stride) for tap, start in starts if start % stride == 0]


def gradient_tables(spec: ConvSpec) -> Tables:
    """Of the data gradient, stride_h x stride_w phases: x is dy, y is dx."""
    multiplier = spec.k // spec.c
    taps: list[tuple[int, ...]] = []
    phases: list[tuple[int, ...]] = []
    method = _method(spec) if spec.stride == (1, 1) and multiplier == 1 else PADDED_TAPS
    for i in range(min(spec.stride[0], spec.h)):
        for j in range(min(spec.stride[1], spec.w)):
            begin = len(taps)
            # Reversed, so that offsets rise and the rolling window's order holds.
            taps += [
                (eh, ew, m, (m * spec.r + r) * spec.s + s)
                for m in range(multiplier)
                for r, eh in reversed(_hits(0, i, spec))
                for s, ew in reversed(_hits(1, j, spec))
            ]
            rows, cols = -(-(spec.h - i) // spec.stride[0]), -(-(spec.w - j) // spec.stride[1])
            phases.append((begin, len(taps), rows, cols, i * spec.w + j, spec.stride[0] * spec.w, spec.stride[1], 1, 1,
                           method))  # fmt: skip
    largest, source = (phases[0][ROWS], phases[0][COLS]), (spec.p, spec.q)
    taps, padded = _padded(taps, largest, (1, 1), source)
    taps, blocked = _blocked(taps, spec, largest, (1, 1), source, spec.h * spec.w)
    paired = [int(spec.stride[1] == 2 and spec.w > 1 and phase[OUT_FIRST] % spec.w == 0) for phase in phases]
    phases = [(*phase, *padded, *blocked, pair) for phase, pair in zip(phases, paired, strict=True)]
    planes = Planes(
        spec.n, spec.k, spec.p, spec.q, spec.c, spec.h * spec.w, multiplier, 1, multiplier * spec.r * spec.s
    )
    return Tables(np.array(taps, np.int64).reshape(-1, 6), np.array(phases, np.int64), planes)
