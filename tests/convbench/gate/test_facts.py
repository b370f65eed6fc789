"""Exact facts: what is a change, what is news."""

import pytest

from convbench.gate.facts import Cell, changes, facts
from convbench.results import row_values
from tests.convbench.records import make_rows

CELL = Cell(suite="s", case="c", pass_="forward", dtype="float32", device="cpu", implementation="mine.fast")
OTHER = Cell(suite="s", case="d", pass_="forward", dtype="float32", device="cpu", implementation="mine.fast")
FINE = {"status": "ok", "algorithm": "gemm", "error": 1e-7, "params": 9, "macs": 90, "bytes": 100}


@pytest.mark.parametrize(
    ("now", "found"),
    [
        ({}, []),
        ({"algorithm": "winograd"}, ["algorithm"]),
        ({"params": 10}, ["params"]),
        ({"macs": 91, "bytes": 99}, ["macs", "bytes"]),
        ({"error": 1.9e-7}, []),
        ({"error": 2.1e-7}, ["error"]),
        ({"error": 0.0}, []),
        ({"status": "mismatch", "error": 1.0, "algorithm": "other"}, ["status"]),
        ({"status": "unsupported", "algorithm": None}, ["status"]),
    ],
)
def test_every_fact_that_differs_and_no_other(now, found):
    assert [change.fact for change in changes({CELL: FINE}, {CELL: FINE | now})] == found


def test_a_cell_that_is_gone_is_a_change_and_a_new_one_is_not():
    [gone] = changes({CELL: FINE, OTHER: FINE}, {CELL: FINE})
    assert str(gone) == "s/d forward float32 cpu mine.fast: status was ok, now missing"
    assert changes({CELL: FINE}, {CELL: FINE, OTHER: FINE}) == []


def test_what_did_not_work_before_cannot_break():
    broken = {**FINE, "status": "error"}
    assert changes({CELL: broken}, {CELL: FINE}) == changes({CELL: broken}, {}) == []


def test_the_user_may_accept_a_fact():
    found = changes({CELL: FINE}, {CELL: FINE | {"algorithm": "taps", "params": 1}}, accepted=["algorithm"])
    assert [(change.fact, change.accepted) for change in found] == [("algorithm", True), ("params", False)]


def test_facts_of_a_row():
    row = make_rows(limit=1)[0]
    cell, values = facts(row_values(row))
    assert str(cell) == f"default/{row.case} forward float32 cpu {row.implementation}"
    assert (values["macs"], values["status"]) == (row.macs, "ok")
