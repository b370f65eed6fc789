"""`convbench repro` on a record of a run on this machine."""

import json

import pytest

from benchmarks import operators
from convbench.case import Case
from convbench.cli.main import run as convbench
from convbench.results import load, to_json
from convbench.run import write_outputs
from convbench.spec import ConvSpec

SUITE = """[suite]
name = "tiny"
[[case]]
name = "a"
input = [1, 2, 6, 6]
out_channels = 3
kernel = 3
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("repro")
    (folder / "tiny.toml").write_text(SUITE)
    words = ["run", str(folder / "tiny.toml"), "--impl", "torch.unfold", "--device", "cpu", "--max-time", "0.01"]
    passes = ["--pass", "forward", "--pass", "data_gradient"]
    assert convbench([*words, *passes, "--quick", "--threads", "1", "--seed", "7", "--out", str(folder / "out")]) == 0
    return folder / "out"


def test_a_case_is_repeated_as_it_was_recorded(folder, capsys):
    assert convbench(["repro", str(folder), "tiny/a", "--pass", "forward", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    old = [row for row in load(folder).rows if row.pass_ == "forward"]
    assert [row["implementation"] for row in document["rows"]] == [row.implementation for row in old]
    assert [row["error"] for row in document["rows"]] == [row.error for row in old]  # the same data, to the last bit
    assert all(row["median_s"] > 0 for row in document["rows"])
    assert [row["median_s"] for row in document["recorded"]] == [row.median_s for row in old]
    assert not [d for d in document["differences"] if d["name"].startswith(("settings", "versions", "cpu model"))]


def test_what_differs_is_said(folder, tmp_path, capsys):
    record = load(folder)
    record.environment.versions["torch"] = "1.0"
    (tmp_path / "run.json").write_bytes(to_json(record))
    assert convbench(["repro", str(tmp_path / "run.json"), "a", "--pass", "forward", "--impl", "torch.unfold"]) == 0
    assert "differs: versions torch: 1.0, now 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["a"], "2 cases"),
        (["b"], "holds no case b"),
        (["a", "--pass", "forward", "--impl", "torch.absent"], "no row of torch.absent"),
    ],
)
def test_what_is_not_one_case_is_refused(folder, words, complaint, capsys):
    assert convbench(["repro", str(folder), *words]) == 2
    assert complaint in capsys.readouterr().err


def test_a_case_of_a_study_is_repeated(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("convbench.machine.peaks.measure_peaks", lambda *_, **__: [])
    case = Case(ConvSpec.create([1, 2, 6, 6], 3, 3), suite="tiny", name="a")
    record = operators.run("operators", [case], ["torch.aten", "torch.unfold"], 1, 0.01)
    write_outputs(record, tmp_path)
    assert convbench(["repro", str(tmp_path), "a", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(row["implementation"], row["error"]) for row in rows] == [(r.implementation, r.error) for r in record.rows]


def test_a_convolution_that_cannot_be_is_refused_by_file(folder, tmp_path, capsys):
    record = load(folder)
    record.rows[0].groups = 5
    (tmp_path / "run.json").write_bytes(to_json(record))
    for words in (["repro", str(tmp_path), "a"], ["savings", "--record", str(tmp_path)]):
        assert convbench(words) == 2
        assert f"{tmp_path}: groups = 5: must divide" in capsys.readouterr().err


def test_a_record_without_a_seed_is_refused(folder, tmp_path, capsys):
    record = load(folder)
    del record.settings["seed"]
    (tmp_path / "run.json").write_bytes(to_json(record))
    assert convbench(["repro", str(tmp_path), "a", "--pass", "forward"]) == 2
    assert "does not say its seed; give the run.json of a `convbench run`, or repeat the" in capsys.readouterr().err


def test_a_cell_that_fails_now_exits_with_4(folder, monkeypatch):
    from convbench import run
    from convbench.verify import Verification

    monkeypatch.setattr(run.Checker, "after", lambda *_: Verification("mismatch", "wrong"))
    assert convbench(["repro", str(folder), "a", "--pass", "forward"]) == 4
