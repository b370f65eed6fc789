"""Copies that make the inner loops simple: padded images, weight panels, and where they are kept.

images   x (N, C, H, W)  ->  per channel one zero-padded plane per stride phase, so that every tap of every
         output pixel is an in-bounds, unit-stride read:  plane[phase][u][v] = x[u*sh + phase_h][v*sw + phase_w]
         Zero columns stand at the end of each row only; a read left of a row meets those of the row before.
weights  any strides      ->  [group][panel][channel][tap][MR], rows beyond K are zero
transposed  (C, M) -> (M, columns), for reductions over pixels
"""

from __future__ import annotations

import threading

import numpy as np
import torch

from convbench_kernels.numba_cpu.arguments import new
from convbench_kernels.numba_cpu.jit import inline_kernel
from convbench_kernels.numba_cpu.simd import (
    gather,
    load,
    load_range,
    load_stride2,
    load_stride2_range,
    prefetch,
    store,
    store_range,
)
from convbench_kernels.numba_cpu.tiles import LANES, MR

LINE = 16  # float32 of a cache line
AHEAD = 8  # channels prefetched before they are packed

_kept = threading.local()


def workspace(size: int) -> torch.Tensor:
    """At least `size` float32, this thread's own, kept between calls: fresh pages would cost faults every call."""
    kept = getattr(_kept, "buffer", None)
    if kept is None or kept.numel() < size:
        kept = _kept.buffer = new(size)
    return kept


@inline_kernel
def pack_row(x, xi, step, count, out, at, width):
    """out[at : at + width] = x[xi :: step][:count], then zeros."""
    for v in range(0, width, LANES):
        left = count - v
        if left >= LANES and step == 1:
            store(out, at + v, load(x, xi + v))
        elif left >= LANES and step == 2:
            store(out, at + v, load_stride2(x, xi + 2 * v))
        elif step == 1:
            store_range(out, at + v, load_range(x, xi + v, 0, left), 0, width - v)
        elif step == 2:
            store_range(out, at + v, load_stride2_range(x, xi + 2 * v, 0, left), 0, width - v)
        else:
            store_range(out, at + v, gather(x, xi + v * step, step, 0, left), 0, width - v)


@inline_kernel
def unpack_row(tile, at, count, y, yi, step):
    """y[yi : : step] = tile[at : at + count], nothing beyond."""
    if step != 1:
        for lane in range(count):
            y[yi + lane * step] = tile[at + lane]
        return
    for lane in range(0, count - LANES + 1, LANES):
        store(y, yi + lane, load(tile, at + lane))
    done = count // LANES * LANES
    if done < count:
        store_range(y, yi + done, load(tile, at + done), 0, count - done)


@inline_kernel
def pack_plane(x, xi, h, w, stride_h, stride_w, top, rows, width, pitch, lead, phase_h, phase_w, out, at):
    """One stride phase of one channel: rows u = top, top + 1, ... of `pitch`, after `lead` zeros, or without the
    first -lead columns."""
    skip, lead = max(0, -lead), max(0, lead)
    for v in range(lead):
        out[at + v] = 0.0
    count = min(width, (w - phase_w + stride_w - 1) // stride_w - skip)
    for u in range(rows):
        row = (u + top) * stride_h + phase_h
        inside = max(count, 0) if 0 <= row < h else 0
        pack_row(x, xi + row * w + phase_w + skip * stride_w, stride_w, inside, out, at + lead + u * pitch, pitch)


@inline_kernel
def pack_panel(w, wi, rows, row, channels, channel, taps, out, at):
    """MR filters side by side: out[(c*T + t)*MR + m] = w[wi + m*row + c*channel + taps[t, 1]]."""
    count = taps.shape[0]
    for c in range(channels):
        if channel > row:  # the next blocks of weights are pages away: nobody else foresees them
            for ahead in range(0, MR * row, LINE):
                prefetch(w, wi + (c + AHEAD) * channel + ahead)
        for t in range(count):
            source, target = wi + c * channel + taps[t, 1], at + (c * count + t) * MR
            if rows == MR and row == 1:
                for v in range(0, MR, LANES):
                    store_range(out, target + v, load_range(w, source + v, 0, MR - v), 0, MR - v)
            elif rows == MR:  # of known length, the loop is unrolled
                for m in range(MR):
                    out[target + m] = w[source + m * row]
            else:
                for m in range(MR):
                    out[target + m] = w[source + m * row] if m < rows else np.float32(0.0)
