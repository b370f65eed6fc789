"""`convbench ab`: is HEAD slower than BASE on this machine?"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from convbench.cli import common, gate
from convbench.errors import EXIT_INTERRUPTED, InputError
from convbench.plan import Selection

if TYPE_CHECKING:
    from convbench.gate.driver import Header
    from convbench.gate.procedure import Quartet
    from convbench.journal import Log


@click.command(
    epilog=common.examples(
        "convbench ab main HEAD --impl numba.auto",
        "convbench ab v1.0 . my_layers.toml --floor 5%",
        "convbench ab torch.aten numba.auto",
        "convbench ab old-venv new-venv --impl torch.aten",
        "convbench ab HEAD HEAD --inject 25%",
        "convbench ab --resume DIR",
    )
)
@click.argument("base", required=False)
@click.argument("head", required=False)
@common.selection_options
@gate.rule_options
@click.option("--control", multiple=True, metavar="NAME", help="Implementation that HEAD cannot have changed.")
@click.option("--source", multiple=True, metavar="DIR", help="Folder of the repository that holds packages.")
@click.option(
    "--inject", type=common.Fraction(), metavar="SHARE", help="Slow HEAD down by this share: a canary, which must fail."
)
@click.option(
    "--time-limit",
    type=click.FloatRange(0, min_open=True),
    default=3600,
    show_default=True,
    metavar="SECONDS",
    help="Stop taking rounds; what is open then is inconclusive.",
)
@click.option("--threads", type=int, metavar="N", help="Threads for every implementation (default: all CPUs).")
@click.option("--seed", type=common.Seed(), default=0, show_default=True, help="Seed of the data and of the order.")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Folder for the results.")
@click.option("--resume", type=click.Path(path_type=Path), metavar="DIR",
              help="Go on with an interrupted gate; runs the code of the two sides that it names.")  # fmt: skip
@common.json_option
def command(
    base: str | None, head: str | None, selection: Selection, floor: float | None, alpha: float,
    accept: tuple[str, ...], control: tuple[str, ...], source: tuple[str, ...], inject: float | None,
    time_limit: float, threads: int | None, seed: int, out: Path | None, resume: Path | None, as_json: bool,
) -> int:  # fmt: skip
    """Compare BASE and HEAD on this machine: the gate for CI.

    They are two git revisions (. is the working tree), two virtual environments or Python executables, or two
    implementations, and their code is run. Layers are those of SUITE (default: quick).

    Rounds of fresh processes, two of each side, take turns; a slow-down counts when an exact test proves it on new
    data. Exits with 0 when nothing is slower, 1 when something is or an exact fact changed, 3 when it is inconclusive.
    """
    if resume:
        common.refuse_options(resume, "time_limit")
        log = _journal(resume)
        log.lock()
        header, taken = log.read()
        common.err().print(f"{resume}: {len(taken)} rounds are taken, going on", style="dim")
    else:
        if base is None or head is None:
            raise InputError("give BASE and HEAD, for example: convbench ab main HEAD; or --resume DIR")
        log, taken = _journal(out or Path("reports") / "ab" / f"{datetime.now(UTC):%Y-%m-%d_%H%M%S}"), []
        options: dict[str, Any] = {"rules": gate.rules(floor, alpha), "seed": seed, "sources": source,
                                   "accepted": accept, "controls": control, "slowdown": inject or 0.0}  # fmt: skip
        header = _begin(base, head, selection, log, threads, options)
    return _go(header, taken, log, time_limit, as_json)


def _journal(folder: Path) -> Log[Header, Quartet]:
    from convbench.gate.driver import journal

    return journal(folder)


def _begin(
    base: str, head: str, selection: Selection, log: Log[Header, Quartet], threads: int | None, options: dict[str, Any]
) -> Header:
    from convbench.gate.driver import begin
    from convbench.gate.sides import resolve
    from convbench.process import checked_threads

    threads = checked_threads(threads)
    before, after = resolve(base, options["sources"]), resolve(head, options["sources"])
    common.err().print(f"Verifying {before.name} and {after.name} ...", style="dim")
    with common.interrupts():  # a termination ends the process that verifies, too
        header = begin(before, after, selection, log.path.parent, threads=threads, **options)
    log.start(header)
    log.lock()
    return header


def _go(header: Header, taken: list[Quartet], log: Log[Header, Quartet], time_limit: float, as_json: bool) -> int:
    from convbench.gate.driver import go, outcome

    folder = log.path.parent
    try:
        with common.interrupts():
            finished = go(header, taken, log, time_limit, _tell)
    except KeyboardInterrupt:
        common.err().print(f"interrupted: {len(taken)} rounds are kept; go on with `convbench ab --resume {folder}`")
        return EXIT_INTERRUPTED
    if not finished:
        common.err().print(f"the time is up; go on with `convbench ab --resume {folder}`")
    return gate.report(outcome(header, taken), folder, as_json)


def _tell(quartet: Quartet, seconds: float) -> None:
    dropped = f", dropped: {quartet.disturbed[0]}" if quartet.disturbed else ""
    cells = len(quartet.samples_s["base1"])
    common.err().print(
        f"round {quartet.number + 1}, {quartet.phase}: {cells} cell{'s' * (cells > 1)} in {seconds:.1f} s{dropped}",
        style="dim",
    )
