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

The weight gradient is the GEMM of dy and the same windows of x over the pixels, gemm_m = filters, gemm_n = taps x
channels, its pixels in SPLITS parts that are added in a fixed order.

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
from convbench_kernels.torch_cuda.launch import INTERPRETED, Launch, add_partials, both_layouts, new, on
from convbench_kernels.torch_cuda.phases import Phase, phases_of
from convbench_kernels.torch_cuda.tuning import GEMM, Tile, tiles

LAST = torch.channels_last
FEW = 32  # channels of a group below which gemm_k runs over taps and channels at once
PROGRAMS = 8 if INTERPRETED else 512  # of the weight gradient, about: some for each multiprocessor
PIXELS_A_SPLIT = 128  # a multiple of every BK, so that loads stay aligned
PRECISION = {"tf32": "tf32"}  # of the products, otherwise "ieee"


@triton.jit
def multiply(a, b, total, PRECISION: tl.constexpr, CAST: tl.constexpr):
    """total + a b. CAST: the interpreter multiplies short types wrongly, in float32 the products are the same."""
    if CAST:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), total, input_precision="ieee")
    return tl.dot(a, b, total, input_precision=PRECISION)


@triton.jit
def _gemm(
    source, w, bias, out, phases, batch, area_units, columns, height, width, filters, channels, taps_h, taps_w, offset_h,
    offset_w, x_n, x_c_units, x_h, x_w, w_group, w_filter, w_channel, w_r, w_s, y_n, y_c_units, y_h, y_w,
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


@triton.jit
def _weight_gradient(
    x, dy, partials, pixels, a_split, area_units, columns, height, width, filters, channels, x_n, x_c_units, x_h, x_w,
    y_n, y_c_units, y_w, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, PADDING_H: tl.constexpr, PADDING_W: tl.constexpr,
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
        here = m < pixels
        n, pixel = m // area, m % area
        gradient = (dy + n.to(tl.int64) * y_n)[None, :] + ((pixel * y_w)[None, :] + (group * filters + f)[:, None] * y_c)
        a = tl.load(gradient, mask=(f < filters)[:, None] & here[None, :], other=0.0)
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


def pointwise(spec) -> bool:
    """Every output pixel is one input pixel at the same place."""
    return (spec.r, spec.s, spec.stride, spec.padding) == (1, 1, (1, 1), (0, 0))


def aligned(size: int) -> int:
    """The largest power of two that divides a size, as far as it helps: Triton itself sees sixteen or nothing."""
    return min(size & -size, 16)


def innermost(tensor: torch.Tensor, in_place: bool) -> torch.Tensor:
    """The tensor, with channels innermost where its pixels cannot be loaded as they lie.

    An asynchronous load takes four bytes and more: of a short type that is more than a pixel of a plane, and where
    windows overlap, or planes begin anywhere, no two pixels are sure to be aligned. in_place: neither is so.
    """
    planes = in_place and (tensor.shape[2] * tensor.shape[3]) % 4 == 0
    fits = tensor.element_size() == 4 or planes or tensor.shape[1] % 8
    return tensor if fits else tensor.contiguous(memory_format=LAST)


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
    launch = Launch(_gemm, tiles(pixels, filters, GEMM[case.dtype]), (pixels, filters, channels, taps, layout, case.dtype))
    tables: dict[torch.device, torch.Tensor | None] = {}

    def grid(tile: Tile) -> tuple[int, int, int]:
        return triton.cdiv(pixels, tile["BM"]) * triton.cdiv(filters, tile["BN"]), spec.groups, len(phases)

    def run(source, w, bias=None, relu=False):
        out = new(shape, source, layout)
        source, w = innermost(source, pointwise(spec)), w.contiguous(memory_format=LAST) if taps > 1 else w
        w_k, w_c, w_r, w_s = w.stride() if taps > 1 else (*w.stride()[:2], 0, 0)
        w_filter, w_channel = (w_c, w_k) if gradient else (w_k, w_c)
        (x_n, x_c, x_h, x_w), (y_n, y_c, y_h, y_w) = source.stride(), out.stride()
        align, x_align, y_align = map(aligned, (h.size * w_.size, x_c, y_c))
        if source.device not in tables:
            tables[source.device] = table(phases, source.device) if several else None
        with on(source):
            launch(grid,
                source, w, bias, out, tables[source.device], spec.n, h.size * w_.size // align, w_.size, height, width, filters,
                channels, h.count, w_.count, h.offset, w_.offset, x_n, x_c // x_align, x_h, x_w, outputs * w_k, w_filter,
                w_channel, w_r, w_s, y_n, y_c // y_align, y_h, y_w, *stride, *step, *shift, *skip, several, pointwise(spec), flat,
                bias is not None, relu, PRECISION.get(case.dtype, "ieee"), INTERPRETED, align, x_align, y_align,
            )  # fmt: skip
        return out

    return run


def table(phases: list[tuple[Phase, Phase]], device: torch.device) -> torch.Tensor:
    return torch.tensor([[*h, *w] for h, w in phases], dtype=torch.int32, device=device)


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
        partials = torch.empty((splits, *spec.w_shape), device=x.device)
        (x_n, x_c, x_h, x_w), (y_n, y_c, _, y_w) = x.stride(), dy.stride()
        align, x_align, y_align = map(aligned, (spec.p * spec.q, x_c, y_c))
        with on(x):
            launch(grid,
                x, dy, partials, pixels, a_split, spec.p * spec.q // align, spec.q, spec.h, spec.w, filters,
                channels, x_n, x_c // x_align, x_h, x_w, y_n, y_c // y_align, y_w, *spec.stride, *spec.padding, *spec.dilation, spec.s, taps, spec.groups,
                pointwise(spec), PRECISION.get(case.dtype, "ieee"), INTERPRETED, align, x_align, y_align,
            )  # fmt: skip
            dw = add_partials(partials, new(spec.w_shape, x, "channels_last"))
        return dw if layout == "channels_last" else dw.contiguous()

    return run


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
    return Kernel(correlate(case, layout), name)


IMPLEMENTATIONS = both_layouts("implicit_gemm", covers, build, "implicit GEMM on tensor cores")
