"""The dense convolution kernel: implicit GEMM over taps and channels, for every pass that geometry.py describes.

    y[n, k, p, q] = bias[k] + sum_c sum_t  w[k, c, t] * x[n, c, p*sh + eh[t], q*sw + ew[t]]

gemm_m = output pixels (the vector axis), gemm_n = filters, gemm_k = channels x taps. x is (N, C, H, W), w has any
strides, y is written dense or with a step. The im2col matrix exists a few tiles at a time, or not at all.

Register tile: MR filters x NR vectors (drawn in tiles.py), accumulated over gemm_k, taps inside channels. Where its
pixels are read (geometry._source):

    in place   1 x 1: x is the operand
    copied     a group of tiles at a time, side by side as [term][NR vectors], straight from x: vectors run on over the
               ends of rows, no lane is spent on padding, any stride is read at unit stride. The copy is shared by all
               panels of filters. Long sums are copied and added up slice by slice, so that a group stays in L2
    planes     few panels to share a copy, or few channels: one zero-padded plane per stride phase. A vector runs on
               through the padding between rows (those lanes are dropped), or starts anew in each row

Pixels behind the last full vector, where they are few, are dot products with whole filters: of 7 x 7 pixels the 49th
cost a quarter of the time. Work is shared out evenly among the threads by (tile, panel): each output is computed by one
thread, in one order, so that results do not depend on the number of threads.

Versions
  1  textbook loops                    textbook.py
  2  register tile, x read in place    pointwise ran at the FMA peak; any padding needed branches per tap
  3  padded copy, one plane per stride phase: no borders, unit-stride reads at any stride; costs 1/(K*T) of the work
  4  flat pixels                       small maps no longer leave half of each vector empty
  5  weights read in place when each is used for few pixels: packing cost as much as the arithmetic at 7 x 7
  6  taps that fall on padding for a whole tile are skipped: large dilation
  7  deep 1 x 1: tiles of pixels copied side by side; 2048 channels were 2048 pages, 0.8 of oneDNN's speed
  8  long sums in slices
  9  tiles copied straight from x for all kernels: 3 x 3 stride 2 from 0.9 to 1.0 - 2.3 of oneDNN's speed, dilated from
     0.7 to 1.1; a product a tap (numba.taps) was not needed any more
 10  last few pixels as dot products: 1 x 1 at 7 x 7 from 0.95 to 1.3
 11  transposed weights prefetched: read in place for small maps, 0.7 to 1.2 of oneDNN's speed for 512 channels at 7 x 7
 12  small maps of a batch cut into tiles as one: weights are read once for all of them
 13  a pass cut into rectangles where taps end inside the map: products with padding left out in columns as well
 14  half a panel where no more filters are left: groups of four filters
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch

from convbench_kernels.numba_cpu.arguments import dense, floats, least, new, padded, record, table, zeros
from convbench_kernels.numba_cpu.gemv import TOGETHER as DOTS
from convbench_kernels.numba_cpu.gemv import dot_filters
from convbench_kernels.numba_cpu.geometry import (
    COPIED,
    EH,
    EW,
    FIRST_COLUMN,
    FIRST_ROW,
    IN_PLACE,
    IN_W,
    IN_X,
    LAST_COLUMN,
    LAST_ROW,
    PHASE,
    PLANES,
    TAP,
    Geometry,
    Taps,
    plan,
    rectangles,
)
from convbench_kernels.numba_cpu.jit import (
    allocating_kernel,
    inline_kernel,
    kernel,
    share,
    threads_for,
)
from convbench_kernels.numba_cpu.pack import pack_panel, pack_plane, unpack_row, workspace
from convbench_kernels.numba_cpu.parallel import parallel
from convbench_kernels.numba_cpu.simd import (
    broadcast,
    gather,
    load,
    load_range,
    load_stride2,
    load_stride2_range,
    merge,
    prefetch,
    store,
    store_range,
    tile_fma,
    tile_fma_at,
    tile_least,
    tile_plus,
    tile_rows,
    tile_store,
    zip2,
)
from convbench_kernels.numba_cpu.tiles import LANES, MR, NR

ROW = NR * LANES  # of a tile spilled to memory
ALL, HALF = tuple(range(MR)), tuple(range(MR // 2))  # filters of a panel: packed with zeros, which half may be
ZERO, MINUS_INFINITY = np.float32(0.0), np.float32(-np.inf)
NOTHING = np.zeros(MR, np.float32)  # in place of a bias
AHEAD = 48  # terms whose weights are prefetched where they are read in place: a page or more apart where transposed
CHANNELS = 16  # copied at a time: few pages, and a tap's place is looked up once for them


# One panel of MR filters on 3, 2 or 1 vectors of pixels. steps[i] = offsets of one (channel, tap) in x and w. Packed
# weights stand side by side and vectors may be apart; weights read in place are `row` apart and vectors touch.


@inline_kernel
def _put(t, out, at, row, added, least):
    if added:
        t = tile_plus(t, out, at, row)
    tile_store(tile_least(t, least), out, at, row)


@kernel
def _packed(filters, w, wi, x, xi, apart, steps, begin, end, bias, k, out, at, out_row, added, least):
    t = tile_rows(filters, apart, bias, k)
    for i in range(begin, end):
        t = tile_fma_at(t, w, wi + steps[i, 1], 1, x, xi + steps[i, 0], apart)
    _put(t, out, at, out_row, added, least)


@kernel
def _in_place(w, wi, row, x, xi, apart, steps, begin, end, bias, k, out, at, out_row, added, least):
    t = tile_rows(MR, apart, bias, k)
    for i in range(begin, end):
        prefetch(w, wi + steps[i + AHEAD, 1] + i % MR * row)
        t = tile_fma(t, w, wi + steps[i, 1], row, x, xi + steps[i, 0])
    _put(t, out, at, out_row, added, least)


@inline_kernel
def _put_run(tile, at, count, y, yi, q, g):
    """`count` pixels of a row from column q on: as they are, or the phases of each pixel side by side."""
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


@inline_kernel
def _row_of_y(p, g):
    """Offset of an output row in y; rows are counted over the images where these are joined."""
    return p // g.image_rows * g.y_image + p % g.image_rows * g.y_row


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
            target = yi + _row_of_y(p, g) + q * g.y_step
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
    """Taps that meet the image somewhere in vectors first, first + 1, ..., to `live`; their number, and whether they
    changed."""
    if g.row_vectors:
        begin, end = first // g.row_vectors, (first + vectors - 1) // g.row_vectors + 1
    else:
        begin, end = first * LANES // g.pitch, ((first + vectors) * LANES - 1) // g.pitch + 1
        before = begin // g.image_rows * g.image_rows
        begin, end = begin - before, end - before
        if end > g.image_rows and g.image_rows < g.p:  # more than one image
            begin, end = 0, g.image_rows
    count, changed = 0, False
    for i in range(taps.shape[0]):
        if taps[i, FIRST_ROW] < end and taps[i, LAST_ROW] > begin:
            changed |= live[count] != i
            live[count] = i
            count += 1
    return count, changed


@kernel
def _fill_steps(taps, live, count, g, steps, copied_steps, begins):
    """Offsets in x and w of every (channel, live tap), phase by phase, from begins[phase] on; and where x is copied."""
    at = first = 0
    for f in range(g.fan):
        begins[f], last = at, first
        while last < count and taps[live[last], PHASE] == f:
            last += 1
        for c in range(g.c):
            for i in range(first, last):
                tap = live[i]
                weight = c * g.w_step + tap * MR if g.pack_w else c * g.w_channel + taps[tap, IN_W]
                steps[at, 0], steps[at, 1] = c * g.x_plane + taps[tap, IN_X], weight
                copied_steps[at, 0], copied_steps[at, 1] = at * ROW, weight
                at += 1
        first = last
    begins[g.fan] = at


@kernel
def _find_runs(first, vectors, g, runs):
    """The pixels of these vectors, cut where an output row ends: [lane, row, column, pixels]; their number."""
    count, lane, end = 0, 0, min(g.p * g.q - first * LANES, vectors * LANES)
    p, q = first * LANES // g.q, first * LANES % g.q
    while lane < end:
        pixels = min(LANES, g.q - q, end - lane)
        runs[count, 0], runs[count, 1], runs[count, 2], runs[count, 3] = lane, p, q, pixels
        count, lane, q = count + 1, lane + pixels, q + pixels
        if q == g.q:
            p, q = p + 1, 0
    return count


@kernel
def _find_places(taps, live, count, runs, run_count, g, places):
    """Where each tap reads each run: [offset in a plane of x, lanes lo and hi inside the image, whether all are]."""
    for i in range(count):
        tap = live[i]
        from_row, to_row = taps[tap, FIRST_ROW], taps[tap, LAST_ROW]
        from_column, to_column = taps[tap, FIRST_COLUMN], taps[tap, LAST_COLUMN]
        for r in range(run_count):
            image, p, q, pixels = runs[r, 1] // g.image_rows, runs[r, 1] % g.image_rows, runs[r, 2], runs[r, 3]
            lo, hi = max(0, from_column - q), min(pixels, to_column - q)
            if p < from_row or p >= to_row:
                hi = 0
            at = i * run_count + r
            row = image * g.x_image + (p * g.stride_h + taps[tap, EH]) * g.w
            places[at, 0] = row + q * g.stride_w + taps[tap, EW]
            places[at, 1], places[at, 2], places[at, 3] = lo, hi, lo == 0 and hi == pixels


@inline_kernel
def _read_run(x, at, step, lo, hi, whole):
    """A vector of x[at :: step]: all of it, or lanes [lo, hi) with zeros before; those behind are of no account."""
    if step == 1:
        return load(x, at) if whole else load_range(x, at, lo, hi)
    if step == 2:
        return load_stride2(x, at) if whole else load_stride2_range(x, at, lo, hi)
    return gather(x, at, step, lo, hi)


@inline_kernel
def _copy_terms(x, xi, step, begin, end, taps_of_phase, places, runs, run_count, work, at, g):
    """Terms [begin, end) of one phase of a tile's sums, a row of NR vectors each; a few channels at a time, tap by tap.

    A vector may reach into the next run, which is written after it, but not into the next row."""
    row = taps_of_phase * ROW
    for first in range(begin // taps_of_phase, -(-end // taps_of_phase), CHANNELS):
        last = first + CHANNELS
        for i in range(taps_of_phase):
            c_begin, c_end = max(first, -((i - begin) // taps_of_phase)), min(last, -((i - end) // taps_of_phase))
            for r in range(run_count):
                place = i * run_count + r
                lo, hi, whole = places[place, 1], places[place, 2], places[place, 3]
                source, to = xi + places[place, 0], at + (i - begin) * ROW + runs[r, 0]
                left = ROW - runs[r, 0]
                whole &= left >= LANES and source + (c_end - 1) * g.x_plane + (LANES - 1) * step < g.x_size
                inside = c_end if whole else c_begin  # up to there no lane needs care
                for c in range(c_begin, inside):
                    if i == 0:
                        prefetch(x, source + (c + CHANNELS) * g.x_plane)
                    store(work, to + c * row, _read_run(x, source + c * g.x_plane, step, lo, hi, True))
                for c in range(max(c_begin, inside), c_end):
                    value = _read_run(x, source + c * g.x_plane, step, lo, hi, False) if lo < hi else broadcast(ZERO)
                    store(work, to + c * row, merge(value, load(work, to + c * row), left))


@kernel
def _copy_tile(x, xi, taps, live, begins, n, slices, first, vectors, work, at, runs, places, g):
    """Slice n of the sums of a tile's pixels, phase after phase."""
    run_count = _find_runs(first, vectors, g, runs)
    _find_places(taps, live, begins[g.fan] // g.c, runs, run_count, g, places)
    for f in range(g.fan):
        lo, hi = share(begins[f + 1] - begins[f], n, slices)
        if lo < hi:
            own, taps_of_phase = places[begins[f] // g.c * run_count :], (begins[f + 1] - begins[f]) // g.c
            if g.stride_w == 1:
                _copy_terms(x, xi, 1, lo, hi, taps_of_phase, own, runs, run_count, work, at, g)
            elif g.stride_w == 2:
                _copy_terms(x, xi, 2, lo, hi, taps_of_phase, own, runs, run_count, work, at, g)
            else:
                _copy_terms(x, xi, g.stride_w, lo, hi, taps_of_phase, own, runs, run_count, work, at, g)
            at += (hi - lo) * ROW


@kernel
def _add_tail(x, xi, w, wi, y, yi, bias, k, begin, end, taps, least, work, at, g):
    """The pixels behind the last vector, filters [begin, end): where one would be nearly empty. A few filters, in L1,
    meet all of these pixels before the next."""
    terms, first, to = g.c * taps.shape[0], g.p * g.q - g.tail, at
    for pixel in range(first, g.p * g.q):
        h, v = pixel // g.q * g.stride_h, pixel % g.q * g.stride_w
        for c in range(g.c):
            for i in range(taps.shape[0]):
                row, column = h + taps[i, EH], v + taps[i, EW]
                inside = 0 <= row < g.h and 0 <= column < g.w
                work[to] = x[xi + c * g.x_plane + row * g.w + column] if inside else ZERO
                to += 1
    for m in range(begin, end, DOTS):
        for i in range(g.tail):
            dot_filters(w, wi + m * terms, terms, work, at + i * terms, y, yi + m * g.y_plane + first + i, g.y_plane,
                        bias, k + m, min(DOTS, end - m), least)  # fmt: skip


@inline_kernel
def _sum(rows, w, wi, x, xi, apart, steps, begin, end, bias, k, out, at, out_row, added, least, g):
    if rows <= len(HALF):
        _packed(HALF, w, wi, x, xi, apart, steps, begin, end, bias, k, out, at, out_row, added, least)
    elif g.pack_w:
        _packed(ALL, w, wi, x, xi, apart, steps, begin, end, bias, k, out, at, out_row, added, least)
    else:
        _in_place(w, wi, g.w_row, x, xi, apart, steps, begin, end, bias, k, out, at, out_row, added, least)


@inline_kernel
def _panel(rows, vectors, w, wi, x, xi, d1, d2, steps, begin, end, bias, k, out, at, out_row, added, least, g):
    """One panel of `rows` filters on 1 to NR vectors of pixels."""
    if vectors == 3:
        _sum(rows, w, wi, x, xi, (0, d1, d2), steps, begin, end, bias, k, out, at, out_row, added, least, g)
    elif vectors == 2:
        _sum(rows, w, wi, x, xi, (0, d1), steps, begin, end, bias, k, out, at, out_row, added, least, g)
    else:
        _sum(rows, w, wi, x, xi, (0,), steps, begin, end, bias, k, out, at, out_row, added, least, g)


@kernel
def _strip(x, xi, copied, w, wi, panel_step, y, yi, bias, k, least, work, sums_at, sums_step, steps, begins, n, slices,
           first, vectors, d1, d2, panel, panels, g):  # fmt: skip
    """Slice n of the sums of one tile, for panels [panel, panel + panels) of filters."""
    pitch = g.row_vectors * LANES if g.row_vectors else g.pitch
    p, q = first * LANES // pitch, first * LANES % pitch
    image_end = (p // g.image_rows + 1) * g.image_rows * g.q
    gapless = pitch == g.q == g.y_row and (first + vectors) * LANES <= image_end
    direct = g.fan == 1 and g.y_step == 1 and (gapless or q + vectors * LANES <= g.q)
    for i in range(panel, panel + panels):
        rows = min(MR, g.k - i * MR)
        a, target, sums = wi + i * panel_step, yi + i * MR * g.y_plane, sums_at + (i - panel) * sums_step
        start, b = (NOTHING, 0) if n else (bias, k + i * MR)
        floor = least if n == slices - 1 else MINUS_INFINITY
        whole, done = direct and rows == MR, 0  # whole: then there is one phase
        for f in range(g.fan):
            lo, hi = share(begins[f + 1] - begins[f], n, slices)
            source = xi + (done - begins[f] - lo) * ROW if copied else xi
            done += hi - lo
            out, at, row = (y, target + _row_of_y(p, g) + q, g.y_plane) if whole else (work, sums + f * MR * ROW, ROW)
            _panel(rows, vectors, w, a, x, source, d1, d2, steps, begins[f] + lo, begins[f] + hi, start, b, out, at,
                   row, n, floor, g)  # fmt: skip
        if n == slices - 1 and not whole:
            _write(work, sums, y, target, rows, first, vectors, g)


@allocating_kernel
def _compute(x, w, y, bias, least, work, taps, g_at, first_image, images, thread, threads):
    """One thread's share of a block of images."""
    g = record(Geometry, g_at)
    live = np.full(taps.shape[0] + 1, -1)
    steps, begins = np.zeros((g.c * taps.shape[0] + AHEAD, 2), np.int64), np.zeros(g.fan + 1, np.int64)
    copied_steps = np.empty_like(steps)
    runs, places = np.empty((ROW, 4), np.int64), np.empty((taps.shape[0] * ROW, 4), np.int64)
    _compute_tiles(x, w, y, bias, least, work, taps, live, steps, copied_steps, begins, runs, places, g_at,
                   first_image, images, thread, threads)  # fmt: skip


@kernel
def _compute_tiles(x, w, y, bias, least, work, taps, live, steps, copied_steps, begins, runs, places, g_at,
                   first_image, images, thread, threads):  # fmt: skip
    """Tile by tile, each with all panels of filters. bias has groups * panels * MR entries."""
    g = record(Geometry, g_at)
    tiles = -(-g.vectors // NR)
    per_unit = tiles * g.panels
    at, end = share(images * g.groups * per_unit, thread, threads)
    sums_at, known = g.panel_at + thread * g.panel_size, -1
    copy_at = sums_at + g.sums_size
    while at < end:
        unit, rest = at // per_unit, at % per_unit
        image, group = unit // g.groups, unit % g.groups
        tile = rest // (g.together * g.panels) * g.together
        in_group, begun = min(g.together, tiles - tile), unit * per_unit + tile * g.panels
        panel, last = (at - begun) // in_group, min(g.panels, (end - begun) // in_group)  # as the thread before ends
        panels, at = last - panel, begun + in_group * g.panels
        count, changed = _live_taps(taps, tile * NR, min(in_group * NR, g.vectors - tile * NR), g, live)
        if changed or count != known:
            _fill_steps(taps, live, count, g, steps, copied_steps, begins)
            known = count
        if g.source == PLANES:
            source, xi = work, g.x_at + (image * g.groups + group) * g.c * g.x_plane
        else:
            source, xi = x, ((first_image + image) * g.groups + group) * g.c * g.x_plane
        if g.pack_w:
            weights, wi, panel_step = work, g.w_at + group * g.panels * g.w_panel, g.w_panel
        else:
            weights, wi, panel_step = w, group * g.w_group, g.w_row * MR
        yi = (first_image + image) * g.y_image + group * g.k * g.y_plane + g.y_first
        if g.tail and tile + in_group == tiles:
            tail_at, filters = sums_at + g.panel_size - LANES - g.tail * g.c * taps.shape[0], min(g.k, last * MR)
            _add_tail(source, xi, weights, wi, y, yi, bias, group * g.panels * MR, panel * MR, filters, taps, least,
                      work, tail_at, g)  # fmt: skip
        slices = max(1, -(-begins[g.fan] // g.slice))
        kept = g.fan * MR * ROW * (slices > 1)  # partial sums of one tile and panel
        for block in range(panel, panel + panels, g.panel_block):
            own_panels = min(g.panel_block, panel + panels - block)
            for n in range(slices):
                for i in range(in_group):
                    first = (tile + i) * NR
                    vectors, pixel = min(NR, g.vectors - first), _pixel(first, g)
                    beyond = g.source == IN_PLACE and xi + pixel + (g.c - 1) * g.x_plane + vectors * LANES > g.x_size
                    copied = g.source == COPIED or beyond
                    to = copy_at + i * (begins[g.fan] // slices + g.fan) * ROW * (g.source == COPIED)
                    if beyond or (g.source == COPIED and (slices > 1 or block == panel)):
                        _copy_tile(source, xi, taps, live, begins, n, slices, first, vectors, work, to, runs, places, g)
                    if copied:
                        pixels, pi, own, d1, d2 = work, to, copied_steps, LANES, 2 * LANES
                    else:
                        d1, d2 = _pixel(first + 1, g) - pixel, _pixel(first + 2, g) - pixel
                        pixels, pi, own = source, xi + pixel, steps
                    _strip(pixels, pi, copied, weights, wi, panel_step, y, yi, bias, group * g.panels * MR, least,
                           work, sums_at + i * kept, kept * g.together, own, begins, n, slices, first, vectors, d1, d2,
                           block, own_panels, g)  # fmt: skip


@kernel
def _pack(x, w, work, taps, phases, g_at, first_image, images, packed, thread, threads):
    """One thread's share of packing: weights before the first block of images, and that block."""
    g = record(Geometry, g_at)
    if g.pack_w and first_image == 0:
        begin, end = share(g.groups * g.panels, thread, threads)
        size = g.c * taps.shape[0] * MR
        for i in range(begin, end):
            first = i % g.panels * MR
            wi = i // g.panels * g.w_group + first * g.w_row
            pack_panel(w, wi, min(MR, g.k - first), g.w_row, g.c, g.w_channel, taps, work, g.w_at + i * size)
    if g.source == PLANES and not packed:
        channels = g.groups * g.c
        begin, end = share(images * channels, thread, threads)
        for i in range(begin, end):
            xi, at = (first_image * channels + i) * g.h * g.w, g.x_at + i * g.x_plane
            for f in range(phases.shape[0]):
                pack_plane(x, xi, g.h, g.w, g.stride_h, g.stride_w, g.top, g.rows, g.width, g.pitch, g.lead,
                           phases[f, 0], phases[f, 1], work, at + f * g.phase_plane)  # fmt: skip


@kernel
def convolve(x_at, w_at, y_at, bias_at, work_at, packed, least, taps_at, taps_count, phases_at, phases_count, g_at,
             threads):  # fmt: skip
    """Addresses: float32 x, w, y, bias, workspace of Plan.size(threads); taps, phases, g as in geometry.Plan. No y is
    below `least`.

    packed: 1 where the pass before has left its padded x, for this one too."""
    g = record(Geometry, g_at)
    x, w, y, bias, work = floats(x_at), floats(w_at), floats(y_at), floats(bias_at), floats(work_at)
    taps, phases = table(taps_at, taps_count, TAP), table(phases_at, phases_count, 2)
    for first in range(0, g.images, g.block):
        images = min(g.block, g.images - first)
        if (g.source == PLANES and not packed) or (g.pack_w and first == 0):
            parallel(threads, _pack, (x, w, work, taps, phases, g_at, first, images, packed))
        parallel(threads, _compute, (x, w, y, bias, np.float32(least), work, taps, g_at, first, images))


def convolution(passes: Sequence[Taps], shape: tuple[int, ...]) -> Callable[..., torch.Tensor]:
    """run(x, w, bias=None, relu=False) -> y of `shape`, written by one pass or by several: the phases of a data
    gradient, the rectangles that a large dilation leaves.

    x, w, bias are float32 tensors; in a data gradient x is dy and y is dx.
    """
    plans = [plan(piece) for t in passes for piece in rectangles(t)]
    first = plans[0].geometry
    width = first.panels * MR
    no_bias = zeros(first.groups, width)
    size = max(p.size(1) for p in plans)
    per_thread = max(p.geometry.panel_size for p in plans)
    macs = sum(p.geometry.images * p.geometry.groups * p.geometry.k * p.geometry.c * len(p.taps) * p.geometry.p
               * p.geometry.q for p in plans)  # fmt: skip
    before = [False, *(p.shares_x(q) for q, p in pairwise(plans))]
    tables = [(int(x), p.addresses()) for x, p in zip(before, plans, strict=True)]

    def run(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None = None, relu: bool = False) -> torch.Tensor:
        x, w, y, threads = dense(x), dense(w), new(*shape), threads_for(macs)
        start = no_bias if bias is None else padded(bias, first.groups, width)
        work = workspace(size + (threads - 1) * per_thread)
        operands = (x.data_ptr(), w.data_ptr(), y.data_ptr(), start.data_ptr(), work.data_ptr())
        for packed, constants in tables:
            convolve(*operands, packed, least(relu), *constants, threads)
        return y

    return run
