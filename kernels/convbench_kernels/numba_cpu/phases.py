"""numba.phases: transposed convolution, and the data gradient of a strided convolution, split by output phase.

    dx[n, c, a*sh + i, b*sw + j] = sum over the taps (r, s) that hit phase (i, j), and k, of
                                   w[k, c, r, s] * dy[n, k, a + eh[r], b + ew[s]],    eh = (i + ph - r*dh) / sh

A tap hits phase i where i + ph - r*dh is a multiple of the stride: each of the sh * sw phases is a small stride-1
convolution with its own share of the taps, written to every sh-th row and sw-th column. The zeros that the textbook
form inserts are never multiplied: 1/(sh*sw) of its work ("sub-pixel" or "segregated" transposed convolution; Shi et
al., arXiv 1609.05158; Tida et al., arXiv 2209.03704).

A 4x4 stride-2 kernel is four 2x2 convolutions; 2x2 stride-2 is four matrix products; a phase that no tap hits is bias.
torch's weight (C, K/groups, R, S) is read in place as the OIHW of the convolution it mirrors. Register tile and
blocks: implicit_gemm.py; the phases' offsets: geometry.data_gradient_taps. Depthwise goes to depthwise.py.

Versions
  1  zero-insert, flip, stride 1       textbook.py
  2  one implicit GEMM a phase, interleaved stores
"""

from __future__ import annotations

from convbench.plugin import Case, Implementation, Kernel
from convbench_kernels.numba_cpu import depthwise
from convbench_kernels.numba_cpu.direct import reason_against
from convbench_kernels.numba_cpu.geometry import data_gradient_taps
from convbench_kernels.numba_cpu.implicit_gemm import convolution
from convbench_kernels.numba_cpu.lowering import lower


def supports(case: Case) -> str:
    """The forward of conv_transpose2d and the data gradient of conv2d, any shape."""
    if reason := reason_against(case):
        return reason
    lowered = lower(case)
    if lowered.pass_ != "data_gradient":
        return "forward of a transposed convolution and data gradient of a convolution only: see numba.direct"
    if lowered.spec.groups == lowered.spec.c > 1:
        return depthwise.supports(case)
    return ""


def build(case: Case) -> Kernel:
    spec = lower(case).spec
    if spec.groups == spec.c > 1:
        return depthwise.build(case)
    taps = data_gradient_taps(spec)
    algorithm = f"phases_{spec.stride[0]}x{spec.stride[1]}"
    return Kernel(convolution(taps, spec.x_shape), algorithm, relu=case.pass_ == "forward")


IMPLEMENTATION = Implementation(
    "numba.phases", supports, build, "transposed convolution by output phase: no inserted zero is multiplied"
)
