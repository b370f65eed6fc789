"use strict";
(() => {
  const { read, embed } = convbench;
  const lines = read("lines"), specs = read("specs");
  async function draw(element) {
    const name = element.dataset.chart, spec = structuredClone(specs[name]);
    spec.datasets = { points: lines[name] };
    if (!lines[name].length) { element.hidden = true; return; }
    await embed(element, spec, `train-${name}`);
  }
  Promise.all([...document.querySelectorAll("[data-chart]")].map(draw)).then(
    () => { document.documentElement.dataset.charts = "drawn"; },
    (error) => { document.documentElement.dataset.charts = "failed"; console.error(error); });
})();
