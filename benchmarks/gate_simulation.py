"""Error rates of the gate's procedure on invented data: thousands of gates in a minute, before the real study.

    python benchmarks/gate_simulation.py [--gates 500] [--cells 4 40] [--floor 10%]

A process's time is its cell's, times what its memory layout does to it (log-normal), times what a disturbance that no
limit noticed does (one process in twenty is slower by up to a quarter); what four processes share cancels in ratios.
Prints how often a gate without any change is accused or left open, and how often a slow-down of one cell is found.
"""

from __future__ import annotations

import argparse
from collections import Counter

import numpy as np

from convbench.cli.common import Fraction, out, table
from convbench.gate.procedure import ARMS, Quartet, evidence, next_step
from convbench.gate.verdicts import Rules, judge

LAYOUTS = (0.005, 0.01, 0.02, 0.04)  # standard deviation of a process's log time
SLOWDOWNS = (0.0, 0.05, 0.10, 0.20, 0.40)
DISTURBED, DISTURBANCE = 0.05, 0.25


def quartet(number: int, phase: str, cells: tuple[str, ...], layout: float, slowdown: float,
         random: np.random.Generator) -> Quartet:  # fmt: skip
    """One invented quartet; the first cell of head is slowed down."""
    samples = {}
    for arm in ARMS:
        noise = random.normal(0, layout, len(cells)) + np.log1p(
            (random.random(len(cells)) < DISTURBED) * random.uniform(0, DISTURBANCE, len(cells))
        )
        noise += np.log1p(slowdown) * np.array([arm.startswith("head") and cell == "cell 0" for cell in cells])
        samples[arm] = {cell: [value] for cell, value in zip(cells, np.exp(noise).tolist(), strict=True)}
    return Quartet(number=number, phase=phase, samples_s=samples)  # type: ignore[arg-type]


def gate(cells: list[str], rules: Rules, layout: float, slowdown: float, random: np.random.Generator) -> tuple:
    """Verdicts of one invented gate, and how many quartets it took."""
    taken: list[Quartet] = []
    while step := next_step(cells, rules, taken):
        taken.append(quartet(len(taken), step.phase, step.cells, layout, slowdown, random))
    return [verdict for verdict, _ in judge(evidence(cells, rules, taken), rules)], len(taken)


def line(gates: int, cells: int, rules: Rules, layout: float, slowdown: float) -> list:
    random = np.random.default_rng(0)
    names, found, quartets = [f"cell {i}" for i in range(cells)], Counter[str](), 0
    for _ in range(gates):
        verdicts, taken = gate(names, rules, layout, slowdown, random)
        innocent = verdicts[1:] if slowdown else verdicts
        found["accused"] += "SLOWER" in innocent
        found["open"] += "INCONCLUSIVE" in verdicts
        found[verdicts[0]] += 1
        quartets += taken
    share = {name: f"{count / gates:.1%}" for name, count in found.items()}
    return [cells, f"{layout:.1%}", f"{slowdown:.0%}", share["accused"], share["open"], share.get("SLOWER", "0.0%"),
            share.get("SAME", "0.0%"), f"{quartets / gates:.1f}"]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gates", type=int, default=500)
    parser.add_argument("--cells", type=int, nargs="+", default=[4, 40])
    parser.add_argument("--floor", default="10%")
    options = parser.parse_args()
    rules = Rules(floor=Fraction().convert(options.floor, None, None))
    columns = ["cells", "noise", "slow-down of one cell", "innocent accused", "anything inconclusive", "cell SLOWER",
               "cell SAME", "quartets"]  # fmt: skip
    rows = [
        line(options.gates, cells, rules, layout, slowdown)
        for cells in options.cells for layout in LAYOUTS for slowdown in SLOWDOWNS
    ]  # fmt: skip
    table(f"{options.gates} invented gates a line, floor {rules.floor:.0%}", columns, rows)
    out().print("noise: standard deviation of a process's time; innocent accused: gates with a false SLOWER")


if __name__ == "__main__":
    main()
