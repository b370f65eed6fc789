"""What differs between the machines and software of several records, and what that means for the comparison."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Protocol

from convbench.results import Environment
from convbench.untrusted import shortened

SECTIONS = ("cpu", "memory", "gpu", "system", "versions", "variables", "load")

# What can change a time, by name, the gravest first, and what a reader should make of it.
MATTERS: dict[str, str] = {
    "settings threads": "unequal shares of the machines: read the share of the roof, or run with equal --threads",
    "versions cpu_capability": "torch's kernels use other vector widths (ATEN_CPU_CAPABILITY, ONEDNN_MAX_CPU_ISA)",
    "cpu model": "another processor",
    "cpu isa": "other instruction sets",
    "cpu c*": "another number of CPUs or other caches",
    "gpu *": "another GPU, driver or clock",
    "cpu governor": "clocks follow another policy: set both to performance",
    "memory total_bytes": "",
    "system virtual_machine": "a virtual machine shares its host",
    "system container": "",
    "system flush_denormal": "denormal numbers are slow where they are kept",
    "system float32_matmul_precision": "float32 products may be rounded to TF32 or bfloat16",
    "system cudnn_benchmark": "cuDNN chooses its algorithms differently",
    "system kernel": "",
    "system python": "",
    "versions torch": "torch's kernels may have changed",
    "versions onednn": "torch's convolutions on the CPU may have changed",
    "versions cud*": "torch's convolutions on the GPU may have changed",
    "versions numba": "compiled kernels may have changed",
    "versions *": "",
    "settings allocator": "outputs are allocated in another way: page faults count on one side only",
    "settings isolated": "kernels ran in a worker process on one side only",
    "settings policy *": "sampled to another precision",
    "settings tune": "numba.auto tried its kernels on one side only",
    "variables *": "",
    "convbench_version": "kernels and measuring may have changed",
    "git_revision": "kernels and measuring may have changed",
}
# What differs between any two runs.
IGNORED = ("load *", "memory available_bytes", "cpu mhz_now", "settings selection *", "settings seed", "settings quick",
           "settings full", "versions convbench", "system thread_pools *", "gpu *temperature*", "gpu *clock_now*",
           "gpu *used*", "gpu *power*")  # fmt: skip
MOST_FACTS = 10_000  # of one record: each is held against every name above


class Recorded(Protocol):
    """What a record says of where and how it came to be: a run's, or a profile's."""

    environment: Environment
    settings: dict[str, Any]
    convbench_version: str


@dataclass(frozen=True)
class Difference:
    """One fact that is not the same on all sides that know it."""

    name: str
    why: str
    values: list[Any]  # one for each side; None where it was not recorded


def facts(record: Recorded) -> dict[str, Any]:
    """All that was recorded about the machine and the settings, flat: "cpu caches L1 bytes" -> 32768."""
    flat: dict[str, Any] = {}
    for name in SECTIONS:
        flatten(name, getattr(record.environment, name), flat)
    flatten("settings", record.settings, flat)
    flatten("convbench_version", record.convbench_version, flat)
    flatten("git_revision", record.environment.git_revision, flat)
    return flat


def flatten(name: str, value: Any, flat: dict[str, Any]) -> None:
    """Add a value to ``flat``, what is inside it under its own name; what is empty, or one too many, is left out."""
    if isinstance(value, dict):
        for key, item in value.items():
            flatten(shortened(f"{name} {key}"), item, flat)
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for i, item in enumerate(value):
            flatten(f"{name} {i}", item, flat)
    elif value not in (None, "", []) and len(flat) < MOST_FACTS:
        flat[name] = value


def differences(records: Iterable[Recorded]) -> list[Difference]:
    """Facts that two records disagree on, the gravest first."""
    known = [facts(record) for record in records]
    found = []
    for name in dict.fromkeys(name for each in known for name in each):
        values = [each.get(name) for each in known]
        told = [value for value in values if value is not None]
        if any(value != told[0] for value in told[1:]) and not _matches(name, IGNORED):
            found.append(Difference(name, MATTERS.get(_pattern(name), ""), values))
    order = [*MATTERS, ""]
    return sorted(found, key=lambda difference: order.index(_pattern(difference.name)))


def matters(name: str) -> bool:
    """Whether a fact can change a result."""
    return bool(_pattern(name)) and not _matches(name, IGNORED)


def _pattern(name: str) -> str:
    return next((pattern for pattern in MATTERS if fnmatchcase(name, pattern)), "")


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
