"""Which pairs to take next, and what those taken prove: functions of the pairs alone, so a resumed gate decides alike.

Screen: 4 pairs of every cell, 6 where 4 leave one open. What is still open then is confirmed on new pairs only, as many
as the test needs to speak at all on so many cells, and a few to spare. Disturbed pairs are dropped whole, by limits set
before, and taken again; when the machine disturbs too many, the gate gives up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from msgspec import Struct

from convbench.gate import statistics
from convbench.gate.verdicts import SUSPICIOUS, Evidence, Rules, delta, judge

Phase = Literal["screen", "confirm"]
Arm = Literal["base", "head", "null"]
ARMS: tuple[Arm, ...] = ("base", "head", "null")

SCREEN_PAIRS = (4, 6)
SPARE_PAIRS = 7  # so that a pair or two may go the other way
FEWEST_DROPPED, SHARE_DROPPED = 6, 0.5  # more disturbed pairs than both, and the gate gives up


class Pair(Struct, kw_only=True):
    """Three fresh processes that took turns: base and head, and base again, the null.

    samples_s  arm -> cell -> seconds of one call in that process, one value a turn
    disturbed  what was wrong with the machine meanwhile; such a pair does not count
    """

    number: int
    phase: Phase
    samples_s: dict[Arm, dict[str, list[float]]]
    disturbed: list[str] = []


@dataclass(frozen=True)
class Step:
    """One pair to take, of these cells."""

    phase: Phase
    cells: tuple[str, ...]


def confirm_pairs(cells: int, alpha: float) -> int:
    """Pairs of the confirmation: 2^-n must be below alpha / cells, with some to spare."""
    return math.ceil(math.log2(cells / alpha)) + SPARE_PAIRS


def next_step(cells: Sequence[str], rules: Rules, pairs: Sequence[Pair]) -> Step | None:
    """The next pair to take; None when the gate is decided or has given up."""
    if not cells or gave_up(pairs):
        return None
    screened = len(_good(pairs, "screen"))
    if screened < SCREEN_PAIRS[0]:
        return Step("screen", tuple(cells))
    open_ = open_cells(cells, rules, pairs)
    if not open_:
        return None
    if screened < SCREEN_PAIRS[1]:
        return Step("screen", tuple(cells))
    wanted = confirm_pairs(len(cells), rules.alpha)
    return Step("confirm", open_) if len(_good(pairs, "confirm")) < wanted else None


def gave_up(pairs: Sequence[Pair]) -> bool:
    """Whether the machine disturbed too many pairs to go on."""
    dropped = sum(bool(pair.disturbed) for pair in pairs)
    return dropped > FEWEST_DROPPED and dropped > SHARE_DROPPED * len(pairs)


def open_cells(cells: Sequence[str], rules: Rules, pairs: Sequence[Pair]) -> tuple[str, ...]:
    """Cells that the screen has not settled as the same."""
    screen = _good(pairs, "screen")
    evidence = [_screened(cell, screen) for cell in cells]
    verdicts = judge(evidence, rules)
    return tuple(
        cell for cell, e, (verdict, _) in zip(cells, evidence, verdicts, strict=True)
        if verdict != "SAME" or abs(e.ratio.value) > SUSPICIOUS * rules.log_floor
    )  # fmt: skip


def evidence(cells: Sequence[str], rules: Rules, pairs: Sequence[Pair]) -> list[Evidence]:
    """What the pairs taken so far say about each cell. Complete once next_step is None."""
    screen, confirm = _good(pairs, "screen"), _good(pairs, "confirm")
    if len(screen) < SCREEN_PAIRS[0]:
        return [_screened(cell, screen, _unfinished(pairs)) for cell in cells]
    open_ = open_cells(cells, rules, pairs)
    complete = len(confirm) >= confirm_pairs(len(cells), rules.alpha)
    return [
        _screened(cell, screen) if cell not in open_
        else _confirmed(cell, confirm, rules) if complete
        else _screened(cell, screen, _unfinished(pairs))
        for cell in cells
    ]  # fmt: skip


def _good(pairs: Sequence[Pair], phase: Phase) -> list[Pair]:
    return [pair for pair in pairs if pair.phase == phase and not pair.disturbed]


def _unfinished(pairs: Sequence[Pair]) -> str:
    dropped = [pair for pair in pairs if pair.disturbed]
    if gave_up(pairs):
        return f"{len(dropped)} of {len(pairs)} pairs were disturbed, last: {dropped[-1].disturbed[0]}"
    return "the time was up before this was confirmed"


def log_ratios(cell: str, pairs: Sequence[Pair], arm: Arm = "head") -> list[float]:
    """One value for each pair that has the cell: the median over turns of log(arm / base).

    By turns, so that what comes or goes while the pair is taken hits both sides of every ratio.
    """
    found = ((p.samples_s[arm].get(cell), p.samples_s["base"].get(cell)) for p in pairs)
    return [median(map(_log_ratio, there, here)) for there, here in found if there and here]


def _log_ratio(there: float, here: float) -> float:
    return math.log(there / here)


def _screened(cell: str, screen: Sequence[Pair], problem: str = "") -> Evidence:
    null = statistics.estimate(log_ratios(cell, screen, "null"))
    return Evidence(statistics.estimate(log_ratios(cell, screen)), null, problem=problem)


def _confirmed(cell: str, confirm: Sequence[Pair], rules: Rules) -> Evidence:
    """From the new pairs alone."""
    values = log_ratios(cell, confirm)
    null = statistics.estimate(log_ratios(cell, confirm, "null"))
    if len(values) < len(confirm):
        return Evidence(statistics.estimate(values), null, problem="not timed in every pair")
    margin = delta(null, rules)
    return Evidence(
        statistics.estimate(values), null,
        p_slower=statistics.sign_flip(values, margin, rules.log_floor),
        p_faster=statistics.sign_flip([-value for value in values], margin, rules.log_floor),
    )  # fmt: skip
