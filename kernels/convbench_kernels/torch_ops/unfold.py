"""torch.unfold: convolution as im2col and matrix products, the textbook GEMM form.

    columns (N, C*R*S, P*Q) = unfold(x)
    forward          y = W (K, C*R*S) @ columns
    data gradient    dx = fold(W^T @ dy)
    weight gradient  dW = sum over n of dy @ columns^T

With groups every product is batched over them: (N, G, ., .). A transposed convolution is the data gradient
of the conv2d it mirrors. The columns are R*S times the input: that traffic is the price of this form
(Chellapilla, Puri, Simard, "High Performance Convolutional Neural Networks for Document Processing", 2006).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

from convbench.plugin import Case, ConvSpec, Implementation, Kernel


def columns(x: torch.Tensor, spec: ConvSpec) -> torch.Tensor:
    """im2col: (N, C, H, W) -> (N, G, C/G*R*S, P*Q)."""
    unfolded = F.unfold(x, (spec.r, spec.s), spec.dilation, spec.padding, spec.stride)
    return unfolded.view(spec.n, spec.groups, -1, spec.p * spec.q)


def forward(spec: ConvSpec, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    weights = w.reshape(spec.groups, spec.k // spec.groups, -1)
    return (weights @ columns(x, spec)).view(spec.y_shape)


def data_gradient(spec: ConvSpec, dy: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    weights = w.reshape(spec.groups, spec.k // spec.groups, -1).transpose(1, 2)
    spread = weights @ dy.reshape(spec.n, spec.groups, spec.k // spec.groups, -1)
    return F.fold(spread.flatten(1, 2), (spec.h, spec.w), (spec.r, spec.s), spec.dilation, spec.padding, spec.stride)


def weight_gradient(spec: ConvSpec, x: torch.Tensor, dy: torch.Tensor) -> torch.Tensor:
    rows = dy.reshape(spec.n, spec.groups, spec.k // spec.groups, -1)
    return (rows @ columns(x, spec).transpose(2, 3)).sum(0).view(spec.w_shape)


def run(case: Case) -> Callable[..., torch.Tensor]:
    """The function of Case.operand_names that computes the case."""
    spec = case.spec
    if not spec.is_transposed:
        if case.pass_ == "forward":
            return lambda x, w, bias=None: _add(forward(spec, x, w), bias)
        compute = data_gradient if case.pass_ == "data_gradient" else weight_gradient
        return lambda first, second: compute(spec, first, second)
    mirror = spec.mirrored()
    if case.pass_ == "forward":
        return lambda x, w, bias=None: _add(data_gradient(mirror, x, w), bias)
    if case.pass_ == "data_gradient":
        return lambda dy, w: forward(mirror, dy, w)
    return lambda x, dy: weight_gradient(mirror, dy, x)


def _add(y: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return y if bias is None else y.add_(bias[:, None, None])


def supports(case: Case) -> str:
    if case.spec.is_separable:
        return "computes single convolutions, not the pair"
    if case.spec.is_transposed and case.spec.mirrored().y_shape != case.spec.x_shape:
        return "an output_padding of the stride or more mirrors no convolution"
    if case.dtype == "tf32" and case.device == "cpu":
        return "TF32 is a precision of CUDA devices"
    folds = case.pass_ == ("forward" if case.spec.is_transposed else "data_gradient")
    if folds and case.dtype in ("float16", "bfloat16") and case.device == "cpu":
        return f"torch's fold on the CPU rounds partial sums to {case.dtype}"
    return ""


def build(case: Case) -> Kernel:
    return Kernel(run(case), "im2col + matmul")


IMPLEMENTATION = Implementation("torch.unfold", supports, build, "im2col (unfold) and matrix products")
