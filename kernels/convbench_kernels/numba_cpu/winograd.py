"""numba.winograd: 3 x 3 stride-1 convolution as F(4x4, 3x3), 36 products for 16 outputs where direct takes 144.

    y_tile = A^T [ sum over c of (G w[k, c] G^T) * (B^T x_tile[c] B) ] A

with 4 x 4 output tiles from overlapping 6 x 6 input tiles and points 0, 1, -1, 1/2, -2, infinity, whose rounding error
is half of that of 0, 1, -1, 2, -2 (Barabasz et al., arXiv 1803.10986). The sum over c is 36 matrix products.

    filters   U[panel][36][C][WIDTH]     WIDTH filters side by side, vectors over filters
    input     V[block][36][C][TILES]     TILES tiles side by side, vectors over tiles
    products  M[MR][36][TILES]           register tile MR x NR as in tiles.py, in L1 and L2, transformed at once

With dilation d the output splits into d*d interleaved phases that are undilated convolutions of every d-th pixel: the
tiles of all phases are transformed side by side. The data gradient is the same with dy, filters rotated.

Blocks of tiles are grouped so that a group's V stays in the threads' L2 caches. Per group: V by all threads, then
panels x blocks by all threads; where one group is all, a panel's U is made by the thread that is about to use it, and
never leaves its cache: for small deep maps writing all of U would cost as much as the convolution.

Lavin, Gray: Fast Algorithms for Convolutional Neural Networks (arXiv 1509.09308), section 4.

Versions
  1  one panel of filters, tiles as vectors, V in L2
  2  each thread transforms the tiles that it multiplies, and a panel's products share V in L1: 256 channels at 56 x 56
     from 1.24 to 1.6 of oneDNN's speed on Emerald Rapids, whose L3 is slow
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import torch

from convbench.plugin import Case, ConvSpec, Implementation, Kernel, Pass
from convbench_kernels.numba_cpu.arguments import (
    Addresses,
    addresses,
    dense,
    floats,
    integers,
    integers_of,
    least,
    new,
    record,
    table,
    zeros,
)
from convbench_kernels.numba_cpu.depthwise_planes import valid_lanes
from convbench_kernels.numba_cpu.direct import reason_against
from convbench_kernels.numba_cpu.jit import inline_kernel, kernel, share, threads_for
from convbench_kernels.numba_cpu.lowering import lower
from convbench_kernels.numba_cpu.pack import pack_row, unpack_row, workspace
from convbench_kernels.numba_cpu.parallel import parallel
from convbench_kernels.numba_cpu.simd import (
    add,
    broadcast,
    fma,
    load,
    load4,
    load_range,
    maximum,
    mul,
    store,
    store_range,
    sub,
    tile_fma_at,
    tile_plus,
    tile_store,
    tile_zero,
    transpose,
    zip2,
)
from convbench_kernels.numba_cpu.tiles import ISA, LANES, MR, NR, cpu

M, ALPHA, POINTS = 4, 6, 36  # output tile, input tile, products
WIDTH = max(LANES, MR)  # filters of a panel
TILES = NR * LANES  # of a block
DEPTH = 128  # channels multiplied at a time
ROW = M * TILES + 2 * LANES  # of a scratch row: the pixels of a block's tiles, and what a last vector reads beyond
ERROR_FACTOR = 10.4  # growth of the terms in the transformed domain (tests/kernels/test_winograd.py derives it)
# Of direct's cost, below which Winograd is chosen. Intel's two 512-bit FMA units make products cheaper beside what has
# to be moved; its number lost least on 205 layers, batches and passes (Emerald Rapids), the other one on Zen 4.
MARGIN = 0.48 if ISA.name == "avx512" and not cpu().startswith("znver") else 0.8
GROUP_BYTES = 4 * ISA.cache_block  # of V, for each thread

# Scratch of one thread: raw and transformed rows of a strip of tiles, filters, products, half-transformed outputs
RAW, ROWS, FILTERS = 0, ALPHA * ROW, 2 * ALPHA * ROW
PRODUCTS = FILTERS + (9 * LANES + 2 * LANES) * LANES
HALF = PRODUCTS + WIDTH * POINTS * TILES
PIXELS = HALF + M * ALPHA * LANES
SCRATCH = PIXELS + M * ROW

# Columns of the table of strips: tiles side by side in one row of tiles and one block.
AT, COUNT, IMAGE, TOP, LEFT, OUT, HEIGHT, LENGTH = range(8)


class Sizes(NamedTuple):
    """Of one case, all integers; strides in elements."""

    c: int
    k: int
    h: int
    w: int
    dilation_h: int
    dilation_w: int
    y_row: int
    y_plane: int
    w_row: int  # from filter to filter
    w_channel: int
    rotate: int  # 1: the filters by 180 degrees
    tiles: int
    blocks: int
    group: int  # blocks whose V is kept
    panels: int
    keep_u: int  # 1: U of all panels is kept, 0: of one panel a thread
    u_plane: int
    u_panel: int
    v_plane: int
    v_block: int
    v_at: int  # in the workspace, behind the threads' scratch
    u_at: int
    work: int  # elements of the workspace


@inline_kernel
def _input6(d0, d1, d2, d3, d4, d5):
    """B^T d"""
    half3, two, minus_half = broadcast(np.float32(1.5)), broadcast(np.float32(2.0)), broadcast(np.float32(-0.5))
    e, o = sub(d4, d2), sub(d3, d1)
    a, b = fma(half3, d3, e), fma(half3, d2, o)
    first = add(fma(half3, o, e), sub(d0, d2))
    last = sub(fma(half3, e, sub(d5, d3)), o)
    return first, add(a, b), sub(a, b), fma(two, o, e), fma(minus_half, o, e), last


@inline_kernel
def _filter6(g0, g1, g2):
    """G g"""
    third, inner, outer = (
        broadcast(np.float32(1 / 3)),
        broadcast(np.float32(-4 / 15)),
        broadcast(np.float32(1 / 15)),
    )
    two, four, minus_two = broadcast(np.float32(2.0)), broadcast(np.float32(4.0)), broadcast(np.float32(-2.0))
    s, t = mul(third, add(g0, g2)), mul(third, g1)
    third_point = mul(inner, fma(four, g0, fma(two, g1, g2)))
    fourth_point = mul(outer, fma(four, g2, fma(minus_two, g1, g0)))
    return g0, add(s, t), sub(t, s), third_point, fourth_point, g2


@inline_kernel
def _output4(m0, m1, m2, m3, m4, m5):
    """A^T m"""
    half, quarter, eighth = broadcast(np.float32(0.5)), broadcast(np.float32(0.25)), broadcast(np.float32(0.125))
    minus2, four, minus8 = broadcast(np.float32(-2.0)), broadcast(np.float32(4.0)), broadcast(np.float32(-8.0))
    s, d = add(m1, m2), sub(m1, m2)
    return (
        add(add(m0, s), add(m3, m4)),
        fma(minus2, m4, fma(half, m3, d)),
        fma(four, m4, fma(quarter, m3, s)),
        add(fma(minus8, m4, fma(eighth, m3, d)), m5),
    )


# Filters -----------------------------------------------------------------------------------------


@kernel
def _gather_filters(w, wi, rows, channels, work, at, g):
    """work[at + (c*9 + t)*LANES + l] = tap t of filter l, channel c; zeros for filters that are not there."""
    if rows == LANES and g.w_channel == 9:
        for i in range(0, channels * 9 - LANES + 1, LANES):
            transpose(w, wi + i, g.w_row, work, at + i * LANES, LANES)
        done = channels * 9 // LANES * LANES
    else:
        done = 0
    for i in range(done, channels * 9):
        source = wi + i // 9 * g.w_channel + i % 9
        for lane in range(rows):
            work[at + i * LANES + lane] = w[source + lane * g.w_row]
        for lane in range(rows, LANES):
            work[at + i * LANES + lane] = 0.0


@kernel
def _transform_filter(work, at, rotate, u, ui, plane):
    """U of one channel of LANES filters."""
    first, step = (at + 8 * LANES, -LANES) if rotate else (at, LANES)
    a0, a1, a2, a3, a4, a5 = _filter6(load(work, first), load(work, first + 3 * step), load(work, first + 6 * step))
    b0, b1, b2, b3, b4, b5 = _filter6(
        load(work, first + step), load(work, first + 4 * step), load(work, first + 7 * step)
    )
    c0, c1, c2, c3, c4, c5 = _filter6(
        load(work, first + 2 * step), load(work, first + 5 * step), load(work, first + 8 * step)
    )
    _put6(u, ui, plane, _filter6(a0, b0, c0))
    _put6(u, ui + 6 * plane, plane, _filter6(a1, b1, c1))
    _put6(u, ui + 12 * plane, plane, _filter6(a2, b2, c2))
    _put6(u, ui + 18 * plane, plane, _filter6(a3, b3, c3))
    _put6(u, ui + 24 * plane, plane, _filter6(a4, b4, c4))
    _put6(u, ui + 30 * plane, plane, _filter6(a5, b5, c5))


@inline_kernel
def _put6(out, at, plane, values):
    store(out, at, values[0])
    store(out, at + plane, values[1])
    store(out, at + 2 * plane, values[2])
    store(out, at + 3 * plane, values[3])
    store(out, at + 4 * plane, values[4])
    store(out, at + 5 * plane, values[5])


@kernel
def _transform_filters(w, panel, u, ui, work, scratch, g):
    """U of one panel."""
    at = scratch + FILTERS
    for lane in range(0, WIDTH, LANES):
        first = panel * WIDTH + lane
        rows = min(LANES, max(0, g.k - first))
        for c in range(0, g.c, LANES):
            channels = min(LANES, g.c - c)
            _gather_filters(w, first * g.w_row + c * g.w_channel, rows, channels, work, at, g)
            for i in range(channels):
                _transform_filter(work, at + i * 9 * LANES, g.rotate, u, ui + (c + i) * WIDTH + lane, g.u_plane)


# Input -------------------------------------------------------------------------------------------


@kernel
def _fetch(x, plane, strip, work, raw, g):
    """The ALPHA input rows of a strip, zeros outside the image, side by side in scratch."""
    width, left = M * strip[COUNT] + 2, strip[LEFT]
    lead = min(width, (-left + g.dilation_w - 1) // g.dilation_w) if left < 0 else 0
    left += lead * g.dilation_w
    count = max(0, min(width - lead, (g.w - left + g.dilation_w - 1) // g.dilation_w))
    for i in range(ALPHA):
        row = strip[TOP] + i * g.dilation_h
        inside = count if 0 <= row < g.h else 0
        for j in range(lead):
            work[raw + i * ROW + j] = 0.0
        pack_row(x, plane + row * g.w + left, g.dilation_w, inside, work, raw + i * ROW + lead, width - lead)


@kernel
def _columns(x, at, pitch, lo, hi, out, to):
    """B^T down one vector of columns."""
    if lo == 0 and hi == LANES:
        values = _input6(load(x, at), load(x, at + pitch), load(x, at + 2 * pitch), load(x, at + 3 * pitch),
                         load(x, at + 4 * pitch), load(x, at + 5 * pitch))  # fmt: skip
    else:
        values = _input6(
            load_range(x, at, lo, hi), load_range(x, at + pitch, lo, hi), load_range(x, at + 2 * pitch, lo, hi),
            load_range(x, at + 3 * pitch, lo, hi), load_range(x, at + 4 * pitch, lo, hi),
            load_range(x, at + 5 * pitch, lo, hi),
        )  # fmt: skip
    _put6(out, to, ROW, values)


@inline_kernel
def _put6_range(out, at, plane, values, count):
    store_range(out, at, values[0], 0, count)
    store_range(out, at + plane, values[1], 0, count)
    store_range(out, at + 2 * plane, values[2], 0, count)
    store_range(out, at + 3 * plane, values[3], 0, count)
    store_range(out, at + 4 * plane, values[4], 0, count)
    store_range(out, at + 5 * plane, values[5], 0, count)


@kernel
def _tiles(work, rows, v, vi, plane, room):
    """B along one vector of tiles, to V; `room` lanes of it."""
    for i in range(ALPHA):
        d0, d1, d2, d3 = load4(work, rows + i * ROW)
        d4, d5, _, _ = load4(work, rows + i * ROW + M)
        values = _input6(d0, d1, d2, d3, d4, d5)
        if room >= LANES:
            _put6(v, vi + i * ALPHA * plane, plane, values)
        else:
            _put6_range(v, vi + i * ALPHA * plane, plane, values, room)


@kernel
def _transform_strip(x, plane, strip, work, scratch, v, vi, g):
    """V of one strip of one channel. A last vector's lanes beyond the strip are overwritten by the next strip."""
    raw, rows, width = scratch + RAW, scratch + ROWS, M * strip[COUNT] + 2
    top, left = strip[TOP], strip[LEFT]
    if g.dilation_w == 1 and top >= 0 and top + 5 * g.dilation_h < g.h:
        for j in range(0, width, LANES):
            lo, hi = valid_lanes(left + j, 1, g.w)
            _columns(x, plane + top * g.w + left + j, g.dilation_h * g.w, lo, hi, work, rows + j)
    else:
        _fetch(x, plane, strip, work, raw, g)
        for j in range(0, width, LANES):
            _columns(work, raw + j, ROW, 0, LANES, work, rows + j)
    for t in range(0, strip[COUNT], LANES):
        at = strip[AT] + t
        _tiles(work, rows + M * t, v, vi + at, g.v_plane, TILES - at)


# Products and output ------------------------------------------------------------------------------


@inline_kernel
def _product(u, ui, v, vi, channels, out, at, more, apart):
    t = tile_zero(MR, apart)
    for c in range(channels):
        t = tile_fma_at(t, u, ui + c * WIDTH, 1, v, vi + c * TILES, apart)
    if more:
        t = tile_plus(t, out, at, POINTS * TILES)
    tile_store(t, out, at, POINTS * TILES)


@inline_kernel
def _six(x, at, step):
    return (load(x, at), load(x, at + step), load(x, at + 2 * step), load(x, at + 3 * step),
            load(x, at + 4 * step), load(x, at + 5 * step))  # fmt: skip


@inline_kernel
def _put2(out, at, values):
    store(out, at, values[0])
    store(out, at + LANES, values[1])


@kernel
def _transform_output(work, products, half, pixels, bias, least):
    """A^T m A of one vector of tiles of one filter: M rows of M*LANES pixels, none below `least`."""
    for j in range(ALPHA):
        m0, m1, m2, m3, m4, m5 = _six(work, products + j * TILES, ALPHA * TILES)
        y0, y1, y2, y3 = _output4(m0, m1, m2, m3, m4, m5)
        store(work, half + j * LANES, y0)
        store(work, half + (ALPHA + j) * LANES, y1)
        store(work, half + (2 * ALPHA + j) * LANES, y2)
        store(work, half + (3 * ALPHA + j) * LANES, y3)
    start, floor = broadcast(bias), broadcast(least)
    for i in range(M):
        m0, m1, m2, m3, m4, m5 = _six(work, half + i * ALPHA * LANES, LANES)
        y0, y1, y2, y3 = _output4(m0, m1, m2, m3, m4, m5)
        a, b = zip2(maximum(add(y0, start), floor), maximum(add(y2, start), floor))
        c, d = zip2(maximum(add(y1, start), floor), maximum(add(y3, start), floor))
        _put2(work, pixels + i * ROW, zip2(a, c))
        _put2(work, pixels + i * ROW + 2 * LANES, zip2(b, d))


@kernel
def _write(work, pixels, strips, begin, end, y, yi, image, g):
    """The pixels of one filter on the strips of a block."""
    for s in range(begin, end):
        target = yi + strips[s, IMAGE] * image + strips[s, OUT]
        for i in range(strips[s, HEIGHT]):
            unpack_row(work, pixels + i * ROW + M * strips[s, AT], strips[s, LENGTH], y,
                       target + i * g.dilation_h * g.y_row, g.dilation_w)  # fmt: skip


@kernel
def _products(u, ui, v, vi, filters, vectors, work, products, g):
    """M of one panel of filters on one block of tiles, DEPTH channels at a time: their V stays in L1."""
    for c in range(0, g.c, DEPTH):
        channels = min(DEPTH, g.c - c)
        for point in range(POINTS):
            a, b = ui + point * g.u_plane + c * WIDTH, vi + point * g.v_plane + c * TILES
            for first in range(0, filters, MR):
                out = products + (first * POINTS + point) * TILES
                if vectors == 3:
                    _product(u, a + first, v, b, channels, work, out, c > 0, (0, LANES, 2 * LANES))
                elif vectors == 2:
                    _product(u, a + first, v, b, channels, work, out, c > 0, (0, LANES))
                else:
                    _product(u, a + first, v, b, channels, work, out, c > 0, (0,))


@kernel
def _multiply(u, ui, v, vi, panel, vectors, strips, begin, end, y, bias, least, work, scratch, g):
    """One panel of filters on one block of tiles."""
    products, pixels = scratch + PRODUCTS, scratch + PIXELS
    filters = min(WIDTH, g.k - panel * WIDTH)
    _products(u, ui, v, vi, filters, vectors, work, products, g)
    for m in range(filters):
        k = panel * WIDTH + m
        for n in range(vectors):
            _transform_output(work, products + m * POINTS * TILES + n * LANES, scratch + HALF,
                              pixels + n * M * LANES, bias[k], least)  # fmt: skip
        _write(work, pixels, strips, begin, end, y, k * g.y_plane, g.k * g.y_plane, g)


@kernel
def _inputs(x, w, v, u, work, strips, begins, first, blocks, g_at, thread, threads):
    """One thread's share of V of a group: (channel, block) pairs; and before the first group of U, where it is kept."""
    g, scratch = record(Sizes, g_at), thread * SCRATCH
    if g.keep_u and first == 0:
        begin, end = share(g.panels, thread, threads)
        for panel in range(begin, end):
            _transform_filters(w, panel, u, panel * g.u_panel, work, scratch, g)
    begin, end = share(blocks * g.c, thread, threads)
    for i in range(begin, end):
        block, c = i // g.c, i % g.c
        for s in range(begins[first + block], begins[first + block + 1]):
            plane = (strips[s, IMAGE] * g.c + c) * g.h * g.w
            _transform_strip(x, plane, strips[s], work, scratch, v, block * g.v_block + c * TILES, g)


@kernel
def _outputs(w, v, u, y, bias, least, work, strips, begins, first, blocks, g_at, thread, threads):
    """One thread's share of a group's products: (panel, block) pairs."""
    g, scratch = record(Sizes, g_at), thread * SCRATCH
    begin, end = share(g.panels * blocks, thread, threads)
    for panel in range(g.panels):
        made = g.keep_u
        ui = (panel if g.keep_u else thread) * g.u_panel
        for block in range(blocks):
            i = block * g.panels + panel if g.keep_u else panel * blocks + block
            if begin <= i < end:
                if not made:
                    _transform_filters(w, panel, u, ui, work, scratch, g)
                    made = 1
                left = g.tiles - (first + block) * TILES
                vectors = min(NR, (left + LANES - 1) // LANES)
                _multiply(u, ui, v, block * g.v_block, panel, vectors, strips, begins[first + block],
                          begins[first + block + 1], y, bias, least, work, scratch, g)  # fmt: skip


@kernel
def convolve(x_at, w_at, y_at, bias_at, work_at, strips_at, rows, begins_at, g_at, least, threads):
    """Addresses: float32 x, w, y, bias, workspace; strips and begins as in `strips()`, g as in Sizes; no y is below
    `least`."""
    g = record(Sizes, g_at)
    x, w, y, bias = floats(x_at), floats(w_at), floats(y_at), floats(bias_at)
    work, v, u = floats(work_at), floats(work_at + 4 * g.v_at), floats(work_at + 4 * g.u_at)
    strips, begins = table(strips_at, rows, 8), integers(begins_at, g.blocks + 1)
    for first in range(0, g.blocks, g.group):
        blocks = min(g.group, g.blocks - first)
        parallel(threads, _inputs, (x, w, v, u, work, strips, begins, first, blocks, g_at))
        parallel(threads, _outputs, (w, v, u, y, bias, np.float32(least), work, strips, begins, first, blocks, g_at))


# Planning ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """A pass as a 3 x 3 stride-1 convolution of x (images, C, H, W) to y (images, K, P, Q).

    Tap (r, s) reads row p + r*dilation - padding; padding may be negative. Strides of w in elements."""

    images: int
    c: int
    k: int
    source: tuple[int, int]
    output: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    w_row: int
    w_channel: int
    rotate: bool

    @classmethod
    def of(cls, spec: ConvSpec, pass_: Pass) -> Problem:
        """A conv2d's forward pass, or its data gradient: dy with the filters rotated."""
        (pad_h, pad_w), (dh, dw) = spec.padding, spec.dilation
        x, y = (spec.h, spec.w), (spec.p, spec.q)
        if pass_ == "forward":
            return cls(spec.n, spec.c, spec.k, x, y, spec.padding, spec.dilation, spec.c * 9, 9, False)
        return cls(spec.n, spec.k, spec.c, y, x, (2 * dh - pad_h, 2 * dw - pad_w), spec.dilation, 9, spec.c * 9, True)


def strips(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """The table of strips, and where each block's begin (one entry more than blocks).

    Phases are numbered within an image, tiles within a phase by rows.
    """
    (dh, dw), (p, q), padding = problem.dilation, problem.output, problem.padding
    rows, begins, tile = [], [0], 0
    for image in range(problem.images):
        for a in range(min(dh, p)):
            for b in range(min(dw, q)):
                height, length = -(-(p - a) // dh), -(-(q - b) // dw)
                across = -(-length // M)
                for top in range(0, height, M):
                    t = 0
                    while t < across:
                        count = min(across - t, TILES - tile % TILES)
                        rows.append((
                            tile % TILES, count, image, a + top * dh - padding[0], b + t * M * dw - padding[1],
                            (a + top * dh) * q + b + t * M * dw, min(M, height - top), min(M * count, length - t * M),
                        ))  # fmt: skip
                        t, tile = t + count, tile + count
                        if tile % TILES == 0:
                            begins.append(len(rows))
    if begins[-1] != len(rows):
        begins.append(len(rows))
    return np.array(rows, np.int64), np.array(begins, np.int64)


def sizes(problem: Problem, tiles: int, threads: int) -> Sizes:
    """How the work is cut, for a number of threads."""
    blocks = -(-tiles // TILES)
    v_plane, u_plane = problem.c * TILES + LANES, problem.c * WIDTH + LANES
    group = min(blocks, max(threads, threads * GROUP_BYTES // (4 * POINTS * v_plane)))
    panels, keep_u = -(-problem.k // WIDTH), group < blocks
    v_at, u_at = threads * SCRATCH, threads * SCRATCH + group * POINTS * v_plane
    return Sizes(
        c=problem.c, k=problem.k, h=problem.source[0], w=problem.source[1],
        dilation_h=problem.dilation[0], dilation_w=problem.dilation[1],
        y_row=problem.output[1], y_plane=problem.output[0] * problem.output[1],
        w_row=problem.w_row, w_channel=problem.w_channel, rotate=int(problem.rotate),
        tiles=tiles, blocks=blocks, group=group, panels=panels, keep_u=int(keep_u),
        u_plane=u_plane, u_panel=POINTS * u_plane, v_plane=v_plane, v_block=POINTS * v_plane,
        v_at=v_at, u_at=u_at, work=u_at + (panels if keep_u else threads) * POINTS * u_plane,
    )  # fmt: skip


def winograd(problem: Problem) -> Callable[..., torch.Tensor]:
    """run(x, w, bias=None, relu=False) -> y (images, K, P, Q)."""
    table_, begins = strips(problem)
    tiles, shape = int(table_[:, COUNT].sum()), (problem.images, problem.k, *problem.output)
    no_bias, macs = zeros(problem.k), POINTS * tiles * problem.c * problem.k

    @cache
    def sized(threads: int) -> tuple[int, Addresses]:
        g = sizes(problem, tiles, threads)
        return g.work, addresses(table_, len(table_), begins, integers_of(g))

    def run(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None = None, relu: bool = False) -> torch.Tensor:
        x, w, bias = dense(x), dense(w), no_bias if bias is None else dense(bias)
        y, threads = new(*shape), threads_for(macs)
        size, tables = sized(threads)
        work = workspace(size)
        convolve(x.data_ptr(), w.data_ptr(), y.data_ptr(), bias.data_ptr(), work.data_ptr(),
                 *tables, least(relu), threads)  # fmt: skip
        return y

    return run


def cost(problem: Problem) -> tuple[float, float]:
    """Vector operations of F(4x4,3x3) and of direct convolution, in multiples of one FMA; a model, not a promise.

    The weights of the terms were measured on Zen 4 and are ratios, so they carry over to other widths.
    """
    rows, _ = strips(problem)
    tiles, strided = int(rows[:, COUNT].sum()), problem.dilation != (1, 1)
    vectors, filters = -(-tiles // LANES), -(-problem.k // MR) * MR
    products = POINTS * filters * problem.c * vectors
    transforms = (
        problem.c * (-(-problem.k // WIDTH)) * WIDTH / LANES * 250
        + problem.c * float((-(-rows[:, COUNT] // LANES) * 380 + 100 + 200 * strided).sum())
        + problem.k * vectors * (550 + 400 * strided)
    )
    (p, q), (h, _), pad, step = problem.output, problem.source, problem.padding[0], problem.dilation[0]
    rows_met = sum(max(0, min(p, h + pad - r * step) - max(0, pad - r * step)) for r in range(3))  # others are skipped
    pixels = problem.images * -(-rows_met * q // LANES)
    return products + transforms, 1.1 * 3 * filters * problem.c * pixels


def supports(case: Case) -> str:
    """ "" when it can, otherwise the reason."""
    if reason := reason_against(case):
        return reason
    lowered = lower(case)
    spec = lowered.spec
    if (spec.r, spec.s) != (3, 3) or spec.stride != (1, 1):
        return "3 x 3 kernels with stride 1 only"
    if spec.groups > 1:
        return "no groups"
    if lowered.pass_ == "weight_gradient":
        return "no weight gradient"
    return ""


def build(case: Case) -> Kernel:
    lowered = lower(case)
    run = winograd(Problem.of(lowered.spec, lowered.pass_))
    return Kernel(run, "F(4x4,3x3)", exact=False, error_factor=ERROR_FACTOR, relu=case.pass_ == "forward")


def pays(case: Case) -> bool:
    """Whether a supported case is clearly cheaper this way than direct."""
    lowered = lower(case)
    ours, direct = cost(Problem.of(lowered.spec, lowered.pass_))
    return ours < MARGIN * direct


IMPLEMENTATION = Implementation("numba.winograd", supports, build, "3x3 stride 1 as F(4x4,3x3), any dilation")
