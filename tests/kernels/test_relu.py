"""ReLU inside the kernels: max(y, 0) exactly, NaN kept, in every loop that writes a result."""

import pytest
import torch

from convbench.case import Case
from convbench_kernels.numba_cpu import auto, direct, fused, gemm, phases, winograd
from tests.kernels.dense_cases import expected, operands, spec

SHAPES = {
    "tiles of a large map": (direct, spec([2, 20, 13, 50], 21, 3, padding=1, bias=True)),
    "long sums in slices": (direct, spec([1, 160, 9, 9], 33, 3, padding=1, bias=True)),
    "half a panel": (direct, spec([1, 8, 20, 20], 8, 3, padding=1, groups=2, bias=True)),
    "weights in place": (gemm, spec([1, 64, 8, 8], 32, 1, bias=True)),
    "last pixels as dot products": (gemm, spec([1, 256, 7, 7], 64, 1, bias=True)),
    "matrix times vector": (gemm, spec([3, 33, 1, 1], 18, 1, bias=True)),
    "output phases": (phases, spec([2, 6, 7, 9], 10, 4, operator="conv_transpose2d", stride=2, padding=1, bias=True)),
    "depthwise, rolling window": (direct, spec([2, 5, 9, 40], 5, 3, padding=1, groups=5, bias=True)),
    "depthwise, stride 2": (direct, spec([2, 5, 20, 41], 5, 3, stride=2, padding=1, groups=5, bias=True)),
    "depthwise, padded": (direct, spec([2, 5, 20, 41], 10, 5, padding=2, groups=5, bias=True)),
    "depthwise, channels side by side": (direct, spec([1, 35, 7, 7], 35, 3, padding=1, groups=35, bias=True)),
    "depthwise, output phases": (
        phases, spec([1, 6, 9, 20], 6, 4, operator="conv_transpose2d", stride=2, padding=1, groups=6, bias=True)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_exact_on_integers(name):
    module, shape = SHAPES[name]
    case = Case(shape)
    kernel, arguments = module.IMPLEMENTATION.build(case), operands(case)
    plain = expected(case, arguments)
    assert kernel.relu and (plain < 0).any() and (plain > 0).any()
    assert torch.equal(kernel.run(*arguments, relu=True), plain.clamp(min=0))
    assert torch.equal(kernel.run(*arguments), plain)


@pytest.mark.parametrize("name", SHAPES)
def test_nan_stays(name):
    module, shape = SHAPES[name]
    case = Case(shape)
    arguments = operands(case)
    arguments[-1][0] = torch.nan
    y = module.IMPLEMENTATION.build(case).run(*arguments, relu=True)
    assert y[:, 0].isnan().all()
    assert not y[:, 1:].isnan().any()


def test_winograd():
    case = Case(spec([2, 24, 17, 30], 20, 3, padding=1, bias=True))
    arguments = operands(case)
    y = winograd.IMPLEMENTATION.build(case).run(*arguments, relu=True)
    assert (y >= 0).all()
    torch.testing.assert_close(y, expected(case, arguments).clamp(min=0), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("shape", [(2, 20, 30, 33), (1, 5, 9, 7), (1, 64, 14, 14)])
@pytest.mark.parametrize(("between", "relu_between", "relu"), [(1, 0, 0), (0, 1, 0), (1, 1, 1), (0, 0, 1)])
def test_pair(shape, between, relu_between, relu):
    case = Case(spec(shape, 21, 3, operator="separable_conv2d", padding=1, bias=True))
    x, w1, w2, bias = operands(case)
    inner = torch.arange(shape[1]).float() - 5 if between else None
    z = torch.conv2d(x.double(), w1.double(), None if inner is None else inner.double(), padding=1, groups=shape[1])
    y = torch.conv2d(z.relu() if relu_between else z, w2.double(), bias.double())
    run = fused.IMPLEMENTATION.build(case).run
    found = run(x, w1, w2, bias, relu=bool(relu), between=inner, relu_between=bool(relu_between))
    assert torch.equal(found, (y.relu() if relu else y).float())


def test_only_forward_passes_have_one():
    assert auto.IMPLEMENTATION.build(Case(SHAPES["tiles of a large map"][1])).relu
    for pass_ in ("data_gradient", "weight_gradient"):
        assert not auto.IMPLEMENTATION.build(Case(spec([1, 8, 9, 9], 8, 3), pass_)).relu
