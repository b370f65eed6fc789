"""Finds implementations and probes: the entry-point groups are the only door, for ours and others'."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from convbench.case import Case
from convbench.errors import STRANGERS_ERRORS, InputError
from convbench.plugin import Implementation, Probe, Unavailable
from convbench.results import Status
from convbench.spec import PASSES, ConvSpec
from convbench.trial import ending
from convbench.untrusted import failure, one_line, shortened

OWN = "convbench"  # the distribution
KERNELS_GROUP = "convbench.kernels"
PROBES_GROUP = "convbench.probes"
REFERENCE = "torch.aten"  # torch.nn.functional
CHANNELS_LAST = "torch.channels_last"  # the same on tensors in that format


class Broken(str):
    """An answer of supports() that is no reason but a fault of the plug-in; status is that of the row that says so."""

    status: Status

    def __new__(cls, text: str, status: Status = "error") -> Broken:
        """A text with a status."""
        found = super().__new__(cls, text)
        found.status = status
        return found


@dataclass(frozen=True)
class Registry:
    """What is installed: implementations by name, and families that could not be loaded, with the reason."""

    implementations: dict[str, Implementation] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)
    strangers: set[str] = field(default_factory=set)  # families that another distribution brings

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


def collect(points: Iterable[EntryPoint], try_strangers: bool = False) -> Registry:
    """Load each entry point; one that fails is recorded as unavailable and the rest still count.

    try_strangers  what other distributions bring is loaded in a copy of this process first, as it may end it
    """
    registry = Registry()
    for point in sorted(points, key=lambda p: (p.name != "torch", p.name)):  # the reference's family first
        if _strange(point):
            registry.strangers.add(point.name)
            if try_strangers and (end := ending(lambda p=point: _try_out(p))):  # type: ignore[misc]
                registry.unavailable[point.name] = f"{point.value} {end} when it was tried"
                continue
        try:
            for implementation in _load(point)():
                _add(registry, point, implementation)
        except STRANGERS_ERRORS as error:
            registry.unavailable[point.name] = _reason(point, error)
    return registry


def _strange(point: EntryPoint) -> bool:
    return point.dist is None or point.dist.name != OWN


def _try_out(point: EntryPoint) -> None:
    """Load a plug-in and ask each implementation for an ordinary case, as this process will."""
    spec = ConvSpec.create([1, 4, 9, 9], 4, 3)
    for implementation in list(_load(point)()):
        for pass_ in PASSES:
            _answering(implementation.supports)(Case(spec, pass_))


def _load(point: EntryPoint) -> Callable[[], Iterable[Any]]:
    return point.load()


def _add(registry: Registry, point: EntryPoint, implementation: Any) -> None:
    if not isinstance(implementation, Implementation):
        raise TypeError(f"implementations() gave {type(implementation).__name__}, expected Implementation")
    if not re.fullmatch(rf"{re.escape(point.name)}(\.[\w-]{{1,60}}){{1,3}}", str(implementation.name)):
        named = shortened(repr(implementation.name))
        raise ValueError(f"an implementation is named {named}, expected {point.name}.algorithm")
    if implementation.name in registry.implementations:
        raise ValueError(f"the name {implementation.name!r} is already taken")
    registry.implementations[implementation.name] = replace(
        implementation, supports=_answering(implementation.supports)
    )


def _answering(supports: Callable[[Any], Any]) -> Callable[[Any], str]:
    """supports() that always answers: where it fails, with what went wrong."""

    def answer(case: Any) -> str:
        try:
            reason = supports(case)
            if isinstance(reason, str):
                return one_line(str(reason))
            return Broken(one_line(f"supports() gave {reason!r}, expected '' or the reason"))
        except STRANGERS_ERRORS as error:
            status, detail = failure(error)
            return Broken(f"supports() failed: {detail}", status)

    return answer


def _reason(point: EntryPoint, error: BaseException) -> str:
    if isinstance(error, Unavailable):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and error.name and not point.value.startswith(error.name):
        return f"{error.name} is not installed"
    text = " ".join(str(error).split()) or "no message"
    return f"{point.value} failed to load: {type(error).__name__}: {text}"


def families(names: Iterable[str]) -> Registry:
    """What is installed of these families only: a process that needs no more starts sooner."""
    wanted = set(names)
    return collect(point for point in entry_points(group=KERNELS_GROUP) if point.name in wanted)


@cache
def registry() -> Registry:
    """Everything installed. Imports torch and the kernel packages: call it inside a command."""
    return collect(entry_points(group=KERNELS_GROUP), try_strangers=True)


@cache
def probes() -> tuple[Probe, ...]:
    """Every machine probe installed; a package that cannot be loaded offers none."""
    found: list[Probe] = []
    for point in entry_points(group=PROBES_GROUP):
        if _strange(point) and ending(lambda p=point: _load(p)()):  # type: ignore[misc]
            continue
        try:
            found += _load(point)()
        except STRANGERS_ERRORS:
            continue
    return tuple(found)
