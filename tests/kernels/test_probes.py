"""The CPU probes do the work that they are credited with."""

from time import perf_counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

from convbench_kernels.numba_cpu import probes
from convbench_kernels.numba_cpu.probes import COPY, FMA_STEPS, STEP, SUMS, TRIAD
from convbench_kernels.numba_cpu.tiles import LANES

TILE = SUMS * LANES
GUARD = np.float32(-7)


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"])
def threads(request):
    before = torch.get_num_threads()
    if request.param > before:
        pytest.skip("one CPU")
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def operands(threads, part):
    """y, x, z with guards behind each part's end; values whose triad is exact in float32."""
    elements = threads * part
    x = np.arange(elements + STEP, dtype=np.float32)
    z = np.arange(elements + STEP, dtype=np.float32)[::-1].copy()
    return np.full(elements + STEP, GUARD, np.float32), x, z


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("what", [COPY, TRIAD])
def test_every_element_of_every_part_is_moved_and_nothing_else(threads, what, steps):
    part = steps * STEP
    y, x, z = operands(threads, part)
    probes._run(what, y, x, z, part, threads, 2)
    expected = x if what == COPY else x + 3 * z
    np.testing.assert_array_equal(y[: threads * part], expected[: threads * part])
    assert (y[threads * part :] == GUARD).all()


@njit
def _some_fma(y, begin, steps):
    probes._fma(y, begin, steps)


@pytest.mark.parametrize("steps", [0, 1, 5, 22])
def test_fma_does_each_step_on_each_lane(steps):
    """t -> t/2 + 1 from t = 2 - d gives 2 - d/2^steps: exact in float32 for these d and steps."""
    d = np.where(np.arange(TILE) % 2, 1, 2).astype(np.float32)
    y = np.concatenate([[GUARD], 2 - d, [GUARD]]).astype(np.float32)
    _some_fma(y, 1, steps)
    np.testing.assert_array_equal(y[1:-1], 2 - d / np.float32(2.0**steps))
    assert y[0] == y[-1] == GUARD


def test_work_is_counted_by_hand(threads):
    assert probes.run_fma(0, 3) == 2 * TILE * FMA_STEPS * threads * 3
    size = 2 * 3 * threads * STEP * 4  # whole steps for two arrays and for three
    assert probes.run_copy(size, 5) == 5 * size
    assert probes.run_triad(size, 5) == 5 * size
    assert probes.run_copy(1, 1) == 2 * threads * STEP * 4  # never less than one step


@given(st.integers(1, 2**31), st.sampled_from([2, 3]), st.integers(1, 300))
def test_parts_are_whole_steps_and_together_hardly_less_than_the_working_set(size, arrays, threads):
    part = probes._part(size, arrays, threads)
    step_bytes = arrays * threads * STEP * 4
    assert part % STEP == 0
    assert max(size - step_bytes, 0) < part * arrays * threads * 4 <= max(size, step_bytes)


@pytest.mark.parametrize("threads", [1], indirect=True)
@pytest.mark.parametrize("run", [probes.run_copy, probes.run_triad])
def test_passes_are_not_optimised_away(threads, run):
    """64 times the passes take at least 8 times as long; if the compiler kept only the last they would take no longer.

    (That fma does each step is seen in its result above; a copy's result does not show how often it was made.)
    """

    def best(repeats):
        times = []
        for _ in range(5):
            start = perf_counter()
            run(2**14, repeats)
            times.append(perf_counter() - start)
        return min(times)

    best(10_000)
    assert best(64 * 10_000) > 8 * best(10_000)


def test_the_entry_point_offers_three_probes_for_the_cpu():
    found = probes.probes()
    assert [(p.quantity, p.device, p.dtype) for p in found] == [
        ("fma", "cpu", "float32"), ("copy", "cpu", "float32"), ("triad", "cpu", "float32"),
    ]  # fmt: skip
    assert all(p.run(2**14, 1) > 0 for p in found)


def test_working_set_is_aligned_and_remembered_once():
    room = probes._room(2**16, 1)
    assert room.ctypes.data % probes.PAGE_BYTES == 0
    assert room.nbytes == 2**16
    assert (room == 1).all()
    assert probes._room(2**16, 1) is room
    probes._room(2**15, 1)
    assert probes._room.cache_info().currsize == 1
