"use strict";
(() => {
  const { read } = convbench;
  const columns = read("cells"), roofs = read("roofs"), specs = read("specs");
  const names = Object.keys(columns);
  const cells = columns.layer.map((_, i) => Object.fromEntries(names.map((name) => [name, columns[name][i]])));
  const reference = document.querySelector("main").dataset.reference;
  const filter = document.getElementById("filter");

  // Charts ---------------------------------------------------------------------------------------
  const charts = [...document.querySelectorAll("[data-chart]")].map((element) => ({ element, view: null }));

  function chosen(name) {
    const select = filter.querySelector(`select[name=${name}]`);
    return select ? select.value : "";
  }

  const GROUPING = ["kind", "pass", "place"];

  // A chart of one group shows that group; the others what the filter says.
  function datasets(own) {
    const on = new Set([...filter.querySelectorAll("input:checked")].map((box) => box.value));
    const [kind, pass, place] = GROUPING.map((name) => own[name] || chosen(name));
    const { chart } = own;
    const here = (entry) => !place || entry.place === place;
    const shown = cells.filter((cell) =>
      on.has(cell.implementation) && here(cell) && (!kind || cell.kind === kind) && (!pass || cell.pass === pass) &&
      (chart !== "speedup" || (cell.speedup !== null && cell.implementation !== reference)));
    return { cells: shown, roofs: roofs.filter(here) };
  }

  // A step in the specification would do, but Vega-Lite warns of it beside a width that follows the page.
  const height = (rows) => 19 * Math.max(1, new Set(rows.map((cell) => cell.layer)).size);

  async function draw(chart) {
    const { element } = chart;
    const spec = structuredClone(specs[element.dataset.chart]);
    spec.datasets = datasets(element.dataset);
    spec.height = spec.height || height(spec.datasets.cells);
    const { chart: name, kind, pass } = element.dataset;
    chart.view = await convbench.embed(element, spec, [name, kind, pass].filter(Boolean).join("-"));
  }

  function refresh() {
    for (const { element, view } of charts) {
      if (!view) continue;  // drawn when its block is opened
      const data = datasets(element.dataset);
      view.data("cells", data.cells);
      if (element.dataset.chart === "roofline") view.data("roofs", data.roofs);
      else view.height(height(data.cells));
      view.resize().runAsync();
    }
    document.querySelectorAll("details.kind").forEach((block) => {
      const own = block.querySelector("[data-kind]").dataset;
      block.hidden = GROUPING.some((name) => chosen(name) && chosen(name) !== own[name]);
    });
  }

  const visible = ({ element }) => !element.closest("details:not([open])");
  if (filter) {
    filter.addEventListener("change", refresh);
    filter.addEventListener("click", (event) => {
      const check = event.target.dataset.check;
      if (!check) return;
      filter.querySelectorAll("input").forEach((box) => { box.checked = check === "all"; });
      refresh();
    });
  }
  charts.forEach((chart) => {
    const block = chart.element.closest("details");
    if (block) block.addEventListener("toggle", () => { if (block.open && !chart.view && !chart.busy) chart.busy = draw(chart); });
  });
  const first = charts.filter(visible).map((chart) => (chart.busy = draw(chart)));
  Promise.all(first).then(
    () => { document.documentElement.dataset.charts = "drawn"; },
    (error) => { document.documentElement.dataset.charts = "failed"; console.error(error); });

  // The table of all cells -------------------------------------------------------------------------
  const form = document.getElementById("table-filter");
  const rows = [...document.querySelectorAll("#cells-table tbody tr")].map((row) => ({ row, text: row.textContent.toLowerCase() }));

  function filterTable() {
    const words = form.text.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const { row, text } of rows) {
      const fits = ["kind", "implementation", "status"].every((name) => !form[name].value || row.dataset[name] === form[name].value);
      row.hidden = !(fits && words.every((word) => text.includes(word)));
      count += !row.hidden;
    }
    document.getElementById("table-count").textContent = count === rows.length ? `${count} rows` : `${count} of ${rows.length} rows`;
  }
  form.addEventListener("input", filterTable);
  form.addEventListener("submit", (event) => event.preventDefault());
  filterTable();  // a reloaded page keeps what was typed
})();
