"""The page: numbers by hand, text that stays text, scripts only by hash, light imports."""

import base64
import hashlib
import json
import math
import subprocess
import sys
from html.parser import HTMLParser

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convbench.cli.main import run as convbench
from convbench.errors import InputError, OutputError
from convbench.report import analysis, charts, render, shell, tables, text, write
from convbench.results import COLUMN_NAMES, Environment, to_json
from convbench.untrusted import LONGEST_TEXT
from tests.convbench.records import (
    PEAKS,
    REFERENCE,
    fail,
    hostile_record,
    make_record,
    make_rows,
    varied_record,
)

HOSTILE = [
    "</script><script>window.pwned = 1</script>",
    "<img src=x onerror=window.pwned=1>",
    "\" onmouseover='window.pwned = 1' x=\"",
    "'><svg onload=window.pwned=1>",
    "]]><!--<script>--!>",
    "{{ 7 * 7 }}{% raw %}&lt;b&gt;",
    "\u202eevil\u2066\u200f\u2028\u2029\x00\x1b[31m\ud800",
    "__proto__",
    "N" * 10_000,
]


class Elements(HTMLParser):
    """Elements of a page with their attributes, and the content of scripts and styles."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.raw: list[tuple[str, dict[str, str | None], str]] = []
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.raw.append((tag, dict(attrs), ""))

    def handle_data(self, data):
        if self.cdata_elem in ("script", "style"):
            tag, attributes, content = self.raw.pop()
            self.raw.append((tag, attributes, content + data))

    def tags(self) -> list[str]:
        return [tag for tag, _ in self.found]

    def json(self, name: str):
        return next(json.loads(content) for _, attributes, content in self.raw if attributes.get("id") == name)


@pytest.fixture(scope="module")
def markup() -> str:
    return render(varied_record())


@pytest.fixture(scope="module")
def elements(markup) -> Elements:
    return Elements(markup)


# Numbers ----------------------------------------------------------------------------------------------


@given(st.floats(1e-9, 1e12), st.sampled_from([-1, 1]))
def test_three_significant_digits(value, sign):
    shown = text.significant(sign * value)
    assert float(shown.replace(",", "")) == pytest.approx(sign * value, rel=0.0051)
    assert "e" not in shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(1.2e-3, "1.20 ms"), (45.6e-6, "45.6 µs"), (0.9996e-3, "1.00 ms"), (2, "2.00 s"), (0.5e-9, "0.500 ns"), (0, "0 s"),
     (None, ""), (math.nan, "")],
)  # fmt: skip
def test_times_have_engineering_prefixes(value, shown):
    assert text.seconds(value) == shown


def test_other_units():
    assert text.engineering(115_605_504, "MAC") == "116 MMAC"
    assert (text.size(32 * 1024), text.size(None)) == ("32 KiB", "")
    assert (text.percent(0.8321), text.times(1.337), text.interval(None, 1.0)) == ("83.2%", "1.34×", "")
    assert (text.error(3.14e-7), text.error(0.0), text.duration(192)) == ("3.1e-07", "0", "3 min 12 s")


@given(
    st.recursive(st.text(max_size=600) | st.floats(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
)
def test_clean_text_is_short_and_printable_and_numbers_are_finite(value):
    def check(item):
        if isinstance(item, str):
            assert item.isprintable()
            assert len(item) <= LONGEST_TEXT
        elif isinstance(item, float):
            assert math.isfinite(item)
        elif isinstance(item, dict):
            check(list(item) + list(item.values()))
        elif isinstance(item, list):
            [check(each) for each in item]

    check(text.clean(value))


def test_ordinary_text_stays_as_it_is():
    assert text.clean("Größe 3×3 → 卷积 <b>&") == "Größe 3×3 → 卷积 <b>&"


# Analysis ---------------------------------------------------------------------------------------------


def pair(implementations=(REFERENCE, "numba.gemm"), count=2):
    """Rows of the first pointwise layers."""
    return [row for row in make_rows(implementations=implementations) if row.kind == "pointwise"][: 2 * count]


def gemm_mean(rows):
    """The mean of numba.gemm over rows of one kind."""
    (group,) = analysis.groups(rows)
    assert group.label == "pointwise"
    (mean,) = [mean for mean in group.means if mean.implementation == "numba.gemm"]
    return mean


def test_a_mean_never_mixes_passes_types_or_devices():
    rows = pair(count=4)
    for row, changes in zip(
        rows[2::2] + rows[3::2],
        2 * ({"pass_": "data_gradient"}, {"dtype": "float64"}, {"device": "cuda:0"}),
        strict=True,
    ):
        for name, value in changes.items():
            setattr(row, name, value)
    found = analysis.groups(rows)
    assert [[mean.layers for mean in group.means] for group in found] == 4 * [[1, 1]]
    assert {group.label for group in found} == {
        "pointwise, forward, cpu, float32", "pointwise, data_gradient, cpu, float32",
        "pointwise, forward, cpu, float64", "pointwise, forward, cuda:0, float32",
    }  # fmt: skip


def test_geometric_mean_and_its_interval_by_hand():
    rows = pair()
    for row, ratio, half in zip(rows[1::2], (2.0, 8.0), (0.3, 0.4), strict=True):
        row.speedup_vs_reference = ratio
        row.speedup_ci_low, row.speedup_ci_high = ratio * math.exp(-half), ratio * math.exp(half)
    mean = gemm_mean(rows)
    assert mean.speedup == pytest.approx(4.0)
    # half widths 0.3 and 0.4 of independent logarithms: 0.5 for the sum, 0.25 for the mean of two
    assert (mean.low, mean.high) == (pytest.approx(4 * math.exp(-0.25)), pytest.approx(4 * math.exp(0.25)))
    assert (mean.layers, mean.faster, mean.ties, mean.slower) == (2, 2, 0, 0)


def test_intervals_decide_between_faster_tie_and_slower():
    rows = pair(count=3)
    for row, ends in zip(rows[1::2], ((1.1, 1.3), (0.9, 1.1), (0.7, 0.8)), strict=True):
        row.speedup_ci_low, row.speedup_ci_high = ends
    mean = gemm_mean(rows)
    assert (mean.faster, mean.ties, mean.slower) == (1, 1, 1)


def test_a_mean_without_every_interval_has_none():
    rows = pair()
    rows[1].speedup_ci_low = None
    mean = gemm_mean(rows)
    assert mean.speedup
    assert (mean.low, mean.high) == (None, None)


def test_suite_total_weighs_by_count_and_ranks_only_complete_implementations():
    rows = pair()
    for row, count, median in zip(rows, (3, 3, 1, 1), (2e-3, 1e-3, 5e-3, 6e-3), strict=True):
        row.count, row.median_s = count, median
        row.ci_low_s, row.ci_high_s = median - 1e-4, median + 1e-4
    (total,) = analysis.suite_totals(rows)
    assert (total.layers, total.calls, total.partial) == (2, 4, [])
    assert [(t.implementation, t.seconds) for t in total.totals] == [
        (analysis.FASTEST, pytest.approx(8e-3)), ("numba.gemm", pytest.approx(9e-3)), (REFERENCE, pytest.approx(11e-3)),
    ]  # fmt: skip
    assert total.totals[1].speedup == pytest.approx(11 / 9)
    spread = math.hypot(3e-4, 1e-4)
    assert (total.totals[1].low, total.totals[1].high) == (pytest.approx(9e-3 - spread), pytest.approx(9e-3 + spread))
    fail(rows[3], "error", "no")
    (total,) = analysis.suite_totals(rows)
    assert [t.implementation for t in total.totals] == [analysis.FASTEST, REFERENCE]
    assert total.partial == ["numba.gemm (1 of 2)"]


def test_verification_counts_and_names_the_worst():
    record = varied_record()
    entries = {entry.implementation: entry for entry in analysis.verification(record.rows)}
    assert sum(e.mismatches for e in entries.values()) == 1
    assert sum(e.failed for e in entries.values()) == 3
    assert sum(e.unsupported for e in entries.values()) == 1
    assert sum(e.verified for e in entries.values()) == len(record.rows) - 5
    guilty = record.rows[5]
    assert entries[guilty.implementation].worst_row is guilty
    assert entries[guilty.implementation].worst == pytest.approx(3.1e-2 / 1.3e-5)


def test_notices_tell_what_disturbs_and_what_to_do():
    record = varied_record()
    record.complete = False
    notices = analysis.notices(record)
    titles = [notice.title for notice in notices]
    assert "This run is not complete" in titles
    assert "Unavailable: triton" in titles
    assert sum(title.endswith(("noisy", "drift", "above the roof")) for title in titles) == 3
    assert all(notice.advice for notice in notices)


def test_medians_that_contradict_the_paired_speedup_are_told():
    rows = pair()
    assert analysis.disagreements(rows) == []
    rows[1].median_s = rows[0].median_s / (1.25 * rows[1].speedup_vs_reference)
    rows[3].median_s = rows[2].median_s / (1.15 * rows[3].speedup_vs_reference)
    (told,) = analysis.disagreements(rows)
    assert told.startswith(f"{rows[1].case}, numba.gemm: ")
    assert any("disagree" in notice.title for notice in analysis.notices(make_record(rows)))


# Charts -----------------------------------------------------------------------------------------------


def test_a_dot_stands_under_its_roof_by_its_fraction():
    rows = make_rows(limit=40)
    data = charts.cells(rows, charts.layer_labels(rows))
    assert len(data["layer"]) == len(rows)
    for i, row in enumerate(rows):
        assert data["intensity"][i] == pytest.approx(2 * row.valid_macs / row.bytes, rel=1e-3)
        assert data["rate"][i] == pytest.approx(row.roofline_fraction * row.attainable_gflops, rel=1e-3)


def test_roofs_meet_the_compute_peak_at_their_ridge():
    rows = make_rows(limit=40)
    lines = charts.roofs(PEAKS, charts.cells(rows, charts.layer_labels(rows)))
    memory = {line["label"].split()[0]: line for line in lines if line["style"] == "memory"}
    # the faster of copy and triad, in GB/s
    assert {level: line["y2"] / line["x2"] for level, line in memory.items()} == {
        "L1": pytest.approx(402, rel=2e-3), "L2": pytest.approx(161, rel=2e-3), "L3": pytest.approx(74, rel=2e-3),
        "DRAM": pytest.approx(24.1, rel=2e-3),
    }  # fmt: skip
    assert all(line["y"] / line["x"] == pytest.approx(line["y2"] / line["x2"], rel=3e-3) for line in memory.values())
    assert [(line["style"], line["y"], line["y2"]) for line in lines[4:]] == [("peak", 232, 232), ("lower", 221, 221)]


def test_every_ridge_is_in_the_chart_even_where_no_layer_is():
    rows = [row for row in make_rows(limit=40) if row.kind == "pointwise"]
    lines = charts.roofs(PEAKS, data := charts.cells(rows, charts.layer_labels(rows)))
    (x_low, x_high), (y_low, y_high) = charts.domains(PEAKS, data)
    assert min(data["intensity"]) > 232 / 402
    assert all(x_low <= line["x"] < line["x2"] <= x_high * 1.001 for line in lines)
    assert all(y_low * 0.999 <= line["y"] <= line["y2"] <= y_high for line in lines)


def test_labels_of_close_roofs_take_both_sides():
    rows = make_rows(limit=10)
    peaks = [msgspec.structs.replace(p, value=160e9) if p.level == "L3" else p for p in PEAKS]
    lines = charts.roofs(peaks, charts.cells(rows, charts.layer_labels(rows)))
    assert [line["style"] for line in lines[:4]] == ["memory", "memory", "memory-below", "memory"]


def test_layers_with_one_name_are_told_apart():
    rows = make_rows(implementations=(REFERENCE,), limit=3)
    for row in rows:
        row.case = "x" * 100
    labels = list(charts.layer_labels(rows).values())
    assert len(set(labels)) == 3
    assert max(map(len, labels)) < 70


def test_colours_and_symbols():
    styles = charts.styles(make_rows())
    assert styles[REFERENCE] == ("var(--c0)", "circle")
    assert len({colour for colour, _ in styles.values()}) == len(styles)
    assert {symbol for name, (_, symbol) in styles.items() if name.startswith("numba.")} == {"square"}


# The page ---------------------------------------------------------------------------------------------


def test_the_page_has_every_section_and_figure(markup, elements):
    ids = {attributes.get("id") for _, attributes in elements.found}
    assert {
        "results",
        "roofline",
        "operators",
        "networks",
        "savings",
        "verification",
        "machine",
        "table",
        "columns",
    } <= ids
    links = [attributes["href"] for tag, attributes in elements.found if tag == "a"]
    assert all(link[0] == "#" and link[1:] in ids for link in links)
    for figure in (
        "3 min 12 s",
        "232 GFLOP/s",
        "one call takes 31 s",
        "CPU governor is powersave",
        "torch.channels_last",
    ):
        assert figure in markup
    assert all(f"<code>{name}</code>" in markup for name in COLUMN_NAMES)
    assert elements.tags().count("h1") == 1
    assert elements.tags().count("table") == elements.tags().count("caption")


def test_the_table_has_every_row_and_documents_its_columns(elements):
    rows = [attributes for tag, attributes in elements.found if tag == "tr" and "data-status" in attributes]
    assert len(rows) == len(varied_record().rows)
    titles = [attributes["title"] for tag, attributes in elements.found if tag == "th" and "title" in attributes]
    assert len(titles) >= 15
    assert all(title.partition(":")[0] in COLUMN_NAMES for title in titles)


def test_nothing_is_loaded_and_only_hashed_scripts_may_run(elements):
    policy = next(a["content"] for tag, a in elements.found if a.get("http-equiv") == "Content-Security-Policy")
    directives = dict(part.strip().partition(" ")[::2] for part in policy.split(";"))
    assert directives["default-src"] == "'none'"
    assert set(directives) == {"default-src", "script-src", "style-src", "base-uri", "form-action"}
    assert "unsafe" not in policy
    code = [content for tag, a, content in elements.raw if tag == "script" and a.get("type") != "application/json"]
    style = [content for tag, _, content in elements.raw if tag == "style"]
    for kind, contents in (("script-src", code), ("style-src", style)):
        hashes = [base64.b64encode(hashlib.sha256(c.encode()).digest()).decode() for c in contents]
        assert directives[kind].split() == [f"'sha256-{value}'" for value in hashes]
    loading = {name for _, attributes in elements.found for name in attributes} & {"src", "srcset", "action", "data"}
    assert not loading
    assert not {"img", "link", "iframe", "object", "embed", "base"} & set(elements.tags())
    assert not [
        name for _, attributes in elements.found for name in attributes if name.startswith("on") or name == "style"
    ]


def test_the_chart_library_is_there_once_and_the_page_stays_small(markup):
    assert markup.count("window.vegaEmbed") == 1
    assert 0.9e6 < len(markup.encode()) < 1.6e6


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: ascii(name[:12]))
def test_text_from_records_adds_no_markup(name):
    plain, hostile = Elements(render(hostile_record("p" * len(name)))), Elements(render(hostile_record(name)))
    assert hostile.tags() == plain.tags()
    assert [list(attributes) for _, attributes in hostile.found] == [list(attributes) for _, attributes in plain.found]
    code = [[c for tag, a, c in page.raw if a.get("type") != "application/json"] for page in (plain, hostile)]
    assert code[0] == code[1]
    assert hostile.json("cells")["implementation"][1] == text.clean(name)


def test_a_page_that_did_not_escape_would_be_noticed(monkeypatch):
    monkeypatch.setattr(shell, "json_text", json.dumps)
    plain, hostile = Elements(render(hostile_record("plain"))), Elements(render(hostile_record(HOSTILE[0])))
    assert hostile.tags() != plain.tags()


@given(st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5))
def test_embedded_json_is_exact_and_cannot_leave_its_element(value):
    embedded = shell.json_text(value)
    assert json.loads(embedded) == value
    assert not set(embedded) & set("<>&\u2028\u2029")


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": []},
        {"peaks": []},
        {"environment": Environment(machine="m"), "settings": {}, "timings": {}, "warnings": [], "unavailable": {}},
        {"rows": [fail(row, "error", "no") for row in make_rows(limit=5)], "complete": False, "finished": None},
        {"rows": make_rows(implementations=("numba.gemm",))},
        {"timings": {"total": math.nan}, "started": "yesterday"},
    ],
    ids=["no rows", "no peaks", "bare", "all failed", "no reference", "odd times"],
)
def test_sparse_records_render(changes):
    elements = Elements(render(make_record(**changes)))
    ids = {attributes.get("id") for _, attributes in elements.found}
    timed = len(elements.json("cells")["layer"])
    assert ("roofline" in ids) == (timed > 0)


def test_not_a_number_is_an_empty_cell():
    record = make_record(make_rows(limit=8))
    record.rows[2].median_s = record.rows[2].gflops = math.nan
    record.rows[3].speedup_vs_reference = math.inf
    markup = render(record)
    shown = markup[markup.index("<body>") : markup.index('<script type="application/json"')]
    assert "nan" not in shown.lower().replace("finance", "")
    assert ">inf" not in shown


def test_two_thousand_rows_keep_the_page_small():
    rows = [row for i in range(16) for row in make_rows(seed=i)]
    assert len(rows) > 2000
    for i, row in enumerate(rows):
        row.case = f"{row.case}.{i // 128}"
    elements = Elements(markup := render(make_record(rows)))
    assert len(elements.json("cells")["layer"]) == len(rows)
    assert sum("data-status" in attributes for tag, attributes in elements.found if tag == "tr") == len(rows)
    assert len(markup.encode()) < 6e6


def test_constant_columns_move_to_the_caption():
    rows = make_rows(limit=20)
    columns, _ = tables.result_table(rows)
    assert not {"Pass", "Type", "Device", "Suite"} & {column.heading for column in columns}
    assert tables.constants(rows) == "default, forward, float32, cpu, nchw"
    rows[0].dtype = "float64"
    assert "Type" in {column.heading for column in tables.result_table(rows)[0]}


# Where it runs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "package"), [("altair", "altair"), ("vl_convert", "vl-convert-python"), ("jinja2", "jinja2")]
)
def test_a_missing_library_is_one_line_with_the_way_out(module, package, monkeypatch):
    shell._bundle.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=package) as caught:
        render(make_record([]))
    assert "convbench report" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_chart_library_is_made_once_and_kept(tmp_path, monkeypatch):
    made = []

    def bundle(names):
        made.append(names)
        return "let made = 'é';\n"

    monkeypatch.setattr("vl_convert.javascript_bundle", bundle)
    monkeypatch.setenv("CONVBENCH_CACHE_DIR", str(tmp_path / "cache"))
    fresh = shell._bundle.__wrapped__  # as another process would
    assert fresh() == fresh() == "let made = 'é';\n"
    assert len(made) == 1
    (tmp_path / "file").touch()
    monkeypatch.setenv("CONVBENCH_CACHE_DIR", str(tmp_path / "file"))  # where nothing can be kept
    assert fresh() == fresh() == "let made = 'é';\n"
    assert len(made) == 3


def test_rendering_imports_nothing_heavy(tmp_path):
    (tmp_path / "run.json").write_bytes(to_json(make_record(make_rows(limit=5))))
    code = ("import sys; from convbench.cli.main import run; assert run(['report', sys.argv[1]]) == 0; "
            "print(sorted({'torch', 'numba', 'pandas'} & set(sys.modules)), 'altair' in sys.modules)")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[] True"


def test_the_command_writes_beside_the_record_or_where_told(tmp_path, capsys):
    (tmp_path / "run.json").write_bytes(to_json(make_record(make_rows(limit=5))))
    assert convbench(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'report.html'}\n"
    assert convbench(["report", str(tmp_path / "run.json"), "--out", str(tmp_path / "other.html"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["paths"] == {"report.html": str(tmp_path / "other.html")}
    assert len(document["rows"]) == 5
    assert (tmp_path / "other.html").read_bytes() == (tmp_path / "report.html").read_bytes()
    (tmp_path / "folder").mkdir()
    assert convbench(["report", str(tmp_path), "--out", str(tmp_path / "folder")]) == 0
    assert (tmp_path / "folder" / "report.html").exists()


def test_bad_records_and_places_are_one_line(tmp_path, capsys):
    assert convbench(["report", str(tmp_path)]) == 2
    (tmp_path / "run.json").write_bytes(b"{")
    assert convbench(["report", str(tmp_path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert f"{tmp_path}: holds no run.json" in lines[0]
    assert f"{tmp_path / 'run.json'}: not a convbench run record" in lines[1]
    with pytest.raises(OutputError, match=r"nowhere"):
        write(make_record([]), tmp_path / "nowhere" / "report.html")
