"""numba.direct: exact on integers, any shape, any number of threads, from cold start to NaN."""

from contextlib import suppress
from unittest import mock

import numba
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convbench.case import Case
from convbench.errors import InputError
from convbench.spec import ConvSpec
from convbench_kernels.numba_cpu import dots, geometry, weight_gradient
from convbench_kernels.numba_cpu.direct import IMPLEMENTATION
from tests.kernels.dense_cases import (
    AROUND_TILES,
    PIXELS_AROUND_TILES,
    check,
    check_all_passes,
    expected,
    operands,
    passes,
    spec,
)

ODD = {
    "1x1 image, 1x1 kernel": spec([1, 1, 1, 1], 1, 1),
    "1x1 image, padded 3x3": spec([2, 5, 1, 1], 3, 3, padding=1, bias=True),
    "kernel larger than the image": spec([1, 3, 4, 5], 6, 7, padding=3),
    "kernel that mostly misses": spec([1, 2, 3, 3], 4, 3, padding=9, dilation=9),
    "stem 7x7 stride 2": spec([1, 3, 33, 35], 17, 7, stride=2, padding=3, bias=True),
    "asymmetric everything": spec([3, 6, 11, 17], 10, (3, 2), stride=(2, 1), padding=(0, 2), dilation=(1, 3), groups=2),
    "asymmetric, stride 1": spec([3, 6, 11, 17], 10, (2, 5), padding=(3, 1), dilation=(2, 1), groups=2, bias=True),
    "primes": spec([3, 13, 23, 29], 19, 5, padding=2),
    "wide dilation": spec([1, 4, 28, 28], 8, 3, padding=12, dilation=12),
    "atrous rate beyond the map": spec([1, 4, 9, 9], 8, 3, padding=18, dilation=18),
    "padding beyond the kernel": spec([2, 3, 5, 6], 4, 3, padding=5),
    "stride larger than the kernel": spec([2, 3, 14, 13], 9, 2, stride=(5, 3)),
    "tall and narrow": spec([2, 3, 40, 1], 5, (3, 1), padding=(1, 0)),
    "one row": spec([1, 3, 1, 70], 5, (1, 3), padding=(0, 1)),
    "many groups": spec([2, 12, 7, 9], 24, 3, padding=1, groups=6),
    "batch over several blocks": spec([7, 40, 58, 60], 3, 3, padding=1),
    "transposed, stride 1": spec([2, 5, 9, 8], 6, 3, operator="conv_transpose2d", padding=1, bias=True),
    "transposed, stride 2": spec([3, 6, 7, 5], 8, 4, operator="conv_transpose2d", stride=2, padding=1, groups=2),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_shapes(name):
    assert check_all_passes(IMPLEMENTATION, ODD[name]) >= 2


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(2, 5), h=st.integers(1, 20), w=st.integers(1, 20), c=st.sampled_from([16, 17, 33]),
    k=st.sampled_from([32, 40, 65]), kernel=st.sampled_from([(3, 3), (3, 1), (1, 3), (5, 5), (2, 2)]),
    stride=st.sampled_from([(1, 1), (2, 2), (1, 2), (3, 1)]), padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=st.sampled_from([(1, 1), (2, 2), (5, 4)]), groups=st.integers(1, 2),
)  # fmt: skip
def test_batches_of_small_maps(batch, h, w, c, k, kernel, stride, padding, dilation, groups):
    """Maps that are cut into tiles as one: a tile ends anywhere in an image, or holds several."""
    with suppress(InputError):
        drawn = spec([batch, c * groups, h, w], k * groups, kernel, stride=stride, padding=padding, dilation=dilation,
                     groups=groups, bias=True)  # fmt: skip
        assert check_all_passes(IMPLEMENTATION, drawn) >= 2


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(1, 3), h=st.integers(5, 20), w=st.integers(5, 20), c=st.sampled_from([16, 20]),
    k=st.sampled_from([32, 40]), kernel=st.sampled_from([(3, 3), (5, 3), (1, 3)]), groups=st.integers(1, 2),
    stride=st.sampled_from([(1, 1), (2, 1)]), dilation=st.sampled_from([(4, 4), (6, 9), (12, 12), (1, 7)]),
    less=st.integers(0, 2),
)  # fmt: skip
def test_passes_cut_into_rectangles(batch, h, w, c, k, kernel, groups, stride, dilation, less):
    padding = tuple(max(0, d * (size - 1) // 2 - less) for d, size in zip(dilation, kernel, strict=True))
    with suppress(InputError):
        drawn = spec([batch, c * groups, h, w], k * groups, kernel, stride=stride, padding=padding, dilation=dilation,
                     groups=groups, bias=True)  # fmt: skip
        assert check_all_passes(IMPLEMENTATION, drawn) >= 2


def test_which_passes_are_cut():
    def pieces(*shape, **rest):
        return len(geometry.rectangles(geometry.forward_taps(spec(*shape, **rest))))

    assert pieces([1, 64, 33, 33], 64, 3, padding=12, dilation=12) == 9
    assert pieces([4, 64, 16, 16], 64, 3, padding=(0, 6), dilation=(1, 6)) == 3
    assert pieces([1, 64, 56, 56], 64, 3, padding=1) == 1, "padding is little"
    assert pieces([1, 64, 7, 7], 64, 3, padding=1) == 1, "corners would leave vectors empty"
    assert pieces([1, 8, 33, 33], 64, 3, padding=12, dilation=12) == 1, "planes are padded"


def test_small_maps_are_joined_where_no_dot_products_take_their_last_pixels():
    def images(*shape):
        return geometry.plan(geometry.forward_taps(spec(*shape, padding=1))).geometry.images

    assert images([3, 64, 9, 9], 65, 3) == 1
    assert images([3, 64, 8, 8], 65, 3) == 3, "whole vectors"
    assert images([3, 64, 40, 41], 65, 3) == 3, "large maps"


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 3), h=st.integers(1, 30), w=st.integers(1, 30), c=st.sampled_from([3, 8, 15, 16, 40]),
    k=st.sampled_from([4, 16, 20, 65]), kernel=st.sampled_from([(3, 3), (1, 1), (1, 3), (5, 5), (2, 2)]),
    stride=st.sampled_from([(1, 1), (2, 2), (1, 2)]), padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    dilation=st.sampled_from([(1, 1), (2, 3), (6, 6)]), groups=st.integers(1, 2),
    chunk=st.sampled_from([30, 200, 3000]), packed=st.sampled_from([10_000, 8 << 20]),
)  # fmt: skip
def test_weight_gradient_in_pieces(batch, h, w, c, k, kernel, stride, padding, dilation, groups, chunk, packed):
    """Rows of tiles are one tap's channels or pairs, sums are visited once or often, images packed together or not."""
    with (
        suppress(InputError),
        mock.patch.object(weight_gradient, "CHUNK", chunk),
        mock.patch.object(weight_gradient, "PACKED_BYTES", packed),
        mock.patch.object(dots, "pays", lambda taps: False),
    ):
        drawn = spec([batch, c * groups, h, w], k * groups, kernel, stride=stride, padding=padding, dilation=dilation,
                     groups=groups)  # fmt: skip
        check(IMPLEMENTATION, Case(drawn, "weight_gradient"))


def test_rows_of_a_weight_gradient_are_what_leaves_less_to_multiply():
    def padded(*shape, **rest):
        return weight_gradient.plan_reduction(geometry.forward_taps(spec(*shape, **rest))).reduction.padded

    assert padded([1, 3, 32, 32], 16, 7, padding=3), "three channels fill no tile"
    assert not padded([1, 64, 32, 32], 16, 3, padding=1)
    assert not padded([1, 20, 28, 28], 16, 3, padding=12, dilation=12), "most products are with padding"


@pytest.mark.parametrize("k", AROUND_TILES)
@pytest.mark.parametrize("c", AROUND_TILES)
def test_channels_around_the_register_tile(c, k):
    assert check_all_passes(IMPLEMENTATION, spec([2, c, 6, 7], k, 3, padding=1)) == 3


@pytest.mark.parametrize("w", PIXELS_AROUND_TILES)
def test_pixels_around_the_register_tile(w):
    assert check_all_passes(IMPLEMENTATION, spec([1, 3, 3, w], 9, 3, padding=1)) == 3
    assert check_all_passes(IMPLEMENTATION, spec([1, 3, 1, w], 9, (1, 1))) == 3


sizes = st.integers(1, 12)


@st.composite
def convolutions(draw):
    groups = draw(st.integers(1, 3))
    pairs = [
        (draw(st.integers(low, high)), draw(st.integers(low, high))) for low, high in ((1, 5), (1, 3), (0, 4), (1, 3))
    ]
    kernel, stride, padding, dilation = pairs
    input = [draw(st.integers(1, 3)), groups * draw(sizes), draw(sizes), draw(st.integers(1, 40))]
    try:
        return ConvSpec.create(
            input, groups * draw(sizes), kernel, draw(st.sampled_from(["conv2d", "conv_transpose2d"])),
            stride, padding, dilation, groups, bias=draw(st.booleans()),
        )  # fmt: skip
    except InputError:
        return spec(input, groups * draw(sizes), 1, groups=groups)


@settings(max_examples=60, deadline=None)
@given(convolutions())
def test_any_convolution(drawn):
    check_all_passes(IMPLEMENTATION, drawn)


def test_result_does_not_depend_on_threads():
    ran = torch.get_num_threads()
    drawn = torch.Generator().manual_seed(1)
    for case in passes(spec([3, 20, 15, 13], 30, 3, padding=1, groups=2)):
        arguments = [torch.randn(case.operand_shape(n), generator=drawn) for n in case.operand_names]
        kernel = IMPLEMENTATION.build(case)
        try:
            results = []
            for threads in range(1, numba.config.NUMBA_NUM_THREADS + 1):
                torch.set_num_threads(threads)
                results.append(kernel.run(*arguments))
        finally:
            torch.set_num_threads(ran)
        assert all(torch.equal(results[0], other) for other in results[1:])


def test_non_contiguous_and_grad_tracking_operands():
    case = passes(spec([2, 6, 9, 10], 7, 3, padding=1))[0]
    x, w = operands(case)
    wanted = expected(case, [x, w])
    kernel = IMPLEMENTATION.build(case)
    strided = x.to(memory_format=torch.channels_last)
    assert not strided.is_contiguous()
    assert torch.equal(kernel.run(strided, w.transpose(2, 3).contiguous().transpose(2, 3)), wanted)
    assert torch.equal(kernel.run(x.requires_grad_(True), w), wanted)


def test_nan_and_infinity_come_through_where_they_belong():
    case = passes(spec([1, 3, 6, 6], 4, 3, padding=1))[0]
    x, w = torch.ones(1, 3, 6, 6), torch.ones(4, 3, 3, 3)
    x[0, 1, 0, 0] = torch.nan
    x[0, 2, 5, 5] = torch.inf
    y = IMPLEMENTATION.build(case).run(x, w)
    reached = torch.zeros(6, 6, dtype=torch.bool)
    reached[:2, :2] = True
    assert all(torch.equal(plane.isnan(), reached) for plane in y[0])
    assert all(torch.equal(plane.isinf(), reached.flip(0, 1)) for plane in y[0])


def test_inputs_at_the_end_of_memory_are_not_overread(monkeypatch):
    """Each operand ends where its buffer ends: what follows is NaN, and what precedes."""
    for case in passes(spec([2, 5, 7, 5], 6, 3, padding=1)) + passes(spec([2, 5, 7, 5], 6, 1)):
        arguments = operands(case)
        guarded = []
        for tensor in arguments:
            buffer = torch.full((tensor.numel() + 512,), torch.nan)
            inner = buffer[256:-256].view(tensor.shape)
            guarded.append(inner.copy_(tensor))
        assert torch.equal(IMPLEMENTATION.build(case).run(*guarded), expected(case, arguments))


@pytest.mark.parametrize("vectors", ["row", "flat"])
def test_both_layouts_of_pixels_were_exercised(vectors):
    by_row = [bool(geometry.plan(geometry.forward_taps(s)).geometry.row_vectors) for s in ODD.values()
              if not s.is_transposed]  # fmt: skip
    assert any(by_row) if vectors == "row" else not all(by_row)


def test_says_what_it_does_not_do():
    strided = spec([1, 4, 8, 8], 4, 3, stride=2, padding=1)
    assert "stride" in IMPLEMENTATION.supports(Case(strided, "data_gradient"))
    assert "float32" in IMPLEMENTATION.supports(Case(strided, dtype="float64"))
    assert "CPU" in IMPLEMENTATION.supports(Case(strided, device="cuda"))
    assert IMPLEMENTATION.supports(Case(strided.separable()))
    assert IMPLEMENTATION.build(Case(strided)).algorithm.startswith("direct_")
