"""`convbench run --cluster`: the same run on several kinds of nodes, gathered and compared."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import click

from convbench.cli import common
from convbench.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_SOME_CELLS_FAILED, InputError
from convbench.plan import Selection

RUN = (sys.executable, "-m", "convbench.cli.main", "run")
_OURS = ("cluster", "cluster_minutes", "out", "as_json")  # not for the jobs


class Places(click.ParamType):
    """Names of partitions, separated by commas."""

    name = "places"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        places = tuple(str(value).split(","))
        if not all(place.partition(":")[0].strip() for place in places):
            self.fail(f"{value} names no partition; write PARTITION,PARTITION:FEATURE or local", param, ctx)
        return places


def cluster_options(function: Callable) -> Callable:
    """--cluster and --cluster-minutes."""
    where = click.option(
        "--cluster", type=Places(), metavar="PARTITION[:FEATURE],...",
        help="Run on each of these SLURM partitions (`local`: here), one exclusive job each, and compare.",
    )  # fmt: skip
    longest = click.option(
        "--cluster-minutes", type=click.FloatRange(min=0, min_open=True), default=60, show_default=True,
        metavar="MINUTES", help="Longest that one job of --cluster may run.",
    )  # fmt: skip
    return where(longest(function))


def run_on(places: tuple[str, ...], minutes: float, out: Path | None, save_suite: Path | None, as_json: bool) -> int:
    """One job on each place, then the comparison of those that ended well. Exit code 4: a job or a cell failed."""
    from convbench import cluster
    from convbench.cli.compare import show

    cluster.needed()
    if save_suite:
        raise InputError(f"--save-suite {save_suite}: each job would write it; save it first, without --cluster")
    folder = out or Path("reports") / "cluster" / f"{datetime.now(UTC):%Y-%m-%d_%H%M%S}"
    ended = []
    given = arguments()
    jobs = cluster.fan_out(lambda out: [*RUN, f"--out={out}", *given], places, folder, minutes, _tell)
    try:
        with common.interrupts(), closing(jobs):
            for job in jobs:
                ended.append(job)
                _tell(f"convbench: {job.place}: {job.failure}" if job.failure else f"{job.place}: {job.folder}")
    except KeyboardInterrupt:
        _tell(f"interrupted: {len(ended)} of {len(places)} runs ended; what is measured is kept in {folder}")
        return EXIT_INTERRUPTED
    good = [job for job in ended if not job.failure]
    failed = [f"{job.place}: {job.failure}" for job in ended if job.failure]
    code = (
        show([str(job.folder) for job in good], Selection(), folder, "table", as_json, failed, 1) if good else EXIT_OK
    )
    if failed or any(job.cells_failed for job in ended):
        return EXIT_SOME_CELLS_FAILED
    return code if len(good) > 1 else EXIT_OK


def _tell(line: str) -> None:
    common.err().print(common.printable(line))


def arguments() -> list[str]:
    """The options and suites that this run was given, but for what is not the jobs' to know, as a command line."""
    context = click.get_current_context()
    options: list[str] = []
    suites: list[str] = []
    for parameter in context.command.params:
        name = parameter.name or ""
        if name in _OURS or context.get_parameter_source(name) is not click.core.ParameterSource.COMMANDLINE:
            continue
        value, flag = context.params[name], parameter.opts[0]
        values = value if parameter.multiple or parameter.nargs == -1 else [value]
        texts = [",".join(map(str, v)) if isinstance(v, tuple) else str(v) for v in values]
        if isinstance(parameter, click.Option):
            options += [flag] if parameter.is_flag else [f"{flag}={text}" for text in texts]
        else:
            suites += texts
    return [*options, "--", *suites]
