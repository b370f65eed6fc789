"""`convbench repro`: what a record says is enough to repeat a cell, to the last bit of its error."""

import json

import msgspec
import pytest

from convbench.cli.main import run
from convbench.plan import Selection
from convbench.repro import changes, recipe
from convbench.results import load
from tests.convbench.records import make_record

SUITE = """
[suite]
name = "two"
[[case]]
name = "first"
input = [1, 8, 9, 9]
out_channels = 8
kernel = 3
padding = 1
[[case]]
name = "second"
input = [1, 4, 5, 5]
out_channels = 4
kernel = 1
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("repro")
    (folder / "two.toml").write_text(SUITE)
    words = [
        "--impl",
        "torch.aten",
        "--impl",
        "torch.unfold",
        "--seed",
        "5",
        "--max-time",
        "0.01",
        "--precision",
        "20%",
    ]
    assert run(["run", str(folder / "two.toml"), *words, "--pass", "backward", "--out", str(folder / "out")]) == 0
    return folder / "out"


def test_the_same_error_to_the_last_bit_and_nothing_else_differs(folder, capsys):
    assert run(["repro", str(folder), "first", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["schema_version"], document["command"]) == (1, "repro")
    assert [(row["then"]["pass"], row["then"]["implementation"]) for row in document["rows"]] == [
        (p, i) for p in ("data_gradient", "weight_gradient") for i in ("torch.aten", "torch.unfold")
    ]
    for row in document["rows"]:
        assert row["then"]["case"] == "first" and row["now"]["status"] == "ok"
        assert row["then"]["error"] == row["now"]["error"]
        assert row["now"]["samples_s"] != row["then"]["samples_s"]
    # which torch itself sets, in this very process
    assert {change["name"] for change in document["environment"]} <= {"variables TORCHINDUCTOR_CACHE_DIR"}


def test_conditions_are_the_records(folder):
    record = load(folder / "run.json")
    found = recipe(
        record, folder, "two/second", Selection(implementations=("torch.unfold",), passes=("data_gradient",))
    )
    assert found.seed == 5
    assert found.policy.max_time_s == 0.01 and found.policy.precision == 0.2
    assert found.threads == record.settings["threads"]
    assert found.implementations == ["torch.aten", "torch.unfold"]  # the reference comes along
    (case,) = found.cases
    assert (case.spec.c, case.spec.h, case.pass_, case.suite) == (4, 5, "data_gradient", "two")


def test_another_seed_gives_another_error(folder, tmp_path, capsys):
    record = load(folder / "run.json")
    record.settings["seed"] = 6
    (tmp_path / "run.json").write_bytes(msgspec.json.encode(record))
    assert run(["repro", str(tmp_path), "first", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert any(row["then"]["error"] != row["now"]["error"] for row in rows)


def test_what_differs_is_told(folder):
    then, now = load(folder / "run.json"), load(folder / "run.json")
    now.environment.versions["torch"] = "9.9"
    assert changes(then, now) == [("versions torch", then.environment.versions["torch"], "9.9")]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["fist"], "did you mean 'first'?"),
        (["zzz"], "it has first, second"),
        (["first", "--pass", "forward"], "has no such cell"),
    ],
)
def test_a_cell_that_is_not_there(words, expected, folder, capsys):
    assert run(["repro", str(folder), *words]) == 2
    error = capsys.readouterr().err
    assert expected in error and error.count("\n") == 1


def test_a_record_that_does_not_say_how_it_was_measured(folder, tmp_path, capsys):
    assert run(["repro", str(folder / "results.csv"), "first"]) == 2
    assert "give the run.json" in capsys.readouterr().err
    record = make_record()
    record.settings = {}
    (tmp_path / "run.json").write_bytes(msgspec.json.encode(record))
    assert run(["repro", str(tmp_path), record.rows[0].case]) == 2
    assert "threads and policy" in capsys.readouterr().err


def test_an_implementation_that_is_gone_is_a_cell_that_failed(folder, tmp_path, capsys):
    text = (folder / "run.json").read_text().replace("torch.unfold", "gone.kernel")
    (tmp_path / "run.json").write_text(text)
    assert run(["repro", str(tmp_path), "first"]) == 4
    assert "not here" in capsys.readouterr().out
