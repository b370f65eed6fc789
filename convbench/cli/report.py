"""`convbench report`: render the page of a stored run again; imports neither torch nor numba."""

from __future__ import annotations

from pathlib import Path

import click

from convbench.cli import common


@click.command(
    epilog=common.examples(
        "convbench report reports/my-machine/2026-01-02_030405",
        "convbench report run.json --out page.html",
    )
)
@click.argument("record", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="File or folder to write it to.")
@common.json_option
def command(record: Path, out: Path | None, as_json: bool) -> None:
    """Render report.html of a stored run again.

    RECORD is a run.json or the folder of a run. Writes report.html beside run.json (or --out FILE). The page needs no
    network.
    """
    from convbench.report import write
    from convbench.results import load

    run = load(record)
    path = out or (record if record.is_dir() else record.parent)
    path = path / "report.html" if path.is_dir() else path
    write(run, path)
    if as_json:
        common.emit_json("report", run.rows, paths={"report.html": str(path)})
    else:
        common.out().print(str(path), soft_wrap=True)
