"""What `ab` and `check` share: their options, and an outcome on the terminal, in files and in CI."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from convbench.cli import common
from convbench.errors import OutputError
from convbench.gate.facts import FACTS

if TYPE_CHECKING:
    from convbench.gate.outcome import Finding, Outcome
    from convbench.gate.verdicts import Rules

_COLUMNS = (("verdict", "left"), ("cell", "left"), "change", "95% interval", "allowed", "base", "head", ("why", "left"))
_SPARE = ("base", "head", "allowed", "why", "95% interval")


def rule_options(function: Callable) -> Callable:
    """--floor, --alpha, --accept."""
    for decorate in (
        click.option("--accept", multiple=True, type=click.Choice(FACTS), help="A fact that may change."),
        click.option("--alpha", type=common.Fraction(), default="5%", show_default=True,
                     help="Chance that a gate accuses anything innocent."),
        click.option("--floor", type=common.Fraction(),
                     help="Slow-down to fail for (default: 5%, on a virtual machine, in a container or CI 10%)."),
    ):  # fmt: skip
        function = decorate(function)
    return function


def rules(floor: float | None, alpha: float) -> Rules:
    """What counts as a change; without a floor, what suits this machine."""
    from convbench.gate.verdicts import DEDICATED_FLOOR, SHARED_FLOOR, Rules

    return Rules(floor=floor or (SHARED_FLOOR if shared_machine() else DEDICATED_FLOOR), alpha=alpha)


def shared_machine() -> bool:
    """Whether others may use this machine's processors at any time."""
    from convbench.machine.environment import detect

    system = detect(with_torch=False).system
    return bool(system.get("virtual_machine") or system.get("container") or os.environ.get("CI"))


def show(outcome: Outcome) -> None:
    """The outcome on the terminal: a table, then what changed and what to know."""
    from convbench.gate.publish import worst_first

    title = f"{outcome.base} against {outcome.head}, floor {outcome.rules.floor:.0%}"
    if outcome.findings:
        common.table(title, _COLUMNS, [_line(finding) for finding in worst_first(outcome)], spare=_SPARE)
    for change in outcome.changes:
        common.out().print(common.printable(f"{'accepted' if change.accepted else 'changed'}: {change}"))
    for note in outcome.notes:
        common.out().print(common.printable(note))
    common.out().print(common.printable(outcome.summary()), style="bold")


def _line(f: Finding) -> list[str]:
    from convbench.gate.publish import interval, percent

    return [
        f.verdict, str(f.cell), percent(f.ratio), interval(f), percent(f.allowed), common.seconds(f.base_s),
        common.seconds(f.head_s), f.reason,
    ]  # fmt: skip


def write(outcome: Outcome, folder: Path) -> dict[str, str]:
    """NAME.json, NAME.md and NAME.xml in a folder; returns the paths by name."""
    from convbench.gate import publish
    from convbench.journal import write_atomically

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: {error.strerror}; choose another --out") from None
    contents = {
        f"{outcome.command}.json": publish.to_json(outcome),
        f"{outcome.command}.md": publish.to_markdown(outcome).encode(),
        f"{outcome.command}.xml": publish.to_junit(outcome),
    }
    for name, data in contents.items():
        write_atomically(folder / name, data)
    return {name: str(folder / name) for name in contents}


def tell_github(outcome: Outcome) -> None:
    """In a GitHub job: the step summary, and annotations (on stderr, which the runner reads as well)."""
    from convbench.gate import publish

    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(summary).open("a", encoding="utf-8") as file:
            file.write(publish.to_markdown(outcome))
    if os.environ.get("GITHUB_ACTIONS") == "true":
        for line in publish.to_annotations(outcome):
            click.echo(line, err=True)


def report(outcome: Outcome, folder: Path | None, as_json: bool) -> int:
    """Everything there is to say, everywhere; returns the exit code."""
    from convbench.gate import publish

    paths = write(outcome, folder) if folder else {}
    paths |= {"baseline": outcome.saved} if outcome.saved else {}
    tell_github(outcome)
    if as_json:
        rows = [finding.row() for finding in outcome.findings]
        common.emit_json(outcome.command, rows, **publish.document(outcome), paths=paths)
    else:
        show(outcome)
        for name, path in paths.items():
            common.out().print(f"{name:12} {path}", soft_wrap=True)
    return outcome.exit_code
