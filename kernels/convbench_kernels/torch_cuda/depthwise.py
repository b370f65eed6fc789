"""triton.depthwise: depthwise convolution of any multiplier, all passes, no tensor cores: the limit is memory.

    y[n, k, p, q] = bias[k] + sum over r, s of w[k, 0, r, s] x[n, k // M, p*stride_h - padding_h + r*dilation_h, ...]

x (N, C, H, W), w (K, 1, R, S), y (N, K, P, Q), K = M*C. Forward and data gradient, of conv2d and of
conv_transpose2d, are one correlation (class Axis): the gradient runs over dy with the kernel turned around and
`stride` zeros-not-there between its rows. What differs by layout is which axis lies in registers:

    NCHW (this file)                               channels_last (depthwise_channels.py)
    lanes      neighbouring columns q              neighbouring channels
    registers  ROWS rows of the output             COLS columns of the output
    reuse      a row of x, once loaded, is used    a column of x, once loaded, is used
               by all outputs that it reaches      by all outputs that it reaches

       x rows        ROWS = 4, R = 3              loads an output: S (ROWS + R - 1) / ROWS instead of S R
       0 |-- y0            6 rows of x feed
       1 |-- y0 y1         4 rows of y
       2 |-- y0 y1 y2
       3 |--    y1 y2 y3
       4 |--       y2 y3
       5 |--          y3

A line is ROWS rows of one plane; a program computes TILE_LINES lines x TILE_Q columns. Sums are in float32.
The weight gradient is depthwise_weights.py's. Register reuse as in Lu et al., "Optimizing Depthwise Separable
Convolution Operations on GPUs" (IEEE TPDS 33, 2021).
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import triton
import triton.language as tl

from convbench.plugin import Case, ConvSpec, Kernel, Layout
from convbench_kernels.torch_cuda.launch import both_layouts, fastest, new, on
from convbench_kernels.torch_cuda.tuning import Tile

MOST_TAPS = 121  # 11x11: taps are unrolled, and above it the code grows faster than it helps
MOST_COLUMNS = 128  # columns of a program, at most
SIZES: list[Tile] = [  # rows of a line, outputs of a row of lines in a program, warps: the fastest by trial
    {"rows": rows, "elements": elements, "warps": warps}
    for rows, elements, warps in ((4, 256, 4), (4, 256, 2), (8, 256, 4), (2, 256, 4), (4, 512, 4))
]


class Axis(NamedTuple):
    """One axis of out[o] = sum over r of w[r] source[(o*stride + offset + r*dilation) / up], where that divides."""

    source: int
    out: int
    taps: int
    stride: int
    up: int
    offset: int
    dilation: int

    def grouped(self, at_least: int) -> tuple[int, int, int, int]:
        """(size, step, first, count): size outputs in registers, read count sources from group*step + first on."""
        size = self.up * -(-min(at_least, self.out) // self.up)
        last = (size - 1) * self.stride + self.offset + (self.taps - 1) * self.dilation
        first = self.offset // self.up
        return size, size * self.stride // self.up, first, last // self.up - first + 1


class Correlation(NamedTuple):
    """planes output channels, each the sum over `sources` channels of the source; turned: w is read backwards."""

    planes: int
    multiplier: int
    sources: int
    turned: bool
    h: Axis
    w: Axis


def as_conv2d(case: Case) -> tuple[ConvSpec, bool]:
    """The conv2d that computes the case, and whether by its data gradient (a transposed convolution is one)."""
    spec, gradient = case.spec, case.pass_ == "data_gradient"
    return (spec.mirrored(), not gradient) if spec.is_transposed else (spec, gradient)


def correlation(case: Case) -> Correlation:
    """Forward or data gradient, of either operator."""
    spec, gradient = as_conv2d(case)
    inputs, outputs, taps = (spec.h, spec.w), (spec.p, spec.q), (spec.r, spec.s)
    axes = []
    for a in (0, 1):
        stride, padding, dilation = spec.stride[a], spec.padding[a], spec.dilation[a]
        if gradient:
            offset = padding - (taps[a] - 1) * dilation
            axes.append(Axis(outputs[a], inputs[a], taps[a], 1, stride, offset, dilation))
        else:
            axes.append(Axis(inputs[a], outputs[a], taps[a], stride, 1, -padding, dilation))
    multiplier = spec.k // spec.c
    return Correlation(spec.c if gradient else spec.k, multiplier, multiplier if gradient else 1, gradient, *axes)


@triton.constexpr_function
def tap(source, out, taps, stride, up, offset, dilation):
    """The tap by which an output uses a source, both counted within their groups; -1 where there is none."""
    reach = source * up - offset - out * stride
    return reach // dilation if reach % dilation == 0 and 0 <= reach < taps * dilation else -1


@triton.jit
def replaced(values, at: tl.constexpr, value):
    """The tuple with another value in one place."""
    return values[:at] + (value,) + values[at + 1 :]  # noqa: RUF005 - Triton knows no *


@triton.jit
def added(values, at: tl.constexpr, value):
    """The tuple with a value added in one place."""
    return replaced(values, at, values[at] + value)


@triton.jit
def zeros(COUNT: tl.constexpr, X: tl.constexpr, Y: tl.constexpr):
    """COUNT float32 tiles."""
    tiles = ()
    for _ in tl.static_range(COUNT):
        tiles += (tl.zeros((X, Y), tl.float32),)
    return tiles


@triton.jit
def spread(
    total, value, weights, source: tl.constexpr, OUTS: tl.constexpr, TAPS: tl.constexpr, STRIDE: tl.constexpr,
    UP: tl.constexpr, OFFSET: tl.constexpr, DILATION: tl.constexpr,
):  # fmt: skip
    """The sums with a source added to each of the OUTS outputs that it reaches."""
    for o in tl.static_range(OUTS):
        if tap(source, o, TAPS, STRIDE, UP, OFFSET, DILATION) >= 0:
            total = added(total, o, value * weights[tap(source, o, TAPS, STRIDE, UP, OFFSET, DILATION)])
    return total


@triton.jit(do_not_specialize=["source_h", "source_w", "out_h", "out_w"])
def _correlate(
    source, w, bias, out, lines, groups, planes, source_h, source_w, out_h, out_w,
    MULTIPLIER: tl.constexpr, SOURCES: tl.constexpr, TURNED: tl.constexpr, R: tl.constexpr, S: tl.constexpr,
    STRIDE_H: tl.constexpr, UP_H: tl.constexpr, OFFSET_H: tl.constexpr, DILATION_H: tl.constexpr,
    STRIDE_W: tl.constexpr, UP_W: tl.constexpr, OFFSET_W: tl.constexpr, DILATION_W: tl.constexpr,
    ROWS: tl.constexpr, STEP: tl.constexpr, FIRST: tl.constexpr, COUNT: tl.constexpr,
    HAS_BIAS: tl.constexpr, RELU: tl.constexpr, TILE_LINES: tl.constexpr, TILE_Q: tl.constexpr,
):  # fmt: skip
    line = tl.program_id(0) * TILE_LINES + tl.arange(0, TILE_LINES)[:, None]
    q = tl.program_id(1) * TILE_Q + tl.arange(0, TILE_Q)[None, :]
    group = line % groups
    plane = line // groups  # n*planes + k
    k = plane % planes
    total = zeros(ROWS, TILE_LINES, TILE_Q)
    for m in range(SOURCES):
        # forward: source channel k // M and filter k; data gradient: both are k*M + m
        filter_ = k * SOURCES + m
        channel = (plane // planes) * (planes * SOURCES // MULTIPLIER) + k // MULTIPLIER
        if TURNED:
            channel = plane * SOURCES + m
        start = source + channel.to(tl.int64) * source_h * source_w
        for s in tl.static_range(S):
            column = q * STRIDE_W + OFFSET_W + s * DILATION_W
            inside = (column >= 0) & (line < lines)
            if UP_W > 1:
                inside &= column % UP_W == 0
                column = column // UP_W
            inside &= column < source_w
            taps = ()
            for r in tl.static_range(R):
                at = w + filter_ * (R * S) + (R * S - 1 - r * S - s if TURNED else r * S + s)
                taps += (tl.load(at, mask=line < lines, other=0.0).to(tl.float32),)
            for i in tl.static_range(COUNT):
                row = group * STEP + FIRST + i
                value = tl.load(start + row * source_w + column, mask=inside & (row >= 0) & (row < source_h), other=0.0)
                total = spread(
                    total, value.to(tl.float32), taps, FIRST + i, ROWS, R, STRIDE_H, UP_H, OFFSET_H, DILATION_H
                )
    for o in tl.static_range(ROWS):
        p = group * ROWS + o
        result = total[o]
        if HAS_BIAS:
            result += tl.load(bias + k, mask=line < lines, other=0.0).to(tl.float32)
        if RELU:
            result = tl.maximum(result, 0.0, propagate_nan=tl.PropagateNan.ALL)
        target = out + (plane.to(tl.int64) * out_h + p) * out_w + q
        tl.store(target, result.to(out.dtype.element_ty), mask=(line < lines) & (p < out_h) & (q < out_w))


def tile(lines: int, width: int, widest: int, elements: int) -> tuple[int, int]:
    """TILE_LINES x lanes: as wide as a line, up to `widest`, then as many lines as make the number of elements."""
    lanes = min(triton.next_power_of_2(width), widest)
    return min(triton.next_power_of_2(lines), max(elements // lanes, 1)), lanes


def correlate(case: Case, rows: int, elements: int, warps: int):
    """run(source, w, bias=None, relu=False) -> out on contiguous tensors."""
    c = correlation(case)
    size, step, first, count = c.h.grouped(rows)
    groups = triton.cdiv(c.h.out, size)
    lines = case.spec.n * c.planes * groups
    tile_lines, tile_q = tile(lines, c.w.out, MOST_COLUMNS, elements)
    grid = (triton.cdiv(lines, tile_lines), triton.cdiv(c.w.out, tile_q))
    shape = (case.spec.n, c.planes, c.h.out, c.w.out)

    def run(source, w, bias=None, relu=False):
        source, w, out = source.contiguous(), w.contiguous(), new(shape, source, "nchw")
        with on(source):
            _correlate[grid](
                source, w, bias, out, lines, groups, c.planes, c.h.source, c.w.source, c.h.out, c.w.out,
                c.multiplier, c.sources, c.turned, c.h.taps, c.w.taps, *c.h[3:], *c.w[3:], size, step, first, count,
                bias is not None, relu, tile_lines, tile_q, num_warps=warps,
            )  # fmt: skip
        return out

    return run


def covers(case: Case) -> str:
    if case.spec.is_separable:
        return "depthwise convolutions only"
    spec, _ = as_conv2d(case)
    if spec.groups != spec.c:
        return "depthwise convolutions only"
    if case.dtype == "tf32":
        return "no matrix product that TF32 could round: see float32"
    if spec.r * spec.s > MOST_TAPS:
        return f"kernels of more than {MOST_TAPS} taps are not implemented"
    return ""


def build(case: Case, layout: Layout) -> Kernel:
    from convbench_kernels.torch_cuda import depthwise_channels as channels
    from convbench_kernels.torch_cuda import depthwise_weights as weights

    spec, of_weights = case.spec, case.pass_ == "weight_gradient"
    key = (spec.n, spec.k, spec.p, spec.q, spec.r, spec.s, *spec.stride, *spec.dilation, case.pass_, case.dtype)
    if layout == "nchw":
        make, options = (weights.weight_gradient, weights.GRADIENT_SIZES) if of_weights else (correlate, SIZES)
        return Kernel(fastest("depthwise", options, key, partial(make, case)), "rows")
    make, options = (
        (channels.weight_gradient, channels.GRADIENT_SIZES) if of_weights else (channels.correlate, channels.SIZES)
    )
    return Kernel(fastest("depthwise_channels", options, key, partial(make, case)), "columns")


IMPLEMENTATIONS = both_layouts("depthwise", covers, build, "depthwise, outputs in registers")
