"""The dense convolution kernel: implicit GEMM over taps and channels, for every pass that geometry.py describes.

    y[n, k, p, q] = bias[k] + sum_c sum_t  w[k, c, t] * x[n, c, p*sh + eh[t], q*sw + ew[t]]

gemm_m = output pixels (the vector axis), gemm_n = filters, gemm_k = channels x taps. x is (N, C, H, W), w has any
strides, y is written dense or with a step. No im2col matrix exists: a tap is an offset into the padded image.

Register tile: MR filters x NR vectors (drawn in tiles.py), accumulated over the whole of gemm_k, taps inside channels,
so that a channel's rows come from L1 for all taps but the first. Two ways to lay vectors over the pixels:

    flat     a vector runs on through the padding between rows; those lanes are computed and dropped. Small maps fill
             their vectors: 7 x 7 takes 4 vectors of 16 and not 7.
    by row   each row starts a vector: less waste where the padding is wide (large dilation).

Blocks: the panels of MR filters that fit half of L2 are applied to all pixels before the next are read. Work is cut
into (image, group, tile group, panel block, pixel tile, panel) in this order and shared out evenly among the threads:
each output is computed by one thread, in one order, so that results do not depend on the number of threads.

Versions
  1  textbook loops                    textbook.py
  2  register tile, x read in place    pointwise ran at the FMA peak; any padding needed branches per tap
  3  padded copy, one plane per stride phase: no borders, unit-stride reads at any stride; costs 1/(K*T) of the work
  4  flat pixels                       small maps no longer leave half of each vector empty
  5  weights read in place when each is used for few pixels: packing cost as much as the arithmetic at 7 x 7
  6  taps that fall on padding for a whole tile are skipped: large dilation
  7  the pixels of some tiles are copied side by side; 2048 channels were 2048 pages, 0.8 of oneDNN's speed
  8  long sums in slices whose pixels stay in L1, partial sums in L1 and L2
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from numba import get_num_threads, prange

from convbench_kernels.numba_cpu.arguments import addresses, dense, floats, integers_of, record, table
from convbench_kernels.numba_cpu.geometry import Geometry, Taps, plan
from convbench_kernels.numba_cpu.jit import inline_kernel, kernel, parallel_kernel, share
from convbench_kernels.numba_cpu.pack import pack_panel, pack_plane, unpack_row, workspace
from convbench_kernels.numba_cpu.simd import (
    add,
    load,
    load_range,
    prefetch,
    store,
    store_range,
    tile_add,
    tile_fma,
    tile_fma_at,
    tile_rows,
    tile_store,
    zip2,
)
from convbench_kernels.numba_cpu.tiles import LANES, MR, NR

ROW = NR * LANES  # of a tile spilled to memory
AHEAD = 8  # steps: from page to page the hardware does not look ahead


# One panel of MR filters on 3, 2 or 1 vectors of pixels. steps[i] = offsets of one (channel, tap) in x and w. Packed
# weights stand side by side and vectors may be apart; weights read in place are `row` apart and vectors touch.


@inline_kernel
def _put(t, out, at, row, added):
    if added:
        tile_add(t, out, at, row)
    else:
        tile_store(t, out, at, row)


@kernel
def _packed3(w, wi, x, xi, d1, d2, steps, count, bias, k, out, at, out_row, added):
    t = tile_rows(MR, 3, bias, k)
    for i in range(count):
        t = tile_fma_at(t, w, wi + steps[i, 1], 1, x, xi + steps[i, 0], (0, d1, d2))
    _put(t, out, at, out_row, added)


@kernel
def _in_place3(w, wi, row, x, xi, steps, count, bias, k, out, at, out_row, added):
    t = tile_rows(MR, 3, bias, k)
    for i in range(count):
        t = tile_fma(t, w, wi + steps[i, 1], row, x, xi + steps[i, 0])
    _put(t, out, at, out_row, added)


@inline_kernel
def _panel3(w, wi, x, xi, d1, d2, steps, count, bias, k, out, at, out_row, added, g):
    if g.pack_w:
        _packed3(w, wi, x, xi, d1, d2, steps, count, bias, k, out, at, out_row, added)
    else:
        _in_place3(w, wi, g.w_row, x, xi, steps, count, bias, k, out, at, out_row, added)


@kernel
def _packed2(w, wi, x, xi, d1, steps, count, bias, k, out, at, out_row, added):
    t = tile_rows(MR, 2, bias, k)
    for i in range(count):
        t = tile_fma_at(t, w, wi + steps[i, 1], 1, x, xi + steps[i, 0], (0, d1))
    _put(t, out, at, out_row, added)


@kernel
def _in_place2(w, wi, row, x, xi, steps, count, bias, k, out, at, out_row, added):
    t = tile_rows(MR, 2, bias, k)
    for i in range(count):
        t = tile_fma(t, w, wi + steps[i, 1], row, x, xi + steps[i, 0])
    _put(t, out, at, out_row, added)


@inline_kernel
def _panel2(w, wi, x, xi, d1, d2, steps, count, bias, k, out, at, out_row, added, g):
    if g.pack_w:
        _packed2(w, wi, x, xi, d1, steps, count, bias, k, out, at, out_row, added)
    else:
        _in_place2(w, wi, g.w_row, x, xi, steps, count, bias, k, out, at, out_row, added)


@kernel
def _packed1(w, wi, x, xi, steps, count, bias, k, out, at, out_row, added):
    t = tile_rows(MR, 1, bias, k)
    for i in range(count):
        t = tile_fma_at(t, w, wi + steps[i, 1], 1, x, xi + steps[i, 0], (0,))
    _put(t, out, at, out_row, added)


@kernel
def _in_place1(w, wi, row, x, xi, steps, count, bias, k, out, at, out_row, added):
    t = tile_rows(MR, 1, bias, k)
    for i in range(count):
        t = tile_fma(t, w, wi + steps[i, 1], row, x, xi + steps[i, 0])
    _put(t, out, at, out_row, added)


@inline_kernel
def _panel1(w, wi, x, xi, d1, d2, steps, count, bias, k, out, at, out_row, added, g):
    if g.pack_w:
        _packed1(w, wi, x, xi, steps, count, bias, k, out, at, out_row, added)
    else:
        _in_place1(w, wi, g.w_row, x, xi, steps, count, bias, k, out, at, out_row, added)


@inline_kernel
def _put_run(tile, at, count, y, yi, q, g):
    """`count` pixels of a row from column q on: as they are, or the phases of each pixel side by side."""
    if g.added:
        whole = count // LANES * LANES
        for lane in range(0, whole, LANES):
            store(y, yi + lane, add(load(y, yi + lane), load(tile, at + lane)))
        if whole < count:
            total = add(load_range(y, yi + whole, 0, count - whole), load(tile, at + whole))
            store_range(y, yi + whole, total, 0, count - whole)
        return
    if g.fan == 1:
        unpack_row(tile, at, count, y, yi, g.y_step)
        return
    width = min(count * g.fan, g.y_width - q * g.fan)
    if g.fan == 2:
        for lane in range(0, count, LANES):
            low, high = zip2(load(tile, at + lane), load(tile, at + MR * ROW + lane))
            store_range(y, yi + 2 * lane, low, 0, width - 2 * lane)
            store_range(y, yi + 2 * lane + LANES, high, 0, width - 2 * lane - LANES)
        return
    for f in range(g.fan):
        unpack_row(tile, at + f * MR * ROW, (width - f + g.fan - 1) // g.fan, y, yi + f, g.fan)


@kernel
def _write(tile, at, y, yi, rows, first, vectors, g):
    """The valid pixels of a tile in memory: vectors first, first + 1, ... of `rows` filters."""
    if g.row_vectors:
        for n in range(vectors):
            p, q = (first + n) // g.row_vectors, (first + n) % g.row_vectors * LANES
            target = yi + p * g.y_row + q * g.y_step
            for m in range(rows):
                _put_run(tile, at + m * ROW + n * LANES, min(LANES, g.q - q), y, target + m * g.y_plane, q, g)
        return
    begin, end = first * LANES, (first + vectors) * LANES
    for p in range(begin // g.pitch, min(g.p, (end - 1) // g.pitch + 1)):
        lo, hi = max(begin, p * g.pitch), min(end, p * g.pitch + g.q)
        if lo < hi:
            q = lo - p * g.pitch
            target = yi + p * g.y_row + q * g.y_step
            for m in range(rows):
                _put_run(tile, at + m * ROW + lo - begin, hi - lo, y, target + m * g.y_plane, q, g)


@inline_kernel
def _pixel(v, g):
    """Offset of vector v's first pixel in a plane that is read."""
    if g.row_vectors:
        return v // g.row_vectors * g.pitch + v % g.row_vectors * LANES
    return v * LANES


@inline_kernel
def _live_taps(taps, first, vectors, g, live):
    """Taps that meet the image somewhere in the tile, to `live`; says how many, and whether they changed."""
    if g.row_vectors:
        begin, end = first // g.row_vectors, (first + vectors - 1) // g.row_vectors + 1
    else:
        begin, end = first * LANES // g.pitch, ((first + vectors) * LANES - 1) // g.pitch + 1
    count, changed = 0, False
    for i in range(taps.shape[0]):
        if taps[i, 2] < end and taps[i, 3] > begin:
            changed |= live[count] != i
            live[count] = i
            count += 1
    return count, changed


@kernel
def _fill_steps(taps, live, count, x_plane, g, steps, copied_steps, begins):
    """Offsets in x and w of every (channel, live tap), phase by phase, from begins[phase] on; and for copied tiles."""
    at = first = 0
    for f in range(g.fan):
        begins[f], last = at, first
        while last < count and taps[live[last], 4] == f:
            last += 1
        for c in range(g.c):
            for i in range(first, last):
                tap = live[i]
                weight = c * g.w_step + tap * MR if g.pack_w else c * g.w_channel + taps[tap, 1]
                steps[at, 0], steps[at, 1] = c * x_plane + taps[tap, 0], weight
                copied_steps[at, 0], copied_steps[at, 1] = at * ROW, weight
                at += 1
        first = last
    begins[g.fan] = at


@kernel
def _copy_tiles(x, xi, steps, count, first, tiles, work, at, g):
    """`tiles` tiles from vector `first` on, of all channels and taps, to [tile][step][NR vectors]: in few pages, and no
    vector reads beyond the tensor."""
    whole = g.vectors if g.pack_x else g.p * g.q // LANES
    for s in range(count):
        row, ahead = xi + steps[s, 0], steps[min(s + AHEAD, count - 1), 0] - steps[s, 0]
        for i in range(tiles):
            to = at + (i * count + s) * ROW
            for n in range(NR):
                v = first + i * NR + n
                source = row + _pixel(v, g)
                prefetch(x, source + ahead)
                if v < whole:
                    store(work, to + n * LANES, load(x, source))
                elif v < g.vectors:
                    store(work, to + n * LANES, load_range(x, source, 0, g.p * g.q - v * LANES))


@inline_kernel
def _panel(vectors, w, wi, x, xi, d1, d2, steps, bias, k, out, at, out_row, added, g):
    """One panel of filters on 1 to NR vectors of pixels."""
    count = steps.shape[0]
    if vectors == 3:
        _panel3(w, wi, x, xi, d1, d2, steps, count, bias, k, out, at, out_row, added, g)
    elif vectors == 2:
        _panel2(w, wi, x, xi, d1, d2, steps, count, bias, k, out, at, out_row, added, g)
    else:
        _panel1(w, wi, x, xi, d1, d2, steps, count, bias, k, out, at, out_row, added, g)


@kernel
def _strip(x, xi, w, wi, panel_step, y, yi, bias, k, work, tile_at, steps, begins, first, vectors, d1, d2,
           panel, panels, g):  # fmt: skip
    """Panels [panel, panel + panels) of filters on one tile of pixels, slice by slice of the sum."""
    gapless = g.q == g.row_vectors * LANES if g.row_vectors else g.q == g.pitch
    direct = gapless and g.fan == 1 and g.y_step == 1 and g.y_row == g.q and (first + vectors) * LANES <= g.p * g.q
    slices, nothing = max(1, -(-begins[g.fan] // (g.slice * g.fan))), np.zeros(MR, np.float32)
    for n in range(slices):
        for i in range(panel, panel + panels):
            rows = min(MR, g.k - i * MR)
            a, target = wi + i * panel_step, yi + i * MR * g.y_plane
            start, b = (nothing, 0) if n else (bias, k + i * MR)
            whole = direct and rows == MR  # then there is one phase
            spilled = tile_at + (i - panel) * g.fan * MR * ROW if slices > 1 else tile_at
            for f in range(g.fan):
                lo, hi = share(begins[f + 1] - begins[f], n, slices)
                own = steps[begins[f] + lo : begins[f] + hi]
                out, at, row = (y, target + first * LANES, g.y_plane) if whole else (work, spilled + f * MR * ROW, ROW)
                added = g.added + n if whole else n
                _panel(vectors, w, a, x, xi, d1, d2, own, start, b, out, at, row, added, g)
            if n == slices - 1 and not whole:
                _write(work, spilled, y, target, rows, first, vectors, g)


@kernel
def _compute(x, w, y, bias, work, taps, g_at, first_image, images, thread, threads):
    """One thread's share of a block of images. bias has groups * panels * MR entries."""
    g = record(Geometry, g_at)
    tiles = -(-g.vectors // NR)
    per_image = tiles * g.panels
    at, end = share(images * g.groups * per_image, thread, threads)
    panel_step = g.w_panel if g.pack_w else g.w_row * MR
    tile_at = g.panel_at + thread * g.panel_size
    copy_at = tile_at + g.spilled * g.fan * MR * ROW + LANES
    live = np.full(taps.shape[0] + 1, -1)
    steps, begins = np.empty((g.c * taps.shape[0] + 1, 2), np.int64), np.empty(g.fan + 1, np.int64)
    copied_steps = np.empty_like(steps)
    together = g.copy_tiles if g.copy_tiles else tiles
    steps_taps = copied_unit = copied = -1
    while at < end:
        unit, rest = at // per_image, at % per_image
        image, group = unit // g.groups, unit % g.groups
        start = rest // (together * g.panels) * together
        rest -= start * g.panels
        in_group = min(together, tiles - start)
        first_panel = rest // (g.panel_block * in_group) * g.panel_block
        rest -= first_panel * in_group
        in_block = min(g.panel_block, g.panels - first_panel)
        tile, panel = start + rest // in_block, rest % in_block
        first, panels = tile * NR, min(in_block - panel, end - at)
        vectors = min(NR, g.vectors - first)
        pixel = _pixel(first, g)

        source, x_plane = (work, g.x_plane) if g.pack_x else (x, g.x_plane)
        if g.pack_x:
            xi = g.x_at + (image * g.groups + group) * g.c * x_plane
        else:
            xi = ((first_image + image) * g.groups + group) * g.c * x_plane
        d1, d2 = _pixel(first + 1, g) - pixel, _pixel(first + 2, g) - pixel
        copy = g.copy_tiles or (not g.pack_x and xi + pixel + (g.c - 1) * x_plane + vectors * LANES > g.x_size)
        if copy:
            count, changed = _live_taps(taps, 0, g.vectors, g, live)
        else:
            count, changed = _live_taps(taps, first, vectors, g, live)
        if changed or count != steps_taps:
            _fill_steps(taps, live, count, x_plane, g, steps, copied_steps, begins)
            steps_taps = count
        own = copied_steps if copy else steps
        if copy:
            begin, number = (start, in_group) if g.copy_tiles else (tile, 1)
            if unit != copied_unit or begin != copied:
                _copy_tiles(source, xi, steps, begins[g.fan], begin * NR, number, work, copy_at, g)
                copied_unit, copied = unit, begin
            source, xi = work, copy_at + (tile - begin) * begins[g.fan] * ROW
            d1, d2 = LANES, 2 * LANES
        else:
            xi += pixel

        if g.pack_w:
            weights, wi = work, g.w_at + group * g.panels * panel_step + g.w_first
        else:
            weights, wi = w, group * g.w_group
        yi = (first_image + image) * g.y_image + group * g.k * g.y_plane + g.y_first
        _strip(source, xi, weights, wi, panel_step, y, yi, bias, group * g.panels * MR, work, tile_at, own,
               begins, first, vectors, d1, d2, first_panel + panel, panels, g)  # fmt: skip
        at += panels


@kernel
def _pack(x, w, work, taps, phases, g_at, first_image, images, packed, thread, threads):
    """One thread's share of packing: weights before the first block of images, and that block."""
    g = record(Geometry, g_at)
    if g.pack_w == 1 and first_image == 0:
        begin, end = share(g.groups * g.panels, thread, threads)
        size = g.c * taps.shape[0] * MR
        for i in range(begin, end):
            first = i % g.panels * MR
            wi = i // g.panels * g.w_group + first * g.w_row
            pack_panel(w, wi, min(MR, g.k - first), g.w_row, g.c, g.w_channel, taps, work, g.w_at + i * size)
    if g.pack_x and not packed:
        channels = g.groups * g.c
        begin, end = share(images * channels, thread, threads)
        for i in range(begin, end):
            xi, at = (first_image * channels + i) * g.h * g.w, g.x_at + i * g.x_plane
            for f in range(phases.shape[0]):
                pack_plane(x, xi, g.h, g.w, g.stride_h, g.stride_w, g.top, g.rows, g.width, g.pitch, g.lead,
                           phases[f, 0], phases[f, 1], work, at + f * g.phase_plane)  # fmt: skip


@parallel_kernel
def convolve(x_at, w_at, y_at, bias_at, work_at, packed, taps_at, taps_count, phases_at, phases_count, g_at, threads):
    """Addresses: float32 x, w, y, bias, workspace of Plan.size(threads); taps, phases, g as in geometry.Plan.

    packed: 1 where the pass before has left its padded x, for this one too."""
    g = record(Geometry, g_at)
    x, w, y, bias, work = floats(x_at), floats(w_at), floats(y_at), floats(bias_at), floats(work_at)
    taps, phases = table(taps_at, taps_count, 5), table(phases_at, phases_count, 2)
    for first in range(0, g.images, g.block):
        images = min(g.block, g.images - first)
        if (g.pack_x and not packed) or (g.pack_w == 1 and first == 0):
            for t in prange(threads):
                _pack(x, w, work, taps, phases, g_at, first, images, packed, t, threads)
        for t in prange(threads):
            _compute(x, w, y, bias, work, taps, g_at, first, images, t, threads)


@kernel
def _keep_share(w, work, taps, channels, g_at, thread, threads):
    g = record(Geometry, g_at)
    begin, end = share(g.groups * g.panels, thread, threads)
    for i in range(begin, end):
        first = i % g.panels * MR
        wi = i // g.panels * g.w_group + first * g.w_row
        for tap in range(taps.shape[0]):
            at = g.w_at + (tap * g.groups * g.panels + i) * g.w_panel
            pack_panel(w, wi, min(MR, g.k - first), g.w_row, channels, g.w_channel, taps[tap : tap + 1], work, at)


@parallel_kernel
def keep_weights(w_at, work_at, taps_at, taps_count, channels, g_at, threads):
    """Packs the weights of all taps and channels for the passes that follow; g of one of them."""
    w, work, taps = floats(w_at), floats(work_at), table(taps_at, taps_count, 2)
    for t in prange(threads):
        _keep_share(w, work, taps, channels, g_at, t, threads)


def convolution(
    passes: Sequence[Taps], shape: tuple[int, ...], kept: Taps | None = None
) -> Callable[..., torch.Tensor]:
    """run(x, w, bias=None) -> y of `shape`, written by one pass, or by several that share it (stride phases, taps).

    x, w, bias are float32 tensors; in a data gradient x is dy and y is dx. kept: all taps and channels, whose weights
    are packed once for all passes.
    """
    plans = [plan(t) for t in passes]
    first = plans[0].geometry
    padded = (first.groups, first.panels * MR)
    no_bias = torch.zeros(padded)
    size = max(p.size(1) for p in plans)
    per_thread = max(p.geometry.panel_size for p in plans)
    if kept:
        offsets = np.array([(0, at) for at in kept.weights], np.int64)
        keep = addresses(offsets, len(offsets), kept.c, integers_of(plans[0].geometry))
    before = [False, *(p.shares_x(q) for q, p in pairwise(plans))]
    tables = [(int(x), p.geometry.added, p.addresses()) for x, p in zip(before, plans, strict=True)]

    def run(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        y, threads, start = torch.empty(shape), get_num_threads(), no_bias
        if bias is not None:
            start = torch.zeros(padded)
            start[:, : first.k] = dense(bias).view(first.groups, first.k)
        x, w = dense(x), dense(w)
        work = workspace(size + (threads - 1) * per_thread)
        at, none = (x.data_ptr(), w.data_ptr(), y.data_ptr()), no_bias.data_ptr()
        if kept:
            keep_weights(w.data_ptr(), work.data_ptr(), *keep, threads)
        for packed, added, constants in tables:
            convolve(*at, none if added else start.data_ptr(), work.data_ptr(), packed, *constants, threads)
        return y

    return run
