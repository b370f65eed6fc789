"""Conditions of the measuring process, the same for every implementation: threads and allocator.

Kernels on Numba's own threads (prange) have an OpenMP pool beside torch's, whose idle threads spin into the other's
samples; a short spin ends that. Call ``prepare`` before torch or numba is imported.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from math import ceil
from typing import Any

from convbench.errors import InputError
from convbench.machine.cgroup import quota_cpus

# About 0.1 ms of spinning after a parallel region instead of GNU OpenMP's milliseconds; within a batch of
# calls the threads still find each other awake.
SPIN_COUNT = "10000"
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
TUNE = "CONVBENCH_TUNE"

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc malloc.h
_KEEP_ALL = 2**31 - 1


def usable_cpus() -> int:
    """CPUs this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_threads() -> int:
    """One thread a usable CPU, but no more than a container's CPU quota keeps running."""
    quota = quota_cpus()
    return min(usable_cpus(), ceil(quota)) if quota else usable_cpus()


def usual_threads() -> int:
    """Threads that torch takes without being told: OMP_NUM_THREADS, or every usable CPU whatever the quota."""
    told = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return int(told) if told.isdecimal() and int(told) else usable_cpus()


def checked_threads(threads: int | None) -> int:
    """The number of threads asked for, default_threads() for None.

    Raises InputError for a number that this machine cannot give.
    """
    cpus = usable_cpus()
    threads = default_threads() if threads is None else threads
    if not 1 <= threads <= cpus:
        raise InputError(f"--threads {threads}: expected 1 to {cpus}, the CPUs this process may use")
    return threads


def prepare(threads: int | None) -> int:
    """Give every pool the same number of threads; returns the number, as checked_threads() does."""
    threads = checked_threads(threads)
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)) if "numba" not in sys.modules else {})
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    import torch

    torch.set_num_threads(threads)
    if "numba" in sys.modules:
        most = sys.modules["numba"].config.NUMBA_NUM_THREADS
        if threads > most:  # its pool is made once
            raise InputError(f"--threads {threads}: Numba began with {most} in this process; start a new one")
        sys.modules["numba"].set_num_threads(threads)
    return threads


def tune_kernels(wanted: bool) -> None:
    """Whether numba.auto tries its kernels on a case that it does not know; workers and jobs hear of it too."""
    os.environ[TUNE] = "1" if wanted else ""


def tuning() -> bool:
    return bool(os.environ.get(TUNE))


@contextmanager
def precision(device: str, dtype: str) -> Iterator[None]:
    """On a GPU torch multiplies as a type says meanwhile: float32 is never rounded to TF32 unless that is what is asked
    for, and sums of short types are never kept in them. What a library does by default is none of a comparison's
    conditions.
    """
    if not device.startswith("cuda"):
        yield
        return
    import torch

    matmul, wanted = torch.backends.cuda.matmul, dtype == "tf32"
    switches = (
        (torch.backends.cudnn, "allow_tf32", wanted), (matmul, "allow_tf32", wanted),
        (matmul, "allow_fp16_reduced_precision_reduction", False),
        (matmul, "allow_bf16_reduced_precision_reduction", False),
    )  # fmt: skip
    before = [(where, name, getattr(where, name)) for where, name, _ in switches]
    for where, name, value in switches:
        setattr(where, name, value)
    try:
        yield
    finally:
        for where, name, value in before:
            setattr(where, name, value)


class Conditions:
    """What is the same for all, and what a kernel could change to the harm of those that come after it."""

    def __init__(self) -> None:
        import torch

        one_dnn = torch.backends.mkldnn
        self._switches: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
            "torch's number of threads": (torch.get_num_threads, torch.set_num_threads),
            "torch's default type": (torch.get_default_dtype, torch.set_default_dtype),
            "torch's use of oneDNN": (lambda: one_dnn.enabled, one_dnn.set_flags),
            "torch's precision of float32 products": (
                torch.get_float32_matmul_precision, torch.set_float32_matmul_precision
            ),
            "torch's use of deterministic algorithms": (
                torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms
            ),
            "the working folder": (_working_folder, os.chdir),
        }  # fmt: skip
        if hasattr(os, "sched_getaffinity"):
            self._switches["the CPUs of the process"] = (
                lambda: os.sched_getaffinity(0), lambda cpus: os.sched_setaffinity(0, cpus)
            )  # fmt: skip
        self._before = {name: get() for name, (get, _) in self._switches.items()}

    def restored(self) -> str:
        """What has changed, in words, and is as before again; "" for nothing."""
        changed = []
        for name, (get, put) in self._switches.items():
            if (now := get()) != (before := self._before[name]):
                with suppress(OSError):  # a folder that is gone
                    put(before)
                self._before[name] = get()
                changed.append(f"{name} from {before} to {now}")
        return ", ".join(changed)


def _working_folder() -> str:
    try:
        return os.getcwd()
    except OSError:
        return "one that is gone"


def keep_freed_memory() -> str:
    """Allocator state in words. On glibc freed blocks stay mapped, so that no call pays for page faults.

    Without it, outputs above the mmap threshold are faulted in at every call: one layer measured 7x slower.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return "system default"
    if mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, _KEEP_ALL):
        return "steady: freed memory stays mapped (glibc mallopt)"
    return "system default"


def return_freed_memory() -> None:
    """Give what was kept back to the system, where glibc kept it: layer after layer it would add up to gigabytes."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
