"""`convbench savings`: dense against depthwise-separable, on paper, by roofline, measured, and why they differ."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from convbench.cli import common
from convbench.errors import EXIT_OK, EXIT_SOME_CELLS_FAILED, InputError
from convbench.plan import Selection

if TYPE_CHECKING:
    from convbench.results import Record
    from convbench.savings import Half, Saving

DEFAULT_SUITE = "separable"
DEFAULT_CELL_S = 0.3  # about 120 cells of the default suite in under a minute


@click.command(
    epilog=common.examples(
        "convbench savings",
        "convbench savings --record reports/my-machine/2026-01-02_030405",
        "convbench savings vgg16 --case 'conv4*' --pass all --json",
    )
)
@common.selection_options
@click.option(
    "--record", type=click.Path(path_type=Path), metavar="RECORD", help="A run.json or its folder: no timing."
)
@click.option("--threads", type=int, metavar="N", help="Threads for every implementation (default: all CPUs).")
@click.option("--max-time", type=float, default=DEFAULT_CELL_S, show_default=True, metavar="SECONDS",
              help="Longest sampling of one cell.")  # fmt: skip
@common.json_option
def command(selection: Selection, record: Path | None, threads: int | None, max_time: float, as_json: bool) -> int:
    """What a depthwise-separable pair saves over dense.

    From a RECORD, or measured now: every dense layer of the suites (default: separable) and the depthwise,
    pointwise and fused convolutions that would replace it. Ratios are dense time / pair time.
    """
    from convbench.results import FAILED_STATUSES, load
    from convbench.savings import analyse

    run = _chosen(load(record), selection) if record else _measure(selection, threads, max_time)
    try:
        savings = analyse(run)
    except InputError as error:  # of a convolution that cannot be
        raise InputError(f"{record}: {error}; give the file as it was written") from None
    if not savings:
        raise InputError(
            f"{record or 'this selection'}: no dense layer together with its separable pair; "
            "`convbench run separable` records some"
        )
    if as_json:
        common.emit_json("savings", savings, warnings=run.warnings)
    else:
        _print(run, savings)
    failed = any(row.status in FAILED_STATUSES for row in run.rows)
    return EXIT_SOME_CELLS_FAILED if failed and not record else EXIT_OK


def _chosen(record: Record, selection: Selection) -> Record:
    """The record with the rows that the selection options leave; without options all of them."""
    import msgspec

    return msgspec.structs.replace(record, rows=[row for row in record.rows if selection.keeps(row)])


def _measure(selection: Selection, threads: int | None, max_time: float) -> Record:
    """Measure every comparison of the selected layers, and the machine's peaks; nothing is written."""
    from convbench import plan as planning
    from convbench.savings import quartets

    if not quartets(planning.select_cases(selection, DEFAULT_SUITE, "forward", ["cpu"])):
        raise InputError(
            "no dense convolution above 1x1 among the layers chosen: nothing a separable pair could replace"
        )
    from convbench.process import keep_freed_memory, prepare

    threads = prepare(threads)
    keep_freed_memory()
    from convbench.cli.progress import live
    from convbench.isolate import Isolated
    from convbench.machine.noise import snapshot, warnings
    from convbench.measure import Policy
    from convbench.registry import registry
    from convbench.run import Plan, begin, execute

    cases = quartets(
        planning.select_cases(selection, DEFAULT_SUITE, "forward", planning.select_devices(selection.devices))
    )
    implementations = planning.select_implementations(registry(), selection)
    isolated = common.isolated(None, implementations)
    with closing(Isolated()) as worker:
        plan = Plan(cases, worker.shield(implementations, isolated), Policy(0.01, max_time), threads, isolated=isolated)
        record = begin(plan, {"selection": selection, "threads": threads}, quick=True, command="savings")
        before = snapshot()
        with live(plan) as progress:
            execute(plan, record, progress, worker=worker)
    record.complete, record.warnings = True, warnings(before, snapshot())
    return record


# Text ---------------------------------------------------------------------------------------------

_COLUMNS = (("layer", "left"), ("pass", "left"), ("shape", "left"), "paper", "roofline", "measured", "interval",
            "roofline fused", "measured fused", "interval", "dense", "dw", "pw", "fused")  # fmt: skip
_SPARE = ("pass", "interval", "shape", "dense", "dw", "pw", "fused", "roofline fused", "roofline")


def _print(record: Record, savings: list[Saving]) -> None:
    from convbench.cli.summary import remarks

    common.table(
        f"{record.machine}: dense time / separable time",
        _COLUMNS,
        [_line(saving) for saving in savings],
        "paper: multiply-accumulates; roofline: least time under the measured peaks; measured: best implementation "
        "of each, depthwise then pointwise as two calls; fused: as one operator",
        _SPARE,
    )
    for saving in savings:
        if saving.reasons:
            common.out().print(common.printable(f"{saving.suite}/{saving.case} {saving.pass_}"), style="bold")
        for reason in saving.reasons:
            common.out().print(common.printable(f"  {reason}"))
    for line in remarks(record):
        common.out().print(common.printable(line))


def _line(saving: Saving) -> list[str]:
    shape = f"{saving.c}x{saving.h}x{saving.w} -> {saving.k}, {saving.r}x{saving.s}"
    return [
        f"{saving.suite}/{saving.case}", saving.pass_, shape, _times(saving.paper),
        _times(saving.roofline_unfused), _times(saving.measured_unfused),
        _interval(saving.measured_unfused_low, saving.measured_unfused_high),
        _times(saving.roofline_fused), _times(saving.measured_fused),
        _interval(saving.measured_fused_low, saving.measured_fused_high),
        *(_time(half) for half in (saving.dense, saving.depthwise, saving.pointwise, saving.fused)),
    ]  # fmt: skip


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}x"


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.2f}-{high:.2f}"


def _time(half: Half) -> str:
    return common.seconds(half.median_s)
