"""The shapes on which every implementation must be right: a table by hand, and a hypothesis strategy.

Chosen for the places where kernels break: tile-1, tile and tile+1 of the usual tiles and vectors (8, 16, 32),
primes, one-pixel images, kernels larger than the image, unequal pairs, groups and depth multipliers.
"""

from __future__ import annotations

from hypothesis import strategies as st

from convbench.errors import InputError
from convbench.spec import OPERATORS, ConvSpec


def conv(input, k, kernel, operator="conv2d", **more) -> ConvSpec:
    return ConvSpec.create(input, k, kernel, operator=operator, **more)


def up(input, k, kernel, **more) -> ConvSpec:
    return conv(input, k, kernel, "conv_transpose2d", **more)


def pair(input, k, kernel, **more) -> ConvSpec:
    return conv(input, k, kernel, "separable_conv2d", **more)


SHAPES: dict[str, ConvSpec] = {
    # standard
    "smallest": conv((1, 1, 1, 1), 1, 1),
    "one pixel, 3x3": conv((1, 5, 1, 1), 7, 3, padding=1),
    "one row": conv((1, 3, 1, 19), 4, (1, 5), padding=(0, 2)),
    "one column": conv((2, 3, 19, 1), 4, (5, 1), padding=(2, 0)),
    "one output pixel": conv((2, 3, 5, 5), 4, 5),
    "kernel larger than the image": conv((1, 3, 2, 3), 5, (5, 7), padding=(2, 3)),
    "padding larger than the kernel": conv((1, 2, 4, 4), 3, 2, padding=3),
    "3x3 same": conv((2, 4, 12, 12), 6, 3, padding=1),
    "3x3 valid, primes": conv((3, 7, 13, 11), 5, 3),
    "tile - 1": conv((1, 15, 9, 15), 31, 3, padding=1),
    "tile": conv((1, 16, 8, 16), 32, 3, padding=1),
    "tile + 1": conv((1, 17, 9, 17), 33, 3, padding=1),
    "wide row": conv((1, 2, 3, 67), 3, 3, padding=1),
    "stem": conv((1, 3, 23, 21), 16, 7, stride=2, padding=3),
    "bias": conv((2, 4, 7, 9), 6, 3, padding=1, bias=True),
    "even kernel": conv((1, 3, 9, 8), 4, (2, 4), padding=(1, 2)),
    "unequal everything": conv((2, 3, 17, 14), 5, (3, 2), stride=(2, 3), padding=(0, 1), dilation=(3, 1), bias=True),
    "stride leaves a remainder": conv((1, 2, 10, 12), 3, 3, stride=(3, 4)),
    "stride larger than the kernel": conv((1, 3, 13, 13), 4, 2, stride=3),
    "long sum of many pixels": conv((1, 40, 47, 49), 20, 3, stride=2, padding=1),
    # pointwise
    "pointwise, long sum": conv((1, 203, 7, 9), 33, 1, bias=True),
    "pointwise": conv((2, 8, 6, 5), 12, 1),
    "pointwise tile + 1": conv((1, 33, 3, 11), 17, 1, bias=True),
    "pointwise stride 2": conv((1, 6, 9, 8), 5, 1, stride=2),
    "pointwise padded": conv((1, 4, 3, 3), 5, 1, padding=1, bias=True),
    # dilated
    "dilated 2": conv((1, 4, 13, 12), 5, 3, padding=2, dilation=2),
    "dilated beyond the image": conv((1, 3, 7, 7), 4, 3, padding=12, dilation=12),
    "dilated, strided, unequal": conv((1, 3, 19, 15), 4, 3, stride=2, padding=(2, 3), dilation=(2, 3)),
    # depthwise and grouped
    "depthwise": conv((2, 9, 11, 10), 9, 3, padding=1, groups=9),
    "depthwise stride 2": conv((1, 16, 15, 17), 16, 3, stride=2, padding=1, groups=16, bias=True),
    "depthwise stride 2, one column": conv((1, 9, 17, 1), 9, (4, 1), stride=2, groups=9),
    "depthwise multiplier 3": conv((1, 5, 9, 9), 15, 3, padding=1, groups=5, bias=True),
    "depthwise 5x5 dilated": conv((1, 4, 14, 16), 4, 5, padding=4, dilation=2, groups=4),
    "depthwise tile + 1": conv((1, 17, 9, 33), 17, 3, padding=1, groups=17),
    "depthwise tile - 1": conv((1, 2, 7, 31), 2, 3, padding=1, groups=2),
    "depthwise one pixel": conv((2, 8, 1, 1), 8, 3, padding=1, groups=8),
    "depthwise one wide row": conv((1, 3, 1, 40), 3, (1, 9), padding=(0, 4), groups=3),
    "grouped": conv((2, 8, 7, 6), 12, 3, padding=1, groups=4, bias=True),
    "grouped pointwise": conv((1, 6, 5, 7), 9, 1, groups=3),
    "grouped, strided, dilated": conv((1, 6, 16, 13), 4, 3, stride=2, padding=1, dilation=2, groups=2),
    # transposed
    "up smallest": up((1, 1, 1, 1), 1, 1),
    "up 2x2 stride 2": up((1, 6, 5, 7), 4, 2, stride=2),
    "up 4x4 stride 2": up((2, 4, 8, 8), 6, 4, stride=2, padding=1, bias=True),
    "up 3x3 stride 2, output padding": up((1, 5, 6, 7), 3, 3, stride=2, padding=1, output_padding=1),
    "up, long sum of many pixels": up((1, 70, 31, 33), 20, 4, stride=2, padding=1),
    "up 3x3 stride 1": up((1, 3, 7, 6), 4, 3, padding=1),
    "up stride larger than the kernel": up((1, 3, 4, 5), 2, 2, stride=3, output_padding=(2, 0)),
    "up unequal": up((1, 4, 5, 6), 6, (3, 4), stride=(3, 2), padding=(0, 1), dilation=(2, 1), output_padding=(1, 0)),
    "up output padding beyond the stride": up((1, 2, 5, 4), 3, 3, padding=1, dilation=2, output_padding=(1, 0)),
    "up grouped": up((2, 6, 5, 4), 9, 3, stride=2, padding=1, groups=3, bias=True),
    "up depthwise": up((1, 5, 8, 8), 5, 3, stride=2, padding=1, output_padding=1, groups=5),
    "up tile + 1": up((1, 17, 9, 9), 33, 2, stride=2),
    "up 4x4 stride 4 from one pixel": up((1, 16, 1, 1), 8, 4, stride=4),
    # the pair depthwise, pointwise
    "pair": pair((2, 8, 9, 10), 12, 3, padding=1),
    "pair stride 2, bias": pair((1, 6, 11, 13), 5, 3, stride=2, padding=1, bias=True),
    "pair 5x5 dilated": pair((1, 4, 12, 14), 7, 5, padding=4, dilation=2),
    "pair tile + 1": pair((1, 17, 7, 17), 33, 3, padding=1, bias=True),
    "pair tile - 1": pair((1, 15, 6, 31), 15, 3, padding=1),
    "pair one pixel": pair((1, 3, 1, 1), 4, 3, padding=1),
}  # fmt: skip


@st.composite
def specs(draw: st.DrawFn, largest_size: int = 20) -> ConvSpec:
    """Any valid spec of any operator, small enough to be quick."""

    def pairs(low: int, high: int) -> tuple[int, int]:
        return draw(st.integers(low, high)), draw(st.integers(low, high))

    operator = draw(st.sampled_from(OPERATORS))
    groups = 1 if operator == "separable_conv2d" else draw(st.sampled_from((1, 1, 2, 3, 4)))
    one = draw(st.booleans()) and operator != "separable_conv2d"  # channels per group 1: depthwise
    c = groups * (1 if one else draw(st.integers(1, 18 // groups)))
    k = groups * draw(st.integers(1, 18 // groups))
    stride, dilation = pairs(1, 3), pairs(1, 3)
    extra = tuple(draw(st.integers(0, max(stride[a], dilation[a]) - 1)) for a in (0, 1))
    try:
        return ConvSpec(
            operator, draw(st.integers(1, 3)), c, *pairs(1, largest_size), k, *pairs(1, 5), stride, pairs(0, 4),
            dilation, groups, extra if operator == "conv_transpose2d" else (0, 0), draw(st.booleans()),
        )  # fmt: skip
    except InputError:  # an empty output
        from hypothesis import reject

        return reject()
