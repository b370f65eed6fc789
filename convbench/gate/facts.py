"""What must not change at all, compared exactly: one list of facts for every command that gates."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from msgspec import Struct

from convbench.case import DType
from convbench.results import cell_name
from convbench.spec import Pass

FACTS = ("status", "algorithm", "error", "params", "macs", "bytes")
ERROR_GROWTH = 2.0  # the last bits of an error may differ between processors and libraries; its size may not
MISSING = "missing"


class Cell(Struct, frozen=True, order=True, kw_only=True, rename={"pass_": "pass"}):
    """Identity of what is timed, equal in both sides."""

    suite: str
    case: str
    pass_: Pass
    dtype: DType
    device: str
    implementation: str

    def __str__(self) -> str:
        return cell_name(self)


class Change(Struct, frozen=True, kw_only=True):
    """A fact of a cell that differs; accepted where the user said that it may."""

    cell: Cell
    fact: str
    base: Any
    head: Any
    accepted: bool = False

    def __str__(self) -> str:
        return f"{self.cell}: {self.fact} was {self.base}, now {self.head}"


Facts = Mapping[Cell, Mapping[str, Any]]  # cell -> fact -> value


def changes(base: Facts, head: Facts, accepted: Collection[str] = ()) -> list[Change]:
    """Every fact that differs on a cell of base. A cell that only head has is news, not a change."""
    return [
        Change(cell=cell, fact=fact, base=was, head=now, accepted=fact in accepted)
        for cell, before in base.items()
        for fact, was, now in _differences(before, head.get(cell))
    ]


def _differences(before: Mapping[str, Any], after: Mapping[str, Any] | None) -> list[tuple[str, Any, Any]]:
    """A cell that is not computed any more has no other facts; one that could not be computed has none to lose."""
    was, now = before["status"], after["status"] if after else MISSING
    if was != "ok":
        return []
    if after is None or now != "ok":
        return [("status", was, now)]
    return [
        (fact, before.get(fact), after.get(fact))
        for fact in FACTS if _differs(fact, before.get(fact), after.get(fact))
    ]  # fmt: skip


def _differs(fact: str, was: Any, now: Any) -> bool:
    if fact == "error" and was is not None and now is not None:
        return bool(now > ERROR_GROWTH * was)
    return bool(was != now)


def facts(row: Mapping[str, Any]) -> tuple[Cell, dict[str, Any]]:
    """Cell and facts of one row of a record or of a --json document."""
    identity = {name: row[name] for name in ("suite", "case", "dtype", "device", "implementation")}
    return Cell(pass_=row["pass"], **identity), {name: row.get(name) for name in FACTS}
