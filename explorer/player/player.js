// The player of Sparse Diffusion Explorer: replays scenes (explorer/scene.py) in the browser.
//
// Joined with its parts and its time line (parts.js, reel.js), one file for three hosts: a Streamlit
// component (v2) calls the default export on every rerun, a static page or gr.HTML calls it once. It
// plays by itself and speaks to its host only to say where the reader stopped (state "step", a
// position of the time line) and to ask for another continuation (trigger "fork": {at, index, scene}).

const PAIR_MS = 100;              // a pair at speed 1
const LATENT_MS = 4000;           // all latent steps together at speed 1, within reason
const SPLIT = [0.36, 0.38];       // where the latent part ends and the pairs begin on the scrubber
const HINT = "Press any place in the picture to ask about it.";

export default function player({ parentElement, data, setStateValue, setTriggerValue }) {
  const id = data.scenes.map((scene) => scene.id).join("+");
  const p = keep(parentElement, id,
    (before) => create(parentElement, data, id, Boolean(setTriggerValue && data.forks), before));
  p.setState = setStateValue;
  p.setTrigger = setTriggerValue;
  return () => leave(p);
}

// -- a player: its scenes, its place on the time line, its parts ---------------------------------

function create(parent, data, id, canFork, before) {
  const scenes = data.scenes.map(open);
  const stop = new AbortController();
  const p = { id, scenes, canFork, colours: data.colours, table: rows(data.colours.table),
    playing: false, mine: false, speed: before?.speed ?? 1, overlay: before?.overlay ?? false, signal: stop.signal };
  p.first = Math.max(...scenes.map((s) => s.latent.n));
  p.second = Math.max(...scenes.map((s) => s.count));
  measure(p, SPLIT);
  build(p);
  enter(p, parent, stop);
  beginWhere(p, data, before);
  return p;
}

// A new fork starts where it was asked for, the same sample where it was.
function beginWhere(p, data, before) {
  const same = before?.scenes[0].id === p.scenes[0].id, fork = same && p.scenes.at(-1).fork;
  const start = fork ? p.base + fork.at : same ? before.pos : data.start;
  begin(p, start, fork || (start == null && data.autoplay));
}

function open(scene) {
  const index = scene.pairs.index, count = index.length;
  const law = bytes(scene.next.law), offsets = [0];
  for (const start of scene.next.start) offsets.push(offsets.at(-1) + scene.dim - start);
  return { ...scene, count, law, offsets, order: new Map(index.map((j, k) => [j, k])),
    guess: scene.latent.guess && bytes(scene.latent.guess),
    cloud: scene.map && new Uint16Array(bytes(scene.map.cloud).buffer), label: scene.map && bytes(scene.map.label) };
}

const stepOf = (p, s) => inFirst(p) ? p.pos : Math.min(p.pos - p.base, s.count);

// -- moving --------------------------------------------------------------------------------------

function wait(p) {
  const border = p.pos === p.first || p.pos === p.base ? 700 : 0;
  const each = inFirst(p) ? clamp(LATENT_MS / p.first, 60, 300) : PAIR_MS;
  return (each + border) / p.speed;
}

function fork(p, view, index) {
  const at = stepOf(p, view.scene);
  clearTimeout(p.telling);                        // a second message would interrupt the first one's run
  p.playing = false;
  p.pos = p.told = p.base + at;
  render(p);
  const word = index === view.scene.dim ? "stop" : name(view.scene, index);
  say(view, `${upper(word)} is chosen instead. The new continuation appears beside this one.`);
  p.setTrigger("fork", { at, index, scene: p.views.indexOf(view) });
}

// What a reader asks about one pixel: its pair, or why it has none.
function ask(p, view, index) {
  const s = view.scene, k = s.order.get(index);
  view.asked = index;
  if (k !== undefined) { go(p, p.base + k + 1); return say(view, pairSentence(s, k)); }
  const which = `dimension ${index}${s.height > 1 ? ` (${name(s, index)})` : ""}`;
  const words = inFirst(p) ? `In the finished sample, ${which}` : upper(which);
  say(view, `${words} was never chosen: it is exactly zero.`);
  draw(p);
}

// Shift and arrows walk a cursor over the focused picture, Enter asks about its pixel.
function pickByKey(p, target, event) {
  const view = p.views.find((v) => v.picture === target);
  if (!view) return;
  const at = view.asked ?? 0, next = event.key === "Enter" ? at : beside(at, view.scene, event.key);
  if (next === null) return;
  event.preventDefault();
  if (event.key === "Enter") return ask(p, view, at);
  view.asked = next;
  say(view, `${upper(name(view.scene, view.asked))}. Enter tells about it.`);
  draw(p);
}

// -- building the parts, once --------------------------------------------------------------------

function build(p) {
  const many = p.scenes.length > 1;
  p.root = el("div", { class: many ? "sed two" : "sed", role: "group", tabindex: "-1",
    "aria-label": `Player: ${p.scenes[0].title || "one sample"}`, "data-steps": p.second, "data-positions": p.end });
  p.title = el("p", { class: "head" });
  p.story = el("p", { class: "story" });
  p.views = p.scenes.map((scene, n) => view(p, scene, many ? n : null));
  p.live = el("p", { class: "unseen", "aria-live": "polite" });
  const each = (part) => p.views.map((v) => v[part]);
  p.root.append(div("body", div("top", p.title, p.story),
    div("figures", ...each("figure"), legend(p, p.scenes[0])),
    transport(p, [`${p.first} denoising steps`, `${p.second} pairs, then stop`], ["noise", "latent", "sample"]),
    div("panels", ...each("panel")), div("strips", ...each("strip"))), p.live);
  keys(p);
}

function view(p, scene, n) {
  const v = { scene, n };
  v.picture = el("canvas", { class: "picture", role: "img", tabindex: "0" });
  v.picture.style.aspectRatio = `${scene.width} / ${scene.height}`;
  v.picture.addEventListener("click", (event) => ask(p, v, cellAt(v.picture, scene, event)));
  v.count = el("p", { class: "count" });
  v.answer = el("p", { class: "answer", "aria-live": "polite" }, HINT);
  const word = (scene.title || "Sample") + (scene.fork ? `, from pair ${scene.fork.at + 1} on` : "");
  const which = () => n === null ? "" : el("p", { class: scene.fork ? "which forked" : "which" }, word);
  v.figure = el("figure", {}, which(), v.picture, v.count, v.answer);
  v.panel = el("section", { class: "panel", "aria-label": `The model's view: ${word}` },
    which(), latentPanel(v), pairsPanel(p, v));
  v.strip = el("div", {}, which(), strip(p, v));
  return v;
}

function legend(p, scene) {
  const box = el("input", { type: "checkbox" });
  box.checked = p.overlay;
  box.addEventListener("change", () => { p.overlay = box.checked; draw(p); });
  return div("legend", span("key", el("i", { class: "zero" }), "exact zero"),
    span("key", short(scene.low), ramp(p), `${short(scene.top)} ${scene.unit}`),
    el("label", { class: "check" }, box, el("i", { class: "veil" }), "Next-pair probability"));
}

function latentPanel(v) {
  const note = (text) => el("p", { class: "note" }, text), mark = (word) => el("i", { class: word });
  v.map = el("canvas", { class: "map", role: "img" });
  v.latentPart = div("part", el("p", { class: "label" }, "The latent among the training data"));
  if (!v.scene.map) v.latentPart.append(note("This recording carries no map of the training latents."));
  else v.latentPart.append(v.map,
    div("keys", span("key", mark("dot"), "the latent now"), span("key", mark("ring"), "the clean latent it guesses")),
    note("Small dots: latents of training data, coloured by class, seen in two dimensions."));
  return v.latentPart;
}

function pairsPanel(p, v) {
  v.question = el("p", { class: "label" });
  v.bars = Array.from({ length: 8 }, () => bar(p, v));
  v.law = el("p", { class: "law" });
  v.mark = svg("svg", { viewBox: "0 0 100 30", preserveAspectRatio: "none", class: "mark", "aria-hidden": "true" });
  const hint = p.canFork ? "Press a bar to choose it instead and continue from there."
    : "Shares of one law: together they are 100 %.";
  v.pairsPart = div("part", div("placed", v.law, v.mark, ramp(p, "ramp long")), v.question,
    div("bars", ...v.bars.map((b) => b.row)), el("p", { class: "note" }, hint));
  return v.pairsPart;
}

function bar(p, v) {
  const b = { name: span("name"), fill: el("i"), tag: span("tag"), share: span("share") };
  b.row = el(p.canFork ? "button" : "div", { class: "bar", ...(p.canFork && { type: "button" }) },
    b.name, span("track", b.fill, b.tag), b.share);
  if (p.canFork) b.row.addEventListener("click", () => { if (b.row.ariaDisabled !== "true") fork(p, v, b.index); });
  return b;
}

function strip(p, v) {
  const s = v.scene;
  v.items = s.pairs.index.map((index, k) => {
    const swatch = el("i", { class: "swatch", style: `background:${css(p.table[s.pairs.shade[k]])}` });
    const button = el("button", { type: "button", tabindex: k ? "-1" : "0", "aria-label": pairSentence(s, k) },
      el("b", {}, k + 1), span("", place(s, index)), span("val", swatch, brief(s.pairs.value[k])),
      span("", percent(s.pairs.p[k])));
    button.addEventListener("click", () => ask(p, v, index));
    return el("li", { class: isForked(s, k) ? "forked" : "" }, button);
  });
  v.list = el("ol", { class: "strip empty", "aria-label": "Pairs in the order they were chosen" }, ...v.items);
  const head = ["pair", s.height > 1 ? "row, column" : "dimension", s.unit, "chance"];
  const names = el("div", { class: "striphead", "aria-hidden": "true" }, ...head.map((word) => span("", word)));
  return div("striprow", names, v.list);
}

// -- showing where we are ------------------------------------------------------------------------

function render(p) {
  const s = p.scenes.find((one) => one.count === p.second), k = stepOf(p, s), latent = inFirst(p);
  Object.assign(p.root.dataset, { stage: latent ? "latent" : "pairs", step: k, position: p.pos,
    filled: latent ? 0 : k, steps: latent ? p.first : s.count, playing: p.playing });
  const [title, story] = telling(p, s, k);
  p.title.textContent = title;
  p.story.textContent = story;
  renderTransport(p, title);
  if (p.playing) for (const v of p.views) { v.asked = null; say(v, HINT); }
  for (const v of p.views) renderView(p, v, stepOf(p, v.scene));
  draw(p);
  announce(p, `${title}. ${story}`);
}

function renderView(p, v, k) {
  const s = v.scene, latent = inFirst(p);
  v.latentPart.hidden = !latent;
  v.pairsPart.hidden = latent;
  v.figure.classList.toggle("guessing", latent);
  v.count.replaceChildren(...(latent ? [guessWords(s, k)] : countWords(s, k)));
  v.picture.ariaLabel = `${latent ? "Decoded guess" : "Picture so far"}: ${v.count.textContent}. `
    + `Shift and arrow keys pick a ${s.cell}, Enter tells about it.`;
  if (s.map) v.map.ariaLabel = `Map of the training latents with this sample's way, ${k} of ${s.latent.n} steps.`;
  if (!latent) { renderBars(p, v, k); renderLaw(v, k); }
  renderStrip(v, latent ? 0 : k);
}

const guessWords = (s, k) => k && s.latent.filled ? `A guess with ${s.latent.filled[k - 1]} ${s.cell}s, not the sample yet`
  : `No ${s.cell} is decided yet`;
const countWords = (s, k) => [el("b", {}, k), ` of ${s.dim} ${k === 1 ? "is" : "are"} not zero; `,
  el("b", {}, s.dim - k), " are exactly zero"];

// Five best, the chosen one if it is not among them, stop, and all others: together 1.
function alternatives(s, k) {
  if (k >= s.next.stop.length) return [];
  const stop = s.next.stop[k], chosen = k < s.count ? s.pairs.index[k] : s.dim;
  const best = s.next.top[k].map(([index, share]) => ({ index, share, word: name(s, index) }));
  const known = chosen === s.dim || best.some((b) => b.index === chosen);
  const extra = known ? [] : [{ index: chosen, share: s.pairs.p[k], word: name(s, chosen) }];
  const shown = [...best, ...extra, { index: s.dim, share: stop, word: "stop" }];
  const rest = Math.max(0, 1 - shown.reduce((sum, b) => sum + b.share, 0));
  for (const b of shown) b.chosen = b.index === chosen;
  return [...shown, { index: null, share: rest, word: "all others" }];
}

function renderBars(p, v, k) {
  const s = v.scene, list = alternatives(s, k), forced = s.fork && s.fork.at === k;
  const most = Math.max(...list.map((b) => b.share), 1e-9);
  v.question.textContent = list.length ? `Which ${s.cell} comes next? ${k < s.count ? `Pair ${k + 1}` : "None: stop"}`
    : "The decoder was cut off here.";
  v.bars.forEach((b, n) => {
    const one = list[n];
    b.row.hidden = !one;
    if (!one) return;
    b.index = one.index;
    b.name.textContent = one.word;
    b.fill.style.width = `${(100 * one.share) / most}%`;
    b.share.textContent = percent(one.share);
    b.tag.textContent = one.chosen ? (forced ? "your choice" : "chosen") : "";
    const kind = { [s.dim]: " stop", null: " rest" }[one.index] ?? "";
    b.row.className = `bar${kind}${one.chosen ? " chosen" : ""}`;
    if (!p.canFork) return;
    const inert = one.chosen || one.index === null, offer = inert ? "" : "Choose this instead";
    b.row.ariaDisabled = String(inert);
    b.row.title = offer;
    b.row.ariaLabel = [one.word, percent(one.share), one.chosen ? "chosen" : offer].filter(Boolean).join(", ");
  });
}

function renderLaw(v, k) {
  const s = v.scene;
  v.mark.replaceChildren();
  if (!k) { v.law.textContent = `Every ${s.cell} is exactly zero until a pair names it.`; return; }
  const { value, mean, sd, p } = s.pairs, j = k - 1;
  v.law.replaceChildren(el("b", {}, `Pair ${k}: ${name(s, s.pairs.index[j])}, ${amount(s, value[j])}`), el("br"),
    `Chance of this ${s.cell} ${percent(p[j])}. Its value law: ${short(mean[j])}\u00a0±\u00a0${short(sd[j])}.`);
  const [middle, spread] = valueLaw(s, mean[j], sd[j]), share = clamp(100 * along(s, value[j]), 0.4, 99.6);
  const height = (n) => 26 * Math.exp(-0.5 * ((n / 100 - middle) / spread) ** 2);
  const bell = Array.from({ length: 101 }, (_, n) => `${n} ${(30 - height(n)).toFixed(2)}`);
  v.mark.append(svg("path", { d: `M0 30L${bell.join("L")}L100 30Z`, class: "bell" }),
    svg("path", { d: `M${share} 1V30`, class: "drawn" }));
}

// Where a value lies on the ramp of colours, 0 to 1; by equal ratios where the scene is logarithmic.
const along = (s, x) => s.tone === "log" ? Math.log(Math.max(x, 1e-12) / s.low) / Math.log(s.top / s.low) : x / s.top;

// Middle and spread of a value's law on that ramp: a log-normal law is a bell there.
function valueLaw(s, mean, sd) {
  if (s.tone !== "log") return [along(s, mean), Math.max(sd / s.top, 1 / 300)];
  const wide = Math.log(1 + (sd / Math.max(mean, 1e-12)) ** 2);
  const middle = along(s, mean * Math.exp(-wide / 2));
  return [middle, Math.max(Math.sqrt(wide) / Math.log(s.top / s.low), 1 / 300)];
}

function renderStrip(v, k) {
  if (v.shown === k) return;
  const was = v.items[v.shown - 1], now = v.items[k - 1];
  was?.classList.remove("now");
  was?.firstChild.removeAttribute("aria-current");
  v.items.forEach((item, n) => { item.firstChild.tabIndex = n === Math.max(0, k - 1) ? 0 : -1; });
  v.list.classList.toggle("empty", !k);
  v.shown = k;
  now?.classList.add("now");
  now?.firstChild.setAttribute("aria-current", "step");
  v.list.scrollLeft = now ? now.offsetLeft - v.list.clientWidth / 2 + now.offsetWidth / 2 : 0;
}

function telling(p, s, k) {
  if (inFirst(p)) {
    if (!k) return ["Noise", "It begins with random numbers: a latent that means nothing yet."];
    if (k === s.latent.n) return ["The latent is ready",
      `Next, the decoder turns it into pairs, one ${s.cell} and one value at a time.`];
    return [`Denoising: step ${k} of ${s.latent.n}`,
      "Each step guesses the clean latent and moves a little towards it. The picture is that guess, decoded."];
  }
  const fork = p.scenes.at(-1).fork;
  if (fork && k) return [k === s.count ? "Both have stopped" : `Pair ${k}`,
    `One latent, the same first ${fork.at} pairs; from pair ${fork.at + 1} on each goes its own way.`];
  if (k === s.count) return [`Stop after ${s.count} pairs`,
    `What the decoder never named, ${s.dim - k} ${s.cell}s, is exactly zero: not small, zero.`];
  if (!k) return ["Decoding starts from nothing",
    `The latent goes in; pairs of ${s.cell} and value come out, one at a time, in ascending order.`];
  const { index, value } = s.pairs;
  return [`Pair ${k} of ${s.count}`,
    `${upper(name(s, index[k - 1]))} gets ${amount(s, value[k - 1])}. All that is not named stays exactly zero.`];
}

// -- drawing -------------------------------------------------------------------------------------

function draw(p) {
  for (const v of p.views) {
    if (!v.picture.clientWidth) continue;
    drawPicture(p, v);
    if (inFirst(p) && v.scene.map) drawMap(p, v);
  }
}

function drawPicture(p, v) {
  const s = v.scene, { c, cell, fill, frame } = sheet(v.picture, s, p.colours), k = stepOf(p, s);
  if (inFirst(p)) { if (k && s.guess) drawGuess(p, s, k, fill); }
  else {
    for (let j = 0; j < k; j += 1) {
      fill(s.pairs.index[j], css(p.table[s.pairs.shade[j]]));
      if (isForked(s, j)) forkDot(c, cell(s.pairs.index[j]), p.colours.fork);
    }
    if (p.overlay && k < s.next.start.length) drawLaw(p, s, k, fill);
    if (p.overlay && k < s.count) frame(s.pairs.index[k], p.colours.probability, 2, [3, 2]);
    if (k) { frame(s.pairs.index[k - 1], "#fff", 4); frame(s.pairs.index[k - 1], p.colours.ink, 2); }
  }
  if (v.asked == null || s.order.get(v.asked) === k - 1) return;
  frame(v.asked, "#fff", 4);
  frame(v.asked, p.colours.latent, 2);
}

function drawGuess(p, s, k, fill) {
  for (let index = 0, at = (k - 1) * s.dim; index < s.dim; index += 1, at += 1) {
    if (s.guess[at]) fill(index, css(p.table[s.guess[at]]));
  }
}

function drawLaw(p, s, k, fill) {
  const start = s.next.start[k], from = s.offsets[k];
  for (let index = start; index < s.dim; index += 1) {
    const root = s.law[from + index - start] / 255;
    if (root > 0) fill(index, `${p.colours.probability}${Math.round(255 * root).toString(16).padStart(2, "0")}`);
  }
}

function forkDot(c, [x, y, w, h], colour) {
  const r = Math.max(1.5, w / 9), middle = [x + w / 2, y + h / 2];
  disc(c, middle, r + 1, "#fff");
  disc(c, middle, r, colour);
}

function drawMap(p, v) {
  const s = v.scene, [c, w, h, dpr] = sharp(v.map), k = stepOf(p, s), pad = 16 * dpr;
  const at = ([x, y]) => [pad + (x / 65535) * (w - 2 * pad), h - pad - (y / 65535) * (h - 2 * pad)];
  if (v.cloudSize !== `${w}x${h}`) { v.cloudPicture = cloud(p, s, w, h, dpr, at); v.cloudSize = `${w}x${h}`; }
  c.clearRect(0, 0, w, h);
  c.drawImage(v.cloudPicture, 0, 0);
  if (!k) return;
  const path = s.map.path.slice(0, k).map(at), now = path.at(-1), guess = at(s.map.guess[k - 1]);
  c.lineJoin = "round";
  line(c, path, "#fff", 5 * dpr); line(c, path, p.colours.ink, 2 * dpr);
  c.setLineDash([4 * dpr, 3 * dpr]); line(c, [now, guess], p.colours.ink, 1.25 * dpr); c.setLineDash([]);
  label(c, "noise", [path[0][0], path[0][1] + 14 * dpr], 12, 400, dpr, p.colours.ink);
  disc(c, guess, 8 * dpr, "#fff"); ring(c, guess, 7 * dpr, p.colours.ink, 2 * dpr);
  disc(c, now, 6.5 * dpr, "#fff"); disc(c, now, 5 * dpr, p.colours.ink);
}

function cloud(p, s, w, h, dpr, at) {
  const picture = el("canvas", { width: w, height: h }), c = picture.getContext("2d");
  const sums = s.map.classes.map(() => [0, 0, 0]);
  for (let n = 0; n < s.label.length; n += 1) {
    const xy = [s.cloud[2 * n], s.cloud[2 * n + 1]], sum = sums[s.label[n]];
    c.globalAlpha = 0.35;
    disc(c, at(xy), 1.6 * dpr, p.colours.classes[s.label[n] % p.colours.classes.length]);
    if (sum) { sum[0] += xy[0]; sum[1] += xy[1]; sum[2] += 1; }
  }
  c.globalAlpha = 1;
  const names = sums.map(([x, y, n], k) => n && { text: s.map.classes[k], at: at([x / n, y / n]) }).filter(Boolean);
  c.font = `600 ${15 * dpr}px system-ui, sans-serif`;
  for (const one of names) one.half = c.measureText(one.text).width / 2;
  for (const { text, at: place } of apart(names, 17 * dpr)) label(c, text, place, 15, 600, dpr, p.colours.ink);
  return picture;
}

/** Names that would cover each other, moved up and down until each can be read. */
function apart(names, height) {
  for (let round = 0; round < 60; round += 1) {
    let quiet = true;
    for (const a of names) for (const b of names) {
      const near = height - (b.at[1] - a.at[1]);
      if (a === b || a.at[1] > b.at[1] || near <= 0 || Math.abs(a.at[0] - b.at[0]) > a.half + b.half) continue;
      a.at[1] -= near / 2 + 0.5; b.at[1] += near / 2 + 0.5; quiet = false;
    }
    if (quiet) break;
  }
  return names;
}

// -- words and small change ----------------------------------------------------------------------

const row = (s, index) => Math.floor(index / s.width);
const name = (s, index) => s.height > 1 ? `row ${row(s, index)}, column ${index % s.width}` : `dimension ${index}`;
const place = (s, index) => s.height > 1 ? `${row(s, index)}, ${index % s.width}` : `${index}`;
const isForked = (s, k) => s.fork && k >= s.fork.at;

const brief = (x) => Math.abs(x) < 0.1 ? String(Number(x.toPrecision(2))) : short(x);
const amount = (s, x) => s.unit === "GeV" ? `${short(x)} GeV` : `${s.unit} ${short(x)}`;

function pairSentence(s, k) {
  const { index, value, p } = s.pairs;
  const after = isForked(s, k) ? ", after the fork" : "";
  return `Pair ${k + 1}: ${name(s, index[k])}, ${amount(s, value[k])}, chosen with ${percent(p[k])}${after}.`;
}
