// The counts player: units die one by one, then are born again, on one time line.
//
// Joined with the parts and the time line of the first player (explorer/player/parts.js, reel.js).
// It speaks to its host only to say where the reader stopped (state "step", a position).

const PARTS = [0.42, 0.46];       // where the deaths end and the births begin on the scrubber
const PART_MS = 5000;             // each part at speed 1, within reason
const SHOWN = { counts: "Counts", births: "Births", deaths: "Deaths", rate: "Rate" };
const SIGN = { births: "+", deaths: "−", rate: "+" };

export default function player({ parentElement, data, setStateValue }) {
  const p = keep(parentElement, data.scene.id, (before) => create(parentElement, data, before));
  p.setState = setStateValue;
  return () => leave(p);
}

function create(parent, data, before) {
  const s = open(data.scene), stop = new AbortController();
  const p = { id: s.id, s, colours: data.colours, table: rows(data.colours.table), first: s.deaths.n, second: s.births.n,
    ink: { births: data.colours.pairs, deaths: data.colours.fork, rate: data.colours.probability },
    playing: false, mine: false, asked: null, speed: before?.speed ?? 1, show: before?.show ?? "counts", signal: stop.signal };
  measure(p, PARTS);
  build(p);
  enter(p, parent, stop);
  const start = before?.id === p.id ? before.pos : data.start;
  begin(p, start, start == null && data.autoplay);
  return p;
}

// -- what the scene says of a position -----------------------------------------------------------

function open(scene) {
  const whole = (text) => scene.bytes === 1 ? bytes(text) : new Uint16Array(bytes(text).buffer);
  const each = (flat) => Array.from({ length: flat.length / scene.dim }, (_, k) => flat.subarray(k * scene.dim, (k + 1) * scene.dim));
  const s = { ...scene, width: scene.side || scene.dim, height: scene.side || 1 };
  s.deaths = { ...scene.deaths, x: each(whole(scene.deaths.x)) };
  s.births = { ...scene.births, x: each(whole(scene.births.x)), died: scene.births.died && each(whole(scene.births.died)),
    rate: each(Float32Array.from(new Uint16Array(bytes(scene.births.rate).buffer), (n) => n / 256)) };
  s.none = new Float32Array(s.dim);
  s.alive = [...s.deaths.x, ...s.births.x].map(sum);
  s.peak = { births: 1, deaths: 1, rate: 1 };
  s.top = s.largest;
  for (let pos = 0; pos < s.alive.length; pos += 1) {
    const m = moment(s, pos);
    for (const name in s.peak) s.peak[name] = Math.max(s.peak[name], ...m[name]);
    s.top = Math.max(s.top, ...m.x, Math.min(1.5 * s.largest, Math.max(...Array.from(m.x, (n, j) => n + m.rate[j]))));
  }
  return s;
}

// Everything at one position: the state, what the step to it did, what the network expects of it.
function moment(s, pos) {
  const dying = pos <= s.deaths.n, k = dying ? pos : pos - s.deaths.n - 1, part = dying ? s.deaths : s.births;
  const x = part.x[k], was = part.x[Math.max(0, k - 1)], last = part.x[part.n];
  const deaths = dying ? was.map((n, j) => n - x[j]) : (k && s.births.died?.[k - 1]) || s.none;
  const births = dying ? s.none : Float32Array.from(x, (n, j) => n - was[j] + deaths[j]);
  const m = { dying, k, n: part.n, t: part.t[k], p: part.p[k], x, births, deaths, last, start: s.deaths.x[0] };
  m.rate = (!dying && s.births.rate[k]) || s.none;
  m.expected = dying ? null : s.births.expected[k] ?? 0;
  Object.assign(m, { alive: sum(x), filled: x.reduce((n, one) => n + (one > 0), 0), born: sum(births), died: sum(deaths) });
  m.coming = sum(last) - m.alive;
  return m;
}

function telling(s, m) {
  const cells = `${s.dim} ${s.cell}s`, left = `${many(m.alive, "unit")} alive in ${m.filled} of ${cells}`;
  if (m.dying) {
    if (!m.k) return ["The data", `${left}. From here on every unit may die, each by itself.`];
    if (m.k === m.n) return m.alive ? ["The end of the deaths", `${left}.`]
      : ["Nothing is left", "Every unit has died. From here on a model brings units back."];
    return [`Deaths: step ${m.k} of ${m.n}`, `${m.died ? many(m.died, "unit") : "No unit"} died in this step. ${left}.`];
  }
  if (!m.k) return ["Nothing yet", `All ${cells} are exactly zero. The network expects ${about(m.expected)} units in all.`];
  if (m.k === m.n) return ["The sample", `${left}; the other ${s.dim - m.filled} are exactly zero.`];
  const died = m.died ? `, ${num(m.died)} died again` : "";
  return [`Births: step ${m.k} of ${m.n}`, `${m.born ? many(m.born, "unit") : "No unit"} ${m.born > 1 ? "are" : "is"} born${died}. ${left}.`];
}

function facts(s, m) {
  const missing = m.dying ? "not asked in this half" : `${about(m.expected)}; really to come: ${num(m.coming)}`;
  return [["Time t", m.t.toFixed(3)], ["Share of units that survives, p(t)", percent(m.p)],
    ["Units alive", num(m.alive)], [`${upper(s.cell)}s above zero`, `${m.filled} of ${s.dim}`],
    ["Born in this step", num(m.born)], ["Died in this step", num(m.died)], ["What the network expects to be missing", missing]];
}

// What a reader asks about one entry.
function answer(s, m, j) {
  const name = upper(nameOf(s, j)), has = `${name}: ${many(m.x[j], "unit")} alive`;
  if (m.dying) return `${has} of ${m.start[j]} in the data; ${m.deaths[j]} died in this step.`;
  const expects = m.k < m.n ? ` The network expects ${about(m.rate[j])} more;` : "";
  return `${has}; in this step ${m.births[j]} born, ${m.deaths[j]} died.${expects} ${expects ? "it" : "It"} ends with ${m.last[j]}.`;
}

// -- building the parts, once --------------------------------------------------------------------

function build(p) {
  const s = p.s;
  p.root = el("div", { class: s.side ? "sed counts" : "sed counts bars-of", role: "group", tabindex: "-1",
    "aria-label": `Player: ${s.title || "counts"}`, "data-positions": p.end });
  p.title = el("p", { class: "head" });
  p.story = el("p", { class: "story" });
  p.live = el("p", { class: "unseen", "aria-live": "polite" });
  p.picture = el("canvas", { class: "picture", role: "img", tabindex: "0" });
  p.picture.style.aspectRatio = s.side ? "1" : "5 / 4";
  p.picture.addEventListener("click", (event) => ask(p, cellAt(p.picture, s, event)));
  p.answer = el("p", { class: "answer", "aria-live": "polite" });
  p.hint = `Press any ${s.side ? s.cell : "bar"} to ask about it.`;
  p.legend = div("legend");
  p.shows = Object.entries(SHOWN).map(([name, word]) => {
    const b = el("button", { type: "button", class: "choice" }, sign(name), word);
    b.addEventListener("click", () => { p.show = name; render(p); });
    return b;
  });
  const group = el("div", { class: "choices", role: "group", "aria-label": "Show" }, ...p.shows);
  p.facts = el("dl", { class: "facts" });
  p.chart = el("canvas", { class: "chart", role: "img" });
  const panel = el("section", { class: "panel", "aria-label": "What happens in this step" },
    p.facts, el("p", { class: "label" }, "Units alive over time (square-root axis)"), p.chart, chartKeys());
  p.root.append(div("body", div("top", p.title, p.story),
    div("figures", el("figure", {}, group, p.picture, p.legend, p.answer)), div("panels", panel),
    transport(p, [`${p.first} steps of deaths`, `${p.second} steps of births`], ["data", "nothing", "sample"])), p.live);
  keys(p);
}

const sign = (name) => el("i", { class: `sign ${name}`, "aria-hidden": "true" });

const chartKeys = () => div("keys", span("key", el("i", { class: "way lat" }), "dying"),
  span("key", el("i", { class: "way par" }), "being born"), span("key", el("i", { class: "sign ring" }), "the end that the network expects"));

// -- asking --------------------------------------------------------------------------------------

function ask(p, j) {
  if (p.playing) pause(p);
  p.asked = j;
  say(p, answer(p.s, moment(p.s, p.pos), j));
  draw(p);
}

// Shift and arrows walk a cursor over the focused picture, Enter asks about its place.
function pickByKey(p, target, event) {
  if (target !== p.picture) return;
  const next = event.key === "Enter" ? p.asked ?? 0 : beside(p.asked ?? 0, p.s, event.key);
  if (next === null) return;
  event.preventDefault();
  if (event.key === "Enter") return ask(p, next);
  p.asked = next;
  say(p, `${upper(nameOf(p.s, next))}. Enter tells about it.`);
  draw(p);
}

// -- showing where we are ------------------------------------------------------------------------

function wait(p) {
  const border = p.pos === 0 || p.pos === p.first || p.pos === p.base ? 700 : 0;
  return (clamp(PART_MS / (inFirst(p) ? p.first : p.second), 40, 300) + border) / p.speed;
}

function render(p) {
  const m = moment(p.s, p.pos), [title, story] = telling(p.s, m);
  Object.assign(p.root.dataset, { stage: m.dying ? "deaths" : "births", step: m.k, steps: m.n, position: p.pos,
    playing: p.playing, alive: m.alive, filled: m.filled, show: p.show });
  p.title.textContent = title;
  p.story.textContent = story;
  p.facts.replaceChildren(...facts(p.s, m).map(([word, value]) => div("fact", el("dt", {}, word), el("dd", {}, value))));
  p.shows.forEach((b, n) => { b.ariaPressed = String(Object.keys(SHOWN)[n] === p.show); });
  p.legend.replaceChildren(...legend(p, m));
  p.picture.ariaLabel = `${p.s.title || "Counts"}, ${SHOWN[p.show].toLowerCase()}: ${title}. Shift and arrow keys pick a ${p.s.cell}, Enter tells about it.`;
  p.chart.ariaLabel = `Units alive: ${num(p.s.alive[0])} in the data, ${num(m.alive)} now, ${num(p.s.alive.at(-1))} in the sample.`;
  if (p.playing) p.asked = null;
  say(p, p.asked === null ? p.hint : answer(p.s, m, p.asked));
  renderTransport(p, title);
  draw(p);
  announce(p, `${title}. ${story}`);
}

function legend(p, m) {
  const s = p.s, only = { births: m.dying && "Nothing is born in this half.", rate: m.dying && "The network is asked in the second half only.",
    deaths: !m.dying && !s.births.died && "No attrition: nothing dies in this half." }[p.show];
  if (only) return [span("key", sign(p.show), only)];
  const words = { births: "born in this step", deaths: "died in this step", rate: "expected to be missing" };
  if (!s.side && p.show === "counts") return [["births", "born"], ["deaths", "died"], ["rate", "expected to be missing"]]
    .map(([name, word]) => span("key", sign(name), word));
  if (!s.side) return [span("key", sign(p.show), words[p.show])];
  if (p.show === "counts") return [span("key", el("i", { class: "zero" }), "exact zero"), span("key", "1", ramp(p), `${s.largest} units`)];
  return [span("key", sign(p.show), `${words[p.show]}; the largest mark is ${about(s.peak[p.show])}`)];
}

// -- drawing -------------------------------------------------------------------------------------

function draw(p) {
  if (!p.picture.clientWidth) return;
  const m = moment(p.s, p.pos);
  (p.s.side ? drawPicture : drawBars)(p, m);
  drawChart(p, m);
}

function drawPicture(p, m) {
  const s = p.s, pen = sheet(p.picture, s, p.colours), plain = p.show === "counts";
  pen.c.globalAlpha = plain ? 1 : 0.3;
  m.x.forEach((n, j) => { if (n) pen.fill(j, css(p.table[shade(s, n)])); });
  pen.c.globalAlpha = 1;
  if (!plain) m[p.show].forEach((n, j) => { if (n >= 0.5) mark(p, pen, j, 0.25 + 0.75 * Math.sqrt(n / s.peak[p.show])); });
  if (p.asked === null) return;
  pen.frame(p.asked, "#fff", 4);
  pen.frame(p.asked, p.colours.latent, 2);
}

// Births are full squares, deaths hollow ones, the rate is a disc: told apart without colour.
function mark(p, { c, cell, dpr }, j, size) {
  const [x, y, w, h] = cell(j), half = (0.9 * size * Math.min(w, h)) / 2, middle = [x + w / 2, y + h / 2];
  c.fillStyle = c.strokeStyle = p.ink[p.show];
  if (p.show === "rate") disc(c, middle, half, p.ink.rate);
  else if (p.show === "births") c.fillRect(middle[0] - half, middle[1] - half, 2 * half, 2 * half);
  else { c.lineWidth = 1.5 * dpr; c.strokeRect(middle[0] - half, middle[1] - half, 2 * half, 2 * half); }
}

function drawBars(p, m) {
  const s = p.s, [c, w, h, dpr] = sharp(p.picture), base = h - 46 * dpr, head = 12 * dpr;
  const slot = w / s.dim, wide = Math.min(0.68 * slot, 56 * dpr), all = p.show === "counts", size = slot < 40 * dpr ? 12 : 14;
  const y = (n) => base - (Math.min(n, 1.04 * s.top) / s.top) * (base - head), on = (name) => all || p.show === name;
  c.fillStyle = "#fff"; c.fillRect(0, 0, w, h);
  if (p.asked !== null) { c.fillStyle = "#dcebf5"; c.fillRect(p.asked * slot, 0, slot, h); }
  m.x.forEach((n, j) => {
    const left = (j + 0.5) * slot - wide / 2, box = (from, to) => [left, y(to), wide, y(from) - y(to)], born = on("births") ? m.births[j] : 0;
    c.fillStyle = p.colours.value[7]; c.fillRect(...box(0, n - born));
    if (born) { c.fillStyle = hatch(c, p.ink.births, dpr); c.fillRect(...box(n - born, n)); frameOf(c, box(n - born, n), p.ink.births, 1.5 * dpr); }
    if (on("deaths") && m.deaths[j]) frameOf(c, box(n, n + m.deaths[j]), p.ink.deaths, 1.5 * dpr, [4 * dpr, 3 * dpr]);
    if (on("rate") && m.rate[j] >= 0.05) whisker(c, left + wide / 2, y(n), y(n + m.rate[j]), wide, p.ink.rate, dpr);
    const many = all ? String(n) : m[p.show][j] ? `${SIGN[p.show]}${about(m[p.show][j])}` : "0";
    label(c, many, [left + wide / 2, base + 15 * dpr], size, 650, dpr, p.colours.ink);
    label(c, s.names[j], [left + wide / 2, base + 33 * dpr], size - 1, 400, dpr, "#3f454f");
  });
  c.fillStyle = "#8a8f98"; c.fillRect(0, base, w, dpr);
}

function frameOf(c, [x, y, w, h], colour, width, dash = []) {
  c.strokeStyle = colour; c.lineWidth = width; c.setLineDash(dash);
  c.strokeRect(x + width / 2, y + width / 2, w - width, Math.max(1, h - width)); c.setLineDash([]);
}

function whisker(c, x, from, to, wide, colour, dpr) {
  line(c, [[x, from], [x, to]], colour, 1.5 * dpr);
  line(c, [[x - wide / 3, to], [x + wide / 3, to]], colour, 2.5 * dpr);
}

function hatch(c, colour, dpr) {
  const size = Math.round(7 * dpr), tile = el("canvas", { width: size, height: size }), t = tile.getContext("2d");
  t.fillStyle = "#d5ece4"; t.fillRect(0, 0, size, size);
  for (const k of [-size, 0, size]) line(t, [[k, size], [k + size, 0]], colour, 1.5 * dpr);
  return c.createPattern(tile, "repeat");
}

// Units alive over the time line: pale all of it, in full what is over; ahead, what the network expects.
function drawChart(p, m) {
  const s = p.s, [c, w, h, dpr] = sharp(p.chart), pad = 9 * dpr, top = Math.max(1, ...s.alive, m.expected === null ? 0 : m.alive + m.expected);
  const at = (pos, n) => [pad + spread(p, pos) * (w - 2 * pad), h - pad - Math.sqrt(n / top) * (h - 2 * pad)];
  c.clearRect(0, 0, w, h);
  line(c, [at(0, 0), at(p.end, 0)], p.colours.grid, dpr);
  const part = (from, to, colour) => line(c, s.alive.slice(from, to + 1).map((n, k) => at(from + k, n)), colour, 2.5 * dpr);
  c.lineJoin = "round";
  part(0, p.first, "#b5d2e6");
  part(p.base, p.end, "#b3d7cb");
  part(0, Math.min(p.pos, p.first), p.colours.latent);
  if (!m.dying) part(p.base, p.pos, p.colours.pairs);
  const now = at(p.pos, m.alive);
  if (m.expected !== null) {
    const end = at(p.end, m.alive + m.expected);
    c.setLineDash([4 * dpr, 3 * dpr]); line(c, [now, end], p.ink.rate, 1.5 * dpr); c.setLineDash([]);
    disc(c, end, 7 * dpr, "#fff"); ring(c, end, 6 * dpr, p.ink.rate, 2 * dpr);
  }
  disc(c, now, 6.5 * dpr, "#fff"); disc(c, now, 5 * dpr, p.colours.ink);
}

// -- words and small change ----------------------------------------------------------------------

const sum = (list) => list.reduce((total, n) => total + n, 0);
const num = (n) => n.toLocaleString("en");
const about = (x) => x < 100 ? String(Number(x.toFixed(1))) : num(Math.round(x));
const many = (n, word) => `${num(n)} ${word}${n === 1 ? "" : "s"}`;
const nameOf = (s, j) => s.side ? `row ${Math.floor(j / s.side)}, column ${j % s.side}` : `${s.cell} ${s.names[j]}`;
const shade = (s, n) => 1 + Math.round(254 * clamp((n - 1) / Math.max(1e-9, s.largest - 1), 0, 1));
