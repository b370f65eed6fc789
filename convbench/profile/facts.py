"""What the tensors and the order of the layers tell without a clock: denormal numbers, gridding."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

from convbench.profile.look import Seen
from convbench.profile.model import Facts, Gridding
from convbench.receptive_field import Window, coverage


def facts_of(seen: Sequence[Seen]) -> Facts:
    """Facts of one forward pass."""
    weights: dict[str, int] = {}
    inputs: dict[str, int] = {}
    for call in seen:
        for found, number in ((weights, call.weight_denormals), (inputs, call.input_denormals)):
            if number:
                found[call.layer.name] = max(number, found.get(call.layer.name, 0))
    return Facts(weight_denormals=weights, input_denormals=inputs, gridding=gridding(seen))


def gridding(seen: Sequence[Seen]) -> list[Gridding]:
    """Chains of successive dilated layers whose rates share a factor: together they read only every so many pixels.

    Wang et al., Understanding Convolution for Semantic Segmentation, WACV 2018, Section 3.2. A 1x1 layer between them
    changes nothing; branches on one input (ASPP) are no chain.
    """
    chains: list[list[Seen]] = []
    chain: list[Seen] = []
    factor = 0
    for call in seen:
        spec = call.layer.spec
        rate = max(spec.dilation)
        if (spec.r, spec.s) == (1, 1) and not call.again:
            continue
        shared = gcd(factor, rate)
        if call.again or shared == 1 or spec.is_transposed or max(spec.stride) > 1:
            chains.append(chain)
            chain, shared = [], rate
        if rate > 1 and not spec.is_transposed:
            chain.append(call)
        factor = shared if chain else 0
    return [_gridding(chain) for chain in (*chains, chain) if len(chain) > 1]


def _gridding(chain: Sequence[Seen]) -> Gridding:
    touched, positions = coverage([Window.of(call.layer.spec) for call in chain])
    layers = [(call.layer.name, max(call.layer.spec.dilation)) for call in chain]
    return Gridding(layers=layers, coverage=touched / positions)
