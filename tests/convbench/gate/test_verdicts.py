"""When each verdict may be given, and what a gate's verdicts come to."""

import math

import pytest

from convbench.gate.facts import Cell, Change
from convbench.gate.outcome import Outcome, findings
from convbench.gate.statistics import NOTHING, Estimate
from convbench.gate.verdicts import Evidence, Rules, delta, judge, moved

RULES = Rules(floor=0.10)
QUIET = Estimate(0.0, -0.01, 0.01)
CELL = Cell(suite="s", case="c", pass_="forward", dtype="float32", device="cpu", implementation="mine.fast")


def around(change: float, width: float = 0.01) -> Estimate:
    return Estimate(math.log1p(change), math.log1p(change) - width, math.log1p(change) + width)


@pytest.mark.parametrize(
    ("evidence", "verdict", "reason"),
    [
        (Evidence(around(0.0), QUIET), "SAME", ""),
        (Evidence(around(0.09), QUIET), "SAME", ""),
        (Evidence(around(0.3), QUIET, p_slower=0.001), "SLOWER", "+30.0% where +10.0% is allowed"),
        (Evidence(around(0.3), QUIET, p_slower=0.2), "INCONCLUSIVE", "neither proved nor ruled out"),
        (Evidence(around(-0.3), QUIET, p_faster=0.001), "FASTER", "-30.0%"),
        (Evidence(around(0.12), QUIET), "INCONCLUSIVE", "+12.0% [+10.9%, +13.1%]"),
        (Evidence(around(0.0, 0.2), QUIET), "INCONCLUSIVE", "neither proved nor ruled out"),
        (Evidence(around(0.0), around(0.0, 0.2)), "INCONCLUSIVE", "a side against itself moved"),
        (Evidence(around(0.0), around(0.08)), "INCONCLUSIVE", "a side against itself moved"),
        (Evidence(around(0.0), QUIET, problem="the time was up"), "INCONCLUSIVE", "the time was up"),
        (Evidence(NOTHING, NOTHING, problem="too few"), "INCONCLUSIVE", "too few"),
    ],
)
def test_verdict_and_reason(evidence, verdict, reason):
    [(found, why)] = judge([evidence], RULES)
    assert found == verdict
    assert reason in why


def test_a_slow_down_is_proved_even_where_the_null_moved():
    """Its margin has grown with the null; what is beyond that is no noise."""
    assert judge([Evidence(around(1.0), around(0.08), p_slower=1e-4)], RULES)[0][0] == "SLOWER"


def test_holm_is_over_all_cases():
    slow, innocent = Evidence(around(0.3), QUIET, p_slower=0.01), Evidence(around(0.0), QUIET)
    assert [verdict for verdict, _ in judge([slow] + [innocent] * 4, RULES)] == ["SLOWER"] + ["SAME"] * 4
    assert [verdict for verdict, _ in judge([slow] + [innocent] * 5, RULES)] == ["INCONCLUSIVE"] + ["SAME"] * 5


def test_delta_is_the_floor_or_the_noise():
    assert delta(QUIET, RULES) == pytest.approx(math.log(1.1))
    assert delta(Estimate(0.0, -0.15, 0.12), RULES) == 0.15


def test_a_null_that_lies_on_one_side_but_near_has_not_moved():
    assert not moved(Estimate(0.02, 0.01, 0.03), RULES)
    assert moved(Estimate(0.06, 0.01, 0.08), RULES)
    assert moved(Estimate(-0.06, -0.08, -0.01), RULES)


def outcome(*evidence, changes=(), controls=()):
    cells = [
        CELL if number == 0 else Cell(**(as_dict(CELL) | {"case": f"c{number}"})) for number in range(len(evidence))
    ]
    return Outcome(command="ab", base="a", head="b", rules=RULES, changes=list(changes),
                   findings=findings(cells, evidence, RULES, {}, controls))  # fmt: skip


def as_dict(cell):
    return {name: getattr(cell, name) for name in cell.__struct_fields__}


SAME, SLOWER = Evidence(around(0.0), QUIET), Evidence(around(0.3), QUIET, p_slower=1e-6)
OPEN = Evidence(around(0.0), QUIET, problem="the time was up")
CHANGE = Change(cell=CELL, fact="algorithm", base="a", head="b")
ACCEPTED = Change(cell=CELL, fact="algorithm", base="a", head="b", accepted=True)


@pytest.mark.parametrize(
    ("found", "code", "summary"),
    [
        (outcome(SAME, SAME), 0, "pass: 2 SAME of 2 cells"),
        (outcome(SAME, SLOWER, OPEN), 1, "regressed: 1 SLOWER, 1 INCONCLUSIVE, 1 SAME of 3 cells"),
        (outcome(SAME, OPEN), 3, "inconclusive: 1 INCONCLUSIVE, 1 SAME of 2 cells"),
        (outcome(SAME, changes=[CHANGE]), 1, "regressed: 1 SAME of 1 cells; 1 fact changed"),
        (outcome(SAME, changes=[ACCEPTED]), 0, "pass: 1 SAME of 1 cells"),
        (outcome(), 3, "inconclusive: nothing timed of 0 cells"),
        (outcome(SLOWER, SAME, controls=["mine.fast"]), 3, "inconclusive: 2 INCONCLUSIVE of 2 cells"),
        (outcome(SLOWER, SAME, controls=["other.control"]), 1, "regressed: 1 SLOWER, 1 SAME of 2 cells"),
    ],
)
def test_exit_code_and_summary(found, code, summary):
    assert (found.exit_code, found.summary()) == (code, summary)
