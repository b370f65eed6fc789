"""What the container may use: CPU and memory limits of control groups, version 2 or 1.

A limit may sit at any level above the process, and inside a container the mounted root may already be that level:
all levels are read and the tightest limit counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

UNLIMITED_BYTES = 2**60  # version 1 writes a huge number for no limit


def quota_cpus(root: Path = Path("/")) -> float | None:
    """CPUs worth of time that the process may use; None without a limit."""
    shares = []
    for text in _read(root, "", "cpu.max"):
        quota, _, period = text.partition(" ")
        shares.append((quota, period))
    for quota, period in zip(
        _read(root, "cpu", "cpu.cfs_quota_us"), _read(root, "cpu", "cpu.cfs_period_us"), strict=False
    ):
        shares.append((quota, period))
    return min((int(q) / int(p) for q, p in shares if q.isdigit() and p.isdigit() and int(p)), default=None)


def memory_limit_bytes(root: Path = Path("/")) -> int | None:
    """Bytes that the process may use; None without a limit."""
    texts = [*_read(root, "", "memory.max"), *_read(root, "memory", "memory.limit_in_bytes")]
    return min((int(t) for t in texts if t.isdigit() and int(t) < UNLIMITED_BYTES), default=None)


def throttled(root: Path = Path("/")) -> int | None:
    """How often the CPU limit has stopped the process's groups so far."""
    counts = [
        int(match[1])
        for controller in ("", "cpu")
        for text in _read(root, controller, "cpu.stat")
        if (match := re.search(r"^nr_throttled (\d+)$", text, re.MULTILINE))
    ]
    return max(counts, default=None)


def _read(root: Path, controller: str, name: str) -> Iterator[str]:
    """The file's text in every group from the process's own up to the root; controller "" means version 2."""
    mounts = (
        [root / "sys/fs/cgroup" / controller]
        if controller
        else [root / "sys/fs/cgroup", root / "sys/fs/cgroup/unified"]
    )
    for mount in mounts:
        for group in _groups(root, controller):
            try:
                yield (mount / group.lstrip("/") / name).read_text().strip()
            except (OSError, UnicodeDecodeError):
                continue


def _groups(root: Path, controller: str) -> list[str]:
    """The process's group and those above it, from lines such as 0::/a/b or 4:cpu,cpuacct:/a/b."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return ["/"]
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller in controllers.split(",") and ".." not in path:
            return [str(p) for p in (PurePosixPath(path), *PurePosixPath(path).parents)]
    return ["/"]
