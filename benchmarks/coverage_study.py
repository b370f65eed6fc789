"""How often is the 95% interval right? python -m benchmarks.coverage_study FILE.jsonl [--minutes 60] [--write PAGE.md]

Each repeat is a run in a process of its own, of the same cells under each condition in turn:

quiet   nothing else that this study started
load    a program that computes on every CPU
memory  a program that fills most of what is left to 6 GiB and streams through it
thread  a thread of the same process that computes, as a forgotten worker does

A cell's interval is right where it holds the truth: the median of the cell's medians over the other quiet runs, or,
under "its own condition's", over the other runs of the same condition. Where it does not, it must be flagged: by a note
of the row or a warning of the run. Both are counted for seconds, which move with the machine, and for speed-ups, which
should not. FILE keeps the runs, and going on adds to them, for as long as --minutes say; runs of another machine or
another way of measuring do not count. The table is printed at the end, and put into PAGE between its comments.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from time import monotonic

import msgspec
from msgspec import Struct

from benchmarks.document import insert
from convbench.machine.environment import detect
from convbench.machine.noise import snapshot, warnings
from convbench.process import keep_freed_memory, prepare, usable_cpus

CONDITIONS = ("quiet", "load", "memory", "thread")
LAYERS = ("resnet50.conv4_2.b", "mobilenet_v1.block8.dw")
IMPLEMENTATIONS = ("torch.aten", "torch.channels_last", "numba.auto")
PRECISION, CELL_S, FEWEST = 0.02, 0.8, 30  # as `convbench run` measures its default suite
METHOD = f"wider of order statistics and batch means; {PRECISION:.0%}, {CELL_S} s, {FEWEST} samples"
LONGEST_S, MOST_FAILURES = 300.0, 5  # of a run; runs that may fail before the study gives up
BUSY = "while True: pass"
STREAMING = """
import numpy, psutil
blocks = [numpy.ones(2**26) for _ in range(min(6 * 2**30, int(0.7 * psutil.virtual_memory().available)) // 2**29)]
print("ready", flush=True)
while True:
    for block in blocks: block += 1
"""
CONSTANT = ("CPU governor", "load average")  # warnings of the machine, and of what ran before: of no disturbance


class Cell(Struct):
    """One row of one run: (low, value, high) of seconds and of the speed-up, which the reference has none of."""

    name: str
    seconds: tuple[float, float, float]
    speedup: tuple[float, float, float] | None
    notes: list[str]


class Run(Struct):
    """One repeat under one condition."""

    condition: str
    cells: list[Cell]
    warnings: list[str]
    machine: str = ""
    method: str = ""


# One run --------------------------------------------------------------------------------------------------


def one(condition: str) -> Run:
    """In this process; what disturbs from outside was started by the caller, after the snapshot before."""
    from convbench.measure import Policy
    from convbench.plan import Selection, select_cases
    from convbench.registry import registry
    from convbench.results import Environment
    from convbench.run import Plan, execute, new_record

    threads = prepare(None)
    keep_freed_memory()
    import scipy.stats  # noqa: F401 - not in the first case's time

    if condition == "thread":
        threading.Thread(target=exec, args=(BUSY,), daemon=True).start()
    before = snapshot()
    cases = select_cases(Selection(cases=LAYERS), "quick", "forward", ["cpu"])
    plan = Plan(cases, registry().select(IMPLEMENTATIONS), Policy(PRECISION, CELL_S, min_samples=FEWEST), threads)
    record = execute(plan, new_record(Environment(machine="study"), [], {}), _Silent())
    found = warnings(before, snapshot())
    machine = detect(with_torch=False).machine
    return Run(condition, [_cell(row) for row in record.rows if row.ci_low_s], found, machine, METHOD)


def _cell(row) -> Cell:
    speedup = (row.speedup_ci_low, row.speedup_vs_reference, row.speedup_ci_high)
    return Cell(f"{row.case} {row.implementation}", (row.ci_low_s, row.median_s, row.ci_high_s),
                speedup if row.implementation != row.reference and speedup[0] else None, row.notes)  # fmt: skip


class _Silent:
    def case(self, case, implementations: int) -> None: ...
    def sample(self, seconds: float) -> None: ...
    def done(self, rows: list) -> None: ...


@contextlib.contextmanager
def disturbed(condition: str) -> Iterator[None]:
    """The condition's other programs, ended afterwards."""
    sources = {"load": [BUSY] * usable_cpus(), "memory": [STREAMING]}.get(condition, [])
    programs = [subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE) for source in sources]
    try:
        if condition == "memory":
            programs[0].stdout.readline()  # type: ignore[union-attr]
        yield
    finally:
        for program in programs:
            program.kill()
            program.communicate()


def collect(path: Path, repeats: int, minutes: float) -> list[Run]:
    """All runs that there are, after taking those that are missing for as long as there is time."""
    machine, begun, longest, failures = detect(with_torch=False).machine, monotonic(), 0.0, 0
    while (
        len(runs := _read(path, machine)) < repeats * len(CONDITIONS)
        and monotonic() - begun + longest < 60 * minutes
        and failures < MOST_FAILURES
    ):
        condition, started = CONDITIONS[len(runs) % len(CONDITIONS)], monotonic()
        try:
            found = _take(condition, path)
        except (subprocess.SubprocessError, msgspec.DecodeError) as error:
            failures += 1
            print(f"{condition}: {error}", file=sys.stderr)
        else:
            with path.open("ab") as file:
                file.write(msgspec.json.encode(found) + b"\n")
        longest = max(longest, monotonic() - started)
    return runs


def _take(condition: str, path: Path) -> Run:
    """One run in a process of its own."""
    words = [sys.executable, "-m", "benchmarks.coverage_study", "--one", condition, str(path)]
    with disturbed(condition):
        done = subprocess.run(words, stdout=subprocess.PIPE, check=True, timeout=LONGEST_S)
    return msgspec.json.decode(done.stdout, type=Run)


def _read(path: Path, machine: str) -> list[Run]:
    runs = msgspec.json.Decoder(Run).decode_lines(path.read_bytes()) if path.exists() else []
    return [run for run in runs if (run.machine, run.method) == (machine, METHOD)]


# What came out --------------------------------------------------------------------------------------------


def table(runs: list[Run]) -> str:
    """One line for each condition and quantity, as Markdown."""
    heading = (
        "condition", "runs", "quantity", "holds the quiet truth", "or its row has a note", "or its run a warning",
        "holds its own condition's", "half the interval", "moved by",
    )  # fmt: skip
    lines = [heading, ("---",) * len(heading)]
    for condition in CONDITIONS:
        mine = [run for run in runs if run.condition == condition]
        for quantity in ("seconds", "speedup"):
            lines.append((condition, str(len(mine)), quantity, *_line(mine, runs, quantity)))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _line(mine: list[Run], runs: list[Run], quantity: str) -> Iterable[str]:
    quiet = [run for run in runs if run.condition == "quiet"]
    right, noted, warned, own, halves, moved = 0, 0, 0, 0, [], []
    cells = [(run, cell) for run in mine for cell in run.cells if getattr(cell, quantity)]
    for run, cell in cells:
        low, value, high = getattr(cell, quantity)
        disturbed = any(not warning.startswith(CONSTANT) for warning in run.warnings)
        truth, own_truth = (_truth(cell.name, quantity, group, run) for group in (quiet, mine))
        holds = low <= truth <= high
        right += holds
        noted += holds or bool(cell.notes)
        warned += holds or bool(cell.notes or disturbed)
        own += low <= own_truth <= high
        halves.append((high - low) / 2 / value)
        moved.append(value / truth - 1)
    shares = (share(hits, len(cells)) for hits in (right, noted, warned, own))
    return (*shares, f"{median(halves):.1%}", f"{median(moved):+.1%}")


def _truth(name: str, quantity: str, runs: list[Run], less: Run) -> float:
    values = defaultdict(list)
    for run in runs:
        for cell in run.cells if run is not less else []:
            if found := getattr(cell, quantity):
                values[cell.name].append(found[1])
    return median(values[name])


def share(hits: int, of: int) -> str:
    """A share, with how many it is of."""
    return f"{hits / of:.0%} of {of}" if of else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--repeats", type=int, default=1000, help="runs of each condition, at most")
    parser.add_argument("--minutes", type=float, default=60, help="0 prints what there is")
    parser.add_argument("--write", type=Path, metavar="PAGE.md", help="put the table between the page's comments")
    parser.add_argument("--one", choices=CONDITIONS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(msgspec.json.encode(one(options.one)).decode())
        return 0
    runs = collect(options.file, options.repeats, options.minutes)
    if len(runs) < 2 * len(CONDITIONS):
        print(f"{len(runs)} runs; go on")
        return 1
    text = f"{len(runs)} runs on {runs[0].machine} until {datetime.now(UTC):%Y-%m-%d}; {METHOD}.\n\n{table(runs)}"
    print(text)
    if options.write:
        insert(options.write, "coverage", text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
