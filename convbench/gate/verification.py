"""What each side's own `convbench verify` says of it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from convbench.errors import EXIT_CHECK_FAILED, EXIT_OK
from convbench.gate import facts
from convbench.gate.facts import Facts
from convbench.gate.quartets import GateError, last_line
from convbench.gate.sides import Side
from convbench.plan import Selection
from convbench.untrusted import DECODE_ERRORS


def verified(
    sides: Sequence[Side], selection: Selection, suites: Sequence[Path], threads: int, seed: int, folder: Path
) -> dict[str, Facts]:
    """A side's identity -> its facts. All verify at once, as nothing is timed. Raises GateError where one cannot."""
    by_identity = {side.identity: side for side in sides}
    options = {"suite": suites, "device": selection.devices, "dtype": selection.dtypes,
               "pass": selection.expanded_passes("forward"), "threads": [threads], "seed": [seed]}  # fmt: skip
    wanted = {
        identity: (side.implementation,) if side.implementation else selection.implementations
        for identity, side in by_identity.items()
    }
    with ExitStack() as stack:
        running = {
            identity: stack.enter_context(
                _verifying(side, {**options, "impl": wanted[identity]}, folder / f"verify{n}")
            )
            for n, (identity, side) in enumerate(by_identity.items())
        }
        return {identity: _facts(by_identity[identity], *running[identity], wanted[identity]) for identity in running}


@contextmanager
def _verifying(
    side: Side, options: dict[str, Sequence], path: Path
) -> Iterator[tuple[subprocess.Popen[bytes], Path, Path]]:
    """The process, and the files with its document and its messages. It does not outlive the context."""
    words = [f"--{name}={value}" for name, values in options.items() for value in values]
    document, log = path.with_suffix(".json"), path.with_suffix(".log")
    with document.open("wb") as said, log.open("wb") as messages:
        process = subprocess.Popen(
            [side.python, "-P", "-m", "convbench.cli.main", "verify", "--json", *words],
            stdout=said, stderr=messages, stdin=subprocess.DEVNULL, env=side.environment(),
        )  # fmt: skip
    try:
        yield process, document, log
    finally:
        process.kill()
        process.wait()


class _Document(Struct):
    rows: list[dict[str, Any]]


def _facts(side: Side, process: subprocess.Popen[bytes], document: Path, log: Path, wanted: Sequence[str]) -> Facts:
    code = process.wait()
    if code not in (EXIT_OK, EXIT_CHECK_FAILED):
        raise GateError(f"{side.name}: convbench verify ended with {code}: {last_line(log)}")
    try:
        rows = msgspec.json.decode(document.read_bytes(), type=_Document).rows
        return dict(facts.facts(row) for row in rows if _asked_for(row["implementation"], wanted))
    except (*DECODE_ERRORS, KeyError, TypeError, AttributeError):
        raise GateError(f"{side.name}: convbench verify printed no document: {last_line(log)}; see {log}") from None


def _asked_for(implementation: str, wanted: Sequence[str]) -> bool:
    return not wanted or implementation in wanted or implementation.split(".")[0] in wanted
