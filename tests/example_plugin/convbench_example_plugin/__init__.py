"""example.shift_and_add: convolution as one shifted, scaled copy of the image for each kernel tap.

    y[n, k, p, q] = sum over r, s of ( sum over c of w[k, c, r, s] x_padded[n, c, p*stride + r, q*stride + s] )

x (N, C, H, W), w (K, C, R, S), y (N, K, P, Q). For each tap the inner sum is one matrix product over channels.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.nn.functional import pad

from convbench.plugin import Case, Implementation, Kernel


def supports(case: Case) -> str:
    spec = case.spec
    if (spec.operator, case.pass_) != ("conv2d", "forward"):
        return "only the forward pass of conv2d is implemented"
    if spec.groups > 1 or spec.dilation != (1, 1):
        return "groups and dilation are not implemented"
    if case.dtype not in ("float32", "float64"):
        return f"{case.dtype} is not implemented"
    return ""


def build(case: Case) -> Kernel:
    spec = case.spec
    (stride_h, stride_w), (padding_h, padding_w) = spec.stride, spec.padding

    def run(x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        padded = pad(x, (padding_w, padding_w, padding_h, padding_h))
        y = torch.zeros(spec.y_shape, dtype=x.dtype, device=x.device)
        for r in range(spec.r):
            for s in range(spec.s):
                rows = slice(r, r + (spec.p - 1) * stride_h + 1, stride_h)
                columns = slice(s, s + (spec.q - 1) * stride_w + 1, stride_w)
                y += torch.einsum("kc,nchw->nkhw", w[:, :, r, s], padded[:, :, rows, columns])
        return y if bias is None else y.add_(bias[:, None, None])

    return Kernel(run, algorithm=f"{spec.r * spec.s} taps")


def implementations() -> Iterator[Implementation]:
    yield Implementation("example.shift_and_add", supports, build, "one matrix product for each kernel tap")
