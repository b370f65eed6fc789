"""Which processes to start next, and what those before prove: functions of the journal alone, so a resumed gate decides
alike.

Four fresh processes are alive together, two of base and two of head. They make two pairs, whose ratios are the data,
and show each side against itself, the null: as much as six would, were each pair given a null of its own.

Screen: 2 such quartets of every cell, 3 of those then open, up to 5 where only an interval's width keeps them open.
What is still open is confirmed on new quartets. The exact test looks at them twice: as soon as it can speak at all on
so many cells, and again with a few to spare. Each look has its share of alpha, so that whatever the first decides,
their sum bounds the gate's error (Bonferroni); a cell decided then is not timed again. Disturbed quartets are dropped
whole, by limits set before, and taken again; when the machine disturbs too many, the gate gives up.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Literal, NamedTuple

from msgspec import Struct

from convbench.gate import statistics
from convbench.gate.verdicts import SUSPICIOUS, Evidence, Rules, delta, judge

Phase = Literal["screen", "confirm"]
Arm = Literal["base1", "head1", "base2", "head2"]
Contrast = tuple[tuple[Arm, Arm], ...]
ARMS: tuple[Arm, ...] = ("base1", "head1", "base2", "head2")
PAIRS: Contrast = (("head1", "base1"), ("head2", "base2"))
NULL: Contrast = (("base2", "base1"), ("head2", "head1"))

# Quartets of the screen. In 10 pairs the 95% interval leaves out the lowest and the highest: one that lies off is luck.
SCREEN = (2, 3, 5)
FIRST_SHARE = 0.4  # of alpha, for the first look
SPARE_PAIRS = 6  # of the last look, so that a pair or two may go the other way
FEWEST_DROPPED, SHARE_DROPPED = 5, 0.5  # more disturbed quartets than both, and the gate gives up


class Quartet(Struct, kw_only=True):
    """Four fresh processes that took turns.

    samples_s  arm -> cell -> seconds of one call in that process, one value a turn
    disturbed  what was wrong with the machine meanwhile; such a quartet does not count
    """

    number: int
    phase: Phase
    samples_s: dict[Arm, dict[str, list[float]]]
    disturbed: list[str] = []


@dataclass(frozen=True)
class Step:
    """One quartet to take, of these cells."""

    phase: Phase
    cells: tuple[str, ...]


class Look(NamedTuple):
    """After so many quartets the test has this share of alpha."""

    quartets: int
    share: float


def looks(cells: int, alpha: float) -> tuple[Look, Look]:
    """When the test may speak: with 2^-pairs below its level / cells, with and without pairs to spare."""

    def quartets(share: float, spare: int) -> int:
        return math.ceil((math.log2(cells / (share * alpha)) + spare) / len(PAIRS))

    last = 1 - FIRST_SHARE
    return Look(quartets(FIRST_SHARE, 0), FIRST_SHARE), Look(quartets(last, SPARE_PAIRS), last)


def next_step(cells: Sequence[str], rules: Rules, taken: Sequence[Quartet]) -> Step | None:
    """The next quartet to take; None when the gate is decided or has given up."""
    if not cells or gave_up(taken):
        return None
    screened = len(_good(taken, "screen"))
    if screened < SCREEN[0]:
        return Step("screen", tuple(cells))
    open_ = open_cells(cells, rules, taken)
    suspicious = any(_suspicious(_screened(cell, _good(taken, "screen")), rules) for cell in open_)
    if screened < SCREEN[1] or (screened < SCREEN[2] and not suspicious):
        return Step("screen", open_) if open_ else None
    left = undecided(cells, rules, taken)
    return Step("confirm", left) if left and not _finished(cells, rules, taken) else None


def gave_up(taken: Sequence[Quartet]) -> bool:
    """Whether the machine disturbed too many quartets to go on."""
    dropped = sum(bool(quartet.disturbed) for quartet in taken)
    return dropped > FEWEST_DROPPED and dropped > SHARE_DROPPED * len(taken)


def open_cells(cells: Sequence[str], rules: Rules, taken: Sequence[Quartet]) -> tuple[str, ...]:
    """Cells that the screen has not settled as the same."""
    screen = _good(taken, "screen")
    found = [_screened(cell, screen) for cell in cells]
    return tuple(
        cell for cell, e, (verdict, _) in zip(cells, found, judge(found, rules), strict=True)
        if verdict != "SAME" or _suspicious(e, rules)
    )  # fmt: skip


def _suspicious(e: Evidence, rules: Rules) -> bool:
    return not abs(e.ratio.value) <= SUSPICIOUS * rules.log_floor


def undecided(cells: Sequence[str], rules: Rules, taken: Sequence[Quartet]) -> tuple[str, ...]:
    """Open cells that no look at the confirmation has decided yet."""
    open_ = open_cells(cells, rules, taken)
    if not _done(cells, rules, taken):
        return open_
    judged = judge(_evidence(cells, rules, taken), rules)
    return tuple(
        cell for cell, (verdict, _) in zip(cells, judged, strict=True) if cell in open_ and verdict == "INCONCLUSIVE"
    )


def evidence(cells: Sequence[str], rules: Rules, taken: Sequence[Quartet]) -> list[Evidence]:
    """What the quartets taken so far say about each cell. Complete once next_step is None."""
    found = _evidence(cells, rules, taken)
    if _finished(cells, rules, taken):
        return found
    left = undecided(cells, rules, taken) if len(_good(taken, "screen")) >= SCREEN[0] else cells
    return [replace(e, problem=_unfinished(taken)) if cell in left else e for cell, e in zip(cells, found, strict=True)]


def _evidence(cells: Sequence[str], rules: Rules, taken: Sequence[Quartet]) -> list[Evidence]:
    screen, confirm = _good(taken, "screen"), _good(taken, "confirm")
    open_, done = open_cells(cells, rules, taken), _done(cells, rules, taken)
    return [
        _confirmed(cell, confirm, done, rules) if done and cell in open_ else _screened(cell, screen) for cell in cells
    ]


def _done(cells: Sequence[str], rules: Rules, taken: Sequence[Quartet]) -> list[Look]:
    """The looks at the confirmation for which there are quartets enough."""
    confirmed = len(_good(taken, "confirm"))
    return [look for look in looks(len(cells), rules.alpha) if look.quartets <= confirmed]


def _finished(cells: Sequence[str], rules: Rules, taken: Sequence[Quartet]) -> bool:
    return len(_done(cells, rules, taken)) == len(looks(len(cells), rules.alpha))


def _good(taken: Sequence[Quartet], phase: Phase) -> list[Quartet]:
    return [quartet for quartet in taken if quartet.phase == phase and not quartet.disturbed]


def _unfinished(taken: Sequence[Quartet]) -> str:
    dropped = [quartet for quartet in taken if quartet.disturbed]
    if gave_up(taken):
        return f"{len(dropped)} of {len(taken)} rounds of processes were disturbed, last: {dropped[-1].disturbed[0]}"
    return "the time was up before this was confirmed"


def log_ratios(cell: str, taken: Iterable[Quartet], contrast: Contrast = PAIRS) -> list[float]:
    """One value for each pair of processes that has the cell: the median over turns of the log of their times' ratio.

    By turns, so that what comes or goes while the quartet is taken hits both sides of every ratio.
    """
    times = [(q.samples_s[there].get(cell), q.samples_s[here].get(cell)) for q in taken for there, here in contrast]
    return [median(map(_log_ratio, there, here)) for there, here in times if there and here]


def _log_ratio(there: float, here: float) -> float:
    return math.log(there / here)


def _screened(cell: str, screen: Sequence[Quartet]) -> Evidence:
    return Evidence(statistics.estimate(log_ratios(cell, screen)), statistics.estimate(log_ratios(cell, screen, NULL)))


def _confirmed(cell: str, confirm: Sequence[Quartet], done: Sequence[Look], rules: Rules) -> Evidence:
    """From the new quartets alone, as they were at each look; the p-values are of the test as a whole."""
    found, p_values = Evidence(statistics.NOTHING, statistics.NOTHING, problem="not timed in every pair"), [(1.0, 1.0)]
    for look in done:
        seen = confirm[: look.quartets]
        values = log_ratios(cell, seen)
        if len(values) < len(PAIRS) * look.quartets:  # decided at an earlier look, or left out by a process
            break
        ratio, null = statistics.estimate(values), statistics.estimate(log_ratios(cell, seen, NULL))
        margin = delta(null, rules)
        p_values.append((
            statistics.sign_flip(values, margin, rules.log_floor) / look.share,
            statistics.sign_flip([-value for value in values], margin, rules.log_floor) / look.share,
        ))  # fmt: skip
        p_slower, p_faster = map(min, zip(*p_values, strict=True))
        found = Evidence(ratio, null, p_slower, p_faster)
    return found
