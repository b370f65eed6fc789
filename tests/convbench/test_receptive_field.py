"""Receptive field and gridding coverage against published numbers and against a graph walked by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convbench.errors import InputError
from convbench.receptive_field import WIDEST, Field, Window, cumulative, fields, receptive_field
from convbench.spec import ConvSpec
from convbench.suites import builtin


@pytest.mark.parametrize(
    ("suite", "field"), [("vgg16", 212), ("mobilenet_v1", 315), ("resnet50_v1", 483), ("resnet50", 427)]
)
def test_published_networks(suite, field):
    """Araujo, Norris, Sim (Distill 2019), Table 1; VGG16 before its classifier."""
    assert builtin(suite).receptive_field() == (field, field)


def test_context_module_grows_as_published():
    """Yu and Koltun, arXiv 1511.07122, Table 1: 3, 5, 9, 17, 33, 65, 67, 67."""
    fields = [field.size[0] for field in builtin("context").receptive_fields().values()]
    assert fields == [5, 9, 17, 33, 65, 67, 67]  # the first layer's row is its second use


def test_branches_do_not_widen_the_field():
    fields = builtin("resnet50").receptive_fields()
    assert not any("shortcut" in name for name in fields)
    assert fields["conv1"] == ((7, 7), 49)
    assert fields["conv2_1.b"].size == (11 + 3 * 2 * 4, 11 + 3 * 2 * 4)  # 7, then the pooling: 11, then three 3x3 at 4


def test_no_field_for_layers_that_are_not_one_sequence():
    for name in ("default", "separable", "unet", "dcgan"):
        assert builtin(name).receptive_fields() == {}
        assert builtin(name).receptive_field() is None


@pytest.mark.parametrize(
    ("dilations", "touched", "field"), [((2, 2, 2), 49, 169), ((1, 2, 5), 289, 289), ((1, 1, 1), 49, 49)]
)
def test_gridding(dilations, touched, field):
    (*_, last) = fields([Window.create(3, dilation=d) for d in dilations])
    assert (last.touched, last.size[0] * last.size[1]) == (touched, field)


def test_one_layer_and_none():
    assert receptive_field([Window.create((3, 5), dilation=(2, 1))]) == (5, 5)
    assert receptive_field([]) == (1, 1)


def test_transposed_has_no_window():
    with pytest.raises(ValueError, match="transposed"):
        Window.of(ConvSpec.create([1, 1, 4, 4], 1, 2, "conv_transpose2d", stride=2))


sizes = st.integers(1, 4)
windows = st.builds(
    Window,
    st.tuples(sizes, sizes),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(sizes, sizes),
    st.integers(1, 2),
)


def reached(stack, axis):
    """Input positions that reach output 0: marks travel backwards, one layer at a time."""
    marks = {0}
    for window in [w for w in reversed(stack) for _ in range(w.count)]:
        below = set()
        for position in marks:
            first = position * window.stride[axis]
            below |= set(range(first, first + window.dilation[axis] * window.kernel[axis], window.dilation[axis]))
        marks = below
    return marks


@given(st.lists(windows, min_size=1, max_size=4))
def test_field_and_coverage_equal_brute_force(stack):
    marks = [reached(stack, axis) for axis in (0, 1)]
    field = tuple(max(m) - min(m) + 1 for m in marks)
    assert receptive_field(stack) == field
    assert fields(stack)[-1] == Field(field, len(marks[0]) * len(marks[1]))
    assert [field.size for field in fields(stack)] == cumulative(stack)


@given(st.lists(windows, min_size=1, max_size=4))
def test_a_count_is_that_many_layers(stack):
    spread = [Window(w.kernel, w.stride, w.dilation) for w in stack for _ in range(w.count)]
    assert receptive_field(stack) == receptive_field(spread)
    assert cumulative(stack)[-1] == cumulative(spread)[-1]


def test_a_wide_field_has_a_size_and_one_beyond_every_image_is_refused():
    wide = [Window.create(3, count=2**28), Window.create(1, count=2**60), Window.create(2**40)]
    assert fields(wide[:2]) == [Field((2**29 + 1, 2**29 + 1), None)] * 2
    assert fields([Window.create((WIDEST, 1))]) == [Field((WIDEST, 1), WIDEST)]
    with pytest.raises(InputError, match="check kernels and strides"):
        fields(wide)
