"""The numbers that decide, against results worked out by hand and against each other."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import permutation_test

from convbench.gate.statistics import NOTHING, estimate, holm, sign_flip

LOG = st.integers(-512, 512).map(lambda value: value / 1024)  # their sums are exact: equal, or well apart
LOGS = st.lists(LOG, min_size=2, max_size=8)


@pytest.mark.parametrize(
    ("values", "p"),
    [
        ([0.3] * 10, 2**-10),  # ten pairs that agree: the least p there is
        ([0.3] * 14, 2**-14),
        ([0.3, 0.2, 0.1], 1 / 8),
        ([0.3, 0.2, -0.1], 2 / 8),  # itself, and with the 0.1 turned over
        ([-0.3, -0.2, -0.1], 1.0),
    ],
)
def test_sign_flip_counts_the_choices_of_signs_that_are_as_large(values, p):
    assert sign_flip(values, 0.0, limit=1.0) == pytest.approx(p)


@given(LOGS, LOG)
def test_sign_flip_is_scipys_permutation_test(values, margin):
    beyond = np.clip(np.array(values) - margin, -0.125, 0.125)
    expected = permutation_test(
        (beyond,), np.mean, permutation_type="samples", alternative="greater", n_resamples=np.inf, vectorized=True
    )
    assert sign_flip(values, margin, limit=0.125) == pytest.approx(expected.pvalue)


def test_a_wild_pair_counts_for_no_more_than_the_limit():
    steady = [0.2] * 11
    assert sign_flip([*steady, -50.0], 0.1, limit=0.1) == sign_flip([*steady, 0.0], 0.1, limit=0.1) < 0.01
    assert sign_flip([*steady, -50.0], 0.1, limit=100.0) > 0.05


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_lies_between_nothing_and_bonferroni(p_values):
    adjusted = holm(p_values)
    assert all(p <= a <= min(1.0, p * len(p_values)) + 1e-12 for p, a in zip(p_values, adjusted, strict=True))
    assert min(adjusted) == pytest.approx(min(1.0, min(p_values) * len(p_values)))
    ordered = sorted(range(len(p_values)), key=lambda i: p_values[i])
    assert all(adjusted[i] <= adjusted[j] for i, j in itertools.pairwise(ordered))


def test_few_values_have_their_range_and_many_their_order_statistics():
    assert estimate([0.1, 0.3, 0.2, 0.25]) == pytest.approx((0.225, 0.1, 0.3))
    ten = estimate([i / 100 for i in range(10)])
    assert ten == pytest.approx((0.045, 0.01, 0.08))  # second and ninth: 1 - 22/1024 = 97.9%, third and eighth 89.1%
    assert estimate([0.1]) is NOTHING
    assert NOTHING.reach == math.inf


@given(LOGS)
def test_one_value_among_ten_does_not_move_the_interval(values):
    quiet = [i / 1000 for i in range(-5, 5)]
    wild = [50.0, *quiet[1:]]
    assert estimate(wild).high <= max(quiet)
    assert estimate(values).low <= estimate(values).value <= estimate(values).high
    assert estimate([-v for v in values]).reach == pytest.approx(estimate(values).reach)
