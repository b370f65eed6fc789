"""Which implementations a user wants, as one line of text: an operator's argument can be text, not an object.

numba.auto                                   every convolution
triton.auto,numba.auto                       the first that supports the case
depthwise=numba.auto forward=torch.aten      by kind or pass, the first entry that fits
conv2d_1x8x9x9_k8_3x3_s1_p1_d1_g1=torch.aten by layer, and by layer and pass (.._g1_forward)
strict numba.auto                            refuse instead of falling back to torch
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import get_args

from convbench.case import Case
from convbench.errors import InputError
from convbench.plugin import Implementation
from convbench.registry import registry
from convbench.spec import ConvSpec, Kind, Pass

Names = str | Sequence[str]
Wanted = Names | Mapping[str, Names]

_LAYER = re.compile(rf"conv(2d|_transpose2d)( \w+)+?( bias)?( ({'|'.join(get_args(Pass))}))?")
STRICT, ANY = "strict", "*"
KEYS = (*get_args(Kind), *get_args(Pass), ANY)


@dataclass(frozen=True)
class Choice:
    """What was asked for: names by layer, kind, pass or ANY, in order; strict refuses what none of them supports."""

    entries: tuple[tuple[str, tuple[str, ...]], ...]
    strict: bool

    def names(self, case: Case) -> tuple[str, ...]:
        """Implementations for a case, the preferred one first; none where no entry fits."""
        layer = layer_key(case.spec)
        fits = (*map(_word, (layer, f"{layer} {case.pass_}")), case.spec.kind, case.pass_, ANY)
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

    Raises InputError for an implementation that is not installed, and for a key that is no layer, kind or pass.
    """
    entries = wanted if isinstance(wanted, Mapping) else {ANY: wanted}
    parts = [STRICT] * strict
    for key, names in entries.items():
        if key not in KEYS and not _LAYER.fullmatch(key):
            raise InputError(
                f"use_kernels: {key!r} is no layer, kind or pass; expected one of {', '.join(KEYS)}, or a layer as the "
                "report prints it"
            )
        listed = [names] if isinstance(names, str) else list(names)
        parts.append(f"{_word(key)}={','.join(map(_checked, listed))}")
    return " ".join(parts)


def layer_key(spec: ConvSpec) -> str:
    """The key of a layer: its shape as ConvSpec prints it, with or without a bias alike."""
    return str(replace(spec, bias=False))


def _word(key: str) -> str:
    """A key in the text of a choice, where blanks separate entries."""
    return key.removesuffix(" bias").replace(" ", "_")


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
