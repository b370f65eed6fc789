"""The pages of comparison and history in headless Chromium: drawn, linked, filtered, and hostile text stays text."""

from pathlib import Path

import msgspec
import pytest

from convbench.compare import compare
from convbench.history import read_history, series
from convbench.records import Stored
from convbench.report import render_comparison, render_history, text
from tests.convbench.records import hostile_record, make_record, make_rows
from tests.convbench.test_compare import base, by_kind, scaled, stored
from tests.convbench.test_history import night
from tests.convbench.test_report_browser import CONTROLS, HOSTILE, assert_quiet, pytestmark, visit  # noqa: F401

LOOK = """(async () => {
  seen.scatter = dots("[data-chart=scatter]");
  seen.bars = all("[data-chart=ratios] .mark-rect path").length;
  seen.roofline = dots("[data-chart=roofline]");
  seen.summary = document.getElementById("summary")?.textContent;
  seen.rows = all("#cells-table tbody tr").length;
  seen.wide = document.documentElement.scrollWidth - innerWidth;
})();"""

USE = """(async () => {
  const set = async (name, value) => { const input = document.querySelector(`#filter [name=${name}]`);
    input.value = value; input.dispatchEvent(new Event("input", { bubbles: true })); await pause(200); };
  const rows = () => all("#cells-table tbody tr");
  const faint = (chart) => all(`[data-chart=${chart}] .mark-symbol path, [data-chart=${chart}] .mark-rect path`)
    .filter((mark) => Number(getComputedStyle(mark).opacity) < 0.2).length;
  await set("kind", "depthwise");
  seen.depthwise = [rows().length, dots("[data-chart=scatter]"), document.getElementById("summary").textContent];
  await set("kind", "");
  await set("text", "no such layer"); seen.none = document.getElementById("summary").textContent; await set("text", "");
  seen.all = rows().length;
  rows()[3].click(); await pause(300);
  seen.picked = [rows().length, faint("scatter"), faint("ratios"), document.getElementById("unpick").hidden];
  document.getElementById("unpick").click(); await pause(400);
  seen.cleared = [rows().length, faint("scatter"), faint("ratios"), document.getElementById("unpick").hidden];
  await set("b", "0"); seen.itself = document.getElementById("summary").textContent; await set("b", "1");
  const canvas = document.querySelector("[data-chart=scatter] svg"), view = canvas.getBoundingClientRect();
  const at = (x, y, type, target) => target.dispatchEvent(new PointerEvent(type,
    { bubbles: true, clientX: view.x + x, clientY: view.y + y, pointerId: 1, isPrimary: true, buttons: 1 }));
  at(120, 60, "pointerdown", canvas.querySelector("path.background")); at(300, 200, "pointermove", window);
  at(view.width / 2, 340, "pointermove", window);
  at(view.width / 2, 340, "pointerup", window); await pause(500);
  seen.brushed = rows().length;
})();"""


def two() -> list[Stored]:
    faster = make_record(scaled(base().rows, by_kind), machine="other", run_id="other")
    return [stored(base()), stored(faster)]


def test_the_comparison_is_drawn(tmp_path):
    comparison = compare(two())
    seen = visit(tmp_path, render_comparison(comparison), LOOK)
    assert_quiet(seen)
    layers = len(comparison.layers)
    assert (seen["scatter"], seen["bars"], seen["rows"], seen["roofline"]) == (layers, layers, layers, 2 * layers)
    score = comparison.standing(comparison.others[0]).hardware
    ends = f"{text.significant(score.mean.low)} – {text.significant(score.mean.high)}"
    counts = f"{score.faster} faster, {score.ties} tied, {score.slower} slower"
    assert seen["summary"].startswith(f"{layers} layers: {text.times(score.mean.value)} ({ends}) in time; {counts}; ")
    assert seen["wide"] <= 0


def test_filters_and_selections_are_linked(tmp_path):
    comparison = compare(two())
    seen = visit(tmp_path, render_comparison(comparison), USE)
    assert_quiet(seen)
    layers = len(comparison.layers)
    depthwise = sum(layer.row.kind == "depthwise" for layer in comparison.layers.values())
    assert seen["depthwise"][:2] == [depthwise, depthwise]
    assert seen["depthwise"][2].startswith(f"{depthwise} layers: 0.500×")
    assert (seen["none"], seen["all"]) == ("no layer in common", layers)
    assert seen["picked"] == [1, layers - 1, layers - 1, False]
    assert seen["cleared"] == [layers, 0, 0, True]
    assert seen["itself"].startswith(f"{layers} layers: 1.00×")
    assert 0 < seen["brushed"] < layers


@pytest.mark.parametrize("name", [HOSTILE, CONTROLS], ids=["markup", "controls"])
def test_hostile_text_stays_text(tmp_path, name):
    def look(words):
        return visit(tmp_path, render_comparison(compare([stored(hostile_record(words))] * 2), [words]), LOOK)

    plain, seen = look("p" * len(name)), look(name)
    assert_quiet(seen)
    assert (seen["scripts"], seen["images"], seen["scatter"]) == (plain["scripts"], 0, plain["scatter"])
    assert seen["scatter"] > 0
    assert seen["wide"] <= 0


def test_a_phone_scrolls_only_inside_tables_and_fifty_runs_are_drawn(tmp_path):
    records = [make_record(make_rows(seed=n), machine=f"machine-{n:02}", run_id=str(n)) for n in range(50)]
    markup = render_comparison(compare(map(stored, records)))
    seen = visit(tmp_path, markup, LOOK, "--window-size=390,800")
    assert_quiet(seen)
    assert seen["wide"] <= 0
    assert seen["rows"] == seen["scatter"] > 0


HISTORY = """(async () => {
  seen.charts_drawn = all("[data-chart] svg").length;
  const select = document.querySelector("[name=quantity]");
  const paths = () => all("[data-chart] .mark-line path").map((path) => path.getAttribute("d")).join("|");
  const before = paths();
  select.value = "speed"; select.dispatchEvent(new Event("change", { bubbles: true }));
  await pause(400);
  seen.changed = paths() !== before;
  seen.wide = document.documentElement.scrollWidth - innerWidth;
})();"""


@pytest.mark.parametrize("name", [None, HOSTILE], ids=["plain", "hostile"])
def test_the_history_is_drawn(tmp_path, name):
    runs = [night(n, 1.3 if n >= 12 else 1.0) for n in range(20)]
    if name:
        for run in runs:
            for row in run.record.rows:
                row.implementation = name if row.implementation != row.reference else row.implementation
        runs = [Stored(run.path, msgspec.structs.replace(run.record, machine=name), "json") for run in runs]
    history = read_history(runs, lambda reason: None)
    found = series(history)
    seen = visit(tmp_path, render_history(history, found), HISTORY)
    assert_quiet(seen)
    assert seen["charts_drawn"] == len({item.key.operator for item in found})
    assert seen["changed"]
    assert seen["wide"] <= 0
    assert Path(tmp_path / "page.html").stat().st_size < 2e6
