"""`convbench report`: render the page of a stored run again; imports neither torch nor numba."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from convbench.cli import common

if TYPE_CHECKING:
    from convbench.results import Record


@click.command(
    epilog=common.examples(
        "convbench report reports/my-machine/2026-01-02_030405",
        "convbench report run.json --out page.html",
        "convbench report run.json --pytest-benchmark bench.json",
    )
)
@click.argument("record", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="File or folder to write it to.")
@click.option(
    "--pytest-benchmark",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the run as pytest-benchmark's JSON instead.",
)
@common.json_option
def command(record: Path, out: Path | None, pytest_benchmark: Path | None, as_json: bool) -> None:
    """Render report.html of a stored run again.

    RECORD is a run.json or the folder of a run. Writes report.html beside run.json (or --out FILE). The page needs no
    network.
    """
    from convbench.records import read_one

    run = read_one(record)
    if pytest_benchmark:
        name, path = "pytest-benchmark", pytest_benchmark
        _write_pytest_benchmark(run, path)
    else:
        from convbench.report import write

        name, path = "report.html", out or (record if record.is_dir() else record.parent)
        path = path / name if path.is_dir() else path
        write(run, path)
    if as_json:
        common.emit_json("report", run.rows, paths={name: str(path)})
    else:
        common.out().print(str(path), soft_wrap=True)


def _write_pytest_benchmark(run: Record, path: Path) -> None:
    import msgspec

    from convbench.journal import write_atomically
    from convbench.pytest_json import to_pytest_benchmark

    write_atomically(path, msgspec.json.format(msgspec.json.encode(to_pytest_benchmark(run)), indent=1))
