"""triton.implicit_gemm: standard, grouped, pointwise, dilated and transposed convolution, all passes, on tensor cores.

    out[n, f, p*step + i, q*step + j] = bias[f] + sum over taps (a, b), channels c of
        w[f, c, first_r + a*skip_h, first_s + b*skip_w]
        source[n, c, p*stride + offset_h + a*shift_h, q*stride + offset_w + b*shift_w]

x (N, C, H, W), w OIHW or (C, K/groups, R, S) transposed, y (N, K, P, Q); of each group by itself.

    gemm_m = pixels of one phase          gemm_n = filters of a group          gemm_k = taps x channels

Forward and data gradient, of conv2d and of conv_transpose2d, are this one sum (phases.py). A gradient at stride s has
s x s phases (i, j) of output pixels: each takes only the taps that reach it, so that no product is with a zero between
rows. Neither im2col nor a turned filter is ever written. gemm_k runs over channels inside taps; with few channels over
both at once, or most of a block was empty. Strides are arguments: one kernel reads and writes both layouts.

The weight gradient is implicit_gemm_weights.py's.

Sums are in float32. Float32 operands are multiplied as such ("ieee"); only a case in tf32 rounds them.

Versions
  1  taps and their weights in a table     addresses that come from memory: no load was asynchronous
  2  taps by arithmetic; weights with channels innermost, and x too where the windows overlap and the type is short:
     16 bytes a load, and Triton keeps num_stages of them in flight (cp.async in the PTX, which tests look for)

Implicit GEMM as in cuDNN (Chetlur et al., arXiv 1410.0759, section 3); phases as in segregated transposed convolution
(arXiv 2209.03704).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl

from convbench.plugin import Case, Kernel, Layout
from convbench_kernels.torch_cuda.depthwise import as_conv2d
from convbench_kernels.torch_cuda.implicit_gemm_weights import weight_gradient
from convbench_kernels.torch_cuda.launch import INTERPRETED, MEMORY_FORMAT, Launch, both_layouts, new, on
from convbench_kernels.torch_cuda.matrix import aligned, innermost, multiply, pointwise, precision
from convbench_kernels.torch_cuda.phases import Phase, phases_of
from convbench_kernels.torch_cuda.tuning import GEMM, Tile, tiles

FEW = 32  # channels of a group below which gemm_k runs over taps and channels at once


@triton.jit
def _gemm(
    source, w, bias, out, phases, batch, area_units, columns, height, width, filters, channels, taps_h, taps_w,
    offset_h, offset_w, x_n, x_c_units, x_h, x_w, w_group, w_filter, w_channel, w_r, w_s, y_n, y_c_units, y_h, y_w,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, STEP_H: tl.constexpr, STEP_W: tl.constexpr, SHIFT_H: tl.constexpr,
    SHIFT_W: tl.constexpr, SKIP_H: tl.constexpr, SKIP_W: tl.constexpr, SEVERAL: tl.constexpr, POINTWISE: tl.constexpr,
    FLAT: tl.constexpr, HAS_BIAS: tl.constexpr, RELU: tl.constexpr, PRECISION: tl.constexpr, CAST: tl.constexpr,
    ALIGN: tl.constexpr, X_ALIGN: tl.constexpr, Y_ALIGN: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    BK: tl.constexpr,
):  # fmt: skip
    first_r, first_s, i, j = 0, 0, 0, 0
    if SEVERAL:
        at = phases + tl.program_id(2) * 10
        first_r, taps_h, offset_h, i = tl.load(at), tl.load(at + 1), tl.load(at + 2), tl.load(at + 3)
        first_s, taps_w, offset_w, j = tl.load(at + 5), tl.load(at + 6), tl.load(at + 7), tl.load(at + 8)
        columns = tl.load(at + 9)
        area = tl.load(at + 4) * columns
    else:
        area = area_units * ALIGN
    x_c, y_c = x_c_units * X_ALIGN, y_c_units * Y_ALIGN
    blocks = tl.cdiv(filters, BN)  # of filters: neighbours in time, so that they find the same pixels in L2
    m = tl.program_id(0) // blocks * BM + tl.arange(0, BM)
    f = tl.program_id(0) % blocks * BN + tl.arange(0, BN)
    group = tl.program_id(1)
    here = m < batch * area
    n, pixel = m // area, m % area
    p, q = pixel // columns, pixel % columns
    x_at = source + n.to(tl.int64) * x_n + group * channels * x_c
    w_at = w + group * w_group + f * w_filter
    total = tl.zeros((BM, BN), tl.float32)
    taps, k_blocks = taps_h * taps_w, tl.cdiv(channels, BK)
    steps = tl.cdiv(taps * channels, BK) if FLAT else taps * k_blocks
    for step in range(steps):
        if FLAT:
            term = step * BK + tl.arange(0, BK)
            tap, c, some = term // channels, term % channels, term < taps * channels
        else:
            tap, c = step // k_blocks, step % k_blocks * BK + tl.arange(0, BK)
            some = c < channels
        a_h, a_w = tap // taps_w, tap % taps_w
        weight = (first_r + a_h * SKIP_H) * w_r + (first_s + a_w * SKIP_W) * w_s + c * w_channel
        inside = here[:, None] & some[None, :]
        if POINTWISE:
            window = (pixel * x_w)[:, None]
        else:
            eh, ew = offset_h + a_h * SHIFT_H, offset_w + a_w * SHIFT_W
            if FLAT:
                eh, ew = eh[None, :], ew[None, :]
            h, v = p[:, None] * STRIDE_H + eh, q[:, None] * STRIDE_W + ew
            inside = inside & (h >= 0) & (h < height) & (v >= 0) & (v < width)
            window = h * x_h + v * x_w
        a = tl.load(x_at[:, None] + (window + c[None, :] * x_c), mask=inside, other=0.0)
        b = tl.load(w_at[None, :] + weight[:, None], mask=some[:, None] & (f < filters)[None, :], other=0.0)
        total = multiply(a, b, total, PRECISION, CAST)
    if HAS_BIAS:
        total += tl.load(bias + group * filters + f, mask=f < filters, other=0.0).to(tl.float32)[None, :]
    if RELU:
        total = tl.maximum(total, 0.0, propagate_nan=tl.PropagateNan.ALL)
    if SEVERAL:
        place = (p * STEP_H + i) * y_h + (q * STEP_W + j) * y_w
    else:
        place = pixel * y_w
    target = (out + n.to(tl.int64) * y_n)[:, None] + (place[:, None] + (group * filters + f)[None, :] * y_c)
    tl.store(target, total.to(out.dtype.element_ty), mask=here[:, None] & (f < filters)[None, :])


def correlate(case: Case, layout: Layout) -> Callable[..., torch.Tensor]:
    """run(source, w, bias=None, relu=False) -> out; forward or data gradient of either operator."""
    spec, gradient = as_conv2d(case)
    phases, skip, shift = phases_of(spec, gradient)
    (h, w_), several = phases[0], len(phases) > 1
    inputs, outputs = spec.c // spec.groups, spec.k // spec.groups
    channels, filters = (outputs, inputs) if gradient else (inputs, outputs)
    height, width = (spec.p, spec.q) if gradient else (spec.h, spec.w)
    shape = (spec.n, filters * spec.groups, *((spec.h, spec.w) if gradient else (spec.p, spec.q)))
    stride, step = ((1, 1), spec.stride) if gradient else (spec.stride, (1, 1))
    pixels, taps, flat = spec.n * max(a.size * b.size for a, b in phases), spec.r * spec.s, channels < FEW
    key = (pixels, filters, channels, taps, layout, case.dtype)
    launch = Launch(_gemm, tiles(pixels, filters, GEMM[case.dtype]), key)
    tables: dict[torch.device, torch.Tensor | None] = {}

    def grid(tile: Tile) -> tuple[int, int, int]:
        return triton.cdiv(pixels, tile["BM"]) * triton.cdiv(filters, tile["BN"]), spec.groups, len(phases)

    def run(source, w, bias=None, relu=False):
        out = new(shape, source, layout)
        source = innermost(source, pointwise(spec))
        w = w.contiguous(memory_format=MEMORY_FORMAT["channels_last"]) if taps > 1 else w
        w_k, w_c, w_r, w_s = w.stride() if taps > 1 else (*w.stride()[:2], 0, 0)
        w_filter, w_channel = (w_c, w_k) if gradient else (w_k, w_c)
        (x_n, x_c, x_h, x_w), (y_n, y_c, y_h, y_w) = source.stride(), out.stride()
        align, x_align, y_align = map(aligned, (h.size * w_.size, x_c, y_c))
        if source.device not in tables:
            tables[source.device] = table(phases, source.device) if several else None
        with on(source):
            launch(grid,
                source, w, bias, out, tables[source.device], spec.n, h.size * w_.size // align, w_.size, height, width,
                filters, channels, h.count, w_.count, h.offset, w_.offset, x_n, x_c // x_align, x_h, x_w, outputs * w_k,
                w_filter, w_channel, w_r, w_s, y_n, y_c // y_align, y_h, y_w, *stride, *step, *shift, *skip, several,
                pointwise(spec), flat, bias is not None, relu, precision(case), INTERPRETED, align, x_align, y_align,
            )  # fmt: skip
        return out

    return run


def table(phases: list[tuple[Phase, Phase]], device: torch.device) -> torch.Tensor:
    return torch.tensor([[*h, *w] for h, w in phases], dtype=torch.int32, device=device)


def covers(case: Case) -> str:
    if case.spec.is_separable:
        return "one convolution only"
    spec, _ = as_conv2d(case)
    if spec.groups > 1 and spec.groups == spec.c:
        return "depthwise: see triton.depthwise"
    return ""


def build(case: Case, layout: Layout) -> Kernel:
    if case.pass_ == "weight_gradient":
        return Kernel(weight_gradient(case, layout), "gemm over pixels")
    spec, gradient = as_conv2d(case)
    several = gradient and spec.stride != (1, 1)
    name = "phases" if several else "gemm" if spec.r * spec.s == 1 else "implicit_gemm"
    return Kernel(correlate(case, layout), name, relu=case.pass_ == "forward")


IMPLEMENTATIONS = both_layouts("implicit_gemm", covers, build, "implicit GEMM on tensor cores")
