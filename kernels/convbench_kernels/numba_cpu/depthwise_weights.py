"""Depthwise weight gradient, filter by filter: one vector of sums a tap; the ideas and versions: depthwise.py."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from convbench_kernels.numba_cpu.arguments import dense, floats, new, record, table
from convbench_kernels.numba_cpu.depthwise_planes import columns, pad_plane, scratch_size, valid_lanes
from convbench_kernels.numba_cpu.depthwise_tables import (
    COLS,
    COLUMNS,
    METHOD,
    PITCH,
    ROLLING,
    ROWS,
    STRIDE2,
    Planes,
    Tables,
)
from convbench_kernels.numba_cpu.jit import allocating_kernel, inline_kernel, kernel, share, threads_for
from convbench_kernels.numba_cpu.parallel import parallel
from convbench_kernels.numba_cpu.simd import broadcast, fma, load, load_range, sum_lanes
from convbench_kernels.numba_cpu.tiles import LANES


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


def weight_gradient(tables: Tables, shape: tuple[int, ...], exchanged: bool) -> Callable[..., torch.Tensor]:
    """run(x, dy) -> dw of `shape`; exchanged: x is the gradient, dy the input, of a transposed convolution."""
    constants, work = tables.addresses(), tables.work

    def run(x: torch.Tensor, dy: torch.Tensor) -> torch.Tensor:
        dw, x, dy = new(*shape), dense(x), dense(dy)
        x, dy = (dy, x) if exchanged else (x, dy)
        convolve_weights(x.data_ptr(), dy.data_ptr(), dw.data_ptr(), *constants, threads_for(work))
        return dw

    return run
