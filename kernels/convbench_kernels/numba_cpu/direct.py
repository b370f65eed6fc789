"""numba.direct: register-blocked direct convolution for every shape: implicit GEMM over (c, r, s).

    forward          y[n, k, p, q]  = bias[k] + sum_crs w[k, c, r, s] * x[n, c, p*sh - ph + r*dh, q*sw - pw + s*dw]
    data gradient    the same kernel on dy with offsets ph - r*dh: the filter is rotated by its offsets, not copied
    weight gradient  dw[k, c, r, s] = sum_npq dy[n, k, p, q] * x[n, c, p*sh - ph + r*dh, q*sw - pw + s*dw]

x (N, C, H, W), w (K, C/groups, R, S), y (N, K, P, Q); gemm_m = N*P*Q, gemm_n = K, gemm_k = C*R*S per group. The
kernels, their register tile and their ladder of versions: implicit_gemm.py, weight_gradient.py and, for few terms,
dots.py. This file maps cases to them; depthwise convolutions go to depthwise.py.
"""

from __future__ import annotations

from typing import Any

from convbench.plugin import Case, Implementation, Kernel
from convbench_kernels.numba_cpu import depthwise, dots
from convbench_kernels.numba_cpu.geometry import data_gradient_taps, forward_taps
from convbench_kernels.numba_cpu.implicit_gemm import convolution
from convbench_kernels.numba_cpu.lowering import cannot_lower, lower
from convbench_kernels.numba_cpu.tiles import MR, NR
from convbench_kernels.numba_cpu.weight_gradient import weight_gradient


def reason_against(case: Case) -> str:
    """What no dense kernel here does."""
    if case.device != "cpu":
        return "runs on the CPU only"
    if case.dtype != "float32":
        return "float32 only"
    if case.spec.is_separable:
        return "separable pairs: see numba.fused"
    return cannot_lower(case)


def _is_depthwise(case: Case) -> bool:
    spec = lower(case).spec
    return spec.groups == spec.c > 1


def supports(case: Case) -> str:
    """ "" when it can, otherwise the reason."""
    if reason := reason_against(case):
        return reason
    if _is_depthwise(case):
        return depthwise.supports(case)
    lowered = lower(case)
    if lowered.pass_ == "data_gradient" and lowered.spec.stride != (1, 1):
        return "data gradient with stride > 1: see numba.phases"
    return ""


def build(case: Case, name: str = "direct") -> Kernel:
    """Plan one case; nothing of the operands is looked at before run."""
    if _is_depthwise(case):
        return depthwise.build(case)
    lowered, tile = lower(case), f"{MR}x{NR}"
    run: Any
    if lowered.pass_ == "weight_gradient":
        taps, of = forward_taps(lowered.spec), weight_gradient
        if dots.pays(taps):
            name, tile, of = "dots", f"{dots.ROWS}x{dots.COLUMNS}", dots.weight_gradient
        reduce = of(taps, lowered.spec.w_shape)
        run = (lambda x, dy: reduce(dy, x)) if lowered.exchanged else reduce
    elif lowered.pass_ == "data_gradient":
        run = convolution(data_gradient_taps(lowered.spec), lowered.spec.x_shape)
    else:
        run = convolution([forward_taps(lowered.spec)], lowered.spec.y_shape)
    return Kernel(run, f"{name}_{tile}", relu=case.pass_ == "forward")


IMPLEMENTATION = Implementation(
    name="numba.direct",
    supports=supports,
    build=build,
    summary="register-blocked direct convolution, any kernel, stride, padding, dilation, groups",
)
