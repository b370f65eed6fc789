"""numba.gemm: 1 x 1 convolutions as matrix products, any stride, padding, groups, batch and bias.

    forward          y[n]  (K x PQ)  = w   (K x C) @ x[n]  (C x PQ)      gemm_m = PQ pixels, gemm_n = K, gemm_k = C
    data gradient    dx[n] (C x PQ)  = w^T (C x K) @ dy[n] (K x PQ)      w is read transposed, never copied for it
    weight gradient  dw    (K x C)   = sum_n dy[n] @ x[n]^T              gemm_k = N*P*Q pixels

x (N, C, H, W) is its own GEMM operand in NCHW: pixels are contiguous and are the vector axis. With stride or padding
the pixels used are gathered once. The register tile, the blocks and the ladder of versions: implicit_gemm.py and
weight_gradient.py.
"""

from __future__ import annotations

from convbench.plugin import Case, Implementation, Kernel
from convbench_kernels.numba_cpu.direct import build as build_dense
from convbench_kernels.numba_cpu.direct import reason_against
from convbench_kernels.numba_cpu.gemv import gemv
from convbench_kernels.numba_cpu.lowering import lower


def supports(case: Case) -> str:
    """ "" when it can, otherwise the reason."""
    if reason := reason_against(case):
        return reason
    if (case.spec.r, case.spec.s) != (1, 1):
        return "only 1 x 1 kernels"
    if lower(case).spec.groups == lower(case).spec.c > 1:
        return "depthwise 1 x 1 is a scaling: no matrix product"
    return ""


def build(case: Case) -> Kernel:
    """The dense kernel on one tap; a product with vectors where the map is one pixel."""
    spec = case.spec
    one_pixel = (spec.h, spec.w, spec.p, spec.q) == (1, 1, 1, 1)
    if one_pixel and spec.groups == 1 and not spec.is_transposed:
        return Kernel(gemv(case), "gemv", relu=case.pass_ == "forward")
    return build_dense(case, "gemm")


IMPLEMENTATION = Implementation(
    name="numba.gemm",
    supports=supports,
    build=build,
    summary="1x1 convolution as register-tiled matrix product, x read in place",
)
