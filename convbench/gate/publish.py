"""An outcome for other programs: Markdown (a GitHub step summary), GitHub annotations, JUnit XML, a JSON document.

Names come from suites and plug-ins, so each format escapes what would be markup in it.
"""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import msgspec

from convbench.gate.facts import Change
from convbench.gate.outcome import Finding, Outcome
from convbench.gate.verdicts import Verdict
from convbench.results import SCHEMA_VERSION
from convbench.untrusted import one_line

MARKS: dict[Verdict, str] = {"SLOWER": "🔴", "INCONCLUSIVE": "🟡", "FASTER": "🟢", "SAME": "⚪"}  # also their order
ANNOTATED = 10  # GitHub shows ten of a kind in a step


def worst_first(outcome: Outcome) -> list[Finding]:
    """Findings by verdict, then by ratio."""
    order = list(MARKS)
    return sorted(outcome.findings, key=lambda f: (order.index(f.verdict), -(f.ratio or 0)))


def percent(ratio: float | None) -> str:
    """A ratio as a change: +12.3%."""
    return "" if ratio is None else f"{ratio - 1:+.1%}"


def interval(finding: Finding) -> str:
    return ", ".join(filter(None, (percent(finding.ratio_low), percent(finding.ratio_high))))


def document(outcome: Outcome) -> dict[str, Any]:
    """The JSON document, less its rows: what was compared, and what came out."""
    values = msgspec.to_builtins(outcome)
    del values["findings"], values["command"]
    return {"verdict": outcome.word, "exit_code": outcome.exit_code, **values}


def to_json(outcome: Outcome) -> bytes:
    rows = [finding.row() for finding in outcome.findings]
    whole = {"schema_version": SCHEMA_VERSION, "command": outcome.command, "rows": rows, **document(outcome)}
    return msgspec.json.format(msgspec.json.encode(whole), indent=1)


# Markdown ---------------------------------------------------------------------------------------


def to_markdown(outcome: Outcome) -> str:
    """A heading, what changed, and a table of the cells, the worst first."""
    lines = [f"## {_md(f'convbench {outcome.command}: {outcome.summary()}')}", ""]
    lines += [_md(f"base {outcome.base}, head {outcome.head}; floor {outcome.rules.floor:.0%}"), ""]
    lines += [f"- {'accepted: ' if change.accepted else '🔴 '}{_md(str(change))}" for change in outcome.changes]
    lines += [f"- {_md(note)}" for note in outcome.notes]
    if outcome.saved:
        return "\n".join(lines) + "\n"
    lines += ["", "| | cell | change | 95% interval | allowed | why |", "|---|---|---:|---:|---:|---|"]
    for f in worst_first(outcome):
        cells = (f"{MARKS[f.verdict]} {f.verdict}", str(f.cell), percent(f.ratio), interval(f), percent(f.allowed),
                 f.reason)  # fmt: skip
        lines.append("| " + " | ".join(map(_md, cells)) + " |")
    return "\n".join(lines) + "\n"


def _md(text: str) -> str:
    """Text in which nothing is markup, on one line."""
    return re.sub(r"([\\`*_{}\[\]<>()|#~&!@$])", r"\\\1", one_line(text))


# GitHub annotations -----------------------------------------------------------------------------


def to_annotations(outcome: Outcome) -> list[str]:
    """Workflow commands: an error for a regression, a warning for what is inconclusive or was not compared."""
    changes = [("error", "fact changed", str(change)) for change in outcome.changes if not change.accepted]
    slower = [("error", "slower", f"{f.cell}: {f.reason}") for f in outcome.findings if f.verdict == "SLOWER"]
    unclear = [
        ("warning", "inconclusive", f"{f.cell}: {f.reason}") for f in outcome.findings if f.verdict == "INCONCLUSIVE"
    ]
    saved = [("warning", "no baseline", outcome.summary())] if outcome.saved else []
    shown = [found for kind in (saved, changes, slower, unclear) for found in kind[:ANNOTATED]]
    return [f"::{level} title=convbench {outcome.command}%3A {title}::{_command(text)}" for level, title, text in shown]


def _command(text: str) -> str:
    """The escapes of GitHub's workflow commands; one line."""
    return one_line(text).replace("%", "%25")


# JUnit ------------------------------------------------------------------------------------------


def to_junit(outcome: Outcome) -> bytes:
    """A test case for each cell and each changed fact: failed where it regressed, skipped where it is inconclusive.

    One that is skipped where there was nothing to compare with.
    """
    changes = [change for change in outcome.changes if not change.accepted]
    suite = ElementTree.Element("testsuite", name=f"convbench {outcome.command}")
    for finding in outcome.findings:
        _time_case(suite, finding)
    for change in changes:
        _fact_case(suite, change)
    if outcome.saved:
        case = ElementTree.SubElement(suite, "testcase", classname="convbench", name="baseline")
        ElementTree.SubElement(case, "skipped", message=one_line(outcome.summary()))
    counts = {"tests": "testcase", "failures": "testcase/failure", "skipped": "testcase/skipped", "errors": "error"}
    for name, path in counts.items():
        suite.set(name, str(len(suite.findall(path))))
    root = ElementTree.Element("testsuites")
    root.append(suite)
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)


def _time_case(suite: ElementTree.Element, f: Finding) -> None:
    case = ElementTree.SubElement(suite, "testcase", classname=one_line(f.cell.suite), name=one_line(f"{f.cell} time"))
    if f.head_s:
        case.set("time", f"{f.head_s:.9f}")
    if f.verdict in ("SLOWER", "INCONCLUSIVE"):
        kind = "failure" if f.verdict == "SLOWER" else "skipped"
        ElementTree.SubElement(case, kind, message=one_line(f"{f.verdict}: {f.reason}"))
    ElementTree.SubElement(case, "system-out").text = f"{f.verdict} {percent(f.ratio)} [{interval(f)}]"


def _fact_case(suite: ElementTree.Element, change: Change) -> None:
    name = one_line(f"{change.cell} {change.fact}")
    case = ElementTree.SubElement(suite, "testcase", classname=one_line(change.cell.suite), name=name)
    ElementTree.SubElement(case, "failure", message=one_line(str(change)))
