"""Kernels take addresses: what they point to must outlive the build, and a tensor of another dtype is refused."""

import gc

import numpy as np
import pytest
import torch

from convbench.case import Case
from convbench.operands import reals
from convbench.spec import ConvSpec
from convbench_kernels.numba_cpu import auto
from convbench_kernels.numba_cpu.arguments import addresses, dense

CASES = [
    (ConvSpec.create([1, 8, 9, 9], 8, 3, padding=1, stride=2), "forward"),
    (ConvSpec.create([1, 8, 9, 9], 8, 3, padding=1, stride=2), "data_gradient"),
    (ConvSpec.create([1, 8, 9, 9], 8, 3, padding=1), "weight_gradient"),
    (ConvSpec.create([1, 64, 20, 20], 64, 3, padding=1), "forward"),
    (ConvSpec.create([1, 16, 9, 9], 16, 5, padding=2, groups=16), "forward"),
    (ConvSpec.create([1, 16, 9, 9], 16, 5, padding=2, groups=16), "weight_gradient"),
    (ConvSpec.create([1, 16, 9, 9], 16, 3, padding=1, operator="separable_conv2d"), "forward"),
]


@pytest.mark.parametrize(("spec", "pass_"), CASES, ids=str)
def test_tables_live_as_long_as_the_kernel(spec, pass_):
    case = Case(spec, pass_)
    operands = reals(case, 1).values()
    run = auto.build(case).run
    first = run(*operands)
    gc.collect()
    filled = [np.full(size, -1, np.int64) for size in range(1, 3000)]  # takes whatever was freed
    assert torch.equal(run(*operands), first)
    assert len(filled) == 2999


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("spec", "pass_"), CASES, ids=str)
def test_torchs_defaults_do_not_matter(spec, pass_, default):
    """A program's default type and device are not its tensors': 4-byte results must not land in tensors of 2 bytes."""
    case = Case(spec, pass_)
    operands = reals(case, 1).values()
    first = auto.build(case).run(*operands)
    torch.set_default_dtype(default)
    torch.set_default_device("meta")
    try:
        again = auto.build(case).run(*operands)
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
    assert torch.equal(again, first)


def test_addresses_hold_their_arrays():
    array = np.arange(5)
    held = addresses(array, 7)
    assert held[1] == 7
    assert held[0] == array.ctypes.data
    assert held.arrays[0] is array


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_only_float32_has_an_address(dtype):
    with pytest.raises(TypeError, match="expected float32"):
        dense(torch.zeros(3, dtype=dtype))


def test_dense_copies_only_what_is_not():
    x = torch.randn(4, 6)
    assert dense(x) is x
    assert torch.equal(dense(x.T), x.T)
    assert dense(x.T).is_contiguous()
