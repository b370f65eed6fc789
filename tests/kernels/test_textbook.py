"""The formulas: against autograd in float64, and what a transposed convolution does and does not restore."""

import pytest
import torch
from torch.nn import functional as F

from convbench.case import Case
from convbench.spec import ConvSpec
from convbench_kernels.numba_cpu import textbook

SPECS = [
    ConvSpec.create([2, 4, 5, 6], 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2),
    ConvSpec.create([1, 3, 7, 7], 6, 3, padding=1, groups=3),
    ConvSpec.create([1, 3, 4, 4], 5, 1),
    ConvSpec.create([2, 4, 3, 4], 6, (2, 3), operator="conv_transpose2d", stride=(2, 3), padding=(0, 1),
                    groups=2, output_padding=(1, 0)),
]  # fmt: skip
PAIR = ConvSpec.create([2, 3, 6, 5], 4, 3, operator="separable_conv2d", stride=2, padding=1)


def run(spec, pass_, *operands):
    return textbook.build(Case(spec, pass_, "float64")).run(*operands)


def functional(spec, x, w):
    if spec.is_transposed:
        return F.conv_transpose2d(
            x, w, None, spec.stride, spec.padding, spec.output_padding, spec.groups, spec.dilation
        )
    return F.conv2d(x, w, None, spec.stride, spec.padding, spec.dilation, spec.groups)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_gradients_agree_with_autograd_in_float64(spec):
    torch.manual_seed(0)
    x = torch.randn(spec.x_shape, dtype=torch.float64, requires_grad=True)
    w = torch.randn(spec.w_shape, dtype=torch.float64, requires_grad=True)
    y = functional(spec, x, w)
    dy = torch.randn_like(y)
    y.backward(dy)
    x_, w_ = x.detach(), w.detach()
    torch.testing.assert_close(run(spec, "forward", x_, w_), y.detach())
    torch.testing.assert_close(run(spec, "data_gradient", dy, w_), x.grad)
    torch.testing.assert_close(run(spec, "weight_gradient", x_, dy), w.grad)


def test_gradients_through_the_pair_agree_with_autograd_in_float64():
    torch.manual_seed(0)
    case = Case(PAIR, dtype="float64")
    x, w1, w2 = (
        torch.randn(case.operand_shape(name), dtype=torch.float64, requires_grad=True)
        for name in ("x", "w_depthwise", "w_pointwise")
    )
    y = F.conv2d(F.conv2d(x, w1, None, PAIR.stride, PAIR.padding, PAIR.dilation, PAIR.c), w2)
    dy = torch.randn_like(y)
    y.backward(dy)
    x_, w1_, w2_ = (t.detach() for t in (x, w1, w2))
    torch.testing.assert_close(run(PAIR, "forward", x_, w1_, w2_), y.detach())
    torch.testing.assert_close(run(PAIR, "data_gradient", dy, w1_, w2_), x.grad)
    dw1, dw2 = run(PAIR, "weight_gradient", x_, w1_, w2_, dy)
    torch.testing.assert_close(dw1, w1.grad)
    torch.testing.assert_close(dw2, w2.grad)


def integers(shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-4, 5, shape, generator=generator).double()


def test_a_transposed_convolution_restores_the_shape_and_not_the_values():
    spec = ConvSpec.create([1, 3, 8, 8], 5, 4, stride=2, padding=1)
    back = ConvSpec.create(spec.y_shape, spec.c, 4, operator="conv_transpose2d", stride=2, padding=1)
    assert back.mirrored() == spec
    x, w = integers(spec.x_shape, 1), integers(spec.w_shape, 2)
    restored = run(back, "forward", run(spec, "forward", x, w), w)
    assert restored.shape == x.shape
    assert not torch.equal(restored, x)
    # Not even up to a factor: it is no inverse in disguise.
    assert torch.linalg.matrix_rank(torch.stack([restored.flatten(), x.flatten()])) == 2


def test_a_transposed_convolution_is_the_transpose():
    """<conv(x), y> == <x, conv_transpose(y)>, exactly, for integers: what makes it the transposed matrix."""
    spec = ConvSpec.create([2, 4, 9, 8], 6, (3, 4), stride=(2, 1), padding=(1, 2), groups=2)
    back = ConvSpec.create(
        spec.y_shape, spec.c, (3, 4), operator="conv_transpose2d", stride=(2, 1), padding=(1, 2), groups=2
    )
    assert back.y_shape == spec.x_shape
    x, w, y = integers(spec.x_shape, 3), integers(spec.w_shape, 4), integers(spec.y_shape, 5)
    assert (run(spec, "forward", x, w) * y).sum() == (x * run(back, "forward", y, w)).sum()


def test_the_three_steps_one_by_one():
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]).numpy()
    spread = textbook.zero_insert(x, (2, 3))
    assert spread.tolist() == [[[[1, 0, 0, 2], [0, 0, 0, 0], [3, 0, 0, 4]]]]
    w = torch.arange(1.0, 5.0).view(1, 1, 2, 2).numpy()
    assert textbook.flip(w, 1).tolist() == [[[[4, 3], [2, 1]]]]
    two = torch.arange(8.0).view(4, 1, 1, 2).numpy()  # C = 4, K/G = 1 in two groups -> OIHW (2, 2, 1, 2)
    assert textbook.flip(two, 2).tolist() == [[[[1, 0]], [[3, 2]]], [[[5, 4]], [[7, 6]]]]
    spec = ConvSpec.create([1, 1, 2, 2], 1, 2, operator="conv_transpose2d", stride=2)
    y = torch.empty(spec.y_shape).numpy()
    textbook.conv_transpose2d(x, w, y, spec)
    assert y.tolist() == [[[[1, 2, 2, 4], [3, 4, 6, 8], [3, 6, 4, 8], [9, 12, 12, 16]]]]


def test_what_is_not_written_is_said():
    assert "bfloat16" in textbook.supports(Case(SPECS[0], dtype="bfloat16"))
    assert "CPU" in textbook.supports(Case(SPECS[0], device="cuda:0"))
