"""Weight gradient of a dense convolution with few terms per filter: dot products over output pixels.

    dw[k, i] = sum_m  dy[k, m] * rows[i, m]        i: (channel, tap), m: (image, p, q)

gemm_m = K, gemm_n = C*R*S, gemm_k = N*P*Q pixels, which are the vector axis: nothing is transposed, unlike in
weight_gradient.py, whose tiles have K as theirs. A 1 x 1 kernel's rows are x itself; of other kernels a tap's shifted
copy of a channel is one (im2col, row by row), which pays where there are few of them: a 3-channel stem.

Register tile: ROWS filters x COLUMNS terms, each a vector of partial sums, added up at the end of a chunk of pixels:

                     rows[i, m..]  rows[i+1, m..]  ..
      dy[k, m..]      acc[0][0]      acc[0][1]     ..
      dy[k+1, m..]    acc[1][0]      acc[1][1]     ..

It gains 1.1 to 1.7 over the other way for 1 x 1 kernels of 128 to 32 channels, 1.3 to 1.4 for 3 x 3 on 1 or 3.

Pixels are taken a chunk of output rows at a time. dy is read where it is if its rows begin well, and so is x if the
terms are its rows; otherwise each thread copies what it needs of a chunk for itself, into L2: what one thread copied
for another came slowly, and more than a chunk did not stay in the cache. Each sum is made by one thread in one order:
results do not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from math import gcd
from typing import NamedTuple

import numpy as np
import torch

from convbench_kernels.numba_cpu.arguments import addresses, dense, floats, integers_of, new, record, table
from convbench_kernels.numba_cpu.geometry import Taps, extents, one_row, spread
from convbench_kernels.numba_cpu.jit import inline_kernel, kernel, share, threads_for
from convbench_kernels.numba_cpu.pack import pack_row, workspace
from convbench_kernels.numba_cpu.parallel import parallel
from convbench_kernels.numba_cpu.simd import tile_dot, tile_sums, tile_zero
from convbench_kernels.numba_cpu.tiles import ISA, LANES

ROWS, COLUMNS = (4, 4) if ISA.mr == 8 else (4, 2)  # 32 registers, or 16
CHUNK = 1024  # pixels
FILTERS = max(ROWS, ISA.cache_block // (4 * CHUNK))  # of a block
TERMS = 32  # up to which taps are worth copies of x
CHANNELS = 128  # of a 1 x 1 kernel: with more, transposing dy is cheap, and columns of x leave L1
PIXELS = 4 * CHUNK  # below which adding up lanes costs too much
SEVERAL = tuple(range(ROWS))
SET = 2048  # rows of dy so many pixels apart would meet in few sets of L2
TOP, BOTTOM, LO, HI, DOWN, RIGHT, TAP = range(7)  # of a tap: the output rows and columns that it meets, its offsets
PACKED_BYTES = 8 << 20  # copied rows of one block of images: stay in the last cache


class Products(NamedTuple):
    """Integers the kernel walks by; offsets and strides in elements."""

    images: int
    groups: int
    k: int  # filters per group
    c: int  # channels per group
    terms: int  # (channel, tap) pairs per group
    h: int
    w: int
    p: int
    q: int
    stride_h: int
    stride_w: int
    lines: int  # output rows of a chunk
    dy_in_place: int  # a chunk is then of one image
    x_in_place: int
    dy_row: int  # elements from one row of pixels to the next
    x_row: int
    size: int  # workspace of a thread: copied terms, then copied filters


# One tile: filters from dy[di] on, terms from x[xi] on, over `steps` vectors of pixels.


@inline_kernel
def _tile(filters, terms, dy, di, dy_row, x, xi, x_row, steps, dw, at, dw_row, added):
    t = tile_zero(filters, terms)
    for i in range(steps):
        t = tile_dot(t, dy, di + i * LANES, dy_row, x, xi + i * LANES, x_row)
    tile_sums(t, dw, at, dw_row, added)


@kernel
def _filters(filters, terms, dy, di, dy_row, x, xi, x_row, steps, dw, at, dw_row, added):
    """A tuple as long as the filters on up to COLUMNS terms."""
    if terms == COLUMNS:
        _tile(filters, COLUMNS, dy, di, dy_row, x, xi, x_row, steps, dw, at, dw_row, added)
    else:
        for i in range(terms):
            _tile(filters, 1, dy, di, dy_row, x, xi + i * x_row, x_row, steps, dw, at + i, dw_row, added)


@kernel
def _chunk(dy, di, k_begin, k_end, x, xi, i_begin, i_end, steps, dw, at, added, g):
    """dw[k, i] of these filters and terms over a chunk of pixels."""
    for first in range(k_begin, k_end, FILTERS):
        last = min(k_end, first + FILTERS)
        for i in range(i_begin, i_end, COLUMNS):
            terms, own_x, k = min(COLUMNS, i_end - i), xi + i * g.x_row, first
            while k + ROWS <= last:
                _filters(SEVERAL, terms, dy, di + k * g.dy_row, g.dy_row, x, own_x, g.x_row, steps, dw,
                         at + k * g.terms + i, g.terms, added)  # fmt: skip
                k += ROWS
            while k < last:
                _filters((0,), terms, dy, di + k * g.dy_row, g.dy_row, x, own_x, g.x_row, steps, dw,
                         at + k * g.terms + i, g.terms, added)  # fmt: skip
                k += 1


@kernel
def _multiply(x, dy, dw, work, taps, g_at, thread, threads):
    """One thread's filters or terms, whichever are more, chunk by chunk."""
    g = record(Products, g_at)
    k_begin, k_end, i_begin, i_end = 0, g.k, 0, g.terms
    if g.k >= g.terms:
        k_begin, k_end = _tiles_of(g.k, ROWS, thread, threads)
    else:
        i_begin, i_end = _tiles_of(g.terms, COLUMNS, thread, threads)
    terms_at = thread * g.size
    filters_at = terms_at + (0 if g.x_in_place else g.terms * g.x_row)
    for group in range(g.groups):
        first = 0
        while first < g.images * g.p:
            image, row = first // g.p, first % g.p
            last = min(first + g.lines, (image + 1 if g.dy_in_place else g.images) * g.p)
            if g.dy_in_place:
                filters, di = dy, (image * g.groups + group) * g.k * g.dy_row + row * g.q
            else:
                filters, di = work, filters_at
                _copy_filters(dy, group, k_begin, k_end, first, last, work, di, g)
            if g.x_in_place:
                terms, xi = x, (image * g.groups + group) * g.c * g.x_row + row * g.q
            else:
                terms, xi = work, terms_at
                _copy_terms(x, taps, group, i_begin, i_end, first, last, work, xi, g)
            steps = ((last - first) * g.q + LANES - 1) // LANES
            _chunk(filters, di, k_begin, k_end, terms, xi, i_begin, i_end, steps, dw, group * g.k * g.terms,
                   first > 0, g)  # fmt: skip
            first = last


@inline_kernel
def _tiles_of(count, size, thread, threads):
    """One thread's share of `count` in whole tiles of `size`."""
    begin, end = share((count + size - 1) // size, thread, threads)
    return min(count, begin * size), min(count, end * size)


@inline_kernel
def _end(work, at, pixels):
    """Zeros behind the pixels, up to a whole vector."""
    for pixel in range(pixels, (pixels + LANES - 1) // LANES * LANES):
        work[at + pixel] = np.float32(0.0)


@kernel
def _copy_filters(dy, group, begin, end, first, last, work, at, g):
    """Output rows [first, last), counted over the images, of filters [begin, end)."""
    for k in range(begin, end):
        to = at + k * g.dy_row
        for line in range(first, last):
            plane = (line // g.p * g.groups + group) * g.k + k
            pack_row(dy, (plane * g.p + line % g.p) * g.q, 1, g.q, work, to + (line - first) * g.q, g.q)
        _end(work, to, (last - first) * g.q)


@kernel
def _copy_terms(x, taps, group, begin, end, first, last, work, at, g):
    """The pixels of x that terms [begin, end) meet in these output rows, zeros where they meet none."""
    for i in range(begin, end):
        c, tap = i // taps.shape[0], taps[i % taps.shape[0]]
        for line in range(first, last):
            p, lo, hi, to = line % g.p, tap[LO], tap[HI], at + i * g.x_row + (line - first) * g.q
            if p < tap[TOP] or p >= tap[BOTTOM]:
                lo = hi = 0
            for q in range(lo):
                work[to + q] = np.float32(0.0)
            plane = ((line // g.p * g.groups + group) * g.c + c) * g.h
            source = (plane + p * g.stride_h + tap[DOWN]) * g.w + lo * g.stride_w + tap[RIGHT]
            pack_row(x, source, g.stride_w, hi - lo, work, to + lo, g.q - lo)
        _end(work, at + i * g.x_row, (last - first) * g.q)


@kernel
def multiply(x_at, dy_at, dw_at, work_at, taps_at, taps_count, g_at, threads):
    """Addresses: float32 x, dy, dw, workspace of `threads` times its size; taps and g as in `plan`."""
    x, dy, dw, work = floats(x_at), floats(dy_at), floats(dw_at), floats(work_at)
    parallel(threads, _multiply, (x, dy, dw, work, table(taps_at, taps_count, TAP), g_at))


def pays(t: Taps) -> bool:
    """Whether dot products are the faster way: many pixels, and few terms or a 1 x 1 kernel of few channels."""
    most = CHANNELS if len(t.rows) == 1 else TERMS
    return t.c * len(t.rows) <= most and t.images * t.output[0] * t.output[1] >= PIXELS


def plan(t: Taps) -> tuple[Products, np.ndarray]:
    """The integers of the weight gradient of the forward pass `t`, and its table of taps."""
    (h, w), (p, q), (sh, sw) = t.source, t.output, t.stride
    pixels, terms = p * q, t.c * len(t.rows)
    dy_in_place = pixels % LANES == 0 and pixels % SET > 0
    x_in_place = dy_in_place and one_row(t) is not None and spread(pixels) == pixels
    whole = LANES // gcd(q, LANES) if dy_in_place else 1  # rows that end with a vector
    lines = min(max(whole, CHUNK // q // whole * whole), p if dy_in_place else t.images * p)
    row = spread(lines * q)
    products = Products(
        images=t.images, groups=t.groups, k=t.k, c=t.c, terms=terms, h=h, w=w, p=p, q=q, stride_h=sh, stride_w=sw,
        lines=lines, dy_in_place=int(dy_in_place), x_in_place=int(x_in_place),
        dy_row=pixels if dy_in_place else row, x_row=pixels if x_in_place else row,
        size=row * (terms * (not x_in_place) + t.k * (not dy_in_place)),
    )  # fmt: skip
    taps = [(*extent, eh, ew) for extent, eh, ew in zip(extents(t), t.rows, t.columns, strict=True)]
    return products, np.array(taps, np.int64).reshape(-1, TAP)


def weight_gradient(t: Taps, shape: tuple[int, ...]) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """run(x, dy) -> dw of `shape`, for the forward pass `t`."""
    g, taps = plan(t)
    constants = addresses(taps, len(taps), integers_of(g))
    macs = g.images * g.groups * g.k * g.terms * g.p * g.q

    def run(x: torch.Tensor, dy: torch.Tensor) -> torch.Tensor:
        dw, x, dy, threads = new(*shape), dense(x), dense(dy), threads_for(macs)
        work = workspace(threads * g.size)
        multiply(x.data_ptr(), dy.data_ptr(), dw.data_ptr(), work.data_ptr(), *constants, threads)
        return dw

    return run
