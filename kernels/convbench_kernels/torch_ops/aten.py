"""torch.aten: what torch.nn.functional computes, the reference that every speed-up is measured against.

On the CPU this is oneDNN (MKL for some shapes), on CUDA cuDNN or ATen's own kernels. The gradients call
aten.convolution_backward for the one gradient asked for, as autograd does. The separable pair is two calls.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch.nn import functional as F

from convbench.plugin import Case, ConvSpec, Implementation, Kernel


def dilation_of(spec: ConvSpec) -> tuple[int, int]:
    """The dilation of a conv2d, 1 where there is one tap: any other means nothing there, and oneDNN 3.12 ends the
    process by it (channels_last, 3 x 1 with dilation 1 x 2, bias, a width of 1)."""
    if spec.is_transposed:  # output_padding may be as large as the dilation allows
        return spec.dilation
    return (spec.dilation[0] if spec.r > 1 else 1, spec.dilation[1] if spec.s > 1 else 1)


def forward(spec: ConvSpec) -> Callable[..., torch.Tensor]:
    """f(x, w, bias=None) -> y of a conv2d or conv_transpose2d."""
    stride, padding, dilation, groups = spec.stride, spec.padding, dilation_of(spec), spec.groups
    if spec.is_transposed:
        output_padding = spec.output_padding
        return lambda x, w, bias=None: F.conv_transpose2d(x, w, bias, stride, padding, output_padding, groups, dilation)
    return lambda x, w, bias=None: F.conv2d(x, w, bias, stride, padding, dilation, groups)


def backward(spec: ConvSpec, data: bool) -> Callable[..., torch.Tensor]:
    """f(dy, x, w) -> data or weight gradient; the operand that is not needed gives its shape and layout only."""
    geometry = (spec.stride, spec.padding, dilation_of(spec), spec.is_transposed, spec.output_padding, spec.groups)
    mask, which = ([True, False, False], 0) if data else ([False, True, False], 1)
    return lambda dy, x, w: torch.ops.aten.convolution_backward.default(dy, x, w, None, *geometry, mask)[which]


def stand_in(shape: tuple[int, ...]) -> Callable[[torch.Tensor], torch.Tensor]:
    """f(tensor) -> a tensor of that shape in the tensor's layout, kept, for the operand that autograd has at hand.

    Not one without memory: torch would copy it to a dense one at each call, 1.4 times the time of a data gradient."""

    @cache
    def kept(dtype: torch.dtype, device: torch.device, layout: torch.memory_format) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype, device=device).contiguous(memory_format=layout)

    def of(tensor: torch.Tensor) -> torch.Tensor:
        last = not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)
        return kept(tensor.dtype, tensor.device, torch.channels_last if last else torch.contiguous_format)

    return of


def run(case: Case) -> Callable[..., torch.Tensor | tuple[torch.Tensor, torch.Tensor]]:
    """The function of Case.operand_names that computes the case."""
    spec = case.spec
    if spec.is_separable:
        return separable(case)
    if case.pass_ == "forward":
        return forward(spec)
    gradient = backward(spec, case.pass_ == "data_gradient")
    if case.pass_ == "data_gradient":
        x_like = stand_in(spec.x_shape)
        return lambda dy, w: gradient(dy, x_like(dy), w)
    w_like = stand_in(spec.w_shape)
    return lambda x, dy: gradient(dy, x, w_like(x))


def separable(case: Case) -> Callable[..., torch.Tensor | tuple[torch.Tensor, torch.Tensor]]:
    """Depthwise then pointwise as two calls; the weight gradient computes the intermediate again."""
    first, second = case.spec.depthwise(), case.spec.pointwise()
    depthwise, pointwise = forward(first), forward(second)
    if case.pass_ == "forward":
        return lambda x, w1, w2, bias=None: pointwise(depthwise(x, w1), w2, bias)
    d_intermediate, d_input = backward(second, data=True), backward(first, data=True)
    z_like, x_like = stand_in(second.x_shape), stand_in(first.x_shape)
    if case.pass_ == "data_gradient":

        def data_gradient(dy: torch.Tensor, w1: torch.Tensor, w2: torch.Tensor) -> torch.Tensor:
            dz = d_intermediate(dy, z_like(dy), w2)
            return d_input(dz, x_like(dy), w1)

        return data_gradient
    d_w1, d_w2 = backward(first, data=False), backward(second, data=False)

    def weight_gradient(
        x: torch.Tensor, w1: torch.Tensor, w2: torch.Tensor, dy: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        z = depthwise(x, w1)
        return d_w1(d_intermediate(dy, z, w2), x, w1), d_w2(dy, z, w2)

    return weight_gradient


WINOGRAD = 10.4  # cuDNN may take it, or an FFT, which round more (numba_cpu/winograd.py); oneDNN has neither


def supports(case: Case) -> str:
    if case.dtype == "tf32" and case.device == "cpu":
        return "TF32 is a precision of CUDA devices"
    if case.dtype in ("float16", "bfloat16") and case.device == "cpu" and case.pass_ != "forward":
        return f"torch's CPU gradients round partial sums to {case.dtype}"
    return ""


def as_library(case: Case, call: Callable[..., Any], algorithm: str) -> Kernel:
    """A kernel whose algorithm the library chooses: on CUDA it need not be plain sums."""
    if case.device == "cpu":
        return Kernel(call, algorithm)
    return Kernel(call, algorithm, exact=False, error_factor=WINOGRAD)


def build(case: Case) -> Kernel:
    return as_library(case, run(case), "two calls" if case.spec.is_separable else "aten")


IMPLEMENTATION = Implementation("torch.aten", supports, build, "torch.nn.functional, plain NCHW: the reference")
