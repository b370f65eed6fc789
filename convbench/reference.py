"""What a case must compute: torch.nn.functional in float64 on the case's own device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convbench.case import Case
from convbench.operands import Operands
from convbench.spec import ConvSpec

if TYPE_CHECKING:
    import torch


def reference(case: Case, operands: Operands, dtype: str = "float64") -> tuple[torch.Tensor, ...]:
    """The outputs of a case, in the shapes of Case.output_shapes, computed in ``dtype``."""
    import torch

    wide = {name: tensor.to(getattr(torch, dtype)) for name, tensor in operands.items()}
    if case.spec.is_separable:
        return _separable(case, wide)
    if case.pass_ == "forward":
        return (_forward(case.spec, wide["x"], wide["w"], wide.get("bias")),)
    if case.pass_ == "data_gradient":
        x = wide["dy"].new_empty(1).expand(case.spec.x_shape)
        return (_gradients(case.spec, wide["dy"], x, wide["w"], 0),)
    w = wide["x"].new_empty(1).expand(case.spec.w_shape)
    return (_gradients(case.spec, wide["dy"], wide["x"], w, 1),)


def _forward(spec: ConvSpec, x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    from torch.nn import functional as F

    if spec.is_transposed:
        return F.conv_transpose2d(
            x, w, bias, spec.stride, spec.padding, spec.output_padding, spec.groups, spec.dilation
        )
    return F.conv2d(x, w, bias, spec.stride, spec.padding, spec.dilation, spec.groups)


def _gradients(spec: ConvSpec, dy: torch.Tensor, x: torch.Tensor, w: torch.Tensor, which: int) -> torch.Tensor:
    """Data (0) or weight (1) gradient; the other operand gives its shape only."""
    import torch

    mask = [which == 0, which == 1, False]
    return torch.ops.aten.convolution_backward(
        dy, x, w, None, spec.stride, spec.padding, spec.dilation, spec.is_transposed, spec.output_padding,
        spec.groups, mask,
    )[which]  # fmt: skip


def _separable(case: Case, t: Operands) -> tuple[torch.Tensor, ...]:
    first, second = case.spec.depthwise(), case.spec.pointwise()
    if case.pass_ == "forward":
        z = _forward(first, t["x"], t["w_depthwise"], None)
        return (_forward(second, z, t["w_pointwise"], t.get("bias")),)
    z_like = t["dy"].new_empty(1).expand(second.x_shape)
    dz = _gradients(second, t["dy"], z_like, t["w_pointwise"], 0)
    if case.pass_ == "data_gradient":
        return (_gradients(first, dz, dz.new_empty(1).expand(first.x_shape), t["w_depthwise"], 0),)
    z = _forward(first, t["x"], t["w_depthwise"], None)
    return (
        _gradients(first, dz, t["x"], t["w_depthwise"], 1),
        _gradients(second, t["dy"], z, t["w_pointwise"], 1),
    )
