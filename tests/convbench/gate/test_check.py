"""convbench check: records against a baseline, on ratios to the reference; exit codes, files, CI output."""

import json
import subprocess
import sys
from xml.etree import ElementTree

import msgspec
import pytest

from convbench.cli.main import run as convbench
from convbench.results import load, to_json
from tests.convbench.records import REFERENCE, fail, make_record, make_rows


@pytest.fixture(autouse=True)
def no_ci(monkeypatch):
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "CI"):
        monkeypatch.delenv(name, raising=False)


def rows(slower=(), factor=1.0):
    """Rows with intervals of 1%; those of the implementations named take ``factor`` times as long."""
    made = [row for row in make_rows(limit=24) if row.implementation != "numba.phases"]
    for row in made:
        if row.implementation in slower:
            row.median_s *= factor
            row.speedup_vs_reference /= factor
        row.speedup_ci_low, row.speedup_ci_high = row.speedup_vs_reference * 0.99, row.speedup_vs_reference * 1.01
    return made


@pytest.fixture
def check(tmp_path, capsys):
    """check(base, head, *options) -> exit code, JSON document."""

    def run(base, head, *options):
        for name, record in (("base", base), ("head", head)):
            (tmp_path / f"{name}.json").write_bytes(to_json(record))
        words = ["check", str(tmp_path / "head.json"), "--baseline", str(tmp_path / "base.json"), "--floor", "10%"]
        code = convbench([*words, "--json", *options])
        return code, json.loads(capsys.readouterr().out)

    return run


def verdicts(document, implementation):
    return {row["verdict"] for row in document["rows"] if row["implementation"] == implementation}


def test_the_same_record_passes(check):
    code, document = check(make_record(rows()), make_record(rows()))
    assert (code, document["verdict"]) == (0, "pass")
    assert {row["verdict"] for row in document["rows"]} == {"SAME"}
    assert REFERENCE not in {row["implementation"] for row in document["rows"]}  # it is the unit


@pytest.mark.parametrize(("factor", "verdict", "code"), [(1.5, "SLOWER", 1), (0.6, "FASTER", 0), (1.04, "SAME", 0)])
def test_a_change_of_one_implementation_is_found(check, factor, verdict, code):
    found, document = check(make_record(rows()), make_record(rows(["torch.compile"], factor)))
    assert (found, verdicts(document, "torch.compile")) == (code, {verdict})
    assert verdicts(document, "torch.unfold") == {"SAME"}


def test_a_machine_that_is_slower_as_a_whole_is_no_regression(check):
    slow = rows()
    for row in slow:
        row.median_s *= 1.26
    code, document = check(make_record(rows()), make_record(slow))
    assert code == 0
    assert any("the reference itself takes +26.0%" in note for note in document["notes"])


def test_between_proved_and_ruled_out_is_inconclusive(check):
    code, document = check(make_record(rows()), make_record(rows(["torch.compile"], 1.13)))
    assert (code, verdicts(document, "torch.compile")) == (3, {"INCONCLUSIVE"})


def test_a_cell_that_no_longer_works_fails_though_it_has_no_time(check):
    broken = rows()
    fail(broken[3], "mismatch", "wrong")
    code, document = check(make_record(rows()), make_record(broken))
    assert code == 1
    assert [(change["fact"], change["base"], change["head"]) for change in document["changes"]] == [
        ("status", "ok", "mismatch")
    ]
    assert check(make_record(rows()), make_record(broken), "--accept", "status")[0] == 0


def test_another_machine_or_thread_count_is_refused_unless_asked_for(check, tmp_path, capsys):
    other = make_record(rows(), machine="other-8c")
    with pytest.raises(json.JSONDecodeError):
        check(make_record(rows()), other)
    words = ["check", str(tmp_path / "head.json"), "--baseline", str(tmp_path / "base.json")]
    assert convbench(words) == 2
    message = capsys.readouterr().err
    assert "of synthetic-2c, the record of other-8c" in message
    assert "--across-machines" in message
    assert check(make_record(rows()), other, "--across-machines")[0] == 0
    (tmp_path / "head.json").write_bytes(to_json(make_record(rows(), settings={"threads": 1})))
    assert convbench(words) == 2
    assert "of 2 threads, the record of 1 threads" in capsys.readouterr().err


@pytest.fixture
def first(tmp_path):
    """first(name, *options): the exit code of a check whose baseline should be of this name."""
    (tmp_path / "head.json").write_bytes(to_json(make_record(rows())))
    (tmp_path / "kept").mkdir()

    def run(name, *options):
        return convbench(["check", str(tmp_path / "head.json"), "--baseline", str(tmp_path / "kept" / name), *options])

    return run


@pytest.mark.parametrize(("name", "file"), [("mine.json", "mine.json"), ("mine", "mine/run.json")])
def test_without_a_baseline_the_record_becomes_it_and_passes(first, name, file, tmp_path, capsys):
    assert first(name) == 0
    assert "no baseline yet, nothing compared" in capsys.readouterr().out
    assert load(tmp_path / "kept" / file) == load(tmp_path / "head.json")
    assert first(name, "--need-baseline") == 0
    assert "no baseline yet" not in capsys.readouterr().out


def test_ci_sees_that_nothing_was_compared(first, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    assert first("mine.json", "--out", str(tmp_path / "o"), "--json") == 0
    said = capsys.readouterr()
    document = json.loads(said.out)
    assert (document["verdict"], document["saved"]) == ("saved", str(tmp_path / "kept" / "mine.json"))
    assert "::warning title=convbench check%3A no baseline::no baseline yet, nothing compared" in said.err
    assert (tmp_path / "summary.md").read_text().startswith("## convbench check: no baseline yet, nothing compared")
    suite = ElementTree.parse(tmp_path / "o" / "check.xml").find("testsuite")
    assert (suite.get("tests"), suite.get("skipped"), suite.get("failures")) == ("1", "1", "0")


def test_a_mistyped_baseline_does_not_pass(first, tmp_path, capsys):
    (tmp_path / "kept" / "this-machine.json").write_bytes(to_json(make_record(rows())))
    assert first("this-machne.json") == 2
    assert "this-machne.json: is not there, but this-machine.json is" in capsys.readouterr().err
    assert first("../kpet/this-machine.json") == 2
    assert f"there is no folder {tmp_path / 'kept' / '..' / 'kpet'}" in capsys.readouterr().err
    assert first("this-machine-2.json", "--need-baseline") == 2
    assert "--need-baseline asks for it" in capsys.readouterr().err
    assert len(list((tmp_path / "kept").iterdir())) == 1
    assert first("this-machine-2.json", "--save-baseline") == 0


@pytest.mark.parametrize(
    "beside",
    [{"machine": "other-2c"}, {"settings": {"threads": 1}}, {"rows": make_rows(limit=24)[-1:]}, None],
)
def test_what_lies_beside_and_is_no_baseline_of_this_record_is_no_obstacle(first, beside, tmp_path):
    other = make_record(**{"rows": rows(), **(beside or {})})
    (tmp_path / "kept" / "nightly-1.json").write_bytes(to_json(other) if beside else b"{")
    assert first("nightly-2.json") == 0
    assert first("../heads.json") == 0  # beside head.json, the record itself


def test_a_run_without_ratios_is_no_baseline(first, tmp_path, capsys):
    only = [row for row in rows() if row.implementation == REFERENCE]
    (tmp_path / "head.json").write_bytes(to_json(make_record(only)))
    assert first("mine.json") == 2
    assert "head.json: has no ratio to a reference, so is no baseline" in capsys.readouterr().err


def test_an_unfinished_run_is_no_baseline(tmp_path, capsys):
    (tmp_path / "head.json").write_bytes(to_json(make_record(rows(), complete=False)))
    assert convbench(["check", str(tmp_path / "head.json"), "--baseline", str(tmp_path / "new.json")]) == 2
    assert "not complete" in capsys.readouterr().err
    assert not (tmp_path / "new.json").exists()


def test_a_layer_without_interval_or_with_another_reference_is_inconclusive(check):
    short, other = rows(), rows()
    short[1].speedup_ci_low = short[1].speedup_ci_high = None
    other[2].reference = "torch.unfold"
    document = check(make_record(short), make_record(other))[1]
    reasons = {row["reason"] for row in document["rows"] if row["verdict"] == "INCONCLUSIVE"}
    assert reasons == {"too few samples for an interval", "ratio to torch.aten before, to torch.unfold now"}


def test_everything_is_written_where_ci_looks(check, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    (tmp_path / "summary.md").write_text("before\n")
    for name, record in (("base", make_record(rows())), ("head", make_record(rows(["torch.compile"], 1.5)))):
        (tmp_path / f"{name}.json").write_bytes(to_json(record))
    words = [
        "check",
        str(tmp_path / "head.json"),
        "--baseline",
        str(tmp_path / "base.json"),
        "--out",
        str(tmp_path / "o"),
    ]
    assert convbench(words) == 1
    said = capsys.readouterr()
    assert "regressed: " in said.out
    assert "::error title=convbench check%3A slower::default/" in said.err
    assert (tmp_path / "summary.md").read_text().startswith("before\n## convbench check: regressed")
    assert json.loads((tmp_path / "o" / "check.json").read_bytes())["exit_code"] == 1
    assert ElementTree.parse(tmp_path / "o" / "check.xml").find("testsuite").get("failures") != "0"
    assert (tmp_path / "o" / "check.md").read_text() == (tmp_path / "summary.md").read_text().removeprefix("before\n")


def test_neither_torch_nor_numba_is_imported(tmp_path):
    (tmp_path / "run.json").write_bytes(to_json(make_record(rows())))
    program = (
        "import sys; from convbench.cli.main import run; "
        f"code = run(['check', {str(tmp_path / 'run.json')!r}, '--baseline', {str(tmp_path / 'run.json')!r}]); "
        "sys.exit(code or bool({'torch', 'numba'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_pytest_benchmark_file_is_a_record_too(check, tmp_path, capsys):
    record = make_record(rows())
    (tmp_path / "run.json").write_bytes(to_json(record))
    assert convbench(["report", str(tmp_path / "run.json"), "--pytest-benchmark", str(tmp_path / "bench.json")]) == 0
    words = ["check", str(tmp_path / "bench.json"), "--baseline", str(tmp_path / "run.json"), "--json"]
    capsys.readouterr()
    assert convbench(words) == 0
    assert len(json.loads(capsys.readouterr().out)["rows"]) == sum(
        row.implementation != REFERENCE for row in record.rows
    )
    assert msgspec.json.decode((tmp_path / "bench.json").read_bytes())["convbench"]["run_id"] == record.run_id
