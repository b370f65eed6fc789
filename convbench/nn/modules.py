"""torch.nn's convolution layers on chosen implementations: the same arguments, the same state dict."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from convbench.nn.choice import Wanted, encode
from convbench.nn.functional import conv2d, conv_transpose2d, separable_conv2d

Tensor = torch.Tensor


class Conv2d(torch.nn.Conv2d):
    """torch.nn.Conv2d; implementation and strict as in use_kernels, which it does not need and is not changed by.

    relu: with a ReLU behind it, for inference in one kernel."""

    def __init__(
        self, *args: Any, implementation: Wanted = "numba.auto", strict: bool = False, relu: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.choice, self.relu = encode(implementation, strict), relu

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            input, padding = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode), 0
        return conv2d(input, weight, bias, self.stride, padding, self.dilation, self.groups, self.choice, self.relu)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, choice={self.choice!r}" + ", relu=True" * self.relu


class ConvTranspose2d(torch.nn.ConvTranspose2d):
    """torch.nn.ConvTranspose2d; implementation and strict as in Conv2d."""

    def __init__(self, *args: Any, implementation: Wanted = "numba.auto", strict: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.choice = encode(implementation, strict)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """torch's, with an output_size that chooses among the sizes which the stride leaves open."""
        stride: Any = self.stride
        padding: Any = self.padding
        kernel: Any = self.kernel_size
        dilation: Any = self.dilation
        output_padding: Any = self._output_padding(input, output_size, stride, padding, kernel, 2, dilation)
        return conv_transpose2d(
            input, self.weight, self.bias, stride, padding, output_padding, self.groups, dilation, self.choice
        )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, choice={self.choice!r}"


class DepthwiseSeparableConv2d(torch.nn.Module):
    """A depthwise R x S, then a pointwise 1 x 1 convolution: in one kernel where the implementation has one.

    stride, padding and dilation belong to the depthwise half, the bias to the pointwise half. Weights are those of
    two layers, depthwise.weight (C, 1, R, S) and pointwise.weight (K, C, 1, 1); gradients go through both. A bias or a
    ReLU of either layer (fold makes such pairs) is part of the kernel in inference.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | str | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        bias: bool = True,
        implementation: Wanted = "numba.auto",
        strict: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        shared: Any = {"implementation": implementation, "strict": strict, "device": device, "dtype": dtype}
        self.depthwise = Conv2d(
            in_channels, in_channels, kernel_size, stride, padding, dilation, in_channels, bias=False, **shared
        )
        self.pointwise = Conv2d(in_channels, out_channels, 1, bias=bias, **shared)

    def forward(self, input: Tensor) -> Tensor:
        first, second = self.depthwise, self.pointwise
        return separable_conv2d(
            input, first.weight, second.weight, second.bias, first.stride, first.padding, first.dilation, first.choice,
            first.bias, first.relu, second.relu,
        )  # type: ignore[arg-type]  # fmt: skip
