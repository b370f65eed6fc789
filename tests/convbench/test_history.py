"""History: steps that are there are found, noise is none, and runs are strung together only where they are alike."""

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from convbench.cli.main import run as convbench
from convbench.history import read_history, series, step_rows
from convbench.history.steps import LEAST, find_steps, without_outliers
from convbench.records import Stored
from convbench.report import render_history
from convbench.results import RecordedRow, to_json
from tests.convbench.records import ENVIRONMENT, hostile_record, make_record, make_rows
from tests.convbench.test_report import HOSTILE, Elements

SMALLEST, ALPHA = 0.03, 0.05


def noise(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.02, count)


@pytest.mark.parametrize("count", [10, 30, 300])
def test_noise_has_steps_no_more_often_than_alpha(count):
    trials = 200
    false = sum(bool(find_steps(noise(count, seed), SMALLEST, ALPHA)) for seed in range(trials))
    assert false <= ALPHA * trials + 2 * np.sqrt(ALPHA * trials)


def test_a_small_alpha_holds_too():
    """A series is tested at alpha over the number of series: replacing outliers must not make noise look like steps."""
    trials, alpha = 3000, 0.005
    false = sum(bool(find_steps(noise(12, seed), 0.0, alpha)) for seed in range(trials))
    assert false <= alpha * trials + 3 * np.sqrt(alpha * trials)


@pytest.mark.parametrize(("count", "at"), [(10, 5), (30, 20), (300, 290), (10_000, 3_000)])
def test_a_step_is_found_where_it_is(count, at):
    for seed in range(10):
        values = noise(count, seed)
        values[at:] += 0.2
        (step,) = find_steps(values, SMALLEST, ALPHA / 100)
        assert abs(step.at - at) <= 1
        assert step.after - step.before == pytest.approx(0.2, abs=0.06)
        assert step.stretch == (step.at, count - step.at)


def test_two_steps_that_cancel_are_both_found_and_an_outlier_is_none():
    values = noise(200, 1)
    values[80:120] += 0.3
    assert [step.at for step in find_steps(values, SMALLEST, ALPHA)] == pytest.approx([80, 120], abs=1)
    spikes = noise(200, 2)
    spikes[[20, 90, 199]] += 5.0
    assert find_steps(spikes, SMALLEST, ALPHA) == []
    assert np.abs(without_outliers(spikes)).max() < 0.2


def test_steps_below_the_smallest_and_series_too_short_are_none():
    values = noise(400, 3)
    values[200:] += 0.05
    assert len(find_steps(values, 0.02, ALPHA)) == 1
    assert find_steps(values, 0.10, ALPHA) == []
    assert find_steps(np.arange(2 * LEAST - 1.0), SMALLEST, ALPHA) == []
    assert find_steps(np.zeros(50), SMALLEST, ALPHA) == []
    exact = np.repeat([0.0, 1.0], 10)
    assert [step.at for step in find_steps(exact, SMALLEST, ALPHA)] == [10]


def night(number: int, faster: float = 1.0, limit: int = 24, **changes) -> Stored:
    """The number-th run; numba is ``faster`` times as fast as it was."""
    rows: list[RecordedRow] = make_rows(limit=limit)
    dice = np.random.default_rng(number)
    for row in rows:
        by = float(np.exp(dice.normal(0, 0.01))) * (faster if row.implementation.startswith("numba") else 1.0)
        assert row.median_s
        row.median_s /= by
        if row.implementation != row.reference:
            row.speedup_vs_reference = (row.speedup_vs_reference or 1.0) * by
    started = f"2026-{1 + number // 25:02}-{1 + number % 25:02}T00:00:00+00:00"
    words = {"run_id": f"run {number}", "started": started}
    record = make_record(rows, **(words | changes))
    return Stored(Path(f"{number}/run.json"), record, "json")


def test_a_faster_kernel_is_a_step_of_its_operators_and_layers_with_what_changed():
    def torch(version):
        return msgspec.structs.replace(ENVIRONMENT, versions={"torch": version})

    runs = [night(n, environment=torch("2.12")) for n in range(20)]
    runs += [night(n, 1.3, environment=torch("2.13")) for n in range(20, 30)]
    refused: list[str] = []
    history = read_history([*runs[::-1], runs[3]], refused.append)
    assert (len(history.runs), history.repeated, refused) == (30, [runs[3].record.run_id], [])
    steps = step_rows(history, series(history))
    assert {step["implementation"].partition(".")[0] for step in steps} == {"numba"}
    assert {step["run_id"] for step in steps} == {runs[20].record.run_id}
    assert all(step["change"] == pytest.approx(1.3, rel=0.05) for step in steps)
    assert all(step["environment"] == ["versions torch: 2.12 -> 2.13"] for step in steps)
    operators = {step["kind"] for step in steps if step["case"] is None}
    assert operators == {row.kind for row in runs[0].record.rows if row.implementation.startswith("numba")}
    assert {step["quantity"] for step in steps} == {"speed-up"}  # that they are faster too is no news


def test_a_slower_machine_is_a_step_of_speed_alone():
    def slower(stored):
        for row in stored.record.rows:
            row.median_s *= 1.5
        return stored

    history = read_history([*(night(n) for n in range(12)), *(slower(night(n)) for n in range(12, 24))], print)
    steps = step_rows(history, series(history))
    assert {step["quantity"] for step in steps} == {"speed"}
    assert {row.implementation for row in night(0).record.rows} == {step["implementation"] for step in steps}
    assert all(step["change"] == pytest.approx(1 / 1.5, rel=0.05) for step in steps)


def test_a_run_with_some_of_the_layers_is_no_step():
    runs = [night(n, limit=24 if n % 2 else 12) for n in range(24)]
    history = read_history(runs, lambda reason: None)
    assert step_rows(history, series(history)) == []


def test_other_machines_and_threads_are_other_lines():
    runs = [night(n) for n in range(10)] + [night(n, 2.0, settings={"threads": 1}) for n in range(10, 20)]
    history = read_history(runs, lambda reason: None)
    found = series(history)
    assert step_rows(history, found) == []
    assert {item.key.place for item in found} == {"synthetic-2c, cpu, threads 1", "synthetic-2c, cpu, threads 2"}
    assert {len(item.runs) for item in found} == {10}


def test_the_command_reports_blocks_nothing_and_names_what_it_refused(tmp_path, capsys):
    for n in range(24):
        folder = tmp_path / "nightly" / str(n)
        folder.mkdir(parents=True)
        (folder / "run.json").write_bytes(to_json(night(n, 0.5 if n > 15 else 1.0).record))
    (tmp_path / "nightly" / "torn.json").write_text('{"schema_version": 1')
    nameless = night(99).record
    nameless.started = ""
    (tmp_path / "nightly" / "timeless.json").write_bytes(to_json(nameless))
    words = ["history", str(tmp_path / "nightly"), "--out", str(tmp_path / "out")]
    assert convbench(words) == 0
    captured = capsys.readouterr()
    assert "steps, above 1 is faster" in captured.out
    assert [word in captured.err for word in ("torn.json", "timeless.json")] == [True, True]
    assert (
        (tmp_path / "out" / "history.csv").read_text().startswith("quantity,place,kind,pass,dtype,implementation,case,")
    )
    lines = Elements((tmp_path / "out" / "history.html").read_text()).json("lines")
    assert {len(line["when"]) for line in lines} == {24}
    assert convbench([*words[:2], "--json", "--min-change", "60"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["command"], document["runs"], len(document["refused"])) == ("history", 24, 2)
    assert {round(row["change"], 1) for row in document["rows"]} == {0.5}


@pytest.mark.parametrize("name", [None, "empty"])
def test_a_folder_without_runs_is_bad_input(tmp_path, capsys, name):
    folder = tmp_path / (name or "gone")
    if name:
        folder.mkdir()
    assert convbench(["history", str(folder)]) == 2
    assert str(folder) in capsys.readouterr().err


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_add_no_element(name):
    def page_of(text):
        stored = [night(n) for n in range(3)]
        hostile = msgspec.structs.replace(hostile_record(text), started="2027-01-01T00:00:00")
        stored.append(Stored(Path("hostile"), hostile, "json"))
        history = read_history(stored, lambda reason: None)
        assert len(history.runs) == 4
        return Elements(render_history(history, series(history), [text]))

    assert page_of(name).tags() == page_of("plain").tags()


def test_ten_thousand_runs_are_drawn_as_ranges():
    rows = make_rows(limit=6)
    for row in rows:
        row.speedup_vs_reference = 1.5
    faster = msgspec.convert(msgspec.to_builtins(rows), list[RecordedRow])
    for row in faster:
        row.speedup_vs_reference = 2.0

    def runs():
        for n in range(10_000):
            started = f"2026-01-01T{n // 3600:02}:{n // 60 % 60:02}:{n % 60:02}+00:00"
            yield Stored(Path("x"), make_record(faster if n >= 5_000 else rows, run_id=str(n), started=started), "json")

    history = read_history(runs(), lambda reason: None)
    found = series(history, layers=False)
    ups = [item for item in found if item.key.quantity == "speed-up"]
    assert [[step.at for step in item.steps] for item in ups] == [[5_000]] * len(ups)
    assert len(ups) > 0
    lines = Elements(render_history(history, found)).json("lines")
    assert {len(line["when"]) for line in lines} == {300}
