"""Comparing records: joined by what is computed, ratios by hand, and every odd input."""

import csv
import io
import json
import math
import random
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from convbench.cli.main import run as convbench
from convbench.compare import ALL, compare
from convbench.compare.environment import differences
from convbench.compare.rows import COMPARED_NAMES, compared_csv, compared_rows
from convbench.compare.sides import case_id
from convbench.measure import BATCHES, STUDENT, batch_spread
from convbench.records import Stored
from convbench.report import compared, render_comparison
from convbench.report.markdown import markdown
from convbench.results import Peak, Record, RecordedRow, csv_cell
from tests.convbench.records import ENVIRONMENT, PEAKS, fail, hostile_record, make_record, make_rows
from tests.convbench.test_records import write_run
from tests.convbench.test_report import HOSTILE, Elements

FACTOR = {"standard": 2.0, "depthwise": 0.5, "pointwise": 1.0}


def scaled(rows: list[RecordedRow], factor) -> list[RecordedRow]:
    """The rows on a machine that is ``factor(row)`` times as fast."""
    rows = msgspec.convert(msgspec.to_builtins(rows), list[RecordedRow])
    for row in rows:
        by = factor(row)
        for name in ("median_s", "ci_low_s", "ci_high_s"):
            setattr(row, name, getattr(row, name) / by)
        row.samples_s = []
    return rows


def stored(record: Record, origin="json", name="run.json") -> Stored:
    return Stored(Path(name), record, origin)


def by_kind(row: RecordedRow) -> float:
    return FACTOR.get(row.kind, 1.0)


@pytest.fixture
def faster() -> Record:
    """Another machine: other row order, other suite and layer names, twice the roof."""
    rows = scaled(make_rows(), by_kind)
    for i, row in enumerate(rows):
        row.suite, row.case = "theirs", f"layer-{i}"
        row.roofline_fraction = row.roofline_fraction and row.roofline_fraction * by_kind(row) / 2
    random.Random(1).shuffle(rows)
    environment = msgspec.structs.replace(ENVIRONMENT, machine="other", cpu={"model": "Other", "mhz_now": 1})
    return make_record(rows, machine="other", run_id="20260203T000000Z-other", environment=environment)


def base() -> Record:
    rows = make_rows()
    for row in rows:
        row.samples_s = []
    return make_record(rows)


def test_layers_are_joined_by_what_is_computed_not_by_name_or_order(faster):
    comparison = compare([stored(base()), stored(faster)])
    (other,) = comparison.others
    found = comparison.standings(other)
    for kind, factor in FACTOR.items():
        assert found[kind].hardware.mean.value == pytest.approx(factor)
        assert found[kind].use.mean.value == pytest.approx(factor / 2)
    cases = {case_id(row) for row in base().rows}
    assert len(comparison.layers) == found[ALL].hardware.cases == len(cases)
    kinds = [layer.row.kind for layer in comparison.layers.values()]
    logs = [math.log(FACTOR.get(kind, 1.0)) for kind in kinds]
    assert found[ALL].hardware.mean.value == pytest.approx(math.exp(sum(logs) / len(logs)))
    assert (found["standard"].hardware.faster, found["standard"].hardware.ties) == (kinds.count("standard"), 0)
    assert found["depthwise"].hardware.slower == kinds.count("depthwise")
    assert found["pointwise"].hardware.ties == kinds.count("pointwise")
    assert [set(layer.suites) for layer in comparison.layers.values()] == [{"default", "theirs"}] * len(kinds)


def test_passes_have_means_of_their_own():
    def both(factor):
        backward = scaled(base().rows, lambda row: factor)
        for row in backward:
            row.pass_ = "data_gradient"
        return make_record(base().rows + backward)

    comparison = compare([stored(both(1.0)), stored(both(4.0))])
    found = comparison.standings(comparison.others[0])
    assert found["standard, forward"].hardware.mean.value == pytest.approx(1.0)
    assert found["standard, data_gradient"].hardware.mean.value == pytest.approx(4.0)
    assert found[ALL].hardware.mean.value == pytest.approx(2.0)
    columns = [column for table in compared.tables(comparison) for column in table.columns]
    assert "standard, data_gradient" in columns


def test_a_kind_that_only_one_run_has_is_no_empty_column(faster):
    lonely = [row for row in make_rows() if row.kind == "standard"]
    for row in lonely:
        row.pass_ = "weight_gradient"
    comparison = compare([stored(make_record(base().rows + lonely)), stored(faster)])
    columns = [column for table in compared.tables(comparison)[:3] for column in table.columns]
    assert "standard, forward" in columns
    assert "standard, weight_gradient" not in columns


def test_the_same_record_twice_is_all_ties_and_says_so():
    comparison = compare([stored(base()), stored(base())])
    assert [side.label for side in comparison.sides] == ["synthetic-2c", "synthetic-2c (2)"]
    score = comparison.standing(comparison.others[0]).hardware
    assert score
    assert (score.mean.value, score.ties, score.faster, score.slower) == (1.0, score.cases, 0, 0)
    assert any("more than once" in line for line in compared.notices(comparison))


def test_one_record_with_two_devices_has_two_sides():
    record = base()
    other = scaled(record.rows, lambda row: 10.0)
    for row in other:
        row.device = "cuda:0"
    comparison = compare([stored(make_record(record.rows + other))])
    assert [side.label for side in comparison.sides] == ["synthetic-2c, cpu", "synthetic-2c, cuda:0"]
    assert comparison.standing(comparison.others[0]).hardware.mean.value == pytest.approx(10)


def test_processors_of_one_name_are_told_apart():
    records = [make_record() for _ in range(2)]
    for record, cpu in zip(records, (("25/1/1", ["avx2"]), ("25/17/1", ["avx2", "avx512_bf16"])), strict=True):
        changed = {"family_model_stepping": cpu[0], "isa": cpu[1]}
        record.environment = msgspec.structs.replace(ENVIRONMENT, cpu=changed)
    assert [side.label for side in compare(map(stored, records)).sides] == [
        "synthetic-2c, avx2 25/1/1", "synthetic-2c, avx512 25/17/1",
    ]  # fmt: skip


def test_sides_are_named_by_what_tells_them_apart():
    nights = [("1", 1), ("2", 2), ("2", 2)]
    records = [
        make_record(base().rows, settings={"threads": n}, started=f"2026-01-0{day}T00:00:00+00:00") for day, n in nights
    ]
    assert [side.label for side in compare(map(stored, records)).sides] == [
        "synthetic-2c, 1 thread, 2026-01-01 00:00",
        "synthetic-2c, 2 threads, 2026-01-02 00:00",
        "synthetic-2c, 2 threads, 2026-01-02 00:00 (2)",
    ]


def test_what_stands_on_one_side_only_or_failed_is_told_and_counts_nowhere(faster):
    record = base()
    gone = case_id(record.rows[0])
    record.rows = [row for row in record.rows if case_id(row) != gone]
    failed = next(row for row in faster.rows if row.implementation == "numba.direct" and case_id(row) != gone)
    fail(failed, "mismatch", "wrong")
    comparison = compare([stored(record), stored(faster)])
    ((layer, have, lack),) = comparison.one_sided()
    assert (layer.row.median_s is not None, [s.label for s in have], [s.label for s in lack]) == (
        True,
        ["other"],
        ["synthetic-2c"],
    )
    assert comparison.standing(comparison.others[0]).hardware.cases == len(comparison.layers) - 1
    rows = [row for row in compared_rows(comparison) if row["other_status"] == "mismatch"]
    assert [(row["compared"], row["verdict"], row["ratio"]) for row in rows] == [
        ("numba.direct", "baseline only", None)
    ]


def test_advice_is_the_best_that_can_do_all_layers_and_what_it_costs():
    rows = [row for row in base().rows if row.kind == "pointwise"][:]
    times = {"torch.aten": (2.0, 3.0), "numba.gemm": (1.0, 4.0), "torch.unfold": (0.5, None)}
    keys = list(dict.fromkeys(map(case_id, rows)))[:2]
    kept = [row for row in rows if case_id(row) in keys and row.implementation in times]
    for row in kept:
        time = times[row.implementation][keys.index(case_id(row))]
        if time is None:
            fail(row, "unsupported", "no")
        else:
            row.median_s, row.ci_low_s, row.ci_high_s = time, time * 0.99, time * 1.01
    comparison = compare([stored(make_record(kept))])
    (advice,) = comparison.advice(comparison.baseline)
    assert advice.best == "numba.gemm"  # sqrt(1 x 4) against sqrt(2 x 3)
    assert advice.costs == pytest.approx(math.sqrt((1.0 * 4.0) / (0.5 * 3.0)))
    assert advice.fastest == [("torch.aten", 1), ("torch.unfold", 1)]


# Intervals --------------------------------------------------------------------------------------------


def test_the_interval_of_batches_by_hand():
    step = 0.01
    samples = [math.exp(step if batch % 2 else -step) for batch in range(BATCHES) for _ in range(5)]
    sd = step * math.sqrt(BATCHES / (BATCHES - 1))
    assert batch_spread(samples) == pytest.approx(math.exp(STUDENT * sd / math.sqrt(BATCHES)))
    assert batch_spread([1e-3] * 40) == pytest.approx(1.0)
    assert batch_spread([1e-3] * 29) is None
    assert batch_spread([0.0] * 40) is None


def test_the_interval_holds_the_median_as_often_as_it_says_and_drift_widens_it():
    dice = random.Random(0)
    held, trials = 0, 400
    for _ in range(trials):
        samples = [dice.lognormvariate(0, 0.05) for _ in range(100)]
        spread = batch_spread(samples)
        held += abs(math.log(sorted(samples)[50])) <= math.log(spread)
    assert 0.91 * trials <= held <= 0.99 * trials
    drifting = [1 + i / 200 for i in range(100)]
    shuffled = dice.sample(drifting, 100)
    assert math.log(batch_spread(drifting)) > 1.5 * math.log(batch_spread(shuffled))


def test_raw_samples_come_before_the_columns_and_both_are_named():
    rows = base().rows
    assert rows[0].median_s
    rows[0].samples_s = [rows[0].median_s] * 40
    rows[1].ci_low_s = None
    comparison = compare([stored(make_record(rows)), stored(base())])
    cells = {cell.source for cells in comparison.baseline.cells.values() for cell in cells.values()}
    assert cells == {"samples", "ci columns", ""}
    assert "raw samples" in compared.intervals_from(comparison)
    assert "ci columns" in compared.intervals_from(comparison)


# Environment ------------------------------------------------------------------------------------------


def test_differences_that_matter_come_first_and_noise_is_left_out(faster):
    record = base()
    record.settings = {"threads": 1, "seed": 3}
    record.environment.load["average_1min"] = 3.0
    comparison = compare([stored(record), stored(faster)])
    names = [difference.name for difference in differences(side.record for side in comparison.sides)]
    assert names[:2] == ["settings threads", "cpu model"]
    assert not {"load average_1min", "settings seed", "cpu mhz_now"} & set(names)
    first = differences(side.record for side in comparison.sides)[0]
    assert (first.values, "unequal" in first.why) == ([1, 2], True)


# Files and command line -------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path, faster):
    return write_run(tmp_path / "base", make_record()), write_run(tmp_path / "faster", faster)


def test_the_command_writes_page_csv_and_markdown_and_names_what_it_refused(folders, tmp_path, capsys):
    (tmp_path / "bad.json").write_text("{")
    out = tmp_path / "out"
    assert convbench(["compare", *map(str, folders), str(tmp_path / "bad.json"), "--out", str(out)]) == 0
    captured = capsys.readouterr()
    assert "Faster hardware" in captured.out
    assert len([line for line in captured.err.splitlines() if "refused: " in line]) == 1
    lines = list(csv.DictReader(io.StringIO((out / "compare.csv").read_text())))
    assert tuple(lines[0]) == COMPARED_NAMES
    standard = [float(line["ratio"]) for line in lines if line["kind"] == "standard"]
    assert standard == pytest.approx([2.0] * len(standard))
    assert "bad.json" in (out / "compare.md").read_text()
    page = Elements((out / "compare.html").read_text())
    assert len(page.json("cells")["sides"]) == 2


def test_the_csv_holds_every_row_whatever_its_text(faster):
    hostile = hostile_record('=a,"b"\nc')
    comparison = compare([stored(base()), stored(faster), stored(hostile)])
    found = list(csv.reader(io.StringIO(compared_csv(comparison), newline="")))
    assert found[0] == list(COMPARED_NAMES)
    assert found[1:] == [[csv_cell(value) for value in row.values()] for row in compared_rows(comparison)]
    assert {row[COMPARED_NAMES.index("verdict")] for row in found} >= {"baseline only", "other only", "tie", "faster"}


def test_the_document_has_the_columns_of_the_csv(folders, capsys):
    assert convbench(["compare", *map(str, folders), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["schema_version"], document["command"]) == (1, "compare")
    assert tuple(document["rows"][0]) == COMPARED_NAMES
    assert [run["machine"] for run in document["runs"]] == ["synthetic-2c", "other"]
    whole = next(group for group in document["groups"] if group["group"] == "standard")
    assert whole["ratio"] == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("format_", "first"),
    [("csv", ",".join(COMPARED_NAMES)), ("markdown", "## convbench compare: 2 runs against synthetic-2c")],
)
def test_other_formats_are_all_that_is_printed(folders, capsys, format_, first):
    assert convbench(["compare", *map(str, folders), "--format", format_]) == 0
    assert capsys.readouterr().out.splitlines()[0] == first


def test_options_choose_rows(folders, capsys):
    words = ["--impl", "numba", "--json", "--case", "mobilenet*"]
    assert convbench(["compare", str(folders[0]), str(folders[0]), *words]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert {row["compared"].partition(".")[0] for row in rows} == {"numba", "fastest of each layer"}
    assert {row["case"].partition(".")[0].partition("_")[0] for row in rows} == {"mobilenet"}


@pytest.mark.parametrize(("words", "code", "expected"), [
    (["base"], 2, "1 run to compare"),
    (["nowhere", "base"], 2, "nowhere"),
    (["base", "base", "--impl", "no.such"], 2, "0 run to compare"),
    ([], 2, "Missing argument"),
])  # fmt: skip
def test_too_little_to_compare_is_said(folders, tmp_path, monkeypatch, capsys, words, code, expected):
    monkeypatch.chdir(tmp_path)
    assert convbench(["compare", *words]) == code
    captured = capsys.readouterr()
    assert expected in captured.err
    assert captured.out == ""


def test_records_without_a_common_case_are_inconclusive_and_listed(tmp_path, capsys):
    rows = base().rows
    half = case_id(rows[0])
    one = write_run(tmp_path / "one", make_record([row for row in rows if case_id(row) == half]))
    two = write_run(tmp_path / "two", make_record([row for row in rows if case_id(row) != half], machine="two"))
    assert convbench(["compare", str(one), str(two), "--out", str(tmp_path / "out")]) == 3
    text = capsys.readouterr().out
    assert "nothing to compare" in text
    assert "Cases on one side only" in text
    assert "pairs" not in {
        attributes.get("id") for _, attributes in Elements((tmp_path / "out/compare.html").read_text()).found
    }


def test_csv_alone_and_no_peaks_give_a_page_without_roofs(tmp_path):
    rows = base().rows
    for row in rows:
        row.roofline_fraction = None
    comparison = compare([stored(make_record(rows, peaks=[]), "csv"), stored(make_record(rows, peaks=[]), "csv")])
    page = Elements(render_comparison(comparison))
    assert page.json("roofs") == []
    assert comparison.standing(comparison.others[0]).use is None
    assert markdown(comparison)


def test_values_that_no_machine_has_do_not_break_the_page():
    rows = base().rows
    rows[0].median_s, rows[0].ci_low_s, rows[0].ci_high_s = 1e300, 1e-11, 1e308
    rows[1].roofline_fraction, rows[2].valid_macs, rows[3].bytes = -1.0, 0, 0
    rows[4].ci_low_s, rows[4].ci_high_s = 9.0, 1e-9
    peaks = [*PEAKS, Peak(quantity="fma", level="x", device="cpu", dtype="float32", value=math.inf)]
    comparison = compare([stored(make_record(rows, peaks=peaks)), stored(base())])
    Elements(render_comparison(comparison)).json("cells")
    assert markdown(comparison)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_add_no_element_and_no_markup(name, capsys):
    def page_of(text):
        return Elements(
            render_comparison(compare([stored(hostile_record(text)), stored(hostile_record(text))]), [text])
        )

    plain, hostile = page_of("p" * len(name)), page_of(name)
    assert hostile.tags() == plain.tags()
    code = [[c for tag, a, c in page.raw if a.get("type") != "application/json"] for page in (plain, hostile)]
    assert code[0] == code[1]
    text = markdown(compare([stored(hostile_record(name)), stored(base())]), [name])
    assert "<script" not in text.replace("\\<", "")
    assert "<img" not in text.replace("\\<", "")


def test_neither_torch_nor_numba_nor_pandas_is_imported(folders, tmp_path):
    code = (
        "import sys; from convbench.cli.main import run; assert run(sys.argv[1:]) == 0; "
        "print(sorted({'torch', 'numba', 'pandas'} & set(sys.modules)), file=sys.stderr)"
    )
    for words in (["compare", *map(str, folders)], ["compare", *map(str, folders), "--out", str(tmp_path / "out")],
                  ["history", str(tmp_path)]):  # fmt: skip
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        loaded = done.stderr.splitlines()[-1] if "--out" not in words else done.stderr
        assert "'torch'" not in loaded
        assert "'numba'" not in loaded


def test_fifty_records_are_named_and_compared():
    records = [
        make_record(scaled(make_rows(limit=40), lambda row, n=n: 1 + n / 50), machine=f"m{n:02}", run_id=f"r{n}")
        for n in range(50)
    ]
    comparison = compare(map(stored, records))
    means = [comparison.standing(other).hardware.mean.value for other in comparison.others]
    assert means == pytest.approx([1 + n / 50 for n in range(1, 50)])
    assert "m49" in markdown(comparison)
