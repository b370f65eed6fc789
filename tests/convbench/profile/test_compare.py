"""Profiles against each other: joined by module, pass and shape, ratios by hand, and every odd file."""

import csv
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from convbench.cli.main import run
from convbench.errors import InputError
from convbench.measure import Interval
from convbench.profile.compare import compare, load
from convbench.profile.compared import COLUMNS, markdown, notices, rows
from convbench.profile.export import document
from convbench.profile.model import OtherOperator
from convbench.profile.page import compared_page
from convbench.results import Environment
from tests.convbench.profile.test_advice import HOSTILE, PEAKS, Tags, profile, row
from tests.convbench.test_report_browser import assert_quiet, visit
from tests.convbench.test_report_browser import pytestmark as needs_chromium

BARS = """(async () => {
  seen.bars = all("[aria-roledescription=bar]").length;
  seen.wide = document.documentElement.scrollWidth - innerWidth;
})();"""


def timed(name, seconds, width=0.05, **changes):
    """A row whose interval reaches ``width`` of its time to both sides."""
    values = {"median_s": seconds, "ci_low_s": seconds * (1 - width), "ci_high_s": seconds * (1 + width),
              "step_s": seconds * changes.get("calls", 1)}  # fmt: skip
    return row(name, **values | changes)


def side(*layers, run_id="r", machine="m", **step):
    found = profile(rows=list(layers), run_id=run_id, machine=machine, peaks=PEAKS)
    found.environment = Environment(machine=machine, cpu={"model": f"processor of {machine}"})
    found.step = msgspec.structs.replace(found.step, **step)
    return found


BEFORE = side(
    timed("wins", 0.004, calls=2), timed("ties", 0.001), timed("loses", 0.001), timed("gone", 0.001),
    timed("wins", 0.002, pass_="weight_gradient"), timed("shape", 0.001), run_id="before", median_s=0.02,
    ci_low_s=0.019, ci_high_s=0.021, operators=[OtherOperator(operator="relu", calls=1, step_s=0.002, share=0.1)],
)  # fmt: skip
AFTER = side(
    timed("new", 0.001), timed("loses", 0.002), timed("ties", 0.00105), timed("shape", 0.001, k=32, n=2),
    timed("wins", 0.001, calls=2, dtype="bfloat16", isolated_s=0.0005), timed("wins", 0.002, pass_="weight_gradient"),
    run_id="after", machine="other", median_s=0.01, ci_low_s=0.0095, ci_high_s=0.0105,
)  # fmt: skip


@pytest.fixture
def files(tmp_path):
    """The folders of both profiles."""
    for name, found in (("before", BEFORE), ("after", AFTER)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "profile.json").write_bytes(msgspec.json.encode(document(found)))
    return str(tmp_path / "before"), str(tmp_path / "after")


def test_layers_are_joined_by_module_pass_and_shape_and_the_largest_change_comes_first(files):
    (against,) = compare(files)
    assert [(pair.a.case, pair.a.pass_) for pair in against.pairs] == [
        ("wins", "forward"), ("loses", "forward"), ("ties", "forward"), ("wins", "weight_gradient"),
    ]  # fmt: skip
    assert [[found.case for found in only] for only in against.only] == [["gone", "shape"], ["new", "shape"]]
    first = against.pairs[0]
    # 4 ms against 1 ms, 5% each way; called twice
    assert first.ratio == pytest.approx((4.0, 4 * 0.95 / 1.05, 4 * 1.05 / 0.95))
    assert first.won_s == pytest.approx(0.006)
    assert first.alone is None
    assert against.step == pytest.approx(Interval(2.0, 0.019 / 0.0105, 0.021 / 0.0095))
    assert (against.score.faster, against.score.ties, against.score.slower) == (1, 2, 1)
    assert list(against.sums()) == [
        ("forward", pytest.approx(0.010), pytest.approx(0.00505), 3), ("weight_gradient", 0.002, 0.002, 1),
    ]  # fmt: skip
    assert against.operators() == [("relu", 0.002, 0.0)]


def test_the_rows_have_a_verdict_for_every_layer_of_either(files):
    found = {(r["case"], r["pass"], r["k"]): r for r in rows(compare(files))}
    assert {key[0]: r["verdict"] for key, r in found.items() if key[1:] == ("forward", 16)} == {
        "wins": "faster", "loses": "slower", "ties": "tie", "gone": "baseline only", "shape": "baseline only",
        "new": "other only",
    }  # fmt: skip
    wins = found["wins", "forward", 16]
    assert (wins["baseline_dtype"], wins["other_dtype"]) == ("float32", "bfloat16")
    gone = found["gone", "forward", 16]
    assert (gone["ratio"], gone["other_median_s"], gone["won_s"]) == (None, None, None)


def test_the_command_prints_one_document_and_writes_page_csv_and_markdown(files, tmp_path, capsys):
    assert run(["compare", *files, "--json", "--out", str(tmp_path / "out")]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [each["run"] for each in shown["runs"]] == ["before", "after"]
    assert shown["runs"][1]["ratio"] == pytest.approx(2.0)
    assert set(shown["paths"]) == {"compare.html", "compare.csv", "compare.md"}
    lines = list(csv.DictReader(io.StringIO((tmp_path / "out" / "compare.csv").read_text())))
    assert tuple(lines[0]) == COLUMNS == tuple(shown["rows"][0])
    assert [line["case"] for line in lines] == [found["case"] for found in shown["rows"]]
    assert "| cpu model | processor of m | processor of other | another processor |" in markdown(compare(files))


def test_the_terminal_shows_steps_layers_and_what_differs(files, capsys):
    assert run(["compare", *files]) == 0
    shown = capsys.readouterr().out
    for text in ("2.00×", "~0.952×", "+6.00 ms", "In one profile only", "processor of other"):
        assert text in shown


def test_what_makes_a_ratio_doubtful_is_said(files, tmp_path):
    other = msgspec.structs.replace(AFTER, rows=[timed("elsewhere", 0.001)], warnings=["busy"])
    other.step = msgspec.structs.replace(other.step, passes="forward and backward", model="another")
    path = tmp_path / "other.json"
    path.write_bytes(msgspec.json.encode(document(other)))
    found = compare([files[0], str(path)])
    assert found[0].step is None
    assert [line.partition(": ")[0] for line in notices(found)] == [
        "other", "other is of another, before of net.py:make",
        "other is forward and backward, before is forward", "other and before have no layer in common",
    ]  # fmt: skip
    assert run(["compare", files[0], str(path)]) == 3


def test_the_same_profile_twice_is_named(files):
    (against,) = compare([files[0], files[0]])
    assert "the same profile" in notices([against])[0]
    assert against.baseline.label != against.side.label


@pytest.mark.parametrize(
    ("second", "text", "expected"),
    [
        (None, "", "one profile to compare"),
        ("run.json", "{}", "is a profile and"),
        ("missing.json", None, "is a profile and"),
        (
            "cut.json",
            '{"schema_version": 1, "command": "profile", "rows": [',
            "not a profile that this convbench reads",
        ),
        ("odd.json", '{"schema_version": 1, "command": "profile", "rows": 3}', "not a profile that this convbench"),
        ("newer.json", '{"schema_version": 99, "command": "profile"}', "schema_version 99 is newer"),
    ],
)
def test_what_cannot_be_compared_says_why_in_one_line(second, text, expected, files, tmp_path, capsys):
    arguments = [files[0]]
    if second:
        arguments.append(str(tmp_path / second))
        if text is not None:
            (tmp_path / second).write_text(text)
    assert run(["compare", *arguments]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1


def test_neither_torch_nor_numba_nor_pandas_is_imported(files):
    code = (
        "import sys; from convbench.cli.main import run; assert run(sys.argv[1:]) == 0; "
        "print(sorted({'torch', 'numba', 'pandas'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, "compare", *files], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "[]\n")


@pytest.mark.parametrize(
    "impossible", [{"median_s": 0.0}, {"step_s": 0.0}, {"macs": -1}, {"best_speedup": -1.0}, {"stride_h": 0}]
)
def test_numbers_that_cannot_be_are_refused(impossible, files, tmp_path, capsys):
    found = json.loads((Path(files[0]) / "profile.json").read_bytes())
    found["rows"][0] |= impossible
    (tmp_path / "damaged.json").write_text(json.dumps(found))
    assert run(["compare", files[1], str(tmp_path / "damaged.json")]) == 2
    assert f"rows[0].{next(iter(impossible))}" in capsys.readouterr().err


def test_a_convolution_that_cannot_be_is_refused_by_file(files, tmp_path, capsys):
    path = tmp_path / "damaged.json"
    path.write_bytes(msgspec.json.encode(document(side(timed("a", 0.001, groups=3)))))
    assert run(["compare", files[1], str(path)]) == 2
    assert f"{path}: groups = 3: must divide" in capsys.readouterr().err


def test_many_rows_of_one_name_and_shape_are_joined_in_their_order_and_more_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "many.json"
    path.write_bytes(msgspec.json.encode(document(side(*[timed("a", 0.001 + n * 1e-9) for n in range(20_000)]))))
    begun = time.process_time()
    (against,) = compare([str(path), str(path)])
    assert all(pair.a.median_s == pair.b.median_s for pair in against.pairs) and len(against.pairs) == 20_000
    assert time.process_time() - begun < 20
    monkeypatch.setattr("convbench.untrusted.MOST_ROWS", 19_999)
    with pytest.raises(InputError, match="20,000 rows in one run"):
        compare([str(path), str(path)])


def test_a_pipe_in_place_of_a_profile_is_not_waited_for(files, tmp_path, capsys):
    os.mkfifo(tmp_path / "profile.json")
    assert run(["compare", str(tmp_path), files[0]]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_selection_is_refused_and_a_profile_reads_back(files, capsys):
    assert run(["compare", *files, "--case", "wins"]) == 2
    assert "compared whole" in capsys.readouterr().err
    assert load(compare(files)[0].baseline.path) == BEFORE


@pytest.fixture
def hostile(files, tmp_path):
    """Both profiles with a layer whose name tries to be code, and a third, in one comparison."""
    found = side(timed(HOSTILE, 0.001), run_id=HOSTILE, machine=HOSTILE)
    paths = []
    for number in range(3):
        paths.append(tmp_path / f"{number}.json")
        paths[-1].write_bytes(msgspec.json.encode(document(found)))
    return compare(list(map(str, paths)))


def test_hostile_names_are_text_in_every_file(hostile):
    assert "img" not in Tags(compared_page(hostile)).found
    assert "<script>" not in markdown(hostile)


@needs_chromium
def test_the_page_draws_a_bar_a_layer_under_its_own_policy_and_hostile_names_do_nothing(hostile, tmp_path):
    seen = visit(tmp_path, compared_page(hostile), BARS)
    assert_quiet(seen)
    assert (seen["bars"], seen["images"]) == (2, 0)
    assert seen["wide"] <= 0
