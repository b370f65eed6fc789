"""The numbers that decide. All values are natural logarithms of time ratios, head / base, one for each pair."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

CONFIDENCE = 0.95
NOISE_QUANTILE = 0.99  # of base against base: what noise alone does once in a hundred pairs
PERMUTATION_BATCH = 2**14


class Estimate(NamedTuple):
    """A mean with its 95% interval; infinitely wide where there are too few values."""

    value: float
    low: float
    high: float


def sign_flip(values: Sequence[float], margin: float) -> float:
    """One-sided exact p-value of "the pairs' ratio is no more than the margin".

    If head were slower by exactly the margin, each value - margin would be as likely positive as negative, since which
    of two equal processes is called head is chance: all 2^n choices of signs are enumerated (Fisher 1935).
    """
    import numpy as np
    from scipy.stats import permutation_test

    found = permutation_test(
        (np.asarray(values) - margin,), np.mean, permutation_type="samples", alternative="greater",
        n_resamples=np.inf, batch=PERMUTATION_BATCH, vectorized=True,
    )  # fmt: skip
    return float(found.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values: the chance that any innocent case is accused stays below the level (Holm 1979)."""
    adjusted, largest = [1.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, (len(p_values) - rank) * p_values[index])
        adjusted[index] = min(1.0, largest)
    return adjusted


def noise(null: Sequence[float]) -> float:
    """99th percentile of one pair of base against base, from a few such pairs.

    Their mean is zero by construction, so the scale is their root mean square: a null that wanders off counts in full.
    Student's t says how little a few values know. Infinite without values.
    """
    from scipy.stats import t

    if not null:
        return math.inf
    scale = math.sqrt(math.fsum(value * value for value in null) / len(null))
    return float(t.ppf(NOISE_QUANTILE, len(null))) * scale


def mean(values: Sequence[float]) -> Estimate:
    """Mean log ratio, that is the geometric mean of ratios, with its t interval."""
    from scipy.stats import ttest_1samp

    if len(values) < 2:
        value = values[0] if values else math.nan
        return Estimate(value, -math.inf, math.inf)
    if max(values) == min(values):  # no spread: the t statistic is 0 / 0
        return Estimate(values[0], values[0], values[0])
    interval = ttest_1samp(values, 0.0).confidence_interval(CONFIDENCE)
    return Estimate(math.fsum(values) / len(values), float(interval.low), float(interval.high))
