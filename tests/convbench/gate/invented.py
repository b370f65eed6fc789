"""Invented pairs: every process's time is what a test says, times noise from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from convbench.gate.procedure import ARMS, Pair, Step

CELLS = ("a", "b", "c", "d")


def pair(number: int, step: Step, ratios: Mapping[str, float], noise: float = 0.01, null: float = 1.0,
         disturbed: bool = False, seed: int = 0) -> Pair:  # fmt: skip
    """A pair in which head takes ratios[cell] times as long as base, and the null arm ``null`` times."""
    order = random.Random(f"{seed} {number}")
    factors = {"base": lambda cell: 1.0, "head": lambda cell: ratios.get(cell, 1.0), "null": lambda cell: null}
    samples_s = {
        arm: {cell: [1e-3 * factors[arm](cell) * order.lognormvariate(0, noise)] for cell in step.cells} for arm in ARMS
    }
    return Pair(number=number, phase=step.phase, samples_s=samples_s, disturbed=["a storm"] if disturbed else [])


def run(
    next_step: Callable[[list[Pair]], Step | None], take: Callable[[int, Step], Pair], limit: int = 100
) -> list[Pair]:
    """All pairs that a procedure asks for."""
    pairs: list[Pair] = []
    while (step := next_step(pairs)) and len(pairs) < limit:
        pairs.append(take(len(pairs), step))
    return pairs
