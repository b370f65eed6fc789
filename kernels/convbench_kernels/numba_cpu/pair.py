"""numba.pair: the depthwise-separable pair as two kernels, the intermediate written to memory and read back.

    z = depthwise(x, w_depthwise)    y = pointwise(z, w_pointwise) + bias

The honest baseline of numba.fused: the same two algorithms (depthwise.py, gemm.py) with the intermediate z between
them. Backward goes through both halves; the weight gradient computes z again, as nothing is kept between passes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from convbench.plugin import Case, ConvSpec, Implementation, Kernel, Pass
from convbench_kernels.numba_cpu import depthwise, gemm


def supports(case: Case) -> str:
    """The separable pair on the CPU in float32."""
    if case.device != "cpu":
        return "runs on the CPU only"
    if case.dtype != "float32":
        return "float32 only"
    return "" if case.spec.is_separable else "separable pairs only"


def half(module: Any, spec: ConvSpec, pass_: Pass) -> Callable[..., torch.Tensor]:
    """run of one half's kernel."""
    return module.build(Case(spec, pass_)).run


def run(case: Case) -> Callable[..., Any]:
    """The function of Case.operand_names that computes the case, half by half."""
    first, second = case.spec.depthwise(), case.spec.pointwise()
    if case.pass_ == "forward":
        z, y = half(depthwise, first, "forward"), half(gemm, second, "forward")
        return lambda x, w1, w2, bias=None: y(z(x, w1), w2, bias)
    dz = half(gemm, second, "data_gradient")
    if case.pass_ == "data_gradient":
        dx = half(depthwise, first, "data_gradient")
        return lambda dy, w1, w2: dx(dz(dy, w2), w1)
    z, dw1, dw2 = (
        half(depthwise, first, "forward"),
        half(depthwise, first, "weight_gradient"),
        half(gemm, second, "weight_gradient"),
    )
    return lambda x, w1, w2, dy: (dw1(x, dz(dy, w2)), dw2(z(x, w1), dy))


def build(case: Case) -> Kernel:
    return Kernel(run(case), "two kernels")


IMPLEMENTATION = Implementation("numba.pair", supports, build, "separable pair as depthwise and GEMM kernels in turn")
