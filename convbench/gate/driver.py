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
from convbench.gate.pairs import GateError, take
from convbench.gate.procedure import ARMS, Pair, Step
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


class _Log(Log[Header, Pair]):
    """Pairs that a gate could have taken."""

    def complaint(self, header: Header, entry: Pair) -> str:
        if entry.samples_s.keys() != set(ARMS):
            return f"expected samples of {', '.join(ARMS)}"
        taken = [times for arm in entry.samples_s.values() for times in arm.values()]
        fine = all(times and min(times) > 0 for times in taken)
        return "" if fine else "a cell without times, or with one that is not above 0"


def journal(folder: Path) -> Log[Header, Pair]:
    return _Log(folder / JOURNAL, Header, Pair, "convbench ab")


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


# Pairs ------------------------------------------------------------------------------------------


def go(
    header: Header, pairs: list[Pair], log: Log[Header, Pair], deadline_s: float,
    on_pair: Callable[[Pair, float], None] = lambda pair, seconds: None, clock: Callable[[], float] = monotonic,
    take: Callable[..., Pair] = take,
) -> bool:  # fmt: skip
    """Take pairs until the gate is decided; False where the time is up before, but at least one.

    Each is journalled as it is done.
    """
    sides = [resolve(identity, header.sources) for identity in (header.base, header.head)]
    labels = [str(cell) for cell in header.cells]
    begun, longest = clock(), 0.0
    while step := procedure.next_step(labels, header.rules, pairs):
        started = clock()
        if longest and started - begun + longest > deadline_s:
            return False
        requests = {arm: _request(header, step, sides[arm == "head"], arm == "head", len(pairs)) for arm in ARMS}
        by_arm = {arm: sides[arm == "head"] for arm in ARMS}
        pairs.append(take(len(pairs), step, by_arm, requests, log.path.parent))
        log.append(pairs[-1])
        longest = max(longest, clock() - started)
        on_pair(pairs[-1], clock() - started)
    return True


def _request(header: Header, step: Step, side: Side, is_head: bool, number: int) -> Request:
    wanted = set(step.cells)
    cells = [
        msgspec.structs.replace(timed, implementation=side.implementation or timed.implementation)
        for timed in header.timed if timed.label in wanted
    ]  # fmt: skip
    slowdown = header.slowdown if is_head else 0.0
    return Request(cells=cells, threads=header.threads, seed=header.seed + number, slowdown=slowdown)


def outcome(header: Header, pairs: Sequence[Pair]) -> Outcome:
    """What the pairs taken so far prove."""
    labels = [str(cell) for cell in header.cells]
    evidence = procedure.evidence(labels, header.rules, pairs)
    seconds = {cell: times for cell in header.cells if (times := _typical(str(cell), pairs))}
    dropped = [pair for pair in pairs if pair.disturbed]
    notes = list(header.notes)
    if dropped:
        notes.append(f"{len(dropped)} of {len(pairs)} pairs were dropped, e.g.: {dropped[0].disturbed[0]}")
    return Outcome(
        command="ab", base=header.names[0], head=header.names[1], rules=header.rules,
        findings=findings(header.cells, evidence, header.rules, seconds, header.controls),
        changes=header.changes, notes=notes,
    )  # fmt: skip


def _typical(label: str, pairs: Sequence[Pair]) -> tuple[float, float] | None:
    found = [[median(p.samples_s[arm][label]) for p in pairs if label in p.samples_s[arm]] for arm in ("base", "head")]  # type: ignore[index]
    return (median(found[0]), median(found[1])) if all(found) else None
