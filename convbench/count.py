"""What a convolution costs on paper: MACs, FLOPs, parameters, bytes. Pure arithmetic on a ConvSpec.

1 MAC = 2 FLOPs. Nominal MACs count every tap, those on padding too (what papers and counters count), on the
output grid of a convolution and on the input grid of a transposed one. Valid-tap MACs leave out the taps
that meet padding, or that a transposed convolution's padding crops away. Bias is in params, not in MACs.
"""

from __future__ import annotations

from math import prod

from convbench.case import ITEM_BYTES, Case
from convbench.spec import ConvSpec, Pass


def macs(spec: ConvSpec, pass_: Pass = "forward") -> int:
    """Nominal MACs of a pass. All three passes of a convolution cost the same."""
    return _count(spec, pass_, valid=False)


def valid_macs(spec: ConvSpec, pass_: Pass = "forward") -> int:
    """MACs on real input only."""
    return _count(spec, pass_, valid=True)


def flops(spec: ConvSpec, pass_: Pass = "forward") -> int:
    """2 x nominal MACs."""
    return 2 * macs(spec, pass_)


def params(spec: ConvSpec) -> int:
    """Weights and bias."""
    if spec.is_separable:
        return params(spec.depthwise()) + params(spec.pointwise())
    return prod(spec.w_shape) + spec.bias * spec.k


def compulsory_bytes(case: Case) -> int:
    """Each operand read once, each result written once; the pair's intermediate is neither."""
    shapes = [*(case.operand_shape(name) for name in case.operand_names), *case.output_shapes]
    return ITEM_BYTES[case.dtype] * sum(prod(shape) for shape in shapes)


def intensity(case: Case) -> float:
    """FLOP per compulsory byte."""
    return 2 * macs(case.spec, case.pass_) / compulsory_bytes(case)


def _count(spec: ConvSpec, pass_: Pass, valid: bool) -> int:
    if spec.is_separable:
        pair = _count(spec.depthwise(), "forward", valid) + _count(spec.pointwise(), "forward", valid)
        # The weight gradients of both halves also need the intermediate and its gradient, computed again.
        return 2 * pair if pass_ == "weight_gradient" else pair
    taps = _taps(spec, 0, valid) * _taps(spec, 1, valid)
    return spec.n * spec.c * (spec.k // spec.groups) * taps


def _taps(spec: ConvSpec, axis: int, valid: bool) -> int:
    """Pairs (position of the smaller grid, tap) along one axis."""
    large, small = ((spec.h, spec.w)[axis], (spec.p, spec.q)[axis])
    if spec.is_transposed:
        large, small = small, large
    kernel = (spec.r, spec.s)[axis]
    if not valid:
        return small * kernel
    stride, padding, dilation = spec.stride[axis], spec.padding[axis], spec.dilation[axis]
    return sum(_positions(large, small, stride, padding - tap * dilation) for tap in range(kernel))


def _positions(large: int, small: int, stride: int, offset: int) -> int:
    """How many p in [0, small) have 0 <= p * stride - offset < large."""
    first = max(0, -(-offset // stride))
    last = min(small - 1, (large - 1 + offset) // stride)
    return max(0, last - first + 1)
