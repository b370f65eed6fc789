"""The page in headless Chromium: it draws, filters and sorts under its policy, and hostile text stays text."""

import base64
import hashlib
import json
import re
import shutil

import pytest

from benchmarks.screenshot import DARK, LIGHT, chromium
from convbench.report import render, text
from tests.convbench.records import REFERENCE, hostile_record, make_record, make_rows, varied_record

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
    reason="chromium is not installed (apt-get install chromium)",
)

HOSTILE = (
    "</script><script>pwned=1;document.title='pwned'</script><img src=x onerror=\"pwned=1\">'\"><svg onload=pwned=1>"
)
CONTROLS = "\u202egpj.exe\u2066\u200f\u2028\u2029\x00\x1b[31m __proto__ {{7*7}} javascript:pwned=1 &lt;b&gt;"
LONG = "W" * 10_000

# Runs first in the page, sees whatever goes wrong, and writes what it found into the page for --dump-dom.
PROBE = """
const seen = { violations: [], errors: [] };
document.addEventListener("securitypolicyviolation", (e) => seen.violations.push(e.violatedDirective));
addEventListener("error", (e) => seen.errors.push(String(e.message)));
addEventListener("unhandledrejection", (e) => seen.errors.push(String(e.reason)));
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const all = (selector) => [...document.querySelectorAll(selector)];
const dots = (chart) => all(chart + " .mark-symbol path").length;
const colour = (selector, name) => getComputedStyle(document.querySelector(selector))[name];
addEventListener("DOMContentLoaded", async () => {
  for (let i = 0; i < 100 && !document.documentElement.dataset.charts; i++) await pause(100);
  seen.charts = document.documentElement.dataset.charts;
  await STEPS
  seen.title = document.title;
  seen.pwned = typeof pwned === "undefined" ? null : pwned;
  seen.scripts = all("script").length;
  seen.images = all("img").length;
  const out = document.createElement("textarea");
  out.id = "probe";
  out.textContent = btoa(unescape(encodeURIComponent(JSON.stringify(seen))));
  document.body.append(out);
});
"""

LOOK = """(async () => {
  seen.roofline = dots("#roofline");
  seen.labels = all("#roofline svg text").map((e) => e.textContent).join("|");
  seen.wide = document.documentElement.scrollWidth - innerWidth;
  const dot = document.querySelector("#roofline .mark-symbol path");
  if (dot) {
    const box = dot.getBoundingClientRect();
    const where = { bubbles: true, clientX: box.x + box.width / 2, clientY: box.y + box.height / 2 };
    dot.dispatchEvent(new PointerEvent("pointermove", where));
    await pause(100);
    seen.tooltip = document.getElementById("vg-tooltip-element")?.textContent;
    seen.tooltipTags = all("#vg-tooltip-element *").map((e) => e.tagName);
  }
})();"""

USE = """(async () => {
  const rows = () => all("#cells-table tbody tr").filter((row) => !row.hidden);
  const pick = (select, value) => { select.value = value; select.dispatchEvent(new Event("input", { bubbles: true }));
    select.dispatchEvent(new Event("change", { bubbles: true })); };
  const box = document.querySelector("#filter input[value='torch.unfold']");
  box.click(); await pause(300); seen.unchecked = dots("#roofline");
  box.click(); pick(document.querySelector("#filter select[name=kind]"), "depthwise");
  await pause(300); seen.depthwise = dots("#roofline");
  seen.kinds = all("details.kind").filter((block) => !block.hidden).length;
  const form = document.getElementById("table-filter");
  pick(form.status, "mismatch"); seen.mismatches = rows().length; pick(form.status, "");
  form.text.value = "vgg16 unfold"; form.text.dispatchEvent(new Event("input", { bubbles: true }));
  seen.found = rows().map((row) => row.textContent); seen.count = document.getElementById("table-count").textContent;
  form.text.value = ""; form.text.dispatchEvent(new Event("input", { bubbles: true }));
  const header = all("#cells-table thead th").find((th) => th.textContent === "Time");
  const times = () => all("#cells-table tbody tr").map((row) => row.cells[header.cellIndex].dataset.sort);
  header.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true })); await pause(100);
  seen.up = times(); seen.direction = header.getAttribute("aria-sort");
  header.click(); await pause(100); seen.down = times();
  document.querySelector("#roofline .save").addEventListener("click", (e) => e.stopPropagation());
})();"""

COLOURS = """(async () => {
  seen.colours = {
    page: colour("body", "backgroundColor"), text: colour("body", "color"), muted: colour("caption", "color"),
    link: colour("nav a", "color"), bad: colour("h3.bad", "color"),
    label: colour("#roofline svg .role-axis-label text", "fill"),
    title: colour("#roofline svg .role-axis-title text", "fill"),
    roof: colour("#roofline svg .mark-rule.role-mark line", "stroke"),
  };
  seen.marks = [...new Set(all("#roofline .mark-symbol path").map((e) => getComputedStyle(e).fill))];
})();"""


def visit(tmp_path, markup: str, steps: str = LOOK, *arguments: str) -> dict:
    """What the probe saw; the page's policy stays, with the probe's own hash added."""
    probe = PROBE.replace("STEPS", steps)
    digest = base64.b64encode(hashlib.sha256(probe.encode()).digest()).decode()
    markup = markup.replace("script-src ", f"script-src 'sha256-{digest}' ", 1)
    markup = markup.replace("<title>", f"<script>{probe}</script><title>", 1)
    path = tmp_path / "page.html"
    path.write_text(markup, "utf-8")
    done = chromium(path, "--dump-dom", "--enable-logging=stderr", *arguments)
    found = re.search(r'<textarea id="probe">([^<]*)</textarea>', done.stdout)
    assert found, done.stderr[-2000:]
    seen = json.loads(base64.b64decode(found[1]))
    seen["console"] = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return seen


def assert_quiet(seen: dict) -> None:
    assert (seen["charts"], seen["violations"], seen["errors"], seen["console"]) == ("drawn", [], [], [])
    assert seen["pwned"] is None


def test_every_cell_is_drawn_under_its_roofs(tmp_path):
    record = varied_record()
    seen = visit(tmp_path, render(record))
    assert_quiet(seen)
    assert seen["roofline"] == sum(row.median_s is not None for row in record.rows)
    assert all(f"{level} " in seen["labels"] for level in ("L1", "L2", "L3", "DRAM", "FMA", "GEMM"))
    assert seen["title"] == "convbench: synthetic-2c, 2026-01-02 03:04 UTC"
    first = record.rows[0]
    for part in (first.case, first.implementation, text.seconds(first.median_s), text.shape(first)):
        assert part in seen["tooltip"]


def test_filters_and_sorting_work(tmp_path):
    record = varied_record()
    timed = [row for row in record.rows if row.median_s]
    seen = visit(tmp_path, render(record), USE)
    assert_quiet(seen)
    assert seen["unchecked"] == sum(row.implementation != "torch.unfold" for row in timed)
    assert (seen["depthwise"], seen["kinds"]) == (sum(row.kind == "depthwise" for row in timed), 1)
    assert seen["mismatches"] == 1
    assert len(seen["found"]) == sum("vgg16" in r.case and "unfold" in r.implementation for r in record.rows) > 0
    assert seen["count"] == f"{len(seen['found'])} of {len(record.rows)} rows"
    up, down = ([float(time) for time in seen[way] if time] for way in ("up", "down"))
    assert up == sorted(up)
    assert down == sorted(down, reverse=True)
    assert len(up) == len(timed)
    assert seen["up"][len(timed) :] == seen["down"][len(timed) :] == [""] * (len(record.rows) - len(timed))
    assert seen["direction"] == "ascending"


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2."""
    channels = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(("scheme", "dark"), [(LIGHT, False), (DARK, True)], ids=["light", "dark"])
def test_text_and_marks_stand_out_in_both_schemes(tmp_path, scheme, dark):
    seen = visit(tmp_path, render(varied_record()), COLOURS, f"--blink-settings=preferredColorScheme={scheme}")
    assert_quiet(seen)
    colours = seen["colours"]
    paper = colours.pop("page")
    assert (luminance(paper) < 0.05) == dark
    assert {name: contrast(paper, value) >= 4.5 for name, value in colours.items()} == dict.fromkeys(colours, True)
    assert len(seen["marks"]) == 9
    assert min(contrast(paper, mark) for mark in seen["marks"]) >= 3


@pytest.mark.parametrize("name", [HOSTILE, CONTROLS, LONG], ids=["markup", "controls", "long"])
def test_hostile_text_stays_text(tmp_path, name):
    plain = visit(tmp_path, render(hostile_record("p" * len(name))))
    seen = visit(tmp_path, render(hostile_record(name)))
    assert_quiet(seen)
    assert seen["title"] == f"convbench: {text.clean(name)}, {text.clean(name)}"
    assert (seen["scripts"], seen["images"], seen["roofline"]) == (plain["scripts"], 0, plain["roofline"])
    assert seen["tooltipTags"] == plain["tooltipTags"]
    assert seen["wide"] <= 0
    assert seen["roofline"] > 0


def test_the_policy_stops_and_the_probe_sees_a_script_that_got_in(tmp_path):
    markup = render(make_record(make_rows(limit=4)))
    intruder = "<script>pwned=1;document.title='pwned'</script><img src=x onerror='pwned=1'></main>"
    seen = visit(tmp_path, markup.replace("</main>", intruder, 1))
    assert seen["pwned"] is None
    assert seen["title"] != "pwned"
    assert len(seen["violations"]) >= 2
    assert seen["console"]


def test_a_phone_scrolls_only_inside_tables(tmp_path):
    seen = visit(tmp_path, render(varied_record()), LOOK, "--window-size=390,800")
    assert_quiet(seen)
    assert seen["wide"] <= 0


def test_two_thousand_cells_are_drawn(tmp_path):
    rows = [row for i in range(16) for row in make_rows(seed=i)]
    for i, row in enumerate(rows):
        row.case = f"{row.case}.{i // 128}"
    seen = visit(tmp_path, render(make_record(rows)))
    assert_quiet(seen)
    assert seen["roofline"] == len(rows) > 2000


def test_a_record_without_times_has_no_charts(tmp_path):
    seen = visit(tmp_path, render(make_record([])))
    assert_quiet(seen)
    assert seen["roofline"] == 0
    assert REFERENCE not in seen["labels"]
