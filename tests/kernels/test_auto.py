"""numba.auto by trial: what is tried, remembered, taken, and not believed."""

import json

import pytest
import torch

from convbench.case import Case
from convbench.cli.main import run as convbench
from convbench.spec import ConvSpec
from convbench_kernels.answers import Answers, cache_base
from convbench_kernels.numba_cpu import auto

REAL_FILE = auto._file
CASE = Case(ConvSpec.create([1, 32, 24, 24], 32, 3, padding=1))
NAMES = ["numba.winograd", "numba.direct"]


@pytest.fixture(autouse=True)
def file(tmp_path, monkeypatch):
    """A file of its own, and no trial unless a test asks for one."""
    monkeypatch.delenv(auto.TUNE, raising=False)
    monkeypatch.setattr(auto, "_file", lambda: Answers(path, "names of kernels", lambda name: isinstance(name, str)))
    path = tmp_path / "fastest.json"
    auto._answers.cache_clear()
    yield path
    auto._answers.cache_clear()


@pytest.mark.parametrize("fastest", NAMES)
def test_the_fastest_by_trial_is_taken_and_named(fastest, file, monkeypatch):
    tried = []

    def race(case, rows):
        tried.append(list(rows))
        return {name: 1.0 + (name != fastest) for name in rows}

    monkeypatch.setattr(auto, "race", race)
    monkeypatch.setenv(auto.TUNE, "1")
    for _ in range(2):
        assert auto.build(CASE).algorithm.endswith(", by trial")
    assert auto.choose(CASE).name == fastest
    assert tried == [NAMES], "tried once"
    monkeypatch.delenv(auto.TUNE)
    assert auto.choose(CASE).name == fastest, "remembered without being asked"
    assert list(json.loads(file.read_text()).values()) == [fastest]


def test_answers_lie_in_the_cache():
    assert REAL_FILE().path.is_relative_to(cache_base())


def test_without_a_trial_the_table_decides():
    assert auto.choose(CASE).name == next(row.name for row, pays in auto.TABLE if not row.supports(CASE) and pays(CASE))
    assert "by trial" not in auto.build(CASE).algorithm


@pytest.mark.parametrize("answer", ["numba.gemm", "numba.nothing"])
def test_an_answer_that_cannot_compute_the_case_is_not_believed(answer, file):
    file.write_text(json.dumps({auto._question(CASE): answer}))
    assert auto.choose(CASE).name in NAMES
    assert "by trial" not in auto.build(CASE).algorithm


def test_a_damaged_file_is_said_and_the_table_decides(file):
    file.write_text("[3]")
    with pytest.warns(UserWarning, match=r"fastest\.json: not a file of names of kernels"):
        assert auto.choose(CASE).name in NAMES


def test_a_race_times_all_on_the_same_data():
    rows = {row.name: row for row, _ in auto.TABLE if row.name in NAMES}
    seconds = auto.race(CASE, rows)
    assert list(seconds) == NAMES
    assert all(0 < value < 10 for value in seconds.values())


def test_a_race_leaves_the_callers_random_numbers_and_heeds_no_default(monkeypatch):
    rows = {row.name: row for row, _ in auto.TABLE if row.name in NAMES}
    torch.manual_seed(0)
    wanted = torch.rand(3)
    torch.manual_seed(0)
    auto.race(CASE, rows)
    assert torch.equal(torch.rand(3), wanted)
    torch.set_default_dtype(torch.float64)
    try:
        auto.race(CASE, rows)
    finally:
        torch.set_default_dtype(torch.float32)


def test_an_option_of_run_asks_for_trials_and_so_do_resumption_and_repetition(tmp_path, file, monkeypatch):
    suite = tmp_path / "one.toml"
    suite.write_text(
        '[suite]\nname = "one"\ndescription = ""\n[[case]]\nname = "a"\noperator = "conv2d"\n'
        "input = [1, 32, 24, 24]\nout_channels = 32\nkernel = 3\npadding = 1\n"
    )
    monkeypatch.setenv(auto.TUNE, "")  # put back at the end
    words = ["run", str(suite), "--impl", "numba.auto", "--tune", "--max-time", "0.01", "--out", str(tmp_path / "out")]
    assert convbench(words) == 0
    assert "by trial" in (tmp_path / "out" / "results.csv").read_text()
    journal = tmp_path / "out" / "journal.jsonl"
    journal.write_bytes(journal.read_bytes().splitlines(keepends=True)[0])
    for words in (["run", "--resume", str(tmp_path / "out")], ["repro", str(tmp_path / "out"), "a"]):
        file.unlink()
        auto._answers.cache_clear()
        monkeypatch.setenv(auto.TUNE, "")  # as in another process
        assert convbench(words) == 0
        assert list(json.loads(file.read_text()).values()), words
