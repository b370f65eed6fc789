"""triton.fused: depthwise, then pointwise convolution in one kernel; the intermediate never leaves the registers.

    y[n, k, p, q] = bias[k] + sum_c w2[k, c] sum over r, s of w1[c, r, s] x[n, c, p*sh - ph + r*dh, q*sw - pw + s*dw]

x (N, C, H, W), w1 (C, 1, R, S), w2 (K, C, 1, 1), y (N, K, P, Q). Forward only; backward goes through pair.py.

A program computes BM pixels x BN filters. For BK channels at a time it makes the depthwise result of its pixels, which
is the left operand of the product with w2. It is made again for every block of filters, so BN is wide; two calls write
and read the whole intermediate instead. In short types it is rounded once before the product, as two calls do.

Versions
  1  a loop over taps inside the loop over channels     nothing was in flight while a tap was added
  2  taps unrolled, w1 with taps outside channels        wide loads, all taps of a block of channels at once
"""

from __future__ import annotations

import triton
import triton.language as tl

from convbench.plugin import Case, Kernel, Layout
from convbench_kernels.torch_cuda.launch import INTERPRETED, Launch, both_layouts, new, on
from convbench_kernels.torch_cuda.matrix import aligned, innermost, multiply, precision
from convbench_kernels.torch_cuda.pair import error_factor
from convbench_kernels.torch_cuda.tuning import FUSED, Tile, tiles

MOST_TAPS = 49  # unrolled


@triton.jit
def _pair(
    x, w1, w2, bias, out, batch, area_units, channels, filters, height, width, columns, x_n, x_c, x_h, x_w, w2_k,
    y_n, y_k_units, y_w, R: tl.constexpr, S: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    PADDING_H: tl.constexpr, PADDING_W: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    HAS_BIAS: tl.constexpr, PRECISION: tl.constexpr, CAST: tl.constexpr, ALIGN: tl.constexpr, Y_ALIGN: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    area, y_k = area_units * ALIGN, y_k_units * Y_ALIGN
    blocks = tl.cdiv(filters, BN)
    m = tl.program_id(0) // blocks * BM + tl.arange(0, BM)
    f = tl.program_id(0) % blocks * BN + tl.arange(0, BN)
    here = m < batch * area
    n, pixel = m // area, m % area
    top, left = pixel // columns * STRIDE_H - PADDING_H, pixel % columns * STRIDE_W - PADDING_W
    x_at = x + n.to(tl.int64) * x_n
    total = tl.zeros((BM, BN), tl.float32)
    for first in range(0, channels, BK):
        c = first + tl.arange(0, BK)
        some = c < channels
        b = tl.load(w2 + f[None, :] * w2_k + c[:, None], mask=some[:, None] & (f < filters)[None, :], other=0.0)
        between = tl.zeros((BM, BK), tl.float32)
        for tap in tl.static_range(R * S):
            h, v = top + tap // S * DILATION_H, left + tap % S * DILATION_W
            inside = here & (h >= 0) & (h < height) & (v >= 0) & (v < width)
            at = x_at[:, None] + ((h * x_h + v * x_w)[:, None] + c[None, :] * x_c)
            value = tl.load(at, mask=inside[:, None] & some[None, :], other=0.0).to(tl.float32)
            between += value * tl.load(w1 + tap * channels + c, mask=some, other=0.0).to(tl.float32)[None, :]
        total = multiply(between.to(x.dtype.element_ty), b, total, PRECISION, CAST)
    if HAS_BIAS:
        total += tl.load(bias + f, mask=f < filters, other=0.0).to(tl.float32)[None, :]
    target = (out + n.to(tl.int64) * y_n)[:, None] + ((pixel * y_w)[:, None] + f[None, :] * y_k)
    tl.store(target, total.to(out.dtype.element_ty), mask=here[:, None] & (f < filters)[None, :])


def pair(case: Case, layout: Layout):
    """run(x, w1, w2, bias=None) -> y."""
    spec = case.spec
    pixels, area = spec.n * spec.p * spec.q, spec.p * spec.q
    key = (pixels, spec.c, spec.k, spec.r * spec.s, *spec.stride, layout, case.dtype)
    launch = Launch(_pair, tiles(pixels, spec.k, FUSED[case.dtype]), key)

    def grid(tile: Tile) -> tuple[int, ...]:
        return (triton.cdiv(pixels, tile["BM"]) * triton.cdiv(spec.k, tile["BN"]),)

    def run(x, w1, w2, bias=None):
        out, x = new((spec.n, spec.k, spec.p, spec.q), x, layout), innermost(x, in_place=False)
        y_n, y_k, _, y_w = out.stride()
        align, y_align = aligned(area), aligned(y_k)
        with on(x):
            launch(grid,
                x, w1.flatten(1).t().contiguous(), w2, bias, out, spec.n, area // align, spec.c, spec.k, spec.h, spec.w,
                spec.q, *x.stride(), w2.stride(0), y_n, y_k // y_align, y_w, spec.r, spec.s, *spec.stride,
                *spec.padding, *spec.dilation, bias is not None, precision(case), INTERPRETED, align,
                y_align,
            )  # fmt: skip
        return out

    return run


def covers(case: Case) -> str:
    if not case.spec.is_separable:
        return "depthwise-separable pairs only"
    if case.pass_ != "forward":
        return "forward only: see triton.pair"
    if case.spec.r * case.spec.s > MOST_TAPS:
        return f"kernels of more than {MOST_TAPS} taps are not implemented"
    return ""


def build(case: Case, layout: Layout) -> Kernel:
    return Kernel(pair(case, layout), "depthwise in registers, then gemm", error_factor=error_factor(case))


IMPLEMENTATIONS = both_layouts("fused", covers, build, "depthwise and pointwise in one kernel")
