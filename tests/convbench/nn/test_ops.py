"""The operators: values and gradients against torch's, exactly on integers; float64 by finite differences."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings

import convbench
from convbench.case import Case
from convbench.nn.choice import encode
from convbench.operands import integers
from tests.kernels.shapes import SHAPES, specs

EXACT = ("numba.gemm", "numba.direct", "numba.phases")  # between them every shape, all exact on integers
TEXTBOOK = encode("numba.textbook", strict=True)


def functional(spec, x, w, bias):
    """The layer by torch.nn.functional."""
    if spec.is_transposed:
        return F.conv_transpose2d(
            x, w, bias, spec.stride, spec.padding, spec.output_padding, spec.groups, spec.dilation
        )
    return F.conv2d(x, w, bias, spec.stride, spec.padding, spec.dilation, spec.groups)


def geometry(spec):
    return spec.stride, spec.padding, spec.dilation, spec.is_transposed, spec.output_padding, spec.groups


def operands(spec, dtype=torch.float32):
    """x, w, bias (or None) and dy of small integers."""
    made = integers(Case(spec), 1)
    dy = torch.randint(-3, 4, spec.y_shape, generator=torch.Generator().manual_seed(2))
    values = [made["x"], made["w"], made.get("bias"), dy]
    return [None if v is None else v.to(dtype) for v in values]


def gradients(spec, x, w, bias, dy):
    """y, dx, dw and db."""
    leaves = [t.clone().requires_grad_() for t in (x, w, bias) if t is not None]
    y = functional(spec, *leaves) if bias is not None else functional(spec, *leaves, None)
    return [y.detach(), *torch.autograd.grad(y, leaves, dy)]


def agree(spec):
    with convbench.use_kernels(EXACT) as used:
        ours = gradients(spec, *operands(spec))
    theirs = gradients(spec, *operands(spec, torch.float64))
    for got, want in zip(ours, theirs, strict=True):
        assert torch.equal(got, want.float())
    assert len(used.rows) == 3
    assert all("output_padding of the stride or more" in ran.reason for ran in used.fallbacks)


@settings(max_examples=40)
@given(specs(12))
def test_drawn_shapes(spec):
    agree(replace(spec, operator="conv2d") if spec.is_separable else spec)


@pytest.mark.parametrize("name", [name for name, spec in SHAPES.items() if not spec.is_separable])
def test_shapes(name):
    agree(SHAPES[name])
