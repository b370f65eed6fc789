"""Weight gradient of a dense convolution: a GEMM whose reduction runs over output pixels.

    dw[k, c, t] = sum_n sum_p sum_q  dy[n, k, p, q] * x[n, c, p*sh + eh[t], q*sw + ew[t]]

gemm_m = K (the vector axis), gemm_n = rows (c, t), gemm_k = N*P*Q. x is (N, C, H, W), dy (N, K, P, Q), dw OIHW.

Register tile: MR rows (c, t) x NR vectors of filters. Any MR pairs of channel and tap make a tile, each an offset into
the padded image, so that 3 channels x 49 taps fill tiles as well as 512 x 9. dy is transposed to (pixels, filters):

                         NR vectors of dy[n, k.., p, q]
      x[c0, p.., q..]  acc[0][0]  acc[0][1]  acc[0][2]
      x[c0, p.., q..]  acc[1][0]  ..                          pixel after pixel, the pixels' offsets in x from a table
          ..

Blocks: as many pixels as keep dy's block in L2; all tiles of a thread pass over one block before the next. Tiles are
shared out among the threads, each summed by one thread in pixel order: results do not depend on the thread count.

Versions
  1  textbook loops                         textbook.py
  2  tiles over (channel, filter) per tap   borders cut every tap's loops differently; 3-channel stems used 3 of 8 rows
  3  rows are (channel, tap) pairs of the padded image
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numba import get_num_threads, prange

from convbench_kernels.numba_cpu.geometry import Geometry, Taps, plan
from convbench_kernels.numba_cpu.jit import kernel, parallel_kernel, share
from convbench_kernels.numba_cpu.pack import flat, pack_plane, workspace
from convbench_kernels.numba_cpu.simd import offsets, tile_fma_rows, tile_load, tile_store, tile_zero
from convbench_kernels.numba_cpu.tiles import ISA, LANES, MR, NR

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
    pixels: int
    pixel_block: int
    x_group: int
    w_row: int  # elements of dw per filter
    dy_at: int  # workspace: transposed dy
    sums_at: int  # workspace: (group, row, filter)


@dataclass(frozen=True)
class ReductionPlan:
    """geometry: how x is padded. row_x, row_w: each row's offset in x and in a filter; pixel_x: each pixel's in x."""

    geometry: Geometry
    reduction: Reduction
    phases: np.ndarray
    row_x: np.ndarray
    row_w: np.ndarray
    pixel_x: np.ndarray
    size: int
    partial: bool  # some taps never meet the image: their gradient is zero


def plan_reduction(t: Taps) -> ReductionPlan:
    """Choose packing, tiling and blocks for the weight gradient of the forward pass `t`."""
    forward = plan(t)
    g, taps = forward.geometry, forward.taps
    pairs = g.c * len(taps)
    rows = -(-max(pairs, 1) // MR) * MR
    row_x, row_w = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
    row_x[:pairs] = (np.arange(g.c)[:, None] * g.x_plane + taps[:, 0]).ravel()
    row_w[:pairs] = (np.arange(g.c)[:, None] * t.w_channel + taps[:, 1]).ravel()
    pixel_x = (np.arange(g.p)[:, None] * g.pitch + np.arange(g.q)).ravel()

    k_stride = -(-g.k // LANES) * LANES
    image_bytes = 4 * g.groups * (g.pack_x * g.c * g.x_plane + g.p * g.q * k_stride)
    block = max(1, min(g.images, PACKED_BYTES // image_bytes))
    x_size = (block * g.groups * g.c * g.x_plane + g.pitch + LANES) * g.pack_x
    dy_size = block * g.groups * g.p * g.q * k_stride
    geometry = g._replace(block=block, x_at=0)
    reduction = Reduction(
        images=g.images, block=block, groups=g.groups, k=g.k, c=g.c, rows=rows, pairs=pairs,
        k_tiles=-(-k_stride // (NR * LANES)), k_stride=k_stride, pixels=g.p * g.q,
        pixel_block=max(16, ISA.cache_block // (4 * k_stride)),
        x_group=g.c * g.x_plane, w_row=t.w_row, dy_at=x_size, sums_at=x_size + dy_size,
    )  # fmt: skip
    size = reduction.sums_at + g.groups * rows * k_stride
    return ReductionPlan(geometry, reduction, forward.phases, row_x, row_w, pixel_x, size, len(taps) < len(t.weights))


@kernel
def _tile3(x, xi, rows, row, pixel_x, first, last, work, dy, dy_step, at, k_stride, fresh):
    o = offsets(MR, rows, row)
    t = tile_zero(MR, 3) if fresh else tile_load(MR, 3, work, at, k_stride)
    for m in range(first, last):
        t = tile_fma_rows(t, x, xi + pixel_x[m], o, work, dy + m * dy_step)
    tile_store(t, work, at, k_stride)


@kernel
def _tile2(x, xi, rows, row, pixel_x, first, last, work, dy, dy_step, at, k_stride, fresh):
    o = offsets(MR, rows, row)
    t = tile_zero(MR, 2) if fresh else tile_load(MR, 2, work, at, k_stride)
    for m in range(first, last):
        t = tile_fma_rows(t, x, xi + pixel_x[m], o, work, dy + m * dy_step)
    tile_store(t, work, at, k_stride)


@kernel
def _tile1(x, xi, rows, row, pixel_x, first, last, work, dy, dy_step, at, k_stride, fresh):
    o = offsets(MR, rows, row)
    t = tile_zero(MR, 1) if fresh else tile_load(MR, 1, work, at, k_stride)
    for m in range(first, last):
        t = tile_fma_rows(t, x, xi + pixel_x[m], o, work, dy + m * dy_step)
    tile_store(t, work, at, k_stride)


@kernel
def _transpose(dy, first, work, at, r):
    """One (image, group) of dy: (filters, pixels) -> (pixels, k_stride), zero filters at the end."""
    for start in range(0, r.pixels, LANES):
        stop = min(r.pixels, start + LANES)
        for k in range(r.k):
            for m in range(start, stop):
                work[at + m * r.k_stride + k] = dy[first + k * r.pixels + m]
        for m in range(start, stop):
            for k in range(r.k, r.k_stride):
                work[at + m * r.k_stride + k] = 0.0


@kernel
def _pack(x, dy, work, phases, g, r, first_image, images, thread, threads):
    """One thread's share of a block of images: x padded, dy transposed."""
    begin, end = share(images * r.groups, thread, threads)
    for i in range(begin, end):
        source = (first_image * r.groups + i) * r.k * r.pixels
        _transpose(dy, source, work, r.dy_at + i * r.pixels * r.k_stride, r)
    if g.pack_x:
        channels = r.groups * r.c
        begin, end = share(images * channels, thread, threads)
        for i in range(begin, end):
            xi, at = (first_image * channels + i) * g.h * g.w, i * g.x_plane
            for f in range(phases.shape[0]):
                pack_plane(x, xi, g.h, g.w, g.stride_h, g.stride_w, g.top, g.rows, g.width, g.pitch, g.lead,
                           phases[f, 0], phases[f, 1], work, at + f * g.phase_plane)  # fmt: skip


@kernel
def _reduce(x, work, row_x, pixel_x, g, r, first_image, images, thread, threads):
    """One thread's tiles over a block of images."""
    panels = r.rows // MR
    begin, end = share(r.groups * panels * r.k_tiles, thread, threads)
    for image in range(images):
        for first in range(0, r.pixels, r.pixel_block):
            last = min(r.pixels, first + r.pixel_block)
            fresh = first_image + image + first == 0
            for tile in range(begin, end):
                group, panel, column = tile // r.k_tiles // panels, tile // r.k_tiles % panels, tile % r.k_tiles
                k = column * NR * LANES
                dy = r.dy_at + (image * r.groups + group) * r.pixels * r.k_stride + k
                at = r.sums_at + (group * r.rows + panel * MR) * r.k_stride + k
                source, xi = (work, image) if g.pack_x else (x, first_image + image)
                xi = (xi * r.groups + group) * r.x_group
                wide = min(NR, (r.k_stride - k) // LANES)
                if wide == 3:
                    _tile3(source, xi, row_x, panel * MR, pixel_x, first, last, work, dy, r.k_stride, at, r.k_stride,
                           fresh)  # fmt: skip
                elif wide == 2:
                    _tile2(source, xi, row_x, panel * MR, pixel_x, first, last, work, dy, r.k_stride, at, r.k_stride,
                           fresh)  # fmt: skip
                else:
                    _tile1(source, xi, row_x, panel * MR, pixel_x, first, last, work, dy, r.k_stride, at, r.k_stride,
                           fresh)  # fmt: skip


@kernel
def _write(work, dw, row_w, r, thread, threads):
    """One thread's filters of dw from the transposed sums."""
    begin, end = share(r.groups * r.k, thread, threads)
    for start in range(begin, end, LANES):
        for k in range(start, min(end, start + LANES)):
            at = r.sums_at + k // r.k * r.rows * r.k_stride + k % r.k
            for row in range(r.pairs):
                dw[k * r.w_row + row_w[row]] = work[at + row * r.k_stride]


@parallel_kernel
def reduce_pixels(x, dy, dw, work, phases, row_x, row_w, pixel_x, g, r, threads):
    """Flat float32 x, dy, dw; the rest as in ReductionPlan."""
    for first in range(0, r.images, r.block):
        images = min(r.block, r.images - first)
        for t in prange(threads):
            _pack(x, dy, work, phases, g, r, first, images, t, threads)
        for t in prange(threads):
            _reduce(x, work, row_x, pixel_x, g, r, first, images, t, threads)
    for t in prange(threads):
        _write(work, dw, row_w, r, t, threads)


def weight_gradient(t: Taps, shape: tuple[int, ...]) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """run(x, dy) -> dw of `shape`, for the forward pass `t`."""
    chosen = plan_reduction(t)
    tables = (chosen.phases, chosen.row_x, chosen.row_w, chosen.pixel_x, chosen.geometry, chosen.reduction)
    allocate = torch.zeros if chosen.partial else torch.empty

    def run(x: torch.Tensor, dy: torch.Tensor) -> torch.Tensor:
        dw = allocate(shape)
        reduce_pixels(flat(x), flat(dy), flat(dw), workspace(chosen.size), *tables, get_num_threads())
        return dw

    return run
