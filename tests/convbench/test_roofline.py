"""The roofline against the worked example of the 14x14x512 layer, and its edges."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convbench.case import Case
from convbench.count import compulsory_bytes, flops
from convbench.results import Peak
from convbench.roofline import attainable, bandwidths, compute_peak
from convbench.spec import ConvSpec

DENSE = ConvSpec.create([1, 512, 14, 14], 512, 3, padding=1)
PAIR = DENSE.separable()


def peak(quantity, value, level="DRAM", size=2**30, device="cpu", dtype="float32"):
    return Peak(quantity=quantity, level=level, device=device, dtype=dtype, value=value, working_set_bytes=size)


def seconds(spec, peaks):
    roof = attainable(flops(spec), compulsory_bytes(Case(spec)), peaks, "cpu", "float32")
    assert roof
    return roof.seconds(flops(spec))


@pytest.mark.parametrize(("flops_per_s", "expected"), [(1e12, "6.430"), (1e11, "8.654")])
def test_worked_example(flops_per_s, expected):
    peaks = [peak("fma", flops_per_s), peak("triad", 20e9)]
    ratio = seconds(DENSE, peaks) / (seconds(PAIR.depthwise(), peaks) + seconds(PAIR.pointwise(), peaks))
    assert f"{ratio:.3f}" == expected
    assert flops(DENSE) / flops(PAIR) == pytest.approx(8.8445, abs=5e-5)


def test_ridge_and_what_bounds():
    peaks = [peak("fma", 100e9), peak("gemm", 90e9), peak("copy", 20e9), peak("triad", 25e9)]
    below, above = (attainable(x, 1, peaks, "cpu", "float32") for x in (3.9, 4.0))
    assert below and above
    assert (below.ridge, below.bound, below.flops_per_s) == (4.0, "DRAM", 25e9 * 3.9)
    assert (above.bound, above.flops_per_s, above.level) == ("compute", 100e9, "DRAM")


def test_the_better_compute_probe_counts():
    assert compute_peak([peak("fma", 1e9), peak("gemm", 2e9)], "cpu", "float32") == 2e9


LEVELS = [
    peak("fma", 1e12), peak("copy", 20e9), peak("copy", 300e9, "L1", 1000), peak("triad", 320e9, "L1", 1200),
    peak("copy", 100e9, "L2", 10_000),
]  # fmt: skip


@pytest.mark.parametrize(
    ("bytes_", "level", "rate"),
    [(1, "L1", 320e9), (2400, "L1", 320e9), (2401, "L2", 100e9), (20_000, "L2", 100e9), (20_001, "DRAM", 20e9),
     (2**40, "DRAM", 20e9)],
)  # fmt: skip
def test_bandwidth_of_the_level_that_holds_the_bytes(bytes_, level, rate):
    """A probe's working set is half its level, so twice the working set still fits."""
    roof = attainable(bytes_, bytes_, LEVELS, "cpu", "float32")
    assert roof
    assert (roof.level, roof.bytes_per_s, roof.bound) == (level, rate, level)


def test_levels_are_ordered_innermost_first():
    assert [level for level, _, _ in bandwidths(LEVELS, "cpu")] == ["L1", "L2", "DRAM"]


def test_a_level_without_a_working_set_holds_anything():
    peaks = [peak("fma", 1e12), peak("copy", 1e9, "DRAM", None), peak("copy", 5e9, "L2", 100)]
    roofs = [attainable(1, size, peaks, "cpu", "float32") for size in (200, 201, 10**15)]
    assert [roof and roof.level for roof in roofs] == ["L2", "DRAM", "DRAM"]


@pytest.mark.parametrize(
    "peaks",
    [
        [],
        [peak("fma", 1e12)],
        [peak("copy", 1e9)],
        [peak("fma", 1e12, device="cuda:0"), peak("copy", 1e9)],
        [peak("fma", 1e12), peak("copy", 1e9, device="cuda:0")],
        [peak("fma", 1e12, dtype="bfloat16"), peak("copy", 1e9)],
    ],
)
def test_no_roof_without_peaks_of_this_device_and_dtype(peaks):
    assert attainable(1, 1, peaks, "cpu", "float32") is None


def test_bandwidth_does_not_depend_on_the_probes_dtype():
    roof = attainable(1, 1, [peak("fma", 1e12, dtype="float64"), peak("copy", 1e9)], "cpu", "float64")
    assert roof
    assert roof.flops_per_s == 1e9


@given(st.floats(1, 1e12), st.floats(1, 1e12), st.floats(1, 1e15), st.floats(1, 1e13))
def test_never_above_either_limit(work, bytes_, compute, rate):
    roof = attainable(work, bytes_, [peak("fma", compute), peak("copy", rate)], "cpu", "float32")
    assert roof
    assert roof.flops_per_s <= compute
    least = max(work / compute, bytes_ / rate)
    assert roof.seconds(work) == pytest.approx(least)
    # On the ridge both limits are met, and rounding decides which one is named.
    assert roof.flops_per_s == pytest.approx(compute if roof.bound == "compute" else rate * work / bytes_)
