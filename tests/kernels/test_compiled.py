"""The Triton kernels compiled for an H100 without one: what the machine code must have to be fast, and to be honest.

python -m tests.kernels.compiled does it with every set of block sizes; here is the first of each.
"""

from __future__ import annotations

import pytest

from convbench.case import Case
from convbench.spec import ConvSpec

pytest.importorskip("triton")
pytestmark = pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")  # Triton 3.9 speaks of 3.10

SPILLED_BYTES = 64  # of a thread: not worth a smaller block
DENSE = ConvSpec.create((32, 256, 28, 28), 256, 3, padding=1)
POINTWISE = ConvSpec.create((32, 256, 14, 14), 256, 1)
DEPTHWISE = ConvSpec.create((32, 64, 56, 56), 64, 5, padding=2, groups=64)
PAIR = ConvSpec.create((32, 128, 28, 28), 256, 3, padding=1, operator="separable_conv2d")


def compiled(name: str, spec: ConvSpec, pass_: str = "forward", dtype: str = "bfloat16", layout: str = "nchw"):
    """The kernel of interest, with the first of its block sizes."""
    from importlib import import_module

    from tests.kernels.compiled import SHARED_BYTES, compile_case

    implementations = import_module(f"convbench_kernels.torch_cuda.{name}").IMPLEMENTATIONS
    chosen = next(i for i in implementations if i.layout == layout)
    found = compile_case(chosen, Case(spec, pass_, dtype, "cuda:0"))  # type: ignore[arg-type]
    assert all(kernel.shared_bytes <= SHARED_BYTES and kernel.spilled_bytes <= SPILLED_BYTES for kernel in found)
    return found[0]


@pytest.mark.parametrize(
    ("spec", "pass_", "layout"),
    [(DENSE, "forward", "channels_last"), (DENSE, "weight_gradient", "nchw"), (POINTWISE, "data_gradient", "nchw")],
)
def test_short_products_are_on_tensor_cores_and_their_operands_in_flight(spec, pass_, layout):
    """Version 1 of the kernel took its taps from a table, and nothing that comes from there is known to be aligned."""
    kernel = compiled("implicit_gemm", spec, pass_, layout=layout)
    assert "wgmma.mma_async" in kernel.ptx
    assert "cp.async" in kernel.ptx
    assert "ld.global.b16" not in kernel.ptx, "element by element"
    sizes = kernel.sizes
    operands = 2 * (sizes["BM"] + sizes["BN"]) * sizes["BK"]
    assert kernel.shared_bytes >= sizes["num_stages"] * operands, "both operands in every stage"


def test_float32_is_multiplied_as_float32_and_tf32_only_by_name():
    ieee, tf32 = (compiled("implicit_gemm", DENSE, dtype=d, layout="channels_last").ptx for d in ("float32", "tf32"))
    assert "tf32" not in ieee.replace("tf32.py", "")
    assert "fma.rn.f32" in ieee
    assert "tf32.tf32" in tf32


def test_depthwise_loads_several_channels_at_once():
    kernel = compiled("depthwise", DEPTHWISE, layout="channels_last")
    assert "ld.global.v2" in kernel.ptx
    assert "ld.global.b16" not in kernel.ptx


def test_fused_pair():
    kernel = compiled("fused", PAIR, layout="channels_last")
    assert "wgmma.mma_async" in kernel.ptx
    assert "ld.global.v4" in kernel.ptx
    assert "ld.global.b16" not in kernel.ptx


def test_the_check_for_scalar_loads_can_fail():
    """Odd channels are not aligned."""
    from convbench_kernels.torch_cuda import depthwise
    from tests.kernels.compiled import compile_case

    odd = ConvSpec.create((2, 33, 28, 28), 33, 3, padding=1, groups=33)
    (kernel,) = compile_case(depthwise.IMPLEMENTATIONS[1], Case(odd, "forward", "bfloat16", "cuda:0"))
    assert "ld.global.b16" in kernel.ptx
