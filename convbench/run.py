"""The main job: verify, time and record every case of a plan, one journal entry a case."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import msgspec

from convbench import __version__
from convbench.case import Case
from convbench.errors import STRANGERS_ERRORS
from convbench.journal import Entry, Header, Journal, write_atomically
from convbench.machine.cuda_timer import COLD_SAMPLE_S, CudaTimer, captured
from convbench.machine.gpu import Watch
from convbench.measure import Call, Policy, Timer, host_timer, measure
from convbench.plugin import Implementation, Kernel
from convbench.process import Conditions, precision, return_freed_memory
from convbench.registry import REFERENCE, Broken
from convbench.results import Environment, Peak, Record, RecordedRow, Status, to_csv, to_json
from convbench.rows import Cell, make_row
from convbench.untrusted import failure
from convbench.verify import Checker

SLOWEST_CALL_S = 20.0  # a single call above this is reported as a timeout, not sampled


class Progress(Protocol):
    """Told what happens; the command line draws it, tests count it."""

    def case(self, case: Case, implementations: int) -> None: ...
    def sample(self, seconds: float) -> None: ...
    def done(self, rows: list[RecordedRow]) -> None: ...


Working = Callable[[str], object]  # told the implementation whose code runs next, "" for none


def _unheard(name: str) -> None:
    pass


class CaseRunner(Protocol):
    """Runs one case; its rows are in the plan's order."""

    def __call__(
        self, case: Case, plan: Plan, record: Record, progress: Any, watch: Stopwatch
    ) -> Iterable[RecordedRow]: ...


@dataclass(frozen=True)
class Plan:
    """What a run does; all but graphs is in the journal's header."""

    cases: list[Case]
    implementations: list[Implementation]
    policy: Policy
    threads: int
    seed: int = 0
    named: frozenset[str] = frozenset()  # implementations asked for by name get a row even if unsupported
    isolated: frozenset[str] = frozenset()  # a case that one of these supports runs in a worker process
    graphs: bool = False  # on a GPU, every call as a CUDA graph


@dataclass
class Stopwatch:
    """Wall time by activity."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, activity: str) -> Iterator[None]:
        start = perf_counter()
        try:
            yield
        finally:
            self.seconds[activity] = self.seconds.get(activity, 0.0) + perf_counter() - start

    def move(self, activity: str, other: str, seconds: float) -> None:
        """Book seconds of one activity on another."""
        self.seconds[activity] -= seconds
        self.seconds[other] = self.seconds.get(other, 0.0) + seconds


def new_record(environment: Environment, peaks: list[Peak], settings: dict[str, Any], command: str = "run") -> Record:
    """An empty record of a run that starts now."""
    now = datetime.now(UTC)
    return Record(
        command=command,
        convbench_version=__version__,
        run_id=f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}",
        machine=environment.machine,
        started=now.isoformat(timespec="seconds"),
        environment=environment,
        peaks=peaks,
        settings=settings,
    )


def begin(plan: Plan, settings: dict[str, Any], quick: bool = False, command: str = "run") -> Record:
    """Look at the machine: its environment and the measured peaks of the plan's devices, in an empty record."""
    from convbench.machine.environment import detect
    from convbench.machine.peaks import measure_peaks
    from convbench.registry import probes, registry

    watch = Stopwatch()
    with watch("imports"):
        import scipy.stats  # noqa: F401 - otherwise the first case would wait for it
    with watch("detect"):
        environment = detect(with_torch=True)
    with watch("peaks"):
        devices = dict.fromkeys(case.device for case in plan.cases)
        peaks = [peak for device in devices for peak in measure_peaks(device, plan.threads, probes(), quick=quick)]
    record = new_record(environment, peaks, msgspec.to_builtins(settings), command)
    record.timings.update(watch.seconds)
    record.unavailable = dict(registry().unavailable)
    return record


def execute(plan: Plan, record: Record, progress: Progress, journal: Journal | None = None,
            done: Set[int] = frozenset(), noise: Callable[[], list[str]] = list,
            interrupted: Callable[[], object] = bool, worker: CaseRunner | None = None) -> Record:  # fmt: skip
    """Run the plan's cases, less those whose numbers are in ``done``, adding rows to the record and to the journal.

    noise tells what has disturbed the run so far; the journal keeps it, for a kill leaves no other trace of it.
    interrupted is asked before each case: Python drops an exception that a signal raises inside a finaliser.
    Raises OutputError when the journal cannot be written; KeyboardInterrupt passes through. What was
    finished before is in the journal either way. worker runs the cases that have an isolated implementation.
    """
    import torch

    with torch.inference_mode():
        for number, case in enumerate(plan.cases):
            if number in done:
                continue
            if interrupted():
                raise KeyboardInterrupt
            watch = Stopwatch()
            run_one = worker if worker and needs_worker(case, plan) else run_case
            with precision(case.device, case.dtype):
                rows = list(run_one(case, plan, record, progress, watch))
            add_entry(record, rows, watch.seconds)  # first: an interrupt may come at any line
            if journal:
                journal.append(Entry(case=number, rows=rows, timings=watch.seconds, warnings=noise()))
            progress.done(rows)
            return_freed_memory()
    return record


def add_entry(record: Record, rows: list[RecordedRow], timings: dict[str, float]) -> None:
    """Add one finished case to the record."""
    record.rows += rows
    for activity, seconds in timings.items():
        record.timings[activity] = record.timings.get(activity, 0.0) + seconds


def needs_worker(case: Case, plan: Plan) -> bool:
    """Whether an isolated implementation computes the case."""
    return any(i.name in plan.isolated and not i.supports(case) for i in plan.implementations)


def run_case(case: Case, plan: Plan, record: Record, progress: Progress, watch: Stopwatch,
             working: Working = _unheard) -> list[RecordedRow]:  # fmt: skip
    """One case on every implementation that supports it: build, verify, time, verify again.

    working is told whose code runs next.
    """
    cells = open_cells(case, plan)
    progress.case(case, sum(cell.status == "ok" for cell in cells))
    checker = Checker(case, plan.seed)
    with watch("verify"):
        _prepare(cells, checker.prepare)
    conditions = Conditions()
    for cell in _alive(cells):
        with _turn(cell, working, conditions), watch("compile"):
            _build(cell, checker)
    for cell in _alive(cells):
        with _turn(cell, working, conditions), watch("verify"):
            cell.judge(checker.before(cell.implementation, cell.built))
    with watch("warm-up"):
        _time(case, _alive(cells), plan, checker, progress, working, conditions)
    watch.move("warm-up", "sample", sum(cell.samples.spent_s for cell in _alive(cells) if cell.samples))
    if alive := _alive(cells):
        with watch("verify"):
            _prepare(alive, checker.renew)
    for cell in _alive(cells):
        with _turn(cell, working, conditions), watch("verify"):
            cell.judge(checker.after(cell.implementation, cell.built))
    working("")
    with watch("analyse"):
        reference = next((cell for cell in cells if cell.implementation.name == REFERENCE), None)
        return [make_row(case, cell, reference, record, plan.policy) for cell in cells]


def verify_plan(
    plan: Plan, on_row: Callable[[RecordedRow], None], worker: CaseRunner | None = None
) -> list[RecordedRow]:
    """Correctness only: every case on every implementation, both checks, no times."""
    import torch

    record, rows = new_record(Environment(machine=""), [], {}, "verify"), []
    with torch.inference_mode():
        for case in plan.cases:
            run_one = worker if worker and needs_worker(case, plan) else verify_case
            with precision(case.device, case.dtype):
                for row in run_one(case, plan, record, None, Stopwatch()):
                    rows.append(row)
                    on_row(row)
    return rows


def verify_case(case: Case, plan: Plan, record: Record, progress: Progress | None, watch: Stopwatch,
                working: Working = _unheard) -> Iterator[RecordedRow]:  # fmt: skip
    """One case on every implementation that supports it: build and both checks."""
    checker, conditions = Checker(case, plan.seed), Conditions()
    for cell in open_cells(case, plan):
        with _turn(cell, working, conditions):
            if cell.status == "ok":
                _build(cell, checker)
            for check in (checker.before, checker.after):
                if cell.status == "ok":
                    cell.judge(check(cell.implementation, cell.built))
        yield make_row(case, cell, None, record, plan.policy)


@contextmanager
def _turn(cell: Cell, working: Working, conditions: Conditions) -> Iterator[None]:
    """One implementation's code runs, and must leave to the others what it found."""
    working(cell.implementation.name)
    yield
    if changed := conditions.restored():
        cell.fail("error", f"changed {changed}")


def open_cells(case: Case, plan: Plan) -> list[Cell]:
    """A cell for each implementation that gets a row, in the plan's order."""
    return [cell for i in plan.implementations if (cell := _open_cell(case, i, plan))]


def _open_cell(case: Case, implementation: Implementation, plan: Plan) -> Cell | None:
    reason = implementation.supports(case)
    if reason and implementation.name not in plan.named and not isinstance(reason, Broken):
        return None
    status: Status = reason.status if isinstance(reason, Broken) else "unsupported" if reason else "ok"
    return Cell(implementation, status=status, detail=str(reason))


def _alive(cells: list[Cell]) -> list[Cell]:
    return [cell for cell in cells if cell.status == "ok"]


def _prepare(cells: list[Cell], make: Callable[[], None]) -> None:
    """Data and reference of a case; where there is no memory for them, no cell can be worked on."""
    try:
        make()
    except STRANGERS_ERRORS as error:
        for cell in cells:
            cell.fail(*failure(error))


def _build(cell: Cell, checker: Checker) -> None:
    """Build, prepare and call once, so that whatever compiles lazily has compiled."""

    def call() -> float:
        begun = perf_counter()
        cell.built.run(*operands)
        _synchronize(checker.case.device)
        return perf_counter() - begun

    start = perf_counter()
    try:
        kernel = cell.implementation.build(checker.case)
        if not isinstance(kernel, Kernel):
            raise TypeError(f"build() gave a {type(kernel).__name__}, expected a Kernel")
        cell.kernel = kernel
        operands = checker.timing_operands(cell.implementation, kernel, copied=True)
        seconds = call()
        if seconds > SLOWEST_CALL_S:  # compiling may have been part of it
            seconds = call()
        if seconds > SLOWEST_CALL_S:
            cell.fail("timeout", f"one call takes {seconds:.0f} s, more than {SLOWEST_CALL_S:.0f} s")
    except STRANGERS_ERRORS as error:
        cell.fail(*failure(error))
    cell.compile_s = perf_counter() - start


def _synchronize(device: str) -> None:
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize(device)


def _time(case: Case, cells: list[Cell], plan: Plan, checker: Checker, progress: Progress, working: Working,
          conditions: Conditions) -> None:  # fmt: skip
    on_gpu = CudaTimer(case.device, watch=Watch(case.device)) if case.device.startswith("cuda") else None
    timer: Timer = on_gpu or host_timer
    policy = replace(plan.policy, sample_s=min(plan.policy.sample_s, COLD_SAMPLE_S)) if on_gpu else plan.policy
    originals: dict[str, Call] = {}
    calls: dict[str, Call] = {}
    for cell in cells:
        working(cell.implementation.name)
        try:
            operands = checker.timing_operands(cell.implementation, cell.built)
            original = partial(cell.built.run, *operands)
            call = captured(original, case.device) if plan.graphs and on_gpu else original
        except STRANGERS_ERRORS as error:
            cell.fail(*failure(error))
        else:
            name = cell.implementation.name
            calls[name], originals[name] = call, original
    while calls:
        blaming = _blaming(timer, calls, working, conditions)
        try:
            samples = measure(calls, policy, REFERENCE, blaming, plan.seed, progress.sample)
        except _CallFailed as failed:  # out with it, and the others again: what they have is only half a case
            name = next(name for name, call in calls.items() if call is failed.call)
            del calls[name]
            next(cell for cell in cells if cell.implementation.name == name).fail(*failure(failed.error))
        else:
            for cell in _alive(cells):
                name = cell.implementation.name
                cell.samples = samples[name]
                if on_gpu:
                    cell.gpu = on_gpu.cell(calls[name], originals[name])
            return


class _CallFailed(Exception):
    """A kernel raised while it was timed."""

    def __init__(self, call: Call, error: BaseException) -> None:
        self.call, self.error = call, error


def _blaming(timer: Timer, named: dict[str, Call], working: Working, conditions: Conditions) -> Timer:
    """The timer, saying whose call comes, and whose it was that failed."""
    names = {id(call): name for name, call in named.items()}

    def timed(call: Call, calls: int) -> float:
        working(names[id(call)])
        try:
            seconds = timer(call, calls)
        except STRANGERS_ERRORS as error:
            raise _CallFailed(call, error) from None
        if changed := conditions.restored():
            raise _CallFailed(call, RuntimeError(f"changed {changed}"))
        return seconds

    return timed


def write_outputs(record: Record, folder: Path) -> dict[str, Path]:
    """run.json and results.csv; returns the paths by name. Raises OutputError naming the file."""
    contents: dict[str, Callable[[], bytes]] = {
        "run.json": lambda: to_json(record),
        "results.csv": lambda: to_csv(record.rows).encode(),
    }
    paths = {}
    for name, content in contents.items():
        paths[name] = folder / name
        write_atomically(paths[name], content())
    return paths


def resume(journal: Journal) -> tuple[Header, Record, frozenset[int]]:
    """Header, record with the finished rows, and the numbers of the finished cases."""
    header, entries = journal.read()
    record = header.record
    for entry in entries:
        add_entry(record, entry.rows, entry.timings)
        record.warnings = entry.warnings
    record.timings["total"] = sum(record.timings.values())  # so far; what a kill cut off is not known
    return header, record, frozenset(entry.case for entry in entries)
