"""triton.implicit_gemm: standard, grouped, pointwise, dilated and transposed convolution, all passes, on tensor cores.

    out[n, f, p*step + i, q*step + j] = bias[f] + sum over taps t, channels c of
                                        w[f, c, t] source[n, c, p*stride + eh[t], q*stride + ew[t]]

x (N, C, H, W), w OIHW or (C, K/groups, R, S) transposed, y (N, K, P, Q); of each group by itself.

    gemm_m = pixels of one phase          gemm_n = filters of a group          gemm_k = taps x channels

Forward and data gradient, of conv2d and of conv_transpose2d, are this one sum with a table of taps. A gradient at
stride s has s x s phases (i, j) of output pixels (kernels/convbench_kernels/numba_cpu/geometry.py has the same): each
takes only the taps that reach it, so that no product is with a zero between rows. Neither im2col nor a turned filter is
ever written. gemm_k runs over channels inside taps; with few channels over both at once, or most of a block was empty.
Strides are arguments: one kernel reads and writes both layouts.

The weight gradient is the GEMM of dy and the same windows of x over the pixels, gemm_m = filters, gemm_n = channels x
taps, its pixels in SPLITS parts that are added in a fixed order.

Sums are in float32. Float32 operands are multiplied as such ("ieee"), never rounded to TF32.
Implicit GEMM as in cuDNN (Chetlur et al., arXiv 1410.0759, section 3); phases as in segregated transposed convolution
(arXiv 2209.03704).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl

from convbench.plugin import Case, ConvSpec, Kernel, Layout
from convbench_kernels.torch_cuda.depthwise import as_conv2d
from convbench_kernels.torch_cuda.launch import INTERPRETED, add_partials, both_layouts, new, on, tuned

FEW = 32  # channels of a group below which gemm_k runs over taps and channels at once
PROGRAMS = 8 if INTERPRETED else 512  # of the weight gradient, about: some for each multiprocessor
CONFIGS = [  # tried once for each shape, and remembered
    triton.Config({"BM": bm, "BN": bn, "BK": bk}, num_warps=warps, num_stages=stages)
    for bm, bn, bk, warps, stages in (
        (128, 128, 32, 8, 3), (128, 64, 32, 4, 4), (64, 128, 32, 4, 4), (64, 64, 32, 4, 3),
        (128, 128, 64, 8, 3), (256, 64, 32, 8, 3), (64, 32, 32, 4, 3), (128, 16, 32, 4, 3), (32, 32, 32, 4, 2),
    )
]  # fmt: skip
SMALL = {"BM": 32, "BN": 32, "BK": 16}  # in the interpreter, which has no time to try


@triton.jit
def multiply(a, b, total, CAST: tl.constexpr):
    """total + a b. CAST: the interpreter multiplies short types wrongly, in float32 the products are the same."""
    if CAST:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), total, input_precision="ieee")
    return tl.dot(a, b, total, input_precision="ieee")


@tuned(CONFIGS, ["pixels", "filters", "channels", "TAPS", "FLAT"])
@triton.jit(do_not_specialize=["pixels"])
def _gemm(
    source, w, bias, out, taps, phases, pixels, batch, height, width, filters, channels,
    x_n, x_c, x_h, x_w, w_group, w_filter, w_channel, y_n, y_c, y_h, y_w,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, STEP_H: tl.constexpr, STEP_W: tl.constexpr, TAPS: tl.constexpr,
    FLAT: tl.constexpr, HAS_BIAS: tl.constexpr, RELU: tl.constexpr, CAST: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    phase = phases + tl.program_id(2) * 6
    first, count, i, j = tl.load(phase), tl.load(phase + 1), tl.load(phase + 2), tl.load(phase + 3)
    rows, columns = tl.load(phase + 4), tl.load(phase + 5)
    blocks = tl.cdiv(filters, BN)
    group, block = tl.program_id(1) // blocks, tl.program_id(1) % blocks
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    here = m < batch * rows * columns
    n, p, q = m // (rows * columns), m // columns % rows, m % columns
    f = block * BN + tl.arange(0, BN)
    x_at = source + n.to(tl.int64) * x_n + group * channels * x_c
    w_at = w + group * w_group + f * w_filter
    total = tl.zeros((BM, BN), tl.float32)
    k_blocks = tl.cdiv(channels, BK)
    steps = tl.cdiv(count * channels, BK) if FLAT else count * k_blocks
    for step in range(steps):
        if FLAT:
            term = step * BK + tl.arange(0, BK)
            tap, c, some = taps + (first + term // channels) * 3, term % channels, term < count * channels
            eh, ew = tl.load(tap, mask=some, other=0)[None, :], tl.load(tap + 1, mask=some, other=0)[None, :]
            weight = tl.load(tap + 2, mask=some, other=0) + c * w_channel
        else:
            tap = taps + (first + step // k_blocks) * 3
            c = step % k_blocks * BK + tl.arange(0, BK)
            some, eh, ew = c < channels, tl.load(tap), tl.load(tap + 1)
            weight = tl.load(tap + 2) + c * w_channel
        h, v = p[:, None] * STRIDE_H + eh, q[:, None] * STRIDE_W + ew
        inside = here[:, None] & some[None, :] & (h >= 0) & (h < height) & (v >= 0) & (v < width)
        a = tl.load(x_at[:, None] + c[None, :] * x_c + h * x_h + v * x_w, mask=inside, other=0.0)
        b = tl.load(w_at[None, :] + weight[:, None], mask=some[:, None] & (f < filters)[None, :], other=0.0)
        total = multiply(a, b, total, CAST)
    if HAS_BIAS:
        total += tl.load(bias + group * filters + f, mask=f < filters, other=0.0).to(tl.float32)[None, :]
    if RELU:
        total = tl.maximum(total, 0.0, propagate_nan=tl.PropagateNan.ALL)
    y_at = out + n.to(tl.int64) * y_n + (p * STEP_H + i) * y_h + (q * STEP_W + j) * y_w
    target = y_at[:, None] + (group * filters + f)[None, :] * y_c
    tl.store(target, total.to(out.dtype.element_ty), mask=here[:, None] & (f < filters)[None, :])


@tuned(CONFIGS, ["pixels", "filters", "channels", "TAPS"])
@triton.jit(do_not_specialize=["pixels"])
def _weight_gradient(
    x, dy, partials, taps, pixels, a_split, rows, columns, height, width, filters, channels,
    x_n, x_c, x_h, x_w, y_n, y_c, y_h, y_w, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, TAPS: tl.constexpr,
    GROUPS: tl.constexpr, CAST: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    BK: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(filters, BM)
    group, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    split = tl.program_id(2)
    f = block * BM + tl.arange(0, BM)
    term = tl.program_id(1) * BN + tl.arange(0, BN)  # channel, then tap: the order of a filter's weights
    some = term < channels * TAPS
    c, tap = group * channels + term // TAPS, taps + term % TAPS * 3
    eh, ew = tl.load(tap, mask=some, other=0)[None, :], tl.load(tap + 1, mask=some, other=0)[None, :]
    total = tl.zeros((BM, BN), tl.float32)
    for step in range(tl.cdiv(a_split, BK)):
        local = step * BK + tl.arange(0, BK)
        m = split * a_split + local
        here = (local < a_split) & (m < pixels)
        n, p, q = m // (rows * columns), m // columns % rows, m % columns
        y_at = n.to(tl.int64) * y_n + p * y_h + q * y_w
        gradient = dy + y_at[None, :] + (group * filters + f)[:, None] * y_c
        a = tl.load(gradient, mask=(f < filters)[:, None] & here[None, :], other=0.0)
        h, v = p[:, None] * STRIDE_H + eh, q[:, None] * STRIDE_W + ew
        inside = here[:, None] & some[None, :] & (h >= 0) & (h < height) & (v >= 0) & (v < width)
        at = x + (n.to(tl.int64) * x_n)[:, None] + c[None, :] * x_c + h * x_h + v * x_w
        total = multiply(a, tl.load(at, mask=inside, other=0.0), total, CAST)
    row = split.to(tl.int64) * GROUPS * filters + group * filters + f
    target = partials + row[:, None] * (channels * TAPS) + term[None, :]
    tl.store(target, total, mask=(f < filters)[:, None] & some[None, :])


# Tables ---------------------------------------------------------------------------------------------------


def tap_table(spec: ConvSpec, gradient: bool) -> tuple[list[tuple[int, int, int, int]], list[tuple[int, ...]]]:
    """(eh, ew, r, s) of every tap, phase after phase; (first, count, i, j, rows, columns) of every phase."""
    (sh, sw), (ph, pw), (dh, dw) = spec.stride, spec.padding, spec.dilation
    kernel = [(r, s) for r in range(spec.r) for s in range(spec.s)]
    if not gradient:
        return [(r * dh - ph, s * dw - pw, r, s) for r, s in kernel], [(0, len(kernel), 0, 0, spec.p, spec.q)]
    taps: list[tuple[int, int, int, int]] = []
    phases: list[tuple[int, ...]] = []
    for i in range(min(sh, spec.h)):
        for j in range(min(sw, spec.w)):
            own = [
                ((i + ph - r * dh) // sh, (j + pw - s * dw) // sw, r, s)
                for r, s in kernel
                if (i + ph - r * dh) % sh == 0 and (j + pw - s * dw) % sw == 0
            ]
            phases.append((len(taps), len(own), i, j, -(-(spec.h - i) // sh), -(-(spec.w - j) // sw)))
            taps += own
    return taps, phases


def _on_device(table: list[tuple[int, ...]], device: torch.device) -> torch.Tensor:
    return torch.tensor(table, dtype=torch.int32, device=device)


def _launch(kernel: Any, grid: Callable[[dict[str, int]], tuple[int, int, int]], *arguments: Any) -> None:
    kernel[grid](*arguments, **(SMALL if INTERPRETED else {}))


# Kernels --------------------------------------------------------------------------------------------------


def correlate(case: Case, layout: Layout) -> Callable[..., torch.Tensor]:
    """run(source, w, bias=None, relu=False) -> out; forward or data gradient of either operator."""
    spec, gradient = as_conv2d(case)
    taps, phases = tap_table(spec, gradient)
    inputs, outputs = spec.c // spec.groups, spec.k // spec.groups
    channels, filters = (outputs, inputs) if gradient else (inputs, outputs)
    height, width = (spec.p, spec.q) if gradient else (spec.h, spec.w)
    shape = (spec.n, filters * spec.groups, *((spec.h, spec.w) if gradient else (spec.p, spec.q)))
    stride, step = ((1, 1), spec.stride) if gradient else (spec.stride, (1, 1))
    pixels = spec.n * max(rows * columns for *_, rows, columns in phases)
    tables: dict[Any, Any] = {}

    def grid(block: dict[str, int]) -> tuple[int, int, int]:
        return triton.cdiv(pixels, block["BM"]), spec.groups * triton.cdiv(filters, block["BN"]), len(phases)

    def run(source, w, bias=None, relu=False):
        out = new(shape, source, layout)
        w_k, w_c, w_r, w_s = w.stride()
        w_filter, w_channel = (w_c, w_k) if gradient else (w_k, w_c)
        where = (source.device, w_r, w_s)
        if where not in tables:
            offsets = [(eh, ew, r * w_r + s * w_s) for eh, ew, r, s in taps]
            tables[where] = _on_device(offsets or [(0, 0, 0)], source.device), _on_device(phases, source.device)
        with on(source):
            _launch(
                _gemm, grid, source, w, bias, out, *tables[where], pixels, spec.n, height, width, filters, channels,
                *source.stride(), outputs * w_k, w_filter, w_channel, *out.stride(), *stride, *step, len(taps),
                channels < FEW, bias is not None, relu, INTERPRETED,
            )  # fmt: skip
        return out

    return run


def weight_gradient(case: Case, layout: Layout) -> Callable[..., torch.Tensor]:
    """run(x, dy) -> dw; of a transposed convolution the two change places."""
    spec, _ = as_conv2d(case)
    taps, _ = tap_table(spec, gradient=False)
    channels, filters = spec.c // spec.groups, spec.k // spec.groups
    pixels = spec.n * spec.p * spec.q
    outputs = spec.k * triton.cdiv(channels * len(taps), 64) // 64 or 1
    splits = max(1, min(triton.cdiv(pixels, 256), PROGRAMS // outputs))
    a_split = triton.cdiv(pixels, splits)
    tables: dict[torch.device, torch.Tensor] = {}

    def grid(block: dict[str, int]) -> tuple[int, int, int]:
        return (spec.groups * triton.cdiv(filters, block["BM"]), triton.cdiv(channels * len(taps), block["BN"]), splits)

    def run(x, dy):
        x, dy = (dy, x) if case.spec.is_transposed else (x, dy)
        if x.device not in tables:
            tables[x.device] = _on_device([tap[:3] for tap in taps], x.device)
        partials = torch.empty((splits, *spec.w_shape), dtype=torch.float32, device=x.device)
        with on(x):
            _launch(
                _weight_gradient, grid, x, dy, partials, tables[x.device], pixels, a_split, spec.p, spec.q, spec.h,
                spec.w, filters, channels, *x.stride(), *dy.stride(), *spec.stride, len(taps), spec.groups,
                INTERPRETED,
            )  # fmt: skip
            dw = add_partials(partials, new(spec.w_shape, x, "nchw"))
        return dw if layout == "nchw" else dw.contiguous(memory_format=torch.channels_last)

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
