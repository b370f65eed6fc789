"""triton.fused: depthwise, then pointwise convolution in one kernel; the intermediate never leaves the registers.

    y[n, k, p, q] = bias[k] + sum_c w2[k, c] sum over r, s of w1[c, r, s] x[n, c, p*sh - ph + r*dh, q*sw - pw + s*dw]

x (N, C, H, W), w1 (C, 1, R, S), w2 (K, C, 1, 1), y (N, K, P, Q). Forward only.

A program computes BM pixels x BN filters. For BK channels at a time it makes the depthwise result of its pixels, which
is the left operand of the product with w2. It is made again for every block of filters, so BN is wide; two calls write
and read the whole intermediate instead. In short types it is rounded once before the product, as two calls do.
"""

from __future__ import annotations

import triton
import triton.language as tl

from convbench.plugin import Case, Kernel, Layout
from convbench_kernels.torch_cuda.implicit_gemm import multiply
from convbench_kernels.torch_cuda.launch import INTERPRETED, both_layouts, new, on, tuned

MOST_TAPS = 121
CONFIGS = [
    triton.Config({"BM": bm, "BN": bn, "BK": bk}, num_warps=warps, num_stages=2)
    for bm, bn, bk, warps in ((64, 128, 32, 4), (64, 256, 32, 8), (128, 128, 32, 8), (32, 128, 32, 4), (64, 64, 32, 4))
]
SMALL = {"BM": 32, "BN": 32, "BK": 16}  # in the interpreter
ROUNDED_TWICE = 2.0  # error factor of a rounded intermediate beside the result's own rounding


@tuned(CONFIGS, ["channels", "filters", "R", "S"])
@triton.jit(do_not_specialize=["pixels"])
def _pair(
    x, w1, w2, bias, out, pixels, channels, filters, height, width, rows, columns, x_n, x_c, x_h, x_w, w2_k,
    y_n, y_k, y_h, y_w, R: tl.constexpr, S: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    PADDING_H: tl.constexpr, PADDING_W: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    HAS_BIAS: tl.constexpr, CAST: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    here = m < pixels
    n, p, q = m // (rows * columns), m // columns % rows, m % columns
    f = tl.program_id(1) * BN + tl.arange(0, BN)
    top, left = p * STRIDE_H - PADDING_H, q * STRIDE_W - PADDING_W
    x_at = x + n.to(tl.int64) * x_n
    total = tl.zeros((BM, BN), tl.float32)
    for first in range(0, channels, BK):
        c = first + tl.arange(0, BK)
        some = c < channels
        between = tl.zeros((BM, BK), tl.float32)
        for tap in range(R * S):
            h, v = top + tap // S * DILATION_H, left + tap % S * DILATION_W
            inside = here & (h >= 0) & (h < height) & (v >= 0) & (v < width)
            at = (x_at + h * x_h + v * x_w)[:, None] + c[None, :] * x_c
            value = tl.load(at, mask=inside[:, None] & some[None, :], other=0.0).to(tl.float32)
            between += value * tl.load(w1 + c * (R * S) + tap, mask=some, other=0.0).to(tl.float32)[None, :]
        b = tl.load(w2 + f[None, :] * w2_k + c[:, None], mask=some[:, None] & (f < filters)[None, :], other=0.0)
        total = multiply(between.to(x.dtype.element_ty), b, total, CAST)
    if HAS_BIAS:
        total += tl.load(bias + f, mask=f < filters, other=0.0).to(tl.float32)[None, :]
    target = (out + n.to(tl.int64) * y_n + p * y_h + q * y_w)[:, None] + f[None, :] * y_k
    tl.store(target, total.to(out.dtype.element_ty), mask=here[:, None] & (f < filters)[None, :])


def pair(case: Case, layout: Layout):
    """run(x, w1, w2, bias=None) -> y."""
    spec = case.spec
    pixels = spec.n * spec.p * spec.q

    def grid(block: dict[str, int]) -> tuple[int, int]:
        return triton.cdiv(pixels, block["BM"]), triton.cdiv(spec.k, block["BN"])

    def run(x, w1, w2, bias=None):
        out = new((spec.n, spec.k, spec.p, spec.q), x, layout)
        with on(x):
            _pair[grid](
                x, w1.contiguous(), w2, bias, out, pixels, spec.c, spec.k, spec.h, spec.w, spec.p, spec.q, *x.stride(),
                w2.stride(0), *out.stride(), spec.r, spec.s, *spec.stride, *spec.padding, *spec.dilation,
                bias is not None, INTERPRETED, **(SMALL if INTERPRETED else {}),
            )  # fmt: skip
        return out

    return run


def covers(case: Case) -> str:
    if not case.spec.is_separable:
        return "depthwise-separable pairs only"
    if case.pass_ != "forward":
        return "forward only"
    if case.spec.r * case.spec.s > MOST_TAPS:
        return f"kernels of more than {MOST_TAPS} taps are not implemented"
    return ""


def build(case: Case, layout: Layout) -> Kernel:
    factor = 1.0 if case.dtype == "float32" else ROUNDED_TWICE
    return Kernel(pair(case, layout), "depthwise in registers, then gemm", error_factor=factor)


IMPLEMENTATIONS = both_layouts("fused", covers, build, "depthwise and pointwise in one kernel")
