"""`convbench history`: a folder of records over time; imports neither torch nor numba."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from convbench.cli import common
from convbench.errors import EXIT_OK, InputError
from convbench.plan import Selection

if TYPE_CHECKING:
    from convbench.history import History
    from convbench.history.analysis import Series

PAGE, CSV = "history.html", "history.csv"
MOST_LINES = 40


@click.command(
    epilog=common.examples(
        "convbench history nightly",
        "convbench history nightly --out nightly-page",
        "convbench history nightly --impl numba --min-change 10 --json",
    )
)
@click.argument("folder", type=click.Path(path_type=Path))
@common.record_selection_options
@click.option("--min-change", type=click.FloatRange(0, min_open=True), default=5.0, show_default=True,
              metavar="PERCENT", help="Smallest step to report.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER",
              help=f"Write {PAGE} and {CSV} there.")  # fmt: skip
@common.json_option
@common.no_garbage_collection()
def command(folder: Path, selection: Selection, min_change: float, out: Path | None, as_json: bool) -> int:
    """Show how results changed over time, and where they stepped.

    FOLDER holds records (run.json or results.csv, at any depth); add one a night and never change them. Steps are
    reported and block nothing. Only runs of one machine, device and number of threads are strung together.
    """
    from convbench.history import read_history, series, step_rows
    from convbench.records import read_records

    refused: list[str] = []
    history = read_history(read_records([folder], refused.append), refused.append, selection.keeps)
    for reason in refused:
        common.err().print(common.printable(f"convbench: refused: {reason}"))
    if not history.points:
        raise InputError(f"{folder}: no record in it has a time for what is selected; give a folder of runs")
    found = series(history, min_change / 100)
    steps = step_rows(history, found)
    paths = _write(history, found, steps, refused, out) if out else {}
    if as_json:
        common.emit_json("history", steps, runs=len(history.runs), series=len(found), refused=refused, paths=paths)
    else:
        _print(history, found, steps)
    for path in paths.values():
        common.err().print(path)
    return EXIT_OK


def _write(
    history: History, found: Sequence[Series], steps: Sequence[dict[str, Any]], refused: Sequence[str], folder: Path
) -> dict[str, str]:
    from convbench.history.analysis import STEP_COLUMNS
    from convbench.journal import make_folder, write_atomically
    from convbench.report import render_history
    from convbench.results import csv_text

    make_folder(folder)
    lines = ([*list(step.values())[:-1], "; ".join(step["environment"])] for step in steps)
    write_atomically(folder / CSV, csv_text(STEP_COLUMNS, lines).encode("utf-8", "replace"))
    write_atomically(folder / PAGE, render_history(history, found, refused).encode("utf-8", "replace"))
    return {name: str(folder / name) for name in (CSV, PAGE)}


def _print(history: History, found: Sequence[Series], steps: Sequence[dict[str, Any]]) -> None:
    first, last = (f"{history.runs[end].started:%Y-%m-%d}" for end in (0, -1))
    runs = "1 run" if len(history.runs) == 1 else f"{len(history.runs)} runs"
    common.table(
        f"{runs}, {first} to {last}: speed-up over the reference of the same run",
        _LEVEL_COLUMNS,
        [_level_line(item) for item in found if not item.key.layer and item.key.quantity == "speed-up"],
        "geometric means over layers, each held against its own median",
        spare=("pass", "place"),
    )
    if not steps:
        common.out().print(f"no step in {len(found)} series")
        return
    more = f"{len(steps) - MOST_LINES} more with --out or --json" if len(steps) > MOST_LINES else ""
    title = f"{len(steps)} steps, above 1 is faster than before"
    common.table(title, _STEP_COLUMNS, [_step_line(step) for step in steps[:MOST_LINES]], more)


_LEVEL_COLUMNS = (("place", "left"), ("kind", "left"), ("pass", "left"), ("implementation", "left"), "runs", "first",
                  "last", "steps")  # fmt: skip
_STEP_COLUMNS = (("run", "left"), ("kind", "left"), ("layer", "left"), ("implementation", "left"), ("quantity", "left"),
                 "change", "runs before, after", ("changed with it", "left"))  # fmt: skip


def _level_line(item: Series) -> list[Any]:
    place, operator, implementation, *_ = item.key
    ends = (_times(exp(item.values[end])) for end in (0, -1))
    return [place, operator.kind, operator.pass_, implementation, len(item.runs), *ends, len(item.steps) or ""]


def _step_line(step: dict[str, Any]) -> list[str]:
    return [
        step["run_id"], step["kind"], step["case"] or "all", step["implementation"], step["quantity"],
        _times(step["change"]), f"{step['runs_before']}, {step['runs_after']}", "; ".join(step["environment"][:3]),
    ]  # fmt: skip


def _times(ratio: float) -> str:
    return f"{ratio:.3g}x"
