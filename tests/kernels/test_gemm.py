"""numba.gemm: pointwise convolutions, exactly, on every path (in place, gathered, tail copied, packed or not)."""

import pytest

from convbench.case import Case
from convbench_kernels.numba_cpu.gemm import IMPLEMENTATION
from convbench_kernels.numba_cpu.geometry import IN_PLACE, forward_taps, plan
from convbench_kernels.numba_cpu.tiles import ISA, LANES, MR, NR
from tests.kernels.dense_cases import AROUND_TILES, PIXELS_AROUND_TILES, check_all_passes, spec

ODD = {
    "one pixel": spec([1, 1, 1, 1], 1, 1),
    "few pixels, many channels": spec([1, 70, 7, 7], 8 * MR, 1, bias=True),
    "many pixels": spec([1, 5, 61, 67], 11, 1),
    "batch and bias": spec([3, 17, 9, 5], 2 * MR, 1, bias=True),
    "groups": spec([3, 12, 5, 11], 20, 1, groups=4, bias=True),
    "stride": spec([2, 6, 9, 10], 7, 1, stride=(2, 3)),
    "stride larger than the image": spec([2, 6, 4, 3], 7, 1, stride=5),
    "padding": spec([2, 3, 4, 6], 5, 1, padding=(1, 2), bias=True),
    "padding and stride": spec([2, 3, 9, 6], 5, 1, padding=(1, 3), stride=(3, 2), groups=1),
    "deep": spec([1, 600, 3, 4], 40, 1),
    "batch of small maps": spec([3, 256, 7, 7], 256, 1),
    "batch of small maps, groups": spec([4, 128, 5, 5], 600, 1, groups=2),
    "batch of maps smaller than a vector": spec([7, 64, 1, 3], 257, 1),
    "transposed": spec([2, 9, 6, 5], 7, 1, operator="conv_transpose2d", bias=True),
    "transposed, stride": spec([2, 9, 6, 5], 7, 1, operator="conv_transpose2d", stride=2, output_padding=1, bias=True),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_shapes(name):
    assert check_all_passes(IMPLEMENTATION, ODD[name]) == 3


@pytest.mark.parametrize("pixels", PIXELS_AROUND_TILES)
@pytest.mark.parametrize("k", AROUND_TILES)
def test_around_the_register_tile(pixels, k):
    assert check_all_passes(IMPLEMENTATION, spec([2, MR + 1, 1, pixels], k, 1)) == 3


def test_weights_are_packed_only_where_it_pays():
    shapes = ((49, 8 * MR), (49, 8 * MR + 1), (NR * LANES * ISA.in_place + 1, 8 * MR))
    few, odd, many = (plan(forward_taps(spec([1, 16, 1, pixels], k, 1))).geometry for pixels, k in shapes)
    assert (few.pack_w, odd.pack_w, many.pack_w) == (0, 1, 1)
    assert few.source == odd.source == many.source == IN_PLACE


def test_says_what_it_does_not_do():
    assert "1 x 1" in IMPLEMENTATION.supports(Case(spec([1, 4, 8, 8], 4, 3)))
    assert "depthwise" in IMPLEMENTATION.supports(Case(spec([1, 4, 8, 8], 4, 1, groups=4)))
    assert IMPLEMENTATION.supports(Case(spec([1, 4, 8, 8], 4, 1), dtype="float64"))
    assert IMPLEMENTATION.build(Case(spec([1, 4, 8, 8], 4, 1))).algorithm.startswith("gemm_")
