"""Does a long run grow? python -m benchmarks.long_run_study [--cells N | --minutes 120] [--large 10000] [--write PAGE]

Times cells of tiny layers one after the other in one process, as `convbench run` does, and prints by tenths of the run
the wall time of a case, what of it was no sampling, the time to append it to the journal, resident memory, open files.
--minutes goes on for so long, with as much time for a cell as the default run has. Then makes a record of --large cells
from those rows and prints what it takes to write, report, compare, check and put it into a history; 0 makes none.
--write puts the table of the run into PAGE between its comments.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from math import inf
from pathlib import Path
from statistics import median
from time import perf_counter

import msgspec
import psutil
from msgspec import Struct

from benchmarks.document import insert
from convbench.case import Case
from convbench.cli.common import err, out, seconds, table
from convbench.journal import Entry, Header, Journal
from convbench.measure import Policy
from convbench.process import keep_freed_memory, prepare
from convbench.registry import registry
from convbench.results import Environment, Record, RecordedRow
from convbench.run import Plan, execute, new_record, resume, write_outputs
from convbench.spec import ConvSpec

IMPLEMENTATIONS = ("torch.aten", "torch.channels_last", "torch.unfold")
SHORT, LONG = Policy(max_time_s=0.002, sample_s=0.0002), Policy(0.02, 0.8, min_samples=30)
SHORTEST_CASE_S = 0.5  # of a long run
TENTHS, TIMES = 10, ("case_s", "other_s", "append_s")
PEAK = """import sys
from convbench.cli.main import run
code = run(sys.argv[1:])
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")), file=sys.stderr)
sys.exit(code not in (0, 3))
"""


class Point(Struct):
    """One case of the run."""

    case_s: float
    other_s: float  # less warm-up and sampling
    append_s: float
    rss_bytes: int
    files: int


class Silent:
    """No progress is shown."""

    def case(self, case: Case, implementations: int) -> None: ...
    def sample(self, seconds: float) -> None: ...
    def done(self, rows: list[RecordedRow]) -> None: ...


class TimedJournal(Journal):
    """A journal that notes what each case cost."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.points, self.process, self.last = list[Point](), psutil.Process(), perf_counter()

    def append(self, entry: Entry) -> None:
        begun = perf_counter()
        super().append(entry)
        now = perf_counter()
        memory, whole = self.process.memory_info().rss, now - self.last
        other = whole - sum(entry.timings.get(activity, 0.0) for activity in ("warm-up", "sample"))
        self.points.append(Point(whole, other, now - begun, memory, self.process.num_fds()))
        self.last = perf_counter()


def cases(count: int) -> Iterator[Case]:
    """Layers that all differ, none of more than a few thousand multiplications."""
    for number in range(count):
        h, w, c = 4 + number % 29, 4 + number // 29 % 31, 1 + number // 899
        yield Case(ConvSpec.create([1, c, h, w], 2, 3), suite="tiny", name=f"layer{number}")


def long_run(count: int, folder: Path, minutes: float = inf) -> tuple[Journal, list[Point]]:
    """A run of so many cases or minutes, journalled."""
    policy = SHORT if minutes == inf else LONG
    threads = prepare(None)
    keep_freed_memory()
    plan = Plan(list(cases(count)), registry().select(IMPLEMENTATIONS), policy, threads)
    record, journal = new_record(Environment(machine="study"), [], {}), TimedJournal(folder)
    names = [i.name for i in plan.implementations]
    journal.start(
        Header(record=record, cases=plan.cases, implementations=names, policy=policy, threads=threads, seed=0)
    )
    end = perf_counter() + 60 * minutes
    with suppress(KeyboardInterrupt):
        execute(plan, record, Silent(), journal, interrupted=lambda: perf_counter() > end)
    return journal, journal.points


def tenths(points: list[Point]) -> list[list[str]]:
    """Lines of the table, one for each tenth of the run."""
    size = max(len(points) // TENTHS, 1)
    lines = []
    for start in range(0, min(size * TENTHS, len(points)), size):
        part = points[start : start + size]
        lines.append([
            f"{start + 1} - {start + len(part)}", *(seconds(median(getattr(p, name) for p in part)) for name in TIMES),
            f"{part[-1].rss_bytes / 2**20:,.0f} MiB", str(part[-1].files),
        ])  # fmt: skip
    return lines


def markdown(title: str, columns: Sequence[str], lines: list[list[str]]) -> str:
    """A title, and a table whose first column is text."""
    rule = ["---", *["---:"] * (len(columns) - 1)]
    return "\n".join((title, "", *(f"| {' | '.join(line)} |" for line in (columns, rule, *lines))))


# A large record -----------------------------------------------------------------------------------------


def enlarged(rows: list[RecordedRow], count: int) -> list[RecordedRow]:
    """So many rows, by repeating those that there are as layers of other networks."""
    return [
        msgspec.structs.replace(rows[n % len(rows)], suite=f"tiny{n // len(rows)}", n=1 + n // len(rows))
        for n in range(count)
    ]


def large(record: Record, count: int, folder: Path) -> None:
    """Make it and print what it costs."""
    record.rows, record.complete = enlarged(record.rows, count), True
    folder.mkdir()
    written = clocked(lambda: write_outputs(record, folder))
    path = folder / "run.json"
    out().print(f"{count} cells: run.json {path.stat().st_size / 2**20:.0f} MiB, written in {written}")
    table("A large record", (("command", "left"), "time", "peak memory"), usable(path, folder))


def usable(path: Path, folder: Path) -> list[list[str]]:
    """What the commands need for the record, each in a process of its own."""
    commands = (["report", str(path), "--out", str(folder / "r.html")],
                ["compare", str(path), str(path), "--out", str(folder / "compared")],
                ["check", str(path), "--baseline", str(path), "--out", str(folder)],
                ["history", str(path.parent), "--out", str(folder / "history")])  # fmt: skip
    return [[words[0], *_measured(words)] for words in commands]


def _measured(words: list[str]) -> list[str]:
    """Wall time of a command, and the most memory that its process had."""
    begun = perf_counter()
    done = subprocess.run([sys.executable, "-c", PEAK, *words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return [seconds(perf_counter() - begun), f"{int(done.stderr.split()[-2]) / 2**10:,.0f} MiB"]


def clocked(function: Callable[[], object]) -> str:
    begun = perf_counter()
    function()
    return seconds(perf_counter() - begun)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=3000)
    parser.add_argument("--minutes", type=float, help="go on for so long, whatever --cells say")
    parser.add_argument("--write", type=Path, metavar="PAGE.md", help="put the table between the page's comments")
    parser.add_argument("--large", type=int, default=10_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        minutes = options.minutes or inf
        count = options.cells // len(IMPLEMENTATIONS) if minutes == inf else int(60 * minutes / SHORTEST_CASE_S)
        begun = perf_counter()
        journal, points = long_run(count, folder / "long", minutes)
        title = f"{len(points)} cases of {len(IMPLEMENTATIONS)} cells in {(perf_counter() - begun) / 60:.0f} minutes"
        columns = ("cases", "a case", "no sampling", "its journal entry", "resident", "open files")
        table(title, [(columns[0], "left"), *columns[1:]], lines := tenths(points))
        if options.write:
            insert(options.write, "long run", markdown(f"{title}:", columns, lines))
        err().print(f"resumed in {clocked(lambda: resume(journal))}", style="dim")
        if options.large:
            large(resume(journal)[1], options.large, folder / "large")
    return os.EX_OK


if __name__ == "__main__":
    raise SystemExit(main())
