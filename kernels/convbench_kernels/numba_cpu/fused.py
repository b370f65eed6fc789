"""numba.fused: depthwise then pointwise in one pass; the intermediate never leaves the cache.

    y[n, k, p, q] = bias[k] + sum_c w2[k, c] * ( sum_rs w1[c, r, s] * x[n, c, p*sh - ph + r*dh, q*sw - pw + s*dw] )

and, where asked for, with a bias and a ReLU between the two and a ReLU behind them, as in a network whose batch norms
are folded.

Each thread takes blocks of whole output rows. For one block it writes z for all C channels into a panel of its own,

        panel   C rows of PITCH pixels, C * PITCH * 4 bytes <= PANEL_BYTES: half of L2

                    pixels ->                            and multiplies it with w2, read in place,
          c0   z z z z z z . . . |  PITCH                tile by tile (tiles.py):
          c1   z z z z z z . . . |                           MR filters x NR vectors of pixels
          ..

so z costs one write and K/MR reads from L2, and no traffic beyond. The depthwise half is 9/K of the arithmetic: the
pair should run at the speed of its pointwise half.

Versions
  1  two kernels               pair.py
  2  rows of z in a panel, w2 packed once a call
  3  w2 in place               packing cost a third of the time at 14 x 14

Zhang, Lo, Lu: High Performance Depthwise and Pointwise Convolutions on Mobile Devices (arXiv 2001.02504), section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import torch

from convbench.plugin import Case, ConvSpec, Implementation, Kernel
from convbench_kernels.numba_cpu import pair
from convbench_kernels.numba_cpu.arguments import (
    Addresses,
    addresses,
    dense,
    floats,
    integers_of,
    least,
    new,
    padded,
    record,
    table,
    zeros,
)
from convbench_kernels.numba_cpu.depthwise_planes import depthwise_plane, scratch_size
from convbench_kernels.numba_cpu.depthwise_tables import COLUMNS, ROWS, TOP, Planes, forward_tables
from convbench_kernels.numba_cpu.jit import (
    allocating_kernel,
    inline_kernel,
    kernel,
    share,
    threads_for,
)
from convbench_kernels.numba_cpu.pack import workspace
from convbench_kernels.numba_cpu.parallel import parallel
from convbench_kernels.numba_cpu.simd import load, store_range, tile_fma_at, tile_least, tile_rows, tile_store
from convbench_kernels.numba_cpu.tiles import LANES, MR, NR

PANEL_BYTES = 512 * 1024
ROW = NR * LANES


class Sizes(NamedTuple):
    """Of one case, all integers. Offsets into the workspace in elements."""

    images: int
    c: int
    k: int
    p: int
    q: int
    rows: int  # output rows of a block
    blocks: int  # of an image
    pitch: int  # pixels of a panel row
    panels: int  # of MR filters
    stride_h: int
    spill: int  # a tile spilled to memory lies behind each thread's panel
    w_size: int
    per_thread: int


@inline_kernel
def _pack_last(w, work, g):
    """The filters of the last, partial panel side by side, zeros beyond K; whole panels are read in place."""
    first = g.panels * MR - MR
    for c in range(g.c if g.k % MR else 0):
        for m in range(MR):
            work[c * MR + m] = w[(first + m) * g.c + c] if first + m < g.k else np.float32(0.0)


@inline_kernel
def _tile(w, wi, w_row, w_step, panel, at, pitch, channels, bias, k, least, out, target, row, apart):
    t = tile_rows(MR, apart, bias, k)
    for c in range(channels):
        t = tile_fma_at(t, w, wi + c * w_step, w_row, panel, at + c * pitch, apart)
    tile_store(tile_least(t, least), out, target, row)


@inline_kernel
def _spilled(spill, y, target, plane, rows, pixels):
    """The valid part of a tile in memory."""
    for m in range(rows):
        for first in range(0, pixels, LANES):
            value = load(spill, m * ROW + first)
            store_range(y, target + m * plane + first, value, 0, min(LANES, pixels - first))


@kernel
def _multiply(w, last, work, panel, y, yi, bias, least, pixels, g):
    """All filters on the pixels of one panel."""
    plane, spill = g.p * g.q, work[panel + g.spill : panel + g.per_thread]
    for first in range(0, pixels, ROW):
        left = pixels - first
        vectors = min(NR, -(-left // LANES))
        for i in range(g.panels):
            rows, target = min(MR, g.k - i * MR), yi + i * MR * plane + first
            whole = rows == MR and left >= vectors * LANES
            out, at, row = (y, target, plane) if whole else (spill, 0, ROW)
            source, wi, w_row, w_step = (w, i * MR * g.c, g.c, 1) if rows == MR else (last, 0, 1, MR)
            if vectors == 3:
                _tile(source, wi, w_row, w_step, work, panel + first, g.pitch, g.c, bias, i * MR, least, out, at,
                      row, (0, LANES, 2 * LANES))  # fmt: skip
            elif vectors == 2:
                _tile(source, wi, w_row, w_step, work, panel + first, g.pitch, g.c, bias, i * MR, least, out, at,
                      row, (0, LANES))  # fmt: skip
            else:
                _tile(source, wi, w_row, w_step, work, panel + first, g.pitch, g.c, bias, i * MR, least, out, at,
                      row, (0,))  # fmt: skip
            if not whole:
                _spilled(spill, y, target, plane, rows, min(left, ROW))


@allocating_kernel
def _block(image, block, x, w1, w2, last, y, biases, least, work, panel, taps, phase, planes, g, scratch):
    """z of one block of rows into the panel, then the product."""
    begin = block * g.rows
    rows = min(g.rows, g.p - begin)
    here, f = taps.copy(), phase.copy()
    here[:, 0] += begin * g.stride_h
    f[TOP] += begin
    f[ROWS] = rows
    for c in range(g.c):
        depthwise_plane(image * g.c + c, c, x, w1, work, panel + c * g.pitch, biases[0], least[0], here, f, planes,
                        scratch)  # fmt: skip
    _multiply(w2, last, work, panel, y, image * g.k * g.p * g.q + begin * g.q, biases[1], least[1],
              rows * g.q, g)  # fmt: skip


@allocating_kernel
def _share(x, w1, w2, y, biases, least, work, taps, phases, planes_at, g_at, thread, threads):
    """One thread's share of the blocks of rows."""
    g, planes = record(Sizes, g_at), record(Planes, planes_at)
    panel, phase = g.w_size + thread * g.per_thread, phases[0]
    scratch = np.empty(scratch_size(phases, planes), np.float32)
    begin, end = share(g.images * g.blocks, thread, threads)
    for i in range(begin, end):
        _block(i // g.blocks, i % g.blocks, x, w1, w2, work, y, biases, least, work, panel, taps, phase, planes, g,
               scratch)  # fmt: skip


@kernel
def convolve(x_at, w1_at, w2_at, y_at, between_at, bias_at, work_at, least_between, least, taps_at, taps_count,
             phases_at, phases_count, planes_at, g_at, threads):  # fmt: skip
    """Addresses: float32 x, weights, y, a bias of either half, workspace; tables. No intermediate is below
    least_between, no y below least. Blocks of rows shared out evenly."""
    x, w1, w2, y, work = floats(x_at), floats(w1_at), floats(w2_at), floats(y_at), floats(work_at)
    biases, floors = (floats(between_at), floats(bias_at)), (np.float32(least_between), np.float32(least))
    taps, phases = table(taps_at, taps_count, 6), table(phases_at, phases_count, COLUMNS)
    _pack_last(w2, work, record(Sizes, g_at))
    parallel(threads, _share, (x, w1, w2, y, biases, floors, work, taps, phases, planes_at, g_at))


def sizes(spec: ConvSpec, threads: int) -> Sizes:
    """As few blocks as the panel's size allows, of even height, and as many for one thread as for another."""
    fitting = max(1, PANEL_BYTES // (4 * spec.c * spec.q))
    blocks = -(-spec.p // fitting)
    while spec.n * blocks % threads and blocks < spec.p:
        blocks += 1
    rows = -(-spec.p // blocks)
    blocks = -(-spec.p // rows)
    pitch, panels = -(-rows * spec.q // LANES) * LANES, -(-spec.k // MR)
    if pitch % 1024 == 0:  # a multiple of 4 KiB would map every channel to one cache set
        pitch += LANES
    spill = spec.c * pitch + ROW
    return Sizes(
        spec.n, spec.c, spec.k, spec.p, spec.q, rows, blocks, pitch, panels, spec.stride[0], spill,
        -(-spec.c * MR // 16) * 16, spill + MR * ROW + LANES,
    )  # fmt: skip


def forward(spec: ConvSpec) -> Callable[..., torch.Tensor]:
    """run(x, w_depthwise, w_pointwise, bias=None, relu=False, between=None, relu_between=False) -> y.

    between: bias of the depthwise half, (C,)."""
    tables = forward_tables(spec.depthwise())
    width, macs = -(-spec.k // MR) * MR, spec.n * spec.c * spec.p * spec.q * (spec.r * spec.s + spec.k)
    zero, no_bias, shape, constants = zeros(spec.c), zeros(width), spec.y_shape, tables.addresses()

    @cache
    def sized(threads: int) -> tuple[int, Addresses]:
        g = sizes(spec, threads)
        return g.w_size + threads * g.per_thread, addresses(integers_of(g))

    def run(
        x: torch.Tensor, w1: torch.Tensor, w2: torch.Tensor, bias: torch.Tensor | None = None, relu: bool = False,
        between: torch.Tensor | None = None, relu_between: bool = False,
    ) -> torch.Tensor:  # fmt: skip
        x, w1, w2, y, threads = dense(x), dense(w1), dense(w2), new(*shape), threads_for(macs)
        first, second = zero if between is None else dense(between), no_bias if bias is None else padded(bias, 1, width)
        size, g = sized(threads)
        work = workspace(size)
        convolve(x.data_ptr(), w1.data_ptr(), w2.data_ptr(), y.data_ptr(), first.data_ptr(), second.data_ptr(),
                 work.data_ptr(), least(relu_between), least(relu), *constants, *g, threads)  # fmt: skip
        return y

    return run


def supports(case: Case) -> str:
    """The forward pass of the pair; gradients are the pair's two kernels."""
    if case.pass_ != "forward" and case.spec.is_separable:
        return "forward only: see numba.pair"
    return pair.supports(case)


def build(case: Case) -> Kernel:
    return Kernel(forward(case.spec), f"fused_{MR}x{NR}", relu=True)


IMPLEMENTATION = Implementation("numba.fused", supports, build, "separable pair in one pass, intermediate in the cache")
