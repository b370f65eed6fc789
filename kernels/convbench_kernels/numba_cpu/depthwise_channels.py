"""Depthwise convolution of LANES channels at a time: the vector runs over channels, so no lane is ever empty.

Rows of 7 or 14 pixels leave half of a vector along W empty, and their edges need masks. Here the planes of LANES
channels are transposed to [pixel][channel] with zero pixels around them, convolved, and transposed back:

    x (LANES planes of H*W) --transpose--> dense [H*W][LANES] --copy--> padded [rows][pitch][LANES]
    y[p][q][l] = bias[l] + sum over taps t of w[t][l] * padded[p*sh + r][q*sw + s][l]

TOGETHER pixels of a row are summed side by side: as many independent sums as an FMA's latency needs.
"""

from __future__ import annotations

from convbench_kernels.numba_cpu.jit import inline_kernel, kernel
from convbench_kernels.numba_cpu.simd import broadcast, fma, load, maximum, store, transpose
from convbench_kernels.numba_cpu.tiles import LANES

TOGETHER = 8


@inline_kernel
def _planes_to_pixels(x, xi, pixels, out):
    """out[pixel*LANES + l] = x[xi + l*pixels + pixel]; pixels >= LANES."""
    for first in range(0, pixels, LANES):
        at = min(first, pixels - LANES)
        transpose(x, xi + at, pixels, out, at * LANES, LANES)


@inline_kernel
def pixels_to_planes(values, pixels, y, yi):
    """The inverse, from the beginning of `values`."""
    for start in range(0, pixels, LANES):
        at = min(start, pixels - LANES)
        transpose(values, at * LANES, LANES, y, yi + at, pixels)


@kernel
def clear(scratch, begin, end):
    for i in range(begin, end):
        scratch[i] = 0.0


@kernel
def pad_block(x, xi, height, width, w, wi, w_plane, taps, top, left, padded_rows, pitch, scratch, padded):
    """LANES planes of x to padded pixels, zero around the image, and behind them their weights; dense pixels first."""
    count, weights = taps.shape[0], padded + padded_rows * pitch * LANES
    for t in range(count):
        for lane in range(LANES):
            scratch[weights + t * LANES + lane] = w[wi + lane * w_plane + taps[t, 3]]
    _planes_to_pixels(x, xi, height * width, scratch)
    for h in range(max(0, -top), min(height, padded_rows - top)):
        for v in range(max(0, -left), min(width, pitch - left)):
            at = padded + ((h + top) * pitch + v + left) * LANES
            store(scratch, at, load(scratch, (h * width + v) * LANES))


@kernel
def convolve_block(taps, begin, end, weights, bias, k, least, scratch, padded, pitch, stride_h, stride_w,
                   rows, cols, out, out_row, out_step):  # fmt: skip
    """Taps [begin, end) of LANES output planes to dense pixels: row p, column q at out + p*out_row + q*out_step."""
    step, start, floor = stride_w * LANES, load(bias, k), broadcast(least)
    for p in range(rows):
        for q in range(0, cols, TOGETHER):
            at = padded + (p * stride_h * pitch + q * stride_w) * LANES
            a0 = a1 = a2 = a3 = a4 = a5 = a6 = a7 = start
            for t in range(begin, end):
                i, weight = at + taps[t, 5], load(scratch, weights + t * LANES)
                a0 = fma(load(scratch, i), weight, a0)
                a1 = fma(load(scratch, i + step), weight, a1)
                a2 = fma(load(scratch, i + 2 * step), weight, a2)
                a3 = fma(load(scratch, i + 3 * step), weight, a3)
                a4 = fma(load(scratch, i + 4 * step), weight, a4)
                a5 = fma(load(scratch, i + 5 * step), weight, a5)
                a6 = fma(load(scratch, i + 6 * step), weight, a6)
                a7 = fma(load(scratch, i + 7 * step), weight, a7)
            to, next_, left = (out + p * out_row + q * out_step) * LANES, out_step * LANES, cols - q
            for m, value in enumerate((a0, a1, a2, a3, a4, a5, a6, a7)):
                if m < left:
                    store(scratch, to + m * next_, maximum(value, floor))
