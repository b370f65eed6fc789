"""Live progress of a run on stderr: a bar with an estimate on a terminal, one line a case elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Set
from contextlib import contextmanager
from time import perf_counter

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from convbench.case import Case
from convbench.cli.common import err, printable
from convbench.results import RecordedRow
from convbench.run import Plan


class Bar:
    """Counts cells; within a case it moves with the seconds sampled."""

    def __init__(self, bar: Progress, plan: Plan, done: Set[int]) -> None:
        self.bar, self.cell_s = bar, plan.policy.max_time_s
        left = [case for number, case in enumerate(plan.cases) if number not in done]
        cells = [sum(not i.supports(case) for i in plan.implementations) for case in left]
        self.task = bar.add_task("", total=sum(cells))
        self.ahead = self.limit = 0.0

    def case(self, case: Case, implementations: int) -> None:
        self.ahead, self.limit = 0.0, float(implementations)
        self.bar.update(self.task, description=printable(f"{case.suite}/{case.name} {case.pass_}"))

    def sample(self, seconds: float) -> None:
        step = min(seconds / self.cell_s, self.limit - self.ahead)
        self.ahead += step
        self.bar.advance(self.task, step)

    def done(self, rows: list[RecordedRow]) -> None:
        self.bar.advance(self.task, self.limit - self.ahead)
        for row in rows:
            if row.status not in ("ok", "unsupported"):
                err().print(describe_failure(row))


class Lines:
    """One line a finished case, for logs."""

    def __init__(self, plan: Plan, done: Set[int]) -> None:
        self.total, self.number, self.begun = len(plan.cases), len(done), 0.0

    def case(self, case: Case, implementations: int) -> None:
        self.number, self.begun = self.number + 1, perf_counter()

    def sample(self, seconds: float) -> None:
        pass

    def done(self, rows: list[RecordedRow]) -> None:
        timed = [row for row in rows if row.median_s]
        best = min(timed, key=lambda row: row.median_s or 0.0, default=None)
        text = f"{best.implementation} {best.speedup_vs_reference or 1:.2f}x" if best else "nothing timed"
        where = f"{rows[0].suite}/{rows[0].case} {rows[0].pass_}" if rows else ""
        took = perf_counter() - self.begun
        err().print(printable(f"[{self.number}/{self.total}] {where}: {len(timed)} timed in {took:.1f} s, best {text}"))
        for row in rows:
            if row.status not in ("ok", "unsupported"):
                err().print(describe_failure(row))


def describe_failure(row: RecordedRow) -> str:
    """One line for a cell that failed."""
    return printable(f"{row.status}: {row.suite}/{row.case} {row.pass_} {row.implementation}: {row.status_detail}")


def bar() -> Progress:
    """A bar with an estimate, on stderr, gone at the end."""
    columns = (
        BarColumn(30), TaskProgressColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
    )  # fmt: skip
    return Progress(*columns, console=err(), transient=True, refresh_per_second=4)


@contextmanager
def live(plan: Plan, done: Set[int] = frozenset()) -> Iterator[Bar | Lines]:
    """The progress display that fits where stderr goes."""
    if not err().is_terminal:
        yield Lines(plan, done)
        return
    with bar() as drawn:
        yield Bar(drawn, plan, done)
