"use strict";
(() => {
  const { read, embed } = convbench;
  const columns = read("cells"), roofs = read("roofs"), specs = read("specs");
  const names = Object.keys(columns);
  const cells = columns.layer.map((_, i) => Object.fromEntries(names.map((name) => [name, columns[name][i]])));
  const filter = document.getElementById("filter");
  const element = document.querySelector("[data-chart]");

  async function draw() {
    const on = (name) => new Set([...filter.querySelectorAll(`[name=${name}]:checked`)].map((box) => box.value));
    const kinds = on("kind"), passes = on("pass");
    const spec = structuredClone(specs.roofline);
    spec.datasets = { cells: cells.filter((cell) => kinds.has(cell.kind) && passes.has(cell.pass)), roofs };
    await embed(element, spec, "profile-roofline");
  }

  filter.addEventListener("change", draw);
  draw().then(
    () => { document.documentElement.dataset.charts = "drawn"; },
    (error) => { document.documentElement.dataset.charts = "failed"; console.error(error); });
})();
