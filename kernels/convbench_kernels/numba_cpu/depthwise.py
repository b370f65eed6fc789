"""Depthwise convolution by rows: one filter a channel, so there is nothing to block; it lives on bandwidth.

    y[n, k, a, b] = bias[k] + sum over taps t  w[k, t] * x[n, k/M, a*sh + eh[t], b*sw + ew[t]]

M is the depth multiplier K/C. The vector axis is W: one vector of LANES output columns runs down the rows of a
plane. Columns that a tap takes from outside the image are masked lanes of its load, rows outside are skipped:
nothing is padded or copied.

    forward          eh = r*dilation - padding, any stride
    data gradient    per output phase (i, j) of the stride a stride-1 sum over the taps that hit it, flipped;
                     its columns are written `step` apart. The M filters of a channel are further taps.
    weight gradient  dw[k, t] = sum over n, a, b of dy[n, k, a, b] * x[n, k/M, a*sh + eh[t], b*sw + ew[t]]:
                     one vector accumulator a tap, a plane by one thread in one order

3 x 3, stride 1, the rolling window: each input row is loaded once (three shifts) and feeds three output rows,

    row h:   above += w2 . (l, c, r)    this += w1 . (l, c, r)    below += w0 . (l, c, r)     then above is done

Versions
  1  textbook loops           textbook.py
  2  vectors along W, taps as masked loads: no borders, any stride and dilation
  3  rolling window for 3 x 3 stride 1 and 2: three loads a row in place of nine
  4  weight gradient with nine accumulators in one pass over x and dy

Zhang, Lo, Lu: High Performance Depthwise and Pointwise Convolutions on Mobile Devices (arXiv 2001.02504).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import get_num_threads, prange

from convbench.plugin import Case, ConvSpec, Kernel
from convbench_kernels.numba_cpu.arguments import Addresses, addresses, dense, floats, integers_of, record, table
from convbench_kernels.numba_cpu.jit import inline_kernel, kernel, parallel_kernel, share
from convbench_kernels.numba_cpu.lowering import cannot_lower, lower
from convbench_kernels.numba_cpu.simd import (
    add,
    broadcast,
    fma,
    gather,
    load,
    load_range,
    load_stride2,
    load_stride2_range,
    scatter,
    store,
    store_range,
    sum_lanes,
)
from convbench_kernels.numba_cpu.tiles import LANES


class Planes(NamedTuple):
    """Sizes of both sides, all integers. Output plane k of an image reads x planes from k * up // down on."""

    images: int
    x_planes: int
    height: int
    width: int
    y_planes: int
    y_plane: int  # elements
    up: int
    down: int
    w_plane: int  # elements of w that belong to one output plane


# Columns of the table of phases: taps[begin:end], output rows and columns, where they go, strides, which loop.
BEGIN, END, ROWS, COLS, OUT_FIRST, OUT_ROW, OUT_STEP, STRIDE_H, STRIDE_W, METHOD = range(10)
ANY, ROLLING, STRIDE2 = range(3)


@inline_kernel
def valid_lanes(offset, stride, width):
    """Lanes [lo, hi) of a vector that starts at `offset` and takes every `stride`-th column of [0, width)."""
    lo = (-offset + stride - 1) // stride if offset < 0 else 0
    hi = min(LANES, (width - offset + stride - 1) // stride) if offset < width else 0
    return min(lo, LANES), max(hi, 0)


@inline_kernel
def columns(x, at, stride, lo, hi):
    """Lanes [lo, hi) of x[at :: stride], zeros elsewhere; nothing else is touched."""
    if lo == 0 and hi == LANES and stride == 1:
        return load(x, at)
    if lo == 0 and hi == LANES and stride == 2:
        return load_stride2(x, at)
    if stride == 1:
        return load_range(x, at, lo, hi)
    if stride == 2:
        return load_stride2_range(x, at, lo, hi)
    return gather(x, at, stride, lo, hi)


@inline_kernel
def put(y, at, step, value, count):
    """y[at :: step][:count] = value."""
    if step == 1:
        if count >= LANES:
            store(y, at, value)
        else:
            store_range(y, at, value, 0, count)
    else:
        scatter(y, at, step, value, 0, min(count, LANES))


@kernel
def plane_any(x, xi, plane, height, width, w, taps, bias, y, yi, rows, cols, f):
    """One output plane (or phase of one). taps: [T, 4] eh, ew, plane of x, offset in w."""
    for first in range(0, cols, LANES):
        count = cols - first
        for a in range(rows):
            total = broadcast(bias)
            for t in range(taps.shape[0]):
                h = a * f[STRIDE_H] + taps[t, 0]
                if 0 <= h < height:
                    offset = first * f[STRIDE_W] + taps[t, 1]
                    lo, hi = valid_lanes(offset, f[STRIDE_W], width)
                    if lo < hi:
                        value = columns(x, xi + taps[t, 2] * plane + h * width + offset, f[STRIDE_W], lo, hi)
                        total = fma(value, broadcast(w[taps[t, 3]]), total)
            put(y, yi + a * f[OUT_ROW] + first * f[OUT_STEP], f[OUT_STEP], total, count)


@inline_kernel
def dot3(left, middle, right, w0, w1, w2, total):
    return fma(right, w2, fma(middle, w1, fma(left, w0, total)))


@kernel
def plane_rolling(x, xi, height, width, w, taps, bias, y, yi, rows, cols):
    """3 x 3, stride 1, taps in row order: each input row feeds the output rows above, level and below."""
    eh, ew = taps[0, 0], taps[0, 1]
    w00, w01, w02 = broadcast(w[taps[0, 3]]), broadcast(w[taps[1, 3]]), broadcast(w[taps[2, 3]])
    w10, w11, w12 = broadcast(w[taps[3, 3]]), broadcast(w[taps[4, 3]]), broadcast(w[taps[5, 3]])
    w20, w21, w22 = broadcast(w[taps[6, 3]]), broadcast(w[taps[7, 3]]), broadcast(w[taps[8, 3]])
    start = broadcast(bias)
    for first in range(0, cols, LANES):
        count, at = cols - first, xi + first + ew
        lo0, hi0 = valid_lanes(first + ew, 1, width)
        lo1, hi1 = valid_lanes(first + ew + 1, 1, width)
        lo2, hi2 = valid_lanes(first + ew + 2, 1, width)
        whole = lo0 == 0 and hi2 == LANES
        above = level = start
        # Input row h is the last of output row h - eh - 2, the middle one of the next, the first of the one after.
        for h in range(eh, rows + eh + 2):
            below = start
            if 0 <= h < height:
                if whole:
                    left, middle, right = (
                        load(x, at + h * width),
                        load(x, at + h * width + 1),
                        load(x, at + h * width + 2),
                    )
                else:
                    left = load_range(x, at + h * width, lo0, hi0)
                    middle = load_range(x, at + h * width + 1, lo1, hi1)
                    right = load_range(x, at + h * width + 2, lo2, hi2)
                above = dot3(left, middle, right, w20, w21, w22, above)
                level = dot3(left, middle, right, w10, w11, w12, level)
                below = dot3(left, middle, right, w00, w01, w02, below)
            if h >= eh + 2:
                put(y, yi + (h - eh - 2) * cols + first, 1, above, count)
            above, level = level, below


@kernel
def plane_stride2(x, xi, height, width, w, taps, bias, y, yi, rows, cols):
    """3 x 3, stride 2, taps in row order: the third input row of one output row is the first of the next."""
    eh, ew = taps[0, 0], taps[0, 1]
    w00, w01, w02 = broadcast(w[taps[0, 3]]), broadcast(w[taps[1, 3]]), broadcast(w[taps[2, 3]])
    w10, w11, w12 = broadcast(w[taps[3, 3]]), broadcast(w[taps[4, 3]]), broadcast(w[taps[5, 3]])
    w20, w21, w22 = broadcast(w[taps[6, 3]]), broadcast(w[taps[7, 3]]), broadcast(w[taps[8, 3]])
    start = broadcast(bias)
    for first in range(0, cols, LANES):
        count, at = cols - first, xi + 2 * first + ew
        lo0, hi0 = valid_lanes(2 * first + ew, 2, width)
        lo1, hi1 = valid_lanes(2 * first + ew + 1, 2, width)
        lo2, hi2 = valid_lanes(2 * first + ew + 2, 2, width)
        total = start
        if 0 <= eh < height:
            total = dot3(columns(x, at + eh * width, 2, lo0, hi0), columns(x, at + eh * width + 1, 2, lo1, hi1),
                         columns(x, at + eh * width + 2, 2, lo2, hi2), w00, w01, w02, start)  # fmt: skip
        for a in range(rows):
            h, following = 2 * a + eh + 1, start
            if 0 <= h < height:
                total = dot3(columns(x, at + h * width, 2, lo0, hi0), columns(x, at + h * width + 1, 2, lo1, hi1),
                             columns(x, at + h * width + 2, 2, lo2, hi2), w10, w11, w12, total)  # fmt: skip
            h += 1
            if 0 <= h < height:
                left, middle, right = (
                    columns(x, at + h * width, 2, lo0, hi0),
                    columns(x, at + h * width + 1, 2, lo1, hi1),
                    columns(x, at + h * width + 2, 2, lo2, hi2),
                )
                total = dot3(left, middle, right, w20, w21, w22, total)
                following = dot3(left, middle, right, w00, w01, w02, start)
            put(y, yi + a * cols + first, 1, total, count)
            total = following


@kernel
def depthwise_plane(source, k, x, w, y, yi, bias, taps, f, g):
    """One phase f of output plane k, from x plane number `source` on, to y[yi:]."""
    height, width = g.height, g.width
    xi, rows, cols = source * height * width, f[ROWS], f[COLS]
    own_w, own = w[k * g.w_plane : (k + 1) * g.w_plane], taps[f[BEGIN] : f[END]]
    if f[METHOD] == ROLLING:
        plane_rolling(x, xi, height, width, own_w, own, bias[k], y, yi, rows, cols)
    elif f[METHOD] == STRIDE2:
        plane_stride2(x, xi, height, width, own_w, own, bias[k], y, yi, rows, cols)
    else:
        plane_any(x, xi, height * width, height, width, own_w, own, bias[k], y, yi, rows, cols, f)


@kernel
def _convolve_share(x, w, y, bias, taps, phases, g_at, thread, threads):
    """One thread's share of the output planes, all their phases."""
    g = record(Planes, g_at)
    begin, end = share(g.images * g.y_planes, thread, threads)
    for i in range(begin, end):
        image, k = i // g.y_planes, i % g.y_planes
        source = image * g.x_planes + k * g.up // g.down
        for n in range(phases.shape[0]):
            depthwise_plane(source, k, x, w, y, i * g.y_plane + phases[n, OUT_FIRST], bias, taps, phases[n], g)


@parallel_kernel
def convolve(x_at, w_at, y_at, bias_at, taps_at, taps_count, phases_at, phases_count, g_at, threads):
    """Addresses: float32 x, w, y, bias; tables as in Tables. Planes shared out evenly."""
    x, w, y, bias = floats(x_at), floats(w_at), floats(y_at), floats(bias_at)
    taps, phases = table(taps_at, taps_count, 4), table(phases_at, phases_count, 10)
    for t in prange(threads):
        _convolve_share(x, w, y, bias, taps, phases, g_at, t, threads)


# Weight gradient --------------------------------------------------------------------------------


@kernel
def _gradient_any(x, xi, height, width, dy, di, rows, cols, stride_h, stride_w, eh, ew):
    """Sum of dy[a, b] * x[a*sh + eh, b*sw + ew] over one plane."""
    even = odd = broadcast(np.float32(0.0))
    for a in range(rows):
        h = a * stride_h + eh
        if 0 <= h < height:
            for first in range(0, cols, LANES):
                offset = first * stride_w + ew
                lo, hi = valid_lanes(offset, stride_w, width)
                hi = min(hi, cols - first)
                if lo < hi:
                    value = columns(x, xi + h * width + offset, stride_w, lo, hi)
                    upstream = load_range(dy, di + a * cols + first, lo, hi)
                    even, odd = odd, fma(value, upstream, even)
    return sum_lanes(add(even, odd))


@inline_kernel
def _three(x, at, stride, ranges, count, d, a0, a1, a2):
    """Three neighbouring taps of one row: accumulators + dy times the three shifts."""
    left = columns(x, at, stride, ranges[0], min(ranges[1], count))
    middle = columns(x, at + 1, stride, ranges[2], min(ranges[3], count))
    right = columns(x, at + 2, stride, ranges[4], min(ranges[5], count))
    return fma(left, d, a0), fma(middle, d, a1), fma(right, d, a2)


@kernel
def _gradient_3x3(x, xi, height, width, dy, di, rows, cols, stride_h, stride_w, eh, ew, out, at):
    """All nine taps of one plane in one pass, added to out[at : at + 9]."""
    zero = broadcast(np.float32(0.0))
    a0 = a1 = a2 = b0 = b1 = b2 = c0 = c1 = c2 = zero
    for first in range(0, cols, LANES):
        count, base = min(cols - first, LANES), first * stride_w + ew
        lo0, hi0 = valid_lanes(base, stride_w, width)
        lo1, hi1 = valid_lanes(base + 1, stride_w, width)
        lo2, hi2 = valid_lanes(base + 2, stride_w, width)
        ranges = (lo0, hi0, lo1, hi1, lo2, hi2)
        for a in range(rows):
            d = load_range(dy, di + a * cols + first, 0, count)
            h = a * stride_h + eh
            if 0 <= h < height:
                a0, a1, a2 = _three(x, xi + h * width + base, stride_w, ranges, count, d, a0, a1, a2)
            if 0 <= h + 1 < height:
                b0, b1, b2 = _three(x, xi + (h + 1) * width + base, stride_w, ranges, count, d, b0, b1, b2)
            if 0 <= h + 2 < height:
                c0, c1, c2 = _three(x, xi + (h + 2) * width + base, stride_w, ranges, count, d, c0, c1, c2)
    for t, total in enumerate((a0, a1, a2, b0, b1, b2, c0, c1, c2)):
        out[at + t] += sum_lanes(total)


@kernel
def _gradient_plane(k, x, dy, dw, taps, f, g):
    """All taps of filter k over all images."""
    rows, cols, stride_h, stride_w, method = f[ROWS], f[COLS], f[STRIDE_H], f[STRIDE_W], f[METHOD]
    plane, count = g.height * g.width, taps.shape[0]
    dw[k * count : (k + 1) * count] = 0.0
    for n in range(g.images):
        xi, di = (n * g.x_planes + k * g.up // g.down) * plane, (n * g.y_planes + k) * g.y_plane
        if method != ANY:
            _gradient_3x3(x, xi, g.height, g.width, dy, di, rows, cols, stride_h, stride_w,
                          taps[0, 0], taps[0, 1], dw, k * count)  # fmt: skip
        else:
            for t in range(count):
                dw[k * count + t] += _gradient_any(x, xi, g.height, g.width, dy, di, rows, cols, stride_h, stride_w,
                                                   taps[t, 0], taps[t, 1])  # fmt: skip


@kernel
def _gradient_share(x, dy, dw, taps, f, g_at, thread, threads):
    """One thread's share of the filters. f, g: the forward's phase and planes."""
    g = record(Planes, g_at)
    begin, end = share(g.y_planes, thread, threads)
    for k in range(begin, end):
        _gradient_plane(k, x, dy, dw, taps, f, g)


@parallel_kernel
def convolve_weights(x_at, dy_at, dw_at, taps_at, taps_count, phases_at, phases_count, g_at, threads):
    """Addresses as in convolve. Filters shared out evenly: each is summed by one thread in one order."""
    x, dy, dw = floats(x_at), floats(dy_at), floats(dw_at)
    taps, phases = table(taps_at, taps_count, 4), table(phases_at, phases_count, 10)
    for t in prange(threads):
        _gradient_share(x, dy, dw, taps, phases[0], g_at, t, threads)


# From cases to tables ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Tables:
    """What a kernel walks by: taps [T, 4] eh, ew, plane of x, offset in the plane's weights; phases [F, 10]; planes."""

    taps: np.ndarray
    phases: np.ndarray
    planes: Planes

    def addresses(self) -> Addresses:
        """Arguments of a kernel."""
        return addresses(self.taps, len(self.taps), self.phases, len(self.phases), integers_of(self.planes))


def _method(spec: ConvSpec) -> int:
    if (spec.r, spec.s) != (3, 3) or spec.dilation != (1, 1):
        return ANY
    return {(1, 1): ROLLING, (2, 2): STRIDE2}.get(spec.stride, ANY)


def forward_tables(spec: ConvSpec) -> Tables:
    """Of the forward pass, one phase."""
    taps = [
        (r * spec.dilation[0] - spec.padding[0], s * spec.dilation[1] - spec.padding[1], 0, r * spec.s + s)
        for r in range(spec.r)
        for s in range(spec.s)
    ]
    phase = (0, len(taps), spec.p, spec.q, 0, spec.q, 1, *spec.stride, _method(spec))
    planes = Planes(spec.n, spec.c, spec.h, spec.w, spec.k, spec.p * spec.q, 1, spec.k // spec.c, spec.r * spec.s)
    return Tables(np.array(taps, np.int64), np.array([phase], np.int64), planes)


def _hits(axis: int, first: int, spec: ConvSpec) -> list[tuple[int, int]]:
    """(tap, offset in dy) of the taps that reach input rows first, first + stride, ...: h + padding - r*d = p*s."""
    stride, kernel_size = spec.stride[axis], (spec.r, spec.s)[axis]
    starts = [(tap, first + spec.padding[axis] - tap * spec.dilation[axis]) for tap in range(kernel_size)]
    return [(tap, start // stride) for tap, start in starts if start % stride == 0]


def gradient_tables(spec: ConvSpec) -> Tables:
    """Of the data gradient, stride_h x stride_w phases: x is dy, y is dx."""
    multiplier = spec.k // spec.c
    taps: list[tuple[int, ...]] = []
    phases: list[tuple[int, ...]] = []
    for i in range(min(spec.stride[0], spec.h)):
        for j in range(min(spec.stride[1], spec.w)):
            begin = len(taps)
            # Reversed, so that offsets rise and the rolling window's order holds.
            taps += [
                (eh, ew, m, (m * spec.r + r) * spec.s + s)
                for m in range(multiplier)
                for r, eh in reversed(_hits(0, i, spec))
                for s, ew in reversed(_hits(1, j, spec))
            ]
            rows, cols = -(-(spec.h - i) // spec.stride[0]), -(-(spec.w - j) // spec.stride[1])
            method = _method(spec) if spec.stride == (1, 1) and multiplier == 1 else ANY
            phases.append((begin, len(taps), rows, cols, i * spec.w + j, spec.stride[0] * spec.w, spec.stride[1], 1, 1,
                           method))  # fmt: skip
    planes = Planes(
        spec.n, spec.k, spec.p, spec.q, spec.c, spec.h * spec.w, multiplier, 1, multiplier * spec.r * spec.s
    )
    return Tables(np.array(taps, np.int64).reshape(-1, 4), np.array(phases, np.int64), planes)


def _convolution(tables: Tables, shape: tuple[int, ...]) -> Callable[..., torch.Tensor]:
    no_bias, constants = torch.zeros(tables.planes.y_planes), tables.addresses()

    def run(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        x, w, bias, y = dense(x), dense(w), no_bias if bias is None else dense(bias), torch.empty(shape)
        operands = (x.data_ptr(), w.data_ptr(), y.data_ptr(), bias.data_ptr())
        convolve(*operands, *constants, get_num_threads())
        return y

    return run


def _weight_gradient(tables: Tables, shape: tuple[int, ...], exchanged: bool) -> Callable[..., torch.Tensor]:
    constants = tables.addresses()

    def run(x: torch.Tensor, dy: torch.Tensor) -> torch.Tensor:
        dw, x, dy = torch.empty(shape), dense(x), dense(dy)
        x, dy = (dy, x) if exchanged else (x, dy)
        convolve_weights(x.data_ptr(), dy.data_ptr(), dw.data_ptr(), *constants, get_num_threads())
        return dw

    return run


def supports(case: Case) -> str:
    """Depthwise conv2d or conv_transpose2d with any multiplier, float32."""
    if case.device != "cpu":
        return "runs on the CPU"
    if case.dtype != "float32":
        return f"{case.dtype} is not written"
    if reason := cannot_lower(case):
        return reason
    lowered = lower(case).spec
    return "" if lowered.groups == lowered.c else "depthwise only"


def build(case: Case) -> Kernel:
    """Kernel for a case that supports() accepts."""
    lowered, shape = lower(case), case.output_shapes[0]
    spec = lowered.spec
    name: dict[Any, str] = {ROLLING: "depthwise_rolling", STRIDE2: "depthwise_stride2", ANY: "depthwise_rows"}
    if lowered.pass_ == "weight_gradient":
        return Kernel(_weight_gradient(forward_tables(spec), shape, lowered.exchanged), "depthwise_weights")
    tables = forward_tables(spec) if lowered.pass_ == "forward" else gradient_tables(spec)
    algorithm = name[int(tables.phases[0, METHOD])] if len(tables.phases) == 1 else "depthwise_phases"
    return Kernel(_convolution(tables, shape), algorithm)
