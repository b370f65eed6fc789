"""`convbench run`: verify and time layers on every implementation, and write the record and the report."""

from __future__ import annotations

from collections.abc import Callable, Set
from contextlib import closing, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import click
import msgspec

from convbench.cli import common
from convbench.cli.cluster import cluster_options, run_on
from convbench.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_SOME_CELLS_FAILED, InputError
from convbench.plan import Selection, check_suites

if TYPE_CHECKING:
    from convbench.isolate import Isolated
    from convbench.journal import Header, Journal
    from convbench.machine.noise import Snapshot
    from convbench.measure import Policy
    from convbench.results import Record
    from convbench.run import Plan

# Fewest samples, the most seconds of them for one cell, and those that all cells of the command's own suite share: so
# it stays at two to four minutes, or under half a minute, however many kernels are installed. An interval takes account
# of how neighbours resemble each other from 30 samples on; a quick run has no time for so many.
PRECISION = 0.02
DEFAULT, QUICK = (30, 1.0, 140.0), (10, 0.25, 12.0)
QUICK_SUITE = "quick"
RUNS = Path("reports")  # where runs go without --out


@click.command(
    epilog=common.examples(
        "convbench run",
        "convbench run --quick",
        "convbench run mobilenet_v1 --impl numba --pass all",
        "convbench run --model my_net.py:make --input 1,3,224,224",
        "convbench run --suite my_layers.toml --precision 1% --out results",
        "convbench run --resume results",
        "convbench run --cluster cpu,gpu:a100 --out fleet",
    )
)
@common.selection_options
@common.save_suite_option
@click.option("--quick", is_flag=True, help="Few small layers and short sampling: under half a minute.")
@click.option("--full", is_flag=True, help="All passes, and the textbook kernels too.")
@click.option("--threads", type=int, metavar="N", help="Threads for every implementation (default: all CPUs).")
@click.option("--precision", type=common.Fraction(), help="Stop at this 95% interval (default: 2%).")
@click.option(
    "--max-time",
    type=float,
    metavar="SECONDS",
    help="Longest sampling of one cell, but six samples at least (default: 1, with --quick 0.25; "
    "less where the default suite would take more than four minutes).",
)
@click.option("--tune", is_flag=True, help="Let numba.auto try its kernels on each case, and remember the fastest.")
@click.option("--seed", type=common.Seed(), default=0, show_default=True, help="Seed of the data and of the order.")
@common.isolate_option
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Folder for the results.")
@click.option("--resume", type=click.Path(path_type=Path), metavar="DIR", help="Go on with an interrupted run.")
@cluster_options
@common.json_option
def command(
    selection: Selection,
    save_suite: Path | None,
    quick: bool,
    full: bool,
    threads: int | None,
    precision: float | None,
    max_time: float | None,
    tune: bool,
    seed: int,
    isolate: bool | None,
    out: Path | None,
    resume: Path | None,
    cluster: tuple[str, ...] | None,
    cluster_minutes: float,
    as_json: bool,
) -> int:
    """Verify and time layers of published networks.

    With no SUITE: detects this machine, measures its peaks and runs the default suite. Writes run.json,
    results.csv and report.html under reports/ (or --out DIR).
    """
    from convbench.isolate import Isolated
    from convbench.process import tune_kernels

    begun = perf_counter()
    if tune:
        tune_kernels(True)
    if resume:
        common.refuse_options(resume)
        with closing(Isolated()) as worker:
            record, folder, interrupted = _resume(resume, worker)
    else:
        policy = partial(_policy, quick, precision, max_time)
        policy(cells=0)  # refuses what cannot be, before anything is looked at
        # Suites first: a typing mistake should not cost the seconds that torch takes to import.
        check_suites(selection, QUICK_SUITE if quick else common.DEFAULT_SUITE)
        if cluster:
            return run_on(cluster, cluster_minutes, out, save_suite, as_json)
        with closing(Isolated()) as worker:
            record, folder, interrupted = _start(
                selection, save_suite, quick, full, threads, policy, seed, isolate, out, worker
            )
    record.timings["total"] = record.timings.get("total", 0.0) + perf_counter() - begun
    paths = _write(record, folder)
    if as_json:
        head = msgspec.structs.replace(record, rows=[])
        common.emit_json("run", record.rows, record=head, paths={k: str(v) for k, v in paths.items()})
    else:
        _show(record, paths)
    if interrupted:
        common.err().print(
            f"interrupted: {len(record.rows)} rows are kept; go on with `convbench run --resume {folder}`"
        )
        return EXIT_INTERRUPTED
    from convbench.results import FAILED_STATUSES

    return EXIT_SOME_CELLS_FAILED if any(row.status in FAILED_STATUSES for row in record.rows) else EXIT_OK


def _start(
    selection: Selection, save_suite: Path | None, quick: bool, full: bool, threads: int | None,
    policy: Callable[..., Policy], seed: int, isolate: bool | None, out: Path | None, worker: Isolated,
) -> tuple[Record, Path, bool]:  # fmt: skip
    from convbench import plan as planning
    from convbench.journal import Header, Journal

    common.err().print("Looking at this machine ...", style="dim")
    from convbench.machine.noise import snapshot
    from convbench.process import keep_freed_memory, prepare, tuning

    threads = prepare(threads)
    allocator, before = keep_freed_memory(), snapshot()
    devices = planning.select_devices(selection.devices)
    cases = planning.select_cases(
        selection, QUICK_SUITE if quick else common.DEFAULT_SUITE, "all" if full else "forward", devices
    )
    planning.check_precision(cases)
    common.save_suite(selection, save_suite)
    from convbench.registry import registry
    from convbench.run import Plan, begin

    implementations = planning.select_implementations(registry(), selection, everything=full)
    isolated = common.isolated(isolate, implementations)
    implementations = worker.shield(implementations, isolated)
    own_suite = not (selection.suites or full)
    cells = sum(not i.supports(case) for case in cases for i in implementations) if own_suite else 0
    limits = policy(cells=cells)
    plan = Plan(cases, implementations, limits, threads, seed, frozenset(selection.implementations), isolated)
    settings = {"selection": selection, "quick": quick, "full": full, "threads": threads, "policy": limits,
                "seed": seed, "allocator": allocator, "isolated": sorted(isolated), "tune": tuning()}  # fmt: skip
    if selection.implementations:
        _name_idle(plan)
    Journal(out or RUNS).claim()
    record = begin(plan, settings, quick)
    folder = out or RUNS / record.machine / f"{datetime.now(UTC):%Y-%m-%d_%H%M%S}"
    journal = Journal(folder)
    names = [i.name for i in implementations]
    journal.start(Header(record=record, cases=cases, implementations=names, policy=plan.policy, threads=threads,
                         seed=seed, named=sorted(plan.named), isolated=sorted(plan.isolated)))  # fmt: skip
    journal.lock()
    return _go(plan, record, journal, frozenset(), before, worker)


def _policy(quick: bool, precision: float | None, max_time: float | None, cells: int) -> Policy:
    """What the options say, or else the defaults; ``cells`` that share the time of the command's own suite."""
    from convbench.measure import Policy

    fewest, cell_s, shared_s = QUICK if quick else DEFAULT
    cell_s = min(cell_s, shared_s / max(cells, 1)) if max_time is None else max_time
    return Policy(PRECISION if precision is None else precision, cell_s, min_samples=fewest)


def _name_idle(plan: Plan) -> None:
    """Say which of the implementations asked for has nothing to do here."""
    idle = [i.name for i in plan.implementations if all(i.supports(case) for case in plan.cases)]
    if idle:
        common.err().print(f"no layer here for {', '.join(idle)}; `convbench list` shows what they cover")


def _resume(folder: Path, worker: Isolated) -> tuple[Record, Path, bool]:
    from convbench.journal import Journal
    from convbench.machine.noise import snapshot
    from convbench.process import keep_freed_memory, prepare, tune_kernels
    from convbench.results import load
    from convbench.run import Plan, resume

    journal = Journal(folder)
    journal.lock()
    header, record, done = resume(journal)
    if len(done) == len(header.cases):
        common.err().print(f"{folder}: all {len(done)} cases are finished; writing the report again")
        record.complete = True
        with suppress(InputError):  # what was written at the end knows more: warnings, the time it took
            written = load(folder)
            record = written if written.complete and written.run_id == record.run_id else record
        return record, folder, False
    common.err().print(f"{folder}: {len(done)} of {len(header.cases)} cases are finished, going on", style="dim")
    prepare(header.threads)
    tune_kernels(bool(record.settings.get("tune")))
    keep_freed_memory()
    before = snapshot()
    _same_conditions(header, folder)
    from convbench.registry import registry

    implementations = worker.shield(registry().select(header.implementations), header.isolated)
    plan = Plan(header.cases, implementations, header.policy, header.threads, header.seed, frozenset(header.named),
                frozenset(header.isolated))  # fmt: skip
    return _go(plan, record, journal, done, before, worker)


def _same_conditions(header: Header, folder: Path) -> None:
    from convbench.machine.environment import detect

    here, there = detect(with_torch=True), header.record.environment
    if here.machine != header.record.machine:
        raise InputError(f"{folder}: began on {header.record.machine}, this is {here.machine}; start a new run here")
    now, then = (
        {"processor": str(e.cpu.get("model")), "instruction sets": str(e.cpu.get("isa")), **e.versions, **e.variables}
        for e in (here, there)
    )
    changed = sorted(name for name in now.keys() | then.keys() if now.get(name) != then.get(name))
    if changed:
        was, is_ = (values.get(changed[0], "unset") for values in (then, now))
        raise InputError(f"{folder}: began with {changed[0]} {was}, now it is {is_}; start a new run")


def _go(plan: Plan, record: Record, journal: Journal, done: Set[int], before: Snapshot,
        worker: Isolated) -> tuple[Record, Path, bool]:  # fmt: skip
    """Run the cases that are left; an interrupt or a termination ends it early with all that is finished."""
    from convbench.cli.progress import live
    from convbench.machine.noise import snapshot, warnings
    from convbench.run import execute

    interrupted, earlier = False, record.warnings

    def noise() -> list[str]:
        return list(dict.fromkeys((*earlier, *warnings(before, snapshot()))))

    try:
        with common.interrupts() as signals, live(plan, done) as progress:
            execute(plan, record, progress, journal, done, noise, lambda: signals, worker)
        record.complete = True
    except KeyboardInterrupt:
        interrupted = True
    except Exception:  # the journal cannot be written, or a bug
        _keep(record, journal.path.parent)
        raise
    record.warnings = noise()
    record.finished = datetime.now(UTC).isoformat(timespec="seconds")
    return record, journal.path.parent, interrupted


def _keep(record: Record, folder: Path) -> None:
    """What is measured, where a run cannot go on: if the journal cannot be written, perhaps these files can."""
    from convbench.journal import make_folder
    from convbench.run import write_outputs

    with suppress(Exception):  # there is a worse one to tell of
        make_folder(folder)
        for name, path in write_outputs(record, folder).items():
            common.err().print(f"kept so far: {name:12} {path}")


def _write(record: Record, folder: Path) -> dict[str, Path]:
    from convbench.report import write
    from convbench.run import write_outputs

    paths = write_outputs(record, folder)
    if not record.rows:
        return paths
    try:
        write(record, folder / "report.html")
        paths["report.html"] = folder / "report.html"
    except InputError as error:  # no charts library here: the record can be rendered elsewhere
        common.err().print(f"no report.html: {error}")
    return paths


def _show(record: Record, paths: dict[str, Path]) -> None:
    from convbench.cli.summary import print_summary

    print_summary(record)
    for name, path in paths.items():
        common.out().print(f"{name:12} {path}", soft_wrap=True)  # a path to copy is one line
