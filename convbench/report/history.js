"use strict";
(() => {
  const { read, embed } = convbench;
  const lines = read("lines"), specs = read("specs");
  const filter = document.getElementById("filter");
  const charts = [...document.querySelectorAll("[data-chart]")].map((element) => ({ element, operator: Number(element.dataset.operator) }));

  function datasets({ operator }) {
    const on = new Set([...filter.querySelectorAll("input:checked")].map((box) => box.value));
    const [quantity, place] = ["quantity", "place"].map((name) => filter.querySelector(`[name=${name}]`).value);
    const shown = lines.filter((line) =>
      line.operator === operator && line.place === place && line.quantity === quantity && on.has(line.implementation));
    const points = shown.flatMap((line) => line.when.map((when, i) => (
      { when, value: line.value[i], low: line.low[i], high: line.high[i], implementation: line.implementation })));
    const steps = shown.flatMap((line) => line.steps.map((step) => (
      { ...step, direction: step.up ? "up" : "down", implementation: line.implementation })));
    return { points, steps };
  }

  async function draw(chart) {
    const spec = structuredClone(specs.history), { element } = chart;
    spec.datasets = datasets(chart);
    const { points, steps } = spec.datasets;
    element.hidden = !points.length;  // nothing has no scale
    element.parentElement.querySelector(".empty").hidden = points.length > 0;
    if (!steps.length) spec.layer.pop();
    if (points.length) await embed(element, spec, `history-${chart.operator}`);
  }

  filter.addEventListener("change", () => charts.forEach(draw));
  Promise.all(charts.map(draw)).then(
    () => { document.documentElement.dataset.charts = "drawn"; },
    (error) => { document.documentElement.dataset.charts = "failed"; console.error(error); });
})();
