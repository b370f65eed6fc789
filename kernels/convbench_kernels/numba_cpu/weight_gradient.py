"""Weight gradient of a dense convolution: a GEMM whose reduction runs over output pixels.

    dw[k, c, t] = sum_n sum_p sum_q  dy[n, k, p, q] * x[n, c, p*sh + eh[t], q*sw + ew[t]]

gemm_m = K (the vector axis), gemm_n = rows (c, t), gemm_k = N*P*Q. x is (N, C, H, W), dy (N, K, P, Q), dw OIHW.

Register tile: MR rows (c, t) x NR vectors of filters. Any MR pairs of channel and tap make a tile, each an offset into
the padded image, so that 3 channels x 49 taps fill tiles as well as 512 x 9. dy is transposed to (pixels, filters):

                         NR vectors of dy[n, k.., p, q]
      x[c0, p.., q..]  acc[0][0]  acc[0][1]  acc[0][2]
      x[c0, p.., q..]  acc[1][0]  ..                          pixel after pixel, the pixels' offsets in x from a table
          ..

Blocks: as many pixels as keep one tile's columns of dy in L2 pass under all of a thread's rows before the next. Tiles
are shared out among the threads, each summed by one thread in pixel order: results do not depend on their number.

Versions
  1  textbook loops                         textbook.py
  2  tiles over (channel, filter) per tap   borders cut every tap's loops differently; 3-channel stems used 3 of 8 rows
  3  rows are (channel, tap) pairs of the padded image
  4  pixels run on over the images, sums leave the registers once for small maps; dy transposed by shuffles
  5  each column of tiles has its filters' dy in one run of memory; few terms: dots.py
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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
from convbench_kernels.numba_cpu.geometry import PLANES, Geometry, Taps, plan
from convbench_kernels.numba_cpu.jit import inline_kernel, kernel, share, threads_for
from convbench_kernels.numba_cpu.pack import pack_plane, workspace
from convbench_kernels.numba_cpu.parallel import parallel
from convbench_kernels.numba_cpu.simd import offsets, tile_add, tile_fma_rows, tile_store, tile_zero, transpose
from convbench_kernels.numba_cpu.tiles import ISA, LANES, MR, NR

TILE = MR * NR * LANES
TOGETHER = max(1, LANES // MR)  # tiles written to dw at once: whole cache lines of each filter
PACKED_BYTES = 8 << 20  # x and dy of one block of images: stays in the last cache


class Reduction(NamedTuple):
    """Integers the kernel walks by; offsets and strides in elements."""

    images: int
    block: int  # images packed at a time
    groups: int
    k: int  # filters per group
    c: int  # channels per group
    rows: int  # (channel, tap) pairs per group, a multiple of MR
    pairs: int  # of them real
    k_tiles: int
    k_stride: int  # filters per group, padded to whole tiles
    pixels: int  # of one image
    chunk: int  # pixels whose columns of dy stay in L2
    x_image: int
    x_group: int
    w_row: int  # elements of dw per filter
    w_group: int
    dy_at: int  # workspace: transposed dy (group, image x pixel, filter)
    sums_at: int  # workspace: one tile per thread, or every tile where one visit does not finish it
    visits: int  # more than one pass over the tiles


@dataclass(frozen=True)
class ReductionPlan:
    """geometry: how x is padded. row_x, row_w: each row's offset in x and in a filter; pixel_x: each pixel's in x."""

    geometry: Geometry
    reduction: Reduction
    phases: np.ndarray
    row_x: np.ndarray
    row_w: np.ndarray
    pixel_x: np.ndarray
    tiles: int
    partial: bool  # some taps never meet the image: their gradient is zero

    def size(self, threads: int) -> int:
        """Workspace elements."""
        return self.reduction.sums_at + (self.tiles if self.reduction.visits else threads * TOGETHER) * TILE

    def addresses(self) -> Addresses:
        """Arguments of reduce_pixels."""
        g, r = integers_of(self.geometry), integers_of(self.reduction)
        return addresses(self.phases, len(self.phases), g, self.row_x, self.row_w, len(self.row_x), self.pixel_x, r)


def plan_reduction(t: Taps) -> ReductionPlan:
    """Choose packing, tiling and blocks for the weight gradient of the forward pass `t`."""
    forward = plan(t, may_copy=False)
    g, taps, packed = forward.geometry, forward.taps, forward.geometry.source == PLANES
    pairs = g.c * len(taps)
    rows = -(-max(pairs, 1) // MR) * MR
    row_x, row_w = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
    row_x[:pairs] = (np.arange(g.c)[:, None] * g.x_plane + taps[:, 0]).ravel()
    row_w[:pairs] = (np.arange(g.c)[:, None] * t.w_channel + taps[:, 1]).ravel()

    k_stride = -(-g.k // LANES) * LANES
    k_tiles = -(-k_stride // (NR * LANES))
    image_bytes = 4 * g.groups * (packed * g.c * g.x_plane + g.p * g.q * k_stride)
    block = max(1, min(g.images, PACKED_BYTES // image_bytes))
    x_image = g.groups * g.c * g.x_plane
    x_size = (block * x_image + g.pitch + LANES) * packed
    dy_size = block * g.groups * g.p * g.q * k_stride
    pixel = (np.arange(g.p)[:, None] * g.pitch + np.arange(g.q)).ravel()
    pixel_x = (np.arange(block)[:, None] * x_image + pixel).ravel()
    chunk = ISA.cache_block // (4 * NR * LANES)
    reduction = Reduction(
        images=g.images, block=block, groups=g.groups, k=g.k, c=g.c, rows=rows, pairs=pairs,
        k_tiles=k_tiles, k_stride=k_stride, pixels=g.p * g.q, chunk=chunk,
        x_image=x_image, x_group=g.c * g.x_plane, w_row=t.w_row, w_group=t.w_group,
        dy_at=x_size, sums_at=x_size + dy_size, visits=int(block < g.images or block * g.p * g.q > chunk),
    )  # fmt: skip
    tiles = g.groups * (rows // MR) * k_tiles
    return ReductionPlan(
        g._replace(x_at=0), reduction, forward.phases, row_x, row_w, pixel_x, tiles, len(taps) < len(t.weights)
    )


# One tile over pixels [first, last): rows from x at table row `row`, filters from the transposed dy.


@inline_kernel
def _put(t, work, at, fresh):
    if fresh:
        tile_store(t, work, at, NR * LANES)
    else:
        tile_add(t, work, at, NR * LANES)


@inline_kernel
def _tile(x, xi, row_x, row, pixel_x, first, last, work, dy, at, fresh, vectors):
    rows = offsets(MR, row_x, row)
    t = tile_zero(MR, vectors)
    for m in range(first, last):
        t = tile_fma_rows(t, x, xi + pixel_x[m], rows, work, dy + m * len(vectors) * LANES)
    _put(t, work, at, fresh)


@kernel
def _transpose(dy, first, count, work, at, pixel, pixels, r):
    """`count` pixels of one (image, group) of dy, as from `pixel` on, zero filters at the end. Each column of tiles has
    its own matrix, (pixels, filters of the column), so that a tile reads one run of memory."""
    for column in range(r.k_tiles):
        begin, end = share(r.k_stride // LANES, column, r.k_tiles)
        width = (end - begin) * LANES
        for lane in range(0, width, LANES):
            k, target = begin * LANES + lane, at + begin * LANES * pixels + pixel * width + lane
            source = first + k * r.pixels
            if count == LANES and k + LANES <= r.k:
                transpose(dy, source, r.pixels, work, target, width)
            else:
                for m in range(count):
                    for i in range(LANES):
                        value = dy[source + i * r.pixels + m] if k + i < r.k else np.float32(0.0)
                        work[target + m * width + i] = value


@kernel
def _pack(x, dy, work, phases, g_at, r_at, first_image, images, thread, threads):
    """One thread's share of a block of images: x padded, dy transposed."""
    g, r = record(Geometry, g_at), record(Reduction, r_at)
    pieces = -(-r.pixels // LANES)
    begin, end = share(images * r.groups * pieces, thread, threads)
    for i in range(begin, end):
        image, group, m = i // pieces // r.groups, i // pieces % r.groups, i % pieces * LANES
        source = ((first_image + image) * r.groups + group) * r.k * r.pixels + m
        _transpose(dy, source, min(LANES, r.pixels - m), work, r.dy_at + group * images * r.pixels * r.k_stride,
                   image * r.pixels + m, images * r.pixels, r)  # fmt: skip
    if g.source == PLANES:
        channels = r.groups * r.c
        begin, end = share(images * channels, thread, threads)
        for i in range(begin, end):
            xi, at = (first_image * channels + i) * g.h * g.w, i * g.x_plane
            for f in range(phases.shape[0]):
                pack_plane(x, xi, g.h, g.w, g.stride_h, g.stride_w, g.top, g.rows, g.width, g.pitch, g.lead,
                           phases[f, 0], phases[f, 1], work, at + f * g.phase_plane)  # fmt: skip


@kernel
def _write(work, at, dw, first, filters, rows, row, row_w, r):
    """Finished tiles to dw: `rows` rows from table row `row`, `filters` filters; first = dw of its first filter."""
    whole = 0
    if rows == LANES and row_w[row + rows - 1] - row_w[row] == rows - 1:
        whole = filters // LANES * LANES
    for k in range(0, whole, LANES):
        transpose(work, at + k, NR * LANES, dw, first + k * r.w_row + row_w[row], r.w_row)
    for k in range(whole, filters):
        for m in range(rows):
            dw[first + k * r.w_row + row_w[row + m]] = work[at + m * NR * LANES + k]


@kernel
def _reduce(x, work, dw, row_x, row_w, pixel_x, g_at, r_at, first_image, images, thread, threads):
    """One thread's tiles, in order (group, columns of filters, rows), over a block of images."""
    g, r = record(Geometry, g_at), record(Reduction, r_at)
    panels = r.rows // MR
    at_tile, end = share(r.groups * r.k_tiles * panels, thread, threads)
    source, xi = (work, 0) if g.source == PLANES else (x, first_image * r.x_image)
    pixels = images * r.pixels
    while at_tile < end:
        group, column = at_tile // panels // r.k_tiles, at_tile // panels % r.k_tiles
        until = min(end, (at_tile // panels + 1) * panels)
        begin_k, end_k = share(r.k_stride // LANES, column, r.k_tiles)  # widths differ by one at most: even work
        k, wide = begin_k * LANES, end_k - begin_k
        dy, x_at = r.dy_at + pixels * (group * r.k_stride + k), xi + group * r.x_group
        for first in range(0, pixels, r.chunk):
            last = min(pixels, first + r.chunk)
            fresh = first_image + first == 0
            finished = first_image + images == r.images and last == pixels
            for tile in range(at_tile, until):
                row = tile % panels * MR
                slot = (tile - at_tile) % TOGETHER
                at = r.sums_at + (tile if r.visits else thread * TOGETHER + slot) * TILE
                if wide == 3:
                    _tile(source, x_at, row_x, row, pixel_x, first, last, work, dy, at, fresh, (0, 1, 2))
                elif wide == 2:
                    _tile(source, x_at, row_x, row, pixel_x, first, last, work, dy, at, fresh, (0, 1))
                else:
                    _tile(source, x_at, row_x, row, pixel_x, first, last, work, dy, at, fresh, (0,))
                if finished and (slot == TOGETHER - 1 or tile == until - 1):
                    row -= slot * MR
                    filters, rows = min(r.k - k, wide * LANES), min((slot + 1) * MR, r.pairs - row)
                    target = group * r.w_group + k * r.w_row
                    _write(work, at - slot * TILE, dw, target, filters, rows, row, row_w, r)
        at_tile = until


@kernel
def reduce_pixels(x_at, dy_at, dw_at, work_at, phases_at, phases_count, g_at, row_x_at, row_w_at, rows,
                  pixel_x_at, r_at, threads):  # fmt: skip
    """Addresses: float32 x, dy, dw, workspace; the rest as in ReductionPlan."""
    r = record(Reduction, r_at)
    x, dy, dw, work = floats(x_at), floats(dy_at), floats(dw_at), floats(work_at)
    phases, row_x, row_w = table(phases_at, phases_count, 2), integers(row_x_at, rows), integers(row_w_at, rows)
    pixel_x = integers(pixel_x_at, r.block * r.pixels)
    for first in range(0, r.images, r.block):
        images = min(r.block, r.images - first)
        parallel(threads, _pack, (x, dy, work, phases, g_at, r_at, first, images))
        parallel(threads, _reduce, (x, work, dw, row_x, row_w, pixel_x, g_at, r_at, first, images))


def weight_gradient(t: Taps, shape: tuple[int, ...]) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """run(x, dy) -> dw of `shape`, for the forward pass `t`."""
    chosen = plan_reduction(t)
    constants = chosen.addresses()
    r = chosen.reduction
    macs = r.images * r.groups * r.k * r.pairs * r.pixels
    allocate = zeros if chosen.partial else new

    def run(x: torch.Tensor, dy: torch.Tensor) -> torch.Tensor:
        dw, x, dy, threads = allocate(*shape), dense(x), dense(dy), threads_for(macs)
        work = workspace(chosen.size(threads))
        reduce_pixels(x.data_ptr(), dy.data_ptr(), dw.data_ptr(), work.data_ptr(), *constants, threads)
        return dw

    return run
