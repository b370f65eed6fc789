"""`convbench compare` of profiles: the step and each layer, before and after; imports neither torch nor numba."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from convbench.cli import common
from convbench.errors import EXIT_INCONCLUSIVE, EXIT_OK, InputError
from convbench.plan import Selection

if TYPE_CHECKING:
    from convbench.profile.compare import Against


def show(arguments: Sequence[str], selection: Selection, out: Path | None, format_: str, as_json: bool) -> int:
    """Compare, print and write. Returns the exit code."""
    from convbench.profile import compared
    from convbench.profile.compare import compare

    if selection != Selection():
        raise InputError("profiles are compared whole; leave out --case, --pass, --impl and the like")
    found = compare(arguments)
    paths = _write(found, out) if out else {}
    if as_json:
        common.emit_json("compare", list(compared.rows(found)), runs=compared.runs(found),
                         notices=compared.notices(found), paths=paths)  # fmt: skip
    elif format_ == "csv":
        click.echo(_csv(found), nl=False)
    elif format_ == "markdown":
        click.echo(compared.markdown(found), nl=False)
    else:
        for table in compared.tables(found):
            common.table(table.title, table.columns, table.lines, table.note, ("how", "shape", "alone", "interval"))
        for line in compared.notices(found):
            common.out().print(common.printable(line))
    for path in paths.values():
        common.err().print(path)
    return EXIT_OK if any(against.pairs for against in found) else EXIT_INCONCLUSIVE


def _csv(found: Sequence[Against]) -> str:
    from convbench.profile import compared
    from convbench.results import csv_text

    return csv_text(compared.COLUMNS, (row.values() for row in compared.rows(found)))


def _write(found: Sequence[Against], folder: Path) -> dict[str, str]:
    """Write all files; the page last, as it needs most to be installed. Raises OutputError, InputError."""
    from convbench.cli.compare import CSV, MARKDOWN, PAGE
    from convbench.journal import make_folder, write_atomically
    from convbench.profile.compared import markdown
    from convbench.profile.page import compared_page

    make_folder(folder)
    texts = {CSV: lambda: _csv(found), MARKDOWN: lambda: markdown(found), PAGE: lambda: compared_page(found)}
    for name, text in texts.items():
        write_atomically(folder / name, text().encode("utf-8", "replace"))
    return {name: str(folder / name) for name in texts}
