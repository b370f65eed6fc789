"""What this CPU can reach: register-resident FMA, copy and triad on a working set of any size, on all threads.

    fma     t[m] = t[m]*a + b            SUMS independent vectors, no memory in the loop
    copy    y[i] = x[i]                  2 x 4 bytes counted an element
    triad   y[i] = x[i] + s*z[i]         3 x 4 bytes counted an element: STREAM (McCalpin 1995)

Stores are plain, not streaming (non-temporal): above the last cache the hardware reads each line of y before it
writes it (write-allocate), and these bytes are not counted, as in STREAM. Kernels store in the same way.

The working set is the total of all arrays over all threads. Each thread owns one part of each array, touches it
first (NUMA), and passes over it again and again, so that a part that fits a cache stays there. UNROLL vectors a
step hide the loop's own instructions; vectors are aligned to cache lines.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from convbench.plugin import Probe
from convbench_kernels.numba_cpu.jit import inline_kernel, kernel
from convbench_kernels.numba_cpu.parallel import most_threads, parallel
from convbench_kernels.numba_cpu.simd import (
    broadcast,
    fma,
    load,
    store,
    tile_load,
    tile_mul_add,
    tile_store,
)
from convbench_kernels.numba_cpu.tiles import LANES, MR, NR

FMA, COPY, TRIAD, FILL = 0, 1, 2, 3
UNROLL = 4
STEP = UNROLL * LANES  # elements moved by one step of a loop
SUMS = max(MR * NR, 12)  # as the kernels' tile; 12 also hide a multiplication and an addition where there is no FMA
FMA_STEPS = 1000  # updates of all sums in one repeat of a thread
PAGE_BYTES = 4096
ITEM_BYTES = 4


@inline_kernel
def _fma(y, begin, steps):
    t = tile_load(SUMS, 1, y, begin, LANES)
    half, one = broadcast(np.float32(0.5)), broadcast(np.float32(1.0))
    for _ in range(steps):
        t = tile_mul_add(t, half, one)  # tends to 2: neither overflow nor denormals
    tile_store(t, y, begin, LANES)


@inline_kernel
def _store4(y, i, v0, v1, v2, v3):
    store(y, i, v0)
    store(y, i + LANES, v1)
    store(y, i + 2 * LANES, v2)
    store(y, i + 3 * LANES, v3)


@inline_kernel
def _copy(y, x, begin, end):
    for i in range(begin, end, STEP):
        v0, v1, v2, v3 = load(x, i), load(x, i + LANES), load(x, i + 2 * LANES), load(x, i + 3 * LANES)
        _store4(y, i, v0, v1, v2, v3)


@inline_kernel
def _triad(y, x, z, s, begin, end):
    for i in range(begin, end, STEP):
        v0 = fma(load(z, i), s, load(x, i))
        v1 = fma(load(z, i + LANES), s, load(x, i + LANES))
        v2 = fma(load(z, i + 2 * LANES), s, load(x, i + 2 * LANES))
        v3 = fma(load(z, i + 3 * LANES), s, load(x, i + 3 * LANES))
        _store4(y, i, v0, v1, v2, v3)


@kernel
def _share(what, y, x, z, part, repeats, thread, threads):
    """One thread's part of y, x and z, which have threads * part elements."""
    begin, end = thread * part, (thread + 1) * part
    if what == FMA:
        _fma(y, begin, repeats * FMA_STEPS)
    elif what == FILL:
        y[begin:end] = 1.0
    else:
        s = broadcast(np.float32(3.0))
        for _ in range(repeats):
            if what == COPY:
                _copy(y, x, begin, end)
            else:
                _triad(y, x, z, s, begin, end)


@kernel
def _run(what, y, x, z, part, threads, repeats):
    parallel(threads, _share, (what, y, x, z, part, repeats))


@lru_cache(maxsize=1)  # measure the largest working set first and the smallest last: only that one is kept
def _room(working_set_bytes: int, threads: int) -> np.ndarray:
    """Ones, aligned to a page, each thread's share first touched by that thread."""
    elements = working_set_bytes // ITEM_BYTES
    room = np.empty(working_set_bytes + PAGE_BYTES, np.int8)
    skip = -room.ctypes.data % PAGE_BYTES
    flat = room[skip : skip + elements * ITEM_BYTES].view(np.float32)
    _run(FILL, flat, flat, flat, elements // threads, threads, 1)
    return flat


def _part(working_set_bytes: int, arrays: int, threads: int) -> int:
    """Elements of one array that belong to one thread: whole steps."""
    return max(working_set_bytes // (arrays * threads * ITEM_BYTES * STEP), 1) * STEP


def _move(what: int, arrays: int, working_set_bytes: int, repeats: int) -> int:
    """Pass over the working set ``repeats`` times; bytes moved, write-allocate not counted."""
    threads = most_threads()
    part = _part(working_set_bytes, arrays, threads)
    array_bytes = threads * part * ITEM_BYTES
    room = _room(max(working_set_bytes, arrays * array_bytes), threads)
    y, x, z = (room[n * threads * part : (n + 1) * threads * part] for n in range(3))
    _run(what, y, x, z, part, threads, repeats)
    return arrays * array_bytes * repeats


def run_fma(working_set_bytes: int, repeats: int) -> int:
    """FLOPs done: 2 for each lane of each vector, FMA_STEPS times a repeat on every thread."""
    threads, part = most_threads(), SUMS * LANES
    room = _room(threads * part * ITEM_BYTES, threads)
    _run(FMA, room, room, room, part, threads, repeats)
    return 2 * part * FMA_STEPS * threads * repeats


def run_copy(working_set_bytes: int, repeats: int) -> int:
    """Bytes moved by y = x: one read, one written an element."""
    return _move(COPY, 2, working_set_bytes, repeats)


def run_triad(working_set_bytes: int, repeats: int) -> int:
    """Bytes moved by y = x + s*z: two read, one written an element."""
    return _move(TRIAD, 3, working_set_bytes, repeats)


def probes() -> list[Probe]:
    """The entry point of the group convbench.probes."""
    return [
        Probe("fma", "cpu", "float32", run_fma),
        Probe("copy", "cpu", "float32", run_copy),
        Probe("triad", "cpu", "float32", run_triad),
    ]
