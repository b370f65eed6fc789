"use strict";
(() => {
  const { read, embed } = convbench;
  const lines = read("lines"), specs = read("specs");
  const filter = document.getElementById("filter");
  const charts = [...document.querySelectorAll("[data-chart]")].map((element) => ({ element, operator: Number(element.dataset.operator), view: null }));

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

  const tell = ({ element }, { points }) => { element.parentElement.querySelector(".empty").hidden = points.length > 0; };

  async function draw(chart) {
    const spec = structuredClone(specs.history);
    spec.datasets = datasets(chart);
    tell(chart, spec.datasets);
    chart.view = await embed(chart.element, spec, `history-${chart.operator}`);
  }

  filter.addEventListener("change", () => {
    for (const chart of charts) {
      const data = datasets(chart);
      tell(chart, data);
      chart.view?.data("points", data.points).data("steps", data.steps).resize().runAsync();
    }
  });
  Promise.all(charts.map(draw)).then(
    () => { document.documentElement.dataset.charts = "drawn"; },
    (error) => { document.documentElement.dataset.charts = "failed"; console.error(error); });
})();
