"""Which implementations a user wants, as one line of text: an operator's argument can be text, not an object.

numba.auto                                   every convolution
triton.auto,numba.auto                       the first that supports the case
depthwise=numba.auto forward=torch.aten      by kind or pass, the first entry that fits
strict numba.auto                            refuse instead of falling back to torch
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import get_args

from convbench.case import Case
from convbench.errors import InputError
from convbench.plugin import Implementation
from convbench.registry import registry
from convbench.spec import Kind, Pass

Names = str | Sequence[str]
Wanted = Names | Mapping[str, Names]

STRICT, ANY = "strict", "*"
KEYS = (*get_args(Kind), *get_args(Pass), ANY)


@dataclass(frozen=True)
class Choice:
    """What was asked for: names by kind, pass or ANY, in order; strict refuses what none of them supports."""

    entries: tuple[tuple[str, tuple[str, ...]], ...]
    strict: bool

    def names(self, case: Case) -> tuple[str, ...]:
        """Implementations for a case, the preferred one first; none where no entry fits."""
        fits = (case.spec.kind, case.pass_, ANY)
        return next((names for key, names in self.entries if key in fits), ())

    def pick(self, case: Case) -> tuple[Implementation | None, str]:
        """The first implementation that supports the case, or None and the reasons why none does."""
        names = self.names(case)
        reasons = {}
        for name in names:
            implementation = registry().implementations[name]
            reasons[name] = implementation.supports(case)
            if not reasons[name]:
                return implementation, ""
        if not names:
            return None, f"no implementation was named for {case.spec.kind} {case.pass_}"
        return None, "; ".join(f"{name}: {reason}" for name, reason in reasons.items())


def encode(wanted: Wanted, strict: bool = False) -> str:
    """The text of a choice.

    Raises InputError for an implementation that is not installed, and for a key that is no kind or pass.
    """
    entries = wanted if isinstance(wanted, Mapping) else {ANY: wanted}
    parts = [STRICT] * strict
    for key, names in entries.items():
        if key not in KEYS:
            raise InputError(f"use_kernels: {key!r} is no kind or pass; expected one of {', '.join(KEYS)}")
        listed = [names] if isinstance(names, str) else list(names)
        parts.append(f"{key}={','.join(map(_checked, listed))}")
    return " ".join(parts)


@cache
def decode(text: str) -> Choice:
    """encode() backwards."""
    words = text.split(" ")
    strict = words[0] == STRICT
    entries = (word.split("=") for word in words[strict:])
    return Choice(tuple((key, tuple(names.split(","))) for key, names in entries), strict)


def _checked(name: str) -> str:
    if name not in registry().implementations:
        found = registry().select([name])  # raises for a name that nothing answers to
        raise InputError(f"implementation {name!r}: expected one, such as {found[0].name!r}, not a family")
    return name
