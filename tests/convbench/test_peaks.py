"""Peaks: the stop rule and the choice of working sets with a fake clock; the real thing once, as a smoke test."""

from functools import partial
from itertools import count

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convbench.machine import cuda_peaks, peaks
from convbench.machine.peaks import Task, best_of, best_rate, level_of, timed, working_sets
from convbench.plugin import Probe
from convbench.process import prepare

KIB, MIB, GIB = 2**10, 2**20, 2**30
PLENTY = 64 * GIB


def cache(bytes_, shared_by=1):
    return {"bytes": bytes_, "shared_by": shared_by}


ZEN4_PAIR = {"L1": cache(32 * KIB), "L2": cache(MIB), "L3": cache(32 * MIB, 2)}
ZEN4_SMT = {"L1": cache(32 * KIB, 2), "L2": cache(MIB, 2), "L3": cache(32 * MIB, 16)}
SKYLAKE_20 = {"L1": cache(32 * KIB), "L2": cache(MIB), "L3": cache(int(27.5 * MIB), 20)}
NO_L3 = {"L1": cache(64 * KIB), "L2": cache(12 * MIB, 4)}


# How long, and what counts -------------------------------------------------------------------------------------


class Clock:
    """Advances only when told."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def work(clock, seconds_per_repeat, repeats_seen):
    """A run that does 10 units a repeat; seconds_per_repeat gives the next duration."""

    def run(repeats):
        repeats_seen.append(repeats)
        clock.now += repeats * next(seconds_per_repeat)
        return 10 * repeats

    return run


def test_repeats_double_until_a_sample_is_long_enough_and_short_ones_never_count():
    clock, seen = Clock(), []
    # The first, shortest samples look ten times as fast: they must not become the peak.
    durations = iter([1e-4] * 4 + [1e-3] * 100)
    rate = best_rate(timed(work(clock, durations, seen), clock), share_s=0.1)
    assert rate == pytest.approx(10 / 1e-3)
    assert seen == [1, 2, 4, 8, 16, 32, 32, 32]


def test_repeats_grow_as_long_as_a_late_start_of_each_sample_hides_the_rate():
    clock, seen = Clock(), []

    def late(repeats):
        seen.append(repeats)
        clock.now += 0.005 + repeats * 1e-5
        return 10 * repeats

    assert 0.75 * 10 / 1e-5 < best_rate(timed(late, clock), share_s=0.1) < 10 / 1e-5
    assert seen[:3] == [1, 2, 4]


def test_the_best_sample_is_the_peak_and_sampling_ends_with_its_share():
    clock, seen = Clock(), []
    durations = iter([0.020, 0.030, 0.021, 0.022, 0.025, 0.001])
    assert best_rate(timed(work(clock, durations, seen), clock), share_s=0.1) == pytest.approx(10 / 0.020)
    assert seen == [1] * 5
    assert clock.now == pytest.approx(0.118)


def test_a_slow_sample_is_taken_twice_because_the_first_warms_up():
    clock, seen = Clock(), []
    assert best_rate(timed(work(clock, iter([3.0, 2.0, 1.0]), seen), clock), share_s=0.1) == pytest.approx(5.0)
    assert seen == [1, 1]


def task(quantity, level, rates, dtype="float32", size=None):
    """A task whose rounds find the given rates (1 to 10 a second: long samples, so few of them)."""
    durations = iter([1.0 / rate for rate in rates for _ in range(peaks.FEWEST_SAMPLES)])
    return Task(quantity, level, dtype, size, lambda repeats: (repeats, repeats * next(durations)))


def test_rounds_are_interleaved_and_the_best_of_all_is_kept():
    order, told = [], []
    tasks = [
        task("copy", "L1", [5, 9, 7], size=10),
        task("copy", "L2", [4, 2, 3], size=20),
        task("fma", "register", [8] * 3),
    ]
    for t in tasks:
        object.__setattr__(t, "sample", partial(lambda t, sample, n: order.append(t.level) or sample(n), t, t.sample))
    found = best_of(tasks, "cpu", rounds=3, progress=lambda *step: told.append(step))
    assert [(p.quantity, p.level, p.value, p.working_set_bytes, p.device) for p in found] == [
        ("copy", "L1", pytest.approx(9), 10, "cpu"),
        ("copy", "L2", pytest.approx(4), 20, "cpu"),
        ("fma", "register", pytest.approx(8), None, "cpu"),
    ]
    assert order[:: peaks.FEWEST_SAMPLES] == ["L1", "L2", "register"] * 3
    assert told == [*((n, 9, str(tasks[n % 3])) for n in range(9)), (9, 9, "")]
    assert str(tasks[0]) == "copy float32 L1"


def test_sizes_of_a_gemm_are_one_limit_but_precisions_are_not():
    tasks = [
        task("gemm", "L3", [5], size=10),
        task("gemm", "DRAM", [6], size=40),
        task("gemm", "DRAM", [9], "tf32", size=40),
    ]
    found = best_of(tasks, "cuda:0", rounds=1)
    assert [(p.dtype, p.level, p.value, p.working_set_bytes) for p in found] == [
        ("float32", "DRAM", pytest.approx(6), 40),
        ("tf32", "DRAM", pytest.approx(9), 40),
    ]


# Working sets --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("caches", "threads", "cpus", "expected"),
    [
        (ZEN4_PAIR, 2, 2, {"L1": 32 * KIB, "L2": MIB, "L3": 16 * MIB, "DRAM": 128 * MIB}),
        (ZEN4_PAIR, 1, 2, {"L1": 16 * KIB, "L2": 512 * KIB, "L3": 16 * MIB, "DRAM": 128 * MIB}),
        # Two threads of a core share its caches: 16 CPUs are 8 cores.
        (ZEN4_SMT, 16, 16, {"L1": 128 * KIB, "L2": 4 * MIB, "L3": 16 * MIB, "DRAM": 128 * MIB}),
        (ZEN4_SMT, 4, 16, {"L1": 64 * KIB, "L2": 2 * MIB, "L3": 16 * MIB, "DRAM": 128 * MIB}),
        # Two sockets: both last caches are in use.
        (ZEN4_SMT, 32, 32, {"L1": 256 * KIB, "L2": 8 * MIB, "L3": 32 * MIB, "DRAM": 256 * MIB}),
        # L2s of 20 MiB together behind 27.5 MiB: nothing fits the L3 and surely misses the L2s.
        (SKYLAKE_20, 20, 20, {"L1": 320 * KIB, "L2": 10 * MIB, "DRAM": 80 * MIB}),
        (SKYLAKE_20, 4, 20, {"L1": 64 * KIB, "L2": 2 * MIB, "L3": int(13.75 * MIB), "DRAM": 110 * MIB}),
        (NO_L3, 4, 8, {"L1": 128 * KIB, "L2": 12 * MIB, "DRAM": 96 * MIB}),
        ({}, 2, 2, {"DRAM": 64 * MIB}),
    ],
)  # fmt: skip
def test_working_sets(caches, threads, cpus, expected):
    assert working_sets(caches, threads, cpus, PLENTY) == expected


@pytest.mark.parametrize(
    ("memory", "dram"), [(400 * MIB, 100 * MIB), (256 * MIB, 64 * MIB), (255 * MIB, None), (0, None)]
)
def test_dram_takes_a_quarter_of_what_memory_there_is_or_is_left_out(memory, dram):
    assert working_sets(ZEN4_PAIR, 2, 2, memory).get("DRAM") == dram


@given(
    sizes=st.lists(st.integers(2**12, 2**30), max_size=4),
    shared=st.lists(st.integers(1, 64), min_size=4, max_size=4),
    threads=st.integers(1, 256),
    cpus=st.integers(1, 256),
)
def test_levels_grow_outwards_and_each_set_fits_its_level_but_not_the_one_inside(sizes, shared, threads, cpus):
    caches = {f"L{n}": cache(size, shared[n - 1]) for n, size in enumerate(sorted(sizes), 1)}
    sets = working_sets(caches, threads, cpus, PLENTY * 1024)
    assert list(sets.values()) == sorted(sets.values())
    room = {level: c["bytes"] * min(threads, -(-cpus // c["shared_by"])) for level, c in caches.items()}
    inner = 0
    for level, size in sets.items():
        assert inner < size
        assert level == "DRAM" or size < room[level]
        inner = room.get(level, 0)


def test_level_of_a_size():
    sets = working_sets(ZEN4_PAIR, 2, 2, PLENTY)
    assert [level_of(b, sets) for b in (64 * KIB, 64 * KIB + 1, 12 * MIB, 48 * MIB, 4 * GIB)] == [
        "L1", "L2", "L3", "DRAM", "DRAM",
    ]  # fmt: skip


# CPU -----------------------------------------------------------------------------------------------------------


def test_cpu_tasks_come_from_the_probes_of_the_cpu_largest_working_set_first(monkeypatch):
    monkeypatch.setattr(peaks, "caches", lambda: ZEN4_PAIR)
    monkeypatch.setattr(peaks, "usable_cpus", lambda: 2)
    monkeypatch.setattr(peaks, "available_memory_bytes", lambda: PLENTY)
    monkeypatch.setattr(peaks, "CPU_GEMM_SIZES", (32,))
    asked = []

    def probe(quantity, device):
        return Probe(quantity, device, "float32", lambda size, n: asked.append((quantity, size, n)) or 7 * n)

    probes = [probe("fma", "cpu"), probe("copy", "cpu"), probe("triad", "cuda")]
    ticks = count()
    tasks = peaks.cpu_tasks(1, probes, clock=lambda: float(next(ticks)))
    assert [(t.quantity, t.level, t.working_set_bytes) for t in tasks] == [
        ("gemm", "L1", 3 * 32 * 32 * 4),
        ("copy", "DRAM", 128 * MIB),
        ("copy", "L3", 16 * MIB),
        ("copy", "L2", 512 * KIB),
        ("copy", "L1", 16 * KIB),
        ("fma", "register", None),
    ]
    assert [t.sample(3) for t in tasks] == [(3 * 2 * 32**3, 1.0)] + [(21, 1.0)] * 5
    assert asked == [("copy", size, 3) for size in (128 * MIB, 16 * MIB, 512 * KIB, 16 * KIB)] + [("fma", 0, 3)]


def test_real_peaks_are_there_for_every_level(monkeypatch):
    from convbench.registry import probes

    monkeypatch.setattr(peaks, "QUICK_ROUNDS", 1)
    monkeypatch.setattr(peaks, "CPU_GEMM_SIZES", (256,))
    threads = prepare(None)
    found = peaks.measure_peaks("cpu", threads, probes(), quick=True)
    levels = list(working_sets(peaks.caches(), threads, peaks.usable_cpus(), peaks.available_memory_bytes()))
    assert {(p.quantity, p.level) for p in found} == {
        ("fma", "register"), *((q, level) for q in ("copy", "triad") for level in levels),
        *((p.quantity, p.level) for p in found if p.quantity == "gemm"),
    }  # fmt: skip
    assert sum(p.quantity == "gemm" for p in found) == 1
    # No lower bound: a busy machine may be slow. A loop that the compiler removed would lie above any CPU.
    assert [p for p in found if not 0 < p.value < 1e15] == []


# CUDA: built on the CPU here, run where there is a GPU -----------------------------------------------------------


def one_second(run):
    return lambda repeats: (run(repeats), 1.0)


def test_gpu_moves_count_bytes_as_stream_does():
    copy, triad = cuda_peaks.move_tasks("cpu", "DRAM", 12 * MIB, one_second)
    assert (copy.quantity, copy.level, copy.working_set_bytes) == ("copy", "DRAM", 12 * MIB)
    assert (triad.quantity, triad.level, triad.working_set_bytes) == ("triad", "DRAM", 12 * MIB)
    assert copy.sample(2) == (24 * MIB, 1.0)
    assert triad.sample(3) == (36 * MIB, 1.0)


def test_gpu_gemms_allow_tf32_only_where_it_is_asked_for_and_put_the_setting_back(monkeypatch):
    before, seen = torch.backends.cuda.matmul.allow_tf32, []
    mm = torch.mm

    def watched(a, b, out):
        seen.append((a.dtype, torch.backends.cuda.matmul.allow_tf32))
        return mm(a, b, out=out)

    monkeypatch.setattr(torch, "mm", watched)
    tasks = cuda_peaks.gemm_tasks("cpu", (16,), cuda_peaks.GEMM_DTYPES, one_second)
    assert [t.sample(1) for t in tasks] == [(2 * 16**3, 1.0)] * 4
    assert [t.dtype for t in tasks] == ["float32", "tf32", "bfloat16", "float16"]
    assert [t.working_set_bytes for t in tasks] == [3 * 256 * 4, 3 * 256 * 4, 3 * 256 * 2, 3 * 256 * 2]
    assert seen == [(torch.float32, False), (torch.float32, True), (torch.bfloat16, False), (torch.float16, False)]
    assert torch.backends.cuda.matmul.allow_tf32 == before


@pytest.mark.parametrize(
    ("free", "sizes"),
    [(80 * GIB, [2048, 4096, 8192]), (12 * GIB, [2048, 4096, 8192]), (12 * GIB - 1, [2048, 4096]), (MIB, [])],
)
def test_gpu_gemms_leave_three_quarters_of_the_memory_alone(free, sizes):
    assert cuda_peaks.gemm_sizes(free) == sizes


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_peaks_of_a_gpu():
    found = peaks.measure_peaks("cuda", 1, [], quick=True)
    assert {(p.quantity, p.level) for p in found} >= {("copy", "DRAM"), ("triad", "DRAM"), ("gemm", "DRAM")}
    assert all(1e10 < p.value < 1e17 for p in found)
