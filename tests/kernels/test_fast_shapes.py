"""Depthwise, phases, fused and auto on drawn shapes: exact on integers, and the same on one thread and on two."""

import numba
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convbench.case import Case
from convbench.errors import InputError
from convbench.operands import integers
from convbench.reference import reference
from convbench.spec import PASSES, ConvSpec
from convbench_kernels.numba_cpu import auto, direct, fused, gemm, pair, phases
from convbench_kernels.numba_cpu.tiles import LANES

WIDTHS = st.sampled_from([1, 2, 3, LANES - 1, LANES, LANES + 1, 2 * LANES + 1, 37])
PAIRS = st.tuples(st.integers(1, 3), st.integers(1, 3))


def agree(implementation, case):
    """Exactly, on one thread and on all."""
    kernel = implementation.build(case)
    operands = integers(case, 7)
    expected = reference(case, operands)
    for threads in (1, numba.config.NUMBA_NUM_THREADS):
        torch.set_num_threads(threads)
        try:
            out = kernel.run(*operands.values())
        finally:
            torch.set_num_threads(numba.config.NUMBA_NUM_THREADS)
        for got, want in zip(out if isinstance(out, tuple) else (out,), expected, strict=True):
            torch.testing.assert_close(got.double(), want, rtol=0, atol=0)


def drawn(**words):
    """A spec, or None where the drawn sizes leave no output."""
    try:
        return ConvSpec.create(**words)
    except InputError:
        return None


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    h=WIDTHS, w=WIDTHS, channels=st.integers(1, 5), multiplier=st.integers(1, 2), kernel=PAIRS, stride=PAIRS,
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)), dilation=PAIRS, batch=st.integers(1, 2),
    pass_=st.sampled_from(PASSES), transposed=st.booleans(), bias=st.booleans(),
)  # fmt: skip
def test_depthwise(h, w, channels, multiplier, kernel, stride, padding, dilation, batch, pass_, transposed, bias):
    channels += 1
    spec = drawn(
        input=[batch, channels, h, w], out_channels=channels * multiplier, kernel=kernel, stride=stride,
        padding=padding, dilation=dilation, groups=channels, bias=bias,
        operator="conv_transpose2d" if transposed else "conv2d",
    )  # fmt: skip
    case = Case(spec, pass_) if spec else None
    if case and not auto.supports(case):
        agree(auto.IMPLEMENTATION, case)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    h=st.integers(1, 9), w=WIDTHS, c=st.integers(1, 3), k=st.integers(1, 9), groups=st.integers(1, 2), kernel=PAIRS,
    stride=PAIRS, padding=st.tuples(st.integers(0, 2), st.integers(0, 2)), dilation=PAIRS,
    output_padding=st.tuples(st.integers(0, 2), st.integers(0, 2)), batch=st.integers(1, 2), bias=st.booleans(),
)  # fmt: skip
def test_transposed_by_phases(
    h, w, c, k, groups, kernel, stride, padding, dilation, output_padding, batch, bias
):  # fmt: skip
    spec = drawn(
        input=[batch, c * groups, h, w], out_channels=k * groups, kernel=kernel, stride=stride, padding=padding,
        dilation=dilation, groups=groups, output_padding=output_padding, bias=bias, operator="conv_transpose2d",
    )  # fmt: skip
    if spec and not phases.supports(Case(spec)):
        agree(phases.IMPLEMENTATION, Case(spec))


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    h=WIDTHS, w=WIDTHS, c=st.integers(1, 9), k=st.sampled_from([1, 7, 8, 9, 17]), kernel=PAIRS, stride=PAIRS,
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)), batch=st.integers(1, 3), pass_=st.sampled_from(PASSES),
    bias=st.booleans(), implementation=st.sampled_from([fused, pair]),
)  # fmt: skip
def test_separable_pair(h, w, c, k, kernel, stride, padding, batch, pass_, bias, implementation):
    spec = drawn(
        input=[batch, c, h, w], out_channels=k, kernel=kernel, stride=stride, padding=padding, bias=bias,
        operator="separable_conv2d",
    )  # fmt: skip
    if spec and not implementation.supports(Case(spec, pass_)):
        agree(implementation.IMPLEMENTATION, Case(spec, pass_))


def test_fused_splits_large_maps_into_blocks_that_fit():
    spec = ConvSpec.create([1, 256, 57, 59], 24, 3, padding=1, operator="separable_conv2d")
    sizes = fused.sizes(spec, 2)
    assert sizes.blocks > 1
    assert sizes.rows * sizes.blocks >= spec.p > sizes.rows * (sizes.blocks - 1)
    assert 4 * spec.c * sizes.pitch <= 1.2 * fused.PANEL_BYTES
    agree(fused.IMPLEMENTATION, Case(spec))


@pytest.mark.parametrize(
    ("words", "pass_", "chosen"),
    [
        ({"kernel": 1}, "forward", gemm),
        ({"kernel": 3}, "forward", direct),
        ({"kernel": 3, "dilation": 2}, "weight_gradient", direct),
        ({"kernel": 3, "groups": 8}, "forward", direct),
        ({"kernel": 3, "stride": 2}, "data_gradient", phases),
        ({"kernel": 4, "stride": 2, "operator": "conv_transpose2d"}, "forward", phases),
        ({"kernel": 3, "operator": "separable_conv2d"}, "forward", fused),
        ({"kernel": 3, "operator": "separable_conv2d"}, "weight_gradient", pair),
    ],
)
def test_auto_takes_the_first_row_that_fits_and_says_what_it_took(words, pass_, chosen):
    case = Case(ConvSpec.create(input=[1, 8, 16, 16], out_channels=8, padding=1, **words), pass_)
    assert auto.choose(case) is chosen.IMPLEMENTATION
    assert auto.build(case).algorithm == chosen.build(case).algorithm


def test_auto_says_why_not():
    spec = ConvSpec.create([1, 8, 16, 16], 8, 3)
    assert "float32" in auto.supports(Case(spec, dtype="float64"))
    assert "CPU" in auto.supports(Case(spec, device="cuda:0"))
