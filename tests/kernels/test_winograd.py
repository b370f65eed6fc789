"""Winograd: its matrices, its error against the bound derived for it, drawn shapes, and who chooses it."""

import itertools
from fractions import Fraction

import numba
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convbench.case import Case
from convbench.errors import InputError
from convbench.operands import reals
from convbench.reference import reference
from convbench.spec import ConvSpec
from convbench.verify import Checker
from convbench_kernels.numba_cpu import auto, winograd
from convbench_kernels.numba_cpu.winograd import TILES, Problem, strips

POINTS = [Fraction(0), Fraction(1), Fraction(-1), Fraction(1, 2), Fraction(-2)]


def toom_cook():
    """A^T, G, B^T of F(4, 3) from the points and infinity (Barabasz et al., arXiv 1803.10986, section 3)."""

    def product(roots):
        coefficients = [Fraction(1)]
        for root in roots:
            shifted = [Fraction(0), *coefficients]
            coefficients = [a - root * b for a, b in zip(shifted, [*coefficients, Fraction(0)], strict=True)]
        return coefficients

    norms = [np.prod([p - q for q in POINTS if q != p]) for p in POINTS]
    a = [[p**i for p in POINTS] + [Fraction(int(i == 3))] for i in range(4)]
    g = [[p**j / n for j in range(3)] for p, n in zip(POINTS, norms, strict=True)] + [[0, 0, 1]]
    b = [[*product([q for q in POINTS if q != p]), Fraction(0)] for p in POINTS] + [product(POINTS)]
    return (np.array(m, dtype=np.float64) for m in (a, g, b))


def test_the_points_give_a_convolution():
    a, g, b = toom_cook()
    draw = np.random.default_rng(0)
    d, w = draw.standard_normal(6), draw.standard_normal(3)
    assert a @ ((g @ w) * (b @ d)) == pytest.approx([w @ d[i : i + 3] for i in range(4)])


def test_error_factor_is_the_growth_of_the_terms_in_the_transformed_domain():
    """Root mean square of A (Gg * Bd) before it cancels, over that of the plain sum, largest output; squared for 2D."""
    a, g, b = toom_cook()
    terms = a**2 @ ((g**2).sum(1) * (b**2).sum(1))
    assert pytest.approx(terms.max() / 3, rel=0.05) == winograd.ERROR_FACTOR


SPECS = {
    "tile": {"input": [1, 8, 6, 6], "out_channels": 8, "padding": 1},
    "more than a block": {"input": [1, 5, 60, 60], "out_channels": 19, "padding": 1, "bias": True},
    "no padding, batch": {"input": [3, 17, 9, 13], "out_channels": 33},
    "wide padding": {"input": [2, 3, 4, 5], "out_channels": 7, "padding": 5},
    "dilation 2": {"input": [1, 16, 13, 15], "out_channels": 16, "padding": 2, "dilation": 2},
    "dilation beyond the map": {"input": [1, 4, 5, 5], "out_channels": 4, "padding": 9, "dilation": (9, 7)},
    "one pixel": {"input": [1, 3, 1, 1], "out_channels": 2, "padding": 1},
    "wider than a strip": {"input": [1, 2, 6, 5 * TILES], "out_channels": 3, "padding": 1},
}


@pytest.mark.parametrize(("name", "pass_"), list(itertools.product(SPECS, ["forward", "data_gradient"])))
def test_within_its_tolerance(name, pass_):
    case = Case(ConvSpec.create(**SPECS[name], kernel=3), pass_)
    assert not winograd.supports(case)
    kernel, checker = winograd.build(case), Checker(case)
    assert not kernel.exact
    for found in (checker.before(winograd.IMPLEMENTATION, kernel), checker.after(winograd.IMPLEMENTATION, kernel)):
        assert found.status == "ok", found.detail


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 70)), channels=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    padding=st.tuples(st.integers(0, 4), st.integers(0, 4)), dilation=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    batch=st.integers(1, 2), pass_=st.sampled_from(["forward", "data_gradient"]),
)  # fmt: skip
def test_drawn(size, channels, padding, dilation, batch, pass_):
    try:
        spec = ConvSpec.create([batch, channels[0], *size], channels[1], 3, padding=padding, dilation=dilation)
    except InputError:
        return
    case = Case(spec, pass_)
    operands = reals(case, 3)
    kernel = winograd.build(case)
    results = []
    for threads in (1, numba.config.NUMBA_NUM_THREADS):
        torch.set_num_threads(threads)
        results.append(kernel.run(*operands.values()))
    assert torch.equal(*results), "the same on any number of threads"
    (expected,) = reference(case, operands)
    error = torch.linalg.vector_norm(results[0] - expected)
    assert error <= 1e-5 * torch.linalg.vector_norm(expected) + 1e-30


@pytest.mark.parametrize("output", [(56, 56), (7, 9), (1, 200)])
@pytest.mark.parametrize("dilation", [(1, 1), (2, 3)])
def test_strips_cover_every_output_once(output, dilation):
    problem = Problem(2, 1, 1, output, output, (1, 1), dilation, 9, 9, False)
    table, begins = strips(problem)
    p, q = output
    seen = np.zeros((2, p * q), int)
    for row in table:
        for i in range(row[winograd.HEIGHT]):
            at = row[winograd.OUT] + i * dilation[0] * q
            seen[row[winograd.IMAGE], at : at + row[winograd.LENGTH] * dilation[1] : dilation[1]] += 1
    assert (seen == 1).all()
    assert (begins[0], begins[-1]) == (0, len(table))
    for block, (begin, end) in enumerate(itertools.pairwise(begins)):
        tiles = [t for row in table[begin:end] for t in range(row[0], row[0] + row[1])]
        assert tiles == list(range(len(tiles)))
        assert len(tiles) == TILES or block == len(begins) - 2


@pytest.mark.parametrize(
    ("shape", "out", "chosen"),
    [([1, 128, 56, 56], 128, True), ([1, 3, 224, 224], 64, False), ([1, 512, 7, 7], 512, False)],
)
def test_auto_takes_it_where_it_pays(shape, out, chosen):
    case = Case(ConvSpec.create(shape, out, 3, padding=1))
    assert (auto.choose(case).name == "numba.winograd") == chosen
