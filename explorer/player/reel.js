// The time line of a player: one or two parts, playing along them, keys, buttons, the scrubber.
//
// Joined with a player's own file (explorer.player.source). That file makes p with `first` and
// `second`, the steps of each part (`first` 0 where there is one), and gives render(p), wait(p),
// how long a position stays in milliseconds, and pickByKey(p, target, event) for Shift and Enter.

const SPEEDS = [0.5, 1, 2, 4];
const RANGE = 1000;
const ICONS = { start: "M6 5v14M19 5 9 12l10 7z", back: "M15 5 6 12l9 7z", play: "M7 4.5 19 12 7 19.5z",
  pause: "M8 5v14M16 5v14", step: "M9 5l9 7-9 7z", end: "M18 5v14M5 5l10 7-10 7z" };
let active = null;                // the player that takes keys pressed outside every control

// The player of these scenes in this place: the one that stands there, or a new one.
function keep(parent, id, make) {
  const before = parent.sedPlayer;
  if (before && before.id === id && before.root.isConnected) return before;
  before?.destroy();
  return (parent.sedPlayer = make(before));
}

const leave = (p) => setTimeout(() => p.root.isConnected || p.destroy());

// Each end of the first part is a position of its own. `split`: where on the scrubber it ends, and
// where the second begins; so it keeps its width however many steps follow.
function measure(p, split) {
  p.base = p.first ? p.first + 1 : 0;
  p.end = p.base + p.second;
  p.split = p.first ? split : [0, 0];
}

function enter(p, parent, stop) {
  parent.append(p.root);
  const watch = new ResizeObserver(() => draw(p));
  watch.observe(p.root);
  p.destroy = () => { p.playing = false; stop.abort(); watch.disconnect(); p.root.remove(); };
  active = p;
}

// A reader who wants no motion sees the end at rest.
function begin(p, start, auto) {
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  p.pos = clamp(start ?? (auto && !still ? 0 : p.end), 0, p.end);
  render(p);
  if (auto && !still) play(p);
}

const inFirst = (p) => p.pos < p.base;

// -- moving --------------------------------------------------------------------------------------

function play(p) {
  if (p.pos >= p.end) p.pos = 0;
  p.playing = true;
  p.due = performance.now() + wait(p);
  render(p);
  requestAnimationFrame((now) => tick(p, now));
}

function tick(p, now) {
  if (!p.playing) return;
  if (!p.root.isConnected) { p.playing = false; return; }
  p.due = Math.max(p.due, now - 250);             // a hidden tab owes nothing
  const from = p.pos;
  while (now >= p.due && p.pos < p.end) { p.pos += 1; p.due += wait(p); }
  if (p.pos >= p.end) p.playing = false;
  if (p.pos !== from) render(p);
  if (p.playing) requestAnimationFrame((next) => tick(p, next));
  else if (p.mine) report(p);
}

function toggle(p) {
  p.mine = true;
  if (!p.playing) return play(p);
  pause(p);
}

function pause(p) {
  p.playing = false;
  render(p);
  report(p);
}

function go(p, position) {
  p.playing = false;
  p.pos = clamp(Math.round(position), 0, p.end);
  render(p);
  clearTimeout(p.telling);
  p.telling = setTimeout(() => report(p), 400);   // one report for a run of steps
}

function report(p) {
  clearTimeout(p.telling);
  if (p.playing || p.pos === p.told || p.signal.aborted) return;
  p.told = p.pos;
  p.setState?.("step", p.pos);
}

// Readers of the screen hear every step they take, and one word in three seconds while it plays.
function announce(p, text) {
  const now = performance.now();
  if (p.playing && now - (p.spoken ?? -1e9) < 3000) return;
  p.spoken = now;
  p.live.textContent = text;
}

function keys(p) {
  const moves = { ArrowLeft: () => go(p, p.pos - 1), ArrowRight: () => go(p, p.pos + 1),
    Home: () => go(p, 0), End: () => go(p, p.end), " ": () => toggle(p) };
  const press = (event) => {
    const target = event.composedPath()[0];
    const own = event.key === " " ? "button, select, [type=checkbox]" : "select";
    if (event.altKey || event.ctrlKey || event.metaKey || target.matches?.(own)) return;
    if (event.shiftKey || event.key === "Enter") return pickByKey(p, target, event);
    if (!moves[event.key]) return;
    event.preventDefault();
    p.mine = true;
    moves[event.key]();
  };
  p.root.addEventListener("keydown", press, { signal: p.signal });
  p.root.addEventListener("pointerdown", () => { active = p; }, { signal: p.signal });
  document.addEventListener("keydown", (event) => {
    if (event.target === document.body && active === p && visible(p.root)) press(event);
  }, { signal: p.signal });
}

// Shift and arrows: the next cell of a picture from `at`.
function beside(at, { width, height }, key) {
  const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[key];
  if (!by) return null;
  const x = clamp((at % width) + by[0], 0, width - 1), y = clamp(Math.floor(at / width) + by[1], 0, height - 1);
  return y * width + x;
}

// -- the buttons and the scrubber ----------------------------------------------------------------

function iconButton(word, path, act, more = "") {
  const b = el("button", { type: "button", class: `ctl ${more}`, "aria-label": word, title: word });
  b.append(svg("svg", { viewBox: "0 0 24 24", "aria-hidden": "true" }, svg("path", { d: path })));
  b.addEventListener("click", act);
  return b;
}

// `names`: of the two parts, above the line; `ends`: where the first begins, where they meet, the end.
function transport(p, names, ends) {
  const button = (word, path, act, more) => iconButton(word, path, () => { p.mine = true; act(); }, more);
  p.toggle = button("Play", ICONS.play, () => toggle(p), "main");
  const speed = el("select", { "aria-label": "Speed" }, ...SPEEDS.map((s) => el("option", { value: s }, `${s}×`)));
  speed.value = p.speed;
  speed.addEventListener("change", () => { p.speed = Number(speed.value); });
  return div("transport", div("buttons", button("To the start", ICONS.start, () => go(p, 0)),
    button("One step back", ICONS.back, () => go(p, p.pos - 1)), p.toggle,
    button("One step on", ICONS.step, () => go(p, p.pos + 1)),
    button("To the end", ICONS.end, () => go(p, p.end)), speed), scrubber(p, names, ends));
}

function scrubber(p, names, ends) {
  p.range = el("input", { type: "range", min: 0, max: RANGE, step: 1, "aria-label": "Time line" });
  p.range.addEventListener("input", () => {
    Object.assign(p, { playing: false, mine: true, pos: unspread(p, p.range.value / RANGE) });
    render(p);
  });
  p.range.addEventListener("change", () => report(p));
  p.done = [el("i", { class: "done" }), el("i", { class: "done" })];
  const [a, b] = p.split;
  const part = (kind, share, fill) => el("span", { class: `seg ${kind}`, style: `flex:${100 * share}` }, fill);
  const word = (text, at, kind = "") => el("span", { class: `word ${kind}`, style: `--at:${at}` }, text);
  const words = (...children) => el("div", { class: "words", "aria-hidden": "true" }, ...children);
  const above = [word(names[1], (1 + b) / 2, "par")], track = [part("par", 1 - b, p.done[1])];
  const below = [word(ends[1], (a + b) / 2), word(ends[2], 1)];
  if (p.first) {
    above.unshift(word(names[0], a / 2, "lat"));
    track.unshift(part("lat", a, p.done[0]));
    below.unshift(word(ends[0], 0));
  }
  return div("scrub", words(...above),
    div("rail", el("span", { class: "line", "aria-hidden": "true" }, ...track), p.range), words(...below));
}

function spread(p, pos = p.pos) {
  const [a, b] = p.split;
  return pos < p.base ? (pos / p.first) * a : b + ((pos - p.base) / Math.max(1, p.second)) * (1 - b);
}

function unspread(p, at) {
  const [a, b] = p.split;
  if (p.first && at < (a + b) / 2) return Math.round(Math.min(1, at / a) * p.first);
  return p.base + Math.round(Math.max(0, (at - b) / (1 - b)) * p.second);
}

function renderTransport(p, title) {
  p.range.value = Math.round(spread(p) * RANGE);
  p.range.setAttribute("aria-valuetext", title);
  const share = inFirst(p) ? [p.pos / p.first, 0] : [1, (p.pos - p.base) / Math.max(1, p.second)];
  p.done.forEach((fill, n) => { fill.style.width = `${100 * share[n]}%`; });
  const word = p.playing ? "Pause" : "Play";
  if (p.toggle.title === word) return;
  p.toggle.title = p.toggle.ariaLabel = word;
  p.toggle.querySelector("path").setAttribute("d", ICONS[word.toLowerCase()]);
}
