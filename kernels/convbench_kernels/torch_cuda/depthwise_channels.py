"""The kernels of triton.depthwise_channels_last: channels in the lanes, COLS output columns in registers.

    y[n, p, q, k] = bias[k] + sum over r, s of w[k, 0, r, s] x[n, p*stride_h - padding_h + r*dilation_h, ..., k // M]

x (N, H, W, C) and y (N, P, Q, K) in memory. A line is COLS columns of one row of one image; a program computes
TILE_LINES lines x TILE_C channels. Loads are 16 bytes wide where C allows; each column of x that is loaded is used by
all output columns that it reaches, as each row is in depthwise.py, whose Correlation this computes.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from convbench.plugin import Case
from convbench_kernels.torch_cuda.depthwise import (
    added,
    as_conv2d,
    correlation,
    spread,
    tap,
    tile,
    zeros,
)
from convbench_kernels.torch_cuda.depthwise_weights import PROGRAMS, evenly
from convbench_kernels.torch_cuda.launch import MEMORY_FORMAT, add_partials, new, on
from convbench_kernels.torch_cuda.tuning import Tile

LAST = MEMORY_FORMAT["channels_last"]
MOST_CHANNELS = 64  # channels of a program, at most
FEW_TAPS = 9  # more, and weights are turned to lie as channels do: a launch, for one load of several channels' taps
ACCUMULATORS = 104  # registers of a thread for sums of the weight gradient: fewer taps a pass, and x is read more often
SIZES: list[Tile] = [  # columns of a line, outputs of a column of lines in a program, warps: the fastest by trial
    {"cols": cols, "elements": elements, "warps": warps}
    for cols, elements, warps in ((4, 512, 4), (4, 1024, 4), (8, 512, 4), (2, 512, 4), (4, 256, 2))
]
GRADIENT_SIZES: list[Tile] = [
    {"cols": cols, "elements": elements, "warps": warps}
    for cols, elements, warps in ((4, 512, 4), (4, 256, 4), (2, 512, 4), (4, 1024, 4))
]


@triton.jit
def _correlate(
    source, w, w_filter, w_tap, bias, out, lines, groups, channels, source_h, source_w, out_h, out_w,
    MULTIPLIER: tl.constexpr, SOURCES: tl.constexpr, TURNED: tl.constexpr, R: tl.constexpr, S: tl.constexpr,
    STRIDE_H: tl.constexpr, UP_H: tl.constexpr, OFFSET_H: tl.constexpr, DILATION_H: tl.constexpr,
    STRIDE_W: tl.constexpr, UP_W: tl.constexpr, OFFSET_W: tl.constexpr, DILATION_W: tl.constexpr,
    COLS: tl.constexpr, STEP: tl.constexpr, FIRST: tl.constexpr, COUNT: tl.constexpr,
    HAS_BIAS: tl.constexpr, RELU: tl.constexpr, TILE_LINES: tl.constexpr, TILE_C: tl.constexpr,
):  # fmt: skip
    line = tl.program_id(0) * TILE_LINES + tl.arange(0, TILE_LINES)[:, None]
    k = tl.program_id(1) * TILE_C + tl.arange(0, TILE_C)[None, :]
    group = line % groups
    p = line // groups % out_h
    n = line // groups // out_h
    here = (line < lines) & (k < channels)
    source_channels = channels * SOURCES // MULTIPLIER if not TURNED else channels * SOURCES
    total = zeros(COLS, TILE_LINES, TILE_C)
    for m in range(SOURCES):
        filter_ = k * SOURCES + m
        channel = filter_ if TURNED else k // MULTIPLIER
        for r in tl.static_range(R):
            row = p * STRIDE_H + OFFSET_H + r * DILATION_H
            inside = here & (row >= 0)
            if UP_H > 1:
                inside &= row % UP_H == 0
                row = row // UP_H
            inside &= row < source_h
            start = source + (n * source_h + row).to(tl.int64) * source_w * source_channels + channel
            taps = ()
            for s in tl.static_range(S):
                at = w + filter_ * w_filter + (R * S - 1 - r * S - s if TURNED else r * S + s) * w_tap
                taps += (tl.load(at, mask=k < channels, other=0.0).to(tl.float32),)
            for i in tl.static_range(COUNT):
                column = group * STEP + FIRST + i
                ok = inside & (column >= 0) & (column < source_w)
                value = tl.load(start + column * source_channels, mask=ok, other=0.0).to(tl.float32)
                total = spread(total, value, taps, FIRST + i, COLS, S, STRIDE_W, UP_W, OFFSET_W, DILATION_W)
    for o in tl.static_range(COLS):
        q = group * COLS + o
        result = total[o]
        if HAS_BIAS:
            result += tl.load(bias + k, mask=k < channels, other=0.0).to(tl.float32)
        if RELU:
            result = tl.maximum(result, 0.0, propagate_nan=tl.PropagateNan.ALL)
        target = out + ((n * out_h + p).to(tl.int64) * out_w + q) * channels + k
        tl.store(target, result.to(out.dtype.element_ty), mask=here & (q < out_w))


@triton.jit
def _weight_gradient(
    x, dy, partials, lines, filters, groups, blocks_a_split, height, width, rows, columns, MULTIPLIER: tl.constexpr,
    R: tl.constexpr, S: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, PADDING_H: tl.constexpr,
    PADDING_W: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr, COLS: tl.constexpr,
    COUNT: tl.constexpr, RAGGED: tl.constexpr, TAPS_R: tl.constexpr, TILE_LINES: tl.constexpr, TILE_C: tl.constexpr,
):  # fmt: skip
    k = tl.program_id(0) * TILE_C + tl.arange(0, TILE_C)[None, :]
    split = tl.program_id(1)
    first_r = tl.program_id(2) * TAPS_R
    channels = filters // MULTIPLIER
    total = zeros(TAPS_R * S, TILE_LINES, TILE_C)
    for block in range(split * blocks_a_split, (split + 1) * blocks_a_split):
        line = block * TILE_LINES + tl.arange(0, TILE_LINES)[:, None]
        group = line % groups
        p = line // groups % rows
        n = line // groups // rows
        here = (line < lines) & (k < filters)
        y_start = dy + (n * rows + p).to(tl.int64) * columns * filters + k
        gradients = ()
        for o in tl.static_range(COLS):
            q = group * COLS + o
            gradients += (tl.load(y_start + q * filters, mask=here & (q < columns), other=0.0).to(tl.float32),)
        for r in tl.static_range(TAPS_R):
            row = p * STRIDE_H - PADDING_H + (first_r + r) * DILATION_H
            inside = here & (row >= 0) & (row < height)
            x_start = x + (n * height + row).to(tl.int64) * width * channels + k // MULTIPLIER
            for i in tl.static_range(COUNT):
                column = group * (COLS * STRIDE_W) - PADDING_W + i
                ok = inside & (column >= 0) & (column < width)
                value = tl.load(x_start + column * channels, mask=ok, other=0.0).to(tl.float32)
                for o in tl.static_range(COLS):
                    if tap(i, o, S, STRIDE_W, 1, 0, DILATION_W) >= 0:
                        product = value * gradients[o]
                        if RAGGED:  # where dy has no column, x must not bring a NaN in
                            product = tl.where(group * COLS + o < columns, product, 0.0)
                        total = added(total, r * S + tap(i, o, S, STRIDE_W, 1, 0, DILATION_W), product)
    for r in tl.static_range(TAPS_R):
        for s in tl.static_range(S):
            at = (split.to(tl.int64) * filters + k) * (R * S) + (first_r + r) * S + s
            summed = tl.sum(total[r * S + s], 0)[None, :]
            tl.store(partials + at, summed, mask=k < filters)


def correlate(case: Case, cols: int, elements: int, warps: int):
    """run(source, w, bias=None, relu=False) -> out on channels_last tensors."""
    c = correlation(case)
    size, step, first, count = c.w.grouped(cols)
    groups = triton.cdiv(c.w.out, size)
    lines = case.spec.n * c.h.out * groups
    tile_lines, tile_c = tile(lines, c.planes, MOST_CHANNELS, elements)
    grid = (triton.cdiv(lines, tile_lines), triton.cdiv(c.planes, tile_c))
    shape = (case.spec.n, c.planes, c.h.out, c.w.out)

    def run(source, w, bias=None, relu=False):
        source, w, out = source.contiguous(memory_format=LAST), w.flatten(1), new(shape, source, "channels_last")
        w = w.t().contiguous().t() if w.shape[1] > FEW_TAPS else w
        with on(source):
            _correlate[grid](
                source, w, *w.stride(), bias, out, lines, groups, c.planes, c.h.source, c.w.source, c.h.out, c.w.out,
                c.multiplier, c.sources, c.turned, c.h.taps, c.w.taps, *c.h[3:], *c.w[3:], size, step, first, count,
                bias is not None, relu, tile_lines, tile_c, num_warps=warps,
            )  # fmt: skip
        return out

    return run


def weight_gradient(case: Case, cols: int, elements: int, warps: int):
    """run(x, dy) -> dw on channels_last tensors; of a transposed convolution the two change places."""
    spec, _ = as_conv2d(case)
    cols = evenly(spec.q, cols)
    groups, count = triton.cdiv(spec.q, cols), (cols - 1) * spec.stride[1] + (spec.s - 1) * spec.dilation[1] + 1
    most = max(ACCUMULATORS * warps * 32 // elements, spec.s)
    taps_r = max(t for t in range(1, spec.r + 1) if spec.r % t == 0 and t * spec.s <= most)
    lines = spec.n * spec.p * groups
    tile_lines, tile_c = tile(lines, spec.k, MOST_CHANNELS, elements)
    blocks, programs = triton.cdiv(lines, tile_lines), triton.cdiv(spec.k, tile_c) * (spec.r // taps_r)
    a_split = triton.cdiv(blocks, max(1, min(blocks, triton.cdiv(PROGRAMS, programs))))
    splits = triton.cdiv(blocks, a_split)
    grid = (triton.cdiv(spec.k, tile_c), splits, spec.r // taps_r)

    def run(x, dy):
        x, dy = (dy, x) if case.spec.is_transposed else (x, dy)
        x, dy = x.contiguous(memory_format=LAST), dy.contiguous(memory_format=LAST)
        partials = torch.empty((splits, *spec.w_shape), dtype=torch.float32, device=x.device)
        with on(x):
            _weight_gradient[grid](
                x, dy, partials, lines, spec.k, groups, a_split, spec.h, spec.w, spec.p, spec.q, spec.k // spec.c,
                spec.r, spec.s, *spec.stride, *spec.padding, *spec.dilation, cols, count, spec.q % cols != 0, taps_r,
                tile_lines, tile_c, num_warps=warps,
            )  # fmt: skip
            return add_partials(partials, new(spec.w_shape, x, "nchw"))

    return run
