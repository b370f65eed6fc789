"use strict";
(() => {
  const { read, embed, significant, engineering } = convbench;
  const data = read("cells"), roofs = read("roofs"), specs = read("specs");
  const { layers } = data;
  const filter = document.getElementById("filter"), chips = document.getElementById("sides");
  const summary = document.getElementById("summary"), unpick = document.getElementById("unpick");
  const MOST_AT_ONCE = 8, LABELLED = 60;
  let picked = null;  // numbers of the layers that stand out, or null for all

  // Joining, as convbench.ratios does ---------------------------------------------------------------
  // For each side: layer -> its cells.
  const table = data.sides.map((side) => {
    const cells = layers.label.map(() => []);
    side.layer.forEach((layer, i) => cells[layer].push(
      { by: side.by[i], time: side.time[i], low: side.low[i], high: side.high[i], share: side.share[i] }));
    return cells;
  });

  const value = (name) => filter.querySelector(`[name=${name}]`)?.value ?? "";
  const least = (cells) => cells.reduce((best, cell) => (!best || cell.time < best.time ? cell : best), undefined);

  function cellOf(side, layer) {
    const by = value("by"), cells = table[side][layer];
    return by === "" ? least(cells) : cells.find((cell) => cell.by === Number(by));
  }

  function shown() {
    const words = value("text").toLowerCase().split(/\s+/).filter(Boolean);
    const suite = value("suite");
    return layers.label.map((_, layer) => layer).filter((layer) =>
      ["kind", "pass", "dtype"].every((name) => !value(name) || layers[name][layer] === value(name)) &&
      (suite === "" || layers.suites[layer].includes(Number(suite))) &&
      words.every((word) => `${layers.label[layer]} ${layers.shape[layer]}`.toLowerCase().includes(word)));
  }

  function verdict(low, high) {
    if (low === null || high === null) return "unknown";
    return low > 1 ? "faster" : high < 1 ? "slower" : "tie";
  }

  function pair(layer) {
    const a = cellOf(Number(value("a")), layer), b = cellOf(Number(value("b")), layer);
    if (!a || !b) return null;
    const known = a.low && a.high && b.low && b.high;
    const ratio = a.time / b.time, low = known ? a.low / b.high : null, high = known ? a.high / b.low : null;
    return {
      id: layer, layer: layers.label[layer], kind: layers.kind[layer], shape: layers.shape[layer],
      a: a.time, b: b.time, a_by: data.implementations[a.by], b_by: data.implementations[b.by],
      ratio, low, high, verdict: verdict(low, high), a_share: a.share, b_share: b.share,
    };
  }

  const percent = (share) => (share ? `${significant(100 * share)}%` : "");
  const interval = (low, high) => (low === null ? "" : `${significant(low)} – ${significant(high)}`);

  function told(pair) {
    return {
      ...pair, on: picked === null || picked.has(pair.id) ? 1 : 0,
      a_text: `${engineering(pair.a, "s")}, ${pair.a_by}`, b_text: `${engineering(pair.b, "s")}, ${pair.b_by}`,
      ratio_text: `${significant(pair.ratio)}×${pair.low === null ? "" : ` (${interval(pair.low, pair.high)})`}`,
      shares: [pair.a_share, pair.b_share].map((share) => percent(share) || "unknown").join(" and "),
    };
  }

  function mean(ratios) {
    const log = ratios.reduce((sum, { ratio }) => sum + Math.log(ratio), 0) / ratios.length;
    const spread = Math.sqrt(ratios.reduce((sum, { low, high }) => sum + (Math.log(high / low) / 2) ** 2, 0)) / ratios.length;
    const known = ratios.every(({ low }) => low !== null);
    return { value: Math.exp(log), low: known ? Math.exp(log - spread) : null, high: known ? Math.exp(log + spread) : null };
  }

  function summarise(pairs) {
    const chosen = picked === null ? pairs : pairs.filter(({ id }) => picked.has(id));
    unpick.hidden = picked === null;
    if (!chosen.length) return "no layer in common";
    const time = mean(chosen), count = (name) => chosen.filter((pair) => pair.verdict === name).length;
    const shared = chosen.filter((pair) => pair.a_share && pair.b_share)
      .map((pair) => ({ ratio: pair.b_share / pair.a_share, low: null, high: null }));
    const unknown = count("unknown");
    return `${chosen.length} ${chosen.length === 1 ? "layer" : "layers"}: ${significant(time.value)}× ` +
      `${time.low === null ? "" : `(${interval(time.low, time.high)}) `}in time; ` +
      `${count("faster")} faster, ${count("tie")} tied, ${count("slower")} slower${unknown ? `, ${unknown} without interval` : ""}` +
      `${shared.length ? `; ${significant(mean(shared).value)}× in share of own roof` : ""}`;
  }

  function dots(wanted) {
    const sides = [...chips.querySelectorAll("input:checked")].map((box) => Number(box.value));
    return sides.flatMap((n) => wanted.map((layer) => [layer, cellOf(n, layer)]).filter(([layer, cell]) => cell && layers.gflop[layer])
      .map(([layer, cell]) => ({
        id: layer, layer: layers.label[layer], shape: layers.shape[layer], side: data.sides[n].label, colour: data.sides[n].colour,
        by: data.implementations[cell.by], time: engineering(cell.time, "s"), share: percent(cell.share),
        intensity: layers.intensity[layer], rate: layers.gflop[layer] / cell.time, on: picked === null || picked.has(layer) ? 1 : 0,
      })));
  }

  function roofsOf(wanted) {
    const sides = new Set([...chips.querySelectorAll("input:checked")].map((box) => Number(box.value)));
    const dtypes = new Set(wanted.map((layer) => layers.dtype[layer]));
    return roofs.filter((line) => sides.has(line.side) && dtypes.has(line.dtype))
      .map((line) => ({ ...line, colour: data.sides[line.side].colour }));
  }

  function parity(pairs) {
    const times = pairs.flatMap(({ a, b }) => [a, b]);
    return times.length ? [Math.min(...times), Math.max(...times)].map((time) => ({ a: time, b: time })) : [];
  }

  // Showing ------------------------------------------------------------------------------------------
  const charts = [...document.querySelectorAll("[data-chart]")].map((element) => ({ element, name: element.dataset.chart, view: null }));
  const height = (pairs) => Math.max(1, pairs.length) * (pairs.length <= LABELLED ? 19 : Math.max(2, Math.min(9, 2400 / pairs.length)));

  function datasets(name, wanted, pairs) {
    if (name === "roofline") return { dots: dots(wanted), roofs: roofsOf(wanted) };
    return name === "scatter" ? { pairs, parity: parity(pairs) } : { pairs };
  }

  function state() {
    const wanted = shown();
    const pairs = filter.querySelector("[name=a]") ? wanted.map(pair).filter(Boolean).sort((x, y) => y.ratio - x.ratio).map(told) : [];
    return { wanted, pairs };
  }

  // Nothing to show is not drawn: a chart cannot scale nothing.
  const empty = ({ name }, { pairs }) => name !== "roofline" && !pairs.length;

  async function draw(chart, { wanted, pairs }) {
    if (empty(chart, { pairs })) return;
    const spec = structuredClone(specs[chart.name]);
    spec.datasets = datasets(chart.name, wanted, pairs);
    if (chart.name === "ratios") spec.height = height(pairs);
    chart.view = await embed(chart.element, spec, `compare-${chart.name}`);
    if (chart.name === "scatter") chart.view.addSignalListener("brush", (_, area) => brushed(area));
    chart.view.addEventListener("click", (_, item) => { if (chart.name !== "scatter" && item?.datum?.id !== undefined) pick([item.datum.id]); });
  }

  function refresh() {
    const now = state();
    if (summary) summary.textContent = filter.querySelector("[name=a]") ? summarise(now.pairs) : "";
    for (const chart of charts) {
      const { name, view, element } = chart;
      element.hidden = empty(chart, now);
      if (element.hidden) continue;
      if (!view) { draw(chart, now); continue; }
      for (const [key, rows] of Object.entries(datasets(name, now.wanted, now.pairs))) view.data(key, rows);
      if (name === "ratios") view.height(height(now.pairs));
      view.resize().runAsync();
    }
    fill(now.pairs);
  }

  const COLUMNS = [
    ["layer"], ["kind"], ["shape"], ["a", (pair) => engineering(pair.a, "s")], ["a_by"], ["b", (pair) => engineering(pair.b, "s")], ["b_by"],
    ["ratio", (pair) => `${significant(pair.ratio)}×`], ["low", (pair) => interval(pair.low, pair.high)], ["verdict"],
    ["a_share", (pair) => percent(pair.a_share)], ["b_share", (pair) => percent(pair.b_share)],
  ];

  function fill(pairs) {
    const body = document.querySelector("#cells-table tbody");
    if (!body) return;
    body.replaceChildren(...pairs.filter(({ on }) => on).map((pair) => {
      const row = document.createElement("tr");
      row.dataset.layer = pair.id;
      COLUMNS.forEach(([name, show], i) => {
        const cell = document.createElement(i ? "td" : "th");
        if (show) {
          cell.className = name === "ratio" && pair.verdict in TINTS ? `num ${TINTS[pair.verdict]}` : "num";
          cell.dataset.sort = pair[name] ?? "";
        }
        cell.textContent = show ? show(pair) : pair[name];
        row.append(cell);
      });
      return row;
    }));
    document.querySelectorAll("#cells-table thead [aria-sort]").forEach((heading) => heading.removeAttribute("aria-sort"));
  }
  const TINTS = { faster: "up2", slower: "down2" };

  // Selecting ----------------------------------------------------------------------------------------
  function pick(ids) {
    const same = picked !== null && ids && ids.length === picked.size && ids.every((id) => picked.has(id));
    picked = !ids || same ? null : new Set(ids);
    refresh();
  }

  let waiting = null;
  function brushed(area) {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      const inside = ({ a, b }) => a >= Math.min(...area.a) && a <= Math.max(...area.a) && b >= Math.min(...area.b) && b <= Math.max(...area.b);
      picked = area.a && area.b ? new Set(state().pairs.filter(inside).map(({ id }) => id)) : null;
      refresh();
    }, 60);
  }

  filter.addEventListener("input", refresh);
  unpick.addEventListener("click", () => {
    picked = null;
    const scatter = charts.find(({ name }) => name === "scatter");  // drawn anew, without its brush
    if (scatter?.view) draw(scatter, state());
    refresh();
  });
  document.querySelector("#cells-table")?.addEventListener("click", (event) => {
    const row = event.target.closest("tbody tr");
    if (row) pick([Number(row.dataset.layer)]);
  });
  const order = [...chips.querySelectorAll("input:checked")];  // the oldest leaves when there are too many
  chips.addEventListener("change", ({ target }) => {
    if (!target.checked) order.splice(order.indexOf(target), 1);
    else if (order.push(target) > MOST_AT_ONCE) order.shift().checked = false;
    refresh();
  });

  const now = state();
  if (filter.querySelector("[name=a]")) summary.textContent = summarise(now.pairs);
  fill(now.pairs);
  Promise.all(charts.map((chart) => draw(chart, now))).then(
    () => { document.documentElement.dataset.charts = "drawn"; },
    (error) => { document.documentElement.dataset.charts = "failed"; console.error(error); });
})();
