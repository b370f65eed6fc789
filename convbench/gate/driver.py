"""The A/B gate from two sides to an outcome. Everything it has learned is in its journal: a killed gate goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import monotonic
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from convbench.errors import InputError
from convbench.gate import facts, procedure
from convbench.gate.facts import Cell, Change, Facts
from convbench.gate.outcome import Outcome, findings
from convbench.gate.procedure import ARMS, Arm, Quartet, Step
from convbench.gate.quartets import GateError, take
from convbench.gate.request import Request, Timed
from convbench.gate.sides import Side, resolve, same_kind
from convbench.gate.verdicts import Rules
from convbench.gate.verification import verified
from convbench.journal import Log
from convbench.plan import Selection, select_cases
from convbench.results import SCHEMA_VERSION
from convbench.suites import resolve as resolve_suite
from convbench.suites import to_toml

JOURNAL = "gate.jsonl"
DEFAULT_SUITE = "quick"
VERSUS = " -> "  # between the names of two implementations compared


class Header(Struct, kw_only=True):
    """What a gate decided before its first pair. base and head are the sides' identities."""

    schema_version: int = SCHEMA_VERSION
    base: str
    head: str
    names: tuple[str, str]
    sources: list[str] = []
    rules: Rules
    cells: Annotated[list[Cell], Meta(min_length=1)]
    timed: list[Timed]
    changes: list[Change]
    notes: list[str] = []
    controls: list[str] = []
    threads: int
    seed: int
    slowdown: float = 0.0


class _Log(Log[Header, Quartet]):
    """Quartets that a gate could have taken."""

    def complaint(self, header: Header, entry: Quartet) -> str:
        if entry.samples_s.keys() != set(ARMS):
            return f"expected samples of {', '.join(ARMS)}"
        taken = [times for arm in entry.samples_s.values() for times in arm.values()]
        fine = all(times and min(times) > 0 for times in taken)
        return "" if fine else "a cell without times, or with one that is not above 0"


def journal(folder: Path) -> Log[Header, Quartet]:
    return _Log(folder / JOURNAL, Header, Quartet, "convbench ab")


# Facts ------------------------------------------------------------------------------------------


def begin(
    base: Side, head: Side, selection: Selection, folder: Path, *, rules: Rules, threads: int, seed: int = 0,
    sources: Sequence[str] = (), accepted: Sequence[str] = (), controls: Sequence[str] = (), slowdown: float = 0.0,
) -> Header:  # fmt: skip
    """Verify both sides and compare their facts; what both compute rightly will be timed."""
    same_kind(base, head)
    suites = _write_suites(selection, folder)
    known = verified((base, head), selection, suites, threads, seed, folder)
    before, after = known[base.identity], known[head.identity]
    if base.kind == "implementation":
        before, after = (_renamed(found, f"{base.name}{VERSUS}{head.name}") for found in (before, after))
        after = {cell: {**values, "algorithm": before[cell]["algorithm"]} for cell, values in after.items()
                 if cell in before}  # fmt: skip
        before = {cell: values for cell, values in before.items() if cell in after}
    cells = [cell for cell, values in before.items() if _fine(values) and _fine(after.get(cell, {}))]
    if not cells:
        raise GateError(f"nothing that both {base.name} and {head.name} compute; see `convbench list`")
    if slowdown and any(cell.device != "cpu" for cell in cells):
        raise InputError("--inject: waits on the CPU, where a GPU's clock does not see it; add --device cpu")
    return Header(
        base=base.identity, head=head.identity, names=(base.name, head.name), sources=list(sources), rules=rules,
        cells=cells, timed=_timed(cells, selection), changes=facts.changes(before, after, accepted),
        notes=_notes(before, after, slowdown), controls=list(controls), threads=threads, seed=seed, slowdown=slowdown,
    )  # fmt: skip


def _fine(values: Any) -> bool:
    return values.get("status") == "ok"


def _notes(before: Facts, after: Facts, slowdown: float) -> list[str]:
    """What is no change and should be known."""
    new = [str(cell) for cell in after if cell not in before and _fine(after[cell])]
    notes = [f"new, nothing to compare with: {', '.join(new)}"] if new else []
    broken = [str(cell) for cell, values in before.items() if values["status"] not in ("ok", "unsupported")]
    notes += [f"failed in base already: {', '.join(broken)}"] if broken else []
    return notes + ([f"every call of head was slowed down by {slowdown:.0%} on purpose"] if slowdown else [])


def _write_suites(selection: Selection, folder: Path) -> list[Path]:
    """The layers chosen, as suite files that both sides read: their own suites may differ."""
    chosen = {(case.suite, case.name) for case in _cases(selection)}
    journal(folder).claim()
    paths = []
    for number, suite in enumerate(dict.fromkeys(map(resolve_suite, selection.suites or (DEFAULT_SUITE,)))):
        layers = tuple(layer for layer in suite.layers if (suite.name, layer.name) in chosen)
        paths.append(folder / f"suite{number}.toml")
        paths[-1].write_text(to_toml(replace(suite, layers=layers, others=(), network=False)))
    return paths


def _cases(selection: Selection) -> list[Any]:
    return select_cases(selection, DEFAULT_SUITE, "forward", ["cpu"])


def _renamed(found: Facts, implementation: str) -> dict[Cell, Any]:
    """Cells of an implementation under the name of the comparison, those it does not support left out."""
    return {
        msgspec.structs.replace(cell, implementation=implementation): values
        for cell, values in found.items() if values["status"] != "unsupported"
    }  # fmt: skip


def _timed(cells: Sequence[Cell], selection: Selection) -> list[Timed]:
    layers = {(case.suite, case.name): case for case in _cases(selection)}
    return [
        Timed(
            str(cell),
            replace(layers[cell.suite, cell.case], pass_=cell.pass_, dtype=cell.dtype, device=cell.device),
            cell.implementation,
        )
        for cell in cells
    ]  # fmt: skip


# Quartets ---------------------------------------------------------------------------------------


def go(
    header: Header, taken: list[Quartet], log: Log[Header, Quartet], deadline_s: float,
    on_quartet: Callable[[Quartet, float], None] = lambda quartet, seconds: None,
    clock: Callable[[], float] = monotonic, take: Callable[..., Quartet] = take,
) -> bool:  # fmt: skip
    """Take quartets until the gate is decided; False where the time is up before, but at least one.

    Each is journalled as it is done.
    """
    sides = [resolve(identity, header.sources) for identity in (header.base, header.head)]
    labels = [str(cell) for cell in header.cells]
    begun, longest = clock(), 0.0
    while step := procedure.next_step(labels, header.rules, taken):
        started = clock()
        if longest and started - begun + longest > deadline_s:
            return False
        is_head = {arm: arm.startswith("head") for arm in ARMS}
        requests = {arm: _request(header, step, sides[is_head[arm]], is_head[arm], len(taken)) for arm in ARMS}
        by_arm = {arm: sides[is_head[arm]] for arm in ARMS}
        taken.append(take(len(taken), step, by_arm, requests, log.path.parent))
        log.append(taken[-1])
        longest = max(longest, clock() - started)
        on_quartet(taken[-1], clock() - started)
    return True


def _request(header: Header, step: Step, side: Side, is_head: bool, number: int) -> Request:
    wanted = set(step.cells)
    cells = [
        msgspec.structs.replace(timed, implementation=side.implementation or timed.implementation)
        for timed in header.timed if timed.label in wanted
    ]  # fmt: skip
    slowdown = header.slowdown if is_head else 0.0
    return Request(cells=cells, threads=header.threads, seed=header.seed + number, slowdown=slowdown)


def outcome(header: Header, taken: Sequence[Quartet]) -> Outcome:
    """What the quartets taken so far prove."""
    labels = [str(cell) for cell in header.cells]
    evidence = procedure.evidence(labels, header.rules, taken)
    seconds = {cell: times for cell in header.cells if (times := _typical(str(cell), taken))}
    dropped = [quartet for quartet in taken if quartet.disturbed]
    notes = list(header.notes)
    if dropped:
        notes.append(f"{len(dropped)} of {len(taken)} rounds were dropped, e.g.: {dropped[0].disturbed[0]}")
    return Outcome(
        command="ab", base=header.names[0], head=header.names[1], rules=header.rules,
        findings=findings(header.cells, evidence, header.rules, seconds, header.controls),
        changes=header.changes, notes=notes,
    )  # fmt: skip


def _typical(label: str, taken: Sequence[Quartet]) -> tuple[float, float] | None:
    """Seconds of base and of head."""

    def seconds(arms: Sequence[Arm]) -> list[float]:
        return [median(times) for q in taken for arm in arms if (times := q.samples_s[arm].get(label))]

    base, head = seconds(("base1", "base2")), seconds(("head1", "head2"))
    return (median(base), median(head)) if base and head else None
