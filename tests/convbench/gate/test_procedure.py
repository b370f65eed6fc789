"""Which pairs are taken, and what they prove, on invented pairs; and how often the procedure is wrong."""

import math
import random
from functools import partial

import pytest

from convbench.gate.procedure import (
    NULL,
    PAIRS,
    SCREEN,
    Quartet,
    Step,
    evidence,
    gave_up,
    log_ratios,
    looks,
    next_step,
    open_cells,
)  # fmt: skip
from convbench.gate.verdicts import Rules, judge
from tests.convbench.gate.invented import CELLS, quartet, run

RULES = Rules(floor=0.10)
FEW, SOME, MOST = SCREEN
FIRST, LAST = (look.quartets for look in looks(len(CELLS), RULES.alpha))


def gate(ratios, rules=RULES, cells=CELLS, **noise):
    pairs = run(partial(next_step, cells, rules), lambda number, step: quartet(number, step, ratios, **noise))
    return pairs, dict(zip(cells, (v for v, _ in judge(evidence(cells, rules, pairs), rules)), strict=True))


def test_a_quiet_gate_is_done_after_the_first_screen():
    pairs, verdicts = gate({})
    assert [p.phase for p in pairs] == ["screen"] * FEW
    assert set(verdicts.values()) == {"SAME"}


def test_what_is_suspicious_is_confirmed_alone_on_new_pairs():
    pairs, verdicts = gate({"b": 1.3})
    assert [p.phase for p in pairs] == ["screen"] * SOME + ["confirm"] * FIRST
    assert all(tuple(p.samples_s["head1"]) == ("b",) for p in pairs if p.phase == "confirm")
    assert verdicts == {"a": "SAME", "b": "SLOWER", "c": "SAME", "d": "SAME"}


def test_faster_is_proved_in_the_same_way():
    assert gate({"c": 0.7})[1]["c"] == "FASTER"


def test_the_test_sees_the_new_pairs_only():
    """Suspicious in the screen by bad luck, innocent since: not accused, whatever the screen said."""
    pairs = run(
        partial(next_step, CELLS, RULES),
        lambda number, step: quartet(number, step, {"a": 3.0} if step.phase == "screen" else {}),
    )
    found = evidence(CELLS, RULES, pairs)[0]
    assert found.ratio.high < 0.05
    assert judge(evidence(CELLS, RULES, pairs), RULES)[0][0] == "SAME"


def test_pairs_enough_for_the_test_to_speak_at_every_look():
    for cells in (1, 4, 100, 1000):
        for look in looks(cells, 0.05):
            assert 2.0 ** -(len(PAIRS) * look.quartets) <= look.share * 0.05 / cells
    assert sum(look.share for look in looks(4, 0.05)) == 1  # of alpha


def test_what_the_first_look_leaves_open_is_looked_at_again():
    """One pair of the first eight goes the other way: too many for eight, not for fourteen."""

    def take(number, step):
        return quartet(number, step, {"a": 1.3, "b": 0.6 if number == SOME else 1.3, "c": 1.0})

    pairs = run(partial(next_step, CELLS, RULES), take)
    assert [p.phase for p in pairs] == ["screen"] * SOME + ["confirm"] * LAST
    assert [tuple(p.samples_s["head1"]) for p in pairs[SOME:]] == [("a", "b")] * FIRST + [("b",)] * (LAST - FIRST)
    assert [v for v, _ in judge(evidence(CELLS, RULES, pairs), RULES)] == ["SLOWER", "SLOWER", "SAME", "SAME"]


def test_a_pair_that_lies_off_costs_a_few_more_of_the_screen():
    def take(number, step):
        made = quartet(number, step, {})
        if number == 0:
            made.samples_s["head1"]["a"][0] *= 1.5
        return made

    pairs = run(partial(next_step, CELLS, RULES), take)
    assert [p.phase for p in pairs] == ["screen"] * MOST
    assert [tuple(p.samples_s["head1"]) for p in pairs[FEW:]] == [("a",)] * (MOST - FEW)
    assert {v for v, _ in judge(evidence(CELLS, RULES, pairs), RULES)} == {"SAME"}


def test_disturbed_pairs_are_dropped_whole_and_taken_again():
    storms = {1, 2}
    pairs = run(
        partial(next_step, CELLS, RULES),
        lambda number, step: quartet(
            number, step, {} if number not in storms else {"a": 9.0}, disturbed=number in storms
        ),
    )
    assert len(pairs) == FEW + len(storms)
    assert open_cells(CELLS, RULES, pairs) == ()


def test_a_gate_gives_up_on_a_machine_that_is_never_quiet():
    pairs, verdicts = gate({"a": 2.0}, disturbed=True)
    assert gave_up(pairs)
    assert len(pairs) < 10
    assert set(verdicts.values()) == {"INCONCLUSIVE"}
    assert "were disturbed, last: a storm" in judge(evidence(CELLS, RULES, pairs), RULES)[0][1]


def test_a_null_arm_that_moves_is_inconclusive():
    assert set(gate({}, null=1.3)[1].values()) == {"INCONCLUSIVE"}


@pytest.mark.parametrize("taken", [0, 1, SOME, SOME + 1, SOME + FIRST - 1])
def test_an_unfinished_gate_claims_nothing_that_is_not_proved(taken):
    pairs, _ = gate({"b": 1.5})
    found = dict(zip(CELLS, judge(evidence(CELLS, RULES, pairs[:taken]), RULES), strict=True))
    assert found["b"] == ("INCONCLUSIVE", "the time was up before this was confirmed")
    assert found["a"][0] == ("SAME" if taken >= FEW else "INCONCLUSIVE")


def test_a_resumed_gate_decides_alike():
    pairs, _ = gate({"a": 1.2, "d": 0.9}, noise=0.03)
    for cut in range(len(pairs)):
        step = next_step(CELLS, RULES, pairs[:cut])
        assert step == Step(pairs[cut].phase, tuple(pairs[cut].samples_s["base1"]))


def test_a_cell_that_a_process_left_out_is_not_judged():
    def take(number, step):
        made = quartet(number, step, {"a": 1.5})
        if step.phase == "confirm" and number % 2:
            del made.samples_s["head1"]["a"]
        return made

    pairs = run(partial(next_step, CELLS, RULES), take)
    assert judge(evidence(CELLS, RULES, pairs), RULES)[0] == ("INCONCLUSIVE", "not timed in every pair")


def one(base, head):
    """A quartet whose first pair has these times of cell a."""
    samples_s = {"base1": {"a": base}, "head1": {"a": head}, "base2": {"a": base}, "head2": {}}
    return Quartet(number=0, phase="screen", samples_s=samples_s)


def test_log_ratios_are_of_pairs_that_have_both():
    assert log_ratios("a", [one([1.0], [2.0])]) == pytest.approx([0.6931], abs=1e-4)
    assert log_ratios("a", [one([1.0], [2.0])], NULL) == [0.0]
    assert log_ratios("b", [one([1.0], [2.0])]) == []


def test_what_comes_and_goes_within_a_quartet_cancels():
    """The machine is four times slower in the turns that only one of the medians holds."""
    base, head = [1.0, 4.0, 4.0, 1.0, 1.0], [1.1, 4.4, 4.4, 1.1, 4.4]
    assert log_ratios("a", [one(base, head)]) == pytest.approx([math.log(1.1)])


def test_error_rates_on_invented_noise():
    """Identical sides are not accused; a slow-down of twice the floor is found. Seeds are fixed: no chance is left."""
    order = random.Random(1)
    accused = found = 0
    for seed in range(60):
        noise = order.choice((0.005, 0.01, 0.02, 0.03))
        accused += "SLOWER" in gate({}, noise=noise, seed=seed)[1].values()
        found += gate({"b": 1.2}, noise=noise, seed=seed)[1]["b"] == "SLOWER"
    assert accused == 0
    assert found >= 57
