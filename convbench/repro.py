"""A cell of a record again: the same layer, operands, order and policy, on this machine."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from convbench.case import Case
from convbench.compare.environment import facts, matters
from convbench.errors import InputError
from convbench.measure import Policy
from convbench.plan import REFERENCE, Selection
from convbench.records import spec_of
from convbench.results import Record, RecordedRow

_NOT_CONDITIONS = ("settings selection", "settings quick", "settings full", "load")  # of the whole run, not of a cell


@dataclass(frozen=True)
class Recipe:
    """What a record says of the cells chosen: all that is needed to repeat them."""

    cases: list[Case]
    implementations: list[str]  # by name, the reference first
    policy: Policy
    threads: int
    seed: int
    rows: list[RecordedRow]


def recipe(record: Record, path: Path, name: str, selection: Selection) -> Recipe:
    """How to repeat the rows of the layer ``name`` (CASE or SUITE/CASE) that the selection keeps.

    The reference is always among them: ratios are of one run. Raises InputError for a layer that is not there, and
    for a record that does not say how it was measured.
    """
    named = [row for row in record.rows if name in (row.case, f"{row.suite}/{row.case}")]
    if not named:
        raise InputError(f"{path}: no case {name!r}; {_instead(record, name)}")
    others = replace(selection, implementations=())  # the reference stays, whatever --impl says
    kept = [row for row in named if selection.keeps(row) or (row.implementation == REFERENCE and others.keeps(row))]
    kept = [row for row in kept if row.status != "unsupported"]
    if not any(selection.keeps(row) for row in kept):
        raise InputError(f"{path}: case {name!r} has no such cell; leave out --impl, --device, --dtype or --pass")
    settings = record.settings
    try:
        policy = msgspec.convert(settings["policy"], Policy)
        threads, seed = int(settings["threads"]), int(settings.get("seed", 0))
    except (KeyError, TypeError, ValueError, msgspec.ValidationError):
        raise InputError(
            f"{path}: does not say with which threads and policy it was measured; give the run.json of `convbench run`"
        ) from None
    cases = dict.fromkeys(
        Case(spec_of(row), row.pass_, row.dtype, row.device, row.suite, row.case, row.count) for row in kept
    )
    names = dict.fromkeys([REFERENCE, *(row.implementation for row in kept)])
    return Recipe(list(cases), list(names), policy, threads, seed, kept)


def _instead(record: Record, name: str) -> str:
    names = list(dict.fromkeys(row.case for row in record.rows))
    close = difflib.get_close_matches(name.rpartition("/")[2], names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"it has {', '.join(names[:5])}{' ...' if names[5:] else ''}"


def pairs(recipe: Recipe, now: Sequence[RecordedRow]) -> list[tuple[RecordedRow, RecordedRow | None]]:
    """Each row of the record with what it is now; None for an implementation that is not here any more."""

    def key(row: RecordedRow) -> tuple[str, ...]:
        return row.suite, row.case, row.pass_, row.dtype, row.device, row.implementation

    found = {key(row): row for row in now}
    return [(row, found.get(key(row))) for row in recipe.rows]


def changes(then: Record, now: Record) -> list[tuple[str, Any, Any]]:
    """(what, then, now) of everything recorded that can change a result and is not the same."""
    before, after = facts(then), facts(now)
    names = [name for name in dict.fromkeys((*before, *after)) if matters(name) and before.get(name) != after.get(name)]
    return [(name, before.get(name), after.get(name)) for name in names if not name.startswith(_NOT_CONDITIONS)]
