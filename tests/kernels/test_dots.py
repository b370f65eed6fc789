"""Dot products over pixels on drawn shapes: exact on integers, in place and copied, on one thread and on two."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convbench.case import Case
from convbench.spec import ConvSpec
from convbench_kernels.numba_cpu import direct, dots
from convbench_kernels.numba_cpu.geometry import forward_taps
from tests.kernels.test_fast_shapes import PAIRS, WIDTHS, agree, drawn


@pytest.fixture(autouse=True)
def _for_few_pixels(monkeypatch):
    monkeypatch.setattr(dots, "PIXELS", 0)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    h=st.integers(1, 17), w=WIDTHS, c=st.integers(1, 9), k=st.integers(1, 11), groups=st.integers(1, 2),
    kernel=st.sampled_from([(1, 1), (3, 1), (1, 2)]), stride=PAIRS, dilation=PAIRS, batch=st.integers(1, 3),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
)  # fmt: skip
def test_any_shape(h, w, c, k, groups, kernel, stride, dilation, batch, padding):
    spec = drawn(
        input=[batch, c * groups, h, w], out_channels=k * groups, kernel=kernel, stride=stride, padding=padding,
        dilation=dilation, groups=groups,
    )  # fmt: skip
    if spec and not direct.supports(Case(spec, "weight_gradient")) and spec.groups < max(2, spec.c):
        assert dots.pays(forward_taps(spec))
        agree(direct.IMPLEMENTATION, Case(spec, "weight_gradient"))


@pytest.mark.parametrize(
    ("shape", "in_place"),
    [((2, 36, 48, 48), (1, 1)), ((2, 36, 32, 32), (1, 0)), ((2, 36, 64, 32), (0, 0)), ((2, 36, 33, 35), (0, 0))],
    ids=["in place", "rows a page apart", "rows two pages apart", "rows that end inside a vector"],
)
def test_many_pixels(shape, in_place):
    spec = ConvSpec.create(shape, 140, 1)  # more than a block of filters
    planned = dots.plan(forward_taps(spec))[0]
    assert (planned.dy_in_place, planned.x_in_place) == in_place
    agree(direct.IMPLEMENTATION, Case(spec, "weight_gradient"))


@pytest.mark.parametrize("width", [40, 41], ids=["chunks of one image", "chunks over images"])
@pytest.mark.parametrize("channels", [3, 9], ids=["filters shared out", "terms shared out"])
def test_chunks(monkeypatch, width, channels):
    monkeypatch.setattr(dots, "CHUNK", 300)
    monkeypatch.setattr(dots, "TERMS", 100)
    spec = ConvSpec.create((5, channels, 10, width), 12, 3, stride=1, padding=1)
    planned = dots.plan(forward_taps(spec))[0]
    assert planned.lines < 10 and planned.dy_in_place == (width == 40)
    agree(direct.IMPLEMENTATION, Case(spec, "weight_gradient"))
