"""What a convolution costs on paper: multiply-accumulates, parameters, bytes. Exact integers, no torch.

Conventions (one MAC is two FLOPs; the bias is in params, not in MACs):

- nominal MACs    every kernel tap, taps on padding included: what papers and counters count.
                  conv2d on the output grid  N P Q x K x C/groups x R S,
                  conv_transpose2d on the input grid  N H W x C x K/groups x R S
- valid MACs      only taps that meet a real pixel
- passes          forward, data gradient and weight gradient each visit the same (pixel, tap, channel,
                  filter) combinations once, so their counts are equal

The separable pair is the sum of its halves. Its data gradient is the pointwise half's, then the
depthwise half's: the same sum. Its weight gradient starts from x, both weights and dy, so it recomputes
the intermediate (depthwise forward), carries dy back to it (pointwise data gradient), and forms two weight
gradients: twice the sum.
"""

from __future__ import annotations

from math import prod

from convbench.case import ITEM_BYTES, Case
from convbench.spec import ConvSpec, Pass

FLOPS_PER_MAC = 2


def macs(spec: ConvSpec, pass_: Pass = "forward") -> int:
    """Nominal multiply-accumulates, taps on padding included."""
    if spec.is_separable:
        return _separable_factor(pass_) * (macs(spec.depthwise()) + macs(spec.pointwise()))
    grid = (spec.h, spec.w) if spec.is_transposed else (spec.p, spec.q)
    return _channel_macs(spec) * grid[0] * grid[1] * spec.r * spec.s


def valid_macs(spec: ConvSpec, pass_: Pass = "forward") -> int:
    """Multiply-accumulates whose tap meets a real pixel; equal to macs() when the padding is 0."""
    if spec.is_separable:
        return _separable_factor(pass_) * (valid_macs(spec.depthwise()) + valid_macs(spec.pointwise()))
    return _channel_macs(spec) * _valid_taps(spec, 0) * _valid_taps(spec, 1)


def flops(spec: ConvSpec, pass_: Pass = "forward") -> int:
    """Nominal floating-point operations: 2 x macs()."""
    return FLOPS_PER_MAC * macs(spec, pass_)


def params(spec: ConvSpec) -> int:
    """Weights and bias."""
    bias = spec.k if spec.bias else 0
    if spec.is_separable:
        return spec.c * spec.r * spec.s + spec.k * spec.c + bias
    return prod(spec.w_shape) + bias


def compulsory_bytes(case: Case) -> int:
    """Bytes that must move: each operand read once, each output written once, whole tensors.

    The intermediate of a separable pair is neither. Pixels that a stride skips are counted: they share
    cache lines with pixels that are read.
    """
    shapes = [case.operand_shape(name) for name in case.operand_names]
    return ITEM_BYTES[case.dtype] * sum(prod(shape) for shape in (*shapes, *case.output_shapes))


def intensity(case: Case) -> float:
    """Nominal arithmetic intensity in FLOP per compulsory byte."""
    return flops(case.spec, case.pass_) / compulsory_bytes(case)


def _channel_macs(spec: ConvSpec) -> int:
    """MACs of one tap at one position of each image: pairs of an input and an output channel."""
    return spec.n * spec.k * spec.c // spec.groups


def _separable_factor(pass_: Pass) -> int:
    return 2 if pass_ == "weight_gradient" else 1


def _valid_taps(spec: ConvSpec, axis: int) -> int:
    """Pairs (position i, tap r) with 0 <= i stride - padding + r dilation < size, along one axis.

    A convolution's positions are its outputs and the size its input's; a transposed one's the reverse.
    """
    positions, size = ((spec.h, spec.w)[axis], (spec.p, spec.q)[axis])
    if not spec.is_transposed:
        positions, size = size, positions
    lattice = positions, spec.stride[axis], (spec.r, spec.s)[axis], spec.dilation[axis]
    low = spec.padding[axis]
    return _below(low + size, *lattice) - _below(low, *lattice)


def _below(limit: int, positions: int, stride: int, taps: int, dilation: int) -> int:
    """Pairs (i, r) in range(positions) x range(taps) with i stride + r dilation < limit; in no time, whatever sizes."""
    all_ = _multiples(limit - (positions - 1) * stride, dilation, taps)  # taps that meet every position
    some = _multiples(limit, dilation, taps)  # and at least one
    fewest = limit - (some - 1) * dilation  # steps of one left at the last of these
    return all_ * positions + _floor_sum(some - all_, stride, dilation, fewest + stride - 1)


def _multiples(limit: int, step: int, positions: int) -> int:
    """How many i in range(positions) have i step < limit."""
    return min(max(-(-limit // step), 0), positions)


def _floor_sum(n: int, m: int, a: int, b: int) -> int:
    """Sum of (a i + b) // m over i in range(n), in as many steps as Euclid's algorithm takes (AtCoder's floor_sum)."""
    total = 0
    while n:
        total += (n - 1) * n // 2 * (a // m) + n * (b // m)
        n, rest = divmod(a % m * n + b % m, m)
        m, a, b = a % m, m, rest
    return total
