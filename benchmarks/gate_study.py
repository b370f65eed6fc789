"""Error rates of `convbench ab`, measured: whole gates on identical revisions, and on slowed-down ones.

    python benchmarks/gate_study.py [--out reports/gate] [--identical 60] [--slowed 20] [--floor 10%] [--minutes 30]

Each gate is a run of the command itself on HEAD and on a second commit of the same files, so that the two sides lie in
different folders. Conditions come in random order. Every gate is in study.jsonl, and README.md with the rates and their
exact 95% intervals is written after each. The command goes on where it was stopped: --minutes starts no gate that would
not end in time, an interrupt ends the gate that is running. A gate that cannot be run is named and taken again by the
next call; several in a row end the study. Use a machine that does nothing else.
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
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from time import monotonic
from typing import Any, NoReturn

from msgspec import Struct

from convbench.cli.common import Fraction, err, interrupts
from convbench.journal import Log, write_atomically
from convbench.machine.environment import detect

SLOWDOWNS = (0.05, 0.10, 0.20)
SUITE = Path(__file__).with_suffix(".toml")
IMPLEMENTATIONS = ("torch.aten", "numba.auto")
OUTCOMES = {1: "regressed", 0: "pass", 3: "inconclusive"}
MOST_FAILED = 3  # gates in a row that could not be run


class Plan(Struct):
    """Conditions of the gates in the order in which they run: the share that head is slowed down by."""

    machine: str
    revision: str
    floor: float
    slowdowns: list[float]


class Gate(Struct):
    """One gate; where it could not be run, the reason and nothing else."""

    number: int
    slowdown: float
    exit_code: int
    seconds: float
    rounds: int = 0
    dropped: int = 0
    cells: list[dict[str, Any]] = []
    failure: str = ""


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
    """Run the command once."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["ab", revision, twin(revision), str(SUITE), *(f"--impl={name}" for name in IMPLEMENTATIONS),
                 f"--floor={floor}", f"--seed={number}", f"--out={folder}/gate", "--json"]  # fmt: skip
        words += [f"--inject={slowdown}"] if slowdown else []
        begun = monotonic()
        code, out, messages = run([sys.executable, "-m", "convbench.cli.main", *words])
        done = Gate(number, slowdown, code, monotonic() - begun)
        if code not in OUTCOMES:
            done.failure = next(iter(messages.strip().splitlines()[-1:]), f"exit code {code}")
            return done
        rounds = [json.loads(line) for line in (Path(folder) / "gate/gate.jsonl").read_text().splitlines()[1:]]
    kept = ("case", "implementation", "verdict", "reason", "ratio", "ratio_low", "ratio_high", "null", "base_s")
    done.rounds, done.dropped = len(rounds), sum(bool(taken["disturbed"]) for taken in rounds)
    done.cells = [{name: row[name] for name in kept} for row in json.loads(out)["rows"]]
    return done


def run(words: list[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr; ended where this process is interrupted."""
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            out, messages = process.communicate()
        except BaseException:
            process.terminate()
            raise
    return process.returncode, out, messages


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
            f"{median(gate.rounds for gate in gates):.0f}", sum(gate.dropped for gate in gates),
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
    rates = table(["slow-down", *OUTCOMES.values(), "rounds", "dropped", "time"],
                  [gate_line(s, found) for s, found in by_slowdown.items()])  # fmt: skip
    cells = table(["slow-down", "cell", "time", "SLOWER", "SAME", "INCONCLUSIVE", "FASTER", "change seen"],
                  [line for s, found in by_slowdown.items() for line in cell_lines(s, found)])  # fmt: skip
    return f"""# How often the gate is right

`python benchmarks/gate_study.py` ran `convbench ab` {len(gates)} times on {header.machine}: a revision against another
commit of the same files, floor {header.floor:.0%}, every call of head slowed down by the share in the first column
(0% is no change: "regressed" is a false alarm). Rates have exact 95% intervals; rounds and time are medians of a gate.
All gates are in `study.jsonl`.

{rates}

Cell by cell, with the median and the range of the change that the gates saw (waiting after each call lets the other
threads fall asleep, so a short call is slowed down by more than asked for):

{cells}
"""


def study(log: Log[Plan, Gate], minutes: float) -> bool:
    """Gates that are left, while there is time; whether none is."""
    header, tried = log.read()
    if subprocess.run(["git", "diff", "--quiet", header.revision, "--", "convbench", "kernels"]).returncode:
        raise SystemExit(f"{log.path}: began with {header.revision[:10]}, and the code has changed: use another --out")
    gates, begun, failed = [gate for gate in tried if not gate.failure], monotonic(), 0
    for number, slowdown in enumerate(header.slowdowns):
        if number in {gate.number for gate in gates}:
            continue
        usual_s = median(gate.seconds for gate in gates) if gates else 0.0
        if failed == MOST_FAILED or monotonic() - begun + usual_s > minutes * 60:
            break
        done = gate(number, slowdown, header.revision, header.floor)
        log.append(done)
        failed = failed + 1 if done.failure else 0
        gates += [] if done.failure else [done]
        what = done.failure or OUTCOMES[done.exit_code]
        err().print(
            f"{len(gates)}/{len(header.slowdowns)}: slowed by {slowdown:.0%}: {what} after {done.seconds:.0f} s"
        )
        if gates:
            write_atomically(log.path.with_name("README.md"), report(header, gates).encode())
    return len(gates) == len(header.slowdowns)


def go_on(log: Log, work: Callable[[], bool]) -> NoReturn:
    """Work while nobody else does on the log; exit with 1 where it is not finished, or interrupted."""
    log.lock()
    try:
        with interrupts():
            finished = work()
    except KeyboardInterrupt:
        finished = False
    if not finished:
        err().print("not finished: call it again to go on")
    sys.exit(not finished)


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
    go_on(log, partial(study, log, options.minutes))


if __name__ == "__main__":
    main()
