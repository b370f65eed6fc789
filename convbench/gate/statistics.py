"""The numbers that decide. All values are natural logarithms of time ratios, head / base, one for each pair.

One process in so many is slower for good by luck (where its memory lies), so nothing here is swayed by a single pair.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

ROUNDING = 1e-12  # sums of the same values in another order are equal


class Estimate(NamedTuple):
    """A median with its interval; infinitely wide where there are too few values."""

    value: float
    low: float
    high: float

    @property
    def reach(self) -> float:
        """How far from 0 the interval goes."""
        return max(-self.low, self.high)


NOTHING = Estimate(math.nan, -math.inf, math.inf)


def estimate(values: Sequence[float]) -> Estimate:
    """Median and its distribution-free 95% interval; of fewer than 6 values their range (confidence 1 - 2^(1-n))."""
    return _estimate(tuple(values))


@lru_cache(maxsize=2**16)  # a procedure looks at the same pairs after every new one
def _estimate(values: tuple[float, ...]) -> Estimate:
    from convbench.measure import median_interval

    if len(values) < 2:
        return NOTHING
    found = median_interval(values)
    if found.low is None or found.high is None:
        return Estimate(found.value, min(values), max(values))
    return Estimate(found.value, found.low, found.high)


def sign_flip(values: Sequence[float], margin: float, limit: float) -> float:
    """One-sided exact p-value of "the pairs' ratio is no more than the margin".

    If head were slower by exactly the margin, each value - margin would be as likely positive as negative, since which
    of two equal processes is called head is chance: all 2^n choices of signs are enumerated (Fisher 1935). A pair
    counts for no more than the limit, however far it lies off. (scipy.stats.permutation_test enumerates the same, 100
    times slower: seconds and gigabytes for the 20 pairs of a large gate.)
    """
    import numpy as np

    sums = np.zeros(1)
    for value in np.clip(np.asarray(values) - margin, -limit, limit):
        sums = np.concatenate((sums + value, sums - value))  # the first is the one observed
    return float(np.mean(sums >= sums[0] - ROUNDING))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values: the chance that any innocent case is accused stays below the level (Holm 1979)."""
    adjusted, largest = [1.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, (len(p_values) - rank) * p_values[index])
        adjusted[index] = min(1.0, largest)
    return adjusted
