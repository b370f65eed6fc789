"""Times several implementations of one case, side by side, to a stated precision.

All implementations of a case are sampled in rounds, in random order within each round, so that drift
of the machine hits them alike (interleaving; Laaber et al., EMSE 2019; google/benchmark's random
interleaving). A sample is a batch of calls long enough for the clock; where calls are short, an untimed one
before each sample brings the implementation's own data back into the caches. An implementation leaves when the 95%
interval of its median is within the wanted precision, or when its time is used up; the reference
stays until the last one left, so that every round gives a pair, or until three times its own limit.

The statistics are scipy's: the median's interval is the distribution-free one from order statistics
(scipy.stats.quantile_test), widened where batch means say so; a speed-up is the median of the per-round ratios with
the same interval. The stop rule looks at the interval every fifth round and stops when it likes it: on independent
noise that leaves 93% or more of its 95% (tests/convbench/test_measure.py). Samples of one process say nothing about the
next process.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from time import perf_counter_ns
from typing import NamedTuple, Protocol

from convbench.errors import InputError

Call = Callable[[], object]

CONFIDENCE = 0.95
BATCHES = 10
STUDENT = 2.262  # Student's t with BATCHES - 1 degrees of freedom, 97.5%
FEWEST_FOR_BATCHES = 3 * BATCHES
FEWEST_FOR_INTERVAL = 6  # below this the 95% order-statistics interval of a median does not exist
LONGEST_SAMPLE_S = 60.0
NOISY_SPREAD = 0.10  # interquartile range over median; torch.utils.benchmark's threshold
IMPRECISE = 2  # an interval that is so many times wider than was asked for is remarked on
DRIFT = 0.05  # last third against first third of the samples
SETTLED = 0.05  # two warm-up windows that agree this well end the warm-up
WARMUP_WINDOW = 3
WARMUP_SHARE = 1 / 8  # of the time limit, at most: under load times never settle, and verifying has warmed up too
SETTLE_FROM_CALLS = 4  # where one implementation batches so many calls, all of the case begin warm ...
SETTLE_BELOW_S = 0.02  # ... but for those whose calls bring their own data back unnoticed
REFERENCE_BUDGETS = 3  # time limits after which the reference leaves too


class Timer(Protocol):
    """Seconds that ``calls`` calls take together."""

    def __call__(self, call: Call, calls: int) -> float: ...


def host_timer(call: Call, calls: int) -> float:
    """Wall time on the host, for work that is done when the call returns."""
    start = perf_counter_ns()
    for _ in repeat(None, calls):
        call()
    return (perf_counter_ns() - start) * 1e-9


@dataclass(frozen=True)
class Policy:
    """When to stop, and how long a sample is.

    precision     half-width of the median's 95% interval over the median, e.g. 0.01
    max_time_s    seconds of samples for one implementation of one case
    sample_s      shortest sample; shorter calls are batched
    min_samples   fewest samples
    """

    precision: float = 0.01
    max_time_s: float = 1.0
    sample_s: float = 0.015
    min_samples: int = 10

    def __post_init__(self) -> None:
        if not 0 < self.precision < 1:
            raise InputError(f"precision {self.precision:.3g}: expected a fraction between 0 and 1, such as 1%")
        if not 0 < self.max_time_s < math.inf:
            raise InputError(f"max-time {self.max_time_s:.3g}: expected seconds above 0, and not without end")
        if not (0 < self.sample_s <= LONGEST_SAMPLE_S and self.min_samples > 0):
            raise InputError(
                f"{self.min_samples} samples of {self.sample_s:.3g} s: expected one at least, of up to "
                f"{LONGEST_SAMPLE_S:.0f} s; give the record as it was written"
            )


@dataclass
class Samples:
    """Raw samples of one implementation. Statistics are derived, never stored here.

    seconds  seconds per call, one value a sample
    rounds   the round each sample was taken in
    """

    calls_per_sample: int = 1
    seconds: list[float] = field(default_factory=list)
    rounds: list[int] = field(default_factory=list)

    @property
    def spent_s(self) -> float:
        return sum(self.seconds) * self.calls_per_sample


class Interval(NamedTuple):
    """An estimate with its 95% interval; low and high are None where there are too few samples."""

    value: float
    low: float | None
    high: float | None

    @property
    def half_width(self) -> float:
        """Relative half-width, infinite where there is no interval."""
        if self.low is None or self.high is None:
            return float("inf")
        return (self.high - self.low) / 2 / self.value


def median_interval(values: Sequence[float]) -> Interval:
    """Median with its distribution-free 95% interval."""
    import numpy as np

    value = float(np.median(values))
    if len(values) < FEWEST_FOR_INTERVAL:
        return Interval(value, None, None)
    from scipy.stats import quantile_test

    interval = quantile_test(values, q=value, p=0.5).confidence_interval(CONFIDENCE)
    return Interval(value, float(interval.low), float(interval.high))


def series_interval(values: Sequence[float]) -> Interval:
    """Median of values in the order they were taken, and the wider of two 95% intervals: median_interval's, which takes
    them as independent, and that of batch means, which does not: neighbours resemble each other on a busy machine."""
    interval, spread = median_interval(values), batch_spread(values)
    if spread is None or interval.low is None or interval.high is None:
        return interval
    value = interval.value
    return Interval(value, min(interval.low, value / spread), max(interval.high, value * spread))


def batch_spread(values: Sequence[float]) -> float | None:
    """Factor up and down from a median to its 95% interval, from samples in the order they were taken.

    The method of batch means (Conway, 1963; Law and Carson, 1979) on logarithms of medians: neighbours resemble each
    other, so ten stretches of the run are compared in place of single samples, and drift widens the interval. None
    for fewer than FEWEST_FOR_BATCHES, or values that are no times.
    """
    if len(values) < FEWEST_FOR_BATCHES or min(values) <= 0:
        return None
    length = len(values) // BATCHES
    below, above = (length - 1) // 2, length // 2
    logs = []
    for start in range(0, BATCHES * length, length):
        batch = sorted(values[start : start + length])
        logs.append(math.log((batch[below] + batch[above]) / 2))
    mean = sum(logs) / BATCHES
    variance = sum([(value - mean) ** 2 for value in logs]) / (BATCHES - 1)
    return math.exp(STUDENT * math.sqrt(variance / BATCHES))


def speedup(reference: Samples, other: Samples) -> Interval | None:
    """reference time / other time: the median over the rounds in which both were sampled."""
    by_round = dict(zip(reference.rounds, reference.seconds, strict=True))
    ratios = [by_round[r] / t for r, t in zip(other.rounds, other.seconds, strict=True) if r in by_round]
    return series_interval(ratios) if ratios else None


def interquartile_range(values: Sequence[float]) -> float:
    from scipy.stats import iqr

    return float(iqr(values))


def remarks(samples: Samples, policy: Policy) -> list[str]:
    """What a reader should know before believing the median; empty when nothing is wrong."""
    from scipy.stats import spearmanr

    found, seconds = [], samples.seconds
    interval = series_interval(seconds)
    spread = interquartile_range(seconds) / interval.value
    if spread > NOISY_SPREAD:
        found.append(f"noisy: interquartile range is {spread:.0%} of the median")
    third = len(seconds) // 3
    if third >= FEWEST_FOR_INTERVAL:
        change = median_interval(seconds[-third:]).value / median_interval(seconds[:third]).value - 1
        if abs(change) > DRIFT and spearmanr(samples.rounds, seconds).pvalue < 0.01:
            found.append(f"drift: {change:+.0%} from the first third of the samples to the last")
    if interval.half_width > IMPRECISE * policy.precision:
        width = "unknown" if interval.low is None else f"{interval.half_width:.1%}"
        found.append(f"imprecise: interval of {width} at the time limit, wanted {policy.precision:.1%}")
    return found


def measure(
    calls: Mapping[str, Call],
    policy: Policy,
    reference: str | None = None,
    timer: Timer = host_timer,
    seed: int = 0,
    on_sample: Callable[[float], None] = lambda seconds: None,
) -> dict[str, Samples]:
    """Sample every call until each is precise enough or out of time.

    calls       name -> zero-argument call, every one verified before
    reference   the name that stays to the end, so that the others have a partner in each round
    on_sample   told the seconds of each sample taken, for the progress bar
    """
    sampler = Sampler(calls, policy, timer, seed, on_sample)
    sample(sampler, policy, reference)
    return sampler.samples


def sample(sampler: Sampler, policy: Policy, reference: str | None = None) -> None:
    """The rounds of measure(); what an interrupt leaves behind is in the sampler."""
    samples, active = sampler.samples, set(sampler.calls)
    while active:
        partner = {name for name in samples if name == reference and _pairs(samples[name], policy)}
        sampler.round(active | partner)
        active = {name for name in active if not _finished(samples[name], policy)}


class Sampler:
    """Calls warmed up, and rounds of one sample each in random order, for as long as somebody asks for them."""

    def __init__(
        self,
        calls: Mapping[str, Call],
        policy: Policy,
        timer: Timer = host_timer,
        seed: int = 0,
        on_sample: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self.calls, self.timer, self.on_sample = calls, timer, on_sample
        self.order, self.rounds = random.Random(seed), 0
        self.samples = {name: Samples(_batch(call, policy, timer)) for name, call in calls.items()}
        self.settle = any(s.calls_per_sample >= SETTLE_FROM_CALLS for s in self.samples.values())

    def round(self, names: Iterable[str]) -> None:
        """One sample of each name."""
        ordered = sorted(names)
        for name in self.order.sample(ordered, len(ordered)):
            self.on_sample(_take(self.samples[name], self.calls[name], self.rounds, self.timer, self.settle))
        self.rounds += 1


def _batch(call: Call, policy: Policy, timer: Timer) -> int:
    """Warm up until the times settle, then say how many calls make a sample."""
    first = timer(call, 1)  # it can be much slower than any other, and must not be the only one
    seconds = first if first < WARMUP_SHARE * policy.max_time_s else timer(call, 1)
    window, spent = seconds, first
    while spent < WARMUP_SHARE * policy.max_time_s:
        calls = max(1, int(policy.sample_s / WARMUP_WINDOW / max(seconds, 1e-9)))
        times = [timer(call, calls) / calls for _ in range(WARMUP_WINDOW)]
        seconds, previous = sorted(times)[WARMUP_WINDOW // 2], window
        window, spent = seconds, spent + sum(times) * calls
        if abs(window / previous - 1) < SETTLED:
            break
    return max(1, round(policy.sample_s / max(seconds, 1e-9)))


def _take(samples: Samples, call: Call, round_: int, timer: Timer, settle: bool) -> float:
    if settle and (not samples.seconds or samples.seconds[-1] < SETTLE_BELOW_S):
        timer(call, 1)
    total = timer(call, samples.calls_per_sample)
    samples.seconds.append(total / samples.calls_per_sample)
    samples.rounds.append(round_)
    return total


def _pairs(reference: Samples, policy: Policy) -> bool:
    """Whether the reference goes on for the sake of the others."""
    return reference.spent_s < REFERENCE_BUDGETS * policy.max_time_s


def _finished(samples: Samples, policy: Policy) -> bool:
    count = len(samples.seconds)
    if samples.spent_s >= policy.max_time_s and count >= FEWEST_FOR_INTERVAL:
        return True
    if count < policy.min_samples or count % 5:  # looking every fifth round is often enough, and cheap
        return False
    return series_interval(samples.seconds).half_width <= policy.precision
