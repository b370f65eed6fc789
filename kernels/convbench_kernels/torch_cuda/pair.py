"""triton.pair: the depthwise-separable pair as two kernels, the intermediate written to memory and read back.

The honest baseline of triton.fused: depthwise.py and implicit_gemm.py, as halves.py puts them together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from convbench.plugin import Case, Kernel, Layout
from convbench_kernels.halves import Half, in_turn
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

    def half(module: Any) -> Half:
        plain = module is depthwise and case.dtype == "tf32"  # it has no matrix product
        dtype = "float32" if plain else case.dtype
        return lambda spec, pass_: module.build(replace(case, spec=spec, pass_=pass_, dtype=dtype), layout).run

    return in_turn(case.spec, case.pass_, half(depthwise), half(implicit_gemm))


def error_factor(case: Case) -> float:
    """A short type rounds the intermediate once more."""
    return 1.0 if case.dtype == "float32" else ROUNDED_TWICE


def build(case: Case, layout: Layout) -> Kernel:
    return Kernel(run(case, layout), "two kernels", error_factor=error_factor(case))


IMPLEMENTATIONS = both_layouts("pair", covers, build, "separable pair as depthwise and GEMM kernels in turn")
