"""Four verdicts, and when each may be given.

SLOWER and FASTER are proved: the ratio exceeds 1 + delta, at a level that holds for the whole gate (Holm). SAME is
proved too: the ratio's interval lies within twice the floor either way, and so does that of a side against itself,
which has not moved. Whatever is neither is INCONCLUSIVE, which is not a pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta, Struct

from convbench.gate.statistics import Estimate, holm

Verdict = Literal["FASTER", "SLOWER", "SAME", "INCONCLUSIVE"]

DEDICATED_FLOOR, SHARED_FLOOR = 0.05, 0.10
RESOLUTION = 2  # times the floor: a change of this size must not go unnoticed
SUSPICIOUS = 0.5  # of the floor: a median beyond it is looked at again


class Rules(Struct, frozen=True):
    """What counts as a change.

    floor  smallest slow-down worth failing for, e.g. 0.10
    alpha  chance that a gate accuses anything innocent
    """

    floor: Annotated[float, Meta(gt=0, lt=10)] = SHARED_FLOOR
    alpha: Annotated[float, Meta(gt=0, lt=1)] = 0.05

    @property
    def log_floor(self) -> float:
        return math.log1p(self.floor)

    @property
    def log_resolution(self) -> float:
        return math.log1p(RESOLUTION * self.floor)


@dataclass(frozen=True)
class Evidence:
    """What is known of one cell. Logarithms of head time / base time.

    ratio     estimate with its interval
    null      the same of a side against itself
    p_slower  p-value of "no slower than 1 + delta"; 1 where it was not tested
    p_faster  the same for 1 / (1 + delta)
    problem   why nothing may be concluded, or ""
    """

    ratio: Estimate
    null: Estimate
    p_slower: float = 1.0
    p_faster: float = 1.0
    problem: str = ""


def delta(null: Estimate, rules: Rules) -> float:
    """Log ratio that a change must exceed: the floor, or the cell's own noise where that is larger.

    The noise is how far the interval of a side against itself reaches: with 10 pairs about three standard deviations of
    the median, so that noise alone goes beyond it less than once in a hundred gates.
    """
    return max(rules.log_floor, null.reach)


def moved(null: Estimate, rules: Rules) -> bool:
    """Whether a side against itself has moved, or may have by as much as a change that must not go unnoticed."""
    one_sided = null.low > 0 or null.high < 0
    return null.reach > rules.log_resolution or (one_sided and abs(null.value) > SUSPICIOUS * rules.log_floor)


def percent(log_ratio: float) -> str:
    """A log ratio as a change: +12.3%."""
    return f"{math.expm1(log_ratio):+.1%}" if math.isfinite(log_ratio) else "unknown"


def spread(e: Estimate) -> str:
    """An estimate as a change with its interval."""
    return f"{percent(e.value)} [{percent(e.low)}, {percent(e.high)}]"


def judge(evidence: Sequence[Evidence], rules: Rules) -> list[tuple[Verdict, str]]:
    """Verdict and reason of every cell of a gate, in order."""
    slower = holm([e.p_slower for e in evidence])
    faster = holm([e.p_faster for e in evidence])
    return [_judge(e, s, f, rules) for e, s, f in zip(evidence, slower, faster, strict=True)]


def _judge(e: Evidence, p_slower: float, p_faster: float, rules: Rules) -> tuple[Verdict, str]:
    margin = delta(e.null, rules)
    if p_slower <= rules.alpha:
        return "SLOWER", f"{percent(e.ratio.value)} where {percent(margin)} is allowed, p = {p_slower:.2g}"
    if p_faster <= rules.alpha:
        return "FASTER", f"{percent(e.ratio.value)}, p = {p_faster:.2g}"
    if e.problem:
        return "INCONCLUSIVE", e.problem
    if moved(e.null, rules):
        return "INCONCLUSIVE", f"a side against itself moved: {spread(e.null)}; use a quieter machine"
    if abs(e.ratio.value) > margin or e.ratio.reach > rules.log_resolution:
        return "INCONCLUSIVE", f"{spread(e.ratio)} is neither proved nor ruled out"
    return "SAME", ""
