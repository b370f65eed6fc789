"""Invented quartets: every process's time is what a test says, times noise from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from convbench.gate.procedure import ARMS, Quartet, Step

CELLS = ("a", "b", "c", "d")


def quartet(number: int, step: Step, ratios: Mapping[str, float], noise: float = 0.01, null: float = 1.0,
            disturbed: bool = False, seed: int = 0) -> Quartet:  # fmt: skip
    """Four processes in which head takes ratios[cell] times as long as base, and the second of each ``null`` times as
    long as the first."""
    order = random.Random(f"{seed} {number}")

    def sample(arm: str, cell: str) -> float:
        factor = (ratios.get(cell, 1.0) if arm.startswith("head") else 1.0) * (null if arm.endswith("2") else 1.0)
        return 1e-3 * factor * order.lognormvariate(0, noise)

    samples_s = {arm: {cell: [sample(arm, cell)] for cell in step.cells} for arm in ARMS}
    return Quartet(number=number, phase=step.phase, samples_s=samples_s, disturbed=["a storm"] if disturbed else [])


def run(
    next_step: Callable[[list[Quartet]], Step | None], take: Callable[[int, Step], Quartet], limit: int = 100
) -> list[Quartet]:
    """All quartets that a procedure asks for."""
    taken: list[Quartet] = []
    while (step := next_step(taken)) and len(taken) < limit:
        taken.append(take(len(taken), step))
    return taken
