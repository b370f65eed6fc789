"""Weight gradient of a dense convolution: a GEMM whose reduction runs over output pixels.

    dw[k, c, t] = sum_n sum_p sum_q  dy[n, k, p, q] * x[n, c, p*sh + eh[t], q*sw + ew[t]]

gemm_m = K (the vector axis), gemm_n = rows (c, t), gemm_k = N*P*Q. x is (N, C, H, W), dy (N, K, P, Q), dw OIHW.

Register tile: MR rows x NR vectors of filters. dy is transposed to (pixels, filters):

                         NR vectors of dy[n, k.., p, q]
      x[row 0, p.., q..]  acc[0][0]  acc[0][1]  acc[0][2]
      x[row 1, p.., q..]  acc[1][0]  ..                          pixel after pixel
          ..

What the rows of a tile are, whichever leaves less to multiply:

    one tap of MR channels     x is read where it is, at the pixels where the tap meets it: products with padding are
                               left out, 18% of them for 3 x 3 on 7 x 7, two thirds for a large dilation
    any MR (channel, tap)      offsets into the padded image: 3 channels x 49 taps fill tiles as well as 512 x 9

Blocks: as many rows of pixels as keep one tile's columns of dy in L2 pass under all of a thread's tiles before the
next. Tiles are shared out among the threads, each summed by one thread in pixel order: results do not depend on their
number.

Versions
  1  textbook loops                         textbook.py
  2  tiles over (channel, filter) per tap   borders cut every tap's loops differently; 3-channel stems used 3 of 8 rows
  3  rows are (channel, tap) pairs of the padded image
  4  pixels run on over the images, sums leave the registers once for small maps; dy transposed by shuffles
  5  each column of tiles has its filters' dy in one run of memory; few terms: dots.py
  6  tiles of one tap again, x unpadded and in place, where there are channels enough
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch

from convbench_kernels.numba_cpu.arguments import (
    Addresses,
    addresses,
    dense,
    floats,
    integers,
    integers_of,
    new,
    record,
    table,
    zeros,
)
from convbench_kernels.numba_cpu.geometry import IN_W, IN_X, Geometry, Taps, extents, met, one_row, plan, round_up
from convbench_kernels.numba_cpu.jit import inline_kernel, kernel, share, threads_for
from convbench_kernels.numba_cpu.pack import pack_plane, workspace
from convbench_kernels.numba_cpu.parallel import parallel
from convbench_kernels.numba_cpu.simd import offsets, tile_fma_rows, tile_plus, tile_store, tile_zero, transpose
from convbench_kernels.numba_cpu.tiles import ISA, LANES, MR, NR

ROW = NR * LANES  # of a tile
TILE = MR * ROW
CHUNK = ISA.cache_block // (4 * ROW)  # pixels whose columns of dy stay in L2
PACKED_BYTES = 8 << 20  # x and dy of one block of images: stays in the last cache
# Columns of the table of taps: the output rows and columns that meet the image, the offset of output pixel 0 in x.
TOP, BOTTOM, LEFT, RIGHT, AT, TAP = range(6)


class Reduction(NamedTuple):
    """Integers the kernel walks by; offsets and strides in elements."""

    images: int
    block: int  # images packed at a time
    groups: int
    k: int  # filters per group
    c: int  # channels per group
    pairs: int  # (channel, tap) pairs per group
    taps: int  # tiles of a panel: one for each tap, or 1
    panels: int  # of MR channels, or of MR pairs
    together: int  # panels written to dw at once: whole cache lines of each filter
    k_tiles: int
    k_stride: int  # filters per group, padded to whole vectors
    p: int
    q: int
    lines: int  # rows of pixels whose columns of dy stay in L2
    x_image: int
    x_group: int
    x_row: int  # from an output row to the next
    x_column: int
    w_row: int  # elements of dw per filter
    w_group: int
    padded: int  # x is
    dy_at: int  # workspace: transposed dy (group, image x pixel, filter)
    sums_at: int  # workspace: `together` panels for each thread, or every tile where one visit does not finish it
    visits: int  # more than one pass over the tiles


@dataclass(frozen=True)
class Rows:
    """How x is read. x: each row's offset; taps: [T, TAP]; weights: offset in a filter of each (row, tap);
    row, column, group, image: strides of x; geometry, phases: how it is padded, if it is."""

    x: np.ndarray
    taps: np.ndarray
    weights: np.ndarray
    output: tuple[int, int]
    row: int
    column: int
    group: int
    image: int
    geometry: Geometry | None = None
    phases: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.int64))


@dataclass(frozen=True)
class ReductionPlan:
    """partial: some taps never meet the image, and their gradient is zero."""

    rows: Rows
    reduction: Reduction
    partial: bool

    def size(self, threads: int) -> int:
        """Workspace elements."""
        r = self.reduction
        tiles = r.groups * r.k_tiles * r.panels * r.taps if r.visits else threads * r.together * r.taps
        return r.sums_at + tiles * TILE

    def addresses(self) -> Addresses:
        """Arguments of reduce_pixels."""
        rows = self.rows
        g = integers_of(rows.geometry or [0] * len(Geometry._fields))
        counted = (value for array in (rows.phases, rows.taps, rows.x, rows.weights) for value in (array, len(array)))
        return addresses(*counted, g, integers_of(self.reduction))


def _by_tap(t: Taps) -> Rows:
    """Rows are channels, read in place."""
    if t.output[0] * t.output[1] <= CHUNK:  # longer rows could not be split
        t = one_row(t) or t
    (h, w), channels = t.source, np.arange(t.c)
    taps = [(*extent, eh * w + ew) for extent, eh, ew in zip(extents(t), t.rows, t.columns, strict=True)]
    return Rows(
        channels * h * w, np.array(taps, np.int64).reshape(-1, TAP),
        (channels[:, None] * t.w_channel + np.array(t.weights, np.int64)).ravel(), t.output,
        row=t.stride[0] * w, column=t.stride[1], group=t.c * h * w, image=t.groups * t.c * h * w,
    )  # fmt: skip


def _by_pair(t: Taps) -> Rows:
    """Rows are (channel, tap) pairs of the padded image."""
    padded = plan(t, may_copy=False)
    g, taps, channels = padded.geometry, padded.taps, np.arange(t.c)[:, None]
    everywhere = np.array([[0, g.p, 0, g.q, 0]], np.int64)
    return Rows(
        (channels * g.x_plane + taps[:, IN_X]).ravel(), everywhere, (channels * t.w_channel + taps[:, IN_W]).ravel(),
        t.output, row=g.pitch, column=1, group=g.c * g.x_plane, image=g.groups * g.c * g.x_plane,
        geometry=g._replace(x_at=0), phases=padded.phases,
    )  # fmt: skip


def _rows(t: Taps) -> Rows:
    """Whichever leaves fewer products."""
    area = sum((bottom - top) * (right - left) for top, bottom, left, right in extents(t))
    by_pair = round_up(t.c * len(t.rows), MR) * t.output[0] * t.output[1]
    return _by_tap(t) if round_up(t.c, MR) * area <= by_pair else _by_pair(t)


def plan_reduction(t: Taps) -> ReductionPlan:
    """Choose rows, packing, tiling and blocks for the weight gradient of the forward pass `t`."""
    every, t = t, met(t)
    rows = _rows(t)
    (p, q), taps, padded = rows.output, len(rows.taps), rows.geometry is not None
    k_stride = round_up(t.k, LANES)
    image_bytes = 4 * (padded * rows.image + t.groups * p * q * k_stride)
    block = max(1, min(t.images, PACKED_BYTES // image_bytes))
    x_size = (block * rows.image + rows.row + LANES) * padded
    lines = max(1, CHUNK // q)
    reduction = Reduction(
        images=t.images, block=block, groups=t.groups, k=t.k, c=t.c, pairs=len(rows.weights),
        taps=taps, panels=-(-len(rows.x) // MR), together=max(1, LANES // (MR * max(1, taps))),
        k_tiles=-(-k_stride // ROW), k_stride=k_stride, p=p, q=q, lines=lines,
        x_image=rows.image, x_group=rows.group, x_row=rows.row, x_column=rows.column,
        w_row=t.w_row, w_group=t.w_group, padded=int(padded), dy_at=x_size,
        sums_at=x_size + block * t.groups * p * q * k_stride, visits=int(block < t.images or block * p > lines),
    )  # fmt: skip
    x = np.pad(rows.x, (0, -len(rows.x) % MR))  # a whole panel reads row 0 in place of those that are missing
    return ReductionPlan(replace(rows, x=x), reduction, len(t.rows) < len(every.rows))


# One tile over rows of pixels [first, last), counted over the images: rows of x from table row `row`, filters from the
# transposed dy.


@inline_kernel
def _tile(x, xi, row_x, row, taps, tap, first, last, work, dy, at, fresh, vectors, r):
    rows, width = offsets(MR, row_x, row), len(vectors) * LANES
    t = tile_zero(MR, vectors)
    for image in range(first // r.p, (last - 1) // r.p + 1):
        line = image * r.p
        for p in range(max(taps[tap, TOP], first - line), min(taps[tap, BOTTOM], last - line)):
            source, target = xi + image * r.x_image + p * r.x_row + taps[tap, AT], dy + (line + p) * r.q * width
            for q in range(taps[tap, LEFT], taps[tap, RIGHT]):
                t = tile_fma_rows(t, x, source + q * r.x_column, rows, work, target + q * width)
    if not fresh:
        t = tile_plus(t, work, at, r.taps * ROW)
    tile_store(t, work, at, r.taps * ROW)


@kernel
def _transpose(dy, first, count, work, at, pixel, pixels, r):
    """`count` pixels of one (image, group) of dy, as from `pixel` on, zero filters at the end. Each column of tiles has
    its own matrix, (pixels, filters of the column), so that a tile reads one run of memory."""
    plane = r.p * r.q
    for column in range(r.k_tiles):
        begin, end = share(r.k_stride // LANES, column, r.k_tiles)
        width = (end - begin) * LANES
        for lane in range(0, width, LANES):
            k, target = begin * LANES + lane, at + begin * LANES * pixels + pixel * width + lane
            source = first + k * plane
            if count == LANES and k + LANES <= r.k:
                transpose(dy, source, plane, work, target, width)
            else:
                for m in range(count):
                    for i in range(LANES):
                        value = dy[source + i * plane + m] if k + i < r.k else np.float32(0.0)
                        work[target + m * width + i] = value


@kernel
def _pack(x, dy, work, phases, g_at, r_at, first_image, images, thread, threads):
    """One thread's share of a block of images: dy transposed, x padded if it is."""
    r = record(Reduction, r_at)
    plane = r.p * r.q
    pieces = -(-plane // LANES)
    begin, end = share(images * r.groups * pieces, thread, threads)
    for i in range(begin, end):
        image, group, m = i // pieces // r.groups, i // pieces % r.groups, i % pieces * LANES
        source = ((first_image + image) * r.groups + group) * r.k * plane + m
        _transpose(dy, source, min(LANES, plane - m), work, r.dy_at + group * images * plane * r.k_stride,
                   image * plane + m, images * plane, r)  # fmt: skip
    if r.padded:
        g, channels = record(Geometry, g_at), r.groups * r.c
        begin, end = share(images * channels, thread, threads)
        for i in range(begin, end):
            xi, at = (first_image * channels + i) * g.h * g.w, i * g.x_plane
            for f in range(phases.shape[0]):
                pack_plane(x, xi, g.h, g.w, g.stride_h, g.stride_w, g.top, g.rows, g.width, g.pitch, g.lead,
                           phases[f, 0], phases[f, 1], work, at + f * g.phase_plane)  # fmt: skip


@kernel
def _write(work, at, dw, first, filters, begin, end, weights, r):
    """Finished tiles [begin, end) of a column to dw; first = dw of its first filter, at = sums of begin's panel."""
    panel = begin // r.taps
    row = panel * MR * r.taps
    rows = min(end * MR, r.pairs) - row
    whole = 0
    if begin % r.taps == end % r.taps == 0 and rows >= LANES and weights[row + rows - 1] - weights[row] == rows - 1:
        whole = filters // LANES * LANES
        for piece in range(-(-rows // LANES)):
            m = min(piece * LANES, rows - LANES)  # the last one meets the one before
            for k in range(0, whole, LANES):
                transpose(work, at + m * ROW + k, ROW, dw, first + k * r.w_row + weights[row] + m, r.w_row)
    for tile in range(begin, end):
        for i in range(MR):
            m = (tile // r.taps - panel) * MR * r.taps + i * r.taps + tile % r.taps
            if row + m < r.pairs:
                for k in range(whole, filters):
                    dw[first + k * r.w_row + weights[row + m]] = work[at + m * ROW + k]


@kernel
def _reduce(x, work, dw, row_x, taps, weights, r_at, first_image, images, thread, threads):
    """One thread's tiles, in order (group, columns of filters, panel, tap), over a block of images."""
    r = record(Reduction, r_at)
    tiles = r.panels * r.taps  # of a column
    source, xi = (work, 0) if r.padded else (x, first_image * r.x_image)
    lines, pixels = images * r.p, images * r.p * r.q
    at_tile, end_tile = share(r.groups * r.k_tiles * tiles, thread, threads)
    while at_tile < end_tile:
        number = at_tile // tiles
        begin, end = at_tile - number * tiles, min(end_tile - number * tiles, tiles)
        group, column = number // r.k_tiles, number % r.k_tiles
        begin_k, end_k = share(r.k_stride // LANES, column, r.k_tiles)  # widths differ by one at most: even work
        k, wide = begin_k * LANES, end_k - begin_k
        dy, x_at = r.dy_at + pixels * (group * r.k_stride + k), xi + group * r.x_group
        for first in range(0, lines, r.lines):
            last = min(lines, first + r.lines)
            fresh = first_image + first == 0
            finished = first_image + images == r.images and last == lines
            unwritten = begin
            for tile in range(begin, end):
                panel, tap = tile // r.taps, tile % r.taps
                slot = number * r.panels + panel if r.visits else thread * r.together + panel % r.together
                at = r.sums_at + slot * r.taps * TILE + tap * ROW
                row = panel * MR
                if wide == 3:
                    _tile(source, x_at, row_x, row, taps, tap, first, last, work, dy, at, fresh, (0, 1, 2), r)
                elif wide == 2:
                    _tile(source, x_at, row_x, row, taps, tap, first, last, work, dy, at, fresh, (0, 1), r)
                else:
                    _tile(source, x_at, row_x, row, taps, tap, first, last, work, dy, at, fresh, (0,), r)
                full = tap == r.taps - 1 and panel % r.together == r.together - 1
                if finished and (full or tile == end - 1):
                    sums = r.sums_at + (slot - panel + unwritten // r.taps) * r.taps * TILE
                    filters, target = min(r.k - k, wide * LANES), group * r.w_group + k * r.w_row
                    _write(work, sums, dw, target, filters, unwritten, tile + 1, weights, r)
                    unwritten = tile + 1
        at_tile = number * tiles + end


@kernel
def reduce_pixels(x_at, dy_at, dw_at, work_at, phases_at, phases_count, taps_at, taps_count, row_x_at, rows,
                  weights_at, pairs, g_at, r_at, threads):  # fmt: skip
    """Addresses: float32 x, dy, dw, workspace; the rest as in ReductionPlan."""
    r = record(Reduction, r_at)
    x, dy, dw, work = floats(x_at), floats(dy_at), floats(dw_at), floats(work_at)
    phases, taps = table(phases_at, phases_count, 2), table(taps_at, taps_count, TAP)
    row_x, weights = integers(row_x_at, rows), integers(weights_at, pairs)
    for first in range(0, r.images, r.block):
        images = min(r.block, r.images - first)
        parallel(threads, _pack, (x, dy, work, phases, g_at, r_at, first, images))
        parallel(threads, _reduce, (x, work, dw, row_x, taps, weights, r_at, first, images))


def weight_gradient(t: Taps, shape: tuple[int, ...]) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """run(x, dy) -> dw of `shape`, for the forward pass `t`."""
    chosen = plan_reduction(t)
    constants = chosen.addresses()
    r = chosen.reduction
    macs = r.images * r.groups * r.k * r.pairs * r.p * r.q
    allocate = zeros if chosen.partial else new

    def run(x: torch.Tensor, dy: torch.Tensor) -> torch.Tensor:
        dw, x, dy, threads = allocate(*shape), dense(x), dense(dy), threads_for(macs)
        work = workspace(chosen.size(threads))
        reduce_pixels(x.data_ptr(), dy.data_ptr(), dw.data_ptr(), work.data_ptr(), *constants, threads)
        return dw

    return run
