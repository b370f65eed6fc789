"""Convolution kernels in any torch model: swapped in under it, or as layers of its own.

    with convbench.use_kernels("numba.auto") as used:
        model(x).sum().backward()
    print(used)                       # which layer ran on what

    layer = convbench.nn.Conv2d(64, 128, 3, padding=1, implementation="numba.auto")

mode        use_kernels: torch's conv2d and conv_transpose2d become the operators below
modules     Conv2d, ConvTranspose2d, DepthwiseSeparableConv2d
functional  the same from torch's arguments: string padding, unbatched input, autocast
ops         torch.library operators convbench::*, with gradients of any order, fake tensors, FLOP counts
plans       which implementation computes a pass of a shape, built once
choice      what was asked for, as text
report      what ran on what
folded      fold: a model for inference, batch norms and ReLUs inside its convolutions
"""

from convbench.nn.folded import fold
from convbench.nn.functional import conv2d, conv_transpose2d, separable_conv2d
from convbench.nn.mode import use_kernels
from convbench.nn.modules import Conv2d, ConvTranspose2d, DepthwiseSeparableConv2d
from convbench.nn.report import Ran, Report

__all__ = [
    "Conv2d",
    "ConvTranspose2d",
    "DepthwiseSeparableConv2d",
    "Ran",
    "Report",
    "conv2d",
    "conv_transpose2d",
    "fold",
    "separable_conv2d",
    "use_kernels",
]
