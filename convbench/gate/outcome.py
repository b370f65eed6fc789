"""What a gate found, as plain data: the same for `ab` and `check`, and for every way of showing it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from convbench.errors import EXIT_CHECK_FAILED, EXIT_INCONCLUSIVE, EXIT_OK
from convbench.gate.facts import Cell, Change
from convbench.gate.verdicts import Evidence, Rules, Verdict, delta, judge, percent

WORDS = {EXIT_OK: "pass", EXIT_CHECK_FAILED: "regressed", EXIT_INCONCLUSIVE: "inconclusive"}


class Finding(Struct, frozen=True, kw_only=True):
    """One cell. Ratios are time of head / time of base, above 1 is slower; None where they are unknown.

    allowed  ratio that a slow-down must exceed: 1 + the floor, or the cell's own noise where that is larger
    null     ratio of a side against itself
    """

    cell: Cell
    verdict: Verdict
    reason: str
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    allowed: float | None
    null: float | None
    base_s: float | None = None
    head_s: float | None = None

    def row(self) -> dict[str, Any]:
        """Flat, for a table or JSON."""
        values = msgspec.to_builtins(self)
        return values.pop("cell") | values


class Outcome(Struct, frozen=True, kw_only=True):
    """A finished gate.

    notes  lines to read before believing it
    saved  where the first record of its kind went, with which there was nothing to compare yet
    """

    command: str
    base: str
    head: str
    rules: Rules
    findings: list[Finding]
    changes: list[Change] = []
    notes: list[str] = []
    saved: str = ""

    @property
    def exit_code(self) -> int:
        """1 where anything is slower or a fact changed, 3 where anything is inconclusive or nothing was compared."""
        if self.saved:
            return EXIT_OK
        verdicts = {finding.verdict for finding in self.findings}
        if "SLOWER" in verdicts or any(not change.accepted for change in self.changes):
            return EXIT_CHECK_FAILED
        return EXIT_INCONCLUSIVE if "INCONCLUSIVE" in verdicts or not verdicts else EXIT_OK

    @property
    def word(self) -> str:
        return "saved" if self.saved else WORDS[self.exit_code]

    def count(self, verdict: Verdict) -> int:
        return sum(finding.verdict == verdict for finding in self.findings)

    def summary(self) -> str:
        """One line: regressed: 1 SLOWER, 3 SAME of 4 cells; 1 fact changed."""
        if self.saved:
            return f"no baseline yet, nothing compared: {self.head} is saved as {self.saved}, and passes"
        counts = [f"{n} {v}" for v in ("SLOWER", "INCONCLUSIVE", "FASTER", "SAME") if (n := self.count(v))]  # type: ignore[arg-type]
        changed = sum(not change.accepted for change in self.changes)
        facts = f"; {changed} fact{'s' * (changed > 1)} changed" if changed else ""
        return f"{self.word}: {', '.join(counts) or 'nothing timed'} of {len(self.findings)} cells{facts}"


def findings(
    cells: Sequence[Cell], evidence: Sequence[Evidence], rules: Rules,
    seconds: Mapping[Cell, tuple[float, float]], controls: Collection[str] = (),
) -> list[Finding]:  # fmt: skip
    """A finding for each cell. seconds: typical times of base and head; controls: implementations that cannot move."""
    judged = judge(evidence, rules)
    moved = next(
        (f"control {cell.implementation} moved: {cell}, {percent(e.ratio.value)}"
         for cell, e, (verdict, _) in zip(cells, evidence, judged, strict=True)
         if cell.implementation in controls and verdict in ("SLOWER", "FASTER")), "",
    )  # fmt: skip
    if moved:
        judged = [("INCONCLUSIVE", moved)] * len(judged)
    return [
        _finding(cell, e, verdict, reason, rules, seconds.get(cell, (None, None)))
        for cell, e, (verdict, reason) in zip(cells, evidence, judged, strict=True)
    ]


def _finding(
    cell: Cell, e: Evidence, verdict: Verdict, reason: str, rules: Rules, seconds: tuple[float | None, float | None]
) -> Finding:
    logs = (*e.ratio, delta(e.null, rules), e.null.value)
    ratio, low, high, allowed, null = (math.exp(log) if math.isfinite(log) else None for log in logs)
    return Finding(cell=cell, verdict=verdict, reason=reason, ratio=ratio, ratio_low=low, ratio_high=high,
                   allowed=allowed, null=null, base_s=seconds[0], head_s=seconds[1])  # fmt: skip
