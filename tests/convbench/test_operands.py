"""Operands: integers that stay exact in any order of summation, and guards that notice every stray access."""

from __future__ import annotations

from math import prod

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convbench.case import Case
from convbench.operands import (
    EXACT_RANGE,
    GUARD_BYTES,
    guarded,
    in_layout,
    integers,
    largest_integer,
    one_hot,
    poisoned,
    reals,
    sum_lengths,
    watched_operand,
)
from convbench.reference import reference
from convbench.spec import PASSES, ConvSpec
from tests.kernels.shapes import SHAPES, specs

DTYPES = ("float32", "float64", "bfloat16", "float16")
DENSE = ConvSpec.create((2, 8, 10, 9), 6, 3, padding=1, bias=True)


@given(specs(), st.sampled_from(PASSES))
def test_every_partial_sum_of_the_integers_is_exact(spec, pass_):
    """The sum of magnitudes bounds every partial sum in every order: it must be within float32's exact range."""
    case = Case(spec, pass_)
    operands = integers(case, seed=0)
    assert operands is not None
    magnitudes = reference(case, {name: tensor.abs() for name, tensor in operands.items()})
    assert all(float(m.max()) <= EXACT_RANGE["float32"] for m in magnitudes)
    assert all(bool((t == t.round()).all()) and float(t.abs().min()) >= 1 for t in operands.values())


@given(specs(), st.sampled_from(PASSES))
def test_sum_lengths_are_the_longest_sums(spec, pass_):
    """All ones give the number of products of each element; none may exceed the length derived from the shape."""
    case = Case(spec, pass_)
    ones = {name: torch.ones(case.operand_shape(name)) for name in case.operand_names if name != "bias"}
    counted = max(float(out.max()) for out in reference(case, ones))
    assert counted <= prod(sum_lengths(case))
    if not any((*spec.padding, *spec.output_padding)) and pass_ == "forward" and not spec.is_transposed:
        assert counted == prod(sum_lengths(case))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pass_", PASSES)
def test_short_dtypes_hold_their_integers(dtype, pass_):
    case = Case(DENSE, pass_, dtype)
    operands = integers(case, seed=0)
    assert operands is not None
    for out in reference(case, operands):
        assert bool((out.to(getattr(torch, dtype)).double() == out).all())


def test_integers_end_where_sums_become_too_long():
    fits = ConvSpec.create((1, 1, 2**12, 2**11), 1, 1)
    assert sum_lengths(Case(fits, "weight_gradient")) == (2**23,)
    assert largest_integer(Case(fits, "weight_gradient")) == 1
    too_long = ConvSpec.create((1, 1, 2**12, 2**12), 1, 1)
    assert largest_integer(Case(too_long, "weight_gradient")) == 0
    assert integers(Case(too_long, "weight_gradient"), seed=0) is None
    assert largest_integer(Case(too_long, "weight_gradient", "float64")) == 4


def test_seeds_and_names():
    case = Case(DENSE)
    for make in (integers, reals):
        first, again, other = make(case, 1), make(case, 1), make(case, 2)
        assert tuple(first) == case.operand_names == ("x", "w", "bias")
        assert all(tuple(t.shape) == case.operand_shape(name) for name, t in first.items())
        assert all(bool((first[name] == again[name]).all()) for name in first)
        assert all(bool((first[name] != other[name]).any()) for name in first)


@pytest.mark.parametrize("name", ["3x3 same", "tile", "up 4x4 stride 2", "pair"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_reals_give_results_of_order_one(name, dtype):
    """Weights are scaled by fan-in, so the data does not drown in a long sum's rounding."""
    out = reference(Case(SHAPES[name], dtype=dtype), reals(Case(SHAPES[name], dtype=dtype), seed=0))[0]
    assert 0.2 < float(out.std()) < 5


@given(specs(), st.sampled_from(PASSES))
def test_the_watched_element_is_where_the_nan_is(spec, pass_):
    case = Case(spec, pass_)
    name, hot, struck = watched_operand(case), one_hot(case), poisoned(case, integers(case, 0))
    assert float(hot[name].sum()) == 1
    assert bool((struck[name].isnan() == (hot[name] == 1)).all())
    assert all(not bool(t.isnan().any()) for other, t in struck.items() if other != name)


# Guards -----------------------------------------------------------------------------------------

TENSORS = {
    "contiguous": torch.arange(60.0).view(1, 3, 4, 5),
    "channels_last": torch.arange(120.0).view(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
    "transposed": torch.arange(60.0).view(5, 4, 3, 1).permute(3, 2, 1, 0),
    "with gaps": torch.arange(120.0).view(1, 3, 4, 10)[..., ::2],
    "vector": torch.arange(7.0),
    "one element": torch.ones(1, 1, 1, 1),
    "double": torch.arange(60.0, dtype=torch.float64).view(1, 3, 4, 5),
    "bfloat16": torch.ones(1, 3, 4, 5, dtype=torch.bfloat16),
}


@pytest.mark.parametrize("name", TENSORS)
def test_a_guarded_tensor_is_the_same_but_for_its_place(name):
    tensor = TENSORS[name]
    guard = guarded(tensor)
    assert bool((guard.tensor == tensor).all())
    assert guard.tensor.stride() == tensor.stride()
    assert guard.tensor.data_ptr() % 64 == 0
    assert guard.intact() == ""
    flat = guard.tensor.untyped_storage().nbytes()
    assert guard.tensor.data_ptr() - guard.buffer.data_ptr() == GUARD_BYTES
    assert flat >= 2 * GUARD_BYTES + tensor.numel() * tensor.element_size()


@pytest.mark.parametrize("name", TENSORS)
def test_a_guard_notices_every_single_write(name):
    """Each element of buffer in turn: bands, values, and the gaps between them."""
    edge = GUARD_BYTES // TENSORS[name].element_size()
    size = guarded(TENSORS[name]).buffer.numel()
    for at in (0, edge - 1, edge, size // 2, size - edge - 1, size - edge, size - 1):
        guard = guarded(TENSORS[name])
        guard.buffer[at] = 77
        assert guard.intact() == ("changed its values" if edge <= at < size - edge else "wrote outside the tensor")


def test_a_guard_notices_another_nan_and_the_sign_of_zero():
    """Bits are compared: -0 for 0, or a NaN of another payload, is a write too."""
    zeros = guarded(torch.zeros(3))
    zeros.tensor[1] = -0.0
    assert zeros.intact() == "changed its values"
    other = guarded(torch.zeros(3))
    other.buffer.view(torch.int32)[0] += 1
    assert bool(other.buffer[0].isnan())
    assert other.intact() == "wrote outside the tensor"


def test_what_is_written_to_an_output_is_its_own_business():
    output = guarded(torch.empty(2, 3), read_only=False)
    output.tensor.fill_(1)
    assert output.intact() == ""


def test_layouts_keep_values_and_leave_vectors_alone():
    operands = reals(Case(DENSE), seed=0)
    turned = in_layout(operands, "channels_last")
    assert turned["x"].is_contiguous(memory_format=torch.channels_last)
    assert all(bool((turned[name] == operands[name]).all()) for name in operands)
    assert turned["bias"] is operands["bias"]
    assert in_layout(operands, "nchw") is operands
