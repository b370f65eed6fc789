"""How quiet the machine was: two snapshots around a run become warnings with advice.

Times are counters of CPU seconds, over the CPUs this process may use; what this process used itself is
subtracted, so that only others are blamed.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STEAL = 0.01  # share of CPU time that the hypervisor gave to other guests
FOREIGN_CPUS, FOREIGN_SHARE = 0.10, 0.01  # CPUs, and share of them, that others kept busy on average during the run
CLOCK_FALL = 0.10  # the clock after the run against the clock before it, both under load
SWAP_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Snapshot:
    """One moment. None, or an empty tuple, where the system does not tell.

    steal_s, busy_s, all_s  CPU seconds since boot: taken by other guests, spent on any program, everything
    own_s                   CPU seconds of this process and its children
    threads_s               of them, of Python's other threads: what somebody has left running in this process
    throttled               times the CPU limit or the temperature has stopped us so far
    """

    cpus: int = 1
    steal_s: float | None = None
    busy_s: float | None = None
    all_s: float | None = None
    own_s: float = 0.0
    threads_s: float | None = None
    swapped_in_bytes: int | None = None
    governor: str | None = None
    mhz: float | None = None
    quota_cpus: float | None = None
    quota_throttled: int | None = None
    heat_throttled: int | None = None
    gpu_throttled: tuple[str, ...] = ()


def snapshot(root: Path = Path("/")) -> Snapshot:
    """The counters now; takes a few milliseconds."""
    from convbench.machine import cgroup, gpu
    from convbench.process import usable_cpus

    readers: dict[str, Callable[[], Any]] = {
        "own_s": _own_s,
        "threads_s": _threads_s,
        "swapped_in_bytes": _swapped_in,
        "governor": lambda: (root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").read_text().strip(),
        "mhz": _mhz,
        "quota_cpus": lambda: cgroup.quota_cpus(root),
        "quota_throttled": lambda: cgroup.throttled(root),
        "heat_throttled": lambda: _heat_throttled(root),
        "gpu_throttled": gpu.throttle_reasons,
    }
    values: dict[str, Any] = {"cpus": usable_cpus()}
    for name, read in {**readers, "times": _cpu_times}.items():
        try:
            value = read()
        except Exception:  # a file or a counter that this system lacks
            continue
        values |= value if name == "times" else {name: value}
    return Snapshot(**values)


def _cpu_times() -> dict[str, float]:
    """Counters summed over the usable CPUs."""
    import psutil

    every = psutil.cpu_times(percpu=True)
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(len(every))
    times = [every[cpu] for cpu in usable]
    steal = sum(getattr(t, "steal", 0.0) for t in times)
    idle = sum(t.idle + getattr(t, "iowait", 0.0) for t in times)
    # guest and guest_nice are already in user and nice
    total = sum(sum(t) - getattr(t, "guest", 0.0) - getattr(t, "guest_nice", 0.0) for t in times)
    return {"steal_s": steal, "busy_s": total - idle - steal, "all_s": total}


def _own_s() -> float:
    """This process, its finished children, and those at work (compilers)."""
    import psutil

    total = sum(os.times()[:4])
    for child in psutil.Process().children(recursive=True):
        try:
            total += sum(child.cpu_times()[:4])
        except psutil.Error:  # ended meanwhile
            continue
    return total


def _threads_s() -> float:
    """Python's threads but this one; those of OpenMP are not among them."""
    import psutil

    others = {thread.native_id for thread in threading.enumerate() if thread is not threading.current_thread()}
    return sum(t.user_time + t.system_time for t in psutil.Process().threads() if t.id in others)


def _swapped_in() -> int:
    import psutil

    return psutil.swap_memory().sin


def _mhz() -> float:
    import psutil

    return psutil.cpu_freq().current


def _heat_throttled(root: Path) -> int | None:
    """Thermal events of all CPUs; only Intel's drivers count them."""
    files = list((root / "sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/core_throttle_count"))
    return sum(int(path.read_text()) for path in files) if files else None


def warnings(before: Snapshot, after: Snapshot) -> list[str]:
    """One line for each thing that disturbs measurements, with what to do about it."""
    checks = (_others, _threads, _steal, _quota, _heat, _clock, _governor, _swap, _gpu)
    return [text for check in checks if (text := check(before, after))]


def disturbances(before: Snapshot, after: Snapshot, foreign: float, steal: float) -> list[str]:
    """What went on between two moments beside us, one line each.

    foreign, steal  CPUs that others may keep busy, and share of CPU time that other guests may take
    """
    found = [text for check in (_quota, _heat, _swap) if (text := check(before, after))]
    if (cpus := foreign_cpus(before, after)) > foreign:
        found.insert(0, f"other programs kept {cpus:.1f} CPUs busy")
    if (share := stolen(before, after)) > steal:
        found.insert(0, f"{share:.0%} of CPU time went to other guests of this host")
    return found


def foreign_cpus(before: Snapshot, after: Snapshot) -> float:
    """CPUs that other programs kept busy on average."""
    elapsed = _rise(before.all_s, after.all_s) / max(after.cpus, 1)
    foreign = _rise(before.busy_s, after.busy_s) - _rise(before.own_s, after.own_s)
    return foreign / elapsed if elapsed else 0.0


def stolen(before: Snapshot, after: Snapshot) -> float:
    """Share of CPU time that went to other guests of this host."""
    elapsed = _rise(before.all_s, after.all_s)
    return _rise(before.steal_s, after.steal_s) / elapsed if elapsed else 0.0


def _rise(before: Any, after: Any) -> float:
    """How much a counter rose; 0 where it is unknown."""
    return 0 if before is None or after is None else max(after - before, 0)


def _others(before: Snapshot, after: Snapshot) -> str | None:
    foreign = foreign_cpus(before, after)
    if foreign <= max(FOREIGN_CPUS, FOREIGN_SHARE * after.cpus):
        return None
    return (
        f"other programs kept {foreign:.1f} of {after.cpus} CPUs busy during the run: stop them, or measure "
        "with fewer --threads"
    )


def _threads(before: Snapshot, after: Snapshot) -> str | None:
    elapsed = _rise(before.all_s, after.all_s) / max(after.cpus, 1)
    busy = _rise(before.threads_s, after.threads_s) / elapsed if elapsed else 0.0
    if busy <= FOREIGN_CPUS:
        return None
    return f"other threads of this process kept {busy:.1f} CPUs busy during the run: end them, or measure in a new one"


def _steal(before: Snapshot, after: Snapshot) -> str | None:
    share = stolen(before, after)
    if share <= STEAL:
        return None
    return (
        f"{share:.0%} of CPU time went to other guests of this host: believe ratios, not seconds, or use a dedicated "
        "machine"
    )


def _quota(before: Snapshot, after: Snapshot) -> str | None:
    times = _rise(before.quota_throttled, after.quota_throttled)
    if not times:
        return None
    limit = f" of {after.quota_cpus:g} CPUs" if after.quota_cpus else ""
    fitting = max(int(after.quota_cpus or 1), 1)
    return f"the container's limit{limit} stopped this run {times} times: measure with --threads {fitting}, or raise it"


def _heat(before: Snapshot, after: Snapshot) -> str | None:
    times = _rise(before.heat_throttled, after.heat_throttled)
    return f"the CPU throttled {times} times because of heat: cool it, or pause between runs" if times else None


def _clock(before: Snapshot, after: Snapshot) -> str | None:
    if not before.mhz or not after.mhz or after.mhz >= (1 - CLOCK_FALL) * before.mhz:
        return None
    return f"the CPU clock fell from {before.mhz:.0f} to {after.mhz:.0f} MHz: fix the clock, or compare ratios only"


def _governor(before: Snapshot, after: Snapshot) -> str | None:
    if after.governor in (None, "", "performance"):
        return None
    return f"CPU governor is {after.governor}: `cpupower frequency-set -g performance` gives steadier clocks"


def _swap(before: Snapshot, after: Snapshot) -> str | None:
    swapped = _rise(before.swapped_in_bytes, after.swapped_in_bytes)
    if swapped <= SWAP_BYTES:
        return None
    return f"{int(swapped) >> 20} MiB were swapped in during the run: free memory or choose smaller layers"


def _gpu(before: Snapshot, after: Snapshot) -> str | None:
    reasons = sorted({*before.gpu_throttled, *after.gpu_throttled})
    return f"the GPU runs below its clock ({', '.join(reasons)}): cool it, or compare ratios only" if reasons else None
