"""A model as it is deployed: batch norms folded into convolutions, ReLUs computed by their kernels."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from convbench.errors import STRANGERS_ERRORS
from convbench.nn.choice import Wanted, encode
from convbench.nn.modules import Conv2d, DepthwiseSeparableConv2d

RELUS = (torch.relu, F.relu, torch.relu_, "relu", "relu_")


def fold(model: nn.Module, implementation: Wanted | None = None, strict: bool = False) -> nn.Module:
    """A copy of the model for inference, with the weights and running statistics that it has now.

    A batch norm that alone follows a Conv2d becomes part of its weights. A ReLU that alone follows these is computed in
    place, or, with an implementation, by convbench.nn.Conv2d, and a depthwise and a pointwise convolution behind it
    become one DepthwiseSeparableConv2d. Other layers stay as they are: use_kernels is for theirs. Found by torch.fx; a
    module that it cannot trace keeps its own forward, and what is in it is folded.

    Raises InputError for an unknown implementation.
    """
    if implementation is not None:
        encode(implementation, strict)
    return _folded(copy.deepcopy(model).eval(), implementation, strict)


def _folded(module: nn.Module, implementation: Wanted | None, strict: bool) -> nn.Module:
    if not list(module.children()):
        return module
    try:
        traced = fx.symbolic_trace(module)
    except STRANGERS_ERRORS:  # its Python looks at values
        for name, child in module.named_children():
            module.add_module(name, _folded(child, implementation, strict))
        return module
    for node in list(traced.graph.nodes):
        if type(_layer(traced, node)) is nn.Conv2d:
            _fold(traced, node, implementation, strict)
    for node in list(traced.graph.nodes):
        _pair(traced, node)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


def _layer(traced: fx.GraphModule, node: fx.Node | None) -> nn.Module | None:
    """The module that a node calls, if no other node does."""
    if node is None or node.op != "call_module":
        return None
    alone = sum(other.op == "call_module" and other.target == node.target for other in traced.graph.nodes) == 1
    return traced.get_submodule(str(node.target)) if alone else None


def _next(node: fx.Node) -> fx.Node | None:
    """What alone uses a node's result, and nothing else."""
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0].all_input_nodes == [node] else None


def _fold(traced: fx.GraphModule, node: fx.Node, implementation: Wanted | None, strict: bool) -> None:
    """A convolution with what follows it."""
    layer: Any = _layer(traced, node)
    norm = _layer(traced, _next(node))
    if isinstance(norm, nn.BatchNorm2d) and norm.track_running_stats:
        layer = fuse_conv_bn_eval(layer, norm)
        _absorb(traced, node, _next(node))
    after = _next(node)
    relu = after is not None and _is_relu(traced, after)
    if implementation is not None:
        layer = _ours(layer, implementation, strict, relu)
    elif relu:
        layer = nn.Sequential(layer, nn.ReLU(inplace=True))
    if relu:
        _absorb(traced, node, after)
    traced.set_submodule(str(node.target), layer)


def _is_relu(traced: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return type(traced.get_submodule(str(node.target))) is nn.ReLU
    return node.op in ("call_function", "call_method") and node.target in RELUS


def _absorb(traced: fx.GraphModule, node: fx.Node, after: Any) -> None:
    after.replace_all_uses_with(node)
    traced.graph.erase_node(after)


def _pair(traced: fx.GraphModule, node: fx.Node) -> None:
    """A depthwise and a pointwise convolution on our kernels become one layer."""
    first, after = _layer(traced, node), _next(node)
    second = _layer(traced, after)
    if type(first) is type(second) is Conv2d and _separable(first, second):
        pair = DepthwiseSeparableConv2d(first.in_channels, second.out_channels, 1, device="meta")
        pair.depthwise, pair.pointwise = first, second
        traced.set_submodule(str(node.target), pair.eval())
        _absorb(traced, node, after)


def _separable(first: Conv2d, second: Conv2d) -> bool:
    depthwise = first.groups == first.in_channels == first.out_channels > 1 and first.padding_mode == "zeros"
    pointwise = second.kernel_size == second.stride == (1, 1) and second.padding == (0, 0) and second.groups == 1
    return depthwise and pointwise


def _ours(layer: nn.Conv2d, implementation: Wanted, strict: bool, relu: bool) -> Conv2d:
    """The layer on an implementation, with its own weights."""
    sizes: Any = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
    ours = Conv2d(
        layer.in_channels, layer.out_channels, *sizes, layer.groups, layer.bias is not None, layer.padding_mode,
        device="meta", implementation=implementation, strict=strict, relu=relu,
    )  # fmt: skip
    ours.weight, ours.bias = layer.weight, layer.bias
    return ours.eval()
