"use strict";
// What the scripts of all pages share: reading their data, drawing a chart, saving it.
const convbench = (() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);

  function config(width) {
    const text = "system-ui, sans-serif";
    return {
      background: "transparent", font: text, view: { stroke: "var(--line)" },
      axis: {
        labelColor: "var(--muted)", titleColor: "var(--muted)", gridColor: "var(--grid)", domainColor: "var(--line)",
        tickColor: "var(--line)", labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal", titlePadding: 10, titleLimit: width,
      },
      axisY: { labelLimit: width < 600 ? 120 : 280 },
      style: {
        "roof-memory": { color: "var(--roof)", strokeWidth: 1.2 },
        "roof-memory-below": { color: "var(--roof)", strokeWidth: 1.2 },
        "roof-peak": { color: "var(--roof)", strokeWidth: 2 },
        "roof-lower": { color: "var(--roof)", strokeWidth: 1.2, strokeDash: [5, 4] },
        "roof-label": { color: "var(--muted)", fontSize: 11.5, limit: 220 },
        parity: { color: "var(--c0)", strokeWidth: 1.5 },
      },
    };
  }

  // Draws a Vega-Lite specification and returns its view; name is that of the file to save.
  async function embed(element, spec, name) {
    spec.config = config(element.clientWidth);
    // ast: expressions are interpreted, so the page needs no eval.
    const options = { ast: true, actions: false, renderer: "svg", defaultStyle: false, tooltip: { disableDefaultStyle: true } };
    const { view } = await vegaEmbed(element, spec, options);
    offerSvg(element, name);
    return view;
  }

  function offerSvg(element, name) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "save";
    button.textContent = "save as SVG";
    button.addEventListener("click", () => {
      const style = getComputedStyle(document.documentElement);
      const markup = new XMLSerializer().serializeToString(element.querySelector("svg"))
        .replace(/var\((--[\w-]+)\)/g, (_, name) => style.getPropertyValue(name).trim());
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([markup], { type: "image/svg+xml" }));
      link.download = `convbench-${name}.svg`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    });
    if (element.nextElementSibling?.className === "save") element.nextElementSibling.remove();  // of an earlier drawing
    element.after(button);
  }

  // Three significant digits and engineering prefixes, as convbench.report.text writes them.
  function significant(value) {
    if (value === null || !Number.isFinite(value)) return "";
    const rounded = Number(value.toPrecision(3));
    if (!rounded) return "0";
    const digits = Math.max(0, 2 - Math.floor(Math.log10(Math.abs(rounded))));
    return rounded.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  }

  const PREFIXES = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""], [1e-3, "m"], [1e-6, "µ"], [1e-9, "n"]];
  function engineering(value, unit) {
    const rounded = Number(value.toPrecision(3));
    const [scale, prefix] = PREFIXES.find(([scale]) => rounded >= scale) ?? PREFIXES.at(-1);
    return `${significant(value / scale)} ${prefix}${unit}`;
  }

  return { read, embed, significant, engineering };
})();
