"""The weight gradient of triton.depthwise on contiguous tensors: no tensor cores, the limit is memory.

    dw[k, 0, r, s] = sum over n, p, q of dy[n, k, p, q] x[n, k // M, p*stride_h - padding_h + r*dilation_h, ...]

A program has an accumulator a tap, in registers, and runs over a part of the lines of one channel: ROWS rows of dy and
the rows of x that they reach. x and dy come from memory once, where ATen's kernel reads both R S times. The parts, as
many as keep the multiprocessors busy, are added in a fixed order: for 128 channels of 56 x 56 at batch 32 they are
74 kB beside 51 MB of operands in bfloat16.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from convbench.plugin import Case
from convbench_kernels.torch_cuda.depthwise import MOST_COLUMNS, added, as_conv2d, tap, tile, zeros
from convbench_kernels.torch_cuda.launch import INTERPRETED, add_partials, new, on
from convbench_kernels.torch_cuda.tuning import Tile

MOST_ACCUMULATORS = 49  # taps of one program of the weight gradient: an accumulator each
GRADIENT_SIZES: list[Tile] = [
    {"rows": rows, "elements": elements, "warps": warps}
    for rows, elements, warps in ((4, 128, 4), (4, 256, 4), (8, 128, 4), (4, 256, 8))
]
PROGRAMS = 16 if INTERPRETED else 2048  # of the weight gradient, about: some for each multiprocessor


@triton.jit(do_not_specialize=["height", "width", "rows", "columns"])
def _weight_gradient(
    x, dy, partials, batch, channels, groups, blocks_a_split, height, width, rows, columns, MULTIPLIER: tl.constexpr,
    R: tl.constexpr, S: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, PADDING_H: tl.constexpr,
    PADDING_W: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr, ROWS: tl.constexpr,
    COUNT: tl.constexpr, RAGGED: tl.constexpr, TAPS_S: tl.constexpr, TILE_LINES: tl.constexpr, TILE_Q: tl.constexpr,
    Q_BLOCKS: tl.constexpr,
):  # fmt: skip
    k = tl.program_id(0)
    split = tl.program_id(1)
    first_s = tl.program_id(2) * TAPS_S
    filters = channels * MULTIPLIER
    total = zeros(R * TAPS_S, TILE_LINES, TILE_Q)
    for block in range(split * blocks_a_split, (split + 1) * blocks_a_split):
        line = (block // Q_BLOCKS) * TILE_LINES + tl.arange(0, TILE_LINES)[:, None]
        q = (block % Q_BLOCKS) * TILE_Q + tl.arange(0, TILE_Q)[None, :]
        n, group = line // groups, line % groups
        here = (n < batch) & (q < columns)
        y_start = dy + (n.to(tl.int64) * filters + k) * rows * columns
        x_start = x + (n.to(tl.int64) * channels + k // MULTIPLIER) * height * width
        gradients = ()
        for o in tl.static_range(ROWS):
            p = group * ROWS + o
            value = tl.load(y_start + p * columns + q, mask=here & (p < rows), other=0.0)
            gradients += (value.to(tl.float32),)
        for s in tl.static_range(TAPS_S):
            column = q * STRIDE_W - PADDING_W + (first_s + s) * DILATION_W
            inside = here & (column >= 0) & (column < width)
            for i in tl.static_range(COUNT):
                row = group * (ROWS * STRIDE_H) - PADDING_H + i
                value = tl.load(x_start + row * width + column, mask=inside & (row >= 0) & (row < height), other=0.0)
                value = value.to(tl.float32)
                for o in tl.static_range(ROWS):
                    if tap(i, o, R, STRIDE_H, 1, 0, DILATION_H) >= 0:
                        product = value * gradients[o]
                        if RAGGED:  # where dy has no row, x must not bring a NaN in
                            product = tl.where(group * ROWS + o < rows, product, 0.0)
                        total = added(total, tap(i, o, R, STRIDE_H, 1, 0, DILATION_H) * TAPS_S + s, product)
    for r in tl.static_range(R):
        for s in tl.static_range(TAPS_S):
            at = (split.to(tl.int64) * filters + k) * (R * S) + r * S + first_s + s
            tl.store(partials + at, tl.sum(tl.sum(total[r * TAPS_S + s], 1), 0))


def evenly(length: int, about: int) -> int:
    """A divisor of the length, up to twice `about`; where there is none but 1, `about`."""
    divisors = [d for d in range(2, min(2 * about, length) + 1) if length % d == 0]
    return min(divisors, key=lambda d: abs(d - about), default=min(about, length))


def weight_gradient(case: Case, rows: int, elements: int, warps: int):
    """run(x, dy) -> dw on contiguous tensors; of a transposed convolution the two change places."""
    spec, _ = as_conv2d(case)
    rows = evenly(spec.p, rows)
    groups, count = triton.cdiv(spec.p, rows), (rows - 1) * spec.stride[0] + (spec.r - 1) * spec.dilation[0] + 1
    taps_s = max(t for t in range(1, spec.s + 1) if spec.s % t == 0 and t * spec.r <= max(MOST_ACCUMULATORS, spec.r))
    tile_lines, tile_q = tile(spec.n * groups, spec.q, MOST_COLUMNS, elements)
    q_blocks = triton.cdiv(spec.q, tile_q)
    blocks = triton.cdiv(spec.n * groups, tile_lines) * q_blocks
    splits = max(1, min(blocks, triton.cdiv(PROGRAMS, spec.k)))
    a_split = triton.cdiv(blocks, splits)
    splits = triton.cdiv(blocks, a_split)
    grid = (spec.k, splits, spec.s // taps_s)

    def run(x, dy):
        x, dy = (dy, x) if case.spec.is_transposed else (x, dy)
        x, dy, dw = x.contiguous(), dy.contiguous(), new(spec.w_shape, x, "nchw")
        partials = torch.empty((splits, *spec.w_shape), dtype=torch.float32, device=x.device)
        with on(x):
            _weight_gradient[grid](
                x, dy, partials, spec.n, spec.c, groups, a_split, spec.h, spec.w, spec.p, spec.q, spec.k // spec.c,
                spec.r, spec.s, *spec.stride, *spec.padding, *spec.dilation, rows, count, spec.p % rows != 0, taps_s,
                tile_lines, tile_q, q_blocks, num_warps=warps,
            )  # fmt: skip
            return add_partials(partials, dw)

    return run
