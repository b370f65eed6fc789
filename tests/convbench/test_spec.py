"""ConvSpec: derived sizes agree with torch, impossible values are refused with the reason."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.nn import functional as F

from convbench.case import Case
from convbench.errors import InputError
from convbench.spec import KINDS, OPERATORS, PASSES, ConvSpec, pair
from tests.kernels.shapes import SHAPES, specs


def torch_output_shape(spec: ConvSpec) -> tuple[int, ...]:
    """What torch gives, on tensors without data."""
    if spec.is_separable:
        return torch_output_shape(spec.depthwise())[:1] + torch_output_shape(replace(spec.dense(), bias=False))[1:]
    x, w = torch.empty(spec.x_shape, device="meta"), torch.empty(spec.w_shape, device="meta")
    if spec.is_transposed:
        y = F.conv_transpose2d(x, w, None, spec.stride, spec.padding, spec.output_padding, spec.groups, spec.dilation)
    else:
        y = F.conv2d(x, w, None, spec.stride, spec.padding, spec.dilation, spec.groups)
    return tuple(y.shape)


@given(specs())
def test_output_size_is_torchs(spec):
    assert spec.y_shape == torch_output_shape(spec)


@given(specs())
def test_related_convolutions_fit_together(spec):
    if spec.is_separable:
        assert spec.dense().y_shape == spec.y_shape == spec.pointwise().y_shape
        assert spec.depthwise().y_shape == spec.pointwise().x_shape
        assert spec.depthwise().kind in ("depthwise", "pointwise", "standard", "dilated")  # one channel: not grouped
        assert spec.dense().separable() == spec
    if spec.is_transposed:
        assert spec.mirrored().w_shape == spec.w_shape
        assert spec.mirrored().x_shape == spec.y_shape
        if all(extra < stride for extra, stride in zip(spec.output_padding, spec.stride, strict=True)):
            assert spec.mirrored().y_shape == spec.x_shape


@given(specs(), st.sampled_from(PASSES))
def test_operands_and_outputs_of_a_pass(spec, pass_):
    """What a pass takes and gives: a gradient has the shape of what it is the gradient of."""
    case = Case(spec, pass_)
    names = case.operand_names
    assert ("bias" in names) == (spec.bias and pass_ == "forward")
    assert ("dy" in names) == (pass_ != "forward")
    assert ("x" in names) == (pass_ != "data_gradient")
    assert (
        case.output_shapes[0]
        == {
            "forward": spec.y_shape,
            "data_gradient": spec.x_shape,
            "weight_gradient": (spec.c, 1, spec.r, spec.s) if spec.is_separable else spec.w_shape,
        }[pass_]
    )
    assert len(case.output_shapes) == (2 if spec.is_separable and pass_ == "weight_gradient" else 1)


@given(specs(), specs())
def test_text_names_the_spec(a, b):
    """Two specs read the same only when they are the same: reproducers and identities rest on it."""
    assert (str(a) == str(b)) == (a == b)


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (((1, 8, 9, 9), 16, 3), "standard"),
        (((1, 8, 9, 9), 16, 1), "pointwise"),
        (((1, 8, 9, 9), 16, 1, "conv2d", 2), "pointwise"),
        (((1, 8, 9, 9), 16, 3, "conv2d", 1, 0, 2), "dilated"),
        (((1, 8, 9, 9), 16, 3, "conv2d", 1, 0, 2, 2), "grouped"),
        (((1, 8, 9, 9), 8, 3, "conv2d", 1, 0, 1, 8), "depthwise"),
        (((1, 8, 9, 9), 24, 3, "conv2d", 1, 0, 2, 8), "depthwise"),
        (((1, 1, 9, 9), 8, 3), "standard"),
        (((1, 8, 9, 9), 8, 3, "conv_transpose2d", 1, 0, 1, 8), "transposed"),
        (((1, 8, 9, 9), 16, 3, "separable_conv2d"), "separable"),
    ],
)
def test_kind_is_the_most_specific(arguments, kind):
    assert ConvSpec.create(*arguments).kind == kind
    assert kind in KINDS


def test_mirror_of_the_published_example():
    """ConvTranspose2d(4->6, k4, s2, p1) on (2,4,8,8) gives 16x16 (ground truth)."""
    spec = ConvSpec.create((2, 4, 8, 8), 6, 4, operator="conv_transpose2d", stride=2, padding=1)
    assert spec.y_shape == (2, 6, 16, 16)
    assert spec.w_shape == (4, 6, 4, 4)
    assert spec.mirrored() == ConvSpec.create((2, 6, 16, 16), 4, 4, stride=2, padding=1)


GOOD = {"input": (1, 6, 8, 8), "out_channels": 4, "kernel": 3}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"operator": "conv3d"}, "operator = 'conv3d': expected one of conv2d, conv_transpose2d, separable_conv2d"),
        ({"input": (1, 6, 8)}, r"input = \[1, 6, 8\]: expected four sizes \[N, C, H, W\]"),
        ({"input": (0, 6, 8, 8)}, "n = 0: expected an integer of at least 1"),
        ({"input": (1, -6, 8, 8)}, "c = -6"),
        ({"input": (1, 6, 8.0, 8)}, "h = 8.0"),
        ({"input": (1, 6, 8, True)}, "w = True"),
        ({"out_channels": 0}, "k = 0"),
        ({"kernel": 0}, "r = 0"),
        ({"kernel": (3, 3, 3)}, r"kernel = \(3, 3, 3\): expected an integer or a pair of integers"),
        ({"kernel": "3"}, "kernel = '3': expected an integer or a pair"),
        ({"stride": 0}, r"stride\[0\] = 0: expected an integer of at least 1"),
        ({"stride": (1, 0)}, r"stride\[1\] = 0"),
        ({"dilation": (1, -1)}, r"dilation\[1\] = -1"),
        ({"padding": -1}, r"padding\[0\] = -1: expected an integer of at least 0"),
        ({"padding": 1.5}, "padding = 1.5: expected an integer or a pair"),
        ({"groups": 4}, "groups = 4: must divide both the 6 input and the 4 output channels"),
        ({"groups": 3}, "must divide both"),
        ({"groups": 0}, "groups = 0"),
        ({"groups": 2, "operator": "separable_conv2d"}, "a separable pair has groups of its own"),
        ({"output_padding": 1}, "only conv_transpose2d takes it"),
        ({"output_padding": 1, "operator": "conv_transpose2d"}, "smaller than the stride or the dilation"),
        ({"kernel": 9}, "H = 8 with padding 0 is too small for a kernel that reaches 9"),
        ({"kernel": (1, 5), "dilation": 2}, "W = 8 with padding 0 is too small for a kernel that reaches 9"),
        ({"operator": "conv_transpose2d", "padding": 9}, "output would be empty"),
        ({"input": (1, 6, 10**7, 10**7)}, "no machine holds it"),
    ],
)
def test_impossible_specs_are_refused_with_the_reason(changes, message):
    with pytest.raises(InputError, match=message) as caught:
        ConvSpec.create(**GOOD | changes)
    assert "\n" not in str(caught.value)


@given(specs(), st.sampled_from(("c", "k", "r", "h", "n")), st.integers(-3, 0))
def test_sizes_below_one_are_refused(spec, name, value):
    with pytest.raises(InputError, match=f"{name} = {value}"):
        replace(spec, **{name: value})


@given(specs())
def test_what_torch_refuses_is_refused(spec):
    """A kernel that no longer fits the padded image, in either library."""
    assume(not spec.is_transposed)
    reach = spec.h + 2 * spec.padding[0] + 1
    with pytest.raises(InputError, match="too small for a kernel"):
        replace(spec, r=reach, dilation=(1, spec.dilation[1]))
    with pytest.raises(RuntimeError):
        x, w = torch.empty(spec.x_shape, device="meta"), torch.empty((1, spec.c, reach, 1), device="meta")
        F.conv2d(x, w, None, spec.stride, spec.padding)


def test_scalars_stand_for_square_values():
    assert pair(3, "kernel") == pair([3, 3], "kernel") == (3, 3)
    assert ConvSpec.create((1, 2, 9, 9), 3, 3, stride=2) == ConvSpec.create((1, 2, 9, 9), 3, (3, 3), stride=(2, 2))


def test_the_table_of_shapes_uses_every_operator():
    assert {spec.operator for spec in SHAPES.values()} == set(OPERATORS)
