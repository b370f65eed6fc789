"""`convbench check`: a stored run against a stored baseline; imports neither torch nor numba."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from convbench.cli import common, gate
from convbench.errors import EXIT_OK, InputError, OutputError

if TYPE_CHECKING:
    from convbench.results import Record


@click.command(
    epilog=common.examples(
        "convbench check reports/mine/2026-01-02_030405 --baseline baselines/mine.json",
        "convbench check run.json --baseline old/run.json --floor 5% --accept algorithm --json",
    )
)
@click.argument("record", type=click.Path(path_type=Path))
@click.option(
    "--baseline",
    required=True,
    type=click.Path(path_type=Path),
    metavar="RECORD",
    help="An earlier run; where there is none, RECORD is saved there and passes.",
)
@click.option("--across-machines", is_flag=True, help="Compare runs of different machines or thread counts.")
@gate.rule_options
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Folder for check.json, .md and .xml.")
@common.json_option
def command(
    record: Path, baseline: Path, across_machines: bool, floor: float | None, alpha: float, accept: tuple[str, ...],
    out: Path | None, as_json: bool,
) -> int:  # fmt: skip
    """Compare RECORD with an earlier run, layer by layer.

    Compared is each implementation's ratio to the reference in the same run.

    Exits with 0 when nothing is slower, 1 when something is or an exact fact changed, 3 when it is inconclusive.
    """
    from convbench.gate.records import compare, refuse_other_machine
    from convbench.records import read_one

    head = read_one(record)
    if not baseline.exists():
        return _save(record, head, baseline, as_json)
    base = read_one(baseline)
    if not across_machines:
        refuse_other_machine(base, head)
    return gate.report(compare(base, head, gate.rules(floor, alpha), accept), out, as_json)


def _save(record: Path, head: Record, baseline: Path, as_json: bool) -> int:
    """The first run of a kind is the baseline of the next."""
    from convbench.journal import write_atomically
    from convbench.results import to_json

    if not head.complete:
        raise InputError(f"{record}: not complete, so no baseline; finish it with `convbench run --resume` first")
    path = baseline if baseline.suffix == ".json" else baseline / "run.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path.parent}: {error.strerror}; choose another --baseline") from None
    write_atomically(path, to_json(head))
    if as_json:
        common.emit_json("check", [], verdict="saved", exit_code=EXIT_OK, paths={"baseline": str(path)})
    else:
        common.out().print(f"no baseline yet: {record} is saved as {path}, and passes", soft_wrap=True)
    return EXIT_OK
