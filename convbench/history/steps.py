"""Steps in a series of numbers: where its level changed and stayed changed.

Divisive segmentation with Student's t, as Hunter does it (Fleming et al., ICPE 2023) after E-divisive (Matteson and
James, JASA 109, 2014; for performance tests Daly et al., ICPE 2020): split where t is largest, keep a split that is
significant after Bonferroni over all places it could have been, go on in both parts, and test each kept step again
between its final neighbours. Places are looked for with single outliers replaced (Hampel filter), so that one bad run
is no step; whether a place is a step is asked of the values as they are: the filter takes noise away with the outliers,
and called steps in noise ten times as often as alpha says.
Deterministic. Runs are taken as independent; where they are not, a slow wave can look like a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEAST = 4  # values on each side of a step: fewer cannot tell it from a bad day
ALPHA = 0.05  # of one false step in everything that is looked at
HAMPEL_REACH, HAMPEL_SIGMAS = 3, 3.0
_SIGMA_PER_MAD = 1.4826  # of a normal distribution


@dataclass(frozen=True)
class Step:
    """The level is another from value ``at`` on. Levels are medians of the stretches on both sides."""

    at: int
    before: float
    after: float
    p: float  # of a step this clear in noise, anywhere in the stretch
    stretch: tuple[int, int]  # values on both sides that the levels are taken from


def find_steps(values: NDArray, smallest: float, alpha: float = ALPHA) -> list[Step]:
    """Steps of at least ``smallest`` in the values, in order; p is below ``alpha`` for each."""
    import numpy as np

    values = np.asarray(values, float)
    places = sorted(_split(values, without_outliers(values), alpha))
    while True:
        edges = [0, *places, len(values)]
        steps = [_step(values, *edges[i : i + 3]) for i in range(len(places))]
        kept = [step.at for step in steps if step.p < alpha and abs(step.after - step.before) >= smallest]
        if kept == places:
            return steps
        places = kept


def without_outliers(values: NDArray) -> NDArray:
    """Values further from the median of their neighbourhood than its spread explains become that median."""
    import numpy as np

    if len(values) < 2 * HAMPEL_REACH + 1:
        return values
    padded = np.pad(values, HAMPEL_REACH, mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * HAMPEL_REACH + 1)
    middle = np.median(windows, axis=1)
    spread = _SIGMA_PER_MAD * np.median(np.abs(windows - middle[:, None]), axis=1)
    return np.where(np.abs(values - middle) > HAMPEL_SIGMAS * np.maximum(spread, np.median(spread)), middle, values)


def _split(values: NDArray, clean: NDArray, alpha: float) -> list[int]:
    """Places of steps, in any order."""
    found, stack = [], [(0, len(values))]
    while stack:
        start, end = stack.pop()
        if end - start >= 2 * LEAST:
            step = start + _best(clean[start:end])
            if _step(values, start, step, end).p < alpha:
                found.append(step)
                stack += [(start, step), (step, end)]
    return found


def _best(values: NDArray) -> int:
    """Where t is largest."""
    import numpy as np

    n = len(values)
    left = np.arange(LEAST, n - LEAST + 1)
    shifted = values - values.mean()
    sums = np.cumsum(shifted)[left - 1]
    between = sums**2 * (1 / left + 1 / (n - left))  # the sum of squares that a split explains
    return int(left[np.argmax(between)])


def _p(total: float, between: float, n: int, places: int) -> float:
    from scipy.special import stdtr

    within = max(total - between, 1e-30 + 1e-12 * total)
    t = (between / (within / (n - 2))) ** 0.5
    return min(1.0, 2 * places * float(stdtr(n - 2, -t)))


def _step(values: NDArray, start: int, at: int, end: int) -> Step:
    import numpy as np

    before, after, both = values[start:at], values[at:end], values[start:end]
    gap = float(before.mean() - after.mean())
    between = gap**2 * len(before) * len(after) / len(both)
    p = _p(float(((both - both.mean()) ** 2).sum()), between, len(both), max(1, len(both) - 2 * LEAST + 1))
    return Step(at, float(np.median(before)), float(np.median(after)), p, (len(before), len(after)))
