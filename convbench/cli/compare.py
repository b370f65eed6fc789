"""`convbench compare`: records from different machines, side by side; imports neither torch nor numba."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from convbench.cli import common
from convbench.errors import EXIT_INCONCLUSIVE, EXIT_OK, InputError
from convbench.plan import Selection

if TYPE_CHECKING:
    from convbench.compare import Comparison

FORMATS = ("table", "markdown", "csv")
PAGE, CSV, MARKDOWN = "compare.html", "compare.csv", "compare.md"


@click.command(
    epilog=common.examples(
        "convbench compare laptop/run.json server/results.csv",
        "convbench compare reports --out comparison",
        "convbench compare main.json 'nightly/*.json' --impl numba.auto --format markdown",
        "convbench compare before/profile.json after/profile.json",
    )
)
@click.argument("records", nargs=-1, required=True, metavar="RECORD...")
@common.record_selection_options
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), metavar="FOLDER",
              help=f"Write {PAGE}, {CSV} and {MARKDOWN} there.")  # fmt: skip
@click.option("--format", "format_", type=click.Choice(FORMATS), default="table", show_default=True,
              help="What to print.")  # fmt: skip
@common.json_option
def command(records: tuple[str, ...], selection: Selection, out: Path | None, format_: str, as_json: bool) -> int:
    """Compare runs of machines or settings, case by case.

    RECORD is a run.json, a results.csv, the folder of a run or of many, or a pattern; the first is the baseline.
    Ratios are baseline time / time: above 1 is faster than the baseline. Files that are no records are named and
    left out. Exit code 3: no case in common. Instead of runs, the profile.json of `convbench profile` or their
    folders: compared layer by layer, as before and after a change.
    """
    from convbench.profile import compare as profiles

    if profiles.named(records):
        from convbench.cli.compare_profiles import show as show_profiles

        return show_profiles(records, selection, out, format_, as_json)
    return show(records, selection, out, format_, as_json)


@common.no_garbage_collection()
def show(
    records: Sequence[str], selection: Selection, out: Path | None, format_: str, as_json: bool,
    left_out: Sequence[str] = (), fewest: int = 2,
) -> int:  # fmt: skip
    """Compare, print and write; ``left_out`` says what else should have been here. Raises InputError below ``fewest``.

    Returns the exit code.
    """
    from convbench.compare import compare
    from convbench.records import read_records

    refused: list[str] = []
    comparison = compare(read_records(records, refused.append), selection.keeps)
    for reason in refused:
        common.err().print(common.printable(f"convbench: refused: {reason}"))
    refused = [*left_out, *refused]
    if len(comparison.sides) < fewest:
        raise InputError(
            f"{len(comparison.sides)} run to compare, of {', '.join(records)}; give at least two records, or "
            "one of two devices, and options that leave rows in them"
        )
    paths = _write(comparison, refused, out) if out else {}
    if as_json:
        _emit(comparison, refused, paths)
    else:
        _print(comparison, refused, format_)
    for path in paths.values():
        common.err().print(path)
    return EXIT_OK if any(comparison.pairs(other) for other in comparison.others) else EXIT_INCONCLUSIVE


def _print(comparison: Comparison, refused: list[str], format_: str) -> None:
    from convbench.compare.rows import compared_csv
    from convbench.report import compared
    from convbench.report.markdown import markdown

    if format_ == "csv":
        click.echo(compared_csv(comparison), nl=False)
    elif format_ == "markdown":
        click.echo(markdown(comparison, refused), nl=False)
    else:
        for table in compared.tables(comparison):
            common.table(table.title, table.columns, table.lines, table.note)
        for line in compared.notices(comparison):
            common.out().print(common.printable(line))


def _write(comparison: Comparison, refused: list[str], folder: Path) -> dict[str, str]:
    """Write all files; the page last, as it needs most to be installed. Raises OutputError, InputError."""
    from convbench.compare.rows import compared_csv
    from convbench.journal import make_folder, write_atomically
    from convbench.report import render_comparison
    from convbench.report.markdown import markdown

    make_folder(folder)
    texts = {
        CSV: lambda: compared_csv(comparison),
        MARKDOWN: lambda: markdown(comparison, refused),
        PAGE: lambda: render_comparison(comparison, refused),
    }
    for name, text in texts.items():
        write_atomically(folder / name, text().encode("utf-8", "replace"))
    return {name: str(folder / name) for name in texts}


def _emit(comparison: Comparison, refused: list[str], paths: dict[str, str]) -> None:
    from convbench.compare.rows import compared_rows, run_facts, standing_rows

    common.emit_json(
        "compare", list(compared_rows(comparison)), runs=[run_facts(side) for side in comparison.sides],
        groups=list(standing_rows(comparison)), refused=refused, paths=paths,
    )  # fmt: skip
