"""The evidence in two stored runs: the change of each cell's ratio to the reference, which moves far less than seconds.

A record is one process, and the interval in it is that of its samples alone: what another process would have given is
added from experience. For a firm answer on one machine, `ab` runs many processes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection
from difflib import get_close_matches
from pathlib import Path
from statistics import geometric_mean

from convbench.errors import InputError
from convbench.gate import facts
from convbench.gate.facts import Cell
from convbench.gate.outcome import Outcome, findings
from convbench.gate.statistics import NOTHING, Estimate
from convbench.gate.verdicts import Evidence, Rules, delta
from convbench.records import find, read_one
from convbench.results import Record, RecordedRow, row_values

# Standard deviation of a log speed-up between runs of the same code on the same machine, beyond what its interval says.
PROCESS_SD = 0.02
TWO_SIDED = 1.96  # standard deviations from the middle to the end of a 95% interval

Rows = dict[Cell, RecordedRow]


def compare(base: Record, head: Record, rules: Rules, accepted: Collection[str] = ()) -> Outcome:
    """Gate head against base, cell by cell."""
    before, after = _rows(base), _rows(head)
    cells = [
        cell for cell, row in before.items()
        if row.median_s and cell in after and after[cell].median_s and row.implementation != row.reference
    ]  # fmt: skip
    evidence = [_evidence(before[cell], after[cell], rules) for cell in cells]
    seconds = {cell: (before[cell].median_s or 0.0, after[cell].median_s or 0.0) for cell in cells}
    return Outcome(
        command="check", base=base.run_id, head=head.run_id, rules=rules,
        findings=findings(cells, evidence, rules, seconds), changes=facts.changes(_facts(base), _facts(head), accepted),
        notes=_notes(base, head, before, after),
    )  # fmt: skip


def refuse_other_machine(base: Record, head: Record) -> None:
    """Raises InputError where the two runs were not made under the same conditions."""
    for was, now in zip(_conditions(base), _conditions(head), strict=True):
        if was != now:
            raise InputError(
                f"the baseline is of {was}, the record of {now}: give a baseline of this machine, or --across-machines "
                "to compare the ratios to the reference all the same"
            )


def refuse_as_baseline(head: Record, path: Path) -> None:
    """Raises InputError for a record that later runs could not be held against."""
    if not head.complete:
        raise InputError(f"{path}: not complete, so no baseline; finish it with `convbench run --resume` first")
    if not _comparable(head):
        raise InputError(
            f"{path}: has no ratio to a reference, so is no baseline; see its status_detail, or give --impl"
        )


def refuse_mistyped(baseline: Path, head: Record, record: Path) -> None:
    """Raises InputError where there is no baseline, but beside it one of a similar name that head can be held against.

    A gate whose baseline is mistyped passes for ever. record: the path of head.
    """
    folder = baseline.absolute().parent
    if not folder.is_dir():
        raise InputError(f"{baseline}: there is no folder {folder}; correct the name, or make it for a first baseline")
    for name in get_close_matches(baseline.name, os.listdir(folder)):
        if _is_baseline_of(head, folder / name) and not _same(folder / name, record):
            raise InputError(
                f"{baseline}: is not there, but {name} is, of the same machine and layers; correct the name, "
                "or add --save-baseline to keep one under both"
            )


def _is_baseline_of(head: Record, path: Path) -> bool:
    try:
        base = read_one(path)
    except InputError:
        return False
    return _conditions(base) == _conditions(head) and bool(_comparable(base) & _comparable(head))


def _same(a: Path, b: Path) -> bool:
    """Whether both are one record, by whatever path."""
    return bool({path.resolve() for path in find(a)} & {path.resolve() for path in find(b)})


def _comparable(record: Record) -> set[Cell]:
    """What has a ratio to the reference."""
    return {
        cell for cell, row in _rows(record).items() if row.speedup_vs_reference and row.implementation != row.reference
    }  # fmt: skip


def _conditions(record: Record) -> tuple[str, str]:
    return record.machine, f"{record.settings.get('threads', 'unknown')} threads"


def _rows(record: Record) -> Rows:
    return {facts.facts(row_values(row))[0]: row for row in record.rows}


def _facts(record: Record) -> facts.Facts:
    return dict(facts.facts(row_values(row)) for row in record.rows)


def _evidence(base: RecordedRow, head: RecordedRow, rules: Rules) -> Evidence:
    from scipy.stats import norm

    if base.reference != head.reference:
        return _unknown(f"ratio to {base.reference or 'nothing'} before, to {head.reference or 'nothing'} now")
    if not base.speedup_vs_reference or not head.speedup_vs_reference:
        return _unknown("no ratio to a reference in the run")
    log_ratio = math.log(base.speedup_vs_reference / head.speedup_vs_reference)
    error = math.hypot(_standard_error(base), _standard_error(head))
    if not math.isfinite(error):
        return _unknown("too few samples for an interval")
    width = TWO_SIDED * error
    null = Estimate(0.0, -width, width)  # nobody ran the base twice: what its intervals promise
    margin = delta(null, rules)
    return Evidence(
        Estimate(log_ratio, log_ratio - width, log_ratio + width), null,
        p_slower=float(norm.sf((log_ratio - margin) / error)), p_faster=float(norm.sf((-log_ratio - margin) / error)),
    )  # fmt: skip


def _unknown(problem: str) -> Evidence:
    return Evidence(NOTHING, NOTHING, problem=problem)


def _standard_error(row: RecordedRow) -> float:
    """Of a log speed-up, from its interval; infinite where there is none."""
    if not row.speedup_ci_low or not row.speedup_ci_high:
        return math.inf
    own = math.log(row.speedup_ci_high / row.speedup_ci_low) / (2 * TWO_SIDED)
    return math.hypot(own, PROCESS_SD)


def _notes(base: Record, head: Record, before: Rows, after: Rows) -> list[str]:
    notes = [f"the {name} is not complete" for name, r in (("baseline", base), ("record", head)) if not r.complete]
    was, now = base.environment.versions, head.environment.versions
    changed = [f"{name} {was.get(name, 'none')} -> {now.get(name, 'none')}"
               for name in sorted(was.keys() | now.keys()) if was.get(name) != now.get(name)]  # fmt: skip
    notes += [f"versions differ: {', '.join(changed)}"] if changed else []
    notes += [f"machines differ: {base.machine} -> {head.machine}"] if base.machine != head.machine else []
    ratios = [
        after[cell].median_s / row.median_s  # type: ignore[operator]
        for cell, row in before.items()
        if row.median_s and row.implementation == row.reference and cell in after and after[cell].median_s
    ]
    if ratios:
        notes.append(f"the reference itself takes {geometric_mean(ratios) - 1:+.1%} (geometric mean), not judged")
    new = sorted(str(cell) for cell in after.keys() - before.keys())
    return notes + ([f"new, nothing to compare with: {', '.join(new)}"] if new else [])
