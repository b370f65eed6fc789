"""The machine's limits, measured by its own probes: FMA, GEMM, copy and triad.

A peak is a maximum: the best of many short samples, because everything that disturbs a sample only slows it.
All limits are sampled in turn, several rounds, so that a burst of other work cannot spoil one of them.
CPU probes come from the entry-point group ``convbench.probes``; GEMM is torch.mm. GPUs: cuda_peaks.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from math import ceil
from time import perf_counter
from typing import Any, Literal

from convbench.machine.environment import available_memory_bytes, caches
from convbench.plugin import Probe
from convbench.process import prepare, usable_cpus
from convbench.results import Peak

Clock = Callable[[], float]
Progress = Callable[[int, int, str], None]
Run = Callable[[int], int]  # run(repeats) -> FLOPs or bytes
Sample = Callable[[int], tuple[int, float]]  # sample(repeats) -> (FLOPs or bytes, seconds)

SAMPLE_S = 0.004  # shortest sample that counts: long against the clock and the start of a parallel region
LONG_SAMPLE_S = 0.02  # long against a time slice of the scheduler
STILL_PAYS = 1.1  # twice the repeats gave this much more
FEWEST_SAMPLES = 2  # in a round: the first warms up
ROUNDS, QUICK_ROUNDS = 4, 2
SHARE_S = 0.08  # seconds of samples for one limit in one round
CPU_GEMM_SIZES = (1024, 2048)

LEVEL_SHARE = 0.5  # of a cache that a working set fills
BEYOND_INNER = 1.5  # and how much larger than the next inner level it must be to miss there
BEYOND_LAST = 4  # DRAM: so many times the last cache (STREAM's rule)
FEWEST_BEYOND_LAST = 2  # less is not DRAM: the level is left out
LEAST_DRAM_BYTES = 64 * 2**20
MEMORY_SHARE = 0.25  # of the available memory that a working set may take


@dataclass(frozen=True)
class Task:
    """One limit and how to take a sample of it."""

    quantity: Literal["fma", "gemm", "copy", "triad"]
    level: str
    dtype: Any
    working_set_bytes: int | None
    sample: Sample

    def __str__(self) -> str:
        return f"{self.quantity} {self.dtype} {self.level}"


def measure_peaks(
    device: str,
    threads: int,
    probes: Iterable[Probe],
    progress: Progress | None = None,
    quick: bool = False,
    clock: Clock = perf_counter,
) -> list[Peak]:
    """Measure every limit of a device ("cpu", "cuda", "cuda:1") on so many threads; about 4 s, quick 2 s.

    probes are registry.probes(), loaded after process.prepare(threads). progress(done, total, what comes next) is
    told each step. clock is only used on the CPU.
    """
    if device.startswith("cuda"):
        from convbench.machine.cuda_peaks import cuda_tasks

        tasks = cuda_tasks(device)
    else:
        tasks = cpu_tasks(threads, probes, clock)
    return best_of(tasks, device, QUICK_ROUNDS if quick else ROUNDS, progress)


def best_of(tasks: list[Task], device: str, rounds: int, progress: Progress | None = None) -> list[Peak]:
    """Sample all tasks in turn, ``rounds`` times, and keep each one's best; sizes of one GEMM count as one limit."""
    best: dict[tuple[str, str, str], Peak] = {}
    steps = [task for _ in range(rounds) for task in tasks]
    for done, task in enumerate(steps):
        if progress:
            progress(done, len(steps), str(task))
        value = best_rate(task.sample)
        key = (task.quantity, task.dtype, "" if task.quantity == "gemm" else task.level)
        if key not in best or value > best[key].value:
            best[key] = Peak(quantity=task.quantity, level=task.level, device=device, dtype=task.dtype, value=value,
                             working_set_bytes=task.working_set_bytes)  # fmt: skip
    if progress:
        progress(len(steps), len(steps), "")
    return list(best.values())


def best_rate(sample: Sample, share_s: float = SHARE_S) -> float:
    """Highest work / seconds of samples that together take share_s.

    Repeats double while samples are short, and while that still pays: on a busy machine each start of a parallel
    region can wait for milliseconds, which only longer samples make up for.
    """
    best, spent, repeats, counted = 0.0, 0.0, 1, 0
    while spent < share_s or counted < FEWEST_SAMPLES:
        work, seconds = sample(repeats)
        spent += seconds
        if seconds < SAMPLE_S:
            repeats *= 2
            continue
        if seconds < LONG_SAMPLE_S and work / seconds > STILL_PAYS * best:
            repeats *= 2
        best, counted = max(best, work / seconds), counted + 1
    return best


# CPU --------------------------------------------------------------------------------------------------------


def cpu_tasks(threads: int, probes: Iterable[Probe], clock: Clock = perf_counter) -> list[Task]:
    """What is measured on the CPU. Largest working sets first: the probes keep only the last, smallest in memory."""
    found = [probe for probe in probes if probe.device == "cpu"]
    prepare(threads)  # the probes may have brought a thread pool
    sets = working_sets(caches(), threads, usable_cpus(), available_memory_bytes())
    tasks = [_gemm_task(size, sets, clock) for size in CPU_GEMM_SIZES]
    for level, size in reversed(sets.items()):
        tasks += [_probe_task(p, level, size, clock) for p in found if p.quantity in ("copy", "triad")]
    return tasks + [_probe_task(p, "register", None, clock) for p in found if p.quantity == "fma"]


def _probe_task(probe: Probe, level: str, size: int | None, clock: Clock) -> Task:
    run = partial(probe.run, size or 0)
    return Task(probe.quantity, level, probe.dtype, size, timed(run, clock))


def working_sets(found: dict[str, dict[str, int]], threads: int, cpus: int, memory_bytes: int) -> dict[str, int]:
    """Level -> bytes of a working set, over all threads, that lives there; innermost first, DRAM last.

    found: environment.caches(). A level hardly larger than the one inside it (a victim cache) is left out, and so is
    DRAM where there is too little memory to leave the last cache.
    """
    sets: dict[str, int] = {}
    inner = 0
    for level, cache in sorted(found.items()):
        total = cache["bytes"] * min(threads, ceil(cpus / cache["shared_by"]))
        size = max(int(total * LEVEL_SHARE), int(inner * BEYOND_INNER))
        if size < total:
            sets[level] = size
            inner = total
    wanted = max(BEYOND_LAST * inner, LEAST_DRAM_BYTES)
    size = min(wanted, int(memory_bytes * MEMORY_SHARE))
    if size >= FEWEST_BEYOND_LAST * inner:
        sets["DRAM"] = size
    return sets


def level_of(bytes_: int, sets: dict[str, int]) -> str:
    """The innermost level that holds so many bytes."""
    return next((level for level, size in sets.items() if bytes_ <= size / LEVEL_SHARE), "DRAM")


def timed(run: Run, clock: Clock) -> Sample:
    """A sample by the clock of the host."""

    def sample(repeats: int) -> tuple[int, float]:
        start = clock()
        work = run(repeats)
        return work, clock() - start

    return sample


def repeated(call: Callable[[], Any], work: int) -> Run:
    """A run that calls ``call``, which does ``work`` FLOPs or bytes, so many times."""

    def run(repeats: int) -> int:
        for _ in repeat(None, repeats):
            call()
        return work * repeats

    return run


def _gemm_task(size: int, sets: dict[str, int], clock: Clock) -> Task:
    import torch

    a, b, c = torch.ones(3, size, size)
    bytes_ = 3 * a.numel() * a.itemsize
    run = repeated(lambda: torch.mm(a, b, out=c), 2 * size**3)
    return Task("gemm", level_of(bytes_, sets), "float32", bytes_, timed(run, clock))
