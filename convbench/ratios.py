"""Ratios of two measured times with their intervals, and the mean of many. Pure arithmetic.

The ends of a ratio are those of its two intervals divided by each other, so it holds 1 exactly when the intervals
overlap: a tie. That is wider than the 95% of its parts, which suits samples of one process: they do not know what
the next process would have measured.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from convbench.measure import Interval

Verdict = Literal["faster", "slower", "tie", "unknown"]


@dataclass(frozen=True)
class Score:
    """Many ratios in one line: how many, their geometric mean with its interval, and how each came out."""

    cases: int
    mean: Interval
    faster: int
    slower: int
    ties: int
    unknown: int  # no interval
    smallest: float
    largest: float


def quotient(numerator: Interval, denominator: Interval) -> Interval:
    """numerator / denominator; no interval where either has none."""
    (value, low, high), (by, by_low, by_high) = numerator, denominator
    if low and high and by_low and by_high:
        return Interval(value / by, low / by_high, high / by_low)
    return Interval(value / by, None, None)


def verdict(ratio: Interval) -> Verdict:
    """faster above 1 with the whole interval, slower below, tie where it holds 1."""
    if ratio.low is None or ratio.high is None:
        return "unknown"
    return "faster" if ratio.low > 1 else "slower" if ratio.high < 1 else "tie"


def geometric_mean(ratios: Sequence[Interval]) -> Interval:
    """Mean of the logarithms. Cases are measured independently, so their half widths add in quadrature."""
    value = math.exp(math.fsum(math.log(ratio.value) for ratio in ratios) / len(ratios))
    ends = [(ratio.low, ratio.high) for ratio in ratios if ratio.low and ratio.high]
    if len(ends) < len(ratios):
        return Interval(value, None, None)
    spread = math.exp(math.hypot(*(math.log(high / low) / 2 for low, high in ends)) / len(ends))
    return Interval(value, value / spread, value * spread)


def score(ratios: Sequence[Interval]) -> Score | None:
    """The ratios in one line; None for none."""
    if not ratios:
        return None
    counts = Counter(map(verdict, ratios))
    values = [ratio.value for ratio in ratios]
    return Score(
        len(ratios), geometric_mean(ratios), counts["faster"], counts["slower"], counts["tie"], counts["unknown"],
        min(values), max(values),
    )  # fmt: skip
