"""From two sides to an outcome: facts compared, pairs journalled, resumed, cut off by the clock."""

import itertools
import random
import sys

import msgspec
import pytest

from convbench.errors import InputError
from convbench.gate import driver
from convbench.gate.driver import begin, go, journal, outcome
from convbench.gate.procedure import ARMS, SCREEN
from convbench.gate.quartets import BALANCED, TURNS, GateError, turns
from convbench.gate.sides import Side
from convbench.gate.verdicts import Rules
from convbench.plan import Selection
from tests.convbench.gate.invented import quartet

LAYERS = ("mobilenet_v1.block8.pw", "mobilenet_v1.block8.dw")
SELECTION = Selection(suites=("quick",), cases=LAYERS, implementations=("mine", "torch.aten"))
FINE = {"status": "ok", "algorithm": "gemm", "error": 1e-7, "params": 9, "macs": 90, "bytes": 100}
RULES = Rules(floor=0.10)


def side(name, kind="environment"):
    implementation = name if kind == "implementation" else ""
    return Side(kind, name, sys.executable if kind == "environment" else name, implementation=implementation)


def rows(implementations, **changes):
    """What `convbench verify --json` says of both layers."""
    return [
        {"suite": "quick", "case": layer, "pass": "forward", "dtype": "float32", "device": "cpu",
         "implementation": name, **FINE, **changes}
        for layer in LAYERS for name in implementations
    ]  # fmt: skip


@pytest.fixture
def verified(monkeypatch):
    """verified(name=rows): what each side's verification will say."""

    def make(**said):
        def facts(sides, *_):
            return {
                side.identity: dict(driver.facts.facts(row) for row in said[side.name.replace(".", "_")])
                for side in sides
            }

        monkeypatch.setattr(driver, "verified", facts)

    return make


def header_of(folder, base, head, **more):
    options = {"rules": RULES, "threads": 2, **more}
    made = begin(base, head, SELECTION, folder, **options)
    journal(folder).start(made)
    return made


def test_facts_that_changed_are_in_the_outcome_and_what_both_compute_is_timed(tmp_path, verified, monkeypatch):
    monkeypatch.setattr(driver, "resolve", lambda identity, sources: side(identity))
    old = rows(["mine.old", "mine.same"])
    new = rows(["mine.same"], algorithm="taps") + rows(["mine.new"])
    verified(old=old, new=new)
    base, head = side("old"), Side("environment", "new", "elsewhere")
    header = header_of(tmp_path, base, head, accepted=["algorithm"])
    assert {timed.implementation for timed in header.timed} == {"mine.same"}
    assert [timed.case.name for timed in header.timed] == list(LAYERS)
    found = outcome(header, [])
    assert {(c.cell.implementation, c.fact, c.accepted) for c in found.changes} == {
        ("mine.old", "status", False), ("mine.same", "algorithm", True),
    }  # fmt: skip
    assert found.notes[0].startswith("new, nothing to compare with: quick/")
    assert found.exit_code == 1


def test_two_implementations_are_compared_layer_by_layer(tmp_path, verified):
    slow, fast = rows(["mine.slow"]), rows(["mine.fast"], algorithm="other")
    fast[1]["status"] = "unsupported"
    verified(mine_slow=slow, mine_fast=fast)
    header = header_of(tmp_path, side("mine.slow", "implementation"), side("mine.fast", "implementation"))
    assert [str(cell) for cell in header.cells] == [
        "quick/mobilenet_v1.block8.pw forward float32 cpu mine.slow -> mine.fast"
    ]
    assert header.changes == []
    asked = []

    def take(number, step, sides, requests, folder):
        asked.append({arm: requests[arm].cells[0].implementation for arm in ARMS})
        return quartet(number, step, {})

    assert go(header, [], journal(tmp_path), 60, take=take)
    slow, fast = "mine.slow", "mine.fast"
    assert asked[0] == {"base1": slow, "base2": slow, "head1": fast, "head2": fast}


def test_nothing_in_common_is_an_error(tmp_path, verified):
    verified(old=rows(["mine.old"]), new=rows(["mine.new"]))
    with pytest.raises(GateError, match="nothing that both old and new compute"):
        begin(side("old"), Side("environment", "new", "x"), SELECTION, tmp_path, rules=RULES, threads=2)


def test_a_slow_down_that_no_clock_would_see_is_refused(tmp_path, verified):
    verified(same=rows(["mine.fast"], device="cuda:0"))
    with pytest.raises(InputError, match="--device cpu"):
        begin(side("same"), side("same"), SELECTION, tmp_path, rules=RULES, threads=2, slowdown=0.25)


@pytest.fixture
def header(tmp_path, verified):
    verified(same=rows(["mine.fast"]))
    return header_of(tmp_path, side("same"), side("same"), slowdown=0.25, seed=5)


def test_a_gate_goes_on_where_it_was_killed(tmp_path, header):
    taken = []

    def take(number, step, sides, requests, folder):
        if len(taken) == 1:
            raise KeyboardInterrupt
        taken.append(number)
        return quartet(number, step, {})

    with pytest.raises(KeyboardInterrupt):
        go(header, [], journal(tmp_path), 60, take=take)
    again, pairs = journal(tmp_path).read()
    assert again == header
    assert [p.number for p in pairs] == [0]
    taken.clear()
    assert go(again, pairs, journal(tmp_path), 60, take=lambda number, step, *_: quartet(number, step, {}))
    assert [p.number for p in journal(tmp_path).read()[1]] == list(range(SCREEN[0]))
    assert outcome(again, pairs).exit_code == 0


def test_only_head_is_slowed_down_and_every_round_has_a_seed(tmp_path, header):
    told = []

    def take(number, step, sides, requests, folder):
        told.append({arm: (requests[arm].slowdown, requests[arm].seed) for arm in ARMS})
        return quartet(number, step, {})

    go(header, [], journal(tmp_path), 60, take=take)
    assert told[1] == {"base1": (0.0, 6), "base2": (0.0, 6), "head1": (0.25, 6), "head2": (0.25, 6)}
    assert "slowed down by 25% on purpose" in outcome(header, []).notes[0]


def test_the_time_limit_leaves_the_rest_inconclusive(tmp_path, header):
    clock = itertools.count(0, 10).__next__  # every look at the clock is ten seconds later
    pairs = []
    assert not go(header, pairs, journal(tmp_path), 25, clock=clock, take=lambda n, step, *_: quartet(n, step, {}))
    assert 0 < len(pairs) < SCREEN[0]
    assert outcome(header, pairs).exit_code == 3


def test_turns_are_balanced():
    order = turns(random.Random(0))
    assert len(order) == TURNS
    for arm in ARMS:
        assert [sum(turn[place] == arm for turn in order) for place in range(len(ARMS))] == [TURNS // len(ARMS)] * 4
    squares = [order[i : i + len(BALANCED)] for i in range(0, TURNS, len(BALANCED))]
    assert all(
        {p for turn in s for p in itertools.pairwise(turn)} == {*itertools.permutations(ARMS, 2)} for s in squares
    )
    assert len(set(map(tuple, squares))) == len(squares)


def test_a_journal_of_something_else_is_refused(tmp_path):
    (tmp_path / driver.JOURNAL).write_bytes(msgspec.json.encode({"record": {}}) + b"\n")
    with pytest.raises(InputError, match=r"gate.jsonl, line 1: damaged"):
        journal(tmp_path).read()
