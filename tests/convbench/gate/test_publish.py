"""An outcome for other programs: each format is parsed back, and hostile names stay text."""

import json
from xml.etree import ElementTree

import msgspec
import pytest

from convbench.gate.facts import Cell, Change
from convbench.gate.outcome import Outcome, findings
from convbench.gate.publish import to_annotations, to_json, to_junit, to_markdown, worst_first
from convbench.gate.statistics import NOTHING, Estimate
from convbench.gate.verdicts import Evidence, Rules

RULES = Rules(floor=0.10)
QUIET = Estimate(0.0, -0.01, 0.01)
HOSTILE = "<b>|`x`|\n::error::%0A]]>&\x07\ud800*_[a](b)"


def cell(name):
    return Cell(suite="s", case=name, pass_="forward", dtype="float32", device="cpu", implementation="mine.fast")


def outcome(name="odd"):
    cells = [cell("same"), cell("open"), cell(name)]
    evidence = [Evidence(QUIET, QUIET), Evidence(NOTHING, NOTHING, problem="too few"),
                Evidence(Estimate(0.3, 0.29, 0.31), QUIET, p_slower=1e-5)]  # fmt: skip
    changes = [Change(cell=cells[0], fact="algorithm", base="gemm", head="taps"),
               Change(cell=cells[0], fact="error", base=1e-7, head=1e-6, accepted=True)]  # fmt: skip
    return Outcome(command="ab", base="main", head=name, rules=RULES, changes=changes, notes=["a note"],
                   findings=findings(cells, evidence, RULES, {cells[2]: (1e-3, 2e-3)}))  # fmt: skip


def test_the_worst_come_first():
    assert [finding.verdict for finding in worst_first(outcome())] == ["SLOWER", "INCONCLUSIVE", "SAME"]


def test_json_has_the_columns_of_a_record_and_no_infinity():
    document = json.loads(to_json(outcome()), parse_constant=pytest.fail)
    assert (document["schema_version"], document["command"], document["exit_code"]) == (1, "ab", 1)
    assert document["verdict"] == "regressed"
    assert {"suite", "case", "pass", "dtype", "device", "implementation", "verdict"} <= set(document["rows"][0])
    assert document["rows"][1]["ratio_high"] is None
    assert document["rows"][2]["head_s"] == 2e-3
    assert [change["accepted"] for change in document["changes"]] == [False, True]


def test_markdown_says_it_all():
    text = to_markdown(outcome())
    assert text.startswith("## convbench ab: regressed: 1 SLOWER, 1 INCONCLUSIVE, 1 SAME of 3 cells; 1 fact changed")
    assert "algorithm was gemm, now taps" in text
    assert "accepted: " in text
    lines = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line]
    assert ["SLOWER" in line for line in lines] == [False, True, False, False]
    assert "+35.0%" in lines[1]


def test_annotations_name_what_failed_and_warn_of_the_rest():
    title, implementation = "title=convbench ab%3A", "forward float32 cpu mine.fast"
    assert to_annotations(outcome()) == [
        f"::error {title} fact changed::s/same {implementation}: algorithm was gemm, now taps",
        f"::error {title} slower::s/odd {implementation}: +35.0%25 where +10.0%25 is allowed, p = 3e-05",
        f"::warning {title} inconclusive::s/open {implementation}: too few",
    ]


def test_junit_counts_failures_and_skips():
    suite = ElementTree.fromstring(to_junit(outcome())).find("testsuite")
    assert {name: suite.get(name) for name in ("tests", "failures", "skipped")} == {
        "tests": "4", "failures": "2", "skipped": "1",
    }  # fmt: skip
    assert len(suite.findall("testcase")) == 4
    assert [e.get("message")[:6] for e in suite.iter("failure")] == ["SLOWER", "s/same"]
    assert [e.get("message") for e in suite.iter("skipped")] == ["INCONCLUSIVE: too few"]


def test_hostile_names_stay_text():
    found = outcome(HOSTILE)
    suite = ElementTree.fromstring(to_junit(found)).find("testsuite")
    assert len(suite.findall("testcase")) == 4
    assert len(to_annotations(found)) == 3
    assert not [line for line in to_annotations(found) if "\n" in line or "%0A" in line]
    table = [line for line in to_markdown(found).splitlines() if line.startswith("| ")]
    assert all(line.replace("\\|", "").count("|") == 7 for line in table)
    assert "<b>" not in to_markdown(found)
    msgspec.json.decode(to_json(outcome("<b>|`x`|\n\x07")))
