"""How quiet the machine was: two snapshots around a run become warnings with advice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

STEAL = 0.01  # share of CPU time taken by the hypervisor for others
FOREIGN_LOAD = 0.25  # CPUs busy before the run began
SWAP_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Snapshot:
    """Counters of one moment. Times are CPU seconds since boot; None where the system does not tell."""

    load_1min: float | None = None
    cpus: int = 1
    steal_s: float | None = None
    all_s: float | None = None
    swapped_in_bytes: int | None = None
    governor: str | None = None


def snapshot() -> Snapshot:
    """The counters now. What cannot be read is None."""
    import psutil

    from convbench.machine.environment import _cpu
    from convbench.process import usable_cpus

    times = psutil.cpu_times()
    values: dict[str, Any] = {"cpus": usable_cpus(), "steal_s": getattr(times, "steal", None), "all_s": sum(times)}
    try:
        values["load_1min"] = psutil.getloadavg()[0]
        values["swapped_in_bytes"] = psutil.swap_memory().sin
    except OSError:
        pass
    from pathlib import Path

    return Snapshot(**values, governor=_cpu(Path("/")).get("governor"))


def warnings(before: Snapshot, after: Snapshot) -> list[str]:
    """One line for each thing that disturbs measurements, with what to do about it."""
    found = []
    if before.load_1min is not None and before.load_1min > FOREIGN_LOAD * before.cpus:
        found.append(
            f"load average was {before.load_1min:.1f} on {before.cpus} CPUs before the run: stop other programs first"
        )
    if None not in (before.steal_s, after.steal_s, before.all_s, after.all_s) and after.all_s > before.all_s:  # type: ignore[operator]
        stolen = (after.steal_s - before.steal_s) / (after.all_s - before.all_s)  # type: ignore[operator]
        if stolen > STEAL:
            found.append(
                f"{stolen:.0%} of CPU time went to other guests of this host: believe ratios, not seconds, or use a "
                "dedicated machine"
            )
    swapped = (after.swapped_in_bytes or 0) - (before.swapped_in_bytes or 0)
    if swapped > SWAP_BYTES:
        found.append(f"{swapped >> 20} MiB were swapped in during the run: free memory or choose smaller layers")
    if after.governor and after.governor not in ("performance", "schedutil"):
        found.append(f"CPU governor is {after.governor}: set it to performance for steadier clocks")
    return found
