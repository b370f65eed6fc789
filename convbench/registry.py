"""Finds implementations and probes: the entry-point groups are the only door, for ours and others'."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from convbench.errors import InputError
from convbench.plugin import Implementation, Probe

KERNELS_GROUP = "convbench.kernels"
PROBES_GROUP = "convbench.probes"


@dataclass(frozen=True)
class Registry:
    """What is installed: implementations by name, and families that could not be loaded, with the reason."""

    implementations: dict[str, Implementation] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)

    def select(self, names: Iterable[str]) -> list[Implementation]:
        """Implementations by name or family (``numba``); all of them for no name.

        Raises InputError for a name that nothing answers to.
        """
        wanted = list(names)
        if not wanted:
            return list(self.implementations.values())
        chosen: dict[str, Implementation] = {}
        for name in wanted:
            found = {key: i for key, i in self.implementations.items() if name in (key, i.family)}
            if not found:
                raise InputError(self._unknown(name))
            chosen |= found
        return list(chosen.values())

    def _unknown(self, name: str) -> str:
        family = name.split(".", 1)[0]
        if family in self.unavailable:
            return f"implementation {name!r} is unavailable: {self.unavailable[family]}"
        import difflib

        close = difflib.get_close_matches(name, self.implementations, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        return f"implementation {name!r} is not registered; {hint}`convbench list` shows what is"


def collect(points: Iterable[EntryPoint]) -> Registry:
    """Load each entry point; one that fails is recorded as unavailable and the rest still count."""
    registry = Registry()
    for point in sorted(points, key=lambda p: (p.name != "torch", p.name)):  # the reference's family first
        try:
            for implementation in _load(point)():
                _add(registry, point, implementation)
        except (Exception, SystemExit) as error:  # a stranger's code: whatever it does, the rest still runs
            registry.unavailable[point.name] = _reason(point, error)
    return registry


def _load(point: EntryPoint) -> Callable[[], Iterable[Any]]:
    return point.load()


def _add(registry: Registry, point: EntryPoint, implementation: Any) -> None:
    if not isinstance(implementation, Implementation):
        raise TypeError(f"implementations() gave {type(implementation).__name__}, expected Implementation")
    if implementation.name in registry.implementations:
        raise ValueError(f"the name {implementation.name!r} is already taken")
    registry.implementations[implementation.name] = implementation


def _reason(point: EntryPoint, error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name and not point.value.startswith(error.name):
        return f"{error.name} is not installed"
    text = " ".join(str(error).split()) or "no message"
    return f"{point.value} failed to load: {type(error).__name__}: {text}"


@cache
def registry() -> Registry:
    """Everything installed. Imports torch and the kernel packages: call it inside a command."""
    return collect(entry_points(group=KERNELS_GROUP))


@cache
def probes() -> tuple[Probe, ...]:
    """Every machine probe installed; a package that cannot be loaded offers none."""
    found: list[Probe] = []
    for point in entry_points(group=PROBES_GROUP):
        try:
            found += _load(point)()
        except Exception:  # a stranger's code: whatever it raises, the rest still runs
            continue
    return tuple(found)
