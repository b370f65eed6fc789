"""torch.prepacked: oneDNN with weights that were packed once, outside the timing.

torch.nn.functional turns plain weights into oneDNN's blocked format at every call. Here that is done once for
the layer's input size, as torch.compile's freezing does (torch/_inductor/fx_passes/mkldnn_fusion.py), by the
operators that it emits; torch.mkldnn_convolution and F.conv2d do not take these weights, or pack them again.

These operators compute in channels_last. Tensors come and go as plain NCHW, like those of torch.aten, so both
conversions are part of the call: where weights are few against pixels (stems, depthwise) they cost more than
packing saves, and torch.aten is faster. torch.channels_last_prepacked has neither. The pair converts once.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from convbench.plugin import Case, ConvSpec, Implementation, Kernel
from convbench_kernels.torch_ops.aten import dilation_of

# The operators can apply a unary function to the result: none, without scalars, in no particular algorithm.
FUSED_WITH: tuple[str, list[float | None], str] = ("none", [], "")


def pack(spec: ConvSpec, w: torch.Tensor) -> torch.Tensor:
    """The weight in the format that oneDNN chooses for this convolution: an opaque tensor of layout torch._mkldnn."""
    last = (spec.stride, dilation_of(spec), spec.groups, spec.x_shape)
    if spec.is_transposed:
        return torch.ops.mkldnn._reorder_convolution_transpose_weight(w, spec.padding, spec.output_padding, *last)
    return torch.ops.mkldnn._reorder_convolution_weight(w, spec.padding, *last)


def forward(spec: ConvSpec) -> Callable[..., torch.Tensor]:
    """f(x, packed w, bias=None) -> y in channels_last."""
    last = (spec.stride, dilation_of(spec), spec.groups, *FUSED_WITH)
    if spec.is_transposed:
        transposed, paddings = torch.ops.mkldnn._convolution_transpose_pointwise, (spec.padding, spec.output_padding)
        return lambda x, packed, bias=None: transposed(x, packed, bias, *paddings, *last)
    convolution, padding = torch.ops.mkldnn._convolution_pointwise, spec.padding
    return lambda x, packed, bias=None: convolution(x, packed, bias, padding, *last)


def run(spec: ConvSpec) -> Callable[..., torch.Tensor]:
    """The function of prepared operands -> y in channels_last; the pair is two calls."""
    if not spec.is_separable:
        return forward(spec)
    depthwise, pointwise = forward(spec.depthwise()), forward(spec.pointwise())
    return lambda x, w1, w2, bias=None: pointwise(depthwise(x, w1), w2, bias)


def prepare(spec: ConvSpec) -> Callable[..., tuple[torch.Tensor, ...]]:
    """The operands of a forward pass -> the same with packed weights."""
    convolutions = (spec.depthwise(), spec.pointwise()) if spec.is_separable else (spec,)

    def pack_all(x: torch.Tensor, *others: torch.Tensor) -> tuple[torch.Tensor, ...]:
        weights, bias = others[: len(convolutions)], others[len(convolutions) :]
        return (x, *map(pack, convolutions, weights), *bias)

    return pack_all


def supports(case: Case) -> str:
    if case.device != "cpu":
        return "oneDNN's packed weights are for the CPU"
    if case.pass_ != "forward":
        return "forward only: training changes the weights"
    if case.dtype != "float32":
        return "float32 only"
    if any(extra >= step for extra, step in zip(case.spec.output_padding, case.spec.stride, strict=True)):
        return "oneDNN has no packed transposed convolution with an output_padding of the stride or more"
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        return "this torch was built without oneDNN"
    return ""


def algorithm(spec: ConvSpec) -> str:
    return "two calls, packed weights" if spec.is_separable else "packed weights"


def build(case: Case) -> Kernel:
    compute = run(case.spec)
    return Kernel(lambda *operands: compute(*operands).contiguous(), algorithm(case.spec), prepare=prepare(case.spec))


IMPLEMENTATION = Implementation("torch.prepacked", supports, build, "oneDNN on plain NCHW, weights packed beforehand")
