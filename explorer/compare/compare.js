// Columns of samples that differ only in the model that drew them, and a threshold to try.
//
// A Streamlit component (v2) calls the default export on every rerun; a static page could call it
// once. Everything the reader moves happens here; the host hears of it when the reader stops
// (state "view": {at, sample}), to keep it in the link.

const PAUSE = 400;                // one report for a run of moves, in milliseconds
let half = null;                  // the 65,536 half-precision numbers, made when first needed

export default function compare({ parentElement, data, setStateValue }) {
  let p = parentElement.sedCompare;
  if (!p || p.id !== data.id || !p.root.isConnected) {
    const before = p;
    p?.destroy();
    p = parentElement.sedCompare = create(parentElement, data, before);
  }
  p.setState = setStateValue;
  return () => setTimeout(() => p.root.isConnected || p.destroy());
}

// -- the parts -----------------------------------------------------------------------------------

function create(parent, data, before) {
  const p = { ...data, table: rows(data.colours.table), only: before?.only ?? false };
  const same = before?.data === data.data;
  p.sample = Math.min(same ? before.sample : data.sample ?? 0, p.names.length - 1);
  p.at = same && before.curve && before.hidden === p.hidden ? before.at : data.at;
  p.columns = data.columns.map((column) => open(p, column));
  build(p);
  parent.append(p.root);
  const watch = new ResizeObserver(() => draw(p));
  watch.observe(p.root);
  p.destroy = () => { clearTimeout(p.telling); watch.disconnect(); p.root.remove(); };
  render(p);
  return p;
}

function open(p, column) {
  const live = column.live && { ...column.live, values: halves(column.live.values) };
  return { ...column, values: halves(column.values), live };
}

function build(p) {
  p.root = el("section", { class: p.hidden ? "cmp hidden" : "cmp", "aria-label": "Samples side by side" });
  p.number = el("span", { class: "number" });
  const back = button("Sample before", "M15 5 6 12l9 7z", () => step(p, -1));
  const on = button("Next sample", "M9 5l9 7-9 7z", () => step(p, 1));
  const tools = div("tools", p.names.length > 1 ? div("steps", back, p.number, on) : p.number);
  if (!p.hidden) tools.append(legend(p), only(p));
  p.views = p.columns.map((column) => view(p, column));
  const grid = div("columns", ...p.views.map((v) => v.figure));
  grid.style.setProperty("--columns", p.columns.length);
  grid.style.setProperty("--rows", p.columns.some((c) => c.live) ? 6 : 4);
  p.live = el("p", { class: "unseen", "aria-live": "polite" });
  p.root.append(tools, grid);
  if (p.curve) p.root.append(threshold(p));
  p.root.append(p.live);
}

function legend(p) {
  const ramp = el("i", { class: "ramp", style: `background:linear-gradient(90deg,${p.colours.value.join(",")})` });
  p.ramp = span("key", short(p.low * p.scale), ramp, `${short(p.top * p.scale)} ${p.unit}`);
  return div("legend", span("key", el("i", { class: "zero" }), "exact zero"), p.ramp);
}

function only(p) {
  const box = el("input", { type: "checkbox", role: "switch" });
  box.checked = p.only;
  box.addEventListener("change", () => { p.only = box.checked; render(p); });
  return el("label", { class: "check" }, box, "|x| > 0 only");
}

function view(p, column) {
  const v = { column, canvas: picture(p), count: el("p", { class: "count" }), many: el("p", { class: "note" }) };
  const name = el("p", { class: "name" }, mark(column), column.name);
  const made = el("p", { class: "note" }, p.hidden ? "" : `recorded, seed ${column.seed}, recipe ${column.recipe}`);
  v.figure = el("figure", { "data-key": column.key }, name, v.canvas, div("words", v.count, v.many), made);
  if (p.columns.some((c) => c.live)) v.figure.append(...liveParts(p, v));
  return v;
}

function liveParts(p, v) {
  const live = v.column.live;
  if (!live) return [el("p", { class: "which" }), el("div")];
  v.liveCanvas = picture(p);
  v.liveCount = el("p", { class: "count" });
  v.liveMany = el("p", { class: "note" });
  const made = el("p", { class: "note" }, `recipe ${live.recipe}`);
  const words = el("p", { class: "which" }, `Live, seed ${live.seed}`);
  return [words, div("", v.liveCanvas, v.liveCount, v.liveMany, made)];
}

function picture(p) {
  const canvas = el("canvas", { class: "picture", role: "img" });
  canvas.style.aspectRatio = `${p.width} / ${p.height}`;
  return canvas;
}

// -- moving --------------------------------------------------------------------------------------

function step(p, by) {
  const count = p.names.length;
  p.sample = (p.sample + by + count) % count;
  render(p);
  p.live.textContent = p.number.textContent;
  report(p);
}

function move(p, at) {
  p.at = at;
  render(p);
  report(p);
}

function report(p) {
  clearTimeout(p.telling);
  p.telling = setTimeout(() => p.setState?.("view", { data: p.data, at: p.at, sample: p.sample }), PAUSE);
}

// -- showing -------------------------------------------------------------------------------------

const tau = (p) => (p.curve ? p.curve.tau[p.at] : 0);

function render(p) {
  const place = p.names.length > 1 ? `Sample ${p.sample + 1} of ${p.names.length}` : "One sample";
  p.number.textContent = `${place}: ${p.names[p.sample]}`;
  Object.assign(p.root.dataset, { sample: p.sample, only: p.only, at: p.at ?? "" });
  for (const v of p.views) renderView(p, v);
  if (p.curve) renderThreshold(p);
  draw(p);
}

function renderView(p, v) {
  const c = v.column, values = shown(p, c, c, p.sample);
  v.drawn = values;
  const told = p.hidden ? `${c.name}, ${p.names[p.sample]}` : renderCount(p, v.count, c, values);
  v.canvas.ariaLabel = `${c.name}: ${told}`;
  if (p.hidden) return;
  const share = c.cut ? p.curve.shares[p.at] : c.share;
  v.figure.dataset.zeros = zerosOf(values);
  v.figure.dataset.share = share;
  v.many.textContent = c.of > 1 ? `${percent(share)} in ${c.of} samples` : "";
  if (!c.live) return;
  v.liveDrawn = shown(p, c, c.live, Math.min(p.sample, c.live.count - 1));
  const words = renderCount(p, v.liveCount, c, v.liveDrawn);
  const count = c.live.of, all = c.cut ? c.live.shares[p.at] : c.live.share;
  v.liveMany.textContent = count > 1 ? `${percent(all)} in ${count} samples` : "";
  v.liveCanvas.ariaLabel = `${c.name}, live, seed ${c.live.seed}: ${words}`;
}

function renderCount(p, place, column, values) {
  const zeros = zerosOf(values);
  place.replaceChildren(el("b", {}, zeros.toLocaleString("en")), ` of ${p.dim.toLocaleString("en")} exactly zero`);
  return `${zeros} of ${p.dim} ${p.cell}s exactly zero, ${percent(zeros / p.dim)}`;
}

// One sample of a column; the column with a threshold loses what is not above it.
function shown(p, column, source, row) {
  const values = source.values.subarray(row * p.dim, (row + 1) * p.dim);
  if (!column.cut || p.hidden) return values;
  const bound = tau(p);
  return values.map((x) => (Math.abs(x) > bound ? x : 0));
}

function zerosOf(values) {
  let count = 0;
  for (const x of values) count += x === 0;
  return count;
}

// -- the threshold -------------------------------------------------------------------------------

function threshold(p) {
  const c = p.curve;
  p.range = el("input", { type: "range", min: 0, max: c.tau.length - 1, step: 1, "aria-label": "Threshold" });
  p.range.addEventListener("input", () => move(p, Number(p.range.value)));
  p.told = el("p", { class: "told" });
  p.where = el("p", { class: "where" });
  const rules = c.rules.map((rule) => {
    const b = el("button", { type: "button", class: "rule" }, rule.name);
    b.addEventListener("click", () => move(p, rule.at));
    return b;
  });
  p.chart = svg("svg", { class: "chart", role: "img" });
  const keys = div("keys", ...c.points.map((one) => span("key", mark(one), one.name)),
    span("key", el("i", { class: "ring" }), "the threshold now"), span("key", el("i", { class: "band" }), c.realName),
    span("key", el("i", { class: "floor" }), c.floorName));
  return div("threshold", div("try", el("p", { class: "head" }, "Where would you cut?"), p.where, p.range,
    div("ends", span("", "keep everything"), span("", "cut nearly everything")),
    div("rules", ...rules), p.told), div("plot", p.chart, keys));
}

function renderThreshold(p) {
  const c = p.curve, bound = c.tau[p.at], y = c.y[p.at];
  p.range.value = p.at;
  const words = `${short(bound * p.scale)} ${p.unit}${p.unit === "GeV" ? "" : "s"}`;
  p.where.replaceChildren("Everything up to ", el("b", {}, words), " becomes zero in DDPM + threshold.");
  const share = percent(c.zeros[p.at]), second = c.second ? ` ${secondWords(c, p.at)}` : "";
  p.told.replaceChildren("Exact zeros: ", el("b", {}, share), ` (${c.realName}: ${percent(c.real)}). ${upper(c.label)}: `,
    el("b", {}, withUnit(y, c.unit)), ` (${c.others}).${second}`);
  p.range.setAttribute("aria-valuetext", `${words}: ${share} zeros, ${c.label} ${withUnit(y, c.unit)}`);
  p.root.dataset.tau = bound;
}

const secondWords = (c, at) => c.second.unit === "share" ? `${upper(c.second.label)} ${percent(c.second.y[at])}.`
  : `${upper(c.second.label)}: ${withUnit(c.second.y[at], c.second.unit)}.`;
const withUnit = (x, unit) => (unit === "share" ? percent(x) : `${short(x)}${unit ? ` ${unit}` : ""}`);

// Share of zeros against quality: the way that the threshold takes, and where the others stand.
function drawChart(p) {
  const c = p.curve, w = p.chart.clientWidth, h = p.chart.clientHeight;
  if (!w) return;
  const box = { left: 52, right: w - 26, top: 12, bottom: h - 46 };
  const x = (share) => box.left + ((share - c.from) / (1 - c.from)) * (box.right - box.left);
  const y = (value) => box.bottom - (Math.min(value, 1.2 * c.most) / c.most) * (box.bottom - box.top);
  const line = (points, attributes) => svg("polyline", { points: points.map((q) => q.join(",")).join(" "), fill: "none", ...attributes });
  const text = (words, at, more = {}) => svg("text", { x: at[0], y: at[1], ...more }, words);
  p.chart.setAttribute("viewBox", `0 0 ${w} ${h}`);
  const [low, high] = [x(c.band[0]), x(c.band[1])], wide = Math.max(3, high - low);
  const parts = [svg("rect", { x: (low + high - wide) / 2, y: box.top, width: wide, height: box.bottom - box.top, class: "band" }),
    svg("path", { d: `M${box.left} ${y(c.floor)}H${box.right}`, class: "floor" }),
    svg("path", { d: `M${box.left} ${box.top}V${box.bottom}H${box.right}`, class: "axis" })];
  for (const share of ticks(c.from, 1, w < 360 ? 3 : 5)) {
    parts.push(text(`${Math.round(share * 100)} %`, [x(share), box.bottom + 18], { "text-anchor": "middle" }));
  }
  for (const value of ticks(0, c.most, 4)) {
    parts.push(text(c.unit === "share" ? percent(value) : short(value), [box.left - 6, y(value) + 4], { "text-anchor": "end" }));
  }
  parts.push(text("share of exact zeros", [(box.left + box.right) / 2, h - 6], { "text-anchor": "middle", class: "title" }));
  const words = `${c.label}${c.unit && c.unit !== "share" ? ` (${c.unit})` : ""}, ${c.better} is better`;
  parts.push(text(words, [-(box.top + box.bottom) / 2, 13], { "text-anchor": "middle", class: "title", transform: "rotate(-90)" }));
  const clip = svg("clipPath", { id: "cmp-box" }, svg("rect", { x: box.left, y: box.top - 8, width: box.right - box.left + 8, height: box.bottom - box.top + 8 }));
  const inside = svg("g", { "clip-path": "url(#cmp-box)" }, line(c.tau.map((_, k) => [x(c.zeros[k]), y(c.y[k])]), { class: "way" }));
  for (const rule of c.rules) inside.append(svg("circle", { cx: x(c.zeros[rule.at]), cy: y(c.y[rule.at]), r: 4, class: "ruled" }));
  inside.append(svg("circle", { cx: x(c.zeros[p.at]), cy: y(c.y[p.at]), r: 11, class: "now" }));
  for (const one of c.points) inside.append(at(shape(one.symbol, one.colour), x(one.zeros), y(one.y)));
  p.chart.replaceChildren(svg("defs", {}, clip), ...parts, inside);
  p.chart.setAttribute("aria-label", `Share of exact zeros against ${c.label}. At this threshold ${percent(c.zeros[p.at])} and `
    + `${withUnit(c.y[p.at], c.unit)}; ${c.realName}: ${percent(c.real)}; ${c.others}.`);
}

function ticks(from, to, count) {
  const raw = (to - from) / count, power = 10 ** Math.floor(Math.log10(raw));
  const size = [1, 2, 2.5, 5, 10].map((k) => k * power).find((k) => k >= raw);
  const found = [];
  for (let k = Math.ceil(from / size - 1e-9); k * size <= to + 1e-9; k += 1) found.push(k * size);
  return found;
}

// -- drawing -------------------------------------------------------------------------------------

function draw(p) {
  for (const v of p.views) {
    paint(p, v.canvas, v.drawn);
    if (v.liveCanvas) paint(p, v.liveCanvas, v.liveDrawn);
  }
  if (p.curve) drawChart(p);
}

function paint(p, canvas, values) {
  if (!canvas.clientWidth) return;
  const dpr = devicePixelRatio || 1, [w, h] = [canvas.clientWidth, canvas.clientHeight].map((n) => Math.round(n * dpr));
  if (canvas.width !== w || canvas.height !== h) { canvas.width = w; canvas.height = h; }
  const c = canvas.getContext("2d"), edge = (n, of, size) => Math.round((n * size) / of);
  c.fillStyle = p.colours.zero;
  c.fillRect(0, 0, w, h);
  const line = p.hidden ? 0 : 1;
  if (line) {
    c.fillStyle = p.colours.grid;
    for (let x = 1; x < p.width; x += 1) c.fillRect(edge(x, p.width, w), 0, 1, h);
    for (let y = 1; y < p.height; y += 1) c.fillRect(0, edge(y, p.height, h), w, 1);
  }
  values.forEach((value, index) => {
    const colour = p.hidden ? plain(p, value) : coloured(p, value);
    if (!colour) return;
    const column = index % p.width, row = Math.floor(index / p.width);
    const left = edge(column, p.width, w), up = edge(row, p.height, h);
    c.fillStyle = colour;
    c.fillRect(left + line, up + line, edge(column + 1, p.width, w) - left - line, edge(row + 1, p.height, h) - up - line);
  });
}

// How large a value is between the lightest and the darkest colour; the rule of explorer.figures.
function size(p, value) {
  const x = Math.abs(value);
  const share = p.tone === "log" ? Math.log(Math.max(x, p.low) / p.low) / Math.log(p.top / p.low) : (x - p.low) / (p.top - p.low);
  return Math.min(1, Math.max(0, share));
}

function coloured(p, value) {
  if (value === 0) return null;
  if (p.only) return p.colours.ink;
  return css(p.table[1 + Math.round(254 * size(p, value))]);
}

// As any viewer would: shades of grey in which a small value looks like none.
function plain(p, value) {
  const grey = Math.round(255 * (1 - size(p, value)));
  return grey === 255 ? null : `rgb(${grey},${grey},${grey})`;
}

// -- small change --------------------------------------------------------------------------------

const SHAPES = { circle: "M0-6a6 6 0 1 0 .01 0z", diamond: "M0-8 7 0 0 8-7 0z", square: "M-6-6H6V6H-6z",
  "triangle-up": "M0-8 8 6H-8z", cross: "M-2-7H2V-2H7V2H2V7H-2V2H-7V-2H-2z" };
const shape = (name, colour) => svg("path", { d: SHAPES[name], fill: colour, stroke: "#fff", "stroke-width": 1.5 });
const at = (node, x, y) => { node.setAttribute("transform", `translate(${x} ${y})`); return node; };
const symbol = (name, colour) => svg("svg", { class: "mark", viewBox: "-9 -9 18 18", "aria-hidden": "true" }, shape(name, colour));
const mark = (one) => symbol(one.symbol, one.colour);
const upper = (text) => text[0].toUpperCase() + text.slice(1);
const short = (x) => String(Math.abs(x) >= 100 ? Math.round(x) : Number(x.toPrecision(3)));
const percent = (x) => `${(100 * x).toFixed(1)} %`;
const css = ([r, g, b]) => `rgb(${r},${g},${b})`;
const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

function rows(text) {
  const flat = bytes(text);
  return Array.from({ length: 256 }, (_, n) => flat.subarray(3 * n, 3 * n + 3));
}

// Half-precision numbers as doubles; not every browser knows them.
function halves(text) {
  half ??= Float32Array.from({ length: 65536 }, (_, n) => {
    const sign = n & 0x8000 ? -1 : 1, exponent = (n >> 10) & 31, fraction = n & 1023;
    return exponent ? sign * 2 ** (exponent - 15) * (1 + fraction / 1024) : sign * 2 ** -14 * (fraction / 1024);
  });
  return Float32Array.from(new Uint16Array(bytes(text).buffer), (n) => half[n]);
}

function button(word, path, act) {
  const b = el("button", { type: "button", class: "ctl", "aria-label": word, title: word },
    svg("svg", { viewBox: "0 0 24 24", "aria-hidden": "true" }, svg("path", { d: path })));
  b.addEventListener("click", act);
  return b;
}

function fillIn(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

const SVG = "http://www.w3.org/2000/svg";
const el = (tag, attributes = {}, ...children) => fillIn(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) => fillIn(document.createElementNS(SVG, tag), attributes, children);
const div = (word, ...children) => el("div", { class: word }, ...children);
const span = (word, ...children) => el("span", { class: word }, ...children);
