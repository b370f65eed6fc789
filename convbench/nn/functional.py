"""conv2d and conv_transpose2d with torch's arguments, and the separable pair, on chosen implementations.

What torch.nn.functional does before it convolves is done here: string padding, scalars for pairs, input without a
batch dimension, autocast. Plain Python on shapes, so that torch.compile traces it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.autograd import forward_ad
from torch.nn import functional as F

from convbench.errors import ConvbenchError
from convbench.nn import ops
from convbench.nn.choice import decode
from convbench.nn.report import TORCH, Ran

Tensor = torch.Tensor
Ints = int | Sequence[int]
DEFAULT = "*=numba.auto"


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    groups: int = 1,
    choice: str = DEFAULT,
    relu: bool = False,
) -> Tensor:
    """torch.nn.functional.conv2d: input (N, C, H, W) or (C, H, W), weight (K, C/groups, R, S) -> (N, K, P, Q).

    choice: see convbench.nn.choice. relu: with a ReLU behind it, for inference in one kernel.

    Raises what torch raises for operands that do not fit each other, and ConvbenchError where a strict choice cannot
    compute a pass.
    """
    if reason := _unfit(input):
        leave("conv2d", input, reason, decode(choice).strict)
        y = F.conv2d(input, weight, bias, stride, padding, dilation, groups)  # type: ignore[arg-type]
        return torch.relu(y) if relu else y
    stride, dilation = _pair(stride), _pair(dilation)
    input, padding = _padded(input, weight, padding, stride, dilation)
    rest = (stride, padding, dilation, False, (0, 0), groups, choice)
    operator = ops.rectified_convolution if relu else ops.convolution
    return _batched(lambda x, w, b: operator(x, w, b, *rest), input, weight, bias)


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
    choice: str = DEFAULT,
) -> Tensor:
    """torch.nn.functional.conv_transpose2d: weight (C, K/groups, R, S); otherwise as conv2d."""
    if reason := _unfit(input):
        leave("conv_transpose2d", input, reason, decode(choice).strict)
        return F.conv_transpose2d(input, weight, bias, stride, padding, output_padding, groups, dilation)  # type: ignore[arg-type]
    rest = (_pair(stride), _pair(padding), _pair(dilation), True, _pair(output_padding), groups, choice)
    return _batched(lambda x, w, b: ops.convolution(x, w, b, *rest), input, weight, bias)


def separable_conv2d(
    input: Tensor,
    depthwise: Tensor,
    pointwise: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    choice: str = DEFAULT,
    between: Tensor | None = None,
    relu_between: bool = False,
    relu: bool = False,
) -> Tensor:
    """A depthwise (C, 1, R, S), then a pointwise (K, C, 1, 1) convolution with bias, in one kernel where one can.

    between: a bias (C,) of the depthwise half; relu_between, relu: a ReLU behind either half; with one of these in one
    kernel for inference only."""
    relus = (relu_between, relu)
    if _unfit(input):
        return _halves(input, depthwise, pointwise, bias, between, relus, stride, padding, dilation, choice)
    stride, dilation = _pair(stride), _pair(dilation)
    input, padding = _padded(input, depthwise, padding, stride, dilation)
    rest = (stride, padding, dilation, choice)

    def operator(x: Tensor, w1: Tensor, w2: Tensor, b: Tensor | None, b1: Tensor | None) -> Tensor:
        if b1 is None and relus == (False, False):
            return ops.separable_convolution(x, w1, w2, b, *rest)
        y = ops.folded_separable_convolution((x, w1, w2, b), b1, relus, *rest)
        return _halves(x, w1, w2, b, b1, relus, *rest) if y is None else y

    return _batched(operator, input, depthwise, pointwise, bias, between)


def _halves(
    x: Tensor, w1: Tensor, w2: Tensor, bias: Tensor | None, between: Tensor | None, relus: tuple[bool, bool],
    stride: Any, padding: Any, dilation: Any, choice: str,
) -> Tensor:  # fmt: skip
    z = conv2d(x, w1, between, stride, padding, dilation, w1.shape[0], choice, relus[0])
    return conv2d(z, w2, bias, choice=choice, relu=relus[1])


def leave(name: str, input: Tensor, reason: str, strict: bool) -> None:
    """Note a convolution that torch will compute; ConvbenchError where that is not wanted."""
    if strict:
        raise ConvbenchError(f"{name}: {reason}; use strict=False to let torch compute it")
    layer = f"{name} {'x'.join(map(str, input.shape))}"
    ops.count(Ran(layer, "forward", str(input.dtype), str(input.device), TORCH, reason=reason))


def _unfit(input: Tensor) -> str:
    """What these operators have no rule for, or ""."""
    if torch.compiler.is_compiling():
        return ""
    if forward_ad._current_level >= 0:
        return "forward-mode derivatives"
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return "transforms of torch.func"
    if input.layout is not torch.strided:
        return f"{input.layout} tensors"
    return "" if input.device.type in ("cpu", "cuda") else f"tensors on {input.device.type}"


def _pair(value: Ints) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value, value)
    return tuple(value) * (2 if len(value) == 1 else 1)


def _padded(
    input: Tensor, weight: Tensor, padding: Ints | str, stride: tuple[int, ...], dilation: tuple[int, ...]
) -> tuple[Tensor, tuple[int, ...]]:
    """(input, padding as numbers); what "same" has too much of on one side, the input is given."""
    if not isinstance(padding, str):
        return input, _pair(padding)
    if padding == "valid":
        return input, (0, 0)
    if padding != "same":
        raise RuntimeError(f"padding {padding!r}: expected a number, 'same' or 'valid'")
    if any(size != 1 for size in stride):
        raise RuntimeError("padding 'same' has no meaning with a stride; give numbers")
    total = [d * (size - 1) for d, size in zip(dilation, weight.shape[-2:], strict=True)]
    if any(t % 2 for t in total):
        input = F.pad(input, (0, total[1] % 2, 0, total[0] % 2))
    return input, (total[0] // 2, total[1] // 2)


def _batched(operator: Callable[..., Tensor], input: Any, *others: Any) -> Tensor:
    """The operator with a batch of one where the input is none, in autocast's type."""
    if torch.is_autocast_enabled(input.device.type):
        dtype = torch.get_autocast_dtype(input.device.type)
        input, *others = (t if t is None or t.dtype is torch.float64 else t.to(dtype) for t in (input, *others))  # type: ignore[assignment]
    if input.dim() != 3:
        return operator(input, *others)
    return operator(input.unsqueeze(0), *others).squeeze(0)
