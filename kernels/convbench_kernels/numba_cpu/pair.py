"""numba.pair: the depthwise-separable pair as two kernels, the intermediate written to memory and read back.

The honest baseline of numba.fused: the same two algorithms (depthwise.py, gemm.py), as halves.py puts them together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from convbench.plugin import Case, Implementation, Kernel
from convbench_kernels.halves import Half, in_turn
from convbench_kernels.numba_cpu import depthwise, gemm


def supports(case: Case) -> str:
    """The separable pair on the CPU in float32."""
    if case.device != "cpu":
        return "runs on the CPU only"
    if case.dtype != "float32":
        return "float32 only"
    return "" if case.spec.is_separable else "separable pairs only"


def run(case: Case) -> Callable[..., Any]:
    """The function of Case.operand_names that computes the case, half by half."""

    def half(module: Any) -> Half:
        return lambda spec, pass_: module.build(Case(spec, pass_)).run

    return in_turn(case.spec, case.pass_, half(depthwise), half(gemm))


def build(case: Case) -> Kernel:
    return Kernel(run(case), "two kernels")


IMPLEMENTATION = Implementation("numba.pair", supports, build, "separable pair as depthwise and GEMM kernels in turn")
