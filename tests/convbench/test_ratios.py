"""Ratios by hand, and what ties them to overlapping intervals."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convbench.measure import Interval
from convbench.ratios import geometric_mean, quotient, score, verdict

TIMES = st.tuples(*[st.floats(1e-9, 1e3)] * 3).map(sorted).map(lambda t: Interval(t[1], t[0], t[2]))


def test_the_ends_of_a_ratio_are_those_of_both_intervals():
    ratio = quotient(Interval(2.0, 1.8, 2.2), Interval(1.0, 0.8, 1.25))
    assert (ratio.value, ratio.low, ratio.high) == (2.0, 1.8 / 1.25, 2.2 / 0.8)
    assert quotient(Interval(2.0, None, None), Interval(1.0, 0.8, 1.25)) == Interval(2.0, None, None)


@given(TIMES, TIMES)
def test_a_tie_is_an_overlap_and_the_other_way_round_is_the_reciprocal(a, b):
    apart = a.high < b.low or b.high < a.low
    assert (verdict(quotient(a, b)) == "tie") == (not apart)
    one, other = quotient(a, b), quotient(b, a)
    assert one.low * other.high == pytest.approx(1)
    assert one.value * other.value == pytest.approx(1)


def test_half_widths_of_a_mean_add_in_quadrature():
    mean = geometric_mean([Interval(2.0, 1.0, 4.0), Interval(8.0, 4.0, 16.0)])
    assert mean.value == pytest.approx(4)
    assert mean.high / mean.value == pytest.approx(2 ** (math.sqrt(2) / 2))
    assert mean.value / mean.low == pytest.approx(2 ** (math.sqrt(2) / 2))
    assert geometric_mean([Interval(2.0, 1.0, 4.0), Interval(2.0, None, None)]) == Interval(
        pytest.approx(2), None, None
    )


def test_every_ratio_is_counted_once():
    ratios = [Interval(2, 1.5, 3), Interval(0.5, 0.4, 0.6), Interval(1.1, 0.9, 1.3), Interval(1.1, 0.9, 1.3),
              Interval(3, None, None)]  # fmt: skip
    found = score(ratios)
    assert found
    assert (found.cases, found.faster, found.slower, found.ties, found.unknown) == (5, 1, 1, 2, 1)
    assert (found.smallest, found.largest) == (0.5, 3)
    assert score([]) is None
