"""The stop rule, the interleaving and the remarks, with a clock that is not the wall's."""

import math
import random
from statistics import NormalDist

import pytest

from convbench.errors import InputError
from convbench.measure import (
    Interval,
    Policy,
    Samples,
    measure,
    median_interval,
    remarks,
    speedup,
)


class FakeTimer:
    """Gives each call the next time of its own list (the last one repeats) and keeps a log."""

    def __init__(self, times):
        self.times = {name: iter(values) for name, values in times.items()}
        self.last = {}
        self.log = []

    def __call__(self, call, calls):
        name = call()
        self.last[name] = next(self.times[name], self.last.get(name))
        self.log.append((name, calls))
        return self.last[name] * calls


def run(times, policy, reference=None, seed=0):
    timer = FakeTimer(times)
    calls = {name: (lambda name=name: name) for name in times}
    return measure(calls, policy, reference, timer, seed), timer


def test_a_steady_call_stops_at_the_fewest_samples():
    samples, _ = run({"a": [0.001]}, Policy(min_samples=10, sample_s=0.004))
    assert len(samples["a"].seconds) == 10
    assert samples["a"].calls_per_sample == 4
    assert median_interval(samples["a"].seconds) == Interval(0.001, 0.001, 0.001)


def test_a_noisy_call_stops_at_the_time_limit_and_says_so():
    noise = random.Random(1)
    times = [0.01 * noise.uniform(0.5, 1.5) for _ in range(1000)]
    policy = Policy(max_time_s=1.0)
    samples, _ = run({"a": times}, policy)
    spent = sum(samples["a"].seconds)
    assert 1.0 <= spent < 1.0 + 0.015
    kinds = [text.split(":")[0] for text in remarks(samples["a"], policy)]
    assert kinds == ["noisy", "imprecise"]


def test_a_call_longer_than_the_limit_still_gets_an_interval():
    samples, _ = run({"a": [3.0]}, Policy(max_time_s=1.0))
    assert len(samples["a"].seconds) == 6
    assert samples["a"].calls_per_sample == 1
    assert median_interval(samples["a"].seconds).half_width == 0


@pytest.mark.parametrize(("calls", "settled"), [(4, True), (3, False)])
def test_only_a_batch_of_short_calls_is_preceded_by_an_untimed_one(calls, settled):
    _, timer = run({"a": [0.001]}, Policy(min_samples=10, sample_s=calls * 0.001))
    after_warm_up = timer.log[-10 * (1 + settled) :]
    assert after_warm_up == ([("a", 1)] * settled + [("a", calls)]) * 10


def test_where_one_call_is_batched_all_of_a_case_begin_warm_but_the_slowest():
    _, timer = run({"a": [0.001], "b": [0.007], "c": [0.030]}, Policy(min_samples=10, precision=0.1, sample_s=0.008))
    untimed = {
        name: sum(now == before == (name, 1) for before, now in zip(timer.log, timer.log[1:], strict=False))
        for name in "bc"
    }
    assert untimed["b"] >= 10 > untimed["c"]


def test_looking_again_and_again_costs_the_interval_little_of_its_confidence():
    """100 runs on noise of a known median, at the spread where the stop rule looks most often before it stops."""
    noise, median, held = random.Random(5), 0.01 * math.exp(0.02 * NormalDist().inv_cdf(0.75)), 0
    for _ in range(100):
        times = [0.01 * math.exp(0.02 * abs(noise.gauss(0, 1))) for _ in range(200)]
        samples, _ = run({"a": times}, Policy(precision=0.005))
        interval = median_interval(samples["a"].seconds)
        held += interval.low <= median <= interval.high
    assert 0.88 <= held / 100 <= 0.99


def test_the_reference_leaves_at_three_times_its_limit():
    noise = random.Random(4)
    times = {"ref": [0.5], "a": [0.005 * noise.uniform(0.5, 1.5) for _ in range(4000)]}
    samples, _ = run(times, Policy(max_time_s=1.0), reference="ref")
    assert samples["ref"].spent_s == 3.0
    assert samples["a"].spent_s >= 1.0


def test_a_slow_first_call_is_not_the_only_one_warm_up_goes_by():
    samples, _ = run({"a": [1.0, 0.002]}, Policy(max_time_s=1.0, sample_s=0.008))
    assert samples["a"].calls_per_sample == 4


def test_warm_up_goes_on_until_times_settle():
    falling = [0.02, 0.016, 0.016, 0.016, 0.012, 0.012, 0.012] + [0.010] * 1000
    samples, _ = run({"a": falling}, Policy(max_time_s=4.0))
    assert set(samples["a"].seconds) == {0.010}


def test_warm_up_of_times_that_never_settle_ends_at_an_eighth_of_the_limit():
    times = [0.01, *1000 * [0.02, 0.02, 0.02, 0.01, 0.01, 0.01]]  # each window of three is another
    samples, timer = run({"a": times}, Policy(max_time_s=4.0))
    spent = sum(time * calls for time, (_, calls) in zip(times, timer.log, strict=False)) - samples["a"].spent_s
    assert 0.5 <= spent < 0.5 + 3 * 0.02  # the last window ends it


def test_rounds_are_interleaved_in_random_order_and_the_reference_stays():
    noise = random.Random(2)
    times = {"ref": [0.005], "a": [0.005], "b": [0.005 * noise.uniform(0.8, 1.2) for _ in range(4000)]}
    samples, timer = run(times, Policy(max_time_s=0.5, sample_s=0.001), reference="ref")
    assert len(samples["a"].seconds) == 10
    assert samples["ref"].rounds == samples["b"].rounds  # a partner in every round
    late = [name for name, _ in timer.log][-2 * 40 :]
    rounds = set(zip(late[::2], late[1::2], strict=True))
    assert rounds == {("ref", "b"), ("b", "ref")}  # both orders


def test_the_order_depends_on_the_seed_only():
    logs = [run({"a": [0.001], "b": [0.002]}, Policy(), seed=seed)[1].log for seed in (1, 1, 2)]
    assert logs[0] == logs[1]
    assert logs[0] != logs[2]


def test_speedup_pairs_rounds():
    reference = Samples(1, [2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0], [0, 1, 2, 3, 4, 5, 6])
    other = Samples(1, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [0, 1, 2, 3, 4, 5])
    assert speedup(reference, other) == Interval(2.0, 2.0, 2.0)
    assert speedup(reference, Samples(1, [1.0], [99])) is None


def test_drift_is_named_with_its_size():
    seconds = [0.010 + 0.0001 * i for i in range(60)]
    assert "drift: +37% from the first third" in " ".join(remarks(Samples(1, seconds, list(range(60))), Policy(0.5)))
    shuffled = random.Random(0).sample(seconds, 60)
    assert not any(text.startswith("drift") for text in remarks(Samples(1, shuffled, list(range(60))), Policy(0.5)))


def test_interval_covers_the_median_as_often_as_it_says():
    draw = random.Random(3)
    covered = 0
    for _ in range(400):
        interval = median_interval([draw.lognormvariate(0, 0.3) for _ in range(15)])
        covered += interval.low <= 1.0 <= interval.high
    assert covered >= 0.92 * 400  # 95% nominal, conservative, three standard errors of slack


@pytest.mark.parametrize("values", [[1.0], [1.0, 2.0, 3.0, 4.0, 5.0]])
def test_too_few_samples_have_no_interval(values):
    assert median_interval(values).low is None


@pytest.mark.parametrize(
    "bad", [{"precision": 0}, {"precision": 1.5}, {"max_time_s": 0}, {"sample_s": 1e300}, {"min_samples": 0}]
)
def test_a_policy_that_cannot_be_met_is_refused(bad):
    with pytest.raises(InputError, match="expected"):
        Policy(**bad)
