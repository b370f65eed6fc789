"""What the tensors and the order of the layers tell without a clock: denormal numbers, gridding."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

from convbench.profile.look import Seen
from convbench.profile.model import Facts, Gridding
from convbench.receptive_field import Window, fields


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
    """Chains of dilated layers, each on the last, whose rates share a factor: they read only every so many pixels.

    Wang et al., Understanding Convolution for Semantic Segmentation, WACV 2018, Section 3.2. A 1x1 layer between them
    changes nothing; branches on one input (ASPP) are no chain.
    """
    ends: list[tuple[tuple[Seen, ...], int]] = []  # of each call: the chain that it ends, and the rates' common factor
    for call in seen:
        chain, factor = ends[call.before] if call.before is not None else ((), 0)
        spec = call.layer.spec
        if (spec.r, spec.s) != (1, 1):
            rate = max(spec.dilation)
            factor = gcd(factor, rate)
            if factor == 1 or spec.is_transposed or max(spec.stride) > 1:
                chain, factor = (), rate
            dilated = rate > 1 and not spec.is_transposed
            chain, factor = ((*chain, call), factor) if dilated else ((), 0)
        ends.append((chain, factor))
    chains = list(dict.fromkeys(chain for chain, _ in ends if len(chain) > 1))
    whole = [chain for chain in chains if not any(chain == other[: len(chain)] != other for other in chains)]
    return [found for chain in whole if (found := _gridding(chain))]


def _gridding(chain: Sequence[Seen]) -> Gridding | None:
    share = fields([Window.of(call.layer.spec) for call in chain])[-1].coverage
    layers = [(call.layer.name, max(call.layer.spec.dilation)) for call in chain]
    return None if share is None else Gridding(layers=layers, coverage=share)
