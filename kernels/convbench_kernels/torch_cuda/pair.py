"""triton.pair: the depthwise-separable pair as two kernels, the intermediate written to memory and read back.

    z = depthwise(x, w_depthwise)    y = pointwise(z, w_pointwise) + bias

The honest baseline of triton.fused: depthwise.py and implicit_gemm.py with the intermediate z between them. Backward
goes through both halves; the weight gradient computes z again, as nothing is kept between passes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from convbench.plugin import Case, ConvSpec, Kernel, Layout, Pass
from convbench_kernels.torch_cuda import depthwise, implicit_gemm
from convbench_kernels.torch_cuda.launch import both_layouts

ROUNDED_TWICE = 2.0  # error factor of a rounded intermediate beside the result's own rounding


def covers(case: Case) -> str:
    """All passes of the pair, where the depthwise kernel has them."""
    if not case.spec.is_separable:
        return "depthwise-separable pairs only"
    return depthwise.covers(replace(case, spec=case.spec.depthwise(), dtype="float32"))


def run(case: Case, layout: Layout) -> Callable[..., Any]:
    """The function of Case.operand_names that computes the case, half by half."""

    def half(module: Any, spec: ConvSpec, pass_: Pass) -> Callable[..., Any]:
        plain = module is depthwise and case.dtype == "tf32"  # it has no matrix product
        return module.build(replace(case, spec=spec, pass_=pass_, dtype="float32" if plain else case.dtype), layout).run

    first, second = case.spec.depthwise(), case.spec.pointwise()
    if case.pass_ == "forward":
        z, y = half(depthwise, first, "forward"), half(implicit_gemm, second, "forward")
        return lambda x, w1, w2, bias=None: y(z(x, w1), w2, bias)
    dz = half(implicit_gemm, second, "data_gradient")
    if case.pass_ == "data_gradient":
        dx = half(depthwise, first, "data_gradient")
        return lambda dy, w1, w2: dx(dz(dy, w2), w1)
    z, dw1 = half(depthwise, first, "forward"), half(depthwise, first, "weight_gradient")
    dw2 = half(implicit_gemm, second, "weight_gradient")
    return lambda x, w1, w2, dy: (dw1(x, dz(dy, w2)), dw2(z(x, w1), dy))


def error_factor(case: Case) -> float:
    """A short type rounds the intermediate once more."""
    return 1.0 if case.dtype == "float32" else ROUNDED_TWICE


def build(case: Case, layout: Layout) -> Kernel:
    return Kernel(run(case, layout), "two kernels", error_factor=error_factor(case))


IMPLEMENTATIONS = both_layouts("pair", covers, build, "separable pair as depthwise and GEMM kernels in turn")
