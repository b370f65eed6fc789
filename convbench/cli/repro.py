"""`convbench repro`: one layer of a record again, under the conditions that the record tells."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from convbench.cli import common
from convbench.errors import EXIT_OK, EXIT_SOME_CELLS_FAILED, InputError
from convbench.plan import Selection

if TYPE_CHECKING:
    from convbench.repro import Recipe
    from convbench.results import Record, RecordedRow


@click.command(
    epilog=common.examples(
        "convbench repro reports/my-machine/2026-01-02_030405 mobilenet_v1.conv1",
        "convbench repro run.json resnet50/layer1.0.conv2 --impl numba.auto --json",
    )
)
@click.argument("record", type=click.Path(path_type=Path))
@click.argument("layer", metavar="CASE")
@common.record_selection_options
@common.json_option
def command(record: Path, layer: str, selection: Selection, as_json: bool) -> int:
    """Verify and time one layer of a record again.

    RECORD is a run.json or its folder, CASE a layer's name in it. Operands, order, threads and policy are the
    record's, so that equal software gives equal errors, bit for bit; times are of this machine now.
    """
    from convbench.records import read_one
    from convbench.repro import changes, pairs, recipe
    from convbench.results import FAILED_STATUSES

    then = read_one(record)
    plan = recipe(then, record, layer, selection)
    now = _again(plan)
    found, differences = pairs(plan, now.rows), changes(then, now)
    if as_json:
        rows = [{"then": before, "now": after} for before, after in found]
        told = [{"name": name, "then": a, "now": b} for name, a, b in differences]
        common.emit_json("repro", rows, environment=told, warnings=now.warnings)
    else:
        _print(then, now, found, differences)
    failed = any(row is None or row.status in FAILED_STATUSES for _, row in found)
    return EXIT_SOME_CELLS_FAILED if failed else EXIT_OK


def _again(recipe: Recipe) -> Record:
    from convbench.process import keep_freed_memory, prepare

    threads = prepare(recipe.threads)
    allocator = keep_freed_memory()
    from convbench.cli.progress import live
    from convbench.machine.noise import snapshot, warnings
    from convbench.plan import select_devices
    from convbench.registry import registry
    from convbench.run import Plan, begin, execute

    select_devices([case.device for case in recipe.cases])
    here = registry().implementations
    names = [name for name in recipe.implementations if name in here]
    if not names:
        raise InputError("none of the implementations of the record is installed here")
    plan = Plan(recipe.cases, [here[name] for name in names], recipe.policy, threads, recipe.seed, frozenset(names))
    settings = {"threads": threads, "policy": recipe.policy, "seed": recipe.seed, "allocator": allocator}
    record, before = begin(plan, settings, quick=True, command="repro"), snapshot()
    with live(plan) as progress:
        execute(plan, record, progress)
    record.complete, record.warnings = True, warnings(before, snapshot())
    return record


_COLUMNS = (("layer", "left"), ("pass", "left"), ("implementation", "left"), "time then", "time now", "speed-up then",
            "now", "error then", "now", ("same", "left"))  # fmt: skip


def _print(
    then: Record, now: Record, found: Sequence[tuple[RecordedRow, RecordedRow | None]],
    differences: Sequence[tuple[str, Any, Any]],
) -> None:  # fmt: skip
    common.table(
        f"{then.run_id} on {then.machine}, again on {now.machine}", _COLUMNS, [_line(*pair) for pair in found],
        "same: the error against float64 is equal to the last bit", ("same", "pass"),
    )  # fmt: skip
    for name, before, after in differences:
        common.out().print(common.printable(f"{name}: {_word(before)}, now {_word(after)}"))
    for line in now.warnings:
        common.out().print(common.printable(line))


def _line(then: RecordedRow, now: RecordedRow | None) -> list[str]:
    def times(row: RecordedRow | None) -> str:
        return f"{row.speedup_vs_reference:.2f}x" if row and row.speedup_vs_reference else ""

    def error(row: RecordedRow | None) -> str:
        return "" if row is None or row.error is None else f"{row.error:.2e}"

    status = "not here" if now is None else now.status if now.status != "ok" else common.seconds(now.median_s)
    before = common.seconds(then.median_s) if then.status == "ok" else then.status
    same = "" if now is None or then.error is None else "yes" if then.error == now.error else "no"
    return [
        f"{then.suite}/{then.case}", then.pass_, then.implementation, before, status, times(then), times(now),
        error(then), error(now), same,
    ]  # fmt: skip


def _word(value: Any) -> str:
    return "not there" if value is None else str(value)
