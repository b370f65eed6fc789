"""`convbench repro`: one case of a record verified and timed again, as the record says it was."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from convbench.case import Case, DType
from convbench.cli import common
from convbench.errors import EXIT_OK, EXIT_SOME_CELLS_FAILED, InputError
from convbench.spec import PASSES

if TYPE_CHECKING:
    from convbench.compare.environment import Difference
    from convbench.isolate import Isolated
    from convbench.results import Record, RecordedRow
    from convbench.run import Plan

NEEDED = ("seed", "threads", "policy")


@click.command(
    epilog=common.examples(
        "convbench repro reports/mine/2026-01-02_030405 mobilenet_v1/conv1",
        "convbench repro run.json conv1 --pass forward --impl numba.auto --json",
    )
)
@click.argument("record", type=click.Path(path_type=Path))
@click.argument("case", metavar="CASE")
@click.option("--impl", metavar="NAME", help="Only this implementation, beside the reference.")
@click.option("--pass", "pass_", type=click.Choice(PASSES), help="Where the record has the case in several passes.")
@click.option("--dtype", type=click.Choice(get_args(DType)), help="Where it has several element types.")
@click.option("--device", metavar="DEVICE", help="Where it has several devices.")
@common.json_option
def command(
    record: Path, case: str, impl: str | None, pass_: str | None, dtype: str | None, device: str | None, as_json: bool
) -> int:
    """Repeat one case of a run as it was recorded.

    The same seed, data, threads, implementations and order of sampling. RECORD is a run.json or its folder, CASE a
    layer or SUITE/LAYER. Prints old and new times side by side, and what
    differs in the environment. Exit code 4: a cell failed.
    """
    from convbench.compare.environment import differences
    from convbench.results import FAILED_STATUSES, load

    old = load(record)
    wanted = {"pass_": pass_, "dtype": dtype, "device": device}
    old.rows = _rows(record, old, case, {name: value for name, value in wanted.items() if value}, impl)
    new = _repeat(record, old)
    differing = differences((old, new))
    pairs = list(zip(old.rows, new.rows, strict=True))
    if as_json:
        changes = [{"name": d.name, "why": d.why, "old": d.values[0], "new": d.values[1]} for d in differing]
        common.emit_json("repro", new.rows, recorded=old.rows, differences=changes)
    else:
        _print(pairs, differing)
    return EXIT_SOME_CELLS_FAILED if any(row.status in FAILED_STATUSES for row in new.rows) else EXIT_OK


def _rows(path: Path, record: Record, name: str, wanted: dict[str, str], impl: str | None) -> list[RecordedRow]:
    """The rows of the one case meant. Raises InputError where it is none or several."""
    from convbench.registry import REFERENCE

    named = [row for row in record.rows if name in (row.case, f"{row.suite}/{row.case}")]
    rows = [row for row in named if all(getattr(row, field) == value for field, value in wanted.items())]
    try:
        found = list(dict.fromkeys(str(_case(row)) for row in rows))
    except InputError as error:  # of a convolution that cannot be
        raise InputError(f"{path}: {error}; give the run.json as it was written") from None
    if not found:
        raise InputError(f"{path}: holds no case {' '.join((name, *wanted.values()))}; name one of its layers")
    if len(found) > 1:
        raise InputError(f"{path}: {name} is {len(found)} cases: {', '.join(found)}; choose by SUITE/LAYER and --pass, "
                         "--dtype or --device")  # fmt: skip
    if impl and impl not in {row.implementation for row in rows}:
        raise InputError(f"{path}: {found[0]} has no row of {impl}; it has {', '.join(r.implementation for r in rows)}")
    return [row for row in rows if not impl or row.implementation in (impl, REFERENCE)]


def _case(row: RecordedRow) -> Case:
    from convbench.records import spec_of

    return Case(spec_of(row), row.pass_, row.dtype, row.device, row.suite, row.case, row.count)


def _repeat(path: Path, old: Record) -> Record:
    from convbench.plan import select_devices
    from convbench.process import keep_freed_memory, prepare, tune_kernels

    settings = _settings(path, old)
    prepare(settings["threads"])
    tune_kernels(bool(old.settings.get("tune")))
    allocator = keep_freed_memory()
    select_devices([old.rows[0].device])  # refuses one that is not here
    from convbench.cli.progress import live
    from convbench.isolate import Isolated
    from convbench.machine.environment import detect
    from convbench.run import execute, new_record

    new = new_record(detect(with_torch=True), [], old.settings | {"allocator": allocator}, "repro")
    with closing(Isolated()) as worker:
        plan = _plan(old, settings, worker)
        with live(plan) as progress:
            return execute(plan, new, progress, worker=worker)


def _settings(path: Path, old: Record) -> dict[str, Any]:
    """What a repetition needs. Raises InputError where the record does not say it."""
    import msgspec

    from convbench.measure import Policy

    missing = [name for name in NEEDED if name not in old.settings]
    if missing:
        raise InputError(f"{path}: does not say its {', '.join(missing)}; give the run.json of a `convbench run`, or "
                         "repeat the study that wrote this one: it will say so then")  # fmt: skip
    kinds = {"seed": int, "threads": int, "policy": Policy, "isolated": frozenset[str]}
    try:
        return {name: msgspec.convert(old.settings.get(name, []), kind) for name, kind in kinds.items()}
    except msgspec.ValidationError as error:
        raise InputError(f"{path}: settings: {error}; give the run.json as it was written") from None


def _plan(old: Record, settings: dict[str, Any], worker: Isolated) -> Plan:
    from convbench.registry import registry
    from convbench.run import Plan

    names, isolated = [row.implementation for row in old.rows], settings["isolated"]
    implementations = worker.shield(registry().select(names), isolated)
    return Plan([_case(old.rows[0])], implementations, settings["policy"], settings["threads"], settings["seed"],
                frozenset(names), isolated)  # fmt: skip


def _print(pairs: list[tuple[RecordedRow, RecordedRow]], differing: list[Difference]) -> None:
    lines = [
        (
            new.implementation, new.status if new.status == old.status else f"{old.status}, now {new.status}",
            common.seconds(old.median_s), common.seconds(new.median_s),
            common.number(new.median_s / old.median_s if new.median_s and old.median_s else None),
            common.number(old.speedup_vs_reference), common.number(new.speedup_vs_reference), new.status_detail,
        )
        for old, new in pairs
    ]  # fmt: skip
    columns = (("implementation", "left"), ("status", "left"), "recorded", "now", "now / recorded",
               "speed-up recorded", "speed-up now", ("detail", "left"))  # fmt: skip
    common.table(str(_case(pairs[0][1])), columns, lines)
    for each in differing:
        why = f" ({each.why})" if each.why else ""
        common.out().print(common.printable(f"differs: {each.name}: {each.values[0]}, now {each.values[1]}{why}"))
    if not differing:
        common.out().print("the environment is the same")
