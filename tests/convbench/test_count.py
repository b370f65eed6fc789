"""Counts against published numbers, against brute force, and the identities between them."""

import itertools

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from convbench.case import Case
from convbench.count import _below, compulsory_bytes, flops, intensity, macs, params, valid_macs
from convbench.errors import InputError
from convbench.spec import PASSES, ConvSpec
from convbench.suites import builtin

DENSE = ConvSpec.create([1, 512, 14, 14], 512, 3, padding=1)
PAIR = DENSE.separable()

# suite, parameters and MACs of the whole network, MACs of its convolutions
NETWORKS = [
    ("vgg16", 138_357_544, 15_470_264_320, 15_346_630_656),
    ("resnet18", 11_689_512, 1_814_073_344, None),
    ("resnet50", 25_557_032, 4_089_184_256, None),
    ("resnet50_v1", 25_557_032, 3_857_973_248, None),
    ("mobilenet_v1", 4_231_976, 568_740_352, 567_716_352),
    ("mobilenet_v1_full", 29_294_088, None, 4_866_269_184),
    ("mobilenet_v2", 3_504_872, 300_774_272, None),
    ("efficientnet_b0", 5_288_548, 385_814_752, None),
]


@pytest.mark.parametrize(("name", "parameters", "network_macs", "conv_macs"), NETWORKS)
def test_published_networks(name, parameters, network_macs, conv_macs):
    suite = builtin(name)
    assert suite.network_params() == parameters
    if network_macs:
        assert suite.network_macs() == network_macs
    if conv_macs:
        assert sum(layer.count * macs(layer.spec) for layer in suite.layers) == conv_macs


def test_mobilenet_v1_layer_by_layer():
    """(depthwise MACs, pointwise MACs) of each block, in the order of the paper's Table 1."""
    layers = {layer.name: layer for layer in builtin("mobilenet_v1").layers}
    assert macs(layers.pop("conv1").spec) == 10_838_016
    blocks = [
        (3_612_672, 25_690_112), (1_806_336, 25_690_112), (3_612_672, 51_380_224), (903_168, 25_690_112),
        (1_806_336, 51_380_224), (451_584, 25_690_112), *[(903_168, 51_380_224)] * 5, (225_792, 25_690_112),
        (451_584, 51_380_224),
    ]  # fmt: skip
    counted = [macs(layer.spec) for layer in layers.values() for _ in range(layer.count)]
    assert sorted(counted) == sorted(itertools.chain(*blocks))
    assert [macs(layer.spec) for layer in layers.values()][:4] == [*blocks[0], *blocks[1]]


def test_resnet50_has_53_convolutions():
    counts = {}
    for layer in builtin("resnet50").layers:
        key = (layer.spec.r, macs(layer.spec))
        counts[key] = counts.get(key, 0) + layer.count
    assert counts == {
        (7, 118_013_952): 1, (1, 12_845_056): 1, (3, 115_605_504): 16, (1, 51_380_224): 29, (1, 102_760_448): 6,
    }  # fmt: skip
    assert sum(counts.values()) == 53


def test_dense_against_separable():
    assert (macs(DENSE), params(DENSE)) == (462_422_016, 2_359_296)
    assert (macs(PAIR), params(PAIR)) == (52_283_392, 266_752)
    assert macs(DENSE) / macs(PAIR) == pytest.approx(8.8445, abs=5e-5)
    assert macs(DENSE) / macs(PAIR) == pytest.approx(1 / (1 / 512 + 1 / 9))


@pytest.mark.parametrize(
    ("words", "expected_macs", "bias"),
    [
        ({"input": [2, 4, 8, 8], "out_channels": 6, "kernel": 4, "stride": 2, "padding": 1}, 49_152, 6),
        ({"input": [2, 4, 8, 8], "out_channels": 4, "groups": 4, "kernel": 3, "stride": 2, "padding": 1,
          "output_padding": 1}, 4_608, 4),
        ({"input": [2, 6, 8, 8], "out_channels": 6, "groups": 3, "kernel": 2, "stride": 2}, 6_144, 6),
    ],
)  # fmt: skip
def test_transposed_counts_on_the_input_grid(words, expected_macs, bias):
    spec = ConvSpec.create(operator="conv_transpose2d", bias=True, **words)
    assert {macs(spec, p) for p in PASSES} == {expected_macs}
    assert params(spec) == spec.c * spec.k // spec.groups * spec.r * spec.s + bias


def test_transposed_bias_is_not_in_macs():
    spec = ConvSpec.create([2, 4, 8, 8], 6, 4, "conv_transpose2d", stride=2, padding=1)
    assert (spec.p, spec.q) == (16, 16)
    assert spec.n * spec.k * spec.p * spec.q == 3_072  # what adding the bias would take
    assert macs(ConvSpec.create([2, 4, 8, 8], 6, 4, "conv_transpose2d", stride=2, padding=1, bias=True)) == macs(spec)


def test_depthwise_passes():
    spec = ConvSpec.create([2, 16, 8, 8], 16, 3, padding=1, groups=16)
    assert [macs(spec, p) for p in PASSES] == [18_432] * 3


def test_aspp_counts_the_same_at_every_rate_but_meets_fewer_pixels():
    specs = [ConvSpec.create([1, 2048, 33, 33], 256, 3, padding=d, dilation=d) for d in (1, 6, 12, 18, 33)]
    assert {macs(spec) for spec in specs} == {5_138_546_688}
    valid = [valid_macs(spec) for spec in specs]
    assert valid == sorted(valid, reverse=True)
    assert valid[-1] == 2048 * 256 * 33 * 33  # only the middle tap meets the image


@pytest.mark.parametrize(
    ("spec", "expected"), [(DENSE, "90.317"), (PAIR.depthwise(), "2.1995"), (PAIR.pointwise(), "55.504")]
)
def test_intensity(spec, expected):
    assert f"{intensity(Case(spec)):.5g}" == expected


def test_bytes_by_hand():
    spec = ConvSpec.create([2, 3, 5, 5], 4, 3, bias=True)
    x, w, y, bias = 2 * 3 * 25, 4 * 3 * 9, 2 * 4 * 9, 4
    assert compulsory_bytes(Case(spec)) == 4 * (x + w + bias + y)
    assert compulsory_bytes(Case(spec, "data_gradient", "float64")) == 8 * (y + w + x)
    assert compulsory_bytes(Case(spec, "weight_gradient", "bfloat16")) == 2 * (x + y + w)


def test_bytes_of_a_pair_leave_the_intermediate_out():
    spec = ConvSpec.create([1, 4, 6, 6], 8, 3, "separable_conv2d", stride=2, padding=1)
    x, weights, y = 4 * 36, 4 * 9 + 8 * 4, 8 * 9
    assert compulsory_bytes(Case(spec)) == 4 * (x + weights + y)
    assert compulsory_bytes(Case(spec, "weight_gradient")) == 4 * (x + weights + y + weights)


def test_separable_gradients():
    halves = macs(PAIR.depthwise()) + macs(PAIR.pointwise())
    assert [macs(PAIR, p) for p in PASSES] == [halves, halves, 2 * halves]
    assert valid_macs(PAIR, "weight_gradient") == 2 * valid_macs(PAIR)


# Properties ---------------------------------------------------------------------------------------

small = st.integers(1, 7)
pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


@st.composite
def specs(draw, operator=None):
    groups = draw(st.integers(1, 3))
    operator = operator or draw(st.sampled_from(["conv2d", "conv_transpose2d"]))
    try:
        return ConvSpec.create(
            [draw(st.integers(1, 2)), groups * draw(st.integers(1, 2)), draw(small), draw(small)],
            groups * draw(st.integers(1, 2)),
            (draw(st.integers(1, 9)), draw(st.integers(1, 4))),
            operator,
            stride=draw(pairs),
            padding=draw(st.tuples(st.integers(0, 4), st.integers(0, 4))),
            dilation=draw(pairs),
            groups=groups,
            output_padding=draw(st.tuples(st.integers(0, 2), st.integers(0, 2))) if operator != "conv2d" else 0,
            bias=draw(st.booleans()),
        )
    except InputError:
        assume(False)


def brute_force(spec: ConvSpec) -> tuple[int, int]:
    """(nominal, valid) MACs by visiting every tap, by the formula in convbench.spec."""
    nominal = valid = 0
    positions, size = ((spec.h, spec.w), (spec.p, spec.q))
    if not spec.is_transposed:
        positions, size = size, positions
    for i, j, r, s in itertools.product(range(positions[0]), range(positions[1]), range(spec.r), range(spec.s)):
        h = i * spec.stride[0] - spec.padding[0] + r * spec.dilation[0]
        w = j * spec.stride[1] - spec.padding[1] + s * spec.dilation[1]
        nominal += 1
        valid += 0 <= h < size[0] and 0 <= w < size[1]
    channel_pairs = spec.n * spec.c * spec.k // spec.groups
    return nominal * channel_pairs, valid * channel_pairs


@given(specs())
def test_counts_equal_brute_force(spec):
    assert (macs(spec), valid_macs(spec)) == brute_force(spec)
    assert {macs(spec, p) for p in PASSES} == {macs(spec)}
    assert flops(spec) == 2 * macs(spec)


@given(specs())
def test_valid_is_at_most_nominal_and_equal_without_padding(spec):
    assert 0 <= valid_macs(spec) <= macs(spec)
    if spec.padding == (0, 0):
        assert valid_macs(spec) == macs(spec)


@given(specs("conv_transpose2d"))
def test_a_transposed_convolution_counts_what_its_mirror_counts(spec):
    assume(all(o < s for o, s in zip(spec.output_padding, spec.stride, strict=True)))
    mirror = spec.mirrored()
    assert macs(spec) == macs(mirror)
    assert valid_macs(spec) == valid_macs(mirror)


@given(specs("conv2d"))
def test_paper_ratio_of_any_pair(spec):
    dense = spec.dense()
    pair = dense.separable()
    ratio = macs(dense) / macs(pair)
    assert ratio == pytest.approx(1 / (1 / spec.k + 1 / (spec.r * spec.s)))
    assert params(pair) == params(pair.depthwise()) + params(pair.pointwise())


@given(st.integers(-5, 99), *[st.integers(1, 9)] * 4)
def test_pairs_below_a_limit_equal_brute_force(limit, positions, stride, taps, dilation):
    met = sum(i * stride + r * dilation < limit for i in range(positions) for r in range(taps))
    assert _below(limit, positions, stride, taps, dilation) == met


def test_large_kernels_and_maps_count_at_once():
    spec = ConvSpec.create([1, 1, 10**6, 1], 1, (7, 1), padding=(3, 0))
    assert valid_macs(spec) == 7 * 10**6 - 2 * (1 + 2 + 3)
    mirror = ConvSpec.create([1, 1, 10**6, 1], 1, (10**6 + 2, 1), padding=(2, 0))  # few outputs, many taps
    assert macs(mirror) == 3 * (10**6 + 2)
    assert valid_macs(mirror) == 3 * 10**6
    both = ConvSpec.create([1, 1, 2**39, 1], 1, (2**38, 1))  # many of both
    assert valid_macs(both) == macs(both)
