"""The weight gradient of triton.implicit_gemm: the product of dy and windows of x, summed over the pixels.

    dw[k, c, r, s] = sum over n, p, q of dy[n, k, p, q] x[n, c, p*stride_h - padding_h + r*dilation_h, ...]

    gemm_m = filters of a group           gemm_n = taps x channels             gemm_k = pixels

Its pixels are split in as many parts as keep every multiprocessor busy; each part writes sums of its own, in float32,
that are added in a fixed order. Channels are innermost in them, so that x is read as it lies in channels_last.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl

from convbench.plugin import Case, Layout
from convbench_kernels.torch_cuda.depthwise import as_conv2d
from convbench_kernels.torch_cuda.launch import INTERPRETED, Launch, add_partials, new, on
from convbench_kernels.torch_cuda.matrix import aligned, innermost, multiply, pointwise, precision
from convbench_kernels.torch_cuda.tuning import GEMM, Tile, tiles

PROGRAMS = 8 if INTERPRETED else 512  # about: some for each multiprocessor
PIXELS_A_SPLIT = 128  # a multiple of every BK, so that loads stay aligned


@triton.jit
def _weight_gradient(
    x, dy, partials, batch, a_split, area_units, columns, height, width, filters, channels, x_n, x_c_units, x_h, x_w,
    y_n, y_c_units, y_w,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, PADDING_H: tl.constexpr, PADDING_W: tl.constexpr,
    DILATION_H: tl.constexpr, DILATION_W: tl.constexpr, S: tl.constexpr, TAPS: tl.constexpr, GROUPS: tl.constexpr,
    POINTWISE: tl.constexpr, PRECISION: tl.constexpr, CAST: tl.constexpr, ALIGN: tl.constexpr, X_ALIGN: tl.constexpr,
    Y_ALIGN: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(filters, BM)
    group, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    split = tl.program_id(2)
    area, x_c, y_c = area_units * ALIGN, x_c_units * X_ALIGN, y_c_units * Y_ALIGN
    f = block * BM + tl.arange(0, BM)
    term = tl.program_id(1) * BN + tl.arange(0, BN)  # tap, then channel
    some = term < channels * TAPS
    tap, c = term // channels, group * channels + term % channels
    eh, ew = (tap // S * DILATION_H - PADDING_H)[None, :], (tap % S * DILATION_W - PADDING_W)[None, :]
    total = tl.zeros((BM, BN), tl.float32)
    for step in range(tl.cdiv(a_split, BK)):
        m = split * a_split + step * BK + tl.arange(0, BK)
        here = m < batch * area
        n, pixel = m // area, m % area
        y_at = (dy + n.to(tl.int64) * y_n)[None, :]
        a = tl.load(
            y_at + ((pixel * y_w)[None, :] + (group * filters + f)[:, None] * y_c),
            mask=(f < filters)[:, None] & here[None, :],
            other=0.0,
        )
        inside = here[:, None] & some[None, :]
        if POINTWISE:
            window = (pixel * x_w)[:, None]
        else:
            h, v = (pixel // columns)[:, None] * STRIDE_H + eh, (pixel % columns)[:, None] * STRIDE_W + ew
            inside = inside & (h >= 0) & (h < height) & (v >= 0) & (v < width)
            window = h * x_h + v * x_w
        b = tl.load((x + n.to(tl.int64) * x_n)[:, None] + (window + c[None, :] * x_c), mask=inside, other=0.0)
        total = multiply(a, b, total, PRECISION, CAST)
    row = split.to(tl.int64) * GROUPS * filters + group * filters + f
    target = partials + row[:, None] * (channels * TAPS) + term[None, :]
    tl.store(target, total, mask=(f < filters)[:, None] & some[None, :])


def weight_gradient(case: Case, layout: Layout) -> Callable[..., torch.Tensor]:
    """run(x, dy) -> dw; of a transposed convolution the two change places."""
    spec, _ = as_conv2d(case)
    channels, filters, taps = spec.c // spec.groups, spec.k // spec.groups, spec.r * spec.s
    pixels = spec.n * spec.p * spec.q
    outputs = spec.k * triton.cdiv(channels * taps, 64) // 64 or 1
    splits = max(1, min(triton.cdiv(pixels, 256), PROGRAMS // outputs))
    a_split = triton.cdiv(triton.cdiv(pixels, splits), PIXELS_A_SPLIT) * PIXELS_A_SPLIT
    splits = triton.cdiv(pixels, a_split)
    key = (pixels, filters, channels, taps, layout, case.dtype)
    launch = Launch(_weight_gradient, tiles(filters, channels * taps, GEMM[case.dtype]), key)

    def grid(tile: Tile) -> tuple[int, int, int]:
        return spec.groups * triton.cdiv(filters, tile["BM"]), triton.cdiv(channels * taps, tile["BN"]), splits

    def run(x, dy):
        x, dy = (dy, x) if case.spec.is_transposed else (x, dy)
        x, dy = innermost(x, pointwise(spec)), innermost(dy, in_place=True)
        partials = torch.empty((splits, *spec.w_shape), dtype=torch.float32, device=x.device)
        (x_n, x_c, x_h, x_w), (y_n, y_c, _, y_w) = x.stride(), dy.stride()
        align, x_align, y_align = map(aligned, (spec.p * spec.q, x_c, y_c))
        with on(x):
            launch(grid,
                x, dy, partials, spec.n, a_split, spec.p * spec.q // align, spec.q, spec.h, spec.w, filters, channels,
                x_n, x_c // x_align, x_h, x_w, y_n, y_c // y_align, y_w, *spec.stride, *spec.padding, *spec.dilation,
                spec.s, taps, spec.groups, pointwise(spec), precision(case), INTERPRETED, align, x_align, y_align,
            )  # fmt: skip
            dw = add_partials(partials, new(spec.w_shape, x, "channels_last"))
        return dw if layout == "channels_last" else dw.contiguous()

    return run
