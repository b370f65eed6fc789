"""Depthwise convolution by rows: one filter a channel, so there is nothing to block; it lives on bandwidth.

    y[n, k, a, b] = bias[k] + sum over taps t  w[k, t] * x[n, k/M, a*sh + eh[t], b*sw + ew[t]]

M is the depth multiplier K/C. The vector axis is W: one vector of LANES output columns runs down the rows of a
plane. In 3 x 3, columns that a tap takes from outside the image are masked lanes of its load and rows outside are
skipped; all other kernels read a zero-padded copy of the plane.

    forward          eh = r*dilation - padding, any stride
    data gradient    per output phase (i, j) of the stride a stride-1 sum over the taps that hit it, flipped;
                     its columns are written `step` apart. The M filters of a channel are further taps.
    weight gradient  dw[k, t] = sum over n, a, b of dy[n, k, a, b] * x[n, k/M, a*sh + eh[t], b*sw + ew[t]]:
                     one vector accumulator a tap, a plane by one thread in one order

3 x 3, stride 1, the rolling window: each input row is loaded once (three shifts) and feeds three output rows,

    row h:   above += w2 . (l, c, r)    this += w1 . (l, c, r)    below += w0 . (l, c, r)     then above is done

Versions
  1  textbook loops           textbook.py
  2  vectors along W, taps as masked loads: 5 x 5 ran at a sixth of oneDNN's speed, all time in masks
  3  rolling window for 3 x 3 stride 1 and 2: three loads a row in place of nine
  4  weight gradient with nine accumulators in one pass over x and dy
  5  weight gradient, 3 x 3: a row of x meets every row of dy it belongs to while it is in registers
  6  all other taps from a zero-padded copy of the plane in L1, four output rows a pass: one load an FMA

Zhang, Lo, Lu: High Performance Depthwise and Pointwise Convolutions on Mobile Devices (arXiv 2001.02504).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from convbench.plugin import Case, ConvSpec, Kernel
from convbench_kernels.numba_cpu.arguments import (
    Addresses,
    addresses,
    dense,
    floats,
    integers_of,
    new,
    record,
    table,
    zeros,
)
from convbench_kernels.numba_cpu.depthwise_channels import TOGETHER as BLOCK_TOGETHER
from convbench_kernels.numba_cpu.depthwise_channels import clear, convolve_block, pad_block, pixels_to_planes
from convbench_kernels.numba_cpu.jit import (
    STREAMED,
    allocating_kernel,
    inline_kernel,
    kernel,
    share,
    threads_for,
)
from convbench_kernels.numba_cpu.lowering import cannot_lower, lower
from convbench_kernels.numba_cpu.pack import pack_plane
from convbench_kernels.numba_cpu.parallel import parallel
from convbench_kernels.numba_cpu.simd import (
    broadcast,
    fma,
    gather,
    load,
    load_range,
    load_stride2,
    load_stride2_range,
    scatter,
    store,
    store_range,
    sum_lanes,
    tile_fma_at,
    tile_get,
    tile_rows,
    zip2,
)
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
TOGETHER = 4  # output rows a pass of the padded loop: as many independent sums as an FMA's latency needs


@inline_kernel
def valid_lanes(offset, stride, width):
    """Lanes [lo, hi) of a vector that starts at `offset` and takes every `stride`-th column of [0, width)."""
    lo = (-offset + stride - 1) // stride if offset < 0 else 0
    hi = min(LANES, (width - offset + stride - 1) // stride) if offset < width else 0
    return min(lo, LANES), max(hi, 0)


@inline_kernel
def columns(x, at, stride, lo, hi):
    """Lanes [lo, hi) of x[at :: stride], zeros elsewhere; nothing else is touched."""
    if lo == 0 and hi == LANES and stride == 1:
        return load(x, at)
    if lo == 0 and hi == LANES and stride == 2:
        return load_stride2(x, at)
    if stride == 1:
        return load_range(x, at, lo, hi)
    if stride == 2:
        return load_stride2_range(x, at, lo, hi)
    return gather(x, at, stride, lo, hi)


@inline_kernel
def put(y, at, step, value, count):
    """y[at :: step][:count] = value."""
    if step == 1:
        if count >= LANES:
            store(y, at, value)
        else:
            store_range(y, at, value, 0, count)
    else:
        scatter(y, at, step, value, 0, min(count, LANES))


@kernel
def pad_plane(x, xi, height, width, planes, f, scratch):
    """`planes` planes of x side by side, each one zero-padded plane per stride phase (pack.pack_plane)."""
    for m in range(planes):
        for i in range(f[STRIDE_H]):
            for j in range(f[STRIDE_W]):
                at = m * f[PADDED] + (i * f[STRIDE_W] + j) * f[PADDED_PHASE]
                pack_plane(x, xi + m * height * width, height, width, f[STRIDE_H], f[STRIDE_W], f[TOP], f[PADDED_ROWS],
                           f[WIDTH], f[PITCH], f[LEAD], i, j, scratch, at)  # fmt: skip


@kernel
def plane_padded(scratch, w, taps, bias, y, yi, rows, cols, f):
    """One output plane (or phase of one) from padded planes, any taps: no load needs a mask."""
    pitch = f[PITCH]
    for a in range(0, rows, TOGETHER):
        for first in range(0, cols, LANES):
            t = tile_rows(1, TOGETHER, bias, 0)
            for i in range(taps.shape[0]):
                at = taps[i, 4] + a * pitch + first
                t = tile_fma_at(t, w, taps[i, 3], 1, scratch, at, (0, pitch, 2 * pitch, 3 * pitch))
            target, count = yi + a * f[OUT_ROW] + first * f[OUT_STEP], cols - first
            put(y, target, f[OUT_STEP], tile_get(t, 0, 0), count)
            if a + 1 < rows:
                put(y, target + f[OUT_ROW], f[OUT_STEP], tile_get(t, 0, 1), count)
            if a + 2 < rows:
                put(y, target + 2 * f[OUT_ROW], f[OUT_STEP], tile_get(t, 0, 2), count)
            if a + 3 < rows:
                put(y, target + 3 * f[OUT_ROW], f[OUT_STEP], tile_get(t, 0, 3), count)


@inline_kernel
def dot3(left, middle, right, w0, w1, w2, total):
    return fma(right, w2, fma(middle, w1, fma(left, w0, total)))


@kernel
def plane_rolling(x, xi, height, width, w, taps, bias, y, yi, rows, cols):
    """3 x 3, stride 1, taps in row order: each input row feeds the output rows above, level and below."""
    eh, ew = taps[0, 0], taps[0, 1]
    w00, w01, w02 = broadcast(w[taps[0, 3]]), broadcast(w[taps[1, 3]]), broadcast(w[taps[2, 3]])
    w10, w11, w12 = broadcast(w[taps[3, 3]]), broadcast(w[taps[4, 3]]), broadcast(w[taps[5, 3]])
    w20, w21, w22 = broadcast(w[taps[6, 3]]), broadcast(w[taps[7, 3]]), broadcast(w[taps[8, 3]])
    start = broadcast(bias)
    for first in range(0, cols, LANES):
        count, at = cols - first, xi + first + ew
        lo0, hi0 = valid_lanes(first + ew, 1, width)
        lo1, hi1 = valid_lanes(first + ew + 1, 1, width)
        lo2, hi2 = valid_lanes(first + ew + 2, 1, width)
        whole = lo0 == 0 and hi2 == LANES
        above = level = start
        # Input row h is the last of output row h - eh - 2, the middle one of the next, the first of the one after.
        for h in range(eh, rows + eh + 2):
            below = start
            if 0 <= h < height:
                if whole:
                    left, middle, right = (
                        load(x, at + h * width),
                        load(x, at + h * width + 1),
                        load(x, at + h * width + 2),
                    )
                else:
                    left = load_range(x, at + h * width, lo0, hi0)
                    middle = load_range(x, at + h * width + 1, lo1, hi1)
                    right = load_range(x, at + h * width + 2, lo2, hi2)
                above = dot3(left, middle, right, w20, w21, w22, above)
                level = dot3(left, middle, right, w10, w11, w12, level)
                below = dot3(left, middle, right, w00, w01, w02, below)
            if h >= eh + 2:
                put(y, yi + (h - eh - 2) * cols + first, 1, above, count)
            above, level = level, below


@kernel
def plane_stride2(x, xi, height, width, w, taps, bias, y, yi, rows, cols):
    """3 x 3, stride 2, taps in row order: the third input row of one output row is the first of the next."""
    eh, ew = taps[0, 0], taps[0, 1]
    w00, w01, w02 = broadcast(w[taps[0, 3]]), broadcast(w[taps[1, 3]]), broadcast(w[taps[2, 3]])
    w10, w11, w12 = broadcast(w[taps[3, 3]]), broadcast(w[taps[4, 3]]), broadcast(w[taps[5, 3]])
    w20, w21, w22 = broadcast(w[taps[6, 3]]), broadcast(w[taps[7, 3]]), broadcast(w[taps[8, 3]])
    start = broadcast(bias)
    for first in range(0, cols, LANES):
        count, at = cols - first, xi + 2 * first + ew
        lo0, hi0 = valid_lanes(2 * first + ew, 2, width)
        lo1, hi1 = valid_lanes(2 * first + ew + 1, 2, width)
        lo2, hi2 = valid_lanes(2 * first + ew + 2, 2, width)
        total = start
        if 0 <= eh < height:
            total = dot3(columns(x, at + eh * width, 2, lo0, hi0), columns(x, at + eh * width + 1, 2, lo1, hi1),
                         columns(x, at + eh * width + 2, 2, lo2, hi2), w00, w01, w02, start)  # fmt: skip
        for a in range(rows):
            h, following = 2 * a + eh + 1, start
            if 0 <= h < height:
                total = dot3(columns(x, at + h * width, 2, lo0, hi0), columns(x, at + h * width + 1, 2, lo1, hi1),
                             columns(x, at + h * width + 2, 2, lo2, hi2), w10, w11, w12, total)  # fmt: skip
            h += 1
            if 0 <= h < height:
                left, middle, right = (
                    columns(x, at + h * width, 2, lo0, hi0),
                    columns(x, at + h * width + 1, 2, lo1, hi1),
                    columns(x, at + h * width + 2, 2, lo2, hi2),
                )
                total = dot3(left, middle, right, w20, w21, w22, total)
                following = dot3(left, middle, right, w00, w01, w02, start)
            put(y, yi + a * cols + first, 1, total, count)
            total = following


@kernel
def depthwise_plane(source, k, x, w, y, yi, bias, taps, f, g, scratch):
    """One phase f of output plane k, from x plane number `source` on, to y[yi:]. scratch: scratch_size elements."""
    height, width = g.height, g.width
    xi, rows, cols = source * height * width, f[ROWS], f[COLS]
    own_w, own = w[k * g.w_plane : (k + 1) * g.w_plane], taps[f[BEGIN] : f[END]]
    if f[METHOD] == ROLLING:
        plane_rolling(x, xi, height, width, own_w, own, bias[k], y, yi, rows, cols)
    elif f[METHOD] == STRIDE2:
        plane_stride2(x, xi, height, width, own_w, own, bias[k], y, yi, rows, cols)
    else:
        pad_plane(x, xi, height, width, g.up, f, scratch)
        plane_padded(scratch, own_w, own, bias[k : k + 1], y, yi, rows, cols, f)


@kernel
def plane_interleaved(scratch, w, even, odd, bias, y, yi, rows, width, f):
    """Two neighbouring column phases of one output plane, interleaved to whole rows of y."""
    pitch = f[PITCH]
    for a in range(0, rows, TOGETHER):
        for first in range(0, f[COLS], LANES):
            t, s = tile_rows(1, TOGETHER, bias, 0), tile_rows(1, TOGETHER, bias, 0)
            at = a * pitch + first
            for i in range(even.shape[0]):
                t = tile_fma_at(t, w, even[i, 3], 1, scratch, even[i, 4] + at, (0, pitch, 2 * pitch, 3 * pitch))
            for i in range(odd.shape[0]):
                s = tile_fma_at(s, w, odd[i, 3], 1, scratch, odd[i, 4] + at, (0, pitch, 2 * pitch, 3 * pitch))
            target, count = yi + a * f[OUT_ROW] + 2 * first, width - 2 * first
            _put_pair(y, target, tile_get(t, 0, 0), tile_get(s, 0, 0), count)
            if a + 1 < rows:
                _put_pair(y, target + f[OUT_ROW], tile_get(t, 0, 1), tile_get(s, 0, 1), count)
            if a + 2 < rows:
                _put_pair(y, target + 2 * f[OUT_ROW], tile_get(t, 0, 2), tile_get(s, 0, 2), count)
            if a + 3 < rows:
                _put_pair(y, target + 3 * f[OUT_ROW], tile_get(t, 0, 3), tile_get(s, 0, 3), count)


@inline_kernel
def _put_pair(y, at, even, odd, count):
    low, high = zip2(even, odd)
    if count >= 2 * LANES:
        store(y, at, low)
        store(y, at + LANES, high)
    else:
        store_range(y, at, low, 0, count)
        store_range(y, at + LANES, high, 0, count - LANES)


@kernel
def _plane_phases(source, k, x, w, y, yi, bias, taps, phases, g, scratch):
    """All phases of output plane k; those of padded planes share one padding."""
    n, own_w = 0, w[k * g.w_plane : (k + 1) * g.w_plane]
    if phases[0, METHOD] == PADDED_TAPS:
        pad_plane(x, source * g.height * g.width, g.height, g.width, g.up, phases[0], scratch)
    while n < phases.shape[0]:
        f = phases[n]
        if f[METHOD] != PADDED_TAPS:
            depthwise_plane(source, k, x, w, y, yi + f[OUT_FIRST], bias, taps, f, g, scratch)
        elif f[PAIRED]:
            even, odd = taps[f[BEGIN] : f[END]], taps[phases[n + 1, BEGIN] : phases[n + 1, END]]
            width = f[COLS] + phases[n + 1, COLS]
            plane_interleaved(scratch, own_w, even, odd, bias[k : k + 1], y, yi + f[OUT_FIRST], f[ROWS], width, f)
            n += 1
        else:
            own = taps[f[BEGIN] : f[END]]
            plane_padded(scratch, own_w, own, bias[k : k + 1], y, yi + f[OUT_FIRST], f[ROWS], f[COLS], f)
        n += 1


@inline_kernel
def scratch_size(phases, g):
    """Elements of the padded planes of one channel, and what a pass over TOGETHER rows reads beyond."""
    largest = 0
    for n in range(phases.shape[0]):
        largest = max(largest, g.up * phases[n, PADDED] + TOGETHER * phases[n, PITCH] + 2 * LANES)
        largest = max(largest, phases[n, BLOCK_SIZE])
    return largest


@allocating_kernel
def _blocks_share(x, w, y, bias, taps, phases, g, scratch, thread, threads):
    """One thread's share of the blocks of LANES channels; the channels that fill no block go plane by plane."""
    f = phases[0]
    clear(scratch, f[BLOCK_AT], f[BLOCK_SIZE])
    blocks, plane = -(-g.y_planes // LANES), g.height * g.width
    begin, end = share(g.images * blocks, thread, threads)
    for i in range(begin, end):
        image, k = i // blocks, i % blocks * LANES
        source = image * g.x_planes + k
        if k + LANES <= g.y_planes:
            weights = f[BLOCK_AT] + f[BLOCK_ROWS] * f[BLOCK_PITCH] * LANES
            pad_block(x, source * plane, g.height, g.width, w, k * g.w_plane, g.w_plane, taps,
                      f[BLOCK_TOP], f[BLOCK_LEFT], f[BLOCK_ROWS], f[BLOCK_PITCH], scratch, f[BLOCK_AT])  # fmt: skip
            for n in range(phases.shape[0]):
                h = phases[n]
                convolve_block(taps, h[BEGIN], h[END], weights, bias, k, scratch, f[BLOCK_AT], f[BLOCK_PITCH],
                               h[STRIDE_H], h[STRIDE_W], h[ROWS], h[COLS], h[OUT_FIRST], h[OUT_ROW],
                               h[OUT_STEP])  # fmt: skip
            pixels_to_planes(scratch, g.y_plane, y, (image * g.y_planes + k) * g.y_plane)
        else:
            rest = np.empty(f[PADDED] + TOGETHER * f[PITCH] + 2 * LANES, np.float32)
            for last in range(k, g.y_planes):
                at = image * g.y_planes + last
                _plane_phases(source + last - k, last, x, w, y, at * g.y_plane, bias, taps, phases, g, rest)


@allocating_kernel
def _convolve_share(x, w, y, bias, taps, phases, g_at, thread, threads):
    """One thread's share of the output planes, all their phases."""
    g = record(Planes, g_at)
    scratch = np.empty(scratch_size(phases, g), np.float32)
    if phases[0, BLOCKED]:
        _blocks_share(x, w, y, bias, taps, phases, g, scratch, thread, threads)
        return
    begin, end = share(g.images * g.y_planes, thread, threads)
    for i in range(begin, end):
        image, k = i // g.y_planes, i % g.y_planes
        source = image * g.x_planes + k * g.up // g.down
        _plane_phases(source, k, x, w, y, i * g.y_plane, bias, taps, phases, g, scratch)


@kernel
def convolve(x_at, w_at, y_at, bias_at, taps_at, taps_count, phases_at, phases_count, g_at, threads):
    """Addresses: float32 x, w, y, bias; tables as in Tables. Planes shared out evenly."""
    x, w, y, bias = floats(x_at), floats(w_at), floats(y_at), floats(bias_at)
    taps, phases = table(taps_at, taps_count, 6), table(phases_at, phases_count, COLUMNS)
    parallel(threads, _convolve_share, (x, w, y, bias, taps, phases, g_at))


# Weight gradient --------------------------------------------------------------------------------


@kernel
def _gradient_padded(scratch, taps, dy, di, rows, cols, pitch, out, at):
    """All taps of one plane from padded x, added to out: four taps share each load of dy."""
    zero, count = broadcast(np.float32(0.0)), taps.shape[0]
    for t in range(0, count, 4):
        at0, at1 = taps[t, 4], taps[min(t + 1, count - 1), 4]
        at2, at3 = taps[min(t + 2, count - 1), 4], taps[min(t + 3, count - 1), 4]
        a0 = a1 = a2 = a3 = zero
        for first in range(0, cols, LANES):
            for a in range(rows):
                d = load_range(dy, di + a * cols + first, 0, cols - first)
                xi = a * pitch + first
                live = cols - first
                a0 = fma(load_range(scratch, at0 + xi, 0, live), d, a0)
                a1 = fma(load_range(scratch, at1 + xi, 0, live), d, a1)
                a2 = fma(load_range(scratch, at2 + xi, 0, live), d, a2)
                a3 = fma(load_range(scratch, at3 + xi, 0, live), d, a3)
        out[at + t] += sum_lanes(a0)
        if t + 1 < count:
            out[at + t + 1] += sum_lanes(a1)
        if t + 2 < count:
            out[at + t + 2] += sum_lanes(a2)
        if t + 3 < count:
            out[at + t + 3] += sum_lanes(a3)


@inline_kernel
def _three(x, at, ranges, count):
    """Three neighbouring columns of a row with stride 2."""
    left = columns(x, at, 2, ranges[0], min(ranges[1], count))
    middle = columns(x, at + 1, 2, ranges[2], min(ranges[3], count))
    right = columns(x, at + 2, 2, ranges[4], min(ranges[5], count))
    return left, middle, right


@kernel
def _gradient_rolling(x, xi, height, width, dy, di, rows, cols, eh, ew, out, at):
    """3 x 3, stride 1, all nine taps in one pass, added to out[at : at + 9]: each row of x meets three rows of dy."""
    zero = broadcast(np.float32(0.0))
    a0 = a1 = a2 = b0 = b1 = b2 = c0 = c1 = c2 = zero
    for first in range(0, cols, LANES):
        count, base = min(cols - first, LANES), xi + first + ew
        lo0, hi0 = valid_lanes(first + ew, 1, width)
        lo1, hi1 = valid_lanes(first + ew + 1, 1, width)
        lo2, hi2 = valid_lanes(first + ew + 2, 1, width)
        whole = lo0 == 0 and hi2 == LANES and count == LANES
        below = level = above = zero
        for h in range(eh, rows + eh + 2):  # dy rows h - eh, the one above, and the one above that
            below, level, above = zero, below, level
            if h - eh < rows:
                source = di + (h - eh) * cols + first
                below = load(dy, source) if whole else load_range(dy, source, 0, count)
            if 0 <= h < height:
                source = base + h * width
                if whole:
                    left, middle, right = load(x, source), load(x, source + 1), load(x, source + 2)
                else:
                    left = load_range(x, source, lo0, min(hi0, count))
                    middle = load_range(x, source + 1, lo1, min(hi1, count))
                    right = load_range(x, source + 2, lo2, min(hi2, count))
                a = h - eh  # a NaN of x must not meet rows of dy that are not there, zero or not
                if a < rows:
                    a0, a1, a2 = fma(left, below, a0), fma(middle, below, a1), fma(right, below, a2)
                if 1 <= a <= rows:
                    b0, b1, b2 = fma(left, level, b0), fma(middle, level, b1), fma(right, level, b2)
                if a >= 2:
                    c0, c1, c2 = fma(left, above, c0), fma(middle, above, c1), fma(right, above, c2)
    for t, total in enumerate((a0, a1, a2, b0, b1, b2, c0, c1, c2)):
        out[at + t] += sum_lanes(total)


@kernel
def _gradient_stride2(x, xi, height, width, dy, di, rows, cols, eh, ew, out, at):
    """3 x 3, stride 2: the first row of x of one output row is the last of the output row above."""
    zero = broadcast(np.float32(0.0))
    a0 = a1 = a2 = b0 = b1 = b2 = c0 = c1 = c2 = zero
    for first in range(0, cols, LANES):
        count, base = min(cols - first, LANES), 2 * first + ew
        lo0, hi0 = valid_lanes(base, 2, width)
        lo1, hi1 = valid_lanes(base + 1, 2, width)
        lo2, hi2 = valid_lanes(base + 2, 2, width)
        ranges, level = (lo0, hi0, lo1, hi1, lo2, hi2), zero
        for a in range(rows + 1):
            above, level, h = level, zero, 2 * a + eh
            if a < rows:
                level = load_range(dy, di + a * cols + first, 0, count)
            if 0 <= h < height:
                left, middle, right = _three(x, xi + h * width + base, ranges, count)
                if a < rows:
                    a0, a1, a2 = fma(left, level, a0), fma(middle, level, a1), fma(right, level, a2)
                if a > 0:
                    c0, c1, c2 = fma(left, above, c0), fma(middle, above, c1), fma(right, above, c2)
            if a < rows and 0 <= h + 1 < height:
                left, middle, right = _three(x, xi + (h + 1) * width + base, ranges, count)
                b0, b1, b2 = fma(left, level, b0), fma(middle, level, b1), fma(right, level, b2)
    for t, total in enumerate((a0, a1, a2, b0, b1, b2, c0, c1, c2)):
        out[at + t] += sum_lanes(total)


@kernel
def _gradient_plane(k, x, dy, dw, taps, f, g, scratch):
    """All taps of filter k over all images."""
    rows, cols, method = f[ROWS], f[COLS], f[METHOD]
    plane, count = g.height * g.width, taps.shape[0]
    dw[k * count : (k + 1) * count] = 0.0
    for n in range(g.images):
        xi, di = (n * g.x_planes + k * g.up // g.down) * plane, (n * g.y_planes + k) * g.y_plane
        if method == ROLLING:
            _gradient_rolling(x, xi, g.height, g.width, dy, di, rows, cols, taps[0, 0], taps[0, 1], dw, k * count)
        elif method == STRIDE2:
            _gradient_stride2(x, xi, g.height, g.width, dy, di, rows, cols, taps[0, 0], taps[0, 1], dw, k * count)
        else:
            pad_plane(x, xi, g.height, g.width, 1, f, scratch)
            _gradient_padded(scratch, taps, dy, di, rows, cols, f[PITCH], dw, k * count)


@allocating_kernel
def _gradient_share(x, dy, dw, taps, phases, g_at, thread, threads):
    """One thread's share of the filters. f, g: the forward's phase and planes."""
    g, f = record(Planes, g_at), phases[0]
    scratch = np.empty(scratch_size(phases, g), np.float32)
    begin, end = share(g.y_planes, thread, threads)
    for k in range(begin, end):
        _gradient_plane(k, x, dy, dw, taps, f, g, scratch)


@kernel
def convolve_weights(x_at, dy_at, dw_at, taps_at, taps_count, phases_at, phases_count, g_at, threads):
    """Addresses as in convolve. Filters shared out evenly: each is summed by one thread in one order."""
    x, dy, dw = floats(x_at), floats(dy_at), floats(dw_at)
    taps, phases = table(taps_at, taps_count, 6), table(phases_at, phases_count, COLUMNS)
    parallel(threads, _gradient_share, (x, dy, dw, taps, phases, g_at))


# From cases to tables ---------------------------------------------------------------------------


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


def _convolution(tables: Tables, shape: tuple[int, ...]) -> Callable[..., torch.Tensor]:
    no_bias, constants, work = zeros(tables.planes.y_planes), tables.addresses(), tables.work

    def run(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        x, w, bias, y = dense(x), dense(w), no_bias if bias is None else dense(bias), new(*shape)
        operands = (x.data_ptr(), w.data_ptr(), y.data_ptr(), bias.data_ptr())
        convolve(*operands, *constants, threads_for(work))
        return y

    return run


def _weight_gradient(tables: Tables, shape: tuple[int, ...], exchanged: bool) -> Callable[..., torch.Tensor]:
    constants, work = tables.addresses(), tables.work

    def run(x: torch.Tensor, dy: torch.Tensor) -> torch.Tensor:
        dw, x, dy = new(*shape), dense(x), dense(dy)
        x, dy = (dy, x) if exchanged else (x, dy)
        convolve_weights(x.data_ptr(), dy.data_ptr(), dw.data_ptr(), *constants, threads_for(work))
        return dw

    return run


def supports(case: Case) -> str:
    """Depthwise conv2d or conv_transpose2d with any multiplier, float32."""
    if case.device != "cpu":
        return "runs on the CPU"
    if case.dtype != "float32":
        return f"{case.dtype} is not written"
    if reason := cannot_lower(case):
        return reason
    lowered = lower(case).spec
    return "" if lowered.groups == lowered.c else "depthwise only"


def build(case: Case) -> Kernel:
    """Kernel for a case that supports() accepts."""
    lowered, shape = lower(case), case.output_shapes[0]
    spec = lowered.spec
    name: dict[Any, str] = {ROLLING: "depthwise_rolling", STRIDE2: "depthwise_stride2", PADDED_TAPS: "depthwise_padded"}
    if lowered.pass_ == "weight_gradient":
        return Kernel(_weight_gradient(forward_tables(spec), shape, lowered.exchanged), "depthwise_weights")
    tables = forward_tables(spec) if lowered.pass_ == "forward" else gradient_tables(spec)
    algorithm = name[int(tables.phases[0, METHOD])] if len(tables.phases) == 1 else "depthwise_phases"
    if tables.phases[0, BLOCKED]:
        algorithm = "depthwise_channels"
    return Kernel(_convolution(tables, shape), algorithm)
