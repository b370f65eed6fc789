"""A model as it is deployed: batch norms folded into convolutions, ReLUs computed by their kernels."""

from __future__ import annotations

import copy
from itertools import pairwise

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from convbench.nn.choice import Wanted
from convbench.nn.modules import Conv2d, DepthwiseSeparableConv2d


def fold(model: nn.Module, implementation: Wanted | None = None, strict: bool = False) -> nn.Module:
    """A copy of the model for inference, its weights those of running statistics as they are now.

    In every nn.Sequential, a batch norm right behind a Conv2d becomes part of its weights, and a ReLU behind these is
    computed in place, or, with an implementation, as part of convbench.nn.Conv2d, and a depthwise and a pointwise
    convolution behind it as one DepthwiseSeparableConv2d. Other layers stay as they are: use_kernels is for theirs.

    Raises InputError for an unknown implementation.
    """
    model = copy.deepcopy(model).eval()
    for block in [module for module in model.modules() if isinstance(module, nn.Sequential)]:
        for i, module in enumerate(block):
            if type(module) is nn.Conv2d:
                _fold(block, i, implementation, strict)
        _pair(block)
    return model


def _fold(block: nn.Sequential, at: int, implementation: Wanted | None, strict: bool) -> None:
    """The convolution at this place with what follows it, which is the identity afterwards."""
    following = iter(range(at + 1, len(block)))
    after = next(following, None)
    if after is not None and isinstance(norm := block[after], nn.BatchNorm2d) and norm.track_running_stats:
        block[at], block[after] = fuse_conv_bn_eval(block[at], norm), nn.Identity()
        after = next(following, None)
    relu = after is not None and type(block[after]) is nn.ReLU
    if implementation is not None:
        block[at] = _ours(block[at], implementation, strict, relu)
    if relu:
        block[after] = nn.ReLU(inplace=True) if implementation is None else nn.Identity()


def _pair(block: nn.Sequential) -> None:
    """Depthwise and pointwise neighbours on our kernels become one layer."""
    layers = [i for i, module in enumerate(block) if type(module) is not nn.Identity]
    for i, j in pairwise(layers):
        first, second = block[i], block[j]
        if type(first) is type(second) is Conv2d and _separable(first, second):
            pair = DepthwiseSeparableConv2d(first.in_channels, second.out_channels, 1, device="meta")
            pair.depthwise, pair.pointwise = first, second
            block[i], block[j] = pair, nn.Identity()


def _separable(first: Conv2d, second: Conv2d) -> bool:
    depthwise = first.groups == first.in_channels == first.out_channels > 1 and first.padding_mode == "zeros"
    pointwise = second.kernel_size == second.stride == (1, 1) and second.padding == (0, 0) and second.groups == 1
    return depthwise and pointwise


def _ours(layer: nn.Conv2d, implementation: Wanted, strict: bool, relu: bool) -> Conv2d:
    """The layer on an implementation, with its own weights."""
    sizes = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    ours = Conv2d(
        layer.in_channels, layer.out_channels, *sizes, layer.groups, layer.bias is not None, layer.padding_mode,
        device="meta", implementation=implementation, strict=strict, relu=relu,
    )  # fmt: skip
    ours.weight, ours.bias = layer.weight, layer.bias
    return ours.eval()
