"""`convbench check`: a stored run against a stored baseline; imports neither torch nor numba."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from convbench.cli import common, gate
from convbench.errors import InputError

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
    help="An earlier run; where there is none yet, RECORD is saved there and passes, with a warning.",
)
@click.option(
    "--save-baseline/--need-baseline",
    default=None,
    help="Where there is no baseline: save it even beside one of a similar name, or exit with 2 "
    "(default: save it where its folder exists and holds none of a similar name for this machine and these layers).",
)
@click.option("--across-machines", is_flag=True, help="Compare runs of different machines or thread counts.")
@gate.rule_options
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Folder for check.json, .md and .xml.")
@common.json_option
def command(
    record: Path, baseline: Path, save_baseline: bool | None, across_machines: bool, floor: float | None, alpha: float,
    accept: tuple[str, ...], out: Path | None, as_json: bool,
) -> int:  # fmt: skip
    """Compare RECORD with an earlier run, layer by layer.

    Compared is each implementation's ratio to the reference in the same run.

    Exits with 0 when nothing is slower, 1 when something is or an exact fact changed, 3 when it is inconclusive.
    """
    from convbench.gate.outcome import Outcome
    from convbench.gate.records import compare, refuse_other_machine
    from convbench.records import read_one

    head, rules = read_one(record), gate.rules(floor, alpha)
    if not baseline.exists():
        saved = _save(record, head, baseline, save_baseline)
        first = Outcome(command="check", base="none", head=head.run_id, rules=rules, findings=[], saved=saved)
        return gate.report(first, out, as_json)
    base = read_one(baseline)
    if not across_machines:
        refuse_other_machine(base, head)
    return gate.report(compare(base, head, rules, accept), out, as_json)


def _save(record: Path, head: Record, baseline: Path, wanted: bool | None) -> str:
    """The first run of a kind is the baseline of the next; returns where it went."""
    from convbench.gate.records import refuse_as_baseline, refuse_mistyped
    from convbench.journal import make_folder, write_atomically
    from convbench.results import to_json

    if wanted is False:
        raise InputError(f"{baseline}: is not there, and --need-baseline asks for it; correct the name or save one")
    refuse_as_baseline(head, record)
    if wanted is None:
        refuse_mistyped(baseline, head, record)
    path = baseline if baseline.suffix == ".json" else baseline / "run.json"
    make_folder(path.parent)
    write_atomically(path, to_json(head))
    return str(path)
