"""Error rates of `convbench ab`, measured: whole gates on identical revisions, and on slowed-down ones.

    python benchmarks/gate_study.py [--out reports/gate] [--identical 60] [--slowed 20] [--floor 10%] [--minutes 30]

Each gate is a run of the command itself on HEAD and on a second commit of the same files, so that the two sides lie in
different folders. Conditions come in random order. Every finished gate is in study.jsonl; the command goes on where it
was stopped (--minutes stops it). At the end, and on every call, it writes README.md with the rates and their exact 95%
intervals. Use a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from time import monotonic
from typing import Any

from msgspec import Struct

from convbench.cli.common import Fraction, err
from convbench.journal import Log, write_atomically
from convbench.machine.environment import detect

SLOWDOWNS = (0.05, 0.10, 0.20)
SUITE = Path(__file__).with_suffix(".toml")
IMPLEMENTATIONS = ("torch.aten", "numba.auto")
OUTCOMES = {1: "regressed", 0: "pass", 3: "inconclusive"}


class Plan(Struct):
    """Conditions of the gates in the order in which they run: the share that head is slowed down by."""

    machine: str
    revision: str
    floor: float
    slowdowns: list[float]


class Gate(Struct):
    """One finished gate."""

    number: int
    slowdown: float
    exit_code: int
    seconds: float
    pairs: int
    dropped: int
    cells: list[dict[str, Any]]


def plan(identical: int, slowed: int, floor: float) -> Plan:
    slowdowns = [0.0] * identical + [s for s in SLOWDOWNS for _ in range(slowed)]
    random.Random(0).shuffle(slowdowns)
    return Plan(detect(with_torch=False).machine, git("rev-parse", "HEAD"), floor, slowdowns)


def git(*words: str) -> str:
    done = subprocess.run(["git", *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def twin(revision: str) -> str:
    """Another commit of the same files; always the same one."""
    os.environ |= {"GIT_AUTHOR_DATE": "2026-01-01T00:00:00Z", "GIT_COMMITTER_DATE": "2026-01-01T00:00:00Z"}
    author = ("-c", "user.name=convbench", "-c", "user.email=convbench@localhost")
    return git(*author, "commit-tree", f"{revision}^{{tree}}", "-m", "the same files")


def gate(number: int, slowdown: float, revision: str, floor: float) -> Gate:
    """Run the command; raises CalledProcessError where it neither passes, fails nor hesitates."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["ab", revision, twin(revision), str(SUITE), *(f"--impl={name}" for name in IMPLEMENTATIONS),
                 f"--floor={floor}", f"--seed={number}", f"--out={folder}/gate", "--json"]  # fmt: skip
        words += [f"--inject={slowdown}"] if slowdown else []
        begun = monotonic()
        done = subprocess.run([sys.executable, "-m", "convbench.cli.main", *words], capture_output=True, text=True)
        if done.returncode not in OUTCOMES:
            raise SystemExit(f"gate {number}: {done.stderr.strip().splitlines()[-1]}")
        pairs = [json.loads(line) for line in (Path(folder) / "gate/gate.jsonl").read_text().splitlines()[1:]]
    rows = json.loads(done.stdout)["rows"]
    kept = ("case", "implementation", "verdict", "reason", "ratio", "ratio_low", "ratio_high", "null", "base_s")
    return Gate(
        number, slowdown, done.returncode, monotonic() - begun, len(pairs), sum(bool(p["disturbed"]) for p in pairs),
        [{name: row[name] for name in kept} for row in rows],
    )  # fmt: skip


# Report -----------------------------------------------------------------------------------------


def rate(hits: int, of: int) -> str:
    """A share with its exact (Clopper-Pearson) 95% interval."""
    from scipy.stats import binomtest

    interval = binomtest(hits, of).proportion_ci(0.95, method="exact")
    return f"{hits} of {of} ({interval.low:.0%} to {interval.high:.0%})"


def table(heading: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def gate_line(slowdown: float, gates: Sequence[Gate]) -> list[Any]:
    codes = Counter(gate.exit_code for gate in gates)
    return [f"{slowdown:.0%}", *(rate(codes[code], len(gates)) for code in OUTCOMES),
            f"{median(gate.pairs for gate in gates):.0f}", sum(gate.dropped for gate in gates),
            f"{median(gate.seconds for gate in gates):.0f} s"]  # fmt: skip


def cell_lines(slowdown: float, gates: Sequence[Gate]) -> list[list[Any]]:
    """One line for each cell: how often it was called what, and the change that was seen."""
    lines = []
    for place, cell in enumerate(gates[0].cells):
        found = [gate.cells[place] for gate in gates]
        verdicts = Counter(row["verdict"] for row in found)
        seen = sorted(row["ratio"] - 1 for row in found if row["ratio"])
        spread = f"{median(seen):+.1%} ({seen[0]:+.1%} to {seen[-1]:+.1%})" if seen else ""
        lines.append([f"{slowdown:.0%}", f"{cell['case']} {cell['implementation']}", f"{cell['base_s'] * 1e6:.0f} us",
                      *(verdicts[v] for v in ("SLOWER", "SAME", "INCONCLUSIVE", "FASTER")), spread])  # fmt: skip
    return lines


def report(header: Plan, gates: Sequence[Gate]) -> str:
    by_slowdown = {s: [g for g in gates if g.slowdown == s] for s in (0.0, *SLOWDOWNS)}
    by_slowdown = {s: found for s, found in by_slowdown.items() if found}
    rates = table(["slow-down", *OUTCOMES.values(), "pairs", "dropped", "time"],
                  [gate_line(s, found) for s, found in by_slowdown.items()])  # fmt: skip
    cells = table(["slow-down", "cell", "time", "SLOWER", "SAME", "INCONCLUSIVE", "FASTER", "change seen"],
                  [line for s, found in by_slowdown.items() for line in cell_lines(s, found)])  # fmt: skip
    return f"""# How often the gate is right

`python benchmarks/gate_study.py` ran `convbench ab` {len(gates)} times on {header.machine}: a revision against another
commit of the same files, floor {header.floor:.0%}, every call of head slowed down by the share in the first column
(0% is no change: "regressed" is a false alarm). Rates have exact 95% intervals; pairs and time are medians of a gate.
All finished gates are in `study.jsonl`.

{rates}

Cell by cell, with the median and the range of the change that the gates saw (waiting after each call lets the other
threads fall asleep, so a short call is slowed down by more than asked for):

{cells}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("reports/gate"))
    parser.add_argument("--identical", type=int, default=60)
    parser.add_argument("--slowed", type=int, default=20, help="gates for each slow-down")
    parser.add_argument("--floor", default="10%")
    parser.add_argument("--minutes", type=float, default=600)
    options = parser.parse_args()
    log = Log(options.out / "study.jsonl", Plan, Gate, "python benchmarks/gate_study.py")
    if not log.path.exists():
        floor = Fraction().convert(options.floor, None, None)
        log.start(plan(options.identical, options.slowed, floor))
    header, gates = log.read()
    begun = monotonic()
    for number in range(len(gates), len(header.slowdowns)):
        if monotonic() - begun > options.minutes * 60:
            break
        gates.append(gate(number, header.slowdowns[number], header.revision, header.floor))
        log.append(gates[-1])
        done = f"{number + 1}/{len(header.slowdowns)}"
        code = OUTCOMES[gates[-1].exit_code]
        err().print(f"{done}: slowed by {gates[-1].slowdown:.0%}: {code} after {gates[-1].seconds:.0f} s")
    if gates:
        write_atomically(options.out / "README.md", report(header, gates).encode())
        err().print(str(options.out / "README.md"))


if __name__ == "__main__":
    main()
