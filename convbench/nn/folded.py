"""A model as it is deployed: batch norms folded into convolutions, ReLUs computed by their kernels."""

from __future__ import annotations

import copy

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from convbench.nn.choice import Wanted
from convbench.nn.modules import Conv2d


def fold(model: nn.Module, implementation: Wanted | None = None, strict: bool = False) -> nn.Module:
    """A copy of the model for inference, its weights those of running statistics as they are now.

    In every nn.Sequential, a batch norm right behind a Conv2d becomes part of its weights, and a ReLU behind these is
    computed in place, or, with an implementation, as part of convbench.nn.Conv2d. Other layers stay as they are:
    run the copy in use_kernels for theirs.

    Raises InputError for an unknown implementation.
    """
    model = copy.deepcopy(model).eval()
    for block in [module for module in model.modules() if isinstance(module, nn.Sequential)]:
        for i, module in enumerate(block):
            if type(module) is nn.Conv2d:
                _fold(block, i, implementation, strict)
    return model


def _fold(block: nn.Sequential, at: int, implementation: Wanted | None, strict: bool) -> None:
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


def _ours(layer: nn.Conv2d, implementation: Wanted, strict: bool, relu: bool) -> Conv2d:
    """The layer on an implementation, with its own weights."""
    sizes = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    ours = Conv2d(
        layer.in_channels, layer.out_channels, *sizes, layer.groups, layer.bias is not None, layer.padding_mode,
        device="meta", implementation=implementation, strict=strict, relu=relu,
    )  # fmt: skip
    ours.weight, ours.bias = layer.weight, layer.bias
    return ours.eval()
