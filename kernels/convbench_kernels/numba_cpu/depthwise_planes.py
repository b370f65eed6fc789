"""Depthwise forward and data gradient, plane by plane; the ideas and versions: depthwise.py."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from convbench_kernels.numba_cpu.arguments import dense, floats, least, new, record, table, zeros
from convbench_kernels.numba_cpu.depthwise_channels import clear, convolve_block, pad_block, pixels_to_planes
from convbench_kernels.numba_cpu.depthwise_tables import (
    BEGIN,
    BLOCK_AT,
    BLOCK_LEFT,
    BLOCK_PITCH,
    BLOCK_ROWS,
    BLOCK_SIZE,
    BLOCK_TOP,
    BLOCKED,
    COLS,
    COLUMNS,
    END,
    LEAD,
    METHOD,
    OUT_FIRST,
    OUT_ROW,
    OUT_STEP,
    PADDED,
    PADDED_PHASE,
    PADDED_ROWS,
    PADDED_TAPS,
    PAIRED,
    PITCH,
    ROLLING,
    ROWS,
    STRIDE2,
    STRIDE_H,
    STRIDE_W,
    TOP,
    WIDTH,
    Planes,
    Tables,
)
from convbench_kernels.numba_cpu.jit import allocating_kernel, inline_kernel, kernel, share, threads_for
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
    maximum,
    scatter,
    store,
    store_range,
    tile_fma_at,
    tile_get,
    tile_rows,
    zip2,
)
from convbench_kernels.numba_cpu.tiles import LANES

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
def put(y, at, step, value, count, least):
    """y[at :: step][:count] = value, or `least` where that is more."""
    value = maximum(value, broadcast(least))
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
def plane_padded(scratch, w, taps, bias, least, y, yi, rows, cols, f):
    """One output plane (or phase of one) from padded planes, any taps: no load needs a mask."""
    pitch = f[PITCH]
    for a in range(0, rows, TOGETHER):
        for first in range(0, cols, LANES):
            t = tile_rows(1, TOGETHER, bias, 0)
            for i in range(taps.shape[0]):
                at = taps[i, 4] + a * pitch + first
                t = tile_fma_at(t, w, taps[i, 3], 1, scratch, at, (0, pitch, 2 * pitch, 3 * pitch))
            target, count = yi + a * f[OUT_ROW] + first * f[OUT_STEP], cols - first
            put(y, target, f[OUT_STEP], tile_get(t, 0, 0), count, least)
            if a + 1 < rows:
                put(y, target + f[OUT_ROW], f[OUT_STEP], tile_get(t, 0, 1), count, least)
            if a + 2 < rows:
                put(y, target + 2 * f[OUT_ROW], f[OUT_STEP], tile_get(t, 0, 2), count, least)
            if a + 3 < rows:
                put(y, target + 3 * f[OUT_ROW], f[OUT_STEP], tile_get(t, 0, 3), count, least)


@inline_kernel
def dot3(left, middle, right, w0, w1, w2, total):
    return fma(right, w2, fma(middle, w1, fma(left, w0, total)))


@inline_kernel
def _row_of_weights(w, taps, first):
    return broadcast(w[taps[first, 3]]), broadcast(w[taps[first + 1, 3]]), broadcast(w[taps[first + 2, 3]])


@kernel
def plane_rolling(x, xi, height, width, w, taps, bias, least, y, yi, rows, cols):
    """3 x 3, stride 1, taps in row order: each input row feeds the output rows above, level and below."""
    eh, ew = taps[0, 0], taps[0, 1]
    w00, w01, w02 = _row_of_weights(w, taps, 0)
    w10, w11, w12 = _row_of_weights(w, taps, 3)
    w20, w21, w22 = _row_of_weights(w, taps, 6)
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
                put(y, yi + (h - eh - 2) * cols + first, 1, above, count, least)
            above, level = level, below


@kernel
def plane_stride2(x, xi, height, width, w, taps, bias, least, y, yi, rows, cols):
    """3 x 3, stride 2, taps in row order: the third input row of one output row is the first of the next."""
    eh, ew = taps[0, 0], taps[0, 1]
    w00, w01, w02 = _row_of_weights(w, taps, 0)
    w10, w11, w12 = _row_of_weights(w, taps, 3)
    w20, w21, w22 = _row_of_weights(w, taps, 6)
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
            put(y, yi + a * cols + first, 1, total, count, least)
            total = following


@kernel
def depthwise_plane(source, k, x, w, y, yi, bias, least, taps, f, g, scratch):
    """One phase f of output plane k, from x plane number `source` on, to y[yi:], nothing below `least`.

    scratch: scratch_size elements."""
    height, width = g.height, g.width
    xi, rows, cols = source * height * width, f[ROWS], f[COLS]
    own_w, own = w[k * g.w_plane : (k + 1) * g.w_plane], taps[f[BEGIN] : f[END]]
    if f[METHOD] == ROLLING:
        plane_rolling(x, xi, height, width, own_w, own, bias[k], least, y, yi, rows, cols)
    elif f[METHOD] == STRIDE2:
        plane_stride2(x, xi, height, width, own_w, own, bias[k], least, y, yi, rows, cols)
    else:
        pad_plane(x, xi, height, width, g.up, f, scratch)
        plane_padded(scratch, own_w, own, bias[k : k + 1], least, y, yi, rows, cols, f)


@kernel
def plane_interleaved(scratch, w, even, odd, bias, least, y, yi, rows, width, f):
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
            _put_pair(y, target, tile_get(t, 0, 0), tile_get(s, 0, 0), count, least)
            if a + 1 < rows:
                _put_pair(y, target + f[OUT_ROW], tile_get(t, 0, 1), tile_get(s, 0, 1), count, least)
            if a + 2 < rows:
                _put_pair(y, target + 2 * f[OUT_ROW], tile_get(t, 0, 2), tile_get(s, 0, 2), count, least)
            if a + 3 < rows:
                _put_pair(y, target + 3 * f[OUT_ROW], tile_get(t, 0, 3), tile_get(s, 0, 3), count, least)


@inline_kernel
def _put_pair(y, at, even, odd, count, least):
    floor = broadcast(least)
    low, high = zip2(maximum(even, floor), maximum(odd, floor))
    if count >= 2 * LANES:
        store(y, at, low)
        store(y, at + LANES, high)
    else:
        store_range(y, at, low, 0, count)
        store_range(y, at + LANES, high, 0, count - LANES)


@kernel
def _plane_phases(source, k, x, w, y, yi, bias, least, taps, phases, g, scratch):
    """All phases of output plane k; those of padded planes share one padding."""
    n, own_w = 0, w[k * g.w_plane : (k + 1) * g.w_plane]
    if phases[0, METHOD] == PADDED_TAPS:
        pad_plane(x, source * g.height * g.width, g.height, g.width, g.up, phases[0], scratch)
    while n < phases.shape[0]:
        f = phases[n]
        if f[METHOD] != PADDED_TAPS:
            depthwise_plane(source, k, x, w, y, yi + f[OUT_FIRST], bias, least, taps, f, g, scratch)
        elif f[PAIRED]:
            even, odd = taps[f[BEGIN] : f[END]], taps[phases[n + 1, BEGIN] : phases[n + 1, END]]
            width = f[COLS] + phases[n + 1, COLS]
            plane_interleaved(scratch, own_w, even, odd, bias[k : k + 1], least, y, yi + f[OUT_FIRST], f[ROWS], width,
                              f)  # fmt: skip
            n += 1
        else:
            own = taps[f[BEGIN] : f[END]]
            plane_padded(scratch, own_w, own, bias[k : k + 1], least, y, yi + f[OUT_FIRST], f[ROWS], f[COLS], f)
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
def _blocks_share(x, w, y, bias, least, taps, phases, g, scratch, thread, threads):
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
                convolve_block(taps, h[BEGIN], h[END], weights, bias, k, least, scratch, f[BLOCK_AT],
                               f[BLOCK_PITCH], h[STRIDE_H], h[STRIDE_W], h[ROWS], h[COLS], h[OUT_FIRST], h[OUT_ROW],
                               h[OUT_STEP])  # fmt: skip
            pixels_to_planes(scratch, g.y_plane, y, (image * g.y_planes + k) * g.y_plane)
        else:
            rest = np.empty(f[PADDED] + TOGETHER * f[PITCH] + 2 * LANES, np.float32)
            for last in range(k, g.y_planes):
                at = image * g.y_planes + last
                _plane_phases(source + last - k, last, x, w, y, at * g.y_plane, bias, least, taps, phases, g,
                              rest)  # fmt: skip


@allocating_kernel
def _convolve_share(x, w, y, bias, least, taps, phases, g_at, thread, threads):
    """One thread's share of the output planes, all their phases."""
    g = record(Planes, g_at)
    scratch = np.empty(scratch_size(phases, g), np.float32)
    if phases[0, BLOCKED]:
        _blocks_share(x, w, y, bias, least, taps, phases, g, scratch, thread, threads)
        return
    begin, end = share(g.images * g.y_planes, thread, threads)
    for i in range(begin, end):
        image, k = i // g.y_planes, i % g.y_planes
        source = image * g.x_planes + k * g.up // g.down
        _plane_phases(source, k, x, w, y, i * g.y_plane, bias, least, taps, phases, g, scratch)


@kernel
def convolve(x_at, w_at, y_at, bias_at, least, taps_at, taps_count, phases_at, phases_count, g_at, threads):
    """Addresses: float32 x, w, y, bias; tables as in Tables. Planes shared out evenly; no y is below `least`."""
    x, w, y, bias = floats(x_at), floats(w_at), floats(y_at), floats(bias_at)
    taps, phases = table(taps_at, taps_count, 6), table(phases_at, phases_count, COLUMNS)
    parallel(threads, _convolve_share, (x, w, y, bias, np.float32(least), taps, phases, g_at))


def convolution(tables: Tables, shape: tuple[int, ...]) -> Callable[..., torch.Tensor]:
    """run(x, w, bias=None, relu=False) -> y of `shape`; in a data gradient x is dy and y is dx."""
    no_bias, constants, work = zeros(tables.planes.y_planes), tables.addresses(), tables.work

    def run(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None = None, relu: bool = False) -> torch.Tensor:
        x, w, bias, y = dense(x), dense(w), no_bias if bias is None else dense(bias), new(*shape)
        operands = (x.data_ptr(), w.data_ptr(), y.data_ptr(), bias.data_ptr())
        convolve(*operands, least(relu), *constants, threads_for(work))
        return y

    return run
